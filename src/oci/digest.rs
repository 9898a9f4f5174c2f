//! Content digests. A layer's [`DiffId`] (of the uncompressed tar), a blob's [`Digest`] (of the bytes as stored or sent)
//! and a [`ChainId`] (of a stack of layers) look alike and mean different things, so each is its own type.

use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};
use std::{fmt, io, str::FromStr};

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// Not `algorithm:hex`.
    #[error("invalid digest `{0}`: expected `sha256:` and 64 lower-case hexadecimal digits")]
    Malformed(String),
    /// An algorithm other than sha256.
    #[error("unsupported digest algorithm `{0}`: only sha256 is supported")]
    Algorithm(String),
}

/// The SHA-256 digest of a blob, written `sha256:<64 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Digest::from_ring(&digest(&SHA256, bytes.as_ref()))
    }

    fn from_ring(sum: &ring::digest::Digest) -> Self {
        let mut raw = [0; 32];
        // Both are 32 bytes long: nothing is cut off or left over.
        for (to, from) in raw.iter_mut().zip(sum.as_ref()) {
            *to = *from;
        }
        Digest(raw)
    }

    /// A digest from its 32 raw bytes.
    pub const fn from_bytes(raw: [u8; 32]) -> Self {
        Digest(raw)
    }

    /// The 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hexadecimal digits, as tools print them.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(s: &str) -> Result<Self, DigestError> {
        let bad = || DigestError::Malformed(s.to_owned());
        let (algorithm, digits) = s.split_once(':').ok_or_else(bad)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm(algorithm.to_owned()));
        }
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad());
        }
        let mut raw = [0; 32];
        hex::decode_to_slice(digits, &mut raw).map_err(|_| bad())?;
        Ok(Digest(raw))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(s: &str) -> Result<Self, DigestError> {
                s.parse().map($name)
            }
        }
    };
}

digest_newtype! {
    /// The digest of a layer's uncompressed tar, as `rootfs.diff_ids` of an image config lists it.
    DiffId
}
digest_newtype! {
    /// The digest that names a stack of layers.
    ///
    /// Defined by the [image specification](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid):
    /// of one layer its diff ID, of more the digest of `parent + " " + diff ID`.
    ChainId
}

impl ChainId {
    /// The chain ID of `layer` on top of `parent` (`None`: of the first layer).
    pub fn child(parent: Option<ChainId>, layer: DiffId) -> ChainId {
        match parent {
            None => ChainId(layer.0),
            Some(p) => ChainId(Digest::of(format!("{p} {layer}"))),
        }
    }

    /// The chain ID of a whole stack, lowest layer first; `None` for no layer at all.
    pub fn of(layers: &[DiffId]) -> Option<ChainId> {
        layers.iter().fold(None, |parent, layer| Some(ChainId::child(parent, *layer)))
    }
}

/// A reader or writer that hashes and counts what passes through it.
#[derive(Clone)]
pub struct Hashing<T> {
    inner: T,
    hash: Context,
    count: u64,
}

impl<T> Hashing<T> {
    /// Starts with nothing hashed.
    pub fn new(inner: T) -> Self {
        Hashing { inner, hash: Context::new(&SHA256), count: 0 }
    }

    /// Hashes and counts bytes that the inner stream had before.
    pub fn catch_up(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }

    /// Bytes that passed so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The inner stream, the digest of all bytes that passed, and their number.
    pub fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest::from_ring(&self.hash.finish()), self.count)
    }
}

impl<R: io::Read> io::Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

impl<W: io::Write> io::Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_print_are_inverse() {
        let d = Digest::of(b"hello");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        assert_eq!(d.short(), "2cf24dba5fb0");
    }

    #[test]
    fn malformed_digests_are_refused() {
        for bad in ["", "sha256", "sha256:12", "sha256:../../etc/passwd", &format!("sha256:{}", "A".repeat(64))] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(matches!("md5:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
    }

    #[test]
    fn chain_id_of_one_layer_is_its_diff_id() {
        let a = DiffId(Digest::of("a"));
        let b = DiffId(Digest::of("b"));
        assert_eq!(ChainId::of(&[a]).unwrap().0, a.0);
        assert_eq!(ChainId::of(&[a, b]).unwrap().0, Digest::of(format!("{a} {b}")));
        assert_eq!(ChainId::of(&[]), None);
    }
}
