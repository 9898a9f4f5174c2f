//! Working directory, root directory and umask: kept by the supervisor, since the kernel's own are elsewhere.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Reply};
use crate::supervisor::ids::{EXECUTE, cap};
use crate::supervisor::view::Dir;
use crate::supervisor::walk::Place;
use std::sync::Arc;

pub(in crate::supervisor) fn chdir(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let dir = call.named_directory(&path)?;
    call.world.view.tasks.change(call.tid, |around| around.cwd = dir);
    DONE
}

pub(in crate::supervisor) fn fchdir(call: &mut Call<'_>) -> Answer {
    let dir = call.directory(call.int(0))?;
    call.world.may_in(&*call.who()?, &dir, EXECUTE)?;
    call.world.view.tasks.change(call.tid, |around| around.cwd = dir);
    DONE
}

pub(in crate::supervisor) fn chroot(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let dir = call.named_directory(&path)?;
    if !call.who()?.can(cap::SYS_CHROOT) {
        return Err(Errno::PERM);
    }
    call.world.view.tasks.change(call.tid, |around| around.root = dir);
    DONE
}

impl Call<'_> {
    fn named_directory(&mut self, path: &[u8]) -> Result<Arc<Dir>, Errno> {
        let (start, place) = self.place(AT_FDCWD, path, true)?;
        let dir = self.as_directory(&start, place)?;
        self.world.may_in(&*self.who()?, &dir, EXECUTE)?;
        Ok(dir)
    }

    /// The directory at a place.
    pub(super) fn as_directory(&mut self, start: &super::Start, place: Place) -> Result<Arc<Dir>, Errno> {
        if place.name.is_empty() {
            return Ok(place.dir);
        }
        use crate::supervisor::view::Child;
        match self.world.view.child(&place.dir, &place.name, start.tid)? {
            Child::Dir(dir) => Ok(dir),
            Child::Link(_) | Child::File(..) | Child::Other => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn umask(&self) -> u32 {
        self.world.view.tasks.surroundings(self.tid).map_or(0o022, |around| around.umask)
    }
}

pub(in crate::supervisor) fn getcwd(call: &mut Call<'_>) -> Answer {
    let around = call.world.view.tasks.surroundings(call.tid).ok_or(Errno::SRCH)?;
    let cwd = call.world.view.refresh(&around.cwd);
    if rustix::fs::statat(&cwd, "", rustix::fs::AtFlags::EMPTY_PATH).is_ok_and(|s| s.st_nlink == 0) {
        return Err(Errno::NOENT);
    }
    let mut path = cwd.path();
    let root = around.root.path();
    if root != b"/" {
        // Below a changed root its path is not part of it.
        if let Some(rest) = path.strip_prefix(root.as_slice()) {
            path = if rest.is_empty() { b"/".to_vec() } else { rest.to_vec() };
        }
    }
    path.push(0);
    if path.len() as u64 > call.arg(1) {
        return Err(Errno::RANGE);
    }
    call.write(call.arg(0), &path)?;
    Ok(Reply::Value(i64::try_from(path.len()).unwrap_or(0)))
}

pub(in crate::supervisor) fn umask(call: &mut Call<'_>) -> Answer {
    let new = call.uint(0) & 0o777;
    let old = call.world.view.tasks.change(call.tid, |around| std::mem::replace(&mut around.umask, new));
    Ok(Reply::Value(old.unwrap_or(0o022).into()))
}
