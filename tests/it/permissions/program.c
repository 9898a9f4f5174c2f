// What a shell cannot try. Without an argument: who it is, and whether it can read what only root may.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TRIES 3000

static volatile int done;
static char path[64];
static const char *one, *other;

static const char *error(int failed) { return failed ? strerror(errno) : "ok"; }

// A path that another thread changes while it is looked up.
static void *change_memory(void *unused) {
    while (!done) {
        strcpy(path, "/t/600");
        strcpy(path, "/t/604");
    }
    return unused;
}

static void *swap_links(void *unused) {
    while (!done) {
        for (int i = 0; i < 2; i++) {
            unlink("/t/777/next");
            if (symlink(i ? one : other, "/t/777/next") == 0) rename("/t/777/next", "/t/777/swapped");
        }
    }
    return unused;
}

// Whether what only root may read was ever read.
static int race(void *(*other_thread)(void *), const char *name) {
    int read_root = 0, opened = 0;
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, NULL);
    for (int i = 0; i < TRIES || !opened; i++) {
        int fd = open(name, O_RDONLY);
        char text[8] = "";
        if (fd < 0) continue;
        opened++;
        if (read(fd, text, 3) == 3 && !strcmp(text, "600")) read_root++;
        close(fd);
    }
    done = 1;
    pthread_join(thread, NULL);
    printf("%s %s\n", opened ? "opened" : "never opened", read_root ? "read what it may not" : "only what it may");
    return read_root;
}

#ifdef __x86_64__
static long compat(long number, long a, long b, long c) {
    long answer;
    __asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return answer;
}

static void compat_open(char *at, const char *name) {
    strcpy(at, name);
    long fd = compat(5, (long)at, O_RDONLY, 0);
    printf("%s ", fd < 0 ? strerror((int)-fd) : "ok");
    if (fd >= 0) close((int)fd);
}
#endif

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "compat")) {
#ifdef __x86_64__
        char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        compat_open(at, "/t/604");
        compat_open(at, "/t/600");
        strcpy(at, "/t/604");
        long removed = compat(10, (long)at, 0, 0);
        printf("%s %ld\n", strerror((int)-removed), compat(199, 0, 0, 0));
#endif
        return 0;
    }
    if (!strcmp(what, "memory")) {
        strcpy(path, "/t/604");
        return race(change_memory, path);
    }
    if (!strcmp(what, "link")) {
        one = "/t/600", other = "/t/604";
        return race(swap_links, "/t/777/swapped");
    }
    if (!strcmp(what, "program")) {
        // Programs that root's set-id bit is not for must not get it.
        one = "/t/suid", other = "/bin/program";
        pthread_t thread;
        pthread_create(&thread, NULL, swap_links, NULL);
        int wrong = 0, right = 0;
        for (int i = 0; i < 200; i++) {
            pid_t child = fork();
            if (child == 0) {
                execl("/t/777/swapped", "x", "which", NULL);
                _exit(9);
            }
            int status;
            waitpid(child, &status, 0);
            if (WEXITSTATUS(status) == 1) wrong++;
            if (WEXITSTATUS(status) == 0) right++;
        }
        done = 1;
        pthread_join(thread, NULL);
        printf("%s %s\n", right ? "ran" : "never ran", wrong ? "with what is not its own" : "as they should");
        return wrong != 0;
    }
    if (!strcmp(what, "which")) {
        char exe[64] = "";
        if (readlink("/proc/self/exe", exe, sizeof exe - 1) < 0) return 2;
        return geteuid() == 0 && strcmp(exe, "/t/suid");
    }
    if (!strcmp(what, "socket") || !strcmp(what, "peer")) {
        struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/t/777/socket"};
        struct stat s;
        unlink(at.sun_path);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0), peer = socket(AF_UNIX, SOCK_STREAM, 0);
        printf("%s ", error(bind(fd, (void *)&at, sizeof at)));
        stat(at.sun_path, &s);
        printf("%d %o ", (int)s.st_uid, s.st_mode & 07777);
        listen(fd, 1);
        printf("%s ", error(connect(peer, (void *)&at, sizeof at)));
        struct ucred who;
        socklen_t length = sizeof who;
        getsockopt(fd = accept(fd, NULL, NULL), SOL_SOCKET, SO_PEERCRED, &who, &length);
        if (!strcmp(what, "peer")) return printf("%d %d\n", (int)who.uid, who.pid == getpid()) < 0;
        strcpy(at.sun_path, "/t/socket");
        printf("%s\n", error(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&at, sizeof at)));
        return 0;
    }
    if (!strcmp(what, "attributes")) {
        printf("%s ", error(setxattr("/t/604", "user.x", "y", 1, 0)));
        printf("%s ", error(setxattr("/t/666", "user.x", "y", 1, 0)));
        printf("%s ", error(setxattr("/t/own", "user.x", "y", 1, 0)));
        char value[4];
        printf("%d %s ", (int)getxattr("/t/own", "user.x", value, sizeof value), error(getxattr("/t/600", "user.x", value, 4) < 0));
        printf("%s ", error(removexattr("/t/own", "user.x")));
        const unsigned int capability[5] = {0x02000001, 1 << 13};
        printf("%s ", error(setxattr("/t/own", "security.capability", capability, sizeof capability, 0)));
        printf("%s %s\n", error(truncate("/t/604", 0)), error(truncate("/t/own", 3)));
        return 0;
    }
    if (!strcmp(what, "unnamed")) {
        struct stat s = {0};
        printf("%s ", error(open("/t", O_TMPFILE | O_RDWR, 0600) < 0));
        int fd = open("/t/777", O_TMPFILE | O_RDWR, 0640);
        fstat(fd, &s);
        printf("%s %d %o ", error(fd < 0), (int)s.st_uid, s.st_mode & 07777);
        printf("%s ", error(open("/t/700", O_PATH) < 0));
        int place = open("/t/711", O_PATH | O_DIRECTORY), in = openat(place, "known", O_RDONLY);
        printf("%s %s ", error(place < 0), error(in < 0));
        printf("%s %s\n", error(fchmod(in, 0777)), error(fchdir(open("/t/750", O_RDONLY))));
        return 0;
    }
    printf("%d %d %s\n", (int)geteuid(), (int)getegid(), error(open("/t/600", O_RDONLY) < 0));
    return 0;
}
