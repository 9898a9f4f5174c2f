//! Capabilities of a process that is about to run somebody else's program.

use caps::{CapSet, Capability, CapsHashSet};
use std::io;

/// What a container's root may do by default: the set that Docker and BuildKit give.
pub const DEFAULT: [Capability; 14] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

fn error(e: caps::errors::CapsError) -> io::Error {
    io::Error::other(e.to_string())
}

/// Limits all that this process and its children can ever have to `keep`: what is not in it leaves the bounding set, and
/// nothing stays inheritable or ambient. A root process gets exactly the bounding set at its next exec.
pub fn bound(keep: &[Capability]) -> io::Result<()> {
    let keep: CapsHashSet = keep.iter().copied().collect();
    // Numbers, not names: a kernel may know capabilities that this program does not.
    let last: i32 =
        std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(63);
    let kept: Vec<i32> = keep.iter().map(|c| i32::from(c.index())).collect();
    for number in (0..=last).filter(|n| !kept.contains(n)) {
        // SAFETY: plain call.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            let e = io::Error::last_os_error();
            // Numbers beyond the kernel's last capability.
            if e.raw_os_error() != Some(libc::EINVAL) {
                return Err(e);
            }
        }
    }
    // SAFETY: plain call. Kernels before 4.3 have no ambient set.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    caps::clear(None, CapSet::Inheritable).map_err(error)
}

/// Gives up all capabilities of this process but those of `keep` that it has.
pub fn keep_only(keep: &[Capability]) -> io::Result<()> {
    let keep: CapsHashSet = keep.iter().copied().collect();
    let left = caps::read(None, CapSet::Permitted).map_err(error)?.intersection(&keep).copied().collect();
    caps::clear(None, CapSet::Inheritable).map_err(error)?;
    caps::set(None, CapSet::Effective, &left).map_err(error)?;
    caps::set(None, CapSet::Permitted, &left).map_err(error)
}

/// Gives up all capabilities of this process. With no_new_privs it never gets any back.
pub fn drop_all() -> io::Result<()> {
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(error)?;
    }
    Ok(())
}

/// Forbids this process and its children for ever to gain privilege by exec.
pub fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: plain call.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forbids processes without privilege over this one to read it.
pub fn set_undumpable() {
    // SAFETY: plain call; cannot fail with this argument.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Becomes another user: supplementary groups (`None`: left alone), group, user, in this order.
pub fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), (String, io::Error)> {
    // The raw calls: the C library's would also tell other threads, of which there are none.
    if let Some(groups) = groups {
        // SAFETY: pointer and length are those of one slice.
        if unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } != 0 {
            return Err((format!("setgroups({groups:?})"), io::Error::last_os_error()));
        }
    }
    // SAFETY: plain call.
    if unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) } != 0 {
        return Err((format!("setresgid({gid})"), io::Error::last_os_error()));
    }
    // SAFETY: plain call.
    if unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } != 0 {
        return Err((format!("setresuid({uid})"), io::Error::last_os_error()));
    }
    Ok(())
}
