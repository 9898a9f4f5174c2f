//! Ids and owners of a step whose user namespace holds one id: rung 2 of the isolation ladder.
//!
//! The kernel does everything else: it resolves paths, mounts the overlay, keeps the step in its namespaces. To it every
//! process of the step is root, and every file root's. Calls that ask for ids or change them come here, through a seccomp
//! filter, and are answered from [`Owners`] and from the [`Credentials`] of each process.
//!
//! ```text
//! process of the step ── chown, stat, setuid, … ──► filter ──► keeper ──► owners by inode
//!        │                                                        └────► credentials by process
//!        └────────────── read, write, open, … ──► kernel
//! ```
//!
//! Nothing here protects anybody but the step from itself: the namespaces do that. So a call that needs no answer of ours
//! may go on although the step could change its arguments meanwhile. What is not trapped: opening files that exist, removing
//! and renaming. There a process that is not root of the step is root still.
//!
//! Which credentials a process has is written on the process itself, where the kernel passes it on to its children and
//! keeps it over `execve`: the limit `RLIMIT_LOCKS`, which Linux has not used since 2.4, holds the number of an entry in
//! the list of all credentials that occurred.

mod files;
mod make;
mod people;
mod place;
mod policy;

pub use policy::{Kind, policy};

use super::ids::Credentials;
use super::owners::Owners;
use crate::archive::record::Records;
use crate::sys::arch;
use crate::sys::remote;
use crate::sys::seccomp::{Listener, Notification};
use people::People;
use policy::Table;
use rustix::io::Errno;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What becomes of a call.
#[derive(Debug)]
enum Answer {
    /// The kernel makes it.
    GoOn,
    /// It is not made, and answers this.
    Value(i64),
    /// It is not made, and answers a new descriptor.
    Descriptor(OwnedFd, bool),
}

type Answered = Result<Answer, Errno>;

/// One call of a process of the step.
struct Call<'a> {
    notification: &'a Notification,
    pid: i32,
    compat: bool,
}

impl Call<'_> {
    fn arg(&self, index: usize) -> u64 {
        self.notification.args.get(index).copied().unwrap_or(0)
    }

    /// An argument that is an int, or an id, to the kernel.
    fn word(&self, index: usize) -> u32 {
        (self.arg(index) & 0xffff_ffff) as u32
    }

    fn int(&self, index: usize) -> i32 {
        self.word(index).cast_signed()
    }

    fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        remote::read_exact(self.pid, address, &mut bytes).map_err(errno)?;
        Ok(bytes)
    }

    fn string(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        remote::read_string(self.pid, address, limit).map_err(errno)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        remote::write(self.pid, address, bytes).map_err(errno)
    }
}

fn errno(e: io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// What is kept of a step.
pub struct Keeper {
    kind: Kind,
    /// A proc file system that numbers processes as this process does.
    proc: OwnedFd,
    /// The root directory of the step.
    root: OwnedFd,
    /// The file system that it is on.
    device: (u32, u32),
    table: Table,
    owners: Mutex<Owners>,
    people: Mutex<People>,
    /// Whether any process has changed its root directory.
    chrooted: AtomicBool,
}

impl Keeper {
    /// For a step whose first process has these credentials, and whose files have these owners. `proc` is a proc file
    /// system, `root` the step's root directory, which is also this process's.
    ///
    /// # Errors
    /// The root directory cannot be looked at.
    pub fn new(
        kind: Kind,
        first: Credentials,
        owners: Owners,
        proc: OwnedFd,
        root: OwnedFd,
    ) -> rustix::io::Result<Keeper> {
        let device = rustix::fs::fstat(&root)?.st_dev;
        Ok(Keeper {
            device: (rustix::fs::major(device), rustix::fs::minor(device)),
            kind,
            proc,
            root,
            table: Table::new(kind),
            owners: Mutex::new(owners),
            people: Mutex::new(People::new(first)),
            chrooted: AtomicBool::new(false),
        })
    }

    /// Answers calls until there is nobody left who could make one. The calling thread's working and root directory may be
    /// changed meanwhile: it must not share them with others (CLONE_FS).
    pub fn serve(&self, listener: &Listener) {
        listener.take_turns();
        while self.attend(listener).is_ok() {}
    }

    /// Waits for one call and answers it.
    ///
    /// # Errors
    /// When nobody is left who could make one.
    pub fn attend(&self, listener: &Listener) -> io::Result<()> {
        let Some(notification) = listener.next()? else { return Ok(()) };
        let answer = match self.consider(&notification) {
            Ok(Answer::Descriptor(fd, close_on_exec)) => {
                let added = listener.answer_with(&notification, std::os::fd::AsFd::as_fd(&fd), close_on_exec);
                match added {
                    Ok(()) => return Ok(()),
                    Err(e) => Err(errno(e)),
                }
            }
            other => other,
        };
        match answer {
            Ok(Answer::Value(value)) => listener.answer(&notification, value),
            Ok(_) => listener.go_on(&notification),
            Err(e) => listener.refuse(&notification, e.raw_os_error()),
        }
        Ok(())
    }

    fn consider(&self, notification: &Notification) -> Answered {
        let compat = notification.arch != arch::AUDIT_NATIVE;
        let Some(handler) = self.table.handler(compat, notification.number) else { return Ok(Answer::GoOn) };
        let pid = i32::try_from(notification.pid).unwrap_or(0);
        handler(self, &Call { notification, pid, compat })
    }

    /// Whether no file has anything to be recorded.
    pub fn is_idle(&self) -> bool {
        self.owners().is_empty()
    }

    /// The records of the step's layer: see [`Owners::records`].
    ///
    /// # Errors
    /// A file-system call fails.
    pub fn records(&self, names: BorrowedFd<'_>, view: BorrowedFd<'_>) -> rustix::io::Result<Records> {
        self.owners().records(names, view)
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn people(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
