//! What COPY, ADD and content hashes read from: one interface to the build context and to layers.
//!
//! Paths are relative to the root of the tree, clean (no `.`, `..`, or doubled `/`), and the empty path is the root
//! itself. A [`Tree`] never follows a symbolic link; [`resolve`] does, inside the root, for every kind of tree alike.

use crate::archive::error::Error;
use crate::archive::merged::Merged;
use crate::archive::node::{Kind, Meta, Node, Xattrs, clean};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// A directory tree that can be read.
pub trait Tree: Sync {
    /// What is at `path`; `None` where nothing is, or where a parent is no directory.
    ///
    /// # Errors
    ///
    /// A file-system call fails. Nothing being there is no error.
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, Error>;

    /// The entries of a directory, sorted by the bytes of their names.
    ///
    /// # Errors
    ///
    /// A file-system call fails.
    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, Error>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// A file-system call fails.
    fn read_link(&self, path: &Path) -> Result<PathBuf, Error>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    ///
    /// It is no regular file, or a file-system call fails.
    fn open(&self, path: &Path) -> Result<File, Error>;

    /// The extended attributes that belong into an image. `open` is what [`Tree::open`] gave for the path, where the
    /// caller has it at hand.
    ///
    /// # Errors
    ///
    /// A file-system call fails.
    fn xattrs(&self, path: &Path, open: Option<&File>) -> Result<Xattrs, Error>;

    /// Whether `path` exists but is hidden by an ignore file: only for hints.
    fn hidden(&self, path: &Path) -> bool {
        let _ = path;
        false
    }
}

/// Where a path leads.
#[derive(Debug)]
pub struct Resolved {
    /// The clean path without symbolic links in it (but for the last part, where it was not to be followed).
    pub path: PathBuf,
    /// What is there.
    pub meta: Option<Meta>,
}

/// How many symbolic links a path may lead through, as in Linux.
pub const MOST_LINKS: usize = 40;

/// Resolves the symbolic links of `path` inside the root of `tree`: an absolute target starts at the root, `..` stops at
/// it. What does not exist is taken as it is written.
///
/// # Errors
///
/// Those of the tree; [`Error::Loop`] after [`MOST_LINKS`] links.
pub fn resolve(tree: &dyn Tree, path: &Path, follow_last: bool) -> Result<Resolved, Error> {
    let mut todo: VecDeque<OsString> = clean(path).iter().map(OsStr::to_owned).collect();
    let mut at = PathBuf::new();
    let mut links = 0;
    let mut meta = tree.lookup(&at)?;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            at.pop();
            meta = tree.lookup(&at)?;
            continue;
        }
        let next = at.join(&name);
        meta = tree.lookup(&next)?;
        if matches!(&meta, Some(m) if m.kind == Kind::Symlink) && (follow_last || !todo.is_empty()) {
            links += 1;
            if links > MOST_LINKS {
                return Err(Error::Loop(path.to_owned()));
            }
            let target = tree.read_link(&next)?;
            if target.is_absolute() {
                at = PathBuf::new();
            }
            for part in target.components().rev() {
                match part {
                    Component::Normal(name) => todo.push_front(name.to_owned()),
                    Component::ParentDir => todo.push_front(OsString::from("..")),
                    Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                }
            }
            if todo.is_empty() {
                meta = tree.lookup(&at)?;
            }
            continue;
        }
        at = next;
    }
    Ok(Resolved { path: at, meta })
}

/// The path of `rel` below `root`, without the `/` at the end that joining an empty path would leave.
pub(crate) fn below(root: &Path, rel: &Path) -> PathBuf {
    if rel.as_os_str().is_empty() { root.to_owned() } else { root.join(rel) }
}

/// The node at `path`, which has to exist.
fn node(merged: &Merged, path: &Path) -> Result<Node, Error> {
    merged.lookup(path)?.ok_or_else(|| Error::Missing(path.to_owned()))
}

impl Tree for Merged {
    fn lookup(&self, path: &Path) -> Result<Option<Meta>, Error> {
        Ok(Merged::lookup(self, path)?.map(|node| node.meta))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<(OsString, Meta)>, Error> {
        let entries = Merged::read_dir(self, path)?;
        Ok(entries.into_iter().map(|(name, node)| (name, node.meta)).collect())
    }

    fn read_link(&self, path: &Path) -> Result<PathBuf, Error> {
        Merged::read_link(self, &node(self, path)?)
    }

    fn open(&self, path: &Path) -> Result<File, Error> {
        self.open_file(&node(self, path)?)
    }

    fn xattrs(&self, path: &Path, _open: Option<&File>) -> Result<Xattrs, Error> {
        Merged::xattrs(self, &node(self, path)?)
    }
}
