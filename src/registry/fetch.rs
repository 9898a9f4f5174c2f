//! Fetching blobs: streamed, checked, and taken up again where a connection broke.
//!
//! The task that talks to the network hands chunks through a bounded channel to the caller's thread, which hashes and
//! writes them. A blob is named by its content, so that after a failure the rest can come from any place that has it.

use super::{Error, auth::Access, core::Place, host::Request};
use crate::oci::{Descriptor, Hashing};
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_RANGE, HeaderValue, RANGE},
};
use std::{
    io::{self, Read, Write},
    ops::Range,
    time::Duration,
};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::bytes::Bytes;

/// Chunks between the network and the caller; each is at most a few hundred KiB.
const CHANNEL_CHUNKS: usize = 16;
/// When nothing comes for so long, the sink is flushed, which is its chance to say that it wants no more.
const SILENCE: Duration = Duration::from_millis(100);
/// A try that brought this many bytes counts as a success for the next one's patience.
const PROGRESS_BYTES: u64 = 1 << 20;

/// What the caller has of a blob: so many bytes, and how to read them once more, for the digest.
pub type Begun<'a> = (u64, &'a mut dyn Read);

/// Fetches a blob, or the rest of it, from the first of these places that has it.
pub(super) fn blob(
    runtime: &Handle,
    places: Vec<Place>,
    blob: &Descriptor,
    doing: &str,
    begun: Option<Begun<'_>>,
    sink: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let local = |source| Error::Local { doing: doing.to_owned(), source };
    let (sender, mut chunks) = mpsc::channel::<Bytes>(CHANNEL_CHUNKS);
    let offset = begun.as_ref().map_or(0, |(bytes, _)| *bytes);
    let task = runtime.spawn(download(places, blob.clone(), doing.to_owned(), offset, sender));
    let mut out = Hashing::new(sink);
    if let Some((_, reader)) = begun {
        catch_up(&mut out, reader).map_err(local)?;
    }
    loop {
        let taken = match runtime.block_on(async { tokio::time::timeout(SILENCE, chunks.recv()).await }) {
            Ok(Some(chunk)) => out.write_all(&chunk),
            Ok(None) => break,
            // It may have no use for the rest any more.
            Err(_) => out.flush(),
        };
        if let Err(e) = taken {
            task.abort();
            return Err(local(e));
        }
    }
    runtime.block_on(task).map_err(|e| Error::Setup(std::io::Error::other(e)))??;
    let (sink, digest, size) = out.finish();
    if digest != blob.digest || size != blob.size {
        return Err(Error::Corrupt {
            doing: doing.to_owned(),
            why: format!("`{}` of {} bytes came as `{digest}` of {size} bytes", blob.digest, blob.size),
        });
    }
    sink.flush().map_err(local)
}

fn catch_up<T>(out: &mut Hashing<T>, reader: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => out.catch_up(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// How far a download is.
struct Progress {
    sender: mpsc::Sender<Bytes>,
    /// Bytes that the caller has.
    offset: u64,
    /// Whether asking for a part of the blob is worth a try.
    ranges: bool,
}

async fn download(
    places: Vec<Place>,
    blob: Descriptor,
    doing: String,
    offset: u64,
    sender: mpsc::Sender<Bytes>,
) -> Result<(), Error> {
    let mut progress = Progress { sender, offset, ranges: true };
    let mut last = None;
    for place in places {
        let retry = place.retry();
        let mut failures = 0;
        loop {
            let before = progress.offset;
            let error = match part(&place, &blob, &doing, &mut progress).await {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            if error.status() == Some(StatusCode::RANGE_NOT_SATISFIABLE.as_u16()) && progress.ranges {
                progress.ranges = false;
                continue;
            }
            if progress.offset - before >= PROGRESS_BYTES {
                failures = 0;
            }
            failures += 1;
            if !retry.again(failures, &error) {
                tracing::info!("{error}");
                last = Some(error);
                break;
            }
            let wait = retry.wait(failures, &error);
            tracing::info!("{error}: going on at byte {} in {wait:?}", progress.offset);
            tokio::time::sleep(wait).await;
        }
    }
    Err(last.unwrap_or(Error::Unsupported { doing, why: "no registry to ask".into() }))
}

/// One try: the rest of the blob, from where the caller is.
async fn part(place: &Place, blob: &Descriptor, doing: &str, progress: &mut Progress) -> Result<(), Error> {
    if progress.offset == blob.size && blob.size > 0 {
        return Ok(());
    }
    let access = Access::pull(&place.repository);
    let path = format!("/v2/{}/blobs/{}", place.repository, blob.digest);
    let mut request = Request::new(doing, Method::GET, path, &access);
    if progress.offset > 0 && progress.ranges {
        let range = HeaderValue::from_str(&format!("bytes={}-", progress.offset));
        request.headers.extend(range.ok().map(|r| (RANGE, r)));
    }
    let mut answer = place.host.send(request).await?;
    // bytes of the answer that the caller has already
    let mut skip = progress.offset;
    if answer.status() == StatusCode::PARTIAL_CONTENT {
        let start = answer.header(CONTENT_RANGE).and_then(range_start);
        skip = match start {
            Some(start) if start <= progress.offset => progress.offset - start,
            _ => return Err(answer.broken("the part that it sent is not the one that was asked for")),
        };
    }
    let first = progress.offset - skip;
    if answer.length().is_some_and(|n| n > blob.size.saturating_sub(first)) {
        return Err(too_long(doing, blob));
    }
    while let Some(mut chunk) = answer.chunk().await? {
        if skip > 0 {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            chunk = chunk.slice(known..);
        }
        if chunk.is_empty() {
            continue;
        }
        if chunk.len() as u64 > blob.size - progress.offset {
            return Err(too_long(doing, blob));
        }
        let length = chunk.len() as u64;
        if progress.sender.send(chunk).await.is_err() {
            // the caller is gone and knows why
            return Ok(());
        }
        progress.offset += length;
    }
    if progress.offset < blob.size {
        return Err(Error::Transport {
            doing: doing.to_owned(),
            host: place.host.name.clone(),
            why: format!("`{}` ended after {} of {} bytes", blob.digest, progress.offset, blob.size),
            transient: true,
        });
    }
    Ok(())
}

/// These bytes of a blob, from one place. Nothing vouches for them but what the caller knows of them.
pub(super) async fn range(place: &Place, blob: &Descriptor, range: Range<u64>, doing: &str) -> Result<Vec<u8>, Error> {
    place.retry().run(|| async { attempt(place, blob, range.clone(), doing).await }).await
}

async fn attempt(place: &Place, blob: &Descriptor, range: Range<u64>, doing: &str) -> Result<Vec<u8>, Error> {
    let wanted = range.end.saturating_sub(range.start);
    let (Some(last), true) = (range.end.checked_sub(1), wanted > 0 && range.end <= blob.size) else {
        return Err(Error::Corrupt { doing: doing.to_owned(), why: format!("`{}` has no such part", blob.digest) });
    };
    let access = Access::pull(&place.repository);
    let path = format!("/v2/{}/blobs/{}", place.repository, blob.digest);
    let mut request = Request::new(doing, Method::GET, path, &access);
    let header = HeaderValue::from_str(&format!("bytes={}-{last}", range.start));
    request.headers.extend(header.ok().map(|r| (RANGE, r)));
    let mut answer = place.host.send(request).await?;
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(Error::Unsupported { doing: doing.to_owned(), why: "the registry sends no parts of blobs".into() });
    }
    if answer.header(CONTENT_RANGE).and_then(range_start) != Some(range.start) {
        return Err(answer.broken("the part that it sent is not the one that was asked for"));
    }
    let mut bytes = vec![];
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > wanted {
            return Err(answer.broken("the part that it sent is longer than what was asked for"));
        }
    }
    if (bytes.len() as u64) < wanted {
        return Err(Error::Transport {
            doing: doing.to_owned(),
            host: place.host.name.clone(),
            why: format!("a part of `{}` ended after {} of {wanted} bytes", blob.digest, bytes.len()),
            transient: true,
        });
    }
    Ok(bytes)
}

fn too_long(doing: &str, blob: &Descriptor) -> Error {
    Error::Corrupt { doing: doing.to_owned(), why: format!("`{}` is longer than {} bytes", blob.digest, blob.size) }
}

/// The first byte's place in `bytes 5-9/10`.
fn range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}
