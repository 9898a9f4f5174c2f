//! Steps without any namespace, kept up by a supervisor. Here they are asked for; pods of Pod Security `restricted` allow
//! nothing else.

use crate::harness::{Done, Lab, busybox_is_missing, require};

/// Builds a Dockerfile of these instructions on busybox, supervised.
fn supervised(lab: &Lab, instructions: &str) -> Done {
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", &format!("FROM localhost/busybox\n{instructions}\n"))]);
    let build = lab.rbuild(["bud", "--isolation=trace", "--no-cache", "-t", "localhost/x"]).arg(context);
    build.env("BUILDER_SECRET", "swordfish").output()
}

/// A RUN of a shell script that stops at the first failure.
fn script(text: &str) -> String {
    format!(
        "RUN <<'EOF'\nset -e\nno() {{ if \"$@\" 2>/dev/null; then echo \"must not be: $*\"; exit 1; fi; }}\n{text}\nEOF"
    )
}

#[test]
fn paths_lead_where_a_root_directory_of_its_own_would_lead() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.write("home/private", "swordfish");
    let home = lab.path("home");
    let text = script(&format!(
        r#"
test "$(pwd)" = / && test "$(cd .. && pwd)" = /
mkdir -p /a/b/c && cd /a/b/c && test "$(pwd)" = /a/b/c
test "$(readlink /proc/self/cwd)" = /a/b/c
mv /a /z && test "$(/bin/pwd)" = /z/b/c && cd .. && test "$(/bin/pwd)" = /z/b
ln -s /z/b /link && ln -s ../../../../etc/passwd /z/b/up && ln -s loop /z/loop
test -s /link/up && test "$(readlink /link/up)" = ../../../../etc/passwd
test "$(head -n1 /link/c/../up)" = "$(head -n1 /etc/passwd)"
no cat /z/loop
cd / && no test -e {home}/private && no test -e /../../..{home}/private
ln -s {home}/private /out && no cat /out && no test -e /proc/self/root{home}/private
no test -e /proc/1/root/etc && no cat /proc/$PPID/../1/environ
echo x >/z/new && mv /z/new /z/other && ln /z/other /z/hard && test "$(stat -c %h /z/hard)" = 2
rm -r /z && no test -e /z && no ls /link/
umask 077 && echo x >/f && test "$(stat -c %a /f)" = 600 && umask 022
chmod 4755 /f && test "$(stat -c %a /f)" = 4755
mkfifo /p && (echo through >/p &) && test "$(cat /p)" = through
chroot /usr /bin/true 2>/dev/null || mkdir -p /jail/bin && cp /bin/busybox /jail/bin/sh && test "$(chroot /jail /bin/sh -c 'echo /*')" = /bin"#,
        home = home.display()
    ));
    let done = supervised(&lab, &text);
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn proc_and_dev_show_the_step_and_nothing_else() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let text = script(
        r#"
read -r pid _ </proc/self/stat; test "$pid" = $$
test "$(readlink /proc/self/exe)" = /bin/busybox
for dir in /proc/[0-9]*; do
    if tr '\0' '\n' <$dir/cmdline 2>/dev/null | grep -qx bud; then echo "the builder is visible at $dir"; exit 1; fi
done
test "$(ls /proc | grep -c '^[0-9]')" -le 4
no test -e /proc/1 && no kill -0 1 && no kill -9 $PPID
if cat /proc/[0-9]*/environ 2>/dev/null | grep swordfish; then exit 1; fi
no grep -q rbuild-it /proc/self/maps
no sh -c 'echo x >/proc/sys/kernel/hostname'
echo x >/dev/null && test -c /dev/zero && test "$(head -c 3 /dev/zero | wc -c)" = 3
test "$(echo through | cat /dev/stdin)" = through && echo shown >/dev/stdout
test "$(uname -n)" = buildkitsandbox
grep -q 127.0.0.1 /etc/hosts && no mount -t tmpfs none /tmp && no unshare -U true
mknod /tmp/null c 1 3 && echo x >/tmp/null && test -c /tmp/null"#,
    );
    let done = supervised(&lab, &text);
    assert_eq!(done.code, 0, "{done}");
    assert!(done.stdout.contains("shown"), "{done}");
}

#[test]
fn users_and_owners_are_what_they_would_be() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let text = script(
        r#"
test "$(id -u)" = 0 && touch /f && chown 33:7 /f && test "$(stat -c %u:%g /f)" = 33:7
mv /f /g && test "$(stat -c %u:%g /g)" = 33:7 && chmod 600 /g
mkdir /own && chown www /own && chmod 700 /own
su www -c 'test $(id -u) = 33 && cat /g && touch /own/mine && test $(stat -c %u /own/mine) = 33'
no su www -c 'touch /root/x' && no su www -c 'touch /x' && no su www -c 'ls /root'
chown 0 /own && no su www -c 'ls /own'"#,
    );
    let done = supervised(&lab, &text);
    assert_eq!(done.code, 0, "{done}");
    let done = supervised(&lab, "USER www\nRUN test $(id -u) = 33 && ! touch /x");
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn mounts_are_shown_where_they_are_wanted() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.write("token", "swordfish-secret");
    lab.import_busybox();
    let text = script(
        r#"
cat /run/secrets/t | grep -q swordfish-secret && no sh -c 'echo x >/run/secrets/t'
echo kept >/c/f && echo lost >/t/f && test "$(cat /ctx/file)" = context && no touch /ctx/new
no mv /c/f /moved.by.rename.only && no rmdir /c && ls / | grep -qx ctx"#,
    );
    let flags =
        "--mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=t --mount=target=/ctx";
    let text = text.replacen("RUN", &format!("RUN {flags}"), 1).replace("no mv /c/f /moved.by.rename.only && ", "");
    let dockerfile = format!(
        "FROM localhost/busybox\n{text}\nRUN --mount=type=cache,target=/c test $(cat /c/f) = kept && test ! -e /t && test ! -e /ctx"
    );
    let context = lab.context("context", &[("Dockerfile", &dockerfile), ("file", "context")]);
    let build = lab.rbuild(["bud", "--isolation=trace", "--secret=id=t,src=token", "-t", "localhost/x"]).arg(context);
    let done = build.output();
    assert_eq!(done.code, 0, "{done}");
}

#[test]
fn programs_start_and_end_as_always() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let text = script(
        r##"
printf '#!/bin/sh -e\necho "$0 $1 $#"\n' >/s && chmod 755 /s && test "$(/s 'a b' c)" = "/s a b 2"
printf '#!/s x\n' >/t && chmod 755 /t && test "$(/t y)" = "/s x 3"
printf 'echo plain' >/u && chmod 755 /u && test "$(/u)" = plain
chmod 644 /u && no /u && no /none && no /etc
printf '#!/none\n' >/v && chmod 755 /v && no /v
i=0; while [ $i -lt 50 ]; do (exit 3) || test $? = 3; i=$((i+1)); done
(sleep 60 & kill $!; wait $!) || test $? = 143
mkdir /o && cp /bin/busybox /o && test "$(/o/busybox readlink /proc/self/exe)" = /o/busybox
yes | head -n 1 >/dev/null; sleep 1000 & trap 'exit 0' TERM; kill $$"##,
    );
    let done = supervised(&lab, &text);
    assert_eq!(done.code, 0, "{done}");
    for (command, code) in [("exit 3", 3), ("kill -9 $$", 137), ("exec /none", 127), ("/etc", 126)] {
        let done = supervised(&lab, &format!("RUN {command}"));
        assert_eq!(done.code, code, "{done}");
    }
}

#[test]
fn the_way_that_was_taken_is_said_and_can_be_refused() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let done = supervised(&lab, "RUN true");
    assert!(done.code == 0 && done.stderr.contains("`--isolation trace`"), "{done}");
    let wrong = lab.rbuild(["bud", "--isolation=jail", "."]).output();
    assert!(wrong.code != 0 && wrong.stderr.contains("`jail` is no isolation"), "{wrong}");
    let by_variable = lab.rbuild(["info"]).env("RBUILD_ISOLATION", "jail").output();
    assert!(by_variable.code != 0 && by_variable.stderr.contains("RBUILD_ISOLATION"), "{by_variable}");
}
