//! Why there is no plan.

use super::{PlanRequest, ResolveError};
use crate::dockerfile::{self, Location, Span};
use crate::error::{Classified, Kind};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile cannot be parsed.
    #[error(transparent)]
    Dockerfile(#[from] dockerfile::Error),
    /// `--target` names no stage.
    #[error("target stage `{target}` could not be found")]
    TargetNotFound {
        /// The name.
        target: String,
        /// A name that is like it, or all of them.
        hint: Option<String>,
    },
    /// An instruction that parses but makes no sense.
    #[error("{message}: {location}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// Where.
        location: Box<Location>,
    },
    /// Valid, but not carried out.
    #[error("{what} is not supported yet: {location}")]
    Unsupported {
        /// The instruction or flag.
        what: String,
        /// What to do instead.
        hint: Option<String>,
        /// Where.
        location: Box<Location>,
    },
    /// An image could not be resolved.
    #[error("cannot resolve image `{name}`: {reason}: {location}")]
    Image {
        /// As written.
        name: String,
        /// Why.
        reason: ResolveError,
        /// A stage whose name is like it.
        near: Option<String>,
        /// Where it is used.
        location: Box<Location>,
    },
}

impl Error {
    pub(super) fn invalid(request: &PlanRequest, span: Span, message: impl Into<String>) -> Self {
        Error::Invalid { message: message.into(), hint: None, location: Box::new(request.location(span)) }
    }

    pub(super) fn unsupported(request: &PlanRequest, span: Span, what: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into(), hint: None, location: Box::new(request.location(span)) }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Dockerfile(e) => e.kind(),
            Error::TargetNotFound { .. } | Error::Invalid { .. } => Kind::Usage,
            Error::Unsupported { .. } => Kind::Unsupported,
            Error::Image { reason, .. } => reason.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Dockerfile(e) => e.hint(),
            Error::TargetNotFound { hint, .. } | Error::Invalid { hint, .. } => hint.clone(),
            Error::Unsupported { hint, .. } => hint.clone(),
            Error::Image { near: Some(near), .. } => Some(format!("did you mean the stage `{near}`?")),
            Error::Image { name, .. } if ["oci:", "dir:"].iter().any(|t| name.starts_with(t)) => {
                Some("give it a name with `--build-context NAME=oci-layout://DIR`, and write that name".into())
            }
            Error::Image { name, .. } if ["oci-archive:", "docker-archive:"].iter().any(|t| name.starts_with(t)) => {
                Some("bring it into the store with `rbuild load`, and write the name it has there".into())
            }
            Error::Image { reason, .. } => reason.hint(),
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Error::Image { reason, .. } if reason.retryable())
    }
}
