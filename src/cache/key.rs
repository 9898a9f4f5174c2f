//! How a cache key is put together.

use crate::oci::{ChainId, Digest, Hashing};
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Changes whenever the meaning of a key's parts changes, so that no old record is mistaken for a new one.
const VERSION: &str = "rbuild step 1";

/// Names of the parts of a key with short digests of their values, in order. They say what differs between two keys, and
/// nothing of what it is: a value may be a password.
pub type Inputs = Vec<(String, String)>;

/// The digest of everything that decides what a step makes. Keys are compared by it alone.
#[derive(Clone, Debug)]
pub struct CacheKey {
    digest: Digest,
    inputs: Arc<Inputs>,
}

impl CacheKey {
    /// The key of no step.
    pub(super) fn none() -> CacheKey {
        CacheKey { digest: Digest::from_bytes([0; 32]), inputs: Arc::default() }
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.digest.hex()
    }

    /// What it is made of.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for CacheKey {}

impl PartialOrd for CacheKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CacheKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.digest.cmp(&other.digest)
    }
}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// Puts a key together, part by part. Each part is framed by its name and length, so no two lists of parts look alike.
#[derive(Clone)]
pub struct KeyBuilder {
    hash: Hashing<()>,
    inputs: Inputs,
}

impl KeyBuilder {
    /// A key of an operation on top of these layers (`None`: on nothing).
    pub fn new(operation: &str, below: Option<ChainId>) -> Self {
        let mut key = KeyBuilder { hash: Hashing::new(()), inputs: vec![] };
        for (name, value) in [
            ("version", VERSION),
            ("operation", operation),
            ("below", &below.map(|c| c.to_string()).unwrap_or_default()),
        ] {
            key.part(name, value.as_bytes());
            key.note(name.to_owned(), value);
        }
        key
    }

    fn part(&mut self, name: &str, value: &[u8]) {
        for piece in [name.as_bytes(), value] {
            self.hash.catch_up(&(piece.len() as u64).to_le_bytes());
            self.hash.catch_up(piece);
        }
    }

    fn note(&mut self, name: String, value: &str) {
        self.inputs.push((name, Digest::of(value).short()));
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.part(name, value.as_bytes());
        self.note(name.to_owned(), value);
        self
    }

    /// Adds a text that may be missing; missing and empty differ.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(v) => self.text(name, v),
            None => self,
        }
    }

    /// Adds a list of texts, in order.
    #[must_use]
    pub fn list<T: AsRef<str>>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        self.part(name, b"[");
        for value in values {
            let value = value.as_ref();
            self.part("", value.as_bytes());
            match value.split_once('=') {
                Some((variable, _)) if name == "env" => self.note(format!("env {variable}"), value),
                _ => self.note(name.to_owned(), value),
            }
        }
        self.part(name, b"]");
        self
    }

    /// The key.
    pub fn finish(self) -> CacheKey {
        CacheKey { digest: self.hash.finish().1, inputs: Arc::new(self.inputs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let a = KeyBuilder::new("run", None).list("argv", ["ab", "c"]).finish();
        let b = KeyBuilder::new("run", None).list("argv", ["a", "bc"]).finish();
        let c = KeyBuilder::new("run", None).list("argv", ["ab"]).text("argv", "c").finish();
        let d = KeyBuilder::new("run", None).maybe("user", Some("")).finish();
        let e = KeyBuilder::new("run", None).maybe("user", None).finish();
        assert_eq!([a, b, c, d, e].iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
    }
}
