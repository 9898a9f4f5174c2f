//! The files of `RUN --mount=type=cache`, kept where caches of steps are kept: `--cache-mount`.
//!
//! A cache mount is an entry like that of a step, whose layer is a tar of its directory. Its key says which mount it is and
//! nothing of what is in it, so that the entry is replaced at the end of each build that used the mount and left it other than
//! it found it. It is looked up once, when a store has no directory for the mount yet. What goes wrong is a warning: the step
//! starts from an empty directory then, as it would anyhow.

use super::caches::Take;
use super::guard::Guarded;
use super::{CacheKey, KeyBuilder, SharedCaches};
use crate::oci::{DiffId, Digest};
use crate::store::TempDir;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the files of mounts with one id are looked for. Where they go is known to who writes.
pub struct MountCache {
    id: String,
    pub(super) from: Vec<Arc<Guarded>>,
    /// Mounts with this id that steps used. They may differ in what they start from, or in their owner.
    used: Mutex<BTreeMap<Digest, Option<DiffId>>>,
}

impl MountCache {
    pub(super) fn new(id: &str, from: Vec<Arc<Guarded>>) -> Self {
        MountCache { id: id.to_owned(), from, used: Mutex::default() }
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
}

impl SharedCaches<'_> {
    /// Where the files of the cache mount with this id are kept.
    pub fn mount(&self, id: &str) -> Option<&MountCache> {
        self.mounts.iter().find(|m| m.id() == id)
    }

    /// All caches of the files of mounts.
    pub fn mounts(&self) -> &[MountCache] {
        &self.mounts
    }

    /// Hands the tar that was kept of a mount to `take`; whether there was one, and all of it was taken.
    pub fn restore_mount(&self, kept: &MountCache, mount: &Digest, take: &mut Take<'_>) -> bool {
        let key = kept.key(mount);
        let hit = kept.from.iter().find_map(|place| self.lookup_in(place, &key, None));
        self.show_news();
        let Some(layer) = hit.and_then(|hit| hit.layer) else { return false };
        let restored = self.read(&layer, take).is_ok();
        if restored {
            kept.note(mount, Some(layer.diff_id));
        }
        restored
    }

    /// Keeps the tar of a mount, the file `tar` in a directory. Nothing is done where it is what was restored.
    pub fn save_mount(
        &self,
        kept: &MountCache,
        mount: &Digest,
        created: &str,
        (diff_id, size): (DiffId, u64),
        dir: TempDir,
    ) {
        let restored = kept.used.lock().unwrap_or_else(PoisonError::into_inner).get(mount).copied().flatten();
        if restored != Some(diff_id) {
            self.keep_tar(&kept.id, kept.key(mount), created, (diff_id, size), dir);
        }
    }
}
