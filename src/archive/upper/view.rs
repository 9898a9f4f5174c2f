//! Upper and lower layers seen together, while the upper one is being written.

use rustix::fs::Stat;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CACHED_DIRS, State, Upper, is_dir};
use crate::archive::error::Error;
use crate::archive::layer;
use crate::archive::merged::{self, Resolved};
use crate::archive::node::{self, Disk, Kind, Node, Xattrs};
use crate::archive::whiteout;

impl Upper<'_> {
    /// What is at `path`, without following links. A node of the upper layer has the layer index `lower().layers()`.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn lookup(&self, path: &Path) -> Result<Option<Node>, Error> {
        let path = node::clean(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return match layer::stat(&self.fs, Path::new("")) {
                Ok(stat) => Ok(stat.and_then(|stat| self.node(path, &stat))),
                Err(e) => Err(self.failed("inspect", &path, e)),
            };
        };
        let Some(state) = self.state(parent)? else { return Ok(None) };
        match self.stat(&state, &path, name)? {
            Some(stat) => Ok(self.node(path, &stat)),
            None if state.lower => self.lower.lookup(&path),
            None => Ok(None),
        }
    }

    /// Follows links inside the root; see [`Merged::resolve`].
    ///
    /// # Errors
    /// As [`Merged::resolve`].
    pub fn resolve(&self, path: &Path, follow_last: bool) -> Result<Resolved, Error> {
        merged::resolve(path, follow_last, |at| self.lookup(at), |link| self.read_link(link))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_link(&self, link: &Node) -> Result<PathBuf, Error> {
        if link.layer < self.lower.layers() {
            return self.lower.read_link(link);
        }
        let target = rustix::fs::readlinkat(&self.fs, node::at(&link.path), Vec::new())
            .map_err(|e| self.failed("read link", &link.path, e))?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_file(&self, file: &Node) -> Result<File, Error> {
        if file.layer < self.lower.layers() {
            return self.lower.open_file(file);
        }
        let fd = layer::open_file(&self.fs, &file.path).map_err(|e| self.failed("open", &file.path, e))?;
        Ok(File::from(fd))
    }

    /// The extended attributes that layers carry; see [`Merged::xattrs`].
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn xattrs(&self, file: &Node) -> Result<Xattrs, Error> {
        if file.layer < self.lower.layers() {
            return self.lower.xattrs(file);
        }
        let mut out = match file.meta.kind {
            Kind::File | Kind::Dir => layer::open_file(&self.fs, &file.path)
                .and_then(|fd| node::read_xattrs(fd.as_fd()))
                .map_err(|e| self.failed("read attributes of", &file.path, e))?,
            _ => Xattrs::new(),
        };
        if let Some(record) = &file.record {
            out.extend(record.xattrs.clone());
        }
        Ok(out)
    }

    pub(super) fn node(&self, path: PathBuf, stat: &Stat) -> Option<Node> {
        if whiteout::is(stat) {
            return None;
        }
        let record = self.records.get(&path).cloned();
        let meta = node::meta(stat, record.as_deref(), &self.map);
        Some(Node { layer: self.lower.layers(), path, meta, disk: Disk::of(stat), record })
    }

    /// `stat` of a name in the upper part of a directory.
    pub(super) fn stat(&self, parent: &State, path: &Path, name: &OsStr) -> Result<Option<Stat>, Error> {
        match &parent.upper {
            Some(fd) => layer::stat(fd, Path::new(name)).map_err(|e| self.failed("inspect", path, e)),
            None => Ok(None),
        }
    }

    /// What the directory `path` is made of; `None` if it is no directory.
    pub(super) fn state(&self, path: &Path) -> Result<Option<State>, Error> {
        if path.as_os_str().is_empty() {
            let lower = !self.root_opaque && self.lower.layers() > 0;
            return Ok(Some(State { upper: Some(self.fs.clone()), lower }));
        }
        if let Some(state) = self.cache.borrow().get(node::bytes(path)) {
            return Ok(Some(state.clone()));
        }
        // From the nearest parent that is remembered; looking upwards finds it soon.
        let mut state = State { upper: Some(self.fs.clone()), lower: !self.root_opaque && self.lower.layers() > 0 };
        let mut missing: Vec<&Path> = vec![path];
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if let Some(known) = self.cache.borrow().get(node::bytes(parent)) {
                state = known.clone();
                break;
            }
            missing.push(parent);
        }
        for at in missing.into_iter().rev() {
            let Some(name) = at.file_name() else { continue };
            state = match self.stat(&state, at, name)? {
                Some(stat) if is_dir(&stat) => {
                    let open = |at: &Path| match &state.upper {
                        Some(fd) => layer::open_dir(fd, Path::new(&name)).map_err(|e| self.failed("open", at, e)),
                        None => Err(Error::Missing(at.to_owned())),
                    };
                    let fd = open(at)?;
                    let lower = state.lower
                        && self.lower.lookup(at)?.is_some_and(|node| node.is_dir())
                        && !self.records.get(at).is_some_and(|record| record.opaque)
                        && !layer::opaque_mark(&fd).map_err(|e| self.failed("inspect", at, e))?;
                    State { upper: Some(Arc::new(fd)), lower }
                }
                Some(_) => return Ok(None),
                None if state.lower && self.lower.lookup(at)?.is_some_and(|node| node.is_dir()) => {
                    State { upper: None, lower: true }
                }
                None => return Ok(None),
            };
            self.remember(at, &state);
        }
        Ok(Some(state))
    }

    /// Drops what is remembered of `path` and below, where something else than a lower directory is there now.
    pub(super) fn forget(&self, path: &Path) {
        let path = node::bytes(path);
        let inside = |key: &[u8]| key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        self.cache.borrow_mut().retain(|key, _| !inside(key));
    }

    pub(super) fn remember(&self, path: &Path, state: &State) {
        let mut cache = self.cache.borrow_mut();
        if cache.len() >= CACHED_DIRS {
            cache.clear();
        }
        cache.insert(node::bytes(path).into(), state.clone());
    }
}
