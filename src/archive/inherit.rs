//! What the files of a step keep of the records of the layers below: see "Steps that change recorded files" in
//! `docs/records.md`.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::diff::Replaced;
use super::error::Error;
use super::merged::{self, FS, Merged};
use super::node::{self, Disk, Kind, Node, Xattrs};
use super::record::Record;

/// Paths of replaced files that are named to the user.
const NAMED: usize = 5;

/// The records of the lower layers, as far as files of an upper directory keep them.
pub(super) struct Inheritance<'a> {
    dir: &'a Path,
    fs: &'a OwnedFd,
    lower: &'a Merged,
    pub replaced: Replaced,
}

impl<'a> Inheritance<'a> {
    pub fn new(dir: &'a Path, fs: &'a OwnedFd, lower: &'a Merged) -> Self {
        Inheritance { dir, fs, lower, replaced: Replaced::default() }
    }

    /// What the file at `path` keeps. `fd` is open for regular files and directories; `below` is what the lower layers have
    /// under the same path.
    pub fn record(
        &mut self,
        path: &Path,
        stat: &Stat,
        fd: Option<&OwnedFd>,
        below: Option<&Node>,
        xattrs: &Xattrs,
    ) -> Result<Record, Error> {
        if !self.lower.has_records() {
            return Ok(Record::default());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let recorded = below.and_then(|node| Some((node, node.record.as_deref()?)));
        let Some(fd) = fd else {
            // Links and pipes carry no mark.
            return Ok(match recorded {
                Some((node, record)) if self.equal(path, kind, node)? => owner(record),
                _ => Record::default(),
            });
        };
        let failed = |e| Error::file("read attributes of", &self.dir.join(FS).join(path))(e);
        let mark = node::owner_mark(fd).map_err(failed)?;
        let copied_up = merged::origin_mark(fd).map_err(failed)?;
        let mut kept = match recorded {
            // A marked file that lost its mark is another file, which was moved here.
            Some((node, record)) if copied_up && (mark.is_some() || !self.is_marked(node, record)?) => {
                inherited(stat, &node.disk, record, xattrs)
            }
            Some((node, record)) if !copied_up && mark.is_none() && kind == FileType::RegularFile && node.is_file() => {
                let kept = owner(record);
                if let (Some(uid), Some(gid)) = (kept.uid, kept.gid) {
                    node::mark_owner(fd, uid, gid);
                    self.replaced.add(path);
                }
                kept
            }
            _ => Record::default(),
        };
        if let Some((uid, gid)) = mark {
            (kept.uid, kept.gid) = (Some(uid), Some(gid));
        }
        Ok(kept)
    }

    fn is_marked(&self, node: &Node, record: &Record) -> Result<bool, Error> {
        let has_owner = record.uid.is_some() || record.gid.is_some();
        Ok(has_owner && (node.is_file() || node.is_dir()) && self.lower.owner_mark(node)?.is_some())
    }

    /// Whether a link or a pipe is what the lower layers have.
    fn equal(&self, path: &Path, kind: FileType, below: &Node) -> Result<bool, Error> {
        Ok(match (kind, below.meta.kind) {
            (FileType::Symlink, Kind::Symlink) => {
                let target = rustix::fs::readlinkat(self.fs, path, Vec::new())
                    .map_err(|e| Error::file("read link", &self.dir.join(FS).join(path))(e))?;
                target.as_bytes() == node::bytes(&self.lower.read_link(below)?)
            }
            (FileType::Fifo, Kind::Fifo) => true,
            _ => false,
        })
    }
}

impl Replaced {
    fn add(&mut self, path: &Path) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path.to_owned());
        }
    }
}

/// The owner alone.
fn owner(record: &Record) -> Record {
    Record { uid: record.uid, gid: record.gid, ..Record::default() }
}

/// What a copied-up file keeps of the lower file's record: each value whose counterpart on disk was left alone.
fn inherited(stat: &Stat, below: &Disk, record: &Record, xattrs: &Xattrs) -> Record {
    let disk = Disk::of(stat);
    let owner = (disk.uid, disk.gid) == (below.uid, below.gid);
    let mut kept = Record {
        uid: record.uid.filter(|_| owner),
        gid: record.gid.filter(|_| owner),
        mode: record.mode.filter(|_| disk.mode == below.mode),
        device: record.device.filter(|_| stat.st_size == 0),
        xattrs: record.xattrs.clone(),
        opaque: false,
    };
    kept.xattrs.retain(|name, _| !xattrs.contains_key(name));
    kept
}
