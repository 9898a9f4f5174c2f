//! Entering a user namespace: the first thing the builder does, while it has one thread.
//!
//! ```text
//! who we are                              what is tried, best first                                 rung
//! root with SYS_ADMIN in a pod's own
//!   user namespace (hostUsers: false)     stay                                                      Pod
//! any other root                          new namespace, all ids of this one, map written by us     Range
//!                                         new namespace, id 0 only                                  OneId
//! anybody else                            new namespace, ids of /etc/subuid by newuidmap            Range
//!                                         new namespace, the own id only                            OneId
//! (all refused)                           stay; no step can run                                     None
//! ```
//!
//! Each attempt is made on a *holder*, a forked child that unshares and waits: only a namespace whose maps are complete is
//! joined (setns), so a refusal half-way leaves this process as it was. Where setns itself is refused, the one-id map is
//! made in the process.
//!
//! Failing is not an error here: images without RUN steps can be built on any rung. [`Entered::reason`] keeps the reason
//! for the step that needs more.

use super::idmap::{self, Extent, IdMap};
use super::passwd;
use super::process::{Fork, fork};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// How the process got the privilege to mount and to give files to other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// A new user namespace with a range of ids.
    Range,
    /// A new user namespace that holds the process's own id only.
    OneId,
    /// The user namespace that the pod itself has, with SYS_ADMIN in it.
    Pod,
    /// No user namespace: nothing can be mounted.
    None,
}

/// What [`enter`] achieved.
#[derive(Debug, Clone)]
pub struct Entered {
    /// The rung.
    pub rung: Rung,
    /// The ids that can be stored natively.
    pub map: IdMap,
    /// Why a better rung could not be had: the call, its error, the permission that is missing.
    pub reason: Option<String>,
    /// The pod field or node setting that would help.
    pub hint: Option<String>,
}

/// Entering left the process in a state in which it must not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than one thread runs.
    #[error("cannot enter a user namespace: other threads are running")]
    Threads,
}

impl crate::error::Classified for Error {
    fn kind(&self) -> crate::error::Kind {
        crate::error::Kind::System
    }
}

static ENTERED: OnceLock<Entered> = OnceLock::new();
static CALLER: OnceLock<u32> = OnceLock::new();

/// The user who started this process: inside a namespace that [`enter`] made, the one outside.
pub fn caller() -> u32 {
    CALLER.get().copied().unwrap_or_else(|| rustix::process::getuid().as_raw())
}

/// What [`enter`] achieved in this process, if it was called.
pub fn entered() -> Option<&'static Entered> {
    ENTERED.get()
}

/// Enters the best user namespace that the pod allows. To be called before any thread exists; later calls answer what the
/// first one did.
pub fn enter() -> Result<&'static Entered, Error> {
    if let Some(entered) = ENTERED.get() {
        return Ok(entered);
    }
    // The kernel would answer EINVAL, far from the cause.
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(Error::Threads);
    }
    CALLER.get_or_init(|| rustix::process::getuid().as_raw());
    let before = idmap::own();
    let root = rustix::process::geteuid().is_root();
    let admin = has_capability(caps::Capability::CAP_SYS_ADMIN);

    let (rung, failures) = if root && admin && !before.0.is_empty() && !idmap::is_full(&before.0) {
        (Rung::Pod, Vec::new())
    } else {
        climb(root, &before)
    };

    let after = idmap::own();
    let (uids, gids) = match rung {
        Rung::Range | Rung::OneId => (idmap::compose(&after.0, &before.0), idmap::compose(&after.1, &before.1)),
        Rung::Pod | Rung::None => after,
    };
    // Root could give files to others without a namespace too. But there steps are supervised, and their supervisor keeps
    // owners for them itself.
    let map = idmap::classify(rung != Rung::None, &uids, &gids);
    idmap::set_current(map, &uids, &gids);
    let reason =
        (!failures.is_empty()).then(|| failures.iter().map(|f| f.message.clone()).collect::<Vec<_>>().join("; "));
    let hint = failures.last().and_then(|f| f.hint.clone());
    Ok(ENTERED.get_or_init(|| Entered { rung, map, reason, hint }))
}

/// Stays as this process is, in the place of [`enter`]: nothing can be mounted, and owners of files are recorded.
pub fn stay() -> &'static Entered {
    ENTERED.get_or_init(|| {
        let (uids, gids) = idmap::own();
        idmap::set_current(IdMap::Plain, &uids, &gids);
        Entered { rung: Rung::None, map: IdMap::Plain, reason: None, hint: None }
    })
}

/// One refused attempt.
#[derive(Debug)]
struct Failure {
    message: String,
    hint: Option<String>,
    /// Whether another map may still succeed.
    go_on: bool,
    /// Whether joining was what failed, so that the same map may succeed within the process.
    at_setns: bool,
}

impl Failure {
    fn new(message: String) -> Failure {
        Failure { message, hint: None, go_on: true, at_setns: false }
    }
}

/// Tries the maps from the widest to the narrowest.
fn climb(root: bool, own: &(Vec<Extent>, Vec<Extent>)) -> (Rung, Vec<Failure>) {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let mut failures = Vec::new();

    let ranged =
        if root { attempt(&Maps::identity(own)) } else { subordinate(uid, gid).and_then(|maps| attempt(&maps)) };
    match ranged {
        Ok(()) => return (Rung::Range, failures),
        Err(f) => failures.push(f),
    }
    if !failures.iter().all(|f| f.go_on) {
        return (Rung::None, failures);
    }
    let single = Maps::Written {
        uids: vec![Extent { inside: 0, outside: uid, count: 1 }],
        gids: vec![Extent { inside: 0, outside: gid, count: 1 }],
        deny_setgroups: true,
    };
    match attempt(&single) {
        Ok(()) => (Rung::OneId, failures),
        Err(f) if f.at_setns => match within_process(&single) {
            Ok(()) => (Rung::OneId, failures),
            Err(f) => {
                failures.push(f);
                (Rung::None, failures)
            }
        },
        Err(f) => {
            failures.push(f);
            (Rung::None, failures)
        }
    }
}

/// How the maps of a new namespace get written.
enum Maps {
    /// By ourselves.
    Written { uids: Vec<Extent>, gids: Vec<Extent>, deny_setgroups: bool },
    /// By `newuidmap` and `newgidmap`.
    Tools { uids: Vec<Extent>, gids: Vec<Extent> },
}

impl Maps {
    /// Everything that the current namespace maps, unchanged.
    fn identity(own: &(Vec<Extent>, Vec<Extent>)) -> Maps {
        let same = |extents: &[Extent]| extents.iter().map(|e| Extent { outside: e.inside, ..*e }).collect();
        Maps::Written { uids: same(&own.0), gids: same(&own.1), deny_setgroups: false }
    }
}

/// The maps that `/etc/subuid` and `/etc/subgid` allow this user.
fn subordinate(uid: u32, gid: u32) -> Result<Maps, Failure> {
    let number = uid.to_string();
    let passwd_file = std::fs::read("/etc/passwd").unwrap_or_default();
    let logins: Vec<String> = passwd::users(&passwd_file).filter(|u| u.uid == uid).map(|u| u.name).collect();
    let mut names: Vec<&str> = logins.iter().map(String::as_str).collect();
    names.push(&number);
    let read = |path: &str, own: u32| {
        let ranges = passwd::subordinate_ranges(&std::fs::read(path).unwrap_or_default(), &names);
        if ranges.is_empty() {
            return Err(Failure {
                hint: Some(format!("add a line `{}:100000:65536` to `{path}` of the builder's image", names[0])),
                ..Failure::new(format!("`{path}` has no range for user {uid}"))
            });
        }
        let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
        let mut next: u32 = 1;
        for (start, count) in ranges {
            let Some(end) = next.checked_add(count) else { break };
            extents.push(Extent { inside: next, outside: start, count });
            next = end;
        }
        Ok(extents)
    };
    Ok(Maps::Tools { uids: read("/etc/subuid", uid)?, gids: read("/etc/subgid", gid)? })
}

/// Makes a namespace with these maps and joins it.
fn attempt(maps: &Maps) -> Result<(), Failure> {
    let holder = Holder::start()?;
    match maps {
        Maps::Written { uids, gids, deny_setgroups } => {
            write_maps(&holder.pid.to_string(), uids, gids, *deny_setgroups)?
        }
        Maps::Tools { uids, gids } => {
            // Both at once: each is an exec of a program that does next to nothing.
            let started =
                [("newuidmap", uids), ("newgidmap", gids)].map(|(tool, map)| start_tool(tool, holder.pid, map));
            for result in started.map(|(tool, child)| finish_tool(tool, child)) {
                result?;
            }
        }
    }
    let path = format!("/proc/{}/ns/user", holder.pid);
    let at_setns =
        |e: io::Error| Failure { at_setns: true, ..Failure::new(format!("cannot join a user namespace: setns: {e}")) };
    let namespace = std::fs::File::open(path).map_err(at_setns)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User)).map_err(|e| at_setns(e.into()))
}

/// Makes the one-id namespace of this very process; for where setns is refused.
fn within_process(maps: &Maps) -> Result<(), Failure> {
    let Maps::Written { uids, gids, deny_setgroups } = maps else {
        return Err(Failure::new("setns is refused".to_owned()));
    };
    unshare_user().map_err(|e| explain_unshare(&e))?;
    write_maps("self", uids, gids, *deny_setgroups)
}

fn unshare_user() -> io::Result<()> {
    super::process::unshare(UnshareFlags::NEWUSER)
}

fn write_maps(pid: &str, uids: &[Extent], gids: &[Extent], deny_setgroups: bool) -> Result<(), Failure> {
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{pid}/{name}");
        // One write: the kernel takes a map whole or not at all.
        let result = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut f| f.write_all(text.as_bytes()));
        result.map_err(|e| explain_map(name, &e))
    };
    if deny_setgroups {
        write("setgroups", "deny")?;
    }
    write("gid_map", &idmap::format(gids))?;
    write("uid_map", &idmap::format(uids))
}

fn start_tool(tool: &'static str, pid: i32, map: &[Extent]) -> (&'static str, io::Result<std::process::Child>) {
    let numbers = map.iter().flat_map(|e| [e.inside, e.outside, e.count]).map(|n| n.to_string());
    let child = Command::new(tool)
        .arg(pid.to_string())
        .args(numbers)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    (tool, child)
}

fn finish_tool(tool: &str, child: io::Result<std::process::Child>) -> Result<(), Failure> {
    let escalation = || {
        Some(
            "a range of ids needs `newuidmap` and `newgidmap` with file capabilities in the builder's image and \
             `allowPrivilegeEscalation: true` in the pod"
                .to_owned(),
        )
    };
    let output = match child.and_then(std::process::Child::wait_with_output) {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Failure { hint: escalation(), ..Failure::new(format!("`{tool}` is not installed")) });
        }
        Err(e) => return Err(Failure { hint: escalation(), ..Failure::new(format!("cannot run `{tool}`: {e}")) }),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first = text.lines().next().unwrap_or("").trim().trim_start_matches(tool).trim_start_matches(": ");
    let first = if first.is_empty() { "no message" } else { first };
    Err(Failure { hint: escalation(), ..Failure::new(format!("`{tool}` failed ({}): {first}", output.status)) })
}

/// A child in a new user namespace that lives until this value is dropped.
struct Holder {
    pid: i32,
    /// The child ends when this closes.
    _leash: OwnedFd,
}

impl Holder {
    fn start() -> Result<Holder, Failure> {
        let system = |e: io::Error| Failure::new(format!("cannot fork: {e}"));
        let (ready_read, ready_write) = io::pipe().map_err(system)?;
        let (leash_read, leash_write) = io::pipe().map_err(system)?;
        match fork().map_err(system)? {
            Fork::Child => {
                drop((ready_read, leash_write));
                let errno = unshare_user().err().and_then(|e| e.raw_os_error()).unwrap_or(0);
                let mut ready = ready_write;
                let _ = ready.write_all(&errno.to_ne_bytes());
                drop(ready);
                let mut leash = leash_read;
                let _ = leash.read(&mut [0]);
                super::process::exit_now(0)
            }
            Fork::Parent(pid) => {
                drop((ready_write, leash_read));
                let holder = Holder { pid, _leash: leash_write.into() };
                let mut errno = [0; 4];
                let mut ready = ready_read;
                ready.read_exact(&mut errno).map_err(system)?;
                match i32::from_ne_bytes(errno) {
                    0 => Ok(holder),
                    errno => Err(explain_unshare(&io::Error::from_raw_os_error(errno))),
                }
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        super::process::kill_and_reap(self.pid);
    }
}

fn has_capability(capability: caps::Capability) -> bool {
    caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false)
}

fn sysctl(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|t| t.trim().to_owned())
}

fn under_seccomp() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// What a refused `unshare(CLONE_NEWUSER)` means, and the field that lifts it.
fn explain_unshare(e: &io::Error) -> Failure {
    let call = format!("unshare(CLONE_NEWUSER): {e}");
    let (why, hint) = match e.raw_os_error() {
        Some(libc::ENOSPC) | Some(libc::EUSERS) => match sysctl("user/max_user_namespaces").as_deref() {
            Some("0") => (
                "the node allows no user namespaces (`user.max_user_namespaces` is 0)".to_owned(),
                "set the node's sysctl `user.max_user_namespaces` to at least 1000".to_owned(),
            ),
            _ => (
                "too many user namespaces, or too deeply nested".to_owned(),
                "raise the node's sysctl `user.max_user_namespaces`, or end other builds".to_owned(),
            ),
        },
        _ if sysctl("kernel/unprivileged_userns_clone").as_deref() == Some("0") => (
            "the node keeps user namespaces from unprivileged users (`kernel.unprivileged_userns_clone` is 0)"
                .to_owned(),
            "set the node's sysctl `kernel.unprivileged_userns_clone` to 1".to_owned(),
        ),
        _ if under_seccomp() => (
            "the pod's seccomp profile refuses new user namespaces".to_owned(),
            "set `securityContext.seccompProfile` to a `Localhost` profile that allows unshare and mount, or to \
             `type: Unconfined`; or set `hostUsers: false` and add the capability `SYS_ADMIN`"
                .to_owned(),
        ),
        Some(libc::ENOSYS) | Some(libc::EINVAL) => (
            "the node's kernel has no user namespaces".to_owned(),
            "use a node whose kernel has CONFIG_USER_NS".to_owned(),
        ),
        _ => (
            "the node refuses new user namespaces".to_owned(),
            "look for an AppArmor, SELinux or other policy of the node that denies `userns_create`".to_owned(),
        ),
    };
    // No other map helps where no namespace can be had.
    Failure { message: format!("{why}: {call}"), hint: Some(hint), go_on: false, at_setns: false }
}

/// What a refused write to a map file means.
fn explain_map(file: &str, e: &io::Error) -> Failure {
    let mut failure = Failure::new(format!("cannot write `{file}` of a new user namespace: {e}"));
    failure.hint = Some(if sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        "the node's AppArmor restricts user namespaces: set `securityContext.appArmorProfile.type: Unconfined`, or the \
         node's sysctl `kernel.apparmor_restrict_unprivileged_userns` to 0"
            .to_owned()
    } else {
        "root of a pod needs the capabilities `SETUID`, `SETGID` and `SETFCAP` to make a user namespace; a pod with \
         `runAsUser: 1000` needs none"
            .to_owned()
    });
    failure
}
