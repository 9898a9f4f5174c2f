//! What every error of rbuild can say of itself.
//!
//! Each module has one error enum of its own. All of them implement [`Classified`], so that the command line can turn an
//! error into an exit code and a hint without knowing the enum, and nobody ever matches on message texts.

/// The class of an error: decides the exit code, and whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line, a Dockerfile or a configuration file is wrong.
    Usage,
    /// A file, image, stage or blob that was named does not exist.
    NotFound,
    /// The kernel, the pod or a registry refused.
    Denied,
    /// Valid, but rbuild cannot do it (yet, or here).
    Unsupported,
    /// A transport failed; a retry may succeed.
    Network,
    /// Data that was read contradicts its digest, its format or itself.
    Corrupt,
    /// Somebody else holds or changed what was needed.
    Conflict,
    /// The user or a signal ended the work.
    Cancelled,
    /// Storage, inodes or memory ran out.
    Exhausted,
    /// The command of a RUN step ended with this exit code.
    RunFailed(i32),
    /// The operating system answered something unexpected.
    System,
}

/// An error that knows its class and what the user can do about it.
pub trait Classified: std::error::Error {
    /// The class of this error.
    fn kind(&self) -> Kind;

    /// What the user does next, as one sentence without a full stop; `None` where the message already says it all.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Whether the same call may succeed when it is simply made again.
    fn retryable(&self) -> bool {
        self.kind() == Kind::Network
    }
}

/// The class of an operating-system error.
pub fn kind_of_io(e: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    match e.kind() {
        E::NotFound => Kind::NotFound,
        E::PermissionDenied => Kind::Denied,
        E::StorageFull | E::QuotaExceeded | E::OutOfMemory => Kind::Exhausted,
        E::Unsupported => Kind::Unsupported,
        _ => match e.raw_os_error() {
            Some(libc::EDQUOT | libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Kind::Exhausted,
            _ => Kind::System,
        },
    }
}
