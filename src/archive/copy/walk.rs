//! A walk over what one source selects, in an order that depends on nothing but the names.
//!
//! Depth first, a directory before its entries, entries by the bytes of their names. `--exclude` and the pattern of
//! `--parents` decide what comes out; a directory that is not selected itself, but has something selected below it, comes
//! out too (`implied`), just before the first such entry. Directories where nothing can be selected are not read.

use super::glob::{self, Pattern};
use super::tree::{Tree, below};
use super::{Error, Selection};
use crate::archive::node::{Kind, Meta, bytes};
use crate::dockerfile::ignore::{Matched, Patterns};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// One entry that is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Path relative to the root of the walk; empty for the root itself.
    pub rel: PathBuf,
    /// What it is.
    pub meta: Meta,
    /// The directory is here only because of what is selected below it.
    pub implied: bool,
}

/// The walk: an iterator over [`Found`].
pub struct Walk<'a> {
    tree: &'a dyn Tree,
    root: PathBuf,
    exclude: &'a Patterns,
    include: Option<&'a Include>,
    stack: Vec<Level>,
    ready: VecDeque<Found>,
    start: Option<Meta>,
}

/// A directory that is being read.
struct Level {
    rel: PathBuf,
    /// The directory itself, as long as it has not come out.
    pending: Option<Meta>,
    entries: std::vec::IntoIter<(OsString, Meta)>,
    excluded: Matched,
    included: Matched,
}

/// The pattern of a `--parents` source.
#[derive(Clone, Debug)]
pub struct Include {
    patterns: Patterns,
    /// The components in front of the first `**`, to know which directories are worth reading.
    prefix: Vec<Option<Vec<u8>>>,
    /// Whether there is a `**`, so that anything below the prefix may match.
    deep: bool,
}

impl Include {
    /// Reads a pattern relative to the root of the walk.
    pub(super) fn parse(pattern: &str) -> Result<Include, Error> {
        let patterns = Patterns::new([pattern])?;
        let parts = pattern.split('/').filter(|p| !p.is_empty());
        let prefix: Vec<_> =
            parts.clone().take_while(|p| !p.contains("**")).map(|p| Some(p.as_bytes().to_vec())).collect();
        let deep = prefix.len() < parts.count();
        Ok(Include { patterns, prefix, deep })
    }

    /// Whether something in the directory `rel` can match, which itself does not.
    fn may_match_below(&self, rel: &Path) -> bool {
        let depth = rel.iter().count();
        if depth >= self.prefix.len() {
            return self.deep && self.prefix_fits(rel);
        }
        self.prefix_fits(rel)
    }

    fn prefix_fits(&self, rel: &Path) -> bool {
        rel.iter().zip(&self.prefix).all(|(name, want)| match want {
            Some(want) if !glob::has_wildcards(want) && !want.contains(&b'\\') => {
                bytes(Path::new(name)) == want.as_slice()
            }
            Some(want) => Pattern::parse(want).map_or(true, |p| p.matches(bytes(Path::new(name)))),
            None => true,
        })
    }
}

impl<'a> Walk<'a> {
    /// A walk over `selection` in `tree`; `exclude` as in the request.
    pub fn new(tree: &'a dyn Tree, selection: &'a Selection, exclude: &'a Patterns) -> Walk<'a> {
        Walk {
            tree,
            root: selection.path.clone(),
            exclude,
            include: selection.include.as_ref(),
            stack: Vec::new(),
            ready: VecDeque::new(),
            start: Some(selection.meta),
        }
    }

    fn enter(
        &mut self,
        rel: PathBuf,
        pending: Option<Meta>,
        excluded: Matched,
        included: Matched,
    ) -> Result<(), Error> {
        let path = below(&self.root, &rel);
        let entries = self.tree.read_dir(&path)?.into_iter();
        self.stack.push(Level { rel, pending, entries, excluded, included });
        Ok(())
    }

    /// Takes one entry of the directory on top of the stack.
    fn take(&mut self, name: OsString, meta: Meta) -> Result<(), Error> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        let rel = level.rel.join(name);
        let (mut excluded, mut included) = (Matched::default(), Matched::default());
        if !self.exclude.is_empty() {
            excluded = self.exclude.walk(&level.excluded, bytes(&rel));
        }
        if let Some(include) = self.include {
            included = include.patterns.walk(&level.included, bytes(&rel));
        }
        let wanted = self.include.is_none() || included.excluded();
        let selected = wanted && !excluded.excluded();
        let is_dir = meta.kind == Kind::Dir;
        if selected {
            for level in &mut self.stack {
                if let Some(meta) = level.pending.take() {
                    self.ready.push_back(Found { rel: level.rel.clone(), meta, implied: true });
                }
            }
            self.ready.push_back(Found { rel: rel.clone(), meta, implied: false });
        }
        let worth = (wanted || self.include.is_some_and(|i| i.may_match_below(&rel)))
            && (!excluded.excluded() || self.exclude.may_include_below(bytes(&rel)));
        if is_dir && worth {
            self.enter(rel, (!selected).then_some(meta), excluded, included)?;
        }
        Ok(())
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(meta) = self.start.take() {
            if meta.kind == Kind::Dir
                && let Err(error) = self.enter(PathBuf::new(), None, Matched::default(), Matched::default())
            {
                return Some(Err(error));
            }
            return Some(Ok(Found { rel: PathBuf::new(), meta, implied: false }));
        }
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Some(Ok(found));
            }
            match self.stack.last_mut()?.entries.next() {
                None => {
                    self.stack.pop();
                }
                Some((_, meta)) if meta.kind == Kind::Socket => {}
                Some((name, meta)) => {
                    if let Err(error) = self.take(name, meta) {
                        self.stack.clear();
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}
