//! Contents of files.
//!
//! The kernel opens and closes without telling, so descriptors are kept for a while, at most [`KEPT`] of them. All who
//! have a file open share one descriptor; a copy-up replaces it.

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::tree::{At, Node};
use super::{Overlay, Result};

/// Descriptors that are kept.
const KEPT: usize = 128;

/// Files that were used lately.
#[derive(Default)]
pub(super) struct Files {
    open: HashMap<u64, Open>,
    clock: u64,
}

struct Open {
    fd: Arc<OwnedFd>,
    writable: bool,
    used: u64,
}

impl Files {
    fn get(&mut self, id: u64, write: bool) -> Option<Arc<OwnedFd>> {
        self.clock += 1;
        let open = self.open.get_mut(&id).filter(|open| open.writable || !write)?;
        open.used = self.clock;
        Some(open.fd.clone())
    }

    fn insert(&mut self, id: u64, fd: Arc<OwnedFd>, writable: bool) {
        if self.open.len() >= KEPT {
            // A quarter at once, so that this is rare.
            let mut ages: Vec<u64> = self.open.values().map(|open| open.used).collect();
            let (_, limit, _) = ages.select_nth_unstable(KEPT / 4);
            let limit = *limit;
            self.open.retain(|_, open| open.used > limit);
        }
        self.clock += 1;
        self.open.insert(id, Open { fd, writable, used: self.clock });
    }

    /// Lets go of a file.
    pub fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }
}

impl Overlay {
    pub fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor of a regular file or a directory; for writing it is copied up before.
    pub fn file(&self, node: &Node, write: bool) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.files().get(node.id, write) {
            return Ok(fd);
        }
        if write {
            self.copy_up(node)?;
        }
        // Held until the descriptor is kept: a copy-up must not come between.
        let place = node.place();
        let flags = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = match &place.at {
            At::LostUpper(fd) => return Ok(fd.clone()),
            At::Gone(_) => return Err(Errno::STALE),
            At::LostLower(path) => self.lower(*node.lowers.first().ok_or(Errno::STALE)?)?.open_contents(path)?,
            At::Lower => {
                let layer = self.lower(*node.lowers.first().ok_or(Errno::STALE)?)?;
                let path = self.tree().path(node.id)?;
                layer.open_contents(&path)?
            }
            At::Upper => {
                let _still = self.still();
                let path = self.tree().path(node.id)?;
                self.upper.open_at(&path, flags)?
            }
        };
        let fd = Arc::new(fd);
        if !node.is_dir() {
            self.files().insert(node.id, fd.clone(), write);
        }
        Ok(fd)
    }

    /// A descriptor of a regular file or a directory that has its attributes; its contents may be elsewhere.
    pub fn described(&self, node: &Node) -> Result<Arc<OwnedFd>> {
        if node.kind == FileType::RegularFile && !node.is_upper() {
            let layer = self.lower(*node.lowers.first().ok_or(Errno::STALE)?)?;
            let place = node.place();
            let path = match &place.at {
                At::Lower if layer.is_skeleton() => Some(self.tree().path(node.id)?),
                At::LostLower(path) if layer.is_skeleton() => Some(path.clone()),
                _ => None,
            };
            if let Some(path) = path {
                return Ok(Arc::new(layer.open_at(&path, OFlags::RDONLY)?));
            }
        }
        self.file(node, false)
    }

    /// Keeps the descriptor of a file that was just made.
    pub fn keep(&self, node: &Node, fd: OwnedFd) {
        let _place = node.place();
        self.files().insert(node.id, Arc::new(fd), true);
    }

    /// Reads into `buffer` until it is full or the file ends; the answer is how much.
    pub fn read(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let fd = self.file(node, false)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&fd, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Writes as much as there is room for; the answer is how much. What did not fit is an error of the next write.
    pub fn write(&self, node: &Node, offset: u64, data: &[u8], drop_set_id: bool) -> Result<usize> {
        let fd = self.file(node, true)?;
        let done = match write_some(&*fd, data, offset) {
            (0, Some(e)) => return Err(e),
            (done, _) => done,
        };
        if drop_set_id {
            drop_set_ids(&*fd)?;
        }
        Ok(done)
    }

    pub fn truncate(&self, node: &Node, size: u64, drop_set_id: bool) -> Result<()> {
        self.copy_up_part(node, size)?;
        let fd = self.file(node, true)?;
        rustix::fs::ftruncate(&fd, size)?;
        if drop_set_id { drop_set_ids(&*fd) } else { Ok(()) }
    }

    pub fn allocate(&self, node: &Node, mode: i32, offset: u64, length: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(u32::from_ne_bytes(mode.to_ne_bytes()));
        rustix::fs::fallocate(self.file(node, true)?, mode, offset, length)
    }

    pub fn seek(&self, node: &Node, offset: i64, whence: i32) -> Result<i64> {
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let at = rustix::fs::seek(self.file(node, false)?, to)?;
        i64::try_from(at).map_err(|_| Errno::OVERFLOW)
    }

    pub fn copy_range(&self, from: (&Node, u64), to: (&Node, u64), length: u64) -> Result<u32> {
        const LONGEST: u64 = 1 << 30;
        let target = self.file(to.0, true)?;
        let source = self.file(from.0, false)?;
        let (mut at, mut into) = (from.1, to.1);
        let length = usize::try_from(length.min(LONGEST)).unwrap_or(0);
        let copied = rustix::fs::copy_file_range(source, Some(&mut at), target, Some(&mut into), length)?;
        u32::try_from(copied).map_err(|_| Errno::OVERFLOW)
    }
}

/// As the kernel does when somebody without CAP_FSETID changes a file. The server itself has it.
fn drop_set_ids(fd: impl AsFd) -> Result<()> {
    let mode = rustix::fs::fstat(&fd)?.st_mode & 0o7777;
    let mut wanted = mode & !0o4000;
    if mode & 0o010 != 0 {
        wanted &= !0o2000;
    }
    if wanted == mode { Ok(()) } else { rustix::fs::fchmod(fd, rustix::fs::Mode::from_raw_mode(wanted)) }
}

pub(super) fn write_all(fd: impl AsFd, data: &[u8], offset: u64) -> Result<()> {
    write_some(fd, data, offset).1.map_or(Ok(()), Err)
}

/// How much was written, and why not all.
fn write_some(fd: impl AsFd, data: &[u8], offset: u64) -> (usize, Option<Errno>) {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(&fd, rest, offset + done as u64) {
            Ok(0) => return (done, Some(Errno::IO)),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return (done, Some(e)),
        }
    }
    (done, None)
}
