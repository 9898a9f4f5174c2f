//! Trying things out without doing them: what this process may do, asked in children that are thrown away.
//!
//! Every function here is for a process with one thread, since it forks.

use super::process::{Fork, exit_now, fork, kill_and_reap};
use super::seccomp::{self, Action, Listener, Policy, Rule};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `ask` in a child and answers what it returned; `None` where the child died, hung for five seconds or could not be
/// started. Whatever it does to itself (namespaces, filters, mounts in them) goes with it.
pub fn in_child(ask: impl FnOnce() -> String) -> Option<String> {
    let (mut read, write) = io::pipe().ok()?;
    match fork().ok()? {
        Fork::Child => {
            drop(read);
            let mut write = write;
            let _ = write.write_all(ask().as_bytes());
            drop(write);
            exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(write);
            let mut text = Vec::new();
            let deadline = std::time::Instant::now() + PATIENCE;
            let mut piece = [0; 4096];
            let complete = loop {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
                match poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&left)) {
                    Ok(0) => break false,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => break false,
                    Ok(_) => match read.read(&mut piece) {
                        Ok(0) => break true,
                        Ok(n) => text.extend_from_slice(piece.get(..n).unwrap_or_default()),
                        Err(_) => break false,
                    },
                }
            };
            kill_and_reap(pid);
            (complete && !text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
        }
    }
}

/// Runs `ask`, whose error is the answer.
pub fn result_in_child(ask: impl FnOnce() -> Result<String, String>) -> Result<String, String> {
    let answer = in_child(|| match ask() {
        Ok(text) => format!("+{text}"),
        Err(text) => format!("-{text}"),
    });
    match answer.as_deref().map(|a| (a.chars().next(), a.get(1..).unwrap_or_default())) {
        Some((Some('+'), text)) => Ok(text.to_owned()),
        Some((_, text)) => Err(text.to_owned()),
        None => Err("the question was not answered".to_owned()),
    }
}

/// The version of Landlock; `None` where the kernel or a filter has none.
pub fn landlock_version() -> Option<i64> {
    const CREATE_RULESET_VERSION: usize = 1;
    // SAFETY: without attributes the call only answers the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, CREATE_RULESET_VERSION) };
    (version > 0).then_some(version)
}

/// Whether calls can be held and answered by another process, which may put descriptors into the caller: what a supervisor
/// of steps needs. The error says what is missing.
pub fn supervisor() -> Result<String, String> {
    result_in_child(|| {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| format!("{what}: {e}")
        };
        // A call that nothing here makes, and that no runtime's filter forbids.
        let rules = [("getpriority".to_owned(), vec![Rule { conditions: Vec::new(), action: Action::Notify }])];
        let policy = Policy { default: Action::Allow, unknown: Action::Allow, rules: rules.into() };
        let filter = seccomp::compile(&policy).map_err(|e| e.to_string())?;
        super::caps::set_no_new_privileges().map_err(failed("no_new_privs"))?;
        let patient = calls_can_wait();
        let listener = seccomp::load_with_patient_listener(&filter).map_err(failed("a filter that asks"))?;
        let listener = Listener::new(listener);
        let Fork::Parent(pid) = fork().map_err(failed("fork"))? else {
            // SAFETY: plain call.
            let answer = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) };
            exit_now(if answer == 7 { 0 } else { 1 });
        };
        let call = loop {
            match listener.next() {
                Ok(Some(call)) => break call,
                Ok(None) => {}
                Err(e) => return Err(format!("receiving a call: {e}")),
            }
        };
        let null = std::fs::File::open("/dev/null").map_err(failed("`/dev/null`"))?;
        let given =
            listener.give(&call, null.as_fd(), true).map_err(failed("putting a descriptor into another process"));
        listener.answer(&call, 7);
        let ended = super::process::wait(pid).map_err(failed("wait"))?;
        given?;
        match (ended.0.code(), patient) {
            (0, true) => Ok("held, answered, and given descriptors; signals do not restart them".to_owned()),
            (0, false) => {
                Ok("held, answered, and given descriptors; signals restart them (before Linux 5.19)".to_owned())
            }
            _ => Err("a call was held, but its answer did not arrive".to_owned()),
        }
    })
}

/// Whether a held call can wait for its answer whatever signals come.
fn calls_can_wait() -> bool {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: without a program nothing can be loaded; flags are looked at first.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, none) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// Whether a child can be traced.
pub fn tracing() -> Result<String, String> {
    result_in_child(|| match fork().map_err(|e| e.to_string())? {
        Fork::Child => loop {
            std::thread::sleep(PATIENCE);
        },
        Fork::Parent(pid) => {
            let seized = super::ptrace::seize(pid);
            kill_and_reap(pid);
            seized.map(|()| String::new()).map_err(|e| e.to_string())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_of_answers() {
        // Tests have threads, so nothing is forked here; `tests/it/doctor.rs` asks for real.
        assert!(landlock_version().is_none_or(|v| v >= 1));
    }
}
