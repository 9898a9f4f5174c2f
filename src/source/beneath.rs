//! Opening what lies below a directory, and nothing else.
//!
//! A build context belongs to whoever wrote it: its links may point anywhere, and may change while it is read. So no
//! path of it is ever handed to a call that follows links. The kernel checks that itself (`openat2`, Linux 5.6); where
//! a seccomp profile forbids the call, each part of the path is opened on its own.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether `openat2` answered that it does not exist or is forbidden.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Opens `path` (relative, clean; empty for `root` itself) below `root` without following any link; `O_NOFOLLOW` and
/// `O_CLOEXEC` are added to `flags`. With `O_PATH` the last part may be a link: then the link itself is opened.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if FORBIDDEN.load(Ordering::Relaxed) {
        return step_by_step(root, path, flags);
    }
    match at_once(root, path, flags) {
        // A seccomp filter may answer either; a file system answers EPERM to no open of this kind.
        Err(Errno::NOSYS | Errno::PERM) => {
            FORBIDDEN.store(true, Ordering::Relaxed);
            step_by_step(root, path, flags)
        }
        answer => answer,
    }
}

fn at_once(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    // The kernel gives up with EAGAIN when something is renamed while it resolves `..`; there is none in clean paths, but
    // it may look twice all the same.
    const TRIES: usize = 16;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut answer = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        answer = rustix::fs::openat2(root, path, flags, Mode::empty(), how);
        if !matches!(answer, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    answer
}

fn step_by_step(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts: Vec<&OsStr> = path.iter().collect();
    let last = parts.pop().unwrap_or(OsStr::new("."));
    let mut dir: Option<OwnedFd> = None;
    for part in parts {
        let at = dir.as_ref().map_or(root, AsFd::as_fd);
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = Some(rustix::fs::openat(at, part, step, Mode::empty())?);
    }
    rustix::fs::openat(dir.as_ref().map_or(root, AsFd::as_fd), last, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_stay_below_and_follow_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "c").unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        symlink("a", dir.path().join("in")).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for way in [at_once, step_by_step] {
            let open =
                |path: &str, flags| way(root.as_fd(), Path::new(path), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC);
            assert!(open("", OFlags::RDONLY).is_ok());
            assert!(open("a/b/c", OFlags::RDONLY).is_ok());
            for path in ["out/passwd", "in/b/c", "in", "a/b/c/d", "a/none", "out"] {
                assert!(open(path, OFlags::RDONLY).is_err(), "{path}");
            }
            let link = open("out", OFlags::PATH).unwrap();
            assert_eq!(rustix::fs::readlinkat(&link, "", Vec::new()).unwrap().to_bytes(), b"/etc");
        }
    }
}
