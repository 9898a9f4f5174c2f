//! The same inputs give the same digest, and a second build executes nothing.

use crate::harness::{Lab, Registry, busybox_is_missing, require};
use std::fs;

const DOCKERFILE: &str = "FROM localhost/busybox AS a\n\
    RUN mkdir /made && echo one > /made/one && ln /made/one /made/two && ln -s one /made/three && mkfifo /made/four\n\
    RUN date +%s%N > /dev/null; rm -rf /root; touch /tmp/now\n\
    FROM localhost/busybox\n\
    COPY . /context/\n\
    COPY --from=a --chown=33:33 /made /made\n\
    RUN rm -r /var && mkdir /var && echo executed-$((20 + 22))\n";

/// Builds in a lab of its own and pushes to an OCI layout; returns the manifest's digest.
fn digest() -> String {
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context(
        "context",
        &[("Dockerfile", DOCKERFILE), ("b/file", "b"), ("a", "a"), (".dockerignore", "c\n"), ("c", "no")],
    );
    let epoch = "1700000000";
    lab.rbuild(["bud", "-t", "localhost/x"]).arg(&context).env("SOURCE_DATE_EPOCH", epoch).ok();
    let digest = lab.path("home/digest");
    let target = format!("oci:{}:x", lab.path("tmp/layout").display());
    lab.rbuild(["push", "--digestfile"]).arg(&digest).args(["localhost/x", &target]).ok();
    fs::read_to_string(digest).expect("the digest file")
}

#[test]
fn two_stores_give_one_digest() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (first, second) = (digest(), digest());
    assert!(first.starts_with("sha256:"), "{first}");
    assert_eq!(first, second);
}

#[test]
fn a_cached_build_executes_and_pulls_nothing() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (maker, lab, registry) = (Lab::new(), Lab::new(), Registry::start());
    maker.import_busybox();
    let base = format!("{}/base/busybox:1", registry.host());
    maker.rbuild(["push", "localhost/busybox"]).arg(format!("docker://{base}")).ok();
    let dockerfile = DOCKERFILE.replace("localhost/busybox", &base);
    let context = lab.context("context", &[("Dockerfile", &dockerfile), ("a", "a")]);
    let build = || lab.rbuild(["bud", "-t", "localhost/x"]).arg(&context).env("SOURCE_DATE_EPOCH", "1700000000");
    let first = build().ok();
    assert!(first.stdout.contains("executed-42"), "{first}");
    let id = first.stdout.lines().last().expect("an id").to_owned();
    for round in 0..2 {
        let again = build().ok();
        assert!(!again.stdout.lines().any(|l| l.contains("executed-42")), "round {round} executed a step: {again}");
        assert_eq!(again.stdout.matches("--> Using cache").count(), 5, "{again}");
        assert_eq!(again.stdout.lines().last(), Some(id.as_str()), "{again}");
        assert!(!again.stderr.contains("Copying blob"), "{again}");
    }
    // Another file in the context: what comes before its COPY is still taken from the cache, the rest is not.
    lab.write("context/a", "changed");
    let changed = build().ok();
    assert!(changed.stdout.contains("executed-42"), "{changed}");
    assert_eq!(changed.stdout.matches("--> Using cache").count(), 2, "{changed}");
    // And refusing the cache executes all.
    let refused = lab.rbuild(["bud", "--no-cache", "-t", "localhost/x"]).arg(&context).ok();
    assert!(refused.stdout.contains("executed-42") && !refused.stdout.contains("Using cache"), "{refused}");
}
