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
    /// Whether a stage starts with the labels of what it is FROM.
    pub inherit_labels: bool,
    /// `--build-context`, by name: what FROM, `COPY --from` and mounts read where they say the name. It wins over stages and
    /// images that are called so.
    pub contexts: Vec<(String, NamedContext)>,
    /// Values of `RUN --mount` that every RUN gets, in front of its own.
    pub mounts: Vec<String>,
    /// Whether `RUN --security=insecure` is allowed.
    pub allow_insecure: bool,
    /// Whether `RUN --network=host` is refused: steps have no network, and none was allowed to those that ask.
    pub forbid_network: bool,
}

/// What a name stands for that `--build-context` defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image by its reference.
    Image(String),
    /// An image that the resolver knows by the number of the context.
    Layout,
    /// Another stage of the Dockerfile.
    Stage(String),
    /// Files.
    Files,
}

/// Number of a named context in [`PlanRequest::contexts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub usize);

/// The form of a context's name in which names are compared: as for images, what Docker leaves out of a name means nothing.
/// A platform behind `::` stays.
pub fn context_name(name: &str) -> String {
    let (name, platform) = match name.split_once("::") {
        Some((name, platform)) => (name, format!("::{platform}")),
        None => (name, String::new()),
    };
    let name = name.to_lowercase();
    let name = name.strip_prefix("docker.io/").map_or(name.as_str(), |n| n.strip_prefix("library/").unwrap_or(n));
    format!("{}{platform}", name.strip_suffix(":latest").unwrap_or(name))
}

impl PlanRequest {
    /// The named context that a name means on a platform.
    pub fn context(&self, name: &str, platform: &Platform) -> Option<(ContextId, &NamedContext)> {
        if self.contexts.is_empty() {
            return None;
        }
        let called = |wanted: &str| {
            // of several with the same name the last one counts
            let found = self.contexts.iter().enumerate().rfind(|(_, (n, _))| context_name(n) == wanted);
            found.map(|(number, (_, context))| (ContextId(number), context))
        };
        called(&context_name(&format!("{name}::{platform}"))).or_else(|| called(&context_name(name)))
    }

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
            inherit_labels: true,
            contexts: vec![],
            mounts: vec![],
            allow_insecure: false,
            forbid_network: false,
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

    /// The image of a context that is [`NamedContext::Layout`], for a platform.
    ///
    /// # Errors
    ///
    /// As for [`Resolver::image`].
    fn layout(&mut self, context: ContextId, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError>;
}
