//! `rbuild prune`: drops what nothing refers to.

use super::{Error, Global, output};
use crate::store::GcOptions;
use crate::ui::human;

/// Remove what nothing refers to: images without a name, and their layers
#[derive(Clone, Debug, clap::Args)]
pub struct PruneArgs {
    /// Also drop the step cache and all layer directories
    #[arg(short, long)]
    pub all: bool,
    /// Drop the oldest cached steps until the store is no larger than this: `10GB`, `500MiB`
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Accepted for podman's sake: nothing is asked
    #[arg(short, long)]
    pub force: bool,
}

/// Bytes with an optional unit.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("invalid size `{text}`: expected something like `10GB` or `500MiB`");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split).ok_or_else(bad)?;
    let number: f64 = number.parse().map_err(|_| bad())?;
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    Ok((number * scale as f64) as u64)
}

/// Prunes the store.
pub fn run(args: &PruneArgs, global: &Global) -> Result<(), Error> {
    let store = global.store()?;
    for image in store.remove_unnamed()? {
        output::print_line(&image.digest.to_string())?;
    }
    let done = store.collect_garbage(GcOptions { all: args.all, max_size: args.max_size })?;
    output::print_line(&format!(
        "Removed {} blobs, {} layer directories, {} cached steps, {} cache mounts: {}",
        done.blobs,
        done.snapshots,
        done.steps,
        done.cache_mounts,
        human::size(done.bytes, "", 3)
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_have_units() {
        for (text, want) in [("1", 1), ("2k", 2048), ("1.5GB", 1_500_000_000), ("500MiB", 500 << 20)] {
            assert_eq!(super::size(text).unwrap(), want, "{text}");
        }
        assert!(super::size("x").is_err() && super::size("1q").is_err() && super::size("").is_err());
    }
}
