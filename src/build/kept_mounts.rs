//! `--cache-mount`: what steps leave in their cache mounts is kept for stores that do not have it.

use super::{Error, Event, execute::Executor};
use crate::archive::{diff, extract, layer::Layer, merged::Merged};
use crate::cache::MountCache;
use crate::dockerfile::Sharing;
use crate::oci::Digest;
use crate::plan::{Mount, StepKind};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

impl Executor<'_> {
    /// Where the files of this mount are kept, if they are.
    pub(super) fn keeper_of(&self, mount: &Mount) -> Option<&MountCache> {
        mount.options.id.as_deref().and_then(|id| self.shared.mount(id))
    }

    /// Fills the directory of a new cache with what was kept of it; whether there was something.
    pub(super) fn restored(&self, kept: &MountCache, key: &Digest, dir: &Path) -> Result<bool, Error> {
        let nothing = self.snapshots.view(&[])?;
        // In a directory of its own: what is broken off leaves nothing in the other one.
        let new = self.around.store.temp_dir("cache-mount")?;
        let mut take = |tar: &mut dyn io::Read| {
            extract::extract(tar, new.path(), &nothing, &extract::Limits::default()).map_err(io::Error::other)
        };
        if !self.shared.restore_mount(kept, key, &mut take) {
            return Ok(false);
        }
        // Steps see the files of cache mounts as the disk has them, so records of them would soon be wrong.
        let to = dir.join("fs");
        std::fs::rename(new.path().join("fs"), &to).map_err(|source| Error::File { path: to, source })?;
        Ok(true)
    }

    /// Keeps what steps of this build left in their cache mounts. What cannot be kept is a warning.
    pub(super) fn keep_cache_mounts(&self) {
        for kept in self.shared.mounts() {
            let warn = |text: &str| self.around.sink.event(&Event::Warning { text });
            let used = kept.used();
            if used.is_empty() && !self.wants_mount(kept.id()) {
                warn(&format!("no step has a cache mount with the id `{}` of `--cache-mount`", kept.id()));
            }
            let result = self.keep(kept, &used);
            if let Err(e) = result {
                warn(&format!("the cache mount `{}` was not kept: {e}", kept.id()));
            }
        }
    }

    /// Whether a step has a cache mount with this id, executed or not.
    fn wants_mount(&self, id: &str) -> bool {
        self.plan.steps.iter().any(|step| match &step.kind {
            StepKind::Run(run) => run.mounts.iter().any(|m| m.options.id.as_deref() == Some(id)),
            _ => false,
        })
    }

    fn keep(&self, kept: &MountCache, used: &[Digest]) -> Result<(), Error> {
        let (map, cancel) = (self.snapshots.map(), self.around.cancel);
        for key in used {
            // It was used, so it is there; one that was removed since is not kept.
            let mut gone = |_: &Path| Err(Error::Cancelled);
            let taken =
                self.around.store.cache_mount(&map.key(), key, Sharing::Shared, &|| cancel.is_cancelled(), &mut gone);
            let Ok(Some(cache)) = taken else { continue };
            let dir = self.around.store.temp_dir("kept")?;
            let path = dir.path().join("tar");
            let failed = |source| Error::File { path: path.clone(), source };
            let files = Merged::of(vec![Arc::new(Layer::open(&cache.path)?)], map);
            let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
            let stats = diff::write_tree(&files, &diff::Times::default(), &mut out)?;
            out.flush().map_err(failed)?;
            let now = jiff::Timestamp::now().to_string();
            self.shared.save_mount(kept, key, &now, (stats.diff_id, stats.size), dir);
        }
        Ok(())
    }
}
