//! Messages of builders and kernels, and what is behind each.
//!
//! The table knows what buildah, BuildKit, rootlesskit, newuidmap, fuse-overlayfs and rbuild itself print. A message matches
//! a row when it has all words of one of its patterns; the first row that matches counts, so the special ones stand first.

use super::patch::{self, Change};
use serde_json::{Value, json};

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// Stable name.
    pub name: &'static str,
    /// Sets of words, in lower case: a message has all words of one set.
    patterns: &'static [&'static [&'static str]],
    /// What happened.
    pub cause: &'static str,
    /// What to do.
    pub fix: &'static str,
    /// The fields of the pod that do it; empty where they cannot.
    changes: fn() -> Vec<Change>,
}

impl Row {
    /// As JSON, with the patch for a container, or `null`.
    pub fn json(&self, container: &str) -> Value {
        json!({ "name": self.name, "cause": self.cause, "fix": self.fix, "patch": self.patch(container) })
    }

    /// The patch for a container, where fields of the pod help.
    pub fn patch(&self, container: &str) -> Option<Value> {
        let changes = (self.changes)();
        (!changes.is_empty()).then(|| patch::patch(&changes, container))
    }
}

fn store() -> Vec<Change> {
    vec![Change::EmptyDir("/var/lib/rbuild".into())]
}

/// The row for a message; `None` where there is none.
pub fn explain(message: &str) -> Option<&'static Row> {
    let text = message.to_lowercase();
    TABLE.iter().find(|row| row.patterns.iter().any(|words| words.iter().all(|word| text.contains(word))))
}

/// All rows.
pub fn table() -> &'static [Row] {
    TABLE
}

const TABLE: &[Row] = &[
    Row {
        name: "user-namespaces-off",
        patterns: &[
            &["fork/exec /proc/self/exe", "no space left on device"],
            &["max_user_namespaces"],
            &["unshare", "no space left on device"],
        ],
        cause: "the node allows no user namespaces, or no more of them",
        fix: "on the node: `sysctl user.max_user_namespaces=28633`; no field of a pod changes it",
        changes: Vec::new,
    },
    Row {
        name: "apparmor-user-namespaces",
        patterns: &[&["apparmor_restrict_unprivileged_userns"], &["apparmor restricts user namespaces"]],
        cause: "the node's AppArmor (Ubuntu 23.10 and newer) takes all rights from user namespaces of unprivileged programs",
        fix: "load `apparmor/rbuild-pod`, which has `userns,`, on the nodes and name it; or on the node: \
              `sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
        changes: || vec![Change::AppArmor],
    },
    Row {
        name: "unprivileged-user-namespaces-off",
        patterns: &[&["unprivileged_userns_clone"]],
        cause: "the node keeps user namespaces from unprivileged programs (Debian 10)",
        fix: "on the node: `sysctl kernel.unprivileged_userns_clone=1`",
        changes: Vec::new,
    },
    Row {
        name: "seccomp",
        patterns: &[
            &["clone_newuser", "operation not permitted"],
            &["fork/exec /proc/self/exe", "operation not permitted"],
            &["seccomp profile refuses new user namespaces"],
            &["new namespaces are refused"],
            &["unshare", "operation not permitted"],
        ],
        cause: "the pod's seccomp profile refuses new user namespaces, as the runtimes' default does",
        fix: "set `seccompProfile` to the profile that comes with rbuild; or `hostUsers: false` with the capability SYS_ADMIN",
        changes: || vec![Change::Seccomp],
    },
    Row {
        name: "apparmor-mount",
        patterns: &[
            &["failed to share mount point", "permission denied"],
            &["apparmor profile refuses mounts"],
            &["make the mounts of the step private", "permission denied"],
        ],
        cause: "the container runtime's AppArmor profile denies mounts, whatever seccomp allows",
        fix: "load `apparmor/rbuild-pod` on the nodes and set `appArmorProfile`",
        changes: || vec![Change::AppArmor],
    },
    Row {
        name: "range-too-large",
        patterns: &[
            &["newuidmap", "invalid argument"],
            &["newgidmap", "invalid argument"],
            &["does not exist in the pod's user namespace"],
        ],
        cause: "`/etc/subuid` gives ids that the pod's own user namespace has not: with `hostUsers: false` there are 65536",
        fix: "a smaller range in the builder's image (`pod:1001:64535`), or root with SYS_ADMIN in that namespace, which needs none",
        changes: || vec![Change::OwnUsers],
    },
    Row {
        name: "newuidmap-missing",
        patterns: &[
            &["newuidmap", "is not installed"],
            &["newgidmap", "is not installed"],
            &["newuidmap", "executable file not found"],
            &["has no range for user"],
            &["no subuid ranges found"],
            &["is setuid-root"],
            &["has no file capability"],
        ],
        cause: "the builder's image has no `newuidmap` with file capabilities, or no range of ids for its user",
        fix: "use rbuild's image; or install `uidmap`, `setcap cap_setuid=ep` and `cap_setgid=ep` in place of the setuid bits, and add \
              lines to `/etc/subuid` and `/etc/subgid`. Without a range rbuild goes on with one id",
        changes: Vec::new,
    },
    Row {
        name: "newuidmap",
        patterns: &[
            &["could not set caps"],
            &["write to uid_map failed"],
            &["write to gid_map failed"],
            &["newuidmap", "operation not permitted"],
            &["newuidmap", "failed"],
            &["newgidmap", "failed"],
            &["newuidmap", "exit status"],
        ],
        cause: "`allowPrivilegeEscalation: false`, `drop: [ALL]`, a setuid-root `newuidmap` or a `nosuid` mount keep it from its privilege",
        fix: "allow escalation and SETUID and SETGID, with a `newuidmap` that has file capabilities; or leave it: rbuild works with one id",
        changes: || vec![Change::Escalation, Change::MapCapabilities],
    },
    Row {
        name: "one-id",
        patterns: &[
            &["insufficient uids or gids"],
            &["lchown", "invalid argument"],
            &["this pod maps one id only"],
            &["requested 0:", "lchown"],
        ],
        cause: "the pod has one id, and files are to belong to others",
        fix: "rbuild records owners that it cannot store; for real ones let the pod have a range",
        changes: || vec![Change::Escalation, Change::MapCapabilities],
    },
    Row {
        name: "proc",
        patterns: &[
            &["mount", "proc", "operation not permitted"],
            &["error mounting \"proc\""],
            &["mounting proc", "permitted"],
        ],
        cause: "parts of the pod's `/proc` are covered, and the kernel then gives no other one to namespaces below",
        fix: "rbuild needs none; for others: `procMount: Unmasked`, which needs `hostUsers: false`",
        changes: || vec![Change::Proc],
    },
    Row {
        name: "fuse",
        patterns: &[
            &["fuse: device not found"],
            &["/dev/fuse", "no such file"],
            &["/dev/fuse", "not permitted"],
            &["/dev/fuse", "permission denied"],
        ],
        cause: "the container has no `/dev/fuse`, or may not open it",
        fix: "a device plugin (smarter-device-manager, generic-device-plugin) and its resource in `resources.limits`, or CRI-O's \
              annotation `io.kubernetes.cri-o.Devices: /dev/fuse`; with the store on an emptyDir no FUSE is needed",
        changes: store,
    },
    Row {
        name: "overlay",
        patterns: &[
            &["kernel does not support overlay fs"],
            &["overlay", "upper", "not supported"],
            &["overlay", "invalid argument"],
            &["own root file system", "overlay"],
            &["cannot carry an overlay"],
            &["lies on an overlay"],
            &["mounts no overlay on"],
            &["'overlay' is not supported over overlayfs"],
            &["no overlay file system"],
        ],
        cause: "the store lies on the container's own layer (an overlay itself), on NFS, or the kernel is older than 5.11",
        fix: "put the store on an emptyDir or a volume with ext4 or xfs, and `RBUILD_ROOT` there",
        changes: store,
    },
    Row {
        name: "store",
        patterns: &[&["cannot find a place for the store"], &["read-only file system"]],
        cause: "the place of the store cannot be written: `readOnlyRootFilesystem`, or a user without a home",
        fix: "an emptyDir, with `RBUILD_ROOT` in it",
        changes: store,
    },
    Row {
        name: "emulator",
        patterns: &[&["exec format error"], &["cannot mount binfmt_misc"], &["no emulator"]],
        cause: "a program for another processor, and nobody who runs it",
        fix: "`qemu-user-static` in the builder's image, which rbuild registers for the step alone (Linux 6.7 and newer), or \
              `--emulator`; or binfmt_misc on the node",
        changes: Vec::new,
    },
    Row {
        name: "storage-full",
        patterns: &[&["no space left"], &["disk quota exceeded"], &["enospc"]],
        cause: "the file system of the store, or its inodes, are used up",
        fix: "raise the `sizeLimit` of the emptyDir and `resources.limits.ephemeral-storage`; `rbuild prune`, `--store-limit`",
        changes: Vec::new,
    },
    Row {
        name: "out-of-memory",
        patterns: &[
            &["exit code: 137"],
            &["exit code 137"],
            &["exit status 137"],
            &["exited with code 137"],
            &["exit 137"],
            &["oomkilled"],
            &["out of memory"],
            &["signal: killed"],
        ],
        cause: "the kernel killed a process: the pod's memory limit, or the node, ran out (rbuild reads `memory.events` and says which)",
        fix: "raise `resources.limits.memory`, or let the command use fewer processes; a memory-backed emptyDir counts, too",
        changes: || vec![Change::Memory("4Gi")],
    },
    Row {
        name: "dns",
        patterns: &[&["failed to lookup address"], &["temporary failure in name resolution"], &["no such host"]],
        cause: "no name server answered, or it does not know the name",
        fix: "look at the pod's `dnsPolicy` and at network policies; `rbuild doctor` asks the servers of `/etc/resolv.conf`",
        changes: Vec::new,
    },
    Row {
        name: "certificates",
        patterns: &[&["x509"], &["certificate", "unknown"], &["unknownissuer"], &["certificate verify failed"]],
        cause: "a certificate that nobody known has signed: a company's proxy or registry, or a wrong clock",
        fix: "`--cert-dir` for registries, `--trust-ca` for RUN steps, `SSL_CERT_FILE` for rbuild itself",
        changes: Vec::new,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What builders print, and the row that answers it.
    const MESSAGES: [(&str, &str); 34] = [
        ("unshare(CLONE_NEWUSER): Operation not permitted", "seccomp"),
        (
            "[rootlesskit:parent] error: failed to start the child: fork/exec /proc/self/exe: operation not permitted",
            "seccomp",
        ),
        ("fork/exec /proc/self/exe: no space left on device", "user-namespaces-off"),
        (
            "fork/exec /proc/self/exe: permission denied, kernel.apparmor_restrict_unprivileged_userns=1",
            "apparmor-user-namespaces",
        ),
        ("failed to share mount point: /: permission denied", "apparmor-mount"),
        ("newuidmap: Could not set caps", "newuidmap"),
        ("newuidmap: write to uid_map failed: Operation not permitted", "newuidmap"),
        (
            "newuidmap 12 0 1000 1 1 100000 65536 failed: newuidmap: write to uid_map failed: Invalid argument",
            "range-too-large",
        ),
        (
            "potentially insufficient UIDs or GIDs available in user namespace (requested 0:42 for /etc/gshadow): Check /etc/subuid \
             and /etc/subgid: lchown /etc/gshadow: invalid argument",
            "one-id",
        ),
        (
            "error mounting \"proc\" to rootfs at \"/proc\": mount proc:/proc (via /proc/self/fd/6), flags: 0xe: operation not permitted",
            "proc",
        ),
        ("fuse: device not found, try 'modprobe fuse' first", "fuse"),
        (
            "kernel does not support overlay fs: 'overlay' is not supported over overlayfs at \"/var/lib/containers\"",
            "overlay",
        ),
        ("mount overlay:/tmp/x, data: upperdir=/a,workdir=/b: invalid argument", "overlay"),
        ("exec /bin/sh: exec format error", "emulator"),
        ("process \"/bin/sh -c make\" did not complete successfully: exit code: 137", "out-of-memory"),
        (
            "the pod's seccomp profile refuses new user namespaces: unshare(CLONE_NEWUSER): Operation not permitted (os error 1)",
            "seccomp",
        ),
        ("cannot run a command: new namespaces are refused: Operation not permitted (os error 1)", "seccomp"),
        ("the node allows no user namespaces (`user.max_user_namespaces` is 0)", "user-namespaces-off"),
        (
            "the node keeps user namespaces from unprivileged users (`kernel.unprivileged_userns_clone` is 0)",
            "unprivileged-user-namespaces-off",
        ),
        (
            "the node's AppArmor restricts user namespaces: set `securityContext.appArmorProfile.type: Unconfined`",
            "apparmor-user-namespaces",
        ),
        ("`newuidmap` is not installed", "newuidmap-missing"),
        ("`newuidmap` failed (exit status: 1): write to uid_map failed: Operation not permitted", "newuidmap"),
        ("`/etc/subuid` has no range for user 1000660000", "newuidmap-missing"),
        ("this pod maps one id only: chown, setuid, setgroups and mknod fail in it", "one-id"),
        (
            "cannot mount an overlay: the store lies on the pod's own root file system (`/tmp/store`), which is an overlay itself",
            "overlay",
        ),
        ("storage driver `copy`: `/tmp/store` lies on an overlay: the pod's own root file system", "overlay"),
        (
            "the file system of the store cannot carry an overlay (it needs user extended attributes and d_type)",
            "overlay",
        ),
        (
            "cannot make the mounts of the step private: mount(MS_PRIVATE): Permission denied (os error 13)",
            "apparmor-mount",
        ),
        ("cannot find a place for the store: none of `RBUILD_ROOT`, `XDG_DATA_HOME` and `HOME` is set", "store"),
        ("cannot create `/root/.local`: Read-only file system (os error 30)", "store"),
        ("out of memory: the largest process used 200 MB, the limit of the pod is 256 MB", "out-of-memory"),
        ("write /layer: no space left on device", "storage-full"),
        ("dial tcp: lookup registry.example: no such host", "dns"),
        ("x509: certificate signed by unknown authority", "certificates"),
    ];

    #[test]
    fn every_message_has_its_row() {
        for (message, name) in MESSAGES {
            assert_eq!(explain(message).map(|r| r.name), Some(name), "{message}");
        }
        assert!(explain("all is well").is_none());
        for row in table() {
            assert!(MESSAGES.iter().any(|(_, name)| *name == row.name), "no message for `{}`", row.name);
            assert!(row.patterns.iter().flat_map(|p| *p).all(|w| w.to_lowercase() == **w), "{}", row.name);
            assert!(!row.cause.ends_with('.') && !row.fix.ends_with('.') && !row.cause.contains("  "), "{}", row.name);
        }
    }

    #[test]
    fn answers_have_patches_where_fields_help() {
        let patch = |name: &str| table().iter().find(|r| r.name == name).unwrap().patch("c");
        assert_eq!(
            patch("seccomp").unwrap()["spec"]["containers"][0]["securityContext"]["seccompProfile"]["type"],
            "Localhost"
        );
        assert_eq!(patch("proc").unwrap()["spec"]["hostUsers"], false);
        assert_eq!(patch("emulator"), None);
    }
}
