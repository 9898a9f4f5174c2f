//! Warnings of registries reach those who build.

use crate::harness::{Done, Lab, Registry, require};

#[test]
fn each_warning_is_shown_once_and_harmlessly() {
    require!("docker-registry");
    let headers = r#"{Warning: ['299 - "this repository moves: say \"hi\""', '110 - "stale"']}"#;
    let (lab, registry) = (Lab::new(), Registry::with_headers(headers));
    lab.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let name = format!("{}/app:1", registry.host());
    let said = |done: &Done, what: &str| {
        let line = format!("warning: registry `{}`: this repository moves: say \"hi\"\n", registry.host());
        assert_eq!(done.stderr.matches(&line).count(), 1, "{what}: {done}");
        assert!(!done.stderr.contains("stale") && !done.stdout.contains("moves"), "{what}: {done}");
    };
    said(&lab.rbuild(["bud", "-t", &format!("docker://{name}"), "context"]).ok(), "a build that pushes");
    lab.rbuild(["bud", "-t", "app", "context"]).ok();
    said(&lab.rbuild(["push", "app", &name]).ok(), "a push");
    said(&lab.rbuild(["pull", &format!("docker://{name}")]).ok(), "a pull");
    let from = format!("FROM {name}\nCOPY --from={name} / /x\n");
    said(&lab.rbuild(["bud", "--pull=always", "-f", "-", "context"]).input(from).ok(), "a build that pulls");
}
