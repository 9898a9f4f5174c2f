//! The way of one layer to a repository, whether its image goes there with it or comes later: in which form it is sent, what
//! it is known to become, and under which name its upload is remembered.

use super::image::compress_into;
use super::{Form, StoredImage};
use crate::oci::{Compression, Descriptor, DiffId, Digest, Reference};
use crate::registry::{LayerSource, Open};
use crate::store::{Store, Turn};
use std::collections::BTreeMap;
use std::io;

/// The way of layers to one repository.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub store: &'a Store,
    pub form: Form,
    pub to: &'a Reference,
}

impl<'a> Route<'a> {
    /// How a layer is compressed when it arrives.
    pub fn outgoing(&self, layer: &Descriptor) -> Compression {
        StoredImage::outgoing(layer, self.form.compression.unwrap_or(Compression::Gzip))
    }

    /// Whether a layer is compressed on the way.
    pub fn compresses(&self, layer: &Descriptor) -> bool {
        Compression::of_layer(&layer.media_type).is_some_and(|have| have != self.outgoing(layer))
    }

    /// Waits until nobody else compresses this layer, and keeps others from it; `None` where `stop` ended the wait.
    pub fn turn(&self, (layer, diff_id): (&Descriptor, DiffId), stop: &dyn Fn() -> bool) -> Option<Turn> {
        self.store.making().turn(diff_id, self.outgoing(layer).name(), stop)
    }

    /// A layer as the registry client takes it. `mount_from` knows repositories of the same registry that have a blob, and
    /// `open` opens the layer as it lies.
    pub fn source(
        self,
        (layer, diff_id): (&Descriptor, DiffId),
        media_type: String,
        mount_from: impl Fn(&Digest) -> Option<String>,
        open: Open<'a>,
    ) -> LayerSource<'a> {
        let (digest, size, how) = (layer.digest, layer.size, self.outgoing(layer));
        if !self.compresses(layer) {
            // The client compares what it sends with the descriptor, before the last of it goes.
            let descriptor = Descriptor { media_type, ..layer.clone() };
            return LayerSource::Known { descriptor, mount_from: mount_from(&digest), open };
        }
        let known = self.store.compressed(&diff_id, how.name());
        let known = known.map(|d| Descriptor { media_type: media_type.clone(), ..d });
        let mount_from = known.as_ref().and_then(|known| mount_from(&known.digest)).or_else(|| mount_from(&digest));
        LayerSource::Stream {
            media_type,
            known,
            mount_from,
            write: Box::new(move |out| {
                let input = self.store.open_verified(&digest, size).map_err(io::Error::other)?;
                compress_into(input, how, out)
            }),
        }
    }

    /// Takes note of what a layer became.
    pub fn remember(&self, (layer, diff_id): (&Descriptor, DiffId), sent: &Descriptor) {
        if self.compresses(layer) {
            // Only saves work the next time: a store that cannot be written does not make the push fail.
            let _ = self.store.remember_compressed(&diff_id, self.outgoing(layer).name(), sent);
        }
    }

    /// The address of the upload of a layer that was begun earlier.
    pub fn upload(&self, layer: &Descriptor) -> Option<String> {
        self.store.upload(&self.upload_of(layer))
    }

    /// Remembers the address of its upload.
    pub fn remember_upload(&self, layer: &Descriptor, address: Option<&str>) {
        self.store.remember_upload(&self.upload_of(layer), address);
    }

    /// Names the upload of a layer: what is sent, in which form and by which version of this program, and where to.
    fn upload_of(&self, layer: &Descriptor) -> String {
        let how = self.outgoing(layer).name();
        let place = Reference { tag: None, digest: None, ..self.to.clone() };
        format!("{} as {how} by {} to {place}", layer.digest, env!("CARGO_PKG_VERSION"))
    }
}

/// Layers of images that the store knows under another name of the same registry: the registry may link them instead of
/// taking them again.
pub(super) fn near(store: &Store, to: &Reference) -> BTreeMap<Digest, String> {
    let mut found = BTreeMap::new();
    for entry in store.list().unwrap_or_default() {
        let Some(Ok(name)) = entry.name.as_deref().map(str::parse::<Reference>) else { continue };
        if name.registry == to.registry && name.repository != to.repository {
            for layer in store.manifest(&entry.descriptor.digest).map(|m| m.layers).unwrap_or_default() {
                found.entry(layer.digest).or_insert_with(|| name.repository.clone());
            }
        }
    }
    found
}
