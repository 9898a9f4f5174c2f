//! Several rbuild processes on one store, and a store that is full.

use crate::harness::{Lab, Run, busybox_is_missing, is_root, require};
use std::fs;
use std::path::PathBuf;

#[test]
fn ten_builds_at_once_on_one_store() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let contexts: Vec<PathBuf> = (0..10)
        .map(|n| {
            // Some steps are the same in all builds, some in none.
            let text = format!(
                "FROM localhost/busybox\nRUN echo same > /same\nCOPY own /own\nRUN cp /own /copy && echo {n} >> /copy\n"
            );
            lab.context(&format!("context-{n}"), &[("Dockerfile", &text), ("own", &format!("file {n}\n"))])
        })
        .collect();
    std::thread::scope(|scope| {
        for (n, context) in contexts.iter().enumerate() {
            let lab = &lab;
            scope.spawn(move || lab.rbuild(["bud", "-t", &format!("localhost/x{n}")]).arg(context).ok());
        }
    });
    lab.rbuild(["check"]).ok();
    for n in 0..10 {
        let ran = lab.rbuild(["run", &format!("localhost/x{n}"), "cat", "/same", "/copy"]).ok();
        assert_eq!(ran.stdout, format!("same\nfile {n}\n{n}\n"));
    }
}

/// A small file system in memory, unmounted when it goes away.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> SmallDisk {
        Run::new("mount", ["-t", "tmpfs", "-o", &format!("size={size},mode=0777"), "small"]).arg(&at).ok();
        SmallDisk(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Run::new("umount", ["-l"]).arg(&self.0).output();
    }
}

#[test]
fn a_full_store_is_an_error_that_leaves_names_alone() {
    require!(if !is_root(), "only root can mount a small file system for the store");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    let disk = SmallDisk::mount(lab.mkdir("store"), "300m");
    lab.own(&disk.0);
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", "FROM localhost/busybox\nRUN echo first > /file\n")]);
    lab.rbuild(["bud", "-t", "localhost/x"]).arg(&context).ok();
    for step in ["RUN dd if=/dev/zero of=/large bs=1M count=400", "COPY large /large"] {
        lab.write("context/Dockerfile", format!("FROM localhost/busybox\n{step}\n"));
        if step.starts_with("COPY") {
            let file = fs::File::create(lab.path("context/large")).expect("a large file");
            std::io::copy(&mut std::io::Read::take(std::io::repeat(7), 400 << 20), &mut &file).expect("a large file");
        }
        let done = lab.rbuild(["bud", "-t", "localhost/x"]).arg(&context).fails();
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.to_lowercase().contains("no space left"), "{done}");
        assert!(done.stderr.contains(step), "the error does not name the step: {done}");
        let ran = lab.rbuild(["run", "localhost/x", "cat", "/file"]).ok();
        assert_eq!(ran.stdout, "first\n", "the name was moved");
    }
    lab.rbuild(["check"]).ok();
    lab.write("context/Dockerfile", "FROM localhost/busybox\nRUN echo again > /file\n");
    lab.rbuild(["bud", "-t", "localhost/x"]).arg(&context).ok();
}

#[test]
fn a_limit_to_the_store_takes_what_is_old_and_leaves_what_is_named_or_in_use() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let big = "RUN dd if=/dev/zero of=/big bs=1M count=8";
    lab.context("named", &[("Dockerfile", &format!("FROM localhost/busybox\n{big} && echo named > /who\n"))]);
    lab.context("old", &[("Dockerfile", &format!("FROM localhost/busybox\n{big} && echo old > /who\n"))]);
    lab.context("new", &[("Dockerfile", &format!("FROM localhost/busybox\n{big} && echo new > /who\n"))]);
    let wait = "RUN echo one > /one\nRUN touch /sync/began; while [ ! -e /sync/go ]; do sleep 0.05; done; cp /one /two";
    lab.context("busy", &[("Dockerfile", &format!("FROM localhost/busybox\n{wait}\n"))]);
    let sync = lab.mkdir("sync");
    fs::set_permissions(&sync, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    lab.rbuild(["bud", "-t", "localhost/named", "named"]).ok();
    let old = lab.rbuild(["bud", "-q", "-t", "localhost/x", "old"]).ok().stdout.trim().to_owned();

    let volume = format!("{}:/sync", sync.display());
    let busy = std::thread::scope(|scope| {
        let busy = scope.spawn(|| lab.rbuild(["bud", "-t", "localhost/busy", "-v", &volume, "busy"]).output());
        while !sync.join("began").exists() && !busy.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let new = lab.rbuild(["bud", "-t", "localhost/x", "new"]).env("RBUILD_STORE_LIMIT", "1MB").ok();
        assert!(new.stderr.contains("more than its limit of 1MB"), "what has a name is larger: {new}");
        lab.write("sync/go", "");
        busy.join().expect("a build")
    });
    assert!(busy.code == 0 && !busy.stderr.contains("limit"), "{busy}");
    lab.rbuild(["check"]).ok();

    assert!(lab.rbuild(["inspect", &old]).fails().stderr.contains("not"), "the image that lost its name");
    let cached = |context: &str| lab.rbuild(["bud", context]).ok().stdout.contains("Using cache");
    assert!(cached("new"), "the build that applied the limit had just made this");
    assert!(!cached("old"), "the step and its layer went with the image");
    for (image, content) in [("named", "named\n"), ("x", "new\n")] {
        assert_eq!(lab.rbuild(["run", &format!("localhost/{image}"), "cat", "/who"]).ok().stdout, content);
    }
    // The flag goes before the variable, and with room enough nothing is said.
    let run = lab.rbuild(["--store-limit", "1GB", "run", "localhost/x", "true"]).env("RBUILD_STORE_LIMIT", "1");
    assert_eq!(run.ok().stderr, "");
    let run = lab.rbuild(["run", "localhost/x", "true"]).env("RBUILD_STORE_LIMIT", "1").ok();
    assert!(run.stderr.contains("limit of 1B"), "{run}");
    let wrong = lab.rbuild(["run", "localhost/x", "true"]).env("RBUILD_STORE_LIMIT", "much").fails();
    assert!(wrong.stderr.contains("`RBUILD_STORE_LIMIT`: invalid size `much`"), "{wrong}");
    let pruned = lab.rbuild(["prune", "--max-size", "1"]).ok();
    assert!(pruned.stdout.starts_with("Removed ") && pruned.stderr.contains("limit of 1B"), "{pruned}");
    lab.rbuild(["check"]).ok();
}
