//! open(2) and its kin: the file is opened here, and the caller is given the descriptor.

use super::super::super::ids::{Credentials, EXECUTE, READ, WRITE, wanted_by};
use super::super::super::owners::{FileId, ID};
use super::super::walk::{Found, Held, Last, Look, Way, resolve};
use super::super::{Answer, Answered, Call, Keeper, Later};
use super::GO_ON;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statx};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

/// `__O_TMPFILE`, without the bit for directories.
const TMPFILE: i32 = 0o20_000_000;
/// Bytes of `struct open_how`.
const HOW_BYTES: u64 = 24;
/// `RESOLVE_CACHED`.
const CACHED: u64 = 32;
/// How often a file that comes and goes is tried for.
const TRIES: usize = 8;
/// The terminal of whoever opens it.
const OWN_TERMINAL: (u32, u32) = (5, 0);

/// How a file is to be opened.
#[derive(Debug, Clone, Copy)]
struct How {
    flags: i32,
    mode: u32,
    resolve: u64,
}

impl How {
    fn has(self, flag: i32) -> bool {
        self.flags & flag == flag
    }

    fn wanted(self) -> u32 {
        wanted_by(self.flags)
    }

    /// What the kernel is asked for here.
    fn flags(self, without: i32) -> OFlags {
        OFlags::from_bits_retain((self.flags & !without).cast_unsigned()) | OFlags::CLOEXEC | OFlags::NOCTTY
    }

    fn closes(self) -> bool {
        self.has(libc::O_CLOEXEC)
    }
}

impl Keeper {
    pub(in super::super) fn judged_open(&self, call: &Call<'_>) -> Answered {
        self.open_judged(call, libc::AT_FDCWD, call.arg(0), call.int(1), call.word(2))
    }

    pub(in super::super) fn judged_openat(&self, call: &Call<'_>) -> Answered {
        self.open_judged(call, call.int(0), call.arg(1), call.int(2), call.word(3))
    }

    pub(in super::super) fn judged_creat(&self, call: &Call<'_>) -> Answered {
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
        self.open_judged(call, libc::AT_FDCWD, call.arg(0), flags, call.word(1))
    }

    pub(in super::super) fn judged_openat2(&self, call: &Call<'_>) -> Answered {
        const PAGE: u64 = 4096;
        let size = call.arg(3);
        if size < HOW_BYTES {
            return Err(Errno::INVAL);
        }
        if size > PAGE {
            return Err(Errno::TOOBIG);
        }
        let how = call.read(call.arg(2), usize::try_from(size).map_err(|_| Errno::TOOBIG)?)?;
        let mut words = how.chunks_exact(8).filter_map(|c| c.first_chunk::<8>()).map(|c| u64::from_ne_bytes(*c));
        let (flags, mode, resolve) = (words.next().unwrap_or(0), words.next().unwrap_or(0), words.next().unwrap_or(0));
        if words.any(|word| word != 0) {
            return Err(Errno::TOOBIG);
        }
        let both = resolve::BENEATH | resolve::IN_ROOT;
        let known = both | resolve::NO_XDEV | resolve::NO_MAGICLINKS | resolve::NO_SYMLINKS | CACHED;
        if resolve & !known != 0 || resolve & both == both || mode & !0o7777 != 0 {
            return Err(Errno::INVAL);
        }
        if resolve & CACHED != 0 {
            return Err(Errno::AGAIN);
        }
        let flags = u32::try_from(flags).map_err(|_| Errno::INVAL)?.cast_signed();
        let path = call.path(call.arg(1), false)?;
        self.open_path(call, call.int(0), &path, How { flags, mode: (mode & 0o7777) as u32, resolve })
    }

    fn open_judged(&self, call: &Call<'_>, at: i32, path: u64, flags: i32, mode: u32) -> Answered {
        let path = call.path(path, false)?;
        self.open_path(call, at, &path, How { flags, mode, resolve: 0 })
    }

    fn open_path(&self, call: &Call<'_>, at: i32, path: &[u8], how: How) -> Answered {
        let who = self.credentials(call.pid);
        let way = Way { keeper: self, call, who: &who, resolve: how.resolve };
        let creates = how.has(libc::O_CREAT) && !how.has(libc::O_PATH);
        let last = match creates {
            true if how.has(libc::O_EXCL) => Last::Name,
            true if how.has(libc::O_NOFOLLOW) => Last::Keep,
            true => Last::FollowOrName,
            false if how.has(libc::O_NOFOLLOW) => Last::Keep,
            false => Last::Follow,
        };
        for _ in 0..TRIES {
            let found = match way.walk(at, path, last) {
                // O_NOFOLLOW, and there is nothing.
                Err(Errno::NOENT) if creates => way.walk(at, path, Last::Name)?,
                other => other?,
            };
            let file = match found {
                Found::Named(directory, name, look) => match self.open_named(&who, &directory, &name, &look, how)? {
                    Some(answer) => return Ok(answer),
                    None => match self.hold_name(&directory, &name) {
                        Ok(file) if file.kind() == look.kind() => Found::File(file),
                        // It came or went just now.
                        Ok(_) | Err(Errno::NOENT) => continue,
                        Err(e) => return Err(e),
                    },
                },
                other => other,
            };
            return match file {
                Found::File(file) if how.has(TMPFILE) && !how.has(libc::O_PATH) => {
                    self.open_nameless(call, &who, &file, how)
                }
                Found::File(file) => self.open_file(&who, file, how),
                Found::Special(_) | Found::Named(..) => {
                    Err(if how.has(libc::O_EXCL) { Errno::EXIST } else { Errno::ISDIR })
                }
                Found::Name(_, _, true) => Err(Errno::ISDIR),
                Found::Name(directory, name, false) => match self.create_judged(call, &who, &directory, &name, how) {
                    // Somebody else was faster.
                    Err(Errno::EXIST) if !how.has(libc::O_EXCL) => continue,
                    other => other,
                },
            };
        }
        Err(Errno::LOOP)
    }

    /// Opens a file by its name, if that is still the one that was judged; all but plain files are held first.
    fn open_named(
        &self,
        who: &Credentials,
        directory: &Held,
        name: &[u8],
        look: &Look,
        how: How,
    ) -> Result<Option<Answer>, Errno> {
        const OTHERS: i32 = libc::O_TRUNC | libc::O_PATH | libc::O_DIRECTORY | libc::O_NOATIME | TMPFILE;
        if look.kind() != FileType::RegularFile || how.flags & OTHERS != 0 {
            return Ok(None);
        }
        look.may(who, how.wanted())?;
        // Nothing that took its place may hold this process up.
        let flags = how.flags(libc::O_CREAT | libc::O_EXCL) | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = openat(&directory.fd, OsStr::from_bytes(name), flags, Mode::empty()) else { return Ok(None) };
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, ID)?;
        if FileId::of(&stat) != look.seen.id {
            return Ok(None);
        }
        if !how.has(libc::O_NONBLOCK) {
            rustix::fs::fcntl_setfl(&file, how.flags(libc::O_CREAT | libc::O_EXCL))?;
        }
        Ok(Some(Answer::Descriptor(file, how.closes())))
    }

    fn open_file(&self, who: &Credentials, file: Held, how: How) -> Answered {
        let kind = file.kind();
        if how.has(libc::O_PATH) {
            return self.open_place(who, &file, how);
        }
        match kind {
            FileType::Symlink if how.has(libc::O_DIRECTORY) => return Err(Errno::NOTDIR),
            FileType::Symlink => return Err(Errno::LOOP),
            FileType::Directory if how.wanted() & WRITE != 0 || how.has(libc::O_CREAT) => return Err(Errno::ISDIR),
            FileType::Directory => {}
            _ if how.has(libc::O_DIRECTORY) => return Err(Errno::NOTDIR),
            _ => {}
        }
        file.may(who, how.wanted())?;
        if how.has(libc::O_NOATIME) && file.law.is_some_and(|law| !who.owns(law)) {
            return Err(Errno::PERM);
        }
        let stat = &file.seen.stat;
        if kind == FileType::CharacterDevice && (stat.stx_rdev_major, stat.stx_rdev_minor) == OWN_TERMINAL {
            // Here it would be this process's. Nobody is asked what it may do with a terminal of its own.
            return GO_ON;
        }
        let flags = how.flags(libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW);
        let waits = kind == FileType::Fifo && !how.has(libc::O_NONBLOCK) && how.flags & libc::O_ACCMODE != libc::O_RDWR;
        if waits {
            let links = Arc::clone(&self.links);
            return Ok(Answer::Later(Later(Box::new(move || {
                Ok(Answer::Descriptor(openat(&links, file.link(), flags, Mode::empty())?, how.closes()))
            }))));
        }
        Ok(Answer::Descriptor(openat(&self.links, file.link(), flags, Mode::empty())?, how.closes()))
    }

    /// O_PATH. Such a descriptor cannot be given to anybody. What stands for it is one for reading, where the caller may have
    /// that; else the caller gets its own.
    fn open_place(&self, who: &Credentials, file: &Held, how: How) -> Answered {
        if how.has(libc::O_DIRECTORY) && !file.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if !file.is_directory() || file.may(who, READ).is_err() {
            return GO_ON;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Answer::Descriptor(openat(&self.links, file.link(), flags, Mode::empty())?, how.closes()))
    }

    fn create_judged(&self, call: &Call<'_>, who: &Credentials, directory: &Held, name: &[u8], how: How) -> Answered {
        directory.may(who, EXECUTE)?;
        if how.has(libc::O_DIRECTORY) {
            return Err(Errno::INVAL);
        }
        directory.may(who, WRITE | EXECUTE).map_err(|e| match self.look_at(directory, name) {
            // That it exists counts before.
            Ok(_) => Errno::EXIST,
            Err(_) => e,
        })?;
        let inherited = who.make_in(directory.seen.attributes(), how.mode & 0o7777 & !self.umask(call.pid), false);
        let flags = how.flags(0) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(inherited.mode & 0o7777);
        let file = openat(&directory.fd, OsStr::from_bytes(name), flags, mode)?;
        self.note(&file, inherited)?;
        Ok(Answer::Descriptor(file, how.closes()))
    }

    fn open_nameless(&self, call: &Call<'_>, who: &Credentials, directory: &Held, how: How) -> Answered {
        if !directory.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if how.wanted() & WRITE == 0 {
            return Err(Errno::INVAL);
        }
        directory.may(who, WRITE | EXECUTE)?;
        let inherited = who.make_in(directory.seen.attributes(), how.mode & 0o7777 & !self.umask(call.pid), false);
        let mode = Mode::from_raw_mode(inherited.mode & 0o7777);
        let file = openat(&directory.fd, ".", how.flags(libc::O_NOFOLLOW), mode)?;
        self.note(&file, inherited)?;
        Ok(Answer::Descriptor(file, how.closes()))
    }
}
