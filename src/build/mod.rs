//! Runs the graph of steps: from a [`BuildRequest`](request::BuildRequest) to an image in the store.
//!
//! ```text
//! request ─► context, Dockerfile ─► plan ─► schedule ─► execute each step ─► commit
//!                                     │                    │ key → step cache: a hit needs no file
//!                                  resolver                │ rootfs: layers fetched and extracted when first needed
//!                                                          │ sandbox or copy, then the upper directory → layer blob
//! ```
//!
//! A step never touches what is below it: it fills an upper directory of its own, which becomes one layer. Nothing is
//! named before everything behind the name is complete, so a build that fails or is killed leaves the store as it was, and
//! what it finished is found in the step cache by the next one.

pub mod checks;
mod commit;
mod copy;
mod error;
mod execute;
mod keys;
mod layers;
mod mounts;
pub mod request;
mod resolver;
mod rootfs;
mod run;
mod schedule;
mod shortage;
mod stack;
mod surroundings;

pub use commit::Built;
pub use error::Error;
pub use shortage::Shortage;

use crate::oci::{Location, Reference};
use crate::plan::{self, Plan, PlanRequest, Step, StepKind};
use crate::registry::Client;
use crate::source;
use crate::source::image::{Images, Pull};
use crate::store::Store;
use crate::sys::signal::Cancel;
use crate::ui::{Event, Outline, Sink, StageOutline, StepOutline, Verb};
use request::{BuildRequest, Context, DockerfileSource, PullPolicy};

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where images are.
    pub store: &'a Store,
    /// Where else images are.
    pub client: &'a Client,
    /// Who is told about progress.
    pub sink: &'a dyn Sink,
    /// Raised to end the build; also raised by the build itself when a step fails.
    pub cancel: &'a Cancel,
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
    let context = open_context(request)?;
    let sink = around.sink;
    sink.event(&Event::DockerfileRead { name: &context.dockerfile_name, size: context.dockerfile.len() as u64 });
    let images = Images::new(around.store, around.client, pull(request.cache.pull), sink);
    let bases = resolver::BaseImages::new(&images);
    let (plan, findings) = checks::plan(&plan_request(request, &context), &context, &mut &bases, sink)?;
    for text in &plan.warnings {
        sink.event(&Event::Warning { text });
    }
    let outline = outline(&plan, request.output.layers);
    sink.event(&Event::Planned(&outline));
    let executor = execute::Executor::new(request, around, &plan, &context, &images, &bases);
    let result = executor.and_then(|e| e.run());
    checks::show(&findings, sink);
    if !plan.unused_build_args.is_empty() && result.is_ok() {
        sink.event(&Event::UnusedBuildArgs { names: &plan.unused_build_args });
    }
    let built = result?;
    sink.event(&Event::Built { id: &built.id.hex() });
    Ok(built)
}

/// The files that a build reads.
#[derive(Debug)]
struct OpenContext {
    dockerfile: String,
    dockerfile_name: String,
    files: source::Context,
}

fn open_context(request: &BuildRequest) -> Result<OpenContext, Error> {
    let names = if request.file.containerfile { source::Names::Containerfile } else { source::Names::Dockerfile };
    let stdin_name = "-";
    if let Some((name, _)) = request.context.named.first() {
        return Err(Error::Unsupported {
            what: format!("build context `{name}`"),
            hint: "copy its files into the main context, or build it as a stage of the same Dockerfile".into(),
        });
    }
    let (context, from_stdin) = match &request.context.main {
        Context::Dir(dir) => (source::Context::open(dir)?, None),
        Context::Empty => (source::Context::empty(), None),
        Context::Stdin => match source::read_stdin(std::io::stdin().lock())? {
            source::Stdin::Dockerfile(text) => (source::Context::empty(), Some(text)),
            source::Stdin::Archive(_) => return Err(source::Error::StdinArchive.into()),
        },
    };
    let dockerfile = match (from_stdin, request.file.files.as_slice()) {
        (Some(text), []) => source::Dockerfile::from_stream(stdin_name, text),
        (_, []) => source::find_dockerfile(&context, None, names)?,
        (_, [DockerfileSource::Stdin]) => match source::read_stdin(std::io::stdin().lock())? {
            source::Stdin::Dockerfile(text) => source::Dockerfile::from_stream(stdin_name, text),
            source::Stdin::Archive(_) => return Err(source::Error::StdinArchive.into()),
        },
        (_, files) => {
            // Several files are one Dockerfile in several pieces.
            let mut pieces: Vec<source::Dockerfile> = vec![];
            for file in files {
                let DockerfileSource::Path(path) = file else { return Err(source::Error::StdinArchive.into()) };
                pieces.push(source::find_dockerfile(&context, Some(path), names)?);
            }
            let mut whole = pieces.remove(0);
            for piece in pieces {
                whole.content.push(b'\n');
                whole.content.extend(piece.content);
            }
            whole
        }
    };
    let (ignore, _) = source::find_ignore(&context, &dockerfile, request.context.ignorefile.as_deref(), names)?;
    let text = String::from_utf8_lossy(&dockerfile.content).into_owned();
    Ok(OpenContext { dockerfile: text, dockerfile_name: dockerfile.name, files: context.with_ignore(ignore) })
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
            .map(|step| StepOutline { text: step.name.clone(), verb: verb(step) })
            .collect(),
    };
    Outline {
        global_args: vec![],
        stages: plan.stages.iter().enumerate().map(stage).collect(),
        target: plan.target,
        layers,
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
