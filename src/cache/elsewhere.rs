//! Blobs that are no part of the store: layers of an image that is only pushed, and where they can be had.

use super::backend::Fault;
use super::caches::RemoteLayer;
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::Client;
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a blob is.
#[derive(Clone, Debug)]
enum Place {
    /// In the repository of an image.
    Image(Reference),
    /// In a cache.
    Cache(RemoteLayer),
}

/// Blobs of an image, by digest.
#[derive(Debug, Default)]
pub struct Elsewhere {
    blobs: HashMap<Digest, Place>,
    /// Repositories that name a blob, wherever else it is: worth asking for a link.
    links: HashMap<Digest, Vec<Reference>>,
    lost: AtomicBool,
}

impl Clone for Elsewhere {
    fn clone(&self) -> Self {
        Elsewhere { blobs: self.blobs.clone(), links: self.links.clone(), lost: AtomicBool::new(self.is_lost()) }
    }
}

impl Elsewhere {
    /// A layer of a base image.
    pub fn add_image(&mut self, blob: Digest, image: &Reference) {
        self.blobs.entry(blob).or_insert_with(|| Place::Image(image.clone()));
    }

    /// A layer of a cached step.
    pub fn add_cache(&mut self, layer: &RemoteLayer) {
        self.blobs.insert(layer.blob.digest, Place::Cache(layer.clone()));
    }

    /// A blob that this repository names. Where it is to be had is not known by that.
    pub fn add_link(&mut self, blob: Digest, at: &Reference) {
        self.links.entry(blob).or_default().push(at.clone());
    }

    /// Takes in what another one knows.
    pub fn extend(&mut self, other: &Elsewhere) {
        self.blobs.extend(other.blobs.iter().map(|(digest, place)| (*digest, place.clone())));
        for (digest, at) in &other.links {
            self.links.entry(*digest).or_default().extend(at.iter().cloned());
        }
    }

    /// Whether this knows where a blob is.
    pub fn has(&self, blob: &Digest) -> bool {
        self.blobs.contains_key(blob)
    }

    /// Another repository of the same registry that has a blob.
    pub fn near(&self, blob: &Digest, to: &Reference) -> Option<&Reference> {
        let known = self.blobs.get(blob).and_then(|place| match place {
            Place::Image(image) => Some(image),
            Place::Cache(layer) => layer.repository(),
        });
        let all = known.into_iter().chain(self.links.get(blob).into_iter().flatten());
        all.into_iter().find(|at| at.registry == to.registry && at.repository != to.repository)
    }

    /// Streams a blob, checked. Where a cache does not have it any more, [`Elsewhere::is_lost`] says so afterwards.
    ///
    /// # Errors
    /// Where it does not come.
    pub fn fetch(&self, client: &Client, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        match self.blobs.get(&blob.digest) {
            Some(Place::Image(image)) => Ok(client.fetch_blob(image, blob, to)?),
            Some(Place::Cache(layer)) => {
                let fetched = layer.fetch(to);
                self.lost.fetch_or(fetched.is_err(), Ordering::Relaxed);
                fetched
            }
            None => Err(Fault::Bad(format!("nothing is known of `{}`", blob.digest))),
        }
    }

    /// Whether the layer of a cached step could not be had.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}
