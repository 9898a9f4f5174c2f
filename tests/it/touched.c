/* Changes files in one of the ways that there are: the name of the way is the argument. Works in the directory /w, which
 * `prepare` makes. Whatever fails ends it with a message. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define OK(what) ok((intptr_t)(what), #what)

static intptr_t ok(intptr_t result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static const struct timespec PAST[2] = {{1000000000, 0}, {1100000000, 0}};

static int reading(const char *path) { return OK(open(path, O_RDONLY | O_CLOEXEC)); }

static int place(const char *path) { return OK(open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC)); }

static void file(const char *path, const char *text) {
    int fd = OK(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    OK(write(fd, text, strlen(text)));
    OK(close(fd));
}

static const char *link_of(int fd) {
    static char text[64];
    snprintf(text, sizeof text, "/proc/self/fd/%d", fd);
    return text;
}

static void prepare(void) {
    OK(mkdir("/w", 0755));
    OK(chdir("/w"));
    const char *names[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        file(names[i], names[i]);
    const char *dirs[] = {"d1", "d2", "d3", "d1/in", "d2/in", "d3/in", "deep", "deep/er", "deep/er/est"};
    for (unsigned i = 0; i < sizeof dirs / sizeof *dirs; i++)
        OK(mkdir(dirs[i], 0755));
    file("d1/in/x", "1x");
    file("d2/in/x", "2x");
    file("d3/in/x", "3x");
    file("deep/er/est/x", "deep");
    file("one", "one");
    OK(link("one", "d1/two"));
    OK(link("one", "d2/three"));
    OK(link("one", "d3/four"));
    OK(symlink("a", "s1"));
    OK(mkfifo("fifo", 0644));
}

static void times_of_a_descriptor(void) {
    OK(futimens(reading("a"), PAST));
    OK(futimens(reading("d1/in"), PAST));
    int fd = reading("deep/er/est/x");
    pid_t child = OK(fork());
    if (child == 0) {
        OK(futimens(fd, PAST));
        _exit(0);
    }
    OK(waitpid(child, NULL, 0));
}

static void modes_of_a_descriptor(void) {
    OK(fchmod(reading("a"), 0600));
    OK(fchmod(reading("d1"), 0711));
    OK(chmod(link_of(reading("b")), 0640));
    OK(fchown(reading("c"), 5, 6));
    OK(fsetxattr(reading("d"), "user.x", "y", 1, 0));
    OK(fsetxattr(reading("d2"), "user.x", "y", 1, 0));
}

static void places(void) {
    OK(utimensat(place("e"), "", PAST, AT_EMPTY_PATH));
    OK(utimensat(place("s1"), "", PAST, AT_EMPTY_PATH));
    OK(fchownat(place("s1"), "", 7, 8, AT_EMPTY_PATH));
    OK(chmod(link_of(place("f")), 0606));
    OK(utimensat(AT_FDCWD, "s1", PAST, AT_SYMLINK_NOFOLLOW));
    OK(linkat(AT_FDCWD, link_of(place("g")), AT_FDCWD, "d3/linked", AT_SYMLINK_FOLLOW));
    OK(setxattr(link_of(place("h")), "user.place", "z", 1, 0));
}

static void memory(void) {
    int fd = OK(open("i", O_RDWR));
    OK(ftruncate(fd, 8192));
    char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        ok(-1, "mmap");
    OK(close(fd));
    strcpy(at + 4096, "written to memory");
    fd = OK(open("j", O_RDWR));
    at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *at = 'J';
}

static void left_behind(void) {
    int fd = OK(open("k", O_RDWR)), pipes[2];
    OK(pipe(pipes));
    if (OK(fork()) == 0) {
        OK(setsid());
        for (;;) {
            OK(pwrite(fd, "left", 4, 0));
            OK(write(pipes[1], "x", 1));
        }
    }
    char byte;
    OK(read(pipes[0], &byte, 1));
}

static void without_a_name(void) {
    int fd = OK(open("/w/deep", O_TMPFILE | O_RDWR, 0640));
    OK(write(fd, "nameless", 8));
    OK(linkat(AT_FDCWD, link_of(fd), AT_FDCWD, "deep/named", AT_SYMLINK_FOLLOW));
    fd = OK(open("/w/d2", O_TMPFILE | O_RDWR, 0640));
    OK(write(fd, "lost", 4));
}

static void exchange(const char *a, const char *b) { OK(syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE)); }

static void moves(void) {
    OK(rename("l", "m"));
    OK(rename("n", "d2/in/n"));
    exchange("o", "p");
    exchange("d1/in", "d2/in");
    int dir = reading("d3/in");
    OK(rename("d3/in", "deep/er/out"));
    int fd = OK(openat(dir, "x", O_WRONLY | O_APPEND));
    OK(write(fd, " after", 6));
    OK(mkdirat(dir, "new", 0700));
    OK(chdir("deep/er/est"));
    OK(rename("/w/deep/er/est", "/w/est"));
    file("relative", "relative");
    OK(chdir("/w"));
    OK(rename("est", "deep/er/est"));
}

static void names(void) {
    OK(unlink("d1/two"));
    OK(rename("q", "d2/three"));
    OK(link("one", "d3/five"));
    int fd = OK(open("d3/four", O_WRONLY | O_APPEND));
    OK(write(fd, "!", 1));
    OK(link("r", "r2"));
    OK(unlink("r2"));
}

static void contents(void) {
    int from = reading("/proc/self/exe"), to = OK(open("s", O_RDWR | O_TRUNC));
    OK(copy_file_range(from, NULL, to, NULL, 1000, 0));
    OK(sendfile(to, from, NULL, 1000));
    OK(fallocate(to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 500));
    OK(truncate("t", 100));
    OK(open("a", O_RDONLY | O_TRUNC));
    int fd = reading("b");
    fd = OK(open(link_of(fd), O_WRONLY));
    OK(write(fd, "again", 5));
    int same = OK(dup(fd));
    OK(close(fd));
    OK(write(same, "!", 1));
}

static void handed_over(void) {
    int pair[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    char byte = 'x', room[CMSG_SPACE(sizeof(int))];
    memset(room, 0, sizeof room);
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    pid_t child = OK(fork());
    if (child == 0) {
        int fd;
        OK(recvmsg(pair[1], &message, 0));
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        OK(write(fd, "handed over", 11));
        _exit(0);
    }
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    int fd = OK(open("c", O_WRONLY));
    memcpy(CMSG_DATA(part), &fd, sizeof fd);
    OK(sendmsg(pair[0], &message, 0));
    OK(close(fd));
    int status;
    OK(waitpid(child, &status, 0));
    OK(-status);
}

static void directories(void) {
    int dir = reading("deep");
    OK(mkdirat(dir, "made", 0750));
    OK(symlinkat("target", dir, "link"));
    OK(mknodat(dir, "pipe", S_IFIFO | 0600, 0));
    OK(unlinkat(dir, "named", 0));
    file("deep/er/gone", "gone");
    OK(unlink("deep/er/gone"));
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/w/d1/socket"};
    OK(bind(fd, (struct sockaddr *)&at, sizeof at));
    OK(listen(fd, 1));
    int other = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    OK(connect(other, (struct sockaddr *)&at, sizeof at));
    fd = OK(open("fifo", O_RDWR));
    OK(write(fd, "x", 1));
    OK(fchmod(fd, 0600));
    OK(removexattr("d", "user.x"));
}

/* A directory with the number, and the name, of one that is gone. */
static void again(void) {
    for (int i = 0; i < 20; i++) {
        OK(mkdir("again", 0755));
        file("again/x", i == 19 ? "last" : "x");
        if (i < 19) {
            OK(unlink("again/x"));
            OK(rmdir("again"));
        }
    }
}

#ifdef __x86_64__
/* Calls as 32-bit programs make them: what they name has to lie low. */
static int narrow(long number, long a, long b, long c, long d) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory", "r8", "r9", "r10", "r11");
    if ((int)result < 0) {
        fprintf(stderr, "32-bit call %ld: %s\n", number, strerror(-(int)result));
        exit(1);
    }
    return result;
}

static void narrow_calls(void) {
    static const char path[] = "/w/d", other[] = "/w/e", name[] = "/w/narrow";
    static const int32_t past[4] = {1000000000, 0, 1100000000, 0};
    int fd = narrow(5, (long)path, O_RDONLY, 0, 0);
    narrow(320, fd, 0, (long)past, 0);
    fd = narrow(5, (long)other, O_WRONLY | O_APPEND, 0, 0);
    narrow(4, fd, (long)path, 2, 0);
    narrow(94, fd, 0600, 0, 0);
    narrow(39, (long)name, 0700, 0, 0);
}
#else
static void narrow_calls(void) {}
#endif

static const struct {
    const char *name;
    void (*way)(void);
} WAYS[] = {
    {"prepare", prepare},           {"times", times_of_a_descriptor}, {"modes", modes_of_a_descriptor},
    {"places", places},             {"memory", memory},               {"left-behind", left_behind},
    {"without-a-name", without_a_name}, {"moves", moves},             {"names", names},
    {"contents", contents},         {"handed-over", handed_over},     {"directories", directories},
    {"again", again},               {"narrow", narrow_calls},
};

int main(int count, char **arguments) {
    for (unsigned i = 0; count > 1 && i < sizeof WAYS / sizeof *WAYS; i++)
        if (strcmp(arguments[1], WAYS[i].name) == 0) {
            if (i > 0)
                OK(chdir("/w"));
            WAYS[i].way();
            return 0;
        }
    fprintf(stderr, "no such way\n");
    return 1;
}
