//! `--cache-from` and `--cache-to`: builders with stores of their own that share what steps made.

use crate::harness::{Done, Lab, Registry, Run, busybox_is_missing, port, require, which};
use crate::web::{Page, Web};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A build of several kinds of steps. Each RUN leaves something that no other execution would.
const DOCKERFILE: &str = "ARG BASE=localhost/busybox\nFROM $BASE AS tools\nENV A=1\nRUN echo executed; head -c 3000000 /dev/urandom > /tool\n\
    FROM $BASE\nWORKDIR /srv\nCOPY file /srv/\nCOPY --from=tools /tool /srv/\nRUN echo executed; head -c 16 /dev/urandom > /id\n\
    RUN true\nLABEL l=1\n";

/// Builders that share nothing but a registry.
pub(crate) struct Farm {
    pub(crate) lab: Lab,
    registry: Registry,
}

impl Farm {
    pub(crate) fn new() -> Farm {
        let farm = Farm { lab: Lab::new(), registry: Registry::start() };
        farm.lab.import_busybox();
        farm.lab.rbuild(["push", "localhost/busybox", &farm.image("base")]).ok();
        farm.lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("file", "content")]);
        farm
    }

    /// The registry's name of an image.
    pub(crate) fn at(&self, repository: &str) -> String {
        format!("{}/{repository}", self.registry.host())
    }

    pub(crate) fn image(&self, repository: &str) -> String {
        format!("docker://{}", self.at(repository))
    }

    /// A build by a builder with this store.
    pub(crate) fn build(&self, store: &str) -> Run {
        let base = format!("BASE={}", self.at("base"));
        let run = self.lab.rbuild(["bud", "--build-arg", &base, "--iidfile", &format!("{store}.id"), "ctx"]);
        run.env("RBUILD_ROOT", self.lab.path(store))
    }

    /// The id of what was built with this store.
    pub(crate) fn id(&self, store: &str) -> String {
        fs::read_to_string(self.lab.path(format!("{store}.id"))).expect("an image id")
    }

    /// Bytes of blobs in a store.
    pub(crate) fn blobs(&self, store: &str) -> u64 {
        let dir = self.lab.path(store).join("blobs/sha256");
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.metadata().map_or(0, |m| m.len())).sum()
    }

    /// What the image of this name has in `/id`, as a builder with nothing of its own sees it.
    fn runs(&self, image: &str, store: &str) -> String {
        let store = self.lab.path(store);
        self.lab.rbuild(["pull", &self.at(image)]).env("RBUILD_ROOT", &store).ok();
        let script = "test -s /srv/tool && test -s /srv/file && cat /id | sha256sum";
        let run = self.lab.rbuild(["run", &self.at(image), "sh", "-c", script]);
        run.env("RBUILD_ROOT", &store).ok().stdout
    }
}

pub(crate) fn shown(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

/// How many commands were executed.
pub(crate) fn executed(done: &Done) -> usize {
    shown(done).lines().filter(|l| *l == "executed").count()
}

/// A full rebuild by a builder with an empty store executes nothing and fetches nothing, and gives the same image.
fn is_rebuilt(farm: &Farm, to: &str, from: &str) {
    let first = farm.build("one").args(["-t", &farm.image("app:1"), "--cache-to", to]).ok();
    assert_eq!(executed(&first), 2, "{first}");
    assert!(!shown(&first).contains("warning"), "{first}");
    let again = farm.build("two").args(["-t", &farm.image("app:2"), "--cache-from", from]).ok();
    assert_eq!(executed(&again), 0, "{again}");
    assert!(!shown(&again).contains("warning"), "{again}");
    assert!(farm.blobs("two") < 100_000, "{} bytes came", farm.blobs("two"));
    assert_eq!(farm.id("one"), farm.id("two"));
    assert_eq!(farm.runs("app:1", "three"), farm.runs("app:2", "four"));
    // Where the image is to stay, all of it comes.
    let kept = farm.build("five").args(["-t", "kept", "--cache-from", from]).ok();
    assert_eq!((executed(&kept), farm.id("five")), (0, farm.id("one")));
    farm.lab.rbuild(["check"]).env("RBUILD_ROOT", farm.lab.path("five")).ok();
    let save = farm.lab.rbuild(["save", "-o", "kept.tar", "kept"]).env("RBUILD_ROOT", farm.lab.path("five"));
    save.ok();
    let one_stage = farm.build("five").args(["-t", "tools", "--target", "tools", "--cache-from", from]).ok();
    let local = farm.build("five").args(["-t", "kept"]).ok();
    assert_eq!((executed(&one_stage), executed(&local), farm.id("five")), (0, 0, farm.id("one")), "{local}");
    // A step behind the cached ones finds their files.
    let longer = format!("{DOCKERFILE}RUN sha256sum < /id > /sum; ls -l /srv/tool\n");
    farm.lab.write("ctx/Dockerfile", &longer);
    let more = farm.build("six").args(["-t", "more", "--cache-from", from]).ok();
    assert!(executed(&more) == 0 && shown(&more).contains("3000000"), "{more}");
    farm.lab.write("ctx/Dockerfile", DOCKERFILE);
    // What was fetched is in the store's own cache then; the stage that was only copied from was not.
    let stages = farm.build("six").args(["-t", "more", "--target", "tools"]).ok();
    assert_eq!(executed(&stages), 1, "{stages}");
    let local = farm.build("one").args(["-t", "local"]).ok();
    assert_eq!(executed(&local), 0, "{local}");
}

#[test]
fn a_registry_as_cache() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry", "skopeo");
    let farm = Farm::new();
    let cache = format!("type=registry,ref={}", farm.at("cache"));
    is_rebuilt(&farm, &cache, &cache);
    // Each entry is an image that any tool can read.
    let tags = format!("docker://{}", farm.at("cache"));
    let list = farm.lab.program("skopeo", ["list-tags", "--tls-verify=false", &tags]).ok().stdout;
    let names: Vec<&str> = list.split('"').filter(|t| t.starts_with("rbuild-")).collect();
    assert!(names.len() >= 6, "{list}");
    for name in names {
        let image = format!("docker://{}:{name}", farm.at("cache"));
        farm.lab.program("skopeo", ["inspect", "--raw", "--tls-verify=false", &image]).ok();
    }
}

#[test]
fn entries_outlive_the_garbage_collection_of_a_registry() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    let cache = format!("type=registry,ref={}", farm.at("cache"));
    farm.build("one").args(["-t", "x", "--cache-to", &cache]).ok();
    farm.registry.collect_garbage();
    let again = farm.build("two").args(["-t", "x", "--cache-from", &cache]).ok();
    assert_eq!((executed(&again), farm.id("two")), (0, farm.id("one")), "{again}");
}

/// What BuildKit writes is known for what it is: its keys are of another kind.
#[test]
fn caches_of_buildkit_are_called_by_name() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let (farm, web) = (Farm::new(), Web::start());
    let digest = format!("sha256:{}", "0".repeat(64));
    let config = format!(r#"{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{digest}","size":9}}"#);
    let layer =
        format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":9}}"#);
    let documents = [
        ("index", format!(r#"{{"schemaVersion":2,"mediaType":"TYPE","manifests":[{layer},{config}]}}"#)),
        ("manifest", format!(r#"{{"schemaVersion":2,"mediaType":"TYPE","config":{config},"layers":[{layer}]}}"#)),
    ];
    web.put("/v2/", Page::default());
    for (kind, text) in documents {
        let media_type = format!("application/vnd.oci.image.{kind}.v1+json");
        let body = text.replace("TYPE", &media_type).into_bytes();
        web.put(
            &format!("/v2/{kind}/manifests/buildcache"),
            Page { body, headers: vec![("Content-Type", media_type.clone())], ..Page::default() },
        );
        let at = web.url(&format!("/{kind}:buildcache")).replace("http://", "");
        let cache = format!("type=registry,ref={at}");
        let done = farm.build(kind).args(["-t", "x", "--cache-from", &cache]).ok();
        assert_eq!((executed(&done), shown(&done).matches("was written by BuildKit").count()), (2, 1), "{done}");
        // What cannot be read is told of once, however many steps there are.
        for (n, body) in [&b"{"[..], br#"{"schemaVersion":2,"manifests":7,"config":[]}"#].into_iter().enumerate() {
            let (body, headers) = (body.to_vec(), vec![("Content-Type", media_type.clone())]);
            web.put(&format!("/v2/{kind}/manifests/buildcache"), Page { body, headers, ..Page::default() });
            let done = farm.build(&format!("{kind}-{n}")).args(["-t", "x", "--cache-from", &cache]).ok();
            assert_eq!((executed(&done), shown(&done).matches("warning:").count()), (2, 1), "{done}");
        }
    }
}

#[test]
fn a_directory_as_cache() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry", "skopeo");
    let farm = Farm::new();
    is_rebuilt(&farm, "type=local,dest=cache", "type=local,src=cache");
    let index = fs::read_to_string(farm.lab.path("cache/index.json")).expect("an image layout");
    let name = index.split('"').find(|t| t.starts_with("rbuild-")).expect("an entry");
    let image = format!("oci:{}:{name}", farm.lab.path("cache").display());
    farm.lab.program("skopeo", ["inspect", "--raw", &image]).ok();
    assert!(!Path::new(&farm.lab.path("cache")).join("index.json.tmp").exists());
}

/// Replaces the Dockerfile.
pub(crate) fn dockerfile(farm: &Farm, steps: &str) {
    farm.lab.write("ctx/Dockerfile", format!("ARG BASE=localhost/busybox\nFROM $BASE\n{steps}"));
}

#[test]
fn an_image_with_its_own_entries() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(
        &farm,
        "ENV A=1\nWORKDIR /srv\nCOPY file /srv/\nRUN echo executed; head -c 99999 /dev/urandom > /id\nRUN true\n",
    );
    let to = ["-t", &farm.image("app:1"), "--cache-to", "type=inline"];
    let first = farm.build("one").args(to).ok();
    assert_eq!(executed(&first), 1, "{first}");
    let from = format!("type=registry,ref={}", farm.at("app:1"));
    let to = ["-t", &farm.image("app:2"), "--cache-to", "type=inline", "--cache-from", &from];
    let again = farm.build("two").args(to).ok();
    assert_eq!((executed(&again), farm.id("two")), (0, farm.id("one")), "{again}");
    assert!(farm.blobs("two") < 50_000 && !shown(&again).contains("warning"), "{again}");
    // In Docker's format, which has no annotations, as well; from the name alone, as Docker writes it.
    let docker = |store: &str, more: &[&str]| {
        let base = format!("BASE={}", farm.at("base"));
        let run = farm.lab.docker(["build", "--build-arg", &base, "--push", "-t", &farm.at("app:3"), "ctx"]);
        run.env("RBUILD_ROOT", farm.lab.path(store)).args(more).ok()
    };
    docker("three", &["--cache-to", "type=inline", "--no-cache"]);
    let again = docker("four", &["--cache-from", &farm.at("app:3")]);
    assert!(shown(&again).contains("CACHED") && executed(&again) == 0, "{again}");
    assert!(farm.blobs("four") < 50_000, "{} bytes came for an image that is only pushed", farm.blobs("four"));
    // The image that is built on top has the entries of its own steps only.
    farm.lab.context("next", &[("Dockerfile", "ARG BASE=localhost/busybox\nFROM $BASE\nRUN true\n")]);
    let next = farm.lab.rbuild(["bud", "-t", "next", "--build-arg", &format!("BASE={}", farm.at("app:1")), "next"]);
    next.ok();
    let config = farm.lab.rbuild(["inspect", "--format", "{{json .}}", "next"]).ok().stdout;
    assert!(!config.contains("io.rbuild.cache"), "{config}");
    // Rewritten layers are not those of the steps.
    let done = farm.build("one").args(["-t", "x", "--cache-to", "type=inline", "--timestamp=5"]).ok();
    assert!(shown(&done).contains("`--cache-to type=inline` leaves out"), "{done}");
}

/// Two builders that write at the same time lose nothing, whether they write different things or the same steps with other
/// results.
#[test]
fn writers_do_not_undo_each_other() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry", "redis-server", "redis-cli");
    let farm = Farm::new();
    let redis = Redis::start(&farm.lab, &[]);
    let caches = [
        format!("type=registry,ref={}", farm.at("cache")),
        "type=local,D=cache".to_owned(),
        format!("type=redis,url=redis://127.0.0.1:{},ref={}", redis.port, farm.at("layers")),
    ];
    let base = format!("BASE={}", farm.at("base"));
    let build = |context: &str, store: String, way: &str, caches: &[String]| {
        let dir = if way == "--cache-to" { "dest=" } else { "src=" };
        let mut run =
            farm.lab.rbuild(["bud", "--build-arg", &base, "-t", context]).env("RBUILD_ROOT", farm.lab.path(store));
        for cache in caches {
            run = run.args([way, &cache.replace("D=", dir)]);
        }
        run.arg(context)
    };
    for round in 0..3 {
        for equal in [false, true] {
            let writers = ["a", "b"].map(|w| format!("{w}{round}{equal}"));
            for name in &writers {
                let of = if equal { "both" } else { name };
                let steps: String = (0..6)
                    .map(|n| format!("RUN echo executed; head -c 2000 /dev/urandom > /{of}-{round}-{n}\n"))
                    .collect();
                farm.lab.context(name, &[("Dockerfile", &format!("ARG BASE=localhost/busybox\nFROM $BASE\n{steps}"))]);
            }
            std::thread::scope(|scope| {
                for name in &writers {
                    let run = build(name, format!("store-{name}"), "--cache-to", &caches);
                    scope.spawn(move || {
                        let done = run.ok();
                        assert!(executed(&done) == 6 && !shown(&done).contains("warning:"), "{done}");
                    });
                }
            });
            for (n, cache) in caches.iter().enumerate() {
                for name in &writers {
                    // A step that the store has from the other one would be no hit in the cache.
                    let run = build(name, format!("fresh-{name}-{n}"), "--cache-from", std::slice::from_ref(cache));
                    let done = run.ok();
                    assert!(executed(&done) == 0 && !shown(&done).contains("warning:"), "{cache}: {done}");
                }
            }
        }
    }
}

#[test]
fn the_spelling_of_buildah() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, "RUN echo executed; head -c 9 /dev/urandom > /id\n");
    let repository = farm.at("cache");
    farm.build("one").args(["-t", "x", "--cache-to", &repository]).ok();
    let again = farm.build("two").args(["-t", "x", "--cache-from", &repository, "--cache-ttl", "1h"]).ok();
    assert_eq!((executed(&again), farm.id("two")), (0, farm.id("one")), "{again}");
    let old = farm.build("three").args(["-t", "x", "--cache-from", &repository, "--cache-ttl", "1ms"]).ok();
    assert_eq!(executed(&old), 1, "{old}");
    let off = farm.build("four").args(["-t", "x", "--cache-from", &repository, "--no-cache"]).ok();
    assert_eq!(executed(&off), 1, "{off}");
    // Only the steps of the image, where that is asked for.
    farm.lab.write("ctx/Dockerfile", DOCKERFILE);
    let min = format!("type=registry,ref={},mode=min", farm.at("min"));
    farm.build("five").args(["-t", "x", "--cache-to", &min]).ok();
    let from = farm.build("six").args(["-t", "x", "--target", "tools", "--cache-from", &farm.at("min")]).ok();
    assert_eq!(executed(&from), 1, "{from}");
}

#[test]
fn layers_in_a_cache_are_compressed_as_asked() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, "RUN echo executed; head -c 99999 /dev/urandom > /id\n");
    farm.build("one").args(["-t", &farm.image("x:1")]).ok();
    for (how, kind) in [("gzip", "tar+gzip"), ("zstd", "tar+zstd"), ("uncompressed", "tar\\\"")] {
        let to = format!("type=local,dest={how},compression={how}");
        farm.build("one").args(["-t", "x", "--cache-to", &to]).ok();
        let manifests = fs::read_dir(farm.lab.path(how).join("blobs/sha256")).expect("blobs").flatten();
        let texts: Vec<String> = manifests.filter_map(|e| fs::read_to_string(e.path()).ok()).collect();
        assert!(texts.iter().any(|t| t.contains(kind)), "{how}: {texts:?}");
        // Whatever the cache has, the image is pushed as if it had been made here.
        let from = format!("type=local,src={how}");
        let done = farm.build(how).args(["-t", &farm.image("x:2"), "--cache-from", &from]).ok();
        assert_eq!((executed(&done), farm.id(how)), (0, farm.id("one")), "{done}");
        let digest = |name: &str| {
            let run = farm.lab.rbuild(["pull", "-q", &farm.at(name)]).env("RBUILD_ROOT", farm.lab.path("puller"));
            run.ok();
            let list = farm.lab.rbuild(["images", "--format", "{{.Digest}}", &farm.at(name)]);
            list.env("RBUILD_ROOT", farm.lab.path("puller")).ok().stdout
        };
        assert_eq!(digest("x:1"), digest("x:2"), "{how}");
    }
}

/// Keys made by openssl, as users make them.
fn keys(lab: &Lab, name: &str, kind: &[&str]) -> (String, String) {
    let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
    lab.program("openssl", ["genpkey", "-out", &private]).args(kind).ok();
    lab.program("openssl", ["pkey", "-in", &private, "-pubout", "-out", &public]).ok();
    (private, public)
}

#[test]
fn entries_that_nobody_signed_do_not_count() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry", "openssl");
    let farm = Farm::new();
    dockerfile(&farm, "RUN echo executed; head -c 9 /dev/urandom > /id\n");
    let cache = format!("type=registry,ref={}", farm.at("cache"));
    let own = keys(&farm.lab, "own", &["-algorithm", "ed25519"]);
    let other = keys(&farm.lab, "other", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let build = |store: &str, more: &[&str]| farm.build(store).args(["-t", "x"]).args(more).ok();
    build("one", &["--cache-to", &cache]);
    let signed = |store: &str, key: &str| executed(&build(store, &["--cache-from", &cache, "--cache-verify-key", key]));
    assert_eq!(signed("two", &own.1), 1, "nobody signed it");
    build("three", &["--cache-to", &cache, "--cache-sign-key", &other.0]);
    assert_eq!((signed("four", &other.1), signed("five", &own.1)), (0, 1), "the other signed it");
    // Who signs puts his own in the place of one without a signature that counts.
    let key = ["--cache-sign-key", &own.0, "--cache-verify-key", &own.1];
    build("six", &[&["--cache-to", &cache, "--cache-from", &cache][..], &key].concat());
    assert_eq!((signed("seven", &own.1), signed("eight", &other.1)), (0, 1));
    let done = farm.build("nine").args(["-t", "x", "--cache-from", &cache, "--cache-verify-key", &own.0]).fails();
    assert!(done.stderr.contains("own.pem") && done.stderr.contains("hint:"), "{done}");
}

#[test]
fn scopes_are_kept_apart() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    let (main, change) = ("RUN echo executed; head -c 9 /dev/urandom > /main\n", "RUN echo executed; echo > /change\n");
    let caches = [format!("type=registry,ref={}", farm.at("cache")), "type=local,D=cache".to_owned()];
    for (n, cache) in caches.iter().enumerate() {
        let from = |scope: &str| format!("{},scope={scope}", cache.replace("D=", "src="));
        let to = |scope: &str| format!("{},scope={scope}", cache.replace("D=", "dest="));
        dockerfile(&farm, main);
        farm.build(&format!("main-{n}")).args(["-t", "x", "--cache-to", &to("main")]).ok();
        dockerfile(&farm, &format!("{main}{change}"));
        // The build of a change reads what the main line has, and writes what is its own.
        let mine = ["-t", "x", "--cache-from", &from("main"), "--cache-from", &from("pr/7"), "--cache-to", &to("pr/7")];
        assert_eq!(executed(&farm.build(&format!("change-{n}")).args(mine).ok()), 1);
        assert_eq!(executed(&farm.build(&format!("again-{n}")).args(mine).ok()), 0);
        let other = farm.build(&format!("other-{n}")).args(["-t", "x", "--cache-from", &from("main")]).ok();
        assert_eq!(executed(&other), 1, "the main line does not see it: {other}");
    }
}

/// Debian's redis-server on a free port, ended when this goes away.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(lab: &Lab, more: &[&str]) -> Redis {
        let port = port();
        let mut command = Command::new(which("redis-server").expect("`redis-server` is installed"));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(lab.dir());
        command.args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let redis = Redis { child: command.spawn().expect("redis-server"), port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server did not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis
    }

    fn ask(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let out = Command::new("redis-cli").args(["-p", &port]).args(command).env("REDISCLI_AUTH", "p@ss").output();
        String::from_utf8(out.expect("redis-cli").stdout).expect("text")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn redis_as_cache() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry", "redis-server", "redis-cli");
    let farm = Farm::new();
    let redis = Redis::start(&farm.lab, &["--requirepass", "p@ss"]);
    let cache = format!("type=redis,url=redis://:p%40ss@127.0.0.1:{}/2,ref={}", redis.port, farm.at("layers"));
    is_rebuilt(&farm, &format!("{cache},ttl=1h"), &cache);
    let keys = redis.ask(&["-n", "2", "keys", "rbuild_cache_*"]);
    assert!(keys.lines().count() >= 6, "{keys}");
    for key in keys.lines() {
        let ttl: u64 = redis.ask(&["-n", "2", "ttl", key]).trim().parse().expect("seconds");
        assert!((3000..=3600).contains(&ttl), "{ttl}");
    }
    // Without its own repository, the layers are where the image goes.
    let beside = format!("type=redis,url=redis://:p%40ss@127.0.0.1:{}/3", redis.port);
    farm.build("one").args(["-t", &farm.image("app:1"), "--cache-to", &beside]).ok();
    let again = farm.build("seven").args(["-t", &farm.image("app:1"), "--cache-from", &beside]).ok();
    assert_eq!((executed(&again), farm.id("seven")), (0, farm.id("one")));
    // A wrong password is one warning, and no secret is in it.
    let wrong = format!("type=redis,url=redis://:hidden@127.0.0.1:{},ref={}", redis.port, farm.at("layers"));
    let done = farm.build("eight").args(["-t", "x", "--cache-from", &wrong, "--cache-to", &wrong]).ok();
    assert_eq!(shown(&done).matches("warning:").count(), 1, "{done}");
    assert!(shown(&done).contains("WRONGPASS") && !shown(&done).contains("hidden"), "{done}");
}

#[test]
fn a_web_server_as_cache() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let (farm, web) = (Farm::new(), Web::start());
    web.demand_login("Basic dTpwQA==");
    let cache = format!("type=http,url={}", web.url("/some/where").replace("http://", "http://u:p%40@"));
    is_rebuilt(&farm, &cache, &cache);
    let pages = web.pages();
    assert!(pages.keys().any(|p| p.starts_with("/some/where/steps/")), "{:?}", pages.keys());
    assert!(pages.keys().any(|p| p.starts_with("/some/where/blobs/sha256/")), "{:?}", pages.keys());
}

#[test]
fn why_a_step_was_executed() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, "COPY file /\nARG V\nRUN true; echo one > /one\nRUN true; echo two > /two\n");
    let cache = format!("type=registry,ref={}", farm.at("cache"));
    let build = |store: &str, more: &[&str]| {
        let done = farm.build(store).args(["-t", "x", "--explain-cache"]).args(more).ok();
        let lines: Vec<String> =
            shown(&done).lines().filter_map(|l| l.strip_prefix("note: cache: ")).map(str::to_owned).collect();
        lines.join("\n").replace(&farm.registry.host(), "HOST")
    };
    let first = build("one", &["--build-arg", "V=1", "--cache-to", &cache]);
    assert_eq!(first.matches(": miss: the store knows no step of this kind").count(), 2, "{first}");
    let again = build("one", &["--build-arg", "V=1"]);
    assert_eq!(again.matches(": hit in the store").count(), 3, "{again}");
    let other = build("one", &["--build-arg", "V=2"]);
    let variable =
        "`RUN true; echo one > /one`: miss: the variable `V` differs from the nearest step that the store knows";
    assert!(other.contains("`COPY file /`: hit in the store") && other.contains(variable), "{other}");
    farm.lab.write("ctx/file", "changed");
    let changed = build("one", &["--build-arg", "V=1"]);
    assert!(changed.contains("`COPY file /`: miss: what it copies differs"), "{changed}");
    assert!(changed.contains("`RUN true; echo one > /one`: miss: what it is executed on differs"), "{changed}");
    farm.lab.write("ctx/file", "content");
    let fresh = build("two", &["--build-arg", "V=1", "--cache-from", &cache]);
    assert_eq!(fresh.matches(": hit in `type=registry,ref=HOST/cache").count(), 3, "{fresh}");
    let none = build("two", &["--build-arg", "V=1", "--no-cache"]);
    assert_eq!(none.matches(": not looked up").count(), 3, "{none}");
}

/// An index is pushed like a single image: layers stay where they are.
#[test]
fn an_index_from_a_cache() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    let cache = format!("type=registry,ref={}", farm.at("cache"));
    let to = ["--provenance=mode=min", "-t", &farm.image("app:1")];
    farm.build("one").args(to).args(["--cache-to", &cache]).ok();
    let again = farm.build("two").args(to).args(["-t", &farm.image("app:2"), "--cache-from", &cache]).ok();
    assert_eq!(executed(&again), 0, "{again}");
    assert!(farm.blobs("two") < 100_000, "{} bytes came", farm.blobs("two"));
    assert_eq!(farm.runs("app:1", "three"), farm.runs("app:2", "four"));
}
