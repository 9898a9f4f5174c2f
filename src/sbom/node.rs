//! JavaScript: packages below `node_modules`, and npm's lock files.
//!
//! Format of the lock file: <https://docs.npmjs.com/cli/configuring-npm/package-lock-json>.

use super::{Ecosystem, Package};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Whether `package.json` at this path is that of an installed package: `…/node_modules/[@scope/]name/package.json`.
pub(super) fn is_installed(path: &str) -> bool {
    let Some(dir) = path.strip_suffix("/package.json") else { return false };
    let below = match dir.rfind("node_modules/") {
        Some(0) => dir.get("node_modules/".len()..),
        Some(at) if dir.as_bytes().get(at - 1) == Some(&b'/') => dir.get(at + "node_modules/".len()..),
        _ => None,
    };
    below.is_some_and(is_name)
}

/// `name` or `@scope/name`.
fn is_name(name: &str) -> bool {
    let parts = name.split('/').count();
    !name.is_empty() && parts == if name.starts_with('@') { 2 } else { 1 }
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    license: Option<Value>,
}

/// The package of a `package.json`; `None` where it names none, as the files that mark directories do.
///
/// # Errors
/// It is not such a file.
pub(super) fn manifest(bytes: &[u8]) -> Result<Option<Package>, serde_json::Error> {
    let manifest: Manifest = serde_json::from_slice(bytes)?;
    let (Some(name), Some(version)) = (manifest.name, manifest.version) else { return Ok(None) };
    Ok(Some(Package { licence: licence(manifest.license), ..Package::new(Ecosystem::Npm, name, version) }))
}

/// A text, or the object of old with a `type`.
fn licence(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        Value::Object(map) => map.get("type").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Lock {
    /// Since version 2: by path below the project.
    #[serde(default)]
    packages: BTreeMap<String, Locked>,
    /// Version 1: by name.
    #[serde(default)]
    dependencies: BTreeMap<String, Locked>,
}

#[derive(Deserialize)]
struct Locked {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    license: Option<Value>,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    dependencies: Option<Value>,
}

/// The packages of a lock file.
///
/// # Errors
/// It is not such a file.
pub(super) fn lock(bytes: &[u8]) -> Result<Vec<Package>, serde_json::Error> {
    let lock: Lock = serde_json::from_slice(bytes)?;
    let mut all = vec![];
    for (path, entry) in &lock.packages {
        // The project itself and its workspaces are not below `node_modules`.
        let Some((_, below)) = path.rsplit_once("node_modules/") else { continue };
        let name = entry.name.clone().unwrap_or_else(|| below.to_owned());
        if !entry.link && is_name(&name) {
            all.extend(locked(name, entry));
        }
    }
    if lock.packages.is_empty() {
        let mut pending: Vec<(String, Locked)> = lock.dependencies.into_iter().collect();
        while let Some((name, mut entry)) = pending.pop() {
            let below = entry.dependencies.take();
            all.extend(locked(name, &entry));
            // In version 2 this member holds texts, and then there are `packages`.
            let below = below.and_then(|v| serde_json::from_value::<BTreeMap<String, Locked>>(v).ok());
            pending.extend(below.unwrap_or_default());
        }
    }
    Ok(all)
}

fn locked(name: String, entry: &Locked) -> Option<Package> {
    // A version can be the address of an archive or a repository.
    let version = entry.version.clone().filter(|v| !v.contains(':'))?;
    Some(Package { licence: licence(entry.license.clone()), ..Package::new(Ecosystem::Npm, name, version) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(all: &[Package]) -> Vec<String> {
        let mut all: Vec<String> = all.iter().map(|p| format!("{}@{}", p.name, p.version)).collect();
        all.sort();
        all
    }

    #[test]
    fn only_the_roots_of_packages_are_packages() {
        for (path, good) in [
            ("app/node_modules/a/package.json", true),
            ("node_modules/@s/a/package.json", true),
            ("app/node_modules/a/node_modules/b/package.json", true),
            ("app/node_modules/a/lib/package.json", false),
            ("app/node_modules/@s/package.json", false),
            ("app/package.json", false),
            ("app/xnode_modules/a/package.json", false),
        ] {
            assert_eq!(is_installed(path), good, "{path}");
        }
        let package = manifest(br#"{"name":"a","version":"1","license":{"type":"ISC"}}"#).unwrap().unwrap();
        assert_eq!(package.licence.as_deref(), Some("ISC"));
        assert!(manifest(br#"{"type":"module"}"#).unwrap().is_none());
        assert!(manifest(b"[1").is_err());
    }

    #[test]
    fn both_forms_of_lock_files_are_read() {
        let new = br#"{"lockfileVersion":3,"packages":{"":{"name":"app","version":"0"},
            "node_modules/a":{"version":"1.0.0","license":"MIT"},"node_modules/a/node_modules/@s/b":{"version":"2.0.0"},
            "node_modules/w":{"link":true,"resolved":"w"},"w":{"version":"9"}},
            "dependencies":{"x":{"version":"1"}}}"#;
        assert_eq!(short(&lock(new).unwrap()), ["@s/b@2.0.0", "a@1.0.0"]);
        let old = br#"{"dependencies":{"a":{"version":"1","dependencies":{"b":{"version":"2"}}},
            "g":{"version":"git+https://x/y#1"}}}"#;
        assert_eq!(short(&lock(old).unwrap()), ["a@1", "b@2"]);
        let deep = format!("{}1{}", "{\"dependencies\":{\"a\":".repeat(5000), "}}".repeat(5000));
        assert!(lock(deep.as_bytes()).is_err());
    }
}
