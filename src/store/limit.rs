//! A limit to the bytes that the store takes on the disk.
//!
//! What goes, until the store is small enough, is in this order, and within each kind the least recently used first:
//!
//! 1. what garbage collection takes anyway;
//! 2. images without a name;
//! 3. layer directories, which can be made again from blobs, those of images with a name among them;
//! 4. records of the step cache, with the layers that nothing else refers to;
//! 5. directories of cache mounts, whose content nobody can make again as it was.
//!
//! Images with a name stay, and so does everything that a living process holds: the limit may be out of reach.

use super::{Collected, Error, GcOptions, Store, lease, remove_tree};
use crate::oci::Digest;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// How much may stay.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Whether images without a name may go.
    pub images: bool,
}

/// What a limit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// Bytes that the store takes now.
    pub size: u64,
    /// What was removed.
    pub removed: Collected,
}

/// A directory that can go.
struct Directory {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// What is in the store beside blobs.
struct Measured {
    snapshots: Vec<Directory>,
    cache_mounts: Vec<Directory>,
    rest: u64,
}

impl Store {
    /// Removes what was not used for the longest time, until the store takes no more than the limit or nothing is left
    /// that may go. Safe at any time: what living processes use stays. Leases nothing itself.
    ///
    /// # Errors
    /// Where the store cannot be read or changed. What cannot be removed (another pod's id map) is passed over.
    pub fn shrink(&self, limit: Limit) -> Result<Shrunk, Error> {
        // Reading every layer directory takes a while, in which others must not wait.
        let mut measured = self.measure()?;
        let directories = |m: &Measured| m.snapshots.iter().chain(&m.cache_mounts).map(|d| d.bytes).sum::<u64>();
        let blobs: u64 = self.list_blobs()?.iter().map(|(_, bytes)| bytes).sum();
        let size = blobs + directories(&measured) + measured.rest;
        if size <= limit.bytes {
            return Ok(Shrunk { size, removed: Collected::default() });
        }
        let removed = self.collect_garbage(GcOptions::default())?;
        let mut aside = vec![];
        let shrunk = {
            let _lock = self.lock_exclusive()?;
            measured.snapshots.retain(|d| d.path.is_dir());
            measured.cache_mounts.retain(|d| d.path.is_dir());
            let blobs: BTreeMap<Digest, u64> = self.list_blobs()?.into_iter().collect();
            let size = blobs.values().sum::<u64>() + directories(&measured) + measured.rest;
            let (held, _) = lease::survey(&self.root)?;
            let mut room = Room { store: self, limit: limit.bytes, size, held, blobs, users: HashMap::new(), removed };
            room.make(limit.images, measured, &mut aside)?;
            Shrunk { size: room.size, removed: room.removed }
        };
        for path in aside {
            if let Err(e) = remove_tree(&path) {
                tracing::debug!(path = %path.display(), error = %e, "cannot remove a directory");
            }
        }
        Ok(shrunk)
    }

    fn measure(&self) -> Result<Measured, Error> {
        let mut measured = Measured { snapshots: vec![], cache_mounts: vec![], rest: 0 };
        let all = fs::read_dir(&self.root).map_err(Error::io("cannot read directory", &self.root))?;
        for path in all.flatten().map(|e| e.path()) {
            if path == self.snapshots_dir() {
                measured.snapshots = directories_below(&path);
            } else if path == self.cache_mounts_dir() {
                measured.cache_mounts = directories_below(&path);
            } else if path != self.root.join("blobs") && path != self.root.join("reserve") {
                measured.rest += bytes_on_disk(&path);
            }
        }
        Ok(measured)
    }
}

/// Room in the making, with the store's lock held exclusively.
struct Room<'a> {
    store: &'a Store,
    limit: u64,
    size: u64,
    held: HashSet<String>,
    blobs: BTreeMap<Digest, u64>,
    /// For each blob that may go, how many images without a name and steps refer to it.
    users: HashMap<Digest, usize>,
    removed: Collected,
}

impl Room<'_> {
    fn is_made(&self) -> bool {
        self.size <= self.limit
    }

    fn make(&mut self, images: bool, measured: Measured, aside: &mut Vec<PathBuf>) -> Result<(), Error> {
        let index = self.store.read_index()?;
        let mut stay: HashSet<Digest> = HashSet::new();
        let mut unnamed: Vec<(Digest, Vec<Digest>)> = vec![];
        for entry in &index.manifests {
            // An image that is damaged keeps what is left of it.
            let reached = self.store.reach(entry).unwrap_or_else(|_| vec![entry.digest]);
            match !images || super::names::has_name(entry) || self.is_held("blobs/sha256", &entry.digest.hex()) {
                true => stay.extend(reached),
                false => unnamed.push((entry.digest, reached)),
            }
        }
        stay.extend(self.blobs.keys().filter(|d| self.is_held("blobs/sha256", &d.hex())));
        let mut steps = self.store.read_steps()?;
        steps.retain(|s| s.layer.is_some_and(|l| self.blobs.contains_key(&l) && !stay.contains(&l)));
        steps.sort_by_key(|s| s.used);
        for (_, reached) in &mut unnamed {
            reached.retain(|d| !stay.contains(d));
        }
        let users =
            unnamed.iter().flat_map(|(_, reached)| reached).chain(steps.iter().filter_map(|s| s.layer.as_ref()));
        for digest in users {
            *self.users.entry(*digest).or_default() += 1;
        }

        self.remove_images(unnamed)?;
        for directory in oldest_first(measured.snapshots) {
            let name = directory.path.strip_prefix(&self.store.root).unwrap_or(&directory.path).to_string_lossy();
            if !self.is_made()
                && !self.held.contains(&*name)
                && let Some(moved) = self.store.move_aside(&directory.path)
            {
                aside.push(moved);
                self.size = self.size.saturating_sub(directory.bytes);
                self.removed.snapshots += 1;
            }
        }
        for step in steps {
            let bytes = bytes_on_disk(&step.path);
            if !self.is_made() && fs::remove_file(&step.path).is_ok() {
                self.size = self.size.saturating_sub(bytes);
                self.removed.steps += 1;
                step.layer.map_or(Ok(()), |layer| self.release(layer))?;
            }
        }
        for directory in oldest_first(measured.cache_mounts) {
            if !self.is_made()
                && let Some(moved) = self.store.move_cache_mount_aside(&directory.path)
            {
                aside.push(moved);
                self.size = self.size.saturating_sub(directory.bytes);
                self.removed.cache_mounts += 1;
            }
        }
        Ok(())
    }

    fn is_held(&self, dir: &str, name: &str) -> bool {
        self.held.contains(&format!("{dir}/{name}"))
    }

    /// Removes images, the oldest first; the index goes before what it refers to.
    fn remove_images(&mut self, images: Vec<(Digest, Vec<Digest>)>) -> Result<(), Error> {
        let mut gone = HashSet::new();
        let mut blobs = vec![];
        let mut size = self.size;
        for (image, reached) in images {
            if size <= self.limit {
                break;
            }
            gone.insert(image);
            for digest in reached {
                if self.users.get(&digest) == Some(&1) {
                    size = size.saturating_sub(self.blobs.get(&digest).copied().unwrap_or(0));
                    blobs.push(digest);
                } else if let Some(users) = self.users.get_mut(&digest) {
                    *users -= 1;
                }
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.store.rewrite_index(|index| {
            index.manifests.retain(|d| super::names::has_name(d) || !gone.contains(&d.digest));
            Ok(())
        })?;
        blobs.into_iter().try_for_each(|digest| self.release(digest))
    }

    /// One that refers to a blob is gone.
    fn release(&mut self, digest: Digest) -> Result<(), Error> {
        let Some(users) = self.users.get_mut(&digest) else { return Ok(()) };
        *users = users.saturating_sub(1);
        if *users == 0
            && let Some(bytes) = self.blobs.remove(&digest)
        {
            self.store.remove_blob(&digest)?;
            self.size = self.size.saturating_sub(bytes);
            self.removed.blobs += 1;
            self.removed.bytes += bytes;
        }
        Ok(())
    }
}

fn oldest_first(mut directories: Vec<Directory>) -> Vec<Directory> {
    directories.sort_by_key(|d| d.used);
    directories
}

/// The directories two levels down. Files beside them are locks.
fn directories_below(path: &Path) -> Vec<Directory> {
    let mut all = vec![];
    for group in fs::read_dir(path).into_iter().flatten().flatten() {
        for entry in fs::read_dir(group.path()).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                all.push(Directory { bytes: bytes_on_disk(&entry.path()), path: entry.path(), used });
            }
        }
    }
    all
}

/// What a file, or a directory with all below it, takes on the disk. What cannot be read does not count.
pub(super) fn bytes_on_disk(path: &Path) -> u64 {
    let (mut bytes, mut todo, mut seen) = (0, vec![path.to_owned()], HashSet::new());
    while let Some(path) = todo.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        } else if meta.nlink() > 1 && !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        bytes += meta.blocks() * 512;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, ImageConfig, Manifest, media};
    use std::time::Duration;

    const LAYER: usize = 1 << 20;

    /// An image whose layer is one mebibyte of `fill`.
    fn image(store: &Store, fill: u8, names: &[String]) -> Digest {
        let layer = store.put_blob(&[fill; LAYER]).unwrap();
        let config = serde_json::to_vec(&ImageConfig { author: Some(fill.to_string()), ..Default::default() }).unwrap();
        store.put_blob(&config).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            artifact_type: None,
            config: Descriptor::of(media::OCI_CONFIG, &config),
            layers: vec![Descriptor::new(media::OCI_LAYER, layer, LAYER as u64)],
            subject: None,
            annotations: Default::default(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        store.put_blob(&bytes).unwrap();
        store.publish(names, &Descriptor::of(media::OCI_MANIFEST, &bytes)).unwrap();
        layer
    }

    /// A step of the cache with a layer of its own, last used that many hours ago.
    fn step(store: &Store, fill: u8, hours: u64) -> PathBuf {
        let layer = store.put_blob(&[fill; LAYER]).unwrap();
        let path = store.steps_dir().join(format!("{fill:02}"));
        fs::write(&path, format!(r#"{{"layer":"{layer}"}}"#)).unwrap();
        used(&path, hours);
        path
    }

    fn directory(path: PathBuf, hours: u64) -> PathBuf {
        fs::create_dir_all(path.join("fs")).unwrap();
        fs::write(path.join("fs/file"), [0; LAYER]).unwrap();
        used(&path, hours);
        path
    }

    fn used(path: &Path, hours: u64) {
        let time = SystemTime::now() - Duration::from_secs(hours * 3600);
        fs::File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_nobody_misses_goes_first_and_names_stay() {
        let dir = tempfile::tempdir().unwrap();
        let filler = Store::open(dir.path()).unwrap();
        let named = image(&filler, 1, &["localhost/x:latest".into()]);
        image(&filler, 2, &[]);
        let here = crate::store::boot_suffix(filler.boot_id());
        let snapshots = filler.snapshots_dir().join(format!("map-{here}"));
        let kept = [
            directory(snapshots.join("aa"), 2),
            directory(snapshots.join("bb"), 1),
            step(&filler, 3, 9),
            step(&filler, 4, 8),
            directory(filler.cache_mounts_dir().join("map/cc-0"), 99),
        ];
        drop(filler);

        let store = Store::open(dir.path()).unwrap();
        let limit = |bytes| Limit { bytes, images: true };
        let mut size = store.shrink(limit(u64::MAX)).unwrap().size;
        assert_eq!(store.list().unwrap().len(), 2, "below the limit nothing goes");

        // Half a layer too many costs one thing, and no more.
        for gone in 0..=kept.len() {
            let shrunk = store.shrink(limit(size - LAYER as u64 / 2)).unwrap();
            assert!(shrunk.size < size && shrunk.size + 2 * LAYER as u64 > size, "{gone}: {size} to {shrunk:?}");
            size = shrunk.size;
            assert_eq!(store.list().unwrap().len(), 1, "the image without a name was the first");
            let there: Vec<bool> = kept.iter().map(|path| path.exists()).collect();
            let want: Vec<bool> = (0..kept.len()).map(|i| i >= gone).collect();
            assert_eq!(there, want);
        }
        let last = store.shrink(limit(0)).unwrap();
        assert!(last.size >= LAYER as u64, "{last:?}");
        assert_eq!(store.list_blobs().unwrap().len(), 3);
        assert_eq!(store.open_blob(&named).unwrap().metadata().unwrap().len(), LAYER as u64);
        assert_eq!(store.check().unwrap().problems, []);
    }

    #[test]
    fn what_a_living_process_holds_stays() {
        let dir = tempfile::tempdir().unwrap();
        let busy = Store::open(dir.path()).unwrap();
        let layer = image(&busy, 1, &[]);
        let record = step(&busy, 2, 9);
        let name = format!("snapshots/map-{}/aa", crate::store::boot_suffix(busy.boot_id()));
        let snapshot = directory(busy.root().join(&name), 9);
        busy.hold(&name, || Some(())).unwrap();

        let store = Store::open(dir.path()).unwrap();
        let shrunk = store.shrink(Limit { bytes: 0, images: true }).unwrap();
        assert_eq!(shrunk.removed, Collected::default());
        assert!(shrunk.size >= 3 * LAYER as u64, "{shrunk:?}");
        assert!(snapshot.exists() && record.exists() && store.open_blob(&layer).is_ok());
        assert_eq!(store.list().unwrap().len(), 1);

        drop(busy);
        let shrunk = store.shrink(Limit { bytes: 0, images: false }).unwrap();
        assert!(!snapshot.exists() && !record.exists());
        assert_eq!((store.list().unwrap().len(), shrunk.removed.snapshots), (1, 1), "images were not to go");
        store.shrink(Limit { bytes: 0, images: true }).unwrap();
        assert_eq!(store.list_blobs().unwrap(), []);
    }
}
