//! The limits that the pod sets, as its cgroup and its file systems tell them. Reads only.
//!
//! A container sees its own cgroup either at the root of the cgroup mount (cgroup namespace, or the runtime's bind mount) or
//! below the path that `/proc/self/cgroup` names; both are tried, versions 2 and 1.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

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

/// A limit of cgroup version 1 above this means "none": the kernel rounds its largest number down to a page.
const V1_NO_LIMIT: u64 = 1 << 60;

impl Memory {
    /// The memory figures of this process's cgroup.
    pub fn of_this_process() -> Memory {
        static CONTROLLER: OnceLock<Option<Controller>> = OnceLock::new();
        let controller = CONTROLLER.get_or_init(|| {
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            Controller::find(Path::new("/sys/fs/cgroup"), &own)
        });
        controller.as_ref().map(Controller::read).unwrap_or_default()
    }
}

/// A directory of the memory controller.
#[derive(Debug)]
enum Controller {
    V2(PathBuf),
    V1(PathBuf),
}

impl Controller {
    /// The directory below the cgroup mount at `root` that has figures for a process whose `/proc/PID/cgroup` reads `own`.
    fn find(root: &Path, own: &str) -> Option<Controller> {
        let mut candidates = vec![];
        for line in own.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                let dirs = [root.join(path), root.join("unified").join(path), root.to_owned()];
                candidates.extend(dirs.map(Controller::V2));
            } else if controllers.split(',').any(|c| c == "memory") {
                candidates.extend([root.join("memory").join(path), root.join("memory")].map(Controller::V1));
            }
        }
        candidates.into_iter().find(|c| c.read() != Memory::default())
    }

    fn read(&self) -> Memory {
        match self {
            Controller::V2(dir) => Memory {
                limit: number(&dir.join("memory.max")),
                peak: number(&dir.join("memory.peak")),
                kills: field(&dir.join("memory.events"), "oom_kill"),
            },
            Controller::V1(dir) => Memory {
                limit: number(&dir.join("memory.limit_in_bytes")).filter(|n| *n < V1_NO_LIMIT),
                peak: number(&dir.join("memory.max_usage_in_bytes")),
                kills: field(&dir.join("memory.oom_control"), "oom_kill"),
            },
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &PathBuf, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|l| l.split_once(' ').filter(|(n, _)| *n == name).map(|(_, v)| v.trim().parse()));
    value.and_then(Result::ok).unwrap_or(0)
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

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn read(root: &Path, own: &str) -> Memory {
        Controller::find(root, own).map(|c| c.read()).unwrap_or_default()
    }

    #[test]
    fn version_2_is_read_below_its_path_or_at_the_root() {
        let files =
            [("pod/memory.max", "1000\n"), ("pod/memory.peak", "900\n"), ("pod/memory.events", "low 0\noom_kill 2\n")];
        let want = Memory { limit: Some(1000), peak: Some(900), kills: 2 };
        assert_eq!(read(tree(&files).path(), "0::/pod\n"), want);
        let at_root = files.map(|(n, c)| (n.strip_prefix("pod/").unwrap(), c));
        assert_eq!(read(tree(&at_root).path(), "0::/somewhere/else\n"), want);
        let unlimited = tree(&[("pod/memory.max", "max\n"), ("pod/memory.events", "oom_kill 0\n")]);
        assert_eq!(read(unlimited.path(), "0::/pod\n"), Memory::default());
    }

    #[test]
    fn version_1_is_read_too() {
        let files = [
            ("memory/pod/memory.limit_in_bytes", "4096\n"),
            ("memory/pod/memory.max_usage_in_bytes", "4000\n"),
            ("memory/pod/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ];
        let dir = tree(&files);
        let want = Memory { limit: Some(4096), peak: Some(4000), kills: 1 };
        assert_eq!(read(dir.path(), "4:cpu,cpuacct:/x\n3:memory:/pod\n"), want);
        let none = tree(&[("memory/memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(read(none.path(), "3:memory:/\n").limit, None);
    }

    #[test]
    fn nothing_there_is_no_limit() {
        assert_eq!(read(Path::new("/nonexistent"), "0::/\n:\ngarbage"), Memory::default());
        assert!(Space::at(Path::new("/")).is_some_and(|s| s.total >= s.free));
    }
}
