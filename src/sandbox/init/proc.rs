//! `/proc` of a step.

use super::super::message::{Isolation, Order};
use super::super::spec::Unmasked;
use super::composed::{self, Composed};
use super::rootfs::Root;
use super::{Context as _, Failure, Reporter};
use crate::sys::mount::{self, Attributes};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};

/// What `/proc` will be made of.
pub(super) enum Proc {
    /// A proc file system of the step's pid namespace, not mounted yet.
    Fresh(OwnedFd),
    /// The same, mounted over `/proc` of the namespace of mounts: all that kernels before 5.2 can do.
    FreshOverOld,
    /// The pod's, in part.
    Composed,
}

/// What a container's root must not write to, or read, where it is the node's root.
const COVERED: [&str; 8] = ["acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "scsi", "sysrq-trigger"];
const READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

const GUARDED: Attributes = Attributes { read_only: false, no_suid: true, no_dev: true, no_exec: true };

/// Finds out, before anything is changed, whether a proc file system can be had; `None` where the kernel refuses it, as it
/// does where parts of the pod's own `/proc` are covered.
pub(super) fn prepare(isolation: Isolation) -> Result<Option<Proc>, Failure> {
    if isolation == Isolation::Traced {
        return Ok(Some(Proc::Composed));
    }
    let what = || "cannot make a proc file system".to_owned();
    match mount::detached_filesystem("proc", &[], GUARDED) {
        Ok(fd) => Ok(Some(Proc::Fresh(fd))),
        Err(e) if e.call == "fsopen" && e.is_refused() => {
            let place = openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
            match mount::new_filesystem("proc", &[], GUARDED, place.as_fd()) {
                Ok(_) => Ok(Some(Proc::FreshOverOld)),
                Err(e) if e.errno() == libc::EPERM => Ok(None),
                Err(e) => Err(e).context(what),
            }
        }
        Err(e) if e.errno() == libc::EPERM => Ok(None),
        Err(e) => Err(e).context(what),
    }
}

/// Mounts `/proc`; the answer is what has to be kept up while the step runs.
pub(super) fn mount(
    root: &Root,
    order: &Order,
    proc: &Proc,
    reporter: &mut Reporter,
) -> Result<Option<Composed>, Failure> {
    let what = || "cannot mount `/proc`".to_owned();
    let target = root.directory("proc", reporter)?;
    match proc {
        Proc::Fresh(fd) => mount::attach(fd.as_fd(), target.as_fd()).context(what)?,
        Proc::FreshOverOld => {
            mount::bind_at(CWD, OsStr::new("/proc"), target.as_fd(), false, Attributes::default()).context(what)?;
        }
        Proc::Composed => return composed::mount(root, target.as_fd(), reporter).map(Some),
    }
    if order.node_root {
        cover(root, &order.step.unmasked)?;
    }
    Ok(None)
}

/// Root of the step is the node's root by its number: the entries of `/proc` that only numbers guard are put out of reach.
fn cover(root: &Root, unmasked: &Unmasked) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = openat(root.top(), "proc", flags | OFlags::DIRECTORY, Mode::empty())
        .context(|| "cannot open `/proc`".to_owned())?;
    let usual = |name: &&str| !unmasked.has(&format!("/proc/{name}"));
    for name in READ_ONLY.into_iter().filter(usual) {
        let Ok(entry) = openat(&proc, name, flags, Mode::empty()) else { continue };
        let attributes = Attributes { read_only: true, ..GUARDED };
        mount::bind(entry.as_fd(), entry.as_fd(), false, attributes)
            .context(|| format!("cannot make `/proc/{name}` read-only"))?;
    }
    for name in COVERED.into_iter().filter(usual) {
        let Ok(entry) = openat(&proc, name, flags, Mode::empty()) else { continue };
        let what = || format!("cannot cover `/proc/{name}`");
        let stat = rustix::fs::fstat(&entry).context(what)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
            let attributes = Attributes { read_only: true, ..GUARDED };
            mount::new_filesystem("tmpfs", &[("mode", "0555"), ("size", "4k")], attributes, entry.as_fd())
                .context(what)?;
        } else {
            mount::bind_at(CWD, OsStr::new("/dev/null"), entry.as_fd(), false, Attributes::default()).context(what)?;
        }
    }
    Ok(())
}
