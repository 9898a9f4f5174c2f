//! `newuidmap` and `newgidmap`: whether they can give this user a range of ids, and if not, which of their conditions fails.

use crate::sys::idmap::Extent;
use crate::sys::passwd;
use caps::Capability;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What is known of the two programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tools {
    /// All that they need is there.
    Ready,
    /// The image has all that they need, the pod does not let them use it.
    Held(Vec<Hold>),
    /// The image lacks something, or the user.
    Lacking(String),
}

/// What keeps the programs from working, and a field of the pod can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// `allowPrivilegeEscalation: false`.
    Escalation,
    /// SETUID or SETGID left the bounding set with `drop: [ALL]`.
    Capabilities,
}

impl Hold {
    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Hold::Escalation => "`allowPrivilegeEscalation: false` keeps programs from getting their file capabilities",
            Hold::Capabilities => "`capabilities.drop` takes SETUID and SETGID from all programs of the pod",
        }
    }
}

/// Number of each program's capability, name of the program and of the file with the user's range.
const PROGRAMS: [(&str, Capability, &str); 2] =
    [("newuidmap", Capability::CAP_SETUID, "/etc/subuid"), ("newgidmap", Capability::CAP_SETGID, "/etc/subgid")];

/// Looks at both programs, for a user without privilege.
pub fn look(uid: u32, no_new_privileges: bool, bounding: &[Capability], ids: &[Extent]) -> Tools {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (name, capability, ranges) in PROGRAMS {
        let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
        let Some(program) = found else { return Tools::Lacking(format!("`{name}` is not installed")) };
        if let Err(why) = privileged(&program, capability) {
            return Tools::Lacking(why);
        }
        if let Err(why) = range(uid, ranges, ids) {
            return Tools::Lacking(why);
        }
    }
    let mut holds = Vec::new();
    if no_new_privileges {
        holds.push(Hold::Escalation);
    }
    if PROGRAMS.iter().any(|(_, capability, _)| !bounding.contains(capability)) {
        holds.push(Hold::Capabilities);
    }
    if holds.is_empty() { Tools::Ready } else { Tools::Held(holds) }
}

/// Whether a program gets its capability when it is executed, going by its file.
fn privileged(program: &Path, capability: Capability) -> Result<(), String> {
    let shown = program.display();
    let real = std::fs::canonicalize(program).unwrap_or_else(|_| PathBuf::from(program));
    let mut value = [0_u8; 64];
    let length = rustix::fs::getxattr(&real, "security.capability", &mut value).unwrap_or(0);
    let has = value.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b));
    if rustix::fs::statvfs(&real).is_ok_and(|s| s.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID)) {
        return Err(format!("`{shown}` lies on a file system that is mounted `nosuid`"));
    }
    if length >= 8 && has >> capability.index() & 1 == 1 {
        return Ok(());
    }
    let meta = std::fs::metadata(&real).map_err(|e| format!("`{shown}`: {e}"))?;
    if meta.permissions().mode() & 0o4000 != 0 && meta.uid() == 0 {
        return Err(format!(
            "`{shown}` is setuid-root, and root of a pod does not own the new namespace: it needs the file capability \
             `{}=ep` in place of the bit",
            capability.to_string().to_lowercase()
        ));
    }
    Err(format!("`{shown}` has no file capability: `setcap {}=ep {shown}`", capability.to_string().to_lowercase()))
}

/// Whether the user has a range, and whether its ids exist here.
fn range(uid: u32, file: &str, ids: &[Extent]) -> Result<(), String> {
    let number = uid.to_string();
    let accounts = std::fs::read("/etc/passwd").unwrap_or_default();
    let logins: Vec<String> = passwd::users(&accounts).filter(|u| u.uid == uid).map(|u| u.name).collect();
    let mut names: Vec<&str> = logins.iter().map(String::as_str).collect();
    names.push(&number);
    let ranges = passwd::subordinate_ranges(&std::fs::read(file).unwrap_or_default(), &names);
    if ranges.is_empty() {
        return Err(format!("`{file}` has no range for user {uid}"));
    }
    let exists =
        |id: u64| ids.iter().any(|e| (u64::from(e.inside)..u64::from(e.inside) + u64::from(e.count)).contains(&id));
    for (start, count) in ranges {
        let last = u64::from(start) + u64::from(count).saturating_sub(1);
        if !(exists(u64::from(start)) && exists(last)) {
            return Err(format!("the range {start} to {last} of `{file}` does not exist in the pod's user namespace"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_does_not_exist_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("subuid");
        let of = |text: &str, first: u32, count: u32| {
            std::fs::write(&file, text).unwrap();
            range(4_000_000, file.to_str().unwrap(), &[Extent { inside: 0, outside: first, count }])
        };
        assert!(of("4000000:100000:65536\n", 0, u32::MAX).is_ok());
        assert!(of("4000000:100000:65536\n", 200_000, 65536).unwrap_err().contains("does not exist"));
        assert!(of("4000000:1000:64535\n", 200_000, 65536).is_ok());
        assert!(of("other:1:2\n", 0, u32::MAX).unwrap_err().contains("no range for user 4000000"));
    }

    #[test]
    fn what_is_wrong_with_a_program_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("newuidmap");
        std::fs::write(&file, "").unwrap();
        let why = privileged(&file, Capability::CAP_SETUID).unwrap_err();
        assert!(why.contains("no file capability") || why.contains("nosuid"), "{why}");
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
            let why = privileged(&file, Capability::CAP_SETUID).unwrap_err();
            assert!(why.contains("setuid-root") || why.contains("nosuid"), "{why}");
        }
    }
}
