//! What a build is asked to give to its RUN steps: part of the [`BuildRequest`](super::request::BuildRequest).

use crate::plan::Network;
use crate::sandbox::{Capability, Rlimit, Unmasked};
use std::path::PathBuf;

/// The address of `--add-host` that stands for the machine behind the network of the pod.
pub const HOST_GATEWAY: &str = "host-gateway";

/// What RUN steps get and see.
#[derive(Clone, Debug, Default)]
pub struct SecurityOptions {
    /// `--network`; `None`: the default, which is the network of the pod.
    pub network: Option<Network>,
    /// `--add-host NAME:IP`, in order; an address may be [`HOST_GATEWAY`].
    pub add_hosts: Vec<(String, String)>,
    /// `--no-hosts`: `/etc/hosts` is the image's own.
    pub no_hosts: bool,
    /// What `/etc/resolv.conf` holds in RUN.
    pub dns: DnsOptions,
    /// Host name in RUN; `None`: BuildKit's.
    pub hostname: Option<String>,
    /// `--emulator`: what runs programs of other processors, or a directory with `qemu-*-static`; `None`: looked for in
    /// `PATH`.
    pub emulator: Option<PathBuf>,
    /// Whether proxy variables of the environment are passed to RUN.
    pub http_proxy: bool,
    /// `-v`: directories of the machine that every RUN sees.
    pub volumes: Vec<VolumeMount>,
    /// `--mount`: values of `RUN --mount` that every RUN gets, in front of its own.
    pub mounts: Vec<String>,
    /// `--secret`.
    pub secrets: Vec<SecretOption>,
    /// `--ssh`.
    pub ssh: Vec<SshOption>,
    /// `--compat-volumes`: what RUN changes in a directory that VOLUME has declared before does not stay.
    pub compat_volumes: bool,
    /// `--allow security.insecure`: steps may ask for `RUN --security=insecure`.
    pub allow_insecure: bool,
    /// `--allow network.host`: steps may ask for `RUN --network=host` where `network` is none.
    pub allow_network: bool,
    /// Capabilities beyond the default set.
    pub cap_add: Vec<Capability>,
    /// Capabilities of the default set that RUN does not get.
    pub cap_drop: Vec<Capability>,
    /// Filter of system calls.
    pub seccomp: Seccomp,
    /// Whether programs may not gain privilege by setuid bits and file capabilities.
    pub no_new_privileges: bool,
    /// `--security-opt mask=…`: absolute paths that are covered.
    pub masked: Vec<String>,
    /// `--security-opt unmask=…`: what is not covered although it usually is.
    pub unmasked: Unmasked,
    /// `--device`.
    pub devices: Vec<DeviceOption>,
    /// `--group-add`: groups of the command beyond its user's, names of the image or numbers.
    pub groups: Vec<String>,
    /// `--shm-size`, in bytes; `None`: 64 MiB.
    pub shm_size: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<Rlimit>,
    /// `--cpuset-cpus`; empty: all that rbuild has.
    pub cpus: Vec<usize>,
    /// `--trust-ca`: files of certificates that programs in RUN trust, on top of the image's.
    pub authorities: Vec<PathBuf>,
}

/// Filter of system calls in RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// rbuild's own profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// A profile in the OCI runtime's JSON form.
    Profile(PathBuf),
}

/// What `/etc/resolv.conf` holds in RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// `--dns=none`: the file is the image's own.
    pub none: bool,
    /// Servers in place of the pod's.
    pub servers: Vec<String>,
    /// Search domains in place of the pod's.
    pub search: Vec<String>,
    /// Options in place of the pod's.
    pub options: Vec<String>,
}

/// One `-v SOURCE:TARGET[:OPTIONS]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeMount {
    /// Path outside.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// Whether RUN may not write to it.
    pub read_only: bool,
    /// `O`: RUN may write, and what it writes is gone after the step.
    pub overlay: bool,
}

/// One `--secret`. What it holds is read when the build begins, and kept in memory only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretOption {
    /// What `RUN --mount=type=secret` calls it.
    pub id: String,
    /// Where it is.
    pub source: SecretSource,
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
}

/// One `--ssh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshOption {
    /// What `RUN --mount=type=ssh` calls it.
    pub id: String,
    /// The socket of an agent, or files of private keys.
    pub paths: Vec<PathBuf>,
    /// Everything passes, not only what an agent answers without being changed.
    pub raw: bool,
}

/// One `--device SOURCE[:TARGET]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOption {
    /// Device node, or directory of them.
    pub source: PathBuf,
    /// Absolute path in the step.
    pub target: PathBuf,
}
