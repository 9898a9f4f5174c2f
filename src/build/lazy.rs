//! RUN on a base image whose layers are still on their way.
//!
//! ```text
//! layers of the base:  ── fetched and extracted as ever ──────────────────────────┐
//! tables of contents:  ── skeletons ── the command runs, files on demand ── waits ┴─ compared ── layer of the step
//! ```
//!
//! Only the root file system of the step is made of skeletons (`snapshot::lazy`); its layer is made on top of the complete
//! ones. Where anything is in the way before the command starts, the step waits for the layers, as it would have anyway. When it
//! has run on what a table said and the layer says something else, it has no result.

use super::{
    Error,
    execute::{Executor, Site},
    rootfs::{self, Lower},
    stack::{Layer, Stack},
};
use crate::archive::indexed::table;
use crate::oci::{ChainId, Descriptor};
use crate::snapshot::lazy::{self, Asking, Origin, Verdict};
use crate::snapshot::{self, Active, LayerRef};
use crate::source::image::Image;
use crate::ui::Event;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// A layer of fewer bytes is there before its table would be of use.
const SMALLEST: u64 = 1 << 20;
/// How often it is looked whether a layer has come.
const GLANCE: Duration = Duration::from_millis(20);

/// What a step on skeletons came to.
enum Ran {
    /// The layer, as the step left it.
    Made(Active, Arc<lazy::Stack>),
    /// It was not run: the layers are to be waited for.
    NotRun,
}

/// The layers in the background.
#[derive(Default)]
struct Coming {
    /// Whether all are there; `None`: it is not known yet.
    end: Mutex<Option<bool>>,
    changed: Condvar,
    /// Nobody needs them any more.
    stop: AtomicBool,
    /// The first file that a step did not get, with the place of its layer.
    missed: Mutex<Option<(usize, PathBuf)>>,
    /// A file could not be opened by the step, for whatever cause.
    refused: AtomicBool,
}

impl Coming {
    fn ended(&self, whole: bool) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(whole);
        self.changed.notify_all();
    }

    /// Waits until `here` finds something; `None`: it does not come.
    fn wait<T>(&self, here: impl Fn() -> Option<T>, cancelled: impl Fn() -> bool) -> Option<T> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = here() {
                return Some(found);
            }
            if end.is_some() {
                // It may have come since.
                return here();
            }
            if cancelled() || self.stop.load(Ordering::SeqCst) {
                return None;
            }
            end = self.changed.wait_timeout(end, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Where the files of one base image come from.
struct Base<'a> {
    executor: &'a Executor<'a>,
    image: &'a Image,
    chains: Vec<ChainId>,
    coming: &'a Coming,
}

impl Base<'_> {
    fn descriptor(&self, layer: usize) -> Option<&Descriptor> {
        self.image.manifest.layers.get(layer)
    }

    fn find(&self, layer: usize) -> Result<Option<PathBuf>, snapshot::Error> {
        self.chains.get(layer).map_or(Ok(None), |chain| self.executor.snapshots.find(*chain))
    }

    fn wait<T>(&self, here: impl Fn() -> Option<T>) -> Option<T> {
        self.coming.wait(here, || self.executor.around.cancel.is_cancelled())
    }
}

impl Origin for Base<'_> {
    fn part(&self, layer: usize, range: Range<u64>) -> io::Result<Vec<u8>> {
        let descriptor = self.descriptor(layer).ok_or(io::ErrorKind::NotFound)?;
        self.executor.images.fetch_range(self.image, descriptor, range).map_err(io::Error::other)
    }

    fn complete(&self, layer: usize, path: &Path) -> Option<PathBuf> {
        let found = self.wait(|| self.find(layer).ok().flatten());
        let given_up = self.coming.stop.load(Ordering::SeqCst) || self.executor.around.cancel.is_cancelled();
        if found.is_none() && !given_up {
            let mut missed = self.coming.missed.lock().unwrap_or_else(PoisonError::into_inner);
            missed.get_or_insert_with(|| (layer, path.to_owned()));
        }
        found
    }
}

impl Executor<'_> {
    /// Does the work of a step while the layers below come. `None`: that cannot be, or was in vain, and the layers are to be
    /// waited for.
    pub(super) fn on_demand(
        &self,
        stack: &Stack,
        work: &dyn Fn(&Site) -> Result<(), Error>,
    ) -> Result<Option<Option<Layer>>, Error> {
        let Some(image) = self.lazy_base(stack)? else { return Ok(None) };
        let coming = Coming::default();
        let mut chains: Vec<ChainId> = vec![];
        for diff_id in &image.config.rootfs.diff_ids {
            chains.push(ChainId::child(chains.last().copied(), *diff_id));
        }
        let base = Base { executor: self, image, chains, coming: &coming };
        let (ran, lower) = thread::scope(|scope| {
            let background = scope.spawn(|| {
                let lower = rootfs::open(&self.snapshots, self.images, self.shared, stack, &coming.stop);
                coming.ended(lower.is_ok());
                lower
            });
            let ran = self.on_skeletons(&base, stack, work);
            (ran, background.join().unwrap_or(Err(Error::Cancelled)))
        });
        let missed = coming.missed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (ran, lower) = match (ran, lower) {
            (ran, Err(cause)) if missed.is_some() && !self.around.cancel.is_cancelled() => {
                drop(ran);
                let (layer, path) = missed.unwrap_or_default();
                let layer = base.descriptor(layer).map(|layer| layer.digest.to_string()).unwrap_or_default();
                return Err(Error::Missed { path, layer, source: Box::new(cause) });
            }
            (Err(e), _) | (Ok(_), Err(e)) => return Err(e),
            (Ok(ran), Ok(lower)) => (ran, lower),
        };
        let Ran::Made(active, skeletons) = ran else { return Ok(None) };
        let name = |layer: usize| base.descriptor(layer).map(|layer| layer.digest.to_string()).unwrap_or_default();
        let refused = coming.refused.load(Ordering::SeqCst);
        match skeletons.compare(&lower.dirs)? {
            // The program may have gone on without it.
            None if refused => {
                let text = "a file could not be opened while the base was on its way: the step is run again";
                self.around.sink.event(&Event::Note { text });
                Ok(None)
            }
            None | Some((_, Verdict::Same)) => self.finish_layer(active, stack, &lower, true).map(Some),
            Some((layer, Verdict::CoarseTimes)) => {
                let name = name(layer);
                let text =
                    format!("the table of contents of layer `{name}` has no parts of seconds: the step is run again");
                self.around.sink.event(&Event::Note { text: &text });
                Ok(None)
            }
            Some((layer, Verdict::Differs(path, what))) => Err(Error::Table { layer: name(layer), path, what }),
        }
    }

    /// The base image, where a step may begin before it is here.
    fn lazy_base<'s>(&self, stack: &'s Stack) -> Result<Option<&'s Image>, Error> {
        let Some(image) = stack.base().filter(|_| stack.made().is_empty()) else { return Ok(None) };
        if !self.request.output.layers || !self.snapshots.driver()?.is_lazy() {
            return Ok(None);
        }
        let mut chain = None;
        for (layer, diff_id) in image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids) {
            let this = ChainId::child(chain, *diff_id);
            chain = Some(this);
            if self.is_lazy(layer)? && self.snapshots.find(this)?.is_none() {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Whether a layer has a table, and is worth one.
    fn is_lazy(&self, layer: &Descriptor) -> Result<bool, Error> {
        let wanted = layer.size >= SMALLEST && table::is_indexed(layer);
        Ok(wanted && self.around.store.blob_size(&layer.digest)?.is_none())
    }

    fn on_skeletons(
        &self,
        base: &Base<'_>,
        stack: &Stack,
        work: &dyn Fn(&Site) -> Result<(), Error>,
    ) -> Result<Ran, Error> {
        let system = |source| Error::File { path: PathBuf::from("socketpair"), source };
        let (asking, answering) = Asking::pair().map_err(system)?;
        let stop = answering.stopper().map_err(system)?;
        // Until all are made, nobody gets contents. A layer that wants those of one below it (a hardlink to there) is waited for.
        let stacked: Mutex<Option<Arc<lazy::Stack>>> = Mutex::new(None);
        let contents = |ino| {
            let skeletons = stacked.lock().unwrap_or_else(PoisonError::into_inner).clone();
            skeletons.ok_or(io::ErrorKind::NotFound)?.contents(&self.snapshots, ino, base)
        };
        let refused = || {
            // Before the command starts nobody has contents.
            let started = stacked.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            base.coming.refused.fetch_or(started, Ordering::SeqCst);
        };
        thread::scope(|scope| {
            scope.spawn(|| lazy::serve(answering, &contents, &refused));
            // Also where this thread panics.
            let stop = stop;
            let ran = self.stacked(base, stack, asking).or_else(|e| {
                tracing::info!("the layers of the base are waited for: {e}");
                Ok(None)
            });
            let ran = ran.and_then(|skeletons| {
                let Some(skeletons) = skeletons else { return Ok(Ran::NotRun) };
                let skeletons = Arc::new(skeletons);
                *stacked.lock().unwrap_or_else(PoisonError::into_inner) = Some(skeletons.clone());
                let (dirs, view) = (skeletons.dirs().to_vec(), skeletons.view());
                let lower = Lower { dirs, view, lazy: Some(skeletons.clone()) };
                let active = self.start_layer(&lower)?;
                work(&Site { lower: &lower, active: &active, view: &lower.view })?;
                Ok(Ran::Made(active, skeletons))
            });
            if ran.is_err() {
                base.coming.stop.store(true, Ordering::SeqCst);
            }
            drop(stop);
            ran
        })
    }

    /// The base's layers, as skeletons where they are not here. `None`: there are none to be made.
    fn stacked(&self, base: &Base<'_>, stack: &Stack, asking: Asking) -> Result<Option<lazy::Stack>, Error> {
        let mut skeletons = lazy::Stack::new(&self.snapshots, asking);
        for (i, layer) in stack.references().iter().enumerate() {
            let Some(descriptor) = base.descriptor(i) else { return Ok(None) };
            if skeletons.is_complete()
                && let Some(dir) = base.find(i)?
            {
                skeletons.push_complete(&self.snapshots, layer, dir)?;
                continue;
            }
            if self.is_lazy(descriptor)? && self.push_skeleton(&mut skeletons, base, (i, layer, descriptor)) {
                continue;
            }
            if skeletons.is_complete() {
                let Some(dir) = base.wait(|| base.find(i).ok().flatten()) else { return Ok(None) };
                skeletons.push_complete(&self.snapshots, layer, dir)?;
            } else {
                let here = || self.around.store.blob_size(&descriptor.digest).ok().flatten();
                if base.wait(here).is_none() {
                    return Ok(None);
                }
                skeletons.push_copy(&self.snapshots, layer)?;
            }
        }
        Ok((!skeletons.is_complete()).then_some(skeletons))
    }

    /// Whether a skeleton could be made. The layer itself says what is wrong with it where it could not.
    fn push_skeleton(
        &self,
        skeletons: &mut lazy::Stack,
        base: &Base<'_>,
        (i, layer, descriptor): (usize, &LayerRef, &Descriptor),
    ) -> bool {
        let done = table::read(descriptor, &|range| base.part(i, range)).map_err(|e| e.to_string());
        let done = done.and_then(|table| {
            let pushed = skeletons.push_skeleton(&self.snapshots, layer, descriptor.size, table);
            pushed.map_err(|e| e.to_string())
        });
        if let Err(why) = &done {
            tracing::info!("layer `{}` is waited for: {why}", descriptor.digest);
        }
        done.is_ok()
    }
}
