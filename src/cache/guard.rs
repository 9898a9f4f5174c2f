//! What keeps a bad cache from costing more than it is worth.
//!
//! A build spends at most [`ALLOWANCE`] on waiting for caches that do not answer as they should, all of them together. One
//! that is down is not asked again; when the allowance is spent, none is.

use super::CacheKey;
use super::backend::{Backend, Fault};
use crate::oci::Descriptor;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a build waits for caches beyond what their answers should take.
pub(super) const ALLOWANCE: Duration = Duration::from_secs(3);
/// What an answer may take without being charged.
const PROMPT: Duration = Duration::from_millis(250);
/// The longest that one question waits.
const LONGEST: Duration = Duration::from_millis(2000);

/// The time that is left, and what there is to tell.
#[derive(Debug)]
pub(super) struct Patience {
    left: Mutex<Duration>,
    news: Mutex<Vec<String>>,
    said: AtomicBool,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { left: Mutex::new(ALLOWANCE), news: Mutex::default(), said: AtomicBool::new(false) }
    }
}

impl Patience {
    /// What may still be lost.
    pub fn left(&self) -> Duration {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes off what was lost.
    pub fn charge(&self, lost: Duration) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_sub(lost);
    }

    /// Says, once, that a cache is not asked although it may answer.
    fn spent(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            self.tell("the caches are too slow to be of use, and are not asked any more".into());
        }
    }

    /// Keeps a warning until somebody shows it.
    pub fn tell(&self, text: String) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// The warnings that nobody has shown yet.
    pub fn news(&self) -> Vec<String> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A back end with what is known of its health.
pub(super) struct Guarded {
    pub backend: Arc<dyn Backend>,
    pub scope: String,
    patience: Arc<Patience>,
    /// What it is not used for any more: [`READS`], [`WRITES`]. One number, so that of several threads which find it down one
    /// is the first.
    off: AtomicU8,
    noted: AtomicBool,
}

const READS: u8 = 1;
const WRITES: u8 = 2;

impl Guarded {
    pub fn new(backend: Arc<dyn Backend>, scope: &str, patience: Arc<Patience>) -> Guarded {
        let (off, noted) = (AtomicU8::new(0), AtomicBool::new(false));
        Guarded { backend, scope: scope.to_owned(), patience, off, noted }
    }

    /// Whether it is still asked.
    pub fn readable(&self) -> bool {
        self.alive() && !self.patience.left().is_zero()
    }

    /// Whether it answered until now: what it has is worth asking for, however slow it is.
    pub fn alive(&self) -> bool {
        self.off.load(Ordering::Relaxed) & READS == 0
    }

    /// Gives it up, in silence.
    pub fn give_up(&self) {
        self.off.fetch_or(READS, Ordering::Relaxed);
    }

    /// Moves a layer. It takes as long as it takes; what a failure took is charged.
    pub fn fetch(&self, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        if !self.alive() {
            return Err(Fault::Down("it is not asked any more".into()));
        }
        let started = Instant::now();
        let fetched = self.backend.fetch(blob, to);
        if let Err(fault) = &fetched {
            let lost = started.elapsed();
            if !matches!(fault, Fault::Bad(_)) {
                self.faulted(fault);
            }
            self.patience.charge(lost);
        }
        fetched
    }

    /// Whether it is still written to.
    pub fn writable(&self) -> bool {
        self.off.load(Ordering::Relaxed) & WRITES == 0
    }

    /// Asks a question, within what time is left. `None`: it has no answer that is of use.
    pub fn ask<T>(&self, question: impl FnOnce(Duration) -> Result<T, Fault>) -> Option<T> {
        if !self.readable() {
            if self.alive() {
                self.patience.spent();
            }
            return None;
        }
        let (started, limit) = (Instant::now(), self.patience.left().min(LONGEST));
        let answer = question(limit);
        let lost = started.elapsed().saturating_sub(PROMPT);
        // Before the time is taken off: who finds none left must find out that it was this one that is down.
        if let Err(fault) = &answer {
            self.faulted(fault);
        }
        self.patience.charge(lost);
        if !self.noted.load(Ordering::Relaxed)
            && let Some(note) = self.backend.note()
            && !self.noted.swap(true, Ordering::Relaxed)
        {
            self.patience.tell(format!("cache `{}`: {note}", self.backend.name()));
        }
        answer.ok()
    }

    /// Whether it says anything at all.
    pub fn answers(&self, within: Duration) -> bool {
        self.writable() && !matches!(self.backend.lookup(&CacheKey::none(), within), Err(Fault::Down(_)))
    }

    /// Takes note of a fault of reading.
    pub fn faulted(&self, fault: &Fault) {
        self.turn_off(fault, READS, "used");
    }

    /// Takes note of a fault of writing.
    pub fn write_faulted(&self, fault: &Fault) {
        self.turn_off(fault, WRITES, "written");
    }

    /// The user is told once of a place that is down.
    fn turn_off(&self, fault: &Fault, what: u8, done: &str) {
        let name = self.backend.name();
        match fault {
            Fault::Bad(why) => self.patience.tell(format!("an entry of cache `{name}` is not {done}: {why}")),
            Fault::Refused(why) => {
                if self.off.fetch_or(what, Ordering::Relaxed) & what == 0 {
                    self.patience.tell(format!("cache `{name}` is not {done}: {why}"));
                }
            }
            Fault::Down(why) => {
                if self.off.fetch_or(READS | WRITES, Ordering::Relaxed) == 0 {
                    self.patience.tell(format!("cache `{name}` is not {done}: {why}"));
                }
            }
        }
    }
}

impl std::fmt::Debug for Guarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.backend.name())
    }
}
