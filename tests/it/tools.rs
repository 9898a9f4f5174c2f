//! What other tools read of what rbuild writes, and the reverse: the table in docs/formats.md, with Debian's skopeo, podman,
//! umoci and dockerd. Digests agree wherever a form keeps them; the image id does everywhere.

use crate::dockerd::Dockerd;
use crate::harness::{Lab, Registry, Run, busybox_is_missing, is_root, require};
use crate::main_job::podman;
use std::fs;
use std::path::{Path, PathBuf};

/// A lab with the image `localhost/image:latest` of two layers, its id, and a list of it for two platforms.
struct Bench {
    lab: Lab,
    registry: Registry,
    id: String,
    /// For programs that run as this process's user.
    own: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let (lab, registry) = (Lab::new(), Registry::start());
        lab.import_busybox();
        let text =
            "FROM localhost/busybox\nCOPY --chown=33:34 --chmod=4750 file /srv/\nLABEL made=here\nCMD [\"id\"]\n";
        lab.context("c", &[("Dockerfile", text), ("file", "text\n")]);
        lab.rbuild(["bud", "-t", "localhost/image", "--iidfile", "id", "c"]).ok();
        lab.context(
            "many",
            &[("Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY Dockerfile /\n")],
        );
        lab.rbuild(["bud", "-t", "localhost/many", "--platform=linux/amd64,linux/arm64", "many"]).ok();
        let id = fs::read_to_string(lab.path("id")).expect("the id").trim().to_owned();
        let own = tempfile::Builder::new().prefix("rbuild-tools-").tempdir().expect("a temporary directory");
        fs::write(own.path().join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
            .expect("policy");
        Bench { lab, registry, id, own }
    }

    /// A registry's name for what one tool writes and others read.
    fn remote(&self, what: &str) -> String {
        format!("docker://{}/{what}:1", self.registry.host())
    }

    fn skopeo(&self, args: &[&str]) -> String {
        let policy = self.own.path().join("policy.json");
        let run = Run::new("skopeo", ["--policy"]).arg(policy).args(args).env("HOME", self.own.path());
        run.env("TMPDIR", self.own.path()).dir(self.lab.dir()).ok().stdout
    }

    fn podman<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        podman(self.own.path(), args).env("TMPDIR", self.own.path()).dir(self.lab.dir()).ok().stdout
    }

    /// Pushes the image, and says the digest of its manifest there.
    fn push(&self, flags: &[&str], image: &str, to: &str) -> String {
        let file = self.lab.path("home/digest");
        self.lab.rbuild(["push", "--digestfile"]).arg(&file).args(flags).args([image, to]).ok();
        fs::read_to_string(file).expect("the digest").trim().to_owned()
    }

    /// Brings an image into a new store; its id there.
    fn read(&self, from: &str) -> String {
        let store = self.lab.path("fresh");
        let rbuild = |args: &[&str]| self.lab.rbuild(args).env("RBUILD_ROOT", &store);
        rbuild(&["pull", from]).ok();
        rbuild(&["check"]).ok();
        let ids = rbuild(&["images", "-q", "--no-trunc"]).ok().stdout;
        let _ = rbuild(&["rmi", "--all", "--force"]).output();
        rbuild(&["prune", "--all"]).ok();
        let ids: Vec<&str> = ids.lines().collect();
        assert_eq!(ids.len(), 1, "{from}: {ids:?}");
        format!("sha256:{}", ids[0].trim_start_matches("sha256:"))
    }
}

/// How rbuild writes the image: flags, and the place.
const FORMS: &[(&str, &[&str])] = &[
    ("docker", &["--compression-format=gzip"]),
    ("docker", &["--compression-format=zstd"]),
    ("docker", &["--compression-format=none"]),
    ("docker", &["--format=docker"]),
    ("oci", &["--compression-format=gzip"]),
    ("oci", &["--compression-format=zstd"]),
    ("oci", &["--compression-format=none"]),
    ("oci-archive", &["--compression-format=gzip"]),
    ("oci-archive", &["--compression-format=zstd"]),
    ("dir", &["--compression-format=gzip"]),
    ("docker-archive", &[]),
];

/// Where form number `n` goes.
fn place(bench: &Bench, n: usize) -> String {
    // Podman makes names of paths, which must be lower case then.
    let path = PathBuf::from(format!("tmp/form{n}"));
    match FORMS[n].0 {
        "docker" => bench.remote(&format!("form{n}")),
        "oci" | "oci-archive" => format!("{}:{}:1", FORMS[n].0, path.display()),
        "docker-archive" => format!("docker-archive:{}:localhost/image:1", path.display()),
        other => format!("{other}:{}", path.display()),
    }
}

fn digest_of(file: &Path) -> String {
    let out = Run::new("sha256sum", [file]).ok().stdout;
    format!("sha256:{}", out.split(' ').next().unwrap_or_default())
}

#[test]
fn skopeo_and_podman_read_all_forms() {
    require!("docker-registry", "skopeo", "podman");
    require!(if !is_root(), "podman is run as root, and the tests are not");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let bench = Bench::new();
    for (n, (transport, flags)) in FORMS.iter().enumerate() {
        let to = place(&bench, n);
        let digest = bench.push(flags, "localhost/image", &to);
        let copy = bench.own.path().join(format!("copy{n}"));
        bench.skopeo(&["copy", "-q", "--src-tls-verify=false", &to, &format!("dir:{}", copy.display())]);
        let manifest = fs::read(copy.join("manifest.json")).expect("a manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        assert_eq!(manifest["config"]["digest"], bench.id, "{to}");
        if *transport != "docker-archive" {
            assert_eq!(digest_of(&copy.join("manifest.json")), digest, "{to}");
        }
        let pulled = bench.podman(["pull", "-q", "--tls-verify=false", &to]);
        assert_eq!(format!("sha256:{}", pulled.trim()), bench.id, "{to}");
        let archive = bench.podman(["image", "inspect", "--format", "{{.Id}} {{.Labels.made}}", pulled.trim()]);
        assert_eq!(archive.trim(), format!("{} here", bench.id.trim_start_matches("sha256:")), "{to}");
        bench.podman(["rmi", "-f", pulled.trim()]);
        assert_eq!(bench.read(&to), bench.id, "{to}");
    }
    // All images of an index, in a registry and in a layout.
    for to in [bench.remote("many"), "oci:tmp/many:1".to_owned()] {
        let digest = bench.push(&["--all"], "localhost/many", &to);
        let copy = bench.own.path().join("many");
        bench.skopeo(&["copy", "-q", "--all", "--src-tls-verify=false", &to, &format!("dir:{}", copy.display())]);
        assert_eq!(digest_of(&copy.join("manifest.json")), digest, "{to}");
        fs::remove_dir_all(copy).expect("the copy");
        bench.podman(["pull", "-q", "--tls-verify=false", "--arch=arm64", &to]);
        let label = bench.podman(["images", "--format", "{{.ID}}"]);
        let label = bench.podman(["image", "inspect", "--format", "{{.Labels.for}}", label.trim()]);
        assert_eq!(label.trim(), "arm64", "{to}");
        bench.podman(["rmi", "-f", "-a"]);
    }
}

#[test]
fn skopeo_and_podman_write_what_is_read() {
    require!("docker-registry", "skopeo", "podman");
    require!(if !is_root(), "podman is run as root, and the tests are not");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let bench = Bench::new();
    let from = bench.remote("image");
    bench.push(&[], "localhost/image", &from);
    let path = |name: &str| format!("tmp/{name}");
    // As root they write files that others may not read.
    let readable = |name: &str| drop(Run::new("chmod", ["-R", "a+rX"]).arg(bench.lab.path(path(name))).ok());
    for (name, to, flags) in [
        ("dir", format!("dir:{}", path("dir")), &[][..]),
        ("oci", format!("oci:{}:1", path("oci")), &[]),
        ("oci-zstd", format!("oci:{}:1", path("oci-zstd")), &["--dest-compress-format=zstd", "--dest-compress"]),
        ("oci-archive", format!("oci-archive:{}:1", path("oci-archive")), &[]),
        ("docker-archive", format!("docker-archive:{}:localhost/image:1", path("docker-archive")), &["--format=v2s2"]),
        ("", bench.remote("v2s2"), &["--format=v2s2"]),
        ("", bench.remote("zstd"), &["--dest-compress-format=zstd", "--format=oci"]),
    ] {
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        bench.skopeo(&[&["copy", "-q"][..], &tls, flags, &[&from, &to]].concat());
        if !name.is_empty() {
            readable(name);
        }
        let found = bench.read(&to);
        // The config of another format is another one.
        match to.contains("v2s2") || name == "docker-archive" {
            true => assert_ne!(found, "sha256:"),
            false => assert_eq!(found, bench.id, "{to}"),
        }
    }
    let image = bench.podman(["pull", "-q", "--tls-verify=false", &from]).trim().to_owned();
    for (format, transport) in [
        ("docker-archive", "docker-archive"),
        ("oci-archive", "oci-archive"),
        ("oci-dir", "oci"),
        ("docker-dir", "dir"),
    ] {
        let (name, target) = (format!("podman-{format}"), path(&format!("podman-{format}")));
        bench.podman(["save", "-q", "--format", format, "-o", &target, &image]);
        readable(&name);
        assert!(bench.read(&format!("{transport}:{target}")).starts_with("sha256:"), "{format}");
        // `load` finds out what it is.
        let load = bench.lab.rbuild(["load", "-i", &target]).env("RBUILD_ROOT", bench.lab.path(&name));
        if format != "docker-dir" {
            load.ok();
        }
    }
    for compression in ["gzip", "zstd"] {
        let to = bench.remote(&format!("podman-{compression}"));
        bench.podman(["push", "-q", "--tls-verify=false", "--compression-format", compression, &image, &to]);
        assert_eq!(bench.read(&to), bench.id, "{to}");
    }
}

#[test]
fn umoci_reads_layouts_and_changes_them() {
    require!("docker-registry", "umoci");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let bench = Bench::new();
    let layout = bench.lab.path("tmp/layout");
    let image = format!("{}:1", layout.display());
    for compression in ["gzip", "none"] {
        let flag = format!("--compression-format={compression}");
        bench.push(&[&flag], "localhost/image", &format!("oci:{image}"));
        let bundle = bench.lab.path(format!("tmp/bundle-{compression}"));
        bench.lab.program("umoci", ["unpack", "--rootless", "--image", &image]).arg(&bundle).ok();
        assert_eq!(fs::read(bundle.join("rootfs/srv/file")).expect("the file"), b"text\n");
    }
    bench.push(&["--compression-format=gzip"], "localhost/image", &format!("oci:{image}"));
    assert_eq!(bench.read(&format!("oci:{image}")), bench.id);
    let file = bench.lab.write("more", "more\n");
    let insert = ["insert", "--rootless", "--image", &image, "--tag", "2"];
    bench.lab.program("umoci", insert).arg(file).arg("/srv/more").ok();
    let changed = bench.read(&format!("oci:{}:2", layout.display()));
    assert_ne!(changed, bench.id);
    bench.lab.rbuild(["pull", &format!("oci:{}:2", layout.display())]).ok();
    bench.lab.context("from", &[("Dockerfile", &format!("FROM {changed}\n"))]);
    let out = bench.lab.path("out");
    bench.lab.rbuild(["bud", "-o"]).arg(&out).arg("from").ok();
    assert_eq!(fs::read(out.join("srv/more")).expect("the file"), b"more\n");
    assert_eq!(fs::read(out.join("srv/file")).expect("the file"), b"text\n");
}

#[test]
fn dockerd_reads_archives_and_writes_them() {
    require!("docker-registry", "dockerd", "docker");
    require!(if !is_root(), "dockerd is run as root, and the tests are not");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let bench = Bench::new();
    let dockerd = Dockerd::start();
    let inspect = |name: &str| {
        let format = "{{.Id}} {{.Config.Labels.made}} {{.Config.Cmd}} {{len .RootFS.Layers}}";
        dockerd.docker(&["image", "inspect", "--format", format, name]).ok().stdout.trim().to_owned()
    };
    let wanted = format!("{} here [id] 2", bench.id);

    let archive = bench.lab.path("tmp/one");
    bench.push(&[], "localhost/image", &format!("docker-archive:{}:localhost/one:1", archive.display()));
    let said = dockerd.docker(&["load", "-i"]).arg(&archive).ok();
    assert!(said.stdout.contains("Loaded image: localhost/one:1"), "{said}");
    assert_eq!(inspect("localhost/one:1"), wanted);

    // Several images in one archive.
    let several = bench.lab.path("tmp/several");
    bench.lab.rbuild(["save", "localhost/image", "localhost/busybox", "-o"]).arg(&several).ok();
    dockerd.docker(&["load", "-i"]).arg(&several).ok();
    assert_eq!(inspect("localhost/image"), wanted);
    dockerd.docker(&["image", "inspect", "localhost/busybox"]).ok();

    // From a registry, in both manifest formats.
    for format in ["oci", "docker"] {
        let name = bench.remote(format);
        bench.push(&["--format", format], "localhost/image", &name);
        let name = name.trim_start_matches("docker://");
        dockerd.docker(&["rmi", "-f", "localhost/image", "localhost/one:1"]).output();
        dockerd.docker(&["pull", name]).ok();
        let id = inspect(name);
        assert!(id.ends_with(" here [id] 2"), "{id}");
        if format == "oci" {
            assert_eq!(id, wanted);
        }
        dockerd.docker(&["tag", name, "localhost/image"]).ok();
    }

    // What it writes.
    let saved = bench.own.path().join("saved.tar");
    dockerd.docker(&["save", "localhost/image", "localhost/busybox", "-o"]).arg(&saved).ok();
    fs::copy(&saved, bench.lab.path("saved.tar")).expect("a copy");
    bench.lab.own(&bench.lab.path("saved.tar"));
    let fresh = bench.lab.path("loaded");
    let said = bench.lab.rbuild(["load", "-i", "saved.tar"]).env("RBUILD_ROOT", &fresh).ok();
    assert!(said.stdout.contains("localhost/image"), "{said}");
    let ids = bench.lab.rbuild(["images", "-q", "--no-trunc"]).env("RBUILD_ROOT", &fresh).ok().stdout;
    let docker = dockerd.docker(&["images", "-q", "--no-trunc", "localhost/*"]).ok().stdout;
    let sorted = |text: &str| {
        let mut ids: Vec<String> = text.lines().map(|l| l.trim_start_matches("sha256:").to_owned()).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    assert_eq!(sorted(&ids), sorted(&docker));
    bench.lab.rbuild(["check"]).env("RBUILD_ROOT", &fresh).ok();
}
