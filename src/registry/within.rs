//! Questions that must be answered in time or not at all: what the step cache asks registries and web servers.
//!
//! Nobody waits for a cache longer than it takes to do without. So these take a limit for everything (name look-up,
//! connection, credentials, answer), ask the registry itself and no mirror (an entry that was just written must be seen),
//! and try once. Blobs are moved by the same code as those of images.

use super::{
    Client, Document, Error, LayerSource, Options, Timeouts,
    auth::Access,
    chunks::{CHANNEL_CHUNKS, body_of, read_chunk},
    core::Core,
    download::opened,
    host::Request,
    resolve,
    transport::{Answer, Exchange, Flow, Payload, authority},
    upload::{Blob, Memory, Uploads},
};
use crate::oci::{Descriptor, Reference};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue},
};
use std::{
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

impl Client {
    /// A client with the same settings, but these time-outs and this many new tries.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn hurried(&self, timeouts: Timeouts, retries: u32) -> Result<Client, Error> {
        let retry_delay = Duration::from_millis(100);
        Client::new(Options { timeouts, retries, retry_delay, ..self.options().clone() })
    }

    fn within<T>(
        &self,
        limit: Duration,
        doing: &str,
        host: &str,
        ask: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.runtime()?.block_on(async {
            tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| {
                Err(Error::Timeout {
                    doing: doing.to_owned(),
                    host: host.to_owned(),
                    waiting_for: "the answer",
                    seconds: limit.as_secs(),
                })
            })
        })
    }

    /// The manifest behind a name, `None` where the registry has none.
    ///
    /// # Errors
    /// No answer within `limit`, or another one.
    pub fn manifest_within(&self, reference: &Reference, limit: Duration) -> Result<Option<Document>, Error> {
        let reference = reference.clone().docker_normalized().with_default_tag();
        let doing = format!("cannot read `{reference}`");
        let place = self.core().push_place(&reference)?;
        match self.within(limit, &doing, &place.host.name, resolve::manifest(&place, &reference, &doing)) {
            Ok(document) => Ok(Some(document)),
            Err(e) if e.status() == Some(404) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a repository has a blob of this digest and length.
    ///
    /// # Errors
    /// No answer within `limit`, or one that says neither.
    pub fn blob_within(&self, repository: &Reference, blob: &Descriptor, limit: Duration) -> Result<bool, Error> {
        let repository = Reference { tag: None, digest: None, ..repository.clone() }.docker_normalized();
        let doing = format!("cannot look for a blob in `{repository}`");
        let place = self.core().push_place(&repository)?;
        let path = format!("/v2/{}/blobs/{}", place.repository, blob.digest);
        let access = Access::pull(&place.repository);
        let ask = place.host.send(Request::new(&doing, Method::HEAD, path, &access));
        match self.within(limit, &doing, &place.host.name, ask) {
            Ok(answer) => Ok(answer.length().is_none_or(|n| n == blob.size)),
            Err(e) if e.status() == Some(404) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A small blob of a repository, checked.
    ///
    /// # Errors
    /// No answer within `limit`, or not these bytes.
    pub fn small_blob_within(&self, from: &Reference, blob: &Descriptor, limit: Duration) -> Result<Vec<u8>, Error> {
        let from = from.clone().docker_normalized();
        let doing = format!("cannot read a blob of `{}`", from.name());
        let place = self.core().push_place(&from)?;
        let ask = resolve::small_blob(&place, blob, super::MAX_CONFIG_BYTES, &doing);
        self.within(limit, &doing, &place.host.name, ask)
    }

    /// Brings a blob to a repository, without a manifest that names it. `sent` is told how many bytes were handed to the
    /// network.
    ///
    /// # Errors
    /// Where it does not arrive.
    pub fn push_blob(&self, to: &Reference, layer: &LayerSource<'_>, sent: &(dyn Fn(u64) + Sync)) -> Result<(), Error> {
        let to = Reference { tag: None, digest: None, ..to.clone() }.docker_normalized();
        let doing = format!("cannot push a blob to `{to}`");
        let place = self.core().push_place(&to)?;
        let uploads = Uploads { runtime: self.runtime()?, place, doing: &doing, stop: &|| false, keeps: true };
        let (blob, from) = Blob::of(layer);
        uploads.bring(&blob, from, &Memory { of: None }, sent).map(drop)
    }

    /// What is behind a plain address, `None` where there is nothing; at most `max` bytes.
    ///
    /// # Errors
    /// No answer within `limit`, or another one.
    pub fn get_within(&self, url: &str, max: u64, limit: Duration) -> Result<Option<Vec<u8>>, Error> {
        let host = Plain::new(url)?.host;
        self.within(limit, &format!("cannot read `{host}`"), &host, async {
            match plain(self.core(), Method::GET, url, Payload::Empty, None).await? {
                answer if answer.status().is_success() => answer.body(max).await.map(Some),
                answer if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::GONE) => Ok(None),
                answer => Err(answer.into_error().await),
            }
        })
    }

    /// The length of what is behind a plain address, `None` where there is nothing.
    ///
    /// # Errors
    /// No answer within `limit`, or one that does not say.
    pub fn length_within(&self, url: &str, limit: Duration) -> Result<Option<u64>, Error> {
        let host = Plain::new(url)?.host;
        self.within(limit, &format!("cannot look at `{host}`"), &host, async {
            match plain(self.core(), Method::HEAD, url, Payload::Empty, None).await? {
                answer if answer.status().is_success() => match answer.length() {
                    Some(length) => Ok(Some(length)),
                    None => Err(answer.broken("no length in the answer")),
                },
                answer if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::GONE) => Ok(None),
                answer => Err(answer.into_error().await),
            }
        })
    }

    /// Streams what is behind a plain address into `sink`. The caller checks what it got.
    ///
    /// # Errors
    /// Where it is not there, or does not come.
    pub fn get_into(&self, url: &str, sink: &mut dyn Write) -> Result<(), Error> {
        let runtime = self.runtime()?;
        let mut answer = runtime.block_on(plain(self.core(), Method::GET, url, Payload::Empty, None))?;
        if !answer.status().is_success() {
            return Err(runtime.block_on(answer.into_error()));
        }
        let doing = format!("cannot fetch from `{}`", Plain::new(url)?.host);
        while let Some(chunk) = runtime.block_on(answer.chunk())? {
            sink.write_all(&chunk).map_err(|source| Error::Local { doing: doing.clone(), source })?;
        }
        Ok(())
    }

    /// Puts bytes at a plain address.
    ///
    /// # Errors
    /// Where they are not taken within `limit`.
    pub fn put_within(&self, url: &str, bytes: Vec<u8>, limit: Duration) -> Result<(), Error> {
        let host = Plain::new(url)?.host;
        let length = bytes.len() as u64;
        self.within(limit, &format!("cannot write to `{host}`"), &host, async {
            match plain(self.core(), Method::PUT, url, Payload::Bytes(bytes.into()), Some(length)).await? {
                answer if answer.status().is_success() => Ok(()),
                answer => Err(answer.into_error().await),
            }
        })
    }

    /// Puts what a reader has, `length` bytes of it, at a plain address.
    ///
    /// # Errors
    /// Where it is not taken, or the reader ends early.
    pub fn put_stream(
        &self,
        url: &str,
        mut reader: impl Read,
        length: u64,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Error> {
        let host = Plain::new(url)?.host;
        let doing = format!("cannot write to `{host}`");
        let runtime = self.runtime()?;
        let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
        let flow = Arc::new(Flow::new());
        let body = Payload::Stream(body_of(receiver, flow.clone()), flow);
        let (core, address) = (self.core_arc(), url.to_owned());
        let task = runtime.spawn(async move {
            match plain(&core, Method::PUT, &address, body, Some(length)).await? {
                answer if answer.status().is_success() => Ok(()),
                answer => Err(answer.into_error().await),
            }
        });
        let mut count = 0;
        loop {
            let chunk = read_chunk(&mut reader).map_err(|source| {
                task.abort();
                Error::Local { doing: doing.clone(), source }
            })?;
            if chunk.is_empty() {
                break;
            }
            count += chunk.len() as u64;
            if sender.blocking_send(Ok(chunk)).is_err() {
                break; // the task knows why
            }
            sent(count);
        }
        drop(sender);
        runtime.block_on(task).map_err(|e| Error::Setup(std::io::Error::other(e)))?
    }
}

/// One request to a plain address.
async fn plain(core: &Core, method: Method, url: &str, payload: Payload, length: Option<u64>) -> Result<Answer, Error> {
    let Plain { url, host, mut headers } = Plain::new(url)?;
    headers.extend(length.map(|n| (CONTENT_LENGTH, HeaderValue::from(n))));
    let doing = format!("cannot use `{host}`");
    let verify = core.tls_verify != Some(false);
    let ask = Exchange { doing: &doing, host: &host, method, url, headers, payload };
    core.transport.exchange(ask, verify).await
}

/// An address whose credentials have become a header.
struct Plain {
    url: Url,
    host: String,
    headers: HeaderMap,
}

impl Plain {
    fn new(text: &str) -> Result<Plain, Error> {
        let (url, login) = opened(text).ok_or_else(|| Error::Unsupported {
            doing: "cannot use the address of a cache".into(),
            why: "it is none of `http` or `https`".into(),
        })?;
        let host = authority(&url);
        Ok(Plain { url, host, headers: login.into_iter().map(|value| (AUTHORIZATION, value)).collect() })
    }
}
