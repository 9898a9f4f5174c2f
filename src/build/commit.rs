//! From the last step of a build to an image in the store: config, manifest, name.

use super::{
    Error,
    execute::{Done, Executor, chain},
    stack::{Layer, Stack},
    store_names,
};
use crate::archive::diff;
use crate::cache::{Elsewhere, RemoteLayer, inline, spec::Place};
use crate::oci::{
    Compression, ContainerConfig, Descriptor, Digest, History, ImageConfig, Location, Manifest, ManifestFormat, RootFs,
    media,
};
use crate::plan::StepId;
use crate::source::image::Image;
use crate::store::Store;
use crate::ui::Event;
use std::collections::BTreeMap;
use std::sync::PoisonError;

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
    /// Where layers are that the store does not have, since the image is only pushed.
    pub elsewhere: Elsewhere,
    /// What is said about it: an entry for the index that it becomes part of.
    pub attestation: Option<Descriptor>,
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
struct Parts<'a> {
    /// Config of the stage, with platform and author; layers and history are filled in here.
    image: ImageConfig,
    /// The container config after the last step.
    config: ContainerConfig,
    /// Creation time, RFC 3339.
    created: String,
    /// All layers, lowest first.
    layers: Vec<Layer>,
    /// All history entries.
    history: Vec<History>,
    /// The base image.
    base: Option<&'a Image>,
}

impl Executor<'_> {
    /// Makes an image of the last step of the target, and gives it its names.
    pub(super) fn commit(&self, results: &[Done]) -> Result<Built, Error> {
        let stage = &self.plan.stages[self.plan.target];
        let last = &results[stage.last.0];
        let config = &self.plan.steps[stage.last.0].config;
        let names = store_names(self.request);
        let sink = self.around.sink;
        let first = self.request.output.destinations.first().map(ToString::to_string);
        sink.event(&Event::CommitStarted { name: first.as_deref() });
        if let Some(base) = last.stack.base().filter(|_| !self.request.output.only_pushed) {
            self.images.fetch(base, &|_| {})?;
        }
        let epoch = self.epoch().and_then(|s| jiff::Timestamp::from_second(s).ok()).map(|t| t.to_string());
        let (mut history, mut newest) = (self.history(stage.last, results, epoch.as_deref()), None::<String>);
        for done in chain(self.plan, stage.last).iter().map(|id| &results[id.0]) {
            newest = newest.max(done.created.clone());
        }
        let layers = if self.request.output.squash {
            history.iter_mut().for_each(|h| h.empty_layer = true);
            let layer = self.squash(&last.stack)?;
            match history.last_mut() {
                Some(entry) => entry.empty_layer = false,
                None => history.push(History { created: epoch.clone(), ..History::default() }),
            }
            vec![layer]
        } else {
            let mut layers = last.stack.base_layers();
            for layer in self.brought(last.stack.made())? {
                layers.push(self.retimed(layer)?);
            }
            layers
        };
        let elsewhere = self.elsewhere(&last.stack, &layers)?;
        let parts = Parts {
            image: self.with_entries(stage.image.clone(), &layers),
            config: (**config).clone(),
            // An image of nothing but FROM is as old as its base.
            created: epoch
                .or(newest)
                .or_else(|| last.stack.base()?.config.created.clone())
                .unwrap_or_else(|| self.first_time(&self.plan.steps[stage.last.0], last.stack.chain(), None)),
            layers,
            history,
            base: last.stack.base().map(|b| &**b),
        };
        let (id, manifest) = write(
            self.around.store,
            parts,
            &self.request.metadata,
            &self.request.platform,
            self.request.output.format,
        )?;
        if self.around.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let local = self.request.output.destinations.iter().all(|d| matches!(d, Location::Store(_)));
        if (local || !names.is_empty()) && !self.request.output.part {
            self.around.store.publish(&names, &manifest)?;
        }
        sink.event(&Event::Committed { id: &id.hex() });
        for name in &names {
            sink.event(&Event::Tagged { name });
        }
        Ok(Built { id, manifest, names, elsewhere, attestation: None })
    }

    /// Layers of cached steps, fetched where they must be in the store; else as the blobs that the caches have.
    fn brought(&self, layers: Vec<Layer>) -> Result<Vec<Layer>, Error> {
        let stays = |layer: &Layer| -> Result<bool, Error> {
            let Some(remote) = &layer.remote else { return Ok(true) };
            Ok(self.may_stay_away(remote) || self.around.store.blob_size(&layer.blob)? == Some(layer.size))
        };
        let mut missing = vec![];
        for layer in &layers {
            if !stays(layer)? {
                missing.extend(&layer.remote);
            }
        }
        self.shared.bring_all(&missing)?;
        let stored = |layer: Layer| -> Result<Layer, Error> {
            let Some(remote) = &layer.remote else { return Ok(layer) };
            if self.around.store.blob_size(&layer.blob)? == Some(layer.size) {
                return Ok(layer);
            }
            let media_type = oci_layer_type(&remote.blob.media_type).to_owned();
            Ok(Layer { blob: remote.blob.digest, size: remote.blob.size, media_type, ..layer.clone() })
        };
        layers.into_iter().map(stored).collect()
    }

    /// Whether a layer of a cache can be part of the image as the blob that the cache has.
    pub(super) fn may_stay_away(&self, remote: &RemoteLayer) -> bool {
        let output = &self.request.output;
        let fits = Compression::of(&remote.blob) == Some(output.compression.unwrap_or(Compression::Gzip));
        fits && output.compression_level.is_none() && output.only_pushed && self.times() == diff::Times::default()
    }

    /// Where those of the image's layers are that the store does not have.
    fn elsewhere(&self, stack: &Stack, layers: &[Layer]) -> Result<Elsewhere, Error> {
        let mut elsewhere = Elsewhere::default();
        for layer in layers {
            if self.around.store.blob_size(&layer.blob)?.is_some() {
                continue;
            }
            match (&layer.remote, stack.base()) {
                (Some(remote), _) => elsewhere.add_cache(remote),
                (None, Some(base)) => elsewhere.add_image(layer.blob, &base.reference),
                (None, None) => {}
            }
        }
        Ok(elsewhere)
    }

    /// The config with the entries of the image's own steps, where they are asked for; never with those of its base.
    fn with_entries(&self, mut config: ImageConfig, layers: &[Layer]) -> ImageConfig {
        config.extra.remove(inline::MEMBER);
        if !self.request.cache.to.iter().any(|spec| spec.place == Place::Inline) {
            return config;
        }
        let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id).collect();
        let steps = self.inline.lock().unwrap_or_else(PoisonError::into_inner);
        let (entries, left_out) = inline::write(&steps, &diff_ids, self.shared.trust());
        if left_out > 0 {
            let text = "`--cache-to type=inline` leaves out steps whose layers are not in the image as they were made: times were \
                        rewritten, or layers taken together";
            self.around.sink.event(&Event::Warning { text });
        }
        config.extra.insert(inline::MEMBER.to_owned(), entries);
        config
    }

    fn history(&self, last: StepId, results: &[Done], epoch: Option<&str>) -> Vec<History> {
        let mut history = self.plan.stages[self.plan.target].image.history.clone();
        for id in chain(self.plan, last) {
            let (step, done) = (&self.plan.steps[id.0], &results[id.0]);
            if let Some(entry) = &step.history {
                history.push(History {
                    created: epoch.map(str::to_owned).or_else(|| done.created.clone()),
                    empty_layer: !done.layered,
                    ..entry.clone()
                });
            }
        }
        history
    }

    /// `SOURCE_DATE_EPOCH` or `--timestamp`.
    pub(super) fn epoch(&self) -> Option<i64> {
        self.request.metadata.timestamp.or(self.request.metadata.source_date_epoch)
    }

    /// What is to become of the times of files.
    pub(super) fn times(&self) -> diff::Times {
        let m = &self.request.metadata;
        diff::Times { set_to: m.timestamp, clamp_to: m.source_date_epoch.filter(|_| m.rewrite_timestamps) }
    }
}

/// Writes config and manifest. The image has no name yet.
fn write(
    store: &Store,
    parts: Parts,
    metadata: &MetadataOptions,
    platform: &PlatformOptions,
    format: ManifestFormat,
) -> Result<(Digest, Descriptor), Error> {
    let mut config = parts.image;
    config.config = parts.config;
    adjust(&mut config.config, metadata);
    set_platform(&mut config, platform);
    config.created = Some(parts.created.clone());
    config.rootfs = RootFs { diff_ids: parts.layers.iter().map(|l| l.diff_id).collect(), ..RootFs::default() };
    config.history = if metadata.omit_history { vec![] } else { parts.history };
    let bytes = serde_json::to_vec(&config).map_err(|source| Error::Json { what: "the image config", source })?;
    let id = store.put_blob(&bytes)?;

    let docker = format == ManifestFormat::Docker;
    let layer = |l: &Layer| {
        let media_type = if docker { docker_layer_type(&l.media_type) } else { &l.media_type };
        let mut descriptor = Descriptor::new(media_type, l.blob, l.size);
        // What makes a layer of the base more than a compressed tar goes where it goes.
        let of_base = parts.base.into_iter().flat_map(|b| &b.manifest.layers).find(|b| b.digest == l.blob);
        if let Some(base) = of_base.filter(|_| !docker) {
            let kept = base.annotations.iter().filter(|(name, _)| media::OF_LAYERS.contains(&name.as_str()));
            descriptor.annotations.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
        }
        descriptor
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
fn adjust(config: &mut ContainerConfig, metadata: &MetadataOptions) {
    let given = |name: &String| metadata.labels.iter().any(|(n, _)| n == name);
    config.labels.retain(|name, _| given(name) || !metadata.unset_labels.contains(name));
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
        all.insert("org.opencontainers.image.base.name".into(), base.reference.clone().with_default_tag().to_string());
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
