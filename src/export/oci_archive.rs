//! `oci-archive:FILE[:name]`: a tar of an OCI image layout. Documents come first, so that a reader that streams knows
//! the layers before it meets them.

use super::image::LayerFile;
use super::oci_dir::{LAYOUT, entry};
use super::registry::Progress;
use super::whole_file::WholeFile;
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::archive::tarfile::{Entry, TarWriter};
use crate::oci::{Compression, Descriptor, Digest, Index};
use crate::registry::Document;
use crate::ui::Direction;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file that becomes an archive with one image.
#[derive(Clone, Debug)]
pub struct OciArchive {
    /// The file.
    pub path: PathBuf,
    /// Value of the annotation `org.opencontainers.image.ref.name`.
    pub name: Option<String>,
}

impl Exporter for OciArchive {
    fn name(&self) -> String {
        format!("oci-archive:{}", self.path.display())
    }

    fn export(&self, image: &StoredImage<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        write_archive(&self.path, self.name.as_deref(), &[Ready::of(image, form, around)?], None, around)
    }
}

/// An image that is ready to be written: its layers are there in the form that was asked for.
pub(super) struct Ready<'a> {
    image: StoredImage<'a>,
    layers: Vec<LayerFile>,
    /// Its manifest.
    pub manifest: Descriptor,
    bytes: Vec<u8>,
}

impl<'a> Ready<'a> {
    /// Compresses what has to be.
    pub fn of(image: &StoredImage<'a>, form: &Form, around: Surroundings<'_>) -> Result<Ready<'a>, Error> {
        let (image, form) = image.packed(form, Compression::None, false, around)?;
        let image = image.into_owned();
        let layers = image
            .layers()
            .map(|(layer, diff_id)| image.layer_file(layer, diff_id, form))
            .collect::<Result<Vec<_>, _>>()?;
        let (manifest, bytes) = image.manifest_for(layers.iter().map(|f| f.descriptor.clone()).collect(), form)?;
        Ok(Ready { image, layers, manifest, bytes })
    }
}

/// Writes images into an archive, and the index of them, if there is one. `name` is that of the index, or of the only image.
pub(super) fn write_archive(
    path: &Path,
    name: Option<&str>,
    images: &[Ready<'_>],
    index: Option<Document>,
    around: Surroundings<'_>,
) -> Result<Exported, Error> {
    let place = format!("oci-archive:{}", path.display());
    let progress = Progress::start(around.sink, Direction::Push, &place);
    let mut documents: BTreeMap<Digest, &[u8]> = BTreeMap::new();
    for ready in images {
        documents.insert(ready.manifest.digest, &ready.bytes);
        documents.insert(ready.image.id(), &ready.image.config_bytes);
    }
    let named = match (&index, images.first()) {
        (Some(index), _) => {
            let descriptor = index.descriptor();
            documents.insert(descriptor.digest, &index.bytes);
            descriptor
        }
        (None, Some(ready)) => ready.manifest.clone(),
        (None, None) => return Err(Error::Form("there is no image to write")),
    };
    let mut index = Index::empty();
    index.manifests.push(entry(&named, name));
    let index_bytes = serde_json::to_vec(&index).map_err(Error::json("cannot write `index.json`"))?;

    let failed = || Error::file("write", path);
    let mut tar = TarWriter::new(WholeFile::create(path)?);
    tar.append_bytes(b"oci-layout", LAYOUT).map_err(failed())?;
    tar.append_bytes(b"index.json", &index_bytes).map_err(failed())?;
    tar.append(&Entry::dir(b"blobs")).map_err(failed())?;
    tar.append(&Entry::dir(b"blobs/sha256")).map_err(failed())?;
    let blob = |hex: String| format!("blobs/sha256/{hex}").into_bytes();
    let mut written = BTreeSet::new();
    for digest in order(&named, images) {
        if let Some(bytes) = documents.get(&digest).filter(|_| written.insert(digest)) {
            tar.append_bytes(&blob(digest.hex()), bytes).map_err(failed())?;
        }
    }
    for Ready { image, layers, .. } in images {
        for (file, (layer, _)) in layers.iter().zip(image.layers()) {
            let digest = file.descriptor.digest;
            let new = written.insert(digest);
            if new {
                let path = blob(digest.hex());
                let content = file.open(image.store())?;
                tar.append_file(&Entry::file(&path, file.descriptor.size), content).map_err(failed())?;
            }
            progress.layer(layer, new);
        }
        progress.config(&image.id());
    }
    tar.finish().map_err(failed())?.publish()?;
    progress.done(&named);
    Ok(Exported { manifest: named })
}

/// The documents in the order in which a reader needs them.
fn order(named: &Descriptor, images: &[Ready<'_>]) -> Vec<Digest> {
    let each = images.iter().flat_map(|ready| [ready.manifest.digest, ready.image.id()]);
    std::iter::once(named.digest).chain(each).collect()
}
