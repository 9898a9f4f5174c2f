//! What a name means, and what a directory holds: overlayfs' rules.

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::layers::Layer;
use super::tree::{At, Found, Node};
use super::{Overlay, Result, join};
use crate::archive::whiteout;

/// A name in a directory.
pub(super) struct Item {
    pub name: OsString,
    pub kind: FileType,
    pub ino: u64,
}

/// Open directories, each with what it held when reading began.
#[derive(Default)]
pub(super) struct Handles {
    next: u64,
    open: HashMap<u64, Listing>,
}

type Listing = Arc<Mutex<Option<Arc<Vec<Item>>>>>;

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl Overlay {
    /// What is called `name` in a directory, by looking at the disk. To be called while names are still.
    pub fn find(&self, dir: &Node, at: &Path, name: &OsStr) -> Result<Option<Found>> {
        let path = join(at, name);
        let mut found: Option<Found> = None;
        if dir.is_upper()
            && let Some(stat) = self.upper.stat(&path)?
        {
            if whiteout::is(&stat) {
                return Ok(None);
            }
            let kind = kind(&stat);
            let identity = (stat.st_dev, stat.st_ino);
            let closed = kind != FileType::Directory || !dir.lowers.is_empty() && self.upper.is_opaque(&path)?;
            found = Some(Found { kind, upper: true, lowers: Vec::new(), stat, identity });
            if closed {
                return Ok(found);
            }
        }
        for (place, index) in dir.lowers.iter().copied().enumerate() {
            let layer = self.lower(index)?;
            let Some(stat) = layer.stat(&path)? else { continue };
            let kind = kind(&stat);
            if whiteout::is(&stat) || found.is_some() && kind != FileType::Directory {
                break;
            }
            let identity = (stat.st_dev, stat.st_ino);
            let known = found.get_or_insert(Found { kind, upper: false, lowers: Vec::new(), stat, identity });
            if known.lowers.is_empty() {
                // A merged directory keeps its number when it is copied up.
                known.identity = identity;
            }
            known.lowers.push(index);
            if kind != FileType::Directory || place + 1 < dir.lowers.len() && layer.is_opaque(&path)? {
                break;
            }
        }
        Ok(found)
    }

    /// What the lower layers alone have under a name; it shows through where the upper directory has nothing.
    pub fn below(&self, dir: &Node, path: &Path) -> Result<Option<FileType>> {
        for index in dir.lowers.iter().copied() {
            if let Some(stat) = self.lower(index)?.stat(path)? {
                return Ok((!whiteout::is(&stat)).then(|| kind(&stat)));
            }
        }
        Ok(None)
    }

    /// Looks a name up, and counts the answer that will name it.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Option<(Arc<Node>, Stat)>> {
        let dir = self.tree().dir(parent)?;
        let _still = self.still();
        let at = self.tree().path(parent)?;
        self.lookup_at(&dir, &at, name)
    }

    fn lookup_at(&self, dir: &Node, at: &Path, name: &OsStr) -> Result<Option<(Arc<Node>, Stat)>> {
        let Some(found) = self.find(dir, at, name)? else { return Ok(None) };
        let node = self.tree().enter(dir.id, name, &found);
        // It may have been copied up meanwhile.
        if node.is_upper() == found.upper {
            return Ok(Some((node, found.stat)));
        }
        match self.upper.stat(&join(at, name)) {
            Ok(Some(stat)) => Ok(Some((node, stat))),
            other => {
                self.tree().forget(node.id, 1);
                other.map(|_| None)
            }
        }
    }

    /// The names in a directory, merged.
    pub fn list(&self, dir: &Node) -> Result<Vec<Item>> {
        if matches!(dir.place().at, At::Gone(_)) {
            return Ok(Vec::new());
        }
        let _still = self.still();
        let at = self.tree().path(dir.id)?;
        let mut items: Vec<Item> = Vec::new();
        // By name: the place in `items`, none for a whiteout. With one layer no name can come twice.
        let mut seen: HashMap<OsString, Option<usize>> = HashMap::new();
        let layers = dir.lowers.iter().map(|index| self.lower(*index)).collect::<Result<Vec<&Layer>>>()?;
        let upper = dir.is_upper().then_some((true, &self.upper));
        let all = upper.into_iter().chain(layers.into_iter().map(|layer| (false, layer)));
        let mut merged: Vec<usize> = Vec::new();
        let alone = usize::from(dir.is_upper()) + dir.lowers.len() == 1;
        for (upper, layer) in all {
            let fd = layer.open_at(&at, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let device = rustix::fs::fstat(&fd)?.st_dev;
            for entry in rustix::fs::Dir::read_from(&fd)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                let mut kind = entry.file_type();
                if whiteout::may_be(kind) {
                    let Some(stat) = layer.stat(&join(&at, name))? else { continue };
                    kind = self::kind(&stat);
                    if whiteout::is(&stat) {
                        seen.entry(name.to_owned()).or_insert(None);
                        continue;
                    }
                }
                let ino = match upper && kind != FileType::Directory {
                    true => self.tree().shown_upper(entry.ino()),
                    false => self.tree().shown((device, entry.ino())),
                };
                let item = Item { name: name.to_owned(), kind, ino };
                if alone {
                    items.push(item);
                    continue;
                }
                match seen.entry(name.to_owned()) {
                    Entry::Vacant(slot) => {
                        slot.insert(Some(items.len()));
                        items.push(item);
                    }
                    Entry::Occupied(slot) => {
                        if let Some(at) = *slot.get()
                            && items.get(at).is_some_and(|known| known.kind == FileType::Directory)
                            && kind == FileType::Directory
                        {
                            merged.push(at);
                        }
                    }
                }
            }
        }
        // Which of several directories gives the number depends on what hides what.
        merged.dedup();
        for item in merged {
            let Some(item) = items.get_mut(item) else { continue };
            if let Some(found) = self.find(dir, &at, &item.name)? {
                item.ino = self.tree().shown(found.identity);
            }
        }
        Ok(items)
    }

    /// Opens a directory for reading.
    pub fn open_dir(&self) -> u64 {
        let mut handles = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        handles.next += 1;
        let handle = handles.next;
        handles.open.insert(handle, Listing::default());
        handle
    }

    /// Closes it.
    pub fn close_dir(&self, handle: u64) {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&handle);
    }

    /// What an open directory holds; `again` reads it anew.
    pub fn listing(&self, node: &Node, handle: u64, again: bool) -> Result<Arc<Vec<Item>>> {
        let handles = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = handles.open.get(&handle).cloned().ok_or(Errno::BADF)?;
        drop(handles);
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        match &*listing {
            Some(items) if !again => Ok(items.clone()),
            _ => {
                let items = Arc::new(self.list(node)?);
                *listing = Some(items.clone());
                Ok(items)
            }
        }
    }

    /// Whether a directory has nothing in it; then, what its upper directory holds is whiteouts only.
    pub fn is_empty(&self, dir: &Node) -> Result<bool> {
        Ok(self.list(dir)?.is_empty())
    }
}
