//! Users, groups and capabilities of processes.

use super::{Answer, Call, DONE, Errno, Reply};
use crate::supervisor::ids::{Capabilities, Credentials};

/// What 16-bit calls answer for ids that need more.
const OVERFLOW: u32 = 65_534;

impl Call<'_> {
    /// Whether the call is one of 32-bit programs whose ids have 16 bits.
    pub(super) fn is_narrow(&self) -> bool {
        // All the newer ones have numbers above.
        self.compat && self.notification.number < 190
    }

    /// Changes who the caller is; `change` answers what the call does.
    fn change_credentials(&mut self, change: impl FnOnce(&mut Credentials) -> Result<i64, Errno>) -> Answer {
        let before = self.who()?;
        let mut after = (*before).clone();
        let value = change(&mut after)?;
        if after != *before {
            self.world.view.tasks.become_other(self.tid, after);
        }
        Ok(Reply::Value(value))
    }

    fn tell(&self, what: impl FnOnce(&Credentials) -> u32) -> Answer {
        let id = what(&*self.who()?);
        let id = if self.is_narrow() && id > 0xffff { OVERFLOW } else { id };
        Ok(Reply::Value(id.into()))
    }

    fn encode(&self, id: u32) -> Vec<u8> {
        if self.is_narrow() {
            u16::try_from(id).unwrap_or(OVERFLOW as u16).to_ne_bytes().to_vec()
        } else {
            id.to_ne_bytes().to_vec()
        }
    }

    fn tell_three(&self, ids: [u32; 3]) -> Answer {
        for (number, id) in ids.into_iter().enumerate() {
            self.write(self.arg(number), &self.encode(id))?;
        }
        DONE
    }
}

pub(in crate::supervisor) fn getuid(call: &mut Call<'_>) -> Answer {
    call.tell(|c| c.uid.real)
}

pub(in crate::supervisor) fn geteuid(call: &mut Call<'_>) -> Answer {
    call.tell(|c| c.uid.effective)
}

pub(in crate::supervisor) fn getgid(call: &mut Call<'_>) -> Answer {
    call.tell(|c| c.gid.real)
}

pub(in crate::supervisor) fn getegid(call: &mut Call<'_>) -> Answer {
    call.tell(|c| c.gid.effective)
}

pub(in crate::supervisor) fn getresuid(call: &mut Call<'_>) -> Answer {
    let uid = call.who()?.uid;
    call.tell_three([uid.real, uid.effective, uid.saved])
}

pub(in crate::supervisor) fn getresgid(call: &mut Call<'_>) -> Answer {
    let gid = call.who()?.gid;
    call.tell_three([gid.real, gid.effective, gid.saved])
}

pub(in crate::supervisor) fn setuid(call: &mut Call<'_>) -> Answer {
    let uid = call.id(0);
    call.change_credentials(|c| c.setuid(uid).map(|()| 0))
}

pub(in crate::supervisor) fn setgid(call: &mut Call<'_>) -> Answer {
    let gid = call.id(0);
    call.change_credentials(|c| c.setgid(gid).map(|()| 0))
}

pub(in crate::supervisor) fn setreuid(call: &mut Call<'_>) -> Answer {
    let (real, effective) = (call.id(0), call.id(1));
    call.change_credentials(|c| c.setreuid(real, effective).map(|()| 0))
}

pub(in crate::supervisor) fn setregid(call: &mut Call<'_>) -> Answer {
    let (real, effective) = (call.id(0), call.id(1));
    call.change_credentials(|c| c.setregid(real, effective).map(|()| 0))
}

pub(in crate::supervisor) fn setresuid(call: &mut Call<'_>) -> Answer {
    let (real, effective, saved) = (call.id(0), call.id(1), call.id(2));
    call.change_credentials(|c| c.setresuid(real, effective, saved).map(|()| 0))
}

pub(in crate::supervisor) fn setresgid(call: &mut Call<'_>) -> Answer {
    let (real, effective, saved) = (call.id(0), call.id(1), call.id(2));
    call.change_credentials(|c| c.setresgid(real, effective, saved).map(|()| 0))
}

pub(in crate::supervisor) fn setfsuid(call: &mut Call<'_>) -> Answer {
    let uid = call.id(0);
    call.change_credentials(|c| Ok(i64::from(c.setfsuid(uid))))
}

pub(in crate::supervisor) fn setfsgid(call: &mut Call<'_>) -> Answer {
    let gid = call.id(0);
    call.change_credentials(|c| Ok(i64::from(c.setfsgid(gid))))
}

pub(in crate::supervisor) fn getgroups(call: &mut Call<'_>) -> Answer {
    let who = call.who()?;
    let room = usize::try_from(call.int(0)).map_err(|_| Errno::INVAL)?;
    if room != 0 {
        if room < who.groups.len() {
            return Err(Errno::INVAL);
        }
        let bytes: Vec<u8> = who.groups.iter().flat_map(|gid| call.encode(*gid)).collect();
        call.write(call.arg(1), &bytes)?;
    }
    Ok(Reply::Value(i64::try_from(who.groups.len()).unwrap_or(0)))
}

pub(in crate::supervisor) fn setgroups(call: &mut Call<'_>) -> Answer {
    let count = usize::try_from(call.int(0)).map_err(|_| Errno::INVAL)?;
    call.who()?.may_set_groups(count)?;
    let width = if call.is_narrow() { 2 } else { 4 };
    let bytes = call.bytes(call.arg(1), count * width)?;
    let gid = |b: &[u8]| match *b {
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        [a, b] => u32::from(u16::from_ne_bytes([a, b])),
        _ => 0,
    };
    let groups = bytes.chunks(width).map(gid).collect();
    call.change_credentials(|c| c.setgroups(groups).map(|()| 0))
}

/// The version of the header that has two words a set, and is current.
const VERSION_3: u32 = 0x2008_0522;

impl Call<'_> {
    /// How many words a set has, and of whom it is. A version that is not known is answered with one that is.
    fn capability_header(&self) -> Result<(usize, i32), Errno> {
        let bytes = self.bytes(self.arg(0), 8)?;
        let number =
            |at: usize| bytes.get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_ne_bytes(*b));
        let words = match number(0) {
            0x1998_0330 => 1,
            0x2007_1026 | VERSION_3 => 2,
            _ => {
                self.write(self.arg(0), &VERSION_3.to_ne_bytes())?;
                return Err(Errno::INVAL);
            }
        };
        Ok((words, number(4).cast_signed()))
    }
}

pub(in crate::supervisor) fn capget(call: &mut Call<'_>) -> Answer {
    let (words, pid) = match call.capability_header() {
        // That is how programs ask for the version.
        Err(Errno::INVAL) if call.arg(1) == 0 => return DONE,
        other => other?,
    };
    let tid = if pid == 0 { call.tid } else { pid };
    let caps = call.world.view.tasks.credentials(tid).ok_or(Errno::SRCH)?.caps;
    if call.arg(1) == 0 {
        return DONE;
    }
    let half = |set: Capabilities, high: bool| (if high { set.0 >> 32 } else { set.0 & 0xffff_ffff }) as u32;
    let mut bytes = Vec::new();
    for high in [false, true].into_iter().take(words) {
        for set in [caps.effective, caps.permitted, caps.inheritable] {
            bytes.extend(half(set, high).to_ne_bytes());
        }
    }
    call.write(call.arg(1), &bytes)?;
    DONE
}

pub(in crate::supervisor) fn capset(call: &mut Call<'_>) -> Answer {
    let (words, pid) = call.capability_header()?;
    if pid != 0 && pid != call.tid {
        return Err(Errno::PERM);
    }
    let bytes = call.bytes(call.arg(1), words * 12)?;
    let word = |at: usize| {
        u64::from(bytes.get(at * 4..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_ne_bytes(*b)))
    };
    let set = |at: usize| Capabilities(word(at) | if words == 2 { word(at + 3) << 32 } else { 0 });
    call.change_credentials(|c| c.capset(set(0), set(1), set(2)).map(|()| 0))
}

impl Call<'_> {
    /// prctl(2) as far as it is about who the caller is; `None` for other options.
    pub(super) fn prctl_credentials(&mut self) -> Option<Answer> {
        let option = self.int(0);
        let args = [1, 2, 3, 4].map(|number| self.arg(number));
        let mut after = (*self.who().ok()?).clone();
        let answer = after.prctl(option, args)?;
        if answer.is_ok() {
            self.world.view.tasks.become_other(self.tid, after);
        }
        Some(answer.map(|value| Reply::Value(value.into())))
    }
}
