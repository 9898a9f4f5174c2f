//! Transfers that were cut short, and what of them the next try need not move again.
//!
//! A blob that is being fetched lies in `partial/` under its digest, locked by the process that fetches it. When that process
//! is killed, the kernel drops the lock, and whoever wants the blob next goes on where it ended. Uploads are the registry's:
//! `uploads/` has the address of each that was begun.

use super::{Error, Store, lock_file};
use crate::oci::Digest;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// How long what was begun is kept. Registries forget uploads after some days.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Bytes of an address and what it is for.
const LONGEST_ADDRESS: u64 = 64 << 10;

/// Uploads that this process asked for, by what they are of; `None`: another process's.
pub(super) type Uploads = Mutex<HashMap<String, Option<File>>>;

/// A blob that is being fetched. Dropped, it stays for the next who wants it.
pub struct PartialBlob<'a> {
    store: &'a Store,
    file: File,
    path: PathBuf,
    have: u64,
}

impl Store {
    pub(super) fn partial_dir(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn uploads_dir(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// What is here of a blob of `size` bytes, to go on with it; `None` while another process does.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn partial_blob(&self, digest: &Digest, size: u64) -> Result<Option<PartialBlob<'_>>, Error> {
        let path = self.partial_dir().join(digest.hex());
        fs::create_dir_all(self.partial_dir()).map_err(Error::io("cannot create directory", &self.partial_dir()))?;
        loop {
            let file = lock_file(&path)?;
            if file.try_lock().is_err() {
                return Ok(None);
            }
            // Whoever had the lock before may have made a blob of the file, or removed it.
            if !is_at(&file, &path) {
                continue;
            }
            let mut blob = PartialBlob { store: self, have: 0, file, path };
            let length = blob.file.metadata().map_err(|e| blob.failed(e))?.len();
            if length > size {
                blob.start_over()?;
            } else {
                blob.have = blob.file.seek(SeekFrom::End(0)).map_err(|e| blob.failed(e))?;
            }
            return Ok(Some(blob));
        }
    }

    /// The address of the upload that was begun for `what`. From now on it is this process's: others are told of none, and
    /// do not write into it meanwhile.
    pub fn upload(&self, what: &str) -> Option<String> {
        let mut claims = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let claim = claims.entry(what.to_owned()).or_insert_with(|| self.claim_upload(what));
        let mut text = String::new();
        let mut file = claim.as_ref()?;
        file.rewind().and_then(|()| file.take(LONGEST_ADDRESS).read_to_string(&mut text)).ok()?;
        text.strip_prefix(what)?.strip_prefix('\n').map(str::to_owned).filter(|address| !address.is_empty())
    }

    /// Remembers the address of an upload for `what`, for which [`Store::upload`] was asked; `None`: there is none any more.
    /// What cannot be remembered only costs work later.
    pub fn remember_upload(&self, what: &str, address: Option<&str>) {
        let claims = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Some(mut file)) = claims.get(what).map(Option::as_ref) else { return };
        let text = address.map(|address| format!("{what}\n{address}")).unwrap_or_default();
        let written = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(text.as_bytes()));
        if let Err(e) = written {
            tracing::debug!("cannot remember an upload: {e}");
        }
    }

    fn claim_upload(&self, what: &str) -> Option<File> {
        let (dir, path) = (self.uploads_dir(), self.upload_path(what));
        // Who knows the address may be able to write there.
        fs::create_dir_all(&dir).and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))).ok()?;
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).ok()?;
        (file.try_lock().is_ok() && is_at(&file, &path)).then_some(file)
    }

    fn upload_path(&self, what: &str) -> PathBuf {
        self.uploads_dir().join(Digest::of(what.as_bytes()).hex())
    }

    /// Drops what was begun and is not gone on with: all of it, or what is old. Returns the number of bytes.
    pub(super) fn drop_unfinished(&self, all: bool) -> u64 {
        let mut bytes = 0;
        for path in [self.partial_dir(), self.uploads_dir()] {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                let path = entry.path();
                let age = meta.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
                if !all && age.is_none_or(|age| age < KEPT) {
                    continue;
                }
                let free = File::open(&path).is_ok_and(|f| f.try_lock().is_ok());
                if free && fs::remove_file(&path).is_ok() {
                    bytes += meta.len();
                }
            }
        }
        bytes
    }
}

/// Whether `path` names this open file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

impl PartialBlob<'_> {
    fn failed(&self, e: io::Error) -> Error {
        Error::io("cannot use", &self.path)(e)
    }

    /// Bytes that were here at the beginning.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Reads what was here at the beginning.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn begun(&self) -> Result<impl io::Read + Send + use<>, Error> {
        Ok(File::open(&self.path).map_err(|e| self.failed(e))?.take(self.have))
    }

    /// Forgets what is here: it is not what it should be.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn start_over(&mut self) -> Result<(), Error> {
        self.have = 0;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|e| self.failed(e))
    }

    /// Removes what is here.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Makes a blob of it; the caller has compared all of it with `digest`.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn commit(self, digest: &Digest) -> Result<(), Error> {
        self.store.adopt_blob(&self.path, digest)
    }
}

impl Write for PartialBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_a_blob_next_goes_on_where_the_last_one_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello world");
        let mut first = store.partial_blob(&digest, 11).unwrap().unwrap();
        first.write_all(b"hello").unwrap();
        assert!(store.partial_blob(&digest, 11).unwrap().is_none(), "somebody is at it");
        drop(first);
        let mut second = store.partial_blob(&digest, 11).unwrap().unwrap();
        let mut begun = String::new();
        second.begun().unwrap().read_to_string(&mut begun).unwrap();
        assert_eq!((second.have(), begun.as_str()), (5, "hello"));
        second.write_all(b" world").unwrap();
        second.commit(&digest).unwrap();
        store.verify_blob(&digest).unwrap();
        assert_eq!(store.partial_blob(&digest, 11).unwrap().unwrap().have(), 0, "it was made a blob of");
    }

    #[test]
    fn what_is_longer_than_the_blob_is_forgotten_and_what_nobody_is_at_is_collected() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = Digest::of(b"x");
        store.partial_blob(&digest, 100).unwrap().unwrap().write_all(b"longer").unwrap();
        let held = store.partial_blob(&digest, 1).unwrap().unwrap();
        assert_eq!(held.have(), 0);
        store.drop_unfinished(true);
        assert!(is_at(&held.file, &held.path), "it is in use");
        drop(held);
        store.drop_unfinished(false);
        assert!(store.partial_dir().join(digest.hex()).exists(), "it is new");
        store.drop_unfinished(true);
        assert!(!store.partial_dir().join(digest.hex()).exists());
    }

    #[test]
    fn an_upload_is_gone_on_with_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let what = "layer at host";
        assert_eq!(store.upload(what), None);
        store.remember_upload(what, Some("http://host/u1"));
        assert_eq!(store.upload(what).as_deref(), Some("http://host/u1"));
        let other = Store::open(dir.path()).unwrap();
        assert_eq!(other.upload(what), None);
        other.remember_upload(what, Some("http://host/u2"));
        store.drop_unfinished(true);
        drop(store);
        let next = Store::open(dir.path()).unwrap();
        assert_eq!(next.upload(what).as_deref(), Some("http://host/u1"));
        next.remember_upload(what, None);
        assert_eq!(next.upload(what), None);
        drop(next);
        other.drop_unfinished(true);
        assert_eq!(Store::open(dir.path()).unwrap().upload(what), None);
    }
}
