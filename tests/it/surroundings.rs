//! What flags change of the surroundings of RUN steps.

use crate::harness::{Done, Lab, busybox_is_missing, require};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab
}

/// Builds a Dockerfile on busybox, without a step from the cache.
fn build(lab: &Lab, steps: &str, more: &[&str]) -> Done {
    let name = format!("context-{}", more.len());
    lab.context(&name, &[("Dockerfile", &format!("FROM localhost/busybox\n{steps}\n"))]);
    lab.rbuild(["bud", "--no-cache", "-t", "localhost/x"]).args(more).arg(lab.path(&name)).output()
}

#[track_caller]
fn builds(lab: &Lab, steps: &str, more: &[&str]) -> Done {
    let done = build(lab, steps, more);
    assert_eq!(done.code, 0, "{done}");
    done
}

#[track_caller]
fn refused(lab: &Lab, steps: &str, more: &[&str], words: &str) {
    let done = build(lab, steps, more);
    assert!(done.code != 0 && done.stderr.contains(words) && done.stderr.contains("hint:"), "{words}: {done}");
}

#[test]
fn volumes_are_read_only_or_forget_what_is_written() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let dir = lab.mkdir("volume");
    lab.write("volume/f", "one");
    let volume = |options: &str| format!("{}:/v{options}", dir.display());
    builds(&lab, "RUN test \"$(cat /v/f)\" = one && ! echo x >/v/f", &["-v", &volume(":ro")]);
    let steps = "RUN echo x >/v/f && echo y >/v/new && rm -f /v/none && test \"$(cat /v/f)\" = x\n\
        RUN test \"$(ls /v)\" = f && test \"$(cat /v/f)\" = one";
    builds(&lab, steps, &["-v", &volume(":O")]);
    assert_eq!(std::fs::read_to_string(dir.join("f")).unwrap(), "one");
    assert!(!dir.join("new").exists());
    builds(&lab, "RUN echo kept >/v/kept", &["-v", &volume(":rw,z")]);
    assert_eq!(std::fs::read_to_string(dir.join("kept")).unwrap(), "kept\n");
    let file = format!("{}:/v:O", dir.join("f").display());
    refused(&lab, "RUN true", &["-v", &file], "the option `O`");
}

#[test]
fn every_step_gets_the_mounts_of_the_command_line() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = r#"
RUN test -e /c/in && test -d /cache && touch /cache/x && test -z "$(ls /t)" && touch /t/y
RUN --mount=type=tmpfs,target=/own test -e /c/in && test -e /cache/x && test ! -e /t/y && test -d /own
"#;
    lab.context("context-6", &[("sub/in", "")]);
    let mounts = ["type=bind,source=sub,target=/c", "type=cache,target=/cache", "type=tmpfs,dst=/t"];
    builds(&lab, steps, &["--mount", mounts[0], "--mount", mounts[1], "--mount", mounts[2]]);
    refused(&lab, "RUN true", &["--mount", "type=tmfs,target=/x"], "tmfs");
}

#[test]
fn options_of_mounts_in_buildah_s_words() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = r#"
RUN mkdir /m && echo kept >/m/f && cp /bin/busybox /m/true
RUN --mount=type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700 test "$(stat -c %a /t)" = 700 && ! head -c 2000000 /dev/zero >/t/y
RUN --mount=type=tmpfs,target=/m,tmpcopyup test "$(cat /m/f)" = kept && echo x >/m/f && touch /m/new
RUN test "$(cat /m/f)" = kept && test ! -e /m/new
RUN --mount=type=bind,from=localhost/busybox,target=/b,noexec,nosuid,nodev,bind-propagation=rprivate <<'EOF'
grep -q ' /b ro,nosuid,nodev,noexec' /proc/self/mountinfo && ! /b/bin/busybox true
EOF
RUN --mount=type=cache,target=/c,noexec,nosuid cp /bin/busybox /c/b && ! /c/b true && grep -q ' /c rw,nosuid,noexec' /proc/self/mountinfo
RUN --mount=type=tmpfs,target=/t,noexec cp /bin/busybox /t/b && ! /t/b true
"#;
    builds(&lab, steps, &[]);
    for (option, words) in
        [("U", "`U`"), ("bind-propagation=shared", "bind-propagation"), ("no-dereference", "no-deref")]
    {
        refused(&lab, &format!("RUN --mount=target=/x,{option} true"), &[], words);
    }
}

#[test]
fn names_and_addresses() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = "RUN grep -q '192.0.2.7.*mirror' /etc/hosts && grep -q 'nameserver 192.0.2.1' /etc/resolv.conf && \
        grep -q 'search a.test' /etc/resolv.conf && grep -q 'options ndots:3' /etc/resolv.conf";
    let flags = ["--add-host=mirror:192.0.2.7", "--dns=192.0.2.1", "--dns-search=a.test", "--dns-option=ndots:3"];
    builds(&lab, steps, &flags);

    // The image's own files, which a step may change for good.
    let dir = lab.context(
        "own",
        &[
            ("Dockerfile", "FROM localhost/busybox\nCOPY hosts hostname resolv.conf /etc/\n"),
            ("hosts", "own hosts"),
            ("hostname", "own name"),
            ("resolv.conf", "own conf"),
        ],
    );
    lab.rbuild(["bud", "-t", "localhost/own"]).arg(dir).ok();
    lab.context(
        "uses",
        &[(
            "Dockerfile",
            "FROM localhost/own\nRUN test \"$(cat /etc/hosts /etc/hostname /etc/resolv.conf)\" = 'own hostsown nameown conf'\n\
             RUN echo new >/etc/hosts\nRUN test \"$(cat /etc/hosts)\" = new\n",
        )],
    );
    lab.rbuild(["bud", "--no-hosts", "--no-hostname", "--dns=none"]).arg(lab.path("uses")).ok();
    assert!(lab.rbuild(["bud"]).arg(lab.path("uses")).output().code != 0);

    if std::fs::read_to_string("/proc/net/route").unwrap_or_default().lines().any(|l| l.contains("\t00000000\t")) {
        builds(&lab, "RUN grep -q '^[0-9.]*[[:space:]]gate$' /etc/hosts", &["--add-host=gate:host-gateway"]);
    }
    let name = "RUN test \"$(hostname)\" = ";
    builds(&lab, &format!("{name}buildkitsandbox"), &[]);
    builds(&lab, &format!("{name}chosen"), &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=chosen"]);
}

#[test]
fn caches_have_namespaces() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let of = |ns: &str, steps: &str| {
        builds(&lab, steps, &["--build-arg", &format!("BUILDKIT_CACHE_MOUNT_NS={ns}")]);
    };
    of("a", "RUN --mount=type=cache,target=/c touch /c/x");
    of("b", "RUN --mount=type=cache,target=/c test ! -e /c/x");
    of("a", "RUN --mount=type=cache,target=/c test -e /c/x");
    builds(&lab, "RUN --mount=type=cache,target=/c test ! -e /c/x", &[]);
}

#[test]
fn sizes_and_limits() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let free = |mib: u32| format!("RUN test \"$(df -m /dev/shm | awk 'END {{print $2}}')\" = {mib}");
    builds(&lab, &free(64), &[]);
    builds(&lab, &free(3), &["--shm-size", "3m"]);
    builds(&lab, &free(64), &["--shm-size", "0"]);
    let steps = "RUN test \"$(ulimit -Sn) $(ulimit -Hn) $(ulimit -Sc)\" = '77 99 0'";
    builds(&lab, steps, &["--ulimit", "nofile=77:99", "--ulimit=core=0"]);
    if hard_limit("Max open files").is_some() {
        refused(&lab, "RUN true", &["--ulimit", "nofile=-1"], "the limit `nofile` above");
    }
    let cpus = "RUN grep -q '^Cpus_allowed_list:[[:space:]]*0$' /proc/self/status";
    builds(&lab, cpus, &["--cpuset-cpus", "0"]);
    refused(&lab, "RUN true", &["--cpuset-cpus", "1023"], "a CPU of `--cpuset-cpus`");
    for flag in
        ["--memory=1g", "--memory-swap=2g", "--cpu-shares=5", "--cpu-quota=5", "--cpu-period=5", "--cpuset-mems=0"]
    {
        refused(&lab, "RUN true", &[flag], "is not supported");
        assert!(build(&lab, "RUN true", &[flag]).stderr.contains("resources.limits"), "{flag}");
    }
}

/// A hard limit of this process; `None`: unlimited.
fn hard_limit(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().nth(1).unwrap().parse().ok()
}

#[test]
fn devices_are_those_that_were_named() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = "RUN test -c /dev/my/zero && test \"$(head -c 3 /dev/my/zero | wc -c)\" = 3\nRUN test -c /dev/my/zero";
    builds(&lab, steps, &["--device", "/dev/zero:/dev/my/zero:rwm"]);
    builds(&lab, "RUN test ! -e /dev/my", &[]);
    refused(&lab, "RUN true", &["--device", "vendor.com/gpu=0"], "`--device vendor.com/gpu=0`");
    refused(&lab, "RUN true", &["--device", "/etc/passwd"], "the device `/etc/passwd`");
    builds(&lab, "RUN --device=vendor.com/gpu=0 true", &[]);
    refused(&lab, "RUN --device=vendor.com/gpu=0,required true", &[], "vendor.com/gpu=0");
}

#[test]
fn groups() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let flags = ["--group-add", "www", "--group-add", "77"];
    let steps = "USER 5\nRUN test \"$(id -G)\" = '0 33 77'";
    match lab.user().ranged {
        true => drop(builds(&lab, steps, &flags)),
        false => refused(&lab, "RUN true", &flags, "--group-add www"),
    }
}

#[test]
fn what_is_covered_and_what_is_allowed() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = "RUN test -z \"$(ls /root/d)\" && test -z \"$(cat /root/f)\" && ! touch /root/d/x";
    let prepared = format!("RUN mkdir /root/d && touch /root/d/g && echo x >/root/f\n{steps}");
    assert!(build(&lab, &prepared, &[]).code != 0);
    lab.context(
        "base",
        &[("Dockerfile", "FROM localhost/busybox\nCOPY Dockerfile /root/d/g\nCOPY Dockerfile /root/f\n")],
    );
    lab.rbuild(["bud", "-t", "localhost/base"]).arg(lab.path("base")).ok();
    lab.context("masked", &[("Dockerfile", &format!("FROM localhost/base\n{steps}\n"))]);
    lab.rbuild(["bud", "--security-opt", "mask=/root/d:/root/f:/none"]).arg(lab.path("masked")).ok();

    let privileges = "RUN grep -q '^NoNewPrivs:[[:space:]]*1' /proc/self/status";
    builds(&lab, privileges, &["--security-opt", "no-new-privileges"]);
    assert!(build(&lab, privileges, &[]).code != 0);
    // What the default filter refuses; with one id there is a filter of another kind in any case.
    builds(&lab, "RUN unshare -U true", &["--security-opt", "seccomp=unconfined"]);
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let profile = format!("seccomp={}", lab.write("profile.json", profile).display());
    builds(&lab, "RUN ! mkdir /x", &["--security-opt", &profile]);
    builds(
        &lab,
        "RUN true",
        &["--security-opt", "label=disable", "--security-opt", "apparmor=x", "--security-opt", "unmask=ALL"],
    );

    let bit = |bit: u32| format!("test $((0x$(awk '/^CapBnd/ {{print $2}}' /proc/self/status) >> {bit} & 1))");
    builds(&lab, &format!("RUN {} = 1", bit(12)), &["--cap-add", "net_admin"]);
    builds(&lab, &format!("RUN {} = 0", bit(0)), &["--cap-drop", "CAP_CHOWN"]);
    builds(&lab, &format!("RUN {} = 0 && {} = 0", bit(0), bit(5)), &["--cap-drop", "all"]);
    builds(&lab, &format!("RUN {} = 1 && {} = 0", bit(0), bit(5)), &["--cap-drop", "all", "--cap-add=chown"]);
    builds(&lab, &format!("RUN {} = 0 && {} = 1", bit(0), bit(12)), &["--cap-add", "all", "--cap-drop=chown"]);
}

#[test]
fn insecure_steps_have_all_that_there_is() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let steps = r#"
RUN --security=insecure <<'EOF'
set -e
unshare -U true
mount -t tmpfs none /tmp && touch /tmp/x
EOF
RUN --security=sandbox ! mount -t tmpfs none /tmp
"#;
    refused(&lab, steps, &[], "`RUN --security=insecure` is not allowed");
    builds(&lab, steps, &["--allow", "security.insecure"]);
}

#[test]
fn proxies_are_left_out_when_asked() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let build = |steps: &str, flag: &str| {
        lab.context("context", &[("Dockerfile", &format!("FROM localhost/busybox\n{steps}\n"))]);
        let run = lab.rbuild(["bud", "--no-cache", flag]).arg(lab.path("context"));
        run.env("http_proxy", "http://127.0.0.1:9").ok();
    };
    build("RUN test -n \"$http_proxy\"", "--http-proxy=true");
    build("RUN test -z \"$http_proxy\"", "--http-proxy=false");
}

#[test]
fn certificates_are_trusted_by_steps_and_not_in_the_image() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = lab();
    let ca = "-----BEGIN CERTIFICATE-----\nTUlJ-corporate\n-----END CERTIFICATE-----\n";
    let flag = format!("--trust-ca={}", lab.write("ca.pem", ca).display());
    let image = |name: &str, dockerfile: &str| {
        lab.context(name, &[("Dockerfile", dockerfile), ("bundle", "the image's\n")]);
        lab.rbuild(["bud", "--no-cache", "-t", &format!("localhost/{name}"), &flag]).arg(lab.path(name)).ok();
    };
    image("own", "FROM localhost/busybox\nCOPY --chown=5:6 --chmod=0640 bundle /etc/ssl/certs/ca-certificates.crt\n");
    image(
        "uses",
        r#"
FROM localhost/own
RUN <<'EOF'
set -e
bundle=/etc/ssl/certs/ca-certificates.crt
test "$(head -n 1 $bundle)" = "the image's" && grep -q corporate $bundle
test "$SSL_CERT_FILE" = $bundle && test "$NODE_EXTRA_CA_CERTS" = $bundle
EOF
RUN echo added >>/etc/ssl/certs/ca-certificates.crt && touch /etc/ssl/certs/other
RUN cp /etc/ssl/certs/ca-certificates.crt /tmp/new && echo anew >/etc/ssl/certs/x && mv /etc/ssl/certs/x /etc/ssl/certs/y
RUN grep -q corporate /etc/ssl/certs/ca-certificates.crt && rm /tmp/new
"#,
    );
    let see = "cat /etc/ssl/certs/ca-certificates.crt; ls /etc/ssl/certs; env";
    let seen = lab.rbuild(["run", "localhost/uses", "sh", "-c", see]).ok().stdout;
    assert!(seen.starts_with("the image's\nadded\nca-certificates.crt\nother\ny\n"), "{seen}");
    assert!(!seen.contains("corporate") && !seen.contains("CERT_FILE"), "{seen}");
    // A bundle that a step puts in the place of the one it saw; an image without one.
    image(
        "anew",
        "FROM localhost/busybox\nRUN grep -q corporate /etc/ssl/certs/ca-certificates.crt && test -z \"$SSL_CERT_FILE\"\n\
         RUN test -d /etc/ssl && mkdir -p /etc/ssl/certs && echo mine >/tmp/b && mv /tmp/b /etc/ssl/certs/ca-certificates.crt\n\
         RUN rm -r /etc/ssl && ln -s ../root /etc/ssl\nRUN true\n",
    );
    let seen = lab.rbuild(["run", "localhost/anew", "sh", "-c", "ls -a /etc /root; readlink /etc/ssl"]).ok().stdout;
    assert!(seen.ends_with("../root\n") && !seen.contains("certs"), "{seen}");
    lab.write("bad.pem", "nothing");
    refused(&lab, "RUN true", &["--trust-ca", &lab.path("bad.pem").display().to_string()], "no certificate");
}
