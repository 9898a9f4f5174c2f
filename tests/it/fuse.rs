//! The overlay in user space as a mounted file system. What it leaves on disk is tested beside it, in
//! `src/snapshot/fuse/tests.rs`; that images are the same, in `drivers.rs`.

use crate::harness::{Done, Lab, cannot_run, require, which};
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

/// Says so where the labs' user cannot use FUSE.
pub(super) fn missing(lab: &Lab) -> bool {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this machine has no `/dev/fuse`");
        return true;
    }
    let closed = lab.program("sh", ["-c", ": 3<>/dev/fuse"]).output().code != 0;
    if closed {
        cannot_run("`/dev/fuse` is not open to all: `chmod 666 /dev/fuse`");
    }
    closed
}

/// A lab with two layers (`one` below `two`), an upper directory and a mount point that belong to its user.
fn lab(fill: impl FnOnce(&Path)) -> Lab {
    let lab = Lab::new();
    fill(&lab.mkdir("one/fs"));
    for dir in ["two/fs/dir", "upper/fs", "work", "mnt"] {
        lab.mkdir(dir);
    }
    lab.program("chmod", ["755", "upper/fs"]).ok();
    lab
}

/// Runs a command beside the mount.
fn beside(lab: &Lab, command: &[&str]) -> Done {
    let flags = ["fuse", "--lower=two", "--lower=one", "--upper=upper", "--work=work", "--mountpoint=mnt"];
    lab.rbuild(flags).args(command).output()
}

#[test]
fn programs_find_what_they_expect() {
    require!("python3", "rm");
    let lab = lab(|one| {
        for name in ["lower", "other", "gone"] {
            fs::write(one.join(name), format!("{name}\n")).expect("a file");
        }
        fs::create_dir(one.join("dir")).expect("a directory");
        fs::write(one.join("dir/file"), "f\n").expect("a file");
        fs::write(one.join("big"), vec![1; 3 << 20]).expect("a file");
        fs::write(one.join("tool"), "#!/bin/sh\necho ran\n").expect("a file");
        for name in ["a", "b", "c", "f", "g"] {
            fs::create_dir_all(one.join("deep")).expect("a directory");
            fs::write(one.join("deep").join(name), name).expect("a file");
        }
        fs::create_dir(one.join("hard")).expect("a directory");
        fs::write(one.join("hard/a"), "h").expect("a file");
        fs::hard_link(one.join("hard/a"), one.join("hard/b")).expect("a link");
        let sparse = fs::File::create(one.join("sparse")).expect("a file");
        sparse.set_len(8 << 20).and_then(|()| sparse.write_all_at(b"d", 1 << 20)).expect("a hole");
    });
    if missing(&lab) {
        return;
    }
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuse/semantics.py");
    lab.write("semantics.py", fs::read_to_string(all).expect("the script"));
    own(&lab, "one");
    let done = beside(&lab, &["python3", "semantics.py", "mnt"]);
    assert!(done.code == 0 && done.stdout.contains("all held"), "{done}");
    assert_eq!(fs::read_dir(lab.path("work")).expect("the directory").count(), 0);
}

/// As extracted layers do, the files belong to the user.
fn own(lab: &Lab, dir: &str) {
    if rustix::process::geteuid().is_root() {
        let user = lab.user();
        let owner = format!("{}:{}", user.uid, user.gid);
        let status = std::process::Command::new("chown").args(["-R", &owner]).arg(lab.path(dir)).status();
        assert!(status.expect("chown").success());
    }
}

#[test]
fn what_posix_asks_for_is_answered_as_by_the_kernels_overlay() {
    // `cargo install pjdfstest`; it takes minutes to build, and its users are Debian's.
    if which("pjdfstest").is_none() {
        return eprintln!("skipped: `pjdfstest` is not installed");
    }
    let lab = lab(|_| {});
    if missing(&lab) {
        return;
    }
    let users = "entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]";
    let features = "posix_fallocate = {}\nutimensat = {}\nutime_now = {}\nrename_ctime = {}\n";
    lab.write("pjdfstest.toml", format!("[features]\n{features}[settings]\nnaptime = 0.01\n[dummy_auth]\n{users}\n"));
    // Other users have to get there.
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).expect("the mode");
    let failed = |done: &Done| -> Vec<String> {
        assert!(done.stdout.contains("Summary: "), "{done}");
        let lines = done.stdout.lines().filter(|line| line.ends_with("FAILED"));
        let mut all: Vec<String> = lines.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect();
        all.sort();
        all
    };
    let program = which("pjdfstest").expect("found before");
    let program = program.to_str().expect("a name");
    let fuse = beside(&lab, &[program, "-c", "pjdfstest.toml", "-p", "mnt"]);
    lab.mkdir("kernel/upper");
    for dir in ["kernel/work", "kernel/mnt"] {
        lab.mkdir(dir);
    }
    let script = format!(
        "mount -t overlay overlay -o userxattr,lowerdir=two/fs:one/fs,upperdir=kernel/upper,workdir=kernel/work kernel/mnt && \
         {program} -c pjdfstest.toml -p kernel/mnt"
    );
    let kernel = lab.rbuild(["unshare", "sh", "-c", &script]).output();
    for line in fuse.stdout.lines().filter(|line| line.starts_with("Summary: ")) {
        eprintln!("{line}");
    }
    assert_eq!(failed(&fuse), failed(&kernel));
    // What both refuse are devices: of a user namespace, and of number 0:0, which would be a whiteout.
    let other: Vec<String> =
        failed(&fuse).into_iter().filter(|name| !name.ends_with("::char") && !name.ends_with("::block")).collect();
    assert_eq!(other, [""; 0]);
}
