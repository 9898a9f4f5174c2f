//! What FROM, COPY and ADD name.
//!
//! * [`context`]: a tree of files, seen through an ignore file. The trees: `host`, a directory of this machine, only read
//!   below its root; `unpacked`, an archive; [`git`], a checkout; `loose`, a single file.
//! * [`files`]: which Dockerfile and which ignore file belong to a build; [`cpp`]: Dockerfiles with a preprocessor.
//! * [`download`]: files behind web addresses. [`git_url`]: addresses of repositories.
//! * [`image`]: images, found in the store or in a registry; [`archives`]: images in files.
//! * [`policy`]: which of all this a build may use; [`signature_policy`]: which images may come from outside; [`signatures`]: theirs.
//! * [`skopeo`]: stores of other tools.
//! * `beneath`: opening files below a directory, whatever links an attacker puts in the way.
//!
//! Whatever is fetched lies in the store: in its blobs, or in a directory of its `tmp/` that goes away with the value that
//! needs it, and after a kill with the next build.

pub mod archives;
mod beneath;
pub mod context;
pub mod cpp;
pub mod download;
mod error;
pub mod files;
pub mod git;
pub mod git_url;
mod host;
pub mod image;
mod loose;
pub mod policy;
pub mod signature_policy;
pub mod signatures;
pub mod skopeo;
pub mod unpacked;

pub use context::{Context, Origin};
pub use download::Download;
pub use error::Error;
pub use files::{Dockerfile, Names, dockerfile_on_stdin, find_dockerfile, find_ignore};
pub use git_url::{GitUrl, GitUrlError, Mtime, Written, split_login};
pub use unpacked::Given;

use unpacked::looks_like_archive;

#[cfg(test)]
mod tests;
