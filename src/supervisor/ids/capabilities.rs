//! Sets of capabilities, and the calls that change them.

use super::{Credentials, Ids};
use rustix::io::Errno;

/// Numbers of the capabilities that decide something here.
pub mod cap {
    #![allow(missing_docs)]
    pub const CHOWN: u8 = 0;
    pub const DAC_OVERRIDE: u8 = 1;
    pub const DAC_READ_SEARCH: u8 = 2;
    pub const FOWNER: u8 = 3;
    pub const FSETID: u8 = 4;
    pub const SETGID: u8 = 6;
    pub const SETUID: u8 = 7;
    pub const SETPCAP: u8 = 8;
    pub const SYS_CHROOT: u8 = 18;
    pub const MKNOD: u8 = 27;
    pub const SETFCAP: u8 = 31;
}

/// The highest number that a kernel of today knows (`CAP_CHECKPOINT_RESTORE`).
const LAST: u8 = 40;

/// Those that setfsuid(2) gives and takes: chown, the two DAC ones, fowner, fsetid, linux_immutable, mknod, mac_override.
const FILE: Capabilities = Capabilities(1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 27 | 1 << 32);

const NOROOT: u32 = 1;
const NO_SETUID_FIXUP: u32 = 1 << 2;
const KEEP_CAPS: u32 = 1 << 4;
const KEEP_CAPS_LOCKED: u32 = 1 << 5;
const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
const ALL_BITS: u32 = 0x55;
const ALL_LOCKS: u32 = ALL_BITS << 1;

/// A set of capabilities: bit n is number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// None.
    pub const NONE: Capabilities = Capabilities(0);
    /// Every one that there is.
    pub const ALL: Capabilities = Capabilities((1 << (LAST + 1)) - 1);

    /// Whether this number is in the set.
    pub fn has(self, number: u8) -> bool {
        number < 64 && self.0 & 1 << number != 0
    }

    /// In both.
    #[must_use]
    pub fn and(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// In either.
    #[must_use]
    pub fn or(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// In this one, but not in the other.
    #[must_use]
    pub fn without(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }

    /// Whether all are in the other as well.
    pub fn within(self, other: Capabilities) -> bool {
        self.without(other) == Capabilities::NONE
    }
}

impl FromIterator<u8> for Capabilities {
    fn from_iter<I: IntoIterator<Item = u8>>(numbers: I) -> Capabilities {
        Capabilities(numbers.into_iter().filter(|n| *n < 64).fold(0, |set, n| set | 1 << n))
    }
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySets {
    /// What the process may use.
    pub permitted: Capabilities,
    /// What counts now.
    pub effective: Capabilities,
    /// What a program with file capabilities may take over.
    pub inheritable: Capabilities,
    /// What there can ever be.
    pub bounding: Capabilities,
    /// What stays over `execve` of an ordinary program.
    pub ambient: Capabilities,
}

impl CapabilitySets {
    /// What `setuid` and its kin do to the sets.
    pub(super) fn user_changed(&mut self, old: Ids, new: Ids, securebits: u32) {
        if securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        let is_root = |ids: Ids| ids.real == 0 || ids.effective == 0 || ids.saved == 0;
        if is_root(old) && !is_root(new) {
            if securebits & KEEP_CAPS == 0 {
                self.permitted = Capabilities::NONE;
                self.effective = Capabilities::NONE;
            }
            self.ambient = Capabilities::NONE;
        }
        if old.effective == 0 && new.effective != 0 {
            self.effective = Capabilities::NONE;
        }
        if old.effective != 0 && new.effective == 0 {
            self.effective = self.permitted;
        }
    }

    /// What `setfsuid` does to the sets.
    pub(super) fn file_user_changed(&mut self, old: u32, new: u32, securebits: u32) {
        if securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        if old == 0 && new != 0 {
            self.effective = self.effective.without(FILE);
        }
        if old != 0 && new == 0 {
            self.effective = self.effective.or(self.permitted.and(FILE));
        }
    }
}

impl Credentials {
    /// Whether root of this process is like anybody else to `execve`.
    pub(super) fn root_is_nobody(&self) -> bool {
        self.securebits & NOROOT != 0
    }

    /// The sets by which access(2) judges: it asks for the real user.
    pub(super) fn capabilities_of_real_user(&self) -> Capabilities {
        match self.securebits & NO_SETUID_FIXUP != 0 {
            true => self.caps.effective,
            false if self.uid.real == 0 => self.caps.permitted,
            false => Capabilities::NONE,
        }
    }

    /// capset(2) of the process itself.
    ///
    /// # Errors
    /// EPERM.
    pub fn capset(
        &mut self,
        effective: Capabilities,
        permitted: Capabilities,
        inheritable: Capabilities,
    ) -> Result<(), Errno> {
        // The kernel drops what it does not know.
        let known = |set: Capabilities| set.and(Capabilities::ALL);
        let (effective, permitted, inheritable) = (known(effective), known(permitted), known(inheritable));
        let old = self.caps;
        let capped = !self.can(cap::SETPCAP) && !inheritable.within(old.inheritable.or(old.permitted));
        if capped
            || !inheritable.within(old.inheritable.or(old.bounding))
            || !permitted.within(old.permitted)
            || !effective.within(permitted)
        {
            return Err(Errno::PERM);
        }
        let ambient = old.ambient.and(permitted).and(inheritable);
        self.caps = CapabilitySets { permitted, effective, inheritable, ambient, ..old };
        Ok(())
    }

    /// prctl(2), for the options that are about credentials: `None` for all others.
    pub fn prctl(&mut self, option: i32, args: [u64; 4]) -> Option<Result<u32, Errno>> {
        let [second, third, fourth, fifth] = args;
        Some(match option {
            libc::PR_CAPBSET_READ => number(second).map(|n| u32::from(self.caps.bounding.has(n))),
            libc::PR_CAPBSET_DROP => self.drop_bounding(second),
            libc::PR_CAP_AMBIENT => self.ambient(second, third, [fourth, fifth]),
            libc::PR_GET_SECUREBITS => Ok(self.securebits),
            libc::PR_SET_SECUREBITS => self.set_securebits(second),
            libc::PR_GET_KEEPCAPS => Ok(u32::from(self.securebits & KEEP_CAPS != 0)),
            libc::PR_SET_KEEPCAPS => match second {
                0 | 1 if self.securebits & KEEP_CAPS_LOCKED != 0 => Err(Errno::PERM),
                0 => {
                    self.securebits &= !KEEP_CAPS;
                    Ok(0)
                }
                1 => {
                    self.securebits |= KEEP_CAPS;
                    Ok(0)
                }
                _ => Err(Errno::INVAL),
            },
            libc::PR_GET_NO_NEW_PRIVS => match args {
                [0, 0, 0, 0] => Ok(u32::from(self.no_new_privileges)),
                _ => Err(Errno::INVAL),
            },
            libc::PR_SET_NO_NEW_PRIVS => match args {
                [1, 0, 0, 0] => {
                    self.no_new_privileges = true;
                    Ok(0)
                }
                _ => Err(Errno::INVAL),
            },
            _ => return None,
        })
    }

    fn drop_bounding(&mut self, value: u64) -> Result<u32, Errno> {
        if !self.can(cap::SETPCAP) {
            return Err(Errno::PERM);
        }
        let dropped: Capabilities = [number(value)?].into_iter().collect();
        self.caps.bounding = self.caps.bounding.without(dropped);
        Ok(0)
    }

    fn ambient(&mut self, action: u64, value: u64, zero: [u64; 2]) -> Result<u32, Errno> {
        if zero != [0, 0] {
            return Err(Errno::INVAL);
        }
        let action = i32::try_from(action).map_err(|_| Errno::INVAL)?;
        if action == libc::PR_CAP_AMBIENT_CLEAR_ALL {
            if value != 0 {
                return Err(Errno::INVAL);
            }
            self.caps.ambient = Capabilities::NONE;
            return Ok(0);
        }
        let number = number(value)?;
        let one: Capabilities = [number].into_iter().collect();
        match action {
            libc::PR_CAP_AMBIENT_IS_SET => return Ok(u32::from(self.caps.ambient.has(number))),
            libc::PR_CAP_AMBIENT_RAISE => {
                let has = self.caps.permitted.has(number) && self.caps.inheritable.has(number);
                if !has || self.securebits & NO_CAP_AMBIENT_RAISE != 0 {
                    return Err(Errno::PERM);
                }
                self.caps.ambient = self.caps.ambient.or(one);
            }
            libc::PR_CAP_AMBIENT_LOWER => self.caps.ambient = self.caps.ambient.without(one),
            _ => return Err(Errno::INVAL),
        }
        Ok(0)
    }

    fn set_securebits(&mut self, value: u64) -> Result<u32, Errno> {
        let new = u32::try_from(value).map_err(|_| Errno::PERM)?;
        let old = self.securebits;
        let locked = (old & ALL_LOCKS) >> 1;
        if locked & (old ^ new) != 0
            || old & ALL_LOCKS & !new != 0
            || new & !(ALL_LOCKS | ALL_BITS) != 0
            || !self.can(cap::SETPCAP)
        {
            return Err(Errno::PERM);
        }
        self.securebits = new;
        Ok(0)
    }

    /// What `execve` leaves of the securebits.
    pub(super) fn securebits_after_exec(&self) -> u32 {
        self.securebits & !KEEP_CAPS
    }
}

fn number(value: u64) -> Result<u8, Errno> {
    u8::try_from(value).ok().filter(|n| *n <= LAST).ok_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[u8]) -> Capabilities {
        numbers.iter().copied().collect()
    }

    fn root() -> Credentials {
        Credentials::of_command(0, 0, &[], Capabilities::ALL)
    }

    #[test]
    fn capset_never_gains_and_keeps_ambient_within_both_sets() {
        let mut c = root();
        c.capset(set(&[1]), set(&[1, 2]), set(&[1, 2])).unwrap();
        assert_eq!(c.prctl(libc::PR_CAP_AMBIENT, [2, 2, 0, 0]), Some(Ok(0)));
        assert_eq!(c.capset(set(&[3]), set(&[1, 2]), set(&[])), Err(Errno::PERM));
        assert_eq!(c.capset(set(&[]), set(&[1, 2, 3]), set(&[])), Err(Errno::PERM));
        // Without SETPCAP nothing becomes inheritable that is not permitted.
        assert_eq!(c.capset(set(&[]), set(&[1]), set(&[5])), Err(Errno::PERM));
        c.capset(set(&[]), set(&[1]), set(&[1])).unwrap();
        assert_eq!(c.caps.ambient, Capabilities::NONE);
        // Unknown numbers are no error.
        c.capset(set(&[]), Capabilities(1 << 63), set(&[])).unwrap();
    }

    #[test]
    fn kept_capabilities_survive_a_change_of_user_but_are_not_effective() {
        let mut c = root();
        assert_eq!(c.prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]), Some(Ok(0)));
        assert_eq!(c.prctl(libc::PR_GET_KEEPCAPS, [0; 4]), Some(Ok(1)));
        c.setresuid(9, 9, 9).unwrap();
        assert_eq!((c.caps.permitted, c.caps.effective), (Capabilities::ALL, Capabilities::NONE));
        assert_eq!(c.prctl(libc::PR_SET_KEEPCAPS, [2, 0, 0, 0]), Some(Err(Errno::INVAL)));
    }

    #[test]
    fn the_bounding_set_only_shrinks_and_only_with_setpcap() {
        let mut c = root();
        assert_eq!(c.prctl(libc::PR_CAPBSET_DROP, [21, 0, 0, 0]), Some(Ok(0)));
        assert_eq!(c.prctl(libc::PR_CAPBSET_READ, [21, 0, 0, 0]), Some(Ok(0)));
        assert_eq!(c.prctl(libc::PR_CAPBSET_READ, [20, 0, 0, 0]), Some(Ok(1)));
        assert_eq!(c.prctl(libc::PR_CAPBSET_READ, [41, 0, 0, 0]), Some(Err(Errno::INVAL)));
        c.setuid(1).unwrap();
        assert_eq!(c.prctl(libc::PR_CAPBSET_DROP, [20, 0, 0, 0]), Some(Err(Errno::PERM)));
    }

    #[test]
    fn securebits_lock_themselves() {
        let mut c = root();
        assert_eq!(c.prctl(libc::PR_SET_SECUREBITS, [0b11, 0, 0, 0]), Some(Ok(0)));
        for refused in [0b10, 0b01, 0b00, 1 << 20] {
            assert_eq!(c.prctl(libc::PR_SET_SECUREBITS, [refused, 0, 0, 0]), Some(Err(Errno::PERM)), "{refused}");
        }
        assert_eq!(c.prctl(libc::PR_GET_SECUREBITS, [0; 4]), Some(Ok(0b11)));
    }

    #[test]
    fn ambient_capabilities_need_both_sets() {
        let mut c = root();
        let mut ambient = |action: i32, n: u64| c.prctl(libc::PR_CAP_AMBIENT, [action as u64, n, 0, 0]).unwrap();
        assert_eq!(ambient(libc::PR_CAP_AMBIENT_RAISE, 1), Err(Errno::PERM));
        assert_eq!(ambient(libc::PR_CAP_AMBIENT_IS_SET, 1), Ok(0));
        assert_eq!(ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 1), Err(Errno::INVAL));
        assert_eq!(ambient(9, 1), Err(Errno::INVAL));
        assert_eq!(root().prctl(libc::PR_SET_NAME, [0; 4]), None);
    }

    #[test]
    fn no_new_privileges_can_be_set_only() {
        let mut c = root();
        assert_eq!(c.prctl(libc::PR_GET_NO_NEW_PRIVS, [0; 4]), Some(Ok(0)));
        assert_eq!(c.prctl(libc::PR_SET_NO_NEW_PRIVS, [0; 4]), Some(Err(Errno::INVAL)));
        assert_eq!(c.prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]), Some(Ok(0)));
        assert_eq!(c.prctl(libc::PR_GET_NO_NEW_PRIVS, [0; 4]), Some(Ok(1)));
    }
}
