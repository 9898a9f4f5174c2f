//! Why a step was not found: what differs from the nearest one that the store knows.

use super::{CacheKey, Inputs, Record};
use crate::store::Store;
use std::collections::HashMap;
use std::fs;
use std::time::SystemTime;

/// Longest record that is looked at, in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// The name of the first input of `key` that differs from the nearest step of the same kind in the store: the one with the most
/// inputs in common, of several the one used last. `None` where the store knows no such step.
pub fn difference(store: &Store, key: &CacheKey) -> Option<String> {
    let mine = key.inputs();
    let kind = mine.iter().find(|(name, _)| name == "operation")?;
    let mut best: Option<(usize, SystemTime, String)> = None;
    for entry in fs::read_dir(store.steps_dir()).ok()?.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.len() > MAX_RECORD_BYTES || entry.file_name().to_str() == Some(&key.hex()) {
            continue;
        }
        let record = fs::read(entry.path()).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        let Some(record) = record.filter(|r| r.inputs.contains(kind)) else { continue };
        let Some((common, first)) = compare(mine, &record.inputs) else { continue };
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if best.as_ref().is_none_or(|(most, last, _)| (common, used) > (*most, *last)) {
            best = Some((common, used, first));
        }
    }
    best.map(|(_, _, first)| first)
}

/// How many inputs are the same, and the first one that is not; `None` where all are.
fn compare(mine: &Inputs, other: &Inputs) -> Option<(usize, String)> {
    let count = |inputs: &Inputs| {
        let mut all: HashMap<(String, String), usize> = HashMap::new();
        inputs.iter().for_each(|input| *all.entry(input.clone()).or_default() += 1);
        all
    };
    let mut theirs = count(other);
    let (mut common, mut first) = (0, None);
    for input in mine {
        match theirs.get_mut(input).filter(|n| **n > 0) {
            Some(n) => {
                *n -= 1;
                common += 1;
            }
            None => drop(first.get_or_insert_with(|| input.0.clone())),
        }
    }
    // Something that only the other one has.
    let first =
        first.or_else(|| other.iter().find(|input| theirs.get(input).is_some_and(|n| *n > 0)).map(|i| i.0.clone()));
    Some((common, first?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KeyBuilder, StepCache};

    #[test]
    fn the_nearest_step_says_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let cache = StepCache::new(&store, None);
        let key = |kind: &str, env: &[&str], argv: &str, below: &str| {
            let below = Some(crate::oci::ChainId(crate::oci::Digest::of(below)));
            KeyBuilder::new(kind, below).list("env", env).list("argv", ["sh", argv]).text("user", "").finish()
        };
        let known = key("run", &["A=1", "B=2"], "make", "base");
        assert_eq!(difference(&store, &known), None, "nothing is known yet");
        cache.remember(&known, None, "2026-01-01T00:00:00Z").unwrap();
        cache.remember(&key("run", &["A=9"], "other", "else"), None, "2026-01-01T00:00:00Z").unwrap();
        for (new, want) in [
            (key("run", &["A=1", "B=3"], "make", "base"), Some("env B")),
            (key("run", &["A=1"], "make", "base"), Some("env B")),
            (key("run", &["A=1", "B=2", "C=3"], "make", "base"), Some("env C")),
            (key("run", &["A=1", "B=2"], "make all", "base"), Some("argv")),
            (key("run", &["A=1", "B=2"], "make", "newer base"), Some("below")),
            (key("copy", &["A=1", "B=2"], "make", "base"), None),
        ] {
            assert_eq!(difference(&store, &new).as_deref(), want);
        }
        let text = fs::read_to_string(store.steps_dir().join(known.hex())).unwrap();
        assert!(!text.contains("make"), "values are not kept: {text}");
    }
}
