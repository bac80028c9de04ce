/* shared_group.c - how a group over shared memory comes to be and goes, and what lies where: the ranks of a parent tell
 * each other color and key, the first rank of each color makes a segment and hands its handle round,
 * all attach, all agree that they have it. Works over any parent, so a split needs no MPI. */
#include "shared.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

static size_t round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

static size_t boxes_offset(uint32_t rank_count)
{
    return sizeof(struct shared_segment) + rank_count * sizeof(struct shared_line);
}

static size_t slots_offset(uint32_t rank_count)
{
    size_t boxes = (size_t)rank_count * (rank_count - 1);

    return round_up(boxes_offset(rank_count) + boxes * sizeof(struct shared_box), PAGE);
}

/* Chunks of one rank's boxes: at least these. */
static size_t chunks_bytes_min(uint32_t rank_count)
{
    return (size_t)(rank_count - 1) * SHARED_BOX_CHUNKS * SHARED_CHUNK_BYTES_MIN;
}

size_t shared_bytes(uint32_t rank_count, size_t slot_bytes)
{
    size_t chunks = SHARED_BOX_SLOTS * slot_bytes, least = chunks_bytes_min(rank_count);

    chunks = chunks > least ? chunks : least;
    return slots_offset(rank_count) + rank_count * (SHARED_SLOTS * slot_bytes + chunks);
}

/* `bytes` may be any number from shared_bytes of the smallest slots on. */
void shared_format(struct shared_segment *segment, uint32_t rank_count, size_t bytes)
{
    const size_t room = (bytes - slots_offset(rank_count)) / rank_count;
    const size_t beside_boxes = (room - chunks_bytes_min(rank_count)) / SHARED_SLOTS;
    size_t slot = room / (SHARED_SLOTS + SHARED_BOX_SLOTS), chunk = 0;

    slot =
        (slot < beside_boxes ? slot : beside_boxes) / SHARED_SLOT_BYTES_MIN * SHARED_SLOT_BYTES_MIN;
    if (rank_count > 1)
        chunk = (room - SHARED_SLOTS * slot) / (rank_count - 1) / SHARED_BOX_CHUNKS;
    memset(segment, 0, slots_offset(rank_count));
    segment->bytes = bytes;
    segment->slots_offset = slots_offset(rank_count);
    segment->slot_bytes = slot;
    segment->chunks_offset = segment->slots_offset + rank_count * SHARED_SLOTS * slot;
    segment->chunk_bytes = chunk / SHARED_CHUNK_BYTES_MIN * SHARED_CHUNK_BYTES_MIN;
    segment->rank_count = rank_count;
    atomic_store(&segment->user_count, rank_count);
}

static size_t box_index(const struct shared_segment *segment, uint32_t from, uint32_t to)
{
    return (size_t)from * (segment->rank_count - 1) + to - (to > from);
}

struct shared_box *shared_box_of(struct shared_segment *segment, uint32_t from, uint32_t to)
{
    uint8_t *boxes = (uint8_t *)segment + boxes_offset(segment->rank_count);

    return (struct shared_box *)(void *)boxes + box_index(segment, from, to);
}

uint8_t *shared_chunk_of(struct shared_segment *segment, uint32_t from, uint32_t to, uint64_t chunk)
{
    size_t index = box_index(segment, from, to) * SHARED_BOX_CHUNKS + chunk % SHARED_BOX_CHUNKS;

    return (uint8_t *)segment + segment->chunks_offset + index * segment->chunk_bytes;
}

ds_status shared_comm_new(const struct shared_source *source, struct shared_segment *segment,
                          struct comm_job *job, const struct ds_comm *model, struct ds_comm **out)
{
    struct shared_comm *comm = calloc(1, sizeof *comm);

    if (comm == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory for a communicator", model->group);
    comm->base = *model;
    comm->base.ops = source->ops;
    comm->segment = segment;
    comm->slots = (uint8_t *)segment + segment->slots_offset;
    comm->job = job;
    comm->source = source;
    *out = &comm->base;
    return DS_OK;
}

/* What a rank of the parent tells the others. */
struct card {
    int32_t color, key;
    char handle[SHARED_HANDLE_BYTES];
};

struct seat {
    uint32_t rank, size, leader; /* in the new group; leader is a rank of the parent */
};

/* Ranks of a color are ordered by (key, old rank). */
static struct seat find_seat(const struct card *cards, uint32_t count, uint32_t me)
{
    struct seat seat = {0, 0, me};

    for (uint32_t i = 0; i < count; i++) {
        if (cards[i].color != cards[me].color)
            continue;
        seat.size++;
        if (cards[i].key < cards[me].key || (cards[i].key == cards[me].key && i < me))
            seat.rank++;
        const struct card *leader = &cards[seat.leader];
        if (cards[i].key < leader->key || (cards[i].key == leader->key && i < seat.leader))
            seat.leader = i;
    }
    return seat;
}

static ds_status create_segment(const struct shared_source *source, const struct ds_clock *clock,
                                const struct seat *seat, void *handle, struct shared_segment **out)
{
    void *at = NULL;
    size_t bytes = 0;

    DS_TRY(source->create(clock, shared_bytes(seat->size, SHARED_SLOT_BYTES),
                          shared_bytes(seat->size, SHARED_SLOT_BYTES_MIN), handle, &at, &bytes));
    shared_format(at, seat->size, bytes);
    *out = at;
    return DS_OK;
}

/* Everything between the first and the last agreement; on a failure here the peers still come. */
static ds_status gather_segment(struct ds_comm *parent, const struct shared_source *source,
                                struct card *cards, const struct seat *seat, ds_status *local,
                                struct shared_segment **out)
{
    struct card *mine = &cards[parent->rank];
    const int needs_memory = mine->color >= 0 && seat->size > 1;
    const int is_leader = needs_memory && seat->leader == parent->rank;
    void *at = NULL;

    if (is_leader)
        *local = create_segment(source, parent->clock, seat, mine->handle, out);
    DS_TRY(ds_comm_agree(parent, *local, local));
    if (*local != DS_OK)
        return DS_OK;
    DS_TRY(ds_comm_all_gather(parent, mine, cards, sizeof *mine, DS_U8, NULL));
    if (needs_memory && !is_leader) {
        *local = source->attach(cards[seat->leader].handle, &at);
        *out = at;
    }
    return ds_comm_agree(parent, *local, local);
}

ds_status shared_open_group(struct ds_comm *parent, const struct shared_source *source,
                            struct comm_job *job, int color, int key, const char *group,
                            ds_status *verdict, struct ds_comm **out)
{
    struct card *cards = calloc(parent->size, sizeof *cards);
    struct shared_segment *segment = NULL;
    struct ds_comm model;
    struct seat seat;
    ds_status st = DS_OK;

    *verdict = DS_OK;
    *out = NULL;
    if (cards == NULL)
        return ds_fail(DS_ERR_NO_MEMORY, "%s group: no memory to open it", group);
    cards[parent->rank] = (struct card){.color = color, .key = key};
    DS_TRY_GOTO(st,
                ds_comm_all_gather(parent, &cards[parent->rank], cards, sizeof *cards, DS_U8, NULL),
                done);
    seat = find_seat(cards, parent->size, parent->rank);
    st = gather_segment(parent, source, cards, &seat, verdict, &segment);
    if (color >= 0 && seat.leader == parent->rank && segment != NULL)
        source->settle(cards[parent->rank].handle);
    if (st != DS_OK || *verdict != DS_OK || color < 0)
        goto done;
    comm_init(&model, source->ops, seat.rank, seat.size, parent->clock, parent->deadline_ns, group);
    if (seat.size == 1)
        st = comm_self_like(&model, group, out);
    else
        st = shared_comm_new(source, segment, job, &model, out);
    if (st == DS_OK)
        segment = NULL;

done:
    if (segment != NULL)
        source->detach(segment);
    free(cards);
    return st;
}

ds_status shared_split(struct ds_comm *base, int color, int key, const char *group,
                       struct ds_comm **out)
{
    struct shared_comm *comm = (struct shared_comm *)base;
    ds_status verdict = DS_OK;

    DS_TRY(shared_open_group(base, comm->source, comm->job, color, key, group, &verdict, out));
    return verdict;
}

ds_status shared_open_data(struct ds_comm *control, const char *group, struct ds_comm **out)
{
    return shared_split(control, 0, (int)control->rank, group, out);
}

void shared_poison(struct ds_comm *base)
{
    atomic_store_explicit(&((struct shared_comm *)base)->job->poisoned, 1, memory_order_release);
}

void shared_close(struct ds_comm *base)
{
    struct shared_comm *comm = (struct shared_comm *)base;

    comm->source->detach(comm->segment);
    free(comm);
}
