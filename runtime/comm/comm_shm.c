/* comm_shm.c - the processes of one host, over a POSIX shared memory object. The name is gone as soon
 * as all have mapped it, so that a killed run leaves nothing in /dev/shm. The memory is asked for with
 * posix_fallocate: a full /dev/shm is an error here and not a SIGBUS in a step. */
#include "shared.h"

#include "comm_mpi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A name nobody else has: the process, and the time for those that died with the same number. */
static int open_new(const struct ds_clock *clock, char *name)
{
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        snprintf(name, SHARED_HANDLE_BYTES, "/dstrain-%ld-%llx", (long)getpid(),
                 (unsigned long long)ds_clock_mono_ns(clock) + attempt);
        int file = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (file >= 0 || errno != EEXIST)
            return file;
    }
    return -1;
}

/* `bytes`, or a quarter as long as that does not fit: other groups want some, too. 0 or an errno. */
static int reserve(int file, size_t bytes, size_t bytes_min, size_t *got_bytes)
{
    for (;;) {
        int code = posix_fallocate(file, 0, (off_t)bytes);

        if (code == EINTR)
            continue;
        *got_bytes = bytes;
        if (code != ENOSPC || bytes == bytes_min)
            return code;
        if (ftruncate(file, 0) != 0)
            return errno;
        bytes = bytes / 4 > bytes_min ? bytes / 4 : bytes_min;
    }
}

static ds_status map(int file, size_t bytes, void **at)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);

    if (memory == MAP_FAILED) {
        ds_warn("shared memory: cannot map %zu bytes: %s", bytes, strerror(errno));
        return DS_ERR_NO_MEMORY;
    }
    *at = memory;
    return DS_OK;
}

/* Failures are warnings here: the group can still go over MPI. */
static ds_status shm_create(const struct ds_clock *clock, size_t bytes, size_t bytes_min,
                            void *handle, void **at, size_t *got_bytes)
{
    int file = open_new(clock, handle);
    ds_status st = DS_ERR_NO_MEMORY;

    if (file < 0) {
        ds_warn("shared memory: cannot create %s: %s", (const char *)handle, strerror(errno));
        return st;
    }
    int code = reserve(file, bytes, bytes_min, got_bytes);
    if (code != 0)
        ds_warn("shared memory: /dev/shm has no %zu bytes: %s", bytes_min, strerror(code));
    else
        st = map(file, *got_bytes, at);
    close(file);
    if (st != DS_OK)
        shm_unlink(handle);
    return st;
}

static ds_status shm_attach(const void *handle, void **at)
{
    int file = shm_open(handle, O_RDWR | O_CLOEXEC, 0);
    struct stat info;
    ds_status st = DS_ERR_NO_MEMORY;

    if (file < 0 || fstat(file, &info) != 0)
        ds_warn("shared memory: cannot open %s: %s", (const char *)handle, strerror(errno));
    else
        st = map(file, (size_t)info.st_size, at);
    if (file >= 0)
        close(file);
    return st;
}

static void shm_settle(const void *handle)
{
    shm_unlink(handle);
}

static void shm_detach(struct shared_segment *segment)
{
    munmap(segment, segment->bytes);
}

static const struct ds_comm_ops shm_ops = {
    .name = "shm",
    .caps = DS_COMM_CAP_WORKER,
    .all_reduce = shared_all_reduce,
    .all_gather = shared_all_gather,
    .reduce_scatter = shared_reduce_scatter,
    .broadcast = shared_broadcast,
    .barrier = shared_barrier,
    .exchange = shared_exchange,
    .split = shared_split,
    .open_data = shared_open_data,
    .poison = shared_poison,
    .close = shared_close,
};

const struct shared_source shm_source = {
    .ops = &shm_ops,
    .create = shm_create,
    .attach = shm_attach,
    .settle = shm_settle,
    .detach = shm_detach,
};
