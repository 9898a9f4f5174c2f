//! Sockets whose addresses are paths, or names in a table that all processes of the machine share.
//!
//! Such a socket is made here, and a copy is kept until it has an address or a peer: so it is bound and connected here, to
//! what the supervisor found, and the kernel never looks at a path of the step's. Datagram sockets could be sent anywhere
//! at any time, and are refused; a pair of them keeps its messages apart in another way.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Reply, errno};
use crate::supervisor::ids::WRITE;
use crate::supervisor::look::{disk_mode, look};
use crate::supervisor::view::name_of;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use rustix::fs::AtFlags;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

/// Size of `struct sockaddr_un`.
const ADDRESS_BYTES: usize = 110;
/// How many sockets may wait for an address.
const MOST_WAITING: usize = 512;
const TYPE_MASK: i32 = 0xf;

/// The sockets of the step.
#[derive(Debug, Default)]
pub(in crate::supervisor) struct Sockets {
    /// By inode: those that have no address and no peer yet.
    waiting: HashMap<u64, OwnedFd>,
    /// Inodes of all.
    all: HashSet<u64>,
}

fn from_nix(e: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(e as i32)
}

/// Type and flags that an argument asks for.
fn kind(argument: i32) -> Result<(SockType, bool, SockFlag), Errno> {
    let close = argument & libc::SOCK_CLOEXEC != 0;
    let mut flags = SockFlag::SOCK_CLOEXEC;
    if argument & libc::SOCK_NONBLOCK != 0 {
        flags |= SockFlag::SOCK_NONBLOCK;
    }
    match argument & TYPE_MASK {
        libc::SOCK_STREAM => Ok((SockType::Stream, close, flags)),
        libc::SOCK_SEQPACKET => Ok((SockType::SeqPacket, close, flags)),
        libc::SOCK_DGRAM | libc::SOCK_RAW => Ok((SockType::Datagram, close, flags)),
        _ => Err(Errno::SOCKTNOSUPPORT),
    }
}

/// socket(2) for local addresses.
pub(in crate::supervisor) fn socket(call: &mut Call<'_>) -> Answer {
    let (kind, close, flags) = kind(call.int(1))?;
    if kind == SockType::Datagram {
        return Err(Errno::PROTONOSUPPORT);
    }
    let fd = socket::socket(AddressFamily::Unix, kind, flags, None).map_err(from_nix)?;
    let inode = rustix::fs::fstat(&fd)?.st_ino;
    let sockets = &mut call.world.sockets;
    if sockets.waiting.len() >= MOST_WAITING {
        sockets.waiting.clear();
    }
    sockets.waiting.insert(inode, fd.try_clone().map_err(errno)?);
    sockets.all.insert(inode);
    Ok(Reply::Descriptor(fd, close))
}

/// socketpair(2) of local datagram sockets.
pub(in crate::supervisor) fn socketpair(call: &mut Call<'_>) -> Answer {
    let (_, close, flags) = kind(call.int(1))?;
    let (a, b) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(from_nix)?;
    let mut numbers = Vec::new();
    for fd in [a, b] {
        call.world.sockets.all.insert(rustix::fs::fstat(&fd)?.st_ino);
        let number = call.listener.give(call.notification, fd.as_fd(), close).map_err(errno)?;
        numbers.extend_from_slice(&number.to_ne_bytes());
    }
    call.write(call.arg(3), &numbers)?;
    DONE
}

/// An address of the caller's.
enum Address {
    /// None: the kernel chooses.
    Any,
    Path(Vec<u8>),
    /// A name in the table of all processes.
    Abstract(Vec<u8>),
}

pub(in crate::supervisor) fn bind(call: &mut Call<'_>) -> Answer {
    let Some((inode, fd)) = call.local_socket()? else { return Ok(Reply::GoOn) };
    match call.address()? {
        Address::Any => {
            socket::bind(fd.as_raw_fd(), &UnixAddr::new_unnamed()).map_err(from_nix)?;
        }
        Address::Abstract(name) => {
            let name = UnixAddr::new_abstract(&call.own_name(&name)).map_err(from_nix)?;
            socket::bind(fd.as_raw_fd(), &name).map_err(from_nix)?;
        }
        Address::Path(path) => {
            let (dir, name, directory) = match call.entry(AT_FDCWD, &path) {
                Err(Errno::BUSY | Errno::EXIST) => return Err(Errno::ADDRINUSE),
                other => other?,
            };
            if directory {
                return Err(Errno::ISDIR);
            }
            let who = call.who()?;
            call.world.may_in(&who, &dir, WRITE)?;
            let wanted = call.world.inherit(&who, &dir, 0o777 & !call.umask(), false)?;
            let mut at = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
            at.extend_from_slice(&name);
            let address = UnixAddr::new(name_of(&at)).map_err(from_nix)?;
            socket::bind(fd.as_raw_fd(), &address).map_err(from_nix)?;
            rustix::fs::chmodat(&dir, name_of(&name), disk_mode(wanted.mode, false), AtFlags::empty())?;
            call.world.made(wanted, false, || look(&dir, &name))?;
        }
    }
    call.world.sockets.waiting.remove(&inode);
    DONE
}

pub(in crate::supervisor) fn connect(call: &mut Call<'_>) -> Answer {
    let Some((inode, fd)) = call.local_socket()? else { return Ok(Reply::GoOn) };
    let address = match call.address()? {
        Address::Any => return Err(Errno::INVAL),
        Address::Abstract(name) => (UnixAddr::new_abstract(&call.own_name(&name)).map_err(from_nix)?, None),
        Address::Path(path) => {
            let held = call.hold_at(AT_FDCWD, &path, 0)?;
            if held.owned(call.world) {
                let found = held.look()?;
                call.who()?.may(held.seen(call.world, &found), WRITE)?;
            }
            (UnixAddr::new(held.by_link().as_str()).map_err(from_nix)?, Some(held))
        }
    };
    call.world.sockets.waiting.remove(&inode);
    // The other side may take its time.
    Ok(Reply::Later(Box::new(move || {
        let (address, _held) = address;
        socket::connect(fd.as_raw_fd(), &address).map_err(from_nix)?;
        DONE
    })))
}

impl Call<'_> {
    /// The socket of the first argument, if its addresses are local ones.
    fn local_socket(&mut self) -> Result<Option<(u64, OwnedFd)>, Errno> {
        let link = self.link_of(self.int(0))?;
        let text = link.strip_prefix(b"socket:[").and_then(|l| l.strip_suffix(b"]"));
        let inode = text.and_then(|t| std::str::from_utf8(t).ok()).and_then(|t| t.parse().ok());
        let Some(inode) = inode else { return Err(Errno::NOTSOCK) };
        match self.world.sockets.waiting.get(&inode) {
            Some(fd) => Ok(Some((inode, fd.try_clone().map_err(errno)?))),
            // It has a peer, or an address that it keeps.
            None if self.world.sockets.all.contains(&inode) => Err(Errno::ISCONN),
            None => Ok(None),
        }
    }

    fn address(&self) -> Result<Address, Errno> {
        let length = usize::try_from(self.int(2)).map_err(|_| Errno::INVAL)?;
        if !(2..=ADDRESS_BYTES).contains(&length) {
            return Err(Errno::INVAL);
        }
        let bytes = self.bytes(self.arg(1), length)?;
        let (family, name) = bytes.split_first_chunk::<2>().ok_or(Errno::INVAL)?;
        if i32::from(u16::from_ne_bytes(*family)) != libc::AF_UNIX {
            return Err(Errno::AFNOSUPPORT);
        }
        Ok(match name.split_first() {
            None => Address::Any,
            Some((0, name)) => Address::Abstract(name.to_vec()),
            Some(_) => {
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                Address::Path(name.get(..end).unwrap_or_default().to_vec())
            }
        })
    }

    /// The name that stands for one of the step's in the table of all processes.
    fn own_name(&self, name: &[u8]) -> Vec<u8> {
        let mut own = format!("rbuild-{}-", std::process::id()).into_bytes();
        own.extend_from_slice(name);
        own
    }
}
