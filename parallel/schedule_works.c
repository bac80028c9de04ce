/* schedule_works.c - what one stage does, block by block: its pieces spread out over their blocks and
 * micro-batches, and the messages between them as exchanges. A message stands before the piece in
 * which the stage is when it travels: the receiver is between two pieces then, the sender may be
 * working. */
#include "schedule_maker.h"

#include <stdlib.h>
#include <string.h>

struct writer {
    const struct ds_schedule_shape *shape;
    const struct timeline *timeline;
    struct works *out;
    uint32_t hop;              /* the next one */
    uint32_t turn;             /* of the next work */
    uint32_t scratch;          /* the last work that wrote a layer's saved activations */
    const struct piece *piece; /* the present one */
};

static struct work *add(struct writer *w, enum ds_action_kind kind, uint32_t micro, uint32_t block)
{
    struct work *work = &w->out->works[w->out->count++];

    *work = (struct work){.kind = kind, .micro = micro, .block = block, .turn = w->turn};
    work->x = work->dy = work->out = work->held = work->slot = work->home = DS_NO_SLOT;
    if (kind != DS_ACTION_EXCHANGE) {
        work->piece = (uint32_t)(w->piece - w->timeline->pieces);
        work->stays_until = w->piece->stays_until;
        w->turn++;
    }
    return work;
}

static uint32_t head_of(const struct ds_schedule_shape *shape)
{
    return shape->block_count - 1;
}

/* ---- arithmetic */

static void add_forward(struct writer *w, uint32_t micro, uint32_t block)
{
    const uint32_t index = w->out->count;
    struct work *work = add(w, DS_ACTION_FORWARD, micro, block);

    work->needs_weights = 1;
    work->keeps_saved = w->shape->is_training && !w->shape->recomputes;
    if (block > 0)
        w->scratch = index;
}

static void add_loss(struct writer *w, uint32_t micro)
{
    struct work *work = add(w, DS_ACTION_LOSS, micro, head_of(w->shape));

    work->needs_weights = 1;
    work->makes_grads = w->shape->is_training != 0;
}

/* What a layer's forward saved is there still if no other layer has been through since. */
static void add_recompute(struct writer *w, uint32_t micro, uint32_t block)
{
    struct work *last = &w->out->works[w->scratch];

    if (!w->shape->recomputes)
        return;
    if (last->kind == DS_ACTION_FORWARD && last->micro == micro && last->block == block) {
        last->keeps_saved = 1;
        return;
    }
    w->scratch = w->out->count;
    add(w, DS_ACTION_RECOMPUTE, micro, block)->needs_weights = 1;
}

static void add_backward(struct writer *w, uint32_t micro, uint32_t block)
{
    const int splits = order_splits(w->shape);
    struct work *work;

    if (block == head_of(w->shape)) {
        add_loss(w, micro);
        return;
    }
    if (block == 0 && splits)
        return; /* it has no input part */
    if (block > 0)
        add_recompute(w, micro, block);
    work = add(w, splits ? DS_ACTION_BACKWARD_INPUT : DS_ACTION_BACKWARD, micro, block);
    work->needs_weights = block > 0;
    work->makes_grads = !splits;
}

static void add_weight(struct writer *w, uint32_t micro, uint32_t block)
{
    struct work *work;

    if (block == head_of(w->shape))
        return; /* LOSS did both parts */
    work =
        add(w, DS_ACTION_BACKWARD_WEIGHT, micro, block); /* products of what is held: no weights */
    work->makes_grads = 1;
}

static void add_block(struct writer *w, enum piece_kind kind, uint32_t micro, uint32_t block)
{
    if (kind == PIECE_BACKWARD)
        add_backward(w, micro, block);
    else if (kind == PIECE_WEIGHT)
        add_weight(w, micro, block);
    else if (block < head_of(w->shape))
        add_forward(w, micro, block);
    else if (!w->shape->is_training)
        add_loss(w, micro); /* when training it opens the way back */
}

/* The micro-batches go through each block one after another. */
static void add_blocks(struct writer *w, const struct piece *piece, uint32_t micro, uint32_t count)
{
    const uint32_t part = part_of(w->shape, piece->chunk);
    const uint32_t first = w->shape->chunk_first[part], end = w->shape->chunk_first[part + 1];

    for (uint32_t i = 0; i < end - first; i++)
        for (uint32_t m = micro; m < micro + count; m++)
            add_block(w, piece->kind, m, piece->kind == PIECE_FORWARD ? first + i : end - 1 - i);
}

/* A unit that two blocks use has one local gradient: then the way back goes by single micro-batches. */
static int goes_singly(const struct ds_schedule_shape *shape, const struct piece *piece)
{
    return piece->kind != PIECE_FORWARD && order_is_tied_here(shape);
}

static void add_piece(struct writer *w, const struct piece *piece)
{
    const uint32_t micro = piece->group * order_group_size(w->shape);
    const uint32_t count = order_micros(w->shape, piece->group);

    w->piece = piece;
    if (!goes_singly(w->shape, piece)) {
        add_blocks(w, piece, micro, count);
        return;
    }
    for (uint32_t m = micro; m < micro + count; m++)
        add_blocks(w, piece, m, 1);
}

/* ---- messages */

static void add_transfer(struct writer *w, const struct hop *hop)
{
    const uint32_t is_send = hop->from == w->shape->stage;
    const uint32_t *first = w->shape->chunk_first;

    w->out->transfers[w->out->transfer_count++] = (struct ds_transfer){
        .is_send = is_send,
        .peer = is_send ? hop->to : hop->from,
        .micro = hop->group, /* several stages: a group is a micro-batch */
        .block = hop->is_gradient ? first[hop->part] : first[hop->part + 1] - 1,
        .is_gradient = hop->is_gradient,
        .slot = DS_NO_SLOT,
    };
}

/* Messages of one moment are one exchange. */
static void add_exchanges(struct writer *w, const struct piece *next)
{
    const struct timeline *t = w->timeline;

    while (w->hop < t->hop_count && (!next || t->hops[w->hop].moment < next->end)) {
        const uint32_t moment = t->hops[w->hop].moment, start = w->out->transfer_count;
        struct work *work;

        while (w->hop < t->hop_count && t->hops[w->hop].moment == moment)
            add_transfer(w, &t->hops[w->hop++]);
        work = add(w, DS_ACTION_EXCHANGE, w->out->transfers[start].micro,
                   w->out->transfers[start].block);
        work->transfer_start = start;
        work->transfer_count = w->out->transfer_count - start;
    }
}

/* ---- all of it */

static void add_next_uses(struct writer *w, uint32_t *next_use)
{
    for (uint32_t i = w->out->count; i-- > 0;) {
        struct work *work = &w->out->works[i];
        const struct ds_schedule_block *block = &w->shape->blocks[work->block];
        for (uint32_t u = 0; u < block->unit_count && work->needs_weights; u++) {
            work->next_use[u] = next_use[block->units[u]];
            next_use[block->units[u]] = i;
        }
    }
}

static uint32_t blocks_here(const struct ds_schedule_shape *shape)
{
    uint32_t count = 0;

    for (uint32_t c = 0; c < shape->chunk_count; c++)
        count += shape->chunk_first[part_of(shape, c) + 1] - shape->chunk_first[part_of(shape, c)];
    return count;
}

static ds_status works_alloc(const struct ds_schedule_shape *shape, const struct timeline *timeline,
                             struct works *out)
{
    /* forward, again, input part, weight part */
    const size_t most = (size_t)4 * blocks_here(shape) * shape->micro_count + timeline->hop_count;

    out->works = malloc(most * sizeof *out->works);
    out->transfers = malloc((timeline->hop_count + 1u) * sizeof *out->transfers);
    return out->works && out->transfers
               ? DS_OK
               : ds_fail(DS_ERR_NO_MEMORY, "a schedule of %zu pieces", most);
}

ds_status works_make(const struct ds_schedule_shape *shape, const struct timeline *timeline,
                     struct works *out)
{
    struct works works = {0};
    struct writer w = {.shape = shape, .timeline = timeline, .out = &works};
    uint32_t *next_use = malloc(shape->unit_count * sizeof *next_use);
    ds_status st = works_alloc(shape, timeline, &works);

    if (!next_use && st == DS_OK)
        st = ds_fail(DS_ERR_NO_MEMORY, "a schedule of %u units", shape->unit_count);
    if (st != DS_OK) {
        free(next_use);
        works_fini(&works);
        return st;
    }
    memset(next_use, 0xff, shape->unit_count * sizeof *next_use); /* NO_WORK */
    for (uint32_t i = 0; i < timeline->piece_count; i++) {
        add_exchanges(&w, &timeline->pieces[i]);
        add_piece(&w, &timeline->pieces[i]);
    }
    add_exchanges(&w, NULL);
    st = kept_travel(shape, &works);
    if (st == DS_OK)
        add_next_uses(&w, next_use);
    else
        works_fini(&works);
    free(next_use);
    *out = works;
    return st;
}

void works_fini(struct works *works)
{
    free(works->works);
    free(works->transfers);
    *works = (struct works){0};
}
