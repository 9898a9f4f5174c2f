//! Lock files of Rust, Go, Ruby, PHP and Python's Poetry.

use super::{Ecosystem, Package};
use serde::Deserialize;

#[derive(Deserialize)]
struct Toml {
    #[serde(default)]
    package: Vec<TomlPackage>,
}

#[derive(Deserialize)]
struct TomlPackage {
    name: String,
    version: String,
}

/// `Cargo.lock` and `poetry.lock`: tables `[[package]]`. `None`: not such a file.
pub(super) fn toml(ecosystem: Ecosystem, bytes: &[u8]) -> Option<Vec<Package>> {
    let lock: Toml = toml::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
    Some(lock.package.into_iter().map(|p| Package::new(ecosystem, p.name, p.version)).collect())
}

/// `go.mod`: what `require` lists. Format: <https://go.dev/ref/mod#go-mod-file>.
pub(super) fn go_mod(lines: &mut dyn FnMut() -> Option<String>) -> Vec<Package> {
    let mut all = vec![];
    let mut block = String::new();
    while let Some(line) = lines() {
        let line = line.split("//").next().unwrap_or_default().trim().to_owned();
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let (directive, path, version) = match (block.as_str(), first) {
            (_, ")") => {
                block.clear();
                continue;
            }
            ("", verb) => match words.next() {
                Some("(") => {
                    block = verb.to_owned();
                    continue;
                }
                path => (verb, path, words.next()),
            },
            (verb, path) => (verb, Some(path), words.next()),
        };
        if let ("require", Some(path), Some(version)) = (directive, path, version) {
            all.push(Package::new(Ecosystem::Golang, path.trim_matches('"'), version));
        }
    }
    all
}

/// `Gemfile.lock`: the lines of four blanks below `specs:`.
pub(super) fn gemfile(lines: &mut dyn FnMut() -> Option<String>) -> Vec<Package> {
    let mut all = vec![];
    let mut inside = false;
    while let Some(line) = lines() {
        if !line.starts_with(' ') {
            inside = line == "GEM";
            continue;
        }
        let Some(entry) = line.strip_prefix("    ").filter(|e| inside && !e.starts_with(' ')) else { continue };
        let Some((name, rest)) = entry.split_once(" (") else { continue };
        let Some(version) = rest.strip_suffix(')') else { continue };
        // `1.15.0-x86_64-linux`: the platform is no part of the version.
        let version = version.split('-').next().unwrap_or_default();
        all.push(Package::new(Ecosystem::Gem, name, version));
    }
    all
}

/// An installed gem, by the name of its specification: `specifications/rack-3.0.8.gemspec`.
pub(super) fn gemspec(path: &str) -> Option<Package> {
    let (dir, file) = path.rsplit_once('/')?;
    if dir.rsplit('/').next() != Some("specifications") && !dir.ends_with("/specifications/default") {
        return None;
    }
    let stem = file.strip_suffix(".gemspec")?;
    let at = stem
        .match_indices('-')
        .map(|(at, _)| at)
        .find(|at| stem.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit))?;
    let version = stem.get(at + 1..)?.split('-').next()?;
    Some(Package::new(Ecosystem::Gem, stem.get(..at)?, version))
}

#[derive(Deserialize)]
struct Composer {
    #[serde(default)]
    packages: Vec<ComposerPackage>,
    #[serde(default, rename = "packages-dev")]
    dev: Vec<ComposerPackage>,
}

#[derive(Deserialize)]
struct ComposerPackage {
    name: String,
    version: String,
    #[serde(default)]
    license: Vec<String>,
}

/// `composer.lock` and `vendor/composer/installed.json`. `None`: not such a file.
pub(super) fn composer(bytes: &[u8]) -> Option<Vec<Package>> {
    let lock: Composer = serde_json::from_slice(bytes).ok()?;
    let package = |p: ComposerPackage| Package {
        // Several are a choice.
        licence: (!p.license.is_empty()).then(|| p.license.join(" OR ")),
        ..Package::new(Ecosystem::Composer, p.name, p.version)
    };
    Some(lock.packages.into_iter().chain(lock.dev).map(package).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(all: Vec<Package>) -> Vec<String> {
        all.iter().map(|p| format!("{}@{}", p.name, p.version)).collect()
    }

    fn from(text: &str) -> impl FnMut() -> Option<String> {
        let mut lines = text.lines();
        move || lines.next().map(str::to_owned)
    }

    #[test]
    fn each_is_read() {
        let cargo = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\n";
        assert_eq!(short(toml(Ecosystem::Cargo, cargo.as_bytes()).unwrap()), ["a@1.0.0"]);
        assert!(toml(Ecosystem::Cargo, b"[[package").is_none());
        let go = "module x\nrequire example.org/a v1.0.0 // indirect\nrequire (\n\texample.org/b v2.0.0\n)\n\
                  replace (\n example.org/a => ../a\n)\nexclude example.org/c v1.0.0\n";
        assert_eq!(short(go_mod(&mut from(go))), ["example.org/a@v1.0.0", "example.org/b@v2.0.0"]);
        let gem = "GEM\n  remote: https://x/\n  specs:\n    nokogiri (1.15.0-x86_64-linux)\n      racc (~> 1.4)\n    racc (1.7.1)\n\n\
                   PLATFORMS\n    x (1)\n";
        assert_eq!(short(gemfile(&mut from(gem))), ["nokogiri@1.15.0", "racc@1.7.1"]);
        let spec = |path| gemspec(path).map(|p| format!("{}@{}", p.name, p.version));
        assert_eq!(spec("usr/lib/specifications/net-http-0.3.2.gemspec").as_deref(), Some("net-http@0.3.2"));
        assert_eq!(spec("usr/lib/x/rack-1.gemspec"), None);
        let php =
            br#"{"packages":[{"name":"v/a","version":"1.0","license":["MIT","GPL-2.0-only"]}],"packages-dev":[]}"#;
        assert_eq!(composer(php).unwrap()[0].licence.as_deref(), Some("MIT OR GPL-2.0-only"));
    }
}
