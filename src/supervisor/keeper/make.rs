//! Calls that make files, of processes that may do everything with files: whose the new ones are is decided here.
//!
//! To the kernel a new file is root's. It is made by the caller itself wherever that is right; else as for all others, here.

use super::super::ids::{Capabilities, Inherited, cap};
use super::super::owners::{FileId, Owned};
use super::{Answer, Answered, Call, Keeper, is_powerful};
use crate::archive::record::Device;
use rustix::fs::{FileType, Mode, StatxFlags, mknodat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

/// `__O_TMPFILE`, without the bit for directories.
const TMPFILE: i32 = 0o20_000_000;
/// Bytes of `struct open_how`.
const HOW_BYTES: usize = 24;

/// Where a new file goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Into {
    /// By a name.
    Name,
    /// Into a directory, without a name.
    Directory,
}

impl Keeper {
    pub(super) fn open(&self, call: &Call<'_>) -> Answered {
        self.open_for(call, libc::AT_FDCWD, call.arg(0), call.int(1), Keeper::judged_open)
    }

    pub(super) fn openat(&self, call: &Call<'_>) -> Answered {
        self.open_for(call, call.int(0), call.arg(1), call.int(2), Keeper::judged_openat)
    }

    pub(super) fn creat(&self, call: &Call<'_>) -> Answered {
        self.open_for(call, libc::AT_FDCWD, call.arg(0), libc::O_CREAT, Keeper::judged_creat)
    }

    /// Its flags lie in memory.
    pub(super) fn openat2(&self, call: &Call<'_>) -> Answered {
        if usize::try_from(call.arg(3)).unwrap_or(0) < HOW_BYTES {
            return Ok(Answer::GoOn);
        }
        let how = call.read(call.arg(2), HOW_BYTES)?;
        let flags = how.first_chunk::<8>().map_or(0, |flags| u64::from_ne_bytes(*flags));
        let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
        self.open_for(call, call.int(0), call.arg(1), flags, Keeper::judged_openat2)
    }

    fn open_for(
        &self,
        call: &Call<'_>,
        at: i32,
        path: u64,
        flags: i32,
        here: fn(&Keeper, &Call<'_>) -> Answered,
    ) -> Answered {
        let into = match flags & (libc::O_CREAT | TMPFILE) {
            0 => return Ok(Answer::GoOn),
            libc::O_CREAT => Into::Name,
            _ => Into::Directory,
        };
        self.make_for(call, at, path, into, here)
    }

    pub(super) fn mkdir(&self, call: &Call<'_>) -> Answered {
        self.make_for(call, libc::AT_FDCWD, call.arg(0), Into::Name, Keeper::judged_mkdir)
    }

    pub(super) fn mkdirat(&self, call: &Call<'_>) -> Answered {
        self.make_for(call, call.int(0), call.arg(1), Into::Name, Keeper::judged_mkdirat)
    }

    pub(super) fn symlink(&self, call: &Call<'_>) -> Answered {
        self.make_for(call, libc::AT_FDCWD, call.arg(1), Into::Name, Keeper::judged_symlink)
    }

    pub(super) fn symlinkat(&self, call: &Call<'_>) -> Answered {
        self.make_for(call, call.int(1), call.arg(2), Into::Name, Keeper::judged_symlinkat)
    }

    pub(super) fn bind(&self, call: &Call<'_>) -> Answered {
        let who = self.credentials(call.pid);
        if (who.uid.file, who.gid.file) == (0, 0) { Ok(Answer::GoOn) } else { self.judged_bind(call) }
    }

    /// Lets the kernel make a file that is root's. It answers errors as well.
    fn make_for(
        &self,
        call: &Call<'_>,
        at: i32,
        path: u64,
        into: Into,
        here: fn(&Keeper, &Call<'_>) -> Answered,
    ) -> Answered {
        let who = &call.who;
        if (who.uid.file, who.gid.file) != (0, 0) {
            return here(self, call);
        }
        // The group may be the directory's, and then one that is kept.
        if self.owners().is_empty() {
            return Ok(Answer::GoOn);
        }
        let Ok(place) = call.place(at, path, false) else { return Ok(Answer::GoOn) };
        let above = match into {
            Into::Directory => place,
            Into::Name => match place.split() {
                Some((above, _)) => above,
                // What is no entry of a directory exists already.
                None => return Ok(Answer::GoOn),
            },
        };
        match self.as_caller(call, || self.see(&above, true, StatxFlags::BASIC_STATS)) {
            Ok(above) if who.make_in(above.attributes(), 0, false).gid != 0 => here(self, call),
            _ => Ok(Answer::GoOn),
        }
    }

    pub(super) fn link(&self, call: &Call<'_>) -> Answered {
        self.add_name(call, Keeper::judged_link)
    }

    pub(super) fn linkat(&self, call: &Call<'_>) -> Answered {
        self.add_name(call, Keeper::judged_linkat)
    }

    /// The new name may show another number than the file has under its own.
    fn add_name(&self, call: &Call<'_>, here: fn(&Keeper, &Call<'_>) -> Answered) -> Answered {
        if self.owners().is_empty() { Ok(Answer::GoOn) } else { here(self, call) }
    }

    pub(super) fn mknod(&self, call: &Call<'_>) -> Answered {
        self.make_node(call, libc::AT_FDCWD, call.arg(0), [call.word(1), call.word(2)], Keeper::judged_mknod)
    }

    pub(super) fn mknodat(&self, call: &Call<'_>) -> Answered {
        self.make_node(call, call.int(0), call.arg(1), [call.word(2), call.word(3)], Keeper::judged_mknodat)
    }

    fn make_node(
        &self,
        call: &Call<'_>,
        at: i32,
        path: u64,
        [mode, number]: [u32; 2],
        here: fn(&Keeper, &Call<'_>) -> Answered,
    ) -> Answered {
        let Some(device) = device_of(mode, number) else { return self.make_for(call, at, path, Into::Name, here) };
        // A whiteout of the overlay, which the kernel refuses.
        if device == Device::Char(0, 0) {
            return Ok(Answer::GoOn);
        }
        if self.kind == super::Kind::Ids {
            return here(self, call);
        }
        // Here the kernel knows who is who.
        let effective = self.status(call.pid, "CapEff:", 4096);
        let effective = effective.and_then(|set| u64::from_str_radix(&set, 16).ok()).map(Capabilities);
        if !effective.is_some_and(|set| set.has(cap::MKNOD)) {
            return Err(Errno::PERM);
        }
        let (parent, name) = call.place(at, path, false)?.split().ok_or(Errno::EXIST)?;
        let directory = self.as_caller(call, || self.hold(&parent, true))?;
        let bits = Mode::from_raw_mode(mode & 0o7777 & !self.umask(call.pid));
        mknodat(&directory, OsStr::from_bytes(&name), FileType::RegularFile, bits, 0)?;
        let made = self.see_in(&directory, &name)?;
        self.keep(&made.id, Inherited { uid: 0, gid: 0, mode }, Some(device));
        Ok(Answer::Value(0))
    }

    pub(super) fn note(&self, file: impl AsFd, inherited: Inherited) -> Result<(), Errno> {
        let made = self.see_open(file)?;
        self.keep(&made.id, inherited, None);
        Ok(())
    }

    pub(super) fn keep(&self, id: &FileId, inherited: Inherited, device: Option<Device>) {
        let Inherited { uid, gid, .. } = inherited;
        // Where ids are real, the file has its owner already.
        let (uid, gid) = if self.kind == super::Kind::Ids { (uid, gid) } else { (0, 0) };
        self.owners().change(id, |owned| *owned = Owned { uid, gid, device, ..Owned::default() });
    }

    pub(super) fn access(&self, call: &Call<'_>) -> Answered {
        self.may_access(call, Keeper::judged_access)
    }

    pub(super) fn faccessat(&self, call: &Call<'_>) -> Answered {
        self.may_access(call, Keeper::judged_faccessat)
    }

    pub(super) fn faccessat2(&self, call: &Call<'_>) -> Answered {
        self.may_access(call, Keeper::judged_faccessat2)
    }

    /// These ask for the real user.
    fn may_access(&self, call: &Call<'_>, here: fn(&Keeper, &Call<'_>) -> Answered) -> Answered {
        let who = self.credentials(call.pid);
        if who.uid.real == 0 || is_powerful(&who.as_real()) { Ok(Answer::GoOn) } else { here(self, call) }
    }
}

/// The device that mknod(2) is to make.
pub(super) fn device_of(mode: u32, number: u32) -> Option<Device> {
    // Only 32 bits of a device number are ever given to the call.
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match mode & libc::S_IFMT {
        libc::S_IFCHR => Some(Device::Char(major, minor)),
        libc::S_IFBLK => Some(Device::Block(major, minor)),
        _ => None,
    }
}
