//! Images that lie in files: archives of `docker save`, OCI image layouts as tar or as directory, `dir:` directories,
//! and root file systems as tars.
//!
//! All of it is untrusted. An archive is read once from front to back, so that a pipe serves as well as a file; every
//! file in it becomes a blob of the store under the digest of what was really read, and the documents then say which of
//! these blobs are which. A digest that a document claims is looked up among the digests that were read, so nothing can
//! pass under a wrong one. Names of files in an archive are keys of a map and never paths. Blobs that no image of the
//! archive refers to are garbage, and the next collection drops them.

mod docker;
mod error;
mod files;
mod layout;
mod rootfs;

pub use error::Error;
pub use rootfs::{RootFsOptions, import};

use super::signature_policy::SignaturePolicy;
use super::skopeo;
use crate::archive::compress;
use crate::oci::{
    Compression, Descriptor, DiffId, Digest, Hashing, ImageConfig, Location, Manifest, Platform, Reference, media,
};
use crate::store::Store;
use files::{Files, Kept};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest `manifest.json` or `index.json`, in bytes.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Most layers of one image: what the kernel can stack, and far beyond what people build.
const MAX_LAYERS: usize = 500;

/// An image that was brought into the store. It has no name yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its manifest.
    pub manifest: Descriptor,
    /// The image id: the digest of its config.
    pub id: Digest,
    /// The names that the archive gives to it, complete.
    pub names: Vec<Reference>,
}

/// Brings the images of an archive into the store: a docker-archive or an oci-archive, compressed or not. `path` is that of the
/// archive, where it has one.
///
/// # Errors
/// Where the archive cannot be read, is none, holds what contradicts itself, or is not to be used.
pub fn load(
    store: &Store,
    input: impl Read + Send,
    path: &Path,
    platform: &Platform,
    policy: &SignaturePolicy,
) -> Result<Vec<Loaded>, Error> {
    let input = compress::Decoder::new(io::BufReader::with_capacity(1 << 18, input)).map_err(Error::Read)?;
    let files = Files::of_tar(store, input)?;
    let path = path.to_owned();
    if files.get("manifest.json").is_some() {
        policy.judge_local(&Location::DockerArchive { path, reference: None })?;
        return docker::images(store, &files);
    }
    policy.judge_local(&Location::OciArchive { path, name: None })?;
    layout::images(store, &files, platform, None)
}

/// Brings the image that a location names into the store. Not for the store itself and registries.
///
/// # Errors
/// As [`load`]; where the location names an image that is not there, or does not say which of several.
pub fn open(
    store: &Store,
    location: &Location,
    platform: &Platform,
    policy: &SignaturePolicy,
) -> Result<Vec<Loaded>, Error> {
    policy.judge_local(location)?;
    let file = |path: &Path| File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source });
    match location {
        Location::OciDir { path, name } => {
            let files = Files::of_layout(store, path)?;
            layout::images(store, &files, platform, name.as_deref())
        }
        Location::Dir { path } => {
            let files = Files::of_dir(store, path)?;
            layout::dir(store, &files).map(|one| vec![one])
        }
        Location::OciArchive { path, name } => {
            let input = compress::Decoder::new(file(path)?).map_err(Error::Read)?;
            let files = Files::of_tar(store, input)?;
            layout::images(store, &files, platform, name.as_deref())
        }
        Location::DockerArchive { path, reference } => {
            let images = load(store, file(path)?, path, platform, policy)?;
            let wanted = |l: &Loaded| reference.as_ref().is_none_or(|r| l.names.contains(r));
            let found: Vec<Loaded> = images.into_iter().filter(wanted).collect();
            if found.is_empty() { Err(Error::NoImage(location.to_string())) } else { Ok(found) }
        }
        Location::Containers(name) | Location::DockerDaemon(name) => {
            let dir = store.temp_dir("skopeo")?;
            skopeo::read(location, dir.path())?;
            let mut loaded = layout::dir(store, &Files::of_dir(store, dir.path())?)?;
            // `[driver@root]name@id`: only what is a name goes on being one.
            let name = name.rsplit_once(']').map_or(name.as_str(), |(_, name)| name);
            let by_id = name.starts_with('@') || (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()));
            let named = name.parse::<Reference>().ok().filter(|r| !by_id && r.digest.is_none());
            loaded.names = named.map(|r| r.docker_normalized().with_default_tag()).into_iter().collect();
            Ok(vec![loaded])
        }
        Location::Store(_) | Location::Registry(_) => Err(Error::NoImage(location.to_string())),
    }
}

/// Brings one image of an image layout directory into the store: the one with this digest, else the one called `tag`, else
/// the only one.
///
/// # Errors
/// As [`open`].
pub fn open_layout(
    store: &Store,
    path: &Path,
    tag: Option<&str>,
    digest: Option<&Digest>,
    platform: &Platform,
    policy: &SignaturePolicy,
) -> Result<Loaded, Error> {
    policy.judge_local(&Location::OciDir { path: path.to_owned(), name: None })?;
    layout::one(store, &Files::of_layout(store, path)?, platform, tag, digest)
}

/// Reads a document and parses it.
fn document<T: serde::de::DeserializeOwned>(store: &Store, file: &Kept, what: &str) -> Result<T, Error> {
    let bytes = store.read_blob(&file.digest, MAX_DOCUMENT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { what: what.to_owned(), source })
}

/// Checks that layers and config belong together, and writes down a manifest for them where none is given.
fn check_layers(store: &Store, config: &ImageConfig, layers: &[Descriptor]) -> Result<(), Error> {
    let diff_ids = &config.rootfs.diff_ids;
    if layers.len() != diff_ids.len() || layers.len() > MAX_LAYERS {
        return Err(Error::Layers { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        if layer.digest == diff_id.0 {
            continue;
        }
        let failed = |source| Error::Layer { layer: layer.digest, source };
        let input = compress::Decoder::new(store.open_blob(&layer.digest)?).map_err(failed)?;
        let mut hash = Hashing::new(input);
        io::copy(&mut hash, &mut io::sink()).map_err(failed)?;
        let (_, found, _) = hash.finish();
        if found != diff_id.0 {
            return Err(Error::DiffId { expected: *diff_id, found: DiffId(found) });
        }
    }
    Ok(())
}

/// Writes config and manifest of an image whose layers are in the store.
fn publish(store: &Store, config: Descriptor, layers: Vec<Descriptor>, docker: bool) -> Result<Descriptor, Error> {
    let media_type = if docker { media::DOCKER_MANIFEST } else { media::OCI_MANIFEST };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type.into(),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: Default::default(),
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::Json { what: "the manifest".into(), source })?;
    store.put_blob(&bytes)?;
    Ok(Descriptor::of(media_type, &bytes))
}

/// How a file is compressed, by its first bytes.
fn compression(store: &Store, file: &Kept) -> Result<Compression, Error> {
    let mut head = vec![];
    store.open_blob(&file.digest)?.take(6).read_to_end(&mut head).map_err(Error::Read)?;
    match compress::Format::sniff(&head) {
        compress::Format::Plain => Ok(Compression::None),
        compress::Format::Gzip => Ok(Compression::Gzip),
        compress::Format::Zstd => Ok(Compression::Zstd),
        other => Err(Error::Compression { layer: file.digest, format: format!("{other:?}").to_lowercase() }),
    }
}

#[cfg(test)]
mod tests;
