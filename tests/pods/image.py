"""Root file systems of containers: directories, made once, that overlays are mounted over."""

import hashlib
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import tarfile

# Where the user namespace of a pod with `hostUsers: false` begins, as every kubelet chooses one for each pod.
FIRST_ID = 200000
IDS = 65536

CAP_SETGID = 6
CAP_SETUID = 7


class Error(Exception):
    """An image that cannot be made."""


def find(state, rootfs, mapped):
    """The directory of an image: as it is, or for a pod in a user namespace with its owners shifted."""
    if rootfs is None:
        source = once(state / f"small-{version()}", small)
    elif os.path.isdir(rootfs):
        source = pathlib.Path(rootfs)
    else:
        info = os.stat(rootfs)
        key = hashlib.sha256(f"{os.path.realpath(rootfs)} {info.st_mtime_ns} {info.st_size}".encode()).hexdigest()[:12]
        source = once(state / f"tar-{key}", lambda into: unpack(rootfs, into))
    if not mapped:
        return source
    key = hashlib.sha256(f"{source} {os.stat(source).st_mtime_ns}".encode()).hexdigest()[:12]
    return once(state / f"shifted-{key}", lambda into: shift(source, into))


def version():
    """Changes with whatever the small image is made of."""
    parts = [pathlib.Path(__file__).read_bytes()]
    for name in ("/bin/busybox", "/usr/bin/newuidmap"):
        parts.append(str(os.stat(name).st_mtime_ns if os.path.exists(name) else 0).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def once(place, make):
    """Makes the directory unless it is there. Several may try at once: the first to finish is taken."""
    if place.is_dir():
        return place
    making = place.with_name(f"{place.name}.{os.getpid()}")
    making.mkdir(parents=True)
    try:
        os.chmod(making, 0o755)
        make(making)
        making.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return place


def small(into):
    """Static busybox, newuidmap and newgidmap with file capabilities, certificates, and a user with a range of ids."""
    for name in ("bin", "etc/ssl/certs", "home/pod", "lib64", "proc", "root", "sys", "dev", "tmp", "usr/bin", "var/tmp", "work"):
        (into / name).mkdir(parents=True)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)):
        os.chmod(into / name, mode)
    os.chown(into / "home/pod", 1000, 1000)
    busybox = pathlib.Path("/bin/busybox")
    if not busybox.exists():
        raise Error("`busybox-static` is not installed")
    shutil.copy(busybox, into / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            os.symlink("busybox", into / "bin" / applet)
    for tool, capability in (("newuidmap", CAP_SETUID), ("newgidmap", CAP_SETGID)):
        found = shutil.which(tool)
        if found is None:
            raise Error("`uidmap` is not installed")
        with_libraries(found, into)
        # Version 2, little-endian: effective, and one permitted capability.
        value = struct.pack("<5I", 0x02000001, 1 << capability, 0, 0, 0)
        os.chmod(into / found.lstrip("/"), 0o755)
        os.setxattr(into / found.lstrip("/"), "security.capability", value)
    bundle = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        shutil.copy(bundle, into / "etc/ssl/certs")
    files = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\npod:x:1000:1000::/home/pod:/bin/sh\n",
        "group": "root:x:0:\npod:x:1000:\n",
        "subuid": "pod:100000:65536\n",
        "subgid": "pod:100000:65536\n",
        "os-release": "ID=small\n",
    }
    for name, text in files.items():
        (into / "etc" / name).write_text(text)


def with_libraries(program, into):
    """Copies a program with the libraries that the loader wants for it, all under the paths that they have here."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    words = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    for path in [program, *words]:
        target = into / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def unpack(tar, into):
    """Extracts an image's file system, with all that it holds."""
    if shutil.which("tar"):
        subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", tar, "-C", into], check=True)
    else:
        with tarfile.open(tar) as archive:
            archive.extractall(into, numeric_owner=True)


def shift(source, into):
    """A copy in which every owner is the one that the pod's user namespace maps to it."""
    subprocess.run(["cp", "-a", f"{source}/.", into], check=True)
    for directory, names, files in os.walk(into):
        for path in [directory, *(os.path.join(directory, name) for name in names + files)]:
            info = os.lstat(path)
            capability = None
            if stat.S_ISREG(info.st_mode):
                try:
                    capability = os.getxattr(path, "security.capability")
                except OSError:
                    pass
            if info.st_uid < IDS and info.st_gid < IDS:
                os.chown(path, info.st_uid + FIRST_ID, info.st_gid + FIRST_ID, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                continue
            os.chmod(path, stat.S_IMODE(info.st_mode))
            if capability:
                (magic, *words) = struct.unpack("<5I", capability[:20])
                value = struct.pack("<6I", 0x03000000 | magic & 0xFFFFFF, *words, FIRST_ID)
                os.setxattr(path, "security.capability", value)
