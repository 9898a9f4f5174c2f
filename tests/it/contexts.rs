//! Where the files of a build come from: archives, web servers, standard input, named contexts.

use crate::harness::{Done, Lab, Run, busybox_is_missing, require};
use crate::web::{Page, Web};
use std::fs;
use std::path::Path;

const DOCKERFILE: &str = "FROM localhost/busybox\nCOPY dir/file /got\nRUN test \"$(cat /got)\" = content\n";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab
}

/// A directory with a Dockerfile, and a tar of it.
fn archived(lab: &Lab) -> Vec<u8> {
    lab.context(
        "src",
        &[("Dockerfile", DOCKERFILE), ("dir/file", "content\n"), ("other.df", "FROM scratch\nCOPY dir /\n")],
    );
    Run::new("tar", ["-C"]).arg(lab.path("src")).args(["-cf"]).arg(lab.path("src.tar")).arg(".").ok();
    fs::read(lab.path("src.tar")).expect("the tar")
}

fn compressed(lab: &Lab, program: &str) -> Vec<u8> {
    let path = lab.path(format!("src.tar.{program}"));
    fs::copy(lab.path("src.tar"), &path).expect("a copy");
    let suffix = format!(".{program}.x");
    let out = Run::new("sh", ["-c"]).arg(format!("{program} -c < {} > {}{suffix}", path.display(), path.display()));
    out.ok();
    fs::read(format!("{}{suffix}", path.display())).expect("the compressed tar")
}

/// That a finished build leaves nothing in the store's directory of unfinished things.
#[track_caller]
fn nothing_left(lab: &Lab) {
    let left: Vec<_> = fs::read_dir(lab.store().join("tmp")).expect("tmp").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn cached(done: &Done) -> bool {
    format!("{}{}", done.stdout, done.stderr).contains("Using cache")
}

#[test]
fn archives_on_standard_input_and_in_files() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("tar", "gzip", "bzip2", "xz", "zstd");
    let lab = lab();
    let plain = archived(&lab);
    let mut forms = vec![("tar", plain)];
    forms.extend(["gzip", "bzip2", "xz", "zstd"].map(|program| (program, compressed(&lab, program))));
    for (form, bytes) in &forms {
        let done = lab.rbuild(["bud", "-t", "localhost/x", "-"]).input(bytes.clone()).ok();
        assert!(*form == "tar" || cached(&done), "{form}: the same files are the same step: {done}");
        let file = lab.write(format!("context.{form}"), bytes);
        lab.rbuild(["bud", "-t", "localhost/x"]).arg(&file).ok();
    }
    // owners are those of the archive, as with BuildKit
    let owned = Run::new("tar", ["-C"]).arg(lab.path("src")).args(["--owner=7", "--group=8", "-cf"]);
    owned.arg(lab.path("owned.tar")).arg(".").ok();
    let text = "FROM localhost/busybox\nCOPY dir /d\nRUN test $(stat -c %u:%g /d/file) = 7:8\n";
    if lab.user().ranged {
        lab.rbuild(["bud", "-f", "-"]).arg(lab.path("owned.tar")).input(text).ok();
    }
    // a Dockerfile in the archive, by name
    lab.rbuild(["bud", "-f", "other.df", "-"]).input(forms[0].1.clone()).ok();
    lab.docker(["build", "-f", "other.df", "-"]).input(forms[1].1.clone()).ok();
    nothing_left(&lab);
    let cut = &forms[1].1[..forms[1].1.len() / 2];
    let done = lab.rbuild(["bud", "-"]).input(cut).fails();
    assert!(done.stderr.contains("cannot unpack `-`"), "{done}");
    nothing_left(&lab);
}

#[test]
fn a_dockerfile_on_standard_input() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    archived(&lab);
    let context = lab.path("src");
    lab.rbuild(["bud", "-f", "-"]).arg(&context).input(DOCKERFILE).ok();
    lab.docker(["build", "-f", "-"]).arg(&context).input(DOCKERFILE).ok();
    lab.rbuild(["bud", "-"]).input("FROM localhost/busybox\nRUN true\n").ok();
    let done = lab.rbuild(["bud", "-"]).input(DOCKERFILE).fails();
    assert!(done.stderr.contains("\"/dir/file\": not found"), "no file comes with it: {done}");
    let done = lab.rbuild(["bud", "-f", "-"]).arg(&context).input(b"\x1f\x8b\x08 archive".to_vec()).fails();
    assert!(done.stderr.contains("is an archive"), "{done}");
}

#[test]
fn contexts_and_dockerfiles_behind_web_addresses() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("tar", "gzip");
    let (lab, web) = (lab(), Web::start());
    archived(&lab);
    web.put("/src.tgz", Page { body: compressed(&lab, "gzip"), ..Page::default() });
    web.put("/df", Page { body: DOCKERFILE.into(), ..Page::default() });
    web.put("/alone", Page { body: "FROM localhost/busybox\nRUN true\n".into(), ..Page::default() });
    web.put(
        "/moved",
        Page { status: Some("302 Found"), headers: vec![("Location", "/src.tgz".into())], ..Page::default() },
    );
    for path in ["/src.tgz", "/moved"] {
        lab.rbuild(["bud"]).arg(web.url(path)).ok();
        lab.docker(["build"]).arg(web.url(path)).ok();
    }
    lab.rbuild(["bud"]).arg(web.url("/alone")).ok();
    lab.rbuild(["bud", "-f"]).arg(web.url("/df")).arg(lab.path("src")).ok();
    let done = lab.rbuild(["bud"]).arg(web.url("/none?token=s3cret")).fails();
    assert!(done.stderr.contains("/none`: server `127.0.0.1") && done.stderr.contains("answered 404"), "{done}");
    assert!(!done.stderr.contains("s3cret"), "{done}");
    nothing_left(&lab);
}

#[test]
fn named_directories() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.context("other", &[("f", "from other\n"), ("hidden", "h"), (".dockerignore", "hidden\n")]);
    let dockerfile = "FROM other AS files\nFROM localhost/busybox\nCOPY --from=other f /copied\n\
        RUN --mount=from=other,target=/m test \"$(cat /m/f)\" = 'from other' && test ! -e /m/hidden && test ! -e /m/Dockerfile\n\
        RUN --mount=from=other,source=/f,target=/one test \"$(cat /one)\" = 'from other'\n\
        RUN --mount=from=other,target=/m,rw echo x > /m/new\n\
        RUN test \"$(cat /copied)\" = 'from other'\n\
        COPY --from=files / /all/\nRUN test -f /all/f && test ! -e /all/hidden && test ! -e /all/new\n";
    lab.context("context", &[("Dockerfile", dockerfile), ("f", "from the main context\n")]);
    let other = format!("other={}", lab.path("other").display());
    let build = || lab.rbuild(["bud", "--build-context", &other]).arg(lab.path("context"));
    build().ok();
    lab.docker(["build", "--build-context", &other]).arg(lab.path("context")).ok();
    build().arg("--layers=false").ok();
    assert!(cached(&build().ok()));
    lab.write("other/hidden", "changed");
    assert!(!build().ok().stdout.contains("RUN --mount=from=other,target=/m test") || cached(&build().ok()));
    lab.write("other/f", "changed\n");
    let done = build().fails();
    assert!(done.stderr.contains("exit"), "the change is seen: {done}");
    let done = lab.rbuild(["bud", "--build-context", "other=/nonexistent"]).arg(lab.path("context")).fails();
    assert!(done.stderr.contains("cannot open build context `/nonexistent`"), "{done}");
}

#[test]
fn what_a_context_can_stand_for() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (lab, web) = (lab(), Web::start());
    let tar = archived(&lab);
    web.put("/files.tar", Page { body: tar, ..Page::default() });
    web.put("/one.txt", Page { body: "one\n".into(), ..Page::default() });
    lab.rbuild(["push", "localhost/busybox"]).arg(format!("oci:{}:v1", lab.path("layout").display())).ok();
    let index = fs::read_to_string(lab.path("layout/index.json")).expect("the index");
    let digest = index.split("sha256:").nth(1).expect("a digest")[..64].to_owned();
    let layout = lab.path("layout").display().to_string();
    // images: in place of a base, of a stage, and for COPY
    let base = "FROM nowhere.invalid/base:1\nRUN true\n";
    for image in [
        "docker-image://localhost/busybox".to_owned(),
        "container-image://localhost/busybox".to_owned(),
        format!("oci-layout://{layout}:v1"),
        format!("oci-layout://{layout}"),
        format!("oci-layout://{layout}@sha256:{digest}"),
    ] {
        let context = format!("nowhere.invalid/base:1={image}");
        let run = lab.rbuild(["bud", "--build-context", &context, "-"]).env("RBUILD_ROOT", lab.path("store"));
        run.input(base).ok();
        let context = format!("x={image}");
        lab.rbuild(["bud", "--build-context", &context, "-"]).input("FROM scratch\nCOPY --from=x /bin /\n").ok();
    }
    let context = format!("x=oci-layout://{layout}:none");
    let done = lab.rbuild(["bud", "--build-context", &context, "-"]).input("FROM x\n").fails();
    assert!(done.stderr.contains("no image at"), "{done}");
    // a stage is replaced and not executed
    let replaced = "FROM localhost/busybox AS b\nRUN exit 3\nFROM b\nRUN true\n";
    lab.rbuild(["bud", "--build-context=b=docker-image://localhost/busybox", "-"]).input(replaced).ok();
    lab.rbuild(["bud", "-"]).input(replaced).fails();
    // another stage
    let alias = "FROM localhost/busybox AS a\nRUN echo a > /a\nFROM x\nCOPY --from=x /a /b\nRUN cmp /a /b\n";
    lab.rbuild(["bud", "--build-context=x=target:a", "-"]).input(alias).ok();
    let done = lab.rbuild(["bud", "--build-context=x=target:nostage", "-"]).input(alias).fails();
    assert!(done.stderr.contains("no stage `nostage`"), "{done}");
    // files: an archive here and behind an address, and a single file
    let files = "FROM localhost/busybox\nCOPY --from=x dir/file /f\nRUN test \"$(cat /f)\" = content\n";
    let places =
        [lab.path("src.tar").display().to_string(), web.url("/files.tar"), lab.path("src").display().to_string()];
    for place in places {
        lab.rbuild(["bud", "--build-context"]).arg(format!("x={place}")).arg("-").input(files).ok();
    }
    let one = "FROM localhost/busybox\nCOPY --from=x one.txt /f\nRUN test \"$(cat /f)\" = one\n";
    lab.rbuild(["bud", "--build-context"]).arg(format!("x={}", web.url("/one.txt"))).arg("-").input(one).ok();
    // what nothing names is not fetched
    web.asked();
    let unused = format!("unused={}", web.url("/none"));
    lab.rbuild(["bud", "--build-context", &unused, "-"]).input("FROM localhost/busybox\nRUN true\n").ok();
    assert!(web.asked().is_empty());
    nothing_left(&lab);
}

#[test]
fn containerfiles_are_preprocessed() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("cpp");
    let lab = lab();
    let text = "FROM BASE\n#include \"tail.in\"\n#ifdef EXTRA\nRUN echo EXTRA > /extra\n#endif\n";
    let context = lab.context("context", &[("Containerfile.in", text), ("tail.in", "RUN echo tail > /tail\n")]);
    let build = |more: &[&str]| {
        let file = lab.path("context/Containerfile.in");
        lab.rbuild(["bud", "--cpp-flag=-DBASE=localhost/busybox", "-t", "localhost/x", "-f"])
            .arg(file)
            .args(more)
            .arg(&context)
    };
    let shows = |path: &str| lab.rbuild(["run", "localhost/x", "cat", path]).output().stdout;
    build(&[]).ok();
    assert_eq!((shows("/tail").as_str(), shows("/extra").as_str()), ("tail\n", ""));
    build(&["--cpp-flag", "-DEXTRA=more"]).ok();
    assert_eq!(shows("/extra"), "more\n");
    build(&[]).env("BUILDAH_CPPFLAGS", "-DEXTRA=variable").ok();
    assert_eq!(shows("/extra"), "variable\n");
    let done = build(&[]).env("PATH", "/nonexistent").fails();
    assert!(done.stderr.contains("cannot find the program `cpp`") && done.stderr.contains("hint: "), "{done}");
}

#[test]
fn only_what_a_step_needs_is_read() {
    let lab = Lab::new();
    let dir =
        lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY d7/f1234 /\n"), (".dockerignore", "*.tmp\n")]);
    let old = filetime(3);
    let mut files = vec![];
    for n in 0..20_000 {
        let path = lab.path(format!("context/d{}/f{n}", n % 20));
        if n < 20 {
            lab.mkdir(format!("context/d{n}"));
        }
        fs::write(&path, format!("{n}\n")).expect("a file");
        files.push(path);
    }
    // The file that is copied: its number and its directory belong together in no other.
    let wanted = lab.write("context/d7/f1234", "wanted\n");
    files.push(wanted.clone());
    files.push(lab.path("context/Dockerfile"));
    for path in &files {
        set_times(path, old);
    }
    // A file system that notes no reading at all can say nothing.
    let probe = lab.write("probe", "x");
    set_times(&probe, old);
    fs::read(&probe).expect("the probe");
    require!(if was_read(&probe, old) == Some(false), "the file system notes no access times");
    lab.rbuild(["bud", "-t", "localhost/x"]).arg(&dir).ok();
    let read: Vec<_> = files.iter().filter(|path| was_read(path, old) == Some(true)).collect();
    assert_eq!(read, [&wanted, &lab.path("context/Dockerfile")], "files of the context that were read");
}

/// Some days ago.
fn filetime(days: u64) -> std::time::SystemTime {
    std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86400)
}

fn set_times(path: &Path, time: std::time::SystemTime) {
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    fs::File::options().write(true).open(path).and_then(|f| f.set_times(times)).expect("times");
}

fn was_read(path: &Path, old: std::time::SystemTime) -> Option<bool> {
    let accessed = fs::metadata(path).ok()?.accessed().ok()?;
    Some(accessed > old + std::time::Duration::from_secs(3600))
}
