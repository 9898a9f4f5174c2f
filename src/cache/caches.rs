//! The caches that a build shares with others: `--cache-from` and `--cache-to`.
//!
//! ```text
//! step ── key ──► local step cache ── miss ──► each `--cache-from` in turn ──► hit: diff ID, size, blob, time
//!                                                                           └► miss: the step is executed
//! later step that needs the files ──► bring: blob → decompressed, both digests checked → the store
//! image that is only pushed ───────► the blob is linked or copied from where it is, see `elsewhere`
//! every finished step ─────────────► writer: each `--cache-to`, in the background
//! ```
//!
//! A hit moves nothing but the entry. Whether its blob is there is asked at once, so that an entry whose layer is gone is a
//! miss. What a blob holds shows when it is fetched; where it is not what the entry says, or does not come, [`Lost`] tells the
//! build to go back and execute the steps that it had taken from there.

use super::backend::{self, Clients, Fault};
use super::guard::{Guarded, Patience};
use super::mounts::MountCache;
use super::spec::{MountSpec, Spec};
use super::trust::Trust;
use super::writer::{Content, Job, JobLayer, Of, Takes, Target, Writer};
use super::{CacheKey, Elsewhere, StepCache};
use crate::archive::compress::Decoder;
use crate::oci::{Compression, Descriptor, DiffId, Digest, Hashing, Reference};
use crate::store::{self, Store, TempDir};
use crate::ui::{Event, Sink};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Layers that are fetched at the same time.
const PARALLEL: usize = 4;

/// A layer that an entry named cannot be had. The user was told why.
#[derive(Debug, thiserror::Error)]
#[error("a layer of the cache cannot be had")]
pub struct Lost;

/// Where the layer of a cached step is.
#[derive(Clone, Debug)]
pub struct RemoteLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Length of the uncompressed tar in bytes.
    pub size: u64,
    /// The compressed blob.
    pub blob: Descriptor,
    place: Arc<Guarded>,
}

impl PartialEq for RemoteLayer {
    fn eq(&self, other: &Self) -> bool {
        (self.diff_id, &self.blob) == (other.diff_id, &other.blob)
    }
}

impl Eq for RemoteLayer {}

impl RemoteLayer {
    /// The repository that has the blob, where it is in one.
    pub fn repository(&self) -> Option<&Reference> {
        self.place.backend.repository()
    }

    /// Streams the compressed blob, checked.
    pub(super) fn fetch(&self, to: &mut (dyn Write + Send)) -> Result<(), Fault> {
        self.place.fetch(&self.blob, to)
    }
}

/// What a shared cache knows of a step.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The layer; `None` where the step changed no file.
    pub layer: Option<RemoteLayer>,
    /// When the step was executed, RFC 3339.
    pub created: String,
    /// The name of the cache.
    pub from: String,
}

/// The caches of one build.
pub struct SharedCaches<'a> {
    store: &'a Store,
    sink: &'a dyn Sink,
    patience: Arc<Patience>,
    from: Vec<Arc<Guarded>>,
    writer: Option<Writer>,
    trust: Arc<Trust>,
    ttl: Option<Duration>,
    found: Mutex<HashMap<CacheKey, Option<Hit>>>,
    refused: Mutex<HashSet<Digest>>,
    bringing: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    pub(super) mounts: Vec<MountCache>,
    /// Tars of mounts on their way out: they are no part of the store.
    kept: Mutex<Vec<(DiffId, TempDir)>>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> SharedCaches<'a> {
    /// The caches that were asked for, of steps and of the files of mounts. Nothing is asked of any of them yet.
    ///
    /// # Errors
    /// Where the store has no place for what is on its way out.
    pub fn new(
        store: &'a Store,
        sink: &'a dyn Sink,
        clients: &Clients,
        (from, to, mounts): (&[Spec], &[Spec], &[MountSpec]),
        trust: Arc<Trust>,
        ttl: Option<Duration>,
    ) -> Result<Self, store::Error> {
        let patience = Arc::new(Patience::default());
        let mut places: Vec<Arc<Guarded>> = vec![];
        let mut open = |spec: &Spec| {
            let backend = backend::open(spec, clients)?;
            // One that is read and written is one place, with one state, whatever it is for.
            let known = places.iter().find(|p| p.backend.name() == backend.name() && p.scope == spec.scope).cloned();
            Some(known.unwrap_or_else(|| {
                let place = Arc::new(Guarded::new(backend, &spec.scope, patience.clone()));
                places.push(place.clone());
                place
            }))
        };
        let from = from.iter().filter_map(&mut open).collect();
        let (mut targets, mut kept) = (vec![], vec![]);
        let written = to.iter().map(|spec| (spec, Takes::Steps(spec.mode)));
        let tars = mounts.iter().flat_map(|m| m.to.iter().map(|spec| (spec, Takes::Mount(m.id.clone()))));
        for (spec, takes) in written.chain(tars) {
            targets.extend(open(spec).map(|place| Target { place, takes, compression: spec.compression }));
        }
        for mount in mounts {
            let from = mount.from.iter().filter_map(&mut open);
            match kept.iter_mut().find(|known: &&mut MountCache| known.id() == mount.id) {
                Some(known) => known.from.extend(from),
                None => kept.push(MountCache::new(&mount.id, from.collect())),
            }
        }
        let writer = match targets.is_empty() {
            true => None,
            false => {
                let place = (store.temp_dir("cache")?, store.making().clone());
                Some(Writer::new(targets, place, trust.clone(), patience.clone()))
            }
        };
        Ok(SharedCaches { patience, from, writer, trust, ttl, mounts: kept, ..SharedCaches::none(store, sink) })
    }

    /// No caches at all.
    pub fn none(store: &'a Store, sink: &'a dyn Sink) -> Self {
        SharedCaches {
            store,
            sink,
            patience: Arc::default(),
            from: vec![],
            writer: None,
            trust: Arc::default(),
            ttl: None,
            found: Mutex::default(),
            refused: Mutex::default(),
            bringing: Mutex::default(),
            mounts: vec![],
            kept: Mutex::default(),
        }
    }

    pub(super) fn show_news(&self) {
        for text in self.patience.news() {
            self.sink.event(&Event::Warning { text: &text });
        }
    }

    /// What the caches know of a step. The answer stays the same for the whole build.
    pub fn lookup(&self, key: &CacheKey) -> Option<Hit> {
        if self.from.is_empty() {
            return None;
        }
        if let Some(known) = lock(&self.found).get(key) {
            return known.clone();
        }
        let hit = self.from.iter().find_map(|place| self.lookup_in(place, key, self.ttl));
        if let Some(hit) = hit.as_ref().filter(|hit| hit.layer.is_none()) {
            self.keep(key, hit);
        }
        self.show_news();
        lock(&self.found).insert(key.clone(), hit.clone());
        hit
    }

    pub(super) fn lookup_in(&self, place: &Arc<Guarded>, key: &CacheKey, ttl: Option<Duration>) -> Option<Hit> {
        let sealed = place.ask(|within| place.backend.lookup(key, within))??;
        let entry = match sealed.open(key, &place.scope, &self.trust) {
            Ok(entry) => entry,
            Err(why) => {
                place.faulted(&Fault::Bad(why));
                return None;
            }
        };
        if ttl.is_some_and(|ttl| super::is_older(&entry.created, ttl)) {
            return None;
        }
        let layer = match &entry.layer {
            None => None,
            Some(layer) => {
                let blob = layer.blob.as_ref()?.descriptor();
                if lock(&self.refused).contains(&blob.digest) {
                    return None;
                }
                if !place.ask(|within| place.backend.has_layer(&blob, within))? {
                    place.faulted(&Fault::Bad(format!(
                        "its layer `{}` of {} bytes is not there",
                        blob.digest, blob.size
                    )));
                    return None;
                }
                Some(RemoteLayer { diff_id: layer.diff_id, size: layer.size, blob, place: place.clone() })
            }
        };
        Some(Hit { layer, created: entry.created, from: place.backend.name() })
    }

    /// Makes sure that a layer lies in the store, uncompressed.
    ///
    /// # Errors
    /// [`Lost`] where it does not come or is not what it should be: from then on it is no hit.
    pub fn bring(&self, layer: &RemoteLayer) -> Result<(), Lost> {
        let one = Arc::clone(lock(&self.bringing).entry(layer.diff_id.0).or_default());
        let _one = lock(&one);
        if self.store.blob_size(&layer.diff_id.0).ok().flatten() == Some(layer.size) {
            return Ok(());
        }
        let done = self.unpack(layer);
        if let Err(why) = &done {
            tracing::debug!(%why, "a layer is lost");
            self.refuse(layer, why);
        }
        if done.is_ok() {
            for (key, hit) in lock(&self.found).iter() {
                if let Some(hit) = hit.as_ref().filter(|h| h.layer.as_ref().is_some_and(|l| l == layer)) {
                    self.keep(key, hit);
                }
            }
        }
        self.show_news();
        done.map_err(|_| Lost)
    }

    fn refuse(&self, layer: &RemoteLayer, why: &str) {
        lock(&self.refused).insert(layer.blob.digest);
        lock(&self.found).clear();
        let (blob, name) = (layer.blob.digest, layer.place.backend.name());
        let text = format!("layer `{blob}` of cache `{name}` is of no use: {why}");
        self.patience.tell(text);
    }

    /// blob → network → decompressed → the store, in one pass.
    fn unpack(&self, layer: &RemoteLayer) -> Result<(), String> {
        let mut blob = self.store.hashed_blob_writer().map_err(|e| e.to_string())?;
        stream(layer, &mut |tar| io::copy(tar, &mut blob).map(drop))?;
        blob.commit(&layer.diff_id.0).map_err(|e| e.to_string())?;
        if let Some(how) = Compression::of_layer(&layer.blob.media_type) {
            let _ = self.store.remember_compressed(&layer.diff_id, how.name(), &layer.blob);
        }
        Ok(())
    }

    /// Hands a layer's tar to `take`, which reads all of it, and passes by the store. What was taken counts only where this
    /// ends well: both digests are compared at the end.
    ///
    /// # Errors
    /// [`Lost`] where it does not come, is not what it should be, or is not taken.
    pub fn read(&self, layer: &RemoteLayer, take: &mut Take<'_>) -> Result<(), Lost> {
        let done = stream(layer, take);
        if let Err(why) = &done {
            self.refuse(layer, why);
        }
        self.show_news();
        done.map_err(|_| Lost)
    }

    /// Takes note of the tar of a mount with this id, which is in a file `tar` of the directory.
    pub(super) fn keep_tar(
        &self,
        id: &str,
        key: CacheKey,
        created: &str,
        (diff_id, size): (DiffId, u64),
        dir: TempDir,
    ) {
        let Some(writer) = &self.writer else { return };
        let layer =
            Some(JobLayer { diff_id, size, content: Content::File { path: dir.path().join("tar"), known: vec![] } });
        writer.push(Job { key, created: created.to_owned(), layer, of: Of::Mount(id.to_owned()) });
        lock(&self.kept).push((diff_id, dir));
    }

    /// Takes note of a step: what it made goes to the caches that are written. `in_image`: its layer is in the image.
    pub fn remember(&self, key: &CacheKey, created: &str, layer: Option<(DiffId, u64)>, in_image: bool) {
        let Some(writer) = &self.writer else { return };
        let layer = match layer {
            None => None,
            Some((diff_id, size)) => {
                // Somebody who removes it now would be the store's own collection, which knows that it is held.
                let Ok(path) = self.store.blob_file(&diff_id.0) else { return };
                let known = [Compression::Gzip, Compression::Zstd]
                    .into_iter()
                    .filter_map(|how| Some((how, self.store.compressed(&diff_id, how.name())?)))
                    .collect();
                Some(JobLayer { diff_id, size, content: Content::File { path, known } })
            }
        };
        writer.push(Job { key: key.clone(), created: created.to_owned(), layer, of: Of::Step { in_image } });
        self.show_news();
    }

    /// Takes note of a step that another cache knew.
    pub fn pass_on(&self, key: &CacheKey, hit: &Hit, in_image: bool) {
        let Some(writer) = self.writer.as_ref().filter(|w| w.has_other_than(&hit.from)) else { return };
        let layer = hit.layer.as_ref().map(|layer| JobLayer {
            diff_id: layer.diff_id,
            size: layer.size,
            content: Content::Remote(Box::new(layer.clone())),
        });
        writer.push(Job { key: key.clone(), created: hit.created.clone(), layer, of: Of::Step { in_image } });
    }

    /// The keys that entries are signed and checked with.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Waits for what is being written, as long as it gets on. Returns which blobs were written to which repositories.
    pub fn finish(&self) -> Elsewhere {
        let mut elsewhere = Elsewhere::default();
        if let Some(writer) = &self.writer {
            let repositories = writer.repositories();
            let waiting = |entries: usize| {
                let text = format!("{entries} entries are on their way to the caches");
                self.sink.event(&Event::Note { text: &text });
            };
            let tars = std::mem::take(&mut *lock(&self.kept));
            for (diff_id, how, blob) in writer.finish(&waiting) {
                if tars.iter().any(|(tar, _)| *tar == diff_id) {
                    continue; // no layer of an image
                }
                // Only saves work: the next push need not compress it.
                let _ = self.store.remember_compressed(&diff_id, how.name(), &blob);
                repositories.iter().for_each(|r| elsewhere.add_image(blob.digest, r));
            }
        }
        for (place, layers) in self.named_layers() {
            layers.iter().for_each(|blob| elsewhere.add_link(*blob, place));
        }
        self.show_news();
        elsewhere
    }

    /// Repositories among the caches, with layers that other documents there name.
    fn named_layers(&self) -> impl Iterator<Item = (&Reference, &HashSet<Digest>)> {
        self.from.iter().filter_map(|p| p.backend.repository().zip(p.backend.named_layers()))
    }

    /// Repositories that name a layer, as far as is known by now.
    pub fn repositories_of(&self, blob: &Digest) -> impl Iterator<Item = &Reference> {
        self.named_layers().filter(|(_, layers)| layers.contains(blob)).map(|(at, _)| at)
    }

    /// Brings several layers at the same time.
    ///
    /// # Errors
    /// [`Lost`] where one of them does not come.
    pub fn bring_all(&self, layers: &[&RemoteLayer]) -> Result<(), Lost> {
        let (next, lost) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                lost.fetch_or(self.bring(layer).is_err(), Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(layers.len()) {
                scope.spawn(work);
            }
            work();
        });
        if lost.into_inner() { Err(Lost) } else { Ok(()) }
    }

    /// Asks no cache any more.
    pub fn give_up(&self) {
        self.from.iter().for_each(|place| place.give_up());
        lock(&self.found).clear();
    }

    /// Remembers in the store what a hit says.
    fn keep(&self, key: &CacheKey, hit: &Hit) {
        let layer = hit.layer.as_ref().map(|l| (l.diff_id, l.size));
        if let Err(e) = StepCache::new(self.store, None).remember(key, layer, &hit.created) {
            tracing::debug!(error = %e, "cannot remember a step");
        }
    }
}

/// Reads a tar to its end.
pub type Take<'a> = dyn FnMut(&mut dyn Read) -> io::Result<()> + 'a;

/// blob → network → decompressed → `take`.
fn stream(layer: &RemoteLayer, take: &mut Take<'_>) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (reader, mut writer) = io::pipe().map_err(|e| text(&e))?;
    let (fetched, taken) = std::thread::scope(|scope| {
        let fetching = scope.spawn(move || layer.place.fetch(&layer.blob, &mut writer));
        let take = || -> io::Result<(Digest, u64)> {
            let mut reader = reader;
            // One byte more than there should be tells that there are more.
            let mut tar = Hashing::new(Decoder::new(&mut reader)?.take(layer.size.saturating_add(1)));
            take(&mut tar)?;
            let (rest, digest, size) = tar.finish();
            drop(rest);
            // The fetch must see its end, or it cannot say whether it was complete.
            io::copy(&mut reader, &mut io::sink())?;
            Ok((digest, size))
        };
        let taken = take();
        let fetched = fetching.join().unwrap_or_else(|_| Err(Fault::Bad("it cannot be fetched".into())));
        (fetched, taken)
    });
    // What broke the pipe comes first.
    match (&fetched, &taken) {
        (Err(Fault::Down(why) | Fault::Refused(why)), _) => return Err(why.clone()),
        (_, Err(e)) if e.kind() != io::ErrorKind::UnexpectedEof || fetched.is_ok() => return Err(text(e)),
        (Err(fault), _) => return Err(text(fault)),
        _ => {}
    }
    match taken {
        Ok(found) if found == (layer.diff_id.0, layer.size) => Ok(()),
        Ok((_, size)) if size > layer.size => Err("it holds more than its entry says".into()),
        Ok((digest, size)) => {
            Err(format!("it holds `{digest}` of {size} bytes, not `{}` of {}", layer.diff_id, layer.size))
        }
        Err(e) => Err(text(&e)),
    }
}
