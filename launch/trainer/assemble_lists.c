/* assemble_lists.c - the lists of a trainer: of a training step, and of an evaluation in the memory of the
 * first; and those of all stages, to play them together. */
#include "trainer.h"

#include "dstrain/accounts.h"

#include <stdlib.h>
#include <string.h>

/* Beside so many pieces of arithmetic goes a copy of what a layer keeps: more than one, as they are not equally long. */
enum { KEPT_DISTANCE = 2 };

/* What of the shape is numbers of the configuration and of the mesh. */
static struct ds_schedule_shape shape_of(const struct ds_trainer *t)
{
    static const enum ds_schedule_kind kinds[] = {
        [DS_PIPELINE_GPIPE] = DS_SCHEDULE_GPIPE,
        [DS_PIPELINE_1F1B] = DS_SCHEDULE_1F1B,
        [DS_PIPELINE_INTERLEAVED] = DS_SCHEDULE_INTERLEAVED,
        [DS_PIPELINE_ZERO_BUBBLE] = DS_SCHEDULE_ZERO_BUBBLE};
    const struct ds_config *config = t->config;
    const uint32_t embedding = t->model->blocks[0].units[0];
    const int is_tied = t->model->config.tie_word_embeddings &&
                        !t->model->units[embedding].is_frozen; /* it has no gradient */

    return (struct ds_schedule_shape){
        .block_count = t->model->block_count,
        .unit_count = t->model->unit_count,
        .strips = t->strips,
        .strip_slots = (uint32_t)config->offload.depth,
        .updates =
            config->offload.updates == DS_UPDATES_KEY_LATE ? DS_UPDATES_LATE : DS_UPDATES_END,
        .micro_count = (uint32_t)t->micro_count,
        .zero_stage = (uint32_t)config->zero.stage,
        .is_training = is_training(t),
        .recomputes = config->train.activation_checkpointing == DS_RECOMPUTE_FULL,
        .kind = kinds[config->parallel.schedule],
        .stage_count = t->mesh_shape.size[DS_AXIS_PP],
        .stage = t->place.at[DS_AXIS_PP],
        .chunk_count = (uint32_t)config->parallel.chunks,
        .chunk_first = t->chunk_first,
        .kept_share = config->offload.activations.share,
        .kept_distance = KEPT_DISTANCE,
        .tied_unit = is_tied ? embedding : DS_NO_UNIT,
        .reshard = config->zero.reshard_after_forward == DS_RESHARD_KEY_NEVER ? DS_RESHARD_NEVER
                                                                              : DS_RESHARD_ALWAYS,
        .window = config->zero.window == DS_AUTO ? 1 : (uint32_t)config->zero.window,
    };
}

/* Tensor ranks' parts may differ by a few rows; their lists may not. */
static uint64_t whole_elems(const struct ds_model *model, uint32_t unit)
{
    const uint32_t start = model->units[unit].param_start;
    uint64_t elems = 0;

    for (uint32_t i = 0; i < model->units[unit].param_count; i++)
        elems += ds_param_whole_elems(&model->params[start + i]);
    return elems;
}

/* A shape and what it points to that the trainer does not have. */
struct numbers {
    struct ds_schedule_shape shape;
    /* owns */
    struct ds_schedule_block *blocks;
    struct ds_schedule_part *parts;
    uint64_t *elems;
    uint8_t *is_frozen;
};

/* On the schedule's clock a part has about so many ticks: two of a hundred are no matter. */
#define PART_TICKS 48

static uint32_t ticks_of(double cost, double tick)
{
    return cost < tick ? 1 : (uint32_t)(cost / tick + 0.5);
}

/* A head does all it does where its way back begins; layers made again are made there. */
static struct ds_block_cost cost_in_list(const struct ds_trainer *t,
                                         const struct ds_schedule_shape *shape, uint32_t block)
{
    struct ds_block_cost cost =
        ds_model_block_cost_parts(t->model, block, t->config->train.seq_length);

    if (block + 1 == shape->block_count)
        return (struct ds_block_cost){.input = cost.forward + cost.input + cost.weight};
    if (shape->recomputes && block > 0)
        cost.input += cost.forward;
    return cost;
}

static void fill_parts(const struct ds_trainer *t, const struct ds_schedule_shape *shape,
                       struct ds_schedule_part *parts)
{
    const uint32_t part_count = shape->stage_count * shape->chunk_count;
    double tick = 0;

    for (uint32_t b = 0; b < shape->block_count; b++) {
        const struct ds_block_cost cost = cost_in_list(t, shape, b);
        tick += (cost.forward + cost.input + cost.weight) / part_count / PART_TICKS;
    }
    for (uint32_t v = 0; v < part_count; v++) {
        struct ds_block_cost sum = {0};
        for (uint32_t b = shape->chunk_first[v]; b < shape->chunk_first[v + 1]; b++) {
            const struct ds_block_cost cost = cost_in_list(t, shape, b);
            sum.forward += cost.forward;
            sum.input += cost.input;
            sum.weight += cost.weight;
        }
        parts[v] = (struct ds_schedule_part){ticks_of(sum.forward, tick), ticks_of(sum.input, tick),
                                             ticks_of(sum.weight, tick)};
    }
}

static void numbers_fini(struct numbers *n)
{
    free(n->blocks);
    free(n->parts);
    free(n->elems);
    free(n->is_frozen);
}

static ds_status numbers_init(struct numbers *n, const struct ds_trainer *t)
{
    const struct ds_model *model = t->model;
    const struct ds_schedule_shape shape = shape_of(t);

    *n = (struct numbers){
        .shape = shape,
        .blocks = calloc(model->block_count, sizeof *n->blocks),
        .parts = calloc((size_t)shape.stage_count * shape.chunk_count, sizeof *n->parts),
        .elems = calloc(model->unit_count, sizeof *n->elems),
        .is_frozen = calloc(model->unit_count, 1)};
    if (!n->blocks || !n->parts || !n->elems || !n->is_frozen) {
        numbers_fini(n);
        return ds_fail(DS_ERR_NO_MEMORY, "the lists of a step");
    }
    for (uint32_t b = 0; b < model->block_count; b++) {
        n->blocks[b].unit_count = model->blocks[b].unit_count;
        memcpy(n->blocks[b].units, model->blocks[b].units, sizeof n->blocks[b].units);
    }
    for (uint32_t u = 0; u < model->unit_count; u++) {
        n->elems[u] = whole_elems(model, u);
        n->is_frozen[u] = model->units[u].is_frozen != 0;
    }
    fill_parts(t, &shape, n->parts);
    n->shape.blocks = n->blocks;
    n->shape.parts = n->parts;
    n->shape.unit_cost = n->elems;
    n->shape.is_frozen = n->is_frozen;
    return DS_OK;
}

ds_status trainer_make_lists(struct ds_trainer *t)
{
    struct numbers n;
    ds_status st = DS_OK;

    DS_TRY(numbers_init(&n, t));
    if (is_training(t))
        st = ds_schedule_make(&n.shape, &t->train_list);
    if (st == DS_OK) {
        n.shape.like = is_training(t) ? &t->train_list : NULL;
        n.shape.is_training = 0;
        n.shape.micro_count = (uint32_t)t->eval_micro_count;
        st = ds_schedule_make(&n.shape, &t->eval_list);
    }
    if (st == DS_OK && is_training(t))
        ds_schedule_widen(&t->train_list, &t->eval_list);
    numbers_fini(&n);
    return st;
}

/* ---- all stages */

static ds_status play(struct ds_schedule_shape *shape, struct ds_schedule *lists,
                      const uint64_t *costs, struct ds_schedule_played *stages)
{
    if (!lists)
        return ds_fail(DS_ERR_NO_MEMORY, "the lists of %u stages", shape->stage_count);
    for (shape->stage = 0; shape->stage < shape->stage_count; shape->stage++)
        DS_TRY(ds_schedule_make(shape, &lists[shape->stage]));
    shape->stage = 0;
    return ds_schedule_play(shape, lists, costs, stages);
}

ds_status ds_trainer_ideal_bubble(const struct ds_trainer *t, double *bubble)
{
    struct numbers n;
    struct ds_schedule list;
    ds_status st;

    DS_TRY(numbers_init(&n, t));
    n.shape.parts = NULL;
    st = ds_schedule_make(&n.shape, &list);
    numbers_fini(&n);
    DS_TRY(st);
    *bubble = ds_accounts_ideal_bubble(&list);
    ds_schedule_fini(&list);
    return DS_OK;
}

ds_status ds_trainer_play(const struct ds_trainer *t, const uint64_t *costs,
                          struct ds_schedule_played *stages)
{
    struct numbers n;
    struct ds_schedule *lists;
    ds_status st;

    DS_TRY(numbers_init(&n, t));
    lists = calloc(n.shape.stage_count, sizeof *lists);
    st = play(&n.shape, lists, costs, stages);
    for (uint32_t i = 0; lists && i < n.shape.stage_count; i++)
        ds_schedule_fini(&lists[i]);
    free(lists);
    numbers_fini(&n);
    return st;
}
