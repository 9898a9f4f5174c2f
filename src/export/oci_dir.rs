//! `oci:DIR[:name]`: an OCI image layout in a directory. Other images that it holds stay; an entry of the same name is
//! replaced.
//!
//! Format: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use super::whole_file::{self, WholeFile};
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings, registry::Progress};
use crate::oci::{Compression, Descriptor, Digest, Index};
use crate::registry::Document;
use crate::ui::Direction;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The annotation of an index entry that holds the image's name.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The file `oci-layout`.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Longest `index.json` that is read, in bytes.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// A directory with an image layout.
#[derive(Clone, Debug)]
pub struct OciDir {
    /// The directory; made where it does not exist.
    pub path: PathBuf,
    /// Value of the annotation `org.opencontainers.image.ref.name`.
    pub name: Option<String>,
}

impl Exporter for OciDir {
    fn name(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    fn export(&self, image: &StoredImage<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let manifest = self.put_image(image, form, around)?;
        self.add_to_index(&manifest)?;
        Ok(Exported { manifest })
    }
}

impl OciDir {
    /// Writes an image that has no name yet.
    pub(super) fn put_image(
        &self,
        image: &StoredImage<'_>,
        form: &Form,
        around: Surroundings<'_>,
    ) -> Result<Descriptor, Error> {
        let progress = Progress::start(around.sink, Direction::Push, &Exporter::name(self));
        let (image, form) = &image.packed(form, Compression::None, false, around)?;
        let blobs = self.path.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(Error::file("create", &blobs))?;
        let mut layers = vec![];
        for (layer, diff_id) in image.layers() {
            let file = image.layer_file(layer, diff_id, *form)?;
            let new = put(&blobs, &file.descriptor.digest, file.descriptor.size, || file.open(image.store()))?;
            progress.layer(layer, new);
            layers.push(file.descriptor);
        }
        let (manifest, manifest_bytes) = image.manifest_for(layers, *form)?;
        progress.config(&image.id());
        put(&blobs, &image.id(), image.config_bytes.len() as u64, || Ok(image.config_bytes.as_slice()))?;
        put(&blobs, &manifest.digest, manifest.size, || Ok(manifest_bytes.as_slice()))?;
        whole_file::write(&self.path.join("oci-layout"), LAYOUT)?;
        progress.done(&manifest);
        Ok(manifest)
    }

    /// Writes an index and names it.
    pub(super) fn put_named(&self, index: &Document) -> Result<Descriptor, Error> {
        let descriptor = index.descriptor();
        put(&self.path.join("blobs/sha256"), &descriptor.digest, descriptor.size, || Ok(index.bytes.as_slice()))?;
        self.add_to_index(&descriptor)?;
        Ok(descriptor)
    }

    fn add_to_index(&self, manifest: &Descriptor) -> Result<(), Error> {
        let path = self.path.join("index.json");
        let mut index = read_index(&path)?;
        let same_name = |d: &Descriptor| d.annotations.get(REF_NAME) == self.name.as_ref();
        index.manifests.retain(|d| !same_name(d) || (self.name.is_none() && d.digest != manifest.digest));
        index.manifests.push(entry(manifest, self.name.as_deref()));
        let bytes = serde_json::to_vec(&index).map_err(Error::json("cannot write `index.json`"))?;
        whole_file::write(&path, &bytes)
    }
}

/// An index entry with a name.
pub(super) fn entry(manifest: &Descriptor, name: Option<&str>) -> Descriptor {
    let mut entry = Descriptor::new(&manifest.media_type, manifest.digest, manifest.size);
    entry.annotations.extend(name.map(|n| (REF_NAME.to_owned(), n.to_owned())));
    entry
}

fn read_index(path: &Path) -> Result<Index, Error> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::empty()),
        Err(e) => return Err(Error::file("open", path)(e)),
    };
    let mut bytes = vec![];
    file.take(MAX_INDEX_BYTES).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    serde_json::from_slice(&bytes).map_err(Error::json(format!("cannot parse `{}`", path.display())))
}

/// Writes a blob where it is not there yet. Returns whether it was new.
fn put<R: Read>(
    blobs: &Path,
    digest: &Digest,
    size: u64,
    open: impl FnOnce() -> Result<R, Error>,
) -> Result<bool, Error> {
    let path = blobs.join(digest.hex());
    if fs::metadata(&path).is_ok_and(|m| m.len() == size) {
        return Ok(false);
    }
    let mut file = WholeFile::create(&path)?;
    io::copy(&mut open()?, &mut file).map_err(Error::file("write", &path))?;
    file.publish()?;
    Ok(true)
}
