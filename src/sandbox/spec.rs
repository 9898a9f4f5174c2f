//! What a step is: the input of [`run`](super::run).

use super::hidden::Hidden;
use crate::archive::{self, merged::Merged, record::Records};
use crate::snapshot;
use crate::supervisor::ids::Credentials;
use crate::sys::passwd::UserIds;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// One command on one root file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepSpec {
    /// The root file system.
    pub root: Root,
    /// Program and arguments; a name without `/` is looked for in the `PATH` of `env`.
    #[serde(with = "super::text::list")]
    pub argv: Vec<OsString>,
    /// The whole environment of the command.
    #[serde(with = "super::text::pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// Variables with secret values, on top of `env`.
    pub secret_env: Vec<(String, Hidden)>,
    /// Working directory, absolute in the image; made where it does not exist.
    #[serde(with = "super::text::one")]
    pub cwd: PathBuf,
    /// User and groups of the command.
    pub ids: UserIds,
    /// What network the command sees.
    pub network: Network,
    /// Host name of the command.
    pub hostname: String,
    /// What `/etc/resolv.conf` is.
    pub resolv_conf: ResolvConf,
    /// Whether `/etc/hosts` is the image's own.
    pub no_hosts: bool,
    /// Further lines for `/etc/hosts`.
    pub hosts: Vec<HostEntry>,
    /// Files under `/dev/pipes`.
    pub pipes: Vec<PipeFile>,
    /// Standard input.
    pub stdin: Stdin,
    /// The command shares the builder's terminal and output descriptors (`rbuild run -it`); nothing goes to `out`.
    pub interactive: bool,
    /// Capabilities beyond the default set.
    pub cap_add: Vec<Capability>,
    /// Capabilities of the default set that the command does not get.
    pub cap_drop: Vec<Capability>,
    /// Filter of system calls.
    pub seccomp: Seccomp,
    /// Whether programs may not gain privilege by setuid bits and file capabilities.
    pub no_new_privileges: bool,
    /// Runs programs of another processor; `None`: nothing does, or what the node has registered.
    pub emulator: Option<super::Emulator>,
    /// Further mounts, in order.
    pub mounts: Vec<Mount>,
    /// Device nodes and directories of them beyond the usual ones.
    pub devices: Vec<Device>,
    /// Size of `/dev/shm` in bytes; `None`: 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits of the command and its children.
    pub rlimits: Vec<Rlimit>,
    /// The only CPUs that the command starts on; empty: all of the builder's.
    pub cpus: Vec<usize>,
    /// Absolute paths of the image that are covered: a directory shows empty, a file cannot be read.
    #[serde(with = "super::text::list")]
    pub masked: Vec<PathBuf>,
    /// What is not covered although it usually is.
    pub unmasked: Unmasked,
    /// What is recorded of the files of the root.
    pub recorded: Recorded,
}

impl StepSpec {
    /// A step with the defaults: root, pod's network, default capabilities and filter, no input.
    pub fn new(root: Root, argv: Vec<OsString>) -> StepSpec {
        StepSpec {
            root,
            argv,
            env: Vec::new(),
            secret_env: Vec::new(),
            cwd: PathBuf::from("/"),
            ids: UserIds::default(),
            network: Network::Host,
            hostname: "buildkitsandbox".to_owned(),
            resolv_conf: ResolvConf::Pod,
            no_hosts: false,
            hosts: Vec::new(),
            pipes: Vec::new(),
            stdin: Stdin::Null,
            interactive: false,
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            seccomp: Seccomp::Default,
            no_new_privileges: false,
            emulator: None,
            mounts: Vec::new(),
            devices: Vec::new(),
            shm_size: None,
            rlimits: Vec::new(),
            cpus: Vec::new(),
            masked: Vec::new(),
            unmasked: Unmasked::default(),
            recorded: Recorded::default(),
        }
    }

    /// The capabilities that the command and what it starts can have.
    pub fn capabilities(&self) -> Vec<caps::Capability> {
        let added = self.cap_add.iter().map(|c| c.0);
        let dropped = |c: &caps::Capability| self.cap_drop.iter().any(|d| d.0 == *c);
        crate::sys::caps::DEFAULT.into_iter().chain(added).filter(|c| !dropped(c)).collect()
    }

    /// Who the command is, for those who keep that up where the kernel cannot.
    pub(super) fn credentials(&self) -> Credentials {
        let bounding = self.capabilities().into_iter().map(|c| c.index()).collect();
        let mut credentials = Credentials::of_command(self.ids.uid, self.ids.gid, &self.ids.groups, bounding);
        credentials.no_new_privileges = self.no_new_privileges;
        credentials
    }
}

/// What is recorded of the files of a step's root, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Of all files that can be seen.
    pub visible: Records,
    /// Of those that are in the step's own layer already.
    pub own: Records,
}

impl Recorded {
    /// What `view` shows, of which the layer directory `own` is a part, or will be.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn of(view: &Merged, own: &std::path::Path) -> Result<Recorded, archive::Error> {
        Ok(Recorded { visible: view.records()?, own: Records::load(own)? })
    }
}

/// A root file system. Mount points that it lacks are made for the time of the step, and removed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// An overlay of the kernel, which the step's init mounts.
    Overlay {
        /// Root directories of the layers below, lowest first (at most 500). Absolute paths.
        #[serde(with = "super::text::list")]
        lowers: Vec<PathBuf>,
        /// Directory that takes the changes (the `fs` of the new layer). On a file system that can carry an overlay's upper
        /// directory: not an overlay itself.
        #[serde(with = "super::text::one")]
        upper: PathBuf,
        /// Empty directory on the same file system as `upper`, for the kernel's use; of no interest afterwards.
        #[serde(with = "super::text::one")]
        work: PathBuf,
        /// A layer of empty mount points, on the same file system as `upper`. It lies below all others, so that mounting
        /// leaves nothing in `upper`.
        #[serde(with = "super::text::option")]
        stub: Option<PathBuf>,
    },
    /// An overlay in user space, which the step's init mounts, and a server outside serves. Absolute paths.
    Fuse {
        /// Empty directory to mount it on.
        #[serde(with = "super::text::one")]
        place: PathBuf,
        /// Socket on which the server waits for the mounted device.
        #[serde(with = "super::text::one")]
        socket: PathBuf,
        /// Directory that takes the changes.
        #[serde(with = "super::text::one")]
        upper: PathBuf,
    },
    /// A directory that holds all files: one that was put together before the step, or where a file system is mounted.
    Directory {
        /// Absolute path on the builder's side.
        #[serde(with = "super::text::one")]
        path: PathBuf,
    },
}

impl Root {
    /// The directory in which a mount point that the step needed is found when the step is over.
    pub fn changes(&self) -> &std::path::Path {
        match self {
            Root::Overlay { upper, .. } | Root::Fuse { upper, .. } => upper,
            Root::Directory { path } => path,
        }
    }
}

impl From<snapshot::Root> for Root {
    fn from(root: snapshot::Root) -> Root {
        match root {
            snapshot::Root::Overlay { lowers, upper, work, stub } => Root::Overlay { lowers, upper, work, stub },
            snapshot::Root::Fuse { place, socket, upper } => Root::Fuse { place, socket, upper },
            snapshot::Root::Directory { path } => Root::Directory { path },
        }
    }
}

/// What `/etc/resolv.conf` of a step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResolvConf {
    /// The pod's.
    Pod,
    /// A file with this text.
    Text(String),
    /// The image's own.
    Image,
}

/// Something of the builder's `/dev` that a step gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path on the builder's side: a device node, or a directory of them.
    #[serde(with = "super::text::one")]
    pub source: PathBuf,
    /// Absolute path in the step.
    #[serde(with = "super::text::one")]
    pub target: PathBuf,
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Of what.
    pub kind: crate::sys::rlimit::Kind,
    /// Soft limit; `None`: unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None`: unlimited.
    pub hard: Option<u64>,
}

/// Paths of `/proc` and `/sys` that are usually covered, and are not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmasked {
    /// Nothing is covered.
    pub all: bool,
    /// These are not: absolute paths, which may end in `/*`.
    pub paths: Vec<String>,
}

impl Unmasked {
    /// Whether this absolute path is to be left as it is.
    pub fn has(&self, path: &str) -> bool {
        let named = |p: &String| match p.strip_suffix("/*") {
            Some(dir) => path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')),
            None => p.trim_end_matches('/') == path,
        };
        self.all || self.paths.iter().any(named)
    }
}

/// The network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The pod's.
    Host,
    /// A loopback interface and nothing else.
    None,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEntry {
    /// Address.
    pub address: String,
    /// Name.
    pub name: String,
}

/// A file that the command finds under `/dev/pipes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeFile {
    /// Name, without directory.
    pub name: String,
    /// Content.
    pub content: String,
}

/// Standard input of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// The builder's own.
    Inherit,
}

/// Filter of system calls of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// rbuild's own profile, `seccomp/run.json`.
    Default,
    /// No filter.
    Unconfined,
    /// The text of a profile in the OCI runtime's JSON form.
    Profile(String),
}

/// A capability, by its name in capabilities(7), as in `CAP_SYS_PTRACE`; written with or without `CAP_`, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capability(pub caps::Capability);

impl Capability {
    /// Every capability that there is.
    pub fn all() -> Vec<Capability> {
        let mut all: Vec<Capability> = caps::all().into_iter().map(Capability).collect();
        all.sort_by_key(|c| c.0.index());
        all
    }
}

impl std::str::FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Capability, String> {
        let upper = text.to_ascii_uppercase();
        let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        name.parse().map(Capability).map_err(|_| format!("`{text}` is not a capability"))
    }
}

impl Serialize for Capability {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Capability {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Capability, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A mount of a step beyond the usual ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the image; symbolic links are followed inside the image, missing parts are made for the time of
    /// the step.
    #[serde(with = "super::text::one")]
    pub target: PathBuf,
    /// What appears there.
    pub kind: MountKind,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the builder.
    Bind {
        /// Absolute path on the builder's side.
        #[serde(with = "super::text::one")]
        source: PathBuf,
        /// Path below `source` of what is shown, resolved as if `source` were the root directory; empty for all of it.
        #[serde(with = "super::text::one")]
        inside: PathBuf,
        /// Who `source` belongs to where the pod's ids cannot say so.
        owner: Option<(u32, u32)>,
        /// What is forbidden in it.
        guard: Guard,
    },
    /// A file or directory of another root file system.
    Tree {
        /// What is recorded of its files.
        recorded: Records,
        /// That root file system; of an overlay, at least one layer.
        root: Root,
        /// Path in that root file system, resolved inside it; empty for all of it.
        #[serde(with = "super::text::one")]
        inside: PathBuf,
        /// What is forbidden in it.
        guard: Guard,
    },
    /// A file in memory that only this step sees.
    Secret {
        /// What it holds.
        content: Hidden,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Limit in bytes; `None` for the kernel's default (half of the memory).
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
        /// What is forbidden in it.
        guard: Guard,
    },
}

/// What a mount forbids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Writes.
    pub read_only: bool,
    /// Privilege by setuid bits and file capabilities.
    pub no_suid: bool,
    /// Opening device nodes.
    pub no_dev: bool,
    /// Executing programs.
    pub no_exec: bool,
}

impl Guard {
    /// Forbids writes, and nothing else, where `read_only`.
    pub fn read_only(read_only: bool) -> Guard {
        Guard { read_only, ..Guard::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_covered_is_said_by_path_or_directory() {
        let unmasked = Unmasked { all: false, paths: vec!["/proc/acpi".into(), "/sys/*".into()] };
        for (path, shown) in [("/proc/acpi", true), ("/proc/keys", false), ("/sys/firmware", true), ("/sysx", false)] {
            assert_eq!(unmasked.has(path), shown, "{path}");
        }
        assert!(Unmasked { all: true, paths: vec![] }.has("/proc/keys"));
    }
}
