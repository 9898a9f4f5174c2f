//! Reading tables of contents that nobody but the layer's author vouches for.
//!
//! A table says what files a layer has and where their data begins in the blob. Its digest is in the annotations of the
//! layer's descriptor; that it describes the layer is not said by that, and is for the user of the table to find out when the
//! layer is there as a whole. What is bounded here: the text and its rows, a chunk's length, and where chunks may lie.

use super::TOC_NAME;
use crate::archive::reader::{Entry, Reader, Type};
use crate::archive::{Time, Xattrs};
use crate::oci::media::{ESTARGZ_TOC, ZSTD_CHECKSUM, ZSTD_POSITION};
use crate::oci::{Descriptor, Digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

/// Longest table that is read, in bytes of JSON: it is held in memory, and so is what it says.
const MAX_TEXT: u64 = 16 << 20;
/// Most rows of a table.
const MAX_ROWS: usize = 100_000;
/// Most attributes of a row.
const MAX_ATTRIBUTES: usize = 1000;
/// Longest chunk of a file, and the longest way to it in its member, in bytes.
const MAX_CHUNK: u64 = 8 << 20;
/// Largest window of a zstd frame: 16 MiB.
const MAX_WINDOW_LOG: u32 = 24;
/// Bytes at the end of an eStargz blob that say where its table is.
const FOOTER: u64 = 51;

/// Why a table is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its bytes cannot be had.
    #[error("{0}")]
    Fetch(io::Error),
    /// It is none, or too large.
    #[error("{0}")]
    Unusable(String),
}

fn unusable<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Unusable(why.into()))
}

/// Gives bytes of a blob.
pub type Fetch<'a> = &'a (dyn Fn(Range<u64>) -> io::Result<Vec<u8>> + Sync);

/// How chunks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A member of gzip.
    Gzip,
    /// A frame of zstd.
    Zstd,
}

/// A part of a file, and where its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it belongs in the file.
    pub offset: u64,
    /// Bytes of it, 8 MiB at most; never 0.
    pub size: u64,
    /// The bytes of the blob to begin with; the chunk needs no more than these.
    pub blob: Range<u64>,
    /// Bytes that come before it in its member.
    pub skip: u64,
    /// Digest of the data.
    pub digest: Digest,
}

/// An entry of a layer, with the chunks of a regular file's data.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What the headers of the tar say. A regular file is one large hole.
    pub entry: Entry,
    /// Ascending, without gaps; empty for what has no data.
    pub chunks: Vec<Chunk>,
}

/// What is in a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// How its chunks are compressed.
    pub form: Form,
    /// In the order of the tar.
    pub items: Vec<Item>,
    /// The end of the tar, from the entry that is the table itself on, where that is an entry.
    pub tail: Option<Vec<u8>>,
}

/// Whether the annotations of a layer tell of a table.
pub fn is_indexed(layer: &Descriptor) -> bool {
    let has = |name: &str| layer.annotations.contains_key(name);
    has(ESTARGZ_TOC) || has(ZSTD_CHECKSUM) && has(ZSTD_POSITION)
}

/// Fetches and reads the table of a layer.
///
/// # Errors
/// There is none, it cannot be fetched, or it is not what the annotations say.
pub fn read(layer: &Descriptor, fetch: Fetch<'_>) -> Result<Table, Error> {
    match layer.annotations.get(ESTARGZ_TOC) {
        Some(digest) => estargz(layer, digest, fetch),
        None => zstd_chunked(layer, fetch),
    }
}

fn digest_of(text: &str) -> Result<Digest, Error> {
    text.parse().or_else(|_| unusable(format!("`{}` is no digest", text.escape_debug())))
}

fn estargz(layer: &Descriptor, digest: &str, fetch: Fetch<'_>) -> Result<Table, Error> {
    let digest = digest_of(digest)?;
    let Some(end) = layer.size.checked_sub(FOOTER) else { return unusable("the layer is too short") };
    let footer = fetch(end..layer.size).map_err(Error::Fetch)?;
    let place = footer.get(16..38).filter(|field| field.ends_with(b"STARGZ")).and_then(|field| field.get(..16));
    let at = place.and_then(|hex| u64::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
    let Some(at) = at.filter(|at| *at < end && end - at <= MAX_TEXT) else {
        return unusable("its end does not say where the table is");
    };
    let packed = fetch(at..end).map_err(Error::Fetch)?;
    let tail = bounded(flate2::bufread::MultiGzDecoder::new(&packed[..]))?;
    let broken = |e| Error::Unusable(format!("its table is in no tar: {e}"));
    let mut reader = Reader::new(&tail[..]);
    let entry = reader.next_entry().map_err(broken)?;
    let Some(entry) = entry.filter(|e| e.kind == Type::File && e.name == TOC_NAME.as_bytes() && e.sparse.is_none())
    else {
        return unusable("its table is no file of the layer");
    };
    let mut text = vec![];
    reader.copy(entry.size, &mut text).map_err(broken)?;
    check(&text, &digest)?;
    // Its digest is all that vouches for the end of the tar.
    if reader.next_entry().map_err(broken)?.is_some() {
        return unusable("there are files behind its table");
    }
    Ok(Table { form: Form::Gzip, items: items(&text, Form::Gzip, at)?, tail: Some(tail) })
}

fn zstd_chunked(layer: &Descriptor, fetch: Fetch<'_>) -> Result<Table, Error> {
    let annotation = |name: &str| layer.annotations.get(name).map(String::as_str).unwrap_or_default();
    let digest = digest_of(annotation(ZSTD_CHECKSUM))?;
    let numbers: Option<Vec<u64>> = annotation(ZSTD_POSITION).split(':').map(|n| n.parse().ok()).collect();
    let Some([at, length, text, 1]) = numbers.as_deref() else { return unusable("the table has no position") };
    let end = at.checked_add(*length).filter(|end| *end <= layer.size);
    let Some(end) = end.filter(|_| *length > 0 && *length <= MAX_TEXT && *text <= MAX_TEXT) else {
        return unusable(format!("its table is longer than {} MiB, or not in the layer", MAX_TEXT >> 20));
    };
    let packed = fetch(*at..end).map_err(Error::Fetch)?;
    check(&packed, &digest)?;
    let decoder = zstd_decoder(&packed).map_err(|e| Error::Unusable(e.to_string()))?;
    let text = bounded(decoder)?;
    Ok(Table { form: Form::Zstd, items: items(&text, Form::Zstd, *at)?, tail: None })
}

fn check(bytes: &[u8], wanted: &Digest) -> Result<(), Error> {
    match Digest::of(bytes) {
        found if found == *wanted => Ok(()),
        found => unusable(format!("the digest of its table is `{found}` where the manifest says `{wanted}`")),
    }
}

fn zstd_decoder(bytes: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    Ok(decoder)
}

/// All that comes out of a decoder.
fn bounded(decoder: impl Read) -> Result<Vec<u8>, Error> {
    let mut out = vec![];
    let read = decoder.take(MAX_TEXT + 1).read_to_end(&mut out);
    read.map_err(|e| Error::Unusable(format!("its table cannot be decompressed: {e}")))?;
    match out.len() as u64 {
        0..=MAX_TEXT => Ok(out),
        _ => unusable(format!("its table is longer than {} MiB", MAX_TEXT >> 20)),
    }
}

impl Chunk {
    /// The data of a chunk from the bytes of the blob, which begin at `at`.
    ///
    /// # Errors
    /// They are something else.
    pub fn data(&self, form: Form, at: u64, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let bytes = self.blob.start.checked_sub(at).and_then(|from| bytes.get(usize::try_from(from).ok()?..));
        let bytes = bytes.unwrap_or_default();
        let data = match form {
            Form::Gzip => self.cut(flate2::bufread::MultiGzDecoder::new(bytes))?,
            Form::Zstd => self.cut(zstd_decoder(bytes)?)?,
        };
        match Digest::of(&data) {
            found if found == self.digest => Ok(data),
            found => Err(io::Error::other(format!("a chunk has the digest `{found}`, and not `{}`", self.digest))),
        }
    }

    fn cut(&self, mut decoder: impl Read) -> io::Result<Vec<u8>> {
        io::copy(&mut decoder.by_ref().take(self.skip), &mut io::sink())?;
        let mut data = Vec::with_capacity(usize::try_from(self.size).unwrap_or(0));
        decoder.take(self.size).read_to_end(&mut data)?;
        Ok(data)
    }
}

/// A row as it is written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Row {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    link_name: String,
    mode: i64,
    size: u64,
    uid: u32,
    gid: u32,
    modtime: Option<String>,
    dev_major: u32,
    dev_minor: u32,
    #[serde(deserialize_with = "few")]
    xattrs: BTreeMap<String, String>,
    digest: String,
    offset: u64,
    inner_offset: u64,
    end_offset: u64,
    chunk_size: u64,
    chunk_offset: u64,
    chunk_digest: String,
}

/// Rows become items one after the other.
#[derive(Default)]
struct Items {
    all: Vec<Item>,
    rows: usize,
    /// Places in the blob where something begins or ends.
    places: Vec<u64>,
}

fn items(text: &[u8], form: Form, end: u64) -> Result<Vec<Item>, Error> {
    let mut items = Items::default();
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = (&mut items).deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|e| Error::Unusable(format!("its table is invalid: {e}")))?;
    let Items { mut all, mut places, .. } = items;
    places.retain(|place| *place < end);
    places.push(end);
    places.sort_unstable();
    places.dedup();
    for item in &mut all {
        settle(item, form, &places)
            .map_err(|why| Error::Unusable(format!("in its table, `{}` {why}", item.entry.name.escape_ascii())))?;
    }
    Ok(all)
}

/// Gives the chunks of an item their ends, in the file and in the blob.
fn settle(item: &mut Item, form: Form, places: &[u64]) -> Result<(), &'static str> {
    let size = if item.entry.kind == Type::File { item.entry.size } else { 0 };
    let (mut at, count) = (0, item.chunks.len());
    for (n, chunk) in item.chunks.iter_mut().enumerate() {
        if chunk.size == 0 && n + 1 == count {
            chunk.size = size.saturating_sub(chunk.offset);
        }
        if chunk.offset != at || chunk.size == 0 || chunk.size > MAX_CHUNK || chunk.skip > MAX_CHUNK {
            return Err("has chunks that do not make a file, or too long ones");
        }
        at = at.checked_add(chunk.size).ok_or("has chunks beyond its end")?;
        let next = places.partition_point(|place| *place <= chunk.blob.start);
        let next = *places.get(next).ok_or("has data behind the end of the layer")?;
        // What cannot be compressed grows by less than this.
        let plain = chunk.size + chunk.skip;
        let most = plain + plain / 16 + (64 << 10);
        chunk.blob.end = next.min(chunk.blob.start.saturating_add(most));
    }
    match at == size {
        true => Ok(()),
        false if form == Form::Gzip && count == 0 => Err("has no data"),
        false => Err("has chunks that are less or more than it"),
    }
}

impl Items {
    fn push(&mut self, row: Row) -> Result<(), String> {
        self.rows += 1;
        if self.rows > MAX_ROWS {
            return Err(format!("it has more than {MAX_ROWS} rows"));
        }
        // JSON has no bytes but UTF-8; this character is what writers put there in the place of others.
        if [&row.name, &row.link_name].iter().any(|name| name.contains(char::REPLACEMENT_CHARACTER)) {
            return Err(format!("the name `{}` may be another one", row.name.escape_debug()));
        }
        self.places.extend([row.offset, row.end_offset].into_iter().filter(|place| *place > 0));
        if row.kind == "chunk" {
            let digest = row.chunk_digest.clone();
            let last = self.all.last_mut().filter(|last| last.entry.name == row.name.as_bytes());
            let last = last.ok_or_else(|| format!("a chunk of `{}` is not behind it", row.name.escape_debug()))?;
            last.chunks.push(chunk(&row, &digest)?);
            return Ok(());
        }
        let kind = match row.kind.as_str() {
            "reg" => Type::File,
            "dir" => Type::Dir,
            "symlink" => Type::Symlink,
            "hardlink" => Type::Hardlink,
            "fifo" => Type::Fifo,
            "char" => Type::Char(row.dev_major, row.dev_minor),
            "block" => Type::Block(row.dev_major, row.dev_minor),
            other => return Err(format!("unknown type `{}`", other.escape_debug())),
        };
        let mut chunks = vec![];
        if kind == Type::File && row.size > 0 {
            let digest = if row.chunk_digest.is_empty() { &row.digest } else { &row.chunk_digest };
            chunks.push(chunk(&row, digest)?);
        }
        let xattrs = row.xattrs.into_iter().map(|(name, value)| {
            let value =
                STANDARD.decode(value).map_err(|_| format!("the attribute `{}` is no base64", name.escape_debug()))?;
            Ok((name.into_bytes(), value))
        });
        let entry = Entry {
            kind,
            mode: u32::try_from(row.mode & 0o7777).unwrap_or(0),
            uid: row.uid,
            gid: row.gid,
            size: if kind == Type::File { row.size } else { 0 },
            mtime: row.modtime.as_deref().map_or(Ok(Time::seconds(0)), time)?,
            link: row.link_name.into_bytes(),
            xattrs: xattrs.collect::<Result<Xattrs, String>>()?,
            sparse: (kind == Type::File).then(Vec::new),
            name: row.name.into_bytes(),
        };
        self.all.push(Item { entry, chunks });
        Ok(())
    }
}

fn chunk(row: &Row, digest: &str) -> Result<Chunk, String> {
    let digest = digest.parse().map_err(|_| format!("`{}` has data without a digest", row.name.escape_debug()))?;
    Ok(Chunk {
        offset: row.chunk_offset,
        size: row.chunk_size,
        blob: row.offset..row.offset,
        skip: row.inner_offset,
        digest,
    })
}

fn time(text: &str) -> Result<Time, String> {
    let stamp: jiff::Timestamp = text.parse().map_err(|_| format!("`{}` is no time", text.escape_debug()))?;
    let (sec, nsec) = (stamp.as_second(), i64::from(stamp.subsec_nanosecond()));
    // Before 1970 both are negative.
    let (sec, nsec) = if nsec < 0 { (sec - 1, nsec + 1_000_000_000) } else { (sec, nsec) };
    Ok(Time { sec, nsec: u32::try_from(nsec).unwrap_or(0) })
}

/// Attributes, or null.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("attributes")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                all.insert(name, value);
                if all.len() > MAX_ATTRIBUTES {
                    return Err(serde::de::Error::custom(format!("more than {MAX_ATTRIBUTES} attributes")));
                }
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(Few)
}

impl<'de> DeserializeSeed<'de> for &mut Items {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(Document(self))
    }
}

struct Document<'i>(&'i mut Items);

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "entries" => map.next_value_seed(Rows(self.0))?,
                "version" => match map.next_value::<u64>()? {
                    1 => {}
                    other => return Err(serde::de::Error::custom(format!("version {other} is not known"))),
                },
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Rows<'i>(&'i mut Items);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(row) = seq.next_element::<Row>()? {
            self.0.push(row).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}
