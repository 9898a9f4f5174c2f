//! ADD of an archive of the build context: told by its content, not by its name.

use super::Error;
use super::tree::Tree;
use crate::archive;
use crate::archive::compress::Decoder;
use crate::archive::extract::{Limits, unpack_archive};
use crate::archive::reader::Reader;
use crate::archive::upper::{Attrs, Upper};
use std::path::Path;

/// Whether a file is a tar archive, compressed or not, with at least one entry.
pub(super) fn is_archive(tree: &dyn Tree, path: &Path) -> Result<bool, Error> {
    let Ok(decoder) = Decoder::new(tree.open(path)?) else { return Ok(false) };
    Ok(matches!(Reader::new(decoder).next_entry(), Ok(Some(_))))
}

/// Unpacks the archive `path` of `tree` into the directory `dest`; `made` is for directories that are missing.
pub(super) fn unpack(
    tree: &dyn Tree,
    path: &Path,
    upper: &mut Upper<'_>,
    dest: &Path,
    made: &Attrs,
    owner: Option<(u32, u32)>,
) -> Result<(), archive::Error> {
    let decoder = Decoder::new(tree.open(path)?).map_err(archive::Error::Input)?;
    unpack_archive(decoder, upper, dest, made, owner, &Limits::default())
}
