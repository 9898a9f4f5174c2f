//! Private keys that sign: Ed25519, ECDSA over P-256 and P-384, RSA with SHA-2.

use super::{openssh, wire};
use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

/// `SSH_AGENT_RSA_SHA2_256`.
const SHA2_256: u32 = 2;
/// `SSH_AGENT_RSA_SHA2_512`.
const SHA2_512: u32 = 4;

/// Why a file is no key that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is protected.
    #[error("the key is protected by a passphrase")]
    Encrypted,
    /// Not a form that is known here.
    #[error("this is no private key in OpenSSH's form, PKCS#8 or PKCS#1")]
    Form,
    /// A kind of key that is not known here.
    #[error("keys of this kind cannot sign here")]
    Kind,
}

/// A private key.
pub struct Key {
    pair: Pair,
    public: Vec<u8>,
    comment: String,
}

pub(super) enum Pair {
    Ed25519(Ed25519KeyPair),
    /// With the name of the curve.
    Ecdsa(EcdsaKeyPair, &'static str),
    Rsa(Box<RsaKeyPair>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("comment", &self.comment).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// It is no key, or none that can sign here.
    pub fn read(text: &str) -> Result<Key, KeyError> {
        let (label, body) = pem(text).ok_or(KeyError::Form)?;
        if label.starts_with("ENCRYPTED") || body.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let packed: String = body.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|_| KeyError::Form)?;
        let (pair, comment) = match label {
            "OPENSSH PRIVATE KEY" => openssh::read(&bytes)?,
            "PRIVATE KEY" => (pkcs8(&bytes)?, String::new()),
            "RSA PRIVATE KEY" => (
                RsaKeyPair::from_der(&bytes).map(|k| Pair::Rsa(Box::new(k))).map_err(|_| KeyError::Kind)?,
                String::new(),
            ),
            "EC PRIVATE KEY" | "DSA PRIVATE KEY" => return Err(KeyError::Kind),
            _ => return Err(KeyError::Form),
        };
        Ok(Key { public: public(&pair), pair, comment })
    }

    /// The public key, as SSH writes it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// What the file says of the key.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// A signature, as SSH writes it; `None` where the key cannot make the kind that `flags` ask for.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let mut out = vec![];
        match &self.pair {
            Pair::Ed25519(pair) => {
                wire::put_string(&mut out, b"ssh-ed25519");
                wire::put_string(&mut out, pair.sign(data).as_ref());
            }
            Pair::Ecdsa(pair, curve) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at_checked(signature.as_ref().len() / 2)?;
                let mut both = vec![];
                wire::put_integer(&mut both, r);
                wire::put_integer(&mut both, s);
                wire::put_string(&mut out, format!("ecdsa-sha2-{curve}").as_bytes());
                wire::put_string(&mut out, &both);
            }
            Pair::Rsa(pair) => {
                // Signatures with SHA-1 are accepted by no server of the last years.
                let (name, padding) = match flags {
                    f if f & SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    f if f & SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                wire::put_string(&mut out, name.as_bytes());
                wire::put_string(&mut out, &signature);
            }
        }
        Some(out)
    }
}

/// The label and the text of the first block.
fn pem(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    Some((label, body))
}

fn pkcs8(der: &[u8]) -> Result<Pair, KeyError> {
    let random = SystemRandom::new();
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(Pair::Ed25519(pair));
    }
    for (algorithm, curve) in
        [(&ECDSA_P256_SHA256_FIXED_SIGNING, "nistp256"), (&ECDSA_P384_SHA384_FIXED_SIGNING, "nistp384")]
    {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, der, &random) {
            return Ok(Pair::Ecdsa(pair, curve));
        }
    }
    RsaKeyPair::from_pkcs8(der).map(|k| Pair::Rsa(Box::new(k))).map_err(|_| KeyError::Kind)
}

fn public(pair: &Pair) -> Vec<u8> {
    let mut out = vec![];
    match pair {
        Pair::Ed25519(pair) => {
            wire::put_string(&mut out, b"ssh-ed25519");
            wire::put_string(&mut out, pair.public_key().as_ref());
        }
        Pair::Ecdsa(pair, curve) => {
            wire::put_string(&mut out, format!("ecdsa-sha2-{curve}").as_bytes());
            wire::put_string(&mut out, curve.as_bytes());
            wire::put_string(&mut out, pair.public_key().as_ref());
        }
        Pair::Rsa(pair) => {
            let parts: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
            wire::put_string(&mut out, b"ssh-rsa");
            wire::put_integer(&mut out, &parts.e);
            wire::put_integer(&mut out, &parts.n);
        }
    }
    out
}
