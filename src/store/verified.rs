//! Blobs that are checked while they are read.
//!
//! The last bytes of a blob are given out only when the digest of all of them is the blob's name. So whoever reads one to
//! its end without an error has read what was asked for, and nobody reads a blob twice to know that it is sound.
//!
//! SHA-256 takes longer than compressing with zstd does where the processor has no instructions for it. So a long blob gets its BLAKE3 sum
//! as an extended attribute when it is written, and is checked by that. Without one (another tool's blob, a file system without
//! attributes) it is the digest; and it is the digest that says whether a blob whose sum differs is damaged.

use super::{Error, Store};
use crate::archive::compress::Ahead;
use crate::oci::{Digest, Hashing};
use std::fs::File;
use std::io::{self, Read, Seek as _};

/// Blobs that are shorter are hashed where they are read; longer ones on a thread of their own.
const SHORT: u64 = 2 << 20;

/// A blob's bytes, checked against its name.
struct Verified {
    digest: Digest,
    size: u64,
    /// `None` once the sum was compared.
    file: Option<Checked>,
}

/// A file, and what is computed of what was read.
struct Checked {
    file: File,
    count: u64,
    sum: Sum,
}

enum Sum {
    Digest(Hashing<()>),
    /// Quick, and what it is to be.
    Quick(Box<Quick>, [u8; 32]),
}

/// The sum of a blob in the making.
#[derive(Default)]
pub(super) struct Quick(blake3::Hasher);

/// The attribute that holds it.
const ATTRIBUTE: &str = "user.rbuild.blake3";

impl Quick {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Writes the sum down at the file, where that is worth it and possible.
    pub(super) fn remember(&self, file: &File) {
        if self.0.count() > SHORT {
            let flags = rustix::fs::XattrFlags::empty();
            if let Err(e) = rustix::fs::fsetxattr(file, ATTRIBUTE, self.0.finalize().as_bytes(), flags) {
                tracing::debug!("no sum is kept at a blob: {e}");
            }
        }
    }

    fn of(file: &File) -> Option<[u8; 32]> {
        let mut sum = [0; 32];
        let length = rustix::fs::fgetxattr(file, ATTRIBUTE, &mut sum).ok()?;
        (length == sum.len()).then_some(sum)
    }
}

impl Checked {
    fn new(file: File) -> Checked {
        let sum = match Quick::of(&file) {
            Some(sum) => Sum::Quick(Box::default(), sum),
            None => Sum::Digest(Hashing::new(())),
        };
        Checked { file, count: 0, sum }
    }

    /// Compares the sum of what was read.
    fn finish(mut self, digest: Digest) -> io::Result<()> {
        let found = match self.sum {
            Sum::Quick(sum, expected) if sum.0.finalize() == expected => return Ok(()),
            Sum::Quick(read, expected) => {
                self.file.rewind()?;
                let mut whole =
                    Hashing::new(Checked { file: self.file, count: 0, sum: Sum::Quick(Box::default(), expected) });
                io::copy(&mut whole, &mut io::sink())?;
                let (again, found, _) = whole.finish();
                // The digest is that of what was read now, not of what was given out.
                if !matches!(again.sum, Sum::Quick(again, _) if again.0.finalize() == read.0.finalize()) {
                    return Err(io::Error::other("its bytes changed while they were read"));
                }
                found
            }
            Sum::Digest(sum) => sum.finish().1,
        };
        if found == digest {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, Error::Damaged { expected: digest, found }))
    }
}

impl Read for Checked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.count += n as u64;
        if let Some(read) = buf.get(..n) {
            match &mut self.sum {
                Sum::Digest(sum) => sum.catch_up(read),
                Sum::Quick(sum, _) => sum.update(read),
            }
        }
        Ok(n)
    }
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
        let blob = Verified { digest: *digest, size: length, file: Some(Checked::new(file)) };
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
        if ((n == 0 && !buf.is_empty()) || file.count >= self.size)
            && let Some(file) = self.file.take()
        {
            file.finish(self.digest)?;
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

    #[test]
    fn bytes_that_were_damaged_when_they_were_read_are_not_given_out_as_sound() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let content = vec![7; SHORT as usize + 1];
        let digest = store.put_blob(&content).unwrap();
        let file = File::options().write(true).open(store.blob_file(&digest).unwrap()).unwrap();
        file.write_at(&[8], 0).unwrap();
        // Without a thread that reads ahead.
        let mut blob = Verified {
            digest,
            size: content.len() as u64,
            file: Some(Checked::new(store.open_blob(&digest).unwrap())),
        };
        blob.read_exact(&mut [0; 100]).unwrap();
        file.write_at(&[7], 0).unwrap();
        assert!(blob.read_to_end(&mut vec![]).is_err());
    }

    #[test]
    fn a_long_blob_has_a_sum_and_a_wrong_sum_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let content = vec![7; SHORT as usize + 1];
        let digest = store.put_blob(&content).unwrap();
        let file = store.open_blob(&digest).unwrap();
        assert_eq!(Quick::of(&store.open_blob(&store.put_blob(b"short").unwrap()).unwrap()), None);
        let set = |sum: &[u8]| rustix::fs::fsetxattr(&file, ATTRIBUTE, sum, rustix::fs::XattrFlags::empty());
        if set(&[1; 32]) == Err(rustix::io::Errno::OPNOTSUPP) {
            println!("not tested: {} has no attributes", dir.path().display());
            return;
        }
        let read = || {
            let mut out = vec![];
            store.open_verified(&digest, content.len() as u64).unwrap().read_to_end(&mut out).unwrap();
            assert!(out == content);
        };
        read();
        set(b"no sum").unwrap();
        read();
        set(&blake3::hash(&content).as_bytes()[..]).unwrap();
        read();
        let again = store.put_blob(&content).unwrap();
        assert_eq!(Quick::of(&store.open_blob(&again).unwrap()), Some(*blake3::hash(&content).as_bytes()));
    }
}
