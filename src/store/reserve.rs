//! A little room that is kept free for removing: on a full file system even a shorter list of images cannot be written
//! beside the old one.

use super::{Error, Store};
use crate::error::{Classified as _, Kind};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

/// Bytes kept: more than an index of some hundred images.
const BYTES: usize = 256 << 10;

/// Makes the reserve where there is none. A file system that has no room for it now may have it later.
pub(super) fn make(root: &Path) {
    let path = root.join("reserve");
    let Ok(mut file) = File::create_new(&path) else { return };
    // Not zeros: a file system that compresses would keep nothing for them.
    let block: Vec<u8> = (0..BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    if file.write_all(&block).is_err() {
        let _ = fs::remove_file(&path);
    }
}

/// Tries `work` once more without the reserve, where there is no room for it.
pub(super) fn with<T>(root: &Path, work: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    match work() {
        Err(e) if e.kind() == Kind::Exhausted && fs::remove_file(root.join("reserve")).is_ok() => work(),
        done => done,
    }
}

impl Store {
    /// Does what removing needs, if need be in the room that is kept for it.
    pub(super) fn with_reserve<T>(&self, work: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        with(&self.root, work)
    }
}
