//! `rbuild sbom`: what software an image holds, as a document.

use super::registry_flags::{self, PolicyArgs, RegistryArgs};
use super::{Error, Global, bud, output, platform::PlatformArgs, store_limit::StoreLimit, values};
use crate::oci::ImageConfig;
use crate::sbom::{self, Format, Subject};
use crate::snapshot::{LayerRef, Snapshots};
use crate::source::image::{Image, Images, Pull};
use crate::source::signature_policy::SignaturePolicy;
use crate::store::Store;
use crate::sys::idmap::IdMap;
use crate::ui::{Buildah, Stdout, Terminal};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

/// List the packages of an image as an SBOM
///
/// The packages come from the image's files (dpkg, apk and rpm databases, what Python, JavaScript, Rust, Go, Ruby and
/// PHP leave behind); nothing of the image is run.
#[derive(Clone, Debug, clap::Args)]
pub struct SbomArgs {
    /// Kind of document: spdx, cyclonedx
    #[arg(short, long, value_name = "FORMAT", default_value = "spdx", value_parser = format)]
    pub format: Format,
    /// Write to this file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which image, where there are several.
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// When to ask the registry for the image: always, missing, newer, never
    #[arg(long, value_name = "POLICY", default_value = "missing")]
    pub pull: String,
    /// How registries are spoken to.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Which images may be used.
    #[command(flatten)]
    pub signatures: PolicyArgs,
    /// The image: name or id
    pub image: String,
}

/// A kind of document; the longer names are those of other tools.
pub fn format(text: &str) -> Result<Format, String> {
    match text {
        "spdx" | "spdx-json" => Ok(Format::Spdx),
        "cyclonedx" | "cyclonedx-json" => Ok(Format::CycloneDx),
        _ => Err("expected `spdx` or `cyclonedx`".to_owned()),
    }
}

/// Writes the document.
pub fn run(args: &SbomArgs, global: &Global) -> Result<(), Error> {
    let policy = match bud::pull_policy(&args.pull)? {
        crate::build::request::PullPolicy::Missing => Pull::Missing,
        crate::build::request::PullPolicy::Always => Pull::Always,
        crate::build::request::PullPolicy::Newer => Pull::Newer,
        crate::build::request::PullPolicy::Never => Pull::Never,
    };
    let platform = args.platform.platform()?;
    let epoch = epoch(&values::process_var)?;
    let limit = StoreLimit::of(global)?;
    let store = global.store()?;
    let client = registry_flags::client(&args.registry.lower()?, global)?;
    let sink = Buildah::new(Terminal::all_to_stderr(), true);
    let signatures = SignaturePolicy::find(args.signatures.signature_policy.as_deref())?;
    let images = Images::new(&store, &client, policy, &signatures, &sink);
    let image = images.resolve(&args.image, &platform)?;
    images.fetch(&image, &|_| ())?;
    let inventory = inventory(&store, &image)?;
    inventory.notes.iter().for_each(|text| output::note(&format!("warning: {text}")));
    let subject = Subject {
        name: args.image.clone(),
        id: image.manifest.config.digest,
        created: epoch.or_else(|| created(&image.config)).unwrap_or_default(),
    };
    match &args.output {
        None => {
            let mut out = BufWriter::new(Stdout);
            let written = sbom::write(args.format, &subject, &inventory, &mut out).and_then(|()| out.flush());
            match written {
                // The reader has enough.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
                other => other.map_err(Error::file("write", "standard output".as_ref()))?,
            }
        }
        Some(path) => {
            let file = File::create(path).map_err(Error::file("create", path))?;
            let mut out = BufWriter::new(file);
            sbom::write(args.format, &subject, &inventory, &mut out)
                .and_then(|()| out.flush())
                .map_err(Error::file("write", path))?;
        }
    }
    limit.apply(&store);
    Ok(())
}

/// What an image whose layers are here holds.
fn inventory(store: &Store, image: &Image) -> Result<sbom::Inventory, Error> {
    let snapshots = Snapshots::new(store, IdMap::current())?;
    let pairs = image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids);
    let layers: Vec<LayerRef> = pairs.map(|(l, d)| LayerRef { diff_id: *d, blob: l.digest }).collect();
    let dirs = snapshots.ensure::<crate::snapshot::Error>(&layers, |_| Ok(()))?;
    Ok(sbom::inventory(&snapshots.view(&dirs)?)?)
}

/// `SOURCE_DATE_EPOCH`, where it is set.
fn epoch(var: &values::Var<'_>) -> Result<Option<i64>, Error> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let text = var(NAME).filter(|v| !v.is_empty());
    text.map(|v| values::seconds(&v).map_err(|e| Error::usage(format!("`{NAME}`: {e}")))).transpose()
}

/// When an image says that it was made.
fn created(config: &ImageConfig) -> Option<i64> {
    let time: jiff::Timestamp = config.created.as_deref()?.parse().ok()?;
    Some(time.as_second())
}
