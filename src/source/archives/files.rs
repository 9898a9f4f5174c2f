//! The files of an archive or directory, as blobs of the store.

use super::Error;
use crate::oci::Digest;
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Most entries of an archive.
const MAX_ENTRIES: usize = 20_000;
/// Longest name of a file in an archive, in bytes.
const MAX_NAME_BYTES: usize = 1024;
/// Links that are followed from one name.
const MAX_LINKS: usize = 8;

/// A file that was read into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Digest of what was read.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What is behind each name.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<String, Kept>,
    /// Old archives of Docker and podman say a layer again by a symbolic link.
    links: BTreeMap<String, String>,
    /// The directory with the blobs of an image layout.
    layout: Option<PathBuf>,
}

/// A name without `.` and `..`; `None` where it would leave the archive.
fn clean(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = vec![];
    for part in path.components() {
        match part {
            Component::Normal(p) => parts.push(p.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn keep(store: &Store, mut input: impl Read) -> Result<Kept, Error> {
    let mut blob = store.blob_writer()?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::Read(e)),
        };
        io::Write::write_all(&mut blob, buffer.get(..n).unwrap_or_default()).map_err(Error::Write)?;
    }
    let (digest, size) = blob.commit(None)?;
    Ok(Kept { digest, size })
}

impl Files {
    /// Reads a whole tar.
    pub fn of_tar(store: &Store, input: impl Read) -> Result<Files, Error> {
        let mut files = Files::default();
        let mut archive = tar::Archive::new(input);
        for (n, entry) in archive.entries().map_err(Error::Tar)?.enumerate() {
            if n >= MAX_ENTRIES {
                return Err(Error::TooMuch("more entries than an image has files"));
            }
            let entry = entry.map_err(Error::Tar)?;
            let path = entry.path().map_err(Error::Tar)?.into_owned();
            if path.as_os_str().len() > MAX_NAME_BYTES {
                return Err(Error::TooMuch("a name that is too long"));
            }
            // What is not inside the archive can be referred to by nothing.
            let Some(name) = clean(&path) else { continue };
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let kept = keep(store, entry)?;
                files.files.insert(name, kept);
            } else if kind.is_symlink() || kind.is_hard_link() {
                let Ok(Some(target)) = entry.link_name() else { continue };
                let base = if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
                if let Some(target) = clean(&base.join(target)) {
                    files.links.insert(name, target);
                }
            }
        }
        Ok(files)
    }

    /// Reads the index of an image layout; its blobs are read when they are asked for.
    pub fn of_layout(store: &Store, dir: &Path) -> Result<Files, Error> {
        let mut files = Files { layout: Some(dir.join("blobs/sha256")), ..Files::default() };
        files.add(store, dir, "index.json")?;
        Ok(files)
    }

    /// Reads a directory of loose blobs.
    pub fn of_dir(store: &Store, dir: &Path) -> Result<Files, Error> {
        let mut files = Files::default();
        for entry in read_dir(dir)? {
            files.add(store, dir, &entry)?;
        }
        Ok(files)
    }

    fn add(&mut self, store: &Store, dir: &Path, name: &str) -> Result<(), Error> {
        let path = dir.join(name);
        let failed = |source| Error::Open { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_file() {
            let kept = keep(store, file)?;
            self.files.insert(name.to_owned(), kept);
        }
        Ok(())
    }

    /// The file behind a name, links followed.
    pub fn get(&self, name: &str) -> Option<Kept> {
        let mut name = clean(Path::new(name))?;
        for _ in 0..MAX_LINKS {
            if let Some(file) = self.files.get(&name) {
                return Some(*file);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }

    /// The file with a digest, whatever its name.
    pub fn blob(&self, store: &Store, digest: &Digest) -> Result<Option<Kept>, Error> {
        if let Some(found) = self.files.values().find(|f| f.digest == *digest) {
            return Ok(Some(*found));
        }
        let Some(blobs) = &self.layout else { return Ok(None) };
        if let Some(size) = store.blob_size(digest)? {
            return Ok(Some(Kept { digest: *digest, size }));
        }
        let path = blobs.join(digest.hex());
        let failed = |source| Error::Open { path: path.clone(), source };
        match File::open(&path) {
            Ok(file) if file.metadata().map_err(failed)?.is_file() => {
                let kept = keep(store, file)?;
                Ok(Some(kept).filter(|k| k.digest == *digest))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Whether there is a file that has, or says to have, this digest.
    pub fn has(&self, digest: &Digest) -> bool {
        self.files.values().any(|f| f.digest == *digest)
            || self.layout.as_ref().is_some_and(|blobs| blobs.join(digest.hex()).is_file())
    }
}

fn read_dir(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Open { path: dir.to_owned(), source };
    let mut names = vec![];
    for entry in fs::read_dir(dir).map_err(failed)? {
        if names.len() >= MAX_ENTRIES {
            return Err(Error::TooMuch("more entries than an image has files"));
        }
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}
