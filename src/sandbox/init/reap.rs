//! Staying until the command has ended.

use super::super::message::{Filter, Message, Order};
use super::command::{self, NotStarted, Started};
use super::composed::Composed;
use super::kept::Kept;
use super::tracees::Tracees;
use super::{Context as _, Failure, Reporter};
use crate::sys::process::{self, Status};
use crate::sys::signal::watch_forwarded;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;

/// Runs the command and stays until it has ended, and with it all that it left running.
pub(super) fn supervise(
    order: &Order,
    filters: &[Filter],
    kept: &Kept,
    composed: Option<Composed>,
    reporter: &mut Reporter,
    leash: OwnedFd,
) -> Result<i32, Failure> {
    let what = || "cannot set init up".to_owned();
    let signals = watch_forwarded(&[Signal::SIGCHLD]).context(what)?;

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
    let started = match command::start(order, filters, &kept.keeper, adopt) {
        Ok(started) => started,
        Err(NotStarted::Other(failure)) => return Err(failure),
        Err(NotStarted::Program { code, message }) => {
            reporter.send(&Message::NotStarted { code, message });
            return Ok(code);
        }
    };
    let Started { pid: main, mut calls } = started;
    let status = loop {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN), PollFd::new(&leash, PollFlags::IN)];
        fds.extend(calls.as_ref().map(|calls| PollFd::new(calls, PollFlags::IN)));
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
        if ready.get(2) == Some(&true) && calls.as_ref().is_some_and(|calls| kept.keeper.attend(calls).is_err()) {
            calls = None;
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
    match &mut tracees {
        Some(tracees) => tracees.end(),
        // In a pid namespace the kernel ends what is left, once init has gone; files are looked at before that.
        None if !kept.keeper.is_idle() => process::end_all(),
        None => {}
    }
    if status.code() == 0 {
        kept.report(reporter)?;
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
