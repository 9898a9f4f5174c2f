//! Work that several threads do piece by piece, and whose results are wanted in the order of the pieces.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError, mpsc};

/// Hands out pieces and takes results back, in order. At most some three pieces a thread are under way.
pub(super) struct Ordered<T, R> {
    pieces: mpsc::SyncSender<(u64, T)>,
    results: mpsc::Receiver<(u64, R)>,
    early: BTreeMap<u64, R>,
    put: u64,
    taken: u64,
    most: u64,
}

/// Runs `body` with `threads` threads beside it that turn pieces into results by `work`. What `state` makes is a thread's own.
///
/// # Errors
/// Those of `body`.
pub(super) fn ordered<S, T: Send, R: Send, O, E>(
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> R + Sync,
    body: impl FnOnce(&mut Ordered<T, R>) -> Result<O, E>,
) -> Result<O, E> {
    let threads = threads.clamp(1, 64);
    let (pieces, receiver) = mpsc::sync_channel::<(u64, T)>(threads);
    let (sender, results) = mpsc::channel();
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (receiver, state, work) = (&receiver, &state, &work);
            scope.spawn(move || {
                let mut own = state();
                loop {
                    let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, piece)) = next else { return };
                    if sender.send((number, work(&mut own, piece))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        // It is dropped on every way out, or the threads would wait for ever.
        let mut lane = Ordered { pieces, results, early: BTreeMap::new(), put: 0, taken: 0, most: 2 * threads as u64 };
        body(&mut lane)
    })
}

impl<T, R> Ordered<T, R> {
    /// Hands out a piece. Where many are under way it waits for the oldest result, and returns that.
    ///
    /// # Errors
    /// The threads are gone.
    pub fn put(&mut self, piece: T) -> io::Result<Option<R>> {
        self.pieces.send((self.put, piece)).map_err(|_| gone())?;
        self.put += 1;
        if self.put - self.taken > self.most { self.take() } else { Ok(None) }
    }

    /// Waits for the oldest result; `None` when all were taken.
    ///
    /// # Errors
    /// The threads are gone.
    pub fn take(&mut self) -> io::Result<Option<R>> {
        if self.taken == self.put {
            return Ok(None);
        }
        loop {
            if let Some(result) = self.early.remove(&self.taken) {
                self.taken += 1;
                return Ok(Some(result));
            }
            let (number, result) = self.results.recv().map_err(|_| gone())?;
            self.early.insert(number, result);
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "a thread that compresses is gone")
}
