//! Flags of `docker build` and `docker buildx build` that rbuild knows and does not act on.

use crate::cli::foreign::{Flag, Table, Verdict, boolean, short, text};

/// Flags without a meaning here, or without one yet.
#[derive(Debug)]
pub(super) struct BuildFlags;

const LIMITS: Verdict =
    Verdict::Refused("RUN steps live in the pod's own limits: set `resources.limits` of the container");
const ATTEST: &str = "attestations are not made yet: pass `=false`, and scan the finished image";

impl Table for BuildFlags {
    const FLAGS: &'static [Flag] = &[
        boolean("rm", Verdict::NoEffect),
        boolean("force-rm", Verdict::NoEffect),
        boolean("compress", Verdict::NoEffect),
        boolean("disable-content-trust", Verdict::NoEffect),
        text("builder", Verdict::NoEffect),
        text("cache-from", Verdict::NoEffect),
        text("cgroup-parent", Verdict::NoEffect),
        // Docker's own store is where a build ends up anyway.
        boolean("load", Verdict::NoEffect),
        text("isolation", Verdict::Only(&["", "default"], "leave it out: rbuild takes the strongest there is")),
        text(
            "cache-to",
            Verdict::Only(&["type=inline"], "steps are cached in the store only; keep `RBUILD_ROOT` on a volume"),
        ),
        short('m', text("memory", LIMITS)),
        text("memory-swap", LIMITS),
        short('c', text("cpu-shares", LIMITS)),
        text("cpu-period", LIMITS),
        text("cpu-quota", LIMITS),
        text("cpuset-mems", LIMITS),
        text("resource", LIMITS),
        text("attest", Verdict::Refused(ATTEST)),
        boolean("provenance", Verdict::RefusedIfTrue(ATTEST)),
        boolean("sbom", Verdict::RefusedIfTrue(ATTEST)),
        text("policy", Verdict::Refused("pin base images by digest, or redirect them in registries.conf")),
        boolean("stream", Verdict::RefusedIfTrue("leave it out: there is no daemon to stream to")),
    ];
}
