//! An image of the store on its way out: its documents, and its layers in the compression that is wanted.

use super::Error;
use super::packed::{PackedFile, Recipe, annotations_of_layers};
use crate::archive::compress;
use crate::oci::{
    Compression, Descriptor, DiffId, Digest, Hashing, ImageConfig, Manifest, ManifestFormat, Platform, media,
};
use crate::registry::MAX_CONFIG_BYTES;
use crate::store::{Store, TempDir};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// How an image is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Media types; `None`: those that the image has in the store.
    pub format: Option<ManifestFormat>,
    /// Compression of layers that lie uncompressed in the store; `None`: what the destination takes by default. Layers
    /// that are compressed already stay as they are, so that a base image is recognised elsewhere.
    pub compression: Option<Compression>,
    /// Level of gzip (to 9) or zstd (to 22); `None`: its own.
    pub level: Option<u32>,
    /// Compresses layers anew that are compressed otherwise.
    pub force: bool,
}

/// An image of the store, for one platform.
#[derive(Clone, Debug)]
pub struct StoredImage<'a> {
    store: &'a Store,
    /// Descriptor of the image manifest.
    pub descriptor: Descriptor,
    /// The image manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The config's bytes.
    pub config_bytes: Vec<u8>,
    /// Layers of the manifest that the store does not have: they were packed for this export.
    pub(super) beside: BTreeMap<Digest, LayerBytes>,
}

/// Where a layer is that is not in the store.
#[derive(Clone, Debug)]
pub(super) enum LayerBytes {
    /// In a file.
    File(Arc<PackedFile>),
    /// Nowhere any more.
    Again(Arc<Recipe>),
}

/// A layer, ready to be read at the destination's pace.
#[derive(Debug)]
pub(super) struct LayerFile {
    /// What it is.
    pub descriptor: Descriptor,
    path: PathOrBlob,
}

#[derive(Debug)]
enum PathOrBlob {
    Blob,
    /// A file that others may read as well.
    Beside(Arc<PackedFile>),
    /// A file in a directory that goes when this value does.
    Temp(PathBuf, #[expect(dead_code, reason = "removes the directory when dropped")] TempDir),
}

impl<'a> StoredImage<'a> {
    /// Reads the documents of an image. Of an index, the image for `platform`.
    ///
    /// # Errors
    /// Where they are missing, damaged, or contradict each other.
    pub fn load(store: &'a Store, descriptor: &Descriptor, platform: &Platform) -> Result<Self, Error> {
        let descriptor = if media::is_index(&descriptor.media_type) {
            let index = store.index(&descriptor.digest)?;
            let fits = |d: &Descriptor| d.platform.as_ref().is_none_or(|p| platform.accepts(p));
            let found = index.manifests.into_iter().filter(|d| media::is_manifest(&d.media_type)).find(fits);
            found.ok_or_else(|| Error::Platform(descriptor.digest, platform.to_string()))?
        } else {
            Descriptor { annotations: Default::default(), ..descriptor.clone() }
        };
        let manifest = store.manifest(&descriptor.digest)?;
        let config_bytes = store.read_blob(&manifest.config.digest, MAX_CONFIG_BYTES)?;
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(Error::json(format!("cannot parse config `{}`", manifest.config.digest)))?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(Error::Layers(descriptor.digest, layers, diff_ids));
        }
        Ok(StoredImage { store, descriptor, manifest, config, config_bytes, beside: BTreeMap::new() })
    }

    /// Reads the documents of an image. Of an index, the image for `platform`, or another one where there is none for it.
    ///
    /// # Errors
    /// As [`StoredImage::load`].
    pub fn any(store: &'a Store, descriptor: &Descriptor, platform: &Platform) -> Result<Self, Error> {
        let first = match StoredImage::load(store, descriptor, platform) {
            Err(Error::Platform(..)) => store.index(&descriptor.digest)?.manifests.into_iter().find_map(|d| d.platform),
            other => return other,
        };
        StoredImage::load(store, descriptor, &first.unwrap_or_else(Platform::host))
    }

    /// The image id: the digest of the config.
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// Bytes of all layers, as they lie in the store.
    pub fn size(&self) -> u64 {
        self.manifest.layers.iter().map(|l| l.size).fold(0, u64::saturating_add)
    }

    pub(super) fn store(&self) -> &'a Store {
        self.store
    }

    /// The layers' descriptors with their diff IDs, lowest first.
    pub(super) fn layers(&self) -> impl Iterator<Item = (&Descriptor, DiffId)> {
        self.manifest.layers.iter().zip(self.config.rootfs.diff_ids.iter().copied())
    }

    /// The format that the image has in the store.
    pub fn format(&self) -> ManifestFormat {
        match self.descriptor.media_type == media::DOCKER_MANIFEST {
            true => ManifestFormat::Docker,
            false => ManifestFormat::Oci,
        }
    }

    /// How a layer of this descriptor leaves: as it is where it is compressed or `None` is asked for, else compressed.
    pub(super) fn outgoing(layer: &Descriptor, wanted: Compression) -> Compression {
        match Compression::of_layer(&layer.media_type) {
            Some(Compression::None) => wanted,
            Some(other) => other,
            // A foreign media type is passed on untouched.
            None => Compression::None,
        }
    }

    /// The layer as a file of known digest and length, in `compression` where it is not compressed already.
    pub(super) fn layer_file(&self, layer: &Descriptor, diff_id: DiffId, form: Form) -> Result<LayerFile, Error> {
        let wanted = Self::outgoing(layer, form.compression.unwrap_or(Compression::None));
        if Compression::of_layer(&layer.media_type).is_none_or(|have| have == wanted) {
            let media_type = self.layer_type(layer, wanted, form);
            let descriptor = Descriptor { media_type, ..layer.clone() };
            let path = match self.beside.get(&layer.digest) {
                Some(LayerBytes::File(file)) => PathOrBlob::Beside(Arc::clone(file)),
                _ => PathOrBlob::Blob,
            };
            return Ok(LayerFile { descriptor, path });
        }
        let dir = self.store.temp_dir("export")?;
        let path = dir.path().join("layer");
        let mut out = Hashing::new(create(&path)?);
        let input = self.store.open_verified(&layer.digest, layer.size)?;
        compress_into(input, wanted, &mut out).map_err(Error::layer(&layer.digest))?;
        let (file, digest, size) = out.finish();
        finish(file, &path)?;
        let descriptor = Descriptor::new(&self.layer_type(layer, wanted, form), digest, size);
        self.store.remember_compressed(&diff_id, wanted.name(), &descriptor)?;
        Ok(LayerFile { descriptor, path: PathOrBlob::Temp(path, dir) })
    }

    /// The layer as an uncompressed tar, checked against its diff ID.
    pub(super) fn plain_layer(&self, layer: &Descriptor, diff_id: DiffId) -> Result<LayerFile, Error> {
        if layer.digest == diff_id.0 {
            let descriptor = Descriptor { media_type: media::OCI_LAYER.into(), ..layer.clone() };
            return Ok(LayerFile { descriptor, path: PathOrBlob::Blob });
        }
        let dir = self.store.temp_dir("export")?;
        let path = dir.path().join("layer");
        let failed = |source| self.store.blame(&layer.digest, Error::layer(&layer.digest)(source));
        let mut input = compress::Decoder::new(self.store.open_blob(&layer.digest)?).map_err(failed)?;
        let mut out = Hashing::new(create(&path)?);
        io::copy(&mut input, &mut out).map_err(failed)?;
        let (file, digest, size) = out.finish();
        finish(file, &path)?;
        if digest != diff_id.0 {
            let other = Error::DiffId { expected: diff_id, found: DiffId(digest) };
            return Err(self.store.blame(&layer.digest, other));
        }
        Ok(LayerFile { descriptor: Descriptor::new(media::OCI_LAYER, digest, size), path: PathOrBlob::Temp(path, dir) })
    }

    /// The media type of a layer at the destination.
    pub(super) fn layer_type(&self, layer: &Descriptor, compression: Compression, form: Form) -> String {
        match Compression::of_layer(&layer.media_type) {
            Some(_) => compression.layer_type(form.format.unwrap_or(self.format())).to_owned(),
            None => layer.media_type.clone(),
        }
    }

    /// The manifest for these layers. The bytes are those of the store where nothing differs, so that an image that was
    /// pulled keeps its digest.
    pub(super) fn manifest_for(&self, layers: Vec<Descriptor>, form: Form) -> Result<(Descriptor, Vec<u8>), Error> {
        let format = form.format.unwrap_or(self.format());
        if format == self.format() && layers == self.manifest.layers && self.beside.is_empty() {
            let bytes = self.store.read_blob(&self.descriptor.digest, crate::registry::MAX_MANIFEST_BYTES)?;
            let media_type =
                if self.manifest.media_type.is_empty() { media::OCI_MANIFEST } else { &self.manifest.media_type };
            return Ok((Descriptor::of(media_type, &bytes), bytes));
        }
        let docker = format == ManifestFormat::Docker;
        let mut layers = layers;
        if docker {
            // Docker's format has no place for them.
            layers.iter_mut().for_each(|l| l.annotations.clear());
        }
        let zstd = |l: &Descriptor| Compression::of_layer(&l.media_type) == Some(Compression::Zstd);
        if docker && layers.iter().any(zstd) {
            return Err(Error::Form("a manifest of Docker's format cannot hold layers in zstd"));
        }
        let media_type = if docker { media::DOCKER_MANIFEST } else { media::OCI_MANIFEST };
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type.into(),
            artifact_type: if docker { None } else { self.manifest.artifact_type.clone() },
            config: self.config_descriptor(form),
            layers,
            subject: if docker { None } else { self.manifest.subject.clone() },
            annotations: if docker { Default::default() } else { self.manifest.annotations.clone() },
        };
        let bytes = serde_json::to_vec(&manifest).map_err(Error::json("cannot write the manifest"))?;
        Ok((Descriptor::of(media_type, &bytes), bytes))
    }

    /// What a manifest of the wanted form cannot hold: names of annotations and of other members. The time in the usual
    /// annotation is in the config, too.
    pub(super) fn without_place(&self, form: &Form) -> BTreeSet<String> {
        let docker = form.format.unwrap_or(self.format()) == ManifestFormat::Docker;
        let manifest = &self.manifest;
        let of_layers = annotations_of_layers(&manifest.layers, form);
        match (docker, self.format()) {
            (false, _) => return BTreeSet::new(),
            // What it has stays, unless it is written anew.
            (true, ManifestFormat::Docker) if form.compression != Some(Compression::Estargz) => return BTreeSet::new(),
            (true, ManifestFormat::Docker) => return of_layers.into_iter().collect(),
            (true, ManifestFormat::Oci) => {}
        }
        let kept = |(name, value): &(&String, &String)| {
            *name == "org.opencontainers.image.created" && self.config.created.as_ref() == Some(*value)
        };
        let mut names: BTreeSet<String> =
            manifest.annotations.iter().filter(|a| !kept(a)).map(|(name, _)| name.clone()).collect();
        names.extend(of_layers);
        names.extend(manifest.subject.is_some().then(|| "subject".to_owned()));
        names.extend(manifest.artifact_type.is_some().then(|| "artifactType".to_owned()));
        names
    }

    /// The config's descriptor at the destination.
    pub(super) fn config_descriptor(&self, form: Form) -> Descriptor {
        let known = [media::OCI_CONFIG, media::DOCKER_CONFIG].contains(&self.manifest.config.media_type.as_str());
        match form.format.unwrap_or(self.format()) {
            _ if !known => self.manifest.config.clone(),
            ManifestFormat::Oci => Descriptor::of(media::OCI_CONFIG, &self.config_bytes),
            ManifestFormat::Docker => Descriptor::of(media::DOCKER_CONFIG, &self.config_bytes),
        }
    }
}

impl LayerFile {
    /// Opens it. Reading a blob of the store to its end fails where it is damaged.
    pub fn open(&self, store: &Store) -> Result<Box<dyn Read + Send>, Error> {
        match &self.path {
            PathOrBlob::Blob => Ok(store.open_verified(&self.descriptor.digest, self.descriptor.size)?),
            PathOrBlob::Beside(file) => Ok(Box::new(file.open().map_err(Error::layer(&self.descriptor.digest))?)),
            PathOrBlob::Temp(path, _) => Ok(Box::new(File::open(path).map_err(Error::file("open", path))?)),
        }
    }
}

fn create(path: &std::path::Path) -> Result<BufWriter<File>, Error> {
    Ok(BufWriter::with_capacity(1 << 18, File::create_new(path).map_err(Error::file("create", path))?))
}

fn finish(mut file: BufWriter<File>, path: &std::path::Path) -> Result<(), Error> {
    file.flush().map_err(Error::file("write", path))
}

/// Copies a layer, compressed on the way.
pub(super) fn compress_into(input: impl Read, how: Compression, output: &mut dyn Write) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    match how.without_index() {
        Compression::None => io::copy(&mut BufReader::with_capacity(1 << 18, input), output).map(drop),
        Compression::Gzip => compress::gzip(input, output, None, threads),
        _ => compress::zstd(input, output, None, threads),
    }
}
