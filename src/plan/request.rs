//! What a plan is made from.

use super::ResolvedImage;
use crate::dockerfile::{Location, Span};
use crate::error::Classified;
use crate::oci::Platform;
use std::sync::Arc;

/// Everything that decides a plan but the images.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// Text of the Dockerfile.
    pub dockerfile: String,
    /// How messages call the Dockerfile.
    pub name: String,
    /// `--build-arg NAME=VALUE`, in order. `None` where a name without a value was given that the caller's environment does
    /// not have either: the argument is unset.
    pub build_args: Vec<(String, Option<String>)>,
    /// Proxy variables of the builder's own environment that RUN steps get, unless a build argument says otherwise.
    pub proxy_env: Vec<(String, String)>,
    /// `--target`: name or number of the stage to build; the last one where not given.
    pub target: Option<String>,
    /// What the first FROM names instead of what is written there (`--from`).
    pub from: Option<String>,
    /// Whether stages before the target are built though the target does not need them.
    pub unused_stages: bool,
    /// Platform of the image.
    pub platform: Platform,
    /// Platform of the machine that builds.
    pub build_platform: Platform,
    /// `--label`: labels of the image, on top of the Dockerfile's.
    pub labels: Vec<(String, String)>,
}

impl PlanRequest {
    /// A request with only a Dockerfile, for the machine's own platform.
    pub fn new(dockerfile: impl Into<String>) -> Self {
        PlanRequest {
            dockerfile: dockerfile.into(),
            name: "Dockerfile".into(),
            build_args: vec![],
            proxy_env: vec![],
            target: None,
            from: None,
            unused_stages: false,
            platform: Platform::host(),
            build_platform: Platform::host(),
            labels: vec![],
        }
    }
}

impl PlanRequest {
    pub(super) fn location(&self, span: Span) -> Location {
        Location::new(&self.name, &self.dockerfile, span)
    }
}

/// What a resolver says when it cannot.
pub type ResolveError = Box<dyn Classified + Send + Sync>;

/// Finds images.
pub trait Resolver {
    /// The image that `reference` (as written in the Dockerfile, arguments expanded) names, for a platform. Asked once for
    /// each pair.
    ///
    /// # Errors
    ///
    /// Whatever kept it from finding the image or its config.
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError>;
}
