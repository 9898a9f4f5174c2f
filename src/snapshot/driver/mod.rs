//! Drivers: how a step gets a root file system from layer directories, and how what it changed gets into the layer that it
//! makes.
//!
//! ```text
//! layer directories ── Driver::prepare ──► Root ── the step runs ──► Prepared::collect ──► top layer directory
//! ```
//!
//! | driver    | the root of a step                                | what changed                                |
//! |-----------|---------------------------------------------------|---------------------------------------------|
//! | `overlay` | the kernel's overlay, mounted by the step's init  | is in the top layer's `fs/` at once         |
//! | `fuse`    | an overlay of rbuild's own, mounted likewise      | is there when its server has ended          |
//! | `copy`    | a directory with a copy of every file             | is found by a scan, and copied into `fs/`   |
//!
//! Whatever the driver, the top layer directory ends up the same, as far as layers go: `docs/layers.md` says what that means
//! where an overlay and a directory behave differently.

pub(super) mod copy;
mod fuse;
mod overlay;
mod probe;

pub use copy::Copy;
pub use fuse::Fuse;
pub use overlay::Overlay;
use probe::Refused;
pub use probe::{is_probe, main as probe_main};

use super::{Active, Error, Snapshots, lazy};
use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::store::Store;
use crate::sys::idmap::IdMap;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The root file system of a step, as the sandbox shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// An overlay of the kernel, which the step's init mounts.
    Overlay {
        /// Root directories of the layers below, lowest first, without the stub; never empty unless there is a stub.
        lowers: Vec<PathBuf>,
        /// Directory that takes the changes.
        upper: PathBuf,
        /// Empty directory on the same file system as `upper`.
        work: PathBuf,
        /// Root directory of the layer of empty mount points, which belongs below all others.
        stub: Option<PathBuf>,
    },
    /// An overlay in user space, which the step's init mounts and a server of the builder's serves.
    Fuse {
        /// Empty directory to mount it on.
        place: PathBuf,
        /// Where the server waits for the mounted device.
        socket: PathBuf,
        /// Directory that takes the changes.
        upper: PathBuf,
    },
    /// A directory that holds all files: one that was put together, or where a file system is mounted.
    Directory {
        /// Absolute path.
        path: PathBuf,
    },
}

/// Whether files of a root file system may be hardlinks of files in layer directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Links {
    /// They are files of their own.
    #[default]
    Own,
    /// They may be: a supervisor of the step gives a file a copy of its own before the step changes anything of it.
    Broken,
}

/// What a step works on.
#[derive(Debug, Clone, Copy)]
pub struct RootSpec<'w> {
    /// Layer directories below, lowest first. At least one, or a stub.
    pub layers: &'w [PathBuf],
    /// Further layer directories above them that only this step sees. What it leaves there as it was is in no layer.
    pub extra: &'w [PathBuf],
    /// Layer directory of empty mount points, below all others. They are in no layer.
    pub stub: Option<&'w Path>,
    /// The layer that takes the changes; what it holds already lies above all others.
    pub top: &'w Active,
    /// Whether files may be hardlinks.
    pub links: Links,
    /// The only path (clean, no links in it, what it leads to exists) below which files are needed; empty for all. Others may
    /// be missing.
    pub part: &'w Path,
    /// Where some of `layers`, which are the stack's then, are skeletons. No driver but `fuse` takes them.
    pub lazy: Option<&'w lazy::Stack>,
}

/// Which driver is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that the storage directory allows.
    #[default]
    Best,
    /// The kernel's overlay.
    Overlay,
    /// An overlay in user space.
    Fuse,
    /// Copies.
    Copy,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Choice, String> {
        match name {
            "overlay" => Ok(Choice::Overlay),
            "fuse" => Ok(Choice::Fuse),
            // `vfs` is what buildah calls its driver that copies.
            "copy" | "vfs" => Ok(Choice::Copy),
            _ => Err(format!("`{name}` is no storage driver: there are `overlay`, `fuse` and `copy`")),
        }
    }
}

/// A driver that was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub driver: Box<dyn Driver>,
    /// Why it is not the best that there is.
    pub reason: Option<String>,
}

impl Choice {
    /// The driver, and why it is not the best one, if it is not.
    pub(super) fn driver(self, store: &Store, map: &IdMap) -> Result<Chosen, Error> {
        // What the kernel refuses once for a store, it refuses for every build of this process.
        static REFUSED: Mutex<BTreeMap<PathBuf, Option<Refused>>> = Mutex::new(BTreeMap::new());
        let overlay: Box<dyn Driver> = Box::new(Overlay);
        let reason = match self {
            Choice::Overlay if *map == IdMap::Plain => return Err(Error::NoDriver("overlay")),
            Choice::Fuse if *map == IdMap::Plain => return Err(Error::NoDriver("fuse")),
            Choice::Overlay => return Ok(Chosen { driver: overlay, reason: None }),
            Choice::Fuse => return Ok(Chosen { driver: Box::new(Fuse), reason: Some("it was asked for".into()) }),
            Choice::Copy => "it was asked for".to_owned(),
            Choice::Best => {
                let mut known = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
                let refused = known.entry(store.root().to_owned()).or_insert_with(|| probe::refused(store)).clone();
                match refused {
                    None => return Ok(Chosen { driver: overlay, reason: None }),
                    Some(Refused { overlay, fuse: None }) => {
                        return Ok(Chosen { driver: Box::new(Fuse), reason: Some(overlay) });
                    }
                    Some(Refused { overlay, fuse: Some(fuse) }) => format!("{overlay}; {fuse}"),
                }
            }
        };
        Ok(Chosen { driver: Box::new(Copy), reason: Some(reason) })
    }
}

/// A way to make root file systems of layer directories.
pub trait Driver: Debug + Send + Sync {
    /// What `--storage-driver` calls it.
    fn name(&self) -> &'static str;

    /// Whether it takes skeletons for layers.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Makes a root file system. It lives as long as the answer.
    ///
    /// # Errors
    /// Where a layer directory cannot be read, or the file system refuses.
    fn prepare(&self, snapshots: &Snapshots<'_>, wanted: &RootSpec<'_>) -> Result<Box<dyn Prepared>, Error>;

    /// Shows a directory of the machine that is no layer, with changes that go into `top` and are lost with it.
    ///
    /// # Errors
    /// Where the directory cannot be read, or the file system refuses.
    fn prepare_over(
        &self,
        snapshots: &Snapshots<'_>,
        directory: &Path,
        top: &Active,
    ) -> Result<Box<dyn Prepared>, Error>;
}

/// A root file system that is ready for a step. Dropping it drops what the step changed, unless it was collected.
pub trait Prepared: Debug + Send {
    /// Where it is.
    fn root(&self) -> Root;

    /// What is recorded of the files of the root file system when the step begins, by path.
    ///
    /// # Errors
    /// Where a file cannot be looked up.
    fn records(&self) -> Result<Records, Error>;

    /// Puts what the step changed into the top layer directory. To be called when the step and all its processes have
    /// ended, and its mounts are gone.
    ///
    /// `kept` is what the supervisor of the step kept of the files when the step had ended: complete, for all
    /// files that the step saw, or for those in the top layer directory where the driver puts them there at once. `touched`
    /// is what the step may have changed, where the supervisor saw it.
    ///
    /// # Errors
    /// Where a file cannot be read or copied. The top layer directory is then good for nothing.
    fn collect(self: Box<Self>, kept: Records, touched: Option<&Touched>) -> Result<(), Error>;
}
