//! Writing layers: from what a step left in its upper directory, or from a whole tree, to a tar archive.
//!
//! Entries come in one order: a directory before what is in it; in a directory first the mark that it is opaque, then
//! whiteouts, then all else, each sorted by the bytes of the name. Parents of what changed are in the layer too, as every
//! other tool puts them there. Of a file with several names the first carries the data, the others are hardlinks.
//! Sockets are left out. Together with the writer's rules the bytes depend only on the files.
//!
//! What overlayfs copies up without need is no change: an upper file or directory that equals the lower one in all
//! metadata (time included) and contents is left out.
//!
//! The root directory has an entry (`./`) only if its mode, owner or attributes changed: its time changes with every step.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::emit::{Data, Emitter};
use super::error::Error;
use super::extract::{OPAQUE, WHITEOUT};
use super::layer::{self, FS};
use super::merged::Merged;
use super::node::{self, Kind, Meta, Node, Time, Xattrs};
use super::record::{Record, Records};
use super::whiteout;
use crate::oci::DiffId;

/// How modification times go into a layer. Fractions of a second are always dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Times later than this become this (`SOURCE_DATE_EPOCH`), in seconds since 1970.
    pub clamp_to: Option<i64>,
    /// All times become this (`--timestamp`); wins over `clamp_to`.
    pub set_to: Option<i64>,
}

impl Times {
    pub(super) fn apply(&self, time: Time) -> i64 {
        match (self.set_to, self.clamp_to) {
            (Some(set), _) => set,
            (None, Some(clamp)) => time.sec.min(clamp),
            (None, None) => time.sec,
        }
    }
}

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStats {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub size: u64,
    /// Entries; 0 means that nothing changed.
    pub entries: u64,
}

/// Writes what the layer directory `upper` changes in `lower` as a tar archive.
///
/// # Errors
/// A file-system call fails, `out` fails, or a file has a name that means a whiteout in layers.
pub fn write_layer(upper: &Path, lower: &Merged, times: &Times, out: impl Write) -> Result<LayerStats, Error> {
    let fs = layer::open_fs(upper)?;
    let records = Records::load(upper)?;
    let mut walk = Walk { dir: upper, fs: &fs, lower, records: &records, emitter: Emitter::new(out, *times) };
    walk.run()?;
    walk.emitter.finish()
}

/// The digest of the layer that a layer directory makes.
///
/// # Errors
/// As [`write_layer`].
pub fn layer_digest(dir: &Path, lower: &Merged) -> Result<DiffId, Error> {
    Ok(write_layer(dir, lower, &Times::default(), std::io::sink())?.diff_id)
}

/// Writes a whole tree as a tar archive: for `--squash` and for exports.
///
/// # Errors
/// As [`write_layer`].
pub fn write_tree(tree: &Merged, times: &Times, out: impl Write) -> Result<LayerStats, Error> {
    let mut emitter = Emitter::new(out, *times);
    if let Some(root) = tree.lookup(Path::new(""))? {
        let xattrs = tree.xattrs(&root)?;
        if root_differs(Some((&root.meta, &xattrs)), None) {
            emitter.write(&root.path, &root.meta, &xattrs, Data::None, 0)?;
        }
        let mut levels = vec![tree.read_dir(&root.path)?.into_iter()];
        while let Some(level) = levels.last_mut() {
            let Some((_, node)) = level.next() else {
                levels.pop();
                continue;
            };
            let xattrs = tree.xattrs(&node)?;
            let data = match node.meta.kind {
                Kind::File => Data::File(tree.open_file(&node)?),
                Kind::Symlink => Data::Link(tree.read_link(&node)?),
                _ => Data::None,
            };
            emitter.write(&node.path, &node.meta, &xattrs, data, node.layer)?;
            if node.is_dir() {
                levels.push(tree.read_dir(&node.path)?.into_iter());
            }
        }
    }
    emitter.finish()
}

/// Whether a root directory needs an entry. Without a lower one, what extraction makes by itself needs none.
fn root_differs(upper: Option<(&Meta, &Xattrs)>, lower: Option<(&Meta, &Xattrs)>) -> bool {
    let none = Xattrs::new();
    let key = |root: Option<(&Meta, &Xattrs)>| match root {
        Some((meta, xattrs)) => (meta.mode, meta.uid, meta.gid, xattrs.clone()),
        None => (0o755, 0, 0, none.clone()),
    };
    key(upper) != key(lower)
}

/// A walk over an upper directory.
struct Walk<'a, W: Write> {
    dir: &'a Path,
    fs: &'a OwnedFd,
    lower: &'a Merged,
    records: &'a Records,
    emitter: Emitter<W>,
}

/// A directory on the way from the root to where the walk is.
struct Level {
    path: PathBuf,
    /// Names to come, in reverse order.
    names: Vec<OsString>,
    /// Whether a lower directory shows through.
    lower: bool,
    /// The entry of the directory itself, until something in it has changed.
    pending: Option<(Meta, Xattrs)>,
}

/// A file of the upper layer.
struct Found {
    meta: Meta,
    xattrs: Xattrs,
    /// Open, for regular files and directories.
    fd: Option<OwnedFd>,
    /// What the lower layers have there.
    below: Option<Node>,
}

impl<W: Write> Walk<'_, W> {
    fn run(&mut self) -> Result<(), Error> {
        let below = self.lower.lookup(Path::new(""))?;
        let stat = self.stat(Path::new(""))?.ok_or_else(|| Error::Missing(self.dir.join(FS)))?;
        let root = self.inspect(Path::new(""), &stat, below)?;
        let lower = match &root.below {
            Some(node) => Some((&node.meta, self.lower.xattrs(node)?)),
            None => None,
        };
        if root_differs(Some((&root.meta, &root.xattrs)), lower.as_ref().map(|(meta, xattrs)| (*meta, xattrs))) {
            self.emitter.write(Path::new(""), &root.meta, &root.xattrs, Data::None, 0)?;
        }
        let lower = root.below.is_some();
        let mut levels = vec![];
        self.enter(&mut levels, PathBuf::new(), root, lower, None, false)?;
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            let below = if level.lower { self.lower.lookup(&path)? } else { None };
            let Some(stat) = self.stat(&path)? else { return Err(Error::Missing(self.absolute(&path))) };
            let found = self.inspect(&path, &stat, below)?;
            if found.meta.kind == Kind::Dir {
                self.directory(&mut levels, path, found)?;
            } else if found.meta.kind != Kind::Socket && !self.same_file(&path, &found)? {
                self.parents(&mut levels)?;
                let data = match found.meta.kind {
                    Kind::File => found.fd.map(|fd| Data::File(File::from(fd))).unwrap_or(Data::None),
                    Kind::Symlink => Data::Link(self.link(&path)?),
                    _ => Data::None,
                };
                self.emitter.write(&path, &found.meta, &found.xattrs, data, 0)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, levels: &mut Vec<Level>, path: PathBuf, found: Found) -> Result<(), Error> {
        let merges = found.below.as_ref().is_some_and(Node::is_dir);
        let marked = match &found.fd {
            Some(fd) => layer::opaque_mark(fd).map_err(|e| self.failed("inspect", &path, e))?,
            None => false,
        };
        let opaque = marked || self.records.get(&path).is_some_and(|record| record.opaque);
        let same = match &found.below {
            Some(node) if merges && !opaque => {
                same_meta(&found.meta, &node.meta) && found.xattrs == self.lower.xattrs(node)?
            }
            _ => false,
        };
        let pending = if same {
            Some((found.meta, found.xattrs.clone()))
        } else {
            self.parents(levels)?;
            self.emitter.write(&path, &found.meta, &found.xattrs, Data::None, 0)?;
            None
        };
        if opaque && merges {
            self.emitter.whiteout(&path, OPAQUE)?;
        }
        self.enter(levels, path, found, merges && !opaque, pending, true)
    }

    /// Lists a directory, writes its whiteouts, and puts it on the stack.
    fn enter(
        &mut self,
        levels: &mut Vec<Level>,
        path: PathBuf,
        found: Found,
        lower: bool,
        pending: Option<(Meta, Xattrs)>,
        has_entry: bool,
    ) -> Result<(), Error> {
        let (mut names, mut hidden) = (Vec::new(), Vec::new());
        if let Some(fd) = &found.fd {
            for (name, kind) in layer::typed_names(fd).map_err(|e| self.failed("read directory", &path, e))? {
                if whiteout::may_be(kind) && self.stat(&path.join(&name))?.is_some_and(|stat| whiteout::is(&stat)) {
                    if lower {
                        hidden.push(name);
                    }
                } else {
                    names.push(name);
                }
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        hidden.sort_unstable();
        let pending = if has_entry { pending } else { None };
        levels.push(Level { path: path.clone(), names, lower, pending });
        for name in hidden {
            if self.lower.lookup(&path.join(&name))?.is_some() {
                self.parents(levels)?;
                self.emitter.whiteout(&path, &[WHITEOUT, name.as_bytes()].concat())?;
            }
        }
        Ok(())
    }

    /// Writes the entries of the directories on the way, where that has not been done.
    fn parents(&mut self, levels: &mut [Level]) -> Result<(), Error> {
        for level in levels {
            if let Some((meta, xattrs)) = level.pending.take() {
                self.emitter.write(&level.path, &meta, &xattrs, Data::None, 0)?;
            }
        }
        Ok(())
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        self.dir.join(FS).join(path)
    }

    fn failed(&self, action: &'static str, path: &Path, e: rustix::io::Errno) -> Error {
        Error::file(action, &self.absolute(path))(e)
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>, Error> {
        layer::stat(self.fs, path).map_err(|e| self.failed("inspect", path, e))
    }

    fn link(&self, path: &Path) -> Result<PathBuf, Error> {
        let target =
            rustix::fs::readlinkat(self.fs, path, Vec::new()).map_err(|e| self.failed("read link", path, e))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    fn inspect(&mut self, path: &Path, stat: &Stat, below: Option<Node>) -> Result<Found, Error> {
        let fd = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                Some(layer::open_file(self.fs, path).map_err(|e| self.failed("open", path, e))?)
            }
            _ => None,
        };
        let mut xattrs = match &fd {
            Some(fd) => node::read_xattrs(fd.as_fd()).map_err(|e| self.failed("read attributes of", path, e))?,
            None => Xattrs::new(),
        };
        let record: Option<Arc<Record>> = self.records.get(path).cloned();
        if let Some(record) = &record {
            xattrs.extend(record.xattrs.clone());
        }
        let meta = node::meta(stat, record.as_deref(), self.lower.id_map());
        Ok(Found { meta, xattrs, fd, below })
    }

    /// Whether a file was copied up, but is what the lower layers have.
    fn same_file(&self, path: &Path, found: &Found) -> Result<bool, Error> {
        let Some(below) = &found.below else { return Ok(false) };
        // A file with several names may be linked to from elsewhere in this layer.
        if !same_meta(&found.meta, &below.meta)
            || found.meta.size != below.meta.size
            || found.meta.nlink > 1
            || found.xattrs != self.lower.xattrs(below)?
        {
            return Ok(false);
        }
        match found.meta.kind {
            Kind::Symlink => Ok(self.link(path)? == self.lower.read_link(below)?),
            Kind::File => {
                // A descriptor of its own: the position of the other is needed at the start.
                let upper = layer::open_file(self.fs, path).map_err(|e| self.failed("open", path, e))?;
                same_contents(File::from(upper), self.lower.open_file(below)?)
                    .map_err(Error::file("read", &self.absolute(path)))
            }
            _ => Ok(true),
        }
    }
}

fn same_meta(a: &Meta, b: &Meta) -> bool {
    (a.kind, a.mode, a.uid, a.gid, a.mtime) == (b.kind, b.mode, b.uid, b.gid, b.mtime)
}

pub(super) fn same_contents(mut a: impl Read, mut b: impl Read) -> std::io::Result<bool> {
    const CHUNK: u64 = 64 << 10;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        a.by_ref().take(CHUNK).read_to_end(&mut left)?;
        b.by_ref().take(CHUNK).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
