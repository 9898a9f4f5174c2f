//! The loopback interface of a new network namespace, which starts switched off.

use super::process::{Fork, exit_now, fork, kill_and_reap, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};

/// Switches `lo` of this process's network namespace on; the kernel then gives it 127.0.0.1 and ::1.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; the ioctl reads the name and flags that we put there.
    let answer = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves this process (of one thread) into a new network namespace whose loopback interface is on.
///
/// For root of a user namespace that lacks CAP_NET_ADMIN there: a child makes the network namespace under a user namespace
/// of its own, in which it has every capability, and this process joins the former only.
pub fn join_new_with_loopback() -> io::Result<()> {
    let (mut ready_read, mut ready_write) = io::pipe()?;
    let (mut leash_read, leash_write) = io::pipe()?;
    match fork()? {
        Fork::Child => {
            drop((ready_read, leash_write));
            let made = unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).and_then(|()| loopback_up());
            let errno = made.err().and_then(|e| e.raw_os_error()).unwrap_or(0);
            let _ = ready_write.write_all(&errno.to_ne_bytes());
            let _ = leash_read.read(&mut [0]);
            exit_now(0)
        }
        Fork::Parent(pid) => {
            drop((ready_write, leash_read));
            let mut errno = [0; 4];
            let joined = ready_read.read_exact(&mut errno).and_then(|()| match i32::from_ne_bytes(errno) {
                0 => {
                    let child = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
                    let child = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty())?;
                    Ok(move_into_thread_name_spaces(child.as_fd(), ThreadNameSpaceType::NETWORK)?)
                }
                errno => Err(io::Error::from_raw_os_error(errno)),
            });
            drop(leash_write);
            kill_and_reap(pid);
            joined
        }
    }
}
