//! Filters of system calls: a policy, its compilation to the kernel's bytecode, loading, and the listener's side.
//!
//! A [`Policy`] names system calls; the compiler turns it into one program for native and 32-bit calls alike. Numbers with the
//! same answer next to each other become one range, and the ranges a balanced tree of comparisons, so that a call costs
//! some ten instructions however long the list is.

mod compile;
mod notify;

pub use compile::compile;
pub use notify::{Listener, Notification};

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Errno(u16),
    /// It is made, and the kernel logs it.
    Log,
    /// The thread gets SIGSYS.
    Trap,
    /// The process is killed.
    KillProcess,
    /// The thread is killed.
    KillThread,
    /// The tracer is asked, who sees this number; without a tracer the call fails with ENOSYS.
    Trace(u16),
    /// The holder of the filter's [`Listener`] is asked.
    Notify,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal to the value.
    Equal(u64),
    /// Anything but the value.
    NotEqual(u64),
    /// Less than the value, unsigned.
    Less(u64),
    /// At most the value, unsigned.
    LessOrEqual(u64),
    /// Greater than the value, unsigned.
    Greater(u64),
    /// At least the value, unsigned.
    GreaterOrEqual(u64),
    /// The bits under the mask equal the value.
    Masked {
        /// The bits that count.
        mask: u64,
        /// What they must be.
        value: u64,
    },
    /// As `NotEqual`, of the lower 32 bits only: for arguments that the kernel takes as `int` or `uid_t`, whose upper
    /// half may hold anything.
    NotEqual32(u32),
}

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Number of the argument, 0 to 5.
    pub argument: u8,
    /// The comparison.
    pub comparison: Comparison,
}

/// An action for calls that meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The conditions; none for every call.
    pub conditions: Vec<Condition>,
    /// The action.
    pub action: Action,
}

/// What to do with which calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For calls that no rule speaks of.
    pub default: Action,
    /// For calls newer than this program, and for those of ABIs that it does not know.
    pub unknown: Action,
    /// Rules by name of the call; of several the first that matches counts.
    pub rules: BTreeMap<String, Vec<Rule>>,
}

/// A policy that cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// More instructions than the kernel takes.
    #[error("the seccomp profile compiles to {0} instructions: the kernel takes at most 4096")]
    TooLong(usize),
    /// An argument that no system call has.
    #[error("the seccomp profile names argument {0}: system calls have arguments 0 to 5")]
    Argument(u8),
}

/// Loads a compiled filter for this process and its children. Needs CAP_SYS_ADMIN in the user namespace, or
/// no_new_privs.
pub fn load(filter: &[u8]) -> io::Result<()> {
    install(filter, 0).map(drop)
}

/// Loads a compiled filter whose [`Action::Notify`] asks the holder of the answer.
pub fn load_with_listener(filter: &[u8]) -> io::Result<OwnedFd> {
    let fd = i32::try_from(install(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?).map_err(io::Error::other)?;
    // SAFETY: with this flag the answer is a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// As [`load_with_listener`]; a call that the holder has taken waits for its answer whatever signals come, unless one kills.
/// Kernels before 5.19 cannot say so: there a signal restarts the call.
pub fn load_with_patient_listener(filter: &[u8]) -> io::Result<OwnedFd> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    match install(filter, flags) {
        Ok(fd) => {
            let fd = i32::try_from(fd).map_err(io::Error::other)?;
            // SAFETY: with these flags the answer is a new descriptor.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => load_with_listener(filter),
        Err(e) => Err(e),
    }
}

fn install(filter: &[u8], flags: libc::c_ulong) -> io::Result<i64> {
    // The kernel copies from any address, but the bytes may not be aligned for the struct.
    let instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(8)
        .filter_map(|c| c.first_chunk::<8>())
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to as many instructions as it says; the kernel only reads them.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
