/* comm_mpi.c - collectives over MPI, from the main thread alone.
 *
 * Everything is posted without blocking and tested until it is through, so that a peer that does not
 * come is DS_ERR_DEADLINE and not a hang. MPI's own reductions add in an order of their own; here
 * ranks exchange slices and add them in rank order, which gives the bits that shm and threads give.
 * A work is a small state machine: `step` posts the next messages when the last ones are through. */
#include "comm_mpi.h"

#include <string.h>

#define SMALL_BYTES 4096       /* all_reduce: every rank sends all to all and sums everything */
#define TREE_BYTES  (1u << 20) /* all_gather through a tree, where there are many ranks */

struct mpi_work;
typedef ds_status mpi_step_fn(struct mpi_work *work, int *finished);

struct mpi_work {
    struct comm_work base;
    struct mpi_comm *comm;
    mpi_step_fn *step;
    const struct combine *combine;
    const uint8_t *send;
    uint8_t *recv;
    size_t count, elem_bytes;
    enum ds_dtype dtype;
    enum ds_reduce op;
    uint32_t root;
    uint64_t call;  /* the how manieth of this communicator */
    size_t at, now; /* elements that are through, and in this round */
    int stage;      /* of this round */
};

ds_status mpi_check(const struct ds_comm *comm, int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;

    if (code == MPI_SUCCESS)
        return DS_OK;
    MPI_Error_string(code, text, &length);
    return ds_fail(DS_ERR_COMM, "%s group: %s: %s", comm->group, what, text);
}

/* ---- messages */

static int tag_of(const struct mpi_work *work)
{
    return (int)(work->call % MPI_TAG_EXCHANGE);
}

static ds_status post_receive(struct mpi_work *work, uint32_t rank, void *to, size_t bytes)
{
    struct mpi_comm *comm = work->comm;

    return mpi_check(&comm->base,
                     MPI_Irecv(to, (int)bytes, MPI_BYTE, (int)rank, tag_of(work), comm->mpi,
                               &comm->requests[rank]),
                     "MPI_Irecv");
}

static ds_status post_send(struct mpi_work *work, uint32_t rank, const void *from, size_t bytes)
{
    struct mpi_comm *comm = work->comm;

    return mpi_check(&comm->base,
                     MPI_Isend(from, (int)bytes, MPI_BYTE, (int)rank, tag_of(work), comm->mpi,
                               &comm->requests[comm->base.size + rank]),
                     "MPI_Isend");
}

/* The same bytes to all others, and theirs at `recv` + rank * `stride`. */
static ds_status post_gather(struct mpi_work *work, const void *send, uint8_t *recv, size_t stride,
                             size_t bytes)
{
    const struct ds_comm *comm = &work->comm->base;

    for (uint32_t i = 1; i < comm->size; i++) {
        uint32_t rank = (comm->rank + i) % comm->size;

        DS_TRY(post_receive(work, rank, recv + rank * stride, bytes));
        DS_TRY(post_send(work, rank, send, bytes));
    }
    return DS_OK;
}

static int has_trees(const struct mpi_work *work)
{
    return work->comm->base.size > work->comm->direct_ranks_max;
}

static size_t round_elems(const struct mpi_work *work, size_t most)
{
    return work->count - work->at < most ? work->count - work->at : most;
}

/* Elements of one rank that fit beside those of the others; a multiple of 16, as slices are. */
static size_t staging_elems(const struct mpi_work *work)
{
    return work->comm->staging_bytes / work->comm->base.size / work->elem_bytes / 16 * 16;
}

static void combine_staged(struct mpi_work *work, void *to, const void *own, size_t stride,
                           size_t count)
{
    struct combine_parts parts = {.base = work->comm->staging,
                                  .stride = stride * work->elem_bytes,
                                  .own = own,
                                  .own_rank = work->comm->base.rank,
                                  .rank_count = work->comm->base.size};

    combine_ranks(work->combine, to, &parts, count);
}

/* ---- steps */

static ds_status small_reduce_step(struct mpi_work *work, int *finished)
{
    struct mpi_comm *comm = work->comm;
    size_t bytes = work->count * work->elem_bytes;

    if (work->stage++ == 0) {
        if (has_trees(work))
            return mpi_check(&comm->base,
                             MPI_Iallgather(work->recv, (int)bytes, MPI_BYTE, comm->staging,
                                            (int)bytes, MPI_BYTE, comm->mpi, &comm->requests[0]),
                             "MPI_Iallgather");
        return post_gather(work, work->recv, comm->staging, bytes, bytes);
    }
    combine_staged(work, work->recv, work->recv, work->count, work->count);
    *finished = 1;
    return DS_OK;
}

/* Each rank sends slice i of the round to rank i. */
static ds_status post_slices(struct mpi_work *work, const uint8_t *data, struct ds_span own)
{
    const struct ds_comm *comm = &work->comm->base;
    size_t stride = staging_elems(work) * work->elem_bytes;

    for (uint32_t i = 1; i < comm->size; i++) {
        uint32_t rank = (comm->rank + i) % comm->size;
        struct ds_span slice = combine_slice(work->now, comm->size, rank);

        if (own.count > 0)
            DS_TRY(post_receive(work, rank, work->comm->staging + rank * stride,
                                own.count * work->elem_bytes));
        if (slice.count > 0)
            DS_TRY(post_send(work, rank, data + slice.start * work->elem_bytes,
                             slice.count * work->elem_bytes));
    }
    return DS_OK;
}

static ds_status post_sums(struct mpi_work *work, uint8_t *data, struct ds_span own)
{
    const struct ds_comm *comm = &work->comm->base;

    for (uint32_t i = 1; i < comm->size; i++) {
        uint32_t rank = (comm->rank + i) % comm->size;
        struct ds_span slice = combine_slice(work->now, comm->size, rank);

        if (slice.count > 0)
            DS_TRY(post_receive(work, rank, data + slice.start * work->elem_bytes,
                                slice.count * work->elem_bytes));
        if (own.count > 0)
            DS_TRY(post_send(work, rank, data + own.start * work->elem_bytes,
                             own.count * work->elem_bytes));
    }
    return DS_OK;
}

static ds_status reduce_step(struct mpi_work *work, int *finished)
{
    const struct ds_comm *comm = &work->comm->base;
    uint8_t *data = work->recv + work->at * work->elem_bytes;
    struct ds_span own;

    work->now = round_elems(work, staging_elems(work) * comm->size);
    own = combine_slice(work->now, comm->size, comm->rank);
    switch (work->stage++) {
    case 0:
        return post_slices(work, data, own);
    case 1: {
        uint8_t *sum = data + own.start * work->elem_bytes;

        combine_staged(work, sum, sum, staging_elems(work), own.count);
        return post_sums(work, data, own);
    }
    default:
        work->at += work->now;
        work->stage = 0;
        *finished = work->at == work->count;
        return DS_OK;
    }
}

static ds_status tree_reduce_step(struct mpi_work *work, int *finished)
{
    struct mpi_comm *comm = work->comm;
    const MPI_Datatype type = work->dtype == DS_I32   ? MPI_INT32_T
                              : work->dtype == DS_I64 ? MPI_INT64_T
                                                      : MPI_UINT64_T;
    const MPI_Op op = work->op == DS_REDUCE_SUM   ? MPI_SUM
                      : work->op == DS_REDUCE_MAX ? MPI_MAX
                                                  : MPI_MIN;
    uint8_t *data = work->recv + work->at * work->elem_bytes;

    *finished = work->at == work->count;
    if (*finished)
        return DS_OK;
    work->now = round_elems(work, work->comm->message_bytes / work->elem_bytes);
    work->at += work->now;
    return mpi_check(
        &comm->base,
        MPI_Iallreduce(MPI_IN_PLACE, data, (int)work->now, type, op, comm->mpi, &comm->requests[0]),
        "MPI_Iallreduce");
}

static ds_status scatter_step(struct mpi_work *work, int *finished)
{
    const struct ds_comm *comm = &work->comm->base;
    const size_t stride = staging_elems(work);

    work->now = round_elems(work, stride);
    if (work->stage == 1) {
        size_t own = (comm->rank * work->count + work->at) * work->elem_bytes;

        combine_staged(work, work->recv + work->at * work->elem_bytes, work->send + own, stride,
                       work->now);
        work->at += work->now;
        work->stage = 0;
        *finished = work->at == work->count;
        return DS_OK;
    }
    work->stage = 1;
    for (uint32_t i = 1; i < comm->size; i++) {
        uint32_t rank = (comm->rank + i) % comm->size;
        size_t from = (rank * work->count + work->at) * work->elem_bytes;

        DS_TRY(post_receive(work, rank, work->comm->staging + rank * stride * work->elem_bytes,
                            work->now * work->elem_bytes));
        DS_TRY(post_send(work, rank, work->send + from, work->now * work->elem_bytes));
    }
    return DS_OK;
}

static ds_status gather_step(struct mpi_work *work, int *finished)
{
    struct mpi_comm *comm = work->comm;
    const size_t bytes = work->count * work->elem_bytes;
    const size_t at = work->at * work->elem_bytes;

    *finished = work->at == work->count;
    if (*finished)
        return DS_OK;
    if (work->at == 0 && work->recv + comm->base.rank * bytes != work->send)
        memcpy(work->recv + comm->base.rank * bytes, work->send, bytes);
    work->now = round_elems(work, work->comm->message_bytes / work->elem_bytes);
    work->at += work->now;
    if (has_trees(work) && bytes <= TREE_BYTES && work->now == work->count)
        return mpi_check(&comm->base,
                         MPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, work->recv, (int)bytes, MPI_BYTE,
                                        comm->mpi, &comm->requests[0]),
                         "MPI_Iallgather");
    return post_gather(work, work->send + at, work->recv + at, bytes, work->now * work->elem_bytes);
}

static ds_status broadcast_step(struct mpi_work *work, int *finished)
{
    struct mpi_comm *comm = work->comm;
    uint8_t *data = work->recv + work->at;

    *finished = work->at == work->count;
    if (*finished)
        return DS_OK;
    work->now = round_elems(work, work->comm->message_bytes);
    work->at += work->now;
    if (has_trees(work))
        return mpi_check(&comm->base,
                         MPI_Ibcast(data, (int)work->now, MPI_BYTE, (int)work->root, comm->mpi,
                                    &comm->requests[0]),
                         "MPI_Ibcast");
    if (comm->base.rank != work->root)
        return post_receive(work, work->root, data, work->now);
    for (uint32_t rank = 0; rank < comm->base.size; rank++)
        if (rank != work->root)
            DS_TRY(post_send(work, rank, data, work->now));
    return DS_OK;
}

static ds_status barrier_step(struct mpi_work *work, int *finished)
{
    struct mpi_comm *comm = work->comm;

    *finished = work->stage++ > 0;
    if (*finished)
        return DS_OK;
    if (has_trees(work))
        return mpi_check(&comm->base, MPI_Ibarrier(comm->mpi, &comm->requests[0]), "MPI_Ibarrier");
    return post_gather(work, NULL, NULL, 0, 0);
}

/* ---- the state machine */

static int is_pending(MPI_Request request)
{
    int flag = 1;

    if (request != MPI_REQUEST_NULL)
        MPI_Request_get_status(request, &flag, MPI_STATUS_IGNORE);
    return !flag;
}

static ds_status stalled(struct mpi_work *work)
{
    struct mpi_comm *comm = work->comm;
    struct comm_names missing = {0};

    if (atomic_load_explicit(&comm->job->shared->poisoned, memory_order_acquire))
        return DS_ERR_COMM; /* who poisoned has said why */
    if (!comm_is_late(&comm->base, &work->base))
        return DS_OK;
    for (uint32_t rank = 0; rank < comm->base.size && !has_trees(work); rank++)
        if (is_pending(comm->requests[rank]) || is_pending(comm->requests[comm->base.size + rank]))
            comm_names_add(&missing, rank);
    return comm_fail_late(&comm->base, &work->base, &missing);
}

static ds_status advance(struct mpi_work *work, int *done)
{
    struct mpi_comm *comm = work->comm;
    int is_through = 0;

    while (!*done) {
        DS_TRY(mpi_check(&comm->base,
                         MPI_Testall((int)(2 * comm->base.size), comm->requests, &is_through,
                                     MPI_STATUSES_IGNORE),
                         work->base.call));
        if (!is_through)
            return stalled(work);
        work->base.progress++;
        DS_TRY(work->step(work, done));
    }
    comm->done_calls++;
    return DS_OK;
}

static ds_status mpi_poll(void *args, int *done)
{
    struct mpi_work *work = args;
    struct mpi_comm *comm = work->comm;
    ds_status st = DS_ERR_COMM; /* quiet: who broke the group has spoken */

    *done = 0;
    if (work->base.started_ns == 0)
        work->base.started_ns = ds_clock_mono_ns(comm->base.clock);
    if (!comm->has_failed) {
        if (comm->done_calls != work->call)
            st = stalled(work); /* an earlier call, on another stream, is not through */
        else
            st = advance(work, done);
    }
    if (st != DS_OK) {
        comm->has_failed = 1;
        comm->job->is_broken = 1;
        *done = 1;
    }
    return st;
}

static ds_status mpi_start(struct ds_comm *base, const char *call, struct mpi_work *work,
                           struct ds_stream *stream)
{
    work->comm = (struct mpi_comm *)base;
    work->base.call = call;
    work->call = work->comm->next_call++;
    return comm_submit(base, stream, mpi_poll, &work->base, sizeof *work);
}

/* ---- the calls */

static mpi_step_fn *reduce_path(const struct mpi_comm *comm, size_t bytes, enum ds_dtype dtype)
{
    const int is_integer = dtype == DS_I32 || dtype == DS_I64 || dtype == DS_U64;

    if (is_integer && comm->base.size > comm->direct_ranks_max)
        return tree_reduce_step;
    if (bytes <= SMALL_BYTES && bytes * comm->base.size <= comm->staging_bytes)
        return small_reduce_step;
    return reduce_step;
}

static ds_status mpi_all_reduce(struct ds_comm *comm, void *data, size_t count, enum ds_dtype dtype,
                                enum ds_reduce op, struct ds_stream *stream)
{
    size_t elem_bytes = ds_dtype_bytes(dtype);
    struct mpi_work work = {
        .step = reduce_path((struct mpi_comm *)comm, count * elem_bytes, dtype),
        .combine = combine_find(dtype, op),
        .recv = data,
        .count = count,
        .elem_bytes = elem_bytes,
        .dtype = dtype,
        .op = op,
    };

    return mpi_start(comm, "all_reduce", &work, stream);
}

static ds_status mpi_all_gather(struct ds_comm *comm, const void *send, void *recv, size_t count,
                                enum ds_dtype dtype, struct ds_stream *stream)
{
    struct mpi_work work = {.step = gather_step,
                            .send = send,
                            .recv = recv,
                            .count = count,
                            .elem_bytes = ds_dtype_bytes(dtype)};

    return mpi_start(comm, "all_gather", &work, stream);
}

static ds_status mpi_reduce_scatter(struct ds_comm *comm, const void *send, void *recv,
                                    size_t count, enum ds_dtype dtype, struct ds_stream *stream)
{
    struct mpi_work work = {.step = scatter_step,
                            .combine = combine_find(dtype, DS_REDUCE_SUM),
                            .send = send,
                            .recv = recv,
                            .count = count,
                            .elem_bytes = ds_dtype_bytes(dtype)};

    return mpi_start(comm, "reduce_scatter", &work, stream);
}

static ds_status mpi_broadcast(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                               struct ds_stream *stream)
{
    struct mpi_work work = {
        .step = broadcast_step, .recv = data, .count = bytes, .elem_bytes = 1, .root = root};

    return mpi_start(comm, "broadcast", &work, stream);
}

static ds_status mpi_barrier(struct ds_comm *comm)
{
    struct mpi_work work = {.step = barrier_step};

    return mpi_start(comm, "barrier", &work, NULL);
}

static void mpi_poison(struct ds_comm *comm)
{
    atomic_store_explicit(&((struct mpi_comm *)comm)->job->shared->poisoned, 1,
                          memory_order_release);
}

const struct ds_comm_ops mpi_ops = {
    .name = "mpi",
    .caps = 0, /* MPI is called by the main thread */
    .all_reduce = mpi_all_reduce,
    .all_gather = mpi_all_gather,
    .reduce_scatter = mpi_reduce_scatter,
    .broadcast = mpi_broadcast,
    .barrier = mpi_barrier,
    .exchange = mpi_exchange,
    .split = mpi_split,
    .open_data = mpi_open_data,
    .poison = mpi_poison,
    .close = mpi_close,
};
