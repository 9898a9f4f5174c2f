//! Layers that the image is certain to have, told while later steps still run, so that they can leave early.
//!
//! Certain are those below the target's last step: of its own stage, of those that it is FROM, and of the base image. What
//! only other stages made is never among them.

use super::{
    Error,
    execute::{Done, Executor},
    layers,
    stack::Layer,
};
use crate::archive::diff::Times;
use crate::oci::{Descriptor, DiffId, Reference};
use crate::plan::Step;
use crate::store::Store;

/// A layer that the image will have.
pub struct Coming {
    /// Its blob, as the store has it; or as others have it.
    pub layer: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Repositories that have the blob.
    pub at: Vec<Reference>,
    /// Gives it the form that it has in the image, where that is another one; `None` where that fails.
    pub settle: Option<Settle>,
}

/// Gives a layer its form in the image.
pub type Settle = Box<dyn FnOnce(&Store) -> Option<(Descriptor, DiffId)> + Send>;

/// Who is told of layers.
pub type Watcher<'a> = &'a (dyn Fn(Coming) + Sync);

impl Executor<'_> {
    /// Tells of the layers up to this step.
    pub(super) fn tell_layers(&self, step: &Step, done: &Done) {
        let Some(watcher) = self.around.coming else { return };
        // One layer with everything is made when there is everything.
        if self.request.output.squash || !self.in_image.contains(&step.id) {
            return;
        }
        let base = done.stack.base();
        for layer in done.stack.base_layers() {
            let links = self.shared.repositories_of(&layer.blob);
            watcher(Coming {
                layer: descriptor(&layer),
                diff_id: layer.diff_id,
                at: base.map(|base| &base.reference).into_iter().chain(links).cloned().collect(),
                settle: None,
            });
        }
        for layer in done.stack.made() {
            match self.coming(layer) {
                Ok(coming) => coming.into_iter().for_each(watcher),
                Err(e) => tracing::debug!(error = %e, "a layer does not leave early"),
            }
        }
    }

    /// A layer that a step made; `None` where it is not known yet in which form the image has it.
    fn coming(&self, layer: Layer) -> Result<Option<Coming>, Error> {
        let (store, times) = (self.around.store, self.times());
        let remote = match &layer.remote {
            Some(remote) if store.blob_size(&layer.blob)? != Some(layer.size) => remote,
            _ => {
                let (lock, made) = (self.retiming.clone(), layer.clone());
                let settle: Option<Settle> = (times != Times::default()).then(|| -> Settle {
                    Box::new(move |store| {
                        let settled = layers::retimed(store, &lock, &times, made).ok()?;
                        Some((descriptor(&settled), settled.diff_id))
                    })
                });
                let (layer, diff_id) = (descriptor(&layer), layer.diff_id);
                return Ok(Some(Coming { layer, diff_id, at: vec![], settle }));
            }
        };
        let coming = Coming {
            layer: remote.blob.clone(),
            diff_id: layer.diff_id,
            at: remote.repository().cloned().into_iter().collect(),
            settle: None,
        };
        Ok(self.may_stay_away(remote).then_some(coming))
    }
}

fn descriptor(layer: &Layer) -> Descriptor {
    Descriptor::new(&layer.media_type, layer.blob, layer.size)
}
