//! `--cache-from` and `--cache-to`: builders with stores of their own that share what steps made.

use crate::harness::{Done, Lab, Registry, Run, busybox_is_missing, require, which};
use crate::web::Web;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A build of several kinds of steps. Each RUN leaves something that no other execution would.
const DOCKERFILE: &str = "ARG BASE=localhost/busybox\nFROM $BASE AS tools\nENV A=1\nRUN echo executed; head -c 3000000 /dev/urandom > /tool\n\
    FROM $BASE\nWORKDIR /srv\nCOPY file /srv/\nCOPY --from=tools /tool /srv/\nRUN echo executed; head -c 16 /dev/urandom > /id\n\
    RUN true\nLABEL l=1\n";

/// Builders that share nothing but a registry.
struct Farm {
    lab: Lab,
    registry: Registry,
}

impl Farm {
    fn new() -> Farm {
        let farm = Farm { lab: Lab::new(), registry: Registry::start() };
        farm.lab.import_busybox();
        farm.lab.rbuild(["push", "localhost/busybox", &farm.image("base")]).ok();
        farm.lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("file", "content")]);
        farm
    }

    /// The registry's name of an image.
    fn at(&self, repository: &str) -> String {
        format!("{}/{repository}", self.registry.host())
    }

    fn image(&self, repository: &str) -> String {
        format!("docker://{}", self.at(repository))
    }

    /// A build by a builder with this store.
    fn build(&self, store: &str) -> Run {
        let base = format!("BASE={}", self.at("base"));
        let run = self.lab.rbuild(["bud", "--build-arg", &base, "--iidfile", &format!("{store}.id"), "ctx"]);
        run.env("RBUILD_ROOT", self.lab.path(store))
    }

    /// The id of what was built with this store.
    fn id(&self, store: &str) -> String {
        fs::read_to_string(self.lab.path(format!("{store}.id"))).expect("an image id")
    }

    /// Bytes of blobs in a store.
    fn blobs(&self, store: &str) -> u64 {
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

fn shown(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

/// How many commands were executed.
fn executed(done: &Done) -> usize {
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

/// Debian's redis-server on a free port, ended when this goes away.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(lab: &Lab, more: &[&str]) -> Redis {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
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
