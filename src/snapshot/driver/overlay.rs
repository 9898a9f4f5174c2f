//! The overlay driver: layer directories stacked by the kernel's overlayfs, which the step's init mounts.

use super::{Driver, Prepared, Root, RootSpec};
use crate::archive::merged::FS;
use crate::snapshot::{Active, Error, Snapshots};
use std::path::Path;

/// The driver.
#[derive(Debug)]
pub struct Overlay;

#[derive(Debug)]
struct Stacked(Root);

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn prepare(&self, _: &Snapshots<'_>, wanted: &RootSpec<'_>) -> Result<Box<dyn Prepared>, Error> {
        let all = wanted.layers.iter().chain(wanted.extra);
        let lowers = all.map(|dir| dir.join(FS)).collect();
        let stub = wanted.stub.map(|dir| dir.join(FS));
        Ok(Box::new(Stacked(Root::Overlay { lowers, upper: wanted.top.upper(), work: wanted.top.work()?, stub })))
    }

    fn prepare_over(&self, _: &Snapshots<'_>, directory: &Path, top: &Active) -> Result<Box<dyn Prepared>, Error> {
        let lowers = vec![directory.to_owned()];
        Ok(Box::new(Stacked(Root::Overlay { lowers, upper: top.upper(), work: top.work()?, stub: None })))
    }
}

impl Prepared for Stacked {
    fn root(&self) -> Root {
        self.0.clone()
    }

    fn collect(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
