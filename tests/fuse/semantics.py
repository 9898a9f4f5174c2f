# What programs may expect of a file system, tried on a mount of the overlay: python3 semantics.py MOUNTPOINT
# `lower`, `other`, `gone`, `dir/file`, `big`, `tool`, `sparse`, `deep/*` and the two names of one file `hard/a` and `hard/b` come from a lower layer.
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
# numbers: a directory lists those that its files show, a change or another name leaves them, and no later file gets one again
def listed(d): return {e.name: e.inode() for e in os.scandir(d)}
def shown(d): return {n: os.lstat(f"{d}/{n}").st_ino for n in os.listdir(d)}
for d in ".", "deep", "dir": assert listed(d) == shown(d), d
was = shown("deep"); open("deep/a", "a").write("x"); os.chmod("deep/b", 0o600); os.rename("deep/c", "deep/d"); os.link("deep/a", "deep/e")
now = shown("deep"); assert (now["a"], now["b"], now["d"], now["e"]) == (was["a"], was["b"], was["c"], was["a"]) and listed("deep") == now
had = set(was.values())
for i in range(300):
    p = f"n{i % 3}"; open(p, "w").close(); n = os.stat(p).st_ino; assert n not in had, i; had.add(n)
    os.mkdir("nd"); n = os.stat("nd").st_ino; assert n not in had, i; had.add(n); os.rmdir("nd")
    if i % 2: os.rename(p, "over")
    else: os.unlink(p)
# names of one file of a layer: one file until one is changed
[open(f"hard/{e.name}").read() for e in os.scandir("hard")]
a, b = os.stat("hard/a"), os.stat("hard/b"); assert a.st_ino == b.st_ino and a.st_nlink == b.st_nlink == 2 and os.path.samefile("hard/a", "hard/b")
open("hard/a", "a").write("x"); a, b = os.stat("hard/a"), os.stat("hard/b")
assert a.st_ino != b.st_ino and a.st_nlink == 1 and open("hard/b").read() == "h" and open("hard/a").read() == "hx"
# more open files without names than a process may have by default
many = [os.open(f"open{i}", os.O_RDWR | os.O_CREAT) for i in range(700)]
for i, f in enumerate(many): os.unlink(f"open{i}"); os.write(f, b"%d" % i)
for i, f in enumerate(many): assert os.pread(f, 9, 0) == b"%d" % i, i; os.close(f)
# read while it changes: what stays is listed once
os.mkdir("busy"); [open(f"busy/{i}", "w").close() for i in range(2000)]
seen = []
for e in os.scandir("busy"):
    seen.append(e.name)
    if len(seen) % 2: os.unlink("busy/" + e.name); open(f"busy/x{len(seen)}", "w").close()
assert len(seen) == len(set(seen)) and set(map(str, range(2000))) <= set(seen)
# cut and written at the end in one open; a reader that was there before
r = os.open("deep/f", os.O_RDONLY); assert os.read(r, 1) == b"f"
w = os.open("deep/f", os.O_WRONLY | os.O_TRUNC | os.O_APPEND); os.write(w, b"12"); os.write(w, b"34"); assert os.pread(r, 9, 0) == b"1234"
m = mmap.mmap(r, 4, prot=mmap.PROT_READ); os.pwrite(os.open("deep/f", os.O_WRONLY), b"9", 0); assert m[:4] == b"9234"; m.close()
# mapped from the lower file, before the first change
r = os.open("deep/g", os.O_RDONLY); m = mmap.mmap(r, 1, prot=mmap.PROT_READ); assert m[:1] == b"g"
open("deep/g", "r+").write("G"); assert m[:1] == b"G" and os.read(r, 1) == b"G"; m.close()
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
