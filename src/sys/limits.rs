//! The limits that the pod sets, as its cgroup and its file systems tell them. Reads only.

use super::cgroup::Cgroup;
use std::path::Path;

/// What the memory controller says of this process's cgroup, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The limit; `None` for no limit.
    pub limit: Option<u64>,
    /// The most that was in use at once, where the kernel keeps that.
    pub peak: Option<u64>,
    /// Processes that were killed because the limit was reached.
    pub kills: u64,
}

impl Memory {
    /// The memory figures of this process's cgroup.
    pub fn of_this_process() -> Memory {
        let Some(cgroup) = Cgroup::of_this_process() else { return Memory::default() };
        let figures = cgroup.figures();
        Memory { limit: figures.memory_limit, peak: figures.memory_peak, kills: figures.memory_kills }
    }
}

/// Room on the file system that holds `path`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What the file system can hold.
    pub total: u64,
    /// What is free for this process.
    pub free: u64,
}

impl Space {
    /// Room on the file system that holds `path`; `None` where it does not say.
    pub fn at(path: &Path) -> Option<Space> {
        let s = rustix::fs::statvfs(path).ok()?;
        Some(Space { total: s.f_blocks.saturating_mul(s.f_frsize), free: s.f_bavail.saturating_mul(s.f_frsize) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_a_size() {
        assert!(Space::at(Path::new("/")).is_some_and(|s| s.total >= s.free));
    }
}
