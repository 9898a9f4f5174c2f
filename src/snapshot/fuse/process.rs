//! The server's process, and the mount that it serves.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::UnmountFlags;
use rustix::thread::UnshareFlags;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::{Layers, Lower, serve};
use crate::snapshot::lazy::Asking;
use crate::sys::process::{self, Fork, Spawn, Spawned, fork, spawn};
use crate::sys::{caps, mount, rlimit};

/// The name by which the server knows itself.
const NAME: &str = "rbuild-fuse";
/// Descriptor of the server on which mounts are sent to it.
const LISTENER_FD: i32 = 3;
/// Descriptor of the server by which it asks for the contents of skeletons' files, if there are any.
const ASKING_FD: i32 = 4;
/// Name of the socket.
pub(in crate::snapshot) const SOCKET: &str = "fuse.socket";
/// How long the kernel may take to write what programs had mapped, when a step is over.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server that waits for its mount, or serves it.
#[derive(Debug)]
pub(in crate::snapshot) struct Server {
    pid: i32,
    pidfd: OwnedFd,
    socket: PathBuf,
    reaped: bool,
}

impl Server {
    /// Starts a server for one mount, whose device will be sent to `socket`.
    pub fn start(layers: &Layers, socket: &Path, asking: Option<&Asking>) -> io::Result<Server> {
        let _ = std::fs::remove_file(socket);
        let listener = by_short_path(socket, |path| UnixListener::bind(path))?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let program = File::open("/proc/self/exe")?;
        let (stderr, mut argv) = (io::stderr(), vec![CString::new(NAME)?]);
        for argument in arguments(layers) {
            argv.push(CString::new(argument.into_vec())?);
        }
        let mut fds = vec![null.as_fd(), null.as_fd(), stderr.as_fd(), listener.as_fd()];
        fds.extend(asking.map(Asking::as_fd));
        let what =
            Spawn { namespaces: 0, program: program.as_fd(), argv: &argv, env: &[], fds: &fds, own_session: true };
        let Spawned { pid, pidfd } = spawn(&what, &mut |_| Ok(()))?;
        Ok(Server { pid, pidfd, socket: socket.to_owned(), reaped: false })
    }

    /// Waits for the end of the server, which comes with the end of the mount.
    ///
    /// # Errors
    /// It failed, or the mount does not end.
    pub fn end(mut self) -> io::Result<()> {
        let patience = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&patience)) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the file system is still in use")),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.reaped = true;
        match process::wait(self.pid)?.0 {
            process::Status::Exited(0) => Ok(()),
            process::Status::Exited(code) => Err(io::Error::other(format!("its server ended with {code}"))),
            process::Status::Signaled(signal) => Err(io::Error::other(format!("its server died of signal {signal}"))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.reaped {
            process::kill_and_reap(self.pid);
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The command line of a server: upper and work directory, then what lies below, each with a letter for its kind.
fn arguments(layers: &Layers) -> Vec<OsString> {
    let mut all = vec![layers.upper.clone().into_os_string(), layers.work.clone().into_os_string()];
    for lower in &layers.lowers {
        let (mut argument, path) = match lower {
            Lower::Layer(path) => (OsString::from("l"), path),
            Lower::Skeleton(path) => (OsString::from("s"), path),
            Lower::Directory(path) => (OsString::from("d"), path),
        };
        argument.push(path);
        all.push(argument);
    }
    all
}

fn layers(mut arguments: impl Iterator<Item = OsString>) -> Option<Layers> {
    let (upper, work) = (arguments.next()?.into(), arguments.next()?.into());
    let lowers = arguments.map(|argument| {
        let (kind, path) = argument.as_bytes().split_first()?;
        let path = PathBuf::from(OsStr::from_bytes(path));
        match kind {
            b'l' => Some(Lower::Layer(path)),
            b's' => Some(Lower::Skeleton(path)),
            b'd' => Some(Lower::Directory(path)),
            _ => None,
        }
    });
    Some(Layers { lowers: lowers.collect::<Option<_>>()?, upper, work })
}

/// Whether this process was started as a server.
pub fn is_server(argv0: Option<&OsStr>) -> bool {
    argv0 == Some(OsStr::new(NAME))
}

/// Lives as a server; the value is its exit code.
pub fn main() -> u8 {
    caps::set_undumpable();
    // A file that is open when its last name goes is one descriptor.
    rlimit::raise_descriptors();
    let served = (|| {
        let layers = layers(std::env::args_os().skip(1)).ok_or(io::ErrorKind::InvalidInput)?;
        let listener = UnixListener::from(process::take_inherited(LISTENER_FD)?);
        let asking = match layers.lowers.iter().any(|lower| matches!(lower, Lower::Skeleton(_))) {
            true => Some(Asking::inherited(process::take_inherited(ASKING_FD)?)),
            false => None,
        };
        let (stream, _) = listener.accept()?;
        drop(listener);
        serve_sent(&layers, &stream, asking.as_ref())
    })();
    match served {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("rbuild fuse: {e}");
            1
        }
    }
}

/// Names of sockets may have no more than 107 bytes: calls `f` with a short one for the same.
fn by_short_path<T>(socket: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (dir, name) = (socket.parent().unwrap_or(Path::new("/")), socket.file_name().unwrap_or_default());
    let dir = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    f(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

/// Mounts a file system on `target` in this mount namespace, to be served at the other end of `socket`. Does not wait for it.
///
/// # Errors
/// `/dev/fuse` cannot be opened or mounted, or nobody is at the socket.
pub fn mount_served(socket: &Path, target: BorrowedFd<'_>) -> io::Result<()> {
    let stream = by_short_path(socket, |path| UnixStream::connect(path))?;
    mount_sent(&stream, target)
}

fn mount_sent(to: &UnixStream, target: BorrowedFd<'_>) -> io::Result<()> {
    // The device belongs to the user namespace in which it is opened: here, where the mount is made.
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("cannot open `/dev/fuse`: {e}")))?;
    mount::fuse(device.as_fd(), target).map_err(|e| io::Error::new(e.source.kind(), e.to_string()))?;
    process::send_descriptor(to, device.as_fd())
}

/// Waits for the descriptor of a mounted device and serves the file system on it, until it is unmounted. Where the other
/// end goes away without sending one, there is nothing to do.
fn serve_sent(layers: &Layers, from: &UnixStream, asking: Option<&Asking>) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(from, PollFlags::IN)], None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match process::receive_descriptor(from)? {
        Some(device) => serve(layers, device, asking),
        None => Ok(()),
    }
}

/// Mounts the layers in a new mount namespace and runs a command in it; its end ends the mount. To be called while there is
/// one thread, in a user namespace of one's own.
///
/// # Errors
/// The mount or the start of the command fails.
pub fn run_beside(layers: &Layers, mountpoint: &Path, command: &[OsString]) -> io::Result<ExitStatus> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (ours, theirs) = UnixStream::pair()?;
    // Not in the mount namespace, which would keep the mount.
    let server = match fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            drop(ours);
            rlimit::raise_descriptors();
            let served = serve_sent(layers, &theirs, None).inspect_err(|e| eprintln!("rbuild fuse: {e}"));
            process::exit_now(i32::from(served.is_err()))
        }
    };
    drop(theirs);
    let result = (|| {
        process::unshare(UnshareFlags::NEWNS)?;
        mount::make_private().map_err(io::Error::other)?;
        let target = openat(CWD, mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        mount_sent(&ours, target.as_fd())?;
        drop(target);
        let status = Command::new(program).args(arguments).status();
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
        status
    })();
    drop(ours);
    let (status, _) = process::wait(server)?;
    if status.code() != 0 && result.is_ok() {
        return Err(io::Error::other("the server of the file system failed"));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_survive_the_command_line() {
        let lowers = vec![Lower::Layer("/a b".into()), Lower::Skeleton("/s".into()), Lower::Directory("/d".into())];
        let all = Layers { lowers, upper: "/u".into(), work: "/w".into() };
        assert_eq!(layers(arguments(&all).into_iter()), Some(all));
    }
}
