//! `docker://registry/name:tag`: a registry. Layers that lie uncompressed are compressed while they are sent; what they
//! became is remembered, so that pushing again asks only whether the registry has it.

use super::image::LayerBytes;
use super::route::{Route, near};
use super::{Error, Exported, Exporter, Form, StoredImage, Surroundings};
use crate::oci::{Compression, Descriptor, Digest, Reference};
use crate::registry::{Arrival, Document, LayerSource, PushEvent, PushSource, UploadMemory};
use crate::ui::{BlobState, Direction, Event, Sink};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// A repository and a tag.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The full name.
    pub to: Reference,
}

impl Exporter for Registry {
    fn name(&self) -> String {
        self.to.to_string()
    }

    fn export(&self, image: &StoredImage<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        Ok(Exported { manifest: self.push(image, form, around, true)? })
    }
}

impl Registry {
    /// Pushes an image: under the tag, or only under its digest.
    pub(super) fn push(
        &self,
        image: &StoredImage<'_>,
        form: &Form,
        around: Surroundings<'_>,
        tagged: bool,
    ) -> Result<Descriptor, Error> {
        let progress = Progress::start(around.sink, Direction::Push, &self.to.to_string());
        let (image, form) = &image.packed(form, Compression::Gzip, true, around)?;
        let source = Source { image, form: *form, to: &self.to, near: near(image.store(), &self.to), around };
        for layer in &image.manifest.layers {
            progress.blob(&layer.digest, layer.size, BlobState::Waiting);
        }
        let layer = |n: usize| image.manifest.layers.get(n);
        let news = |event: PushEvent| match event {
            PushEvent::LayerSent { layer: n, bytes } => {
                if let Some(l) = layer(n) {
                    progress.blob(&l.digest, l.size, BlobState::Moving(bytes));
                }
            }
            PushEvent::LayerDone { layer: n, arrival, .. } => {
                let state = match arrival {
                    Arrival::Uploaded => BlobState::Done,
                    Arrival::Existed => BlobState::Exists,
                    Arrival::Mounted(_) => BlobState::Mounted,
                };
                if let Some(l) = layer(n) {
                    progress.blob(&l.digest, l.size, state);
                }
            }
            PushEvent::ConfigDone { .. } => progress.config(&image.id()),
            PushEvent::LayerStarted { .. } | PushEvent::ManifestDone { .. } => {}
        };
        let pushed = match tagged {
            true => around.client.push(&self.to, &source, &news),
            false => around.client.push_untagged(&self.to, &source, &news),
        };
        let manifest = pushed.map_err(|e| match e {
            crate::registry::Error::Corrupt { .. } => {
                image.manifest.layers.iter().fold(Error::from(e), |e, layer| image.store().blame(&layer.digest, e))
            }
            e => e.into(),
        })?;
        progress.done(&manifest);
        Ok(manifest)
    }
}

/// The image as the registry client asks for it.
struct Source<'a> {
    image: &'a StoredImage<'a>,
    form: Form,
    to: &'a Reference,
    /// Layers that another repository of the same registry probably has.
    near: BTreeMap<Digest, String>,
    around: Surroundings<'a>,
}

impl Source<'_> {
    /// A repository of the same registry that has this blob.
    fn mount_from(&self, blob: &Digest) -> Option<String> {
        let near = self.around.elsewhere.near(blob, self.to);
        near.map(|r| r.repository.clone()).or_else(|| self.near.get(blob).cloned())
    }

    /// Opens a blob: in the store, or as a copy of it where only somebody else has it.
    fn open(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let store = self.image.store();
        match self.image.beside.get(&blob.digest) {
            Some(LayerBytes::File(file)) => return Ok(Box::new(file.open()?)),
            Some(LayerBytes::Again(recipe)) => {
                let file = recipe.again(&blob.digest, store, self.around).map_err(io::Error::other)?;
                return Ok(Box::new(file.open()?));
            }
            None => {}
        }
        match store.open_blob(&blob.digest) {
            Err(_) if self.around.elsewhere.has(&blob.digest) => {
                let dir = store.temp_dir("copy").map_err(io::Error::other)?;
                let path = dir.path().join("layer");
                let mut file = std::fs::File::create_new(&path)?;
                let fetched = self.around.elsewhere.fetch(self.around.client, blob, &mut file);
                fetched.map_err(io::Error::other)?;
                // The directory goes, the open file stays as long as somebody reads it.
                Ok(Box::new(std::fs::File::open(&path)?))
            }
            opened => Ok(Box::new(opened.map_err(io::Error::other)?)),
        }
    }

    fn route(&self) -> Route<'_> {
        Route { store: self.image.store(), form: self.form, to: self.to }
    }
}

impl UploadMemory for Source<'_> {
    fn upload(&self, layer: usize) -> Option<String> {
        self.route().upload(self.image.manifest.layers.get(layer)?)
    }

    fn remember_upload(&self, layer: usize, address: Option<&str>) {
        if let Some(layer) = self.image.manifest.layers.get(layer) {
            self.route().remember_upload(layer, address);
        }
    }
}

impl PushSource for Source<'_> {
    fn layers(&self) -> Vec<LayerSource<'_>> {
        let route = self.route();
        let source = |(layer, diff_id): (&Descriptor, crate::oci::DiffId)| {
            let media_type = self.image.layer_type(layer, route.outgoing(layer), self.form);
            let blob = layer.clone();
            let open = Box::new(move || self.open(&blob));
            route.source((layer, diff_id), media_type, |blob| self.mount_from(blob), open)
        };
        self.image.layers().map(source).collect()
    }

    fn config(&self) -> Document {
        Document {
            media_type: self.image.config_descriptor(self.form).media_type,
            bytes: self.image.config_bytes.clone(),
        }
    }

    fn finish(&self, layers: &[Descriptor], _: &Descriptor) -> io::Result<Document> {
        for (stored, sent) in self.image.layers().zip(layers) {
            self.route().remember(stored, sent);
        }
        let (descriptor, bytes) = self.image.manifest_for(layers.to_vec(), self.form).map_err(io::Error::other)?;
        Ok(Document { media_type: descriptor.media_type, bytes })
    }
}

/// Tells a sink how a transfer gets on.
pub(super) struct Progress<'a> {
    sink: &'a dyn Sink,
    direction: Direction,
    name: String,
}

impl<'a> Progress<'a> {
    /// Announces the transfer.
    pub fn start(sink: &'a dyn Sink, direction: Direction, name: &str) -> Self {
        sink.event(&Event::TransferStarted { direction, name });
        Progress { sink, direction, name: name.to_owned() }
    }

    /// News of one blob.
    pub fn blob(&self, digest: &Digest, size: u64, state: BlobState) {
        let digest = digest.to_string();
        self.sink.event(&Event::Blob { direction: self.direction, digest: &digest, size, state });
    }

    /// A layer is written, or was there.
    pub fn layer(&self, layer: &Descriptor, new: bool) {
        self.blob(&layer.digest, layer.size, if new { BlobState::Done } else { BlobState::Exists });
    }

    /// The config is written.
    pub fn config(&self, id: &Digest) {
        self.sink.event(&Event::TransferConfig { digest: &id.to_string() });
    }

    /// All is written.
    pub fn done(&self, manifest: &Descriptor) {
        self.sink.event(&Event::TransferDone {
            direction: self.direction,
            name: &self.name,
            digest: &manifest.digest.to_string(),
            size: manifest.size,
            changed: true,
        });
    }
}
