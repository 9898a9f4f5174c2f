//! New names and removed ones.

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tree::{At, Found, Node};
use super::{Overlay, Result, find, join};
use crate::archive::whiteout;

/// What a new file is to be.
pub(super) struct New<'a> {
    pub parent: u64,
    pub name: &'a OsStr,
    /// Permissions, set-id and sticky bits, before the umask.
    pub mode: u32,
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
}

type Made = (Arc<Node>, Stat);

/// A node that stays in the tree meanwhile.
pub(super) struct Held<'a> {
    overlay: &'a Overlay,
    node: Arc<Node>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.overlay.tree().forget(self.node.id, 1);
    }
}

impl std::ops::Deref for Held<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// What becomes of a file when its name goes away.
pub(super) struct Losing {
    at: Option<At>,
    /// Its number in the upper directory, if it has no other name.
    gone: Option<u64>,
}

impl Losing {
    /// The name is gone.
    pub fn lost(self, overlay: &Overlay, at: &mut At) {
        if let Some(now) = self.at {
            *at = now;
        }
        if let Some(ino) = self.gone {
            overlay.tree().gone(ino);
        }
    }
}

/// A whiteout in the work directory.
pub(super) struct SpareWhiteout<'a> {
    overlay: &'a Overlay,
    name: Option<PathBuf>,
}

impl SpareWhiteout<'_> {
    /// Puts it in the place of a file, or where nothing is.
    pub fn put(mut self, dir: BorrowedFd<'_>, name: &Path) -> Result<()> {
        let Some(spare) = &self.name else { return Ok(()) };
        rustix::fs::renameat(self.overlay.work.root(), spare, dir, name)?;
        self.name = None;
        Ok(())
    }
}

impl Drop for SpareWhiteout<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = rustix::fs::unlinkat(self.overlay.work.root(), name, AtFlags::empty());
        }
    }
}

impl Overlay {
    pub fn make_file(&self, new: &New<'_>) -> Result<Made> {
        let mut opened = None;
        let made = self.make(new, FileType::RegularFile, |dir, name, mode| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            opened = Some(rustix::fs::openat(dir, name, flags, mode)?);
            Ok(())
        })?;
        if let Some(fd) = opened {
            self.keep(&made.0, fd);
        }
        made.0.place().no_caps = true;
        Ok(made)
    }

    pub fn make_node(&self, new: &New<'_>, kind: FileType) -> Result<Made> {
        match kind {
            FileType::RegularFile => self.make_file(new),
            FileType::Fifo | FileType::Socket => {
                self.make(new, kind, |dir, name, mode| rustix::fs::mknodat(dir, name, kind, mode, 0))
            }
            // Through a mount of a user namespace nobody can open a device.
            _ => Err(Errno::PERM),
        }
    }

    pub fn make_dir(&self, new: &New<'_>) -> Result<Made> {
        self.make(new, FileType::Directory, |dir, name, mode| rustix::fs::mkdirat(dir, name, mode))
    }

    pub fn make_symlink(&self, new: &New<'_>, target: &Path) -> Result<Made> {
        self.make(new, FileType::Symlink, |dir, name, _| rustix::fs::symlinkat(target, dir, name))
    }

    /// Makes a file by `create`, where nothing is or a whiteout.
    fn make(
        &self,
        new: &New<'_>,
        kind: FileType,
        mut create: impl FnMut(BorrowedFd<'_>, &Path, Mode) -> Result<()>,
    ) -> Result<Made> {
        let dir = self.tree().dir(new.parent)?;
        self.copy_up(&dir)?;
        let inherits = kind != FileType::Symlink && self.has_default_acl(&dir)?;
        let mode = Mode::from_raw_mode(if inherits { new.mode } else { new.mode & !new.umask } & 0o7777);
        let _still = self.still();
        let at = self.tree().path(dir.id)?;
        let path = join(&at, new.name);
        self.upper.at(&path, |parent, name| {
            self.replacing_whiteout(parent, name, || create(parent, name, mode))?;
            let finished = self.finish(new, kind, &dir, &path, &at, (parent, name));
            if finished.is_err() {
                let flags = if kind == FileType::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let _ = rustix::fs::unlinkat(parent, name, flags);
                if !matches!(self.below(&dir, &path), Ok(None)) {
                    let _ = self.put_whiteout(parent, name);
                }
            }
            finished
        })
    }

    /// Gives a new file its owner, hides what is below it, and takes it into the tree.
    fn finish(
        &self,
        new: &New<'_>,
        kind: FileType,
        dir: &Node,
        path: &Path,
        at: &Path,
        (parent, name): (BorrowedFd<'_>, &Path),
    ) -> Result<Made> {
        if (new.uid, new.gid) != (0, 0) {
            // A set-group-id directory has given the file its own group.
            let inherited = self.upper.stat(at)?.is_some_and(|stat| stat.st_mode & 0o2000 != 0);
            let gid = (!inherited).then(|| Gid::from_raw(new.gid));
            rustix::fs::chownat(parent, name, Some(Uid::from_raw(new.uid)), gid, AtFlags::SYMLINK_NOFOLLOW)?;
            // A change of owner drops these.
            if new.mode & 0o6000 != 0 && kind == FileType::RegularFile {
                let mode = new.mode & 0o7777 & !new.umask;
                rustix::fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
            }
        }
        if kind == FileType::Directory && self.below(dir, path)? == Some(FileType::Directory) {
            self.set_opaque(path)?;
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let identity = (stat.st_dev, stat.st_ino);
        let found = Found { kind, upper: true, lowers: Vec::new(), stat, identity };
        Ok((self.tree().enter(new.parent, new.name, &found), stat))
    }

    /// Calls `create`, without the whiteout that may be in its way; where it fails the whiteout returns.
    fn replacing_whiteout(
        &self,
        parent: BorrowedFd<'_>,
        name: &Path,
        mut create: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        match create() {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if !whiteout::is(&stat) {
            return Err(Errno::EXIST);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        create().inspect_err(|_| {
            let _ = self.put_whiteout(parent, name);
        })
    }

    /// Marks an upper directory as hiding those below it.
    pub fn set_opaque(&self, path: &Path) -> Result<()> {
        let fd = self.upper.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsetxattr(fd, "user.overlay.opaque", b"y", XattrFlags::empty())
    }

    /// Puts a whiteout where nothing is.
    pub fn put_whiteout(&self, parent: BorrowedFd<'_>, name: &Path) -> Result<()> {
        whiteout::make(parent, name.as_os_str())
    }

    /// A whiteout that will be needed: made while nothing has been taken away yet.
    pub fn spare_whiteout(&self) -> Result<SpareWhiteout<'_>> {
        let name = self.fresh();
        self.put_whiteout(self.work.root(), &name)?;
        Ok(SpareWhiteout { overlay: self, name: Some(name) })
    }

    /// Whether files in a directory get its default access control list, in place of the umask.
    fn has_default_acl(&self, dir: &Node) -> Result<bool> {
        let known = dir.place().default_acl;
        if let Some(known) = known {
            return Ok(known);
        }
        let fd = self.file(dir, false)?;
        let has = rustix::fs::fgetxattr_query(&*fd, "system.posix_acl_default").is_ok_and(|n| n > 0);
        dir.place().default_acl = Some(has);
        Ok(has)
    }

    /// One more name for a file.
    pub fn make_link(&self, id: u64, parent: u64, name: &OsStr) -> Result<Made> {
        let node = self.tree().node(id)?;
        let dir = self.tree().dir(parent)?;
        self.copy_up(&node)?;
        self.copy_up(&dir)?;
        let _still = self.still();
        let from = self.tree().path(id)?;
        let to = join(&self.tree().path(parent)?, name);
        self.upper.at(&to, |into, name| {
            self.replacing_whiteout(into, name, || {
                self.upper.at(&from, |dir, path| rustix::fs::linkat(dir, path, into, name, AtFlags::empty()))
            })
        })?;
        let stat = self.upper.stat(&to)?.ok_or(Errno::STALE)?;
        self.tree().link(parent, name, id);
        Ok((node, stat))
    }

    /// Removes a file that is no directory.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let dir = self.tree().dir(parent)?;
        self.copy_up(&dir)?;
        let node = self.known(&dir, name)?;
        if node.is_dir() {
            return Err(Errno::ISDIR);
        }
        let mut place = node.place();
        let _moving = self.moving();
        let path = join(&self.tree().path(parent)?, name);
        let losing = self.lose(&node, &place.at, &path)?;
        let hidden = self.below(&dir, &path)?.is_some();
        self.upper.at(&path, |at, last| match (hidden, node.is_upper()) {
            (false, _) => rustix::fs::unlinkat(at, last, AtFlags::empty()),
            (true, false) => self.put_whiteout(at, last),
            // In one step: where the disk is full, the file stays.
            (true, true) => self.spare_whiteout()?.put(at, last),
        })?;
        losing.lost(self, &mut place.at);
        self.tree().unlink(parent, name);
        Ok(())
    }

    /// The node that a name leads to, held in the tree. The kernel has looked it up, and so should not have forgotten it.
    pub fn known(&self, dir: &Node, name: &OsStr) -> Result<Held<'_>> {
        let known = self.tree().hold_child(dir.id, name);
        let node = match known {
            Some(node) => node,
            None => self.lookup(dir.id, name)?.ok_or(Errno::NOENT)?.0,
        };
        Ok(Held { overlay: self, node })
    }

    /// To be called before the name `path` of a file goes away: programs that have it open keep it.
    pub fn lose(&self, node: &Node, at: &At, path: &Path) -> Result<Losing> {
        let stat = if node.is_upper() { Some(self.upper.stat(path)?.ok_or(Errno::NOENT)?) } else { None };
        let gone = stat.as_ref().filter(|stat| stat.st_nlink == 1).map(|stat| stat.st_ino);
        let last = self.tree().names(node.id) <= 1;
        let at = match (at, stat) {
            (At::Lower, _) if last => Some(At::LostLower(path.to_owned())),
            (At::Upper, Some(stat)) if last => {
                let flags = if node.kind == FileType::RegularFile { OFlags::RDWR } else { OFlags::PATH };
                Some(match self.upper.open_at(path, flags) {
                    Ok(fd) => At::LostUpper(Arc::new(fd)),
                    Err(_) => At::Gone(Box::new(stat)),
                })
            }
            _ => None,
        };
        Ok(Losing { at, gone })
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, parent: u64, name: &OsStr) -> Result<()> {
        let dir = self.tree().dir(parent)?;
        let node = self.known(&dir, name)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if !self.is_empty(&node)? {
            return Err(Errno::NOTEMPTY);
        }
        self.copy_up(&dir)?;
        let mut place = node.place();
        let _moving = self.moving();
        let path = join(&self.tree().path(parent)?, name);
        let losing = self.lose_dir(&node, &path)?;
        let hidden = self.below(&dir, &path)?.is_some();
        let whiteout = if hidden { Some(self.spare_whiteout()?) } else { None };
        if node.is_upper() {
            self.remove_upper_dir(&path)?;
        }
        if let Some(whiteout) = whiteout {
            self.upper.at(&path, |at, last| whiteout.put(at, last))?;
        }
        losing.lost(self, &mut place.at);
        self.tree().unlink(parent, name);
        Ok(())
    }

    /// As [`Overlay::lose`], of an empty directory.
    pub fn lose_dir(&self, node: &Node, path: &Path) -> Result<Losing> {
        let stat = self.stat_at(node, path)?;
        // A merged one shows the number of the lower.
        let gone = (node.is_upper() && node.lowers.is_empty()).then_some(stat.st_ino);
        Ok(Losing { at: Some(At::Gone(Box::new(stat))), gone })
    }

    /// Removes a directory of the upper one that holds nothing but whiteouts.
    pub fn remove_upper_dir(&self, path: &Path) -> Result<()> {
        let remove = || self.upper.at(path, |dir, name| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR));
        match remove() {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return other,
        }
        let fd: OwnedFd = self.upper.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !whiteout::is(&stat) {
                return Err(Errno::NOTEMPTY);
            }
            rustix::fs::unlinkat(fd.as_fd(), name, AtFlags::empty())?;
        }
        remove()
    }

    /// What is known of a node by its path, where it is; to be called while names are still.
    pub fn stat_at(&self, node: &Node, path: &Path) -> Result<Stat> {
        let layer = if node.is_upper() { &self.upper } else { self.lower(*node.lowers.first().ok_or(Errno::STALE)?)? };
        layer.stat(path)?.ok_or(Errno::NOENT).inspect(|stat| debug_assert!(find::kind(stat) == node.kind))
    }
}
