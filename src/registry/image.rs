//! What a push is given and what it tells: the image, layer by layer, and news of how it gets on.

use super::Document;
use crate::oci::{Descriptor, Digest};
use std::io::{self, Read, Write};

/// Where uploads that were begun are remembered, so that a later push goes on with them.
pub trait UploadMemory: Sync {
    /// The address of an upload of this layer (by its place) that an earlier push began, and that was cut short.
    fn upload(&self, _layer: usize) -> Option<String> {
        None
    }

    /// Told where a layer's upload was begun, and with `None` that there is none any more.
    fn remember_upload(&self, _layer: usize, _address: Option<&str>) {}
}

/// An image to push. Asked once for layers and config, and for the manifest when all of them have arrived.
pub trait PushSource: UploadMemory {
    /// The layers, lowest first.
    fn layers(&self) -> Vec<LayerSource<'_>>;

    /// The image config.
    fn config(&self) -> Document;

    /// The manifest, given where the layers (in the order of [`layers`](Self::layers)) and the config went. The place to
    /// remember what a [`LayerSource::Stream`] became.
    fn finish(&self, layers: &[Descriptor], config: &Descriptor) -> io::Result<Document>;
}

/// Opens a blob's bytes anew; called again for each new try.
pub type Open<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync + 'a>;
/// Writes a blob's bytes; called again for each new try, and must write the same bytes each time. An error of the writer
/// that it is given (broken pipe) must be passed on.
pub type Produce<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + Send + Sync + 'a>;

/// One layer to push.
pub enum LayerSource<'a> {
    /// A blob whose digest and length are known.
    Known {
        /// What it is.
        descriptor: Descriptor,
        /// A repository of the same registry that has it.
        mount_from: Option<String>,
        /// Opens its bytes.
        open: Open<'a>,
    },
    /// A blob that is made while it is sent. Digest and length are computed on the way.
    Stream {
        /// Media type of what is written.
        media_type: String,
        /// What the same production gave earlier. Where the registry has that blob, nothing is produced.
        known: Option<Descriptor>,
        /// A repository of the same registry that has the blob `known`.
        mount_from: Option<String>,
        /// Produces its bytes.
        write: Produce<'a>,
    },
}

/// How a blob came to be in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was sent.
    Uploaded,
    /// It was there before.
    Existed,
    /// The registry linked it from this repository.
    Mounted(String),
}

/// News of a push. Layers are named by their place in [`PushSource::layers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushEvent {
    /// Work on a layer began.
    LayerStarted {
        /// Its place.
        layer: usize,
        /// Its digest, where known.
        digest: Option<Digest>,
        /// Its length in bytes, where known.
        size: Option<u64>,
    },
    /// Bytes of a layer were handed to the network. Starts again at zero when the layer is tried again.
    LayerSent {
        /// Its place.
        layer: usize,
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer has arrived.
    LayerDone {
        /// Its place.
        layer: usize,
        /// What it is.
        descriptor: Descriptor,
        /// How it came there.
        arrival: Arrival,
    },
    /// The config has arrived.
    ConfigDone {
        /// What it is.
        descriptor: Descriptor,
        /// How it came there.
        arrival: Arrival,
    },
    /// The manifest is published: the push is complete.
    ManifestDone {
        /// What it is.
        descriptor: Descriptor,
    },
}
