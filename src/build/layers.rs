//! Layers of a build: from an upper directory, or a whole root file system, to a blob.

use super::{
    Error,
    execute::{Done, Executor},
    rootfs::{self, Lower},
    stack::{Layer, Stack},
};
use crate::archive::{diff, retime, upper::Upper};
use crate::oci::{Descriptor, DiffId, media};
use crate::plan::Step;
use crate::snapshot::Active;
use crate::store::Store;
use std::sync::{Mutex, PoisonError, atomic::AtomicBool};

impl Executor<'_> {
    /// The files of a stack.
    pub(super) fn lower(&self, stack: &Stack) -> Result<Lower, Error> {
        rootfs::open(&self.snapshots, self.images, self.shared, stack, &AtomicBool::new(false))
    }

    /// An empty layer. Its root directory is the one that steps see, so it has the metadata of the root below.
    pub(super) fn start_layer(&self, lower: &Lower) -> Result<Active, Error> {
        let active = self.snapshots.prepare()?;
        Upper::create(&active.layer(), &lower.view)?.finish()?;
        Ok(active)
    }

    /// Makes a layer of what a step changed: the blob, and the directory for the steps above.
    pub(super) fn finish_layer(
        &self,
        active: Active,
        below: &Stack,
        lower: &Lower,
        always: bool,
    ) -> Result<Option<Layer>, Error> {
        let mut blob = self.around.store.hashed_blob_writer()?;
        let stats = diff::write_layer(&active.layer(), &lower.view, &diff::Times::default(), &mut blob)
            .map_err(|e| self.explain_shortage(e.into()))?;
        if stats.entries == 0 && !always {
            return Ok(None);
        }
        blob.commit(&stats.diff_id.0)?;
        let layer = made_layer(stats.diff_id, stats.size);
        if let Some(chain) = below.with(layer.clone()).chain() {
            self.snapshots.publish(active, chain)?;
        }
        Ok(Some(layer))
    }

    /// With one layer a stage: makes it when the stage's last step is done.
    pub(super) fn end_of_stage(&self, step: &Step, done: Done) -> Result<Done, Error> {
        let stage = &self.plan.stages[step.stage];
        let active = match self.request.output.layers || stage.last != step.id {
            true => None,
            false => self.stage_layers[step.stage].lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        let Some(active) = active else { return Ok(done) };
        let lower = self.lower(&done.stack)?;
        match self.finish_layer(active, &done.stack, &lower, true)? {
            Some(layer) => Ok(Done { stack: done.stack.with(layer), layered: true, ..done }),
            None => Ok(done),
        }
    }

    /// All files in one layer.
    pub(super) fn squash(&self, stack: &Stack) -> Result<Layer, Error> {
        let lower = self.lower(stack)?;
        let mut blob = self.around.store.hashed_blob_writer()?;
        let stats =
            diff::write_tree(&lower.view, &self.times(), &mut blob).map_err(|e| self.explain_shortage(e.into()))?;
        blob.commit(&stats.diff_id.0)?;
        Ok(made_layer(stats.diff_id, stats.size))
    }

    /// The layer with its times as the user wants them.
    pub(super) fn retimed(&self, layer: Layer) -> Result<Layer, Error> {
        let retimed = retimed(self.around.store, &self.retiming, &self.times(), layer);
        retimed.map_err(|e| self.explain_shortage(e))
    }
}

/// A layer with its times as the user wants them. Steps and their cache work with the times as they were; only what leaves
/// the build is changed, so the cache serves builds of every `SOURCE_DATE_EPOCH`. `one` is held meanwhile, so that nobody does
/// the same beside it.
pub(super) fn retimed(store: &Store, one: &Mutex<()>, times: &diff::Times, layer: Layer) -> Result<Layer, Error> {
    let memo = match (times.set_to, times.clamp_to) {
        (None, None) => return Ok(layer),
        (Some(t), _) => format!("set{t}"),
        (None, Some(t)) => format!("clamp{t}"),
    };
    let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = store.compressed(&layer.diff_id, &memo)
        && store.blob_size(&known.digest)? == Some(known.size)
    {
        return Ok(made_layer(DiffId(known.digest), known.size));
    }
    let mut blob = store.hashed_blob_writer()?;
    let stats = retime::retime(store.open_verified(&layer.blob, layer.size)?, times, &mut blob)
        .map_err(|e| store.blame(&layer.blob, Error::from(e)))?;
    let (digest, size) = (stats.diff_id.0, stats.size);
    blob.commit(&digest)?;
    store.remember_compressed(&layer.diff_id, &memo, &Descriptor::new(media::OCI_LAYER, digest, size))?;
    Ok(made_layer(DiffId(digest), size))
}

/// A layer that a step made: it lies uncompressed in the store.
pub(super) fn made_layer(diff_id: DiffId, size: u64) -> Layer {
    Layer { diff_id, blob: diff_id.0, size, media_type: media::OCI_LAYER.into(), remote: None }
}
