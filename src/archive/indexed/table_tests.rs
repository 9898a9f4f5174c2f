//! Tables are read as the writers make them; of others, none gets past its bounds.

use super::table::{Error, Item, Table, is_indexed, read};
use super::*;
use crate::archive::reader::Type;
use crate::archive::tarfile::{Entry, EntryKind};
use crate::oci::Descriptor;
use serde_json::{Value, json};

fn layer() -> Vec<(&'static str, Vec<u8>)> {
    let big = (0..9u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    vec![("d/big", big), ("empty", vec![]), ("small", b"hello".to_vec())]
}

fn tar() -> Vec<u8> {
    let mut w = TarWriter::new(vec![]);
    w.append(&Entry { mtime: 1_600_000_000, ..Entry::dir(b"d") }).unwrap();
    for (name, content) in layer() {
        let entry = Entry { uid: 7, mtime: -5, ..Entry::file(name.as_bytes(), content.len() as u64) };
        w.append_file(&entry, &content[..]).unwrap();
    }
    w.append(&Entry { kind: EntryKind::Symlink(b"small"), ..Entry::file(b"soft", 0) }).unwrap();
    w.finish().unwrap()
}

fn descriptor(blob: &[u8], annotations: BTreeMap<String, String>) -> Descriptor {
    Descriptor { annotations, ..Descriptor::of("x", blob) }
}

fn table_of(blob: &[u8], descriptor: &Descriptor) -> Result<Table, Error> {
    let fetch = |range: std::ops::Range<u64>| {
        let part = blob.get(range.start as usize..range.end as usize);
        part.map(<[u8]>::to_vec).ok_or_else(|| io::Error::other("no such part"))
    };
    read(descriptor, &fetch)
}

#[test]
fn the_writers_tables_lead_to_every_file() {
    let mut blobs = [vec![], vec![]];
    let first = estargz(&tar()[..], &mut blobs[0], None, 2).unwrap();
    let second = zstd_chunked(&tar()[..], &mut blobs[1], None, 2).unwrap();
    for (blob, written) in blobs.iter().zip([first, second]) {
        let descriptor = descriptor(blob, written.annotations);
        assert!(is_indexed(&descriptor));
        let table = table_of(blob, &descriptor).unwrap();
        assert_eq!(table.tail.is_some(), table.form == table::Form::Gzip);
        let item = |name: &str| table.items.iter().find(|i| i.entry.name == name.as_bytes()).unwrap();
        for (name, content) in layer() {
            let Item { entry, chunks } = item(name);
            assert_eq!((entry.size, entry.uid, entry.mtime.sec), (content.len() as u64, 7, -5), "{name}");
            let mut found = vec![];
            for chunk in chunks {
                assert_eq!(chunk.offset, found.len() as u64);
                // More of the blob than is needed, from somewhere before.
                let from = chunk.blob.start.saturating_sub(3);
                let bytes = &blob[from as usize..chunk.blob.end as usize];
                found.extend(chunk.data(table.form, from, bytes).unwrap());
                let other = table::Chunk { digest: Digest::of("x"), ..chunk.clone() };
                assert!(other.data(table.form, from, bytes).is_err(), "another digest");
                assert!(chunk.data(table.form, from, &bytes[..12]).is_err(), "cut off");
            }
            assert!(found == content, "{name}");
        }
        let soft = &item("soft").entry;
        assert_eq!((soft.kind, &soft.link[..], soft.size), (Type::Symlink, &b"small"[..], 0));
    }
}

/// A blob of nothing but a table, behind `size` bytes.
fn zstd_table(size: usize, table: &str) -> (Vec<u8>, Descriptor) {
    let packed = zstd::encode_all(table.as_bytes(), 3).unwrap();
    let blob = [vec![0; size], packed.clone()].concat();
    let position = format!("{size}:{}:{}:1", packed.len(), table.len());
    let annotations = [(ZSTD_CHECKSUM, Digest::of(&packed).to_string()), (ZSTD_POSITION, position)];
    let descriptor = descriptor(&blob, named(annotations));
    (blob, descriptor)
}

#[test]
fn chunks_of_others_need_not_be_like_ours() {
    let digest = Digest::of("x").to_string();
    // A member with two small files in it, rows without sizes of the last chunk, unknown members, attributes that are null.
    let rows = json!({"version": 1, "more": [1], "entries": [
        {"type": "reg", "name": "a", "size": 5, "offset": 10, "chunkDigest": digest, "xattrs": null, "userName": "x"},
        {"type": "reg", "name": "b", "size": 6, "offset": 10, "innerOffset": 517, "chunkSize": 4, "chunkDigest": digest},
        {"type": "chunk", "name": "b", "offset": 70, "chunkOffset": 4, "chunkDigest": digest},
        {"type": "reg", "name": "c", "modtime": "2020-09-13T12:26:40.5+00:00"},
        {"type": "dir", "name": "", "mode": 0o40755},
    ]});
    let (blob, descriptor) = zstd_table(90, &rows.to_string());
    let table = table_of(&blob, &descriptor).unwrap();
    let chunk = |item: usize, n: usize| {
        let c = &table.items[item].chunks[n];
        (c.offset, c.size, c.blob.clone(), c.skip)
    };
    assert_eq!([chunk(0, 0), chunk(1, 0), chunk(1, 1)], [(0, 5, 10..70, 0), (0, 4, 10..70, 517), (4, 2, 70..90, 0)]);
    let c = &table.items[2].entry.mtime;
    assert_eq!((c.sec, c.nsec, table.items[3].entry.mode), (1_600_000_000, 500_000_000, 0o755));
}

#[test]
fn tables_that_nobody_could_use_are_refused() {
    let digest = Digest::of("x").to_string();
    let good = json!({"type": "reg", "name": "a", "size": 5, "offset": 10, "chunkDigest": digest});
    let why = |entries: Value| {
        let (blob, descriptor) = zstd_table(90, &json!({"version": 1, "entries": entries}).to_string());
        match table_of(&blob, &descriptor) {
            Err(Error::Unusable(why)) => why,
            other => panic!("{entries} gives {other:?}"),
        }
    };
    let with = |name: &str, value: Value| {
        let mut row = good.clone();
        row[name] = value;
        why(json!([row]))
    };
    assert!(with("type", json!("socket")).contains("unknown type"));
    assert!(with("chunkDigest", json!("md5:0")).contains("without a digest"));
    assert!(with("offset", json!(90)).contains("behind the end"));
    assert!(with("offset", json!(u64::MAX)).contains("behind the end"));
    assert!(with("size", json!(1u64 << 40)).contains("too long"));
    assert!(with("innerOffset", json!(u64::MAX)).contains("too long"));
    assert!(with("chunkSize", json!(4)).contains("less or more"));
    assert!(with("chunkSize", json!(6)).contains("less or more"));
    assert!(with("chunkOffset", json!(1)).contains("do not make a file"));
    assert!(with("uid", json!(-1)).contains("invalid"));
    assert!(with("modtime", json!("yesterday")).contains("no time"));
    assert!(with("xattrs", json!({"user.a": "%"})).contains("base64"));
    assert!(with("name", json!("caf\u{fffd}")).contains("may be another one"));
    assert!(with("linkName", json!("caf\u{fffd}")).contains("may be another one"));
    let many: BTreeMap<String, &str> = (0..2000).map(|n| (n.to_string(), "")).collect();
    assert!(with("xattrs", json!(many)).contains("more than 1000 attributes"));
    let chunk = json!({"type": "chunk", "name": "b", "offset": 20, "chunkDigest": digest});
    assert!(why(json!([good, chunk])).contains("is not behind it"));
    assert!(why(json!([chunk])).contains("is not behind it"));
    let far = json!({"type": "reg", "name": "a", "size": 5, "offset": 95, "chunkDigest": digest, "endOffset": 1000});
    assert!(why(json!([far])).contains("behind the end"));
    let rows = vec![json!({"type": "dir", "name": "d"}); 100_001];
    assert!(why(json!(rows)).contains("more than 100000 rows"));

    for text in ["", "[]", "{\"version\":2,\"entries\":[]}", "{\"entries\":{}}", "{\"entries\":[]} x"] {
        let (blob, descriptor) = zstd_table(1, text);
        assert!(matches!(table_of(&blob, &descriptor), Err(Error::Unusable(_))), "{text}");
    }
    // Much from little, another digest, places outside.
    let (blob, descriptor) = zstd_table(1, &" ".repeat(17 << 20));
    assert!(matches!(table_of(&blob, &descriptor), Err(Error::Unusable(why)) if why.contains("16 MiB")));
    let (blob, descriptor) = zstd_table(1, "{}");
    for (name, value) in [
        (ZSTD_CHECKSUM, digest.as_str()),
        (ZSTD_POSITION, "0:1:1:2"),
        (ZSTD_POSITION, "1:18446744073709551615:1:1"),
        (ZSTD_POSITION, "nonsense"),
    ] {
        let mut other = descriptor.clone();
        other.annotations.insert(name.into(), value.into());
        assert!(table_of(&blob, &other).is_err(), "{name} {value}");
    }
}

#[test]
fn an_estargz_footer_is_not_trusted() {
    let mut blob = vec![];
    let written = estargz(&tar()[..], &mut blob, None, 2).unwrap();
    let descriptor = descriptor(&blob, written.annotations);
    assert!(table_of(&blob, &descriptor).is_ok());
    let (end, of) = (blob.len(), |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut blob = blob.clone();
        edit(&mut blob);
        table_of(&blob, &descriptor)
    });
    assert!(of(&|b| b[end - 51 + 16..end - 51 + 32].copy_from_slice(b"ffffffffffffffff")).is_err());
    assert!(of(&|b| b[end - 51 + 16..end - 51 + 32].copy_from_slice(b"0000000000000000")).is_err());
    assert!(of(&|b| b[end - 51 + 34] = b'X').is_err());
    let short = Descriptor { size: 50, ..descriptor.clone() };
    assert!(table_of(&blob, &short).is_err());
    let mut other = descriptor.clone();
    other.annotations.insert(ESTARGZ_TOC.into(), Digest::of("x").to_string());
    assert!(matches!(table_of(&blob, &other), Err(Error::Unusable(why)) if why.contains("where the manifest says")));
    // Files behind the table, which no digest but the layer's own is of.
    let at = usize::from_str_radix(std::str::from_utf8(&blob[end - 51 + 16..end - 51 + 32]).unwrap(), 16).unwrap();
    let mut tail = vec![];
    flate2::read::MultiGzDecoder::new(&blob[at..end - 51]).read_to_end(&mut tail).unwrap();
    tail.truncate(tail.len() - 1024);
    let mut more = TarWriter::new(vec![]);
    more.append_file(&Entry { uid: 7, mtime: -5, ..Entry::file(b"small", 5) }, &b"other"[..]).unwrap();
    tail.extend(more.finish().unwrap());
    let mut packed = flate2::write::GzEncoder::new(blob[..at].to_vec(), flate2::Compression::fast());
    packed.write_all(&tail).unwrap();
    let forged = [packed.finish().unwrap(), blob[end - 51..].to_vec()].concat();
    let size = forged.len() as u64;
    let forged = table_of(&forged, &Descriptor { size, ..descriptor.clone() });
    assert!(matches!(&forged, Err(Error::Unusable(why)) if why.contains("behind its table")), "{forged:?}");
}
