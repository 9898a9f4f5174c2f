//! The listener's side of a filter: calls that wait for an answer.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

/// A call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    id: u64,
    /// The thread that makes the call, as this process's pid namespace numbers it.
    pub pid: u32,
    /// Audit architecture of the call.
    pub arch: u32,
    /// Number of the call.
    pub number: u32,
    /// The arguments.
    pub args: [u64; 6],
}

impl Notification {
    /// A call as if it had been made; for tests of what is made of one.
    #[cfg(test)]
    pub(crate) fn of(arch: u32, number: u32, args: [u64; 6]) -> Notification {
        Notification { id: 0, pid: 0, arch, number, args }
    }
}

/// The descriptor behind a filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over what [`load_with_listener`](super::load_with_listener) made.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener(fd)
    }

    /// Takes the next call; `None` where its caller died meanwhile. Waits unless `poll` said that there is one.
    pub fn next(&self) -> io::Result<Option<Notification>> {
        // SAFETY: the kernel wants the struct zeroed, and fills it in.
        let (answer, raw) = unsafe {
            let mut raw: libc::seccomp_notif = std::mem::zeroed();
            (libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw), raw)
        };
        if answer != 0 {
            let e = io::Error::last_os_error();
            return match e.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(e),
            };
        }
        Ok(Some(Notification {
            id: raw.id,
            pid: raw.pid,
            arch: raw.data.arch,
            number: u32::try_from(raw.data.nr).unwrap_or(0),
            args: raw.data.args,
        }))
    }

    /// Lets the call happen, as if there were no filter.
    pub fn go_on(&self, call: &Notification) {
        let mut answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        // SAFETY: the struct lives during the call. A caller that died meanwhile is no matter.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
