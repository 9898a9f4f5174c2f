//! A directory of this machine as a tree.
//!
//! The directory is opened once; every access after that is relative to its descriptor and follows no link on its own
//! (see [`super::beneath`]). Links are followed by [`crate::archive::copy::tree::resolve`], inside the root, so that a link to
//! `/etc/passwd` means the tree's own `etc/passwd`. Owners are not those of this machine but 0:0, so that a build gives
//! the same image wherever the files were checked out.

use super::{Error, beneath};
use crate::archive::copy::Tree;
use crate::archive::error::Error as TreeError;
use crate::archive::node::{self, Kind, Meta, Time, Xattrs, kind_of};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A directory of this machine.
#[derive(Debug)]
pub(super) struct HostDir {
    /// As the user gave it, for messages.
    path: PathBuf,
    root: OwnedFd,
}

impl HostDir {
    pub(super) fn open(path: &Path) -> Result<HostDir, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| Error::Context { path: path.to_owned(), error: e.into() })?;
        Ok(HostDir { path: path.to_owned(), root })
    }

    /// The directory `path` of this one, as a tree of its own.
    pub(super) fn below(&self, path: &Path) -> Result<HostDir, Error> {
        let shown = self.path.join(path);
        match self.raw_open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(root) => Ok(HostDir { path: shown, root }),
            Err(e) => Err(Error::Context { path: shown, error: e.into() }),
        }
    }

    fn raw_open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        beneath::open(self.root.as_fd(), path, flags)
    }

    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(Errno) -> TreeError + use<> {
        let path = self.path.join(path);
        move |e| TreeError::File { action, path, source: e.into() }
    }
}

impl Tree for HostDir {
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, TreeError> {
        let stat = match self.raw_open(path, OFlags::PATH) {
            Ok(fd) => rustix::fs::fstat(&fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => Err(e),
        };
        stat.map(|s| Some(meta(&s))).map_err(self.failed("inspect", path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, TreeError> {
        let dir =
            self.raw_open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(self.failed("read directory", path))?;
        let mut out = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).map_err(self.failed("read directory", path))? {
            let entry = entry.map_err(self.failed("read directory", path))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => out.push((OsStr::from_bytes(name).to_owned(), meta(&stat))),
                // Removed since the directory was read.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.failed("inspect", &path.join(OsStr::from_bytes(name)))(e)),
            }
        }
        out.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let fd = self.raw_open(path, OFlags::PATH).map_err(self.failed("read link", path))?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(self.failed("read link", path))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        // Without O_NONBLOCK a named pipe that took a file's place would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.raw_open(path, flags).map_err(self.failed("open", path))?;
        let stat = rustix::fs::fstat(&fd).map_err(self.failed("inspect", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.failed("open", path)(Errno::INVAL));
        }
        Ok(File::from(fd))
    }

    fn xattrs(&self, path: &Path, open: Option<&File>) -> Result<Xattrs, TreeError> {
        let read = match open {
            Some(file) => node::read_xattrs(file.as_fd()),
            None => {
                let kind = self.lookup(path)?.map(|m| m.kind);
                if !matches!(kind, Some(Kind::File | Kind::Dir)) {
                    return Ok(Xattrs::new());
                }
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                self.raw_open(path, flags).and_then(|fd| node::read_xattrs(fd.as_fd()))
            }
        };
        let mut out = read.map_err(self.failed("read attributes of", path))?;
        // A context that lies in an overlay's own directories has marks that mean nothing here.
        out.retain(|name, _| !name.starts_with(b"user.overlay."));
        Ok(out)
    }
}

/// Metadata as the image gets it: the owner is always root.
fn meta(stat: &Stat) -> Meta {
    let kind = kind_of(stat);
    let size = match kind {
        Kind::File | Kind::Symlink => u64::try_from(stat.st_size).unwrap_or(0),
        _ => 0,
    };
    Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: 0,
        gid: 0,
        size,
        mtime: Time { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 },
        nlink: stat.st_nlink,
        ino: stat.st_ino,
        dev: stat.st_dev,
    }
}
