//! The threads and processes of a step, and what the supervisor keeps for each.

use super::Errno;
use super::exec::Launch;
use super::ids::Credentials;
use super::view::Dir;
use crate::sys::loader::Form;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// What threads share that were made with CLONE_FS.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// The root directory, which chroot(2) changes.
    pub(super) root: Arc<Dir>,
    /// The working directory.
    pub(super) cwd: Arc<Dir>,
    /// Mode bits that new files do not get.
    pub(super) umask: u32,
}

/// [`Surroundings`] that several threads may share.
pub(super) type Shared = Arc<Mutex<Surroundings>>;

/// A thread that is alive.
#[derive(Debug, Clone)]
pub(super) struct Thread {
    /// The process that it is of.
    pub(super) process: i32,
    /// What its paths start from.
    pub(super) surroundings: Shared,
    /// Who it is.
    pub(super) credentials: Arc<Credentials>,
    /// The directory of links to its descriptors, once it was needed.
    pub(super) descriptors: Option<Arc<OwnedFd>>,
    /// Held by all threads with the same descriptors.
    files: Arc<()>,
}

impl Thread {
    fn new(process: i32, surroundings: Shared, credentials: Arc<Credentials>) -> Thread {
        Thread { process, surroundings, credentials, descriptors: None, files: Arc::default() }
    }
}

/// A process that is alive.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// The program's path in the step, links resolved.
    pub(super) program: Vec<u8>,
    /// The program that a thread is about to start, by the thread's number.
    pub(super) launch: Option<Launch>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    threads: HashMap<i32, Thread>,
    processes: HashMap<i32, Process>,
    /// Programs that threads are about to start.
    launches: HashMap<i32, Launch>,
    /// Threads that stopped before their maker's stop told of them.
    waiting: Vec<i32>,
    /// Threads that ended before their maker's stop told of them.
    ended_early: Vec<i32>,
}

impl Tasks {
    /// Takes in the first.
    pub(super) fn first(&mut self, pid: i32, surroundings: Surroundings, credentials: Credentials) {
        let surroundings = Arc::new(Mutex::new(surroundings));
        self.threads.insert(pid, Thread::new(pid, surroundings, Arc::new(credentials)));
        self.processes.insert(pid, Process::default());
    }

    /// A thread made another with these flags of clone(2). Answers whether the new one has stopped already and waits.
    pub(super) fn made(&mut self, maker: i32, new: i32, flags: u64) -> bool {
        if let Some(at) = self.ended_early.iter().position(|tid| *tid == new) {
            self.ended_early.swap_remove(at);
            return false;
        }
        let Some(maker) = self.threads.get(&maker).cloned() else { return false };
        let thread = flags & (libc::CLONE_THREAD as u64) != 0;
        let process = if thread { maker.process } else { new };
        let surroundings = if flags & (libc::CLONE_FS as u64) != 0 {
            Arc::clone(&maker.surroundings)
        } else {
            Arc::new(Mutex::new(lock(&maker.surroundings).clone()))
        };
        if !thread {
            let program = self.processes.get(&maker.process).map(|p| p.program.clone()).unwrap_or_default();
            self.processes.insert(new, Process { program, launch: None });
        }
        let mut thread = Thread::new(process, surroundings, maker.credentials);
        if flags & (libc::CLONE_FILES as u64) != 0 {
            thread.files = maker.files;
        }
        self.threads.insert(new, thread);
        match self.waiting.iter().position(|tid| *tid == new) {
            Some(at) => {
                self.waiting.swap_remove(at);
                true
            }
            None => false,
        }
    }

    /// A thread stopped for the first time: whether it may go on, being known.
    pub(super) fn started(&mut self, tid: i32) -> bool {
        if self.threads.contains_key(&tid) {
            return true;
        }
        self.waiting.push(tid);
        false
    }

    /// A thread ended.
    pub(super) fn ended(&mut self, tid: i32) {
        self.launches.remove(&tid);
        match self.threads.remove(&tid) {
            Some(thread) => {
                if !self.threads.values().any(|other| other.process == thread.process) {
                    self.processes.remove(&thread.process);
                }
            }
            None => {
                self.waiting.retain(|other| *other != tid);
                self.ended_early.push(tid);
            }
        }
    }

    /// A thread is going to start a program.
    pub(super) fn launching(&mut self, tid: i32, launch: Launch) {
        self.launches.insert(tid, launch);
    }

    /// A thread that had the number `former` is the only one of its process now, and starts a program.
    pub(super) fn executed(&mut self, pid: i32, former: i32) -> bool {
        let Some(launch) = self.launches.remove(&former) else { return false };
        let Some(thread) = self.threads.remove(&former) else { return false };
        self.threads.retain(|_, other| other.process != pid);
        // The program has its own, whoever shared it with the process before.
        let surroundings = Arc::new(Mutex::new(lock(&thread.surroundings).clone()));
        let credentials = Arc::clone(&launch.credentials);
        self.threads.insert(pid, Thread::new(pid, surroundings, credentials));
        let process = self.processes.entry(pid).or_default();
        process.program = launch.program_path.clone();
        process.launch = Some(launch);
        true
    }

    /// The loader that a thread was told to execute.
    pub(super) fn form_of(&self, tid: i32) -> Option<Form> {
        self.launches.get(&tid).map(Launch::form)
    }

    /// Takes what a process is about to start.
    pub(super) fn take_launch(&mut self, pid: i32) -> Option<Launch> {
        self.processes.get_mut(&pid).and_then(|p| p.launch.take())
    }

    pub(super) fn thread(&self, tid: i32) -> Option<&Thread> {
        self.threads.get(&tid)
    }

    pub(super) fn process(&self, pid: i32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// The directory of links to a thread's descriptors.
    pub(super) fn descriptors(&mut self, tid: i32) -> Result<Arc<OwnedFd>, Errno> {
        let thread = self.threads.get_mut(&tid).ok_or(Errno::SRCH)?;
        if let Some(fd) = &thread.descriptors {
            return Ok(Arc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = Arc::new(openat(CWD, format!("/proc/{tid}/fd"), flags, Mode::empty())?);
        thread.descriptors = Some(Arc::clone(&fd));
        Ok(fd)
    }

    /// Whether another thread can change what a descriptor of this one is while its call is answered. A thread that gave up
    /// sharing them counts as if it had not: the kernel may have refused.
    pub(super) fn shares_descriptors(&self, tid: i32) -> bool {
        self.threads.get(&tid).is_none_or(|t| Arc::strong_count(&t.files) > 1)
    }

    /// Inodes of all sockets that the threads have open.
    pub(super) fn open_sockets(&mut self) -> HashSet<u64> {
        let threads: Vec<i32> = self.threads.keys().copied().collect();
        let mut seen = HashSet::new();
        let mut open = HashSet::new();
        for tid in threads {
            let table = self.threads.get(&tid).map(|t| Arc::as_ptr(&t.files));
            // One that gave up sharing has others, but the same mark.
            if !seen.insert((table, self.threads.get(&tid).map(|t| t.process))) {
                continue;
            }
            let Ok(links) = self.descriptors(tid) else { continue };
            let Ok(entries) = openat(&links, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            else {
                continue;
            };
            let Ok(entries) = rustix::fs::Dir::new(entries) else { continue };
            for entry in entries.flatten() {
                if let Ok(link) = readlinkat(&links, entry.file_name(), Vec::new()) {
                    open.extend(socket_inode(link.as_bytes()));
                }
            }
        }
        open
    }

    /// Who a thread is.
    pub(super) fn credentials(&self, tid: i32) -> Option<Arc<Credentials>> {
        self.threads.get(&tid).map(|t| Arc::clone(&t.credentials))
    }

    /// A thread becomes somebody else.
    pub(super) fn become_other(&mut self, tid: i32, credentials: Credentials) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.credentials = Arc::new(credentials);
        }
    }

    /// A copy of what a thread's paths start from.
    pub(super) fn surroundings(&self, tid: i32) -> Option<Surroundings> {
        self.threads.get(&tid).map(|t| lock(&t.surroundings).clone())
    }

    /// Changes what a thread's paths start from.
    pub(super) fn change<T>(&mut self, tid: i32, change: impl FnOnce(&mut Surroundings) -> T) -> Option<T> {
        self.threads.get(&tid).map(|t| change(&mut lock(&t.surroundings)))
    }

    /// No longer shares a thread's surroundings with others.
    pub(super) fn unshare(&mut self, tid: i32) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            let own = lock(&thread.surroundings).clone();
            thread.surroundings = Arc::new(Mutex::new(own));
        }
    }

    /// Numbers of all processes.
    pub(super) fn processes(&self) -> Vec<i32> {
        self.processes.keys().copied().collect()
    }

    /// Numbers of all threads.
    pub(super) fn threads(&self) -> impl Iterator<Item = i32> + '_ {
        self.threads.keys().copied()
    }
}

/// The inode of a socket, by what the kernel says of a descriptor.
pub(super) fn socket_inode(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Surroundings> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
