//! Landlock: what the kernel itself refuses a process and its descendants, whatever else keeps them in.

use rustix::fs::{CWD, Mode, OFlags, openat};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

/// The version of the interface that brought scopes (Linux 6.12).
const ABI_WITH_SCOPES: i64 = 6;
/// The version that brought rights on TCP ports (Linux 6.7).
const ABI_WITH_NETWORK: i64 = 4;
const CREATE_RULESET_VERSION: usize = 1;
const RULE_PATH_BENEATH: usize = 1;
const EXECUTE: u64 = 1;
const READ_FILE: u64 = 1 << 2;
const EVERY_PORT: u64 = 3;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// `struct landlock_ruleset_attr`. Kernels that know less of it take what is zero.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    access_fs: u64,
    access_net: u64,
    scoped: u64,
}

/// The version of the interface; less than 1 where there is none.
fn version() -> i64 {
    // SAFETY: without attributes the call only answers the version.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, CREATE_RULESET_VERSION) }
}

/// Whether [`scope_signals`] works here.
pub fn can_scope_signals() -> bool {
    version() >= ABI_WITH_SCOPES
}

/// From now on this process and its children can send signals to themselves and their descendants only. Needs
/// CAP_SYS_ADMIN in the user namespace, or no_new_privs.
pub fn scope_signals() -> io::Result<()> {
    restrict(&ruleset(&Attributes { scoped: SCOPE_SIGNAL, ..Attributes::default() })?)
}

/// From now on this process and its descendants can open no file by a path but execute `programs`; where the kernel can say
/// so, they can signal themselves only, reach no abstract local socket of others and, `offline`, no TCP port. Descriptors that
/// they are given stay what they are. Answers whether there is Landlock at all. Needs no_new_privs.
pub fn only_execute(programs: &[&Path], offline: bool) -> io::Result<bool> {
    let version = version();
    if version < 1 {
        return Ok(false);
    }
    // As many rights as each version knows.
    let rights = match version {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let scoped = if version >= ABI_WITH_SCOPES { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
    let access_net = if offline && version >= ABI_WITH_NETWORK { EVERY_PORT } else { 0 };
    let ruleset = ruleset(&Attributes { access_fs: (1 << rights) - 1, access_net, scoped })?;
    for program in programs {
        let fd = openat(CWD, *program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        allow(&ruleset, &fd, EXECUTE | READ_FILE)?;
    }
    restrict(&ruleset).map(|()| true)
}

fn ruleset(attributes: &Attributes) -> io::Result<OwnedFd> {
    // SAFETY: the pointer is to a struct of the size given.
    let fd = unsafe {
        let size = std::mem::size_of::<Attributes>();
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const *attributes, size, 0usize)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the answer is a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

fn allow(ruleset: &OwnedFd, file: &OwnedFd, access: u64) -> io::Result<()> {
    #[repr(C, packed)]
    struct Rule {
        access: u64,
        file: i32,
    }
    let rule = Rule { access, file: file.as_raw_fd() };
    // SAFETY: the pointer is to a struct of the kernel's layout.
    match unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            (&raw const rule).cast::<libc::c_void>(),
            0usize,
        )
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain call.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0usize) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
