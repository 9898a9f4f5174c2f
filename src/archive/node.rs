//! One file of a tree: its kind, metadata and extended attributes, as an image means them.

use rustix::fs::{FileType, Stat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::record::{Device, Record};
use crate::sys::idmap::IdMap;

/// Extended attributes by name, of those that layers carry: `user.*` and `security.capability`.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A point in time since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, less than 10⁹.
    pub nsec: u32,
}

impl Time {
    /// A whole second.
    pub const fn seconds(sec: i64) -> Time {
        Time { sec, nsec: 0 }
    }
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket; no layer carries one.
    Socket,
    /// Character device with its major and minor number.
    Char(u32, u32),
    /// Block device with its major and minor number.
    Block(u32, u32),
}

/// Metadata of a file, with records applied: what a process of the image would see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Permissions, set-id and sticky bits: 12 bits.
    pub mode: u32,
    /// Owner, as the image numbers it.
    pub uid: u32,
    /// Group, as the image numbers it.
    pub gid: u32,
    /// Bytes of a regular file, length of a link's target, else 0.
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
    /// Number of names on disk (for directories meaningless).
    pub nlink: u64,
    /// Inode on disk; with `dev` it tells hardlinks.
    pub ino: u64,
    /// Device on disk.
    pub dev: u64,
}

/// What the disk itself says of an owner and a mode, before records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl Disk {
    pub(crate) fn of(stat: &Stat) -> Disk {
        Disk { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }
}

/// A file in one layer of a [`Merged`](super::merged::Merged) view.
#[derive(Debug, Clone)]
pub struct Node {
    /// Index of the layer that it comes from (of a directory: the uppermost), lowest layer 0.
    pub layer: usize,
    /// Path relative to the root, without a leading `/`, clean; empty for the root.
    pub path: PathBuf,
    /// Metadata.
    pub meta: Meta,
    pub(crate) disk: Disk,
    pub(crate) record: Option<Arc<Record>>,
}

impl Node {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.meta.kind == Kind::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.meta.kind == Kind::File
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.meta.kind == Kind::Symlink
    }
}

/// What a `stat` shows: a file of a type that the kernel does not name counts as a regular one.
pub(crate) fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::Char(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        FileType::BlockDevice => Kind::Block(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}

/// Metadata from a `stat` and the record of the same path.
pub(crate) fn meta(stat: &Stat, record: Option<&Record>, map: &IdMap) -> Meta {
    let kind = kind_of(stat);
    let (uid, gid) = match map {
        IdMap::Ranged { .. } => (stat.st_uid, stat.st_gid),
        IdMap::One | IdMap::Plain => (0, 0),
    };
    let size = match kind {
        Kind::File | Kind::Symlink => u64::try_from(stat.st_size).unwrap_or(0),
        _ => 0,
    };
    let mut meta = Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid,
        gid,
        size,
        mtime: Time { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 },
        nlink: stat.st_nlink,
        ino: stat.st_ino,
        dev: stat.st_dev,
    };
    if let Some(record) = record {
        meta.uid = record.uid.unwrap_or(meta.uid);
        meta.gid = record.gid.unwrap_or(meta.gid);
        meta.mode = record.mode.unwrap_or(meta.mode);
        match record.device {
            Some(Device::Char(major, minor)) => meta.kind = Kind::Char(major, minor),
            Some(Device::Block(major, minor)) => meta.kind = Kind::Block(major, minor),
            None => {}
        }
        if record.device.is_some() {
            meta.size = 0;
        }
    }
    meta
}

/// A path relative to the root without `.`, `..`, doubled or leading slashes; `..` never leaves the root. Purely
/// lexical, as Docker cleans names of archive entries.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// The path to hand to an `*at` call on the root's descriptor: `.` for the root itself.
pub(crate) fn at(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

const OVERLAY: &[u8] = b"user.overlay.";

/// The name that an image gives to an xattr found on disk; `None` for one that no layer carries.
///
/// overlayfs keeps its own marks under `user.overlay.`, and stores what a process writes under that name as
/// `user.overlay.overlay.`.
pub(crate) fn xattr_from_disk(name: &[u8]) -> Option<Vec<u8>> {
    if let Some(rest) = name.strip_prefix(OVERLAY) {
        let inner = rest.strip_prefix(b"overlay.")?;
        return Some([OVERLAY, inner].concat());
    }
    xattr_carried(name).then(|| name.to_vec())
}

/// The name under which an image's xattr is stored on disk: the inverse of [`xattr_from_disk`].
pub(crate) fn xattr_to_disk(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => [OVERLAY, b"overlay.", rest].concat(),
        None => name.to_vec(),
    }
}

/// Whether layers carry an xattr of this name: `user.*` and `security.capability`, as with buildah. Access control
/// lists, SELinux labels, `trusted.*` and other systems' names belong to the machine, not to the image, and the owner's
/// mark to the store.
pub(crate) fn xattr_carried(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && name.len() > 5 && name != OWNER.as_bytes())
}

/// The mark of a file that has several names and a recorded owner: `uid:gid`. When a step writes to such a file, overlayfs
/// makes a copy that shares nothing with it, not even the number, but its attributes.
const OWNER: &str = "user.rbuild.owner";

/// Marks an open file with its recorded owner. A file system that takes no attributes loses the owner of such copies.
pub(crate) fn mark_owner(fd: impl AsFd, uid: u32, gid: u32) {
    let _ = rustix::fs::fsetxattr(fd, OWNER, format!("{uid}:{gid}").as_bytes(), rustix::fs::XattrFlags::empty());
}

/// Takes the mark of an owner out of attributes.
pub(crate) fn take_owner(all: &mut Xattrs) {
    all.remove(OWNER.as_bytes());
}

/// The owner that an open file is marked with.
pub(crate) fn owner_mark(fd: impl AsFd) -> Option<(u32, u32)> {
    let mut value = [0; 32];
    let length = rustix::fs::fgetxattr(fd, OWNER, &mut value).ok()?;
    // A step may have written anything there.
    let text = std::str::from_utf8(value.get(..length)?).ok()?;
    let (uid, gid) = text.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// A file capability in its version 2 form. The kernel shows version 3, with the root id of a user namespace, where
/// that namespace is not the reader's; the id means nothing on another machine.
pub(crate) fn capability_v2(value: Vec<u8>) -> Vec<u8> {
    const V3: u8 = 3;
    const V3_LEN: usize = 24;
    let mut value = value;
    if value.len() == V3_LEN && value.get(3) == Some(&V3) {
        value.truncate(20);
        if let Some(version) = value.get_mut(3) {
            *version = 2;
        }
    }
    value
}

/// All carried xattrs of an open file.
pub(crate) fn read_xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Xattrs> {
    let mut out = Xattrs::new();
    for (name, value) in xattrs_named(fd, |name| xattr_from_disk(name).is_some())? {
        let Some(seen) = xattr_from_disk(&name) else { continue };
        let value = if seen == b"security.capability" { capability_v2(value) } else { value };
        out.insert(seen, value);
    }
    Ok(out)
}

/// All xattrs of an open file, under their names on disk.
pub(crate) fn raw_xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Xattrs> {
    xattrs_named(fd, |_| true)
}

fn xattrs_named(fd: BorrowedFd<'_>, wanted: impl Fn(&[u8]) -> bool) -> rustix::io::Result<Xattrs> {
    let mut out = Xattrs::new();
    let list = match grow(256, |buf| rustix::fs::flistxattr(fd, buf)) {
        Ok(list) => list,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NODATA) => return Ok(out),
        Err(e) => return Err(e),
    };
    for name in list.split(|b| *b == 0).filter(|n| !n.is_empty() && wanted(n)) {
        match grow(256, |buf| rustix::fs::fgetxattr(fd, name, buf)) {
            Ok(value) => out.insert(name.to_vec(), value),
            Err(rustix::io::Errno::NODATA) => None,
            Err(e) => return Err(e),
        };
    }
    Ok(out)
}

/// Calls `read` with a buffer that grows until the answer fits.
fn grow(start: usize, mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    const LARGEST: usize = 1 << 17; // the kernel's bounds are 64 KiB for a value and for a list
    let mut buf = vec![0; start];
    loop {
        match read(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(rustix::io::Errno::RANGE) if buf.len() < LARGEST => buf.resize(buf.len() * 8, 0),
            Err(e) => return Err(e),
        }
    }
}

/// The bytes of a path.
pub(crate) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path of these bytes.
pub(crate) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_never_leaves_the_root() {
        for (dirty, want) in [
            ("/a//b/./c", "a/b/c"),
            ("../../x", "x"),
            ("/..", ""),
            ("a/b/../../..", ""),
            ("localetc/sub/..", "localetc"),
            ("./", ""),
        ] {
            assert_eq!(clean(Path::new(dirty)), Path::new(want), "{dirty}");
        }
    }

    #[test]
    fn overlay_marks_are_hidden_and_escaped_names_return() {
        assert_eq!(xattr_from_disk(b"user.overlay.origin"), None);
        assert_eq!(xattr_from_disk(b"user.overlay.overlay.opaque"), Some(b"user.overlay.opaque".to_vec()));
        assert_eq!(xattr_to_disk(b"user.overlay.opaque"), b"user.overlay.overlay.opaque");
        for name in [b"user.a".as_slice(), b"security.capability", b"user.overlay.x"] {
            assert_eq!(xattr_from_disk(&xattr_to_disk(name)).as_deref(), Some(name));
        }
        for name in [b"security.selinux".as_slice(), b"trusted.overlay.opaque", b"system.posix_acl_access"] {
            assert_eq!(xattr_from_disk(name), None);
        }
    }

    #[test]
    fn version_3_capabilities_lose_their_root_id() {
        let mut v3 = vec![1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        v3.extend(1000u32.to_le_bytes());
        let v2 = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(capability_v2(v3), v2);
        assert_eq!(capability_v2(v2.clone()), v2);
    }
}
