//! Build events and what people see of them.
//!
//! Whoever works emits [`Event`]s into a [`Sink`]; each form of output is one sink in one file. Events say what happened,
//! never how it looks: numbering, prefixes, indentation and the choice of stream are the sink's. An event that belongs
//! to a step carries its [`StepKey`], a place in the [`Outline`] that [`Event::Planned`] announced, so lines of stages
//! that run at the same time can be told apart.
//!
//! Progress never fails a build: a sink drops what it cannot write (a closed pipe, a full disk behind a log file).
//! Secrets never get here: emitters hand over texts that are already masked.
//!
//! | sink | form | for |
//! |---|---|---|
//! | [`Buildah`] | `STEP 1/3: FROM …` | `bud` |
//! | [`Buildkit`] | `#5 [2/3] RUN …` | `docker build` |
//! | [`Classic`] | `Step 1/3 : FROM …` | `docker build` with `DOCKER_BUILDKIT=0` |
//! | [`Quiet`] | the id | `-q` |
//! | [`DockerTransfer`] | `5f70bf18a086: Pushed` | `docker push`, `docker pull` |

mod buildah;
mod buildkit;
mod classic;
mod docker_transfer;
pub mod human;
mod lines;
mod outline;
mod printable;
mod quiet;
mod stdout;
mod terminal;
mod usage;

pub use buildah::Buildah;
pub use buildkit::{Buildkit, buildkit_failure};
pub use classic::Classic;
pub use docker_transfer::DockerTransfer;
pub use outline::{Outline, StageOutline, StepKey, StepOutline, Verb};
pub use printable::{printable, shortened};
pub use quiet::{IdForm, Quiet};
pub use stdout::Stdout;
pub use terminal::{Capture, Terminal};
pub use usage::Usage;

/// A stream of a RUN step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which way an image moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a registry or an archive into the store.
    Pull,
    /// From the store to a registry or an archive.
    Push,
}

/// What became of one blob of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// It is known that it has to be moved.
    Waiting,
    /// So many of its bytes have been moved.
    Moving(u64),
    /// It was moved.
    Done,
    /// The other side has it already.
    Exists,
    /// The registry took it over from another repository of its own.
    Mounted,
}

/// The command of a RUN step that ended with another code than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedCommand<'a> {
    /// Program and arguments, separated by blanks: `/bin/sh -c false`.
    pub line: &'a str,
    /// Exit code.
    pub code: i32,
}

/// Where in a Dockerfile a step stands that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceExcerpt<'a> {
    /// Name of the Dockerfile as the user knows it.
    pub file: &'a str,
    /// Its whole text.
    pub text: &'a str,
    /// First line of the instruction, from 1.
    pub start: usize,
    /// Last line of the instruction, from 1.
    pub end: usize,
}

/// Something that happened, in the order in which it happened within one step.
///
/// Ids of images are 64 hexadecimal digits; digests begin with `sha256:`.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A Dockerfile was read.
    DockerfileRead {
        /// Name as the user knows it.
        name: &'a str,
        /// Length in bytes.
        size: u64,
    },
    /// The ignore file was read, or found to be absent (`size` 0).
    IgnorefileRead {
        /// Length in bytes.
        size: u64,
    },
    /// The build context was read: it is an archive, or its files were looked through.
    ContextRead {
        /// Length in bytes.
        size: u64,
    },
    /// The config of a base image is looked up.
    ImageLookup {
        /// Full reference.
        name: &'a str,
    },
    /// A remote context or source is looked up, and fetched if it has to be.
    Fetching {
        /// Its address, without credentials.
        name: &'a str,
    },
    /// What will be done is known. Comes once, before any event with a [`StepKey`].
    Planned(&'a Outline),
    /// A step began.
    StepStarted {
        /// The step.
        step: StepKey,
    },
    /// The step need not be executed: its result is known.
    CacheHit {
        /// The step.
        step: StepKey,
        /// Id of the result.
        id: &'a str,
    },
    /// The command of a step wrote something: not necessarily whole lines.
    Output {
        /// The step.
        step: StepKey,
        /// Where it wrote.
        stream: Stream,
        /// What it wrote.
        data: &'a [u8],
    },
    /// The command of a step ended, and this is what it used. Comes before the end of the step.
    StepUsage {
        /// The step.
        step: StepKey,
        /// What it used.
        usage: Usage,
    },
    /// A step ended well, executed or from the cache.
    StepDone {
        /// The step.
        step: StepKey,
        /// Id of the result, where one is known.
        id: Option<&'a str>,
    },
    /// A step failed.
    StepFailed {
        /// The step.
        step: StepKey,
        /// Why, on one line.
        message: &'a str,
        /// Its command, where that is what failed.
        command: Option<FailedCommand<'a>>,
        /// Where it stands.
        source: Option<SourceExcerpt<'a>>,
    },
    /// A step ended because another one failed or the user gave up.
    StepCancelled {
        /// The step.
        step: StepKey,
    },
    /// Config and manifest are being written.
    CommitStarted {
        /// First destination, as the user wrote it.
        name: Option<&'a str>,
    },
    /// The image exists.
    Committed {
        /// Image id.
        id: &'a str,
    },
    /// A name of the store now points to the image.
    Tagged {
        /// Full reference.
        name: &'a str,
    },
    /// Build arguments that no ARG asked for.
    UnusedBuildArgs {
        /// Their names.
        names: &'a [String],
    },
    /// A check found something in the Dockerfile. Comes when the steps are over.
    Finding {
        /// Rule, what it found, and where, on one line.
        text: &'a str,
    },
    /// The build is over, and there is no image.
    Failed,
    /// The build is over, and everything is where it belongs.
    Built {
        /// Image id.
        id: &'a str,
    },
    /// An image begins to move.
    TransferStarted {
        /// Which way.
        direction: Direction,
        /// Where from or to: a full reference, or `transport:path`.
        name: &'a str,
    },
    /// News of one layer of a transfer.
    Blob {
        /// Which way.
        direction: Direction,
        /// Digest of the layer as it is at the source.
        digest: &'a str,
        /// Its length in bytes, 0 where unknown.
        size: u64,
        /// What became of it.
        state: BlobState,
    },
    /// The config of the image moves: all its layers have.
    TransferConfig {
        /// Digest of the config.
        digest: &'a str,
    },
    /// The image has arrived.
    TransferDone {
        /// Which way.
        direction: Direction,
        /// Where from or to.
        name: &'a str,
        /// Digest of the manifest.
        digest: &'a str,
        /// Length of the manifest in bytes.
        size: u64,
        /// Whether anything was new to the receiving side.
        changed: bool,
    },
    /// How the build goes about its work here, where there are better ways that the pod does not allow.
    Note {
        /// Lower case, without a full stop.
        text: &'a str,
    },
    /// Something that the user should know.
    Warning {
        /// Lower case, without a full stop.
        text: &'a str,
    },
}

/// A receiver of events. Called from several threads, so each implementation locks for itself.
pub trait Sink: Send + Sync {
    /// Takes note of one event. Returns when it is written.
    fn event(&self, event: &Event<'_>);
}

/// A sink that ignores everything: for callers that show nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Sink for Silent {
    fn event(&self, _: &Event<'_>) {}
}
