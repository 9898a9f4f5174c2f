//! A tree of one file, or of none.

use crate::archive::copy::Tree;
use crate::archive::error::Error;
use crate::archive::node::{Kind, Meta, Time, Xattrs};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A root directory with at most one file in it, which lies anywhere on this machine.
pub(super) struct Loose(Option<Entry>);

struct Entry {
    name: PathBuf,
    meta: Meta,
    /// Where the content lies.
    content: PathBuf,
}

const ROOT: Meta =
    Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: Time::seconds(0), nlink: 2, ino: 0, dev: 0 };

impl Loose {
    /// A tree without files.
    pub(super) fn empty() -> Loose {
        Loose(None)
    }

    /// A tree with a file of root's that only root may read, as ADD makes one of a download.
    pub(super) fn file(name: &str, size: u64, mtime: Time, content: PathBuf) -> Loose {
        let meta = Meta { kind: Kind::File, mode: 0o600, size, mtime, nlink: 1, ..ROOT };
        Loose(Some(Entry { name: PathBuf::from(name), meta, content }))
    }

    fn entry(&self, path: &Path) -> Option<&Entry> {
        self.0.as_ref().filter(|e| e.name == path)
    }
}

impl Tree for Loose {
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, Error> {
        if path.as_os_str().is_empty() {
            return Ok(Some(ROOT));
        }
        Ok(self.entry(path).map(|e| e.meta))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, Error> {
        let entries = self.0.iter().filter(|_| path.as_os_str().is_empty());
        Ok(entries.map(|e| (e.name.clone().into_os_string(), e.meta)).collect())
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, Error> {
        Err(Error::Missing(path.to_owned()))
    }

    fn open(&self, path: &Path) -> Result<File, Error> {
        let entry = self.entry(path).ok_or_else(|| Error::Missing(path.to_owned()))?;
        File::open(&entry.content).map_err(Error::file("open", &entry.content))
    }

    fn xattrs(&self, _path: &Path, _open: Option<&File>) -> Result<Xattrs, Error> {
        Ok(Xattrs::new())
    }
}
