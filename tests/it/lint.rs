//! Checks as users meet them: `rbuild lint`, `bud --check`, `--call` in both command lines, and what a build says at its end.

use crate::harness::{Done, Lab, Run, require};
use crate::web::{Page, Web};
use serde_json::Value;
use std::path::PathBuf;

const SUSPICIOUS: &str = "FROM scratch as Base\nCOPY file /file\nCMD echo\n";

fn suspicious(lab: &Lab) -> PathBuf {
    lab.context("suspicious", &[("Dockerfile", SUSPICIOUS), ("file", "hi\n")])
}

fn clean(lab: &Lab) -> PathBuf {
    lab.context("clean", &[("Dockerfile", "FROM scratch\nCOPY file /file\n"), ("file", "hi\n")])
}

trait Ends {
    /// Runs it; it must fail with this code.
    fn ends_with(self, code: i32) -> Done;
}

impl Ends for Run {
    #[track_caller]
    fn ends_with(self, code: i32) -> Done {
        let done = self.fails();
        assert_eq!(done.code, code, "{done}");
        done
    }
}

fn rules(json: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"));
    let warnings = value["warnings"].as_array().expect("warnings").iter();
    warnings.map(|w| w["ruleName"].as_str().expect("a name").to_owned()).collect()
}

const RULES: [&str; 3] = ["StageNameCasing", "FromAsCasing", "JSONArgsRecommended"];

#[test]
fn a_check_tells_by_its_exit_code() {
    let lab = Lab::new();
    let (bad, good) = (suspicious(&lab), clean(&lab));
    let checks: [fn(&Lab) -> Run; 4] = [
        |lab| lab.rbuild(["lint"]),
        |lab| lab.rbuild(["bud", "--check"]),
        |lab| lab.rbuild(["bud", "--call=check"]),
        |lab| lab.docker(["build", "--check"]),
    ];
    for check in checks {
        let done = check(&lab).arg(&bad).ends_with(1);
        for rule in RULES {
            assert!(done.stdout.contains(&format!("WARNING: {rule} - https://")), "{}", done.stdout);
        }
        assert!(done.stdout.ends_with("Check complete, 3 warnings have been found!\n"), "{}", done.stdout);
        assert_eq!(check(&lab).arg(&good).ok().stdout, "Check complete, no warnings found.\n");
    }
    lab.rbuild(["bud", "--call=check,ignorestatus=true"]).arg(&bad).ok();
    assert_eq!(lab.rbuild(["images", "-q"]).ok().stdout, "", "a check builds nothing");
}

#[test]
fn a_check_speaks_json() {
    let lab = Lab::new();
    let (bad, good) = (suspicious(&lab), clean(&lab));
    for run in [
        lab.rbuild(["lint", "--format", "json"]),
        lab.rbuild(["bud", "--call=check,format=json"]),
        lab.docker(["build", "--call=check,format=json"]),
    ] {
        assert_eq!(rules(&run.arg(&bad).ends_with(1).stdout), RULES);
    }
    let both = lab.rbuild(["lint", "--format=json"]).arg(&good).arg(&bad).ends_with(1).stdout;
    let value: Value = serde_json::from_str(&both).unwrap();
    assert_eq!(value["sources"].as_array().map(Vec::len), Some(2));
    assert_eq!(value["warnings"][0]["location"]["sourceIndex"], 1);
}

#[test]
fn a_mistake_is_reported_with_what_stands_before_it() {
    let lab = Lab::new();
    let context = lab.context("broken", &[("Dockerfile", "FROM scratch AS Big\nCOPYY a b\n")]);
    for run in [lab.rbuild(["lint"]), lab.rbuild(["bud", "--check"])] {
        let done = run.arg(&context).ends_with(1);
        assert!(done.stdout.contains("WARNING: StageNameCasing"), "{}", done.stdout);
        assert!(done.stderr.contains("unknown instruction `COPYY`"), "{}", done.stderr);
        assert!(done.stderr.contains("hint: did you mean `COPY`?"), "{}", done.stderr);
    }
    let json = lab.rbuild(["lint", "--format=json"]).arg(&context).ends_with(1).stdout;
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
}

#[test]
fn a_build_says_at_its_end_what_was_found() {
    let lab = Lab::new();
    let context = suspicious(&lab);
    let buildah = lab.rbuild(["bud"]).arg(&context).ok().stderr;
    assert!(buildah.contains("warning: FromAsCasing: ") && buildah.contains(" (line 1)\n"), "{buildah}");
    let docker = lab.docker(["build"]).arg(&context).ok().stderr;
    let (steps, end) = docker.split_once("\n 3 warnings found:\n").unwrap_or_else(|| panic!("{docker}"));
    assert!(steps.contains("exporting to image") && end.contains(" - JSONArgsRecommended: "), "{docker}");
    let quiet = lab.docker(["build", "-q"]).arg(&context).ok();
    assert_eq!(quiet.stderr, "", "a quiet build only says its id");
}

#[test]
fn findings_end_a_build_that_forbids_them() {
    let lab = Lab::new();
    let forbidden = format!("# check=error=true\n{SUSPICIOUS}");
    let context = lab.context("forbidden", &[("Dockerfile", &forbidden), ("file", "hi\n")]);
    let done = lab.rbuild(["bud"]).arg(&context).ends_with(125);
    assert!(!done.stdout.contains("STEP"), "no step ran: {}", done.stdout);
    assert!(
        done.stderr.contains("lint violation found for rules: FromAsCasing, JSONArgsRecommended"),
        "{}",
        done.stderr
    );
    let docker = lab.docker(["build"]).arg(&context).ends_with(1).stderr;
    assert!(docker.contains(" 3 warnings found:"), "{docker}");
    lab.rbuild(["bud", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"]).arg(&context).ok();
    let args = ["bud", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skipp=all"];
    assert!(lab.rbuild(args).arg(&context).ends_with(125).stderr.contains("unknown check option `skipp`"));
}

#[test]
fn outlines_and_targets() {
    let lab = Lab::new();
    let text = "FROM scratch AS a\n# V which\nARG V=1\n# b the second\nFROM a AS b\n";
    let context = lab.context("offer", &[("Dockerfile", text)]);
    for mut run in [lab.rbuild(["bud", "--call=outline"]), lab.docker(["build", "--call=outline"])] {
        run = run.arg("--build-arg=V=2").arg(&context);
        assert_eq!(
            run.ok().stdout,
            "TARGET:      b\nDESCRIPTION: the second\n\nBUILD ARG   VALUE   DESCRIPTION\nV           2       which\n\n"
        );
    }
    let json = lab.rbuild(["bud", "--call=outline,format=json", "--target=a"]).arg(&context).ok().stdout;
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&value["name"], &value["args"][0]["name"]), (&Value::from("a"), &Value::from("V")));
    for run in [
        lab.rbuild(["bud", "--call=targets"]),
        lab.docker(["build", "--call=targets"]),
        lab.rbuild(["lint", "--call=targets"]),
    ] {
        assert_eq!(run.arg(&context).ok().stdout, "TARGET         DESCRIPTION\na\nb (default)    the second\n");
    }
    let json = lab.rbuild(["lint", "--call=targets", "--format=json"]).arg(&context).ok().stdout;
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["targets"][1]["default"], true);
    let gone = lab.rbuild(["bud", "--call=outline", "--target=c"]).arg(&context).ends_with(1).stderr;
    assert!(gone.contains("target stage `c` could not be found"), "{gone}");
}

#[test]
fn builders_are_compared() {
    let lab = Lab::new();
    let context = lab.context("foreign", &[("Dockerfile", "FROM scratch\nCOPY --parents --link a /b\n")]);
    let all = lab.rbuild(["lint", "--compat", "kaniko,buildah,buildkit"]).arg(&context).ok().stdout;
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 3, "{all}");
    assert!(lines.iter().all(|l| l.contains("Dockerfile:2: ")), "{all}");
    assert!(lines[0].contains(": kaniko drops: ") && lines[2].contains(": buildah drops: `--link`"), "{all}");
    let buildkit = lab.rbuild(["lint", "--compat=buildkit"]).arg(&context).ok().stdout;
    assert_eq!(buildkit, "No differences found: buildkit.\n");
    let json = lab.rbuild(["lint", "--compat=kaniko", "--format=json"]).arg(&context).ok().stdout;
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["conflicts"][0]["tool"], "kaniko");
    assert_eq!(value["conflicts"][0]["line"], 2);
    let wrong = lab.rbuild(["lint", "--compat=kanico"]).arg(&context).ends_with(125).stderr;
    assert!(wrong.contains("did you mean `kaniko`?"), "{wrong}");
}

#[test]
fn contexts_that_have_to_be_fetched_or_unpacked_are_checked() {
    require!("git", "tar");
    let (lab, web) = (Lab::new(), Web::start());
    lab.context("c", &[("Dockerfile", SUSPICIOUS), ("file", ""), (".dockerignore", "file\n")]);
    let git = |args: &[&str]| {
        let run = lab.program("git", ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]);
        run.args(args).dir(lab.path("c")).ok()
    };
    git(&["init", "-q", "."]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    lab.program("tar", ["-C", "c", "-czf", "c.tgz", "Dockerfile", "file"]).ok();
    let archive = std::fs::read(lab.path("c.tgz")).expect("the archive");
    web.put("/c.tgz", Page { body: archive.clone(), ..Page::default() });
    web.put("/Dockerfile", Page { body: SUSPICIOUS.into(), ..Page::default() });
    web.demand_login("Bearer s3cret");
    let secret = ["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN"];
    let lint = |place: &str| lab.rbuild(["lint", "--format", "json"]).args(secret).arg(place).env("TOKEN", "s3cret");
    let places =
        [web.url("/c.tgz"), web.url("/Dockerfile"), format!("file://{}/.git", lab.path("c").display()), "c.tgz".into()];
    for place in &places {
        assert_eq!(rules(&lint(place).ends_with(1).stdout), RULES, "{place}");
    }
    assert_eq!(rules(&lint("-").input(archive).ends_with(1).stdout), RULES);
    assert_eq!(
        rules(&lint("c").arg("-f").arg(web.url("/Dockerfile")).ends_with(1).stdout).len(),
        4,
        "an ignored file, too"
    );
    let done = lab.rbuild(["lint", &web.url("/c.tgz")]).fails();
    assert!(done.stderr.contains("HTTP_AUTH_TOKEN_HOST"), "{done}");
    let compared = lab.rbuild(["lint", "--compat=kaniko", "c.tgz"]).output();
    assert_eq!((compared.code, compared.stdout.as_str()), (0, "No differences found: kaniko.\n"), "{compared}");
    let left: Vec<_> = std::fs::read_dir(lab.store().join("tmp")).expect("tmp").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    // What lies here is looked at without a store, and the flag names another ignore file.
    let alone = Lab::new();
    alone.context("c", &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("ignored", "file\n")]);
    alone.rbuild(["lint", "c"]).ok();
    alone.rbuild(["lint", "-"]).input("FROM scratch\n").ok();
    let done = alone.rbuild(["lint", "--ignorefile", "c/ignored", "--format", "json", "c"]).ends_with(1);
    assert_eq!(rules(&done.stdout), ["CopyIgnoredFile"]);
    assert!(!alone.store().exists());
}

#[test]
fn named_contexts_are_bases() {
    let lab = Lab::new();
    lab.mkdir("dir");
    let steps = "FROM scratch AS tools\nENV OF_STAGE=1\nFROM base\nCOPY $OF_STAGE $OF_IMAGE $NOBODYS /\n";
    lab.context("c", &[("Dockerfile", steps)]);
    lab.context("base", &[("Dockerfile", "FROM scratch\nENV OF_IMAGE=1\n")]);
    lab.rbuild(["bud", "-q", "-t", "localhost/of-store", "base"]).ok();
    lab.rbuild(["bud", "-q", "--platform=linux/arm64", "-t", "oci:layout:x", "base"]).ok();
    let check = |verb: &[&str], place: &str| {
        let done = lab.rbuild(verb).args(["--build-context", place]).arg("c").output();
        let found = rules(&done.stdout).join(" ");
        let undefined = ["OF_STAGE", "OF_IMAGE", "NOBODYS"].map(|name| done.stdout.contains(&format!("'${name}'")));
        (found, undefined)
    };
    let lint = |place: &str| check(&["lint", "--format=json"], place).1;
    assert_eq!(lint("other=dir"), [true, false, false], "nothing is known of an image that nobody looked up");
    assert_eq!(lint("base=dir"), [true, true, true], "files set no variables");
    assert_eq!(lint("base=target:tools"), [false, true, true]);
    assert_eq!(lint("base=docker-image://localhost/of-store"), [true, false, false]);
    let bud = |place: &str| check(&["bud", "--call=check,format=json"], place);
    for image in ["base=oci-layout://layout:x", "base=docker-image://localhost/of-store"] {
        let (found, undefined) = bud(image);
        assert_eq!(found.contains("InvalidBaseImagePlatform"), image.contains("layout:"), "{image}: {found}");
        assert_eq!(undefined, [true, false, true], "{image}");
    }
    assert_eq!(bud("base=dir").1, [true, true, true]);
}
