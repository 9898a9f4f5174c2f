//! What can go wrong with attestations.

use crate::error::{Classified, Kind};
use crate::{sbom, store};
use std::io;
use std::path::PathBuf;

/// Why something could not be said about an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The list of packages.
    #[error(transparent)]
    Sbom(#[from] sbom::Error),
    /// A statement could not be written.
    #[error("cannot write an attestation: {0}")]
    Write(#[source] io::Error),
    /// A key cannot be used.
    #[error("cannot use the key `{}`: {why}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// A key cannot be read.
    #[error("cannot read the key `{}`: {source}", path.display())]
    KeyFile {
        /// Its file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("cannot sign: the system gives no random numbers")]
    Random,
    /// A document does not parse.
    #[error("cannot read {what}: {source}")]
    Json {
        /// Which.
        what: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Sbom(e) => e.kind(),
            Error::KeyFile { source, .. } => crate::error::kind_of_io(source),
            Error::Write(e) => crate::error::kind_of_io(e),
            Error::Json { .. } => Kind::Corrupt,
            Error::Key { .. } => Kind::Usage,
            Error::Random => Kind::System,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Store(e) => e.hint(),
            Error::Sbom(e) => e.hint(),
            Error::Key { hint, .. } => Some((*hint).to_owned()),
            Error::KeyFile { .. } | Error::Write(_) | Error::Json { .. } | Error::Random => None,
        }
    }
}

impl Error {
    /// For `map_err`: a document that does not parse.
    pub(super) fn json(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Error {
        move |source| Error::Json { what: what.into(), source }
    }
}
