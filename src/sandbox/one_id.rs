//! Calls that cannot succeed where the pod has one id only.
//!
//! The kernel refuses them with errors that name no cause (`chown` says EINVAL). A filter hands each such call to init,
//! which notes it and lets it go on: nothing is changed, but a step that fails can be told why. Calls with ids that do
//! exist are not touched, so they cost nothing.

use super::RefusedCall;
use crate::sys::arch;
use crate::sys::seccomp::{Action, Comparison, Condition, Notification, Policy, Rule};
use std::collections::BTreeMap;

/// Name of a call, and which of its arguments are ids.
const WITH_IDS: [(&str, &[u8]); 22] = [
    ("chown", &[1, 2]),
    ("chown32", &[1, 2]),
    ("fchown", &[1, 2]),
    ("fchown32", &[1, 2]),
    ("fchownat", &[2, 3]),
    ("lchown", &[1, 2]),
    ("lchown32", &[1, 2]),
    ("setfsgid", &[0]),
    ("setfsuid", &[0]),
    ("setgid", &[0]),
    ("setgid32", &[0]),
    ("setregid", &[0, 1]),
    ("setregid32", &[0, 1]),
    ("setresgid", &[0, 1, 2]),
    ("setresgid32", &[0, 1, 2]),
    ("setresuid", &[0, 1, 2]),
    ("setresuid32", &[0, 1, 2]),
    ("setreuid", &[0, 1]),
    ("setreuid32", &[0, 1]),
    ("setuid", &[0]),
    ("setuid32", &[0]),
    ("setgroups", &[]),
];
/// Name of a call, and which of its arguments is the mode of the node to make.
const MAKE_NODE: [(&str, u8); 2] = [("mknod", 1), ("mknodat", 2)];

const KIND_MASK: u64 = 0o170_000;
const CHARACTER: u64 = 0o020_000;
const BLOCK: u64 = 0o060_000;
/// "Leave it": -1 as `uid_t`, and as the 16-bit id of old calls.
const UNCHANGED: [u32; 2] = [u32::MAX, 0xffff];

/// The filter's policy: whatever it notifies of is going to fail.
pub(super) fn policy() -> Policy {
    let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for (name, ids) in WITH_IDS {
        let foreign = |argument: &u8| {
            let not = |value| Condition { argument: *argument, comparison: Comparison::NotEqual32(value) };
            Rule { conditions: vec![not(0), not(UNCHANGED[0]), not(UNCHANGED[1])], action: Action::Notify }
        };
        let of_call = if ids.is_empty() {
            vec![Rule { conditions: Vec::new(), action: Action::Notify }]
        } else {
            ids.iter().map(foreign).collect()
        };
        rules.insert(name.to_owned(), of_call);
    }
    for (name, mode) in MAKE_NODE {
        let kind = |value| Rule {
            conditions: vec![Condition { argument: mode, comparison: Comparison::Masked { mask: KIND_MASK, value } }],
            action: Action::Notify,
        };
        rules.insert(name.to_owned(), vec![kind(CHARACTER), kind(BLOCK)]);
    }
    Policy { default: Action::Allow, unknown: Action::Allow, rules }
}

/// What a user is told of a call.
pub(super) fn describe(call: &Notification, program: String) -> RefusedCall {
    let name = arch::syscall_name(call.arch, call.number).unwrap_or("a call");
    // The 32-bit ABI's names for the same thing.
    let plain = name.strip_suffix("32").unwrap_or(name);
    let ids = WITH_IDS.iter().find(|(n, _)| *n == name).map(|(_, ids)| *ids).unwrap_or_default();
    let id = |argument: &u8| {
        let value = call.args.get(usize::from(*argument)).map_or(0, |v| (*v & 0xffff_ffff) as u32);
        if UNCHANGED.contains(&value) { "-1".to_owned() } else { value.to_string() }
    };
    let ids: Vec<String> = ids.iter().map(id).collect();
    let call = match plain {
        _ if ids.is_empty() => plain.to_owned(),
        "chown" | "lchown" | "fchown" | "fchownat" => format!("{plain} to {}", ids.join(":")),
        _ => format!("{plain}({})", ids.join(", ")),
    };
    RefusedCall { call, program }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp;

    #[test]
    fn compiles_and_names_only_calls_that_exist() {
        let policy = policy();
        assert!(policy.rules.keys().all(|name| arch::syscall(name).is_some()));
        assert!(seccomp::compile(&policy).unwrap().len() < 1000 * 8);
    }

    #[test]
    fn calls_are_named_with_their_ids() {
        let describe = |name: &str, args: [u64; 6]| {
            let number = arch::syscall(name).unwrap().native.unwrap();
            describe(&Notification::of(arch::AUDIT_NATIVE, number, args), "tar".to_owned()).call
        };
        assert_eq!(describe("fchownat", [3, 0, 0, 42, 0, 0]), "fchownat to 0:42");
        assert_eq!(describe("chown", [3, 33, 0xffff_ffff, 0, 0, 0]), "chown to 33:-1");
        assert_eq!(describe("setresuid", [42, 42, 42, 0, 0, 0]), "setresuid(42, 42, 42)");
        assert_eq!(describe("setgroups", [1, 2, 0, 0, 0, 0]), "setgroups");
        assert_eq!(describe("mknodat", [1, 2, 0, 0, 0, 0]), "mknodat");
    }
}
