//! The files of one directory on disk by path: a layer's, the upper one's, or those in the making.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Result;
use crate::archive::layer::{self, Contents as _};
use crate::archive::record;
use crate::snapshot::lazy::Asking;

/// Longest path that is given to the kernel in one piece, in bytes; it takes 4095.
const PIECE: usize = 4000;

/// An open directory.
pub(super) struct Layer {
    root: OwnedFd,
    /// Directories whose opaque mark is in the records.
    opaque: HashSet<PathBuf>,
    /// By whom the contents of regular files come, where these are holes.
    asking: Option<Asking>,
}

impl Layer {
    /// Opens `dir/fs`, with the records beside it.
    pub fn open(dir: &Path) -> io::Result<Layer> {
        let records = record::opaque_directories(dir).map_err(io::Error::other)?;
        Ok(Layer { opaque: records, ..Layer::plain(&dir.join(layer::FS))? })
    }

    /// Opens `dir/fs` of a skeleton.
    pub fn skeleton(dir: &Path, asking: Option<&Asking>) -> io::Result<Layer> {
        let asking = asking.ok_or_else(|| io::Error::other("nobody to ask for contents"))?;
        Ok(Layer { asking: Some(asking.clone()), ..Layer::open(dir)? })
    }

    /// Opens `dir` itself.
    pub fn plain(dir: &Path) -> io::Result<Layer> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("cannot open `{}`: {e}", dir.display())))?;
        Ok(Layer { root, opaque: HashSet::new(), asking: None })
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Calls `f` with a directory and a path below it that the kernel takes in one piece. Steps make trees that are deeper
    /// than any path can say.
    pub fn at<T>(&self, path: &Path, f: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T>) -> Result<T> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() {
            return f(self.root(), Path::new("."));
        }
        if bytes.len() <= PIECE {
            return f(self.root(), path);
        }
        let (mut dir, mut rest): (Option<OwnedFd>, &[u8]) = (None, bytes);
        while rest.len() > PIECE {
            let cut = rest.iter().take(PIECE).rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let (head, tail) = rest.split_at(cut);
            let at = dir.as_ref().map_or(self.root(), |dir| dir.as_fd());
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            dir = Some(open(at, Path::new(std::ffi::OsStr::from_bytes(head)), flags)?);
            rest = tail.get(1..).unwrap_or_default();
        }
        let at = dir.as_ref().map_or(self.root(), |dir| dir.as_fd());
        f(at, Path::new(std::ffi::OsStr::from_bytes(rest)))
    }

    /// `lstat`; `None` for what does not exist.
    pub fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        match self.at(path, |dir, path| rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(mut stat) => {
                // As if it had its contents.
                if self.is_hollow(&stat) {
                    stat.st_blocks = stat.st_size.cast_unsigned().div_ceil(512).try_into().unwrap_or(0);
                }
                Ok(Some(stat))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a file or a directory; neither it nor a parent may be a link.
    pub fn open_at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        self.at(path, |dir, path| open(dir, path, flags))
    }

    /// Whether its regular files have their contents elsewhere.
    pub fn is_skeleton(&self) -> bool {
        self.asking.is_some()
    }

    /// Whether a file of this layer has its contents elsewhere.
    pub fn is_hollow(&self, stat: &Stat) -> bool {
        self.asking.is_some() && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size > 0
    }

    /// Opens a file or a directory for reading what it holds, as [`Layer::open_at`] does.
    pub fn open_contents(&self, path: &Path) -> Result<OwnedFd> {
        let fd = self.open_at(path, OFlags::RDONLY)?;
        let Some(asking) = &self.asking else { return Ok(fd) };
        let stat = rustix::fs::fstat(&fd)?;
        if !self.is_hollow(&stat) {
            return Ok(fd);
        }
        asking.open(stat.st_ino).map(OwnedFd::from).map_err(|_| Errno::IO)
    }

    /// Whether the directory at `path` hides those below it.
    pub fn is_opaque(&self, path: &Path) -> Result<bool> {
        if !self.opaque.is_empty() && self.opaque.contains(path) {
            return Ok(true);
        }
        layer::opaque_mark(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }
}

/// openat2 with no link on the way, or the same step by step where the kernel or a filter lacks it.
fn open(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let mut flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // openat2 refuses flags without meaning.
    if !flags.contains(OFlags::PATH) {
        flags |= OFlags::NOCTTY | OFlags::NONBLOCK;
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
        // A path of one component needs no more than NOFOLLOW; of longer ones the tree has found the parents to be
        // directories of this layer, and nobody else changes them.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(dir, path, flags, Mode::empty()),
        answer => answer,
    }
}
