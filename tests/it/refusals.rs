//! What must not pass silently: values without a meaning, files that are not what they seem, output that gets lost.

use crate::harness::{Lab, Run, busybox_is_missing, require};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A lab with a context `c` of a Dockerfile and the files `a` and `b`.
fn lab(dockerfile: &str) -> Lab {
    let lab = Lab::new();
    lab.context("c", &[("Dockerfile", dockerfile), ("a", "A\n"), ("b", "B\n")]);
    lab
}

/// A shell script in the lab, with the program in its path.
fn sh(lab: &Lab, script: &str) -> Run {
    let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", lab.path("bin").display());
    lab.program("sh", ["-c", script]).env("PATH", path)
}

/// A socket that stays where nobody listens any more.
fn socket(lab: &Lab, path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"));
    lab.own(path);
}

#[test]
fn platforms_that_nobody_knows() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    lab.context("f", &[("Dockerfile", "FROM --platform=foo scratch\nCOPY Dockerfile /\n")]);
    for args in [
        &["bud", "--platform", "foo", "c"][..],
        &["bud", "--platform=all", "c"],
        &["bud", "f"],
        &["pull", "--platform=foo", "127.0.0.1:1/x"],
    ] {
        let said = lab.rbuild(args).fails().stderr;
        assert!(said.contains("unknown operating system or architecture"), "{args:?}: {said}");
    }
    lab.rbuild(["bud", "-q", "-t", "x", "--platform", "aarch64", "c"]).ok();
    let format = "{{.OCIv1.Architecture}}";
    assert_eq!(lab.rbuild(["inspect", "--format", format, "x"]).ok().stdout, "arm64\n");
    let said = lab.rbuild(["inspect", "--type=container", "x"]).fails().stderr;
    assert!(said.contains("no working containers"), "{said}");
}

#[test]
fn several_files_under_one_name_are_a_warning() {
    let lab = lab("FROM scratch\nCOPY a b /o/q\n");
    let said = lab.rbuild(["bud", "c"]).ok().stderr;
    assert!(said.contains("writes 2 files to one name, `/o/q`"), "{said}");
    for fine in ["COPY a b /o/q/", "COPY a /q/\nCOPY a b /q", "COPY a /q\nCOPY b /q", "WORKDIR /w\nCOPY a b ."] {
        lab.write("c/Dockerfile", format!("FROM scratch\n{fine}\n"));
        let said = lab.rbuild(["bud", "c"]).ok().stderr;
        assert!(!said.contains("to one name"), "{fine}: {said}");
    }
}

#[test]
fn a_socket_that_is_named_is_an_error() {
    let lab = lab("FROM scratch\nCOPY sock /x/\n");
    socket(&lab, &lab.path("c/sock"));
    let said = lab.rbuild(["bud", "c"]).fails().stderr;
    assert!(said.contains("\"/sock\"") && said.contains("it is a socket"), "{said}");
    // What a directory or a wildcard brings along is left out.
    symlink("sock", lab.path("c/slink")).unwrap();
    lab.write("c/Dockerfile", "FROM scratch\nCOPY s* a /x/\nCOPY . /y/\n");
    lab.rbuild(["bud", "c"]).ok();
}

#[test]
fn an_ignore_file_that_is_a_link_counts() {
    let lab = lab("FROM scratch\nCOPY a b /\n");
    lab.write("c/real", "b\n");
    lab.write("outside", "b\n");
    let link = lab.path("c/.dockerignore");
    for inside in [lab.path("c/real"), "real".into()] {
        symlink(&inside, &link).unwrap();
        let said = lab.rbuild(["bud", "c"]).fails().stderr;
        assert!(said.contains("\"/b\": not found"), "{}: {said}", inside.display());
        fs::remove_file(&link).unwrap();
    }
    for (target, why) in [
        (lab.path("outside"), "leads out of the build context"),
        ("../outside".into(), "leads out of the build context"),
        (lab.path("nowhere"), "where nothing is"),
    ] {
        symlink(&target, &link).unwrap();
        for done in [lab.rbuild(["bud", "c"]).fails(), lab.docker(["build", "c"]).fails()] {
            assert!(done.stderr.contains(why), "{}: {done}", target.display());
        }
        fs::remove_file(&link).unwrap();
    }
}

#[test]
fn a_dockerfile_that_is_not_there_is_said_to_be_where_it_was_looked_for() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    lab.mkdir("empty");
    lab.mkdir("c/sub");
    lab.write("outside", "FROM scratch\n");
    symlink(lab.path("outside"), lab.path("c/link")).unwrap();
    for (file, why) in [
        ("nothing", "there is no Dockerfile `nothing`, neither in the working directory nor in build context `c`"),
        ("/nowhere/D", "there is no Dockerfile `/nowhere/D`"),
        ("empty", "there is no `Dockerfile` in directory `empty`"),
        ("c/sub", "there is no `Dockerfile` in directory `c/sub`"),
        ("c/link", "leads out of the build context"),
    ] {
        let said = lab.rbuild(["bud", "-f", file, "c"]).fails().stderr;
        assert!(said.contains(why) && said.contains("hint: "), "{file}: {said}");
    }
    let said = lab.rbuild(["bud", "--authfile", "/nowhere", "c"]).fails().stderr;
    assert!(said.contains("there is no credentials file `/nowhere`"), "{said}");
    lab.rbuild(["bud", "-f", "outside", "c"]).ok();
}

#[test]
fn output_that_is_lost_is_a_failure() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    lab.rbuild(["bud", "-q", "-t", "x", "c"]).ok();
    for verb in [
        "rbuild bud c",
        "rbuild bud -q c",
        "rbuild images",
        "rbuild inspect x",
        "rbuild history x",
        "rbuild info",
        "rbuild version",
        "rbuild check",
        "rbuild prune",
        "rbuild save x",
        "rbuild bud --help",
        "rbuild --version",
        "rbuild bud --call=targets c",
        "docker build -q c",
        "docker build -o type=oci c",
        "docker images",
        "docker save x",
        "docker version",
        "docker --help",
        "docker",
    ] {
        for to in ["/dev/full", "&-"] {
            let done = sh(&lab, &format!("{verb} >{to}")).fails();
            assert!(done.stderr.contains("standard output") || done.stderr.contains("`-`"), "{verb} >{to}: {done}");
        }
        sh(&lab, &format!("{verb} >/dev/null")).ok();
    }
    // These say nothing there.
    for verb in ["rbuild tag x y", "rbuild push x oci-archive:o.tar", "rbuild bud -q --iidfile id c", "docker build c"]
    {
        sh(&lab, &format!("{verb} >&-")).ok();
    }
    // A reader that has enough is no failure.
    sh(&lab, "{ rbuild images; echo $? >code; } | true; test $(cat code) = 0").ok();
}

#[test]
fn archives_go_to_standard_output() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    for (output, how) in [("type=docker,dest=-", "docker"), ("type=oci,dest=-", "oci"), ("type=oci", "oci")] {
        for quiet in ["", "-q"] {
            let line =
                format!("docker build {quiet} -t x -o {output} c >{how}.tar && ! test -e ./- && tar -tf {how}.tar");
            let listed = sh(&lab, &line).ok().stdout;
            assert!(listed.contains("index.json"), "{line}: {listed}");
            assert_eq!(listed.contains("manifest.json"), how == "docker", "{line}: {listed}");
            sh(&lab, &format!("docker build -t x -o {output} c | tar -tf - >/dev/null")).ok();
        }
    }
    for refused in ["type=docker,push=true", "type=docker,tar=false,dest=x", "type=oci,push=1"] {
        let said = lab.docker(["build", "-t", "x", "-o", refused, "c"]).fails().stderr;
        assert!(said.contains("is not supported") && said.contains("hint: "), "{refused}: {said}");
    }
    assert!(!lab.path("-").exists());
}

#[test]
fn annotations_land_under_their_own_names() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let typed = format!("manifest[{platform}]:foo=bar");
    lab.docker(["build", "-t", "x", "--annotation", &typed, "--annotation=manifest:a=b", "--annotation=c=d", "c"]).ok();
    let shown = lab.rbuild(["inspect", "--format", "{{json .ImageAnnotations}}", "x"]).ok().stdout;
    assert_eq!(shown, "{\"a\":\"b\",\"c\":\"d\",\"foo\":\"bar\"}\n");
    let done = lab.docker(["build", "--annotation", "index,manifest:a=b", "c"]).fails();
    assert!(done.stderr.contains("annotation of type `index`") && done.stderr.contains("hint: "), "{done}");
    let said = lab.rbuild(["bud", "--format=docker", "--annotation=a=b", "--annotation=c=d", "c"]).ok().stderr;
    assert!(said.contains("--annotation has no effect") && said.contains("no place for `a`, `c`"), "{said}");
}

#[test]
fn times_before_1970_and_at_the_ends() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    for (time, created) in [("-5", "1969-12-31T23:59:55Z"), ("253402207200", "9999-12-30T22:00:00Z")] {
        lab.rbuild(["bud", "-q", "-t", "x", "--timestamp", time, "c"]).ok();
        assert_eq!(lab.rbuild(["inspect", "--format", "{{.OCIv1.Created}}", "x"]).ok().stdout, format!("{created}\n"));
    }
    let late = "253402300800";
    let said = lab.rbuild(["bud", "--timestamp", late, "c"]).fails().stderr;
    assert!(said.contains("out of range"), "{said}");
    for run in [lab.rbuild(["bud", "c"]), lab.docker(["build", "c"])] {
        let said = run.env("SOURCE_DATE_EPOCH", late).fails().stderr;
        assert!(said.contains("`SOURCE_DATE_EPOCH`") && said.contains("out of range"), "{said}");
    }
    lab.rbuild(["bud", "--build-arg", &format!("SOURCE_DATE_EPOCH={late}"), "c"]).fails();
}

#[test]
fn names_are_filtered_as_docker_does_it() {
    let lab = lab("FROM scratch\nCOPY a /\n");
    lab.docker(["build", "-q", "-t", "alpine", "-t", "127.0.0.1:5000/alpine", "c"]).ok();
    let names = |pattern: &str| {
        let filter = format!("reference={pattern}");
        lab.docker(["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &filter]).ok().stdout
    };
    assert_eq!(names("a*"), "alpine:latest\n");
    assert_eq!(names("127*/al*:latest"), "127.0.0.1:5000/alpine:latest\n");
    assert_eq!(names("*"), "alpine:latest\n");
    for mut run in [lab.rbuild(["login"]), lab.docker(["login"])] {
        run = run.args(["-u", "me", "--password-stdin", "127.0.0.1:1"]);
        let said = run.fails().stderr;
        assert!(said.contains("the password is empty"), "{said}");
    }
}

#[test]
fn a_tmpfs_over_a_file_is_explained() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab("FROM localhost/busybox\nRUN --mount=type=tmpfs,target=/etc/hosts true\n");
    lab.import_busybox();
    let said = lab.rbuild(["bud", "c"]).fails().stderr;
    assert!(said.contains("cannot mount a tmpfs over") && said.contains("it is no directory"), "{said}");
}
