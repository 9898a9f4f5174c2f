//! Calls about files that exist.

use super::super::attributes;
use super::super::ids::{Credentials, UNCHANGED, cap};
use super::super::owners::Owned;
use super::place::{Place, Seen};
use super::{Answer, Answered, Call, Keeper, Kind};
use crate::archive::record::Device;
use rustix::fs::{AtFlags, Gid, Statx, StatxFlags, Uid, chownat};
use rustix::io::Errno;
use std::os::fd::{AsFd as _, OwnedFd};

const EVERYTHING: StatxFlags = StatxFlags::BASIC_STATS;

/// How the caller wants to be told.
pub(super) enum Layout {
    Native,
    Compat64,
    CompatShort,
    Extended,
}

impl Layout {
    /// What stat(2) says of a file.
    pub(super) fn encode(&self, kind: Kind, seen: &Seen) -> Vec<u8> {
        let mut stat = seen.stat;
        if let Some(owned) = &seen.owned {
            dress(kind, &mut stat, owned);
        }
        match self {
            Layout::Native => attributes::encode_native(&stat),
            Layout::Compat64 => attributes::encode_compat(&stat),
            Layout::CompatShort => attributes::encode_compat_short(&stat),
            Layout::Extended => attributes::encode_statx(&stat),
        }
    }
}

impl Keeper {
    pub(super) fn stat(&self, call: &Call<'_>) -> Answered {
        self.show(call, || call.place(libc::AT_FDCWD, call.arg(0), false), true, call.arg(1))
    }

    pub(super) fn lstat(&self, call: &Call<'_>) -> Answered {
        self.show(call, || call.place(libc::AT_FDCWD, call.arg(0), false), false, call.arg(1))
    }

    pub(super) fn fstat(&self, call: &Call<'_>) -> Answered {
        self.show(call, || Ok(call.descriptor(call.int(0))), true, call.arg(1))
    }

    pub(super) fn fstatat(&self, call: &Call<'_>) -> Answered {
        let flags = call.int(3);
        let empty = flags & libc::AT_EMPTY_PATH != 0;
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        self.show(call, || call.place(call.int(0), call.arg(1), empty), follow, call.arg(2))
    }

    pub(super) fn statx(&self, call: &Call<'_>) -> Answered {
        let flags = call.int(2);
        let empty = flags & libc::AT_EMPTY_PATH != 0;
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        self.show_as(call, || call.place(call.int(0), call.arg(1), empty), follow, call.arg(4), &Layout::Extended)
    }

    /// The oldest form has 16 bits for an id, and no room for a file system of today.
    pub(super) fn old_stat(&self, _: &Call<'_>) -> Answered {
        Ok(Answer::GoOn)
    }

    fn show(
        &self,
        call: &Call<'_>,
        place: impl FnOnce() -> Result<Place, Errno>,
        follow: bool,
        address: u64,
    ) -> Answered {
        self.show_as(call, place, follow, address, &self.layout(call))
    }

    pub(super) fn layout(&self, call: &Call<'_>) -> Layout {
        // Programs of 32 bits have `stat` and `stat64`.
        match (call.compat, matches!(call.notification.number, 106..=108)) {
            (false, _) => Layout::Native,
            (true, false) => Layout::Compat64,
            (true, true) => Layout::CompatShort,
        }
    }

    /// Answers only for files with an entry; all others the kernel shows faster, and so it does errors.
    fn show_as(
        &self,
        call: &Call<'_>,
        place: impl FnOnce() -> Result<Place, Errno>,
        follow: bool,
        address: u64,
        layout: &Layout,
    ) -> Answered {
        if self.owners().is_empty() {
            return Ok(Answer::GoOn);
        }
        let seen = place().and_then(|place| self.as_caller(call, || self.see(&place, follow, EVERYTHING)));
        match seen {
            Ok(seen) if seen.owned.is_some() => {
                call.write(address, &layout.encode(self.kind, &seen))?;
                Ok(Answer::Value(0))
            }
            _ => Ok(Answer::GoOn),
        }
    }

    pub(super) fn chown(&self, call: &Call<'_>) -> Answered {
        let place = call.place(libc::AT_FDCWD, call.arg(0), false)?;
        self.give(call, &place, true, [1, 2])
    }

    pub(super) fn lchown(&self, call: &Call<'_>) -> Answered {
        let place = call.place(libc::AT_FDCWD, call.arg(0), false)?;
        self.give(call, &place, false, [1, 2])
    }

    pub(super) fn fchown(&self, call: &Call<'_>) -> Answered {
        let file = self.take(call.pid, call.int(0))?;
        self.give_held(&call.who, &file, call, [1, 2])
    }

    pub(super) fn fchownat(&self, call: &Call<'_>) -> Answered {
        let flags = call.int(4);
        if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
            return Err(Errno::INVAL);
        }
        let place = call.place(call.int(0), call.arg(1), flags & libc::AT_EMPTY_PATH != 0)?;
        self.give(call, &place, flags & libc::AT_SYMLINK_NOFOLLOW == 0, [2, 3])
    }

    fn give(&self, call: &Call<'_>, place: &Place, follow: bool, ids: [usize; 2]) -> Answered {
        let file = self.as_caller(call, || self.hold(place, follow)).map_err(|e| match e {
            // A closed descriptor is a missing entry of `/proc`.
            Errno::NOENT if place.split().is_none() => Errno::BADF,
            e => e,
        })?;
        self.give_held(&call.who, &file, call, ids)
    }

    /// Gives a file to whom two arguments name.
    pub(super) fn give_held(&self, who: &Credentials, file: &OwnedFd, call: &Call<'_>, ids: [usize; 2]) -> Answered {
        let [uid, gid] = ids.map(|index| self.id(call, call.word(index)));
        let before = self.see_open(file)?;
        let after = who.chown(before.attributes(), uid, gid)?;
        // The kernel's part: the overlay's copy, the time of the change, set-id bits and capabilities of the file.
        let native = |id: u32| (id != UNCHANGED).then_some(0);
        chownat(
            file,
            "",
            native(uid).map(Uid::from_raw),
            native(gid).map(Gid::from_raw),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let id = self.see_open(file)?.id;
        let kept = before.owned.unwrap_or_default();
        self.owners().change(&id, |owned| *owned = Owned { uid: after.uid, gid: after.gid, ..kept });
        Ok(Answer::Value(0))
    }

    /// An id as the caller wrote it: 32-bit programs have calls with 16 bits of it.
    pub(super) fn id(&self, call: &Call<'_>, value: u32) -> u32 {
        let short = call.compat
            && crate::sys::arch::syscall_name(call.notification.arch, call.notification.number).is_some_and(|name| {
                let wide = |n: &str| crate::sys::arch::syscall(&format!("{n}32")).is_some();
                wide(name)
            });
        match value & 0xffff {
            0xffff if short => UNCHANGED,
            low if short => low,
            _ => value,
        }
    }

    pub(super) fn setxattr(&self, call: &Call<'_>) -> Answered {
        self.attribute(call, || call.place(libc::AT_FDCWD, call.arg(0), false), true)
    }

    pub(super) fn lsetxattr(&self, call: &Call<'_>) -> Answered {
        self.attribute(call, || call.place(libc::AT_FDCWD, call.arg(0), false), false)
    }

    pub(super) fn fsetxattr(&self, call: &Call<'_>) -> Answered {
        self.attribute(call, || Ok(call.descriptor(call.int(0))), true)
    }

    /// Access control lists that name ids are refused by the kernel. Layers carry none, so what counts of one is the mode
    /// that it makes.
    fn attribute(&self, call: &Call<'_>, place: impl FnOnce() -> Result<Place, Errno>, follow: bool) -> Answered {
        const LONGEST_NAME: usize = 256;
        const LONGEST_VALUE: usize = 65_536;
        let name = call.string(call.arg(1), LONGEST_NAME)?;
        if name.starts_with(b"security.") && !self.credentials(call.pid).can(cap::SETFCAP) {
            return Err(Errno::PERM);
        }
        if !is_access_list(&name) {
            return Ok(Answer::GoOn);
        }
        let length = usize::try_from(call.arg(3)).ok().filter(|n| *n <= LONGEST_VALUE).ok_or(Errno::INVAL)?;
        let value = call.read(call.arg(2), length)?;
        let place = place()?;
        let file = self.as_caller(call, || self.hold(&place, follow))?;
        self.set_access_list(&file, &name, &value).unwrap_or(Ok(Answer::GoOn))
    }

    /// Sets what counts of an access control list that the kernel refuses; `None` for all others.
    pub(super) fn set_access_list(&self, file: &OwnedFd, name: &[u8], value: &[u8]) -> Option<Answered> {
        let list = is_access_list(name).then(|| AccessList::parse(value))?.filter(|list| list.names_ids)?;
        if name == DEFAULT_LIST {
            return Some(Ok(Answer::Value(0)));
        }
        let set = || {
            let mode = self.see_open(file)?.attributes().mode;
            let mode = rustix::fs::Mode::from_raw_mode((mode & 0o7000) | list.mode);
            rustix::fs::chmodat(&self.links, self.own_name(file.as_fd()), mode, AtFlags::empty())?;
            Ok(Answer::Value(0))
        };
        Some(set())
    }
}

const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

fn is_access_list(name: &[u8]) -> bool {
    name == b"system.posix_acl_access" || name == DEFAULT_LIST
}

/// Puts what is kept in the place of what the disk has.
fn dress(kind: Kind, stat: &mut Statx, owned: &Owned) {
    if kind == Kind::Ids {
        (stat.stx_uid, stat.stx_gid) = (owned.uid, owned.gid);
    }
    if let Some(mode) = owned.mode {
        stat.stx_mode = (stat.stx_mode & !0o7777) | (mode & 0o7777) as u16;
    }
    let (kind, major, minor) = match owned.device {
        Some(Device::Char(major, minor)) => (libc::S_IFCHR, major, minor),
        Some(Device::Block(major, minor)) => (libc::S_IFBLK, major, minor),
        None => return,
    };
    stat.stx_mode = (stat.stx_mode & 0o7777) | (kind & 0o170_000) as u16;
    (stat.stx_rdev_major, stat.stx_rdev_minor, stat.stx_size) = (major, minor, 0);
}

/// What counts of the value of `system.posix_acl_access`.
struct AccessList {
    names_ids: bool,
    mode: u32,
}

impl AccessList {
    fn parse(value: &[u8]) -> Option<AccessList> {
        const OWNER: u16 = 0x01;
        const USER: u16 = 0x02;
        const GROUP_OWNER: u16 = 0x04;
        const GROUP: u16 = 0x08;
        const MASK: u16 = 0x10;
        const OTHER: u16 = 0x20;
        let entries = value.strip_prefix(&[2, 0, 0, 0])?;
        let (mut names_ids, mut mode, mut mask) = (false, 0, None);
        for entry in entries.chunks(8) {
            let &[t0, t1, p0, p1, i0, i1, i2, i3] = entry.first_chunk::<8>()?;
            let permissions = u32::from(u16::from_le_bytes([p0, p1])) & 7;
            let id = u32::from_le_bytes([i0, i1, i2, i3]);
            match u16::from_le_bytes([t0, t1]) {
                OWNER => mode |= permissions << 6,
                GROUP_OWNER => mode |= permissions << 3,
                OTHER => mode |= permissions,
                MASK => mask = Some(permissions),
                USER | GROUP => names_ids |= id != 0,
                _ => return None,
            }
        }
        if let Some(mask) = mask {
            mode = (mode & !0o070) | mask << 3;
        }
        Some(AccessList { names_ids, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_an_access_list_is_the_group_of_the_mode() {
        let list = |entries: &[(u16, u16, u32)]| {
            let mut value = vec![2, 0, 0, 0];
            for (tag, permissions, id) in entries {
                value.extend(tag.to_le_bytes());
                value.extend(permissions.to_le_bytes());
                value.extend(id.to_le_bytes());
            }
            AccessList::parse(&value).map(|l| (l.names_ids, l.mode))
        };
        const NONE: u32 = u32::MAX;
        assert_eq!(list(&[(1, 6, NONE), (4, 4, NONE), (0x20, 0, NONE)]), Some((false, 0o640)));
        let named = [(1, 7, NONE), (2, 6, 33), (4, 0, NONE), (0x10, 6, NONE), (0x20, 4, NONE)];
        assert_eq!(list(&named), Some((true, 0o764)));
        assert_eq!(list(&[(0x40, 0, 0)]), None);
        assert_eq!(AccessList::parse(&[1, 0, 0, 0]).map(|l| l.mode), None);
    }
}
