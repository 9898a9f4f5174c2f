//! Registers the emulator of a step in its user namespace's table of binary formats.

use super::super::emulator::Emulator;
use super::{Context as _, Failure};
use crate::sys::mount::{self, Attributes};
use rustix::fs::{Mode, OFlags, openat};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

/// To be called while the emulator can be seen, before the root is changed. The registration lasts as long as the table
/// that is returned.
pub(super) fn register(emulator: &Emulator) -> Result<OwnedFd, Failure> {
    let what = || "cannot mount binfmt_misc".to_owned();
    let line = emulator.registration();
    let line =
        line.ok_or_else(|| Failure::new(format!("no emulator can be at `{}`", emulator.program.display()), 0))?;
    // It is mounted nowhere: the step has no use for it.
    let table = mount::detached_filesystem("binfmt_misc", &[], Attributes::default()).context(what)?;
    let register = openat(&table, "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    match File::from(register).write_all(&line) {
        // An earlier step in the same namespace has done it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(table),
        other => {
            other.context(|| format!("cannot register the emulator `{}`", emulator.program.display())).map(|()| table)
        }
    }
}
