//! `docker-archive:FILE[:reference]`: what `docker save` writes. Layers are plain tars. The archive is an OCI image
//! layout at the same time, as Docker has made it since its version 25: `manifest.json` is for readers of the old form,
//! `index.json` for those of the new one.

use super::image::LayerFile;
use super::oci_dir::{LAYOUT, entry};
use super::registry::Progress;
use super::whole_file::WholeFile;
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::archive::tarfile::{Entry, TarWriter};
use crate::oci::{Compression, Descriptor, Digest, Index, ManifestFormat, Reference};
use crate::ui::{Direction, Stdout};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file, or standard output, that becomes an archive.
#[derive(Clone, Debug)]
pub struct DockerArchive {
    /// The file; `None`: standard output.
    pub path: Option<PathBuf>,
    /// Full names of the image in the archive.
    pub names: Vec<Reference>,
}

/// An entry of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Exporter for DockerArchive {
    fn name(&self) -> String {
        format!("docker-archive:{}", self.path.as_deref().unwrap_or(Path::new("-")).display())
    }

    fn export(&self, image: &StoredImage<'_>, _: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let progress = Progress::start(around.sink, Direction::Push, &self.name());
        let manifests = write_all(self.path.as_deref(), &[(image, self.names.clone())], Some(&progress))?;
        let manifest = manifests.into_iter().next().unwrap_or_else(|| image.descriptor.clone());
        progress.done(&manifest);
        Ok(Exported { manifest })
    }
}

impl DockerArchive {
    /// Writes several images, each under its names, into one archive; layers that they share are written once.
    ///
    /// # Errors
    /// Where an image cannot be read or the archive cannot be written.
    pub fn write(path: Option<&Path>, images: &[(&StoredImage<'_>, Vec<Reference>)]) -> Result<(), Error> {
        write_all(path, images, None).map(drop)
    }
}

fn write_all(
    path: Option<&Path>,
    images: &[(&StoredImage<'_>, Vec<Reference>)],
    progress: Option<&Progress<'_>>,
) -> Result<Vec<Descriptor>, Error> {
    match path {
        Some(path) => {
            let mut file = WholeFile::create(path)?;
            let manifests = archive(&mut file, path, images, progress)?;
            file.publish()?;
            Ok(manifests)
        }
        None => {
            archive(&mut io::BufWriter::with_capacity(1 << 18, Stdout), Path::new("standard output"), images, progress)
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn archive(
    out: &mut dyn Write,
    path: &Path,
    images: &[(&StoredImage<'_>, Vec<Reference>)],
    progress: Option<&Progress<'_>>,
) -> Result<Vec<Descriptor>, Error> {
    let failed = || Error::file("write", path);
    let form = Form { format: Some(ManifestFormat::Oci), compression: Some(Compression::None), ..Form::default() };
    let (mut tar, mut written) = (TarWriter::new(out), BTreeSet::new());
    let (mut items, mut index, mut manifests) = (vec![], Index::empty(), vec![]);
    tar.append(&Entry::dir(b"blobs")).map_err(failed())?;
    tar.append(&Entry::dir(b"blobs/sha256")).map_err(failed())?;
    for (image, names) in images {
        let mut layers: Vec<Descriptor> = vec![];
        for (layer, diff_id) in image.layers() {
            let file: LayerFile = image.plain_layer(layer, diff_id)?;
            let new = written.insert(file.descriptor.digest);
            if new {
                let name = blob_path(&file.descriptor.digest);
                let content = file.open(image.store())?;
                tar.append_file(&Entry::file(name.as_bytes(), file.descriptor.size), content).map_err(failed())?;
            }
            if let Some(progress) = progress {
                progress.layer(layer, new);
            }
            layers.push(file.descriptor);
        }
        items.push(Item {
            config: blob_path(&image.id()),
            repo_tags: names.iter().map(Reference::to_string).collect(),
            layers: layers.iter().map(|l| blob_path(&l.digest)).collect(),
        });
        let (manifest, bytes) = image.manifest_for(layers, form)?;
        for (digest, bytes) in [(image.id(), &image.config_bytes), (manifest.digest, &bytes)] {
            if written.insert(digest) {
                tar.append_bytes(blob_path(&digest).as_bytes(), bytes).map_err(failed())?;
            }
        }
        if let Some(progress) = progress {
            progress.config(&image.id());
        }
        if names.is_empty() {
            index.manifests.push(entry(&manifest, None));
        }
        for name in names {
            let mut named = entry(&manifest, name.tag.as_deref());
            named.annotations.insert("io.containerd.image.name".into(), name.to_string());
            index.manifests.push(named);
        }
        manifests.push(manifest);
    }
    let json = |what| Error::json(format!("cannot write `{what}`"));
    let index = serde_json::to_vec(&index).map_err(json("index.json"))?;
    let items = serde_json::to_vec(&items).map_err(json("manifest.json"))?;
    tar.append_bytes(b"index.json", &index).map_err(failed())?;
    tar.append_bytes(b"manifest.json", &items).map_err(failed())?;
    tar.append_bytes(b"oci-layout", LAYOUT).map_err(failed())?;
    tar.finish().map_err(failed())?.flush().map_err(failed())?;
    Ok(manifests)
}
