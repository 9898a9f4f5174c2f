//! What COPY, ADD and content hashes read from: one interface to the build context and to layers.
//!
//! Paths are relative to the root of the tree, clean (no `.`, `..`, or doubled `/`), and the empty path is the root
//! itself. A [`Tree`] never follows a symbolic link; [`resolve`] does, inside the root, for every kind of tree alike.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// A point in time since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, less than 10⁹.
    pub nsec: u32,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket: never copied.
    Socket,
    /// Character device with its major and minor number.
    Char(u32, u32),
    /// Block device with its major and minor number.
    Block(u32, u32),
}

/// What is known of an entry without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Permissions, set-id and sticky bits: 12 bits.
    pub mode: u32,
    /// Owner, as the image numbers it.
    pub uid: u32,
    /// Group, as the image numbers it.
    pub gid: u32,
    /// Bytes of a regular file, length of a link's target, else 0.
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
    /// Number of names.
    pub nlink: u64,
    /// Inode; with `dev` it tells hard links.
    pub ino: u64,
    /// Device.
    pub dev: u64,
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A directory tree that can be read.
pub trait Tree: Sync {
    /// What is at `path`; `None` where nothing is, or where a parent is no directory.
    ///
    /// # Errors
    ///
    /// Those of the operating system, but for "not found".
    fn lookup(&self, path: &Path) -> io::Result<Option<Meta>>;

    /// The entries of a directory, sorted by the bytes of their names.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Meta)>>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    ///
    /// Those of the operating system; also where `path` is no regular file.
    fn open(&self, path: &Path) -> io::Result<File>;

    /// The extended attributes that belong into an image. `open` is what [`Tree::open`] gave for the path, where the
    /// caller has it at hand.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    fn xattrs(&self, path: &Path, open: Option<&File>) -> io::Result<Xattrs>;

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

/// Takes `.`, `..` and doubled `/` out of a path by its text alone; the result is relative and never leaves the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// Resolves the symbolic links of `path` inside the root of `tree`: an absolute target starts at the root, `..` stops at
/// it. What does not exist is taken as it is written.
///
/// # Errors
///
/// Those of the tree; `ELOOP` after [`MOST_LINKS`] links.
pub fn resolve(tree: &dyn Tree, path: &Path, follow_last: bool) -> io::Result<Resolved> {
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
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
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

/// A path from its bytes.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// The bytes of a path.
pub fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
