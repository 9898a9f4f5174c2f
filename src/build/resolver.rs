//! Answers the plan's one question, "which image is this name?", from the store and from registries.

use super::request::NamedContext;
use crate::oci::{Digest, Location, Platform};
use crate::plan::{ContextId, CopySource, Plan, ResolveError, ResolvedImage, Resolver, StepKind};
use crate::source::{
    image::{self, Image, Images},
    policy::{self, Policy},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Finds base images, and remembers what was found: the plan knows an image by its manifest, the executor needs the rest.
pub(super) struct BaseImages<'a> {
    images: &'a Images<'a>,
    named: &'a [(String, NamedContext)],
    policy: Policy,
    found: Mutex<HashMap<Digest, Arc<Image>>>,
}

impl<'a> BaseImages<'a> {
    pub fn new(images: &'a Images<'a>, named: &'a [(String, NamedContext)], policy: Policy) -> Self {
        BaseImages { images, named, policy, found: Mutex::default() }
    }

    /// The image behind a plan's reference to it.
    pub fn get(&self, image: &ResolvedImage) -> Option<Arc<Image>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&image.manifest).cloned()
    }
}

impl BaseImages<'_> {
    /// Asks the source policy about everything that ADD fetches.
    pub fn check_sources(&self, plan: &Plan) -> Result<(), policy::Error> {
        for step in &plan.steps {
            let StepKind::Copy(copy) = &step.kind else { continue };
            for source in &copy.sources {
                match source {
                    CopySource::Web { url, .. } => self.policy.keep(url)?,
                    CopySource::Git(url) => self.policy.keep(&policy::git_identifier(url))?,
                    CopySource::Path(_) | CopySource::Inline { .. } => {}
                }
            }
        }
        Ok(())
    }

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
        if Location::in_other_store(reference).is_some() {
            self.policy.keep(reference).map_err(|e| -> ResolveError { Box::new(e) })?;
        }
        let other = self.policy.image(reference).map_err(|e| -> ResolveError { Box::new(e) })?.map(|r| r.to_string());
        let image = self.images.resolve(other.as_deref().unwrap_or(reference), platform).map_err(boxed)?;
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
