/* step_work.c - what a step of this rank computes and moves, counted along its list in three parts: what moves in a part
 * may go on beside what is computed in it. */
#include "trainer.h"

#include <stdlib.h>
#include <string.h>

struct counting {
    const struct ds_trainer *t;
    uint32_t *holds, *is_gathered; /* [unit_count], as ZeRO has them */
    struct ds_step_work *work;     /* of the part that the list has come to */
};

/* Of a frozen unit, too, which nobody updates. */
static struct ds_span own_part(const struct counting *c, uint32_t unit)
{
    return (struct ds_span){0, c->t->strips[unit].elems};
}

static uint64_t bytes_of(const struct counting *c, uint32_t unit, enum ds_zero_kind kind,
                         uint64_t elems)
{
    enum ds_dtype dtype;

    return ds_zero_shard_elems(c->t->zero, unit, kind, &dtype) > 0 ? elems * ds_dtype_bytes(dtype)
                                                                   : 0;
}

/* What of some elements of a unit's own part is not in device memory. */
static uint64_t away_bytes(const struct counting *c, uint32_t unit, enum ds_zero_kind kind,
                           struct ds_span span)
{
    const uint64_t near = c->t->strips[unit].near_elems[kind];
    const uint64_t start = span.start > near ? span.start : near, end = span.start + span.count;

    return start < end ? bytes_of(c, unit, kind, end - start) : 0;
}

static void come(struct counting *c, uint32_t unit, enum ds_zero_kind kind, struct ds_span span)
{
    c->work->to_device += away_bytes(c, unit, kind, span);
    c->work->file_read += ds_zero_filed_of(c->t->zero, unit, kind, span);
}

static void go(struct counting *c, uint32_t unit, enum ds_zero_kind kind, struct ds_span span)
{
    c->work->to_host += away_bytes(c, unit, kind, span);
    c->work->file_write += ds_zero_filed_of(c->t->zero, unit, kind, span);
}

/* ---- strips */

static int has_master(const struct ds_trainer *t)
{
    return t->dtypes.param != DS_F32 && t->dtypes.master != DS_MASTER_NONE;
}

/* Of a weight of fp32 in one piece nothing is read that is stored of it in 16 bits. */
static int reads_param(const struct ds_trainer *t)
{
    return !has_master(t) || t->dtypes.master == DS_MASTER_REMAINDER16;
}

/* Bytes that the update of a strip names, read and written, as a bench of the host counts them. */
static uint64_t named_bytes(const struct counting *c, uint32_t unit, uint64_t elems)
{
    uint64_t bytes = bytes_of(c, unit, DS_ZERO_GRAD, elems) +
                     bytes_of(c, unit, DS_ZERO_PARAM, elems) * (reads_param(c->t) ? 2 : 1);

    for (int kind = DS_ZERO_MASTER; kind <= DS_ZERO_EXP_AVG_SQ; kind++)
        bytes += 2 * bytes_of(c, unit, kind, elems);
    return bytes;
}

/* Of what the host updates only gradients and weights travel, as far as they are near. */
static void fetch(struct counting *c, const struct ds_action *action)
{
    const struct ds_zero_strips *strips = &c->t->strips[action->unit];
    const struct ds_span strip = ds_zero_strip_at(strips, action->strip);
    const uint64_t away = away_bytes(c, action->unit, DS_ZERO_PARAM, strip);

    if (!ds_zero_strip_on_host(strips, action->strip)) {
        for (int kind = 0; kind < DS_ZERO_KIND_COUNT; kind++)
            come(c, action->unit, kind, strip);
        return;
    }
    c->work->to_host += bytes_of(c, action->unit, DS_ZERO_GRAD, strip.count) -
                        away_bytes(c, action->unit, DS_ZERO_GRAD, strip);
    if (reads_param(c->t))
        c->work->to_host += bytes_of(c, action->unit, DS_ZERO_PARAM, strip.count) - away;
}

static void evict(struct counting *c, const struct ds_action *action)
{
    const struct ds_zero_strips *strips = &c->t->strips[action->unit];
    const struct ds_span strip = ds_zero_strip_at(strips, action->strip);

    if (ds_zero_strip_on_host(strips, action->strip))
        c->work->to_device += bytes_of(c, action->unit, DS_ZERO_PARAM, strip.count) -
                              away_bytes(c, action->unit, DS_ZERO_PARAM, strip);
    else /* gradients do not go back */
        for (int kind = 0; kind < DS_ZERO_GRAD; kind++)
            go(c, action->unit, kind, strip);
}

static void update(struct counting *c, const struct ds_action *action)
{
    const struct ds_zero_strips *strips = &c->t->strips[action->unit];

    if (ds_zero_strip_count(strips) == 0)
        return;
    const struct ds_span strip = ds_zero_strip_at(strips, action->strip);
    const uint64_t bytes = named_bytes(c, action->unit, strip.count);
    *(ds_zero_strip_on_host(strips, action->strip) ? &c->work->host_updated : &c->work->updated) +=
        bytes;
}

/* ---- parameters and gradients */

static void gather(struct counting *c, uint32_t unit)
{
    if (!c->is_gathered[unit])
        come(c, unit, DS_ZERO_PARAM, own_part(c, unit));
    c->is_gathered[unit] = 1;
}

/* The first micro-batch of a step is written over what was there. */
static void reduce(struct counting *c, const struct ds_action *action)
{
    const struct ds_span own = own_part(c, action->unit);

    go(c, action->unit, DS_ZERO_GRAD, own);
    if (action->micro > 0)
        come(c, action->unit, DS_ZERO_GRAD, own);
}

/* ---- what layers keep for their backward */

static uint64_t kept_bytes(const struct counting *c, const struct ds_action *action)
{
    const struct ds_model *model = c->t->model;
    const struct ds_block *block = &model->blocks[action->block];
    const uint64_t tokens = c->t->tokens_per_micro;
    const uint64_t input = ds_model_stream_tokens(model, tokens) * model->config.hidden_size *
                           ds_dtype_bytes(model->share.compute);

    return input + (action->slot == DS_NO_SLOT ? 0 : block->ops->saved_bytes(block, tokens));
}

/* ---- the list */

static double flops_of(const struct ds_trainer *t, const struct ds_action *action)
{
    const double tokens = (double)t->tokens_per_micro / (double)t->mesh_shape.size[DS_AXIS_TP];
    struct ds_block_cost cost = {0};

    if (action->kind >= DS_ACTION_FORWARD && action->kind <= DS_ACTION_BACKWARD_WEIGHT)
        cost = ds_model_block_cost_parts(t->model, action->block, t->config->train.seq_length);
    switch (action->kind) {
    case DS_ACTION_FORWARD:
    case DS_ACTION_RECOMPUTE:
        return cost.forward * tokens;
    case DS_ACTION_LOSS:
        return (cost.forward + cost.input + cost.weight) * tokens;
    case DS_ACTION_BACKWARD:
        return (cost.input + cost.weight) * tokens;
    case DS_ACTION_BACKWARD_INPUT:
        return cost.input * tokens;
    case DS_ACTION_BACKWARD_WEIGHT:
        return cost.weight * tokens;
    default:
        return 0;
    }
}

static void count(struct counting *c, const struct ds_action *action)
{
    c->work->flops += flops_of(c->t, action);
    switch (action->kind) {
    case DS_ACTION_FETCH:
        fetch(c, action);
        break;
    case DS_ACTION_EVICT:
        evict(c, action);
        break;
    case DS_ACTION_UPDATE:
        update(c, action);
        break;
    case DS_ACTION_EVICT_KEPT:
        c->work->to_host += kept_bytes(c, action);
        c->work->file_write += ds_executor_filed_of(c->t->executor, action);
        break;
    case DS_ACTION_FETCH_KEPT:
        c->work->to_device += kept_bytes(c, action);
        c->work->file_read += ds_executor_filed_of(c->t->executor, action);
        break;
    case DS_ACTION_PREFETCH:
        gather(c, action->unit);
        break;
    case DS_ACTION_ACQUIRE:
        gather(c, action->unit);
        c->holds[action->unit]++;
        break;
    case DS_ACTION_RELEASE:
        c->is_gathered[action->unit] = --c->holds[action->unit] > 0;
        break;
    case DS_ACTION_REDUCE:
        reduce(c, action);
        break;
    default:
        break;
    }
}

/* Strips that are fetched where the verdict stands come before it: only their slots hold them up. */
static enum ds_step_part part_after(enum ds_step_part part, const struct ds_action *action,
                                    int *is_decided)
{
    *is_decided |= action->kind == DS_ACTION_NORM;
    if (*is_decided && part != DS_STEP_UPDATES && action->kind != DS_ACTION_NORM &&
        action->kind != DS_ACTION_FETCH)
        return DS_STEP_UPDATES;
    if (part == DS_STEP_FORWARD &&
        (action->kind == DS_ACTION_LOSS || action->kind == DS_ACTION_RECOMPUTE ||
         action->kind == DS_ACTION_BACKWARD || action->kind == DS_ACTION_BACKWARD_INPUT))
        return DS_STEP_REST;
    return part;
}

ds_status ds_trainer_step_work(const struct ds_trainer *t, struct ds_step_work work[DS_STEP_PARTS])
{
    const struct ds_schedule *list = &t->train_list;
    struct counting c = {.t = t,
                         .holds = calloc(t->model->unit_count, sizeof *c.holds),
                         .is_gathered = calloc(t->model->unit_count, sizeof *c.is_gathered)};
    const ds_status st =
        c.holds && c.is_gathered
            ? DS_OK
            : ds_fail(DS_ERR_NO_MEMORY, "the work of %u units", t->model->unit_count);
    enum ds_step_part part = DS_STEP_FORWARD;
    int is_decided = 0;

    memset(work, 0, DS_STEP_PARTS * sizeof *work);
    for (uint32_t i = 0; st == DS_OK && i < list->action_count; i++) {
        part = part_after(part, &list->actions[i], &is_decided);
        c.work = &work[part];
        count(&c, &list->actions[i]);
    }
    free(c.holds);
    free(c.is_gathered);
    return st;
}
