//! `oci-archive:FILE[:name]`: a tar of an OCI image layout. Documents come first, so that a reader that streams knows
//! the layers before it meets them.

use super::oci_dir::{LAYOUT, empty_index, entry};
use super::registry::Progress;
use super::whole_file::WholeFile;
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::archive::tarfile::{Entry, TarWriter};
use crate::oci::{Descriptor, Digest};
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
        write_archive(&self.path, self.name.as_deref(), &[image], form, around, &|_| Ok(None))
    }
}

/// What a writer makes of the manifests of the images that it has written: the index of them.
pub(super) type Finish<'a> = dyn Fn(&[Descriptor]) -> Result<Option<Document>, Error> + 'a;

/// Writes images into an archive. `name` is that of the index that `finish` gives, or of the only image.
pub(super) fn write_archive(
    path: &Path,
    name: Option<&str>,
    images: &[&StoredImage<'_>],
    form: &Form,
    around: Surroundings<'_>,
    finish: &Finish<'_>,
) -> Result<Exported, Error> {
    let place = format!("oci-archive:{}", path.display());
    let progress = Progress::start(around.sink, Direction::Push, &place);
    let (mut manifests, mut documents, mut layers) = (vec![], BTreeMap::new(), vec![]);
    for image in images {
        let files = image
            .layers()
            .map(|(layer, diff_id)| image.layer_file(layer, diff_id, *form))
            .collect::<Result<Vec<_>, _>>()?;
        let (manifest, bytes) = image.manifest_for(files.iter().map(|f| f.descriptor.clone()).collect(), *form)?;
        documents.insert(manifest.digest, bytes);
        documents.insert(image.id(), image.config_bytes.clone());
        manifests.push(manifest);
        layers.push((image, files));
    }
    let named = match (finish(&manifests)?, manifests.first()) {
        (Some(index), _) => {
            let descriptor = index.descriptor();
            documents.insert(descriptor.digest, index.bytes);
            descriptor
        }
        (None, Some(manifest)) => manifest.clone(),
        (None, None) => return Err(Error::Form("there is no image to write")),
    };
    let mut index = empty_index();
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
    for digest in order(&named, &manifests, images) {
        if let Some(bytes) = documents.get(&digest).filter(|_| written.insert(digest)) {
            tar.append_bytes(&blob(digest.hex()), bytes).map_err(failed())?;
        }
    }
    for (image, files) in &layers {
        for (file, (layer, _)) in files.iter().zip(image.layers()) {
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
fn order(named: &Descriptor, manifests: &[Descriptor], images: &[&StoredImage<'_>]) -> Vec<Digest> {
    let each = manifests.iter().zip(images).flat_map(|(m, image)| [m.digest, image.id()]);
    std::iter::once(named.digest).chain(each).collect()
}
