//! Permissions, owners, times and sizes.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Held};
use crate::supervisor::ids::{WRITE, cap};
use crate::supervisor::look::{disk_mode, is_directory, kind};
use crate::supervisor::owners::FileId;
use crate::supervisor::times::{self, NOW, timestamps};
use crate::supervisor::view::links;
use rustix::fs::{AtFlags, FileType, Timestamps};

const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
/// "Leave it."
const UNCHANGED: u32 = u32::MAX;

pub(in crate::supervisor) fn access(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    call.may(AT_FDCWD, &path, call.uint(1), 0)
}

pub(in crate::supervisor) fn faccessat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    // faccessat itself has three arguments, faccessat2 four.
    let flags = if call.notification.number == 439 { call.uint(3) } else { 0 };
    call.may(call.int(0), &path, call.uint(2), flags)
}

impl Call<'_> {
    fn may(&mut self, dirfd: i32, path: &[u8], wanted: u32, flags: u32) -> Answer {
        if wanted & !7 != 0 {
            return Err(Errno::INVAL);
        }
        let held = self.hold_at(dirfd, path, flags)?;
        if wanted == 0 {
            return DONE;
        }
        let found = held.look()?;
        let changeable = kind(&found) == FileType::RegularFile || is_directory(&found);
        let mount = held.mount.and_then(|m| self.world.view.mounts.get(m));
        if wanted & WRITE != 0 && changeable && mount.is_some_and(|m| m.read_only) {
            return Err(Errno::ROFS);
        }
        if !mount.is_some_and(|m| m.owned) {
            // The kernel's word counts for what is not of the image.
            let access = rustix::fs::Access::from_bits_retain(wanted);
            return rustix::fs::accessat(links()?, held.name(), access, AtFlags::empty()).and(DONE);
        }
        let (who, seen) = (self.who()?, held.seen(self.world, &found));
        let effective = flags & libc::AT_EACCESS.cast_unsigned() != 0;
        if effective { who.may(seen, wanted) } else { who.may_as_real(seen, wanted) }.and(DONE)
    }
}

pub(in crate::supervisor) fn chmod(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let held = call.hold_at(AT_FDCWD, &path, 0)?;
    call.set_mode(&held, call.uint(1))
}

pub(in crate::supervisor) fn fchmod(call: &mut Call<'_>) -> Answer {
    let held = call.hold_at(call.int(0), b"", EMPTY_PATH)?;
    call.set_mode(&held, call.uint(1))
}

pub(in crate::supervisor) fn fchmodat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let held = call.hold_at(call.int(0), &path, 0)?;
    call.set_mode(&held, call.uint(2))
}

pub(in crate::supervisor) fn fchmodat2(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let flags = call.uint(3);
    if flags & !(NOFOLLOW | EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let held = call.hold_at(call.int(0), &path, flags)?;
    call.set_mode(&held, call.uint(2))
}

impl Call<'_> {
    fn set_mode(&mut self, held: &Held, mode: u32) -> Answer {
        held.change(self.world)?;
        let found = held.look()?;
        match kind(&found) {
            FileType::Symlink => return Err(Errno::OPNOTSUPP),
            FileType::CharacterDevice | FileType::BlockDevice => return Err(Errno::PERM),
            _ => {}
        }
        let directory = is_directory(&found);
        let mode = match held.owned(self.world) {
            true => self.who()?.chmod(held.seen(self.world, &found), mode)?,
            false => mode & 0o7777,
        };
        let on_disk = disk_mode(mode, directory);
        // Even where the bits on disk stay: that sets the change time.
        rustix::fs::chmodat(links()?, held.name(), on_disk, AtFlags::empty())?;
        if held.mount.is_none() {
            // A pipe, a socket, a file in memory.
            return DONE;
        }
        let file = FileId::of(&found);
        let known = self.world.owners.get(&file);
        let differs = known.is_some_and(|owned| owned.device.is_some()) || on_disk.bits() != mode;
        if differs || known.is_some() {
            self.world.owners.change(&file, |owned| owned.mode = differs.then_some(mode));
        }
        DONE
    }
}

pub(in crate::supervisor) fn chown(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let held = call.hold_at(AT_FDCWD, &path, 0)?;
    call.set_owner(&held, call.id(1), call.id(2))
}

pub(in crate::supervisor) fn lchown(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let held = call.hold_at(AT_FDCWD, &path, NOFOLLOW)?;
    call.set_owner(&held, call.id(1), call.id(2))
}

pub(in crate::supervisor) fn fchown(call: &mut Call<'_>) -> Answer {
    let keeps = |id: u32| id == 0 || id == UNCHANGED;
    if keeps(call.id(1)) && keeps(call.id(2)) && call.world.owners.is_empty() && call.who()?.can(cap::CHOWN) {
        // Everything belongs to root already.
        let host = call.link_of(call.int(0))?;
        let mount = call.world.view.path_of(&host).and_then(|(m, _)| call.world.view.mounts.get(m));
        return if mount.is_some_and(|m| m.read_only) { Err(Errno::ROFS) } else { DONE };
    }
    let held = call.hold_at(call.int(0), b"", EMPTY_PATH)?;
    call.set_owner(&held, call.id(1), call.id(2))
}

pub(in crate::supervisor) fn fchownat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let flags = call.uint(4);
    if flags & !(NOFOLLOW | EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let held = call.hold_at(call.int(0), &path, flags)?;
    call.set_owner(&held, call.id(2), call.id(3))
}

impl Call<'_> {
    /// An id; the 16-bit calls of 32-bit programs have another "leave it".
    pub(super) fn id(&self, number: usize) -> u32 {
        match self.uint(number) {
            id if !self.is_narrow() => id,
            0xffff => UNCHANGED,
            id => id & 0xffff,
        }
    }

    fn set_owner(&mut self, held: &Held, uid: u32, gid: u32) -> Answer {
        held.change(self.world)?;
        if held.mount.is_none() {
            return DONE;
        }
        let found = held.look()?;
        let before = held.seen(self.world, &found);
        let after = self.who()?.chown(before, uid, gid)?;
        let on_disk = disk_mode(after.mode, after.directory).bits() == after.mode;
        let link = kind(&found) == FileType::Symlink;
        if after != before {
            self.world.owners.change(&FileId::of(&found), |owned| {
                (owned.uid, owned.gid) = (after.uid, after.gid);
                if !link {
                    owned.mode = (owned.device.is_some() || !on_disk).then_some(after.mode);
                }
                // Capabilities go with the owner who gave them.
                owned.xattrs.remove(b"security.capability".as_slice());
            });
        }
        DONE
    }
}

pub(in crate::supervisor) fn utime(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let times = match call.arg(1) {
        0 => NOW,
        at => {
            let [a, m] = call.words(at)?;
            timestamps((a, 0), (m, 0))
        }
    };
    call.set_times(AT_FDCWD, &path, 0, &times)
}

pub(in crate::supervisor) fn utimes(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let times = call.micro_times(1)?;
    call.set_times(AT_FDCWD, &path, 0, &times)
}

pub(in crate::supervisor) fn futimesat(call: &mut Call<'_>) -> Answer {
    let times = call.micro_times(2)?;
    if call.arg(1) == 0 {
        return call.set_times(call.int(0), b"", EMPTY_PATH, &times);
    }
    let path = call.path(1)?;
    call.set_times(call.int(0), &path, 0, &times)
}

pub(in crate::supervisor) fn utimensat(call: &mut Call<'_>) -> Answer {
    let times = match call.arg(2) {
        0 => NOW,
        at => {
            // The newer call of 32-bit programs has words of 64 bits.
            let [a, an, m, mn] =
                if call.compat && call.notification.number == 412 { call.long_words(at) } else { call.words(at) }?;
            timestamps((a, an), (m, mn))
        }
    };
    let flags = call.uint(3);
    if call.arg(1) == 0 {
        return call.set_times(call.int(0), b"", EMPTY_PATH, &times);
    }
    let path = call.path(1)?;
    call.set_times(call.int(0), &path, flags, &times)
}

impl Call<'_> {
    /// Words of the caller's, as long as its own.
    fn words<const N: usize>(&self, at: u64) -> Result<[i64; N], Errno> {
        let width = if self.compat { 4 } else { 8 };
        Ok(times::words(&self.bytes(at, N * width)?, width))
    }

    fn long_words<const N: usize>(&self, at: u64) -> Result<[i64; N], Errno> {
        Ok(times::words(&self.bytes(at, N * 8)?, 8))
    }

    fn micro_times(&self, number: usize) -> Result<Timestamps, Errno> {
        let at = self.arg(number);
        if at == 0 {
            return Ok(NOW);
        }
        times::of_microseconds(self.words(at)?)
    }

    fn set_times(&mut self, dirfd: i32, path: &[u8], flags: u32, times: &Timestamps) -> Answer {
        if flags & !(NOFOLLOW | EMPTY_PATH) != 0 {
            return Err(Errno::INVAL);
        }
        let held = self.hold_at(dirfd, path, flags)?;
        held.change(self.world)?;
        let now = [times.last_access.tv_nsec, times.last_modification.tv_nsec] == [libc::UTIME_NOW; 2];
        let who = self.who()?;
        if !who.can(cap::FOWNER) && held.owned(self.world) {
            who.may_set_times(held.seen(self.world, &held.look()?), now)?;
        }
        // The link to a descriptor leads to the file itself, be it a link.
        rustix::fs::utimensat(links()?, held.name(), times, AtFlags::empty())?;
        DONE
    }
}

pub(in crate::supervisor) fn truncate(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let length =
        if call.compat && call.notification.number == 193 { call.arg(1) | call.arg(2) << 32 } else { call.arg(1) };
    if length.cast_signed() < 0 {
        return Err(Errno::INVAL);
    }
    let held = call.hold_at(AT_FDCWD, &path, 0)?;
    held.change(call.world)?;
    let found = held.look()?;
    if held.owned(call.world) {
        call.who()?.may(held.seen(call.world, &found), WRITE)?;
    }
    match kind(&found) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(links()?, held.name(), flags, rustix::fs::Mode::empty())?;
    rustix::fs::ftruncate(&file, length)?;
    DONE
}
