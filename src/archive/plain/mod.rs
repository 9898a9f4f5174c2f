//! A root file system as one plain directory, where nothing can be mounted: a copy of everything that a stack of layer
//! directories shows, and the way back from what a step changed in it to a layer directory.
//!
//! ```text
//! layer directories ── fill ──► tree ── a step ──► tree' ── collect ──► what overlayfs would have left in its upper directory
//!                                 ▲                  │
//!                                 └── follow ────────┘  the next step of the stage goes on with it
//! ```
//!
//! * [`state`]: what `stat` said of every file, compact. Two of them, before and after a step, tell what it changed.
//! * [`touched`] and [`again`]: where a supervisor tells what a step may have changed, only that is looked at for the second.
//! * [`make`] and [`fill`]: layer directories to tree. Owners, modes, times and attributes are those on disk, so everything that reads
//!   records by path reads the same as through an overlay.
//! * [`collect`]: tree to layer directory. What it leaves is what overlayfs leaves, whiteouts, opaque directories and marks
//!   of copied files included, so [`diff`](super::diff) and the rules of inheritance need not know.
//! * [`raw`]: metadata as the disk has it.
//!
//! A file counts as changed when its inode, its time of making or its time of change differs. [`Plain::settle`] waits until
//! the clock of the file system has moved on since the last of those times, so no change can hide in the same tick.
//!
//! Two names of one file stay two names of one file in the tree, as overlayfs shows them. Where a tree may share its files
//! with the layer directories ([`Sharing::Broken`]), they are hardlinks of those, and whoever runs the step gives a file
//! its own copy ([`break_link`]) before anything of it changes: a file that still is the layer's is unchanged.

mod again;
#[cfg(test)]
mod again_tests;
mod collect;
mod fill;
mod make;
mod raw;
mod state;
#[cfg(test)]
mod tests;
mod touched;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

use super::copy::transfer::Transfer;
use super::error::Error;
use super::layer;
use super::node;
use crate::sys::idmap::IdMap;
use again::Again;
use state::State;

pub use collect::Kept;
pub use make::break_link;
pub use touched::Touched;

/// Whether files of a tree may be the same as files of layer directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Every file is a copy.
    #[default]
    Never,
    /// They may: nothing of a file is changed before it has been given a copy of its own with [`break_link`].
    Broken,
}

/// How a directory looked at one moment, to find out whether anybody has changed anything since.
#[derive(Debug, PartialEq, Eq)]
pub struct Glance(State);

impl Glance {
    /// Looks at everything in a directory.
    ///
    /// # Errors
    /// One of its directories cannot be read.
    pub fn at(dir: &Path) -> Result<Glance, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(Error::file("open directory", dir))?;
        State::scan(&fd).map(Glance).map_err(|(path, e)| Error::file("inspect", &dir.join(path))(e))
    }
}

/// Longest wait for the clock of a file system.
const PATIENCE: Duration = Duration::from_secs(3);

/// A directory that holds all files of a root file system.
#[derive(Debug)]
pub struct Plain {
    root: PathBuf,
    fd: OwnedFd,
    map: IdMap,
    sharing: Sharing,
    state: State,
    /// Whether `state` is how everything is.
    known: bool,
    /// Whether files and directories have one device number.
    one_device: bool,
    /// Whether somebody outside of the steps may have descriptors of files.
    shared: bool,
    transfer: Transfer,
    /// Where the first name of a file with several was made, by layer and inode.
    made: HashMap<(usize, u64), PathBuf>,
}

impl Plain {
    /// Makes the empty directory `root`; its parent exists.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn create(root: &Path, map: &IdMap, sharing: Sharing) -> Result<Plain, Error> {
        let failed = |e: rustix::io::Errno| Error::file("create directory", root)(e);
        rustix::fs::mkdir(root, Mode::from_raw_mode(0o700)).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        raw::forget_parent(&fd, map).map_err(failed)?;
        let (state, transfer, made) = (State::default(), Transfer::default(), HashMap::new());
        let (known, one_device, shared) = (false, false, false);
        Ok(Plain { root: root.to_owned(), fd, map: *map, sharing, state, known, one_device, shared, transfer, made })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Remembers how everything is now, as what the next [`collect`](Plain::collect) compares with. After a collect, when
    /// nothing was done to the tree since but by its own functions, it knows.
    ///
    /// # Errors
    /// A directory cannot be read, or there are too many files.
    pub fn settle(&mut self) -> Result<(), Error> {
        if !self.known {
            self.state = State::scan(&self.fd).map_err(|(path, e)| self.failed("inspect", &path, e))?;
            self.known = true;
        }
        self.tick()
    }

    /// Waits until a file that changes now gets a later time than any that is remembered.
    fn tick(&mut self) -> Result<(), Error> {
        let probe = self.root.with_extension("tick");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let failed = |e: rustix::io::Errno| Error::file("write", &probe)(e);
        let file = rustix::fs::open(&probe, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let mut waited = Duration::ZERO;
        loop {
            rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now }).map_err(failed)?;
            let stat = rustix::fs::fstat(&file).map_err(failed)?;
            self.one_device = rustix::fs::fstat(&self.fd).is_ok_and(|own| own.st_dev == stat.st_dev);
            if state::nanoseconds(stat.st_ctime, stat.st_ctime_nsec as u32) > self.state.newest() || waited > PATIENCE {
                break;
            }
            let pause = Duration::from_millis(1);
            std::thread::sleep(pause);
            waited += pause;
        }
        let _ = rustix::fs::unlink(&probe);
        Ok(())
    }

    /// How everything is now; `None`: as it was when the tree was settled. `touched`: what may have changed since, where somebody
    /// knows.
    fn look_again(&mut self, touched: Option<&Touched>) -> Result<Option<State>, Error> {
        self.shared |= touched.is_some_and(Touched::is_lasting);
        let trusted = self.known && !self.shared && self.sharing == Sharing::Never;
        let short = touched
            .filter(|_| trusted && touched::tells(&self.fd, self.one_device))
            .and_then(|touched| self.state.again(&self.fd, touched));
        let scan = || State::scan(&self.fd).map_err(|(path, e)| self.failed("inspect", &path, e));
        // Every test of a step under a supervisor is a test of this.
        #[cfg(debug_assertions)]
        if let Some(found) = &short {
            let found = if let Again::Other(new) = found { new } else { &self.state };
            assert_eq!(scan()?.first_difference(found), None, "a change that the supervisor did not tell of");
        }
        Ok(match short {
            Some(Again::Same) => None,
            Some(Again::Other(new)) => Some(new),
            None => Some(scan()?).filter(|new| !self.known || *new != self.state),
        })
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    fn failed(&self, action: &'static str, path: &Path, e: impl Into<std::io::Error>) -> Error {
        Error::file(action, &self.absolute(path))(e)
    }

    fn stat(&self, path: &Path) -> Result<Option<rustix::fs::Stat>, Error> {
        layer::stat(&self.fd, path).map_err(|e| self.failed("inspect", path, e))
    }

    fn open_dir(&self, path: &Path) -> Result<OwnedFd, Error> {
        layer::open_dir(&self.fd, path).map_err(|e| self.failed("open directory", path, e))
    }

    /// Removes what is at `path`, if anything is.
    fn remove(&self, path: &Path) -> Result<(), Error> {
        let failed = |e| self.failed("remove", path, e);
        match rustix::fs::unlinkat(&self.fd, node::at(path), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
                super::upper::remove_tree(&self.fd, path.as_os_str()).map_err(failed)
            }
            Err(e) => Err(failed(e)),
        }
    }
}
