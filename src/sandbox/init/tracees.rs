//! The processes of a step that init traces, where they have no pid namespace of their own.

use super::super::gate::Question;
use super::composed::Composed;
use crate::sys::process::{self, Status, group_of};
use crate::sys::ptrace::{self, Event};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;

/// All threads that are alive.
pub(super) struct Tracees {
    proc: Composed,
    /// By thread number: whether it is a process of its own number.
    threads: HashMap<i32, bool>,
    /// Whether the step is over, and what still starts is to die.
    ending: bool,
}

impl Tracees {
    /// Nobody yet.
    pub(super) fn new(proc: Composed) -> Tracees {
        Tracees { proc, threads: HashMap::new(), ending: false }
    }

    /// The `/proc` of the step.
    pub(super) fn proc(&self) -> &Composed {
        &self.proc
    }

    /// Traces a child that waits, and shows it.
    pub(super) fn adopt(&mut self, pid: i32) -> io::Result<()> {
        ptrace::seize(pid)?;
        self.threads.insert(pid, true);
        self.proc.add(pid)
    }

    /// Deals with what has happened so far; the answer is how `main` ended, if it did.
    pub(super) fn attend(&mut self, main: i32) -> Option<Status> {
        while let Ok(Some((tid, event))) = ptrace::next() {
            if let Some(status) = self.take(tid, event)
                && tid == main
            {
                return Some(status);
            }
        }
        None
    }

    /// Kills every process of the step and waits until all are gone.
    pub(super) fn end(&mut self) {
        self.ending = true;
        for pid in self.processes() {
            process::kill(pid, libc::SIGKILL);
        }
        // What is started meanwhile dies at its first stop.
        loop {
            match ptrace::next_blocking() {
                Ok(Some((tid, event))) => drop(self.take(tid, event)),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    fn processes(&self) -> Vec<i32> {
        self.threads.iter().filter(|(_, process)| **process).map(|(tid, _)| *tid).collect()
    }

    /// One event; the answer is the status of a thread that ended.
    fn take(&mut self, tid: i32, event: Event) -> Option<Status> {
        if let Event::Ended(status) = event {
            // Orphans that init inherits are reported once more, as its children: unknown by then.
            if self.threads.remove(&tid) == Some(true) {
                self.proc.remove(tid);
            }
            return Some(status);
        }
        if let Entry::Vacant(new) = self.threads.entry(tid) {
            let process = *new.insert(ptrace::is_process(tid));
            if process && !self.ending {
                // A process that cannot be shown is one that ended already.
                let _ = self.proc.add(tid);
            }
        }
        if self.ending {
            process::kill(tid, libc::SIGKILL);
        }
        match event {
            Event::Signal(signal) => ptrace::resume(tid, signal),
            Event::GroupStop if !self.ending => ptrace::listen(tid),
            Event::Call(number) => {
                if let Some(result) = self.judge(tid, number) {
                    let _ = ptrace::answer_call(tid, result);
                }
                ptrace::resume(tid, 0);
            }
            _ => ptrace::resume(tid, 0),
        }
        None
    }

    /// A call that names a process: `None` lets it go on, else this is its result.
    fn judge(&self, tid: i32, number: u16) -> Option<i64> {
        let Ok(call) = ptrace::call(tid) else { return Some(-i64::from(libc::EPERM)) };
        let [first, second, third] = call.args.map(|a| (a & 0xffff_ffff) as u32 as i32);
        let gone = Some(-i64::from(libc::ESRCH));
        match Question::from_number(number) {
            Some(Question::Process) => {
                if self.threads.contains_key(&first) {
                    None
                } else {
                    gone
                }
            }
            Some(Question::Priority | Question::IoPriority) => {
                // Groups are told from processes by the first argument; a group's number is that of some process.
                if self.threads.contains_key(&second) || self.has_group(second) { None } else { gone }
            }
            Some(Question::Signal) => self.signal(tid, first, second),
            Some(Question::Owner) => self.signal(tid, third, 0).filter(|result| *result != 0),
            Some(Question::Never) | None => Some(-i64::from(libc::EPERM)),
        }
    }

    /// As kill(2), among the processes of the step.
    fn signal(&self, tid: i32, target: i32, signal: i32) -> Option<i64> {
        let gone = Some(-i64::from(libc::ESRCH));
        match target {
            // "Everybody": the kernel's everybody is more than the step.
            -1 => {
                let others: Vec<i32> = self.processes().into_iter().filter(|pid| *pid != tid).collect();
                if others.is_empty() {
                    return gone;
                }
                others.into_iter().for_each(|pid| process::kill(pid, signal));
                Some(0)
            }
            0 => None,
            group if group < 0 => {
                if self.has_group(group.wrapping_neg()) {
                    None
                } else {
                    gone
                }
            }
            pid => {
                if self.threads.contains_key(&pid) {
                    None
                } else {
                    gone
                }
            }
        }
    }

    fn has_group(&self, group: i32) -> bool {
        self.threads.keys().any(|tid| group_of(*tid) == Some(group))
    }
}
