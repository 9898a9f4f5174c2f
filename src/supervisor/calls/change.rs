//! Making, removing and moving names.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Held};
use crate::archive::record::Device;
use crate::supervisor::ids::{Inherited, WRITE, cap, may_delete};
use crate::supervisor::look::{self, disk_mode, is_directory, look};
use crate::supervisor::owners::FileId;
use crate::supervisor::view::{Dir, links, name_of};
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::fs::{linkat as kernel_linkat, mkdirat as kernel_mkdirat, mknodat as kernel_mknodat};
use rustix::fs::{renameat_with, symlinkat as kernel_symlinkat, unlinkat as kernel_unlinkat};
use std::sync::Arc;

pub(in crate::supervisor) fn mkdir(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    call.make_directory(AT_FDCWD, &path, call.uint(1))
}

pub(in crate::supervisor) fn mkdirat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    call.make_directory(call.int(0), &path, call.uint(2))
}

pub(in crate::supervisor) fn mknod(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    call.make_node(AT_FDCWD, &path, call.uint(1), call.arg(2))
}

pub(in crate::supervisor) fn mknodat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    call.make_node(call.int(0), &path, call.uint(2), call.arg(3))
}

pub(in crate::supervisor) fn rmdir(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    call.remove(AT_FDCWD, &path, true)
}

pub(in crate::supervisor) fn unlink(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    call.remove(AT_FDCWD, &path, false)
}

pub(in crate::supervisor) fn unlinkat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let flags = call.int(2);
    if flags & !libc::AT_REMOVEDIR != 0 {
        return Err(Errno::INVAL);
    }
    call.remove(call.int(0), &path, flags != 0)
}

pub(in crate::supervisor) fn symlink(call: &mut Call<'_>) -> Answer {
    let (target, path) = (call.path(0)?, call.path(1)?);
    call.make_link(&target, AT_FDCWD, &path)
}

pub(in crate::supervisor) fn symlinkat(call: &mut Call<'_>) -> Answer {
    let (target, path) = (call.path(0)?, call.path(2)?);
    call.make_link(&target, call.int(1), &path)
}

pub(in crate::supervisor) fn link(call: &mut Call<'_>) -> Answer {
    let (old, new) = (call.path(0)?, call.path(1)?);
    call.hard_link((AT_FDCWD, &old), (AT_FDCWD, &new), 0)
}

pub(in crate::supervisor) fn linkat(call: &mut Call<'_>) -> Answer {
    let (old, new) = (call.path(1)?, call.path(3)?);
    call.hard_link((call.int(0), &old), (call.int(2), &new), call.uint(4))
}

pub(in crate::supervisor) fn rename(call: &mut Call<'_>) -> Answer {
    let (old, new) = (call.path(0)?, call.path(1)?);
    call.move_name((AT_FDCWD, &old), (AT_FDCWD, &new), 0)
}

pub(in crate::supervisor) fn renameat(call: &mut Call<'_>) -> Answer {
    let (old, new) = (call.path(1)?, call.path(3)?);
    call.move_name((call.int(0), &old), (call.int(2), &new), 0)
}

pub(in crate::supervisor) fn renameat2(call: &mut Call<'_>) -> Answer {
    let (old, new) = (call.path(1)?, call.path(3)?);
    call.move_name((call.int(0), &old), (call.int(2), &new), call.uint(4))
}

impl Call<'_> {
    /// A name that is going to be made: EEXIST where it is there, whatever else is wrong.
    fn new_entry(&mut self, dirfd: i32, path: &[u8]) -> Result<(Arc<Dir>, Vec<u8>, bool), Errno> {
        match self.entry(dirfd, path) {
            Err(Errno::BUSY) => Err(Errno::EXIST),
            other => other,
        }
    }

    /// Whether the caller may make names in the directory, and what a file gets there.
    fn inherit(&self, dir: &Dir, name: &[u8], mode: u32, directory: bool) -> Result<Inherited, Errno> {
        let who = self.who()?;
        // That it exists counts before.
        self.world.may_in(&who, dir, WRITE).map_err(|e| if look(dir, name).is_ok() { Errno::EXIST } else { e })?;
        self.world.inherit(&who, dir, mode & !self.umask(), directory)
    }

    fn make_directory(&mut self, dirfd: i32, path: &[u8], mode: u32) -> Answer {
        let (dir, name, _) = self.new_entry(dirfd, path)?;
        let wanted = self.inherit(&dir, &name, mode & 0o1777, true)?;
        kernel_mkdirat(&dir, name_of(&name), disk_mode(wanted.mode, true))?;
        self.world.made(wanted, true, || look(&dir, &name))?;
        DONE
    }

    fn make_node(&mut self, dirfd: i32, path: &[u8], mode: u32, device: u64) -> Answer {
        let (dir, name, directory) = self.new_entry(dirfd, path)?;
        if directory {
            return Err(Errno::NOENT);
        }
        // As the kernel's 32-bit form has them.
        let major = ((device >> 8) & 0xfff) as u32;
        let minor = ((device & 0xff) | ((device >> 12) & 0xfff00)) as u32;
        let (on_disk, device) = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => (FileType::RegularFile, None),
            libc::S_IFCHR => (FileType::RegularFile, Some(Device::Char(major, minor))),
            libc::S_IFBLK => (FileType::RegularFile, Some(Device::Block(major, minor))),
            libc::S_IFIFO => (FileType::Fifo, None),
            libc::S_IFSOCK => (FileType::Socket, None),
            libc::S_IFDIR => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        };
        if device.is_some() && !self.who()?.can(cap::MKNOD) {
            return Err(Errno::PERM);
        }
        let wanted = self.inherit(&dir, &name, mode & 0o7777, false)?;
        kernel_mknodat(&dir, name_of(&name), on_disk, disk_mode(wanted.mode, false), 0)?;
        self.world.made(wanted, false, || look(&dir, &name))?;
        if device.is_some() {
            let file = FileId::of(&look(&dir, &name)?);
            self.world.owners.change(&file, |owned| (owned.device, owned.mode) = (device, Some(wanted.mode)));
        }
        DONE
    }

    /// Whether the caller may take a name out of the directory, or put another file in its place.
    fn may_remove(&self, dir: &Dir, name: &[u8]) -> Result<(), Errno> {
        let who = self.who()?;
        if look::all_powerful(&who) && who.can(cap::FOWNER) {
            return Ok(());
        }
        let directory = self.world.attributes(&look::look_at(dir)?, dir.mount);
        match look(dir, name) {
            Ok(found) => may_delete(&who, directory, self.world.attributes(&found, dir.mount)),
            Err(Errno::NOENT) => who.may(directory, WRITE),
            Err(e) => Err(e),
        }
    }

    fn remove(&mut self, dirfd: i32, path: &[u8], directory: bool) -> Answer {
        let last = path.iter().rev().skip_while(|b| **b == b'/').take_while(|b| **b != b'/').count();
        let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
        match path.get(end.saturating_sub(last)..end) {
            Some(b".") if directory => return Err(Errno::INVAL),
            Some(b"..") if directory => return Err(Errno::NOTEMPTY),
            Some(b"." | b"..") => return Err(Errno::ISDIR),
            _ => {}
        }
        let (dir, name, slash) = self.entry(dirfd, path)?;
        self.may_remove(&dir, &name)?;
        if directory {
            kernel_unlinkat(&dir, name_of(&name), AtFlags::REMOVEDIR)?;
            self.world.view.forget_name(&dir, &name);
            return DONE;
        }
        if slash {
            return Err(if is_directory(&look(&dir, &name)?) { Errno::ISDIR } else { Errno::NOTDIR });
        }
        kernel_unlinkat(&dir, name_of(&name), AtFlags::empty())?;
        self.world.view.forget_name(&dir, &name);
        DONE
    }

    fn make_link(&mut self, target: &[u8], dirfd: i32, path: &[u8]) -> Answer {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let (dir, name, directory) = self.new_entry(dirfd, path)?;
        if directory {
            return Err(Errno::NOENT);
        }
        let wanted = Inherited { mode: 0o777, ..self.inherit(&dir, &name, 0o777, false)? };
        kernel_symlinkat(name_of(target), &dir, name_of(&name))?;
        self.world.made(wanted, false, || look(&dir, &name))?;
        DONE
    }

    fn hard_link(&mut self, old: (i32, &[u8]), new: (i32, &[u8]), flags: u32) -> Answer {
        let known = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_FOLLOW).cast_unsigned();
        if flags & !known != 0 {
            return Err(Errno::INVAL);
        }
        // linkat follows where it is told to, the other calls where they are not told otherwise.
        let follow = flags & libc::AT_SYMLINK_FOLLOW.cast_unsigned() != 0;
        let nofollow = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() };
        let held = self.hold_at(old.0, old.1, flags & libc::AT_EMPTY_PATH.cast_unsigned() | nofollow)?;
        let (dir, name, directory) = self.new_entry(new.0, new.1)?;
        let found = held.look()?;
        if is_directory(&found) {
            return Err(Errno::PERM);
        }
        self.world.touched.file(found.stx_ino);
        if directory {
            return Err(Errno::NOENT);
        }
        if held.mount.is_some_and(|m| m != dir.mount) {
            return Err(Errno::XDEV);
        }
        self.world.may_in(&*self.who()?, &dir, WRITE)?;
        self.link_held(&held, &dir, &name)?;
        DONE
    }

    /// By the link to the descriptor, as linking a descriptor itself needs privilege.
    fn link_held(&self, held: &Held, dir: &Dir, name: &[u8]) -> Result<(), Errno> {
        kernel_linkat(links()?, held.name(), dir, name_of(name), AtFlags::SYMLINK_FOLLOW)
    }

    fn move_name(&mut self, old: (i32, &[u8]), new: (i32, &[u8]), flags: u32) -> Answer {
        let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        if flags & !known != 0 || flags == known {
            return Err(Errno::INVAL);
        }
        let (from, name, slash) = self.entry(old.0, old.1)?;
        let (to, new_name, new_slash) = self.entry(new.0, new.1)?;
        if from.mount != to.mount {
            return Err(Errno::XDEV);
        }
        let moved = look(&from, &name)?;
        self.may_remove(&from, &name)?;
        self.may_remove(&to, &new_name)?;
        if (slash || new_slash) && !is_directory(&moved) {
            return Err(Errno::NOTDIR);
        }
        if is_directory(&moved) && from.id != to.id {
            // Another directory above is written into it.
            let who = self.who()?;
            if !look::all_powerful(&who) {
                self.world.may(&who, &moved, from.mount, WRITE)?;
            }
        }
        if is_directory(&moved) && self.world.view.holds_mounts(&from, &name) {
            return Err(Errno::BUSY);
        }
        renameat_with(&from, name_of(&name), &to, name_of(&new_name), RenameFlags::from_bits_retain(flags))?;
        if is_directory(&moved) || flags & libc::RENAME_EXCHANGE != 0 {
            self.world.view.forget();
        } else {
            self.world.view.forget_name(&from, &name);
            self.world.view.forget_name(&to, &new_name);
        }
        DONE
    }
}
