//! What FROM, COPY and ADD name.
//!
//! * [`local`]: a directory of this machine as build context: only read below its root, seen through an ignore file.
//! * [`files`]: which Dockerfile and which ignore file belong to a build.
//! * [`image`]: images, found in the store or in a registry.
//! * [`beneath`]: opening files below a directory, whatever links an attacker puts in the way.

pub mod archives;
mod beneath;
pub mod files;
pub mod image;
pub mod local;

pub use files::{Dockerfile, Names, Stdin, find_dockerfile, find_ignore, read_stdin};
pub use local::Context;

#[cfg(test)]
mod tests;

use crate::dockerfile::ignore::PatternError;
use crate::error::{Classified, Kind, kind_of_io};
use std::io;
use std::path::{Path, PathBuf};

/// Why a context or one of its files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The context directory cannot be opened.
    #[error("cannot open build context `{}`: {error}", path.display())]
    Context {
        /// The directory as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// None of the usual names is in the context.
    #[error("no {} in build context `{}`", any_of(.names), context.display())]
    NoDockerfile {
        /// The context as given.
        context: PathBuf,
        /// What was looked for.
        names: Vec<String>,
    },
    /// A file that was named cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file as given.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file is larger than any Dockerfile or ignore file can be.
    #[error("`{}` is larger than {} MiB", path.display(), files::LARGEST >> 20)]
    TooLarge {
        /// The file as given.
        path: PathBuf,
    },
    /// A pattern in an ignore file is malformed.
    #[error("in `{file}`: {error}")]
    Ignore {
        /// The ignore file.
        file: String,
        /// The pattern.
        #[source]
        error: PatternError,
    },
    /// A build context on standard input that is an archive.
    #[error("unsupported build context on standard input: an archive")]
    StdinArchive,
}

fn any_of(names: &[String]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or ")
}

impl Error {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::Read { path: path.to_owned(), error }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Context { error, .. } | Error::Read { error, .. } => kind_of_io(error),
            Error::NoDockerfile { .. } => Kind::NotFound,
            Error::TooLarge { .. } | Error::Ignore { .. } => Kind::Usage,
            Error::StdinArchive => Kind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::NoDockerfile { .. } => Some("name the Dockerfile with `-f`".to_owned()),
            Error::StdinArchive => Some("unpack it into a directory and give that as the context".to_owned()),
            _ => None,
        }
    }
}
