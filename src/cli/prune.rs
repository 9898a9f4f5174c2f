//! `rbuild prune`: drops what nothing refers to.

use super::{Error, Global, output, store_limit, values};
use crate::store::{GcOptions, Limit};
use crate::ui::human;

/// Remove what nothing refers to: images without a name, and their layers
#[derive(Clone, Debug, clap::Args)]
pub struct PruneArgs {
    /// Also drop the step cache and all layer directories
    #[arg(short, long)]
    pub all: bool,
    /// Drop what was not used for the longest time until the store is no larger than this: `10GB`, `500MiB`
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub max_size: Option<u64>,
    /// Accepted for podman's sake: nothing is asked
    #[arg(short, long)]
    pub force: bool,
}

/// Prunes the store.
pub fn run(args: &PruneArgs, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    for image in store.remove_unnamed()? {
        output::print_line(&image.digest.to_string())?;
    }
    let mut done = store.collect_garbage(GcOptions { all: args.all })?;
    if let Some(bytes) = args.max_size {
        let shrunk = store.shrink(Limit { bytes, images: true })?;
        done += shrunk.removed;
        store_limit::warn_if_above(bytes, shrunk.size);
    }
    output::print_line(&format!(
        "Removed {} blobs, {} layer directories, {} cached steps, {} cache mounts: {}",
        done.blobs,
        done.snapshots,
        done.steps,
        done.cache_mounts,
        human::size(done.bytes, "", 3)
    ))
}
