//! What a step has mounted beyond what every container has: mounts and devices that it asks for, and covers.

use super::super::spec::{Device, Guard, Mount, MountKind};
use super::rootfs::{self, Root};
use super::{Context as _, Failure, Reporter, device};
use crate::archive::record::Records;
use crate::supervisor::owners::Owners;
use crate::sys::fs::{Missing, resolve};
use crate::sys::mount::{self, Attributes};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// A mount that the step asks for. `dev` is the file system of `/dev`, where files in memory are made.
pub(super) fn further(
    root: &Root,
    wanted: &Mount,
    kept: Option<&mut Owners>,
    dev: BorrowedFd<'_>,
    reporter: &mut Reporter,
) -> Result<(), Failure> {
    let what = || format!("cannot mount `{}`", wanted.target.display());
    match &wanted.kind {
        MountKind::Bind { source, inside, owner, guard } => {
            let from = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("cannot open `{}`", source.display()))?;
            if let (Some(kept), Some(owner)) = (kept, *owner) {
                kept.give(from.as_fd(), owner).context(what)?;
            }
            show(root, &wanted.target, from, inside, *guard, reporter)
        }
        MountKind::Tree { recorded, root: tree, inside, guard } => {
            let (top, _) =
                rootfs::open(tree).map_err(|f| Failure { message: format!("{}: {}", what(), f.message), ..f })?;
            if let Some(kept) = kept {
                kept.load(recorded, &Records::new(), top.as_fd()).context(what)?;
            }
            show(root, &wanted.target, top, inside, *guard, reporter)
        }
        MountKind::Secret { content, mode, uid, gid } => {
            let target = root.mount_point(&wanted.target, Missing::File, reporter)?;
            let owner = ((*uid, *gid) != (0, 0)).then_some((*uid, *gid));
            // The kernel knows no other id where owners are kept.
            let (owner, noted) = if kept.is_some() { (None, owner) } else { (owner, None) };
            let attributes = Attributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };
            let shown = device::Shown { content: content.bytes(), mode: *mode, owner, attributes };
            device::show_file(dev, &shown, target.as_fd()).map_err(|f| {
                let failure = Failure { message: format!("{}: {}", what(), f.message), ..f };
                match failure.errno {
                    libc::EINVAL => {
                        failure.hint("the id lies outside of the range that the pod has: use a smaller one")
                    }
                    _ => failure,
                }
            })?;
            if let (Some(kept), Some((uid, gid))) = (kept, noted) {
                let file = resolve(root.top(), &wanted.target).context(what)?;
                kept.give(file.as_fd(), (uid, gid)).context(what)?;
            }
            Ok(())
        }
        MountKind::Tmpfs { size, mode, guard } => {
            let target = root.mount_point(&wanted.target, Missing::Directory, reporter)?;
            let stat = statat(&target, "", AtFlags::EMPTY_PATH).context(what)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                let message = format!("cannot mount a tmpfs over `{}`: it is no directory", wanted.target.display());
                return Err(
                    Failure::new(message, libc::ENOTDIR).hint("mount it over a directory, such as the file's own")
                );
            }
            let mode = format!("{:o}", mode & 0o7777);
            let size = size.map(|bytes| bytes.to_string());
            let mut options = vec![("mode", mode.as_str())];
            options.extend(size.iter().map(|bytes| ("size", bytes.as_str())));
            let attributes = Attributes { no_suid: true, no_dev: true, ..attributes(*guard) };
            mount::new_filesystem("tmpfs", &options, attributes, target.as_fd()).context(what).map(drop)
        }
    }
}

/// Shows the file or directory at `inside` of the directory `from` at `target`; of a file `from`, the file itself.
fn show(
    root: &Root,
    target: &Path,
    from: OwnedFd,
    inside: &Path,
    guard: Guard,
    reporter: &mut Reporter,
) -> Result<(), Failure> {
    let what = || format!("cannot mount `{}`", target.display());
    // By descriptor and inside: whoever writes there at the same time cannot lead the mount out with a link.
    let from = match inside.as_os_str().is_empty() {
        true => from,
        false => {
            resolve(from.as_fd(), inside).context(|| format!("cannot mount `{}` of its source", inside.display()))?
        }
    };
    let stat = statat(&from, "", AtFlags::EMPTY_PATH).context(what)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let missing = if directory { Missing::Directory } else { Missing::File };
    let target = root.mount_point(target, missing, reporter)?;
    mount::bind(from.as_fd(), target.as_fd(), directory, attributes(guard)).context(what)
}

fn attributes(guard: Guard) -> Attributes {
    let Guard { read_only, no_suid, no_dev, no_exec } = guard;
    Attributes { read_only, no_suid, no_dev, no_exec }
}

/// A device of the pod: nodes cannot be made in a user namespace, so the pod's own is bound.
pub(super) fn device(root: &Root, wanted: &Device, reporter: &mut Reporter) -> Result<(), Failure> {
    let what = || format!("cannot show the device `{}`", wanted.source.display());
    let from = openat(CWD, &wanted.source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    show(root, &wanted.target, from, Path::new(""), Guard::default(), reporter)
}

/// Covers a path of the image, where it exists: a directory by an empty one, anything else by `/dev/null`.
pub(super) fn mask(root: &Root, path: &Path) -> Result<(), Failure> {
    let what = || format!("cannot cover `{}`", path.display());
    let place = match resolve(root.top(), path) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(()),
        other => other.context(what)?,
    };
    let stat = statat(&place, "", AtFlags::EMPTY_PATH).context(what)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let guarded = Attributes { read_only: true, no_suid: true, no_dev: true, no_exec: true };
        mount::new_filesystem("tmpfs", &[("mode", "0555"), ("size", "4k")], guarded, place.as_fd())
            .context(what)
            .map(drop)
    } else {
        mount::bind_at(CWD, OsStr::new("/dev/null"), place.as_fd(), false, Attributes::default()).context(what)
    }
}
