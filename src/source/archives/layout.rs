//! OCI image layouts, as directory or tar, and `dir:` directories.

use super::files::{Files, Kept};
use super::{Error, Loaded, check_layers, document};
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Manifest, Platform, Reference, media};
use crate::store::Store;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";
/// Indexes may refer to indexes this deep.
const MAX_DEPTH: usize = 3;

/// The image of a layout for a platform: the one with this digest, else the one called `tag`, else the only one.
pub(super) fn one(
    store: &Store,
    files: &Files,
    platform: &Platform,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> Result<Loaded, Error> {
    let Some(digest) = digest else {
        let mut all = match images(store, files, platform, tag) {
            Ok(all) if tag.is_some() || all.len() == 1 => all,
            // As in image names, what is not said is `latest`.
            Ok(_) => images(store, files, platform, Some("latest")).map_err(|_| Error::Several("index.json".into()))?,
            Err(e) => return Err(e),
        };
        return all.pop().ok_or_else(|| Error::NoImage("index.json".into()));
    };
    let kept = files.blob(store, digest)?.ok_or_else(|| Error::NoImage(digest.to_string()))?;
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default, rename = "mediaType")]
        media_type: String,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let document: Document = document(store, &kept, "an image manifest")?;
    let media_type = match (document.media_type.as_str(), document.manifests) {
        ("", Some(_)) => media::OCI_INDEX,
        ("", None) => media::OCI_MANIFEST,
        (given, _) => given,
    };
    let entry = Descriptor::new(media_type, kept.digest, kept.size);
    let manifest = choose(store, files, entry, platform)?.ok_or_else(|| Error::NoImage(digest.to_string()))?;
    image(store, files, &manifest)
}

/// The images of a layout for a platform: the one called `name`, or all.
pub(super) fn images(
    store: &Store,
    files: &Files,
    platform: &Platform,
    name: Option<&str>,
) -> Result<Vec<Loaded>, Error> {
    let file = files.get("index.json").ok_or(Error::NotAnImage)?;
    let index: Index = document(store, &file, "`index.json`")?;
    let called = |d: &Descriptor, n: &str| {
        [REF_NAME, FULL_NAME].iter().any(|key| d.annotations.get(*key).is_some_and(|v| v == n))
    };
    let mut loaded: Vec<Loaded> = vec![];
    for entry in index.manifests.iter().filter(|d| name.is_none_or(|n| called(d, n))) {
        let Some(manifest) = choose(store, files, entry.clone(), platform)? else { continue };
        let image = image(store, files, &manifest)?;
        let names = names(entry);
        match loaded.iter_mut().find(|l| l.manifest == image.manifest) {
            Some(same) => same.names.extend(names),
            None => loaded.push(Loaded { names, ..image }),
        }
    }
    if loaded.is_empty() {
        return Err(Error::NoImage(name.unwrap_or("index.json").to_owned()));
    }
    Ok(loaded)
}

/// The one image of a `dir:` directory.
pub(super) fn dir(store: &Store, files: &Files) -> Result<Loaded, Error> {
    let file = files.get("manifest.json").ok_or(Error::NotAnImage)?;
    let manifest: Manifest = document(store, &file, "`manifest.json`")?;
    let media_type = match manifest.media_type.as_str() {
        "" => media::OCI_MANIFEST,
        other => other,
    };
    image(store, files, &Descriptor::new(media_type, file.digest, file.size))
}

/// A full name of an entry. `ref.name` may be a bare tag, which is no name.
fn names(entry: &Descriptor) -> Vec<Reference> {
    let full = |key: &str| entry.annotations.get(key).and_then(|n| n.parse::<Reference>().ok());
    let by_ref = full(REF_NAME).filter(|r| r.registry.is_some() || r.tag.is_some());
    full(FULL_NAME).or(by_ref).map(|r| r.docker_normalized().with_default_tag()).into_iter().collect()
}

fn blob(store: &Store, files: &Files, digest: &Digest, of: &str) -> Result<Kept, Error> {
    files
        .blob(store, digest)?
        .ok_or_else(|| Error::MissingFile(format!("blobs/sha256/{}", digest.hex()), of.to_owned()))
}

/// The manifest that an entry leads to, through indexes; `None` where it is for another platform or no image.
fn choose(
    store: &Store,
    files: &Files,
    mut entry: Descriptor,
    platform: &Platform,
) -> Result<Option<Descriptor>, Error> {
    for _ in 0..MAX_DEPTH {
        if !media::is_index(&entry.media_type) {
            return Ok(media::is_manifest(&entry.media_type).then_some(entry));
        }
        let index: Index = document(store, &blob(store, files, &entry.digest, "index.json")?, "an index")?;
        let fits = |d: &Descriptor| d.platform.as_ref().is_none_or(|p| platform.accepts(p));
        // An archive may hold the image of one platform only, beside an index that names all.
        let here = |d: &Descriptor| files.has(&d.digest);
        match index.manifests.into_iter().find(|d| fits(d) && here(d)) {
            Some(next) => entry = next,
            None => return Ok(None),
        }
    }
    Err(Error::TooMuch("indexes that refer to each other"))
}

fn image(store: &Store, files: &Files, entry: &Descriptor) -> Result<Loaded, Error> {
    let kept = blob(store, files, &entry.digest, "index.json")?;
    let manifest: Manifest = document(store, &kept, "an image manifest")?;
    let kept_config = blob(store, files, &manifest.config.digest, "an image manifest")?;
    let config: ImageConfig = document(store, &kept_config, "the image config")?;
    for layer in &manifest.layers {
        let kept = blob(store, files, &layer.digest, "an image manifest")?;
        if kept.size != layer.size {
            return Err(Error::MissingFile(
                format!("blobs/sha256/{} of {} bytes", layer.digest.hex(), layer.size),
                "an image manifest".into(),
            ));
        }
    }
    check_layers(store, &config, &manifest.layers)?;
    let manifest = Descriptor::new(&entry.media_type, kept.digest, kept.size);
    Ok(Loaded { manifest, id: kept_config.digest, names: vec![] })
}
