//! What can go wrong with a signature policy.

use crate::error::{Classified, Kind, kind_of_io};
use crate::source::signatures;
use std::io;
use std::path::PathBuf;

/// Why a policy cannot be used, or what it refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read signature policy `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file is not a policy.
    #[error("cannot use signature policy `{}`: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The policy does not let the image be used.
    #[error("image `{image}` is rejected by {scope} of signature policy `{}`: {why}", path.display())]
    Rejected {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// Which part of it.
        scope: String,
        /// What it lacks.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The policy asks for what rbuild cannot check.
    #[error("cannot judge image `{image}` by {scope} of signature policy `{}`: {what}", path.display())]
    Unsupported {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// Which part of it.
        scope: String,
        /// What it asks for.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A key that the policy names.
    #[error("cannot judge image `{image}` by {scope} of signature policy `{}`: {source}", path.display())]
    Key {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// Which part of it.
        scope: String,
        /// What is wrong with the key.
        source: crate::attest::Error,
    },
    /// The signatures could not be read.
    #[error("cannot read the signatures of `{image}` that {scope} of signature policy `{}` asks for: {source}", path.display())]
    Signatures {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// Which part of it.
        scope: String,
        /// Why not.
        source: signatures::Error,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Read { error, .. } => kind_of_io(error),
            Error::Parse { .. } => Kind::Usage,
            Error::Rejected { .. } => Kind::Denied,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Key { source, .. } => source.kind(),
            Error::Signatures { source, .. } => source.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Rejected { hint, .. } | Error::Unsupported { hint, .. } => Some(hint.clone()),
            Error::Key { source, .. } => source.hint(),
            Error::Signatures { source, .. } => source.hint(),
            Error::Parse { .. } => Some("the format is that of containers-policy.json(5)".into()),
            Error::Read { .. } => None,
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Error::Signatures { source, .. } if source.retryable())
    }
}
