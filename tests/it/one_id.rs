//! A pod with one id: what steps see and what layers carry is the same as with a range of ids.

use crate::harness::{Lab, User, busybox_is_missing, require};

/// Builds on busybox with one id, under a supervisor, and with a range where the user has one; the diff IDs have to agree.
fn same_everywhere(files: &[(&str, &str)], steps: &str) {
    same(files, steps, &["namespaces", "trace"]);
}

/// The same with the given ways to hold steps.
fn same(files: &[(&str, &str)], steps: &str, isolations: &[&str]) {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let dockerfile = format!("FROM localhost/busybox\n{steps}");
    let context = lab.context("context", &[files, &[("Dockerfile", dockerfile.as_str())]].concat());
    let build = |name: &str, isolation: &str, path: Option<&str>| {
        let run = lab.rbuild(["bud", "--no-cache", "-t", name, "--isolation", isolation]).arg(&context);
        let mut run = run.env("SOURCE_DATE_EPOCH", "1");
        if let Some(path) = path {
            // Without `newuidmap` there is one id.
            run = run.env("PATH", path);
        }
        run.ok();
        let image = lab.rbuild(["inspect", name]).ok().stdout;
        let image: serde_json::Value = serde_json::from_str(&image).expect("JSON");
        image["OCIv1"]["rootfs"]["diff_ids"].clone()
    };
    let all: Vec<_> = isolations.iter().map(|isolation| build("localhost/one", isolation, Some("/nowhere"))).collect();
    let one = all[0].clone();
    assert!(all.iter().all(|other| *other == one), "{all:?}");
    require!(if !User::find().ranged, "the user has no range of ids to compare with");
    let many = build("localhost/many", "namespaces", None);
    assert_eq!(one, many);
}

#[test]
fn files_belong_to_whom_they_were_given() {
    same_everywhere(
        &[("f", "f")],
        r#"
COPY --chown=7:8 f /copied
RUN <<'EOF'
set -e
is() { test "$(stat -c %u:%g:%a "$1")" = "$2" || { stat "$1"; exit 1; }; }
is /copied 7:8:644
mkdir /d && cd /d
touch a b c && chown 33:34 a && chown 5 b && chgrp 6 c && chown 0:0 /copied
is a 33:34:644; is b 5:0:644; is c 0:6:644; is /copied 0:0:644
ln -s nowhere link && chown -h 1:2 link && is link 1:2:777
mkfifo pipe && chown 3:3 pipe && is pipe 3:3:644
chmod 4755 a && is a 33:34:4755
# A change of owner takes set-id bits away, of directories it does not.
chown 44 a && is a 44:34:755
mkdir -p tree/x/y && touch tree/x/y/z && chown -R 9:9 tree && is tree/x/y/z 9:9:644
mv tree/x moved && is moved/y/z 9:9:644
cp -a moved kept && is kept/y/z 9:9:644
cp -r moved lost && is lost/y/z 0:0:644
ln a hard && is hard 44:34:755
cp a installed && chown 12:13 installed && chmod 2750 installed && is installed 12:13:2750
tar cf /t.tar moved && mkdir out && tar xf /t.tar -C out && is out/moved/y/z 9:9:644 && rm /t.tar
sed -i s/x/y/ a
# Who looks by descriptor sees the same.
exec 3<b && test "$(stat -L -c %u /proc/self/fd/3)" = 5
# The number of a removed file is used again.
for i in 1 2 3 4 5 6 7 8; do touch n && chown 8:8 n && rm n && touch n && is n 0:0:644; done
EOF
RUN test "$(stat -c %u:%g /d/a)" = 44:34 && chown 0:0 /d/a && rm -r /d/kept && mkdir /d/kept && echo more >>/d/b
RUN test "$(stat -c %u:%g /d/a)" = 0:0 && test "$(stat -c %u /d/b)" = 5
"#,
    );
}

#[test]
fn names_of_a_lower_file_part_with_their_owners() {
    // Through an overlay; the directory that a supervised step has keeps them together.
    same(
        &[],
        r#"
RUN mkdir /d && touch /d/installed && ln /d/installed /d/again && ln /d/again /d/still && chown 12:13 /d/again && test "$(stat -c %u /d/installed)" = 12
RUN echo more >>/d/again && test "$(stat -c %u:%g /d/again)" = 12:13 && chown 0:0 /d/installed && test "$(stat -c %u /d/still)" = 12
"#,
        &["namespaces"],
    );
}

#[test]
fn processes_become_others_and_make_files_of_theirs() {
    same_everywhere(
        &[],
        r#"
RUN mkdir -p /etc /home /tmp && chmod 1777 /tmp && echo 'root:x:0:0::/:/bin/sh' >/etc/passwd && echo 'root:x:0:' >/etc/group
RUN <<'EOF'
set -e
echo 'app:x:1000:1000::/home/app:/bin/sh' >>/etc/passwd && echo 'app:x:1000:' >>/etc/group
mkdir /home/app && chown app:app /home/app
test "$(stat -c %u:%g /home/app)" = 1000:1000
cat >/as-app <<'IN'
set -e
test "$(id -u):$(id -g):$(id -G)" = 1000:1000:1000
cd /home/app && touch file && mkdir dir && ln -s file link && mkfifo pipe && echo x >written && (umask 077 && touch private)
for f in file dir link pipe written; do test "$(stat -c %u:%g $f)" = 1000:1000; done
test "$(stat -c %a private)" = 600
! touch /etc/x && ! mkdir /etc/d && ! chown 5 file && ! chown 1000 /etc/passwd && ! ln -s x /etc/l
test ! -w /etc && test -w /home/app && test ! -w /etc/passwd && test -r /etc/passwd
touch /tmp/mine
IN
su app -c 'sh /as-app'
test "$(id -u)" = 0 && test "$(stat -c %u /tmp/mine)" = 1000
EOF
USER 1000:1000
WORKDIR /home/app
RUN touch by-user && test "$(stat -c %u:%g by-user)" = 1000:1000 && ! touch /x && umask 002 && mkdir -p a/b/c && echo >/tmp/b
USER root
RUN mkdir /shared && chown 0:60 /shared && chmod 2775 /shared && touch /shared/f && mkdir /shared/d && test "$(stat -c %g:%a /shared/d)" = 60:2755
USER 1000:60
RUN touch /shared/mine && test "$(stat -c %u:%g /shared/mine)" = 1000:60
"#,
    );
}

#[test]
fn device_nodes_are_files_with_a_record() {
    same_everywhere(
        &[],
        "RUN mkdir /d && mknod -m 600 /d/null c 1 3 && mknod /d/disk b 8 17 && mknod /d/pipe p && chown 0:6 /d/disk\n\
         RUN mv /d/null /d/moved && chmod 640 /d/moved\n",
    );
}

#[test]
fn device_nodes_are_seen_and_copied_as_such() {
    same_everywhere(
        &[],
        "RUN mknod /null c 1 3 && test -c /null && chown 5:6 /null && test \"$(stat -c '%F %t %T %u:%g' /null)\" = 'character special file 1 3 5:6'\n\
         RUN test -c /null && test \"$(stat -c %u:%g /null)\" = 5:6 && cp -a /null /copy && tar -cf /t null && mkdir /x && tar -C /x -xf /t && rm /t\n\
         RUN test -c /copy && test -c /x/null\n",
    );
}

#[test]
fn what_a_stage_recorded_is_seen_where_it_is_mounted() {
    same_everywhere(
        &[("f", "f")],
        "FROM localhost/busybox AS made\nCOPY --chown=7:8 f /dir/f\nRUN chown 9:9 /dir\n\
         FROM localhost/busybox\n\
         RUN --mount=type=bind,from=made,target=/m test $(stat -c %u:%g /m/dir/f) = 7:8 && cp -a /m/dir /got\n",
    );
}

#[test]
fn caches_can_be_written_by_whom_they_are_for() {
    same_everywhere(
        &[],
        "USER 1000\n\
         RUN --mount=type=cache,target=/c,uid=1000 touch /c/f && mkdir /c/d && test $(stat -c %u:%g:%a /c) = 1000:0:755\n\
         RUN --mount=type=cache,target=/c,uid=1000 echo more >> /c/f && rmdir /c/d && ! touch /etc/f\n",
    );
}
