//! RUN that starts while the layers of its base are still on their way.

use crate::compression::sha256;
use crate::faults::{head, header, pass_body};
use crate::fuse;
use crate::harness::{Done, Lab, Registry, Run, busybox_is_missing, require};
use crate::server::Server;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
const FORMS: [&str; 2] = ["estargz", "zstd:chunked"];

/// A server before a registry that keeps whole layers back until somebody asks it for `/release`. After `/die` it is dead.
struct Gate {
    state: Arc<State>,
    server: Server,
}

struct State {
    upstream: u16,
    released: Mutex<bool>,
    changed: Condvar,
    dead: AtomicBool,
    /// Layers with fewer bytes are not kept back.
    least: AtomicU64,
    /// Parts of blobs that were asked for, and whether any are given.
    parts: AtomicUsize,
    gives_parts: AtomicBool,
}

impl Gate {
    fn before(registry: &Registry) -> Gate {
        let state = Arc::new(State {
            upstream: registry.port(),
            released: Mutex::new(false),
            changed: Condvar::new(),
            dead: AtomicBool::default(),
            least: AtomicU64::new(100_000),
            parts: AtomicUsize::default(),
            gives_parts: AtomicBool::new(true),
        });
        Gate { server: Server::start(state.clone(), serve), state }
    }

    fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.server.port)
    }

    fn released(&self, released: bool) {
        *self.state.released.lock().expect("the state") = released;
        self.state.changed.notify_all();
    }

    fn parts(&self) -> usize {
        self.state.parts.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.released(true);
    }
}

fn serve(client: TcpStream, state: &State) -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(client.try_clone()?), client);
    let request = head(&mut input)?;
    let line = request.first().cloned().unwrap_or_default();
    let says = |output: &mut TcpStream| {
        write!(output, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
    };
    let mut released = state.released.lock().expect("the state");
    if line.contains(" /release") {
        *released = true;
        state.changed.notify_all();
        return says(&mut output);
    }
    if line.contains(" /die") {
        state.dead.store(true, Ordering::SeqCst);
        state.changed.notify_all();
        return says(&mut output);
    }
    let part = header(&request, "range").is_some_and(|range| !range.ends_with('-'));
    if part {
        state.parts.fetch_add(1, Ordering::SeqCst);
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", state.upstream))?;
    let drop_range = part && !state.gives_parts.load(Ordering::SeqCst);
    let kept = request.iter().filter(|line| {
        let line = line.to_ascii_lowercase();
        !(line.starts_with("connection:") || drop_range && line.starts_with("range:"))
    });
    let text: String = kept.map(|line| format!("{line}\r\n")).collect();
    if line.starts_with("GET ")
        && line.contains("/blobs/")
        && !part
        && length(state.upstream, &line)? >= state.least.load(Ordering::SeqCst)
    {
        while !*released && !state.dead.load(Ordering::SeqCst) {
            released = state.changed.wait(released).expect("the state");
        }
    }
    drop(released);
    if state.dead.load(Ordering::SeqCst) {
        return Ok(());
    }
    upstream.write_all(format!("{text}Connection: close\r\n\r\n").as_bytes())?;
    pass_body(&request, &mut input, &mut upstream, u64::MAX)?;
    io::copy(&mut upstream, &mut output)?;
    output.shutdown(Shutdown::Both)
}

/// The length of what is asked for.
fn length(upstream: u16, line: &str) -> io::Result<u64> {
    let mut ask = TcpStream::connect(("127.0.0.1", upstream))?;
    write!(
        ask,
        "HEAD {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        line.split(' ').nth(1).unwrap_or_default()
    )?;
    let mut answer = String::new();
    ask.read_to_string(&mut answer)?;
    let head: Vec<String> = answer.lines().map(str::to_owned).collect();
    Ok(header(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0))
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).to_le_bytes()
    });
    words.take(bytes).collect()
}

/// A lab, a registry with `base-estargz` and `base-zstd` in it, and the gate before it. Each has a lower layer with a
/// shell, a small and a large file, and an upper one that removes, replaces, links and owns files.
struct Scene {
    lab: Lab,
    registry: Registry,
    gate: Gate,
}

const BASE: &str = "FROM localhost/busybox AS lower
COPY --chown=33:34 small other /d/
COPY big /d/big
RUN ln /d/small /d/hard && ln -s small /d/soft && touch -d @1500000000 /d/other && chmod 4755 /d/other && mkdir /gone /hidden && touch /gone/x /hidden/x
FROM lower
RUN rm -r /gone && rm -r /hidden && mkdir /hidden && touch /hidden/y && chown 7:8 /hidden/y
COPY more /d/more
";

fn repository(form: &str) -> String {
    format!("base-{}", form.replace(':', "-"))
}

impl Scene {
    fn new() -> Option<Scene> {
        let (lab, registry) = (Lab::new(), Registry::start());
        if fuse::missing(&lab) {
            return None;
        }
        lab.import_busybox();
        lab.context("base", &[("Dockerfile", BASE), ("small", "the small file\n"), ("other", "the other file\n")]);
        lab.write("base/big", noise(9 << 20, 1));
        lab.write("base/more", noise(3 << 20, 2));
        // Two layers: one with all of the stage below, and one on top.
        lab.write("base/lower", BASE.split("FROM lower").next().unwrap_or_default());
        lab.rbuild(["bud", "-q", "--timestamp=7", "--squash", "-t", "lower", "-f", "base/lower", "base"]).ok();
        let upper = BASE.split("FROM lower\n").nth(1).unwrap_or_default();
        lab.write("base/upper", format!("FROM localhost/lower\n{upper}"));
        lab.rbuild(["bud", "-q", "--timestamp=7", "--layers=false", "-t", "base", "-f", "base/upper", "base"]).ok();
        for form in FORMS {
            let to = format!("docker://{}/{}", registry.host(), repository(form));
            lab.rbuild(["push", "-q", "--compression-format", form, "--force-compression", "base", &to]).ok();
        }
        let gate = Gate::before(&registry);
        Some(Scene { lab, registry, gate })
    }

    /// A build in a fresh store.
    fn build(&self, driver: &str, text: &str) -> (Done, PathBuf) {
        let (run, store) = self.run(driver, text);
        (run.output(), store)
    }

    fn run(&self, driver: &str, text: &str) -> (Run, PathBuf) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let (store, context) = (self.lab.path(format!("store-{n}")), self.lab.context(&format!("c{n}"), &[]));
        self.lab.write(format!("c{n}/Dockerfile"), text);
        let flags = ["--storage-driver", driver, "bud", "--timestamp=9", "--retry=1", "--retry-delay=100ms"];
        let run = self.lab.rbuild(flags).args(["--registry-timeout=5s", "-t", "x"]).arg(context);
        (run.env("RBUILD_ROOT", &store), store)
    }

    fn digest(&self, store: &PathBuf) -> String {
        let inspect = self.lab.rbuild(["inspect", "--format", "{{.FromImageDigest}}", "localhost/x"]);
        inspect.env("RBUILD_ROOT", store).ok().stdout
    }

    /// Nothing of what a build makes and does not keep is left.
    fn is_tidy(&self, store: &PathBuf) {
        let left = fs::read_dir(store.join("tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "of temporary directories");
        self.lab.rbuild(["check"]).env("RBUILD_ROOT", store).ok();
    }
}

/// Reads, changes and links files of both layers, and has the whole layers released in the middle.
const STEP: &str = "RUN cat /d/small /d/soft && stat -c '%u:%g %a %Y %s %h' /d/* && ls -l /d /hidden && test ! -e /gone && \
    wget -q -O - http://127.0.0.1:PORT/release && echo more >> /d/small && cat /d/hard && chmod 600 /d/other && \
    : > /d/big && ln /d/more /more && head -c 5 /d/more | wc -c && cp -a /d/soft /soft && mv /hidden/y /y && rm /d/other\n";

fn step(text: &str, gate: &Gate) -> String {
    text.replace("PORT", &gate.server.port.to_string())
}

#[test]
fn a_step_runs_before_its_base_is_here_and_the_image_is_the_same() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    for form in FORMS {
        let text = format!("FROM {}\n{}", scene.gate.name(&repository(form)), step(STEP, &scene.gate));
        scene.gate.released(false);
        let (done, lazy) = scene.build("fuse", &text);
        assert_eq!(done.code, 0, "{form}: {done}");
        assert!(done.stdout.contains("the small file\nthe small file\n") && done.stdout.contains("33:34"), "{done}");
        assert!(scene.gate.parts() > 4, "{form}");
        scene.is_tidy(&lazy);
        let (plain, whole) = scene.build("overlay", &text);
        assert_eq!(plain.code, 0, "{form}: {plain}");
        assert_eq!(scene.gate.parts(), 0, "only the fuse driver asks for parts");
        assert_eq!(scene.digest(&lazy), scene.digest(&whole), "{form}");
    }
}

#[test]
fn layers_without_a_table_are_waited_for() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    let push = |image: &str, form: &str, to: &str, more: &[&str]| {
        let to = format!("docker://{}/{to}", scene.registry.host());
        scene.lab.rbuild(["push", "-q", "--compression-format", form]).args(more).args([image, &to]).ok();
    };
    // Below a table and above one.
    let name = format!("{}/{}", scene.registry.host(), repository("zstd:chunked"));
    scene.lab.context(
        "child",
        &[("Dockerfile", &format!("FROM {name}\nCOPY f /f\nRUN ln /d/small /linked\n")), ("f", "f\n")],
    );
    scene.lab.rbuild(["bud", "-q", "--timestamp=7", "-t", "child", "child"]).ok();
    push("child", "gzip", "child", &[]);
    push("lower", "gzip", "under", &["--force-compression"]);
    let under = format!("{}/under", scene.registry.host());
    scene.lab.context("over", &[("Dockerfile", &format!("FROM {under}\nCOPY more /d/more\n"))]);
    scene.lab.write("over/more", noise(20 << 20, 5));
    scene.lab.rbuild(["bud", "-q", "--timestamp=7", "-t", "over", "over"]).ok();
    push("over", "estargz", "over", &[]);
    for (base, least) in [("child", 2 << 20), ("over", 15 << 20)] {
        // What is larger waits for the step, and the step for what is smaller.
        scene.gate.state.least.store(least, Ordering::SeqCst);
        scene.gate.released(false);
        let text = "RUN md5sum /bin/busybox && wget -q -O - http://127.0.0.1:PORT/release && md5sum /d/* > /sums; echo x >> /d/more; ls /\n";
        let text = format!("FROM {}\n{}", scene.gate.name(base), step(text, &scene.gate));
        let (done, lazy) = scene.build("fuse", &text);
        assert_eq!(done.code, 0, "{done}");
        assert!(scene.gate.parts() > 0, "{base}");
        scene.is_tidy(&lazy);
        let (done, whole) = scene.build("overlay", &text);
        assert_eq!(done.code, 0, "{done}");
        assert_eq!(scene.digest(&lazy), scene.digest(&whole), "{base}");
    }
    // Nor is anything but RUN begun early, nor where the registry sends no parts.
    let base = scene.gate.name(&repository("estargz"));
    let (done, _) = scene.build("fuse", &format!("FROM {base}\nWORKDIR /w\nRUN cat /d/other\n"));
    assert_eq!((done.code, scene.gate.parts()), (0, 0), "{done}");
    scene.gate.state.gives_parts.store(false, Ordering::SeqCst);
    let (done, store) = scene.build("fuse", &format!("FROM {base}\nRUN cat /d/other\n"));
    assert_eq!(done.code, 0, "{done}");
    assert!(scene.gate.parts() > 0 && done.stdout.contains("the other file"), "{done}");
    scene.is_tidy(&store);
}

/// A base is only asked for its config, where nothing of its files is needed.
#[test]
fn a_base_that_is_not_needed_is_never_pulled() {
    require!("docker-registry");
    let (lab, registry) = (Lab::new(), Registry::start());
    lab.context("base", &[("Dockerfile", "FROM scratch\nCOPY big /big\n")]);
    lab.write("base/big", noise(3 << 20, 3));
    let gate = Gate::before(&registry);
    lab.rbuild(["bud", "-q", "-t", &format!("docker://{}/base", registry.host()), "base"]).ok();
    // The gate lets no layer through. One stage is not used, and of the other's base nothing is read.
    let text = format!(
        "FROM {0} AS unused\nRUN true\nFROM {1} AS nowhere\nCOPY big /\nFROM {0}\nENV a=b\nLABEL c=d\n",
        gate.name("base"),
        gate.name("does-not-exist")
    );
    lab.context("child", &[("Dockerfile", &text)]);
    let store = lab.path("fresh");
    let to = format!("docker://{}", gate.name("child"));
    let build = lab
        .rbuild(["bud", "--registry-timeout=5s", "--retry=1", "-t", &to, "child"])
        .env("RBUILD_ROOT", &store)
        .output();
    assert_eq!(build.code, 0, "{build}");
    assert_eq!(gate.parts(), 0);
    let blobs = fs::read_dir(store.join("blobs/sha256")).expect("blobs").flatten();
    let bytes: u64 = blobs.map(|blob| blob.metadata().map_or(0, |meta| meta.len())).sum();
    assert!(bytes < 100_000, "{bytes} bytes came");
    gate.released(true);
    lab.rbuild(["pull", "-q", &gate.name("child")]).ok();
}

#[test]
fn one_id_is_enough() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    for form in FORMS {
        let text = format!("FROM {}\n{}", scene.gate.name(&repository(form)), step(STEP, &scene.gate));
        let text = text.replace("chmod 600", "chown 70:71 /d/hard && chmod 600");
        scene.gate.released(false);
        let build = |driver| {
            let (run, store) = scene.run(driver, &text);
            let done = run.env("PATH", "/nowhere").output();
            assert_eq!(done.code, 0, "{form}: {done}");
            scene.digest(&store)
        };
        assert_eq!(build("fuse"), build("overlay"), "{form}");
    }
}

#[test]
fn a_step_that_fails_does_not_wait_for_its_base() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    let base = scene.gate.name(&repository("estargz"));
    let (done, store) = scene.build("fuse", &format!("FROM {base}\nRUN cat /d/small; exit 3\n"));
    assert!(done.code != 0 && done.stderr.contains("exit code: 3"), "{done}");
    assert!(done.took < Duration::from_secs(5), "less than the time-out of the registry: {done}");
    scene.is_tidy(&store);
}

#[test]
fn a_registry_that_dies_meanwhile_is_the_cause() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    let base = scene.gate.name(&repository("zstd:chunked"));
    let text = "RUN cat /d/small; wget -q -O - http://127.0.0.1:PORT/die; cat /d/big > /dev/null; cat /d/other\n";
    let (done, store) = scene.build("fuse", &format!("FROM {base}\n{}", step(text, &scene.gate)));
    assert!(done.code != 0 && done.stdout.contains("the small file\nok\n"), "{done}");
    let host = scene.gate.name("");
    for part in ["`/d/big`, which the step opened, could not be had from layer `sha256:", host.trim_end_matches('/')] {
        assert!(done.stderr.contains(part), "{part}: {done}");
    }
    // The program was told as well.
    assert!((done.stdout.clone() + &done.stderr).contains("Input/output error"), "{done}");
    scene.is_tidy(&store);
}

#[test]
fn a_builder_that_is_killed_leaves_nothing() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    let base = scene.gate.name(&repository("estargz"));
    let (run, store) = scene.run("fuse", &format!("FROM {base}\nRUN cat /d/small; cat /d/big; sleep 100\n"));
    let mut child = run.start();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The step reads the large file by now.
    while scene.gate.state.parts.load(Ordering::SeqCst) < 8 {
        assert!(Instant::now() < deadline, "the step gets nowhere");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    scene.gate.released(true);
    scene.lab.rbuild(["prune"]).env("RBUILD_ROOT", &store).ok();
    scene.is_tidy(&store);
}

/// Pushes the base with another table for its lower layer.
fn with_table(scene: &Scene, to: &str, edit: impl Fn(&mut Value)) {
    let layout = scene.lab.path(format!("layout-{to}"));
    let target = format!("oci:{}:1", layout.display());
    scene
        .lab
        .rbuild(["push", "-q", "--compression-format", "zstd:chunked", "--force-compression", "base", &target])
        .ok();
    let path = |digest: &str| layout.join("blobs/sha256").join(&digest[7..]);
    let read = |digest: &Value| fs::read(path(digest.as_str().expect("a digest"))).expect("a blob");
    let write = |bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(path(&digest), bytes).expect("a blob");
        (digest, bytes.len())
    };
    let mut index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("the index")).expect("JSON");
    let mut manifest: Value = serde_json::from_slice(&read(&index["manifests"][0]["digest"])).expect("JSON");
    let layer = &mut manifest["layers"][0];
    let position = layer["annotations"][POSITION].as_str().expect("a position").to_owned();
    let numbers: Vec<usize> = position.split(':').map(|n| n.parse().expect("a number")).collect();
    let (at, length) = (numbers[0], numbers[1]);
    let mut blob = read(&layer["digest"]);
    let mut table: Value =
        serde_json::from_slice(&zstd::decode_all(&blob[at..at + length]).expect("zstd")).expect("a table");
    edit(&mut table);
    let text = table.to_string();
    let packed = zstd::encode_all(text.as_bytes(), 3).expect("zstd");
    blob.truncate(at - 4);
    blob.extend(u32::try_from(packed.len()).expect("a short table").to_le_bytes());
    blob.extend(&packed);
    let (digest, size) = write(&blob);
    (layer["digest"], layer["size"]) = (json!(digest), json!(size));
    layer["annotations"][POSITION] = json!(format!("{at}:{}:{}:1", packed.len(), text.len()));
    layer["annotations"][CHECKSUM] = json!(sha256(&packed));
    let (digest, size) = write(manifest.to_string().as_bytes());
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (json!(digest), json!(size));
    fs::write(layout.join("index.json"), index.to_string()).expect("the index");
    let to = format!("docker://{}/{to}", scene.registry.host());
    Run::new("skopeo", ["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &target, &to]).ok();
}

#[test]
fn a_table_that_lies_makes_nothing() {
    require!("docker-registry", "skopeo");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    let text = |base: &str| {
        let text = "RUN cat /d/other /d/small; ls -l /d; wget -q -O - http://127.0.0.1:PORT/release\n";
        format!("FROM {}\n{}", scene.gate.name(base), step(text, &scene.gate))
    };
    let row = |table: &mut Value, name: &str, change: &dyn Fn(&mut Value)| {
        let rows = table["entries"].as_array_mut().expect("rows");
        change(rows.iter_mut().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}")));
    };
    with_table(&scene, "true", |_| ());
    with_table(&scene, "content", |table| {
        let rows = table["entries"].as_array().expect("rows");
        let small = rows.iter().find(|row| row["name"] == "d/hard").expect("a row").clone();
        row(table, "d/other", &|row| {
            for member in ["offset", "endOffset", "digest"] {
                row[member] = small[member].clone();
            }
        });
    });
    with_table(&scene, "mode", |table| row(table, "d/big", &|row| row["mode"] = json!(0o4777)));
    with_table(&scene, "size", |table| row(table, "bin/cat", &|row| row["linkName"] = json!("/bin/busybox")));
    with_table(&scene, "more", |table| {
        table["entries"].as_array_mut().expect("rows").push(json!({"type": "dir", "name": "extra/", "mode": 0o755}));
    });
    let (done, _) = scene.build("fuse", &text("true"));
    assert_eq!(done.code, 0, "{done}");
    for (base, about) in [
        ("content", "the contents of `/d/other`"),
        ("mode", "mode or owner of `/d/big`"),
        ("size", "the size of `/bin/cat`"),
        ("more", "the names in it of `/`"),
    ] {
        scene.gate.released(false);
        let (done, store) = scene.build("fuse", &text(base));
        assert!(done.code != 0 && done.stderr.contains("does not match the layer"), "{base}: {done}");
        assert!(done.stderr.contains(about) && done.stdout.contains("ok\n"), "{base}: {done}");
        assert_eq!(fs::read_dir(store.join("steps")).map_or(0, Iterator::count), 0, "{base}: a step was kept");
        assert!(!scene.lab.rbuild(["images"]).env("RBUILD_ROOT", &store).ok().stdout.contains("localhost/x"), "{base}");
        scene.is_tidy(&store);
    }
    // One that has no business there is not even begun with.
    for (name, change) in [
        ("digest", json!("sha256:00")),
        ("offset", json!(u64::MAX)),
        ("size", json!(1u64 << 40)),
        ("type", json!("socket")),
    ] {
        let repository = format!("bad-{name}");
        with_table(&scene, &repository, |table| row(table, "d/other", &|row| row[name] = change.clone()));
        scene.gate.released(true);
        let (done, store) = scene.build("fuse", &text(&repository));
        assert!(done.code == 0 && done.stdout.contains("the other file\nthe small file"), "{name}: {done}");
        scene.is_tidy(&store);
    }
}

/// A base made of a tar as others make them: no entry for the root, none for some directories, a name of two lines.
fn odd_base(scene: &Scene, to: &str, form: &str) {
    let mut bytes = crate::harness::busybox_tar();
    bytes.truncate(bytes.len() - 1024);
    let mut tar = tar::Builder::new(vec![]);
    let big = noise(2 << 20, 9);
    odd_file(&mut tar, "implied/x/y/f", b"implied\n");
    odd_file(&mut tar, "big", &big);
    odd_file(&mut tar, "d/spaced\nname", b"line\n");
    bytes.extend(tar.into_inner().expect("a tar"));
    scene.lab.write(format!("{to}.tar"), bytes);
    scene.lab.rbuild(["import", &format!("{to}.tar"), &format!("localhost/{to}:latest")]).ok();
    let remote = format!("docker://{}/{to}", scene.registry.host());
    scene.lab.rbuild(["push", "-q", "--compression-format", form, "--force-compression", to, &remote]).ok();
}

fn odd_file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(1_600_000_000);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content).expect("a file");
}

#[test]
fn odd_layers_are_the_same() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let Some(scene) = Scene::new() else { return };
    for form in FORMS {
        let to = format!("odd-{}", repository(form));
        odd_base(&scene, &to, form);
        // The root has the time of its making, which is another one for the layer.
        let text = "RUN cat /implied/x/y/f && stat -c '%n %Y %a' /implied /implied/x /d /d/* > /etc/seen; sleep 1; \
            wget -q -O - http://127.0.0.1:PORT/release; echo x > /etc/out; cat /d/*\n";
        let text = format!("FROM {}\n{}", scene.gate.name(&to), step(text, &scene.gate));
        scene.gate.released(false);
        let (done, lazy) = scene.build("fuse", &text);
        assert_eq!(done.code, 0, "{form}: {done}");
        assert!(scene.gate.parts() > 0, "{form}: {done}");
        let (done, whole) = scene.build("overlay", &text);
        assert_eq!(done.code, 0, "{form}: {done}");
        assert_eq!(scene.digest(&lazy), scene.digest(&whole), "{form}");
    }
}
