//! Why an image could not be written somewhere.

use crate::error::{Classified, Kind, kind_of_io};
use crate::oci::{DiffId, Digest};
use crate::{archive, attest, registry, snapshot, source, store};
use std::io;
use std::path::{Path, PathBuf};

/// An error of an export.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The registry.
    #[error(transparent)]
    Registry(registry::Error),
    /// The signatures of an image.
    #[error(transparent)]
    Signatures(#[from] source::signatures::Error),
    /// The store of another tool.
    #[error(transparent)]
    OtherStore(#[from] source::skopeo::Error),
    /// The layer directories.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// What is said about the image.
    #[error(transparent)]
    Attest(#[from] attest::Error),
    /// The files of the image.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// A file of the destination.
    #[error("cannot {verb} `{}`: {source}", path.display())]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A layer could not be read or compressed.
    #[error("cannot read layer `{layer}`: {source}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// What went wrong.
        source: io::Error,
    },
    /// A layer is not what the image's config says.
    #[error("layer `{expected}` is damaged: its content has the diff ID `{found}`")]
    DiffId {
        /// What the config says.
        expected: DiffId,
        /// What was read.
        found: DiffId,
    },
    /// Manifest and config have different numbers of layers.
    #[error("image `{0}` lists {1} layers in its manifest and {2} in its config")]
    Layers(Digest, usize, usize),
    /// A document does not parse, or cannot be written.
    #[error("{what}: {source}")]
    Json {
        /// Which.
        what: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// The store has the image for other platforms only.
    #[error("image `{0}` is not in the store for platform `{1}`")]
    Platform(Digest, String),
    /// The store lacks an image of an index.
    #[error("image `{image}` for platform `{platform}` is not in the store")]
    Absent {
        /// Digest of its manifest.
        image: Digest,
        /// Its platform, as the index has it.
        platform: String,
    },
    /// An image is not signed with the key.
    #[error("`{image}` has no signature that counts: {why}")]
    Signature {
        /// Its name and digest.
        image: String,
        /// What is wrong with the last that was looked at.
        why: &'static str,
    },
    /// An index is to go where only one image can.
    #[error("`{0}` cannot hold images for several platforms")]
    OnePlatform(String),
    /// A form that the destination cannot hold.
    #[error("{0}")]
    Form(&'static str),
}

impl Error {
    /// A closure for `map_err` on a file operation. What is copied there may be a blob that turns out to be damaged.
    pub(super) fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| match store::damage(&source) {
            Some(damaged) => Error::Store(damaged),
            None => Error::File { verb, path, source },
        }
    }

    /// A closure for `map_err` on reading a layer.
    pub(super) fn layer(layer: &Digest) -> impl FnOnce(io::Error) -> Error {
        let layer = *layer;
        move |source| match store::damage(&source) {
            Some(damaged) => Error::Store(damaged),
            None => Error::Layer { layer, source },
        }
    }

    /// A closure for `map_err` on writing or reading a document.
    pub(super) fn json(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Error {
        let what = what.into();
        move |source| Error::Json { what, source }
    }
}

impl From<registry::Error> for Error {
    fn from(e: registry::Error) -> Error {
        match &e {
            registry::Error::Local { source, .. } => store::damage(source).map_or(Error::Registry(e), Error::Store),
            _ => Error::Registry(e),
        }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Signatures(e) => e.kind(),
            Error::OtherStore(e) => e.kind(),
            Error::Snapshot(e) => e.kind(),
            Error::Archive(e) => e.kind(),
            Error::Attest(e) => e.kind(),
            Error::Registry(e) => e.kind(),
            Error::File { source, .. } | Error::Layer { source, .. } => kind_of_io(source),
            Error::DiffId { .. } | Error::Layers(..) | Error::Json { .. } => Kind::Corrupt,
            Error::Signature { .. } => Kind::Denied,
            Error::Platform(..) | Error::Absent { .. } => Kind::NotFound,
            Error::Form(_) | Error::OnePlatform(_) => Kind::Unsupported,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Store(e) => e.hint(),
            Error::Signatures(e) => e.hint(),
            Error::OtherStore(e) => e.hint(),
            Error::Snapshot(e) => e.hint(),
            Error::Archive(e) => e.hint(),
            Error::Attest(e) => e.hint(),
            Error::Registry(e) => e.hint(),
            Error::Absent { .. } => Some("bring it with `rbuild manifest add`, or take it out of the list".into()),
            Error::OnePlatform(_) => {
                Some("write an `oci-archive:` or `oci:` directory, or push it to a registry".into())
            }
            Error::DiffId { .. } => {
                Some("the image was made by a broken tool: pull another one, or build it again".into())
            }
            Error::Form(_) => Some("choose another `--format` or `--compression-format`".into()),
            _ => None,
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Error::Registry(e) if e.retryable())
    }
}
