//! The layers are read by a small reader of their formats that shares nothing with the writer.

use super::*;
use crate::archive::Xattrs;
use crate::archive::tarfile::{Entry, EntryKind};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::collections::HashMap;

fn noise(len: usize) -> Vec<u8> {
    let mut x = 88_172_645_463_325_252u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    // Half of it repeats, so that compression has something to do.
    (0..len).map(|i| if i % 2 == 0 { next() } else { b'a' }).collect()
}

/// Files of all kinds, one of which is longer than two chunks of either format and has a hole.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut big = noise(9 << 20);
    big[(2 << 20)..(4 << 20)].fill(0);
    vec![("d/big", big), ("d/chunk", noise(4 << 20)), ("empty", vec![]), ("small", b"hello".to_vec())]
}

fn layer() -> Vec<u8> {
    let xattrs: Xattrs = [(b"user.a".to_vec(), b"\xff\0".to_vec())].into();
    let mut w = TarWriter::new(vec![]);
    w.append(&Entry { mtime: 1_600_000_000, ..Entry::dir(b"d") }).unwrap();
    for (name, content) in files() {
        let entry =
            Entry { uid: 7, mtime: 5, xattrs: Some(&xattrs), ..Entry::file(name.as_bytes(), content.len() as u64) };
        w.append_file(&entry, &content[..]).unwrap();
    }
    w.append(&Entry { kind: EntryKind::Hardlink(b"small"), ..Entry::file(b"hard", 0) }).unwrap();
    w.append(&Entry { kind: EntryKind::Symlink("zü".as_bytes()), ..Entry::file(b"soft", 0) }).unwrap();
    w.append(&Entry { kind: EntryKind::Char(1, 3), ..Entry::file(b"null", 0) }).unwrap();
    w.append(&Entry::file(b"d/.wh.gone", 0)).unwrap();
    w.append(&Entry::file("ü".repeat(90).as_bytes(), 0)).unwrap();
    w.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

/// One member, and nothing of what follows it.
fn member(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

fn unzstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::decode_all(bytes).unwrap()
}

/// Runs a program on standard input.
fn through(program: &str, input: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, input).unwrap();
    let out = std::process::Command::new(program)
        .arg("-dc")
        .stdin(std::fs::File::open(path).unwrap())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// The rows of a table, by name, with the parts of a file together.
fn by_name(toc: &Value) -> HashMap<String, Vec<Value>> {
    assert_eq!(toc["version"], 1);
    let mut rows: HashMap<String, Vec<Value>> = HashMap::new();
    for row in toc["entries"].as_array().unwrap() {
        rows.entry(row["name"].as_str().unwrap().to_owned()).or_default().push(row.clone());
    }
    rows
}

/// What both tables say of things that are no plain files.
fn check_others(rows: &HashMap<String, Vec<Value>>) {
    let one = |name: &str| match rows[name].as_slice() {
        [row] => row.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(
        one("d/"),
        serde_json::json!({"type": "dir", "name": "d/", "mode": 0o755, "modtime": "2020-09-13T12:26:40Z"})
    );
    assert_eq!((one("hard")["type"].as_str(), one("hard")["linkName"].as_str()), (Some("hardlink"), Some("small")));
    assert_eq!((one("soft")["type"].as_str(), one("soft")["linkName"].as_str()), (Some("symlink"), Some("zü")));
    assert_eq!((one("null")["devMajor"].as_u64(), one("null")["devMinor"].as_u64()), (Some(1), Some(3)));
    assert_eq!(one("d/.wh.gone")["type"], "reg");
    assert_eq!(one(&"ü".repeat(90))["type"], "reg");
    let small = one("small");
    assert_eq!((small["uid"].as_u64(), small["modtime"].as_str()), (Some(7), Some("1970-01-01T00:00:05Z")));
    assert_eq!(small["xattrs"]["user.a"], STANDARD.encode(b"\xff\0"));
}

type Make = fn(&[u8], &mut Vec<u8>, Option<u32>, usize) -> Result<Indexed, Error>;

fn written(make: Make, tar: &[u8]) -> (Vec<u8>, Indexed) {
    let mut out = vec![];
    let indexed = make(tar, &mut out, None, 2).unwrap();
    (out, indexed)
}

fn as_estargz(tar: &[u8], out: &mut Vec<u8>, level: Option<u32>, threads: usize) -> Result<Indexed, Error> {
    estargz(tar, out, level, threads)
}

fn as_zstd(tar: &[u8], out: &mut Vec<u8>, level: Option<u32>, threads: usize) -> Result<Indexed, Error> {
    zstd_chunked(tar, out, level, threads)
}

#[test]
fn every_file_of_an_estargz_layer_can_be_read_alone() {
    let (blob, indexed) = written(as_estargz, &layer());
    let footer = &blob[blob.len() - 51..];
    assert_eq!((&footer[..4], &footer[10..16]), (&[0x1f, 0x8b, 8, 4][..], &b"\x1a\0SG\x16\0"[..]));
    assert_eq!((&footer[32..38], member(footer)), (&b"STARGZ"[..], vec![]));
    let at = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    // The table is the last entry, in a member of its own.
    let tail = member(&blob[at..]);
    let mut archive = tar::Archive::new(&tail[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path_bytes().as_ref(), b"stargz.index.json");
    let mut json = vec![];
    entry.read_to_end(&mut json).unwrap();
    assert!(tail.ends_with(&[0; 1024]));
    assert_eq!(indexed.annotations[ESTARGZ_TOC], digest(&json));

    let rows = by_name(&serde_json::from_slice(&json).unwrap());
    check_others(&rows);
    let expected = files().into_iter().chain([(".no.prefetch.landmark", vec![0xf])]);
    for (name, content) in expected {
        let parts = &rows[name];
        assert_eq!(parts[0]["digest"], digest(&content), "{name}");
        assert_eq!(parts[0]["size"].as_u64().unwrap_or(0), content.len() as u64);
        let count = content.len().div_ceil(4 << 20);
        assert_eq!(parts.len(), count.max(1), "{name}");
        let mut seen = vec![];
        for (n, part) in parts.iter().enumerate().filter(|_| !content.is_empty()) {
            assert_eq!(part["type"], if n == 0 { "reg" } else { "chunk" });
            assert_eq!(part["chunkOffset"].as_u64().unwrap_or(0), seen.len() as u64);
            let size = part["chunkSize"].as_u64().unwrap_or(0) as usize;
            assert_eq!(size == 0, n + 1 == count, "only the last one goes to the end");
            let offset = part["offset"].as_u64().unwrap() as usize;
            let size = if size == 0 { content.len() - seen.len() } else { size };
            let chunk = member(&blob[offset..])[..size].to_vec();
            assert_eq!(part["chunkDigest"], digest(&chunk));
            seen.extend(chunk);
        }
        assert!(seen == content, "{name}");
    }

    // For others it is a layer in gzip, with two files more.
    let tar = gunzip(&blob);
    assert!(through("gzip", &blob) == tar);
    assert_eq!(indexed.diff_id.0, Digest::of(&tar));
    assert_eq!(indexed.annotations[ESTARGZ_SIZE], tar.len().to_string());
    let names = |tar: &[u8]| -> Vec<Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        archive.entries().unwrap().map(|e| e.unwrap().path_bytes().into_owned()).collect()
    };
    let expected = [vec![NO_PREFETCH.into()], names(&layer()), vec![TOC_NAME.into()]].concat();
    assert_eq!(names(&tar), expected);
    // Made of one that is one already, it is the same.
    assert!(written(as_estargz, &tar).0 == blob);
}

/// The data of a skippable frame, and what is behind it.
fn skippable(bytes: &[u8]) -> (&[u8], &[u8]) {
    assert_eq!(bytes[..4], 0x184d_2a50u32.to_le_bytes());
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    bytes[8..].split_at(length)
}

#[test]
fn every_file_of_a_zstd_chunked_layer_can_be_read_alone() {
    let tar = layer();
    let (blob, indexed) = written(as_zstd, &tar);
    assert!(unzstd(&blob) == tar);
    assert!(through("zstd", &blob) == tar);
    assert_eq!(indexed.diff_id.0, Digest::of(&tar));

    let numbers =
        |name: &str| -> Vec<usize> { indexed.annotations[name].split(':').map(|n| n.parse().unwrap()).collect() };
    let [toc_at, toc_length, toc_text, 1] = numbers(ZSTD_POSITION)[..] else { panic!() };
    let [split_at, split_length, split_text] = numbers(ZSTD_TAR_SPLIT)[..] else { panic!() };
    let (toc, rest) = skippable(&blob[toc_at - 8..]);
    let (split, rest) = skippable(rest);
    let (footer, rest) = skippable(rest);
    assert!(rest.is_empty() && footer.len() == 64 && footer.ends_with(b"GNUlInUx"));
    let words: Vec<usize> =
        footer[..56].chunks(8).map(|w| u64::from_le_bytes(w.try_into().unwrap()) as usize).collect();
    assert_eq!(words, [toc_at, toc_length, toc_text, 1, split_at, split_length, split_text]);
    assert_eq!((toc.len(), split.len()), (toc_length, split_length));
    assert!(std::ptr::eq(split, &blob[split_at..split_at + split_length]));
    assert_eq!(indexed.annotations[ZSTD_CHECKSUM], digest(toc));
    let (json, lines) = (unzstd(toc), unzstd(split));
    assert_eq!((json.len(), lines.len()), (toc_text, split_text));
    let toc: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(toc["tarSplitDigest"], digest(split));

    let rows = by_name(&toc);
    check_others(&rows);
    let contents: HashMap<&str, Vec<u8>> = files().into_iter().collect();
    for (name, content) in &contents {
        let parts = &rows[*name];
        if content.is_empty() {
            assert_eq!((&parts[0]["digest"], &parts[0]["offset"], parts.len()), (&Value::Null, &Value::Null, 1));
            continue;
        }
        assert_eq!(parts[0]["digest"], digest(content), "{name}");
        let end = parts[0]["endOffset"].as_u64().unwrap() as usize;
        let offset = |n: usize| parts.get(n).map_or(end, |p| p["offset"].as_u64().unwrap() as usize);
        let mut seen = vec![];
        for (n, part) in parts.iter().enumerate() {
            let chunk = unzstd(&blob[offset(n)..offset(n + 1)]);
            if parts.len() > 1 {
                assert_eq!(part["chunkOffset"].as_u64().unwrap_or(0), seen.len() as u64);
                assert_eq!(part["chunkSize"].as_u64().unwrap(), chunk.len() as u64);
                assert_eq!(part["chunkDigest"], digest(&chunk));
                let zeros = chunk.iter().all(|b| *b == 0);
                assert_eq!(part["chunkType"].as_str(), zeros.then_some("zeros"));
            }
            seen.extend(chunk);
        }
        assert!(seen == *content, "{name}");
    }
    assert!(rows["d/big"].iter().filter(|r| r["chunkType"] == "zeros").count() == 2);

    // With the files, the headers make the tar again.
    let mut again = vec![];
    for (n, line) in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).enumerate() {
        let line: Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["position"].as_u64(), Some(n as u64));
        let payload = line["payload"].as_str().map(|p| STANDARD.decode(p).unwrap());
        match line["type"].as_u64().unwrap() {
            1 => match line["size"].as_u64() {
                Some(_) => {
                    let content = &contents[line["name"].as_str().unwrap()];
                    let mut crc = toc::Crc64::new();
                    crc.update(content);
                    assert_eq!(payload.unwrap(), crc.sum().to_be_bytes());
                    again.extend_from_slice(content);
                }
                None => assert_eq!(payload, None),
            },
            _ => again.extend(payload.unwrap()),
        }
    }
    assert!(again == tar);
}

#[test]
fn bytes_depend_on_the_tar_and_the_level_alone() {
    let tar = layer();
    for make in [as_estargz, as_zstd] {
        let of = |level, threads| {
            let mut out = vec![];
            make(&tar, &mut out, level, threads).unwrap();
            out
        };
        let one = of(None, 1);
        assert!(one == of(None, 2) && one == of(None, 5));
        assert!(one != of(Some(9), 1));
    }
}

#[test]
fn what_a_table_cannot_say_is_said() {
    let of = |names: &[&[u8]]| {
        let mut w = TarWriter::new(vec![]);
        names.iter().for_each(|n| w.append_bytes(n, b"x").unwrap());
        w.finish().unwrap()
    };
    for make in [as_estargz, as_zstd] {
        let why = |tar: &[u8]| match make(tar, &mut vec![], None, 1) {
            Err(Error::Unfit(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(&of(&[b"a", b"\xff"])), "the name `\\xff` in it is not UTF-8");
        assert_eq!(why(&of(&[b"a", b"./a"])), "`./a` is in it twice");
        assert!(matches!(make(&of(&[b"a"])[..700], &mut vec![], None, 1), Err(Error::Archive(_))));
    }
}

#[test]
fn an_empty_layer_is_one_too() {
    let tar = TarWriter::new(vec![]).finish().unwrap();
    assert!(unzstd(&written(as_zstd, &tar).0) == tar);
    let (blob, indexed) = written(as_estargz, &tar);
    assert_eq!(indexed.diff_id.0, Digest::of(gunzip(&blob)));
}
