//! The same binary under the name `docker`.

use crate::harness::{Lab, Registry, Run, busybox_is_missing, require, which};

#[test]
fn build_and_push_end_as_docker_does() {
    require!("docker-registry", "git");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (lab, registry) = (Lab::new(), Registry::start());
    lab.import_busybox();
    lab.context(
        "origin",
        &[("Dockerfile", "FROM localhost/busybox\nCOPY worker /worker\nRUN cat /worker\n"), ("worker", "works\n")],
    );
    let script = format!(
        "set -e\nexport GIT_CONFIG_GLOBAL=/dev/null\ncd origin && git init -q && git add . && \
         git -c user.name=n -c user.email=e commit -q -m m && cd ..\n\
         git clone -q ./origin clone\ndocker build -t localhost:{port}/worker clone\ndocker push localhost:{port}/worker\n",
        port = registry.port()
    );
    let git = which("git").expect("required").parent().expect("a directory").to_owned();
    let path = format!("{}:{}:/usr/bin:/bin:/usr/sbin:/sbin", lab.path("bin").display(), git.display());
    let done = lab.program("sh", ["-c", &script]).env("PATH", path).ok();
    let last = done.stdout.lines().last().unwrap_or_default();
    let (digest, size) = last
        .strip_prefix("latest: digest: ")
        .and_then(|rest| rest.split_once(" size: "))
        .unwrap_or_else(|| panic!("`{last}` is not `latest: digest: … size: …`: {done}"));
    assert!(digest.starts_with("sha256:") && digest.len() == 71 && size.parse::<u64>().is_ok(), "{last}");
    if which("skopeo").is_some() {
        let name = format!("docker://localhost:{}/worker", registry.port());
        let run = Run::new("skopeo", ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &name]);
        assert_eq!(run.env("HOME", lab.dir()).ok().stdout.trim(), digest);
    }
}

#[test]
fn what_it_cannot_do_is_refused() {
    let lab = Lab::new();
    for args in [&["run", "busybox"][..], &["ps"], &["compose", "up"], &["build", "--no-such-flag", "."]] {
        let done = lab.docker(args).fails();
        assert!(!done.stderr.trim().is_empty(), "{done}");
    }
}
