//! `--cache-mount`: stores that have nothing find the files of cache mounts.

use crate::harness::{busybox_is_missing, require};
use crate::shared_cache::{Farm, dockerfile, shown};
use std::fs;

/// Each execution adds a line, and finds the owner and mode that the first one gave.
const STEP: &str = "RUN --mount=type=cache,id=kept,target=/c if test -e /c/log; then stat -c %u:%g:%a /c/log; fi; echo line >> /c/log; \
    chown 33:34 /c/log; chmod 640 /c/log; ln -sf log /c/link; echo lines=$(wc -l < /c/link)\n";

#[test]
fn files_of_cache_mounts_go_from_store_to_store() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, STEP);
    let places = [
        format!("id=kept,to={}", farm.at("mounts")),
        "id=kept,\"to=type=local,dest=kept\",\"from=type=local,src=kept\"".to_owned(),
        format!("id=kept,\"to=type=registry,ref={},compression=zstd\"", farm.at("zstd")),
    ];
    for (n, place) in places.iter().enumerate() {
        let build = |store: &str| farm.build(&format!("{n}-{store}")).args(["--no-cache", "--cache-mount", place]).ok();
        let first = build("a");
        assert!(shown(&first).contains("lines=1"), "{place}: {first}");
        // A store of its own has what the other one left, owners and modes too.
        let second = build("b");
        assert!(shown(&second).contains("33:34:640\n") && shown(&second).contains("lines=2"), "{place}: {second}");
        let third = build("c");
        assert!(shown(&third).contains("lines=3"), "{place}: {third}");
        // What a store has itself is what counts there.
        let again = build("a");
        assert!(shown(&again).contains("lines=2"), "{place}: {again}");
        assert!(![&first, &second, &third, &again].iter().any(|d| shown(d).contains("warning:")), "{again}");
    }
}

/// Several places of one id are all written, and read in turn.
#[test]
fn files_of_cache_mounts_are_kept_in_several_places() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, STEP);
    let places = ["id=kept,\"to=type=local,dest=one\"", "id=kept,\"to=type=local,dest=two\""];
    farm.build("a").args(["--no-cache", "--cache-mount", places[0], "--cache-mount", places[1]]).ok();
    for (n, place) in places.iter().enumerate() {
        let done = farm.build(&n.to_string()).args(["--no-cache", "--cache-mount", place]).ok();
        assert!(shown(&done).contains("lines=2") && !shown(&done).contains("warning:"), "{place}: {done}");
    }
}

#[test]
fn stores_of_pods_with_any_ids_share_them() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, STEP);
    // Without `newuidmap` there is one id.
    let pods =
        [("namespaces", None), ("namespaces", Some("/nowhere")), ("trace", Some("/nowhere")), ("namespaces", None)];
    for (n, (isolation, path)) in pods.iter().enumerate() {
        let flags = ["--no-cache", "--isolation", isolation, "--cache-mount", "id=kept,\"to=type=local,dest=kept\""];
        let mut run = farm.build(&n.to_string()).args(flags);
        if let Some(path) = path {
            run = run.env("PATH", path);
        }
        let done = run.ok();
        assert!(shown(&done).contains(&format!("lines={}\n", n + 1)), "{n}: {done}");
        // With one id, files of cache mounts are root's.
        assert_eq!(shown(&done).contains("0:0:640\n"), n > 0, "{n}: {done}");
    }
}

#[test]
fn cache_mounts_that_cannot_be_had_start_empty() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, STEP);
    let place = "id=kept,\"to=type=local,dest=kept\"";
    let build = |store: &str, flag: &str| farm.build(store).args(["--no-cache", "--cache-mount", flag]).ok();
    build("a", place);
    // The largest blob is the tar.
    let blobs = fs::read_dir(farm.lab.path("kept/blobs/sha256")).expect("blobs").flatten();
    for blob in blobs.filter(|b| fs::read(b.path()).is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b]))) {
        let mut bytes = fs::read(blob.path()).expect("the blob");
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        fs::write(blob.path(), bytes).expect("other bytes");
    }
    let damaged = build("b", place);
    assert!(shown(&damaged).contains("lines=1") && shown(&damaged).contains("warning:"), "{damaged}");
    assert!(!shown(&damaged).contains("33:34:640\n"), "{damaged}");

    // Only read: nothing is written.
    let only = "id=kept,\"from=type=local,src=nothing\"";
    build("c", only);
    assert!(!farm.lab.path("nothing").exists());
    // A mount that no step has is told of.
    let other = build("d", "id=other,\"to=type=local,dest=other\"");
    assert!(shown(&other).contains("warning: no step has a cache mount with the id `other`"), "{other}");
    // A step that was cached leaves its mounts as they are.
    let cached = farm.build("d").args(["--cache-mount", "id=kept,\"to=type=local,dest=cached\""]).ok();
    assert!(!farm.lab.path("cached").exists() && !shown(&cached).contains("warning:"), "{cached}");
    for (flag, why) in [
        ("to=x", "it has no id"),
        ("id=a", "neither `to` nor `from`"),
        ("id=a,to=x,mode=max", "unknown `mode=max`"),
        ("id=a,to=inline", "an image has no place for it"),
    ] {
        let done = farm.build("e").args(["--cache-mount", flag]).fails();
        assert!(done.stderr.contains(why), "{flag}: {done}");
    }
}
