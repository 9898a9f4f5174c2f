//! Sockets: whose addresses may be paths, or names in a table that all processes of the machine share, and who connects them.
//!
//! A local socket is made here, and a copy is kept until it has an address or a peer: so it is bound and connected here, to
//! what the supervisor found, and the kernel never looks at a path of the step's. Datagram sockets could be sent anywhere
//! at any time, and are refused; a pair of them keeps its messages apart in another way.
//!
//! Of other sockets the kernel makes addresses out, but only where nobody can put a local one in the place of the descriptor
//! meanwhile: for a thread that shares its descriptors with no other. For the others the supervisor makes the call, on a
//! copy of the socket that it takes from the process (pidfd_getfd) or, where the pod's filter refuses that, has kept since
//! it made the socket. A copy keeps a socket open, so it goes when the socket begins to be used ([`Waiting::holds`]), or
//! when nobody in the step has it any more ([`Sockets::sweep`]).

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Reply, errno};
use crate::supervisor::ids::WRITE;
use crate::supervisor::look::{disk_mode, kind as kind_of, look, look_at};
use crate::supervisor::tasks::{Tasks, socket_inode};
use crate::supervisor::view::{links, name_of};
use crate::sys::process;
use crate::sys::socket as system;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Size of `struct sockaddr_un`.
const ADDRESS_BYTES: usize = 110;
/// How many copies may be kept before it is asked which are of no use any more, and how many at all.
const FEW_WAITING: usize = 256;
const MOST_WAITING: usize = 4096;
pub(super) const TYPE_MASK: i32 = 0xf;

/// What the step may have of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) struct Network {
    /// Whether there is none.
    pub(in crate::supervisor) none: bool,
    /// Whether descriptors can be taken from a process.
    pub(in crate::supervisor) takes: bool,
}

impl Network {
    /// Whether the supervisor makes every socket, or local ones only.
    pub(in crate::supervisor) fn makes_all(self) -> bool {
        self.none || !self.takes
    }
}

/// The sockets of the step.
#[derive(Debug)]
pub(in crate::supervisor) struct Sockets {
    pub(super) network: Network,
    waiting: Arc<Mutex<HashMap<u64, Waiting>>>,
    /// How many may wait before they are looked through.
    limit: usize,
    /// Inodes of all local ones.
    all: HashSet<u64>,
    /// Those that stand for sockets of a network that the step has not.
    pub(super) stand_ins: HashMap<u64, super::offline::StandIn>,
}

/// A copy of a socket that has no peer yet.
#[derive(Debug)]
struct Waiting {
    fd: OwnedFd,
    family: i32,
    /// Whether it is connected once, and listens or talks from then on.
    holds: bool,
}

impl Sockets {
    pub(in crate::supervisor) fn new(network: Network) -> Sockets {
        let waiting = Arc::default();
        Sockets { network, waiting, limit: FEW_WAITING, all: HashSet::new(), stand_ins: HashMap::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what stands for a socket of a network.
    pub(super) fn stand_in(&mut self, inode: u64, stand_in: super::offline::StandIn, tasks: &mut Tasks) {
        if self.stand_ins.len() >= MOST_WAITING {
            self.sweep(tasks);
        }
        self.stand_ins.insert(inode, stand_in);
    }

    fn keep(&mut self, inode: u64, waiting: Waiting, tasks: &mut Tasks) {
        if self.waiting().len() >= self.limit {
            self.sweep(tasks);
            let left = self.waiting().len();
            self.limit = (left * 2).clamp(FEW_WAITING, MOST_WAITING);
            if left >= MOST_WAITING {
                self.waiting().clear();
            }
        }
        self.waiting().insert(inode, waiting);
    }

    /// Lets go of the copies of sockets that nobody in the step has.
    fn sweep(&mut self, tasks: &mut Tasks) {
        let open = tasks.open_sockets();
        self.waiting().retain(|inode, _| open.contains(inode));
        self.stand_ins.retain(|inode, _| open.contains(inode));
    }
}

fn from_nix(e: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(e as i32)
}

/// Type and flags that an argument asks for.
pub(super) fn kind(argument: i32) -> Result<(SockType, bool, SockFlag), Errno> {
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

/// socket(2): of local ones, and of all where [`Network::makes_all`].
pub(in crate::supervisor) fn socket(call: &mut Call<'_>) -> Answer {
    if call.int(0) != libc::AF_UNIX {
        return if call.world.sockets.network.none { call.offline_socket() } else { call.other_socket() };
    }
    let (kind, close, flags) = kind(call.int(1))?;
    if kind == SockType::Datagram {
        return Err(Errno::PROTONOSUPPORT);
    }
    let fd = socket::socket(AddressFamily::Unix, kind, flags, None).map_err(from_nix)?;
    let inode = call.keep_copy(&fd, libc::AF_UNIX, true)?;
    call.world.sockets.all.insert(inode);
    call.world.sockets.stand_ins.remove(&inode);
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

/// A socket of the caller's.
enum Found {
    /// A local one, with its inode.
    Local(u64, OwnedFd),
    /// One of a network, with its inode, its copy, and whether the copy was kept.
    Network(u64, OwnedFd, bool),
    /// It stands for one of a network.
    StandIn(super::offline::StandIn),
    /// One that the kernel may have: no local one without a peer, and nobody can put one in its place.
    Own,
}

pub(in crate::supervisor) fn bind(call: &mut Call<'_>) -> Answer {
    let found = call.find_socket(false)?;
    if call.world.sockets.network.makes_all() && matches!(found, Found::Own | Found::Network(..)) {
        // A copy of a socket that was closed may still have the address.
        let world = &mut *call.world;
        world.sockets.sweep(&mut world.view.tasks);
    }
    let (inode, fd) = match found {
        Found::Own => return Ok(Reply::GoOn),
        Found::StandIn(stand_in) => return call.bind_offline(stand_in),
        Found::Network(_, fd, _) => {
            let address = call.address_bytes(system::MAX_ADDRESS_BYTES)?;
            return system::bind(fd.as_fd(), &address).map_err(errno).and(DONE);
        }
        Found::Local(inode, fd) => (inode, fd),
    };
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
            call.opened_to(Some(dir.mount));
            let who = call.who()?;
            call.world.may_in(&who, &dir, WRITE)?;
            let wanted = call.world.inherit(&who, &dir, 0o777 & !call.umask(), false)?;
            let mut at = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
            at.extend_from_slice(&name);
            let address = UnixAddr::new(name_of(&at)).map_err(from_nix)?;
            socket::bind(fd.as_raw_fd(), &address).map_err(from_nix)?;
            // Where other steps may be, too, the name may be a link by now.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(&dir, name_of(&name), flags, Mode::empty())?;
            if look_at(&made).is_ok_and(|found| kind_of(&found) == FileType::Socket) {
                let number = made.as_raw_fd().to_string();
                rustix::fs::chmodat(links()?, number, disk_mode(wanted.mode, false), AtFlags::empty())?;
            }
            call.world.made(wanted, false, || look(&dir, &name))?;
        }
    }
    call.world.sockets.waiting().remove(&inode);
    DONE
}

pub(in crate::supervisor) fn connect(call: &mut Call<'_>) -> Answer {
    let (inode, fd) = match call.find_socket(true)? {
        Found::Own => return Ok(Reply::GoOn),
        Found::StandIn(stand_in) => return call.connect_offline(stand_in),
        Found::Network(inode, fd, kept) => return call.connect_network(inode, fd, kept),
        Found::Local(inode, fd) => (inode, fd),
    };
    let address = match call.address()? {
        Address::Any => return Err(Errno::INVAL),
        Address::Abstract(name) => (UnixAddr::new_abstract(&call.own_name(&name)).map_err(from_nix)?, None),
        Address::Path(path) => {
            let held = call.hold_at(AT_FDCWD, &path, 0)?;
            call.opened_to(held.mount);
            if held.owned(call.world) {
                let found = held.look()?;
                call.who()?.may(held.seen(call.world, &found), WRITE)?;
            }
            (UnixAddr::new(held.by_link().as_str()).map_err(from_nix)?, Some(held))
        }
    };
    let waiting = Arc::clone(&call.world.sockets.waiting);
    let copy = lock(&waiting).remove(&inode);
    // The other side may take its time.
    Ok(Reply::Later(Box::new(move || {
        let (address, _held) = address;
        socket::connect(fd.as_raw_fd(), &address).map_err(|e| {
            // It can be tried again.
            copy.map(|copy| lock(&waiting).insert(inode, copy));
            from_nix(e)
        })?;
        DONE
    })))
}

/// listen(2): from here on a copy would keep the address in use. There is nothing to judge.
pub(in crate::supervisor) fn listen(call: &mut Call<'_>) -> Answer {
    if let Some(inode) = socket_inode(&call.link_of(call.int(0))?) {
        if call.world.sockets.stand_ins.contains_key(&inode) {
            return Err(Errno::ADDRNOTAVAIL);
        }
        let mut waiting = call.world.sockets.waiting();
        if waiting.get(&inode).is_some_and(|w| w.holds) {
            waiting.remove(&inode);
        }
    }
    Ok(Reply::GoOn)
}

impl Call<'_> {
    /// A socket of a family that has no paths.
    pub(super) fn other_socket(&mut self) -> Answer {
        let (domain, kind, protocol) = (self.int(0), self.int(1), self.int(2));
        let fd = system::make(domain, kind, protocol).map_err(errno)?;
        let holds = kind & TYPE_MASK == libc::SOCK_STREAM;
        self.keep_copy(&fd, domain, holds)?;
        Ok(Reply::Descriptor(fd, kind & libc::SOCK_CLOEXEC != 0))
    }

    fn keep_copy(&mut self, fd: &OwnedFd, family: i32, holds: bool) -> Result<u64, Errno> {
        let inode = rustix::fs::fstat(fd)?.st_ino;
        let copy = Waiting { fd: fd.try_clone().map_err(errno)?, family, holds };
        let world = &mut *self.world;
        world.sockets.keep(inode, copy, &mut world.view.tasks);
        Ok(inode)
    }

    /// The socket of the first argument, which `connects` or not.
    fn find_socket(&mut self, connects: bool) -> Result<Found, Errno> {
        let number = self.int(0);
        let inode = socket_inode(&self.link_of(number)?).ok_or(Errno::NOTSOCK)?;
        let sockets = &self.world.sockets;
        if let Some(stand_in) = sockets.stand_ins.get(&inode) {
            return Ok(Found::StandIn(*stand_in));
        }
        let tasks = &self.world.view.tasks;
        let shared = tasks.shares_descriptors(self.tid);
        let mut waiting = sockets.waiting();
        match waiting.get(&inode) {
            Some(copy) if copy.family == libc::AF_UNIX => {
                return Ok(Found::Local(inode, copy.fd.try_clone().map_err(errno)?));
            }
            // It has a peer, or an address that it keeps.
            None if sockets.all.contains(&inode) => return Err(Errno::ISCONN),
            Some(copy) if !shared && copy.holds && connects => drop(waiting.remove(&inode)),
            Some(copy) if shared => return Ok(Found::Network(inode, copy.fd.try_clone().map_err(errno)?, true)),
            _ => {}
        }
        if !shared {
            return Ok(Found::Own);
        }
        // What is not kept began to be used.
        let process = tasks.thread(self.tid).ok_or(Errno::SRCH)?.process;
        let taken = sockets.network.takes.then(|| process::descriptor_of(process, number).ok()).flatten();
        let fd = taken.ok_or(Errno::ISCONN)?;
        // What was taken is what counts, whatever it was a moment ago.
        if system::domain(fd.as_fd()).map_err(errno)? == libc::AF_UNIX {
            return Err(Errno::ISCONN);
        }
        Ok(Found::Network(inode, fd, false))
    }

    fn connect_network(&mut self, inode: u64, fd: OwnedFd, kept: bool) -> Answer {
        let address = self.address_bytes(system::MAX_ADDRESS_BYTES)?;
        let waiting = Arc::clone(&self.world.sockets.waiting);
        let copy = if kept && lock(&waiting).get(&inode).is_some_and(|w| w.holds) {
            lock(&waiting).remove(&inode)
        } else {
            None
        };
        let tid = self.tid;
        Ok(Reply::Later(Box::new(move || {
            system::connect_for(fd.as_fd(), &address, || process::is_interrupted(tid)).map_err(|e| {
                if e.raw_os_error() != Some(libc::EINPROGRESS) {
                    copy.map(|copy| lock(&waiting).insert(inode, copy));
                }
                errno(e)
            })?;
            DONE
        })))
    }

    /// The address argument as it is.
    pub(super) fn address_bytes(&self, most: usize) -> Result<Vec<u8>, Errno> {
        let length = usize::try_from(self.int(2)).map_err(|_| Errno::INVAL)?;
        if length > most {
            return Err(Errno::INVAL);
        }
        self.bytes(self.arg(1), length)
    }

    fn address(&self) -> Result<Address, Errno> {
        let bytes = self.address_bytes(ADDRESS_BYTES)?;
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

    /// A socket of this mount is used: where others than the step may be at its other end, they may get descriptors of files.
    fn opened_to(&mut self, mount: Option<usize>) {
        let mount = mount.and_then(|m| self.world.view.mounts.get(m));
        if mount.is_none_or(|m| m.common || m.read_only) {
            self.world.touched.anything_from_now_on();
        }
    }

    /// The name that stands for one of the step's in the table of all processes.
    fn own_name(&self, name: &[u8]) -> Vec<u8> {
        let mut own = format!("rbuild-{}-", std::process::id()).into_bytes();
        own.extend_from_slice(name);
        own
    }
}

fn lock(waiting: &Mutex<HashMap<u64, Waiting>>) -> MutexGuard<'_, HashMap<u64, Waiting>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
