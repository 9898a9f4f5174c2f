//! Bringing one blob to a repository: found there, linked from another one, or sent.
//!
//! A small blob that is known goes in one PUT with its length. Others go in one PATCH, of unknown length where they are made
//! while they are sent, or in several ([`super::pieces`]), and the PUT that ends the upload names the digest. Bytes pass from the
//! producer's thread to the network through a bounded channel.
//!
//! Where an upload was begun is remembered. When the connection breaks, or the whole process ends, the next try asks the
//! registry how much it has, and sends the rest: the bytes before are made again, for the digest, and left out. Registries
//! differ in this: docker-registry 2.8 forgets an upload that was cut within a request, and then all is sent again.

use super::{
    ApiError, Error,
    auth::Access,
    chunks::{CHUNK_BYTES, Chunks, TICK},
    core::Place,
    host::{Request, Target},
    image::{Arrival, LayerSource, Open, Produce, UploadMemory},
    pieces::{Plan, Requests, end_of_range},
    transport::{Answer, Payload},
};
use crate::{
    error::Classified as _,
    oci::{Descriptor, Digest, Hashing},
};
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE},
};
use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::bytes::BytesMut;

/// How long the registry may take to answer to the end of an upload that nobody wants any more.
const ENDING: Duration = Duration::from_secs(1);

/// Blobs below this many bytes are sent again as a whole: it is not known what becomes of a PUT that was cut short.
const AT_ONCE_BYTES: u64 = 1 << 20;

/// What a blob that is to be brought is.
pub(super) enum Blob<'a> {
    /// Digest and length are known.
    Known { descriptor: &'a Descriptor, open: &'a Open<'a> },
    /// They are computed on the way.
    Stream { media_type: &'a str, known: Option<&'a Descriptor>, write: &'a Produce<'a> },
}

impl<'a> Blob<'a> {
    /// A layer's blob, and the repository that may have it.
    pub(super) fn of(layer: &'a LayerSource<'_>) -> (Blob<'a>, Option<&'a str>) {
        match layer {
            LayerSource::Known { descriptor, mount_from, open } => {
                (Blob::Known { descriptor, open }, mount_from.as_deref())
            }
            LayerSource::Stream { media_type, known, mount_from, write } => {
                (Blob::Stream { media_type, known: known.as_ref(), write }, mount_from.as_deref())
            }
        }
    }

    /// How long it is, where that is certain.
    fn size(&self) -> Option<u64> {
        match self {
            Blob::Known { descriptor, .. } => Some(descriptor.size),
            Blob::Stream { .. } => None,
        }
    }

    /// What it is, where that is known.
    pub(super) fn known(&self) -> Option<&'a Descriptor> {
        match self {
            Blob::Known { descriptor, .. } => Some(descriptor),
            Blob::Stream { known, .. } => *known,
        }
    }
}

/// Begins an upload and gives it up.
pub(super) fn check(runtime: &Handle, place: Place, doing: &str) -> Result<(), Error> {
    let retry = place.retry();
    let uploads = Uploads { runtime: runtime.clone(), place, doing, stop: &|| false, keeps: false };
    let (_, session) = runtime.block_on(retry.run(|| uploads.begin(String::new())))?;
    runtime.block_on(uploads.give_up(session));
    Ok(())
}

/// Where the uploads of one layer that were begun are remembered.
pub(super) struct Memory<'a> {
    /// The image and the place of the layer; `None` for what is not worth it.
    pub(super) of: Option<(&'a dyn UploadMemory, usize)>,
}

impl Memory<'_> {
    fn address(&self) -> Option<Url> {
        let (image, layer) = self.of?;
        Url::parse(&image.upload(layer)?).ok()
    }

    fn keep(&self, session: &Url) {
        if let Some((image, layer)) = self.of {
            image.remember_upload(layer, Some(session.as_str()));
        }
    }

    fn forget(&self) {
        if let Some((image, layer)) = self.of {
            image.remember_upload(layer, None);
        }
    }
}

/// An upload that was begun.
struct Session {
    url: Url,
    /// Bytes that the registry has.
    offset: u64,
}

/// What the uploads of one push share.
pub(super) struct Uploads<'a> {
    pub(super) runtime: Handle,
    pub(super) place: Place,
    pub(super) doing: &'a str,
    /// Whether no upload has a point any more, since the push has failed.
    pub(super) stop: &'a (dyn Fn() -> bool + Sync),
    /// Whether an upload that is stopped is left for a later push to go on with. Else it is ended.
    pub(super) keeps: bool,
}

impl Uploads<'_> {
    /// Brings a blob. `sent` is told how many bytes of this try were handed to the network.
    pub(super) fn bring(
        &self,
        blob: &Blob<'_>,
        mount_from: Option<&str>,
        memory: &Memory<'_>,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(Descriptor, Arrival), Error> {
        let retry = self.place.retry();
        let mut failures = 0;
        let mut renewed = false;
        loop {
            let mut plan = None;
            let error = match self.try_once(blob, mount_from, memory, sent, &mut plan) {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            if let (Some(413), Some(plan), false) = (error.status(), plan, self.stopped()) {
                if self.place.host.limits.shrink(plan, blob.size()) {
                    tracing::info!("{error}: trying smaller pieces");
                    continue;
                }
                memory.forget();
                return Err(too_large(error, plan));
            }
            failures += 1;
            // a token that ran out under way was thrown away with the refusal
            let expired = error.status() == Some(401) && !renewed;
            renewed |= expired;
            if self.stopped() || !(expired || retry.again(failures, &error)) {
                return Err(error);
            }
            let wait = retry.wait(failures, &error);
            tracing::info!("{error}: trying again in {wait:?}");
            self.pause(wait);
        }
    }

    fn stopped(&self) -> bool {
        (self.stop)()
    }

    /// Waits, but no longer than the push goes on.
    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|_| !self.stopped()) {
            std::thread::sleep(left.min(TICK));
        }
    }

    fn try_once(
        &self,
        blob: &Blob<'_>,
        mount_from: Option<&str>,
        memory: &Memory<'_>,
        sent: &(dyn Fn(u64) + Sync),
        sent_by: &mut Option<Plan>,
    ) -> Result<(Descriptor, Arrival), Error> {
        if self.stopped() {
            return Err(Error::Local { doing: self.doing.to_owned(), source: io::ErrorKind::Interrupted.into() });
        }
        let known = blob.known();
        let mut session = None;
        if let Some(known) = known
            && self.runtime.block_on(self.exists(known))?
        {
            memory.forget();
            return Ok((known.clone(), Arrival::Existed));
        }
        if let Some(begun) = memory.address() {
            session = self.runtime.block_on(self.progress(begun))?;
            if session.is_none() {
                memory.forget();
            }
        }
        if let (Some(known), None, Some(from)) = (known, &session, mount_from) {
            match self.runtime.block_on(self.mount(&known.digest, from))? {
                Mount::Linked => return Ok((known.clone(), Arrival::Mounted(from.to_owned()))),
                Mount::Session(url) => session = Some(Session { url, offset: 0 }),
                Mount::Refused => {}
            }
        }
        let session = match session {
            Some(session) => session,
            None => Session { url: self.runtime.block_on(self.begin(String::new()))?.1, offset: 0 },
        };
        memory.keep(&session.url);
        let plan = self.place.host.limits.plan(blob.size());
        *sent_by = Some(plan);
        let outcome = match blob {
            Blob::Known { descriptor, open } if session.offset == 0 && descriptor.size < AT_ONCE_BYTES => {
                self.send_known(&session.url, descriptor, open, sent).map(|()| (*descriptor).clone())
            }
            Blob::Known { descriptor, open } => {
                let write: Produce<'_> = Box::new(|out| io::copy(&mut open()?, out).map(drop));
                self.send_stream(&session, plan, &descriptor.media_type, (&write, Some(descriptor)), sent)
            }
            Blob::Stream { media_type, write, .. } => self.send_stream(&session, plan, media_type, (write, None), sent),
        };
        match outcome {
            Ok(descriptor) => {
                memory.forget();
                Ok((descriptor, Arrival::Uploaded))
            }
            // a registry that wants other bytes than those it was sent is asked which
            Err(e) if e.status() == Some(416) && session.offset == 0 => Err(self.lost(&e.to_string())),
            // one that lost an upload, or part of it, can be sent the blob anew; and so can one that had got other bytes before
            Err(e) if matches!(e.status(), Some(404 | 416)) || (session.offset > 0 && e.status() == Some(400)) => {
                memory.forget();
                Err(self.lost(&e.to_string()))
            }
            Err(e) if self.stopped() && !self.keeps => {
                memory.forget();
                Err(e)
            }
            // what the registry has got is of use to the next try
            Err(e) if self.stopped() || e.retryable() || matches!(e.status(), Some(401 | 413)) => Err(e),
            Err(e) => {
                memory.forget();
                if !matches!(e, Error::Status { .. }) {
                    self.abandon(session.url);
                }
                Err(e)
            }
        }
    }

    /// Whether the repository has a blob.
    pub(super) async fn exists(&self, blob: &Descriptor) -> Result<bool, Error> {
        let path = format!("/v2/{}/blobs/{}", self.place.repository, blob.digest);
        let access = Access::push(&self.place.repository);
        match self.place.host.send(Request::new(self.doing, Method::HEAD, path, &access)).await {
            Ok(answer) => Ok(answer.length().is_none_or(|n| n == blob.size)),
            // a refusal of HEAD says nothing, and its answer has no text: the upload's answer will say why
            Err(e) if e.status().is_some_and(|s| ((400..500).contains(&s) && s != 429) || s == 501) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// How far an upload is; `None` where the registry has nothing of it.
    async fn progress(&self, begun: Url) -> Result<Option<Session>, Error> {
        let access = Access::push(&self.place.repository);
        let mut request = Request::new(self.doing, Method::GET, String::new(), &access);
        request.target = Target::Url(begun.clone());
        let answer = match self.place.host.send(request).await {
            Ok(answer) => answer,
            // whatever it has against it, it can be sent the blob anew
            Err(Error::Status { .. } | Error::Protocol { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        // the last byte that it has, so that one byte and none look alike
        let Some(offset) = answer.header(RANGE).and_then(end_of_range).filter(|n| *n > 1) else { return Ok(None) };
        self.place.host.limits.learn(answer.headers());
        let url = match answer.headers().contains_key(LOCATION) {
            true => self.place.host.location(&answer).await?,
            false => begun,
        };
        tracing::info!("going on with an upload at byte {offset}");
        Ok(Some(Session { url, offset }))
    }

    /// Opens an upload.
    async fn begin(&self, query: String) -> Result<(StatusCode, Url), Error> {
        let path = format!("/v2/{}/blobs/uploads/{query}", self.place.repository);
        let access = Access::push(&self.place.repository);
        let answer = self.post(path, &access).await?;
        Ok((answer.status(), self.place.host.location(&answer).await?))
    }

    async fn post(&self, path: String, access: &Access) -> Result<Answer, Error> {
        let mut request = Request::new(self.doing, Method::POST, path, access);
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let answer = self.place.host.send(request).await?;
        self.place.host.limits.learn(answer.headers());
        Ok(answer)
    }

    /// Asks the registry to link a blob from another of its repositories.
    async fn mount(&self, digest: &Digest, from: &str) -> Result<Mount, Error> {
        let path = format!("/v2/{}/blobs/uploads/?mount={digest}&from={from}", self.place.repository);
        let access = Access::push(&self.place.repository).and_pull(from);
        match self.post(path, &access).await {
            Ok(answer) if answer.status() == StatusCode::CREATED => Ok(Mount::Linked),
            Ok(answer) => Ok(Mount::Session(self.place.host.location(&answer).await?)),
            // the other repository may be out of our reach: then the blob is sent
            Err(e) if e.status().is_some_and(|s| (400..500).contains(&s) && s != 429) => {
                tracing::debug!("no mount from `{from}`: {e}");
                Ok(Mount::Refused)
            }
            Err(e) => Err(e),
        }
    }

    /// Tells the registry that an upload will not be finished, without waiting for an answer.
    fn abandon(&self, session: Url) {
        let given_up = self.give_up(session);
        self.runtime.spawn(given_up);
    }

    /// Gives up an upload when the request that was writing to it has come to its end, in the time that the end of a build
    /// has for it. The request says where the upload is now.
    pub(super) async fn end(&self, writing: Option<(AbortHandle, impl Future<Output = Option<Url>>)>, begun: Url) {
        let session = match writing {
            None => begun,
            Some((abort, writing)) => {
                let answered = tokio::time::timeout(ENDING, writing).await;
                abort.abort();
                answered.ok().flatten().unwrap_or(begun)
            }
        };
        if tokio::time::timeout(ENDING, self.give_up(session)).await.is_err() {
            tracing::debug!("an upload is left to the registry: it does not answer in time");
        }
    }

    /// The same. A registry that cannot do it forgets uploads after some time.
    fn give_up(&self, session: Url) -> impl Future<Output = ()> + Send + use<> {
        let (place, doing) = (self.place.clone(), self.doing.to_owned());
        async move {
            let access = Access::push(&place.repository);
            let mut request = Request::new(&doing, Method::DELETE, String::new(), &access);
            request.target = Target::Url(session);
            if let Err(e) = place.host.send(request).await {
                tracing::debug!("an upload is left to the registry: {e}");
            }
        }
    }

    pub(super) fn join<T>(&self, task: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(task).map_err(|e| Error::Setup(io::Error::other(e)))?
    }

    pub(super) fn local(&self, source: io::Error) -> Error {
        Error::Local { doing: self.doing.to_owned(), source }
    }

    /// Sends a small blob whole.
    fn send_known(
        &self,
        session: &Url,
        blob: &Descriptor,
        open: &Open<'_>,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Error> {
        let mut bytes = vec![];
        // one byte more than announced is enough to notice
        let read = open().and_then(|reader| reader.take(blob.size.saturating_add(1)).read_to_end(&mut bytes));
        read.map_err(|e| self.local(e))?;
        self.compare(blob, Digest::of(&bytes), bytes.len() as u64)?;
        let access = Access::push(&self.place.repository);
        let mut request = Request::new(self.doing, Method::PUT, String::new(), &access);
        request.target = Target::Url(with_digest(session, &blob.digest));
        request.headers = octets();
        request.headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
        request.payload = Payload::Bytes(bytes.into());
        self.runtime.block_on(self.place.host.send(request))?;
        sent(blob.size);
        Ok(())
    }

    /// Whether what was read of a local blob is that blob.
    fn compare(&self, blob: &Descriptor, digest: Digest, size: u64) -> Result<(), Error> {
        if digest == blob.digest && size == blob.size {
            return Ok(());
        }
        Err(Error::Corrupt {
            doing: self.doing.to_owned(),
            why: format!("the local blob `{}` of {} bytes was read as `{digest}` of {size}", blob.digest, blob.size),
        })
    }

    /// Sends what `write` produces, without what the registry has already. `expected`: what it has to be.
    fn send_stream(
        &self,
        session: &Session,
        plan: Plan,
        media_type: &str,
        (write, expected): (&Produce<'_>, Option<&Descriptor>),
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<Descriptor, Error> {
        let offset = session.offset;
        let requests = Requests::new(self, plan, session.url.clone(), offset, expected.map(|e| e.size));
        let chunks =
            Chunks { requests, buffer: BytesMut::with_capacity(CHUNK_BYTES), skip: offset, count: offset, sent };
        let mut out = Hashing::new(chunks);
        let written = write(&mut out).and_then(|()| out.flush());
        let (mut chunks, digest, size) = out.finish();
        if let Err(e) = written {
            if let Some(failure) = chunks.requests.failure() {
                return Err(failure);
            }
            match self.stopped() && !self.keeps {
                true => chunks.requests.give_up(),
                false => chunks.requests.abort(),
            }
            return Err(self.local(e));
        }
        if let Some(Err(e)) = expected.map(|expected| self.compare(expected, digest, size)) {
            chunks.requests.abort();
            return Err(e);
        }
        if chunks.skip > 0 {
            chunks.requests.abort();
            return Err(self.protocol("it has more of an upload than was ever sent"));
        }
        let next = chunks.requests.finish()?;
        let access = Access::push(&self.place.repository);
        let retry = self.place.retry();
        let finish = retry.run(|| {
            let mut request = Request::new(self.doing, Method::PUT, String::new(), &access);
            request.target = Target::Url(with_digest(&next, &digest));
            request.headers = octets();
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            self.place.host.send(request)
        });
        let descriptor = Descriptor::new(media_type, digest, size);
        match self.runtime.block_on(finish) {
            Ok(_) => Ok(descriptor),
            // an answer that got lost: the try after it finds no upload, but the blob
            Err(e) if e.status() == Some(404) => {
                if self.runtime.block_on(self.exists(&descriptor))? {
                    Ok(descriptor)
                } else {
                    Err(e)
                }
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn protocol(&self, why: &str) -> Error {
        Error::Protocol { doing: self.doing.to_owned(), host: self.place.host.name.clone(), why: why.into() }
    }

    pub(super) fn lost(&self, why: &str) -> Error {
        Error::Transport {
            doing: self.doing.to_owned(),
            host: self.place.host.name.clone(),
            why: format!("the upload was lost ({why})"),
            transient: true,
        }
    }

    /// Brings a small document as a blob.
    pub(super) fn bring_bytes(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Arrival, Error> {
        let open: Open<'_> = Box::new(|| Ok(Box::new(io::Cursor::new(bytes.to_vec())) as Box<dyn Read + Send>));
        self.bring(&Blob::Known { descriptor, open: &open }, None, &Memory { of: None }, &|_| ())
            .map(|(_, arrival)| arrival)
    }
}

/// A refusal of all that can be tried.
fn too_large(mut error: Error, tried: Plan) -> Error {
    if let (Error::Status { errors, .. }, Plan::Pieces { size, .. }) = (&mut error, tried) {
        let message = format!("it takes a layer neither in one request nor in pieces of {} KiB", size >> 10);
        errors.push(ApiError { code: String::new(), message });
    }
    error
}

enum Mount {
    Linked,
    Session(Url),
    Refused,
}

pub(super) fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

/// The address that ends an upload. What the registry put into the query stays.
fn with_digest(session: &Url, digest: &Digest) -> Url {
    let mut url = session.clone();
    let digest = format!("digest={digest}");
    let query = match session.query() {
        Some(query) if !query.is_empty() => format!("{query}&{digest}"),
        _ => digest,
    };
    url.set_query(Some(&query));
    url
}
