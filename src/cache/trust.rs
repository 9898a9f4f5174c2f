//! Who may fill a cache: signatures of its entries.
//!
//! Keys are PEM: PKCS#8 for the private one (`openssl genpkey -algorithm ed25519`), `openssl pkey -pubout` for the public
//! one; Ed25519, or ECDSA over P-256 with SHA-256. With keys to verify with, an entry that none of them signed is not there.

use super::spec::KeyError;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use std::path::Path;

/// What stands in front of an Ed25519 key in its `SubjectPublicKeyInfo`.
const ED25519_INFO: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands in front of a point of P-256 in its `SubjectPublicKeyInfo`.
const P256_INFO: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Longest file of a key, in bytes.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// What signs. Debug output shows nothing of it.
enum Signer {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
}

/// The keys of a build's caches.
#[derive(Default)]
pub struct Trust {
    signer: Option<Signer>,
    verifiers: Vec<UnparsedPublicKey<Vec<u8>>>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("signs", &self.signer.is_some()).field("keys", &self.verifiers.len()).finish()
    }
}

impl Trust {
    /// Reads the keys.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no key of these kinds.
    pub fn read(sign: Option<&Path>, verify: &[impl AsRef<Path>]) -> Result<Trust, KeyError> {
        let signer = match sign {
            Some(path) => Some(private(path)?),
            None => None,
        };
        let verifiers = verify.iter().map(|path| public(path.as_ref())).collect::<Result<_, _>>()?;
        Ok(Trust { signer, verifiers })
    }

    /// Whether there is a key to sign with.
    pub fn signs(&self) -> bool {
        self.signer.is_some()
    }

    /// The signature of a text, where there is a key to sign with.
    pub fn sign(&self, text: &[u8]) -> Option<String> {
        let signature = match self.signer.as_ref()? {
            Signer::Ed25519(key) => key.sign(text),
            Signer::P256(key) => key.sign(&SystemRandom::new(), text).ok()?,
        };
        Some(BASE64_STANDARD.encode(signature.as_ref()))
    }

    /// Whether a text may be believed.
    ///
    /// # Errors
    /// There are keys to verify with, and none of them signed it.
    pub fn check(&self, text: &[u8], signature: Option<&str>) -> Result<(), String> {
        if self.verifiers.is_empty() {
            return Ok(());
        }
        let signature = signature.ok_or("it is not signed")?;
        let signature = BASE64_STANDARD.decode(signature).map_err(|_| "its signature is no base64")?;
        match self.verifiers.iter().any(|key| key.verify(text, &signature).is_ok()) {
            true => Ok(()),
            false => Err("no key of `--cache-verify-key` signed it".into()),
        }
    }
}

/// The bytes of the PEM block of this label.
fn pem(path: &Path, label: &str) -> Result<Vec<u8>, KeyError> {
    use std::io::Read as _;
    let failed = |why: String| KeyError { path: path.to_owned(), why };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MAX_KEY_BYTES).read_to_string(&mut text))
        .map_err(|e| failed(e.to_string()))?;
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(body, _)| body);
    let body = body.ok_or_else(|| failed(format!("it has no `{begin}`")))?;
    let compact: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64_STANDARD.decode(compact).map_err(|_| failed("its PEM is no base64".into()))
}

fn private(path: &Path) -> Result<Signer, KeyError> {
    let der = pem(path, "PRIVATE KEY")?;
    if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
        return Ok(Signer::Ed25519(Box::new(key)));
    }
    match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new()) {
        Ok(key) => Ok(Signer::P256(Box::new(key))),
        Err(_) => Err(KeyError { path: path.to_owned(), why: "it is no Ed25519 and no P-256 key in PKCS#8".into() }),
    }
}

fn public(path: &Path) -> Result<UnparsedPublicKey<Vec<u8>>, KeyError> {
    let der = pem(path, "PUBLIC KEY")?;
    let kinds: [(&[u8], usize, &'static dyn VerificationAlgorithm); 2] =
        [(ED25519_INFO, 32, &ED25519), (P256_INFO, 65, &ECDSA_P256_SHA256_ASN1)];
    for (head, length, algorithm) in kinds {
        if let Some(key) = der.strip_prefix(head).filter(|key| key.len() == length) {
            return Ok(UnparsedPublicKey::new(algorithm, key.to_vec()));
        }
    }
    Err(KeyError { path: path.to_owned(), why: "it is no Ed25519 and no P-256 key".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::KeyPair as _;
    use std::fs;
    use std::path::PathBuf;

    fn write_pem(dir: &Path, name: &str, label: &str, der: &[u8]) -> PathBuf {
        let path = dir.join(name);
        let body = BASE64_STANDARD.encode(der);
        fs::write(&path, format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")).unwrap();
        path
    }

    #[test]
    fn what_another_key_signed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed_public = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let p256_public = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, p256.as_ref(), &random).unwrap();
        let private = [("ed.pem", ed.as_ref()), ("p256.pem", p256.as_ref())]
            .map(|(n, d)| write_pem(dir.path(), n, "PRIVATE KEY", d));
        let info = |head: &[u8], key: &[u8]| [head, key].concat();
        let public = [
            ("ed.pub", info(ED25519_INFO, ed_public.public_key().as_ref())),
            ("p256.pub", info(P256_INFO, p256_public.public_key().as_ref())),
        ]
        .map(|(n, d)| write_pem(dir.path(), n, "PUBLIC KEY", &d));
        for (own, other) in [(0, 1), (1, 0)] {
            let signed = Trust::read(Some(&private[own]), &[] as &[PathBuf]).unwrap().sign(b"text");
            let trusts = |keys: &[&PathBuf]| Trust::read(None, keys).unwrap();
            assert_eq!(trusts(&[&public[own]]).check(b"text", signed.as_deref()), Ok(()));
            assert_eq!(trusts(&[&public[other], &public[own]]).check(b"text", signed.as_deref()), Ok(()));
            assert!(trusts(&[&public[own]]).check(b"Text", signed.as_deref()).is_err());
            assert!(trusts(&[&public[other]]).check(b"text", signed.as_deref()).is_err());
            assert!(trusts(&[&public[own]]).check(b"text", None).is_err());
            assert!(trusts(&[&public[own]]).check(b"text", Some("?")).is_err());
        }
        assert_eq!(Trust::default().check(b"text", None), Ok(()), "without keys nothing is checked");
        assert!(Trust::read(Some(&public[0]), &[] as &[PathBuf]).is_err(), "a public key does not sign");
        assert!(Trust::read(None, &[dir.path().join("none")]).unwrap_err().to_string().contains("none"));
    }
}
