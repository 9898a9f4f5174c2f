//! Metadata and extended attributes.

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::tree::{At, Node};
use super::{Overlay, Result};

const OVERLAY: &[u8] = b"user.overlay.";
const CAPABILITY: &str = "security.capability";
/// The kernel's bound for a value and for a list of names.
const LONGEST: usize = 64 << 10;

/// What a change of metadata sets.
#[derive(Default)]
pub(super) struct Change {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub times: Option<Timestamps>,
}

/// The name of an attribute on disk, as a step sees it; `None` for overlayfs' own marks.
pub(super) fn shown(disk: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(rest) = disk.strip_prefix(OVERLAY) else { return Some(Cow::Borrowed(disk)) };
    let inner = rest.strip_prefix(b"overlay.")?;
    Some(Cow::Owned([OVERLAY, inner].concat()))
}

/// The name on disk of an attribute that a step names.
fn stored(name: &OsStr) -> Cow<'_, OsStr> {
    match name.as_bytes().strip_prefix(OVERLAY) {
        Some(rest) => {
            let mut stored = OsString::from("user.overlay.overlay.");
            stored.push(OsStr::from_bytes(rest));
            Cow::Owned(stored)
        }
        None => Cow::Borrowed(name),
    }
}

impl Overlay {
    /// Metadata on disk.
    pub fn stat(&self, node: &Node) -> Result<Stat> {
        let place = node.place();
        match &place.at {
            At::Gone(stat) => Ok(without_names(**stat)),
            At::LostUpper(fd) => rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH),
            At::LostLower(path) => {
                let layer = self.lower(*node.lowers.first().ok_or(Errno::STALE)?)?;
                layer.stat(path)?.ok_or(Errno::STALE).map(without_names)
            }
            At::Lower | At::Upper => {
                let _still = self.still();
                let path = self.tree().path(node.id)?;
                self.stat_at(node, &path)
            }
        }
    }

    /// Changes metadata.
    pub fn change(&self, node: &Node, change: &Change) -> Result<()> {
        self.copy_up(node)?;
        let place = node.place();
        match &place.at {
            At::LostUpper(fd) => {
                // Also of a file that cannot be opened; the link leads to it and nowhere else.
                let link = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
                apply((rustix::fs::CWD, &link), change, AtFlags::empty())
            }
            At::Upper => {
                let _still = self.still();
                let path = self.tree().path(node.id)?;
                self.upper.at(&path, |dir, path| apply((dir, path), change, AtFlags::SYMLINK_NOFOLLOW))
            }
            At::Gone(_) => Ok(()),
            At::Lower | At::LostLower(_) => Err(Errno::STALE),
        }
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        let place = node.place();
        let target = match &place.at {
            At::Gone(_) => return Err(Errno::NOENT),
            At::LostUpper(fd) => rustix::fs::readlinkat(fd, "", Vec::new())?,
            at => {
                let _still = self.still();
                let path = match at {
                    At::LostLower(path) => path.clone(),
                    _ => self.tree().path(node.id)?,
                };
                let layer = match node.lowers.first() {
                    Some(index) if !node.is_upper() => self.lower(*index)?,
                    _ => &self.upper,
                };
                layer.at(&path, |dir, path| rustix::fs::readlinkat(dir, path, Vec::new()))?
            }
        };
        Ok(target.into_bytes())
    }

    /// The value of an attribute.
    pub fn get_xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        if !has_xattrs(node) || name == CAPABILITY && node.place().no_caps {
            return Err(Errno::NODATA);
        }
        let fd = self.described(node)?;
        let mut value = Vec::new();
        match rustix::fs::fgetxattr(&*fd, &*stored(name), rustix::buffer::spare_capacity(reserve(&mut value))) {
            Err(Errno::NODATA) if name == CAPABILITY => {
                node.place().no_caps = true;
                Err(Errno::NODATA)
            }
            Err(e) => Err(e),
            Ok(_) => Ok(value),
        }
    }

    /// The names of all attributes, each ended by a zero byte.
    pub fn list_xattrs(&self, node: &Node) -> Result<Vec<u8>> {
        if !has_xattrs(node) {
            return Ok(Vec::new());
        }
        let fd = self.described(node)?;
        let mut list = Vec::new();
        match rustix::fs::flistxattr(&*fd, rustix::buffer::spare_capacity(reserve(&mut list))) {
            Ok(_) => {}
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
        let mut out = Vec::with_capacity(list.len());
        for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            if let Some(name) = shown(name) {
                out.extend_from_slice(&name);
                out.push(0);
            }
        }
        Ok(out)
    }

    pub fn set_xattr(&self, node: &Node, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        if !has_xattrs(node) {
            return Err(Errno::OPNOTSUPP);
        }
        let flags = XattrFlags::from_bits(u32::from_ne_bytes(flags.to_ne_bytes())).ok_or(Errno::INVAL)?;
        self.copy_up(node)?;
        let fd = self.file(node, !node.is_dir())?;
        rustix::fs::fsetxattr(&*fd, &*stored(name), value, flags)?;
        self.forget_xattrs(node);
        Ok(())
    }

    pub fn remove_xattr(&self, node: &Node, name: &OsStr) -> Result<()> {
        // Without a copy for nothing.
        self.get_xattr(node, name)?;
        self.copy_up(node)?;
        let fd = self.file(node, !node.is_dir())?;
        rustix::fs::fremovexattr(&*fd, &*stored(name))?;
        self.forget_xattrs(node);
        Ok(())
    }

    fn forget_xattrs(&self, node: &Node) {
        let mut place = node.place();
        place.no_caps = false;
        place.default_acl = None;
    }

    /// Free space.
    pub fn space(&self) -> Result<rustix::fs::StatVfs> {
        rustix::fs::fstatvfs(self.upper.root())
    }
}

fn reserve(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
    buffer.reserve(LONGEST);
    buffer
}

fn has_xattrs(node: &Node) -> bool {
    matches!(node.kind, FileType::RegularFile | FileType::Directory)
}

fn without_names(mut stat: Stat) -> Stat {
    stat.st_nlink = 0;
    stat
}

fn apply((dir, path): (BorrowedFd<'_>, &Path), change: &Change, flags: AtFlags) -> Result<()> {
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
        rustix::fs::chownat(dir.as_fd(), path, uid, gid, flags)?;
    }
    // The kernel never asks for the mode of a symbolic link.
    if let Some(mode) = change.mode {
        rustix::fs::chmodat(dir.as_fd(), path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    }
    if let Some(times) = &change.times {
        rustix::fs::utimensat(dir.as_fd(), path, times, flags)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attributes_go_there_and_back() {
        for (seen, disk) in [("user.a", "user.a"), ("user.overlay.opaque", "user.overlay.overlay.opaque")] {
            assert_eq!(stored(OsStr::new(seen)), OsStr::new(disk));
            assert_eq!(shown(disk.as_bytes()).as_deref(), Some(seen.as_bytes()));
        }
        assert_eq!(shown(b"user.overlay.origin"), None);
    }
}
