/* shared.c - the one algorithm of shm and threads: a state machine that is polled and never waits.
 *
 * Who polls is not its business: a worker thread, the main thread inside a device's wait, or the loop
 * of a blocking call. A work keeps its state in its own copy; the communicator is only read, but for
 * `has_failed`. Works of one communicator run in the order of the calls, on whatever streams. */
#include "shared.h"

#include <string.h>

/* all_reduce up to here: every rank sums everything itself, which saves the second wait. */
#define SMALL_BYTES 4096
/* Calls of at least this many bytes may write past the cache: results that nobody finds there later, and
 * slots where that is faster. */
#define LARGE_BYTES (8u << 20)

struct shared_work;
typedef void round_fn(const struct shared_work *work, uint64_t round);

struct shared_kind {
    const char *name;
    uint64_t id;
    round_fn *post, *mix;
    round_fn *take; /* NULL: a round ends with mix */
};

struct shared_work {
    struct comm_work base;
    struct shared_comm *comm;
    const struct shared_kind *kind;
    const struct combine *combine;
    const uint8_t *send;
    uint8_t *recv;
    size_t count,
        piece; /* elements: of the call (of one rank, if ranks have parts) and of a round */
    size_t elem_bytes;
    uint32_t root;
    uint64_t first_round, round_count;
    uint64_t posted, mixed, done; /* rounds of this work */
    struct trial trial;           /* of is_past_cache */
};

/* ---- where things are */

static struct shared_line *line_of(const struct shared_comm *comm, uint32_t rank)
{
    return &comm->segment->lines[rank];
}

static size_t slot_stride(const struct shared_comm *comm)
{
    return SHARED_SLOTS * comm->segment->slot_bytes;
}

/* Rank 0's slot of a round; the other ranks' are slot_stride apart. */
static uint8_t *first_slot(const struct shared_work *work, uint64_t round)
{
    size_t index = (size_t)((work->first_round + round) % SHARED_SLOTS);

    return work->comm->slots + index * work->comm->segment->slot_bytes;
}

static uint8_t *slot_of(const struct shared_work *work, uint64_t round, uint32_t rank)
{
    return first_slot(work, round) + rank * slot_stride(work->comm);
}

static size_t round_start(const struct shared_work *work, uint64_t round)
{
    return (size_t)round * work->piece;
}

static size_t round_elems(const struct shared_work *work, uint64_t round)
{
    size_t left = work->count - round_start(work, round);

    return left < work->piece ? left : work->piece;
}

/* ---- in the cache or past it */

static int is_large(const struct shared_work *work)
{
    return work->count * work->elem_bytes >= LARGE_BYTES;
}

static void copy_result(const struct shared_work *work, void *to, const void *from, size_t bytes)
{
    if (is_large(work))
        copy_past_cache(to, from, bytes);
    else
        memcpy(to, from, bytes);
}

/* To fetch a slot that lies changed in another core's cache takes up to three times as long as from memory
 * where the cores share no cache, and less than from memory where they do (tests/bench/RESULTS.md, "The
 * two cores"). What the machine says of its caches is no help where it is virtual: its cores move while it
 * runs. So each large call tries both. Who reads pays, so what counts is the sum over the ranks; until all
 * have told theirs, it is that of an earlier call. Ranks may differ in their choice: it changes no bit. */
static int is_past_cache(const struct shared_work *work, uint64_t round)
{
    uint64_t sum_ns[TRIAL_WAYS] = {0};

    if (!is_large(work))
        return 0;
    if (round < TRIAL_ROUNDS)
        return (int)trial_way(round);
    for (uint32_t rank = 0; rank < work->comm->base.size; rank++)
        for (unsigned way = 0; way < TRIAL_WAYS; way++)
            sum_ns[way] += atomic_load_explicit(&line_of(work->comm, rank)->tried_ns[way],
                                                memory_order_relaxed);
    return (int)trial_best(sum_ns);
}

static void copy_to_slot(const struct shared_work *work, uint64_t round, void *to, const void *from,
                         size_t bytes)
{
    if (is_past_cache(work, round))
        copy_past_cache(to, from, bytes);
    else
        memcpy(to, from, bytes);
}

/* ---- all_reduce: slice i of the piece is summed by rank i, into its own slot */

static void reduce_post(const struct shared_work *work, uint64_t round)
{
    const uint32_t rank = work->comm->base.rank;
    struct ds_span own = combine_slice(round_elems(work, round), work->comm->base.size, rank);
    const uint8_t *piece = work->recv + round_start(work, round) * work->elem_bytes;
    uint8_t *slot = slot_of(work, round, rank);
    size_t head = own.start * work->elem_bytes;
    size_t tail = (own.start + own.count) * work->elem_bytes;

    copy_to_slot(work, round, slot, piece, head); /* nobody else reads our slice */
    copy_to_slot(work, round, slot + tail, piece + tail,
                 round_elems(work, round) * work->elem_bytes - tail);
}

static void reduce_mix(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    struct ds_span own = combine_slice(round_elems(work, round), comm->size, comm->rank);
    size_t start = own.start * work->elem_bytes;
    const uint8_t *piece = work->recv + round_start(work, round) * work->elem_bytes;
    struct combine_parts parts = {.base = first_slot(work, round) + start,
                                  .stride = slot_stride(work->comm),
                                  .own = piece + start,
                                  .own_rank = comm->rank,
                                  .rank_count = comm->size};

    combine_ranks(work->combine, slot_of(work, round, comm->rank) + start, &parts, own.count);
}

static void reduce_take(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    uint8_t *piece = work->recv + round_start(work, round) * work->elem_bytes;

    for (uint32_t i = 0; i < comm->size; i++) {
        uint32_t rank = (comm->rank + i) % comm->size; /* not all from the same one at once */
        struct ds_span part = combine_slice(round_elems(work, round), comm->size, rank);
        size_t start = part.start * work->elem_bytes;

        memcpy(piece + start, slot_of(work, round, rank) + start, part.count * work->elem_bytes);
    }
}

/* ---- the same for a few bytes: everybody sums all of it */

static void small_post(const struct shared_work *work, uint64_t round)
{
    memcpy(slot_of(work, round, work->comm->base.rank), work->recv, work->count * work->elem_bytes);
}

static void small_mix(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    struct combine_parts parts = {.base = first_slot(work, round),
                                  .stride = slot_stride(work->comm),
                                  .own = work->recv,
                                  .own_rank = comm->rank,
                                  .rank_count = comm->size};

    combine_ranks(work->combine, work->recv, &parts, work->count);
}

/* ---- reduce_scatter: a slot holds a piece for every rank; we sum ours straight into the result */

static void scatter_post(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    size_t bytes = round_elems(work, round) * work->elem_bytes;
    uint8_t *slot = slot_of(work, round, comm->rank);

    for (uint32_t rank = 0; rank < comm->size; rank++) {
        size_t from = (rank * work->count + round_start(work, round)) * work->elem_bytes;

        if (rank != comm->rank)
            copy_to_slot(work, round, slot + rank * work->piece * work->elem_bytes,
                         work->send + from, bytes);
    }
}

static void scatter_mix(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    size_t start = round_start(work, round);
    struct combine_parts parts = {
        .base = first_slot(work, round) + comm->rank * work->piece * work->elem_bytes,
        .stride = slot_stride(work->comm),
        .own = work->send + (comm->rank * work->count + start) * work->elem_bytes,
        .own_rank = comm->rank,
        .rank_count = comm->size};

    combine_ranks(work->combine, work->recv + start * work->elem_bytes, &parts,
                  round_elems(work, round));
}

/* ---- all_gather */

static void gather_post(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    size_t start = round_start(work, round) * work->elem_bytes;
    size_t bytes = round_elems(work, round) * work->elem_bytes;
    uint8_t *own = work->recv + comm->rank * work->count * work->elem_bytes + start;

    copy_to_slot(work, round, slot_of(work, round, comm->rank), work->send + start, bytes);
    if (own != work->send + start)
        copy_result(work, own, work->send + start, bytes);
}

static void gather_mix(const struct shared_work *work, uint64_t round)
{
    const struct ds_comm *comm = &work->comm->base;
    size_t start = round_start(work, round) * work->elem_bytes;
    size_t bytes = round_elems(work, round) * work->elem_bytes;

    for (uint32_t i = 1; i < comm->size; i++) {
        uint32_t rank = (comm->rank + i) % comm->size;
        uint8_t *to = work->recv + rank * work->count * work->elem_bytes + start;

        copy_result(work, to, slot_of(work, round, rank), bytes);
    }
}

/* ---- broadcast and barrier */

static void broadcast_post(const struct shared_work *work, uint64_t round)
{
    const uint32_t rank = work->comm->base.rank;

    if (rank == work->root)
        copy_to_slot(work, round, slot_of(work, round, rank), work->send + round_start(work, round),
                     round_elems(work, round));
}

static void broadcast_mix(const struct shared_work *work, uint64_t round)
{
    if (work->comm->base.rank != work->root)
        memcpy(work->recv + round_start(work, round), slot_of(work, round, work->root),
               round_elems(work, round));
}

static void barrier_round(const struct shared_work *work, uint64_t round)
{
    (void)work;
    (void)round;
}

static const struct shared_kind kind_reduce = {"all_reduce", 1, reduce_post, reduce_mix,
                                               reduce_take};
static const struct shared_kind kind_small = {"all_reduce", 2, small_post, small_mix, NULL};
static const struct shared_kind kind_scatter = {"reduce_scatter", 3, scatter_post, scatter_mix,
                                                NULL};
static const struct shared_kind kind_gather = {"all_gather", 4, gather_post, gather_mix, NULL};
static const struct shared_kind kind_broadcast = {"broadcast", 5, broadcast_post, broadcast_mix,
                                                  NULL};
static const struct shared_kind kind_barrier = {"barrier", 6, barrier_round, barrier_round, NULL};

/* ---- the state machine */

enum shared_counter { POSTED, MIXED, DONE };

static uint64_t counter_of(const struct shared_comm *comm, uint32_t rank, enum shared_counter which)
{
    struct shared_line *line = line_of(comm, rank);
    _Atomic uint64_t *counter = which == POSTED  ? &line->posted
                                : which == MIXED ? &line->mixed
                                                 : &line->done;

    return atomic_load_explicit(counter, memory_order_acquire);
}

/* Have all ranks brought this counter to `target` (in rounds of the group)? */
static int all_reached(const struct shared_comm *comm, enum shared_counter which, uint64_t target)
{
    for (uint32_t rank = 0; rank < comm->base.size; rank++)
        if (counter_of(comm, rank, which) < target)
            return 0;
    return 1;
}

/* A number that differs where ranks are not in the same call: a bug upstairs that would otherwise be
 * wrong sums. */
static uint64_t shared_sign(const struct shared_work *work)
{
    return (work->kind->id << 60) ^ ((uint64_t)work->root << 40) ^ (work->elem_bytes << 56) ^
           (uint64_t)work->count;
}

static ds_status check_signatures(struct shared_work *work)
{
    const struct shared_comm *comm = work->comm;
    size_t index = (size_t)((work->first_round + work->mixed) % SHARED_SLOTS);
    uint64_t ours = shared_sign(work);

    for (uint32_t rank = 0; rank < comm->base.size; rank++)
        if (line_of(comm, rank)->signature[index] != ours)
            return ds_fail(DS_ERR_COMM,
                           "%s group: rank %u is in %s of %zu elements, rank %u is in another call",
                           comm->base.group, comm->base.rank, work->base.call, work->count, rank);
    return DS_OK;
}

static void publish(_Atomic uint64_t *counter, uint64_t round_count)
{
    atomic_store_explicit(counter, round_count, memory_order_release);
}

/* A part of a round, its time taken while both ways are tried. */
static void run_part(struct shared_work *work, enum shared_counter part, round_fn *run,
                     uint64_t round)
{
    const struct ds_clock *clock = work->comm->base.clock;
    const int is_tried = is_large(work) && round < TRIAL_ROUNDS;
    const uint64_t begin_ns = is_tried ? ds_clock_mono_ns(clock) : 0;

    run(work, round);
    if (is_tried)
        trial_note(&work->trial, round, part, ds_clock_mono_ns(clock) - begin_ns);
}

static void finish_round(struct shared_work *work)
{
    struct shared_line *line = line_of(work->comm, work->comm->base.rank);

    work->done++;
    if (is_large(work) && work->done == TRIAL_ROUNDS)
        for (unsigned way = 0; way < TRIAL_WAYS; way++)
            atomic_store_explicit(&line->tried_ns[way], trial_ns(&work->trial, way),
                                  memory_order_relaxed);
    publish(&line->done, work->first_round + work->done);
}

static int try_post(struct shared_work *work)
{
    struct shared_comm *comm = work->comm;
    struct shared_line *line = line_of(comm, comm->base.rank);
    uint64_t round = work->first_round + work->posted;

    if (work->posted == work->round_count)
        return 0;
    if (round >= SHARED_SLOTS && !all_reached(comm, DONE, round - SHARED_SLOTS + 1))
        return 0;
    run_part(work, POSTED, work->kind->post, work->posted++);
    line->signature[round % SHARED_SLOTS] = shared_sign(work);
    publish(&line->posted, round + 1);
    return 1;
}

static int try_mix(struct shared_work *work, ds_status *st)
{
    struct shared_comm *comm = work->comm;
    struct shared_line *line = line_of(comm, comm->base.rank);
    uint64_t round = work->first_round + work->mixed;

    if (work->mixed == work->posted || !all_reached(comm, POSTED, round + 1))
        return 0;
    *st = check_signatures(work);
    if (*st != DS_OK)
        return 0;
    run_part(work, MIXED, work->kind->mix, work->mixed++);
    if (work->kind->take == NULL)
        finish_round(work);
    else
        publish(&line->mixed, round + 1);
    return 1;
}

static int try_take(struct shared_work *work)
{
    struct shared_comm *comm = work->comm;
    uint64_t round = work->first_round + work->done;

    if (work->done == work->mixed || !all_reached(comm, MIXED, round + 1))
        return 0;
    run_part(work, DONE, work->kind->take, work->done);
    finish_round(work);
    return 1;
}

/* Who keeps this work from going on? */
static void name_missing(const struct shared_work *work, struct comm_names *names)
{
    enum shared_counter which = DONE;
    uint64_t target = work->first_round + work->posted - SHARED_SLOTS + 1;

    if (work->done < work->mixed) {
        which = MIXED;
        target = work->first_round + work->done + 1;
    } else if (work->mixed < work->posted) {
        which = POSTED;
        target = work->first_round + work->mixed + 1;
    }
    for (uint32_t rank = 0; rank < work->comm->base.size; rank++)
        if (counter_of(work->comm, rank, which) < target)
            comm_names_add(names, rank);
}

static ds_status stalled(struct shared_work *work)
{
    struct shared_comm *comm = work->comm;
    struct comm_names missing = {0};

    if (atomic_load_explicit(&comm->job->poisoned, memory_order_acquire))
        return DS_ERR_COMM; /* who poisoned has said why */
    if (!comm_is_late(&comm->base, &work->base))
        return DS_OK;
    name_missing(work, &missing);
    return comm_fail_late(&comm->base, &work->base, &missing);
}

/* One poll. Where it got somewhere it stays for some turns more: who drives it may sleep before the
 * next poll, and then each round would cost a sleep. */
static ds_status advance(struct shared_work *work)
{
    ds_status st = DS_OK;
    uint32_t turns_left = 0;

    while (st == DS_OK && work->done < work->round_count) {
        if (try_take(work) || try_mix(work, &st) || try_post(work)) {
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

static ds_status shared_poll(void *args, int *done)
{
    struct shared_work *work = args;
    struct shared_comm *comm = work->comm;
    ds_status st = DS_ERR_COMM; /* quiet: who broke the group has spoken */

    if (work->base.started_ns == 0)
        work->base.started_ns = ds_clock_mono_ns(comm->base.clock);
    if (!atomic_load_explicit(&comm->has_failed, memory_order_acquire)) {
        if (counter_of(comm, comm->base.rank, DONE) < work->first_round)
            st = stalled(work); /* an earlier call, on another stream, is not through */
        else
            st = advance(work);
    }
    if (st != DS_OK)
        atomic_store_explicit(&comm->has_failed, 1, memory_order_release);
    *done = st != DS_OK || work->done == work->round_count;
    return st;
}

/* ---- the calls */

static ds_status shared_start(struct ds_comm *base, struct shared_work *work,
                              struct ds_stream *stream)
{
    struct shared_comm *comm = (struct shared_comm *)base;

    work->comm = comm;
    work->base.call = work->kind->name;
    work->first_round = comm->next_round;
    work->round_count = work->piece ? (work->count + work->piece - 1) / work->piece : 1;
    comm->next_round += work->round_count;
    return comm_submit(base, stream, shared_poll, &work->base, sizeof *work);
}

static size_t slot_bytes(const struct ds_comm *comm)
{
    return ((const struct shared_comm *)comm)->segment->slot_bytes;
}

ds_status shared_all_reduce(struct ds_comm *comm, void *data, size_t count, enum ds_dtype dtype,
                            enum ds_reduce op, struct ds_stream *stream)
{
    size_t elem_bytes = ds_dtype_bytes(dtype);
    struct shared_work work = {.kind =
                                   count * elem_bytes <= SMALL_BYTES ? &kind_small : &kind_reduce,
                               .combine = combine_find(dtype, op),
                               .recv = data,
                               .count = count,
                               .piece = slot_bytes(comm) / elem_bytes,
                               .elem_bytes = elem_bytes};

    return shared_start(comm, &work, stream);
}

ds_status shared_all_gather(struct ds_comm *comm, const void *send, void *recv, size_t count,
                            enum ds_dtype dtype, struct ds_stream *stream)
{
    struct shared_work work = {.kind = &kind_gather,
                               .send = send,
                               .recv = recv,
                               .count = count,
                               .piece = slot_bytes(comm) / ds_dtype_bytes(dtype),
                               .elem_bytes = ds_dtype_bytes(dtype)};

    return shared_start(comm, &work, stream);
}

ds_status shared_reduce_scatter(struct ds_comm *comm, const void *send, void *recv, size_t count,
                                enum ds_dtype dtype, struct ds_stream *stream)
{
    size_t elem_bytes = ds_dtype_bytes(dtype);
    size_t piece = slot_bytes(comm) / comm->size / elem_bytes;
    struct shared_work work = {.kind = &kind_scatter,
                               .combine = combine_find(dtype, DS_REDUCE_SUM),
                               .send = send,
                               .recv = recv,
                               .count = count,
                               .piece = piece >= 16 ? piece / 16 * 16 : piece, /* whole lines */
                               .elem_bytes = elem_bytes};

    return shared_start(comm, &work, stream);
}

ds_status shared_broadcast(struct ds_comm *comm, void *data, size_t bytes, uint32_t root,
                           struct ds_stream *stream)
{
    struct shared_work work = {.kind = &kind_broadcast,
                               .send = data,
                               .recv = data,
                               .count = bytes,
                               .piece = slot_bytes(comm),
                               .elem_bytes = 1,
                               .root = root};

    return shared_start(comm, &work, stream);
}

ds_status shared_barrier(struct ds_comm *comm)
{
    struct shared_work work = {.kind = &kind_barrier};

    return shared_start(comm, &work, NULL);
}
