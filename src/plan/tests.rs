//! Plans of small Dockerfiles, with images that the test makes up.

use super::*;
use crate::dockerfile::Sharing;
use crate::error::Classified;
use crate::oci::{Digest, ImageConfig, Platform};
use std::sync::Arc;

/// Knows `base` (with some config), `trigger` (with ONBUILD) and `plain`.
struct Images;

#[derive(Debug, thiserror::Error)]
#[error("no such image")]
struct NoImage;

impl Classified for NoImage {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::NotFound
    }
}

impl Resolver for Images {
    fn image(&mut self, reference: &str, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let mut config = ImageConfig::scratch(platform);
        match reference {
            "base" => {
                config.config.env = vec!["PATH=/b".into(), "X=base".into()];
                config.config.cmd = Some(vec!["basecmd".into()]);
                config.config.working_dir = "/w".into();
                config.config.user = "u".into();
            }
            "trigger" => config.config.on_build = vec!["COPY --from=base a /b".into(), "ENV T=1".into()],
            "plain" => {}
            _ => return Err(Box::new(NoImage)),
        }
        let reference: crate::oci::Reference = reference.parse().expect("a reference");
        Ok(Arc::new(ResolvedImage { name: reference.to_string(), reference, manifest: Digest::of("m"), config }))
    }

    fn layout(&mut self, context: ContextId, platform: &Platform) -> Result<Arc<ResolvedImage>, ResolveError> {
        let config = ImageConfig::scratch(platform);
        let reference: crate::oci::Reference = format!("layout{}", context.0).parse().expect("a reference");
        Ok(Arc::new(ResolvedImage { name: "layout".into(), reference, manifest: Digest::of("l"), config }))
    }
}

fn request(text: &str) -> PlanRequest {
    let mut r = PlanRequest::new(text);
    r.platform = Platform::linux("amd64");
    r.build_platform = Platform::linux("amd64");
    r
}

fn made(text: &str) -> Plan {
    plan(&request(text), &mut Images).unwrap_or_else(|e| panic!("{e}"))
}

fn fault(text: &str) -> String {
    plan(&request(text), &mut Images).expect_err("must fail").to_string()
}

fn target(p: &Plan) -> &crate::oci::ContainerConfig {
    &p.stages[p.target].image.config
}

fn histories(p: &Plan) -> Vec<&str> {
    p.steps.iter().filter_map(|s| s.history.as_ref()?.created_by.as_deref()).collect()
}

fn run(p: &Plan, n: usize) -> &Run {
    let runs = p.steps.iter().filter_map(|s| match &s.kind {
        StepKind::Run(r) => Some(r),
        _ => None,
    });
    runs.into_iter().nth(n).expect("a RUN")
}

#[test]
fn a_working_directory_ends_as_it_was_written() {
    for (lines, expected) in [
        ("WORKDIR /tmp/", "/tmp/"),
        ("WORKDIR sub/", "/w/sub/"),
        ("WORKDIR /a/\nWORKDIR b", "/a/b"),
        ("WORKDIR /a/.", "/a/."),
        ("WORKDIR //", "/"),
    ] {
        let p = made(&format!("FROM base\n{lines}\nRUN true\n"));
        assert_eq!(target(&p).working_dir, expected, "{lines}");
        let cwd = p.steps.iter().find_map(|s| match &s.kind {
            StepKind::Run(run) => Some(run.cwd.clone()),
            _ => None,
        });
        assert_eq!(
            cwd.unwrap(),
            expected.trim_end_matches('.').trim_end_matches('/').to_owned() + if expected == "/" { "/" } else { "" }
        );
    }
}

#[test]
fn a_chain_of_config() {
    let p = made(
        "FROM base\nENV A=1 B=$A\nENV B=$A$X\nWORKDIR sub\nWORKDIR /x/../y\nUSER root\nEXPOSE 80 53/udp\nVOLUME [\"/v\"]\n\
         LABEL a=\"b c\"\nSTOPSIGNAL 9\nCMD echo $A\nSHELL [\"/bin/bash\", \"-c\"]\nMAINTAINER me\nENTRYPOINT [\"e\"]\n\
         HEALTHCHECK --interval=5s CMD true\n",
    );
    let c = target(&p);
    assert_eq!(c.env, ["PATH=/b", "X=base", "A=1", "B=1base"]);
    assert_eq!(c.working_dir, "/y");
    assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    assert_eq!(c.cmd.as_deref(), Some(&["/bin/sh".to_owned(), "-c".into(), "echo $A".into()][..]));
    assert_eq!(c.entrypoint.as_deref(), Some(&["e".to_owned()][..]));
    assert_eq!(p.stages[0].image.author.as_deref(), Some("me"));
    assert_eq!(c.healthcheck.as_ref().map(|h| h.interval), Some(5_000_000_000));
    assert_eq!(
        histories(&p),
        [
            "ENV A=1 B=",
            "ENV B=1base",
            "WORKDIR /w/sub",
            "WORKDIR /y",
            "USER root",
            "EXPOSE [80/tcp 53/udp]",
            "VOLUME [/v]",
            "LABEL a=b c",
            "STOPSIGNAL 9",
            "CMD [\"/bin/sh\" \"-c\" \"echo $A\"]",
            "SHELL [/bin/bash -c]",
            "MAINTAINER me",
            "ENTRYPOINT [\"e\"]",
            "HEALTHCHECK {Test:[CMD-SHELL true] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        ]
    );
    assert_eq!(p.steps.iter().map(|s| s.number).collect::<Vec<_>>(), (1..=15).collect::<Vec<_>>());
}

#[test]
fn an_entrypoint_drops_an_inherited_cmd_only() {
    assert_eq!(target(&made("FROM base\nENTRYPOINT [\"e\"]\n")).cmd, None);
    assert!(target(&made("FROM base\nCMD c\nENTRYPOINT [\"e\"]\n")).cmd.is_some());
    assert_eq!(target(&made("FROM base\nENTRYPOINT []\nCMD []\n")).entrypoint, None);
}

#[test]
fn the_later_of_arg_and_env_wins() {
    let mut r = request("ARG G=g\nFROM base\nARG A=1\nENV A=2\nRUN x\nARG A=3\nARG G\nARG X\nRUN y $A\nENV Z=$A$G\n");
    r.build_args = vec![("X".into(), Some("given".into())), ("UNUSED".into(), Some("1".into()))];
    let p = plan(&r, &mut Images).unwrap();
    let get = |n: usize, name: &str| run(&p, n).env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    assert_eq!(get(0, "A").as_deref(), Some("2"));
    assert_eq!(get(0, "X").as_deref(), Some("base"));
    assert_eq!(get(1, "A").as_deref(), Some("3"));
    assert_eq!(get(1, "X").as_deref(), Some("given"));
    assert_eq!(target(&p).env, ["PATH=/b", "X=base", "A=2", "Z=3g"]);
    assert_eq!(p.unused_build_args, ["UNUSED"]);
    let h = histories(&p);
    assert_eq!(h[2], "RUN |1 A=2 /bin/sh -c x # buildkit");
    assert_eq!(h[6], "RUN |3 A=3 G=g X=given /bin/sh -c y $A # buildkit");
}

#[test]
fn proxies_leave_no_trace_unless_declared() {
    let mut r = request("FROM plain\nRUN x\nARG http_proxy\nRUN y\n");
    r.build_args = vec![("http_proxy".into(), Some("p".into()))];
    let p = plan(&r, &mut Images).unwrap();
    let both: Vec<(String, String)> = vec![("HTTP_PROXY".into(), "p".into()), ("http_proxy".into(), "p".into())];
    assert_eq!(run(&p, 0).proxy_env, both);
    assert!(run(&p, 0).env.iter().all(|(n, _)| n != "http_proxy"));
    assert_eq!(histories(&p)[0], "RUN /bin/sh -c x # buildkit");
    assert_eq!(histories(&p)[2], "RUN |1 http_proxy=p /bin/sh -c y # buildkit");
    assert!(p.unused_build_args.is_empty());
}

#[test]
fn platform_arguments_have_to_be_declared() {
    let p =
        made("FROM --platform=$BUILDPLATFORM plain\nARG TARGETARCH TARGETPLATFORM\nENV A=$TARGETARCH B=$TARGETOS\n");
    assert_eq!(target(&p).env[1..], ["A=amd64", "B="]);

    let names = ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"];
    let names: Vec<String> = ["BUILD", "TARGET"].iter().flat_map(|kind| names.map(|n| format!("{kind}{n}"))).collect();
    let words: Vec<String> = names.iter().map(|n| format!("${n}")).collect();
    let text = format!(
        "FROM plain AS one\nFROM one AS two\nARG TARGETSTAGE {}\nENV A={} S=$TARGETSTAGE\n",
        names.join(" "),
        words.join("|")
    );
    let mut r = request(&text);
    (r.platform, r.build_platform) = ("linux/arm/v7".parse().unwrap(), Platform::linux("amd64"));
    r.target = Some("two".into());
    let p = plan(&r, &mut Images).unwrap();
    assert_eq!(target(&p).env[1..], ["A=linux/amd64|linux||amd64||linux/arm/v7|linux||arm|v7", "S=two"]);
}

#[test]
fn a_health_check_is_inherited_until_it_is_taken_back() {
    let of = |last: &str| {
        let p = made(&format!("FROM plain AS a\nHEALTHCHECK --retries=2 CMD x\nFROM a\n{last}\n"));
        target(&p).healthcheck.clone().map(|h| (h.test.join(" "), h.retries))
    };
    assert_eq!(of(""), Some(("CMD-SHELL x".into(), 2)));
    assert_eq!(of("HEALTHCHECK CMD [\"y\"]"), Some(("CMD y".into(), 0)));
    assert_eq!(of("HEALTHCHECK NONE"), Some(("NONE".into(), 0)));
}

#[test]
fn only_needed_stages_are_planned() {
    let p = made(
        "ARG V=base\nFROM $V AS one\nRUN a\nFROM nowhere AS unused\nRUN b\nFROM plain AS Two\nRUN c\nFROM one\n\
         COPY --from=two /c /c\nCOPY --from=0 /a /a\nCOPY --from=base x y/\n",
    );
    assert_eq!(p.stages.iter().map(|s| s.index).collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(p.stages[1].name.as_deref(), Some("two"));
    for s in &p.steps {
        assert!(s.parent.is_none_or(|q| q < s.id) && s.inputs.iter().all(|q| *q < s.id));
    }
    let copies: Vec<&Copy> = p
        .steps
        .iter()
        .filter_map(|s| match &s.kind {
            StepKind::Copy(c) => Some(c),
            _ => None,
        })
        .collect();
    assert!(matches!(copies[0].from, CopyFrom::Stage(s) if s == p.stages[1].last));
    assert!(matches!(copies[1].from, CopyFrom::Stage(s) if s == p.stages[0].last));
    assert!(matches!(&copies[2].from, CopyFrom::Image(i) if i.name == "base"));
    assert_eq!(copies[2].dest, "/w/y/");
    assert_eq!(p.steps.last().map(|s| s.name.as_str()), Some("COPY --from=base x y/"));
}

#[test]
fn a_stage_name_may_hold_a_variable() {
    let p = made("ARG N=One\nFROM plain AS $N\nRUN a\nFROM one\n");
    assert_eq!(p.stages.iter().map(|s| s.name.as_deref()).collect::<Vec<_>>(), [Some("one"), None]);
    assert!(fault("ARG N=1\nFROM plain AS $N\n").contains("invalid name `1`"));
}

#[test]
fn a_target_is_a_name_or_a_number() {
    let mut r = request("FROM plain AS one\nFROM plain\nFROM plain AS three\n");
    for (t, index) in [("one", 0), ("ONE", 0), ("1", 1), ("three", 2)] {
        r.target = Some(t.into());
        let p = plan(&r, &mut Images).unwrap();
        assert_eq!(p.stages[p.target].index, index, "{t}");
    }
    r.target = Some("thre".into());
    let e = plan(&r, &mut Images).unwrap_err();
    assert_eq!(e.hint().as_deref(), Some("did you mean `three`?"));
    for text in ["FROM plain AS builder\nFROM biulder\n", "FROM plain AS builder\nFROM plain\nCOPY --from=bulder a b\n"]
    {
        let e = plan(&request(text), &mut Images).expect_err("must fail");
        assert_eq!(e.hint().as_deref(), Some("did you mean the stage `builder`?"), "{text}");
    }
}

#[test]
fn triggers_of_images_and_of_stages_run() {
    let p = made("FROM trigger\nRUN own\n");
    let names: Vec<&str> = p.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["FROM trigger", "COPY --from=base a /b", "ENV T=1", "RUN own"]);
    assert!(target(&p).on_build.is_empty());

    let p = made("FROM plain AS a\nONBUILD RUN <<E\nt\nE\nFROM a\n");
    assert_eq!(p.stages[0].image.config.on_build, ["RUN <<E\nt\nE"]);
    assert_eq!(run(&p, 0).argv, ["/bin/sh", "-c", "t\n"]);
    assert!(target(&p).on_build.is_empty());
}

#[test]
fn heredocs() {
    let p = made(
        "FROM plain\nRUN <<E\na\nb\nE\nRUN <<-E\n\t#!/bin/python\n\tx\nE\nRUN cat <<A >f && cat <<-B\n1\nA\n\t2\nB\n\
         ENV V=v\nCOPY <<E <<\"Q\" s /d/\n$V\\$V\nE\n$V\nQ\n",
    );
    assert_eq!(run(&p, 0).argv, ["/bin/sh", "-c", "a\nb\n"]);
    assert_eq!(run(&p, 1).argv, ["/bin/sh", "-c", "/dev/pipes/E"]);
    assert_eq!(run(&p, 1).heredocs, [HeredocFile { name: "E".into(), content: "#!/bin/python\nx\n".into() }]);
    assert_eq!(run(&p, 2).argv[2], "cat <<A >f && cat <<-B\n1\nA\n\t2\nB");
    let Some(StepKind::Copy(c)) = p.steps.last().map(|s| &s.kind) else { panic!("a COPY") };
    assert_eq!(
        c.sources,
        [
            CopySource::Path("s".into()),
            CopySource::Inline { name: "E".into(), content: "v$V\n".into() },
            CopySource::Inline { name: "Q".into(), content: "$V\n".into() },
        ]
    );
    assert_eq!(histories(&p).last(), Some(&"COPY s <<E <<Q /d/ # buildkit"));
}

#[test]
fn mounts_are_expanded() {
    let p = made(
        "FROM plain AS s\nFROM base\nARG T=/t\nRUN --mount=type=cache,target=$T --mount=from=s,target=m,source=/q \
         --mount=type=secret,id=k --mount=type=tmpfs,target=/z,size=1k \
         --mount=type=cache,target=/p,id=$T,sharing=private,ro,uid=1,gid=2,mode=0700 x\n",
    );
    let m = &run(&p, 0).mounts;
    assert_eq!(m[0].options.target.as_deref(), Some("/t"));
    assert_eq!(m[0].options.id.as_deref(), Some("/t"));
    assert_eq!(m[1].options.target.as_deref(), Some("/w/m"));
    assert!(matches!(m[1].from, Some(CopyFrom::Stage(StepId(0)))));
    assert_eq!(m[2].options.target.as_deref(), Some("/run/secrets/k"));
    assert_eq!(m[3].options.size, Some(1024));
    let cache = &m[4].options;
    assert_eq!((cache.id.as_deref(), cache.sharing, cache.read_only), (Some("/t"), Sharing::Private, true));
    assert_eq!((cache.uid, cache.gid, cache.mode), (Some(1), Some(2), Some(0o700)));
    assert_eq!(p.steps.last().map(|s| s.inputs.clone()), Some(vec![StepId(0)]));
}

#[test]
fn a_scratch_stage_has_docker_s_defaults() {
    let p = made("FROM scratch\nCOPY a /\n");
    assert_eq!(target(&p).working_dir, "/");
    assert_eq!(target(&p).env, [format!("PATH={}", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")]);
    assert!(matches!(p.steps[0].kind, StepKind::Base(Base::Scratch)));
}

#[test]
fn labels_of_the_request_are_a_last_step() {
    let mut r = request("FROM plain\n");
    r.labels = vec![("a".into(), "b".into())];
    let p = plan(&r, &mut Images).unwrap();
    assert_eq!(target(&p).labels.get("a").map(String::as_str), Some("b"));
    assert_eq!(p.steps.last().map(|s| s.name.as_str()), Some("LABEL \"a\"=\"b\""));
}

#[test]
fn faults_show_the_line() {
    for (text, part) in [
        ("FROM plain\nRUNN x\n", "unknown instruction `RUNN`: `Dockerfile`, line 2"),
        ("FROM plain\nCOPY --form=x a b\n", "unknown flag `--form` of COPY"),
        ("FROM gone\n", "cannot resolve image `gone`: no such image: `Dockerfile`, line 1"),
        ("FROM plain\nCOPY http://me:pw@localhost/x /\n", "COPY cannot read the URL `http://localhost/x`"),
        ("FROM plain\nADD --checksum=sha256:00 http://localhost/x /\n", "invalid digest `sha256:00`"),
        ("FROM plain\nADD --checksum=sha256:00 x /\n", "`ADD --checksum` needs a web address"),
        ("FROM plain\nADD --checksum=abcdef0 x.txt http://localhost/x /d/\n", "`ADD --checksum` takes one source only"),
        ("FROM plain\nADD https://localhost/x.git?x=1 /\n", "unexpected `x` in its query"),
        ("FROM plain\nADD --checksum=abcdef0 https://localhost/x.git?checksum=1234567 /\n", "contradicts"),
        ("FROM plain\nCOPY --from=later a b\nFROM plain AS later\nFROM 0\n", "stage `later` has to be defined before"),
        ("FROM plain\nCOPY --from=5 a b\n", "there is no stage 5"),
        ("FROM plain\nSTOPSIGNAL SIGFOO\n", "invalid signal"),
        ("FROM plain\nEXPOSE x\n", "invalid port"),
        ("FROM plain\nCOPY --chmod=999 a b\n", "invalid mode"),
        ("FROM plain\nENV A=${B:?why}\n", "B: why"),
        ("FROM $NONE\n", "is empty when its variables are replaced"),
        ("FROM --platform=linux/s390x plain\nRUN x\n", "RUN on the foreign platform"),
        ("RUN x\n", "RUN before the first FROM"),
        ("# nothing\n", "no instructions"),
    ] {
        let e = fault(text);
        assert!(e.contains(part), "{text}: {e}");
    }
    assert!(fault("FROM plain\nRUNN x\n").contains("    2 |>>> RUNN x"));
}

#[test]
fn files_for_other_frontends_are_refused() {
    let e = plan(&request("# check=skip=all\n# syntax=example/other:1\nFROM plain\n"), &mut Images).unwrap_err();
    assert!(
        e.to_string().contains("`example/other:1` of `# syntax=` is not supported yet: `Dockerfile`, line 2"),
        "{e}"
    );
    assert!(e.hint().is_some_and(|h| h.contains("BUILDKIT_SYNTAX")));
    made("# syntax=docker/dockerfile:1\nFROM plain\n");
    let mut r = request("#!/usr/bin/env x\n# syntax=example/other\nFROM plain\n");
    assert!(plan(&r, &mut Images).is_err());
    r.build_args = vec![("BUILDKIT_SYNTAX".into(), Some("docker/dockerfile".into()))];
    assert!(plan(&r, &mut Images).is_ok());
}

#[test]
fn images_of_local_transports_have_another_way_in() {
    for (image, way) in [("oci:/dir", "oci-layout://DIR"), ("docker-archive:/x.tar", "rbuild load")] {
        let e = plan(&request(&format!("FROM {image}\n")), &mut Images).unwrap_err();
        assert!(e.hint().is_some_and(|h| h.contains(way)), "{image}: {e}");
    }
}

#[test]
fn a_network_that_was_taken_away_is_not_given_to_those_that_ask() {
    let mut r = request("FROM plain\nRUN --network=host x\n");
    assert_eq!(run(&plan(&r, &mut Images).unwrap(), 0).network, Some(Network::Host));
    r.forbid_network = true;
    let e = plan(&r, &mut Images).unwrap_err();
    assert_eq!(e.hint().as_deref(), Some("allow it with `--allow network.host`"));
    r.dockerfile = "FROM plain\nRUN --network=default x\nRUN --network=none x\n".into();
    assert_eq!(run(&plan(&r, &mut Images).unwrap(), 0).network, None);
}

#[test]
fn the_first_from_can_name_another_image() {
    let mut r = request("FROM no-such-image AS a\nFROM plain\nCOPY --from=a /x /x");
    r.from = Some("base".into());
    let p = plan(&r, &mut Images).unwrap();
    assert_eq!(p.steps[0].name, "FROM base AS a");
}

#[test]
fn unused_stages_before_the_target_can_be_built_too() {
    let mut r = request("FROM plain AS a\nFROM plain AS b\nFROM plain AS c");
    let stages = |r: &PlanRequest| plan(r, &mut Images).unwrap().stages.iter().map(|s| s.index).collect::<Vec<_>>();
    assert_eq!(stages(&r), [2]);
    r.unused_stages = true;
    assert_eq!(stages(&r), [0, 1, 2]);
    r.target = Some("b".into());
    assert_eq!(stages(&r), [0, 1]);
}

fn copies(p: &Plan) -> Vec<&Copy> {
    let all = p.steps.iter();
    all.filter_map(|s| if let StepKind::Copy(c) = &s.kind { Some(c) } else { None }).collect()
}

#[test]
fn sources_of_add() {
    let p = made(
        "FROM plain\nARG SUM\nADD --checksum=${SUM:-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855} \
         --unpack=true http://me:secret@localhost/x.tar /d/\nADD --keep-git-dir=true https://localhost/r.git#v1:sub /g\n\
         ADD x git@localhost:r https://localhost/y /h/\nADD --unpack=false file:///r.git /i\n",
    );
    let all = copies(&p);
    let [web, git, mixed, local] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(web.unpack, Some(true));
    assert!(matches!(&web.sources[..], [CopySource::Web { url, checksum: Some(sum) }]
        if url.contains("secret") && *sum == Digest::of("")));
    assert!(matches!(&git.sources[..], [CopySource::Git(url)]
        if url.keep_git_dir && url.reference.as_deref() == Some("v1") && url.subdir.as_deref() == Some("sub")));
    assert!(matches!(&mixed.sources[..], [CopySource::Path(_), CopySource::Git(_), CopySource::Web { .. }]));
    // a repository of the machine that builds is nothing that a Dockerfile can name
    assert!(matches!(&local.sources[..], [CopySource::Path(_)]) && local.unpack == Some(false));
    let shown: Vec<&str> = p.steps.iter().map(|s| s.name.as_str()).chain(histories(&p)).collect();
    assert!(shown.iter().any(|text| text.contains("http://localhost/x.tar")), "{shown:?}");
    assert!(!shown.iter().any(|text| text.contains("secret")), "{shown:?}");
}

#[test]
fn named_contexts() {
    let with = |text: &str, contexts: &[(&str, NamedContext)]| {
        let mut r = request(text);
        r.contexts = contexts.iter().map(|(name, context)| ((*name).to_owned(), context.clone())).collect();
        plan(&r, &mut Images).unwrap_or_else(|e| panic!("{e}"))
    };
    let base = |p: &Plan| match &p.steps[0].kind {
        StepKind::Base(Base::Scratch) => "scratch".to_owned(),
        StepKind::Base(Base::Image(image)) => image.reference.to_string(),
        StepKind::Base(Base::Stage(_)) => "stage".to_owned(),
        StepKind::Base(Base::Files(id)) => format!("files {}", id.0),
        other => panic!("{other:?}"),
    };
    let image = NamedContext::Image("base".into());
    // names are compared as names of images
    for name in ["gone", "docker.io/library/gone:latest", "GONE"] {
        assert_eq!(base(&with("FROM gone:latest\n", &[(name, image.clone())])), "base", "{name}");
    }
    assert_eq!(base(&with("FROM gone\n", &[("gone", NamedContext::Files)])), "files 0");
    assert_eq!(base(&with("FROM gone\n", &[("x", image.clone()), ("gone", NamedContext::Layout)])), "layout1");
    let platforms = [("gone::linux/arm64", NamedContext::Files), ("gone::linux/amd64", image.clone())];
    assert_eq!(base(&with("FROM gone\n", &platforms)), "base");
    // a context takes the place of a stage, and nothing of the stage is executed
    let p = with("FROM gone AS b\nRUN never\nFROM scratch\nCOPY --from=b x /\n", &[("b", NamedContext::Files)]);
    assert_eq!(base(&p), "files 0");
    assert!(p.steps.iter().all(|s| !matches!(s.kind, StepKind::Run(_))));
    assert_eq!(histories(&p).len(), 2, "the files are a layer, which has its entry");
    // what COPY and mounts read
    let p = with(
        "FROM plain AS s\nFROM plain\nCOPY --from=f a /\nCOPY --from=i a /\nCOPY --from=t a /\n\
         RUN --mount=from=f,target=/x true\n",
        &[("f", NamedContext::Files), ("i", image), ("t", NamedContext::Stage("s".into()))],
    );
    let from: Vec<&CopyFrom> = copies(&p).iter().map(|c| &c.from).collect();
    assert!(matches!(from[..], [CopyFrom::Named(ContextId(0)), CopyFrom::Image(_), CopyFrom::Stage(_)]), "{from:?}");
    let run = p.steps.iter().find_map(|s| if let StepKind::Run(r) = &s.kind { Some(r) } else { None }).unwrap();
    assert!(matches!(run.mounts[0].from, Some(CopyFrom::Named(ContextId(0)))));
}
