//! What a file system could not store of a layer: owners that the id map has no room for, modes that would lock out
//! the builder, device numbers, file capabilities.
//!
//! The records of a layer directory lie in the file `records` beside `fs/`: a header line, then one JSON object a line,
//! sorted by path. A layer that needs none has no such file. `docs/records.md` describes the format.
//!
//! Invariants: paths are relative to the root, clean, without a leading `/`, empty for the root; no record is empty; a
//! record never exists without its file (but one that lost its file, by a step that removed it, does no harm).

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use super::node::{self, Xattrs};

/// Name of the file in a layer directory.
pub const FILE: &str = "records";

const VERSION: u32 = 1;
const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;

/// A device node's kind and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// Character device: major, minor.
    Char(u32, u32),
    /// Block device: major, minor.
    Block(u32, u32),
}

/// What is recorded of one path. A field that is `None` is as the disk has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Record {
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permissions, set-id and sticky bits: 12 bits.
    pub mode: Option<u32>,
    /// The device that the empty file on disk stands for.
    pub device: Option<Device>,
    /// Extended attributes that could not be set.
    pub xattrs: Xattrs,
    /// The directory hides what lower layers have in it, and the mark for that could not be set.
    pub opaque: bool,
}

impl Record {
    /// Whether it records nothing.
    pub fn is_empty(&self) -> bool {
        *self == Record::default()
    }
}

/// The records of one layer directory. Equal records share their memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    by_path: BTreeMap<Box<[u8]>, Arc<Record>>,
    shared: HashSet<Arc<Record>>,
}

impl Records {
    /// No records.
    pub fn new() -> Records {
        Records::default()
    }

    /// Number of paths that have a record.
    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Whether no path has a record.
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// The record of `path`.
    pub fn get(&self, path: &Path) -> Option<&Arc<Record>> {
        if self.by_path.is_empty() { None } else { self.by_path.get(node::bytes(path)) }
    }

    /// Sets the record of `path`; an empty one removes it.
    pub fn insert(&mut self, path: &Path, record: Record) {
        if record.is_empty() {
            self.remove(path);
            return;
        }
        let record = match self.shared.get(&record) {
            Some(known) => known.clone(),
            None => {
                let new = Arc::new(record);
                self.shared.insert(new.clone());
                new
            }
        };
        self.by_path.insert(node::bytes(path).into(), record);
    }

    /// Removes the record of `path`.
    pub fn remove(&mut self, path: &Path) {
        if !self.by_path.is_empty() {
            self.by_path.remove(node::bytes(path));
        }
    }

    /// Removes the records of `path` and of everything below it.
    pub fn remove_tree(&mut self, path: &Path) {
        if self.by_path.is_empty() {
            return;
        }
        self.remove(path);
        let inside = if path.as_os_str().is_empty() { Vec::new() } else { [node::bytes(path), b"/"].concat() };
        loop {
            let next = self
                .by_path
                .range::<[u8], _>((Bound::Included(inside.as_slice()), Bound::Unbounded))
                .next()
                .filter(|(key, _)| key.starts_with(&inside))
                .map(|(key, _)| key.clone());
            match next {
                Some(key) => self.by_path.remove(&key),
                None => return,
            };
        }
    }

    /// All records, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Record)> {
        self.by_path.iter().map(|(path, record)| (node::path(path), &**record))
    }

    /// Reads the records of the layer directory `dir`; no file means no records.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is malformed.
    pub fn load(dir: &Path) -> Result<Records, Error> {
        let path = dir.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Records::new()),
            Err(e) => return Err(Error::file("open", &path)(e)),
        };
        Records::read(BufReader::with_capacity(1 << 16, file), &path)
    }

    /// Reads the text of a records file; `path` is named in errors.
    fn read(text: impl BufRead, path: &Path) -> Result<Records, Error> {
        let mut records = Records::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.map_err(Error::file("read", path))?;
            let bad = |reason: String| Error::Record { path: path.to_owned(), line: index + 1, reason };
            if index == 0 {
                let header: Header = serde_json::from_str(&line).map_err(|e| bad(e.to_string()))?;
                if header.version != VERSION {
                    return Err(bad(format!("version {} is not {VERSION}", header.version)));
                }
                continue;
            }
            let line: Line = serde_json::from_str(&line).map_err(|e| bad(e.to_string()))?;
            let (path, record) = line.decode().map_err(|e| bad(e.to_owned()))?;
            records.insert(node::path(&path), record);
        }
        Ok(records)
    }

    /// Writes the records into the layer directory `dir`, or removes the file there where nothing is recorded.
    /// Replaces the file in one step; nothing is synced to disk.
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        if self.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &path)(e)),
                _ => Ok(()),
            };
        }
        let new = dir.join("records.new");
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::with_capacity(1 << 16, File::create(&new)?);
            self.write(&mut out)?;
            out.into_inner().map_err(|e| e.into_error())?;
            std::fs::rename(&new, &path)
        };
        write().map_err(Error::file("write", &path))
    }

    /// Writes the text of a records file.
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        serde_json::to_writer(&mut *out, &Header { version: VERSION })?;
        for (path, record) in &self.by_path {
            out.write_all(b"\n")?;
            serde_json::to_writer(&mut *out, &Line::encode(path, record))?;
        }
        out.write_all(b"\n")
    }
}

/// As the text of a records file.
impl Serialize for Records {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut text = Vec::new();
        self.write(&mut text).map_err(serde::ser::Error::custom)?;
        s.serialize_str(&String::from_utf8_lossy(&text))
    }
}

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Records, D::Error> {
        let text = String::deserialize(d)?;
        Records::read(text.as_bytes(), Path::new(FILE)).map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "rbuild-records")]
    version: u32,
}

/// One line of the file. Modes are octal texts, names are percent-escaped, values of xattrs are base64.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Line {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    char: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    opaque: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
}

impl Line {
    fn encode(path: &[u8], record: &Record) -> Line {
        let mut line = Line {
            path: escape(path),
            uid: record.uid,
            gid: record.gid,
            mode: record.mode.map(|mode| format!("{mode:04o}")),
            opaque: record.opaque,
            xattrs: record.xattrs.iter().map(|(name, value)| (escape(name), BASE64.encode(value))).collect(),
            ..Line::default()
        };
        match record.device {
            Some(Device::Char(major, minor)) => line.char = Some((major, minor)),
            Some(Device::Block(major, minor)) => line.block = Some((major, minor)),
            None => {}
        }
        line
    }

    fn decode(self) -> Result<(Vec<u8>, Record), &'static str> {
        let mode = match self.mode {
            Some(text) => Some(
                u32::from_str_radix(&text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or("mode is not 4 octal digits")?,
            ),
            None => None,
        };
        let device = match (self.char, self.block) {
            (None, None) => None,
            (Some((major, minor)), None) => Some(Device::Char(major, minor)),
            (None, Some((major, minor))) => Some(Device::Block(major, minor)),
            (Some(_), Some(_)) => return Err("both a character and a block device"),
        };
        let mut xattrs = Xattrs::new();
        for (name, value) in &self.xattrs {
            let name = unescape(name).ok_or("malformed escape in the name of an xattr")?;
            xattrs.insert(name, BASE64.decode(value).map_err(|_| "value of an xattr is not base64")?);
        }
        let path = unescape(&self.path).ok_or("malformed escape in the path")?;
        Ok((path, Record { uid: self.uid, gid: self.gid, mode, device, xattrs, opaque: self.opaque }))
    }
}

/// Bytes as UTF-8 text: `%`, control characters and what is not UTF-8 become `%XX`.
/// The directories that the records of a layer directory mark as opaque, without loading all records.
///
/// # Errors
/// The records cannot be read.
pub fn opaque_directories(dir: &Path) -> Result<HashSet<PathBuf>, Error> {
    let path = dir.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(e) => return Err(Error::file("open", &path)(e)),
    };
    let mut out = HashSet::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(Error::file("read", &path))?;
        if memchr::memmem::find(&line, b"\"opaque\":true").is_none() {
            continue;
        }
        let line: Line = serde_json::from_slice(&line).map_err(|e| Error::file("read", &path)(e))?;
        let (name, record) = line.decode().map_err(|e| Error::file("read", &path)(std::io::Error::other(e)))?;
        if record.opaque {
            out.insert(node::path(&name).to_owned());
        }
    }
    Ok(out)
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || (c as u32) < 0x20 || c == '\u{7f}' {
                out.push_str(&format!("%{:02X}", c as u32));
            } else {
                out.push(c);
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// The inverse of [`escape`]; `None` where a `%` is not followed by two hexadecimal digits.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Record {
        Record {
            uid: Some(33),
            gid: Some(100_000),
            mode: Some(0o4711),
            device: Some(Device::Block(8, 1)),
            xattrs: [(b"security.capability".to_vec(), vec![1, 0, 0, 2])].into(),
            opaque: true,
        }
    }

    #[test]
    fn file_round_trip_keeps_everything_and_its_bytes_are_stable() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::new();
        records.insert(node::path(b"usr/b\xff%in"), full());
        records.insert(Path::new(""), Record { mode: Some(0o700), ..Record::default() });
        records.insert(Path::new("dev/null"), Record { device: Some(Device::Char(1, 3)), ..Record::default() });
        records.save(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        insta::assert_snapshot!(text, @r#"
        {"rbuild-records":1}
        {"path":"","mode":"0700"}
        {"path":"dev/null","char":[1,3]}
        {"path":"usr/b%FF%25in","uid":33,"gid":100000,"mode":"4711","block":[8,1],"opaque":true,"xattrs":{"security.capability":"AQAAAg=="}}
        "#);
        let back = Records::load(dir.path()).unwrap();
        assert_eq!(back, records);
        let json = serde_json::to_string(&records).unwrap();
        assert_eq!(serde_json::from_str::<Records>(&json).unwrap(), records);
        back.save(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
    }

    #[test]
    fn no_records_means_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::new();
        records.insert(Path::new("a"), full());
        records.save(dir.path()).unwrap();
        records.insert(Path::new("a"), Record::default());
        records.save(dir.path()).unwrap();
        assert!(!dir.path().join(FILE).exists());
        assert!(Records::load(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn remove_tree_spares_siblings_with_the_same_prefix() {
        let mut records = Records::new();
        for path in ["a", "a/b", "a/b/c", "a-b", "ab", "b"] {
            records.insert(Path::new(path), full());
        }
        records.remove_tree(Path::new("a"));
        let left: Vec<_> = records.iter().map(|(p, _)| p.to_str().unwrap().to_owned()).collect();
        assert_eq!(left, ["a-b", "ab", "b"]);
        records.remove_tree(Path::new(""));
        assert!(records.is_empty());
    }

    #[test]
    fn malformed_files_are_refused_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        for (text, line) in [
            ("{}\n", 1),
            ("{\"rbuild-records\":2}\n", 1),
            ("{\"rbuild-records\":1}\n{\"path\":\"a\",\"mode\":\"9\"}\n", 2),
            ("{\"rbuild-records\":1}\n{\"path\":\"a\",\"uid\":0}\n{\"path\":\"%g0\"}\n", 3),
            ("{\"rbuild-records\":1}\n{\"path\":\"a\",\"unknown\":0}\n", 2),
        ] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            match Records::load(dir.path()) {
                Err(Error::Record { line: at, .. }) => assert_eq!(at, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn names_of_any_bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes));
        }
    }
}
