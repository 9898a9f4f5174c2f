//! Docker's command line, its building half, with Docker's flags, texts and exit codes. There is no daemon behind it:
//! images are in rbuild's store, which the process opens itself.
//!
//! Names follow Docker: `x` is `docker.io/library/x:latest`, shown as `x`. Images that `rbuild bud` named `localhost/x`
//! are found all the same. What Docker has beyond building, moving and listing images is refused with a hint.

mod annotation;
mod build;
mod build_foreign;

#[cfg(test)]
mod build_tests;
mod images;
mod system;
mod transfer;

use super::super::names::Naming;
use super::super::{Error, Global, foreign, history, import, load, output, save, tag, values};
use crate::error::Kind;
use crate::ui::Terminal;
use clap::{CommandFactory as _, Parser, Subcommand};
use std::ffi::OsString;

/// The version of Docker whose command line this is.
pub(super) const COMPATIBLE: &str = "28.2.2";

/// Build images the way Docker does, without a daemon (rbuild)
#[derive(Debug, Parser)]
#[command(name = "docker", disable_help_subcommand = true, args_override_self = true, max_term_width = 100)]
#[command(disable_version_flag = true)]
struct Docker {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    foreign: foreign::Foreign<GlobalFlags>,
    /// Print the version
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Flags in front of Docker's verbs: about a daemon and the connection to it.
#[derive(Debug)]
struct GlobalFlags;

impl foreign::Table for GlobalFlags {
    const FLAGS: &'static [foreign::Flag] = &[
        foreign::text("config", foreign::Verdict::Refused("set `DOCKER_CONFIG` to the directory instead")),
        foreign::text("context", foreign::Verdict::Only(&["default"], "there is no daemon to choose: leave it out")),
        foreign::short('D', foreign::boolean("debug", foreign::Verdict::NoEffect)),
        foreign::short(
            'H',
            foreign::text("host", foreign::Verdict::Refused("there is no daemon to choose: leave it out")),
        ),
        foreign::boolean("tls", foreign::Verdict::NoEffect),
        foreign::boolean("tlsverify", foreign::Verdict::NoEffect),
        foreign::text("tlscacert", foreign::Verdict::NoEffect),
        foreign::text("tlscert", foreign::Verdict::NoEffect),
        foreign::text("tlskey", foreign::Verdict::NoEffect),
    ];
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// List images
    Images(images::ImagesArgs),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(tag::TagArgs),
    /// Remove one or more images
    Rmi(images::RmiArgs),
    /// Upload an image to a registry
    Push(transfer::PushArgs),
    /// Download an image from a registry
    Pull(transfer::PullArgs),
    /// Save one or more images to a tar archive
    Save(SaveArgs),
    /// Load an image from a tar archive or STDIN
    Load(load::LoadArgs),
    /// Import the contents from a tarball to create a filesystem image
    Import(import::ImportArgs),
    /// Authenticate to a registry
    Login(system::LoginArgs),
    /// Log out from a registry
    Logout(system::LogoutArgs),
    /// Return low-level information on images
    Inspect(images::InspectArgs),
    /// Show the history of an image
    History(history::HistoryArgs),
    /// Show the Docker version information
    Version(system::VersionArgs),
    /// Display system-wide information
    Info(system::InfoArgs),
    /// Remove unused images
    #[command(hide = true)]
    ImagePrune(images::PruneArgs),
    /// Remove the step cache
    #[command(hide = true)]
    BuilderPrune(images::PruneArgs),
    /// Everything else, which is refused by name
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Save one or more images to a tar archive
#[derive(Clone, Debug, clap::Args)]
struct SaveArgs {
    /// The images
    #[arg(required = true)]
    images: Vec<String>,
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    output: Option<std::path::PathBuf>,
}

/// A failure, and how Docker words it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line is wrong: exit code 125 or 1.
    Usage(Error),
    /// The work failed: `Error response from daemon: …`, exit code 1.
    Daemon(Error),
    /// A build failed: what was already shown is followed by these lines; the code is given.
    Shown(Vec<String>, u8),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        match e {
            Error::Usage { .. } | Error::Unsupported { .. } => Failure::Usage(e),
            other => Failure::Daemon(other),
        }
    }
}

/// Runs a `docker …` command line and returns its exit code.
pub fn main(args: &[OsString]) -> u8 {
    let args = canonical(args);
    let mut terminal = Terminal::stdio();
    match super::super::parse::<Docker>(&args).map_err(Failure::from).and_then(dispatch) {
        Err(failure) => show(&failure, &args, &mut terminal),
        Ok(()) => match output::whole() {
            Ok(()) => 0,
            Err(e) => show(&Failure::Shown(vec![e.to_string()], 1), &args, &mut terminal),
        },
    }
}

/// Shows a failure and returns the exit code.
fn show(failure: &Failure, args: &[OsString], terminal: &mut Terminal) -> u8 {
    let mut say = |line: String| terminal.err(format!("{line}\n").as_bytes());
    match failure {
        Failure::Shown(lines, code) => {
            lines.iter().for_each(|l| say(l.clone()));
            *code
        }
        Failure::Daemon(Error::Silent(code)) | Failure::Usage(Error::Silent(code)) => *code,
        Failure::Daemon(e) => {
            say(format!("Error response from daemon: {e}"));
            e.hint().into_iter().for_each(|h| say(format!("hint: {h}")));
            super::super::error::signal_code().filter(|_| e.kind() == Kind::Cancelled).unwrap_or(1)
        }
        Failure::Usage(e) => {
            let verb = args.get(1).map(|v| format!(" {}", v.to_string_lossy())).unwrap_or_default();
            // Docker leaves with 125 where a flag is wrong, and with 1 where an argument is.
            let flag = e.to_string().contains("flag") || matches!(e, Error::Unsupported { .. });
            let prefix = if flag { "" } else { "docker: " };
            say(format!("{prefix}{e}"));
            e.hint().into_iter().for_each(|h| say(format!("hint: {h}")));
            say(format!("\nRun 'docker{verb} --help' for more information"));
            if flag { 125 } else { 1 }
        }
    }
}

/// Management commands in their short form: `docker image ls` is `docker images`, `docker buildx build` is `docker build`.
fn canonical(args: &[OsString]) -> Vec<OsString> {
    const SHORT: &[(&str, &str, &str)] = &[
        ("image", "build", "build"),
        ("builder", "build", "build"),
        ("buildx", "build", "build"),
        ("buildx", "b", "build"),
        ("image", "ls", "images"),
        ("image", "list", "images"),
        ("image", "rm", "rmi"),
        ("image", "remove", "rmi"),
        ("image", "tag", "tag"),
        ("image", "push", "push"),
        ("image", "pull", "pull"),
        ("image", "save", "save"),
        ("image", "load", "load"),
        ("image", "import", "import"),
        ("image", "history", "history"),
        ("image", "prune", "image-prune"),
        ("builder", "prune", "builder-prune"),
        ("buildx", "prune", "builder-prune"),
        ("system", "info", "info"),
    ];
    let mut out: Vec<OsString> = args.to_vec();
    // The verb is the first word that is no flag of the program; flags with values of their own are few.
    let mut at = 1;
    while let Some(word) = out.get(at).and_then(|w| w.to_str()).filter(|w| w.starts_with('-')) {
        let takes_value = ["-H", "--host", "--config", "--context", "-l", "--log-level", "--root"].contains(&word);
        at += if takes_value { 2 } else { 1 };
    }
    // So are flags of a group, which its verbs have, too.
    let is_group = out.get(at).is_some_and(|w| SHORT.iter().any(|(group, ..)| *w == **group));
    let mut flags = at + 1;
    while let Some(word) = out.get(flags).and_then(|w| w.to_str()).filter(|w| is_group && w.starts_with('-')) {
        flags += if word == "--builder" { 2 } else { 1 };
    }
    if let Some(words) = out.get_mut(at + 1..=flags) {
        words.rotate_right(1);
    }
    let pair = (out.get(at).and_then(|w| w.to_str()), out.get(at + 1).and_then(|w| w.to_str()));
    let (Some(group), Some(verb)) = pair else { return out };
    if group == "image" && verb == "inspect" {
        out.splice(at..at + 2, ["inspect".into(), "--type=image".into()]);
    } else if let Some((_, _, short)) = SHORT.iter().find(|(g, v, _)| *g == group && *v == verb) {
        if group == "buildx" && *short == "build" {
            out.splice(at..at + 2, ["build".into(), "--buildx".into()]);
        } else {
            out.splice(at..at + 2, [(*short).into()]);
        }
    }
    out
}

fn dispatch(docker: Docker) -> Result<(), Failure> {
    super::super::diagnostics(&docker.global);
    docker.foreign.check(foreign::warn)?;
    if docker.version {
        let build = env!("CARGO_PKG_VERSION");
        return Ok(output::print_line(&format!("Docker version {COMPATIBLE}, build rbuild-{build}"))?);
    }
    let Some(verb) = docker.verb else {
        let help = Docker::command().render_help().to_string();
        return Ok(output::print(&help)?);
    };
    let global = &docker.global;
    let namespaced = match verb {
        Verb::Build(_) | Verb::Rmi(_) | Verb::ImagePrune(_) | Verb::BuilderPrune(_) => true,
        // It may have to remove layer directories.
        Verb::Pull(_) => global.store_limit(&values::process_var)?.is_some(),
        _ => false,
    };
    if namespaced {
        let wanted = crate::cli::isolation(None, &values::process_var)?;
        crate::sandbox::isolation::enter(wanted).map_err(Error::from)?;
    }
    match verb {
        Verb::Build(args) => build::run(&args, global),
        Verb::Images(args) => images::list(&args, global),
        Verb::Tag(args) => {
            if args.names.len() != 1 {
                return Err(Error::usage("'docker tag' requires 2 arguments").into());
            }
            Ok(tag::run(&args, Naming::Docker, global).map_err(images::no_such_image)?)
        }
        Verb::Rmi(args) => images::rmi(&args, global),
        Verb::Push(args) => transfer::push(&args, global),
        Verb::Pull(args) => transfer::pull(&args, global),
        Verb::Save(args) => {
            let store = global.store()?;
            Ok(save::docker(&store, &args.images, args.output.as_deref()).map_err(images::no_such_image)?)
        }
        Verb::Load(args) => Ok(load::run(&args, Naming::Docker, global)?),
        Verb::Import(args) => Ok(import::run(&args, Naming::Docker, global)?),
        Verb::Login(args) => system::login(&args, global),
        Verb::Logout(args) => system::logout(&args, global),
        Verb::Inspect(args) => images::inspect(&args, global),
        Verb::History(args) => Ok(history::run(&args, global).map_err(images::no_such_image)?),
        Verb::Version(args) => system::version(&args),
        Verb::Info(args) => system::info(&args, global),
        Verb::ImagePrune(args) => images::prune(&args, global, false),
        Verb::BuilderPrune(args) => images::prune(&args, global, true),
        Verb::Other(words) => Err(other(&words).into()),
    }
}

/// What Docker has beyond images, and what to do instead.
fn other(words: &[OsString]) -> Error {
    let word = |n: usize| words.get(n).map(|w| w.to_string_lossy().into_owned()).unwrap_or_default();
    let (first, second) = (word(0), word(1));
    let hint = match first.as_str() {
        "run" | "create" | "start" | "exec" => "run a command in an image with `rbuild run IMAGE COMMAND`",
        "ps" | "container" | "stop" | "kill" | "rm" | "logs" | "attach" | "wait" | "cp" | "commit" | "diff"
        | "export" | "port" | "rename" | "restart" | "stats" | "top" | "update" | "pause" | "unpause" => {
            "there are no containers here: rbuild builds images"
        }
        "volume" | "network" | "node" | "service" | "stack" | "swarm" | "secret" | "config" | "plugin" | "context" => {
            "there is no daemon here: rbuild builds images"
        }
        "compose" | "bake" => "build each image with `docker build`",
        "manifest" => "build with several platforms in `--platform`, or use `rbuild manifest`",
        "buildx" => match second.as_str() {
            "version" | "ls" | "create" | "use" | "inspect" | "rm" | "stop" => {
                "there is one builder, rbuild itself, and it needs no setting up: leave the command out"
            }
            "imagetools" => "inspect images in a registry with skopeo",
            _ => "use `docker buildx build`",
        },
        "builder" => "use `docker builder build` or `docker builder prune`",
        "image" => {
            "use `docker image` with build, history, import, inspect, load, ls, prune, pull, push, rm, save or tag"
        }
        "system" => "use `docker image prune` and `docker builder prune`",
        "trust" | "search" | "scout" | "events" | "checkpoint" => "rbuild builds images and moves them; no more",
        _ => {
            return Error::usage(format!("unknown command: docker {first}"));
        }
    };
    let name = if ["buildx", "builder", "image", "system"].contains(&first.as_str()) && !second.is_empty() {
        format!("`docker {first} {second}`")
    } else {
        format!("`docker {first}`")
    };
    Error::unsupported(name, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn management_commands_are_their_short_forms() {
        for (long, short) in [
            ("docker image ls -q", "docker images -q"),
            ("docker buildx build .", "docker build --buildx ."),
            ("docker builder build .", "docker build ."),
            ("docker -D image rm x", "docker -D rmi x"),
            ("docker buildx --builder b -D build -q .", "docker build --buildx --builder b -D -q ."),
            ("docker buildx --builder", "docker buildx --builder"),
            ("docker --log-level debug image inspect x", "docker --log-level debug inspect --type=image x"),
            ("docker build image ls", "docker build image ls"),
        ] {
            assert_eq!(canonical(&words(long)), words(short), "{long}");
        }
    }

    #[test]
    fn the_command_tree_is_sound() {
        Docker::command().debug_assert();
        foreign::assert_sound::<GlobalFlags>();
        foreign::assert_sound::<build_foreign::BuildFlags>();
        foreign::assert_sound::<transfer::TransferFlags>();
    }

    #[test]
    fn the_rest_of_docker_is_refused_in_its_words() {
        let shown = |line: &str| {
            let args = canonical(&words(line));
            let failure =
                super::super::super::parse::<Docker>(&args).map_err(Failure::from).and_then(|d| match d.verb {
                    Some(Verb::Other(words)) => Err(other(&words).into()),
                    _ => Ok(()),
                });
            let capture = crate::ui::Capture::default();
            let code = match failure {
                Ok(()) => 0,
                Err(f) => show(&f, &args, &mut capture.terminal()),
            };
            format!("$ {line}\n{}[{code}]\n", capture.text())
        };
        let lines =
            ["docker run x", "docker ps", "docker buildx create", "docker foo", "docker images --nosuch", "docker tag"];
        insta::assert_snapshot!(lines.map(shown).concat(), @r#"
        $ docker run x
        `docker run` is not supported
        hint: run a command in an image with `rbuild run IMAGE COMMAND`

        Run 'docker run --help' for more information
        [125]
        $ docker ps
        `docker ps` is not supported
        hint: there are no containers here: rbuild builds images

        Run 'docker ps --help' for more information
        [125]
        $ docker buildx create
        `docker buildx create` is not supported
        hint: there is one builder, rbuild itself, and it needs no setting up: leave the command out

        Run 'docker buildx --help' for more information
        [125]
        $ docker foo
        docker: unknown command: docker foo

        Run 'docker foo --help' for more information
        [1]
        $ docker images --nosuch
        unknown flag: --nosuch
        hint: did you mean `--no-trunc`?

        Run 'docker images --help' for more information
        [125]
        $ docker tag
        docker: the following required arguments were not provided: <IMAGE> <NAMES>...

        Run 'docker tag --help' for more information
        [1]
        "#);
    }
}
