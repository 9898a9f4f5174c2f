//! What is linked, under which licence, and that `docs/dependencies.md` says so.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences that code linked into the binary may be under.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// `cargo metadata` for the target that is built, from what is already on this machine.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cannot run cargo metadata");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Whether a licence expression (SPDX; `/` is the old form of OR) can be met by allowed licences alone.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    words.reverse();
    let result = any_of(&mut words);
    result && words.is_empty()
}

fn any_of(words: &mut Vec<&str>) -> bool {
    let mut result = all_of(words);
    while words.last() == Some(&"OR") {
        words.pop();
        result |= all_of(words);
    }
    result
}

fn all_of(words: &mut Vec<&str>) -> bool {
    let mut result = one(words);
    while words.last() == Some(&"AND") {
        words.pop();
        result &= one(words);
    }
    result
}

fn one(words: &mut Vec<&str>) -> bool {
    match words.pop() {
        Some("(") => {
            let result = any_of(words);
            words.pop() == Some(")") && result
        }
        Some(name) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().unwrap_or_default();
            ALLOWED.contains(&format!("{name} WITH {exception}").as_str())
        }
        Some(name) => ALLOWED.contains(&name),
        None => false,
    }
}

#[test]
fn licence_expressions() {
    for good in
        ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(allowed(good), "{good}");
    }
    for bad in ["", "GPL-2.0", "MIT AND MPL-2.0", "LGPL-2.1 OR MPL-2.0", "(MIT", "MIT WITH Strange-exception"] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn every_linked_crate_is_permissive() {
    let metadata = metadata();
    let packages: BTreeMap<&str, &Value> =
        metadata["packages"].as_array().expect("packages").iter().map(|p| (text(p, "id"), p)).collect();
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().expect("nodes").iter().map(|n| (text(n, "id"), n)).collect();
    let root = text(&metadata["resolve"], "root");
    let mut seen = BTreeSet::from([root]);
    let mut pending = vec![root];
    while let Some(id) = pending.pop() {
        for dep in nodes[id]["deps"].as_array().expect("deps") {
            let linked = dep["dep_kinds"].as_array().expect("kinds").iter().any(|k| text(k, "kind") != "dev");
            if linked && seen.insert(text(dep, "pkg")) {
                pending.push(text(dep, "pkg"));
            }
        }
    }
    assert!(seen.len() > 50, "found only {} crates", seen.len());
    let wrong: Vec<String> = seen
        .iter()
        .map(|id| packages[id])
        .filter(|p| !allowed(text(p, "license")))
        .map(|p| format!("{} {}: `{}`", text(p, "name"), text(p, "version"), text(p, "license")))
        .collect();
    assert!(wrong.is_empty(), "crates under licences that are not allowed:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_of_dependencies_is_complete() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let root = packages.iter().find(|p| text(p, "name") == "rbuild").expect("rbuild itself");
    let licences: BTreeMap<&str, &str> = packages.iter().map(|p| (text(p, "name"), text(p, "license"))).collect();
    let direct = |dev: bool| -> BTreeSet<(String, String)> {
        let deps = root["dependencies"].as_array().expect("dependencies");
        let of_kind = deps.iter().filter(|d| (text(d, "kind") == "dev") == dev);
        of_kind.map(|d| text(d, "name")).map(|name| (name.to_owned(), licences[name].to_owned())).collect()
    };
    let doc = include_str!("../../docs/dependencies.md");
    let (linked, tests) = doc.split_once("## Tests only").expect("a section `## Tests only`");
    let rows = |section: &str| -> BTreeSet<(String, String)> {
        let cells = section.lines().filter_map(|l| l.strip_prefix("| ")).map(|l| l.split(" | ").collect::<Vec<_>>());
        let rows = cells.filter(|c| c.len() == 3 && c[0] != "crate");
        rows.inspect(|c| assert!(c[2].len() > 5, "no reason for {}", c[0]))
            .map(|c| (c[0].into(), c[1].into()))
            .collect()
    };
    assert_eq!(rows(linked), direct(false), "docs/dependencies.md (left) and Cargo.toml (right) differ");
    assert_eq!(
        rows(tests),
        direct(true),
        "docs/dependencies.md (left) and Cargo.toml's dev-dependencies (right) differ"
    );
}
