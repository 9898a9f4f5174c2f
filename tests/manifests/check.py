#!/usr/bin/env python3
"""Checks the manifests in examples/kubernetes against the schemas of Kubernetes and against the Pod Security Standard that each
of them claims in its first line: it must meet that one, and no stricter one, so that no manifest asks for more than it says.

    check.py [FILE...]      needs PyYAML and kubernetes-validate

What is no Kubernetes object (a Tekton task, a GitLab runner's configuration, values of a Helm chart) is checked by the pod
that it becomes.
"""
import pathlib, re, sys, tomllib
import kubernetes_validate, yaml

LEVELS = ["privileged", "baseline", "restricted"]
# What the baseline standard lets a container add.
ADDABLE = {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
           "SETPCAP", "SETUID", "SYS_CHROOT"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pod(spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def task_pod(task):
    """The pod of a Tekton task: steps are containers, under the names that Tekton has for some of their fields."""
    text = lambda v: re.sub(r"\$\([^)]*\)", "value", v) if isinstance(v, str) else v
    containers = []
    for step in task["spec"]["steps"]:
        container = {k: v for k, v in step.items() if k not in ("computeResources", "script", "timeout", "onError")}
        container["resources"] = step.get("computeResources", {})
        container["args"] = [text(a) for a in step.get("args", [])]
        containers.append(container)
    return pod({"containers": containers, "volumes": task["spec"].get("volumes", [])})


def runner_pods(config):
    """The pods of the runners of a GitLab configuration: the patches, with the images that the runner fills in."""
    for runner in config["runners"]:
        kubernetes = runner["kubernetes"]
        assert not kubernetes.get("privileged"), "privileged"
        for patch in kubernetes["pod_spec"]:
            spec = yaml.safe_load(patch["patch"])
            for container in spec.get("initContainers", []) + spec["containers"]:
                container.setdefault("image", kubernetes["image"])
                container.setdefault("resources", {"limits": {"memory": kubernetes["memory_limit"]}})
            yield pod(spec)


def pods(path):
    """The pods of a file, each with the object to be held against a schema."""
    if path.suffix == ".toml":
        for p in runner_pods(tomllib.loads(path.read_text())):
            yield p, p["spec"]
        return
    for document in yaml.safe_load_all(path.read_text()):
        if "kind" not in document:
            document = pod(document["template"]["spec"])
        elif document["apiVersion"].startswith("tekton.dev/"):
            document = task_pod(document)
        spec = document["spec"]
        while "template" in spec:
            spec = spec["template"]["spec"]
        yield document, spec


def breaches(spec):
    """What is against a standard: pairs of the strictest level that still allows it, and a text."""
    found = []
    outer = spec.get("securityContext", {})
    restricted_only, baseline_only = "baseline", "privileged"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            found.append((baseline_only, field))
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if "hostPath" in kinds:
            found.append((baseline_only, f"volume {volume['name']} is a hostPath"))
        elif not kinds <= VOLUMES:
            found.append((restricted_only, f"volume {volume['name']} is a {kinds}"))
    for container in spec.get("initContainers", []) + spec["containers"]:
        name, inner = container["name"], container.get("securityContext", {})
        value = lambda field: inner.get(field, outer.get(field))
        capabilities = inner.get("capabilities", {})
        added, dropped = set(capabilities.get("add", [])), set(capabilities.get("drop", []))
        seccomp = (value("seccompProfile") or {}).get("type")
        apparmor = (value("appArmorProfile") or {}).get("type")
        if inner.get("privileged"):
            found.append((baseline_only, f"{name} is privileged"))
        if added - ADDABLE:
            found.append((baseline_only, f"{name} adds {sorted(added - ADDABLE)}"))
        if seccomp == "Unconfined" or apparmor == "Unconfined":
            found.append((baseline_only, f"{name} is unconfined"))
        if value("procMount") not in (None, "Default"):
            found.append((baseline_only, f"{name} has another /proc"))
        if any(port.get("hostPort") for port in container.get("ports", [])):
            found.append((baseline_only, f"{name} has a port of the host"))
        if seccomp not in ("RuntimeDefault", "Localhost"):
            found.append((restricted_only, f"{name} has no seccomp profile"))
        if inner.get("allowPrivilegeEscalation") is not False:
            found.append((restricted_only, f"{name} may escalate"))
        if "ALL" not in dropped or added - {"NET_BIND_SERVICE"}:
            found.append((restricted_only, f"{name} has capabilities"))
        if value("runAsNonRoot") is not True or value("runAsUser") == 0:
            found.append((restricted_only, f"{name} may be root"))
    return found


def bounded(spec):
    """What a builder's pod has to bound, lest it be evicted: memory of each container, size of each emptyDir."""
    for container in spec.get("initContainers", []) + spec["containers"]:
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"{container['name']} has no limit of memory"
    for volume in spec.get("volumes", []):
        if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
            yield f"volume {volume['name']} has no sizeLimit"


def check(path):
    claim = re.match(r"# Pod Security Standard: (\w+)\n", path.read_text())
    if not claim or claim[1] not in LEVELS:
        return ["the first line does not name a Pod Security Standard"]
    errors, strictest = [], []
    for document, spec in pods(path):
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as e:
            errors.append(f"{'.'.join(map(str, e.path))}: {e.message}")
        found = breaches(spec)
        level = min((LEVELS.index(l) for l, _ in found), default=len(LEVELS) - 1)
        strictest.append(level)
        if level < LEVELS.index(claim[1]):
            errors += [f"not {claim[1]}: {text}" for l, text in found if LEVELS.index(l) < LEVELS.index(claim[1])]
        errors += bounded(spec)
    if not strictest:
        errors.append("holds no pod")
    elif not errors and min(strictest) > LEVELS.index(claim[1]):
        errors.append(f"claims {claim[1]}, and is {LEVELS[min(strictest)]}")
    return errors


def main():
    directory = pathlib.Path(__file__).resolve().parents[2] / "examples/kubernetes"
    files = [pathlib.Path(f) for f in sys.argv[1:]] or sorted(f for f in directory.iterdir() if f.suffix in (".yaml", ".toml"))
    failed = False
    for path in files:
        errors = check(path)
        print(f"{'FAIL' if errors else 'ok'} {path.name}")
        for error in errors:
            print(f"    {error}")
        failed |= bool(errors)
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
