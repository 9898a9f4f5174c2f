//! Extended attributes.

use super::super::super::ids::{READ, WRITE, cap};
use super::super::walk::Held;
use super::super::{Answer, Answered, Call, Keeper};
use super::{Credentials, DONE};
use rustix::fs::{FileType, XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;

const HERE: i32 = libc::AT_FDCWD;
/// As the kernel has it.
const NAME_BYTES: usize = 256;
const VALUE_BYTES: u64 = 64 * 1024;
const STICKY: u32 = 0o1000;

/// How the file is named.
#[derive(Clone, Copy)]
enum By {
    Path,
    Link,
    Descriptor,
}

impl Keeper {
    pub(in super::super) fn judged_getxattr(&self, call: &Call<'_>) -> Answered {
        self.get_attribute(call, By::Path)
    }

    pub(in super::super) fn judged_lgetxattr(&self, call: &Call<'_>) -> Answered {
        self.get_attribute(call, By::Link)
    }

    pub(in super::super) fn judged_listxattr(&self, call: &Call<'_>) -> Answered {
        self.list_attributes(call, By::Path)
    }

    pub(in super::super) fn judged_llistxattr(&self, call: &Call<'_>) -> Answered {
        self.list_attributes(call, By::Link)
    }

    pub(in super::super) fn judged_setxattr(&self, call: &Call<'_>) -> Answered {
        self.set_attribute(call, By::Path)
    }

    pub(in super::super) fn judged_lsetxattr(&self, call: &Call<'_>) -> Answered {
        self.set_attribute(call, By::Link)
    }

    pub(in super::super) fn judged_fsetxattr(&self, call: &Call<'_>) -> Answered {
        self.set_attribute(call, By::Descriptor)
    }

    pub(in super::super) fn judged_removexattr(&self, call: &Call<'_>) -> Answered {
        self.remove_attribute(call, By::Path)
    }

    pub(in super::super) fn judged_lremovexattr(&self, call: &Call<'_>) -> Answered {
        self.remove_attribute(call, By::Link)
    }

    pub(in super::super) fn judged_fremovexattr(&self, call: &Call<'_>) -> Answered {
        self.remove_attribute(call, By::Descriptor)
    }

    fn subject(&self, call: &Call<'_>, by: By) -> Result<(Arc<Credentials>, Held), Errno> {
        match by {
            By::Path => self.reach(call, HERE, call.arg(0), true, false),
            By::Link => self.reach(call, HERE, call.arg(0), false, false),
            By::Descriptor => Ok((self.credentials(call.pid), self.hold_descriptor(call, call.int(0))?)),
        }
    }

    /// Does something with a file for which there is no call that takes a place.
    pub(super) fn by_link<T>(&self, file: &Held, action: impl FnOnce(&Path) -> Result<T, Errno>) -> Result<T, Errno> {
        rustix::process::fchdir(&self.links)?;
        action(Path::new(&file.link()))
    }

    fn get_attribute(&self, call: &Call<'_>, by: By) -> Answered {
        let (who, file) = self.subject(call, by)?;
        let name = call.attribute_name()?;
        if name.starts_with(b"user.") {
            file.may(&who, READ)?;
        }
        let size = call.arg(3).min(VALUE_BYTES);
        let mut value = vec![0; usize::try_from(size).unwrap_or(0)];
        let length = self.by_link(&file, |path| getxattr(path, name.as_slice(), value.as_mut_slice()))?;
        call.answer_bytes(value.get(..length).unwrap_or_default(), length, 2)
    }

    fn list_attributes(&self, call: &Call<'_>, by: By) -> Answered {
        let (_, file) = self.subject(call, by)?;
        let mut names = vec![0; usize::try_from(call.arg(2).min(VALUE_BYTES)).unwrap_or(0)];
        let length = self.by_link(&file, |path| listxattr(path, names.as_mut_slice()))?;
        call.answer_bytes(names.get(..length).unwrap_or_default(), length, 1)
    }

    fn set_attribute(&self, call: &Call<'_>, by: By) -> Answered {
        let (who, file) = self.subject(call, by)?;
        let name = call.attribute_name()?;
        let size = usize::try_from(call.arg(3).min(VALUE_BYTES + 1)).unwrap_or(0);
        if size as u64 > VALUE_BYTES {
            return Err(Errno::TOOBIG);
        }
        let value = call.read(call.arg(2), size)?;
        may_change(&who, &file, &name)?;
        if let Some(answer) = self.set_access_list(&file.fd, &name, &value) {
            return answer;
        }
        let flags = XattrFlags::from_bits_retain(call.word(4));
        self.by_link(&file, |path| setxattr(path, name.as_slice(), &value, flags))?;
        DONE
    }

    fn remove_attribute(&self, call: &Call<'_>, by: By) -> Answered {
        let (who, file) = self.subject(call, by)?;
        let name = call.attribute_name()?;
        may_change(&who, &file, &name)?;
        self.by_link(&file, |path| removexattr(path, name.as_slice()))?;
        DONE
    }
}

fn may_change(who: &Credentials, file: &Held, name: &[u8]) -> Result<(), Errno> {
    if name == b"security.capability" {
        return if who.can(cap::SETFCAP) { Ok(()) } else { Err(Errno::PERM) };
    }
    if name.starts_with(b"security.") || name.starts_with(b"trusted.") {
        return Err(Errno::PERM);
    }
    let Some(law) = file.law else { return Ok(()) };
    if name.starts_with(b"system.") {
        return if who.owns(law) { Ok(()) } else { Err(Errno::PERM) };
    }
    match file.kind() {
        FileType::Directory if law.mode & STICKY != 0 && !who.owns(law) => Err(Errno::PERM),
        FileType::Directory | FileType::RegularFile => who.may(law, WRITE),
        _ => Err(Errno::PERM),
    }
}

impl Call<'_> {
    fn attribute_name(&self) -> Result<Vec<u8>, Errno> {
        match self.string(self.arg(1), NAME_BYTES) {
            Err(Errno::NAMETOOLONG) => Err(Errno::RANGE),
            Ok(name) if name.is_empty() => Err(Errno::RANGE),
            other => other,
        }
    }

    /// Answers bytes into the buffer of argument `buffer`, unless the caller only asks how many there are.
    fn answer_bytes(&self, bytes: &[u8], length: usize, buffer: usize) -> Answered {
        if self.arg(buffer + 1) > 0 {
            self.write(self.arg(buffer), bytes)?;
        }
        Ok(Answer::Value(i64::try_from(length).unwrap_or(0)))
    }
}
