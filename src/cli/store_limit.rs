//! The limit to the store's size, applied at the end of what fills the store.

use super::{Error, Global, foreign, values};
use crate::store::{Limit, Store};
use crate::sys::signal;
use crate::ui::human;

/// A limit that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimit(Option<u64>);

impl StoreLimit {
    /// The limit of this call. To be read before the work begins, so that a mistake is known then.
    ///
    /// # Errors
    /// Where the variable is no size.
    pub fn of(global: &Global) -> Result<StoreLimit, Error> {
        Ok(StoreLimit(global.store_limit(&values::process_var)?))
    }

    /// Brings the store back under the limit. What comes of the work does not depend on it: what goes wrong is a warning.
    pub fn apply(self, store: &Store) {
        let Some(bytes) = self.0 else { return };
        if signal::received().is_some() {
            return; // to end in time is more important
        }
        match store.shrink(Limit { bytes, images: true }) {
            Ok(shrunk) => warn_if_above(bytes, shrunk.size),
            Err(e) => foreign::warn(format!("cannot bring the store under its limit: {e}")),
        }
    }
}

/// Says that a limit was out of reach.
pub fn warn_if_above(limit: u64, size: u64) {
    if size > limit {
        foreign::warn(format!(
            "the store has {}, more than its limit of {}: what is left has a name or is in use; remove images with \
             `rbuild rmi`, or raise the limit",
            human::size(size, "", 4),
            human::size(limit, "", 4)
        ));
    }
}
