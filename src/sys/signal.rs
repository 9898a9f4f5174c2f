//! Ending work early: a flag that threads can poll, and the signals that raise it.
//!
//! A [`Cancel`] is an eventfd: raised once, it stays readable, so any number of threads can wait for it in `poll` beside
//! their other descriptors.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A request to stop, shared by all who must hear it. Clones are the same flag.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raised: AtomicBool,
    event: OwnedFd,
}

impl Cancel {
    /// A flag that nobody has raised. Fails where the process has no descriptor left.
    pub fn new() -> std::io::Result<Cancel> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Cancel(Arc::new(Inner { raised: AtomicBool::new(false), event })))
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        // The counter cannot overflow before 2^64 calls, and nothing else can fail on our own eventfd.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Whether the flag was raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// A descriptor that is readable once the flag was raised. Never read from it: others wait for it, too.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// Signals that whoever runs a command passes on to it.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Takes the signals that are to be passed on to a command away from this process, and those of `more`: they are read from
/// the descriptor. No others stay blocked.
///
/// # Errors
/// Where the system has no descriptor left.
pub fn watch_forwarded(more: &[Signal]) -> std::io::Result<SignalFd> {
    let watched: SigSet = FORWARDED.iter().chain(more).copied().collect();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&watched), None)?;
    Ok(SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Raises `cancel` when the process receives SIGTERM, SIGINT or SIGHUP, and ends the process with 128 + the signal's number
/// once `grace` has passed, whatever its threads are doing; a second such signal ends it at once. [`received`] says which
/// came first.
///
/// To be called once, by the program, before its threads start.
pub fn cancel_on_termination(cancel: &Cancel, grace: Duration) -> std::io::Result<()> {
    raw::install(cancel.clone(), grace)
}

/// From now on, SIGTERM, SIGINT and SIGHUP end the process at once with 128 + their number, until
/// [`cancel_on_termination`] is called. For work that may be left anywhere. The default action would do nothing in a
/// process that is the first of a pod, as the kernel shields that one from signals without a handler.
pub fn end_on_termination() -> std::io::Result<()> {
    raw::AT_ONCE.store(true, Ordering::SeqCst);
    raw::handle()
}

/// The number of the signal that asked the process to end, if one came.
pub fn received() -> Option<i32> {
    match raw::RECEIVED.load(Ordering::SeqCst) {
        0 => None,
        n => Some(n),
    }
}

/// Blocks all signals in the calling thread until dropped.
pub(super) struct BlockAll(libc::sigset_t);

impl BlockAll {
    pub(super) fn new() -> BlockAll {
        // SAFETY: an all-zero set is valid memory for both calls to fill in.
        unsafe {
            let (mut all, mut old): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
            BlockAll(old)
        }
    }
}

impl Drop for BlockAll {
    fn drop(&mut self) {
        // SAFETY: the set is the one that the kernel gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

mod raw {
    use super::Cancel;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
    use std::time::Duration;

    pub(super) static RECEIVED: AtomicI32 = AtomicI32::new(0);
    pub(super) static AT_ONCE: AtomicBool = AtomicBool::new(false);
    static FLAG: OnceLock<(Cancel, libc::itimerval)> = OnceLock::new();

    /// Time is up. A child of this process never inherits the timer, and so never gets here.
    extern "C" fn on_alarm(alarm: libc::c_int) {
        let signal = match RECEIVED.load(Ordering::SeqCst) {
            // Somebody else sent it.
            0 => alarm,
            signal => signal,
        };
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) };
    }

    extern "C" fn on_signal(signal: libc::c_int) {
        if RECEIVED.swap(signal, Ordering::SeqCst) != 0 || AT_ONCE.load(Ordering::SeqCst) {
            // SAFETY: _exit is async-signal-safe.
            unsafe { libc::_exit(128 + signal) };
        }
        if let Some((cancel, grace)) = FLAG.get() {
            // A system call, an atomic store and a write(2): all are async-signal-safe, but for errno.
            // SAFETY: the address of errno is valid in every thread.
            let saved = unsafe { *libc::__errno_location() };
            // SAFETY: the timer is valid, and the old one is not asked for.
            unsafe { libc::setitimer(libc::ITIMER_REAL, grace, std::ptr::null_mut()) };
            cancel.cancel();
            // SAFETY: as above.
            unsafe { *libc::__errno_location() = saved };
        }
    }

    pub(super) fn install(cancel: Cancel, grace: Duration) -> std::io::Result<()> {
        let once = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let grace = libc::timeval {
            tv_sec: grace.as_secs().try_into().map_err(std::io::Error::other)?,
            tv_usec: grace.subsec_micros().into(),
        };
        // A process has one flag; the first one given stays.
        let _ = FLAG.set((cancel, libc::itimerval { it_interval: once, it_value: grace }));
        AT_ONCE.store(false, Ordering::SeqCst);
        on(libc::SIGALRM, on_alarm)?;
        // Whoever started this process may have blocked it, which outlives an exec.
        // SAFETY: an all-zero set is valid memory for sigemptyset to fill in.
        unsafe {
            let mut alarm: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut alarm);
            libc::sigaddset(&mut alarm, libc::SIGALRM);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &alarm, std::ptr::null_mut());
        }
        handle()
    }

    pub(super) fn handle() -> std::io::Result<()> {
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].into_iter().try_for_each(|signal| on(signal, on_signal))
    }

    /// Installs a handler, which must only do async-signal-safe work.
    fn on(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> std::io::Result<()> {
        // SAFETY: an all-zero sigaction is valid, and the handler is of the kind that the flags say.
        let answer = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_is_seen_by_all_clones_and_by_poll() {
        let flag = Cancel::new().unwrap();
        let other = flag.clone();
        assert!(!other.is_cancelled());
        flag.cancel();
        assert!(other.is_cancelled());
        let mut fds = [rustix::event::PollFd::new(&other.0.event, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 1);
    }
}
