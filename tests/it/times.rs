//! `SOURCE_DATE_EPOCH` that names something that has a time.

use crate::harness::{Done, Lab, Run, busybox_is_missing, require};
use crate::web::{Page, Web};

const COMMITTED: &str = "981173106";

/// A repository in `repo`, of one commit of 2001-02-03T04:05:06Z.
fn repository(lab: &Lab, dockerfile: &str) -> String {
    lab.context("repo", &[("Dockerfile", dockerfile), ("version", "1")]);
    let git = |args: &[&str]| {
        let run = lab.program("git", ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]);
        let time = "2001-02-03T04:05:06Z";
        run.env("GIT_AUTHOR_DATE", "2000-01-01T00:00:00Z")
            .env("GIT_COMMITTER_DATE", time)
            .args(args)
            .dir(lab.path("repo"))
            .ok()
    };
    git(&["init", "-q", "."]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    format!("file://{}/.git", lab.path("repo").display())
}

const DOCKERFILE: &str = "FROM scratch\nARG SOURCE_DATE_EPOCH=none\nLABEL at=$SOURCE_DATE_EPOCH\n";

/// What the image says: its ARG, and when it was made.
fn times(lab: &Lab, run: Run) -> (String, String) {
    run.args(["-t", "localhost/x"]).ok();
    let config = lab.rbuild(["inspect", "x"]).ok().stdout;
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    (text(&config["OCIv1"]["config"]["Labels"]["at"]), text(&config["OCIv1"]["created"]))
}

#[test]
fn the_epoch_is_that_of_what_it_names() {
    require!("git", "tar");
    let (lab, web) = (Lab::new(), Web::start());
    let repo = repository(&lab, DOCKERFILE);
    lab.context("c", &[("Dockerfile", DOCKERFILE), ("f", "")]);
    lab.program("touch", ["-d", "@1000000000", "c/Dockerfile"]).ok();
    lab.program("touch", ["-d", "@1000000007", "c/f"]).ok();
    lab.program("tar", ["-C", "c", "-czf", "c.tgz", "."]).ok();
    let archive = std::fs::read(lab.path("c.tgz")).expect("the archive");
    let page = |headers: Vec<(&'static str, String)>| Page { body: archive.clone(), headers, ..Page::default() };
    web.put("/new.tgz", page(vec![("Last-Modified", "Sun, 09 Sep 2001 01:46:45 GMT".into())]));
    web.put("/c.tgz", page(vec![]));
    let committed = (COMMITTED.to_owned(), "2001-02-03T04:05:06Z".to_owned());
    let newest = ("1000000007".to_owned(), "2001-09-09T01:46:47Z".to_owned());
    let said = ("1000000005".to_owned(), "2001-09-09T01:46:45Z".to_owned());

    let epoch = |value: &str, context: &str| {
        times(&lab, lab.rbuild(["bud", "--build-arg", &format!("SOURCE_DATE_EPOCH={value}"), context]))
    };
    assert_eq!(epoch("context", &repo), committed);
    assert_eq!(epoch("context", "c.tgz"), newest);
    assert_eq!(epoch("context", &web.url("/c.tgz")), newest);
    assert_eq!(epoch("context", &web.url("/new.tgz")), said);
    assert_eq!(times(&lab, lab.rbuild(["bud", &repo]).env("SOURCE_DATE_EPOCH", "context")), committed);
    assert_eq!(times(&lab, lab.docker(["build", &repo]).env("SOURCE_DATE_EPOCH", "context")), committed);
    // a number that is given says more than a name in the environment
    let both = lab.rbuild(["bud", "--source-date-epoch=5", &repo]).env("SOURCE_DATE_EPOCH", "context");
    assert_eq!(times(&lab, both).0, "5");

    let build =
        |dockerfile: String, args: &[&str]| lab.rbuild(["bud", "-f", "-"]).args(args).arg("c").input(dockerfile);
    let of = |name: &str, place: &str| {
        let args = ["--build-arg", &format!("SOURCE_DATE_EPOCH={name}"), "--build-context", &format!("src={place}")];
        build(DOCKERFILE.into(), &args.map(String::from).each_ref().map(String::as_str))
    };
    assert_eq!(times(&lab, of("src", &repo)), committed);
    assert_eq!(times(&lab, of("src", "c.tgz")), newest);
    let warned = |done: &Done| format!("{}{}", done.stdout, done.stderr).contains("has no time of its own");
    assert!(warned(&of("src", "c").ok()) && warned(&of("context", "c").ok()));
    assert_eq!(times(&lab, of("src", "c")).0, "", "as with BuildKit it is empty then");

    // a stage that fetches one thing, also as the default of an ARG
    let stage = |first: &str, steps: &str| format!("{first}FROM scratch AS Source\n{steps}{DOCKERFILE}");
    let add = format!("ARG NAME=new\nADD {} /\n", web.url("/$NAME.tgz"));
    let named = ["--build-arg", "SOURCE_DATE_EPOCH=source"];
    assert_eq!(times(&lab, build(stage("", &add), &named)), said);
    assert_eq!(times(&lab, build(stage("", &add), &[&named[..], &["--build-arg", "NAME=c"]].concat())), newest);
    let first = "ARG FROM=source\nARG SOURCE_DATE_EPOCH=$FROM\n";
    assert_eq!(times(&lab, build(stage(first, &add).replace("EPOCH=none", "EPOCH"), &[])), said);
    let number = "ARG SOURCE_DATE_EPOCH=77\n";
    assert_eq!(times(&lab, build(stage(number, &add), &[])).1, "1970-01-01T00:01:17Z");
    for (steps, why) in [
        (format!("{add}ADD {} /\n", web.url("/c.tgz")), "exactly one thing"),
        (format!("{add}WORKDIR /x\n"), "more than to ADD"),
        ("ADD f /\n".to_owned(), "exactly one thing"),
    ] {
        let done = build(stage("", &steps), &named).fails();
        assert!(done.stderr.contains(why) && done.stderr.contains("hint: name a stage"), "{done}");
    }
    let done = build("FROM busybox AS source\nFROM scratch\n".into(), &named).fails();
    assert!(done.stderr.contains("does not begin with `FROM scratch`"), "{done}");
    let done = build(DOCKERFILE.into(), &["--build-arg", "SOURCE_DATE_EPOCH=yesterday"]).fails();
    assert!(done.stderr.contains("`SOURCE_DATE_EPOCH=yesterday`"), "{done}");
}

#[test]
fn with_an_epoch_the_files_of_a_repository_are_as_old_as_the_commit() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git");
    let lab = Lab::new();
    lab.import_busybox();
    let repo = repository(&lab, "FROM localhost/busybox\nCOPY version /v\nRUN stat -c '%Y old' /v\n");
    let old = |query: &str, args: &[&str]| {
        let done = lab.rbuild(["bud", "--no-cache"]).args(args).arg(format!("{repo}{query}")).ok();
        done.stdout.lines().any(|line| line == format!("{COMMITTED} old"))
    };
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=4000000000"];
    assert!(old("", &epoch) && old("", &["--source-date-epoch=4000000000"]) && old("?mtime=commit", &[]));
    assert!(!old("", &[]) && !old("?mtime=checkout", &epoch));
}
