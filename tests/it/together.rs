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
