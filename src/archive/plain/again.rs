//! Looking again at what may have changed only, which gives what looking at everything would.
//!
//! Directories in which names may have changed are listed and everything in them is looked at; of the others, only the
//! files that were named. Below a directory that was not at its place before, everything is looked at.

use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::state::{Entry, Kind, State, look};
use super::touched::Touched;
use crate::archive::layer;

/// A directory on the way.
struct Level {
    /// Its place in the new state.
    place: usize,
    rest: Rest,
}

/// What is still to come of a directory.
enum Rest {
    /// The same names as before: places in the old state.
    Same { next: usize, end: usize },
    /// What was found, last one first; for a directory that was there before, its place in the old state.
    Found(Vec<(OsString, Entry, Option<usize>)>),
}

struct Second<'a> {
    old: &'a State,
    new: State,
    root: &'a OwnedFd,
    /// Numbers of directories in which names may have changed, sorted.
    names: Vec<u64>,
    /// Places of the files that may have changed, in order.
    hits: Vec<usize>,
    path: PathBuf,
    /// The directory that was looked into last.
    open: Option<(PathBuf, OwnedFd)>,
}

/// What a second look found.
#[derive(Debug)]
pub(super) enum Again {
    /// Nothing is another than before.
    Same,
    /// How everything is now.
    Other(State),
}

/// How many files are looked at one by one before a new state is made.
const FEW: usize = 256;

impl State {
    /// How everything below `root` is now, if nothing has changed but what was touched. `None`: that cannot be, or cannot be
    /// told.
    pub fn again(&self, root: &OwnedFd, touched: &Touched) -> Option<Again> {
        let (names, files) = touched.sorted()?;
        // Most files are none of a few: one bit tells.
        let bit = |number: u64| (number as usize / 64 % 64, 1 << (number % 64));
        let mut sieve = [0u64; 64];
        for (word, bit) in files.iter().map(|number| bit(*number)) {
            sieve[word] |= bit;
        }
        let is_hit = |index: &usize| {
            let Some(number) = self.entry(*index).map(|entry| entry.identity.ino) else { return false };
            let (word, bit) = bit(number);
            sieve[word] & bit != 0 && files.binary_search(&number).is_ok()
        };
        let hits: Vec<usize> = self.subtree(0).filter(is_hit).collect();
        if hits.len() <= FEW && hits.iter().all(|hit| self.is_same(*hit, root, &names)) {
            return Some(Again::Same);
        }
        let new = State::with_room_for(self);
        let second = Second { old: self, new, root, names, hits, path: PathBuf::new(), open: None };
        let new = second.run().ok().flatten()?;
        Some(if new == *self { Again::Same } else { Again::Other(new) })
    }

    /// Whether a file is as it was, and is no directory in which names may have changed.
    fn is_same(&self, index: usize, root: &OwnedFd, names: &[u64]) -> bool {
        let Some(was) = self.entry(index) else { return false };
        if was.kind == Kind::Dir && names.binary_search(&was.identity.ino).is_ok() {
            return false;
        }
        let path = self.path(index);
        let (above, name) = match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => (above, Path::new(name)),
            _ => (Path::new(""), Path::new("")),
        };
        let is = layer::open_dir(root, above).and_then(|dir| look(&dir, name));
        is.is_ok_and(|is| was.is_as(&is))
    }
}

impl Second<'_> {
    fn run(mut self) -> Result<Option<State>, Errno> {
        let Some(top) = self.now(0, OsStr::new(""))? else { return Ok(None) };
        let place = self.new.push(OsStr::new(""), top);
        let rest = self.rest(Some(0))?;
        let mut levels = vec![Level { place, rest }];
        while let Some(level) = levels.last_mut() {
            let (name, entry, old) = match &mut level.rest {
                Rest::Found(todo) => match todo.pop() {
                    Some(found) => found,
                    None => {
                        self.new.end(level.place);
                        levels.pop();
                        self.path.pop();
                        continue;
                    }
                },
                Rest::Same { next, end } => {
                    let child = self.copy(*next, *end);
                    if child >= *end {
                        self.new.end(level.place);
                        levels.pop();
                        self.path.pop();
                        continue;
                    }
                    *next = self.old.subtree(child).end;
                    let name = self.old.name(child).to_owned();
                    let Some(entry) = self.now(child, &name)? else { return Ok(None) };
                    (name, entry, Some(child))
                }
            };
            let place = self.new.push(&name, entry);
            if self.new.is_too_much() {
                return Ok(None);
            }
            match entry.kind {
                Kind::Dir => {
                    self.path.push(&name);
                    let rest = self.rest(old)?;
                    levels.push(Level { place, rest });
                }
                _ => self.new.end(place),
            }
        }
        Ok(Some(self.new))
    }

    /// Copies what comes before the next file that may have changed, or that has such files below it; answers where that is.
    fn copy(&mut self, from: usize, end: usize) -> usize {
        let at = self.hits.partition_point(|hit| *hit < from);
        let hit = self.hits.get(at).copied().unwrap_or(usize::MAX);
        let mut to = from;
        while to < end {
            let behind = self.old.subtree(to).end.max(to + 1);
            if hit < behind {
                break;
            }
            to = behind;
        }
        self.new.extend(self.old, from..to);
        to
    }

    /// How a file of the old state is now; `None` if there is another one.
    fn now(&mut self, index: usize, name: &OsStr) -> Result<Option<Entry>, Errno> {
        let Some(was) = self.old.entry(index).copied() else { return Ok(None) };
        if self.hits.binary_search(&index).is_err() {
            return Ok(Some(was));
        }
        if self.open.as_ref().is_none_or(|(path, _)| *path != self.path) {
            self.open = Some((self.path.clone(), layer::open_dir(self.root, &self.path)?));
        }
        let Some((_, dir)) = &self.open else { return Ok(None) };
        let is = look(dir, Path::new(name))?;
        Ok((is.kind == was.kind && is.identity == was.identity).then_some(is))
    }

    /// What there is in the directory where the walk is, which was at `old`, if it was there.
    fn rest(&mut self, old: Option<usize>) -> Result<Rest, Errno> {
        let was = old.and_then(|old| self.old.entry(old));
        if let (Some(index), Some(was)) = (old, was)
            && self.names.binary_search(&was.identity.ino).is_err()
        {
            return Ok(Rest::Same { next: index + 1, end: self.old.subtree(index).end });
        }
        let found = State::list(self.root, &self.path).map_err(|(_, e)| e)?;
        // Both are sorted; what was found begins with the last.
        let mut before = old.map(|old| self.old.children(old)).unwrap_or_default();
        let mut all = Vec::with_capacity(found.len());
        for (name, entry) in found {
            while before.last().is_some_and(|index| self.old.name(*index) > name.as_os_str()) {
                before.pop();
            }
            let same = before.last().copied().filter(|index| {
                let was = self.old.entry(*index);
                self.old.name(*index) == name
                    && was.is_some_and(|was| was.kind == Kind::Dir && was.identity == entry.identity)
            });
            all.push((name, entry, same.filter(|_| entry.kind == Kind::Dir)));
        }
        Ok(Rest::Found(all))
    }
}
