//! Flags of instructions, and switches of the builder, that change what is built: each test fails if its flag were dropped.

use crate::harness::{Done, Lab, busybox_is_missing, require};
use serde_json::Value;

/// A lab with the base image.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab
}

/// Builds a Dockerfile in the context `context` as `name`.
fn build(lab: &Lab, name: &str, dockerfile: &str, more: &[&str]) -> Done {
    lab.context("context", &[("Dockerfile", dockerfile)]);
    lab.rbuild(["bud", "-t", name]).args(more).arg(lab.path("context")).output()
}

#[track_caller]
fn builds(lab: &Lab, name: &str, dockerfile: &str, more: &[&str]) -> Done {
    let done = build(lab, name, dockerfile, more);
    assert_eq!(done.code, 0, "{done}");
    done
}

/// The config of an image.
fn config(lab: &Lab, image: &str) -> Value {
    let json: Value = serde_json::from_str(&lab.rbuild(["inspect", image]).ok().stdout).expect("JSON");
    json["OCIv1"].clone()
}

/// How many steps came from the cache.
fn hits(done: &Done) -> usize {
    format!("{}{}", done.stdout, done.stderr).matches("Using cache").count()
}

#[test]
fn a_linked_layer_depends_on_nothing_below() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.context("context", &[("f", "one")]);
    let on = |base: &str| {
        format!(
            "FROM localhost/busybox\nRUN {base}\nCOPY --link --chown=7:root f /d/sub/\n\
             RUN test \"$(stat -c %u:%g:%a /d /d/sub /d/sub/f | tr '\\n' ' ')\" = '7:0:755 7:0:755 7:0:644 '\n"
        )
    };
    builds(&lab, "one", &on("mkdir /d && chmod 700 /d && touch /other"), &[]);
    let done = builds(&lab, "two", &on("echo other base > /file"), &[]);
    assert_eq!(hits(&done), 1, "{done}");
    let layer = |image: &str| config(&lab, image)["rootfs"]["diff_ids"][2].clone();
    assert!(layer("one").is_string() && layer("one") == layer("two"));
    // An ordinary copy is another one on each base.
    for base in ["echo one >/base", "echo two >/base"] {
        assert_eq!(hits(&builds(&lab, "x", &on(base).replace("--link ", ""), &[])), 0);
    }
    // The layers are the same after they were extracted again.
    lab.rbuild(["prune", "--all"]).ok();
    builds(&lab, "one", "FROM one\nRUN test -e /other && test \"$(cat /d/sub/f)\" = one\n", &["--pull=never"]);
}

#[test]
fn a_linked_copy_follows_no_link_of_the_base() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.context("context", &[("f", "one")]);
    let dockerfile = |flags: &str, test: &str| {
        format!("FROM localhost/busybox\nRUN mkdir /real && ln -s real /l\nCOPY {flags} f /l/f\nRUN {test}\n")
    };
    let linked = "test ! -L /l && test -f /l/f && test ! -e /real/f";
    let ordinary = "test -L /l && test -f /real/f";
    builds(&lab, "x", &dockerfile("--link", linked), &[]);
    builds(&lab, "x", &dockerfile("", ordinary), &[]);
    // As in BuildKit, a mode or the name of an owner makes an ordinary copy of it.
    builds(&lab, "x", &dockerfile("--link --chmod=600", ordinary), &[]);
    builds(&lab, "x", &dockerfile("--link --chown=root:root", linked), &[]);
    let named = dockerfile("--link --chown=some", ordinary)
        .replace("RUN mkdir", "RUN echo some:x:9:9::/:/ >>/etc/passwd; mkdir");
    builds(&lab, "x", &named, &[]);
    let done = builds(&lab, "x", &dockerfile("--link", ordinary), &["--layers=false"]);
    assert!(done.stderr.contains("is an ordinary copy"), "{done}");
}

#[test]
fn parents_pivots_and_exclusions() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.context("context", &[("a/b/c/f.txt", "1"), ("a/b/g.go", "2"), ("x/k.md", "3"), ("x/y/h.txt", "4")]);
    let dockerfile = r#"
FROM localhost/busybox
COPY --parents a/./b/**/*.txt x/**/*.zip /p/
COPY --parents x/k.md /q/
COPY --exclude=*.md --exclude=**/c x a /e/
RUN test "$(find /p /q /e -type f | sort | tr '\n' ' ')" = '/e/b/g.go /e/y/h.txt /p/b/c/f.txt /q/x/k.md '
"#;
    let done = builds(&lab, "x", dockerfile, &[]);
    assert_eq!(done.stderr.matches("no file matches").count(), 1, "{done}");
    assert!(done.stderr.contains("no file matches `x/**/*.zip`"), "{done}");
}

#[test]
fn health_checks_keep_their_start_interval() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = "FROM localhost/busybox\nHEALTHCHECK --interval=5s --start-interval=3s --retries=2 CMD true\n";
    builds(&lab, "x", dockerfile, &[]);
    let json: Value = serde_json::from_str(&lab.rbuild(["inspect", "x"]).ok().stdout).expect("JSON");
    let config: Value = serde_json::from_str(json["Config"].as_str().expect("a config")).expect("JSON");
    let check = &config["config"]["Healthcheck"];
    assert_eq!((&check["StartInterval"], &check["Retries"]), (&3_000_000_000_i64.into(), &2.into()), "{check}");
}

#[test]
fn triggers_of_a_parent_stage_run_and_may_need_other_stages() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = r#"
FROM localhost/busybox AS parent
ONBUILD COPY --from=other /o /from-other
ONBUILD RUN test "$(cat /from-other)" = oo && touch /ran
RUN test ! -e /from-other
FROM localhost/busybox AS other
RUN echo oo >/o
FROM parent AS child
RUN test -e /ran
"#;
    builds(&lab, "x", dockerfile, &["--target", "child"]);
    builds(&lab, "base", dockerfile, &["--target", "parent"]);
    builds(&lab, "x", "FROM localhost/busybox AS other\nRUN echo oo >/o\nFROM base\nRUN test -e /ran\n", &[]);
}

#[test]
fn switches_among_the_build_arguments() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = "FROM localhost/busybox\nARG SOURCE_DATE_EPOCH\nRUN hostname; echo epoch=$SOURCE_DATE_EPOCH\n";
    let done = builds(&lab, "x", dockerfile, &[]);
    assert!(done.stdout.contains("buildkitsandbox") && done.stdout.contains("epoch=\n"), "{done}");
    let args = ["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=box", "--build-arg", "SOURCE_DATE_EPOCH=86400"];
    let done = builds(&lab, "x", dockerfile, &args);
    assert!(done.stdout.contains("\nbox\n") && done.stdout.contains("epoch=86400"), "{done}");
    assert_eq!(config(&lab, "x")["created"], "1970-01-02T00:00:00Z");
    let done = builds(&lab, "x", dockerfile, &["--source-date-epoch=7"]);
    assert!(done.stdout.contains("epoch=7"), "{done}");
    let done = build(&lab, "x", dockerfile, &["--build-arg", "BUILDKIT_SYNTAX=example/other"]);
    assert!(done.code != 0 && done.stderr.contains("example/other"), "{done}");
}

#[test]
fn the_command_line_has_the_last_word_about_the_image() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.write("context/one", "FROM nothing.example/none\nENV A=1 B=2\nLABEL keep=1 drop=2\n");
    lab.write("context/two", "RUN echo A is $A\n");
    let dir = lab.path("context");
    let file = |name: &str| dir.join(name).display().to_string();
    let done = lab
        .rbuild(["bud", "-t", "x", "-f", &file("one"), "-f", &file("two"), "--from", "localhost/busybox"])
        .args(["--omit-history", "--env", "A=9", "--env", "C=3", "--unsetenv", "B", "--label", "more=4"])
        .args(["--created-annotation=false"])
        .arg(&dir)
        .ok();
    assert!(done.stdout.contains("A is 1"), "{done}");
    let config = config(&lab, "x");
    assert!(config["history"].as_array().is_none_or(Vec::is_empty), "{config}");
    let env: Vec<&str> = config["config"]["Env"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(env.contains(&"A=9") && env.contains(&"C=3") && !env.iter().any(|e| e.starts_with("B=")), "{env:?}");
    assert_eq!(config["config"]["Labels"], serde_json::json!({"drop": "2", "keep": "1", "more": "4"}));
    let json: Value = serde_json::from_str(&lab.rbuild(["inspect", "x"]).ok().stdout).expect("JSON");
    assert_eq!(json["ImageAnnotations"]["org.opencontainers.image.created"], Value::Null, "{json}");
    lab.rbuild(["tag", "x", "base"]).ok();
    lab.write("context/three", "FROM base\nLABEL own=5\n");
    lab.rbuild(["bud", "-t", "y", "-f", &file("three"), "--unsetlabel", "drop"]).arg(&dir).ok();
    assert_eq!(self::config(&lab, "y")["config"]["Labels"], serde_json::json!({"keep": "1", "more": "4", "own": "5"}));
}

#[test]
fn a_source_policy_denies_and_converts() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let rule = |action: &str, what: &str, to: &str| {
        let updates = match to {
            "" => String::new(),
            to => format!(r#", "updates": {{"identifier": "docker-image://{to}"}}"#),
        };
        format!(r#"{{"action": "{action}", "selector": {{"identifier": "docker-image://{what}"}}{updates}}}"#)
    };
    let policy = |name: &str, rule: String| {
        lab.write(name, format!(r#"{{"version": 1, "rules": [{rule}]}}"#)).display().to_string()
    };
    let convert = policy("convert", rule("CONVERT", "docker.io/library/nowhere:*", "localhost/busybox:${1}"));
    let deny = policy("deny", rule("DENY", "localhost/busybox:*", ""));
    let nowhere = "FROM nowhere\nRUN true\n";
    assert_ne!(build(&lab, "x", nowhere, &["--pull=never"]).code, 0);
    builds(&lab, "x", nowhere, &["--pull=never", "--source-policy-file", &convert]);
    let denied = |dockerfile: &str, more: &[&str]| {
        let done = build(&lab, "x", dockerfile, more);
        assert!(done.code != 0 && done.stderr.contains("denied by the source policy"), "{done}");
    };
    denied("FROM localhost/busybox\nRUN true\n", &["--source-policy-file", &deny]);
    denied(nowhere, &["--source-policy-file", &convert, "--source-policy-file", &deny]);
    lab.context("context", &[("Dockerfile", nowhere)]);
    let docker = lab.docker(["build", "-q"]).arg(lab.path("context"));
    docker.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", &convert).ok();
}
