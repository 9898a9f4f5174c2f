//! in-toto statements: that something, the predicate, is true of some subjects.
//!
//! Format: <https://github.com/in-toto/attestation/blob/main/spec/v0.1.0/README.md>.

use crate::oci::{Digest, Platform, Reference};
use serde_json::{Value, json};
use std::io::{self, Write};

/// The type of a statement.
pub(super) const STATEMENT: &str = "https://in-toto.io/Statement/v0.1";

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name: a package URL, `_` for an image that has none, or the path of a file.
    pub name: String,
    /// Digest of its manifest, or of its content.
    pub digest: Digest,
}

impl Subject {
    /// The image of `digest` under each of its names; under none, where it has none.
    pub fn of_image(names: &[Reference], platform: &Platform, digest: Digest) -> Vec<Subject> {
        let named: Vec<Subject> =
            names.iter().map(|name| Subject { name: image_url(name, platform), digest }).collect();
        if named.is_empty() { vec![Subject { name: "_".into(), digest }] } else { named }
    }

    pub(super) fn json(&self) -> Value {
        json!({"name": self.name, "digest": {"sha256": self.digest.hex()}})
    }
}

/// The package URL of an image: `pkg:docker/NAME@TAG?platform=OS%2FARCH`.
pub(super) fn image_url(name: &Reference, platform: &Platform) -> String {
    let bare = Reference { tag: None, digest: None, ..name.clone() };
    let mut url = format!("pkg:docker/{}", bare.familiar());
    if let Some(tag) = name.tag_or_latest() {
        url.push('@');
        url.push_str(tag);
    }
    let platform = platform.to_string().replace('/', "%2F");
    match name.digest {
        Some(digest) => url.push_str(&format!("?digest={digest}&platform={platform}")),
        None => url.push_str(&format!("?platform={platform}")),
    }
    url
}

/// Writes a statement of this type, whose predicate `predicate` writes as JSON.
///
/// # Errors
/// Those of the writers.
pub fn write_statement(
    out: &mut dyn Write,
    predicate_type: &str,
    subjects: &[Subject],
    predicate: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let subjects: Vec<Value> = subjects.iter().map(Subject::json).collect();
    let head = json!({
        "_type": STATEMENT,
        "predicateType": predicate_type,
        "subject": subjects,
    })
    .to_string();
    // The head without its closing brace: a predicate can be long, and is written as it comes.
    out.write_all(head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
    out.write_all(b",\"predicate\":")?;
    predicate(out)?;
    out.write_all(b"}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_package_urls() {
        let url = |name: &str| image_url(&name.parse().unwrap(), &"linux/arm/v7".parse().unwrap());
        assert_eq!(url("docker.io/library/alpine:3.17"), "pkg:docker/alpine@3.17?platform=linux%2Farm%2Fv7");
        assert_eq!(url("quay.io/a/b"), "pkg:docker/quay.io/a/b@latest?platform=linux%2Farm%2Fv7");
        let digest = Digest::of("x");
        let pinned = url(&format!("a.b/c@{digest}"));
        assert_eq!(pinned, format!("pkg:docker/a.b/c?digest={digest}&platform=linux%2Farm%2Fv7"));
    }

    #[test]
    fn a_statement_is_one_json_object() {
        let subjects = Subject::of_image(&[], &Platform::linux("amd64"), Digest::of("x"));
        let mut out = vec![];
        write_statement(&mut out, "https://x/y", &subjects, |out| out.write_all(b"{\"a\":1}\n")).unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["_type"], "https://in-toto.io/Statement/v0.1");
        assert_eq!(value["predicateType"], "https://x/y");
        assert_eq!(value["subject"][0]["name"], "_");
        assert_eq!(value["subject"][0]["digest"]["sha256"], Digest::of("x").hex());
        assert_eq!(value["predicate"]["a"], 1);
    }
}
