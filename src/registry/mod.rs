//! The registry client: pulls and pushes images over the OCI distribution protocol.
//!
//! The rest of rbuild is threads and blocking calls, so this module shows a blocking face: [`Client`] owns a small
//! asynchronous runtime, made when the first request needs it, and every method blocks its caller. Blocking readers and
//! writers of callers run on the callers' own threads and meet the network through bounded channels, so that a slow disk
//! or a slow compressor never stalls a worker of the runtime, and memory stays constant whatever a blob weighs.
//!
//! ```text
//! reference ─ conf ──► endpoints (mirrors first) ─ transport ──► request ─ auth ──► answer
//!              │            resolve: manifest, config           │         │
//!    registries.conf        fetch:   blob → digest, size        tls     credentials
//!                           push:    blobs ∥, manifest last
//! ```
//!
//! Invariants: every byte that comes in is checked against a digest and a length before anything is called complete;
//! documents held in memory are bounded ([`MAX_MANIFEST_BYTES`], [`MAX_CONFIG_BYTES`]); credentials go only to the host
//! that they belong to and to the token server which that host names; a manifest is put after all that it refers to.
//!
//! The same transport fetches plain files for ADD and for build contexts ([`download`]).
//!
//! Protocol: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>. Tokens:
//! <https://distribution.github.io/distribution/spec/auth/token/>.

mod auth;
mod chunks;
mod client;
mod conf;
mod core;
mod credentials;
pub mod download;
mod error;
mod fetch;
mod host;
mod image;
mod options;
mod pieces;
mod push;
mod referrers;
mod resolve;
mod tls;
mod token_file;
mod transport;
mod upload;
mod warnings;
mod within;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use error::{ApiError, Error};
pub use fetch::Begun;
pub use image::{Arrival, LayerSource, Open, Produce, PushEvent, PushSource, UploadMemory};
pub use options::{Environment, Options};
pub use resolve::{Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Resolved};
pub use token_file::TokenFile;
pub use transport::Timeouts;
pub use warnings::Warnings;
