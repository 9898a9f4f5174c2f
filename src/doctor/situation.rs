//! What decides about the rung: who this process is, and what the pod lets it do.

use super::newuidmap::{self, Tools};
use crate::sys::idmap;
use crate::sys::mount::{Attributes, detached_filesystem};
use crate::sys::probe;
use crate::sys::process::unshare;
use crate::sys::userns;
use caps::{CapSet, Capability};
use rustix::thread::UnshareFlags;

/// What was found out before a user namespace was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// User of this process.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Whether exec gives no privilege: `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// Whether a filter of system calls is loaded.
    pub filtered: bool,
    /// Whether the pod has a user namespace of its own: `hostUsers: false`.
    pub own_users: bool,
    /// User ids that exist here, from 0 without a gap.
    pub ids: u32,
    /// Capabilities in effect.
    pub effective: Vec<Capability>,
    /// Capabilities that programs can still get.
    pub bounding: Vec<Capability>,
    /// Label of AppArmor or SELinux.
    pub label: Option<String>,
    /// Whether a user namespace can be made.
    pub user_namespace: Result<String, String>,
    /// Whether something can be mounted in one.
    pub mount: Result<String, String>,
    /// Whether a process file system can be mounted in one.
    pub proc: Result<String, String>,
    /// Whether emulators can be registered in one.
    pub emulators: Result<String, String>,
    /// `newuidmap` and `newgidmap`.
    pub tools: Tools,
    /// Whether calls of steps can be held and answered.
    pub supervisor: Result<String, String>,
    /// Whether steps can be traced.
    pub tracing: Result<String, String>,
    /// Version of Landlock.
    pub landlock: Option<i64>,
}

impl Situation {
    /// Asks the kernel. To be called while there is one thread, and before a namespace was entered.
    pub fn read() -> Situation {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|v| v.trim().parse::<u32>().ok()).unwrap_or(0)
        };
        let set = |which| {
            let mut all: Vec<Capability> = caps::read(None, which).unwrap_or_default().into_iter().collect();
            all.sort_by_key(|c| c.index());
            all
        };
        let (uids, _) = idmap::own();
        let bounding = set(CapSet::Bounding);
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let no_new_privileges = number("NoNewPrivs") == 1;
        Situation {
            uid,
            gid,
            no_new_privileges,
            filtered: number("Seccomp") == 2,
            own_users: !uids.is_empty() && !idmap::is_full(&uids),
            ids: idmap::count_from_zero(&uids),
            effective: set(CapSet::Effective),
            label: label(),
            user_namespace: in_namespace(UnshareFlags::empty(), || Ok("can be made".to_owned())),
            mount: in_namespace(UnshareFlags::NEWNS, || {
                crate::sys::mount::make_private().map(|()| "can be made".to_owned()).map_err(|e| e.to_string())
            }),
            proc: in_namespace(UnshareFlags::NEWNS | UnshareFlags::NEWPID, fresh_proc),
            emulators: in_namespace(UnshareFlags::NEWNS, || {
                let table = detached_filesystem("binfmt_misc", &[], Attributes::default());
                table.map(|_| "a step can register emulators for itself".to_owned()).map_err(|e| e.to_string())
            }),
            tools: newuidmap::look(uid, no_new_privileges, &bounding, &uids),
            bounding,
            supervisor: probe::supervisor(),
            tracing: probe::tracing(),
            landlock: probe::landlock_version(),
        }
    }

    /// Whether a capability is in effect.
    pub fn can(&self, capability: Capability) -> bool {
        self.effective.contains(&capability)
    }

    /// Whether root here can give ids of its own to a namespace below.
    pub fn root_maps_ranges(&self) -> bool {
        use Capability::{CAP_SETFCAP, CAP_SETGID, CAP_SETUID};
        self.uid == 0 && [CAP_SETUID, CAP_SETGID, CAP_SETFCAP].iter().all(|c| self.can(*c))
    }

    /// Whether AppArmor confines this process with a profile that is not rbuild's.
    pub fn confined_by_apparmor(&self) -> bool {
        self.label.as_deref().is_some_and(|l| l.ends_with("(enforce)") && !l.starts_with("rbuild-pod"))
    }
}

/// Asks in a child that entered a new user namespace, below the one that a build would enter.
fn in_namespace(more: UnshareFlags, ask: impl FnOnce() -> Result<String, String>) -> Result<String, String> {
    probe::result_in_child(|| {
        let entered = userns::enter().map_err(|e| e.to_string())?;
        let below = match entered.rung {
            userns::Rung::None => return Err(entered.reason.clone().unwrap_or_default()),
            // There, steps make no namespace of users.
            userns::Rung::Pod => more,
            userns::Rung::Range | userns::Rung::OneId => UnshareFlags::NEWUSER | more,
        };
        unshare(below).map_err(|e| format!("unshare: {e}"))?;
        ask()
    })
}

/// In a new pid namespace, a first process.
fn fresh_proc() -> Result<String, String> {
    use crate::sys::process::{Fork, exit_now, fork, wait};
    match fork().map_err(|e| e.to_string())? {
        Fork::Child => {
            let made = detached_filesystem("proc", &[], Attributes::default());
            exit_now(made.err().map_or(0, |e| if e.errno() == libc::EPERM { 1 } else { 2 }))
        }
        Fork::Parent(pid) => {
            match wait(pid).map_err(|e| e.to_string())?.0.code() {
                0 => Ok("steps get a process file system of their own".to_owned()),
                1 => Err("parts of the pod's `/proc` are covered: steps are traced, and get one that is put together"
                    .to_owned()),
                _ => Err("the kernel refuses one".to_owned()),
            }
        }
    }
}

fn label() -> Option<String> {
    let paths = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
    let text = paths.iter().find_map(|p| std::fs::read_to_string(p).ok())?;
    let text = text.trim_matches(['\0', '\n', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}
