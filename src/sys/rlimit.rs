//! Limits of a process, by the names that command lines have for them, and the CPUs that it runs on.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};
use std::io;

/// A resource that setrlimit(2) limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind(usize);

const KINDS: [(&str, Resource); 15] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

impl Kind {
    /// The resource of this name, as Docker and buildah have them: `nofile`, `nproc`, …
    pub fn named(name: &str) -> Option<Kind> {
        KINDS.iter().position(|(n, _)| n.eq_ignore_ascii_case(name)).map(Kind)
    }

    /// The names there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(name, _)| *name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.get(self.0).map_or("", |(name, _)| name)
    }

    fn resource(self) -> io::Result<Resource> {
        KINDS.get(self.0).map(|(_, r)| *r).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// The hard limit of this process; `None`: unlimited.
    pub fn hard_limit(self) -> Option<u64> {
        self.resource().ok().and_then(|r| getrlimit(r).maximum)
    }
}

/// Lets this process hold as many descriptors open as its hard limit says. Children started before keep theirs.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Sets the limits of this process and its children; `None`: unlimited.
pub fn set(kind: Kind, soft: Option<u64>, hard: Option<u64>) -> io::Result<()> {
    Ok(setrlimit(kind.resource()?, Rlimit { current: soft, maximum: hard })?)
}

/// Lets this thread and what it starts run on these CPUs only.
pub fn only_cpus(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
        set.set(*cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The CPUs that this process may run on.
pub fn cpus() -> Vec<usize> {
    rustix::thread::sched_getaffinity(None)
        .map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
        .unwrap_or_default()
}

/// The number that a process carries in the place of a limit that Linux does not use (`RLIMIT_LOCKS`); `None` where the
/// limit is as it always is, unlimited. Children have the number of their parent, and `execve` keeps it.
pub fn mark(pid: i32) -> io::Result<Option<u64>> {
    // SAFETY: plain data, which the kernel fills in.
    let (answer, limit) = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        (libc::prlimit(pid, libc::RLIMIT_LOCKS, std::ptr::null(), &mut limit), limit)
    };
    match answer {
        0 => Ok((limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a process another number.
pub fn set_mark(pid: i32, number: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: number, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the struct lives during the call, and the kernel only reads it.
    match unsafe { libc::prlimit(pid, libc::RLIMIT_LOCKS, &limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_limits() {
        for name in Kind::names() {
            assert_eq!(Kind::named(&name.to_uppercase()).unwrap().name(), name);
        }
        assert_eq!(Kind::named("nosuch"), None);
        let own = getrlimit(Resource::Nofile).maximum;
        assert_eq!(Kind::named("nofile").unwrap().hard_limit(), own);
        assert!(!cpus().is_empty());
    }
}
