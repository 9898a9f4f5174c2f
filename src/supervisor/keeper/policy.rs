//! Which calls are trapped, and who answers them.

use super::{Answered, Call, Keeper};
use crate::sys::arch;
use crate::sys::seccomp::{Action, Comparison, Condition, Policy, Rule};
use std::collections::BTreeMap;

/// What the pod cannot give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// Ids: there is one.
    Ids,
    /// Device nodes only; ids are real.
    Devices {
        /// Whether programs are shown them. Without it they see the empty files that stand for them, and no call for
        /// attributes is trapped.
        shown: bool,
    },
}

impl Kind {
    /// Whether calls are so frequent that they want a thread of their own.
    pub fn is_busy(self) -> bool {
        self != Kind::Devices { shown: false }
    }
}

pub(super) type Handler = fn(&Keeper, &Call<'_>) -> Answered;

/// Trapped whatever their arguments are.
const ALWAYS: [(&str, Handler); 86] = [
    ("access", Keeper::access),
    ("bind", Keeper::bind),
    ("capget", Keeper::capget),
    ("capset", Keeper::capset),
    ("chown", Keeper::chown),
    ("chown32", Keeper::chown),
    ("chroot", Keeper::chroot),
    ("creat", Keeper::creat),
    ("execve", Keeper::execve),
    ("execveat", Keeper::execveat),
    ("faccessat", Keeper::faccessat),
    ("faccessat2", Keeper::faccessat2),
    ("fchown", Keeper::fchown),
    ("fchown32", Keeper::fchown),
    ("fchownat", Keeper::fchownat),
    ("fsetxattr", Keeper::fsetxattr),
    ("fstat", Keeper::fstat),
    ("fstat64", Keeper::fstat),
    ("fstatat64", Keeper::fstatat),
    ("getegid", Keeper::getegid),
    ("getegid32", Keeper::getegid),
    ("geteuid", Keeper::geteuid),
    ("geteuid32", Keeper::geteuid),
    ("getgid", Keeper::getgid),
    ("getgid32", Keeper::getgid),
    ("getgroups", Keeper::getgroups),
    ("getgroups32", Keeper::getgroups),
    ("getresgid", Keeper::getresgid),
    ("getresgid32", Keeper::getresgid),
    ("getresuid", Keeper::getresuid),
    ("getresuid32", Keeper::getresuid),
    ("getuid", Keeper::getuid),
    ("getuid32", Keeper::getuid),
    ("lchown", Keeper::lchown),
    ("lchown32", Keeper::lchown),
    ("link", Keeper::link),
    ("linkat", Keeper::linkat),
    ("lsetxattr", Keeper::lsetxattr),
    ("lstat", Keeper::lstat),
    ("lstat64", Keeper::lstat),
    ("mkdir", Keeper::mkdir),
    ("mkdirat", Keeper::mkdirat),
    ("mknod", Keeper::mknod),
    ("mknodat", Keeper::mknodat),
    ("newfstatat", Keeper::fstatat),
    ("oldfstat", Keeper::old_stat),
    ("oldlstat", Keeper::old_stat),
    ("oldstat", Keeper::old_stat),
    ("openat2", Keeper::openat2),
    ("setfsgid", Keeper::setfsgid),
    ("setfsgid32", Keeper::setfsgid),
    ("setfsuid", Keeper::setfsuid),
    ("setfsuid32", Keeper::setfsuid),
    ("setgid", Keeper::setgid),
    ("setgid32", Keeper::setgid),
    ("setgroups", Keeper::setgroups),
    ("setgroups32", Keeper::setgroups),
    ("setregid", Keeper::setregid),
    ("setregid32", Keeper::setregid),
    ("setresgid", Keeper::setresgid),
    ("setresgid32", Keeper::setresgid),
    ("setresuid", Keeper::setresuid),
    ("setresuid32", Keeper::setresuid),
    ("setreuid", Keeper::setreuid),
    ("setreuid32", Keeper::setreuid),
    ("setuid", Keeper::setuid),
    ("setuid32", Keeper::setuid),
    ("setxattr", Keeper::setxattr),
    ("stat", Keeper::stat),
    ("stat64", Keeper::stat),
    ("statx", Keeper::statx),
    ("symlink", Keeper::symlink),
    ("symlinkat", Keeper::symlinkat),
    ("umask", Keeper::change_umask),
    // Would get around the filter.
    ("io_uring_enter", Keeper::unknown),
    ("io_uring_register", Keeper::unknown),
    ("io_uring_setup", Keeper::unknown),
    ("setxattrat", Keeper::unknown),
    ("file_setattr", Keeper::unknown),
    // Where credentials are written down.
    ("getrlimit", Keeper::getrlimit),
    ("prlimit64", Keeper::prlimit),
    ("setrlimit", Keeper::setrlimit),
    ("ugetrlimit", Keeper::getrlimit),
    ("open", Keeper::open),
    ("openat", Keeper::openat),
    ("prctl", Keeper::prctl),
];
/// Trapped for the sake of callers who may not do everything with files.
const JUDGED: [(&str, Handler); 65] = [
    ("access", Keeper::judged_access),
    ("bind", Keeper::judged_bind),
    ("chdir", Keeper::judged_chdir),
    ("chmod", Keeper::judged_chmod),
    ("chown", Keeper::judged_chown),
    ("chown32", Keeper::judged_chown),
    ("chroot", Keeper::judged_chroot),
    ("connect", Keeper::judged_connect),
    ("creat", Keeper::judged_creat),
    ("execve", Keeper::judged_execve),
    ("execveat", Keeper::judged_execveat),
    ("faccessat", Keeper::judged_faccessat),
    ("faccessat2", Keeper::judged_faccessat2),
    ("fchdir", Keeper::judged_fchdir),
    ("fchmod", Keeper::judged_fchmod),
    ("fchmodat", Keeper::judged_fchmodat),
    ("fchmodat2", Keeper::judged_fchmodat2),
    ("fchownat", Keeper::judged_fchownat),
    ("fremovexattr", Keeper::judged_fremovexattr),
    ("fsetxattr", Keeper::judged_fsetxattr),
    ("fstatat64", Keeper::judged_fstatat),
    ("futimesat", Keeper::judged_futimesat),
    ("getxattr", Keeper::judged_getxattr),
    ("lchown", Keeper::judged_lchown),
    ("lchown32", Keeper::judged_lchown),
    ("lgetxattr", Keeper::judged_lgetxattr),
    ("link", Keeper::judged_link),
    ("linkat", Keeper::judged_linkat),
    ("listxattr", Keeper::judged_listxattr),
    ("llistxattr", Keeper::judged_llistxattr),
    ("lremovexattr", Keeper::judged_lremovexattr),
    ("lsetxattr", Keeper::judged_lsetxattr),
    ("lstat", Keeper::judged_lstat),
    ("lstat64", Keeper::judged_lstat),
    ("mkdir", Keeper::judged_mkdir),
    ("mkdirat", Keeper::judged_mkdirat),
    ("mknod", Keeper::judged_mknod),
    ("mknodat", Keeper::judged_mknodat),
    ("newfstatat", Keeper::judged_fstatat),
    ("open", Keeper::judged_open),
    ("openat", Keeper::judged_openat),
    ("openat2", Keeper::judged_openat2),
    ("readlink", Keeper::judged_readlink),
    ("readlinkat", Keeper::judged_readlinkat),
    ("removexattr", Keeper::judged_removexattr),
    ("rename", Keeper::judged_rename),
    ("renameat", Keeper::judged_renameat),
    ("renameat2", Keeper::judged_renameat2),
    ("rmdir", Keeper::judged_rmdir),
    ("setxattr", Keeper::judged_setxattr),
    ("stat", Keeper::judged_stat),
    ("stat64", Keeper::judged_stat),
    ("statfs", Keeper::judged_statfs),
    ("statfs64", Keeper::judged_statfs),
    ("statx", Keeper::judged_statx),
    ("symlink", Keeper::judged_symlink),
    ("symlinkat", Keeper::judged_symlinkat),
    ("truncate", Keeper::judged_truncate),
    ("truncate64", Keeper::judged_truncate),
    ("unlink", Keeper::judged_unlink),
    ("unlinkat", Keeper::judged_unlinkat),
    ("utime", Keeper::judged_utime),
    ("utimensat", Keeper::judged_utimensat),
    ("utimensat_time64", Keeper::judged_utimensat),
    ("utimes", Keeper::judged_utimes),
];
/// Trapped with a certain value of an argument.
const SOMETIMES: [(&str, u8, u64); 4] = [
    ("getrlimit", 0, RLIMIT_LOCKS),
    ("prlimit64", 1, RLIMIT_LOCKS),
    ("setrlimit", 0, RLIMIT_LOCKS),
    ("ugetrlimit", 0, RLIMIT_LOCKS),
];
const RLIMIT_LOCKS: u64 = libc::RLIMIT_LOCKS as u64;
/// Those that show attributes of files.
const SHOWS: [&str; 9] = ["fstat", "fstat64", "fstatat64", "lstat", "lstat64", "newfstatat", "stat", "stat64", "statx"];
const OPTIONS: [i32; 10] = [
    libc::PR_CAPBSET_READ,
    libc::PR_CAPBSET_DROP,
    libc::PR_CAP_AMBIENT,
    libc::PR_GET_SECUREBITS,
    libc::PR_SET_SECUREBITS,
    libc::PR_GET_KEEPCAPS,
    libc::PR_SET_KEEPCAPS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_SET_MM,
];

const KIND_MASK: u64 = 0o170_000;
const CHARACTER: u64 = 0o020_000;
const BLOCK: u64 = 0o060_000;

/// The filter's policy.
pub fn policy(kind: Kind) -> Policy {
    let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    let when =
        |argument, comparison| Rule { conditions: vec![Condition { argument, comparison }], action: Action::Notify };
    // Ints to the kernel: the upper half may hold anything.
    let is = |argument, value| when(argument, Comparison::Masked { mask: 0xffff_ffff, value });
    if let Kind::Devices { shown } = kind {
        for (name, mode) in [("mknod", 1), ("mknodat", 2)] {
            let device = |value| when(mode, Comparison::Masked { mask: KIND_MASK, value });
            rules.insert(name.to_owned(), vec![device(CHARACTER), device(BLOCK)]);
        }
        for name in SHOWS.into_iter().filter(|_| shown) {
            rules.insert(name.to_owned(), vec![Rule { conditions: Vec::new(), action: Action::Notify }]);
        }
        return Policy { default: Action::Allow, unknown: Action::Allow, rules };
    }
    for (name, _) in ALWAYS {
        rules.insert(name.to_owned(), vec![Rule { conditions: Vec::new(), action: Action::Notify }]);
    }
    for (name, _) in JUDGED {
        rules.insert(name.to_owned(), vec![Rule { conditions: Vec::new(), action: Action::Notify }]);
    }
    // Without a path they set the times of a descriptor's file: programs that unpack do so for every file, and what of it
    // would be refused is to set the times of a file of somebody else that one has opened.
    for name in ["utimensat", "utimensat_time64"] {
        rules.insert(name.to_owned(), vec![when(1, Comparison::NotEqual(0))]);
    }
    for (name, argument, value) in SOMETIMES {
        rules.insert(name.to_owned(), vec![is(argument, value)]);
    }
    rules.insert("prctl".to_owned(), OPTIONS.iter().map(|o| is(0, u64::from(o.cast_unsigned()))).collect());
    let peer = [(1, libc::SOL_SOCKET as u64), (2, libc::SO_PEERCRED as u64)]
        .map(|(argument, value)| Condition { argument, comparison: Comparison::Masked { mask: 0xffff_ffff, value } });
    rules.insert("getsockopt".to_owned(), vec![Rule { conditions: peer.to_vec(), action: Action::Notify }]);
    Policy { default: Action::Allow, unknown: Action::Allow, rules }
}

/// Who answers a call.
#[derive(Clone, Copy, Default)]
pub(super) struct Handlers {
    /// Whoever makes it.
    pub(super) always: Option<Handler>,
    /// Callers who may not do everything with files.
    pub(super) judged: Option<Handler>,
}

/// Handlers by number: of native calls, and of those of 32-bit programs.
pub(super) struct Table {
    native: Vec<Handlers>,
    compat: Vec<Handlers>,
}

impl Table {
    pub(super) fn new(kind: Kind) -> Table {
        let mut table = Table { native: Vec::new(), compat: Vec::new() };
        let further: [(&str, Handler); 1] = [("getsockopt", Keeper::peer)];
        for (name, handler) in ALWAYS.into_iter().chain(further) {
            if kind == Kind::Ids || name.starts_with("mknod") || SHOWS.contains(&name) {
                table.insert(name, |handlers| handlers.always = Some(handler));
            }
        }
        if kind == Kind::Ids {
            for (name, handler) in JUDGED {
                table.insert(name, |handlers| handlers.judged = Some(handler));
            }
        }
        table
    }

    fn insert(&mut self, name: &str, change: impl Fn(&mut Handlers)) {
        let Some(numbers) = arch::syscall(name) else { return };
        for (all, number) in [(&mut self.native, numbers.native), (&mut self.compat, numbers.compat)] {
            let Some(number) = number.and_then(|n| usize::try_from(n).ok()) else { continue };
            if all.len() <= number {
                all.resize(number + 1, Handlers::default());
            }
            all.get_mut(number).into_iter().for_each(&change);
        }
    }

    pub(super) fn handlers(&self, compat: bool, number: u32) -> Handlers {
        let all = if compat { &self.compat } else { &self.native };
        usize::try_from(number).ok().and_then(|n| all.get(n)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp;

    #[test]
    fn compiles_and_names_only_calls_that_exist() {
        for kind in [Kind::Ids, Kind::Devices { shown: false }, Kind::Devices { shown: true }] {
            let policy = policy(kind);
            let unknown: Vec<&String> = policy.rules.keys().filter(|name| arch::syscall(name).is_none()).collect();
            assert_eq!(unknown, Vec::<&String>::new());
            assert!(seccomp::compile(&policy).unwrap().len() < 800 * 8);
        }
    }
}
