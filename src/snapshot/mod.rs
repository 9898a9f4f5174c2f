//! Layer directories: the layers of images as directories that an overlay can stack.
//!
//! ```text
//! snapshots/<id map>-<boot>/<chain id>/
//!   fs/         the files of the top layer of that chain; whiteouts and opaque marks are overlayfs' own
//!   records     what the file system could not store (see `archive::record`)
//! ```
//!
//! A directory is named by the *chain* ID, not by the layer's own: where a layer lands depends on what is below it (a
//! directory that is a symbolic link there, the metadata of parents that it does not list).
//!
//! Layer directories are derived from blobs and can be dropped at any time that nobody uses them. They are kept apart by
//! id map, because the same file belongs to somebody else under another map, and by boot of the machine, because they are
//! never synced: after a crash they are made again, with the digest of the blob checked on the way.

mod check;
pub mod driver;
mod error;
pub mod fuse;
pub mod lazy;

pub use check::Compared;
pub use driver::{Choice, Driver, Links, Prepared, Root, RootSpec, is_probe, probe_main};
pub use error::Error;

use crate::archive::{
    compress::{Ahead, Decoder},
    extract::{self, Limits},
    layer::Layer,
    merged::Merged,
};
use crate::oci::{ChainId, DiffId, Digest, Hashing};
use crate::store::{Store, TempDir, boot_suffix, lock_file, remove_tree};
use crate::sys::idmap::IdMap;
use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

/// Layer directories that are kept open for the next view, each with one descriptor.
const MAX_OPEN: usize = 256;

/// A layer of an image: what it is, and the blob that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob as it lies in the store, compressed or not.
    pub blob: Digest,
}

/// The layer directories of a store, for the id map of this process.
#[derive(Debug)]
pub struct Snapshots<'a> {
    store: &'a Store,
    map: IdMap,
    key: String,
    /// Layer directories that were opened for a view, by path: the steps of a stage have nearly all of them in common.
    open: Mutex<HashMap<PathBuf, Arc<Layer>>>,
    /// Trees of the copy driver between two steps.
    idle: driver::copy::Idle,
    choice: Choice,
    driver: OnceLock<driver::Chosen>,
}

/// A layer in the making.
#[derive(Debug)]
pub struct Active {
    dir: TempDir,
    /// What the copy driver can go on with.
    slot: driver::copy::Slot,
}

impl Active {
    /// The layer directory: holds `fs/`, and `records` when something was recorded.
    pub fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// Where the contents of a skeleton's files are kept.
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory that takes the files.
    pub fn upper(&self) -> PathBuf {
        self.layer().join("fs")
    }

    /// The directory that an overlay mount needs for itself, empty.
    ///
    /// # Errors
    /// Where what an earlier mount left in it cannot be removed. A volatile overlay leaves a mark, with which the kernel
    /// refuses the directory.
    pub fn work(&self) -> Result<PathBuf, Error> {
        let work = self.dir.path().join("work");
        remove_tree(&work).map_err(Error::io("cannot empty", &work))?;
        make_dir(&work)?;
        Ok(work)
    }

    /// An empty directory that a file system can be mounted on.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn mount_place(&self) -> Result<PathBuf, Error> {
        let place = self.dir.path().join("root");
        match fs::create_dir(&place) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io("cannot create directory", &place)(e))
            }
            _ => Ok(place),
        }
    }
}

impl<'a> Snapshots<'a> {
    /// The layer directories for the id map of this process.
    ///
    /// # Errors
    /// Where the directory for them cannot be made.
    pub fn new(store: &'a Store, map: IdMap) -> Result<Self, Error> {
        let key = format!("{}-{}", map.key(), boot_suffix(store.boot_id()));
        let dir = store.snapshots_dir().join(&key);
        fs::create_dir_all(&dir).map_err(Error::io("cannot create directory", &dir))?;
        let (open, idle) = (Mutex::default(), Default::default());
        let (choice, driver) = (Choice::Best, OnceLock::new());
        Ok(Snapshots { store, map, key, open, idle, choice, driver })
    }

    /// The same, with this driver.
    #[must_use]
    pub fn with_driver(self, choice: Choice) -> Self {
        Snapshots { choice, driver: OnceLock::new(), ..self }
    }

    /// The driver that makes root file systems of layer directories.
    ///
    /// # Errors
    /// Where the one that was asked for cannot be used here.
    pub fn driver(&self) -> Result<&dyn Driver, Error> {
        Ok(&*self.chosen()?.driver)
    }

    /// One line about the driver, where it is not the best that there is.
    ///
    /// # Errors
    /// Those of [`Snapshots::driver`].
    pub fn driver_note(&self) -> Result<Option<String>, Error> {
        let chosen = self.chosen()?;
        Ok(chosen.reason.as_ref().map(|why| format!("storage driver `{}`: {why}", chosen.driver.name())))
    }

    fn chosen(&self) -> Result<&driver::Chosen, Error> {
        if let Some(chosen) = self.driver.get() {
            return Ok(chosen);
        }
        let chosen = self.choice.driver(self.store, &self.map)?;
        Ok(self.driver.get_or_init(|| chosen))
    }

    /// A root file system for a step.
    ///
    /// # Errors
    /// Those of [`Snapshots::driver`] and of [`Driver::prepare`].
    pub fn root(&self, wanted: &RootSpec<'_>) -> Result<Box<dyn Prepared>, Error> {
        self.driver()?.prepare(self, wanted)
    }

    /// The id map that the directories are made under.
    pub fn map(&self) -> &IdMap {
        &self.map
    }

    /// The layer directory of a chain, relative to the store.
    fn name(&self, chain: ChainId) -> String {
        format!("snapshots/{}/{}", self.key, chain.0.hex())
    }

    fn path(&self, chain: ChainId) -> PathBuf {
        self.store.root().join(self.name(chain))
    }

    /// The layer directory of a chain, if it is here; then it is in this process's lease.
    ///
    /// # Errors
    /// Where the lease cannot be written.
    pub fn find(&self, chain: ChainId) -> Result<Option<PathBuf>, Error> {
        let path = self.path(chain);
        let held = self.store.hold(&self.name(chain), || path.is_dir().then_some(()))?;
        Ok(held.map(|()| path))
    }

    /// The layer directories of a stack of layers, lowest first. Those that are not here are extracted from their blobs;
    /// before blob number `i` is opened, `wait(i)` is called, which returns when it is there.
    ///
    /// # Errors
    /// Where a blob is missing, is no valid layer, or does not have its diff ID; where the file system refuses.
    pub fn ensure<E: From<Error>>(
        &self,
        layers: &[LayerRef],
        mut wait: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<PathBuf>, E> {
        let mut dirs: Vec<PathBuf> = Vec::with_capacity(layers.len());
        let mut chain = None;
        for (i, layer) in layers.iter().enumerate() {
            let this = ChainId::child(chain, layer.diff_id);
            chain = Some(this);
            let dir = match self.find(this)? {
                Some(dir) => dir,
                None => {
                    wait(i)?;
                    self.make(this, layer, &dirs)?
                }
            };
            dirs.push(dir);
        }
        Ok(dirs)
    }

    /// The files of a stack of finished layer directories, lowest first, read without a mount.
    ///
    /// # Errors
    /// Where one is not there, or its records cannot be read.
    pub fn view(&self, dirs: &[PathBuf]) -> Result<Merged, Error> {
        Ok(Merged::of(self.opened(dirs)?, &self.map))
    }

    /// The files as they are now with an unfinished layer on top of finished ones.
    ///
    /// # Errors
    /// As [`Snapshots::view`].
    pub fn view_with(&self, dirs: &[PathBuf], top: &Active) -> Result<Merged, Error> {
        let mut layers = self.opened(dirs)?;
        layers.push(Arc::new(Layer::open(&top.layer())?));
        Ok(Merged::of(layers, &self.map))
    }

    fn opened(&self, dirs: &[PathBuf]) -> Result<Vec<Arc<Layer>>, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() + dirs.len() > MAX_OPEN {
            open.retain(|_, layer| Arc::strong_count(layer) > 1);
        }
        let mut layers = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let layer = match open.get(dir) {
                Some(layer) => layer.clone(),
                None => {
                    // The time of the directory says when the layer was last of use, for a limit to the store.
                    let _ = File::open(dir).and_then(|d| d.set_modified(SystemTime::now()));
                    open.entry(dir.clone()).or_insert(Arc::new(Layer::open_finished(dir)?)).clone()
                }
            };
            layers.push(layer);
        }
        Ok(layers)
    }

    /// Extracts one layer on top of `below`. Of several processes that want the same, one works and the others wait.
    fn make(&self, chain: ChainId, layer: &LayerRef, below: &[PathBuf]) -> Result<PathBuf, Error> {
        let lock_path = self.store.snapshots_dir().join(&self.key).join(format!(".{}.lock", chain.0.hex()));
        let lock = lock_file(&lock_path)?;
        lock.lock().map_err(Error::io("cannot lock", &lock_path))?;
        if let Some(dir) = self.find(chain)? {
            return Ok(dir);
        }
        let active = self.extract(layer, &self.view(below)?)?;
        let dir = self.publish(active, chain)?;
        let _ = fs::remove_file(&lock_path);
        Ok(dir)
    }

    /// Extracts one layer on top of `lower`, out of sight.
    fn extract(&self, layer: &LayerRef, lower: &Merged) -> Result<Active, Error> {
        let active = self.prepare_empty()?;
        let blob = self.store.open_blob(&layer.blob)?;
        let unreadable = |source| self.store.blame(&layer.blob, Error::Unreadable { layer: *layer, source });
        let tar = Hashing::new(Decoder::new(blob).map_err(unreadable)?);
        // Decompressing and hashing on one thread, making files on the other.
        let mut ahead = Ahead::new(tar).map_err(unreadable)?;
        extract::extract(&mut ahead, &active.layer(), lower, &Limits::default())
            .map_err(|e| self.store.blame(&layer.blob, Error::from(e)))?;
        // The extractor has read the archive to its end: the digest is of everything.
        let tar = ahead.into_inner().map_err(unreadable)?;
        let (_, found, _) = tar.finish();
        if found != layer.diff_id.0 {
            return Err(self.store.blame(&layer.blob, Error::WrongDiffId { layer: *layer, found }));
        }
        Ok(active)
    }

    fn prepare_empty(&self) -> Result<Active, Error> {
        let dir = self.store.temp_dir("layer")?;
        let active = Active { dir, slot: Default::default() };
        make_dir(&active.layer())?;
        Ok(active)
    }

    /// Starts a new layer: an empty directory for its files, and one for the overlay's own use.
    pub fn prepare(&self) -> Result<Active, Error> {
        let active = self.prepare_empty()?;
        make_dir(&active.upper())?;
        Ok(active)
    }

    /// Keeps a finished layer as the top of `chain`. Where it is there already, the one that is there stays.
    pub fn publish(&self, active: Active, chain: ChainId) -> Result<PathBuf, Error> {
        let path = self.path(chain);
        let held = self.store.hold(&self.name(chain), || Some(fs::rename(active.layer(), &path)))?;
        match held.unwrap_or(Ok(())) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
                return Err(Error::io("cannot rename to", &path)(e));
            }
            _ => {}
        }
        if let Some(left) = active.slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.idle.keep(left.publish(path.clone()));
        }
        Ok(path)
    }
}

/// An emptyDir with an fsGroup is setgid, and new directories inherit that: the root of a layer must not.
fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir(path).map_err(Error::io("cannot create directory", path))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, mode).map_err(Error::io("cannot change mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_layer_that_is_read_counts_as_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let snapshots = Snapshots::new(&store, IdMap::Plain).unwrap();
        let chain = ChainId::child(None, DiffId(Digest::of("layer")));
        let layer = snapshots.publish(snapshots.prepare().unwrap(), chain).unwrap();
        let used = || fs::metadata(&layer).unwrap().modified().unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        File::open(&layer).unwrap().set_modified(long_ago).unwrap();
        snapshots.view(std::slice::from_ref(&layer)).unwrap();
        assert!(used() > long_ago + Duration::from_secs(1800));
    }
}
