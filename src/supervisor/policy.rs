//! Which calls the kernel asks the supervisor about.

use super::calls;
use crate::sys::arch;
use crate::sys::loader;
use crate::sys::process;
use crate::sys::seccomp::{Action, Comparison, Condition, Policy, Rule};
use std::collections::{BTreeMap, HashMap};

/// What nobody may do here: mounts, namespaces, other processes' memory, the kernel's own state.
const NEVER: [&str; 49] = [
    "acct",
    "add_key",
    "bpf",
    "delete_module",
    "fanotify_init",
    "fanotify_mark",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "process_mrelease",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount",
    "umount2",
    "userfaultfd",
    "vhangup",
];
/// What programs do without when the kernel is older.
const UNKNOWN: [&str; 20] = [
    "clone3",
    "file_getattr",
    "file_setattr",
    "getxattrat",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "listmount",
    "listxattrat",
    "name_to_handle_at",
    "removexattrat",
    "setxattrat",
    "socketcall",
    "statmount",
    "sysfs",
    "uselib",
    "ustat",
];
/// Calls that execute a program: the tracer is asked.
const EXECUTE: [&str; 2] = ["execve", "execveat"];
/// `CLONE_NEW*`, but for the bits that say which signal tells of the end.
const NAMESPACES: u64 = 0x7e02_0000;

/// What number the tracer sees for a program that is executed.
pub(super) const EXECUTE_NUMBER: u16 = 0x7262;

/// Requests of ioctl(2) that change a file of which a program has a descriptor to read from: attributes, generation,
/// encryption, verity; each as 64-bit and as 32-bit programs write it. Answered as by a file system that has none.
const ON_READ_ONLY: [u64; 7] =
    [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4008_7602, 0x4004_7602, 0x800c_6613, 0x4080_6685];
/// Those by which a program changes names in a directory of which it has a descriptor: subvolumes of btrfs, by the lower
/// half, whatever the size of their argument; bits that count, and what they are.
const ON_DIRECTORIES: [(u64, u64); 6] =
    [(0xffff, 0x9401), (0xfffe, 0x940e), (0xffff, 0x9417), (0xfffd, 0x9418), (0xffff, 0x9425), (0xffff, 0x943f)];
/// Who gets SIGIO, by ioctl(2).
const SET_OWNER: [u64; 2] = [0x8901, 0x8902];
const F_SETOWN: u64 = 8;
const F_SETOWN_EX: u64 = 15;

/// The filter's policy. Where the kernel itself keeps a step from the times of files that are not the step's, it is left to it
/// to set those of an open file: unpacking an archive does it for every file.
pub(super) fn policy(times_are_free: bool, network: calls::Network) -> Policy {
    let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    let mut always = |name: &str, action| {
        rules.insert(name.to_owned(), vec![Rule { conditions: Vec::new(), action }]);
    };
    for name in NEVER {
        always(name, Action::Errno(libc::EPERM.cast_unsigned() as u16));
    }
    for name in UNKNOWN {
        always(name, Action::Errno(libc::ENOSYS.cast_unsigned() as u16));
    }
    for name in EXECUTE {
        always(name, Action::Trace(EXECUTE_NUMBER));
    }
    for (name, _) in calls::HANDLERS {
        always(name, Action::Notify);
    }
    let only = |conditions: Vec<Condition>, action| Rule { conditions, action };
    // The kernel takes them as `int`: the upper half may hold anything.
    let is = |argument, value| Condition { argument, comparison: Comparison::Masked { mask: 0xffff_ffff, value } };
    // Options of prctl(2) that change ids or privilege, and the loader's own.
    let options = [loader::ASK].into_iter().chain(calls::PRCTL_OPTIONS.map(u64::from));
    rules.insert("prctl".to_owned(), options.map(|o| only(vec![is(0, o)], Action::Notify)).collect());
    // A new namespace would bring privilege with it that the supervisor knows nothing of.
    let mut namespaces = Vec::new();
    // Nor may a process be out of sight.
    let never = NAMESPACES | u64::from(libc::CLONE_UNTRACED.cast_unsigned());
    for bit in (0..64).map(|b| 1u64 << b).filter(|b| never & b != 0) {
        let comparison = Comparison::Masked { mask: bit, value: bit };
        let eperm = Action::Errno(libc::EPERM.cast_unsigned() as u16);
        namespaces.push(only(vec![Condition { argument: 0, comparison }], eperm));
    }
    rules.insert("clone".to_owned(), namespaces);
    let errno = |number: i32| Action::Errno(number.cast_unsigned() as u16);
    let file_changes = ON_READ_ONLY.iter().map(|request| only(vec![is(1, *request)], errno(libc::ENOTTY)));
    let owners = SET_OWNER.iter().map(|request| only(vec![is(1, *request)], errno(libc::EPERM)));
    let subvolumes =
        ON_DIRECTORIES.map(|(mask, value)| Condition { argument: 1, comparison: Comparison::Masked { mask, value } });
    let subvolumes = subvolumes.into_iter().map(|request| only(vec![request], errno(libc::ENOTTY)));
    rules.insert("ioctl".to_owned(), file_changes.chain(owners).chain(subvolumes).collect());
    for name in ["fcntl", "fcntl64"] {
        let set = only(vec![is(1, F_SETOWN)], Action::Notify);
        rules.insert(name.to_owned(), vec![set, only(vec![is(1, F_SETOWN_EX)], errno(libc::EPERM))]);
    }
    // Of sockets, those whose addresses are paths.
    let mut local = vec![is(0, libc::AF_UNIX as u64)];
    if network.makes_all() {
        local.clear();
        rules.insert("listen".to_owned(), vec![only(Vec::new(), Action::Notify)]);
    }
    rules.insert("socket".to_owned(), vec![only(local, Action::Notify)]);
    if network.none {
        let some = |argument| Condition { argument, comparison: Comparison::NotEqual(0) };
        let level = Condition { argument: 1, comparison: Comparison::NotEqual32(libc::SOL_SOCKET.cast_unsigned()) };
        for (name, _) in calls::OFFLINE {
            let conditions = match name {
                "sendto" => vec![some(4)],
                "setsockopt" => vec![level],
                // The listener is on its way to the supervisor when nobody answers yet.
                "sendmsg" => {
                    let comparison = Comparison::NotEqual32(process::SEND_FLAGS.cast_unsigned());
                    vec![Condition { argument: 2, comparison }]
                }
                _ => Vec::new(),
            };
            rules.insert(name.to_owned(), vec![only(conditions, Action::Notify)]);
        }
    }
    if times_are_free {
        let path = Condition { argument: 1, comparison: Comparison::NotEqual(0) };
        rules.insert("utimensat".to_owned(), vec![only(vec![path], Action::Notify)]);
    }
    let datagram = Comparison::Masked { mask: 0xf, value: libc::SOCK_DGRAM as u64 };
    let pair = vec![is(0, libc::AF_UNIX as u64), Condition { argument: 1, comparison: datagram }];
    rules.insert("socketpair".to_owned(), vec![only(pair, Action::Notify)]);
    Policy { default: Action::Allow, unknown: Action::Errno(libc::ENOSYS.cast_unsigned() as u16), rules }
}

/// Handlers by number: of native calls, and of those of 32-bit programs.
pub(super) struct Table {
    native: HashMap<u32, calls::Handler>,
    compat: HashMap<u32, calls::Handler>,
}

impl Table {
    /// The table of this processor.
    pub(super) fn new() -> Table {
        let mut table = Table { native: HashMap::new(), compat: HashMap::new() };
        let further: [(&str, calls::Handler); 6] = [
            ("fcntl", calls::fcntl),
            ("fcntl64", calls::fcntl),
            ("listen", calls::listen),
            ("prctl", calls::prctl),
            ("socket", calls::socket),
            ("socketpair", calls::socketpair),
        ];
        for (name, handler) in calls::HANDLERS.iter().copied().chain(further).chain(calls::OFFLINE) {
            let Some(numbers) = arch::syscall(name) else { continue };
            if let Some(number) = numbers.native {
                table.native.insert(number, handler);
            }
            if let Some(number) = numbers.compat {
                table.compat.insert(number, handler);
            }
        }
        table
    }

    /// Who answers a call.
    pub(super) fn handler(&self, compat: bool, number: u32) -> Option<calls::Handler> {
        if compat { self.compat.get(&number).copied() } else { self.native.get(&number).copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp;

    #[test]
    fn compiles_and_names_only_calls_that_exist() {
        let offline = calls::Network { none: true, takes: false };
        let strict = policy(false, offline);
        for name in strict.rules.keys() {
            assert!(arch::syscall(name).is_some(), "{name}");
        }
        let names: Vec<&str> = calls::HANDLERS.iter().chain(&calls::OFFLINE).map(|(n, _)| *n).collect();
        for name in NEVER.iter().chain(&UNKNOWN) {
            assert!(!names.contains(name), "{name} has a handler that is never called");
        }
        for policy in [strict, policy(true, calls::Network { none: false, takes: true })] {
            let length = seccomp::compile(&policy).unwrap().len() / 8;
            assert!(length < 1300, "{length}");
        }
    }
}
