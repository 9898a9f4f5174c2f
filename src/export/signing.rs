//! Signatures of images in registries: put beside them, and found again.

use super::Error;
use crate::attest::signature::{self, Signed, SigningKey, VerifyingKey};
use crate::oci::{Descriptor, Digest, Reference, media};
use crate::registry::{Client, Document, LayerSource, PushSource, UploadMemory};
use crate::source::signatures;
use std::io::{self, Read};

/// Signs what was pushed, and puts the signature beside it: under the tag that cosign looks for, and as a referrer. Signatures that are
/// there stay; where one of them was made with the same key, there is nothing to do.
///
/// # Errors
/// Where the registry does not answer or does not take it.
pub fn sign(client: &Client, to: &Reference, image: &Descriptor, key: &SigningKey) -> Result<(), Error> {
    let mut all = signatures::at_tag(client, to, &image.digest)?;
    let public = key.public();
    if all.iter().any(|one| signature::verify(&public, one, &image.digest).is_ok()) {
        return Ok(());
    }
    all.push(signature::sign(key, to, &image.digest)?);
    let layers = all.iter().map(|one| one.layer.clone()).collect();
    let (manifest, config) = signature::manifest(layers, image)?;
    let place = Reference { tag: Some(signature::tag(&image.digest)), digest: None, ..to.clone() };
    let pushed = client.push(&place, &Signatures { all, config, manifest }, &|_| ())?;
    let listed = Descriptor { artifact_type: Some(signature::ARTIFACT.to_owned()), ..pushed };
    Ok(client.list_referrer(to, &image.digest, &listed)?)
}

/// The payloads of those signatures of a manifest that `key` made.
///
/// # Errors
/// Where there is none, or the registry does not answer.
pub fn verify(client: &Client, from: &Reference, image: &Digest, key: &VerifyingKey) -> Result<Vec<Vec<u8>>, Error> {
    let mut reason = None;
    let mut good = vec![];
    for one in signatures::all(client, from, image)? {
        match signature::verify(key, &one, image) {
            Ok(()) => good.push(one.payload),
            Err(why) => reason = Some(why),
        }
    }
    if good.is_empty() {
        let name = Reference { tag: None, digest: Some(*image), ..from.clone() };
        return Err(Error::Signature { image: name.to_string(), why: reason.unwrap_or("it has none") });
    }
    Ok(good)
}

/// Signatures as the registry client asks for them.
struct Signatures {
    all: Vec<Signed>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl UploadMemory for Signatures {}

impl PushSource for Signatures {
    fn layers(&self) -> Vec<LayerSource<'_>> {
        let layer = |one: &'_ Signed| -> LayerSource<'_> {
            let payload = one.payload.clone();
            let open = move || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(io::Cursor::new(payload.clone()))) };
            LayerSource::Known { descriptor: one.layer.clone(), mount_from: None, open: Box::new(open) }
        };
        self.all.iter().map(layer).collect()
    }

    fn config(&self) -> Document {
        Document { media_type: media::OCI_CONFIG.into(), bytes: self.config.clone() }
    }

    fn finish(&self, _: &[Descriptor], _: &Descriptor) -> io::Result<Document> {
        Ok(Document { media_type: media::OCI_MANIFEST.into(), bytes: self.manifest.clone() })
    }
}
