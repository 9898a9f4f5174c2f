//! Whether the kernel mounts an overlay on the file system of the store, found out by mounting one: in a child with a mount
//! namespace of its own, which nothing is left of.

use crate::archive::merged::FS;
use crate::store::Store;
use crate::sys::mount::{self, Overlay};
use crate::sys::process::{self, Spawn, spawn};
use crate::sys::userns::{Entered, Rung, entered};
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The name by which the child knows itself.
const NAME: &str = "rbuild-probe";
/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// Why steps get no overlay of the kernel in this store; `None` where they do.
pub(super) fn overlay_refused(store: &Store) -> Option<String> {
    if !matches!(entered(), Some(Entered { rung: Rung::Pod | Rung::Range | Rung::OneId, .. })) {
        return Some("this pod allows no mounts".into());
    }
    if rustix::fs::statfs(store.root()).is_ok_and(|s| s.f_type == OVERLAY_MAGIC) {
        return Some(format!("`{}` lies on an overlay: the pod's own root file system", store.root().display()));
    }
    match probe(store) {
        Ok(0) => None,
        Ok(errno) => {
            let e = io::Error::from_raw_os_error(errno);
            Some(format!("the kernel mounts no overlay on `{}`: {e}", store.root().display()))
        }
        Err(e) => Some(format!("cannot try to mount an overlay: {e}")),
    }
}

/// The error number of a mount; 0 for none.
fn probe(store: &Store) -> io::Result<i32> {
    let dir = store.temp_dir("probe").map_err(io::Error::other)?;
    for name in ["lower", FS, "work"] {
        std::fs::create_dir(dir.path().join(name))?;
    }
    let program = File::open("/proc/self/exe")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let argv = [CString::new(NAME)?, CString::new(dir.path().as_os_str().as_bytes())?];
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
    let dir = PathBuf::from(std::env::args_os().nth(1).unwrap_or_default());
    let errno = try_mount(&dir).err().map_or(0, |e| e.errno());
    // All error numbers of the kernel are smaller.
    u8::try_from(errno).unwrap_or(u8::MAX)
}

fn try_mount(dir: &Path) -> Result<(), mount::Error> {
    mount::make_private()?;
    let refused = |e: rustix::io::Errno| mount::Error { call: "open", log: String::new(), source: e.into() };
    let (lower, upper, work) = (dir.join("lower"), dir.join(FS), dir.join("work"));
    let place = openat(CWD, &upper, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    mount::overlay(&Overlay { lowers: &[lower], upper: &upper, work: &work }, place.map_err(refused)?.as_fd()).map(drop)
}
