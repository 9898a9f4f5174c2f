//! Making, removing and moving names.

use super::super::super::ids::{EXECUTE, READ, WRITE, cap};
use super::super::make::device_of;
use super::super::walk::Special;
use super::super::{Answered, Call, Keeper};
use super::{DONE, Entry, Spot};
use crate::archive::record::Device;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, linkat, mkdirat, mknodat, renameat_with, symlinkat, unlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

const HERE: i32 = libc::AT_FDCWD;

fn name_of(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Keeper {
    pub(in super::super) fn judged_unlink(&self, call: &Call<'_>) -> Answered {
        self.remove(call, HERE, call.arg(0), false)
    }

    pub(in super::super) fn judged_rmdir(&self, call: &Call<'_>) -> Answered {
        self.remove(call, HERE, call.arg(0), true)
    }

    pub(in super::super) fn judged_unlinkat(&self, call: &Call<'_>) -> Answered {
        match call.int(2) {
            0 => self.remove(call, call.int(0), call.arg(1), false),
            libc::AT_REMOVEDIR => self.remove(call, call.int(0), call.arg(1), true),
            _ => Err(Errno::INVAL),
        }
    }

    fn remove(&self, call: &Call<'_>, at: i32, path: u64, directory: bool) -> Answered {
        let who = self.credentials(call.pid);
        let Entry { above, name, slash } = match self.entry(call, &who, at, path)? {
            Ok(entry) => entry,
            Err(_) if !directory => return Err(Errno::ISDIR),
            Err(Special::Dot) => return Err(Errno::INVAL),
            Err(Special::DotDot) => return Err(Errno::NOTEMPTY),
            Err(Special::Root) => return Err(Errno::BUSY),
        };
        let file = self.may_remove(&who, &above, &name)?;
        if slash && !directory {
            return Err(if file.is_directory() { Errno::ISDIR } else { Errno::NOTDIR });
        }
        unlinkat(&above.fd, name_of(&name), if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
        DONE
    }

    pub(in super::super) fn judged_rename(&self, call: &Call<'_>) -> Answered {
        self.move_name(call, (HERE, call.arg(0)), (HERE, call.arg(1)), 0)
    }

    pub(in super::super) fn judged_renameat(&self, call: &Call<'_>) -> Answered {
        self.move_name(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), 0)
    }

    pub(in super::super) fn judged_renameat2(&self, call: &Call<'_>) -> Answered {
        self.move_name(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), call.word(4))
    }

    fn move_name(&self, call: &Call<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> Answered {
        let (no_replace, exchange) = (libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE);
        if flags & !(no_replace | exchange) != 0 || flags == no_replace | exchange {
            return Err(Errno::INVAL);
        }
        let who = self.credentials(call.pid);
        let from = self.entry(call, &who, from.0, from.1)?;
        let to = self.entry(call, &who, to.0, to.1)?;
        let (Ok(from), Ok(to)) = (from, to) else { return Err(Errno::BUSY) };
        let Entry { above: from, name, slash } = from;
        let Entry { above: to, name: new_name, slash: new_slash } = to;
        let across = from.seen.id != to.seen.id;
        // Another directory above is written into a directory.
        let movable = |file: &super::Look| match file.is_directory() && across {
            true => file.may(&who, WRITE),
            false => Ok(()),
        };
        let moved = self.look_at(&from, &name)?;
        if (slash || (new_slash && flags & exchange == 0)) && !moved.is_directory() {
            return Err(Errno::NOTDIR);
        }
        match self.look_at(&to, &new_name) {
            Ok(_) if flags & no_replace != 0 => return Err(Errno::EXIST),
            Ok(other) => {
                self.may_remove(&who, &from, &name)?;
                self.may_remove(&who, &to, &new_name)?;
                if flags & exchange != 0 {
                    movable(&other)?;
                }
            }
            Err(Errno::NOENT) if flags & exchange == 0 => {
                self.may_remove(&who, &from, &name)?;
                to.may(&who, WRITE | EXECUTE)?;
            }
            Err(e) => return Err(e),
        }
        movable(&moved)?;
        let flags = RenameFlags::from_bits_retain(flags);
        renameat_with(&from.fd, name_of(&name), &to.fd, name_of(&new_name), flags)?;
        DONE
    }

    pub(in super::super) fn judged_link(&self, call: &Call<'_>) -> Answered {
        self.link_name(call, (HERE, call.arg(0)), (HERE, call.arg(1)), 0)
    }

    pub(in super::super) fn judged_linkat(&self, call: &Call<'_>) -> Answered {
        self.link_name(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), call.int(4))
    }

    fn link_name(&self, call: &Call<'_>, from: (i32, u64), to: (i32, u64), flags: i32) -> Answered {
        if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_FOLLOW) != 0 {
            return Err(Errno::INVAL);
        }
        let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
        let (who, file) = self.reach(call, from.0, from.1, follow, flags & libc::AT_EMPTY_PATH != 0)?;
        let Ok(Entry { above, name, slash }) = self.entry(call, &who, to.0, to.1)? else { return Err(Errno::EXIST) };
        match self.look_at(&above, &name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) if slash => return Err(Errno::NOENT),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        if let Some(law) = file.law {
            let own = who.owns(law);
            let safe = file.kind() == FileType::RegularFile
                && law.mode & 0o4000 == 0
                && law.mode & 0o2010 != 0o2010
                && who.may(law, READ | WRITE).is_ok();
            if !own && !safe && self.protects_hardlinks() {
                return Err(Errno::PERM);
            }
        }
        above.may(&who, WRITE | EXECUTE)?;
        if file.is_directory() {
            return Err(Errno::PERM);
        }
        linkat(&self.links, file.link(), &above.fd, name_of(&name), AtFlags::SYMLINK_FOLLOW)?;
        let made = self.see_in(&above.fd, &name)?;
        self.owners().linked(&file.seen.id, &made.id);
        DONE
    }

    /// The node's `fs.protected_hardlinks`, which most nodes set and few show.
    fn protects_hardlinks(&self) -> bool {
        use rustix::fs::{OFlags, openat};
        use std::io::Read as _;
        let file = openat(&self.proc, "sys/fs/protected_hardlinks", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut value = String::new();
        let read = file.is_ok_and(|file| std::fs::File::from(file).read_to_string(&mut value).is_ok());
        !read || value.trim() != "0"
    }

    pub(in super::super) fn judged_symlink(&self, call: &Call<'_>) -> Answered {
        self.link_to(call, HERE, call.arg(1))
    }

    pub(in super::super) fn judged_symlinkat(&self, call: &Call<'_>) -> Answered {
        self.link_to(call, call.int(1), call.arg(2))
    }

    fn link_to(&self, call: &Call<'_>, at: i32, path: u64) -> Answered {
        let target = call.path(call.arg(0), false)?;
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let spot = self.spot(call, at, path, 0o777, false)?;
        symlinkat(name_of(&target), &spot.directory.fd, name_of(&spot.name))?;
        self.note_made(&spot, None)
    }

    pub(in super::super) fn judged_mkdir(&self, call: &Call<'_>) -> Answered {
        self.make_dir(call, HERE, call.arg(0), call.word(1))
    }

    pub(in super::super) fn judged_mkdirat(&self, call: &Call<'_>) -> Answered {
        self.make_dir(call, call.int(0), call.arg(1), call.word(2))
    }

    fn make_dir(&self, call: &Call<'_>, at: i32, path: u64, mode: u32) -> Answered {
        let spot = self.spot(call, at, path, mode & 0o1777, true)?;
        // The set-gid bit of the directory above comes by itself.
        mkdirat(&spot.directory.fd, name_of(&spot.name), Mode::from_raw_mode(spot.inherited.mode & 0o1777))?;
        self.note_made(&spot, None)
    }

    pub(in super::super) fn judged_mknod(&self, call: &Call<'_>) -> Answered {
        self.make_file(call, HERE, call.arg(0), call.word(1), call.word(2))
    }

    pub(in super::super) fn judged_mknodat(&self, call: &Call<'_>) -> Answered {
        self.make_file(call, call.int(0), call.arg(1), call.word(2), call.word(3))
    }

    fn make_file(&self, call: &Call<'_>, at: i32, path: u64, mode: u32, number: u32) -> Answered {
        let device = device_of(mode, number);
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG | libc::S_IFCHR | libc::S_IFBLK => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFDIR => return Err(Errno::PERM),
            _ => return Err(Errno::INVAL),
        };
        let spot = self.spot(call, at, path, mode & 0o7777, false)?;
        if device.is_some() && !self.credentials(call.pid).can(cap::MKNOD) {
            return Err(Errno::PERM);
        }
        let bits = Mode::from_raw_mode(spot.inherited.mode & 0o7777);
        mknodat(&spot.directory.fd, name_of(&spot.name), kind, bits, 0)?;
        self.note_made(&spot, device)
    }

    fn note_made(&self, spot: &Spot, device: Option<Device>) -> Answered {
        let made = self.see_in(&spot.directory.fd, &spot.name)?;
        self.keep(&made.id, spot.inherited, device);
        DONE
    }
}
