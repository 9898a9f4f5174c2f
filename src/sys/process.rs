//! Processes: fork while there is one thread, clone into namespaces from a process with many, waiting, ending.

use super::arch;
use rustix::thread::UnshareFlags;
use std::ffi::{CString, c_void};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What [`fork`] answers.
pub enum Fork {
    /// This is the child.
    Child,
    /// This is the parent; the child has this pid.
    Parent(i32),
}

/// fork(2). Only for processes with one thread: a child of others may not even allocate.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: with one thread the child is a full copy, and all of it may be used.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// unshare(2).
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no flag used here (namespaces) touches memory or descriptors.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Ends the process without running destructors or flushing what the parent will flush, too.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// Kills a child and takes its status.
pub fn kill_and_reap(pid: i32) {
    // SAFETY: plain calls; a pid that is gone answers an error.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Exit code.
    Exited(i32),
    /// Number of the signal.
    Signaled(i32),
}

impl Status {
    pub(super) fn of(raw: i32) -> Status {
        if libc::WIFSIGNALED(raw) {
            Status::Signaled(libc::WTERMSIG(raw))
        } else {
            Status::Exited(libc::WEXITSTATUS(raw))
        }
    }

    /// The code that a shell would report.
    pub fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
        }
    }

    /// The signal that ended the child.
    pub fn signal(self) -> Option<i32> {
        match self {
            Status::Exited(_) => None,
            Status::Signaled(signal) => Some(signal),
        }
    }
}

/// CPU time and memory of a child and of the children that it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rusage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Largest resident set of one process, in bytes.
    pub max_rss: u64,
    /// Read from storage, in bytes.
    pub read: u64,
    /// Written to storage, in bytes, counted when pages become dirty.
    pub written: u64,
}

fn duration(t: libc::timeval) -> Duration {
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let micros = u32::try_from(t.tv_usec).unwrap_or(0).min(999_999);
    Duration::new(seconds, micros * 1000)
}

/// Bytes of so many blocks, which have 512 each whatever the file system is.
fn blocks(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or(0).saturating_mul(512)
}

/// Waits for one child.
pub fn wait(pid: i32) -> io::Result<(Status, Rusage)> {
    let mut raw = 0;
    // SAFETY: all-zero is a valid rusage; both pointers are to locals.
    let (answer, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        loop {
            let answer = libc::wait4(pid, &mut raw, 0, &mut usage);
            if answer != -1 || *libc::__errno_location() != libc::EINTR {
                break (answer, usage);
            }
        }
    };
    if answer == -1 {
        return Err(io::Error::last_os_error());
    }
    let rusage = Rusage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        read: blocks(usage.ru_inblock),
        written: blocks(usage.ru_oublock),
    };
    Ok((Status::of(raw), rusage))
}

/// A child in namespaces of its own, before and while it runs.
pub struct Spawned {
    /// Its pid here.
    pub pid: i32,
    /// Its pidfd: readable once it ended.
    pub pidfd: OwnedFd,
}

/// What [`spawn`] starts.
pub struct Spawn<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// The program, an open file.
    pub program: BorrowedFd<'a>,
    /// Arguments.
    pub argv: &'a [CString],
    /// Environment, `NAME=VALUE`.
    pub env: &'a [CString],
    /// What the child's descriptors 0, 1, 2, … are.
    pub fds: &'a [BorrowedFd<'a>],
    /// Whether the child leaves the caller's session (and with it the terminal).
    pub own_session: bool,
}

/// All that the child reads; nothing here may move until it has execed.
struct ChildArgs {
    program: RawFd,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    fds: *const RawFd,
    fd_count: usize,
    go: RawFd,
    error: RawFd,
    own_session: bool,
}

/// Size of the stack on which the child runs until it execs.
const CHILD_STACK_BYTES: usize = 64 * 1024;

/// Starts a program in new namespaces from a process that may have many threads.
///
/// The child shares this process's memory until it execs, so starting costs the same however big the builder is. It waits
/// until `prepare(pid)` has returned, which writes its id maps. Fails with the error of clone, `prepare` or exec.
pub fn spawn(what: &Spawn<'_>, prepare: &mut dyn FnMut(i32) -> io::Result<()>) -> io::Result<Spawned> {
    let (go_read, mut go_write) = io::pipe()?;
    let (mut error_read, error_write) = io::pipe()?;
    // Above all the numbers that the child assigns, so that no dup3 overwrites a descriptor that is still needed.
    let first_free = i32::try_from(what.fds.len()).map_err(io::Error::other)? + 10;
    let lift = |fd: RawFd| -> io::Result<OwnedFd> {
        // SAFETY: fd is open; the answer is a new descriptor that nobody else owns.
        unsafe {
            match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, first_free) {
                -1 => Err(io::Error::last_os_error()),
                new => Ok(OwnedFd::from_raw_fd(new)),
            }
        }
    };
    let lifted = what.fds.iter().map(|fd| lift(fd.as_raw_fd())).collect::<io::Result<Vec<OwnedFd>>>()?;
    let (program, go, error) =
        (lift(what.program.as_raw_fd())?, lift(go_read.as_raw_fd())?, lift(error_write.as_raw_fd())?);
    drop((go_read, error_write));
    let numbers: Vec<RawFd> = lifted.iter().map(|fd| fd.as_raw_fd()).collect();
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, env) = (pointers(what.argv), pointers(what.env));
    let args = ChildArgs {
        program: program.as_raw_fd(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        fds: numbers.as_ptr(),
        fd_count: numbers.len(),
        go: go.as_raw_fd(),
        error: error.as_raw_fd(),
        own_session: what.own_session,
    };
    let mut stack = vec![0u8; CHILD_STACK_BYTES];
    let mut pidfd: RawFd = -1;
    let clone_flags = what.namespaces
        | (libc::CLONE_VM as u64)
        | (libc::CLONE_PIDFD as u64)
        | u64::from(libc::SIGCHLD.unsigned_abs());

    let answer = {
        // A handler of this process must not run in the child, which shares its memory.
        let _blocked = super::signal::BlockAll::new();
        // SAFETY: stack, args and what args points to live until the child has execed or ended, for which we wait below;
        // child_main keeps to raw system calls.
        unsafe {
            arch::raw_clone(
                clone_flags,
                stack.as_mut_ptr().add(stack.len()),
                &mut pidfd,
                child_main,
                (&raw const args).cast::<c_void>(),
            )
        }
    };
    drop((go, error));
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-answer).unwrap_or(libc::EINVAL)));
    }
    let pid = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel put a new descriptor there.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };

    let prepared = prepare(pid).and_then(|()| go_write.write_all(&[1]));
    drop(go_write);
    // The end of the pipe is the exec (close-on-exec) or the end of the child; only then may the stack go.
    let mut errno = Vec::new();
    let read = error_read.read_to_end(&mut errno);
    let outcome = prepared.and(read.map(drop)).and_then(|()| match errno.first_chunk::<4>() {
        None => Ok(()),
        Some(bytes) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(*bytes))),
    });
    drop((stack, lifted));
    match outcome {
        Ok(()) => Ok(Spawned { pid, pidfd }),
        Err(e) => {
            kill_and_reap(pid);
            Err(e)
        }
    }
}

/// Makes what this command starts end when the thread that starts it does, however that comes.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec the closure makes one system call, and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// The child of [`spawn`], on the builder's memory: raw system calls only.
extern "C" fn child_main(arg: *const c_void) -> ! {
    // SAFETY: `spawn` passes a ChildArgs that outlives us; every call below is sound with any outcome.
    unsafe {
        let args = &*arg.cast::<ChildArgs>();
        let call = |number: i64, a: usize, b: usize, c: usize, d: usize, e: usize| {
            arch::raw_syscall(number, [a, b, c, d, e, 0])
        };
        call(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0);
        let mut byte = 0u8;
        // EOF: the builder gave up, or is dead.
        if call(libc::SYS_read, args.go as usize, (&raw mut byte) as usize, 1, 0, 0) != 1 {
            call(libc::SYS_exit_group, 1, 0, 0, 0, 0);
        }
        let mut at = 0;
        let mut failed = 0isize;
        while at < args.fd_count {
            let answer = call(libc::SYS_dup3, *args.fds.add(at) as usize, at, 0, 0, 0);
            if answer < 0 {
                failed = answer;
            }
            at = at.wrapping_add(1);
        }
        if args.own_session {
            call(libc::SYS_setsid, 0, 0, 0, 0, 0);
        }
        // Everything of ours is close-on-exec already; this is for descriptors that the builder itself inherited.
        let close_on_exec = libc::CLOSE_RANGE_CLOEXEC as usize;
        call(libc::SYS_close_range, args.fd_count, u32::MAX as usize, close_on_exec, 0, 0);
        if failed == 0 {
            let empty = c"".as_ptr() as usize;
            let (argv, env) = (args.argv as usize, args.env as usize);
            failed = call(libc::SYS_execveat, args.program as usize, empty, argv, env, libc::AT_EMPTY_PATH as usize);
            if failed == -(libc::ENOSYS as isize) || failed == -(libc::EPERM as isize) {
                failed = call(libc::SYS_execve, c"/proc/self/exe".as_ptr() as usize, argv, env, 0, 0);
            }
        }
        let errno = (failed as i32).wrapping_neg();
        call(libc::SYS_write, args.error as usize, (&raw const errno) as usize, 4, 0, 0);
        loop {
            call(libc::SYS_exit_group, 127, 0, 0, 0, 0);
        }
    }
}

/// Sends a signal to the process behind a pidfd; one that ended already is no error.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain call.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) };
    match answer {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            e => Err(e),
        },
    }
}

/// Takes over a descriptor that this process was started with, by its number. Closed by its next exec.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain call; it answers an error for a number that is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open; the caller says that nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `fd` the descriptor `number` (0, 1 or 2) of this process and of what it executes.
pub fn set_stdio(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: plain call.
    match unsafe { libc::dup2(fd.as_raw_fd(), number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets no descriptor from `first` on survive the next exec. Kernels before 5.11 cannot; descriptors of rbuild's own are
/// marked one by one, anyway.
pub fn close_on_exec_from(first: RawFd) {
    // SAFETY: plain call.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Gives all signals their default action and blocks none.
pub fn reset_signals() {
    // SAFETY: plain calls; numbers that may not be changed answer an error. An all-zero set is valid to be filled in.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// A child that ended.
pub fn reap_any() -> Option<(i32, Status)> {
    let mut raw = 0;
    // SAFETY: the pointer is to a local.
    match unsafe { libc::waitpid(-1, &mut raw, libc::WNOHANG) } {
        pid if pid > 0 => Some((pid, Status::of(raw))),
        _ => None,
    }
}

/// Sends a signal to a process; one that is gone is no error.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: plain call.
    unsafe { libc::kill(pid, signal) };
}

/// Kills every process but this one, which is the first of a pid namespace, and waits until they are gone.
pub fn end_all() {
    kill(-1, libc::SIGKILL);
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) } != -1
        || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Replaces this process by a program. Returns only on failure.
pub fn exec(path: &std::ffi::CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer and point to C strings that live on.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Adopts every orphan among the descendants of this process.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: plain call.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The process group of a process.
pub fn group_of(pid: i32) -> Option<i32> {
    // SAFETY: plain call.
    match unsafe { libc::getpgid(pid) } {
        -1 => None,
        group => Some(group),
    }
}

/// Whether a signal waits for a thread that would interrupt it.
pub fn is_interrupted(tid: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{tid}/status")) else { return true };
    let mask = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        value.and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0)
    };
    // Without a handler, these do nothing.
    let harmless =
        [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH].iter().fold(0, |all, s| all | 1 << (s - 1));
    let ignored = mask("SigIgn") | harmless & !mask("SigCgt");
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !ignored != 0
}

/// A copy of a descriptor of another process. Filters may refuse the call.
pub fn descriptor_of(pid: i32, number: RawFd) -> io::Result<OwnedFd> {
    let take = |fd: libc::c_long| -> io::Result<OwnedFd> {
        match RawFd::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: plain calls.
    let process = take(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    take(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

/// Flags of the message that [`send_descriptor`] sends: such as nobody else gives to a local socket, so that a filter which
/// was just loaded can tell it from other messages.
pub const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTROUTE;

/// Sends a descriptor to the process at the other end.
pub fn send_descriptor(to: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::from_bits_retain(SEND_FLAGS);
    sendmsg::<()>(to.as_raw_fd(), &[io::IoSlice::new(&[0])], &control, flags, None)?;
    Ok(())
}

/// Takes a descriptor that the other end has sent already; `None` if it has not. Does not wait.
pub fn receive_descriptor(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    receive(from, false)
}

/// Waits for a descriptor from the other end; `None` if that is closed.
pub fn await_descriptor(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    receive(from, true)
}

fn receive(from: &UnixStream, wait: bool) -> io::Result<Option<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0];
    let mut space = nix::cmsg_space!(RawFd);
    let mut data = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    let message = match recvmsg::<()>(from.as_raw_fd(), &mut data, Some(&mut space), flags) {
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        other => other?,
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just made this descriptor for us.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(None)
}
