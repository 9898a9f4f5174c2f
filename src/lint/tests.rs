use super::*;
use crate::oci::ContainerConfig;

fn subject_of<'a>(text: &'a str, ignore: &'a Patterns, bases: &'a Bases) -> Subject<'a> {
    let host = Platform::linux("amd64");
    Subject { platform: host.clone(), build_platform: host, ..Subject::new(text, "Dockerfile", ignore, bases) }
}

fn findings(text: &str, ignore: &[&str]) -> Findings {
    let (ignore, bases) = (Patterns::new(ignore).unwrap(), Bases::new());
    check(&subject_of(text, &ignore, &bases))
}

/// `Rule line; …`
fn found(text: &str, ignore: &[&str]) -> String {
    let findings = findings(text, ignore);
    assert_eq!(findings.fault, None, "{text}");
    let line = |f: &Finding| format!("{} {}", f.rule.name, f.span.start);
    findings.found.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// What each rule finds, and the nearest thing that it does not.
#[test]
fn every_rule_has_a_yes_and_a_no() {
    let cases: &[(&str, &str, &str)] = &[
        ("StageNameCasing", "FROM a AS Big\n", "FROM a AS big\n"),
        ("FromAsCasing", "FROM a as b\n", "from a as b\n"),
        ("FromAsCasing", "from a AS b\n", "FROM a AS b\n"),
        ("NoEmptyContinuation", "FROM a\nRUN a \\\n\n  b\n", "FROM a\nRUN a \\\n# why\n  b\n"),
        ("ConsistentInstructionCasing", "FROM a\nRUN b\nrun c\n", "from a\nrun b\n"),
        ("ConsistentInstructionCasing", "From a\n", "FROM a\n"),
        ("DuplicateStageName", "FROM a AS b\nFROM a AS b\n", "FROM a AS b\nFROM a AS c\n"),
        ("ReservedStageName", "FROM a AS context\n", "FROM scratch\nFROM scratch AS a\n"),
        ("JSONArgsRecommended", "FROM a\nCMD b\n", "FROM a\nCMD [\"b\"]\n"),
        ("JSONArgsRecommended", "FROM a\nENTRYPOINT b\n", "FROM a\nSHELL [\"/x\"]\nENTRYPOINT b\n"),
        ("JSONArgsRecommended", "FROM a\nCMD b\n", "FROM a AS x\nSHELL [\"/x\"]\nFROM x\nCMD b\n"),
        ("MaintainerDeprecated", "FROM a\nMAINTAINER b\n", "FROM a\nLABEL authors=b\n"),
        ("UndefinedArgInFrom", "FROM a$B\n", "ARG B\nFROM a$B\n"),
        ("UndefinedArgInFrom", "FROM --platform=$BULIDPLATFORM a\n", "FROM --platform=$BUILDPLATFORM a\n"),
        ("WorkdirRelativePath", "FROM a\nWORKDIR b\n", "FROM a\nWORKDIR /b\nWORKDIR c\n"),
        ("WorkdirRelativePath", "FROM a\nWORKDIR b\n", "FROM a AS x\nWORKDIR /b\nFROM x\nWORKDIR c\n"),
        ("UndefinedVar", "FROM scratch\nCOPY $b .\n", "FROM scratch\nARG b\nCOPY $b .\n"),
        ("UndefinedVar", "ARG b=1\nFROM a\nCOPY $b .\n", "ARG b=1\nFROM a\nARG b\nCOPY $b .\n"),
        ("UndefinedVar", "FROM a\nENV X=$TARGETARCH\n", "FROM a\nARG TARGETARCH\nENV X=$TARGETARCH\n"),
        ("UndefinedVar", "FROM a\nENV PATH=$PAHT:/b\n", "FROM a\nENV PATH=$PATH:/b\n"),
        ("UndefinedVar", "FROM a\nARG VAR=1\nUSER $Var\n", "FROM a\nARG VAR=1\nUSER $VAR\n"),
        ("UndefinedVar", "FROM a\nCOPY $b .\nARG b\n", "FROM a\nCOPY $OF_THE_BASE .\n"),
        ("UndefinedVar", "FROM scratch\nCOPY <<E /b\n$c\nE\n", "FROM scratch\nCOPY <<'E' /b\n$c\nE\n"),
        ("UndefinedVar", "FROM scratch\nRUN --mount=type=cache,target=$b true\n", "FROM scratch\nRUN echo $b\n"),
        ("MultipleInstructionsDisallowed", "FROM a\nCMD []\nCMD []\n", "FROM a AS b\nCMD []\nFROM b\nCMD []\n"),
        (
            "MultipleInstructionsDisallowed",
            "FROM a\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n",
            "FROM a\nHEALTHCHECK NONE\n",
        ),
        ("LegacyKeyValueFormat", "FROM a\nENV b c\n", "FROM a\nENV b=c\n"),
        ("LegacyKeyValueFormat", "FROM a\nLABEL b c\n", "FROM a\nLABEL b=c\n"),
        ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a\n", "FROM --platform=$BUILDPLATFORM a\n"),
        (
            "FromPlatformFlagConstDisallowed",
            "FROM --platform=linux/amd64 a\n",
            "FROM --platform=linux/amd64 a AS for_amd64\n",
        ),
        ("SecretsUsedInArgOrEnv", "FROM a\nARG API_KEY\n", "FROM a\nARG PUBLIC_KEY\n"),
        ("SecretsUsedInArgOrEnv", "FROM a\nENV password=x\n", "FROM a\nENV password_file=x MONKEY=y\n"),
        ("InvalidDefaultArgInFrom", "ARG V\nFROM a:$V\n", "ARG V=1\nFROM a:$V\n"),
        ("InvalidDefaultArgInFrom", "ARG I\nFROM $I\n", "ARG V\nFROM a:b$V\n"),
        ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TCP\n", "FROM a\nEXPOSE 80/tcp\n"),
        ("ExposeInvalidFormat", "FROM a\nEXPOSE 1.2.3.4:80:80\n", "FROM a\nEXPOSE 80-90\n"),
        ("ExposeInvalidFormat", "FROM a\nEXPOSE 80:80\n", "FROM a\nARG P=80\nEXPOSE $P\n"),
        (
            "InvalidDefinitionDescription",
            "# check=experimental=all\n# words\nARG b\nFROM a\n",
            "# check=experimental=all\n# b words\nARG b\nFROM a\n",
        ),
        (
            "InvalidDefinitionDescription",
            "# check=experimental=all\n#\n# words\nFROM a AS b\n",
            "# check=experimental=all\n# words\n\nFROM a AS b\n",
        ),
    ];
    for (rule, yes, no) in cases {
        let got = found(yes, &[]);
        assert!(got.split("; ").any(|f| f.starts_with(&format!("{rule} "))), "{rule}: {yes:?} gave {got}");
        let got = found(no, &[]);
        assert_eq!(got, "", "{rule}: {no:?}");
    }
    let tested: BTreeSet<&str> = cases.iter().map(|c| c.0).collect();
    // these two need an ignore file or a base image, and have tests of their own
    let elsewhere = ["CopyIgnoredFile", "InvalidBaseImagePlatform"];
    for rule in ALL {
        assert!(tested.contains(rule.name) || elsewhere.contains(&rule.name), "{} has no test", rule.name);
    }
}

#[test]
fn ignored_files() {
    let copy = |source: &str| format!("FROM a\nCOPY {source} /x\n");
    for (source, ignore, warned) in [
        ("Dockerfile", &["Dockerfile"][..], true),
        ("./Dockerfile", &["Dockerfile"], true),
        ("dir/file", &["dir"], true),
        ("Dockerfile", &["**", "!Dockerfile"], false),
        (".", &["**", "!Dockerfile"], false),
        (".", &[".*"], false),
        (".", &["*"], true),
        ("sub/a.txt", &["sub", "!sub/b.txt"], true),
        ("sub/a.txt", &["!sub/a.txt", "sub"], true),
        ("sub/a.txt", &["sub", "!sub/a.txt"], false),
        ("sub", &["sub", "!sub/a.txt"], false),
        ("sub/*.txt", &["sub", "!sub/a.txt"], false),
        ("sub/*.txt", &["sub"], true),
        ("other", &["sub"], false),
        ("--from=a sub", &["sub"], false),
    ] {
        let got = found(&copy(source), ignore);
        let want = if warned { "CopyIgnoredFile 2" } else { "" };
        assert_eq!(got, want, "{source} with {ignore:?}");
    }
    assert_eq!(found("FROM a\nADD x /y\nADD https://localhost/x /y\n", &["x", "https:*"]), "CopyIgnoredFile 2");
}

#[test]
fn what_is_known_of_the_base_counts() {
    let config = ImageConfig {
        os: "linux".into(),
        architecture: "arm64".into(),
        config: ContainerConfig {
            env: vec!["HOME=/h".into()],
            shell: Some(vec!["/s".into()]),
            on_build: vec!["ARG FROM_TRIGGER=1".into()],
            ..ContainerConfig::default()
        },
        ..ImageConfig::default()
    };
    let bases: Bases = [(("a".to_owned(), Platform::linux("amd64")), config)].into();
    let ignore = Patterns::default();
    let text = "FROM a\nWORKDIR $HOME/x\nUSER $FROM_TRIGGER\nUSER $NOBODY\nCMD b\n";
    let lines: Vec<String> = check(&subject_of(text, &ignore, &bases)).found.iter().map(Finding::line).collect();
    assert_eq!(
        lines,
        [
            "InvalidBaseImagePlatform: the base image a is for \"linux/arm64\", and this build is for \"linux/amd64\" (line 1)",
            "UndefinedVar: the variable '$NOBODY' is not defined here (line 4)",
        ]
    );
}

#[test]
fn rules_are_skipped() {
    let text = "FROM a as B\nENV b c\n";
    assert_eq!(found(text, &[]), "StageNameCasing 1; FromAsCasing 1; LegacyKeyValueFormat 2");
    assert_eq!(found(&format!("# check=skip=all\n{text}"), &[]), "");
    assert_eq!(found(&format!("# check=skip=StageNameCasing,FromAsCasing\n{text}"), &[]), "LegacyKeyValueFormat 3");
    let above = "FROM a\n# check=skip=LegacyKeyValueFormat // old\nENV b c\nENV d e\n";
    assert_eq!(found(above, &[]), "LegacyKeyValueFormat 4");
    let once = "FROM a\n# check=skip=MultipleInstructionsDisallowed\nCMD []\nCMD []\n";
    assert_eq!(found(once, &[]), "");
}

#[test]
fn the_build_argument_replaces_the_directive() {
    let (ignore, bases) = (Patterns::default(), Bases::new());
    let text = "# check=skip=all\nFROM a as b\n";
    let args = [(BUILD_ARG.to_owned(), Some("error=true".to_owned()))];
    let subject = Subject { build_args: &args, ..subject_of(text, &ignore, &bases) };
    let findings = check(&subject);
    let violation = findings.violation(&subject).unwrap();
    assert_eq!(violation.rules, "FromAsCasing");
    assert_eq!(violation.location.span.start, 2);
    let args = [(BUILD_ARG.to_owned(), Some("error=maybe".to_owned()))];
    assert!(check(&Subject { build_args: &args, ..subject }).fault.is_some());
}

#[test]
fn only_needed_stages_are_looked_into() {
    let (ignore, bases) = (Patterns::default(), Bases::new());
    let text = "FROM scratch AS First\nENV b c\nFROM scratch\nENV d e\n";
    let subject = Subject { needed: Some([1].into()), ..subject_of(text, &ignore, &bases) };
    let lines: Vec<usize> = check(&subject).found.iter().map(|f| f.span.start).collect();
    assert_eq!(lines, [1, 4]);
}

#[test]
fn what_stands_before_a_mistake_is_looked_at() {
    let findings = findings("FROM scratch AS BadStageName\nMAINTAINER me\nBADCMD\n", &[]);
    let names: Vec<&str> = findings.found.iter().map(|f| f.rule.name).collect();
    assert_eq!(names, ["StageNameCasing", "MaintainerDeprecated"]);
    let fault = findings.fault.unwrap();
    assert_eq!(fault.message, "unknown instruction `BADCMD`");
    assert_eq!(fault.location.unwrap().span.start, 3);
}

#[test]
fn reports() {
    let text = "FROM a\n\nCMD b\n";
    let findings = findings(text, &[]);
    let source = report::Source { name: "Dockerfile", text };
    insta::assert_snapshot!(report::text(&findings, source), @r#"

    WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
    CMD is not written as JSON: signals go to a shell
    Dockerfile:3
    --------------------
       1 |     FROM a
       2 |
       3 | >>> CMD b
    --------------------
    "#);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report::json(&[(source, findings)])).unwrap(), @r#"
    {
      "warnings": [
        {
          "ruleName": "JSONArgsRecommended",
          "description": "CMD and ENTRYPOINT are written as JSON, so that signals reach the program and not a shell",
          "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
          "detail": "CMD is not written as JSON: signals go to a shell",
          "location": {
            "ranges": [
              {
                "start": {
                  "line": 3
                },
                "end": {
                  "line": 3
                }
              }
            ]
          }
        }
      ],
      "sources": [
        {
          "filename": "Dockerfile",
          "language": "Dockerfile",
          "data": "RlJPTSBhCgpDTUQgYgo="
        }
      ]
    }
    "#);
}

#[test]
fn outlines() {
    let text = "\
# V the version
ARG V=1
ARG UNUSED=2
FROM a:$V AS tools
# LEVEL how hard
ARG LEVEL=9
RUN --mount=type=secret,id=token,required true
FROM b
ARG NEVER
# out is the result
FROM c AS out
ARG V
ARG EMPTY
ARG TARGETARCH
COPY --from=tools x y
RUN --mount=type=cache,target=/c --mount=type=ssh true
";
    let (ignore, bases) = (Patterns::default(), Bases::new());
    let args = [("LEVEL".to_owned(), Some("3".to_owned()))];
    let subject = Subject { build_args: &args, ..subject_of(text, &ignore, &bases) };
    let source = report::Source { name: "Dockerfile", text };
    let outline = outline::outline(&subject).unwrap();
    insta::assert_snapshot!(report::outline_text(&outline), @r#"
    TARGET:      out
    DESCRIPTION: is the result

    BUILD ARG   VALUE   DESCRIPTION
    V           1       the version
    LEVEL       3       how hard
    EMPTY

    SECRET   REQUIRED
    token    true

    SSH       REQUIRED
    default
    "#);
    let json = report::outline_json(&outline, source);
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["cache"][0]["ID"], "/c");
    assert_eq!(json["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
    let targets = outline::targets(&subject).unwrap();
    insta::assert_snapshot!(report::targets_text(&targets), @r#"
    TARGET           DESCRIPTION
    tools

    out (default)    is the result
    "#);
    insta::assert_snapshot!(report::targets_json(&targets, source)["targets"], @r#"[{"name":"tools","base":"a:$V","location":{"ranges":[{"start":{"line":4},"end":{"line":4}}]}},{"base":"b","location":{"ranges":[{"start":{"line":8},"end":{"line":8}}]}},{"name":"out","description":"is the result","base":"c","default":true,"location":{"ranges":[{"start":{"line":11},"end":{"line":11}}]}}]"#);
    let gone = outline::outline(&Subject { target: Some("tool"), ..subject }).unwrap_err();
    assert_eq!(gone.hint.as_deref(), Some("did you mean `tools`?"));
}
