//! What ADD fetches. All of it is found before the first step is executed, so that a wrong checksum or an address that leads
//! nowhere costs no work.
//!
//! A file is fetched then, or found in the store. Of a repository only the commit is looked up, which is all that the step's
//! cache key needs; its files are fetched when the step is not cached.

use super::{Error, logins::Reach};
use crate::oci::Digest;
use crate::plan::{CopySource, Plan, StepKind};
use crate::registry::download::shown;
use crate::source::git::Commit;
use crate::source::{self, Download, GitUrl, git};
use crate::ui::Event;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Addresses that are asked at the same time.
const PARALLEL: usize = 4;

/// A checkout, once a step has needed it.
type Checkout = Arc<Mutex<Option<Arc<source::Context>>>>;

/// The remote sources of a plan.
#[derive(Default)]
pub(super) struct Remotes {
    web: HashMap<(String, Option<Digest>), Download>,
    git: HashMap<GitUrl, (Commit, Checkout)>,
}

/// What was found of one source.
enum Found {
    Web(Download),
    Git(Commit),
}

impl Remotes {
    /// Finds all remote sources of a plan.
    pub fn find(plan: &Plan, reach: Reach<'_>) -> Result<Remotes, Error> {
        let mut wanted = vec![];
        for step in &plan.steps {
            let StepKind::Copy(copy) = &step.kind else { continue };
            for source in &copy.sources {
                let remote = matches!(source, CopySource::Web { .. } | CopySource::Git(_));
                if remote && !wanted.iter().any(|(_, other)| *other == source) {
                    wanted.push((step, source));
                }
            }
        }
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<Found, Error>)>> = Mutex::default();
        let work = || {
            while let Some((step, source)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let at = wanted.iter().position(|(_, s)| s == source).unwrap_or_default();
                let found = find(source, reach).map_err(|e| Error::Step {
                    step: step.name.clone(),
                    span: step.span,
                    source: Box::new(e),
                });
                let failed = found.is_err();
                results.lock().unwrap_or_else(PoisonError::into_inner).push((at, found));
                if failed {
                    next.store(wanted.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..PARALLEL.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(at, _)| *at);
        let mut remotes = Remotes::default();
        for (at, found) in results {
            match (wanted.get(at).map(|(_, source)| *source), found?) {
                (Some(CopySource::Web { url, checksum }), Found::Web(download)) => {
                    remotes.web.insert((url.clone(), *checksum), download);
                }
                (Some(CopySource::Git(url)), Found::Git(commit)) => {
                    remotes.git.insert(url.clone(), (commit, Checkout::default()));
                }
                _ => {}
            }
        }
        Ok(remotes)
    }

    /// A file that was fetched.
    pub fn web(&self, url: &str, checksum: Option<Digest>) -> Result<&Download, Error> {
        self.web.get(&(url.to_owned(), checksum)).ok_or(Error::Cancelled)
    }

    /// The commit of a repository.
    pub fn commit(&self, url: &GitUrl) -> Result<&Commit, Error> {
        self.git.get(url).map(|(commit, _)| commit).ok_or(Error::Cancelled)
    }

    /// The files of a repository, fetched when first asked for.
    pub fn checkout(&self, url: &GitUrl, reach: Reach<'_>) -> Result<Arc<source::Context>, Error> {
        let (commit, slot) = self.git.get(url).ok_or(Error::Cancelled)?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*slot {
            return Ok(files.clone());
        }
        let (around, login) = (reach.around, reach.secrets.git_login(url)?);
        let files = Arc::new(git::checkout(around.store, url, commit, login.as_ref(), around.cancel)?);

        Ok(slot.insert(files).clone())
    }
}

fn find(source: &CopySource, reach: Reach<'_>) -> Result<Found, Error> {
    let around = reach.around;
    match source {
        CopySource::Web { url, checksum } => {
            around.sink.event(&Event::Fetching { name: &shown(url) });
            let login = reach.secrets.web_login(url)?;
            let found = source::download::fetch(around.store, around.client, url, checksum.as_ref(), login)?;
            Ok(Found::Web(found))
        }
        CopySource::Git(url) => {
            around.sink.event(&Event::Fetching { name: &url.to_string() });
            let login = reach.secrets.git_login(url)?;
            Ok(Found::Git(git::resolve(around.store, url, login.as_ref(), around.cancel)?))
        }
        CopySource::Path(_) | CopySource::Inline { .. } => Err(Error::Cancelled),
    }
}
