//! What may be done with a file, by its owner and mode.

use super::{Capabilities, Credentials, UNCHANGED, cap};
use rustix::io::Errno;

/// Executing a file, or going through a directory.
pub const EXECUTE: u32 = 1;
/// Writing a file, or making and removing names in a directory.
pub const WRITE: u32 = 2;
/// Reading a file or a directory.
pub const READ: u32 = 4;

/// What flags of open(2) want to do with a file.
pub fn wanted_by(flags: i32) -> u32 {
    let wanted = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => READ,
        libc::O_WRONLY => WRITE,
        _ => READ | WRITE,
    };
    if flags & libc::O_TRUNC != 0 { wanted | WRITE } else { wanted }
}

const STICKY: u32 = 0o1000;
const SET_GID: u32 = 0o2000;
const SET_UID: u32 = 0o4000;
const GROUP_EXECUTE: u32 = 0o010;

/// What the decision is made of: owner and mode of a file as the step sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Owner and mode of a file that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode, with what the directory adds and takes.
    pub mode: u32,
}

impl Credentials {
    /// Whether the process may do this ([`READ`], [`WRITE`], [`EXECUTE`], or more than one) with the file.
    ///
    /// # Errors
    /// EACCES.
    pub fn may(&self, file: Attributes, wanted: u32) -> Result<(), Errno> {
        self.judge(file, wanted, self.uid.file, self.gid.file, self.caps.effective)
    }

    /// The same for the real user and group, as access(2) asks.
    ///
    /// # Errors
    /// EACCES.
    pub fn may_as_real(&self, file: Attributes, wanted: u32) -> Result<(), Errno> {
        self.judge(file, wanted, self.uid.real, self.gid.real, self.capabilities_of_real_user())
    }

    /// Who counts where the real user does.
    #[must_use]
    pub fn as_real(&self) -> Credentials {
        let mut real = self.clone();
        real.caps.effective = self.capabilities_of_real_user();
        real.uid.file = real.uid.real;
        real.gid.file = real.gid.real;
        real
    }

    fn judge(&self, file: Attributes, wanted: u32, uid: u32, gid: u32, caps: Capabilities) -> Result<(), Errno> {
        let granted = if file.uid == uid {
            file.mode >> 6
        } else if file.gid == gid || self.groups.binary_search(&file.gid).is_ok() {
            file.mode >> 3
        } else {
            file.mode
        };
        if wanted & !granted & 7 == 0 {
            return Ok(());
        }
        let (override_all, read_all) = (caps.has(cap::DAC_OVERRIDE), caps.has(cap::DAC_READ_SEARCH));
        let allowed = if file.directory {
            override_all || (read_all && wanted & WRITE == 0)
        } else {
            (read_all && wanted == READ) || (override_all && (wanted & EXECUTE == 0 || file.mode & 0o111 != 0))
        };
        if allowed { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Whether the process counts as the owner.
    pub fn owns(&self, file: Attributes) -> bool {
        self.uid.file == file.uid || self.can(cap::FOWNER)
    }

    /// chmod(2): the mode that the file gets.
    ///
    /// # Errors
    /// EPERM.
    pub fn chmod(&self, file: Attributes, mode: u32) -> Result<u32, Errno> {
        if !self.owns(file) {
            return Err(Errno::PERM);
        }
        let foreign = !self.in_group(file.gid) && !self.can(cap::FSETID);
        Ok(if foreign { mode & 0o7777 & !SET_GID } else { mode & 0o7777 })
    }

    /// chown(2), with -1 for what stays: owner, group and mode that the file gets.
    ///
    /// # Errors
    /// EPERM.
    pub fn chown(&self, file: Attributes, uid: u32, gid: u32) -> Result<Attributes, Errno> {
        let mut new = file;
        if uid != UNCHANGED {
            if !(self.can(cap::CHOWN) || (self.uid.file == file.uid && uid == file.uid)) {
                return Err(Errno::PERM);
            }
            new.uid = uid;
        }
        if gid != UNCHANGED {
            let own_group = self.uid.file == file.uid && (self.in_group(gid) || gid == file.gid);
            if !(self.can(cap::CHOWN) || own_group) {
                return Err(Errno::PERM);
            }
            new.gid = gid;
        }
        if !file.directory {
            new.mode &= !SET_UID;
            // Set-gid without x is no privilege, and stays for members of the group.
            let executable = file.mode & GROUP_EXECUTE != 0;
            if executable || !(self.in_group(file.gid) || self.can(cap::FSETID)) {
                new.mode &= !SET_GID;
            }
        }
        Ok(new)
    }

    /// utimensat(2): `now` where both times are the present.
    ///
    /// # Errors
    /// EACCES, EPERM.
    pub fn may_set_times(&self, file: Attributes, now: bool) -> Result<(), Errno> {
        match (self.owns(file), now) {
            (true, _) => Ok(()),
            (false, true) => self.may(file, WRITE),
            (false, false) => Err(Errno::PERM),
        }
    }

    /// What a file gets that the process makes in `directory` with this mode (after the umask).
    pub fn make_in(&self, directory: Attributes, mode: u32, is_directory: bool) -> Inherited {
        let mut made = Inherited { uid: self.uid.file, gid: self.gid.file, mode: mode & 0o7777 };
        if directory.mode & SET_GID != 0 {
            made.gid = directory.gid;
            let runs_as_group = made.mode & (SET_GID | GROUP_EXECUTE) == SET_GID | GROUP_EXECUTE;
            if is_directory {
                made.mode |= SET_GID;
            } else if runs_as_group && !self.in_group(made.gid) && !self.can(cap::FSETID) {
                made.mode &= !SET_GID;
            }
        }
        made
    }
}

/// Whether the process may take the name of `file` out of `directory`, or put another file in its place.
///
/// # Errors
/// EACCES, EPERM (a sticky directory).
pub fn may_delete(process: &Credentials, directory: Attributes, file: Attributes) -> Result<(), Errno> {
    process.may(directory, WRITE | EXECUTE)?;
    let sticky = directory.mode & STICKY != 0;
    let own = process.uid.file == file.uid || process.uid.file == directory.uid;
    if sticky && !own && !process.can(cap::FOWNER) { Err(Errno::PERM) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Credentials {
        Credentials::of_command(0, 0, &[], Capabilities::ALL)
    }

    /// User 1000, group 100, also in group 50.
    fn user() -> Credentials {
        Credentials::of_command(1000, 100, &[50], Capabilities::ALL)
    }

    fn file(uid: u32, gid: u32, mode: u32) -> Attributes {
        Attributes { uid, gid, mode, directory: false }
    }

    fn dir(uid: u32, gid: u32, mode: u32) -> Attributes {
        Attributes { directory: true, ..file(uid, gid, mode) }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        for (attributes, wanted, allowed) in [
            (file(1000, 0, 0o400), READ, true),
            (file(1000, 0, 0o077), READ, false),
            (file(0, 100, 0o040), READ, true),
            (file(0, 50, 0o020), WRITE, true),
            (file(0, 50, 0o707), READ, false),
            (file(0, 0, 0o004), READ, true),
            (file(0, 0, 0o004), READ | WRITE, false),
            (dir(0, 0, 0o755), WRITE | EXECUTE, false),
            (dir(0, 0, 0o755), READ | EXECUTE, true),
        ] {
            assert_eq!(user().may(attributes, wanted).is_ok(), allowed, "{attributes:?} {wanted}");
        }
    }

    #[test]
    fn root_may_all_but_execute_what_nobody_can() {
        assert!(root().may(file(5, 5, 0), READ | WRITE).is_ok());
        assert_eq!(root().may(file(5, 5, 0o666), EXECUTE), Err(Errno::ACCESS));
        assert!(root().may(file(5, 5, 0o010), EXECUTE).is_ok());
        assert!(root().may(dir(5, 5, 0), READ | WRITE | EXECUTE).is_ok());
        let mut reader = user();
        reader.caps.effective = [cap::DAC_READ_SEARCH].into_iter().collect();
        assert!(reader.may(file(0, 0, 0), READ).is_ok() && reader.may(dir(0, 0, 0), READ | EXECUTE).is_ok());
        assert!(reader.may(file(0, 0, 0), WRITE).is_err() && reader.may(dir(0, 0, 0), WRITE).is_err());
    }

    #[test]
    fn access_asks_for_the_real_user() {
        let mut c = root();
        c.setresuid(1000, u32::MAX, u32::MAX).unwrap();
        assert!(c.may(file(0, 0, 0o600), READ).is_ok());
        assert_eq!(c.may_as_real(file(0, 0, 0o600), READ), Err(Errno::ACCESS));
        let mut c = root();
        c.setresuid(u32::MAX, 1000, u32::MAX).unwrap();
        assert!(c.may_as_real(file(0, 0, 0o600), READ).is_ok());
    }

    #[test]
    fn sticky_directories_protect_other_peoples_files() {
        let tmp = dir(0, 0, 0o1777);
        assert!(may_delete(&user(), tmp, file(1000, 0, 0)).is_ok());
        assert_eq!(may_delete(&user(), tmp, file(0, 0, 0o666)), Err(Errno::PERM));
        assert!(may_delete(&user(), dir(1000, 0, 0o1777), file(0, 0, 0)).is_ok());
        assert_eq!(may_delete(&user(), dir(0, 0, 0o755), file(1000, 0, 0)), Err(Errno::ACCESS));
        assert!(may_delete(&root(), tmp, file(1000, 0, 0)).is_ok());
    }

    #[test]
    fn chmod_is_for_owners_and_keeps_set_gid_for_members_only() {
        assert_eq!(user().chmod(file(1000, 50, 0), 0o2755), Ok(0o2755));
        assert_eq!(user().chmod(file(1000, 7, 0), 0o2755), Ok(0o755));
        assert_eq!(user().chmod(file(0, 100, 0o777), 0o777), Err(Errno::PERM));
        assert_eq!(root().chmod(file(1000, 7, 0), 0o106_755), Ok(0o6755));
    }

    #[test]
    fn chown_gives_away_only_with_the_capability_and_drops_set_id_bits() {
        let own = file(1000, 100, 0o6755);
        assert_eq!(user().chown(own, 1000, 50), Ok(Attributes { gid: 50, mode: 0o755, ..own }));
        assert_eq!(user().chown(own, 1001, UNCHANGED), Err(Errno::PERM));
        assert_eq!(user().chown(own, UNCHANGED, 7), Err(Errno::PERM));
        assert_eq!(user().chown(file(0, 100, 0o755), UNCHANGED, 100), Err(Errno::PERM));
        assert_eq!(root().chown(own, 33, 34), Ok(Attributes { uid: 33, gid: 34, mode: 0o755, directory: false }));
        assert_eq!(root().chown(dir(0, 0, 0o2775), 33, UNCHANGED).unwrap().mode, 0o2775);
        assert_eq!(root().chown(file(0, 0, 0o2644), 1, 1).unwrap().mode, 0o2644);
        assert_eq!(user().chown(file(1000, 7, 0o2644), UNCHANGED, UNCHANGED).unwrap().mode, 0o644);
    }

    #[test]
    fn times() {
        assert_eq!(user().may_set_times(file(1000, 0, 0), false), Ok(()));
        assert_eq!(user().may_set_times(file(0, 0, 0o666), true), Ok(()));
        assert_eq!(user().may_set_times(file(0, 0, 0o666), false), Err(Errno::PERM));
        assert_eq!(user().may_set_times(file(0, 0, 0o644), true), Err(Errno::ACCESS));
    }

    #[test]
    fn new_files_take_the_group_of_a_set_gid_directory() {
        let (plain, shared) = (dir(0, 50, 0o775), dir(0, 7, 0o2775));
        assert_eq!(user().make_in(plain, 0o644, false), Inherited { uid: 1000, gid: 100, mode: 0o644 });
        assert_eq!(user().make_in(shared, 0o755, true), Inherited { uid: 1000, gid: 7, mode: 0o2755 });
        assert_eq!(user().make_in(shared, 0o2755, false).mode, 0o755);
        assert_eq!(root().make_in(shared, 0o2755, false), Inherited { uid: 0, gid: 7, mode: 0o2755 });
    }
}
