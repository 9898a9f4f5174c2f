//! Standard output, which remembers that something written to it was lost.
//!
//! Progress must not end a build half-way, but a script that reads the id of the image has to learn that it did not get
//! it: what cannot be written is remembered, and the program ends with a failure. A reader that went away (a closed pipe)
//! is none.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// What became of standard output: nothing bad, or the first error and whether it is the end of all writing.
static STATE: Mutex<State> = Mutex::new(State { closed: false, lost: None });

struct State {
    closed: bool,
    lost: Option<io::Error>,
}

/// Standard output of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stdout;

impl Stdout {
    /// Says that standard output was closed when the process began: every write fails.
    pub fn declare_closed() {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    }

    /// Fails where nothing can be written.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn check() -> io::Result<()> {
        match STATE.lock().unwrap_or_else(PoisonError::into_inner).closed {
            true => Err(io::Error::other("it is closed")),
            false => Ok(()),
        }
    }

    /// The first error that lost something, if one did.
    pub fn lost() -> Option<io::Error> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).lost.take()
    }

    fn remember<T>(result: io::Result<T>) -> io::Result<T> {
        if let Err(e) = &result
            && !matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted)
        {
            let again = e.raw_os_error().map_or_else(|| io::Error::other(e.to_string()), io::Error::from_raw_os_error);
            STATE.lock().unwrap_or_else(PoisonError::into_inner).lost.get_or_insert(again);
        }
        result
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::remember(Self::check().and_then(|()| io::stdout().write(bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::remember(io::stdout().flush())
    }
}
