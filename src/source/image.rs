//! Images that FROM and `COPY --from` name: found in the store or in a registry.
//!
//! Finding an image ([`Images::resolve`]) needs its manifest and config only; its layers come when a step needs files
//! ([`Images::fetch`]), and at the latest when an image is committed on top of it.

use super::archives;
use super::signature_policy::{self, SignaturePolicy};
use crate::error::{Classified, Kind};
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Location, Manifest, Platform, Reference, media};
use crate::registry::{self, Client, Resolved};
use crate::store::{self, PartialBlob, Store};
use crate::sys::limits::Space;
use crate::ui::human;
use crate::ui::{BlobState, Direction, Event, Sink};
use std::{
    collections::HashMap,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// When the registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// Only for what the store does not have.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
    /// Always, but what the store has serves where the registry does not answer.
    Newer,
}

/// Layers of one image that are fetched at the same time.
const PARALLEL: usize = 4;
/// Fewest digits of an image id that FROM takes for one.
const SHORTEST_ID: usize = 12;
/// Longest image config that is read, in bytes.
const CONFIG_LIMIT: u64 = registry::MAX_CONFIG_BYTES;

/// An error of finding or fetching an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The signature policy.
    #[error(transparent)]
    Policy(#[from] signature_policy::Error),
    /// Not here, and it must not be pulled.
    #[error("image `{0}` is not in the store, and pulling is switched off")]
    NotHere(String),
    /// It is here for other platforms only.
    #[error("image `{name}` is for {found}, not for {wanted}")]
    Platform {
        /// The image.
        name: String,
        /// The platform that it is for.
        found: Platform,
        /// The platform that was asked for.
        wanted: Platform,
    },
    /// Manifest and config contradict each other.
    #[error("image `{name}` lists {layers} layers in its manifest and {diff_ids} in its config")]
    Layers {
        /// The image.
        name: String,
        /// Layers of the manifest.
        layers: usize,
        /// Diff IDs of the config.
        diff_ids: usize,
    },
    /// The image's config does not parse.
    #[error("image `{name}` has a config that cannot be read: {source}")]
    Config {
        /// The image.
        name: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// The image layout of a named context.
    #[error("image layout `{}`: {source}", path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: archives::Error,
    },
    /// The store of another tool.
    #[error("cannot use image `{name}`: {source}")]
    OtherStore {
        /// The image.
        name: String,
        /// Why not.
        source: archives::Error,
    },
    /// The store's file system is full.
    #[error(
        "cannot fetch layer `{digest}` of {}: no space left: {} written so far, the file system of the store holds {}",
        human::size(*.size, " ", 3), human::size(*.written, " ", 3), human::size(*.limit, " ", 3)
    )]
    NoSpace {
        /// The layer.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// Bytes that this process had written and not finished.
        written: u64,
        /// Bytes that the file system can hold.
        limit: u64,
    },
    /// A blob could not be written.
    #[error("cannot store layer `{digest}`: {source}")]
    Write {
        /// The layer.
        digest: Digest,
        /// What the system answered.
        source: io::Error,
    },
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Store(e) => e.kind(),
            Error::Registry(e) => e.kind(),
            Error::Policy(e) => e.kind(),
            Error::NoSpace { .. } => Kind::Exhausted,
            Error::NotHere(_) | Error::Platform { .. } => Kind::NotFound,
            Error::Layers { .. } | Error::Config { .. } => Kind::Corrupt,
            Error::Write { source, .. } => crate::error::kind_of_io(source),
            Error::Layout { source, .. } | Error::OtherStore { source, .. } => source.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Store(e) => e.hint(),
            Error::Registry(e) => e.hint(),
            Error::Policy(e) => e.hint(),
            Error::NotHere(_) => {
                Some("leave `--pull=never` out, or bring it with `rbuild pull` or `rbuild load`".into())
            }
            Error::Platform { .. } => Some("name another tag, or build for that platform with `--platform`".into()),
            Error::Layout { source, .. } | Error::OtherStore { source, .. } => source.hint(),
            Error::NoSpace { .. } => Some(
                "raise the `sizeLimit` of the emptyDir or the size of the volume that holds the store (`RBUILD_ROOT`), \
                 or free space with `rbuild prune`, and that of caches with `rbuild prune --all`"
                    .into(),
            ),
            Error::Layers { .. } | Error::Config { .. } | Error::Write { .. } => None,
        }
    }

    fn retryable(&self) -> bool {
        match self {
            Error::Registry(e) => e.retryable(),
            Error::Policy(e) => e.retryable(),
            _ => false,
        }
    }
}

/// An image whose manifest and config are known.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name as the user wrote it.
    pub name: String,
    /// The full reference that it was found under; for an image found by its id, one made of that.
    pub reference: Reference,
    /// Its manifest's descriptor.
    pub descriptor: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its config.
    pub config: ImageConfig,
    /// The manifest's and the config's bytes, where they are not in the store yet.
    documents: Option<(Vec<u8>, Vec<u8>)>,
}

/// Finds and fetches images.
pub struct Images<'a> {
    store: &'a Store,
    client: &'a Client,
    pull: Pull,
    policy: &'a SignaturePolicy,
    sink: &'a dyn Sink,
    /// For each manifest, whether its layers are all here. Whoever fetches an image holds its lock, so that nobody moves the
    /// same bytes at the same time.
    complete: Mutex<HashMap<Digest, Arc<Mutex<bool>>>>,
}

impl Image {
    /// The image, where it is for this platform.
    fn only_for(self, platform: &Platform) -> Result<Image, Error> {
        let found = self.config.platform();
        match platform.accepts(&found) {
            true => Ok(self),
            false => Err(Error::Platform { name: self.name, found, wanted: platform.clone() }),
        }
    }
}

impl<'a> Images<'a> {
    /// Images of this store, and those of the registries that `client` reaches which `policy` lets in.
    pub fn new(
        store: &'a Store,
        client: &'a Client,
        pull: Pull,
        policy: &'a SignaturePolicy,
        sink: &'a dyn Sink,
    ) -> Self {
        Images { store, client, pull, policy, sink, complete: Mutex::default() }
    }

    /// Finds the image that `name` means, for a platform.
    ///
    /// # Errors
    /// Where neither the store nor a registry has it, or what they have cannot be used.
    pub fn resolve(&self, name: &str, platform: &Platform) -> Result<Image, Error> {
        let image = self.find(name, platform)?;
        let (layers, diff_ids) = (image.manifest.layers.len(), image.config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(Error::Layers { name: name.to_owned(), layers, diff_ids });
        }
        Ok(image)
    }

    fn find(&self, name: &str, platform: &Platform) -> Result<Image, Error> {
        if let Some(place) = Location::in_other_store(name) {
            return self.other_store(name, &place, platform);
        }
        match self.pull {
            Pull::Never => self.local(name, platform)?.ok_or_else(|| Error::NotHere(name.to_owned())),
            Pull::Always => self.remote(name, platform),
            Pull::Missing => match self.local(name, platform) {
                Ok(Some(image)) => Ok(image),
                // What is here for another platform does not keep one from pulling the right one.
                Ok(None) | Err(Error::Platform { .. }) => self.remote(name, platform),
                // What is damaged is as good as missing, if it can be had again.
                Err(e) if e.kind() == Kind::Corrupt => match self.remote(name, platform) {
                    Ok(image) => {
                        let text = format!("`{name}` is fetched again: {e}");
                        self.sink.event(&Event::Warning { text: &text });
                        Ok(image)
                    }
                    Err(_) => Err(e),
                },
                Err(e) => Err(e),
            },
            Pull::Newer => match self.remote(name, platform) {
                Ok(image) => Ok(image),
                // What the policy refuses is no registry that does not answer.
                Err(e @ Error::Policy(_)) => Err(e),
                Err(e) => match self.local(name, platform) {
                    Ok(Some(image)) => {
                        let text = format!("using `{name}` as it is in the store: {e}");
                        self.sink.event(&Event::Warning { text: &text });
                        Ok(image)
                    }
                    _ => Err(e),
                },
            },
        }
    }

    /// The platforms that the image called `name` is there for, in a registry or else in the store.
    ///
    /// # Errors
    /// Where neither has it.
    pub fn platforms(&self, name: &str) -> Result<Vec<Platform>, Error> {
        let of = |index: Index| {
            let known = |d: Descriptor| d.platform.filter(|p| media::is_manifest(&d.media_type) && p.os != "unknown");
            index.manifests.into_iter().filter_map(known).collect::<Vec<_>>()
        };
        if self.pull != Pull::Never {
            for candidate in self.client.candidates(name)? {
                if let Ok(document) = self.client.fetch_manifest(&candidate)
                    && media::is_index(&document.media_type)
                    && let Ok(index) = serde_json::from_slice(&document.bytes)
                {
                    return Ok(of(index));
                }
            }
        }
        match self.store.find(name) {
            Ok(found) if media::is_index(&found.descriptor.media_type) => {
                Ok(of(self.store.index(&found.descriptor.digest)?))
            }
            _ => Ok(vec![self.resolve(name, &Platform::host())?.config.platform()]),
        }
    }

    fn local(&self, name: &str, platform: &Platform) -> Result<Option<Image>, Error> {
        let found = match self.store.find(name) {
            // `FROM cafe` is a name, even where some image's id begins so.
            Ok(found) if name.len() < SHORTEST_ID && found.name.as_deref().is_none_or(|n| !n.contains(name)) => None,
            Ok(found) => Some(found.descriptor),
            Err(store::Error::UnknownImage(_) | store::Error::MissingBlob(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let found = match found {
            Some(found) => Some((name.parse::<Reference>().ok(), found)),
            // A short name may have been pulled from a registry that registries.conf adds to the search.
            None => self.client.candidates(name).unwrap_or_default().into_iter().find_map(|candidate| {
                let descriptor = self.store.get(&candidate.to_string()).ok()??;
                Some((Some(candidate), descriptor))
            }),
        };
        let Some((reference, descriptor)) = found else { return Ok(None) };
        let descriptor = if media::is_index(&descriptor.media_type) {
            let wanted = |d: &Descriptor| d.platform.as_ref().is_some_and(|p| platform.accepts(p));
            match self.store.index(&descriptor.digest)?.manifests.into_iter().find(wanted) {
                Some(d) if self.store.blob_size(&d.digest)?.is_some() => d,
                _ => return Ok(None),
            }
        } else {
            descriptor
        };
        let reference = reference.unwrap_or_else(|| by_id(descriptor.digest));
        self.stored(name, reference, descriptor)?.only_for(platform).map(Some)
    }

    /// The image in an image layout directory, as [`archives::open_layout`] chooses it; `name` is for messages.
    ///
    /// # Errors
    /// Where the directory holds no such image.
    pub fn layout(
        &self,
        name: &str,
        path: &Path,
        tag: Option<&str>,
        digest: Option<&Digest>,
        platform: &Platform,
    ) -> Result<Image, Error> {
        let failed = |source| Error::Layout { path: path.to_owned(), source };
        let loaded = archives::open_layout(self.store, path, tag, digest, platform, self.policy).map_err(failed)?;
        let reference = by_id(loaded.manifest.digest);
        self.stored(name, reference, loaded.manifest)
    }

    /// An image that lies in the store, whose layers need not be there.
    fn stored(&self, name: &str, reference: Reference, descriptor: Descriptor) -> Result<Image, Error> {
        let manifest = self.store.manifest(&descriptor.digest)?;
        let config = self.config(name, &manifest)?;
        Ok(Image { name: name.to_owned(), reference, descriptor, manifest, config, documents: None })
    }

    /// The image in the store of another tool. A Dockerfile may be anybody's, so that where such a store is, is not its to say.
    fn other_store(&self, name: &str, place: &Location, platform: &Platform) -> Result<Image, Error> {
        if name.contains('[') || self.pull == Pull::Never {
            return Err(Error::NotHere(name.to_owned()));
        }
        self.sink.event(&Event::ImageLookup { name });
        let failed = |source| Error::OtherStore { name: name.to_owned(), source };
        let loaded = archives::open(self.store, place, platform, self.policy).map_err(failed)?;
        let loaded = loaded.into_iter().next().ok_or_else(|| Error::NotHere(name.to_owned()))?;
        let reference = loaded.names.into_iter().next().unwrap_or_else(|| by_id(loaded.manifest.digest));
        self.stored(name, reference, loaded.manifest)?.only_for(platform)
    }

    fn config(&self, name: &str, manifest: &Manifest) -> Result<ImageConfig, Error> {
        let bytes = self.store.read_blob(&manifest.config.digest, CONFIG_LIMIT)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Config { name: name.to_owned(), source })
    }

    fn remote(&self, name: &str, platform: &Platform) -> Result<Image, Error> {
        let mut first = None;
        for candidate in self.client.candidates(name)? {
            self.sink.event(&Event::ImageLookup { name: &candidate.to_string() });
            let found = self.client.resolve(&candidate, platform);
            self.show_warnings();
            match found {
                Ok(resolved) => {
                    self.policy.judge(self.client, &resolved)?;
                    return Ok(from_registry(name, resolved));
                }
                Err(e) => drop(first.get_or_insert(e)),
            }
        }
        Err(first.map_or_else(|| Error::NotHere(name.to_owned()), Error::Registry))
    }

    /// Brings the layers of an image into the store, several at once, and calls `ready` with the number of each when it is
    /// there; then enters the image under its name. Does nothing for what is here already.
    ///
    /// # Errors
    /// The first layer that could not be fetched.
    pub fn fetch(&self, image: &Image, ready: &(dyn Fn(usize) + Sync)) -> Result<(), Error> {
        self.fetch_until(image, ready, &AtomicBool::new(false))
    }

    /// The same, which fails soon when `stop` is set. What is here of a layer by then stays for the next who wants it.
    ///
    /// # Errors
    /// As [`Images::fetch`].
    pub fn fetch_until(&self, image: &Image, ready: &(dyn Fn(usize) + Sync), stop: &AtomicBool) -> Result<(), Error> {
        let lock = {
            let mut all = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(image.descriptor.digest).or_default())
        };
        let mut complete = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if *complete {
            (0..image.manifest.layers.len()).for_each(ready);
            return Ok(());
        }
        let mut missing = vec![];
        for (i, layer) in image.manifest.layers.iter().enumerate() {
            if self.store.blob_size(&layer.digest)?.is_some() { ready(i) } else { missing.push(i) }
        }
        let name = image.reference.to_string();
        if !missing.is_empty() {
            self.sink.event(&Event::TransferStarted { direction: Direction::Pull, name: &name });
            let fetched = self.fetch_missing(image, &missing, ready, stop);
            self.show_warnings();
            fetched?;
        }
        if let Some((manifest, config)) = &image.documents {
            self.store.put_blob(config)?;
            self.store.put_blob(manifest)?;
            let known = self.store.get(&name).ok().flatten().is_some_and(|d| d.digest == image.descriptor.digest);
            if !known {
                self.store.publish(std::slice::from_ref(&name), &plain(&image.descriptor))?;
            }
        }
        if !missing.is_empty() {
            let digest = image.descriptor.digest.to_string();
            self.sink.event(&Event::TransferConfig { digest: &image.manifest.config.digest.to_string() });
            self.sink.event(&Event::TransferDone {
                direction: Direction::Pull,
                name: &name,
                digest: &digest,
                size: image.descriptor.size,
                changed: true,
            });
        }
        *complete = true;
        Ok(())
    }

    fn show_warnings(&self) {
        self.client.warnings().iter().for_each(|text| self.sink.event(&Event::Warning { text }));
    }

    /// Bytes of a layer, which nobody vouches for.
    ///
    /// # Errors
    /// There are none, or the registry sends no parts.
    pub fn fetch_range(
        &self,
        image: &Image,
        layer: &Descriptor,
        range: Range<u64>,
    ) -> Result<Vec<u8>, registry::Error> {
        self.client.fetch_range(&image.reference, layer, range)
    }

    fn fetch_missing(
        &self,
        image: &Image,
        missing: &[usize],
        ready: &(dyn Fn(usize) + Sync),
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let work = || {
            while let Some(&i) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                    return;
                }
                match self.fetch_layer(image, &image.manifest.layers[i], stop) {
                    Ok(()) => ready(i),
                    Err(e) => {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Says of an error for lack of space how much was needed.
    fn explain(&self, layer: &Descriptor, e: Error) -> Error {
        match Space::at(self.store.root()) {
            Some(space) if e.kind() == Kind::Exhausted => Error::NoSpace {
                digest: layer.digest,
                size: layer.size,
                written: self.store.unfinished_bytes(),
                limit: space.total,
            },
            _ => e,
        }
    }

    fn fetch_layer(&self, image: &Image, layer: &Descriptor, stop: &AtomicBool) -> Result<(), Error> {
        let digest = layer.digest.to_string();
        let news = |state| {
            self.sink.event(&Event::Blob { direction: Direction::Pull, digest: &digest, size: layer.size, state });
        };
        // The same layer may be listed twice.
        if self.store.blob_size(&layer.digest)?.is_some() {
            news(BlobState::Exists);
            return Ok(());
        }
        news(BlobState::Waiting);
        match self.store.partial_blob(&layer.digest, layer.size)? {
            Some(blob) => self.fetch_into(image, layer, blob, stop)?,
            // Another process fetches the same: neither waits for the other, which may be slower.
            None => {
                let mut blob = self.store.blob_writer()?;
                self.client
                    .fetch_blob(&image.reference, layer, &mut Until { to: &mut blob, stop })
                    .map_err(|e| self.explain(layer, e.into()))?;
                blob.commit(Some(&layer.digest)).map_err(|e| self.explain(layer, e.into()))?;
            }
        }
        news(BlobState::Done);
        Ok(())
    }

    /// Fetches what is missing of a layer.
    fn fetch_into(
        &self,
        image: &Image,
        layer: &Descriptor,
        mut blob: PartialBlob<'_>,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        loop {
            let begun = blob.have();
            if begun > 0 {
                tracing::info!(digest = %layer.digest, "going on with a download at byte {begun} of {}", layer.size);
            }
            let mut reader = blob.begun()?;
            let mut into = Until { to: &mut blob, stop };
            match self.client.fetch_rest(&image.reference, layer, (begun, &mut reader), &mut into) {
                Ok(()) => return blob.commit(&layer.digest).map_err(|e| self.explain(layer, e.into())),
                // The beginning may be what is wrong: it was never synced, or came from elsewhere.
                Err(e) if e.kind() == Kind::Corrupt && begun > 0 => blob.start_over()?,
                Err(e) => {
                    let e = self.explain(layer, e.into());
                    // Room is what is wanted, and what does not match is of no use.
                    if matches!(e.kind(), Kind::Exhausted | Kind::Corrupt) {
                        blob.discard();
                    }
                    return Err(e);
                }
            }
        }
    }
}

/// Takes bytes until it is told to stop.
struct Until<'a, W> {
    to: &'a mut W,
    stop: &'a AtomicBool,
}

impl<W> Until<'_, W> {
    fn wanted(&self) -> io::Result<()> {
        let stopped = self.stop.load(Ordering::Relaxed);
        if stopped { Err(io::Error::other("nobody needs it any more")) } else { Ok(()) }
    }
}

impl<W: Write> Write for Until<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wanted()?;
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wanted()?;
        self.to.flush()
    }
}

/// The reference of an image that has no name.
fn by_id(manifest: Digest) -> Reference {
    Reference { registry: Some("localhost".into()), repository: "image".into(), tag: None, digest: Some(manifest) }
}

fn from_registry(name: &str, r: Resolved) -> Image {
    Image {
        name: name.to_owned(),
        reference: r.reference,
        descriptor: r.descriptor,
        manifest: r.manifest,
        config: r.config,
        documents: Some((r.manifest_bytes, r.config_bytes)),
    }
}

/// A descriptor as the store's index lists it: without what an index of platforms said of it.
fn plain(d: &Descriptor) -> Descriptor {
    Descriptor::new(&d.media_type, d.digest, d.size)
}
