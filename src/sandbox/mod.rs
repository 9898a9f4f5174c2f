//! Running one command on one root file system.

mod spec;

pub use crate::sys::passwd::UserIds;
pub use crate::sys::signal::Cancel;
pub use spec::{Capability, HostEntry, Mount, MountKind, Network, PipeFile, Seccomp, Stdin, StepSpec};

use std::path::Path;
use std::time::Duration;

/// Where a piece of a step's output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a step ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exit {
    /// Exit code; 128 + the signal's number where a signal ended the command.
    pub code: i32,
    /// The signal that ended the command.
    pub signal: Option<i32>,
    /// What the step and its children used.
    pub usage: Usage,
    /// From the start of the step to its end.
    pub duration: Duration,
    /// Calls that this pod's single id made fail; empty with a range of ids.
    pub refused: Vec<RefusedCall>,
    /// What the user should know: fall-backs that change what the step sees.
    pub warnings: Vec<String>,
}

impl Exit {
    /// Whether the command ended with code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// Resources that a step used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Largest resident set of one process, in bytes.
    pub max_rss: u64,
}

/// A system call that changes ids, and that the kernel refused because the pod has one id only.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefusedCall {
    /// The call with its ids: `fchownat to 0:42`.
    pub call: String,
    /// Name of the program that made it.
    pub program: String,
}

/// A step that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The flag was raised; the step is dead.
    #[error("cancelled")]
    Cancelled,
    /// The pod does not allow what a step needs.
    #[error("cannot run a command: {message}")]
    Denied {
        /// What was refused, and by whom.
        message: String,
        /// The pod field to change.
        hint: String,
    },
    /// Setting the step up failed.
    #[error("{message}")]
    Setup {
        /// What failed, with path and system error.
        message: String,
        /// The system error.
        errno: i32,
        /// What the user does next.
        hint: Option<String>,
    },
}

impl crate::error::Classified for Error {
    fn kind(&self) -> crate::error::Kind {
        match self {
            Error::Cancelled => crate::error::Kind::Cancelled,
            Error::Denied { .. } => crate::error::Kind::Denied,
            Error::Setup { errno: 0, .. } => crate::error::Kind::Usage,
            Error::Setup { errno, .. } => crate::error::kind_of_io(&std::io::Error::from_raw_os_error(*errno)),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Cancelled => None,
            Error::Denied { hint, .. } => Some(hint.clone()),
            Error::Setup { hint, .. } => hint.clone(),
        }
    }
}

/// Runs the step and streams its output to `out`, in pieces as they come. Returns when the command ended and everything
/// that it left running is dead.
pub fn run(spec: &StepSpec, out: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<Exit, Error> {
    let _ = (spec, out);
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    Err(Error::Denied { message: "not there yet".into(), hint: String::new() })
}

/// Makes the layer of empty mount points ([`StepSpec::stub`]) in `dir`, where it is not there yet. Safe to call from
/// several processes at once.
pub fn make_stub(dir: &Path) -> std::io::Result<()> {
    let _ = dir;
    Ok(())
}

/// Replaces the process by `argv` (empty: `$SHELL`, else `/bin/sh`) in the builder's user namespace and a mount
/// namespace of its own. Returns only on failure.
pub fn unshare(argv: &[std::ffi::OsString]) -> Result<std::convert::Infallible, Error> {
    let _ = argv;
    Err(Error::Denied { message: "not there yet".into(), hint: String::new() })
}
