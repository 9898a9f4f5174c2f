//! Running one command on one root file system.

pub mod agent;
mod emulator;
mod etc;
mod gate;
mod hidden;
mod init;
pub mod isolation;
mod message;
mod profile;
mod run;
mod spec;
mod stub;
mod text;
mod unshare;

pub use crate::sys::passwd::UserIds;
pub use crate::sys::signal::Cancel;
pub use emulator::{Emulator, is_foreign, processor};
pub use hidden::Hidden;
pub use init::{is_init, main as init_main};
pub use run::run;
pub use spec::{
    Capability, Device, Guard, HostEntry, Mount, MountKind, Network, PipeFile, Recorded, ResolvConf, Rlimit, Root,
    Seccomp, Stdin, StepSpec, Unmasked,
};
pub use stub::make_stub;
pub use unshare::unshare;

use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::sys::cgroup::Figures;
use crate::sys::process::Rusage;
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
    /// What was kept of the files that the step saw, for the storage driver; nothing where the step failed.
    pub records: Records,
    /// Which files of its root directory it may have changed, where a supervisor saw that.
    pub touched: Option<Touched>,
    /// What the user should know: fall-backs that change what the step sees.
    pub warnings: Vec<String>,
}

impl Usage {
    /// What the kernel says of the step's first process and of all that it waited for; better where the step had a cgroup.
    pub(crate) fn of(rusage: Rusage, cgroup: Option<Figures>) -> Usage {
        let figures = cgroup.unwrap_or_default();
        Usage {
            user: figures.cpu_user.unwrap_or(rusage.user),
            system: figures.cpu_system.unwrap_or(rusage.system),
            max_rss: rusage.max_rss,
            peak: figures.memory_peak,
            read: figures.io_read.unwrap_or(rusage.read),
            written: figures.io_written.unwrap_or(rusage.written),
        }
    }
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
    /// Most memory of all processes at once, in bytes, where the step had a cgroup of its own that counts it.
    pub peak: Option<u64>,
    /// Read from storage, in bytes.
    pub read: u64,
    /// Written to storage, in bytes.
    pub written: u64,
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
    /// The command is not in the image, or cannot be executed.
    #[error("{message}")]
    NotStarted {
        /// What is missing.
        message: String,
        /// The code that a shell would exit with: 126 or 127.
        code: i32,
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

impl Error {
    /// The same error with another text.
    #[must_use]
    pub fn map_text(self, change: impl Fn(&str) -> String) -> Error {
        match self {
            Error::NotStarted { message, code } => Error::NotStarted { message: change(&message), code },
            Error::Setup { message, errno, hint } => Error::Setup { message: change(&message), errno, hint },
            other => other,
        }
    }
}

impl crate::error::Classified for Error {
    fn kind(&self) -> crate::error::Kind {
        match self {
            Error::Cancelled => crate::error::Kind::Cancelled,
            Error::Denied { .. } => crate::error::Kind::Denied,
            Error::NotStarted { code, .. } => crate::error::Kind::RunFailed(*code),
            Error::Setup { errno: 0, .. } => crate::error::Kind::Usage,
            Error::Setup { errno, .. } => crate::error::kind_of_io(&std::io::Error::from_raw_os_error(*errno)),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Cancelled | Error::NotStarted { .. } => None,
            Error::Denied { hint, .. } => Some(hint.clone()),
            Error::Setup { hint, .. } => hint.clone(),
        }
    }
}
