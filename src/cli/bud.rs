//! `rbuild bud`, also called `build`: flags of buildah, lowered into a [`BuildRequest`].

use super::build_output::{self, Output};
use super::calls::{self, Call};
use super::compression::CompressionArgs;
use super::contexts::{context_may_be_a_file, dockerfile_source, main_context, named_context};
use super::foreign::Foreign;
use super::names::Naming;
use super::values::{self, Var};
use super::{
    Error, Global, attest,
    bud_foreign::BudFlags,
    cache_flags::CacheArgs,
    delivery, names,
    platform::PlatformArgs,
    registry_flags::{PolicyArgs, RegistryArgs},
    steps::StepArgs,
};
use crate::build::request::{
    BuildRequest, CacheOptions, Context, ContextOptions, DockerfileSource, FileOptions, MetadataOptions, OutputOptions,
    PlatformOptions, ProgressOptions, PullPolicy, RegistryOptions, SecurityOptions, TargetOptions,
};
use crate::oci::{Location, ManifestFormat, Platform};
use crate::ui::{Buildah, IdForm, Quiet, Sink, Terminal};
use std::path::PathBuf;
use std::time::Duration;

/// The label of `--identity-label`. It is left out unless asked for, so that one Dockerfile gives one image with every version.
const IDENTITY_LABEL: &str = "io.rbuild.version";

/// Build an image from a Dockerfile
#[derive(Clone, Debug, clap::Args)]
pub struct BudArgs {
    /// What to build from: a directory, a tar, a URL of a tar, a git address, or `-` for a tar on standard input [default: .]
    pub context: Option<String>,

    /// Dockerfile: a path, a URL, or `-` for standard input; may be repeated
    #[arg(short, long, value_name = "PATH")]
    pub file: Vec<String>,
    /// File of ignore patterns, in place of `.containerignore` and `.dockerignore`
    #[arg(long, value_name = "PATH")]
    pub ignorefile: Option<PathBuf>,
    /// Further context: `NAME=` and a directory, tar, URL, git address, `docker-image://IMAGE`, `oci-layout://DIR`, `target:STAGE`
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Flag of the preprocessor that files called `….in` go through [env: BUILDAH_CPPFLAGS]
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub cpp_flag: Vec<String>,

    /// Name of the image, or a place to write it to (`oci-archive:FILE`, `docker://NAME`, …); may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Image to put in place of the first FROM
    #[arg(long, value_name = "IMAGE")]
    pub from: Option<String>,
    /// Check the Dockerfile in place of building
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub check: Option<bool>,
    /// What to do: build, check, outline, targets; `,format=json` for JSON
    #[arg(long, value_name = "CALL[,format=FORMAT]")]
    pub call: Option<String>,
    /// File of rules in BuildKit's JSON: which images may be used, and which are used in place of others
    #[arg(long, value_name = "PATH")]
    pub source_policy_file: Vec<PathBuf>,
    /// What keeps RUN steps apart from the pod: auto, namespaces, chroot, trace [env: RBUILD_ISOLATION]
    #[arg(long, value_name = "HOW")]
    pub isolation: Option<crate::sandbox::isolation::Choice>,
    /// Value for an ARG; a bare name takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// File with a `NAME=VALUE` a line
    #[arg(long, value_name = "PATH")]
    pub build_arg_file: Vec<PathBuf>,
    /// Skip stages that the target does not need
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean)]
    pub skip_unused_stages: bool,
    /// Stages and steps to run at once; 0: as many as CPUs
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub jobs: Option<usize>,

    /// For which platform the image is.
    #[command(flatten)]
    pub platform: PlatformArgs,
    /// Build for every platform that the base images have
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub all_platforms: Option<bool>,
    /// Manifest list (index) that the images are added to; made where it does not exist
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    pub os_version: Option<String>,
    /// Feature of the operating system that the image needs
    #[arg(long, value_name = "FEATURE")]
    pub os_feature: Vec<String>,

    /// Execute every step
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub no_cache: Option<bool>,
    /// Age beyond which cached steps do not count
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub cache_ttl: Option<Duration>,
    /// Caches that are shared with other builders.
    #[command(flatten)]
    pub caches: CacheArgs,
    /// When to ask the registry for base images: always, missing, never, newer
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub pull: Option<String>,
    /// Same as `--pull=always`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true,
          value_parser = values::boolean)]
    pub pull_always: Option<bool>,
    /// Same as `--pull=never`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true,
          value_parser = values::boolean)]
    pub pull_never: Option<bool>,

    /// Where else the result goes: `type=local,dest=DIR`, `type=tar,dest=FILE`, `type=oci,dest=FILE`, a directory, or `-`
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// One layer a step; `--layers=false`: one a build [env: BUILDAH_LAYERS]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub layers: Option<bool>,
    /// One layer with everything, base included
    #[arg(long, alias = "squash-all", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub squash: Option<bool>,
    /// Format of manifest and config: oci, docker [env: BUILDAH_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// How layers are compressed on their way out.
    #[command(flatten)]
    pub compression: CompressionArgs,
    /// File for the image id
    #[arg(long, value_name = "PATH")]
    pub iidfile: Option<PathBuf>,
    /// File for the image id, without `sha256:`
    #[arg(long, value_name = "PATH")]
    pub iidfile_raw: Option<PathBuf>,
    /// File for digests and names, as JSON
    #[arg(long, value_name = "PATH")]
    pub metadata_file: Option<PathBuf>,
    /// Do not ask registries before the build whether the image may be pushed there
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub skip_push_check: Option<bool>,
    /// Say what each RUN step used: time, memory, storage; with --metadata-file there, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub step_usage: Option<bool>,
    /// Print only the image id
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub quiet: Option<bool>,
    /// File for the output of the build
    #[arg(long, value_name = "PATH")]
    pub logfile: Option<PathBuf>,

    /// Attach the list of packages to the image: spdx, cyclonedx [default where given: spdx]
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// Attach how the image came about: `mode=min` or `mode=max`, `version=v0.2` or `version=v1`, `builder-id=ID`
    #[arg(long, value_name = "FIELDS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// The same: `type=sbom` or `type=provenance`, and fields
    #[arg(long, value_name = "type=TYPE[,FIELDS]")]
    pub attest: Vec<String>,

    /// Sign what is pushed with this private key, as cosign does: PEM (PKCS#8), ECDSA over P-256
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,

    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Label the image with the version of rbuild, as `io.rbuild.version`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub identity_label: Option<bool>,
    /// Label that the image does not get
    #[arg(long, value_name = "NAME")]
    pub unsetlabel: Vec<String>,
    /// Take over the labels of the base, and of stages that others are FROM
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean)]
    pub inherit_labels: bool,
    /// Annotation of the manifest
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Annotation of the base that the image does not get
    #[arg(long, value_name = "NAME")]
    pub unsetannotation: Vec<String>,
    /// Take over the annotations of the base
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean)]
    pub inherit_annotations: bool,
    /// Write the time of the build into the annotations
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean)]
    pub created_annotation: bool,
    /// Environment variable of the image
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Environment variable that the image does not get
    #[arg(long, value_name = "NAME")]
    pub unsetenv: Vec<String>,
    /// Seconds since 1970 that every time in the image is set to
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = values::seconds)]
    pub timestamp: Option<i64>,
    /// Seconds since 1970 that no time in the image is later than [env: SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = values::seconds)]
    pub source_date_epoch: Option<i64>,
    /// Let files be no later than `--source-date-epoch`, and not the config and the history alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean)]
    pub rewrite_timestamp: bool,
    /// Leave the history out of the image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean)]
    pub omit_history: Option<bool>,

    /// What RUN steps get and see.
    #[command(flatten)]
    pub steps: StepArgs,

    /// How registries are spoken to.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Which images may be used.
    #[command(flatten)]
    pub signatures: PolicyArgs,
    /// Everything that buildah has beyond this.
    #[command(flatten)]
    pub foreign: Foreign<BudFlags>,
}

impl BudArgs {
    /// The request that these flags make. `var` answers for the environment; `warn` gets a line for each flag that has no
    /// effect.
    ///
    /// # Errors
    /// Flags that contradict each other, malformed values, and what rbuild cannot do.
    pub fn lower(&self, var: &Var<'_>, warn: &mut dyn FnMut(String)) -> Result<BuildRequest, Error> {
        self.foreign.check(&mut *warn)?;
        let file = FileOptions { files: self.files()?, cpp_flags: self.cpp_flags(var), containerfile: true };
        let platform = self.platform()?;
        let output = self.output(var)?;
        if output.format == ManifestFormat::Docker && !self.annotation.is_empty() {
            // No error: builds that buildah does go on here, and it drops them.
            let names: Vec<&str> = self.annotation.iter().map(|a| a.split('=').next().unwrap_or_default()).collect();
            warn(format!(
                "--annotation has no effect with Docker's format, which has no place for `{}`: use `--format oci`",
                names.join("`, `")
            ));
        }
        Ok(BuildRequest {
            context: self.context(&file)?,
            target: self.target_options(var)?,
            platform,
            cache: self.cache(&output.destinations)?,
            security: self.security(output.layers, var, warn)?,
            metadata: self.metadata(var)?,
            registry: RegistryOptions {
                signature_policy: self.signatures.signature_policy.clone(),
                ..self.registry.lower()?
            },
            progress: ProgressOptions {
                quiet: self.quiet == Some(true),
                logfile: self.logfile.clone(),
                ..ProgressOptions::default()
            },
            output,
            file,
        })
    }

    /// Flags of the preprocessor: those of the variable come first, so that those that were typed win.
    fn cpp_flags(&self, var: &Var<'_>) -> Vec<String> {
        let of_variable = var("BUILDAH_CPPFLAGS").unwrap_or_default();
        of_variable.split_whitespace().map(str::to_owned).chain(self.cpp_flag.iter().cloned()).collect()
    }

    fn files(&self) -> Result<Vec<DockerfileSource>, Error> {
        self.file.iter().map(|f| dockerfile_source(f)).collect()
    }

    fn context(&self, file: &FileOptions) -> Result<ContextOptions, Error> {
        let main = main_context(self.context.as_deref().unwrap_or("."))?;
        if main == Context::Stdin && file.files.contains(&DockerfileSource::Stdin) {
            return Err(Error::usage("context and Dockerfile cannot both be read from standard input"));
        }
        let named = self.build_context.iter().map(|text| named_context(text)).collect::<Result<_, _>>()?;
        Ok(ContextOptions { main, named, ignorefile: self.ignorefile.clone() })
    }

    fn target_options(&self, var: &Var<'_>) -> Result<TargetOptions, Error> {
        let named = epoch_name(var).filter(|_| self.timestamp.is_none() && self.source_date_epoch.is_none());
        let mut build_args: Vec<_> = named.map(|name| ("SOURCE_DATE_EPOCH".into(), Some(name))).into_iter().collect();
        for path in &self.build_arg_file {
            let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
            for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                build_args.push(values::name_value(line, var)?);
            }
        }
        for arg in &self.build_arg {
            build_args.push(values::name_value(arg, var)?);
        }
        Ok(TargetOptions {
            stage: self.target.clone().filter(|t| !t.is_empty()),
            from: self.from.clone().filter(|f| !f.is_empty()),
            build_args,
            source_policies: self.source_policy_file.clone(),
            skip_unused_stages: self.skip_unused_stages,
            jobs: self.jobs.filter(|n| *n > 0),
        })
    }

    fn platform(&self) -> Result<PlatformOptions, Error> {
        if self.all_platforms == Some(true) && self.platform.is_explicit() {
            return Err(Error::usage("`--all-platforms` and `--platform` contradict each other"));
        }
        let mut platforms = self.platform.platforms()?.into_iter();
        let target = platforms.next().unwrap_or_else(Platform::host);
        Ok(PlatformOptions {
            target,
            more: platforms.collect(),
            all: self.all_platforms == Some(true),
            build: Platform::host(),
            explicit: self.platform.is_explicit(),
            os_version: self.os_version.clone(),
            os_features: values::commas(&self.os_feature),
        })
    }

    fn cache(&self, destinations: &[Location]) -> Result<CacheOptions, Error> {
        let named = self.pull.as_deref().map(pull_policy).transpose()?;
        let pull = match (self.pull_always == Some(true), self.pull_never == Some(true), named) {
            (true, true, _) | (true, _, Some(PullPolicy::Never)) | (_, true, Some(PullPolicy::Always)) => {
                return Err(Error::usage("`--pull-always` and `--pull-never` contradict each other"));
            }
            (true, false, _) => PullPolicy::Always,
            (false, true, _) => PullPolicy::Never,
            (false, false, named) => named.unwrap_or_default(),
        };
        Ok(CacheOptions {
            no_cache: self.no_cache == Some(true) || self.cache_ttl == Some(Duration::ZERO),
            no_cache_stages: vec![],
            pull,
            ttl: self.cache_ttl.filter(|ttl| !ttl.is_zero()),
            ..self.caches.lower(destinations)?
        })
    }

    fn output(&self, var: &Var<'_>) -> Result<OutputOptions, Error> {
        let mut destinations = self.tag.iter().map(|t| names::destination(t)).collect::<Result<Vec<Location>, _>>()?;
        let (mut rootfs, mut push) = (vec![], false);
        let mut wanted = self.compression.lower()?;
        for output in &self.output {
            let output = Output::parse(output, Naming::Buildah)?;
            destinations.extend(output.names.into_iter().map(Location::Store).chain(output.file));
            rootfs.extend(output.rootfs);
            push |= output.push;
            wanted = wanted.and(output.compression)?;
        }
        if push {
            let named = |d: &Location| {
                if let Location::Store(name) = d { Some(Location::Registry(name.clone())) } else { None }
            };
            let pushed: Vec<Location> = destinations.iter().filter_map(named).collect();
            if pushed.is_empty() {
                return Err(Error::usage_hint(
                    "what is pushed needs a name",
                    "name the image with `-t`, or with `name=`",
                ));
            }
            destinations.extend(pushed);
        }
        // An unreadable value of the variable counts as unset, as it does for buildah.
        let layers = self.layers.or_else(|| var("BUILDAH_LAYERS").and_then(|v| values::boolean(&v).ok()));
        let format = match self.format.clone().or_else(|| var("BUILDAH_FORMAT").filter(|f| !f.is_empty())) {
            Some(text) => manifest_format(&text)?,
            None => ManifestFormat::Oci,
        };
        let index = self.manifest.as_deref().filter(|m| !m.is_empty());
        let attest = attest::wanted(self.sbom.as_deref(), self.provenance.as_deref(), &self.attest)?;
        attest::check_format(&attest, format)?;
        Ok(OutputOptions {
            attest,
            sign_key: self.sign_key.clone(),
            destinations,
            rootfs,
            index: index.map(|m| Naming::Buildah.full(m)).transpose()?,
            layers: layers.unwrap_or(true),
            squash: self.squash == Some(true),
            format,
            iidfile: self.iidfile.clone(),
            iidfile_raw: self.iidfile_raw.clone(),
            metadata_file: self.metadata_file.clone(),
            skip_push_check: self.skip_push_check == Some(true),
            step_usage: self.step_usage == Some(true),
            compression: wanted.how,
            compression_level: wanted.level,
            force_compression: wanted.force,
            ..OutputOptions::default()
        })
    }

    fn security(&self, layers: bool, var: &Var<'_>, warn: &mut dyn FnMut(String)) -> Result<SecurityOptions, Error> {
        let security = self.steps.lower(var, warn)?;
        if security.compat_volumes && !layers {
            return Err(Error::unsupported("`--compat-volumes` with `--layers=false`", "leave `--layers` out"));
        }
        Ok(security)
    }

    fn labels(&self) -> Result<Vec<(String, String)>, Error> {
        let identity = (self.identity_label == Some(true))
            .then(|| Ok((IDENTITY_LABEL.to_owned(), env!("CARGO_PKG_VERSION").to_owned())));
        identity.into_iter().chain(self.label.iter().map(|l| values::label(l))).collect()
    }

    fn metadata(&self, var: &Var<'_>) -> Result<MetadataOptions, Error> {
        if self.timestamp.is_some() && self.source_date_epoch.is_some() {
            return Err(Error::usage("`--timestamp` and `--source-date-epoch` contradict each other"));
        }
        let source_date_epoch = match (self.source_date_epoch, self.timestamp) {
            (None, None) if epoch_name(var).is_none() => source_date_epoch(var)?,
            (flag, _) => flag,
        };
        let env = self.env.iter().map(|e| values::name_value(e, var)).collect::<Result<Vec<_>, _>>()?;
        Ok(MetadataOptions {
            labels: self.labels()?,
            unset_labels: values::commas(&self.unsetlabel),
            inherit_labels: self.inherit_labels,
            annotations: self.annotation.iter().map(|a| values::label(a)).collect::<Result<_, _>>()?,
            unset_annotations: values::commas(&self.unsetannotation),
            inherit_annotations: self.inherit_annotations,
            created_annotation: self.created_annotation,
            // A bare name that the environment does not have sets nothing, as in buildah.
            env: env.into_iter().filter_map(|(n, v)| Some((n, v?))).collect(),
            unset_env: values::commas(&self.unsetenv),
            timestamp: self.timestamp,
            source_date_epoch,
            rewrite_timestamps: self.rewrite_timestamp,
            omit_history: self.omit_history == Some(true),
        })
    }
}

/// Values of `--pull`.
pub(super) fn pull_policy(text: &str) -> Result<PullPolicy, Error> {
    match text.to_ascii_lowercase().as_str() {
        "always" | "true" | "1" => Ok(PullPolicy::Always),
        "missing" | "ifmissing" | "false" | "0" => Ok(PullPolicy::Missing),
        "newer" | "ifnewer" => Ok(PullPolicy::Newer),
        "never" => Ok(PullPolicy::Never),
        _ => Err(Error::usage_hint(
            format!("invalid pull policy `{text}`"),
            "use `always`, `missing`, `newer` or `never`",
        )),
    }
}

/// Values of `--format`.
pub(super) fn manifest_format(text: &str) -> Result<ManifestFormat, Error> {
    match text {
        "oci" | "OCI" | crate::oci::media::OCI_MANIFEST => Ok(ManifestFormat::Oci),
        "docker" | "v2s2" | crate::oci::media::DOCKER_MANIFEST => Ok(ManifestFormat::Docker),
        "v2s1" => Err(Error::unsupported("`--format v2s1`", "use `docker` or `oci`: schema 1 is obsolete")),
        _ => Err(Error::usage_hint(format!("unrecognized image type `{text}`"), "use `oci` or `docker`")),
    }
}

/// The variable `SOURCE_DATE_EPOCH` where it is no number: the name of something that has a time, which a build finds out.
pub(super) fn epoch_name(var: &Var<'_>) -> Option<String> {
    var("SOURCE_DATE_EPOCH").filter(|v| !v.trim().is_empty() && v.trim().parse::<i64>().is_err())
}

/// The variable `SOURCE_DATE_EPOCH`.
pub(super) fn source_date_epoch(var: &Var<'_>) -> Result<Option<i64>, Error> {
    match var("SOURCE_DATE_EPOCH").filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(text) => values::seconds(text.trim()).map(Some).map_err(|why| {
            Error::usage_hint(
                format!("`SOURCE_DATE_EPOCH` is `{text}`: {why}"),
                "set it to seconds since 1970, such as `$(git log -1 --format=%ct)`",
            )
        }),
    }
}

/// Builds an image and brings it where it belongs.
///
/// # Errors
/// Whatever kept the image from being built, named or delivered.
pub fn run(args: &BudArgs, global: &Global) -> Result<(), Error> {
    let mut request = args.lower(&values::process_var, &mut super::foreign::warn)?;
    context_may_be_a_file(&mut request);
    if let Some(call) = Call::of_flags(args.check, args.call.as_deref())? {
        return calls::run(&call, &request, global);
    }
    let piped = build_output::to_stdout(&request.output.destinations, &request.output.rootfs);
    build_output::check_stdout(piped)?;
    let terminal = match &request.progress.logfile {
        Some(path) => Terminal::logfile(path).map_err(Error::file("create", path))?,
        None if piped > 0 => Terminal::all_to_stderr(),
        None => Terminal::stdio(),
    };
    let hidden = request.output.iidfile.is_some() || request.output.iidfile_raw.is_some() || piped > 0;
    let sink: Box<dyn Sink> = match (request.progress.quiet, hidden) {
        (true, true) => Box::new(Quiet::new(terminal, IdForm::Hidden)),
        (true, false) => Box::new(Quiet::new(terminal, IdForm::Hex)),
        (false, hidden) => Box::new(Buildah::new(terminal, !hidden)),
    };
    delivery::build(&request, global, &*sink).map(drop)
}
