//! From layer directories to a tree.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::raw::{self, Basics};
use super::{Plain, Sharing};
use crate::archive::copy::transfer::Transfer;
use crate::archive::error::Error;
use crate::archive::layer::{self, FS};
use crate::archive::merged::Merged;
use crate::archive::node::{Kind, Node};
use crate::sys::idmap::IdMap;

/// Flags for a new regular file.
pub(super) const CREATE: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Plain {
    /// Makes everything that `view` shows, or only what is at and below `part` of it. The tree is empty.
    ///
    /// # Errors
    /// A file cannot be read or made.
    pub fn fill(&mut self, view: &Merged, part: &Path) -> Result<(), Error> {
        self.known = false;
        self.made.clear();
        let Some(root) = view.lookup(Path::new(""))? else { return Ok(()) };
        let mut above = vec![root];
        for parent in part.ancestors().filter(|p| !p.as_os_str().is_empty()).collect::<Vec<_>>().into_iter().rev() {
            let Some(node) = view.lookup(parent)? else { return Err(Error::Missing(parent.to_owned())) };
            if !node.is_dir() {
                self.put(view, &node, &self.open_dir(node.path.parent().unwrap_or(Path::new("")))?)?;
                break;
            }
            self.make_dir(&node.path)?;
            above.push(node);
        }
        if let Some(node) = above.pop_if(|last| last.path == part) {
            self.subtree(view, node)?;
        }
        while let Some(node) = above.pop() {
            self.finish_dir(view, &node)?;
        }
        self.made.clear();
        Ok(())
    }

    fn make_dir(&self, path: &Path) -> Result<(), Error> {
        mkdir(&self.fd, path.as_os_str()).map_err(|e| self.failed("create directory", path, e))
    }

    /// Gives a directory its metadata. To be called when all is in it.
    pub(super) fn finish_dir(&self, view: &Merged, node: &Node) -> Result<(), Error> {
        let from = view.open_raw(node)?;
        let failed = |e| self.failed("set the metadata of", &node.path, e);
        let dir = self.open_dir(&node.path)?;
        let attributes = raw::of_layer(&from).map_err(failed)?;
        let basics = basics(node);
        let set = || -> Result<(), Errno> {
            // What was there before may have had others.
            for name in raw::of_tree(&dir)?.keys().filter(|name| !attributes.contains_key(*name)) {
                rustix::fs::fremovexattr(&dir, name.as_slice())?;
            }
            raw::apply(&dir, &basics, &self.map, || raw::set_in_tree(&dir, &attributes))
        };
        set().map_err(failed)
    }

    /// Makes something else than a directory, where nothing is.
    pub(super) fn put(&mut self, view: &Merged, node: &Node, dir: &OwnedFd) -> Result<(), Error> {
        let path = &node.path;
        let name = path.file_name().unwrap_or_default();
        let failed = |e: Errno| Error::file("create", &self.root.join(path))(e);
        let basics = basics(node);
        let second = (node.layer, node.meta.ino);
        let several = node.meta.nlink > 1;
        if several && let Some(first) = self.made.get(&second) {
            match rustix::fs::linkat(&self.fd, first, dir, name, AtFlags::empty()) {
                // As many names as the file system allows.
                Err(Errno::MLINK) => {}
                done => return done.map_err(failed),
            }
        }
        match node.meta.kind {
            // An empty file stands for a device.
            Kind::File | Kind::Char(..) | Kind::Block(..) => {
                if self.sharing == Sharing::Broken && view.link_raw(node, dir, name)? {
                    return Ok(());
                }
                copy_file(&mut self.transfer, view, node, dir, &self.root, &self.map)?;
            }
            Kind::Symlink => {
                rustix::fs::symlinkat(view.read_link(node)?, dir, name).map_err(failed)?;
                raw::apply_named(dir, name, &basics, &self.map, true).map_err(failed)?;
            }
            Kind::Fifo | Kind::Socket => {
                let kind = if node.meta.kind == Kind::Fifo { FileType::Fifo } else { FileType::Socket };
                rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), 0).map_err(failed)?;
                raw::apply_named(dir, name, &basics, &self.map, false).map_err(failed)?;
            }
            Kind::Dir => {}
        }
        if several {
            self.made.insert(second, path.clone());
        }
        Ok(())
    }

    /// Brings the tree up to date with a layer directory that was put on top of what it shows; `view` has it as its
    /// uppermost.
    ///
    /// # Errors
    /// A file cannot be read or made.
    pub fn follow(&mut self, layer: &Path, view: &Merged) -> Result<(), Error> {
        self.known = false;
        self.made.clear();
        let fs = layer::open_fs(layer)?;
        let mut dirs = vec![];
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            let failed = |e: Errno| Error::file("read directory", &layer.join(FS).join(&path))(e);
            let dir = layer::open_dir(&fs, &path).map_err(failed)?;
            self.leave_only(view, &path)?;
            for name in layer::names(&dir).map_err(failed)? {
                let path = path.join(&name);
                if self.refresh_one(view, &path)? {
                    todo.push(path);
                }
            }
            dirs.push(path);
        }
        // What is in a directory comes before its time.
        while let Some(path) = dirs.pop() {
            if let Some(node) = view.lookup(&path)? {
                self.finish_dir(view, &node)?;
            }
        }
        self.made.clear();
        Ok(())
    }

    /// Makes these paths, none of them below another, and the metadata of the directories that they are in what `view`
    /// shows.
    ///
    /// # Errors
    /// A file cannot be read or made.
    pub fn refresh(&mut self, paths: &BTreeSet<PathBuf>, view: &Merged) -> Result<(), Error> {
        self.known &= paths.is_empty();
        let mut above = BTreeSet::new();
        for path in paths {
            let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
            parents.reverse();
            let mut whole = true;
            for parent in parents {
                // A directory that only this layer had goes with what was in it.
                whole = whole && (parent.as_os_str().is_empty() || self.refresh_one(view, parent)?);
                if whole {
                    above.insert(parent.to_owned());
                }
            }
            if whole && self.refresh_one(view, path)? {
                let node = view.lookup(path)?;
                node.map(|node| self.finish_dir(view, &node)).transpose()?;
            }
        }
        for path in above.into_iter().rev() {
            if let Some(node) = view.lookup(&path)? {
                self.finish_dir(view, &node)?;
            }
        }
        Ok(())
    }

    /// Makes one path what the view shows there; of a directory only that it is one. Says whether it is one.
    fn refresh_one(&mut self, view: &Merged, path: &Path) -> Result<bool, Error> {
        let Some(node) = view.lookup(path)? else {
            self.remove(path)?;
            return Ok(false);
        };
        let here = self.stat(path)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
        if node.is_dir() {
            if here != Some(FileType::Directory) {
                self.remove(path)?;
                self.make_dir(path)?;
            }
            return Ok(true);
        }
        self.remove(path)?;
        let dir = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        self.put(view, &node, &dir)?;
        Ok(false)
    }

    /// Removes what the view does not show in a directory.
    fn leave_only(&self, view: &Merged, path: &Path) -> Result<(), Error> {
        let dir = self.open_dir(path)?;
        for name in layer::names(&dir).map_err(|e| self.failed("read directory", path, e))? {
            let path = path.join(name);
            if view.lookup(&path)?.is_none() {
                self.remove(&path)?;
            }
        }
        Ok(())
    }
}

fn basics(node: &Node) -> Basics {
    Basics { uid: node.disk.uid, gid: node.disk.gid, mode: node.disk.mode, mtime: node.meta.mtime }
}

pub(super) fn mkdir(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
}

/// Copies a regular file of a view, or what stands for a device there, into a directory of the tree at `root`.
pub(super) fn copy_file(
    transfer: &mut Transfer,
    view: &Merged,
    node: &Node,
    dir: &OwnedFd,
    root: &Path,
    map: &IdMap,
) -> Result<(), Error> {
    let from = File::from(view.open_raw(node)?);
    let mut copy = || -> std::io::Result<()> {
        let name = node.path.file_name().unwrap_or_default();
        let to = File::from(rustix::fs::openat(dir, name, CREATE, Mode::from_raw_mode(0o600))?);
        transfer.run(&from, &to)?;
        let attributes = raw::of_layer(&from)?;
        Ok(raw::apply(&to, &basics(node), map, || raw::set_in_tree(&to, &attributes))?)
    };
    copy().map_err(|e| Error::file("copy to", &root.join(&node.path))(e))
}

/// Gives a regular file that is shared with a layer directory a copy of its own, under the same name; whoever has it open
/// keeps the old one. The time of the directory stays. The copy is marked as one, as overlayfs marks what it copies up.
///
/// Which files those are: regular ones with several names that were made before the step began. Files that the step made,
/// and gave several names, have been made later. Before such a file gets a further name, it is given its own copy, too; so
/// the names of a lower file come apart exactly where overlayfs would break them. The copy has another inode: what is known
/// of the file by its inode has to be carried over.
///
/// # Errors
/// It cannot be copied. Then it is what it was.
pub fn break_link(dir: BorrowedFd<'_>, name: &OsStr, map: &IdMap) -> std::io::Result<()> {
    let parent = rustix::fs::fstat(dir)?;
    let from = rustix::fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&from)?;
    // No image has a name that the kernel would refuse to a program: this one is gone before anybody looks.
    let temporary = format!(".rbuild-{:x}-{:x}", stat.st_ino, std::process::id());
    let result = (|| {
        let to = File::from(rustix::fs::openat(dir, &temporary, CREATE, Mode::from_raw_mode(0o600))?);
        let from = File::from(from);
        Transfer::default().run(&from, &to)?;
        let attributes = raw::of_tree(&from)?;
        raw::apply(&to, &Basics::of(&stat), map, || raw::set_in_tree(&to, &attributes))?;
        rustix::fs::renameat(dir, &temporary, dir, name)?;
        Ok(())
    })();
    if result.is_err() {
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    }
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: parent.st_mtime, tv_nsec: parent.st_mtime_nsec as _ },
    };
    // A directory that was opened as a path only cannot be changed itself.
    let _ = rustix::fs::utimensat(dir.as_fd(), ".", &times, AtFlags::empty());
    result
}
