//! What users deploy: the manifests and the profiles for nodes.

use crate::harness::cannot_run;
use std::{fs, path::Path, process::Command};

/// Runs the checker of manifests, on all of them or on one; `None` where it cannot run, with the reason printed.
fn check(manifest: Option<&Path>) -> Option<(bool, String)> {
    let ready = Command::new("python3").args(["-c", "import yaml, kubernetes_validate"]).output();
    if !ready.is_ok_and(|o| o.status.success()) {
        cannot_run("python3 with PyYAML and PyPI's kubernetes-validate is not here");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manifests/check.py");
    let out = Command::new("python3").arg(script).args(manifest).output().unwrap();
    Some((out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned()))
}

#[test]
fn manifests_are_valid_and_meet_the_standard_that_they_claim() {
    let Some((passed, text)) = check(None) else { return };
    assert!(passed, "{text}");
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes")).unwrap().count();
    assert_eq!(text.matches("ok ").count(), files, "{text}");
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let good =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes/job-restricted.yaml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (from, to, complaint) in [
        ("runAsNonRoot", "runAsNonRot", "runAsNonRot"),
        ("drop: [ALL]", "drop: [NET_RAW]", "not restricted: rbuild has capabilities"),
        ("drop: [ALL]", "drop: [ALL], add: [SYS_ADMIN]", "not restricted: rbuild adds ['SYS_ADMIN']"),
        ("Standard: restricted", "Standard: baseline", "claims baseline, and is restricted"),
        ("emptyDir: {sizeLimit: 8Gi}", "emptyDir: {}", "volume work has no sizeLimit"),
        ("configMap: {name: hello-context}", "hostPath: {path: /}", "volume context is a hostPath"),
    ] {
        let path = dir.path().join("job.yaml");
        let spoilt = good.replacen(from, to, 1);
        assert_ne!(spoilt, good, "{from}");
        fs::write(&path, spoilt).unwrap();
        let Some((passed, text)) = check(Some(&path)) else { return };
        assert!(!passed && text.contains(complaint), "{to}: {text}");
    }
}

#[test]
fn the_apparmor_profile_parses() {
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/apparmor/rbuild-pod");
    match Command::new("apparmor_parser").args(["--skip-kernel-load", "--skip-cache", profile]).output() {
        Err(e) => cannot_run(&format!("apparmor_parser: {e}")),
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
    }
}
