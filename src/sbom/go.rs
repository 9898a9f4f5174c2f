//! What Go's linker writes into every program: the modules that it was built from.
//!
//! The section `.go.buildinfo` begins with a magic; since Go 1.18 the version of Go and the list of modules follow as two
//! texts with their lengths. Format: package `debug/buildinfo` of Go. Programs of older versions are left out.

use super::{Ecosystem, Package};
use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Set in the flags where the texts follow at once.
const INLINE: u8 = 2;
/// Longest list of modules that is read, in bytes.
const MAX_TEXT: usize = 4 << 20;
/// Most sections that are looked at.
const MAX_SECTIONS: u64 = 4096;

/// The modules of a program; `None` where it is not one of Go's.
pub(super) fn modules(file: &File) -> Option<Vec<Package>> {
    let (offset, size) = section(file)?;
    let size = usize::try_from(size).ok()?.min(MAX_TEXT);
    let mut data = vec![0; size];
    file.read_exact_at(&mut data, offset).ok()?;
    if !data.starts_with(MAGIC) || data.get(15)? & INLINE == 0 {
        return None;
    }
    let (version, rest) = text(data.get(32..)?)?;
    let (modules, _) = text(rest)?;
    Some(parse(version, modules))
}

/// A text with its length before it, and what follows.
fn text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    // Four bytes are more than any list needs.
    let last = data.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = data.split_at_checked(last + 1)?;
    let length = number.iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
    rest.split_at_checked(length)
}

fn parse(version: &[u8], modules: &[u8]) -> Vec<Package> {
    // Sixteen bytes before and after mark the list for the program itself.
    let modules = match modules.len() {
        n if n >= 33 && modules.get(n - 17) == Some(&b'\n') => modules.get(16..n - 16).unwrap_or_default(),
        _ => modules,
    };
    let version = String::from_utf8_lossy(version);
    let mut all = vec![];
    if let Some(number) = version.split_whitespace().next().and_then(|v| v.strip_prefix("go")) {
        all.push(Package::new(Ecosystem::Golang, "stdlib", number));
    }
    for line in String::from_utf8_lossy(modules).lines() {
        let mut words = line.split('\t');
        let (kind, path, version) = (words.next(), words.next(), words.next().unwrap_or_default());
        // `(devel)`: built from a directory.
        let version = if version.starts_with('(') { "" } else { version };
        match (kind, path) {
            (Some("mod" | "dep"), Some(path)) => all.push(Package::new(Ecosystem::Golang, path, version)),
            // In place of the line before.
            (Some("=>"), Some(path)) => {
                all.pop();
                all.push(Package::new(Ecosystem::Golang, path, version));
            }
            _ => {}
        }
    }
    all
}

/// Offset and size of `.go.buildinfo` in an ELF file.
fn section(file: &File) -> Option<(u64, u64)> {
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let elf = Elf { wide: head[4] == 2, little: head[5] == 1 };
    let (table, names_at) = if elf.wide { (0x28, 0x3e) } else { (0x20, 0x32) };
    let table = elf.word(&head, table)?;
    let (entry, count) = (elf.number(&head, names_at - 4, 2)?, elf.number(&head, names_at - 2, 2)?);
    let names = elf.number(&head, names_at, 2)?;
    if count > MAX_SECTIONS || entry < if elf.wide { 64 } else { 40 } {
        return None;
    }
    let header = |n: u64| {
        let mut bytes = [0; 64];
        let length = if elf.wide { 64 } else { 40 };
        file.read_exact_at(bytes.get_mut(..length)?, table.checked_add(n.checked_mul(entry)?)?).ok()?;
        Some(bytes)
    };
    let place = |header: &[u8; 64]| {
        let (offset, size) = if elf.wide { (0x18, 0x20) } else { (0x10, 0x14) };
        Some((elf.word(header, offset)?, elf.word(header, size)?))
    };
    let (names, _) = place(&header(names)?)?;
    const NAME: &[u8] = b".go.buildinfo\0";
    for n in 0..count {
        let header = header(n)?;
        let mut name = [0; NAME.len()];
        let at = names.checked_add(elf.number(&header, 0, 4)?)?;
        if file.read_exact_at(&mut name, at).is_ok() && name == NAME {
            return place(&header);
        }
    }
    None
}

/// How numbers are written in an ELF file.
struct Elf {
    wide: bool,
    little: bool,
}

impl Elf {
    fn number(&self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(at..at + length)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    }

    fn word(&self, bytes: &[u8], at: usize) -> Option<u64> {
        self.number(bytes, at, if self.wide { 8 } else { 4 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A little-endian ELF64 file of two sections: names, and the list of modules.
    fn program(data: &[u8]) -> File {
        let names = b"\0.go.buildinfo\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (names_at, data_at) = (64, 64 + names.len());
        let table = data_at + data.len();
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&2u16.to_le_bytes());
        elf.extend_from_slice(names);
        elf.extend_from_slice(data);
        for (name, at, size) in [(0u32, names_at, names.len()), (1, data_at, data.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&elf).unwrap();
        file
    }

    #[test]
    fn modules_are_read_out_of_a_program() {
        let list = "path\texample.org/m\nmod\texample.org/m\t(devel)\ndep\texample.org/a\tv1.0.0\th1:x\n\
                    dep\texample.org/b\tv1.0.0\n=>\texample.org/c\tv2.0.0\th1:y\nbuild\t-x=1\n";
        let list = [&[0u8; 16][..], list.as_bytes(), &[1; 16]].concat();
        let mut data = MAGIC.to_vec();
        data.extend([8, 2]);
        data.resize(32, 0);
        data.extend([8]);
        data.extend(b"go1.21.5");
        data.extend([(list.len() & 0x7f) as u8 | 0x80, (list.len() >> 7) as u8]);
        data.extend(&list);
        let all = modules(&program(&data)).unwrap();
        let short: Vec<_> = all.iter().map(|p| format!("{}@{}", p.name, p.version)).collect();
        assert_eq!(short, ["stdlib@1.21.5", "example.org/m@", "example.org/a@v1.0.0", "example.org/c@v2.0.0"]);
        for cut in 0..data.len() {
            assert!(modules(&program(&data[..cut])).is_none(), "{cut} bytes");
        }
    }
}
