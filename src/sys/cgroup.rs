//! The cgroup of this process: what it may use, what it has used, and a child of it for a step.
//!
//! A container sees its own cgroup either at the root of the mount (a cgroup namespace, or the runtime's bind) or below the
//! path that `/proc/self/cgroup` names; both are tried, versions 2 and 1. `RBUILD_CGROUP_ROOT` names another mount than
//! `/sys/fs/cgroup`.
//!
//! | figure | version 2 | version 1 |
//! |---|---|---|
//! | memory limit, peak, kills | `memory.max`, `memory.peak`, `memory.events` | `memory.limit_in_bytes`, `memory.max_usage_in_bytes`, `memory.oom_control` |
//! | processor limit, time | `cpu.max`, `cpu.stat` | `cpu.cfs_quota_us` over `cpu.cfs_period_us`, `cpuacct.usage` and `cpuacct.stat` |
//! | storage | `io.stat` | `blkio.throttle.io_service_bytes_recursive` |
//! | processes | `pids.max`, `pids.peak` | `pids.max` |
//!
//! A limit may also be set above: of all that can be seen, the lowest counts.
//!
//! Where the cgroup is version 2 and this process may make children of it (it was *delegated*), each step gets one, and
//! exact figures come from there. Controllers are never switched on for the children: from then on the kernel would refuse
//! new processes in the pod's own cgroup, and with them `kubectl exec`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The variable that names another mount.
pub const ROOT_VARIABLE: &str = "RBUILD_CGROUP_ROOT";
const DEFAULT_ROOT: &str = "/sys/fs/cgroup";

/// A limit of version 1 above this means "none": the kernel rounds its largest number down to a page.
const V1_NO_LIMIT: u64 = 1 << 60;
/// Ticks a second in files that users read, on every processor that Linux runs on.
const TICKS: u64 = 100;

/// Which hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One directory for each controller.
    V1,
    /// One directory for all.
    V2,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    /// Where the mount is.
    root: PathBuf,
    /// Directories, by controller; in version 2 the empty name has the one there is.
    directories: BTreeMap<&'static str, PathBuf>,
}

/// What a cgroup may use and has used. Sizes are in bytes; `None`: no limit, or nobody counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Most memory.
    pub memory_limit: Option<u64>,
    /// Most memory that was in use at once.
    pub memory_peak: Option<u64>,
    /// Processes killed because the limit was reached.
    pub memory_kills: u64,
    /// Most processor time, in thousandths of a processor.
    pub cpu_limit: Option<u64>,
    /// Processor time in user mode.
    pub cpu_user: Option<Duration>,
    /// Processor time in the kernel.
    pub cpu_system: Option<Duration>,
    /// How long processes were kept waiting by the limit.
    pub cpu_throttled: Option<Duration>,
    /// Read from storage.
    pub io_read: Option<u64>,
    /// Written to storage.
    pub io_written: Option<u64>,
    /// Most processes and threads at once.
    pub pids_peak: Option<u64>,
    /// How many there may be.
    pub pids_limit: Option<u64>,
}

const V1_CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "blkio", "pids"];

impl Cgroup {
    /// The cgroup of this process; `None` where none can be seen.
    pub fn of_this_process() -> Option<&'static Cgroup> {
        static OWN: OnceLock<Option<Cgroup>> = OnceLock::new();
        let found = OWN.get_or_init(|| {
            let root = std::env::var_os(ROOT_VARIABLE).filter(|r| !r.is_empty()).unwrap_or(DEFAULT_ROOT.into());
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            Cgroup::find(Path::new(&root), &own)
        });
        found.as_ref()
    }

    /// The cgroup below the mount at `root` of a process whose `/proc/PID/cgroup` reads `own`.
    pub fn find(root: &Path, own: &str) -> Option<Cgroup> {
        let mut lines = Vec::new();
        for line in own.lines() {
            let mut parts = line.splitn(3, ':');
            if let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) {
                lines.push((controllers, path.trim_start_matches('/')));
            }
        }
        // With both versions mounted the controllers are with the first.
        let mut directories = BTreeMap::new();
        for name in V1_CONTROLLERS {
            let line = lines.iter().find(|(controllers, _)| controllers.split(',').any(|c| c == name));
            let path = line.map_or("", |(_, path)| path);
            // `cpu` and `cpuacct` may share a mount, which has links of both names.
            let found = [root.join(name).join(path), root.join(name)].into_iter().find(|d| holds_figures(d, name));
            directories.extend(found.map(|directory| (name, directory)));
        }
        if !directories.is_empty() {
            return Some(Cgroup { version: Version::V1, root: root.to_owned(), directories });
        }
        let path = lines.iter().find(|(controllers, _)| controllers.is_empty()).map_or("", |(_, path)| path);
        let mut places = [root.join(path), root.join("unified").join(path), root.to_owned()].into_iter();
        let directory = places.find(|d| d.join("cgroup.procs").exists() || d.join("cpu.stat").exists())?;
        Some(Cgroup { version: Version::V2, root: root.to_owned(), directories: [("", directory)].into() })
    }

    /// Which version its figures are of.
    pub fn version(&self) -> Version {
        self.version
    }

    fn file(&self, controller: &'static str, name: &str) -> Option<PathBuf> {
        let key = if self.version == Version::V2 { "" } else { controller };
        self.directories.get(key).map(|directory| directory.join(name))
    }

    /// Its figures now.
    pub fn figures(&self) -> Figures {
        match self.version {
            Version::V2 => self.directories.get("").map(|d| self.figures_v2(d)).unwrap_or_default(),
            Version::V1 => self.figures_v1(),
        }
    }

    fn figures_v2(&self, own: &Path) -> Figures {
        let mut made = counters_v2(own);
        for directory in own.ancestors().take_while(|d| d.starts_with(&self.root)) {
            made.memory_limit = least(made.memory_limit, number(&directory.join("memory.max")));
            made.cpu_limit = least(made.cpu_limit, cpu_max(&text(&directory.join("cpu.max"))));
            made.pids_limit = least(made.pids_limit, number(&directory.join("pids.max")));
        }
        made
    }

    fn figures_v1(&self) -> Figures {
        let read = |controller, name: &str| self.file(controller, name).map(|p| text(&p)).unwrap_or_default();
        let parsed = |controller, name: &str| read(controller, name).trim().parse::<u64>().ok();
        let ticks = |name: &str| {
            let ticks = field(&read("cpuacct", "cpuacct.stat"), name)?;
            Some(Duration::from_millis(ticks.saturating_mul(1000 / TICKS)))
        };
        let quota = read("cpu", "cpu.cfs_quota_us").trim().parse::<i64>().ok().and_then(|q| u64::try_from(q).ok());
        let period = parsed("cpu", "cpu.cfs_period_us").filter(|p| *p > 0);
        let io = read("blkio", "blkio.throttle.io_service_bytes_recursive");
        let io = if io.is_empty() { read("blkio", "blkio.throttle.io_service_bytes") } else { io };
        let moved = |word: &str| {
            let lines = io.lines().filter_map(|l| l.split_once(' ')?.1.split_once(' '));
            let mut all =
                lines.filter(|(w, _)| *w == word).filter_map(|(_, n)| n.trim().parse::<u64>().ok()).peekable();
            all.peek()?;
            Some(all.sum())
        };
        Figures {
            memory_limit: parsed("memory", "memory.limit_in_bytes").filter(|n| *n < V1_NO_LIMIT),
            memory_peak: parsed("memory", "memory.max_usage_in_bytes"),
            memory_kills: field(&read("memory", "memory.oom_control"), "oom_kill").unwrap_or(0),
            cpu_limit: quota.zip(period).map(|(quota, period)| quota.saturating_mul(1000) / period),
            cpu_user: ticks("user"),
            cpu_system: ticks("system"),
            cpu_throttled: field(&read("cpu", "cpu.stat"), "throttled_time").map(Duration::from_nanos),
            io_read: moved("Read"),
            io_written: moved("Write"),
            pids_peak: None,
            pids_limit: parsed("pids", "pids.max"),
        }
    }

    /// Whether children can be made: version 2, given to this user by whoever made the pod.
    pub fn is_delegated(&self) -> bool {
        let Some(own) = self.directories.get("").filter(|_| self.version == Version::V2) else { return false };
        let may = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
        may(own) && may(&own.join("cgroup.procs"))
    }

    /// A new child. `None` where none can be made.
    pub fn child(&self) -> Option<Child> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if !self.is_delegated() {
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = self.directories.get("")?.join(format!("rbuild-{}-{number}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        Some(Child { directory })
    }
}

/// The cgroup of a step. It goes away with this value, if nothing runs in it any more.
#[derive(Debug)]
pub struct Child {
    directory: PathBuf,
}

impl Child {
    /// Moves a process, and with it all that it will start.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn enter(&self, pid: i32) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string())
    }

    /// What was used in it. Figures of controllers that the pod's cgroup does not hand down are `None`.
    pub fn figures(&self) -> Figures {
        counters_v2(&self.directory)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that is left (a process that would not die) goes with the pod.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Whether a directory of version 1 is one of this controller, and not an empty place for a mount.
fn holds_figures(directory: &Path, controller: &str) -> bool {
    let file = match controller {
        "memory" => "memory.limit_in_bytes",
        "cpu" => "cpu.cfs_quota_us",
        "cpuacct" => "cpuacct.usage",
        "blkio" => "blkio.throttle.io_service_bytes",
        _ => "pids.current",
    };
    directory.join(file).exists()
}

/// What a directory of version 2 counts, without limits.
fn counters_v2(directory: &Path) -> Figures {
    let cpu = text(&directory.join("cpu.stat"));
    let micros = |name: &str| field(&cpu, name).map(Duration::from_micros);
    let io = text(&directory.join("io.stat"));
    let moved = |key: &str| {
        let words = io.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let mut all = words.filter_map(|n| n.parse::<u64>().ok()).peekable();
        all.peek()?;
        Some(all.sum())
    };
    Figures {
        memory_peak: number(&directory.join("memory.peak")),
        memory_kills: field(&text(&directory.join("memory.events")), "oom_kill").unwrap_or(0),
        cpu_user: micros("user_usec"),
        cpu_system: micros("system_usec"),
        cpu_throttled: micros("throttled_usec"),
        io_read: moved("rbytes"),
        io_written: moved("wbytes"),
        pids_peak: number(&directory.join("pids.peak")),
        ..Figures::default()
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A file with one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    text(path).trim().parse().ok()
}

/// The number behind a name, in a file of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.split_once(' ').filter(|(n, _)| *n == name)?.1.trim().parse().ok())
}

/// `50000 100000`: so many microseconds in each so many. In thousandths of a processor.
fn cpu_max(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let period: u64 = period.parse().ok().filter(|p| *p > 0)?;
    quota.parse::<u64>().ok().map(|quota| quota.saturating_mul(1000) / period)
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
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

    fn figures(root: &Path, own: &str) -> Figures {
        Cgroup::find(root, own).map(|c| c.figures()).unwrap_or_default()
    }

    const V2: [(&str, &str); 9] = [
        ("cgroup.procs", "1\n"),
        ("cpu.max", "150000 100000\n"),
        ("cpu.stat", "usage_usec 3000000\nuser_usec 2500000\nsystem_usec 500000\nnr_throttled 4\nthrottled_usec 70\n"),
        ("io.stat", "8:0 rbytes=1000 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n253:1 rbytes=24 wbytes=4\n"),
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n"),
        ("memory.max", "1000\n"),
        ("memory.peak", "900\n"),
        ("pids.max", "max\n"),
        ("pids.peak", "12\n"),
    ];

    fn v2_figures() -> Figures {
        Figures {
            memory_limit: Some(1000),
            memory_peak: Some(900),
            memory_kills: 2,
            cpu_limit: Some(1500),
            cpu_user: Some(Duration::from_millis(2500)),
            cpu_system: Some(Duration::from_millis(500)),
            cpu_throttled: Some(Duration::from_micros(70)),
            io_read: Some(1024),
            io_written: Some(24),
            pids_peak: Some(12),
            pids_limit: None,
        }
    }

    #[test]
    fn version_2_is_read_below_its_path_or_at_the_root() {
        assert_eq!(figures(tree(&V2).path(), "0::/somewhere/else\n"), v2_figures());
        let below: Vec<(String, &str)> = V2.iter().map(|(n, c)| (format!("kube/pod/{n}"), *c)).collect();
        let mut below: Vec<(&str, &str)> = below.iter().map(|(n, c)| (n.as_str(), *c)).collect();
        assert_eq!(figures(tree(&below).path(), "0::/kube/pod\n"), v2_figures());
        // The pod's limit stands above that of its container.
        below.extend([("kube/memory.max", "800\n"), ("kube/cpu.max", "max 100000\n"), ("kube/pids.max", "100\n")]);
        let found = figures(tree(&below).path(), "0::/kube/pod\n");
        assert_eq!((found.memory_limit, found.cpu_limit, found.pids_limit), (Some(800), Some(1500), Some(100)));
    }

    #[test]
    fn version_1_is_read_too() {
        let dir = tree(&[
            ("memory/pod/memory.limit_in_bytes", "4096\n"),
            ("memory/pod/memory.max_usage_in_bytes", "4000\n"),
            ("memory/pod/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            ("cpu/cpu.cfs_quota_us", "50000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("cpu/cpu.stat", "nr_periods 9\nnr_throttled 1\nthrottled_time 5000\n"),
            ("cpuacct/cpuacct.usage", "1\n"),
            ("cpuacct/cpuacct.stat", "user 250\nsystem 50\n"),
            ("blkio/pod/blkio.throttle.io_service_bytes", "x\n"),
            ("blkio/pod/blkio.throttle.io_service_bytes_recursive", "8:0 Read 7\n8:0 Write 3\n8:1 Read 1\nTotal 11\n"),
            ("pids/pod/pids.current", "3\n"),
            ("pids/pod/pids.max", "77\n"),
        ]);
        let own = "5:pids:/pod\n4:cpu,cpuacct:/gone\n3:memory:/pod\n2:blkio:/pod\n0::/\n";
        let wanted = Figures {
            memory_limit: Some(4096),
            memory_peak: Some(4000),
            memory_kills: 1,
            cpu_limit: Some(500),
            cpu_user: Some(Duration::from_millis(2500)),
            cpu_system: Some(Duration::from_millis(500)),
            cpu_throttled: Some(Duration::from_micros(5)),
            io_read: Some(8),
            io_written: Some(3),
            pids_peak: None,
            pids_limit: Some(77),
        };
        assert_eq!(figures(dir.path(), own), wanted);
        assert_eq!(Cgroup::find(dir.path(), own).unwrap().version(), Version::V1);
        let none = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        let found = figures(none.path(), "3:memory:/\n");
        assert_eq!((found.memory_limit, found.cpu_limit, found.io_read), (None, None, None));
    }

    #[test]
    fn without_limits_and_without_anything() {
        let dir = tree(&[("cgroup.procs", ""), ("memory.max", "max\n"), ("cpu.max", "max 100000\n"), ("io.stat", "")]);
        assert_eq!(figures(dir.path(), "0::/\n"), Figures::default());
        assert_eq!(Cgroup::find(Path::new("/nonexistent"), "0::/\n:\ngarbage"), None);
    }

    #[test]
    fn a_delegated_cgroup_has_children() {
        let dir = tree(&V2);
        let cgroup = Cgroup::find(dir.path(), "0::/\n").unwrap();
        assert!(cgroup.is_delegated());
        let child = cgroup.child().unwrap();
        let place = child.directory.clone();
        assert!(place.starts_with(dir.path()) && place != cgroup.child().unwrap().directory);
        child.enter(42).unwrap();
        assert_eq!(fs::read_to_string(place.join("cgroup.procs")).unwrap(), "42");
        // The kernel would have made these, and takes them with the directory.
        fs::write(place.join("cpu.stat"), "usage_usec 3\nuser_usec 2\nsystem_usec 1\n").unwrap();
        assert_eq!(child.figures().cpu_user, Some(Duration::from_micros(2)));
        assert_eq!((child.figures().memory_peak, child.figures().io_read), (None, None));
        for name in ["cpu.stat", "cgroup.procs"] {
            fs::remove_file(place.join(name)).unwrap();
        }
        drop(child);
        assert!(!place.exists());
        // Version 1 has no delegation.
        let dir = tree(&[("memory/memory.limit_in_bytes", "1\n")]);
        assert!(Cgroup::find(dir.path(), "").unwrap().child().is_none());
    }
}
