//! The main job: a base is imported, an image built from it in several stages, pushed, and taken up by other tools.

use crate::harness::{Lab, Registry, Run, busybox_is_missing, is_root, require};
use std::fs;
use std::path::Path;

const DOCKERFILE: &str = r#"
ARG WHO=world
FROM localhost/busybox AS work
ARG WHO
WORKDIR /work
COPY greeting ./
RUN sed "s/WHO/$WHO/" greeting > made && test "$(id -u)" = 0
RUN mkdir -p out/deep && mv made out/deep/ && chmod 0604 out/deep/made && chown 33:33 out/deep/made

FROM localhost/busybox
COPY --from=work /work/out /data
RUN echo somebody:x:1000:1000::/:/bin/sh >> /etc/passwd
USER somebody
ENV LANGUAGE="plain english"
LABEL purpose=test
CMD ["cat", "/data/deep/made"]
"#;

/// A lab with the image `localhost/job:latest` in its store.
fn built() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", DOCKERFILE), ("greeting", "hello WHO\n")]);
    lab.rbuild(["bud", "-t", "localhost/job", "--build-arg", "WHO=there"]).arg(context).ok();
    lab
}

/// podman, with storage of its own in `dir`.
pub fn podman<'a>(dir: &Path, args: impl IntoIterator<Item = &'a str>) -> Run {
    let conf = dir.join("containers.conf");
    let ulimits = "[containers]\ndefault_ulimits = [\"nofile=1024:16384\", \"nproc=32768:32768\"]\n";
    fs::write(&conf, ulimits).expect("containers.conf");
    let policy = dir.join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).expect("policy.json");
    let mut run = Run::new("podman", ["--root"]).arg(dir.join("podman")).arg("--runroot").arg(dir.join("podman-run"));
    run = run.args(["--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
    run.env("CONTAINERS_CONF", conf).env("HOME", dir.as_os_str()).args(args)
}

#[test]
fn a_build_of_several_stages_runs() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !crate::harness::User::find().ranged, "the user has no range of ids");
    let lab = built();
    assert_eq!(lab.rbuild(["run", "localhost/job"]).ok().stdout, "hello there\n");
    let id = lab.rbuild([
        "run",
        "localhost/job",
        "sh",
        "-c",
        "id -u; pwd; echo $LANGUAGE; stat -c %u:%g:%a /data/deep/made",
    ]);
    assert_eq!(id.ok().stdout, "1000\n/\nplain english\n33:33:604\n");
    let images = lab.rbuild(["images"]).ok().stdout;
    assert!(images.contains("localhost/job") && images.contains("localhost/busybox"), "{images}");
    lab.rbuild(["check"]).ok();
}

#[test]
fn the_exit_code_of_a_step_is_passed_on() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", "FROM localhost/busybox\nRUN echo seen; exit 7\n")]);
    let done = lab.rbuild(["bud", "-t", "localhost/fails"]).arg(context).fails();
    assert_eq!(done.code, 7, "{done}");
    assert!(done.stdout.contains("seen") && done.stderr.contains("RUN echo seen; exit 7"), "{done}");
    assert!(!lab.rbuild(["images"]).ok().stdout.contains("localhost/fails"));
    assert_eq!(lab.rbuild(["run", "localhost/busybox", "sh", "-c", "exit 9"]).output().code, 9);
}

#[test]
fn a_registry_gets_what_others_read() {
    require!("docker-registry", "skopeo");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !crate::harness::User::find().ranged, "the user has no range of ids");
    let (lab, registry) = (built(), Registry::start());
    let name = format!("docker://{}/team/job:1", registry.host());
    let digest_file = lab.path("home/digest");
    lab.rbuild(["push", "--digestfile"]).arg(&digest_file).args(["localhost/job", &name]).ok();
    let digest = fs::read_to_string(&digest_file).expect("the digest file");

    let inspect = |format: &str| {
        let run = Run::new("skopeo", ["inspect", "--tls-verify=false", "--format", format, &name]);
        run.env("HOME", lab.dir()).ok().stdout.trim().to_owned()
    };
    assert_eq!(inspect("{{.Digest}}"), digest.trim());
    assert_eq!(inspect("{{.Labels.purpose}}"), "test");

    // A second push sends nothing that is there already, and the registry answers with the same digest.
    lab.rbuild(["push", "--digestfile"]).arg(&digest_file).args(["localhost/job", &name]).ok();
    assert_eq!(fs::read_to_string(&digest_file).expect("the digest file"), digest);

    // Another store pulls it back and runs it.
    let other = Lab::new();
    other.rbuild(["pull", name.trim_start_matches("docker://")]).ok();
    assert_eq!(other.rbuild(["run", name.trim_start_matches("docker://")]).ok().stdout, "hello there\n");
    other.rbuild(["check"]).ok();
}

#[test]
fn podman_runs_what_was_pushed() {
    require!("docker-registry", "podman", "runc");
    require!(if !is_root(), "podman is run as root, and the tests are not");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (lab, registry) = (built(), Registry::start());
    let name = format!("{}/team/job:1", registry.host());
    lab.rbuild(["push", "localhost/job"]).arg(format!("docker://{name}")).ok();
    let own = tempfile::Builder::new().prefix("rbuild-podman-").tempdir().expect("a temporary directory");
    podman(own.path(), ["pull", "-q", "--tls-verify=false", &name]).ok();
    // The image's user, environment and command.
    let ran = podman(own.path(), ["run", "--rm", "--network", "host", "--pull", "never", &name]).ok();
    assert_eq!(ran.stdout, "hello there\n");
    let what = "id -u; echo $LANGUAGE; stat -c %u:%g:%a /data/deep/made";
    let ran = podman(own.path(), ["run", "--rm", "--network", "host", "--pull", "never", &name, "sh", "-c", what]).ok();
    assert_eq!(ran.stdout, "1000\nplain english\n33:33:604\n");
}

#[test]
fn umoci_unpacks_an_oci_layout() {
    require!("umoci");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !crate::harness::User::find().ranged, "the user has no range of ids");
    let lab = built();
    lab.rbuild(["push", "localhost/job"]).arg(format!("oci:{}:1", lab.path("tmp/layout").display())).ok();
    // umoci as the same user, or as root to see the owners.
    let (image, bundle) = (format!("{}:1", lab.path("tmp/layout").display()), lab.path("tmp/bundle"));
    if is_root() {
        Run::new("umoci", ["unpack", "--image", &image]).arg(&bundle).env("HOME", lab.dir()).ok();
        let meta = fs::symlink_metadata(bundle.join("rootfs/data/deep/made")).expect("the file");
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (33, 33, 0o604));
    } else {
        lab.program("umoci", ["unpack", "--rootless", "--image", &image]).arg(&bundle).ok();
    }
    assert_eq!(fs::read(bundle.join("rootfs/data/deep/made")).expect("the file"), b"hello there\n");
}

#[test]
fn archives_are_read_back() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !crate::harness::User::find().ranged, "the user has no range of ids");
    let lab = built();
    for kind in ["oci-archive", "docker-archive"] {
        let file = lab.path(format!("tmp/{kind}.tar"));
        lab.rbuild(["push", "localhost/job"]).arg(format!("{kind}:{}:localhost/job:latest", file.display())).ok();
        let store = lab.path(format!("store-{kind}"));
        lab.rbuild(["load", "-i"]).arg(&file).env("RBUILD_ROOT", &store).ok();
        let ran = lab.rbuild(["run", "localhost/job"]).env("RBUILD_ROOT", &store).ok();
        assert_eq!(ran.stdout, "hello there\n", "{kind}");
    }
}

#[test]
fn files_get_ids_without_prefix_or_newline_games() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", "FROM localhost/busybox\nCOPY Dockerfile /\n")]);
    let (iid, metadata) = (lab.path("home/iid"), lab.path("home/metadata"));
    let done = lab
        .rbuild(["bud", "-t", "localhost/x", "--iidfile"])
        .arg(&iid)
        .arg("--metadata-file")
        .arg(&metadata)
        .arg(&context);
    done.ok();
    let id = fs::read_to_string(&iid).expect("the id file");
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&fs::read(metadata).expect("the file")).expect("JSON");
    assert_eq!(metadata["containerimage.config.digest"], id.as_str(), "{metadata}");
    // Without an id file, the id is the last line of the output, bare.
    let said = lab.rbuild(["bud", "-t", "localhost/x"]).arg(&context).ok().stdout;
    assert_eq!(said.lines().last(), id.strip_prefix("sha256:"), "{said}");
    let quiet = lab.rbuild(["bud", "-q", "-t", "localhost/x"]).arg(&context).ok().stdout;
    assert_eq!(quiet.trim_end(), id.trim_start_matches("sha256:"));
}
