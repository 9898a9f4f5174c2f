//! Calls that make files: whose they are is decided here.
//!
//! To the kernel a new file is root's. It is made by the caller itself wherever that is right; else it is made here and
//! noted, and the caller is given the descriptor.

use super::super::ids::{Credentials, EXECUTE, Inherited, READ, WRITE};
use super::super::owners::Owned;
use super::place::{LONGEST, MOST_LINKS, Place};
use super::{Answer, Answered, Call, Keeper};
use crate::archive::record::Device;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, linkat, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

/// `__O_TMPFILE`, without the bit for directories.
const TMPFILE: i32 = 0o20_000_000;
/// Bytes of `struct open_how`.
const HOW_BYTES: usize = 24;

/// Where a file is to be made.
struct Spot {
    directory: OwnedFd,
    name: Vec<u8>,
    inherited: Inherited,
}

impl Keeper {
    pub(super) fn open(&self, call: &Call<'_>) -> Answered {
        self.create(call, libc::AT_FDCWD, call.arg(0), call.int(1), call.word(2))
    }

    pub(super) fn openat(&self, call: &Call<'_>) -> Answered {
        self.create(call, call.int(0), call.arg(1), call.int(2), call.word(3))
    }

    pub(super) fn creat(&self, call: &Call<'_>) -> Answered {
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
        self.create(call, libc::AT_FDCWD, call.arg(0), flags, call.word(1))
    }

    /// Its flags lie in memory; ways to resolve a path are not kept up for files that are made here.
    pub(super) fn openat2(&self, call: &Call<'_>) -> Answered {
        let length = usize::try_from(call.arg(3)).unwrap_or(0);
        if length < HOW_BYTES {
            return Ok(Answer::GoOn);
        }
        let how = call.read(call.arg(2), HOW_BYTES)?;
        let field =
            |at: usize| how.get(at * 8..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_ne_bytes(*b));
        let (flags, mode, resolve) = (field(0), field(1), field(2));
        let flags = i32::try_from(flags).map_err(|_| Errno::INVAL)?;
        if flags & (libc::O_CREAT | TMPFILE) == 0 || resolve != 0 {
            return Ok(Answer::GoOn);
        }
        self.create(call, call.int(0), call.arg(1), flags, (mode & 0o7777) as u32)
    }

    fn create(&self, call: &Call<'_>, at: i32, path: u64, flags: i32, mode: u32) -> Answered {
        let me = self.credentials(call.pid);
        let Ok(mut place) = call.place(at, path, false) else { return Ok(Answer::GoOn) };
        if flags & TMPFILE != 0 {
            return self.create_nameless(call, &me, &place, flags, mode);
        }
        for _ in 0..MOST_LINKS {
            // What is no entry of a directory exists already.
            let Some((parent, name)) = place.split().filter(|_| !place.is_directory()) else { return Ok(Answer::GoOn) };
            let plain = me.uid.file == 0 && me.gid.file == 0;
            let above = self.as_caller(call, || self.see(&parent, true, StatxFlags::BASIC_STATS));
            let Ok(above) = above else { return Ok(Answer::GoOn) };
            let inherited = me.make_in(above.attributes(), mode, false);
            if plain && inherited.gid == 0 {
                return Ok(Answer::GoOn);
            }
            let directory = self.as_caller(call, || self.hold(&parent, true))?;
            match self.see_in(&directory, &name) {
                Ok(found) if found.kind() == rustix::fs::FileType::Symlink => {
                    if flags & (libc::O_EXCL | libc::O_NOFOLLOW) != 0 {
                        return Ok(Answer::GoOn);
                    }
                    let target = rustix::fs::readlinkat(&directory, OsStr::from_bytes(&name), Vec::new())?;
                    place = parent.follow(target.as_bytes());
                    continue;
                }
                Ok(found) => {
                    if flags & libc::O_EXCL == 0 {
                        Self::may(&me, &found, wanted(flags))?;
                    }
                    return Ok(Answer::GoOn);
                }
                Err(Errno::NOENT) => {}
                Err(_) => return Ok(Answer::GoOn),
            }
            Self::may(&me, &above, WRITE | EXECUTE)?;
            let umask = self.umask(call.pid);
            let how = OFlags::from_bits_retain(flags.cast_unsigned());
            let how = how | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let bits = Mode::from_raw_mode(inherited.mode & 0o7777 & !umask);
            return match openat(&directory, OsStr::from_bytes(&name), how, bits) {
                Ok(file) => {
                    self.note(&file, inherited)?;
                    Ok(Answer::Descriptor(file, flags & libc::O_CLOEXEC != 0))
                }
                // Somebody else was faster: it exists now.
                Err(Errno::EXIST) => Ok(Answer::GoOn),
                Err(e) => Err(e),
            };
        }
        Err(Errno::LOOP)
    }

    fn create_nameless(&self, call: &Call<'_>, me: &Credentials, place: &Place, flags: i32, mode: u32) -> Answered {
        let Ok(above) = self.as_caller(call, || self.see(place, true, StatxFlags::BASIC_STATS)) else {
            return Ok(Answer::GoOn);
        };
        let inherited = me.make_in(above.attributes(), mode, false);
        if (inherited.uid, inherited.gid) == (0, 0) {
            return Ok(Answer::GoOn);
        }
        Self::may(me, &above, WRITE | EXECUTE)?;
        let how = OFlags::from_bits_retain(flags.cast_unsigned()) | OFlags::CLOEXEC;
        let bits = Mode::from_raw_mode(inherited.mode & !self.umask(call.pid));
        let file = self.as_caller(call, || openat(&self.proc, place.path(), how, bits))?;
        self.note(&file, inherited)?;
        Ok(Answer::Descriptor(file, flags & libc::O_CLOEXEC != 0))
    }

    pub(super) fn mkdir(&self, call: &Call<'_>) -> Answered {
        self.make_directory(call, libc::AT_FDCWD, call.arg(0), call.word(1))
    }

    pub(super) fn mkdirat(&self, call: &Call<'_>) -> Answered {
        self.make_directory(call, call.int(0), call.arg(1), call.word(2))
    }

    fn make_directory(&self, call: &Call<'_>, at: i32, path: u64, mode: u32) -> Answered {
        let Some(spot) = self.spot(call, at, path, mode & 0o1777, true)? else { return Ok(Answer::GoOn) };
        let name = OsStr::from_bytes(&spot.name);
        mkdirat(&spot.directory, name, Mode::from_raw_mode(mode & 0o1777 & !self.umask(call.pid)))?;
        self.note_in(&spot, None)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn link(&self, call: &Call<'_>) -> Answered {
        self.add_name(call, (libc::AT_FDCWD, call.arg(0)), (libc::AT_FDCWD, call.arg(1)), 0)
    }

    pub(super) fn linkat(&self, call: &Call<'_>) -> Answered {
        self.add_name(call, (call.int(0), call.arg(1)), (call.int(2), call.arg(3)), call.int(4))
    }

    /// The new name may show another number than the file has under its own.
    fn add_name(&self, call: &Call<'_>, from: (i32, u64), to: (i32, u64), flags: i32) -> Answered {
        let empty = flags & libc::AT_EMPTY_PATH != 0;
        let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
        let (Ok(from), Ok(to)) = (call.place(from.0, from.1, empty), call.place(to.0, to.1, false)) else {
            return Ok(Answer::GoOn);
        };
        let Some((parent, name)) = to.split() else { return Ok(Answer::GoOn) };
        let seen = self.as_caller(call, || self.see(&from, follow, StatxFlags::BASIC_STATS));
        let held = self.as_caller(call, || self.hold(&parent, true));
        let (Ok(seen), Ok(held)) = (seen, held) else { return Ok(Answer::GoOn) };
        Self::may(&self.credentials(call.pid), &self.see_open(&held)?, WRITE | EXECUTE)?;
        let follow = if follow || from.is_descriptor() { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
        let name = OsStr::from_bytes(&name);
        self.as_caller(call, || linkat(&self.proc, from.path(), &held, name, follow))?;
        let made = self.see_in(&held, name.as_bytes())?;
        self.owners().linked(&seen.id, &made.id);
        Ok(Answer::Value(0))
    }

    pub(super) fn symlink(&self, call: &Call<'_>) -> Answered {
        self.make_link(call, libc::AT_FDCWD, call.arg(1))
    }

    pub(super) fn symlinkat(&self, call: &Call<'_>) -> Answered {
        self.make_link(call, call.int(1), call.arg(2))
    }

    fn make_link(&self, call: &Call<'_>, at: i32, path: u64) -> Answered {
        let Some(spot) = self.spot(call, at, path, 0o777, false)? else { return Ok(Answer::GoOn) };
        let target = call.string(call.arg(0), LONGEST)?;
        symlinkat(OsStr::from_bytes(&target), &spot.directory, OsStr::from_bytes(&spot.name))?;
        self.note_in(&spot, None)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn mknod(&self, call: &Call<'_>) -> Answered {
        self.make_node(call, libc::AT_FDCWD, call.arg(0), call.word(1), call.word(2))
    }

    pub(super) fn mknodat(&self, call: &Call<'_>) -> Answered {
        self.make_node(call, call.int(0), call.arg(1), call.word(2), call.word(3))
    }

    fn make_node(&self, call: &Call<'_>, at: i32, path: u64, mode: u32, number: u32) -> Answered {
        use super::super::ids::cap;
        use rustix::fs::FileType;
        // Only 32 bits of a device number are ever given to the call.
        let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
        let device = match mode & libc::S_IFMT {
            libc::S_IFCHR => Some(Device::Char(major, minor)),
            libc::S_IFBLK => Some(Device::Block(major, minor)),
            _ => None,
        };
        // A whiteout of the overlay, which the kernel refuses.
        if device == Some(Device::Char(0, 0)) {
            return Ok(Answer::GoOn);
        }
        let spot = match (self.spot(call, at, path, mode & 0o7777, false)?, device) {
            (Some(spot), _) => spot,
            (None, None) => return Ok(Answer::GoOn),
            (None, Some(_)) => self.any_spot(call, at, path, mode & 0o7777)?,
        };
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFREG | 0 => FileType::RegularFile,
            _ if device.is_some() && !self.credentials(call.pid).can(cap::MKNOD) => return Err(Errno::PERM),
            _ if device.is_some() => FileType::RegularFile,
            _ => return Ok(Answer::GoOn),
        };
        let bits = Mode::from_raw_mode(spot.inherited.mode & !self.umask(call.pid));
        mknodat(&spot.directory, OsStr::from_bytes(&spot.name), kind, bits, 0)?;
        self.note_in(&spot, device)?;
        Ok(Answer::Value(0))
    }

    /// Where a call makes a file, if that has to be noted; the kernel makes all others, and answers errors.
    fn spot(&self, call: &Call<'_>, at: i32, path: u64, mode: u32, directory: bool) -> Result<Option<Spot>, Errno> {
        let me = self.credentials(call.pid);
        let Ok(place) = call.place(at, path, false) else { return Ok(None) };
        let Some((parent, name)) = place.split() else { return Ok(None) };
        if place.is_directory() && !directory {
            return Ok(None);
        }
        let Ok(above) = self.as_caller(call, || self.see(&parent, true, StatxFlags::BASIC_STATS)) else {
            return Ok(None);
        };
        let inherited = me.make_in(above.attributes(), mode, directory);
        if (inherited.uid, inherited.gid) == (0, 0) {
            return Ok(None);
        }
        let held = self.as_caller(call, || self.hold(&parent, true))?;
        // That it exists is the first thing that the kernel would say.
        if self.see_in(&held, &name).is_ok() {
            return Err(Errno::EXIST);
        }
        Self::may(&me, &above, WRITE | EXECUTE)?;
        Ok(Some(Spot { directory: held, name, inherited }))
    }

    /// The same for a file that is made here in any case.
    fn any_spot(&self, call: &Call<'_>, at: i32, path: u64, mode: u32) -> Result<Spot, Errno> {
        let (parent, name) = call.place(at, path, false)?.split().ok_or(Errno::EXIST)?;
        let directory = self.as_caller(call, || self.hold(&parent, true))?;
        let (uid, gid) = (0, 0);
        Ok(Spot { directory, name, inherited: Inherited { uid, gid, mode } })
    }

    fn note_in(&self, spot: &Spot, device: Option<Device>) -> Result<(), Errno> {
        let made = self.see_in(&spot.directory, &spot.name)?;
        self.keep(&made.id, spot.inherited, device);
        Ok(())
    }

    fn note(&self, file: impl AsFd, inherited: Inherited) -> Result<(), Errno> {
        let made = self.see_open(file)?;
        self.keep(&made.id, inherited, None);
        Ok(())
    }

    fn keep(&self, id: &super::super::owners::FileId, inherited: Inherited, device: Option<Device>) {
        let Inherited { uid, gid, .. } = inherited;
        // Where ids are real, the file has its owner already.
        let (uid, gid) = if self.kind == super::Kind::Ids { (uid, gid) } else { (0, 0) };
        self.owners().change(id, |owned| *owned = Owned { uid, gid, device, ..Owned::default() });
    }

    /// The bits that the caller's new files do not get.
    fn umask(&self, pid: i32) -> u32 {
        let read = || -> Option<u32> {
            let status = openat(&self.proc, format!("{pid}/status"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let mut text = String::new();
            // The line is the second.
            std::fs::File::from(status.ok()?).take(256).read_to_string(&mut text).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        };
        read().unwrap_or(0o022)
    }

    pub(super) fn access(&self, call: &Call<'_>) -> Answered {
        self.may_access(call, libc::AT_FDCWD, call.arg(0), call.word(1), 0)
    }

    pub(super) fn faccessat(&self, call: &Call<'_>) -> Answered {
        // The older call has no flags.
        let second = crate::sys::arch::syscall("faccessat2").is_some_and(|n| {
            let number = Some(call.notification.number);
            if call.compat { n.compat == number } else { n.native == number }
        });
        self.may_access(call, call.int(0), call.arg(1), call.word(2), if second { call.int(3) } else { 0 })
    }

    fn may_access(&self, call: &Call<'_>, at: i32, path: u64, wanted: u32, flags: i32) -> Answered {
        let me = self.credentials(call.pid);
        // Root, for whom the kernel answers right.
        if me.uid.real == 0 && me.uid.file == 0 {
            return Ok(Answer::GoOn);
        }
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        let place = call.place(at, path, flags & libc::AT_EMPTY_PATH != 0)?;
        let Ok(seen) = self.as_caller(call, || self.see(&place, follow, StatxFlags::BASIC_STATS)) else {
            return Ok(Answer::GoOn);
        };
        match flags & libc::AT_EACCESS != 0 {
            true => Self::may(&me, &seen, wanted & 7)?,
            false => Self::may_as_real(&me, &seen, wanted & 7)?,
        }
        Ok(Answer::GoOn)
    }
}

/// What a file is opened for.
fn wanted(flags: i32) -> u32 {
    let mode = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => READ,
        libc::O_WRONLY => WRITE,
        _ => READ | WRITE,
    };
    if flags & libc::O_TRUNC != 0 { mode | WRITE } else { mode }
}
