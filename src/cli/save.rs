//! `rbuild save`: images of the store into an archive.

use super::{Error, Global};
use crate::export::{self, DockerArchive, Form, StoredImage};
use crate::oci::{Location, Platform, Reference};
use crate::registry;
use crate::store::Store;
use crate::ui::Silent;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Write images into an archive
#[derive(Clone, Debug, clap::Args)]
pub struct SaveArgs {
    /// The images: names or ids
    #[arg(required = true)]
    pub images: Vec<String>,
    /// The archive; left out, standard output
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Form of the archive: docker-archive, oci-archive, oci-dir
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    pub format: String,
    /// Accepted for podman's sake
    #[arg(short, long)]
    pub quiet: bool,
}

/// Saves images.
pub fn run(args: &SaveArgs, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    let path = args.output.as_deref().filter(|p| *p != Path::new("-"));
    match args.format.as_str() {
        "docker-archive" => docker(&store, &args.images, path),
        "oci-archive" | "oci-dir" => {
            let [image] = args.images.as_slice() else {
                return Err(Error::usage_hint(
                    format!("`{}` holds one image", args.format),
                    "save each image on its own, or use `docker-archive`",
                ));
            };
            let path = path.ok_or_else(|| Error::usage("`--format` other than docker-archive needs `--output`"))?;
            let found = store.find(image)?;
            let by_id = store.image_id(&found.descriptor)?.hex().starts_with(image.trim_start_matches("sha256:"));
            let name = found.name.filter(|_| !by_id);
            let path = path.to_owned();
            let to = match args.format.as_str() {
                "oci-dir" => Location::OciDir { path, name },
                _ => Location::OciArchive { path, name },
            };
            let client = registry::Client::new(registry::Options::default())?;
            let around = export::Surroundings { client: &client, sink: &Silent, elsewhere: &Default::default() };
            export::deliver(&store, &found.descriptor, &to, None, &Form::default(), around)?;
            Ok(())
        }
        other => Err(Error::usage_hint(
            format!("unknown format `{other}`"),
            "use `docker-archive`, `oci-archive` or `oci-dir`",
        )),
    }
}

/// Saves images in Docker's form; without a path, to standard output.
pub fn docker(store: &Store, images: &[String], path: Option<&Path>) -> Result<(), Error> {
    if path.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::usage_hint(
            "refusing to write an archive to a terminal",
            "pass `--output FILE`, or redirect",
        ));
    }
    let found = images.iter().map(|i| find(store, i)).collect::<Result<Vec<_>, _>>()?;
    let list: Vec<(&StoredImage<'_>, Vec<Reference>)> = found.iter().map(|(i, n)| (i, n.clone())).collect();
    Ok(DockerArchive::write(path, &list)?)
}

/// The image, and the name it was asked for by; none where that was an id.
fn find<'a>(store: &'a Store, text: &str) -> Result<(StoredImage<'a>, Vec<Reference>), Error> {
    let found = store.find(text)?;
    let image = StoredImage::load(store, &found.descriptor, &Platform::host())?;
    let by_id = image.id().hex().starts_with(text.strip_prefix("sha256:").unwrap_or(text));
    let name = found.name.filter(|_| !by_id).and_then(|n| n.parse().ok());
    Ok((image, name.into_iter().collect()))
}
