//! From the last step of a build to an image in the store: config, manifest, name.

use super::{Error, stack::Layer};
use crate::oci::{ContainerConfig, Descriptor, Digest, History, ImageConfig, Manifest, ManifestFormat, RootFs, media};
use crate::source::image::Image;
use crate::store::Store;
use std::collections::BTreeMap;

use super::request::{MetadataOptions, PlatformOptions};

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image id: the digest of its config.
    pub id: Digest,
    /// Its manifest. Layers that the build made lie uncompressed, so a push gives the manifest another digest.
    pub manifest: Descriptor,
    /// Full names in the store that point at it now.
    pub names: Vec<String>,
}

/// The OCI spelling of a layer's media type.
pub(super) fn oci_layer_type(docker_or_oci: &str) -> &str {
    match docker_or_oci {
        media::DOCKER_LAYER => media::OCI_LAYER,
        media::DOCKER_LAYER_GZIP => media::OCI_LAYER_GZIP,
        media::DOCKER_LAYER_ZSTD => media::OCI_LAYER_ZSTD,
        other => other,
    }
}

/// The Docker spelling of a layer's media type.
fn docker_layer_type(oci: &str) -> &str {
    match oci {
        media::OCI_LAYER => media::DOCKER_LAYER,
        media::OCI_LAYER_GZIP => media::DOCKER_LAYER_GZIP,
        media::OCI_LAYER_ZSTD => media::DOCKER_LAYER_ZSTD,
        other => other,
    }
}

/// What the image is made of.
pub(super) struct Parts<'a> {
    /// Config of the stage, with platform and author; layers and history are filled in here.
    pub image: ImageConfig,
    /// The container config after the last step.
    pub config: ContainerConfig,
    /// Creation time, RFC 3339.
    pub created: String,
    /// All layers, lowest first.
    pub layers: Vec<Layer>,
    /// All history entries.
    pub history: Vec<History>,
    /// The base image.
    pub base: Option<&'a Image>,
}

/// Writes config and manifest. The image has no name yet.
pub(super) fn write(
    store: &Store,
    parts: Parts,
    metadata: &MetadataOptions,
    platform: &PlatformOptions,
    format: ManifestFormat,
) -> Result<(Digest, Descriptor), Error> {
    let mut config = parts.image;
    config.config = parts.config;
    adjust(&mut config.config, parts.base, metadata);
    set_platform(&mut config, platform);
    config.created = Some(parts.created.clone());
    config.rootfs = RootFs { diff_ids: parts.layers.iter().map(|l| l.diff_id).collect(), ..RootFs::default() };
    config.history = if metadata.omit_history { vec![] } else { parts.history };
    let bytes = serde_json::to_vec(&config).map_err(|source| Error::Json { what: "the image config", source })?;
    let id = store.put_blob(&bytes)?;

    let docker = format == ManifestFormat::Docker;
    let layer = |l: &Layer| {
        let media_type = if docker { docker_layer_type(&l.media_type) } else { &l.media_type };
        Descriptor::new(media_type, l.blob, l.size)
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: if docker { media::DOCKER_MANIFEST } else { media::OCI_MANIFEST }.into(),
        artifact_type: None,
        config: Descriptor::of(if docker { media::DOCKER_CONFIG } else { media::OCI_CONFIG }, &bytes),
        layers: parts.layers.iter().map(layer).collect(),
        subject: None,
        annotations: if docker { BTreeMap::new() } else { annotations(metadata, parts.base, &parts.created) },
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::Json { what: "the image manifest", source })?;
    store.put_blob(&bytes)?;
    Ok((id, Descriptor::of(&manifest.media_type, &bytes)))
}

/// The platform that the image says it is for: the one that the user named, also on a base for another one
/// (`FROM --platform=$BUILDPLATFORM`). Of the same architecture, the base knows its variant best.
fn set_platform(config: &mut ImageConfig, platform: &PlatformOptions) {
    let target = &platform.target;
    if platform.explicit && (&config.os, &config.architecture) != (&target.os, &target.architecture) {
        config.os.clone_from(&target.os);
        config.architecture.clone_from(&target.architecture);
        config.variant.clone_from(&target.variant);
    }
    if platform.os_version.is_some() {
        config.os_version.clone_from(&platform.os_version);
    }
    for feature in &platform.os_features {
        if !config.os_features.contains(feature) {
            config.os_features.push(feature.clone());
        }
    }
}

/// What the command line changes of the container config.
fn adjust(config: &mut ContainerConfig, base: Option<&Image>, metadata: &MetadataOptions) {
    let of_base = |name: &String, value: &String| base.is_some_and(|b| b.config.config.labels.get(name) == Some(value));
    config.labels.retain(|name, value| {
        let given = metadata.labels.iter().any(|(n, _)| n == name);
        given || (!metadata.unset_labels.contains(name) && (metadata.inherit_labels || !of_base(name, value)))
    });
    for (name, value) in &metadata.env {
        config.set_env(name, value);
    }
    config.env.retain(|e| !metadata.unset_env.iter().any(|n| e.split_once('=').map_or(e.as_str(), |(k, _)| k) == n));
}

/// The manifest's annotations, as buildah makes them: the base's, where they came from, and what the user set.
fn annotations(metadata: &MetadataOptions, base: Option<&Image>, created: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Some(base) = base {
        if metadata.inherit_annotations {
            all.extend(base.manifest.annotations.clone());
        }
        all.insert("org.opencontainers.image.base.digest".into(), base.descriptor.digest.to_string());
        all.insert("org.opencontainers.image.base.name".into(), base.reference.to_string());
    }
    if metadata.created_annotation {
        all.insert("org.opencontainers.image.created".into(), created.to_owned());
    } else {
        all.remove("org.opencontainers.image.created");
    }
    for name in &metadata.unset_annotations {
        all.remove(name);
    }
    all.extend(metadata.annotations.iter().cloned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Platform;

    #[test]
    fn the_platform_that_was_asked_for() {
        let asked = |base: &str, target: &str, explicit: bool| {
            let mut config = ImageConfig::scratch(&base.parse::<Platform>().unwrap());
            set_platform(
                &mut config,
                &PlatformOptions { target: target.parse().unwrap(), explicit, ..Default::default() },
            );
            config.platform().to_string()
        };
        assert_eq!(asked("linux/amd64", "linux/arm/v7", true), "linux/arm/v7");
        assert_eq!(asked("linux/amd64", "linux/arm/v7", false), "linux/amd64");
        assert_eq!(asked("linux/amd64/v2", "linux/amd64", true), "linux/amd64/v2");
        assert_eq!(asked("linux/arm/v7", "linux/amd64", true), "linux/amd64");
        assert_eq!(asked("linux/amd64", "linux/amd64/v2", true), "linux/amd64");
    }
}
