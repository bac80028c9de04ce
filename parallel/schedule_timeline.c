/* schedule_timeline.c - all stages on one clock. A forward takes one tick, a backward two or, in two
 * parts, one each or what the shape says; messages take no time. A stage starts the first piece it
 * wishes whose inputs are there; it receives what has been made for it whenever it is between two
 * pieces. What results is one total order of all pieces and messages. The list of a stage is a view of
 * it: that is why no list can wait for another in a circle. */
#include "schedule_maker.h"

#include <stdlib.h>
#include <string.h>

struct clock {
    const struct ds_schedule_shape *shape;
    struct timeline *out; /* of shape->stage */
    /* owns */
    struct order *orders; /* [stage] */
    uint32_t *busy_until; /* [stage] */
    uint32_t *arrived;    /* [stage][is_gradient] at this moment */
    uint32_t *made,
        *received;       /* [is_gradient][part][group] the tick from which it exists, is there */
    struct hop *flights; /* made, not received, as they were made */
    /* and */
    uint32_t parts, groups, flight_count, now, left;
};

static uint32_t *cell(const struct clock *c, uint32_t *table, uint32_t is_gradient, uint32_t part,
                      uint32_t group)
{
    return &table[((size_t)is_gradient * c->parts + part) * c->groups + group];
}

static int is_made(const struct clock *c, uint32_t is_gradient, uint32_t part, uint32_t group)
{
    return *cell(c, c->made, is_gradient, part, group) <= c->now;
}

/* Has what `from` leaves come to the part that follows it? On one stage nothing travels. */
static int is_here(const struct clock *c, uint32_t is_gradient, uint32_t from, uint32_t group)
{
    return c->shape->stage_count == 1 ? is_made(c, is_gradient, from, group)
                                      : *cell(c, c->received, is_gradient, from, group) <= c->now;
}

static int is_ready(const struct clock *c, uint32_t part, const struct piece *piece)
{
    switch (piece->kind) {
    case PIECE_FORWARD:
        return part == 0 || is_here(c, 0, part - 1, piece->group);
    case PIECE_BACKWARD:
        return is_made(c, 0, part, piece->group) &&
               (part + 1 == c->parts || is_here(c, 1, part + 1, piece->group));
    case PIECE_WEIGHT:
        return is_made(c, 1, part, piece->group);
    case PIECE_KIND_COUNT:
        break;
    }
    DS_ASSERT(!"a kind of piece");
    return 0;
}

static uint32_t ticks_of(const struct ds_schedule_shape *shape, uint32_t part,
                         const struct piece *piece)
{
    const struct ds_schedule_part ticks = shape->parts && order_splits(shape)
                                              ? shape->parts[part]
                                              : (struct ds_schedule_part){1, 1, 1};
    const uint32_t of_kind[PIECE_KIND_COUNT] = {
        [PIECE_FORWARD] = ticks.forward,
        [PIECE_BACKWARD] = ticks.input + (order_splits(shape) ? 0 : ticks.weight),
        [PIECE_WEIGHT] = ticks.weight,
    };

    return of_kind[piece->kind] * order_micros(shape, piece->group);
}

/* What the piece leaves for the next part is on its way. */
static void depart(struct clock *c, uint32_t stage, uint32_t part, const struct piece *piece)
{
    const uint32_t is_gradient = piece->kind == PIECE_BACKWARD, stages = c->shape->stage_count;

    if (piece->kind == PIECE_WEIGHT)
        return;
    *cell(c, c->made, is_gradient, part, piece->group) = piece->end;
    if (stages > 1 && part != (is_gradient ? 0 : c->parts - 1))
        c->flights[c->flight_count++] =
            (struct hop){.from = stage,
                         .to = (is_gradient ? part - 1 : part + 1) % stages,
                         .part = part,
                         .group = piece->group,
                         .is_gradient = is_gradient};
}

static void start(struct clock *c, uint32_t stage, uint32_t part, struct piece piece)
{
    piece.start = c->now;
    piece.end = c->now + ticks_of(c->shape, part, &piece);
    c->busy_until[stage] = piece.end;
    c->left--;
    if (piece.end > c->out->ticks)
        c->out->ticks = piece.end;
    if (stage == c->shape->stage) {
        c->out->pieces[c->out->piece_count++] = piece;
        c->out->busy_ticks += piece.end - piece.start;
    }
    order_advance(&c->orders[stage], &piece);
    depart(c, stage, part, &piece);
}

/* A stage receives as many of a kind at one moment: what it sends and receives then is one exchange. */
#define ARRIVALS_MAX (DS_EXCHANGE_TRANSFERS_MAX / 4)

/* Every stage between two pieces receives what there is for it. */
static void arrive(struct clock *c)
{
    uint32_t kept = 0;

    memset(c->arrived, 0, (size_t)2 * c->shape->stage_count * sizeof *c->arrived);
    for (uint32_t i = 0; i < c->flight_count; i++) {
        struct hop hop = c->flights[i];
        uint32_t *arrived = &c->arrived[2 * hop.to + hop.is_gradient];
        if (c->busy_until[hop.to] > c->now || !is_made(c, hop.is_gradient, hop.part, hop.group) ||
            *arrived == ARRIVALS_MAX) {
            c->flights[kept++] = hop;
            continue;
        }
        ++*arrived;
        hop.moment = c->now;
        *cell(c, c->received, hop.is_gradient, hop.part, hop.group) = c->now;
        if (hop.from == c->shape->stage || hop.to == c->shape->stage)
            c->out->hops[c->out->hop_count++] = hop;
    }
    c->flight_count = kept;
}

static void begin_work(struct clock *c, uint32_t stage)
{
    struct piece wishes[PIECE_KIND_COUNT];
    uint32_t count;

    if (c->busy_until[stage] > c->now)
        return;
    count = order_wishes(c->shape, stage, &c->orders[stage], wishes);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t part = wishes[i].chunk * c->shape->stage_count + stage;
        if (is_ready(c, part, &wishes[i])) {
            start(c, stage, part, wishes[i]);
            return;
        }
    }
}

static void run(struct clock *c)
{
    for (c->now = 0; c->left > 0; c->now++) {
        arrive(c);
        for (uint32_t stage = 0; stage < c->shape->stage_count; stage++)
            begin_work(c, stage);
        DS_ASSERT(c->now <= c->out->ticks); /* somebody works or begins: orders can proceed */
    }
    DS_ASSERT(c->flight_count == 0);
}

static void clock_fini(struct clock *c)
{
    free(c->orders);
    free(c->busy_until);
    free(c->arrived);
    free(c->made);
    free(c->received);
    free(c->flights);
}

static ds_status clock_init(struct clock *c, const struct ds_schedule_shape *shape,
                            struct timeline *out)
{
    const uint32_t pieces = order_piece_count(shape), stages = shape->stage_count;
    size_t cells;

    *c = (struct clock){.shape = shape,
                        .out = out,
                        .parts = stages * shape->chunk_count,
                        .groups = order_group_count(shape),
                        .left = pieces * stages};
    cells = (size_t)2 * c->parts * c->groups;
    c->orders = calloc(stages, sizeof *c->orders);
    c->busy_until = calloc(stages, sizeof *c->busy_until);
    c->arrived = calloc((size_t)2 * stages, sizeof *c->arrived);
    c->made = malloc(cells * sizeof *c->made);
    c->received = malloc(cells * sizeof *c->received);
    c->flights = malloc(cells * sizeof *c->flights);
    out->pieces = malloc(pieces * sizeof *out->pieces);
    out->hops = malloc(cells * sizeof *out->hops);
    if (!c->orders || !c->busy_until || !c->arrived || !c->made || !c->received || !c->flights ||
        !out->pieces || !out->hops)
        return ds_fail(DS_ERR_NO_MEMORY, "a schedule of %u pieces on %u stages", pieces, stages);
    memset(c->made, 0xff, cells * sizeof *c->made); /* never */
    memset(c->received, 0xff, cells * sizeof *c->received);
    return DS_OK;
}

ds_status timeline_make(const struct ds_schedule_shape *shape, struct timeline *out)
{
    struct timeline made = {0};
    struct clock c;
    ds_status st = clock_init(&c, shape, &made);

    if (st == DS_OK)
        run(&c);
    clock_fini(&c);
    if (st != DS_OK) {
        timeline_fini(&made);
        return st;
    }
    *out = made;
    return DS_OK;
}

void timeline_fini(struct timeline *timeline)
{
    free(timeline->pieces);
    free(timeline->hops);
    *timeline = (struct timeline){0};
}
