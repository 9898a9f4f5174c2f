//! Copying a lower file into the upper directory, before its first change.
//!
//! The copy is made in the work directory and then renamed to its place, so it is there as a whole or not at all. Its
//! parents come first; their times stay as they were.

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::layers::Layer;
use super::tree::{At, Node};
use super::{Overlay, Result};

const NAME_LIST: usize = 64 << 10;
const CHUNK: usize = 1 << 20;

/// overlayfs' mark of a copy; empty, as where the origin has no handle.
const ORIGIN: &str = "user.overlay.origin";

impl Overlay {
    /// Makes sure that a node is in the upper directory.
    pub fn copy_up(&self, node: &Node) -> Result<()> {
        self.copy_up_part(node, u64::MAX)
    }

    /// As [`Overlay::copy_up`], with no more than the first `bytes` of a file.
    pub fn copy_up_part(&self, node: &Node, bytes: u64) -> Result<()> {
        if node.is_upper() {
            return Ok(());
        }
        let parents = self.tree().lower_parents(node.id);
        for dir in parents.iter().rev() {
            self.copy_one(dir, 0)?;
        }
        self.copy_one(node, bytes)
    }

    fn copy_one(&self, node: &Node, bytes: u64) -> Result<()> {
        let mut place = node.place();
        if node.is_upper() {
            return Ok(());
        }
        let layer = self.lower(*node.lowers.first().ok_or(Errno::STALE)?)?;
        let path = match &place.at {
            At::Lower => self.tree().path(node.id)?,
            At::LostLower(path) => path.clone(),
            At::Upper | At::LostUpper(_) | At::Gone(_) => return Err(Errno::STALE),
        };
        let stat = layer.stat(&path)?.ok_or(Errno::STALE)?;
        let fresh = self.fresh();
        let copied = self.copy(layer, &path, &stat, &fresh, bytes).and_then(|fd| match place.at {
            At::Lower => self.publish(&fresh, &path, node, stat.st_nlink > 1).map(|()| None),
            // A file that is open, but has no name any more.
            _ => Ok(fd.map(Arc::new)),
        });
        let nameless = match copied {
            Ok(nameless) => nameless,
            Err(e) => {
                let flags = if node.is_dir() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let _ = rustix::fs::unlinkat(self.work.root(), &fresh, flags);
                return Err(e);
            }
        };
        if let At::LostLower(_) = place.at {
            rustix::fs::unlinkat(self.work.root(), &fresh, AtFlags::empty())?;
            place.at = At::LostUpper(nameless.ok_or(Errno::STALE)?);
            node.set_upper();
        } else {
            place.at = At::Upper;
        }
        place.default_acl = None;
        self.files().remove(node.id);
        Ok(())
    }

    /// Moves a finished copy to its place, and gives the parent the times that it had. `shared`: other names of the lower
    /// file stay with that.
    fn publish(&self, fresh: &Path, path: &Path, node: &Node, shared: bool) -> Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let _moving = self.moving();
        let before = self.upper.stat(parent)?.ok_or(Errno::STALE)?;
        let ino = self.work.stat(fresh)?.ok_or(Errno::STALE)?.st_ino;
        self.upper.at(path, |dir, name| rustix::fs::renameat(self.work.root(), fresh, dir, name))?;
        self.tree().copied_up(node, ino, shared);
        self.upper.at(parent, |dir, path| rustix::fs::utimensat(dir, path, &times(&before), AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Copies a lower file to `fresh` in the work directory. The answer is open for reading and writing, of a regular file.
    fn copy(&self, layer: &Layer, path: &Path, stat: &Stat, fresh: &Path, bytes: u64) -> Result<Option<OwnedFd>> {
        let work = self.work.root();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        match kind {
            FileType::RegularFile | FileType::Directory => {
                let from = layer.open_at(path, OFlags::RDONLY)?;
                let to = if kind == FileType::Directory {
                    rustix::fs::mkdirat(work, fresh, Mode::RWXU)?;
                    self.work.open_at(fresh, OFlags::RDONLY | OFlags::DIRECTORY)?
                } else {
                    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let to = rustix::fs::openat(work, fresh, flags, Mode::RUSR | Mode::WUSR)?;
                    let bytes = u64::try_from(stat.st_size).unwrap_or(0).min(bytes);
                    if bytes > 0 && layer.is_skeleton() {
                        copy_data(&layer.open_contents(path)?, &to, bytes)?;
                    } else {
                        copy_data(&from, &to, bytes)?;
                    }
                    to
                };
                // In this order: a change of owner drops capabilities and set-id bits.
                rustix::fs::fchown(&to, owner.0, owner.1)?;
                copy_xattrs(&from, &to)?;
                rustix::fs::fchmod(&to, mode)?;
                rustix::fs::fsetxattr(&to, ORIGIN, b"", XattrFlags::empty())?;
                rustix::fs::futimens(&to, &times(stat))?;
                Ok((kind == FileType::RegularFile).then_some(to))
            }
            FileType::Symlink => {
                let target = layer.at(path, |dir, path| rustix::fs::readlinkat(dir, path, Vec::new()))?;
                rustix::fs::symlinkat(&target, work, fresh)?;
                self.finish_named(fresh, stat, owner)
            }
            FileType::Fifo | FileType::Socket => {
                rustix::fs::mknodat(work, fresh, kind, mode, 0)?;
                self.finish_named(fresh, stat, owner)
            }
            // Layers have no devices.
            _ => Err(Errno::PERM),
        }
    }

    fn finish_named(&self, fresh: &Path, stat: &Stat, owner: (Option<Uid>, Option<Gid>)) -> Result<Option<OwnedFd>> {
        let work = self.work.root();
        rustix::fs::chownat(work, fresh, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(work, fresh, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        rustix::fs::utimensat(work, fresh, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(None)
    }
}

/// Times of access and modification.
pub(super) fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = |n: u64| i64::try_from(n).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    }
}

/// Copies the first `size` bytes: by sharing them where the file system can, else without the holes.
fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return rustix::fs::ftruncate(to, size);
    }
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system that does not tell holes.
            Err(_) => at,
        };
        let end = match rustix::fs::seek(from, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(size),
            _ => size,
        };
        copy_range(from, to, start, end)?;
        at = end.max(start);
    }
    rustix::fs::ftruncate(to, size)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let mut at = start;
    while at < end {
        let (mut source, mut target) = (at, at);
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            Ok(0) => return Ok(()),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => break,
            Err(e) => return Err(e),
        }
    }
    let mut buffer = vec![0; CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK))];
    while at < end {
        let left = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let piece = buffer.get_mut(..left).unwrap_or_default();
        match rustix::io::pread(from, piece, at) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                super::data::write_all(to, buffer.get(..n).unwrap_or_default(), at)?;
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Copies what a step can see of the attributes, and access control lists.
fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let mut list = vec![0; NAME_LIST];
    let length = match rustix::fs::flistxattr(from, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut value = Vec::new();
    for name in list.get(..length).unwrap_or_default().split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if super::attrs::shown(name.to_bytes()).is_none() {
            continue;
        }
        value.resize(NAME_LIST, 0);
        let length = match rustix::fs::fgetxattr(from, name, &mut value[..]) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e),
        };
        match rustix::fs::fsetxattr(to.as_fd(), name, value.get(..length).unwrap_or_default(), XattrFlags::empty()) {
            Ok(()) => {}
            // The machine's own, such as SELinux labels.
            Err(Errno::OPNOTSUPP | Errno::PERM) if !name.to_bytes().starts_with(b"user.") => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
