//! The copy driver: every file that the layer directories show, in one directory of the step's own.
//!
//! A tree is made once for a stage. When the step is over, a scan tells what it changed (of everything, or of what a supervisor
//! of the step says that it may have touched), which is copied into the top layer directory; the tree then shows that layer as well, and the next step of the stage goes on with it. Where steps without
//! a root file system came in between (COPY), their layers are added to it first.

use super::{Driver, Links, Prepared, Root, RootSpec};
use crate::archive::plain::{Glance, Kept, Plain, Sharing, Touched};
use crate::archive::record::Records;
use crate::archive::{layer::Layer, merged::Merged};
use crate::snapshot::{Active, Error, Snapshots};
use crate::store::TempDir;
use rustix::fs::{IFlags, Mode, OFlags};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Trees that are kept for the next step of their stage.
const MOST_IDLE: usize = 4;

/// The driver.
#[derive(Debug)]
pub struct Copy;

/// A tree.
#[derive(Debug)]
pub(in crate::snapshot) struct Tree {
    plain: Plain,
    sharing: Sharing,
    /// Layer directories that it shows, lowest first, without the stub.
    layers: Vec<PathBuf>,
    stub: Option<PathBuf>,
    /// Paths that only the last step saw like this.
    stale: BTreeSet<PathBuf>,
    _dir: TempDir,
}

/// What a step leaves with the layer that it made: the tree that shows it.
pub(in crate::snapshot) type Slot = Arc<Mutex<Option<Left>>>;

/// A tree and how the top layer was when the tree was the same.
#[derive(Debug)]
pub(in crate::snapshot) struct Left {
    tree: Tree,
    top: Glance,
}

impl Left {
    /// The tree, now that its top layer is `published`.
    pub(in crate::snapshot) fn publish(self, published: PathBuf) -> Tree {
        let mut tree = self.tree;
        tree.layers.push(published);
        tree
    }
}

/// Trees that wait for their next step, the one that was used last at the end.
#[derive(Debug, Default)]
pub(in crate::snapshot) struct Idle(Mutex<Vec<Tree>>);

impl Idle {
    /// Keeps a tree.
    pub(in crate::snapshot) fn keep(&self, tree: Tree) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(tree);
        let oldest = (all.len() > MOST_IDLE).then(|| all.remove(0));
        drop(all);
        // Takes a while.
        drop(oldest);
    }

    /// The tree that shows most of `layers` and nothing else.
    fn take(&self, layers: &[PathBuf], stub: Option<&Path>, sharing: Sharing) -> Option<Tree> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |tree: &Tree| layers.starts_with(&tree.layers) && tree.stub.as_deref() == stub && tree.sharing == sharing;
        let best = all.iter().enumerate().filter(|(_, tree)| fits(tree)).max_by_key(|(_, tree)| tree.layers.len());
        best.map(|(index, _)| index).map(|index| all.remove(index))
    }
}

impl Driver for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn prepare(&self, snapshots: &Snapshots<'_>, wanted: &RootSpec<'_>) -> Result<Box<dyn Prepared>, Error> {
        let sharing = match wanted.links {
            Links::Own => Sharing::Never,
            Links::Broken => Sharing::Broken,
        };
        let lower = snapshots.view(wanted.layers)?;
        let base: Vec<PathBuf> =
            wanted.stub.iter().map(|dir| dir.to_path_buf()).chain(wanted.layers.to_vec()).collect();
        let mut shown = base.clone();
        shown.extend_from_slice(wanted.extra);
        let filled = !is_empty(&wanted.top.upper())?;
        let view = match filled {
            true => snapshots.view_with(&shown, wanted.top)?,
            false => snapshots.view(&shown)?,
        };
        let tree = match (wanted.part.as_os_str().is_empty(), filled) {
            (false, _) => None,
            (true, true) => left(wanted, sharing)?,
            (true, false) => snapshots.idle.take(wanted.layers, wanted.stub, sharing),
        };
        let mut tree = match tree {
            Some(mut tree) => {
                let known = tree.layers.len();
                for (index, layer) in wanted.layers.iter().enumerate().skip(known) {
                    let upto = base.len() - wanted.layers.len() + index + 1;
                    let view = snapshots.view(base.get(..upto).unwrap_or_default())?;
                    tree.plain.follow(layer, &view)?;
                }
                let mut paths = std::mem::take(&mut tree.stale);
                for layer in wanted.extra {
                    files(&snapshots.view(std::slice::from_ref(layer))?, &mut paths)?;
                }
                tree.plain.refresh(&paths, &view)?;
                tree
            }
            None => {
                let dir = snapshots.store.temp_dir("tree")?;
                spread(dir.path());
                let mut plain = Plain::create(&dir.path().join("root"), &snapshots.map, sharing)?;
                plain.fill(&view, wanted.part)?;
                let stub = wanted.stub.map(Path::to_owned);
                Tree { plain, sharing, layers: vec![], stub, stale: BTreeSet::new(), _dir: dir }
            }
        };
        tree.layers = wanted.layers.to_vec();
        for layer in wanted.extra {
            files(&snapshots.view(std::slice::from_ref(layer))?, &mut tree.stale)?;
        }
        tree.plain.settle()?;
        let (top, slot) = (wanted.top.layer(), wanted.top.slot.clone());
        Ok(Box::new(Copied { tree, lower, view, top, slot }))
    }

    fn prepare_over(
        &self,
        snapshots: &Snapshots<'_>,
        directory: &Path,
        _: &Active,
    ) -> Result<Box<dyn Prepared>, Error> {
        let view = Merged::of(vec![Arc::new(Layer::of_directory(directory)?)], &snapshots.map);
        let dir = snapshots.store.temp_dir("tree")?;
        let mut plain = Plain::create(&dir.path().join("root"), &snapshots.map, Sharing::Never)?;
        plain.fill(&view, Path::new(""))?;
        Ok(Box::new(Over { root: plain.root().to_owned(), _dir: dir }))
    }
}

/// The tree that an earlier step left with the same top layer, if nobody has changed that since.
fn left(wanted: &RootSpec<'_>, sharing: Sharing) -> Result<Option<Tree>, Error> {
    let left = wanted.top.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Left { tree, top }) = left else { return Ok(None) };
    let same = tree.layers == wanted.layers
        && tree.stub.as_deref() == wanted.stub
        && tree.sharing == sharing
        && Glance::at(&wanted.top.upper())? == top;
    Ok(same.then_some(tree))
}

/// Has ext4 put what is made in a directory far from it. Otherwise a tree lies where the last one was removed, and ext4 looks
/// at each number of an inode that it gave up lately before it takes another: that is most of what a tree costs then. Other file
/// systems do not know the flag.
fn spread(dir: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(dir, flags, Mode::empty()) else { return };
    if let Ok(known) = rustix::fs::ioctl_getflags(&dir) {
        let _ = rustix::fs::ioctl_setflags(&dir, known | IFlags::TOPDIR);
    }
}

fn is_empty(dir: &Path) -> Result<bool, Error> {
    let mut entries = std::fs::read_dir(dir).map_err(Error::io("cannot read directory", dir))?;
    Ok(entries.next().is_none())
}

/// Adds every file of a view that is no directory.
fn files(view: &Merged, all: &mut BTreeSet<PathBuf>) -> Result<(), Error> {
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        for (_, node) in view.read_dir(&dir)? {
            match node.is_dir() {
                true => todo.push(node.path),
                false => drop(all.insert(node.path)),
            }
        }
    }
    Ok(())
}

/// A tree that a step works in.
#[derive(Debug)]
struct Copied {
    tree: Tree,
    lower: Merged,
    /// All that the tree showed when the step began.
    view: Merged,
    top: PathBuf,
    slot: Slot,
}

impl Prepared for Copied {
    fn root(&self) -> Root {
        Root::Directory { path: self.tree.plain.root().to_owned() }
    }

    fn records(&self) -> Result<Records, Error> {
        Ok(self.view.records()?)
    }

    fn collect(mut self: Box<Self>, kept: Records, touched: Option<&Touched>) -> Result<(), Error> {
        let before = self.view.records()?;
        self.tree.plain.collect(&self.lower, &self.top, &Kept { before: &before, after: &kept }, touched)?;
        let top = Glance::at(&self.top.join(crate::archive::layer::FS))?;
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Left { tree: self.tree, top });
        Ok(())
    }
}

/// A copy of a directory of the machine.
#[derive(Debug)]
struct Over {
    root: PathBuf,
    _dir: TempDir,
}

impl Prepared for Over {
    fn root(&self) -> Root {
        Root::Directory { path: self.root.clone() }
    }

    fn records(&self) -> Result<Records, Error> {
        Ok(Records::new())
    }

    fn collect(self: Box<Self>, _: Records, _: Option<&Touched>) -> Result<(), Error> {
        Ok(())
    }
}
