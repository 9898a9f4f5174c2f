//! Owners, modes, times and sizes.

use super::super::super::ids::WRITE;
use super::super::super::times::{self, NOW, timestamps};
use super::super::walk::Held;
use super::super::{Answered, Call, Keeper};
use super::{Credentials, DONE};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps, chmodat, ftruncate, openat, utimensat};
use rustix::io::Errno;
use std::sync::Arc;

const HERE: i32 = libc::AT_FDCWD;

impl Keeper {
    pub(in super::super) fn judged_chmod(&self, call: &Call<'_>) -> Answered {
        let (who, file) = self.reach(call, HERE, call.arg(0), true, false)?;
        self.set_mode(&who, &file, call.word(1))
    }

    pub(in super::super) fn judged_fchmod(&self, call: &Call<'_>) -> Answered {
        let file = self.hold_descriptor(call, call.int(0))?;
        self.set_mode(&self.credentials(call.pid), &file, call.word(1))
    }

    pub(in super::super) fn judged_fchmodat(&self, call: &Call<'_>) -> Answered {
        let (who, file) = self.reach(call, call.int(0), call.arg(1), true, false)?;
        self.set_mode(&who, &file, call.word(2))
    }

    pub(in super::super) fn judged_fchmodat2(&self, call: &Call<'_>) -> Answered {
        let flags = known(call.int(3))?;
        let (who, file) = self.reach_with(call, call.int(0), call.arg(1), flags)?;
        self.set_mode(&who, &file, call.word(2))
    }

    fn reach_with(&self, call: &Call<'_>, at: i32, path: u64, flags: i32) -> Result<(Arc<Credentials>, Held), Errno> {
        self.reach(call, at, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0, flags & libc::AT_EMPTY_PATH != 0)
    }

    fn set_mode(&self, who: &Credentials, file: &Held, mode: u32) -> Answered {
        if file.kind() == FileType::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let mode = match file.law {
            Some(law) => who.chmod(law, mode)?,
            None => mode & 0o7777,
        };
        chmodat(&self.links, file.link(), Mode::from_raw_mode(mode), AtFlags::empty())?;
        DONE
    }

    pub(in super::super) fn judged_chown(&self, call: &Call<'_>) -> Answered {
        let (who, file) = self.reach(call, HERE, call.arg(0), true, false)?;
        self.give_held(&who, &file.fd, call, [1, 2])
    }

    pub(in super::super) fn judged_lchown(&self, call: &Call<'_>) -> Answered {
        let (who, file) = self.reach(call, HERE, call.arg(0), false, false)?;
        self.give_held(&who, &file.fd, call, [1, 2])
    }

    pub(in super::super) fn judged_fchownat(&self, call: &Call<'_>) -> Answered {
        let (who, file) = self.reach_with(call, call.int(0), call.arg(1), known(call.int(4))?)?;
        self.give_held(&who, &file.fd, call, [2, 3])
    }

    pub(in super::super) fn judged_utime(&self, call: &Call<'_>) -> Answered {
        let times = match call.arg(1) {
            0 => NOW,
            at => {
                let [access, modification] = call.words(at, false)?;
                timestamps((access, 0), (modification, 0))
            }
        };
        let (who, file) = self.reach(call, HERE, call.arg(0), true, false)?;
        self.set_times(&who, &file, &times)
    }

    pub(in super::super) fn judged_utimes(&self, call: &Call<'_>) -> Answered {
        let times = call.micro_times(call.arg(1))?;
        let (who, file) = self.reach(call, HERE, call.arg(0), true, false)?;
        self.set_times(&who, &file, &times)
    }

    pub(in super::super) fn judged_futimesat(&self, call: &Call<'_>) -> Answered {
        let times = call.micro_times(call.arg(2))?;
        let (who, file) = self.reach_or_descriptor(call, 0)?;
        self.set_times(&who, &file, &times)
    }

    pub(in super::super) fn judged_utimensat(&self, call: &Call<'_>) -> Answered {
        let times = match call.arg(2) {
            0 => NOW,
            at => {
                // The newer call of 32-bit programs has words of 64 bits.
                let long = call.is("utimensat_time64");
                let [access, nanoseconds, modification, others] = call.words(at, long)?;
                timestamps((access, nanoseconds), (modification, others))
            }
        };
        let (who, file) = self.reach_or_descriptor(call, known(call.int(3))?)?;
        self.set_times(&who, &file, &times)
    }

    /// Without a path the descriptor's own file is meant.
    fn reach_or_descriptor(&self, call: &Call<'_>, flags: i32) -> Result<(Arc<Credentials>, Held), Errno> {
        match call.arg(1) {
            0 => Ok((self.credentials(call.pid), self.hold_descriptor(call, call.int(0))?)),
            path => self.reach_with(call, call.int(0), path, flags),
        }
    }

    fn set_times(&self, who: &Credentials, file: &Held, times: &Timestamps) -> Answered {
        let nanoseconds = [times.last_access.tv_nsec, times.last_modification.tv_nsec];
        if let Some(law) = file.law
            && nanoseconds != [libc::UTIME_OMIT; 2]
        {
            who.may_set_times(law, nanoseconds == [libc::UTIME_NOW; 2])?;
        }
        // The link to a descriptor leads to the file itself, be it a link.
        utimensat(&self.links, file.link(), times, AtFlags::empty())?;
        DONE
    }

    pub(in super::super) fn judged_truncate(&self, call: &Call<'_>) -> Answered {
        let length = match call.compat && call.is("truncate64") {
            true => call.arg(1) & 0xffff_ffff | call.arg(2) << 32,
            false => call.arg(1),
        };
        if length.cast_signed() < 0 {
            return Err(Errno::INVAL);
        }
        let (who, file) = self.reach(call, HERE, call.arg(0), true, false)?;
        match file.kind() {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        file.may(&who, WRITE)?;
        let open = openat(&self.links, file.link(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        ftruncate(open, length)?;
        DONE
    }
}

/// Flags that these calls know.
fn known(flags: i32) -> Result<i32, Errno> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) == 0 { Ok(flags) } else { Err(Errno::INVAL) }
}

impl Call<'_> {
    fn micro_times(&self, address: u64) -> Result<Timestamps, Errno> {
        if address == 0 {
            return Ok(NOW);
        }
        times::of_microseconds(self.words(address, false)?)
    }
}
