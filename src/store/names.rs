//! Names of images: the entries of `index.json`.
//!
//! An entry is a descriptor of a manifest or of an index, with the full name in the annotation
//! `org.opencontainers.image.ref.name`. An entry without it is an image that no name points at any more, or that never
//! had one; `images` shows it as `<none>`, and `prune` takes it.

use super::{Error, Store, write_atomically};
use crate::oci::{Descriptor, Digest, Index, Manifest, Reference, media};
use std::{collections::BTreeSet, fs, io, path::PathBuf};

/// The annotation that holds an entry's name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// A manifest or an index is at most this long, in bytes.
pub(super) const MANIFEST_LIMIT: u64 = 4 << 20;
/// `index.json` is at most this long, in bytes.
const INDEX_LIMIT: u64 = 64 << 20;

/// An entry of the store's index.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedImage {
    /// The full name, `None` for an image without one.
    pub name: Option<String>,
    /// The manifest or index.
    pub descriptor: Descriptor,
}

impl Store {
    /// All entries, in the order in which they were made.
    pub fn list(&self) -> Result<Vec<NamedImage>, Error> {
        let entries = self.read_index()?.manifests.into_iter().map(|mut descriptor| {
            let name = descriptor.annotations.remove(REF_NAME);
            NamedImage { name, descriptor }
        });
        Ok(entries.collect())
    }

    /// What a full name (`localhost/x:latest`) points at. It stays while this process lives, whoever removes the name.
    pub fn get(&self, name: &str) -> Result<Option<Descriptor>, Error> {
        let found = self.list()?.into_iter().find(|e| e.name.as_deref() == Some(name));
        if let Some(found) = &found {
            self.hold_image(&found.descriptor)?;
        }
        Ok(found.map(|e| e.descriptor))
    }

    /// Finds an image by what a user typed: a full name, a name with the default tag or registry left out, or at least
    /// four digits of its id (the digest of its config) or of its manifest's digest. An image that is only in an index is
    /// found by its id, too, and has no name.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], or [`Error::AmbiguousId`] where several images' ids begin so.
    pub fn find(&self, text: &str) -> Result<NamedImage, Error> {
        let found = self.look_up(text)?;
        self.hold_image(&found.descriptor)?;
        Ok(found)
    }

    /// As [`Store::find`], for somebody who wants to be rid of the image: nothing is written, and nothing that it refers to
    /// needs to be here.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn look_up(&self, text: &str) -> Result<NamedImage, Error> {
        let all = self.list()?;
        match self.find_by_name(&all, text) {
            Some(found) => Ok(found),
            None => self.find_by_id(&all, text),
        }
    }

    fn find_by_name(&self, all: &[NamedImage], text: &str) -> Option<NamedImage> {
        let typed: Reference = text.parse().ok()?;
        let by = |r: &Reference| {
            let by_tag = Reference { digest: None, ..r.clone() }.with_default_tag().to_string();
            all.iter()
                .find(|e| match (&e.name, r.digest, &r.tag) {
                    (Some(name), None, _) => *name == by_tag,
                    (Some(name), Some(digest), Some(_)) => *name == by_tag && e.descriptor.digest == digest,
                    (Some(name), Some(digest), None) => {
                        e.descriptor.digest == digest && name.parse::<Reference>().is_ok_and(|n| n.name() == r.name())
                    }
                    (None, ..) => false,
                })
                .cloned()
        };
        match typed.registry {
            Some(_) => by(&typed).or_else(|| by(&typed.docker_normalized())),
            None => by(&typed.clone().with_default_registry("localhost"))
                .or_else(|| by(&typed.clone().docker_normalized()))
                .or_else(|| by(&typed)),
        }
    }

    fn find_by_id(&self, all: &[NamedImage], text: &str) -> Result<NamedImage, Error> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let unknown = || Error::UnknownImage(text.to_owned());
        if prefix.len() < 4 || prefix.len() > 64 || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(unknown());
        }
        let (mut found, mut ids) = (None, BTreeSet::new());
        for entry in all {
            let id = self.image_id(&entry.descriptor).unwrap_or(entry.descriptor.digest);
            if id.hex().starts_with(prefix) || entry.descriptor.digest.hex().starts_with(prefix) {
                ids.insert(id);
                found.get_or_insert_with(|| entry.clone());
            }
        }
        for entry in all.iter().filter(|e| media::is_index(&e.descriptor.media_type)) {
            // Images for other platforms need not be here.
            let images = self.index(&entry.descriptor.digest).map(|i| i.manifests).unwrap_or_default();
            for image in images.iter().filter(|d| media::is_manifest(&d.media_type)) {
                let Ok(id) = self.image_id(image) else { continue };
                if id.hex().starts_with(prefix) || image.digest.hex().starts_with(prefix) {
                    ids.insert(id);
                    let descriptor = Descriptor::new(&image.media_type, image.digest, image.size);
                    found.get_or_insert(NamedImage { name: None, descriptor });
                }
            }
        }
        if ids.len() > 1 {
            return Err(Error::AmbiguousId(text.to_owned()));
        }
        found.ok_or_else(unknown)
    }

    /// The id of an image: its config's digest; of an index, the index's own digest.
    pub fn image_id(&self, descriptor: &Descriptor) -> Result<Digest, Error> {
        if media::is_index(&descriptor.media_type) {
            return Ok(descriptor.digest);
        }
        Ok(self.manifest(&descriptor.digest)?.config.digest)
    }

    /// Reads a manifest.
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        let bytes = self.read_blob(digest, MANIFEST_LIMIT)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: format!("manifest {digest}"), source })
    }

    /// Writes an index. It has no name yet.
    pub fn put_index(&self, index: &Index) -> Result<Descriptor, Error> {
        let json = serde_json::to_vec(index).map_err(|source| Error::Json { path: "an index".into(), source })?;
        self.put_blob(&json)?;
        Ok(Descriptor::of(&index.media_type, &json))
    }

    /// Reads an index.
    pub fn index(&self, digest: &Digest) -> Result<Index, Error> {
        let bytes = self.read_blob(digest, MANIFEST_LIMIT)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: format!("index {digest}"), source })
    }

    /// Points `names` (full names) at a manifest or index, in one step. Everything that it reaches is on the disk before a
    /// name is. The image that a name pointed at before stays, without a name. With no names, the image is entered
    /// without one.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] where something that the manifest refers to is not here; then no name changes.
    pub fn publish(&self, names: &[String], descriptor: &Descriptor) -> Result<(), Error> {
        self.hold_image(descriptor)?;
        for digest in self.reach(descriptor)? {
            self.sync_blob(&digest)?;
        }
        self.change_index(|index| {
            for name in names {
                unname(index, name);
                let mut entry = descriptor.clone();
                entry.annotations.insert(REF_NAME.into(), name.clone());
                index.manifests.push(entry);
            }
            let known = |d: &&Descriptor| d.digest == descriptor.digest;
            if names.is_empty() && !index.manifests.iter().any(|d| known(&d)) {
                index.manifests.push(descriptor.clone());
            }
            if !names.is_empty() {
                index.manifests.retain(|d| d.digest != descriptor.digest || has_name(d));
            }
            Ok(())
        })
    }

    /// Takes a full name away; the entry of an image goes with its last name.
    pub fn remove_name(&self, name: &str) -> Result<(), Error> {
        self.change_index(|index| {
            index.manifests.retain(|d| d.annotations.get(REF_NAME).is_none_or(|n| n != name));
            Ok(())
        })
    }

    /// Takes every entry of a manifest or index away. Returns the names that it had.
    pub fn remove_image(&self, digest: &Digest) -> Result<Vec<String>, Error> {
        self.change_index(|index| {
            let mut names = vec![];
            index.manifests.retain_mut(|d| {
                let hit = d.digest == *digest;
                if hit {
                    names.extend(d.annotations.remove(REF_NAME));
                }
                !hit
            });
            Ok(names)
        })
    }

    /// Takes every entry without a name away. Returns them.
    pub fn remove_unnamed(&self) -> Result<Vec<Descriptor>, Error> {
        self.change_index(|index| {
            let (named, unnamed) = std::mem::take(&mut index.manifests).into_iter().partition(has_name);
            index.manifests = named;
            Ok(unnamed)
        })
    }

    /// Every blob that a manifest or index reaches, itself included. Manifests of an index that are not here (other
    /// platforms) are left out.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] where a manifest's config or layer is not here.
    pub fn reach(&self, descriptor: &Descriptor) -> Result<Vec<Digest>, Error> {
        let mut all = vec![descriptor.digest];
        let manifests = if media::is_index(&descriptor.media_type) {
            let here = |d: &Descriptor| media::is_manifest(&d.media_type) && self.open_blob(&d.digest).is_ok();
            self.index(&descriptor.digest)?.manifests.into_iter().filter(here).map(|d| d.digest).collect()
        } else {
            vec![descriptor.digest]
        };
        for manifest in manifests {
            let m = self.manifest(&manifest)?;
            all.push(manifest);
            all.extend(std::iter::once(m.config.digest).chain(m.layers.iter().map(|l| l.digest)));
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Writes everything that an image reaches into this process's lease.
    fn hold_image(&self, descriptor: &Descriptor) -> Result<(), Error> {
        for digest in self.reach(descriptor)? {
            if self.blob_size(&digest)?.is_none() {
                return Err(Error::MissingBlob(digest));
            }
        }
        Ok(())
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(super) fn read_index(&self) -> Result<Index, Error> {
        let path = self.index_path();
        let size = match fs::metadata(&path) {
            Ok(m) => m.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::empty()),
            Err(e) => return Err(Error::io("cannot read", &path)(e)),
        };
        if size > INDEX_LIMIT {
            return Err(Error::TooLarge(Digest::of(b""), size, INDEX_LIMIT));
        }
        let bytes = fs::read(&path).map_err(Error::io("cannot read", &path))?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.display().to_string(), source })
    }

    fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let _lock = self.lock_exclusive()?;
        self.rewrite_index(change)
    }

    /// Changes the index. Call with the lock held exclusively.
    pub(super) fn rewrite_index<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
        let old = self.read_index()?;
        let mut index = old.clone();
        let result = change(&mut index)?;
        if index != old || !self.index_path().exists() {
            let json =
                serde_json::to_vec(&index).map_err(|source| Error::Json { path: "index.json".into(), source })?;
            self.with_reserve(|| write_atomically(&self.root, &self.index_path(), &json))?;
        }
        Ok(result)
    }
}

/// Whether an entry of the index has a name.
pub(super) fn has_name(entry: &Descriptor) -> bool {
    entry.annotations.contains_key(REF_NAME)
}

/// Takes `name` off its entry, and leaves the image without a name unless it has another.
fn unname(index: &mut Index, name: &str) {
    let Some(at) = index.manifests.iter().position(|d| d.annotations.get(REF_NAME).is_some_and(|n| n == name)) else {
        return;
    };
    let mut entry = index.manifests.remove(at);
    if !index.manifests.iter().any(|d| d.digest == entry.digest) {
        entry.annotations.remove(REF_NAME);
        index.manifests.insert(at, entry);
    }
}
