//! Compressed streams: telling which one it is, reading any, writing gzip and zstd.
//!
//! What is written depends on nothing but the input: layer digests and caches rest on these bytes. gzip is one member,
//! made of blocks of [`BLOCK`] bytes that are compressed on their own and each end on a byte boundary ([`super::deflate`]), so any
//! number of threads gives the same bytes; every reader of gzip reads it.

use flate2::bufread::GzDecoder;
use std::{
    io::{self, BufReader, Chain, Cursor, Read, Write},
    sync::mpsc,
    thread::JoinHandle,
};

use super::deflate::{self, Deflater};
use super::ordered::ordered;

/// Uncompressed bytes in one block of gzip.
pub const BLOCK: usize = 1 << 20;
/// The level of zstd; its own default.
const ZSTD_LEVEL: i32 = 3;
/// Largest window that a zstd stream may ask for, as a power of two: what `zstd -d` allows without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;
/// The header of a member of gzip: no name, no time, and "unknown" as operating system, so nothing of this machine.
pub(super) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Memory that an xz stream may ask for, in KiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// A compression format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// None.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl Format {
    /// Tells the format by a stream's first bytes; six are enough.
    pub fn sniff(head: &[u8]) -> Format {
        match head {
            [0x1f, 0x8b, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
            _ => Format::Plain,
        }
    }
}

/// Reads a stream of any [`Format`], decompressed, in constant memory.
pub struct Decoder<'a> {
    format: Format,
    inner: Box<dyn Read + Send + 'a>,
}

impl<'a> Decoder<'a> {
    /// Looks at the first bytes of `input` and chooses the decoder.
    ///
    /// # Errors
    /// `input` cannot be read, or begins like a zstd stream and is none.
    pub fn new(input: impl Read + Send + 'a) -> io::Result<Decoder<'a>> {
        let mut input = BufReader::with_capacity(1 << 18, input);
        let head = fill(&mut input)?;
        let format = Format::sniff(&head);
        let input = Cursor::new(head).chain(input);
        let inner: Box<dyn Read + Send + 'a> = match format {
            Format::Plain => Box::new(input),
            Format::Gzip => Box::new(Gunzip(Some(GzDecoder::new(input)))),
            Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Format::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        };
        Ok(Decoder { format, inner })
    }

    /// The format of the stream.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// A stream whose first bytes were looked at.
type Peeked<R> = Chain<Cursor<Vec<u8>>, BufReader<R>>;

/// All members of a gzip stream. What follows the last one and is no member is ignored, as GNU gzip does: some writers pad
/// their archives with zeros. The input is read to its end.
struct Gunzip<R: Read>(Option<GzDecoder<Peeked<R>>>);

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let n = member.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            let Some(member) = self.0.take() else { break };
            // A member is longer than what was looked at, so the rest is in the second part.
            let (_, mut input) = member.into_inner().into_inner();
            let mut head = Vec::with_capacity(2);
            input.by_ref().take(2).read_to_end(&mut head)?;
            if head == [0x1f, 0x8b] {
                self.0 = Some(GzDecoder::new(Cursor::new(head).chain(input)));
            } else {
                io::copy(&mut input, &mut io::sink())?;
            }
        }
        Ok(0)
    }
}

/// Reads a stream on a thread of its own, a few blocks ahead: decompression goes on while what came before is used.
///
/// Dropping it, or [`Ahead::into_inner`], ends the thread at its next block.
pub struct Ahead<R> {
    blocks: Option<mpsc::Receiver<io::Result<Vec<u8>>>>,
    thread: Option<JoinHandle<R>>,
    block: Cursor<Vec<u8>>,
}

/// Bytes in one block that is read ahead, and blocks that wait at most.
const AHEAD_BLOCK: usize = 256 << 10;
const AHEAD_BLOCKS: usize = 4;

impl<R: Read + Send + 'static> Ahead<R> {
    /// Starts reading `input`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(mut input: R) -> io::Result<Ahead<R>> {
        let (sender, blocks) = mpsc::sync_channel(AHEAD_BLOCKS);
        let thread = std::thread::Builder::new().name("read-ahead".into()).spawn(move || {
            loop {
                let mut block = Vec::with_capacity(AHEAD_BLOCK);
                let read = input.by_ref().take(AHEAD_BLOCK as u64).read_to_end(&mut block);
                let (last, message) = match read {
                    Ok(n) => (n < AHEAD_BLOCK, Ok(block)),
                    Err(e) => (true, Err(e)),
                };
                if sender.send(message).is_err() || last {
                    return input;
                }
            }
        })?;
        Ok(Ahead { blocks: Some(blocks), thread: Some(thread), block: Cursor::default() })
    }

    /// Ends the thread and gives the stream back; what was read ahead is lost.
    ///
    /// # Errors
    /// Reading panicked.
    pub fn into_inner(mut self) -> io::Result<R> {
        self.blocks = None;
        let joined = self.thread.take().map(JoinHandle::join);
        joined.and_then(Result::ok).ok_or_else(|| io::Error::other("the reading thread panicked"))
    }
}

impl<R> Read for Ahead<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.block.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            match self.blocks.as_ref().map(mpsc::Receiver::recv) {
                Some(Ok(Ok(block))) => self.block = Cursor::new(block),
                Some(Ok(Err(e))) => {
                    self.blocks = None;
                    return Err(e);
                }
                // The thread is done.
                Some(Err(_)) | None => return Ok(0),
            }
        }
    }
}

/// The first bytes of a stream: a reader may return fewer than were asked for at a time.
fn fill(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(6);
    input.by_ref().take(6).read_to_end(&mut head)?;
    Ok(head)
}

impl Read for Decoder<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

/// Compresses `input` to `output` as one gzip member, with `threads` threads (at least one), at this level, 0 to 9, or
/// the usual one. Holds a few blocks a thread in memory.
///
/// # Errors
/// Reading or writing fails.
pub fn gzip(mut input: impl Read, mut output: impl Write, level: Option<u32>, threads: usize) -> io::Result<()> {
    output.write_all(&GZIP_HEADER)?;
    let mut crc = crc32fast::Hasher::new();
    let mut total: u64 = 0;
    ordered(
        threads,
        || Deflater::new(level),
        |deflater, block: Vec<u8>| deflater.part(&block),
        |lane| {
            loop {
                let block = read_block(&mut input)?;
                if block.is_empty() {
                    break;
                }
                crc.update(&block);
                total += block.len() as u64;
                if let Some(done) = lane.put(block)? {
                    output.write_all(&done)?;
                }
            }
            while let Some(done) = lane.take()? {
                output.write_all(&done)?;
            }
            io::Result::Ok(())
        },
    )?;
    output.write_all(&deflate::END)?;
    // The trailer: checksum and length, both modulo 2³².
    output.write_all(&crc.finalize().to_le_bytes())?;
    output.write_all(&(total as u32).to_le_bytes())?;
    output.flush()
}

/// Reads a whole block, a shorter one at the end of the input, and an empty one after that.
fn read_block(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK);
    input.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// Compresses `input` to `output` as one zstd frame, with `threads` worker threads (at least one: without workers the bytes
/// would differ), at this level, 0 to 22, or zstd's own.
///
/// # Errors
/// Reading or writing fails.
pub fn zstd(mut input: impl Read, output: impl Write, level: Option<u32>, threads: usize) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(output, zstd_level(level))?;
    encoder.include_checksum(true)?;
    encoder.multithread(u32::try_from(threads.clamp(1, 64)).unwrap_or(1))?;
    io::copy(&mut input, &mut encoder)?;
    encoder.finish()?.flush()
}

/// A level as zstd takes it; 0 is its own.
pub(super) fn zstd_level(level: Option<u32>) -> i32 {
    level.and_then(|l| i32::try_from(l).ok()).map_or(ZSTD_LEVEL, |l| l.min(22))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(len: usize) -> Vec<u8> {
        let mut x = 1u32;
        (0..len)
            .map(|i| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 { (x >> 24) as u8 } else { b'a' + (i % 7) as u8 }
            })
            .collect()
    }

    fn decode(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        Decoder::new(bytes).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn gzip_is_the_same_for_every_number_of_threads() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 12345] {
            let input = sample(len);
            let of = |threads| {
                let mut out = vec![];
                gzip(&input[..], &mut out, None, threads).unwrap();
                out
            };
            let one = of(1);
            assert_eq!(one, of(2));
            assert_eq!(one, of(5));
            assert!(decode(&one) == input, "{len}");
        }
    }

    #[test]
    fn incompressible_blocks_fit() {
        let mut x = 7u64;
        let input: Vec<u8> = (0..BLOCK + 77)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
            .collect();
        let mut out = vec![];
        gzip(&input[..], &mut out, None, 2).unwrap();
        assert!(decode(&out) == input);
    }

    #[test]
    fn the_gzip_program_agrees() {
        let input = sample(2 * BLOCK + 5);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gz");
        gzip(&input[..], std::fs::File::create(&path).unwrap(), None, 2).unwrap();
        let out = std::process::Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
        assert!(out.status.success() && out.stdout == input, "{}", String::from_utf8_lossy(&out.stderr));
    }

    #[test]
    fn zstd_is_the_same_for_every_number_of_threads() {
        let input = sample(5 * BLOCK);
        let of = |threads| {
            let mut out = vec![];
            zstd(&input[..], &mut out, None, threads).unwrap();
            out
        };
        assert_eq!(of(1), of(2));
        assert!(decode(&of(2)) == input);
    }

    #[test]
    fn formats_are_told_apart() {
        assert_eq!(Format::sniff(b"BZh9.."), Format::Bzip2);
        assert_eq!(Format::sniff(b"\xfd7zXZ\0"), Format::Xz);
        assert_eq!(Format::sniff(b""), Format::Plain);
        assert_eq!(decode(b"ab"), b"ab");
        assert_eq!(decode(b""), b"");
        for (program, format) in [("bzip2", Format::Bzip2), ("xz", Format::Xz)] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x");
            std::fs::write(&path, b"hello").unwrap();
            let out = match std::process::Command::new(program).arg("-c").arg(&path).output() {
                Ok(out) => out.stdout,
                Err(e) if std::env::var_os("CI").is_none() => {
                    println!("not tested: {program}: {e}");
                    continue;
                }
                Err(e) => panic!("{program}: {e}"),
            };
            assert_eq!(Decoder::new(&out[..]).unwrap().format(), format);
            assert_eq!(decode(&out), b"hello");
        }
    }

    #[test]
    fn members_follow_each_other_and_what_is_none_is_ignored() {
        let member = |data: &[u8]| {
            let mut out = vec![];
            gzip(data, &mut out, None, 1).unwrap();
            out
        };
        for tail in [&b""[..], b"\0", &[0; 1000], b"garbage", b"\x1f"] {
            let input = [&member(b"one "), &member(b""), &member(b"two"), tail].concat();
            let mut rest = input.as_slice();
            let mut out = String::new();
            Decoder::new(rest.by_ref()).unwrap().read_to_string(&mut out).unwrap();
            assert_eq!(out, "one two", "{tail:?}");
            assert!(rest.is_empty(), "{tail:?}");
        }
        let broken = [&member(b"one"), &b"\x1f\x8b\xff\xff\xff\xff\xff\xff\xff\xff"[..]].concat();
        assert!(Decoder::new(&broken[..]).unwrap().read_to_end(&mut vec![]).is_err());
    }

    #[test]
    fn reading_ahead_gives_the_same_bytes_and_the_same_error() {
        let input = sample(7 * AHEAD_BLOCK + 99);
        for length in [0, 1, AHEAD_BLOCK, input.len()] {
            let mut ahead = Ahead::new(Cursor::new(input[..length].to_vec())).unwrap();
            let mut out = vec![];
            ahead.read_to_end(&mut out).unwrap();
            assert!(out == input[..length]);
            assert_eq!(ahead.into_inner().unwrap().position(), length as u64);
        }
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("no more"))
            }
        }
        let mut ahead = Ahead::new(Cursor::new(vec![7; 3 * AHEAD_BLOCK + 5]).chain(Broken)).unwrap();
        let mut out = vec![];
        assert_eq!(ahead.read_to_end(&mut out).unwrap_err().to_string(), "no more");
        // Nobody waits for one that is not read to its end.
        drop(Ahead::new(io::repeat(1)).unwrap());
        Ahead::new(io::repeat(1)).unwrap().into_inner().unwrap();
    }

    #[test]
    fn damage_is_an_error() {
        let mut out = vec![];
        gzip(&sample(100_000)[..], &mut out, None, 1).unwrap();
        out.truncate(out.len() - 9);
        assert!(Decoder::new(&out[..]).unwrap().read_to_end(&mut vec![]).is_err());
    }
}
