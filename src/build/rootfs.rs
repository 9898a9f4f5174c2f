//! From a stack of layers to directories on disk: fetching and extracting go on side by side.

use super::{Error, stack::Stack};
use crate::archive::merged::Merged;
use crate::cache::SharedCaches;
use crate::snapshot::{Snapshots, lazy};
use crate::source::image::{self, Images};
use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicBool},
};

/// Which of an image's layers have arrived.
#[derive(Default)]
struct Arrivals {
    state: Mutex<Fetch>,
    changed: Condvar,
}

/// How far a fetch has come.
#[derive(Default)]
struct Fetch {
    /// Numbers of the layers that are here.
    here: Vec<usize>,
    /// How it ended.
    end: Option<Result<(), image::Error>>,
}

impl Arrivals {
    fn ready(&self, i: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).here.push(i);
        self.changed.notify_all();
    }

    fn ended(&self, result: Result<(), image::Error>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).end = Some(result);
        self.changed.notify_all();
    }

    /// Returns when layer `i` is here.
    fn wait(&self, i: usize) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.here.contains(&i) {
                return Ok(());
            }
            match state.end.take() {
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Err(e)) => return Err(e.into()),
                // All layers are here; one that was not announced is reported by whoever opens it.
                Some(Ok(())) => {
                    state.end = Some(Ok(()));
                    return Ok(());
                }
            }
        }
    }
}

/// The layer directories of a stack, lowest first. What is missing of the base image is fetched, and each layer is
/// extracted as soon as it is here. When `stop` is set, nothing more is fetched.
pub(super) fn directories(
    snapshots: &Snapshots,
    images: &Images,
    shared: &SharedCaches,
    stack: &Stack,
    stop: &AtomicBool,
) -> Result<Vec<PathBuf>, Error> {
    let layers = stack.references();
    let made = stack.made();
    let base = stack.base().map_or(0, |b| b.manifest.layers.len());
    let arrivals = Arrivals::default();
    std::thread::scope(|scope| {
        let (mut started, mut ahead) = (false, false);
        snapshots.ensure(&layers, |i| {
            let Some(image) = stack.base().filter(|_| i < base) else {
                // Those above are needed as well, and come meanwhile.
                let above = made.get(i - base..).unwrap_or_default().iter().filter_map(|l| l.remote.as_ref());
                let Some(this) = made.get(i - base).and_then(|l| l.remote.as_ref()) else { return Ok(()) };
                if !ahead {
                    ahead = true;
                    let rest: Vec<_> = above.collect();
                    scope.spawn(move || shared.bring_all(&rest));
                }
                return Ok(shared.bring(this)?);
            };
            if !started {
                started = true;
                let arrivals = &arrivals;
                scope.spawn(move || arrivals.ended(images.fetch_until(image, &|i| arrivals.ready(i), stop)));
            }
            arrivals.wait(i)
        })
    })
}

/// The files of a stack: what a step works on top of.
pub(super) struct Lower {
    /// The layer directories, lowest first.
    pub dirs: Vec<PathBuf>,
    /// The same, read without a mount.
    pub view: Merged,
    /// The same, where some of them are skeletons.
    pub lazy: Option<Arc<lazy::Stack>>,
}

/// [`directories`], and the view of them.
pub(super) fn open(
    snapshots: &Snapshots,
    images: &Images,
    shared: &SharedCaches,
    stack: &Stack,
    stop: &AtomicBool,
) -> Result<Lower, Error> {
    let dirs = directories(snapshots, images, shared, stack, stop)?;
    let view = snapshots.view(&dirs)?;
    Ok(Lower { dirs, view, lazy: None })
}
