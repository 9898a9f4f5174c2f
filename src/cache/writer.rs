//! What goes to the caches, in the background.
//!
//! A step hands over its key and where its layer lies, and the build goes on. Some threads compress each layer once,
//! whatever the number of caches, and bring it where it is not yet. They belong to nobody: a build that ends without them
//! leaves them to the end of the process, so that a server that hangs holds up nothing.

use super::CacheKey;
use super::backend::{Fault, Packed};
use super::caches::RemoteLayer;
use super::entry::{Entry, EntryBlob, EntryLayer};
use super::guard::{Guarded, Patience};
use super::spec::Mode;
use super::trust::Trust;
use crate::archive::compress;
use crate::oci::{Compression, Descriptor, DiffId, Hashing, ManifestFormat, Reference};
use crate::store::{Made, Making, TempDir, Turn};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Entries that are written at the same time.
const THREADS: usize = 2;
/// How long a look at what a cache has already may take.
const LOOK: Duration = Duration::from_secs(3);
/// When nothing has moved for this long, the caches are asked whether they are there at all.
const STILL: Duration = Duration::from_millis(1500);
/// The same where all patience is spent.
const STILL_SHORT: Duration = Duration::from_millis(500);
/// Who waits for longer than this is told what for.
const A_WHILE: Duration = Duration::from_secs(2);
/// How long they may take to say so.
const PROBE: Duration = Duration::from_millis(700);
/// What is written when a build ends may take this long, if it gets on.
const LONGEST: Duration = Duration::from_secs(600);

/// A cache that is written.
pub(super) struct Target {
    pub place: Arc<Guarded>,
    pub takes: Takes,
    pub compression: Compression,
}

/// What goes to a cache.
pub(super) enum Takes {
    /// Steps.
    Steps(Mode),
    /// The files of mounts with this id.
    Mount(String),
}

impl Takes {
    fn wants(&self, of: &Of) -> bool {
        match (self, of) {
            (Takes::Steps(mode), Of::Step { in_image }) => *mode == Mode::Max || *in_image,
            (Takes::Mount(id), Of::Mount(of)) => id == of,
            _ => false,
        }
    }
}

/// What an entry is of.
pub(super) enum Of {
    /// A step.
    Step {
        /// Its layer is in the image.
        in_image: bool,
    },
    /// The files of a mount with this id.
    Mount(String),
}

/// A step, or the files of a mount, for the caches.
pub(super) struct Job {
    pub key: CacheKey,
    pub created: String,
    pub layer: Option<JobLayer>,
    pub of: Of,
}

/// Its layer.
pub(super) struct JobLayer {
    pub diff_id: DiffId,
    pub size: u64,
    pub content: Content,
}

/// Where the layer is.
pub(super) enum Content {
    /// In the store, uncompressed.
    File {
        path: PathBuf,
        /// What it became when it was compressed earlier.
        known: Vec<(Compression, Descriptor)>,
    },
    /// In another cache.
    Remote(Box<RemoteLayer>),
}

/// What a layer became when it was compressed.
type Compressed = (DiffId, Compression, Descriptor);

struct Shared {
    targets: Vec<Target>,
    dir: PathBuf,
    making: Arc<Making>,
    trust: Arc<Trust>,
    patience: Arc<Patience>,
    state: Mutex<State>,
    changed: Condvar,
    /// Grows as long as something moves.
    progress: AtomicU64,
    stop: AtomicBool,
    number: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    running: usize,
    threads: usize,
    seen: HashSet<(CacheKey, Option<DiffId>)>,
    compressed: Vec<Compressed>,
}

/// The threads that write.
pub(super) struct Writer {
    shared: Arc<Shared>,
    _dir: TempDir,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    pub fn new(
        targets: Vec<Target>,
        (dir, making): (TempDir, Arc<Making>),
        trust: Arc<Trust>,
        patience: Arc<Patience>,
    ) -> Writer {
        let shared = Shared {
            targets,
            dir: dir.path().to_owned(),
            making,
            trust,
            patience,
            state: Mutex::default(),
            changed: Condvar::new(),
            progress: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            number: AtomicU64::new(0),
        };
        Writer { shared: Arc::new(shared), _dir: dir }
    }

    /// The caches of steps.
    fn of_steps(&self) -> impl Iterator<Item = &Target> {
        self.shared.targets.iter().filter(|t| matches!(t.takes, Takes::Steps(_)))
    }

    /// Whether there is a cache of steps with another name than this.
    pub fn has_other_than(&self, name: &str) -> bool {
        self.of_steps().any(|t| t.place.backend.name() != name)
    }

    /// The repositories among the caches of steps.
    pub fn repositories(&self) -> Vec<Reference> {
        self.of_steps().filter_map(|t| t.place.backend.repository().cloned()).collect()
    }

    /// Hands over a job; once is enough.
    pub fn push(&self, job: Job) {
        if !self.shared.targets.iter().any(|t| t.takes.wants(&job.of)) {
            return;
        }
        let mut state = lock(&self.shared.state);
        if !state.seen.insert((job.key.clone(), job.layer.as_ref().map(|l| l.diff_id))) {
            return;
        }
        state.queue.push_back(job);
        if state.threads < THREADS {
            let shared = self.shared.clone();
            // Without a thread nothing is written: the build does not depend on it.
            if std::thread::Builder::new().name("cache".into()).spawn(move || shared.work()).is_ok() {
                state.threads += 1;
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, or nothing moves any more. Returns what was compressed.
    /// `waiting` is told, once, of how many entries it waits for, where that takes a while.
    pub fn finish(&self, waiting: &dyn Fn(usize)) -> Vec<Compressed> {
        let shared = &*self.shared;
        let started = Instant::now();
        let (mut seen, mut since) = (shared.progress.load(Ordering::Relaxed), Instant::now());
        let mut told = false;
        let mut state = lock(&shared.state);
        while state.threads > 0 && (state.running > 0 || !state.queue.is_empty()) {
            if !shared.targets.iter().any(|t| t.place.writable()) {
                break; // the user was told of each
            }
            if !told && started.elapsed() >= A_WHILE {
                told = true;
                waiting(state.queue.len() + state.running);
            }
            let now = shared.progress.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            let limit = if shared.patience.left().is_zero() { STILL_SHORT } else { STILL };
            let stands_still = since.elapsed() >= limit;
            if stands_still && started.elapsed() <= LONGEST {
                drop(state);
                let answers = shared.answer();
                state = lock(&shared.state);
                // A writer may have given up meanwhile, and have said so.
                let writable = shared.targets.iter().any(|t| t.place.writable());
                if answers || !writable || (state.running == 0 && state.queue.is_empty()) {
                    since = Instant::now();
                    continue;
                }
            }
            if stands_still || started.elapsed() > LONGEST {
                shared.stop.store(true, Ordering::Relaxed);
                let left = state.queue.len() + state.running;
                shared.patience.tell(format!("{left} entries were not written to the caches, which take nothing more"));
                break;
            }
            let tick = Duration::from_millis(100);
            state = shared.changed.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
        shared.stop.store(true, Ordering::Relaxed);
        state.queue.clear();
        shared.changed.notify_all();
        std::mem::take(&mut state.compressed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(job) = state.queue.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            self.write(&job);
            state = lock(&self.state);
            state.running -= 1;
            self.changed.notify_all();
        }
    }

    /// Whether one of the caches says anything at all.
    fn answer(&self) -> bool {
        std::thread::scope(|scope| {
            let asked: Vec<_> = self.targets.iter().map(|t| scope.spawn(move || t.place.answers(PROBE))).collect();
            asked.into_iter().any(|thread| thread.join().unwrap_or(false))
        })
    }

    fn moved(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Brings a step to each cache that does not have it.
    fn write(&self, job: &Job) {
        let mut packs: HashMap<Compression, Pack<'_>> = HashMap::new();
        for target in self.targets.iter().filter(|t| t.takes.wants(&job.of)) {
            if !target.place.writable() || self.stop.load(Ordering::Relaxed) {
                continue;
            }
            let done = self.write_to(target, job, &mut packs);
            match done {
                Ok(()) => self.moved(),
                // Nobody waits for it any more, which was said.
                Err(_) if self.stop.load(Ordering::Relaxed) => {}
                Err(fault) => target.place.write_faulted(&fault),
            }
        }
    }

    fn write_to<'j>(
        &'j self,
        target: &Target,
        job: &'j Job,
        packs: &mut HashMap<Compression, Pack<'j>>,
    ) -> Result<(), Fault> {
        let place = &target.place;
        if self.is_there(target, job)? {
            return Ok(());
        }
        let Some(layer) = &job.layer else {
            let entry = Entry::new(&job.key, &place.scope, &job.created, None);
            return place.backend.put(&job.key, &entry, &entry.seal(&self.trust), None);
        };
        let how = target.compression;
        let turn = self.turn(layer, how);
        let made = turn.as_ref().and_then(Turn::made);
        let near = place.backend.repository().and_then(|to| made.as_ref()?.near(to));
        let pack = match packs.entry(how) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => {
                let pack = Pack::new(self, layer, how, made.as_ref());
                slot.insert(pack.map_err(|e| Fault::Bad(format!("cannot compress its layer: {e}")))?)
            }
        };
        // What was compressed earlier, perhaps by another version, counts only where it is.
        let linked = near.is_some() || pack.remote().is_some();
        if pack.path().is_none() && !linked && !place.backend.has_layer(&pack.blob, LOOK)? {
            pack.make().map_err(|e| Fault::Bad(format!("cannot compress its layer: {e}")))?;
        }
        let blob =
            EntryBlob { media_type: pack.blob.media_type.clone(), digest: pack.blob.digest, size: pack.blob.size };
        let entry_layer = EntryLayer { diff_id: layer.diff_id, size: layer.size, blob: Some(blob) };
        let entry = Entry::new(&job.key, &place.scope, &job.created, Some(entry_layer));
        let (path, remote) = (pack.path(), pack.remote());
        let open = || -> io::Result<Box<dyn Read + Send>> {
            let path = match (&path, remote) {
                (Some(path), _) => path.clone(),
                (None, Some(remote)) => {
                    let to = self.file();
                    let mut file = Counted { file: File::create_new(&to)?, shared: self };
                    remote.fetch(&mut file).map_err(io::Error::other)?;
                    to
                }
                // It could not be linked after all.
                (None, None) => {
                    let (path, blob) = self.compress(layer, how)?;
                    let file = File::open(&path)?;
                    remove(&path);
                    let same = (blob.digest, blob.size) == (pack.blob.digest, pack.blob.size);
                    return if same { Ok(Box::new(file)) } else { Err(io::ErrorKind::InvalidData.into()) };
                }
            };
            Ok(Box::new(File::open(path)?))
        };
        let sent = |_| self.moved();
        let at = remote.and_then(RemoteLayer::repository).or(near);
        let packed = Packed { blob: &pack.blob, at, open: &open, sent: &sent };
        place.backend.put(&job.key, &entry, &entry.seal(&self.trust), Some(&packed))?;
        if let (Some(turn), Some(to)) = (&turn, place.backend.repository()) {
            turn.is_at(&pack.blob, to);
        }
        Ok(())
    }

    /// Keeps others from compressing this layer; `None` where there is nothing to compress, or nobody waits any more.
    fn turn(&self, layer: &JobLayer, how: Compression) -> Option<Turn> {
        let compressed = how != Compression::None && matches!(layer.content, Content::File { .. });
        let stop = || self.stop.load(Ordering::Relaxed);
        compressed.then(|| self.making.turn(layer.diff_id, how.name(), &stop)).flatten()
    }

    /// Compresses a layer of the store into a file. The bytes that go in are compared with the layer's digest.
    fn compress(&self, layer: &JobLayer, how: Compression) -> io::Result<(PathBuf, Descriptor)> {
        let Content::File { path, .. } = &layer.content else { return Err(io::ErrorKind::NotFound.into()) };
        let to = self.file();
        let mut input = Hashing::new(Watched { file: File::open(path)?, shared: self });
        let mut out = Hashing::new(BufWriter::with_capacity(1 << 18, File::create_new(&to)?));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        match how {
            Compression::Zstd => compress::zstd(&mut input, &mut out, None, threads)?,
            _ => compress::gzip(&mut input, &mut out, None, threads)?,
        }
        out.flush()?;
        let (_, digest, size) = out.finish();
        let (_, read, length) = input.finish();
        if (read, length) != (layer.diff_id.0, layer.size) {
            return Err(io::Error::other("the layer in the store is damaged: see `rbuild check`"));
        }
        let blob = Descriptor::new(how.layer_type(ManifestFormat::Oci), digest, size);
        lock(&self.state).compressed.push((layer.diff_id, how, blob.clone()));
        Ok((to, blob))
    }

    /// Whether a cache has this step with this result.
    fn is_there(&self, target: &Target, job: &Job) -> Result<bool, Fault> {
        let backend = &target.place.backend;
        let sealed = match backend.lookup(&job.key, LOOK) {
            Ok(Some(sealed)) => sealed,
            // What is damaged is written again.
            Ok(None) | Err(Fault::Bad(_)) => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let Ok(entry) = sealed.open(&job.key, &target.place.scope, &self.trust) else { return Ok(false) };
        if sealed.inline || (self.trust.signs() && sealed.signature.is_none()) {
            return Ok(false);
        }
        match (&entry.layer, &job.layer) {
            (None, None) => Ok(true),
            (Some(there), Some(here)) if there.diff_id == here.diff_id => {
                there.blob.as_ref().map_or(Ok(false), |blob| backend.has_layer(&blob.descriptor(), LOOK))
            }
            _ => Ok(false),
        }
    }

    /// A new name for a file.
    fn file(&self) -> PathBuf {
        self.dir.join(format!("layer-{}", self.number.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A layer, compressed when that is needed.
struct Pack<'a> {
    shared: &'a Shared,
    layer: &'a JobLayer,
    how: Compression,
    blob: Descriptor,
    path: Option<PathBuf>,
}

impl<'a> Pack<'a> {
    fn new(shared: &'a Shared, layer: &'a JobLayer, how: Compression, made: Option<&Made>) -> io::Result<Pack<'a>> {
        let known = match &layer.content {
            Content::File { .. } if made.is_some() => made.map(|made| made.blob.clone()),
            Content::File { known, .. } => known.iter().find(|(k, _)| *k == how).map(|(_, blob)| blob.clone()),
            Content::Remote(remote) => Some(remote.blob.clone()),
        };
        // The media type says how it was compressed; where it came from may have spelled it in Docker's way.
        let media_type = known.as_ref().and_then(|b| Compression::of_layer(&b.media_type)).unwrap_or(how);
        let mut pack = Pack {
            shared,
            layer,
            how,
            blob: Descriptor::new(media_type.layer_type(ManifestFormat::Oci), layer.diff_id.0, layer.size),
            path: None,
        };
        match known {
            Some(blob) => (pack.blob.digest, pack.blob.size) = (blob.digest, blob.size),
            None => pack.make()?,
        }
        Ok(pack)
    }

    fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }

    fn remote(&self) -> Option<&'a RemoteLayer> {
        match &self.layer.content {
            Content::Remote(remote) => Some(remote),
            Content::File { .. } => None,
        }
    }

    /// Sees to it that there is a file of the blob.
    fn make(&mut self) -> io::Result<()> {
        let Content::File { path, .. } = &self.layer.content else { return Ok(()) };
        if self.how == Compression::None {
            self.path = Some(path.clone());
            return Ok(());
        }
        let (path, blob) = self.shared.compress(self.layer, self.how)?;
        (self.blob.digest, self.blob.size) = (blob.digest, blob.size);
        self.path = Some(path);
        Ok(())
    }
}

impl Drop for Pack<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path.as_deref().filter(|p| p.starts_with(&self.shared.dir)) {
            remove(path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), error = %e, "cannot remove");
    }
}

/// A file whose reading counts as progress, and ends when nobody waits any more.
struct Watched<'a> {
    file: File,
    shared: &'a Shared,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.shared.stop.load(Ordering::Relaxed) {
            // Not `Interrupted`: after that, readers try again.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.shared.moved();
        self.file.read(into)
    }
}

/// A file whose writing counts as progress.
struct Counted<'a> {
    file: File,
    shared: &'a Shared,
}

impl io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.moved();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
