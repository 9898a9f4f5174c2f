//! Databases are made by Python's `sqlite3`, so that the reader is not tested against its own idea of the format.

use super::*;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A header with these tags: numbers of type INT32, texts of type STRING.
fn header(texts: &[(u32, &str)], epoch: Option<u32>, padding: usize) -> Vec<u8> {
    let mut index = vec![];
    let mut data = vec![];
    let mut entry = |tag: u32, kind: u32, bytes: &[u8]| {
        let offset = u32::try_from(data.len()).unwrap();
        index.extend([tag, kind, offset, 1].map(u32::to_be_bytes).concat());
        data.extend_from_slice(bytes);
    };
    epoch.into_iter().for_each(|n| entry(header::EPOCH, 4, &n.to_be_bytes()));
    texts.iter().for_each(|(tag, text)| entry(*tag, 6, &[text.as_bytes(), b"\0"].concat()));
    entry(9999, 7, &vec![0xab; padding]);
    let lengths = [index.len() / 16, data.len()].map(|n| u32::try_from(n).unwrap().to_be_bytes());
    [lengths.concat(), index, data].concat()
}

fn bash() -> Vec<u8> {
    let texts = [
        (header::NAME, "bash"),
        (header::VERSION, "5.2.15"),
        (header::RELEASE, "3.fc38"),
        (header::ARCH, "x86_64"),
        (header::LICENSE, "GPLv3+"),
        (header::SOURCE_RPM, "shell-5.2.15-3.fc38.src.rpm"),
    ];
    header(&texts, Some(1), 0)
}

#[test]
fn a_header_is_a_package() {
    let package = package(&bash()).unwrap();
    assert_eq!((package.name.as_str(), package.version.as_str()), ("bash", "1:5.2.15-3.fc38"));
    assert_eq!((package.arch.as_deref(), package.source.as_deref()), (Some("x86_64"), Some("shell")));
    assert_eq!(package.licence.as_deref(), Some("GPLv3+"));
    let key = header(&[(header::NAME, "gpg-pubkey"), (header::VERSION, "1")], None, 0);
    assert!(super::package(&key).is_none(), "a key is no package");
    for cut in 0..bash().len() {
        assert!(super::package(&bash()[..cut]).is_none());
    }
    for at in 0..bash().len() {
        let mut bytes = bash();
        bytes[at] = 0xff;
        let _ = super::package(&bytes);
    }
}

/// A database of these rows; `None` where there is no Python.
fn database(dir: &Path, rows: &[Vec<u8>], page_size: u32) -> Option<File> {
    const SCRIPT: &str = "\
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute('PRAGMA page_size=' + sys.argv[2])
db.execute('CREATE TABLE \"Name\" (key TEXT NOT NULL, hnum INTEGER NOT NULL)')
db.execute('CREATE TABLE \"Packages\" (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)')
for line in sys.stdin:
    db.execute('INSERT INTO Packages (blob) VALUES (?)', (bytes.fromhex(line.strip()),))
db.commit()
db.close()
";
    let path = dir.join(format!("rpmdb-{page_size}.sqlite"));
    let input = dir.join("rows");
    std::fs::write(&input, rows.iter().map(|row| hex::encode(row) + "\n").collect::<String>()).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(&path).arg(page_size.to_string()).stdin(File::open(&input).unwrap());
    match python.status() {
        Ok(status) if status.success() => Some(File::options().read(true).write(true).open(&path).unwrap()),
        _ => None,
    }
}

fn read(file: &File) -> (usize, Vec<Vec<u8>>) {
    let (mut found, size) = (vec![], file.metadata().unwrap().len());
    let result = sqlite::rows::<()>(file.try_clone().unwrap(), size, "Packages", &mut |blob| {
        found.push(blob.to_vec());
        Ok(())
    });
    (usize::from(result.is_err()), found)
}

#[test]
fn rows_come_back_whatever_the_size_of_pages() {
    let dir = tempfile::tempdir().unwrap();
    // From nothing to many overflow pages, and enough rows for pages above the leaves.
    let rows: Vec<Vec<u8>> = (0..600).map(|n| header(&[(header::NAME, "x")], None, n * n / 4)).collect();
    for page_size in [512, 4096, 65536] {
        let Some(file) = database(dir.path(), &rows, page_size) else {
            assert!(std::env::var_os("CI").is_none(), "this test must run under CI, but there is no python3");
            eprintln!("skipped: there is no python3");
            return;
        };
        let (failed, found) = read(&file);
        assert!(failed == 0 && found == rows, "{page_size}: {} rows", found.len());
    }
}

#[test]
fn damage_ends_the_reading_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<u8>> = (0..20).map(|n| header(&[(header::NAME, "x")], None, n * 40)).collect();
    let Some(file) = database(dir.path(), &rows, 512) else { return };
    let size = file.metadata().unwrap().len();
    let mut byte = [0];
    for at in (0..size).step_by(7) {
        file.read_exact_at(&mut byte, at).unwrap();
        for bad in [0, 1, 5, 0xff] {
            file.write_all_at(&[bad], at).unwrap();
            let (_, found) = read(&file);
            assert!(found.iter().map(Vec::len).sum::<usize>() as u64 <= size);
        }
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(read(&file).1, rows);
}
