//! open(2) and its kin: the file is opened here, and the caller gets the descriptor.

use super::{AT_FDCWD, Answer, Call, Errno, Reply};
use crate::archive::record::Device;
use crate::supervisor::ids::{READ, WRITE, wanted_by};
use crate::supervisor::look::{self, disk_mode, kind, look};
use crate::supervisor::owners::FileId;
use crate::supervisor::proc::{self, ProcPlace};
use crate::supervisor::view::{Child, Dir, host_path, links, name_of};
use crate::supervisor::walk::{Place, Start};
use rustix::fs::{FileType, Mode, OFlags, Statx, openat as kernel_openat};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

const O_ACCMODE: u32 = 3;
const O_PATH: u32 = libc::O_PATH.cast_unsigned();
const O_CREAT: u32 = libc::O_CREAT.cast_unsigned();
const O_EXCL: u32 = libc::O_EXCL.cast_unsigned();
const O_TRUNC: u32 = libc::O_TRUNC.cast_unsigned();
const O_DIRECTORY: u32 = libc::O_DIRECTORY.cast_unsigned();
const O_NOFOLLOW: u32 = libc::O_NOFOLLOW.cast_unsigned();
const O_NONBLOCK: u32 = libc::O_NONBLOCK.cast_unsigned();
const O_CLOEXEC: u32 = libc::O_CLOEXEC.cast_unsigned();
const O_TMPFILE: u32 = libc::O_TMPFILE.cast_unsigned();
const O_LARGEFILE: u32 = 0o100_000;
/// How often a file that comes and goes is tried for.
const TRIES: usize = 8;

pub(in crate::supervisor) fn open(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let how = How { flags: call.uint(1), mode: call.uint(2) };
    call.open_path(AT_FDCWD, &path, how)
}

pub(in crate::supervisor) fn creat(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let flags = O_CREAT | O_TRUNC | libc::O_WRONLY.cast_unsigned();
    let how = How { flags, mode: call.uint(1) };
    call.open_path(AT_FDCWD, &path, how)
}

pub(in crate::supervisor) fn openat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let how = How { flags: call.uint(2), mode: call.uint(3) };
    call.open_path(call.int(0), &path, how)
}

const RESOLVE_NO_XDEV: u64 = 1;
const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_NO_SYMLINKS: u64 = 4;
const RESOLVE_BENEATH: u64 = 8;
const RESOLVE_IN_ROOT: u64 = 16;
const RESOLVE_CACHED: u64 = 32;

pub(in crate::supervisor) fn openat2(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let size = call.arg(3);
    if size < 24 {
        return Err(Errno::INVAL);
    }
    if size > 4096 {
        return Err(Errno::TOOBIG);
    }
    let how = call.bytes(call.arg(2), usize::try_from(size).map_err(|_| Errno::TOOBIG)?)?;
    let mut words = how.chunks_exact(8).filter_map(|c| c.first_chunk::<8>()).map(|c| u64::from_ne_bytes(*c));
    let (flags, mode, resolve) = (words.next().unwrap_or(0), words.next().unwrap_or(0), words.next().unwrap_or(0));
    if words.any(|w| w != 0) {
        return Err(Errno::TOOBIG);
    }
    let known = RESOLVE_NO_XDEV
        | RESOLVE_NO_MAGICLINKS
        | RESOLVE_NO_SYMLINKS
        | RESOLVE_BENEATH
        | RESOLVE_IN_ROOT
        | RESOLVE_CACHED;
    let beneath = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT);
    if resolve & !known != 0 || beneath == RESOLVE_BENEATH | RESOLVE_IN_ROOT || mode > 0o7777 {
        return Err(Errno::INVAL);
    }
    if resolve & RESOLVE_CACHED != 0 {
        return Err(Errno::AGAIN);
    }
    let how = How { flags: u32::try_from(flags).map_err(|_| Errno::INVAL)?, mode: mode as u32 };
    let absolute = path.first() == Some(&b'/');
    if beneath == RESOLVE_BENEATH && absolute {
        return Err(Errno::XDEV);
    }
    let mut start = call.start(call.int(0), if beneath == 0 { &path } else { b"." })?;
    if beneath != 0 {
        start.root = Arc::clone(&start.base);
    }
    start.no_links = resolve & RESOLVE_NO_SYMLINKS != 0;
    call.open_from(&start, &path, how)
}

/// How a file is to be opened.
#[derive(Clone, Copy)]
struct How {
    flags: u32,
    mode: u32,
}

impl How {
    fn has(self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    fn writes(self) -> bool {
        !self.has(O_PATH) && (self.flags & O_ACCMODE != 0 || self.has(O_TRUNC))
    }

    /// What has to be allowed for it.
    fn wanted(self) -> u32 {
        wanted_by(self.flags.cast_signed())
    }

    /// What is asked of the kernel for a file that exists.
    fn plain(self) -> OFlags {
        let flags = self.flags & !(O_CREAT | O_EXCL | O_LARGEFILE);
        OFlags::from_bits_retain(flags) | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY
    }
}

impl Call<'_> {
    fn open_path(&mut self, dirfd: i32, path: &[u8], how: How) -> Answer {
        let start = self.start(dirfd, path)?;
        self.open_from(&start, path, how)
    }

    fn open_from(&mut self, start: &Start, path: &[u8], how: How) -> Answer {
        let close = how.has(O_CLOEXEC);
        let give = |fd| Ok(Reply::Descriptor(fd, close));
        let mut place = self.world.walk(start, path)?;
        if how.has(O_TMPFILE) {
            while let Some(next) = self.world.follow(start, &place)? {
                place = next;
            }
            let dir = self.as_directory(start, place)?;
            self.writable(&dir)?;
            let who = self.who()?;
            self.world.may_in(&who, &dir, WRITE)?;
            let wanted = self.world.inherit(&who, &dir, how.mode & !self.umask(), false)?;
            let fd = kernel_openat(&dir, ".", how.plain(), disk_mode(wanted.mode, false))?;
            self.world.made(wanted, false, || look::look_at(&fd))?;
            return give(fd);
        }
        for _ in 0..TRIES {
            if place.name.is_empty() {
                return self.open_directory(&place, how);
            }
            if place.dir.proc.is_some() {
                match self.open_proc(start, &place, how)? {
                    Some(reply) => return Ok(reply),
                    None if how.has(O_NOFOLLOW) => return Err(Errno::LOOP),
                    None => {}
                }
            } else if how.has(O_CREAT | O_EXCL) {
                return self.create(&place, how).and_then(give);
            } else {
                match look(&place.dir, &place.name) {
                    Err(Errno::NOENT) if how.has(O_CREAT) => match self.create(&place, how) {
                        Err(Errno::EXIST) => continue,
                        other => return other.and_then(give),
                    },
                    Err(e) => return Err(e),
                    Ok(found) if kind(&found) != FileType::Symlink => {
                        return self.open_existing(place, how, &found);
                    }
                    Ok(_) if how.has(O_NOFOLLOW) => {
                        if how.has(O_PATH) && !how.has(O_DIRECTORY) {
                            let held = self.hold(&place)?;
                            return give(self.world.view.stand_in_for(held)?);
                        }
                        return Err(if how.has(O_DIRECTORY) { Errno::NOTDIR } else { Errno::LOOP });
                    }
                    Ok(_) => {}
                }
            }
            match self.world.follow(start, &place) {
                Ok(Some(next)) => place = next,
                Ok(None) => {}
                // It was replaced just now.
                Err(Errno::NOENT) if how.has(O_CREAT) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::LOOP)
    }

    fn open_directory(&mut self, place: &Place, how: How) -> Answer {
        if how.writes() || how.has(O_CREAT) {
            return Err(if how.has(O_CREAT | O_EXCL) { Errno::EXIST } else { Errno::ISDIR });
        }
        let flags = OFlags::from_bits_retain(how.flags & !O_PATH & !O_NOFOLLOW) | OFlags::CLOEXEC | OFlags::DIRECTORY;
        if !how.has(O_PATH) {
            self.world.may_in(&*self.who()?, &place.dir, READ)?;
        }
        let fd = if place.dir.proc == Some(ProcPlace::Top) {
            proc::listing(&mut self.world.view)?
        } else {
            kernel_openat(&place.dir, ".", flags, Mode::empty())?
        };
        Ok(Reply::Descriptor(fd, how.has(O_CLOEXEC)))
    }

    fn open_existing(&mut self, place: Place, how: How, found: &Statx) -> Answer {
        let close = how.has(O_CLOEXEC);
        let kind = kind(found);
        if kind == FileType::Directory {
            let dir = self.open_child(&place)?;
            return self.open_directory(&Place::directory(dir), how);
        }
        if place.directory || how.has(O_DIRECTORY) {
            return Err(Errno::NOTDIR);
        }
        if how.writes() && matches!(kind, FileType::RegularFile) {
            self.writable(&place.dir)?;
        }
        if !how.has(O_PATH) {
            self.permitted(found, &place, how)?;
        }
        if how.has(O_PATH) {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match kind {
                FileType::RegularFile | FileType::Fifo => {
                    kernel_openat(&place.dir, name_of(&place.name), flags, Mode::empty())?
                }
                _ => {
                    let held = self.hold(&place)?;
                    self.world.view.stand_in_for(held)?
                }
            };
            return Ok(Reply::Descriptor(fd, close));
        }
        if let Some(device) = self.world.owners.get(&FileId::of(found)).and_then(|o| o.device) {
            let fd = known_device(device)
                .map_or(Err(Errno::NXIO), |path| kernel_openat(rustix::fs::CWD, path, how.plain(), Mode::empty()))?;
            return Ok(Reply::Descriptor(fd, close));
        }
        let waits =
            kind == FileType::Fifo && !how.has(O_NONBLOCK) && how.flags & O_ACCMODE != libc::O_RDWR.cast_unsigned();
        if waits {
            let open = move || {
                let fd = kernel_openat(&place.dir, name_of(&place.name), how.plain(), Mode::empty())?;
                Ok(Reply::Descriptor(fd, close))
            };
            return Ok(Reply::Later(Box::new(open)));
        }
        let fd = kernel_openat(&place.dir, name_of(&place.name), how.plain(), Mode::empty())?;
        Ok(Reply::Descriptor(fd, close))
    }

    fn create(&mut self, place: &Place, how: How) -> Result<OwnedFd, Errno> {
        if place.directory {
            return Err(Errno::ISDIR);
        }
        if how.has(O_PATH) {
            return Err(Errno::NOENT);
        }
        if place.mounted {
            return Err(Errno::EXIST);
        }
        self.writable(&place.dir)?;
        let who = self.who()?;
        self.world.may_in(&who, &place.dir, WRITE)?;
        let wanted = self.world.inherit(&who, &place.dir, how.mode & !self.umask(), false)?;
        self.world.touched.names_in(place.dir.id.1);
        let flags = how.plain() | OFlags::CREATE | OFlags::EXCL;
        let fd = kernel_openat(&place.dir, name_of(&place.name), flags, disk_mode(wanted.mode, false))?;
        self.world.made(wanted, false, || look::look_at(&fd))?;
        Ok(fd)
    }

    /// The directory at a place, which was seen to be one.
    fn open_child(&mut self, place: &Place) -> Result<Arc<Dir>, Errno> {
        match self.world.view.child(&place.dir, &place.name, self.tid)? {
            Child::Dir(dir) => Ok(dir),
            Child::Link(_) | Child::File(..) | Child::Other => Err(Errno::NOTDIR),
        }
    }

    /// Whether the caller may open the file.
    fn permitted(&self, found: &Statx, place: &Place, how: How) -> Result<(), Errno> {
        let who = self.who()?;
        if look::all_powerful(&who) || !self.world.owned(place.dir.mount) {
            return Ok(());
        }
        self.world.may(&who, found, place.dir.mount, how.wanted())
    }

    /// A file of `/proc`; `None` where there is a link to follow.
    fn open_proc(&mut self, start: &Start, place: &Place, how: How) -> Result<Option<Reply>, Errno> {
        let close = how.has(O_CLOEXEC);
        let name = name_of(&place.name);
        if let Some(ProcPlace::Descriptors(_)) = place.dir.proc {
            if how.has(O_NOFOLLOW) {
                return Ok(None);
            }
            return self.reopen(place, how).map(Some);
        }
        match self.world.view.child(&place.dir, &place.name, start.tid)? {
            Child::Link(_) => return Ok(None),
            Child::Dir(dir) => return self.open_directory(&Place::directory(dir), how).map(Some),
            Child::File(..) | Child::Other => {}
        }
        if how.has(O_DIRECTORY) {
            return Err(Errno::NOTDIR);
        }
        if how.writes() && matches!(place.dir.proc, Some(ProcPlace::Machine | ProcPlace::Below(_))) {
            return Err(Errno::ROFS);
        }
        if let Some(proc) = place.dir.proc.filter(|_| !how.has(O_PATH)) {
            self.world.may_in_proc(&*self.who()?, proc, &look(&place.dir, &place.name)?, how.wanted())?;
        }
        let fd = match proc::rewritten(&self.world.view, place)? {
            Some(fd) => fd,
            None => {
                let flags = if how.has(O_PATH) { OFlags::RDONLY | OFlags::CLOEXEC } else { how.plain() };
                kernel_openat(&place.dir, name, flags, Mode::empty())?
            }
        };
        Ok(Some(Reply::Descriptor(fd, close)))
    }

    /// Opens once more what a descriptor of the step's is.
    fn reopen(&mut self, place: &Place, how: How) -> Answer {
        let close = how.has(O_CLOEXEC);
        // Looked up once: the number may be that of another file in a moment.
        let held = kernel_openat(&place.dir, name_of(&place.name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let found = look::look_at(&held)?;
        let kind = look::kind(&found);
        let link = host_path(held.as_fd())?;
        if kind == FileType::Directory {
            let dir = self.world.view.at_host_path(&link, self.tid)?;
            return self.open_directory(&Place::directory(dir), how);
        }
        if let Some((mount, path)) = self.world.view.path_of(&link)
            && self.world.view.mounts.get(mount).is_some_and(|m| m.is_proc())
        {
            // By its path, with what counts there.
            let root = self.world.view.root();
            let who = Some(self.who()?);
            let start = Start { base: Arc::clone(&root), root, tid: self.tid, who, no_links: false };
            let place = self.world.walk(&start, &path)?;
            return self.open_proc(&start, &place, how)?.ok_or(Errno::LOOP);
        }
        if place.mounted && kind == FileType::RegularFile {
            // A file in memory.
            self.permitted(&found, place, how)?;
            if how.writes() && self.world.view.mounts.get(place.dir.mount).is_none_or(|m| m.read_only) {
                return Err(Errno::ROFS);
            }
        }
        if kind == FileType::RegularFile
            && let Some((mount, _)) = self.world.view.path_of(&link)
        {
            if how.writes() && self.world.view.mounts.get(mount).is_none_or(|m| m.read_only) {
                return Err(Errno::ROFS);
            }
            let who = self.who()?;
            if self.world.owned(mount) && !look::all_powerful(&who) && !how.has(O_PATH) {
                self.world.may(&who, &found, mount, how.wanted())?;
            }
        }
        let flags = OFlags::from_bits_retain(how.flags & !(O_CREAT | O_EXCL | O_PATH | O_LARGEFILE));
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let open = move || {
            let name = held.as_raw_fd().to_string();
            Ok(Reply::Descriptor(kernel_openat(links()?, name, flags, Mode::empty())?, close))
        };
        if kind == FileType::Fifo && !how.has(O_NONBLOCK) {
            return Ok(Reply::Later(Box::new(open)));
        }
        open()
    }
}

/// The pod's device with these numbers, of those that every container has.
fn known_device(device: Device) -> Option<&'static str> {
    let Device::Char(major, minor) = device else { return None };
    Some(match (major, minor) {
        (1, 3) => "/dev/null",
        (1, 5) => "/dev/zero",
        (1, 7) => "/dev/full",
        (1, 8) => "/dev/random",
        (1, 9) => "/dev/urandom",
        (5, 0) => "/dev/tty",
        _ => return None,
    })
}
