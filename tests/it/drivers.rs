//! Storage drivers: however a step gets its root file system, the image is the same.

use crate::fuse;
use crate::harness::{Lab, busybox_is_missing, require};
use crate::pods;
use std::fs;

/// Steps that change files in most of the ways that there are. Nothing in them needs more than one id, or moves a directory
/// with recorded owners: through an overlay busybox' `mv` copies it, without them.
const STEPS: &str = r#"FROM localhost/busybox AS base
ADD devices.tar /
COPY --chown=5:6 own /own
COPY --chown=7:8 --chmod=4755 f /set-uid
RUN mkdir -p /a/b /c /e/sub/deep && echo f >/e/sub/f && echo one >/a/b/f && echo two >/c/g && ln /a/b/f /a/h1 && ln /a/b/f /a/h2 && ln -s f /a/b/l && mkfifo /a/p
RUN chmod 600 /c/g; rm -r /tmp; mkdir -m 1777 /tmp; echo new >/tmp/x; echo more >>/own/o1; mv /own/o2 /own/o2n; ln /own/o3 /own/o3l
RUN mv /c /cc && ln /a/b/f /cc/h3 && touch /etc/new && rm -f /etc/group; cp -a /own/o4 /own/o4c; rm /own/o5; echo again >/own/o5
RUN rm -rf /a/b && echo file >/a/b; chmod u-s /set-uid; rm /own/o1 /own/o2n; find /etc -exec touch {} +
COPY f /cc/
RUN rm /a/b && mkdir /a/b && truncate -s 10M /a/b/sparse && echo end >>/a/b/sparse; rm /a/h1; : >>/a/h2; chmod 700 /var
RUN rm -r /cc; mkdir /cc; touch /cc/z; ln /cc/z /cc/y; mv /e/sub /e/moved; mkdir -p /e/sub; touch /e/sub/t
RUN true
RUN mkdir /mnt && touch /mnt/x && mv /mnt/x / && rmdir /mnt
FROM base
RUN --mount=from=base,source=/a,target=/mnt,rw cp -a /mnt/b /b && rm -rf /mnt/*
RUN --mount=from=base,source=/e/moved,target=/deep/mount/point test -e /deep/mount/point/f && echo done >/done
RUN --mount=type=tmpfs,target=/own,tmpcopyup echo lost >/own/o6 && touch /last
"#;

const EPOCH: &str = "1700000000";

/// A lab with the steps as its context.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.import_busybox();
    let names: Vec<String> = (1..=7).map(|i| format!("own/o{i}")).collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x\n")).collect();
    files.extend([("Dockerfile", STEPS), ("f", "f")]);
    lab.context("context", &files);
    lab.write("context/devices.tar", devices());
    lab
}

/// An archive of a `/dev` with a device, over which every step has another one mounted.
fn devices() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o666);
    header.set_size(0);
    header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("a device's numbers");
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "dev/null", &[][..]).expect("a device");
    tar.into_inner().expect("the end of the tar")
}

/// The digest of the image that the steps make.
fn digest(lab: &Lab, driver: &str, layers: bool, one_id: bool) -> String {
    let mut build = lab.rbuild(["--storage-driver", driver, "bud", "--no-cache", "-t", "localhost/x"]);
    build = build.arg(format!("--layers={layers}")).arg(lab.path("context")).env("SOURCE_DATE_EPOCH", EPOCH);
    // Without `newuidmap` there is one id.
    let done = if one_id { build.env("PATH", "/nowhere") } else { build }.output();
    assert_eq!(done.code, 0, "{driver} {layers} {one_id}: {done}");
    let format = ["inspect", "--format", "{{.FromImageDigest}}", "localhost/x"];
    let digest = lab.rbuild(format).ok().stdout;
    assert!(digest.starts_with("sha256:"), "{digest}");
    digest
}

#[test]
fn an_overlay_in_user_space_gives_the_same_image() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (overlay, other) = (lab(), lab());
    if fuse::missing(&other) {
        return;
    }
    same_images((&overlay, "overlay"), (&other, "fuse"));
    let said = other.rbuild(["check"]).ok().stdout;
    assert!(said.contains("no problem found") && said.contains("compared"), "{said}");
    assert_eq!(fs::read_dir(other.store().join("tmp")).map_or(0, Iterator::count), 0);
    let run = root_of(&other, &["--storage-driver", "fuse"], &[]);
    assert!(run.code == 0 && run.stdout.contains("root:fuse.rbuild"), "{run}");
}

#[test]
fn a_server_that_dies_fails_the_step_and_nothing_hangs() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    if fuse::missing(&lab) {
        return;
    }
    lab.import_busybox();
    let steps =
        "FROM localhost/busybox\nRUN echo ready; while test -e /bin/busybox; do sleep 0.1; done; cat /etc/passwd\n";
    let context = lab.context("context", &[("Dockerfile", steps)]);
    let upper = lab.store().join("tmp").display().to_string();
    let build = lab.rbuild(["--storage-driver", "fuse", "bud", "--no-cache", "-t", "localhost/x"]).arg(context);
    let killer = std::thread::spawn(move || {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while std::time::Instant::now() < deadline {
            for pid in servers(&upper) {
                // When it is mounted, the step runs.
                if fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) > 1 {
                    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                        .expect("kill");
                    return;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    // A shell whose program was mapped from there may end by a signal.
    let done = build.output();
    killer.join().expect("the killer");
    assert!(done.code != 0 && done.stderr.contains("Error"), "{done}");
    lab.rbuild(["check"]).ok();
}

#[test]
fn a_builder_that_is_killed_leaves_no_server() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    if fuse::missing(&lab) {
        return;
    }
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", "FROM localhost/busybox\nRUN touch /x; sleep 1000\n")]);
    let upper = lab.store().join("tmp").display().to_string();
    let run = lab.rbuild(["--storage-driver", "fuse", "bud", "--no-cache", "-t", "localhost/x"]).arg(context);
    let mut child = run.start();
    let until = |what: &str, reached: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !reached() {
            assert!(std::time::Instant::now() < deadline, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    until("no server", &|| !servers(&upper).is_empty());
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("the server outlives the builder", &|| servers(&upper).is_empty());
    lab.rbuild(["check"]).ok();
}

/// Servers of file systems whose upper directories are below a directory.
fn servers(below: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|b| *b == 0);
        arguments.next() == Some(b"rbuild-fuse")
            && arguments.next().is_some_and(|upper| upper.starts_with(below.as_bytes()))
    })
    .collect()
}

/// Builds the steps with each driver, in each of the ways that there are.
fn same_images((one, first): (&Lab, &str), (other, second): (&Lab, &str)) {
    for one_id in [false, true] {
        if !one_id && !one.user().ranged {
            continue;
        }
        for layers in [true, false] {
            let (a, b) = (digest(one, first, layers, one_id), digest(other, second, layers, one_id));
            assert_eq!(a, b, "layers: {layers}, one id: {one_id}");
        }
    }
}

#[test]
fn an_overlay_and_a_copy_give_the_same_image() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let (overlay, copy) = (lab(), lab());
    same_images((&overlay, "overlay"), (&copy, "copy"));
    // What the layers were made from is what it was.
    let said = copy.rbuild(["check"]).ok().stdout;
    assert!(said.contains("no problem found") && said.contains("compared"), "{said}");
    assert_eq!(fs::read_dir(copy.store().join("tmp")).map_or(0, Iterator::count), 0);
}

/// Variables of the environment.
type Vars<'a> = &'a [(&'a str, &'a str)];

/// Builds one step with these flags and variables, which prints the type of its root file system.
fn root_of(lab: &Lab, flags: &[&str], vars: Vars) -> crate::harness::Done {
    let steps =
        "FROM localhost/busybox\nRUN awk '$2 == \"/\" {kind = $3} END {print \"root:\" kind}' /proc/self/mounts\n";
    let context = lab.context("kind", &[("Dockerfile", steps)]);
    let run = lab.rbuild(flags.iter().chain(&["bud", "--no-cache", "-t", "localhost/kind"])).arg(context);
    let run = run.env("STORAGE_DRIVER", "");
    vars.iter().fold(run, |run, (name, value)| run.env(name, value)).output()
}

#[test]
fn the_driver_is_chosen_by_flag_and_variable_and_said_once() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let best = root_of(&lab, &[], &[]);
    assert!(
        best.code == 0 && best.stdout.contains("root:overlay") && !best.stderr.contains("storage driver"),
        "{best}"
    );
    let ways: [(&[&str], Vars); 4] = [
        (&["--storage-driver", "copy"], &[]),
        (&["--storage-driver", "vfs"], &[("RBUILD_STORAGE_DRIVER", "overlay")]),
        (&[], &[("RBUILD_STORAGE_DRIVER", "copy"), ("STORAGE_DRIVER", "overlay")]),
        (&[], &[("STORAGE_DRIVER", "vfs")]),
    ];
    for (flags, vars) in ways {
        let done = root_of(&lab, flags, vars);
        assert!(done.code == 0 && done.stdout.contains("root:") && !done.stdout.contains("root:overlay"), "{done}");
        assert_eq!(done.stderr.matches("note: storage driver `copy`").count(), 1, "{done}");
    }
    let quiet = lab.rbuild(["--storage-driver", "copy", "bud", "-q", "--no-cache"]).arg(lab.path("kind")).ok();
    assert_eq!(quiet.stderr, "");
    let wrong = root_of(&lab, &["--storage-driver", "zfs"], &[]);
    assert!(wrong.code != 0 && wrong.stderr.contains("`overlay`, `fuse` and `copy`"), "{wrong}");
    let wrong = root_of(&lab, &[], &[("RBUILD_STORAGE_DRIVER", "zfs")]);
    assert!(wrong.code != 0 && wrong.stderr.contains("RBUILD_STORAGE_DRIVER"), "{wrong}");
    let run = lab
        .rbuild([
            "--storage-driver",
            "copy",
            "run",
            "localhost/busybox",
            "sh",
            "-c",
            "rm -r /bin/ls /etc/passwd && echo gone",
        ])
        .ok();
    assert_eq!(run.stdout, "gone\n");
}

#[test]
fn a_driver_that_mounts_is_refused_where_nothing_can_be_mounted() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    for driver in ["overlay", "fuse"] {
        let context = lab.context("context", &[("Dockerfile", "FROM localhost/busybox\nRUN true\n")]);
        let build = lab.rbuild(["--storage-driver", driver, "bud", "--isolation=trace", "--no-cache"]).arg(context);
        let done = build.fails();
        let named = format!("the storage driver `{driver}` cannot be used");
        assert!(done.stderr.contains(&named) && done.stderr.contains("hint: use `copy`"), "{done}");
    }
}

#[test]
fn a_step_that_fails_leaves_nothing() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let context =
        lab.context("context", &[("Dockerfile", "FROM localhost/busybox\nRUN rm -rf /etc; touch /x; exit 3\n")]);
    let build = lab.rbuild(["--storage-driver", "copy", "bud", "--no-cache", "-t", "localhost/x"]).arg(context).fails();
    assert_eq!(build.code, 3, "{build}");
    assert_eq!(fs::read_dir(lab.store().join("tmp")).map_or(0, Iterator::count), 0);
    lab.rbuild(["check"]).ok();
}

#[test]
fn changes_through_a_second_name_are_seen_through_the_first() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    // An overlay breaks the names of a lower file apart; a directory does not.
    let steps = "FROM localhost/busybox\nRUN echo one >/a && ln /a /b\nRUN echo two >>/b\nRUN cat /a\n";
    let context = lab.context("context", &[("Dockerfile", steps)]);
    let done = lab.rbuild(["--storage-driver", "copy", "bud", "--no-cache", "-t", "localhost/x"]).arg(context).ok();
    assert!(done.stdout.contains("one\ntwo\n"), "{done}");
    lab.rbuild(["check"]).ok();
}

#[test]
fn a_pod_whose_storage_is_an_overlay_copies() {
    require!(if pods::missing().is_some(), pods::missing().unwrap_or_default());
    let lab = lab();
    fs::copy(lab.path("busybox.tar"), lab.path("context/busybox.tar")).expect("a copy");
    let shell = format!(
        "cd /context && export SOURCE_DATE_EPOCH={EPOCH} && rbuild import busybox.tar localhost/busybox >/dev/null && \
         rbuild bud --ignorefile=/dev/null -t localhost/x . && rbuild check && \
         rbuild inspect --format 'image: {{{{.FromImageDigest}}}}' localhost/x"
    );
    let image = |profile: &str, wanted: bool| {
        let done = pods::in_pod(&lab, profile, &[], &shell).output();
        assert_eq!(done.code, 0, "{profile}: {done}");
        let said = done.stderr.matches("lies on an overlay").count();
        assert_eq!(said, usize::from(wanted), "{profile}: {done}");
        done.stdout.lines().find(|line| line.starts_with("image: ")).map(str::to_owned)
    };
    let (overlay, copy) = (image("localhost/emptydir", false), image("localhost/rootfs", true));
    assert!(overlay.is_some());
    assert_eq!(overlay, copy);
    if std::path::Path::new("/dev/fuse").exists() {
        assert_eq!(overlay, image("localhost/fuse", true));
    }
}
