use super::*;
use crate::archive::tarfile::{self, EntryKind, TarWriter};

/// A header block of GNU or ustar format with its checksum.
fn block(magic: &[u8; 8], flag: u8, name: &str, size: u64) -> [u8; BLOCK] {
    let mut b = [0; BLOCK];
    b[..name.len()].copy_from_slice(name.as_bytes());
    b[100..107].copy_from_slice(b"0000644");
    b[108..115].copy_from_slice(b"0000000");
    b[116..123].copy_from_slice(b"0000000");
    b[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    b[136..147].copy_from_slice(b"00000000001");
    b[156] = flag;
    b[257..265].copy_from_slice(magic);
    sealed(b)
}

fn sealed(mut b: [u8; BLOCK]) -> [u8; BLOCK] {
    b[148..156].fill(b' ');
    let sum: u32 = b.iter().map(|x| u32::from(*x)).sum();
    b[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    b
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    out.resize(data.len().next_multiple_of(BLOCK), 0);
    out
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        data.extend(format!("{length} {key}={value}\n").as_bytes());
    }
    [block(USTAR, b'x', "pax", data.len() as u64).to_vec(), padded(&data)].concat()
}

const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";
const V7: &[u8; 8] = b"\0\0\0\0\0\0\0\0";

fn read(parts: &[&[u8]]) -> Result<Vec<(Entry, Vec<u8>)>, Error> {
    let data = parts.concat();
    let mut reader = Reader::new(data.as_slice());
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.copy(reader.left, &mut data)?;
        out.push((entry, data));
    }
    Ok(out)
}

fn one(parts: &[&[u8]]) -> (Entry, Vec<u8>) {
    let mut all = read(parts).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn old_archives_have_no_magic_and_mark_directories_by_a_slash() {
    let all = read(&[&block(V7, 0, "dir/", 0), &block(V7, 0, "dir/f", 3), &padded(b"abc")]).unwrap();
    assert_eq!((all[0].0.kind, all[1].0.kind), (Type::Dir, Type::File));
    assert_eq!(all[1].1, b"abc");
}

#[test]
fn prefixes_count_in_posix_headers_only() {
    let with_prefix = |magic| {
        let mut b = block(magic, b'0', "name", 0);
        b[345..348].copy_from_slice(b"pre");
        sealed(b)
    };
    assert_eq!(one(&[&with_prefix(USTAR)]).0.name, b"pre/name");
    assert_eq!(one(&[&with_prefix(GNU)]).0.name, b"name");
}

#[test]
fn gnu_long_names_replace_the_short_ones() {
    let name = "n".repeat(300);
    let link = "l".repeat(200);
    let long = |flag, text: &str| {
        [block(GNU, flag, "././@LongLink", text.len() as u64 + 1).to_vec(), padded(text.as_bytes())].concat()
    };
    let (entry, _) = one(&[&long(b'L', &name), &long(b'K', &link), &block(GNU, b'2', "short", 0)]);
    assert_eq!((entry.name, entry.link), (name.into_bytes(), link.into_bytes()));
}

#[test]
fn pax_records_win_and_are_for_one_entry_only() {
    let head = pax(&[
        ("path", "long/näme"),
        ("uid", "3000000"),
        ("mtime", "-1.5"),
        ("size", "3"),
        ("SCHILY.xattr.user.a", "b=c\nd"),
    ]);
    let all = read(&[&head, &block(USTAR, b'0', "short", 0), &padded(b"abc"), &block(USTAR, b'0', "next", 0)]).unwrap();
    let entry = &all[0].0;
    assert_eq!(entry.name, "long/näme".as_bytes());
    assert_eq!((entry.uid, entry.gid, entry.size), (3_000_000, 0, 3));
    assert_eq!(entry.mtime, Time { sec: -2, nsec: 500_000_000 });
    assert_eq!(entry.xattrs.get(b"user.a".as_slice()).unwrap(), b"b=c\nd");
    assert_eq!(all[0].1, b"abc");
    assert_eq!((all[1].0.name.as_slice(), all[1].0.uid), (b"next".as_slice(), 0));
}

#[test]
fn global_records_never_name_files() {
    let mut head = pax(&[("path", "evil"), ("size", "9"), ("uid", "7"), ("comment", "x")]);
    head[156] = b'g';
    let fixed = sealed(head[..BLOCK].try_into().unwrap());
    head[..BLOCK].copy_from_slice(&fixed);
    let (entry, data) = one(&[&head, &block(USTAR, b'0', "f", 3), &padded(b"abc")]);
    assert_eq!((entry.name.as_slice(), entry.uid, data.as_slice()), (b"f".as_slice(), 7, b"abc".as_slice()));
}

#[test]
fn base_256_numbers() {
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
    assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
    assert_eq!(number(&[0x80, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Some(2 << 56));
    assert_eq!(number(&[0x80, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), None, "more than 63 bits");
    assert_eq!(number(b" 644 \0\0"), Some(0o644));
    assert_eq!(number(b"\0\0\0"), Some(0));
    assert_eq!(number(b"12a\0"), None);
}

#[test]
fn sparse_files_of_all_formats_mean_the_same() {
    let want = Some(vec![Segment { offset: 512, length: 3 }, Segment { offset: 2048, length: 2 }]);
    let check = |(entry, data): (Entry, Vec<u8>)| {
        assert_eq!(entry.name, b"f");
        assert_eq!((entry.size, &entry.sparse, data.as_slice()), (4096, &want, b"abcde".as_slice()));
    };

    let mut old = block(GNU, b'S', "f", 5);
    for (at, value) in [(386, 512), (398, 3), (410, 2048), (422, 2), (434, 4096), (446, 0), (483, 4096)] {
        old[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    }
    check(one(&[&sealed(old), &padded(b"abcde")]));

    // The same with its parts in a further block.
    let mut old = block(GNU, b'S', "f", 5);
    old[482] = 1;
    old[483..494].copy_from_slice(format!("{:011o}", 4096).as_bytes());
    let mut more = [0; BLOCK];
    for (at, value) in [(0, 512), (12, 3), (24, 2048), (36, 2)] {
        more[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    }
    check(one(&[&sealed(old), &more, &padded(b"abcde")]));

    let v00 = pax(&[
        ("GNU.sparse.size", "4096"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "512"),
        ("GNU.sparse.numbytes", "3"),
        ("GNU.sparse.offset", "2048"),
        ("GNU.sparse.numbytes", "2"),
    ]);
    check(one(&[&v00, &block(USTAR, b'0', "f", 5), &padded(b"abcde")]));

    let v01 = pax(&[("GNU.sparse.size", "4096"), ("GNU.sparse.name", "f"), ("GNU.sparse.map", "512,3,2048,2")]);
    check(one(&[&v01, &block(USTAR, b'0', "GNUSparseFile.0/f", 5), &padded(b"abcde")]));

    let v10 = pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "f"),
        ("GNU.sparse.realsize", "4096"),
    ]);
    let map = padded(b"2\n512\n3\n2048\n2\n");
    check(one(&[&v10, &block(USTAR, b'0', "GNUSparseFile.0/f", 512 + 5), &map, &padded(b"abcde")]));
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for map in ["512,3,100,2", "512,3,4095,2", "512,3", "512", "0,18446744073709551615", "x,y"] {
        let head = pax(&[("GNU.sparse.size", "4096"), ("GNU.sparse.map", map)]);
        let result = read(&[&head, &block(USTAR, b'0', "f", 5), &padded(b"abcde")]);
        assert!(matches!(result, Err(Error::Malformed(_))), "{map}: {result:?}");
    }
    let head = pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "1")]);
    let result = read(&[&head, &block(USTAR, b'0', "f", 512), &padded(b"99999999\n")]);
    assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
}

#[test]
fn huge_extended_headers_are_refused_before_they_are_read() {
    for flag in [b'x', b'g', b'L', b'K'] {
        let result = read(&[&block(GNU, flag, "x", MAX_EXTENDED + 1)]);
        assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
    }
}

#[test]
fn damage_is_found() {
    let good = block(USTAR, b'0', "f", 3);
    let mut bad = good;
    bad[0] = b'g';
    assert!(matches!(read(&[&bad]), Err(Error::Malformed(_))), "checksum");
    assert!(matches!(read(&[&good, b"ab"]), Err(Error::Malformed(_))), "data cut off");
    assert!(matches!(read(&[&good[..100]]), Err(Error::Malformed(_))), "header cut off");
    assert!(matches!(read(&[&block(USTAR, b'Z', "f", 0)]), Err(Error::Unsupported(_))), "type");
    for record in ["5 a=b\n", "0 a=b\n", "6 a=bb\n", "x a=b\n", "6 =bb\n", "99 a=b\n"] {
        let head = [block(USTAR, b'x', "p", record.len() as u64).to_vec(), padded(record.as_bytes())].concat();
        assert!(matches!(read(&[&head, &good]), Err(Error::Malformed(_))), "{record:?}");
    }
    assert_eq!(read(&[&padded(b"")]).unwrap().len(), 0, "no block at all is an empty archive");
}

#[test]
fn what_the_writer_writes_is_read_back() {
    let xattrs: Xattrs = [(b"user.x".to_vec(), vec![0, 255, b'\n']), (b"security.capability".to_vec(), vec![1])].into();
    let long = vec![b'x'; 500];
    let base = tarfile::Entry { mode: 0o4755, uid: 1, gid: 2, mtime: 5, ..tarfile::Entry::file(b"", 0) };
    let entries = [
        (tarfile::Entry { kind: EntryKind::Dir, ..base }, Type::Dir),
        (tarfile::Entry { path: b"plain", xattrs: Some(&xattrs), ..base }, Type::File),
        (tarfile::Entry { path: &long, kind: EntryKind::Symlink(&long), ..base }, Type::Symlink),
        (tarfile::Entry { path: b"bad\xff\xfename", uid: u32::MAX - 1, mtime: -7, ..base }, Type::File),
        (
            tarfile::Entry { path: b"dev", kind: EntryKind::Block(4095, 1_048_575), mtime: 1 << 40, ..base },
            Type::Block(4095, 1_048_575),
        ),
        (tarfile::Entry { path: b"hard", kind: EntryKind::Hardlink(b"bad\xff\xfename"), ..base }, Type::Hardlink),
        (tarfile::Entry { path: b"pipe", kind: EntryKind::Fifo, ..base }, Type::Fifo),
    ];
    let mut tar = TarWriter::new(Vec::new());
    for (entry, _) in &entries {
        tar.append(entry).unwrap();
    }
    let back = read(&[&tar.finish().unwrap()]).unwrap();
    assert_eq!(back.len(), entries.len());
    for ((got, _), (want, kind)) in back.iter().zip(&entries) {
        let link = match want.kind {
            EntryKind::Symlink(link) | EntryKind::Hardlink(link) => link,
            _ => b"",
        };
        assert_eq!(got.name, if want.path.is_empty() { b"./" } else { want.path });
        assert_eq!((got.link.as_slice(), got.kind, got.mode), (link, *kind, want.mode));
        assert_eq!((got.uid, got.gid, got.mtime), (want.uid, want.gid, Time::seconds(want.mtime)));
        assert_eq!(&got.xattrs, want.xattrs.unwrap_or(&Xattrs::new()));
    }
}

#[test]
fn an_archive_may_end_with_the_last_byte_of_a_file() {
    let whole = [&block(b"ustar\x0000", b'0', "a", 700)[..], &padded(&[7; 700])].concat();
    let read = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes);
        let name = reader.next_entry()?.expect("an entry").name;
        assert!(reader.next_entry()?.is_none());
        Ok::<_, Error>(name)
    };
    // Without what marks the end, and without what fills the last block up.
    for length in [whole.len(), BLOCK + 700, BLOCK + 900] {
        assert_eq!(read(&whole[..length]).unwrap(), b"a", "{length}");
    }
    for length in [BLOCK + 699, BLOCK, BLOCK - 1] {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
}
