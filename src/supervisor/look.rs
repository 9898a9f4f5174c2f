//! Files as the step is to see them, and what its processes may do with them.

use super::attributes::device;
use super::ids::{Attributes, Credentials, EXECUTE, Inherited};
use super::owners::{FileId, ID, Owned};
use super::proc::ProcPlace;
use super::view::{Dir, name_of};
use super::walk::{Place, Start};
use super::{Errno, World};
use crate::archive::record::Device;
use rustix::fs::{AtFlags, FileType, Mode, Statx, StatxFlags, statx};
use std::os::fd::AsFd;

/// What is asked of the kernel for a file.
pub(super) const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(ID);

/// A file by its name in a directory; a link is not followed.
pub(super) fn look(dir: impl AsFd, name: &[u8]) -> Result<Statx, Errno> {
    if name.is_empty() {
        return statx(dir, "", AtFlags::EMPTY_PATH, MASK);
    }
    statx(dir, name_of(name), AtFlags::SYMLINK_NOFOLLOW, MASK)
}

/// The file that is open.
pub(super) fn look_at(fd: impl AsFd) -> Result<Statx, Errno> {
    statx(fd, "", AtFlags::EMPTY_PATH, MASK)
}

/// The kind of a file.
pub(super) fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(found.stx_mode.into())
}

/// Whether it is a directory.
pub(super) fn is_directory(found: &Statx) -> bool {
    kind(found) == FileType::Directory
}

/// Device and inode, as the tree has them.
pub(super) fn number(found: &Statx) -> super::view::FileId {
    (device(found.stx_dev_major, found.stx_dev_minor), found.stx_ino)
}

/// Bits that a file has on disk, whatever it is to have: without them the supervisor could not work on it.
pub(super) fn disk_mode(wanted: u32, directory: bool) -> Mode {
    Mode::from_raw_mode(wanted & 0o777 | if directory { 0o700 } else { 0o600 })
}

impl World {
    /// Puts what is wanted in the place of what is on disk. `owned`: what is not recorded belongs to root; else only what
    /// belongs to this process's own ids does.
    pub(super) fn dress(&self, found: &mut Statx, owned: bool) {
        if owned || found.stx_uid == self.own.0 {
            found.stx_uid = 0;
        }
        if owned || found.stx_gid == self.own.1 {
            found.stx_gid = 0;
        }
        if owned {
            // Bits of the file system around the tree, such as the set-gid bit of a volume's directories.
            found.stx_mode &= !0o7000;
        }
        let Some(wanted) = self.owners.get(&FileId::of(found)) else { return };
        found.stx_uid = wanted.uid;
        found.stx_gid = wanted.gid;
        if let Some(mode) = wanted.mode
            && kind(found) != FileType::Symlink
        {
            found.stx_mode = found.stx_mode & !0o7777 | (mode & 0o7777) as u16;
        }
        if let Some(device) = wanted.device {
            let (kind, major, minor) = match device {
                Device::Char(major, minor) => (libc::S_IFCHR, major, minor),
                Device::Block(major, minor) => (libc::S_IFBLK, major, minor),
            };
            found.stx_mode = found.stx_mode & 0o7777 | kind as u16;
            (found.stx_rdev_major, found.stx_rdev_minor) = (major, minor);
        }
    }

    /// Whether files of a mount are the step's own.
    pub(super) fn owned(&self, mount: usize) -> bool {
        self.view.mounts.get(mount).is_some_and(|m| m.owned)
    }

    /// Owner and mode of a file as the step sees them.
    pub(super) fn attributes(&self, found: &Statx, mount: usize) -> Attributes {
        let mut seen = *found;
        self.dress(&mut seen, self.owned(mount));
        let mut law = attributes(&seen);
        let common = self.view.mounts.get(mount).is_some_and(|m| m.common);
        if common && self.owners.get(&FileId::of(found)).is_none() {
            // Nobody knows whose it is: a cache keeps no owners from one step to the next.
            let own = law.mode >> 6 & 7;
            law.mode |= own << 3 | own;
        }
        law
    }

    /// Whether a process may do this with a file.
    pub(super) fn may(&self, who: &Credentials, found: &Statx, mount: usize, wanted: u32) -> Result<(), Errno> {
        who.may(self.attributes(found, mount), wanted)
    }

    /// Whether a process may do this with a directory.
    pub(super) fn may_in(&self, who: &Credentials, dir: &Dir, wanted: u32) -> Result<(), Errno> {
        if all_powerful(who) {
            return Ok(());
        }
        match dir.proc {
            Some(place) => self.may_in_proc(who, place, &look_at(dir)?, wanted),
            None => self.may(who, &look_at(dir)?, dir.mount, wanted),
        }
    }

    /// The same for a directory or file of `/proc`: what tells of a process belongs to whom the process belongs.
    pub(super) fn may_in_proc(
        &self,
        who: &Credentials,
        place: ProcPlace,
        found: &Statx,
        wanted: u32,
    ) -> Result<(), Errno> {
        let (ProcPlace::Task(task) | ProcPlace::Threads(task) | ProcPlace::Descriptors(task) | ProcPlace::Below(task)) =
            place
        else {
            return Ok(());
        };
        let mut file = attributes(found);
        if let Some(owner) = self.view.tasks.credentials(task) {
            (file.uid, file.gid) = (owner.uid.effective, owner.gid.effective);
        }
        if all_powerful(who) { Ok(()) } else { who.may(file, wanted) }
    }

    /// What a file gets that a process makes in a directory with this mode.
    pub(super) fn inherit(&self, who: &Credentials, dir: &Dir, mode: u32, directory: bool) -> Result<Inherited, Errno> {
        if self.owners.is_empty() {
            return Ok(Inherited { uid: who.uid.file, gid: who.gid.file, mode: mode & 0o7777 });
        }
        Ok(who.make_in(self.attributes(&look_at(dir)?, dir.mount), mode, directory))
    }

    /// Records owner and mode of a file that was just made, which `found` finds.
    pub(super) fn made(
        &mut self,
        wanted: Inherited,
        directory: bool,
        found: impl FnOnce() -> Result<Statx, Errno>,
    ) -> Result<(), Errno> {
        let on_disk = disk_mode(wanted.mode, directory).bits() == wanted.mode & 0o7777;
        if (wanted.uid, wanted.gid) == (0, 0) && on_disk && self.owners.is_empty() {
            return Ok(());
        }
        let mode = (!on_disk).then_some(wanted.mode & 0o7777);
        let new = Owned { uid: wanted.uid, gid: wanted.gid, mode, ..Owned::default() };
        self.owners.change(&FileId::of(&found()?), |owned| *owned = new);
        Ok(())
    }

    /// The place that a path names: see [`View::walk`](super::view::View::walk).
    pub(super) fn walk(&mut self, start: &Start, path: &[u8]) -> Result<Place, Errno> {
        let World { view, owners, own, .. } = self;
        let Some(who) = start.who.as_ref().filter(|who| !all_powerful(who)) else {
            return view.walk(start, path, None);
        };
        let owned: Vec<bool> = view.mounts.iter().map(|m| m.owned).collect();
        let search = |dir: &Dir| search(who, dir, owners, owned.get(dir.mount) == Some(&true), *own);
        view.walk(start, path, Some(&search))
    }

    /// Where the link at a place leads.
    pub(super) fn follow(&mut self, start: &Start, place: &Place) -> Result<Option<Place>, Errno> {
        let World { view, owners, own, .. } = self;
        let Some(who) = start.who.as_ref().filter(|who| !all_powerful(who)) else {
            return view.follow(start, place, None);
        };
        let owned: Vec<bool> = view.mounts.iter().map(|m| m.owned).collect();
        let search = |dir: &Dir| search(who, dir, owners, owned.get(dir.mount) == Some(&true), *own);
        view.follow(start, place, Some(&search))
    }
}

/// Whether permissions of directories and files mean nothing to a process.
pub(super) fn all_powerful(who: &Credentials) -> bool {
    who.can(super::ids::cap::DAC_OVERRIDE)
}

/// Owner and mode of what the step sees.
pub(super) fn attributes(seen: &Statx) -> Attributes {
    Attributes {
        uid: seen.stx_uid,
        gid: seen.stx_gid,
        mode: u32::from(seen.stx_mode) & 0o7777,
        directory: is_directory(seen),
    }
}

fn search(
    who: &Credentials,
    dir: &Dir,
    owners: &super::owners::Owners,
    owned: bool,
    own: (u32, u32),
) -> Result<(), Errno> {
    if dir.proc.is_some() {
        return Ok(());
    }
    let found = look_at(dir)?;
    let id = |on_disk: u32, own: u32| if owned || on_disk == own { 0 } else { on_disk };
    let mut file = attributes(&found);
    (file.uid, file.gid) = (id(file.uid, own.0), id(file.gid, own.1));
    if let Some(wanted) = owners.get(&FileId::of(&found)) {
        (file.uid, file.gid) = (wanted.uid, wanted.gid);
        file.mode = wanted.mode.unwrap_or(file.mode);
    }
    who.may(file, EXECUTE)
}
