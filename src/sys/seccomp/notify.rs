//! The listener's side of a filter: calls that wait for an answer.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

/// The descriptor behind a filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    from: u32,
    to: u32,
    new_flags: u32,
}

impl Listener {
    /// Takes over what [`load_with_listener`](super::load_with_listener) made.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener(fd)
    }

    /// Has caller and listener take turns on one processor, which makes an answer three times as fast where the listener
    /// waits in [`Listener::next`]. Kernels before 6.6 cannot, which is no matter.
    pub fn take_turns(&self) {
        // SAFETY: the argument is a number.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// Takes the next call; `None` where its caller died meanwhile. Waits unless `poll` said that there is one.
    ///
    /// # Errors
    /// When nobody is left who could make a call.
    pub fn next(&self) -> io::Result<Option<Notification>> {
        // SAFETY: the kernel wants the struct zeroed, and fills it in.
        let (answer, raw) = unsafe {
            let mut raw: libc::seccomp_notif = std::mem::zeroed();
            (libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw), raw)
        };
        if answer != 0 {
            let e = io::Error::last_os_error();
            return match e.raw_os_error() {
                // The same answer from then on when all who had the filter are gone.
                Some(libc::ENOENT) if self.is_over() => Err(e),
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

    fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|_| fds[0].revents().contains(PollFlags::HUP))
    }

    /// Lets the call happen, as if there were no filter.
    pub fn go_on(&self, call: &Notification) {
        self.send(call, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Answers the call with a value, without it being made.
    pub fn answer(&self, call: &Notification, value: i64) {
        self.send(call, value, 0, 0);
    }

    /// Lets the call fail with this error number.
    pub fn refuse(&self, call: &Notification, errno: i32) {
        self.send(call, 0, errno.wrapping_neg(), 0);
    }

    // A caller that died meanwhile is no matter.
    fn send(&self, call: &Notification, val: i64, error: i32, flags: u32) {
        let mut answer = libc::seccomp_notif_resp { id: call.id, val, error, flags };
        // SAFETY: the struct lives during the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }

    /// Gives the caller a copy of `fd`, and answers the call with its number there. Fails with EMFILE where the caller has
    /// no number left, and EBADF for descriptors that are only a place (O_PATH): then the call still waits.
    pub fn answer_with(&self, call: &Notification, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        self.add(call, fd, close_on_exec, libc::SECCOMP_ADDFD_FLAG_SEND as u32).map(drop)
    }

    /// Gives the caller a copy of `fd`; the answer is its number there. The call goes on waiting.
    pub fn give(&self, call: &Notification, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<i32> {
        self.add(call, fd, close_on_exec, 0)
    }

    fn add(&self, call: &Notification, fd: BorrowedFd<'_>, close_on_exec: bool, flags: u32) -> io::Result<i32> {
        let mut add = AddDescriptor {
            id: call.id,
            flags,
            from: fd.as_raw_fd().cast_unsigned(),
            to: 0,
            new_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        // SAFETY: the struct lives during the call and has the kernel's layout.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut add) } {
            -1 => Err(io::Error::last_os_error()),
            number => Ok(number),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
