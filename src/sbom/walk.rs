//! Looks through every directory of an image for what languages leave behind.
//!
//! What an image holds only to build something else is not the image's software: the unpacked sources in the caches of Go
//! and Cargo have lock files of their own, which nobody follows.

use super::{Ecosystem, Error, Inventory, Package, files, go, locks, node, python};
use crate::archive::merged::Merged;
use crate::archive::node::Node;
use std::path::PathBuf;

/// Directories of the root that hold no files of the image.
const NOT_FILES: [&str; 3] = ["dev", "proc", "sys"];
/// Caches of unpacked sources: ends of directory names.
const CACHES: [&str; 2] = ["/go/pkg/mod", ".cargo/registry"];
/// Go links at least so many bytes into a program.
const SMALLEST_GO: u64 = 64 << 10;

/// Reads all of them.
pub(super) fn read(view: &Merged, found: &mut Inventory) -> Result<(), Error> {
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        if view.lookup(&dir)?.is_none() {
            continue;
        }
        for (name, node) in view.read_dir(&dir)? {
            if node.is_dir() {
                let path = files::display(&node);
                let skipped = NOT_FILES.contains(&path.as_str()) || CACHES.iter().any(|c| path.ends_with(c));
                if !skipped {
                    pending.push(dir.join(name));
                }
            } else if node.is_file() {
                file(view, &node, found)?;
            }
        }
    }
    Ok(())
}

fn file(view: &Merged, node: &Node, found: &mut Inventory) -> Result<(), Error> {
    let path = files::display(node);
    let name = path.rsplit('/').next().unwrap_or_default();
    let packages: Option<Vec<Package>> = match name {
        "package.json" if node::is_installed(&path) => {
            whole(view, node, found, |b| node::manifest(b).ok().map(|p| p.into_iter().collect()))?
        }
        "package-lock.json" | "npm-shrinkwrap.json" if !path.contains("node_modules/") => {
            whole(view, node, found, |b| node::lock(b).ok())?
        }
        "Cargo.lock" => whole(view, node, found, |b| locks::toml(Ecosystem::Cargo, b))?,
        "poetry.lock" => whole(view, node, found, |b| locks::toml(Ecosystem::PyPi, b))?,
        "composer.lock" => whole(view, node, found, locks::composer)?,
        "installed.json" if path.ends_with("vendor/composer/installed.json") => {
            whole(view, node, found, locks::composer)?
        }
        "go.mod" => Some(lines(view, node, locks::go_mod)?),
        "Gemfile.lock" => Some(lines(view, node, locks::gemfile)?),
        _ if python::is_metadata(&path) => Some(lines(view, node, |next| python::parse(next).into_iter().collect())?),
        _ if name.ends_with(".gemspec") => Some(locks::gemspec(&path).into_iter().collect()),
        _ if node.meta.mode & 0o111 != 0 && node.meta.size >= SMALLEST_GO => go::modules(&view.open_file(node)?),
        _ => return Ok(()),
    };
    for package in packages.into_iter().flatten() {
        found.add(&path, package)?;
    }
    Ok(())
}

/// What `parse` makes of the lines of a file.
fn lines(
    view: &Merged,
    node: &Node,
    parse: impl FnOnce(&mut dyn FnMut() -> Option<String>) -> Vec<Package>,
) -> Result<Vec<Package>, Error> {
    let mut lines = files::lines(view, node)?;
    let packages = parse(&mut || lines.next());
    lines.end(node)?;
    Ok(packages)
}

/// What `parse` makes of a file; a note where that is nothing.
fn whole(
    view: &Merged,
    node: &Node,
    found: &mut Inventory,
    parse: impl FnOnce(&[u8]) -> Option<Vec<Package>>,
) -> Result<Option<Vec<Package>>, Error> {
    let Some(bytes) = files::whole(view, node, found)? else { return Ok(None) };
    let packages = parse(&bytes);
    if packages.is_none() {
        found.note(format!("`{}` is not read: it is not in the format of its name", files::display(node)));
    }
    Ok(packages)
}
