//! Source policies: which images a build may use, and what it uses in place of others.
//!
//! The format is BuildKit's JSON. Each rule has a selector and an action, and is asked in order:
//!
//! ```json
//! {"version": 1, "rules": [
//!   {"action": "DENY", "selector": {"identifier": "*"}},
//!   {"action": "ALLOW", "selector": {"identifier": "docker-image://docker.io/library/*"}},
//!   {"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/golang:*"},
//!    "updates": {"identifier": "docker-image://mirror.example/golang:${1}"}}
//! ]}
//! ```
//!
//! Of ALLOW and DENY the last that matches counts; without any, a source is allowed. A CONVERT that changes the source
//! ends the round: everything is asked again for the new one. Identifiers are complete: `docker-image://` and a name with
//! registry and tag; the address of a file, or `git://` and that of a repository. Build contexts are not asked about.

use super::GitUrl;
use crate::error::{Classified, Kind, kind_of_io};
use crate::oci::Reference;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// In front of the names of images.
const IMAGE: &str = "docker-image://";
/// Most conversions of one source: more are taken for a circle.
const MOST_CONVERSIONS: usize = 20;
/// Longest policy file that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// Why a policy cannot be used, or what it forbids.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read source policy `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The file is not a policy.
    #[error("cannot parse source policy `{}`: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A rule forbids the source.
    #[error("source `{0}` is denied by the source policy")]
    Denied(String),
    /// Rules convert in a circle.
    #[error("the source policy converts `{0}` more than {MOST_CONVERSIONS} times")]
    Circle(String),
    /// Something else than an image is to be converted.
    #[error("the source policy converts `{from}` to `{to}`, but only images can be converted")]
    NotConverted {
        /// The source.
        from: String,
        /// What it is to become.
        to: String,
    },
    /// An image became something else.
    #[error("the source policy converts image `{from}` to `{to}`, which is no image")]
    NoImage {
        /// The image.
        from: String,
        /// What it became.
        to: String,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Read { error, .. } => kind_of_io(error),
            Error::Denied(_) => Kind::Denied,
            Error::NotConverted { .. } => Kind::Unsupported,
            Error::Parse { .. } | Error::Circle(_) | Error::NoImage { .. } => Kind::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Denied(_) => Some("use another image, or add an ALLOW rule for it behind those that deny it".into()),
            Error::Circle(_) => Some("let the selector of each CONVERT not match what it converts to".into()),
            Error::NotConverted { .. } => Some("write the other address into the Dockerfile".into()),
            Error::NoImage { .. } => Some(format!("write `{IMAGE}NAME` as the identifier of `updates`")),
            Error::Read { .. } | Error::Parse { .. } => None,
        }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<FileRule>,
}

#[derive(Deserialize)]
struct FileRule {
    #[serde(default)]
    action: Action,
    selector: Selector,
    updates: Option<Updates>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Action {
    #[default]
    Allow,
    Deny,
    Convert,
}

#[derive(Deserialize)]
struct Selector {
    identifier: String,
    #[serde(default, rename = "matchType", alias = "match_type")]
    match_type: MatchType,
    #[serde(default)]
    constraints: Vec<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum MatchType {
    #[default]
    Wildcard,
    Exact,
    Regex,
}

#[derive(Default, Deserialize)]
struct Updates {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// How policies call a repository: `git://HOST/PATH#REF:DIR`, whatever protocol reaches it.
pub fn git_identifier(url: &GitUrl) -> String {
    let text = url.to_string();
    let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
    format!("git://{rest}")
}

/// Rules of one or more files.
#[derive(Debug, Default)]
pub struct Policy {
    files: Vec<Vec<Rule>>,
}

#[derive(Debug)]
struct Rule {
    action: Action,
    identifier: String,
    pattern: Option<Regex>,
    /// Whether the pattern is to match the whole identifier.
    whole: bool,
    becomes: String,
}

impl Rule {
    fn matches(&self, identifier: &str) -> bool {
        self.identifier == identifier || self.pattern.as_ref().is_some_and(|p| p.is_match(identifier))
    }

    /// What a CONVERT makes of an identifier that matches.
    fn convert(&self, identifier: &str) -> String {
        match &self.pattern {
            _ if self.becomes.is_empty() => identifier.to_owned(),
            None => self.becomes.clone(),
            Some(pattern) if self.whole => match pattern.captures(identifier) {
                Some(found) => {
                    let mut out = String::new();
                    found.expand(&self.becomes, &mut out);
                    out
                }
                None => self.becomes.clone(),
            },
            Some(pattern) => pattern.replace_all(identifier, self.becomes.as_str()).into_owned(),
        }
    }
}

impl Policy {
    /// Reads policy files. All of them apply: a source that one of them denies is denied.
    ///
    /// # Errors
    /// A file that cannot be read or is no policy.
    pub fn read(paths: &[PathBuf]) -> Result<Policy, Error> {
        let read = |path: &PathBuf| {
            let failed = |error| Error::Read { path: path.clone(), error };
            let file = std::fs::File::open(path).map_err(failed)?;
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(file, LONGEST), &mut text).map_err(failed)?;
            rules(path, &text)
        };
        Ok(Policy { files: paths.iter().map(read).collect::<Result<_, _>>()? })
    }

    /// The image to use in place of the one that a Dockerfile names; `None`: that one.
    ///
    /// # Errors
    /// Where it must not be used.
    pub fn image(&self, name: &str) -> Result<Option<Reference>, Error> {
        if self.files.is_empty() {
            return Ok(None);
        }
        let Ok(reference) = name.parse::<Reference>() else { return Ok(None) };
        let reference = reference.docker_normalized();
        let full = if reference.digest.is_some() { reference } else { reference.with_default_tag() };
        let identifier = format!("{IMAGE}{full}");
        let converted = self.decide(&identifier)?;
        if converted == identifier {
            return Ok(None);
        }
        let wrong = || Error::NoImage { from: identifier.clone(), to: converted.clone() };
        let image = converted.strip_prefix(IMAGE).and_then(|i| i.parse::<Reference>().ok()).ok_or_else(wrong)?;
        Ok(Some(image.docker_normalized()))
    }

    /// Asks about a source that is no image, which cannot be converted.
    ///
    /// # Errors
    /// Where it must not be used as it is.
    pub fn keep(&self, identifier: &str) -> Result<(), Error> {
        let to = self.decide(identifier)?;
        if to == identifier { Ok(()) } else { Err(Error::NotConverted { from: identifier.to_owned(), to }) }
    }

    /// What becomes of a source.
    ///
    /// # Errors
    /// Where it must not be used.
    pub fn decide(&self, identifier: &str) -> Result<String, Error> {
        let mut now = identifier.to_owned();
        for _ in 0..=MOST_CONVERSIONS {
            match self.round(&now)? {
                Some(next) => now = next,
                None => return Ok(now),
            }
        }
        Err(Error::Circle(identifier.to_owned()))
    }

    /// What the first CONVERT that changes it makes of the source.
    fn round(&self, identifier: &str) -> Result<Option<String>, Error> {
        for rules in &self.files {
            let mut denied = false;
            for rule in rules.iter().filter(|r| r.matches(identifier)) {
                match rule.action {
                    Action::Allow => denied = false,
                    Action::Deny => denied = true,
                    Action::Convert => {
                        let next = rule.convert(identifier);
                        if next != identifier {
                            return Ok(Some(next));
                        }
                    }
                }
            }
            if denied {
                return Err(Error::Denied(identifier.to_owned()));
            }
        }
        Ok(None)
    }
}

fn rules(path: &Path, text: &str) -> Result<Vec<Rule>, Error> {
    let wrong = |message: String| Error::Parse { path: path.to_owned(), message };
    let file: File = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    if file.version > 1 {
        return Err(wrong(format!("version {} is not known: expected 1", file.version)));
    }
    file.rules.into_iter().map(|r| rule(r).map_err(wrong)).collect()
}

fn rule(rule: FileRule) -> Result<Rule, String> {
    let FileRule { action, selector, updates } = rule;
    let identifier = selector.identifier;
    if !selector.constraints.is_empty() {
        return Err(format!("the rule for `{identifier}` has constraints on attributes, which are not supported"));
    }
    let updates = match (action, updates) {
        (Action::Convert, None) => return Err(format!("the CONVERT rule for `{identifier}` has no `updates`")),
        (_, updates) => updates.unwrap_or_default(),
    };
    if let Some(attribute) = updates.attrs.keys().next() {
        return Err(format!("the rule for `{identifier}` sets the attribute `{attribute}`, which is not supported"));
    }
    let pattern = match selector.match_type {
        MatchType::Exact => None,
        MatchType::Wildcard if identifier.contains("**") => {
            return Err(format!("`**` in `{identifier}`: one `*` matches everything"));
        }
        MatchType::Wildcard => {
            let parts: Vec<String> = identifier.split('*').map(regex::escape).collect();
            Some(format!("^{}$", parts.join("(.*)")))
        }
        MatchType::Regex => Some(identifier.clone()),
    };
    let pattern = pattern.map(|p| Regex::new(&p)).transpose().map_err(|e| format!("`{identifier}`: {e}"))?;
    let whole = selector.match_type == MatchType::Wildcard;
    Ok(Rule { action, identifier, pattern, whole, becomes: updates.identifier })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Result<Policy, Error> {
        let text = format!(r#"{{"version": 1, "rules": [{rules}]}}"#);
        Ok(Policy { files: vec![super::rules(Path::new("p"), &text)?] })
    }

    fn image(rules: &str, name: &str) -> String {
        match policy(rules).unwrap().image(name) {
            Ok(None) => "same".into(),
            Ok(Some(other)) => other.to_string(),
            Err(Error::Denied(_)) => "denied".into(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn the_last_match_of_allow_and_deny_counts() {
        let deny = r#"{"action": "DENY", "selector": {"identifier": "docker-image://docker.io/library/alpine:*"}}"#;
        let allow = r#"{"action": "ALLOW", "selector": {"identifier": "docker-image://docker.io/library/alpine:3"}}"#;
        assert_eq!(image("", "alpine"), "same");
        for (name, want) in
            [("alpine", "denied"), ("alpine:3", "same"), ("busybox", "same"), ("x.example/alpine", "same")]
        {
            assert_eq!(image(&format!("{deny},{allow}"), name), want, "{name}");
        }
        assert_eq!(image(&format!("{allow},{deny}"), "alpine:3"), "denied");
        let everything = r#"{"action": "DENY", "selector": {"identifier": "*"}}"#;
        assert_eq!(image(everything, "localhost/x"), "denied");
        let two = Policy { files: [deny, allow].iter().map(|r| policy(r).unwrap().files.remove(0)).collect() };
        assert!(two.image("alpine:3").is_err(), "every file has to allow it");
    }

    #[test]
    fn sources_are_converted_by_exact_names_wildcards_and_expressions() {
        let rule = |kind: &str, from: &str, to: &str| {
            format!(
                r#"{{"action": "CONVERT", "selector": {{"identifier": "docker-image://{from}", "matchType": "{kind}"}},
                "updates": {{"identifier": "docker-image://{to}"}}}}"#
            )
        };
        let exact = rule("EXACT", "docker.io/library/alpine:latest", "m.example/a:1");
        assert_eq!((image(&exact, "alpine"), image(&exact, "alpine:2")), ("m.example/a:1".into(), "same".into()));
        let star = rule("EXACT", "docker.io/library/alpine:*", "m.example/a:1");
        assert_eq!(image(&star, "alpine"), "same");
        let wild = rule("WILDCARD", "docker.io/library/*:*", "m.example/x/${1}:$2-slim");
        assert_eq!(image(&wild, "golang:1.19"), "m.example/x/golang:1.19-slim");
        let expression = rule("REGEX", "docker\\\\.io/(library|other)/([a-z]+):.*", "m.example/$1/${2}:1");
        assert_eq!(image(&expression, "other/busybox:7"), "m.example/other/busybox:1");
        assert_eq!(image(&expression, "none/busybox:7"), "same");
        // A round for each conversion, and the result can be denied.
        let deny = r#"{"action": "DENY", "selector": {"identifier": "docker-image://m.example/*"}}"#;
        assert_eq!(image(&format!("{wild},{deny}"), "golang"), "denied");
        let there = rule("EXACT", "docker.io/library/a:1", "docker.io/library/b:1");
        let back = rule("EXACT", "docker.io/library/b:1", "docker.io/library/a:1");
        assert!(image(&format!("{there},{back}"), "a:1").contains("more than 20 times"));
    }

    #[test]
    fn addresses_are_allowed_or_denied() {
        let rules = r#"{"action": "DENY", "selector": {"identifier": "*"}},
            {"action": "ALLOW", "selector": {"identifier": "https://one.example/*"}},
            {"action": "ALLOW", "selector": {"identifier": "git://two.example/*"}}"#;
        let policy = policy(rules).unwrap();
        assert!(policy.keep("https://one.example/f").is_ok() && policy.keep("https://two.example/f").is_err());
        let git = |url| git_identifier(&GitUrl::parse(url, super::super::Written::Dockerfile).unwrap().unwrap());
        assert_eq!(git("https://two.example/a.git#v1:dir"), "git://two.example/a.git#v1:dir");
        assert!(policy.keep(&git("https://two.example/a.git")).is_ok());
        assert!(policy.keep(&git("https://one.example/a.git")).is_err());
    }

    #[test]
    fn what_cannot_be_kept_is_an_error() {
        for bad in [
            r#"{"action": "CONVERT", "selector": {"identifier": "a"}}"#,
            r#"{"action": "PERHAPS", "selector": {"identifier": "a"}}"#,
            r#"{"action": "DENY", "selector": {"identifier": "a**"}}"#,
            r#"{"action": "DENY", "selector": {"identifier": "(", "matchType": "REGEX"}}"#,
            r#"{"action": "DENY", "selector": {"identifier": "a", "constraints": [{"key": "k"}]}}"#,
            r#"{"action": "CONVERT", "selector": {"identifier": "a"}, "updates": {"attrs": {"http.checksum": "x"}}}"#,
            r#"{"action": "DENY"}"#,
        ] {
            assert!(policy(bad).is_err(), "{bad}");
        }
        assert!(rules(Path::new("p"), r#"{"version": 2, "rules": []}"#).is_err());
        let file = r#"{"action": "CONVERT", "selector": {"identifier": "*"}, "updates": {"identifier": "https://a"}}"#;
        assert!(image(file, "alpine").contains("no image"));
    }
}
