//! Local sockets whose addresses are paths.

use super::super::super::ids::{EXECUTE, Inherited, WRITE};
use super::super::walk::{Found, Last};
use super::super::{Answered, Call, Keeper, errno};
use super::{DONE, GO_ON};
use crate::sys::process;
use nix::sys::socket::{self, UnixAddr};
use rustix::fs::{AtFlags, Mode, chmodat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;

/// Size of `struct sockaddr_un`.
const ADDRESS_BYTES: usize = 110;

fn from_nix(e: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(e as i32)
}

impl Keeper {
    pub(in super::super) fn judged_bind(&self, call: &Call<'_>) -> Answered {
        let Some(path) = call.local_address()? else { return GO_ON };
        let who = self.credentials(call.pid);
        let (above, name) = match self.way(call, &who).walk(libc::AT_FDCWD, &path, Last::Name)? {
            Found::Name(_, _, true) => return Err(Errno::ISDIR),
            Found::Name(above, name, false) => (above, name),
            Found::File(_) | Found::Named(..) | Found::Special(_) => return Err(Errno::ADDRINUSE),
        };
        if self.look_at(&above, &name).is_ok() {
            return Err(Errno::ADDRINUSE);
        }
        above.may(&who, WRITE | EXECUTE)?;
        let socket = process::descriptor_of(self.group(call.pid), call.int(0)).map_err(errno)?;
        let Inherited { uid, gid, mode } = who.make_in(above.seen.attributes(), 0o777 & !self.umask(call.pid), false);
        rustix::process::fchdir(&above.fd)?;
        let address = UnixAddr::new(OsStr::from_bytes(&name)).map_err(from_nix)?;
        socket::bind(socket.as_raw_fd(), &address).map_err(from_nix)?;
        chmodat(&above.fd, OsStr::from_bytes(&name), Mode::from_raw_mode(mode & 0o777), AtFlags::empty())?;
        let made = self.see_in(&above.fd, &name)?;
        self.keep(&made.id, Inherited { uid, gid, mode }, None);
        DONE
    }

    /// The connection is the caller's own: the other side asks who it is with.
    pub(in super::super) fn judged_connect(&self, call: &Call<'_>) -> Answered {
        let Some(path) = call.local_address()? else { return GO_ON };
        let who = self.credentials(call.pid);
        self.way(call, &who).look(libc::AT_FDCWD, &path, true, false)?.may(&who, WRITE)?;
        GO_ON
    }
}

impl Call<'_> {
    /// The path that is the address of the second argument.
    fn local_address(&self) -> Result<Option<Vec<u8>>, Errno> {
        let length = usize::try_from(self.int(2)).unwrap_or(0);
        if !(3..=ADDRESS_BYTES).contains(&length) {
            return Ok(None);
        }
        let bytes = self.read(self.arg(1), length)?;
        let Some((family, name)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        if i32::from(u16::from_ne_bytes(*family)) != libc::AF_UNIX || name.first() == Some(&0) {
            return Ok(None);
        }
        let end = memchr::memchr(0, name).unwrap_or(name.len());
        Ok(name.get(..end).map(<[u8]>::to_vec))
    }
}
