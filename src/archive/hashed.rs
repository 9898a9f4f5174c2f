//! A writer whose digest is computed on a thread of its own.
//!
//! Processors without instructions for SHA-256 hash more slowly than files can be read and written, so a long layer is
//! hashed while its next part is read. A short one is not worth a thread.

use crate::oci::{Digest, Hashing};
use std::io::{self, Sink, Write};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Bytes that are hashed at once, before a thread is started.
const SHORT: u64 = 2 << 20;
/// Writes that may wait for the thread.
const WAITING: usize = 8;

/// Passes what is written on to another writer, and hashes it. Give it large pieces.
pub(super) struct HashedWriter<W> {
    out: W,
    sum: Sum,
    count: u64,
}

enum Sum {
    Here(Hashing<Sink>),
    There {
        pieces: mpsc::SyncSender<Arc<[u8]>>,
        thread: JoinHandle<Hashing<Sink>>,
    },
    /// Only while one becomes the other.
    Between,
}

impl<W: Write> HashedWriter<W> {
    pub(super) fn new(out: W) -> Self {
        HashedWriter { out, sum: Sum::Here(Hashing::new(io::sink())), count: 0 }
    }

    /// Digest and number of all bytes.
    pub(super) fn finish(self) -> io::Result<(Digest, u64)> {
        let sum = match self.sum {
            Sum::Here(sum) => Some(sum),
            Sum::There { pieces, thread } => {
                drop(pieces);
                thread.join().ok()
            }
            Sum::Between => None,
        };
        let (_, digest, _) = sum.ok_or_else(gone)?.finish();
        Ok((digest, self.count))
    }

    fn start_thread(&mut self) -> io::Result<()> {
        if let Sum::Here(mut sum) = std::mem::replace(&mut self.sum, Sum::Between) {
            let (pieces, receiver) = mpsc::sync_channel::<Arc<[u8]>>(WAITING);
            let thread = std::thread::Builder::new().name("layer-digest".into()).spawn(move || {
                for piece in receiver {
                    // A sink takes everything.
                    let _ = sum.write_all(&piece);
                }
                sum
            })?;
            self.sum = Sum::There { pieces, thread };
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the hashing thread panicked")
}

impl<W: Write> Write for HashedWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.count >= SHORT && matches!(self.sum, Sum::Here(_)) {
            self.start_thread()?;
        }
        match &mut self.sum {
            Sum::Here(sum) => sum.write_all(data)?,
            Sum::There { pieces, .. } => pieces.send(Arc::from(data)).map_err(|_| gone())?,
            Sum::Between => return Err(gone()),
        }
        self.out.write_all(data)?;
        self.count += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_streams_have_their_digest() {
        for length in [0, 1, SHORT as usize, SHORT as usize + 1, 9 * SHORT as usize + 5] {
            let data: Vec<u8> = (0..length).map(|i| ((i * i) >> 7) as u8).collect();
            let mut out = Vec::new();
            let mut writer = HashedWriter::new(&mut out);
            for piece in data.chunks(300_000) {
                writer.write_all(piece).unwrap();
            }
            assert_eq!(writer.finish().unwrap(), (Digest::of(&data), length as u64));
            assert!(out == data);
        }
    }

    #[test]
    fn a_failed_write_is_an_error_and_ends_the_thread() {
        let mut writer = HashedWriter::new(io::Cursor::new(vec![0; 3 * SHORT as usize].into_boxed_slice()));
        let piece = vec![7; 300_000];
        let failed = (0..100).find_map(|_| writer.write_all(&piece).err());
        assert!(failed.is_some());
    }
}
