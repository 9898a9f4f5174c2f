//! What a hostile step gets: nothing of the pod, the builder and other steps, whatever keeps it in.
//!
//! `escape.c` tries, in a step of its own, and in one after a step that had a secret, while another step has that secret.
//! The same is run on each rung: here, without what a kernel or a pod may lack, and in pods.

use crate::fallback::{Denied, without};
use crate::harness::{Done, Lab, Run, busybox_is_missing, busybox_tar, is_root, require};
use crate::pods;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many kinds of attacks there are, as the program counts them.
const KINDS: &str = "all of 16 kinds tried";
/// In every secret that must not be seen; the program knows it backwards.
const MARKER: &str = "swordfish";

/// A place outside of every step, and what is in it.
struct Outside {
    lab: Lab,
    calls: Arc<AtomicUsize>,
    before: Vec<String>,
}

impl Outside {
    fn new() -> Outside {
        let lab = Lab::new();
        lab.write("context/busybox.tar", busybox_tar());
        lab.write("context/sub/file", "a file of the context");
        for name in ["token", "secret", "private"] {
            lab.write(format!("context/outside/{name}"), format!("{MARKER} {name}"));
        }
        lab.write("context/outside/victim", "untouched");
        let source = lab.write("escape.c", include_str!("escape.c"));
        let gcc = Run::new("gcc", ["-static", "-O1", "-pthread", "-o"]).arg(lab.path("context/attack"));
        gcc.arg(source).ok();
        let socket = lab.path("context/outside/socket");
        let listener = UnixListener::bind(&socket).expect("a local socket");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("chmod of the socket");
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        // Ends with the test's process; nobody is to come.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = (&stream).write_all(MARKER.as_bytes());
            }
        });
        let before = state(&lab);
        Outside { lab, calls, before }
    }

    /// Writes the Dockerfile for a place at which the outside is seen by the builder.
    fn dockerfile(&self, at: &str, more: &[&str]) {
        let security = if more.contains(&"insecure") { "--security=insecure " } else { "" };
        let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
        let text = format!(
            r#"FROM localhost/busybox AS base
COPY --chmod=755 attack /attack
ENV TARGETS={token}:{at}/token:{at}/private VICTIMS={at}/victim SOCKET={at}/socket

FROM base AS holder
ARG PID
RUN --mount=type=secret,id=t,required --mount=type=secret,id=t,env=TOKEN --mount=type=cache,target=/meeting \
    touch /meeting/ready; i=0; \
    while test ! -e /meeting/done -a $i -lt 600; do sleep 0.1; i=$((i+1)); done; \
    test -e /meeting/done && test -n "$TOKEN" && test -s /run/secrets/t
RUN {security}["/attack"]

FROM base AS attacker
ARG PID
ENV READY=/meeting/ready DONE=/meeting/done
RUN {security}--mount=type=cache,target=/meeting --mount=type=bind,source=sub,target=/ctx ["/attack"]

FROM base
COPY --from=holder /etc/passwd /a
COPY --from=attacker /etc/passwd /b
"#
        );
        self.lab.write("context/Dockerfile", text);
    }

    /// What the attacks got.
    fn judge(&self, rung: &str, done: &Done) {
        let got: Vec<&str> = done
            .stdout
            .lines()
            .chain(done.stderr.lines())
            .filter(|l| l.contains("HIT ") || l.contains("DID "))
            .collect();
        assert!(got.is_empty(), "{rung}: {got:#?}\n{done}");
        assert_eq!(done.code, 0, "{rung}: {done}");
        let tried = done.stdout.matches(KINDS).count() + done.stderr.matches(KINDS).count();
        assert_eq!(tried, 2, "{rung}: {done}");
        assert_eq!(self.calls.load(Ordering::Relaxed), 0, "{rung}: somebody called");
        assert_eq!(state(&self.lab), self.before, "{rung}");
    }
}

/// All that could be changed outside.
fn state(lab: &Lab) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for dir in ["context/outside", "context/sub"] {
        for entry in fs::read_dir(lab.path(dir)).expect("the outside").flatten() {
            let meta = entry.metadata().expect("a file");
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let name = entry.file_name();
            all.push(format!("{name:?} {:o} {}:{} {} {text}", meta.mode(), meta.uid(), meta.gid(), meta.mtime_nsec()));
        }
    }
    all.sort();
    all
}

/// Which attributes a build is run with besides.
struct Rung {
    name: &'static str,
    flags: &'static [&'static str],
    /// What the kernel, or the pod's filter, refuses.
    denied: Denied<'static>,
    /// Whether part of `/proc` is covered.
    covered: bool,
    /// Whether the builder is the machine's root.
    root: bool,
    /// Whether the step asks for all that there is.
    insecure: bool,
    /// What is said of the way that was taken.
    says: Option<&'static str>,
}

const PLAIN: Rung = Rung {
    name: "namespaces",
    flags: &["--isolation=namespaces"],
    denied: &[],
    covered: false,
    root: false,
    insecure: false,
    says: None,
};
const SUPERVISED: Rung =
    Rung { name: "trace", flags: &["--isolation=trace"], says: Some("under a supervisor"), ..PLAIN };
const NO_LANDLOCK: (&str, i32) = ("landlock_create_ruleset", libc::ENOSYS);
const ONE_ID: (&str, i32) = ("setns", libc::EPERM);

fn attacked(rung: &Rung) {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("gcc", "setpriv", "unshare");
    require!(if (rung.covered || rung.root) && !is_root(), "it takes root");
    let outside = Outside::new();
    let lab = &outside.lab;
    outside.dockerfile(
        lab.path("context/outside").to_str().expect("text"),
        if rung.insecure { &["insecure"] } else { &[] },
    );
    let program = lab.path("bin/rbuild");
    let program = program.to_str().expect("text");
    let script = "set -e; \"$0\" import context/busybox.tar localhost/busybox >/dev/null; \
        exec \"$0\" bud --no-cache --build-arg PID=$$ --secret id=t,src=context/outside/secret -t localhost/x \"$@\" context";
    let mut command = vec!["sh", "-c", script, program];
    command.extend(rung.flags);
    if rung.insecure {
        command.push("--allow=security.insecure");
    }
    let run = if rung.root {
        let run = Run::new("sh", &command[1..]).dir(lab.dir());
        run.env("RBUILD_ROOT", lab.path("root-store")).env("HOME", lab.path("home"))
    } else {
        without(lab, rung.denied, rung.covered, &command)
    };
    let done = run.env("BUILDER_SECRET", format!("{MARKER} of the builder")).output();
    outside.judge(rung.name, &done);
    assert!(rung.says.is_none_or(|text| done.stderr.contains(text)), "{}: {done}", rung.name);
}

#[test]
fn from_namespaces_with_a_range_of_ids() {
    attacked(&PLAIN);
}

#[test]
fn from_namespaces_with_one_id() {
    attacked(&Rung { name: "one id", denied: &[ONE_ID], ..PLAIN });
}

#[test]
fn from_namespaces_with_every_capability() {
    attacked(&Rung { name: "insecure", insecure: true, ..PLAIN });
}

#[test]
fn from_namespaces_with_every_capability_but_to_trace_without_landlock() {
    for covered in [false, true] {
        let says = Some("without `CAP_SYS_PTRACE`");
        attacked(&Rung {
            name: "insecure without landlock",
            insecure: true,
            covered,
            denied: &[NO_LANDLOCK],
            says,
            ..PLAIN
        });
    }
}

#[test]
fn from_namespaces_in_the_pods_pid_namespace() {
    attacked(&Rung { name: "covered", covered: true, ..PLAIN });
}

#[test]
fn from_namespaces_in_the_pods_pid_namespace_with_one_id_without_landlock() {
    attacked(&Rung { name: "covered, one id", covered: true, denied: &[ONE_ID, NO_LANDLOCK], ..PLAIN });
}

#[test]
fn from_namespaces_without_pivot_root() {
    attacked(&Rung { name: "no pivot_root", covered: true, denied: &[("pivot_root", libc::EPERM)], ..PLAIN });
}

#[test]
fn from_a_supervisor() {
    attacked(&SUPERVISED);
}

#[test]
fn from_a_supervisor_without_landlock_and_without_taking_descriptors() {
    attacked(&Rung { name: "bare trace", denied: &[NO_LANDLOCK, ("pidfd_getfd", libc::EPERM)], ..SUPERVISED });
}

#[test]
fn from_a_supervisor_with_every_capability() {
    attacked(&Rung { name: "insecure trace", insecure: true, denied: &[NO_LANDLOCK], ..SUPERVISED });
}

#[test]
fn from_a_supervisor_that_is_root() {
    attacked(&Rung { name: "chroot", root: true, flags: &["--isolation=chroot"], ..SUPERVISED });
}

#[test]
fn from_the_terminal_of_the_builder() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("gcc", "script");
    let outside = Outside::new();
    let lab = &outside.lab;
    lab.rbuild(["import", "context/busybox.tar", "localhost/busybox"]).ok();
    for isolation in ["namespaces", "trace"] {
        // The builder is in the process group of the step.
        let inside = "/attack terminal; trap '' TERM; kill -TERM 0; echo alive";
        let volume = format!("{}:/attack:ro", lab.path("context/attack").display());
        let line = format!(
            "{} run --isolation={isolation} -it --volume={volume} localhost/busybox sh -c \"{inside}\"; echo builder $?",
            lab.path("bin/rbuild").display()
        );
        let done = lab.program("script", ["-qec", &line, "/dev/null"]).output();
        assert!(done.stdout.contains("tried 2") && !done.stdout.contains("DID "), "{isolation}: {done}");
        assert!(done.stdout.contains("alive"), "{isolation}: {done}");
        // Without Landlock the kernel has no word for it.
        let scoped = rbuild::sys::landlock::can_scope_signals();
        assert!(!scoped || done.stdout.contains("builder 0"), "{isolation}: {done}");
    }
}

#[test]
fn what_a_step_puts_in_the_place_of_mount_points_leads_nowhere() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    for isolation in ["namespaces", "trace"] {
        let lab = Lab::new();
        lab.import_busybox();
        lab.write("secret", MARKER);
        lab.mkdir("outside/empty");
        lab.write("outside/file", "");
        let at = lab.path("outside");
        let before = fs::metadata(&at).and_then(|m| m.modified()).expect("the outside");
        // Mount points that rbuild has made, and takes away when the step is over.
        let dockerfile = format!(
            "FROM localhost/busybox\nRUN --mount=type=tmpfs,target=/a/b/empty --mount=type=secret,id=t,target=/a/d/file \
             mv /a/b /a/x; mv /a/d /a/y; ln -s {0} /a/b; ln -s {0} /a/d; true\n",
            at.display()
        );
        let context = lab.context("context", &[("Dockerfile", &dockerfile)]);
        let flags = [&format!("--isolation={isolation}"), "--no-cache", "--secret=id=t,src=secret"];
        lab.rbuild(["bud"]).args(flags).arg(context).ok();
        assert!(at.join("empty").is_dir() && at.join("file").is_file(), "{isolation}: they were removed");
        assert_eq!(fs::metadata(&at).and_then(|m| m.modified()).expect("the outside"), before, "{isolation}");
    }
}

/// Not a test: may execute one program, and do next to nothing else.
#[test]
#[ignore = "a role in which the tests start this binary"]
fn landlocked() {
    let Ok(program) = std::env::var("RBUILD_TEST_PROGRAM") else { return };
    rbuild::sys::caps::set_no_new_privileges().expect("no_new_privs");
    let there = rbuild::sys::landlock::only_execute(&[program.as_ref()], true).expect("Landlock");
    println!("Landlock: {there}");
    println!("reads: {}", fs::read("/etc/hostname").is_ok() || fs::read_dir("/").is_ok());
    println!("writes: {}", fs::write("/tmp/landlocked", "x").is_ok());
    println!(
        "connects: {}",
        std::net::TcpStream::connect(("127.0.0.1", 1)).is_err_and(|e| e.raw_os_error() != Some(libc::EACCES))
    );
    let parent = nix::unistd::getppid();
    println!("signals: {}", nix::sys::signal::kill(parent, None).is_ok());
    let ran = std::process::Command::new(&program).arg("true").env_clear().status();
    println!("executes: {}", ran.is_ok_and(|s| s.success()));
    println!("executes others: {}", std::process::Command::new("/bin/sh").arg("-c").arg("true").status().is_ok());
}

#[test]
fn landlock_leaves_one_program_to_be_executed() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let this = std::env::current_exe().expect("this program");
    let run = Run::new(this, ["--exact", "escape::landlocked", "--ignored", "--nocapture", "--test-threads=1"]);
    let done = run.env("RBUILD_TEST_PROGRAM", "/bin/busybox").ok();
    if done.stdout.contains("Landlock: false") {
        return crate::harness::cannot_run("this kernel has no Landlock");
    }
    let scoped = rbuild::sys::landlock::can_scope_signals();
    for (what, expected) in [
        ("reads", false),
        ("writes", false),
        ("connects", !scoped),
        ("signals", !scoped),
        ("executes", true),
        ("executes others", false),
    ] {
        assert!(done.stdout.contains(&format!("{what}: {expected}")), "{what}: {done}");
    }
}

#[test]
fn from_pods() {
    require!(if pods::missing().is_some(), pods::missing().unwrap_or_default());
    require!("gcc");
    let outside = Outside::new();
    outside.dockerfile("/context/outside", &[]);
    let script = r#"set -e; cd /context
        echo untouched >$RBUILD_ROOT-victim
        rbuild import busybox.tar localhost/busybox >/dev/null
        code=0; sh -c 'exec rbuild bud --no-cache --build-arg PID=$$ --secret id=t,src=outside/secret -t localhost/x .' || code=$?
        test "$(cat $RBUILD_ROOT-victim)" = untouched || echo "DID change a file of the pod"
        exit $code"#;
    let secret = format!("BUILDER_SECRET={MARKER} of the builder");
    for (profile, says) in [
        ("restricted/emptydir", Some("under a supervisor")),
        ("baseline/emptydir", Some("under a supervisor")),
        ("localhost/emptydir", None),
        ("rootless/emptydir", None),
        ("hostusers-admin/emptydir", None),
        ("default/emptydir", None),
    ] {
        let done = pods::in_pod(&outside.lab, profile, &["-e", &secret], script).output();
        outside.judge(profile, &done);
        assert_eq!(done.stderr.contains("under a supervisor"), says.is_some(), "{profile}: {done}");
    }
}
