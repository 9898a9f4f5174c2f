//! An image whose layers are brought into a form that cannot be made on the way out: eStargz and zstd:chunked, whose
//! annotations and diff IDs are known only when they are written; levels; and layers that are compressed anew.
//!
//! What comes out is an image like any other, with layers that lie beside the store for as long as it lives. The table of an
//! eStargz layer is part of its tar, so its diff ID is another one: the config says so, as BuildKit's does, and with the
//! config's digest the image at the destination has another id than that in the store. A layer that has been packed before is
//! made again only where the destination lacks it.

use super::image::{LayerBytes, StoredImage};
use super::{Error, Form, Surroundings};
use crate::archive::{compress, indexed};
use crate::oci::{Compression, Descriptor, DiffId, Digest, Hashing, Location, ManifestFormat, media};
use crate::store::{Store, TempDir};
use crate::ui::Event;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// In what is remembered of a layer, never in a manifest: its diff ID in that form, and who made it.
const DIFF_ID: &str = "io.rbuild.diff-id";
const MAKER: &str = "io.rbuild.version";

/// A layer that lies in a file of its own.
#[derive(Debug)]
pub(super) struct PackedFile {
    path: PathBuf,
    _dir: TempDir,
}

impl PackedFile {
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

/// How a layer is packed.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    layer: Descriptor,
    diff_id: DiffId,
    how: Compression,
    level: Option<u32>,
}

/// A layer that was packed.
struct Packed {
    descriptor: Descriptor,
    diff_id: DiffId,
    file: PackedFile,
}

/// Whether compression was asked for, and layers go to none of these places compressed.
pub fn is_in_vain(form: &Form, to: &[Location]) -> bool {
    let asked = form.compression.is_some_and(|how| how != Compression::None) || form.force;
    asked && !to.iter().any(compresses)
}

/// Whether layers leave compressed for this place: others keep plain tars.
fn compresses(to: &Location) -> bool {
    match to {
        Location::Registry(_) | Location::OciDir { .. } | Location::OciArchive { .. } | Location::Dir { .. } => true,
        Location::Store(_) | Location::DockerArchive { .. } | Location::Containers(_) | Location::DockerDaemon(_) => {
            false
        }
    }
}

/// Refuses forms that a place has no room for.
///
/// # Errors
/// Those.
pub fn check_form(to: &Location, form: &Form) -> Result<(), Error> {
    let wanted = form.compression.unwrap_or(Compression::None);
    if form.format == Some(ManifestFormat::Docker) && wanted.without_index() == Compression::Zstd {
        return Err(Error::Form("a manifest of Docker's format cannot hold layers in zstd"));
    }
    if matches!(to, Location::DockerArchive { .. }) && form.is_packed(Compression::None) {
        return Err(Error::Form(
            "an archive for `docker load` holds plain layers: no form of compression has a place there",
        ));
    }
    Ok(())
}

impl Form {
    /// Whether layers are packed before they leave, and not on the way. `default`: the compression where none is named.
    pub(super) fn is_packed(&self, default: Compression) -> bool {
        let wanted = self.compression.unwrap_or(default);
        wanted.without_index() != wanted || self.level.is_some() || self.force
    }
}

impl<'a> StoredImage<'a> {
    /// The image with its layers in the form that is wanted, and the form in which that leaves; `default` is the compression
    /// where none is named. `lazily`: a layer that was packed before becomes a file only when it is opened.
    pub(super) fn packed(
        &self,
        form: &Form,
        default: Compression,
        lazily: bool,
        around: Surroundings<'_>,
    ) -> Result<(Cow<'_, StoredImage<'a>>, Form), Error> {
        let wanted = form.compression.unwrap_or(default);
        if !form.is_packed(default) {
            return Ok((Cow::Borrowed(self), *form));
        }
        let mut image = self.clone();
        let layers = self.layers().map(|(layer, diff_id)| (layer.clone(), diff_id));
        for (n, (layer, diff_id)) in layers.enumerate() {
            let (descriptor, new_id, bytes) = match Compression::of(&layer) {
                Some(have) if have != wanted && (have == Compression::None || form.force) => {
                    let how = Recipe { layer, diff_id, how: wanted, level: form.level };
                    self.pack(&how, form, lazily, around)?
                }
                _ => continue,
            };
            image.beside.insert(descriptor.digest, bytes);
            if let (Some(l), Some(id)) = (image.manifest.layers.get_mut(n), image.config.rootfs.diff_ids.get_mut(n)) {
                (*l, *id) = (descriptor, new_id);
            }
        }
        if image.config.rootfs.diff_ids != self.config.rootfs.diff_ids {
            image.config_bytes = with_diff_ids(&self.config_bytes, &image.config.rootfs.diff_ids)?;
            let media_type = &self.manifest.config.media_type;
            let of = Descriptor::of(media_type, &image.config_bytes);
            (image.manifest.config.digest, image.manifest.config.size) = (of.digest, of.size);
        }
        // Nothing is left to be compressed on the way.
        Ok((Cow::Owned(image), Form { compression: Some(Compression::None), level: None, force: false, ..*form }))
    }

    fn pack(
        &self,
        recipe: &Recipe,
        form: &Form,
        lazily: bool,
        around: Surroundings<'_>,
    ) -> Result<(Descriptor, DiffId, LayerBytes), Error> {
        let format = form.format.unwrap_or(self.format());
        let typed = |descriptor: Descriptor| {
            let how = Compression::of_layer(&descriptor.media_type).unwrap_or(recipe.how);
            Descriptor { media_type: how.layer_type(format).to_owned(), ..descriptor }
        };
        if lazily && let Some((descriptor, diff_id)) = recipe.remembered(self.store()) {
            return Ok((typed(descriptor), diff_id, LayerBytes::Again(Arc::new(recipe.clone()))));
        }
        let packed = recipe.run(self.store(), around)?;
        Ok((typed(packed.descriptor), packed.diff_id, LayerBytes::File(Arc::new(packed.file))))
    }
}

impl Recipe {
    /// The name under which the result is remembered.
    fn name(&self) -> String {
        let name = self.how.name().replace(':', "-");
        self.level.map_or(name.clone(), |level| format!("{name}-{level}"))
    }

    fn remembered(&self, store: &Store) -> Option<(Descriptor, DiffId)> {
        let mut known = store.compressed(&self.diff_id, &self.name())?;
        let maker = known.annotations.remove(MAKER)?;
        let diff_id: Digest = known.annotations.remove(DIFF_ID)?.parse().ok()?;
        // Another version may write other bytes.
        (maker == env!("CARGO_PKG_VERSION")).then_some((known, DiffId(diff_id)))
    }

    fn remember(&self, store: &Store, packed: &Packed) {
        let mut descriptor = packed.descriptor.clone();
        descriptor.annotations.insert(MAKER.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        descriptor.annotations.insert(DIFF_ID.to_owned(), packed.diff_id.to_string());
        // Only saves work the next time: a store that cannot be written does not make the export fail.
        let _ = store.remember_compressed(&self.diff_id, &self.name(), &descriptor);
    }

    /// Makes a layer again that was packed before.
    pub fn again(&self, expected: &Digest, store: &Store, around: Surroundings<'_>) -> Result<PackedFile, Error> {
        let packed = self.run(store, around)?;
        if packed.descriptor.digest != *expected {
            let what = "the layer was packed to other bytes before: it is remembered anew, try again";
            return Err(Error::layer(&self.layer.digest)(io::Error::other(what)));
        }
        Ok(packed.file)
    }

    fn run(&self, store: &Store, around: Surroundings<'_>) -> Result<Packed, Error> {
        match self.write(self.how, store, around)? {
            Ok(packed) => {
                self.remember(store, &packed);
                Ok(packed)
            }
            Err(why) => {
                let (layer, name, plain) = (&self.layer.digest, self.how.name(), self.how.without_index());
                let text = format!("layer `{layer}` leaves as {} instead of {name}: {why}", plain.name());
                around.sink.event(&Event::Warning { text: &text });
                let packed = self.write(plain, store, around)?;
                packed.map_err(|why| Error::layer(layer)(io::Error::other(why)))
            }
        }
    }

    /// Packs it; what keeps it from having a table of contents is said.
    fn write(
        &self,
        how: Compression,
        store: &Store,
        around: Surroundings<'_>,
    ) -> Result<Result<Packed, String>, Error> {
        let digest = &self.layer.digest;
        let blame = |e: io::Error| store.blame(digest, Error::layer(digest)(e));
        let dir = store.temp_dir("export")?;
        let path = dir.path().join("layer");
        let file = File::create_new(&path).map_err(Error::file("create", &path))?;
        let mut out = Hashing::new(BufWriter::with_capacity(1 << 18, file));
        let input = source(&self.layer, store, around)?;
        let mut input = Hashing::new(compress::Decoder::new(input).map_err(blame)?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let level = self.level;
        let index = match how {
            Compression::None => io::copy(&mut input, &mut out).map(|_| None).map_err(blame)?,
            Compression::Gzip => compress::gzip(&mut input, &mut out, level, threads).map(|()| None).map_err(blame)?,
            Compression::Zstd => compress::zstd(&mut input, &mut out, level, threads).map(|()| None).map_err(blame)?,
            Compression::Estargz | Compression::ZstdChunked => {
                let written = match how {
                    Compression::Estargz => indexed::estargz(&mut input, &mut out, level, threads),
                    _ => indexed::zstd_chunked(&mut input, &mut out, level, threads),
                };
                match written {
                    Ok(index) => Some(index),
                    Err(indexed::Error::Unfit(why)) => return Ok(Err(why)),
                    Err(indexed::Error::Archive(
                        crate::archive::Error::Input(e) | crate::archive::Error::Output(e),
                    )) => return Err(blame(e)),
                    Err(indexed::Error::Archive(e)) => return Err(store.blame(digest, e.into())),
                }
            }
        };
        // A stream is complete for its reader before its last bytes are, which may be wrong.
        io::copy(&mut input, &mut io::sink()).map_err(blame)?;
        let (_, found, _) = input.finish();
        if found != self.diff_id.0 {
            return Err(store.blame(digest, Error::DiffId { expected: self.diff_id, found: DiffId(found) }));
        }
        out.flush().map_err(Error::file("write", &path))?;
        let (_, packed, size) = out.finish();
        let mut descriptor = Descriptor::new(how.layer_type(ManifestFormat::Oci), packed, size);
        let diff_id = index.as_ref().map_or(self.diff_id, |i| i.diff_id);
        descriptor.annotations.extend(index.map(|i| i.annotations).unwrap_or_default());
        Ok(Ok(Packed { descriptor, diff_id, file: PackedFile { path, _dir: dir } }))
    }
}

/// A layer as it is, of the store or of whoever has it.
pub(super) fn source(
    layer: &Descriptor,
    store: &Store,
    around: Surroundings<'_>,
) -> Result<Box<dyn Read + Send>, Error> {
    if store.blob_size(&layer.digest)?.is_none() && around.elsewhere.has(&layer.digest) {
        let dir = store.temp_dir("copy")?;
        let path = dir.path().join("layer");
        let mut file = File::create_new(&path).map_err(Error::file("create", &path))?;
        let fetched = around.elsewhere.fetch(around.client, layer, &mut file);
        fetched.map_err(|e| Error::layer(&layer.digest)(io::Error::other(e)))?;
        // The directory goes, the open file stays as long as somebody reads it.
        return Ok(Box::new(File::open(&path).map_err(Error::file("open", &path))?));
    }
    Ok(store.open_verified(&layer.digest, layer.size)?)
}

/// The config with other diff IDs; everything else, known or not, stays in its place.
fn with_diff_ids(config: &[u8], diff_ids: &[DiffId]) -> Result<Vec<u8>, Error> {
    let failed = || Error::json("cannot write the config");
    let mut value: serde_json::Value = serde_json::from_slice(config).map_err(failed())?;
    value["rootfs"]["diff_ids"] = serde_json::to_value(diff_ids).map_err(failed())?;
    serde_json::to_vec(&value).map_err(failed())
}

/// Annotations that say what is in layers, for a format that has no place for them.
pub(super) fn annotations_of_layers(layers: &[Descriptor], form: &Form) -> Vec<String> {
    let of_estargz =
        (form.compression == Some(Compression::Estargz)).then_some([media::ESTARGZ_TOC, media::ESTARGZ_SIZE]);
    let there = layers.iter().flat_map(|l| l.annotations.keys().cloned());
    there.chain(of_estargz.into_iter().flatten().map(str::to_owned)).collect()
}
