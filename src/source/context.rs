//! A build context: a tree of files, seen through an ignore file.
//!
//! Where the tree is differs (a directory of this machine, an unpacked archive, a checkout, a single file), and makes no
//! difference here. The ignore file is a filter over the view: what it excludes is not there. A directory that is
//! excluded is there as long as something below it is not (`*` and then `!src/main.c`).

use super::host::HostDir;
use super::loose::Loose;
use super::{Error, files};
use crate::archive::copy::Tree;
use crate::archive::copy::tree::resolve;
use crate::archive::error::Error as TreeError;
use crate::archive::node::{Kind, Meta, Xattrs, bytes, clean};
use crate::dockerfile::ignore::{Matched, Patterns};
use crate::store::TempDir;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Directories of which is remembered what the patterns said.
const REMEMBERED: usize = 1024;

/// A build context.
pub struct Context {
    /// As the user gave it, for messages.
    path: PathBuf,
    /// Whether it is a directory of the user: then it has an ignore file of its own, and its files stay as they are from
    /// build to build.
    local: bool,
    /// Before `_temporary`, so that nothing is open in the directory when that goes.
    files: Box<dyn Tree + Send + Sync>,
    ignore: Patterns,
    /// What the patterns said of directories, of the latest [`REMEMBERED`].
    matched: Mutex<HashMap<PathBuf, Matched>>,
    /// Excluded directories, and whether something below them is visible all the same.
    partly: Mutex<HashMap<PathBuf, bool>>,
    /// When the files were made, in seconds since 1970, or that nobody says so; `None`: what the newest file says.
    modified: Option<Option<i64>>,
    /// What was fetched, if something was.
    origin: Option<Box<Origin>>,
    /// Where the files lie, if they were fetched for this build.
    temporary: Option<TempDir>,
}

/// Where fetched files came from, and what they are for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The address, without credentials.
    pub uri: String,
    /// Digits of the commit, or of the SHA-256 of the file.
    pub digest: String,
    /// Whether it is a commit.
    pub commit: bool,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("path", &self.path).field("local", &self.local).finish_non_exhaustive()
    }
}

impl Context {
    /// Opens a directory, with nothing excluded yet.
    ///
    /// # Errors
    ///
    /// [`Error::Context`].
    pub fn open(path: &Path) -> Result<Context, Error> {
        Ok(Context { local: true, ..Context::of(path.to_owned(), Box::new(HostDir::open(path)?), None) })
    }

    /// A context that holds no file: of a build that has only a Dockerfile.
    pub fn empty() -> Context {
        Context::of(PathBuf::from("-"), Box::new(Loose::empty()), None)
    }

    /// Files that were fetched for this build, called `shown` in messages; `temporary` holds them.
    pub(super) fn of(shown: PathBuf, files: Box<dyn Tree + Send + Sync>, temporary: Option<TempDir>) -> Context {
        Context {
            path: shown,
            local: false,
            files,
            ignore: Patterns::default(),
            matched: Mutex::default(),
            partly: Mutex::default(),
            modified: None,
            origin: None,
            temporary,
        }
    }

    /// The same context, of which somebody knows when its files were made.
    pub(super) fn made_at(self, seconds: Option<i64>) -> Context {
        Context { modified: Some(seconds), ..self }
    }

    /// The same context, of which somebody knows where it came from.
    pub fn from_origin(self, origin: Origin) -> Context {
        Context { origin: Some(Box::new(origin)), ..self }
    }

    /// Where the files came from, if they were fetched.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// When the files were made, in seconds since 1970: of a commit its time, of what was downloaded what the server says, of
    /// an archive the time of the newest file. Of a directory of the user, nobody knows.
    ///
    /// # Errors
    ///
    /// The files cannot be looked at.
    pub fn modified(&self) -> Result<Option<i64>, Error> {
        if let Some(known) = self.modified {
            return Ok(known);
        }
        let mut newest = None;
        let mut waiting = if self.local { vec![] } else { vec![PathBuf::new()] };
        while let Some(dir) = waiting.pop() {
            let wrong = |e: TreeError| Error::Read { path: self.path.join(&dir), error: io::Error::other(e) };
            for (name, meta) in self.files.read_dir(&dir).map_err(wrong)? {
                match meta.kind {
                    Kind::Dir => waiting.push(dir.join(name)),
                    Kind::File => newest = newest.max(Some(meta.mtime.sec)),
                    _ => {}
                }
            }
        }
        Ok(newest)
    }

    /// The same context with other patterns of what is excluded.
    #[must_use]
    pub fn with_ignore(self, ignore: Patterns) -> Context {
        Context { ignore, matched: Mutex::default(), partly: Mutex::default(), ..self }
    }

    /// What is excluded.
    pub fn ignore(&self) -> &Patterns {
        &self.ignore
    }

    /// The directory as the user gave it, or what else names the context.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a directory of the user.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// The directory on this machine that holds the files, where there is one.
    pub fn directory(&self) -> Option<PathBuf> {
        match &self.temporary {
            Some(dir) => Some(dir.path().to_owned()),
            None => self.local.then(|| self.path.clone()),
        }
    }

    /// Reads a small file of the context, whether it is ignored or not; links are followed inside the context. `None`
    /// where there is no such file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no regular file, is larger than a Dockerfile can be, or is a link out of the context or to
    /// nothing.
    pub fn read_unfiltered(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let shown = self.path.join(path);
        let wrong = |e: TreeError| match e {
            TreeError::File { source, .. } => Error::Read { path: shown.clone(), error: source },
            e => Error::Read { path: shown.clone(), error: io::Error::other(e) },
        };
        let mut found = resolve(&*self.files, path, true).map_err(wrong)?;
        if found.meta.is_none()
            && let Some(path) = self.linked(&clean(path)).map_err(wrong)?
        {
            found = resolve(&*self.files, &path?, true).map_err(wrong)?;
        }
        match found.meta {
            None => Ok(None),
            Some(meta) if meta.kind == Kind::File => {
                let file = self.files.open(&found.path).map_err(wrong)?;
                files::bounded(file, &shown).map(Some)
            }
            Some(_) => Err(Error::Read { path: shown, error: io::Error::other("not a regular file") }),
        }
    }

    /// Where in the context the link at `path` leads, of which the context alone can make nothing: its target may be
    /// written as this machine knows it. `None` where no link is.
    fn linked(&self, path: &Path) -> Result<Option<Result<PathBuf, Error>>, TreeError> {
        if !matches!(self.files.lookup(path)?, Some(meta) if meta.kind == Kind::Symlink) {
            return Ok(None);
        }
        let (link, target) = (self.path.join(path), self.files.read_link(path)?);
        let places = if self.local { self.path.canonicalize().ok().zip(link.canonicalize().ok()) } else { None };
        Ok(Some(match places {
            Some((root, real)) => match real.strip_prefix(root) {
                Ok(inside) => Ok(inside.to_owned()),
                Err(_) => Err(Error::LeadsOut { path: link, target }),
            },
            None => Err(Error::LeadsNowhere { path: link, target }),
        }))
    }

    /// What the patterns say of `path`.
    fn matched(&self, path: &Path) -> Matched {
        let known = || self.matched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unknown: Vec<&Path> = Vec::new();
        let mut matched = Matched::default();
        for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            if let Some(answer) = known().get(dir) {
                matched = answer.clone();
                break;
            }
            unknown.push(dir);
        }
        for dir in unknown.into_iter().rev() {
            matched = self.ignore.walk(&matched, bytes(dir));
            let mut known = known();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(dir.to_owned(), matched.clone());
        }
        matched
    }

    /// Whether `path`, of which the patterns say `matched`, is part of the view.
    fn visible(&self, path: &Path, meta: &Meta, matched: &Matched) -> Result<bool, TreeError> {
        if !matched.excluded() {
            return Ok(true);
        }
        Ok(meta.kind == Kind::Dir
            && self.ignore.may_include_below(bytes(path))
            && self.partly_visible(path, matched)?)
    }

    /// Whether something below the excluded directory `dir` is visible.
    fn partly_visible(&self, dir: &Path, matched: &Matched) -> Result<bool, TreeError> {
        let known = || self.partly.lock().unwrap_or_else(PoisonError::into_inner);
        let mut todo = vec![(dir.to_owned(), matched.clone())];
        let mut barren = Vec::new();
        while let Some((at, matched)) = todo.pop() {
            // The lock must be free again before the arms run.
            let answer = known().get(&at).copied();
            match answer {
                Some(true) => return Ok(self.remember_visible(dir, &at)),
                Some(false) => continue,
                None => {}
            }
            for (name, meta) in self.files.read_dir(&at)? {
                let path = at.join(name);
                let matched = self.ignore.walk(&matched, bytes(&path));
                if !matched.excluded() {
                    return Ok(self.remember_visible(dir, &at));
                }
                if meta.kind == Kind::Dir && self.ignore.may_include_below(bytes(&path)) {
                    todo.push((path, matched));
                }
            }
            barren.push(at);
        }
        known().extend(barren.into_iter().map(|dir| (dir, false)));
        Ok(false)
    }

    /// Remembers that every directory from `top` down to `bottom` has something visible below it.
    fn remember_visible(&self, top: &Path, bottom: &Path) -> bool {
        let mut known = self.partly.lock().unwrap_or_else(PoisonError::into_inner);
        for dir in bottom.ancestors().take_while(|dir| dir.starts_with(top)) {
            known.insert(dir.to_owned(), true);
        }
        true
    }
}

impl Tree for Context {
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, TreeError> {
        let Some(meta) = self.files.lookup(path)? else { return Ok(None) };
        if self.ignore.is_empty() || path.as_os_str().is_empty() {
            return Ok(Some(meta));
        }
        Ok(self.visible(path, &meta, &self.matched(path))?.then_some(meta))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, TreeError> {
        let entries = self.files.read_dir(path)?;
        if self.ignore.is_empty() {
            return Ok(entries);
        }
        let parent = self.matched(path);
        let mut out = Vec::with_capacity(entries.len());
        for (name, meta) in entries {
            let at = path.join(&name);
            if self.visible(&at, &meta, &self.ignore.walk(&parent, bytes(&at)))? {
                out.push((name, meta));
            }
        }
        Ok(out)
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.files.read_link(path)
    }

    fn open(&self, path: &Path) -> Result<File, TreeError> {
        self.files.open(path)
    }

    fn xattrs(&self, path: &Path, open: Option<&File>) -> Result<Xattrs, TreeError> {
        self.files.xattrs(path, open)
    }

    fn hidden(&self, path: &Path) -> bool {
        matches!(self.files.lookup(path), Ok(Some(_))) && matches!(self.lookup(path), Ok(None))
    }
}
