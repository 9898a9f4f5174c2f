//! One registry server: how it is reached, how it lets us in, and requests to it.
//!
//! The first request is a ping of `/v2/`. It settles the scheme (HTTPS, or plain HTTP where that is allowed: on loopback,
//! as dockerd does, and on servers called insecure) and fetches the challenge, so that the requests that follow carry a
//! token from the start.

use super::{
    Error,
    auth::{Access, Auth, Challenge, Door, challenge},
    conf::{DOCKER_HUB, Endpoint},
    credentials::Credentials,
    pieces::Limits,
    transport::{Answer, Exchange, Payload, Transport, authority, is_loopback},
};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, LOCATION},
};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Redirects that are followed in a row.
const MAX_REDIRECTS: usize = 10;
/// Where Docker's own registry answers the protocol.
const DOCKER_API_HOST: &str = "registry-1.docker.io";

/// A registry server.
pub(super) struct Host {
    /// The name that configuration and credentials know it by.
    pub(super) name: String,
    transport: Arc<Transport>,
    verify: bool,
    plain_allowed: bool,
    base: OnceCell<Url>,
    challenge: Mutex<Option<Challenge>>,
    auth: Auth,
    /// What it takes of a blob in one request.
    pub(super) limits: Limits,
}

/// A request to a registry.
pub(super) struct Request<'a> {
    /// What it is for, as the beginning of an error message: ``cannot pull `x` ``.
    pub(super) doing: &'a str,
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) access: &'a Access,
}

/// Where a request goes.
pub(super) enum Target {
    /// A path (with query) on the server.
    Path(String),
    /// An address that the server gave.
    Url(Url),
}

impl<'a> Request<'a> {
    /// A request without headers and body.
    pub(super) fn new(doing: &'a str, method: Method, path: String, access: &'a Access) -> Request<'a> {
        let (headers, payload) = (HeaderMap::new(), Payload::Empty);
        Request { doing, method, target: Target::Path(path), headers, payload, access }
    }
}

impl Host {
    /// A server that nothing has been asked of yet.
    pub(super) fn new(
        endpoint: &Endpoint,
        tls_verify: Option<bool>,
        transport: Arc<Transport>,
        credentials: Arc<Credentials>,
    ) -> Host {
        // what was typed wins over configuration, and both over the rule for loopback
        let insecure = match tls_verify {
            Some(verify) => !verify,
            None => endpoint.insecure || is_loopback(&endpoint.host),
        };
        Host {
            name: endpoint.host.clone(),
            transport,
            verify: !insecure,
            plain_allowed: insecure,
            base: OnceCell::new(),
            challenge: Mutex::default(),
            auth: Auth::new(&endpoint.host, credentials),
            limits: Limits::default(),
        }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Scheme and authority of the server; the first call asks it.
    async fn base(&self, doing: &str) -> Result<&Url, Error> {
        self.base
            .get_or_try_init(|| async {
                let over_tls = match self.ping("https", doing).await {
                    Ok(base) => return Ok(base),
                    Err(e) => e,
                };
                if !self.plain_allowed || !matches!(over_tls, Error::Transport { .. }) {
                    return Err(over_tls);
                }
                self.ping("http", doing).await.map_err(|plain| match (over_tls, plain) {
                    (Error::Transport { why: tls, .. }, Error::Transport { doing, host, why, transient })
                        if tls != why =>
                    {
                        let why = format!("{why} (over HTTPS: {tls})");
                        Error::Transport { doing, host, why, transient }
                    }
                    (_, plain) => plain,
                })
            })
            .await
    }

    async fn ping(&self, scheme: &str, doing: &str) -> Result<Url, Error> {
        let api_host = if self.name == DOCKER_HUB { DOCKER_API_HOST } else { &self.name };
        let base = Url::parse(&format!("{scheme}://{api_host}/")).map_err(|e| self.protocol(doing, e.to_string()))?;
        let exchange = Exchange {
            doing,
            host: &self.name,
            method: Method::GET,
            url: self.join(&base, "/v2/", doing)?,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        };
        let answer = self.transport.exchange(exchange, self.verify).await?;
        self.transport.warnings.hear(&self.name, answer.headers(), &self.auth.shown());
        match answer.status() {
            StatusCode::UNAUTHORIZED => self.learn(answer.headers()),
            StatusCode::TOO_MANY_REQUESTS => return Err(answer.into_error().await),
            s if s.is_server_error() => return Err(answer.into_error().await),
            // others answer the ping oddly, and the real request well
            _ => {}
        }
        Ok(base)
    }

    fn learn(&self, headers: &HeaderMap) {
        if let Some(found) = challenge(headers) {
            *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        }
    }

    fn protocol(&self, doing: &str, why: impl Into<String>) -> Error {
        Error::Protocol { doing: doing.to_owned(), host: self.name.clone(), why: why.into() }
    }

    fn join(&self, base: &Url, to: &str, doing: &str) -> Result<Url, Error> {
        base.join(to).map_err(|e| self.protocol(doing, format!("invalid address `{to}`: {e}")))
    }

    /// The address in a `Location` header, relative or absolute. A server behind a proxy that ends TLS may believe that
    /// it speaks plain HTTP; its own addresses keep the scheme that it was reached by.
    pub(super) async fn location(&self, answer: &Answer) -> Result<Url, Error> {
        let text = answer.header(LOCATION).ok_or_else(|| answer.broken("no `Location` in the answer"))?;
        let mut url = answer.url().join(text).map_err(|e| answer.broken(format!("invalid `Location`: {e}")))?;
        let base = self.base("").await?;
        if base.scheme() == "https" && url.scheme() == "http" && url.host() == base.host() {
            url.set_scheme("https").map_err(|()| answer.broken("invalid `Location`"))?;
        }
        Ok(url)
    }

    /// Sends a request, once, and returns an answer of success. A refusal for want of a token is answered with a new
    /// token, and redirects of GET and HEAD are followed.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer, Error> {
        let Request { doing, method, target, headers, payload, access } = request;
        let base = self.base(doing).await?;
        let url = match target {
            Target::Path(path) => self.join(base, &path, doing)?,
            Target::Url(url) => url,
        };
        // credentials never go to another server than the one they were given for
        let own = same_origin(&url, base);
        if base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.protocol(doing, "refusing to leave https for a plain address"));
        }
        let again = match &payload {
            Payload::Empty => Some(Payload::Empty),
            Payload::Bytes(bytes) => Some(Payload::Bytes(bytes.clone())),
            Payload::Stream(..) => None,
        };
        let door = Door { transport: &self.transport, doing, verify: self.verify, plain: base.scheme() == "http" };
        let known = self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let shown = match (&known, own) {
            (Some(challenge), true) => self.auth.header(&door, challenge, access).await?,
            _ => None,
        };
        let ask = |headers: HeaderMap, payload| Exchange {
            doing,
            host: &self.name,
            method: method.clone(),
            url: url.clone(),
            headers,
            payload,
        };
        let mut first = headers.clone();
        first.extend(shown.clone().map(|value| (AUTHORIZATION, value)));
        let mut answer = self.transport.exchange(ask(first, payload), self.verify).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && own {
            self.learn(answer.headers());
            let wanted = challenge(answer.headers());
            self.auth.refused(wanted.as_ref(), access).await;
            if let (Some(wanted), Some(payload)) = (wanted, again) {
                let fresh = self.auth.header(&door, &wanted, access).await?;
                // the same password again would only be refused again
                if fresh.is_some() && fresh != shown {
                    let mut second = headers.clone();
                    second.extend(fresh.map(|value| (AUTHORIZATION, value)));
                    answer = self.transport.exchange(ask(second, payload), self.verify).await?;
                }
            }
        }
        if own {
            self.transport.warnings.hear(&self.name, answer.headers(), &self.auth.shown());
        }
        if answer.status().is_redirection() && (method == Method::GET || method == Method::HEAD) {
            answer = self.follow(answer, doing, &method, headers).await?;
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.auth.explained(answer.into_error().await, access, &[401, 403]))
    }

    /// Follows redirects: to other hosts without credentials, with all other headers (`Range`, `Accept`), and never from
    /// HTTPS to plain HTTP. The address that is left keeps its credentials for itself.
    async fn follow(
        &self,
        mut answer: Answer,
        doing: &str,
        method: &Method,
        headers: HeaderMap,
    ) -> Result<Answer, Error> {
        for _ in 0..MAX_REDIRECTS {
            if !answer.status().is_redirection() || answer.status() == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            let text = answer.header(LOCATION).ok_or_else(|| answer.broken("a redirect without `Location`"))?;
            let url = answer.url().join(text).map_err(|e| answer.broken(format!("invalid redirect: {e}")))?;
            if !(url.scheme() == "https" || (url.scheme() == "http" && answer.url().scheme() == "http")) {
                return Err(answer.broken(format!("refusing a redirect to `{}`: it is not https", authority(&url))));
            }
            let host = authority(&url);
            let exchange = Exchange {
                doing,
                host: &host,
                method: method.clone(),
                url,
                headers: headers.clone(),
                payload: Payload::Empty,
            };
            answer = self.transport.exchange(exchange, self.verify).await?;
        }
        Err(answer.broken(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Whether the server lets these credentials in: the ping, repeated with a token or password.
    pub(super) async fn log_in(&self, doing: &str) -> Result<(), Error> {
        let access = Access::default();
        self.send(Request::new(doing, Method::GET, "/v2/".into(), &access)).await.map(|_| ())
    }
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}
