//! The threads that answer calls, and the one that hears the builder.

use super::World;
use super::calls::{Answer, Call, Reply};
use super::policy::Table;
use crate::sys::arch;
use crate::sys::process;
use crate::sys::seccomp::{Listener, Notification};
use crate::sys::signal::watch_forwarded;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How many calls may wait for something else at a time, each on a thread of its own.
const MOST_WAITING: usize = 1024;
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Such a thread does next to nothing.
const STACK_BYTES: usize = 128 * 1024;

/// Starts the thread that answers calls.
pub(super) fn start(listener: Arc<Listener>, world: Arc<Mutex<World>>) -> io::Result<()> {
    std::thread::Builder::new().name("calls".to_owned()).spawn(move || {
        let table = Table::new();
        loop {
            match listener.next() {
                Ok(Some(notification)) => answer(&listener, &world, &table, &notification),
                Ok(None) => {}
                // All who had the filter are gone.
                Err(_) => return,
            }
        }
    })?;
    Ok(())
}

/// Whatever the step gets a descriptor of, it may change.
fn note(world: &mut World, reply: &Answer) {
    if let Ok(Reply::Descriptor(fd, _)) = reply {
        world.given(fd);
    }
}

fn answer(listener: &Arc<Listener>, world: &Arc<Mutex<World>>, table: &Table, notification: &Notification) {
    let compat = Some(notification.arch) == arch::AUDIT_COMPAT;
    let reply = match table.handler(compat, notification.number) {
        None => Err(Errno::NOSYS),
        Some(handler) => {
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            let tid = notification.pid.cast_signed();
            let reply = handler(&mut Call { world: &mut world, listener, notification, tid, compat });
            note(&mut world, &reply);
            reply
        }
    };
    match reply {
        Ok(Reply::Later(work)) => {
            let (listener, notification) = (Arc::clone(listener), *notification);
            if WAITING.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
                WAITING.fetch_sub(1, Ordering::Relaxed);
                return listener.refuse(&notification, libc::EAGAIN);
            }
            let spawned = std::thread::Builder::new().stack_size(STACK_BYTES).spawn({
                let (listener, world) = (Arc::clone(&listener), Arc::clone(world));
                move || {
                    let reply = work();
                    note(&mut world.lock().unwrap_or_else(PoisonError::into_inner), &reply);
                    WAITING.fetch_sub(1, Ordering::Relaxed);
                    send(&listener, &notification, reply);
                }
            });
            if spawned.is_err() {
                WAITING.fetch_sub(1, Ordering::Relaxed);
                listener.refuse(&notification, libc::EAGAIN);
            }
        }
        reply => send(listener, notification, reply),
    }
}

fn send(listener: &Listener, notification: &Notification, reply: Answer) {
    match reply {
        Ok(Reply::Value(value)) => listener.answer(notification, value),
        Ok(Reply::GoOn) => listener.go_on(notification),
        Ok(Reply::Descriptor(fd, close)) => {
            if let Err(e) = listener.answer_with(notification, fd.as_fd(), close) {
                listener.refuse(notification, e.raw_os_error().unwrap_or(libc::EIO));
            }
        }
        Ok(Reply::Later(_)) => listener.refuse(notification, libc::EAGAIN),
        Err(e) => listener.refuse(notification, e.raw_os_error()),
    }
}

/// What the builder may want.
pub(super) struct Watch {
    signals: SignalFd,
    leash: OwnedFd,
}

impl Watch {
    /// Takes signals to be forwarded away from this process.
    pub(super) fn new(leash: OwnedFd) -> io::Result<Watch> {
        Ok(Watch { signals: watch_forwarded(&[])?, leash })
    }

    /// Starts the thread that waits for them.
    pub(super) fn start(self, main: i32, world: Arc<Mutex<World>>) -> io::Result<()> {
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            loop {
                let mut fds = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.leash, PollFlags::IN)];
                let _ = poll(&mut fds, None);
                let [_, leash] = fds.map(|fd| !fd.revents().is_empty());
                // Nothing is ever written there: it is readable when the builder wants an end, or is gone.
                if leash {
                    process::kill(main, libc::SIGKILL);
                    let world = world.lock().unwrap_or_else(PoisonError::into_inner);
                    world.view.tasks.processes().into_iter().for_each(|pid| process::kill(pid, libc::SIGKILL));
                    return;
                }
                while let Ok(Some(signal)) = self.signals.read_signal() {
                    process::kill(main, i32::try_from(signal.ssi_signo).unwrap_or(0));
                }
            }
        })?;
        Ok(())
    }
}
