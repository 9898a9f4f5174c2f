//! Giving a new file its owner, mode, extended attributes and time; what the disk cannot hold is returned as a
//! [`Record`].
//!
//! The order matters: a chown clears set-id bits and file capabilities, so the mode comes second and the attributes
//! third; the time comes last, as everything else touches it. Modes are always forced, because the process' umask, a
//! set-group-id parent or its default ACL would change them.

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::node::{self, Kind, Time, Xattrs};
use super::record::{Device, Record};
use crate::sys::idmap::IdMap;

/// The metadata that a file is to have, as the image means it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attrs {
    /// Permissions, set-id and sticky bits: 12 bits. Ignored for symbolic links.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification; `None` leaves the time of making.
    pub mtime: Option<Time>,
    /// Extended attributes, under the names that the image gives them. Those that layers do not carry are dropped.
    pub xattrs: Xattrs,
}

impl Attrs {
    /// A directory or file that belongs to 0:0.
    pub fn root(mode: u32, mtime: Option<Time>) -> Attrs {
        Attrs { mode, mtime, ..Attrs::default() }
    }
}

/// The file to change: open, or by its name in an open directory where it cannot be opened (links, pipes).
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a OsStr),
}

/// The mode that the disk gets: without a user namespace the builder has to be able to read and change its files, and
/// set-id bits would act for the builder's own user.
pub(super) fn disk_mode(mode: u32, kind: Kind, map: &IdMap) -> u32 {
    match (map, kind) {
        (IdMap::Plain, Kind::Dir) => (mode & 0o1777) | 0o700,
        (IdMap::Plain, _) => (mode & 0o777) | 0o600,
        _ => mode & 0o7777,
    }
}

/// Applies everything but the time of a directory (its later entries would change it). `made_with` is the mode that
/// the file is known to have already.
///
/// # Errors
/// The first system call that fails for a reason other than one that a record makes up for.
pub(super) fn apply(
    target: Target<'_>,
    kind: Kind,
    attrs: &Attrs,
    map: &IdMap,
    made_with: Option<u32>,
) -> Result<Record, Errno> {
    let mut record = Record::default();
    match kind {
        Kind::Char(major, minor) => record.device = Some(Device::Char(major, minor)),
        Kind::Block(major, minor) => record.device = Some(Device::Block(major, minor)),
        _ => {}
    }
    own(target, attrs, map, &mut record)?;
    if kind != Kind::Symlink {
        let mode = disk_mode(attrs.mode, kind, map);
        if made_with != Some(mode) {
            set_mode(target, mode)?;
        }
        if mode != attrs.mode & 0o7777 {
            record.mode = Some(attrs.mode & 0o7777);
        }
    }
    for (name, value) in &attrs.xattrs {
        if node::xattr_carried(name) && !set_xattr(target, name, value)? {
            record.xattrs.insert(name.clone(), value.clone());
        }
    }
    if kind != Kind::Dir
        && let Some(mtime) = attrs.mtime
    {
        set_mtime(target, mtime)?;
    }
    Ok(record)
}

fn own(target: Target<'_>, attrs: &Attrs, map: &IdMap, record: &mut Record) -> Result<(), Errno> {
    let (uid, gid) = (map.can_own(attrs.uid, 0), map.can_own(0, attrs.gid));
    if !uid {
        record.uid = Some(attrs.uid);
    }
    if !gid {
        record.gid = Some(attrs.gid);
    }
    if matches!(map, IdMap::Ranged { .. }) {
        let uid = Some(Uid::from_raw(if uid { attrs.uid } else { 0 }));
        let gid = Some(Gid::from_raw(if gid { attrs.gid } else { 0 }));
        match target {
            Target::Open(fd) => rustix::fs::fchown(fd, uid, gid)?,
            Target::Named(dir, name) => rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?,
        }
    }
    Ok(())
}

fn set_mode(target: Target<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match target {
        Target::Open(fd) => rustix::fs::fchmod(fd, mode),
        // Only pipes come here, made a moment ago: nothing to follow.
        Target::Named(dir, name) => rustix::fs::chmodat(dir, name, mode, AtFlags::empty()),
    }
}

/// Sets one attribute; `false` where it has to be recorded instead.
fn set_xattr(target: Target<'_>, name: &[u8], value: &[u8]) -> Result<bool, Errno> {
    let Target::Open(fd) = target else { return Ok(false) };
    let value = if name == b"security.capability" { node::capability_v2(value.to_vec()) } else { value.to_vec() };
    match rustix::fs::fsetxattr(fd, node::xattr_to_disk(name), &value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        // Refused by kind of file, file system, privilege, or the room that the file system has for attributes.
        Err(
            Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL,
        ) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Sets the time of last modification and leaves that of last access.
pub(super) fn set_mtime(target: Target<'_>, mtime: Time) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() },
    };
    match target {
        Target::Open(fd) => rustix::fs::futimens(fd, &times),
        Target::Named(dir, name) => rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// Marks an open directory as hiding what lower layers have in it; `false` where that has to be recorded.
pub(super) fn set_opaque(dir: impl AsFd) -> Result<bool, Errno> {
    match rustix::fs::fsetxattr(dir, "user.overlay.opaque", b"y", XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The mode that `open` gives to a new file in a directory without a default ACL, when asked for `mode`.
pub(super) fn created_mode(mode: u32) -> Option<u32> {
    // The umask can be read without changing it only here. It does not change while rbuild runs.
    static UMASK: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    let umask = UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    });
    umask.map(|umask| mode & 0o777 & !umask)
}

/// Flags to make a regular file: never an existing one, never through a link.
pub(super) const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
