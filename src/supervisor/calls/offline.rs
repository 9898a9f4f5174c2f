//! `--network=none`: a step that has sockets, and nothing to connect them with.
//!
//! No socket of a network exists in such a step. What a program gets is a local one without an address, a stand-in, and what
//! it asks of that is answered as in a network namespace in which nobody listens: so whatever a step does to descriptors
//! and addresses meanwhile, there is nothing that could leave it.

use super::{Answer, Call, DONE, Errno, Reply, sockets};
use crate::supervisor::tasks::socket_inode;
use nix::sys::socket::{AddressFamily, SockType, socket};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a socket stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) struct StandIn {
    family: i32,
    datagram: bool,
}

/// What calls that name an address of a network are answered.
fn unreachable(stand_in: StandIn, address: &[u8]) -> Errno {
    match host(stand_in, address) {
        Err(e) => e,
        Ok(host) if host.is_loopback() => Errno::CONNREFUSED,
        Ok(_) => Errno::NETUNREACH,
    }
}

/// The host in an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host {
    address: Ipv6Addr,
    port: u16,
}

impl Host {
    /// Any address is one's own.
    fn is_loopback(self) -> bool {
        match self.address.to_ipv4_mapped() {
            Some(v4) => v4.is_loopback() || v4.is_unspecified(),
            None => self.address.is_loopback() || self.address.is_unspecified(),
        }
    }
}

fn host(stand_in: StandIn, address: &[u8]) -> Result<Host, Errno> {
    let (family, rest) = address.split_first_chunk::<2>().ok_or(Errno::INVAL)?;
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(Errno::INVAL)?;
    let port = u16::from_be_bytes(*port);
    let family = i32::from(u16::from_ne_bytes(*family));
    if family != stand_in.family {
        return Err(Errno::AFNOSUPPORT);
    }
    let address = if family == libc::AF_INET {
        let bytes = rest.first_chunk::<4>().filter(|_| rest.len() >= 12).ok_or(Errno::INVAL)?;
        Ipv4Addr::from(*bytes).to_ipv6_mapped()
    } else {
        // Behind the flow label.
        let bytes = rest.get(4..).and_then(|r| r.first_chunk::<16>()).ok_or(Errno::INVAL)?;
        Ipv6Addr::from(*bytes)
    };
    Ok(Host { address, port })
}

impl Call<'_> {
    /// socket(2) of another family than the local one.
    pub(super) fn offline_socket(&mut self) -> Answer {
        let (family, kind) = (self.int(0), self.int(1));
        match family {
            libc::AF_INET | libc::AF_INET6 => {}
            // It tells of addresses, and sends nothing.
            libc::AF_NETLINK if self.int(2) == libc::NETLINK_ROUTE => return self.other_socket(),
            _ => return Err(Errno::AFNOSUPPORT),
        }
        if kind & sockets::TYPE_MASK == libc::SOCK_RAW {
            return Err(Errno::PERM);
        }
        let (kind, close, flags) = sockets::kind(kind)?;
        let datagram = match kind {
            SockType::Stream => false,
            SockType::Datagram => true,
            _ => return Err(Errno::SOCKTNOSUPPORT),
        };
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(|e| Errno::from_raw_os_error(e as i32))?;
        let inode = rustix::fs::fstat(&fd)?.st_ino;
        let world = &mut *self.world;
        world.sockets.stand_in(inode, StandIn { family, datagram }, &mut world.view.tasks);
        Ok(Reply::Descriptor(fd, close))
    }

    pub(super) fn bind_offline(&self, stand_in: StandIn) -> Answer {
        let host = host(stand_in, &self.address_bytes(crate::sys::socket::MAX_ADDRESS_BYTES)?)?;
        // Resolvers bind before they send. Who wants a certain port waits for somebody, who could not come.
        if stand_in.datagram && host.port == 0 && host.is_loopback() { DONE } else { Err(Errno::ADDRNOTAVAIL) }
    }

    pub(super) fn connect_offline(&self, stand_in: StandIn) -> Answer {
        let address = self.address_bytes(crate::sys::socket::MAX_ADDRESS_BYTES)?;
        let family = address.first_chunk::<2>().map(|f| i32::from(u16::from_ne_bytes(*f)));
        if family == Some(libc::AF_UNSPEC) {
            return DONE;
        }
        Err(unreachable(stand_in, &address))
    }

    /// The stand-in that the first argument is.
    fn stand_in(&mut self) -> Result<Option<StandIn>, Errno> {
        let inode = socket_inode(&self.link_of(self.int(0))?).ok_or(Errno::NOTSOCK)?;
        Ok(self.world.sockets.stand_ins.get(&inode).copied())
    }
}

/// sendto(2) with an address. Local sockets have a peer, or none.
pub(in crate::supervisor) fn sendto(call: &mut Call<'_>) -> Answer {
    let Some(stand_in) = call.stand_in()? else { return Ok(Reply::GoOn) };
    if !stand_in.datagram {
        return Err(Errno::NOTCONN);
    }
    let length = usize::try_from(call.int(5)).ok().filter(|l| *l <= crate::sys::socket::MAX_ADDRESS_BYTES);
    let address = call.bytes(call.arg(4), length.ok_or(Errno::INVAL)?)?;
    Err(unreachable(stand_in, &address))
}

/// sendmsg(2) and sendmmsg(2).
pub(in crate::supervisor) fn sendmsg(call: &mut Call<'_>) -> Answer {
    match call.stand_in()? {
        None => Ok(Reply::GoOn),
        Some(stand_in) if stand_in.datagram => Err(Errno::NETUNREACH),
        Some(_) => Err(Errno::NOTCONN),
    }
}

/// setsockopt(2) of anything but the level of all sockets.
pub(in crate::supervisor) fn setsockopt(call: &mut Call<'_>) -> Answer {
    Ok(if call.stand_in()?.is_some() { Reply::Value(0) } else { Reply::GoOn })
}

/// getsockname(2): no address, of the family that was asked for.
pub(in crate::supervisor) fn getsockname(call: &mut Call<'_>) -> Answer {
    let Some(stand_in) = call.stand_in()? else { return Ok(Reply::GoOn) };
    let mut address = (stand_in.family as u16).to_ne_bytes().to_vec();
    address.resize(if stand_in.family == libc::AF_INET { 16 } else { 28 }, 0);
    let room = call.bytes(call.arg(2), 4)?.first_chunk::<4>().map_or(0, |b| i32::from_ne_bytes(*b));
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    call.write(call.arg(1), address.get(..room).unwrap_or(&address))?;
    call.write(call.arg(2), &(address.len() as u32).to_ne_bytes())?;
    DONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let of = |family: i32, rest: &[u8]| [&(family as u16).to_ne_bytes()[..], &80u16.to_be_bytes(), rest].concat();
        let v4 = StandIn { family: libc::AF_INET, datagram: false };
        let v6 = StandIn { family: libc::AF_INET6, datagram: false };
        let four = |bytes: [u8; 4]| of(libc::AF_INET, &[&bytes[..], &[0; 8]].concat());
        let six = |text: &str| {
            of(libc::AF_INET6, &[&[0; 4][..], &text.parse::<Ipv6Addr>().unwrap().octets(), &[0; 4]].concat())
        };
        for (stand_in, address, expected) in [
            (v4, four([127, 0, 0, 1]), Errno::CONNREFUSED),
            (v4, four([0, 0, 0, 0]), Errno::CONNREFUSED),
            (v4, four([192, 0, 2, 1]), Errno::NETUNREACH),
            (v4, four([169, 254, 169, 254])[..8].to_vec(), Errno::INVAL),
            (v4, six("::1"), Errno::AFNOSUPPORT),
            (v6, six("::1"), Errno::CONNREFUSED),
            (v6, six("::ffff:127.0.0.1"), Errno::CONNREFUSED),
            (v6, six("2001:db8::1"), Errno::NETUNREACH),
            (v6, vec![], Errno::INVAL),
        ] {
            assert_eq!(unreachable(stand_in, &address), expected, "{address:?}");
        }
    }
}
