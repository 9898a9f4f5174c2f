//! What the paths of a call mean.

use super::super::ids::Attributes;
use super::super::owners::{FileId, ID, Owned};
use super::{Call, Keeper};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// `PATH_MAX`.
pub(super) const LONGEST: usize = 4096;
/// Links that a path may lead through, as in the kernel.
pub(super) const MOST_LINKS: usize = 40;

/// What is asked of the kernel for a file.
pub(super) const FIELDS: StatxFlags = StatxFlags::BASIC_STATS.union(ID).union(StatxFlags::MNT_ID);

/// How a file is opened only to read its attributes.
pub(super) const TO_READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A file or a name: a path for the `*at` calls on the directory `proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    path: Vec<u8>,
    /// Whether it is a descriptor's own file, so that the link that names it has to be followed.
    descriptor: bool,
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The directory in which the last name is, and that name; `None` where the path names no entry of a directory.
    pub(super) fn split(&self) -> Option<(Place, Vec<u8>)> {
        let end = self.path.iter().rposition(|b| *b != b'/')? + 1;
        let path = self.path.get(..end)?;
        let start = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let (directory, name) = path.split_at_checked(start)?;
        if self.descriptor || name == b"." || name == b".." || directory.is_empty() {
            return None;
        }
        Some((Place { path: directory.to_vec(), descriptor: false }, name.to_vec()))
    }
}

impl Call<'_> {
    /// The path at `address`, relative to the directory `at` (AT_FDCWD: the working directory). With `empty`, no path means
    /// the descriptor itself.
    pub(super) fn place(&self, at: i32, address: u64, empty: bool) -> Result<Place, Errno> {
        let path = match (address, empty) {
            // Newer kernels take no pointer for an empty path.
            (0, true) => Vec::new(),
            _ => self.string(address, LONGEST)?,
        };
        if path.is_empty() {
            return if empty { Ok(self.descriptor(at)) } else { Err(Errno::NOENT) };
        }
        let own = |rest: &[u8]| [b"/proc/", decimal(self.pid, &mut [0; DIGITS]), rest].concat();
        let path = match path.first() {
            Some(b'/') => match (path.strip_prefix(b"/proc/self"), path.strip_prefix(b"/proc/thread-self")) {
                (Some(rest), _) | (_, Some(rest)) if rest.first().is_none_or(|b| *b == b'/') => own(rest),
                _ => path,
            },
            _ => self.below(at, &[b"/", path.as_slice()]),
        };
        Ok(Place { path, descriptor: false })
    }

    /// The file behind a descriptor.
    pub(super) fn descriptor(&self, fd: i32) -> Place {
        Place { path: self.below(fd, &[]), descriptor: true }
    }

    /// The path of a directory of the caller's, with this behind it. Made for most calls, so nothing is formatted.
    fn below(&self, fd: i32, rest: &[&[u8]]) -> Vec<u8> {
        let (pid, mut digits) = (self.pid, [0; DIGITS]);
        let mut path = Vec::with_capacity(2 * DIGITS + rest.iter().map(|piece| piece.len()).sum::<usize>());
        path.extend_from_slice(decimal(pid, &mut digits));
        if fd == libc::AT_FDCWD {
            path.extend_from_slice(b"/cwd");
        } else {
            path.extend_from_slice(b"/fd/");
            path.extend_from_slice(decimal(fd, &mut digits));
        }
        rest.iter().for_each(|piece| path.extend_from_slice(piece));
        path
    }
}

/// Room for the digits of any number of a process or descriptor, and its sign.
const DIGITS: usize = 11;

/// The number as text, at the end of `room`.
fn decimal(number: i32, room: &mut [u8; DIGITS]) -> &[u8] {
    let (mut rest, mut at) = (number.unsigned_abs(), DIGITS);
    for place in room.iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        (rest, at) = (rest / 10, at - 1);
        if rest == 0 {
            break;
        }
    }
    if number < 0
        && let Some(place) = at.checked_sub(1).and_then(|before| room.get_mut(before))
    {
        *place = b'-';
        at -= 1;
    }
    room.get(at..).unwrap_or_default()
}

/// A file as the step is to see it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) id: FileId,
    pub(super) stat: Statx,
    pub(super) owned: Option<Owned>,
    /// Whether it is of another file system than the step's root.
    pub(super) foreign: bool,
}

impl Seen {
    /// What decides about access.
    pub(super) fn attributes(&self) -> Attributes {
        let mode = u32::from(self.stat.stx_mode);
        let (uid, gid) = match &self.owned {
            Some(owned) => (owned.uid, owned.gid),
            None => (self.stat.stx_uid, self.stat.stx_gid),
        };
        Attributes { uid, gid, mode: mode & 0o7777, directory: self.kind() == FileType::Directory }
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.stx_mode.into())
    }
}

impl Keeper {
    /// Does something with paths of a call as if this thread had the caller's root directory.
    pub(super) fn as_caller<T>(&self, call: &Call<'_>, action: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if !self.chrooted.load(Ordering::Relaxed) {
            return action();
        }
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let theirs = openat(&self.proc, format!("{}/root", call.pid), directory, Mode::empty())?;
        let same = |a: &OwnedFd, b: &OwnedFd| -> Result<bool, Errno> {
            let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
            Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
        };
        if same(&theirs, &self.root)? {
            return action();
        }
        let enter = |root: &OwnedFd| -> Result<(), Errno> {
            rustix::process::fchdir(root)?;
            rustix::process::chroot(".")
        };
        enter(&theirs)?;
        let result = action();
        enter(&self.root)?;
        result
    }

    fn flags(place: &Place, follow: bool) -> AtFlags {
        if follow || place.descriptor { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
    }

    /// Looks at a file.
    pub(super) fn see(&self, place: &Place, follow: bool, fields: StatxFlags) -> Result<Seen, Errno> {
        let stat = statx(&self.proc, place.path(), Self::flags(place, follow), fields | ID)?;
        Ok(self.seen(stat, || openat(&self.proc, place.path(), TO_READ, Mode::empty())))
    }

    /// Looks at an open file.
    pub(super) fn see_open(&self, fd: impl AsFd) -> Result<Seen, Errno> {
        let stat = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | ID)?;
        Ok(self.seen(stat, || openat(&self.links, self.own_name(fd.as_fd()), TO_READ, Mode::empty())))
    }

    /// Looks at a name in a directory, which is not followed.
    pub(super) fn see_in(&self, directory: impl AsFd, name: &[u8]) -> Result<Seen, Errno> {
        let name = OsStr::from_bytes(name);
        let stat = statx(&directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | ID)?;
        Ok(self.seen(stat, || openat(&directory, name, TO_READ | OFlags::NOFOLLOW, Mode::empty())))
    }

    pub(super) fn seen(&self, stat: Statx, open: impl FnOnce() -> rustix::io::Result<OwnedFd>) -> Seen {
        let id = FileId::of(&stat);
        let foreign = (stat.stx_dev_major, stat.stx_dev_minor) != self.device;
        let mut owners = self.owners();
        if owners.has_linked() && !foreign {
            owners.adopt(&stat, open);
        }
        let owned = owners.get(&id).cloned();
        drop(owners);
        Seen { id, stat, owned, foreign }
    }

    /// The name in `links` of a file that this thread holds.
    pub(super) fn own_name(&self, fd: BorrowedFd<'_>) -> String {
        fd.as_raw_fd().to_string()
    }

    /// A copy of a caller's descriptor. Most of a program's calls come in a row, so the process is held for the next; where
    /// copies are refused, or the caller is not the first thread of its process, `/proc` has the file.
    pub(super) fn take(&self, pid: i32, number: i32) -> Result<OwnedFd, Errno> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = |process: &OwnedFd| pidfd_getfd(process, number, PidfdGetfdFlags::empty());
        // Where the number was given to another process since, the one that is held has ended, and has no descriptors.
        if let Some((known, process)) = asking.as_ref()
            && *known == pid
            && let Ok(file) = copy(process)
        {
            return Ok(file);
        }
        *asking = rustix::process::Pid::from_raw(pid)
            .and_then(|id| pidfd_open(id, PidfdFlags::empty()).ok())
            .map(|process| (pid, process));
        if let Some((_, process)) = asking.as_ref() {
            match copy(process) {
                Err(e) if e != Errno::BADF => {}
                answer => return answer,
            }
        }
        drop(asking);
        self.hold_number(pid, number)
    }

    /// The file behind a caller's descriptor, only to name it.
    pub(super) fn hold_number(&self, pid: i32, number: i32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat(&self.proc, format!("{pid}/fd/{number}"), flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => Errno::BADF,
            e => e,
        })
    }

    /// Opens a file only to name it.
    pub(super) fn hold(&self, place: &Place, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !(follow || place.descriptor) {
            flags |= OFlags::NOFOLLOW;
        }
        openat(&self.proc, place.path(), flags, Mode::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everywhere() {
        for number in [0, 7, 10, 4_194_304, i32::MAX, -1, libc::AT_FDCWD, i32::MIN] {
            assert_eq!(decimal(number, &mut [0; DIGITS]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn paths_are_split_at_their_last_name() {
        let split = |path: &str| {
            let place = Place { path: path.as_bytes().to_vec(), descriptor: false };
            place.split().map(|(d, n)| format!("{} {}", d.path().display(), String::from_utf8(n).unwrap()))
        };
        for (path, parts) in [
            ("/a/b", Some("/a/ b")),
            ("/a/b//", Some("/a/ b")),
            ("/b", Some("/ b")),
            ("7/cwd/b", Some("7/cwd/ b")),
            ("/a/..", None),
            ("7/cwd/.", None),
            ("/", None),
        ] {
            assert_eq!(split(path).as_deref(), parts, "{path}");
        }
        assert_eq!(Place { path: b"7/fd/3".to_vec(), descriptor: true }.split(), None);
    }
}
