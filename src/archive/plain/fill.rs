//! Filling a directory of a tree by several threads: making a file costs a file system far more than reading one does.
//!
//! One thread walks, and makes everything that has an order (directories, names of one file); the others copy the contents of
//! ordinary files. A directory gets its metadata when all that is in it is there.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::make::{copy_file, mkdir};
use super::{Plain, Sharing};
use crate::archive::copy::transfer::Transfer;
use crate::archive::error::Error;
use crate::archive::merged::Merged;
use crate::archive::node::{Kind, Node};
use crate::sys::idmap::IdMap;

/// Most threads that copy.
const MOST_THREADS: usize = 4;
/// Files that wait for one; each keeps its directory open.
const QUEUE: usize = 64;
/// Directories that wait for the files in them.
const MOST_WAITING: usize = 4096;

/// A file to copy into a directory.
struct Job {
    node: Node,
    dir: Arc<OwnedFd>,
}

/// A directory whose contents are being made.
struct Level {
    node: Node,
    /// Directories in it that are still to come.
    todo: Vec<Node>,
}

/// How far the copying is.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Files that were sent and are not there yet.
    pending: usize,
    failed: Option<Error>,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that was sent is there.
    fn wait(&self) -> Result<(), Error> {
        let mut state = self.state();
        while state.pending > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Copies what comes, until nothing comes any more. After a failure the rest is left.
    fn work(&self, jobs: &Mutex<Receiver<Job>>, view: &Merged, root: &Path, map: &IdMap) {
        let mut transfer = Transfer::default();
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = next else { return };
            let done = Done(self);
            if self.state().failed.is_some() {
                continue;
            }
            if let Err(e) = copy_file(&mut transfer, view, &job.node, &job.dir, root, map) {
                self.state().failed.get_or_insert(e);
            }
            drop(done);
        }
    }
}

/// Counts a file as done, however that went.
struct Done<'p>(&'p Progress);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.pending = state.pending.saturating_sub(1);
        if state.pending == 0 {
            self.0.changed.notify_all();
        }
    }
}

impl Plain {
    /// Fills a directory that is there.
    pub(super) fn subtree(&mut self, view: &Merged, node: Node) -> Result<(), Error> {
        let progress = Progress::default();
        let (send, receive) = sync_channel(QUEUE);
        let receive = Mutex::new(receive);
        let (root, map) = (self.root.clone(), self.map);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| progress.work(&receive, view, &root, &map));
            }
            // The threads end when the sender is gone, and with them this.
            self.walk(view, node, &progress, send)
        })
    }

    fn walk(&mut self, view: &Merged, node: Node, progress: &Progress, send: SyncSender<Job>) -> Result<(), Error> {
        let mut levels = vec![self.contents(view, node, progress, &send)?];
        // Children before their parents: the mode of a directory may close it.
        let mut waiting = vec![];
        while let Some(level) = levels.last_mut() {
            match level.todo.pop() {
                Some(dir) => levels.push(self.contents(view, dir, progress, &send)?),
                None => waiting.extend(levels.pop().map(|level| level.node)),
            }
            if waiting.len() >= MOST_WAITING || levels.is_empty() {
                progress.wait()?;
                waiting.drain(..).try_for_each(|node| self.finish_dir(view, &node))?;
            }
        }
        Ok(())
    }

    /// Makes what is in a directory, or sends it to be made; directories in it are empty yet.
    fn contents(
        &mut self,
        view: &Merged,
        node: Node,
        progress: &Progress,
        send: &SyncSender<Job>,
    ) -> Result<Level, Error> {
        let dir = Arc::new(self.open_dir(&node.path)?);
        let mut todo = vec![];
        for (name, inside) in view.read_dir(&node.path)? {
            let alone = inside.meta.kind == Kind::File && inside.meta.nlink == 1 && self.sharing == Sharing::Never;
            if inside.is_dir() {
                mkdir(&dir, &name).map_err(|e| self.failed("create directory", &inside.path, e))?;
                todo.push(inside);
            } else if alone {
                progress.state().pending += 1;
                // It can only fail when the receiver is gone, which outlives this.
                let _ = send.send(Job { node: inside, dir: Arc::clone(&dir) });
            } else {
                self.put(view, &inside, &dir)?;
            }
        }
        Ok(Level { node, todo })
    }
}
