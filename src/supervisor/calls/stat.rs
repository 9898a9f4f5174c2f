//! stat(2), readlink(2), statfs(2) and their kin.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Held, Reply};
use crate::supervisor::attributes;
use crate::supervisor::look;
use crate::supervisor::proc::ProcPlace;
use crate::supervisor::view::name_of;
use rustix::fs::{AtFlags, Statx, StatxFlags, readlinkat as kernel_readlinkat, statx as kernel_statx};

const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();

pub(in crate::supervisor) fn unknown(_: &mut Call<'_>) -> Answer {
    Err(Errno::NOSYS)
}

pub(in crate::supervisor) fn stat(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let found = call.look(AT_FDCWD, &path, 0, look::MASK)?;
    call.give(&found, 1)
}

pub(in crate::supervisor) fn lstat(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let found = call.look(AT_FDCWD, &path, NOFOLLOW, look::MASK)?;
    call.give(&found, 1)
}

pub(in crate::supervisor) fn fstat(call: &mut Call<'_>) -> Answer {
    let found = call.look(call.int(0), b"", EMPTY_PATH, look::MASK)?;
    call.give(&found, 1)
}

pub(in crate::supervisor) fn newfstatat(call: &mut Call<'_>) -> Answer {
    let path = call.optional_path(1, call.uint(3))?;
    let found = call.look(call.int(0), &path, call.uint(3), look::MASK)?;
    call.give(&found, 2)
}

pub(in crate::supervisor) fn statx(call: &mut Call<'_>) -> Answer {
    let flags = call.uint(2);
    let path = call.optional_path(1, flags)?;
    let mask = StatxFlags::from_bits_retain(call.uint(3));
    if mask.bits() & 0x8000_0000 != 0 {
        return Err(Errno::INVAL);
    }
    let found = call.look(call.int(0), &path, flags, mask | look::MASK)?;
    call.write(call.arg(4), &attributes::encode_statx(&found))?;
    DONE
}

impl Call<'_> {
    /// A path that may be a null pointer where the call is about the descriptor.
    fn optional_path(&self, number: usize, flags: u32) -> Result<Vec<u8>, Errno> {
        if self.arg(number) == 0 && flags & EMPTY_PATH != 0 { Ok(Vec::new()) } else { self.path(number) }
    }

    /// What the step is to see of a file.
    fn look(&mut self, dirfd: i32, path: &[u8], flags: u32, mask: StatxFlags) -> Result<Statx, Errno> {
        if path.is_empty() && flags & EMPTY_PATH != 0 && dirfd != AT_FDCWD {
            return self.look_fd(dirfd, mask);
        }
        let path = if path.is_empty() && flags & EMPTY_PATH != 0 { b".".as_slice() } else { path };
        let start = self.start(dirfd, path)?;
        let mut place = self.world.walk(&start, path)?;
        loop {
            let in_proc = place.dir.proc;
            let (name, at): (&[u8], _) = if place.name.is_empty() {
                (b"", AtFlags::EMPTY_PATH)
            } else if (flags & NOFOLLOW == 0 || place.mounted) && matches!(in_proc, Some(ProcPlace::Descriptors(_))) {
                (&place.name, AtFlags::empty())
            } else {
                if in_proc.is_some() {
                    // Whether it is there for the step at all.
                    self.world.view.child(&place.dir, &place.name, self.tid)?;
                }
                (&place.name, AtFlags::SYMLINK_NOFOLLOW)
            };
            let mut found = kernel_statx(&place.dir, name_of(name), at, mask)?;
            if flags & NOFOLLOW == 0 && u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFLNK {
                match self.world.follow(&start, &place)? {
                    Some(next) => place = next,
                    None => return Err(Errno::LOOP),
                }
                continue;
            }
            if place.directory && u32::from(found.stx_mode) & libc::S_IFMT != libc::S_IFDIR {
                return Err(Errno::NOTDIR);
            }
            self.world.dress(&mut found, self.world.owned(place.dir.mount));
            return Ok(found);
        }
    }

    fn look_fd(&mut self, fd: i32, mask: StatxFlags) -> Result<Statx, Errno> {
        let (links, name) = self.link(fd)?;
        let mut found = match kernel_statx(&links, name, AtFlags::empty(), mask) {
            Err(Errno::NOENT) => return Err(Errno::BADF),
            other => other?,
        };
        if let Some(real) = self.world.view.stand_in_by_id(look::number(&found)) {
            found = kernel_statx(&real, "", AtFlags::EMPTY_PATH, mask)?;
        }
        // What is not of the step's tree (pipes, sockets, `/proc`) belongs to others as it says, and to the step where it is ours.
        self.world.dress(&mut found, false);
        Ok(found)
    }

    fn give(&self, found: &Statx, argument: usize) -> Answer {
        let bytes = match self.compat {
            false => attributes::encode_native(found),
            true if matches!(self.notification.number, 106..=108) => attributes::encode_compat_short(found),
            true => attributes::encode_compat(found),
        };
        self.write(self.arg(argument), &bytes)?;
        DONE
    }
}

pub(in crate::supervisor) fn readlink(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    call.read_link(AT_FDCWD, &path, 1)
}

pub(in crate::supervisor) fn readlinkat(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    call.read_link(call.int(0), &path, 2)
}

impl Call<'_> {
    fn read_link(&mut self, dirfd: i32, path: &[u8], buffer: usize) -> Answer {
        use crate::supervisor::view::Child;
        let size = self.int(buffer + 1);
        if size <= 0 {
            return Err(Errno::INVAL);
        }
        let target = if path.is_empty() && dirfd != AT_FDCWD {
            let Held { fd, .. } = self.hold_at(dirfd, path, EMPTY_PATH)?;
            kernel_readlinkat(&fd, "", Vec::new())?.into_bytes()
        } else {
            let (_, place) = self.place(dirfd, path, false)?;
            match place.dir.proc {
                _ if place.name.is_empty() => return Err(Errno::INVAL),
                None => kernel_readlinkat(&place.dir, name_of(&place.name), Vec::new())?.into_bytes(),
                Some(ProcPlace::Descriptors(_)) => {
                    let link = kernel_readlinkat(&place.dir, name_of(&place.name), Vec::new())?.into_bytes();
                    self.world.view.shown_link(link)
                }
                Some(_) => match self.world.view.child(&place.dir, &place.name, self.tid)? {
                    Child::Link(target) => target.to_vec(),
                    _ => return Err(Errno::INVAL),
                },
            }
        };
        let length = target.len().min(usize::try_from(size).unwrap_or(0));
        self.write(self.arg(buffer), target.get(..length).unwrap_or_default())?;
        Ok(Reply::Value(i64::try_from(length).unwrap_or(0)))
    }
}

pub(in crate::supervisor) fn statfs(call: &mut Call<'_>) -> Answer {
    let path = call.path(0)?;
    let held = call.hold_at(AT_FDCWD, &path, 0)?;
    let found = rustix::fs::fstatfs(&held.fd)?;
    // i386 has (path, size, buffer) for statfs64, and another layout.
    if call.compat {
        return Err(Errno::NOSYS);
    }
    call.write(call.arg(1), &crate::sys::fs::statfs_bytes(&found))?;
    DONE
}
