//! The digest of what a COPY or ADD would read: the content part of its cache key.
//!
//! The rule is BuildKit's: for each entry its name, kind, mode, owner, size, content, link target, device number and
//! extended attributes, and no times. It is computed over the very selection that the copy would make, wildcards and
//! exclusions applied, so a file that is not copied never changes it.
//!
//! Reading and hashing files takes the time. It is done by [`WORKERS`] threads, batch by batch, so that memory does not
//! grow with the tree; and a [`Memo`] lets files be skipped that have not changed since they were last hashed.

mod memo;

pub use memo::FileMemo;

use crate::archive::Error as TreeError;
use crate::archive::copy::tree::below;
use crate::archive::copy::{Error, Found, Request, Source, Tree, Walk, select};
use crate::archive::node::{Kind, Time, Xattrs, bytes};
use crate::oci::{Digest, Hashing};
use rustix::fd::AsFd;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Threads that read and hash.
pub const WORKERS: usize = 2;
/// Entries that are hashed before their digests go into the sum.
const BATCH: usize = 1024;
/// Bytes read at once.
const BUFFER: usize = 1 << 18;
/// Seconds that a file has to be unchanged before its digest is remembered: a change within the file system's
/// granularity of time would leave the same key.
const SETTLED: i64 = 2;

/// What tells one state of one file of this machine from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Last modification of the content.
    pub mtime: Time,
    /// Last change of content or metadata.
    pub ctime: Time,
}

/// Remembers the digests of files.
pub trait Memo: Sync {
    /// The digest that was remembered.
    fn get(&self, key: &FileKey) -> Option<[u8; 32]>;
    /// Remembers a digest.
    fn put(&self, key: &FileKey, digest: [u8; 32]);
}

/// The digest of everything that `request` would read from `tree`.
///
/// What it would do with it (destination, owner, mode) is not part of it, and neither are the sources as they are written.
///
/// # Errors
///
/// As for the copy itself: a source that is not there, or something that cannot be read.
pub fn digest(request: &Request, tree: &dyn Tree, memo: Option<&dyn Memo>) -> Result<Digest, Error> {
    let mut sum = Sum(Hashing::new(()));
    for source in &select(request, tree)?.sources {
        match source {
            Source::Inline { name, content } => {
                sum.field(b"inline");
                sum.field(name.as_bytes());
                sum.field(content);
            }
            Source::Tree(selection) => {
                let is_dir = selection.meta.kind == Kind::Dir;
                sum.field(if is_dir { b"contents" } else { b"entry" });
                if !is_dir {
                    sum.field(selection.name.as_encoded_bytes());
                }
                let mut walk = Walk::new(tree, selection, &request.exclude);
                loop {
                    let batch: Vec<Found> = walk.by_ref().take(BATCH).collect::<Result<_, _>>()?;
                    if batch.is_empty() {
                        break;
                    }
                    let details = read_all(tree, &selection.path, &batch, memo);
                    for (found, details) in batch.iter().zip(details) {
                        // The directory itself is not copied, only what is in it.
                        let skip = is_dir && found.rel.as_os_str().is_empty();
                        if !skip {
                            sum.entry(found, &details?);
                        }
                    }
                }
            }
        }
    }
    Ok(sum.finish())
}

/// What has to be read of an entry.
enum Details {
    Content { digest: [u8; 32], size: u64, xattrs: Xattrs },
    Target(PathBuf),
    Only(Xattrs),
}

/// A hash over fields of any length: each with its length in front.
struct Sum(Hashing<()>);

impl Sum {
    fn field(&mut self, bytes: &[u8]) {
        self.0.catch_up(&(bytes.len() as u64).to_le_bytes());
        self.0.catch_up(bytes);
    }

    fn number(&mut self, number: u64) {
        self.0.catch_up(&number.to_le_bytes());
    }

    fn entry(&mut self, found: &Found, details: &Details) {
        self.field(bytes(&found.rel));
        let (kind, major, minor) = match found.meta.kind {
            Kind::File => (b'f', 0, 0),
            Kind::Dir if found.implied => (b'i', 0, 0),
            Kind::Dir => (b'd', 0, 0),
            Kind::Symlink => (b'l', 0, 0),
            Kind::Fifo => (b'p', 0, 0),
            Kind::Socket => (b's', 0, 0),
            Kind::Char(major, minor) => (b'c', major, minor),
            Kind::Block(major, minor) => (b'b', major, minor),
        };
        self.0.catch_up(&[kind]);
        self.number(found.meta.mode.into());
        self.number(found.meta.uid.into());
        self.number(found.meta.gid.into());
        self.number(u64::from(major) << 32 | u64::from(minor));
        let none = Xattrs::new();
        let xattrs = match details {
            Details::Content { digest, size, xattrs } => {
                self.number(*size);
                self.0.catch_up(digest);
                xattrs
            }
            Details::Target(target) => {
                self.field(bytes(target));
                &none
            }
            Details::Only(xattrs) => xattrs,
        };
        self.number(xattrs.len() as u64);
        for (name, value) in xattrs {
            self.field(name);
            self.field(value);
        }
    }

    fn finish(self) -> Digest {
        self.0.finish().1
    }
}

/// Reads the details of a batch with a few threads, in the order of the batch.
fn read_all(tree: &dyn Tree, root: &Path, batch: &[Found], memo: Option<&dyn Memo>) -> Vec<Result<Details, TreeError>> {
    let slots: Vec<OnceLock<Result<Details, TreeError>>> = batch.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = Vec::new();
        while let Some((found, slot)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            batch.get(index).zip(slots.get(index))
        } {
            let _ = slot.set(read(tree, &below(root, &found.rel), found, memo, &mut buffer));
        }
    };
    // A thread costs more than a handful of small files.
    const WORTH_A_THREAD: u64 = 1 << 20;
    let heavy = batch.len() > 64 || batch.iter().map(|f| f.meta.size).sum::<u64>() > WORTH_A_THREAD;
    std::thread::scope(|scope| {
        if heavy && batch.len() > 1 {
            for _ in 1..WORKERS {
                // Where no thread can be had, this one does all the work.
                let _ = std::thread::Builder::new().name("hash".to_owned()).spawn_scoped(scope, work);
            }
        }
        work();
    });
    slots.into_iter().filter_map(OnceLock::into_inner).collect()
}

fn read(
    tree: &dyn Tree,
    path: &Path,
    found: &Found,
    memo: Option<&dyn Memo>,
    buffer: &mut Vec<u8>,
) -> Result<Details, TreeError> {
    match found.meta.kind {
        Kind::File => {
            let file = tree.open(path)?;
            let xattrs = tree.xattrs(path, Some(&file))?;
            let (digest, size) = content(file, memo, buffer).map_err(TreeError::file("read", path))?;
            Ok(Details::Content { digest, size, xattrs })
        }
        Kind::Symlink => Ok(Details::Target(tree.read_link(path)?)),
        _ => Ok(Details::Only(tree.xattrs(path, None)?)),
    }
}

/// The SHA-256 and the size of an open file.
fn content(mut file: File, memo: Option<&dyn Memo>, buffer: &mut Vec<u8>) -> std::io::Result<([u8; 32], u64)> {
    let stat = rustix::fs::fstat(file.as_fd())?;
    let key = FileKey {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime: Time { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 },
        ctime: Time { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as u32 },
    };
    if let Some(known) = memo.and_then(|m| m.get(&key)) {
        return Ok((known, key.size));
    }
    buffer.resize(BUFFER, 0);
    // This digest never leaves the machine, so it can be the fastest one that nobody can forge: on processors without
    // instructions for SHA-256, BLAKE3 is ten times as fast.
    let mut hash = blake3::Hasher::new();
    let mut size = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(buffer.get(..n).unwrap_or_default());
                size += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let digest = *hash.finalize().as_bytes();
    if let Some(memo) = memo
        && size == key.size
        && settled(&key)
    {
        memo.put(&key, digest);
    }
    Ok((digest, size))
}

/// Whether the last change is so long ago that any later one will show in the key.
fn settled(key: &FileKey) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let limit = i64::try_from(now).unwrap_or(i64::MAX) - SETTLED;
    key.ctime.sec < limit && key.mtime.sec < limit
}
