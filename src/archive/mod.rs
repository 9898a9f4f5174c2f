//! Tar archives and directory trees: reading, writing, extraction, diffs, compression.
//!
//! A *layer directory* is how a layer lies on disk, and what the kernel's overlayfs, the extractor, COPY and the diff
//! all agree on:
//!
//! ```text
//! DIR/fs/       the files, in overlayfs' terms: a whiteout is a character device 0:0, an opaque directory carries
//!               the xattr `user.overlay.opaque=y`; device nodes are never made, an empty file stands for each
//! DIR/records   what the file system could not store: owners, modes, device numbers, file capabilities
//! ```
//!
//! * [`record`]: the `records` file. [`layer`]: a layer directory, open. [`merged`]: a stack of layer directories as one tree, without a mount.
//! * [`upper`]: writes into the uppermost layer directory with overlayfs' rules; used by [`extract`] and by COPY.
//! * [`tarfile`] and [`reader`]: the tar format. [`extract`]: tar to layer directory. [`diff`]: the way back.
//! * [`plain`]: a stack of layer directories as a copy, and what a step changed in it.
//! * [`copy`]: the engine of COPY and ADD; [`content`]: the digest of what it would read.
//! * [`compress`]: gzip, zstd, bzip2 and xz. [`indexed`]: eStargz and zstd:chunked, from which single files can be read.

mod attrs;
pub mod compress;
pub mod content;
pub mod copy;
mod deflate;
pub mod diff;
mod dirtimes;
mod emit;
pub mod error;
pub mod extract;
mod hashed;
pub mod indexed;
pub mod layer;
pub mod merged;
pub mod node;
mod ordered;
pub mod plain;
pub mod reader;
pub mod record;
pub mod retime;
pub mod tarfile;
pub mod upper;
pub mod whiteout;

pub use error::Error;
pub use node::{Kind, Meta, Node, Time, Xattrs};
