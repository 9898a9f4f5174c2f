//! Answers the plan's one question, "which image is this name?", from the store and from registries.

use crate::error::Classified;
use crate::oci::{Digest, Platform};
use crate::plan::{ResolveError, ResolvedImage, Resolver};
use crate::source::image::{Image, Images};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Finds base images, and remembers what was found: the plan knows an image by its manifest, the executor needs the rest.
pub(super) struct BaseImages<'a> {
    images: &'a Images<'a>,
    found: Mutex<HashMap<Digest, Arc<Image>>>,
}

impl<'a> BaseImages<'a> {
    pub fn new(images: &'a Images<'a>) -> Self {
        BaseImages { images, found: Mutex::default() }
    }

    /// The image behind a plan's reference to it.
    pub fn get(&self, image: &ResolvedImage) -> Option<Arc<Image>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&image.manifest).cloned()
    }
}

impl Resolver for &BaseImages<'_> {
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let boxed = |e| -> Box<dyn Classified + Send + Sync> { Box::new(e) };
        let image = self.images.resolve(reference, platform).map_err(boxed)?;
        let resolved = Arc::new(ResolvedImage {
            name: reference.to_owned(),
            reference: image.reference.clone(),
            manifest: image.descriptor.digest,
            config: image.config.clone(),
        });
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(image.descriptor.digest)
            .or_insert_with(|| Arc::new(image));
        Ok(resolved)
    }
}
