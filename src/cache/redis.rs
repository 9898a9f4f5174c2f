//! `type=redis`: entries in Redis, layers in a repository.
//!
//! The key `rbuild_cache_[SCOPE_]KEY` holds an entry as JSON and expires. One `SET` replaces a value as a whole, so writers need
//! not know of each other. Nothing in the registry names the layers: what its garbage collection takes is a miss, because
//! every look-up asks for the blob.
//!
//! The protocol is a few lines (RESP 2: <https://redis.io/docs/latest/develop/reference/protocol-spec/>), spoken over one
//! connection with a time-out on every wait.

use super::backend::{Backend, Clients, Fault, Packed};
use super::entry::{Entry, MAX_ENTRY_BYTES, Sealed};
use super::spec::RedisServer;
use super::{CacheKey, document, registry};
use crate::oci::{Descriptor, Reference};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a write may take.
const SHORT: Duration = Duration::from_secs(3);
/// Longest line of an answer, in bytes.
const MAX_LINE: u64 = 4096;

/// A server and a repository.
pub(super) struct Redis {
    server: RedisServer,
    ttl: Duration,
    prefix: String,
    layers: Reference,
    clients: Clients,
    connection: Mutex<Option<BufReader<TcpStream>>>,
}

impl Redis {
    pub fn new(server: RedisServer, ttl: Duration, scope: &str, layers: Reference, clients: Clients) -> Redis {
        let prefix = match document::scope_name(scope).as_str() {
            "" => "rbuild_cache_".to_owned(),
            scope => format!("rbuild_cache_{scope}_"),
        };
        let layers = Reference { tag: None, digest: None, ..layers };
        Redis { server, ttl, prefix, layers, clients, connection: Mutex::default() }
    }

    fn key(&self, key: &CacheKey) -> String {
        format!("{}{}", self.prefix, key.hex())
    }

    /// One command and its answer. A connection that the server closed since the last one is opened again.
    fn ask(&self, command: &[&[u8]], within: Duration) -> Result<Answer, Fault> {
        let failed = |e: io::Error| {
            let why = match e.kind() {
                // What the system calls a socket that had nothing to say.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => e.to_string(),
            };
            Fault::Down(format!("redis at `{}:{}`: {why}", self.server.host, self.server.port))
        };
        let deadline = Instant::now() + within;
        // Nobody waits for another one's answer: who finds no connection opens one.
        let slot = || self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slot().take();
        if let Some(mut connection) = known
            && let Ok(answer) = exchange(&mut connection, command, deadline)
        {
            *slot() = Some(connection);
            return self.judged(answer);
        }
        let mut connection = self.connect(deadline).map_err(failed)?;
        let login: Vec<&[u8]> = match (&self.server.user, &self.server.password) {
            (Some(user), Some(password)) => vec![b"AUTH", user.as_bytes(), password.as_bytes()],
            (None, Some(password)) => vec![b"AUTH", password.as_bytes()],
            _ => vec![],
        };
        let database = self.server.database.to_string();
        let select: Vec<&[u8]> = if self.server.database == 0 { vec![] } else { vec![b"SELECT", database.as_bytes()] };
        for first in [login, select].iter().filter(|c| !c.is_empty()) {
            let answer = exchange(&mut connection, first, deadline).map_err(failed)?;
            // Who is not let in can do nothing at all.
            self.judged(answer).map_err(|e| Fault::Down(e.to_string()))?;
        }
        let answer = exchange(&mut connection, command, deadline).map_err(failed)?;
        *slot() = Some(connection);
        self.judged(answer)
    }

    fn judged(&self, answer: Answer) -> Result<Answer, Fault> {
        match answer {
            Answer::Error(text) => {
                Err(Fault::Refused(format!("redis at `{}:{}` answered `{text}`", self.server.host, self.server.port)))
            }
            answer => Ok(answer),
        }
    }

    fn connect(&self, deadline: Instant) -> io::Result<BufReader<TcpStream>> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in resolve(&self.server.host, self.server.port, left(deadline)?)? {
            match TcpStream::connect_timeout(&address, left(deadline)?) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(BufReader::new(stream));
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// The addresses of a name. The system's look-up knows no limit, so it has a thread of its own that nobody waits for longer.
fn resolve(host: &str, port: u16, within: Duration) -> io::Result<Vec<SocketAddr>> {
    let (sender, found) = mpsc::channel();
    let name = host.to_owned();
    std::thread::Builder::new().name("resolve".into()).spawn(move || {
        let _ = sender.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
    })?;
    found.recv_timeout(within).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// `+OK`, or a number.
    Done,
    /// A value.
    Value(Vec<u8>),
    /// No value.
    Nothing,
    /// A refusal.
    Error(String),
}

fn exchange(connection: &mut BufReader<TcpStream>, command: &[&[u8]], deadline: Instant) -> io::Result<Answer> {
    let mut text = format!("*{}\r\n", command.len()).into_bytes();
    for part in command {
        text.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        text.extend_from_slice(part);
        text.extend_from_slice(b"\r\n");
    }
    connection.get_ref().set_write_timeout(Some(left(deadline)?))?;
    connection.get_mut().write_all(&text)?;
    let line = line(connection, deadline)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is none");
    let (kind, rest) = line.split_at_checked(1).ok_or_else(wrong)?;
    match kind {
        "+" | ":" => Ok(Answer::Done),
        "-" => Ok(Answer::Error(rest.to_owned())),
        "$" => match rest.parse::<i64>().map_err(|_| wrong())? {
            -1 => Ok(Answer::Nothing),
            length => {
                let length = usize::try_from(length).map_err(|_| wrong())?;
                if length as u64 > MAX_ENTRY_BYTES {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a value that is too long for an entry"));
                }
                let mut value = vec![0; length + 2];
                read_exact(connection, &mut value, deadline)?;
                value.truncate(length);
                Ok(Answer::Value(value))
            }
        },
        _ => Err(wrong()),
    }
}

/// One line without its end.
fn line(connection: &mut BufReader<TcpStream>, deadline: Instant) -> io::Result<String> {
    let mut line = vec![];
    while line.last() != Some(&b'\n') {
        if line.len() as u64 >= MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that is too long"));
        }
        connection.get_ref().set_read_timeout(Some(left(deadline)?))?;
        // One piece at a time, so that a server that drips meets the deadline as well.
        let piece = connection.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = piece.iter().position(|b| *b == b'\n').map_or(piece.len(), |at| at + 1);
        line.extend_from_slice(&piece[..n]);
        connection.consume(n);
    }
    let text = String::from_utf8_lossy(&line);
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_exact(connection: &mut BufReader<TcpStream>, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        connection.get_ref().set_read_timeout(Some(left(deadline)?))?;
        match connection.read(into)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => into = into.get_mut(n..).unwrap_or_default(),
        }
    }
    Ok(())
}

impl Backend for Redis {
    fn name(&self) -> String {
        let RedisServer { host, port, database, .. } = &self.server;
        format!("type=redis,url=redis://{host}:{port}/{database},ref={}", self.layers)
    }

    fn lookup(&self, key: &CacheKey, within: Duration) -> Result<Option<Sealed>, Fault> {
        match self.ask(&[b"GET", self.key(key).as_bytes()], within)? {
            Answer::Value(value) => Sealed::from_json(&value).map(Some).map_err(Fault::Bad),
            _ => Ok(None),
        }
    }

    fn has_layer(&self, blob: &Descriptor, within: Duration) -> Result<bool, Fault> {
        Ok(self.clients.read.blob_within(&self.layers, blob, within)?)
    }

    fn fetch(&self, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        Ok(self.clients.read.fetch_blob(&self.layers, blob, to)?)
    }

    fn put(&self, key: &CacheKey, _: &Entry, sealed: &Sealed, layer: Option<&Packed<'_>>) -> Result<(), Fault> {
        if let Some(layer) = layer {
            self.clients.write.push_blob(&self.layers, &registry::known(layer, &self.layers), layer.sent)?;
        }
        let ttl = self.ttl.as_secs().max(1).to_string();
        let value = sealed.to_json();
        self.ask(&[b"SET", self.key(key).as_bytes(), &value, b"EX", ttl.as_bytes()], SHORT).map(drop)
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a server makes of `GET` when it says this and then nothing more.
    fn said(text: &'static [u8], within: Duration) -> io::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(text);
            // Until the other side gives up.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        let mut connection = BufReader::new(TcpStream::connect(address).unwrap());
        let answer = exchange(&mut connection, &[b"GET", b"x"], Instant::now() + within);
        drop(connection);
        server.join().unwrap();
        answer
    }

    #[test]
    fn answers_of_a_server() {
        let long = Duration::from_secs(20);
        for (text, want) in [
            (&b"+OK\r\n"[..], Answer::Done),
            (b":7\r\n", Answer::Done),
            (b"$-1\r\n", Answer::Nothing),
            (b"$0\r\n\r\n", Answer::Value(vec![])),
            (b"$5\r\na\r\nbc\r\n", Answer::Value(b"a\r\nbc".to_vec())),
            (b"-ERR no\r\n", Answer::Error("ERR no".into())),
        ] {
            assert_eq!(said(text, long).unwrap(), want);
        }
        for text in [&b"?\r\n"[..], b"\r\n", b"$-7\r\n", b"$x\r\n", b"$99999999999\r\n", &[b'+'; 5000]] {
            assert_eq!(said(text, long).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text:?}");
        }
        let started = Instant::now();
        for text in [&b""[..], b"+OK", b"$5\r\nab"] {
            assert!(said(text, Duration::from_millis(200)).is_err(), "{text:?}");
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
