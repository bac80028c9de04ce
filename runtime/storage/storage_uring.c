/* storage_uring.c - asynchronous I/O by io_uring, its plain level: no registered buffers or files, one
 * ring, one submitting thread. Needs the kernel's descriptors behind those of ds_fs. */
#include "storage_private.h"

#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <string.h>

#define PART_BYTES_MAX (1u << 30) /* of one submission: lengths and results have 32 bits */
#define TRIES_MAX      1000

struct uring {
    struct ds_fs *fs;
    struct io_uring ring;
};

static int can_read_and_write(void)
{
    struct io_uring_probe *probe = io_uring_get_probe();
    int can = probe && io_uring_opcode_supported(probe, IORING_OP_READ) &&
              io_uring_opcode_supported(probe, IORING_OP_WRITE);

    if (probe)
        io_uring_free_probe(probe);
    return can;
}

/* Built in is one question, permitted here another: a container's seccomp profile answers EPERM, an old
 * kernel ENOSYS. io_uring_get_probe opens a ring and so finds out. */
static int uring_score(void)
{
    return can_read_and_write() ? 10 : 0;
}

static ds_status uring_open(void *at, struct ds_fs *fs, uint32_t depth)
{
    struct uring *self = at;
    int code = io_uring_queue_init(depth, &self->ring, IORING_SETUP_CLAMP);

    if (code == -ENOMEM)
        return ds_fail(DS_ERR_NO_MEMORY, "io_uring with %u entries: %s", depth, strerror(ENOMEM));
    if (code != 0)
        return ds_fail(DS_ERR_IO, "io_uring with %u entries: %s", depth, strerror(-code));
    self->fs = fs;
    return DS_OK;
}

static void uring_close(void *at)
{
    struct uring *self = at;

    io_uring_queue_exit(&self->ring);
}

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

/* Queues what is left of a request; 0 or -errno. After an error the kernel has nothing of it. */
static int queue_rest(struct uring *self, struct ds_storage_request *request)
{
    size_t left = request->bytes - request->done_bytes;
    unsigned part = left < PART_BYTES_MAX ? (unsigned)left : PART_BYTES_MAX;
    uint8_t *data = (uint8_t *)request->data + request->done_bytes;
    uint64_t offset = request->offset + request->done_bytes;
    int native = ds_fs_native(self->fs, request->file);
    struct io_uring_sqe *sqe = native < 0 ? NULL : io_uring_get_sqe(&self->ring);

    if (!sqe)
        return native < 0 ? native : -EBUSY;
    if (request->is_write)
        io_uring_prep_write(sqe, native, data, part, offset);
    else
        io_uring_prep_read(sqe, native, data, part, offset);
    io_uring_sqe_set_data(sqe, request);
    int code = hand_over(self);
    if (code != 0) { /* it cannot be taken back from the queue, but it can be emptied */
        io_uring_prep_nop(sqe);
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

/* What a completion means for its request. True: it is over, and its status says how. */
static int is_over(struct uring *self, struct ds_storage_request *request, int result)
{
    int code = result;

    if (result > 0)
        request->done_bytes += (size_t)result;
    if (request->done_bytes == request->bytes) {
        request->status = DS_OK;
        return 1;
    }
    if (result > 0 || result == -EINTR || result == -EAGAIN)
        code = queue_rest(self, request); /* short: the rest follows */
    if (code == 0 && result != 0)
        return 0;
    request->status = storage_request_failed(request, code);
    return 1;
}

static int wait_one(struct uring *self, struct ds_storage_request **request, int *result)
{
    struct io_uring_cqe *cqe;
    int code;

    do {
        code = io_uring_wait_cqe(&self->ring, &cqe);
    } while (code == -EINTR);
    if (code != 0)
        return code;
    *request = io_uring_cqe_get_data(cqe);
    *result = cqe->res;
    io_uring_cqe_seen(&self->ring, cqe);
    return 0;
}

static ds_status uring_reap(void *at, struct ds_storage_request **done)
{
    struct uring *self = at;
    struct ds_storage_request *request;
    int result;

    do {
        int code = wait_one(self, &request, &result);

        if (code != 0)
            return ds_fail(DS_ERR_IO, "io_uring wait: %s", strerror(-code));
    } while (!request || !is_over(self, request, result));
    *done = request;
    return DS_OK;
}

const struct ds_storage_ops ds_storage_uring_ops = {
    .name = "io_uring",
    .caps = DS_STORAGE_CAP_ASYNC | DS_STORAGE_CAP_NATIVE,
    .self_bytes = sizeof(struct uring),
    .score = uring_score,
    .open = uring_open,
    .close = uring_close,
    .submit = uring_submit,
    .reap = uring_reap,
};
