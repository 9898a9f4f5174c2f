//! Credentials of a process that the kernel does not know of, changed by the kernel's own rules.
//!
//! A value of [`Credentials`] is what credentials(7) and capabilities(7) describe. The methods are named after the calls;
//! each either changes the value and answers as the call would, or leaves it alone and answers the call's error.
//!
//! | file | rules of |
//! |---|---|
//! | this one | `setuid` and its kin, `setgroups` |
//! | `capabilities` | `capset`, `prctl` as far as it is about capabilities |
//! | `exec` | `execve`: set-id bits, file capabilities, root |
//! | `access` | what may be done with a file of this owner and mode |

mod access;
mod capabilities;
mod exec;

pub use access::{Attributes, EXECUTE, Inherited, READ, WRITE, may_delete, wanted_by};
pub use capabilities::{Capabilities, CapabilitySets, cap};
pub use exec::{FileCapabilities, Program};

use rustix::io::Errno;

/// "Leave it": -1 as `uid_t`.
pub const UNCHANGED: u32 = u32::MAX;
/// Most supplementary groups (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// The four ids of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ids {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// The one that counts for files.
    pub file: u32,
}

impl Ids {
    /// All four the same.
    pub fn all(id: u32) -> Ids {
        Ids { real: id, effective: id, saved: id, file: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    fn set(&self, id: u32, privileged: bool) -> Result<Ids, Errno> {
        match id {
            UNCHANGED => Err(Errno::INVAL),
            _ if privileged => Ok(Ids::all(id)),
            _ if id == self.real || id == self.saved => Ok(Ids { effective: id, file: id, ..*self }),
            _ => Err(Errno::PERM),
        }
    }

    fn set_two(&self, real: u32, effective: u32, privileged: bool) -> Result<Ids, Errno> {
        let mut new = *self;
        if real != UNCHANGED {
            if !privileged && real != self.real && real != self.effective {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != UNCHANGED {
            if !privileged && !self.has(effective) {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != UNCHANGED || (effective != UNCHANGED && effective != self.real) {
            new.saved = new.effective;
        }
        new.file = new.effective;
        Ok(new)
    }

    fn set_three(&self, ids: [u32; 3], privileged: bool) -> Result<Ids, Errno> {
        if !privileged && !ids.iter().all(|id| *id == UNCHANGED || self.has(*id)) {
            return Err(Errno::PERM);
        }
        let or = |id: u32, old: u32| if id == UNCHANGED { old } else { id };
        let [real, effective, saved] = ids;
        let new = Ids {
            real: or(real, self.real),
            effective: or(effective, self.effective),
            saved: or(saved, self.saved),
            file: 0,
        };
        Ok(Ids { file: new.effective, ..new })
    }

    fn set_file(&self, id: u32, privileged: bool) -> Option<Ids> {
        let allowed = id != UNCHANGED && (privileged || self.has(id) || id == self.file);
        (allowed && id != self.file).then_some(Ids { file: id, ..*self })
    }
}

/// What the kernel would know of a process's rights.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// User ids.
    pub uid: Ids,
    /// Group ids.
    pub gid: Ids,
    /// Supplementary groups, in ascending order.
    pub groups: Vec<u32>,
    /// Capabilities.
    pub caps: CapabilitySets,
    /// `SECBIT_*`; [`capabilities(7)`](https://man7.org/linux/man-pages/man7/capabilities.7.html) has them.
    pub securebits: u32,
    /// Whether the process gave up on gaining privilege by `execve`.
    pub no_new_privileges: bool,
}

impl Credentials {
    /// A command that a container starts as this user with these capabilities in its bounding set: root has all of them,
    /// anybody else none.
    pub fn of_command(uid: u32, gid: u32, groups: &[u32], bounding: Capabilities) -> Credentials {
        let own = if uid == 0 { bounding } else { Capabilities::NONE };
        let mut groups = groups.to_vec();
        groups.sort_unstable();
        Credentials {
            uid: Ids::all(uid),
            gid: Ids::all(gid),
            groups,
            caps: CapabilitySets { permitted: own, effective: own, bounding, ..CapabilitySets::default() },
            securebits: 0,
            no_new_privileges: false,
        }
    }

    /// Whether the process can use a capability; `capability` is one of [`cap`]'s numbers.
    pub fn can(&self, capability: u8) -> bool {
        self.caps.effective.has(capability)
    }

    /// Whether files of this group are the process's group's.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid.file == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// setuid(2).
    ///
    /// # Errors
    /// EPERM, EINVAL.
    pub fn setuid(&mut self, uid: u32) -> Result<(), Errno> {
        let new = self.uid.set(uid, self.can(cap::SETUID))?;
        self.become_user(new);
        Ok(())
    }

    /// setreuid(2).
    ///
    /// # Errors
    /// EPERM.
    pub fn setreuid(&mut self, real: u32, effective: u32) -> Result<(), Errno> {
        let new = self.uid.set_two(real, effective, self.can(cap::SETUID))?;
        self.become_user(new);
        Ok(())
    }

    /// setresuid(2).
    ///
    /// # Errors
    /// EPERM.
    pub fn setresuid(&mut self, real: u32, effective: u32, saved: u32) -> Result<(), Errno> {
        let new = self.uid.set_three([real, effective, saved], self.can(cap::SETUID))?;
        self.become_user(new);
        Ok(())
    }

    /// setfsuid(2): the answer is the id before.
    pub fn setfsuid(&mut self, uid: u32) -> u32 {
        let old = self.uid.file;
        if let Some(new) = self.uid.set_file(uid, self.can(cap::SETUID)) {
            self.uid = new;
            self.caps.file_user_changed(old, uid, self.securebits);
        }
        old
    }

    /// setgid(2).
    ///
    /// # Errors
    /// EPERM, EINVAL.
    pub fn setgid(&mut self, gid: u32) -> Result<(), Errno> {
        self.gid = self.gid.set(gid, self.can(cap::SETGID))?;
        Ok(())
    }

    /// setregid(2).
    ///
    /// # Errors
    /// EPERM.
    pub fn setregid(&mut self, real: u32, effective: u32) -> Result<(), Errno> {
        self.gid = self.gid.set_two(real, effective, self.can(cap::SETGID))?;
        Ok(())
    }

    /// setresgid(2).
    ///
    /// # Errors
    /// EPERM.
    pub fn setresgid(&mut self, real: u32, effective: u32, saved: u32) -> Result<(), Errno> {
        self.gid = self.gid.set_three([real, effective, saved], self.can(cap::SETGID))?;
        Ok(())
    }

    /// setfsgid(2): the answer is the id before.
    pub fn setfsgid(&mut self, gid: u32) -> u32 {
        let old = self.gid.file;
        self.gid = self.gid.set_file(gid, self.can(cap::SETGID)).unwrap_or(self.gid);
        old
    }

    /// Whether setgroups(2) is allowed with so many groups, which need not be read to know.
    ///
    /// # Errors
    /// EPERM, EINVAL.
    pub fn may_set_groups(&self, count: usize) -> Result<(), Errno> {
        match count {
            _ if !self.can(cap::SETGID) => Err(Errno::PERM),
            n if n > MOST_GROUPS => Err(Errno::INVAL),
            _ => Ok(()),
        }
    }

    /// setgroups(2).
    ///
    /// # Errors
    /// EPERM, EINVAL.
    pub fn setgroups(&mut self, mut groups: Vec<u32>) -> Result<(), Errno> {
        self.may_set_groups(groups.len())?;
        groups.sort_unstable();
        self.groups = groups;
        Ok(())
    }

    fn become_user(&mut self, new: Ids) {
        self.caps.user_changed(self.uid, new, self.securebits);
        self.uid = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U: u32 = UNCHANGED;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, file: effective }
    }

    fn root() -> Credentials {
        Credentials::of_command(0, 0, &[], Capabilities::ALL)
    }

    fn user(uid: Ids) -> Credentials {
        Credentials { uid, ..Credentials::of_command(uid.real, 100, &[], Capabilities::ALL) }
    }

    #[test]
    fn setuid_of_root_changes_all_and_of_others_only_the_effective_id() {
        let mut c = root();
        c.setuid(42).unwrap();
        assert_eq!((c.uid, c.caps.permitted, c.caps.effective), (Ids::all(42), Capabilities::NONE, Capabilities::NONE));
        assert_eq!(c.setuid(0), Err(Errno::PERM));
        for (before, id, after) in [
            (ids(1, 2, 3), 1, Ok(ids(1, 1, 3))),
            (ids(1, 2, 3), 3, Ok(ids(1, 3, 3))),
            (ids(1, 2, 3), 2, Err(Errno::PERM)),
            (ids(1, 2, 3), U, Err(Errno::INVAL)),
        ] {
            let mut c = user(before);
            assert_eq!(c.setuid(id).map(|()| c.uid), after, "{before:?} {id}");
        }
    }

    #[test]
    fn setreuid_saves_the_effective_id_where_it_may_differ() {
        for (before, (r, e), after) in [
            (ids(1, 2, 3), (U, U), Ok(ids(1, 2, 3))),
            (ids(1, 2, 3), (2, 1), Ok(ids(2, 1, 1))),
            (ids(1, 2, 3), (U, 1), Ok(ids(1, 1, 3))),
            (ids(1, 2, 3), (U, 3), Ok(ids(1, 3, 3))),
            (ids(1, 2, 2), (U, 2), Ok(ids(1, 2, 2))),
            (ids(1, 2, 3), (3, U), Err(Errno::PERM)),
            (ids(1, 2, 3), (U, 4), Err(Errno::PERM)),
        ] {
            let mut c = user(before);
            assert_eq!(c.setreuid(r, e).map(|()| c.uid), after, "{before:?} {r} {e}");
        }
        let mut c = root();
        c.setreuid(5, U).unwrap();
        assert_eq!(c.uid, ids(5, 0, 0));
    }

    #[test]
    fn setresuid_permutes_and_root_may_come_back_while_it_is_saved() {
        for (ids_wanted, after) in [
            ((U, U, U), Ok(ids(1, 2, 3))),
            ((3, 1, 2), Ok(ids(3, 1, 2))),
            ((U, 3, U), Ok(ids(1, 3, 3))),
            ((4, U, U), Err(Errno::PERM)),
        ] {
            let mut c = user(ids(1, 2, 3));
            let (r, e, s) = ids_wanted;
            assert_eq!(c.setresuid(r, e, s).map(|()| c.uid), after, "{ids_wanted:?}");
        }
        let mut c = root();
        c.setresuid(U, 42, U).unwrap();
        assert_eq!((c.uid, c.can(cap::CHOWN)), (ids(0, 42, 0), false));
        assert_eq!(c.caps.permitted, Capabilities::ALL);
        c.setresuid(U, 0, U).unwrap();
        assert!(c.can(cap::CHOWN));
        c.setresuid(42, 42, 42).unwrap();
        assert_eq!(c.caps.permitted, Capabilities::NONE);
    }

    #[test]
    fn setfsuid_answers_the_id_before_and_moves_the_file_capabilities_only() {
        let mut c = root();
        assert_eq!((c.setfsuid(7), c.setfsuid(U)), (0, 7));
        assert_eq!((c.can(cap::DAC_OVERRIDE), c.can(cap::SETUID)), (false, true));
        assert_eq!((c.setfsuid(0), c.can(cap::DAC_OVERRIDE)), (7, true));
        let mut c = user(ids(1, 2, 3));
        assert_eq!((c.setfsuid(9), c.setfsuid(3), c.uid.file), (2, 2, 3));
    }

    #[test]
    fn groups_follow_the_capability_and_come_back_sorted() {
        let mut c = root();
        c.setgroups(vec![9, 4, 4]).unwrap();
        c.setresgid(5, 5, 5).unwrap();
        assert_eq!(c.groups, [4, 4, 9]);
        assert!(c.in_group(9) && c.in_group(5) && !c.in_group(0));
        assert_eq!(c.may_set_groups(MOST_GROUPS + 1), Err(Errno::INVAL));
        c.setuid(1).unwrap();
        assert_eq!(c.setgroups(vec![]), Err(Errno::PERM));
        assert_eq!(c.setgid(0), Err(Errno::PERM));
        assert_eq!(c.setregid(U, 5), Ok(()));
        assert_eq!(c.setfsgid(77), 5);
        assert_eq!(c.gid.file, 5);
    }
}
