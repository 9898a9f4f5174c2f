//! What `stat` said of every file of a tree, in little memory, and how two such states differ.
//!
//! A state is a list of files in the order of a walk: a directory before what is in it, names sorted by their bytes. Each
//! entry knows where its subtree ends, so that the list needs no paths: some 40 bytes and the name for each file.

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::layer;

/// Files that one tree may have.
const MOST: usize = 20_000_000;
/// Bytes that their names may have.
const MOST_BYTES: usize = 2 << 30;

/// A point in time as one number; those of 1678 to 2262 stay apart.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: u32) -> i64 {
    seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(nanoseconds))
}

/// What tells a file from every other that its file system has had: numbers of inodes are given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Identity {
    pub ino: u64,
    /// Time of making; 0 where the file system does not know.
    pub born: i64,
}

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub identity: Identity,
    changed: i64,
    name: u32,
    /// Where the files of another directory begin.
    end: u32,
    len: u8,
    pub kind: Kind,
    /// Whether it has several names.
    pub linked: bool,
}

impl Entry {
    /// Whether what was looked at is the same file, and unchanged.
    pub fn is_as(&self, found: &Entry) -> bool {
        Entry { name: 0, end: 0, len: 0, ..*self } == Entry { name: 0, end: 0, len: 0, ..*found }
    }
}

/// As much as a comparison has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    File,
    Other,
}

/// A tree at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    entries: Vec<Entry>,
    names: Vec<u8>,
    newest: Option<i64>,
}

impl State {
    /// Looks at every file below `root`. An error comes with the path that it is about.
    pub fn scan(root: &OwnedFd) -> Result<State, (PathBuf, Errno)> {
        let mut state = State::default();
        let top = look(root, Path::new("")).map_err(|e| (PathBuf::new(), e))?;
        state.push(OsStr::new(""), top);
        let mut path = PathBuf::new();
        // For each directory on the way: its place, and the files in it that are still to come, last one first.
        let mut levels = vec![(0, State::list(root, &path)?)];
        while let Some((index, todo)) = levels.last_mut() {
            let Some((name, entry)) = todo.pop() else {
                state.end(*index);
                levels.pop();
                path.pop();
                continue;
            };
            let index = state.push(&name, entry);
            if state.is_too_much() {
                return Err((path, Errno::NFILE));
            }
            match entry.kind {
                Kind::Dir => {
                    path.push(&name);
                    let inside = State::list(root, &path)?;
                    levels.push((index, inside));
                }
                _ => state.end(index),
            }
        }
        state.entries.shrink_to_fit();
        state.names.shrink_to_fit();
        Ok(state)
    }

    /// The latest time of change.
    pub fn newest(&self) -> i64 {
        self.newest.unwrap_or(i64::MIN)
    }

    /// Whether it has more files than a tree may have.
    pub fn is_too_much(&self) -> bool {
        self.entries.len() > MOST || self.names.len() > MOST_BYTES
    }

    /// An empty one with room for as much as another.
    pub fn with_room_for(other: &State) -> State {
        let (entries, names) = (Vec::with_capacity(other.entries.len()), Vec::with_capacity(other.names.len()));
        State { entries, names, newest: None }
    }

    /// Everything in a directory, the last name first.
    pub fn list(root: &OwnedFd, path: &Path) -> Result<Vec<(std::ffi::OsString, Entry)>, (PathBuf, Errno)> {
        let at = |e| (path.to_owned(), e);
        let dir = layer::open_dir(root, path).map_err(at)?;
        let mut names = layer::names(&dir).map_err(at)?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let entry = look(&dir, Path::new(&name)).map_err(|e| (path.join(&name), e))?;
            all.push((name, entry));
        }
        Ok(all)
    }

    /// Adds a file; answers its place.
    pub fn push(&mut self, name: &OsStr, entry: Entry) -> usize {
        let at = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.extend_from_slice(name.as_bytes());
        self.newest = self.newest.max(Some(entry.changed));
        // The kernel's names have at most 255 bytes.
        self.entries.push(Entry { name: at, len: u8::try_from(name.len()).unwrap_or(u8::MAX), ..entry });
        self.entries.len() - 1
    }

    /// Adds files of another state, with everything below them.
    pub fn extend(&mut self, other: &State, places: std::ops::Range<usize>) {
        let Some(all) = other.entries.get(places.clone()) else { return };
        let (Some(first), Some(last)) = (all.first(), all.last()) else { return };
        let names = first.name as usize..last.name as usize + usize::from(last.len);
        let (at, name) = (self.entries.len() as u32, self.names.len() as u32);
        self.names.extend_from_slice(other.names.get(names).unwrap_or_default());
        self.newest = self.newest.max(all.iter().map(|entry| entry.changed).max());
        let moved = |entry: &Entry| Entry {
            name: entry.name - first.name + name,
            end: entry.end - places.start as u32 + at,
            ..*entry
        };
        self.entries.extend(all.iter().map(moved));
    }

    /// From here on files are no longer in the directory at this place.
    pub fn end(&mut self, index: usize) {
        let end = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        if let Some(entry) = self.entries.get_mut(index) {
            entry.end = end;
        }
    }

    /// The file at a place of the list.
    pub fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// Its name.
    pub fn name(&self, index: usize) -> &OsStr {
        let name = self.entries.get(index).and_then(|e| {
            let start = e.name as usize;
            self.names.get(start..start + usize::from(e.len))
        });
        OsStr::from_bytes(name.unwrap_or_default())
    }

    /// The path of a place.
    pub fn path(&self, index: usize) -> PathBuf {
        let (mut path, mut at) = (PathBuf::new(), 0);
        while at < index {
            let mut child = at + 1;
            while self.subtree(child).end <= index && child < index {
                child = self.subtree(child).end.max(child + 1);
            }
            path.push(self.name(child));
            at = child;
        }
        path
    }

    /// The place of a path.
    pub fn find(&self, path: &Path) -> Option<usize> {
        let mut at = 0;
        for name in path {
            let inside = self.subtree(at);
            let mut child = inside.start + 1;
            loop {
                if child >= inside.end {
                    return None;
                }
                if self.name(child) == name {
                    break;
                }
                child = self.subtree(child).end.max(child + 1);
            }
            at = child;
        }
        (at < self.entries.len()).then_some(at)
    }

    /// The places of the files in a directory.
    pub fn children(&self, index: usize) -> Vec<usize> {
        let inside = self.subtree(index);
        let mut all = vec![];
        let mut child = inside.start + 1;
        while child < inside.end {
            all.push(child);
            child = self.subtree(child).end.max(child + 1);
        }
        all
    }

    /// The places of a file and of everything below it.
    pub fn subtree(&self, index: usize) -> std::ops::Range<usize> {
        index..self.entries.get(index).map_or(index, |e| e.end as usize)
    }
}

/// One `statx`, or `stat` where that is missing.
pub(super) fn look(dir: &OwnedFd, name: &Path) -> Result<Entry, Errno> {
    static STATX_MISSING: AtomicBool = AtomicBool::new(false);
    let (path, flags) = match name.as_os_str().is_empty() {
        true => (Path::new(""), AtFlags::EMPTY_PATH),
        false => (name, AtFlags::SYMLINK_NOFOLLOW),
    };
    if !STATX_MISSING.load(Ordering::Relaxed) {
        match rustix::fs::statx(dir.as_fd(), path, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME) {
            Ok(s) => {
                let knows_birth = s.stx_mask & StatxFlags::BTIME.bits() != 0;
                let born = if knows_birth { nanoseconds(s.stx_btime.tv_sec, s.stx_btime.tv_nsec) } else { 0 };
                let changed = nanoseconds(s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec);
                return Ok(entry(s.stx_mode.into(), s.stx_nlink.into(), s.stx_ino, born, changed));
            }
            // Old filters answer EPERM to what they do not know.
            Err(Errno::NOSYS | Errno::PERM) => STATX_MISSING.store(true, Ordering::Relaxed),
            Err(e) => return Err(e),
        }
    }
    let s = rustix::fs::statat(dir, path, flags)?;
    Ok(entry(s.st_mode, s.st_nlink, s.st_ino, 0, nanoseconds(s.st_ctime, s.st_ctime_nsec as u32)))
}

fn entry(mode: u32, names: u64, ino: u64, born: i64, changed: i64) -> Entry {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Dir,
        FileType::RegularFile => Kind::File,
        _ => Kind::Other,
    };
    let linked = kind != Kind::Dir && names > 1;
    Entry { identity: Identity { ino, born }, changed, name: 0, end: 0, len: 0, kind, linked }
}

/// How a path of two states differs. Numbers are places in the old and in the new state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Here begins a directory; `old` is the same one before. What was there before, if something else was, is `instead`.
    Enter { old: Option<usize>, new: usize, instead: Option<usize> },
    /// Here it ends.
    Leave,
    /// Something else than a directory that is new or changed; `old` is what was there before, if anything.
    Put { old: Option<usize>, new: usize },
    /// There is nothing any more.
    Gone { old: usize },
}

/// The differences of two states, in the order of a walk.
pub(super) struct Changes<'a> {
    old: &'a State,
    new: &'a State,
    /// Files that are still in a layer directory count as unchanged, whatever their time of change says.
    shared: bool,
    /// Files of the new state that count as changed in any case.
    forced: &'a HashSet<usize>,
    /// For each directory on the way: the next files in the old and the new state, and their ends.
    levels: Vec<[usize; 4]>,
    started: bool,
}

impl<'a> Changes<'a> {
    pub fn new(old: &'a State, new: &'a State, shared: bool, forced: &'a HashSet<usize>) -> Self {
        Changes { old, new, shared, forced, levels: vec![], started: false }
    }

    fn enter(&mut self, old: Option<usize>, new: usize) {
        let old = old.map_or(0..0, |old| self.old.subtree(old).start + 1..self.old.subtree(old).end);
        let new = self.new.subtree(new).start + 1..self.new.subtree(new).end;
        self.levels.push([old.start, old.end, new.start, new.end]);
    }

    fn same(&self, old: &Entry, new: &Entry) -> bool {
        let identity = old.kind == new.kind && old.identity == new.identity;
        let shared = self.shared && old.kind == Kind::File && old.linked && new.linked;
        identity && (old.changed == new.changed || shared)
    }
}

impl State {
    /// The first file that another state has otherwise.
    #[cfg(debug_assertions)]
    pub fn first_difference(&self, other: &State) -> Option<PathBuf> {
        let same = |i: usize| self.entry(i) == other.entry(i) && self.name(i) == other.name(i);
        let first = (0..self.entries.len().max(other.entries.len())).find(|i| !same(*i))?;
        Some(self.path(first.min(self.entries.len().saturating_sub(1))))
    }

    /// Whether a directory's own metadata or names have changed.
    pub fn touched(&self, index: usize, new: &State, other: usize) -> bool {
        self.entry(index).map(|e| e.changed) != new.entry(other).map(|e| e.changed)
    }
}

impl Iterator for Changes<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        if !self.started {
            self.started = true;
            let old = (!self.old.entries.is_empty()).then_some(0);
            self.enter(old, 0);
            return Some(Change::Enter { old, new: 0, instead: None });
        }
        loop {
            let [old, old_end, new, new_end] = *self.levels.last()?;
            let order = match (old < old_end, new < new_end) {
                (false, false) => {
                    self.levels.pop();
                    return Some(Change::Leave);
                }
                (true, false) => std::cmp::Ordering::Less,
                (false, true) => std::cmp::Ordering::Greater,
                (true, true) => self.old.name(old).cmp(self.new.name(new)),
            };
            if let Some(level) = self.levels.last_mut() {
                if order.is_le() {
                    level[0] = self.old.subtree(old).end.max(old + 1);
                }
                if order.is_ge() {
                    level[2] = self.new.subtree(new).end.max(new + 1);
                }
            }
            if order.is_lt() {
                return Some(Change::Gone { old });
            }
            let before = order.is_eq().then_some(old);
            let (was, is) = (before.and_then(|old| self.old.entry(old)), self.new.entry(new)?);
            if is.kind == Kind::Dir {
                let same = was.is_some_and(|was| was.kind == Kind::Dir && was.identity == is.identity);
                let (old, instead) = if same { (before, None) } else { (None, before) };
                self.enter(old, new);
                return Some(Change::Enter { old, new, instead });
            }
            if self.forced.contains(&new) || !was.is_some_and(|was| self.same(was, is)) {
                return Some(Change::Put { old: before, new });
            }
        }
    }
}
