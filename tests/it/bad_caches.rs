//! Caches that hang, end, lie or are slow: a build loses a few seconds and nothing else.

use crate::harness::{Registry, busybox_is_missing, port, require};
use crate::shared_cache::{Farm, dockerfile, executed, shown};
use crate::web::Web;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Takes connections and never says anything.
fn silent_server() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    (listener, port)
}

#[test]
fn caches_that_do_not_answer() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    let plain = farm.build("zero").args(["-t", "x"]).ok();
    let (_silent, silent) = silent_server();
    // A busy machine is not at fault twice.
    let bound = plain.took * 2 + Duration::from_secs(5);
    for (name, port) in [("silent", silent), ("dead", port())] {
        let caches = [
            format!("type=registry,ref=127.0.0.1:{port}/x"),
            format!("type=redis,url=redis://127.0.0.1:{port},ref=127.0.0.1:{port}/x"),
            format!("type=http,url=http://127.0.0.1:{port}/"),
        ];
        // One that is read, one that is written, and all of them at once.
        for (n, cache) in caches.iter().enumerate() {
            let done = farm.build(&format!("{name}-{n}")).args(["-t", "x", "--cache-from", cache]).ok();
            assert_eq!((executed(&done), shown(&done).matches("warning:").count()), (2, 1), "{cache}: {done}");
            assert!(done.took < bound, "{cache}: {:?}, {:?}", done.took, plain.took);
        }
        let done = farm.build(&format!("{name}-to")).args(["-t", "x", "--cache-to", &caches[0]]).ok();
        assert_eq!(shown(&done).matches("warning:").count(), 1, "{done}");
        assert!(done.took < bound, "{:?}, {:?}", done.took, plain.took);
        let mut all = farm.build(&format!("{name}-all")).args(["-t", "x"]);
        for cache in &caches {
            all = all.args(["--cache-from", cache, "--cache-to", cache]);
        }
        let done = all.ok();
        assert_eq!(executed(&done), 2, "{done}");
        assert!(done.took < bound, "{:?}, {:?}", done.took, plain.took);
    }
    // A directory that cannot be read or written.
    farm.lab.write("plain", "no directory");
    let done = farm.build("filed").args([
        "-t",
        "x",
        "--cache-from",
        "type=local,src=plain",
        "--cache-to",
        "type=local,dest=plain",
    ]);
    let done = done.ok();
    assert_eq!((executed(&done), shown(&done).matches("warning:").count()), (2, 1), "{done}");
}

/// Caches of steps and of cache mounts are one place where they are at one place, and lose time once.
#[test]
fn caches_of_mounts_that_do_not_answer() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    let mounts: String = (0..4).map(|n| format!("--mount=type=cache,id=m{n},target=/m{n} ")).collect();
    dockerfile(&farm, &format!("RUN {mounts} echo executed; for n in 0 1 2 3; do echo $n > /m$n/file; done\n"));
    let plain = farm.build("zero").args(["-t", "x"]).ok();
    let silent: Vec<_> = (0..4).map(|_| silent_server()).collect();
    let bound = plain.took + Duration::from_secs(5);
    let dead = port();
    let places = [("silent", vec![silent[0].1]), ("dead", vec![dead]), ("all", silent.iter().map(|s| s.1).collect())];
    for (name, ports) in places {
        let at = |n: usize| format!("type=registry,ref=127.0.0.1:{}/x", ports[n % ports.len()]);
        let mut build = farm.build(name).args(["-t", "x", "--cache-from", &at(0), "--cache-to", &at(0)]);
        for n in 0..4 {
            build = build.args(["--cache-mount", &format!("id=m{n},\"to={}\"", at(n))]);
        }
        let done = build.ok();
        assert_eq!(executed(&done), 1, "{done}");
        // Where each is a place of its own, the build does not come to ask all of them.
        let warnings = shown(&done).matches("warning:").count();
        assert!(warnings == 1 || ports.len() > 1 && warnings <= 5, "{name}: {done}");
        assert!(done.took < bound, "{name}: {:?}, {:?}: {done}", done.took, plain.took);
    }
}

/// A server that says that it knows nothing, each time after this long.
fn slow_redis(wait: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|n| n > 0) {
                    std::thread::sleep(wait);
                    if stream.write_all(b"$-1\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn caches_that_are_slow() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, &(0..20).map(|n| format!("RUN echo executed; echo {n} > /n\n")).collect::<String>());
    let plain = farm.build("zero").args(["-t", "x"]).ok();
    let cache = |wait| format!("type=redis,url=redis://127.0.0.1:{},ref={}", slow_redis(wait), farm.at("layers"));
    let slow = cache(Duration::from_millis(900));
    let done = farm.build("slow").args(["-t", "x", "--cache-from", &slow]).ok();
    assert_eq!((executed(&done), shown(&done).matches("warning:").count()), (20, 1), "{done}");
    assert!(done.took < plain.took * 2 + Duration::from_secs(5), "{:?}, {:?}", done.took, plain.took);
    // What a network may take is no reason to do without.
    let far = cache(Duration::from_millis(60));
    let done = farm.build("far").args(["-t", "x", "--cache-from", &far]).ok();
    assert_eq!((executed(&done), shown(&done).matches("warning:").count()), (20, 0), "{done}");
}

/// What a cache had promised is gone, or hangs, when it is needed.
#[test]
fn caches_that_end_in_the_middle() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    let file = |wait: &str| {
        let steps = "AS made\nRUN echo executed; head -c 2000000 /dev/urandom > /made\n";
        let slow = format!("FROM $BASE AS slow\nRUN {wait}; echo {wait} > /slow\n");
        format!(
            "ARG BASE=localhost/busybox\nFROM $BASE {steps}{slow}FROM made\nCOPY --from=slow /slow /\nRUN wc -c /made\n"
        )
    };
    for hangs in [false, true] {
        let cache = Registry::start();
        let at = format!("type=registry,ref={}/x", cache.host());
        farm.lab.write("ctx/Dockerfile", file("true"));
        farm.build("one").args(["-t", "x", "--no-cache", "--cache-to", &at]).ok();
        farm.lab.write("ctx/Dockerfile", file(&format!("sleep {}", 3 + u32::from(hangs))));
        let store = if hangs { "hangs" } else { "ends" };
        let run = farm.build(store).args(["-t", "x", "--cache-from", &at, "--cache-to", &at]);
        let started = Instant::now();
        let build = std::thread::scope(|scope| {
            let build = scope.spawn(move || run.ok());
            // The steps that are in the cache are found by then, and nothing needs their files yet.
            std::thread::sleep(Duration::from_millis(2000));
            if hangs {
                cache.hang()
            } else {
                drop(cache)
            }
            build.join().expect("the build")
        });
        assert!(shown(&build).contains("2000000 /made"), "{build}");
        assert_eq!(executed(&build), 1, "the step is executed after all: {build}");
        assert!(shown(&build).contains("warning:"), "{build}");
        assert!(started.elapsed() < Duration::from_secs(4 + 5 + 4), "{:?}: {build}", started.elapsed());
    }
}

/// Entries and layers that are not what they should be.
#[test]
fn caches_that_lie() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("docker-registry");
    let farm = Farm::new();
    dockerfile(&farm, "RUN echo executed; head -c 100000 /dev/urandom > /id\n");
    let web = Web::start();
    let cache = format!("type=http,url={}", web.url("/"));
    farm.build("one").args(["-t", "x", "--cache-to", &cache]).ok();
    let pages = web.pages();
    let changed = |prefix: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        for (path, page) in &pages {
            let mut page = page.clone();
            if path.starts_with(prefix) {
                page.body = change(page.body);
            }
            web.put(path, page);
        }
    };
    let text = |from: &'static str, to: &'static str| {
        move |body: Vec<u8>| String::from_utf8(body).expect("text").replace(from, to).into_bytes()
    };
    let flip = |mut body: Vec<u8>| {
        let middle = body.len() / 2;
        body[middle] ^= 1;
        body
    };
    type Lie = (&'static str, &'static str, Box<dyn Fn(Vec<u8>) -> Vec<u8>>);
    let lies: Vec<Lie> = vec![
        ("no JSON", "/steps/", Box::new(|_| b"garbage".to_vec())),
        ("nothing", "/steps/", Box::new(|_| vec![])),
        ("too much", "/steps/", Box::new(|_| vec![b' '; 1 << 20])),
        ("another step", "/steps/", Box::new(text("\\\"key\\\":\\\"", "\\\"key\\\":\\\"0"))),
        ("another blob", "/steps/", Box::new(text("sha256:", "sha256:0"))),
        ("a shorter layer", "/blobs/", Box::new(|body| body[1..].to_vec())),
        ("another layer", "/blobs/", Box::new(flip)),
        ("no layer", "/blobs/", Box::new(|body| vec![0; body.len()])),
    ];
    for (n, (name, prefix, change)) in lies.into_iter().enumerate() {
        changed(prefix, &*change);
        let done = farm.build(&format!("lie-{n}")).args(["-t", "x", "--cache-from", &cache]).ok();
        assert_eq!(executed(&done), 1, "{name}: {done}");
        assert!(shown(&done).contains("warning:"), "{name}: {done}");
        let run =
            farm.lab.rbuild(["run", "x", "wc", "-c", "/id"]).env("RBUILD_ROOT", farm.lab.path(format!("lie-{n}")));
        assert!(run.ok().stdout.starts_with("100000"), "{name}");
        // An image that is only pushed is sound as well.
        let image = farm.image(&format!("lie:{n}"));
        let done = farm.build(&format!("push-{n}")).args(["-t", &image, "--cache-from", &cache]).ok();
        let pull = farm.lab.rbuild(["pull", &farm.at(&format!("lie:{n}"))]).env("RBUILD_ROOT", farm.lab.path("puller"));
        assert!(pull.output().code == 0 && executed(&done) == 1, "{name}: {done}");
    }
    // What was damaged is written again.
    changed("/steps/", &|_| b"garbage".to_vec());
    farm.build("one").args(["-t", "x", "--cache-to", &cache]).ok();
    let done = farm.build("again").args(["-t", "x", "--cache-from", &cache]).ok();
    assert_eq!((executed(&done), farm.id("again")), (0, farm.id("one")), "{done}");
}
