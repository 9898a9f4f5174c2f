//! Directories of `RUN --mount=type=cache`: they outlive builds, and no image ever holds them.
//!
//! ```text
//! cache-mounts/<id map>/<digest of all that tells one cache from another>-<n>/   the files
//! cache-mounts/<id map>/<…>-<n>.lock                                             held while a step uses them
//! ```
//!
//! The owners of the files are ids of one id map, as in layer directories. `n` is 0; only a step that wants a cache to
//! itself, while others use it, gets the next number. A lock is held shared by steps that use a cache together, exclusively
//! by one that must be alone, by the one that makes it and by garbage collection, which passes over what is in use. Lock
//! files stay: who waits for one must not wait for a file that is gone.

use super::{Error, Store, limit::bytes_on_disk, remove_tree};
use crate::dockerfile::Sharing;
use crate::oci::Digest;
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

/// Pause between two tries to get a lock that others hold: short beside any step, and still few wake-ups.
const PAUSE: Duration = Duration::from_millis(20);
/// Caches of one name that steps can have to themselves at once.
const MOST_PRIVATE: usize = 4096;

/// A cache directory, in use as long as the value lives.
#[derive(Debug)]
pub struct CacheMount {
    /// The directory.
    pub path: PathBuf,
    _lock: File,
}

impl Store {
    /// The cache directory `key` for files of the id map `map`. Where there is none, `make` fills a new directory, which
    /// then becomes the cache. Waits for steps that must be alone with it; `None` where `cancelled` says so meanwhile.
    ///
    /// # Errors
    /// Where it cannot be made or locked, or `make` fails.
    pub fn cache_mount<E: From<Error>>(
        &self,
        map: &str,
        key: &Digest,
        sharing: Sharing,
        cancelled: &dyn Fn() -> bool,
        make: &mut dyn FnMut(&Path) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        let dir = self.cache_mounts_dir().join(map);
        fs::create_dir_all(&dir).map_err(Error::io("cannot create directory", &dir))?;
        let mut number = 0;
        loop {
            if cancelled() {
                return Ok(None);
            }
            let path = dir.join(format!("{}-{number}", key.hex()));
            let lock_path = dir.join(format!("{}-{number}.lock", key.hex()));
            let lock = super::lock_file(&lock_path)?;
            // A cache that does not exist yet is made by one alone.
            let alone = sharing != Sharing::Shared || !path.is_dir();
            match if alone { lock.try_lock() } else { lock.try_lock_shared() } {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if sharing == Sharing::Private && number < MOST_PRIVATE => {
                    number += 1;
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(TryLockError::Error(e)) => return Err(Error::io("cannot lock", &lock_path)(e).into()),
            }
            if !path.is_dir() {
                if !alone {
                    continue; // collected just before the lock
                }
                let new = self.temp_dir("cache-mount")?;
                make(new.path())?;
                new.publish(&path)?;
                if sharing == Sharing::Shared {
                    continue; // now it exists: together with others
                }
            }
            return Ok(Some(CacheMount { path, _lock: lock }));
        }
    }

    /// Where the directories of cache mounts lie.
    pub(super) fn cache_mounts_dir(&self) -> PathBuf {
        self.root.join("cache-mounts")
    }

    /// Drops all cache mounts that no step uses; the answer is how many, and their bytes on the disk.
    pub(super) fn drop_cache_mounts(&self) -> (usize, u64) {
        let mut removed = (0, 0);
        for map in fs::read_dir(self.cache_mounts_dir()).into_iter().flatten().flatten() {
            for entry in fs::read_dir(map.path()).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|e| e == "lock") {
                    continue;
                }
                let Some(away) = self.move_cache_mount_aside(&path) else { continue };
                removed.0 += 1;
                removed.1 += bytes_on_disk(&away);
                if let Err(e) = remove_tree(&away) {
                    tracing::debug!(path = %away.display(), error = %e, "cannot remove a cache mount");
                }
            }
        }
        removed
    }

    /// Moves a cache mount out of sight, unless a step uses it; to be removed from where it is then.
    pub(super) fn move_cache_mount_aside(&self, path: &Path) -> Option<PathBuf> {
        let lock = File::options().write(true).open(path.with_extension("lock"));
        if lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
            return None;
        }
        self.move_aside(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::GcOptions;

    const NEVER: &dyn Fn() -> bool = &|| false;

    fn take(store: &Store, sharing: Sharing) -> CacheMount {
        let key = Digest::of("go build");
        let mut make = |dir: &Path| fs::write(dir.join("made"), "").map_err(Error::io("cannot write", dir));
        store.cache_mount("map", &key, sharing, NEVER, &mut make).unwrap().unwrap()
    }

    #[test]
    fn stays_and_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = take(&store, Sharing::Shared);
        fs::remove_file(first.path.join("made")).unwrap();
        fs::write(first.path.join("kept"), "").unwrap();
        let second = take(&store, Sharing::Shared);
        assert_eq!(second.path, first.path);
        assert!(second.path.join("kept").exists() && !second.path.join("made").exists());
    }

    #[test]
    fn private_is_another_while_one_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let shared = take(&store, Sharing::Shared);
        let private = take(&store, Sharing::Private);
        assert_ne!(private.path, shared.path);
        let path = shared.path.clone();
        drop(shared);
        assert_eq!(take(&store, Sharing::Private).path, path);
    }

    #[test]
    fn locked_waits_and_a_cancelled_wait_ends() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let held = take(&store, Sharing::Locked);
        let key = Digest::of("go build");
        let mut make = |_: &Path| Ok::<(), Error>(());
        let tries = std::cell::Cell::new(0);
        let soon = || tries.replace(tries.get() + 1) > 2;
        assert!(store.cache_mount("map", &key, Sharing::Locked, &soon, &mut make).unwrap().is_none());
        assert!(store.cache_mount("map", &key, Sharing::Shared, &|| tries.get() > 0, &mut make).unwrap().is_none());
        drop(held);
        take(&store, Sharing::Locked);
    }

    #[test]
    fn garbage_collection_takes_unused_ones_when_asked_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let used = take(&store, Sharing::Shared);
        let unused = take(&store, Sharing::Private).path;
        store.collect_garbage(GcOptions::default()).unwrap();
        assert!(unused.is_dir());
        fs::write(unused.join("large"), vec![7; 1 << 20]).unwrap();
        let done = store.collect_garbage(GcOptions { all: true }).unwrap();
        assert!(done.cache_mounts == 1 && done.bytes >= 1 << 20, "{done:?}");
        assert!(used.path.is_dir() && !unused.is_dir());
    }
}
