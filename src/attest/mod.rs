//! What is said about an image, beside it: attestations, in the form in which BuildKit attaches them.
//!
//! ```text
//! index ─┬─ image manifest  ◄─────────────── subject ──────────────┐
//!        └─ attestation manifest (platform unknown/unknown) ───────┤
//!             ├─ layer: in-toto statement: its subjects, SBOM ─────┤
//!             └─ layer: in-toto statement: its subjects, provenance┘
//! ```
//!
//! The entry of the index names the image by its annotations; the manifest has a `subject` besides, so that a registry lists
//! it among the image's referrers. One manifest serves both kinds of readers.
//!
//! An image gets another digest when its layers are compressed on the way out. [`follow`] writes what was said about the one
//! as being about the other.
//!
//! Signatures are manifests of their own: [`signature`].
//!
//! Format: <https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md>.

use crate::oci::Reference;

mod error;
mod files;
mod manifest;
pub mod provenance;
pub mod signature;
mod statement;

pub use error::Error;
pub use files::{Said, said};
pub use manifest::{ARTIFACT, Predicate, attach, follow, refer, subject_of};
pub use statement::{Subject, write_statement};

/// What is to be said about an image that is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The packages in it.
    pub sbom: Option<crate::sbom::Format>,
    /// How it came about.
    pub provenance: Option<provenance::Form>,
    /// The names that the image is to have, wherever it goes. The build fills them in.
    pub names: Vec<Reference>,
    /// Where the files of local directories are kept, by BuildKit's names: `source`, `revision`, `localdir:NAME`. The build fills it
    /// in.
    pub vcs: Vec<(String, String)>,
    /// Names this run of the build, of which there may be an image for each of several platforms. The build fills it in.
    pub invocation: String,
}

impl Wanted {
    /// Whether anything is.
    pub fn any(&self) -> bool {
        self.sbom.is_some() || self.provenance.is_some()
    }
}
