//! Blobs: immutable files named by the digest of their bytes.

use super::{Error, Store, verified::Quick};
use crate::oci::{Digest, Hashing};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
};

impl Store {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(blob_name(digest))
    }

    /// The length in bytes of a blob, `None` where it is not here. A blob that is here is in this process's lease from now
    /// on, so no garbage collection takes it.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let name = blob_name(digest);
        self.hold(&name, || Some(fs::metadata(self.root.join(&name)).ok().filter(|m| m.is_file())?.len()))
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] where it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::MissingBlob(*digest),
            _ => Error::io("cannot open", &path)(e),
        })
    }

    /// The whole content of a small blob (manifest, config), verified.
    ///
    /// # Errors
    /// Where it is missing, longer than `limit` bytes, or damaged.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        let size = file.metadata().map_err(Error::io("cannot read", &path))?.len();
        if size > limit {
            return Err(Error::TooLarge(*digest, size, limit));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(limit).read_to_end(&mut bytes).map_err(Error::io("cannot read", &path))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::Damaged { expected: *digest, found });
        }
        Ok(bytes)
    }

    /// Reads a whole blob and compares it with its name.
    ///
    /// # Errors
    /// [`Error::Damaged`] where they differ.
    pub fn verify_blob(&self, digest: &Digest) -> Result<(), Error> {
        let mut reader = Hashing::new(self.open_blob(digest)?);
        let mut buffer = vec![0; 1 << 18];
        loop {
            match io::Read::read(&mut reader, &mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("cannot read", &self.blob_path(digest))(e)),
            }
        }
        let (_, found, _) = reader.finish();
        if found == *digest { Ok(()) } else { Err(Error::Damaged { expected: *digest, found }) }
    }

    /// Starts a new blob. It appears in the store when [`BlobWriter::commit`] succeeds.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>, Error> {
        Ok(BlobWriter(Hashing::new(self.hashed_blob_writer()?)))
    }

    /// Starts a new blob whose digest somebody else computes. It appears in the store when [`HashedBlobWriter::commit`]
    /// succeeds.
    pub fn hashed_blob_writer(&self) -> Result<HashedBlobWriter<'_>, Error> {
        let path = self.lease.temp_path("blob")?;
        let file = File::create_new(&path).map_err(Error::io("cannot create", &path))?;
        Ok(HashedBlobWriter {
            store: self,
            path,
            out: BufWriter::with_capacity(1 << 18, file),
            sum: Quick::default(),
            kept: false,
        })
    }

    /// Stores these bytes as a blob, also in place of a damaged one.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest)? == Some(bytes.len() as u64) && self.verify_blob(&digest).is_ok() {
            return Ok(digest);
        }
        let mut w = self.blob_writer()?;
        w.write_all(bytes).map_err(Error::io("cannot write", &self.blob_path(&digest)))?;
        Ok(w.commit(Some(&digest))?.0)
    }

    /// Puts a file of this store's file system under `digest`, which the caller has computed of it.
    ///
    /// # Errors
    /// Where it cannot be renamed.
    pub fn adopt_blob(&self, file: &Path, digest: &Digest) -> Result<(), Error> {
        let target = self.blob_path(digest);
        let renamed = self.hold(&format!("blobs/sha256/{}", digest.hex()), || Some(fs::rename(file, &target)))?;
        renamed.unwrap_or(Ok(())).map_err(Error::io("cannot rename to", &target))
    }

    /// Where a blob lies, for reading; it is in this process's lease from now on.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] where it is not here.
    pub fn blob_file(&self, digest: &Digest) -> Result<PathBuf, Error> {
        match self.blob_size(digest)? {
            Some(_) => Ok(self.blob_path(digest)),
            None => Err(Error::MissingBlob(*digest)),
        }
    }

    /// Makes sure that a blob's bytes are on the disk.
    pub(super) fn sync_blob(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.blob_path(digest);
        self.open_blob(digest)?.sync_all().map_err(Error::io("cannot sync", &path))
    }

    /// Takes a blob out of the store: it is damaged, or nothing refers to it.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("cannot remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// The digests and sizes of all blobs.
    pub fn list_blobs(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let dir = self.root.join("blobs/sha256");
        let mut all = vec![];
        for entry in fs::read_dir(&dir).map_err(Error::io("cannot read directory", &dir))? {
            let entry = entry.map_err(Error::io("cannot read directory", &dir))?;
            let name = entry.file_name();
            if let (Some(Ok(digest)), Ok(meta)) =
                (name.to_str().map(|n| format!("sha256:{n}").parse()), entry.metadata())
            {
                all.push((digest, meta.len()));
            }
        }
        all.sort();
        Ok(all)
    }
}

/// Where a blob is, relative to the store.
fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A blob in the making. Dropped before [`BlobWriter::commit`], it leaves nothing.
pub struct BlobWriter<'a>(Hashing<HashedBlobWriter<'a>>);

impl BlobWriter<'_> {
    /// Ends the blob, and puts it under its digest. Returns the digest and the length in bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] where `expected` is not the digest of what was written; then nothing is stored.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), Error> {
        let (raw, digest, size) = self.0.finish();
        if let Some(expected) = expected.filter(|e| **e != digest) {
            return Err(Error::Damaged { expected: *expected, found: digest });
        }
        raw.commit(&digest)?;
        Ok((digest, size))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A blob in the making whose bytes are hashed on their way here. Dropped before [`HashedBlobWriter::commit`], it leaves
/// nothing.
pub struct HashedBlobWriter<'a> {
    store: &'a Store,
    path: PathBuf,
    out: BufWriter<File>,
    sum: Quick,
    kept: bool,
}

impl HashedBlobWriter<'_> {
    /// Ends the blob, and puts it under `digest`, which the caller has computed of exactly what was written.
    ///
    /// # Errors
    /// Writing fails.
    pub fn commit(mut self, digest: &Digest) -> Result<(), Error> {
        self.out.flush().map_err(Error::io("cannot write", &self.path))?;
        self.sum.remember(self.out.get_ref());
        let name = blob_name(digest);
        let target = self.store.root.join(&name);
        // An equal blob that is there already has the same bytes: which of the two stays does not matter.
        let renamed = self.store.hold(&name, || Some(fs::rename(&self.path, &target)))?;
        renamed.unwrap_or(Ok(())).map_err(Error::io("cannot rename to", &target))?;
        self.kept = true;
        Ok(())
    }
}

impl Write for HashedBlobWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.sum.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for HashedBlobWriter<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
