//! The flags of `buildah build` that `rbuild bud` knows and does not act on.

use super::foreign::{Flag, Table, Verdict, boolean, short, text};

/// Flags of `bud` without a meaning here, or without one yet.
#[derive(Debug)]
pub struct BudFlags;

const LIMITS: Verdict =
    Verdict::Refused("RUN steps live in the pod's own limits: set `resources.limits` of the container");
const USERNS: Verdict =
    Verdict::Refused("rbuild chooses the user namespace itself, as wide as the pod allows: see `rbuild info`");
const PRIVATE: Verdict = Verdict::Only(&["private", "container", ""], "RUN steps always get a namespace of their own");
const SBOM: Verdict = Verdict::Refused(
    "rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them",
);
const NO_RUNTIME: &str = "rbuild starts the commands of RUN itself";

impl Table for BudFlags {
    const FLAGS: &'static [Flag] = &[
        // What is so anyway: rbuild has no intermediate containers, no runtime, and compresses when a layer leaves.
        boolean("rm", Verdict::NoEffect),
        boolean("force-rm", Verdict::NoEffect),
        boolean("compress", Verdict::NoEffect),
        boolean("disable-content-trust", Verdict::NoEffect),
        short('D', boolean("disable-compression", Verdict::NoEffect)),
        text("blob-cache", Verdict::Ignored("what was pulled stays in the store; keep `RBUILD_ROOT` on a volume")),
        text("runtime", Verdict::Ignored(NO_RUNTIME)),
        text("runtime-flag", Verdict::Ignored(NO_RUNTIME)),
        text("cgroup-parent", Verdict::Ignored("RUN steps stay in the pod's own cgroup")),
        // Namespaces.
        text("pid", PRIVATE),
        text("ipc", PRIVATE),
        text("uts", PRIVATE),
        text("cgroupns", Verdict::Only(&["private", "host", ""], "RUN steps live in the pod's own cgroup")),
        text(
            "userns",
            Verdict::Only(&["container", "private", "auto", ""], "rbuild chooses the user namespace itself"),
        ),
        text("userns-uid-map", USERNS),
        text("userns-gid-map", USERNS),
        text("userns-uid-map-user", USERNS),
        text("userns-gid-map-group", USERNS),
        // Limits.
        short('m', text("memory", LIMITS)),
        text("memory-swap", LIMITS),
        short('c', text("cpu-shares", LIMITS)),
        text("cpu-period", LIMITS),
        text("cpu-quota", LIMITS),
        text("cpuset-mems", LIMITS),
        // Parts of the machine.
        text("cdi-config-dir", Verdict::Refused("CDI names are not known here: give paths with `--device`")),
        text("hooks-dir", Verdict::Refused("rbuild has no runtime that runs hooks: put the work into a RUN step")),
        boolean("stdin", Verdict::RefusedIfTrue("RUN steps read nothing: use a heredoc or COPY a file")),
        // Outputs.
        boolean("save-stages", Verdict::RefusedIfTrue("build the stage on its own with `--target STAGE -t NAME`")),
        boolean("stage-labels", Verdict::RefusedIfTrue("put LABEL instructions into the stages")),
        // Labels of intermediate images, which are not made.
        text("layer-label", Verdict::NoEffect),
        boolean("logsplit", Verdict::RefusedIfTrue("give each build a `--logfile` of its own")),
        boolean("log-rusage", Verdict::RefusedIfTrue("put `time` in front of the command in the RUN step")),
        text("rusage-logfile", Verdict::Refused("put `time` in front of the command in the RUN step")),
        text("cw", Verdict::Refused("images for confidential virtual machines are not made here")),
        // Supply chain.
        text(
            "sign-by",
            Verdict::Refused("sign with `--sign-key`, as cosign does, or with GPG by skopeo after the push"),
        ),
        text("decryption-key", Verdict::Refused("decrypt the base image with skopeo before the build")),
        text("sbom-scanner-image", SBOM),
        text("sbom-scanner-command", SBOM),
        text("sbom-merge-strategy", SBOM),
        text("sbom-output", SBOM),
        text("sbom-image-output", SBOM),
        text("sbom-purl-output", SBOM),
        text("sbom-image-purl-output", SBOM),
        // Profiles of the builder itself.
        text("cpu-profile", Verdict::Refused("profile rbuild with `perf record`")),
        text("memory-profile", Verdict::Refused("profile rbuild with `perf record`")),
    ];
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_refused_flag_has_its_hint() {
        super::super::foreign::assert_sound::<super::BudFlags>();
    }
}
