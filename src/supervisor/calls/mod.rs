//! The calls that the supervisor makes in the place of a step's processes.
//!
//! A handler reads the arguments once, from registers and memory of the caller, and never looks at that memory again: what
//! it judged is what it does. It answers a value, an error, a descriptor, or that the kernel may make the call, which only
//! calls without pointers are allowed.

mod change;
mod directory;
mod ids;
mod offline;
mod open;
mod other;
mod perms;
mod sockets;
mod stat;
mod xattr;

use super::ids::{Attributes, Credentials, EXECUTE};
use super::look;
use super::proc::ProcPlace;
use super::view::{Dir, host_path, name_of};
use super::walk::{PATH_BYTES, Place, Start};
use super::{Errno, World};
use crate::sys::remote;
use crate::sys::seccomp::{Listener, Notification};
use rustix::fs::{Mode, OFlags, Statx, openat, readlinkat};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

pub(super) use other::{PRCTL_OPTIONS, fcntl, prctl};
pub(super) use sockets::{Network, Sockets, listen, socket, socketpair};

/// How a call is answered.
pub(super) enum Reply {
    /// With this value.
    Value(i64),
    /// With this descriptor, closed on exec or not.
    Descriptor(OwnedFd, bool),
    /// The kernel makes it.
    GoOn,
    /// It may take long: this is run on a thread of its own, and answers what `Descriptor` holds.
    Later(Box<dyn FnOnce() -> Result<Reply, Errno> + Send>),
}

/// What a handler answers.
pub(super) type Answer = Result<Reply, Errno>;

/// Makes a call in the place of its caller.
pub(super) type Handler = fn(&mut Call<'_>) -> Answer;

/// A call that waits.
pub(super) struct Call<'a> {
    pub(super) world: &'a mut World,
    pub(super) listener: &'a Listener,
    pub(super) notification: &'a Notification,
    /// The calling thread.
    pub(super) tid: i32,
    /// Whether a 32-bit program makes it.
    pub(super) compat: bool,
}

const DONE: Answer = Ok(Reply::Value(0));
const AT_FDCWD: i32 = libc::AT_FDCWD;

impl Call<'_> {
    /// An argument.
    pub(super) fn arg(&self, number: usize) -> u64 {
        let value = self.notification.args.get(number).copied().unwrap_or(0);
        if self.compat { value & 0xffff_ffff } else { value }
    }

    /// An argument that the kernel takes as `int`.
    pub(super) fn int(&self, number: usize) -> i32 {
        ((self.arg(number) & 0xffff_ffff) as u32).cast_signed()
    }

    /// An argument that the kernel takes as `unsigned int`.
    pub(super) fn uint(&self, number: usize) -> u32 {
        (self.arg(number) & 0xffff_ffff) as u32
    }

    /// A path of the caller's.
    pub(super) fn path(&self, number: usize) -> Result<Vec<u8>, Errno> {
        self.string(self.arg(number), PATH_BYTES)
    }

    /// A string of the caller's.
    pub(super) fn string(&self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        remote::read_string(self.tid, address, limit).map_err(errno)
    }

    /// Memory of the caller's.
    pub(super) fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        remote::read_exact(self.tid, address, &mut bytes).map_err(errno)?;
        Ok(bytes)
    }

    /// Writes into the caller's memory.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        remote::write(self.tid, address, bytes).map_err(errno)
    }

    /// Who the caller is.
    pub(super) fn who(&self) -> Result<Arc<Credentials>, Errno> {
        self.world.view.tasks.credentials(self.tid).ok_or(Errno::SRCH)
    }

    /// Where paths of the caller's start that are relative to a descriptor.
    pub(super) fn start(&mut self, dirfd: i32, path: &[u8]) -> Result<Start, Errno> {
        let around = self.world.view.tasks.surroundings(self.tid).ok_or(Errno::SRCH)?;
        let root = around.root;
        let base = if path.first() == Some(&b'/') {
            Arc::clone(&root)
        } else if dirfd == AT_FDCWD {
            self.world.view.refresh(&around.cwd)
        } else {
            self.directory(dirfd)?
        };
        let who = Some(self.who()?);
        Ok(Start { root, base, tid: self.tid, who, no_links: false })
    }

    /// The directory of the tree behind a descriptor of the caller's.
    pub(super) fn directory(&mut self, fd: i32) -> Result<Arc<Dir>, Errno> {
        let host = self.link_of(fd)?;
        if host.first() != Some(&b'/') {
            return Err(Errno::NOTDIR);
        }
        match self.world.view.at_host_path(&host, self.tid) {
            Ok(dir) => Ok(dir),
            // A stand-in, or one that was removed.
            Err(e) => match self.world.view.stand_in(&host) {
                Some(dir) => Ok(dir),
                None if host.ends_with(b" (deleted)") => Err(Errno::NOENT),
                None => Err(e),
            },
        }
    }

    /// What the kernel says that a descriptor of the caller's is.
    pub(super) fn link_of(&mut self, fd: i32) -> Result<Vec<u8>, Errno> {
        let (links, name) = self.link(fd)?;
        match readlinkat(&links, name, Vec::new()) {
            Ok(link) => Ok(link.into_bytes()),
            Err(Errno::NOENT) => Err(Errno::BADF),
            Err(e) => Err(e),
        }
    }

    /// The link to a descriptor of the caller's: the directory that it is in, and its name.
    pub(super) fn link(&mut self, fd: i32) -> Result<(Arc<OwnedFd>, String), Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        Ok((self.world.view.tasks.descriptors(self.tid)?, fd.to_string()))
    }

    /// The place that a path argument names; `follow`: what a link there leads to.
    pub(super) fn place(&mut self, dirfd: i32, path: &[u8], follow: bool) -> Result<(Start, Place), Errno> {
        let start = self.start(dirfd, path)?;
        let mut place = self.world.walk(&start, path)?;
        if follow {
            while let Some(next) = self.world.follow(&start, &place)? {
                place = next;
            }
        }
        Ok((start, place))
    }

    /// As [`Call::place`], for a name that is going to be made, removed or moved.
    pub(super) fn entry(&mut self, dirfd: i32, path: &[u8]) -> Result<(Arc<Dir>, Vec<u8>, bool), Errno> {
        let (_, place) = self.place(dirfd, path, false)?;
        let directory = place.directory;
        if place.mounted {
            return Err(Errno::BUSY);
        }
        if place.dir.proc.is_some() {
            return Err(if place.name.is_empty() { Errno::BUSY } else { Errno::PERM });
        }
        let (dir, name) = place.by_name().ok_or(Errno::BUSY)?;
        if self.world.view.mounted(&dir, &name).is_some() {
            return Err(Errno::BUSY);
        }
        self.writable(&dir)?;
        self.world.may_in(&*self.who()?, &dir, EXECUTE)?;
        self.world.touched.names_in(dir.id.1);
        // What is there loses a name.
        match look::look(&dir, &name) {
            Ok(found) => self.world.touched.file(found.stx_ino),
            Err(Errno::NOENT) => {}
            Err(_) => self.world.touched.anything(),
        }
        Ok((dir, name, directory))
    }

    /// Fails where the tree cannot be changed.
    pub(super) fn writable(&self, dir: &Dir) -> Result<(), Errno> {
        let read_only = self.world.view.mounts.get(dir.mount).is_none_or(|m| m.read_only);
        if read_only || dir.proc.is_some() { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Opens the file at a place for nothing but to be looked at or changed as such. A link there is not followed.
    pub(super) fn hold(&self, place: &Place) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match place.dir.proc {
            Some(ProcPlace::Descriptors(_)) if !place.name.is_empty() => {
                openat(&place.dir, name_of(&place.name), flags, Mode::empty())
            }
            _ => {
                let name: &[u8] = if place.name.is_empty() { b"." } else { &place.name };
                openat(&place.dir, name_of(name), flags | OFlags::NOFOLLOW, Mode::empty())
            }
        }
    }

    /// A file of the caller's by its descriptor.
    pub(super) fn hold_fd(&mut self, fd: i32) -> Result<OwnedFd, Errno> {
        let (links, name) = self.link(fd)?;
        let held = match openat(&links, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT) => return Err(Errno::BADF),
            other => other?,
        };
        match self.world.view.stand_in_of(held.as_fd()) {
            Some(real) => Ok(real),
            None => Ok(held),
        }
    }

    /// What `dirfd` and `path` name, with the empty path meaning `dirfd` itself where `flags` have AT_EMPTY_PATH.
    pub(super) fn hold_at(&mut self, dirfd: i32, path: &[u8], flags: u32) -> Result<Held, Errno> {
        if path.is_empty() && flags & libc::AT_EMPTY_PATH.cast_unsigned() != 0 && dirfd != AT_FDCWD {
            let fd = self.hold_fd(dirfd)?;
            return Ok(self.held(fd));
        }
        let path =
            if path.is_empty() && flags & libc::AT_EMPTY_PATH.cast_unsigned() != 0 { b".".as_slice() } else { path };
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
        let (_, place) = self.place(dirfd, path, follow)?;
        let fd = self.hold(&place)?;
        // The link of a descriptor leads to whatever that is.
        if follow
            && !place.mounted
            && !place.name.is_empty()
            && matches!(place.dir.proc, Some(ProcPlace::Descriptors(_)))
        {
            let fd = self.world.view.stand_in_of(fd.as_fd()).unwrap_or(fd);
            return Ok(self.held(fd));
        }
        Ok(Held { fd, mount: Some(place.dir.mount), in_proc: place.dir.proc.is_some() })
    }
}

impl Call<'_> {
    fn held(&self, fd: OwnedFd) -> Held {
        let view = &self.world.view;
        let mount = host_path(fd.as_fd()).ok().and_then(|host| view.path_of(&host)).map(|(m, _)| m);
        let in_proc = mount.and_then(|m| view.mounts.get(m)).is_some_and(|m| m.is_proc());
        Held { fd, mount, in_proc }
    }
}

/// A file that is held, and which mount it is of, where it is in the tree.
pub(super) struct Held {
    pub(super) fd: OwnedFd,
    pub(super) mount: Option<usize>,
    pub(super) in_proc: bool,
}

impl Held {
    /// A path by which the kernel finds the file itself, for calls that take no descriptor without a file behind it.
    pub(super) fn by_link(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// The name of that link in the directory of this process's.
    pub(super) fn name(&self) -> String {
        use std::os::fd::AsRawFd as _;
        self.fd.as_raw_fd().to_string()
    }

    /// Which file it is, and its kind and mode on disk.
    pub(super) fn look(&self) -> Result<Statx, Errno> {
        look::look_at(&self.fd)
    }

    /// It is about to be changed: fails where that cannot be.
    fn change(&self, world: &mut World) -> Result<(), Errno> {
        let read_only = self.mount.and_then(|m| world.view.mounts.get(m)).is_some_and(|m| m.read_only);
        if read_only || self.in_proc {
            return Err(Errno::ROFS);
        }
        world.touched.file(self.look()?.stx_ino);
        Ok(())
    }

    /// Whether owner and mode are the step's to decide.
    fn owned(&self, world: &World) -> bool {
        self.mount.is_some_and(|m| world.owned(m))
    }

    /// Owner and mode as the step sees them.
    fn seen(&self, world: &World, found: &Statx) -> Attributes {
        let mut seen = *found;
        world.dress(&mut seen, self.owned(world));
        look::attributes(&seen)
    }
}

/// The error of a call on memory.
pub(super) fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// Who answers calls that only some steps have answered.
pub(super) const OFFLINE: [(&str, Handler); 5] = [
    ("getsockname", offline::getsockname),
    ("sendmmsg", offline::sendmsg),
    ("sendmsg", offline::sendmsg),
    ("sendto", offline::sendto),
    ("setsockopt", offline::setsockopt),
];

/// Who answers which call.
pub(super) const HANDLERS: [(&str, Handler); 127] = [
    ("access", perms::access),
    ("bind", sockets::bind),
    ("capget", ids::capget),
    ("capset", ids::capset),
    ("chdir", directory::chdir),
    ("chmod", perms::chmod),
    ("chown", perms::chown),
    ("chown32", perms::chown),
    ("chroot", directory::chroot),
    ("connect", sockets::connect),
    ("creat", open::creat),
    ("faccessat", perms::faccessat),
    ("faccessat2", perms::faccessat),
    ("fchdir", directory::fchdir),
    ("fchmod", perms::fchmod),
    ("fchmodat", perms::fchmodat),
    ("fchmodat2", perms::fchmodat2),
    ("fchown", perms::fchown),
    ("fchown32", perms::fchown),
    ("fchownat", perms::fchownat),
    ("fgetxattr", xattr::fgetxattr),
    ("flistxattr", xattr::flistxattr),
    ("fremovexattr", xattr::fremovexattr),
    ("fsetxattr", xattr::fsetxattr),
    ("fstat", stat::fstat),
    ("fstat64", stat::fstat),
    ("fstatat64", stat::newfstatat),
    ("futimesat", perms::futimesat),
    ("getcwd", directory::getcwd),
    ("getegid", ids::getegid),
    ("getegid32", ids::getegid),
    ("geteuid", ids::geteuid),
    ("geteuid32", ids::geteuid),
    ("getgid", ids::getgid),
    ("getgid32", ids::getgid),
    ("getgroups", ids::getgroups),
    ("getgroups32", ids::getgroups),
    ("getresgid", ids::getresgid),
    ("getresgid32", ids::getresgid),
    ("getresuid", ids::getresuid),
    ("getresuid32", ids::getresuid),
    ("getuid", ids::getuid),
    ("getuid32", ids::getuid),
    ("getxattr", xattr::getxattr),
    ("inotify_add_watch", other::inotify_add_watch),
    ("ioprio_set", other::ioprio_set),
    ("kill", other::kill),
    ("lchown", perms::lchown),
    ("lchown32", perms::lchown),
    ("lgetxattr", xattr::lgetxattr),
    ("link", change::link),
    ("linkat", change::linkat),
    ("listxattr", xattr::listxattr),
    ("llistxattr", xattr::llistxattr),
    ("lremovexattr", xattr::lremovexattr),
    ("lsetxattr", xattr::lsetxattr),
    ("lstat", stat::lstat),
    ("lstat64", stat::lstat),
    ("migrate_pages", other::on_process),
    ("mkdir", change::mkdir),
    ("mkdirat", change::mkdirat),
    ("mknod", change::mknod),
    ("mknodat", change::mknodat),
    ("move_pages", other::on_process),
    ("newfstatat", stat::newfstatat),
    ("oldfstat", stat::unknown),
    ("oldlstat", stat::unknown),
    ("oldstat", stat::unknown),
    ("open", open::open),
    ("openat", open::openat),
    ("openat2", open::openat2),
    ("pidfd_open", other::on_process),
    ("pidfd_send_signal", other::pidfd_send_signal),
    ("prlimit64", other::on_process),
    ("readlink", stat::readlink),
    ("readlinkat", stat::readlinkat),
    ("removexattr", xattr::removexattr),
    ("rename", change::rename),
    ("renameat", change::renameat),
    ("renameat2", change::renameat2),
    ("rmdir", change::rmdir),
    ("rt_sigqueueinfo", other::kill),
    ("rt_tgsigqueueinfo", other::kill),
    ("sched_setaffinity", other::on_process),
    ("sched_setattr", other::on_process),
    ("sched_setparam", other::on_process),
    ("sched_setscheduler", other::on_process),
    ("setfsgid", ids::setfsgid),
    ("setfsgid32", ids::setfsgid),
    ("setfsuid", ids::setfsuid),
    ("setfsuid32", ids::setfsuid),
    ("setgid", ids::setgid),
    ("setgid32", ids::setgid),
    ("setgroups", ids::setgroups),
    ("setgroups32", ids::setgroups),
    ("setpriority", other::setpriority),
    ("setregid", ids::setregid),
    ("setregid32", ids::setregid),
    ("setresgid", ids::setresgid),
    ("setresgid32", ids::setresgid),
    ("setresuid", ids::setresuid),
    ("setresuid32", ids::setresuid),
    ("setreuid", ids::setreuid),
    ("setreuid32", ids::setreuid),
    ("setuid", ids::setuid),
    ("setuid32", ids::setuid),
    ("setxattr", xattr::setxattr),
    ("stat", stat::stat),
    ("stat64", stat::stat),
    ("statfs", stat::statfs),
    ("statfs64", stat::statfs),
    ("statx", stat::statx),
    ("symlink", change::symlink),
    ("symlinkat", change::symlinkat),
    ("tgkill", other::kill),
    ("tkill", other::kill),
    ("truncate", perms::truncate),
    ("truncate64", perms::truncate),
    ("umask", directory::umask),
    ("uname", other::uname),
    ("unlink", change::unlink),
    ("unlinkat", change::unlinkat),
    ("unshare", other::unshare),
    ("utime", perms::utime),
    ("utimensat", perms::utimensat),
    ("utimensat_time64", perms::utimensat),
    ("utimes", perms::utimes),
];
