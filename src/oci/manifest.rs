//! Descriptors, image manifests and indexes, in both spellings: OCI and Docker schema 2.

use super::{Digest, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types, as registries and archives spell them.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, uncompressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd (no registry promises to take it).
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    /// Annotation: digest of the table of contents of an eStargz layer.
    pub const ESTARGZ_TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
    /// Annotation: length of an eStargz layer's tar.
    pub const ESTARGZ_SIZE: &str = "io.containers.estargz.uncompressed-size";
    /// Annotation: digest of the compressed table of contents of a zstd:chunked layer.
    pub const ZSTD_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
    /// Annotation: where that is, as `offset:length:length of the text:1`.
    pub const ZSTD_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
    /// Annotation: where what is kept of the headers is, as `offset:length:length of the text`.
    pub const ZSTD_TAR_SPLIT: &str = "io.github.containers.zstd-chunked.tarsplit-position";

    /// Annotations that belong to the bytes of a layer.
    pub const OF_LAYERS: [&str; 5] = [ESTARGZ_TOC, ESTARGZ_SIZE, ZSTD_CHECKSUM, ZSTD_POSITION, ZSTD_TAR_SPLIT];

    /// Whether this media type is an index (OCI) or a manifest list (Docker).
    pub fn is_index(m: &str) -> bool {
        m == OCI_INDEX || m == DOCKER_LIST
    }

    /// Whether this media type is an image manifest of either spelling.
    pub fn is_manifest(m: &str) -> bool {
        m == OCI_MANIFEST || m == DOCKER_MANIFEST
    }
}

/// Which spelling a manifest is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManifestFormat {
    /// OCI image manifest.
    #[default]
    Oci,
    /// Docker schema 2.
    Docker,
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// gzip with a table of contents, in a form that makes it another tar: eStargz.
    Estargz,
    /// zstd with a table of contents: zstd:chunked.
    ZstdChunked,
}

impl Compression {
    /// The words that flags know.
    pub const NAMES: &str = "use `gzip`, `zstd`, `estargz`, `zstd:chunked` or `none`";

    /// How a flag calls it; `None` for words that mean nothing here.
    pub fn of_name(name: &str) -> Option<Compression> {
        use Compression::{Estargz, Gzip, None, Zstd, ZstdChunked};
        [None, Gzip, Zstd, Estargz, ZstdChunked].into_iter().find(|c| c.name() == name)
    }

    /// How a layer is compressed, by its media type and annotations; `None` for what is no layer.
    pub fn of(layer: &Descriptor) -> Option<Compression> {
        let has = |name| layer.annotations.contains_key(name);
        match Compression::of_layer(&layer.media_type)? {
            Compression::Gzip if has(media::ESTARGZ_TOC) => Some(Compression::Estargz),
            Compression::Zstd if has(media::ZSTD_CHECKSUM) => Some(Compression::ZstdChunked),
            other => Some(other),
        }
    }

    /// What it is for who knows nothing of tables of contents.
    pub fn without_index(self) -> Compression {
        match self {
            Compression::Estargz => Compression::Gzip,
            Compression::ZstdChunked => Compression::Zstd,
            other => other,
        }
    }

    /// The highest level.
    pub fn most(self) -> u32 {
        match self.without_index() {
            Compression::Gzip => 9,
            Compression::Zstd => 22,
            _ => 0,
        }
    }

    /// How a layer of this media type is compressed; `None` for a media type that is no layer's.
    pub fn of_layer(media_type: &str) -> Option<Compression> {
        match media_type {
            media::OCI_LAYER | media::DOCKER_LAYER => Some(Compression::None),
            media::OCI_LAYER_GZIP | media::DOCKER_LAYER_GZIP => Some(Compression::Gzip),
            media::OCI_LAYER_ZSTD | media::DOCKER_LAYER_ZSTD => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// The media type of a layer that is compressed so.
    pub fn layer_type(self, format: ManifestFormat) -> &'static str {
        let docker = format == ManifestFormat::Docker;
        match self {
            Compression::None if docker => media::DOCKER_LAYER,
            Compression::None => media::OCI_LAYER,
            Compression::Gzip | Compression::Estargz if docker => media::DOCKER_LAYER_GZIP,
            Compression::Gzip | Compression::Estargz => media::OCI_LAYER_GZIP,
            Compression::Zstd | Compression::ZstdChunked if docker => media::DOCKER_LAYER_ZSTD,
            Compression::Zstd | Compression::ZstdChunked => media::OCI_LAYER_ZSTD,
        }
    }

    /// The name that flags and the store use: `none`, `gzip`, `zstd`, `estargz`, `zstd:chunked`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Estargz => "estargz",
            Compression::ZstdChunked => "zstd:chunked",
        }
    }
}

/// Points at a blob: what it is, its digest and its length in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where else the blob can be fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
    /// Type of the artifact, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            urls: vec![],
            annotations: BTreeMap::new(),
            artifact_type: None,
        }
    }

    /// The descriptor of these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// An image manifest: one config, and layers from the lowest to the highest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type; some old OCI manifests leave it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Type of the artifact, for what is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

/// An index (OCI) or manifest list (Docker): one descriptor for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type; an OCI layout's `index.json` may leave it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Type of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An empty OCI index.
    pub fn empty() -> Self {
        Index {
            schema_version: 2,
            media_type: media::OCI_INDEX.into(),
            artifact_type: None,
            manifests: vec![],
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Go writers put `null` where a list or map is empty.
pub(super) fn null_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}
