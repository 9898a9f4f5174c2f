//! `SOURCE_DATE_EPOCH` that names something with a time, as with BuildKit: `context`, a named context, or a stage that is
//! `FROM scratch` and one ADD from a repository or a web server.
//!
//! | what            | its time                                                              |
//! |-----------------|-----------------------------------------------------------------------|
//! | git             | of the commit                                                         |
//! | http, https     | `Last-Modified`; without one, of the newest file if it is an archive  |
//! | an archive      | of the newest file                                                    |
//! | a directory, an image | none: a warning, and the build goes on without                  |
//!
//! The name is given as the build argument, as the variable, or as the default of an ARG before the first FROM. From here on
//! it is a number everywhere: an ARG of that name has it, too.

use super::context::OpenContext;
use super::logins::Reach;
use super::request::{BuildRequest, NamedContext, TIMES};
use super::switches::{EPOCH, epoch_error};
use super::{Error, plan_request};
use crate::oci::Platform;
use crate::plan::{self, Base, ContextId, CopySource, PlanRequest, ResolveError, ResolvedImage, Resolver, StepKind};
use crate::ui::Event;
use std::sync::Arc;

/// Whether a request names a time, or something that has one.
pub(super) fn is_wanted(request: &BuildRequest) -> bool {
    request.metadata.source_date_epoch.is_some() || argument(request).is_some()
}

/// The build argument.
fn argument(request: &BuildRequest) -> Option<String> {
    let last = request.target.build_args.iter().rev().find(|(name, _)| name == EPOCH)?;
    last.1.clone().filter(|v| !v.trim().is_empty())
}

/// The request with a number in place of the name.
///
/// # Errors
/// Nothing is called so, it cannot be fetched, or its time is none that images know.
pub(super) fn settle(request: &BuildRequest, context: &OpenContext, reach: Reach<'_>) -> Result<BuildRequest, Error> {
    let mut request = request.clone();
    if request.metadata.timestamp.is_some() || request.metadata.source_date_epoch.is_some() {
        return Ok(request);
    }
    let plan = plan_request(&request, context);
    // What is wrong with the Dockerfile says its plan.
    let Some(text) = argument(&request).or_else(|| plan::global_arg(&plan, EPOCH).ok().flatten()) else {
        return Ok(request);
    };
    let name = text.trim();
    let seconds = match name.parse::<i64>() {
        _ if name.is_empty() => return Ok(request),
        Ok(seconds) => Some(seconds),
        Err(_) => of_name(name, &request, &plan, context, reach)?,
    };
    request.target.build_args.retain(|(name, _)| name != EPOCH);
    match seconds {
        Some(seconds) if !TIMES.contains(&seconds) => return Err(epoch_error(&seconds.to_string())),
        Some(_) => {}
        None => {
            let text = format!("`{EPOCH}={name}` has no effect: what it names is here, and has no time of its own");
            reach.around.sink.event(&Event::Warning { text: &text });
        }
    }
    let value = seconds.map(|s| s.to_string()).unwrap_or_default();
    request.target.build_args.push((EPOCH.into(), Some(value)));
    request.metadata.source_date_epoch = seconds;
    Ok(request)
}

fn of_name(
    name: &str,
    request: &BuildRequest,
    plan: &PlanRequest,
    context: &OpenContext,
    reach: Reach<'_>,
) -> Result<Option<i64>, Error> {
    let of = |place: &NamedContext| match OpenContext::of_place(place, reach)? {
        Some(files) => Ok(files.modified()?),
        None => Ok(None),
    };
    if name == "context" {
        return Ok(context.files.modified()?);
    }
    if let Some((id, _)) = plan.context(name, &request.platform.target) {
        return request.context.named.get(id.0).map_or(Ok(None), |(_, place)| of(place));
    }
    match source_of(name, plan)? {
        CopySource::Web { url, .. } => of(&NamedContext::Web(url)),
        CopySource::Git(url) => of(&NamedContext::Git(url)),
        _ => Ok(None),
    }
}

/// What the one ADD of a stage fetches.
fn source_of(name: &str, plan: &PlanRequest) -> Result<CopySource, Error> {
    let unfit = |why: &str| Error::Unsupported {
        what: format!("`{EPOCH}={name}`: {why}"),
        hint:
            "name a stage of `FROM scratch` and one ADD of a git or web address, a build context, `context`, or seconds"
                .into(),
    };
    let build_args = plan.build_args.iter().filter(|(name, _)| name != EPOCH).cloned().collect();
    let alone =
        PlanRequest { target: Some(name.to_owned()), build_args, unused_stages: false, from: None, ..plan.clone() };
    let planned = match plan::plan(&alone, &mut NoImages) {
        Ok(planned) => planned,
        Err(plan::Error::Image { .. }) => return Err(unfit("the stage does not begin with `FROM scratch`")),
        Err(plan::Error::Dockerfile(e)) => return Err(plan::Error::Dockerfile(e).into()),
        Err(e) => return Err(unfit(&e.to_string())),
    };
    let mut sources = vec![];
    for step in &planned.steps {
        match &step.kind {
            StepKind::Base(Base::Scratch) => {}
            StepKind::Base(_) => return Err(unfit("the stage does not begin with `FROM scratch`")),
            StepKind::Config if step.name.get(..4).is_some_and(|n| n.eq_ignore_ascii_case("ARG ")) => {}
            StepKind::Copy(copy) => sources.extend(copy.sources.iter().cloned()),
            _ => return Err(unfit("the stage does more than to ADD")),
        }
    }
    match sources.as_slice() {
        [source @ (CopySource::Web { .. } | CopySource::Git(_))] => Ok(source.clone()),
        _ => Err(unfit("the stage does not ADD exactly one thing, from a repository or a web server")),
    }
}

/// A stage that is asked for its time begins with nothing.
struct NoImages;

impl Resolver for NoImages {
    fn image(&mut self, _: &str, _: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        Err(Box::new(Error::Cancelled))
    }

    fn layout(&mut self, _: ContextId, _: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        Err(Box::new(Error::Cancelled))
    }
}
