//! Extended attributes.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Held, Reply};
use crate::supervisor::ids::{READ, WRITE, cap};
use crate::supervisor::owners::FileId;
use rustix::fs::XattrFlags;

const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();
/// As the kernel has it.
const NAME_BYTES: usize = 256;
const VALUE_BYTES: u64 = 64 * 1024;

/// Whether an attribute needs privilege, so that it is kept in the table of owners.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability"
}

/// How the file is named.
#[derive(Clone, Copy)]
enum By {
    Path,
    Link,
    Descriptor,
}

pub(in crate::supervisor) fn getxattr(call: &mut Call<'_>) -> Answer {
    call.get(By::Path)
}

pub(in crate::supervisor) fn lgetxattr(call: &mut Call<'_>) -> Answer {
    call.get(By::Link)
}

pub(in crate::supervisor) fn fgetxattr(call: &mut Call<'_>) -> Answer {
    call.get(By::Descriptor)
}

pub(in crate::supervisor) fn listxattr(call: &mut Call<'_>) -> Answer {
    call.list(By::Path)
}

pub(in crate::supervisor) fn llistxattr(call: &mut Call<'_>) -> Answer {
    call.list(By::Link)
}

pub(in crate::supervisor) fn flistxattr(call: &mut Call<'_>) -> Answer {
    call.list(By::Descriptor)
}

pub(in crate::supervisor) fn setxattr(call: &mut Call<'_>) -> Answer {
    call.set(By::Path)
}

pub(in crate::supervisor) fn lsetxattr(call: &mut Call<'_>) -> Answer {
    call.set(By::Link)
}

pub(in crate::supervisor) fn fsetxattr(call: &mut Call<'_>) -> Answer {
    call.set(By::Descriptor)
}

pub(in crate::supervisor) fn removexattr(call: &mut Call<'_>) -> Answer {
    call.remove_attribute(By::Path)
}

pub(in crate::supervisor) fn lremovexattr(call: &mut Call<'_>) -> Answer {
    call.remove_attribute(By::Link)
}

pub(in crate::supervisor) fn fremovexattr(call: &mut Call<'_>) -> Answer {
    call.remove_attribute(By::Descriptor)
}

impl Call<'_> {
    fn subject(&mut self, by: By) -> Result<Held, Errno> {
        if let By::Descriptor = by {
            return self.hold_at(self.int(0), b"", EMPTY_PATH);
        }
        let path = self.path(0)?;
        self.hold_at(AT_FDCWD, &path, if matches!(by, By::Link) { NOFOLLOW } else { 0 })
    }

    fn attribute(&self) -> Result<Vec<u8>, Errno> {
        match self.string(self.arg(1), NAME_BYTES) {
            Err(Errno::NAMETOOLONG) => Err(Errno::RANGE),
            Ok(name) if name.is_empty() => Err(Errno::RANGE),
            other => other,
        }
    }

    fn get(&mut self, by: By) -> Answer {
        let held = self.subject(by)?;
        let name = self.attribute()?;
        let (buffer, size) = (self.arg(2), self.arg(3));
        let mut value = vec![0; usize::try_from(size.min(VALUE_BYTES)).unwrap_or(0)];
        if let Some(kept) = self.kept(&held, &name)? {
            return self.answer_bytes(&kept, buffer, size);
        }
        self.attribute_permitted(&held, &name, READ)?;
        let length = rustix::fs::getxattr(held.by_link(), name.as_slice(), value.as_mut_slice())?;
        if size > 0 {
            self.write(buffer, value.get(..length).unwrap_or_default())?;
        }
        Ok(Reply::Value(i64::try_from(length).unwrap_or(0)))
    }

    fn list(&mut self, by: By) -> Answer {
        let held = self.subject(by)?;
        let (buffer, size) = (self.arg(1), self.arg(2));
        let mut names = vec![0; usize::try_from(size.min(VALUE_BYTES)).unwrap_or(0)];
        let length = rustix::fs::listxattr(held.by_link(), names.as_mut_slice())?;
        let kept = self.world.owners.get(&FileId::of(&held.look()?)).map(|owned| owned.xattrs.clone());
        let kept = kept.filter(|kept| !kept.is_empty());
        let Some(kept) = kept else {
            if size > 0 {
                self.write(buffer, names.get(..length).unwrap_or_default())?;
            }
            return Ok(Reply::Value(i64::try_from(length).unwrap_or(0)));
        };
        let mut all = vec![0; usize::try_from(VALUE_BYTES).unwrap_or(0)];
        let length = rustix::fs::listxattr(held.by_link(), all.as_mut_slice())?;
        all.truncate(length);
        for name in kept.keys() {
            all.extend_from_slice(name);
            all.push(0);
        }
        self.answer_bytes(&all, buffer, size)
    }

    fn set(&mut self, by: By) -> Answer {
        let held = self.subject(by)?;
        let name = self.attribute()?;
        let (size, flags) = (self.arg(3), XattrFlags::from_bits_retain(self.uint(4)));
        if size > VALUE_BYTES {
            return Err(Errno::TOOBIG);
        }
        let value = self.bytes(self.arg(2), usize::try_from(size).unwrap_or(0))?;
        held.change(self.world)?;
        self.attribute_permitted(&held, &name, WRITE)?;
        if !is_kept(&name) {
            match rustix::fs::setxattr(held.by_link(), name.as_slice(), &value, flags) {
                // The file system has none.
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") && held.mount.is_some() => {}
                other => return other.and(DONE),
            }
        }
        let file = FileId::of(&held.look()?);
        let there = self.world.owners.get(&file).is_some_and(|o| o.xattrs.contains_key(&name));
        if flags.contains(XattrFlags::CREATE) && there {
            return Err(Errno::EXIST);
        }
        if flags.contains(XattrFlags::REPLACE) && !there {
            return Err(Errno::NODATA);
        }
        self.world.owners.change(&file, |owned| drop(owned.xattrs.insert(name.clone(), value)));
        DONE
    }

    fn remove_attribute(&mut self, by: By) -> Answer {
        let held = self.subject(by)?;
        let name = self.attribute()?;
        held.change(self.world)?;
        self.attribute_permitted(&held, &name, WRITE)?;
        if self.kept(&held, &name).is_ok_and(|kept| kept.is_some()) {
            let file = FileId::of(&held.look()?);
            self.world.owners.change(&file, |owned| drop(owned.xattrs.remove(&name)));
            return DONE;
        }
        if is_kept(&name) {
            return Err(Errno::NODATA);
        }
        rustix::fs::removexattr(held.by_link(), name.as_slice())?;
        DONE
    }

    fn answer_bytes(&self, bytes: &[u8], buffer: u64, size: u64) -> Answer {
        if size > 0 {
            if (bytes.len() as u64) > size {
                return Err(Errno::RANGE);
            }
            self.write(buffer, bytes)?;
        }
        Ok(Reply::Value(i64::try_from(bytes.len()).unwrap_or(0)))
    }

    /// The value of an attribute that the file system could not take.
    fn kept(&self, held: &Held, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        if self.world.owners.is_empty() {
            return if is_kept(name) { Err(Errno::NODATA) } else { Ok(None) };
        }
        let owned = self.world.owners.get(&FileId::of(&held.look()?));
        match owned.and_then(|owned| owned.xattrs.get(name)) {
            Some(value) => Ok(Some(value.to_vec())),
            None if is_kept(name) => Err(Errno::NODATA),
            None => Ok(None),
        }
    }

    fn attribute_permitted(&self, held: &Held, name: &[u8], wanted: u32) -> Result<(), Errno> {
        let who = self.who()?;
        if is_kept(name) && wanted == WRITE && !who.can(cap::SETFCAP) {
            return Err(Errno::PERM);
        }
        if crate::supervisor::look::all_powerful(&who) || !held.owned(self.world) {
            return Ok(());
        }
        who.may(held.seen(self.world, &held.look()?), wanted)
    }
}
