//! Calls about the ids and capabilities of processes.

use super::super::ids::{Capabilities, Credentials, EXECUTE, Program};
use super::place::Place;
use super::{Answer, Answered, Call, Keeper};
use crate::sys::rlimit;
use crate::sys::{process, remote};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{Mode, OFlags, StatxFlags, openat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The first of the numbers that stand for credentials. Limits below are somebody's own.
const FIRST: u64 = 0x7262_0000_0000;
const SET_ID: u32 = 0o6000;

/// All credentials that occurred.
pub(super) struct People {
    all: Vec<Arc<Credentials>>,
    numbers: HashMap<Arc<Credentials>, usize>,
}

impl People {
    /// The first are those of processes that have no number.
    pub(super) fn new(first: Credentials) -> People {
        let first = Arc::new(first);
        People { all: vec![first.clone()], numbers: HashMap::from([(first, 0)]) }
    }

    fn at(&self, number: u64) -> Option<Arc<Credentials>> {
        let index = usize::try_from(number.checked_sub(FIRST)?).ok()?;
        self.all.get(index).cloned()
    }

    fn number(&mut self, credentials: Credentials) -> u64 {
        let credentials = Arc::new(credentials);
        let next = self.all.len();
        let index = *self.numbers.entry(credentials.clone()).or_insert(next);
        if index == next {
            self.all.push(credentials);
        }
        FIRST + index as u64
    }
}

/// Masks of new files by thread: asking `/proc` costs more than making a file.
#[derive(Debug, Default)]
pub(super) struct Masks {
    known: HashMap<i32, (u32, Instant)>,
    changed: Option<Instant>,
}

/// How long a mask is believed: shorter than numbers of threads take to be given once more.
const MASK_LASTS: Duration = Duration::from_millis(500);
/// How long a call that changes one may take, once it goes on.
const MASK_TAKES: Duration = Duration::from_millis(100);
const MOST_MASKS: usize = 1024;

impl Keeper {
    /// The credentials of a process.
    pub(super) fn credentials(&self, pid: i32) -> Arc<Credentials> {
        let people = self.people();
        let number = match people.all.len() {
            // Nobody has ever become anybody else.
            1 => None,
            _ => rlimit::mark(pid).ok().flatten(),
        };
        number.and_then(|n| people.at(n)).unwrap_or_else(|| people.all.first().cloned().unwrap_or_else(nobody))
    }

    pub(super) fn assume(&self, pid: i32, credentials: Credentials) -> Result<(), Errno> {
        let number = self.people().number(credentials);
        rlimit::set_mark(pid, number).map_err(super::errno)
    }

    /// Changes the caller's credentials; `change` answers what the call does.
    fn change(&self, call: &Call<'_>, change: impl FnOnce(&mut Credentials) -> Result<i64, Errno>) -> Answered {
        let before = self.credentials(call.pid);
        let mut after = (*before).clone();
        let value = change(&mut after)?;
        if after != *before {
            self.assume(call.pid, after)?;
        }
        Ok(Answer::Value(value))
    }

    fn tell(&self, call: &Call<'_>, what: impl FnOnce(&Credentials) -> u32) -> Answered {
        let id = what(&self.credentials(call.pid));
        Ok(Answer::Value(i64::from(narrow(self, call, id))))
    }

    pub(super) fn getuid(&self, call: &Call<'_>) -> Answered {
        self.tell(call, |c| c.uid.real)
    }

    pub(super) fn geteuid(&self, call: &Call<'_>) -> Answered {
        self.tell(call, |c| c.uid.effective)
    }

    pub(super) fn getgid(&self, call: &Call<'_>) -> Answered {
        self.tell(call, |c| c.gid.real)
    }

    pub(super) fn getegid(&self, call: &Call<'_>) -> Answered {
        self.tell(call, |c| c.gid.effective)
    }

    pub(super) fn getresuid(&self, call: &Call<'_>) -> Answered {
        let uid = self.credentials(call.pid).uid;
        self.tell_three(call, [uid.real, uid.effective, uid.saved])
    }

    pub(super) fn getresgid(&self, call: &Call<'_>) -> Answered {
        let gid = self.credentials(call.pid).gid;
        self.tell_three(call, [gid.real, gid.effective, gid.saved])
    }

    fn tell_three(&self, call: &Call<'_>, ids: [u32; 3]) -> Answered {
        for (index, id) in ids.into_iter().enumerate() {
            call.write(call.arg(index), &self.encode(call, id))?;
        }
        Ok(Answer::Value(0))
    }

    /// An id in as many bytes as the caller's form of the call has.
    fn encode(&self, call: &Call<'_>, id: u32) -> Vec<u8> {
        if self.is_narrow(call) {
            (narrow(self, call, id) as u16).to_ne_bytes().to_vec()
        } else {
            id.to_ne_bytes().to_vec()
        }
    }

    fn is_narrow(&self, call: &Call<'_>) -> bool {
        // What 16 bits make of a number that needs more tells.
        self.id(call, 0x1_0000) == 0
    }

    pub(super) fn setuid(&self, call: &Call<'_>) -> Answered {
        let uid = self.id(call, call.word(0));
        self.change(call, |c| c.setuid(uid).map(|()| 0))
    }

    pub(super) fn setgid(&self, call: &Call<'_>) -> Answered {
        let gid = self.id(call, call.word(0));
        self.change(call, |c| c.setgid(gid).map(|()| 0))
    }

    pub(super) fn setreuid(&self, call: &Call<'_>) -> Answered {
        let [real, effective] = [0, 1].map(|i| self.id(call, call.word(i)));
        self.change(call, |c| c.setreuid(real, effective).map(|()| 0))
    }

    pub(super) fn setregid(&self, call: &Call<'_>) -> Answered {
        let [real, effective] = [0, 1].map(|i| self.id(call, call.word(i)));
        self.change(call, |c| c.setregid(real, effective).map(|()| 0))
    }

    pub(super) fn setresuid(&self, call: &Call<'_>) -> Answered {
        let [real, effective, saved] = [0, 1, 2].map(|i| self.id(call, call.word(i)));
        self.change(call, |c| c.setresuid(real, effective, saved).map(|()| 0))
    }

    pub(super) fn setresgid(&self, call: &Call<'_>) -> Answered {
        let [real, effective, saved] = [0, 1, 2].map(|i| self.id(call, call.word(i)));
        self.change(call, |c| c.setresgid(real, effective, saved).map(|()| 0))
    }

    pub(super) fn setfsuid(&self, call: &Call<'_>) -> Answered {
        let uid = self.id(call, call.word(0));
        self.change(call, |c| Ok(i64::from(c.setfsuid(uid))))
    }

    pub(super) fn setfsgid(&self, call: &Call<'_>) -> Answered {
        let gid = self.id(call, call.word(0));
        self.change(call, |c| Ok(i64::from(c.setfsgid(gid))))
    }

    pub(super) fn getgroups(&self, call: &Call<'_>) -> Answered {
        let groups = self.credentials(call.pid).groups.clone();
        let room = usize::try_from(call.int(0)).map_err(|_| Errno::INVAL)?;
        if room != 0 {
            if room < groups.len() {
                return Err(Errno::INVAL);
            }
            let bytes: Vec<u8> = groups.iter().flat_map(|gid| self.encode(call, *gid)).collect();
            call.write(call.arg(1), &bytes)?;
        }
        Ok(Answer::Value(i64::try_from(groups.len()).unwrap_or(0)))
    }

    pub(super) fn setgroups(&self, call: &Call<'_>) -> Answered {
        let count = usize::try_from(call.int(0)).map_err(|_| Errno::INVAL)?;
        self.credentials(call.pid).may_set_groups(count)?;
        let width = if self.is_narrow(call) { 2 } else { 4 };
        let bytes = call.read(call.arg(1), count * width)?;
        let gid = |b: &[u8]| match *b {
            [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
            [a, b] => u32::from(u16::from_ne_bytes([a, b])),
            _ => 0,
        };
        let groups = bytes.chunks(width).map(gid).collect();
        self.change(call, |c| c.setgroups(groups).map(|()| 0))
    }

    pub(super) fn capget(&self, call: &Call<'_>) -> Answered {
        let (sets, pid) = self.capability_header(call)?;
        let (Some(sets), true) = (sets, call.arg(1) != 0) else { return Ok(Answer::GoOn) };
        let caps = self.credentials(if pid == 0 { call.pid } else { pid }).caps;
        let half = |set: Capabilities, high: bool| (if high { set.0 >> 32 } else { set.0 & 0xffff_ffff }) as u32;
        let mut bytes = Vec::new();
        for high in [false, true].into_iter().take(sets) {
            for set in [caps.effective, caps.permitted, caps.inheritable] {
                bytes.extend(half(set, high).to_ne_bytes());
            }
        }
        call.write(call.arg(1), &bytes)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn capset(&self, call: &Call<'_>) -> Answered {
        let (sets, pid) = self.capability_header(call)?;
        let Some(sets) = sets else { return Ok(Answer::GoOn) };
        if pid != 0 && pid != call.pid {
            return Err(Errno::PERM);
        }
        let bytes = call.read(call.arg(1), sets * 12)?;
        let word = |at: usize| {
            u64::from(bytes.get(at * 4..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_ne_bytes(*b)))
        };
        let set = |at: usize| Capabilities(word(at) | if sets == 2 { word(at + 3) << 32 } else { 0 });
        self.change(call, |c| c.capset(set(0), set(1), set(2)).map(|()| 0))
    }

    /// How many words a set has, and of whom it is; no number for a version that the kernel is to refuse.
    fn capability_header(&self, call: &Call<'_>) -> Result<(Option<usize>, i32), Errno> {
        let bytes = call.read(call.arg(0), 8)?;
        let (version, pid) = bytes.split_at_checked(4).ok_or(Errno::FAULT)?;
        let number = |b: &[u8]| b.first_chunk::<4>().map_or(0, |b| u32::from_ne_bytes(*b));
        let sets = match number(version) {
            0x1998_0330 => Some(1),
            0x2007_1026 | 0x2008_0522 => Some(2),
            _ => None,
        };
        Ok((sets, number(pid).cast_signed()))
    }

    pub(super) fn prctl(&self, call: &Call<'_>) -> Answered {
        let option = call.int(0);
        let before = self.credentials(call.pid);
        let mut after = (*before).clone();
        let args = [1, 2, 3, 4].map(|index| call.arg(index));
        let Some(answer) = after.prctl(option, args) else { return Ok(Answer::GoOn) };
        let value = answer?;
        if after != *before {
            self.assume(call.pid, after)?;
        }
        // The kernel has to know as well: without it a program cannot load a filter.
        Ok(if option == libc::PR_SET_NO_NEW_PRIVS { Answer::GoOn } else { Answer::Value(i64::from(value)) })
    }

    pub(super) fn chroot(&self, call: &Call<'_>) -> Answered {
        if !self.credentials(call.pid).can(super::super::ids::cap::SYS_CHROOT) {
            return Err(Errno::PERM);
        }
        self.chrooted.store(true, Ordering::Relaxed);
        Ok(Answer::GoOn)
    }

    pub(super) fn execve(&self, call: &Call<'_>) -> Answered {
        self.execute(call, || call.place(libc::AT_FDCWD, call.arg(0), false), true)
    }

    pub(super) fn execveat(&self, call: &Call<'_>) -> Answered {
        let flags = call.int(4);
        let place = || call.place(call.int(0), call.arg(1), flags & libc::AT_EMPTY_PATH != 0);
        self.execute(call, place, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
    }

    /// The kernel starts the program, and refuses what is none. Set-id bits mean nothing to it: there is one id.
    fn execute(&self, call: &Call<'_>, place: impl FnOnce() -> Result<Place, Errno>, follow: bool) -> Answered {
        let me = self.credentials(call.pid);
        let Ok(place) = place() else { return Ok(Answer::GoOn) };
        let seen = self.as_caller(call, || self.see(&place, follow, StatxFlags::BASIC_STATS));
        let Ok(seen) = seen else { return Ok(Answer::GoOn) };
        let file = seen.attributes();
        if file.directory {
            return Ok(Answer::GoOn);
        }
        let root = me.uid.real == 0 && me.uid.effective == 0;
        if root
            && file.mode & SET_ID == 0
            && me.caps.permitted == me.caps.bounding
            && me.caps.effective == me.caps.permitted
        {
            return Ok(Answer::GoOn);
        }
        me.may(file, EXECUTE)?;
        // The bits of a script do not count.
        let mode = if file.mode & SET_ID != 0 && self.is_script(call, &place) { 0o755 } else { file.mode };
        let program = Program { uid: file.uid, gid: file.gid, mode, capabilities: None };
        let after = me.execve(&program)?;
        if after != *me {
            self.assume(call.pid, after)?;
        }
        Ok(Answer::GoOn)
    }

    /// A line of what `/proc` says of a thread, among its first bytes; what is written costs, not what is read.
    pub(super) fn status(&self, thread: i32, name: &str, bytes: u64) -> Option<String> {
        let file = openat(&self.proc, format!("{thread}/status"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut text = String::new();
        File::from(file.ok()?).take(bytes).read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    }

    /// The bits that the caller's new files do not get.
    pub(super) fn umask(&self, thread: i32) -> u32 {
        let mut masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((mask, read)) = masks.known.get(&thread)
            && now.duration_since(*read) < MASK_LASTS
        {
            return *mask;
        }
        // The line is the second.
        let line = self.status(thread, "Umask:", 256);
        let mask = line.and_then(|line| u32::from_str_radix(&line, 8).ok()).unwrap_or(0o022);
        if masks.changed.is_none_or(|changed| now.duration_since(changed) > MASK_TAKES) {
            if masks.known.len() >= MOST_MASKS {
                masks.known.clear();
            }
            masks.known.insert(thread, (mask, now));
        }
        mask
    }

    /// Nobody knows who else has it changed: threads share it.
    pub(super) fn change_umask(&self, _: &Call<'_>) -> Answered {
        let mut masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.known.clear();
        masks.changed = Some(Instant::now());
        Ok(Answer::GoOn)
    }

    fn is_script(&self, call: &Call<'_>, place: &Place) -> bool {
        let opened = self.as_caller(call, || {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            openat(&self.proc, place.path(), flags, Mode::empty())
        });
        let mut head = [0; 2];
        opened.is_ok_and(|fd| File::from(fd).read_exact(&mut head).is_ok() && head == *b"#!")
    }

    /// SO_PEERCRED.
    pub(super) fn peer(&self, call: &Call<'_>) -> Answered {
        const BYTES: u32 = 12;
        let Ok(socket) = process::descriptor_of(call.pid, call.int(0)) else { return Ok(Answer::GoOn) };
        let Ok(peer) = getsockopt(&socket, PeerCredentials) else { return Ok(Answer::GoOn) };
        let pid = peer.pid();
        let credentials = self.credentials(pid);
        let (uid, gid) = (credentials.uid.effective, credentials.gid.effective);
        let mut room = [0; 4];
        remote::read_exact(call.pid, call.arg(4), &mut room).map_err(super::errno)?;
        let length = u32::from_ne_bytes(room).min(BYTES);
        let all = [pid.cast_unsigned().to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat();
        call.write(call.arg(3), all.get(..length as usize).unwrap_or_default())?;
        call.write(call.arg(4), &length.to_ne_bytes())?;
        Ok(Answer::Value(0))
    }

    /// Calls that programs do without.
    pub(super) fn unknown(&self, _: &Call<'_>) -> Answered {
        Err(Errno::NOSYS)
    }

    /// Of the limit that holds the number of the credentials: unlimited, as it is for everybody.
    pub(super) fn getrlimit(&self, call: &Call<'_>) -> Answered {
        self.tell_unlimited(call, call.arg(1), if call.compat { 4 } else { 8 })
    }

    pub(super) fn setrlimit(&self, _: &Call<'_>) -> Answered {
        Ok(Answer::Value(0))
    }

    pub(super) fn prlimit(&self, call: &Call<'_>) -> Answered {
        self.tell_unlimited(call, call.arg(3), 8)
    }

    fn tell_unlimited(&self, call: &Call<'_>, address: u64, width: usize) -> Answered {
        if address != 0 {
            call.write(address, &vec![0xff; width * 2])?;
        }
        Ok(Answer::Value(0))
    }
}

/// What a call with 16 bits answers for ids that need more.
fn narrow(keeper: &Keeper, call: &Call<'_>, id: u32) -> u32 {
    const OVERFLOW: u32 = 65_534;
    if keeper.is_narrow(call) && id > 0xffff { OVERFLOW } else { id }
}

/// Never asked for: there is always a first.
fn nobody() -> Arc<Credentials> {
    Arc::new(Credentials::of_command(65_534, 65_534, &[], Capabilities::NONE))
}
