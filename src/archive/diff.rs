//! From a layer directory to a layer: what a step changed, as an OCI layer tar that is the same for the same changes.
//!
//! Entries come depth first, the names of a directory sorted by their bytes. overlayfs' own marks become the
//! [image specification's](https://github.com/opencontainers/image-spec/blob/main/layer.md): a whiteout of `x` is the empty
//! file `.wh.x`, written only where a lower layer has `x`; an opaque directory holds `.wh..wh..opq`. No `user.overlay.*`
//! attribute gets into a layer. Sockets are left out, as every tool does: they mean nothing without their process.
//!
//! A directory that overlayfs copied up for nothing (same metadata, nothing below it changed) is left out, so that the
//! layer does not tell what driver made it. The root itself has no entry.

use super::error::Error;
use super::merged::{self, Merged};
use super::node::{self, Disk, Kind, Node, Xattrs};
use super::record::Records;
use super::tarfile::{Entry, EntryKind, TarWriter};
use crate::oci::{DiffId, Hashing};
use crate::sys::idmap::IdMap;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The name that marks a directory as opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What stands before the name of something that is gone.
const WHITEOUT: &[u8] = b".wh.";

/// Which modification times a layer gets, in seconds since 1970. By default each file's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// No time is later than this one (`SOURCE_DATE_EPOCH`).
    pub clamp_to: Option<i64>,
    /// Every time is this one (`--timestamp`); goes before `clamp_to`.
    pub set_to: Option<i64>,
}

impl Times {
    fn of(&self, mtime: i64) -> i64 {
        match (self.set_to, self.clamp_to) {
            (Some(t), _) => t,
            (None, Some(t)) => mtime.min(t),
            (None, None) => mtime,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerStats {
    /// Digest of the whole tar.
    pub diff_id: DiffId,
    /// Length of the tar in bytes.
    pub size: u64,
    /// Number of entries; 0 means that nothing changed.
    pub entries: u64,
}

/// Writes what the layer directory `upper` changes of `lower` as a layer.
///
/// # Errors
/// A file-system call fails, or writing to `out` does.
pub fn write_layer(
    upper: &Path,
    lower: &Merged,
    map: &IdMap,
    times: &Times,
    out: impl Write,
) -> Result<LayerStats, Error> {
    let changes = Changes {
        own: Merged::open(&[upper], map)?,
        fs: merged::open_fs(upper)?,
        dir: upper.join(merged::FS),
        records: Records::load(upper)?,
        lower,
        map,
    };
    write(&changes, times, out)
}

/// Writes all files of a view as one layer.
///
/// # Errors
/// A file-system call fails, or writing to `out` does.
pub fn write_tree(view: &Merged, times: &Times, out: impl Write) -> Result<LayerStats, Error> {
    write(&Whole(view), times, out)
}

/// One name in a directory that goes into the layer.
enum Item {
    /// A file of any kind.
    Node(Box<Node>),
    /// Something of the lower layers that is gone.
    Gone,
}

/// What a layer is written from.
trait Source {
    /// The names of a directory, sorted by their bytes.
    fn list(&self, dir: &Path) -> Result<Vec<(OsString, Item)>, Error>;
    /// The view that the nodes belong to.
    fn view(&self) -> &Merged;
    /// Whether a directory hides what lower layers have in it.
    fn hides_lower(&self, dir: &Node) -> Result<bool, Error>;
    /// Whether a directory is the same in the lower layers, apart from what is in it.
    fn is_unchanged(&self, dir: &Node) -> Result<bool, Error>;
}

/// The changes in one layer directory.
struct Changes<'a> {
    own: Merged,
    fs: std::os::fd::OwnedFd,
    dir: PathBuf,
    records: Records,
    lower: &'a Merged,
    map: &'a IdMap,
}

impl Changes<'_> {
    /// Whether overlayfs made this file by copying a lower one.
    fn is_copy(&self, path: &Path) -> bool {
        rustix::fs::lgetxattr(self.dir.join(path), "user.overlay.origin", &mut [0; 256]).is_ok()
    }
}

impl Source for Changes<'_> {
    fn list(&self, dir: &Path) -> Result<Vec<(OsString, Item)>, Error> {
        let failed = |e: rustix::io::Errno| Error::file("read directory", &self.dir.join(dir))(e);
        let fd = merged::open_dir(&self.fs, dir).map_err(failed)?;
        let mut names = merged::names(&fd).map_err(failed)?;
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        let mut items = Vec::with_capacity(names.len());
        for name in names {
            let Some(stat) = merged::stat(&fd, Path::new(&name)).map_err(failed)? else { continue };
            let path = dir.join(&name);
            if node::is_whiteout(&stat) {
                if self.lower.lookup(&path)?.is_some() {
                    items.push((name, Item::Gone));
                }
                continue;
            }
            let mut record = self.records.get(&path).cloned();
            if record.is_none() {
                // A copied-up file is still whose it was below, though the disk cannot say so.
                let below = self.lower.lookup(&path)?.and_then(|n| n.record);
                record = below.filter(|_| self.is_copy(&path)).map(|below| {
                    // Mode and attributes are the copy's own: the step may have changed them.
                    let kept = super::record::Record {
                        uid: below.uid,
                        gid: below.gid,
                        device: below.device,
                        ..Default::default()
                    };
                    std::sync::Arc::new(kept)
                });
            }
            let meta = node::meta(&stat, record.as_deref(), self.map);
            items.push((name, Item::Node(Box::new(Node { layer: 0, path, meta, disk: Disk::of(&stat), record }))));
        }
        Ok(items)
    }

    fn view(&self) -> &Merged {
        &self.own
    }

    fn hides_lower(&self, dir: &Node) -> Result<bool, Error> {
        let marked = dir.record.as_ref().is_some_and(|r| r.opaque) || {
            let failed = |e: rustix::io::Errno| Error::file("open directory", &self.dir.join(&dir.path))(e);
            let fd = merged::open_dir(&self.fs, &dir.path).map_err(failed)?;
            merged::opaque_mark(&fd).map_err(failed)?
        };
        Ok(marked && self.lower.lookup(&dir.path)?.is_some_and(|n| n.is_dir()))
    }

    fn is_unchanged(&self, dir: &Node) -> Result<bool, Error> {
        let Some(below) = self.lower.lookup(&dir.path)?.filter(Node::is_dir) else { return Ok(false) };
        let key = |n: &Node| (n.meta.uid, n.meta.gid, n.meta.mode, n.meta.mtime.sec);
        Ok(key(dir) == key(&below) && self.own.xattrs(dir)? == self.lower.xattrs(&below)?)
    }
}

/// All files of a view.
struct Whole<'a>(&'a Merged);

impl Source for Whole<'_> {
    fn list(&self, dir: &Path) -> Result<Vec<(OsString, Item)>, Error> {
        let nodes = self.0.read_dir(dir)?.into_iter();
        Ok(nodes.map(|(name, node)| (name, Item::Node(Box::new(node)))).collect())
    }

    fn view(&self) -> &Merged {
        self.0
    }

    fn hides_lower(&self, _: &Node) -> Result<bool, Error> {
        Ok(false)
    }

    fn is_unchanged(&self, _: &Node) -> Result<bool, Error> {
        Ok(false)
    }
}

fn write(source: &impl Source, times: &Times, out: impl Write) -> Result<LayerStats, Error> {
    let mut layer = Layer {
        source,
        times,
        tar: TarWriter::new(BufWriter::with_capacity(1 << 18, Hashing::new(out))),
        links: HashMap::new(),
        pending: vec![],
    };
    layer.walk()?;
    let entries = layer.tar.entries();
    let out = layer.tar.finish().map_err(Error::Output)?;
    let hashing = out.into_inner().map_err(|e| Error::Output(e.into_error()))?;
    let (_, digest, size) = hashing.finish();
    Ok(LayerStats { diff_id: DiffId(digest), size, entries })
}

/// A layer that is being written.
struct Layer<'a, S, W: Write> {
    source: &'a S,
    times: &'a Times,
    tar: TarWriter<BufWriter<Hashing<W>>>,
    /// Files with more names than one: where the first name was written.
    links: HashMap<(u64, u64, usize), PathBuf>,
    /// Directories on the way to where the walk is, whose entries are not written yet.
    pending: Vec<Node>,
}

/// A directory that the walk is in.
struct Frame {
    items: std::vec::IntoIter<(OsString, Item)>,
    path: PathBuf,
}

impl<S: Source, W: Write> Layer<'_, S, W> {
    fn walk(&mut self) -> Result<(), Error> {
        let mut frames = vec![Frame { items: self.source.list(Path::new(""))?.into_iter(), path: PathBuf::new() }];
        while let Some(frame) = frames.last_mut() {
            let Some((name, item)) = frame.items.next() else {
                let left = frames.pop().map(|f| f.path).unwrap_or_default();
                self.leave(&left)?;
                continue;
            };
            match item {
                Item::Gone => {
                    let name = [WHITEOUT, name.as_bytes()].concat();
                    let path = frame.path.join(std::ffi::OsStr::from_bytes(&name));
                    self.mark(&path)?;
                }
                Item::Node(dir) if dir.is_dir() => {
                    let items = self.source.list(&dir.path)?.into_iter();
                    frames.push(Frame { items, path: dir.path.clone() });
                    let hides = self.source.hides_lower(&dir)?;
                    let opaque = hides.then(|| dir.path.join(std::ffi::OsStr::from_bytes(OPAQUE)));
                    self.pending.push(*dir);
                    if let Some(mark) = opaque {
                        self.mark(&mark)?;
                    }
                }
                Item::Node(node) => self.node(&node)?,
            }
        }
        Ok(())
    }

    /// The walk leaves a directory: one that nothing needed is written only where it says something itself.
    fn leave(&mut self, path: &Path) -> Result<(), Error> {
        let Some(dir) = self.pending.pop_if(|d| d.path == path) else { return Ok(()) };
        if self.source.is_unchanged(&dir)? {
            return Ok(());
        }
        self.pending.push(dir);
        self.flush()
    }

    /// Writes the directories that lead to what comes next.
    fn flush(&mut self) -> Result<(), Error> {
        for dir in std::mem::take(&mut self.pending) {
            let xattrs = self.source.view().xattrs(&dir)?;
            self.append(&dir, EntryKind::Dir, &xattrs)?;
        }
        Ok(())
    }

    /// Writes a whiteout or an opaque mark. It has no metadata that anybody reads.
    fn mark(&mut self, path: &Path) -> Result<(), Error> {
        self.flush()?;
        let entry = Entry { mode: 0, ..Entry::file(path.as_os_str().as_bytes(), 0) };
        self.tar.append(&entry).map_err(Error::Output)
    }

    fn node(&mut self, node: &Node) -> Result<(), Error> {
        if node.meta.kind == Kind::Socket {
            return Ok(());
        }
        self.flush()?;
        if node.meta.nlink > 1 {
            let key = (node.meta.dev, node.meta.ino, node.layer);
            if let Some(first) = self.links.get(&key) {
                let first = first.as_os_str().as_bytes().to_vec();
                return self.append(node, EntryKind::Hardlink(&first), &Xattrs::new());
            }
            self.links.insert(key, node.path.clone());
        }
        let view = self.source.view();
        let xattrs = view.xattrs(node)?;
        let target = match node.meta.kind {
            Kind::Symlink => view.read_link(node)?,
            _ => PathBuf::new(),
        };
        match EntryKind::of(node.meta.kind, target.as_os_str().as_bytes()) {
            Some(kind) => self.append(node, kind, &xattrs),
            None => Ok(()),
        }
    }

    fn append(&mut self, node: &Node, kind: EntryKind, xattrs: &Xattrs) -> Result<(), Error> {
        let is_file = kind == EntryKind::File;
        let entry = Entry {
            path: node.path.as_os_str().as_bytes(),
            kind,
            mode: node.meta.mode,
            uid: node.meta.uid,
            gid: node.meta.gid,
            size: if is_file { node.meta.size } else { 0 },
            mtime: self.times.of(node.meta.mtime.sec),
            xattrs: (!xattrs.is_empty()).then_some(xattrs),
        };
        if !is_file || entry.size == 0 {
            return self.tar.append(&entry).map_err(Error::Output);
        }
        let file = self.source.view().open_file(node)?;
        let mut reading = None;
        let content = Remember { inner: file, error: &mut reading };
        match self.tar.append_file(&entry, content) {
            Ok(()) => Ok(()),
            Err(e) => Err(match reading {
                Some(read) => Error::file("read", &node.path)(read),
                None if e.kind() == io::ErrorKind::UnexpectedEof => Error::file("read", &node.path)(e),
                None => Error::Output(e),
            }),
        }
    }
}

/// Tells a failed read from a failed write in a copy.
struct Remember<'a, R> {
    inner: R,
    error: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Remember<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                *self.error = Some(e.kind().into());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// A layer directory in which `fill` makes files.
    fn layer(fill: impl FnOnce(&Path)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let fs = dir.path().join("fs");
        fs::create_dir(&fs).unwrap();
        fill(&fs);
        dir
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries.map(|e| String::from_utf8_lossy(&e.unwrap().path_bytes()).into_owned()).collect()
    }

    fn diff(upper: &Path, lower: &[&Path]) -> Vec<u8> {
        let lower = Merged::open(lower, &IdMap::Plain).unwrap();
        let mut out = vec![];
        let stats = write_layer(upper, &lower, &IdMap::Plain, &Times::default(), &mut out).unwrap();
        assert_eq!((stats.size, stats.diff_id.0), (out.len() as u64, crate::oci::Digest::of(&out)));
        out
    }

    fn whiteout(path: &Path) {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .unwrap();
    }

    #[test]
    fn entries_are_sorted_and_parents_come_first() {
        let upper = layer(|fs| {
            fs::create_dir_all(fs.join("b/c")).unwrap();
            fs::write(fs.join("b/c/x"), "1").unwrap();
            fs::write(fs.join("b-file"), "2").unwrap();
            symlink("/nowhere", fs.join("a")).unwrap();
        });
        let tar = diff(upper.path(), &[]);
        assert_eq!(names(&tar), ["a", "b/", "b/c/", "b/c/x", "b-file"]);
        assert_eq!(tar, diff(upper.path(), &[]));
    }

    #[test]
    fn what_is_gone_is_a_whiteout_only_where_it_was() {
        let lower = layer(|fs| {
            fs::create_dir(fs.join("d")).unwrap();
            fs::write(fs.join("d/there"), "").unwrap();
        });
        let upper = layer(|fs| {
            fs::create_dir(fs.join("d")).unwrap();
            whiteout(&fs.join("d/there"));
            whiteout(&fs.join("d/never"));
        });
        assert_eq!(names(&diff(upper.path(), &[lower.path()])), ["d/", "d/.wh.there"]);
    }

    #[test]
    fn an_opaque_directory_is_marked() {
        let lower = layer(|fs| {
            fs::create_dir(fs.join("d")).unwrap();
            fs::write(fs.join("d/old"), "").unwrap();
        });
        let upper = layer(|fs| {
            for name in ["d", "new"] {
                let dir = fs.join(name);
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("file"), "").unwrap();
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(&dir, "user.overlay.opaque", b"y", flags).unwrap();
            }
        });
        let tar = diff(upper.path(), &[lower.path()]);
        assert_eq!(names(&tar), ["d/", "d/.wh..wh..opq", "d/file", "new/", "new/file"]);
        assert!(!tar.windows(7).any(|w| w == b"overlay"));
    }

    #[test]
    fn a_directory_that_was_only_copied_up_is_left_out() {
        let lower = layer(|fs| fs::create_dir_all(fs.join("a/b")).unwrap());
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        let upper = layer(|fs| fs::create_dir_all(fs.join("a/b")).unwrap());
        for dir in [lower.path(), upper.path()] {
            for sub in ["fs/a/b", "fs/a"] {
                fs::File::open(dir.join(sub)).unwrap().set_modified(time).unwrap();
            }
        }
        assert_eq!(names(&diff(upper.path(), &[lower.path()])), Vec::<String>::new());
        fs::set_permissions(upper.path().join("fs/a/b"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(names(&diff(upper.path(), &[lower.path()])), ["a/", "a/b/"]);
    }

    #[test]
    fn a_second_name_is_a_link() {
        let upper = layer(|fs| {
            fs::write(fs.join("one"), "content").unwrap();
            fs::hard_link(fs.join("one"), fs.join("two")).unwrap();
        });
        let tar = diff(upper.path(), &[]);
        let mut archive = tar::Archive::new(&tar[..]);
        let kinds: Vec<_> = archive.entries().unwrap().map(|e| e.unwrap().header().entry_type()).collect();
        assert_eq!(kinds, [tar::EntryType::Regular, tar::EntryType::Link]);
    }

    #[test]
    fn times_are_clamped_or_set() {
        let upper = layer(|fs| fs::write(fs.join("f"), "").unwrap());
        let mtime = |times: Times| {
            let mut out = vec![];
            let lower = Merged::open::<&Path>(&[], &IdMap::Plain).unwrap();
            write_layer(upper.path(), &lower, &IdMap::Plain, &times, &mut out).unwrap();
            tar::Archive::new(&out[..]).entries().unwrap().next().unwrap().unwrap().header().mtime().unwrap()
        };
        assert_eq!(mtime(Times { clamp_to: Some(1000), set_to: None }), 1000);
        assert_eq!(mtime(Times { clamp_to: Some(1000), set_to: Some(2000) }), 2000);
        assert!(mtime(Times { clamp_to: Some(1 << 33), set_to: None }) < 1 << 33);
    }

    #[test]
    fn a_view_is_written_whole() {
        let lower = layer(|fs| {
            fs::write(fs.join("gone"), "").unwrap();
            fs::write(fs.join("kept"), "").unwrap();
        });
        let upper = layer(|fs| {
            whiteout(&fs.join("gone"));
            fs::write(fs.join("new"), "").unwrap();
        });
        let view = Merged::open(&[lower.path(), upper.path()], &IdMap::Plain).unwrap();
        let mut out = vec![];
        write_tree(&view, &Times::default(), &mut out).unwrap();
        assert_eq!(names(&out), ["kept", "new"]);
    }
}
