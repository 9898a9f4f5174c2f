//! The body of an upload: from a producer's thread to the network, in chunks through a bounded channel.

use super::{pieces::Requests, transport::Flow};
use futures_util::stream;
use reqwest::Body;
use std::{
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, error::SendTimeoutError},
};
use tokio_util::bytes::{Bytes, BytesMut};

/// How often whoever waits looks whether it is still wanted.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Bytes that go to the network at once.
pub(super) const CHUNK_BYTES: usize = 128 << 10;
/// Chunks between the producer and the network.
pub(super) const CHANNEL_CHUNKS: usize = 8;

/// Up to [`CHUNK_BYTES`] bytes; fewer only at the end.
pub(super) fn read_chunk(reader: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    while let Some(free) = chunk.get_mut(filled..).filter(|f| !f.is_empty()) {
        match reader.read(free) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    chunk.truncate(filled);
    Ok(chunk.into())
}

/// The body of a request, from a channel, watched.
pub(super) fn body_of(receiver: mpsc::Receiver<io::Result<Bytes>>, flow: Arc<Flow>) -> Body {
    Body::wrap_stream(stream::unfold((receiver, flow), |(mut receiver, flow)| async move {
        let next = match receiver.try_recv() {
            Ok(next) => Some(next),
            Err(_) => {
                flow.starve();
                receiver.recv().await
            }
        };
        match next {
            Some(chunk) => {
                flow.took();
                Some((chunk, (receiver, flow)))
            }
            None => {
                flow.done();
                None
            }
        }
    }))
}

/// The producer's end of a request's body.
pub(super) struct Pipe {
    pub(super) runtime: Handle,
    pub(super) sender: mpsc::Sender<io::Result<Bytes>>,
    /// The request ended before its body did.
    pub(super) closed: bool,
}

impl Pipe {
    /// Waits until there is room for a chunk, or `stop` says that it is not wanted any more.
    pub(super) fn send(&mut self, chunk: Bytes, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let mut chunk = Ok(chunk);
        while !stop() {
            chunk = match self.runtime.block_on(self.sender.send_timeout(chunk, TICK)) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(chunk)) => chunk,
                Err(SendTimeoutError::Closed(_)) => {
                    self.closed = true;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            };
        }
        // Not `Interrupted`: after that, writers try again.
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

/// A writer that feeds the bodies of requests.
pub(super) struct Chunks<'a> {
    pub(super) requests: Requests<'a>,
    pub(super) buffer: BytesMut,
    /// Bytes to leave out.
    pub(super) skip: u64,
    pub(super) count: u64,
    pub(super) sent: &'a (dyn Fn(u64) + Sync),
}

impl Chunks<'_> {
    fn pass_on(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK_BYTES));
            self.count += full.len() as u64;
            self.requests.take(full.freeze())?;
            (self.sent)(self.count);
        }
        Ok(())
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.skip > 0 {
            let left_out = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= left_out as u64;
            return Ok(left_out);
        }
        let free = CHUNK_BYTES.saturating_sub(self.buffer.len());
        let taken = bytes.get(..free.min(bytes.len())).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() >= CHUNK_BYTES {
            self.pass_on()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()
    }
}
