//! A command in the builder's namespaces, for looking at what the builder stores.

use super::Error;
use super::run::allowed;
use crate::sys::{mount, process};
use rustix::thread::UnshareFlags;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;

/// Replaces the process by `argv` (empty: `$SHELL`, else `/bin/sh`) in the builder's user namespace, which
/// [`userns::enter`](crate::sys::userns::enter) entered, and a mount namespace of its own. To be called while there is one
/// thread. Returns only on failure.
pub fn unshare(argv: &[OsString]) -> Result<std::convert::Infallible, Error> {
    allowed()?;
    let setup = |what: &str, e: std::io::Error| Error::Setup {
        message: format!("{what}: {e}"),
        errno: e.raw_os_error().unwrap_or(0),
        hint: None,
    };
    process::unshare(UnshareFlags::NEWNS).map_err(|e| setup("cannot make a mount namespace", e))?;
    mount::make_private().map_err(|e| setup("cannot make the mounts private", e.source))?;
    let shell = || std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| OsString::from("/bin/sh"));
    let (program, arguments) = match argv.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (shell(), &[][..]),
    };
    let shown = program.to_string_lossy();
    if CString::new(program.as_bytes()).is_err() {
        return Err(Error::NotStarted { message: format!("`{shown}` is no program name"), code: 126 });
    }
    let e = std::process::Command::new(&program).args(arguments).exec();
    let code = if e.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Error::NotStarted { message: format!("cannot execute `{shown}`: {e}"), code })
}
