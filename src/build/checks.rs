//! Checks of the Dockerfile: before every build, and in place of one.
//!
//! The plan asks for base images, and what it was told is all that the rules know of them: a check asks for nothing that a
//! build would not ask for.

use super::logins::Reach;
use super::request::BuildRequest;
use super::secrets::Secrets;
use super::{Error, OpenContext, Surroundings, plan_request, pull, resolver};
use crate::dockerfile::Location;
use crate::error::Classified;
use crate::lint::{self, Bases, Contexts, Fault, Findings, Meaning, Subject, compat, outline};
use crate::oci::Platform;
use crate::plan::{self, ContextId, Plan, PlanRequest, ResolveError, ResolvedImage, Resolver};
use crate::source::{image::Images, policy::Policy, signature_policy::SignaturePolicy};
use crate::ui::{Event, Sink};
use std::sync::Arc;

/// Passes questions on and keeps the answers.
struct Remembering<'a> {
    inner: &'a mut dyn Resolver,
    bases: Bases,
}

impl Resolver for Remembering<'_> {
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let found = self.inner.image(reference, platform)?;
        self.bases.insert((reference.to_owned(), platform.clone()), found.config.clone());
        Ok(found)
    }

    fn layout(&mut self, context: ContextId, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let found = self.inner.layout(context, platform)?;
        self.bases.insert((layout_name(context), platform.clone()), found.config.clone());
        Ok(found)
    }
}

/// How an image of a context, which need not have a name, is called among the bases.
fn layout_name(context: ContextId) -> String {
    format!("oci-layout://{}", context.0)
}

impl Contexts for PlanRequest {
    fn meaning(&self, name: &str, platform: &Platform) -> Option<Meaning> {
        let (id, context) = self.context(name, platform)?;
        Some(match context {
            plan::NamedContext::Image(reference) => Meaning::Image(reference.clone()),
            plan::NamedContext::Layout => Meaning::Image(layout_name(id)),
            plan::NamedContext::Stage(name) => Meaning::Stage(name.clone()),
            plan::NamedContext::Files => Meaning::Files,
        })
    }
}

fn subject<'a>(request: &'a PlanRequest, context: &'a OpenContext, bases: &'a Bases) -> Subject<'a> {
    Subject {
        build_args: &request.build_args,
        target: request.target.as_deref(),
        platform: request.platform.clone(),
        build_platform: request.build_platform.clone(),
        contexts: Some(request),
        ..Subject::new(&request.dockerfile, &request.name, context.files.ignore(), bases)
    }
}

/// What came of planning a build: the plan or why there is none, and the findings.
struct Looked {
    plan: Result<Plan, plan::Error>,
    findings: Findings,
    violation: Option<lint::Violation>,
}

/// Plans and checks. `whole`: without a target, stages that the build does not need are checked too.
fn look(request: &PlanRequest, context: &OpenContext, resolver: &mut dyn Resolver, whole: bool) -> Looked {
    let mut remembering = Remembering { inner: resolver, bases: Bases::new() };
    let plan = plan::plan(request, &mut remembering);
    let mut subject = subject(request, context, &remembering.bases);
    if !(whole && request.target.is_none()) {
        subject.needed = plan.as_ref().ok().map(|p| p.stages.iter().map(|s| s.index).collect());
    }
    let findings = lint::check(&subject);
    let violation = findings.violation(&subject);
    Looked { plan, findings, violation }
}

/// The plan of a build, and what is to be shown at its end.
///
/// # Errors
/// There is no plan, the settings of the checks cannot be read, or something was found where nothing may be. The findings
/// have been shown then.
pub(super) fn plan(
    request: &PlanRequest,
    context: &OpenContext,
    resolver: &mut dyn Resolver,
    sink: &dyn Sink,
) -> Result<(Plan, Findings), Error> {
    let looked = look(request, context, resolver, false);
    let failed = match (looked.plan, looked.violation, &looked.findings.fault) {
        (Err(e), ..) => Error::Plan(e),
        (Ok(_), Some(violation), _) => Error::Checks(violation),
        (Ok(_), None, Some(fault)) => Error::CheckSettings { message: fault.message.clone(), hint: fault.hint.clone() },
        (Ok(plan), None, None) => return Ok((plan, looked.findings)),
    };
    show(&looked.findings, sink);
    Err(failed)
}

/// Shows what was found, as the end of a build does.
pub(super) fn show(findings: &Findings, sink: &dyn Sink) {
    for finding in &findings.found {
        sink.event(&Event::Finding { text: &finding.line() });
    }
}

/// A Dockerfile that was read and not built.
#[derive(Debug)]
pub struct Read {
    request: PlanRequest,
    context: OpenContext,
}

impl Read {
    /// Reads the Dockerfile and the ignore file that a request names. Without surroundings they have to be in a directory,
    /// or the Dockerfile on standard input.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(request: &BuildRequest, around: Option<Surroundings<'_>>) -> Result<Read, Error> {
        let secrets = Secrets::read(&request.security.secrets)?;
        let reach = around.map(|around| Reach { around, secrets: &secrets });
        let context = OpenContext::open(request, reach)?;
        Ok(Read { request: plan_request(request, &context), context })
    }

    /// The same, with the directory in its name: for several of one name.
    pub fn below(mut self, dir: &str) -> Read {
        self.request.name = format!("{}/{}", dir.trim_end_matches('/'), self.request.name);
        self
    }

    /// How messages call the Dockerfile.
    pub fn name(&self) -> &str {
        &self.request.name
    }

    /// The text of the Dockerfile.
    pub fn text(&self) -> &str {
        &self.request.dockerfile
    }

    /// The findings of a build that only checks: base images are looked up as a build would.
    pub fn check(&self, request: &BuildRequest, around: Surroundings<'_>) -> Findings {
        let unusable = |e: &dyn Classified| Some(Fault { message: e.to_string(), hint: e.hint(), location: None });
        let (signatures, unread) = match SignaturePolicy::find(request.registry.signature_policy.as_deref()) {
            Ok(policy) => (policy, None),
            Err(e) => (SignaturePolicy::default(), unusable(&e)),
        };
        let (policy, unread) = match Policy::read(&request.target.source_policies) {
            Ok(policy) => (policy, unread),
            Err(e) => (Policy::default(), unusable(&e)),
        };
        let images = Images::new(around.store, around.client, pull(request.cache.pull), &signatures, around.sink);
        let bases = resolver::BaseImages::new(&images, &request.context.named, policy);
        let Looked { plan, mut findings, .. } = look(&self.request, &self.context, &mut &bases, true);
        findings.fault = unread.or(findings.fault);
        if let (Err(e), None) = (plan, &findings.fault) {
            findings.fault = Some(fault(e));
        }
        findings
    }

    /// The findings with what is known without any image.
    pub fn check_alone(&self) -> Findings {
        lint::check(&subject(&self.request, &self.context, &Bases::new()))
    }

    /// What the target takes.
    ///
    /// # Errors
    /// The Dockerfile cannot be parsed, or has no such target.
    pub fn outline(&self) -> Result<outline::Outline, Fault> {
        outline::outline(&subject(&self.request, &self.context, &Bases::new()))
    }

    /// The targets.
    ///
    /// # Errors
    /// The Dockerfile cannot be parsed.
    pub fn targets(&self) -> Result<Vec<outline::Target>, Fault> {
        outline::targets(&subject(&self.request, &self.context, &Bases::new()))
    }

    /// What other builders would not do as written.
    ///
    /// # Errors
    /// The Dockerfile cannot be parsed.
    pub fn compare(&self, tools: &[compat::Tool]) -> Result<Vec<compat::Conflict>, Fault> {
        compat::compare(&subject(&self.request, &self.context, &Bases::new()), tools)
    }
}

/// Why there is no plan, with the place apart from the message.
fn fault(e: plan::Error) -> Fault {
    let hint = e.hint();
    let at = |location: Box<Location>| Some(*location);
    let (message, location) = match e {
        plan::Error::Dockerfile(e) => return e.into(),
        plan::Error::Invalid { message, location, .. } => (message, at(location)),
        plan::Error::Unsupported { what, location, .. } => (format!("{what} is not supported yet"), at(location)),
        plan::Error::Image { name, reason, location, .. } => {
            (format!("cannot resolve image `{name}`: {reason}"), at(location))
        }
        other => (other.to_string(), None),
    };
    Fault { message, hint, location }
}
