//! Ignore files: which one counts, and what it leaves out.

use crate::harness::{Lab, busybox_is_missing, require};
use std::fs;

const FILES: [&str; 7] = [".hidden", "a", "b.log", "dir/a", "dir/b.log", "dir/sub/a", "dir/sub/c d"];

/// A lab with a context of these files and a Dockerfile.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    let dockerfile = "FROM localhost/busybox\nCOPY . /src\nRUN cd /src && find . -type f | sort | sed 's/^/found /'\n";
    let files: Vec<(&str, &str)> = FILES.iter().map(|f| (*f, "")).chain([("Dockerfile", dockerfile)]).collect();
    lab.context("c", &files);
    lab
}

/// What of the files came into the image; not the Dockerfile and the ignore files.
fn copied(lab: &Lab, docker: bool, more: &[&str]) -> Vec<String> {
    let run = if docker {
        lab.docker(["build", "--progress=plain", "--no-cache"])
    } else {
        lab.rbuild(["bud", "--no-cache"])
    };
    let done = run.args(more).arg("c").ok();
    let said = format!("{}{}", done.stdout, done.stderr);
    let found = said.lines().filter_map(|l| l.split_once("found ./").map(|(_, file)| file.to_owned()));
    let mut found: Vec<String> = found.filter(|f| !f.contains("ignore") && !f.starts_with("Dockerfile")).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn patterns_leave_out_what_they_do_with_buildkit() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let without = |left_out: &[&str]| -> Vec<&str> { FILES.into_iter().filter(|f| !left_out.contains(f)).collect() };
    let dir = ["dir/a", "dir/b.log", "dir/sub/a", "dir/sub/c d"];
    let deep = ["dir/sub/a", "dir/sub/c d"];
    for (text, want) in [
        ("", without(&[])),
        ("*.log\n", without(&["b.log"])),
        ("**/*.log\n", without(&["b.log", "dir/b.log"])),
        ("dir/\n", without(&dir)),
        ("/a\n", without(&["a"])),
        ("./a\n", without(&["a"])),
        ("x/../a\n", without(&["a"])),
        ("\u{feff}a\n", without(&["a"])),
        ("#a\n  b.log  \n\n", without(&["b.log"])),
        ("a\r\nb.log\r\n", without(&["a", "b.log"])),
        (".\n", without(&[])),
        ("/\n", without(&[])),
        (".*\n", without(&[".hidden"])),
        ("*/a\n", without(&["dir/a"])),
        ("**/a\n", without(&["a", "dir/a", "dir/sub/a"])),
        ("dir/**\n", without(&dir)),
        ("dir/sub/c d\n", without(&["dir/sub/c d"])),
        ("dir/su?/[ab]\n", without(&["dir/sub/a"])),
        ("*\n!dir/sub\n", deep.to_vec()),
        ("*\n! dir/sub/\ndir/sub/a\n", vec!["dir/sub/c d"]),
        ("dir\n!dir/sub/a\n", without(&["dir/a", "dir/b.log", "dir/sub/c d"])),
        ("!a\na\n", without(&["a"])),
        ("**\n!**/*.log\n", vec!["b.log", "dir/b.log"]),
        // needed to build, and no part of the context
        ("Dockerfile\n.dockerignore\na\n", without(&["a"])),
    ] {
        lab.write("c/.dockerignore", text);
        assert_eq!(copied(&lab, false, &[]), want, "{text:?}");
    }
    lab.write("c/.dockerignore", "Dockerfile\n");
    lab.write("other", "FROM scratch\nCOPY Dockerfile /\n");
    assert!(lab.rbuild(["bud", "-f", "other", "c"]).fails().stderr.contains("Dockerfile"));
    lab.write("c/.dockerignore", "a\n[\n");
    let done = lab.rbuild(["bud", "c"]).fails();
    assert!(done.stderr.contains(".dockerignore") && done.stderr.contains("`[`"), "{done}");
}

#[test]
fn the_file_that_counts() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let gone = |docker: bool, more: &[&str]| {
        let there = copied(&lab, docker, more);
        FILES.into_iter().filter(|f| !there.iter().any(|t| t == f)).collect::<Vec<_>>().join(" ")
    };
    // Each one that is added wins over those before it.
    lab.write("c/.dockerignore", "a\n");
    assert_eq!((gone(false, &[]), gone(true, &[])), ("a".into(), "a".into()));
    lab.write("c/.containerignore", "b.log\n");
    assert_eq!((gone(false, &[]), gone(true, &[])), ("b.log".into(), "a".into()));
    lab.write("c/Dockerfile.containerignore", "dir/a\n");
    assert_eq!((gone(false, &[]), gone(true, &[])), ("dir/a".into(), "a".into()));
    lab.write("c/Dockerfile.dockerignore", "dir/b.log\n");
    assert_eq!((gone(false, &[]), gone(true, &[])), ("dir/b.log".into(), "dir/b.log".into()));
    lab.write("mine", ".hidden\n");
    assert_eq!(gone(false, &["--ignorefile", "mine"]), ".hidden");
    assert!(lab.rbuild(["bud", "--ignorefile", "nothing", "c"]).fails().stderr.contains("`nothing`"));
    // Of another Dockerfile, wherever it lies, its own.
    fs::copy(lab.path("c/Dockerfile"), lab.path("Other")).expect("a copy");
    lab.own(&lab.path("Other"));
    assert_eq!(gone(false, &["-f", "Other"]), "b.log");
    lab.write("Other.dockerignore", "dir/sub\n");
    assert_eq!(gone(false, &["-f", "Other"]), "dir/sub/a dir/sub/c d");
    assert_eq!(gone(true, &["-f", "Other"]), "dir/sub/a dir/sub/c d");
}
