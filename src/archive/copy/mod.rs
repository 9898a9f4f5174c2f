//! The engine of COPY and ADD: from a tree (the build context, a stage, an image) onto an upper directory, with no mount.
//!
//! One instruction is a [`Request`]; its sources are read through [`Tree`], which is all that this module knows of where
//! they are. The work has parts, each a file of its own:
//!
//! * `select`: which entries the sources name — wildcards, links in the path, `--exclude`, `--parents` — as a list of
//!   [`Selection`]s, each the root of a [`Walk`]. Content hashes (`archive::content`) use the same, so that the step cache
//!   sees exactly what a copy would read.
//! * `write`: where they go — a directory or a name, links in the destination, what may replace what — and writing them
//!   there, with owners, modes, times, attributes and hard links.
//! * `transfer`: the bytes of one file. `unpack`: archives that ADD takes apart.
//!
//! The semantics are BuildKit's: the *contents* of a directory are copied, the directory that is made for them is `0755`
//! of root (or of `--chown`, with `--chmod`); a source that is a link is followed, a link inside a copied directory is
//! kept; a directory that exists already gets the metadata of the one that is copied over it, but for the destination
//! itself; no file replaces a directory and no directory a file.

pub mod glob;
pub mod mode;
mod select;
pub(super) mod transfer;
pub mod tree;
mod unpack;
mod walk;
mod write;

#[cfg(test)]
mod tests;

pub use mode::{InvalidMode, Mode};
pub use select::{Selected, Selection, Source, select, unmatched};
pub use tree::Tree;
pub use walk::{Found, Walk};
pub use write::copy;

use crate::archive;
use crate::dockerfile::ignore::{PatternError, Patterns};
use crate::error::Classified;
use std::path::Path;

/// One COPY or ADD instruction.
#[derive(Clone, Debug)]
pub struct Request {
    /// The sources, in order.
    pub sources: Vec<Item>,
    /// Absolute destination; ends with `/` or `/.` where it has to be a directory.
    pub dest: String,
    /// Owner of everything that is copied or made, instead of the sources' owners (0:0 for what is made).
    pub chown: Option<(u32, u32)>,
    /// Mode of everything that is copied or made.
    pub chmod: Option<Mode>,
    /// `--exclude`: paths relative to each source directory.
    pub exclude: Patterns,
    /// `--parents`: the sources' directories are made below the destination, from the root or from a `/./` on.
    pub parents: bool,
    /// ADD: a file that is a tar archive, compressed or not, is unpacked.
    pub unpack: bool,
    /// Whether it is an error that all sources are wildcards which match nothing (as in buildah); else nothing is copied
    /// (as in BuildKit).
    pub must_match: bool,
    /// Modification time, in seconds since 1970, of what has no source: inline files and directories that are made.
    pub implicit_mtime: i64,
}

/// One source of a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A path or a pattern, as written; relative to the root of the tree even with a `/` in front.
    Path(String),
    /// A file of this name with this content, mode `0644`.
    Inline {
        /// File name.
        name: String,
        /// The content.
        content: Vec<u8>,
    },
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries written.
    pub entries: u64,
    /// Bytes of file content written.
    pub bytes: u64,
    /// Files that got the name of the destination itself, which was no directory: each has replaced the one before.
    pub named: u64,
}

/// Why something could not be copied or hashed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source does not exist, or the ignore file hides it.
    #[error("\"{path}\": not found")]
    NotFound {
        /// The source as an absolute path, as written.
        path: String,
        /// Whether an ignore file hides it.
        hidden: bool,
    },
    /// No wildcard of the instruction matches anything.
    #[error("no source matches: {}", quoted(.0))]
    NoMatch(Vec<String>),
    /// A source is a malformed wildcard.
    #[error("malformed wildcard in source `{}`", escaped(.0))]
    BadWildcard(String),
    /// A pattern of `--exclude` or `--parents` is malformed.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A source is a socket.
    #[error("cannot copy \"{0}\": it is a socket, and no image can hold one")]
    Socket(String),
    /// A part of the destination path is no directory.
    #[error("cannot copy into `{0}`: not a directory")]
    NotADirectory(String),
    /// A directory is to be copied where a file or link is.
    #[error("cannot copy a directory over `{0}`, which is not a directory")]
    DirOverFile(String),
    /// A file is to be copied where a directory is.
    #[error("cannot replace directory `{0}` with a file")]
    FileOverDir(String),
    /// A source cannot be read or a destination not be written.
    #[error(transparent)]
    File(#[from] archive::Error),
    /// An archive could not be unpacked.
    #[error("cannot unpack `{path}`: {error}")]
    Unpack {
        /// The archive as written.
        path: String,
        /// Why not.
        #[source]
        error: archive::Error,
    },
}

fn quoted(all: &[String]) -> String {
    all.iter().map(|s| format!("`{}`", escaped(s))).collect::<Vec<_>>().join(", ")
}

/// A path of a tree as users see it: absolute.
fn shown(path: &Path) -> String {
    format!("/{}", escaped(path.to_string_lossy().trim_start_matches('/')))
}

/// A text without control characters, which names may have and terminals obey.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

impl Classified for Error {
    fn kind(&self) -> crate::error::Kind {
        use crate::error::Kind as K;
        match self {
            Error::NotFound { .. } | Error::NoMatch(_) => K::NotFound,
            Error::BadWildcard(_)
            | Error::Pattern(_)
            | Error::Socket(_)
            | Error::NotADirectory(_)
            | Error::DirOverFile(_)
            | Error::FileOverDir(_) => K::Usage,
            Error::File(error) => error.kind(),
            Error::Unpack { error, .. } => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::NotFound { hidden: true, .. } => {
                Some("the ignore file excludes it; add a line `!` with its path there to copy it".to_owned())
            }
            Error::NotFound { .. } => {
                Some("sources are relative to the build context, or to the root of the stage of --from".to_owned())
            }
            Error::DirOverFile(path) => Some(format!(
                "if the image has a symbolic link there, name its target as the destination, or remove `{path}` first"
            )),
            Error::FileOverDir(path) => {
                Some(format!("end the destination with `/` to copy into the directory, or remove `{path}` first"))
            }
            Error::Socket(_) => Some("leave it out: whoever listens makes the socket at run time".to_owned()),
            Error::NoMatch(_) => Some("name at least one source that exists beside optional wildcards".to_owned()),
            Error::BadWildcard(_) => Some(r"write `\[` or `[[]` for a bracket that is part of the name".to_owned()),
            Error::File(error) | Error::Unpack { error, .. } => error.hint(),
            _ => None,
        }
    }
}
