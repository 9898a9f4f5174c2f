//! Calls that only look at files, or go to directories.

use super::super::super::ids::{EXECUTE, WRITE};
use super::super::files::Layout;
use super::super::walk::{Found, Last, Look, Target};
use super::super::{Answer, Answered, Call, Keeper};
use super::{DONE, GO_ON};
use rustix::fs::{Access, AtFlags, FileType, accessat, readlinkat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

const HERE: i32 = libc::AT_FDCWD;

impl Keeper {
    pub(in super::super) fn judged_stat(&self, call: &Call<'_>) -> Answered {
        self.show_judged(call, HERE, call.arg(0), 0, call.arg(1), self.layout(call))
    }

    pub(in super::super) fn judged_lstat(&self, call: &Call<'_>) -> Answered {
        self.show_judged(call, HERE, call.arg(0), libc::AT_SYMLINK_NOFOLLOW, call.arg(1), self.layout(call))
    }

    pub(in super::super) fn judged_fstatat(&self, call: &Call<'_>) -> Answered {
        self.show_judged(call, call.int(0), call.arg(1), call.int(3), call.arg(2), self.layout(call))
    }

    pub(in super::super) fn judged_statx(&self, call: &Call<'_>) -> Answered {
        self.show_judged(call, call.int(0), call.arg(1), call.int(2), call.arg(4), Layout::Extended)
    }

    fn show_judged(&self, call: &Call<'_>, at: i32, path: u64, flags: i32, to: u64, layout: Layout) -> Answered {
        let (_, file) = self.look_for(call, at, path, flags)?;
        call.write(to, &layout.encode(self.kind, &file.seen))?;
        DONE
    }

    fn look_for(
        &self,
        call: &Call<'_>,
        at: i32,
        path: u64,
        flags: i32,
    ) -> Result<(Arc<super::Credentials>, Look), Errno> {
        self.glance(call, at, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0)
    }

    pub(in super::super) fn judged_access(&self, call: &Call<'_>) -> Answered {
        self.access_judged(call, HERE, call.arg(0), call.word(1), 0)
    }

    pub(in super::super) fn judged_faccessat(&self, call: &Call<'_>) -> Answered {
        // It has no flags.
        self.access_judged(call, call.int(0), call.arg(1), call.word(2), 0)
    }

    pub(in super::super) fn judged_faccessat2(&self, call: &Call<'_>) -> Answered {
        self.access_judged(call, call.int(0), call.arg(1), call.word(2), call.int(3))
    }

    fn access_judged(&self, call: &Call<'_>, at: i32, path: u64, wanted: u32, flags: i32) -> Answered {
        if wanted & !7 != 0 {
            return Err(Errno::INVAL);
        }
        let mut who = self.credentials(call.pid);
        if flags & libc::AT_EACCESS == 0 {
            // The way, too, is the real user's.
            who = Arc::new(who.as_real());
        }
        let empty = flags & libc::AT_EMPTY_PATH != 0;
        let path = call.path(path, empty)?;
        let way = self.way(call, &who);
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        if wanted & (WRITE | EXECUTE) == 0 {
            way.look(at, &path, follow, empty)?.may(&who, wanted)?;
            return DONE;
        }
        let file = way.file(at, &path, follow, empty)?;
        file.may(&who, wanted)?;
        // What a mount forbids.
        accessat(&self.links, file.link(), Access::from_bits_retain(wanted), AtFlags::empty())?;
        DONE
    }

    pub(in super::super) fn judged_readlink(&self, call: &Call<'_>) -> Answered {
        self.read_link(call, HERE, 0)
    }

    pub(in super::super) fn judged_readlinkat(&self, call: &Call<'_>) -> Answered {
        self.read_link(call, call.int(0), 1)
    }

    fn read_link(&self, call: &Call<'_>, at: i32, first: usize) -> Answered {
        let size = usize::try_from(call.int(first + 2)).ok().filter(|size| *size > 0).ok_or(Errno::INVAL)?;
        let who = self.credentials(call.pid);
        let path = call.path(call.arg(first), false)?;
        if path.is_empty() && at != HERE {
            // The link that a descriptor is.
            return GO_ON;
        }
        let way = self.way(call, &who);
        let target = match way.walk(at, &path, Last::Name)? {
            Found::Name(above, name, slash) => {
                let link = self.look_at(&above, &name)?;
                if link.kind() != FileType::Symlink || slash {
                    return Err(if slash && !link.is_directory() { Errno::NOTDIR } else { Errno::INVAL });
                }
                match self.target(call, &above, &name, &link)? {
                    Target::Path(target) => target,
                    Target::Magic(process) => {
                        self.same_user(call, &who, process)?;
                        readlinkat(&above.fd, OsStr::from_bytes(&name), Vec::new())?.into_bytes()
                    }
                }
            }
            Found::File(_) | Found::Named(..) | Found::Special(_) => return Err(Errno::INVAL),
        };
        let target = target.get(..size.min(target.len())).unwrap_or_default();
        call.write(call.arg(first + 1), target)?;
        Ok(Answer::Value(i64::try_from(target.len()).unwrap_or(0)))
    }

    pub(in super::super) fn judged_statfs(&self, call: &Call<'_>) -> Answered {
        self.glance(call, HERE, call.arg(0), true, false)?;
        GO_ON
    }

    pub(in super::super) fn judged_chdir(&self, call: &Call<'_>) -> Answered {
        self.enter(&self.glance(call, HERE, call.arg(0), true, false)?)
    }

    pub(in super::super) fn judged_fchdir(&self, call: &Call<'_>) -> Answered {
        self.enter(&(self.credentials(call.pid), Look::clone(&*self.hold_descriptor(call, call.int(0))?)))
    }

    pub(in super::super) fn judged_chroot(&self, call: &Call<'_>) -> Answered {
        self.enter(&self.glance(call, HERE, call.arg(0), true, false)?)?;
        self.chroot(call)
    }

    fn enter(&self, (who, directory): &(Arc<super::Credentials>, Look)) -> Answered {
        if !directory.is_directory() {
            return Err(Errno::NOTDIR);
        }
        directory.may(who, EXECUTE)?;
        GO_ON
    }
}
