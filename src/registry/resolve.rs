//! From a name to the manifest and config of an image for one platform.

use super::{Error, auth::Access, core::Place, host::Request};
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media};
use reqwest::{
    Method,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;

/// Longest manifest or index that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest image config that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// Indexes inside indexes that are followed.
const MAX_INDEX_DEPTH: usize = 4;
/// The digest of an answer's body.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What a name may lead to.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A document as a registry stores it: its bytes and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Media type.
    pub media_type: String,
    /// The exact bytes, which the digest is taken of.
    pub bytes: Vec<u8>,
}

impl Document {
    /// The descriptor of these bytes.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(&self.media_type, &self.bytes)
    }
}

/// An image that a registry has: everything but its layers.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name that was resolved, with registry and with tag or digest.
    pub reference: Reference,
    /// Descriptor of the image manifest.
    pub descriptor: Descriptor,
    /// The image manifest.
    pub manifest: Manifest,
    /// The image manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The index that the name led to, where it was one.
    pub index: Option<(Descriptor, Vec<u8>)>,
    /// The image config.
    pub config: ImageConfig,
    /// The image config's bytes.
    pub config_bytes: Vec<u8>,
}

/// Finds the image of a platform in one place.
pub(super) async fn resolve(
    place: &Place,
    reference: &Reference,
    platform: &Platform,
    doing: &str,
) -> Result<Resolved, Error> {
    let corrupt = |why: String| Error::Corrupt { doing: doing.to_owned(), why };
    let mut document = manifest(place, reference, doing).await?;
    let mut index = None;
    let mut depth = 0;
    while media::is_index(&document.media_type) {
        depth += 1;
        if depth > MAX_INDEX_DEPTH {
            return Err(corrupt(format!("indexes inside indexes, more than {MAX_INDEX_DEPTH} deep")));
        }
        let parsed: Index = serde_json::from_slice(&document.bytes)
            .map_err(|e| corrupt(format!("index `{}`: {e}", document.descriptor().digest)))?;
        let chosen = choose(&parsed, platform).ok_or_else(|| Error::NoPlatform {
            doing: doing.to_owned(),
            platform: platform.to_string(),
            available: available(&parsed),
        })?;
        let (digest, size) = (chosen.digest, chosen.size);
        let outer = (document.descriptor(), std::mem::take(&mut document.bytes));
        index.get_or_insert(outer);
        document = manifest_by(place, &digest.to_string(), Some(digest), doing).await?;
        if document.bytes.len() as u64 != size {
            return Err(corrupt(format!(
                "manifest `{digest}` has {} bytes where its index says {size}",
                document.bytes.len()
            )));
        }
    }
    if !media::is_manifest(&document.media_type) {
        return Err(Error::Unsupported {
            doing: doing.to_owned(),
            why: format!("its manifest is of type `{}`, which is not an image", document.media_type),
        });
    }
    let descriptor = document.descriptor();
    let manifest: Manifest = serde_json::from_slice(&document.bytes)
        .map_err(|e| corrupt(format!("manifest `{}`: {e}", descriptor.digest)))?;
    if manifest.config.media_type != media::OCI_CONFIG && manifest.config.media_type != media::DOCKER_CONFIG {
        return Err(Error::Unsupported {
            doing: doing.to_owned(),
            why: format!("its config is of type `{}`, which is not an image's", manifest.config.media_type),
        });
    }
    let config_bytes = small_blob(place, &manifest.config, MAX_CONFIG_BYTES, doing).await?;
    let config: ImageConfig = serde_json::from_slice(&config_bytes)
        .map_err(|e| corrupt(format!("config `{}`: {e}", manifest.config.digest)))?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(corrupt(format!(
            "its config lists {} layers, its manifest {}",
            config.rootfs.diff_ids.len(),
            manifest.layers.len()
        )));
    }
    Ok(Resolved {
        reference: reference.clone(),
        descriptor,
        manifest,
        manifest_bytes: document.bytes,
        index,
        config,
        config_bytes,
    })
}

/// The manifest or index behind a name.
pub(super) async fn manifest(place: &Place, reference: &Reference, doing: &str) -> Result<Document, Error> {
    match reference.digest {
        Some(digest) => manifest_by(place, &digest.to_string(), Some(digest), doing).await,
        None => manifest_by(place, reference.tag_or_latest().unwrap_or("latest"), None, doing).await,
    }
}

fn accept_manifests() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
    headers
}

async fn manifest_by(place: &Place, name: &str, digest: Option<Digest>, doing: &str) -> Result<Document, Error> {
    let path = format!("/v2/{}/manifests/{name}", place.repository);
    let access = Access::pull(&place.repository);
    place
        .retry()
        .run(|| async {
            let mut request = Request::new(doing, Method::GET, path.clone(), &access);
            request.headers = accept_manifests();
            let answer = place.host.send(request).await?;
            let announced = answer.header(CONTENT_DIGEST).and_then(|d| d.parse::<Digest>().ok());
            let content_type = answer.header(CONTENT_TYPE).map(str::to_owned);
            let bytes = answer.body(MAX_MANIFEST_BYTES).await?;
            let found = Digest::of(&bytes);
            if let Some(expected) = digest.or(announced)
                && expected != found
            {
                let why = format!("manifest `{name}` has digest `{found}` where `{expected}` was expected");
                return Err(Error::Corrupt { doing: doing.to_owned(), why });
            }
            let media_type = media_type_of(&bytes, content_type.as_deref())
                .map_err(|why| Error::Corrupt { doing: doing.to_owned(), why: format!("manifest `{found}`: {why}") })?;
            Ok(Document { media_type, bytes })
        })
        .await
}

/// What a name points at, by HEAD where the registry answers that in full.
pub(super) async fn head(place: &Place, reference: &Reference, doing: &str) -> Result<Descriptor, Error> {
    let name = match (reference.digest, reference.tag_or_latest()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let path = format!("/v2/{}/manifests/{name}", place.repository);
    let access = Access::pull(&place.repository);
    let answer = place
        .retry()
        .run(|| {
            let mut request = Request::new(doing, Method::HEAD, path.clone(), &access);
            request.headers = accept_manifests();
            place.host.send(request)
        })
        .await;
    match answer {
        Ok(answer) => {
            let digest = answer.header(CONTENT_DIGEST).and_then(|d| d.parse::<Digest>().ok());
            let media_type = answer.header(CONTENT_TYPE).map(bare);
            if let (Some(digest), Some(size), Some(media_type)) = (digest, answer.length(), media_type) {
                return Ok(Descriptor::new(media_type, digest, size));
            }
        }
        Err(e) if matches!(e.status(), Some(405 | 501)) => {}
        Err(e) => return Err(e),
    }
    Ok(manifest(place, reference, doing).await?.descriptor())
}

/// A blob that is held in memory, checked.
pub(super) async fn small_blob(place: &Place, blob: &Descriptor, limit: u64, doing: &str) -> Result<Vec<u8>, Error> {
    let corrupt = |why: String| Error::Corrupt { doing: doing.to_owned(), why };
    if blob.size > limit {
        return Err(corrupt(format!("blob `{}` of {} bytes is larger than the limit {limit}", blob.digest, blob.size)));
    }
    let path = format!("/v2/{}/blobs/{}", place.repository, blob.digest);
    let access = Access::pull(&place.repository);
    place
        .retry()
        .run(|| async {
            let answer = place.host.send(Request::new(doing, Method::GET, path.clone(), &access)).await?;
            let bytes = answer.body(blob.size).await?;
            let found = Digest::of(&bytes);
            if found != blob.digest || bytes.len() as u64 != blob.size {
                return Err(corrupt(format!(
                    "blob `{}` of {} bytes came as `{found}` of {} bytes",
                    blob.digest,
                    blob.size,
                    bytes.len()
                )));
            }
            Ok(bytes)
        })
        .await
}

/// A media type without its parameters.
fn bare(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The media type that a document states itself; else the registry's word for it; else what it looks like.
fn media_type_of(bytes: &[u8], content_type: Option<&str>) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: u64,
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        config: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if shape.schema_version == 1 {
        return Err("schema version 1 is not supported: push the image again with a newer tool".into());
    }
    // a document that could be read both ways would be one thing to us and another to the next tool
    if shape.manifests.is_some() && (shape.config.is_some() || shape.layers.is_some()) {
        return Err("it has the fields of an index and of an image manifest at once".into());
    }
    if let Some(own) = shape.media_type.filter(|m| !m.is_empty()) {
        return Ok(own);
    }
    match content_type.map(bare) {
        Some(m) if media::is_index(m) || media::is_manifest(m) => Ok(m.to_owned()),
        _ if shape.manifests.is_some() => Ok(media::OCI_INDEX.to_owned()),
        _ if shape.config.is_some() => Ok(media::OCI_MANIFEST.to_owned()),
        other => Ok(other.unwrap_or("application/octet-stream").to_owned()),
    }
}

/// The entry that fits a platform best: the same variant, else the next lower one of 32-bit ARM, else any that serves.
fn choose<'a>(index: &'a Index, platform: &Platform) -> Option<&'a Descriptor> {
    let wanted = platform.clone().normalized();
    let arm_level = |p: &Platform| p.variant.as_deref().and_then(|v| v.strip_prefix('v')?.parse::<u32>().ok());
    let rank = |d: &Descriptor| -> Option<u32> {
        if !(media::is_manifest(&d.media_type) || media::is_index(&d.media_type)) {
            return None;
        }
        let Some(offered) = d.platform.clone().map(Platform::normalized) else {
            // an entry that says nothing serves where nothing better does
            return Some(1000);
        };
        if offered.os != wanted.os || offered.architecture != wanted.architecture {
            return None;
        }
        if offered.variant == wanted.variant {
            return Some(0);
        }
        match (wanted.architecture.as_str(), arm_level(&wanted), arm_level(&offered)) {
            ("arm", Some(want), Some(have)) => (have < want).then(|| want - have),
            _ => wanted.accepts(&offered).then_some(100),
        }
    };
    let mut ranked: Vec<(u32, &Descriptor)> = index.manifests.iter().filter_map(|d| Some((rank(d)?, d))).collect();
    // stable: the first of equals wins
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.first().map(|(_, d)| *d)
}

fn available(index: &Index) -> String {
    let names: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|d| d.platform.as_ref())
        .filter(|p| p.os != "unknown")
        .take(32)
        .map(|p| format!("`{p}`"))
        .collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Index {
        let mut index = Index::empty();
        for p in platforms {
            let mut d = Descriptor::of(media::OCI_MANIFEST, p.as_bytes());
            d.platform = p.strip_prefix('!').map_or_else(|| p.parse().ok(), |_| None);
            index.manifests.push(d);
        }
        index
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let all = ["linux/arm/v5", "linux/arm/v6", "linux/amd64", "linux/arm64", "linux/arm/v7", "windows/amd64"];
        for (offered, wanted, want) in [
            (&all[..], "linux/amd64", Some("linux/amd64")),
            (&all, "linux/arm64/v8", Some("linux/arm64")),
            (&all, "linux/arm/v7", Some("linux/arm/v7")),
            (&all[..4], "linux/arm/v7", Some("linux/arm/v6")),
            (&all[1..2], "linux/arm/v5", None),
            (&all, "windows/amd64", Some("windows/amd64")),
            (&all, "linux/s390x", None),
            (&["!", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["!"], "linux/amd64", Some("!")),
            (&["unknown/unknown"], "linux/amd64", None),
            (&[], "linux/amd64", None),
        ] {
            let index = index(offered);
            let chosen = choose(&index, &wanted.parse().unwrap()).map(|d| d.digest);
            assert_eq!(chosen, want.map(|w| Digest::of(w.as_bytes())), "{wanted} of {offered:?}");
        }
    }

    #[test]
    fn documents_say_what_they_are() {
        let of = |text: &str, header: Option<&str>| media_type_of(text.as_bytes(), header);
        assert_eq!(of(r#"{"mediaType":"a/b"}"#, Some("c/d")).unwrap(), "a/b");
        let with_parameters = format!("{}; charset=utf-8", media::DOCKER_LIST);
        assert_eq!(of(r#"{"manifests":[]}"#, Some(&with_parameters)).unwrap(), media::DOCKER_LIST);
        assert_eq!(of(r#"{"manifests":[]}"#, Some("application/json")).unwrap(), media::OCI_INDEX);
        assert_eq!(of(r#"{"config":{},"layers":[]}"#, None).unwrap(), media::OCI_MANIFEST);
        assert!(of(r#"{"config":{},"layers":[],"manifests":[]}"#, None).is_err());
        assert!(of(r#"{"schemaVersion":1}"#, None).unwrap_err().contains("version 1"));
        assert!(of("<html>", None).is_err());
    }
}
