//! Calls of processes that may not do everything with files: judged by owners and modes as the step sees them, and made
//! here.
//!
//! Arguments are read once. What was judged is held by a descriptor, and the call is made with that. What only the caller
//! itself can do goes on after it was judged; there a step that swaps a path at the right moment gets its working directory,
//! a connection or a descriptor that is only a place where it could not have gone. Files behind are judged again when they
//! are opened, and a program gets the rights of its file only once it is seen to be that file (`exec`).

mod exec;
mod look;
mod names;
mod open;
mod perms;
mod sockets;
mod xattr;

pub(super) use exec::Starting;

use super::super::ids::{Credentials, EXECUTE, Inherited, WRITE};
use super::super::times;
use super::place::LONGEST;
use super::walk::{Found, Held, Last, Look, Special, Way};
use super::{Answer, Answered, Call, Keeper};
use rustix::io::Errno;
use std::sync::Arc;

const DONE: Answered = Ok(Answer::Value(0));
const GO_ON: Answered = Ok(Answer::GoOn);

/// A name in a directory that may be searched.
struct Entry {
    above: Held,
    name: Vec<u8>,
    /// Whether a slash follows.
    slash: bool,
}

/// Where a file is to be made.
struct Spot {
    directory: Held,
    name: Vec<u8>,
    inherited: Inherited,
}

impl Keeper {
    fn way<'a>(&'a self, call: &'a Call<'a>, who: &'a Credentials) -> Way<'a> {
        Way { keeper: self, call, who, resolve: 0 }
    }

    /// The caller, and the file that a path of the caller's leads to.
    fn reach(
        &self,
        call: &Call<'_>,
        at: i32,
        address: u64,
        follow: bool,
        empty: bool,
    ) -> Result<(Arc<Credentials>, Held), Errno> {
        let who = self.credentials(call.pid);
        let path = call.path(address, empty)?;
        let file = self.way(call, &who).file(at, &path, follow, empty)?;
        Ok((who, file))
    }

    /// The same, only to look at it.
    fn glance(
        &self,
        call: &Call<'_>,
        at: i32,
        address: u64,
        follow: bool,
        empty: bool,
    ) -> Result<(Arc<Credentials>, Look), Errno> {
        let who = self.credentials(call.pid);
        let path = call.path(address, empty)?;
        let look = self.way(call, &who).look(at, &path, follow, empty)?;
        Ok((who, look))
    }

    /// The name that a path of the caller's ends with, whether there is such a file or not.
    fn entry(
        &self,
        call: &Call<'_>,
        who: &Credentials,
        at: i32,
        address: u64,
    ) -> Result<Result<Entry, Special>, Errno> {
        let path = call.path(address, false)?;
        match self.way(call, who).walk(at, &path, Last::Name)? {
            Found::Name(above, name, slash) => Ok(Ok(Entry { above, name, slash })),
            Found::Special(special) => Ok(Err(special)),
            Found::File(_) | Found::Named(..) => Err(Errno::NOENT),
        }
    }

    /// The name of a file that is to be made: errors in the kernel's order.
    fn spot(&self, call: &Call<'_>, at: i32, address: u64, mode: u32, directory: bool) -> Result<Spot, Errno> {
        let who = self.credentials(call.pid);
        let Ok(Entry { above, name, slash }) = self.entry(call, &who, at, address)? else { return Err(Errno::EXIST) };
        match self.look_at(&above, &name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) if slash && !directory => return Err(Errno::NOENT),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
        above.may(&who, WRITE | EXECUTE)?;
        let inherited = who.make_in(above.seen.attributes(), mode & !self.umask(call.pid), directory);
        Ok(Spot { directory: above, name, inherited })
    }
}

impl Call<'_> {
    /// A path of the caller's. With `empty` there may be no pointer.
    fn path(&self, address: u64, empty: bool) -> Result<Vec<u8>, Errno> {
        match (address, empty) {
            (0, true) => Ok(Vec::new()),
            _ => self.string(address, LONGEST),
        }
    }

    /// Words of the caller's, as long as its own unless they are `long`.
    fn words<const N: usize>(&self, address: u64, long: bool) -> Result<[i64; N], Errno> {
        let width = if self.compat && !long { 4 } else { 8 };
        Ok(times::words(&self.read(address, N * width)?, width))
    }
}
