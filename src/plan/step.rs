//! The graph of steps: what `build` executes.
//!
//! A [`Plan`] is a list of [`Step`]s in which a step's inputs always have smaller ids, so one pass from the front is a
//! topological order. The steps of one stage form a chain (`parent`); a `COPY --from` adds an edge (`Step::inputs`).
//! Everything that can be known without running anything is already worked out: arguments are expanded, names of stages
//! are ids, unused stages are gone, ONBUILD triggers are steps like others, and `Step::config` is the container config
//! as it stands after the step.

use super::ContextId;
use crate::dockerfile::{self, Span};
use crate::oci::{ContainerConfig, Digest, History, ImageConfig, Platform, Reference};
use crate::source::GitUrl;
use std::sync::Arc;

/// Index of a step in [`Plan::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// Everything that one build has to do, in topological order.
#[derive(Debug)]
pub struct Plan {
    /// The steps; the inputs of each have smaller ids.
    pub steps: Vec<Step>,
    /// The reachable stages, in the order of the Dockerfile.
    pub stages: Vec<Stage>,
    /// Index in `stages` of the stage that becomes the image.
    pub target: usize,
    /// What the user should know about the Dockerfile.
    pub warnings: Vec<String>,
    /// Build arguments that no ARG of the Dockerfile asks for, sorted.
    pub unused_build_args: Vec<String>,
}

/// One reachable stage.
#[derive(Debug)]
pub struct Stage {
    /// The name given with `AS`, lower case.
    pub name: Option<String>,
    /// Number of the stage in the Dockerfile, from 0.
    pub index: usize,
    /// The last step of the stage; its config is the stage's config.
    pub last: StepId,
    /// Config of the image that results, but for `created`, `rootfs` and `history`, which the build fills in.
    /// `rootfs.diff_ids` and `history` hold the base image's.
    pub image: ImageConfig,
    /// Platform of the stage.
    pub platform: Platform,
}

/// One instruction to execute.
#[derive(Debug)]
pub struct Step {
    /// Place in [`Plan::steps`].
    pub id: StepId,
    /// Index in [`Plan::stages`].
    pub stage: usize,
    /// Number of the instruction in its stage, from 1 (the FROM).
    pub number: usize,
    /// The instruction as the user wrote it, on one line, with variables expanded as buildah shows them.
    pub name: String,
    /// Where it stands in the Dockerfile; of an ONBUILD trigger, the FROM that triggers it.
    pub span: Span,
    /// The step whose root file system and config this one starts from. `None` for `StepKind::Base`.
    pub parent: Option<StepId>,
    /// Steps of other stages that must be finished first (the last steps of stages that this step reads).
    pub inputs: Vec<StepId>,
    /// What to do.
    pub kind: StepKind,
    /// The container config after this step.
    pub config: Arc<ContainerConfig>,
    /// The history entry of the step (without `created`; `empty_layer` is true where no layer can come of it).
    /// `None` for steps that leave no entry (`StepKind::Base`, unless it is a context's).
    pub history: Option<History>,
}

/// What a step does to the root file system.
#[derive(Debug)]
pub enum StepKind {
    /// The start of a stage.
    Base(Base),
    /// A command in the root file system.
    Run(Run),
    /// Files from elsewhere.
    Copy(Copy),
    /// Makes the working directory, where it does not exist, for the user of the config before the step.
    Workdir {
        /// Absolute path.
        path: String,
        /// `USER` in force, empty for root.
        user: String,
    },
    /// Changes only the config.
    Config,
}

/// What a stage starts from.
#[derive(Debug, Clone)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image that the resolver found.
    Image(Arc<ResolvedImage>),
    /// The last step of another stage.
    Stage(StepId),
    /// The files of a named context, in a layer of their own.
    Files(ContextId),
}

/// An image whose manifest and config are known; its layers may not be here yet.
#[derive(Debug)]
pub struct ResolvedImage {
    /// The name as written in the Dockerfile, arguments expanded.
    pub name: String,
    /// The full reference it was found under.
    pub reference: Reference,
    /// Digest of the image manifest of the chosen platform.
    pub manifest: Digest,
    /// The config.
    pub config: ImageConfig,
}

/// A RUN step.
#[derive(Debug, Clone)]
pub struct Run {
    /// The program and its arguments: the shell is already in front of a shell-form command.
    pub argv: Vec<String>,
    /// Environment of the command: the config's, then the stage's ARGs that are in scope, in BuildKit's precedence.
    pub env: Vec<(String, String)>,
    /// The predefined proxy variables to pass on: in no cache key and no history.
    pub proxy_env: Vec<(String, String)>,
    /// Absolute working directory.
    pub cwd: String,
    /// `USER` in force, empty for root.
    pub user: String,
    /// Files to show to the command under `/dev/pipes/NAME` (heredocs that start with `#!`) or on its file descriptors.
    pub heredocs: Vec<HeredocFile>,
    /// `--network` of the instruction; `None` for what the build uses.
    pub network: Option<Network>,
    /// `--mount`s, options expanded; `target` is absolute.
    pub mounts: Vec<Mount>,
    /// `--security=insecure`: every capability that the pod has to give, and no filter of system calls.
    pub insecure: bool,
}

/// A `RUN --mount` with everything expanded.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where its files come from (bind and cache; `None` where a cache starts empty, and for all other kinds).
    pub from: Option<CopyFrom>,
    /// The options. `target` is an absolute path (none for a secret that is a variable only); `from` is what was written.
    pub options: dockerfile::Mount,
}

/// A heredoc that RUN hands to its command as a file.
#[derive(Debug, Clone, PartialEq)]
pub struct HeredocFile {
    /// Name, without directory.
    pub name: String,
    /// The text.
    pub content: String,
}

/// The network of a RUN step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The pod's.
    Host,
    /// A namespace with nothing but a loopback interface.
    None,
}

/// A COPY or ADD step.
#[derive(Debug, Clone)]
pub struct Copy {
    /// It is an ADD.
    pub add: bool,
    /// `--unpack`; `None`: archives of the context are unpacked, fetched ones are not.
    pub unpack: Option<bool>,
    /// Where the sources are.
    pub from: CopyFrom,
    /// The sources, in order.
    pub sources: Vec<CopySource>,
    /// Destination, already joined with the working directory; ends with `/` (or `/.`) where the user wrote a directory.
    pub dest: String,
    /// `--chown`, names or numbers.
    pub chown: Option<String>,
    /// `--chmod`, as written (octal is checked by the plan).
    pub chmod: Option<String>,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// `--parents`.
    pub parents: bool,
    /// `--link`, where it can be: the layer depends on nothing that is below it. It cannot with `--chmod` (as in BuildKit),
    /// nor where `--chown` has names that the files below it explain.
    pub link: bool,
}

/// Where COPY and ADD read from.
#[derive(Debug, Clone)]
pub enum CopyFrom {
    /// The build context.
    Context,
    /// The last step of another stage.
    Stage(StepId),
    /// An image.
    Image(Arc<ResolvedImage>),
    /// The files of a named context.
    Named(ContextId),
}

/// One source of COPY or ADD.
#[derive(Debug, Clone, PartialEq)]
pub enum CopySource {
    /// A path or a pattern of Go's `filepath.Match`, relative to the root of the context or of the stage.
    Path(String),
    /// A heredoc: a file of this name with this content.
    Inline {
        /// File name.
        name: String,
        /// The text, expanded already where it has to be.
        content: String,
    },
    /// ADD: a file behind a web address.
    Web {
        /// The address.
        url: String,
        /// The digest that it must have.
        checksum: Option<Digest>,
    },
    /// ADD: the files of a git repository.
    Git(GitUrl),
}
