/* mpi_exchange.c - grouped messages over MPI, from the main thread alone.
 *
 * Ahead of each message goes its size, under a tag of its own; the receiver asks for the message when
 * it has seen that the sizes agree, so MPI never has to cut one short. All that may be under way is
 * under way: a message that is cut is followed by those behind it, of its pair and direction, when its
 * last part is posted, which is the order in which MPI matches. */
#include "comm_mpi.h"

struct exchange_part {
    uint8_t *at;
    uint64_t left;
    uint32_t peer;
    uint8_t is_send, is_agreed; /* agreed: the size has been sent, or has come */
};

struct exchange_work {
    struct comm_work base;
    struct mpi_comm *comm;
    uint64_t call;
    uint32_t count;
    int is_begun;
    struct exchange_part parts[DS_MESSAGES_MAX];
};

static int is_under_way(const struct exchange_work *work, uint32_t index)
{
    return work->comm->exchange_requests[DS_MESSAGES_MAX + index] != MPI_REQUEST_NULL;
}

static size_t cut_bytes(const struct exchange_work *work, const struct exchange_part *part)
{
    return part->left < work->comm->message_bytes ? (size_t)part->left : work->comm->message_bytes;
}

static ds_status post(struct mpi_comm *comm, const struct exchange_part *part, void *data,
                      size_t bytes, int tag, uint32_t request)
{
    const int count = (int)bytes, peer = (int)part->peer;
    MPI_Request *const at = &comm->exchange_requests[request];

    DS_ASSERT(*at == MPI_REQUEST_NULL);
    if (part->is_send)
        return mpi_check(&comm->base, MPI_Isend(data, count, MPI_BYTE, peer, tag, comm->mpi, at),
                         "MPI_Isend");
    return mpi_check(&comm->base, MPI_Irecv(data, count, MPI_BYTE, peer, tag, comm->mpi, at),
                     "MPI_Irecv");
}

static ds_status post_sizes(struct exchange_work *work)
{
    struct mpi_comm *comm = work->comm;

    work->is_begun = 1;
    for (uint32_t i = 0; i < work->count; i++) {
        comm->exchange_bytes[i] = work->parts[i].left;
        DS_TRY(post(comm, &work->parts[i], &comm->exchange_bytes[i], sizeof comm->exchange_bytes[i],
                    MPI_TAG_EXCHANGE_BYTES, i));
    }
    return DS_OK;
}

static int is_posted_to_its_end(const struct exchange_work *work, uint32_t index)
{
    const struct exchange_part *part = &work->parts[index];

    return part->left == (is_under_way(work, index) ? cut_bytes(work, part) : 0);
}

static int may_post(const struct exchange_work *work, uint32_t index)
{
    const struct exchange_part *part = &work->parts[index];

    if (part->left == 0 || is_under_way(work, index))
        return 0;
    if (!part->is_send && !part->is_agreed)
        return 0;
    for (uint32_t i = 0; i < index; i++)
        if (work->parts[i].peer == part->peer && work->parts[i].is_send == part->is_send &&
            !is_posted_to_its_end(work, i))
            return 0;
    return 1;
}

static ds_status post_data(struct exchange_work *work)
{
    for (uint32_t i = 0; i < work->count; i++)
        if (may_post(work, i))
            DS_TRY(post(work->comm, &work->parts[i], work->parts[i].at,
                        cut_bytes(work, &work->parts[i]), MPI_TAG_EXCHANGE, DS_MESSAGES_MAX + i));
    return DS_OK;
}

static ds_status agree_size(struct exchange_work *work, uint32_t index)
{
    const struct ds_comm *comm = &work->comm->base;
    struct exchange_part *part = &work->parts[index];
    const uint64_t sent = work->comm->exchange_bytes[index];

    part->is_agreed = 1;
    if (sent == part->left || part->is_send)
        return DS_OK;
    return ds_fail(DS_ERR_COMM,
                   "%s group: exchange: rank %u sends %llu bytes, rank %u expects %llu",
                   comm->group, part->peer, (unsigned long long)sent, comm->rank,
                   (unsigned long long)part->left);
}

static void pass_cut(struct exchange_work *work, uint32_t index)
{
    struct exchange_part *part = &work->parts[index];
    size_t bytes = cut_bytes(work, part);

    part->at += bytes;
    part->left -= bytes;
}

/* What MPI has brought to an end since the last look. */
static ds_status see_ends(struct exchange_work *work, int *end_count)
{
    struct mpi_comm *comm = work->comm;
    int ended[2 * DS_MESSAGES_MAX];
    MPI_Status statuses[2 * DS_MESSAGES_MAX];
    int code =
        MPI_Testsome(2 * DS_MESSAGES_MAX, comm->exchange_requests, end_count, ended, statuses);

    if (code == MPI_ERR_IN_STATUS)
        for (int i = 0; i < *end_count; i++)
            DS_TRY(mpi_check(&comm->base, statuses[i].MPI_ERROR, "exchange"));
    DS_TRY(mpi_check(&comm->base, code, "MPI_Testsome"));
    if (*end_count == MPI_UNDEFINED)
        *end_count = 0;
    for (int i = 0; i < *end_count; i++) {
        if (ended[i] < DS_MESSAGES_MAX)
            DS_TRY(agree_size(work, (uint32_t)ended[i]));
        else
            pass_cut(work, (uint32_t)ended[i] - DS_MESSAGES_MAX);
    }
    return DS_OK;
}

static int is_open(const struct exchange_part *part)
{
    return part->left > 0 || !part->is_agreed;
}

static int waits_for(const struct exchange_work *work, uint32_t rank)
{
    for (uint32_t i = 0; i < work->count; i++)
        if (is_open(&work->parts[i]) && work->parts[i].peer == rank)
            return 1;
    return 0;
}

static ds_status stalled(const struct exchange_work *work)
{
    struct ds_comm *comm = &work->comm->base;
    struct comm_names missing = {0};

    if (atomic_load_explicit(&work->comm->job->shared->poisoned, memory_order_acquire))
        return DS_ERR_COMM; /* who poisoned has said why */
    if (!comm_is_late(comm, &work->base))
        return DS_OK;
    for (uint32_t rank = 0; rank < comm->size; rank++)
        if (waits_for(work, rank))
            comm_names_add(&missing, rank);
    return comm_fail_late(comm, &work->base, &missing);
}

static ds_status advance(struct exchange_work *work, int *done)
{
    int end_count = 0;

    if (!work->is_begun)
        DS_TRY(post_sizes(work));
    for (;;) {
        DS_TRY(post_data(work));
        DS_TRY(see_ends(work, &end_count));
        *done = 1;
        for (uint32_t i = 0; i < work->count; i++)
            *done &= !is_open(&work->parts[i]);
        if (*done)
            return DS_OK;
        if (end_count == 0)
            return stalled(work);
        work->base.progress++;
    }
}

static ds_status exchange_poll(void *args, int *done)
{
    struct exchange_work *work = args;
    struct mpi_comm *comm = work->comm;
    ds_status st = DS_ERR_COMM; /* quiet: who broke the group has spoken */

    *done = 0;
    if (work->base.started_ns == 0)
        work->base.started_ns = ds_clock_mono_ns(comm->base.clock);
    if (!comm->has_failed) {
        if (comm->done_exchanges != work->call)
            st = stalled(work); /* an earlier call, on another stream, is not through */
        else
            st = advance(work, done);
    }
    if (st != DS_OK) {
        comm->has_failed = 1;
        comm->job->is_broken = 1;
        *done = 1;
    } else if (*done) {
        comm->done_exchanges++;
    }
    return st;
}

ds_status mpi_exchange(struct ds_comm *base, const struct ds_message *messages, uint32_t count,
                       struct ds_stream *stream)
{
    struct mpi_comm *comm = (struct mpi_comm *)base;
    struct exchange_work work = {
        .base = {.call = "exchange"}, .comm = comm, .call = comm->next_exchange++, .count = count};

    for (uint32_t i = 0; i < count; i++)
        work.parts[i] = (struct exchange_part){.at = messages[i].data,
                                               .left = messages[i].bytes,
                                               .peer = messages[i].peer,
                                               .is_send = messages[i].is_send != 0};
    return comm_submit(base, stream, exchange_poll, &work.base, sizeof work);
}
