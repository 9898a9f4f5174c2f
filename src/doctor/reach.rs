//! What lies outside of the pod: the time, and who answers questions about names.

use super::{Finding, State};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No clock is right that shows a time before this program was written: 2026-01-01, in seconds.
const WRITTEN: u64 = 1_767_225_600;
/// Nor one that is this far in the future, in seconds: certificates would have ended.
const FAR: u64 = 30 * 365 * 86400;

/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the clock can be right.
pub fn clock(now: SystemTime) -> Finding {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    match seconds {
        s if s < WRITTEN => {
            Finding::new("clock", State::No, "the node's clock is in the past: certificates are not valid yet")
        }
        s if s > WRITTEN + FAR => {
            Finding::new("clock", State::No, "the node's clock is far in the future: certificates have expired")
        }
        _ => Finding::new("clock", State::Yes, "plausible"),
    }
}

/// Whether a name server of `/etc/resolv.conf` answers.
pub fn names(resolv_conf: &str) -> Finding {
    let servers: Vec<IpAddr> = resolv_conf
        .lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver")?.split_whitespace().next()?.split('%').next()?.parse().ok())
        .take(3)
        .collect();
    if servers.is_empty() {
        return Finding::new("dns", State::No, "`/etc/resolv.conf` names no server");
    }
    let answers: Vec<(IpAddr, Result<(), String>)> =
        servers.into_iter().map(|s| (s, ask(SocketAddr::new(s, 53)))).collect();
    match answers.iter().find(|(_, answer)| answer.is_ok()) {
        Some((server, _)) => Finding::new("dns", State::Yes, format!("{server} answers")),
        None => {
            let all: Vec<String> =
                answers.into_iter().map(|(s, e)| format!("{s}: {}", e.err().unwrap_or_default())).collect();
            Finding::new("dns", State::No, format!("no name server answers: {}", all.join(", ")))
        }
    }
}

/// Asks for the name servers of the root; any answer will do.
fn ask(server: SocketAddr) -> Result<(), String> {
    const QUERY: [u8; 17] = [0x5b, 0x1d, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let own: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let exchange = || {
        let socket = UdpSocket::bind((own, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(&QUERY)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        Ok((length, answer))
    };
    match exchange() {
        Ok((length, answer)) if length >= 12 && answer.get(..2) == QUERY.get(..2) => Ok(()),
        Ok(_) => Err("a strange answer".to_owned()),
        Err(e) => {
            let e: std::io::Error = e;
            match e.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Err("no answer".to_owned()),
                _ => Err(e.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let at = |s: u64| clock(UNIX_EPOCH + Duration::from_secs(s)).state;
        assert_eq!([0, WRITTEN, WRITTEN + FAR + 1].map(at), [State::No, State::Yes, State::No]);
    }

    #[test]
    fn a_server_that_answers_and_none() {
        assert_eq!(names("search x\n").state, State::No);
        let server = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut query = [0; 512];
            let (length, from) = server.recv_from(&mut query).unwrap();
            server.send_to(&query[..length], from).unwrap();
        });
        assert_eq!(ask(address), Ok(()));
        thread.join().unwrap();
        assert!(ask(address).is_err(), "nobody listens any more");
    }
}
