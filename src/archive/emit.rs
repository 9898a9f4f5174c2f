//! From files to the entries of a layer: what the diff and the writer of whole trees share.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::diff::{LayerStats, Times};
use super::error::Error;
use super::extract::{AUFS, WHITEOUT};
use super::hashed::HashedWriter;
use super::node::{self, Kind, Meta, Xattrs};
use super::tarfile::{Entry, EntryKind, TarWriter};
use crate::oci::DiffId;

/// Bytes of a layer that are gathered before they are hashed and written.
const BUFFER: usize = 256 << 10;

/// What follows a header.
pub(super) enum Data {
    None,
    File(File),
    Link(PathBuf),
}

/// The first name of a file that has several.
struct First {
    path: PathBuf,
    meta: Meta,
    /// Names still to come: with the last one the file can be forgotten.
    left: u64,
}

/// Turns files into entries, and second names into hardlinks.
pub(super) struct Emitter<W: Write> {
    tar: TarWriter<BufWriter<HashedWriter<W>>>,
    times: Times,
    entries: u64,
    /// Files that have several names, by layer, device and inode.
    links: HashMap<(usize, u64, u64), First>,
    /// A directory that only the entries in it can carry, as long as none has come.
    implied: Option<PathBuf>,
}

impl<W: Write> Emitter<W> {
    /// Starts a layer.
    pub(super) fn new(out: W, times: Times) -> Self {
        let out = BufWriter::with_capacity(BUFFER, HashedWriter::new(out));
        Emitter { tar: TarWriter::new(out), times, entries: 0, links: HashMap::new(), implied: None }
    }

    /// Writes one file; `layer` tells the inodes of different layer directories apart.
    pub(super) fn write(
        &mut self,
        path: &Path,
        meta: &Meta,
        xattrs: &Xattrs,
        data: Data,
        layer: usize,
    ) -> Result<(), Error> {
        let target = match &data {
            Data::Link(target) => node::bytes(target),
            _ => b"",
        };
        let Some(kind) = EntryKind::of(meta.kind, target) else { return Ok(()) };
        self.carry_implied(Some(path))?;
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT)) {
            return self.imply(path, meta, xattrs);
        }
        let mut entry = Entry {
            path: node::bytes(path),
            kind,
            mode: if meta.kind == Kind::Symlink { 0o777 } else { meta.mode },
            uid: meta.uid,
            gid: meta.gid,
            size: 0,
            mtime: self.times.apply(meta.mtime),
            xattrs: (!xattrs.is_empty()).then_some(xattrs),
        };
        self.entries += 1;
        if meta.nlink > 1 && meta.kind != Kind::Dir {
            match self.links.entry((layer, meta.dev, meta.ino)) {
                Slot::Vacant(slot) => {
                    slot.insert(First { path: path.to_owned(), meta: *meta, left: meta.nlink - 1 });
                }
                Slot::Occupied(mut slot) => {
                    let first = slot.get_mut();
                    first.left = first.left.saturating_sub(1);
                    // One file has one owner and one mode, whatever is recorded of its further names.
                    let link = Entry {
                        kind: EntryKind::Hardlink(node::bytes(&first.path)),
                        mode: if meta.kind == Kind::Symlink { 0o777 } else { first.meta.mode },
                        uid: first.meta.uid,
                        gid: first.meta.gid,
                        xattrs: None,
                        ..entry
                    };
                    self.tar.append(&link).map_err(Error::Output)?;
                    if first.left == 0 {
                        slot.remove();
                    }
                    return Ok(());
                }
            }
        }
        match &data {
            Data::File(file) => {
                entry.size = meta.size;
                // A failed read must not be taken for a failed write.
                let mut failed = None;
                let content = Watched { inner: file, failed: &mut failed };
                match self.tar.append_file(&entry, content) {
                    Ok(()) => Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Error::file("read", path)(e)),
                    Err(e) => Err(match failed {
                        Some(read) => Error::file("read", path)(read),
                        None => Error::Output(e),
                    }),
                }
            }
            _ => self.tar.append(&entry).map_err(Error::Output),
        }
    }

    /// A name that begins with `.wh.` means a removal as the last part of an entry's path, and nothing elsewhere in it. So a
    /// directory of such a name gets no entry, but those in it make it, where it is as extraction makes directories.
    fn imply(&mut self, path: &Path, meta: &Meta, xattrs: &Xattrs) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let plain = (meta.kind, meta.mode, meta.uid, meta.gid) == (Kind::Dir, 0o755, 0, 0) && xattrs.is_empty();
        if !plain || name == WHITEOUT || name.starts_with(AUFS) {
            return Err(means_removal(path));
        }
        self.implied = Some(path.to_owned());
        Ok(())
    }

    /// To be called before the next entry (`None`: there is none): it has to lie in the directory that needs it.
    fn carry_implied(&mut self, next: Option<&Path>) -> Result<(), Error> {
        match self.implied.take() {
            Some(dir) if !next.is_some_and(|next| next.starts_with(&dir)) => Err(means_removal(&dir)),
            _ => Ok(()),
        }
    }

    /// The empty file that hides lower files.
    pub(super) fn whiteout(&mut self, dir: &Path, name: &[u8]) -> Result<(), Error> {
        let path = dir.join(OsStr::from_bytes(name));
        self.carry_implied(Some(&path))?;
        let mtime = self.times.set_to.unwrap_or(0);
        self.entries += 1;
        self.tar.append(&Entry { mtime, ..Entry::file(node::bytes(&path), 0) }).map_err(Error::Output)
    }

    /// Ends the layer.
    pub(super) fn finish(mut self) -> Result<LayerStats, Error> {
        self.carry_implied(None)?;
        let entries = self.entries;
        let buffered = self.tar.finish().map_err(Error::Output)?;
        let hashing = buffered.into_inner().map_err(|e| Error::Output(e.into_error()))?;
        let (digest, size) = hashing.finish().map_err(Error::Output)?;
        Ok(LayerStats { diff_id: DiffId(digest), size, entries })
    }
}

fn means_removal(path: &Path) -> Error {
    Error::Unsupported(format!("file name `{}`: in a layer it would mean a removal", path.display()))
}

/// Remembers why a read failed.
struct Watched<'a> {
    inner: &'a File,
    failed: &'a mut Option<io::Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|e| {
            let kind = e.kind();
            if kind != io::ErrorKind::Interrupted {
                *self.failed = Some(e);
            }
            kind.into()
        })
    }
}
