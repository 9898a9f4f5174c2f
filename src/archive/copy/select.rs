//! Which entries of a tree the sources of an instruction name.

use super::glob::{Pattern, has_wildcards};
use super::tree::{Tree, resolve};
use super::walk::{Include, Walk};
use super::{Error, Item, Request, shown};
use crate::archive::node::{Kind, Meta, bytes, clean};
use crate::dockerfile::ignore::Patterns;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// One thing to copy: where a [`Walk`](super::Walk) starts.
#[derive(Debug)]
pub struct Selection {
    /// The source as written.
    pub written: String,
    /// The name that a file gets in a destination directory: the last part of the source, before links were followed.
    /// Empty for the root of the tree.
    pub name: OsString,
    /// Where it is in the tree, links followed.
    pub path: PathBuf,
    /// What it is: never a symbolic link.
    pub meta: Meta,
    /// With `--parents`: which of the entries below `path` are wanted.
    pub(super) include: Option<Include>,
}

/// A source after its wildcards were expanded.
#[derive(Debug)]
pub enum Source {
    /// An entry of the tree.
    Tree(Selection),
    /// A file that stands in the instruction itself.
    Inline {
        /// File name.
        name: String,
        /// The content.
        content: Vec<u8>,
    },
}

/// Everything that an instruction names, in order: wildcards give their matches in the order of their names.
#[derive(Debug, Default)]
pub struct Selected {
    /// The sources.
    pub sources: Vec<Source>,
    /// Wildcards that match nothing, as written.
    pub unmatched: Vec<String>,
}

/// Expands the sources of `request` in `tree`.
///
/// # Errors
///
/// A source that is not there, a malformed pattern, or a tree that cannot be read.
pub fn select(request: &Request, tree: &dyn Tree) -> Result<Selected, Error> {
    let mut selected = Selected::default();
    for item in &request.sources {
        match item {
            Item::Inline { name, content } => {
                selected.sources.push(Source::Inline { name: name.clone(), content: content.clone() });
            }
            Item::Path(path) if request.parents => with_parents(path, tree, &mut selected)?,
            Item::Path(path) => {
                let matches = expand(path, Path::new(path), tree)?;
                let Some(matches) = matches else {
                    let found = named(path, clean(Path::new(path)), tree)?;
                    selected.sources.push(Source::Tree(found));
                    continue;
                };
                if matches.is_empty() {
                    selected.unmatched.push(path.clone());
                }
                for found in matches {
                    // What a wildcard brings in, `--exclude` can take out by its name.
                    let name = found.file_name().map(|n| bytes(Path::new(n)).to_vec()).unwrap_or_default();
                    if !request.exclude.is_empty() && request.exclude.excludes(&name) {
                        continue;
                    }
                    match named(path, found, tree) {
                        // A link that the wildcard has met, and not what somebody wants in the image.
                        Err(Error::Socket(_)) => {}
                        found => selected.sources.push(Source::Tree(found?)),
                    }
                }
            }
        }
    }
    if request.must_match && selected.sources.is_empty() && selected.unmatched.len() == request.sources.len() {
        return Err(Error::NoMatch(selected.unmatched));
    }
    Ok(selected)
}

/// The wildcards of `request` that match nothing in `tree`, as written. With `--parents` that takes a walk, up to the first
/// match.
///
/// # Errors
///
/// As [`select`], and a tree that cannot be read.
pub fn unmatched(request: &Request, tree: &dyn Tree) -> Result<Vec<String>, Error> {
    let selected = select(request, tree)?;
    if !request.parents {
        return Ok(selected.unmatched);
    }
    let everything = Patterns::default();
    let mut unmatched = vec![];
    for item in &request.sources {
        let Item::Path(written) = item else { continue };
        if !has_wildcards(written.as_bytes()) {
            continue;
        }
        let mut matched = false;
        for source in &selected.sources {
            let Source::Tree(selection) = source else { continue };
            if matched || selection.written != *written {
                continue;
            }
            matched = selection.include.is_none();
            for found in Walk::new(tree, selection, &everything) {
                let found = found?;
                if !found.implied && !found.rel.as_os_str().is_empty() {
                    matched = true;
                    break;
                }
            }
        }
        if !matched {
            unmatched.push(written.clone());
        }
    }
    Ok(unmatched)
}

/// The source at `path` (clean), links followed.
fn named(written: &str, path: PathBuf, tree: &dyn Tree) -> Result<Selection, Error> {
    let found = resolve(tree, &path, true)?;
    let Some(meta) = found.meta else {
        return Err(Error::NotFound { path: shown(&path), hidden: tree.hidden(&found.path) });
    };
    if meta.kind == Kind::Socket {
        return Err(Error::Socket(shown(&path)));
    }
    let name = path.file_name().map(OsStr::to_owned).unwrap_or_default();
    Ok(Selection { written: written.to_owned(), name, path: found.path, meta, include: None })
}

/// A `--parents` source: what is below the pivot is a pattern over the tree at the pivot.
fn with_parents(written: &str, tree: &dyn Tree, selected: &mut Selected) -> Result<(), Error> {
    let (base, pattern) = written.split_once("/./").unwrap_or(("/", written));
    let pattern = clean(Path::new(pattern));
    let text = pattern.to_string_lossy();
    let include = if text.is_empty() { None } else { Some(Include::parse(&text)?) };
    let wild = has_wildcards(base.as_bytes()) || has_wildcards(bytes(&pattern));
    if !wild {
        let whole = clean(Path::new(base)).join(&pattern);
        // The source has to exist, although the walk looks for it again.
        named(written, whole, tree)?;
    }
    let bases = match expand(written, Path::new(base), tree)? {
        Some(matches) => matches,
        None => vec![clean(Path::new(base))],
    };
    for base in bases {
        let mut found = match named(written, base, tree) {
            Ok(found) => found,
            // Nothing is at the pivot, so the pattern matches nothing there.
            Err(Error::NotFound { .. }) if wild => continue,
            Err(error) => return Err(error),
        };
        found.include.clone_from(&include);
        selected.sources.push(Source::Tree(found));
    }
    Ok(())
}

/// The paths that a source with wildcards matches, clean and sorted; `None` where it has no wildcard.
///
/// The part in front of the first wildcard may lead through links; directories that a wildcard matches are real ones.
fn expand(written: &str, source: &Path, tree: &dyn Tree) -> Result<Option<Vec<PathBuf>>, Error> {
    let source = clean(source);
    if !has_wildcards(bytes(&source)) {
        return Ok(None);
    }
    let parts: Vec<&OsStr> = source.iter().collect();
    let first = parts.iter().position(|p| has_wildcards(bytes(Path::new(p)))).unwrap_or_default();
    let (plain, wild) = parts.split_at(first);
    let base = plain.iter().collect::<PathBuf>();
    let base = resolve(tree, &base, true)?;
    if !matches!(&base.meta, Some(m) if m.kind == Kind::Dir) {
        return Ok(Some(Vec::new()));
    }
    let mut found = vec![base.path];
    for (depth, part) in wild.iter().enumerate() {
        let pattern = Pattern::parse(bytes(Path::new(part))).map_err(|_| Error::BadWildcard(written.to_owned()))?;
        let last = depth + 1 == wild.len();
        let mut deeper = Vec::new();
        for dir in found {
            let entries = tree.read_dir(&dir)?;
            deeper.extend(
                entries
                    .into_iter()
                    .filter(|(name, meta)| {
                        (last || meta.kind == Kind::Dir)
                            && meta.kind != Kind::Socket
                            && pattern.matches(bytes(Path::new(name)))
                    })
                    .map(|(name, _)| dir.join(name)),
            );
        }
        found = deeper;
    }
    Ok(Some(found))
}
