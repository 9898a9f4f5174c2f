//! What can go wrong with layer directories.

use super::LayerRef;
use crate::archive;
use crate::error::{Classified, Kind, kind_of_io};
use crate::oci::Digest;
use crate::store;
use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of the layer directories.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A layer could not be extracted.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// A layer's blob cannot be decompressed.
    #[error("cannot read layer `{}`: {source}", layer.blob)]
    Unreadable {
        /// The layer.
        layer: LayerRef,
        /// What the decoder said.
        source: io::Error,
    },
    /// A layer's tar is not the one that the image config names.
    #[error("layer `{}` has the diff ID `{found}`, the image config says `{}`", layer.blob, layer.diff_id)]
    WrongDiffId {
        /// The layer.
        layer: LayerRef,
        /// The digest of its uncompressed tar.
        found: Digest,
    },
    /// A storage driver that mounts was asked for where nothing can be mounted.
    #[error("the storage driver `{0}` cannot be used: steps run without a user namespace, and mount nothing")]
    NoDriver(&'static str),
    /// The file system of a step failed.
    #[error("the file system of a step failed: {0}")]
    Server(io::Error),
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
}

impl Error {
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { what, path: path.to_owned(), source }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Archive(e) => e.kind(),
            Error::Unreadable { .. } | Error::WrongDiffId { .. } => Kind::Corrupt,
            Error::NoDriver(_) => Kind::Usage,
            Error::Io { source, .. } | Error::Server(source) => kind_of_io(source),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Store(e) => e.hint(),
            Error::Archive(e) => e.hint(),
            Error::Unreadable { .. } | Error::WrongDiffId { .. } => {
                Some("the image is damaged or was made by a broken tool: pull it again, or use another one".into())
            }
            Error::NoDriver(_) => {
                Some("use `copy`, or leave `--storage-driver` and `STORAGE_DRIVER` out: rbuild takes the best that the pod allows".into())
            }
            Error::Io { .. } => None,
            Error::Server(_) => Some("build again, or use another `--storage-driver`".into()),
        }
    }
}
