//! execve(2).
//!
//! The kernel starts programs, and looks for them itself: whoever swaps the path meanwhile has another one started than was
//! judged. So a process gets what its program's file gives (set-id bits, capabilities) at its next call, when `/proc` shows
//! that the program was started and that it is that file.

use super::super::super::ids::{Credentials, EXECUTE, FileCapabilities, Program};
use super::super::super::owners::FileId;
use super::super::walk::Held;
use super::super::{Answered, Call, Keeper};
use super::GO_ON;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statx};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::PoisonError;

/// How much of a file the kernel reads to find out what it is.
const HEAD_BYTES: u64 = 256;
/// Scripts that interpret scripts, as in the kernel.
const MOST_SCRIPTS: usize = 5;
/// Programs that may be waited for; more are of processes that have gone.
const MOST_STARTING: usize = 1024;
const SET_ID: u32 = 0o6000;

/// Programs that are being started.
#[derive(Default)]
pub(in super::super) struct Starting(HashMap<i32, Start>);

/// One of them, by its process.
struct Start {
    /// Who asked for it.
    thread: i32,
    before: Life,
    /// The file that it has to be.
    file: FileId,
    /// Who it will be then.
    who: Credentials,
}

/// What differs from one program of a process to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Life {
    process_started: u64,
    stack: u64,
}

impl Keeper {
    pub(in super::super) fn judged_execve(&self, call: &Call<'_>) -> Answered {
        let (_, file) = self.reach(call, libc::AT_FDCWD, call.arg(0), true, false)?;
        self.start(call, file)
    }

    pub(in super::super) fn judged_execveat(&self, call: &Call<'_>) -> Answered {
        let flags = call.int(4);
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        let (_, file) = self.reach(call, call.int(0), call.arg(1), follow, flags & libc::AT_EMPTY_PATH != 0)?;
        self.start(call, file)
    }

    fn start(&self, call: &Call<'_>, mut file: Held) -> Answered {
        let who = self.credentials(call.pid);
        let mut head = Vec::new();
        for _ in 0..MOST_SCRIPTS {
            match file.kind() {
                FileType::RegularFile => file.may(&who, EXECUTE)?,
                FileType::Symlink => return Err(Errno::LOOP),
                _ => return Err(Errno::ACCESS),
            }
            head.clear();
            if let Ok(open) = openat(&self.links, file.link(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                let _ = File::from(open).take(HEAD_BYTES).read_to_end(&mut head);
            }
            let Some(interpreter) = interpreter(&head) else { break };
            file = self.way(call, &who).file(libc::AT_FDCWD, interpreter, true, false)?;
        }
        let after = who.execve(&self.program(&file)?)?;
        let process = self.group(call.pid);
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        starting.0.remove(&process);
        if after != *who
            && let Some(before) = self.life(process)
        {
            if starting.0.len() >= MOST_STARTING {
                starting.0.clear();
            }
            starting.0.insert(process, Start { thread: call.pid, before, file: file.seen.id, who: after });
        }
        GO_ON
    }

    /// What counts of a file as a program.
    fn program(&self, file: &Held) -> Result<Program, Errno> {
        let law = file.seen.attributes();
        let mut value = [0; 64];
        let capabilities = self.by_link(file, |path| rustix::fs::getxattr(path, c"security.capability", &mut value));
        let capabilities = capabilities.ok().and_then(|n| FileCapabilities::parse(value.get(..n)?));
        let mode = if file.law.is_some() { law.mode } else { law.mode & !SET_ID };
        Ok(Program { uid: law.uid, gid: law.gid, mode, capabilities })
    }

    /// Gives a process what its program's file gives, if it was started.
    pub(in super::super) fn settle(&self, process: i32) {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if starting.0.is_empty() {
            return;
        }
        let Some(start) = starting.0.get(&process) else { return };
        let now = self.life(process);
        let runs = now
            .is_some_and(|now| now.process_started == start.before.process_started && now.stack != start.before.stack);
        if !runs {
            // Another thread may be about to start it.
            let gone = now.is_none_or(|now| now.process_started != start.before.process_started);
            if gone || start.thread == process {
                starting.0.remove(&process);
            }
            return;
        }
        let Some(start) = starting.0.remove(&process) else { return };
        let program = statx(&self.proc, format!("{process}/exe"), AtFlags::empty(), super::super::place::FIELDS);
        if program.is_ok_and(|stat| FileId::of(&stat) == start.file) {
            let _ = self.assume(process, start.who);
        }
    }

    fn life(&self, process: i32) -> Option<Life> {
        let file = openat(&self.proc, format!("{process}/stat"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut text = String::new();
        File::from(file.ok()?).read_to_string(&mut text).ok()?;
        // The name of the program may hold anything.
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ').map(|field| field.parse().unwrap_or(0));
        // Fields 22 and 28; the first of these is the third.
        let process_started = fields.nth(19)?;
        Some(Life { process_started, stack: fields.nth(5)? })
    }
}

/// The program that a script names.
fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.get(..memchr::memchr(b'\n', line).unwrap_or(line.len()))?;
    line.split(|b| matches!(b, b' ' | b'\t' | 0)).find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_its_interpreter_in_its_first_line() {
        let of = |head: &str| interpreter(head.as_bytes()).map(|i| String::from_utf8_lossy(i).into_owned());
        assert_eq!(of("#!/bin/sh\nx"), Some("/bin/sh".into()));
        assert_eq!(of("#! \t/usr/bin/env python3 -u\n"), Some("/usr/bin/env".into()));
        assert_eq!(of("#!\nx"), None);
        assert_eq!(of("\x7fELF"), None);
    }
}
