//! Files behind plain addresses: what ADD and remote build contexts fetch, with the transport that registries are asked by.
//!
//! Credentials in an address are sent to its own server only, and shown nowhere. A connection that breaks is tried again
//! from the start: unlike a blob, such a file has no name that would say whether the rest belongs to the beginning.

use super::{
    Error,
    core::Core,
    transport::{Answer, Exchange, Payload, authority},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Method, StatusCode, Url,
    header::{
        AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
        LOCATION,
    },
};
use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    sync::Arc,
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::bytes::Bytes;

/// Redirects that are followed in a row.
const MAX_REDIRECTS: usize = 10;
/// Chunks between the network and the caller; each is at most a few hundred KiB.
const CHANNEL_CHUNKS: usize = 16;

/// What the header `Authorization` says to one server. No debug output shows it.
#[derive(Clone, Debug)]
pub struct Authorization(HeaderValue);

impl Authorization {
    /// Takes the value of the header; `None`: it has characters that no header has.
    pub fn new(text: &str) -> Option<Authorization> {
        let mut value = HeaderValue::from_str(text).ok().filter(|v| v.to_str().is_ok())?;
        value.set_sensitive(true);
        Some(Authorization(value))
    }

    /// The value, which belongs into no log and no argument.
    pub fn value(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its address, `http` or `https`.
    pub url: String,
    /// The `ETag` of the copy that is here.
    pub etag: Option<String>,
    /// The `Last-Modified` of the copy that is here.
    pub last_modified: Option<String>,
    /// What its server is told; stronger than credentials in the address.
    pub authorization: Option<Authorization>,
    /// Most bytes that are taken.
    pub limit: u64,
}

/// What the server said of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The copy that is here is still the right one; nothing was written.
    pub unchanged: bool,
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub last_modified: Option<String>,
}

/// A piece on its way to the caller.
enum Piece {
    /// What came so far is void.
    Again,
    Bytes(Bytes),
}

/// The bytes of a text in which `%41` and the like are escapes; what is no escape stays.
pub fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        rest = match escape {
            Some(byte) => {
                out.extend(byte);
                tail.get(2..).unwrap_or_default()
            }
            None => {
                out.push(*first);
                tail
            }
        };
    }
    out
}

/// An address without the user and password in it, and the header that they make. `None`: no address of a web server.
pub(super) fn opened(text: &str) -> Option<(Url, Option<HeaderValue>)> {
    let mut url = Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.host().is_some())?;
    if url.username().is_empty() && url.password().is_none() {
        return Some((url, None));
    }
    let mut pair = percent_decoded(url.username());
    pair.push(b':');
    pair.extend(percent_decoded(url.password().unwrap_or_default()));
    let mut header = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(&pair))).ok()?;
    header.set_sensitive(true);
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some((url, Some(header)))
}

/// An address for messages: without credentials and query.
pub fn shown(text: &str) -> String {
    let Some((mut url, _)) = opened(text) else { return "an invalid address".to_owned() };
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Fetches a file into `into`, which holds exactly it afterwards.
pub(super) fn download(core: &Arc<Core>, runtime: &Handle, wanted: &Wanted, into: &mut File) -> Result<Fetched, Error> {
    let doing = format!("cannot fetch `{}`", shown(&wanted.url));
    let local = |source| Error::Local { doing: doing.clone(), source };
    let (sender, mut pieces) = mpsc::channel::<Piece>(CHANNEL_CHUNKS);
    let task = runtime.spawn(run(core.clone(), wanted.clone(), doing.clone(), sender));
    while let Some(piece) = pieces.blocking_recv() {
        let done = match piece {
            Piece::Again => into.set_len(0).and_then(|()| into.seek(SeekFrom::Start(0)).map(|_| ())),
            Piece::Bytes(bytes) => into.write_all(&bytes),
        };
        if let Err(e) = done {
            task.abort();
            return Err(local(e));
        }
    }
    let fetched = runtime.block_on(task).map_err(|e| Error::Setup(std::io::Error::other(e)))??;
    into.flush().map_err(local)?;
    Ok(fetched)
}

async fn run(core: Arc<Core>, wanted: Wanted, doing: String, sender: mpsc::Sender<Piece>) -> Result<Fetched, Error> {
    let (core, wanted, doing, sender) = (&core, &wanted, &doing, &sender);
    core.transport.retry.run(|| async move { attempt(core, wanted, doing, sender).await }).await
}

async fn attempt(core: &Core, wanted: &Wanted, doing: &str, sender: &mpsc::Sender<Piece>) -> Result<Fetched, Error> {
    let Some((url, login)) = opened(&wanted.url) else {
        return Err(Error::Unsupported { doing: doing.to_owned(), why: "it is no http or https address".into() });
    };
    let login = wanted.authorization.clone().map(|a| a.0).or(login);
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, text: &Option<String>| {
        headers.extend(text.as_deref().and_then(|t| HeaderValue::from_str(t).ok()).map(|v| (name, v)));
    };
    set(IF_NONE_MATCH, &wanted.etag);
    if wanted.etag.is_none() {
        set(IF_MODIFIED_SINCE, &wanted.last_modified);
    }
    let mut answer = ask(core, doing, url, headers, login).await?;
    let said = |name| answer.header(name).map(str::to_owned);
    let mut fetched = Fetched { unchanged: false, etag: said(ETAG), last_modified: said(LAST_MODIFIED) };
    let conditional = wanted.etag.is_some() || wanted.last_modified.is_some();
    if answer.status() == StatusCode::NOT_MODIFIED && conditional {
        fetched.unchanged = true;
        return Ok(fetched);
    }
    if answer.status() != StatusCode::OK {
        return Err(answer.into_error().await);
    }
    let too_long =
        || Error::Corrupt { doing: doing.to_owned(), why: format!("it is longer than {} bytes", wanted.limit) };
    let announced = answer.length();
    if announced.is_some_and(|n| n > wanted.limit) {
        return Err(too_long());
    }
    let mut received = 0;
    let gone = sender.send(Piece::Again).await.is_err();
    while let Some(chunk) = answer.chunk().await? {
        received += chunk.len() as u64;
        if received > wanted.limit {
            return Err(too_long());
        }
        if gone || sender.send(Piece::Bytes(chunk)).await.is_err() {
            // the caller is gone and knows why
            break;
        }
    }
    Ok(fetched)
}

/// One request, redirects followed: never from HTTPS to plain HTTP, and with credentials to the first server only.
async fn ask(
    core: &Core,
    doing: &str,
    mut url: Url,
    headers: HeaderMap,
    login: Option<HeaderValue>,
) -> Result<Answer, Error> {
    let origin = url.origin();
    for _ in 0..=MAX_REDIRECTS {
        let mut headers = headers.clone();
        if url.origin() == origin {
            headers.extend(login.clone().map(|value| (AUTHORIZATION, value)));
        }
        let host = authority(&url);
        let exchange =
            Exchange { doing, host: &host, method: Method::GET, url: url.clone(), headers, payload: Payload::Empty };
        let answer = core.transport.exchange(exchange, core.tls_verify != Some(false)).await?;
        if !answer.status().is_redirection() || answer.status() == StatusCode::NOT_MODIFIED {
            return Ok(answer);
        }
        let text = answer.header(LOCATION).ok_or_else(|| answer.broken("a redirect without `Location`"))?;
        let next = answer.url().join(text).map_err(|e| answer.broken(format!("invalid redirect: {e}")))?;
        if !(next.scheme() == "https" || (next.scheme() == "http" && url.scheme() == "http")) {
            return Err(answer.broken(format!("refusing a redirect to `{}`: it is not https", authority(&next))));
        }
        // what a redirect says of users is not ours to send
        url = match opened(next.as_str()) {
            Some((next, _)) => next,
            None => return Err(answer.broken("invalid redirect")),
        };
    }
    Err(Error::Protocol {
        doing: doing.to_owned(),
        host: authority(&url),
        why: format!("more than {MAX_REDIRECTS} redirects"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_an_address_holds_no_secret() {
        assert_eq!(shown("https://me:pa%20ss@host:8443/a/b?token=x#y"), "https://host:8443/a/b");
        let (url, header) = opened("https://me:pa%20ss@host/").unwrap();
        assert_eq!((url.as_str(), header.unwrap().to_str().unwrap()), ("https://host/", "Basic bWU6cGEgc3M="));
        let login = Authorization::new("Bearer s3cret").unwrap();
        assert!(!format!("{login:?}").contains("s3cret") && login.value() == "Bearer s3cret");
        assert!(Authorization::new("a\nb: c").is_none() && Authorization::new("\u{fc}").is_none());
        assert!(opened("file:///etc/passwd").is_none() && opened("nonsense").is_none());
    }
}
