//! Signals to processes, calls on processes by number, and what is left.

use super::{AT_FDCWD, Answer, Call, DONE, Errno, Reply};
use crate::sys::{loader, process, remote};

/// Options of prctl(2) that the supervisor answers.
pub(in crate::supervisor) const PRCTL_OPTIONS: [u32; 12] = [
    libc::PR_SET_DUMPABLE.cast_unsigned(),
    libc::PR_GET_DUMPABLE.cast_unsigned(),
    libc::PR_SET_KEEPCAPS.cast_unsigned(),
    libc::PR_GET_KEEPCAPS.cast_unsigned(),
    libc::PR_SET_SECUREBITS.cast_unsigned(),
    libc::PR_GET_SECUREBITS.cast_unsigned(),
    libc::PR_GET_NO_NEW_PRIVS.cast_unsigned(),
    libc::PR_CAPBSET_READ.cast_unsigned(),
    libc::PR_CAPBSET_DROP.cast_unsigned(),
    libc::PR_CAP_AMBIENT.cast_unsigned(),
    libc::PR_SET_MM.cast_unsigned(),
    libc::PR_SET_PTRACER.cast_unsigned(),
];

pub(in crate::supervisor) fn prctl(call: &mut Call<'_>) -> Answer {
    if u64::from(call.uint(0)) == loader::ASK {
        return call.load();
    }
    if let Some(answer) = call.prctl_credentials() {
        return answer;
    }
    match call.int(0) {
        // A process that cannot be looked at could not be served.
        libc::PR_GET_DUMPABLE => Ok(Reply::Value(1)),
        libc::PR_SET_MM => Err(Errno::PERM),
        _ => DONE,
    }
}

/// Longest auxiliary vector that a kernel makes.
const VECTOR_BYTES: usize = 1024;

impl Call<'_> {
    /// The loader asks what to load.
    fn load(&mut self) -> Answer {
        let (stack, vector) = (self.arg(1), self.arg(2));
        let launch = self.world.view.tasks.take_launch(self.tid).ok_or(Errno::INVAL)?;
        let before = usize::try_from(vector.wrapping_sub(stack)).map_err(|_| Errno::FAULT)?;
        // The kernel lets arguments and environment take 6 MiB, of which pointers are a part.
        if before > 8 << 20 {
            return Err(Errno::FAULT);
        }
        let mut block = vec![0; before + VECTOR_BYTES];
        let got = remote::read(self.tid, stack, &mut block).map_err(super::errno)?;
        block.truncate(got);
        let mut fds = Vec::new();
        for file in launch.files() {
            self.world.given(file);
            fds.push(self.listener.give(self.notification, file, true).map_err(super::errno)?);
        }
        let chance = self.world.chance();
        let written = launch.write(&fds, (stack, &block, before), chance)?;
        for (address, bytes) in written.parts {
            self.write(address, &bytes)?;
        }
        DONE
    }

    fn in_step(&self, tid: i32) -> bool {
        self.world.view.tasks.thread(tid).is_some()
    }

    fn group_in_step(&self, group: i32) -> bool {
        self.world.view.tasks.threads().any(|tid| process::group_of(tid) == Some(group))
    }
}

/// Calls whose first argument is a process or thread, 0 for the caller.
pub(in crate::supervisor) fn on_process(call: &mut Call<'_>) -> Answer {
    let target = call.int(0);
    if target == 0 || call.in_step(target) { Ok(Reply::GoOn) } else { Err(Errno::SRCH) }
}

const PRIO_PROCESS: i32 = 0;
const PRIO_GROUP: i32 = 1;

pub(in crate::supervisor) fn setpriority(call: &mut Call<'_>) -> Answer {
    call.priority(PRIO_PROCESS, PRIO_GROUP)
}

pub(in crate::supervisor) fn ioprio_set(call: &mut Call<'_>) -> Answer {
    call.priority(PRIO_PROCESS + 1, PRIO_GROUP + 1)
}

impl Call<'_> {
    fn priority(&self, of_process: i32, of_group: i32) -> Answer {
        let (which, who) = (self.int(0), self.int(1));
        let known = who == 0 && (which == of_process || which == of_group)
            || which == of_process && self.in_step(who)
            || which == of_group && self.group_in_step(who);
        if known { Ok(Reply::GoOn) } else { Err(Errno::SRCH) }
    }
}

/// kill(2) and its kin. What is sent to everybody is sent to everybody of the step.
pub(in crate::supervisor) fn kill(call: &mut Call<'_>) -> Answer {
    let target = call.int(0);
    let all = call.world.view.tasks.processes();
    match target {
        0 => Ok(Reply::GoOn),
        -1 => {
            let own = call.world.view.tasks.thread(call.tid).map_or(0, |t| t.process);
            let others: Vec<i32> = all.into_iter().filter(|pid| *pid != own).collect();
            if others.is_empty() {
                return Err(Errno::SRCH);
            }
            let signal = call.int(1);
            others.into_iter().for_each(|pid| process::kill(pid, signal));
            DONE
        }
        group if group < 0 => {
            if call.group_in_step(group.wrapping_neg()) {
                Ok(Reply::GoOn)
            } else {
                Err(Errno::SRCH)
            }
        }
        // The number may be one of a process that is still to be waited for.
        tid if call.in_step(tid) || all.contains(&tid) => Ok(Reply::GoOn),
        _ => Err(Errno::SRCH),
    }
}

/// pidfd_send_signal(2). The other end of a local socket can be had as such a descriptor, whoever that is.
pub(in crate::supervisor) fn pidfd_send_signal(call: &mut Call<'_>) -> Answer {
    if call.arg(3) != 0 {
        return Err(Errno::INVAL);
    }
    // Read once, and signalled by number: the caller's descriptor may be another by now.
    let text =
        std::fs::read_to_string(format!("/proc/{}/fdinfo/{}", call.tid, call.int(0))).map_err(|_| Errno::BADF)?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(Errno::BADF)?;
    let pid: i32 = pid.trim().parse().map_err(|_| Errno::BADF)?;
    if pid <= 0 || !call.in_step(pid) && !call.world.view.tasks.processes().contains(&pid) {
        return Err(Errno::SRCH);
    }
    let signal = rustix::process::Signal::from_named_raw(call.int(1));
    match (rustix::process::Pid::from_raw(pid), signal) {
        (Some(pid), Some(signal)) => rustix::process::kill_process(pid, signal).and(DONE),
        (Some(pid), None) if call.int(1) == 0 => rustix::process::test_kill_process(pid).and(DONE),
        _ => Err(Errno::INVAL),
    }
}

/// fcntl(2) that says who gets SIGIO, which can be made any signal.
pub(in crate::supervisor) fn fcntl(call: &mut Call<'_>) -> Answer {
    let target = call.int(2);
    let known = match target {
        0 => true,
        group if group < 0 => call.group_in_step(group.wrapping_neg()),
        tid => call.in_step(tid),
    };
    if known { Ok(Reply::GoOn) } else { Err(Errno::SRCH) }
}

pub(in crate::supervisor) fn unshare(call: &mut Call<'_>) -> Answer {
    let flags = call.int(0);
    // Namespaces would bring privilege with them that the supervisor knows nothing of.
    if flags & !(libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SYSVSEM) != 0 {
        return Err(Errno::PERM);
    }
    if flags & libc::CLONE_FS != 0 {
        call.world.view.tasks.unshare(call.tid);
    }
    Ok(Reply::GoOn)
}

/// Length of each field of `struct utsname`.
const NAME_BYTES: usize = 65;

pub(in crate::supervisor) fn uname(call: &mut Call<'_>) -> Answer {
    let real = rustix::system::uname();
    let mut out = Vec::with_capacity(NAME_BYTES * 6);
    let hostname = call.world.hostname.as_bytes();
    let fields = [
        real.sysname().to_bytes(),
        hostname,
        real.release().to_bytes(),
        real.version().to_bytes(),
        real.machine().to_bytes(),
        b"(none)",
    ];
    for (number, field) in fields.into_iter().enumerate() {
        out.extend_from_slice(field.get(..field.len().min(NAME_BYTES - 1)).unwrap_or_default());
        out.resize((number + 1) * NAME_BYTES, 0);
    }
    call.write(call.arg(0), &out)?;
    DONE
}

pub(in crate::supervisor) fn inotify_add_watch(call: &mut Call<'_>) -> Answer {
    let path = call.path(1)?;
    let mask = call.uint(2);
    let nofollow = mask & libc::IN_DONT_FOLLOW != 0;
    let flags = if nofollow { libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() } else { 0 };
    let held = call.hold_at(AT_FDCWD, &path, flags)?;
    if held.in_proc {
        return Err(Errno::ACCESS);
    }
    // The instance itself is opened once more: a watch belongs to the instance, whoever adds it.
    let _ = held;
    Err(Errno::NOSPC)
}
