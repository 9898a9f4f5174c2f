//! Whiteouts on disk: files that hide what lower layers have under their name.
//!
//! overlayfs' own is a character device 0:0. Storage that is itself a mounted overlay refuses to make one; there a socket
//! without permissions and of time 0 stands for it. No layer has sockets, and a whiteout is told by `stat` alone either way.

use rustix::fs::{AtFlags, FileType, Mode, Stat, Timespec, Timestamps, chmodat, mknodat, utimensat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;

/// Whether a `stat` shows a whiteout.
pub fn is(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::Socket => (stat.st_mode & 0o7777, stat.st_mtime, stat.st_mtime_nsec) == (0, 0, 0),
        _ => false,
    }
}

/// Whether a file of this kind, as a directory lists it, can be a whiteout.
pub fn may_be(kind: FileType) -> bool {
    matches!(kind, FileType::CharacterDevice | FileType::Socket | FileType::Unknown)
}

/// Makes a whiteout where nothing is.
///
/// # Errors
/// A file-system call fails.
pub fn make(dir: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => make_socket(dir, name),
        other => other,
    }
}

fn make_socket(dir: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    mknodat(&dir, name, FileType::Socket, Mode::empty(), 0)?;
    // An access control list of the directory may have given permissions.
    chmodat(&dir, name, Mode::empty(), AtFlags::empty())?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = Timestamps { last_access: zero, last_modification: zero };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_told_from_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let stat = |name: &str| rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        make(&fd, OsStr::new("device")).unwrap();
        make_socket(&fd, OsStr::new("socket")).unwrap();
        std::os::unix::net::UnixListener::bind(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(is(&stat("device")) && is(&stat("socket")));
        assert!(!is(&stat("real")) && !is(&stat("file")));
    }
}
