//! What can go wrong in the store.

use crate::error::{Classified, Kind, kind_of_io};
use crate::oci::Digest;
use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{what} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A blob that a manifest or a name refers to is not here.
    #[error("blob `{0}` is not in the store")]
    MissingBlob(Digest),
    /// A blob's bytes are not what its name says.
    #[error("blob `{expected}` is damaged: its content has the digest `{found}`")]
    Damaged {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what was found.
        found: Digest,
    },
    /// A blob is larger than what it can be.
    #[error("blob `{0}` has {1} bytes, more than the {2} that a document of its kind may have")]
    TooLarge(Digest, u64, u64),
    /// A JSON document of the store or of an image does not parse.
    #[error("cannot parse `{path}`: {source}")]
    Json {
        /// Which document.
        path: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// No image has this name or id.
    #[error("image `{0}` is not in the store")]
    UnknownImage(String),
    /// Several images' ids begin with this prefix.
    #[error("image id `{0}` is ambiguous")]
    AmbiguousId(String),
    /// The directory holds a store of another layout.
    #[error("store `{}` has layout version `{found}`, this program knows version `1`", root.display())]
    Version {
        /// The store.
        root: PathBuf,
        /// Its version.
        found: String,
    },
}

impl Error {
    /// For `map_err`: adds what was tried on which path.
    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { what, path: path.to_owned(), source }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Io { source, .. } => kind_of_io(source),
            Error::MissingBlob(_) | Error::UnknownImage(_) => Kind::NotFound,
            Error::Damaged { .. } | Error::TooLarge(..) | Error::Json { .. } => Kind::Corrupt,
            Error::AmbiguousId(_) => Kind::Usage,
            Error::Version { .. } => Kind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Io { source, .. } => match kind_of_io(source) {
                Kind::Exhausted => Some(
                    "free space with `rbuild prune`, with `rbuild prune --all` that of caches too, or give the volume of the store (`RBUILD_ROOT`) a larger `sizeLimit`"
                        .into(),
                ),
                Kind::Denied => Some("name a writable directory with `--root` or `RBUILD_ROOT`".into()),
                _ if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    Some("mount an emptyDir and name it with `--root` or `RBUILD_ROOT`".into())
                }
                _ => None,
            },
            Error::MissingBlob(_) | Error::Damaged { .. } => {
                Some("run `rbuild check --repair`, then pull or build the image again".into())
            }
            Error::UnknownImage(_) => Some("`rbuild images` lists what is here; `rbuild pull` brings more".into()),
            Error::AmbiguousId(_) => Some("give more digits".into()),
            Error::Version { .. } => Some("name another directory with `--root` or `RBUILD_ROOT`".into()),
            _ => None,
        }
    }
}
