//! Extracting archives that nobody vouches for, into a layer directory.
//!
//! Two kinds: a *layer* ([`extract`]), whose `.wh.` names hide lower files, and a *user's archive* ([`unpack_archive`],
//! for ADD), whose names mean only themselves. Neither can name a file outside of its root:
//!
//! * Names are cleaned as text: `..` cannot climb above the root, a leading `/` is the root.
//! * Links in parents are followed inside the root, through this layer and those below, as a chroot would.
//! * The last component is never followed: what is there is replaced.
//! * Device nodes are recorded, never made. Owners that the id map cannot hold are recorded.
//!
//! What an archive can cost is bounded by [`Limits`] and by the reader's own bounds. Memory does not grow with the
//! archive, but for the records of files whose metadata the disk cannot hold.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::merged::{self, Merged};
use super::node::{self, Kind};
use super::reader::{Entry, Reader, Type};
use super::upper::{Attrs, Upper};

/// Prefix of a name that hides a lower file.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// Name that hides all lower files of a directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of names that aufs kept for itself.
pub(crate) const AUFS: &[u8] = b".wh..wh.";

/// Longest path, in bytes: what the kernel takes in one call.
const MAX_PATH: usize = 4095;
/// Longest component of a path, in bytes.
const MAX_NAME: usize = 255;
/// Parent directories that are remembered as real.
const KNOWN_PARENTS: usize = 4096;

/// How much an archive may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of file data, holes not counted; `None`: as much as the disk takes.
    pub bytes: Option<u64>,
    /// Files whose metadata has to be recorded: they cost memory, some 100 bytes each.
    pub records: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 20_000_000, bytes: None, records: 2_000_000 }
    }
}

/// Extracts a layer's tar (already decompressed) into the new layer directory `into`, on top of `lower`. Reads `tar`
/// to its end, also behind the end of the archive.
///
/// On an error `into` is left half done, for the caller to remove.
///
/// # Errors
/// The archive is malformed, tries what it must not, exceeds a limit; or a file-system call fails.
pub fn extract(tar: impl Read, into: &Path, lower: &Merged, limits: &Limits) -> Result<(), Error> {
    let mut upper = Upper::create(into, lower)?;
    let mut reader = Reader::new(tar);
    Extractor::new(&mut upper, Path::new(""), true, limits).run(&mut reader)?;
    reader.drain()?;
    upper.finish()
}

/// A regular file of a skeleton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hollow {
    /// Its number on disk.
    pub ino: u64,
    /// Path below the layer's `fs/`.
    pub path: PathBuf,
    /// Which entry it is; as many as there are entries, and more, for those of the tail.
    pub entry: usize,
}

/// Makes a layer directory of these entries as [`extract`] does of a tar, but without the contents of its regular files: these
/// are one hole each. What `tail` has, the end of a tar, is extracted behind them.
///
/// Returns the regular files that were made, in order; one of which a later entry took the place may have had the number
/// of a later one.
///
/// # Errors
/// Those of [`extract`].
pub fn skeleton(
    entries: impl Iterator<Item = Entry>,
    tail: Option<&[u8]>,
    into: &Path,
    lower: &Merged,
) -> Result<Vec<Hollow>, Error> {
    let mut upper = Upper::create(into, lower)?;
    let mut extractor = Extractor::new(&mut upper, Path::new(""), true, &Limits::default());
    extractor.made = Some(vec![]);
    let mut nothing = Reader::new(std::io::empty());
    for entry in entries {
        extractor.next(&entry, &mut nothing)?;
    }
    if let Some(tail) = tail {
        extractor.run(&mut Reader::new(tail))?;
    }
    let made = extractor.made.take().unwrap_or_default();
    upper.finish()?;
    Ok(made)
}

/// Extracts a user's archive (already decompressed) below the directory `dest` of the tree that `upper` writes, as ADD
/// does: owners (unless there is an `owner`), modes and times are the archive's, missing directories get `missing`. Names and links are resolved with
/// `dest` as their root.
///
/// # Errors
/// As [`extract`]; and `dest` is not a directory.
pub fn unpack_archive(
    tar: impl Read,
    upper: &mut Upper<'_>,
    dest: &Path,
    missing: &Attrs,
    owner: Option<(u32, u32)>,
    limits: &Limits,
) -> Result<(), Error> {
    let base = upper.ensure_dir(dest, missing)?;
    let mut reader = Reader::new(tar);
    let mut extractor = Extractor::new(upper, &base, false, limits);
    extractor.owner = owner;
    extractor.run(&mut reader)?;
    reader.drain()
}

struct Extractor<'u, 'l> {
    upper: &'u mut Upper<'l>,
    /// Real path of the directory that is the archive's root.
    base: PathBuf,
    /// Whether `.wh.` names are whiteouts.
    layer: bool,
    /// Owner of every entry, in place of its own.
    owner: Option<(u32, u32)>,
    limits: Limits,
    entries: u64,
    bytes: u64,
    /// Parents, relative to `base`, that exist in the upper layer and have no link on the way; as of `generation`.
    known: HashSet<PathBuf>,
    generation: u64,
    /// Regular files that were made, where somebody wants to know.
    made: Option<Vec<Hollow>>,
}

impl<'u, 'l> Extractor<'u, 'l> {
    fn new(upper: &'u mut Upper<'l>, base: &Path, layer: bool, limits: &Limits) -> Self {
        let generation = upper.generation();
        let (base, known) = (base.to_owned(), HashSet::new());
        let (limits, made) = (*limits, None);
        Extractor { upper, base, layer, owner: None, limits, entries: 0, bytes: 0, known, generation, made }
    }

    fn run(&mut self, reader: &mut Reader<impl Read>) -> Result<(), Error> {
        while let Some(entry) = reader.next_entry()? {
            self.next(&entry, reader)?;
        }
        Ok(())
    }

    fn next(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.entries });
        }
        self.entry(entry, reader)?;
        let records = self.upper.records().len() as u64;
        if records > self.limits.records {
            return Err(Error::Limit { what: "files with recorded metadata", limit: self.limits.records });
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, reader: &mut Reader<impl Read>) -> Result<(), Error> {
        let path = cleaned(&entry.name)?;
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        let attrs = Attrs { mode: entry.mode, uid, gid, mtime: Some(entry.mtime), xattrs: entry.xattrs.clone() };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // Of the root itself only the metadata can be set.
            return if entry.kind == Type::Dir { self.upper.dir(&self.base.clone(), &attrs) } else { Ok(()) };
        };
        let missing = Attrs::root(0o755, Some(entry.mtime));
        if self.layer {
            let first = path.components().next().map(|c| c.as_os_str().as_bytes()).unwrap_or_default();
            if name.as_bytes() == OPAQUE {
                let real = self.parent(parent, &missing)?;
                return self.upper.hide_lower_contents(&real);
            }
            if first.starts_with(AUFS) || name.as_bytes().starts_with(AUFS) {
                return Ok(());
            }
            if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
                return self.whiteout(entry, parent, hidden);
            }
        }
        let at = self.parent(parent, &missing)?.join(name);
        match entry.kind {
            Type::Dir => self.upper.dir(&at, &attrs),
            Type::File => self.file(entry, &at, &attrs, reader),
            Type::Symlink => {
                if entry.link.is_empty() || entry.link.len() > MAX_PATH {
                    return Err(Error::refused(&entry.name, "its target is empty or too long"));
                }
                self.upper.symlink(&at, node::path(&entry.link), &attrs)
            }
            Type::Hardlink => self.hardlink(entry, &at),
            Type::Fifo => self.upper.fifo(&at, &attrs),
            Type::Char(major, minor) => self.upper.device(&at, Kind::Char(major, minor), &attrs),
            Type::Block(major, minor) => self.upper.device(&at, Kind::Block(major, minor), &attrs),
        }
    }

    /// The real path of a parent directory, which exists in the upper layer afterwards.
    fn parent(&mut self, parent: &Path, missing: &Attrs) -> Result<PathBuf, Error> {
        if self.upper.generation() != self.generation || self.known.len() >= KNOWN_PARENTS {
            self.known.clear();
            self.generation = self.upper.generation();
        }
        if self.known.contains(parent) {
            return Ok(self.base.join(parent));
        }
        let found = self.resolve(parent)?;
        let real = self.base.join(&found.path);
        self.upper.ensure_dir(&real, missing)?;
        if found.path == parent {
            self.known.insert(parent.to_owned());
        }
        Ok(real)
    }

    /// Follows all links of a path inside the archive's root.
    fn resolve(&self, path: &Path) -> Result<merged::Resolved, Error> {
        merged::resolve(path, true, |at| self.upper.lookup(&self.base.join(at)), |link| self.upper.read_link(link))
    }

    fn whiteout(&mut self, entry: &Entry, parent: &Path, hidden: &[u8]) -> Result<(), Error> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::refused(&entry.name, "it is a whiteout of a directory itself"));
        }
        let parent = self.resolve(parent)?;
        match parent.node {
            Some(node) if node.is_dir() => {
                self.upper.hide_lower(&self.base.join(parent.path).join(OsStr::from_bytes(hidden)))
            }
            // Nothing is there to be hidden.
            _ => Ok(()),
        }
    }

    fn hardlink(&mut self, entry: &Entry, at: &Path) -> Result<(), Error> {
        let target = cleaned(&entry.link)?;
        let refused = |reason: &str| {
            let target = entry.link.escape_ascii();
            Err(Error::refused(&entry.name, format!("it is a hardlink to `{target}`, which {reason}")))
        };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return refused("is a directory");
        };
        let target = self.base.join(self.resolve(parent)?.path).join(name);
        match self.upper.lookup(&target)? {
            None => refused("does not exist"),
            Some(node) if node.is_dir() => refused("is a directory"),
            Some(_) => self.upper.hardlink(at, &target),
        }
    }

    fn file(&mut self, entry: &Entry, at: &Path, attrs: &Attrs, reader: &mut Reader<impl Read>) -> Result<(), Error> {
        let stored = entry.sparse.as_ref().map_or(entry.size, |parts| parts.iter().map(|part| part.length).sum());
        self.bytes = self.bytes.saturating_add(stored);
        if let Some(limit) = self.limits.bytes
            && self.bytes > limit
        {
            return Err(Error::Limit { what: "bytes of data", limit });
        }
        let mut ino = None;
        self.upper.file(at, attrs, |file| {
            if self.made.is_some() {
                ino = Some(rustix::fs::fstat(&*file).map_err(Error::file("inspect", at))?.st_ino);
            }
            let done = match &entry.sparse {
                None => reader.copy(entry.size, file),
                Some(parts) => sparse(reader, parts, entry.size, file),
            };
            match done {
                Err(Error::Output(e)) => Err(Error::file("write", at)(e)),
                done => done,
            }
        })?;
        if let (Some(made), Some(ino)) = (&mut self.made, ino) {
            let entry = usize::try_from(self.entries.saturating_sub(1)).unwrap_or(usize::MAX);
            made.push(Hollow { ino, path: at.to_owned(), entry });
        }
        Ok(())
    }
}

/// Writes the parts of a sparse file, and leaves holes between them.
fn sparse(
    reader: &mut Reader<impl Read>,
    parts: &[super::reader::Segment],
    size: u64,
    file: &mut File,
) -> Result<(), Error> {
    for part in parts {
        file.seek(SeekFrom::Start(part.offset)).map_err(Error::Output)?;
        reader.copy(part.length, file)?;
    }
    file.flush().and_then(|()| file.set_len(size)).map_err(Error::Output)
}

/// The name of an entry, relative to its root and clean.
fn cleaned(name: &[u8]) -> Result<PathBuf, Error> {
    let path = node::clean(node::path(name));
    let bytes = node::bytes(&path);
    if bytes.len() > MAX_PATH || bytes.split(|b| *b == b'/').any(|part| part.len() > MAX_NAME) {
        return Err(Error::refused(name, "its name is too long"));
    }
    Ok(path)
}

#[cfg(test)]
#[path = "extract_tests.rs"]
mod tests;
