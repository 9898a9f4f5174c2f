//! Writes tar archives of which every byte is decided by the entries: POSIX pax, headers of `ustar` form with an extended
//! header only where a value does not fit.
//!
//! Fixed by this module, for ever, since digests rest on it: no user and group names, no access and change times, times in
//! whole seconds, extended records sorted by key, an extended header named `PaxHeaders.0/` and the last component.

use super::node::{Kind, Xattrs};
use std::io::{self, Read, Write};

/// Size of a header, and the unit that content is padded to, in bytes.
pub const BLOCK: usize = 512;
/// The largest number that eleven octal digits hold.
const OCTAL_11: u64 = 0o777_7777_7777;
/// The largest number that seven octal digits hold.
const OCTAL_7: u64 = 0o777_7777;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A regular file; its bytes follow.
    File,
    /// A directory.
    Dir,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A further name of the entry with this path.
    Hardlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
}

/// One entry's header.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Path, relative, without a trailing slash; empty for the root directory, which becomes `./`.
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind<'a>,
    /// 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file; 0 for everything else.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Extended attributes; `None` for none.
    pub xattrs: Option<&'a Xattrs>,
}

impl<'a> Entry<'a> {
    /// A regular file of root with mode 0644 and time 0.
    pub fn file(path: &'a [u8], size: u64) -> Self {
        Entry { path, kind: EntryKind::File, mode: 0o644, uid: 0, gid: 0, size, mtime: 0, xattrs: None }
    }

    /// A directory of root with mode 0755 and time 0.
    pub fn dir(path: &'a [u8]) -> Self {
        Entry { path, kind: EntryKind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: 0, xattrs: None }
    }
}

impl EntryKind<'_> {
    /// What a file of the tree is as an entry; `None` for a socket, which no archive holds. `target` is a link's target.
    pub fn of(kind: Kind, target: &[u8]) -> Option<EntryKind<'_>> {
        Some(match kind {
            Kind::File => EntryKind::File,
            Kind::Dir => EntryKind::Dir,
            Kind::Symlink => EntryKind::Symlink(target),
            Kind::Fifo => EntryKind::Fifo,
            Kind::Char(major, minor) => EntryKind::Char(major, minor),
            Kind::Block(major, minor) => EntryKind::Block(major, minor),
            Kind::Socket => return None,
        })
    }
}

/// Writes an archive.
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: W,
    entries: u64,
}

impl<W: Write> TarWriter<W> {
    /// An archive that goes to `out`.
    pub fn new(out: W) -> Self {
        TarWriter { out, entries: 0 }
    }

    /// Entries written so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes an entry that has no content: anything but a regular file, or an empty one.
    ///
    /// # Errors
    /// Writing fails.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        self.append_file(entry, io::empty())
    }

    /// Writes a regular file with this content.
    ///
    /// # Errors
    /// Writing fails.
    pub fn append_bytes(&mut self, path: &[u8], content: &[u8]) -> io::Result<()> {
        self.append_file(&Entry::file(path, content.len() as u64), content)
    }

    /// Writes an entry with its content, of which exactly `entry.size` bytes are read.
    ///
    /// # Errors
    /// Reading or writing fails, or `content` is too short.
    pub fn append_file(&mut self, entry: &Entry, content: impl Read) -> io::Result<()> {
        self.entries += 1;
        self.header(entry)?;
        let copied = io::copy(&mut content.take(entry.size), &mut self.out)?;
        if copied != entry.size {
            let name = String::from_utf8_lossy(entry.path).into_owned();
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("`{name}` became shorter while it was read"),
            ));
        }
        self.pad(entry.size)
    }

    /// Writes the end of the archive, and gives the writer back.
    ///
    /// # Errors
    /// Writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let used = (size % BLOCK as u64) as usize;
        if used > 0 {
            self.out.write_all(&[0; BLOCK][used..])?;
        }
        Ok(())
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let mut path = entry.path.to_vec();
        if entry.kind == EntryKind::Dir {
            path.extend_from_slice(if path.is_empty() { b"./" } else { b"/" });
        }
        let (kind, link, device) = match entry.kind {
            EntryKind::File => (b'0', &b""[..], (0, 0)),
            EntryKind::Hardlink(target) => (b'1', target, (0, 0)),
            EntryKind::Symlink(target) => (b'2', target, (0, 0)),
            EntryKind::Char(major, minor) => (b'3', &b""[..], (major, minor)),
            EntryKind::Block(major, minor) => (b'4', &b""[..], (major, minor)),
            EntryKind::Dir => (b'5', &b""[..], (0, 0)),
            EntryKind::Fifo => (b'6', &b""[..], (0, 0)),
        };
        // Keys in the order of their bytes: upper case first.
        let mut pax = Pax::default();
        for (name, value) in entry.xattrs.into_iter().flatten() {
            if name.contains(&b'=') || name.contains(&b'\n') {
                let message = format!("an archive cannot hold an extended attribute named `{}`", name.escape_ascii());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            pax.record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        let gid = pax.number(b"gid", entry.gid.into(), OCTAL_7);
        if link.len() > 100 || !link.is_ascii() {
            pax.record(b"linkpath", link);
        }
        let mtime = match u64::try_from(entry.mtime) {
            Ok(t) => pax.number(b"mtime", t, OCTAL_11),
            Err(_) => {
                pax.record(b"mtime", entry.mtime.to_string().as_bytes());
                0
            }
        };
        let split = if path.is_ascii() { split(&path) } else { None };
        if split.is_none() {
            pax.record(b"path", &path);
        }
        let size = pax.number(b"size", entry.size, OCTAL_11);
        let uid = pax.number(b"uid", entry.uid.into(), OCTAL_7);

        if !pax.0.is_empty() {
            let last = entry.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            let name = [b"PaxHeaders.0/", &last[..last.len().min(80)]].concat();
            let mut block = [0; BLOCK];
            Fields { name: &name, prefix: b"", kind: b'x', mode: 0o644, size: pax.0.len() as u64, ..Fields::default() }
                .write(&mut block);
            self.out.write_all(&block)?;
            self.out.write_all(&pax.0)?;
            self.pad(pax.0.len() as u64)?;
        }
        // What the extended header says wins; here stands as much as fits, for readers that do not know it.
        let (prefix, name) = split.unwrap_or((b"", &path[..path.len().min(100)]));
        let mut block = [0; BLOCK];
        Fields {
            name,
            prefix,
            kind,
            mode: entry.mode & 0o7777,
            uid,
            gid,
            size,
            mtime,
            link: &link[..link.len().min(100)],
            device,
        }
        .write(&mut block);
        self.out.write_all(&block)
    }
}

/// A path as `ustar` splits it: prefix of at most 155 bytes, name of at most 100. `None` where it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The last slash that leaves a name that fits, and is not the one at the end of a directory's path.
    let first = path.len().checked_sub(101)?;
    let at = (first..path.len() - 1).find(|i| path[*i] == b'/')?;
    (at <= 155 && at > 0).then(|| (&path[..at], &path[at + 1..]))
}

/// The records of an extended header.
#[derive(Default)]
struct Pax(Vec<u8>);

impl Pax {
    /// `length key=value\n`, where the length counts itself.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// The value for the plain header: a number that does not fit there becomes a record.
    fn number(&mut self, key: &[u8], value: u64, most: u64) -> u64 {
        if value <= most {
            return value;
        }
        self.record(key, value.to_string().as_bytes());
        0
    }
}

/// The fields of a `ustar` header.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    prefix: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    link: &'a [u8],
    device: (u32, u32),
}

impl Fields<'_> {
    fn write(&self, block: &mut [u8; BLOCK]) {
        let octal = |block: &mut [u8; BLOCK], at: usize, digits: usize, value: u64| {
            let text = format!("{value:0digits$o}");
            block[at..at + digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
        };
        block[..self.name.len()].copy_from_slice(self.name);
        octal(block, 100, 7, self.mode.into());
        octal(block, 108, 7, self.uid);
        octal(block, 116, 7, self.gid);
        octal(block, 124, 11, self.size);
        octal(block, 136, 11, self.mtime);
        block[148..156].fill(b' ');
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(block, 329, 7, self.device.0.into());
        octal(block, 337, 7, self.device.1.into());
        block[345..345 + self.prefix.len()].copy_from_slice(self.prefix);
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        octal(block, 148, 6, sum);
        block[154] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn entries_come_back_as_they_were() {
        let long = [b"d".repeat(120), b"/".to_vec(), b"n".repeat(150)].concat();
        let splits = [b"d".repeat(90), b"/".to_vec(), b"n".repeat(90)].concat();
        let xattrs: Xattrs = [(b"user.a".to_vec(), b"1=2\0".to_vec())].into();
        let entries = [
            Entry::dir(b"a"),
            Entry { xattrs: Some(&xattrs), uid: 3_000_000, mtime: 1 << 40, ..Entry::file(b"a/f", 0) },
            Entry { kind: EntryKind::Symlink(&long), ..Entry::file(b"l", 0) },
            Entry { kind: EntryKind::Hardlink(b"a/f"), ..Entry::file(&splits, 0) },
            Entry { kind: EntryKind::Block(8, 300), mode: 0o6755, ..Entry::file(&long, 0) },
            Entry { mtime: -5, ..Entry::file(b"\xff\xfe", 0) },
        ];
        let mut w = TarWriter::new(vec![]);
        for e in &entries {
            w.append(e).unwrap();
        }
        w.append_bytes(b"x", b"hello").unwrap();
        let bytes = w.finish().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = archive.entries().unwrap();
        for e in &entries {
            let mut got = seen.next().unwrap().unwrap();
            let path = got.path_bytes().into_owned();
            assert_eq!(path.strip_suffix(b"/").unwrap_or(&path), e.path);
            assert_eq!(got.header().mode().unwrap(), e.mode);
            match e.kind {
                EntryKind::Symlink(t) | EntryKind::Hardlink(t) => assert_eq!(got.link_name_bytes().unwrap(), t),
                EntryKind::Block(a, b) => {
                    assert_eq!(got.header().device_major().unwrap(), Some(a));
                    assert_eq!(got.header().device_minor().unwrap(), Some(b));
                }
                _ => {}
            }
            let pax: Vec<_> = got
                .pax_extensions()
                .unwrap()
                .into_iter()
                .flatten()
                .map(|p| p.unwrap())
                .map(|p| (p.key_bytes().to_vec(), p.value_bytes().to_vec()))
                .collect();
            assert!(pax.is_sorted(), "{pax:?}");
            if e.uid > 2_097_151 {
                assert!(pax.contains(&(b"uid".to_vec(), b"3000000".to_vec())));
                assert!(pax.contains(&(b"SCHILY.xattr.user.a".to_vec(), b"1=2\0".to_vec())));
            }
        }
        let mut last = seen.next().unwrap().unwrap();
        let mut content = String::new();
        last.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hello");
    }

    #[test]
    fn gnu_tar_reads_it() {
        let name = [b"d".repeat(120), b"/".to_vec(), "ü".repeat(60).into_bytes()].concat();
        let mut w = TarWriter::new(vec![]);
        w.append_bytes(&name, b"hello").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t"), w.finish().unwrap()).unwrap();
        let status = std::process::Command::new("tar").current_dir(dir.path()).args(["-xf", "t"]).status().unwrap();
        assert!(status.success());
        let path = dir.path().join(std::ffi::OsStr::from_bytes(&name));
        assert_eq!(std::fs::read(path).unwrap(), b"hello");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut w = TarWriter::new(vec![]);
        assert!(w.append_file(&Entry::file(b"x", 10), &b"short"[..]).is_err());
    }
}
