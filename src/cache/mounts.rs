//! The files of `RUN --mount=type=cache`, kept where caches of steps are kept: `--cache-mount`.
//!
//! A cache mount is an entry like that of a step, whose layer is a tar of its directory. Its key says which mount it is and
//! nothing of what is in it, so that the entry is replaced at the end of each build that used the mount and left it other than
//! it found it. It is looked up once, when a store has no directory for the mount yet. What goes wrong is a warning: the step
//! starts from an empty directory then, as it would anyhow.

use super::caches::Take;
use super::{CacheKey, KeyBuilder, SharedCaches};
use crate::oci::{DiffId, Digest};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Where the files of mounts with one id are kept.
pub struct MountCache<'a> {
    id: String,
    caches: SharedCaches<'a>,
    /// Mounts with this id that steps used. They may differ in what they start from, or in their owner.
    used: Mutex<BTreeMap<Digest, Option<DiffId>>>,
}

impl<'a> MountCache<'a> {
    /// Keeps the files of mounts with this id in these caches.
    pub fn new(id: &str, caches: SharedCaches<'a>) -> Self {
        MountCache { id: id.to_owned(), caches, used: Mutex::default() }
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key of an entry. What tells mounts with one id from each other is in `mount`.
    fn key(&self, mount: &Digest) -> CacheKey {
        KeyBuilder::new("cache mount", None).text("id", &self.id).text("mount", &mount.to_string()).finish()
    }

    fn note(&self, mount: &Digest, holds: Option<DiffId>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let known = used.entry(*mount).or_default();
        *known = holds.or(*known);
    }

    /// Takes note that a step uses a mount.
    pub fn uses(&self, mount: &Digest) {
        self.note(mount, None);
    }

    /// The mounts that steps used.
    pub fn used(&self) -> Vec<Digest> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Hands the tar that was kept of a mount to `take`; whether there was one, and all of it was taken.
    pub fn restore(&self, mount: &Digest, take: &mut Take<'_>) -> bool {
        let Some(layer) = self.caches.lookup(&self.key(mount)).and_then(|hit| hit.layer) else { return false };
        let restored = self.caches.read(&layer, take).is_ok();
        if restored {
            self.note(mount, Some(layer.diff_id));
        }
        restored
    }

    /// Keeps the tar of a mount, which must stay where it is until [`MountCache::finish`]. Nothing is done where it is what was
    /// restored.
    pub fn save(&self, mount: &Digest, created: &str, (diff_id, size): (DiffId, u64), path: PathBuf) {
        let restored = self.used.lock().unwrap_or_else(PoisonError::into_inner).get(mount).copied().flatten();
        if restored != Some(diff_id) {
            self.caches.keep_file(&self.key(mount), created, (diff_id, size), path);
        }
    }

    /// Waits for what is being written, as long as it gets on.
    pub fn finish(&self) {
        self.caches.finish();
    }
}
