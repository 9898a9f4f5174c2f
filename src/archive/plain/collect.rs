//! From a changed tree to the layer directory that overlayfs would have left.
//!
//! | in the tree                                          | in the layer directory                                  |
//! |------------------------------------------------------|---------------------------------------------------------|
//! | a file that is new, or whose inode changed           | a copy, with those of its parents that are not there yet|
//! | a lower file's inode that has several names          | a copy for each name that differs: overlayfs breaks them|
//! | a further name of such a file                        | a link to the copy of its first name                    |
//! | several new names of one inode                       | links                                                   |
//! | a name that is gone                                  | a whiteout, where lower layers have it                  |
//! | another directory than before                        | opaque, where lower layers have one                     |
//! | a device node                                        | an empty file and a record                              |
//!
//! What is there already in the layer directory is what the tree was before; files that differ are replaced.

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::make::{CREATE, mkdir};
use super::raw::{self, Attributes, Basics};
use super::state::{Change, Changes, Entry, Identity, Kind, State};
use super::{Plain, Sharing, Touched};
use crate::archive::attrs::set_opaque;
use crate::archive::copy::transfer::Transfer;
use crate::archive::diff::same_contents;
use crate::archive::error::Error;
use crate::archive::layer::{self, FS};
use crate::archive::merged::Merged;
use crate::archive::node::{self, Node};
use crate::archive::record::{Device, Record, Records};
use crate::archive::upper;
use crate::archive::whiteout;
use crate::sys::idmap::IdMap;

impl Plain {
    /// Puts what has changed since the tree was settled into the layer directory `top`, over `lower`. What the tree is now
    /// is what the next call compares with, once it was settled.
    ///
    /// `kept` is what the supervisor of the step kept of the files, and had of them before: each by path, and complete.
    /// `touched` is what the step may have changed, where somebody knows.
    ///
    /// # Errors
    /// A file cannot be read or copied. `top` is then good for nothing, and so is the tree.
    pub fn collect(
        &mut self,
        lower: &Merged,
        top: &Path,
        kept: &Kept<'_>,
        touched: Option<&Touched>,
    ) -> Result<(), Error> {
        let found = self.look_again(touched)?;
        let forced = kept.changed(found.as_ref().unwrap_or(&self.state));
        if found.is_none() && forced.is_empty() {
            return Ok(());
        }
        let new = found.unwrap_or_else(|| self.state.clone());
        let old = std::mem::take(&mut self.state);
        self.known = false;
        let shared = self.sharing == Sharing::Broken;
        let mut transfer = std::mem::take(&mut self.transfer);
        let mut collector = Collector {
            tree: self,
            lower,
            top,
            fs: layer::open_fs(top)?,
            records: Records::load(top)?,
            recorded: false,
            families: families(&old, &new, shared, &forced),
            kept: kept.after,
            forced: &forced,
            old: &old,
            new: &new,
            transfer: &mut transfer,
            levels: vec![],
        };
        for change in Changes::new(&old, &new, shared, &forced) {
            collector.take(change)?;
        }
        if collector.recorded {
            collector.records.save(top)?;
        }
        self.transfer = transfer;
        (self.state, self.known) = (new, true);
        Ok(())
    }
}

/// What a supervisor of a step keeps of the files of a tree: what their file system cannot store.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'k> {
    /// When the step began.
    pub before: &'k Records,
    /// When it had ended.
    pub after: &'k Records,
}

impl Kept<'_> {
    /// Files of which something else is recorded now.
    fn changed(&self, new: &State) -> HashSet<usize> {
        let differs = |path: &Path| self.before.get(path) != self.after.get(path);
        let all = self.before.iter().chain(self.after.iter()).map(|(path, _)| path);
        all.filter(|path| differs(path)).filter_map(|path| new.find(path)).collect()
    }
}

/// The names of one inode that has or had several.
#[derive(Debug, Default)]
struct Family {
    /// Names that it had and has.
    kept: u32,
    /// Names that are new.
    added: u32,
    /// Names that it had.
    lost: u32,
    /// Where the first of the names that are linked lies in the layer directory.
    first: Option<PathBuf>,
    /// Whether a kept name is among those.
    led: bool,
}

/// All families that a step changed.
fn families(old: &State, new: &State, shared: bool, forced: &HashSet<usize>) -> HashMap<Identity, Family> {
    let mut all: HashMap<Identity, Family> = HashMap::new();
    let lose = |all: &mut HashMap<Identity, Family>, index: usize| {
        for entry in old.subtree(index).filter_map(|i| old.entry(i)).filter(|e| e.linked) {
            all.entry(entry.identity).or_default().lost += 1;
        }
    };
    for change in Changes::new(old, new, shared, forced) {
        match change {
            Change::Gone { old } => lose(&mut all, old),
            Change::Enter { instead: Some(old), .. } => lose(&mut all, old),
            Change::Enter { .. } | Change::Leave => {}
            Change::Put { old: before, new: index } => {
                let Some(entry) = new.entry(index) else { continue };
                let kept = before.and_then(|old_index| old.entry(old_index)).is_some_and(|was| same_file(was, entry));
                if let Some(gone) = before.filter(|_| !kept) {
                    lose(&mut all, gone);
                }
                if entry.linked {
                    let family = all.entry(entry.identity).or_default();
                    *(if kept { &mut family.kept } else { &mut family.added }) += 1;
                }
            }
        }
    }
    all
}

fn same_file(was: &Entry, is: &Entry) -> bool {
    was.kind == is.kind && was.identity == is.identity
}

/// A directory on the way.
struct Level {
    path: PathBuf,
    /// Whether the layer directory has it; `None`: nobody has looked.
    in_top: Option<bool>,
    /// Whether a lower directory shows through.
    lower: Option<bool>,
    /// Whether its own metadata or names have changed.
    touched: bool,
    /// Whether something was done in it.
    dirty: bool,
}

struct Collector<'a> {
    tree: &'a Plain,
    lower: &'a Merged,
    top: &'a Path,
    fs: OwnedFd,
    records: Records,
    recorded: bool,
    families: HashMap<Identity, Family>,
    /// What is recorded now.
    kept: &'a Records,
    forced: &'a HashSet<usize>,
    old: &'a State,
    new: &'a State,
    transfer: &'a mut Transfer,
    levels: Vec<Level>,
}

impl Collector<'_> {
    fn take(&mut self, change: Change) -> Result<(), Error> {
        match change {
            Change::Enter { old, new, .. } => self.enter(old, new),
            Change::Leave => self.leave(),
            Change::Put { old, new } => self.file(old, new),
            Change::Gone { old } => {
                let path = self.path(self.old.name(old));
                self.gone(&path)
            }
        }
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        match self.levels.last() {
            Some(level) => level.path.join(name),
            None => PathBuf::new(),
        }
    }

    fn enter(&mut self, old: Option<usize>, new: usize) -> Result<(), Error> {
        let path = self.path(self.new.name(new));
        let root = self.levels.is_empty();
        if old.is_some() || root {
            let touched = old.is_none_or(|old| self.old.touched(old, self.new, new)) || self.forced.contains(&new);
            let known = root.then_some(true);
            let lower = root.then(|| self.lower.layers() > 0);
            self.levels.push(Level { path, in_top: known, lower, touched, dirty: root && touched });
            return Ok(());
        }
        self.parents()?;
        self.clear(&path)?;
        mkdir(&self.fs, path.as_os_str()).map_err(|e| self.failed("create directory", &path, e))?;
        if self.shows_through()? && self.lower.lookup(&path)?.is_some_and(|node| node.is_dir()) {
            let dir = self.open(&path)?;
            if !set_opaque(&dir).map_err(|e| self.failed("mark as opaque", &path, e))? {
                self.record(&path, |record| record.opaque = true);
            }
        }
        let (in_top, lower) = (Some(true), Some(false));
        self.levels.push(Level { path, in_top, lower, touched: true, dirty: true });
        Ok(())
    }

    /// What is in the directory is done: now it can have its time.
    fn leave(&mut self) -> Result<(), Error> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        if level.touched && !level.dirty && (self.in_top(self.levels.len() - 1)? || !self.same_dir()?) {
            self.parents()?;
        }
        let Some(level) = self.levels.pop() else { return Ok(()) };
        if !level.dirty {
            return Ok(());
        }
        let path = &level.path;
        let from = self.tree.open_dir(path)?;
        let to = self.open(path)?;
        let set = || -> Result<(), Errno> {
            let mut attributes = raw::of_tree(&from)?;
            node::take_owner(&mut attributes);
            let stale = raw::of_layer(&to)?;
            for name in stale.keys().filter(|name| !attributes.contains_key(*name)) {
                rustix::fs::fremovexattr(&to, name.as_slice())?;
            }
            let basics = Basics::of(&rustix::fs::fstat(&from)?);
            raw::apply(&to, &basics, &self.tree.map, || raw::set_in_layer(&to, &attributes))
        };
        set().map_err(|e| self.failed("set the metadata of", path, e))?;
        self.note(path, Some(&to))
    }

    /// Records what a supervisor says of a file of the layer directory, and marks the file as rbuild marks those that it
    /// makes itself.
    fn note(&mut self, path: &Path, file: Option<&OwnedFd>) -> Result<(), Error> {
        let mut record = self.kept.get(path).map(|record| Record::clone(record)).unwrap_or_default();
        if let (Some(file), Some(_)) = (file, record.uid.or(record.gid)) {
            node::mark_owner(file, record.uid.unwrap_or(0), record.gid.unwrap_or(0));
        }
        // Said outright, so that nobody takes the file for one that has the lower one's owner.
        if !matches!(self.tree.map, IdMap::Ranged { .. }) && self.lower.has_recorded_owner(path)? {
            record.uid.get_or_insert(0);
            record.gid.get_or_insert(0);
        }
        let old = self.records.get(path);
        record.opaque = old.is_some_and(|old| old.opaque);
        record.device = record.device.or(old.and_then(|old| old.device));
        self.records.insert(path, record);
        self.recorded = true;
        Ok(())
    }

    /// Whether the same is recorded of a file as of the lower one.
    fn same_record(&self, path: &Path, below: &Node) -> bool {
        let key = |record: Option<&Record>| {
            let record = record.cloned().unwrap_or_default();
            (record.uid.unwrap_or(0), record.gid.unwrap_or(0), record.mode, record.device, record.xattrs)
        };
        key(self.kept.get(path).map(|record| &**record)) == key(below.record.as_deref())
    }

    /// Whether the directory that is being left has the metadata of the lower one.
    fn same_dir(&mut self) -> Result<bool, Error> {
        let Some(level) = self.levels.last() else { return Ok(false) };
        let path = level.path.clone();
        let below = match self.levels.len() > 1 && self.shows_through_at(self.levels.len() - 2)? {
            true => self.lower.lookup(&path)?.filter(Node::is_dir),
            false => None,
        };
        let Some(below) = below else { return Ok(false) };
        let from = self.tree.open_dir(&path)?;
        let stat = rustix::fs::fstat(&from).map_err(|e| self.failed("inspect", &path, e))?;
        let attributes = raw::of_tree(&from).map_err(|e| self.failed("inspect", &path, e))?;
        let same = same_basics(&stat, &below) && self.same_record(&path, &below);
        Ok(same && self.lower_attributes(&below)? == attributes)
    }

    fn lower_attributes(&self, below: &Node) -> Result<Attributes, Error> {
        let from = self.lower.open_raw(below)?;
        raw::of_layer(&from).map_err(|e| self.failed("inspect", &below.path, e))
    }

    fn gone(&mut self, path: &Path) -> Result<(), Error> {
        let hides = self.shows_through()? && self.lower.lookup(path)?.is_some();
        if !hides && !self.in_top(self.levels.len().saturating_sub(1))? {
            return Ok(());
        }
        self.parents()?;
        self.clear(path)?;
        if !self.records.is_empty() {
            self.records.remove_tree(path);
            self.recorded = true;
        }
        if hides {
            whiteout::make(&self.fs, path.as_os_str()).map_err(|e| self.failed("create whiteout", path, e))?;
        }
        Ok(())
    }

    fn file(&mut self, old: Option<usize>, new: usize) -> Result<(), Error> {
        let Some(entry) = self.new.entry(new).copied() else { return Ok(()) };
        let path = self.path(self.new.name(new));
        let kept = old.and_then(|old| self.old.entry(old)).is_some_and(|was| same_file(was, &entry));
        let Some(stat) = self.tree.stat(&path)? else { return Err(Error::Missing(self.tree.absolute(&path))) };
        let above = self.levels.len().saturating_sub(1);
        // Of this layer already: its names stay names of one file.
        let own = kept && self.in_top(above)? && self.is_file_of_top(&path)?;
        let mut linked = false;
        if let Some(family) = self.families.get_mut(&entry.identity) {
            linked = match kept && !own {
                false => true,
                // A new name is one of the first kept name, unless there are no more names than before: then some of them
                // were renamed.
                true => family.added > family.lost && !family.led,
            };
            family.led |= linked && kept;
        }
        if kept && !own && !linked && self.same_as_lower(&path, &stat)? {
            return Ok(());
        }
        self.parents()?;
        self.clear(&path)?;
        let first = match linked {
            true => self.families.get(&entry.identity).and_then(|family| family.first.clone()),
            false => None,
        };
        match first {
            Some(first) => {
                rustix::fs::linkat(&self.fs, &first, &self.fs, &path, AtFlags::empty())
                    .map_err(|e| self.failed("link", &path, e))?;
                self.note(&path, None)?;
            }
            None => {
                self.copy(&path, &stat, &entry)?;
                if linked && let Some(family) = self.families.get_mut(&entry.identity) {
                    family.first = Some(path);
                }
            }
        }
        Ok(())
    }

    /// Copies a file of the tree into the layer directory.
    fn copy(&mut self, path: &Path, stat: &Stat, entry: &Entry) -> Result<(), Error> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let to = self.open(parent)?;
        let basics = Basics::of(stat);
        let map = self.tree.map;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let done = match kind {
            FileType::Symlink => self.symlink(path, &to, name, &basics, &map).map(|()| None),
            FileType::Fifo | FileType::Socket => rustix::fs::mknodat(&to, name, kind, Mode::from_raw_mode(0o600), 0)
                .and_then(|()| raw::apply_named(&to, name, &basics, &map, false))
                .map(|()| None)
                .map_err(Into::into),
            FileType::CharacterDevice | FileType::BlockDevice => {
                self.device(path, &to, name, stat, &basics).map(|()| None)
            }
            _ => {
                // Where files may be shared, the next step changes no file of a layer directory either.
                let shared = self.tree.sharing == Sharing::Broken && entry.kind == Kind::File;
                self.regular(path, &to, name, &basics, shared)
            }
        };
        let file: Option<OwnedFd> = done.map_err(|e| self.failed("copy to", path, e))?;
        self.note(path, file.as_ref())
    }

    fn symlink(
        &self,
        path: &Path,
        to: &OwnedFd,
        name: &OsStr,
        basics: &Basics,
        map: &IdMap,
    ) -> Result<(), std::io::Error> {
        let target = rustix::fs::readlinkat(&self.tree.fd, path, Vec::new())?;
        rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        Ok(raw::apply_named(to, name, basics, map, true)?)
    }

    fn device(&mut self, path: &Path, to: &OwnedFd, name: &OsStr, stat: &Stat, basics: &Basics) -> std::io::Result<()> {
        let file = rustix::fs::openat(to, name, CREATE, Mode::from_raw_mode(0o600))?;
        raw::apply(&file, basics, &self.tree.map, || Ok(()))?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        let device = if block { Device::Block(major, minor) } else { Device::Char(major, minor) };
        self.record(path, |record| record.device = Some(device));
        Ok(())
    }

    fn regular(
        &mut self,
        path: &Path,
        to: &OwnedFd,
        name: &OsStr,
        basics: &Basics,
        shared: bool,
    ) -> std::io::Result<Option<OwnedFd>> {
        let from = layer::open_file(&self.tree.fd, path)?;
        let mut attributes = raw::of_tree(&from)?;
        node::take_owner(&mut attributes);
        if shared
            && attributes.is_empty()
            && rustix::fs::linkat(&self.tree.fd, path, to, name, AtFlags::empty()).is_ok()
        {
            return Ok(None);
        }
        let file = File::from(rustix::fs::openat(to, name, CREATE, Mode::from_raw_mode(0o600))?);
        self.transfer.run(&File::from(from), &file)?;
        raw::apply(&file, basics, &self.tree.map, || raw::set_in_layer(&file, &attributes))?;
        Ok(Some(file.into()))
    }

    /// Whether a file that counts as changed is what the lower layers have: its names or its times of change are others.
    fn same_as_lower(&mut self, path: &Path, stat: &Stat) -> Result<bool, Error> {
        let below = match self.shows_through()? {
            true => self.lower.lookup(path)?,
            false => None,
        };
        let Some(below) = below else { return Ok(false) };
        if !same_basics(stat, &below) || !self.same_record(path, &below) {
            return Ok(false);
        }
        let failed = |e: std::io::Error| self.failed("read", path, e);
        match (FileType::from_raw_mode(stat.st_mode), below.meta.kind) {
            (FileType::RegularFile, node::Kind::File | node::Kind::Char(..) | node::Kind::Block(..)) => {
                let here = layer::open_file(&self.tree.fd, path).map_err(|e| failed(e.into()))?;
                let attributes = raw::of_tree(&here).map_err(|e| failed(e.into()))?;
                let there = File::from(self.lower.open_raw(&below)?);
                let size = there.metadata().map_err(failed)?.len();
                Ok(u64::try_from(stat.st_size).ok() == Some(size)
                    && attributes == self.lower_attributes(&below)?
                    && same_contents(File::from(here), there).map_err(failed)?)
            }
            (FileType::Symlink, node::Kind::Symlink) => {
                let target = rustix::fs::readlinkat(&self.tree.fd, path, Vec::new()).map_err(|e| failed(e.into()))?;
                Ok(target.as_bytes() == node::bytes(&self.lower.read_link(&below)?))
            }
            (FileType::Fifo, node::Kind::Fifo) | (FileType::Socket, node::Kind::Socket) => Ok(true),
            _ => Ok(false),
        }
    }

    /// Whether lower layers show through in the directory where the walk is.
    fn shows_through(&mut self) -> Result<bool, Error> {
        self.shows_through_at(self.levels.len().saturating_sub(1))
    }

    fn shows_through_at(&mut self, last: usize) -> Result<bool, Error> {
        for index in 0..=last {
            if self.levels.get(index).is_none_or(|level| level.lower.is_some()) {
                continue;
            }
            let above = index.checked_sub(1).and_then(|i| self.levels.get(i)).and_then(|level| level.lower);
            let in_top = self.in_top(index)?;
            let Some(level) = self.levels.get(index) else { continue };
            let mut lower = above == Some(true) && self.lower.lookup(&level.path)?.is_some_and(|node| node.is_dir());
            if lower && in_top {
                let dir = self.open(&level.path)?;
                let marked = layer::opaque_mark(&dir).map_err(|e| self.failed("inspect", &level.path, e))?;
                lower = !marked && !self.records.get(&level.path).is_some_and(|record| record.opaque);
            }
            if let Some(level) = self.levels.get_mut(index) {
                level.lower = Some(lower);
            }
        }
        Ok(self.levels.get(last).and_then(|level| level.lower) == Some(true))
    }

    /// Whether the layer directory has the directory of a level.
    fn in_top(&mut self, last: usize) -> Result<bool, Error> {
        for index in 0..=last {
            let Some(level) = self.levels.get(index) else { break };
            if level.in_top.is_some() {
                continue;
            }
            let above = index.checked_sub(1).and_then(|i| self.levels.get(i)).and_then(|level| level.in_top);
            let stat = match above {
                Some(true) => layer::stat(&self.fs, &level.path).map_err(|e| self.failed("inspect", &level.path, e))?,
                _ => None,
            };
            let found = stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            if let Some(level) = self.levels.get_mut(index) {
                level.in_top = Some(found);
            }
        }
        Ok(self.levels.get(last).and_then(|level| level.in_top) == Some(true))
    }

    /// Makes the directories on the way, where they are missing. They get their metadata when they are left.
    fn parents(&mut self) -> Result<(), Error> {
        let Some(last) = self.levels.len().checked_sub(1) else { return Ok(()) };
        // What shows through has to be known before there is something new.
        self.shows_through_at(last)?;
        for index in 0..=last {
            if !self.in_top(index)?
                && let Some(path) = self.levels.get(index).map(|level| level.path.clone())
            {
                mkdir(&self.fs, path.as_os_str()).map_err(|e| self.failed("create directory", &path, e))?;
            }
            if let Some(level) = self.levels.get_mut(index) {
                level.in_top = Some(true);
                level.dirty = true;
            }
        }
        Ok(())
    }

    /// Whether the layer directory has something else than a whiteout or a directory there.
    fn is_file_of_top(&self, path: &Path) -> Result<bool, Error> {
        let stat = layer::stat(&self.fs, path).map_err(|e| self.failed("inspect", path, e))?;
        Ok(stat
            .is_some_and(|stat| !whiteout::is(&stat) && FileType::from_raw_mode(stat.st_mode) != FileType::Directory))
    }

    /// Deletes what the layer directory has at a path.
    fn clear(&mut self, path: &Path) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.fs, path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                if !self.records.is_empty() {
                    self.records.remove_tree(path);
                    self.recorded = true;
                }
                upper::remove_tree(&self.fs, path.as_os_str()).map_err(|e| self.failed("remove", path, e))
            }
            Err(e) => Err(self.failed("remove", path, e)),
        }
    }

    fn record(&mut self, path: &Path, change: impl FnOnce(&mut Record)) {
        let mut record = self.records.get(path).map(|known| Record::clone(known)).unwrap_or_default();
        change(&mut record);
        self.records.insert(path, record);
        self.recorded = true;
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Error> {
        layer::open_dir(&self.fs, path).map_err(|e| self.failed("open directory", path, e))
    }

    fn failed(&self, action: &'static str, path: &Path, e: impl Into<std::io::Error>) -> Error {
        Error::file(action, &self.top.join(FS).join(path))(e)
    }
}

fn same_basics(stat: &Stat, below: &Node) -> bool {
    let here = Basics::of(stat);
    let disk = &below.disk;
    (here.uid, here.gid, here.mode, here.mtime) == (disk.uid, disk.gid, disk.mode, below.meta.mtime)
}
