//! Stores whose files were damaged: nothing that is wrong leaves them, and they can be repaired.

use crate::harness::{Done, Lab, Registry};
use std::fs;
use std::path::{Path, PathBuf};

/// A lab with the image `localhost/x:latest`, and the path of its context.
fn built() -> (Lab, PathBuf) {
    let lab = Lab::new();
    let context = lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY file /file\n"), ("file", "hi there\n")]);
    lab.rbuild(["bud", "-q", "-t", "x"]).arg(&context).ok();
    (lab, context)
}

/// The blobs of a store that `wanted` knows by their first bytes.
fn blobs(lab: &Lab, wanted: impl Fn(&[u8]) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir(lab.store().join("blobs/sha256")).unwrap().map(|e| e.unwrap().path());
    all.filter(|p| wanted(&fs::read(p).unwrap())).collect()
}

fn is_json(bytes: &[u8]) -> bool {
    bytes.starts_with(b"{")
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn says_damaged(done: &Done, blob: &Path) {
    let name = blob.file_name().unwrap().to_string_lossy().into_owned();
    assert!(done.stderr.contains(&format!("blob `sha256:{name}` is damaged")), "{done}");
    assert!(done.stderr.contains("hint: run `rbuild check --repair`"), "{done}");
}

#[test]
fn a_damaged_layer_leaves_the_store_in_no_form() {
    let (lab, context) = built();
    // The second has none of the blobs: all of them are to be sent.
    let (registry, empty) = (Registry::start(), Registry::start());
    let pushed = format!("docker://{}/x:sound", registry.host());
    lab.rbuild(["push", "-q", "x", &pushed]).ok();
    lab.rbuild(["pull", "-q", &pushed]).ok();
    let gzipped = blobs(&lab, |b| b.starts_with(&[0x1f, 0x8b]));
    let plain = blobs(&lab, |b| !is_json(b) && !b.starts_with(&[0x1f, 0x8b]));
    assert_eq!((gzipped.len(), plain.len()), (1, 1));
    let out = lab.mkdir("out");
    let path = |name: &str| out.join(name).display().to_string();
    let far = |name: &str| format!("docker://{}/{name}:damaged", empty.host());
    for (what, image, blob) in
        [("own", "x".to_owned(), &plain[0]), ("pulled", format!("{}/x:sound", registry.host()), &gzipped[0])]
    {
        flip(blob);
        let places = [
            format!("oci:{}:x", path(&format!("{what}-layout"))),
            format!("dir:{}", path(&format!("{what}-dir"))),
            format!("oci-archive:{}:x", path(&format!("{what}.oci"))),
            format!("docker-archive:{}:x:1", path(&format!("{what}.docker"))),
            far(what),
        ];
        for place in &places {
            says_damaged(&lab.rbuild(["push", "-q", &image, place]).fails(), blob);
        }
        says_damaged(&lab.rbuild(["push", "-q", "--compression-format", "zstd", &image, &places[0]]).output(), blob);
        says_damaged(&lab.rbuild(["save", "-q", "-o", &path(&format!("{what}.save")), &image]).fails(), blob);
        for name in ["oci", "docker", "save"] {
            assert!(!out.join(format!("{what}.{name}")).exists(), "{what}.{name}");
        }
        for name in ["layout/index.json", "dir/manifest.json"] {
            assert!(!out.join(format!("{what}-{name}")).exists(), "{what}-{name}");
        }
        let gone = lab.rbuild(["pull", "-q", &far(what)]).fails();
        assert!(gone.stderr.contains("404"), "no tag: {gone}");
    }
    let cached = lab.rbuild(["bud", "-q", "-t", &format!("oci:{}", path("built"))]).arg(&context).fails();
    says_damaged(&cached, &plain[0]);
    let retimed = lab.rbuild(["bud", "-q", "--timestamp", "7", "-t", "y"]).arg(&context).fails();
    says_damaged(&retimed, &plain[0]);
}
