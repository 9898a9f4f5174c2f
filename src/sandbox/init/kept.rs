//! What init keeps up for a step: owners of files and ids of processes where the pod has one id, device nodes everywhere.

use super::super::message::{Message, Order};
use super::super::spec;
use super::composed::Composed;
use super::rootfs::Root;
use super::{Context as _, Failure, Reporter};
use crate::supervisor::keeper::{self, Keeper};
use crate::supervisor::owners::Owners;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

/// The keeper of a step, and where its files are.
pub(super) struct Kept {
    pub(super) keeper: Arc<Keeper>,
    /// The step's own layer.
    names: OwnedFd,
    /// The root as the step sees it, without what is mounted in it.
    view: OwnedFd,
}

/// The owners of the files of the root. To be called before anything is mounted in it, which would hide files.
pub(super) fn load(order: &Order, root: &Root) -> Result<Owners, Failure> {
    let mut owners = Owners::new();
    let recorded = &order.step.recorded;
    // A directory holds all files itself: the numbers of those that a step removes are free.
    let own = match order.step.root {
        spec::Root::Overlay { .. } | spec::Root::Fuse { .. } => &recorded.own,
        spec::Root::Directory { .. } => &recorded.visible,
    };
    owners
        .load(&recorded.visible, own, root.top())
        .context(|| "cannot look up the files that have recorded owners".to_owned())?;
    Ok(owners)
}

/// Sets the keeper up once the root has become this process's.
pub(super) fn prepare(order: &Order, owners: Owners, root: Root, composed: Option<&Composed>) -> Result<Kept, Failure> {
    let what = || "cannot set up what keeps owners".to_owned();
    let step = &order.step;
    let held = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = match composed {
        Some(composed) => composed.real().context(what)?,
        None => openat(CWD, "/proc", held, Mode::empty()).context(what)?,
    };
    let own_root = openat(CWD, "/", held, Mode::empty()).context(what)?;
    let keeper = keeper::Step {
        kind: order.keeps,
        first: step.credentials(),
        owners,
        proc,
        root: own_root,
        shared: step.mounts.iter().filter_map(shared).collect(),
    };
    let keeper = Arc::new(Keeper::new(keeper).context(what)?);
    let (names, view) = root.into_parts();
    Ok(Kept { keeper, names, view })
}

/// The number of a mount that can be written and that others write as well: a cache or a volume.
fn shared(mount: &spec::Mount) -> Option<u64> {
    let spec::MountKind::Bind { guard, .. } = &mount.kind else { return None };
    if guard.read_only {
        return None;
    }
    let found = statx(CWD, &mount.target, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id)
}

impl Kept {
    /// Tells the builder what is to be recorded. Nothing of the step may be alive.
    pub(super) fn report(&self, reporter: &mut Reporter) -> Result<(), Failure> {
        let records = self
            .keeper
            .records(self.names.as_fd(), self.view.as_fd())
            .context(|| "cannot look up the files that the step made".to_owned())?;
        reporter.send(&Message::Records(records));
        Ok(())
    }
}
