//! The fuse driver: layer directories stacked by an overlay file system in user space, for stores on which the kernel mounts
//! none.
//!
//! Its server is a process beside the builder. The step's init opens `/dev/fuse` in its own namespaces, mounts it, and sends the
//! descriptor to the server's socket; with the step's mount namespace the mount goes, and with the mount the server. So
//! when the server has ended, everything is in the upper directory.

use super::overlay::stacked_records;
use super::{Driver, Prepared, Root, RootSpec};
use crate::archive::merged::Merged;
use crate::archive::plain::Touched;
use crate::archive::record::Records;
use crate::snapshot::fuse::{Layers, Lower, SOCKET, Server};
use crate::snapshot::{Active, Error, Snapshots, lazy};
use std::path::{Path, PathBuf};

/// The driver.
#[derive(Debug)]
pub struct Fuse;

#[derive(Debug)]
struct Served {
    root: Root,
    /// The layers below; `None` where they are none.
    lower: Option<Merged>,
    top: PathBuf,
    server: Server,
}

impl Driver for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn is_lazy(&self) -> bool {
        true
    }

    fn prepare(&self, snapshots: &Snapshots<'_>, wanted: &RootSpec<'_>) -> Result<Box<dyn Prepared>, Error> {
        let all = wanted.stub.into_iter().chain(wanted.layers.iter().chain(wanted.extra).map(|dir| &**dir));
        let kind = |dir: &Path| match wanted.lazy {
            Some(lazy) if lazy.is_skeleton(dir) => Lower::Skeleton(dir.to_owned()),
            _ => Lower::Layer(dir.to_owned()),
        };
        let mut lowers: Vec<Lower> = all.map(kind).collect();
        lowers.reverse();
        let view = match wanted.lazy {
            Some(lazy) => lazy.view(),
            None => snapshots.view(wanted.layers)?,
        };
        serve(lowers, Some(view), wanted.top, wanted.lazy.map(lazy::Stack::asking))
    }

    fn prepare_over(&self, _: &Snapshots<'_>, directory: &Path, top: &Active) -> Result<Box<dyn Prepared>, Error> {
        serve(vec![Lower::Directory(directory.to_owned())], None, top, None)
    }
}

fn serve(
    lowers: Vec<Lower>,
    lower: Option<Merged>,
    top: &Active,
    asking: Option<&lazy::Asking>,
) -> Result<Box<dyn Prepared>, Error> {
    let layers = Layers { lowers, upper: top.layer(), work: top.work()? };
    let place = top.mount_place()?;
    let socket = place.with_file_name(SOCKET);
    let server =
        Server::start(&layers, &socket, asking).map_err(Error::io("cannot serve a file system at", &socket))?;
    let root = Root::Fuse { place, socket, upper: top.upper() };
    Ok(Box::new(Served { root, lower, top: top.layer(), server }))
}

impl Prepared for Served {
    fn root(&self) -> Root {
        self.root.clone()
    }

    fn records(&self) -> Result<Records, Error> {
        stacked_records(self.lower.as_ref(), &self.top)
    }

    fn collect(self: Box<Self>, kept: Records, _: Option<&Touched>) -> Result<(), Error> {
        self.server.end().map_err(Error::Server)?;
        Ok(kept.save(&self.top)?)
    }
}
