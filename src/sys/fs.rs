//! Paths inside a root directory that is not ours: symbolic links there never lead out of it.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// A word for the name of a temporary file, which nobody else has. A process id is none: containers that share a directory have
/// processes of the same ids.
pub fn unique_word() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// What [`resolve_or_create`] makes at the end of a path that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// Opens (O_PATH) what `path` means to a process whose root directory is `root`.
pub fn resolve(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(fd) => Ok(fd),
        // Kernels before 5.6 have no openat2, and old filters refuse what they do not know.
        Err(Errno::NOSYS | Errno::PERM) => walk(root, path, None).map(|(fd, _)| fd),
        Err(e) => Err(e.into()),
    }
}

/// Opens (O_PATH) a directory below another, by a path without `..`; a link on the way, or at its end, is an error.
pub fn beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(root, ".", flags, Mode::empty())?;
    for name in components(path) {
        if name == ".." {
            return Err(Errno::XDEV.into());
        }
        at = openat(&at, &name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// What [`resolve_or_create`] had to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The paths below the root, outermost first; never empty.
    pub paths: Vec<PathBuf>,
    /// Modification time (seconds, nanoseconds) of the directory in which the first was made, before it was.
    pub parent_mtime: (i64, i64),
}

/// What to make, and whom to tell before.
type Create<'a> = (Missing, &'a mut dyn FnMut(&Path));

/// As [`resolve`]; what is missing is made. `before` is called with the path of the directory (below `root`) in which
/// something is going to be made, before the first is made.
pub fn resolve_or_create(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
    before: &mut dyn FnMut(&Path),
) -> io::Result<(OwnedFd, Option<Made>)> {
    match resolve(root, path) {
        Ok(fd) => Ok((fd, None)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => walk(root, path, Some((missing, before))),
        Err(e) => Err(e),
    }
}

/// Resolves component by component, with each directory held open on the way so that `..` is exact.
fn walk(root: BorrowedFd<'_>, path: &Path, mut create: Option<Create<'_>>) -> io::Result<(OwnedFd, Option<Made>)> {
    let mut todo: VecDeque<OsString> = components(path);
    let mut at: Vec<(OwnedFd, OsString)> = Vec::new();
    let mut made: Option<Made> = None;
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let here = at.last().map_or(root, |(fd, _)| fd.as_fd());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match (openat(here, &name, flags, Mode::empty()), &mut create) {
            (Ok(fd), _) => fd,
            (Err(Errno::NOENT), Some((missing, before))) => {
                let parent: PathBuf = at.iter().map(|(_, n)| n.as_os_str()).collect();
                if made.is_none() {
                    before(&parent);
                    let stat = statat(here, "", AtFlags::EMPTY_PATH)?;
                    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
                    made = Some(Made { paths: Vec::new(), parent_mtime: (stat.st_mtime, nanoseconds) });
                }
                if todo.is_empty() && *missing == Missing::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    openat(here, &name, flags, Mode::from_raw_mode(0o644))?;
                } else {
                    mkdirat(here, &name, Mode::from_raw_mode(0o755))?;
                }
                if let Some(made) = &mut made {
                    made.paths.push(parent.join(&name));
                }
                openat(here, &name, flags, Mode::empty())?
            }
            (Err(e), _) => return Err(e.into()),
        };
        let stat = statat(&next, "", AtFlags::EMPTY_PATH)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = OsString::from_vec(readlinkat(here, &name, Vec::new())?.into_bytes());
            if Path::new(&target).is_absolute() {
                at.clear();
            }
            for part in components(Path::new(&target)).into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        at.push((next, name));
    }
    let fd = match at.pop() {
        Some((fd, _)) => fd,
        None => openat(root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
    };
    Ok((fd, made))
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Whether the path exists below a directory, the last component not followed.
pub fn exists(dir: BorrowedFd<'_>, path: &OsStr) -> bool {
    statat(dir, Path::new(OsStr::from_bytes(path.as_bytes())), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// `struct statfs` as native programs have it.
pub fn statfs_bytes(found: &rustix::fs::StatFs) -> Vec<u8> {
    let start = std::ptr::from_ref(found).cast::<u8>();
    // SAFETY: the struct is the kernel's own, without padding, and lives on.
    unsafe { std::slice::from_raw_parts(start, std::mem::size_of_val(found)) }.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn identity(fd: &OwnedFd) -> (u64, u64) {
        let stat = statat(fd, "", AtFlags::EMPTY_PATH).unwrap();
        (stat.st_dev, stat.st_ino)
    }

    #[test]
    fn links_stay_inside_and_both_ways_agree() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/file"), "x").unwrap();
        std::fs::write(dir.path().join("outside"), "x").unwrap();
        symlink("/a", root.join("absolute")).unwrap();
        symlink("../../../a/file", root.join("a/b/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("../outside", root.join("escape")).unwrap();
        let fd = openat(rustix::fs::CWD, &root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for path in ["/", "a", "/a/b", "absolute/b", "absolute/b/up", "../../a/b/../file", "a/b/.."] {
            let by_kernel = resolve(fd.as_fd(), Path::new(path)).unwrap();
            let (by_walk, made) = walk(fd.as_fd(), Path::new(path), None).unwrap();
            assert_eq!(identity(&by_kernel), identity(&by_walk), "{path}");
            assert!(made.is_none());
        }
        for (path, errno) in [("loop", Errno::LOOP), ("escape", Errno::NOENT), ("a/none", Errno::NOENT)] {
            let expected = Some(errno.raw_os_error());
            assert_eq!(resolve(fd.as_fd(), Path::new(path)).unwrap_err().raw_os_error(), expected, "{path}");
            assert_eq!(walk(fd.as_fd(), Path::new(path), None).unwrap_err().raw_os_error(), expected, "{path}");
        }
    }

    #[test]
    fn beneath_a_directory_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        symlink("a", dir.path().join("root/link")).unwrap();
        let root = openat(rustix::fs::CWD, dir.path().join("root"), OFlags::PATH, Mode::empty()).unwrap();
        let open = |path: &str| beneath(root.as_fd(), Path::new(path)).map(|fd| identity(&fd));
        assert_eq!(open("a/b").unwrap(), identity(&resolve(root.as_fd(), Path::new("a/b")).unwrap()));
        assert_eq!(open("").unwrap(), identity(&resolve(root.as_fd(), Path::new("/")).unwrap()));
        for path in ["link", "link/b", "..", "a/../a", "none"] {
            assert!(open(path).is_err(), "{path}");
        }
    }

    #[test]
    fn missing_parts_are_made_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("../run/x/resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
        let fd = openat(rustix::fs::CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let path = Path::new("/etc/resolv.conf");
        let mut asked = Vec::new();
        let mut before = |p: &Path| asked.push(p.to_owned());
        let (_, made) = resolve_or_create(fd.as_fd(), path, Missing::File, &mut before).unwrap();
        assert_eq!(made.unwrap().paths, ["run", "run/x", "run/x/resolv.conf"].map(PathBuf::from));
        assert!(dir.path().join("run/x/resolv.conf").is_file());
        let (_, made) = resolve_or_create(fd.as_fd(), path, Missing::File, &mut before).unwrap();
        assert_eq!(made, None);
        assert_eq!(asked, [PathBuf::new()]);
    }
}
