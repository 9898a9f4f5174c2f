//! Who of this process compresses a layer: one at a time, so that a push and a cache which want the same do it once.
//!
//! What a layer became is remembered on disk ([`Store::compressed`](super::Store::compressed)). But it is of use only where the
//! bytes are, and those are not kept: so whoever comes second is told which repositories have got them meanwhile.

use crate::oci::{Descriptor, DiffId, Reference};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often whoever waits looks whether to go on with it.
const TICK: Duration = Duration::from_millis(50);

/// A layer and a form.
type What = (DiffId, &'static str);

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The compressed blob.
    pub blob: Descriptor,
    /// Repositories that have it.
    pub at: Vec<Reference>,
}

impl Made {
    /// Another repository of the same registry that has the blob.
    pub fn near(&self, to: &Reference) -> Option<&Reference> {
        self.at.iter().find(|at| at.registry == to.registry && at.repository != to.repository)
    }
}

/// The layers that are being compressed, and those that were.
#[derive(Debug, Default)]
pub struct Making {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    busy: HashSet<What>,
    made: HashMap<What, Made>,
}

impl Making {
    /// Waits until nobody else compresses this layer in this form, and keeps others from it; `None` where `stop` says that the
    /// wait has become too long.
    pub fn turn(self: &Arc<Self>, layer: DiffId, form: &'static str, stop: &dyn Fn() -> bool) -> Option<Turn> {
        let what = (layer, form);
        let mut state = self.lock();
        while !state.busy.insert(what) {
            if stop() {
                return None;
            }
            state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(Turn { making: self.clone(), what })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to compress a layer, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    making: Arc<Making>,
    what: What,
}

impl Turn {
    /// What the layer has become since this process began.
    pub fn made(&self) -> Option<Made> {
        self.making.lock().made.get(&self.what).cloned()
    }

    /// Tells those who come later what the layer became, and a repository that has it now.
    pub fn is_at(&self, blob: &Descriptor, place: &Reference) {
        let mut state = self.making.lock();
        let made = state.made.entry(self.what).or_insert_with(|| Made { blob: blob.clone(), at: vec![] });
        if made.blob.digest != blob.digest {
            // Another version of this program had made the first, and the second counts from now on.
            *made = Made { blob: blob.clone(), at: vec![] };
        }
        let place = Reference { tag: None, digest: None, ..place.clone() };
        if !made.at.contains(&place) {
            made.at.push(place);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.making.lock().busy.remove(&self.what);
        self.making.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Digest, media};
    use std::sync::mpsc;

    #[test]
    fn the_second_one_waits_and_is_told_where_the_blob_is() {
        let making = Arc::new(Making::default());
        let layer = DiffId(Digest::of("layer"));
        let (blob, other) = (Descriptor::of(media::OCI_LAYER_GZIP, b"x"), Descriptor::of(media::OCI_LAYER_GZIP, b"y"));
        let place = |text: &str| text.parse::<Reference>().unwrap();
        let first = making.turn(layer, "gzip", &|| false).unwrap();
        assert_eq!(first.made(), None);
        let _another_form = making.turn(layer, "zstd", &|| false).unwrap();
        assert!(making.turn(layer, "gzip", &|| true).is_none());
        let (sender, told) = mpsc::channel();
        let second = std::thread::spawn({
            let making = making.clone();
            move || sender.send(making.turn(layer, "gzip", &|| false).unwrap().made()).unwrap()
        });
        first.is_at(&blob, &place("h:1/a:tag"));
        assert!(told.try_recv().is_err());
        drop(first);
        let made = told.recv().unwrap().unwrap();
        second.join().unwrap();
        assert_eq!(made, Made { blob: blob.clone(), at: vec![place("h:1/a")] });
        assert_eq!(made.near(&place("h:1/b:2")), Some(&place("h:1/a")));
        assert_eq!((made.near(&place("h:1/a:2")), made.near(&place("h:2/b"))), (None, None));
        let third = making.turn(layer, "gzip", &|| false).unwrap();
        third.is_at(&blob, &place("h:1/a"));
        assert_eq!(third.made(), Some(made));
        third.is_at(&other, &place("h:1/c"));
        assert_eq!(third.made(), Some(Made { blob: other, at: vec![place("h:1/c")] }));
    }
}
