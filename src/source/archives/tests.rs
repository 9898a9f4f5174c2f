//! Archives that are as they should be, and archives that are not.

use super::*;
use crate::archive::tarfile::{Entry, EntryKind, TarWriter};
use crate::store::Store;
use serde_json::json;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::new(vec![]);
    for (name, content) in files {
        tar.append_bytes(name.as_bytes(), content).unwrap();
    }
    tar.finish().unwrap()
}

fn layer() -> Vec<u8> {
    tar(&[("etc/motd", b"hi")])
}

fn config(diff_id: &str) -> Vec<u8> {
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
        .to_string()
        .into_bytes()
}

fn docker_archive(config: &[u8], layer: &[u8]) -> Vec<u8> {
    let manifest = json!([{"Config": "c.json", "RepoTags": ["a/b:1"], "Layers": ["l/layer.tar"]}]).to_string();
    tar(&[("c.json", config), ("l/layer.tar", layer), ("manifest.json", manifest.as_bytes())])
}

#[test]
fn an_archive_of_docker_is_loaded_compressed_or_not() {
    let (_dir, store) = store();
    let layer = layer();
    let config = config(&Digest::of(&layer).to_string());
    let archive = docker_archive(&config, &layer);
    let mut gzipped = vec![];
    compress::gzip(&archive[..], &mut gzipped, None, 1).unwrap();
    for input in [archive, gzipped] {
        let loaded = load(&store, &input[..], Path::new("-"), &Platform::host(), &SignaturePolicy::default()).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names[0].to_string(), "docker.io/a/b:1");
        assert_eq!(loaded[0].id, Digest::of(&config));
        assert_eq!(store.manifest(&loaded[0].manifest.digest).unwrap().layers[0].media_type, media::DOCKER_LAYER);
    }
}

#[test]
fn a_layer_said_again_by_a_link_is_found() {
    let (_dir, store) = store();
    let layer = layer();
    let mut tar = TarWriter::new(vec![]);
    tar.append_bytes(b"x.tar", &layer).unwrap();
    let link = Entry { kind: EntryKind::Symlink(b"../x.tar"), ..Entry::dir(b"l/layer.tar") };
    tar.append(&link).unwrap();
    tar.append_bytes(b"c.json", &config(&Digest::of(&layer).to_string())).unwrap();
    tar.append_bytes(b"manifest.json", br#"[{"Config":"c.json","RepoTags":null,"Layers":["l/layer.tar"]}]"#).unwrap();
    let loaded =
        load(&store, &tar.finish().unwrap()[..], Path::new("-"), &Platform::host(), &SignaturePolicy::default())
            .unwrap();
    assert!(loaded[0].names.is_empty());
}

#[test]
fn what_contradicts_itself_is_refused() {
    let (_dir, store) = store();
    let layer = layer();
    let wrong = config(&Digest::of("other").to_string());
    let load =
        |bytes: &[u8]| load(&store, bytes, Path::new("-"), &Platform::host(), &SignaturePolicy::default()).unwrap_err();
    assert!(matches!(load(&docker_archive(&wrong, &layer)), Error::DiffId { .. }));
    assert!(matches!(load(&docker_archive(b"{", &layer)), Error::Json { .. }));
    assert!(matches!(load(b"not a tar at all"), Error::Tar(_) | Error::NotAnImage));
    assert!(matches!(load(&tar(&[("x", b"y")])), Error::NotAnImage));
    let outside = json!([{"Config": "../../etc/passwd", "Layers": []}]).to_string();
    assert!(matches!(load(&tar(&[("manifest.json", outside.as_bytes())])), Error::MissingFile(..)));
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": media::OCI_MANIFEST, "digest": Digest::of("gone").to_string(), "size": 4}]});
    assert!(matches!(load(&tar(&[("index.json", index.to_string().as_bytes())])), Error::MissingFile(..)));
    let cut = docker_archive(&config(&Digest::of(&layer).to_string()), &layer);
    assert!(matches!(load(&cut[..cut.len() / 2]), Error::Tar(_) | Error::Read(_) | Error::NotAnImage));
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let (_dir, store) = store();
    let layer = layer();
    let options = RootFsOptions { created: "1970-01-01T00:00:00Z".into(), ..RootFsOptions::default() };
    let loaded = import(&store, &layer[..], options.clone()).unwrap();
    let manifest = store.manifest(&loaded.manifest.digest).unwrap();
    assert_eq!(manifest.layers[0].digest, Digest::of(&layer));
    let mut gzipped = vec![];
    compress::gzip(&layer[..], &mut gzipped, None, 1).unwrap();
    assert_eq!(import(&store, &gzipped[..], options.clone()).unwrap().id, loaded.id);
    assert!(import(&store, &b"junk"[..], options.clone()).is_err());
    assert!(import(&store, &[0u8; 1024][..], options).is_err());
}
