//! The stores of podman and Docker, as places that images come from and go to.

use crate::dockerd::Dockerd;
use crate::harness::{Lab, is_root, processes_with_argument, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

const FILES: &[(&str, &str)] = &[("Dockerfile", "FROM scratch\nCOPY file /file\n"), ("file", "content\n")];

/// podman of the lab's user, with the storage that this user has by default.
struct Podman<'a>(&'a Lab);

impl Podman<'_> {
    fn run(&self, args: &[&str]) -> crate::harness::Run {
        self.0.program("podman", args)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // It leaves a process behind that holds its namespaces.
        let _ = self.run(&["system", "migrate"]).output();
    }
}

#[test]
fn images_come_from_podman_and_go_to_it() {
    require!("podman", "skopeo", "newuidmap");
    let lab = Lab::new();
    require!(if !lab.user().ranged, "the user has no ids in `/etc/subuid`");
    lab.mkdir("run");
    let context = lab.context("context", FILES);
    let podman = Podman(&lab);
    podman.run(&["build", "-q", "-t", "localhost/theirs:1", "context"]).ok();
    let id = |name: &str| podman.run(&["images", "-q", "--no-trunc", name]).ok().stdout.trim().to_owned();
    assert!(!id("localhost/theirs:1").is_empty());

    // FROM, and a destination.
    let dockerfile = "FROM containers-storage:localhost/theirs:1\nCOPY --chown=7:8 file /more\n";
    let build = |args: &[&str], dockerfile: &str| {
        lab.rbuild(["bud", "-f", "-"]).args(args).arg(&context).input(dockerfile.to_owned())
    };
    build(&["-t", "containers-storage:localhost/ours:2"], dockerfile).ok();
    let read = "m=$(podman image mount localhost/ours:2) && cat $m/file $m/more && stat -c %u:%g $m/more";
    let read = podman.run(&["unshare", "sh", "-c", read]).ok();
    assert_eq!(read.stdout, "content\ncontent\n7:8\n");

    // COPY --from and a named context.
    let copies = "FROM base\nCOPY --from=containers-storage:localhost/ours:2 /more /again\n";
    build(&["--build-context=base=containers-storage:localhost/theirs:1", "-o", "type=local,dest=out"], copies).ok();
    for name in ["file", "again"] {
        assert_eq!(std::fs::read_to_string(lab.path("out").join(name)).unwrap(), "content\n");
    }

    // `pull` and `push`: the same image on both sides.
    let pulled = lab.rbuild(["pull", "containers-storage:localhost/ours:2"]).ok();
    assert_eq!(format!("sha256:{}", pulled.stdout.trim()), id("localhost/ours:2"));
    lab.rbuild(["push", "localhost/ours:2", "containers-storage:localhost/third:3"]).ok();
    assert_eq!(id("localhost/third:3"), id("localhost/ours:2"));

    // What is not there, what a Dockerfile must not choose, what policies forbid.
    let done = build(&[], "FROM containers-storage:localhost/none\n").fails();
    assert!(done.stderr.contains("cannot copy from `containers-storage:localhost/none`"), "{done}");
    let done = build(&[], "FROM containers-storage:[vfs@/tmp/x]localhost/none\n").fails();
    assert!(done.stderr.contains("is not in the store") && !Path::new("/tmp/x").exists(), "{done}");
    lab.write("policy.json", r#"{"default": [{"type": "reject"}]}"#);
    let done = build(&["--signature-policy=policy.json"], dockerfile).fails();
    assert!(done.stderr.contains("is rejected by `default`"), "{done}");
    let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
    lab.write(
        "policy.json",
        format!(r#"{{"default": {accept}, "transports": {{"containers-storage": {{"[vfs@/a]": {accept}}}}}}}"#),
    );
    let done = build(&["--signature-policy=policy.json"], dockerfile).fails();
    assert!(done.stderr.contains("scope `[vfs@/a]` of `containers-storage`"), "{done}");
    lab.write("rules.json", r#"{"rules": [{"action": "DENY", "selector": {"identifier": "*"}}]}"#);
    let done = build(&["--source-policy-file=rules.json"], dockerfile).fails();
    assert!(done.stderr.contains("is denied by the source policy"), "{done}");
    let done = build(&["--platform=linux/amd64,linux/arm64", "-t", "containers-storage:x"], "FROM scratch\n").fails();
    assert!(done.stderr.contains("containers-storage:x"), "{done}");
}

#[test]
fn without_skopeo_it_is_said_before_anything_is_built() {
    let lab = Lab::new();
    lab.context("context", FILES);
    for place in ["containers-storage:localhost/x:1", "docker-daemon:x:1"] {
        let done = lab.rbuild(["bud", "-t", place, "context"]).env("PATH", "/nowhere").fails();
        assert!(done.stderr.contains(&format!("cannot find the program `skopeo`, which `{place}` needs")), "{done}");
        assert!(done.stderr.contains("hint: ") && !done.stdout.contains("STEP"), "{done}");
        let done = lab.rbuild(["pull", place]).env("PATH", "/nowhere").fails();
        assert!(done.stderr.contains("cannot find the program `skopeo`"), "{done}");
    }
}

#[test]
fn a_daemon_that_does_not_answer_keeps_nobody() {
    require!("skopeo");
    let lab = Lab::new();
    let context = lab.context("context", &[("Dockerfile", "FROM docker-daemon:x\n")]);
    let socket = lab.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let host = format!("unix://{}", socket.display());
    // One that is asked to end, and one that has no time to do anything.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = lab.rbuild(["bud"]).arg(&context).env("DOCKER_HOST", &host).start();
        let began = Instant::now();
        let wait = |done: &dyn Fn() -> bool| {
            while !done() {
                assert!(began.elapsed() < Duration::from_secs(30), "{signal}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        wait(&|| !processes_with_argument(&host).is_empty());
        let asked = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3), "{signal}: {:?}", asked.elapsed());
        if signal == Signal::SIGTERM {
            assert_eq!(status.code(), Some(143));
        }
        wait(&|| processes_with_argument(&host).is_empty());
    }
}

#[test]
fn images_come_from_a_docker_daemon_and_go_to_it() {
    require!("skopeo", "dockerd", "docker");
    require!(if !is_root(), "dockerd is run as root, and the tests are not");
    let daemon = Dockerd::start();
    let lab = Lab::new();
    let context = lab.context("context", FILES);
    let host = daemon.host();
    let rbuild = |args: &[&str]| lab.rbuild(args).env("DOCKER_HOST", &host);
    let built = rbuild(&["bud", "-t", "docker-daemon:team/ours:7", "context"]).ok();
    let id = built.stdout.lines().last().unwrap().to_owned();
    let pulled = rbuild(&["pull", "docker-daemon:team/ours:7"]).ok();
    assert_eq!(pulled.stdout.trim(), id);
    rbuild(&["push", "docker.io/team/ours:7", "docker-daemon:second"]).ok();
    let from = "FROM docker-daemon:second\nCOPY file /more\n";
    rbuild(&["bud", "-o", "type=local,dest=out", "-f", "-"]).arg(&context).input(from).ok();
    for name in ["file", "more"] {
        assert_eq!(std::fs::read_to_string(lab.path("out").join(name)).unwrap(), "content\n");
    }
    let done = rbuild(&["pull", "docker-daemon:none:1"]).fails();
    assert!(done.stderr.contains("cannot copy from `docker-daemon:none:1`"), "{done}");
    // The policy knows its names.
    let text = r#"{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker-daemon": {"docker.io/team": [{"type": "reject"}]}}}"#;
    lab.write("policy.json", text);
    let pull = |name: &str| rbuild(&["pull", "--signature-policy=policy.json", name]).output();
    assert_eq!(pull("docker-daemon:second").code, 0);
    let done = pull("docker-daemon:team/ours:7");
    assert!(done.stderr.contains("scope `docker.io/team` of `docker-daemon`"), "{done}");
}
