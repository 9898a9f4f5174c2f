use super::*;
use crate::oci::Digest;
use crate::sys::idmap::IdMap;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

fn write(layer: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = layer.join("fs").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn found(layers: &[PathBuf]) -> Inventory {
    inventory(&Merged::open(layers, &IdMap::Plain).unwrap()).unwrap()
}

fn names(inventory: &Inventory) -> Vec<String> {
    inventory.packages.keys().map(|p| format!("{}@{}", p.name, p.version)).collect()
}

/// Layers of a small image with something of everything that can be made without other programs.
fn image(dir: &Path) -> Vec<PathBuf> {
    let (lower, upper) = (dir.join("lower"), dir.join("upper"));
    let old = "Package: gone\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n";
    write(&lower, "var/lib/dpkg/status", old);
    write(&lower, "usr/lib/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n");
    write(&lower, "opt/app/package-lock.json", "{ nonsense");
    write(&lower, "proc/x/Cargo.lock", "[[package]]\nname = \"no\"\nversion = \"1\"\n");
    let new = "Package: a\nStatus: install ok installed\nVersion: 1:2~b\nArchitecture: amd64\nMaintainer: M <m@x>\n\n";
    write(&upper, "var/lib/dpkg/status", new);
    fs::create_dir_all(upper.join("fs/etc")).unwrap();
    symlink("../usr/lib/os-release", upper.join("fs/etc/os-release")).unwrap();
    for dir in ["usr/lib/one", "usr/lib/two"] {
        let text = "Name: py\nVersion: 3\nLicense: see file\n\n";
        write(&upper, &format!("{dir}/py-3.dist-info/METADATA"), text);
    }
    write(&upper, "srv/node_modules/@s/n/package.json", r#"{"name":"@s/n","version":"4","license":"MIT"}"#);
    write(&upper, "var/lib/rpm/Packages", "bdb");
    vec![lower, upper]
}

#[test]
fn what_the_uppermost_layers_say_counts() {
    let dir = tempfile::tempdir().unwrap();
    let inventory = found(&image(dir.path()));
    assert_eq!(names(&inventory), ["a@1:2~b", "py@3", "@s/n@4"]);
    assert_eq!(inventory.system.as_ref().unwrap().id, "debian");
    let places = inventory.packages.iter().find(|(p, _)| p.name == "py").unwrap().1;
    assert_eq!(places.len(), 2, "one package, found twice");
    let notes = inventory.notes.join("\n");
    assert!(notes.contains("`var/lib/rpm/Packages` in the format Berkeley DB is not read"), "{notes}");
    assert!(notes.contains("`opt/app/package-lock.json` is not read"), "{notes}");
    assert_eq!(inventory.notes.len(), 2);
}

#[test]
fn documents_are_the_same_every_time_and_name_each_package() {
    let dir = tempfile::tempdir().unwrap();
    let layers = image(dir.path());
    let subject = Subject { name: "img".into(), id: Digest::of("x"), created: 1_700_000_000 };
    for format in [Format::Spdx, Format::CycloneDx] {
        let document = |subject: &Subject| {
            let mut out = vec![];
            super::write(format, subject, &found(&layers), &mut out).unwrap();
            out
        };
        let text = document(&subject);
        assert!(text == document(&subject), "{format:?}");
        assert!(text != document(&Subject { id: Digest::of("y"), ..subject.clone() }), "{format:?}");
        let value: Value = serde_json::from_slice(&text).unwrap();
        let text = value.to_string();
        for part in ["pkg:deb/debian/a@1:2~b?arch=amd64&distro=debian-12", "pkg:pypi/py@3", "pkg:npm/%40s/n@4"] {
            assert!(text.contains(part), "{format:?} has no `{part}`: {text}");
        }
        assert!(text.contains("2023-11-14T22:13:20Z"), "{text}");
    }
}

#[test]
fn no_image_can_fill_the_memory() {
    let mut inventory = Inventory::default();
    let mut add = |n: usize| inventory.add("f", Package::new(Ecosystem::Npm, format!("p{n}"), "1"));
    for n in 0..MAX_FOUND {
        add(n).unwrap();
    }
    assert!(matches!(add(MAX_FOUND), Err(Error::TooMany(_))));
    let mut inventory = Inventory::default();
    inventory.add("f", Package::new(Ecosystem::Npm, "x".repeat(MAX_TEXT + 1), "1")).unwrap();
    let long = Package { licence: Some("x".repeat(MAX_TEXT + 1)), ..Package::new(Ecosystem::Npm, "a", "1") };
    inventory.add("f", long).unwrap();
    assert_eq!(names(&inventory), ["a@1"]);
    assert_eq!(inventory.packages.keys().next().unwrap().licence, None);
}

#[test]
fn a_link_that_leads_nowhere_is_no_database() {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    fs::create_dir_all(layer.join("fs/var/lib/dpkg")).unwrap();
    fs::create_dir_all(layer.join("fs/lib/apk/db")).unwrap();
    symlink("status", layer.join("fs/var/lib/dpkg/status")).unwrap();
    symlink("/etc/passwd", layer.join("fs/lib/apk/db/installed")).unwrap();
    write(&layer, "etc", "no directory");
    assert_eq!(names(&found(&[layer])), [""; 0]);
    assert_eq!(names(&found(&[])), [""; 0]);
}
