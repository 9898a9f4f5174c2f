//! Tables of contents, which are JSON, and what zstd:chunked keeps of a tar beside its files. Both are held compressed
//! until they are written.

use super::Error;
use super::scan::Item;
use crate::archive::{self, Time, reader};
use crate::oci::{Digest, Hashing};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Most bytes of JSON in one table: what containers/storage reads.
pub(super) const MAX_TOC: u64 = 150 << 20;

/// A file, or a part of one behind its first, in a table. Members are those of both formats, left out where they are nothing.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accesstime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changetime: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_major: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_minor: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_offset: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub chunk_type: &'static str,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Row {
    /// What headers say.
    pub fn of(item: &Item) -> Result<Row, Error> {
        let entry = &item.entry;
        let text = |bytes: &[u8]| {
            let not = |_| Error::Unfit(format!("the name `{}` in it is not UTF-8", bytes.escape_ascii()));
            String::from_utf8(bytes.to_vec()).map_err(not)
        };
        let (kind, (dev_major, dev_minor)) = match entry.kind {
            reader::Type::File => ("reg", (0, 0)),
            reader::Type::Hardlink => ("hardlink", (0, 0)),
            reader::Type::Symlink => ("symlink", (0, 0)),
            reader::Type::Dir => ("dir", (0, 0)),
            reader::Type::Fifo => ("fifo", (0, 0)),
            reader::Type::Char(major, minor) => ("char", (major, minor)),
            reader::Type::Block(major, minor) => ("block", (major, minor)),
        };
        let is_link = matches!(entry.kind, reader::Type::Hardlink | reader::Type::Symlink);
        let xattr = |(name, value): (&Vec<u8>, &Vec<u8>)| Ok((text(name)?, STANDARD.encode(value)));
        Ok(Row {
            kind,
            name: text(&entry.name)?,
            link_name: if is_link { text(&entry.link)? } else { String::new() },
            mode: item.mode,
            size: entry.size,
            uid: entry.uid,
            gid: entry.gid,
            modtime: time(Some(entry.mtime))?,
            accesstime: time(item.accessed)?,
            changetime: time(item.changed)?,
            dev_major,
            dev_minor,
            xattrs: entry.xattrs.iter().map(xattr).collect::<Result<_, Error>>()?,
            ..Row::default()
        })
    }
}

/// A time as RFC 3339 writes it; `None` for the start of 1970, which both formats take for "unknown".
fn time(time: Option<Time>) -> Result<Option<String>, Error> {
    let Some(time) = time.filter(|t| *t != Time::seconds(0)) else { return Ok(None) };
    // Later and earlier years have no such form.
    let known = (-62_135_596_800..=253_402_300_799).contains(&time.sec);
    let stamp = jiff::Timestamp::new(time.sec, 0).ok().filter(|_| known);
    let unfit = || Error::Unfit("a time in it is out of the range of years".into());
    let whole = stamp.ok_or_else(unfit)?.to_string();
    Ok(Some(match time.nsec {
        0 => whole,
        nsec => format!("{}.{nsec:09}Z", whole.trim_end_matches('Z')),
    }))
}

/// Text that is compressed while it grows.
pub(super) struct Packed(Hashing<zstd::Encoder<'static, Vec<u8>>>);

/// What became of it.
pub(super) struct PackedText {
    /// One zstd frame.
    pub bytes: Vec<u8>,
    /// Length of the text.
    pub length: u64,
    /// Digest of the text.
    pub digest: Digest,
}

impl Packed {
    pub fn new() -> Result<Packed, Error> {
        let mut encoder = zstd::Encoder::new(vec![], 0).map_err(archive::Error::Output)?;
        encoder.include_checksum(true).map_err(archive::Error::Output)?;
        Ok(Packed(Hashing::new(encoder)))
    }

    pub fn length(&self) -> u64 {
        self.0.count()
    }

    pub fn write(&mut self, text: &[u8]) -> Result<(), Error> {
        Ok(self.0.write_all(text).map_err(archive::Error::Output)?)
    }

    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer(&mut self.0, value).map_err(|e| archive::Error::Output(e.into()).into())
    }

    pub fn finish(self) -> Result<PackedText, Error> {
        let (encoder, digest, length) = self.0.finish();
        let bytes = encoder.finish().map_err(archive::Error::Output)?;
        Ok(PackedText { bytes, length, digest })
    }
}

impl PackedText {
    /// The text again.
    pub fn read(&self) -> io::Result<impl io::Read> {
        zstd::Decoder::with_buffer(self.bytes.as_slice())
    }
}

/// A table that grows.
pub(super) struct Toc {
    text: Packed,
    empty: bool,
}

impl Toc {
    pub fn new() -> Result<Toc, Error> {
        let mut text = Packed::new()?;
        text.write(br#"{"version":1,"entries":["#)?;
        Ok(Toc { text, empty: true })
    }

    pub fn push(&mut self, row: &Row) -> Result<(), Error> {
        if !std::mem::take(&mut self.empty) {
            self.text.write(b",")?;
        }
        self.text.json(row)?;
        match self.text.length() {
            0..=MAX_TOC => Ok(()),
            _ => Err(Error::Unfit(format!("its table of contents would be longer than {} MiB", MAX_TOC >> 20))),
        }
    }

    /// Ends it; `more` is JSON behind the list.
    pub fn finish(mut self, more: &str) -> Result<PackedText, Error> {
        self.text.write(format!("]{more}}}").as_bytes())?;
        self.text.finish()
    }
}

/// The bytes of a tar without the files' data, in the form of `tar-split`: a JSON object a line, in the order of the tar.
pub(super) struct TarSplit {
    text: Packed,
    position: u64,
    segment: Vec<u8>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

impl TarSplit {
    /// Bytes of the tar that are kept until they are written as one line.
    const SEGMENT: usize = 64 << 10;

    pub fn new() -> Result<TarSplit, Error> {
        Ok(TarSplit { text: Packed::new()?, position: 0, segment: vec![] })
    }

    /// Bytes that are no file's.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.segment.extend_from_slice(bytes);
        if self.segment.len() >= Self::SEGMENT { self.flush() } else { Ok(()) }
    }

    /// An entry's data, with its checksum where there is any.
    pub fn file(&mut self, name: &str, size: u64, checksum: Option<u64>) -> Result<(), Error> {
        self.flush()?;
        let payload = checksum.map(|sum| STANDARD.encode(sum.to_be_bytes()));
        self.line(Line { kind: 1, name, size, payload, position: self.position })
    }

    pub fn finish(mut self) -> Result<PackedText, Error> {
        self.flush()?;
        self.text.finish()
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let payload = Some(STANDARD.encode(std::mem::take(&mut self.segment)));
        self.line(Line { kind: 2, name: "", size: 0, payload, position: self.position })
    }

    fn line(&mut self, line: Line<'_>) -> Result<(), Error> {
        self.position += 1;
        self.text.json(&line)?;
        self.text.write(b"\n")
    }
}

/// CRC-64 of ISO 3309, as `tar-split` has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc64(u64);

/// What the low byte of a checksum adds.
const CRC64: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xd800_0000_0000_0000 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

impl Crc64 {
    pub fn new() -> Crc64 {
        Crc64(!0)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = CRC64[usize::from(self.0 as u8 ^ byte)] ^ (self.0 >> 8);
        }
    }

    pub fn sum(self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_iso_3309() {
        let mut crc = Crc64::new();
        crc.update(b"12345");
        crc.update(b"6789");
        assert_eq!(crc.sum(), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn times_have_the_form_of_rfc_3339() {
        let of = |sec, nsec| time(Some(Time { sec, nsec })).unwrap();
        assert_eq!(of(0, 0), None);
        assert_eq!(of(1_600_000_000, 0).unwrap(), "2020-09-13T12:26:40Z");
        assert_eq!(of(-1, 500_000_000).unwrap(), "1969-12-31T23:59:59.500000000Z");
        assert!(matches!(time(Some(Time::seconds(1 << 40))), Err(Error::Unfit(_))));
    }
}
