//! What ADD and build contexts fetch from git repositories and web servers, friendly and hostile.

use crate::harness::{Done, Lab, Run, busybox_is_missing, processes_with_argument, require, which};
use crate::web::{Page, Web};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    lab
}

fn nothing_left(lab: &Lab) {
    let left: Vec<_> = fs::read_dir(lab.store().join("tmp")).expect("tmp").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn cached(done: &Done) -> bool {
    format!("{}{}", done.stdout, done.stderr).contains("Using cache")
}

/// `git` on a repository of the lab, as the user who builds.
fn git(lab: &Lab, repository: &str, args: &[&str]) -> String {
    let dir = lab.path("git").join(repository);
    let run = lab.program("git", ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always"]);
    let time = "2001-02-03T04:05:06Z";
    let run = run.env("GIT_AUTHOR_DATE", time).env("GIT_COMMITTER_DATE", time).args(args);
    run.dir(dir).ok().stdout.trim().to_owned()
}

/// A repository `git/NAME.git` with one commit of these files.
fn repository(lab: &Lab, name: &str, files: &[(&str, &str)]) {
    let dir = format!("git/{name}.git");
    lab.mkdir(&dir);
    let repository = format!("{name}.git");
    git(lab, &repository, &["init", "-q", "-b", "main", "."]);
    git(lab, &repository, &["config", "uploadpack.allowFilter", "true"]);
    for (file, content) in files {
        lab.write(format!("{dir}/{file}"), content);
    }
    git(lab, &repository, &["add", "-A"]);
    git(lab, &repository, &["commit", "-q", "-m", "one"]);
}

const SHOWS: &str = "FROM localhost/busybox\nCOPY . /src\nRUN cat /src/version\n";

/// A repository with a branch, tags, a directory and a submodule: what `/src/version` holds says which was built.
fn estate(lab: &Lab) -> (String, String) {
    repository(lab, "sub", &[("part", "submodule\n")]);
    let files = [
        ("Dockerfile", SHOWS),
        ("version", "v1\n"),
        ("dir/Dockerfile", SHOWS),
        ("dir/version", "dir\n"),
        ("big", "not needed by the directory\n"),
        (".dockerignore", "version\n"),
    ];
    repository(lab, "main", &files);
    let first = git(lab, "main.git", &["rev-parse", "HEAD"]);
    git(lab, "main.git", &["tag", "-a", "-m", "tag", "v1"]);
    lab.write("git/main.git/version", "v2\n");
    git(lab, "main.git", &["submodule", "--quiet", "add", "../sub.git", "module"]);
    git(lab, "main.git", &["add", "-A"]);
    git(lab, "main.git", &["commit", "-q", "-m", "two"]);
    git(lab, "main.git", &["checkout", "-q", "-b", "other"]);
    lab.write("git/main.git/version", "branch\n");
    git(lab, "main.git", &["commit", "-q", "-am", "three"]);
    // a branch that is called like the tag: the tag wins
    git(lab, "main.git", &["branch", "-q", "v1"]);
    git(lab, "main.git", &["checkout", "-q", "main"]);
    (first, git(lab, "main.git", &["rev-parse", "HEAD"]))
}

fn shown(done: &Done) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

#[test]
fn contexts_in_git_repositories() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git");
    let (lab, web) = (lab(), Web::start());
    let (first, second) = estate(&lab);
    web.serve_git(lab.path("git"));
    let bases = [web.url("/git/main.git"), format!("file://{}", lab.path("git/main.git").display())];
    for base in &bases {
        for (rest, version) in [
            (String::new(), "v2"),
            ("#main".into(), "v2"),
            ("#other".into(), "branch"),
            ("#v1".into(), "v1"),
            ("#refs/heads/v1".into(), "branch"),
            (format!("#{first}"), "v1"),
            ("#:dir".into(), "dir"),
            ("#v1:dir".into(), "dir"),
            ("?branch=other".into(), "branch"),
            ("?tag=v1&submodules=false".into(), "v1"),
            (format!("?ref=v1&checksum={}&fetch-by-commit=true", &first[..12]), "v1"),
            (format!("?checksum={second}&subdir=dir"), "dir"),
        ] {
            let done = lab.rbuild(["bud", "--no-cache"]).arg(format!("{base}{rest}")).ok();
            assert!(shown(&done).lines().any(|line| line == version), "{rest}: {done}");
        }
        for (rest, message) in [
            ("#none", "no branch, tag or commit `none`"),
            ("#:none", "no directory `none`"),
            ("#:version", "no directory `version`"),
            ("#0123456789012345678901234567890123456789", "0123456789012345678901234567890123456789"),
            ("?checksum=0123456", "is not what it must be: expected `0123456`"),
            ("?ref=v1&checksum=0123456", "is not what it must be"),
        ] {
            let done = lab.rbuild(["bud"]).arg(format!("{base}{rest}")).fails();
            assert!(done.stderr.contains(message) && !shown(&done).contains("STEP"), "{rest}: {done}");
        }
        nothing_left(&lab);
    }
    lab.docker(["build"]).arg(&bases[0]).ok();
    // as little as possible was asked for
    web.asked();
    lab.rbuild(["bud", "--no-cache"]).arg(format!("{}#:dir", bases[0])).ok();
    let bodies: Vec<String> = web.asked().iter().map(|a| String::from_utf8_lossy(&a.body).into_owned()).collect();
    assert!(bodies.iter().any(|b| b.contains("deepen 1") && b.contains("filter blob:none")), "{bodies:?}");
}

#[test]
fn files_of_a_checkout() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git");
    let lab = lab();
    estate(&lab);
    lab.write("git/main.git/Dockerfile", "FROM localhost/busybox\nCOPY . /src\n");
    git(&lab, "main.git", &["commit", "-q", "-am", "all"]);
    let base = format!("file://{}", lab.path("git/main.git").display());
    let build = |rest: &str, more: &[&str]| {
        lab.rbuild(["bud", "-t", "localhost/x"]).args(more).arg(format!("{base}{rest}")).ok();
        let list = "cd /src && find . ! -path './.git/*' | sort | xargs stat -c '%n %a %u:%g %Y'";
        lab.rbuild(["run", "localhost/x", "sh", "-c", list]).ok().stdout
    };
    // Modes are git's whatever the umask, owners root; the ignore file of a repository does not count, as with BuildKit.
    let all = build("?mtime=commit", &[]);
    for line in [
        "./version 644 0:0 981173106",
        "./dir 755 0:0 981173106",
        "./module/part 644 0:0 981173106",
        "./.dockerignore 644 0:0 981173106",
    ] {
        assert!(all.contains(line), "{line}:\n{all}");
    }
    assert!(!all.contains(".git "), "{all}");
    assert!(!build("?submodules=false", &[]).contains("module/part"));
    assert!(build("?keep-git-dir=true", &[]).contains("./.git "));
    assert!(build("", &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).contains("./.git "));
    // `--ignorefile` counts everywhere
    let ignore = lab.write("ignore", "version\n");
    assert!(!build("", &["--ignorefile", ignore.to_str().expect("text")]).contains("./version"));
}

#[test]
fn hostile_repositories() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git");
    let (lab, web) = (lab(), Web::start());
    web.serve_git(lab.path("git"));
    lab.write("secret/secret", "secret");
    // a directory that is a link out of the repository, and one inside it
    repository(&lab, "links", &[("real/Dockerfile", SHOWS), ("real/version", "inside\n")]);
    for (name, target) in
        [("out", lab.path("secret").display().to_string()), ("up", "../../../secret".into()), ("in", "real".into())]
    {
        std::os::unix::fs::symlink(target, lab.path(format!("git/links.git/{name}"))).expect("a link");
    }
    git(&lab, "links.git", &["add", "-A"]);
    git(&lab, "links.git", &["commit", "-q", "-m", "links"]);
    let build = |rest: &str| lab.rbuild(["bud", "-f", "Dockerfile"]).arg(web.url(&format!("/git/{rest}")));
    for dir in ["out", "up"] {
        let done = build(&format!("links.git#:{dir}")).fails();
        assert!(done.stderr.contains(&format!("no directory `{dir}`")), "{done}");
    }
    assert!(shown(&build("links.git#:in").ok()).contains("inside"));
    // a submodule that is a repository of this machine
    repository(&lab, "private", &[("part", "private")]);
    repository(&lab, "thief", &[("Dockerfile", SHOWS), ("version", "x")]);
    let private = format!("file://{}", lab.path("git/private.git").display());
    git(&lab, "thief.git", &["submodule", "--quiet", "add", &private, "stolen"]);
    git(&lab, "thief.git", &["commit", "-q", "-am", "module"]);
    let done = build("thief.git").fails();
    assert!(done.stderr.contains("transport 'file' not allowed"), "{done}");
    build("thief.git?submodules=false").ok();
    // hooks of the user's own templates and configuration are for the user's own repositories
    repository(&lab, "plain", &[("Dockerfile", SHOWS), ("version", "x")]);
    let hook = lab.write("hooks/post-checkout", format!("#!/bin/sh\ntouch {}\n", lab.path("tmp/ran").display()));
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let config = format!("[core]\n\thooksPath = {0}\n[init]\n\ttemplateDir = {0}\n", lab.path("hooks").display());
    lab.write("home/.gitconfig", config);
    build("plain.git").ok();
    // neither is a repository that the environment names
    build("plain.git").env("GIT_DIR", lab.path("git/private.git/.git")).env("GIT_WORK_TREE", lab.path("secret")).ok();
    assert!(!lab.path("tmp/ran").exists());
    // arguments that git would take for options
    let done = lab.rbuild(["bud"]).arg(web.url("/git/plain.git#--upload-pack=touch")).fails();
    assert!(done.stderr.contains("invalid git address"), "{done}");
    nothing_left(&lab);
}

#[test]
fn credentials_reach_their_server_and_no_log() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git");
    let (lab, web) = (lab(), Web::start());
    web.serve_git(lab.path("git"));
    repository(&lab, "plain", &[("Dockerfile", SHOWS), ("version", "let in\n")]);
    web.put("/file", Page { body: "x".into(), ..Page::default() });
    // user:s3cret
    web.demand_login("Basic dXNlcjpzM2NyZXQ=");
    let with = |login: &str, path: &str| web.url(path).replace("http://", &format!("http://{login}@"));
    let build = |url: String| lab.rbuild(["bud"]).env("RBUILD_LOG", "debug").arg(url);
    let done = build(with("user:s3cret", "/git/plain.git")).ok();
    assert!(shown(&done).contains("let in") && !shown(&done).contains("s3cret"), "{done}");
    let done = build(with("user:wr0ng", "/git/plain.git")).fails();
    assert!(!shown(&done).contains("wr0ng") && done.stderr.contains("hint: "), "{done}");
    let done = build(web.url("/git/plain.git")).fails();
    assert!(done.stderr.contains("the server wants credentials"), "{done}");
    let add = format!(
        "FROM scratch\nADD {} /f\nADD {} /g\n",
        with("user:s3cret", "/file"),
        with("user:s3cret", "/git/plain.git")
    );
    let done = lab.rbuild(["bud", "-t", "localhost/x", "-"]).env("RBUILD_LOG", "debug").input(add).ok();
    assert!(!shown(&done).contains("s3cret"), "{done}");
    let history = lab.rbuild(["history", "--no-trunc", "localhost/x"]).ok().stdout;
    assert!(!history.contains("s3cret"), "{history}");
    // a redirect to another server does not take them along
    let other = Web::start();
    other.put("/elsewhere", Page { body: "x".into(), ..Page::default() });
    web.put(
        "/moved",
        Page { status: Some("302 Found"), headers: vec![("Location", other.url("/elsewhere"))], ..Page::default() },
    );
    let add = format!("FROM scratch\nADD {} /f\n", with("user:s3cret", "/moved"));
    lab.rbuild(["bud", "-"]).input(add).ok();
    assert!(other.asked().iter().all(|a| !a.headers.contains_key("authorization")));
    let grep = lab.program("grep", ["-r", "s3cret"]).arg(lab.store()).output();
    assert_eq!(grep.code, 1, "{grep}");
}

#[test]
fn secrets_are_credentials_for_their_servers() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git", "sh");
    let (lab, web) = (lab(), Web::start());
    web.serve_git(lab.path("git"));
    repository(&lab, "plain", &[("Dockerfile", SHOWS), ("version", "let in\n")]);
    web.put("/file", Page { body: "x".into(), ..Page::default() });
    web.put("/Dockerfile", Page { body: "FROM scratch\n".into(), ..Page::default() });
    let host = web.url("").replace("http://", "");
    lab.write("token", "s3cret\n");
    // what other users can see of a process, and what git would be asked to show
    let git = which("git").expect("git");
    let script =
        format!("#!/bin/sh\necho \"$@\" >> {}\nexec {} \"$@\"\n", lab.path("tmp/git").display(), git.display());
    let wrapper = lab.write("bin/git", script);
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", lab.path("bin").display(), std::env::var("PATH").expect("PATH"));
    let build = |id: &str, args: &[&str]| {
        let secret = format!("id={id},src={}", lab.path("token").display());
        let run = lab.rbuild(["bud", "--no-cache", "--secret", &secret]).args(args);
        run.env("RBUILD_LOG", "debug").env("GIT_TRACE_CURL", "1").env("PATH", &path)
    };
    let (plain, file, dockerfile) = (web.url("/git/plain.git"), web.url("/file"), web.url("/Dockerfile"));
    // x-access-token:s3cret
    let basic = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";
    web.demand_login(&format!("basic {basic}"));
    let add = format!("FROM localhost/busybox\nADD {plain} /src\nRUN cat /src/version\n");
    let mut all = vec![];
    for id in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{host}")] {
        all.push(build(&id, &[&plain]).ok());
        all.push(build(&id, &["-f", "-", "."]).input(add.clone()).ok());
        let named = format!("src={plain}");
        let steps = "FROM localhost/busybox\nCOPY --from=src . /src\nRUN cat /src/version\n";
        all.push(build(&id, &["--build-context", &named, "-f", "-", "."]).input(steps).ok());
        assert!(all.iter().all(|done| shown(done).contains("let in")), "{id}: {all:?}");
    }
    let refused = build("GIT_AUTH_TOKEN.localhost", &[&plain]).fails();
    assert!(refused.stderr.contains("the server wants credentials"), "{refused}");
    lab.write("token", "wr0ng\n");
    let refused = build("GIT_AUTH_TOKEN", &[&plain]).fails();
    assert!(!shown(&refused).contains("wr0ng"), "{refused}");
    lab.write("token", "s3cret");
    all.extend(["GIT_AUTH_TOKEN.localhost", "HTTP_AUTH_TOKEN_127.0.0.1"].map(|id| build(id, &[&plain]).fails()));

    web.demand_login("s3cret");
    let add_file = format!("FROM scratch\nADD {file} /f\n");
    all.push(build("GIT_AUTH_HEADER", &[&plain]).ok());
    all.push(build("HTTP_AUTH_HEADER_127.0.0.1", &["-f", "-", "."]).input(add_file.clone()).ok());
    web.demand_login("Bearer s3cret");
    let token = "HTTP_AUTH_TOKEN_127.0.0.1";
    all.push(build(token, &["-f", "-", "."]).input(add_file.clone()).ok());
    all.push(build(token, &[&dockerfile]).ok());
    all.push(build(token, &["-f", &dockerfile, "."]).ok());
    let named = format!("src={file}");
    let steps = "FROM scratch\nCOPY --from=src file /\n";
    all.push(build(token, &["--build-context", &named, "-f", "-", "."]).input(steps).ok());
    all.push(build("HTTP_AUTH_TOKEN_localhost", &["-f", "-", "."]).input(add_file.clone()).fails());
    all.push(build("GIT_AUTH_TOKEN", &["-f", "-", "."]).input(add_file.clone()).fails());
    // a redirect to another server does not take them along
    let other = Web::start();
    other.put("/elsewhere", Page { body: "x".into(), ..Page::default() });
    let headers = vec![("Location", other.url("/elsewhere"))];
    web.put("/file", Page { status: Some("302 Found"), headers, ..Page::default() });
    all.push(build(token, &["-f", "-", "."]).input(add_file).ok());
    assert!(other.asked().iter().all(|a| !a.headers.contains_key("authorization")));

    let arguments = fs::read_to_string(lab.path("tmp/git")).expect("what git was called with");
    assert!(arguments.contains("ls-remote"), "{arguments}");
    for secret in ["s3cret", basic] {
        assert!(!arguments.contains(secret), "{arguments}");
        assert!(all.iter().all(|done| !shown(done).contains(secret)), "{all:?}");
        let grep = lab.program("grep", ["-r", secret]).arg(lab.store()).output();
        assert_eq!(grep.code, 1, "{grep}");
    }
    nothing_left(&lab);
}

#[test]
fn servers_of_every_kind() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git", "sh");
    let (lab, web) = (lab(), Web::start());
    estate(&lab);
    web.serve_git(lab.path("git"));
    // a directory that is a submodule
    let dockerfile = "FROM localhost/busybox\nCOPY . /m\nRUN cat /m/part\n";
    let build = |url: String| lab.rbuild(["bud", "--no-cache", "-f", "-"]).arg(url).input(dockerfile);
    assert!(shown(&build(web.url("/git/main.git#:module")).ok()).contains("submodule"));
    // a web server that knows nothing of git: neither parts of a history nor commits without a name
    git(&lab, "sub.git", &["repack", "-q", "-a", "-d"]);
    git(&lab, "sub.git", &["update-server-info"]);
    let mut todo = vec![lab.path("git/sub.git/.git")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("the repository").flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let name = path.strip_prefix(lab.path("git/sub.git/.git")).expect("below").display().to_string();
            web.put(&format!("/dumb.git/{name}"), Page { body: fs::read(&path).expect("a file"), ..Page::default() });
        }
    }
    let id = git(&lab, "sub.git", &["rev-parse", "HEAD"]);
    for rest in [String::new(), "#main".into(), format!("#{id}")] {
        assert!(shown(&build(web.url(&format!("/dumb.git{rest}"))).ok()).contains("submodule"), "{rest}");
    }
    // digests of the other kind
    lab.mkdir("git/long.git");
    git(&lab, "long.git", &["init", "-q", "-b", "main", "--object-format=sha256", "."]);
    lab.write("git/long.git/part", "long\n");
    git(&lab, "long.git", &["add", "-A"]);
    git(&lab, "long.git", &["commit", "-q", "-m", "one"]);
    let id = git(&lab, "long.git", &["rev-parse", "HEAD"]);
    for rest in [String::new(), format!("#{id}"), format!("?checksum={id}")] {
        assert!(shown(&build(web.url(&format!("/git/long.git{rest}"))).ok()).contains("long"), "{rest}");
    }
    // ssh, of which this test plays the other end
    let log = lab.path("tmp/ssh");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\nfor last; do :; done\nexec sh -c \"$last\"\n", log.display());
    let ssh = lab.write("ssh/ssh", script);
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    lab.write("home/.ssh/id_ed25519", "a key");
    let path = format!("{}:{}", lab.path("ssh").display(), std::env::var("PATH").expect("PATH"));
    let repository = lab.path("git/sub.git");
    for url in
        [format!("ssh://me@localhost:22{}", repository.display()), format!("me@localhost:{}", repository.display())]
    {
        assert!(shown(&build(url).env("PATH", &path).ok()).contains("submodule"));
    }
    let said = fs::read_to_string(&log).expect("what ssh was told");
    let home = lab.path("home/.ssh");
    for part in [
        "BatchMode=yes".to_owned(),
        format!("UserKnownHostsFile={}/known_hosts", home.display()),
        format!("IdentityFile={}/id_ed25519", home.display()),
        "me@localhost".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    // the user's own command wins
    lab.write("home/.gitconfig", format!("[core]\n\tsshCommand = {} mine\n", ssh.display()));
    assert!(shown(&build(format!("me@localhost:{}", repository.display())).ok()).contains("submodule"));
    assert!(fs::read_to_string(&log).expect("what ssh was told").lines().last().expect("a line").starts_with("mine "));
    nothing_left(&lab);
}

#[test]
fn without_git_the_error_says_what_to_do() {
    let lab = Lab::new();
    let done = lab.rbuild(["bud", "https://localhost:1/x.git"]).env("PATH", "/nonexistent").fails();
    assert!(
        done.stderr.contains("cannot find the program `git`") && done.stderr.contains("hint: install git"),
        "{done}"
    );
    nothing_left(&lab);
}

#[test]
fn repositories_for_add() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("git");
    let (lab, web) = (lab(), Web::start());
    let (first, _) = estate(&lab);
    web.serve_git(lab.path("git"));
    let url = web.url("/git/main.git");
    let dockerfile = format!(
        "FROM localhost/busybox\nADD {url} /a\nADD {url}#v1:dir /b/\nADD --checksum={} {url}#v1 /c\n\
         ADD --keep-git-dir=true {url} /d\nADD --exclude=big --chown=7:8 --chmod=600 {url} /e\n\
         ADD {url}?ref=other&submodules=false /f\n\
         RUN test $(cat /a/version) = v2 && test -f /a/module/part && test ! -e /a/.git && test ! -e /a/module/.git\n\
         RUN test $(cat /b/version) = dir && test ! -e /b/big && test $(cat /c/version) = v1 && test -d /d/.git\n\
         RUN test ! -e /e/big && test $(stat -c %u:%g:%a /e/version) = 7:8:600\n\
         RUN test $(cat /f/version) = branch && test ! -e /f/module/part\n",
        &first[..10]
    );
    let build = |text: &str| lab.rbuild(["bud", "-t", "localhost/x", "-"]).input(text);
    build(&dockerfile).ok();
    web.asked();
    let done = build(&dockerfile).ok();
    assert!(cached(&done), "{done}");
    // for a step that is cached, the commit is looked up, and nothing is fetched
    let asked = web.asked();
    let fetched = asked.iter().filter(|a| String::from_utf8_lossy(&a.body).contains("command=fetch")).count();
    assert!(!asked.is_empty() && fetched == 0, "{asked:?}");
    lab.write("git/main.git/version", "v3\n");
    git(&lab, "main.git", &["commit", "-q", "-am", "four"]);
    let done = build(&dockerfile).fails();
    assert!(shown(&done).contains("v2"), "the new commit is seen: {done}");
    // a wrong checksum costs no step
    let wrong = format!("FROM localhost/busybox\nRUN echo did-run\nADD --checksum=0123456 {url} /a\n");
    let done = build(&wrong).fails();
    assert!(done.stderr.contains("expected `0123456`") && !shown(&done).contains("did-run"), "{done}");
    let local = format!("FROM scratch\nADD file://{} /a\n", lab.path("git/main.git").display());
    let done = build(&local).fails();
    assert!(done.stderr.contains("not found"), "a Dockerfile reaches no repository of this machine: {done}");
    nothing_left(&lab);
}

#[test]
fn files_for_add() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!("tar");
    let (lab, web) = (lab(), Web::start());
    let dated = |body: &str, tag: &str| Page {
        body: body.into(),
        headers: vec![("Last-Modified", "Sat, 03 Feb 2001 04:05:06 GMT".into()), ("ETag", format!("\"{tag}\""))],
        ..Page::default()
    };
    web.put("/dir/dated.txt", dated("dated", "1"));
    web.put("/bare", Page { body: "bare".into(), ..Page::default() });
    web.put(
        "/moved",
        Page { status: Some("301 Moved"), headers: vec![("Location", web.url("/bare"))], ..Page::default() },
    );
    lab.context("src", &[("in/file", "packed\n")]);
    Run::new("tar", ["-C"]).arg(lab.path("src")).arg("-czf").arg(lab.path("src.tgz")).arg("in").ok();
    web.put("/src.tgz", Page { body: fs::read(lab.path("src.tgz")).expect("the tar"), ..Page::default() });
    let context = lab.context("context", &[("local", "local\n")]);
    fs::copy(lab.path("src.tgz"), lab.path("context/src.tgz")).expect("a copy");
    let u = |path: &str| web.url(path);
    let sum = "sha256:96e0547bdc2f0cd95b2c3c08a6ed3b6f5b15e7ce4a7e9a1d5ffa1bd7dae4bb09";
    let dockerfile = format!(
        "FROM localhost/busybox\nADD {0}?query=1 /a/\nADD {1} /b\nADD {2} /c/\nADD {1} local {0} /d/\n\
         ADD {3} /e/\nADD --unpack=true {3} /f/\nADD src.tgz /g/\nADD --unpack=false src.tgz /h/\n\
         ADD --chown=7:8 --chmod=4751 {1} /i\n\
         RUN test \"$(stat -c %a:%u:%g:%Y:%s /a/dated.txt)\" = 600:0:0:981173106:5\n\
         RUN test \"$(stat -c %a:%Y /b)\" = 600:0 && test $(cat /b) = bare && test $(cat /c/moved) = bare\n\
         RUN test \"$(ls /d | tr '\\n' ' ')\" = 'bare dated.txt local '\n\
         RUN test -f /e/src.tgz && test $(cat /f/in/file) = packed && test $(cat /g/in/file) = packed && test -f /h/src.tgz\n\
         RUN test $(stat -c %a:%u:%g /i) = 4751:7:8\n",
        u("/dir/dated.txt"),
        u("/bare"),
        u("/moved"),
        u("/src.tgz"),
    );
    let file = lab.write("df", &dockerfile);
    let build = || lab.rbuild(["bud", "-t", "localhost/x", "-f"]).arg(&file).arg(&context);
    build().ok();
    web.asked();
    let done = build().ok();
    assert!(cached(&done) && !shown(&done).contains("retry"), "{done}");
    let asked = web.asked();
    let conditional = asked.iter().any(|a| a.line.contains("dated.txt") && a.headers.contains_key("if-none-match"));
    assert!(conditional, "the copy that is here is asked about: {asked:?}");
    web.put("/dir/dated.txt", dated("other", "2"));
    assert!(!build().ok().stdout.is_empty());
    assert_eq!(lab.rbuild(["run", "localhost/x", "cat", "/a/dated.txt"]).ok().stdout, "other");
    // a connection that breaks
    web.put("/breaks", Page { body: vec![b'y'; 100_000], breaks: true, ..Page::default() });
    let text = format!("FROM localhost/busybox\nADD {} /x\nRUN test $(stat -c %s /x) = 100000\n", u("/breaks"));
    let done = lab.rbuild(["bud", "-"]).input(text).ok();
    assert!(done.stderr.contains(&format!("Fetching {}...", u("/breaks"))), "{done}");
    // digests
    let check = |sum: &str| {
        let text =
            format!("FROM localhost/busybox\nRUN echo did-run\nADD --checksum={sum} {} /x\nRUN cat /x\n", u("/bare"));
        lab.rbuild(["bud", "-"]).input(text)
    };
    let done = check(sum).fails();
    assert!(done.stderr.contains("is not what it must be") && !shown(&done).contains("did-run"), "{done}");
    let real = done.stderr.split("got `").nth(1).and_then(|t| t.split('`').next()).expect("the digest").to_owned();
    check(&real).ok();
    web.asked();
    check(&real).arg("--no-cache").ok();
    assert!(web.asked().is_empty(), "a file with the right digest is here: nobody has to be asked");
    // what is not there costs no step either
    let text = format!("FROM localhost/busybox\nRUN echo did-run\nADD {} /x\n", u("/none"));
    let done = lab.rbuild(["bud", "-"]).input(text).fails();
    assert!(done.stderr.contains("answered 404") && !shown(&done).contains("did-run"), "{done}");
    nothing_left(&lab);
    lab.rbuild(["check"]).ok();
    lab.rbuild(["prune", "--all"]).ok();
    assert!(fs::read_dir(lab.store().join("downloads")).expect("downloads").next().is_none());
}

#[test]
fn a_killed_fetch_leaves_nothing_that_stays() {
    let (lab, web) = (Lab::new(), Web::start());
    web.put("/slow", Page { body: vec![b'x'; 1 << 20], stalls: true, ..Page::default() });
    let text = format!("FROM scratch\nADD {} /x\n", web.url("/slow"));
    let context = lab.context("context", &[("Dockerfile", &text)]);
    let mut child = lab.rbuild(["bud"]).arg(&context).start();
    let deadline = Instant::now() + Duration::from_secs(60);
    let half = |dir: &Path| -> u64 {
        let mut todo = vec![dir.to_owned()];
        let mut sum = 0;
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(m) if m.is_dir() => todo.push(entry.path()),
                    Ok(m) => sum += m.len(),
                    Err(_) => {}
                }
            }
        }
        sum
    };
    while half(&lab.store().join("tmp")) < 1 << 18 {
        assert!(Instant::now() < deadline, "nothing was fetched");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    let left: Vec<_> =
        fs::read_dir(lab.path("context")).expect("the context").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["Dockerfile"], "nothing lies in the user's directory");
    lab.rbuild(["bud", "-"]).input("FROM scratch\nLABEL a=b\n").ok();
    nothing_left(&lab);
}

#[test]
fn a_build_that_is_ended_ends_its_git() {
    require!("git");
    let (lab, web) = (Lab::new(), Web::start());
    web.put("/slow.git/info/refs", Page { body: vec![b'x'; 1 << 10], stalls: true, ..Page::default() });
    let url = web.url("/slow.git");
    let mut child = lab.rbuild(["bud"]).arg(&url).start();
    let deadline = Instant::now() + Duration::from_secs(60);
    // rbuild itself, git, and git's helper for the protocol
    while processes_with_argument(&url).len() < 3 {
        assert!(Instant::now() < deadline, "git was not started");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    assert_eq!(child.wait().expect("wait").code(), Some(143));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with_argument(&url).is_empty() {
        assert!(Instant::now() < deadline, "git outlived the build");
        std::thread::sleep(Duration::from_millis(10));
    }
}
