//! `type=registry`: entries and layers in a repository.
//!
//! Each entry is a manifest with a tag of its own, named by scope and key ([`super::document`]). There is no list of entries
//! that writers would share: a registry has no way to change a document only where nobody else did, so of two writers who
//! read a list, add to it and write it back, the slower one would undo the other. Names are the one thing that a registry
//! keeps apart for everybody, so its own table of tags is the index: an entry is found by asking for it, two writers of
//! different entries never meet, and two of the same entry each write one that serves.

use super::backend::{Backend, Clients, Fault, Packed};
use super::entry::{Entry, Sealed};
use super::inline::InlineEntries;
use super::{CacheKey, document};
use crate::oci::{Descriptor, Digest, Reference, media};
use crate::registry::{Document, LayerSource, PushEvent, PushSource, UploadMemory};
use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// A repository.
pub(super) struct Registry {
    clients: Clients,
    /// As the user wrote it, with the tag of an image that may have entries in its config.
    image: Reference,
    /// Without tag.
    repository: Reference,
    scope: String,
    inline: OnceLock<InlineEntries>,
}

impl Registry {
    pub fn new(clients: Clients, image: Reference, scope: &str) -> Registry {
        let repository = Reference { tag: None, digest: None, ..image.clone() };
        Registry { clients, image, repository, scope: scope.to_owned(), inline: OnceLock::new() }
    }

    fn tagged(&self, key: &CacheKey) -> Reference {
        Reference { tag: Some(document::name(&self.scope, key)), ..self.repository.clone() }
    }
}

impl Backend for Registry {
    fn name(&self) -> String {
        match self.scope.is_empty() {
            true => format!("type=registry,ref={}", self.image),
            false => format!("type=registry,ref={},scope={}", self.repository, self.scope),
        }
    }

    fn lookup(&self, key: &CacheKey, within: Duration) -> Result<Option<Sealed>, Fault> {
        if let Some(found) = self.clients.read.manifest_within(&self.tagged(key), within)? {
            return document::read(&found.bytes).map(Some).map_err(Fault::Bad);
        }
        let inline = match self.inline.get() {
            Some(known) => known,
            None => {
                let found = match InlineEntries::of_image(&self.clients.read, &self.image, within) {
                    // It will not get better by being read for each step.
                    Err(Fault::Bad(why)) => InlineEntries::unreadable(&why),
                    found => found?,
                };
                self.inline.get_or_init(|| found)
            }
        };
        Ok(inline.get(key))
    }

    fn has_layer(&self, blob: &Descriptor, within: Duration) -> Result<bool, Fault> {
        Ok(self.clients.read.blob_within(&self.repository, blob, within)?)
    }

    fn fetch(&self, blob: &Descriptor, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        Ok(self.clients.read.fetch_blob(&self.repository, blob, to)?)
    }

    fn put(&self, key: &CacheKey, entry: &Entry, sealed: &Sealed, layer: Option<&Packed<'_>>) -> Result<(), Fault> {
        let (manifest, config) = document::write(entry, sealed);
        let sent = |event: PushEvent| {
            if let (Some(layer), PushEvent::LayerSent { bytes, .. }) = (layer, event) {
                (layer.sent)(bytes);
            }
        };
        self.clients.write.push(&self.tagged(key), &Pushed { layer, manifest, config, to: &self.repository }, &sent)?;
        Ok(())
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.repository)
    }

    fn named_layers(&self) -> Option<&HashSet<Digest>> {
        Some(&self.inline.get()?.layers)
    }

    fn note(&self) -> Option<String> {
        self.inline.get()?.note.clone()
    }
}

/// An entry as the registry client asks for it.
struct Pushed<'a> {
    layer: Option<&'a Packed<'a>>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    to: &'a Reference,
}

impl UploadMemory for Pushed<'_> {}

impl PushSource for Pushed<'_> {
    fn layers(&self) -> Vec<LayerSource<'_>> {
        self.layer.iter().map(|layer| known(layer, self.to)).collect()
    }

    fn config(&self) -> Document {
        Document { media_type: media::OCI_CONFIG.into(), bytes: self.config.clone() }
    }

    fn finish(&self, _: &[Descriptor], _: &Descriptor) -> io::Result<Document> {
        Ok(Document { media_type: media::OCI_MANIFEST.into(), bytes: self.manifest.clone() })
    }
}

/// A layer as the registry client takes it.
pub(super) fn known<'a>(layer: &'a Packed<'a>, to: &Reference) -> LayerSource<'a> {
    let near = layer.at.filter(|at| at.registry == to.registry && at.repository != to.repository);
    LayerSource::Known {
        descriptor: layer.blob.clone(),
        mount_from: near.map(|at| at.repository.clone()),
        open: Box::new(move || (layer.open)()),
    }
}
