//! Init: the process between the builder and the command of a step.
//!
//! The builder starts it in new namespaces, as `rbuild-init`, one thread, with nothing but its [`Order`]. It builds the
//! root file system, makes it the only thing that can be seen, starts the command in it, and stays: it takes in orphans,
//! passes signals on and reports how the command ended. When it goes, whatever the command left running goes too.

mod command;
mod composed;
mod device;
mod foreign;
mod kept;
mod mounts;
mod proc;
mod reap;
mod rootfs;
mod supervised;
mod tracees;

use super::message::{Filter, INIT_NAME, LEASH_FD, MESSAGE_FD, Message, ORDER_FD, Order};
use crate::sys;
use crate::sys::mount::OldRoot;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

/// Why a step cannot be run.
#[derive(Debug)]
struct Failure {
    message: String,
    errno: i32,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>, errno: i32) -> Failure {
        Failure { message: message.into(), errno, hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }
}

/// Puts what was tried in front of an error.
trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, std::io::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(format!("{}: {e}", what()), e.raw_os_error().unwrap_or(0)))
    }
}

impl<T> Context<T> for Result<T, rustix::io::Errno> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(std::io::Error::from).context(what)
    }
}

impl<T> Context<T> for Result<T, sys::mount::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(format!("{}: {e}", what()), e.errno()))
    }
}

/// Where messages to the builder go.
struct Reporter(File);

impl Reporter {
    /// A builder that no longer listens is about to kill us: no error.
    fn send(&mut self, message: &Message) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let _ = self.0.write_all(&line);
        }
    }

    fn fail(&mut self, failure: Failure) -> i32 {
        let Failure { message, errno, hint } = failure;
        self.send(&Message::Failed { message, errno, hint });
        125
    }
}

/// Whether this process was started as the init of a step.
pub fn is_init(argv0: Option<&OsStr>) -> bool {
    argv0 == Some(OsStr::new(INIT_NAME))
}

/// Lives as init; the value is its exit code, which nobody reads: the builder goes by the messages.
pub fn main() -> u8 {
    // The command's code, of which the kernel would keep as much.
    u8::try_from(whole_life()).unwrap_or(125)
}

fn whole_life() -> i32 {
    let Some((order, messages, leash)) = inherited() else {
        return 125;
    };
    let mut reporter = Reporter(messages.into());
    match Order::decode(File::from(order)) {
        Ok((order, filters)) => live(order, filters, &mut reporter, leash).unwrap_or_else(|f| reporter.fail(f)),
        Err(e) => reporter.fail(Failure::new(format!("cannot read the order of the builder: {e}"), 0)),
    }
}

/// Takes over the three descriptors that the builder left.
fn inherited() -> Option<(OwnedFd, OwnedFd, OwnedFd)> {
    let take = |fd| sys::process::take_inherited(fd).ok();
    Some((take(ORDER_FD)?, take(MESSAGE_FD)?, take(LEASH_FD)?))
}

fn live(order: Order, filters: Vec<Filter>, reporter: &mut Reporter, leash: OwnedFd) -> Result<i32, Failure> {
    // Rather the step than the builder, when memory runs out.
    let _ = std::fs::write("/proc/self/oom_score_adj", "200");
    rustix::process::umask(rustix::fs::Mode::empty());
    if order.isolation == super::message::Isolation::Supervised {
        return supervised::live(&order, &filters, reporter, leash);
    }
    sys::mount::make_private().context(|| "cannot make the mounts of the step private".to_owned())?;

    let proc = match proc::prepare(order.isolation)? {
        Some(proc) => proc,
        None => {
            reporter.send(&Message::ProcRefused);
            return Ok(0);
        }
    };
    // Kept open as long as the step runs.
    let _formats = match order.step.emulator.as_ref().map(foreign::register) {
        Some(Ok(table)) => Some(table),
        // The node may have one registered.
        Some(Err(Failure { message, .. })) => {
            reporter.send(&Message::Warning(message));
            None
        }
        None => None,
    };
    let root = rootfs::mount(&order)?;
    let mut owners = kept::load(&order, &root)?;
    let composed = rootfs::populate(&root, &order, &proc, &mut owners, reporter)?;
    let old = sys::mount::pivot(root.top()).context(|| "cannot change the root of the step".to_owned())?;
    if old == OldRoot::Below {
        without_power_over_mounts(&order)?;
    }
    let kept = kept::prepare(&order, owners, root, composed.as_ref())?;
    rustix::system::sethostname(order.step.hostname.as_bytes())
        .context(|| format!("cannot set the host name `{}`", order.step.hostname))?;
    if order.step.network == super::Network::None {
        let up = match sys::net::loopback_up() {
            // The pod's own user namespace, without NET_ADMIN.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => sys::net::join_new_with_loopback(),
            other => other,
        };
        up.context(|| "cannot switch the loopback interface on".to_owned())?;
    }
    sys::caps::set_undumpable();
    reap::supervise(&order, &filters, &kept, composed, reporter, leash)
}

/// Refuses a step that could uncover what lies below its root.
fn without_power_over_mounts(order: &Order) -> Result<(), Failure> {
    let power = caps::Capability::CAP_SYS_ADMIN;
    if !order.step.capabilities().contains(&power) {
        return Ok(());
    }
    let message = format!(
        "cannot give a step `{power}`: this pod's seccomp profile refuses `pivot_root`, so the pod's files lie below the step's \
         root, and the step could uncover them"
    );
    Err(Failure::new(message, libc::EPERM).hint(
        "set `securityContext.seccompProfile` to a `Localhost` profile that allows `pivot_root`, as `seccomp/rbuild-pod.json` \
         does, or build without `RUN --security=insecure` and `--cap-add`",
    ))
}
