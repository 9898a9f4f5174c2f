//! What steps used, and the cgroup that limits and counts it.

use crate::harness::{Lab, Run, busybox_is_missing, is_root, require};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

const STEPS: &str = "FROM localhost/busybox AS work\nRUN head -c 3000000 /dev/zero >/file && sync && seq 100000 | sort -r >/dev/null\n\
    FROM scratch\nCOPY --from=work /file /\n";

#[test]
fn steps_say_what_they_used_when_asked() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let context = lab.context("context", &[("Dockerfile", STEPS)]);
    let build = |more: &[&str]| {
        let run = lab.rbuild(["bud", "--no-cache", "--metadata-file=meta"]).args(more).arg(&context);
        let done = run.ok();
        let meta: Value = serde_json::from_str(&fs::read_to_string(lab.path("meta")).unwrap()).unwrap();
        (done, meta)
    };
    let (done, meta) = build(&["--step-usage"]);
    let lines: Vec<&str> = done.stderr.lines().filter(|l| l.contains("usage: ")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("[1/2] usage: ") && lines[0].contains("processor"), "{done}");
    let steps = meta["rbuild.steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 1);
    let (step, number) = (&steps[0], |name: &str| steps[0][name].as_f64().unwrap_or(-1.0));
    assert!(step["stage"] == "work" && step["step"].as_str().is_some_and(|t| t.starts_with("RUN head")), "{step:#}");
    assert!(number("wallSeconds") > 0.0 && number("userSeconds") > 0.0 && number("systemSeconds") >= 0.0, "{step:#}");
    assert!(number("maxRssBytes") > 100_000.0 && number("readBytes") >= 0.0, "{step:#}");
    let in_memory = fs::read_to_string("/proc/mounts").is_ok_and(|m| m.lines().any(|l| l.contains(" /tmp tmpfs")));
    assert!(number("writtenBytes") >= 3_000_000.0 || in_memory, "{step:#}");
    let (done, meta) = build(&[]);
    assert!(!done.stderr.contains("usage: ") && meta.get("rbuild.steps").is_none(), "{done}");
    // A step that fails says so, too.
    let context = lab.context("fails", &[("Dockerfile", "FROM localhost/busybox\nRUN exit 3\n")]);
    let done = lab.rbuild(["bud", "--step-usage"]).arg(context).output();
    assert!(done.code == 3 && done.stderr.contains("usage: "), "{done}");
}

#[test]
fn limits_are_read_where_the_variable_points() {
    let lab = Lab::new();
    for (name, content) in [
        ("cgroup.procs", ""),
        ("memory.max", "123456789\n"),
        ("cpu.max", "150000 100000\n"),
        ("memory.events", "oom_kill 0\n"),
    ] {
        lab.write(Path::new("cgroup").join(name), content);
    }
    let doctor = |root: &Path| {
        let done = lab.rbuild(["doctor", "--json"]).env("RBUILD_CGROUP_ROOT", root).output();
        let report: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done}"));
        let all = report["findings"].as_array().expect("findings").clone();
        all.iter().find(|f| f["name"] == "cgroup").expect("one")["text"].as_str().expect("text").to_owned()
    };
    let text = doctor(&lab.path("cgroup"));
    assert!(text.starts_with("version 2, delegated") && text.ends_with("123 MB of memory, 1.5 processors"), "{text}");
    assert!(doctor(&lab.path("nothing")).contains("none can be seen"));
}

/// Where a hierarchy of version 2 is mounted.
fn version_2() -> Option<PathBuf> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    places.into_iter().find(|p| p.join("cgroup.controllers").exists())
}

/// A cgroup that goes away.
struct Delegated(PathBuf);

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_delegated_cgroup_gets_a_child_for_each_step() {
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    require!(if !is_root(), "only root can delegate a cgroup");
    let root = version_2();
    require!(if root.is_none(), "no cgroup hierarchy of version 2 is mounted");
    let root = root.expect("found above");
    let lab = Lab::new();
    let delegated = Delegated(root.join(format!("rbuild-it-{}", std::process::id())));
    require!(if fs::create_dir(&delegated.0).is_err(), "no cgroup can be made");
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        chown(delegated.0.join(name), Some(lab.user().uid), Some(lab.user().gid)).expect("chown");
    }
    lab.import_busybox();
    let steps = "FROM localhost/busybox\nRUN cat /proc/self/cgroup && seq 100000 | sort -r >/dev/null\n";
    let context = lab.context("context", &[("Dockerfile", steps)]);
    let shell = format!(
        "echo $$ >{}/cgroup.procs && exec setpriv --reuid {} --regid {} --clear-groups {} bud --step-usage --metadata-file={} {}",
        delegated.0.display(),
        lab.user().uid,
        lab.user().gid,
        lab.path("bin/rbuild").display(),
        lab.path("meta").display(),
        context.display()
    );
    let run = Run::new("sh", ["-c", &shell]).env("RBUILD_ROOT", lab.store()).env("RBUILD_CGROUP_ROOT", &root);
    let done = run.env("HOME", lab.path("home")).env("TMPDIR", lab.path("tmp")).dir(lab.dir()).ok();
    let name = delegated.0.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(done.stdout.contains(&format!("::/{name}/rbuild-")), "{done}");
    let meta: Value = serde_json::from_str(&fs::read_to_string(lab.path("meta")).unwrap()).unwrap();
    assert!(meta["rbuild.steps"][0]["userSeconds"].as_f64().is_some_and(|s| s > 0.0), "{meta:#}");
    let left: Vec<_> = fs::read_dir(&delegated.0).unwrap().flatten().filter(|e| e.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
}
