//! Reads the blobs of one table out of an SQLite file: no SQL, no indexes, no writing.
//!
//! A table is a tree of pages. Interior pages list their children, leaves hold the rows; what of a row does not fit into
//! its leaf follows in a list of overflow pages. Pages are read one at a time. A file that was made to keep a reader busy
//! cannot: each page of a tree is read once, and all rows together may be no longer than the file.
//!
//! Format: <https://www.sqlite.org/fileformat2.html>.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Longest row that is read, in bytes.
const MAX_ROW: u64 = 64 << 20;

/// Why a table cannot be read to its end.
#[derive(Debug)]
pub(super) enum Failure<E> {
    /// The file breaks the format.
    Damaged(&'static str),
    /// The file cannot be read.
    Read(io::Error),
    /// Whoever takes the rows had enough.
    Consumer(E),
}

/// Calls `take` with the last column of each row of `table`, where that is a blob.
pub(super) fn rows<E>(
    file: File,
    size: u64,
    table: &str,
    take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), Failure<E>> {
    let mut database = Database::open(file, size)?;
    let mut root = None;
    database.walk::<E>(1, &mut |row| {
        let columns = Columns::parse(row);
        let text = |n: usize| columns.get(n).map(|c| c.bytes);
        if text(0) == Some(b"table") && text(1) == Some(table.as_bytes()) {
            root = columns.get(3).and_then(Column::number).and_then(|n| u32::try_from(n).ok());
        }
        Ok(())
    })?;
    let root = root.ok_or(Failure::Damaged("it has no table of packages"))?;
    database.walk(root, &mut |row| match Columns::parse(row).last() {
        Some(column) if column.is_blob() => take(column.bytes),
        _ => Ok(()),
    })
}

/// What goes wrong without a consumer.
enum Part {
    Damaged(&'static str),
    Read(io::Error),
}

impl<E> From<Part> for Failure<E> {
    fn from(part: Part) -> Self {
        match part {
            Part::Damaged(why) => Failure::Damaged(why),
            Part::Read(e) => Failure::Read(e),
        }
    }
}

struct Database {
    file: File,
    page_size: usize,
    /// Bytes of a page that hold data.
    usable: usize,
    pages: u32,
    /// Bytes of rows that may still be read.
    budget: u64,
}

impl Database {
    fn open(file: File, size: u64) -> Result<Database, Part> {
        let mut head = [0; 100];
        match file.read_exact_at(&mut head, 0) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(Part::Damaged("it is too short")),
            other => other.map_err(Part::Read)?,
        }
        if !head.starts_with(b"SQLite format 3\0") {
            return Err(Part::Damaged("it is no SQLite file"));
        }
        let page_size = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65536,
            other => usize::from(other),
        };
        let usable = page_size.saturating_sub(usize::from(head[20]));
        if !page_size.is_power_of_two() || usable < 480 {
            return Err(Part::Damaged("its page size is wrong"));
        }
        let pages = u32::try_from(size / page_size as u64).unwrap_or(u32::MAX);
        Ok(Database { file, page_size, usable, pages, budget: size })
    }

    fn page(&self, number: u32) -> Result<Vec<u8>, Part> {
        if number == 0 || number > self.pages {
            return Err(Part::Damaged("it names a page that it does not have"));
        }
        let mut page = vec![0; self.page_size];
        let at = u64::from(number - 1) * self.page_size as u64;
        self.file.read_exact_at(&mut page, at).map_err(Part::Read)?;
        Ok(page)
    }

    /// Calls `take` with each row of the tree at `root`.
    fn walk<E>(&mut self, root: u32, take: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), Failure<E>> {
        const INTERIOR: u8 = 0x05;
        const LEAF: u8 = 0x0d;
        let mut pending = vec![root];
        let mut seen = HashSet::new();
        while let Some(number) = pending.pop() {
            if !seen.insert(number) {
                return Err(Failure::Damaged("a page is in a tree twice"));
            }
            let page = self.page(number)?;
            // The file's own header is in the first page.
            let head = if number == 1 { 100 } else { 0 };
            let kind = page.get(head).copied().unwrap_or_default();
            let cells = u16_at(&page, head + 3).unwrap_or_default();
            let list = head + if kind == INTERIOR { 12 } else { 8 };
            let cell = |n: u16| u16_at(&page, list + 2 * usize::from(n)).map(usize::from);
            match kind {
                INTERIOR => {
                    // Backwards, since the last that is put down is taken first.
                    pending.extend(u32_at(&page, head + 8));
                    pending.extend((0..cells).rev().filter_map(|n| u32_at(&page, cell(n)?)));
                }
                LEAF => {
                    for n in 0..cells {
                        let at = cell(n).ok_or(Failure::Damaged("a page lists a row outside of itself"))?;
                        take(&self.row(&page, at)?).map_err(Failure::Consumer)?;
                    }
                }
                _ => return Err(Failure::Damaged("a page of a table is of another kind")),
            }
        }
        Ok(())
    }

    /// The row at `at` of a leaf, with what lies on overflow pages.
    fn row(&mut self, page: &[u8], at: usize) -> Result<Vec<u8>, Part> {
        const SHORT: Part = Part::Damaged("a row ends outside of its page");
        let rest = page.get(at..self.usable).ok_or(SHORT)?;
        let (length, used) = varint(rest).ok_or(SHORT)?;
        let (_rowid, more) = varint(rest.get(used..).unwrap_or_default()).ok_or(SHORT)?;
        let rest = rest.get(used + more..).unwrap_or_default();
        if length > MAX_ROW || length > self.budget {
            return Err(Part::Damaged("a row is longer than the file can hold"));
        }
        self.budget -= length;
        let length = usize::try_from(length).map_err(|_| SHORT)?;
        let local = local_bytes(length, self.usable);
        let mut row = Vec::with_capacity(length);
        row.extend_from_slice(rest.get(..local).ok_or(SHORT)?);
        let mut next = if local < length { u32_at(rest, local).ok_or(SHORT)? } else { 0 };
        while row.len() < length {
            let page = self.page(next)?;
            next = u32_at(&page, 0).unwrap_or_default();
            let wanted = (length - row.len()).min(self.usable - 4);
            row.extend_from_slice(page.get(4..4 + wanted).ok_or(SHORT)?);
        }
        Ok(row)
    }
}

/// How many bytes of a row of `length` lie in its leaf.
fn local_bytes(length: usize, usable: usize) -> usize {
    let most = usable - 35;
    if length <= most {
        return length;
    }
    let least = (usable - 12) * 32 / 255 - 23;
    let wanted = least + (length - least) % (usable - 4);
    if wanted <= most { wanted } else { least }
}

/// A column of a row.
#[derive(Clone, Copy, Debug)]
struct Column<'a> {
    kind: u64,
    bytes: &'a [u8],
}

impl Column<'_> {
    fn is_blob(&self) -> bool {
        self.kind >= 12 && self.kind.is_multiple_of(2)
    }

    fn number(&self) -> Option<u64> {
        match self.kind {
            8 => Some(0),
            9 => Some(1),
            1..=6 => Some(self.bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
            _ => None,
        }
    }
}

/// The columns of a row; as many as are whole.
struct Columns;

impl Columns {
    fn parse(row: &[u8]) -> Vec<Column<'_>> {
        let Some((head_length, mut at)) = varint(row) else { return vec![] };
        let Some(head) = usize::try_from(head_length).ok().and_then(|n| row.get(..n)) else { return vec![] };
        let mut body = row.get(head.len()..).unwrap_or_default();
        let mut columns = vec![];
        while let Some((kind, used)) = varint(head.get(at..).unwrap_or_default()) {
            at += used;
            let length = match kind {
                0 | 8 | 9 => Some(0),
                1..=4 => Some(kind),
                5 => Some(6),
                6 | 7 => Some(8),
                10 | 11 => None,
                _ => Some((kind - 12) / 2),
            };
            let length = length.and_then(|n| usize::try_from(n).ok());
            let Some((bytes, rest)) = length.and_then(|n| body.split_at_checked(n)) else { break };
            columns.push(Column { kind, bytes });
            body = rest;
        }
        columns
    }
}

/// A number of one to nine bytes, and how many they are.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value: u64 = 0;
    for (n, byte) in bytes.iter().copied().enumerate().take(9) {
        if n == 8 {
            return Some((value << 8 | u64::from(byte), 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value, n + 1));
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
