//! Why an archive or directory gives no image.

use crate::error::{Classified, Kind, kind_of_io};
use crate::oci::{DiffId, Digest, ReferenceError};
use crate::store;
use std::io;
use std::path::PathBuf;

/// An error of reading an image from files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A name that the archive gives.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The archive could not be opened.
    #[error("cannot open `{}`: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The archive could not be read.
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
    /// A file of the archive could not be stored.
    #[error("cannot store a file of the archive: {0}")]
    Write(io::Error),
    /// It is no tar.
    #[error("not a tar archive: {0}")]
    Tar(io::Error),
    /// It is a tar, but no image.
    #[error("the archive holds no image: it has neither `manifest.json` nor `index.json`")]
    NotAnImage,
    /// A document refers to a file that is not there.
    #[error("the archive has no file `{0}`, which `{1}` refers to")]
    MissingFile(String, String),
    /// A document does not parse.
    #[error("cannot parse {what}: {source}")]
    Json {
        /// Which.
        what: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// Manifest and config contradict each other.
    #[error("the manifest lists {layers} layers, the config {diff_ids}")]
    Layers {
        /// Layers of the manifest.
        layers: usize,
        /// Diff IDs of the config.
        diff_ids: usize,
    },
    /// A layer cannot be decompressed.
    #[error("cannot read layer `{layer}`: {source}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// What went wrong.
        source: io::Error,
    },
    /// A layer is not the one that the config means.
    #[error("layer `{expected}` is damaged: its content has the diff ID `{found}`")]
    DiffId {
        /// What the config says.
        expected: DiffId,
        /// What was read.
        found: DiffId,
    },
    /// A layer is compressed in a way that images do not use.
    #[error("layer `{layer}` is compressed with {format}, which no image format knows")]
    Compression {
        /// The layer.
        layer: Digest,
        /// The format.
        format: String,
    },
    /// The signature policy.
    #[error(transparent)]
    Policy(#[from] crate::source::signature_policy::Error),
    /// The store of another tool.
    #[error(transparent)]
    OtherStore(#[from] crate::source::skopeo::Error),
    /// A bound was exceeded.
    #[error("the archive has {0}")]
    TooMuch(&'static str),
    /// The location names an image that is not there.
    #[error("no image at `{0}`")]
    NoImage(String),
    /// Which of several images is meant is not said.
    #[error("`{0}` holds several images")]
    Several(String),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Policy(e) => e.kind(),
            Error::OtherStore(e) => e.kind(),
            Error::Open { source, .. } => kind_of_io(source),
            Error::Write(e) => kind_of_io(e),
            Error::NoImage(_) => Kind::NotFound,
            Error::Several(_) => Kind::Usage,
            Error::TooMuch(_) => Kind::Exhausted,
            _ => Kind::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Store(e) => e.hint(),
            Error::Policy(e) => e.hint(),
            Error::OtherStore(e) => e.hint(),
            Error::NotAnImage => Some("a root file system is brought in with `rbuild import FILE NAME`".into()),
            Error::Several(_) => Some("say which: `TRANSPORT:PATH:NAME`".into()),
            _ => None,
        }
    }
}
