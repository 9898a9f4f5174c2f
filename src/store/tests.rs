use super::*;
use crate::oci::{Digest, ImageConfig, Manifest, media};

fn image(store: &Store, seed: &str) -> Descriptor {
    let layer = store.put_blob(seed.as_bytes()).unwrap();
    let config = ImageConfig { author: Some(seed.into()), ..Default::default() };
    let config = serde_json::to_vec(&config).unwrap();
    store.put_blob(&config).unwrap();
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(media::OCI_CONFIG, &config),
        layers: vec![Descriptor::new(media::OCI_LAYER, layer, seed.len() as u64)],
        subject: None,
        annotations: Default::default(),
    };
    let bytes = serde_json::to_vec(&manifest).unwrap();
    store.put_blob(&bytes).unwrap();
    Descriptor::of(media::OCI_MANIFEST, &bytes)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn a_blob_is_there_only_when_complete() {
    let (_dir, store) = store();
    let mut w = store.blob_writer().unwrap();
    w.write_all(b"abc").unwrap();
    assert_eq!(store.list_blobs().unwrap(), []);
    let (digest, size) = w.commit(None).unwrap();
    assert_eq!((digest, size), (Digest::of("abc"), 3));
    assert_eq!(store.blob_size(&digest).unwrap(), Some(3));

    let mut w = store.blob_writer().unwrap();
    w.write_all(b"xyz").unwrap();
    assert!(matches!(w.commit(Some(&digest)), Err(Error::Damaged { .. })));
    assert_eq!(store.list_blobs().unwrap().len(), 1);
}

#[test]
fn a_name_moves_and_leaves_the_old_image_without_one() {
    let (_dir, store) = store();
    let (one, two) = (image(&store, "one"), image(&store, "two"));
    store.publish(&["localhost/x:latest".into()], &one).unwrap();
    store.publish(&["localhost/x:latest".into()], &two).unwrap();
    assert_eq!(store.get("localhost/x:latest").unwrap().unwrap().digest, two.digest);
    assert_eq!(store.list().unwrap().iter().filter(|e| e.name.is_none()).count(), 1);
    assert_eq!(store.find("x").unwrap().descriptor.digest, two.digest);
    let id = store.image_id(&one).unwrap();
    assert_eq!(store.find(&id.hex()[..12]).unwrap().descriptor.digest, one.digest);
    assert!(matches!(store.find("nothing"), Err(Error::UnknownImage(_))));
    assert_eq!(store.remove_image(&two.digest).unwrap(), ["localhost/x:latest"]);
}

#[test]
fn a_name_never_points_at_half_an_image() {
    let (_dir, store) = store();
    let one = image(&store, "one");
    let layer = store.manifest(&one.digest).unwrap().layers[0].digest;
    store.remove_blob(&layer).unwrap();
    assert!(matches!(store.publish(&["localhost/x:latest".into()], &one), Err(Error::MissingBlob(d)) if d == layer));
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn garbage_is_what_nothing_refers_to() {
    let dir = tempfile::tempdir().unwrap();
    let kept = {
        let store = Store::open(dir.path()).unwrap();
        let one = image(&store, "one");
        store.publish(&["localhost/x:latest".into()], &one).unwrap();
        image(&store, "two");
        // While its maker lives, an image without a name is in use.
        let other = Store::open(dir.path()).unwrap();
        assert_eq!(other.collect_garbage(GcOptions::default()).unwrap().blobs, 0);
        one
    };
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.collect_garbage(GcOptions::default()).unwrap().blobs, 3);
    assert_eq!(store.reach(&kept).unwrap().len(), 3);
    assert_eq!(store.list_blobs().unwrap().len(), 3);
}

#[test]
fn what_a_killed_process_left_is_dropped() {
    let (dir, store) = store();
    let left = dir.path().join("tmp/dead");
    std::fs::create_dir_all(left.join("upper")).unwrap();
    std::fs::write(dir.path().join("leases/dead"), "blobs/sha256/00\n").unwrap();
    store.collect_garbage(GcOptions::default()).unwrap();
    assert!(!left.exists());
}

#[test]
fn many_processes_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let root = dir.path();
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                for j in 0..5 {
                    let d = image(&store, &format!("{i}-{j}"));
                    store.publish(&[format!("localhost/i{i}:{j}")], &d).unwrap();
                    store.collect_garbage(GcOptions::default()).unwrap();
                }
            });
        }
    });
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.list().unwrap().len(), 40);
    for e in store.list().unwrap() {
        store.reach(&e.descriptor).unwrap();
    }
}

#[test]
fn check_finds_what_is_wrong() {
    let (dir, store) = store();
    let one = image(&store, "one");
    store.publish(&["localhost/x:latest".into()], &one).unwrap();
    let checked = store.check().unwrap();
    assert_eq!((checked.blobs, checked.images, checked.problems.len()), (3, 1, 0));

    let layer = store.manifest(&one.digest).unwrap().layers[0].digest;
    std::fs::write(dir.path().join("blobs/sha256").join(layer.hex()), "other").unwrap();
    std::fs::write(dir.path().join("blobs/sha256/stray"), "").unwrap();
    std::fs::write(dir.path().join("steps/00"), "{").unwrap();
    std::fs::create_dir_all(dir.path().join("snapshots/key/chain")).unwrap();
    let problems = store.check().unwrap().problems;
    assert!(problems.contains(&Problem::DamagedBlob(layer)), "{problems:?}");
    assert_eq!(problems.len(), 4, "{problems:?}");

    store.remove_blob(&layer).unwrap();
    let problems = store.check().unwrap().problems;
    assert!(problems.iter().any(|p| matches!(p, Problem::BrokenImage { .. })), "{problems:?}");
}
