//! From a seccomp profile in the OCI runtime's JSON form to a filter.
//!
//! The form is the flat one that runtimes read: no `includes` and `excludes`, which are Docker's own. rbuild's default is
//! `seccomp/run.json`: what it does not name fails with EPERM, and what is newer than this program with ENOSYS, so that
//! programs fall back as they do on an older kernel. A capability that the user adds to a step brings the calls that are
//! of no use without it.

use super::Error;
use super::spec::{Seccomp, StepSpec};
use crate::sys::seccomp::{Action, Comparison, Condition, Policy, Rule, compile};
use caps::Capability;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The default profile.
const DEFAULT: &str = include_str!("../../seccomp/run.json");

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u16 = libc::ENOSYS as u16;

/// Calls that a capability opens.
const WITH_CAPABILITY: [(Capability, &[&str]); 9] = [
    (Capability::CAP_DAC_READ_SEARCH, &["open_by_handle_at"]),
    (
        Capability::CAP_SYS_ADMIN,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::CAP_SYS_BOOT, &["reboot"]),
    (Capability::CAP_SYS_CHROOT, &["chroot"]),
    (Capability::CAP_SYS_MODULE, &["delete_module", "finit_module", "init_module"]),
    (Capability::CAP_SYS_NICE, &["get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy"]),
    (Capability::CAP_SYS_PTRACE, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::CAP_SYS_TIME, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::CAP_SYSLOG, &["syslog"]),
];

/// The filter of a step; `None` for an unconfined one.
pub(super) fn filter(step: &StepSpec) -> Result<Option<Vec<u8>>, Error> {
    static CACHED: OnceLock<Vec<u8>> = OnceLock::new();
    let plain = !step.cap_add.iter().any(|added| WITH_CAPABILITY.iter().any(|(c, _)| *c == added.0));
    match &step.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default if plain => {
            if let Some(filter) = CACHED.get() {
                return Ok(Some(filter.clone()));
            }
            let filter = build(DEFAULT, step)?;
            Ok(Some(CACHED.get_or_init(|| filter).clone()))
        }
        Seccomp::Default => build(DEFAULT, step).map(Some),
        Seccomp::Profile(text) => build(text, step).map(Some),
    }
}

fn build(text: &str, step: &StepSpec) -> Result<Vec<u8>, Error> {
    let invalid = |message: String| Error::Setup { message, errno: 0, hint: None };
    let profile: LinuxSeccomp =
        serde_json::from_str(text).map_err(|e| invalid(format!("cannot read the seccomp profile: {e}")))?;
    let mut policy = policy(&profile).map_err(invalid)?;
    if step.seccomp == Seccomp::Default {
        for added in &step.cap_add {
            for (_, calls) in WITH_CAPABILITY.iter().filter(|(c, _)| *c == added.0) {
                for call in *calls {
                    let always = Rule { conditions: Vec::new(), action: Action::Allow };
                    policy.rules.insert((*call).to_owned(), vec![always]);
                }
            }
        }
    }
    compile(&policy).map_err(|e| invalid(e.to_string()))
}

/// The profile as a policy, or what is wrong with it.
fn policy(profile: &LinuxSeccomp) -> Result<Policy, String> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let unknown = if matches!(default, Action::Errno(_)) { Action::Errno(ENOSYS) } else { default };
    let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        let conditions = entry.args().iter().flatten().map(condition).collect::<Result<Vec<_>, _>>()?;
        for name in entry.names() {
            let rule = Rule { conditions: conditions.clone(), action };
            let of_call = rules.entry(name.clone()).or_default();
            // One without conditions decides alone.
            if rule.conditions.is_empty() {
                of_call.insert(0, rule);
            } else {
                of_call.push(rule);
            }
        }
    }
    Ok(Policy { default, unknown, rules })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, String> {
    let number = u16::try_from(errno.unwrap_or(EPERM))
        .map_err(|_| "an error number in the seccomp profile is too large".to_owned())?;
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(number),
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActNotify | LinuxSeccompAction::ScmpActTrace => {
            return Err(
                "the seccomp profile uses `SCMP_ACT_NOTIFY` or `SCMP_ACT_TRACE`: nobody would answer".to_owned()
            );
        }
    })
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition, String> {
    let value = arg.value();
    let comparison = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Comparison::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Comparison::Masked { mask: value, value: arg.value_two().unwrap_or(0) }
        }
    };
    let argument =
        u8::try_from(arg.index()).map_err(|_| "an argument index in the seccomp profile is too large".to_owned())?;
    Ok(Condition { argument, comparison })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::arch;

    fn default() -> Policy {
        policy(&serde_json::from_str(DEFAULT).unwrap()).unwrap()
    }

    #[test]
    fn the_default_profile_names_each_call_once_and_only_calls_that_exist() {
        let policy = default();
        for (name, rules) in &policy.rules {
            assert!(arch::syscall(name).is_some(), "{name} does not exist");
            assert!(
                rules.len() == 1 || rules.iter().all(|r| !r.conditions.is_empty()),
                "{name} has a rule without effect"
            );
        }
        assert_eq!(policy.default, Action::Errno(1));
        for forbidden in ["mount", "setns", "bpf", "kexec_load", "keyctl", "open_by_handle_at", "userfaultfd"] {
            assert_eq!(policy.rules.get(forbidden), None, "{forbidden}");
        }
        for needed in ["execve", "setresuid", "setresgid", "setgroups", "capset", "prctl", "seccomp", "chown", "ptrace"]
        {
            assert_eq!(policy.rules[needed][0].action, Action::Allow, "{needed}");
        }
    }

    #[test]
    fn no_flag_of_clone_can_leave_the_step() {
        let Comparison::Masked { mask, value: 0 } = default().rules["clone"][0].conditions[0].comparison else {
            panic!("clone is not masked");
        };
        let flags = [
            libc::CLONE_NEWNS,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNET,
            libc::CLONE_UNTRACED,
        ];
        assert_eq!(mask, flags.iter().fold(0, |all, f| all | u64::from(f.unsigned_abs())));
        assert_eq!(default().rules["clone3"][0].action, Action::Errno(ENOSYS));
    }

    #[test]
    fn steps_choose_their_filter() {
        let mut step = StepSpec::new(super::super::Root::Directory { path: "/r".into() }, vec![]);
        let default = filter(&step).unwrap().unwrap();
        assert!(default.len() < 4096 * 8);
        step.cap_add = vec!["sys_admin".parse().unwrap()];
        assert_ne!(filter(&step).unwrap().unwrap(), default);
        step.seccomp = Seccomp::Unconfined;
        assert_eq!(filter(&step).unwrap(), None);
        for bad in ["{", r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#] {
            step.seccomp = Seccomp::Profile(bad.to_owned());
            assert!(filter(&step).is_err());
        }
    }
}
