/* storage_uring.c - asynchronous I/O by io_uring in two levels: with the caller's memory and files registered, so that the
 * kernel need not look its pages up for every operation, nor count who uses the file, and without. One ring, one submitting thread. Needs the
 * kernel's descriptors behind those of ds_fs. */
#include "storage_private.h"

#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define PART_BYTES_MAX ((size_t)1 << 30) /* of one operation and of one registered region */
#define TRIES_MAX      1000

struct uring {
    struct ds_fs *fs;
    const struct ds_storage_options *options;
    struct io_uring ring;
    struct iovec *regions; /* owns: what is registered, by its index there */
    unsigned region_count;
    int *files; /* owns: the kernel's descriptors that are registered, by their index there */
    unsigned file_count;
};

/* ---- open: a ring, operations, memory */

/* "fixed" needs the plain ones, too, for memory that is not registered. */
static int probe_ops(struct io_uring *ring, int fixed)
{
    static const int ops[] = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READ_FIXED,
                              IORING_OP_WRITE_FIXED};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    int can = probe != NULL;

    for (int i = 0; can && i < (fixed ? 4 : 2); i++)
        can = io_uring_opcode_supported(probe, ops[i]);
    if (probe)
        io_uring_free_probe(probe);
    return can ? 0 : -ENOSYS;
}

static unsigned count_regions(const struct ds_storage_options *options)
{
    size_t count = 0;

    for (size_t i = 0; i < options->memory_count; i++)
        count += (options->memory[i].bytes + PART_BYTES_MAX - 1) / PART_BYTES_MAX;
    return (unsigned)count;
}

static int register_memory(struct uring *self)
{
    const struct ds_storage_options *options = self->options;

    self->regions = calloc(count_regions(options), sizeof *self->regions);
    if (!self->regions)
        return -ENOMEM;
    for (size_t i = 0; i < options->memory_count; i++)
        for (size_t at = 0; at < options->memory[i].bytes; at += PART_BYTES_MAX) {
            const size_t left = options->memory[i].bytes - at;

            self->regions[self->region_count++] =
                (struct iovec){(uint8_t *)options->memory[i].at + at,
                               left < PART_BYTES_MAX ? left : PART_BYTES_MAX};
        }
    return io_uring_register_buffers(&self->ring, self->regions, self->region_count);
}

static int register_files(struct uring *self)
{
    const struct ds_storage_options *options = self->options;

    if (options->file_count == 0)
        return 0;
    self->files = calloc(options->file_count, sizeof *self->files);
    if (!self->files)
        return -ENOMEM;
    for (size_t i = 0; i < options->file_count; i++) {
        self->files[i] = ds_fs_native(self->fs, options->files[i]);
        if (self->files[i] < 0)
            return self->files[i];
    }
    self->file_count = (unsigned)options->file_count;
    return io_uring_register_files(&self->ring, self->files, self->file_count);
}

static void uring_close(void *at)
{
    struct uring *self = at;

    io_uring_queue_exit(&self->ring);
    free(self->regions);
    free(self->files);
}

static int open_ring(struct uring *self, int fixed, const char **doing)
{
    int code;

    *doing = "make a ring";
    code = io_uring_queue_init(self->options->depth, &self->ring, IORING_SETUP_CLAMP);
    if (code != 0)
        return code;
    *doing = "find read and write";
    code = probe_ops(&self->ring, fixed);
    if (code == 0 && fixed) {
        *doing = "register memory";
        code = register_memory(self);
    }
    if (code == 0 && fixed) {
        *doing = "register files";
        code = register_files(self);
    }
    if (code != 0)
        uring_close(self);
    return code;
}

static int open_level(struct uring *self, struct ds_fs *fs,
                      const struct ds_storage_options *options, int fixed,
                      struct storage_refusal *refusal)
{
    self->fs = fs;
    self->options = options;
    refusal->code = open_ring(self, fixed, &refusal->doing);
    return refusal->code != 0;
}

static int fixed_open(void *at, struct ds_fs *fs, const struct ds_storage_options *options,
                      struct storage_refusal *refusal)
{
    return open_level(at, fs, options, 1, refusal);
}

static int plain_open(void *at, struct ds_fs *fs, const struct ds_storage_options *options,
                      struct storage_refusal *refusal)
{
    return open_level(at, fs, options, 0, refusal);
}

/* ---- submit */

/* Hands the queue to the kernel, all of it: outside this function it is empty but for what was given
 * up. EAGAIN means that the kernel lacks memory for a moment. */
static int hand_over(struct uring *self)
{
    int code = -EAGAIN;

    for (int tries = 0; tries < TRIES_MAX; tries++) {
        code = io_uring_submit(&self->ring);
        if (io_uring_sq_ready(&self->ring) == 0)
            return 0;
        if (code < 0 && code != -EINTR && code != -EAGAIN && code != -EBUSY)
            return code;
        sched_yield();
    }
    return code < 0 ? code : -EAGAIN;
}

/* The registered region in which `data` lies, or -1; *bytes is cut to what lies there with it. */
static int region_of(const struct uring *self, const uint8_t *data, size_t *bytes)
{
    for (unsigned i = 0; i < self->region_count; i++) {
        const uint8_t *begin = self->regions[i].iov_base, *end = begin + self->regions[i].iov_len;

        if (data < begin || data >= end)
            continue;
        if (*bytes > (size_t)(end - data))
            *bytes = (size_t)(end - data);
        return (int)i;
    }
    return -1;
}

static void prepare(const struct uring *self, struct io_uring_sqe *sqe, int native,
                    struct ds_storage_request *request)
{
    uint8_t *data = (uint8_t *)request->data + request->done_bytes;
    const uint64_t offset = request->offset + request->done_bytes;
    size_t bytes = storage_part(self->options, request);
    const int region = region_of(self, data, &bytes);
    const unsigned part = (unsigned)(bytes < PART_BYTES_MAX ? bytes : PART_BYTES_MAX);

    if (region >= 0 && request->is_write)
        io_uring_prep_write_fixed(sqe, native, data, part, offset, region);
    else if (region >= 0)
        io_uring_prep_read_fixed(sqe, native, data, part, offset, region);
    else if (request->is_write)
        io_uring_prep_write(sqe, native, data, part, offset);
    else
        io_uring_prep_read(sqe, native, data, part, offset);
    for (unsigned i = 0; i < self->file_count; i++)
        if (self->files[i] == native) {
            sqe->fd = (int)i;
            io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
        }
    io_uring_sqe_set_data(sqe, request);
}

/* Queues what is left of a request; 0 or -errno. After an error the kernel has nothing of it. */
static int queue_rest(struct uring *self, struct ds_storage_request *request)
{
    int native = ds_fs_native(self->fs, request->file);
    struct io_uring_sqe *sqe = native < 0 ? NULL : io_uring_get_sqe(&self->ring);

    if (!sqe)
        return native < 0 ? native : -EBUSY;
    prepare(self, sqe, native, request);
    int code = hand_over(self);
    if (code != 0) { /* it cannot be taken back from the queue, but it can be emptied */
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_flags(sqe, 0);
        io_uring_sqe_set_data(sqe, NULL);
    }
    return code;
}

static ds_status uring_submit(void *at, struct ds_storage_request *request)
{
    int code = queue_rest(at, request);

    if (code != 0)
        return ds_fail(DS_ERR_IO, "io_uring submit: %s", strerror(-code));
    return DS_OK;
}

/* ---- reap */

/* What a completion means for its request. True: it is over, and its status says how. */
static int is_over(struct uring *self, struct ds_storage_request *request, int result)
{
    if (storage_absorb(self->options, request, result))
        return 1;
    if (request->stalls > 0)
        sched_yield();
    int code = queue_rest(self, request); /* short: the rest follows */
    if (code != 0)
        request->status = storage_request_failed(request, code);
    return code != 0;
}

static int take_one(struct uring *self, int waits, struct ds_storage_request **request, int *result)
{
    struct io_uring_cqe *cqe;
    int code;

    do {
        code = waits ? io_uring_wait_cqe(&self->ring, &cqe) : io_uring_peek_cqe(&self->ring, &cqe);
    } while (code == -EINTR);
    if (code != 0)
        return code;
    *request = io_uring_cqe_get_data(cqe);
    *result = cqe->res;
    io_uring_cqe_seen(&self->ring, cqe);
    return 0;
}

static ds_status uring_reap(void *at, int waits, struct ds_storage_request **done)
{
    struct uring *self = at;
    struct ds_storage_request *request;
    int result;

    do {
        int code = take_one(self, waits, &request, &result);

        *done = NULL;
        if (code == -EAGAIN && !waits)
            return DS_OK;
        if (code != 0)
            return ds_fail(DS_ERR_IO, "io_uring wait: %s", strerror(-code));
    } while (!request || !is_over(self, request, result));
    *done = request;
    return DS_OK;
}

const struct storage_ops storage_fixed_ops = {
    .name = "fixed",
    .text = "io_uring with registered memory",
    .is_native = 1,
    .wants_memory = 1,
    .self_bytes = sizeof(struct uring),
    .open = fixed_open,
    .close = uring_close,
    .submit = uring_submit,
    .reap = uring_reap,
};

const struct storage_ops storage_plain_ops = {
    .name = "plain",
    .text = "io_uring",
    .is_native = 1,
    .self_bytes = sizeof(struct uring),
    .open = plain_open,
    .close = uring_close,
    .submit = uring_submit,
    .reap = uring_reap,
};
