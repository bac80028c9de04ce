/* schedule_case.h - a model of blocks with one unit each, the head's tied or not, cut into stages; and
 * the lists of all its stages. */
#ifndef DSTRAIN_SCHEDULE_CASE_H
#define DSTRAIN_SCHEDULE_CASE_H

#include "dstrain/schedule.h"
#include "test.h"

#include "dstrain/random.h"

enum { STAGES_MAX = 8, CHUNKS_MAX = 4, BLOCKS_MAX = 2 * STAGES_MAX * CHUNKS_MAX };

struct schedule_fixture {
    struct ds_schedule_block blocks[BLOCKS_MAX];
    uint64_t cost[BLOCKS_MAX];
    uint32_t first[STAGES_MAX * CHUNKS_MAX + 1];
    struct ds_schedule_part parts[STAGES_MAX * CHUNKS_MAX];
    struct ds_zero_strips strips[BLOCKS_MAX];
    struct ds_schedule_shape shape;
    struct ds_schedule lists[STAGES_MAX], evals[STAGES_MAX];
    struct ds_schedule_played played[STAGES_MAX];
    uint64_t ticks; /* when the last of them ended */
};

struct schedule_case {
    uint32_t kind, stages, micros, chunks;
    uint32_t extra; /* blocks more than parts */
    uint32_t is_sharded, recomputes, is_tied;
    uint32_t reshard, window;
    uint32_t parts; /* 0, or which unequal parts the list is made for */
    uint32_t away;  /* 0, or slots for states: of most units some are away */
    uint32_t is_late;
    uint32_t kept; /* 0, or beside how many pieces a copy of what layers keep goes to the host */
    double kept_share; /* of the layers */
};

/* Some parts ten times as dear as others, and so their pieces. */
static inline void schedule_parts(struct schedule_fixture *f, const struct schedule_case *c)
{
    const struct ds_random random = ds_random_of(c->parts, DS_RANDOM_TEST, 0);

    for (uint32_t v = 0; v < c->stages * c->chunks; v++)
        f->parts[v] =
            (struct ds_schedule_part){1 + (uint32_t)ds_random_below(random, 3 * v, 10),
                                      1 + (uint32_t)ds_random_below(random, 3 * v + 1, 10),
                                      1 + (uint32_t)ds_random_below(random, 3 * v + 2, 10)};
    f->shape.parts = f->parts;
}

/* Units without a strip, all near, half away and all away. */
static inline void schedule_strips(struct schedule_fixture *f, const struct schedule_case *c)
{
    for (uint32_t u = 0; u < f->shape.unit_count; u++) {
        struct ds_zero_strips *strips = &f->strips[u];
        *strips = (struct ds_zero_strips){.elems = DS_ZERO_CUT_ELEMS * (u % 5),
                                          .strip_elems = DS_ZERO_CUT_ELEMS};
        for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
            strips->near_elems[kind] = strips->elems;
        strips->near_elems[DS_ZERO_EXP_AVG] = DS_ZERO_CUT_ELEMS * (u % 5 * (u % 3) / 2);
        strips->near_elems[DS_ZERO_GRAD] = strips->near_elems[DS_ZERO_EXP_AVG];
    }
    f->shape.strips = f->strips;
    f->shape.strip_slots = c->away;
}

static inline void schedule_shape(struct schedule_fixture *f, const struct schedule_case *c)
{
    const uint32_t parts = c->stages * c->chunks;
    const uint32_t blocks = parts + c->extra < 3 ? 3 : parts + c->extra;

    memset(f, 0, sizeof *f);
    for (uint32_t b = 0; b < blocks; b++) {
        f->blocks[b] = (struct ds_schedule_block){1, {b}};
        f->cost[b] = b == 0 || b + 1 == blocks ? 5 : 3;
    }
    if (c->is_tied) {
        f->blocks[blocks - 1] = (struct ds_schedule_block){2, {blocks - 1, 0}};
        f->cost[blocks - 1] = 1;
    }
    ds_schedule_cut(f->cost, blocks, parts, f->first);
    f->shape = (struct ds_schedule_shape){.blocks = f->blocks,
                                          .block_count = blocks,
                                          .unit_cost = f->cost,
                                          .unit_count = blocks,
                                          .micro_count = c->micros,
                                          .zero_stage = c->is_sharded ? 3 : 1,
                                          .is_training = 1,
                                          .recomputes = (int)c->recomputes,
                                          .kind = (enum ds_schedule_kind)c->kind,
                                          .stage_count = c->stages,
                                          .chunk_count = c->chunks,
                                          .chunk_first = f->first,
                                          .tied_unit = c->is_tied ? 0 : DS_NO_UNIT,
                                          .reshard = (enum ds_reshard)c->reshard,
                                          .window = c->window,
                                          .kept_share = c->kept ? c->kept_share : 0,
                                          .kept_distance = c->kept,
                                          .updates = c->is_late ? DS_UPDATES_LATE : DS_UPDATES_END};
    if (c->parts)
        schedule_parts(f, c);
    if (c->away)
        schedule_strips(f, c);
}

static inline void schedule_make(struct schedule_fixture *f)
{
    for (uint32_t i = 0; i < f->shape.stage_count; i++) {
        f->shape.stage = i;
        assert_ok(ds_schedule_make(&f->shape, &f->lists[i]));
    }
}

static inline ds_status schedule_play(struct schedule_fixture *f, const struct ds_schedule *lists,
                                      const uint64_t *costs)
{
    f->ticks = 0;
    DS_TRY(ds_schedule_play(&f->shape, lists, costs, f->played));
    for (uint32_t i = 0; i < f->shape.stage_count; i++)
        f->ticks = f->played[i].end > f->ticks ? f->played[i].end : f->ticks;
    return DS_OK;
}

static inline void schedule_free(struct schedule_fixture *f)
{
    for (uint32_t i = 0; i < f->shape.stage_count; i++) {
        ds_schedule_fini(&f->lists[i]);
        ds_schedule_fini(&f->evals[i]);
    }
}

#endif
