//! An entry as an image of one layer: how registries and image layouts hold it.
//!
//! A plain OCI image manifest whose one layer is the step's, with the entry in its annotations. So every registry takes it,
//! other tools can copy and look at it, and a registry's garbage collection keeps the layer as long as the entry has its
//! name. The document depends on nothing but the entry: whoever writes the same entry writes the same bytes.

use super::CacheKey;
use super::entry::{Entry, MAX_ENTRY_BYTES, Sealed};
use crate::oci::{Descriptor, Digest, ImageConfig, Manifest, RootFs, media};
use std::collections::BTreeMap;

/// Holds the entry.
const ENTRY: &str = "io.rbuild.cache.entry";
/// Holds its signature.
const SIGNATURE: &str = "io.rbuild.cache.signature";
/// Longest scope that stands in a name as it is.
const MAX_PLAIN_SCOPE: usize = 48;

/// The name of an entry: `rbuild[-SCOPE]-KEY`, which every registry takes as a tag.
pub(super) fn name(scope: &str, key: &CacheKey) -> String {
    match scope_name(scope).as_str() {
        "" => format!("rbuild-{}", key.hex()),
        scope => format!("rbuild-{scope}-{}", key.hex()),
    }
}

/// A scope as part of a name. One with other characters (`feature/x`) becomes another name, kept apart by a digest.
pub(super) fn scope_name(scope: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if scope.len() <= MAX_PLAIN_SCOPE && scope.chars().all(plain) {
        return scope.to_owned();
    }
    let short: String = scope.chars().filter(|c| plain(*c)).take(MAX_PLAIN_SCOPE - 13).collect();
    format!("{short}-{}", Digest::of(scope).short())
}

/// The documents of an entry: manifest and config.
pub(super) fn write(entry: &Entry, sealed: &Sealed) -> (Vec<u8>, Vec<u8>) {
    let diff_ids = entry.layer.iter().map(|l| l.diff_id).collect();
    let config = ImageConfig {
        architecture: "unknown".into(),
        os: "unknown".into(),
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = serde_json::to_vec(&config).unwrap_or_default();
    let mut annotations = BTreeMap::from([(ENTRY.to_owned(), sealed.entry.clone())]);
    annotations.extend(sealed.signature.clone().map(|s| (SIGNATURE.to_owned(), s)));
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::of(media::OCI_CONFIG, &config),
        layers: entry.layer.iter().filter_map(|l| Some(l.blob.as_ref()?.descriptor())).collect(),
        subject: None,
        annotations,
    };
    (serde_json::to_vec(&manifest).unwrap_or_default(), config)
}

/// The entry of a manifest.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(manifest: &[u8]) -> Result<Sealed, String> {
    let mut manifest: Manifest = serde_json::from_slice(manifest).map_err(|e| format!("it is no manifest: {e}"))?;
    let entry = manifest.annotations.remove(ENTRY).ok_or("it has no entry of a cache")?;
    if entry.len() as u64 > MAX_ENTRY_BYTES {
        return Err("its entry is too long".into());
    }
    Ok(Sealed { entry, signature: manifest.annotations.remove(SIGNATURE), inline: false, blob: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KeyBuilder, trust::Trust};

    #[test]
    fn names_of_entries_are_tags() {
        let key = KeyBuilder::new("test", None).finish();
        let long = "x".repeat(300);
        let mut seen = std::collections::BTreeSet::new();
        for scope in ["", "main", "feature/x", "feature-x", "featurex", "ä", &long, &long[1..]] {
            let name = name(scope, &key);
            let reference = format!("localhost/cache:{name}").parse::<crate::oci::Reference>();
            assert_eq!(reference.unwrap().tag, Some(name.clone()), "{scope}");
            assert!(seen.insert(name), "{scope}: that of another scope");
        }
    }

    #[test]
    fn an_entry_survives_its_document() {
        let key = KeyBuilder::new("test", None).finish();
        let entry = Entry::new(&key, "s", "2026-01-01T00:00:00Z", None);
        let sealed = entry.seal(&Trust::default());
        assert_eq!(read(&write(&entry, &sealed).0), Ok(sealed));
        assert!(read(b"{}").is_err());
        assert!(read(br#"{"schemaVersion":2,"config":{"mediaType":"","digest":"x","size":0}}"#).is_err());
    }
}
