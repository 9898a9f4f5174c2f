//! Where images go: registries, archives, directories.
//!
//! An [`Exporter`] is one kind of place, in one file. What it is given is a [`StoredImage`]: manifest and config as the
//! store has them, and layers that can be had as they lie or in another compression. The image id does not change on the
//! way out, but for eStargz; the manifest's digest is that of the form that was written ([`Exported`]).
//!
//! A name becomes visible only when everything behind it is complete: files and index entries are written beside their
//! place and renamed. What is written depends on nothing but the image: no times, no machine, no thread count.

mod dir;
mod docker_archive;
mod early;
mod error;
mod image;
mod index;
mod oci_archive;
mod oci_dir;
mod other_store;
mod packed;
mod registry;
mod rootfs;
mod route;
mod said;
mod signing;
mod whole_file;

pub use dir::Dir;
pub use docker_archive::DockerArchive;
pub use early::{Early, Settle};
pub use error::Error;
pub use image::{Form, StoredImage};
pub use index::{IndexExporter, StoredIndex};
pub use oci_archive::OciArchive;
pub use oci_dir::OciDir;
pub use other_store::OtherStore;
pub use packed::{check_form, is_in_vain};
pub use registry::Registry;
pub use rootfs::{RootfsTo, write_rootfs};
pub use signing::{sign, verify};

use crate::cache::Elsewhere;
use crate::oci::{Descriptor, Location, Platform, Reference, media};
use crate::registry::Client;
use crate::store::Store;
use crate::ui::{Event, Sink};
use std::collections::BTreeSet;

/// What an export works with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Speaks to registries.
    pub client: &'a Client,
    /// Who is told about progress.
    pub sink: &'a dyn Sink,
    /// Where layers are that the store does not have.
    pub elsewhere: &'a Elsewhere,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The manifest, as it is at the destination.
    pub manifest: Descriptor,
}

/// One kind of place that an image can be written to.
pub trait Exporter {
    /// How messages call the place.
    fn name(&self) -> String;

    /// Writes the image.
    ///
    /// # Errors
    /// Where it cannot be read or written; then nothing has got a name.
    fn export(&self, image: &StoredImage<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error>;
}

/// The exporter of a location; `None` for the store itself. `name` is the full name of the image in the store, which an
/// archive takes over where the location says none.
pub fn exporter(to: &Location, name: Option<&Reference>) -> Option<Box<dyn Exporter>> {
    Some(match to {
        Location::Store(_) => return None,
        Location::Registry(reference) => Box::new(Registry { to: reference.clone() }),
        Location::OciDir { path, name } => Box::new(OciDir { path: path.clone(), name: name.clone() }),
        Location::OciArchive { path, name } => Box::new(OciArchive { path: path.clone(), name: name.clone() }),
        Location::DockerArchive { path, reference } => {
            let names = reference.iter().chain(name.filter(|_| reference.is_none())).cloned().collect();
            Box::new(DockerArchive { path: Some(path.clone()), names })
        }
        Location::Dir { path } => Box::new(Dir { path: path.clone() }),
        Location::Containers(_) | Location::DockerDaemon(_) => Box::new(OtherStore { to: to.clone() }),
    })
}

/// The exporter of an index to a location; `None` for the store itself.
///
/// # Errors
/// A place that holds images of one platform only.
pub fn index_exporter(to: &Location) -> Result<Option<Box<dyn IndexExporter>>, Error> {
    Ok(Some(match to {
        Location::Store(_) => return Ok(None),
        Location::Registry(reference) => Box::new(Registry { to: reference.clone() }),
        Location::OciDir { path, name } => Box::new(OciDir { path: path.clone(), name: name.clone() }),
        Location::OciArchive { path, name } => Box::new(OciArchive { path: path.clone(), name: name.clone() }),
        Location::DockerArchive { .. } | Location::Dir { .. } | Location::Containers(_) | Location::DockerDaemon(_) => {
            return Err(Error::OnePlatform(to.to_string()));
        }
    }))
}

/// Writes what a descriptor of the store names, an image or an index with all its images, to a location. Returns what is
/// there then; `None` for the store itself. `name` is as for [`exporter`].
///
/// # Errors
/// As [`Exporter::export`] and [`index_exporter`].
pub fn deliver(
    store: &Store,
    what: &Descriptor,
    to: &Location,
    name: Option<&Reference>,
    form: &Form,
    around: Surroundings<'_>,
) -> Result<Option<Descriptor>, Error> {
    check_form(to, form)?;
    if media::is_index(&what.media_type) {
        let exporter = index_exporter(to);
        if let Ok(None) = exporter {
            return Ok(None);
        }
        let index = StoredIndex::load(store, what)?;
        if let (Err(_), Some(image)) = (&exporter, index.only_image()) {
            let text = format!("`{to}` has no place for what is said about the image: attestations are left out");
            around.sink.event(&Event::Warning { text: &text });
            return deliver(store, &image.descriptor, to, name, form, around);
        }
        let Some(exporter) = exporter? else { return Ok(None) };
        warn_of_losses(index.without_place(form), around);
        let exported = exporter.export_index(&index, form, around);
        show_warnings(around);
        return Ok(Some(exported?.manifest));
    }
    let Some(exporter) = exporter(to, name) else { return Ok(None) };
    let image = StoredImage::load(store, what, &Platform::host())?;
    warn_of_losses(image.without_place(form), around);
    let exported = exporter.export(&image, form, around);
    show_warnings(around);
    Ok(Some(exported?.manifest))
}

/// Passes on what registries want users to know.
fn show_warnings(around: Surroundings<'_>) {
    around.client.warnings().iter().for_each(|text| around.sink.event(&Event::Warning { text }));
}

/// Says what the form that was asked for has no place for.
fn warn_of_losses(names: BTreeSet<String>, around: Surroundings<'_>) {
    if !names.is_empty() {
        let names = names.into_iter().collect::<Vec<_>>().join("`, `");
        let text = format!("Docker's format has no place for annotations, these are left out: `{names}`");
        around.sink.event(&Event::Warning { text: &text });
    }
}
