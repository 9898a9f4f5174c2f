//! Secrets and SSH agents of RUN steps.

use crate::harness::{Done, Lab, busybox_is_missing, require, which};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab
}

/// Builds a Dockerfile on busybox.
fn build(lab: &Lab, steps: &str, more: &[&str]) -> Done {
    lab.context("context", &[("Dockerfile", &format!("FROM localhost/busybox\n{steps}\n"))]);
    let run = lab.rbuild(["bud", "-t", "localhost/x"]).args(more).arg(lab.path("context"));
    run.env("TOKEN", "grapefruit-juice").output()
}

#[track_caller]
fn builds(lab: &Lab, steps: &str, more: &[&str]) -> Done {
    let done = build(lab, steps, more);
    assert_eq!(done.code, 0, "{done}");
    done
}

fn said(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

#[test]
fn a_secret_is_a_file_or_a_variable_of_its_step() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let file = lab.write("s", "swordfish\n");
    let file = format!("id=file,src={}", file.display());
    let steps = r#"
RUN --mount=type=secret,id=file <<'EOF'
set -e
test "$(cat /run/secrets/file)" = swordfish
test "$(stat -c %a:%u:%g /run/secrets/file)" = 400:0:0
if echo x >/run/secrets/file; then exit 1; fi
grep -q ' /run/secrets/file ro,nosuid,nodev,noexec' /proc/self/mountinfo
EOF
RUN --mount=type=secret,source=file,target=/etc/x/token,mode=0444 test "$(stat -c %a /etc/x/token)" = 444
RUN --mount=type=secret,id=TOKEN,env=VALUE test "$VALUE" = grapefruit-juice && test ! -e /run/secrets
ENV VALUE=plain
RUN --mount=type=secret,id=TOKEN,env=VALUE,target=/t test "$(cat /t)" = "$VALUE" && test "$(env | grep -c VALUE)" = 1
WORKDIR /w
RUN --mount=type=secret,target=sub/file test "$(cat /w/sub/file)" = swordfish
RUN test "$VALUE" = plain && test ! -e /run && test ! -e /etc/x && test ! -e /t && test ! -e /w/sub
RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing
"#;
    for more in [&["--layers=true"][..], &["--layers=false"]] {
        let flags = [&["--secret", &file, "--secret", "id=TOKEN"][..], more].concat();
        builds(&lab, steps, &flags);
    }
}

#[test]
fn owner_and_mode_are_those_that_were_asked_for() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let file = format!("id=s,src={}", lab.write("s", "swordfish").display());
    let steps =
        "RUN --mount=type=secret,id=s,uid=33,gid=12,mode=0440 test \"$(stat -c %a:%u:%g /run/secrets/s)\" = 440:33:12";
    builds(&lab, steps, &["--secret", &file]);
    let one_id = !lab.user().ranged;
    let far = if one_id { "99999999" } else { "0" };
    let cache = format!(
        "RUN --mount=type=cache,target=/c,uid=33,gid=12,mode=0710 test \"$(stat -c %a:%u:%g /c)\" = 710:33:12\n\
         RUN --mount=type=cache,target=/far,uid=99999999 test \"$(stat -c %u /far)\" = {far}"
    );
    let done = builds(&lab, &cache, &[]);
    // What a pod with a range cannot map, it says; with one id all owners are kept up.
    assert_eq!(said(&done).contains("`/far` belongs to 0:0 in place of 99999999:0"), !one_id, "{done}");
    builds(&lab, "USER 33:12\nRUN --mount=type=secret,id=s,uid=33 cat /run/secrets/s", &["--secret", &file]);
    if !one_id {
        let done = build(&lab, "USER 33\nRUN --mount=type=secret,id=s cat /run/secrets/s", &["--secret", &file]);
        assert!(done.code != 0 && said(&done).contains("ermission denied"), "{done}");
    }
}

#[test]
fn a_secret_is_nowhere_afterwards() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let file = lab.mkdir("outside").join("s");
    fs::write(&file, "swordfish-and-chips\n").unwrap();
    let log = lab.path("log");
    let steps = r#"
RUN --mount=type=secret,id=file --mount=type=secret,id=TOKEN,env=VALUE <<'EOF'
cat /run/secrets/file
echo "x${VALUE}y" >&2
printf 'swordfish-'; sleep 0.2; printf 'and-chips\n'
env | sort
EOF
RUN --mount=type=secret,id=TOKEN,env=PATH /bin/true
"#;
    let secret = format!("id=file,src={}", file.display());
    let flags = ["--secret", secret.as_str(), "--secret", "id=TOKEN", "--logfile", log.to_str().unwrap()];
    builds(&lab, steps, &flags);
    let logged = fs::read_to_string(&log).unwrap();
    assert!(logged.contains("***") && logged.contains("x***y"), "{logged}");
    // A failure, the builder's own trace, and each way to look at the image.
    let failing = format!("{steps}\nRUN --mount=type=secret,id=TOKEN,env=VALUE echo $VALUE; \"/$VALUE\"\n");
    let flags = ["--secret", secret.as_str(), "--secret", "id=TOKEN"];
    let mut all = said(&build(&lab, &failing, &flags));
    let again = lab.rbuild(["bud", "--no-cache", "-t", "localhost/y"]).args(flags).arg(lab.path("context"));
    all.push_str(&said(&again.env("TOKEN", "grapefruit-juice").env("RBUILD_LOG", "trace").output()));
    for verb in [&["inspect", "localhost/x"][..], &["history", "localhost/x"], &["push", "localhost/x", "oci:out"]] {
        all.push_str(&said(&lab.rbuild(verb).ok()));
    }
    lab.rbuild(["push", "localhost/x", "docker-archive:out.tar"]).ok();
    assert!(all.contains("***"), "{all}");
    for secret in ["swordfish-and-chips", "grapefruit-juice"] {
        assert!(!all.contains(secret), "{all}");
        assert!(!logged.contains(secret), "{logged}");
        assert_eq!(holding(&lab, secret, &file), Vec::<String>::new());
    }
    // The search finds what there is to find.
    lab.write("planted", "grapefruit-juice");
    assert_eq!(holding(&lab, "grapefruit-juice", &file), ["./planted", "./planted packed"]);
}

/// Files of the lab that hold a text, in themselves or packed, but for `except`.
fn holding(lab: &Lab, text: &str, except: &Path) -> Vec<String> {
    // As root of the store's own namespace: no file of a step is out of reach.
    let script = r#"cd "$1"; grep -rlF -e "$2" . 2>/dev/null
        find . -type f | while read -r f; do
            gzip -dcf <"$f" 2>/dev/null | grep -qF -e "$2" && echo "$f packed"
        done; true"#;
    let done = lab.rbuild(["unshare", "sh", "-c", script, "sh"]).arg(lab.dir()).arg(text).ok();
    let except = except.strip_prefix(lab.dir()).unwrap().display().to_string();
    done.stdout.lines().filter(|line| !line.contains(&except)).map(str::to_owned).collect()
}

#[test]
fn a_required_secret_must_be_given_and_readable() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = "RUN --mount=type=secret,id=s,required true";
    let done = build(&lab, steps, &[]);
    assert!(done.code != 0 && said(&done).contains("the secret `s`"), "{done}");
    assert!(said(&done).contains("--secret id=s,src=FILE"), "{done}");
    // Before any step runs.
    let done = build(&lab, &format!("RUN echo started\n{steps}"), &["--secret", "id=s,src=/none"]);
    assert!(done.code != 0 && !said(&done).contains("started") && said(&done).contains("/none"), "{done}");
    builds(&lab, steps, &["--secret", "id=s,env=TOKEN"]);
}

#[test]
fn another_value_is_no_reason_to_run_again_but_another_id_is() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let cached = |value: &str, id: &str| {
        lab.write("s", value);
        let flag = format!("id={id},src={}", lab.path("s").display());
        let steps = format!("RUN --mount=type=secret,id={id},target=/t cat /t >/dev/null");
        said(&builds(&lab, &steps, &["--secret", &flag])).contains("Using cache")
    };
    assert!(!cached("one-two", "a"));
    assert!(cached("two-three", "a"));
    assert!(!cached("two-three", "b"));
}

#[test]
fn an_agent_signs_for_its_step_only() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("ssh-keygen");
    require!("ssh-add");
    let lab = lab();
    require!(if lab.program("id", ["-un"]).output().code != 0, "ssh-keygen wants a user with a name");
    let make = |name: &str, more: &[&str]| {
        let path = lab.path(name);
        let keygen = which("ssh-keygen").unwrap();
        lab.program(keygen, ["-q", "-N", "", "-C", "the comment"]).args(more).arg("-f").arg(&path).ok();
        path.display().to_string()
    };
    let keys = [
        make("ed25519", &["-t", "ed25519"]),
        make("ecdsa", &["-t", "ecdsa"]),
        make("rsa", &["-t", "rsa"]),
        make("pkcs1", &["-t", "rsa", "-m", "PEM"]),
        make("pkcs8", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ];
    let agent = format!("k={}", keys.join(","));
    let tools = ssh_tools(&lab);
    // A signature with each key, by the agent, and checked by OpenSSH.
    let steps = r#"
RUN --mount=type=ssh,id=k <<'EOF'
set -e
test "$SSH_AUTH_SOCK" = /run/buildkit/ssh_agent.0
test "$(stat -c %a:%u:%g $SSH_AUTH_SOCK)" = 600:0:0
/tools/run ssh-add -L >/tmp/keys
test "$(wc -l </tmp/keys)" = 5
echo text >/tmp/text
while read -r line; do
    echo "$line" >/tmp/k.pub
    /tools/run ssh-keygen -q -Y sign -f /tmp/k.pub -n test /tmp/text
    /tools/run ssh-keygen -Y check-novalidate -n test -s /tmp/text.sig </tmp/text
    rm /tmp/text.sig
done </tmp/keys
if /tools/run ssh-add -D; then exit 1; fi
EOF
RUN test -z "$SSH_AUTH_SOCK" && test ! -e /run
RUN --mount=type=ssh,id=k,target=/a/s,mode=0666 --mount=type=ssh,id=k \
    test "$SSH_AUTH_SOCK" = /a/s && test -S /run/buildkit/ssh_agent.1 && test "$(stat -c %a /a/s)" = 666
RUN --mount=type=ssh test -z "$SSH_AUTH_SOCK"
"#;
    builds(&lab, steps, &["--ssh", &agent, "-v", &tools]);

    let done = build(&lab, "RUN --mount=type=ssh,required true", &[]);
    assert!(done.code != 0 && said(&done).contains("SSH agent `default`"), "{done}");
    let done = build(&lab, "RUN true", &["--ssh", "k=/dev/null"]);
    assert!(done.code != 0 && said(&done).contains("no private key"), "{done}");
    let locked = lab.path("locked").display().to_string();
    lab.program(which("ssh-keygen").unwrap(), ["-q", "-N", "a passphrase", "-t", "ed25519", "-f", &locked]).ok();
    let done = build(&lab, "RUN true", &["--ssh", &format!("k={locked}")]);
    assert!(done.code != 0 && said(&done).contains("passphrase") && said(&done).contains("ssh-add"), "{done}");
}

/// A volume with the machine's OpenSSH and what it needs to run in an image of busybox: `/tools/run PROGRAM …`.
fn ssh_tools(lab: &Lab) -> String {
    let dir = lab.mkdir("tools");
    let mut loader = String::new();
    for program in ["ssh-add", "ssh-keygen"] {
        let path = which(program).unwrap();
        let listed = lab.program("ldd", [&path]).ok().stdout;
        for word in listed.split_whitespace().filter(|w| w.starts_with('/')) {
            let name = Path::new(word).file_name().unwrap().to_string_lossy().into_owned();
            fs::copy(word, dir.join(&name)).unwrap();
            if name.starts_with("ld-") {
                loader = name;
            }
        }
        fs::copy(path, dir.join(program)).unwrap();
    }
    let script = format!("#!/bin/sh\np=$1; shift\nexec /tools/{loader} --library-path /tools /tools/$p \"$@\"\n");
    let run = lab.write("tools/run", &script);
    fs::set_permissions(run, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/tools:ro", dir.display())
}
