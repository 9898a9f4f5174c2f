//! Root file systems of layers that are still on their way, for one RUN step on the `fuse` driver.
//!
//! ```text
//! a step ── kernel ── rbuild fuse ── skeletons: names, metadata, links, whiteouts; files are holes
//!                        │ "contents of inode 7?"
//!                     builder: from the complete layer, where that is here; else by parts of the blob
//! ```
//!
//! Where a layer has a table of contents (`archive::indexed::table`), a [`Stack`] has a *skeleton* for it: a layer directory in
//! the store's `tmp`, made of the table by the code that extracts layers, with the files' sizes and no contents. When a file
//! of a skeleton is opened, the file system's server asks the builder for its contents and gets a descriptor ([`asking`]):
//! of the file in the complete layer, or of one that the builder filled with chunks, each of which has the digest that the
//! table says ([`skeleton`]).
//!
//! Invariants:
//!
//! * Nobody but the root file system of that step, and what prepares it, sees a skeleton. What reads one through
//!   [`Merged`] gets contents by asking, too: a hole is never taken for data.
//! * Skeletons are never published. What the step left becomes a layer on top of the complete layers, and only when these are
//!   what the table said ([`compare`]).

mod asking;
mod compare;
mod skeleton;
#[cfg(test)]
mod tests;

pub use asking::{Answering, Asking, Stopper, serve};
pub use compare::Verdict;

use super::{Active, Error, LayerRef, Snapshots};
use crate::archive::indexed::table::Table;
use crate::archive::layer::Layer;
use crate::archive::merged::Merged;
use crate::oci::ChainId;
use crate::sys::idmap::IdMap;
use skeleton::Skeleton;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the contents of a stack's layers come from. Layers are named by their place in the stack, lowest 0.
pub trait Origin: Sync {
    /// Bytes of the blob of a layer.
    ///
    /// # Errors
    /// They cannot be had.
    fn part(&self, layer: usize, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Returns when the directory of a layer is there as a whole; `None`: it does not come. `path` is the file that somebody
    /// waits for.
    fn complete(&self, layer: usize, path: &Path) -> Option<PathBuf>;
}

/// Layers of which some are skeletons, in the making from the lowest to the uppermost.
#[derive(Debug)]
pub struct Stack {
    map: IdMap,
    asking: Asking,
    chain: Option<ChainId>,
    dirs: Vec<PathBuf>,
    open: Vec<Arc<Layer>>,
    skeletons: Vec<Skeleton>,
    /// Layers that are here as a whole, on top of skeletons.
    copies: Vec<Active>,
}

impl Stack {
    /// A stack without layers, and who asks for the contents of its files.
    pub fn new(snapshots: &Snapshots<'_>, asking: Asking) -> Stack {
        Stack {
            map: *snapshots.map(),
            asking,
            chain: None,
            dirs: vec![],
            open: vec![],
            skeletons: vec![],
            copies: vec![],
        }
    }

    /// Whether all layers so far are there as a whole.
    pub fn is_complete(&self) -> bool {
        self.skeletons.is_empty()
    }

    /// Puts a layer on top whose directory is there as a whole: in the store.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn push_complete(&mut self, snapshots: &Snapshots<'_>, layer: &LayerRef, dir: PathBuf) -> Result<(), Error> {
        self.open.extend(snapshots.opened(std::slice::from_ref(&dir))?);
        self.push(layer, dir);
        Ok(())
    }

    /// Puts a layer on top whose blob is in the store, where there are skeletons below: it is extracted for this stack alone.
    ///
    /// # Errors
    /// Those of [`Snapshots::ensure`].
    pub fn push_copy(&mut self, snapshots: &Snapshots<'_>, layer: &LayerRef) -> Result<(), Error> {
        let active = snapshots.extract(layer, &self.view())?;
        let dir = active.layer();
        self.open.push(Arc::new(Layer::open_finished(&dir)?));
        self.push(layer, dir);
        self.copies.push(active);
        Ok(())
    }

    /// Puts a skeleton on top; `size` is that of the layer's blob.
    ///
    /// # Errors
    /// The table tries what no layer may.
    pub fn push_skeleton(
        &mut self,
        snapshots: &Snapshots<'_>,
        layer: &LayerRef,
        size: u64,
        table: Table,
    ) -> Result<(), Error> {
        let chain = ChainId::child(self.chain, layer.diff_id);
        let made = Skeleton::make(snapshots.prepare_empty()?, (self.dirs.len(), chain, size), table, &self.view())?;
        let dir = made.dir();
        self.open.push(Arc::new(Layer::open_hollow(&dir, Arc::new(self.asking.clone()))?));
        self.push(layer, dir);
        self.skeletons.push(made);
        Ok(())
    }

    fn push(&mut self, layer: &LayerRef, dir: PathBuf) {
        self.chain = Some(ChainId::child(self.chain, layer.diff_id));
        self.dirs.push(dir);
    }

    /// The layer directories, lowest first.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The files, read without a mount.
    pub fn view(&self) -> Merged {
        Merged::of(self.open.clone(), &self.map)
    }

    /// Who asks.
    pub(super) fn asking(&self) -> &Asking {
        &self.asking
    }

    /// Whether a layer directory is a skeleton.
    pub(super) fn is_skeleton(&self, dir: &Path) -> bool {
        self.skeletons.iter().any(|skeleton| skeleton.dir() == dir)
    }

    /// The contents of the file of a skeleton that has this number.
    ///
    /// # Errors
    /// There is none, or its contents cannot be had.
    pub fn contents(&self, snapshots: &Snapshots<'_>, ino: u64, origin: &dyn Origin) -> io::Result<File> {
        // Numbers are given again: the last one that was made has it.
        let found = self.skeletons.iter().rev().find_map(|skeleton| Some((skeleton, skeleton.file(ino)?)));
        let (skeleton, file) = found.ok_or(io::ErrorKind::NotFound)?;
        if let Some(dir) = snapshots.find(skeleton.chain).map_err(io::Error::other)? {
            return file.in_complete(&dir);
        }
        if skeleton.is_worth_filling(file) {
            match skeleton.filled(ino, file, &|range| origin.part(skeleton.index, range)) {
                Ok(file) => return Ok(file),
                Err(e) => {
                    tracing::info!("waiting for a whole layer, since `{}` cannot be had: {e}", file.path.display())
                }
            }
        }
        file.in_complete(&origin.complete(skeleton.index, &file.path).ok_or(io::ErrorKind::NotFound)?)
    }

    /// Compares each skeleton with the complete layer of the same place in `dirs`; the answer is about the first that is not
    /// the same, with its place.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn compare(&self, dirs: &[PathBuf]) -> Result<Option<(usize, Verdict)>, Error> {
        let mut coarse = None;
        for skeleton in &self.skeletons {
            let Some(dir) = dirs.get(skeleton.index) else { continue };
            match skeleton.compare(dir)? {
                Verdict::Same => {}
                Verdict::CoarseTimes => coarse = Some((skeleton.index, Verdict::CoarseTimes)),
                other => return Ok(Some((skeleton.index, other))),
            }
        }
        Ok(coarse)
    }
}
