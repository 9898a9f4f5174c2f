//! Blobs that are checked while they are read.
//!
//! The last bytes of a blob are given out only when the digest of all of them is the blob's name. So whoever reads one to
//! its end without an error has read what was asked for, and nobody reads a blob twice to know that it is sound.

use super::{Error, Store};
use crate::archive::compress::Ahead;
use crate::oci::{Digest, Hashing};
use std::fs::File;
use std::io::{self, Read};

/// Blobs that are shorter are hashed where they are read; longer ones on a thread of their own.
const SHORT: u64 = 2 << 20;

/// A blob's bytes, checked against its name.
struct Verified {
    digest: Digest,
    size: u64,
    /// `None` once the digest was compared.
    file: Option<Hashing<File>>,
}

impl Store {
    /// Opens a blob of `size` bytes for reading. The reader fails at the end where the bytes have another digest; with
    /// [`damage`] a caller gets the store's own error back from what the reader said.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] where it is not here, [`Error::Damaged`] where it has another length.
    pub fn open_verified(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, Error> {
        let file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        let length = file.metadata().map_err(Error::io("cannot read", &path))?.len();
        if length != size {
            self.verify_blob(digest)?;
        }
        let blob = Verified { digest: *digest, size: length, file: Some(Hashing::new(file)) };
        match length <= SHORT {
            true => Ok(Box::new(blob)),
            false => Ok(Box::new(Ahead::new(blob).map_err(Error::io("cannot read", &path))?)),
        }
    }

    /// The reason why reading a blob failed: that it is damaged, if it is; else `e`.
    pub fn blame<E: From<Error>>(&self, digest: &Digest, e: E) -> E {
        match self.verify_blob(digest) {
            Err(damaged @ Error::Damaged { .. }) => damaged.into(),
            _ => e,
        }
    }
}

/// The error of a damaged blob that a reader of [`Store::open_verified`] gave, whatever it was wrapped into.
pub fn damage(e: &io::Error) -> Option<Error> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = e.get_ref().map(|e| e as _);
    while let Some(e) = at {
        if let Some(Error::Damaged { expected, found }) = e.downcast_ref() {
            return Some(Error::Damaged { expected: *expected, found: *found });
        }
        at = match e.downcast_ref::<io::Error>() {
            Some(inner) => inner.get_ref().map(|e| e as _),
            None => e.source(),
        };
    }
    None
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let n = file.read(buf)?;
        if (n == 0 && !buf.is_empty()) || file.count() >= self.size {
            let found = self.file.take().map(|file| file.finish().1);
            if let Some(found) = found.filter(|found| *found != self.digest) {
                let damaged = Error::Damaged { expected: self.digest, found };
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn the_end_of_a_damaged_blob_is_never_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for length in [1, 5000, SHORT as usize + 1, 5 * SHORT as usize] {
            let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let digest = store.put_blob(&content).unwrap();
            let read = |size| {
                let mut out = vec![];
                store.open_verified(&digest, size)?.read_to_end(&mut out).map_err(|e| damage(&e).unwrap())?;
                Ok::<_, Error>(out)
            };
            assert!(read(length as u64).unwrap() == content);
            let path = store.blob_file(&digest).unwrap();
            let damaged = |size| matches!(read(size), Err(Error::Damaged { expected, .. }) if expected == digest);
            File::options().write(true).open(&path).unwrap().write_at(&[255], length as u64 / 2).unwrap();
            assert!(damaged(length as u64), "{length}: one byte");
            std::fs::write(&path, &content[1..]).unwrap();
            assert!(damaged(length as u64), "{length}: cut off");
            std::fs::write(&path, [&content[..], b"x"].concat()).unwrap();
            assert!(damaged(length as u64), "{length}: something behind it");
        }
    }
}
