//! From a name to the manifest and config of an image for one platform.

use crate::oci::{Descriptor, ImageConfig, Manifest, Reference};

/// Longest manifest or index that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest image config that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// A document as a registry stores it: its bytes and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Media type.
    pub media_type: String,
    /// The exact bytes, which the digest is taken of.
    pub bytes: Vec<u8>,
}

impl Document {
    /// The descriptor of these bytes.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(&self.media_type, &self.bytes)
    }
}

/// An image that a registry has: everything but its layers.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name that was resolved, with registry and with tag or digest.
    pub reference: Reference,
    /// Descriptor of the image manifest.
    pub descriptor: Descriptor,
    /// The image manifest.
    pub manifest: Manifest,
    /// The image manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The index that the name led to, where it was one.
    pub index: Option<(Descriptor, Vec<u8>)>,
    /// The image config.
    pub config: ImageConfig,
    /// The image config's bytes.
    pub config_bytes: Vec<u8>,
}
