//! What happens on kernels and in pods that lack a call: each is forced by a seccomp filter that answers for the kernel.
//!
//! The filter is loaded by this test binary itself, started once more as [`launcher`], which then executes the program.

use crate::harness::{Done, Lab, Run, busybox_is_missing, is_root, require};
use rbuild::sys::seccomp::{Action, Policy, Rule, compile, load};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What a filter answers, by name of the call.
pub type Denied<'a> = &'a [(&'a str, i32)];

const CALLS: &str = "RBUILD_TEST_DENIED";
const LINE: &str = "RBUILD_TEST_LINE";

/// Not a test: loads the filter that the environment names and becomes the command there.
#[test]
#[ignore = "a role in which the tests start this binary"]
fn launcher() {
    let (Ok(calls), Ok(line)) = (std::env::var(CALLS), std::env::var(LINE)) else { return };
    let rules = calls.split(',').filter_map(|call| call.split_once('=')).map(|(name, errno)| {
        let action = Action::Errno(errno.parse().expect("an error number"));
        (name.to_owned(), vec![Rule { conditions: Vec::new(), action }])
    });
    let policy = Policy { default: Action::Allow, unknown: Action::Allow, rules: rules.collect() };
    if !is_root() {
        rbuild::sys::caps::set_no_new_privileges().expect("no_new_privs");
    }
    load(&compile(&policy).expect("a filter")).expect("loading the filter");
    let words: Vec<&str> = line.split('\n').collect();
    let e = Command::new(words[0]).args(&words[1..]).env_remove(CALLS).env_remove(LINE).exec();
    panic!("cannot execute {words:?}: {e}");
}

/// Runs the program as the user, under a filter, and where `covered` with part of `/proc` covered, as it is in a pod.
fn rbuild_without(lab: &Lab, denied: Denied<'_>, covered: bool, args: &[&str]) -> Done {
    let program = lab.path("bin/rbuild");
    let mut command = vec![program.to_str().expect("a path that is text")];
    command.extend(args);
    without(lab, denied, covered, &command).output()
}

/// The same for any command.
pub fn without(lab: &Lab, denied: Denied<'_>, covered: bool, command: &[&str]) -> Run {
    let calls: Vec<String> = denied.iter().map(|(name, errno)| format!("{name}={errno}")).collect();
    let mut line: Vec<String> = Vec::new();
    let mut word = |words: &[&str]| line.extend(words.iter().map(|w| (*w).to_owned()));
    if covered {
        word(&["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc/sys/kernel && exec \"$@\"", "sh"]);
    }
    if is_root() {
        let (uid, gid) = (lab.user().uid.to_string(), lab.user().gid.to_string());
        word(&["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"]);
    }
    word(command);
    let this = std::env::current_exe().expect("this program");
    Run::new(this, ["--exact", "fallback::launcher", "--ignored", "--nocapture"])
        .env(CALLS, calls.join(","))
        .env(LINE, line.join("\n"))
        .env("HOME", lab.path("home"))
        .env("TMPDIR", lab.path("tmp"))
        .env("RBUILD_ROOT", lab.store())
        .dir(lab.dir())
}

/// Builds on busybox under a filter.
fn build_without(lab: &Lab, denied: Denied<'_>, covered: bool, instructions: &str) -> Done {
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", &format!("FROM localhost/busybox\n{instructions}\n"))]);
    let context = context.to_str().expect("a path that is text").to_owned();
    rbuild_without(lab, denied, covered, &["bud", "--no-cache", "-t", "localhost/x", &context])
}

/// Everything that a step relies on.
const CHECKS: &str = r#"
RUN <<'EOF'
set -e
test "$(id -u)" = 0
echo changed >/file && test "$(cat /file)" = changed
read -r pid _ </proc/self/stat && test "$pid" = $$
test "$(cat /proc/$$/comm)" = sh || test "$(cat /proc/$$/comm)" = busybox
# A child, and a child of that.
sh -c 'read -r pid _ </proc/self/stat && test "$pid" = $$ && (test -e /proc/self/status)'
echo x >/dev/null && test -c /dev/null && test -e /dev/shm && test -e /dev/fd/0
head -c 4 /dev/urandom >/random
grep -q buildkitsandbox /etc/hosts && test "$(hostname)" = buildkitsandbox
test ! -e /var/run/secrets && test ! -e /old
sleep 1000 &
kill -0 $! && kill $! && wait $! || test $? = 143
mkdir -p /d && cd /d && pwd
grep -q ' / ' /proc/mounts
awk '/^Seccomp:/ {exit $2 != 2}' /proc/self/status
EOF
RUN test "$(cat /file)" = changed && rm /file
"#;

fn passes(denied: Denied<'_>, covered: bool) {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv", "unshare");
    require!(if covered && !is_root(), "only root can cover a part of `/proc`");
    let lab = Lab::new();
    let done = build_without(&lab, denied, covered, CHECKS);
    assert_eq!(done.code, 0, "{denied:?}, covered: {covered}: {done}");
}

const ENOSYS: i32 = libc::ENOSYS;
const EPERM: i32 = libc::EPERM;

#[test]
fn without_the_new_way_to_make_file_systems() {
    passes(&[("fsopen", ENOSYS)], false);
    passes(&[("fsopen", EPERM), ("fsconfig", EPERM), ("fsmount", EPERM)], false);
}

#[test]
fn without_the_new_way_to_bind() {
    passes(&[("open_tree", ENOSYS)], false);
    passes(&[("mount_setattr", ENOSYS)], false);
}

#[test]
fn without_any_of_the_new_mount_calls() {
    let all = ["fsopen", "fsconfig", "fsmount", "fspick", "open_tree", "move_mount", "mount_setattr"];
    passes(&all.map(|name| (name, ENOSYS)), false);
    passes(&all.map(|name| (name, EPERM)), true);
}

#[test]
fn without_calls_that_older_kernels_lack() {
    passes(&[("openat2", ENOSYS)], false);
    passes(&[("clone3", ENOSYS), ("close_range", ENOSYS), ("execveat", ENOSYS), ("statx", ENOSYS)], false);
    passes(&[("openat2", EPERM), ("close_range", EPERM), ("execveat", EPERM)], false);
}

#[test]
fn without_pivot_root() {
    passes(&[("pivot_root", EPERM)], false);
}

#[test]
fn without_pivot_root_nobody_uncovers_what_lies_below() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv");
    let lab = Lab::new();
    lab.import_busybox();
    lab.write("home/private", "swordfish");
    let outside = lab.path("home/private");
    // Who may unmount is refused before anything runs; with `pivot_root` it finds nothing.
    let uncover = format!(
        "umount -l / 2>/dev/null; for root in / /proc/*/root; do nsenter -t 1 -m cat {0} 2>/dev/null; cat $root/{0} 2>/dev/null; done; \
         ! chroot /proc/1/root cat {0}",
        outside.display()
    );
    let insecure = format!("FROM localhost/busybox\nRUN --security=insecure {uncover}\n");
    let plain = format!("FROM localhost/busybox\nRUN {uncover}\n");
    let insecure = lab.context("insecure", &[("Dockerfile", &insecure)]);
    let plain = lab.context("plain", &[("Dockerfile", &plain)]);
    let (insecure, plain) = (insecure.to_str().expect("text"), plain.to_str().expect("text"));
    for (denied, refused) in [(&[][..], false), (&[("pivot_root", EPERM)], true)] {
        for args in [
            &["bud", "--isolation=namespaces", "--no-cache", "--allow=security.insecure", insecure][..],
            &["bud", "--isolation=namespaces", "--no-cache", "--cap-add=SYS_ADMIN", plain],
        ] {
            let done = rbuild_without(&lab, denied, false, args);
            assert_eq!(done.code != 0, refused, "{done}");
            assert!(!done.stdout.contains("swordfish") && !done.stderr.contains("swordfish"), "{done}");
            if refused {
                assert!(done.stderr.contains("`pivot_root`") && done.stderr.contains("seccompProfile"), "{done}");
            }
        }
        let done = rbuild_without(&lab, denied, false, &["bud", "--isolation=namespaces", "--no-cache", plain]);
        assert!(done.code == 0 && !done.stdout.contains("swordfish"), "{done}");
    }
}

#[test]
fn where_no_proc_can_be_mounted() {
    passes(&[], true);
}

#[test]
fn where_no_proc_can_be_mounted_and_landlock_is_missing() {
    passes(&[("landlock_create_ruleset", ENOSYS)], true);
}

#[test]
fn where_no_proc_can_be_mounted_the_processes_of_others_are_out_of_reach() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv", "unshare");
    require!(if !is_root(), "only root can cover a part of `/proc`");
    let steps = r#"
RUN <<'EOF'
# The parent of the step's first process is init, which nobody may signal, change or see.

init=$(awk '/^PPid:/ {print $2}' /proc/$$/status)
kill -0 $init && exit 2
kill -9 $init && exit 3
renice -n 5 -p $init && exit 4
test -e /proc/$init && exit 5
for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    kill -0 $pid || test ! -e $dir || exit 6
done
exit 0
EOF"#;
    for denied in [&[][..], &[("landlock_create_ruleset", ENOSYS)]] {
        let lab = Lab::new();
        let done = build_without(&lab, denied, true, steps);
        assert_eq!(done.code, 0, "{denied:?}: {done}");
    }
}

#[test]
fn without_ptrace_the_first_process_is_shown() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv", "unshare");
    require!(if !is_root(), "only root can cover a part of `/proc`");
    let lab = Lab::new();
    let steps = "RUN (sleep 1000 &) && test \"$(cat /proc/$$/comm)\" = sh && test -r /proc/meminfo";
    let done = build_without(&lab, &[("ptrace", EPERM)], true, steps);
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn with_newuidmap_refused_one_id_remains() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv");
    let lab = Lab::new();
    let steps =
        "RUN touch /file && chown 33:34 /file && test $(stat -c %u:%g /file) = 33:34\nUSER 33\nRUN test $(id -u) = 33";
    let done = build_without(&lab, &[("setns", EPERM)], false, steps);
    assert_eq!(done.code, 0, "{done}");
    passes(&[("setns", EPERM)], false);
}

#[test]
fn without_user_namespaces_steps_are_supervised() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("setpriv");
    for errno in [EPERM, ENOSYS] {
        let lab = Lab::new();
        let done = build_without(&lab, &[("unshare", errno)], false, "COPY Dockerfile /\nENV a=b");
        assert_eq!(done.code, 0, "{done}");
        let done = build_without(&lab, &[("unshare", errno)], false, "RUN true");
        assert_eq!(done.code, 0, "{done}");
        assert!(done.stderr.contains("unshare(CLONE_NEWUSER)") && done.stderr.contains("supervisor"), "{done}");
    }
}
