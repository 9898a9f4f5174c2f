//! A `/proc` put together from the pod's, for pods whose own `/proc` is covered in part: there the kernel refuses a new proc
//! file system to every namespace below.
//!
//! Binding the pod's `/proc` into a new pid namespace would be a trap: numbers there mean other processes, and the pod's
//! processes could be read. So the step stays in the pod's pid namespace and sees this instead:
//!
//! ```text
//! /proc            a read-only view of a small tmpfs, over a tmpfs that init can write, over the pod's own proc
//!   cpuinfo …      the pod's, bound one by one: what tells of the machine, and of no process
//!   self           the pod's magic link itself, bound: it answers each process with its own number
//!   thread-self    the same
//!   mounts, net    links through self
//!   4711           the pod's /proc/4711, bound, for each process of the step and no other
//! ```
//!
//! [`Composed::add`] is called for a new process before it runs its first instruction, so `/proc/<getpid()>` is always
//! there.

use super::rootfs::Root;
use super::{Context as _, Failure, Reporter};
use crate::sandbox::message::Message;
use crate::sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, openat, statat, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Entries of the pod's `/proc` that every process of any container may read.
const HARMLESS: [&str; 18] = [
    "cgroups",
    "cmdline",
    "consoles",
    "cpuinfo",
    "crypto",
    "devices",
    "diskstats",
    "filesystems",
    "loadavg",
    "meminfo",
    "modules",
    "partitions",
    "pressure",
    "stat",
    "swaps",
    "uptime",
    "version",
    "vmstat",
];
/// Links of the real proc whose target depends on who looks.
const MAGIC: [&str; 2] = ["self", "thread-self"];
/// Links that proc itself has.
const LINKS: [(&str, &str); 2] = [("mounts", "self/mounts"), ("net", "self/net")];

const GUARDED: Attributes = Attributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };

/// The mounted `/proc`.
pub(super) struct Composed {
    /// The pod's proc, covered by the other two.
    real: OwnedFd,
    /// The tmpfs, writable.
    store: OwnedFd,
    /// The same as the step sees it.
    shown: OwnedFd,
}

/// Mounts it at `target`, the `proc` of the root.
pub(super) fn mount(root: &Root, target: BorrowedFd<'_>, reporter: &mut Reporter) -> Result<Composed, Failure> {
    let what = || "cannot put `/proc` together".to_owned();
    // With its covers: the kernel gives it in no other way. It must be mounted somewhere in this namespace as long as
    // entries are bound from it, and under the others nobody can reach it.
    mount::bind_at(CWD, OsStr::new("/proc"), target, true, Attributes::default()).context(what)?;
    let real = top(root).context(what)?;
    let writable = Attributes { read_only: false, ..GUARDED };
    let options = [("mode", "0555"), ("size", "1m"), ("nr_inodes", "100k")];
    mount::new_filesystem("tmpfs", &options, writable, real.as_fd()).context(what)?;
    let store = openat(root.top(), "proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(what)?;
    for name in HARMLESS {
        let Ok(stat) = statat(&real, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let place = create(store.as_fd(), name, directory).context(what)?;
        mount::bind_at(real.as_fd(), OsStr::new(name), place.as_fd(), false, Attributes::default())
            .context(|| format!("cannot show `/proc/{name}`"))?;
    }
    // May itself be a mount of the pod's, and hold some.
    let sys = create(store.as_fd(), "sys", true).context(what)?;
    mount::bind_at(real.as_fd(), OsStr::new("sys"), sys.as_fd(), true, GUARDED)
        .context(|| "cannot show `/proc/sys`".to_owned())?;
    for name in MAGIC {
        let place = create(store.as_fd(), name, false).context(what)?;
        let bound = mount::bind_at(real.as_fd(), OsStr::new(name), place.as_fd(), false, Attributes::default());
        if let Err(e) = bound {
            // Nothing else gives every process an answer of its own: better no name than a wrong one.
            let _ = unlinkat(&store, name, AtFlags::empty());
            reporter.send(&Message::Warning(format!("`/proc/{name}` is missing: {e}")));
        }
    }
    for (name, target) in LINKS {
        symlinkat(target, &store, name).context(what)?;
    }
    mount::bind(store.as_fd(), store.as_fd(), true, GUARDED).context(what)?;
    let shown = top(root).context(what)?;
    Ok(Composed { real, store, shown })
}

/// What is mounted on top at `/proc`.
fn top(root: &Root) -> rustix::io::Result<OwnedFd> {
    openat(root.top(), "proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn create(at: BorrowedFd<'_>, name: &str, directory: bool) -> rustix::io::Result<OwnedFd> {
    if directory {
        mkdirat(at, name, Mode::from_raw_mode(0o555))?;
        openat(at, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(at, name, flags, Mode::from_raw_mode(0o444))
    }
}

impl Composed {
    /// To be called once the root was changed: entries are removed by paths relative to the current directory, which is
    /// the only kind of path that leads here without a `/proc/self` of init's own.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(rustix::process::fchdir(&self.shown)?)
    }

    /// Shows a process.
    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        let name = pid.to_string();
        match mkdirat(&self.store, &name, Mode::from_raw_mode(0o555)) {
            Ok(()) => {}
            // The number was used before, by a process whose end has not been seen yet.
            Err(rustix::io::Errno::EXIST) => {
                let _ = mount::detach_relative(OsStr::new(&name));
            }
            Err(e) => return Err(e.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(&self.shown, &name, flags, Mode::empty())?;
        match mount::bind_at_new(self.real.as_fd(), OsStr::new(&name), place.as_fd()) {
            Err(e) if e.is_refused() => {
                // mount(2) reaches the pod's proc from inside only, and the step's by its name.
                rustix::process::fchdir(&self.real)?;
                let bound = mount::bind_paths(&name, &format!("/proc/{name}"));
                self.enter()?;
                bound.map_err(|e| e.source)
            }
            other => other.map_err(|e| e.source),
        }
    }

    /// Takes a process away that has ended.
    pub(super) fn remove(&self, pid: i32) {
        let name = pid.to_string();
        let _ = mount::detach_relative(OsStr::new(&name));
        let _ = unlinkat(&self.store, &name, AtFlags::REMOVEDIR);
    }

    /// The pod's own proc.
    pub(super) fn real(&self) -> io::Result<OwnedFd> {
        self.real.try_clone()
    }

    /// The children of this process.
    pub(super) fn children(&self) -> Vec<i32> {
        let file = openat(&self.real, "thread-self/children", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let text = file.map(|f| io::read_to_string(std::fs::File::from(f)).unwrap_or_default()).unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}
