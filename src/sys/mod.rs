//! Safe functions over system calls: every `unsafe` of rbuild is here.

pub mod arch;
pub mod caps;
pub mod cgroup;
pub mod fs;
pub mod idmap;
pub mod landlock;
pub mod limits;
pub mod loader;
pub mod memfd;
pub mod mount;
pub mod names;
pub mod net;
pub mod passwd;
pub mod probe;
pub mod process;
pub mod ptrace;
pub mod remote;
pub mod rlimit;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod stdio;
pub mod userns;
