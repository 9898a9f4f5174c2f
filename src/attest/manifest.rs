//! Attestation manifests and their entries in an index.

use super::statement::Subject;
use super::{Error, write_statement};
use crate::oci::{Descriptor, Digest, Manifest, Platform, media};
use crate::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Media type of a statement.
pub(super) const IN_TOTO: &str = "application/vnd.in-toto+json";
/// What the manifest is, for registries that list referrers.
pub const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Annotation of a statement: the type of its predicate.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Annotation of an entry: the image that it is about.
const REFERENCE: &str = "vnd.docker.reference.digest";
/// Annotation of an entry: that it is about an image.
const KIND: &str = "vnd.docker.reference.type";
const ATTESTATION: &str = "attestation-manifest";
/// Longest statement that is read, in bytes.
pub(super) const MAX_STATEMENT: u64 = 256 << 20;

/// A predicate: its type, and what writes it as JSON.
pub type Predicate<'a> = (&'a str, Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>);

/// Says these predicates of the image `image`: writes a statement for each, and the manifest that lists them, into the store.
/// Returns the entry for the index.
///
/// # Errors
/// Where they cannot be written.
pub fn attach(
    store: &Store,
    image: &Descriptor,
    subjects: &[Subject],
    predicates: Vec<Predicate<'_>>,
) -> Result<Descriptor, Error> {
    let mut layers = vec![];
    for (predicate_type, predicate) in predicates {
        let mut blob = store.blob_writer()?;
        write_statement(&mut blob, predicate_type, subjects, predicate).map_err(Error::Write)?;
        let (digest, size) = blob.commit(None)?;
        let mut layer = Descriptor::new(IN_TOTO, digest, size);
        layer.annotations.insert(PREDICATE_TYPE.into(), predicate_type.into());
        layers.push(layer);
    }
    put(store, image, layers, BTreeMap::new())
}

/// The image that an entry of an index is about, where it is an attestation.
pub fn subject_of(entry: &Descriptor) -> Option<Digest> {
    if entry.annotations.get(KIND).map(String::as_str) != Some(ATTESTATION) {
        return None;
    }
    entry.annotations.get(REFERENCE)?.parse().ok()
}

/// Makes an entry of an index be about the image `to`.
pub fn refer(entry: &mut Descriptor, to: &Digest) {
    entry.annotations.insert(REFERENCE.into(), to.to_string());
}

/// Says of the image `to` what the attestation `entry` says of its image `from`. Returns the new entry.
///
/// # Errors
/// Where the attestation cannot be read, or written.
pub fn follow(store: &Store, entry: &Descriptor, from: &Digest, to: &Descriptor) -> Result<Descriptor, Error> {
    let manifest = store.manifest(&entry.digest)?;
    let mut layers = vec![];
    for layer in manifest.layers {
        layers.push(match layer.media_type.as_str() {
            IN_TOTO => follow_statement(store, layer, from, &to.digest)?,
            // What it says is not known; so is what it would have to say.
            _ => layer,
        });
    }
    let mut new = put(store, to, layers, manifest.annotations)?;
    new.annotations.extend(entry.annotations.clone());
    refer(&mut new, &to.digest);
    Ok(new)
}

fn follow_statement(store: &Store, layer: Descriptor, from: &Digest, to: &Digest) -> Result<Descriptor, Error> {
    let bytes = store.read_blob(&layer.digest, MAX_STATEMENT)?;
    let mut statement: Value =
        serde_json::from_slice(&bytes).map_err(Error::json(format!("attestation `{}`", layer.digest)))?;
    let subjects = statement.get_mut("subject").and_then(Value::as_array_mut);
    for digest in subjects.into_iter().flatten().filter_map(|s| s.get_mut("digest")?.get_mut("sha256")) {
        if digest.as_str() == Some(&from.hex()) {
            *digest = to.hex().into();
        }
    }
    let bytes = serde_json::to_vec(&statement).map_err(Error::json("an attestation"))?;
    let digest = store.put_blob(&bytes)?;
    Ok(Descriptor { digest, size: bytes.len() as u64, ..layer })
}

/// The manifest of something that is said about an image, and refers to it.
pub(super) fn about(image: &Descriptor, artifact: &str, config: &[u8], layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: Some(artifact.into()),
        config: Descriptor::of(media::OCI_CONFIG, config),
        layers,
        subject: Some(Box::new(Descriptor::new(&image.media_type, image.digest, image.size))),
        annotations: BTreeMap::new(),
    }
}

/// Writes config and manifest.
fn put(
    store: &Store,
    image: &Descriptor,
    layers: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
) -> Result<Descriptor, Error> {
    let config = config(&layers)?;
    store.put_blob(&config)?;
    let manifest = Manifest { annotations, ..about(image, ARTIFACT, &config, layers) };
    let bytes = serde_json::to_vec(&manifest).map_err(Error::json("an attestation manifest"))?;
    store.put_blob(&bytes)?;
    let unknown = Platform { os: "unknown".into(), ..Platform::linux("unknown") };
    let mut entry = Descriptor { platform: Some(unknown), ..Descriptor::of(media::OCI_MANIFEST, &bytes) };
    entry.annotations.insert(REFERENCE.into(), image.digest.to_string());
    entry.annotations.insert(KIND.into(), ATTESTATION.into());
    Ok(entry)
}

/// The config of an image for no platform, whose layers are the statements: tools that take it for an image find it sound.
fn config(layers: &[Descriptor]) -> Result<Vec<u8>, Error> {
    let diff_ids: Vec<String> = layers.iter().map(|l| l.digest.to_string()).collect();
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let bytes = serde_json::to_vec(&config).map_err(Error::json("an attestation's config"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::ImageConfig;

    #[test]
    fn what_is_said_follows_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (Descriptor::of(media::OCI_MANIFEST, b"one"), Descriptor::of(media::OCI_MANIFEST, b"two..."));
        let subjects = Subject::of_image(&[], &Platform::linux("amd64"), one.digest);
        let predicate: Predicate<'_> =
            ("https://x", Box::new(|out| out.write_all(one.digest.hex().len().to_string().as_bytes())));
        let entry = attach(&store, &one, &subjects, vec![predicate]).unwrap();
        assert_eq!(subject_of(&entry), Some(one.digest));
        assert_eq!(subject_of(&one), None);
        assert_eq!(entry.platform.as_ref().unwrap().to_string(), "unknown/unknown");

        let moved = follow(&store, &entry, &one.digest, &two).unwrap();
        assert_eq!(subject_of(&moved), Some(two.digest));
        let manifest = store.manifest(&moved.digest).unwrap();
        assert_eq!(*manifest.subject.unwrap(), two);
        let config: ImageConfig =
            serde_json::from_slice(&store.read_blob(&manifest.config.digest, MAX_STATEMENT).unwrap()).unwrap();
        assert_eq!(config.rootfs.diff_ids[0].0, manifest.layers[0].digest);
        let text = store.read_blob(&manifest.layers[0].digest, MAX_STATEMENT).unwrap();
        let statement: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(statement["subject"][0]["digest"]["sha256"], two.digest.hex());
        // And back: nothing was lost.
        assert_eq!(follow(&store, &moved, &two.digest, &one).unwrap(), entry);
    }
}
