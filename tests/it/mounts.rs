//! `RUN --mount` and `--compat-volumes`.

use crate::harness::{Done, Lab, busybox_is_missing, require};

/// A lab with the base image.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab
}

/// Builds a Dockerfile in the context `context`, which may hold more files.
fn build(lab: &Lab, dockerfile: &str, more: &[&str]) -> Done {
    lab.context("context", &[("Dockerfile", dockerfile)]);
    lab.rbuild(["bud", "-t", "localhost/x"]).args(more).arg(lab.path("context")).output()
}

#[track_caller]
fn builds(lab: &Lab, dockerfile: &str, more: &[&str]) -> Done {
    let done = build(lab, dockerfile, more);
    assert_eq!(done.code, 0, "{done}");
    done
}

/// Whether the last step came from the cache.
fn cached(done: &Done) -> bool {
    format!("{}{}", done.stdout, done.stderr).contains("Using cache")
}

#[test]
fn a_stage_is_shown_and_its_changes_are_lost() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let dockerfile = r#"
FROM localhost/busybox AS files
RUN mkdir -p /data/sub && echo one >/data/f && echo two >/data/sub/g && ln -s /data/sub /link
FROM localhost/busybox
USER 1000:1000
RUN --mount=type=bind,from=files,source=/data,target=/new/place <<'EOF'
set -e
test "$(cat /new/place/f /new/place/sub/g)" = "$(printf 'one\ntwo')"
if echo x >/new/place/f || echo x >/new/place/n; then exit 1; fi
EOF
USER 0
RUN --mount=from=files,src=/link/g,dst=/one-file test "$(cat /one-file)" = two
RUN --mount=from=files,target=/all,rw rm -r /all/data && echo x >/all/new && ls /all >/seen
RUN --mount=from=files,target=/all test -e /all/data/f && test ! -e /all/new
RUN grep -qx new /seen && test ! -e /all && test ! -e /new && test ! -e /one-file
FROM scratch AS nothing
FROM localhost/busybox
RUN --mount=from=nothing,target=/empty test -z "$(ls /empty)"
COPY --from=1 /seen /seen
"#;
    for more in [&[][..], &["--layers=false"], &["--no-cache", "--squash"]] {
        builds(&lab(), dockerfile, more);
    }
}

#[test]
fn a_missing_source_is_an_error() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    for options in ["from=0,source=/none", "source=none", "source=../../etc", "from=0,source=/none,rw"] {
        let text = format!("FROM localhost/busybox\nFROM localhost/busybox\nRUN --mount={options},target=/m ls /m\n");
        let done = build(&lab, &text, &[]);
        assert!(done.code == 125 && done.stderr.contains("not found"), "{done}");
    }
}

#[test]
fn the_context_is_shown_filtered_and_never_written_to() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.context("context", &[("f", "one"), ("hidden", "no"), ("dir/g", "two"), (".dockerignore", "hidden\n")]);
    std::os::unix::fs::symlink("dir", lab.path("context/link")).unwrap();
    let dockerfile = r#"
FROM localhost/busybox
RUN --mount=target=/c,rw <<'EOF'
set -e
test "$(cat /c/f)" = one && test ! -e /c/hidden
test "$(stat -c %u:%g /c/f /c/dir | sort -u)" = 0:0
echo changed >/c/f && rm -r /c/dir && echo x >/c/new
EOF
RUN --mount=source=link,target=/c test "$(cat /c/g)" = two
RUN --mount=source=dir/g,target=/c/g test "$(cat /c/g)" = two
WORKDIR /w
RUN --mount=source=dir,target=rel test "$(cat /w/rel/g)" = two && ! touch rel/x
"#;
    builds(&lab, dockerfile, &[]);
    assert_eq!(std::fs::read_to_string(lab.path("context/f")).unwrap(), "one");
    assert!(lab.path("context/dir/g").exists() && !lab.path("context/new").exists());
}

#[test]
fn content_decides_whether_a_step_is_cached() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = "FROM localhost/busybox\nRUN --mount=source=in,target=/in cat /in/f >/out\n";
    lab.context("context", &[("in/f", "one"), ("other", "a")]);
    assert!(!cached(&builds(&lab, dockerfile, &[])));
    lab.context("context", &[("other", "b")]);
    assert!(cached(&builds(&lab, dockerfile, &[])));
    lab.context("context", &[("in/f", "two")]);
    assert!(!cached(&builds(&lab, dockerfile, &[])));
    let other = dockerfile.replace("target=/in", "target=/in,rw");
    assert!(!cached(&builds(&lab, &other, &[])));

    // A stage that was made anew with the same files is the same.
    let stage = |n: u32| {
        format!(
            "FROM localhost/busybox AS a\nRUN echo {n} >/n && echo x >/f\nFROM localhost/busybox\n\
             RUN --mount=from=a,source=/f,target=/f cat /f >/out\n"
        )
    };
    assert!(!cached(&builds(&lab, &stage(1), &[])));
    assert!(cached(&builds(&lab, &stage(2), &[])));
}

#[test]
fn how_a_step_reaches_things_does_not_decide_whether_it_is_cached() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = "FROM localhost/busybox\nRUN ls /v >/dev/null; grep -c . /etc/resolv.conf /etc/hosts\n";
    let (volume, other) = (lab.mkdir("volume"), lab.mkdir("other"));
    let (volume, other) = (format!("{}:/v", volume.display()), format!("{}:/v", other.display()));
    let with = |dns: &str, host: &str, volume: &str| {
        let flags = ["--dns", dns, "--dns-search", "a.test", "--add-host", host, "-v", volume];
        cached(&builds(&lab, dockerfile, &flags))
    };
    assert!(!with("192.0.2.1", "mirror:192.0.2.2", &volume));
    lab.write("volume/new", "");
    assert!(with("192.0.2.3", "mirror:192.0.2.4", &volume), "another address, another server, more files");
    assert!(!with("192.0.2.3", "else:192.0.2.4", &volume), "another host name");
    assert!(!with("192.0.2.3", "else:192.0.2.4", &other), "another directory");
}

#[test]
fn caches_outlive_builds_and_stay_out_of_images() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = |n: u32| {
        format!(
            r#"
FROM localhost/busybox AS base
RUN mkdir /start && echo s >/start/begun
FROM localhost/busybox
RUN --mount=type=cache,target=/c,sharing=locked echo {n} >>/c/all && cp /c/all /all
RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0700 test "$(stat -c %u:%g:%a /c)" = 1000:1000:700
RUN --mount=type=cache,target=/c,id=other test ! -e /c/all
RUN --mount=type=cache,target=/c,from=base,source=/start test -e /c/begun
RUN --mount=type=cache,id=/c,target=/x --mount=type=cache,id=/c,target=/y,sharing=locked diff /x/all /y/all
RUN --mount=type=cache,id=/c,target=/ro,ro ! touch /ro/x
RUN test ! -e /c && test ! -e /x
"#
        )
    };
    builds(&lab, &dockerfile(1), &[]);
    builds(&lab, &dockerfile(2), &[]);
    let all = lab.rbuild(["run", "localhost/x", "cat", "/all"]).ok().stdout;
    assert_eq!(all, "1\n2\n");
    // The cache's content is no part of the key; dropped, it begins anew.
    assert!(cached(&builds(&lab, &dockerfile(2), &[])));
    lab.rbuild(["prune", "--all"]).ok();
    builds(&lab, &dockerfile(2), &["--no-cache"]);
    assert_eq!(lab.rbuild(["run", "localhost/x", "cat", "/all"]).ok().stdout, "2\n");
}

#[test]
fn a_cache_starts_with_the_files_of_a_named_context() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    lab.context("start", &[("in/begun", "1\n"), ("ignored", "x"), (".dockerignore", "ignored\n")]);
    let with = |steps: &str, place: &str| {
        let dockerfile = format!(
            "FROM localhost/busybox AS stage\nRUN mkdir /in && echo 1 >/in/begun\nFROM localhost/busybox\n{steps}"
        );
        builds(&lab, &dockerfile, &["--no-cache", "--build-context", place])
    };
    let start = "start=start";
    let first = "RUN --mount=type=cache,target=/c,from=start test ! -e /c/ignored && test ! -e /c/seen && \
                 test $(stat -c %u:%g /c/in/begun) = 0:0 && cat /c/in/begun && echo mine >/c/in/begun && touch /c/seen\n";
    with(first, start);
    // What steps change there stays, in the cache alone.
    with("RUN --mount=type=cache,target=/c,from=start grep mine /c/in/begun\n", start);
    with("RUN --mount=type=cache,target=/c,from=start,source=in grep mine /c/begun && test ! -e /c/in\n", start);
    assert_eq!(std::fs::read_to_string(lab.path("start/in/begun")).unwrap(), "1\n");
    with("RUN --mount=type=cache,target=/c test -z \"$(ls /c)\"\n", start);
    with("RUN --mount=type=cache,target=/c,from=start,uid=7,mode=0700 test $(stat -c %u:%a /c) = 7:700\n", start);
    // Other files begin another cache; so do a stage and an image under that name.
    lab.write("start/in/begun", "2\n");
    with(&first.replace("&& cat", "&& grep 2"), start);
    let begun = "RUN --mount=type=cache,target=/c,from=start test ! -e /c/seen && grep 1 /c/in/begun\n";
    with(begun, "start=target:stage");
    with(
        "RUN --mount=type=cache,target=/c,from=start test -x /c/bin/busybox\n",
        "start=docker-image://localhost/busybox",
    );
    // They are part of the step's key; what ignore files leave out is not.
    let step = "FROM localhost/busybox\nRUN --mount=type=cache,target=/c,from=start true\n";
    let again = |changed: &str| {
        lab.write(changed, "3\n");
        cached(&builds(&lab, step, &["--build-context", start]))
    };
    assert!(!again("start/ignored") && again("start/ignored") && !again("start/in/begun"));
}

#[test]
fn a_link_in_a_cache_leads_nowhere_else() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = |link: &str| {
        format!(
            "FROM localhost/busybox\nRUN --mount=type=cache,target=/c ln -sfn {link} /c/sel\n\
             RUN --mount=type=cache,id=/c,source=sel,target=/v cat /v/hostname\n"
        )
    };
    for link in ["/etc", "../../../../../../etc", "/proc/self/root/etc"] {
        let done = build(&lab, &dockerfile(link), &["--no-cache"]);
        assert!(done.code != 0 && done.stderr.contains("cannot mount `sel`"), "{done}");
    }
}

#[test]
fn memory_is_empty_and_forgotten() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let dockerfile = r#"
FROM localhost/busybox
RUN mkdir /m && echo kept >/m/f
RUN --mount=type=tmpfs,target=/m,size=1m test -z "$(ls /m)" && touch /m/x && ! head -c 2000000 /dev/zero >/m/y
RUN test "$(ls /m)" = f
"#;
    builds(&lab(), dockerfile, &[]);
}

#[test]
fn declared_volumes_keep_their_content_when_asked_to() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dockerfile = r#"
FROM localhost/busybox
RUN mkdir -p /v/sub && echo old >/v/f
VOLUME /v /none
RUN echo new >/v/f && touch /v/x /none/x
COPY Dockerfile /v/
RUN ls /v >/seen && cat /v/f >>/seen
"#;
    let seen = || lab.rbuild(["run", "localhost/x", "cat", "/seen"]).ok().stdout;
    builds(&lab, dockerfile, &["--compat-volumes"]);
    assert_eq!(seen(), "Dockerfile\nf\nsub\nold\n");
    builds(&lab, &dockerfile.replace("touch /v/x /none/x", "touch /v/x"), &[]);
    assert_eq!(seen(), "Dockerfile\nf\nsub\nx\nnew\n");
}

#[test]
fn images_of_config_alone_have_one_id() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    for dockerfile in ["FROM localhost/busybox\n", "FROM localhost/busybox\nENV a=b\n", "FROM scratch\n"] {
        let id = |n: &str| {
            let file = lab.path(format!("iid{n}"));
            builds(&lab, dockerfile, &["--iidfile", &file.to_string_lossy()]);
            std::fs::read_to_string(file).unwrap()
        };
        assert_eq!(id("1"), id("2"), "{dockerfile}");
    }
}
