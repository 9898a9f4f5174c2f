//! Flags of the command line that decide what a build makes, reuses and asks of registries: each test fails if its flag were
//! dropped. Those about the surroundings of RUN steps are in `surroundings`.

use crate::harness::{Done, Lab, Registry, busybox_is_missing, require};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A lab with a context `c` that needs no command to be run.
fn lab(dockerfile: &str) -> Lab {
    let lab = Lab::new();
    lab.context("c", &[("Dockerfile", dockerfile), ("a", "a"), ("b", "b")]);
    lab
}

/// Builds the context `c`, or another last argument.
#[track_caller]
fn builds(lab: &Lab, flags: &[&str]) -> Done {
    let context = if flags.last().is_some_and(|f| lab.path(f).is_dir()) { None } else { Some("c") };
    lab.rbuild(["bud"]).args(flags).args(context).ok()
}

/// What `rbuild inspect` shows of an image.
fn inspect(lab: &Lab, image: &str) -> Value {
    serde_json::from_str(&lab.rbuild(["inspect", image]).ok().stdout).expect("JSON")
}

/// The manifest and the layers, as they lie there, of an OCI layout with one image.
fn layout(dir: &Path) -> (Value, Vec<Vec<u8>>) {
    let blob = |digest: &Value| {
        let hex = digest.as_str().and_then(|d| d.strip_prefix("sha256:")).expect("a digest");
        fs::read(dir.join("blobs/sha256").join(hex)).expect("a blob")
    };
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).expect("the index")).expect("JSON");
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).expect("JSON");
    let layers = manifest["layers"].as_array().expect("a list").iter().map(|l| blob(&l["digest"])).collect();
    (manifest, layers)
}

#[test]
fn labels_and_annotations_of_the_base() {
    let lab = lab("FROM scratch\nLABEL keep=1 drop=2 same=3\nCOPY a /\n");
    builds(&lab, &["-t", "base", "--annotation=keep=1", "--annotation", "drop=2", "--identity-label"]);
    assert_eq!(inspect(&lab, "base")["OCIv1"]["config"]["Labels"]["io.rbuild.version"], env!("CARGO_PKG_VERSION"));
    lab.context("d", &[("Dockerfile", "FROM base AS one\nLABEL stage=4\nFROM one\nLABEL same=3 own=5\n")]);
    let labels = |flags: &[&str]| {
        lab.rbuild(["bud", "-t", "x", "--unsetlabel", "io.rbuild.version"]).args(flags).arg("d").ok();
        inspect(&lab, "x")["OCIv1"]["config"]["Labels"].clone()
    };
    assert_eq!(labels(&[]), json!({"keep": "1", "drop": "2", "same": "3", "stage": "4", "own": "5"}));
    assert_eq!(labels(&["--inherit-labels=false"]), json!({"same": "3", "own": "5"}));
    assert_eq!(labels(&["--inherit-labels=false", "--label=l=6"]), json!({"same": "3", "own": "5", "l": "6"}));
    assert_eq!(labels(&["--unsetlabel=drop,stage"]), json!({"keep": "1", "same": "3", "own": "5"}));

    let annotations = |flags: &[&str]| {
        builds(&lab, &[&["-t", "x"], flags, &["d"]].concat());
        let mut all = inspect(&lab, "x")["ImageAnnotations"].as_object().expect("an object").clone();
        let created = all.remove("org.opencontainers.image.created").is_some();
        all.retain(|name, _| !name.starts_with("org.opencontainers.image.base"));
        (Value::Object(all), created)
    };
    assert_eq!(annotations(&[]), (json!({"keep": "1", "drop": "2"}), true));
    assert_eq!(annotations(&["--unsetannotation=drop"]), (json!({"keep": "1"}), true));
    assert_eq!(annotations(&["--inherit-annotations=false", "--annotation=a=b=c"]), (json!({"a": "b=c"}), true));
    assert_eq!(annotations(&["--created-annotation=false"]), (json!({"keep": "1", "drop": "2"}), false));
}

#[test]
fn what_the_config_and_the_manifest_say() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    builds(&lab, &["-t", "x", "--os-version=7.1", "--os-feature=one", "--os-feature=two", "--iidfile-raw=home/raw"]);
    let shown = inspect(&lab, "x");
    assert_eq!(shown["OCIv1"]["os.version"], "7.1", "{shown}");
    assert_eq!(shown["OCIv1"]["os.features"], json!(["one", "two"]));
    let raw = fs::read_to_string(lab.path("home/raw")).expect("the id");
    assert!(shown["FromImageID"] == *raw || shown["FromImageID"] == *format!("sha256:{raw}"), "{raw} {shown}");
    builds(&lab, &["-t", "y", "--os=plan9", "--arch=arm", "--variant=v5"]);
    let shown = &inspect(&lab, "y")["OCIv1"];
    assert_eq!(json!([shown["os"], shown["architecture"], shown["variant"]]), json!(["plan9", "arm", "v5"]));

    let media_types = |flags: &[&str]| {
        let dir = format!("home/{}", flags.concat());
        builds(&lab, &[flags, &["-t", &format!("oci:{dir}")]].concat());
        let (manifest, layers) = layout(&lab.path(&dir));
        let last = |v: &Value| v.as_str().and_then(|t| t.rsplit('.').next()).unwrap_or_default().to_owned();
        (last(&manifest["mediaType"]), last(&manifest["layers"][0]["mediaType"]), layers[0][..2].to_vec())
    };
    let is = |manifest: &str, layer: &str, magic: &[u8]| (manifest.to_owned(), layer.to_owned(), magic.to_vec());
    assert_eq!(media_types(&["--compression-format=gzip"]), is("v1+json", "tar+gzip", &[0x1f, 0x8b]));
    assert_eq!(media_types(&["--compression-format=zstd"]), is("v1+json", "tar+zstd", &[0x28, 0xb5]));
    assert_eq!(media_types(&["--compression-format=none"]), is("v1+json", "tar", b"a\0"));
    builds(&lab, &["-t", "docker", "--format=docker"]);
    let manifest = inspect(&lab, "docker")["Manifest"].to_string();
    assert!(manifest.contains("vnd.docker.distribution.manifest.v2+json"), "{manifest}");
}

#[test]
fn times_of_files_and_of_the_image() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    let file = fs::File::options().write(true).open(lab.path("c/a")).expect("the file");
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000)).expect("its time");
    let times = |flags: &[&str]| {
        let dir = format!("home/{}", flags.concat());
        let place = format!("oci:{dir}");
        builds(&lab, &[flags, &["--compression-format=none", "-t", &place, "-t", "x"]].concat());
        let (_, layers) = layout(&lab.path(&dir));
        let mut archive = tar::Archive::new(&layers[0][..]);
        let file = archive.entries().expect("a tar").next().expect("an entry").expect("an entry");
        let created = inspect(&lab, "x")["OCIv1"]["created"].as_str().expect("a time").to_owned();
        (file.header().mtime().expect("a time"), created.chars().take(19).collect::<String>())
    };
    assert_eq!(times(&[]).0, 2_000);
    assert_eq!(times(&["--timestamp=5000"]), (5_000, "1970-01-01T01:23:20".into()));
    assert_eq!(times(&["--source-date-epoch=5000"]), (2_000, "1970-01-01T01:23:20".into()));
    assert_eq!(times(&["--source-date-epoch=1000"]), (1_000, "1970-01-01T00:16:40".into()));
    let kept = times(&["--source-date-epoch=1000", "--rewrite-timestamp=false"]);
    assert_eq!(kept, (2_000, "1970-01-01T00:16:40".into()));
}

#[test]
fn how_many_layers_there_are() {
    let lab = lab("FROM scratch\nCOPY a /\nCOPY b /\n");
    builds(&lab, &["-t", "base"]);
    lab.context("d", &[("Dockerfile", "FROM base\nCOPY c /\nCOPY d /\n"), ("c", "c"), ("d", "d")]);
    let count = |image: &str| inspect(&lab, image)["OCIv1"]["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    for (flag, layers) in [("--layers", 4), ("--layers=false", 3), ("--squash", 1), ("--squash-all", 1)] {
        builds(&lab, &["-t", "x", flag, "d"]);
        assert_eq!(count("x"), layers, "{flag}");
    }
    lab.rbuild(["bud", "-t", "x", "d"]).env("BUILDAH_LAYERS", "false").ok();
    assert_eq!(count("x"), 3);
    lab.rbuild(["tag", "base", "docker.io/library/base"]).ok();
    lab.docker(["build", "-t", "docker.io/library/x", "--squash", "d"]).ok();
    assert_eq!(count("docker.io/library/x"), 3, "Docker leaves the layers of the base");
}

#[test]
fn what_is_reused() {
    let lab = lab("FROM scratch AS one\nCOPY a /\nFROM scratch AS two\nCOPY b /\nCOPY --from=one /a /\n");
    let hits = |done: Done| done.stdout.matches("Using cache").count();
    let bud = |flag: &str| hits(builds(&lab, &[flag]));
    bud("--layers");
    let all = bud("--layers");
    assert_eq!((all, bud("--no-cache"), bud("--no-cache=false")), (3, 0, 3));
    assert_eq!((bud("--cache-ttl=1h"), bud("--cache-ttl=0"), bud("--layers"), bud("--cache-ttl=1ns")), (3, 0, 3, 0));
    let docker =
        |flag: &str| lab.docker(["build", "--progress=plain", flag, "c"]).ok().stderr.matches("CACHED").count();
    assert_eq!((docker("--no-cache"), docker("-q=false"), docker("--no-cache-filter=two")), (0, 3, 1));
    assert_eq!(docker("--no-cache-filter=one,two"), 0);
}

#[test]
fn what_is_built_of_the_file() {
    let lab = lab(
        "ARG X=0\nFROM scratch AS one\nARG X\nLABEL x=$X\nCOPY a* /\nFROM scratch AS bad\nCOPY none /\nFROM one\nLABEL y=1\n",
    );
    lab.write("args", "# values\n\nX=7\nY=8\n");
    let labels = |image: &str| inspect(&lab, image)["OCIv1"]["config"]["Labels"].clone();
    builds(&lab, &["-t", "x", "--build-arg-file=args"]);
    assert_eq!(labels("x"), json!({"x": "7", "y": "1"}));
    builds(&lab, &["-t", "x", "--build-arg-file=args", "--build-arg=X=9", "--target=one"]);
    assert_eq!(labels("x"), json!({"x": "9"}));
    let done = lab.rbuild(["bud", "--skip-unused-stages=false", "c"]).fails();
    assert!(done.stderr.contains("none"), "{done}");
    lab.write("ignored", "a\n");
    let done = lab.rbuild(["bud", "--ignorefile=ignored", "c"]).output();
    assert!(done.stderr.contains("a*"), "{done}");
}

#[test]
fn stages_run_together_or_one_after_the_other() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab("");
    lab.import_busybox();
    let stages = |run: &str| {
        let stage = |n: u8, other: u8| {
            let run = run.replace("OWN", &n.to_string()).replace("OTHER", &other.to_string());
            format!("FROM localhost/busybox AS s{n}\nRUN --mount=type=cache,target=/c {run} && touch /done{n}\n")
        };
        let last = "FROM scratch\nCOPY --from=s1 /done1 /\nCOPY --from=s2 /done2 /\n";
        lab.write("c/Dockerfile", stage(1, 2) + &stage(2, 1) + last);
    };
    // Each waits for the other one.
    stages("touch /c/OWN && timeout 60 sh -c 'until test -e /c/OTHER; do sleep 0.1; done'");
    builds(&lab, &["--jobs=2"]);
    // None finds the other one at work.
    stages("test ! -e /c/at-work && touch /c/at-work && sleep 0.3 && rm /c/at-work");
    builds(&lab, &["--jobs=1", "--no-cache"]);
}

#[test]
fn when_registries_are_asked_for_bases() {
    require!("docker-registry");
    let (lab, registry) = (lab("FROM scratch\nLABEL v=1\nCOPY a /\n"), Registry::start());
    let name = format!("{}/team/base:1", registry.host());
    let publish = |version: &str| {
        let elsewhere = |args: &[&str]| lab.rbuild(args).env("RBUILD_ROOT", lab.path("elsewhere")).ok();
        lab.write("c/Dockerfile", format!("FROM scratch\nLABEL v={version}\nCOPY a /\n"));
        elsewhere(&["bud", "-t", &format!("docker://{name}"), "c"]);
    };
    publish("1");
    lab.context("d", &[("Dockerfile", &format!("FROM {name}\nLABEL own=1\n"))]);
    let version = |flags: &[&str]| {
        lab.rbuild(["bud", "-t", "x"]).args(flags).arg("d").ok();
        inspect(&lab, "x")["OCIv1"]["config"]["Labels"]["v"].as_str().map(str::to_owned).unwrap_or_default()
    };
    let done = lab.rbuild(["bud", "--pull=never", "d"]).fails();
    assert!(done.stderr.contains("hint:"), "{done}");
    assert_eq!(version(&[]), "1");
    publish("2");
    assert_eq!(
        (version(&[]), version(&["--pull=missing"]), version(&["--pull=never"])),
        ("1".into(), "1".into(), "1".into())
    );
    assert_eq!(version(&["--pull=newer"]), "2");
    publish("3");
    assert_eq!(version(&["--pull"]), "3");
    publish("4");
    lab.docker(["build", "-t", "d", "--pull", "d"]).ok();
    assert_eq!(version(&["--pull=never"]), "4");
    drop(registry);
    assert_eq!((version(&["--pull=newer", "--retry=0"]), version(&["--pull-never"])), ("4".into(), "4".into()));
    lab.rbuild(["bud", "--pull=always", "--retry=0", "d"]).fails();
    let started = std::time::Instant::now();
    lab.rbuild(["bud", "--pull-always", "--retry=2", "--retry-delay=700ms", "d"]).fails();
    // Each wait is between half and all of 700 ms and 1.4 s.
    assert!(started.elapsed().as_millis() >= 1050, "{:?}", started.elapsed());
}

#[test]
fn who_may_push() {
    require!("docker-registry");
    let (lab, registry) = (lab("FROM scratch\nCOPY a /\n"), Registry::guarded());
    let place = format!("docker://{}/x", registry.host());
    for creds in [&[][..], &["--creds=someone:wrong"]] {
        let done = lab.rbuild(["bud", "-t", &place, "c"]).args(creds).fails();
        assert!(done.stderr.contains("hint:") && !done.stderr.contains("wrong"), "{done}");
        assert!(!done.stderr.contains("COPY a"), "it is known before the build: {done}");
        let done = lab.rbuild(["bud", "--skip-push-check", "-t", &place, "c"]).args(creds).fails();
        assert!(format!("{}{}", done.stdout, done.stderr).contains("COPY a"), "{done}");
    }
    lab.rbuild(["bud", "-t", &place, "--creds=someone:secret", "c"]).ok();
    // `someone:secret`, as `login` writes it.
    let auth = json!({"auths": {registry.host(): {"auth": "c29tZW9uZTpzZWNyZXQ="}}}).to_string();
    let file = lab.write("auth.json", &auth);
    lab.rbuild(["bud", "-t", &place, "--authfile"]).arg(&file).arg("c").ok();
    lab.rbuild(["bud", "-t", &place, "c"]).env("REGISTRY_AUTH_FILE", &file).ok();
    let docker = || lab.docker(["build", "--push", "-t", place.trim_start_matches("docker://"), "c"]);
    docker().fails();
    lab.write("docker/config.json", &auth);
    docker().env("DOCKER_CONFIG", lab.path("docker")).ok();
    let done = lab.rbuild(["bud", "--tls-verify=true", "-t", &place, "--authfile"]).arg(&file).arg("c").fails();
    assert!(done.stderr.contains("hint: the registry seems to speak plain HTTP"), "{done}");
}

#[test]
fn the_docker_dialect_s_flags_reach_the_build() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let steps = r#"FROM localhost/busybox AS one
ARG A
RUN --mount=type=secret,id=s <<EOF
set -e
test "$A" = b && test "$(cat /run/secrets/s)" = a
grep -q '192.0.2.7.*mirror' /etc/hosts && grep -q '192.0.2.7.*other' /etc/hosts
test "$(ls /sys/class/net)" = lo || test "$(wc -l </proc/net/dev)" = 3
test "$(df -m /dev/shm | awk 'END {print $2}')" = 3 && test "$(ulimit -Sc)" = 0
grep -q '^Cpus_allowed_list:[[:space:]]*0$' /proc/self/status
test -e /file || true
EOF
FROM nowhere.example/none
"#;
    let lab = lab(steps);
    lab.import_busybox();
    lab.write("file", steps);
    let done = lab
        .docker(["buildx", "--builder=default", "build", "-f", "file", "-t", "x", "--target=one", "--build-arg=A=b"])
        .args(["--secret=id=s,src=c/a", "--add-host=mirror;other:192.0.2.7", "--network=none", "--shm-size=3m"])
        .args(["--ulimit=core=0", "--cpuset-cpus=0", "--label=l=1", "--iidfile=home/iid", "--metadata-file=home/meta"])
        .args(["--load", "--provenance", "false", "--sbom=false", "--progress=plain", "c"])
        .ok();
    assert!(done.stderr.contains("naming to docker.io/library/x"), "{done}");
    assert_eq!(done.stderr.matches("warning: ").count(), 1, "{done}");
    assert_eq!(inspect(&lab, "docker.io/library/x")["OCIv1"]["config"]["Labels"], json!({"l": "1"}));
    let id = fs::read_to_string(lab.path("home/iid")).expect("the id");
    let meta: Value = serde_json::from_slice(&fs::read(lab.path("home/meta")).expect("the file")).expect("JSON");
    assert_eq!(
        json!([meta["containerimage.config.digest"], meta["image.name"]]),
        json!([id, "docker.io/library/x:latest"])
    );
}
