//! HTTP with a limit on every wait: connections, single exchanges, and when to try again.
//!
//! Only HTTP/1.1 is spoken: each transfer has a connection of its own, so that one which breaks or stalls takes no other
//! with it. Redirects are never followed here; see [`super::host`].

use super::{ApiError, Error, Options, Warnings, tls::Tls};
use reqwest::{
    Body, Method, StatusCode, Url,
    header::{HeaderMap, HeaderName, RETRY_AFTER},
};
use std::{
    collections::{HashMap, hash_map::RandomState},
    future::Future,
    hash::BuildHasher,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::bytes::Bytes;

/// Longest body of an error that is looked at, in bytes.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Longest wait between two tries, in seconds; a registry that asks for more is told off.
const MAX_WAIT: Duration = Duration::from_secs(120);
/// Longest wait that doubling leads to.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the head of an answer, once the request is sent.
    pub answer: Duration,
    /// For the next bytes of a body, in either direction. Who sends a trickle, less than 1 KiB for each of these seconds,
    /// counts as silent.
    pub idle: Duration,
    /// For the answer to an upload, while the registry stores what it got.
    pub store: Duration,
}

impl Timeouts {
    /// Those where a registry may be silent for `most`: five times as long while it stores what it got.
    pub fn of_silence(most: Duration) -> Timeouts {
        let connect = most.min(Duration::from_secs(30));
        Timeouts { connect, answer: most, idle: most, store: most.saturating_mul(5) }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts::of_silence(Duration::from_secs(60))
    }
}

/// When and how often to try again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// Tries after the first.
    pub(super) retries: u32,
    delay: Duration,
}

impl Retry {
    /// The wait before try number `failures` + 1: doubled each time, then somewhere between half and all of it, so that
    /// many pods that failed together do not come back together. A wait that the registry asked for is kept in full.
    pub(super) fn wait(&self, failures: u32, error: &Error) -> Duration {
        let doubled = self.delay.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let base = doubled.min(MAX_BACKOFF);
        let random = RandomState::new().hash_one(failures) % 1024;
        let jittered = base / 2 + base.mul_f64(random as f64 / 2048.0);
        error.retry_after().map_or(jittered, |asked| asked.max(jittered))
    }

    /// Whether a try after `failures` failed ones may help.
    pub(super) fn again(&self, failures: u32, error: &Error) -> bool {
        use crate::error::Classified;
        failures <= self.retries && error.retryable() && error.retry_after().is_none_or(|asked| asked <= MAX_WAIT)
    }

    /// Runs `attempt` until it succeeds, fails for good, or was tried often enough.
    pub(super) async fn run<T, F, Fut>(&self, mut attempt: F) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let mut failures = 0;
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(e) => {
                    failures += 1;
                    if !self.again(failures, &e) {
                        return Err(e);
                    }
                    let wait = self.wait(failures, &e);
                    tracing::info!("{e}: trying again in {wait:?}");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// What the body of a request is.
pub(super) enum Payload {
    /// Nothing.
    Empty,
    /// Bytes, which can be sent again.
    Bytes(Bytes),
    /// A stream, which cannot.
    Stream(Body, Arc<Flow>),
}

/// How a body that is being sent gets on, for the watch on it.
#[derive(Debug)]
pub(super) struct Flow(Mutex<FlowState>);

#[derive(Debug)]
struct FlowState {
    last: Instant,
    starved: bool,
    done: bool,
}

impl Flow {
    pub(super) fn new() -> Flow {
        Flow(Mutex::new(FlowState { last: Instant::now(), starved: false, done: false }))
    }

    /// The network asks for more, and the producer has nothing yet.
    pub(super) fn starve(&self) {
        self.update(true, false);
    }

    /// The network took a chunk.
    pub(super) fn took(&self) {
        self.update(false, false);
    }

    /// The whole body is handed over.
    pub(super) fn done(&self) {
        self.update(false, true);
    }

    fn update(&self, starved: bool, done: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = FlowState { last: Instant::now(), starved, done };
    }

    /// What the network has been waited for, and how long; `None` while it waits for the producer.
    fn waiting(&self) -> Option<(bool, Duration)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.starved).then(|| (state.done, state.last.elapsed()))
    }
}

/// One exchange: who is asked for what, and on whose behalf.
pub(super) struct Exchange<'a> {
    /// What is being done, for errors.
    pub(super) doing: &'a str,
    /// The server, as the user knows it.
    pub(super) host: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

/// The HTTP clients, one for each server and way of trusting it.
pub(super) struct Transport {
    tls: Tls,
    clients: Mutex<HashMap<(String, bool), reqwest::Client>>,
    user_agent: String,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Retry,
    pub(super) warnings: Warnings,
}

impl Transport {
    pub(super) fn new(options: &Options) -> Transport {
        Transport {
            tls: Tls::new(options),
            clients: Mutex::default(),
            user_agent: options.user_agent.clone(),
            timeouts: options.timeouts,
            retry: Retry { retries: options.retries, delay: options.retry_delay },
            warnings: options.warnings.clone(),
        }
    }

    /// The client for the host of `url`.
    fn client(&self, url: &Url, verify: bool) -> Result<reqwest::Client, Error> {
        let host = authority(url);
        let key = (host, verify);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.config(&key.0, verify)?)
            .user_agent(&self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .tcp_keepalive(Duration::from_secs(30))
            .connect_timeout(self.timeouts.connect);
        if is_loopback(&key.0) {
            builder = builder.no_proxy();
            // the name means this machine, also in an image without /etc/hosts
            let name = url.host_str().filter(|h| h.ends_with("localhost"));
            let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
            builder = name.into_iter().fold(builder, |b, name| b.resolve_to_addrs(name, &addresses));
        }
        let client = builder.build().map_err(|e| Error::Setup(io::Error::other(root_cause(&e).0)))?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Sends one request and waits for the head of the answer, whatever its status.
    pub(super) async fn exchange(&self, ask: Exchange<'_>, verify: bool) -> Result<Answer, Error> {
        let Exchange { doing, host, method, url, headers, payload } = ask;
        tracing::debug!("{method} {}", without_query(&url));
        let mut request = self.client(&url, verify)?.request(method, url.clone()).headers(headers);
        let mut flow = None;
        request = match payload {
            Payload::Empty => request,
            Payload::Bytes(bytes) => request.body(bytes),
            Payload::Stream(body, state) => {
                flow = Some(state);
                request.body(body)
            }
        };
        let timed_out = |waiting_for, limit: Duration| Error::Timeout {
            doing: doing.to_owned(),
            host: host.to_owned(),
            waiting_for,
            seconds: limit.as_secs(),
        };
        let mut sending = std::pin::pin!(request.send());
        let limit = self.timeouts.connect + self.timeouts.answer;
        let outcome = match flow {
            None => tokio::time::timeout(limit, sending)
                .await
                .map_err(|_| timed_out("the head of the answer", self.timeouts.answer))?,
            Some(flow) => loop {
                let tick = (self.timeouts.idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
                match tokio::time::timeout(tick, &mut sending).await {
                    Ok(outcome) => break outcome,
                    Err(_) => match flow.waiting() {
                        Some((true, since)) if since > self.timeouts.store => {
                            return Err(timed_out("the answer to an upload", self.timeouts.store));
                        }
                        Some((false, since)) if since > self.timeouts.connect + self.timeouts.idle => {
                            return Err(timed_out("taking more of an upload", self.timeouts.idle));
                        }
                        _ => {}
                    },
                }
            },
        };
        let response = outcome.map_err(|e| {
            if e.is_timeout() {
                return timed_out("connecting", self.timeouts.connect);
            }
            transport_error(doing, host, &e)
        })?;
        Ok(Answer { response, doing: doing.to_owned(), host: host.to_owned(), pace: Pace::new(self.timeouts.idle) })
    }
}

/// Bytes a second below which a server is as good as silent.
const TRICKLE: u64 = 1024;

/// How fast a body comes while somebody waits for it.
#[derive(Debug)]
struct Pace {
    /// The longest wait, and the time over which the rate is taken.
    idle: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(idle: Duration) -> Pace {
        Pace { idle, waited: Duration::ZERO, bytes: 0 }
    }

    /// Notes that `bytes` came after `waited`; whether that goes on being worth the wait.
    fn goes_on(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.idle {
            return true;
        }
        let enough = self.bytes as f64 >= TRICKLE as f64 * self.waited.as_secs_f64();
        *self = Pace::new(self.idle);
        enough
    }
}

/// The head of an answer, and its body still to come.
pub(super) struct Answer {
    response: reqwest::Response,
    doing: String,
    host: String,
    pace: Pace,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// A header, where it is there and plain text.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The length that the head announces.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(reqwest::header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let idle = self.pace.idle;
        let too_long = |a: &Answer, waiting_for| Error::Timeout {
            doing: a.doing.clone(),
            host: a.host.clone(),
            waiting_for,
            seconds: idle.as_secs(),
        };
        let asked = Instant::now();
        match tokio::time::timeout(idle, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) if !self.pace.goes_on(asked.elapsed(), chunk.len()) => {
                Err(too_long(self, "more than a trickle of the answer"))
            }
            Ok(chunk) => chunk.map_err(|e| transport_error(&self.doing, &self.host, &e)),
            Err(_) => Err(too_long(self, "the next bytes of the answer")),
        }
    }

    /// The whole body, where it is not longer than `limit` bytes.
    pub(super) async fn body(mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let mut body = vec![];
        let too_long = |a: &Answer| Error::Corrupt {
            doing: a.doing.clone(),
            why: format!("registry `{}` sent more than {limit} bytes", a.host),
        };
        if self.length().is_some_and(|n| n > limit) {
            return Err(too_long(&self));
        }
        while let Some(chunk) = self.chunk().await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_long(&self));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The error that a status other than success stands for.
    pub(super) async fn into_error(mut self) -> Error {
        let status = self.status().as_u16();
        let retry_after = self.header(RETRY_AFTER).and_then(parse_retry_after);
        let mut body = vec![];
        // what cannot be read of an error's text is not worth another error
        while let Ok(Some(chunk)) = self.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > MAX_ERROR_BYTES {
                body.clear();
                break;
            }
        }
        Error::Status {
            doing: self.doing,
            host: self.host,
            status,
            errors: parse_errors(&body),
            retry_after,
            token_file: None,
        }
    }

    /// An error about this answer.
    pub(super) fn broken(&self, why: impl Into<String>) -> Error {
        Error::Protocol { doing: self.doing.clone(), host: self.host.clone(), why: why.into() }
    }
}

/// `host[:port]` of a URL, without a default port.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether a host with optional port is this machine by its very name.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(h, _)| h),
    };
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A URL for logs and messages: a query may hold signatures, and a user may have a password.
pub(super) fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    let _ = url.set_password(None);
    url.to_string()
}

/// Seconds, or a date, to a wait from now.
fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let wait = then.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

/// The list of errors in a body, or its text where it is short and plain.
fn parse_errors(body: &[u8]) -> Vec<ApiError> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Entry>,
        #[serde(default)]
        details: String,
        #[serde(default)]
        message: String,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        message: serde_json::Value,
    }
    let text = |v: &serde_json::Value| match v {
        serde_json::Value::String(s) => clean(s),
        serde_json::Value::Null => String::new(),
        other => clean(&other.to_string()),
    };
    match serde_json::from_slice::<Body>(body) {
        Ok(b) if !b.errors.is_empty() => {
            b.errors.iter().take(8).map(|e| ApiError { code: text(&e.code), message: text(&e.message) }).collect()
        }
        // token servers answer `{"details": …}` or `{"message": …}`
        Ok(b) if !(b.details.is_empty() && b.message.is_empty()) => {
            let message = if b.details.is_empty() { &b.message } else { &b.details };
            vec![ApiError { code: String::new(), message: clean(message) }]
        }
        _ => match std::str::from_utf8(body) {
            Ok(t) if !t.trim().is_empty() && t.len() <= 512 && !t.trim_start().starts_with('<') => {
                vec![ApiError { code: String::new(), message: clean(t) }]
            }
            _ => vec![],
        },
    }
}

/// A server's text on one line, without control characters and of bounded length.
fn clean(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(512).collect()
}

/// The innermost reason of an HTTP error, and whether it may pass.
fn root_cause(e: &reqwest::Error) -> (String, bool) {
    let mut cause: &dyn std::error::Error = e;
    let mut transient = !e.is_builder();
    // a chain of sources has no cycles; the bound is for peace of mind
    for _ in 0..32 {
        if let Some(tls) = tls_error(cause) {
            transient &= !matches!(
                tls,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::InvalidMessage(_)
                    | rustls::Error::AlertReceived(_)
                    | rustls::Error::PeerIncompatible(_)
            );
            return (tls.to_string(), transient);
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => break,
        }
    }
    let text = cause.to_string();
    if text.contains("Name or service not known") || text.contains("No address associated") {
        transient = false;
    }
    (text, transient)
}

fn tls_error<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = e.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    // an I/O error shows as its source what its inner error has as source, so the inner one is asked for by name
    let mut io = e.downcast_ref::<io::Error>()?;
    for _ in 0..8 {
        let inner = io.get_ref()?;
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        io = inner.downcast_ref::<io::Error>()?;
    }
    None
}

pub(super) fn transport_error(doing: &str, host: &str, e: &reqwest::Error) -> Error {
    let (why, transient) = root_cause(e);
    Error::Transport { doing: doing.to_owned(), host: host.to_owned(), why, transient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_the_name() {
        for (host, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::2]", false),
            ("localhost.test", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(is_loopback(host), want, "{host}");
        }
    }

    #[test]
    fn lists_of_errors_are_read_in_all_their_spellings() {
        let show = |body: &str| parse_errors(body.as_bytes()).iter().map(ApiError::to_string).collect::<Vec<_>>();
        assert_eq!(
            show(r#"{"errors":[{"code":"DENIED","message":"no\nway","detail":[1]},{"code":"X"}]}"#),
            ["DENIED: no way", "X"]
        );
        assert_eq!(show(r#"{"details":"incorrect username or password"}"#), ["incorrect username or password"]);
        assert_eq!(show("too many\n"), ["too many"]);
        assert!(show("<html>").is_empty());
        assert!(show("").is_empty());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(parse_retry_after("Tue, 31 Dec 2199 23:59:59 GMT").is_some_and(|d| d > Duration::from_secs(1)));
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn a_trickle_is_no_answer() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(second * 10);
        assert!((0..9).all(|_| pace.goes_on(second, 1)), "only the whole time counts");
        assert!(!pace.goes_on(second, 1), "10 bytes in 10 s");
        assert!((0..100).all(|_| pace.goes_on(second, 1024)));
        // Only waiting counts, not what is done with the bytes in between.
        assert!((0..100_000).all(|_| pace.goes_on(Duration::ZERO, 1)));
        let mut pace = Pace::new(second);
        assert!(pace.goes_on(second / 2, 0) && pace.goes_on(second * 9 / 10, 9000));
    }

    #[test]
    fn waits_double_and_vary_within_half() {
        let retry = Retry { retries: 3, delay: Duration::from_secs(1) };
        let status = |retry_after| Error::Status {
            doing: "x".into(),
            host: "h".into(),
            status: 503,
            errors: vec![],
            retry_after,
            token_file: None,
        };
        for (failures, top) in [(1, 1), (2, 2), (3, 4), (20, 30), (90, 30)] {
            let wait = retry.wait(failures, &status(None));
            assert!(wait <= Duration::from_secs(top) && wait >= Duration::from_secs(top) / 2, "{failures}: {wait:?}");
        }
        let asked = status(Some(Duration::from_secs(9)));
        assert_eq!(retry.wait(1, &asked), Duration::from_secs(9));
        assert!(retry.again(3, &asked) && !retry.again(4, &asked));
        assert!(!retry.again(1, &status(Some(Duration::from_secs(4000)))));
    }
}
