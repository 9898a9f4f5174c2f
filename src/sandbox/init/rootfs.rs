//! The root file system of a step: an overlay or a directory, and what every container has mounted in it.

use super::super::message::{Created, Message, Order};
use super::super::spec::{self, Unmasked};
use super::composed::Composed;
use super::proc::Proc;
use super::{Context as _, Failure, Reporter, device, mounts, proc};
use crate::snapshot::fuse;
use crate::supervisor::keeper::Kind;
use crate::supervisor::owners::Owners;
use crate::sys::fs::{Missing, exists, resolve_or_create};
use crate::sys::mount::{self, Attributes, Overlay};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// `OVL_MAX_STACK`.
const MAX_LOWERS: usize = 500;

/// The mounted root.
pub(super) struct Root {
    /// Its root directory.
    top: OwnedFd,
    /// The directory that changes end up in.
    upper: OwnedFd,
    /// The root directory again, in which nothing is mounted.
    bare: OwnedFd,
}

/// Mounts the root file system of the step. Its root directory is a mount of its own, so that it can be changed to.
pub(super) fn mount(order: &Order) -> Result<Root, Failure> {
    let (top, upper) = open(&order.step.root)?;
    let bare = match mount::copy(top.as_fd()) {
        // What is mounted in it cannot be mounted in the copy.
        Ok(bare) => bare,
        // The directory from before it was bound over itself, or, in an overlay, what hides nothing that a step can change.
        Err(e) if e.is_refused() => match &order.step.root {
            spec::Root::Directory { .. } => upper.try_clone(),
            _ => top.try_clone(),
        }
        .context(|| "cannot duplicate a descriptor".to_owned())?,
        Err(e) => return Err(e).context(|| "cannot show the root file system as it is".to_owned()),
    };
    Ok(Root { top, upper, bare })
}

/// Mounts a root file system where nobody else looks: over its own upper directory, or over itself. The answer is its root
/// directory, and the directory that changes end up in.
pub(super) fn open(root: &spec::Root) -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open =
        |path: &Path| openat(CWD, path, flags, Mode::empty()).context(|| format!("cannot open `{}`", path.display()));
    let (own, upper, work, stub) = match root {
        spec::Root::Overlay { lowers, upper, work, stub } => (lowers, upper, work, stub),
        spec::Root::Fuse { place, socket, upper } => {
            let target = open(place)?;
            fuse::mount_served(socket, target.as_fd()).map_err(|e| explain_fuse(&e))?;
            return Ok((open(place)?, open(upper)?));
        }
        spec::Root::Directory { path } => {
            let directory = open(path)?;
            mount::bind(directory.as_fd(), directory.as_fd(), true, Attributes::default())
                .context(|| format!("cannot bind `{}`", path.display()))?;
            // What the path leads to is the mount now.
            return Ok((open(path)?, directory));
        }
    };
    let place = open(upper)?;
    let mut lowers = Vec::with_capacity(own.len() + 1);
    // An image of as many layers as the kernel stacks goes without it.
    if own.len() < MAX_LOWERS {
        lowers.extend(stub.iter().cloned());
    }
    lowers.extend(own.iter().cloned());
    if lowers.len() > MAX_LOWERS {
        let message = format!("cannot stack {} layers: the kernel takes at most {MAX_LOWERS}", lowers.len());
        return Err(Failure::new(message, 0).hint("build the base image with `--squash` or with fewer steps"));
    }
    if lowers.is_empty() {
        return Err(Failure::new("cannot run a command without any layer below it, and without a stub layer", 0));
    }
    let layers = Overlay { lowers: &lowers, upper, work };
    let top = mount::overlay(&layers, place.as_fd()).map_err(|e| explain(&e, upper))?;
    Ok((top, place))
}

/// What a refused mount of an overlay in user space means.
fn explain_fuse(e: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("cannot mount an overlay in user space: {e}"), e.raw_os_error().unwrap_or(0));
    failure.hint(
        "the pod needs `/dev/fuse` with mode 0666, as device plugins give it; `--storage-driver=copy` needs no mount",
    )
}

/// What a refused overlay means.
fn explain(e: &mount::Error, upper: &Path) -> Failure {
    let failure = Failure::new(format!("cannot mount an overlay over `{}`: {e}", upper.display()), e.errno());
    let on_overlay = rustix::fs::statfs(upper).is_ok_and(|s| s.f_type == OVERLAY_MAGIC);
    if on_overlay {
        return Failure {
            message: format!(
                "cannot mount an overlay: the store lies on the pod's own root file system (`{}`), which is \
                 an overlay itself",
                upper.display()
            ),
            ..failure
        }
        .hint("mount an `emptyDir` into the pod and set `RBUILD_ROOT` to a directory in it");
    }
    match e.errno() {
        libc::EPERM | libc::EACCES => failure.hint(
            "the pod's seccomp or AppArmor profile refuses mounts: set `securityContext.seccompProfile` and \
             `securityContext.appArmorProfile` to profiles that allow mount, or to `type: Unconfined`",
        ),
        libc::ENODEV => failure.hint("the node's kernel has no overlay file system: load its module `overlay`"),
        libc::EINVAL => failure.hint(
            "the file system of the store cannot carry an overlay (it needs user extended attributes and d_type): set \
             `RBUILD_ROOT` to a directory on ext4, xfs or tmpfs; the kernel must be Linux 5.11 or newer",
        ),
        _ => failure,
    }
}

impl Root {
    /// The directory that changes end up in, and the root directory without what was mounted in it, to be used when the root
    /// has become this process's.
    pub(super) fn into_parts(self) -> (OwnedFd, OwnedFd) {
        (self.upper, self.bare)
    }

    /// The root directory.
    pub(super) fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Opens the place in the image where something is to be mounted, and makes it where it is missing.
    pub(super) fn mount_point(
        &self,
        path: &Path,
        missing: Missing,
        reporter: &mut Reporter,
    ) -> Result<OwnedFd, Failure> {
        let mut in_upper = false;
        let mut look =
            |parent: &Path| in_upper = parent.as_os_str().is_empty() || exists(self.upper.as_fd(), parent.as_os_str());
        let (fd, made) = resolve_or_create(self.top(), path, missing, &mut look)
            .context(|| format!("cannot make the mount point `{}`", path.display()))?;
        if let Some(made) = made {
            let parent = made.paths.first().and_then(|p| p.parent()).unwrap_or(Path::new("")).to_owned();
            let at = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
            let ctime = statat(&self.upper, at, AtFlags::SYMLINK_NOFOLLOW).map_or((0, 0), |s| change_time(&s));
            reporter.send(&Message::Created(Created {
                paths: made.paths,
                parent,
                parent_mtime: made.parent_mtime,
                parent_in_upper: in_upper,
                parent_ctime: ctime,
            }));
        }
        Ok(fd)
    }

    /// A directory of the root that must be one: a link there could lead a mount astray.
    pub(super) fn directory(&self, name: &str, reporter: &mut Reporter) -> Result<OwnedFd, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !exists(self.top(), OsStr::new(name)) {
            self.mount_point(Path::new(name), Missing::Directory, reporter)?;
        }
        openat(self.top(), name, flags, Mode::empty())
            .context(|| format!("cannot mount on `/{name}` of the image, which is no directory"))
    }
}

fn change_time(stat: &rustix::fs::Stat) -> (i64, i64) {
    (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0))
}

/// Mounts everything that lies over the image; the answer is [`proc::mount`]'s.
pub(super) fn populate(
    root: &Root,
    order: &Order,
    proc: &Proc,
    owners: &mut Owners,
    reporter: &mut Reporter,
) -> Result<Option<Composed>, Failure> {
    let composed = proc::mount(root, order, proc, reporter)?;
    system(root, order, reporter)?;
    let dev = device::mount(root, order, reporter)?;
    for (path, text) in [("/etc/resolv.conf", &order.resolv_conf), ("/etc/hosts", &order.hosts)] {
        let Some(text) = text else { continue };
        let target = root.mount_point(Path::new(path), Missing::File, reporter)?;
        let shown =
            device::Shown { content: text.as_bytes(), mode: 0o644, owner: None, attributes: Attributes::default() };
        device::show_file(dev.as_fd(), &shown, target.as_fd())
            .map_err(|f| Failure { message: format!("cannot mount `{path}`: {}", f.message), ..f })?;
    }
    for wanted in &order.step.devices {
        mounts::device(root, wanted, reporter)?;
    }
    for wanted in &order.step.mounts {
        let kept = (order.keeps == Kind::Ids).then_some(&mut *owners);
        mounts::further(root, wanted, kept, dev.as_fd(), reporter)?;
    }
    for path in &order.step.masked {
        mounts::mask(root, path)?;
    }
    Ok(composed)
}

/// `/sys`: the node's, for reading.
fn system(root: &Root, order: &Order, reporter: &mut Reporter) -> Result<(), Failure> {
    let target = root.directory("sys", reporter)?;
    let guarded = Attributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };
    // The kernel gives a new sysfs only to whoever owns the network namespace.
    if order.step.network == super::super::Network::None
        && mount::new_filesystem("sysfs", &[], guarded, target.as_fd()).is_ok()
    {
        return Ok(());
    }
    // With all that is mounted in it: the kernel does not let a new namespace look below.
    if mount::bind_at(CWD, OsStr::new("/sys"), target.as_fd(), true, guarded).is_ok() {
        if order.node_root {
            cover_system(root, &order.step.unmasked)?;
        }
        return Ok(());
    }
    mount::new_filesystem("tmpfs", &[("mode", "0555"), ("size", "4k")], guarded, target.as_fd())
        .context(|| "cannot mount `/sys`".to_owned())?;
    reporter.send(&Message::Warning("`/sys` is empty: the pod's cannot be shown".to_owned()));
    Ok(())
}

/// What only numbers guard, and a step's root has the node root's.
const COVERED: [&str; 5] =
    ["firmware", "devices/virtual/powercap", "kernel/debug", "kernel/security", "kernel/tracing"];

fn cover_system(root: &Root, unmasked: &Unmasked) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for name in COVERED.iter().filter(|name| !unmasked.has(&format!("/sys/{name}"))) {
        let Ok(place) = openat(root.top(), format!("sys/{name}"), flags, Mode::empty()) else { continue };
        let guarded = Attributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };
        mount::new_filesystem("tmpfs", &[("mode", "0555"), ("size", "4k")], guarded, place.as_fd())
            .context(|| format!("cannot cover `/sys/{name}`"))?;
    }
    Ok(())
}
