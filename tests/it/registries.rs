//! Whole builds against registries as people run them: with passwords, with a CA of their own, and behind mirrors. A build
//! gets its base from there and pushes there; or it fails with the cause before a step has run, and tags nothing.

use crate::harness::{Done, Lab, Registry, Run, busybox_is_missing, port, require};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the step of each build prints: whether it ran.
const RAN: &str = "the step ran";

/// A lab with a build of `base`, which has the file `/where`, and one of an image that is in the store.
fn lab(base: &str) -> Lab {
    let lab = Lab::new();
    lab.context("c", &[("Dockerfile", &format!("FROM {base}\nCOPY data /data\nRUN cat /where; echo the step ran\n"))]);
    lab.write("c/data", "data\n");
    lab.context("own", &[("Dockerfile", "FROM localhost/busybox\nRUN echo the step ran\n")]);
    lab
}

/// Puts a base that says `word` to a place.
fn base(lab: &Lab, word: &str, to: &str, change: impl Fn(Run) -> Run) {
    lab.import_busybox();
    lab.context(
        word,
        &[("Dockerfile", "FROM localhost/busybox\nCOPY where /where\n"), ("where", &format!("{word}\n"))],
    );
    change(lab.rbuild(["bud", "-t", &format!("docker://{to}"), word])).ok();
}

fn shown(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

fn ran(done: &Done) -> bool {
    // The step itself is shown as well.
    shown(done).lines().any(|line| line.ends_with(RAN) && !line.contains("echo"))
}

fn tags(registry: &Registry, repository: &str) -> usize {
    fs::read_dir(registry.storage(repository).join("_manifests/tags")).map_or(0, |dir| dir.count())
}

/// It succeeded, and the image is there.
#[track_caller]
fn succeeded(case: &str, done: &Done, registry: &Registry, repository: &str) {
    assert!(done.code == 0 && ran(done), "{case}: {done}");
    assert_eq!(tags(registry, repository), 1, "{case}");
}

/// It failed with these words, before its step, and left no tag.
#[track_caller]
fn failed(case: &str, done: &Done, words: &[&str], registry: &Registry, repository: &str) {
    assert!(done.code != 0 && !done.stderr.contains("panicked at"), "{case}: {done}");
    assert!(!ran(done), "{case}: {done}");
    assert!(words.iter().all(|w| done.stderr.contains(w)), "{case}: {words:?}: {done}");
    assert_eq!(tags(registry, repository), 0, "{case}: a tag is left");
}

/// A file of credentials for a registry, as `docker login` writes it.
fn credentials(host: &str, auth: &str) -> String {
    format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#)
}

/// `someone:secret` and `someone:wrong` in base64.
const RIGHT: &str = "c29tZW9uZTpzZWNyZXQ=";
const WRONG: &str = "c29tZW9uZTp3cm9uZw==";

fn can_run() -> bool {
    busybox_is_missing().is_none()
}

#[test]
fn with_the_right_password() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let registry = Registry::guarded();
    let host = registry.host();
    let lab = lab(&format!("{host}/base"));
    base(&lab, "guarded", &format!("{host}/base"), |run| run.arg("--creds=someone:secret"));
    let file = lab.write("auth.json", credentials(&host, RIGHT));
    lab.write("dot-docker/config.json", credentials(&format!("https://{host}/v2/"), RIGHT));
    lab.write(
        "home2/.config/containers/auth.json",
        credentials(&format!("{host}/by"), RIGHT).replace(
            "}}}",
            &format!(r#"}}, "{host}/base": {{"auth": "{RIGHT}"}}, "{host}": {{"auth": "{WRONG}"}}}}}}"#),
        ),
    );
    type Change<'a> = &'a dyn Fn(Run) -> Run;
    let cases: &[(&str, Change<'_>)] = &[
        ("flag", &|run| run.arg("--creds=someone:secret")),
        ("authfile", &|run| run.arg("--authfile").arg(&file)),
        ("variable", &|run| run.env("REGISTRY_AUTH_FILE", &file)),
        ("docker", &|run| run.env("DOCKER_CONFIG", lab.path("dot-docker"))),
        ("text", &|run| run.env("DOCKER_AUTH_CONFIG", credentials(&host, RIGHT))),
        // Of several entries the one for the path counts, though that for the host is wrong.
        ("by/path", &|run| run.env("HOME", lab.path("home2"))),
    ];
    for (case, change) in cases {
        let target = format!("docker://{host}/{case}:1");
        let run = lab.rbuild(["bud", "-t", &target, "--no-cache", "c"]);
        succeeded(case, &change(run).output(), &registry, case);
    }
    // Docker's command line, with its file.
    let run = lab.docker(["build", "--push", "-t", &format!("{host}/dialect:1"), "--no-cache", "c"]);
    succeeded("dialect", &run.env("DOCKER_CONFIG", lab.path("dot-docker")).output(), &registry, "dialect");
    // Another builder has the step from the cache in the same registry.
    let cached = |store: &str, more: &str| {
        let cache = format!("{more}=type=registry,ref={host}/cache");
        let target = format!("docker://{host}/{store}:1");
        let run = lab.rbuild(["bud", "-t", &target, &cache, "c"]).arg("--authfile").arg(&file);
        run.env("RBUILD_ROOT", lab.path(store)).ok()
    };
    assert!(ran(&cached("one", "--cache-to")));
    let done = cached("two", "--cache-from");
    assert!(!ran(&done) && tags(&registry, "two") == 1 && !shown(&done).contains("warning"), "{done}");
}

#[test]
fn with_a_wrong_password() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let registry = Registry::guarded();
    let host = registry.host();
    let theirs = lab(&format!("{host}/base"));
    base(&theirs, "guarded", &format!("{host}/base"), |run| run.arg("--creds=someone:secret"));
    // With a base that is here the push fails, and still before the step.
    let wrong = theirs.write("wrong.json", credentials(&host, WRONG));
    let other = theirs.write("other.json", credentials("localhost:1", RIGHT));
    let broken = theirs.write("broken.json", credentials(&host, "****"));
    for context in ["c", "own"] {
        let build = || theirs.rbuild(["bud", "-t", &format!("docker://{host}/out:1"), context]);
        let log_in = format!("log in: `rbuild login {host}`");
        let words = &[host.as_str(), "401", &log_in][..];
        let fails = |case: &str, run: Run, words: &[&str]| failed(case, &run.output(), words, &registry, "out");
        fails("flag", build().arg("--creds=someone:wrong"), words);
        fails("user", build().arg("--creds=nobody:secret"), words);
        fails("none", build(), words);
        fails("file", build().arg("--authfile").arg(&wrong), words);
        fails("other", build().arg("--authfile").arg(&other), words);
        fails("broken", build().arg("--authfile").arg(&broken), &["broken.json", &host, "base64"]);
        let dialect = theirs.docker(["build", "--push", "-t", &format!("{host}/out:1"), context]);
        fails("dialect", dialect.env("REGISTRY_AUTH_FILE", &wrong), words);
    }
    // A cache that is closed costs a warning and not the build.
    let cache = format!("--cache-to=type=registry,ref={host}/cache");
    let done = theirs.rbuild(["bud", "-t", "localhost/out", &cache, "own"]).ok();
    assert!(ran(&done) && shown(&done).contains("warning") && shown(&done).contains(&host), "{done}");
    assert_eq!(tags(&registry, "cache"), 0);
}

#[test]
fn with_a_token_in_a_file() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let registry = Registry::guarded();
    let host = registry.host();
    let lab = lab(&format!("{host}/base"));
    base(&lab, "guarded", &format!("{host}/base"), |run| run.arg("--creds=someone:secret"));
    lab.write("token", "secret\n");
    let setting = |file: &str| format!("{host}={},as=password,user=someone", lab.path(file).display());
    let build = |name: &str, context: &str| {
        let target = format!("docker://{host}/{name}:1");
        lab.rbuild(["--log-level=trace", "bud", "--no-cache", "-t", &target, context])
    };
    let fine = |case: &str, run: Run| {
        let done = run.output();
        succeeded(case, &done, &registry, case);
        assert!(!shown(&done).contains("secret"), "{case}: the token is shown: {done}");
    };
    fine("flag", build("flag", "c").arg("--registry-token-file").arg(setting("token")));
    let variable = |run: Run, file: &str| run.env("RBUILD_REGISTRY_TOKEN_FILE", setting(file));
    fine("variable", variable(build("variable", "c"), "token"));
    let dialect = lab.docker(["build", "--push", "-t", &format!("{host}/dialect:1"), "--no-cache", "c"]);
    fine("dialect", variable(dialect, "token"));
    // What the flag says of a registry counts more than the variable, and neither is about another path.
    let flag = build("both", "c").arg("--registry-token-file").arg(setting("token"));
    fine("both", variable(flag, "none"));
    lab.rbuild(["pull", &format!("{host}/flag:1"), "--registry-token-file", &setting("token")]).ok();

    lab.write("wrong", "wrong\n");
    lab.write("empty", "");
    for context in ["c", "own"] {
        let field = "`serviceAccountToken`";
        for (file, words) in
            [("none", ["none`", field]), ("empty", ["it is empty", field]), ("wrong", ["401", "`audience`"])]
        {
            let done = variable(build("out", context), file).output();
            failed(
                file,
                &done,
                &[&host, &format!("{}", lab.path(file).display()), words[0], words[1]],
                &registry,
                "out",
            );
        }
        let elsewhere = setting("token").replacen('=', "/elsewhere=", 1);
        let done = build("out", context).args(["--registry-token-file", &elsewhere]).output();
        failed("path", &done, &["401", "rbuild login"], &registry, "out");
    }
    let login = lab.rbuild(["login", "-u", "a", "-p", "b", "--registry-token-file", &setting("token"), &host]).fails();
    assert!(login.stderr.contains("no meaning for a login"), "{login}");
    let nonsense = build("out", "own").arg("--registry-token-file=nonsense").output();
    failed("nonsense", &nonsense, &["`nonsense`", "REGISTRY[/PATH]=FILE"], &registry, "out");
}

/// Makes a CA, a certificate for 127.0.0.1 and one for a client.
fn certificates(dir: &Path) {
    let openssl = |args: &str| {
        let out = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=test-ca -days 2"));
    for name in ["registry", "client"] {
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile ext"
        ));
    }
}

/// A registry behind TLS whose certificate a CA in `dir` has signed.
fn with_tls(dir: &Path, more: &str) -> Registry {
    let at = dir.display();
    let more = more.replace("DIR", &at.to_string());
    Registry::configured(&format!(", tls: {{certificate: {at}/registry.crt, key: {at}/registry.key{more}}}"), |_| {
        String::new()
    })
}

#[test]
fn with_a_ca_of_its_own() {
    require!("docker-registry", "openssl");
    require!(if !can_run(), "`busybox-static` is not installed");
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path());
    let registry = with_tls(dir.path(), "");
    let host = registry.host();
    let lab = lab(&format!("{host}/base"));
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("a certificate");
    let text = read("ca.crt");
    base(&lab, "tls", &format!("{host}/base"), |run| run.arg("--tls-verify=true").env("LOCAL_CA_CERTIFICATE", &text));
    let ca = lab.write("ca.pem", &text);
    for place in [format!("home2/.config/containers/certs.d/{host}/ca.crt"), "certs/ca.crt".into(), "cas/x.pem".into()]
    {
        lab.write(place, &text);
    }
    // A directory of CAs has them by their hash.
    lab.program("openssl", ["rehash", "cas"]).ok();
    // On loopback nothing is checked unless that is asked for.
    let build = |name: &str, context: &str| {
        lab.rbuild(["bud", "--tls-verify=true", "--no-cache", "-t", &format!("docker://{host}/{name}:1"), context])
    };
    let fine = |case: &str, change: &dyn Fn(Run) -> Run| {
        succeeded(case, &change(build(case, "c")).output(), &registry, case);
    };
    fine("certs.d", &|run| run.env("HOME", lab.path("home2")));
    fine("cert-dir", &|run| run.arg("--cert-dir=certs"));
    fine("ssl-cert-file", &|run| run.env("SSL_CERT_FILE", &ca));
    fine("ssl-cert-dir", &|run| run.env("SSL_CERT_DIR", lab.path("cas")));
    fine("local-ca", &|run| run.env("LOCAL_CA_CERTIFICATE", &text));
    fine("unchecked", &|run| run.arg("--tls-verify=false"));

    // Another CA of the same name, which did not sign it.
    let others = tempfile::tempdir().expect("a directory");
    certificates(others.path());
    let other = fs::read_to_string(others.path().join("ca.crt")).expect("a certificate");
    let other = lab.write("other.pem", other);
    lab.write("empty/README", "");
    for context in ["c", "own"] {
        let fails = |case: &str, words: &[&str], change: &dyn Fn(Run) -> Run| {
            failed(case, &change(build("out", context)).output(), words, &registry, "out");
        };
        let unknown = &[host.as_str(), "certificate", "certs.d/HOST/ca.crt"][..];
        fails("unknown", unknown, &|run| run);
        fails("other", unknown, &|run| run.env("SSL_CERT_FILE", &other));
        fails("empty", unknown, &|run| run.arg("--cert-dir=empty"));
        let what = ["LOCAL_CA_CERTIFICATE", "PEM"];
        fails("no text", &what, &|run| run.env("LOCAL_CA_CERTIFICATE", "/etc/ssl/ca.pem"));
    }
}

#[test]
fn with_certificates_for_clients() {
    require!("docker-registry", "openssl");
    require!(if !can_run(), "`busybox-static` is not installed");
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path());
    let registry = with_tls(dir.path(), ", clientcas: [DIR/ca.crt]");
    let host = registry.host();
    let lab = lab(&format!("{host}/base"));
    for (from, to) in [
        ("ca.crt", "certs/ca.crt"),
        ("client.crt", "certs/client.cert"),
        ("client.key", "certs/client.key"),
        ("ca.crt", "only/ca.crt"),
        ("ca.crt", "half/ca.crt"),
        ("client.crt", "half/client.cert"),
    ] {
        lab.write(to, fs::read(dir.path().join(from)).expect("a certificate"));
    }
    let flags = ["--tls-verify=true", "--cert-dir=certs"];
    base(&lab, "clients", &format!("{host}/base"), |run| run.args(flags));
    let build = |name: &str, certs: &str| {
        let flags = ["--tls-verify=true", "--retry=1", "--retry-delay=10ms", &format!("--cert-dir={certs}")];
        lab.rbuild(["bud", "--no-cache", "-t", &format!("docker://{host}/{name}:1"), "c"]).args(flags).output()
    };
    succeeded("shown", &build("shown", "certs"), &registry, "shown");
    failed("none", &build("out", "only"), &[&host, "ertificate", "HOST/NAME.cert"], &registry, "out");
    failed("half", &build("out", "half"), &["half/client.key"], &registry, "out");
}

#[test]
fn with_layers_in_pieces() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let registry = Registry::with_headers("{OCI-Chunk-Min-Length: [\"1048576\"]}");
    let host = registry.host();
    let lab = lab(&format!("{host}/base"));
    base(&lab, "pieces", &format!("{host}/base"), |run| run);
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    lab.write("c/data", noise.take(9_000_000).collect::<Vec<u8>>());
    let done = lab.rbuild(["--log-level=debug", "bud", "-t", &format!("docker://{host}/out:1"), "c"]).output();
    succeeded("pieces", &done, &registry, "out");
    let of_layers = done.stderr.lines().filter(|line| line.contains(" PATCH ") || line.contains("PATCH http")).count();
    assert!(of_layers >= 3, "{of_layers} requests for 9 MB: {done}");
    // The registry puts them together.
    let fresh = |args: &[&str]| lab.rbuild(args).env("RBUILD_ROOT", lab.path("fresh")).ok();
    fresh(&["pull", &format!("{host}/out:1")]);
    fresh(&["check"]);
}

#[test]
fn behind_mirrors() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let (upstream, mirror, empty, hanging) =
        (Registry::start(), Registry::start(), Registry::start(), Registry::start());
    let guarded = Registry::guarded();
    let dead = format!("127.0.0.1:{}", port());
    let name = "registry.invalid/team";
    let lab = lab(&format!("{name}/base"));
    base(&lab, "upstream", &format!("{}/theirs/base", upstream.host()), |run| run);
    base(&lab, "mirror", &format!("{}/copy/base", mirror.host()), |run| run);
    hanging.hang();
    let conf = |mirrors: &[&str], more: &str| {
        let mut text = format!("[[registry]]\nprefix = \"{name}\"\nlocation = \"{}/theirs\"\n{more}", upstream.host());
        for mirror in mirrors {
            text += &format!("[[registry.mirror]]\nlocation = \"{mirror}/copy\"\n");
        }
        lab.write("registries.conf", text)
    };
    let build = |name: &str| {
        let flags = ["--retry=1", "--retry-delay=10ms", "--registry-timeout=1s", "--no-cache"];
        let run = lab.rbuild(["bud", "--pull=always", "-t", &format!("docker://registry.invalid/team/{name}:1"), "c"]);
        run.args(flags).env("CONTAINERS_REGISTRIES_CONF", lab.path("registries.conf")).output()
    };
    let (mirror_host, empty_host, hanging_host, guarded_host) =
        (mirror.host(), empty.host(), hanging.host(), guarded.host());
    for (case, mirrors, from) in [
        ("has-it", vec![&mirror_host], "mirror"),
        ("lacks-it", vec![&empty_host], "upstream"),
        ("dead", vec![&dead], "upstream"),
        ("closed", vec![&guarded_host], "upstream"),
        ("hanging", vec![&hanging_host], "upstream"),
        ("the-last", vec![&dead, &empty_host, &mirror_host], "mirror"),
        ("none", vec![], "upstream"),
    ] {
        let mirrors: Vec<&str> = mirrors.into_iter().map(String::as_str).collect();
        conf(&mirrors, "");
        let done = build(case);
        // What is pushed goes to the registry itself.
        succeeded(case, &done, &upstream, &format!("theirs/{case}"));
        assert_eq!(tags(&mirror, &format!("copy/{case}")), 0, "{case}");
        assert!(done.stdout.lines().any(|line| line == from), "{case}: {done}");
        for passed in mirrors.iter().filter(|host| **host != mirror_host) {
            assert!(done.stderr.contains(*passed), "{case}: a mirror that is of no use is named: {done}");
        }
    }
    // All of them fail: the error is that of the registry itself.
    lab.write("c/Dockerfile", format!("FROM {name}/none\nRUN echo the step ran\n"));
    conf(&[&dead, &empty_host], "");
    failed("nowhere", &build("out"), &[&upstream.host(), "404"], &upstream, "theirs/out");
}

#[test]
fn what_is_blocked_or_elsewhere() {
    require!("docker-registry");
    require!(if !can_run(), "`busybox-static` is not installed");
    let registry = Registry::start();
    let host = registry.host();
    let lab = lab("registry.invalid/team/base");
    base(&lab, "elsewhere", &format!("{host}/moved/base"), |run| run);
    let conf = |text: &str| lab.write("registries.conf", text.replace("HOST", &host));
    let build = |context: &str, to: &str| {
        let cache = "--cache-to=type=registry,ref=registry.invalid/team/cache";
        let run = lab.rbuild(["bud", "-t", &format!("docker://{to}"), cache, context]);
        run.args(["--registries-conf", "registries.conf", "--no-cache"]).output()
    };
    let table = "[[registry]]\nprefix = \"registry.invalid/team\"\nlocation = \"HOST/moved\"\n";
    conf(table);
    succeeded("location", &build("c", "registry.invalid/team/out:1"), &registry, "moved/out");
    assert!(tags(&registry, "moved/cache") > 0, "the cache is there as well");

    let blocked = &["registry.invalid/team", "blocked", "`blocked = true`"][..];
    conf(&format!("{table}blocked = true\n"));
    failed("base", &build("c", &format!("{host}/other:1")), blocked, &registry, "other");
    failed("target", &build("own", "registry.invalid/team/other:1"), blocked, &registry, "moved/other");
    // What is not blocked is none the worse for it, though the cache is of no use.
    succeeded("beside", &build("own", &format!("{host}/beside:1")), &registry, "beside");
    // A part of what is blocked may be open.
    conf(&format!(
        "{table}blocked = true\n[[registry]]\nprefix = \"registry.invalid/team/base\"\nlocation = \"HOST/moved/base\"\n"
    ));
    succeeded("part", &build("c", &format!("{host}/part:1")), &registry, "part");
}
