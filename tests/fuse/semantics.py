# What programs may expect of a file system, tried on a mount of the overlay: python3 semantics.py MOUNTPOINT
# `lower`, `other`, `gone`, `dir/file`, `big`, `tool` and `sparse` come from a lower layer.
import ctypes, errno, fcntl, mmap, os, socket, stat, subprocess, sys, threading
os.chdir(sys.argv[1])
def fails(code, f, *args, **kw):
    try: f(*args, **kw)
    except OSError as e: assert e.errno == code, (f, args, e)
    else: raise AssertionError((f, args, "succeeded"))
# mapped, private and shared; the shared one reaches the file
with open("lower", "r+b") as f:
    m = mmap.mmap(f.fileno(), 0); assert m[:5] == b"lower"; m[:5] = b"LOWER"; m.flush(); m.close()
assert open("lower").read() == "LOWER\n"
# a descriptor that was opened before the first change sees it
r = os.open("other", os.O_RDONLY); assert os.pread(r, 9, 0) == b"other\n"
with open("other", "a") as f: f.write("more\n")
assert os.pread(r, 99, 0) == b"other\nmore\n"
assert os.fstat(r).st_ino == os.stat("other").st_ino
# appends of two writers
a, b = (os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for _ in "ab")
for i in range(50): os.write(a, b"a"); os.write(b, b"b")
assert open("log").read() == "ab" * 50
# locks, of both kinds
x, y = os.open("log", os.O_RDWR), os.open("log", os.O_RDWR)
fcntl.flock(x, fcntl.LOCK_EX); fails(errno.EAGAIN, fcntl.flock, y, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.flock(x, fcntl.LOCK_UN)
fcntl.lockf(x, fcntl.LOCK_EX)
if os.fork() == 0:
    try: fcntl.lockf(os.open("log", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: os._exit(0)
    os._exit(1)
assert os.wait()[1] == 0
# holes: made, found, copied up
fd = os.open("sparse", os.O_RDWR); assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
os.pwrite(fd, b"x", 4 << 20); assert os.lseek(fd, (1 << 20) + 8192, os.SEEK_DATA) == 4 << 20
assert os.stat("sparse").st_blocks < 4096
before = os.fstat(fd).st_blocks; os.posix_fallocate(fd, 0, 1 << 19); assert os.stat("sparse").st_blocks > before
# written, not closed, and copied by somebody who asks for holes
w = os.open("written", os.O_RDWR | os.O_CREAT, 0o644); os.write(w, b"data"); assert os.lseek(w, 0, os.SEEK_DATA) == 0
assert os.copy_file_range(w, fd, 4, 0, 0) == 4 and os.pread(fd, 4, 0) == b"data"
# truncated while opened
os.close(os.open("big", os.O_WRONLY | os.O_TRUNC)); assert os.stat("big").st_size == 0
# nameless files and flags
fails(errno.EOPNOTSUPP, os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o600)
fails(errno.ENOTTY, fcntl.ioctl, fd, 0x80086601, b"\0" * 8)
fails(errno.EPERM, os.mknod, "white", stat.S_IFCHR | 0o600, 0)
# an open file that is removed, changed and asked for
t = os.open("temp", os.O_RDWR | os.O_CREAT); os.unlink("temp"); os.write(t, b"kept"); os.fchmod(t, 0o640)
s = os.fstat(t); assert (s.st_nlink, s.st_size, s.st_mode & 0o777) == (0, 4, 0o640), s
l = os.open("gone", os.O_RDONLY); os.unlink("gone"); os.fchmod(l, 0o600); assert os.read(l, 9) == b"gone\n"
# names
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags): raise OSError(ctypes.get_errno(), a)
fails(errno.EEXIST, renameat2, "log", "written", 1); renameat2("log", "written", 2); assert open("log").read() == "data"
fails(errno.EXDEV, os.rename, "dir", "moved"); os.mkdir("new"); os.rename("new", "moved")
os.link("dir/file", "second"); assert os.stat("second").st_nlink == 2 and os.stat("dir/file").st_ino == os.stat("second").st_ino
os.mkfifo("pipe"); assert stat.S_ISFIFO(os.stat("pipe").st_mode)
u = socket.socket(socket.AF_UNIX); u.bind("socket"); u.listen(); c = socket.socket(socket.AF_UNIX); c.connect("socket")
# a large directory, read while it is emptied
os.mkdir("many"); [open(f"many/{i}", "w").close() for i in range(3000)]
assert len(os.listdir("many")) == 3000
for e in os.scandir("many"): os.unlink(e.path)
os.rmdir("many")
# attributes: kept, escaped, overlayfs' own hidden
os.setxattr("second", "user.a", b"1"); os.setxattr("second", "user.overlay.opaque", b"2")
assert sorted(os.listxattr("dir/file")) == ["user.a", "user.overlay.opaque"] and os.getxattr("dir/file", "user.overlay.opaque") == b"2"
os.removexattr("second", "user.a"); fails(errno.ENODATA, os.getxattr, "second", "user.a")
cap = bytes.fromhex("0100000200200000000000000000000000000000")
os.setxattr("second", "security.capability", cap); assert os.getxattr("second", "security.capability") == cap
open("second", "a").write("x"); fails(errno.ENODATA, os.getxattr, "second", "security.capability")
os.chmod("second", 0o6755); assert os.stat("second").st_mode & 0o7777 == 0o6755
# a default access control list takes the place of the umask
acl = bytes.fromhex("02000000" "01000700ffffffff" "04000700ffffffff" "20000000ffffffff")
os.umask(0o077); os.mkdir("acl"); os.setxattr("acl", "system.posix_acl_default", acl); open("acl/f", "w").close()
assert os.stat("acl/f").st_mode & 0o777 == 0o660, oct(os.stat("acl/f").st_mode)
open("plain", "w").close(); assert os.stat("plain").st_mode & 0o777 == 0o600; os.umask(0o022)
# set-group-id directories
os.mkdir("sg"); os.chmod("sg", 0o2775); os.mkdir("sg/sub"); assert os.stat("sg/sub").st_mode & 0o2000
# programs
os.chmod("tool", 0o755); assert subprocess.run(["./tool"], capture_output=True).stdout == b"ran\n"
# several threads at once
def work(n):
    for i in range(100):
        p = f"t{n}-{i}"; open(p, "w").write(p); os.rename(p, p + "x"); assert open(p + "x").read() == p; os.unlink(p + "x")
ts = [threading.Thread(target=work, args=(n,)) for n in range(6)]; [t.start() for t in ts]; [t.join() for t in ts]
# deeper than any path
here = os.open(".", os.O_RDONLY)
for _ in range(30): os.mkdir("d" * 200); os.chdir("d" * 200)
open("bottom", "w").write("x"); assert os.stat("bottom").st_size == 1; os.fchdir(here)
subprocess.run(["rm", "-rf", "d" * 200], check=True); assert not os.path.exists("d" * 200)
print("all held")
