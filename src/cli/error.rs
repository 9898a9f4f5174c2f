//! Errors of the command line, how they are shown, and which exit code they become.

use crate::error::{Classified, Kind, kind_of_io};
use crate::ui::Terminal;
use std::io;
use std::path::{Path, PathBuf};

/// Exit code of everything that went wrong but the command of a RUN step, as buildah has it.
pub const FAILURE: u8 = 125;

/// Why a verb could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// rbuild knows what was asked for, and cannot do it.
    #[error("{what} is not supported")]
    Unsupported {
        /// The flag, value or verb, in backticks.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A file could not be read or written.
    #[error("cannot {verb} `{}`: {source}", path.display())]
    File {
        /// `read`, `write`, …
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No place for the store.
    #[error("cannot find a place for the store: {0}")]
    NoRoot(String),
    /// Something in the store contradicts itself.
    #[error("{0}")]
    Corrupt(String),
    /// The store was checked, and has problems.
    #[error("{0}")]
    Damaged(String),
    /// A module below failed.
    #[error("{0}")]
    Failed(Box<dyn Classified + Send + Sync>),
    /// A module below failed at something that needs saying.
    #[error("{doing}: {source}")]
    While {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Box<Error>,
    },
    /// Everything was said already; only the code is left.
    #[error("exit status {0}")]
    Silent(u8),
}

impl Error {
    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::Usage { message: message.into(), hint: None }
    }

    /// A wrong command line, with advice.
    pub fn usage_hint(message: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// Something known that rbuild cannot do.
    pub fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into(), hint: hint.into() }
    }

    /// A closure for `map_err` on a file operation.
    pub fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::File { verb, path, source }
    }

    /// The same error, with what was being done in front.
    pub fn doing(self, doing: impl Into<String>) -> Error {
        match self {
            silent @ Error::Silent(_) => silent,
            source => Error::While { doing: doing.into(), source: Box::new(source) },
        }
    }

    /// The class.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Usage { .. } | Error::NoRoot(_) => Kind::Usage,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::NotFound(_) => Kind::NotFound,
            Error::File { source, .. } => kind_of_io(source),
            Error::Corrupt(_) | Error::Damaged(_) => Kind::Corrupt,
            Error::Failed(e) => e.kind(),
            Error::While { source, .. } => source.kind(),
            Error::Silent(code) => Kind::RunFailed(i32::from(*code)),
        }
    }

    /// What the user does next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } => hint.clone(),
            Error::Unsupported { hint, .. } => Some(hint.clone()),
            Error::NoRoot(_) => Some("set `RBUILD_ROOT` to a writable directory, or pass `--root DIR`".into()),
            Error::Failed(e) => e.hint(),
            Error::While { source, .. } => source.hint(),
            Error::Damaged(_) => {
                Some("`rbuild check --repair` takes away what is damaged, so that it is brought again".into())
            }
            Error::NotFound(_) | Error::File { .. } | Error::Corrupt(_) | Error::Silent(_) => None,
        }
    }

    /// buildah's exit code: that of the command of a RUN step, else 125; 128 and the signal's number where one asked us to
    /// end, whatever failed on the way.
    pub fn exit_code(&self) -> u8 {
        if let Error::Silent(code) = self {
            return *code;
        }
        if let Some(code) = signal_code() {
            return code;
        }
        match self.kind() {
            // A code that does not fit, or 0 from a command that failed in another way, must not look like success.
            Kind::RunFailed(code) => u8::try_from(code).ok().filter(|c| *c != 0).unwrap_or(FAILURE),
            _ => FAILURE,
        }
    }

    /// Shows the error the way buildah does, with the hint on a line of its own.
    pub fn show(&self, terminal: &mut Terminal) {
        if matches!(self, Error::Silent(_)) {
            return;
        }
        let text = crate::ui::shortened(&crate::ui::printable(&self.to_string()));
        terminal.err(format!("Error: {text}\n").as_bytes());
        if let Some(hint) = self.hint() {
            terminal.err(format!("hint: {hint}\n").as_bytes());
        }
    }
}

/// 128 and the number of the signal that asked this process to end, if one did.
pub fn signal_code() -> Option<u8> {
    crate::sys::signal::received().and_then(|n| u8::try_from(128 + n).ok())
}

macro_rules! from_classified {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Error {
            fn from(e: $error) -> Error {
                Error::Failed(Box::new(e))
            }
        })*
    };
}

from_classified!(
    crate::attest::Error,
    crate::build::Error,
    crate::export::Error,
    crate::registry::Error,
    crate::sandbox::Error,
    crate::sbom::Error,
    crate::snapshot::Error,
    crate::source::archives::Error,
    crate::source::image::Error,
    crate::source::signature_policy::Error,
    crate::store::Error,
    crate::sys::userns::Error,
);

impl From<crate::oci::ReferenceError> for Error {
    fn from(e: crate::oci::ReferenceError) -> Error {
        Error::usage(e.to_string())
    }
}

impl From<crate::oci::LocationError> for Error {
    fn from(e: crate::oci::LocationError) -> Error {
        match e {
            crate::oci::LocationError::Transport(t) => Error::unsupported(
                format!("transport `{t}:`"),
                "use `docker://`, `oci:`, `oci-archive:`, `docker-archive:`, `dir:`, `containers-storage:` or `docker-daemon:`",
            ),
            other => Error::usage(other.to_string()),
        }
    }
}
