//! Signatures of images in registries, found where cosign puts them: under a tag made of the digest, and among the referrers.

use crate::attest::signature::{self, Signed};
use crate::error::{Classified, Kind};
use crate::oci::{Digest, Manifest, Reference};
use crate::registry::{self, Client, Document};

/// Longest payload that is read, in bytes.
const MAX_PAYLOAD: u64 = 1 << 20;
/// Most signatures of an image that are looked at.
const MAX_SIGNATURES: usize = 64;

/// Why signatures cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// What stands where signatures should does not parse.
    #[error("cannot parse a manifest of signatures: {0}")]
    Json(#[from] serde_json::Error),
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Registry(e) => e.kind(),
            Error::Json(_) => Kind::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Registry(e) => e.hint(),
            Error::Json(_) => None,
        }
    }

    fn retryable(&self) -> bool {
        matches!(self, Error::Registry(e) if e.retryable())
    }
}

/// The signatures under the tag of a manifest; none where there is no such tag. Nothing about them has been checked.
///
/// # Errors
/// Where the registry does not answer.
pub fn at_tag(client: &Client, repository: &Reference, image: &Digest) -> Result<Vec<Signed>, Error> {
    let place = Reference { tag: Some(signature::tag(image)), digest: None, ..repository.clone() };
    match client.fetch_manifest(&place) {
        Ok(document) => read(client, repository, &document),
        Err(e) if e.kind() == Kind::NotFound => Ok(vec![]),
        Err(e) => Err(e.into()),
    }
}

/// The same, and those that the registry lists as referrers of the manifest.
///
/// # Errors
/// As [`at_tag`].
pub fn all(client: &Client, repository: &Reference, image: &Digest) -> Result<Vec<Signed>, Error> {
    let mut all = at_tag(client, repository, image)?;
    for entry in client.referrers(repository, image)?.into_iter().take(MAX_SIGNATURES) {
        let is_signature = entry.artifact_type.as_deref() == Some(signature::ARTIFACT);
        if is_signature {
            let place = Reference { tag: None, digest: Some(entry.digest), ..repository.clone() };
            let document = match client.fetch_manifest(&place) {
                Ok(document) => document,
                // A list that clients keep can name what is gone.
                Err(e) if e.kind() == Kind::NotFound => continue,
                Err(e) => return Err(e.into()),
            };
            for one in read(client, repository, &document)? {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
    }
    Ok(all)
}

fn read(client: &Client, repository: &Reference, document: &Document) -> Result<Vec<Signed>, Error> {
    let manifest: Manifest = serde_json::from_slice(&document.bytes)?;
    let mut all = vec![];
    for layer in manifest.layers.into_iter().take(MAX_SIGNATURES) {
        if layer.size > MAX_PAYLOAD {
            continue;
        }
        let mut payload = vec![];
        client.fetch_blob(repository, &layer, &mut payload)?;
        all.push(Signed { layer, payload });
    }
    Ok(all)
}
