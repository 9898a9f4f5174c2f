//! `oci-archive:FILE[:name]`: a tar of an OCI image layout. Documents come first, so that a reader that streams knows
//! the layers before it meets them.

use super::oci_dir::{LAYOUT, empty_index, entry};
use super::registry::Progress;
use super::whole_file::WholeFile;
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::archive::tarfile::{Entry, TarWriter};
use crate::ui::Direction;
use std::collections::BTreeSet;
use std::path::PathBuf;

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
        let progress = Progress::start(around.sink, Direction::Push, &self.name());
        let files = image
            .layers()
            .map(|(layer, diff_id)| image.layer_file(layer, diff_id, *form))
            .collect::<Result<Vec<_>, _>>()?;
        let layers = files.iter().map(|f| f.descriptor.clone()).collect();
        let (manifest, manifest_bytes) = image.manifest_for(layers, *form)?;
        let mut index = empty_index();
        index.manifests.push(entry(&manifest, self.name.as_deref()));
        let index_bytes = serde_json::to_vec(&index).map_err(Error::json("cannot write `index.json`"))?;

        let failed = || Error::file("write", &self.path);
        let mut tar = TarWriter::new(WholeFile::create(&self.path)?);
        tar.append_bytes(b"oci-layout", LAYOUT).map_err(failed())?;
        tar.append_bytes(b"index.json", &index_bytes).map_err(failed())?;
        tar.append(&Entry::dir(b"blobs")).map_err(failed())?;
        tar.append(&Entry::dir(b"blobs/sha256")).map_err(failed())?;
        let blob = |hex: String| format!("blobs/sha256/{hex}").into_bytes();
        tar.append_bytes(&blob(manifest.digest.hex()), &manifest_bytes).map_err(failed())?;
        tar.append_bytes(&blob(image.id().hex()), &image.config_bytes).map_err(failed())?;
        let mut written = BTreeSet::new();
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
        tar.finish().map_err(failed())?.publish()?;
        progress.done(&manifest);
        Ok(Exported { manifest })
    }
}
