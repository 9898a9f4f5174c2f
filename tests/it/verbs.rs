//! What users see of the verbs: output, files and exit codes, in rbuild's own words and in Docker's.

use crate::harness::{Lab, Registry, Run, User, busybox_is_missing, require};
use std::fs;
use std::path::Path;

/// A context that needs no command to be run.
fn copied(lab: &Lab) -> std::path::PathBuf {
    lab.context("copied", &[("Dockerfile", "FROM scratch\nCOPY file /file\nENV A=1\nCMD [\"x\"]\n"), ("file", "hi\n")])
}

/// A lab with the image `localhost/x:latest`.
fn with_image() -> Lab {
    let lab = Lab::new();
    let context = copied(&lab);
    lab.rbuild(["bud", "-q", "-t", "x"]).arg(context).ok();
    lab
}

#[test]
fn a_build_prints_what_buildah_prints() {
    let lab = Lab::new();
    let context = copied(&lab);
    let built = lab.rbuild(["bud", "-t", "x", "--build-arg", "NOBODY=1"]).arg(&context).ok().stdout;
    let id = built.lines().last().unwrap().to_owned();
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{built}");
    let lines: Vec<&str> = built.lines().filter(|l| !l.starts_with("--> ") && *l != id).collect();
    let want = [
        "STEP 1/4: FROM scratch",
        "STEP 2/4: COPY file /file",
        "STEP 3/4: ENV A=1",
        "STEP 4/4: CMD [\"x\"]",
        "COMMIT localhost/x:latest",
        "Successfully tagged localhost/x:latest",
        "[Warning] one or more build args were not consumed: [NOBODY]",
    ];
    for line in want {
        assert!(lines.contains(&line), "no `{line}` in\n{built}");
    }
    let again = lab.rbuild(["bud"]).arg(&context).ok().stdout;
    assert!(again.contains("--> Using cache "), "{again}");
    assert_eq!(again.lines().last(), Some(id.as_str()), "the same build has the same id");
    assert_eq!(lab.rbuild(["bud", "-q"]).arg(&context).ok().stdout, format!("{id}\n"));
}

#[test]
fn files_for_scripts_are_written() {
    let lab = Lab::new();
    let (context, out) = (copied(&lab), lab.mkdir("out"));
    let file = |name: &str| out.join(name);
    let mut run = lab.rbuild(["bud", "-t", "x", "--iidfile"]).arg(file("iid")).arg("--metadata-file").arg(file("meta"));
    run = run.arg("-t").arg(format!("oci-archive:{}", file("image.tar").display()));
    run = run.arg("--logfile").arg(file("log")).arg(context);
    let done = run.ok();
    assert_eq!(done.stdout + &done.stderr, "");
    let iid = fs::read_to_string(file("iid")).unwrap();
    assert!(iid.starts_with("sha256:") && iid.len() == 71, "{iid}");
    let meta: serde_json::Value = serde_json::from_str(&fs::read_to_string(file("meta")).unwrap()).unwrap();
    assert_eq!(meta["containerimage.config.digest"], iid.as_str());
    assert_eq!(meta["containerimage.descriptor"]["digest"], meta["containerimage.digest"]);
    assert_eq!(meta["image.name"], "localhost/x:latest", "an archive is no name");
    assert!(fs::read_to_string(file("log")).unwrap().contains("STEP 1/4"));
}

#[test]
fn annotations_do_not_vanish_silently() {
    let lab = Lab::new();
    let (context, out) = (copied(&lab), lab.mkdir("out"));
    lab.rbuild(["bud", "-q", "-t", "x", "--annotation", "a=b", "--annotation", "c=d"]).arg(context).ok();
    let to = |name: &str| format!("dir:{}", out.join(name).display());
    let done = lab.rbuild(["push", "--format", "v2s2", "x", &to("docker")]).ok();
    let warnings: Vec<&str> = done.stderr.lines().filter(|l| l.contains("annotations")).collect();
    assert!(matches!(warnings[..], [w] if w.ends_with("these are left out: `a`, `c`")), "{done}");
    for args in [&["push", "x"][..], &["push", "--format", "oci", "x"]] {
        let done = lab.rbuild(args).arg(to("oci")).ok();
        assert!(!done.stderr.contains("annotations"), "{done}");
    }
    lab.rbuild(["manifest", "create", "l", "x"]).ok();
    let place = format!("oci:{}", out.join("list").display());
    let done = lab.rbuild(["manifest", "push", "--all", "--format", "v2s2", "l", &place]).ok();
    assert!(done.stderr.contains("these are left out: `a`, `c`"), "{done}");
}

#[test]
fn names_come_and_go() {
    let lab = with_image();
    lab.rbuild(["tag", "x", "y:2", "localhost:1/z"]).ok();
    let names = lab.rbuild(["images", "--format", "{{.Name}}:{{.Tag}}"]).ok().stdout;
    assert_eq!(names, "localhost/x:latest\nlocalhost/y:2\nlocalhost:1/z:latest\n");
    let ids = lab.rbuild(["images", "-q", "--no-trunc", "y"]).ok().stdout;
    let id = ids.trim().trim_start_matches("sha256:").to_owned();
    let refused = lab.rbuild(["rmi", &id]).fails();
    assert!(refused.stderr.contains("it has several names") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    assert_eq!(lab.rbuild(["rmi", "y:2", "localhost:1/z"]).ok().stdout.matches("untagged: ").count(), 2);
    assert_eq!(lab.rbuild(["rmi", "x"]).ok().stdout, format!("untagged: localhost/x:latest\n{id}\n"));
    assert_eq!(lab.rbuild(["images", "-n"]).ok().stdout, "");
    let unknown = lab.rbuild(["rmi", "x"]).fails();
    assert_eq!(unknown.code, 125);
}

#[test]
fn an_image_goes_through_every_archive_unchanged() {
    let lab = with_image();
    let id = lab.rbuild(["images", "-q", "--no-trunc", "x"]).ok().stdout;
    let out = lab.mkdir("out");
    let path = |name: &str| out.join(name).display().to_string();
    let places = [
        format!("oci:{}:localhost/x:latest", path("layout")),
        format!("oci-archive:{}:localhost/x:latest", path("oci.tar")),
        format!("docker-archive:{}:localhost/x:latest", path("docker.tar")),
        format!("dir:{}", path("loose")),
    ];
    for place in &places {
        lab.rbuild(["push", "-q", "x", place]).ok();
    }
    lab.rbuild(["save", "-o", &path("save.tar"), "x"]).ok();
    let bytes = |name: &str| fs::read(out.join(name)).unwrap();
    let first = (bytes("oci.tar"), bytes("docker.tar"));
    lab.rbuild(["push", "-q", "x", &places[1]]).ok();
    lab.rbuild(["push", "-q", "x", &places[2]]).ok();
    assert!(first == (bytes("oci.tar"), bytes("docker.tar")), "an archive has the same bytes each time");

    let raw = id.trim().trim_start_matches("sha256:").to_owned() + "\n";
    for place in &places {
        lab.rbuild(["rmi", "-f", "x"]).ok();
        assert_eq!(lab.rbuild(["pull", "-q", place]).ok().stdout, raw, "{place}");
        if place.starts_with("dir:") {
            lab.rbuild(["rmi", "--prune"]).ok();
        }
    }
    for (archive, said) in
        [("save.tar", "Loaded image: localhost/x:latest\n"), ("oci.tar", "Loaded image: localhost/x:latest\n")]
    {
        lab.rbuild(["rmi", "-f", "x"]).ok();
        assert_eq!(lab.rbuild(["load", "-i", &path(archive)]).ok().stdout, said, "{archive}");
        assert_eq!(lab.rbuild(["images", "-q", "--no-trunc", "x"]).ok().stdout, id, "{archive}");
    }
    lab.rbuild(["rmi", "-f", "x"]).ok();
    lab.rbuild(["load"]).input(bytes("docker.tar")).ok();
    assert!(lab.rbuild(["check"]).ok().stdout.contains("no problem found"));
}

#[test]
fn an_archive_that_was_tampered_with_is_refused() {
    let lab = with_image();
    let archive = lab.mkdir("out").join("a.tar");
    lab.rbuild(["save", "-o"]).arg(&archive).arg("x").ok();
    let mut bytes = fs::read(&archive).unwrap();
    // The layer's only file says `hi`.
    let at = bytes.windows(3).position(|w| w == b"hi\n").expect("the file's content");
    bytes[at] = b'H';
    let refused = lab.rbuild(["load"]).input(bytes).fails();
    assert!(refused.stderr.contains("damaged"), "{}", refused.stderr);
}

#[test]
fn inspection_shows_buildah_s_and_docker_s_fields() {
    let lab = with_image();
    let shown = lab.rbuild(["inspect", "--format", "{{index .OCIv1.Config.Cmd 0}} {{.FromImage}}", "x"]).ok().stdout;
    assert_eq!(shown, "x localhost/x:latest\n");
    let docker = lab.docker(["inspect", "x"]).ok().stdout;
    let value: serde_json::Value = serde_json::from_str(&docker).unwrap();
    assert_eq!(value[0]["RepoTags"][0], "localhost/x:latest");
    assert_eq!(value[0]["Config"]["Cmd"][0], "x");
    assert_eq!(value[0]["RootFS"]["Type"], "layers");
    let unknown = lab.docker(["image", "inspect", "nosuch"]).fails();
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, "[]\n"));
    assert_eq!(unknown.stderr, "Error response from daemon: No such image: nosuch:latest\n");
    let history = lab.rbuild(["history", "--format", "{{.CreatedBy}}", "x"]).ok().stdout;
    assert!(history.starts_with("CMD [\"x\"]\nENV A=1\nCOPY file /file"), "{history}");
}

#[test]
fn docker_builds_and_pushes_without_a_daemon() {
    require!("docker-registry");
    let (lab, registry) = (Lab::new(), Registry::start());
    let context = copied(&lab);
    let name = format!("localhost:{}/worker", registry.port());
    let built = lab.docker(["build", "-t", &name]).arg(&context).ok();
    assert_eq!(built.stdout, "");
    for line in ["#1 [internal] load build definition from Dockerfile", "] COPY file /file", "exporting to image"] {
        assert!(built.stderr.contains(line), "no `{line}` in\n{}", built.stderr);
    }
    let pushed = lab.docker(["push", &name]).ok().stdout;
    let lines: Vec<&str> = pushed.lines().collect();
    assert_eq!(lines[..2], ["Using default tag: latest", &format!("The push refers to repository [{name}]")]);
    assert!(lines[3].ends_with(": Pushed"), "{pushed}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("latest: digest: sha256:") && last.contains(" size: "), "{pushed}");
    let again = lab.docker(["push", &name]).ok().stdout;
    assert!(again.contains(": Layer already exists") && again.lines().last() == Some(*last), "{again}");

    let digestfile = lab.mkdir("out").join("digest");
    lab.rbuild(["push", "-q", "--digestfile"]).arg(&digestfile).arg(&name).ok();
    assert!(last.contains(&fs::read_to_string(&digestfile).unwrap()));
    lab.docker(["rmi", &name]).ok();
    let pulled = lab.docker(["pull", &name]).ok().stdout;
    assert!(pulled.contains("Status: Downloaded newer image for "), "{pulled}");
    let again = lab.docker(["pull", &name]).ok().stdout;
    assert!(again.contains("Status: Image is up to date for "), "{again}");
    let refused = lab.docker(["push", "nosuch"]).fails();
    assert_eq!((refused.code, refused.stderr.as_str()), (1, "An image does not exist locally with the tag: nosuch\n"));
}

#[test]
fn the_classic_builder_s_form_is_there() {
    let lab = Lab::new();
    let context = copied(&lab);
    let built = lab.docker(["build", "-t", "x"]).env("DOCKER_BUILDKIT", "0").arg(context).ok().stdout;
    assert!(built.contains("Step 1/4 : FROM scratch\nStep 2/4 : COPY file /file\n ---> "), "{built}");
    assert!(built.ends_with("Successfully tagged x:latest\n") && built.contains("\nSuccessfully built "), "{built}");
    let images = lab.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().stdout;
    assert_eq!(images, "x:latest\n");
    assert_eq!(lab.docker(["rmi", "x"]).ok().stdout.lines().next(), Some("Untagged: x:latest"));
}

#[test]
fn a_failed_command_gives_its_code_where_the_tool_would() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !User::find().ranged, "the user has no range of ids");
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("failing", &[("Dockerfile", "FROM localhost/busybox\nRUN echo why >&2; exit 7\n")]);
    let bud = lab.rbuild(["bud"]).arg(&context).fails();
    assert_eq!(bud.code, 7);
    assert!(bud.stderr.contains("why\n") && bud.stderr.contains("Error: building at STEP \"RUN"), "{}", bud.stderr);
    let quiet = lab.rbuild(["bud", "-q"]).arg(&context).fails();
    assert!(quiet.stderr.starts_with("why\n"), "{}", quiet.stderr);
    let buildkit = lab.docker(["build"]).arg(&context).fails();
    assert_eq!(buildkit.code, 1);
    let end = "ERROR: failed to build: failed to solve: process \"/bin/sh -c echo why >&2; exit 7\" did not complete successfully: exit code: 7\n";
    assert!(
        buildkit.stderr.ends_with(end) && buildkit.stderr.contains("   2 | >>> RUN echo why"),
        "{}",
        buildkit.stderr
    );
    let classic = lab.docker(["build"]).env("DOCKER_BUILDKIT", "0").arg(&context).fails();
    assert_eq!(classic.code, 7);
    let end = "The command '/bin/sh -c echo why >&2; exit 7' returned a non-zero code: 7\n";
    assert!(classic.stderr.ends_with(end), "{}", classic.stderr);
}

#[test]
fn what_the_user_gets_wrong_is_said_with_a_hint() {
    let lab = Lab::new();
    for (line, code, message) in [
        (&["bud", "--memory", "1g", "."][..], 125, "Error: `--memory` is not supported\nhint: "),
        (&["bud", "--nosuch"], 125, "Error: unknown flag: --nosuch\n"),
        (&["from", "x"], 125, "Error: `from` is not supported\nhint: "),
        (&["push", "x"], 125, "Error: pushing image `x` to `x`: image `x` is not in the store\nhint: "),
        (&["inspect", "--format", "{{.X | y}}", "x"], 125, "Error: "),
        (
            &["bud", "-t", "UPPER", "."],
            125,
            "Error: invalid image reference `UPPER`: the repository must be lower case\n",
        ),
    ] {
        let done = lab.rbuild(line).fails();
        assert_eq!(done.code, code, "{line:?}");
        assert!(done.stderr.starts_with(message), "{line:?}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{line:?}");
    }
    assert_eq!(lab.docker(["run", "x"]).fails().code, 125);
    assert_eq!(lab.docker(["nosuch"]).fails().code, 1);
    assert!(lab.rbuild(["--help"]).ok().stdout.contains("Usage: rbuild"));
}

#[test]
fn a_store_without_a_place_names_the_variable() {
    let program = Path::new(env!("CARGO_BIN_EXE_rbuild"));
    let done = Run::new(program, ["images"]).fails();
    assert!(done.stderr.contains("hint: set `RBUILD_ROOT` to a writable directory"), "{}", done.stderr);
    let done = Run::new(program, ["images"]).env("HOME", "/proc").fails();
    assert!(done.stderr.contains("hint: set `RBUILD_ROOT` to a writable directory"), "{}", done.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let lab = with_image();
    let line = "bin/rbuild images --json | true; bin/rbuild inspect x | head -c 1 >/dev/null";
    let done = lab.program("sh", ["-c", line]).dir(lab.dir()).output();
    assert_eq!(done.stderr, "");
}

#[test]
fn shims_are_links_that_replace_nothing_else() {
    let lab = Lab::new();
    let (script, dir) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("shims/install.sh"), lab.mkdir("links"));
    let install = |more: &[&str]| {
        Run::new("sh", [script.as_os_str()]).args(["--rbuild", env!("CARGO_BIN_EXE_rbuild")]).args(more).arg(&dir)
    };
    install(&[]).ok();
    install(&[]).ok();
    let docker = Run::new(dir.join("docker"), ["--version"]).ok().stdout;
    assert!(docker.starts_with("Docker version "), "{docker}");
    assert!(Run::new(dir.join("buildah"), ["version"]).ok().stdout.starts_with("Version:"));
    fs::remove_file(dir.join("docker")).unwrap();
    fs::write(dir.join("docker"), "#!/bin/sh\n").unwrap();
    install(&[]).fails();
    install(&["--force", "--only", "docker"]).ok();
}

#[test]
fn a_wildcard_that_matches_nothing_is_said_and_no_error() {
    let lab = Lab::new();
    let text = "FROM scratch AS one\nCOPY here* gone* /\nFROM scratch\nCOPY --from=one /here /no/*where /\n";
    lab.context("context", &[("Dockerfile", text), ("here", "x"), (".dockerignore", "gone1"), ("gone1", "")]);
    let expected = ["no file matches `gone*` in `COPY here* gone* /`", "no file matches `/no/*where` in"];
    let first = lab.rbuild(["bud", "-t", "localhost/x", "context"]).ok();
    for line in expected {
        assert_eq!(first.stderr.matches(&format!("warning: {line}")).count(), 1, "{first}");
    }
    assert!(!first.stderr.contains("`here*`"), "{first}");
    let cached = lab.rbuild(["bud", "context"]).ok();
    assert!(cached.stdout.contains("Using cache") && cached.stderr.contains(expected[0]), "{cached}");
    let docker = lab.docker(["build", "--progress=plain", "--no-cache", "context"]).ok();
    assert!(docker.stderr.contains("2 warnings found:") && docker.stderr.contains(expected[0]), "{docker}");
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY here gone1 /\n")]);
    let failed = lab.rbuild(["bud", "context"]).fails().stderr;
    assert!(!failed.contains("no file matches") && failed.contains("warning: CopyIgnoredFile: "), "{failed}");
}
