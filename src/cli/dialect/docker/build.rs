//! `docker build`, `docker buildx build`, `docker image build`, `docker builder build`.

use super::Failure;
use super::annotation::annotation;
use super::build_foreign::BuildFlags;
use crate::build::request::{
    BuildRequest, CacheOptions, Context, ContextOptions, FileOptions, MetadataOptions, OutputOptions, PlatformOptions,
    ProgressOptions, ProgressStyle, PullPolicy, RegistryOptions, SecurityOptions, TargetOptions,
};
use crate::cli::build_output::{self, Output};
use crate::cli::cache_flags::CacheArgs;
use crate::cli::calls::{self, Call};
use crate::cli::compression::Wanted;
use crate::cli::foreign::Foreign;
use crate::cli::names::Naming;
use crate::cli::platform::PlatformArgs;
use crate::cli::steps::{self, CommonStepArgs};
use crate::cli::values::{self, Var};
use crate::cli::{Error, Global, attest, bud, contexts, delivery, error, foreign};
use crate::oci::{Compression, Location, ManifestFormat, Platform};
use crate::ui::{Buildkit, Classic, Event, IdForm, Quiet, Sink, Terminal, buildkit_failure};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Build an image from a Dockerfile
#[derive(Clone, Debug, clap::Args)]
pub(super) struct BuildArgs {
    /// PATH | URL | -
    pub context: Option<String>,
    /// Name of the Dockerfile
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<String>,
    /// Additional build contexts (e.g., name=path)
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Shorthand for "--call=check"
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub check: Option<bool>,
    /// Set method for evaluating build ("check", "outline", "targets")
    #[arg(long, value_name = "METHOD")]
    pub call: Option<String>,
    /// Set build-time variables
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Set target platform for build
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Vec<String>,
    /// Do not use cache when building the image
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub no_cache: Option<bool>,
    /// Do not cache specified stages
    #[arg(long, value_name = "STAGE")]
    pub no_cache_filter: Vec<String>,
    /// Caches that are shared with other builders.
    #[command(flatten)]
    pub caches: CacheArgs,
    /// Always attempt to pull all referenced images
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub pull: Option<bool>,
    /// Squash newly built layers into a single new layer
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub squash: Option<bool>,
    /// Output destination: type=image, registry, docker or oci
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// Shorthand for "--output=type=registry"
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub push: Option<bool>,
    /// Write the image ID to a file
    #[arg(long, value_name = "PATH")]
    pub iidfile: Option<PathBuf>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "PATH")]
    pub metadata_file: Option<PathBuf>,
    /// Suppress the build output and print image ID on success
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub quiet: Option<bool>,
    /// Set type of progress output: auto, plain, tty, quiet
    #[arg(long, value_name = "TYPE")]
    pub progress: Option<String>,
    /// Shorthand for "--attest=type=sbom"
    #[arg(long, value_name = "FIELDS")]
    pub sbom: Option<String>,
    /// Shorthand for "--attest=type=provenance"
    #[arg(long, value_name = "FIELDS")]
    pub provenance: Option<String>,
    /// Attestation parameters (format: "type=sbom")
    #[arg(long, value_name = "type=TYPE[,FIELDS]")]
    pub attest: Vec<String>,
    /// Set metadata for an image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Add annotation to the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// What RUN instructions get and see.
    #[command(flatten)]
    pub steps: CommonStepArgs,
    /// Set where the command was `docker buildx build`
    #[arg(long, hide = true)]
    pub buildx: bool,
    /// Everything that Docker has beyond this.
    #[command(flatten)]
    pub foreign: Foreign<BuildFlags>,
}

impl BuildArgs {
    /// The request that these flags make.
    ///
    /// # Errors
    /// Flags that contradict each other, malformed values, and what rbuild cannot do.
    pub fn lower(&self, var: &Var<'_>, warn: &mut dyn FnMut(String)) -> Result<BuildRequest, Error> {
        self.foreign.check(&mut *warn)?;
        let context = self.context.as_deref().ok_or_else(|| {
            Error::usage("'docker build' requires 1 argument\n\nUsage:  docker build [OPTIONS] PATH | URL | -")
        })?;
        let files = self.file.iter().map(|f| contexts::dockerfile_source(f)).collect::<Result<Vec<_>, _>>()?;
        let main = contexts::main_context(context)?;
        if main == Context::Stdin && self.file.as_deref() == Some("-") {
            return Err(Error::usage("invalid argument: can't use stdin for both build context and dockerfile"));
        }
        let named = self.build_context.iter().map(|c| contexts::named_context(c)).collect::<Result<_, _>>()?;
        let mut build_args: Vec<_> =
            self.build_arg.iter().map(|a| values::name_value(a, var)).collect::<Result<_, _>>()?;
        build_args.splice(0..0, bud::epoch_name(var).map(|name| ("SOURCE_DATE_EPOCH".into(), Some(name))));
        let default = var("DOCKER_DEFAULT_PLATFORM").filter(|p| !p.is_empty() && self.platform.is_empty());
        let platform = PlatformArgs::whole(self.platform.iter().cloned().chain(default));
        let explicit = platform.is_explicit();
        let platforms = platform.platforms()?;
        let output = self.output(!self.annotation.is_empty())?;
        let annotations = self.annotation.iter().map(|a| annotation(a, &platforms)).collect::<Result<Vec<_>, _>>()?;
        let mut platforms = platforms.into_iter();
        let target = platforms.next().unwrap_or_else(Platform::host);
        Ok(BuildRequest {
            context: ContextOptions { main, named, ignorefile: None },
            file: FileOptions { files, containerfile: false, ..FileOptions::default() },
            target: TargetOptions {
                stage: self.target.clone().filter(|t| !t.is_empty()),
                build_args,
                source_policies: var("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY")
                    .filter(|p| !p.is_empty())
                    .map(Into::into)
                    .into_iter()
                    .collect(),
                skip_unused_stages: true,
                ..TargetOptions::default()
            },
            platform: PlatformOptions { target, more: platforms.collect(), explicit, ..PlatformOptions::default() },
            cache: CacheOptions {
                no_cache: self.no_cache == Some(true),
                no_cache_stages: values::commas(&self.no_cache_filter),
                pull: if self.pull == Some(true) { PullPolicy::Always } else { PullPolicy::Missing },
                ttl: None,
                ..self.caches.lower(&output.destinations)?
            },
            output,
            security: SecurityOptions {
                network: self.network.as_deref().map(network).transpose()?.flatten(),
                http_proxy: true,
                ..self.steps.lower(var, warn)?
            },
            metadata: MetadataOptions {
                labels: self.label.iter().map(|l| values::label(l)).collect::<Result<_, _>>()?,
                annotations,
                created_annotation: false,
                inherit_annotations: false,
                source_date_epoch: if bud::epoch_name(var).is_none() { bud::source_date_epoch(var)? } else { None },
                ..MetadataOptions::default()
            },
            registry: RegistryOptions::default(),
            progress: self.progress(var, warn)?,
        })
    }

    fn output(&self, annotated: bool) -> Result<OutputOptions, Error> {
        let mut names = self.tag.iter().map(|t| Naming::Docker.full(t)).collect::<Result<Vec<_>, _>>()?;
        let mut push = self.push == Some(true);
        let mut stored = self.foreign.is_on("load");
        let (mut files, mut rootfs) = (vec![], vec![]);
        let mut wanted = Wanted::default();
        for output in &self.output {
            let output = Output::parse(output, Naming::Docker)?;
            if !output.names.is_empty() && !self.tag.is_empty() {
                return Err(Error::usage_hint(
                    "`name` of `--output` and `--tag` contradict each other",
                    "name the image with `--tag`, as often as it has names",
                ));
            }
            names.extend(output.names);
            push |= output.push;
            wanted = wanted.and(output.compression)?;
            // A file takes all layers, too, and the name of the image.
            stored |= output.stored || output.file.is_some();
            files.extend(output.file);
            rootfs.extend(output.rootfs);
        }
        if push && names.is_empty() {
            return Err(Error::usage_hint("tag is needed when pushing to registry", "name the image with `-t`"));
        }
        // Builders of buildx that are containers or pods keep nothing of what they push, unless `--load` or another output asks for
        // it. A name in the store would have to have every layer behind it: with all steps in a shared cache, all of the
        // image would be fetched for it.
        let mut destinations = vec![];
        if stored || !push {
            destinations.extend(names.iter().cloned().map(Location::Store));
        }
        destinations.extend(files);
        if push {
            destinations.extend(names.into_iter().map(Location::Registry));
        }
        let for_oci = !matches!(wanted.how, None | Some(Compression::None | Compression::Gzip));
        // Unlike buildx, nothing is said unless asked for: a single manifest is what other tools expect.
        let attest = attest::wanted(self.sbom.as_deref(), self.provenance.as_deref(), &self.attest)?;
        Ok(OutputOptions {
            destinations,
            rootfs,
            // Docker squashes the new layers, and leaves those of the base.
            layers: self.squash != Some(true),
            // Docker's own store writes Docker's format, which has no place for annotations and attestations.
            // Nor for zstd and the annotations of eStargz: BuildKit writes these in OCI's as well.
            format: if annotated || attest.any() || for_oci { ManifestFormat::Oci } else { ManifestFormat::Docker },
            compression: wanted.how,
            compression_level: wanted.level,
            force_compression: wanted.force,
            attest,
            iidfile: self.iidfile.clone(),
            metadata_file: self.metadata_file.clone(),
            ..OutputOptions::default()
        })
    }

    fn progress(&self, var: &Var<'_>, warn: &mut dyn FnMut(String)) -> Result<ProgressOptions, Error> {
        let classic = !self.buildx && var("DOCKER_BUILDKIT").is_some_and(|v| values::boolean(&v) == Ok(false));
        let wanted = self.progress.clone().or_else(|| var("BUILDKIT_PROGRESS")).unwrap_or_default();
        let quiet = match wanted.as_str() {
            "" | "auto" | "plain" => false,
            "tty" => {
                warn("--progress=tty has no effect here: the output is that of `plain`".into());
                false
            }
            "quiet" | "none" => true,
            other => {
                return Err(Error::unsupported(format!("`--progress={other}`"), "use `plain` or `quiet`"));
            }
        };
        let style = if classic { ProgressStyle::Classic } else { ProgressStyle::Buildkit };
        Ok(ProgressOptions { style, quiet: quiet || self.quiet == Some(true), logfile: None })
    }
}

/// Docker's `--network`, which also has `default` and `bridge` for what is the pod's network here.
fn network(text: &str) -> Result<Option<crate::plan::Network>, Error> {
    if text == "bridge" { Ok(None) } else { steps::network(text) }
}

/// Passes events on and remembers how a step failed.
struct Remembering<'a> {
    inner: &'a dyn Sink,
    failed: Mutex<Option<StepFailure>>,
}

struct StepFailure {
    buildkit: String,
    command: Option<(String, i32)>,
}

impl Sink for Remembering<'_> {
    fn event(&self, event: &Event<'_>) {
        if let Event::StepFailed { message, command, .. } = event {
            let failure = StepFailure {
                buildkit: buildkit_failure(message, *command),
                command: command.map(|c| (c.line.to_owned(), c.code)),
            };
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        }
        self.inner.event(event);
    }
}

/// Builds.
pub(super) fn run(args: &BuildArgs, global: &Global) -> Result<(), Failure> {
    let request = args.lower(&values::process_var, &mut foreign::warn)?;
    if let Some(call) = Call::of_flags(args.check, args.call.as_deref())? {
        return Ok(calls::run(&call, &request, global)?);
    }
    let (quiet, style) = (request.progress.quiet, request.progress.style);
    let piped = build_output::to_stdout(&request.output.destinations, &request.output.rootfs);
    build_output::check_stdout(piped)?;
    let id = if piped > 0 { IdForm::Hidden } else { IdForm::Digest };
    let sink: Box<dyn Sink> = match (quiet, style) {
        (true, _) => Box::new(Quiet::new(Terminal::stdio(), id)),
        (false, ProgressStyle::Classic) if piped > 0 => Box::new(Classic::new(Terminal::all_to_stderr())),
        (false, ProgressStyle::Classic) => Box::new(Classic::new(Terminal::stdio())),
        (false, _) => Box::new(Buildkit::new(Terminal::stdio())),
    };
    let sink = Remembering { inner: &*sink, failed: Mutex::new(None) };
    let Err(e) = delivery::build(&request, global, &sink) else { return Ok(()) };
    let failed = sink.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    Err(failure(&e, failed.as_ref(), style))
}

/// How Docker words the end of a build that failed.
fn failure(e: &Error, failed: Option<&StepFailure>, style: ProgressStyle) -> Failure {
    let signal = error::signal_code();
    let hint = e.hint().map(|h| format!("hint: {h}"));
    let (line, code) = match (style, failed) {
        (ProgressStyle::Classic, Some(StepFailure { command: Some((command, code)), .. })) => {
            let line = format!("The command '{command}' returned a non-zero code: {code}");
            (line, u8::try_from(*code).ok().filter(|c| *c != 0).unwrap_or(1))
        }
        (ProgressStyle::Classic, _) => (e.to_string(), 1),
        (_, Some(failed)) => (format!("ERROR: failed to build: failed to solve: {}", failed.buildkit), 1),
        (_, None) => (format!("ERROR: failed to build: failed to solve: {e}"), 1),
    };
    Failure::Shown(std::iter::once(line).chain(hint).collect(), signal.unwrap_or(code))
}

#[cfg(test)]
pub(super) mod endings {
    use super::*;

    /// The last lines and the code of a build whose RUN step failed.
    pub fn of_run(style: ProgressStyle) -> String {
        let failed = StepFailure { buildkit: "process \"x\" …".into(), command: Some(("/bin/sh -c x".into(), 7)) };
        match failure(&Error::Silent(7), Some(&failed), style) {
            Failure::Shown(lines, code) => format!("{}[{code}]", lines.join("\n")),
            other => format!("{other:?}"),
        }
    }
}
