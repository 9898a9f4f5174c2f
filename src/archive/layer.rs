//! A layer directory, open. Files are named by a path below its `fs/`, and no symbolic link is followed on the way.

use super::error::Error;
use super::node;
use super::record::{Record, Records};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the directory of files in a layer directory.
pub const FS: &str = "fs";

/// Where the contents of a layer's regular files are, for one whose own files have none.
pub trait Contents: std::fmt::Debug + Send + Sync {
    /// The contents of the file of this number, for reading.
    ///
    /// # Errors
    /// They cannot be had.
    fn open(&self, ino: u64) -> io::Result<File>;
}

/// A layer directory, open: views of stacks that have it in common share it.
#[derive(Debug)]
pub struct Layer {
    dir: PathBuf,
    pub(super) fs: OwnedFd,
    pub(super) records: Records,
    /// The names in its root directory, where they are final: what is not below them need not be looked for.
    top: Option<HashSet<OsString>>,
    /// Who has the contents of its files; `None`: they have them.
    pub(super) contents: Option<Arc<dyn Contents>>,
}

impl Layer {
    /// As [`Layer::open_finished`], of one whose files have their contents elsewhere.
    ///
    /// # Errors
    /// Those of [`Layer::open_finished`].
    pub fn open_hollow(dir: &Path, contents: Arc<dyn Contents>) -> Result<Layer, Error> {
        Ok(Layer { contents: Some(contents), ..Layer::open_finished(dir)? })
    }

    /// As [`Layer::open`], of one that nobody changes any more.
    ///
    /// # Errors
    /// Those of [`Layer::open`]; its root cannot be read.
    pub fn open_finished(dir: &Path) -> Result<Layer, Error> {
        let layer = Layer::open(dir)?;
        let fs = open_fs(dir)?;
        let top = names(fs).map_err(Error::file("read directory", &dir.join(FS)))?;
        Ok(Layer { top: Some(top.into_iter().collect()), ..layer })
    }

    /// Opens the layer directory `dir`, which holds `fs/` and may hold `records`.
    ///
    /// # Errors
    /// It has no `fs/`, or its records cannot be read.
    pub fn open(dir: &Path) -> Result<Layer, Error> {
        Ok(Layer { dir: dir.to_owned(), fs: open_fs(dir)?, records: Records::load(dir)?, top: None, contents: None })
    }

    /// Any directory, taken for the files of a layer without records.
    ///
    /// # Errors
    /// It is no directory, or cannot be opened.
    pub fn of_directory(dir: &Path) -> Result<Layer, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fs = rustix::fs::open(dir, flags, Mode::empty()).map_err(Error::file("open directory", dir))?;
        Ok(Layer { dir: dir.to_owned(), fs, records: Records::new(), top: None, contents: None })
    }

    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.dir.join(FS).join(path)
    }

    pub(super) fn stat(&self, path: &Path) -> Result<Option<Stat>, Error> {
        let first = path.iter().next();
        if let (Some(top), Some(first)) = (&self.top, first)
            && !top.contains(first)
        {
            return Ok(None);
        }
        stat(&self.fs, path).map_err(|e| Error::file("inspect", &self.absolute(path))(e))
    }

    pub(super) fn record(&self, path: &Path) -> Option<&Arc<Record>> {
        self.records.get(path)
    }

    pub(super) fn is_opaque(&self, path: &Path) -> Result<bool, Error> {
        if self.record(path).is_some_and(|r| r.opaque) {
            return Ok(true);
        }
        let failed = |e| Error::file("open directory", &self.absolute(path))(e);
        let fd = open_dir(&self.fs, path).map_err(failed)?;
        opaque_mark(&fd).map_err(failed)
    }
}

/// Opens the `fs` directory of a layer directory.
pub(crate) fn open_fs(dir: &Path) -> Result<OwnedFd, Error> {
    let fs = dir.join(FS);
    rustix::fs::open(&fs, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(Error::file("open directory", &fs))
}

/// `stat` without following a link; `None` for what does not exist.
pub(crate) fn stat(fs: impl AsFd, path: &Path) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(fs, node::at(path), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens a directory for reading. Neither it nor a parent may be a link.
pub(crate) fn open_dir(fs: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_beneath(fs, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a regular file for reading, without waiting. Neither it nor a parent may be a link.
pub(crate) fn open_file(fs: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_beneath(fs, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
}

/// Opens `path` below `fs` with no link on the way: by openat2 where the kernel has it (5.6), else name by name.
fn open_beneath(fs: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static OPENAT2_MISSING: AtomicBool = AtomicBool::new(false);
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if path.components().nth(1).is_none() {
        return rustix::fs::openat(fs, node::at(path), flags, Mode::empty());
    }
    if !OPENAT2_MISSING.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&fs, path, flags, Mode::empty(), resolve) {
            // Seccomp profiles that do not know the call answer EPERM.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => OPENAT2_MISSING.store(true, Ordering::Relaxed),
            answer => return answer,
        }
    }
    open_stepwise(fs, path, flags)
}

fn open_stepwise(fs: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return rustix::fs::openat(fs, node::at(path), flags, Mode::empty());
    };
    let mut at: Option<OwnedFd> = None;
    for part in parent.components() {
        let next = match &at {
            Some(fd) => rustix::fs::openat(fd, part.as_os_str(), step, Mode::empty())?,
            None => rustix::fs::openat(&fs, part.as_os_str(), step, Mode::empty())?,
        };
        at = Some(next);
    }
    match at {
        Some(fd) => rustix::fs::openat(fd, name, flags, Mode::empty()),
        None => rustix::fs::openat(fs, name, flags, Mode::empty()),
    }
}

/// Whether a directory carries overlayfs' mark that hides the directories below it.
pub(crate) fn opaque_mark(fd: impl AsFd) -> rustix::io::Result<bool> {
    use rustix::io::Errno;
    for name in ["user.overlay.opaque", "trusted.overlay.opaque"] {
        let mut value = [0; 8];
        match rustix::fs::fgetxattr(&fd, name, &mut value) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// The names in an open directory, unsorted.
pub(crate) fn names(fd: impl AsFd) -> rustix::io::Result<Vec<OsString>> {
    Ok(typed_names(fd)?.into_iter().map(|(name, _)| name).collect())
}

/// The names in an open directory, unsorted, with their kinds where the file system says them.
pub(crate) fn typed_names(fd: impl AsFd) -> rustix::io::Result<Vec<(OsString, FileType)>> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn opening_below_a_directory_follows_no_link_with_and_without_openat2() {
        let dir = tempfile::tempdir().unwrap();
        let fs = dir.path().join("fs");
        std::fs::create_dir_all(fs.join("a/b")).unwrap();
        std::fs::write(fs.join("a/b/f"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        symlink("a", fs.join("link")).unwrap();
        symlink("../secret", fs.join("a/out")).unwrap();
        let fd = std::fs::File::open(&fs).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for (path, good) in [("a/b/f", true), ("link/b/f", false), ("a/out", false), ("a/none/f", false)] {
            assert_eq!(open_file(&fd, Path::new(path)).is_ok(), good, "{path}");
            assert_eq!(open_stepwise(&fd, Path::new(path), flags).is_ok(), good, "{path}");
        }
        assert!(open_stepwise(&fd, Path::new("a"), flags | OFlags::DIRECTORY).is_ok());
    }
}
