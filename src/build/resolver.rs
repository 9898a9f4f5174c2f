//! Answers the plan's one question, "which image is this name?", from the store and from registries.

use super::request::NamedContext;
use crate::oci::{Digest, Platform};
use crate::plan::{ContextId, ResolveError, ResolvedImage, Resolver};
use crate::source::image::{self, Image, Images};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Finds base images, and remembers what was found: the plan knows an image by its manifest, the executor needs the rest.
pub(super) struct BaseImages<'a> {
    images: &'a Images<'a>,
    named: &'a [(String, NamedContext)],
    found: Mutex<HashMap<Digest, Arc<Image>>>,
}

impl<'a> BaseImages<'a> {
    pub fn new(images: &'a Images<'a>, named: &'a [(String, NamedContext)]) -> Self {
        BaseImages { images, named, found: Mutex::default() }
    }

    /// The image behind a plan's reference to it.
    pub fn get(&self, image: &ResolvedImage) -> Option<Arc<Image>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&image.manifest).cloned()
    }
}

impl BaseImages<'_> {
    fn keep(&self, name: &str, image: Image) -> Arc<ResolvedImage> {
        let resolved = Arc::new(ResolvedImage {
            name: name.to_owned(),
            reference: image.reference.clone(),
            manifest: image.descriptor.digest,
            config: image.config.clone(),
        });
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(image.descriptor.digest)
            .or_insert_with(|| Arc::new(image));
        resolved
    }
}

fn boxed(e: image::Error) -> ResolveError {
    Box::new(e)
}

impl Resolver for &BaseImages<'_> {
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let image = self.images.resolve(reference, platform).map_err(boxed)?;
        Ok(self.keep(reference, image))
    }

    fn layout(&mut self, context: ContextId, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let Some((name, NamedContext::Layout { path, tag, digest })) = self.named.get(context.0) else {
            return Err(boxed(image::Error::NotHere(format!("context {}", context.0))));
        };
        let image = self.images.layout(name, path, tag.as_deref(), digest.as_ref(), platform).map_err(boxed)?;
        Ok(self.keep(name, image))
    }
}
