//! What command lines of `bud` become.

use super::{Cli, Error, Verb, parse};
use crate::build::request::{
    BuildRequest, Context, DockerfileSource, NamedContext, PullPolicy, Seccomp, SecretSource, VolumeMount,
};
use crate::oci::{Location, ManifestFormat};
use crate::plan::Network;
use crate::source::{GitUrl, Written};
use std::time::Duration;

const ENV: [(&str, &str); 2] = [("FROM_ENV", "v"), ("EMPTY", "")];

fn lower_in(env: &[(&str, &str)], line: &[&str]) -> (Result<BuildRequest, Error>, Vec<String>) {
    let args: Vec<_> = ["rbuild", "bud"].iter().chain(line).map(Into::into).collect();
    let mut warnings = vec![];
    let var = |n: &str| env.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned());
    let request = parse::<Cli>(&args).and_then(|cli| match cli.verb {
        Verb::Bud(bud) => bud.lower(&var, &mut |w| warnings.push(w)),
        _ => Err(Error::usage("another verb")),
    });
    (request, warnings)
}

fn lower(line: &[&str]) -> BuildRequest {
    match lower_in(&ENV, line) {
        (Ok(request), _) => request,
        (Err(e), _) => panic!("{line:?}: {e}"),
    }
}

/// The message and the hint.
fn refused(line: &[&str]) -> String {
    match lower_in(&ENV, line) {
        (Err(e), _) => format!("{e} | {}", e.hint().unwrap_or_default()),
        (Ok(_), _) => panic!("{line:?} was accepted"),
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let r = lower(&[]);
    assert_eq!(r.context.main, Context::Dir(".".into()));
    assert!(r.file.files.is_empty() && r.file.containerfile);
    assert!(r.output.layers && !r.output.squash && r.output.destinations.is_empty());
    assert_eq!(r.output.format, ManifestFormat::Oci);
    assert_eq!(r.cache.pull, PullPolicy::Missing);
    assert!(!r.cache.no_cache && r.target.skip_unused_stages && r.security.http_proxy);
    assert!(r.metadata.inherit_annotations && r.metadata.created_annotation);
    assert_eq!(r.registry.retry, 3);
    assert_eq!(r.security.network, None);
}

#[test]
fn files_contexts_and_names() {
    let r = lower(&["-f", "a", "-f", "-", "--ignorefile", "i", "-t", "x", "--tag=oci-archive:/o.tar:n", "dir"]);
    assert_eq!(r.file.files, [DockerfileSource::Path("a".into()), DockerfileSource::Stdin]);
    assert_eq!(r.context.main, Context::Dir("dir".into()));
    assert_eq!(r.context.ignorefile.as_deref(), Some("i".as_ref()));
    assert_eq!(
        r.output.destinations,
        [
            Location::Store("localhost/x:latest".parse().unwrap()),
            Location::OciArchive { path: "/o.tar".into(), name: Some("n".into()) },
        ]
    );
    let r = lower(&["--build-context", "a=dir", "--build-context=b=docker-image://busybox", "-"]);
    assert_eq!(r.context.main, Context::Stdin);
    assert_eq!(r.context.named[0], ("a".into(), NamedContext::Dir("dir".into())));
    assert_eq!(r.context.named[1], ("b".into(), NamedContext::Image("busybox".parse().unwrap())));
}

#[test]
fn contexts_of_every_kind() {
    let main = |text: &str| lower(&[text]).context.main;
    let git = |text: &str| GitUrl::parse(text, Written::CommandLine).unwrap().unwrap();
    assert_eq!(main("https://host/x.tar.gz"), Context::Web("https://host/x.tar.gz".into()));
    for text in ["https://host/x.git#main:sub", "git@host:x.git", "github.com/a/b", "file:///x", "ssh://host/x"] {
        assert_eq!(main(text), Context::Git(git(text)));
    }
    let named = |text: &str| lower(&["--build-context", &format!("n={text}")]).context.named.remove(0).1;
    let layout = |path: &str, tag: Option<&str>, digest| NamedContext::Layout {
        path: path.into(),
        tag: tag.map(str::to_owned),
        digest,
    };
    let digest = crate::oci::Digest::of("x");
    assert_eq!(named("oci-layout:///a/b"), layout("/a/b", None, None));
    assert_eq!(named("oci-layout://a:b/c:v1"), layout("a:b/c", Some("v1"), None));
    assert_eq!(named(&format!("oci-layout://a@{digest}")), layout("a", None, Some(digest)));
    assert_eq!(named("target:base"), NamedContext::Stage("base".into()));
    assert_eq!(named("https://host/x"), NamedContext::Web("https://host/x".into()));
    assert_eq!(named("https://host/x.git"), NamedContext::Git(git("https://host/x.git")));
    assert_eq!(lower(&["-f", "https://host/D"]).file.files, [DockerfileSource::Web("https://host/D".into())]);
}

#[test]
fn flags_of_the_preprocessor() {
    let flags = |env, line: &[&str]| lower_in(env, line).0.unwrap().file.cpp_flags;
    assert_eq!(
        flags(&[("BUILDAH_CPPFLAGS", "-DA -DB=1")], &["--cpp-flag", "-DC", "--cpp-flag=-DD=2"]),
        ["-DA", "-DB=1", "-DC", "-DD=2"]
    );
}

#[test]
fn build_arguments_take_values_from_the_environment() {
    let r = lower(&["--build-arg", "A=1=2", "--build-arg=FROM_ENV", "--build-arg", "GONE", "--build-arg", "E="]);
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(
        r.target.build_args,
        [("A".into(), some("1=2")), ("FROM_ENV".into(), some("v")), ("GONE".into(), None), ("E".into(), some(""))]
    );
}

#[test]
fn go_s_booleans_and_repeated_flags() {
    assert!(!lower(&["--layers=false"]).output.layers);
    assert!(lower(&["--layers"]).output.layers);
    assert!(!lower(&["--layers", "--layers=f"]).output.layers, "the last one counts");
    assert!(lower(&["-q", "."]).progress.quiet);
    assert_eq!(lower(&["--tls-verify=false"]).registry.tls_verify, Some(false));
    assert_eq!(lower(&["--target", "a", "--target", "b"]).target.stage.as_deref(), Some("b"));
    assert!(!lower_in(&[("BUILDAH_LAYERS", "false")], &[]).0.unwrap().output.layers);
    assert!(lower_in(&[("BUILDAH_LAYERS", "false")], &["--layers"]).0.unwrap().output.layers);
    let docker = lower_in(&[("BUILDAH_FORMAT", "docker")], &[]).0.unwrap();
    assert_eq!(docker.output.format, ManifestFormat::Docker);
}

#[test]
fn pull_policies() {
    for (line, want) in [
        (&["--pull"][..], PullPolicy::Always),
        (&["--pull=true"], PullPolicy::Always),
        (&["--pull=false"], PullPolicy::Missing),
        (&["--pull=newer"], PullPolicy::Newer),
        (&["--pull-never"], PullPolicy::Never),
        (&["--pull-always", "."], PullPolicy::Always),
    ] {
        assert_eq!(lower(line).cache.pull, want, "{line:?}");
    }
}

#[test]
fn times() {
    assert_eq!(lower(&["--timestamp", "0"]).metadata.timestamp, Some(0));
    let epoch = |line: &[&str]| lower_in(&[("SOURCE_DATE_EPOCH", "7")], line).0.unwrap().metadata.source_date_epoch;
    assert_eq!(epoch(&[]), Some(7));
    assert_eq!(epoch(&["--source-date-epoch=9"]), Some(9));
    assert_eq!(epoch(&["--timestamp=9"]), None);
    let named = |line: &[&str]| lower_in(&[("SOURCE_DATE_EPOCH", "context")], line).0.unwrap();
    let argument = [("SOURCE_DATE_EPOCH".to_owned(), Some("context".to_owned()))];
    assert_eq!((named(&[]).target.build_args, named(&[]).metadata.source_date_epoch), (argument.to_vec(), None));
    for line in [["--timestamp=9"], ["--source-date-epoch=9"]] {
        assert!(named(&line).target.build_args.is_empty(), "{line:?}");
    }
    assert!(lower_in(&[("SOURCE_DATE_EPOCH", "253402300800")], &[]).0.is_err());
    assert_eq!(lower(&["--timestamp", "-5"]).metadata.timestamp, Some(-5));
    assert_eq!(epoch(&["--source-date-epoch", "-5"]), Some(-5));
    assert!(lower(&["--cache-ttl=0s"]).cache.no_cache);
    assert_eq!(lower(&["--cache-ttl=1h"]).cache.ttl, Some(Duration::from_secs(3600)));
}

#[test]
fn what_run_steps_see() {
    let r = lower(&[
        "--network=none",
        "--add-host=a:1.2.3.4,b;c:::1",
        "-v",
        "/src:/dst:ro,Z",
        "--dns=1.1.1.1,8.8.8.8",
        "--dns-search=x",
        "--cap-add=CAP_SYS_ADMIN,net_raw",
        "--security-opt=seccomp=unconfined",
        "--security-opt=label=disable",
    ]);
    assert_eq!(r.security.network, Some(Network::None));
    assert_eq!(
        r.security.add_hosts,
        ["a 1.2.3.4", "b ::1", "c ::1"].map(|l| l.split_once(' ').map(|(n, a)| (n.into(), a.into())).unwrap())
    );
    for bad in ["--add-host=a b:1.2.3.4", "--add-host=a;:1.2.3.4", "--add-host=a\nb:1.2.3.4", "--add-host=a:b"] {
        assert!(refused(&[bad]).contains("expected `NAME:IP`"), "{bad}");
    }
    let volume = VolumeMount { source: "/src".into(), target: "/dst".into(), read_only: true, overlay: false };
    assert_eq!(r.security.volumes, [volume]);
    assert_eq!(r.security.dns.servers, ["1.1.1.1", "8.8.8.8"]);
    let caps: Vec<String> = r.security.cap_add.iter().map(|c| c.0.to_string()).collect();
    assert_eq!(caps, ["CAP_SYS_ADMIN", "CAP_NET_RAW"]);
    assert_eq!(r.security.seccomp, Seccomp::Unconfined);
    assert!(lower(&["--dns=none"]).security.dns.none);
    assert!(refused(&["--dns=none,1.1.1.1"]).contains("does not go with"));
    let r = lower(&[
        "--no-hosts",
        "--no-hostname",
        "--add-host=h:host-gateway",
        "--secret=id=FROM_ENV",
        "--ssh=k=/key",
        "--mount=type=tmpfs,target=/t",
        "--device=/dev/null:/dev/x,/dev/zero",
        "--group-add=a,5",
        "--shm-size=2m",
        "--ulimit=nofile=5:6,core=0",
        "--cpuset-cpus=0",
        "--allow=security.insecure,network.host",
        "--security-opt=mask=/a:/b",
        "--security-opt=unmask=/proc/acpi",
        "--trust-ca=ca.pem",
    ])
    .security;
    assert!(r.no_hosts && r.allow_insecure && r.allow_network);
    assert_eq!(r.add_hosts, [("h".into(), "host-gateway".into())]);
    assert_eq!(r.secrets[0].source, SecretSource::Variable("FROM_ENV".into()));
    assert_eq!((r.ssh[0].id.as_str(), r.mounts.len()), ("k", 1));
    assert_eq!(r.devices[0].target.to_str(), Some("/dev/x"));
    assert_eq!((r.groups.len(), r.shm_size, r.ulimits.len(), r.cpus), (2, Some(2 << 20), 2, vec![0]));
    assert_eq!((r.devices.len(), lower(&["--shm-size=0"]).security.shm_size), (2, None));
    assert_eq!(lower(&["--os-feature=x,y"]).platform.os_features, ["x", "y"]);
    assert_eq!((r.masked.len(), r.unmasked.paths.len(), r.authorities.len()), (2, 1, 1));
}

#[test]
fn metadata_of_the_image() {
    let r = lower(&[
        "--label=a=b",
        "--label",
        "bare",
        "--annotation=c=d=e",
        "--env=FROM_ENV",
        "--env",
        "GONE",
        "--unsetenv=X,Y",
        "--inherit-annotations=false",
        "--created-annotation=false",
    ]);
    assert_eq!(r.metadata.labels, [("a".into(), "b".into()), ("bare".into(), String::new())]);
    assert_eq!(r.metadata.annotations, [("c".into(), "d=e".into())]);
    assert_eq!(r.metadata.env, [("FROM_ENV".into(), "v".into())]);
    assert_eq!(r.metadata.unset_env, ["X", "Y"]);
    assert!(!r.metadata.inherit_annotations && !r.metadata.created_annotation);
}

#[test]
fn the_format_without_annotations_takes_none() {
    let warnings = |line: &[&str]| lower_in(&[("BUILDAH_FORMAT", "docker")], line).1;
    assert!(warnings(&["--annotation=a=b"]).concat().contains("--annotation has no effect"));
    assert_eq!(warnings(&["--annotation=a=b", "--format=oci"]), [""; 0]);
    assert_eq!(warnings(&[]), [""; 0]);
}

#[test]
fn flags_without_effect_say_so_once() {
    let (request, warnings) = lower_in(&ENV, &["--rm", "--force-rm=false", "--pid=private"]);
    assert!(request.is_ok());
    assert_eq!(warnings, ["--rm has no effect here", "--force-rm has no effect here"]);
    let (request, warnings) = lower_in(&ENV, &["--blob-cache=a", "--blob-cache=b"]);
    assert!(request.is_ok() && warnings.len() == 1, "{warnings:?}");
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let lines = [
        &["--security-opt=no-new-privileges=garbage"][..],
        &["--timestamp=253402300800"],
        &["--source-date-epoch", "-62167219201"],
        &["--jobs", "-1"],
        &["--retry", "-1"],
        &["--platform=foo"],
        &["--authfile=/nowhere/auth.json"],
        &["--cert-dir=/nowhere"],
        &["--cap-add=chown", "--cap-drop=chown"],
    ]
    .map(refused);
    insta::assert_snapshot!(lines.join("\n"), @r#"
    invalid value `garbage` for `--security-opt no-new-privileges`: expected `true` or `false` | 
    invalid value '253402300800' for '--timestamp <SECONDS>': out of range: times of images lie between -62167219200 (year 0) and 253402207200 (year 9999) | 
    invalid value '-62167219201' for '--source-date-epoch <SECONDS>': out of range: times of images lie between -62167219200 (year 0) and 253402207200 (year 9999) | 
    invalid value '-1' for '--jobs <N>': invalid digit found in string | 
    invalid value '-1' for '--retry <N>': -1 is not in 0..=4294967295 | 
    invalid platform `foo`: unknown operating system or architecture; expected `os/arch` | 
    there is no credentials file `/nowhere/auth.json` | `rbuild login --authfile /nowhere/auth.json` makes one; without the flag, the usual files count
    there is no directory of certificates `/nowhere` | 
    `--cap-add` and `--cap-drop` of `CAP_CHOWN` contradict each other | 
    "#);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_hint() {
    let lines: Vec<String> = [
        &["--memory", "2g"][..],
        &["--network=bridge"],
        &["--platform=linux/amd64,a/b/c/d"],
        &["--secret=src=x"],
        &["--device=vendor.com/gpu=0"],
        &["--group-add=keep-groups"],
        &["--volume=/a:/b:U"],
        &["--allow=device"],
        &["https://example/x.git?nonsense"],
        &["--build-context", "a=s3://bucket/x"],
        &["--build-context", "a=oci-layout://"],
        &["--output", "type=local,dset=x"],
        &["--output", "type=registry"],
        &["--security-opt=systempaths=unconfined"],
        &["--nosuch"],
        &["--labl=x"],
        &["--timestamp=1", "--source-date-epoch=2"],
        &["-f", "-", "-"],
        &["--tls-verify=maybe"],
        &["-t", "UPPER"],
        &["--creds=me"],
        &["a", "b"],
    ]
    .iter()
    .map(|line| refused(line))
    .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    `--memory` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    `--network=bridge` is not supported | use `host` (the network of the pod) or `none`: a pod cannot make networks
    invalid platform `a/b/c/d`: expected `os/arch`, `os/arch/variant` or an architecture | 
    invalid value `src=x` for `--secret`: it has no id | write `id=ID,src=FILE`
    `--device vendor.com/gpu=0` is not supported | write the path of a device that the pod has: CDI names are not known here
    `--group-add keep-groups` is not supported | name the groups: those of the machine have no numbers in an image's world
    volume option `U` is not supported | change the owner of the directory yourself, or use `O`: then nothing of it changes
    `--allow device` is not supported | use `security.insecure` or `network.host`; `rbuild bud --device PATH` shows steps a device of the pod
    invalid git address `https://example/x.git`: unexpected `nonsense` in its query | 
    invalid build context `a=s3://bucket/x` | write `NAME=` and a directory, a tar, a web or git address, `docker-image://IMAGE`, `oci-layout://DIR[:TAG]`, `containers-storage:IMAGE`, `docker-daemon:IMAGE` or `target:STAGE`
    invalid build context `a=oci-layout://` | write `NAME=` and a directory, a tar, a web or git address, `docker-image://IMAGE`, `oci-layout://DIR[:TAG]`, `containers-storage:IMAGE`, `docker-daemon:IMAGE` or `target:STAGE`
    `dset` of `--output type=local,dset=x` is not supported | use `type=image`, `type=registry`, `type=local,dest=DIR`, or `type=tar`, `type=docker` or `type=oci` with `dest=FILE`
    what is pushed needs a name | name the image with `-t`, or with `name=`
    `--security-opt systempaths=unconfined` is not supported | use `seccomp=unconfined`, `seccomp=PROFILE`, `no-new-privileges`, `mask=PATHS` or `unmask=PATHS`
    unknown flag: --nosuch | did you mean `--os`?
    unknown flag: --labl | did you mean `--label`?
    `--timestamp` and `--source-date-epoch` contradict each other | 
    context and Dockerfile cannot both be read from standard input | 
    invalid value 'maybe' for '--tls-verify[=<BOOL>]': expected `true` or `false` | 
    invalid image reference `UPPER`: the repository must be lower case | 
    `--creds` has no password | write `--creds USER:PASSWORD`, or use `rbuild login`
    unexpected argument: b |
    "#);
}

/// A value of each flag that has one, and that no default of this test's has.
const SAMPLES: &str = "registry-token-file=r=t output=a add-host=a:1.2.3.4 allow=security.insecure annotation=a=b arch=s390x attest=type=sbom authfile=Cargo.toml \
    build-arg-file=rustfmt.toml build-arg=A=b build-context=a=b cache-mount=id=a,to=h:1/a cache-ttl=5h cap-add=net_raw cap-drop=chown cert-dir=src \
    compression-format=zstd compression-level=9 force-compression cpp-flag=-DA cpuset-cpus=0 creds=u:p device=/dev/fuse dns-option=a dns-search=a dns=1.1.1.1 \
    emulator=e env=A=b file=f format=docker from=f group-add=5 ignorefile=i iidfile-raw=i iidfile=i jobs=3 label=a=b \
    layers=false logfile=l manifest=m metadata-file=m mount=type=tmpfs,dst=/t network=none os-feature=f os-version=1 os=plan9 \
    platform=linux/s390x pull=newer registry-timeout=9s retry-delay=7s retry=9 secret=id=a,src=b security-opt=mask=/a shm-size=1m sign-key=k \
    source-date-epoch=5 source-policy-file=p ssh=a=b tag=t target=t timestamp=5 trust-ca=c ulimit=core=0 \
    unsetannotation=a unsetenv=a unsetlabel=a variant=v9 volume=/a:/b";

#[test]
fn no_flag_is_dropped_on_the_way_to_the_request() {
    use clap::CommandFactory as _;
    let shown = |line: &[&str]| format!("{:?}", lower(line));
    let nothing = shown(&[]);
    let command = Cli::command();
    let bud = command.find_subcommand("bud").unwrap();
    let foreign: Vec<&str> =
        <super::bud_foreign::BudFlags as super::foreign::Table>::FLAGS.iter().map(|f| f.long).collect();
    let mut seen = 0;
    for arg in bud.get_arguments().filter(|a| !a.is_global_set() && !a.is_hide_set()) {
        let Some(long) = arg.get_long().filter(|l| !foreign.contains(l)) else { continue };
        let sample = SAMPLES.split(' ').find(|s| s.split_once('=').is_some_and(|(name, _)| name == long));
        let flag = match (sample, arg.get_default_values().first()) {
            // In place of a build, or acted on before there is a request.
            _ if ["call", "check", "help", "isolation"].contains(&long) => continue,
            (Some(sample), _) => format!("--{sample}"),
            (None, Some(default)) if default == "true" => format!("--{long}=false"),
            (None, _) => format!("--{long}=true"),
        };
        assert_ne!(shown(&[&flag]), nothing, "{flag} is without consequence");
        seen += 1;
    }
    assert!(seen > 70, "{seen}");
    // What is hidden, and other spellings.
    for flag in ["--pull-always", "--pull-never", "--squash-all", "--pull"] {
        assert_ne!(shown(&[flag]), nothing, "{flag}");
    }
}

/// What `buildah build` and `podman build` have beyond what rbuild acts on.
const OF_OTHERS: &str = "blob-cache=a cache-from=type=gha cache-to=type=s3,bucket=b cdi-config-dir=a cgroup-parent=a \
    cgroupns=host cgroupns=ns:a compress=true cpu-period=5 cpu-profile=a cpu-quota=5 cpu-shares=5 cpuset-mems=0 \
    cw=a decryption-key=a disable-compression=true disable-content-trust=true force-rm=true hooks-dir=a ipc=host \
    ipc=private layer-label=a log-rusage=true logsplit=true \
    memory-profile=a memory-swap=5 memory=5 pid=host pid=private rm=true runtime-flag=a runtime=a \
    rusage-logfile=a save-stages=true sbom-image-output=a sbom-image-purl-output=a sbom-merge-strategy=a \
    sbom-output=a sbom-purl-output=a sbom-scanner-command=a sbom-scanner-image=a sbom=syft sign-by=a \
    stage-labels=true stdin=true userns-gid-map-group=a userns-gid-map=a \
    userns-uid-map-user=a userns-uid-map=a userns=auto userns=host uts=host network=private network=ns:/a \
    network=pasta volume=/a:/b:U compression-format=xz format=v2s1 device=a.b/c=d allow=device";

#[test]
fn every_flag_of_others_is_known_and_refused_or_said_to_do_nothing() {
    let shown = |flag: &str| match lower_in(&ENV, &[&format!("--{flag}")]) {
        (Ok(_), warnings) if warnings.is_empty() => format!("{flag}: so anyway"),
        (Ok(_), warnings) => format!("{flag}: {}", warnings.join("; ")),
        (Err(e), _) => format!("{flag}: {e} | {}", e.hint().unwrap_or_else(|| panic!("{flag}: {e}, and no hint"))),
    };
    insta::assert_snapshot!(OF_OTHERS.split_whitespace().map(shown).collect::<Vec<_>>().join("\n"), @r#"
    blob-cache=a: --blob-cache has no effect here: what was pulled stays in the store; keep `RBUILD_ROOT` on a volume
    cache-from=type=gha: `--cache-from type=gha` is not supported | use `type=registry,ref=REPOSITORY`, `type=local` with `src=DIR` or `dest=DIR`, `type=redis,url=URL`, `type=http,url=URL` or, with `--cache-to`, `type=inline`
    cache-to=type=s3,bucket=b: `--cache-to type=s3` is not supported | use `type=registry,ref=REPOSITORY`, `type=local` with `src=DIR` or `dest=DIR`, `type=redis,url=URL`, `type=http,url=URL` or, with `--cache-to`, `type=inline`
    cdi-config-dir=a: `--cdi-config-dir` is not supported | CDI names are not known here: give paths with `--device`
    cgroup-parent=a: --cgroup-parent has no effect here: RUN steps stay in the pod's own cgroup
    cgroupns=host: so anyway
    cgroupns=ns:a: `--cgroupns=ns:a` is not supported | RUN steps live in the pod's own cgroup
    compress=true: --compress has no effect here
    cpu-period=5: `--cpu-period` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cpu-profile=a: `--cpu-profile` is not supported | profile rbuild with `perf record`
    cpu-quota=5: `--cpu-quota` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cpu-shares=5: `--cpu-shares` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cpuset-mems=0: `--cpuset-mems` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    cw=a: `--cw` is not supported | images for confidential virtual machines are not made here
    decryption-key=a: `--decryption-key` is not supported | decrypt the base image with skopeo before the build
    disable-compression=true: --disable-compression has no effect here
    disable-content-trust=true: --disable-content-trust has no effect here
    force-rm=true: --force-rm has no effect here
    hooks-dir=a: `--hooks-dir` is not supported | rbuild has no runtime that runs hooks: put the work into a RUN step
    ipc=host: `--ipc=host` is not supported | RUN steps always get a namespace of their own
    ipc=private: so anyway
    layer-label=a: --layer-label has no effect here
    log-rusage=true: `--log-rusage` is not supported | put `time` in front of the command in the RUN step
    logsplit=true: `--logsplit` is not supported | give each build a `--logfile` of its own
    memory-profile=a: `--memory-profile` is not supported | profile rbuild with `perf record`
    memory-swap=5: `--memory-swap` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    memory=5: `--memory` is not supported | RUN steps live in the pod's own limits: set `resources.limits` of the container
    pid=host: `--pid=host` is not supported | RUN steps always get a namespace of their own
    pid=private: so anyway
    rm=true: --rm has no effect here
    runtime-flag=a: --runtime-flag has no effect here: rbuild starts the commands of RUN itself
    runtime=a: --runtime has no effect here: rbuild starts the commands of RUN itself
    rusage-logfile=a: `--rusage-logfile` is not supported | put `time` in front of the command in the RUN step
    save-stages=true: `--save-stages` is not supported | build the stage on its own with `--target STAGE -t NAME`
    sbom-image-output=a: `--sbom-image-output` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom-image-purl-output=a: `--sbom-image-purl-output` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom-merge-strategy=a: `--sbom-merge-strategy` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom-output=a: `--sbom-output` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom-purl-output=a: `--sbom-purl-output` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom-scanner-command=a: `--sbom-scanner-command` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom-scanner-image=a: `--sbom-scanner-image` is not supported | rbuild reads the packages itself: `--sbom` attaches them to the image, `rbuild sbom -o FILE` writes them
    sbom=syft: `--sbom=syft` is not supported | rbuild reads the packages itself: use `--sbom=spdx` or `--sbom=cyclonedx`
    sign-by=a: `--sign-by` is not supported | sign with `--sign-key`, as cosign does, or with GPG by skopeo after the push
    stage-labels=true: `--stage-labels` is not supported | put LABEL instructions into the stages
    stdin=true: `--stdin` is not supported | RUN steps read nothing: use a heredoc or COPY a file
    userns-gid-map-group=a: `--userns-gid-map-group` is not supported | rbuild chooses the user namespace itself, as wide as the pod allows: see `rbuild info`
    userns-gid-map=a: `--userns-gid-map` is not supported | rbuild chooses the user namespace itself, as wide as the pod allows: see `rbuild info`
    userns-uid-map-user=a: `--userns-uid-map-user` is not supported | rbuild chooses the user namespace itself, as wide as the pod allows: see `rbuild info`
    userns-uid-map=a: `--userns-uid-map` is not supported | rbuild chooses the user namespace itself, as wide as the pod allows: see `rbuild info`
    userns=auto: so anyway
    userns=host: `--userns=host` is not supported | rbuild chooses the user namespace itself
    uts=host: `--uts=host` is not supported | RUN steps always get a namespace of their own
    network=private: `--network=private` is not supported | use `host` (the network of the pod) or `none`: a pod cannot make networks
    network=ns:/a: `--network=ns:/a` is not supported | use `host` (the network of the pod) or `none`: a pod cannot make networks
    network=pasta: `--network=pasta` is not supported | use `host` (the network of the pod) or `none`: a pod cannot make networks
    volume=/a:/b:U: volume option `U` is not supported | change the owner of the directory yourself, or use `O`: then nothing of it changes
    compression-format=xz: compression `xz` is not supported | use `gzip`, `zstd`, `estargz`, `zstd:chunked` or `none`
    format=v2s1: `--format v2s1` is not supported | use `docker` or `oci`: schema 1 is obsolete
    device=a.b/c=d: `--device a.b/c=d` is not supported | write the path of a device that the pod has: CDI names are not known here
    allow=device: `--allow device` is not supported | use `security.insecure` or `network.host`; `rbuild bud --device PATH` shows steps a device of the pod
    "#);
}
