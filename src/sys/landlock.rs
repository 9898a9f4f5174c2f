//! Landlock, for one purpose: a process that may signal only itself and its descendants.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// The version of the interface that brought scopes (Linux 6.12).
const ABI_WITH_SCOPES: i64 = 6;
const CREATE_RULESET_VERSION: usize = 1;
const SCOPE_SIGNAL: u64 = 2;

/// Whether [`scope_signals`] works here.
pub fn can_scope_signals() -> bool {
    // SAFETY: without attributes the call only answers the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, CREATE_RULESET_VERSION) };
    version >= ABI_WITH_SCOPES
}

/// From now on this process and its children can send signals to themselves and their descendants only. Needs
/// CAP_SYS_ADMIN in the user namespace, or no_new_privs.
pub fn scope_signals() -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        access_fs: u64,
        access_net: u64,
        scoped: u64,
    }
    let attributes = Attributes { access_fs: 0, access_net: 0, scoped: SCOPE_SIGNAL };
    // SAFETY: the pointer is to a struct of the size given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            std::mem::size_of::<Attributes>(),
            0usize,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the answer is a new descriptor.
    let ruleset = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) };
    // SAFETY: plain call.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0usize) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
