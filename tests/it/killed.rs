//! Builds that are ended at any moment leave a store that the next build can use, and nothing running.
//!
//! The moments are drawn from a seed that is printed; `RBUILD_TEST_SEED` repeats them and `RBUILD_TEST_KILLS` sets how many.

use crate::harness::{Lab, Registry, busybox_is_missing, busybox_tar, processes_with_argument, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Before this, the program may not have got as far as its signal handlers.
const STARTING: Duration = Duration::from_millis(200);

/// A small generator of numbers (splitmix64), so that a printed seed repeats a run.
struct Moments(u64);

impl Moments {
    fn new() -> Moments {
        let seed = std::env::var("RBUILD_TEST_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64);
        eprintln!("RBUILD_TEST_SEED={seed}");
        Moments(seed)
    }

    /// A moment before `end`.
    fn before(&mut self, end: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        end.mul_f64((z >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// A lab whose build pulls, extracts, runs, copies, commits and pushes; `mark` is an argument of its steps' processes.
struct Job {
    lab: Lab,
    registry: Registry,
    mark: String,
}

impl Job {
    fn new(mark: &str) -> Job {
        let (lab, registry) = (Lab::new(), Registry::start());
        let mark = format!("0.{mark}{}", std::process::id());
        lab.write("busybox.tar", busybox_tar());
        let base = format!("{}/base:1", registry.host());
        let import = lab.rbuild(["import", "busybox.tar", "localhost/base"]).env("RBUILD_ROOT", lab.path("store-base"));
        import.ok();
        let push = lab.rbuild(["push", "localhost/base"]).arg(format!("docker://{base}"));
        push.env("RBUILD_ROOT", lab.path("store-base")).ok();
        let dockerfile = format!(
            "FROM {base}\nRUN seq 100000 > /numbers && sleep {mark}\nCOPY big /big\nRUN sleep {mark}; rm /big/0 && cp /numbers /n\n"
        );
        lab.context("context", &[("Dockerfile", &dockerfile)]);
        let mut moments = Moments(1);
        for file in 0..8 {
            // Bytes that do not compress to nothing.
            let block: Vec<u8> = (0..512 * 1024)
                .flat_map(|_| (moments.before(Duration::MAX / 2).as_nanos() as u64).to_le_bytes())
                .collect();
            lab.write(format!("context/big/{file}"), block);
        }
        Job { lab, registry, mark }
    }

    /// One command that does it all, so that a kill may hit any part.
    fn command(&self, no_cache: bool) -> crate::harness::Run {
        let target = format!("docker://{}/out:1", self.registry.host());
        let run = self.lab.rbuild(["bud", "--pull-always", "-t", "localhost/x", "-t", &target]);
        let run = if no_cache { run.arg("--no-cache") } else { run };
        run.arg(self.lab.path("context"))
    }
}

fn wait_until(deadline: Duration, child: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("its state") {
            return Some(status);
        }
        sleep(Duration::from_millis(2));
    }
    None
}

fn gone(mark: &str, within: Duration) -> bool {
    let end = Instant::now() + within;
    while !processes_with_argument(mark).is_empty() {
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(5));
    }
    true
}

fn kills() -> u32 {
    std::env::var("RBUILD_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

#[test]
fn kill_9_at_any_moment_leaves_a_usable_store() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let job = Job::new("11");
    let whole = job.command(true).ok().took;
    let mut moments = Moments::new();
    for round in 0..kills() {
        let moment = moments.before(whole);
        let mut child = job.command(true).start();
        let status = wait_until(moment, &mut child);
        child.kill().expect("kill");
        child.wait().expect("wait");
        eprintln!(
            "round {round}: killed after {moment:?} of {whole:?}{}",
            if status.is_some() { ", too late" } else { "" }
        );
        assert!(gone(&job.mark, Duration::from_secs(10)), "round {round}: steps outlived the builder");
        job.command(false).ok();
        job.lab.rbuild(["check"]).ok();
    }
}

#[test]
fn a_build_that_waits_for_a_registry_ends_in_time_as_well() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let lab = Lab::new();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = silent.local_addr().expect("its address");
        lab.context("context", &[("Dockerfile", &format!("FROM {host}/base\n"))]);
        // Some programs start others with the signal of the timer blocked.
        let rbuild = lab.path("bin/rbuild");
        let run = lab.program("env", ["--block-signal=ALRM".into(), rbuild, "bud".into(), lab.path("context")]);
        let mut child = run.start();
        let _connection = silent.accept().expect("the build asks for its base");
        let asked = Instant::now();
        kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
        let status = wait_until(Duration::from_secs(2), &mut child);
        let _ = child.kill();
        let status = status.unwrap_or_else(|| panic!("alive two seconds after {signal}"));
        assert_eq!(status.code(), Some(code), "{status:?} {:?} after {signal}", asked.elapsed());
    }
}

#[test]
fn sigterm_ends_everything_within_two_seconds() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let job = Job::new("12");
    let whole = job.command(true).ok().took;
    let mut moments = Moments::new();
    for round in 0..kills() {
        let moment = moments.before(whole);
        let mut child = job.command(true).start();
        if wait_until(moment, &mut child).is_some() {
            continue;
        }
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("kill");
        let status = wait_until(Duration::from_secs(2), &mut child);
        let _ = child.kill();
        let status = status.unwrap_or_else(|| panic!("round {round}: alive two seconds after SIGTERM at {moment:?}"));
        // It says so by its exit code, also where it is the first process of a pod; or it was at its end in that moment.
        let started = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15) && moment < STARTING;
        assert!(matches!(status.code(), Some(143 | 0)) || started, "round {round}: {status:?} at {moment:?}");
        assert!(gone(&job.mark, Duration::from_secs(2)), "round {round}: steps outlived the builder");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let dir = job.lab.dir();
        assert!(!mounts.contains(dir.to_str().expect("text")), "round {round}: a mount is left:\n{mounts}");
    }
    job.command(false).ok();
    job.lab.rbuild(["check"]).ok();
}

#[test]
fn an_archive_whose_writer_is_ended_leaves_nothing_behind() {
    let lab = Lab::new();
    let unnamed =
        std::os::unix::fs::OpenOptionsExt::custom_flags(std::fs::File::options().write(true), libc::O_TMPFILE)
            .open(lab.dir())
            .is_ok();
    require!(if !unnamed, "the file system of the temporary directory has no files without names");
    let block: Vec<u8> = (0..4u64 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    lab.write("context/block", block);
    lab.write("context/Dockerfile", "FROM scratch\nCOPY block /\n");
    lab.rbuild(["bud", "-t", "localhost/x", "context"]).ok();
    let mut moments = Moments::new();
    for format in ["docker-archive", "oci-archive"] {
        let dir = lab.mkdir(format!("out-{format}"));
        let save = || lab.rbuild(["save", "--format", format, "-o"]).arg(dir.join("x.tar")).arg("localhost/x");
        let whole = save().ok().took;
        let complete = std::fs::read(dir.join("x.tar")).expect("the archive");
        std::fs::write(dir.join("x.tar"), "old").expect("write");
        for round in 0..kills() {
            let moment = moments.before(whole);
            let mut child = save().start();
            if wait_until(moment, &mut child).is_none() {
                let signal = if round % 2 == 0 { Signal::SIGTERM } else { Signal::SIGKILL };
                kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
            }
            child.wait().expect("wait");
            let names: Vec<_> = std::fs::read_dir(&dir).expect("list").map(|e| e.expect("entry").file_name()).collect();
            assert_eq!(names, ["x.tar"], "{format}, round {round}: killed after {moment:?} of {whole:?}");
            let content = std::fs::read(dir.join("x.tar")).expect("read");
            assert!(content == b"old" || content == complete, "{format}, round {round}: half an archive at {moment:?}");
        }
    }
}
