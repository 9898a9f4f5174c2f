//! `rbuild doctor`: what it finds, what it promises, and whether the promises hold.

use crate::harness::{Done, Lab, Registry, Run, busybox_is_missing, require, which};
use crate::pods::{in_pod, missing, script};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn parse(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done}"))
}

/// What doctor says in a pod, and whether a build with RUN succeeded there.
fn examine(lab: &Lab, cell: &str, patch: Option<&Value>) -> (Value, bool, String) {
    if !lab.path("context/busybox.tar").exists() {
        lab.write("context/busybox.tar", crate::harness::busybox_tar());
    }
    lab.write("context/Dockerfile", "FROM localhost/busybox\nRUN cat /proc/self/uid_map\n");
    let shell = "rbuild doctor --json; echo \"code $?\"; cd /context && rbuild import busybox.tar localhost/busybox >/dev/null \
        && rbuild bud -t localhost/x --ignorefile=/dev/null . 2>&1"
        .to_owned();
    let options: &[&str] = if patch.is_some() { &["--patch", "-"] } else { &[] };
    let run = in_pod(lab, cell, options, &shell);
    let done = run.input(patch.map(Value::to_string).unwrap_or_default()).output();
    let (report, built) = done.stdout.split_once("code ").unwrap_or_else(|| panic!("{done}"));
    let report: Value = serde_json::from_str(report).unwrap_or_else(|e| panic!("{e}: {done}"));
    let runs = report["runs"].as_bool().expect("a verdict");
    assert!(built.starts_with(if runs { "0\n" } else { "1\n" }), "the exit code is the verdict: {done}");
    (report, done.code == 0, built.to_owned())
}

fn finding<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let all = report["findings"].as_array().expect("findings");
    let one = all.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no finding `{name}`"));
    (one["state"].as_str().expect("a state"), one["text"].as_str().expect("a text"))
}

/// Rung and ids of a report, and of one of its promises.
fn level(report: &Value) -> (String, String) {
    let of = |key: &str| report[key].as_str().unwrap_or_else(|| panic!("no `{key}`: {report}")).to_owned();
    (of("rung"), of("ids"))
}

/// Examines a cell, then every patch that is offered there.
fn promises_hold(cell: &str) -> Value {
    let lab = Lab::new();
    let (report, built, output) = examine(&lab, cell, None);
    assert_eq!(report["runs"].as_bool(), Some(built), "{cell}: the verdict is that of the build: {report:#}\n{output}");
    assert_eq!(output.contains("(`--isolation trace`"), report["isolation"]["rung"] == "trace", "{cell}: {output}");
    let better = report["better"].as_array().expect("a list");
    assert!(built || !better.is_empty(), "{cell}: a way out is offered: {report:#}");
    assert_eq!(report["patch"], better.first().map_or(Value::Null, |b| b["patch"].clone()));
    for promise in better {
        let (there, built, output) = examine(&lab, cell, Some(&promise["patch"]));
        assert!(built, "{cell}: {promise:#}\nled to {there:#}\n{output}");
        assert_eq!(level(&there["isolation"]), level(promise), "{cell}: {promise:#}\nled to {there:#}");
        let driver = if promise["rung"] == "trace" { "copy" } else { "overlay" };
        assert_eq!(there["storage"]["driver"], driver, "{cell}: {promise:#}");
        // What the build itself says of its rung.
        let supervised = output.contains("(`--isolation trace`");
        assert_eq!(supervised, promise["rung"] == "trace", "{cell}: {output}");
        let ranged = output.contains("65536") || output.contains("4294967295");
        assert_eq!(ranged || supervised, promise["ids"] != "one", "{cell}: the ids of a step: {output}");
    }
    report
}

#[test]
fn patches_reach_what_they_promise_in_restricted_pods() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    let report = promises_hold("restricted/emptydir");
    let better = report["better"].as_array().expect("a list");
    let ids: Vec<&Value> = better.iter().map(|b| &b["ids"]).collect();
    assert_eq!(ids, ["one", "range", "pod"]);
    assert_eq!(better[0]["podSecurity"], "restricted");
    let (state, text) = finding(&report, "newuidmap");
    assert!(state == "no" && text.contains("allowPrivilegeEscalation") && text.contains("SETUID"), "{text}");
    promises_hold("openshift/readonly");
}

#[test]
fn patches_reach_what_they_promise_for_root() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    for cell in ["baseline/emptydir", "hostusers/emptydir", "default/rootfs"] {
        promises_hold(cell);
    }
}

#[test]
fn patches_reach_what_they_promise_where_namespaces_are_allowed() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    for cell in ["localhost/emptydir", "localhost/rootfs", "rootless/fuse"] {
        promises_hold(cell);
    }
    for cell in ["rootless/emptydir", "hostusers-admin/emptydir", "privileged/emptydir", "default/readonly"] {
        let report = promises_hold(cell);
        assert_eq!(report["better"], json!([]), "{cell}");
    }
}

/// Minutes long: `cargo test --test it every_cell -- --ignored --nocapture`.
#[test]
#[ignore = "all 36 cells, with all patches of each, take minutes"]
fn patches_reach_what_they_promise_in_every_cell() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    for cell in Run::new("python3", [script()]).arg("--list").ok().stdout.lines() {
        let report = promises_hold(cell);
        let (rung, ids) = level(&report["isolation"]);
        let better = report["better"].as_array().map_or(0, Vec::len);
        println!("{cell}: {rung}, {ids}, {}; {better} patches hold", report["storage"]["driver"]);
    }
}

#[test]
fn why_newuidmap_fails() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    let lab = Lab::new();
    let tool = lab.write("newuidmap", "not a program");
    use std::os::unix::fs::PermissionsExt as _;
    let says = |mode: u32, options: &[&str], shell: &str| {
        std::os::unix::fs::chown(&tool, Some(0), Some(0)).expect("chown");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let volume = format!("{}:/usr/bin/newuidmap", tool.display());
        let options: Vec<&str> = options.iter().map(|o| if *o == "TOOL" { &volume } else { *o }).collect();
        let report = parse(&in_pod(&lab, "rootless/emptydir", &options, shell).output());
        let (state, text) = finding(&report, "newuidmap");
        format!("{state}: {text}")
    };
    let doctor = "rbuild doctor --json";
    assert_eq!(says(0o755, &[], doctor), "yes: gives a range of ids");
    let text = says(0o4755, &["-v", "TOOL"], doctor);
    assert!(text.contains("setuid-root") && text.contains("cap_setuid=ep"), "{text}");
    let text = says(0o755, &["-v", "TOOL"], doctor);
    assert!(text.contains("has no file capability"), "{text}");
    let text = says(0o755, &[], "PATH=/nowhere /usr/local/bin/rbuild doctor --json");
    assert!(text.contains("`newuidmap` is not installed"), "{text}");
    let patch = json!({"spec": {"containers": [{"name": "rbuild", "securityContext": {"runAsUser": 4321}}]}});
    let run = in_pod(&lab, "rootless/emptydir", &["--patch", "-"], doctor).input(patch.to_string());
    let report = parse(&run.output());
    assert!(finding(&report, "newuidmap").1.contains("no range for user 4321"), "{report:#}");
}

#[test]
fn the_report_has_what_its_readers_rely_on() {
    require!("newuidmap");
    let lab = Lab::new();
    let done = lab.rbuild(["doctor", "--json"]).output();
    let report = parse(&done);
    assert_eq!(report["schema"], 1);
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&report), "schema runs isolation storage trial findings patch better");
    assert_eq!(keys(&report["isolation"]), "rung ids reason");
    assert_eq!(keys(&report["storage"]), "root filesystem driver reason");
    assert_eq!(keys(&report["trial"]), "milliseconds error hint warnings");
    let findings = report["findings"].as_array().expect("a list");
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for finding in findings {
        assert_eq!(keys(finding), "name state text");
        let state = finding["state"].as_str().expect("a state");
        assert!(["yes", "partly", "no"].contains(&state));
        names.insert(finding["name"].as_str().expect("a name"), state);
    }
    let wanted = [
        "user",
        "user-namespace",
        "ids",
        "newuidmap",
        "mount",
        "proc",
        "label",
        "fuse",
        "seccomp-supervisor",
        "ptrace",
        "landlock",
        "emulators",
        "cgroup",
        "storage",
        "space",
        "inodes",
        "clock",
        "dns",
    ];
    let missing: Vec<&&str> = wanted.iter().filter(|n| !names.contains_key(**n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The builder's own words, and nothing left behind.
    let info: Value = parse(&lab.rbuild(["info"]).ok());
    assert_eq!(info["isolation"]["reason"], report["isolation"]["reason"]);
    assert_eq!(report["runs"], done.code == 0);
    let left = std::fs::read_dir(lab.store().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the trial leaves nothing in the store");
    let text = lab.rbuild(["doctor"]).output();
    assert!(text.stdout.starts_with("isolation  ") && text.stdout.contains("\n+ clock"), "{text}");
}

#[test]
fn patches_as_text_are_those_of_the_report() {
    require!(if missing().is_some(), missing().unwrap_or_default());
    require!(if which("kubectl").is_none() && std::env::var_os("CI").is_none(), "`kubectl` is not installed");
    if which("kubectl").is_none() {
        return;
    }
    let lab = Lab::new();
    let text = in_pod(&lab, "restricted/rootfs", &[], "rbuild doctor --container rbuild").output().stdout;
    let report = parse(&in_pod(&lab, "restricted/rootfs", &[], "rbuild doctor --json").output());
    let pod = Run::new("python3", [script()]).args(["--show", "restricted/rootfs"]).ok().stdout;
    let pod = lab.write("pod.json", pod);
    let patched = |flag: &str, patch: &str| {
        let run = Run::new("kubectl", ["patch", "--local", "--type", "strategic", "-o", "json", "-f"]).arg(&pod);
        parse(&run.args([flag, patch]).ok())
    };
    let better = report["better"].as_array().expect("a list");
    let blocks: Vec<String> = text
        .split("\nto get ")
        .skip(1)
        .map(|block| {
            let lines = block.lines().skip_while(|l| !l.starts_with("    ")).take_while(|l| l.starts_with("    "));
            lines.map(|l| format!("{}\n", &l[4..])).collect()
        })
        .collect();
    assert_eq!((blocks.len(), better.len()), (3, 3), "{text}");
    for (yaml, wanted) in blocks.iter().zip(better) {
        let file = lab.write("patch.yaml", yaml);
        let by_yaml = patched("--patch-file", file.to_str().expect("a path that is text"));
        assert_eq!(by_yaml, patched("-p", &wanted["patch"].to_string()), "{yaml}");
        // The harness merges as kubectl does.
        let run = Run::new("python3", [script()]).args(["--show", "--patch", "-", "restricted/rootfs"]);
        let ours = parse(&run.input(wanted["patch"].to_string()).ok());
        assert_eq!(ours["spec"]["volumes"], by_yaml["spec"]["volumes"]);
        let context = |v: &Value| v["spec"]["containers"][0]["securityContext"].clone();
        assert_eq!(context(&ours), context(&by_yaml));
    }
}

#[test]
fn messages_are_explained() {
    let lab = Lab::new();
    let done = lab.rbuild(["doctor", "--explain", "unshare(CLONE_NEWUSER): Operation not permitted"]).ok();
    assert!(
        done.stdout.contains("seccomp profile") && done.stdout.contains("localhostProfile: profiles/rbuild-pod.json")
    );
    let row = parse(&lab.rbuild(["doctor", "--json", "--container", "c", "--explain", "fuse: device not found"]).ok());
    assert_eq!((&row["name"], &row["patch"]["spec"]["containers"][0]["name"]), (&json!("fuse"), &json!("c")));
    let row = parse(&lab.rbuild(["doctor", "--json", "--explain", "exec format error"]).ok());
    assert_eq!(row["patch"], Value::Null);
    let done = lab.rbuild(["doctor", "--explain", "nothing at all"]).output();
    assert!(done.code == 1 && done.stdout.is_empty() && done.stderr.contains("not known"), "{done}");
}

#[test]
fn a_registry_is_asked_when_it_is_named() {
    require!("docker-registry");
    require!(if busybox_is_missing().is_some(), "`busybox-static` is not installed");
    let lab = Lab::new();
    lab.import_busybox();
    let registry = Registry::start();
    let name = format!("{}/a/b:1", registry.host());
    lab.rbuild(["push", "busybox"]).arg(format!("docker://{name}")).ok();
    let of = |image: &str| parse(&lab.rbuild(["doctor", "--json", "--registry", image]).output());
    let report = of(&name);
    let (state, text) = finding(&report, "registry");
    assert!(state == "yes" && text.contains("sha256:"), "{text}");
    let report = of(&format!("{}/none:1", registry.host()));
    assert_eq!(finding(&report, "registry").0, "no");
    drop(registry);
    assert_eq!(finding(&of(&name), "registry").0, "no");
    let report = parse(&lab.rbuild(["doctor", "--json"]).output());
    assert!(!report["findings"].as_array().expect("a list").iter().any(|f| f["name"] == "registry"));
}
