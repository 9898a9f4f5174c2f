//! The way to a file, walked name by name for a process that may not go everywhere.
//!
//! Every directory on the way is held, looked at and judged, and the next name is looked up in what is held: so what was
//! judged is what the call is made with, whatever the step changes meanwhile.

use super::super::ids::{Attributes, Credentials, EXECUTE, may_delete};
use super::place::{FIELDS, LONGEST, MOST_LINKS, Seen, TO_READ};
use super::{Call, Keeper};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// Ways to resolve a path that openat2(2) knows.
pub(super) mod resolve {
    pub(in super::super) const NO_XDEV: u64 = 1;
    pub(in super::super) const NO_MAGICLINKS: u64 = 2;
    pub(in super::super) const NO_SYMLINKS: u64 = 4;
    pub(in super::super) const BENEATH: u64 = 8;
    pub(in super::super) const IN_ROOT: u64 = 16;
}

/// Device, inode and mount.
type Number = ((u32, u32), u64, u64);

/// A file that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) seen: Seen,
    /// What decides about access; `None`: everybody may.
    pub(super) law: Option<Attributes>,
    /// Of a directory or file of `/proc`: the process that it tells of.
    process: Option<i32>,
}

impl Look {
    pub(super) fn kind(&self) -> FileType {
        self.seen.kind()
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether a process may do this with the file.
    pub(super) fn may(&self, who: &Credentials, wanted: u32) -> Result<(), Errno> {
        self.law.map_or(Ok(()), |law| who.may(law, wanted))
    }

    fn number(&self) -> Number {
        let stat = &self.seen.stat;
        ((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino, stat.stx_mnt_id)
    }
}

/// A file that is held.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) fd: Arc<OwnedFd>,
    look: Look,
}

impl std::ops::Deref for Held {
    type Target = Look;

    fn deref(&self) -> &Look {
        &self.look
    }
}

impl Held {
    /// Its name in the directory of this process's descriptors.
    pub(super) fn link(&self) -> String {
        self.fd.as_raw_fd().to_string()
    }
}

/// Directories that were passed, by the directory above and the name. Each is used again only when the name still leads
/// there.
#[derive(Debug, Default)]
pub(super) struct Passed(HashMap<(Number, Vec<u8>), (Number, Arc<OwnedFd>)>);

const MOST_PASSED: usize = 256;

/// What is wanted of the last name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// The file, be it behind links.
    Follow,
    /// The file, be it a link.
    Keep,
    /// As `Follow`; the name where there is no file.
    FollowOrName,
    /// The name, whether there is a file or not.
    Name,
}

/// The end of a path that is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    Dot,
    DotDot,
    Root,
}

/// Where a way ended.
#[derive(Debug)]
pub(super) enum Found {
    /// At a file.
    File(Held),
    /// At a file of this name in a directory.
    Named(Held, Vec<u8>, Box<Look>),
    /// At a name in a directory; whether a slash followed.
    Name(Held, Vec<u8>, bool),
    /// At a directory that cannot be named.
    Special(Special),
}

/// One walk.
pub(super) struct Way<'a> {
    pub(super) keeper: &'a Keeper,
    pub(super) call: &'a Call<'a>,
    pub(super) who: &'a Credentials,
    /// Bits of [`resolve`].
    pub(super) resolve: u64,
}

impl Way<'_> {
    fn has(&self, bit: u64) -> bool {
        self.resolve & bit != 0
    }

    /// The root directory of the caller.
    fn root(&self) -> Result<Held, Errno> {
        let keeper = self.keeper;
        if !keeper.chrooted.load(Ordering::Relaxed) {
            return keeper.regard(Arc::clone(&keeper.root));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        keeper.hold_new(openat(&keeper.proc, format!("{}/root", self.call.pid), flags, Mode::empty())?)
    }

    /// Where relative paths start.
    fn base(&self, at: i32) -> Result<Held, Errno> {
        let held = if at == libc::AT_FDCWD {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let name = format!("{}/cwd", self.call.pid);
            self.keeper.hold_new(openat(&self.keeper.proc, name, flags, Mode::empty())?)?
        } else {
            self.keeper.hold_descriptor(self.call, at)?
        };
        if held.is_directory() { Ok(held) } else { Err(Errno::NOTDIR) }
    }

    /// Walks the path, from the directory `at` (AT_FDCWD: the working directory) unless it is absolute.
    pub(super) fn walk(&self, at: i32, path: &[u8], last: Last) -> Result<Found, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let beneath = self.has(resolve::BENEATH | resolve::IN_ROOT);
        let absolute = path.first() == Some(&b'/');
        if absolute && self.has(resolve::BENEATH) {
            return Err(Errno::XDEV);
        }
        let base = if absolute && !beneath { self.root()? } else { self.base(at)? };
        let mut root = beneath.then(|| base.clone());
        let mount = base.seen.stat.stx_mnt_id;
        let mut here = base;
        let mut todo = path.to_vec();
        let (mut from, mut links, mut special) = (0, 0, Special::Root);
        loop {
            let rest = todo.get(from..).unwrap_or_default();
            let Some(skip) = rest.iter().position(|b| *b != b'/') else {
                return Ok(if last == Last::Name { Found::Special(special) } else { Found::File(here) });
            };
            let rest = rest.get(skip..).unwrap_or_default();
            let length = memchr::memchr(b'/', rest).unwrap_or(rest.len());
            let name = rest.get(..length).unwrap_or_default().to_vec();
            let behind = rest.get(length..).unwrap_or_default();
            let (is_last, slash) = (behind.iter().all(|b| *b == b'/'), !behind.is_empty());
            from += skip + length;
            if !here.is_directory() {
                return Err(Errno::NOTDIR);
            }
            here.may(self.who, EXECUTE)?;
            match name.as_slice() {
                b"." => {
                    special = Special::Dot;
                    continue;
                }
                b".." => {
                    special = Special::DotDot;
                    let top = match &root {
                        Some(root) => root.number(),
                        None => root.insert(self.root()?).number(),
                    };
                    if here.number() != top {
                        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                        here = self.keeper.hold_new(openat(&here.fd, "..", flags, Mode::empty())?)?;
                    } else if self.has(resolve::BENEATH) {
                        return Err(Errno::XDEV);
                    }
                    if self.has(resolve::NO_XDEV) && here.seen.stat.stx_mnt_id != mount {
                        return Err(Errno::XDEV);
                    }
                    continue;
                }
                _ => {}
            }
            if is_last && last == Last::Name {
                return Ok(Found::Name(here, name, slash));
            }
            let next = match self.keeper.look_at(&here, &name) {
                Err(Errno::NOENT) if is_last && last == Last::FollowOrName => {
                    return Ok(Found::Name(here, name, slash));
                }
                other => other?,
            };
            if self.has(resolve::NO_XDEV) && next.seen.stat.stx_mnt_id != mount {
                return Err(Errno::XDEV);
            }
            let follow = !is_last || slash || last != Last::Keep;
            if next.kind() == FileType::Symlink && follow {
                links += 1;
                if links > MOST_LINKS || self.has(resolve::NO_SYMLINKS) {
                    return Err(Errno::LOOP);
                }
                match self.keeper.target(self.call, &here, &name, &next) {
                    // Another file has its name now.
                    Err(Errno::INVAL) => from -= length,
                    Err(e) => return Err(e),
                    Ok(Target::Path(target)) => {
                        let absolute = target.first() == Some(&b'/');
                        if target.is_empty() {
                            return Err(Errno::NOENT);
                        }
                        if target.len() + behind.len() >= LONGEST {
                            return Err(Errno::NAMETOOLONG);
                        }
                        if absolute && self.has(resolve::BENEATH) {
                            return Err(Errno::XDEV);
                        }
                        todo = [&target, behind].concat();
                        from = 0;
                        if absolute {
                            special = Special::Root;
                            here = match &root {
                                Some(root) => root.clone(),
                                None => self.root()?,
                            };
                        }
                    }
                    Ok(Target::Magic(process)) => {
                        if self.has(resolve::NO_MAGICLINKS) {
                            return Err(Errno::LOOP);
                        }
                        if self.has(resolve::BENEATH | resolve::IN_ROOT) {
                            return Err(Errno::XDEV);
                        }
                        self.keeper.same_user(self.call, self.who, process)?;
                        let flags = OFlags::PATH | OFlags::CLOEXEC;
                        let name = OsStr::from_bytes(&name);
                        here = self.keeper.hold_new(openat(&here.fd, name, flags, Mode::empty())?)?;
                        special = Special::Root;
                        if is_last && !slash {
                            return Ok(Found::File(here));
                        }
                    }
                }
                continue;
            }
            if is_last {
                let fits = !slash || next.is_directory();
                return if fits { Ok(Found::Named(here, name, Box::new(next))) } else { Err(Errno::NOTDIR) };
            }
            if !next.is_directory() {
                return Err(Errno::NOTDIR);
            }
            here = self.keeper.pass(&here, name, next)?;
        }
    }

    /// The file that a path leads to; with `empty`, no path means the descriptor's own.
    pub(super) fn file(&self, at: i32, path: &[u8], follow: bool, empty: bool) -> Result<Held, Errno> {
        match self.end(at, path, follow, empty)? {
            Found::File(file) => Ok(file),
            Found::Named(directory, name, _) => {
                let file = self.keeper.hold_name(&directory, &name)?;
                // It is a link only now: the next look follows it.
                if follow && file.kind() == FileType::Symlink { self.file(at, path, false, empty) } else { Ok(file) }
            }
            Found::Name(..) | Found::Special(_) => Err(Errno::NOENT),
        }
    }

    /// The same, only to look at it.
    pub(super) fn look(&self, at: i32, path: &[u8], follow: bool, empty: bool) -> Result<Look, Errno> {
        match self.end(at, path, follow, empty)? {
            Found::File(file) => Ok(file.look),
            Found::Named(_, _, look) => Ok(*look),
            Found::Name(..) | Found::Special(_) => Err(Errno::NOENT),
        }
    }

    fn end(&self, at: i32, path: &[u8], follow: bool, empty: bool) -> Result<Found, Errno> {
        match (path.is_empty() && empty, at) {
            (true, libc::AT_FDCWD) => self.base(at).map(Found::File),
            (true, fd) => self.keeper.hold_descriptor(self.call, fd).map(Found::File),
            (false, _) => self.walk(at, path, if follow { Last::Follow } else { Last::Keep }),
        }
    }
}

/// Where a link leads.
pub(super) enum Target {
    Path(Vec<u8>),
    /// To something of this process, which is no path.
    Magic(i32),
}

impl Keeper {
    /// Looks at what is held.
    pub(super) fn regard(&self, fd: Arc<OwnedFd>) -> Result<Held, Errno> {
        let stat = statx(&fd, "", AtFlags::EMPTY_PATH, FIELDS)?;
        let seen = self.seen(stat, || openat(&self.links, fd.as_raw_fd().to_string(), TO_READ, Mode::empty()));
        let process = self.is_of_proc(&seen).then(|| self.process_of(fd.as_fd())).flatten();
        let look = self.judge(seen, process, b"");
        Ok(Held { fd, look })
    }

    /// Looks at what a name in a directory stands for, be it a link.
    pub(super) fn look_at(&self, directory: &Held, name: &[u8]) -> Result<Look, Errno> {
        let at = OsStr::from_bytes(name);
        let stat = statx(&directory.fd, at, AtFlags::SYMLINK_NOFOLLOW, FIELDS)?;
        let seen = self.seen(stat, || openat(&directory.fd, at, TO_READ | OFlags::NOFOLLOW, Mode::empty()));
        let number = || std::str::from_utf8(name).ok()?.parse().ok();
        let process = self.is_of_proc(&seen).then(|| directory.process.or_else(number)).flatten();
        Ok(self.judge(seen, process, name))
    }

    fn is_of_proc(&self, seen: &Seen) -> bool {
        (seen.stat.stx_dev_major, seen.stat.stx_dev_minor) == self.proc_device
    }

    fn judge(&self, seen: Seen, process: Option<i32>, name: &[u8]) -> Look {
        let shared = process.is_none() && seen.owned.is_none() && self.is_shared(&seen);
        let mut look = Look { law: (!shared).then(|| seen.attributes()), seen, process };
        if let (Some(process), Some(law)) = (process, &mut look.law) {
            // What tells of memory is for those only who may trace.
            let guarded = matches!(name, b"maps" | b"smaps" | b"smaps_rollup" | b"numa_maps");
            law.mode &= if guarded { 0o700 } else { 0o777 };
            // This process is root's, whoever the step's first one is.
            if u32::try_from(process) != Ok(std::process::id()) {
                let who = self.credentials(process);
                (law.uid, law.gid) = (who.uid.effective, who.gid.effective);
            }
        }
        look
    }

    /// Goes into a directory that was looked at.
    fn pass(&self, above: &Held, name: Vec<u8>, look: Look) -> Result<Held, Errno> {
        let key = (above.number(), name);
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, fd)) = passed.0.get(&key)
            && *number == look.number()
        {
            return Ok(Held { fd: Arc::clone(fd), look });
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = Arc::new(openat(&above.fd, OsStr::from_bytes(&key.1), flags, Mode::empty())?);
        if above.process.is_some() || look.process.is_some() {
            return self.regard(fd);
        }
        let held = self.regard(fd)?;
        if passed.0.len() >= MOST_PASSED {
            passed.0.clear();
        }
        passed.0.insert(key, (held.number(), Arc::clone(&held.fd)));
        Ok(held)
    }

    pub(super) fn hold_new(&self, fd: OwnedFd) -> Result<Held, Errno> {
        self.regard(Arc::new(fd))
    }

    /// Holds what a name in a directory stands for, be it a link.
    pub(super) fn hold_name(&self, directory: &Held, name: &[u8]) -> Result<Held, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.hold_new(openat(&directory.fd, OsStr::from_bytes(name), flags, Mode::empty())?)
    }

    /// Holds the file behind a descriptor of the caller's.
    pub(super) fn hold_descriptor(&self, call: &Call<'_>, fd: i32) -> Result<Held, Errno> {
        self.hold_new(self.hold_number(call.pid, fd)?)
    }

    /// Whether nobody knows whose a file is: those of caches and volumes, pipes and sockets.
    fn is_shared(&self, seen: &Seen) -> bool {
        let numbered = StatxFlags::from_bits_retain(seen.stat.stx_mask).contains(StatxFlags::MNT_ID);
        match numbered {
            true => {
                self.shared.contains(&seen.stat.stx_mnt_id)
                    || (seen.foreign && matches!(seen.kind(), FileType::Fifo | FileType::Socket))
            }
            // Before Linux 5.8.
            false => seen.foreign,
        }
    }

    /// The process that something in `/proc` tells of.
    fn process_of(&self, fd: BorrowedFd<'_>) -> Option<i32> {
        let path = readlinkat(&self.links, self.own_name(fd), Vec::new()).ok()?;
        let mut names = path.as_bytes().strip_prefix(b"/proc/")?.split(|b| *b == b'/');
        std::str::from_utf8(names.next()?).ok()?.parse().ok()
    }

    /// Where a link leads that is followed for the caller.
    pub(super) fn target(&self, call: &Call<'_>, directory: &Held, name: &[u8], link: &Look) -> Result<Target, Errno> {
        if self.is_of_proc(&link.seen) {
            match (name, directory.process) {
                (b"self", None) => return Ok(Target::Path(self.group(call.pid).to_string().into_bytes())),
                (b"thread-self", None) => {
                    return Ok(Target::Path(format!("{}/task/{}", self.group(call.pid), call.pid).into_bytes()));
                }
                (_, Some(process)) => return Ok(Target::Magic(process)),
                (_, None) => {}
            }
        }
        Ok(Target::Path(readlinkat(&directory.fd, OsStr::from_bytes(name), Vec::new())?.into_bytes()))
    }

    /// The process that a thread belongs to.
    pub(super) fn group(&self, thread: i32) -> i32 {
        let line = self.status(thread, "Tgid:", 512);
        line.and_then(|line| line.parse().ok()).unwrap_or(thread)
    }

    /// Whether the caller may look into a process.
    pub(super) fn same_user(&self, call: &Call<'_>, who: &Credentials, process: i32) -> Result<(), Errno> {
        if process == call.pid {
            return Ok(());
        }
        let other = self.credentials(process);
        let same = [other.uid.real, other.uid.effective, other.uid.saved].iter().all(|id| *id == who.uid.file)
            && [other.gid.real, other.gid.effective, other.gid.saved].iter().all(|id| *id == who.gid.file);
        let init = u32::try_from(process) == Ok(std::process::id());
        if (same && !init) || process == self.group(call.pid) { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Whether the caller may take a name out of a directory, or put another file in its place. ENOENT where there is none.
    pub(super) fn may_remove(&self, who: &Credentials, directory: &Held, name: &[u8]) -> Result<Look, Errno> {
        let file = self.look_at(directory, name)?;
        match (directory.law, file.law) {
            (Some(above), Some(law)) => may_delete(who, above, law)?,
            (Some(_), None) => directory.may(who, super::super::ids::WRITE | EXECUTE)?,
            (None, _) => {}
        }
        Ok(file)
    }
}
