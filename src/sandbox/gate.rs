//! Calls that name a process by its number, in a step without a pid namespace of its own.
//!
//! There the numbers of the builder and of everything else in the pod are valid, and to the kernel the step's root may be
//! the same user. So the calls that do something to another process ask the tracer, who lets them go on for processes of
//! the step only. Signals are stopped by Landlock where the kernel has scopes for them; else they, too, come here.
//! Calls on the caller itself (number 0) never do.

use crate::sys::seccomp::{Action, Comparison, Condition, Policy, Rule};
use std::collections::BTreeMap;

/// What the first arguments of a call that asks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Question {
    /// A process or thread.
    Process = 1,
    /// As kill(2) has it: a process, 0 for the own group, -1 for all, else a group.
    Signal = 2,
    /// As setpriority(2) has it: process (0), group (1) or user (2), and its number.
    Priority = 3,
    /// The same, counted from 1, as ioprio_set(2) has it.
    IoPriority = 4,
    /// Never allowed.
    Never = 5,
    /// As kill(2) has it, but in the third argument.
    Owner = 6,
}

impl Question {
    /// The question behind the number that a filter gave.
    pub(super) fn from_number(number: u16) -> Option<Question> {
        use Question::*;
        [Process, Signal, Priority, IoPriority, Never, Owner].into_iter().find(|q| *q as u16 == number)
    }
}

const PROCESS: [&str; 8] = [
    "migrate_pages",
    "move_pages",
    "pidfd_open",
    "prlimit64",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
];
const SIGNAL: [&str; 5] = ["kill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tgkill", "tkill"];

const F_SETOWN: u64 = 8;
const F_SETOWN_EX: u64 = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// The filter's policy. With `signals`, those are asked for, too.
pub(super) fn policy(signals: bool) -> Policy {
    let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    let mut ask = |name: &str, question: Question, conditions: Vec<Condition>| {
        let rule = Rule { conditions, action: Action::Trace(question as u16) };
        rules.entry(name.to_owned()).or_default().push(rule);
    };
    // The kernel takes them as `int`: the upper half may hold anything.
    let is = |argument, value| Condition { argument, comparison: Comparison::Masked { mask: 0xffff_ffff, value } };
    let some = |argument| Condition { argument, comparison: Comparison::NotEqual32(0) };
    for name in PROCESS {
        ask(name, Question::Process, vec![some(0)]);
    }
    for (name, question, user) in [("setpriority", Question::Priority, 2), ("ioprio_set", Question::IoPriority, 3)] {
        ask(name, question, vec![some(1)]);
        ask(name, Question::Never, vec![is(0, user)]);
    }
    if signals {
        for name in SIGNAL {
            ask(name, Question::Signal, vec![some(0)]);
        }
        // The other end of a local socket can be had as a descriptor of its process.
        ask("pidfd_send_signal", Question::Never, Vec::new());
        // Who gets SIGIO can be given any signal.
        for name in ["fcntl", "fcntl64"] {
            ask(name, Question::Owner, vec![is(1, F_SETOWN)]);
            ask(name, Question::Never, vec![is(1, F_SETOWN_EX)]);
        }
        for request in [FIOSETOWN, SIOCSPGRP] {
            ask("ioctl", Question::Never, vec![is(1, request)]);
        }
    }
    Policy { default: Action::Allow, unknown: Action::Allow, rules }
}

/// For steps that share the builder's terminal: nobody types into it what the user's shell would read when the step is over.
pub(super) fn terminal() -> Policy {
    const TIOCSTI: u64 = 0x5412;
    const TIOCLINUX: u64 = 0x541c;
    let rule = |request| Rule {
        conditions: vec![Condition {
            argument: 1,
            comparison: Comparison::Masked { mask: 0xffff_ffff, value: request },
        }],
        action: Action::Errno(libc::EPERM.cast_unsigned() as u16),
    };
    let rules = BTreeMap::from([("ioctl".to_owned(), vec![rule(TIOCSTI), rule(TIOCLINUX)])]);
    Policy { default: Action::Allow, unknown: Action::Allow, rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{arch, seccomp};

    #[test]
    fn compiles_and_names_only_calls_that_exist() {
        for signals in [false, true] {
            let policy = policy(signals);
            assert!(policy.rules.keys().all(|name| arch::syscall(name).is_some()));
            assert!(seccomp::compile(&policy).unwrap().len() < 400 * 8);
        }
        assert!(seccomp::compile(&terminal()).is_ok());
        for number in 1..=6 {
            assert_eq!(Question::from_number(number).unwrap() as u16, number);
        }
        assert_eq!(Question::from_number(0), None);
    }
}
