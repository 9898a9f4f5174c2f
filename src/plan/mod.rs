//! From a Dockerfile, arguments and base image configs to a graph of steps.
//!
//! [`plan`] is pure but for one question, which it asks through [`Resolver`]: which image is this name, and what is its
//! config?
//!
//! ```text
//! dockerfile::parse ─▶ scope: global variables ─▶ graph: stages the target needs, bases, triggers
//!                                                   └▶ stage: one pass over the instructions of each, in order
//!                                                        ├ config  ENV, LABEL, CMD, …   (values)
//!                                                        ├ run     RUN: argv, heredocs, mounts
//!                                                        └ copy    COPY, ADD: sources, destination
//! ```
//!
//! The semantics (what is expanded where, precedence of ARG and ENV, texts of the history) are BuildKit's.

mod config;
mod copy;
mod error;
mod graph;
mod request;
mod run;
mod scope;
mod stage;
mod step;
#[cfg(test)]
mod tests;
mod values;

pub use error::Error;
pub use request::{ContextId, NamedContext, PlanRequest, ResolveError, Resolver, context_name};
pub use step::{
    Base, Copy, CopyFrom, CopySource, HeredocFile, Mount, Network, Plan, ResolvedImage, Run, Stage, Step, StepId,
    StepKind,
};

use crate::dockerfile::{self, Dockerfile, Kind, Span};
use std::collections::BTreeMap;

/// The value that a global ARG of the Dockerfile has, its default with variables replaced where no build argument says
/// otherwise.
///
/// # Errors
///
/// A fault of the Dockerfile.
pub fn global_arg(request: &PlanRequest, name: &str) -> Result<Option<String>, Error> {
    let file = dockerfile::parse(&request.dockerfile, &request.name)?;
    let global = scope::global(&file, request, &scope::build_args(request))?;
    Ok(dockerfile::expand::Lookup::get(&global, name).map(|v| v.to_string()))
}

/// Works out every step of a build.
///
/// # Errors
///
/// A fault of the Dockerfile or of the arguments, with its place; what the resolver said; or an instruction that is valid
/// but not supported.
pub fn plan(request: &PlanRequest, resolver: &mut dyn Resolver) -> Result<Plan, Error> {
    let mut file = dockerfile::parse(&request.dockerfile, &request.name)?;
    frontend(&file, request)?;
    if let (Some(base), Some(first)) = (&request.from, file.stages.first_mut()) {
        first.from.base.clone_from(base);
    }
    let args = scope::build_args(request);
    let global = scope::global(&file, request, &args)?;
    let mut graph = graph::Graph::new(&file, request, resolver, &global)?;
    let target = graph.target()?;

    let mut opened = BTreeMap::new();
    let mut waiting = if request.unused_stages { (0..=target).collect() } else { vec![target] };
    while let Some(number) = waiting.pop() {
        if opened.contains_key(&number) {
            continue;
        }
        let stage = graph.open(number, &global)?;
        waiting.extend(graph.needs(number, &stage)?);
        opened.insert(number, stage);
    }

    let triggered: Vec<String> = opened
        .values()
        .flat_map(|s| &s.instructions)
        .filter_map(|(i, triggered)| match &i.kind {
            Kind::Arg(definitions) if *triggered => Some(definitions.iter().map(|d| d.name.clone())),
            _ => None,
        })
        .flatten()
        .collect();
    let unused_build_args = scope::unused(&file, request, &triggered);

    let mut builder = stage::Builder::new(graph, args, global, target);
    for (number, stage) in opened {
        builder.stage(number, stage)?;
    }
    builder.finish(unused_build_args)
}

/// Refuses a file that is written for another frontend. `BUILDKIT_SYNTAX` stands in for what the file says, and has been
/// looked at where the build arguments are.
fn frontend(file: &Dockerfile, request: &PlanRequest) -> Result<(), Error> {
    let replaced = |(name, value): &(String, Option<String>)| {
        name == "BUILDKIT_SYNTAX" && value.as_deref().is_some_and(|v| !v.is_empty())
    };
    let Some(named) = file.syntax.as_deref().filter(|named| !dockerfile::is_own_frontend(named)) else { return Ok(()) };
    if request.build_args.iter().any(replaced) {
        return Ok(());
    }
    let line = request.dockerfile.lines().position(|l| l.to_ascii_lowercase().contains("syntax")).unwrap_or(0) + 1;
    Err(Error::Unsupported {
        what: format!("the Dockerfile frontend `{named}` of `# syntax=`"),
        hint: Some(
            "rbuild runs no frontend images: leave the line out, or replace it with \
             `--build-arg BUILDKIT_SYNTAX=docker/dockerfile`"
                .into(),
        ),
        location: Box::new(request.location(Span { start: line, end: line })),
    })
}
