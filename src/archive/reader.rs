//! Reading tar archives that nobody vouches for.
//!
//! Understood are v7, ustar, GNU (long names, base-256 numbers, sparse files) and pax (local and global headers, GNU's
//! sparse formats 0.0, 0.1 and 1.0, `SCHILY.xattr.`). Memory is bounded: headers of more than [`MAX_EXTENDED`] bytes and
//! sparse maps of more than [`MAX_SEGMENTS`] parts are refused. A name or number is only parsed here; what may be
//! extracted where is for [`extract`](super::extract) to say.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};

use super::error::Error;
use super::node::{Time, Xattrs};
use super::tarfile::BLOCK;

/// Most bytes in one pax header or GNU long name.
pub const MAX_EXTENDED: u64 = 1 << 20;
/// Most parts of a sparse file.
pub const MAX_SEGMENTS: usize = 1 << 20;

const BUFFER: usize = 256 << 10;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Regular file.
    File,
    /// Another name of an entry that came before, or of a file of a lower layer.
    Hardlink,
    /// Symbolic link.
    Symlink,
    /// Directory.
    Dir,
    /// Named pipe.
    Fifo,
    /// Character device: major, minor.
    Char(u32, u32),
    /// Block device: major, minor.
    Block(u32, u32),
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name as the archive has it.
    pub name: Vec<u8>,
    /// Kind.
    pub kind: Type,
    /// Permissions, set-id and sticky bits: 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file, holes included.
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Extended attributes of all name spaces.
    pub xattrs: Xattrs,
    /// Of a sparse file: where the stored bytes belong, ascending; all else are holes.
    pub sparse: Option<Vec<Segment>>,
}

/// A part of a sparse file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// An archive that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    /// Stored bytes of the current entry that were not read yet, and the padding behind them.
    left: u64,
    padding: u64,
    global: Pax,
    ended: bool,
}

pub(super) type Pax = BTreeMap<Vec<u8>, Vec<u8>>;

/// What precedes an entry and changes it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Pax,
    /// GNU.sparse.offset and GNU.sparse.numbytes of format 0.0, which repeat, in order.
    sparse_numbers: Vec<u64>,
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Malformed(what.into()))
}

impl<R: Read> Reader<R> {
    /// Starts reading.
    pub fn new(input: R) -> Self {
        Reader::with_buffer(BUFFER, input)
    }

    /// Starts reading, with a buffer of so many bytes.
    pub(super) fn with_buffer(bytes: usize, input: R) -> Self {
        let input = BufReader::with_capacity(bytes, input);
        Reader { input, left: 0, padding: 0, global: Pax::new(), ended: false }
    }

    /// The next entry; what is left of the current one's data is skipped. `None` at the end of the archive.
    ///
    /// # Errors
    /// The input fails, or is no tar archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let stored = match number(&block[124..136]) {
                Some(size) if size >= 0 => size as u64,
                _ => return malformed("invalid size in a header"),
            };
            match block[156] {
                b'x' | b'X' => {
                    let data = self.extended(stored)?;
                    parse_pax(&data, &mut extensions.pax, &mut extensions.sparse_numbers)?;
                }
                b'g' => {
                    let data = self.extended(stored)?;
                    parse_pax(&data, &mut self.global, &mut Vec::new())?;
                    // Names and sizes are never those of all following files.
                    self.global.retain(|key, _| matches!(key.as_slice(), b"uid" | b"gid" | b"mtime"));
                }
                b'L' => extensions.name = Some(text(&self.extended(stored)?).to_vec()),
                b'K' => extensions.link = Some(text(&self.extended(stored)?).to_vec()),
                // A volume label says nothing about files.
                b'V' => self.expect(stored),
                _ => return self.entry(&block, stored, extensions).map(Some),
            }
        }
    }

    /// Copies the next `length` stored bytes of the current entry.
    ///
    /// # Errors
    /// The input fails or ends, or `to` fails (as [`Error::Output`]).
    pub fn copy(&mut self, length: u64, to: &mut impl Write) -> Result<(), Error> {
        if length > self.left {
            return malformed("a file has less data than its header says");
        }
        let mut todo = length;
        while todo > 0 {
            let available = fill(&mut self.input)?;
            if available.is_empty() {
                return malformed("unexpected end of the archive");
            }
            let n = usize::try_from(todo).unwrap_or(usize::MAX).min(available.len());
            to.write_all(&available[..n]).map_err(Error::Output)?;
            self.input.consume(n);
            todo -= n as u64;
        }
        self.left -= length;
        Ok(())
    }

    /// Reads what follows the end of the archive to the end of the input, so that one who hashes the input sees all.
    ///
    /// # Errors
    /// The input fails.
    pub fn drain(&mut self) -> Result<(), Error> {
        loop {
            match fill(&mut self.input)?.len() {
                0 => return Ok(()),
                n => self.input.consume(n),
            }
        }
    }

    /// Says that an entry's data, of `stored` bytes, is next.
    fn expect(&mut self, stored: u64) {
        self.left = stored;
        self.padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        let mut todo = match self.left.checked_add(self.padding) {
            Some(todo) => todo,
            None => return malformed("invalid size in a header"),
        };
        let padding = self.padding;
        (self.left, self.padding) = (0, 0);
        while todo > 0 {
            let available = fill(&mut self.input)?.len();
            if available == 0 {
                // Some writers stop after the last byte of the last file.
                return if todo <= padding { Ok(()) } else { malformed("unexpected end of the archive") };
            }
            let n = usize::try_from(todo).unwrap_or(usize::MAX).min(available);
            self.input.consume(n);
            todo -= n as u64;
        }
        Ok(())
    }

    /// A block of 512 bytes; `None` at the end of the input.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        if fill(&mut self.input)?.is_empty() {
            return Ok(None);
        }
        match self.input.read_exact(&mut block) {
            Ok(()) => Ok(Some(block)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => malformed("unexpected end of the archive"),
            Err(e) => Err(Error::Input(e)),
        }
    }

    /// A header with a good checksum; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            return match self.block()? {
                Some(second) if second.iter().any(|b| *b != 0) => malformed("an empty block between entries"),
                _ => Ok(None),
            };
        }
        let said = number(&block[148..156]);
        let field = 148..156;
        let bytes = || block.iter().enumerate().map(|(at, b)| if field.contains(&at) { b' ' } else { *b });
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
        if said != Some(unsigned) && said != Some(signed) {
            return malformed("invalid checksum of a header: this is no tar archive, or it is damaged");
        }
        Ok(Some(block))
    }

    /// The data of an extended header.
    fn extended(&mut self, stored: u64) -> Result<Vec<u8>, Error> {
        if stored > MAX_EXTENDED {
            return Err(Error::Limit { what: "bytes in an extended header", limit: MAX_EXTENDED });
        }
        self.expect(stored);
        let mut data = Vec::new();
        self.copy(stored, &mut data)?;
        Ok(data)
    }

    fn entry(&mut self, block: &[u8; BLOCK], stored: u64, mut extensions: Extensions) -> Result<Entry, Error> {
        let gnu = &block[257..265] == b"ustar  \0";
        let posix = &block[257..263] == b"ustar\0";
        let mut pax = std::mem::take(&mut extensions.pax);
        for (key, value) in &self.global {
            pax.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let mut name = text(&block[0..100]).to_vec();
        if posix {
            // `star` ends its prefix earlier, where it keeps two times.
            let prefix = if &block[508..512] == b"tar\0" { text(&block[345..476]) } else { text(&block[345..500]) };
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        if let Some(long) = extensions.name.take() {
            name = long;
        }
        let mut link = match extensions.link.take() {
            Some(long) => long,
            None => text(&block[157..257]).to_vec(),
        };
        if let Some(value) = pax.remove(b"path".as_slice()) {
            name = value;
        }
        if let Some(value) = pax.remove(b"linkpath".as_slice()) {
            link = value;
        }
        let id = |key: &[u8], field: &[u8], what: &str| {
            let value = match pax.get(key) {
                Some(value) => decimal(value),
                None => number(field).and_then(|n| u64::try_from(n).ok()),
            };
            // The last id means "leave as it is" to the kernel.
            match value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v != u32::MAX) {
                Some(id) => Ok(id),
                None => malformed(format!("invalid {what} of `{}`", name.escape_ascii())),
            }
        };
        let uid = id(b"uid", &block[108..116], "owner")?;
        let gid = id(b"gid", &block[116..124], "group")?;
        let mode = match number(&block[100..108]) {
            Some(mode) => (mode & 0o7777) as u32,
            None => return malformed(format!("invalid mode of `{}`", name.escape_ascii())),
        };
        let mtime = match pax.get(b"mtime".as_slice()) {
            Some(value) => pax_time(value),
            None => number(&block[136..148]).map(Time::seconds),
        };
        let Some(mtime) = mtime else { return malformed(format!("invalid time of `{}`", name.escape_ascii())) };
        let mut stored = stored;
        if let Some(value) = pax.get(b"size".as_slice()) {
            match decimal(value) {
                Some(size) if size <= i64::MAX as u64 => stored = size,
                _ => return malformed(format!("invalid size of `{}`", name.escape_ascii())),
            }
        }
        let device = || match (number(&block[329..337]), number(&block[337..345])) {
            (Some(major @ 0..=0xfff_ffff), Some(minor @ 0..=0xfff_ffff)) => Ok((major as u32, minor as u32)),
            _ => malformed(format!("invalid device number of `{}`", name.escape_ascii())),
        };
        let kind = match block[156] {
            // Before POSIX, a trailing slash made a directory.
            0 | b'0' if name.ends_with(b"/") => Type::Dir,
            0 | b'0' | b'7' | b'S' => Type::File,
            b'1' => Type::Hardlink,
            b'2' => Type::Symlink,
            b'3' => device().map(|(major, minor)| Type::Char(major, minor))?,
            b'4' => device().map(|(major, minor)| Type::Block(major, minor))?,
            b'5' => Type::Dir,
            // A directory of GNU's incremental archives; its data is a list of names.
            b'D' => Type::Dir,
            b'6' => Type::Fifo,
            other => {
                let (name, other) = (name.escape_ascii(), other.escape_ascii());
                return Err(Error::Unsupported(format!("type `{other}` of the archive entry `{name}`")));
            }
        };
        // Other kinds have no data, whatever their size says; Go's reader, and with it Docker, sees it so.
        self.expect(if kind == Type::File || block[156] == b'D' { stored } else { 0 });
        let xattrs: Xattrs = pax
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone())))
            .collect();
        let (uid, gid, size) = (uid, gid, if kind == Type::File { stored } else { 0 });
        let mut entry = Entry { name, kind, mode, uid, gid, size, mtime, link, xattrs, sparse: None };
        if block[156] == b'S' {
            if !gnu {
                return malformed("a sparse file outside of a GNU archive");
            }
            self.old_sparse(block, &mut entry)?;
        } else if kind == Type::File {
            self.pax_sparse(&pax, &extensions.sparse_numbers, &mut entry)?;
        }
        if entry.name.contains(&0) || entry.link.contains(&0) {
            return malformed("a name with a NUL byte in it");
        }
        Ok(entry)
    }

    /// The old GNU format: four parts in the header, 21 in each further block.
    fn old_sparse(&mut self, block: &[u8; BLOCK], entry: &mut Entry) -> Result<(), Error> {
        let mut numbers = Vec::new();
        let mut add = |fields: &[u8]| -> Result<bool, Error> {
            for pair in fields.chunks_exact(24) {
                let (offset, length) = pair.split_at(12);
                if offset.first() == Some(&0) || length.first() == Some(&0) {
                    return Ok(false);
                }
                for field in [offset, length] {
                    match number(field).and_then(|n| u64::try_from(n).ok()) {
                        Some(n) => numbers.push(n),
                        None => return malformed("invalid map of a sparse file"),
                    }
                }
                if numbers.len() > 2 * MAX_SEGMENTS {
                    return Err(Error::Limit { what: "parts of a sparse file", limit: MAX_SEGMENTS as u64 });
                }
            }
            Ok(true)
        };
        add(&block[386..482])?;
        let mut more = block[482] != 0;
        while more {
            let Some(block) = self.block()? else { return malformed("unexpected end of the archive") };
            add(&block[0..504])?;
            more = block[504] != 0;
        }
        let size = number(&block[483..495]).and_then(|n| u64::try_from(n).ok());
        let Some(size) = size else { return malformed("invalid size of a sparse file") };
        set_sparse(entry, size, &numbers)
    }

    /// GNU's three sparse formats in pax headers.
    fn pax_sparse(&mut self, pax: &Pax, numbers: &[u64], entry: &mut Entry) -> Result<(), Error> {
        let get = |key: &[u8]| pax.get(key).map(Vec::as_slice);
        let version = (get(b"GNU.sparse.major"), get(b"GNU.sparse.minor"));
        let number = |key: &[u8]| get(key).and_then(decimal);
        if version == (Some(b"1"), Some(b"0")) {
            if let Some(name) = get(b"GNU.sparse.name") {
                entry.name = name.to_vec();
            }
            let Some(size) = number(b"GNU.sparse.realsize") else { return malformed("invalid size of a sparse file") };
            let numbers = self.sparse_map_in_data()?;
            entry.size = self.left;
            return set_sparse(entry, size, &numbers);
        }
        let Some(size) = number(b"GNU.sparse.size") else {
            if pax.keys().any(|key| key.starts_with(b"GNU.sparse.")) {
                return Err(Error::Unsupported(format!("sparse format of `{}`", entry.name.escape_ascii())));
            }
            return Ok(());
        };
        if let Some(name) = get(b"GNU.sparse.name") {
            entry.name = name.to_vec();
        }
        let from_map: Option<Vec<u64>> = match get(b"GNU.sparse.map") {
            Some([]) => Some(Vec::new()),
            Some(map) => map.split(|b| *b == b',').map(decimal).collect(),
            None => Some(numbers.to_vec()),
        };
        match from_map {
            Some(numbers) => set_sparse(entry, size, &numbers),
            None => malformed("invalid map of a sparse file"),
        }
    }

    /// The map of format 1.0, decimal lines in front of the data, padded to whole blocks.
    fn sparse_map_in_data(&mut self) -> Result<Vec<u64>, Error> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted: Option<usize> = None;
        let mut line = Vec::new();
        loop {
            let mut block = Vec::with_capacity(BLOCK);
            self.copy((BLOCK as u64).min(self.left), &mut block)?;
            if block.is_empty() {
                return malformed("invalid map of a sparse file");
            }
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return malformed("invalid map of a sparse file");
                    }
                    continue;
                }
                let Some(value) = decimal(&line) else { return malformed("invalid map of a sparse file") };
                line.clear();
                match wanted {
                    Some(_) => numbers.push(value),
                    None if value > MAX_SEGMENTS as u64 => {
                        return Err(Error::Limit { what: "parts of a sparse file", limit: MAX_SEGMENTS as u64 });
                    }
                    None => wanted = Some(value as usize * 2),
                }
            }
            if wanted.is_some_and(|wanted| numbers.len() >= wanted) {
                return Ok(numbers);
            }
        }
    }
}

/// Checks a sparse map against the file's size and the stored size (`entry.size`), and puts it into the entry.
fn set_sparse(entry: &mut Entry, size: u64, numbers: &[u64]) -> Result<(), Error> {
    let bad = || malformed(format!("invalid map of the sparse file `{}`", entry.name.escape_ascii()));
    if size > i64::MAX as u64 || !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_SEGMENTS {
        return bad();
    }
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    let (mut end, mut stored) = (0u64, 0u64);
    for pair in numbers.chunks_exact(2) {
        let &[offset, length] = pair else { return bad() };
        match offset.checked_add(length) {
            Some(next) if offset >= end && next <= size => end = next,
            _ => return bad(),
        }
        stored += length; // at most `size`, as parts do not overlap
        if length > 0 {
            segments.push(Segment { offset, length });
        }
    }
    if stored != entry.size {
        return bad();
    }
    entry.size = size;
    entry.sparse = Some(segments);
    Ok(())
}

fn fill<R: Read>(input: &mut BufReader<R>) -> Result<&[u8], Error> {
    // Asked twice, because the borrow of a good answer would outlast the loop.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::Input(e)),
        }
    }
    Ok(input.buffer())
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

/// A number of a header: octal digits, or base 256 where the first bit is set. `None` where it is neither.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        // Bits above the 63 that fit must all be copies of the sign.
        let mut value: i64 = if negative { i64::from(first | !0x7f) | -64 } else { i64::from(first & 0x3f) };
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
        }
        return Some(value);
    }
    let digits: &[u8] = text(field);
    let digits = digits.trim_ascii();
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
pub(super) fn pax_time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sec = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nsec: u32 = digits.parse().ok()?;
    match (negative, nsec) {
        (false, _) => Some(Time { sec, nsec }),
        (true, 0) => Some(Time { sec: -sec, nsec: 0 }),
        (true, _) => Some(Time { sec: -sec - 1, nsec: 1_000_000_000 - nsec }),
    }
}

/// Adds the records `LENGTH KEY=VALUE\n`; an empty value takes a key back.
pub(super) fn parse_pax(data: &[u8], into: &mut Pax, sparse_numbers: &mut Vec<u64>) -> Result<(), Error> {
    let bad = || malformed("invalid pax header");
    let mut rest = data;
    // Some writers pad the records with NULs.
    while let Some(first) = rest.first()
        && *first != 0
    {
        let Some(space) = rest.iter().take(20).position(|b| *b == b' ') else { return bad() };
        let length = rest.get(..space).and_then(decimal).and_then(|n| usize::try_from(n).ok());
        let Some((record, tail)) = length.and_then(|length| rest.split_at_checked(length)) else { return bad() };
        rest = tail;
        let Some(record) = record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")) else { return bad() };
        let Some(equals) = record.iter().position(|b| *b == b'=') else { return bad() };
        let (key, value) = record.split_at(equals);
        let value = value.strip_prefix(b"=").unwrap_or(value);
        match key {
            b"" => return bad(),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // Offsets and lengths alternate.
                let wants_length = !sparse_numbers.len().is_multiple_of(2);
                match decimal(value) {
                    Some(n) if wants_length == (key == b"GNU.sparse.numbytes") => sparse_numbers.push(n),
                    _ => return bad(),
                }
            }
            _ if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") => drop(into.remove(key)),
            _ => drop(into.insert(key.to_vec(), value.to_vec())),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
