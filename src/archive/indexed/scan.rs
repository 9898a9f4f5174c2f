//! Takes a tar apart into the bytes of headers, what they say, and data, without changing a byte.

use super::Error;
use crate::archive::reader::{self, Entry, MAX_EXTENDED, Pax, Reader};
use crate::archive::{self, Time, tarfile::BLOCK};
use std::io::{self, BufRead, BufReader, Read};

/// A tar that is being taken apart.
pub(super) struct Scan<R> {
    input: BufReader<R>,
}

/// The headers of one entry.
pub(super) struct Item {
    /// Their bytes: the entry's own block, and the extended headers in front of it.
    pub raw: Vec<u8>,
    /// What they say.
    pub entry: Entry,
    /// The mode as the header has it, with whatever it holds above the 12 bits.
    pub mode: i64,
    /// Time of the last access.
    pub accessed: Option<Time>,
    /// Time of the last change.
    pub changed: Option<Time>,
}

impl<R: Read> Scan<R> {
    pub fn new(input: R) -> Self {
        Scan { input: BufReader::with_capacity(256 << 10, input) }
    }

    /// The next entry, whose data must be read before the one after it. At the end, the first block of what is there instead.
    pub fn next(&mut self) -> Result<Result<Item, Vec<u8>>, Error> {
        let (mut raw, mut pax) = (Vec::new(), Pax::new());
        loop {
            let mut block = [0; BLOCK];
            let read = fill(&mut self.input, &mut block)?;
            if read == 0 || block.iter().all(|b| *b == 0) {
                let end = block.get(..read).unwrap_or_default();
                return if raw.is_empty() { Ok(Err(end.to_vec())) } else { Err(cut_off()) };
            }
            if read < BLOCK {
                return Err(cut_off());
            }
            raw.extend_from_slice(&block);
            match block[156] {
                kind @ (b'x' | b'X' | b'L' | b'K') => {
                    let data = self.extended(&block, &mut raw)?;
                    if kind.eq_ignore_ascii_case(&b'x') {
                        reader::parse_pax(&data, &mut pax, &mut Vec::new())?;
                    }
                }
                b'g' => return Err(Error::Unfit("it has a global header".into())),
                b'V' | b'D' => return Err(Error::Unfit("it has parts of a GNU archive".into())),
                b'S' => return Err(Error::Unfit("it has a sparse file".into())),
                _ if pax.keys().any(|k| k.starts_with(b"GNU.sparse.")) => {
                    return Err(Error::Unfit("it has a sparse file".into()));
                }
                _ => {
                    let entry = Reader::with_buffer(BLOCK, raw.as_slice()).next_entry()?;
                    let mode = reader::number(&block[100..108]);
                    let (Some(entry), Some(mode)) = (entry, mode) else { return Err(cut_off()) };
                    let time = |key: &[u8]| pax.get(key).and_then(|value| reader::pax_time(value));
                    return Ok(Ok(Item { entry, mode, accessed: time(b"atime"), changed: time(b"ctime"), raw }));
                }
            }
        }
    }

    /// Hands the next `length` bytes on, in parts.
    pub fn data(&mut self, mut length: u64, mut part: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        while length > 0 {
            let available = self.input.fill_buf().map_err(archive::Error::Input)?;
            let n = usize::try_from(length).unwrap_or(usize::MAX).min(available.len());
            let Some(bytes) = available.get(..n).filter(|b| !b.is_empty()) else { return Err(cut_off()) };
            part(bytes)?;
            self.input.consume(n);
            length -= n as u64;
        }
        Ok(())
    }

    /// Hands on everything up to the end of the input, in parts.
    pub fn rest(&mut self, mut part: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            let available = self.input.fill_buf().map_err(archive::Error::Input)?;
            if available.is_empty() {
                return Ok(());
            }
            part(available)?;
            let n = available.len();
            self.input.consume(n);
        }
    }

    /// The data of an extended header, without the padding that goes to `raw`.
    fn extended(&mut self, header: &[u8; BLOCK], raw: &mut Vec<u8>) -> Result<Vec<u8>, Error> {
        let size = reader::number(&header[124..136]).and_then(|n| u64::try_from(n).ok()).ok_or_else(cut_off)?;
        if size > MAX_EXTENDED {
            let limit = archive::Error::Limit { what: "bytes in an extended header", limit: MAX_EXTENDED };
            return Err(limit.into());
        }
        let from = raw.len();
        self.data(size + padding(size), |part| {
            raw.extend_from_slice(part);
            Ok(())
        })?;
        let until = from + usize::try_from(size).unwrap_or(0);
        Ok(raw.get(from..until).unwrap_or_default().to_vec())
    }
}

/// Bytes from the end of data of `size` bytes to the next block.
pub(super) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn cut_off() -> Error {
    archive::Error::Malformed("unexpected end of the archive".into()).into()
}

/// Reads until `buf` is full or the input ends; returns how much is in it.
fn fill(input: &mut impl Read, buf: &mut [u8]) -> Result<usize, Error> {
    let mut filled = 0;
    while let Some(free) = buf.get_mut(filled..).filter(|f| !f.is_empty()) {
        match input.read(free) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(archive::Error::Input(e).into()),
        }
    }
    Ok(filled)
}
