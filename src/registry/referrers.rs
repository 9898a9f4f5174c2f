//! Referrers: the manifests of a repository that have another one as their `subject`.
//!
//! Registries of the specification's version 1.1 list them on their own. For others the client keeps the list: an index
//! under a tag made of the subject's digest, `sha256-<hex>`. Two clients that write it at once can lose an entry of the list,
//! which the specification accepts; the manifests themselves stay.
//!
//! Format: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers>.

use super::{
    Document, Error, MAX_MANIFEST_BYTES, auth::Access, core::Place, host::Request, push::put_manifest, resolve,
};
use crate::oci::{Descriptor, Digest, Index, Reference, media};
use reqwest::Method;

/// The tag under which clients keep the list.
fn fallback(repository: &Reference, subject: &Digest) -> Reference {
    let tag = subject.to_string().replace(':', "-");
    Reference { tag: Some(tag), digest: None, ..repository.clone() }
}

/// The registry's own list; `None` where it has none.
async fn own(place: &Place, subject: &Digest, doing: &str) -> Result<Option<Index>, Error> {
    let path = format!("/v2/{}/referrers/{subject}", place.repository);
    let access = Access::pull(&place.repository);
    let body = place
        .retry()
        .run(|| async {
            let request = Request::new(doing, Method::GET, path.clone(), &access);
            place.host.send(request).await?.body(MAX_MANIFEST_BYTES).await
        })
        .await;
    match body {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if matches!(e.status(), Some(400 | 404 | 405 | 501)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The list that clients keep; an empty one where there is none.
async fn kept(place: &Place, tag: &Reference, doing: &str) -> Result<Index, Error> {
    let document = match resolve::manifest(place, tag, doing).await {
        Ok(document) => document,
        Err(e) if e.status() == Some(404) => return Ok(Index::empty()),
        Err(e) => return Err(e),
    };
    let corrupt = |why: String| Error::Corrupt { doing: doing.to_owned(), why };
    if !media::is_index(&document.media_type) {
        return Err(corrupt(format!("`{tag}` is no list of referrers, but a `{}`", document.media_type)));
    }
    serde_json::from_slice(&document.bytes).map_err(|e| corrupt(format!("list of referrers `{tag}`: {e}")))
}

/// What refers to `subject` in a repository.
pub(super) async fn all(
    place: &Place,
    repository: &Reference,
    subject: &Digest,
    doing: &str,
) -> Result<Vec<Descriptor>, Error> {
    let index = match own(place, subject, doing).await? {
        Some(index) => index,
        None => kept(place, &fallback(repository, subject), doing).await?,
    };
    Ok(index.manifests)
}

/// Sees to it that the manifest `entry`, which is in the repository, is listed among what refers to `subject`.
pub(super) async fn list(
    place: &Place,
    repository: &Reference,
    subject: &Digest,
    entry: &Descriptor,
    doing: &str,
) -> Result<(), Error> {
    if own(place, subject, doing).await?.is_some() {
        return Ok(());
    }
    let tag = fallback(repository, subject);
    let mut index = kept(place, &tag, doing).await?;
    if index.manifests.iter().any(|d| d.digest == entry.digest) {
        return Ok(());
    }
    index.manifests.push(Descriptor { platform: None, urls: vec![], ..entry.clone() });
    let bytes =
        serde_json::to_vec(&index).map_err(|e| Error::Corrupt { doing: doing.to_owned(), why: e.to_string() })?;
    let document = Document { media_type: media::OCI_INDEX.into(), bytes };
    put_manifest(place, &tag, &document, doing).await.map(drop)
}
