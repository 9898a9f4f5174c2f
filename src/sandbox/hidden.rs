//! Bytes that nobody may read by accident: they show in no debug output, and are overwritten when they are dropped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hidden(Vec<u8>);

impl Hidden {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Hidden {
        Hidden(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.fill(0);
        // Without a reader the compiler would leave the writes out.
        std::hint::black_box(&self.0);
    }
}

/// Only into the sealed memory that a step's init reads.
impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Hidden, D::Error> {
        let text = String::deserialize(d)?;
        STANDARD.decode(text).map(Hidden).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_carried_over_and_never_shown() {
        let secret = Hidden::new(b"sword\xff\n".to_vec());
        assert_eq!(format!("{secret:?} {:?}", vec![secret.clone()]), "*** [***]");
        let text = serde_json::to_string(&secret).unwrap();
        assert_eq!(serde_json::from_str::<Hidden>(&text).unwrap(), secret);
    }
}
