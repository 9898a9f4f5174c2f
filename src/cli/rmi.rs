//! `rbuild rmi`.

use super::{Error, Global, output};
use crate::oci::{Digest, Reference};
use crate::store::{GcOptions, NamedImage, Store};
use std::collections::HashSet;

/// Remove names and images from the store
#[derive(Clone, Debug, clap::Args)]
pub struct RmiArgs {
    /// The images: names or ids
    pub images: Vec<String>,
    /// Remove all images
    #[arg(short, long)]
    pub all: bool,
    /// Remove an image that has several names by its id; ignore what does not exist
    #[arg(short, long)]
    pub force: bool,
    /// Remove the images without a name
    #[arg(short, long)]
    pub prune: bool,
}

/// What was removed, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that were taken away.
    pub untagged: Vec<Reference>,
    /// Images that are gone.
    pub deleted: Vec<Digest>,
}

/// Removes images.
pub fn run(args: &RmiArgs, global: &Global) -> Result<(), Error> {
    match (args.all, args.prune, args.images.is_empty()) {
        (false, false, true) => return Err(Error::usage("image name or ID must be specified")),
        (true, true, _) => return Err(Error::usage("`--all` and `--prune` contradict each other")),
        (true, _, false) | (_, true, false) => {
            return Err(Error::usage("`--all` and `--prune` take no image names"));
        }
        _ => {}
    }
    let store = global.store()?;
    let mut failed = vec![];
    if args.prune || args.all {
        let named: HashSet<Digest> =
            store.list()?.into_iter().filter(|e| e.name.is_some()).map(|e| e.descriptor.digest).collect();
        let mut seen = HashSet::new();
        // Also those that cannot be read.
        for image in store.list()? {
            let digest = image.descriptor.digest;
            if (args.all || !named.contains(&digest)) && seen.insert(digest) {
                show(&remove(&store, &digest.to_string(), true)?)?;
            }
        }
    }
    for image in &args.images {
        match remove(&store, image, args.force) {
            Ok(removed) => show(&removed)?,
            Err(Error::Failed(e)) if args.force && e.kind() == crate::error::Kind::NotFound => {}
            Err(e) => failed.push(e),
        }
    }
    // A store that found an image holds it as long as it is open: what was just removed is in nobody's use any more.
    drop(store);
    global.store()?.collect_garbage(GcOptions::default())?;
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        n => {
            let texts: Vec<String> = failed.iter().map(|e| format!("\t* {e}")).collect();
            Err(Error::NotFound(format!("{n} errors occurred:\n{}", texts.join("\n"))))
        }
    }
}

/// Prints what was removed.
pub fn show(removed: &Removed) -> Result<(), Error> {
    for name in &removed.untagged {
        output::print_line(&format!("untagged: {name}"))?;
    }
    for id in &removed.deleted {
        output::print_line(&id.hex())?;
    }
    Ok(())
}

/// Removes one image: by a name, that name, and with the last name the image; by id, the image with all its names, of which
/// it may have more than one only with `force`.
pub fn remove(store: &Store, text: &str, force: bool) -> Result<Removed, Error> {
    let found = store.look_up(text)?;
    let digest = found.descriptor.digest;
    let id = store.image_id(&found.descriptor).unwrap_or(digest);
    let listed = store.list()?;
    if !listed.iter().any(|e| e.descriptor.digest == digest) {
        return Err(in_an_index(store, &listed, &digest, id));
    }
    let names: Vec<Reference> =
        listed.iter().filter(|e| e.descriptor.digest == digest).filter_map(|e| e.name.as_ref()?.parse().ok()).collect();
    let by_id = text.parse::<Reference>().is_err()
        || !found.name.as_ref().is_some_and(|n| names_it(n, text))
        || text.strip_prefix("sha256:").is_some_and(|hex| id.hex().starts_with(hex));
    if by_id {
        if names.len() > 1 && !force {
            let names: Vec<String> = names.iter().map(Reference::to_string).collect();
            return Err(Error::usage_hint(
                format!("unable to delete image `{}`: it has several names: {}", id.hex(), names.join(", ")),
                "remove it by its names, or pass `--force`",
            ));
        }
        store.remove_image(&digest)?;
        return Ok(Removed { untagged: names, deleted: vec![id] });
    }
    let name = found.name.unwrap_or_default();
    let last = names.len() <= 1;
    store.remove_name(&name)?;
    Ok(Removed { untagged: name.parse().into_iter().collect(), deleted: if last { vec![id] } else { vec![] } })
}

/// Why an image that is no entry of the store cannot be removed alone.
fn in_an_index(store: &Store, listed: &[NamedImage], manifest: &Digest, id: Digest) -> Error {
    let holds = |e: &&NamedImage| {
        let images = store.index(&e.descriptor.digest).map(|i| i.manifests).unwrap_or_default();
        images.iter().any(|d| d.digest == *manifest)
    };
    let called = |e: &NamedImage| e.name.clone().unwrap_or_else(|| e.descriptor.digest.to_string());
    let indexes: Vec<String> = listed.iter().filter(holds).map(called).collect();
    Error::unsupported(
        format!("deleting the image `{}` alone, a part of the index `{}`,", id.hex(), indexes.join("`, `")),
        format!("remove the index, or take the image out of it: `rbuild manifest remove INDEX {manifest}`"),
    )
}

/// Whether a full name is what a user meant by `text`, rather than `text` being an id.
fn names_it(name: &str, text: &str) -> bool {
    let Ok(typed) = text.parse::<Reference>() else { return false };
    let full = [
        typed.clone().with_default_registry("localhost").with_default_tag(),
        typed.clone().docker_normalized().with_default_tag(),
        typed.clone().with_default_tag(),
    ];
    typed.digest.is_some() || full.iter().any(|f| f.to_string() == name)
}
