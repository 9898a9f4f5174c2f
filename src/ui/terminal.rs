//! Where sinks write: a pair of streams that never fails.

use super::Stdout;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Standard output and standard error, or what stands in for them.
pub struct Terminal {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminal")
    }
}

impl Terminal {
    /// The streams of this process.
    pub fn stdio() -> Self {
        Terminal { out: Box::new(Stdout), err: Box::new(io::stderr()) }
    }

    /// Both streams go into one file, which is created, or emptied where it exists.
    ///
    /// # Errors
    /// Those of creating the file.
    pub fn logfile(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Terminal { out: Box::new(file.try_clone()?), err: Box::new(file) })
    }

    /// Nothing is seen of what is written.
    pub fn sink() -> Self {
        Terminal { out: Box::new(io::sink()), err: Box::new(io::sink()) }
    }

    /// Standard output stays, standard error goes where standard output goes.
    pub fn all_to_stdout() -> Self {
        Terminal { out: Box::new(Stdout), err: Box::new(Stdout) }
    }

    /// Both streams go to standard error.
    pub fn all_to_stderr() -> Self {
        Terminal { out: Box::new(io::stderr()), err: Box::new(io::stderr()) }
    }

    /// Writes to standard output at once. Errors (nobody reads any more) are dropped: what is shown of a build must not
    /// decide whether it succeeds. ([`Stdout`] remembers them.)
    pub fn out(&mut self, bytes: &[u8]) {
        let _ = self.out.write_all(bytes).and_then(|()| self.out.flush());
    }

    /// Writes to standard error at once; errors are dropped.
    pub fn err(&mut self, bytes: &[u8]) {
        let _ = self.err.write_all(bytes).and_then(|()| self.err.flush());
    }
}

/// Streams that end in memory: for programs that show the output themselves, and for tests.
#[derive(Clone, Debug, Default)]
pub struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// A terminal whose two streams both end in this capture.
    pub fn terminal(&self) -> Terminal {
        Terminal { out: Box::new(self.clone()), err: Box::new(self.clone()) }
    }

    /// A terminal of which only standard output ends in this capture.
    pub fn stdout_only(&self) -> Terminal {
        Terminal { out: Box::new(self.clone()), err: Box::new(io::sink()) }
    }

    /// What was written so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Capture {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
