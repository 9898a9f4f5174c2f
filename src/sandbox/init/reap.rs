//! Staying until the command has ended.

use super::super::message::{Message, Order};
use super::command::{self, NotStarted};
use super::proc::Proc;
use super::{Context as _, Failure, Reporter};
use crate::sys;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;

/// Signals that are passed on to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Runs the command and stays until it has ended. Once init returns and exits, the kernel ends what is left.
pub(super) fn supervise(
    order: &Order,
    filters: &[Vec<u8>],
    _proc: Proc,
    reporter: &mut Reporter,
    leash: OwnedFd,
) -> Result<i32, Failure> {
    let what = || "cannot set init up".to_owned();
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    FORWARDED.into_iter().for_each(|s| watched.add(s));
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&watched), None).map_err(std::io::Error::from).context(what)?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(std::io::Error::from)
        .context(what)?;

    let main = match command::start(order, filters) {
        Ok(pid) => pid,
        Err(NotStarted::Other(failure)) => return Err(failure),
        Err(NotStarted::Program { code, message }) => {
            reporter.send(&Message::NotStarted { code, message });
            return Ok(code);
        }
    };
    let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&leash, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context(what),
        }
        // Nothing is ever written there: it is readable when the builder is gone.
        if !fds[1].revents().is_empty() {
            return Ok(137);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if number != libc::SIGCHLD {
                sys::process::kill(main, number);
            }
        }
        while let Some((pid, status)) = sys::process::reap_any() {
            if pid == main {
                let (code, signal) = (status.code(), status.signal());
                reporter.send(&Message::Exited { code, signal });
                return Ok(code);
            }
        }
    }
}
