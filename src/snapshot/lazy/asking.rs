//! How contents are asked for: between the file system's server, or the builder itself, and the builder.
//!
//! Whoever asks makes a pair of sockets, writes the file's inode number into one and sends the other end over the one socket that
//! all share. The answer is a descriptor on that pair; its end without one means that the contents cannot be had.

use crate::archive::layer::Contents;
use crate::sys::process::{await_descriptor, send_descriptor};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The end that asks.
#[derive(Debug, Clone)]
pub struct Asking(Arc<UnixStream>);

/// The end that answers. Dropping it refuses whatever is asked, now and later.
#[derive(Debug)]
pub struct Answering(UnixStream);

/// Ends [`serve`] when it is dropped.
#[derive(Debug)]
pub struct Stopper(UnixStream);

impl Asking {
    /// Both ends.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn pair() -> io::Result<(Asking, Answering)> {
        let (asking, answering) = UnixStream::pair()?;
        Ok((Asking(Arc::new(asking)), Answering(answering)))
    }

    /// The end that this process was started with.
    pub(in crate::snapshot) fn inherited(fd: OwnedFd) -> Asking {
        Asking(Arc::new(fd.into()))
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Contents for Asking {
    fn open(&self, ino: u64) -> io::Result<File> {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.write_all(&ino.to_le_bytes())?;
        send_descriptor(&self.0, theirs.as_fd())?;
        drop(theirs);
        match awaited(&ours)? {
            Some(fd) => Ok(fd.into()),
            None => Err(Errno::IO.into()),
        }
    }
}

impl Answering {
    /// What ends [`serve`], from another thread.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn stopper(&self) -> io::Result<Stopper> {
        Ok(Stopper(self.0.try_clone()?))
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Answers, each question on a thread of its own, until nobody can ask any more or it is stopped. `refused` hears of each
/// question that has no answer, though whoever asked may still be there.
pub fn serve(answering: Answering, contents: &(dyn Fn(u64) -> io::Result<File> + Sync), refused: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        loop {
            let fd = match awaited(&answering.0) {
                Ok(Some(fd)) => fd,
                Ok(None) => break,
                Err(_) => {
                    refused();
                    break;
                }
            };
            let answer = move || {
                let mut to = UnixStream::from(fd);
                let mut ino = [0; 8];
                let asked = to.read_exact(&mut ino).and_then(|()| contents(u64::from_le_bytes(ino)));
                let sent = asked.and_then(|file| send_descriptor(&to, file.as_fd()));
                // Whoever does not wait any more has missed nothing.
                if sent.is_err_and(|e| !matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)) {
                    refused();
                }
            };
            // Without a thread the question is dropped, which is an answer.
            if std::thread::Builder::new().name("contents".into()).spawn_scoped(scope, answer).is_err() {
                refused();
            }
        }
        // Before the others are waited for: whoever is still in the queue has its answer.
        drop(answering);
    });
}

fn awaited(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    loop {
        match await_descriptor(from) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}
