//! Removing a directory with all that is in it.

use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::archive::layer;

/// Removes a directory with everything in it, by descriptors, following nothing, however deep it is.
pub(in crate::archive) fn remove_tree(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    // For each directory from the top one down: the names of directories in it that are still to be removed.
    // Descriptors are not kept: depth costs memory for names only.
    let mut path = PathBuf::from(name);
    let mut levels = vec![unlink_files(parent, &path)?];
    while let Some(pending) = levels.last_mut() {
        match pending.pop() {
            Some(entry) => {
                path.push(entry);
                levels.push(unlink_files(parent, &path)?);
            }
            None => {
                rustix::fs::unlinkat(parent, &path, AtFlags::REMOVEDIR)?;
                path.pop();
                levels.pop();
            }
        }
    }
    Ok(())
}

/// Removes everything but full directories from a directory, and returns the names of those.
fn unlink_files(parent: &OwnedFd, path: &Path) -> Result<Vec<OsString>, Errno> {
    let dir = layer::open_dir(parent, path)?;
    let mut full = Vec::new();
    for entry in layer::names(&dir)? {
        match rustix::fs::unlinkat(&dir, &entry, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(&dir, &entry, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => full.push(entry),
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        }
    }
    Ok(full)
}
