//! The step cache: what a step made the last time it had the same inputs.
//!
//! A [`CacheKey`] is the digest of everything that decides what a step makes: the chain ID of the layers below it, and the
//! instruction in the form in which it is executed. No time, no name of an image and no history text goes in, so two
//! builders that start from the same bytes agree. COPY and ADD have a second key of the content that they read, so that a
//! stage that was rebuilt to the same files still hits.
//!
//! A record is a file in `steps/` of the store, named by the key. It counts only while the layer's blob is there.
//!
//! What a store does not know may be known to others: [`SharedCaches`] are the caches of `--cache-from` and `--cache-to`, each
//! a [`Backend`] in a file of its own. The files of cache mounts go the same way: [`MountCache`]. The formats are in `docs/cache.md`.

mod backend;
mod caches;
mod document;
mod elsewhere;
mod entry;
mod explain;
mod guard;
mod http;
pub mod inline;
mod key;
mod local;
mod mounts;
mod redis;
mod registry;
pub mod spec;
mod trust;
mod writer;

pub use backend::{Backend, Clients, Fault};
pub use caches::{Hit, Lost, RemoteLayer, SharedCaches};
pub use elsewhere::Elsewhere;
pub use explain::difference;
pub use key::{CacheKey, Inputs, KeyBuilder};
pub use mounts::MountCache;
pub use trust::Trust;

use crate::error::{Classified, Kind};
use crate::oci::{DiffId, Digest};
use crate::store::{self, Store};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// An error of the step cache. A record that cannot be read is a miss, so only writing can fail.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the step cache: {0}")]
pub struct Error(#[from] store::Error);

impl Classified for Error {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn hint(&self) -> Option<String> {
        self.0.hint()
    }
}

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer, uncompressed in the store; `None` where the step changed no file.
    pub layer: Option<DiffId>,
    /// Length of the layer's blob in bytes.
    #[serde(default)]
    pub size: u64,
    /// When the step was executed, RFC 3339.
    pub created: String,
    /// The boot of the machine under which the blob was written or last verified.
    #[serde(default)]
    pub boot: String,
    /// What its key was made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Inputs,
}

/// The step cache of a store.
#[derive(Debug, Clone, Copy)]
pub struct StepCache<'a> {
    store: &'a Store,
    ttl: Option<Duration>,
}

impl<'a> StepCache<'a> {
    /// The cache of `store`; records older than `ttl` do not count.
    pub fn new(store: &'a Store, ttl: Option<Duration>) -> Self {
        StepCache { store, ttl }
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.store.steps_dir().join(key.hex())
    }

    /// What the step made the last time, if the layer is still here. The layer's blob is in this process's lease then.
    pub fn lookup(&self, key: &CacheKey) -> Option<Record> {
        let path = self.path(key);
        let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        if self.ttl.is_some_and(|ttl| is_older(&record.created, ttl)) {
            return None;
        }
        if let Some(layer) = &record.layer {
            if self.store.blob_size(&layer.0).ok()? != Some(record.size) {
                return None;
            }
            if record.boot != self.store.boot_id() {
                return self.verify(key, record);
            }
        }
        // The time of the file says when the record was last of use; garbage collection takes the oldest first.
        if let Ok(file) = File::options().write(true).open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(record)
    }

    /// The machine was restarted since the layer was written: what never reached the disk then is gone now.
    fn verify(&self, key: &CacheKey, mut record: Record) -> Option<Record> {
        let digest: Digest = record.layer?.0;
        if let Err(e) = self.store.verify_blob(&digest) {
            tracing::info!(%digest, error = %e, "a cached layer did not survive");
            let _ = fs::remove_file(self.path(key));
            return None;
        }
        record.boot = self.store.boot_id().to_owned();
        self.save(key, &record).ok()?;
        Some(record)
    }

    /// Remembers what a step made.
    ///
    /// # Errors
    /// Where the record cannot be written.
    pub fn remember(&self, key: &CacheKey, layer: Option<(DiffId, u64)>, created: &str) -> Result<(), Error> {
        let record = Record {
            layer: layer.map(|(id, _)| id),
            size: layer.map_or(0, |(_, size)| size),
            created: created.to_owned(),
            boot: self.store.boot_id().to_owned(),
            inputs: key.inputs().clone(),
        };
        self.save(key, &record)
    }

    fn save(&self, key: &CacheKey, record: &Record) -> Result<(), Error> {
        let json = serde_json::to_vec(record).unwrap_or_default();
        Ok(self.store.write_file(&self.path(key), &json)?)
    }
}

/// Whether what was made at this time is older than `ttl`. What has no time is.
fn is_older(created: &str, ttl: Duration) -> bool {
    let Ok(made) = created.parse::<jiff::Timestamp>() else { return true };
    let age = jiff::Timestamp::now().as_millisecond().saturating_sub(made.as_millisecond());
    i128::from(age) > ttl.as_millis().try_into().unwrap_or(i128::MAX) || ttl.is_zero()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> CacheKey {
        KeyBuilder::new("test", None).text("t", text).finish()
    }

    #[test]
    fn a_record_counts_only_with_its_layer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let cache = StepCache::new(&store, None);
        let now = "2026-01-01T00:00:00Z";
        assert_eq!(cache.lookup(&key("a")), None);
        let layer = store.put_blob(b"layer").unwrap();
        cache.remember(&key("a"), Some((DiffId(layer), 5)), now).unwrap();
        cache.remember(&key("b"), None, now).unwrap();
        assert_eq!(cache.lookup(&key("a")).unwrap().layer, Some(DiffId(layer)));
        assert_eq!(cache.lookup(&key("b")).unwrap().layer, None);
        store.remove_blob(&layer).unwrap();
        assert_eq!(cache.lookup(&key("a")), None);
        let old = StepCache::new(&store, Some(Duration::from_secs(60)));
        assert_eq!(old.lookup(&key("b")), None, "older than the time to live");
    }

    #[test]
    fn a_layer_of_another_boot_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let cache = StepCache::new(&store, None);
        let layer = store.put_blob(b"layer").unwrap();
        let record = Record {
            layer: Some(DiffId(layer)),
            size: 5,
            created: "2026-01-01T00:00:00Z".into(),
            boot: "another".into(),
            inputs: vec![],
        };
        cache.save(&key("a"), &record).unwrap();
        assert_eq!(cache.lookup(&key("a")).unwrap().boot, store.boot_id());
        fs::write(dir.path().join("blobs/sha256").join(layer.hex()), b"LAYER").unwrap();
        cache.save(&key("a"), &record).unwrap();
        assert_eq!(cache.lookup(&key("a")), None, "same length, other bytes");
    }
}
