//! Sockets of any family, with addresses as the bytes that a process gave.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// The most bytes that an address has.
pub const MAX_ADDRESS_BYTES: usize = size_of::<libc::sockaddr_storage>();

/// How long a connection is waited for before it is asked whether to go on.
const TURN_MILLISECONDS: i32 = 50;

/// socket(2), closed on exec.
pub fn make(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain call.
    match unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// An option of the socket level that is a plain struct.
fn option<T: Copy>(fd: BorrowedFd<'_>, name: i32, mut value: T) -> io::Result<T> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointers are to locals of the sizes given; every T used here is plain numbers.
    match unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) }
    {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The family of a socket; ENOTSOCK for other files.
pub fn domain(fd: BorrowedFd<'_>) -> io::Result<i32> {
    option(fd, libc::SO_DOMAIN, 0)
}

/// connect(2).
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of one slice.
    match unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// bind(2).
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of one slice.
    match unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long the socket lets its user wait; `None`: for ever.
fn patience(fd: BorrowedFd<'_>) -> io::Result<(libc::timeval, Option<Duration>)> {
    let set = option(fd, libc::SO_SNDTIMEO, libc::timeval { tv_sec: 0, tv_usec: 0 })?;
    let seconds = Duration::from_secs(set.tv_sec.try_into().unwrap_or(0));
    let time = seconds + Duration::from_micros(set.tv_usec.try_into().unwrap_or(0));
    Ok((set, (!time.is_zero()).then_some(time)))
}

fn set_patience(fd: BorrowedFd<'_>, time: &libc::timeval) -> io::Result<()> {
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the pointer is to a struct of the size given.
    match unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw const *time).cast(), length)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// connect(2) in the place of another process: waits as the socket would have it wait, and asks now and then whether that
/// process was `interrupted`, which then gets EINTR while the connection is still being made.
pub fn connect_for(fd: BorrowedFd<'_>, address: &[u8], interrupted: impl Fn() -> bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if flags.contains(rustix::fs::OFlags::NONBLOCK) {
        return connect(fd, address);
    }
    let (before, patience) = patience(fd)?;
    let end = patience.map(|p| Instant::now() + p);
    // The shortest wait that there is. The file, and so its mode, is shared with the process: it must not see a change there.
    set_patience(fd, &libc::timeval { tv_sec: 0, tv_usec: 1 })?;
    let begun = connect(fd, address);
    set_patience(fd, &before)?;
    match begun {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINPROGRESS | libc::EALREADY)) => {}
        other => return other,
    }
    loop {
        let mut wanted = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one entry, which lives during the call.
        if unsafe { libc::poll(&raw mut wanted, 1, TURN_MILLISECONDS) } > 0 {
            return match connect(fd, address) {
                Err(e) if e.raw_os_error() == Some(libc::EISCONN) => Ok(()),
                other => other,
            };
        }
        if interrupted() {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(io::Error::from_raw_os_error(libc::EINPROGRESS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd as _;

    fn loopback(port: u16) -> Vec<u8> {
        let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        address.extend_from_slice(&port.to_be_bytes());
        address.extend_from_slice(&[127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        address
    }

    #[test]
    fn connects_as_the_kernel_would() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let fd = make(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        assert_eq!(domain(fd.as_fd()).unwrap(), libc::AF_INET);
        connect_for(fd.as_fd(), &loopback(port), || false).unwrap();
        assert_eq!(connect_for(fd.as_fd(), &loopback(port), || false).unwrap_err().raw_os_error(), Some(libc::EISCONN));
        // A port that was free just now.
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fd = make(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        let e = connect_for(fd.as_fd(), &loopback(closed), || false).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ECONNREFUSED));
        let bound = make(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        assert_eq!(bind(bound.as_fd(), &loopback(port)).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    }

    #[test]
    fn waiting_ends_when_the_process_is_interrupted() {
        // A full queue: nobody accepts, so the last of these connections waits.
        let server = make(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        bind(server.as_fd(), &loopback(0)).unwrap();
        nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let at = TcpListener::from(server.try_clone().unwrap()).local_addr().unwrap();
        let mut held = Vec::new();
        for _ in 0..8 {
            let fd = make(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
            match connect_for(fd.as_fd(), &loopback(at.port()), || true) {
                Ok(()) => held.push(fd),
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EINTR));
                    assert_eq!(patience(fd.as_fd()).unwrap().1, None, "the option is as it was");
                    return;
                }
            }
        }
        panic!("{} connections were made", held.len());
    }
}
