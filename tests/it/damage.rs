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

/// The sizes and digests that `check` has to find right again.
fn is_sound(lab: &Lab) {
    let said = lab.rbuild(["check"]).ok().stdout;
    assert!(said.contains("no problem found"), "{said}");
}

#[test]
fn damaged_documents_are_fetched_again() {
    let (maker, _) = built();
    let registry = Registry::start();
    let name = format!("{}/x:1", registry.host());
    maker.rbuild(["push", "-q", "x", &format!("docker://{name}")]).ok();
    let lab = Lab::new();
    let context = lab.context("on-top", &[("Dockerfile", &format!("FROM {name}\nENV A=1\n"))]);
    let build = || lab.rbuild(["bud", "--no-cache"]).arg(&context);
    build().ok();
    let documents: Vec<PathBuf> = {
        let other = Lab::new();
        other.rbuild(["pull", "-q", &name]).ok();
        let names = blobs(&other, is_json);
        names.iter().map(|p| lab.store().join("blobs/sha256").join(p.file_name().unwrap())).collect()
    };
    assert_eq!(documents.len(), 2, "manifest and config");
    for document in &documents {
        flip(document);
        lab.rbuild(["pull", "-q", &name]).ok();
        is_sound(&lab);
        flip(document);
        says_damaged(&lab.rbuild(["bud", "--pull=never"]).arg(&context).fails(), document);
        let built = build().ok();
        assert!((built.stdout + &built.stderr).contains("is fetched again"));
        is_sound(&lab);
    }
}

#[test]
fn check_repairs_what_can_be_brought_again() {
    let (lab, context) = built();
    let registry = Registry::start();
    let name = format!("{}/x:1", registry.host());
    lab.rbuild(["push", "-q", "x", &format!("docker://{name}")]).ok();
    lab.rbuild(["rmi", "-f", "x"]).ok();
    lab.rbuild(["prune", "-a"]).ok();
    lab.rbuild(["pull", "-q", &name]).ok();
    let layer = blobs(&lab, |b| !is_json(b)).remove(0);
    let digest = format!("sha256:{}", layer.file_name().unwrap().to_string_lossy());
    flip(&layer);
    let found = lab.rbuild(["check"]).fails();
    assert!(found.stdout.contains(&format!("blob `{digest}` is damaged")), "{found}");
    assert!(found.stderr.contains("hint: `rbuild check --repair`"), "{found}");
    assert!(layer.exists(), "a check changes nothing");
    let repaired = lab.rbuild(["check", "--repair"]).ok().stdout;
    assert!(repaired.contains(&format!("removed blob `{digest}`")), "{repaired}");
    assert!(repaired.contains(&format!("image `{name}` is incomplete: pull it or build it again")), "{repaired}");
    lab.rbuild(["check"]).fails();
    lab.rbuild(["pull", "-q", &name]).ok();
    is_sound(&lab);
    // One that cannot be brought again can be taken away, by its name and by its id.
    lab.rbuild(["bud", "-q", "-t", "y"]).arg(&context).ok();
    for which in ["y", &name] {
        for document in blobs(&lab, is_json) {
            flip(&document);
        }
        lab.rbuild(["check", "--repair"]).ok();
        lab.rbuild(["rmi", which]).ok();
    }
    is_sound(&lab);
}

#[test]
fn layer_directories_are_compared_with_their_layers() {
    if let Some(reason) = crate::harness::busybox_is_missing() {
        return crate::harness::cannot_run(reason);
    }
    let lab = Lab::new();
    lab.import_busybox();
    let dockerfile = "FROM busybox\nCOPY --chown=7:8 --chmod=4750 . /deep/er/\nRUN rm /bin/ls && mkdir -p /a/b && \
                      ln -s ../x /a/l && ln /deep/er/file /a/hard && chmod 700 /tmp && touch -d @5 /a\nRUN rm -rf /deep\n";
    let context = lab.context("context", &[("Dockerfile", dockerfile), ("file", "hi\n")]);
    let build = |tag: &str| lab.rbuild(["bud", "-q", "-t", tag]).arg(&context).ok();
    build("x");
    let said = lab.rbuild(["check"]).ok().stdout;
    assert!(said.contains("4 layer directories (4 compared with their layers, 0 not comparable)"), "{said}");
    // As steps of the cache, and extracted from their blobs, they are the same.
    lab.rbuild(["rmi", "-f", "x"]).ok();
    let said = lab.rbuild(["check"]).ok().stdout;
    assert!(said.contains("(4 compared"), "{said}");
    let layers = |wanted: &dyn Fn(&Path) -> bool| -> PathBuf {
        let keys = fs::read_dir(lab.store().join("snapshots")).unwrap();
        let dirs = keys.flat_map(|key| fs::read_dir(key.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
        dirs.into_iter().find(|dir| wanted(dir)).expect("the layer directory")
    };
    let base = layers(&|dir| dir.join("fs/bin/busybox").exists());
    let own = layers(&|dir| dir.join("fs/a/b").exists());
    let busybox = fs::read(base.join("fs/bin/busybox")).unwrap();
    let broken = |what: &str, layer: &Path| {
        let found = lab.rbuild(["check"]).fails();
        assert!(found.stdout.contains(&format!("snapshot `{}` is broken", layer.display())), "{what}: {found}");
        lab.rbuild(["check", "--quick"]).ok();
        let repaired = lab.rbuild(["check", "--repair"]).ok().stdout;
        assert!(repaired.contains(&format!("removed snapshot `{}`", layer.display())), "{what}: {repaired}");
        lab.rbuild(["bud", "-q", "--no-cache"]).arg(&context).ok();
        is_sound(&lab);
    };
    fs::write(own.join("fs/a/added"), "x").unwrap();
    broken("a file more", &own);
    build("x");
    fs::write(base.join("fs/bin/busybox"), &busybox[..busybox.len() / 2]).unwrap();
    broken("a file cut off", &base);
    let mut other = busybox.clone();
    other[5000] ^= 1;
    fs::write(base.join("fs/bin/busybox"), other).unwrap();
    broken("another byte", &base);
    assert_eq!(fs::read(base.join("fs/bin/busybox")).unwrap(), busybox);
}

#[test]
fn a_dockerfile_of_other_bytes_cannot_write_to_the_terminal() {
    let lab = Lab::new();
    let run = |name: &str, content: &[u8]| {
        let dir = lab.context(name, &[]);
        fs::write(dir.join("Dockerfile"), content).unwrap();
        lab.rbuild(["bud"]).arg(dir).output()
    };
    let utf16: Vec<u8> = "FROM scratch\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [utf16.clone(), [&[0xff, 0xfe], &utf16[..]].concat()] {
        let done = run("utf16", &bytes);
        assert!(done.code != 0 && !done.stderr.contains('\0'), "{done}");
        assert!(done.stderr.contains("hint: the file seems to be in UTF-16: save it as UTF-8"), "{done}");
    }
    let done = run("escape", b"FROM scratch\nLABEL a=\x1b[2J\x07\n\x1b]0;x\x07 y\n");
    assert!(done.code != 0 && done.stderr.contains("\\x1b]0;x\\x07"), "{done}");
    assert!(!(done.stdout + &done.stderr).contains('\x1b'), "{}", done.stderr);
    let done = run("label", b"FROM scratch\nLABEL a=\"\x1b[2J\x07\"\n");
    assert!(done.stdout.contains("LABEL a=\"\\x1b[2J\\x07\"") && !done.stdout.contains('\x1b'), "{done}");
    let done = run("long", format!("FROM scratch\n{}\n", "x".repeat(200_000)).as_bytes());
    assert!(done.code != 0 && done.stderr.len() < 20_000, "{}", done.stderr.len());
}

#[test]
fn a_full_store_can_be_emptied_and_says_what_it_lacks() {
    let lab = Lab::new();
    if lab.program("unshare", ["-Urm", "true"]).output().code != 0 {
        return crate::harness::cannot_run("`unshare -Urm` does not work here");
    }
    let registry = Registry::start();
    let maker = Lab::new();
    let content = vec![7; 3_000_000];
    maker.rbuild(["bud", "-q", "-t", "x"]).arg(large(&maker, &content)).ok();
    let name = format!("{}/x:1", registry.host());
    maker.rbuild(["push", "-q", "--compression-format", "gzip", "x", &format!("docker://{name}")]).ok();
    let context = large(&lab, &content);
    lab.write("squash/Dockerfile", "FROM x\nLABEL a=b\n");
    let script = format!(
        "mkdir -p store && mount -t tmpfs -o size=12m none store
         bin/rbuild bud -q -t x {context}
         mkdir -p store/cache-mounts/m/a-0 && head -c 2000000 /dev/zero >store/cache-mounts/m/a-0/large
         head -c 2000000 /dev/zero >store/fill
         ! bin/rbuild bud --squash -t q squash
         ! cat /dev/zero >store/rest
         ! bin/rbuild tag x y
         ! bin/rbuild pull {name}
         bin/rbuild rmi x
         bin/rbuild prune --all",
        context = context.display()
    );
    let done = lab.program("unshare", ["-Urm", "sh", "-exc", &script]).ok();
    assert!(done.stdout.contains("untagged: localhost/x:latest"), "{done}");
    assert!(done.stdout.contains("1 cache mounts: 8.01MB"), "{done}");
    let wrote = done.stderr.lines().find(|l| l.contains("no space left: the step wrote"));
    assert!(wrote.is_some_and(|l| l.contains("the file system of the store holds 12.6 MB")), "{done}");
    assert!(done.stderr.contains("hint: free space with `rbuild prune`"), "{done}");
    let pull = done.stderr.lines().find(|l| l.starts_with("Error: cannot fetch layer"));
    assert!(pull.is_some_and(|l| l.contains("no space left: ") && l.contains("holds 12.6 MB")), "{done}");
}

/// A context with one large file.
fn large(lab: &Lab, content: &[u8]) -> PathBuf {
    let context = lab.context("large", &[("Dockerfile", "FROM scratch\nCOPY file /file\n")]);
    fs::write(context.join("file"), content).unwrap();
    context
}
