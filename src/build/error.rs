//! Why a build failed.

use super::shortage::{Shortage, because};
use crate::archive;
use crate::attest;
use crate::cache;
use crate::dockerfile::Span;
use crate::error::{Classified, Kind};
use crate::lint;
use crate::plan;
use crate::sandbox;
use crate::snapshot;
use crate::source;
use crate::store;
use std::path::{Path, PathBuf};

/// An error of a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile, an argument or a base image.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// The Dockerfile has what its own checks forbid.
    #[error(transparent)]
    Checks(#[from] lint::Violation),
    /// The settings of the checks cannot be read.
    #[error("{message}")]
    CheckSettings {
        /// What is wrong with them.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A layer directory.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// The step cache.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A layer of a shared cache cannot be had: the build goes back and does without.
    #[error(transparent)]
    Lost(#[from] cache::Lost),
    /// A key of the caches.
    #[error(transparent)]
    CacheKey(#[from] cache::spec::KeyError),
    /// The clients of the caches.
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    /// A base image.
    #[error(transparent)]
    Image(#[from] source::image::Error),
    /// The source policy.
    #[error(transparent)]
    Policy(#[from] source::policy::Error),
    /// The signature policy.
    #[error(transparent)]
    SignaturePolicy(#[from] source::signature_policy::Error),
    /// What `--manifest` names is an image.
    #[error("`{0}` is an image and no manifest list")]
    NoIndex(String),
    /// What is said about the image.
    #[error(transparent)]
    Attest(#[from] attest::Error),
    /// Reading or writing layers.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// COPY or ADD.
    #[error(transparent)]
    Copy(#[from] archive::copy::Error),
    /// The build context.
    #[error(transparent)]
    Context(#[from] source::Error),
    /// The sandbox of a RUN step.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// A program of another processor does not run.
    #[error(
        "cannot run programs for `{platform}` here: {message}{}",
        emulator.as_ref().map(|e| format!(" (with the emulator `{}`)", e.display())).unwrap_or_default()
    )]
    Foreign {
        /// The platform of the stage.
        platform: crate::oci::Platform,
        /// What the system said.
        message: String,
        /// The emulator that was to run it.
        emulator: Option<PathBuf>,
    },
    /// The command of a RUN step ended with another code than 0.
    #[error("process \"{command}\" did not complete successfully: exit code: {code}{}", because(.shortage))]
    RunFailed {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
        /// A limit of the pod that was reached meanwhile.
        shortage: Option<Shortage>,
    },
    /// The store's file system is full.
    #[error("{source}{}", because(&Some(*.shortage)))]
    NoSpace {
        /// What could not be written.
        source: Box<Error>,
        /// What was needed, and what there is.
        shortage: Shortage,
    },
    /// The value of `--chmod`.
    #[error(transparent)]
    Mode(#[from] archive::copy::InvalidMode),
    /// A user or group of `USER` or `--chown`.
    #[error("{0}")]
    Ids(#[from] crate::sys::passwd::Error),
    /// A secret that a step requires, or that cannot be read.
    #[error("cannot use the secret `{id}`: {reason}")]
    Secret {
        /// Its id.
        id: String,
        /// What is wrong with it; nothing of what it holds.
        reason: String,
    },
    /// An SSH agent that a step requires, or that cannot be reached.
    #[error("cannot forward the SSH agent `{id}`: {reason}")]
    Ssh {
        /// Its id.
        id: String,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// Something that a later version does.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A step, by its instruction.
    #[error("building at STEP \"{step}\": {source}")]
    Step {
        /// The instruction.
        step: String,
        /// Where it stands.
        span: Span,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A file that the build writes or reads besides the image.
    #[error("cannot access `{}`: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A document could not be written.
    #[error("cannot write {what}: {source}")]
    Json {
        /// Which.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A file that a step read while its layer was on the way.
    #[error("`/{}`, which the step opened, could not be had from layer `{layer}`: {source}", name(path))]
    Missed {
        /// Path in the layer.
        path: PathBuf,
        /// Digest of the layer.
        layer: String,
        /// Why the layer did not come.
        source: Box<Error>,
    },
    /// A layer is not what its table of contents says.
    #[error(
        "the table of contents of layer `{layer}` does not match the layer: it is wrong about {what} of `/{}`",
        name(path)
    )]
    Table {
        /// Digest of the layer.
        layer: String,
        /// Path in the layer.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The user or a signal ended the build, or another step failed.
    #[error("cancelled")]
    Cancelled,
}

/// A path that an image brought, without control characters.
fn name(path: &Path) -> impl std::fmt::Display + use<> {
    path.display().to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>()
}

impl Error {
    /// The exit code of the RUN command that made the build fail.
    pub fn run_code(&self) -> Option<i32> {
        match self.kind() {
            Kind::RunFailed(code) => Some(code),
            _ => None,
        }
    }

    /// Whether the reason behind this error is a full file system.
    pub(super) fn is_storage_full(&self) -> bool {
        let mut at: Option<&dyn std::error::Error> = Some(self);
        while let Some(e) = at {
            if let Some(io) = e.downcast_ref::<std::io::Error>() {
                return matches!(io.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
            }
            at = e.source();
        }
        false
    }

    fn cause(&self) -> Option<&dyn Classified> {
        Some(match self {
            Error::Plan(e) => e,
            Error::Checks(e) => e,
            Error::Store(e) => e,
            Error::Snapshot(e) => e,
            Error::Cache(e) => e,
            Error::CacheKey(e) => e,
            Error::Registry(e) => e,
            Error::Image(e) => e,
            Error::Policy(e) => e,
            Error::SignaturePolicy(e) => e,
            Error::Archive(e) => e,
            Error::Attest(e) => e,
            Error::Copy(e) => e,
            Error::Context(e) => e,
            Error::Sandbox(e) => e,
            Error::Step { source, .. } | Error::NoSpace { source, .. } | Error::Missed { source, .. } => &**source,
            _ => return None,
        })
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::RunFailed { code, .. } => Kind::RunFailed(*code),
            Error::Ids(_) => Kind::NotFound,
            Error::Secret { .. } | Error::Ssh { .. } => Kind::Usage,
            Error::Unsupported { .. } | Error::Foreign { .. } => Kind::Unsupported,
            Error::CheckSettings { .. } | Error::NoIndex(_) => Kind::Usage,
            Error::File { source, .. } => crate::error::kind_of_io(source),
            Error::Json { .. } => Kind::System,
            Error::Table { .. } => Kind::Corrupt,
            Error::Cancelled => Kind::Cancelled,
            other => other.cause().map_or(Kind::System, Classified::kind),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::RunFailed { shortage: Some(shortage), .. } | Error::NoSpace { shortage, .. } => {
                Some(shortage.hint())
            }
            Error::RunFailed { code: 137, .. } => Some(
                "the command was killed: most often the memory limit (`resources.limits.memory`) was reached".into(),
            ),
            Error::Unsupported { hint, .. } | Error::Ssh { hint, .. } => Some(hint.clone()),
            Error::Secret { id, .. } => {
                Some(format!("give it with `--secret id={id},src=FILE` or `--secret id={id},env=NAME`"))
            }
            Error::Foreign { platform, .. } => {
                let name = crate::sandbox::processor(platform).unwrap_or("*");
                Some(format!(
                    "either put `qemu-{name}-static` into the builder's PATH, or name it with `--emulator` (Linux 6.7 or \
                     newer); or have an emulator registered on the node, with the flags `F` and `P`"
                ))
            }
            Error::CheckSettings { hint, .. } => hint.clone(),
            Error::Table { .. } => Some(
                "fetch the image as a whole before the build, with `rbuild pull`; whoever made it can write it anew, with \
                 `rbuild push --force-compression`"
                    .into(),
            ),
            Error::NoIndex(_) => Some("choose another name, or remove the image with `rbuild rmi`".into()),
            other => other.cause().and_then(Classified::hint),
        }
    }

    fn retryable(&self) -> bool {
        self.cause().is_some_and(Classified::retryable)
    }
}
