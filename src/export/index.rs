//! An index of the store on its way out: its images, each as [`StoredImage`], and the document that lists them.
//!
//! Images may get another digest on the way (other media types, another compression), so the index is written last, for what
//! the images became. What is said about an image in the index goes after it. Where nothing differs the bytes are those of
//! the store.

use super::oci_archive::{Ready, write_archive};
use super::{Error, Exported, Form, OciArchive, OciDir, Registry, StoredImage, Surroundings};
use crate::attest;
use crate::oci::{Descriptor, Index, ManifestFormat, Platform, media};
use crate::registry::{Document, MAX_MANIFEST_BYTES};
use crate::store::Store;
use std::collections::BTreeSet;

/// An index of the store with all its images.
#[derive(Debug)]
pub struct StoredIndex<'a> {
    store: &'a Store,
    /// Descriptor of the index.
    pub descriptor: Descriptor,
    /// The index.
    pub index: Index,
    /// Its images, in its order.
    pub images: Vec<StoredImage<'a>>,
}

impl<'a> StoredIndex<'a> {
    /// Reads an index and the documents of its images.
    ///
    /// # Errors
    /// Where one of them is not here or damaged, or where it lists something that is no image.
    pub fn load(store: &'a Store, descriptor: &Descriptor) -> Result<Self, Error> {
        let index = store.index(&descriptor.digest)?;
        let here = |entry: &Descriptor| {
            if !media::is_manifest(&entry.media_type) {
                return Err(Error::Form("an index that lists anything but images cannot be written"));
            }
            match store.blob_size(&entry.digest)? {
                Some(_) => StoredImage::load(store, &Descriptor { platform: None, ..entry.clone() }, &Platform::host()),
                None => Err(Error::Absent {
                    image: entry.digest,
                    platform: entry.platform.as_ref().map(ToString::to_string).unwrap_or_default(),
                }),
            }
        };
        let images = index.manifests.iter().map(here).collect::<Result<_, _>>()?;
        let descriptor = Descriptor { annotations: Default::default(), ..descriptor.clone() };
        Ok(StoredIndex { store, descriptor, index, images })
    }

    /// What an index of the wanted form, and the images in it, cannot hold: names of annotations and of other members.
    pub(super) fn without_place(&self, form: &Form) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.images.iter().flat_map(|i| i.without_place(form)).collect();
        if form.format == Some(ManifestFormat::Docker) {
            let entries = self.index.manifests.iter().map(|d| &d.annotations);
            names.extend(entries.chain([&self.index.annotations]).flat_map(|a| a.keys().cloned()));
        }
        names
    }

    /// What is no attestation.
    pub(super) fn images_proper(&self) -> impl Iterator<Item = &StoredImage<'a>> {
        let entries = self.index.manifests.iter().zip(&self.images);
        entries.filter(|(entry, _)| attest::subject_of(entry).is_none()).map(|(_, image)| image)
    }

    /// What is said about an image of the index.
    pub(super) fn attestations_of(&self, image: &StoredImage<'_>) -> impl Iterator<Item = &Descriptor> {
        let digest = image.descriptor.digest;
        self.index.manifests.iter().filter(move |entry| attest::subject_of(entry) == Some(digest))
    }

    /// The only image of an index that is one because of what is said about that image.
    pub(super) fn only_image(&self) -> Option<&StoredImage<'a>> {
        let mut images = self.images_proper();
        images.next().filter(|_| self.images.len() > 1 && images.next().is_none())
    }

    /// Writes all of it with `write`, in an order in which an attestation comes after its image: if that became another
    /// one on the way, what is said is said of that one. Returns what each became, in the order of the index.
    fn write_each(
        &self,
        mut write: impl FnMut(&StoredImage<'a>) -> Result<Descriptor, Error>,
    ) -> Result<Vec<Descriptor>, Error> {
        let mut written: Vec<Descriptor> = self.index.manifests.clone();
        let about = |entry: &Descriptor| {
            let subject = attest::subject_of(entry)?;
            self.index.manifests.iter().position(|d| d.digest == subject)
        };
        for last in [false, true] {
            for (n, (entry, image)) in self.index.manifests.iter().zip(&self.images).enumerate() {
                let subject = about(entry);
                if subject.is_some() != last {
                    continue;
                }
                let changed = subject.and_then(|at| Some((self.index.manifests.get(at)?, written.get(at)?.clone())));
                let became = match changed.filter(|(was, is)| was.digest != is.digest) {
                    None => write(image)?,
                    Some((was, is)) => {
                        let new = attest::follow(self.store, entry, &was.digest, &is)?;
                        write(&StoredImage::load(
                            self.store,
                            &Descriptor { platform: None, ..new },
                            &Platform::host(),
                        )?)?
                    }
                };
                if let Some(place) = written.get_mut(n) {
                    *place = became;
                }
            }
        }
        Ok(written)
    }

    /// What each attestation of `written` is about there: pairs of attestation and image.
    fn referrers(&self, written: &[Descriptor]) -> Vec<(Descriptor, Descriptor)> {
        let pairs = self.index.manifests.iter().zip(written);
        pairs
            .filter_map(|(entry, written_entry)| {
                let subject = attest::subject_of(entry)?;
                let at = self.index.manifests.iter().position(|d| d.digest == subject)?;
                Some((written_entry.clone(), written.get(at)?.clone()))
            })
            .collect()
    }

    /// The index for images that became `written`, in order.
    fn document(&self, written: &[Descriptor], form: &Form) -> Result<Document, Error> {
        let entry = |(entry, written): (&Descriptor, &Descriptor)| Descriptor {
            media_type: written.media_type.clone(),
            digest: written.digest,
            size: written.size,
            ..entry.clone()
        };
        let referrers = self.referrers(written);
        let mut index = self.index.clone();
        index.manifests = self.index.manifests.iter().zip(written).map(entry).collect();
        for (attestation, image) in referrers {
            let entry = index.manifests.iter_mut().find(|d| d.digest == attestation.digest);
            entry.into_iter().for_each(|d| attest::refer(d, &image.digest));
        }
        match form.format {
            Some(ManifestFormat::Oci) => index.media_type = media::OCI_INDEX.into(),
            Some(ManifestFormat::Docker) => {
                index.media_type = media::DOCKER_LIST.into();
                // Docker's format has no place for them.
                index.annotations.clear();
                index.manifests.iter_mut().for_each(|d| d.annotations.clear());
            }
            None if index.media_type.is_empty() => index.media_type = media::OCI_INDEX.into(),
            None => {}
        }
        let bytes = match index == self.index {
            true => self.store.read_blob(&self.descriptor.digest, MAX_MANIFEST_BYTES)?,
            false => serde_json::to_vec(&index).map_err(Error::json("cannot write the index"))?,
        };
        Ok(Document { media_type: index.media_type, bytes })
    }
}

/// A place that can hold an index.
pub trait IndexExporter {
    /// How messages call the place.
    fn name(&self) -> String;

    /// Writes the index with all its images. `alone`: without them, since they are there.
    ///
    /// # Errors
    /// Where it cannot be read or written; then nothing has got a name.
    fn export_index(&self, index: &StoredIndex<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error>;
}

impl IndexExporter for Registry {
    fn name(&self) -> String {
        self.to.to_string()
    }

    fn export_index(&self, index: &StoredIndex<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let written = index.write_each(|image| self.push(image, form, around, false))?;
        for (attestation, image) in index.referrers(&written) {
            let artifact_type = Some(attest::ARTIFACT.to_owned());
            let listed = Descriptor { artifact_type, ..attestation };
            around.client.list_referrer(&self.to, &image.digest, &listed)?;
        }
        let document = index.document(&written, form)?;
        let manifest = around.client.push_manifest(&self.to, &document)?;
        Ok(Exported { manifest })
    }
}

impl IndexExporter for OciDir {
    fn name(&self) -> String {
        format!("oci:{}", self.path.display())
    }

    fn export_index(&self, index: &StoredIndex<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let written = index.write_each(|image| self.put_image(image, form, around))?;
        let document = index.document(&written, form)?;
        Ok(Exported { manifest: self.put_named(&document)? })
    }
}

impl IndexExporter for OciArchive {
    fn name(&self) -> String {
        format!("oci-archive:{}", self.path.display())
    }

    fn export_index(&self, index: &StoredIndex<'_>, form: &Form, around: Surroundings<'_>) -> Result<Exported, Error> {
        let mut ready = vec![];
        let written = index.write_each(|image| {
            let one = Ready::of(image, form, around)?;
            let manifest = one.manifest.clone();
            ready.push(one);
            Ok(manifest)
        })?;
        let document = index.document(&written, form)?;
        write_archive(&self.path, self.name.as_deref(), &ready, Some(document), around)
    }
}
