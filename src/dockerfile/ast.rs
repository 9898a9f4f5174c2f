//! The typed syntax tree: what was written, with flags and forms told apart, and nothing expanded.

use super::Span;

/// A parsed Dockerfile.
#[derive(Clone, Debug, PartialEq)]
pub struct Dockerfile {
    /// The escape character: `\` or a backquote.
    pub escape: char,
    /// Value of the `syntax` directive.
    pub syntax: Option<String>,
    /// Value of the `check` directive.
    pub check: Option<String>,
    /// The ARG instructions before the first FROM.
    pub global_args: Vec<Instruction>,
    /// The stages, in order; never empty.
    pub stages: Vec<Stage>,
    /// What is suspicious but valid.
    pub warnings: Vec<Warning>,
}

/// Something suspicious but valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub span: Span,
    /// What, as one sentence without a full stop.
    pub message: String,
}

/// A FROM and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The FROM.
    pub from: From,
    /// Where the FROM stands.
    pub span: Span,
    /// The FROM as written, on one line.
    pub original: String,
    /// Comments directly above the FROM, without `#`.
    pub comments: Vec<String>,
    /// The other instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction other than FROM.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// Where it stands, heredocs included.
    pub span: Span,
    /// The logical line as written (continuations joined, comments gone, heredoc bodies not included).
    pub original: String,
    /// Comments directly above, without `#`.
    pub comments: Vec<String>,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// ADD.
    Add(Copy),
    /// ARG.
    Arg(Vec<ArgDef>),
    /// CMD.
    Cmd(CommandLine),
    /// COPY.
    Copy(Copy),
    /// ENTRYPOINT.
    Entrypoint(CommandLine),
    /// ENV.
    Env(Vec<KeyValue>),
    /// EXPOSE: the words.
    Expose(Vec<String>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// LABEL.
    Label(Vec<KeyValue>),
    /// MAINTAINER.
    Maintainer(String),
    /// ONBUILD.
    Onbuild(Onbuild),
    /// RUN.
    Run(Run),
    /// SHELL: program and arguments, never empty.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    StopSignal(String),
    /// USER.
    User(String),
    /// VOLUME: the paths.
    Volume(Vec<String>),
    /// WORKDIR.
    Workdir(String),
}

impl Kind {
    /// The keyword, upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            Kind::Add(_) => "ADD",
            Kind::Arg(_) => "ARG",
            Kind::Cmd(_) => "CMD",
            Kind::Copy(_) => "COPY",
            Kind::Entrypoint(_) => "ENTRYPOINT",
            Kind::Env(_) => "ENV",
            Kind::Expose(_) => "EXPOSE",
            Kind::Healthcheck(_) => "HEALTHCHECK",
            Kind::Label(_) => "LABEL",
            Kind::Maintainer(_) => "MAINTAINER",
            Kind::Onbuild(_) => "ONBUILD",
            Kind::Run(_) => "RUN",
            Kind::Shell(_) => "SHELL",
            Kind::StopSignal(_) => "STOPSIGNAL",
            Kind::User(_) => "USER",
            Kind::Volume(_) => "VOLUME",
            Kind::Workdir(_) => "WORKDIR",
        }
    }
}

/// FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// Image, stage or `scratch`.
    pub base: String,
    /// The name after AS, lower case; as written where it holds a variable.
    pub name: Option<String>,
    /// `--platform`.
    pub platform: Option<String>,
}

/// One argument of ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDef {
    /// Name.
    pub name: String,
    /// Default, with its quotes.
    pub default: Option<String>,
}

/// `name=value` of ENV and LABEL, with quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
    /// Written in the legacy form `name value`, which keeps the rest of the line as the value.
    pub legacy: bool,
}

/// The command of RUN, CMD, ENTRYPOINT and HEALTHCHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A text for the shell.
    Shell(String),
    /// JSON form: program and arguments.
    Exec(Vec<String>),
}

/// A heredoc of RUN, COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminator, without quotes.
    pub name: String,
    /// The lines, as written.
    pub content: String,
    /// Whether variables in the content are substituted: no part of the terminator was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs of each line are dropped.
    pub chomp: bool,
    /// The number before `<<`.
    pub fd: Option<u32>,
}

impl Heredoc {
    /// Whether a text is the opening of a heredoc and nothing else.
    pub fn opens(text: &str) -> bool {
        super::heredoc::opening(text).is_some()
    }

    /// The content, with the leading tabs of each line gone where `<<-` was written.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|l| l.trim_start_matches('\t')).collect()
    }
}

/// RUN.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The command, as written on the line.
    pub command: CommandLine,
    /// The heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`s, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`.
    pub network: Option<RunNetwork>,
    /// `--security`, as written.
    pub security: Option<String>,
    /// `--device`s, as written.
    pub devices: Vec<String>,
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunNetwork {
    /// What the build uses.
    Default,
    /// Only a loopback interface.
    None,
    /// The pod's.
    Host,
}

/// What kind of `RUN --mount`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of a stage, an image or the context.
    #[default]
    Bind,
    /// A directory that lasts from build to build.
    Cache,
    /// A new directory in memory.
    Tmpfs,
    /// A file that stays out of the image.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each writer gets its own.
    Private,
    /// One after the other.
    Locked,
}

/// A `RUN --mount` as written. Its values may hold variables, so what they mean is known only to the plan:
/// [`MountFlag::resolve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFlag {
    /// The value of the flag.
    pub text: String,
}

/// The options of a `RUN --mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mount {
    /// `type`.
    pub kind: MountKind,
    /// `target`, `dst`, `destination`.
    pub target: Option<String>,
    /// `source`, `src`: path in the source of a bind or cache mount.
    pub source: Option<String>,
    /// `from`: stage, image or named context.
    pub from: Option<String>,
    /// `id` of a cache, secret or agent.
    pub id: Option<String>,
    /// Whether writing fails. A bind mount that may be written to loses the changes after the step.
    pub read_only: bool,
    /// `sharing`.
    pub sharing: Sharing,
    /// `size` of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// `required`: without the secret or agent the step fails.
    pub required: bool,
    /// `mode`, permission bits.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `env`: name of the variable that holds the secret.
    pub env: Option<String>,
    /// `z`, `Z`, `relabel`: a label for SELinux was asked for.
    pub relabel: bool,
    /// `nosuid`: setuid bits have no effect.
    pub no_suid: bool,
    /// `nodev`: device nodes cannot be opened.
    pub no_dev: bool,
    /// `noexec`: programs cannot be executed.
    pub no_exec: bool,
    /// `tmpcopyup`: a tmpfs begins with what the image has at its place.
    pub copy_up: bool,
}

/// COPY and ADD.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copy {
    /// Sources, in order.
    pub sources: Vec<Source>,
    /// Destination.
    pub dest: String,
    /// `--from` (COPY).
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents` (COPY).
    pub parents: bool,
    /// `--exclude`s.
    pub exclude: Vec<String>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--checksum` (ADD).
    pub checksum: Option<String>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
}

/// One source of COPY and ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Path, pattern or URL.
    Path(String),
    /// A heredoc.
    Heredoc(Heredoc),
}

/// HEALTHCHECK. Durations are nanoseconds, zero where not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// The command; `None` for `HEALTHCHECK NONE`.
    pub command: Option<CommandLine>,
    /// `--interval`.
    pub interval: i64,
    /// `--timeout`.
    pub timeout: i64,
    /// `--start-period`.
    pub start_period: i64,
    /// `--start-interval`.
    pub start_interval: i64,
    /// `--retries`.
    pub retries: i64,
}

/// ONBUILD.
#[derive(Clone, Debug, PartialEq)]
pub struct Onbuild {
    /// The trigger as it is stored in the image, heredocs included.
    pub trigger: String,
    /// The trigger, parsed.
    pub instruction: Box<Instruction>,
}
