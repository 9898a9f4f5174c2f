//! Whether the kernel mounts an overlay on the file system of the store, or else FUSE, found out by mounting one: in a child with a mount
//! namespace of its own, which nothing is left of.

use crate::archive::layer::FS;
use crate::store::Store;
use crate::sys::mount::{self, Overlay};
use crate::sys::process::{self, Spawn, spawn};
use crate::sys::userns::{Entered, Rung, entered};
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, openat};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The name by which the child knows itself.
const NAME: &str = "rbuild-probe";
/// Its second argument where FUSE is to be tried.
const FUSE: &str = "fuse";
/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// Why the kernel's overlay is not to be had in a store.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// The reason.
    pub overlay: String,
    /// Why rbuild's own is not to be had either, if it is not.
    pub fuse: Option<String>,
}

/// What a child tries to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Overlay,
    Fuse,
}

/// Why steps get no overlay of the kernel in this store; `None` where they do.
pub(super) fn refused(store: &Store) -> Option<Refused> {
    if !matches!(entered(), Some(Entered { rung: Rung::Pod | Rung::Range | Rung::OneId, .. })) {
        let overlay = "this pod allows no mounts".to_owned();
        return Some(Refused { overlay, fuse: Some("nor is there a way around".to_owned()) });
    }
    let overlay = overlay_refused(store)?;
    Some(Refused { overlay, fuse: fuse_refused(store) })
}

fn overlay_refused(store: &Store) -> Option<String> {
    if rustix::fs::statfs(store.root()).is_ok_and(|s| s.f_type == OVERLAY_MAGIC) {
        return Some(format!("`{}` lies on an overlay: the pod's own root file system", store.root().display()));
    }
    match probe(store, Kind::Overlay) {
        Ok(0) => None,
        Ok(errno) => {
            let e = io::Error::from_raw_os_error(errno);
            Some(format!("the kernel mounts no overlay on `{}`: {e}", store.root().display()))
        }
        Err(e) => Some(format!("cannot try to mount an overlay: {e}")),
    }
}

/// Why steps get no overlay in user space; `None` where they do.
fn fuse_refused(store: &Store) -> Option<String> {
    match rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => {}
        Err(rustix::io::Errno::NOENT) => return Some("the pod has no `/dev/fuse`".to_owned()),
        Err(e) => return Some(format!("`/dev/fuse` cannot be opened: {e}")),
    }
    match probe(store, Kind::Fuse) {
        Ok(0) => None,
        Ok(libc::EOPNOTSUPP) => Some(format!("`{}` has no `user.*` attributes", store.root().display())),
        Ok(errno) => Some(format!("FUSE cannot be mounted: {}", io::Error::from_raw_os_error(errno))),
        Err(e) => Some(format!("cannot try to mount FUSE: {e}")),
    }
}

/// The error number of a mount; 0 for none.
fn probe(store: &Store, kind: Kind) -> io::Result<i32> {
    let dir = store.temp_dir("probe").map_err(io::Error::other)?;
    for name in ["lower", FS, "work"] {
        std::fs::create_dir(dir.path().join(name))?;
    }
    let program = File::open("/proc/self/exe")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    if kind == Kind::Fuse
        && let Err(e) = rustix::fs::setxattr(dir.path(), "user.overlay.origin", b"", XattrFlags::empty())
    {
        return Ok(e.raw_os_error());
    }
    let what = if kind == Kind::Fuse { FUSE } else { "" };
    let argv = [CString::new(NAME)?, CString::new(dir.path().as_os_str().as_bytes())?, CString::new(what)?];
    let child = spawn(
        &Spawn {
            namespaces: libc::CLONE_NEWNS.unsigned_abs().into(),
            program: program.as_fd(),
            argv: &argv,
            env: &[],
            fds: &[null.as_fd(), null.as_fd(), null.as_fd()],
            own_session: false,
        },
        &mut |_| Ok(()),
    );
    match child {
        Ok(child) => Ok(process::wait(child.pid)?.0.code()),
        Err(e) => e.raw_os_error().ok_or(e),
    }
}

/// Whether this process was started to try a mount.
pub fn is_probe(argv0: Option<&OsStr>) -> bool {
    argv0 == Some(OsStr::new(NAME))
}

/// Tries the mount in the directory of the first argument. The exit code is the error number.
pub fn main() -> u8 {
    let mut arguments = std::env::args_os().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_default());
    let kind = if arguments.next().is_some_and(|what| what == FUSE) { Kind::Fuse } else { Kind::Overlay };
    let errno = try_mount(&dir, kind).err().map_or(0, |e| e.errno());
    // All error numbers of the kernel are smaller.
    u8::try_from(errno).unwrap_or(u8::MAX)
}

fn try_mount(dir: &Path, kind: Kind) -> Result<(), mount::Error> {
    mount::make_private()?;
    let refused = |e: rustix::io::Errno| mount::Error { call: "open", log: String::new(), source: e.into() };
    let (lower, upper, work) = (dir.join("lower"), dir.join(FS), dir.join("work"));
    let place = openat(CWD, &upper, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let place = place.map_err(refused)?;
    match kind {
        Kind::Overlay => {
            let layers = Overlay { lowers: &[lower], upper: &upper, work: &work };
            mount::overlay(&layers, place.as_fd()).map(drop)
        }
        Kind::Fuse => {
            let device = openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(refused)?;
            mount::fuse(device.as_fd(), place.as_fd())
        }
    }
}
