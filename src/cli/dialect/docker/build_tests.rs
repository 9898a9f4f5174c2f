//! What command lines of `docker build` become.

use super::{Docker, Verb, build, canonical};
use crate::build::request::{BuildRequest, Context, ProgressStyle, PullPolicy, RootfsPlace};
use crate::cli::{Error, parse};
use crate::oci::{Location, ManifestFormat};

fn lower_in(env: &[(&str, &str)], line: &[&str]) -> Result<BuildRequest, Error> {
    lower_and_warn(env, line, &mut |_| ())
}

fn lower_and_warn(env: &[(&str, &str)], line: &[&str], warn: &mut dyn FnMut(String)) -> Result<BuildRequest, Error> {
    let args: Vec<_> = ["docker"].iter().chain(line).map(Into::into).collect();
    let var = |n: &str| env.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned());
    match parse::<Docker>(&canonical(&args))?.verb {
        Some(Verb::Build(b)) => b.lower(&var, warn),
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
    let arch = |line: &[&str]| {
        let request = lower_in(&[("DOCKER_DEFAULT_PLATFORM", "linux/s390x")], line).unwrap();
        request.platform.target.architecture
    };
    assert_eq!(
        (arch(&["build", "."]), arch(&["build", "--platform=linux/arm64", "."])),
        ("s390x".into(), "arm64".into())
    );
}

#[test]
fn outputs_and_push() {
    let places =
        |line: &[&str]| lower(line).output.destinations.iter().map(Location::to_string).collect::<Vec<_>>().join(" ");
    let both = "h:1/x:latest docker://h:1/x:latest";
    assert_eq!(places(&["build", "--push", "-t", "h:1/x", "."]), "docker://h:1/x:latest");
    assert_eq!(places(&["build", "-o", "type=image,push=true,name=h:1/x", "."]), "docker://h:1/x:latest");
    assert_eq!(places(&["build", "--push", "--load=false", "-t", "h:1/x", "."]), "docker://h:1/x:latest");
    assert_eq!(places(&["build", "--push", "--load", "-t", "h:1/x", "."]), both);
    assert_eq!(places(&["build", "--push", "-o", "type=docker", "-t", "h:1/x", "."]), both);
    assert_eq!(places(&["build", "-o", "type=cacheonly", "-t", "h:1/x", "."]), "h:1/x:latest");
    assert_eq!(places(&["buildx", "build", "-o", "type=oci,dest=o.tar", "."]), "oci-archive:o.tar");
    assert_eq!(places(&["build", "-o", "type=docker,dest=d.tar", "--load", "."]), "docker-archive:d.tar");
    assert!(lower_in(&[], &["build", "--push", "."]).is_err());
    let files = lower(&["build", "-o", "type=local,dest=x", "-o", "type=tar,dest=y", "."]).output.rootfs;
    let files: Vec<RootfsPlace> = files.into_iter().map(|f| f.place).collect();
    assert_eq!(files, [RootfsPlace::Directory("x".into()), RootfsPlace::Tar("y".into())]);
    let refused = lower_in(&[], &["build", "-o", "type=dir,dest=x", "."]).unwrap_err();
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
    for quiet in ["--progress=quiet", "--progress=none", "-q"] {
        assert!(lower(&["build", quiet, "."]).progress.quiet);
    }
    let plain = |env, line: &[&str]| !lower_in(env, line).unwrap().progress.quiet;
    assert!(plain(&[], &["build", "--progress=plain", "."]) && plain(&[], &["build", "--progress=auto", "."]));
    assert!(!plain(&[("BUILDKIT_PROGRESS", "quiet")], &["build", "."]));
    assert!(plain(&[("BUILDKIT_PROGRESS", "quiet")], &["build", "--progress=plain", "."]));
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
        &["build", "--provenance=mode=most", "."],
        &["build", "--provenance=false", "."],
        &["build", "--cache-to=type=registry", "."],
        &["build", "--progress=rawjson", "."],
        &["build", "--platform=linux/amd64,a/b/c/d", "."],
        &["build", "--nosuch", "."],
        &["build", "-f", "-", "-"],
    ];
    insta::assert_snapshot!(lines.iter().map(refused).collect::<Vec<_>>().join("\n"), @r#"
    'docker build' requires 1 argument

    Usage:  docker build [OPTIONS] PATH | URL | - | 
    invalid value `src=x` for `--secret`: it has no id | write `id=ID,src=FILE`
    `mode=most` of `--provenance` is not supported | use `mode=min`, `mode=max`, `version=v0.2`, `version=v1`, `builder-id=ID`, `reproducible=BOOL`
    ["build", "--provenance=false", "."] was accepted
    `--cache-to type=registry` has no `ref` | use `type=registry,ref=REPOSITORY`, `type=local` with `src=DIR` or `dest=DIR`, `type=redis,url=URL`, `type=http,url=URL` or, with `--cache-to`, `type=inline`
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

/// A value of each flag that has one.
const SAMPLES: &str = "add-host=a:1.2.3.4 allow=security.insecure annotation=a=b attest=type=sbom build-arg=A=b build-context=a=b cache-mount=id=a,to=h:1/a \
    cpuset-cpus=0 file=f iidfile=i label=a=b metadata-file=m network=none no-cache-filter=a output=type=oci,dest=o \
    platform=linux/s390x progress=quiet secret=id=a,src=b security-opt=mask=/a shm-size=1m ssh=a=b tag=t target=t \
    trust-ca=c ulimit=core=0";

#[test]
fn no_flag_is_dropped_on_the_way_to_the_request() {
    use clap::CommandFactory as _;
    let shown = |flag: &str| format!("{:?}", lower(&["build", "-t", "x", flag, "."]));
    let nothing = format!("{:?}", lower(&["build", "-t", "x", "."]));
    let command = Docker::command();
    let foreign: Vec<&str> =
        <super::build_foreign::BuildFlags as crate::cli::foreign::Table>::FLAGS.iter().map(|f| f.long).collect();
    let mut seen = 0;
    for arg in command.find_subcommand("build").unwrap().get_arguments().filter(|a| !a.is_global_set()) {
        let Some(long) = arg.get_long().filter(|l| !foreign.contains(l)) else { continue };
        // Not of the build, but in place of it; and how the program was called.
        if ["call", "check", "help", "buildx"].contains(&long) {
            continue;
        }
        let sample = SAMPLES.split_whitespace().find(|s| s.split_once('=').is_some_and(|(name, _)| name == long));
        let flag = format!("--{}", sample.map_or(format!("{long}=true"), str::to_owned));
        assert_ne!(shown(&flag), nothing, "{flag} is without consequence");
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
}

/// What `docker build` and `docker buildx build` have beyond what rbuild acts on.
const OF_OTHERS: &str = "attest=type=sbom,disabled=true attest=type=vex \
    builder=a cache-to=type=gha cgroup-parent=a compress=true cpu-period=5 \
    cpu-quota=5 cpu-shares=5 cpuset-mems=0 debug=true detach=true disable-content-trust=true force-rm=true \
    invoke=a isolation=default isolation=hyperv load=true load=false memory-swap=5 memory=5 on=error \
    policy=filename=a \
    policy=disabled=true print=outline progress=rawjson progress=tty provenance=false \
    resource=memory=5 rm=true sbom=false sbom=generator=a server-config=a \
    stream=true network=bridge network=container:a allow=device allow=network.host \
    security-opt=systempaths=unconfined";

#[test]
fn every_flag_of_others_is_known_and_refused_or_said_to_do_nothing() {
    let shown = |flag: &str| {
        let mut warnings = vec![];
        match lower_and_warn(&[], &["build", &format!("--{flag}"), "."], &mut |w| warnings.push(w)) {
            Ok(_) if warnings.is_empty() => format!("{flag}: so anyway"),
            Ok(_) => format!("{flag}: {}", warnings.join("; ")),
            Err(e) => format!("{flag}: {e} | {}", e.hint().unwrap_or_else(|| panic!("{flag}: {e}, and no hint"))),
        }
    };
    insta::assert_snapshot!(OF_OTHERS.split_whitespace().map(shown).collect::<Vec<_>>().join("\n"), @r#"
    attest=type=sbom,disabled=true: so anyway
    attest=type=vex: `type=vex` of `--attest` is not supported | use `type=sbom` or `type=provenance`
    builder=a: --builder has no effect here: there is one builder, rbuild itself
    cache-to=type=gha: `--cache-to type=gha` is not supported | use `type=registry,ref=REPOSITORY`, `type=local` with `src=DIR` or `dest=DIR`, `type=redis,url=URL`, `type=http,url=URL` or, with `--cache-to`, `type=inline`
    cgroup-parent=a: --cgroup-parent has no effect here: RUN steps stay in the pod's own cgroup
    compress=true: --compress has no effect here
    cpu-period=5: `--cpu-period` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cpu-quota=5: `--cpu-quota` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cpu-shares=5: `--cpu-shares` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cpuset-mems=0: `--cpuset-mems` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    debug=true: --debug has no effect here
    detach=true: `--detach` is not supported | there is no daemon that would go on: let the shell do it, with `&`
    disable-content-trust=true: --disable-content-trust has no effect here
    force-rm=true: --force-rm has no effect here
    invoke=a: `--invoke` is not supported | build up to the stage with `--target`, and look into it with `rbuild run`
    isolation=default: so anyway
    isolation=hyperv: `--isolation=hyperv` is not supported | leave it out: rbuild takes the strongest there is
    load=true: so anyway
    load=false: --load=false has no effect here
    memory-swap=5: `--memory-swap` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    memory=5: `--memory` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    on=error: `--on` is not supported | build up to the stage with `--target`, and look into it with `rbuild run`
    policy=filename=a: `--policy=filename=a` is not supported | name a file of BuildKit's JSON in `EXPERIMENTAL_BUILDKIT_SOURCE_POLICY`
    policy=disabled=true: so anyway
    print=outline: `--print` is not supported | use `--call`
    progress=rawjson: `--progress=rawjson` is not supported | use `plain` or `quiet`
    progress=tty: --progress=tty has no effect here: the output is that of `plain`
    provenance=false: so anyway
    resource=memory=5: `--resource` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    rm=true: --rm has no effect here
    sbom=false: so anyway
    sbom=generator=a: `generator` of `--sbom` is not supported | rbuild reads the packages itself: use `--sbom=spdx` or `--sbom=cyclonedx`
    server-config=a: `--server-config` is not supported | there is no server: leave it out
    stream=true: `--stream` is not supported | leave it out: there is no daemon to stream to
    network=bridge: so anyway
    network=container:a: `--network=container:a` is not supported | use `host` (the network of the pod) or `none`: a pod cannot make networks
    allow=device: `--allow device` is not supported | use `security.insecure` or `network.host`; `rbuild bud --device PATH` shows steps a device of the pod
    allow=network.host: so anyway
    security-opt=systempaths=unconfined: `--security-opt systempaths=unconfined` is not supported | use `seccomp=unconfined`, `seccomp=PROFILE`, `no-new-privileges`, `mask=PATHS` or `unmask=PATHS`
    "#);
    // Text flags take their value behind a blank, too.
    assert!(lower_in(&[], &["build", "--provenance", "false", "--sbom", "false", "-D", "."]).is_ok());
}

#[test]
fn a_squash_takes_the_new_layers_together() {
    let output = lower(&["build", "--squash", "."]).output;
    assert!(!output.layers && !output.squash, "the base keeps its layers");
}
