//! Whole builds against a registry that misbehaves: each fault with what must come of it. A build succeeds, or fails with
//! the cause and in time; no tag points at half an image; and once the fault is over, the same store builds and pushes.

use crate::harness::{Lab, Registry, require};
use crate::server::Server;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// This status line, with these headers, in place of an answer.
    Says(&'static str, &'static str),
    /// The answer's body ends halfway.
    Truncated,
    /// The connection is reset halfway through the answer's body.
    Reset,
    /// The connection is reset halfway through the request's body.
    ResetUpload,
    /// One bit of the answer's body is another.
    Flipped,
    /// The answer's body comes byte by byte.
    Drip,
    /// There is no answer.
    Silent,
    /// Tokens are demanded, which this server gives as well; those of before the first upload are no good after it.
    Tokens,
}

/// A server before a registry, with a fault.
struct Faulty {
    host: String,
    state: Arc<State>,
    _server: Server,
}

struct State {
    upstream: u16,
    fault: Option<Fault>,
    /// Method and a part of the path that it is for.
    at: (&'static str, &'static str),
    /// How often it happens.
    left: AtomicUsize,
    /// Whether an upload came to its end.
    uploaded: AtomicBool,
}

impl Faulty {
    fn before(registry: &Registry, fault: Fault, at: (&'static str, &'static str), times: usize) -> Faulty {
        let state = Arc::new(State {
            upstream: registry.port(),
            fault: Some(fault),
            at,
            left: AtomicUsize::new(times),
            uploaded: AtomicBool::default(),
        });
        let server = Server::start(state.clone(), serve);
        Faulty { host: format!("127.0.0.1:{}", server.port), state, _server: server }
    }

    /// From now on all is well.
    fn heal(&self) {
        self.state.left.store(0, Ordering::SeqCst);
    }
}

/// The lines of a head, without their ends.
pub(crate) fn head(from: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = vec![];
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

pub(crate) fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let of =
        |line: &'a String| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim());
    head.iter().find_map(of)
}

/// Passes the body of a request on, as its head announces it; only `most` bytes of it where that is less.
pub(crate) fn pass_body(head: &[String], from: &mut impl BufRead, to: &mut impl Write, most: u64) -> io::Result<()> {
    if let Some(length) = header(head, "content-length").and_then(|n| n.parse().ok()) {
        return io::copy(&mut from.take(most.min(length)), to).map(drop);
    }
    if header(head, "transfer-encoding").is_none() {
        return Ok(());
    }
    let mut passed = 0;
    loop {
        let mut size = String::new();
        from.read_line(&mut size)?;
        let length = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        to.write_all(size.as_bytes())?;
        io::copy(&mut from.take(length + 2), to)?;
        passed += length;
        if length == 0 || passed > most {
            return Ok(());
        }
    }
}

fn reset(stream: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
}

/// One request: passed on, but for the fault.
fn serve(client: TcpStream, state: &State) -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(client.try_clone()?), client);
    let request = head(&mut input)?;
    let line = request.first().cloned().unwrap_or_default();
    let (method, path) = line.split_once(' ').unwrap_or_default();
    let says = |output: &mut TcpStream, status: &str, headers: &str, body: &str| {
        write!(
            output,
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let mut fault = state.fault.filter(|_| method == state.at.0 && path.contains(state.at.1));
    if let Some(Fault::Tokens) = state.fault {
        let uploaded = state.uploaded.load(Ordering::SeqCst);
        let token = if uploaded { "late" } else { "early" };
        if path.starts_with("/token") {
            return match method == state.at.0 && state.left.load(Ordering::SeqCst) > 0 {
                true => says(&mut output, "503 Service Unavailable", "", "the token server is ill"),
                false => says(&mut output, "200 OK", "", &format!(r#"{{"token":"{token}"}}"#)),
            };
        }
        if header(&request, "authorization") != Some(&format!("Bearer {token}")) {
            pass_body(&request, &mut input, &mut io::sink(), u64::MAX)?;
            let host = header(&request, "host").unwrap_or_default();
            let wanted = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n");
            return says(&mut output, "401 Unauthorized", &wanted, "");
        }
        if method == "PATCH" {
            state.uploaded.store(true, Ordering::SeqCst);
        }
        fault = None;
    }
    let happens = |n: usize| n.checked_sub(1);
    let fault = fault.filter(|_| state.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, happens).is_ok());
    match fault {
        Some(Fault::Says(status, headers)) => {
            pass_body(&request, &mut input, &mut io::sink(), u64::MAX)?;
            return says(&mut output, status, headers, "");
        }
        Some(Fault::Silent) => {
            pass_body(&request, &mut input, &mut io::sink(), u64::MAX)?;
            // Until the other side is gone.
            return io::copy(&mut input, &mut io::sink()).map(drop);
        }
        _ => {}
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", state.upstream))?;
    let mut text = String::new();
    for line in request.iter().filter(|l| !l.to_ascii_lowercase().starts_with("connection:")) {
        let _ = write!(text, "{line}\r\n");
    }
    upstream.write_all(format!("{text}Connection: close\r\n\r\n").as_bytes())?;
    if let Some(Fault::ResetUpload) = fault {
        pass_body(&request, &mut input, &mut upstream, 50_000)?;
        [&upstream, &output].into_iter().for_each(reset);
        return Ok(());
    }
    pass_body(&request, &mut input, &mut upstream, u64::MAX)?;
    let mut answer = BufReader::new(upstream);
    let lines = head(&mut answer)?;
    output.write_all((lines.join("\r\n") + "\r\n\r\n").as_bytes())?;
    let mut body = vec![];
    answer.read_to_end(&mut body)?;
    let half = body.len() / 2;
    match fault {
        Some(Fault::Truncated) => output.write_all(&body[..half])?,
        Some(Fault::Reset) => {
            output.write_all(&body[..half])?;
            // What was sent before a reset may be lost with it.
            thread::sleep(Duration::from_millis(100));
            reset(&output);
            return Ok(());
        }
        Some(Fault::Drip) => {
            for byte in body {
                output.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(50));
            }
        }
        Some(Fault::Flipped) => {
            body[half] ^= 1;
            output.write_all(&body)?;
        }
        _ => output.write_all(&body)?,
    }
    output.shutdown(Shutdown::Both)
}

/// What must come of a build.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Succeeds,
    /// It fails, and the error has these words.
    Fails(&'static [&'static str]),
}
use Outcome::{Fails, Succeeds};

const ALWAYS: usize = usize::MAX;
const BUSY: Fault = Fault::Says("429 Too Many Requests", "Retry-After: 1\r\n");
const ILL: Fault = Fault::Says("500 Internal Server Error", "");
const DOWN: Fault = Fault::Says("503 Service Unavailable", "");
const LOST: Fault = Fault::Says("404 Not Found", "");
const DENIED: Fault = Fault::Says("403 Forbidden", "");
const FULL: Fault = Fault::Says("413 Payload Too Large", "");

/// The base's manifest and layers are read, an image is written; each fault at one kind of request.
const TABLE: &[(Fault, (&str, &str), usize, Outcome)] = &[
    (BUSY, ("GET", "/manifests/"), 1, Succeeds),
    (BUSY, ("GET", "/blobs/"), 1, Succeeds),
    (BUSY, ("POST", "/uploads/"), 1, Succeeds),
    (BUSY, ("PUT", "/manifests/"), 1, Succeeds),
    (BUSY, ("GET", "/blobs/"), ALWAYS, Fails(&["/base", "429"])),
    (BUSY, ("POST", "/uploads/"), ALWAYS, Fails(&["/out", "429"])),
    (ILL, ("GET", "/manifests/"), 2, Succeeds),
    (ILL, ("GET", "/blobs/"), 2, Succeeds),
    (ILL, ("PATCH", "/uploads/"), 2, Succeeds),
    (ILL, ("PUT", "/manifests/"), 2, Succeeds),
    (ILL, ("GET", "/manifests/"), ALWAYS, Fails(&["/base", "500"])),
    (ILL, ("PUT", "/manifests/"), ALWAYS, Fails(&["/out", "500"])),
    (DOWN, ("GET", "/v2/"), ALWAYS, Fails(&["/base", "503"])),
    (DOWN, ("POST", "/uploads/"), ALWAYS, Fails(&["/out", "503"])),
    (LOST, ("GET", "/blobs/"), ALWAYS, Fails(&["/base", "404"])),
    (LOST, ("PATCH", "/uploads/"), 1, Succeeds),
    (LOST, ("PUT", "/uploads/"), 1, Succeeds),
    (LOST, ("PATCH", "/uploads/"), ALWAYS, Fails(&["/out", "404"])),
    (DENIED, ("POST", "/uploads/"), ALWAYS, Fails(&["/out", "403"])),
    (DENIED, ("PUT", "/manifests/"), ALWAYS, Fails(&["/out", "403"])),
    (FULL, ("PATCH", "/uploads/"), 2, Succeeds),
    (FULL, ("PATCH", "/uploads/"), ALWAYS, Fails(&["/out", "413", "in one request nor in pieces of 1024 KiB"])),
    (FULL, ("PUT", "/uploads/"), ALWAYS, Fails(&["/out", "413"])),
    (Fault::Truncated, ("GET", "/manifests/"), 1, Succeeds),
    (Fault::Truncated, ("GET", "/blobs/"), 2, Succeeds),
    (Fault::Truncated, ("GET", "/manifests/"), ALWAYS, Fails(&["/base"])),
    (Fault::Reset, ("GET", "/manifests/"), 1, Succeeds),
    (Fault::Reset, ("GET", "/blobs/"), 2, Succeeds),
    (Fault::ResetUpload, ("PATCH", "/uploads/"), 1, Succeeds),
    (Fault::ResetUpload, ("PATCH", "/uploads/"), ALWAYS, Fails(&["/out"])),
    (Fault::Flipped, ("GET", "/manifests/"), ALWAYS, Fails(&["/base", "sha256:"])),
    (Fault::Flipped, ("GET", "/blobs/"), ALWAYS, Fails(&["/base", "sha256:"])),
    (Fault::Drip, ("GET", "/blobs/"), ALWAYS, Fails(&["/base", "trickle", "2 s"])),
    (Fault::Silent, ("GET", "/manifests/"), 1, Succeeds),
    (Fault::Silent, ("GET", "/v2/"), ALWAYS, Fails(&["/base", "2 s"])),
    (Fault::Silent, ("GET", "/blobs/"), ALWAYS, Fails(&["/base", "2 s"])),
    (Fault::Silent, ("PUT", "/manifests/"), ALWAYS, Fails(&["/out", "2 s"])),
    (Fault::Silent, ("PUT", "/uploads/"), 1, Succeeds),
    (Fault::Tokens, ("", ""), ALWAYS, Succeeds),
    (Fault::Tokens, ("GET", "/token"), ALWAYS, Fails(&["503", "the token server is ill"])),
];

/// Runs one line of the table. The upstream has the base.
fn one(registry: &Registry, n: usize) {
    let (fault, at, times, outcome) = TABLE[n];
    let case = format!("{fault:?} at {at:?}, {times} times");
    let lab = Lab::new();
    let faulty = Faulty::before(registry, fault, at, times);
    let out = format!("out{n}:1");
    lab.context("c", &[("Dockerfile", &format!("FROM {}/base\nCOPY data /data\nLABEL a=b\n", faulty.host))]);
    lab.write("c/data", noise(200_000));
    let target = format!("docker://{}/{out}", faulty.host);
    let build = || {
        let flags = ["--retry=2", "--retry-delay=100ms", "--registry-timeout=2s", "--skip-push-check"];
        lab.rbuild(["bud", "-t", &target]).args(flags).arg("c").output()
    };
    let started = Instant::now();
    let done = build();
    // Three tries of up to 2 s each for a request that fails; the longest is an upload that is not answered.
    assert!(started.elapsed() < Duration::from_secs(40), "{case}: {:?}", started.elapsed());
    assert!(!done.stderr.contains("panicked at"), "{case}: {done}");
    let tagged = |name: &str| {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", registry.port())).expect("the registry");
        let accept = "application/vnd.oci.image.manifest.v1+json";
        write!(stream, "HEAD /v2/{name}/manifests/1 HTTP/1.0\r\nAccept: {accept}\r\n\r\n").expect("a question");
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1) == Some("200")
    };
    match outcome {
        Succeeds => assert_eq!(done.code, 0, "{case}: {done}"),
        Fails(words) => {
            assert_ne!(done.code, 0, "{case}: {done}");
            let error = done.stderr.lines().find(|l| l.to_ascii_lowercase().starts_with("error")).unwrap_or_default();
            assert!(words.iter().all(|w| error.contains(w)), "{case}: {words:?}: {done}");
            assert!(!tagged(&format!("out{n}")), "{case}: a tag is left: {done}");
            faulty.heal();
            let again = build();
            assert_eq!(again.code, 0, "{case}: when all is well again: {again}");
        }
    }
    assert!(tagged(&format!("out{n}")), "{case}");
    let name = format!("{}/{out}", registry.host());
    lab.rbuild(["pull", &name]).env("RBUILD_ROOT", lab.path("fresh")).ok();
    lab.rbuild(["check"]).env("RBUILD_ROOT", lab.path("fresh")).ok();
    lab.rbuild(["check"]).ok();
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn each_fault_has_its_outcome() {
    require!("docker-registry");
    let registry = Registry::start();
    let lab = Lab::new();
    lab.context("base", &[("Dockerfile", "FROM scratch\nCOPY base /\n")]);
    lab.write("base/base", noise(300_000));
    lab.rbuild(["bud", "-t", &format!("docker://{}/base", registry.host()), "base"]).ok();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(vec![]);
    // Most of the time is waiting.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let n @ 0..TABLE_LENGTH = next.fetch_add(1, Ordering::SeqCst) {
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(&registry, n))).is_err() {
                        failed.lock().expect("failures").push(n);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("failures");
    let shown: Vec<_> = failed.iter().map(|n| TABLE[*n]).collect();
    assert!(failed.is_empty(), "{shown:#?}");
}

const TABLE_LENGTH: usize = TABLE.len();
