//! `/dev`: a small file system in memory with the devices that every program may expect.
//!
//! Device nodes cannot be made in a user namespace; so the pod's own are bound, one by one.

use super::super::message::{Message, Order};
use super::rootfs::Root;
use super::{Context as _, Failure, Reporter};
use crate::supervisor::keeper::Kind;
use crate::sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// The devices that are bound.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Symbolic links: name, target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// As the runtimes' default.
const SIZE: (&str, &str) = ("size", "65536k");

/// Mounts `/dev` and answers its root directory.
pub(super) fn mount(root: &Root, order: &Order, reporter: &mut Reporter) -> Result<OwnedFd, Failure> {
    let target = root.directory("dev", reporter)?;
    let guarded = Attributes { no_suid: true, ..Attributes::default() };
    let dev = mount::new_filesystem("tmpfs", &[("mode", "0755"), SIZE], guarded, target.as_fd())
        .context(|| "cannot mount `/dev`".to_owned())?;
    let at = dev.as_fd();
    for name in NODES {
        let place = create(at, name, 0o666).context(|| format!("cannot make `/dev/{name}`"))?;
        let source = format!("/dev/{name}");
        mount::bind_at(CWD, OsStr::new(&source), place.as_fd(), false, Attributes::default())
            .context(|| format!("cannot show the pod's `{source}`"))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, at, name).context(|| format!("cannot make `/dev/{name}`"))?;
    }
    terminals(at, order, reporter)?;
    let shm = directory(at, "shm", 0o1777)?;
    let attributes = Attributes { no_suid: true, no_dev: true, no_exec: true, read_only: false };
    let bytes = order.step.shm_size.map(|bytes| bytes.to_string());
    let size = bytes.as_ref().map_or(SIZE, |bytes| ("size", bytes.as_str()));
    mount::new_filesystem("tmpfs", &[("mode", "1777"), size], attributes, shm.as_fd())
        .context(|| "cannot mount `/dev/shm`".to_owned())?;
    if !order.step.pipes.is_empty() {
        let pipes = directory(at, "pipes", 0o755)?;
        for pipe in &order.step.pipes {
            let what = || format!("cannot make `/dev/pipes/{}`", pipe.name);
            if pipe.name.is_empty() || pipe.name.contains('/') || pipe.name == ".." || pipe.name == "." {
                return Err(Failure::new(format!("`{}` is no file name", pipe.name), 0));
            }
            let mut file = std::fs::File::from(create(pipes.as_fd(), &pipe.name, 0o755).context(what)?);
            file.write_all(pipe.content.as_bytes()).context(what)?;
        }
    }
    Ok(dev)
}

/// `/dev/pts`: the step's own terminals.
fn terminals(at: BorrowedFd<'_>, order: &Order, reporter: &mut Reporter) -> Result<(), Failure> {
    let pts = directory(at, "pts", 0o755)?;
    let attributes = Attributes { no_suid: true, no_exec: true, ..Attributes::default() };
    // Always an instance of its own, since Linux 4.7.
    let mut options = vec![("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    if order.keeps == Kind::Ids {
        // Group `tty` does not exist here.
        options.pop();
    }
    if let Err(e) = mount::new_filesystem("devpts", &options, attributes, pts.as_fd()) {
        reporter.send(&Message::Warning(format!("`/dev/pts` is empty, so no program can open a terminal: {e}")));
    }
    Ok(())
}

/// A file to be shown, in memory.
pub(super) struct Shown<'a> {
    /// What it holds.
    pub(super) content: &'a [u8],
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner and group; `None`: root's.
    pub(super) owner: Option<(u32, u32)>,
    /// What its mount forbids.
    pub(super) attributes: Attributes,
}

/// Shows a file at `target`: one of `/dev`'s file system that has no name there any more.
pub(super) fn show_file(dev: BorrowedFd<'_>, shown: &Shown<'_>, target: BorrowedFd<'_>) -> Result<(), Failure> {
    const NAME: &str = ".shown";
    let what = || "cannot make a file in memory".to_owned();
    let mut file = std::fs::File::from(create(dev, NAME, shown.mode & 0o7777).context(what)?);
    let made = file.write_all(shown.content).context(what).and_then(|()| match shown.owner {
        // The mode once more: a change of owner takes setuid bits away.
        Some((uid, gid)) => std::os::unix::fs::fchown(&file, Some(uid), Some(gid))
            .and_then(|()| Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(shown.mode & 0o7777))?))
            .context(|| format!("cannot give a file to {uid}:{gid}")),
        None => Ok(()),
    });
    let bound = made.and_then(|()| {
        mount::bind_at(dev, OsStr::new(NAME), target, false, shown.attributes).context(|| "cannot bind".to_owned())
    });
    unlinkat(dev, NAME, AtFlags::empty()).context(what)?;
    bound
}

fn create(at: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::from_raw_mode(mode))
}

fn directory(at: BorrowedFd<'_>, name: &str, mode: u32) -> Result<OwnedFd, Failure> {
    let what = || format!("cannot make `/dev/{name}`");
    mkdirat(at, name, Mode::from_raw_mode(mode)).context(what)?;
    openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(what)
}
