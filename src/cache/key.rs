//! How a cache key is put together.

use crate::oci::{ChainId, Digest};
use sha2::{Digest as _, Sha256};

/// Changes whenever the meaning of a key's parts changes, so that no old record is mistaken for a new one.
const VERSION: &str = "rbuild step 1";

/// The digest of everything that decides what a step makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(Digest);

impl CacheKey {
    /// The key of no step.
    pub(super) fn none() -> CacheKey {
        CacheKey(Digest::from_bytes([0; 32]))
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

/// Puts a key together, part by part. Each part is framed by its name and length, so no two lists of parts look alike.
#[derive(Clone)]
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// A key of an operation on top of these layers (`None`: on nothing).
    pub fn new(operation: &str, below: Option<ChainId>) -> Self {
        let mut key = KeyBuilder(Sha256::new());
        key.part("version", VERSION.as_bytes());
        key.part("operation", operation.as_bytes());
        key.part("below", below.map(|c| c.to_string()).unwrap_or_default().as_bytes());
        key
    }

    fn part(&mut self, name: &str, value: &[u8]) {
        for piece in [name.as_bytes(), value] {
            self.0.update((piece.len() as u64).to_le_bytes());
            self.0.update(piece);
        }
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.part(name, value.as_bytes());
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
            self.part("", value.as_ref().as_bytes());
        }
        self.part(name, b"]");
        self
    }

    /// The key.
    pub fn finish(self) -> CacheKey {
        CacheKey(Digest::from_bytes(self.0.finalize().into()))
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
