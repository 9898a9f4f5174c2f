//! The requests that bring the bytes of one blob: a single PATCH, or one for each piece of it.
//!
//! One request is best, and most registries take it. Some say what pieces have to weigh at least (`OCI-Chunk-Min-Length`); those
//! get pieces whose place and length they are told. Where a registry, or a proxy before it, answers 413, the blob goes in
//! pieces, of ever smaller size until they are taken; that size is then used for all that goes there.
//!
//! Memory is bounded: a piece is sent while it is made. Only small ones of a blob of unknown length are held until they are full, so that
//! their length can be told.

use super::{
    Error,
    auth::Access,
    chunks::{CHANNEL_CHUNKS, Pipe, body_of},
    host::Request,
    host::Target,
    transport::{Flow, Payload},
    upload::{Uploads, octets},
};
use reqwest::{
    Method, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE},
};
use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::bytes::Bytes;

/// Sizes of pieces that are tried where all at once is too much, in bytes.
const SIZES: [u64; 4] = [64 << 20, 16 << 20, 4 << 20, 1 << 20];
/// Largest piece that is held until it is full, in bytes.
const MAX_HELD: u64 = 4 << 20;
/// The same where the registry insists on pieces.
const MAX_HELD_FOR_LEAST: u64 = 16 << 20;

/// What a registry takes in one request.
#[derive(Debug)]
pub(super) struct Limits {
    /// Nothing larger has been taken; `u64::MAX` where nothing is known.
    most: AtomicU64,
    /// What it says that pieces have to weigh, but for the last.
    least: AtomicU64,
}

/// How a blob is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// In one request.
    Whole,
    /// In pieces of this many bytes, each of which is told to the registry with its place, or goes as it is made.
    Pieces { size: u64, held: bool },
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { most: AtomicU64::new(u64::MAX), least: AtomicU64::new(0) }
    }
}

impl Limits {
    /// Takes note of what an answer says about pieces.
    pub(super) fn learn(&self, headers: &HeaderMap) {
        let said = headers.get(HeaderName::from_static("oci-chunk-min-length"));
        if let Some(least) = said.and_then(|v| v.to_str().ok()?.trim().parse().ok()) {
            self.least.store(least, Ordering::Relaxed);
        }
    }

    /// How a blob of this size, where it is known, is sent.
    pub(super) fn plan(&self, size: Option<u64>) -> Plan {
        let (most, least) = (self.most.load(Ordering::Relaxed), self.least.load(Ordering::Relaxed));
        let piece = match (most, size) {
            (u64::MAX, _) if least == 0 => return Plan::Whole,
            (u64::MAX, Some(_)) => SIZES[0],
            (u64::MAX, None) => MAX_HELD,
            (most, _) => most,
        };
        let piece = piece.max(least);
        let held = size.is_none() && piece <= if least > 0 { MAX_HELD_FOR_LEAST } else { MAX_HELD };
        Plan::Pieces { size: piece, held }
    }

    /// Takes note that a blob of this size, where it is known, was too much when it was sent like that. Whether there are
    /// smaller pieces to try.
    pub(super) fn shrink(&self, tried: Plan, size: Option<u64>) -> bool {
        let tried = match tried {
            Plan::Whole => u64::MAX,
            Plan::Pieces { size, .. } => size,
        };
        let least = self.least.load(Ordering::Relaxed);
        let fits = |piece: &&u64| **piece < tried && size.is_none_or(|size| **piece < size) && **piece >= least;
        let Some(next) = SIZES.iter().find(fits) else { return false };
        self.most.fetch_min(*next, Ordering::Relaxed);
        true
    }
}

/// The requests of one blob, one after the other.
pub(super) struct Requests<'a> {
    uploads: &'a Uploads<'a>,
    plan: Plan,
    total: Option<u64>,
    /// Where the next request goes.
    url: Url,
    /// Bytes of the blob that were handed over.
    at: u64,
    open: Option<Open>,
    held: Vec<Bytes>,
    held_bytes: u64,
    /// Whether there was a request.
    any: bool,
    /// Why the registry wants no more of it.
    failure: Option<Error>,
}

/// A request that is under way.
struct Open {
    task: JoinHandle<Result<Taken, Error>>,
    pipe: Pipe,
    /// Bytes that still belong to it.
    left: u64,
    /// Its length was not told, so that it may end anywhere.
    open_ended: bool,
}

/// What the registry said to a request.
struct Taken {
    next: Url,
    /// Bytes of the blob that it has, where it says so.
    has: Option<u64>,
}

impl<'a> Requests<'a> {
    /// Requests for a blob of this length, where it is known, of which the registry has the beginning.
    pub(super) fn new(uploads: &'a Uploads<'a>, plan: Plan, url: Url, offset: u64, total: Option<u64>) -> Requests<'a> {
        let (held, open, failure) = (vec![], None, None);
        Requests { uploads, plan, total, url, at: offset, open, held, held_bytes: 0, any: false, failure }
    }

    /// Takes the next bytes of the blob.
    pub(super) fn take(&mut self, mut chunk: Bytes) -> io::Result<()> {
        while !chunk.is_empty() {
            match self.plan {
                Plan::Pieces { size, held: true } => {
                    let part = chunk.split_to(at_most(size.saturating_sub(self.held_bytes), chunk.len()));
                    self.held_bytes += part.len() as u64;
                    self.held.push(part);
                    if self.held_bytes >= size {
                        self.send_held()?;
                    }
                }
                // What is more than was announced is told by the digest.
                Plan::Pieces { .. } if self.total.is_some_and(|total| self.at >= total) => return Ok(()),
                Plan::Pieces { size, .. } => {
                    let end = self.at.saturating_add(size);
                    let left = self.total.map_or(end, |total| end.min(total)).saturating_sub(self.at);
                    let range = self.total.map(|_| self.at..self.at + left);
                    self.send(&mut chunk, range, left)?;
                }
                Plan::Whole => {
                    let range = self.total.filter(|total| *total > self.at).map(|total| self.at..total);
                    self.send(&mut chunk, range, u64::MAX)?;
                }
            }
        }
        Ok(())
    }

    fn send_held(&mut self) -> io::Result<()> {
        let range = self.at..self.at + self.held_bytes;
        let left = std::mem::take(&mut self.held_bytes);
        for mut part in std::mem::take(&mut self.held) {
            self.send(&mut part, Some(range.clone()), left)?;
        }
        Ok(())
    }

    /// Sends the beginning of a chunk: what belongs to the request that is under way, or to a new one of these bytes.
    fn send(&mut self, chunk: &mut Bytes, range: Option<Range<u64>>, left: u64) -> io::Result<()> {
        if self.open.is_none() {
            self.begin(range, left);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let part = chunk.split_to(at_most(open.left, chunk.len()));
        let length = part.len() as u64;
        if let Err(e) = open.pipe.send(part, self.uploads.stop) {
            if open.pipe.closed
                && let Some(open) = self.open.take()
            {
                let early = self.uploads.protocol("the upload was answered before its end");
                self.failure = Some(self.uploads.join(open.task).err().unwrap_or(early));
            }
            return Err(e);
        }
        open.left = open.left.saturating_sub(length);
        self.at += length;
        if open.left == 0 { self.end() } else { Ok(()) }
    }

    /// Starts a request whose body comes from this thread: these bytes of the blob, where it is known which.
    fn begin(&mut self, range: Option<Range<u64>>, left: u64) {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(CHANNEL_CHUNKS);
        let flow = Arc::new(Flow::new());
        let body = body_of(receiver, flow.clone());
        let (place, doing, url) = (self.uploads.place.clone(), self.uploads.doing.to_owned(), self.url.clone());
        let told = self.plan != Plan::Whole;
        let open_ended = range.is_none();
        let task = self.uploads.runtime.spawn(async move {
            let access = Access::push(&place.repository);
            let mut request = Request::new(&doing, Method::PATCH, String::new(), &access);
            request.target = Target::Url(url.clone());
            request.headers = octets();
            if let Some(Range { start, end }) = range {
                request.headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
                let text = format!("{start}-{}", end.saturating_sub(1));
                let range = (told || start > 0).then(|| HeaderValue::from_str(&text).ok()).flatten();
                request.headers.extend(range.map(|range| (CONTENT_RANGE, range)));
            }
            request.payload = Payload::Stream(body, flow);
            let answer = place.host.send(request).await?;
            // the address for what follows may have changed
            let next = match answer.headers().contains_key(LOCATION) && !answer.status().is_redirection() {
                true => place.host.location(&answer).await?,
                false => url,
            };
            Ok(Taken { next, has: answer.header(RANGE).and_then(end_of_range) })
        });
        self.any = true;
        let pipe = Pipe { runtime: self.uploads.runtime.clone(), sender, closed: false };
        self.open = Some(Open { task, pipe, left, open_ended });
    }

    /// Ends the request that is under way, and waits for its answer.
    fn end(&mut self) -> io::Result<()> {
        let Some(Open { task, pipe, .. }) = self.open.take() else { return Ok(()) };
        drop(pipe);
        let outcome = self.uploads.join(task).and_then(|taken| match taken.has {
            // It says the same of none and of one byte, and some always say so.
            Some(has) if self.plan != Plan::Whole && has > 1 && has != self.at => {
                Err(self.uploads.lost(&format!("it has {has} bytes where {} were sent", self.at)))
            }
            _ => Ok(taken.next),
        });
        match outcome {
            Ok(next) => {
                self.url = next;
                Ok(())
            }
            Err(e) => {
                self.failure = Some(e);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Sends what is left, and returns the address that ends the upload.
    pub(super) fn finish(mut self) -> Result<Url, Error> {
        let sent = self.send_held();
        if !self.any && self.plan == Plan::Whole {
            self.begin(None, u64::MAX);
        }
        match sent.and_then(|()| self.end()) {
            Ok(()) => Ok(self.url),
            Err(e) => Err(self.failure.unwrap_or_else(|| self.uploads.local(e))),
        }
    }

    /// Why the registry wants no more, where that is why writing failed.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Breaks off what is under way.
    pub(super) fn abort(self) {
        if let Some(open) = self.open {
            open.task.abort();
        }
    }

    /// Gives up the upload: what is under way may end where it is, or is broken off, and the registry is told.
    pub(super) fn give_up(self) {
        let task = self.open.map(|Open { task, pipe, open_ended, .. }| {
            // A body of unknown length may end here. After its answer nothing writes to the upload any more.
            if !open_ended {
                task.abort();
            }
            drop(pipe);
            task
        });
        let (uploads, url) = (self.uploads, self.url);
        let next = task.map(|task| {
            let abort = task.abort_handle();
            (abort, async move { task.await.ok().and_then(Result::ok).map(|taken| taken.next) })
        });
        uploads.runtime.block_on(uploads.end(next, url));
    }
}

fn at_most(left: u64, length: usize) -> usize {
    usize::try_from(left).map_or(length, |left| left.min(length))
}

/// How many bytes a registry has that names the last one.
pub(super) fn end_of_range(range: &str) -> Option<u64> {
    let last: u64 = range.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_get_smaller_until_they_are_taken() {
        let limits = Limits::default();
        assert_eq!(limits.plan(None), Plan::Whole);
        let mut sizes = vec![];
        while limits.shrink(limits.plan(None), None) {
            let Plan::Pieces { size, held } = limits.plan(None) else { panic!("whole") };
            assert_eq!(held, size <= 4 * MIB);
            sizes.push(size / MIB);
        }
        assert_eq!(sizes, [64, 16, 4, 1]);
        // Those as large as the blob need not be tried.
        let limits = Limits::default();
        assert!(limits.shrink(Plan::Whole, Some(5 * MIB)));
        assert_eq!(limits.plan(Some(5 * MIB)), Plan::Pieces { size: 4 * MIB, held: false });
        assert!(!Limits::default().shrink(Plan::Whole, Some(MIB)));
        // Somebody else was there before.
        assert!(limits.shrink(Plan::Whole, None));
        assert_eq!(limits.plan(Some(9 * MIB)), Plan::Pieces { size: 4 * MIB, held: false });
    }

    #[test]
    fn registries_may_want_pieces() {
        let limits = Limits::default();
        let said = |text: &'static str| {
            limits.learn(&HeaderMap::from_iter([(
                HeaderName::from_static("oci-chunk-min-length"),
                HeaderValue::from_static(text),
            )]));
        };
        said("many");
        assert_eq!(limits.plan(None), Plan::Whole);
        said("5242880");
        assert_eq!(limits.plan(None), Plan::Pieces { size: 5 * MIB, held: true });
        assert_eq!(limits.plan(Some(MIB)), Plan::Pieces { size: 64 * MIB, held: false });
        assert!(limits.shrink(limits.plan(Some(100 * MIB)), Some(100 * MIB)));
        assert_eq!(limits.plan(Some(MIB)), Plan::Pieces { size: 16 * MIB, held: false });
        assert!(!limits.shrink(limits.plan(None), None), "no piece may be smaller");
        said("99999999999");
        assert_eq!(limits.plan(None), Plan::Pieces { size: 99_999_999_999, held: false });
    }

    #[test]
    fn the_last_byte_says_how_many_there_are() {
        assert_eq!(end_of_range("0-9"), Some(10));
        assert_eq!(end_of_range("bytes=0-9"), Some(10));
        assert_eq!(end_of_range("3-9"), None);
        assert_eq!(end_of_range("0-18446744073709551615"), Some(u64::MAX));
    }
}
