//! The root file system of an image as plain files: a directory, or a tar of it, without any layers.
//!
//! A tar has everything: owners, modes, extended attributes, device nodes. A directory belongs to whoever runs the build, as with
//! BuildKit's `type=local`: modes, times, links and content are kept; owners and extended attributes are not, and device nodes,
//! which nobody but root may make, are left out with a warning.
//!
//! What is said about the image is written beside its files, as statements about them: `sbom.spdx.json`, `provenance.json`.

use super::{Error, StoredImage, StoredIndex, said::write_said, whole_file::WholeFile};
use crate::archive::diff::{self, Times};
use crate::archive::merged::Merged;
use crate::attest::{self, Said};
use crate::oci::{Descriptor, Platform, media};
use crate::snapshot::{LayerRef, Snapshots};
use crate::store::Store;
use crate::sys::idmap::IdMap;
use crate::ui::{Event, Sink};
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tar::EntryType;

/// Where the files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootfsTo<'a> {
    /// Into this directory, which is made where it does not exist; what is in it and not in the image stays.
    Directory(&'a Path),
    /// A tar at this path; `-`: standard output.
    Tar(&'a Path),
}

/// Pieces between the thread that reads the image and the one that makes files, in bytes.
const PIPE_BUFFER: usize = 1 << 18;

/// Writes the root file system of an image, and what is said about it in files whose names begin with `prefix`. Of an index, each image's into a directory named by its platform, as in
/// `linux_amd64`; of an index that holds one image and what is said about it, that image.
///
/// # Errors
/// Where the image cannot be read, or a file cannot be written; a tar has then not got its name.
pub fn write_rootfs(
    store: &Store,
    what: &Descriptor,
    (to, prefix): (RootfsTo<'_>, &str),
    sink: &dyn Sink,
) -> Result<(), Error> {
    if !media::is_index(&what.media_type) {
        return write_image(store, &StoredImage::load(store, what, &Platform::host())?, (&[], prefix), to, sink);
    }
    let index = StoredIndex::load(store, what)?;
    let said = |image: &StoredImage<'_>| -> Result<Vec<Said>, Error> {
        let mut all = vec![];
        for entry in index.attestations_of(image) {
            all.extend(attest::said(store, entry)?);
        }
        Ok(all)
    };
    if let Some(image) = index.only_image() {
        return write_image(store, image, (&said(image)?, prefix), to, sink);
    }
    let RootfsTo::Directory(dir) = to else {
        return Err(Error::Form("one tar cannot hold the files of several platforms"));
    };
    for image in index.images_proper() {
        let name = image.config.platform().to_string().replace('/', "_");
        write_image(store, image, (&said(image)?, prefix), RootfsTo::Directory(&dir.join(name)), sink)?;
    }
    Ok(())
}

fn write_image(
    store: &Store,
    image: &StoredImage<'_>,
    (said, prefix): (&[Said], &str),
    to: RootfsTo<'_>,
    sink: &dyn Sink,
) -> Result<(), Error> {
    let snapshots = Snapshots::new(store, IdMap::current())?;
    let layers: Vec<LayerRef> = image.layers().map(|(l, diff_id)| LayerRef { diff_id, blob: l.digest }).collect();
    let dirs = snapshots.ensure::<Error>(&layers, |_| Ok(()))?;
    let mut view = snapshots.view(&dirs)?;
    let top;
    if !said.is_empty() {
        top = snapshots.prepare()?;
        write_said(&view, &top, (said, prefix), image, sink)?;
        view = snapshots.view_with(&dirs, &top)?;
    }
    match to {
        RootfsTo::Tar(path) => {
            let mut file = WholeFile::create(path)?;
            diff::write_tree(&view, &Times::default(), &mut file)?;
            file.publish()
        }
        RootfsTo::Directory(dir) => {
            let skipped = write_directory(&view, dir)?;
            if skipped > 0 {
                let text = format!(
                    "{skipped} device nodes, pipes and sockets of the image are not in `{}`: only a tar holds them",
                    dir.display()
                );
                sink.event(&Event::Warning { text: &text });
            }
            Ok(())
        }
    }
}

/// Makes the files; returns how many things were left out.
fn write_directory(view: &Merged, dir: &Path) -> Result<u64, Error> {
    fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    let (reader, writer) = io::pipe().map_err(Error::file("write", dir))?;
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(PIPE_BUFFER, writer);
            diff::write_tree(view, &Times::default(), &mut out)?;
            out.flush().map_err(Error::file("read", Path::new("the image")))
        });
        let unpacked = unpack(BufReader::with_capacity(PIPE_BUFFER, reader), dir);
        // The reader is gone: a writer that is not finished fails, and the cause is the reader's.
        let written = written.join().unwrap_or(Err(Error::Form("the image could not be read")));
        let skipped = unpacked?;
        written?;
        Ok(skipped)
    })
}

fn unpack(tar: impl Read, dir: &Path) -> Result<u64, Error> {
    let failed = |path: &Path| {
        let path = dir.join(path);
        move |e| Error::file("write", &path)(cause(e))
    };
    let mut archive = tar::Archive::new(tar);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    let mut skipped = 0;
    // Modes and times of directories come last: making files in them would fail, or change them.
    let mut dirs: Vec<(PathBuf, u32, u64)> = vec![];
    for entry in archive.entries().map_err(failed(Path::new("")))? {
        let mut entry = entry.map_err(failed(Path::new("")))?;
        // Without the `/` at the end of directories: with it a link would be followed.
        let path: PathBuf = entry.path().map_err(failed(Path::new("")))?.components().collect();
        let header = entry.header();
        match header.entry_type() {
            EntryType::Directory => {
                let mode = header.mode().map_err(failed(&path))?;
                dirs.push((path.clone(), mode & 0o7777, header.mtime().map_err(failed(&path))?));
                make_dir(&dir.join(&path)).map_err(failed(&path))?;
            }
            EntryType::Regular | EntryType::Link | EntryType::Symlink => {
                // Nothing is linked onto a name that exists.
                if header.entry_type() == EntryType::Link {
                    remove_file(&dir.join(&path)).map_err(failed(&path))?;
                }
                // Checks that the parents are inside `dir`, whatever was there before.
                if !entry.unpack_in(dir).map_err(failed(&path))? {
                    return Err(Error::Form("a path of the image leads out of the directory"));
                }
            }
            _ => skipped += 1,
        }
    }
    for (path, mode, mtime) in dirs.into_iter().rev() {
        finish_dir(&dir.join(&path), mode, mtime).map_err(failed(&path))?;
    }
    Ok(skipped)
}

/// What is behind an error of the library, which says no more than which file it was.
fn cause(e: io::Error) -> io::Error {
    match e.get_ref().and_then(|inner| inner.source()) {
        Some(source) => io::Error::new(e.kind(), source.to_string()),
        None => e,
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A directory that can be written into. A link to one that was there before is not followed.
fn make_dir(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir(path)?,
        Err(e) => return Err(e),
        Ok(there) if there.is_dir() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no directory")),
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

fn finish_dir(path: &Path, mode: u32, mtime: u64) -> io::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(mtime);
    let dir = File::open(path)?;
    dir.set_modified(time)?;
    dir.set_permissions(Permissions::from_mode(mode))
}
