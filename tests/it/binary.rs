//! The program is one static file, and a small one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is shipped (`cargo build --profile dist`) must not be larger, in bytes.
const LARGEST: u64 = 25 * 1024 * 1024;

const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// Types of the program headers of a 64-bit little-endian ELF file.
fn program_headers(elf: &[u8]) -> Vec<u32> {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file");
    let number = |at: usize, width: usize| -> usize {
        elf[at..at + width].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).map(|i| number(table + i * size, 4) as u32).collect()
}

/// Where the shipped form lies, if somebody built it.
fn dist() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("RBUILD_DIST") {
        return Some(named.into());
    }
    // .../<target>/<profile>/rbuild
    let built = Path::new(RBUILD).parent()?.parent()?.join("dist/rbuild");
    built.exists().then_some(built)
}

#[test]
fn it_is_static() {
    const PT_INTERP: u32 = 3;
    let headers = program_headers(&fs::read(RBUILD).expect("the built program"));
    assert!(!headers.is_empty() && !headers.contains(&PT_INTERP), "it asks for a dynamic loader: {headers:?}");
    let ldd = Command::new("ldd").arg(RBUILD).env("LC_ALL", "C").output().expect("cannot run ldd");
    let said = [ldd.stdout, ldd.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("statically linked") || said.contains("not a dynamic executable"), "ldd says: {said}");
}

#[test]
fn what_is_shipped_is_small() {
    let Some(path) = dist() else {
        eprintln!("skipped: no shipped form: `cargo build --profile dist` makes it, or RBUILD_DIST names it");
        return;
    };
    let size = fs::metadata(&path).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", path.display())).len();
    assert!(size <= LARGEST, "`{}` has {size} bytes, more than {LARGEST}", path.display());
    eprintln!("`{}` has {size} bytes", path.display());
}
