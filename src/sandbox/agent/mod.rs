//! An SSH agent for a step: a socket behind which keys of the user sign, without the step ever seeing them.
//!
//! ```text
//! ssh in the step ─► socket, bound into the step ─► a thread of the builder ─► the user's agent, or keys in memory
//! ```
//!
//! Of a real agent a step may ask for the public keys and for signatures, and nothing else: it can neither remove the
//! user's keys nor lock the agent. Messages are those of the SSH agent protocol (draft-ietf-sshm-ssh-agent).

mod keys;
mod openssh;
mod wire;

pub use keys::{Key, KeyError};

use rustix::event::{PollFd, PollFlags, poll};
use std::fs::Permissions;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// What signs.
#[derive(Debug)]
pub enum Agent {
    /// An agent that listens on a socket.
    Socket {
        /// Where.
        path: PathBuf,
        /// Whether everything passes unread, whatever is spoken there.
        raw: bool,
    },
    /// Private keys.
    Keys(Vec<Key>),
}

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// As OpenSSH's.
const MOST_BYTES: usize = 256 * 1024;
/// Connections at once; more are closed at once.
const MOST_CONNECTIONS: usize = 64;
/// Name of the socket in its directory.
const NAME: &str = "agent";

/// A socket that answers as long as the value lives.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on a new socket in `dir`, a directory that nobody else can enter, and answers for `agent`. The socket has this
/// mode, and this owner where one is given.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(agent: &Arc<Agent>, dir: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Served> {
    let path = dir.join(NAME);
    let held = std::fs::File::open(dir)?;
    // An address has 108 bytes, and the store may have a longer path.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", held.as_raw_fd()))?;
    std::fs::set_permissions(&path, Permissions::from_mode(mode & 0o777))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
    }
    listener.set_nonblocking(true)?;
    let (stopped, stop) = io::pipe()?;
    let agent = agent.clone();
    let accept = move || {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            let mut fds = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            let Ok((client, _)) = listener.accept() else { continue };
            if open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS || client.set_nonblocking(false).is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (agent, open) = (agent.clone(), open.clone());
            // Ends when the step's processes, the only ones at the other end, are gone.
            thread::spawn(move || {
                // What fails here is the client's connection, and it sees so.
                let _ = attend(&agent, client);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    };
    let thread = thread::Builder::new().name("ssh-agent".into()).spawn(accept)?;
    Ok(Served { path, stop: Some(stop), thread: Some(thread) })
}

/// One connection, to its end.
fn attend(agent: &Agent, mut client: UnixStream) -> io::Result<()> {
    let mut upstream: Option<UnixStream> = None;
    if let Agent::Socket { path, raw: true } = agent {
        return relay(client, UnixStream::connect(path)?);
    }
    while let Some(request) = read_message(&mut client)? {
        let answer = match (agent, request.first()) {
            (Agent::Keys(keys), _) => answer(keys, &request),
            (Agent::Socket { path, .. }, Some(&(REQUEST_IDENTITIES | SIGN_REQUEST))) => {
                let agent = match &mut upstream {
                    Some(agent) => agent,
                    none => none.insert(UnixStream::connect(path)?),
                };
                write_message(agent, &request)?;
                read_message(agent)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            (Agent::Socket { .. }, _) => vec![FAILURE],
        };
        write_message(&mut client, &answer)?;
    }
    Ok(())
}

/// What keys in memory answer.
fn answer(keys: &[Key], request: &[u8]) -> Vec<u8> {
    let signed = || {
        let mut fields = wire::Reader(request.get(1..)?);
        let (blob, data, flags) = (fields.string()?, fields.string()?, fields.number()?);
        let signature = keys.iter().find(|k| k.public() == blob)?.sign(data, flags)?;
        let mut answer = vec![SIGN_RESPONSE];
        wire::put_string(&mut answer, &signature);
        Some(answer)
    };
    match request.first() {
        Some(&REQUEST_IDENTITIES) => {
            let mut answer = vec![IDENTITIES_ANSWER];
            wire::put_number(&mut answer, u32::try_from(keys.len()).unwrap_or(0));
            for key in keys {
                wire::put_string(&mut answer, key.public());
                wire::put_string(&mut answer, key.comment().as_bytes());
            }
            answer
        }
        Some(&SIGN_REQUEST) => signed().unwrap_or_else(|| vec![FAILURE]),
        _ => vec![FAILURE],
    }
}

/// The next message; `None` at the end of the stream.
fn read_message(from: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MOST_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(to: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(message.len() + 4);
    wire::put_string(&mut framed, message);
    to.write_all(&framed)
}

/// Passes bytes on in both directions until one side has ended.
fn relay(client: UnixStream, agent: UnixStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, agent.try_clone()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (agent, client);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = there.join();
    Ok(())
}

/// Whether something listens on a socket at `path`.
pub fn listens(path: &Path) -> io::Result<()> {
    UnixStream::connect(path).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(socket: &Path, request: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(socket).unwrap();
        write_message(&mut stream, request).unwrap();
        read_message(&mut stream).unwrap().unwrap()
    }

    #[test]
    fn a_step_may_ask_for_keys_and_signatures_only() {
        let (dir, real) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // Stands for the user's agent: repeats what it is asked.
        let listener = UnixListener::bind(real.path().join("s")).unwrap();
        let echo = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let message = read_message(&mut stream).unwrap().unwrap();
                write_message(&mut stream, &message).unwrap();
            }
        });
        let agent = Arc::new(Agent::Socket { path: real.path().join("s"), raw: false });
        let served = serve(&agent, dir.path(), 0o600, None).unwrap();
        assert_eq!(ask(served.path(), &[REQUEST_IDENTITIES]), [REQUEST_IDENTITIES]);
        assert_eq!(ask(served.path(), &[SIGN_REQUEST, 1, 2]), [SIGN_REQUEST, 1, 2]);
        // Add, remove, remove all, lock, unlock, add constrained, extension.
        for forbidden in [17, 18, 19, 22, 23, 25, 27, 0] {
            assert_eq!(ask(served.path(), &[forbidden, 1]), [FAILURE], "{forbidden}");
        }
        echo.join().unwrap();
        let path = served.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(served);
        assert!(!path.exists());
    }

    #[test]
    fn a_long_path_and_a_malformed_message_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let served = serve(&Arc::new(Agent::Keys(vec![])), &deep, 0o600, None).unwrap();
        std::os::unix::fs::symlink(&deep, dir.path().join("s")).unwrap();
        let short = dir.path().join("s/agent");
        assert_eq!(ask(&short, &[REQUEST_IDENTITIES]), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
        assert_eq!(ask(&short, &[SIGN_REQUEST, 0, 0, 0, 9, 1]), [FAILURE]);
        assert_eq!(ask(&short, &[]), [FAILURE]);
        let mut stream = UnixStream::connect(&short).unwrap();
        stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        drop(served);
    }
}
