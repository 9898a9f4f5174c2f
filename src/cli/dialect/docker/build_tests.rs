//! What command lines of `docker build` become.

use super::{Docker, Verb, build, canonical};
use crate::build::request::{BuildRequest, Context, ProgressStyle, PullPolicy};
use crate::cli::{Error, parse};
use crate::oci::{Location, ManifestFormat};

fn lower_in(env: &[(&str, &str)], line: &[&str]) -> Result<BuildRequest, Error> {
    let args: Vec<_> = ["docker"].iter().chain(line).map(Into::into).collect();
    let var = |n: &str| env.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned());
    match parse::<Docker>(&canonical(&args))?.verb {
        Some(Verb::Build(b)) => b.lower(&var, &mut |_| ()),
        other => panic!("{line:?} is {other:?}"),
    }
}

fn lower(line: &[&str]) -> BuildRequest {
    lower_in(&[], line).unwrap_or_else(|e| panic!("{line:?}: {e}"))
}

#[test]
fn names_are_docker_s_and_so_is_the_format() {
    let r = lower(&["build", "-t", "x", "-t", "localhost:5000/worker", "dir"]);
    assert_eq!(r.context.main, Context::Dir("dir".into()));
    assert!(!r.file.containerfile);
    assert_eq!(r.output.format, ManifestFormat::Docker);
    let shown: Vec<String> = r.output.destinations.iter().map(Location::to_string).collect();
    assert_eq!(shown, ["docker.io/library/x:latest", "localhost:5000/worker:latest"]);
    assert_eq!(lower(&["build", "--annotation=a=b", "."]).output.format, ManifestFormat::Oci);
}

#[test]
fn outputs_and_push() {
    let places =
        |line: &[&str]| lower(line).output.destinations.iter().map(Location::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(places(&["build", "--push", "-t", "h:1/x", "."]), "h:1/x:latest docker://h:1/x:latest");
    assert_eq!(places(&["buildx", "build", "-o", "type=oci,dest=o.tar", "."]), "oci-archive:o.tar");
    assert_eq!(places(&["build", "-o", "type=docker,dest=d.tar", "--load", "."]), "docker-archive:d.tar");
    assert!(lower_in(&[], &["build", "--push", "."]).is_err());
    let refused = lower_in(&[], &["build", "-o", "type=local,dest=x", "."]).unwrap_err();
    assert!(refused.hint().is_some(), "{refused}");
}

#[test]
fn what_run_instructions_get() {
    let r = lower(&[
        "build",
        "--secret=id=a,src=f",
        "--ssh=default=/key",
        "--add-host=h:1.2.3.4",
        "--shm-size=1g",
        "--ulimit=core=0",
        "--allow=security.insecure,network.host",
        "--security-opt=seccomp=unconfined",
        ".",
    ])
    .security;
    assert_eq!((r.secrets.len(), r.ssh.len(), r.add_hosts.len(), r.ulimits.len()), (1, 1, 1, 1));
    assert_eq!((r.shm_size, r.allow_insecure), (Some(1 << 30), true));
    assert_eq!(r.seccomp, crate::build::request::Seccomp::Unconfined);
    assert!(r.http_proxy);
}

#[test]
fn the_form_of_the_output_follows_the_environment() {
    let style = |env: &[(&str, &str)], line: &[&str]| lower_in(env, line).unwrap().progress.style;
    assert_eq!(style(&[], &["build", "."]), ProgressStyle::Buildkit);
    assert_eq!(style(&[("DOCKER_BUILDKIT", "0")], &["build", "."]), ProgressStyle::Classic);
    assert_eq!(style(&[("DOCKER_BUILDKIT", "0")], &["buildx", "build", "."]), ProgressStyle::Buildkit);
    assert!(lower(&["build", "--progress=quiet", "."]).progress.quiet);
    assert_eq!(lower(&["build", "--pull", "."]).cache.pull, PullPolicy::Always);
    assert_eq!(lower(&["build", "--no-cache-filter=a,b", "."]).cache.no_cache_stages, ["a", "b"]);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_hint() {
    let refused = |line: &&[&str]| match lower_in(&[], line) {
        Ok(_) => format!("{line:?} was accepted"),
        Err(e) => format!("{e} | {}", e.hint().unwrap_or_default()),
    };
    let lines = [
        &["build"][..],
        &["build", "--secret=src=x", "."],
        &["build", "--provenance=mode=max", "."],
        &["build", "--provenance=false", "."],
        &["build", "--cache-to=type=registry,ref=x", "."],
        &["build", "--progress=rawjson", "."],
        &["build", "--platform=linux/amd64,a/b/c/d", "."],
        &["build", "--nosuch", "."],
        &["build", "-f", "-", "-"],
    ];
    insta::assert_snapshot!(lines.iter().map(refused).collect::<Vec<_>>().join("\n"), @r#"
    'docker build' requires 1 argument

    Usage:  docker build [OPTIONS] PATH | URL | - | 
    invalid value `src=x` for `--secret`: it has no id | write `id=ID,src=FILE`
    `--provenance` is not supported | attestations are not made yet: pass `=false`, and scan the finished image
    ["build", "--provenance=false", "."] was accepted
    `--cache-to=type=registry,ref=x` is not supported | steps are cached in the store only; keep `RBUILD_ROOT` on a volume
    `--progress=rawjson` is not supported | use `plain` or `quiet`
    invalid platform `a/b/c/d`: expected `os/arch`, `os/arch/variant` or an architecture | 
    unknown flag: --nosuch | did you mean `--no-cache`?
    invalid argument: can't use stdin for both build context and dockerfile |
    "#);
}

#[test]
fn a_failed_command_ends_a_build_as_docker_words_it() {
    let ends = [ProgressStyle::Buildkit, ProgressStyle::Classic].map(build::endings::of_run);
    insta::assert_snapshot!(ends.join("\n"), @r#"
    ERROR: failed to build: failed to solve: process "x" …[1]
    The command '/bin/sh -c x' returned a non-zero code: 7[7]
    "#);
}
