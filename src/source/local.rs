//! A directory of this machine as build context.
//!
//! The directory is opened once; every access after that is relative to its descriptor and follows no link on its own
//! (see [`super::beneath`]). Links are followed by [`crate::archive::copy::tree::resolve`], inside the root, so that a link to
//! `/etc/passwd` means the context's own `etc/passwd`.
//!
//! The ignore file is a filter over the view: what it excludes is not there. A directory that is excluded is there as
//! long as something below it is not (`*` and then `!src/main.c`). Owners are not those of this machine but 0:0, so
//! that a build gives the same image wherever the context was checked out.

use super::beneath;
use super::{Error, files};
use crate::archive::copy::Tree;
use crate::archive::error::Error as TreeError;
use crate::archive::node::{self, Kind, Meta, Time, Xattrs, bytes, kind_of};
use crate::dockerfile::ignore::{Matched, Patterns};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Directories of which is remembered what the patterns said.
const REMEMBERED: usize = 1024;

/// A build context.
#[derive(Debug)]
pub struct Context {
    /// As the user gave it, for messages.
    path: PathBuf,
    /// `None` for a context without any file.
    root: Option<OwnedFd>,
    ignore: Patterns,
    /// What the patterns said of directories, of the latest [`REMEMBERED`].
    matched: Mutex<HashMap<PathBuf, Matched>>,
    /// Excluded directories, and whether something below them is visible all the same.
    partly: Mutex<HashMap<PathBuf, bool>>,
}

impl Context {
    /// Opens a directory, with nothing excluded yet.
    ///
    /// # Errors
    ///
    /// [`Error::Context`].
    pub fn open(path: &Path) -> Result<Context, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| Error::Context { path: path.to_owned(), error: e.into() })?;
        Ok(Context {
            path: path.to_owned(),
            root: Some(root),
            ignore: Patterns::default(),
            matched: Mutex::default(),
            partly: Mutex::default(),
        })
    }

    /// A context that holds no file: of a build that has only a Dockerfile.
    pub fn empty() -> Context {
        Context {
            path: PathBuf::from("-"),
            root: None,
            ignore: Patterns::default(),
            matched: Mutex::default(),
            partly: Mutex::default(),
        }
    }

    /// The same context with other patterns of what is excluded.
    #[must_use]
    pub fn with_ignore(self, ignore: Patterns) -> Context {
        Context { ignore, matched: Mutex::default(), partly: Mutex::default(), ..self }
    }

    /// What is excluded.
    pub fn ignore(&self) -> &Patterns {
        &self.ignore
    }

    /// The directory as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a small file of the context, whether it is ignored or not; links are followed inside the context. `None`
    /// where there is no such file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no regular file, or is larger than a Dockerfile can be.
    pub fn read_unfiltered(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let shown = self.path.join(path);
        let unfiltered = Unfiltered(self);
        let wrong = |e: TreeError| match e {
            TreeError::File { source, .. } => Error::Read { path: shown.clone(), error: source },
            e => Error::Read { path: shown.clone(), error: io::Error::other(e) },
        };
        let found = crate::archive::copy::tree::resolve(&unfiltered, path, true).map_err(wrong)?;
        match found.meta {
            None => Ok(None),
            Some(meta) if meta.kind == Kind::File => {
                let file = self.open_path(&found.path).map_err(wrong)?;
                files::bounded(file, &shown).map(Some)
            }
            Some(_) => Err(Error::Read { path: shown, error: io::Error::other("not a regular file") }),
        }
    }

    fn raw_open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        beneath::open(root.as_fd(), path, flags)
    }

    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(Errno) -> TreeError + use<> {
        let path = self.path.join(path);
        move |e| TreeError::File { action, path, source: e.into() }
    }

    fn raw_lookup(&self, path: &Path) -> Result<Option<Meta>, TreeError> {
        if self.root.is_none() {
            return Ok(path.as_os_str().is_empty().then(empty_root));
        }
        let stat = match self.raw_open(path, OFlags::PATH) {
            Ok(fd) => rustix::fs::fstat(&fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => Err(e),
        };
        stat.map(|s| Some(meta(&s))).map_err(self.failed("inspect", path))
    }

    fn raw_read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, TreeError> {
        if self.root.is_none() {
            return Ok(Vec::new());
        }
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

    fn open_path(&self, path: &Path) -> Result<File, TreeError> {
        // Without O_NONBLOCK a named pipe that took a file's place would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.raw_open(path, flags).map_err(self.failed("open", path))?;
        let stat = rustix::fs::fstat(&fd).map_err(self.failed("inspect", path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.failed("open", path)(Errno::INVAL));
        }
        Ok(File::from(fd))
    }

    /// What the patterns say of `path`.
    fn matched(&self, path: &Path) -> Matched {
        let known = || self.matched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unknown: Vec<&Path> = Vec::new();
        let mut matched = Matched::default();
        for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            if let Some(answer) = known().get(dir) {
                matched = answer.clone();
                break;
            }
            unknown.push(dir);
        }
        for dir in unknown.into_iter().rev() {
            matched = self.ignore.walk(&matched, bytes(dir));
            let mut known = known();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(dir.to_owned(), matched.clone());
        }
        matched
    }

    /// Whether `path`, of which the patterns say `matched`, is part of the view.
    fn visible(&self, path: &Path, meta: &Meta, matched: &Matched) -> Result<bool, TreeError> {
        if !matched.excluded() {
            return Ok(true);
        }
        Ok(meta.kind == Kind::Dir
            && self.ignore.may_include_below(bytes(path))
            && self.partly_visible(path, matched)?)
    }

    /// Whether something below the excluded directory `dir` is visible.
    fn partly_visible(&self, dir: &Path, matched: &Matched) -> Result<bool, TreeError> {
        let known = || self.partly.lock().unwrap_or_else(PoisonError::into_inner);
        let mut todo = vec![(dir.to_owned(), matched.clone())];
        let mut barren = Vec::new();
        while let Some((at, matched)) = todo.pop() {
            // The lock must be free again before the arms run.
            let answer = known().get(&at).copied();
            match answer {
                Some(true) => return Ok(self.remember_visible(dir, &at)),
                Some(false) => continue,
                None => {}
            }
            for (name, meta) in self.raw_read_dir(&at)? {
                let path = at.join(name);
                let matched = self.ignore.walk(&matched, bytes(&path));
                if !matched.excluded() {
                    return Ok(self.remember_visible(dir, &at));
                }
                if meta.kind == Kind::Dir && self.ignore.may_include_below(bytes(&path)) {
                    todo.push((path, matched));
                }
            }
            barren.push(at);
        }
        known().extend(barren.into_iter().map(|dir| (dir, false)));
        Ok(false)
    }

    /// Remembers that every directory from `top` down to `bottom` has something visible below it.
    fn remember_visible(&self, top: &Path, bottom: &Path) -> bool {
        let mut known = self.partly.lock().unwrap_or_else(PoisonError::into_inner);
        for dir in bottom.ancestors().take_while(|dir| dir.starts_with(top)) {
            known.insert(dir.to_owned(), true);
        }
        true
    }
}

/// The root of a context without files.
fn empty_root() -> Meta {
    Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: Time::seconds(0), nlink: 2, ino: 0, dev: 0 }
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

impl Tree for Context {
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, TreeError> {
        let Some(meta) = self.raw_lookup(path)? else { return Ok(None) };
        if self.ignore.is_empty() || path.as_os_str().is_empty() {
            return Ok(Some(meta));
        }
        Ok(self.visible(path, &meta, &self.matched(path))?.then_some(meta))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, TreeError> {
        let entries = self.raw_read_dir(path)?;
        if self.ignore.is_empty() {
            return Ok(entries);
        }
        let parent = self.matched(path);
        let mut out = Vec::with_capacity(entries.len());
        for (name, meta) in entries {
            let at = path.join(&name);
            if self.visible(&at, &meta, &self.ignore.walk(&parent, bytes(&at)))? {
                out.push((name, meta));
            }
        }
        Ok(out)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let fd = self.raw_open(path, OFlags::PATH).map_err(self.failed("read link", path))?;
        let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(self.failed("read link", path))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.open_path(path)
    }

    fn xattrs(&self, path: &Path, open: Option<&File>) -> Result<Xattrs, TreeError> {
        let read = match open {
            Some(file) => node::read_xattrs(file.as_fd()),
            None if self.root.is_none() => return Ok(Xattrs::new()),
            None => {
                let kind = self.raw_lookup(path)?.map(|m| m.kind);
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

    fn hidden(&self, path: &Path) -> bool {
        matches!(self.raw_lookup(path), Ok(Some(_))) && matches!(self.lookup(path), Ok(None))
    }
}

/// The context as it is on disk.
struct Unfiltered<'a>(&'a Context);

impl Tree for Unfiltered<'_> {
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, TreeError> {
        self.0.raw_lookup(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, TreeError> {
        self.0.raw_read_dir(path)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.0.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.0.open_path(path)
    }

    fn xattrs(&self, path: &Path, open: Option<&File>) -> Result<Xattrs, TreeError> {
        self.0.xattrs(path, open)
    }
}
