"""From a pod to an OCI bundle: what a kubelet and a container runtime make of its fields."""

import json
import os
import pathlib
import re
import subprocess

import image
import profiles
import seccomp

DEFAULT_CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
# In the kernel's order.
CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)

MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap"),
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Error(Exception):
    """A pod that cannot be started here."""


def write(work, pod, lower, mounts, seccomp=None, without=()):
    """Mounts the root file system and writes `config.json` below `work`."""
    spec = pod["spec"]
    mapped = spec.get("hostUsers") is False
    root = overlay(work, lower, mapped)
    made = [{"destination": target, **bind(source, *options)} for source, target, *options in mounts]
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": bool(profiles.security_context(pod).get("readOnlyRootFilesystem"))},
        "hostname": pod["metadata"]["name"],
        "mounts": system_mounts(work, pod) + volumes(work, pod, mapped) + files_of_kubelet(work, mapped) + made,
    }
    config["process"] = process(pod, lower)
    config["linux"] = linux(work, pod, config["process"]["capabilities"]["bounding"], seccomp, without)
    (work / "config.json").write_text(json.dumps(config, indent=1))


def overlay(work, lower, mapped):
    """The container's writable root file system: an overlay, as it is on nodes."""
    parts = {name: work / name for name in ("upper", "overlay-work", "root")}
    for part in parts.values():
        part.mkdir()
    owner = image.FIRST_ID if mapped else 0
    # The directory on top is the one of the image, owner and mode alike.
    os.chown(parts["upper"], owner, owner)
    os.chmod(parts["upper"], 0o755)
    options = f"lowerdir={lower},upperdir={parts['upper']},workdir={parts['overlay-work']}"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, parts["root"]], capture_output=True, text=True)
    if done.returncode != 0:
        raise Error(f"cannot mount the root file system: {done.stderr.strip()}")
    return parts["root"]


def unmount(work):
    """Undoes what `write` mounted."""
    for name in ("root", "memory"):
        for place in [work / name, *sorted((work / name).glob("*"))]:
            if os.path.ismount(place):
                subprocess.run(["umount", "-l", place], stderr=subprocess.DEVNULL)


def bind(source, *options):
    return {"type": "bind", "source": os.path.realpath(source), "options": ["rbind", "rprivate", *(options or ["rw"])]}


def process(pod, lower):
    context = profiles.security_context(pod)
    container = pod["spec"]["containers"][0]
    privileged = context.get("privileged", False)
    uid = context.get("runAsUser", 0)
    gid = context.get("runAsGroup", primary_group(lower, uid))
    capabilities = [f"CAP_{name}" for name in capability_names(context, privileged)]
    environment = {"PATH": DEFAULT_PATH, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    environment.update((item["name"], item["value"]) for item in container.get("env", []))
    user = {"uid": uid, "gid": gid}
    if "fsGroup" in context:
        user["additionalGids"] = [context["fsGroup"]]
    return {
        "terminal": False,
        "user": user,
        "args": [*container.get("command", ["/bin/sh"]), *container.get("args", [])],
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": "/",
        # Nobody but root keeps any of them over the exec; the bounding set is what counts then.
        "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
        "noNewPrivileges": context.get("allowPrivilegeEscalation") is False,
    }


def capability_names(context, privileged):
    if privileged:
        # All that this machine's root has.
        status = pathlib.Path("/proc/self/status").read_text()
        bounding = int(re.search(r"^CapBnd:\s*([0-9a-f]+)", status, re.MULTILINE).group(1), 16)
        return sorted(name for number, name in enumerate(CAPABILITIES) if bounding >> number & 1)
    change = context.get("capabilities", {})
    names = set() if "ALL" in change.get("drop", []) else set(DEFAULT_CAPABILITIES)
    names -= set(change.get("drop", []))
    names |= set(change.get("add", []))
    return sorted(names)


def primary_group(lower, uid):
    passwd = lower / "etc/passwd"
    lines = passwd.read_text().splitlines() if passwd.exists() else []
    fields = (line.split(":") for line in lines)
    return next((int(f[3]) for f in fields if len(f) > 3 and f[2] == str(uid)), 0)


def system_mounts(work, pod):
    context = profiles.security_context(pod)
    mapped = pod["spec"].get("hostUsers") is False
    guarded = ["nosuid", "noexec", "nodev"]
    mode = "rw" if context.get("privileged") else "ro"
    made = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": guarded},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*guarded, "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": guarded},
    ]
    if mapped:
        # The machine's network is shared, and sysfs belongs to whoever owns that.
        made.append({"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "rprivate", *guarded, mode]})
    else:
        made.append({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*guarded, mode]})
    made.append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*guarded, "relatime", mode]})
    if has_fuse(pod) and mapped:
        made.append({"destination": "/dev/fuse", "type": "bind", "source": fuse_node(work), "options": ["bind", "rw"]})
    return made


def has_fuse(pod):
    container = pod["spec"]["containers"][0]
    limits = container.get("resources", {}).get("limits", {})
    return any(name.endswith("/fuse") for name in limits)


def fuse_node(work):
    """A device plugin gives the node to the container with mode 0666."""
    node = work / "fuse"
    info = os.stat("/dev/fuse")
    os.mknod(node, 0o600 | 0o020000, info.st_rdev)
    os.chmod(node, 0o666)
    return str(node)


def volumes(work, pod, mapped):
    """Every emptyDir: mode 0777, and in a pod's own user namespace its root's."""
    spec = pod["spec"]
    places = {}
    owner = image.FIRST_ID if mapped else 0
    for volume in spec.get("volumes", []):
        settings = volume["emptyDir"] or {}
        memory = settings.get("medium") == "Memory"
        place = work / ("memory" if memory else "volumes") / volume["name"]
        place.mkdir(parents=True)
        if memory or "sizeLimit" in settings:
            options = f"mode=777,size={amount(settings.get('sizeLimit', '50%'))}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        group = profiles.security_context(pod).get("fsGroup")
        os.chown(place, owner, owner if group is None else group)
        os.chmod(place, 0o777 if group is None else 0o2777)
        places[volume["name"]] = place
    mounts = spec["containers"][0].get("volumeMounts", [])
    return [{"destination": m["mountPath"], **bind(places[m["name"]], "ro" if m.get("readOnly") else "rw")} for m in mounts]


def files_of_kubelet(work, mapped):
    """What every container of a pod has: names, and a token that no step may see."""
    token = work / "token"
    token.mkdir()
    (token / "token").write_text("the-token-of-the-pod")
    (token / "namespace").write_text("default")
    made = [{"destination": "/var/run/secrets/kubernetes.io/serviceaccount", **bind(token, "ro")}]
    for name in ("resolv.conf", "hosts"):
        source = pathlib.Path("/etc") / name
        if source.exists():
            copied = work / name
            copied.write_bytes(source.read_bytes())
            if mapped:
                os.chown(copied, image.FIRST_ID, image.FIRST_ID)
            made.append({"destination": f"/etc/{name}", **bind(copied, "rw")})
    return made


def linux(work, pod, capabilities, localhost, without):
    context = profiles.security_context(pod)
    privileged = context.get("privileged", False)
    mapped = pod["spec"].get("hostUsers") is False
    made = {
        "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", *(["user"] if mapped else []))],
        "resources": resources(pod, privileged),
        "cgroupsPath": f"/rbuild-pods/{work.name}",
        "rootfsPropagation": "rprivate",
    }
    if mapped:
        ids = [{"containerID": 0, "hostID": image.FIRST_ID, "size": image.IDS}]
        made["uidMappings"] = made["gidMappings"] = ids
    if not privileged and context.get("procMount") != "Unmasked":
        made["maskedPaths"] = list(MASKED)
        made["readonlyPaths"] = list(READ_ONLY)
    if has_fuse(pod) and not mapped:
        info = os.stat("/dev/fuse")
        node = {"path": "/dev/fuse", "type": "c", "major": os.major(info.st_rdev), "minor": os.minor(info.st_rdev)}
        made["devices"] = [{**node, "fileMode": 0o666, "uid": 0, "gid": 0}]
    wanted = context.get("seccompProfile", {}).get("type", "Unconfined")
    if wanted == "RuntimeDefault" and not privileged:
        made["seccomp"] = seccomp.runtime_default(capabilities)
    elif wanted == "Localhost" and not privileged:
        made["seccomp"] = seccomp.localhost(localhost, without)
    return made


def resources(pod, privileged):
    limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
    made = {"devices": [{"allow": bool(privileged), "access": "rwm"}]}
    if has_fuse(pod):
        made["devices"].append({"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"})
    if "memory" in limits:
        made["memory"] = {"limit": amount(limits["memory"])}
    if "cpu" in limits:
        text = str(limits["cpu"])
        share = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
        made["cpu"] = {"period": 100000, "quota": int(share * 100000)}
    return made


def amount(text):
    """A quantity of Kubernetes in bytes; a share of the memory is left as it is."""
    text = str(text)
    if text.endswith("%"):
        return text
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    for unit, factor in units.items():
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)
