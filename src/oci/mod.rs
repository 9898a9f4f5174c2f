//! The data of the OCI image and distribution specifications: digests, references, platforms, descriptors, manifests and
//! configs. Pure values: nothing here opens a file or a connection.
//!
//! Own types rather than a crate's, because an image id is the hash of a config's bytes: maps are ordered, fields have
//! one fixed order, Docker's fields that the OCI specification leaves out (Healthcheck, OnBuild, Shell) are kept, and
//! fields that nobody knows survive a round trip.

mod config;
mod digest;
mod location;
mod manifest;
mod platform;
mod reference;

pub use config::{ContainerConfig, Empty, Health, History, ImageConfig, RootFs};
pub use digest::{ChainId, DiffId, Digest, DigestError, Hashing};
pub use location::{Location, LocationError};
pub use manifest::{Compression, Descriptor, Index, Manifest, ManifestFormat, media};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
