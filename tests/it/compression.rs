//! Forms of layers: eStargz and zstd:chunked, levels, and layers that are compressed anew.

use crate::harness::{Lab, Registry, Run, busybox_is_missing, is_root, require};
use crate::main_job::podman;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
const SIZE: &str = "io.containers.estargz.uncompressed-size";
const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
const TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";

/// Two layers beyond the base, with a file of several chunks, links, a hole, an empty file and a file of the base removed.
const TEXT: &str = "FROM localhost/busybox\n\
    RUN mkdir /d && yes | head -c 9000000 > /d/big && md5sum /d/big > /d/sum && : > /d/empty && ln /d/sum /d/hard && \\\n \
    ln -s sum /d/soft && truncate -s 6000000 /d/hole && chown 33:34 /d/empty\n\
    RUN rm /d/soft && echo more > /d/more\n";
/// What such an image answers.
const ASK: &str =
    "cd /d && md5sum -c sum && cat more && stat -c '%u:%g %s' empty hole && stat -c %h hard && test ! -e soft";
const ANSWER: &str = "/d/big: OK\nmore\n33:34 0\n0:0 6000000\n2\n";

fn lab(text: &str) -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", text)]);
    lab.rbuild(["bud", "--timestamp=7", "-t", "x"]).arg(context).ok();
    lab
}

/// A document or a layer of an image layout.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let hex = descriptor["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).expect("a digest");
    fs::read(layout.join("blobs/sha256").join(hex)).expect("a blob")
}

fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

/// Manifest and config of the only image of a layout.
fn documents(layout: &Path) -> (Value, Value) {
    let index = parsed(&fs::read(layout.join("index.json")).expect("the index"));
    let manifest = parsed(&blob(layout, &index["manifests"][0]));
    let config = parsed(&blob(layout, &manifest["config"]));
    (manifest, config)
}

/// Pushes `x` to a layout, and returns that with its manifest and config.
fn pushed(lab: &Lab, image: &str, flags: &[&str], dir: &str) -> (std::path::PathBuf, Value, Value) {
    let layout = lab.path(dir);
    lab.rbuild([&["push", "-q"], flags, &[image]].concat()).arg(format!("oci:{}:1", layout.display())).ok();
    let (manifest, config) = documents(&layout);
    (layout, manifest, config)
}

fn layers(manifest: &Value) -> &[Value] {
    manifest["layers"].as_array().expect("layers")
}

fn unpacked(program: &str, layout: &Path, layer: &Value) -> Vec<u8> {
    let path = layout.join("blobs/sha256").join(&layer["digest"].as_str().expect("a digest")[7..]);
    let out = std::process::Command::new(program).arg("-dc").stdin(fs::File::open(path).expect("a blob")).output();
    out.unwrap_or_else(|e| panic!("{program}: {e}")).stdout
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    rbuild::oci::Digest::of(bytes).to_string()
}

#[test]
fn registries_podman_and_rbuild_itself_take_up_both_forms() {
    require!("docker-registry", "skopeo");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !crate::harness::User::find().ranged, "the user has no range of ids");
    let (lab, registry) = (lab(TEXT), Registry::start());
    let raw = |name: &str| {
        parsed(
            Run::new("skopeo", ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
                .ok()
                .stdout
                .as_bytes(),
        )
    };
    for (form, annotations, media_type) in
        [("estargz", vec![TOC, SIZE], "tar+gzip"), ("zstd:chunked", vec![CHECKSUM, POSITION, TAR_SPLIT], "tar+zstd")]
    {
        let tag = form.replace(':', "-");
        let name = |what: &str| format!("{}/{tag}:{what}", registry.host());
        let done = lab.rbuild(["push", "--compression-format", form, "x"]).arg(format!("docker://{}", name("a"))).ok();
        assert!(!done.stderr.contains("instead of"), "{done}");
        let manifest = raw(&name("a"));
        for layer in layers(&manifest) {
            let names: Vec<&String> = layer["annotations"]
                .as_object()
                .unwrap_or_else(|| panic!("no annotations: {manifest:#}"))
                .keys()
                .collect();
            assert_eq!(names, annotations, "{form}");
            assert!(layer["mediaType"].as_str().expect("a type").ends_with(media_type));
        }
        // The same from what is remembered, where nothing is there yet, and from a store that remembers nothing.
        let elsewhere = format!("docker://{}/other-{tag}:b", registry.host());
        lab.rbuild(["push", "-q", "--compression-format", form, "x", &elsewhere]).ok();
        assert_eq!(raw(&elsewhere[9..]), manifest);
        fs::remove_dir_all(lab.store().join("compressed")).expect("what is remembered");
        fs::create_dir(lab.store().join("compressed")).expect("a directory");
        lab.own(&lab.store().join("compressed"));
        lab.rbuild(["push", "-q", "--compression-format", form, "x"]).arg(format!("docker://{}", name("c"))).ok();
        assert_eq!(raw(&name("c")), manifest);

        // Pulled, run, pushed on as it is, and built upon.
        let store = lab.path(format!("store-{tag}"));
        let fresh = |args: &[&str]| lab.rbuild(args.iter().copied()).env("RBUILD_ROOT", &store).ok();
        fresh(&["pull", "-q", &format!("docker://{}", name("a"))]);
        assert_eq!(fresh(&["run", &name("a"), "sh", "-c", ASK]).stdout, ANSWER, "{form}");
        fresh(&["push", "-q", &name("a"), &format!("docker://{}", name("d"))]);
        assert_eq!(raw(&name("d")), manifest);
        let text = format!("FROM {}\nRUN echo child > /child\n", name("a"));
        let context = lab.context("child", &[("Dockerfile", &text)]);
        fresh(&[
            "bud",
            "-t",
            "child",
            "--compression-format",
            "gzip",
            "-t",
            &format!("docker://{}", name("e")),
            &context.display().to_string(),
        ]);
        let child = raw(&name("e"));
        assert_eq!(layers(&child)[..layers(&manifest).len()], *layers(&manifest));
        assert_eq!(layers(&child).last().expect("a layer")["annotations"], Value::Null);

        let dir = lab.path(format!("tmp/copy-{tag}"));
        let from = format!("docker://{}", name("a"));
        let to = format!("dir:{}", dir.display());
        Run::new("skopeo", ["copy", "--insecure-policy", "--src-tls-verify=false", &from, &to]).ok();
        assert_eq!(parsed(&fs::read(dir.join("manifest.json")).expect("the manifest")), manifest);

        if is_root() && crate::harness::which("podman").is_some() && crate::harness::which("runc").is_some() {
            let own = tempfile::Builder::new().prefix("rbuild-podman-").tempdir().expect("a temporary directory");
            podman(own.path(), ["pull", "-q", "--tls-verify=false", &name("a")]).ok();
            let ran = podman(
                own.path(),
                ["run", "--rm", "--network", "host", "--pull", "never", &name("a"), "sh", "-c", ASK],
            );
            assert_eq!(ran.ok().stdout, ANSWER, "{form}");
        }
    }
}

#[test]
fn the_config_says_what_the_layers_became() {
    require!("umoci", "zstd");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !crate::harness::User::find().ranged, "the user has no range of ids");
    let lab = lab(TEXT);
    let (_, _, plain) = pushed(&lab, "x", &[], "tmp/plain");
    let (layout, manifest, config) = pushed(&lab, "x", &["--compression-format=estargz"], "tmp/estargz");
    for (layer, diff_id) in layers(&manifest).iter().zip(config["rootfs"]["diff_ids"].as_array().expect("a list")) {
        let tar = unpacked("gzip", &layout, layer);
        assert_eq!(*diff_id, sha256(&tar));
        assert_eq!(layer["annotations"][SIZE], tar.len().to_string());
    }
    assert_ne!(config["rootfs"], plain["rootfs"]);
    let mut same = config.clone();
    same["rootfs"] = plain["rootfs"].clone();
    assert_eq!(same, plain, "nothing else of the config changes");
    let bundle = lab.path("tmp/bundle");
    lab.program("umoci", ["unpack", "--rootless", "--image", &format!("{}:1", layout.display())]).arg(&bundle).ok();
    let root = bundle.join("rootfs");
    assert_eq!(fs::read(root.join("d/more")).expect("a file"), b"more\n");
    assert_eq!(fs::metadata(root.join("d/big")).expect("a file").size(), 9_000_000);
    // For who knows nothing of them, these are files.
    assert_eq!(fs::read(root.join(".no.prefetch.landmark")).expect("a file"), [0xf]);
    assert_eq!(parsed(&fs::read(root.join("stargz.index.json")).expect("a file"))["version"], 1);

    let (layout, manifest, config) = pushed(&lab, "x", &["--compression-format=zstd:chunked"], "tmp/chunked");
    assert_eq!(config, plain);
    for (layer, diff_id) in layers(&manifest).iter().zip(config["rootfs"]["diff_ids"].as_array().expect("a list")) {
        assert_eq!(*diff_id, sha256(&unpacked("zstd", &layout, layer)));
    }
}

#[test]
fn levels_count_and_what_is_compressed_stays_unless_forced() {
    let lab = Lab::new();
    let text: String = (0..20_000).map(|n| format!("{} {}\n", n * 7919 % 10_007, n * 31 % 977)).collect();
    let context = lab.context("c", &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", &text)]);
    lab.rbuild(["bud", "-t", "x"]).arg(&context).ok();
    for form in ["gzip", "estargz", "zstd", "zstd:chunked"] {
        let size = |level: &str| {
            let flags = ["--compression-format", form, "--compression-level", level];
            let (_, manifest, _) = pushed(&lab, "x", &flags, &format!("tmp/{}-{level}", form.replace(':', "-")));
            manifest["layers"][0]["size"].as_u64().expect("a size")
        };
        assert!(size("9") < size("1"), "{form}");
    }
    // An image whose layer is compressed already.
    let (layout, gzip, _) = pushed(&lab, "x", &["--compression-format=gzip"], "tmp/base");
    let archive = lab.path("tmp/base.tar");
    lab.rbuild(["push", "-q", "--compression-format=gzip", "x"])
        .arg(format!("oci-archive:{}:localhost/y:latest", archive.display()))
        .ok();
    lab.rbuild(["load", "-i"]).arg(&archive).ok();
    let of = |flags: &[&str], dir: &str| pushed(&lab, "localhost/y", flags, dir).1["layers"][0].clone();
    assert_eq!(of(&["--compression-format=estargz"], "tmp/kept"), gzip["layers"][0]);
    let forced = of(&["--compression-format=estargz", "--force-compression"], "tmp/forced");
    assert!(forced["annotations"][TOC].is_string(), "{forced}");
    let plain = of(&["--compression-format=none", "--force-compression"], "tmp/plain");
    assert_eq!(plain["digest"], sha256(&unpacked("gzip", &layout, &gzip["layers"][0])));
}

#[test]
fn outputs_of_buildx_name_the_form() {
    let lab = Lab::new();
    let context = lab.context("c", &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "hello")]);
    let manifest = |dir: &str, more: &str| {
        let output = format!("type=oci,tar=false,dest={},{more}", lab.path(dir).display());
        lab.docker(["buildx", "build", "-o", &output]).arg(&context).ok();
        documents(&lab.path(dir)).0
    };
    let layer = |dir: &str, more: &str| manifest(dir, more)["layers"][0].clone();
    assert!(layer("tmp/a", "compression=estargz,compression-level=9")["annotations"][TOC].is_string());
    assert!(layer("tmp/b", "compression=zstd:chunked")["annotations"][CHECKSUM].is_string());
    assert!(layer("tmp/c", "compression=zstd")["mediaType"].as_str().expect("a type").ends_with("tar+zstd"));
    let plain = layer("tmp/d", "compression=uncompressed,force-compression=true");
    assert!(plain["mediaType"].as_str().expect("a type").ends_with("tar"), "{plain}");
}

#[test]
fn forms_without_a_place_are_refused_or_said() {
    let lab = Lab::new();
    let context = lab.context("c", &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "hello")]);
    lab.rbuild(["bud", "-t", "x"]).arg(&context).ok();
    let fails = |args: &[&str], text: &str| {
        let done = lab.rbuild(args.iter().copied()).fails();
        assert!(done.stderr.contains(text), "{done}");
    };
    let archive = format!("docker-archive:{}", lab.path("tmp/x.tar").display());
    let layout = format!("oci:{}", lab.path("tmp/layout").display());
    let c = context.display().to_string();
    fails(&["push", "--compression-format=estargz", "x", &archive], "holds plain layers");
    fails(&["bud", "--compression-format=zstd:chunked", "-t", &archive, &c], "holds plain layers");
    fails(
        &["push", "--compression-format=zstd:chunked", "--format=docker", "x", &layout],
        "cannot hold layers in zstd",
    );
    fails(
        &["push", "--compression-format=gzip", "--compression-level=10", "x", &layout],
        "level 10 of gzip does not exist",
    );
    fails(&["bud", "--compression-format=estargz", "--cache-to=type=inline", "-t", &layout, &c], "type=inline");
    fails(&["bud", "--cache-to=type=local,dest=/nowhere,compression=estargz", &c], "estargz");
    // Docker's format holds eStargz, and not what vouches for it.
    let push = ["push", "-q", "--compression-format=estargz", "--format=docker", "x", &layout];
    let said = lab.rbuild(["push", "--compression-format=estargz", "--format=docker", "x", &layout]).ok();
    assert!(said.stderr.contains(TOC), "{said}");
    lab.rbuild(push).ok();
    let (manifest, config) = documents(&lab.path("tmp/layout"));
    let layer = &manifest["layers"][0];
    assert_eq!(
        (layer["mediaType"].clone(), layer["annotations"].clone()),
        (json!("application/vnd.docker.image.rootfs.diff.tar.gzip"), Value::Null)
    );
    assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&unpacked("gzip", &lab.path("tmp/layout"), layer)));
}

#[test]
fn a_name_that_json_cannot_hold_is_kept_in_the_plain_form() {
    let lab = Lab::new();
    let context = lab.context("c", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    fs::write(context.join(OsStr::from_bytes(b"n\xff")), "x").expect("a file");
    lab.own(&context.join(OsStr::from_bytes(b"n\xff")));
    lab.rbuild(["bud", "-t", "x"]).arg(&context).ok();
    for (form, plain) in [("estargz", "gzip"), ("zstd:chunked", "zstd")] {
        let layout = lab.path(format!("tmp/{plain}"));
        let done =
            lab.rbuild(["push", "--compression-format", form, "x"]).arg(format!("oci:{}", layout.display())).ok();
        let said = format!("leaves as {plain} instead of {form}: the name `n\\xff` in it is not UTF-8");
        assert!(done.stderr.contains(&said), "{done}");
        let (manifest, config) = documents(&layout);
        let layer = &manifest["layers"][0];
        assert_eq!(layer["annotations"], Value::Null);
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&unpacked(plain, &layout, layer)));
    }
}

#[test]
fn compression_that_nothing_takes_is_told_of() {
    let lab = Lab::new();
    lab.context("c", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    let told = |args: &[&str]| lab.rbuild(args).ok().stderr.contains("warning: the compression has no effect");
    for (to, wanted) in [("x", true), ("docker-archive:a.tar", true), ("oci:layout", false)] {
        assert_eq!(told(&["bud", "--compression-format=zstd", "-t", to, "c"]), wanted, "{to}");
        assert!(!told(&["bud", "--compression-format=none", "-t", to, "c"]), "{to}");
    }
    assert!(!told(&["bud", "--compression-format=gzip", "-t", "x", "-t", "oci:both", "c"]));
    assert!(told(&["push", "--compression-format=gzip", "x", "docker-archive:b.tar"]));
    assert!(!told(&["push", "--compression-format=gzip", "x", "oci:pushed"]));
}
