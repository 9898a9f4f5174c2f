//! What a build is asked to do, whoever asks: every command line and every API lowers its own words into a
//! [`BuildRequest`], and nothing below reads a flag or an environment variable again.
//!
//! Everything is resolved: relative paths are as the user wrote them (relative to the working directory), bare
//! `--build-arg NAME` already has the value of the environment, contradictions between flags are gone, and what rbuild
//! cannot do never got this far. Small structs by subject, so that a function takes the one it needs.

use crate::attest::Wanted;
use crate::cache::spec::{MountSpec, Spec};
use crate::oci::{Compression, Digest, Location, ManifestFormat, Platform, Reference};
use crate::registry::TokenFile;
use crate::source::GitUrl;
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// The times, in seconds since 1970, that a config can name: its times are RFC 3339's, of the years 0 to 9999 (but for its last day, which is another one somewhere on earth).
pub const TIMES: RangeInclusive<i64> = -62_167_219_200..=253_402_207_200;

pub use super::run_options::{
    DeviceOption, DnsOptions, HOST_GATEWAY, Seccomp, SecretOption, SecretSource, SecurityOptions, SshOption,
    VolumeMount,
};

/// One build.
#[derive(Clone, Debug, Default)]
pub struct BuildRequest {
    /// Where files come from.
    pub context: ContextOptions,
    /// Which Dockerfiles.
    pub file: FileOptions,
    /// What of them is built, with which arguments.
    pub target: TargetOptions,
    /// For which platform.
    pub platform: PlatformOptions,
    /// What may be reused.
    pub cache: CacheOptions,
    /// What comes out, and where it goes.
    pub output: OutputOptions,
    /// What RUN steps get and see.
    pub security: SecurityOptions,
    /// What the image says of itself.
    pub metadata: MetadataOptions,
    /// How registries are spoken to.
    pub registry: RegistryOptions,
    /// What people see of it.
    pub progress: ProgressOptions,
}

/// Where the files of COPY and ADD come from.
#[derive(Clone, Debug, Default)]
pub struct ContextOptions {
    /// The main build context.
    pub main: Context,
    /// `--build-context NAME=…`, by name, in the order of the command line.
    pub named: Vec<(String, NamedContext)>,
    /// `--ignorefile`; `None`: `<Dockerfile>.dockerignore`, then `.containerignore`, `.dockerignore` of the context.
    pub ignorefile: Option<PathBuf>,
}

/// The main build context.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Context {
    /// A directory, or a tar of one.
    Dir(PathBuf),
    /// A tar on a web server, or a Dockerfile.
    Web(String),
    /// A git repository.
    Git(GitUrl),
    /// A tar on standard input, or a Dockerfile: `-`. Which of the two, the first bytes tell.
    Stdin,
    /// No context at all: only a Dockerfile.
    #[default]
    Empty,
}

/// A further build context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory, or a tar of one.
    Dir(PathBuf),
    /// A tar or any other file on a web server.
    Web(String),
    /// A git repository.
    Git(GitUrl),
    /// An image: `docker-image://NAME`, `container-image://NAME` or `docker://NAME`.
    Image(Reference),
    /// An image in the store of podman or of a Docker daemon: `containers-storage:NAME`, `docker-daemon:NAME`.
    OtherStore(Location),
    /// An image in an image layout directory: `oci-layout://DIR[:TAG|@DIGEST]`.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Its name in the layout.
        tag: Option<String>,
        /// Digest of its manifest or index.
        digest: Option<Digest>,
    },
    /// A stage of the Dockerfile: `target:STAGE`.
    Stage(String),
}

/// Which Dockerfiles are read.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// `-f`, in order; several are read as one. Empty: `Containerfile`, then `Dockerfile` in the context.
    pub files: Vec<DockerfileSource>,
    /// `--cpp-flag`: arguments of the preprocessor that files called `….in` go through.
    pub cpp_flags: Vec<String>,
    /// The default name to look for first: buildah's `Containerfile` (true) or Docker's `Dockerfile` alone (false).
    pub containerfile: bool,
}

/// Where the text of a Dockerfile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A file. A relative one that does not exist in the working directory is looked for in the context.
    Path(PathBuf),
    /// A file on a web server.
    Web(String),
    /// Standard input.
    Stdin,
}

/// What is built.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// `--target`, name or number of a stage; `None`: the last one.
    pub stage: Option<String>,
    /// `--from`: what the first FROM is to name instead.
    pub from: Option<String>,
    /// `--build-arg`, in order. `None`: named, but without a value anywhere.
    pub build_args: Vec<(String, Option<String>)>,
    /// `--source-policy-file`: which images may be used, and which are used in place of others.
    pub source_policies: Vec<PathBuf>,
    /// Whether stages that the target does not need are left out.
    pub skip_unused_stages: bool,
    /// Most stages and steps to run at once; `None`: as many as the CPUs allow.
    pub jobs: Option<usize>,
}

impl Default for TargetOptions {
    fn default() -> Self {
        TargetOptions {
            stage: None,
            from: None,
            build_args: vec![],
            source_policies: vec![],
            skip_unused_stages: true,
            jobs: None,
        }
    }
}

/// For which platform the image is.
#[derive(Clone, Debug)]
pub struct PlatformOptions {
    /// The platform of the image.
    pub target: Platform,
    /// The platform of the machine that builds.
    pub build: Platform,
    /// Further platforms: with them the result is an index of one image for each.
    pub more: Vec<Platform>,
    /// All platforms that the bases have, in place of those named.
    pub all: bool,
    /// Whether the user named `target`: then it also goes into the image where the base says otherwise.
    pub explicit: bool,
    /// `--os-version`.
    pub os_version: Option<String>,
    /// `--os-feature`: added to those of the base.
    pub os_features: Vec<String>,
}

impl Default for PlatformOptions {
    fn default() -> Self {
        PlatformOptions {
            target: Platform::host(),
            more: vec![],
            all: false,
            build: Platform::host(),
            explicit: false,
            os_version: None,
            os_features: vec![],
        }
    }
}

/// What may be reused.
#[derive(Clone, Debug, Default)]
pub struct CacheOptions {
    /// Executes every step.
    pub no_cache: bool,
    /// `--no-cache-filter`: executes every step of these stages.
    pub no_cache_stages: Vec<String>,
    /// When base images are looked up in their registry.
    pub pull: PullPolicy,
    /// Cached steps older than this do not count; zero: none counts.
    pub ttl: Option<Duration>,
    /// `--cache-from`: where steps are looked up that the store does not know, in order.
    pub from: Vec<Spec>,
    /// `--cache-to`: where finished steps go.
    pub to: Vec<Spec>,
    /// `--cache-mount`: where the files of cache mounts are kept.
    pub mounts: Vec<MountSpec>,
    /// `--cache-sign-key`: signs the entries that are written.
    pub sign_key: Option<PathBuf>,
    /// `--cache-verify-key`: only entries that one of these keys signed count.
    pub verify_keys: Vec<PathBuf>,
    /// `--explain-cache`: says of each step whether it was found, where, and what differs where it was not.
    pub explain: bool,
}

/// When the registry is asked for a base image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when the store does not have it.
    #[default]
    Missing,
    /// Always; without an answer the build fails.
    Always,
    /// Never.
    Never,
    /// Always, but a registry that does not answer is no error when the store has the image.
    Newer,
}

/// What comes out of the build.
#[derive(Clone, Debug)]
pub struct OutputOptions {
    /// Where the image goes. Names for the store are complete: registry and tag are filled in. Empty: the store, unnamed.
    pub destinations: Vec<Location>,
    /// Where its root file system goes as plain files.
    pub rootfs: Vec<RootfsOutput>,
    /// `--manifest`: the index that the images are added to, by its full name.
    pub index: Option<Reference>,
    /// Makes an index of an image for one platform, too.
    pub always_index: bool,
    /// The image becomes part of an index: it is no entry of the store by itself.
    pub part: bool,
    /// The image goes nowhere but to registries: layers that are elsewhere may stay there.
    pub only_pushed: bool,
    /// What is said about the image, beside it in an index.
    pub attest: Wanted,
    /// Signs what is pushed with this private key.
    pub sign_key: Option<PathBuf>,
    /// One layer a step (true) or one for the whole build (false).
    pub layers: bool,
    /// One layer with everything, base included.
    pub squash: bool,
    /// How manifest and config are written. HEALTHCHECK, ONBUILD and SHELL are kept in both, as BuildKit does.
    pub format: ManifestFormat,
    /// Gets `sha256:<image id>`, without a newline.
    pub iidfile: Option<PathBuf>,
    /// Gets the image id as bare hexadecimal digits.
    pub iidfile_raw: Option<PathBuf>,
    /// Gets digests and names as JSON.
    pub metadata_file: Option<PathBuf>,
    /// Does not ask registries before the build whether the image may be pushed.
    pub skip_push_check: bool,
    /// Says what each RUN step used, in the output and in the file of metadata.
    pub step_usage: bool,
    /// Compression of layers that leave the store; `None`: what the destination wants.
    pub compression: Option<Compression>,
    /// Its level; `None`: its own.
    pub compression_level: Option<u32>,
    /// Whether layers that are compressed otherwise are compressed anew on their way out.
    pub force_compression: bool,
}

impl Default for OutputOptions {
    fn default() -> Self {
        OutputOptions {
            destinations: vec![],
            rootfs: vec![],
            index: None,
            always_index: false,
            part: false,
            only_pushed: false,
            attest: Wanted::default(),
            sign_key: None,
            layers: true,
            squash: false,
            format: ManifestFormat::Oci,
            iidfile: None,
            iidfile_raw: None,
            metadata_file: None,
            skip_push_check: false,
            step_usage: false,
            compression: None,
            compression_level: None,
            force_compression: false,
        }
    }
}

/// How the root file system of the image is written as plain files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsOutput {
    /// Where to.
    pub place: RootfsPlace,
    /// What the names of files begin with that say something about the image.
    pub attestation_prefix: String,
}

/// Where the root file system of the image is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootfsPlace {
    /// Into this directory.
    Directory(PathBuf),
    /// As a tar at this path; `-`: standard output.
    Tar(PathBuf),
}

/// What the image says of itself.
#[derive(Clone, Debug)]
pub struct MetadataOptions {
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `--unsetlabel`: labels of the base that the image does not get.
    pub unset_labels: Vec<String>,
    /// Whether labels of the base, and of stages that others are FROM, are taken over.
    pub inherit_labels: bool,
    /// `--annotation`, in order.
    pub annotations: Vec<(String, String)>,
    /// `--unsetannotation`: annotations of the base that the image does not get.
    pub unset_annotations: Vec<String>,
    /// Whether annotations of the base are taken over.
    pub inherit_annotations: bool,
    /// Whether the manifest gets `org.opencontainers.image.created`.
    pub created_annotation: bool,
    /// `--env`: appended as ENV to the last stage.
    pub env: Vec<(String, String)>,
    /// `--unsetenv`: removed from the final image.
    pub unset_env: Vec<String>,
    /// `--timestamp`: every time is this one, in seconds since 1970.
    pub timestamp: Option<i64>,
    /// `SOURCE_DATE_EPOCH` or `--source-date-epoch`: no time is later than this one, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Whether `source_date_epoch` counts for files of the layers, too; else it is for config, history and annotations alone.
    pub rewrite_timestamps: bool,
    /// `--omit-history`.
    pub omit_history: bool,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        MetadataOptions {
            labels: vec![],
            unset_labels: vec![],
            inherit_labels: true,
            annotations: vec![],
            unset_annotations: vec![],
            inherit_annotations: true,
            created_annotation: true,
            env: vec![],
            unset_env: vec![],
            timestamp: None,
            source_date_epoch: None,
            rewrite_timestamps: true,
            omit_history: false,
        }
    }
}

/// How registries are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryOptions {
    /// `--authfile`, in place of the usual files.
    pub authfile: Option<PathBuf>,
    /// `--creds USER[:PASSWORD]`, in place of the files.
    pub creds: Option<Credentials>,
    /// `--registry-token-file`: files with tokens for single registries.
    pub token_files: Vec<TokenFile>,
    /// `--tls-verify`; `None`: as registries.conf says.
    pub tls_verify: Option<bool>,
    /// `--cert-dir`: `*.crt`, `*.cert` and `*.key` of the registry.
    pub cert_dir: Option<PathBuf>,
    /// `--signature-policy`, in place of the usual files: which images may come from outside.
    pub signature_policy: Option<PathBuf>,
    /// How often a failed transfer is tried again.
    pub retry: u32,
    /// Pause before the next try; `None`: grows from one second on.
    pub retry_delay: Option<Duration>,
    /// The longest silence of a registry; `None`: a minute.
    pub timeout: Option<Duration>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            authfile: None,
            creds: None,
            token_files: vec![],
            tls_verify: None,
            cert_dir: None,
            signature_policy: None,
            retry: 3,
            retry_delay: None,
            timeout: None,
        }
    }
}

/// A user name and a password, which no debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).field("password", &"****").finish()
    }
}

/// What people see of the build.
#[derive(Clone, Debug, Default)]
pub struct ProgressOptions {
    /// Form of the output.
    pub style: ProgressStyle,
    /// Only the image id at the end, and errors.
    pub quiet: bool,
    /// Output of the build goes here in place of standard output and error.
    pub logfile: Option<PathBuf>,
}

/// Forms of build output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressStyle {
    /// buildah's: `STEP 1/3: FROM …`.
    #[default]
    Buildah,
    /// BuildKit's plain form: `#5 [2/3] RUN …`.
    Buildkit,
    /// The classic builder's: `Step 1/3 : FROM …`.
    Classic,
}
