//! What is in the layers that leave the store.

use crate::harness::{Lab, User, busybox_is_missing, require};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

/// One entry of a layer.
#[derive(Debug)]
struct Entry {
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    device: Option<(u32, u32)>,
    xattrs: BTreeMap<String, Vec<u8>>,
    content: Vec<u8>,
}

/// The layers of an OCI layout with one image, lowest first; each as path to entry.
fn layers(layout: &Path) -> Vec<BTreeMap<String, Entry>> {
    let blob = |digest: &serde_json::Value| {
        let hex = digest.as_str().expect("a digest").strip_prefix("sha256:").expect("sha256");
        fs::read(layout.join("blobs/sha256").join(hex)).expect("a blob")
    };
    let json = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).expect("JSON");
    let index = json(fs::read(layout.join("index.json")).expect("index.json"));
    let manifest = json(blob(&index["manifests"][0]["digest"]));
    manifest["layers"].as_array().expect("layers").iter().map(|layer| entries(&blob(&layer["digest"]))).collect()
}

fn entries(layer: &[u8]) -> BTreeMap<String, Entry> {
    let mut plain = Vec::new();
    match layer.starts_with(&[0x1f, 0x8b]) {
        true => flate2::read::GzDecoder::new(layer).read_to_end(&mut plain).expect("gzip"),
        false => (&layer[..]).read_to_end(&mut plain).expect("bytes"),
    };
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&plain[..]).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().expect("pax").into_iter().flatten() {
            let extension = extension.expect("pax");
            if let Some(name) = extension.key().expect("a key").strip_prefix("SCHILY.xattr.") {
                xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
            }
        }
        let header = entry.header();
        let device = header.device_major().ok().flatten().zip(header.device_minor().ok().flatten());
        let (kind, mode) = (header.entry_type(), header.mode().expect("a mode"));
        let owner = (header.uid().expect("a uid"), header.gid().expect("a gid"));
        let path = String::from_utf8(entry.path_bytes().into_owned()).expect("a text");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let path = path.trim_end_matches('/').to_owned();
        assert!(
            found.insert(path.clone(), Entry { kind, mode, owner, device, xattrs, content }).is_none(),
            "`{path}` twice"
        );
    }
    found
}

fn pushed(lab: &Lab, name: &str) -> Vec<BTreeMap<String, Entry>> {
    let layout = lab.path("tmp").join(format!("layout-{}", name.replace('/', "-")));
    lab.rbuild(["push", name]).arg(format!("oci:{}:x", layout.display())).ok();
    layers(&layout)
}

#[test]
fn no_trace_of_the_overlay_reaches_a_layer() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let dockerfile = "FROM localhost/busybox\n\
        RUN mkdir -p /d/sub && echo a > /d/a && echo b > /d/sub/b && echo c > /c && ln -s /d /link\n\
        RUN chmod 0700 /d && rm -r /d/sub && mkdir /d/sub && echo new > /d/sub/new && rm /c && chmod u+s /bin/busybox\n\
        RUN rm -r /d && mkdir /d && touch /d/only && rm /link && mkdir /link\n\
        RUN true\n";
    let context = lab.context("context", &[("Dockerfile", dockerfile)]);
    lab.rbuild(["bud", "-t", "localhost/x"]).arg(context).ok();
    let layers = pushed(&lab, "localhost/x");
    for layer in &layers {
        for (path, entry) in layer {
            assert!(entry.xattrs.keys().all(|k| !k.contains("overlay")), "`{path}` has {:?}", entry.xattrs);
            // A whiteout is an empty file with a name, not overlayfs's device.
            assert_ne!(entry.kind, tar::EntryType::Char, "`{path}` is a device");
        }
    }
    let has = |layer: usize, path: &str| layers[layer].contains_key(path);
    assert!(
        has(2, ".wh.c") && has(2, "d/sub/.wh..wh..opq") | has(2, "d/sub/.wh.b") && has(2, "d/sub/new"),
        "{:?}",
        layers[2].keys()
    );
    assert!(!has(2, "d/a"), "a file that was not touched is in the layer");
    assert_eq!(layers[2]["d"].mode & 0o7777, 0o700);
    assert_eq!(layers[2]["bin/busybox"].mode & 0o7777, 0o4755);
    assert_eq!(layers[3]["link"].kind, tar::EntryType::Directory);
    assert!(has(3, "d/only") && (has(3, "d/.wh..wh..opq") || has(3, "d/.wh.a")), "{:?}", layers[3].keys());
}

#[test]
fn devices_and_owners_are_carried() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, mode, owner: u64, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(size);
        header.set_mtime(1_600_000_000);
        header
    };
    let mut device = header(tar::EntryType::Char, 0o620, 5, 0);
    device.set_device_major(1).expect("major");
    device.set_device_minor(3).expect("minor");
    tar.append_data(&mut device, "thing", &[][..]).expect("a device");
    let mut file = header(tar::EntryType::Regular, 0o4711, 70_000, 4);
    tar.append_data(&mut file, "owned", &b"body"[..]).expect("a file");
    lab.write("base.tar", tar.into_inner().expect("the end"));
    lab.rbuild(["import", "base.tar", "localhost/devices"]).ok();
    let context = lab
        .context("context", &[("Dockerfile", "FROM localhost/devices\nCOPY --chown=99999:88888 f /f\n"), ("f", "f")]);
    lab.rbuild(["bud", "-t", "localhost/x", "--squash"]).arg(context).ok();
    let layers = pushed(&lab, "localhost/x");
    assert_eq!(layers.len(), 1);
    let thing = &layers[0]["thing"];
    assert_eq!(
        (thing.kind, thing.mode & 0o7777, thing.owner, thing.device),
        (tar::EntryType::Char, 0o620, (5, 5), Some((1, 3)))
    );
    let owned = &layers[0]["owned"];
    assert_eq!((owned.mode & 0o7777, owned.owner, owned.content.as_slice()), (0o4711, (70_000, 70_000), &b"body"[..]));
    assert_eq!(layers[0]["f"].owner, (99_999, 88_888));
}

/// What becomes of owners that one id cannot hold when steps change the files.
const MOVES: &str = "FROM localhost/busybox\n\
    COPY --chown=1234:5678 f /own/written\n\
    COPY --chown=1234:5678 f /own/moved\n\
    COPY --chown=1234:5678 f /own/linked\n\
    COPY --chown=1234:5678 f /own/over\n\
    COPY --chown=1234:5678 f /own/copied\n\
    COPY --chown=1234:5678 f /own/dir/f\n\
    RUN cd /own && echo more >> written && mv moved /renamed && ln linked /hard && echo x > plain && chmod 700 dir\n\
    RUN cd /own && mv plain over && mv /renamed /again && echo more >> /hard\n\
    RUN cp /own/written /own/new && sed -i s/f/g/ /own/linked && chown 0:0 /again\n\
    COPY f /own/copied\n";

#[test]
fn recorded_owners_follow_their_files() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", MOVES), ("f", "f")]);
    let owners = |name: &str| -> Vec<BTreeMap<String, (u64, u64)>> {
        let owners = |layer: &BTreeMap<String, Entry>| layer.iter().map(|(p, e)| (p.clone(), e.owner)).collect();
        pushed(&lab, name).iter().map(owners).collect()
    };
    // Without `newuidmap` there is one id.
    lab.rbuild(["bud", "--no-cache", "-t", "localhost/one"]).arg(&context).env("PATH", "/nowhere").ok();
    let one = owners("localhost/one");
    let last = |path: &str| one.iter().rev().find_map(|layer| layer.get(path)).copied();
    for path in ["own/written", "own/linked", "hard", "own/dir", "own/dir/f"] {
        assert_eq!(last(path), Some((1234, 5678)), "{path}");
    }
    for path in ["own/over", "own/copied", "own/new", "again"] {
        assert_eq!(last(path), Some((0, 0)), "{path}");
    }
    require!(if !User::find().ranged, "the user has no range of ids to compare with");
    lab.rbuild(["bud", "--no-cache", "-t", "localhost/many"]).arg(&context).ok();
    assert_eq!(one, owners("localhost/many"));
}
