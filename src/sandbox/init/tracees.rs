//! The processes of a step where they have no pid namespace of their own: init traces them, so that it knows each of them
//! and shows it in [`Composed`].
//!
//! Where tracing is refused, too, only the command's first process is shown. Init is still the one that orphans fall to,
//! so it can end everything by killing its children until there are none.

use super::super::gate::Question;
use super::composed::Composed;
use crate::sys::process::{self, Status, group_of};
use crate::sys::ptrace::{self, Event};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;

/// All threads that are alive.
pub(super) struct Tracees {
    proc: Composed,
    /// By thread number.
    threads: HashMap<i32, Thread>,
    /// Threads that ended before their maker's stop told of them.
    ended_early: HashSet<i32>,
    /// Whether the step is over, and what still starts is to die.
    ending: bool,
    /// Whether tracing is allowed.
    traced: bool,
}

/// A thread that is alive.
struct Thread {
    /// Whether it is the first of its process, so that the process has its number.
    process: bool,
    /// Whether its maker's stop was seen.
    announced: bool,
}

impl Tracees {
    /// Nobody yet.
    pub(super) fn new(proc: Composed) -> Tracees {
        Tracees { proc, threads: HashMap::new(), ended_early: HashSet::new(), ending: false, traced: true }
    }

    /// Traces a child that waits, and shows it. The answer is why it cannot be traced, if it cannot.
    pub(super) fn adopt(&mut self, pid: i32) -> io::Result<Option<io::Error>> {
        let refused = ptrace::seize(pid).err();
        self.traced = refused.is_none();
        self.threads.insert(pid, Thread { process: true, announced: true });
        self.proc.add(pid)?;
        Ok(refused)
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
        if !self.traced {
            return self.end_children();
        }
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

    /// Kills the children that init has now; their own become init's, until there are none.
    fn end_children(&self) {
        loop {
            let children = self.proc.children();
            children.iter().for_each(|pid| process::kill(*pid, libc::SIGKILL));
            // Waits for one, so that the next list is another.
            if ptrace::next_blocking().is_err() {
                return;
            }
        }
    }

    fn processes(&self) -> Vec<i32> {
        self.threads.iter().filter(|(_, thread)| thread.process).map(|(tid, _)| *tid).collect()
    }

    /// One event; the answer is the status of a thread that ended.
    fn take(&mut self, tid: i32, event: Event) -> Option<Status> {
        if let Event::Ended(status) = event {
            // Orphans that init inherits are reported once more, as its children: unknown by then.
            if let Some(thread) = self.threads.remove(&tid) {
                if thread.process {
                    self.proc.remove(tid);
                }
                if !thread.announced {
                    self.ended_early.insert(tid);
                }
            }
            return Some(status);
        }
        match event {
            // Before its maker goes on, which may look for it at once.
            Event::Forked(new) if !self.ended_early.remove(&new) => self.meet(new, true),
            Event::Forked(_) => {}
            _ => self.meet(tid, false),
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

    /// Takes a thread in, if it is new, and shows it, if it is a process.
    fn meet(&mut self, tid: i32, announced: bool) {
        match self.threads.entry(tid) {
            Entry::Occupied(mut known) => known.get_mut().announced |= announced,
            Entry::Vacant(new) => {
                let process = ptrace::is_process(tid);
                new.insert(Thread { process, announced });
                if process && !self.ending {
                    // One that cannot be shown has ended already.
                    let _ = self.proc.add(tid);
                }
            }
        }
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
