//! Layers that are in the registry while later steps still run.
//!
//! A [`Watch`] stands before the registry and writes down what it is asked. Steps wait for files that the test puts into a
//! volume, so nothing depends on who is faster.

use crate::harness::{Done, Lab, Registry, Run, busybox_is_missing, require};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use nix::unistd::Pid;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// A server before a registry that notes the requests, can be away, and can take no more than so many bytes.
struct Watch {
    registry: Registry,
    host: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<String>>,
    away: AtomicBool,
    refused: AtomicU64,
    /// So many bytes in all go on; the rest waits.
    most: AtomicU64,
    taken: AtomicU64,
}

impl Watch {
    fn start() -> Watch {
        let registry = Registry::start();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // What was sent is what was taken: the kernel keeps little between the two.
        setsockopt(&listener, RcvBuf, &(256 << 10)).expect("SO_RCVBUF");
        let host = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(State { most: AtomicU64::new(u64::MAX), ..State::default() });
        let (shared, port) = (state.clone(), registry.port());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.away.load(Ordering::SeqCst) {
                    shared.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(up), Ok(to)) = (client.try_clone(), server.try_clone()) else { continue };
                let state = shared.clone();
                thread::spawn(move || pass_on(up, to, &state));
                let state = shared.clone();
                thread::spawn(move || answer(server, client, &state));
            }
        });
        Watch { registry, host, state }
    }

    /// The name of an image.
    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    fn requests(&self) -> Vec<String> {
        self.state.requests.lock().expect("requests").clone()
    }

    /// How many requests are of this method and hold this text.
    fn count(&self, method: &str, text: &str) -> usize {
        self.requests().iter().filter(|r| r.starts_with(method) && r.contains(text)).count()
    }

    /// Digests of blobs that a repository has.
    fn blobs(&self, repository: &str) -> Vec<String> {
        let listed = std::fs::read_dir(self.registry.storage(repository).join("_layers/sha256"));
        let names = listed.into_iter().flatten().flatten().filter(|e| e.path().join("link").exists());
        names.map(|e| format!("sha256:{}", e.file_name().to_string_lossy())).collect()
    }

    /// Uploads that are neither complete nor given up.
    fn uploads(&self, repository: &str) -> usize {
        let all = std::fs::read_dir(self.registry.storage(repository).join("_uploads")).into_iter().flatten().flatten();
        // Of one that was given up, it forgets all but an empty directory.
        all.filter(|e| e.path().join("data").exists()).count()
    }

    /// The tags of a repository.
    fn tags(&self, repository: &str) -> usize {
        std::fs::read_dir(self.registry.storage(repository).join("_manifests/tags")).map_or(0, |dir| dir.count())
    }

    fn manifest(&self, lab: &Lab, name: &str) -> serde_json::Value {
        let place = format!("docker://{}", self.at(name));
        let shown = lab.program("skopeo", ["inspect", "--raw", "--tls-verify=false", &place]).ok();
        serde_json::from_str(&shown.stdout).expect("a manifest")
    }
}

/// Client to registry, with each request noted.
fn pass_on(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..n];
        for method in ["HEAD", "GET", "POST", "PATCH", "PUT", "DELETE"] {
            // A request begins what is read: rbuild writes heads whole, and waits for answers.
            let text = String::from_utf8_lossy(&bytes[..n.min(2000)]).into_owned();
            if text.starts_with(&format!("{method} /v2/")) {
                let line = text.lines().next().unwrap_or_default().to_owned();
                state.requests.lock().expect("requests").push(line);
            }
        }
        while state.taken.load(Ordering::SeqCst) >= state.most.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(2));
        }
        state.taken.fetch_add(n as u64, Ordering::SeqCst);
        if state.away.load(Ordering::SeqCst) || to.write_all(bytes).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn answer(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if state.away.load(Ordering::SeqCst) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A builder, and a directory in which its steps wait for files.
struct Site {
    lab: Lab,
    signals: PathBuf,
}

impl Site {
    fn new(dockerfile: &str) -> Site {
        let lab = Lab::new();
        lab.import_busybox();
        lab.context("ctx", &[("Dockerfile", dockerfile)]);
        let signals = lab.mkdir("signals");
        Site { lab, signals }
    }

    fn bud(&self, store: &str, more: &[&str]) -> Run {
        let volume = format!("{}:/s:ro", self.signals.display());
        let store = self.lab.path(store);
        self.lab.rbuild(["bud", "--volume", &volume]).args(more).arg("ctx").env("RBUILD_ROOT", store)
    }

    fn signal(&self, name: &str) {
        self.lab.write(Path::new("signals").join(name), "");
    }

    /// The base, in a store of its own.
    fn base_in(&self, store: &str) {
        let import = self.lab.rbuild(["import", "busybox.tar", "localhost/busybox:latest"]);
        import.env("SOURCE_DATE_EPOCH", "1600000000").env("RBUILD_ROOT", self.lab.path(store)).ok();
    }
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in a minute");
        sleep(Duration::from_millis(10));
    }
}

fn in_background(run: Run) -> JoinHandle<Done> {
    thread::spawn(move || run.output())
}

/// The end of a build that nothing holds up any more; it must succeed.
#[track_caller]
fn ends(build: JoinHandle<Done>) -> Done {
    let done = build.join().expect("a build");
    assert!(done.code == 0, "{done}");
    done
}

fn layers(manifest: &serde_json::Value) -> Vec<String> {
    let digests = manifest["layers"].as_array().expect("layers").iter().map(|l| l["digest"].as_str());
    digests.map(|d| d.expect("a digest").to_owned()).collect()
}

const WAITING: &str = "FROM localhost/busybox\nRUN echo first > /first\nRUN while ! test -e /s/go; do sleep 0.05; done\nRUN echo last > /last\n";

fn can_run() -> bool {
    busybox_is_missing().is_none()
}

#[test]
fn a_layer_is_in_the_registry_while_a_later_step_runs() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (watch, site) = (Watch::start(), Site::new(WAITING));
    let place = |name: &str| format!("docker://{}", watch.at(name));
    let (app, other) = (place("app:1"), place("other:1"));
    let build = in_background(site.bud("store", &["-t", &app, "-t", &other, "--metadata-file", "meta"]));
    until("the base and the first layer are there", || ["app", "other"].iter().all(|r| watch.blobs(r).len() == 2));
    assert!(!build.is_finished());
    let early = watch.blobs("app");
    assert_eq!((watch.tags("app"), watch.count("PUT", "/manifests/")), (0, 0));
    site.signal("go");
    ends(build);
    let manifest = watch.manifest(&site.lab, "app:1");
    let all = layers(&manifest);
    assert!(all.len() == 4 && early.iter().all(|blob| all[..2].contains(blob)), "{early:?} of {all:?}");
    for layer in &all {
        let digest = layer.replace(':', "%3A");
        let sent = watch.count("PUT", layer) + watch.count("PUT", &digest);
        assert_eq!(sent, 1, "{layer} was sent {sent} times: {:#?}", watch.requests());
    }
    // One registry links what it has, and both names are of one image.
    assert_eq!(manifest, watch.manifest(&site.lab, "other:1"));
    // A push from a store is the same.
    site.bud("store", &["-t", "localhost/later"]).ok();
    site.lab.rbuild(["push", "localhost/later", &place("later:1")]).ok();
    assert_eq!(layers(&watch.manifest(&site.lab, "later:1")), all);
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(site.lab.path("meta")).expect("metadata")).expect("JSON");
    let tagged = site.lab.program("skopeo", ["inspect", "--tls-verify=false", "--format={{.Digest}}", &app]).ok();
    assert_eq!(meta["containerimage.digest"].as_str(), Some(tagged.stdout.trim()));
}

#[test]
fn layers_with_other_times_and_of_other_forms_are_those_of_a_push_afterwards() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    for (n, more) in [
        &["--timestamp", "1700000000"][..],
        &["--source-date-epoch", "1700000000", "--format", "docker"],
        &["--source-date-epoch", "1700000000", "--compression-format", "zstd"],
        &["--source-date-epoch", "1700000000", "--compression-format", "none"],
    ]
    .into_iter()
    .enumerate()
    {
        let (watch, site) = (Watch::start(), Site::new(WAITING));
        let place = format!("docker://{}", watch.at("app:1"));
        let build = in_background(site.bud("store", more).args(["-t", &place]));
        until("the base and the first layer are there", || watch.blobs("app").len() == 2);
        let early = watch.blobs("app");
        site.signal("go");
        ends(build);
        let manifest = watch.manifest(&site.lab, "app:1");
        let all = layers(&manifest);
        assert!(early.iter().all(|blob| all[..2].contains(blob)), "{n}: {early:?} of {all:?}");
        site.base_in("afterwards");
        let store = |run: Run| run.env("RBUILD_ROOT", site.lab.path("afterwards"));
        store(site.bud("afterwards", more).args(["-t", "localhost/later"])).ok();
        let push = site.lab.rbuild(["push", "localhost/later", &format!("docker://{}", watch.at("later:1"))]);
        let form = more.iter().position(|a| *a == "--compression-format").map_or(&[][..], |at| &more[at..]);
        store(push.args(form)).ok();
        assert_eq!(manifest, watch.manifest(&site.lab, "later:1"), "{n}");
    }
}

/// A build whose second step waits, and then fails; its first layer is too large to be sent soon.
const FAILING: &str = "FROM localhost/busybox\nRUN head -c 96000000 /dev/urandom > /big\n\
    RUN while ! test -e /s/go; do sleep 0.05; done; exit 7\n";

/// Such a build in the middle of its upload.
fn in_the_middle() -> (Watch, Site, Run) {
    let (watch, site) = (Watch::start(), Site::new(FAILING));
    // The base goes as fast as it can, and is there before.
    site.lab.rbuild(["push", "localhost/busybox", &format!("docker://{}", watch.at("app:base"))]).ok();
    let now = watch.state.taken.load(Ordering::SeqCst);
    watch.state.most.store(now + (2 << 20), Ordering::SeqCst);
    let run = site.bud("store", &["-t", &format!("docker://{}", watch.at("app:1"))]);
    (watch, site, run)
}

fn is_in_the_middle(watch: &Watch) -> bool {
    watch.state.taken.load(Ordering::SeqCst) >= watch.state.most.load(Ordering::SeqCst)
}

#[test]
fn a_build_that_fails_leaves_no_tag_and_no_upload() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (watch, site, run) = in_the_middle();
    let build = in_background(run);
    until("the upload is under way", || is_in_the_middle(&watch));
    assert_eq!(watch.uploads("app"), 1, "{:#?}", watch.requests());
    site.signal("go");
    watch.state.most.store(u64::MAX, Ordering::SeqCst);
    let done = build.join().expect("a build");
    assert!(done.code == 7 && !done.stderr.contains("warning"), "{done}");
    assert_eq!(
        (watch.tags("app"), watch.uploads("app"), watch.blobs("app").len()),
        (1, 0, 2),
        "{:#?}",
        watch.requests()
    );
    // What it had finished serves the next one.
    site.lab.write("ctx/Dockerfile", FAILING.replace("exit 7", "exit 0"));
    site.bud("store", &["-t", &format!("docker://{}", watch.at("app:1"))]).ok();
    assert_eq!(watch.tags("app"), 2);
}

#[test]
fn a_build_that_is_ended_leaves_no_upload_either() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (watch, _site, run) = in_the_middle();
    let mut build = run.start();
    until("the upload is under way", || is_in_the_middle(&watch));
    watch.state.most.store(u64::MAX, Ordering::SeqCst);
    let asked = Instant::now();
    kill(Pid::from_raw(build.id() as i32), Signal::SIGTERM).expect("kill");
    let status = build.wait().expect("its end");
    assert!(status.code() == Some(143) && asked.elapsed() < Duration::from_secs(2), "{status:?} {:?}", asked.elapsed());
    assert_eq!((watch.tags("app"), watch.uploads("app")), (1, 0), "{:#?}", watch.requests());
}

#[test]
fn a_registry_that_is_away_for_a_while_does_not_fail_the_build() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let wait = |name: &str| format!("while ! test -e /s/{name}; do sleep 0.05; done");
    let (one, two) = (wait("one"), wait("two"));
    let dockerfile =
        format!("FROM localhost/busybox\nRUN {one}; echo 1 > /1\nRUN echo 2 > /2\nRUN {two}; echo 3 > /3\n");
    let (watch, site) = (Watch::start(), Site::new(&dockerfile));
    let place = format!("docker://{}", watch.at("app:1"));
    let build = in_background(site.bud("store", &["-t", &place]));
    until("the base is there", || watch.blobs("app").len() == 1);
    watch.state.away.store(true, Ordering::SeqCst);
    site.signal("one");
    until("the registry is asked in vain", || watch.state.refused.load(Ordering::SeqCst) >= 2);
    watch.state.away.store(false, Ordering::SeqCst);
    site.signal("two");
    let done = ends(build);
    let warnings = done.stderr.lines().filter(|l| l.contains("warning")).count();
    assert!(warnings <= 1, "{done}");
    assert_eq!(layers(&watch.manifest(&site.lab, "app:1")).len(), 4);
}

#[test]
fn a_registry_that_stays_away_is_an_error_of_the_push_and_one_warning_before() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (watch, site) = (Watch::start(), Site::new(WAITING));
    watch.state.away.store(true, Ordering::SeqCst);
    let place = format!("docker://{}", watch.at("app:1"));
    let build = in_background(site.bud("store", &["--skip-push-check", "--retry", "0", "-t", &place]));
    until("the registry is asked in vain", || watch.state.refused.load(Ordering::SeqCst) >= 4);
    site.signal("go");
    let done = build.join().expect("a build");
    let text = format!("{}{}", done.stdout, done.stderr);
    assert!(done.code != 0 && text.contains("writing image to"), "{done}");
    assert!(text.matches("the push at its end tries again").count() <= 1, "{done}");
}

#[test]
fn a_layer_that_a_cache_takes_as_well_is_compressed_once() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (watch, site) = (Watch::start(), Site::new(WAITING));
    let (place, cache) =
        (format!("docker://{}", watch.at("app:1")), format!("type=registry,ref={}", watch.at("cache")));
    let build = in_background(site.bud("store", &["-t", &place, "--cache-to", &cache]));
    until("the base and the first layer are there", || watch.blobs("app").len() == 2);
    site.signal("go");
    ends(build);
    for layer in layers(&watch.manifest(&site.lab, "app:1")) {
        let sent = watch.count("PUT", &layer) + watch.count("PUT", &layer.replace(':', "%3A"));
        assert_eq!(sent, 1, "{layer} was sent {sent} times: {:#?}", watch.requests());
    }
    // A builder with nothing of its own finds all of it there.
    site.base_in("empty");
    let again = format!("docker://{}", watch.at("again:1"));
    let done = site.bud("empty", &["-t", &again, "--cache-from", &cache]).ok();
    assert!(!format!("{}{}", done.stdout, done.stderr).contains("warning"), "{done}");
    let layers_of = |name: &str| layers(&watch.manifest(&site.lab, name));
    assert_eq!(layers_of("again:1"), layers_of("app:1"));
}

#[test]
fn what_other_stages_make_and_what_is_squashed_does_not_go_early() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let stages = "FROM localhost/busybox AS tools\nRUN echo tool > /tool\nFROM localhost/busybox AS below\nRUN echo below > /below\n\
        FROM below\nCOPY --from=tools /tool /\nRUN while ! test -e /s/go; do sleep 0.05; done\n";
    for squash in [false, true] {
        let (watch, site) = (Watch::start(), Site::new(stages));
        let place = format!("docker://{}", watch.at("app:1"));
        let mut run = site.bud("store", &["-t", &place]);
        if squash {
            run = run.arg("--squash");
        }
        let build = in_background(run);
        if squash {
            let shown = || watch.count("POST", "/v2/app/");
            until("the registry was asked whether it takes the image", || shown() == 1);
        } else {
            until("base, stage below and COPY are there", || watch.blobs("app").len() == 3);
        }
        site.signal("go");
        ends(build);
        let all = layers(&watch.manifest(&site.lab, "app:1"));
        // With the config.
        assert_eq!((all.len(), watch.blobs("app").len()), if squash { (1, 2) } else { (4, 5) });
    }
}

/// The images of an index are built one after the other, and each one's layers leave before its last step ends.
#[test]
fn layers_of_several_platforms_leave_early_too() {
    require!("docker-registry", "skopeo");
    require!(if !can_run(), "`busybox-static` is not installed");
    let dockerfile = "FROM --platform=$BUILDPLATFORM localhost/busybox AS tools\nARG TARGETARCH\n\
        RUN while ! test -e /s/$TARGETARCH; do sleep 0.05; done; echo $TARGETARCH > /tool\n\
        FROM scratch\nARG TARGETARCH\nCOPY common /common\nCOPY $TARGETARCH /program\nCOPY --from=tools /tool /tool\n";
    let site = Site::new(dockerfile);
    for file in ["common", "amd64", "arm64"] {
        site.lab.write(Path::new("ctx").join(file), format!("the file {file}"));
    }
    let platforms = ["--platform", "linux/amd64,linux/arm64", "--source-date-epoch", "1700000000"];
    for (n, more) in [&[][..], &["--compression-format", "zstd"]].into_iter().enumerate() {
        let watch = Watch::start();
        let place = |name: &str| format!("docker://{}", watch.at(name));
        let store = format!("store-{n}");
        site.base_in(&store);
        for arch in ["amd64", "arm64"] {
            let _ = std::fs::remove_file(site.signals.join(arch));
        }
        let all = [&platforms[..], more].concat();
        let build = in_background(site.bud(&store, &all).args(["-t", &place("app:1")]));
        until("two layers of the first image are there", || watch.blobs("app").len() == 2);
        site.signal("amd64");
        // `common` is in both.
        until("all of the first image is there, and the second one's own layer", || watch.blobs("app").len() == 4);
        assert!(!build.is_finished());
        let early = watch.blobs("app");
        assert_eq!((watch.tags("app"), watch.count("PUT", "/manifests/")), (0, 0));
        site.signal("arm64");
        ends(build);
        let index = watch.manifest(&site.lab, "app:1");
        let images = |index: &serde_json::Value| -> Vec<serde_json::Value> {
            let entries = index["manifests"].as_array().expect("images").iter();
            let digests = entries.map(|d| d["digest"].as_str().expect("a digest").to_owned());
            digests.map(|d| watch.manifest(&site.lab, &format!("app@{d}"))).collect()
        };
        let of_images: Vec<String> = images(&index).iter().flat_map(layers).collect();
        assert_eq!(of_images.len(), 6);
        assert!(early.iter().all(|blob| of_images.contains(blob)), "{early:?} of {of_images:?}");
        assert!(early.contains(&of_images[4]), "the layer of the second image is there: {early:?} of {of_images:?}");
        for layer in &of_images {
            let sent = watch.count("PUT", layer) + watch.count("PUT", &layer.replace(':', "%3A"));
            assert_eq!(sent, 1, "{layer} was sent {sent} times: {:#?}", watch.requests());
        }
        // A store that pushes when all is done has the same index.
        let afterwards = format!("afterwards-{n}");
        site.base_in(&afterwards);
        site.bud(&afterwards, &all).args(["-t", "localhost/later"]).ok();
        let push = site.lab.rbuild(["manifest", "push", "--all", "localhost/later", &place("later:1")]);
        push.args(more).env("RBUILD_ROOT", site.lab.path(&afterwards)).ok();
        assert_eq!(watch.manifest(&site.lab, "later:1"), index, "{n}");
    }
}

/// Documents as BuildKit writes them: `type=registry` as an index and as a manifest (`image-manifest=true`), and `type=inline`.
#[test]
fn layers_that_buildkit_left_in_the_registry_are_linked() {
    require!("docker-registry", "skopeo", "curl");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (watch, elsewhere) = (Watch::start(), Registry::start());
    let site = Site::new("ARG BASE\nFROM $BASE\nRUN echo executed\n");
    let base = format!("{}/base:1", elsewhere.host());
    site.lab.rbuild(["push", "localhost/busybox", &format!("docker://{base}")]).ok();
    let direct = watch.registry.host();
    let [from, to] = [format!("docker://{base}"), format!("docker://{direct}/cache:image")];
    site.lab.program("skopeo", ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to]).ok();
    let image = watch.manifest(&site.lab, "cache:image");
    let layer = image["layers"][0]["digest"].as_str().expect("a layer").to_owned();
    let curl = |args: &[&str]| site.lab.program("curl", ["-sSf"]).args(args).ok().stdout;
    let put_blob = |text: &str| {
        site.lab.write("blob", text);
        let digest = site.lab.program("sha256sum", ["blob"]).ok().stdout[..64].to_owned();
        let head =
            curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &format!("http://{direct}/v2/cache/blobs/uploads/")]);
        let place = head.lines().find_map(|l| l.strip_prefix("Location: ")).expect("an upload").trim().to_owned();
        curl(&[
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/octet-stream",
            "--data-binary",
            "@blob",
            &format!("{place}&digest=sha256:{digest}"),
        ]);
        (format!("sha256:{digest}"), text.len())
    };
    let put_manifest = |tag: &str, media_type: &str, document: &serde_json::Value| {
        site.lab.write("document", document.to_string());
        let kind = format!("Content-Type: {media_type}");
        curl(&[
            "-X",
            "PUT",
            "-H",
            &kind,
            "--data-binary",
            "@document",
            &format!("http://{direct}/v2/cache/manifests/{tag}"),
        ]);
    };
    let records = serde_json::json!([
        {"layers": [{"layer": 0, "createdAt": "2023-06-01T10:00:00Z"}], "digest": format!("sha256:{}", "1".repeat(64))},
        {"digest": format!("sha256:{}", "2".repeat(64)), "inputs": [[{"selector": "a", "link": 0}]]},
    ]);
    let cache = serde_json::json!({"layers": [{"blob": layer, "parent": -1}], "records": records});
    let (digest, size) = put_blob(&cache.to_string());
    let config =
        serde_json::json!({"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": digest, "size": size});
    let mut entry = image["layers"][0].clone();
    entry["annotations"] =
        serde_json::json!({"buildkit/createdat": "2023-06-01T10:00:00Z", "containerd.io/uncompressed": layer});
    let (index, manifest) = ("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json");
    put_manifest(
        "index",
        index,
        &serde_json::json!({"schemaVersion": 2, "mediaType": index, "manifests": [entry, config]}),
    );
    put_manifest(
        "manifest",
        manifest,
        &serde_json::json!({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [entry]}),
    );
    let own = image["config"]["digest"].as_str().expect("a config").to_owned();
    let mut own: serde_json::Value =
        serde_json::from_str(&curl(&[&format!("http://{direct}/v2/cache/blobs/{own}")])).expect("a config");
    own["moby.buildkit.cache.v0"] = "W3siZGlnZXN0Ijoic2hhMjU2OjExIn1d".into();
    let (digest, size) = put_blob(&own.to_string());
    let mut inline = image.clone();
    (inline["config"]["digest"], inline["config"]["size"]) = (digest.into(), size.into());
    put_manifest("inline", manifest, &inline);
    for tag in ["none", "index", "manifest", "inline"] {
        // A name of its own for each, so that nothing is there before; and a store without a past.
        let (app, base) = (format!("app-{tag}"), format!("BASE={base}"));
        let cache = format!("type=registry,ref={}", watch.at(&format!("cache:{tag}")));
        let place = format!("docker://{}", watch.at(&format!("{app}:1")));
        let done = site.bud(tag, &["--build-arg", &base, "--cache-from", &cache, "-t", &place]).ok();
        let shown = format!("{}{}", done.stdout, done.stderr);
        assert_eq!(shown.matches("was written by BuildKit").count(), usize::from(tag != "none"), "{done}");
        assert!(shown.lines().any(|l| l == "executed"), "{done}");
        let posts: Vec<String> =
            watch.requests().into_iter().filter(|r| r.contains(&format!("POST /v2/{app}/"))).collect();
        let linked = posts.iter().any(|r| r.contains("from=cache") && r.contains(&layer[7..]));
        assert_eq!(linked, tag != "none", "{tag}: {posts:#?}");
        let puts = watch.count(&format!("PUT /v2/{app}/"), &layer[7..]);
        assert_eq!(puts, usize::from(tag == "none"), "{tag}: {:#?}", watch.requests());
        assert_eq!(layers(&watch.manifest(&site.lab, &format!("{app}:1")))[0], layer);
    }
}
