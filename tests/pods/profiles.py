"""Pods as data: the nine profiles, the storages of the matrix, and what a strategic merge patch does to them."""

import copy

# The resource that a device plugin for FUSE offers; any name that ends like this one counts.
FUSE = "devices.example.com/fuse"
NO_FUSE = "none of its limits names a `…/fuse`"

RUNTIME_DEFAULT = {"type": "RuntimeDefault"}
LOCALHOST = {"type": "Localhost", "localhostProfile": "profiles/rbuild-pod.json"}

# What Pod Security `restricted` asks for, without the user.
LOCKED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": RUNTIME_DEFAULT,
}

# name: (fields of the pod's spec, fields of the container's securityContext)
PROFILES = {
    # No field at all, on a kubelet without seccompDefault.
    "default": ({}, {}),
    "restricted": ({}, {**LOCKED, "runAsUser": 1000, "runAsGroup": 1000}),
    # A user from the namespace's range, without an entry in the image's passwd.
    "openshift": ({}, {**LOCKED, "runAsUser": 1000660000, "runAsGroup": 0}),
    "baseline": ({}, {"runAsUser": 0, "seccompProfile": RUNTIME_DEFAULT}),
    "localhost": ({}, {**LOCKED, "runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": LOCALHOST}),
    "rootless": ({}, {"runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": LOCALHOST}),
    "hostusers": ({"hostUsers": False}, {"runAsUser": 0, "seccompProfile": RUNTIME_DEFAULT}),
    "hostusers-admin": (
        {"hostUsers": False},
        {"runAsUser": 0, "seccompProfile": RUNTIME_DEFAULT, "capabilities": {"add": ["SYS_ADMIN"]}},
    ),
    "privileged": ({}, {"runAsUser": 0, "privileged": True}),
}

# Where the store of a cell lies. All but `emptydir` and `readonly` put it on the container's own root file system.
STORAGES = ("emptydir", "rootfs", "readonly", "fuse")


class Unknown(Exception):
    """A name, or a field of a pod, that the harness does not know."""


def pod(profile, storage=""):
    """The manifest of a profile, with the volumes of a storage."""
    if profile not in PROFILES:
        raise Unknown(f"unknown profile `{profile}`: use one of {', '.join(PROFILES)}")
    if storage not in ("", *STORAGES):
        raise Unknown(f"unknown storage `{storage}`: use one of {', '.join(STORAGES)}")
    spec, context = copy.deepcopy(PROFILES[profile])
    container = {"name": "rbuild", "image": "rbuild", "securityContext": context, "env": []}
    made = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"rbuild-{profile}", "labels": {"profile": profile}},
        "spec": {**spec, "containers": [container]},
    }
    home = {"openshift": "/", "restricted": "/home/pod", "localhost": "/home/pod", "rootless": "/home/pod"}
    variables = {"HOME": home.get(profile, "/root")}
    if storage in ("emptydir", "readonly"):
        add_empty_dir(made, "/work", {})
        variables["RBUILD_ROOT"] = "/work/store"
    elif storage:
        variables["RBUILD_ROOT"] = "/tmp/store"
    if storage == "readonly":
        context["readOnlyRootFilesystem"] = True
        variables["TMPDIR"] = "/work"
    if storage == "fuse":
        container["resources"] = {"limits": {FUSE: 1}}
    container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    return made


def add_empty_dir(pod, target, settings):
    """Mounts an emptyDir."""
    volumes = pod["spec"].setdefault("volumes", [])
    name = f"empty-{len(volumes)}"
    volumes.append({"name": name, "emptyDir": settings})
    pod["spec"]["containers"][0].setdefault("volumeMounts", []).append({"name": name, "mountPath": target})


# Lists of objects that a strategic merge patch merges by a key. All other lists are replaced.
MERGE_KEYS = {"containers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}


def merge(old, patch, field=""):
    """What `kubectl patch --type strategic` makes of `old`: `null` removes, objects and keyed lists are merged."""
    if isinstance(old, dict) and isinstance(patch, dict):
        made = dict(old)
        for name, value in patch.items():
            if value is None:
                made.pop(name, None)
            elif name in made:
                made[name] = merge(made[name], value, name)
            else:
                # Into nothing, so that what it removes is not added.
                made[name] = merge({}, value, name) if isinstance(value, dict) else value
        return made
    if isinstance(old, list) and isinstance(patch, list) and field in MERGE_KEYS:
        key = MERGE_KEYS[field]
        made = list(old)
        for item in patch:
            at = next((i for i, other in enumerate(made) if other[key] == item[key]), None)
            if at is None:
                made.append(item)
            else:
                made[at] = merge(made[at], item)
        return made
    return patch


KNOWN = {
    "spec": {"containers", "volumes", "hostUsers", "securityContext", "serviceAccountName", "automountServiceAccountToken"},
    "container": {"name", "image", "command", "args", "env", "securityContext", "volumeMounts", "resources"},
    "securityContext": {
        "allowPrivilegeEscalation",
        "appArmorProfile",
        "capabilities",
        "fsGroup",
        "privileged",
        "procMount",
        "readOnlyRootFilesystem",
        "runAsGroup",
        "runAsNonRoot",
        "runAsUser",
        "seccompProfile",
    },
}


def check(pod):
    """Refuses what the harness would have to ignore, and what a kubelet or API server refuses."""
    spec = pod["spec"]
    container = spec["containers"][0]
    if len(spec["containers"]) != 1:
        raise Unknown("a pod of one container is wanted")
    places = [("spec", spec), ("container", container)]
    places += [("securityContext", place.get("securityContext", {})) for place in (spec, container)]
    for kind, fields in places:
        for name in fields:
            if name not in KNOWN[kind]:
                raise Unknown(f"unknown field `{name}` of a pod")
    context = security_context(pod)
    if context.get("procMount") == "Unmasked" and spec.get("hostUsers") is not False:
        raise Unknown("`procMount: Unmasked` needs `hostUsers: false`")
    if context.get("runAsNonRoot") and context.get("runAsUser", 0) == 0:
        raise Unknown("`runAsNonRoot` with user 0")
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged") or "SYS_ADMIN" in context.get("capabilities", {}).get("add", []):
            raise Unknown("`allowPrivilegeEscalation: false` contradicts `privileged` and the capability `SYS_ADMIN`")
    for volume in spec.get("volumes", []):
        if "emptyDir" not in volume:
            raise Unknown(f"the volume `{volume['name']}` is no emptyDir")


def security_context(pod):
    """The container's securityContext over the pod's."""
    return {**pod["spec"].get("securityContext", {}), **pod["spec"]["containers"][0].get("securityContext", {})}
