//! What `execve` makes of credentials.

use super::{Capabilities, Credentials, Ids};
use rustix::io::Errno;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_1: u32 = 0x0100_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const EFFECTIVE: u32 = 1;

/// The capabilities of a file: the value of its attribute `security.capability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileCapabilities {
    permitted: Capabilities,
    inheritable: Capabilities,
    effective: bool,
}

impl FileCapabilities {
    /// Reads the attribute; `None` for a form that the kernel does not know either.
    pub fn parse(value: &[u8]) -> Option<FileCapabilities> {
        let word = |at: usize| Some(u32::from_le_bytes(*value.get(at * 4..)?.first_chunk::<4>()?));
        let head = word(0)?;
        let length = match head & REVISION_MASK {
            REVISION_1 => 12,
            REVISION_2 => 20,
            REVISION_3 => 24,
            _ => return None,
        };
        if value.len() != length {
            return None;
        }
        let both = |at: usize| {
            let high = if length == 12 { Some(0) } else { word(at + 2) };
            Some(Capabilities(u64::from(word(at)?) | u64::from(high?) << 32).and(Capabilities::ALL))
        };
        Some(FileCapabilities { permitted: both(1)?, inheritable: both(2)?, effective: head & EFFECTIVE != 0 })
    }
}

/// What counts of a program that is about to be executed: of the file itself, or of the interpreter of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode.
    pub mode: u32,
    /// Its capabilities.
    pub capabilities: Option<FileCapabilities>,
}

impl Credentials {
    /// The credentials with which the program runs.
    ///
    /// # Errors
    /// EPERM: the file demands capabilities that the process cannot have.
    pub fn execve(&self, program: &Program) -> Result<Credentials, Errno> {
        let mut new = self.clone();
        if !self.no_new_privileges {
            if program.mode & SET_UID != 0 {
                new.uid.effective = program.uid;
            }
            // Without the x it marks mandatory locks.
            if program.mode & (SET_GID | GROUP_EXECUTE) == SET_GID | GROUP_EXECUTE {
                new.gid.effective = program.gid;
            }
        }
        let sets = self.caps;
        let mut effective = false;
        let mut permitted = Capabilities::NONE;
        let has_capabilities = program.capabilities.is_some();
        if let Some(file) = program.capabilities {
            permitted = sets.bounding.and(file.permitted).or(sets.inheritable.and(file.inheritable));
            effective = file.effective;
            if effective && !file.permitted.within(permitted) {
                return Err(Errno::PERM);
            }
        }
        let set_uid_root = new.uid.real != 0 && new.uid.effective == 0;
        if !(self.root_is_nobody() || has_capabilities && set_uid_root) {
            if new.uid.effective == 0 || new.uid.real == 0 {
                permitted = sets.bounding.or(sets.inheritable);
            }
            effective |= new.uid.effective == 0;
        }
        let set_id = new.uid.effective != self.uid.real || new.gid.effective != self.gid.real;
        if self.no_new_privileges && (set_id || !permitted.within(sets.permitted)) {
            new.uid.effective = new.uid.real;
            new.gid.effective = new.gid.real;
            permitted = permitted.and(sets.permitted);
        }
        let settle = |ids: Ids| Ids { saved: ids.effective, file: ids.effective, ..ids };
        new.uid = settle(new.uid);
        new.gid = settle(new.gid);
        if has_capabilities || set_id {
            new.caps.ambient = Capabilities::NONE;
        }
        new.caps.permitted = permitted.or(new.caps.ambient);
        new.caps.effective = if effective { new.caps.permitted } else { new.caps.ambient };
        new.securebits = self.securebits_after_exec();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cap;
    use super::*;

    fn plain(uid: u32, gid: u32, mode: u32) -> Program {
        Program { uid, gid, mode, capabilities: None }
    }

    fn user() -> Credentials {
        Credentials::of_command(1000, 100, &[], Capabilities::ALL)
    }

    fn root() -> Credentials {
        Credentials::of_command(0, 0, &[], Capabilities::ALL)
    }

    #[test]
    fn set_uid_root_gives_all_capabilities_and_set_gid_only_the_group() {
        let sudo = user().execve(&plain(0, 0, 0o4755)).unwrap();
        assert_eq!(sudo.uid, Ids { real: 1000, effective: 0, saved: 0, file: 0 });
        assert_eq!((sudo.caps.effective, sudo.gid), (Capabilities::ALL, Ids::all(100)));
        let chage = user().execve(&plain(0, 42, 0o2755)).unwrap();
        assert_eq!(chage.gid, Ids { real: 100, effective: 42, saved: 42, file: 42 });
        assert_eq!((chage.uid, chage.caps.effective), (Ids::all(1000), Capabilities::NONE));
        assert_eq!(user().execve(&plain(0, 42, 0o2745)).unwrap().gid, Ids::all(100));
        assert_eq!(user().execve(&plain(7, 7, 0o4755)).unwrap().caps.permitted, Capabilities::NONE);
    }

    #[test]
    fn no_new_privileges_ignores_set_id_bits() {
        let mut c = user();
        c.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]);
        assert_eq!(c.execve(&plain(0, 0, 0o6755)).unwrap(), c);
    }

    #[test]
    fn root_gets_the_bounding_set_again_and_others_lose_what_they_kept() {
        let mut c = root();
        c.prctl(libc::PR_CAPBSET_DROP, [21, 0, 0, 0]);
        c.capset(Capabilities::NONE, Capabilities::NONE, Capabilities::NONE).unwrap();
        let after = c.execve(&plain(0, 0, 0o755)).unwrap();
        assert!(after.can(cap::CHOWN) && !after.can(21));
        let mut kept = root();
        kept.prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]);
        kept.setuid(5).unwrap();
        let after = kept.execve(&plain(0, 0, 0o755)).unwrap();
        assert_eq!((after.caps.permitted, after.securebits), (Capabilities::NONE, 0));
        // A root process that is somebody else for files only is root again.
        let mut c = root();
        c.setfsuid(5);
        assert_eq!(c.execve(&plain(0, 0, 0o755)).unwrap(), root());
    }

    #[test]
    fn an_effective_user_other_than_root_keeps_permitted_only() {
        let mut c = root();
        c.setresuid(u32::MAX, 42, u32::MAX).unwrap();
        let after = c.execve(&plain(0, 0, 0o755)).unwrap();
        assert_eq!(after.uid, Ids { real: 0, effective: 42, saved: 42, file: 42 });
        assert_eq!((after.caps.permitted, after.caps.effective), (Capabilities::ALL, Capabilities::NONE));
    }

    fn v2(flags: u32, permitted: u64, inheritable: u64) -> Vec<u8> {
        let words = [
            REVISION_2 | flags,
            permitted as u32,
            inheritable as u32,
            (permitted >> 32) as u32,
            (inheritable >> 32) as u32,
        ];
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn file_capabilities() {
        let file = |value: &[u8]| Program { capabilities: FileCapabilities::parse(value), ..plain(0, 0, 0o755) };
        let ping = user().execve(&file(&v2(EFFECTIVE, 1 << 13, 0))).unwrap();
        assert_eq!((ping.caps.effective, ping.caps.permitted), (Capabilities(1 << 13), Capabilities(1 << 13)));
        let idle = user().execve(&file(&v2(0, 1 << 13, 0))).unwrap();
        assert_eq!((idle.caps.effective, idle.caps.permitted), (Capabilities::NONE, Capabilities(1 << 13)));
        // Outside the bounding set, and needed.
        let mut c = user();
        c.caps.bounding = Capabilities::NONE;
        assert_eq!(c.execve(&file(&v2(EFFECTIVE, 1 << 13, 0))), Err(Errno::PERM));
        assert!(c.execve(&file(&v2(0, 1 << 13, 0))).is_ok());
        c.caps.inheritable = Capabilities(1 << 13);
        assert!(c.execve(&file(&v2(EFFECTIVE, 0, 1 << 13))).unwrap().can(13));
        // Set-uid root with capabilities of its own gets those only.
        let both = Program { mode: 0o4755, ..file(&v2(EFFECTIVE, 1 << 13, 0)) };
        assert_eq!(user().execve(&both).unwrap().caps.permitted, Capabilities(1 << 13));
    }

    #[test]
    fn the_attribute_in_its_three_forms() {
        let v1: Vec<u8> = [REVISION_1, 3, 5].iter().flat_map(|w: &u32| w.to_le_bytes()).collect();
        let of = |p, i, effective| {
            Some(FileCapabilities { permitted: Capabilities(p), inheritable: Capabilities(i), effective })
        };
        assert_eq!(FileCapabilities::parse(&v1), of(3, 5, false));
        assert_eq!(FileCapabilities::parse(&v2(1, 1 << 40, 0)), of(1 << 40, 0, true));
        let mut v3 = v2(0, 1, 2);
        v3[3] = 3;
        assert_eq!(FileCapabilities::parse(&v3), None);
        v3.extend(1000u32.to_le_bytes());
        assert_eq!(FileCapabilities::parse(&v3), of(1, 2, false));
        for broken in [&b""[..], &[0; 20], &v1[..11]] {
            assert_eq!(FileCapabilities::parse(broken), None);
        }
    }

    #[test]
    fn ambient_capabilities_stay_for_plain_programs_only() {
        let mut c = user();
        c.caps.permitted = Capabilities(1 << 10);
        c.caps.inheritable = Capabilities(1 << 10);
        c.prctl(libc::PR_CAP_AMBIENT, [2, 10, 0, 0]);
        assert!(c.execve(&plain(0, 0, 0o755)).unwrap().can(10));
        assert!(!c.execve(&plain(5, 0, 0o4755)).unwrap().can(10));
    }
}
