//! Metadata as the disk has it: owner, mode, time and attributes are carried over without a look at what an image means by
//! them, so that what is recorded of a path holds for the copy, too.

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use crate::archive::node;
use crate::sys::idmap::IdMap;

/// Extended attributes under the names that a step uses.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

const OVERLAY: &[u8] = b"user.overlay.";
const ESCAPED: &[u8] = b"user.overlay.overlay.";
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Owner, mode and time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Basics {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub mtime: node::Time,
}

impl Basics {
    pub fn of(stat: &Stat) -> Basics {
        let mtime = node::Time { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 };
        Basics { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, mtime }
    }
}

/// The attributes of a file of a layer directory, where overlayfs' own stand among them and a step's are escaped.
pub(super) fn of_layer(fd: impl AsFd) -> Result<Attributes, Errno> {
    read(fd, |name| match name.strip_prefix(ESCAPED) {
        Some(rest) => Some([OVERLAY, rest].concat()),
        None => (!name.starts_with(OVERLAY)).then(|| name.to_vec()),
    })
}

/// The attributes of a file of a tree.
pub(super) fn of_tree(fd: impl AsFd) -> Result<Attributes, Errno> {
    read(fd, |name| Some(name.to_vec()))
}

fn read(fd: impl AsFd, seen: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Result<Attributes, Errno> {
    let mut all = Attributes::new();
    for (name, value) in node::raw_xattrs(fd.as_fd())? {
        let kept = name.starts_with(b"user.") || name == b"security.capability" || LISTS.contains(&name.as_slice());
        if let Some(name) = seen(&name).filter(|_| kept) {
            all.insert(name, value);
        }
    }
    Ok(all)
}

/// Gives an open file of a layer directory the attributes of a step's file.
pub(super) fn set_in_layer(fd: impl AsFd, all: &Attributes) -> Result<(), Errno> {
    all.iter().try_for_each(|(name, value)| match name.strip_prefix(OVERLAY) {
        Some(rest) => set(&fd, &[ESCAPED, rest].concat(), value),
        None => set(&fd, name, value),
    })
}

/// Gives an open file of a tree its attributes.
pub(super) fn set_in_tree(fd: impl AsFd, all: &Attributes) -> Result<(), Errno> {
    all.iter().try_for_each(|(name, value)| set(&fd, name, value))
}

fn set(fd: impl AsFd, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        // An access list names ids that this namespace does not have. It is in no layer.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) if LISTS.contains(&name) => Ok(()),
        other => other,
    }
}

/// Sets owner, mode, attributes and time of an open file, in the order in which none undoes another.
pub(super) fn apply(
    fd: impl AsFd,
    basics: &Basics,
    map: &IdMap,
    attributes: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    if matches!(map, IdMap::Ranged { .. }) {
        rustix::fs::fchown(&fd, Some(Uid::from_raw(basics.uid)), Some(Gid::from_raw(basics.gid)))?;
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(basics.mode))?;
    attributes()?;
    rustix::fs::futimens(&fd, &times(basics))
}

/// The same for what cannot be opened: a link, a pipe, a socket.
pub(super) fn apply_named(dir: &OwnedFd, name: &OsStr, basics: &Basics, map: &IdMap, link: bool) -> Result<(), Errno> {
    if matches!(map, IdMap::Ranged { .. }) {
        let (uid, gid) = (Some(Uid::from_raw(basics.uid)), Some(Gid::from_raw(basics.gid)));
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !link {
        // Made a moment ago, and nobody else is there: nothing to follow.
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(basics.mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(dir, name, &times(basics), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(basics: &Basics) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: basics.mtime.sec, tv_nsec: basics.mtime.nsec.into() },
    }
}

/// Takes from a new directory what a volume gives to what is made in it: a group, and an access list that would go on.
pub(super) fn forget_parent(fd: &OwnedFd, map: &IdMap) -> Result<(), Errno> {
    for list in LISTS {
        match rustix::fs::fremovexattr(fd, list) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    let group = match map {
        IdMap::Plain => rustix::process::getegid(),
        IdMap::Ranged { .. } | IdMap::One => Gid::from_raw(0),
    };
    rustix::fs::fchown(fd, None, Some(group))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(0o755))
}
