//! What can go wrong with archives and trees.

use crate::error::{Classified, Kind, kind_of_io};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An error of reading, writing, extracting or comparing archives and trees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file-system call failed.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried, as a verb: `open`, `create directory`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The stream that an archive comes from failed.
    #[error("cannot read the archive: {0}")]
    Input(#[source] io::Error),
    /// The stream that an archive goes to failed.
    #[error("cannot write the archive: {0}")]
    Output(#[source] io::Error),
    /// The archive breaks its own format.
    #[error("malformed archive: {0}")]
    Malformed(String),
    /// An entry that must not be extracted.
    #[error("refused archive entry `{}`: {reason}", entry.display())]
    Refused {
        /// Name of the entry as the archive has it.
        entry: PathBuf,
        /// Why.
        reason: String,
    },
    /// Valid, but not something that rbuild can read or write.
    #[error("unsupported {0}")]
    Unsupported(String),
    /// A bound that keeps memory and disk use finite was reached.
    #[error("archive exceeds the limit of {limit} {what}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// Too many symbolic links in a path.
    #[error("cannot resolve `{}`: too many levels of symbolic links", .0.display())]
    Loop(PathBuf),
    /// A path leads through something that is not a directory.
    #[error("cannot resolve `{}`: `{}` is not a directory", path.display(), at.display())]
    NotDirectory {
        /// The path that was asked for.
        path: PathBuf,
        /// The part of it that is not a directory.
        at: PathBuf,
    },
    /// A file that has to exist does not.
    #[error("cannot find `{}`", .0.display())]
    Missing(PathBuf),
    /// A records file that cannot be read.
    #[error("malformed record at line {line} of `{}`: {reason}", path.display())]
    Record {
        /// The records file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::File { source, .. } => kind_of_io(source),
            Error::Input(e) | Error::Output(e) => kind_of_io(e),
            Error::Malformed(_) | Error::Refused { .. } | Error::Record { .. } => Kind::Corrupt,
            Error::Unsupported(_) => Kind::Unsupported,
            Error::Limit { .. } => Kind::Exhausted,
            Error::Missing(_) => Kind::NotFound,
            Error::Loop(_) | Error::NotDirectory { .. } => Kind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Record { .. } => Some("run `rbuild check`: the snapshot is damaged and has to be made again".into()),
            _ => None,
        }
    }
}

impl Error {
    /// For `map_err`: the system call that does `action` on `path` failed.
    pub fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
        move |e| Error::File { action, path: path.to_path_buf(), source: e.into() }
    }

    /// A refusal of the entry called `name`.
    pub(crate) fn refused(name: &[u8], reason: impl Into<String>) -> Error {
        Error::Refused { entry: PathBuf::from(OsStr::from_bytes(name)), reason: reason.into() }
    }
}
