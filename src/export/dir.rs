//! `dir:DIR`: `version`, `manifest.json`, and config and layers under their bare digests.

use super::registry::Progress;
use super::whole_file::{self, WholeFile};
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::oci::Compression;
use crate::ui::Direction;
use std::path::PathBuf;
use std::{fs, io};

/// A directory of loose blobs.
#[derive(Clone, Debug)]
pub struct Dir {
    /// The directory; made where it does not exist.
    pub path: PathBuf,
}

impl Exporter for Dir {
    fn name(&self) -> String {
        format!("dir:{}", self.path.display())
    }

    fn export(&self, image: &StoredImage<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let progress = Progress::start(around.sink, Direction::Push, &self.name());
        let (image, form) = &image.packed(form, Compression::None, false, around)?;
        fs::create_dir_all(&self.path).map_err(Error::file("create", &self.path))?;
        whole_file::write(&self.path.join("version"), b"Directory Transport Version: 1.1\n")?;
        let mut layers = vec![];
        for (layer, diff_id) in image.layers() {
            let source = image.layer_file(layer, diff_id, *form)?;
            let path = self.path.join(source.descriptor.digest.hex());
            let mut file = WholeFile::create(&path)?;
            io::copy(&mut source.open(image.store())?, &mut file).map_err(Error::file("write", &path))?;
            file.publish()?;
            progress.layer(layer, true);
            layers.push(source.descriptor);
        }
        let (manifest, bytes) = image.manifest_for(layers, *form)?;
        progress.config(&image.id());
        whole_file::write(&self.path.join(image.id().hex()), &image.config_bytes)?;
        whole_file::write(&self.path.join("manifest.json"), &bytes)?;
        progress.done(&manifest);
        Ok(Exported { manifest })
    }
}
