//! Signatures of images as cosign makes them with a key: ECDSA over P-256 and SHA-256, of a small JSON payload that names the
//! manifest's digest.
//!
//! ```text
//! tag sha256-<hex>.sig ─► manifest ── layer: payload; its annotation is the signature
//!                             └── subject: the image's manifest
//! ```
//!
//! What makes a signature good: the bytes of the payload were signed by the key, and the payload names the digest that was asked for.
//! The name in it is a hint for people, and is compared by signature policies only: an image can be copied with its signatures.
//!
//! Formats: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>,
//! <https://github.com/containers/image/blob/main/docs/containers-signature.5.md>.

use super::Error;
use crate::oci::{Descriptor, Digest, Reference};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// Media type of a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// What a manifest of signatures is, for registries that list referrers.
pub const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// Annotation of a payload: its signature, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What payloads say that they are.
const TYPE: &str = "cosign container image signature";
/// A public key of P-256 in DER begins with these bytes; 65 of the key follow.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT: usize = 65;

/// A key that signs.
pub struct SigningKey(EcdsaKeyPair);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// Reads a private key: PKCS#8 in PEM, not encrypted.
    ///
    /// # Errors
    /// [`Error::Key`], which says what it is instead.
    pub fn parse(path: &Path, text: &str) -> Result<SigningKey, Error> {
        const MAKE: &str = "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`; cosign takes it with `cosign import-key-pair`";
        const CONVERT: &str = "convert it with `openssl pkcs8 -topk8 -nocrypt -in FILE`";
        let bad = |why, hint| Error::Key { path: path.to_owned(), why, hint };
        let (label, der) = pem(text).ok_or_else(|| bad("it is no key in PEM", MAKE))?;
        match label {
            "PRIVATE KEY" => {}
            "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" => {
                return Err(bad("cosign encrypted it, which rbuild cannot undo", MAKE));
            }
            "ENCRYPTED PRIVATE KEY" => return Err(bad("it is encrypted", CONVERT)),
            "EC PRIVATE KEY" => return Err(bad("it is not in PKCS#8", CONVERT)),
            "PUBLIC KEY" => return Err(bad("it is a public key", "name the private one")),
            _ => return Err(bad("it is no private key", MAKE)),
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new());
        pair.map(SigningKey).map_err(|_| bad("it is no ECDSA key of the curve P-256 with its public half", MAKE))
    }

    /// Its public half.
    pub fn public(&self) -> VerifyingKey {
        VerifyingKey(self.0.public_key().as_ref().to_vec())
    }

    fn sign(&self, payload: &[u8]) -> Result<String, Error> {
        let signature = self.0.sign(&SystemRandom::new(), payload).map_err(|_| Error::Random)?;
        Ok(BASE64.encode(signature))
    }
}

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey(Vec<u8>);

impl VerifyingKey {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn parse(path: &Path, text: &str) -> Result<VerifyingKey, Error> {
        let bad = |why| Error::Key {
            path: path.to_owned(),
            why,
            hint: "`openssl pkey -in KEY -pubout` writes the public half of a key",
        };
        let (label, der) = pem(text).ok_or_else(|| bad("it is no key in PEM"))?;
        if label != "PUBLIC KEY" {
            return Err(bad("it is no public key"));
        }
        let point = der.strip_prefix(&P256).filter(|point| point.len() == POINT);
        Ok(VerifyingKey(point.ok_or_else(|| bad("it is no ECDSA key of the curve P-256"))?.to_vec()))
    }

    fn signed(&self, payload: &[u8], signature: &str) -> bool {
        let Ok(signature) = BASE64.decode(signature) else { return false };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(payload, &signature).is_ok()
    }
}

/// Label and content of the first block of a PEM text.
fn pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let rest = text.split_once("-----BEGIN ")?.1;
    let (label, rest) = rest.split_once("-----")?;
    let body: String = rest.split_once("-----END ")?.0.split_whitespace().collect();
    // What cosign encrypts is base64, too; what OpenSSL encrypted long ago has headers.
    Some((label, BASE64.decode(body).unwrap_or_default()))
}

/// The tag under which the signatures of a manifest are.
pub fn tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

/// A payload with its signature: bytes, and a descriptor that carries the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The layer of the manifest of signatures.
    pub layer: Descriptor,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Signs the manifest `image` of the repository `name`.
///
/// # Errors
/// Where the system has no random numbers.
pub fn sign(key: &SigningKey, name: &Reference, image: &Digest) -> Result<Signed, Error> {
    let bare = Reference { tag: None, digest: None, ..name.clone() }.docker_normalized().to_string();
    // As cosign calls Docker's registry.
    let name = bare.strip_prefix("docker.io/").map_or(bare.clone(), |rest| format!("index.docker.io/{rest}"));
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": image.to_string()},
            "type": TYPE,
        },
        "optional": null,
    })
    .to_string()
    .into_bytes();
    let mut layer = Descriptor::of(PAYLOAD, &payload);
    layer.annotations.insert(SIGNATURE.into(), key.sign(&payload)?);
    Ok(Signed { layer, payload })
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(default)]
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
struct Identity {
    #[serde(default, rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Why a signature does not count.
///
/// # Errors
/// That: what is wrong with it.
pub fn verify(key: &VerifyingKey, signed: &Signed, image: &Digest) -> Result<(), &'static str> {
    if signed.layer.media_type != PAYLOAD {
        return Err("it is of another kind");
    }
    if Digest::of(&signed.payload) != signed.layer.digest {
        return Err("its payload is damaged");
    }
    let signature = signed.layer.annotations.get(SIGNATURE).ok_or("it has a payload and no signature")?;
    if !key.signed(&signed.payload, signature) {
        return Err("it was not made with this key");
    }
    let payload: Payload = serde_json::from_slice(&signed.payload).map_err(|_| "its payload does not parse")?;
    if payload.critical.kind != TYPE {
        return Err("it is not of an image");
    }
    if payload.critical.image.digest != image.to_string() {
        return Err("it is of another image");
    }
    Ok(())
}

/// The name that a signature was made for, where its payload parses. [`verify`] says whether that is the signer's word.
pub fn identity(signed: &Signed) -> Option<String> {
    serde_json::from_slice::<Payload>(&signed.payload).ok().map(|payload| payload.critical.identity.reference)
}

/// The manifest of these signatures of `image`, and its config.
///
/// # Errors
/// None in practice.
pub fn manifest(layers: Vec<Descriptor>, image: &Descriptor) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let diff_ids: Vec<String> = layers.iter().map(|l| l.digest.to_string()).collect();
    // The least that tools take for an image.
    let config = json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z", "os": "",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {},
    })
    .to_string()
    .into_bytes();
    let manifest = super::manifest::about(image, ARTIFACT, &config, layers);
    let bytes = serde_json::to_vec(&manifest).map_err(Error::json("a manifest of signatures"))?;
    Ok((bytes, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        let text = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(document));
        SigningKey::parse(Path::new("k"), &text).unwrap()
    }

    #[test]
    fn only_what_the_key_signed_counts() {
        let (key, image) = (key(), Digest::of("image"));
        let signed = sign(&key, &"a.b/c:1".parse().unwrap(), &image).unwrap();
        let public = key.public();
        assert_eq!(verify(&public, &signed, &image), Ok(()));
        assert_eq!(verify(&public, &signed, &Digest::of("other")), Err("it is of another image"));
        assert!(verify(&self::key().public(), &signed, &image).is_err());
        let text = String::from_utf8(signed.payload.clone()).unwrap();
        assert!(text.contains(r#""docker-reference":"a.b/c""#), "{text}");
        assert_eq!(identity(&signed).as_deref(), Some("a.b/c"));
        for at in 0..signed.payload.len() {
            let mut payload = signed.payload.clone();
            payload[at] ^= 1;
            // Also where whoever changed it kept the descriptor in step.
            let layer = Descriptor { digest: Digest::of(&payload), ..signed.layer.clone() };
            assert!(
                verify(&public, &Signed { payload: payload.clone(), layer: signed.layer.clone() }, &image).is_err()
            );
            assert!(verify(&public, &Signed { payload, layer }, &image).is_err(), "byte {at}");
        }
        let value = &signed.layer.annotations[SIGNATURE];
        for at in 0..value.len() {
            let mut changed = value.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let mut layer = signed.layer.clone();
            layer.annotations.insert(SIGNATURE.into(), String::from_utf8(changed).unwrap());
            // The last digit of base64 may hold bits that say nothing: those are refused as well.
            assert!(verify(&public, &Signed { layer, ..signed.clone() }, &image).is_err(), "character {at}");
        }
    }

    #[test]
    fn what_is_no_key_is_named() {
        let said = |text: &str| SigningKey::parse(Path::new("k"), text).unwrap_err().to_string();
        let block = |label: &str| format!("-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n");
        for (text, part) in [
            ("nothing".to_owned(), "no key in PEM"),
            (block("ENCRYPTED SIGSTORE PRIVATE KEY"), "cosign encrypted it"),
            (block("ENCRYPTED PRIVATE KEY"), "it is encrypted"),
            (block("EC PRIVATE KEY"), "not in PKCS#8"),
            (block("PUBLIC KEY"), "a public key"),
            (block("PRIVATE KEY"), "no ECDSA key of the curve P-256"),
            (block("CERTIFICATE"), "no private key"),
        ] {
            assert!(said(&text).contains(part), "{}", said(&text));
        }
        let public = VerifyingKey::parse(Path::new("k"), &block("PUBLIC KEY")).unwrap_err().to_string();
        assert!(public.contains("no ECDSA key of the curve P-256"), "{public}");
    }
}
