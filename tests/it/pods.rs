//! rbuild in pods: the program under the security context that a kubelet and a container runtime make of a pod's fields.
//!
//! `tests/pods/run` starts them, with runc and without a cluster. It needs root; see its `--help`.

use crate::harness::{Done, Lab, Run, busybox_is_missing, is_root, require, which};
use crate::platforms::arm64_program;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Why no pod can be started, if none can.
pub fn missing() -> Option<String> {
    if !is_root() {
        return Some("only root can start pods".into());
    }
    let programs = ["runc", "python3", "unshare", "newuidmap", "ldd"];
    let missing = programs.iter().find(|p| which(p).is_none()).map(|p| format!("`{p}` is not installed"));
    missing.or(busybox_is_missing().map(Into::into))
}

/// The script that starts pods.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pods/run")
}

/// Runs a script in a pod that has the program and the lab's directory `context`, with these options of `tests/pods/run`.
pub fn in_pod(lab: &Lab, profile: &str, options: &[&str], shell: &str) -> Run {
    let context = format!("{}:/context:ro", lab.mkdir("context").display());
    let program = lab.path("bin/rbuild");
    let run = Run::new("python3", [script()]).args(options).arg("--rbuild").arg(program).args(["-v", &context]);
    run.args([profile, "--", "sh", "-c", shell])
}

/// Builds a Dockerfile on busybox in a pod, without steps from a cache.
fn build(lab: &Lab, profile: &str, options: &[&str], steps: &str, flags: &str) -> Done {
    if !lab.path("context/busybox.tar").exists() {
        lab.write("context/busybox.tar", crate::harness::busybox_tar());
    }
    lab.write("context/Dockerfile", format!("FROM localhost/busybox\n{steps}\n"));
    let shell = format!(
        "cd /context && rbuild import busybox.tar localhost/busybox >/dev/null && \
         rbuild bud --no-cache --ignorefile=/dev/null -t localhost/x {flags} ."
    );
    in_pod(lab, profile, options, &shell).output()
}

/// The fields of a `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.map_or("", str::trim)
}

#[test]
fn profiles_are_what_their_fields_say() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    let lab = Lab::new();
    const DEFAULT: u64 = 0xa804_25fb;
    // Name, user, group, capabilities that a root process has, no_new_privs, filtered, in a user namespace.
    let profiles = [
        ("default", 0, 0, DEFAULT, "0", "0", false),
        ("restricted", 1000, 1000, 0, "1", "2", false),
        ("openshift", 1_000_660_000, 0, 0, "1", "2", false),
        ("baseline", 0, 0, DEFAULT, "0", "2", false),
        ("localhost", 1000, 1000, 0, "1", "2", false),
        ("rootless", 1000, 1000, 0, "0", "2", false),
        ("hostusers", 0, 0, DEFAULT, "0", "2", true),
        ("hostusers-admin", 0, 0, DEFAULT | 1 << 21, "0", "2", true),
        ("privileged", 0, 0, u64::MAX, "0", "0", false),
    ];
    for (profile, uid, gid, capabilities, no_new_privs, seccomp, mapped) in profiles {
        let shell = "cat /proc/self/status; echo \"map: $(cat /proc/self/uid_map)\"; cat /var/run/secrets/kubernetes.io/*/token";
        let done = in_pod(&lab, profile, &[], shell).ok();
        let is = |name: &str| field(&done.stdout, name);
        assert!(is("Uid").starts_with(&format!("{uid}\t")) && is("Gid").starts_with(&format!("{gid}\t")), "{done}");
        let effective = u64::from_str_radix(is("CapEff"), 16).expect("a mask");
        match capabilities {
            u64::MAX => assert!(effective & 1 << 21 != 0, "{done}"),
            wanted => assert_eq!(effective, wanted, "{done}"),
        }
        assert_eq!((is("NoNewPrivs"), is("Seccomp")), (no_new_privs, seccomp), "{done}");
        assert_eq!(is("map").ends_with(" 65536"), mapped, "{done}");
        assert!(done.stdout.ends_with("the-token-of-the-pod"), "{done}");
    }
}

#[test]
fn storages_and_limits_are_there() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    let lab = Lab::new();
    let shell = "touch ${RBUILD_ROOT%/store}/f && test -c /dev/fuse && : 3<>/dev/fuse && echo fuse; \
        touch /tmp/x && echo writable; test $(stat -f -c %t ${RBUILD_ROOT%/store}) = 794c7630 && echo overlay; true";
    for profile in ["restricted", "openshift", "baseline", "hostusers"] {
        for (storage, fuse, writable, on_overlay) in [
            ("emptydir", false, true, false),
            ("rootfs", false, true, true),
            ("readonly", false, false, false),
            ("fuse", true, true, true),
        ] {
            let done = in_pod(&lab, &format!("{profile}/{storage}"), &[], shell).ok();
            let has = |word: &str| done.stdout.lines().any(|l| l == word);
            assert_eq!((has("fuse"), has("writable"), has("overlay")), (fuse, writable, on_overlay), "{done}");
        }
    }
    let limits = ["--memory", "64Mi", "--cpus", "500m", "--tmpfs", "/m"];
    let shell = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; grep ' /m ' /proc/mounts";
    let done = in_pod(&lab, "restricted", &limits, shell).ok();
    assert!(done.stdout.contains("67108864\n") && done.stdout.contains("tmpfs /m "), "{done}");
    let list = Run::new("python3", [script()]).arg("--list").ok().stdout;
    assert_eq!(list.lines().count(), 36, "{list}");
}

#[test]
fn every_profile_builds_the_same_image() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    let lab = Lab::new();
    lab.write("context/f", "text");
    let steps = "RUN echo anna:x:2000:60::/home/anna:/bin/sh >> /etc/passwd && mkdir -m 750 /home /home/anna && chown anna /home/anna\n\
        COPY --chown=anna:7 f /opt/f\n\
        RUN test $(stat -c %u:%g /opt/f /home/anna | tr '\\n' ,) = 2000:7,2000:0, && chown 33 /opt/f && chmod 4755 /opt/f && ln /opt/f /f && mknod /n c 1 3\n\
        RUN test $(stat -c %u:%g:%h /f) = 33:7:2 && test -c /n && mv /opt/f /opt/g";
    let mut wanted = None;
    for profile in [
        "rootless",
        "default",
        "restricted",
        "openshift",
        "baseline",
        "localhost",
        "hostusers",
        "hostusers-admin",
        "privileged",
    ] {
        let cell = format!("{profile}/emptydir");
        let flags = "-q . >&2 && rbuild inspect --format '{{.FromImageDigest}}' localhost/x #";
        let done = build(&lab, &cell, &["-e", "SOURCE_DATE_EPOCH=1700000000"], steps, flags);
        assert_eq!(done.code, 0, "{profile}: {done}");
        let digest = done.stdout.trim().to_owned();
        assert!(digest.starts_with("sha256:"), "{profile}: {done}");
        assert_eq!(wanted.get_or_insert_with(|| digest.clone()), &digest, "{profile}: {done}");
    }
}

/// The pod that `tests/pods/run` would start.
fn shown(profile: &str, patch: &Value) -> Value {
    let run = Run::new("python3", [script()]).args(["--show", "--patch", "-", profile]);
    let done = run.input(patch.to_string()).ok();
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done}"))
}

#[test]
fn patches_are_merged_as_kubectl_does() {
    require!("python3");
    let patch = json!({"spec": {"hostUsers": false, "containers": [{"name": "rbuild", "securityContext": {
        "seccompProfile": {"type": "Localhost", "localhostProfile": "x"}, "capabilities": {"drop": null, "add": ["SYS_ADMIN"]},
        "allowPrivilegeEscalation": null, "runAsNonRoot": null, "runAsUser": 0}}]}});
    let pod = shown("restricted", &patch);
    let context = &pod["spec"]["containers"][0]["securityContext"];
    assert_eq!((&pod["spec"]["hostUsers"], &context["capabilities"]), (&json!(false), &json!({"add": ["SYS_ADMIN"]})));
    assert_eq!(context["seccompProfile"], json!({"type": "Localhost", "localhostProfile": "x"}));
    assert!(context.get("allowPrivilegeEscalation").is_none() && context["runAsGroup"] == 1000, "{pod:#}");
    if which("kubectl").is_some() {
        // The real thing, which needs no cluster for this.
        let lab = Lab::new();
        let file = lab.write("pod.json", shown("restricted", &json!({})).to_string());
        let patched = Run::new("kubectl", ["patch", "--local", "-o", "json", "--type", "strategic", "-f"]).arg(file);
        let done = patched.args(["-p", &patch.to_string()]).ok();
        let theirs: Value = serde_json::from_str(&done.stdout).expect("JSON");
        assert_eq!(theirs["spec"]["containers"][0]["securityContext"], *context);
    }
    // What the harness cannot stand for is no pod.
    for wrong in [json!({"spec": {"hostIPC": true}}), json!({"spec": {"containers": [{"name": "other"}]}})] {
        Run::new("python3", [script()]).args(["--show", "--patch", "-", "default"]).input(wrong.to_string()).fails();
    }
}

/// A build that needs one of the calls that `seccomp/rbuild-pod.json` adds.
struct Needs {
    calls: &'static [&'static str],
    profile: &'static str,
    options: &'static [&'static str],
    steps: &'static str,
    flags: &'static str,
}

const EVERY_RUN: Needs = Needs {
    calls: &["clone", "mount", "move_mount", "sethostname", "umount2", "unshare"],
    profile: "localhost/emptydir",
    options: &[],
    steps: "RUN true",
    flags: "",
};

const NEEDS: [Needs; 6] = [
    EVERY_RUN,
    Needs { calls: &["chroot"], steps: "RUN chroot / true", ..EVERY_RUN },
    Needs {
        calls: &["fsconfig", "fsmount", "fsopen"],
        options: &["-v", "/usr/bin/qemu-aarch64-static:/qemu:ro"],
        steps: "FROM scratch\nCOPY --chmod=755 say /say\nRUN [\"/say\"]",
        flags: "--platform=linux/arm64 --emulator=/qemu",
        ..EVERY_RUN
    },
    Needs {
        calls: &["mount_setattr", "open_tree"],
        options: &["--empty-dir", "/work/sub"],
        steps: "RUN ! touch /x/f && ! touch /x/sub/f",
        flags: "--volume=/work:/x:ro",
        ..EVERY_RUN
    },
    Needs {
        calls: &["pivot_root"],
        steps: "RUN --security=insecure ! umount -l /",
        flags: "--allow=security.insecure",
        ..EVERY_RUN
    },
    Needs {
        calls: &["setns"],
        profile: "rootless/emptydir",
        steps: "RUN grep -q 65536 /proc/self/uid_map",
        ..EVERY_RUN
    },
];

/// The calls of the table in `seccomp/README.md`.
fn documented() -> Vec<String> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("seccomp/README.md")).expect("README");
    let rows = text.lines().filter_map(|l| Some(l.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    rows.filter(|name| !name.ends_with(".json")).collect()
}

#[test]
fn the_profile_of_the_pod_is_the_runtimes_default_and_what_the_table_lists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("seccomp/rbuild-pod.json");
    let text = std::fs::read_to_string(path).expect("the profile");
    let profile: Value = serde_json::from_str(&text).expect("JSON");
    oci_spec_reads(&text);
    assert!(!text.contains("includes") && !text.contains("excludes") && !text.contains("archMap"));
    let rules = profile["syscalls"].as_array().expect("rules");
    let added: Vec<&str> = rules
        .iter()
        .filter(|r| r["names"].as_array().is_some_and(|n| n.len() == 1) && r.get("args").is_none())
        .filter(|r| r["action"] == "SCMP_ACT_ALLOW")
        .filter_map(|r| r["names"][0].as_str())
        .collect();
    assert_eq!(added, documented());
    let mut tested: Vec<&str> = NEEDS.iter().flat_map(|n| n.calls.iter().copied()).collect();
    tested.sort_unstable();
    assert_eq!(added, tested, "each addition has a build that needs it");
    // What the rest allows is no more than what steps are allowed, whose filter was made of the same default.
    let of = |v: &Value| -> Vec<String> {
        let rules = v["syscalls"].as_array().expect("rules").iter().filter(|r| r["action"] == "SCMP_ACT_ALLOW");
        rules.flat_map(|r| r["names"].as_array().expect("names")).filter_map(|n| n.as_str().map(Into::into)).collect()
    };
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("seccomp/run.json");
    let run: Value = serde_json::from_str(&std::fs::read_to_string(run).expect("run.json")).expect("JSON");
    let (ours, steps) = (of(&profile), of(&run));
    let beyond: Vec<&String> = ours.iter().filter(|n| !steps.contains(n) && !added.contains(&n.as_str())).collect();
    // Of other processors, or of no use to anybody, and allowed by the runtimes all the same.
    let known = [
        "arm_fadvise64_64",
        "arm_sync_file_range",
        "breakpoint",
        "cacheflush",
        "epoll_ctl_old",
        "epoll_wait_old",
        "listmount",
        "recv",
        "riscv_hwprobe",
        "send",
        "set_tls",
        "statmount",
        "sync_file_range2",
        "uretprobe",
    ];
    assert!(beyond.iter().all(|n| known.contains(&n.as_str())), "{beyond:?}");
}

/// The profile as a runtime parses it.
fn oci_spec_reads(text: &str) {
    let read: Result<oci_spec::runtime::LinuxSeccomp, _> = serde_json::from_str(text);
    read.expect("a profile in the form of the OCI runtime specification");
}

#[test]
fn every_rule_that_the_profile_adds_is_needed() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    require!("qemu-aarch64-static");
    require!(if cfg!(not(target_arch = "x86_64")), "the program for another processor is one on x86_64 only");
    let lab = Lab::new();
    lab.write("context/say", arm64_program());
    for needs in &NEEDS {
        let of = |options: &[&str]| {
            let options: Vec<&str> = needs.options.iter().chain(options).copied().collect();
            // Without namespaces there is another way, which needs none of these calls.
            let flags = format!("--isolation=namespaces {}", needs.flags);
            build(&lab, needs.profile, &options, needs.steps, &flags)
        };
        let done = of(&[]);
        assert_eq!(done.code, 0, "{done}");
        for call in needs.calls {
            let done = of(&["--without", call]);
            assert!(done.code != 0 && done.stderr.contains("Error: "), "without {call}: {done}");
        }
    }
}
