//! The overlay driver: layer directories stacked by the kernel's overlayfs, which the step's init mounts.

use super::{Driver, Prepared, Root, RootSpec};
use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::archive::{layer::FS, merged::Merged};
use crate::snapshot::{Active, Error, Snapshots};
use std::path::{Path, PathBuf};

/// The driver.
#[derive(Debug)]
pub struct Overlay;

#[derive(Debug)]
struct Stacked {
    root: Root,
    /// The layers below; `None` where they are none.
    lower: Option<Merged>,
    top: PathBuf,
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn prepare(&self, snapshots: &Snapshots<'_>, wanted: &RootSpec<'_>) -> Result<Box<dyn Prepared>, Error> {
        let all = wanted.layers.iter().chain(wanted.extra);
        let lowers = all.map(|dir| dir.join(FS)).collect();
        let stub = wanted.stub.map(|dir| dir.join(FS));
        let root = Root::Overlay { lowers, upper: wanted.top.upper(), work: wanted.top.work()?, stub };
        let lower = Some(snapshots.view(wanted.layers)?);
        Ok(Box::new(Stacked { root, lower, top: wanted.top.layer() }))
    }

    fn prepare_over(&self, _: &Snapshots<'_>, directory: &Path, top: &Active) -> Result<Box<dyn Prepared>, Error> {
        let lowers = vec![directory.to_owned()];
        let root = Root::Overlay { lowers, upper: top.upper(), work: top.work()?, stub: None };
        Ok(Box::new(Stacked { root, lower: None, top: top.layer() }))
    }
}

/// What is recorded of the files of layers, and of a top layer directory on them.
pub(super) fn stacked_records(lower: Option<&Merged>, top: &Path) -> Result<Records, Error> {
    let mut all = lower.map(Merged::records).transpose()?.unwrap_or_default();
    for (path, record) in Records::load(top)?.iter() {
        all.insert(path, record.clone());
    }
    Ok(all)
}

impl Prepared for Stacked {
    fn root(&self) -> Root {
        self.root.clone()
    }

    fn records(&self) -> Result<Records, Error> {
        stacked_records(self.lower.as_ref(), &self.top)
    }

    fn collect(self: Box<Self>, kept: Records, _: Option<&Touched>) -> Result<(), Error> {
        Ok(kept.save(&self.top)?)
    }
}
