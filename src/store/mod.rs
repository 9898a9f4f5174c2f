//! The content-addressed image store: one directory, shared safely by several rbuild processes.
//!
//! ```text
//! $RBUILD_ROOT/
//!   oci-layout, index.json      an OCI image layout that other tools can read; index.json holds the names
//!   blobs/sha256/<hex>          manifests, configs and layers; a layer made here lies uncompressed
//!   version                     the version of everything below
//!   snapshots/<key>/<chain>/    layer directories, derived from blobs (see `snapshot`)
//!   steps/<key>                 the step cache (see `cache`)
//!   compressed/<diff id>.<alg>  what a layer became when it was compressed: a descriptor, so that a push need not repeat it
//!   file-digests                digests of build contexts' files, by inode and time, so that they are not read again
//!   downloads/<digest of URL>   what ADD fetched: a record that names a blob
//!   mount-points/               an empty layer that gives every step's root file system the mount points it needs
//!   cache-mounts/<id map>/      directories of `RUN --mount=type=cache` (see `cache_mounts`)
//!   leases/<id>                 one locked file a process: what it uses
//!   tmp/<id>/                   one directory a process: what it is making
//!   partial/<digest>            blobs that are being fetched, or were when their process was killed
//!   uploads/<digest of place>   addresses of uploads that were begun
//!   reserve                     room that removing takes on a full file system
//!   lock                        see below
//! ```
//!
//! Invariants:
//!
//! * A blob appears under its digest by rename, when it is complete; so does every other file and directory. What a killed
//!   process leaves lies in its `tmp/` directory, and the next garbage collection drops it; what it was fetching the next
//!   process goes on with.
//! * Nothing waits for the disk until a name is published; then everything that the name reaches is synced first. Data
//!   that was written under another boot of the machine and never synced is verified before it is used again.
//! * `lock` is held shared for the moment in which a process finds something and writes it into its lease, and exclusively
//!   while index.json changes or garbage is collected. So nothing that a living process uses is ever collected.

mod blobs;
mod cache_mounts;
mod check;
mod error;
mod gc;
mod lease;
mod limit;
mod making;
mod names;
mod reserve;
mod unfinished;
mod verified;

pub use blobs::{BlobWriter, HashedBlobWriter};
pub use cache_mounts::CacheMount;
pub use check::{Checked, Problem};
pub use error::Error;
pub use gc::{Collected, GcOptions};
pub use lease::{TempDir, remove_tree};
pub use limit::{Limit, Shrunk};
pub use making::{Made, Making, Turn};
pub use names::NamedImage;
pub use unfinished::PartialBlob;
pub use verified::damage;

use crate::oci::{Descriptor, DiffId};
use lease::Lease;
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The layout version of everything that is not an OCI image layout.
const VERSION: &str = "1";

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lease: Lease,
    boot: String,
    uploads: unfinished::Uploads,
    making: Arc<Making>,
}

impl Store {
    /// Opens the store in `root`, and makes it where it does not exist.
    ///
    /// # Errors
    /// Where `root` cannot be made or written, or holds a store of another version.
    pub fn open(root: &Path) -> Result<Store, Error> {
        let make = |path: PathBuf| fs::create_dir_all(&path).map_err(Error::io("cannot create directory", &path));
        make(root.to_owned())?;
        // Mount options and the kernel's overlay want a path that does not depend on the working directory.
        let root = fs::canonicalize(root).map_err(Error::io("cannot resolve", root))?;
        for dir in ["blobs/sha256", "snapshots", "steps", "compressed", "leases", "tmp"] {
            make(root.join(dir))?;
        }
        {
            let _lock = lock(&root, Lock::Exclusive)?;
            let version = root.join("version");
            match fs::read_to_string(&version) {
                Ok(v) if v.trim() == VERSION => {}
                Ok(v) => return Err(Error::Version { root, found: v.trim().to_owned() }),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    write_atomically(&root, &root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
                    write_atomically(&root, &version, VERSION.as_bytes())?;
                }
                Err(e) => return Err(Error::io("cannot read", &version)(e)),
            }
        }
        let lease = reserve::with(&root, || Lease::new(&root))?;
        reserve::make(&root);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Ok(Store { root, lease, boot, uploads: Default::default(), making: Arc::default() })
    }

    /// The directory of the store, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names this boot of the machine; empty where the kernel does not say.
    pub fn boot_id(&self) -> &str {
        &self.boot
    }

    /// A fresh directory on the store's file system, removed when the value is dropped or, after a kill, by the next
    /// garbage collection.
    pub fn temp_dir(&self, what: &str) -> Result<TempDir, Error> {
        self.lease.temp_dir(what)
    }

    /// Bytes of regular files in this process's temporary directories, and of blobs being fetched: what it is making. For messages: what cannot be read
    /// does not count.
    pub fn unfinished_bytes(&self) -> u64 {
        let (mut bytes, mut todo) = (0, vec![self.lease.tmp_dir().to_owned(), self.partial_dir()]);
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(m) if m.is_dir() => todo.push(entry.path()),
                    Ok(m) if m.is_file() => bytes += m.len(),
                    _ => {}
                }
            }
        }
        bytes
    }

    /// Where layer directories of one id map lie.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Where the layer directory of empty mount points lies.
    pub fn mount_points_dir(&self) -> PathBuf {
        self.root.join("mount-points")
    }

    /// Where the digests of build contexts' files are remembered.
    pub fn file_memo_path(&self) -> PathBuf {
        self.root.join("file-digests")
    }

    /// Where the records of fetched files lie.
    pub fn downloads_dir(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// Where the records of the step cache lie.
    pub fn steps_dir(&self) -> PathBuf {
        self.root.join("steps")
    }

    /// Runs `find` while no garbage collection can run, and holds `what` (`blobs/…` or `snapshots/…`, relative to the store)
    /// in this process's lease where it found something. What the lease holds already cannot go away: then there is nothing
    /// to lock.
    pub fn hold<T>(&self, what: &str, find: impl FnOnce() -> Option<T>) -> Result<Option<T>, Error> {
        if self.lease.holds(what) {
            return Ok(find());
        }
        let _lock = self.lock_shared()?;
        let found = find();
        if found.is_some() {
            self.lease.hold(what)?;
        }
        Ok(found)
    }

    /// The descriptor that this layer had when it was last compressed with `algorithm`.
    pub fn compressed(&self, layer: &DiffId, algorithm: &str) -> Option<Descriptor> {
        serde_json::from_slice(&fs::read(self.compressed_path(layer, algorithm)).ok()?).ok()
    }

    /// Remembers what a layer became when it was compressed.
    pub fn remember_compressed(&self, layer: &DiffId, algorithm: &str, result: &Descriptor) -> Result<(), Error> {
        let json = serde_json::to_vec(result).map_err(|e| Error::Json { path: "a descriptor".into(), source: e })?;
        self.write_file(&self.compressed_path(layer, algorithm), &json)
    }

    /// Who of this process compresses which layer.
    pub fn making(&self) -> &Arc<Making> {
        &self.making
    }

    fn compressed_path(&self, layer: &DiffId, algorithm: &str) -> PathBuf {
        self.root.join("compressed").join(format!("{}.{algorithm}", layer.0.hex()))
    }

    /// Writes a whole file so that readers see the old content or the new one, without waiting for the disk.
    pub fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        let tmp = self.lease.temp_path("file")?;
        fs::write(&tmp, content).map_err(Error::io("cannot write", &tmp))?;
        fs::rename(&tmp, path).map_err(Error::io("cannot rename to", path))
    }

    fn lock_shared(&self) -> Result<File, Error> {
        lock(&self.root, Lock::Shared)
    }

    fn lock_exclusive(&self) -> Result<File, Error> {
        lock(&self.root, Lock::Exclusive)
    }
}

/// How to hold the store's lock.
enum Lock {
    Shared,
    Exclusive,
}

/// Opens a file that is there to be locked, and makes it where it is missing.
pub fn lock_file(path: &Path) -> Result<File, Error> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io("cannot open", path))
}

/// Takes the store's lock; the file gives it back when it is closed.
fn lock(root: &Path, how: Lock) -> Result<File, Error> {
    let path = root.join("lock");
    let file = lock_file(&path)?;
    let locked = match how {
        Lock::Shared => file.lock_shared(),
        Lock::Exclusive => file.lock(),
    };
    locked.map_err(Error::io("cannot lock", &path))?;
    Ok(file)
}

/// The end of a snapshot key: names the boot of the machine under which layer directories were made. They are never synced,
/// so after a crash of the machine they are made again from blobs, whose digests are checked on the way.
pub fn boot_suffix(boot_id: &str) -> String {
    boot_id.chars().filter(char::is_ascii_hexdigit).take(8).collect()
}

/// tmp → fsync → rename → fsync of the directory: after this returns, the content survives a power cut. Call with the lock
/// held exclusively: the temporary name is the same for all.
fn write_atomically(root: &Path, path: &Path, content: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tmp = root.join("tmp").join(format!(".{name}"));
    let mut file = File::create(&tmp).map_err(Error::io("cannot create", &tmp))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::io("cannot write", &tmp))?;
    fs::rename(&tmp, path).map_err(Error::io("cannot rename to", path))?;
    sync_dir(path.parent().unwrap_or(root))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("cannot sync", dir))
}

#[cfg(test)]
mod tests;
