//! An entry of a shared cache: what a step made, and the blob that holds it.
//!
//! What is stored is [`Sealed`]: the entry as JSON text, and a signature of exactly that text where there is one. A reader
//! takes nothing of an entry on trust but what the signature covers: its key and its scope stand in the text, so that an
//! entry that somebody moved to another place is refused.

use super::CacheKey;
use super::trust::Trust;
use crate::oci::{Compression, Descriptor, DiffId, Digest, ManifestFormat, media};
use serde::{Deserialize, Serialize};

/// Longest entry that is read, in bytes.
pub const MAX_ENTRY_BYTES: u64 = 64 << 10;
/// The version of the format.
const VERSION: u32 = 1;

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Version of the format.
    pub version: u32,
    /// The step's key, 64 hexadecimal digits.
    pub key: String,
    /// The scope that it was written in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// When the step was executed, RFC 3339.
    pub created: String,
    /// The layer; `None` where the step changed no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<EntryLayer>,
}

/// The layer of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Length of the uncompressed tar in bytes.
    pub size: u64,
    /// The compressed blob; `None` in an image's own entries, whose manifest names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<EntryBlob>,
}

/// The blob of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryBlob {
    /// Its media type, OCI spelling.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl EntryBlob {
    /// Its descriptor.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.size)
    }
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The entry, as JSON.
    pub entry: String,
    /// Signature of the bytes of `entry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// It is one of an image's own.
    #[serde(skip)]
    pub inline: bool,
    /// The blob that the image has for its layer.
    #[serde(skip)]
    pub blob: Option<Descriptor>,
}

impl Sealed {
    /// What [`Sealed::to_json`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Sealed, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("it is no entry: {e}"))
    }

    /// One JSON document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The entry, if it may be believed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(&self, key: &CacheKey, scope: &str, trust: &Trust) -> Result<Entry, String> {
        trust.check(self.entry.as_bytes(), self.signature.as_deref())?;
        let entry: Entry = serde_json::from_str(&self.entry).map_err(|e| format!("it is no entry: {e}"))?;
        if entry.version != VERSION {
            return Err(format!("it has format {}, and this program knows {VERSION}", entry.version));
        }
        if entry.key != key.hex() {
            return Err("it is that of another step".into());
        }
        if entry.scope != if self.inline { "" } else { scope } {
            return Err(format!("it was written in the scope `{}`", entry.scope));
        }
        if entry.created.parse::<jiff::Timestamp>().is_err() {
            return Err(format!("its time is `{}`", entry.created));
        }
        let mut entry = entry;
        if let Some(layer) = &mut entry.layer {
            if let (true, Some(blob)) = (self.inline, &self.blob) {
                let media_type = match Compression::of_layer(&blob.media_type) {
                    Some(how) => how.layer_type(ManifestFormat::Oci).to_owned(),
                    None => blob.media_type.clone(),
                };
                layer.blob = Some(EntryBlob { media_type, digest: blob.digest, size: blob.size });
            }
            let kind = layer.blob.as_ref().map(|b| b.media_type.as_str()).ok_or("it does not name its layer's blob")?;
            if ![media::OCI_LAYER, media::OCI_LAYER_GZIP, media::OCI_LAYER_ZSTD].contains(&kind) {
                return Err(format!("its layer is of type `{kind}`"));
            }
        }
        Ok(entry)
    }
}

impl Entry {
    /// An entry of this version.
    pub fn new(key: &CacheKey, scope: &str, created: &str, layer: Option<EntryLayer>) -> Entry {
        Entry { version: VERSION, key: key.hex(), scope: scope.to_owned(), created: created.to_owned(), layer }
    }

    /// The entry as it is stored.
    pub fn seal(&self, trust: &Trust) -> Sealed {
        let entry = serde_json::to_string(self).unwrap_or_default();
        Sealed { signature: trust.sign(entry.as_bytes()), entry, inline: false, blob: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::KeyBuilder;

    fn key(text: &str) -> CacheKey {
        KeyBuilder::new("test", None).text("t", text).finish()
    }

    #[test]
    fn only_the_entry_that_was_asked_for_is_one() {
        let trust = Trust::default();
        let blob =
            EntryBlob { media_type: crate::oci::media::OCI_LAYER_GZIP.into(), digest: Digest::of("blob"), size: 4 };
        let layer = EntryLayer { diff_id: DiffId(Digest::of("layer")), size: 5, blob: Some(blob.clone()) };
        let entry = Entry::new(&key("a"), "main", "2026-01-01T00:00:00Z", Some(layer.clone()));
        let sealed = Sealed::from_json(&entry.seal(&trust).to_json()).unwrap();
        assert_eq!(sealed.open(&key("a"), "main", &trust).unwrap(), entry);
        assert!(sealed.open(&key("b"), "main", &trust).is_err(), "another step");
        assert!(sealed.open(&key("a"), "pr", &trust).is_err(), "another scope");
        let mut other = entry.clone();
        other.layer = Some(EntryLayer { blob: Some(EntryBlob { media_type: "text/plain".into(), ..blob }), ..layer });
        assert!(other.seal(&trust).open(&key("a"), "main", &trust).is_err(), "no layer");
        for bad in ["", "{}", "null", "[", r#"{"entry":"x"}"#, r#"{"entry":"{\"version\":7}"}"#] {
            let opened = Sealed::from_json(bad.as_bytes()).and_then(|s| s.open(&key("a"), "main", &trust));
            assert!(opened.is_err(), "{bad}");
        }
    }
}
