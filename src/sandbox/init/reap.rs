//! Staying until the command has ended.

use super::super::message::{Filter, Message, Order};
use super::super::{RefusedCall, one_id};
use super::command::{self, NotStarted, Started};
use super::composed::Composed;
use super::tracees::Tracees;
use super::{Context as _, Failure, Reporter};
use crate::sys::process::{self, Status};
use crate::sys::seccomp::Listener;
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
/// How many different refused calls are reported.
const MAX_REFUSED: usize = 16;

/// Runs the command and stays until it has ended, and with it all that it left running.
pub(super) fn supervise(
    order: &Order,
    filters: &[Filter],
    composed: Option<Composed>,
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

    let mut tracees = None;
    let traced = composed.is_some();
    if let Some(composed) = composed {
        process::become_subreaper().context(what)?;
        composed.enter().context(what)?;
        tracees = Some(Tracees::new(composed));
    }
    let mut adopt = |pid| {
        if let Some(tracees) = &mut tracees
            && let Some(e) = tracees.adopt(pid)?
        {
            reporter.send(&Message::Warning(format!(
                "`/proc` shows the first process of the step only: the pod refuses ptrace: {e}"
            )));
        }
        Ok(())
    };
    let adopt = traced.then_some(&mut adopt as &mut dyn FnMut(i32) -> std::io::Result<()>);
    let started = match command::start(order, filters, adopt) {
        Ok(started) => started,
        Err(NotStarted::Other(failure)) => return Err(failure),
        Err(NotStarted::Program { code, message }) => {
            reporter.send(&Message::NotStarted { code, message });
            return Ok(code);
        }
    };
    let Started { pid: main, listener } = started;
    let mut refused = Refused { listener, seen: Vec::new() };
    let status = loop {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN), PollFd::new(&leash, PollFlags::IN)];
        fds.extend(refused.listener.as_ref().map(|l| PollFd::new(l, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context(what),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        // Nothing is ever written there: it is readable when the builder wants an end, or is gone.
        if ready.get(1) == Some(&true) {
            if let Some(tracees) = &mut tracees {
                tracees.end();
            }
            return Ok(137);
        }
        if ready.get(2) == Some(&true) {
            refused.note(tracees.as_ref(), reporter);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if number != libc::SIGCHLD {
                process::kill(main, number);
            }
        }
        let ended = match &mut tracees {
            Some(tracees) => tracees.attend(main),
            None => reap(main),
        };
        if let Some(status) = ended {
            break status;
        }
    };
    // In a pid namespace the kernel ends what is left, once init has gone.
    if let Some(tracees) = &mut tracees {
        tracees.end();
    }
    reporter.send(&Message::Exited { code: status.code(), signal: status.signal() });
    Ok(status.code())
}

/// Takes the status of all children that ended; the answer is `main`'s.
fn reap(main: i32) -> Option<Status> {
    while let Some((pid, status)) = process::reap_any() {
        if pid == main {
            return Some(status);
        }
    }
    None
}

/// The calls that one id makes fail.
struct Refused {
    listener: Option<Listener>,
    seen: Vec<RefusedCall>,
}

impl Refused {
    /// Notes the next call and lets it go on.
    fn note(&mut self, tracees: Option<&Tracees>, reporter: &mut Reporter) {
        let Some(listener) = &self.listener else { return };
        match listener.next() {
            Ok(None) => {}
            Ok(Some(call)) => {
                if self.seen.len() < MAX_REFUSED {
                    let program = program(i32::try_from(call.pid).unwrap_or(0), tracees);
                    let refused = one_id::describe(&call, program);
                    if !self.seen.contains(&refused) {
                        reporter.send(&Message::Refused(refused.clone()));
                        self.seen.push(refused);
                    }
                }
                listener.go_on(&call);
            }
            // All who had the filter are gone.
            Err(_) => self.listener = None,
        }
    }
}

fn program(pid: i32, tracees: Option<&Tracees>) -> String {
    let name = match tracees {
        Some(tracees) => tracees.proc().program(pid),
        None => std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|t| t.trim_end().to_owned()),
    };
    name.unwrap_or_else(|| "a program".to_owned())
}
