//! `docker push` and `docker pull`.

use super::Failure;
use crate::build::request::RegistryOptions;
use crate::cli::foreign::{Flag, Foreign, Table, Verdict, boolean};
use crate::cli::names::Naming;
use crate::cli::platform::PlatformArgs;
use crate::cli::store_limit::StoreLimit;
use crate::cli::{Error, Global, foreign, output, pull as pulling, push as pushing};
use crate::export::Form;
use crate::oci::{Platform, Reference};
use crate::source::image::Pull;
use crate::store::Store;
use crate::ui::{Direction, DockerTransfer, Event, Silent, Sink, Terminal};
use std::sync::atomic::{AtomicBool, Ordering};

/// Flags of `push` and `pull` without a meaning here.
#[derive(Debug)]
pub(super) struct TransferFlags;

impl Table for TransferFlags {
    const FLAGS: &'static [Flag] = &[boolean("disable-content-trust", Verdict::NoEffect)];
}

/// Upload an image to a registry
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PushArgs {
    /// NAME[:TAG]
    name: String,
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Push a platform-specific manifest
    #[arg(long)]
    platform: Option<String>,
    #[command(flatten)]
    foreign: Foreign<TransferFlags>,
}

/// Download an image from a registry
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PullArgs {
    /// NAME[:TAG|@DIGEST]
    name: String,
    /// Refused: tags are pulled one by one
    #[arg(short, long, hide = true)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    foreign: Foreign<TransferFlags>,
}

fn sink(quiet: bool) -> Box<dyn Sink> {
    if quiet { Box::new(Silent) } else { Box::new(DockerTransfer::new(Terminal::stdio())) }
}

/// Pushes one tag, or all of a repository.
pub(super) fn push(args: &PushArgs, global: &Global) -> Result<(), Failure> {
    args.foreign.check(foreign::warn)?;
    if let Some(platform) = &args.platform {
        let wanted: Platform = platform.parse().map_err(|e: crate::oci::PlatformError| Error::usage(e.to_string()))?;
        if !Platform::host().accepts(&wanted) {
            return Err(
                Error::unsupported(format!("`--platform {platform}`"), "push from a machine of that platform").into()
            );
        }
    }
    let typed: Reference = args.name.parse().map_err(Error::from)?;
    if args.all_tags && (typed.tag.is_some() || typed.digest.is_some()) {
        return Err(Error::usage("tag can't be used with --all-tags/-a").into());
    }
    let store = global.store()?;
    if args.all_tags {
        let repository = Naming::Docker.complete(typed.clone()).name();
        let tags: Vec<Reference> = store
            .list()
            .map_err(Error::from)?
            .into_iter()
            .filter_map(|e| e.name?.parse::<Reference>().ok())
            .filter(|n| n.name() == repository)
            .collect();
        if tags.is_empty() {
            return Err(not_here(&args.name));
        }
        return tags.iter().try_for_each(|name| push_one(&store, name, args, global));
    }
    let name = Naming::Docker.full(&args.name)?;
    if typed.tag.is_none() && !args.quiet {
        output::print_line("Using default tag: latest")?;
    }
    push_one(&store, &name, args, global)
}

fn not_here(name: &str) -> Failure {
    Failure::Shown(vec![format!("An image does not exist locally with the tag: {name}")], 1)
}

fn push_one(store: &Store, name: &Reference, args: &PushArgs, global: &Global) -> Result<(), Failure> {
    // An image that `rbuild bud` called `localhost/x` is what `docker push x` means where there is no other `x`.
    let full = name.to_string();
    let image = if store.get(&full).map_err(Error::from)?.is_some() { full.clone() } else { args.name.clone() };
    if store.find(&image).is_err() {
        return Err(not_here(&Reference { tag: None, ..name.clone() }.familiar()));
    }
    let (to, options) = (format!("docker://{full}"), RegistryOptions::default());
    pushing::push(store, &image, Some(&to), (&Form::default(), None), &options, global, &*sink(args.quiet))?;
    if args.quiet {
        output::print_line(&full)?;
    }
    Ok(())
}

/// Passes events on and remembers whether an image was moved.
struct Watched {
    inner: Box<dyn Sink>,
    moved: AtomicBool,
}

impl Sink for Watched {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::TransferDone { .. }) {
            self.moved.store(true, Ordering::Relaxed);
        }
        self.inner.event(event);
    }
}

/// Pulls an image.
pub(super) fn pull(args: &PullArgs, global: &Global) -> Result<(), Failure> {
    args.foreign.check(foreign::warn)?;
    if args.all_tags {
        return Err(Error::unsupported("`--all-tags`", "pull each tag by its name").into());
    }
    let typed: Reference = args.name.parse().map_err(Error::from)?;
    if typed.tag.is_none() && typed.digest.is_none() && !args.quiet {
        output::print_line("Using default tag: latest")?;
    }
    let name = Naming::Docker.complete(typed);
    let platform = PlatformArgs::whole(args.platform.clone()).platform()?;
    let limit = StoreLimit::of(global)?;
    let store = global.store()?;
    let before = store.get(&name.to_string()).map_err(Error::from)?.map(|d| d.digest);
    let options = RegistryOptions::default();
    let sink = Watched { inner: sink(args.quiet), moved: AtomicBool::new(false) };
    pulling::from_registry(&store, &name.to_string(), Pull::Always, &platform, &options, global, &sink)?;
    limit.apply(&store);
    if args.quiet {
        return Ok(output::print_line(&name.to_string())?);
    }
    // Where all layers were here already, nothing was moved and nothing said.
    let now = store.get(&name.to_string()).map_err(Error::from)?;
    if let Some(now) = now.filter(|_| !sink.moved.load(Ordering::Relaxed)) {
        let (direction, name, digest) = (Direction::Pull, name.to_string(), now.digest.to_string());
        sink.event(&Event::TransferStarted { direction, name: &name });
        let changed = Some(now.digest) != before;
        sink.event(&Event::TransferDone { direction, name: &name, digest: &digest, size: now.size, changed });
    }
    Ok(())
}
