//! An overlay file system in user space, for storage on which the kernel's overlayfs cannot be mounted.
//!
//! ```text
//! a step's processes ── kernel ── /dev/fuse ── server threads ── layer directories (lowers), upper directory
//! ```
//!
//! The server is a process of its own (`rbuild fuse`), so that no thread of the builder ever waits for itself. It lives as
//! long as the mount does. What it leaves in the upper directory is what overlayfs leaves there (see `crate::archive`):
//! whiteouts only where a lower layer has the name, opaque directories where a lower one would show through, copied-up files
//! with `user.overlay.origin`, escaped `user.overlay.*` attributes, parents' times as if nothing had been copied. So the
//! layers of both drivers have the same bytes.
//!
//! How it is built:
//!
//! * [`layers`]: one layer directory and its files by path. Paths have parents that were found to be directories of that very
//!   layer, or are opened with no link on the way.
//! * [`tree`]: the inodes that the kernel knows, by number and by name. The kernel's forgets empty it.
//! * [`find`]: the overlay's rules: what a name means, what a directory holds.
//! * [`copyup`]: making a lower file an upper one. [`change`] and [`rename`]: new names, removed names.
//! * [`data`]: contents. [`attrs`]: metadata and extended attributes. [`session`]: the protocol. [`process`]: the server, and
//!   how a mount comes to it.
//!
//! What keeps it fast: nothing but this mount changes the files, so the kernel may keep names, absent names, attributes and
//! contents as long as it likes; files are opened and closed without a message; directories are read with their attributes.
//! Writes go through at once: sizes, times, holes and a full disk are then as a program expects them.
//!
//! Locks, in the order in which they are taken: a node's `place` (what it is on disk), then `moves` (held shared while a path is
//! made and used, exclusively while names change), then the tree's own.
//!
//! Inode numbers ([`numbers`]) are made of those on disk: of the lower file for a file that was copied up, of the uppermost
//! lower directory for a merged one. None is ever another file's. As in overlayfs, each name of a lower file with several names
//! is a file of its own as soon as it is changed; the number is the same until then.

mod attrs;
mod change;
mod copyup;
mod data;
mod find;
mod layers;
mod numbers;
mod process;
mod rename;
mod session;
#[cfg(test)]
mod tests;
mod tree;

pub(super) use process::{SOCKET, Server};
pub use process::{is_server, main, mount_served, run_beside};
pub use session::serve;

use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::lazy::Asking;
use layers::Layer;
use tree::Tree;

/// What the system calls behind an operation answered.
type Result<T> = std::result::Result<T, Errno>;

/// Something to stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lower {
    /// A layer directory, which holds `fs/`.
    Layer(PathBuf),
    /// The same, but the contents of its regular files have to be asked for.
    Skeleton(PathBuf),
    /// A directory that is shown as it is.
    Directory(PathBuf),
}

/// Layers to stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Uppermost first.
    pub lowers: Vec<Lower>,
    /// The layer directory that takes the changes.
    pub upper: PathBuf,
    /// An empty directory on the same file system, for files in the making.
    pub work: PathBuf,
}

/// The file system.
struct Overlay {
    /// Uppermost first.
    lowers: Vec<Layer>,
    upper: Layer,
    work: Layer,
    /// Number of the next file in `work`.
    next: AtomicU64,
    tree: Mutex<Tree>,
    moves: RwLock<()>,
    files: Mutex<data::Files>,
    dirs: Mutex<find::Handles>,
}

impl Overlay {
    fn open(layers: &Layers, asking: Option<&Asking>) -> io::Result<Overlay> {
        let lowers = layers
            .lowers
            .iter()
            .map(|lower| match lower {
                Lower::Layer(dir) => Layer::open(dir),
                Lower::Skeleton(dir) => Layer::skeleton(dir, asking),
                Lower::Directory(dir) => Layer::plain(dir),
            })
            .collect::<io::Result<Vec<_>>>()?;
        let upper = Layer::open(&layers.upper)?;
        let work = Layer::plain(&layers.work)?;
        let tree = Mutex::new(Tree::new(&upper, &lowers)?);
        Ok(Overlay {
            lowers,
            upper,
            work,
            next: AtomicU64::new(0),
            tree,
            moves: RwLock::new(()),
            files: Mutex::default(),
            dirs: Mutex::default(),
        })
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No name changes while this is held.
    fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.moves.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held while names change.
    fn moving(&self) -> RwLockWriteGuard<'_, ()> {
        self.moves.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lower(&self, index: u16) -> Result<&Layer> {
        self.lowers.get(usize::from(index)).ok_or(Errno::STALE)
    }

    /// A name in `work` that nobody has.
    fn fresh(&self) -> PathBuf {
        PathBuf::from(self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string())
    }
}

/// `dir/name`, where `dir` may be the root.
fn join(dir: &Path, name: &std::ffi::OsStr) -> PathBuf {
    dir.join(name)
}
