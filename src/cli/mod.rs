//! The command line: one file a verb, one file a foreign dialect.
//!
//! A verb has a struct of flags and one function. What was typed is lowered into what it means in one place (for builds:
//! [`BuildRequest`](crate::build::request::BuildRequest)); below, nothing reads flags or the environment. Data goes to
//! standard output, everything else to standard error. Errors are shown as `Error: …` and `hint: …`.
//!
//! The name under which the program is called chooses the dialect: `docker` speaks Docker ([`dialect::docker`]), every
//! other name is rbuild, whose flags are buildah's.
//!
//! Which verbs enter a user namespace, that is, handle files that belong to other users than the caller:
//!
//! | verb | why |
//! |---|---|
//! | `bud`, `run` | extract layers, run commands |
//! | `sbom` | extracts layers and reads them |
//! | `unshare` | its purpose |
//! | `rmi`, `prune`, `check` | remove or read layer directories with files of other ids |
//! | `info`, `doctor` | report what can be entered |
//! | `pull` with a limit to the store | may remove layer directories |
//! | all others | blobs and names only: they belong to the caller |

mod attest;
mod bud;
mod bud_foreign;
#[cfg(test)]
mod bud_tests;
mod build_output;
mod cache_flags;
mod calls;
mod check;
mod compression;
mod contexts;
mod debug_table;
mod delivery;
pub mod dialect;
mod doctor;
mod error;
mod foreign;
mod fuse;
mod global;
mod history;
mod images;
mod import;
mod info;
mod inspect;
mod lint;
mod listing;
mod load;
mod login;
mod manifest;
mod meter;
mod names;
mod output;
mod platform;
mod prune;
mod pull;
mod push;
mod registry_flags;
mod rmi;
mod run;
mod save;
mod sbom;
mod steps;
mod store_limit;
mod table;
mod tag;
mod template;
mod unshare;
mod values;
mod verify;
mod version;

pub use error::Error;
pub use global::Global;

use crate::sandbox::isolation;
use crate::ui::Terminal;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use names::Naming;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Rootless, daemonless container image builder
#[derive(Debug, Parser)]
#[command(name = "rbuild", version, disable_help_subcommand = true, args_override_self = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    storage: foreign::Foreign<StorageFlags>,
    #[command(subcommand)]
    verb: Verb,
}

/// The flags that buildah has in front of its verbs.
#[derive(Debug)]
struct StorageFlags;

impl foreign::Table for StorageFlags {
    const FLAGS: &'static [foreign::Flag] = &[
        foreign::text("storage-opt", foreign::Verdict::NoEffect),
        foreign::text("runroot", foreign::Verdict::NoEffect),
        foreign::text("cgroup-manager", foreign::Verdict::NoEffect),
        foreign::text(
            "short-name-alias-conf",
            foreign::Verdict::Refused("write `[aliases]` into registries.conf and name it with `--registries-conf`"),
        ),
        foreign::text(
            "userns-uid-map",
            foreign::Verdict::Refused("rbuild chooses the user namespace itself, as wide as the pod allows"),
        ),
        foreign::text(
            "userns-gid-map",
            foreign::Verdict::Refused("rbuild chooses the user namespace itself, as wide as the pod allows"),
        ),
    ];
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(visible_alias = "build", alias = "build-using-dockerfile")]
    Bud(Box<bud::BudArgs>),
    Images(images::ImagesArgs),
    Tag(tag::TagArgs),
    Rmi(rmi::RmiArgs),
    Inspect(inspect::InspectArgs),
    History(history::HistoryArgs),
    Manifest(manifest::ManifestArgs),
    Pull(Box<pull::PullArgs>),
    Push(Box<push::PushArgs>),
    Load(load::LoadArgs),
    Save(save::SaveArgs),
    Sbom(Box<sbom::SbomArgs>),
    Verify(Box<verify::VerifyArgs>),
    Import(import::ImportArgs),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    Run(Box<run::RunArgs>),
    Unshare(unshare::UnshareArgs),
    Version(version::VersionArgs),
    Info(info::InfoArgs),
    Doctor(doctor::DoctorArgs),
    Check(check::CheckArgs),
    Lint(lint::LintArgs),
    Prune(prune::PruneArgs),
    /// Answer questions about the Dockerfile language
    #[command(hide = true)]
    DebugTable,
    #[command(hide = true)]
    Fuse(fuse::FuseArgs),
    /// Everything else, which is refused by name.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

impl Verb {
    /// See the table in the module's head.
    fn enters_namespace(&self) -> bool {
        match self {
            Verb::Bud(_) | Verb::Run(_) | Verb::Sbom(_) | Verb::Unshare(_) | Verb::Fuse(_) => true,
            Verb::Rmi(_) | Verb::Prune(_) | Verb::Check(_) | Verb::Info(_) => true,
            Verb::Images(_) | Verb::Tag(_) | Verb::Inspect(_) | Verb::History(_) => false,
            Verb::Pull(_) | Verb::Push(_) | Verb::Load(_) | Verb::Save(_) | Verb::Import(_) => false,
            Verb::Lint(_) | Verb::Manifest(_) | Verb::Verify(_) => false,
            // It asks what the pod allows before it enters.
            Verb::Doctor(_) => false,
            Verb::Login(_) | Verb::Logout(_) | Verb::Version(_) | Verb::DebugTable | Verb::Other(_) => false,
        }
    }
}

/// Runs the program: reads the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = args.first().and_then(|a| Path::new(a).file_stem()).and_then(|s| s.to_str()).unwrap_or("rbuild");
    if crate::sys::stdio::stdout_was_closed() {
        crate::ui::Stdout::declare_closed();
    }
    if let Err(e) = delivery::end_on_signals() {
        e.show(&mut Terminal::stdio());
        return ExitCode::from(e.exit_code());
    }
    let code = match program {
        "docker" => dialect::docker::main(&args),
        _ => rbuild(&args),
    };
    ExitCode::from(code)
}

fn rbuild(args: &[OsString]) -> u8 {
    match parse::<Cli>(args).and_then(dispatch).and_then(|()| output::whole()) {
        Ok(()) => 0,
        Err(e) => {
            e.show(&mut Terminal::stdio());
            e.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Error> {
    diagnostics(&cli.global);
    cli.storage.check(foreign::warn)?;
    let global = &cli.global;
    // Where there is a limit, `pull` may have to remove layer directories.
    let limited = matches!(cli.verb, Verb::Pull(_)) && global.store_limit(&values::process_var)?.is_some();
    if cli.verb.enters_namespace() || limited {
        let wanted = match &cli.verb {
            Verb::Bud(args) => args.isolation,
            Verb::Run(args) => args.isolation,
            _ => None,
        };
        isolation::enter(isolation(wanted, &values::process_var)?)?;
    }
    match cli.verb {
        Verb::Bud(args) => bud::run(&args, global),
        Verb::Images(args) => images::run(&args, global),
        Verb::Tag(args) => tag::run(&args, Naming::Buildah, global),
        Verb::Rmi(args) => rmi::run(&args, global),
        Verb::Manifest(args) => manifest::run(&args, global),
        Verb::Inspect(args) => inspect::run(&args, global),
        Verb::History(args) => history::run(&args, global),
        Verb::Pull(args) => pull::run(&args, global),
        Verb::Push(args) => push::run(&args, global),
        Verb::Load(args) => load::run(&args, Naming::Buildah, global),
        Verb::Save(args) => save::run(&args, global),
        Verb::Sbom(args) => sbom::run(&args, global),
        Verb::Verify(args) => verify::run(&args, global),
        Verb::Import(args) => import::run(&args, Naming::Buildah, global),
        Verb::Login(args) => login::login(&args, global),
        Verb::Logout(args) => login::logout(&args, global),
        Verb::Run(args) => run::run(&args, global),
        Verb::Unshare(args) => unshare::run(&args),
        Verb::Version(args) => version::run(&args),
        Verb::Info(args) => info::run(&args, global),
        Verb::Doctor(args) => doctor::run(&args, global),
        Verb::Check(args) => check::run(&args, global),
        Verb::Lint(args) => lint::run(&args, global),
        Verb::Prune(args) => prune::run(&args, global),
        Verb::DebugTable => debug_table::run(),
        Verb::Fuse(args) => fuse::run(&args),
        Verb::Other(words) => Err(other_verb(&words)),
    }
}

/// What keeps steps apart: the flag, `RBUILD_ISOLATION`, or buildah's `BUILDAH_ISOLATION` where it names a way that there is.
///
/// # Errors
/// Where the first variable names none.
fn isolation(flag: Option<isolation::Choice>, var: &values::Var<'_>) -> Result<isolation::Choice, Error> {
    const NAME: &str = "RBUILD_ISOLATION";
    if let Some(choice) = flag {
        return Ok(choice);
    }
    if let Some(name) = var(NAME).filter(|v| !v.is_empty()) {
        return name.parse().map_err(|e| Error::usage(format!("`{NAME}`: {e}")));
    }
    Ok(var("BUILDAH_ISOLATION").and_then(|name| name.parse().ok()).unwrap_or_default())
}

/// Verbs of buildah that rbuild does not have, and what to do instead.
const FOREIGN_VERBS: &[(&str, &str)] = &[
    ("add", WORKING_CONTAINERS),
    ("commit", WORKING_CONTAINERS),
    ("config", WORKING_CONTAINERS),
    ("containers", WORKING_CONTAINERS),
    ("copy", WORKING_CONTAINERS),
    ("from", WORKING_CONTAINERS),
    ("mount", WORKING_CONTAINERS),
    ("rename", WORKING_CONTAINERS),
    ("rm", WORKING_CONTAINERS),
    ("umount", WORKING_CONTAINERS),
    ("mkcw", "images for confidential virtual machines are not made here"),
    ("source", "source images are not made here"),
];
const WORKING_CONTAINERS: &str = "there are no working containers: write a Dockerfile, and build it with `rbuild bud`";

fn other_verb(words: &[OsString]) -> Error {
    let verb = words.first().map(|w| w.to_string_lossy().into_owned()).unwrap_or_default();
    match FOREIGN_VERBS.iter().find(|(name, _)| *name == verb) {
        Some((_, hint)) => Error::unsupported(format!("`{verb}`"), *hint),
        None => Error::usage_hint(format!("unknown command `{verb}`"), unknown_verb_hint(&verb)),
    }
}

fn unknown_verb_hint(verb: &str) -> String {
    let near = Cli::command().get_subcommands().find_map(|c| {
        let name = c.get_name().to_owned();
        let close = name.starts_with(verb) || (verb.starts_with(&name) && !verb.is_empty());
        (close && !c.is_hide_set()).then_some(name)
    });
    near.map_or("see `rbuild --help`".into(), |n| format!("did you mean `{n}`?"))
}

/// Parses a command line. Help and version are printed, and end the program as [`Error::Silent`] 0.
fn parse<T: FromArgMatches + CommandFactory>(args: &[OsString]) -> Result<T, Error> {
    let mut command = T::command();
    let found = command.try_get_matches_from_mut(args).and_then(|m| T::from_arg_matches(&m));
    found.map_err(|e| usage(&e))
}

/// What clap found wrong, in buildah's words.
fn usage(e: &clap::Error) -> Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        Some(ContextValue::Strings(s)) => s.first().cloned(),
        _ => None,
    };
    let suggestion = |kind| context(kind).map(|s| format!("did you mean `{s}`?"));
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::print(&e.render().to_string()).err().unwrap_or(Error::Silent(0))
        }
        ErrorKind::UnknownArgument => {
            let flag = context(ContextKind::InvalidArg).unwrap_or_default();
            let what = if flag.starts_with('-') { "unknown flag" } else { "unexpected argument" };
            Error::Usage { message: format!("{what}: {flag}"), hint: suggestion(ContextKind::SuggestedArg) }
        }
        ErrorKind::InvalidSubcommand => {
            let verb = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let hint = suggestion(ContextKind::SuggestedSubcommand).unwrap_or("see `rbuild --help`".into());
            Error::usage_hint(format!("unknown command `{verb}`"), hint)
        }
        _ => {
            let text = e.render().to_string();
            let first: Vec<&str> = text.lines().take_while(|l| !l.is_empty()).map(str::trim).collect();
            let message = first.join(" ");
            Error::usage(message.strip_prefix("error: ").unwrap_or(&message))
        }
    }
}

/// `--log-level` or `RBUILD_LOG`: diagnostics on standard error. Progress and results never go this way.
fn diagnostics(global: &Global) {
    use tracing::level_filters::LevelFilter;
    let wanted = global.log_level.clone().or_else(|| std::env::var("RBUILD_LOG").ok()).unwrap_or_default();
    let level = match wanted.to_ascii_lowercase().as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => LevelFilter::WARN,
    };
    let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(true).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
        foreign::assert_sound::<StorageFlags>();
        foreign::assert_sound::<pull::PullFlags>();
        foreign::assert_sound::<push::PushFlags>();
        foreign::assert_sound::<run::RunFlags>();
    }

    fn refused(line: &[&str]) -> String {
        let args: Vec<OsString> = line.iter().map(Into::into).collect();
        let result = parse::<Cli>(&args).and_then(|cli| match cli.verb {
            Verb::Other(words) => Err(other_verb(&words)),
            Verb::Push(push) => push.foreign.check(|_| ()),
            _ => Ok(()),
        });
        match result {
            Err(e) => format!("{e} | {}", e.hint().unwrap_or_default()),
            Ok(()) => "accepted".into(),
        }
    }

    #[test]
    fn what_buildah_has_beyond_rbuild_is_refused_by_name() {
        let lines = [
            &["rbuild", "from", "x"][..],
            &["rbuild", "manifest", "list"],
            &["rbuild", "imagess"],
            &["rbuild", "frobnicate"],
            &["rbuild", "push", "--all=false", "x"],
            &["rbuild", "push", "--sign-by=me", "x"],
            &["rbuild", "tag", "x"],
        ];
        insta::assert_snapshot!(lines.map(refused).join("\n"), @r#"
        `from` is not supported | there are no working containers: write a Dockerfile, and build it with `rbuild bud`
        unknown command `list` | did you mean `exists`?
        unknown command `imagess` | did you mean `images`?
        unknown command `frobnicate` | see `rbuild --help`
        `--all=false` is not supported | leave it out: an index is pushed with all its images
        `--sign-by` is not supported | sign with `--sign-key`, as cosign does, or with GPG by skopeo after the push
        the following required arguments were not provided: <NAMES>... |
        "#);
    }
}
