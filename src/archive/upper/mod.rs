//! Writing into the uppermost layer directory, as overlayfs would through a mount, but without one.
//!
//! An [`Upper`] holds a layer directory that is being written and the [`Merged`] view of the layers below. What it
//! leaves is exactly what overlayfs leaves: new and changed files, whiteouts, opaque directories, and copies of lower
//! directories on the way to them; and a `records` file for what the disk could not store.
//!
//! How to use it:
//!
//! 1. [`Upper::create`] (or [`Upper::open`] for one that a step has written already).
//! 2. [`Upper::ensure_dir`] for the directory that files go to. It follows links inside the root, copies up lower
//!    directories, makes missing ones, and returns the real path.
//! 3. [`file`](Upper::file), [`dir`](Upper::dir), [`symlink`](Upper::symlink), [`fifo`](Upper::fifo),
//!    [`device`](Upper::device), [`hardlink`](Upper::hardlink) with that real path and a name. Each replaces what was there
//!    (a directory by a directory keeps its contents), and never follows a link. [`remove`](Upper::remove) hides or
//!    deletes.
//! 4. [`Upper::finish`] gives directories their times and writes the records. Dropping without it leaves a directory
//!    that is good for nothing but removal.
//!
//! [`Upper::lookup`] and [`Upper::resolve`] see upper and lower together, records applied.
//!
//! Paths are clean and relative to the root (see [`super::node::clean`]). Device nodes are never made.

mod remove;
mod view;

pub(super) use remove::remove_tree;

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::attrs::Attrs;
use super::attrs::{self, Target};
use super::dirtimes::DirTimes;
use super::error::Error;
use super::layer::{self, FS};
use super::merged::Merged;
use super::node::{Kind, Node, Xattrs};
use super::record::{Record, Records};
use super::whiteout;
use crate::sys::idmap::IdMap;

/// Directories whose descriptors are kept open.
const CACHED_DIRS: usize = 64;

/// A layer directory that is being written, over the layers below it.
#[derive(Debug)]
pub struct Upper<'a> {
    dir: PathBuf,
    fs: Arc<OwnedFd>,
    lower: &'a Merged,
    map: IdMap,
    records: Records,
    times: DirTimes,
    cache: RefCell<HashMap<Box<[u8]>, State>>,
    generation: u64,
    root_opaque: bool,
}

/// What a directory of the combined tree is made of.
#[derive(Debug, Clone)]
struct State {
    /// The directory in the upper layer, open, if it is there.
    upper: Option<Arc<OwnedFd>>,
    /// Whether a lower directory shows through.
    lower: bool,
}

impl<'a> Upper<'a> {
    /// Makes the layer directory `dir` (its parent exists; `dir` and its `fs/` may, but empty), with a root directory that
    /// has the metadata of the lower root, or mode 0755, owner 0:0 where there is none.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn create(dir: &Path, lower: &'a Merged) -> Result<Upper<'a>, Error> {
        let fs = dir.join(FS);
        for dir in [dir, &fs] {
            match std::fs::create_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::file("create directory", dir)(e));
                }
                _ => {}
            }
        }
        let mut upper = Upper::open(dir, lower)?;
        // A volume with an fsGroup is set-group-id, and may have a default ACL: neither may reach the files of an image.
        for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
            match rustix::fs::fremovexattr(&upper.fs, acl) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(Error::file("remove the access control list of", &fs)(e)),
            }
        }
        // Where only one id is mapped, a foreign group that was inherited could never be changed again later.
        let group = match upper.map {
            IdMap::Plain => rustix::process::getegid(),
            IdMap::Ranged { .. } | IdMap::One => rustix::fs::Gid::from_raw(0),
        };
        rustix::fs::fchown(&upper.fs, None, Some(group)).map_err(Error::file("change the group of", &fs))?;
        let attrs = match lower.lookup(Path::new(""))? {
            Some(root) => attrs_of(&root, lower.xattrs(&root)?),
            None => Attrs::root(0o755, None),
        };
        upper.set_dir_attrs(&upper.fs.clone(), Path::new(""), &attrs, false)?;
        Ok(upper)
    }

    /// Opens the layer directory `dir`, which may hold files and records already.
    ///
    /// # Errors
    /// It has no `fs/`, or its records cannot be read.
    pub fn open(dir: &Path, lower: &'a Merged) -> Result<Upper<'a>, Error> {
        Ok(Upper {
            dir: dir.to_owned(),
            fs: Arc::new(layer::open_fs(dir)?),
            lower,
            map: *lower.id_map(),
            records: Records::load(dir)?,
            times: DirTimes::new(dir),
            cache: RefCell::default(),
            generation: 0,
            root_opaque: false,
        })
    }

    /// The view of the layers below.
    pub fn lower(&self) -> &'a Merged {
        self.lower
    }

    /// The records written so far.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Grows whenever a directory of the upper layer is removed or replaced: paths that resolved through no symbolic
    /// link before then may have to be resolved again.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes sure that the directory `path` exists in the upper layer, and returns its real path. Links are followed inside
    /// the root; lower directories on the way are copied up with their metadata; missing ones get `missing`.
    ///
    /// # Errors
    /// Something on the way is neither a directory nor a link to one, links loop, or a file-system call fails.
    pub fn ensure_dir(&mut self, path: &Path, missing: &Attrs) -> Result<PathBuf, Error> {
        let found = self.resolve(path, true)?;
        match found.node {
            Some(node) if node.is_dir() => {
                self.dir_fd(&found.path)?;
            }
            Some(_) => return Err(Error::NotDirectory { path: path.to_owned(), at: found.path }),
            None => {
                let mut at = PathBuf::new();
                for name in found.path.components() {
                    at.push(name);
                    if self.lookup(&at)?.is_none() {
                        self.dir(&at, missing)?;
                    }
                }
            }
        }
        Ok(found.path)
    }

    /// Makes a directory, or gives an existing one new metadata. Anything else of that name is replaced, and then what
    /// lower layers have below that name stays hidden.
    ///
    /// # Errors
    /// The parent is not a directory, or a file-system call fails.
    pub fn dir(&mut self, path: &Path, attrs: &Attrs) -> Result<(), Error> {
        let Some((parent, name)) = self.place(path)? else {
            return self.set_dir_attrs(&self.fs.clone(), path, attrs, false);
        };
        let fd = parent.fd()?;
        let made = mkdir(&fd, &name);
        let mut hide = false;
        let is_new = match made {
            Ok(()) => true,
            Err(Errno::EXIST) => match self.stat(&parent, path, &name)? {
                Some(stat) if is_dir(&stat) => false,
                _ => {
                    // A file or a whiteout: either has hidden a lower directory of that name.
                    hide = parent.lower && self.lower.lookup(path)?.is_some_and(|node| node.is_dir());
                    self.clear(&fd, &name, path)?;
                    mkdir(&fd, &name).map_err(|e| self.failed("create directory", path, e))?;
                    true
                }
            },
            Err(e) => return Err(self.failed("create directory", path, e)),
        };
        let dir = layer::open_dir(&fd, Path::new(&name)).map_err(|e| self.failed("open directory", path, e))?;
        if is_new {
            self.forget(path);
        }
        self.set_dir_attrs(&dir, path, attrs, is_new)?;
        if hide {
            self.mark_opaque(&dir, path)?;
        }
        Ok(())
    }

    /// Makes a regular file and lets `fill` write its contents.
    ///
    /// # Errors
    /// The parent is not a directory, a file-system call fails, or `fill` does.
    pub fn file(
        &mut self,
        path: &Path,
        attrs: &Attrs,
        fill: impl FnOnce(&mut File) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.regular(path, Kind::File, attrs, fill)
    }

    /// Makes the empty file and the record that stand for a device node; `kind` is [`Kind::Char`] or [`Kind::Block`].
    ///
    /// # Errors
    /// The parent is not a directory, or a file-system call fails.
    pub fn device(&mut self, path: &Path, kind: Kind, attrs: &Attrs) -> Result<(), Error> {
        self.regular(path, kind, attrs, |_| Ok(()))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// The parent is not a directory, or a file-system call fails.
    pub fn symlink(&mut self, path: &Path, target: &Path, attrs: &Attrs) -> Result<(), Error> {
        self.named(path, Kind::Symlink, attrs, |dir, name| rustix::fs::symlinkat(target, dir, name))
    }

    /// Makes a named pipe.
    ///
    /// # Errors
    /// The parent is not a directory, or a file-system call fails.
    pub fn fifo(&mut self, path: &Path, attrs: &Attrs) -> Result<(), Error> {
        let mode = Mode::from_raw_mode(0o600);
        self.named(path, Kind::Fifo, attrs, |dir, name| rustix::fs::mknodat(dir, name, FileType::Fifo, mode, 0))
    }

    /// Gives the file `target` (a real path) a second name. A lower file is copied up first, as overlayfs does.
    ///
    /// # Errors
    /// `target` does not exist or is a directory, or a file-system call fails.
    pub fn hardlink(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let Some(node) = self.lookup(target)? else { return Err(Error::Missing(target.to_owned())) };
        if node.is_dir() {
            return Err(Error::Unsupported(format!("hardlink to the directory `{}`", target.display())));
        }
        if path == target {
            return Ok(());
        }
        if node.layer < self.lower.layers() {
            self.copy_up(&node)?;
        }
        let Some((from, from_name)) = self.place(target)? else { return Err(Error::Missing(target.to_owned())) };
        let Some((to, name)) = self.place(path)? else { return Err(Error::Missing(path.to_owned())) };
        let (from, to) = (from.fd()?, to.fd()?);
        let link = || rustix::fs::linkat(&from, &from_name, &to, &name, AtFlags::empty());
        let done = match link() {
            Err(Errno::EXIST) => {
                self.clear(&to, &name, path)?;
                link()
            }
            done => done,
        };
        done.map_err(|e| self.failed("link", path, e))?;
        self.forget(path);
        match self.records.get(target).cloned() {
            Some(record) => {
                if node.is_file() && (record.uid.is_some() || record.gid.is_some()) {
                    let file = layer::open_file(&to, Path::new(&name)).map_err(|e| self.failed("open", path, e))?;
                    super::node::mark_owner(file, record.uid.unwrap_or(0), record.gid.unwrap_or(0));
                }
                self.records.insert(path, (*record).clone());
            }
            None => self.records.remove(path),
        }
        Ok(())
    }

    /// Removes `path` with everything below it: deletes it from the upper layer, and hides it where a lower layer has
    /// it. Nothing being there is no error.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn remove(&mut self, path: &Path) -> Result<(), Error> {
        let Some(node) = self.lookup(path)? else { return Ok(()) };
        let Some((parent, name)) = self.place(path)? else {
            return Err(Error::Unsupported("removal of the root directory".into()));
        };
        let fd = parent.fd()?;
        if node.layer >= self.lower.layers() {
            self.clear(&fd, &name, path)?;
        }
        if parent.lower && self.lower.lookup(path)?.is_some() {
            self.make_whiteout(&fd, &name, path)?;
        }
        Ok(())
    }

    /// Hides what lower layers have at `path`, but nothing that this layer has there: the meaning of a whiteout in a
    /// layer archive.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn hide_lower(&mut self, path: &Path) -> Result<(), Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.hide_lower_contents(path);
        };
        let Some(state) = self.state(parent)? else { return Ok(()) };
        if !state.lower || self.lower.lookup(path)?.is_none() {
            return Ok(());
        }
        match self.stat(&state, path, name)? {
            Some(stat) if is_dir(&stat) => self.hide_lower_contents(path),
            Some(_) => Ok(()),
            None => {
                let fd = self.dir_fd(parent)?.fd()?;
                self.make_whiteout(&fd, name, path)
            }
        }
    }

    /// Hides what lower layers have in the directory `path`, which is copied up; files of this layer stay.
    ///
    /// # Errors
    /// `path` is not a directory, or a file-system call fails.
    pub fn hide_lower_contents(&mut self, path: &Path) -> Result<(), Error> {
        if path.as_os_str().is_empty() {
            // overlayfs does not look at the mark of a root: `finish` writes whiteouts instead.
            self.root_opaque = true;
            self.cache.borrow_mut().clear();
            return Ok(());
        }
        let state = self.dir_fd(path)?;
        if state.lower {
            let fd = state.fd()?;
            self.mark_opaque(&fd, path)?;
        }
        Ok(())
    }

    /// Gives directories their times, and writes the records.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.root_opaque {
            self.hide_lower_root()?;
        }
        let (fs, dir) = (self.fs.clone(), self.dir.join(FS));
        let replay = self.times.replay(|path, time| match layer::open_dir(&fs, path) {
            Ok(dir) => Ok(attrs::set_mtime(Target::Open(dir.as_fd()), time)?),
            // It, or a parent, was replaced later by something else, which may be a link to anywhere.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(()),
            Err(e) => Err(e.into()),
        });
        replay.map_err(Error::file("set the times of directories in", &dir))?;
        self.records.save(&self.dir)
    }

    fn failed(&self, action: &'static str, path: &Path, e: Errno) -> Error {
        Error::file(action, &self.dir.join(FS).join(path))(e)
    }

    /// The state of the directory `path`, copied up if it has to be.
    fn dir_fd(&mut self, path: &Path) -> Result<State, Error> {
        let Some(state) = self.state(path)? else {
            return Err(match self.lookup(path)? {
                Some(_) => Error::NotDirectory { path: path.to_owned(), at: path.to_owned() },
                None => Error::Missing(path.to_owned()),
            });
        };
        if state.upper.is_some() {
            return Ok(state);
        }
        let mut at = PathBuf::new();
        let mut above = self.fs.clone();
        for name in path.components() {
            at.push(name);
            above = match self.state(&at)? {
                Some(State { upper: Some(fd), .. }) => fd,
                _ => self.copy_up_dir(&above, name.as_os_str(), &at)?,
            };
        }
        Ok(State { upper: Some(above), lower: true })
    }

    fn copy_up_dir(&mut self, above: &OwnedFd, name: &OsStr, path: &Path) -> Result<Arc<OwnedFd>, Error> {
        let Some(node) = self.lower.lookup(path)? else { return Err(Error::Missing(path.to_owned())) };
        let attrs = attrs_of(&node, self.lower.xattrs(&node)?);
        mkdir(above, name).map_err(|e| self.failed("create directory", path, e))?;
        let fd = layer::open_dir(above, Path::new(name)).map_err(|e| self.failed("open directory", path, e))?;
        self.set_dir_attrs(&fd, path, &attrs, true)?;
        let fd = Arc::new(fd);
        self.remember(path, &State { upper: Some(fd.clone()), lower: true });
        Ok(fd)
    }

    /// Copies a lower file of any kind but a directory into the upper layer.
    fn copy_up(&mut self, from: &Node) -> Result<(), Error> {
        let attrs = attrs_of(from, self.lower.xattrs(from)?);
        match from.meta.kind {
            Kind::File => {
                let mut source = self.lower.open_file(from)?;
                let at = self.dir.join(FS).join(&from.path);
                self.file(&from.path, &attrs, |to| {
                    io::copy(&mut source, to).map(drop).map_err(Error::file("write", &at))
                })
            }
            Kind::Symlink => {
                let target = self.lower.read_link(from)?;
                self.symlink(&from.path, &target, &attrs)
            }
            Kind::Fifo => self.fifo(&from.path, &attrs),
            Kind::Char(..) | Kind::Block(..) => self.device(&from.path, from.meta.kind, &attrs),
            Kind::Socket => Err(Error::Unsupported(format!("link to the socket `{}`", from.path.display()))),
            Kind::Dir => self.dir_fd(&from.path).map(drop),
        }
    }

    /// The parent of `path`, copied up, and the name in it; `None` for the root.
    fn place(&mut self, path: &Path) -> Result<Option<(State, OsString)>, Error> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(Some((self.dir_fd(parent)?, name.to_owned()))),
            _ => Ok(None),
        }
    }

    fn set_dir_attrs(&mut self, fd: &OwnedFd, path: &Path, attrs: &Attrs, is_new: bool) -> Result<(), Error> {
        let mut record = attrs::apply(Target::Open(fd.as_fd()), Kind::Dir, attrs, &self.map, None)
            .map_err(|e| self.failed("set the metadata of", path, e))?;
        record.opaque = !is_new && self.records.get(path).is_some_and(|old| old.opaque);
        self.records.insert(path, record);
        match attrs.mtime {
            Some(time) => self.times.push(path, time).map_err(Error::file("write", &self.dir)),
            None => Ok(()),
        }
    }

    fn mark_opaque(&mut self, fd: &OwnedFd, path: &Path) -> Result<(), Error> {
        if !attrs::set_opaque(fd).map_err(|e| self.failed("mark as opaque", path, e))? {
            let mut record = self.records.get(path).map(|known| Record::clone(known)).unwrap_or_default();
            record.opaque = true;
            self.records.insert(path, record);
        }
        self.cache.borrow_mut().clear();
        Ok(())
    }

    fn make_whiteout(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
        whiteout::make(parent, name).map_err(|e| self.failed("create whiteout", path, e))?;
        self.forget(path);
        Ok(())
    }

    /// A regular file, or the empty one that stands for a device.
    fn regular(
        &mut self,
        path: &Path,
        kind: Kind,
        attrs: &Attrs,
        fill: impl FnOnce(&mut File) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some((parent, name)) = self.place(path)? else {
            return Err(Error::Unsupported("file in place of the root directory".into()));
        };
        let fd = parent.fd()?;
        let mode = attrs::disk_mode(attrs.mode, kind, &self.map);
        let open = || rustix::fs::openat(&fd, &name, attrs::CREATE, Mode::from_raw_mode(mode & 0o777));
        let file = match open() {
            Err(Errno::EXIST) => {
                self.clear(&fd, &name, path)?;
                open()
            }
            opened => opened,
        };
        let mut file = File::from(file.map_err(|e| self.failed("create", path, e))?);
        if parent.lower {
            self.forget(path);
        }
        fill(&mut file)?;
        let made = attrs::created_mode(mode);
        let record = attrs::apply(Target::Open(file.as_fd()), kind, attrs, &self.map, made)
            .map_err(|e| self.failed("set the metadata of", path, e))?;
        self.records.insert(path, record);
        Ok(())
    }

    /// A file that is made by name and cannot be opened.
    fn named(
        &mut self,
        path: &Path,
        kind: Kind,
        attrs: &Attrs,
        make: impl Fn(&OwnedFd, &OsStr) -> Result<(), Errno>,
    ) -> Result<(), Error> {
        let Some((parent, name)) = self.place(path)? else {
            return Err(Error::Unsupported("file in place of the root directory".into()));
        };
        let fd = parent.fd()?;
        let made = match make(&fd, &name) {
            Err(Errno::EXIST) => {
                self.clear(&fd, &name, path)?;
                make(&fd, &name)
            }
            made => made,
        };
        made.map_err(|e| self.failed("create", path, e))?;
        if parent.lower {
            self.forget(path);
        }
        let record = attrs::apply(Target::Named(fd.as_fd(), &name), kind, attrs, &self.map, None)
            .map_err(|e| self.failed("set the metadata of", path, e))?;
        self.records.insert(path, record);
        Ok(())
    }

    /// Deletes what the upper layer has under a name, with its records.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => self.records.remove(path),
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                remove::remove_tree(parent, name).map_err(|e| self.failed("remove", path, e))?;
                self.records.remove_tree(path);
                self.generation += 1;
                self.cache.borrow_mut().clear();
            }
            Err(e) => return Err(self.failed("remove", path, e)),
        }
        Ok(())
    }

    /// Hides every name of the lower root.
    fn hide_lower_root(&mut self) -> Result<(), Error> {
        for (name, node) in self.lower.read_dir(Path::new(""))? {
            let path = PathBuf::from(&name);
            let fs = self.fs.clone();
            match layer::stat(&fs, &path).map_err(|e| self.failed("inspect", &path, e))? {
                None => self.make_whiteout(&fs, &name, &path)?,
                Some(stat) if is_dir(&stat) && node.is_dir() => {
                    let dir = layer::open_dir(&fs, &path).map_err(|e| self.failed("open directory", &path, e))?;
                    self.mark_opaque(&dir, &path)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl State {
    fn fd(&self) -> Result<Arc<OwnedFd>, Error> {
        self.upper.clone().ok_or_else(|| Error::Missing(PathBuf::new()))
    }
}

/// The metadata of a node, to give to a copy of it.
pub fn attrs_of(node: &Node, xattrs: Xattrs) -> Attrs {
    Attrs { mode: node.meta.mode, uid: node.meta.uid, gid: node.meta.gid, mtime: Some(node.meta.mtime), xattrs }
}

fn mkdir(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
