//! `type=inline`: the entries of an image's own steps, in its config.
//!
//! The config's member `io.rbuild.cache.v1` is a list of sealed entries, sorted by key. They need no layers of their own: those of
//! the image are named in its manifest. So an entry is written without a blob, and a reader adds the one that the image has
//! for its layer.
//!
//! What BuildKit wrote (`type=registry` in both of its forms, `type=inline`) has keys of another kind, so no step is found in it.
//! Its layers, and those of any other image, are noted: a push can link them.

use super::CacheKey;
use super::backend::Fault;
use super::entry::{Entry, EntryLayer, Sealed};
use super::trust::Trust;
use crate::oci::{Compression, Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, Reference, media};
use crate::registry::{Client, Document};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// The member of the config.
pub const MEMBER: &str = "io.rbuild.cache.v1";
/// The member that BuildKit's own entries have.
const OF_BUILDKIT: &str = "moby.buildkit.cache.v0";
/// The config of a cache that BuildKit wrote.
const CONFIG_OF_BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Images of an index that are looked into.
const MAX_IMAGES: usize = 8;
/// Layers of other documents that are noted.
const MAX_LAYERS: usize = 10_000;

/// What the steps of an image made: by key, the time and the layer with its length.
pub type Steps = BTreeMap<CacheKey, (String, Option<(DiffId, u64)>)>;

/// The value of the config's member, and the number of steps that are left out because their layers are not in the image.
pub fn write(steps: &Steps, diff_ids: &[DiffId], trust: &Trust) -> (Value, usize) {
    let mut left_out = 0;
    let mut all = vec![];
    for (key, (created, layer)) in steps {
        if layer.is_some_and(|(id, _)| !diff_ids.contains(&id)) {
            left_out += 1;
            continue;
        }
        let layer = layer.map(|(diff_id, size)| EntryLayer { diff_id, size, blob: None });
        let sealed = Entry::new(key, "", created, layer).seal(trust);
        all.push(serde_json::to_value(sealed).unwrap_or_default());
    }
    (Value::Array(all), left_out)
}

/// The entries of an image that was built with `type=inline`.
#[derive(Debug, Default)]
pub(super) struct InlineEntries {
    entries: HashMap<String, Sealed>,
    /// Layers that the image, or the cache of another tool, names.
    pub layers: HashSet<Digest>,
    /// What the user should know of the image.
    pub note: Option<String>,
}

impl InlineEntries {
    /// Reads those of an image; none where there is no such image.
    pub fn of_image(client: &Client, image: &Reference, within: Duration) -> Result<InlineEntries, Fault> {
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut found = InlineEntries::default();
        let Some(document) = client.manifest_within(image, left())? else { return Ok(found) };
        if !media::is_index(&document.media_type) {
            found.read(client, image, &document, left())?;
            return Ok(found);
        }
        let index: Index = serde_json::from_slice(&document.bytes).map_err(|e| Fault::Bad(e.to_string()))?;
        if index.manifests.iter().any(|d| d.media_type == CONFIG_OF_BUILDKIT) {
            found.is_of_buildkit(image);
            found.names(&index.manifests);
            return Ok(found);
        }
        for entry in index.manifests.iter().filter(|d| media::is_manifest(&d.media_type)).take(MAX_IMAGES) {
            let image = Reference { tag: None, digest: Some(entry.digest), ..image.clone() };
            if let Some(document) = client.manifest_within(&image, left())? {
                found.read(client, &image, &document, left())?;
            }
        }
        Ok(found)
    }

    /// Those of an image that is there and no document of any use.
    pub fn unreadable(why: &str) -> InlineEntries {
        InlineEntries { note: Some(format!("the image that it names is not used: {why}")), ..InlineEntries::default() }
    }

    fn is_of_buildkit(&mut self, image: &Reference) {
        self.note = Some(format!(
            "`{image}` was written by BuildKit: its layers can be linked, but its keys mean nothing here, so no step is found in it; \
             let rbuild write its own with `--cache-to`, the same repository will do"
        ));
    }

    /// Takes note of the layers among these.
    fn names(&mut self, all: &[Descriptor]) {
        let room = MAX_LAYERS.saturating_sub(self.layers.len());
        let layers = all.iter().filter(|d| Compression::of_layer(&d.media_type).is_some());
        self.layers.extend(layers.take(room).map(|d| d.digest));
    }

    fn read(&mut self, client: &Client, image: &Reference, document: &Document, within: Duration) -> Result<(), Fault> {
        let bad = |e: serde_json::Error| Fault::Bad(format!("`{image}`: {e}"));
        let manifest: Manifest = serde_json::from_slice(&document.bytes).map_err(bad)?;
        self.names(&manifest.layers);
        if manifest.config.media_type == CONFIG_OF_BUILDKIT {
            self.is_of_buildkit(image);
            return Ok(());
        }
        if ![media::OCI_CONFIG, media::DOCKER_CONFIG].contains(&manifest.config.media_type.as_str()) {
            return Ok(());
        }
        let bytes = client.small_blob_within(image, &manifest.config, within)?;
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(bad)?;
        if config.extra.contains_key(OF_BUILDKIT) {
            self.is_of_buildkit(image);
        }
        let Some(Value::Array(all)) = config.extra.get(MEMBER) else { return Ok(()) };
        let blobs: HashMap<DiffId, _> = config.rootfs.diff_ids.iter().copied().zip(&manifest.layers).collect();
        for value in all {
            // One that is broken is not there.
            let Ok(mut sealed) = serde_json::from_value::<Sealed>(value.clone()) else { continue };
            let Ok(entry) = serde_json::from_str::<Entry>(&sealed.entry) else { continue };
            sealed.inline = true;
            sealed.blob = entry.layer.and_then(|layer| blobs.get(&layer.diff_id).map(|d| (*d).clone()));
            self.entries.insert(entry.key, sealed);
        }
        Ok(())
    }

    /// The entry of a step.
    pub fn get(&self, key: &CacheKey) -> Option<Sealed> {
        self.entries.get(&key.hex()).cloned()
    }
}
