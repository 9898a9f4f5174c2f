//! Image references: `[registry/]repository[:tag][@digest]`, with Docker's defaults.

use super::Digest;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Breaks the grammar of the distribution specification.
    #[error("invalid image reference `{0}`: {1}")]
    Malformed(String, &'static str),
}

/// A name of an image, without defaults filled in but for what the parts themselves say.
///
/// `registry` is `None` for a short name (`busybox`, `library/busybox`); what that means is for the caller to decide:
/// a search in registries.conf when pulling, `localhost/` when tagging.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host name with optional port, as written before the first slash.
    pub registry: Option<String>,
    /// Path of the repository below the registry.
    pub repository: String,
    /// Tag, where one was written.
    pub tag: Option<String>,
    /// Digest, where one was written.
    pub digest: Option<Digest>,
}

impl Reference {
    /// The tag, or `latest` where neither tag nor digest was written.
    pub fn tag_or_latest(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(t), _) => Some(t),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// The same reference in a registry, where it named none.
    pub fn with_default_registry(mut self, registry: &str) -> Self {
        self.registry.get_or_insert_with(|| registry.to_owned());
        self
    }

    /// The same reference with the tag `latest`, where it had neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// Docker's reading of a short name: `busybox` is `docker.io/library/busybox`.
    pub fn docker_normalized(mut self) -> Self {
        if matches!(self.registry.as_deref(), None | Some("index.docker.io")) {
            self.registry = Some("docker.io".into());
        }
        if self.registry.as_deref() == Some("docker.io") && !self.repository.contains('/') {
            self.repository = format!("library/{}", self.repository);
        }
        self
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        match &self.registry {
            Some(r) => format!("{r}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    /// What Docker prints for this name: `docker.io/library/` and `docker.io/` are left out.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

fn is_registry(word: &str) -> bool {
    word == "localhost" || word.contains('.') || word.contains(':') || word.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_registry(r: &str) -> bool {
    let (host, port) = match r.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, rest)) => {
            if !v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            ("v6", rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("x") }))
        }
        None => match r.split_once(':') {
            Some((h, p)) => (h, Some(p)),
            None => (r, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.split('.').all(label)
        && port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()))
}

fn valid_component(c: &str) -> bool {
    // alphanumerics, separated by one of `.`, `_`, `__` or any number of `-`
    let bytes = c.as_bytes();
    let mut i = 0;
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    loop {
        let start = i;
        while i < bytes.len() && alnum(bytes[i]) {
            i += 1;
        }
        if i == start {
            return false;
        }
        if i == bytes.len() {
            return true;
        }
        let sep = i;
        while i < bytes.len() && !alnum(bytes[i]) {
            i += 1;
        }
        let s = &bytes[sep..i];
        if !(s == b"." || s == b"_" || s == b"__" || s.iter().all(|b| *b == b'-')) {
            return false;
        }
    }
}

fn valid_tag(t: &str) -> bool {
    let b = t.as_bytes();
    !b.is_empty()
        && b.len() <= 128
        && (b[0].is_ascii_alphanumeric() || b[0] == b'_')
        && b.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        let bad = |why| ReferenceError::Malformed(s.chars().take(256).collect(), why);
        let (rest, digest) = match s.split_once('@') {
            Some((rest, d)) => (rest, Some(d.parse().map_err(|_| bad("the part after `@` is not a sha256 digest"))?)),
            None => (s, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, more)) if is_registry(first) => (Some(first), more),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repo, tag)) => (repo, Some(tag)),
            None => (rest, None),
        };
        if repository.is_empty() {
            return Err(bad("the repository is empty"));
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("the repository must be lower case"));
        }
        if !repository.split('/').all(valid_component) {
            return Err(bad(
                "a repository is made of lower-case letters, digits and single separators `.`, `_`, `-`, `/`",
            ));
        }
        if repository.len() + registry.map_or(0, |r| r.len() + 1) > 255 {
            return Err(bad("the name is longer than 255 characters"));
        }
        if registry.is_some_and(|r| !valid_registry(r)) {
            return Err(bad("the registry is not a host name with an optional port"));
        }
        if tag.is_some_and(|t| !valid_tag(t)) {
            return Err(bad(
                "a tag has up to 128 letters, digits, `_`, `.` and `-`, and starts with none of the last two",
            ));
        }
        Ok(Reference {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(t) = &self.tag {
            write!(f, ":{t}")?;
        }
        if let Some(d) = &self.digest {
            write!(f, "@{d}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let d = Digest::of("x");
        let r: Reference = format!("localhost:5000/a/b:1.2@{d}").parse().unwrap();
        assert_eq!(r.registry.as_deref(), Some("localhost:5000"));
        assert_eq!(r.repository, "a/b");
        assert_eq!(r.tag.as_deref(), Some("1.2"));
        assert_eq!(r.digest, Some(d));
        assert_eq!(r.to_string(), format!("localhost:5000/a/b:1.2@{d}"));

        let r: Reference = "busybox".parse().unwrap();
        assert_eq!(r.registry, None);
        assert_eq!(r.clone().docker_normalized().with_default_tag().to_string(), "docker.io/library/busybox:latest");
        assert_eq!(r.docker_normalized().familiar(), "busybox");
        assert_eq!("localhost/x:y".parse::<Reference>().unwrap().registry.as_deref(), Some("localhost"));
        assert_eq!("[::1]:5000/x".parse::<Reference>().unwrap().registry.as_deref(), Some("[::1]:5000"));
    }

    #[test]
    fn broken_references_are_refused() {
        for bad in [
            "",
            ":tag",
            "UPPER",
            "a//b",
            "a/../b",
            "a:b:c",
            "a@sha256:12",
            "-a",
            "a-",
            "x:",
            "ex ample",
            "h:99999999/x",
            "a/b:../c",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
