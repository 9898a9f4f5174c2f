//! Files of git repositories, through the `git` program.
//!
//! ```text
//! resolve:  ls-remote            address and reference ─► commit          (nothing is fetched: enough for a cache key)
//! checkout: init, fetch,         commit ─► files in the store's tmp/      (as little as the server can send)
//!           checkout, submodules
//! ```
//!
//! A repository is data of strangers. So nothing in it can make git run a program: there are no hooks (git finds none in
//! the template and none at `core.hooksPath`), no configuration comes from it, protocols are a short list in which the
//! files of this machine are only where the address itself names them, and a directory inside it is looked up without
//! leaving it. The user's own configuration is honoured, as it says how servers are reached. Credentials go to git through
//! the environment of its process, and to the one repository that they were given for.

mod command;
mod work_tree;

use super::git_url::{GitUrl, Mtime, is_commit};
use super::host::HostDir;
use super::{Context, Error};
use crate::archive::copy::tree;
use crate::archive::node::Kind;
use crate::registry::download::Authorization;
use crate::store::Store;
use crate::sys::signal::Cancel;
use command::Git;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
pub use work_tree::WorkTree;

/// A commit, and how a server is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The digits of the commit.
    pub id: String,
    /// The full name of the reference that leads to it; `None` where only the commit is known.
    reference: Option<String>,
}

impl Commit {
    /// A commit that nobody was asked about.
    fn alone(id: &str) -> Commit {
        Commit { id: id.to_owned(), reference: None }
    }
}

/// Finds the commit that an address means, without fetching it. `login` is what a web server is told.
///
/// # Errors
///
/// There is no git program, the server does not answer, has no such reference, or the commit is not the demanded one.
pub fn resolve(store: &Store, url: &GitUrl, login: Option<&Authorization>, cancel: &Cancel) -> Result<Commit, Error> {
    let demanded = |ids: &[&str]| match &url.checksum {
        Some(wanted) if !ids.iter().any(|id| id.starts_with(wanted.as_str())) => Err(Error::Checksum {
            what: url.to_string(),
            demanded: wanted.clone(),
            found: ids.last().copied().unwrap_or_default().to_owned(),
        }),
        _ => Ok(()),
    };
    if let Some(id) = url.reference.as_deref().filter(|r| is_commit(r)) {
        demanded(&[id])?;
        return Ok(Commit::alone(id));
    }
    let dir = store.temp_dir("git")?;
    let git = Git::new(url, dir.path(), login, cancel)?;
    let name = url.reference.as_deref().unwrap_or("HEAD");
    let peeled = format!("{name}^{{}}");
    // Outside of any repository, so that those with either kind of digest answer.
    let text = git.run(&["ls-remote", "--quiet", "--"], &[&url.remote, name, &peeled])?;
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once('\t')).collect();
    let id_of = |full: &str| lines.iter().find(|(_, n)| *n == full).map(|(id, _)| *id);
    // As with `git checkout`, a tag wins over a branch of the same name.
    let candidates =
        [name.to_owned(), format!("refs/{name}"), format!("refs/tags/{name}"), format!("refs/heads/{name}")];
    let Some((full, id)) = candidates.iter().find_map(|full| Some((full.clone(), id_of(full)?))) else {
        return Err(Error::NoReference { url: url.to_string(), name: name.to_owned() });
    };
    // Of an annotated tag, the commit is what it points at.
    let target = id_of(&format!("{full}^{{}}"));
    demanded(&[&[id][..], target.as_slice()].concat())?;
    Ok(Commit { id: target.unwrap_or(id).to_owned(), reference: Some(full).filter(|_| !url.fetch_by_commit) })
}

/// Fetches the files of a commit, and gives them as a context of root's.
///
/// # Errors
///
/// As [`resolve`]; the commit cannot be fetched, or has no such directory.
pub fn checkout(
    store: &Store,
    url: &GitUrl,
    commit: &Commit,
    login: Option<&Authorization>,
    cancel: &Cancel,
) -> Result<Context, Error> {
    let dir = store.temp_dir("git")?;
    let git = Git::new(url, dir.path(), login, cancel)?;
    git.init(if commit.id.len() == 64 { "sha256" } else { "sha1" })?;
    let id = fetch(&git, url, commit)?;
    let sparse = match &url.subdir {
        Some(subdir) if !url.keep_git_dir => is_directory(&git, &id, subdir)?.then_some(subdir.as_str()),
        _ => None,
    };
    if let Some(subdir) = sparse {
        git.write("info/sparse-checkout", &format!("/{}/\n/.gitmodules\n", escaped(subdir)))?;
        git.run(&["config", "core.sparseCheckout", "true"], &[])?;
    }
    git.run(&["checkout", "--quiet", "--force", "--detach"], &[&id])?;
    if url.submodules && git.tree().join(".gitmodules").is_file() {
        let inside = sparse.map(|dir| vec!["--", dir]).unwrap_or_default();
        git.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"], &inside)?;
    }
    let made = commit_time(&git, &id)?;
    let time = Some(made).filter(|_| url.mtime == Mtime::Commit);
    if url.keep_git_dir {
        git.remove("FETCH_HEAD")?;
        // What says when and by whom this copy was made.
        git.remove("logs")?;
    } else {
        git.remove("")?;
    }
    tidy(git.tree(), url.keep_git_dir, time)?;
    let tree = git.tree().to_owned();
    let files = HostDir::open(&tree)?;
    let files = match &url.subdir {
        Some(subdir) => part(files, subdir, url)?,
        None => files,
    };
    Ok(Context::of(PathBuf::from(url.to_string()), Box::new(files), Some(dir)).made_at(Some(made)))
}

/// Brings the commit into the repository, with as little else as the server allows.
fn fetch(git: &Git<'_>, url: &GitUrl, commit: &Commit) -> Result<String, Error> {
    let wanted = commit.reference.as_deref().unwrap_or(&commit.id);
    let mut little = vec!["fetch", "--quiet", "--no-tags", "--depth=1"];
    // With a directory alone, files are fetched when they are checked out: those of the other directories never.
    if url.subdir.is_some() && !url.keep_git_dir {
        little.push("--filter=blob:none");
    }
    little.push("origin");
    let mut last = git.run(&little, &[wanted]).map(drop);
    if last.is_ok() && git.commit("FETCH_HEAD").as_deref() != Some(commit.id.as_str()) {
        // The reference has moved since it was looked up; the commit may still be had.
        last = git.run(&little, &[&commit.id]).map(drop);
    }
    if let Err(e) = last {
        if !e.is_server_limit() {
            return Err(e);
        }
        tracing::debug!("{e}: fetching all of it");
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        git.run(&["fetch", "--quiet", "origin"], &all)?;
    }
    match git.commit(&commit.id) {
        Some(id) if id == commit.id => Ok(id),
        _ => Err(Error::NoReference { url: url.to_string(), name: commit.id.clone() }),
    }
}

/// Whether a path of a commit is a directory, with no link on the way.
fn is_directory(git: &Git<'_>, id: &str, path: &str) -> Result<bool, Error> {
    let text = git.run(&["ls-tree", "-d", "-z", "--full-tree", "--name-only", id, "--"], &[path])?;
    Ok(text.split('\0').any(|line| line == path))
}

/// A path as a pattern of a sparse checkout.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '!' | '#' | ' ') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// When a commit was made, in seconds since 1970.
fn commit_time(git: &Git<'_>, id: &str) -> Result<i64, Error> {
    let text = git.run(&["log", "-1", "--format=%ct", id, "--"], &[])?;
    text.trim().parse().map_err(|_| git.error(format!("it says that the commit was made at `{}`", text.trim())))
}

/// A directory of a checkout. Links on the way are followed inside the repository, as everywhere.
fn part(files: HostDir, subdir: &str, url: &GitUrl) -> Result<HostDir, Error> {
    let missing = || Error::NoSubdir { url: url.to_string(), dir: subdir.to_owned() };
    let found = tree::resolve(&files, Path::new(subdir), true).map_err(|_| missing())?;
    match found.meta {
        Some(meta) if meta.kind == Kind::Dir => files.below(&found.path),
        _ => Err(missing()),
    }
}

/// Gives all files the modes that git means, whatever umask it ran with, and the `time`; removes the `.git` files of
/// submodules, which lead nowhere when the repository's own is gone.
fn tidy(tree: &Path, keep: bool, time: Option<i64>) -> Result<(), Error> {
    let mut todo = vec![tree.to_owned()];
    let mut seen = vec![];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::read(&dir))? {
            let entry = entry.map_err(Error::read(&dir))?;
            let path = entry.path();
            let meta = entry.metadata().map_err(Error::read(&path))?;
            if entry.file_name() == ".git" {
                if !keep && !meta.is_dir() {
                    fs::remove_file(&path).map_err(Error::read(&path))?;
                }
                continue;
            }
            if meta.is_dir() {
                todo.push(path);
                continue;
            }
            if meta.is_file() {
                let mode = if meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(Error::read(&path))?;
            }
            touch(&path, time)?;
        }
        seen.push(dir);
    }
    for dir in seen {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).map_err(Error::read(&dir))?;
        touch(&dir, time)?;
    }
    Ok(())
}

fn touch(path: &Path, time: Option<i64>) -> Result<(), Error> {
    let Some(seconds) = time else { return Ok(()) };
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::read(path)(e.into()))
}
