/* shared_exchange.c - messages between ranks that share memory: a poll gives every message a chunk's
 * worth of progress as long as there is any, so both directions and all peers go on at the same time.
 * A send is through when its last chunk lies in the box, so small ones do not wait for their receiver.
 * Like the collectives: polled by whoever drives it, and never waiting inside. */
#include "shared.h"

#include <string.h>

struct exchange_part {
    uint8_t *at;
    uint64_t left;
    uint32_t peer;
    uint8_t is_send, is_through;
};

struct exchange_work {
    struct comm_work base;
    struct shared_comm *comm;
    uint64_t call;
    uint32_t count, through_count;
    struct exchange_part parts[DS_MESSAGES_MAX];
};

static size_t chunk_of_part(const struct shared_segment *segment, const struct exchange_part *part)
{
    return part->left < segment->chunk_bytes ? (size_t)part->left : segment->chunk_bytes;
}

static void pass_chunk(struct exchange_work *work, struct exchange_part *part, size_t bytes)
{
    part->at += bytes;
    part->left -= bytes;
    part->is_through = part->left == 0;
    work->through_count += part->is_through;
}

static ds_status fail_sizes(const struct ds_comm *comm, uint32_t from, uint64_t sent, uint32_t to,
                            uint64_t wanted)
{
    return ds_fail(DS_ERR_COMM,
                   "%s group: exchange: rank %u sends %llu bytes, rank %u expects %llu",
                   comm->group, from, (unsigned long long)sent, to, (unsigned long long)wanted);
}

/* 1: a chunk went into the box */
static int try_send(struct exchange_work *work, struct exchange_part *part, ds_status *st)
{
    const struct ds_comm *comm = &work->comm->base;
    struct shared_segment *segment = work->comm->segment;
    struct shared_box *box = shared_box_of(segment, comm->rank, part->peer);
    const uint64_t chunk = atomic_load_explicit(&box->sent, memory_order_relaxed);
    const size_t bytes = chunk_of_part(segment, part);

    if (atomic_load_explicit(&box->refused, memory_order_acquire)) {
        *st = fail_sizes(comm, comm->rank, box->refused_sent, part->peer, box->refused_wanted);
        return 0;
    }
    if (chunk - atomic_load_explicit(&box->taken, memory_order_acquire) == SHARED_BOX_CHUNKS)
        return 0;
    if (bytes > 0)
        memcpy(shared_chunk_of(segment, comm->rank, part->peer, chunk), part->at, bytes);
    box->left[chunk % SHARED_BOX_CHUNKS] = part->left;
    atomic_store_explicit(&box->sent, chunk + 1, memory_order_release);
    pass_chunk(work, part, bytes);
    return 1;
}

/* The sender hears of it, too, if it still waits. */
static ds_status refuse(const struct ds_comm *comm, struct shared_box *box, uint32_t from,
                        uint64_t sent, uint64_t wanted)
{
    box->refused_sent = sent;
    box->refused_wanted = wanted;
    atomic_store_explicit(&box->refused, 1, memory_order_release);
    return fail_sizes(comm, from, sent, comm->rank, wanted);
}

/* 1: a chunk was taken from the box */
static int try_receive(struct exchange_work *work, struct exchange_part *part, ds_status *st)
{
    const struct ds_comm *comm = &work->comm->base;
    struct shared_segment *segment = work->comm->segment;
    struct shared_box *box = shared_box_of(segment, part->peer, comm->rank);
    const uint64_t chunk = atomic_load_explicit(&box->taken, memory_order_relaxed);
    const size_t bytes = chunk_of_part(segment, part);

    if (atomic_load_explicit(&box->sent, memory_order_acquire) == chunk)
        return 0;
    if (box->left[chunk % SHARED_BOX_CHUNKS] != part->left) {
        *st = refuse(comm, box, part->peer, box->left[chunk % SHARED_BOX_CHUNKS], part->left);
        return 0;
    }
    if (bytes > 0)
        memcpy(part->at, shared_chunk_of(segment, part->peer, comm->rank, chunk), bytes);
    atomic_store_explicit(&box->taken, chunk + 1, memory_order_release);
    pass_chunk(work, part, bytes);
    return 1;
}

/* Messages of a pair and direction share a box: they go one after the other. */
static int is_next(const struct exchange_work *work, uint32_t index)
{
    const struct exchange_part *part = &work->parts[index];

    if (part->is_through)
        return 0;
    for (uint32_t i = 0; i < index; i++)
        if (!work->parts[i].is_through && work->parts[i].peer == part->peer &&
            work->parts[i].is_send == part->is_send)
            return 0;
    return 1;
}

/* A chunk of every message that can go on. 0: none can. */
static int pass_round(struct exchange_work *work, ds_status *st)
{
    int moved = 0;

    for (uint32_t i = 0; i < work->count && *st == DS_OK; i++)
        if (is_next(work, i))
            moved |= (work->parts[i].is_send ? try_send : try_receive)(work, &work->parts[i], st);
    return moved;
}

static int waits_for(const struct exchange_work *work, uint32_t rank)
{
    for (uint32_t i = 0; i < work->count; i++)
        if (!work->parts[i].is_through && work->parts[i].peer == rank)
            return 1;
    return 0;
}

static ds_status stalled(const struct exchange_work *work)
{
    struct ds_comm *comm = &work->comm->base;
    struct comm_names missing = {0};

    if (atomic_load_explicit(&work->comm->job->poisoned, memory_order_acquire))
        return DS_ERR_COMM; /* who poisoned has said why */
    if (!comm_is_late(comm, &work->base))
        return DS_OK;
    for (uint32_t rank = 0; rank < comm->size; rank++)
        if (waits_for(work, rank))
            comm_names_add(&missing, rank);
    return comm_fail_late(comm, &work->base, &missing);
}

static ds_status advance(struct exchange_work *work)
{
    ds_status st = DS_OK;
    uint32_t turns_left = 0;

    while (st == DS_OK && work->through_count < work->count) {
        if (pass_round(work, &st)) {
            work->base.progress++;
            turns_left = SHARED_POLL_YIELDS;
        } else if (st == DS_OK) {
            if (turns_left-- == 0 || work->base.is_crowded)
                return stalled(work);
            comm_yield(&work->comm->base, &work->base);
        }
    }
    return st;
}

static ds_status exchange_poll(void *args, int *done)
{
    struct exchange_work *work = args;
    struct shared_comm *comm = work->comm;
    ds_status st = DS_ERR_COMM; /* quiet: who broke the group has spoken */

    if (work->base.started_ns == 0)
        work->base.started_ns = ds_clock_mono_ns(comm->base.clock);
    if (!atomic_load_explicit(&comm->has_failed, memory_order_acquire)) {
        if (atomic_load_explicit(&comm->done_exchanges, memory_order_acquire) != work->call)
            st = stalled(work); /* an earlier call, on another stream, is not through */
        else
            st = advance(work);
    }
    *done = st != DS_OK || work->through_count == work->count;
    if (st != DS_OK)
        atomic_store_explicit(&comm->has_failed, 1, memory_order_release);
    else if (*done)
        atomic_store_explicit(&comm->done_exchanges, work->call + 1, memory_order_release);
    return st;
}

ds_status shared_exchange(struct ds_comm *base, const struct ds_message *messages, uint32_t count,
                          struct ds_stream *stream)
{
    struct shared_comm *comm = (struct shared_comm *)base;
    struct exchange_work work = {
        .base = {.call = "exchange"}, .comm = comm, .call = comm->next_exchange++, .count = count};

    for (uint32_t i = 0; i < count; i++)
        work.parts[i] = (struct exchange_part){.at = messages[i].data,
                                               .left = messages[i].bytes,
                                               .peer = messages[i].peer,
                                               .is_send = messages[i].is_send != 0};
    return comm_submit(base, stream, exchange_poll, &work.base, sizeof work);
}
