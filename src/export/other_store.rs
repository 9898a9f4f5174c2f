//! The stores of podman and Docker as destinations, by way of a directory and skopeo.

use super::registry::Progress;
use super::{Dir, Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::oci::Location;
use crate::source::skopeo;
use crate::ui::{Direction, Silent};

/// `containers-storage:` or `docker-daemon:`.
#[derive(Clone, Debug)]
pub struct OtherStore {
    /// The place.
    pub to: Location,
}

impl Exporter for OtherStore {
    fn name(&self) -> String {
        self.to.to_string()
    }

    fn export(&self, image: &StoredImage<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let progress = Progress::start(around.sink, Direction::Push, &self.name());
        let dir = image.store().temp_dir("skopeo")?;
        let silent = Surroundings { sink: &Silent, ..around };
        let exported = Dir { path: dir.path().to_owned() }.export(image, form, silent)?;
        skopeo::write(dir.path(), &self.to)?;
        for (layer, _) in image.layers() {
            progress.layer(layer, true);
        }
        progress.config(&image.id());
        progress.done(&exported.manifest);
        Ok(exported)
    }
}
