//! What a RUN step sees and may do.

use crate::harness::{Lab, busybox_is_missing, require};

/// Builds a Dockerfile of these instructions on busybox and returns what was printed.
fn run_steps(lab: &Lab, instructions: &str) -> crate::harness::Done {
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", &format!("FROM localhost/busybox\n{instructions}\n"))]);
    lab.rbuild(["bud", "--no-cache", "-t", "localhost/x"]).arg(context).env("BUILDER_SECRET", "swordfish").output()
}

#[test]
fn proc_shows_the_step_and_nothing_else() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let steps = r#"
RUN <<'EOF'
set -e
# /proc/self and /proc/<own pid> are this shell.
read -r pid _ </proc/self/stat; test "$pid" = $$
test "$(awk '/^Pid:/ {print $2}' /proc/$$/status)" = $$
for dir in /proc/[0-9]*; do
    if tr '\0' '\n' <$dir/cmdline 2>/dev/null | grep -qx bud; then echo "the builder is visible at $dir"; exit 1; fi
done
# The step's first process, this shell and what it starts just now.
ls /proc | grep -c '^[0-9]' >/tmp/count
test "$(cat /tmp/count)" -le 5
EOF"#;
    let done = run_steps(&lab, steps);
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn no_secret_of_the_builder_is_in_sight() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.write("home/private", "swordfish");
    // The files of the builder's machine, its environment and its descriptors.
    let steps = format!(
        r#"
RUN <<'EOF'
set -e
no() {{ if "$@"; then echo "must not be: $*"; exit 1; fi; }}
if env | grep -e swordfish -e RBUILD; then exit 1; fi
if cat /proc/[0-9]*/environ 2>/dev/null | grep swordfish; then exit 1; fi
for root in "" /proc/[0-9]*/root /proc/[0-9]*/cwd; do
    no test -e "$root{home}/private"
done
no test -e /var/run/secrets
# No directory was left open for the step.
for fd in /proc/$$/fd/*; do no test -d $fd; done
EOF"#,
        home = lab.path("home").display()
    );
    let done = run_steps(&lab, &steps);
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn a_step_has_the_rights_of_a_container() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let steps = r#"
RUN <<'EOF'
set -e
no() { if "$@" 2>/dev/null; then echo "must not be: $*"; exit 1; fi; }
test "$(id -u)" = 0
# A seccomp filter, and no capability beyond those that containers get: none of NET_ADMIN (12), SYS_PTRACE (19), SYS_ADMIN (21).
grep -q '^Seccomp:[[:space:]]*2' /proc/self/status
caps=$((0x$(awk '/^CapBnd/ {print $2}' /proc/self/status)))
for bit in 12 19 21; do test $((caps >> bit & 1)) = 0; done
no mount -t tmpfs none /tmp
no unshare -U true
no umount /proc
no cat /proc/kcore
# A device can be made for the layer; it leads nowhere.
no sh -c 'mknod /tmp/disk b 8 0 && cat /tmp/disk | grep -q .'
no sh -c 'echo h >/proc/sysrq-trigger'
no sh -c 'echo x >/sys/kernel/uevent_helper'
echo x >/dev/null
test -c /dev/zero -a -d /dev/shm -a -r /etc/resolv.conf -a -s /etc/hosts
test "$(echo through | cat /dev/fd/0)" = through
EOF"#;
    let done = run_steps(&lab, steps);
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn without_network_there_is_only_loopback() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let one = r#"test "$(awk -F: '/:/ {gsub(/ /, "", $1); print $1}' /proc/net/dev | sort | tr '\n' ' ')" = "lo ""#;
    let done = run_steps(&lab, &format!("RUN --network=none {one}"));
    assert_eq!(done.code, 0, "{done}");
    let context = lab.context("other", &[("Dockerfile", &format!("FROM localhost/busybox\nRUN {one}\n"))]);
    lab.rbuild(["bud", "--network", "none", "-t", "localhost/y"]).arg(context).ok();
}

#[test]
fn what_a_step_leaves_running_is_ended() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    // A process that outlives its parent must neither hold up the build nor outlive it.
    let mark = format!("3{}", std::process::id());
    let done = run_steps(&lab, &format!("RUN sleep {mark} >/dev/null 2>&1 & echo started"));
    assert_eq!(done.code, 0, "{done}");
    assert!(done.took.as_secs() < 60, "{done}");
    assert_eq!(crate::harness::processes_with_argument(&mark), Vec::<u32>::new());
}

#[test]
fn proxies_reach_steps_and_leave_no_trace() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let steps = "FROM localhost/busybox\nRUN test ${#http_proxy} = 18\n";
    let context = lab.context("context", &[("Dockerfile", steps)]);
    lab.rbuild(["bud", "-t", "localhost/x", "--build-arg", "http_proxy=http://127.0.0.1:9"]).arg(context).ok();
    for verb in [["inspect", "localhost/x"], ["history", "localhost/x"]] {
        let said = lab.rbuild(verb).ok().stdout;
        assert!(!said.contains("127.0.0.1:9"), "{said}");
    }
}
