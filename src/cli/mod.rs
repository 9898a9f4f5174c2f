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
//! | `unshare` | its purpose |
//! | `rmi`, `prune`, `check` | remove or read layer directories with files of other ids |
//! | `info` | reports what can be entered |
//! | all others | blobs and names only: they belong to the caller |

mod bud;
mod bud_foreign;
#[cfg(test)]
mod bud_tests;
mod delivery;
pub mod dialect;
mod error;
mod foreign;
mod global;
mod names;
mod output;
mod registry_flags;
mod table;
mod template;
mod values;

pub use error::Error;
pub use global::Global;

use crate::ui::Terminal;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
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
        foreign::text("storage-driver", foreign::Verdict::NoEffect),
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
}

impl Verb {
    /// See the table in the module's head.
    fn enters_namespace(&self) -> bool {
        match self {
            Verb::Bud(_) => true,
        }
    }
}

/// Runs the program: reads the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let program = args.first().and_then(|a| Path::new(a).file_stem()).and_then(|s| s.to_str()).unwrap_or("rbuild");
    let code = match program {
        "docker" => dialect::docker::main(&args),
        _ => rbuild(&args),
    };
    ExitCode::from(code)
}

fn rbuild(args: &[OsString]) -> u8 {
    match parse::<Cli>(args).and_then(run) {
        Ok(()) => 0,
        Err(e) => {
            e.show(&mut Terminal::stdio());
            e.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    diagnostics(&cli.global);
    cli.storage.check(foreign::warn)?;
    if cli.verb.enters_namespace() {
        crate::sys::userns::enter()?;
    }
    let global = &cli.global;
    match cli.verb {
        Verb::Bud(args) => bud::run(&args, global),
    }
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
            let _ = output::print(&e.render().to_string());
            Error::Silent(0)
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
