"""Seccomp profiles of pods, as flat OCI runtime JSON.

There is one file, `seccomp/rbuild-pod.json`: what container runtimes allow by default, and what rbuild adds. The rules that
it adds are listed in `seccomp/README.md`; without them it is RuntimeDefault of a container without capabilities. A
capability brings further calls, as it does in the runtimes.
"""

import json
import pathlib
import re

DIRECTORY = pathlib.Path(__file__).resolve().parents[2] / "seccomp"
LOCALHOST = DIRECTORY / "rbuild-pod.json"

WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": ["open_by_handle_at"],
    "CAP_SYS_ADMIN": [
        *("bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie"),
        *("lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount", "open_tree"),
        *("perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount"),
        *("umount2", "unshare"),
    ],
    "CAP_SYS_BOOT": ["reboot"],
    "CAP_SYS_CHROOT": ["chroot"],
    "CAP_SYS_MODULE": ["delete_module", "finit_module", "init_module"],
    "CAP_SYS_PACCT": ["acct"],
    "CAP_SYS_PTRACE": ["kcmp", "pidfd_getfd", "process_madvise"],
    "CAP_SYS_RAWIO": ["ioperm", "iopl"],
    "CAP_SYS_TIME": ["clock_settime", "clock_settime64", "settimeofday", "stime"],
    "CAP_SYS_TTY_CONFIG": ["vhangup"],
    "CAP_SYS_NICE": ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    "CAP_SYSLOG": ["syslog"],
    "CAP_BPF": ["bpf"],
    "CAP_PERFMON": ["perf_event_open"],
}


def additions():
    """The calls that the table of the README lists."""
    return re.findall(r"^\| `(\w+)` \|", (DIRECTORY / "README.md").read_text(), re.MULTILINE)


def localhost(path=None, without=()):
    """The profile of the file, less the rules that add the named calls."""
    profile = json.loads(pathlib.Path(path or LOCALHOST).read_text())
    missing = [name for name in without if not any(adds(rule, name) for rule in profile["syscalls"])]
    if missing:
        raise ValueError(f"the profile adds no rule for {', '.join(missing)}")
    profile["syscalls"] = [rule for rule in profile["syscalls"] if not any(adds(rule, name) for name in without)]
    return profile


def adds(rule, name):
    """Whether a rule is an addition for this call: those stand alone, and depend on nothing."""
    return rule["names"] == [name] and rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")


def runtime_default(capabilities):
    """What a container with these capabilities (of its bounding set) gets for `RuntimeDefault`."""
    profile = localhost(without=additions())
    more = sorted({name for capability in capabilities for name in WITH_CAPABILITY.get(capability, [])})
    # An unconditional rule is stronger than one with conditions, but not than one that fails the call.
    profile["syscalls"] = [r for r in profile["syscalls"] if r["action"] == "SCMP_ACT_ALLOW" or r["names"][0] not in more]
    if more:
        profile["syscalls"].append({"names": more, "action": "SCMP_ACT_ALLOW"})
    return profile
