/* disk_shim.c - preloaded before the program: a disk as slow as a test wants it, and a signal that comes at a call. What
 * it looks at are the calls of the C library, so there is no io_uring with it.
 *   DISK_BYTES_PER_S=N    a rank's writes to files below checkpoints/ take as long as they would at that rate
 *   DISK_FULL=PART        no room for what is appended to files whose path has PART in it
 *   DISK_SIGNAL=NUMBER    sent to this process before call number DISK_NTH (1) of the kind DISK_CALL (open, pread,
 *                         pwrite, mkdir, rename) whose path has DISK_PATH in it, and DISK_TIMES (1) times from then on. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Not what the compiler is told of the other symbols: these are to be found. */
#define SEEN __attribute__((visibility("default")))

struct io_uring;

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);

static unsigned long number_of(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);

    return text ? strtoul(text, NULL, 10) : otherwise;
}

/* ---- the moment */

static void at_call(const char *call, const char *path)
{
    static unsigned long count;
    const char *wanted = getenv("DISK_CALL"), *part = getenv("DISK_PATH");
    const unsigned long nth = number_of("DISK_NTH", 1);

    if (!wanted || !part || strcmp(call, wanted) != 0 || !strstr(path, part))
        return;
    const unsigned long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (now < nth || now >= nth + number_of("DISK_TIMES", 1))
        return;
    const int number = (int)number_of("DISK_SIGNAL", SIGUSR1);
    (void)kill(getpid(), number);
    if (number !=
        SIGUSR1) /* which ends nothing by itself; the call is not to come before the others do */
        (void)sleep(10);
}

static void path_of(int file, char *to, size_t bytes)
{
    char link_name[64];

    snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", file);
    const ssize_t length = readlink(link_name, to, bytes - 1);
    to[length > 0 ? length : 0] = '\0';
}

/* One write after the other, whichever threads they come from. */
static void take_time(size_t bytes)
{
    static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;
    const unsigned long rate = number_of("DISK_BYTES_PER_S", 0);

    if (rate == 0)
        return;
    struct timespec left = {(time_t)(bytes / rate), (long)(bytes % rate * 1000000000u / rate)};
    pthread_mutex_lock(&disk);
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
    pthread_mutex_unlock(&disk);
}

/* ---- calls */

#define NEXT(result, name, ...)         \
    static result (*next)(__VA_ARGS__); \
    if (!next)                          \
    next = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

SEEN int open(const char *path, int flags, ...)
{
    NEXT(int, open, const char *, int, ...);
    va_list list;

    va_start(list, flags);
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    at_call("open", path);
    return next(path, flags, mode);
}

SEEN ssize_t pread(int file, void *to, size_t bytes, off_t offset)
{
    NEXT(ssize_t, pread, int, void *, size_t, off_t);
    char path[4096];

    path_of(file, path, sizeof path);
    at_call("pread", path);
    return next(file, to, bytes, offset);
}

SEEN ssize_t pwrite(int file, const void *from, size_t bytes, off_t offset)
{
    NEXT(ssize_t, pwrite, int, const void *, size_t, off_t);
    char path[4096];

    path_of(file, path, sizeof path);
    at_call("pwrite", path);
    if (strstr(path, "/checkpoints/"))
        take_time(bytes);
    return next(file, from, bytes, offset);
}

SEEN ssize_t write(int file, const void *from, size_t bytes)
{
    NEXT(ssize_t, write, int, const void *, size_t);
    const char *part = getenv("DISK_FULL");
    char path[4096] = "";

    if (part)
        path_of(file, path, sizeof path);
    if (!part || !strstr(path, part))
        return next(file, from, bytes);
    errno = ENOSPC;
    return -1;
}

SEEN int mkdir(const char *path, mode_t mode)
{
    NEXT(int, mkdir, const char *, mode_t);

    at_call("mkdir", path);
    return next(path, mode);
}

SEEN int rename(const char *from, const char *to)
{
    NEXT(int, rename, const char *, const char *);

    at_call("rename", to);
    return next(from, to);
}

SEEN int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    (void)entries;
    (void)ring;
    (void)flags;
    return -EPERM;
}
