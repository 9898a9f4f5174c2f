//! Runs the graph of steps: from a [`BuildRequest`](request::BuildRequest) to an image in the store.
//!
//! ```text
//! request ─► context, Dockerfile ─► plan ─► remote sources ─► schedule ─► execute each step ─► commit
//!                                     │                                      │ key → step cache: a hit needs no file
//!                                  resolver                                  │ rootfs: layers fetched and extracted when first needed
//!                                                                            │ sandbox or copy, then the upper directory → layer blob
//! ```
//!
//! A step never touches what is below it: it fills an upper directory of its own, which becomes one layer. Nothing is
//! named before everything behind the name is complete, so a build that fails or is killed leaves the store as it was, and
//! what it finished is found in the step cache by the next one.

mod agents;
mod attest;
mod authorities;
pub mod checks;
mod coming;
mod commit;
mod context;
mod copy;
mod epoch;
mod error;
mod execute;
mod explain;
mod kept_mounts;
mod keys;
mod layers;
mod lazy;
mod logins;
mod mask;
mod mounts;
mod platforms;
mod provenance;
mod remotes;
pub mod request;
mod resolver;
mod rootfs;
mod run;
mod run_options;
mod schedule;
mod secrets;
mod shortage;
mod stack;
mod surroundings;
mod switches;

pub use coming::{Coming, Watcher};
pub use commit::Built;
pub use error::Error;
pub use shortage::Shortage;

use crate::cache::{Clients, SharedCaches, Trust};
use crate::oci::{Location, Reference};
use crate::plan::{self, Plan, PlanRequest, Step, StepKind};
use crate::registry::Client;
use crate::snapshot::Choice;
use crate::source::image::{Images, Pull};
use crate::source::signature_policy::SignaturePolicy;
use crate::store::Store;
use crate::sys::signal::Cancel;
use crate::ui::{Event, Outline, Sink, StageOutline, StepOutline, Verb, printable};
use context::OpenContext;
use logins::Reach;
use remotes::Remotes;
use request::{BuildRequest, PullPolicy};
use secrets::Secrets;
use std::sync::Arc;

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where images are.
    pub store: &'a Store,
    /// Where else images are.
    pub client: &'a Client,
    /// How steps get their root file system.
    pub driver: Choice,
    /// Who is told about progress.
    pub sink: &'a dyn Sink,
    /// Raised to end the build; also raised by the build itself when a step fails.
    pub cancel: &'a Cancel,
    /// Who is told, while later steps run, of layers that the image is certain to have.
    pub coming: Option<Watcher<'a>>,
}

/// Builds, and enters the result into the store under the names of the request. Destinations outside the store are the
/// caller's.
///
/// # Errors
/// Whatever kept the image from being built; then no name has changed.
pub fn build(request: &BuildRequest, around: Surroundings<'_>) -> Result<Built, Error> {
    let result = attempt(request, around);
    if result.is_err() {
        around.sink.event(&Event::Failed);
    }
    result
}

fn attempt(request: &BuildRequest, around: Surroundings<'_>) -> Result<Built, Error> {
    around.store.drop_leftovers()?;
    let sink = around.sink;
    let request = &switches::apply(request, sink)?;
    let secrets = Secrets::read(&request.security.secrets)?;
    let mut context = OpenContext::open(request, Some(Reach { around, secrets: &secrets }))?;
    let request = &epoch::settle(request, &context, Reach { around, secrets: &secrets })?;
    sink.event(&Event::DockerfileRead { name: &context.dockerfile_name, size: context.dockerfile.len() as u64 });
    let shared = shared_caches(request, around)?;
    let built = match platforms::is_index(request) {
        true => platforms::build(request, &mut context, (&secrets, &shared), around),
        false => one(request, &mut context, (&secrets, &shared), around, None),
    };
    if matches!(built, Err(Error::Cancelled)) || around.cancel.is_cancelled() && built.is_ok() {
        return built;
    }
    // What a failed build finished serves the next one.
    let written = shared.finish();
    around.client.warnings().iter().for_each(|text| sink.event(&Event::Warning { text }));
    let mut built = built?;
    built.elsewhere.extend(&written);
    sink.event(&Event::Built { id: &built.id.hex() });
    Ok(built)
}

/// Builds the image for one platform; `label` says which, where there are several.
fn one(
    request: &BuildRequest,
    context: &mut OpenContext,
    (secrets, shared): (&Secrets, &SharedCaches<'_>),
    around: Surroundings<'_>,
    label: Option<String>,
) -> Result<Built, Error> {
    let sink = around.sink;
    let signatures = SignaturePolicy::find(request.registry.signature_policy.as_deref())?;
    let images = Images::new(around.store, around.client, pull(request.cache.pull), &signatures, sink);
    let policy = crate::source::policy::Policy::read(&request.target.source_policies)?;
    let bases = resolver::BaseImages::new(&images, &request.context.named, policy);
    let agents = agents::Agents::open(&request.security.ssh)?;
    let (plan, findings) = checks::plan(&plan_request(request, context), context, &mut &bases, sink)?;
    for text in &plan.warnings {
        sink.event(&Event::Warning { text });
    }
    bases.check_sources(&plan)?;
    let reach = Reach { around, secrets };
    context.open_named(request, &plan, reach)?;
    let remotes = Remotes::find(&plan, reach)?;
    let outline = Outline { platform: label, ..outline(&plan, request.output.layers) };
    sink.event(&Event::Planned(&outline));
    let given = (secrets, agents, authorities::Authorities::read(&request.security.authorities)?, shared);
    let executor = execute::Executor::new(request, around, &plan, context, &remotes, (&images, &bases), given);
    let result = executor.and_then(|e| {
        let built = e.attested(e.run()?)?;
        e.keep_cache_mounts();
        Ok(built)
    });
    checks::show(&findings, sink);
    if !plan.unused_build_args.is_empty() && result.is_ok() {
        sink.event(&Event::UnusedBuildArgs { names: &plan.unused_build_args });
    }
    result
}

/// The caches that the request names.
fn shared_caches<'a>(request: &BuildRequest, around: Surroundings<'a>) -> Result<SharedCaches<'a>, Error> {
    let cache = &request.cache;
    let trust = Arc::new(Trust::read(cache.sign_key.as_deref(), &cache.verify_keys)?);
    let steps = !cache.from.is_empty() || !cache.to.is_empty();
    if !steps && cache.mounts.is_empty() {
        return Ok(SharedCaches::none(around.store, around.sink));
    }
    if steps && !request.output.layers {
        let text = "without layers of their own steps are not cached: `--cache-from` and `--cache-to` have no effect";
        around.sink.event(&Event::Warning { text });
    }
    let clients = Clients::like(around.client)?;
    let places = (&*cache.from, &*cache.to, &*cache.mounts);
    Ok(SharedCaches::new(around.store, around.sink, &clients, places, trust, cache.ttl)?)
}

fn plan_request(request: &BuildRequest, context: &OpenContext) -> PlanRequest {
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
    let proxy_env = proxies
        .iter()
        .flat_map(|n| [(*n).to_owned(), n.to_ascii_lowercase()])
        .filter_map(|n| std::env::var(&n).ok().filter(|v| !v.is_empty()).map(|v| (n, v)))
        .collect();
    PlanRequest {
        name: context.dockerfile_name.clone(),
        build_args: request.target.build_args.clone(),
        proxy_env: if request.security.http_proxy { proxy_env } else { vec![] },
        target: request.target.stage.clone(),
        from: request.target.from.clone(),
        unused_stages: !request.target.skip_unused_stages,
        platform: request.platform.target.clone(),
        build_platform: request.platform.build.clone(),
        labels: request.metadata.labels.clone(),
        inherit_labels: request.metadata.inherit_labels,
        contexts: context::for_plan(request),
        mounts: request.security.mounts.clone(),
        allow_insecure: request.security.allow_insecure,
        forbid_network: request.security.network == Some(crate::plan::Network::None) && !request.security.allow_network,
        ..PlanRequest::new(context.dockerfile.clone())
    }
}

fn pull(policy: PullPolicy) -> Pull {
    match policy {
        PullPolicy::Missing => Pull::Missing,
        PullPolicy::Always => Pull::Always,
        PullPolicy::Never => Pull::Never,
        PullPolicy::Newer => Pull::Newer,
    }
}

/// What of the plan is shown.
fn outline(plan: &Plan, layers: bool) -> Outline {
    let verb = |s: &Step| match &s.kind {
        StepKind::Base(plan::Base::Scratch) => Verb::FromScratch,
        StepKind::Base(plan::Base::Image(i)) => Verb::FromImage(i.reference.to_string()),
        StepKind::Base(plan::Base::Stage(_)) => Verb::FromStage,
        StepKind::Base(plan::Base::Files(_)) => Verb::Files,
        StepKind::Run(_) => Verb::Run,
        StepKind::Copy(_) | StepKind::Workdir { .. } => Verb::Files,
        StepKind::Config => Verb::Config,
    };
    let stage = |(i, s): (usize, &plan::Stage)| StageOutline {
        name: s.name.clone(),
        index: s.index,
        steps: plan
            .steps
            .iter()
            .filter(|step| step.stage == i)
            .map(|step| StepOutline { text: printable(&step.name), verb: verb(step) })
            .collect(),
    };
    Outline {
        global_args: vec![],
        stages: plan.stages.iter().enumerate().map(stage).collect(),
        target: plan.target,
        layers,
        platform: None,
    }
}

/// The names that the request wants in the store.
fn store_names(request: &BuildRequest) -> Vec<String> {
    let name = |r: &Reference| r.clone().with_default_registry("localhost").with_default_tag().to_string();
    request
        .output
        .destinations
        .iter()
        .filter_map(|d| match d {
            Location::Store(r) => Some(name(r)),
            _ => None,
        })
        .collect()
}
