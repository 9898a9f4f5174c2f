//! Layers on their way to registries while the rest of their image is still being built.
//!
//! ```text
//! step ── layer that is certain to be in the image ──► queue ──► threads: each destination in turn ──► blobs nobody names yet
//! build is done ──► finish: the queue runs empty ──► the push finds its blobs there, sends what is missing, config, manifest, tag
//! build fails ────► abort: what is under way is ended, the registry is told to forget it
//! ```
//!
//! Nothing depends on it: a layer that does not get there early is sent by the push, which alone reports what is wrong. A
//! registry that fails gets one warning and is left alone for a while. The threads have a client of their own and belong to
//! nobody, so that a registry which hangs holds up neither a step nor the end of the build; and what they compress gives way to
//! what steps compute.

use super::Form;
use super::route::{Route, near};
use crate::oci::{Compression, Descriptor, DiffId, Digest, ManifestFormat, Reference};
use crate::registry::{self, Client, LayerSource, Timeouts, UploadMemory};
use crate::store::{Made, Store, Turn};
use crate::sys::signal::Cancel;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Layers that are sent at the same time, as long as steps run.
const THREADS: usize = 2;
/// The same when they are done.
const MORE_THREADS: usize = 4;
/// How long a registry that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// New tries of what failed: there is the push to come.
const RETRIES: u32 = 1;
/// How long what is under way may take to end when the build has failed. A build that was told to end has less, see
/// [`cancel_on_termination`](crate::sys::signal::cancel_on_termination).
const ENDING: Duration = Duration::from_secs(3);
/// Who waits for longer than this is told what for.
const A_WHILE: Duration = Duration::from_secs(2);
/// How much the threads give way to steps.
const NICE: i32 = 10;

/// Gives a layer the form in which the image has it; `None` where that cannot be done now.
pub type Settle = Box<dyn FnOnce(&Store) -> Option<(Descriptor, DiffId)> + Send>;

/// A layer on its way.
struct Coming {
    layer: Descriptor,
    diff_id: DiffId,
    at: Vec<Reference>,
    settle: Option<Settle>,
}

/// The layers of one build on their way.
pub struct Early {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    client: Client,
    form: Form,
    destinations: Vec<Destination>,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
    cancel: Cancel,
}

struct Destination {
    to: Reference,
    near: OnceLock<BTreeMap<Digest, String>>,
    fault: Mutex<Fault>,
}

#[derive(Default)]
struct Fault {
    /// Until when it is left alone.
    until: Option<Instant>,
    told: bool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Coming>,
    seen: HashSet<Digest>,
    threads: usize,
    running: usize,
    closed: bool,
    news: Vec<String>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Early {
    /// Sends layers to these repositories in this form, until `cancel` is raised. `None` where there is none, or an image of this form cannot be pushed.
    ///
    /// # Errors
    /// Where registries.conf cannot be read.
    pub fn new(
        store: &Arc<Store>,
        (client, cancel): (&Client, &Cancel),
        form: Form,
        to: impl Iterator<Item = Reference>,
    ) -> Result<Option<Early>, registry::Error> {
        let mut destinations: Vec<Destination> = vec![];
        for to in to.map(|to| Reference { tag: None, digest: None, ..to }) {
            if destinations.iter().all(|d| d.to != to) {
                destinations.push(Destination { to, near: OnceLock::new(), fault: Mutex::default() });
            }
        }
        let impossible = form.format == Some(ManifestFormat::Docker) && form.compression == Some(Compression::Zstd);
        // What is packed as a whole has no form before that.
        if destinations.is_empty() || impossible || form.is_packed(Compression::Gzip) {
            return Ok(None);
        }
        let seconds = Duration::from_secs;
        let timeouts = Timeouts { connect: seconds(5), answer: seconds(20), idle: seconds(20), store: seconds(120) };
        let shared = Shared {
            store: store.clone(),
            client: client.hurried(timeouts, RETRIES)?,
            form,
            destinations,
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
            cancel: cancel.clone(),
        };
        Ok(Some(Early { shared: Arc::new(shared) }))
    }

    /// Hands over a layer: what the store has of it, with the digest of the uncompressed tar; repositories that have it; and
    /// what is left to do before it is sent. Once is enough, and one that can neither be sent nor linked yet may come again.
    pub fn layer(&self, layer: Descriptor, diff_id: DiffId, at: Vec<Reference>, settle: Option<Settle>) {
        let new = |state: &State| !state.closed && !state.seen.contains(&layer.digest);
        if !new(&lock(&self.shared.state)) || !self.shared.can_go(&layer, &at) {
            return;
        }
        let mut state = lock(&self.shared.state);
        if !new(&state) {
            return;
        }
        state.seen.insert(layer.digest);
        state.queue.push_back(Coming { layer, diff_id, at, settle });
        self.more_threads(&mut state, THREADS);
        drop(state);
        self.shared.changed.notify_all();
    }

    fn more_threads(&self, state: &mut State, most: usize) {
        if state.threads < most && state.queue.len() + state.running > state.threads {
            let shared = self.shared.clone();
            // Without a thread nothing goes early: the build does not depend on it.
            if std::thread::Builder::new().name("early push".into()).spawn(move || shared.work()).is_ok() {
                state.threads += 1;
            }
        }
    }

    /// What the user should know, once.
    pub fn news(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.state).news)
    }

    /// Waits until all layers that were handed over have arrived or failed. `waiting` is told, once, of how many it waits
    /// for, where that takes a while. No layer is taken after that.
    pub fn finish(&self, waiting: &dyn Fn(usize)) {
        let started = Instant::now();
        let mut told = false;
        let mut state = lock(&self.shared.state);
        state.closed = true;
        for _ in THREADS..MORE_THREADS {
            self.more_threads(&mut state, MORE_THREADS);
        }
        while state.threads > 0 && state.running + state.queue.len() > 0 && !self.shared.stopped() {
            if !told && started.elapsed() >= A_WHILE {
                told = true;
                waiting(state.running + state.queue.len());
            }
            let tick = Duration::from_millis(100);
            state = self.shared.changed.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.clear();
    }
}

impl Drop for Early {
    /// Ends what is under way: the build has failed, or nothing is any more.
    fn drop(&mut self) {
        let shared = &*self.shared;
        shared.stop.store(true, Ordering::Relaxed);
        let mut state = lock(&shared.state);
        state.closed = true;
        state.queue.clear();
        shared.changed.notify_all();
        let ended = shared.changed.wait_timeout_while(state, ENDING, |state| state.running > 0);
        if ended.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::debug!("uploads are left to their registries, which do not answer in time");
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancel.is_cancelled()
    }

    /// Whether the store has the blob.
    fn has(&self, layer: &Descriptor) -> bool {
        self.store.blob_size(&layer.digest).ok().flatten() == Some(layer.size)
    }

    /// Whether a layer can be sent, or at least be linked.
    fn can_go(&self, layer: &Descriptor, at: &[Reference]) -> bool {
        let linked = |at: &Reference| self.destinations.iter().any(|d| d.to.registry == at.registry);
        at.iter().any(linked) || self.has(layer)
    }

    fn work(&self) {
        // Of this thread and those that it starts. Where it is not allowed, they only get more than their share.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut state = lock(&self.state);
        while !self.stopped() {
            let Some(coming) = state.queue.pop_front() else {
                if state.closed {
                    break;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running += 1;
            drop(state);
            self.bring(coming);
            state = lock(&self.state);
            state.running -= 1;
            self.changed.notify_all();
        }
        state.threads -= 1;
        self.changed.notify_all();
    }

    /// Brings a layer to all destinations.
    fn bring(&self, coming: Coming) {
        let Coming { layer, diff_id, at, settle } = coming;
        let (layer, diff_id) = match settle.map(|settle| settle(&self.store)) {
            None => (layer, diff_id),
            Some(Some(settled)) => settled,
            Some(None) => return,
        };
        let here = self.has(&layer);
        let Some(first) = self.destinations.first().map(|first| self.route(&first.to)) else { return };
        let turn = match first.compresses(&layer) {
            false => None,
            // At the end, the push does not wait for a cache that does not get on.
            true => match first.turn((&layer, diff_id), &|| self.stopped() || lock(&self.state).closed) {
                None => return,
                turn => turn,
            },
        };
        // Whoever made it, the push is to find it.
        if let Some(made) = turn.as_ref().and_then(Turn::made) {
            first.remember((&layer, diff_id), &made.blob);
        }
        for destination in &self.destinations {
            if self.stopped() || !destination.is_up() {
                continue;
            }
            let route = self.route(&destination.to);
            let made = turn.as_ref().and_then(Turn::made);
            let done = self.send(route, (&layer, diff_id), destination.near(&self.store), (&at, made.as_ref()));
            match done {
                Ok(blob) => {
                    route.remember((&layer, diff_id), &blob);
                    if let Some(turn) = &turn {
                        turn.is_at(&blob, &destination.to);
                    }
                }
                Err(_) if self.stopped() => return,
                // It was to be linked, and is not: the push brings it from where it is.
                Err(e) if !here => tracing::debug!("a layer does not go early: {e}"),
                Err(e) => self.failed(destination, &e),
            }
        }
    }

    fn route<'a>(&'a self, to: &'a Reference) -> Route<'a> {
        Route { store: &self.store, form: self.form, to }
    }

    /// Brings a layer to one destination.
    fn send(
        &self,
        route: Route<'_>,
        (layer, diff_id): (&Descriptor, DiffId),
        near: &BTreeMap<Digest, String>,
        (at, made): (&[Reference], Option<&Made>),
    ) -> Result<Descriptor, registry::Error> {
        let same = |at: &&Reference| at.registry == route.to.registry && at.repository != route.to.repository;
        let mount_from = |blob: &Digest| {
            let made = made.filter(|made| made.blob.digest == *blob).and_then(|made| made.near(route.to));
            let at = made.or_else(|| at.iter().find(same).filter(|_| *blob == layer.digest));
            at.map(|at| at.repository.clone()).or_else(|| near.get(blob).cloned())
        };
        let media_type = match Compression::of_layer(&layer.media_type) {
            Some(_) => route.outgoing(layer).layer_type(ManifestFormat::Oci).to_owned(),
            None => layer.media_type.clone(),
        };
        let open = || -> io::Result<Box<dyn io::Read + Send>> {
            Ok(Box::new(route.store.open_blob(&layer.digest).map_err(io::Error::other)?))
        };
        let source: LayerSource<'_> = route.source((layer, diff_id), media_type, mount_from, Box::new(open));
        self.client.push_layer(route.to, &source, &Memory { route, layer }, &|| self.stopped())
    }

    fn failed(&self, destination: &Destination, e: &registry::Error) {
        let mut fault = lock(&destination.fault);
        fault.until = Some(Instant::now() + PAUSE);
        if !std::mem::replace(&mut fault.told, true) {
            let text = format!("{e}: the build goes on, and the push at its end tries again");
            lock(&self.state).news.push(text);
        }
    }
}

impl Destination {
    fn is_up(&self) -> bool {
        lock(&self.fault).until.is_none_or(|until| Instant::now() >= until)
    }

    fn near(&self, store: &Store) -> &BTreeMap<Digest, String> {
        self.near.get_or_init(|| near(store, &self.to))
    }
}

/// Remembers the upload of one layer.
struct Memory<'a> {
    route: Route<'a>,
    layer: &'a Descriptor,
}

impl UploadMemory for Memory<'_> {
    fn upload(&self, _: usize) -> Option<String> {
        self.route.upload(self.layer)
    }

    fn remember_upload(&self, _: usize, address: Option<&str>) {
        self.route.remember_upload(self.layer, address);
    }
}
