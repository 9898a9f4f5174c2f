//! Paths and arguments in JSON: a string where they are UTF-8, else a list of bytes.
//!
//! serde's own form refuses paths that are not UTF-8, and writes arguments as lists of numbers.

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

struct Text<T>(T);

impl<T: AsRef<OsStr>> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_ref().to_str() {
            Some(text) => s.serialize_str(text),
            None => s.collect_seq(self.0.as_ref().as_bytes()),
        }
    }
}

impl<'de, T: From<OsString>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Text<T>, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OsString;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of bytes")
            }
            fn visit_str<E>(self, text: &str) -> Result<OsString, E> {
                Ok(OsString::from(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<OsString, A::Error> {
                let mut all = Vec::new();
                while let Some(byte) = bytes.next_element::<u8>()? {
                    all.push(byte);
                }
                Ok(OsString::from_vec(all))
            }
        }
        d.deserialize_any(Either).map(|text| Text(T::from(text)))
    }
}

/// For one path or argument.
pub(super) mod one {
    use super::*;

    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        Text(value).serialize(s)
    }

    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        Text::deserialize(d).map(|text| text.0)
    }
}

/// For one path that may be missing.
pub(super) mod option {
    use super::*;

    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Text).serialize(s)
    }

    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
        Option::<Text<T>>::deserialize(d).map(|value| value.map(|text| text.0))
    }
}

/// For a list.
pub(super) mod list {
    use super::*;

    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(values: &[T], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(values.iter().map(Text))
    }

    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
        Vec::<Text<T>>::deserialize(d).map(|values| values.into_iter().map(|text| text.0).collect())
    }
}

/// For a list of pairs.
pub(super) mod pairs {
    use super::*;

    pub fn serialize<S: Serializer>(values: &[(OsString, OsString)], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(values.iter().map(|(a, b)| (Text(a), Text(b))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(OsString, OsString)>, D::Error> {
        type Pair = (Text<OsString>, Text<OsString>);
        Vec::<Pair>::deserialize(d).map(|values| values.into_iter().map(|(a, b)| (a.0, b.0)).collect())
    }
}
