//! Cuts a tar into pieces that are compressed each on its own, by several threads, and takes note of where they end up.

use super::scan::{Item, Scan, padding};
use super::toc::{Crc64, Row, TarSplit, Toc};
use super::{Error, Indexed};
use crate::archive;
use crate::archive::compress::{BLOCK, GZIP_HEADER, zstd_level};
use crate::archive::deflate::{self, Deflater};
use crate::archive::ordered::{Ordered, ordered};
use crate::archive::reader::Type;
use crate::oci::{DiffId, Digest, Hashing};
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};

/// Which of the two formats.
pub(super) enum Layout {
    Estargz,
    /// With what is kept of the headers.
    ZstdChunked(Box<TarSplit>),
}

impl Layout {
    /// Longest chunk of a file, in bytes.
    fn chunk(&self) -> u64 {
        match self {
            Layout::Estargz => 4 << 20,
            Layout::ZstdChunked(_) => BLOCK as u64,
        }
    }
}

/// A part of a member (of gzip), or a frame (of zstd).
pub(super) struct Piece {
    data: Vec<u8>,
    /// Whether a member begins with it, and whether one ends.
    first: bool,
    last: bool,
    /// Whether somebody wants to know where it begins.
    marked: bool,
}

/// A piece, compressed.
pub(super) struct Done {
    bytes: Vec<u8>,
    /// Of what it was.
    crc: crc32fast::Hasher,
    length: usize,
    piece: Piece,
}

/// What a thread compresses with.
enum Codec {
    Gzip(Box<Deflater>),
    Zstd(io::Result<zstd::bulk::Compressor<'static>>),
}

impl Codec {
    fn gzip(level: Option<u32>) -> Codec {
        Codec::Gzip(Box::new(Deflater::new(level)))
    }

    fn zstd(level: Option<u32>) -> Codec {
        Codec::Zstd(zstd::bulk::Compressor::new(zstd_level(level)).and_then(|mut c| {
            c.include_checksum(true)?;
            Ok(c)
        }))
    }

    fn compress(&mut self, mut piece: Piece) -> io::Result<Done> {
        let data = std::mem::take(&mut piece.data);
        let mut crc = crc32fast::Hasher::new();
        let bytes = match self {
            Codec::Gzip(deflater) => {
                crc.update(&data);
                let mut bytes = deflater.part(&data);
                if piece.last {
                    bytes.extend_from_slice(&deflate::END);
                }
                bytes
            }
            Codec::Zstd(_) if data.is_empty() => vec![],
            Codec::Zstd(Ok(compressor)) => compressor.compress(&data)?,
            Codec::Zstd(Err(e)) => return Err(io::Error::new(e.kind(), e.to_string())),
        };
        Ok(Done { bytes, crc, length: data.len(), piece })
    }
}

/// Runs `body` with a packer that writes to `out`.
pub(super) fn pack<R: Read, W: Write>(
    tar: R,
    out: W,
    layout: Layout,
    level: Option<u32>,
    threads: usize,
    body: impl FnOnce(&mut Packer<'_, R, W>) -> Result<Indexed, Error>,
) -> Result<Indexed, Error> {
    let is_gzip = matches!(layout, Layout::Estargz);
    let state = || if is_gzip { Codec::gzip(level) } else { Codec::zstd(level) };
    ordered(threads, state, Codec::compress, |lane| {
        let mut packer = Packer {
            input: Some(Scan::new(tar)),
            layout,
            lane,
            out: Out { to: out, written: 0, crc: crc32fast::Hasher::new(), length: 0, is_gzip, marks: VecDeque::new() },
            tar: Hashing::new(io::sink()),
            buffer: Vec::with_capacity(BLOCK),
            first: true,
            marked: false,
            toc: Some(Toc::new()?),
            pending: VecDeque::new(),
            names: HashSet::new(),
        };
        let indexed = body(&mut packer)?;
        packer.out.to.flush()?;
        Ok(indexed)
    })
}

/// A layer in the making.
pub(super) struct Packer<'a, R, W> {
    input: Option<Scan<R>>,
    layout: Layout,
    lane: &'a mut Ordered<Piece, io::Result<Done>>,
    out: Out<W>,
    /// Hashes the tar that goes in.
    tar: Hashing<io::Sink>,
    /// What the current member has got and no piece has yet.
    buffer: Vec<u8>,
    /// Whether the next piece begins a member, and whether its place is wanted.
    first: bool,
    marked: bool,
    toc: Option<Toc>,
    /// Files whose place is not known yet, in order.
    pending: VecDeque<Pending>,
    /// Digests of the names that were seen, shortened.
    names: HashSet<u64>,
}

/// Where compressed bytes go.
struct Out<W> {
    to: W,
    written: u64,
    /// Of the current member.
    crc: crc32fast::Hasher,
    length: u64,
    is_gzip: bool,
    /// Where the pieces began that somebody wants to know of.
    marks: VecDeque<u64>,
}

/// A row that waits for its place, and the file's chunks.
struct Pending {
    row: Row,
    chunks: Vec<Chunk>,
    /// Marks that belong to it: one a chunk, and one behind the last where the format wants it.
    marks: usize,
}

struct Chunk {
    offset: u64,
    size: u64,
    digest: String,
    zeros: bool,
}

/// A name without what does not tell files apart.
pub(super) fn clean(name: &[u8]) -> &[u8] {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    name.strip_suffix(b"/").unwrap_or(name)
}

impl<R: Read, W: Write> Packer<'_, R, W> {
    /// Takes in what is left of the layer's own tar: the entries that `wanted` names, and what is behind them.
    pub fn tar_to_the_end(&mut self, wanted: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        let Some(mut input) = self.input.take() else { return Ok(()) };
        let end = self.entries(&mut input, wanted)?;
        match self.layout {
            // The table comes before the end.
            Layout::Estargz => input.rest(|_| Ok(())),
            Layout::ZstdChunked(_) => {
                self.other(&end)?;
                input.rest(|part| self.other(part))
            }
        }
    }

    /// Takes in the entries of a tar.
    pub fn tar(&mut self, tar: impl Read, wanted: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Error> {
        self.entries(&mut Scan::new(tar), wanted).map(drop)
    }

    /// Takes in entries; returns the first block of the end.
    fn entries<I: Read>(
        &mut self,
        input: &mut Scan<I>,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Error> {
        loop {
            let item = match input.next()? {
                Ok(item) => item,
                Err(end) => return Ok(end),
            };
            let size = if item.entry.kind == Type::File { item.entry.size } else { 0 };
            if !wanted(&item.entry.name) {
                input.data(size + padding(size), |_| Ok(()))?;
                continue;
            }
            self.entry(&item, size, input)?;
            input.data(padding(size), |part| self.other(part))?;
        }
    }

    fn entry<I: Read>(&mut self, item: &Item, size: u64, input: &mut Scan<I>) -> Result<(), Error> {
        let mut row = Row::of(item)?;
        let hash = blake3::hash(clean(&item.entry.name));
        if !self.names.insert(u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))) {
            return Err(Error::Unfit(format!("`{}` is in it twice", row.name)));
        }
        self.other(&item.raw)?;
        let (mut chunks, mut marks) = (vec![], 0);
        let (mut whole, mut crc) = (Hashing::new(io::sink()), Crc64::new());
        let is_zstd = matches!(self.layout, Layout::ZstdChunked(_));
        let mut offset = 0;
        while offset < size {
            self.cut(true)?;
            marks += 1;
            let length = (size - offset).min(self.layout.chunk());
            let (mut sum, mut zeros) = (Hashing::new(io::sink()), true);
            let alone = length == size;
            input.data(length, |part| {
                sum.write_all(part)?;
                if !alone {
                    whole.write_all(part)?;
                }
                if is_zstd {
                    crc.update(part);
                    zeros = zeros && part.iter().all(|b| *b == 0);
                }
                self.take_in(part)
            })?;
            let digest = sum.finish().1.to_string();
            if alone {
                row.digest.clone_from(&digest);
            }
            chunks.push(Chunk { offset, size: length, digest, zeros });
            offset += length;
        }
        if chunks.len() > 1 {
            row.digest = whole.finish().1.to_string();
        }
        if let Layout::ZstdChunked(split) = &mut self.layout {
            split.file(&row.name, size, (size > 0).then(|| crc.sum()))?;
            if size > 0 {
                self.cut(true)?;
                marks += 1;
            }
        } else if size == 0 && row.kind == "reg" {
            row.digest = Digest::of(b"").to_string();
        }
        self.pending.push_back(Pending { row, chunks, marks });
        self.tell()
    }

    /// Bytes that are no file's data.
    fn other(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Layout::ZstdChunked(split) = &mut self.layout {
            split.bytes(bytes)?;
        }
        self.take_in(bytes)
    }

    /// Bytes of the tar.
    fn take_in(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.tar.write_all(bytes)?;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BLOCK {
                self.send(false)?;
            }
        }
        Ok(())
    }

    /// Ends a member. `marked`: the place of the next one is wanted.
    fn cut(&mut self, marked: bool) -> Result<(), Error> {
        self.send(true)?;
        (self.first, self.marked) = (true, marked);
        Ok(())
    }

    fn send(&mut self, last: bool) -> Result<(), Error> {
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(if last { 4096 } else { BLOCK }));
        let piece =
            Piece { data, first: std::mem::take(&mut self.first), last, marked: std::mem::take(&mut self.marked) };
        if let Some(done) = self.lane.put(piece)? {
            self.out.piece(done?)?;
        }
        Ok(())
    }

    /// Ends a member, and waits until everything is written.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.cut(false)?;
        while let Some(done) = self.lane.take()? {
            self.out.piece(done?)?;
        }
        self.tell()
    }

    /// Brings rows into the table whose places are known by now.
    fn tell(&mut self) -> Result<(), Error> {
        let Some(toc) = &mut self.toc else { return Ok(()) };
        while self.pending.front().is_some_and(|p| p.marks <= self.out.marks.len()) {
            let Some(Pending { mut row, chunks, marks }) = self.pending.pop_front() else { break };
            let places: Vec<u64> = self.out.marks.drain(..marks).collect();
            let several = chunks.len() > 1;
            let is_zstd = matches!(self.layout, Layout::ZstdChunked(_));
            if is_zstd {
                row.end_offset = places.last().copied().unwrap_or(0);
            }
            let name = row.name.clone();
            let last = chunks.len().saturating_sub(1);
            for (n, (chunk, place)) in chunks.into_iter().zip(places).enumerate() {
                row.offset = place;
                row.chunk_offset = chunk.offset;
                if is_zstd && several {
                    row.chunk_size = chunk.size;
                    row.chunk_digest = chunk.digest;
                    row.chunk_type = if chunk.zeros { "zeros" } else { "" };
                } else if !is_zstd {
                    // The last one goes to the end of the file.
                    row.chunk_size = if n < last { chunk.size } else { 0 };
                    row.chunk_digest = chunk.digest;
                }
                if n < last {
                    toc.push(&row)?;
                    row = Row { kind: "chunk", name: name.clone(), ..Row::default() };
                }
            }
            toc.push(&row)?;
        }
        Ok(())
    }

    /// Bytes that are not compressed.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.out.write(bytes)?)
    }

    /// Compressed bytes that are written.
    pub fn written(&self) -> u64 {
        self.out.written
    }

    /// Digest and length of the tar.
    pub fn diff_id(&mut self) -> (DiffId, u64) {
        let (_, digest, length) = std::mem::replace(&mut self.tar, Hashing::new(io::sink())).finish();
        (DiffId(digest), length)
    }

    pub fn take_toc(&mut self) -> Result<Toc, Error> {
        self.toc.take().map_or_else(Toc::new, Ok)
    }

    pub fn take_split(&mut self) -> Result<Box<TarSplit>, Error> {
        match std::mem::replace(&mut self.layout, Layout::Estargz) {
            Layout::ZstdChunked(split) => Ok(split),
            Layout::Estargz => Ok(Box::new(TarSplit::new()?)),
        }
    }
}

/// What is written into it becomes part of the tar.
impl<R: Read, W: Write> Write for Packer<'_, R, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.take_in(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Archive(archive::Error::Output(e) | archive::Error::Input(e))) => Err(e),
            Err(e) => Err(io::Error::other(e)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Out<W> {
    fn piece(&mut self, done: Done) -> io::Result<()> {
        if done.piece.marked {
            self.marks.push_back(self.written);
        }
        if !self.is_gzip {
            return self.write(&done.bytes);
        }
        if done.piece.first {
            (self.crc, self.length) = (crc32fast::Hasher::new(), 0);
            self.write(&GZIP_HEADER)?;
        }
        self.write(&done.bytes)?;
        self.crc.combine(&done.crc);
        self.length += done.length as u64;
        if done.piece.last {
            let crc = self.crc.clone().finalize();
            self.write(&crc.to_le_bytes())?;
            // Modulo 2³².
            self.write(&(self.length as u32).to_le_bytes())?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}
