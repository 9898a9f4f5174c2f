//! Garbage collection: drops what no name, no living process and no step of the cache refers to.

use super::{Error, Store, lease, limit::bytes_on_disk, remove_tree};
use crate::oci::{ChainId, Descriptor, DiffId, Digest, media};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// What to keep.
#[derive(Clone, Copy, Debug, Default)]
pub struct GcOptions {
    /// Drop the whole step cache, the directories of cache mounts, and all layer directories that can be made again from
    /// blobs.
    pub all: bool,
}

/// What a garbage collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: usize,
    /// Bytes of the blobs, layer directories and cache mounts removed.
    pub bytes: u64,
    /// Layer directories removed.
    pub snapshots: usize,
    /// Entries of the step cache removed.
    pub steps: usize,
    /// Directories of cache mounts removed.
    pub cache_mounts: usize,
}

impl std::ops::AddAssign for Collected {
    fn add_assign(&mut self, more: Collected) {
        self.blobs += more.blobs;
        self.bytes += more.bytes;
        self.snapshots += more.snapshots;
        self.steps += more.steps;
        self.cache_mounts += more.cache_mounts;
    }
}

/// What a record of the step cache says that matters here; `cache` owns the rest of the format.
#[derive(serde::Deserialize)]
struct StepRoots {
    /// The layer's blob, if the step made one.
    layer: Option<Digest>,
}

/// One record of the step cache.
pub(super) struct StepRecord {
    pub(super) path: PathBuf,
    /// When it was last of use.
    pub(super) used: SystemTime,
    pub(super) layer: Option<Digest>,
}

impl Store {
    /// Collects garbage. Safe at any time: what living processes use stays.
    ///
    /// # Errors
    /// Where the store cannot be read. What cannot be removed (another pod's id map) is passed over.
    pub fn collect_garbage(&self, options: GcOptions) -> Result<Collected, Error> {
        self.drop_leftovers()?;
        let _lock = self.lock_exclusive()?;
        let (held, _) = lease::survey(&self.root)?;
        let mut done = Collected::default();
        let mut roots: HashSet<Digest> = HashSet::new();
        let mut chains: HashSet<ChainId> = HashSet::new();
        for entry in self.read_index()?.manifests {
            // A name whose image is damaged keeps what is left of it.
            roots.extend(self.reach(&entry).unwrap_or_else(|_| vec![entry.digest]));
            match media::is_index(&entry.media_type) {
                true => {
                    let images = self.index(&entry.digest).map(|i| i.manifests).unwrap_or_default();
                    chains.extend(images.iter().flat_map(|image| self.chains_of(&image.digest)));
                }
                false => chains.extend(self.chains_of(&entry.digest)),
            }
        }
        let blobs: BTreeMap<Digest, u64> = self.list_blobs()?.into_iter().collect();
        let is_held = |d: &Digest| held.contains(&format!("blobs/sha256/{}", d.hex()));
        let mut kept: HashSet<Digest> = roots.iter().copied().collect();
        kept.extend(blobs.keys().filter(|d| is_held(d)).copied());
        for step in self.read_steps()? {
            let layer = step.layer.filter(|l| blobs.contains_key(l));
            let gone = step.layer.is_some() && layer.is_none();
            if !gone && !options.all {
                kept.extend(layer);
            } else if gone || layer.is_none_or(|l| !kept.contains(&l)) {
                done.steps += usize::from(fs::remove_file(&step.path).is_ok());
            }
        }
        for (digest, bytes) in &blobs {
            if !kept.contains(digest) {
                self.remove_blob(digest)?;
                done.blobs += 1;
                done.bytes += bytes;
            }
        }
        self.drop_downloads(&kept);
        done.bytes += self.drop_unfinished(true);
        let (snapshots, bytes) = self.drop_snapshots(&held, &chains, options.all)?;
        done.snapshots += snapshots;
        done.bytes += bytes;
        if options.all {
            let (mounts, bytes) = self.drop_cache_mounts();
            done.cache_mounts = mounts;
            done.bytes += bytes;
        }
        Ok(done)
    }

    /// Drops what processes left behind that were killed. Quick where there is nothing to do; call it before work that
    /// needs room.
    ///
    /// # Errors
    /// Where the leases cannot be read. What cannot be removed (another pod's id map) is passed over.
    pub fn drop_leftovers(&self) -> Result<(), Error> {
        let moved = {
            let _lock = self.lock_exclusive()?;
            let (_, dead) = lease::survey(&self.root)?;
            let mut moved = vec![];
            for id in dead {
                let (tmp, away) = (self.root.join("tmp").join(&id), self.lease.temp_path("left")?);
                match fs::rename(&tmp, &away) {
                    Ok(()) => moved.push(away),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => {
                        tracing::debug!(path = %tmp.display(), error = %e, "cannot take what a dead process left");
                        continue;
                    }
                }
                let _ = fs::remove_file(self.root.join("leases").join(&id));
            }
            moved
        };
        self.drop_unfinished(false);
        // Removing takes time, and nobody has to wait for it.
        for path in moved {
            if let Err(e) = remove_tree(&path) {
                tracing::debug!(path = %path.display(), error = %e, "cannot remove what a dead process left");
            }
        }
        Ok(())
    }

    /// The layers of every image that can be read: diff IDs with the blobs that hold them, lowest first.
    ///
    /// # Errors
    /// Where the list of images cannot be read.
    pub fn layer_stacks(&self) -> Result<Vec<Vec<(DiffId, Digest)>>, Error> {
        let mut manifests = vec![];
        for entry in self.list()? {
            match media::is_index(&entry.descriptor.media_type) {
                true => manifests.extend(self.index(&entry.descriptor.digest).into_iter().flat_map(|i| i.manifests)),
                false => manifests.push(entry.descriptor),
            }
        }
        let stack = |d: Descriptor| {
            let blobs = self.manifest(&d.digest).ok()?.layers.into_iter().map(|l| l.digest);
            Some(self.diff_ids_of(&d.digest)?.into_iter().zip(blobs).collect())
        };
        Ok(manifests.into_iter().filter_map(stack).collect())
    }

    /// The blobs of the layers that the step cache knows; each lies uncompressed.
    ///
    /// # Errors
    /// Where the step cache cannot be read.
    pub fn step_layers(&self) -> Result<Vec<Digest>, Error> {
        Ok(self.read_steps()?.into_iter().filter_map(|s| s.layer).collect())
    }

    /// The chain IDs of all stacks of an image's layers.
    fn chains_of(&self, manifest: &Digest) -> Vec<ChainId> {
        let mut parent = None;
        let layers = self.diff_ids_of(manifest).unwrap_or_default();
        layers.into_iter().map(|layer| *parent.insert(ChainId::child(parent, layer))).collect()
    }

    fn diff_ids_of(&self, manifest: &Digest) -> Option<Vec<DiffId>> {
        #[derive(serde::Deserialize)]
        struct Config {
            rootfs: crate::oci::RootFs,
        }
        let manifest = self.manifest(manifest).ok()?;
        let bytes = self.read_blob(&manifest.config.digest, super::names::MANIFEST_LIMIT * 2).ok()?;
        Some(serde_json::from_slice::<Config>(&bytes).ok()?.rootfs.diff_ids)
    }

    pub(super) fn read_steps(&self) -> Result<Vec<StepRecord>, Error> {
        let dir = self.steps_dir();
        let mut all = vec![];
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
            let path = entry.map_err(Error::io("cannot read directory", &dir))?.path();
            let Ok(meta) = fs::metadata(&path) else { continue };
            let roots = fs::read(&path).ok().and_then(|b| serde_json::from_slice::<StepRoots>(&b).ok());
            match roots {
                Some(StepRoots { layer }) => {
                    all.push(StepRecord { path, used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), layer });
                }
                // A record that does not parse serves nobody.
                None => drop(fs::remove_file(&path)),
            }
        }
        Ok(all)
    }

    /// Drops the records of fetched files whose blobs are gone.
    fn drop_downloads(&self, kept: &HashSet<Digest>) {
        #[derive(serde::Deserialize)]
        struct Record {
            digest: Digest,
        }
        for entry in fs::read_dir(self.downloads_dir()).into_iter().flatten().flatten() {
            let record = fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            if !record.is_some_and(|r| kept.contains(&r.digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Drops layer directories. They can all be made again from blobs: without `shrink`, only those of other boots of the
    /// machine go, which nobody reads any more.
    fn drop_snapshots(
        &self,
        held: &HashSet<String>,
        chains: &HashSet<ChainId>,
        shrink: bool,
    ) -> Result<(usize, u64), Error> {
        let dir = self.snapshots_dir();
        let mut removed = (0, 0);
        for key in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
            let key = key.map_err(Error::io("cannot read directory", &dir))?.path();
            let key_name = key.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let stale = !key_name.ends_with(&crate::store::boot_suffix(&self.boot));
            let Ok(entries) = fs::read_dir(&key) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let in_use = name.starts_with('.') && !stale; // the lock of a layer that is being extracted
                let wanted = in_use || !stale && (!shrink || chains.iter().any(|c| c.0.hex() == name));
                if !wanted && !held.contains(&format!("snapshots/{key_name}/{name}")) {
                    let bytes = bytes_on_disk(&entry.path());
                    if self.drop_aside(&entry.path()) {
                        removed.0 += 1;
                        removed.1 += bytes;
                    }
                }
            }
            if stale {
                let _ = fs::remove_dir(&key);
            }
        }
        Ok(removed)
    }

    /// Removes a directory; moves it out of sight first, so that no one finds half of it.
    pub(super) fn drop_aside(&self, path: &Path) -> bool {
        let Some(away) = self.move_aside(path) else { return false };
        if let Err(e) = remove_tree(&away) {
            tracing::debug!(path = %away.display(), error = %e, "cannot remove a directory");
        }
        true
    }

    /// Moves a directory out of sight, to be removed from where it is then.
    pub(super) fn move_aside(&self, path: &Path) -> Option<PathBuf> {
        let away = self.lease.temp_path("dropped").ok()?;
        fs::rename(path, &away).is_ok().then_some(away)
    }
}
