//! Flags of `docker build` and `docker buildx build` that rbuild knows and does not act on.

use crate::cli::foreign::{Flag, Table, Verdict, boolean, short, text};

/// Flags without a meaning here, or without one yet.
#[derive(Debug)]
pub(super) struct BuildFlags;

const LIMITS: Verdict =
    Verdict::Refused("RUN steps live in the pod's own limits: set `resources.limits` of the container");
const DEBUGGER: &str = "build up to the stage with `--target`, and look into it with `rbuild run`";

impl Table for BuildFlags {
    const FLAGS: &'static [Flag] = &[
        boolean("rm", Verdict::NoEffect),
        boolean("force-rm", Verdict::NoEffect),
        boolean("compress", Verdict::NoEffect),
        boolean("disable-content-trust", Verdict::NoEffect),
        text("builder", Verdict::Ignored("there is one builder, rbuild itself")),
        text("cgroup-parent", Verdict::Ignored("RUN steps stay in the pod's own cgroup")),
        // Docker's own store is where a build ends up anyway. Only `--push` asks for this one, in `BuildArgs::output`.
        boolean("load", Verdict::AsIs),
        text("isolation", Verdict::Only(&["", "default"], "leave it out: rbuild takes the strongest there is")),
        short('m', text("memory", LIMITS)),
        text("memory-swap", LIMITS),
        short('c', text("cpu-shares", LIMITS)),
        text("cpu-period", LIMITS),
        text("cpu-quota", LIMITS),
        text("cpuset-mems", LIMITS),
        text("resource", LIMITS),
        text(
            "policy",
            Verdict::Only(
                &["disabled=true"],
                "name a file of BuildKit's JSON in `EXPERIMENTAL_BUILDKIT_SOURCE_POLICY`",
            ),
        ),
        short('D', boolean("debug", Verdict::NoEffect)),
        // Of `buildx debug build`, and of what came before `--call`.
        text("invoke", Verdict::Refused(DEBUGGER)),
        text("on", Verdict::Refused(DEBUGGER)),
        text("print", Verdict::Refused("use `--call`")),
        boolean("detach", Verdict::RefusedIfTrue("there is no daemon that would go on: let the shell do it, with `&`")),
        text("server-config", Verdict::Refused("there is no server: leave it out")),
        boolean("stream", Verdict::RefusedIfTrue("leave it out: there is no daemon to stream to")),
    ];
}
