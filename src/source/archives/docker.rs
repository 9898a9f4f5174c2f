//! What `docker save` writes: `manifest.json` names a config and layers, as files, for each image.

use super::files::Files;
use super::{Error, Loaded, check_layers, compression, document, publish};
use crate::oci::{Compression, Descriptor, ImageConfig, ManifestFormat, Reference, media};
use crate::store::Store;
use serde::Deserialize;

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

const MANIFEST: &str = "manifest.json";

/// All images of the archive.
pub(super) fn images(store: &Store, files: &Files) -> Result<Vec<Loaded>, Error> {
    let manifest = files.get(MANIFEST).ok_or(Error::NotAnImage)?;
    let items: Vec<Item> = document(store, &manifest, "`manifest.json`")?;
    items.into_iter().map(|item| image(store, files, item)).collect()
}

fn image(store: &Store, files: &Files, item: Item) -> Result<Loaded, Error> {
    let file = |name: &str| {
        files.get(name).ok_or_else(|| Error::MissingFile(name.chars().take(256).collect(), MANIFEST.into()))
    };
    let kept = file(&item.config)?;
    let config: ImageConfig = document(store, &kept, "the image config")?;
    let mut layers = vec![];
    for name in item.layers.unwrap_or_default() {
        let layer = file(&name)?;
        let media_type = compression(store, &layer)?.layer_type(ManifestFormat::Docker);
        layers.push(Descriptor::new(media_type, layer.digest, layer.size));
    }
    check_layers(store, &config, &layers)?;
    let names = item.repo_tags.unwrap_or_default();
    let names = names.iter().map(|n| Ok(n.parse::<Reference>()?.docker_normalized().with_default_tag()));
    let names = names.collect::<Result<_, Error>>()?;
    // Docker's layers in zstd are unknown to many; OCI's are not.
    let zstd = layers.iter().any(|l| l.media_type == media::DOCKER_LAYER_ZSTD);
    if zstd {
        for layer in &mut layers {
            let how = Compression::of_layer(&layer.media_type).unwrap_or(Compression::None);
            layer.media_type = how.layer_type(ManifestFormat::Oci).to_owned();
        }
    }
    let config_type = if zstd { media::OCI_CONFIG } else { media::DOCKER_CONFIG };
    let manifest = publish(store, Descriptor::new(config_type, kept.digest, kept.size), layers, !zstd)?;
    Ok(Loaded { manifest, id: kept.digest, names })
}
