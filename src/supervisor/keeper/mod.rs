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
//! Nothing here protects anybody but the step from itself: the namespaces do that. For a process that may do everything with
//! files ([`DAC_OVERRIDE`](cap::DAC_OVERRIDE) and [`FOWNER`](cap::FOWNER)) the kernel's answer is right, and calls go on
//! unless owners are to be noted or shown. Calls of all others are judged (`judged`): the path is walked here, name by name,
//! by the owners and modes that the step sees, and the call is made here. What cannot be made for somebody else (`chdir`,
//! `execve`, `connect`, descriptors that are only a place) goes on once it was judged.
//!
//! Which credentials a process has is written on the process itself, where the kernel passes it on to its children and
//! keeps it over `execve`: the limit `RLIMIT_LOCKS`, which Linux has not used since 2.4, holds the number of an entry in
//! the list of all credentials that occurred.

mod files;
mod judged;
mod make;
mod people;
mod place;
mod policy;
mod walk;

pub use policy::{Kind, policy};

use super::ids::{Credentials, cap};
use super::owners::Owners;
use crate::archive::record::Records;
use crate::sys::arch;
use crate::sys::remote;
use crate::sys::seccomp::{Listener, Notification};
use judged::Starting;
use people::{Masks, People};
use policy::{Handlers, Table};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use walk::Passed;

/// What becomes of a call.
#[derive(Debug)]
enum Answer {
    /// The kernel makes it.
    GoOn,
    /// It is not made, and answers this.
    Value(i64),
    /// It is not made, and answers a new descriptor.
    Descriptor(OwnedFd, bool),
    /// It may take long: this is run on a thread of its own.
    Later(Later),
}

/// What a call is to be answered with, some time.
struct Later(Box<dyn FnOnce() -> Answered + Send>);

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

type Answered = Result<Answer, Errno>;

/// One call of a process of the step.
struct Call<'a> {
    notification: &'a Notification,
    pid: i32,
    compat: bool,
    /// Who the caller was when it made the call.
    who: Arc<Credentials>,
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

    /// Whether it is the call of this name.
    fn is(&self, name: &str) -> bool {
        let number = Some(self.notification.number);
        arch::syscall(name).is_some_and(|n| if self.compat { n.compat == number } else { n.native == number })
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
    /// The directory of this process's own descriptors there.
    links: Arc<OwnedFd>,
    /// The root directory of the step.
    root: Arc<OwnedFd>,
    /// The file system that it is on.
    device: (u32, u32),
    /// That of `proc`.
    proc_device: (u32, u32),
    /// Mounts whose files have owners that are not known from one step to the next: there everybody may do everything.
    shared: HashSet<u64>,
    table: Table,
    owners: Mutex<Owners>,
    people: Mutex<People>,
    /// Programs that are being started, and who they will be.
    starting: Mutex<Starting>,
    /// Directories on ways that were walked.
    passed: Mutex<Passed>,
    masks: Mutex<Masks>,
    /// The process that last asked for something with a descriptor.
    asking: Mutex<Option<(i32, OwnedFd)>>,
    /// Whether any process has changed its root directory.
    chrooted: AtomicBool,
}

/// What a keeper is made of.
pub struct Step {
    /// What the pod cannot give.
    pub kind: Kind,
    /// Who the first process is.
    pub first: Credentials,
    /// Whose files are whose.
    pub owners: Owners,
    /// A proc file system that numbers processes as this process does.
    pub proc: OwnedFd,
    /// The step's root directory, which is also this process's.
    pub root: OwnedFd,
    /// Numbers of the mounts that are shared with other steps, and can be written.
    pub shared: HashSet<u64>,
}

impl Keeper {
    /// The keeper of a step.
    ///
    /// # Errors
    /// The root directory or that of processes cannot be looked at.
    pub fn new(step: Step) -> rustix::io::Result<Keeper> {
        let Step { kind, first, owners, proc, root, shared } = step;
        let device = |fd: &OwnedFd| -> rustix::io::Result<(u32, u32)> {
            let device = rustix::fs::fstat(fd)?.st_dev;
            Ok((rustix::fs::major(device), rustix::fs::minor(device)))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let links = openat(&proc, format!("{}/fd", std::process::id()), flags, Mode::empty())?;
        Ok(Keeper {
            device: device(&root)?,
            proc_device: device(&proc)?,
            kind,
            proc,
            links: Arc::new(links),
            root: Arc::new(root),
            shared,
            table: Table::new(kind),
            owners: Mutex::new(owners),
            people: Mutex::new(People::new(first)),
            starting: Mutex::default(),
            passed: Mutex::default(),
            masks: Mutex::default(),
            asking: Mutex::default(),
            chrooted: AtomicBool::new(false),
        })
    }

    /// Answers calls until there is nobody left who could make one. The calling thread's working and root directory may be
    /// changed meanwhile: it must not share them with others (CLONE_FS).
    pub fn serve(&self, listener: &Arc<Listener>) {
        listener.take_turns();
        while self.attend(listener).is_ok() {}
    }

    /// Waits for one call and answers it.
    ///
    /// # Errors
    /// When nobody is left who could make one.
    pub fn attend(&self, listener: &Arc<Listener>) -> io::Result<()> {
        let Some(notification) = listener.next()? else { return Ok(()) };
        match self.consider(&notification) {
            Ok(Answer::Later(Later(work))) => {
                let theirs = Arc::clone(listener);
                let thread = std::thread::Builder::new().spawn(move || reply(&theirs, &notification, work()));
                if thread.is_err() {
                    listener.refuse(&notification, libc::EAGAIN);
                }
            }
            answer => reply(listener, &notification, answer),
        }
        Ok(())
    }

    fn consider(&self, notification: &Notification) -> Answered {
        let compat = notification.arch != arch::AUDIT_NATIVE;
        let handlers = self.table.handlers(compat, notification.number);
        let pid = i32::try_from(notification.pid).unwrap_or(0);
        self.settle(pid);
        let call = Call { notification, pid, compat, who: self.credentials(pid) };
        match handlers {
            Handlers { judged: Some(judged), .. } if !is_powerful(&call.who) => judged(self, &call),
            Handlers { always: Some(handler), .. } => handler(self, &call),
            Handlers { .. } => Ok(Answer::GoOn),
        }
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

/// Whether the kernel, to which everybody is root, judges right what a process does with files.
fn is_powerful(who: &Credentials) -> bool {
    who.can(cap::DAC_OVERRIDE) && who.can(cap::FOWNER)
}

fn reply(listener: &Listener, notification: &Notification, answer: Answered) {
    let answer = match answer {
        Ok(Answer::Descriptor(fd, close_on_exec)) => {
            match listener.answer_with(notification, fd.as_fd(), close_on_exec) {
                Ok(()) => return,
                Err(e) => Err(errno(e)),
            }
        }
        other => other,
    };
    match answer {
        Ok(Answer::Value(value)) => listener.answer(notification, value),
        Ok(_) => listener.go_on(notification),
        Err(e) => listener.refuse(notification, e.raw_os_error()),
    }
}
