//! `--output`: the result as plain files.

use crate::harness::{Lab, busybox_is_missing, cannot_run};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

const TEXT: &str = "FROM localhost/busybox AS made\n\
    RUN mkdir -p /d/closed && echo data > /d/file && ln /d/file /d/hard && ln -s file /d/link \\\n \
    && mkfifo /d/pipe && touch -d @1000000000 /d/file && chown 33:33 /d/file && chmod 4755 /d/file && chmod 555 /d/closed\n\
    FROM scratch\nCOPY --from=made /d /\n";

fn lab() -> Option<Lab> {
    if let Some(reason) = busybox_is_missing() {
        cannot_run(reason);
        return None;
    }
    let lab = Lab::new();
    lab.import_busybox();
    Some(lab)
}

fn looks_right(root: &Path) {
    let file = fs::metadata(root.join("file")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o4755);
    assert_eq!((file.mtime(), file.nlink()), (1_000_000_000, 2));
    assert_eq!(fs::read(root.join("hard")).unwrap(), b"data\n");
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("file"));
    assert_eq!(fs::metadata(root.join("closed")).unwrap().permissions().mode() & 0o777, 0o555);
    assert!(!root.join("pipe").exists());
}

#[test]
fn the_root_file_system_as_a_directory() {
    let Some(lab) = lab() else { return };
    let context = lab.context("context", &[("Dockerfile", TEXT)]);
    let (all, short) = (lab.dir().join("all"), lab.dir().join("short"));
    let long = format!("type=local,dest={}", all.display());
    let done = lab.rbuild(["bud", "-o", &long, "-o"]).arg(&short).arg(&context).ok();
    assert!(done.stderr.contains("1 device nodes, pipes and sockets of the image are not in"), "{done}");
    for root in [all, short] {
        looks_right(&root);
        assert_eq!(fs::metadata(root.join("file")).unwrap().uid(), lab.user().uid);
    }
}

#[test]
fn files_that_are_there_stay_and_links_are_not_followed() {
    let Some(lab) = lab() else { return };
    let context = lab.context("context", &[("Dockerfile", TEXT)]);
    let (root, outside) = (lab.mkdir("root"), lab.mkdir("outside"));
    lab.write("root/mine", "kept");
    lab.write("root/file", "replaced");
    lab.rbuild(["bud", "-o"]).arg(&root).arg(&context).ok();
    looks_right(&root);
    assert_eq!(fs::read(root.join("mine")).unwrap(), b"kept");

    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir(root.join("closed")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("closed")).unwrap();
    let done = lab.rbuild(["bud", "-o"]).arg(&root).arg(&context).fails();
    assert!(done.stderr.contains("/closed`: it exists and is no directory"), "{done}");
    assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn the_root_file_system_as_a_tar() {
    let Some(lab) = lab() else { return };
    let context = lab.context("context", &[("Dockerfile", TEXT)]);
    let file = lab.dir().join("root.tar");
    lab.rbuild(["bud", "-o", &format!("type=tar,dest={}", file.display())]).arg(&context).ok();
    let piped = lab.rbuild(["bud", "-o", "-"]).arg(&context).ok();
    let docker = lab.docker(["build", "-o", "type=tar"]).arg(&context).ok();
    assert_eq!(fs::read(&file).unwrap(), piped.stdout.as_bytes());
    assert_eq!(piped.stdout.as_bytes(), docker.stdout.as_bytes());
    let mut archive = tar::Archive::new(piped.stdout.as_bytes());
    let owners: Vec<String> = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .map(|e| {
            let header = e.header();
            format!(
                "{} {:?} {}:{} {:o}",
                e.path().unwrap().display(),
                header.entry_type(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mode().unwrap()
            )
        })
        .collect();
    assert!(owners.contains(&"file Regular 33:33 4755".to_owned()), "{owners:?}");
    assert!(owners.contains(&"pipe Fifo 0:0 644".to_owned()), "{owners:?}");
}

#[test]
fn one_place_each() {
    let Some(lab) = lab() else { return };
    let context = lab.context("context", &[("Dockerfile", TEXT)]);
    let done = lab.rbuild(["bud", "-o", "-", "-o", "type=oci"]).arg(&context).fails();
    assert!(done.stderr.contains("refusing to write this archive to standard output"), "{done}");
    let many = lab.dir().join("many");
    lab.rbuild(["bud", "--platform", "linux/amd64,linux/arm64", "-o"])
        .arg(&many)
        .arg("-f")
        .arg(lab.write("Scratch", "FROM scratch\nCOPY Dockerfile /\n"))
        .arg(&context)
        .ok();
    for platform in ["linux_amd64", "linux_arm64"] {
        assert!(many.join(platform).join("Dockerfile").is_file(), "{platform}");
    }
}
