/* spread.h - a small model spread over the ranks of a mesh, weights alone: on each rank the part of its
 * tensor rank, of the units of its stage, in its shard. Where an element of a box lies in the whole is
 * counted here once more, by row and column. */
#ifndef DSTRAIN_TEST_SPREAD_H
#define DSTRAIN_TEST_SPREAD_H

#include "test.h"

#include "dstrain/hf.h"
#include "dstrain/mesh.h"
#include "dstrain/random.h"

enum { SPREAD_UNITS_MAX = 8, SPREAD_PARAMS_MAX = 128 };

struct spread_case {
    struct ds_model_config config;
    struct ds_mesh_shape mesh;
    uint32_t stage_of_unit[SPREAD_UNITS_MAX], unit_count;
    uint32_t zero_stage;
};

struct spread_rank {
    const struct spread_case *c;
    struct ds_mesh *mesh;
    struct ds_device *device;
    struct ds_stream *compute, *comm;
    struct ds_memory memory;
    struct ds_model *model;
    struct ds_zero *zero;
    struct ds_mesh_place here;
    uint32_t shard_rank;
    uint8_t has_unit[SPREAD_UNITS_MAX];
    struct ds_zero_unit_spec units[SPREAD_UNITS_MAX];
    struct ds_span params[SPREAD_PARAMS_MAX];
};

/* cmocka cannot leave a test from the thread of a rank */
#define SPREAD_MUST(condition) \
    ((condition) ? (void)0 : spread_give_up(#condition, __FILE__, __LINE__))

static inline void spread_give_up(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s does not hold\n", file, line, condition);
    abort();
}

/* ---- drawing */

struct spread_draw {
    struct ds_random random;
    uint64_t next;
};

static inline uint32_t spread_below(struct spread_draw *draw, uint32_t bound)
{
    return (uint32_t)ds_random_below(draw->random, draw->next++, bound);
}

static inline uint32_t spread_one_of(struct spread_draw *draw, const uint32_t *from, uint32_t count)
{
    return from[spread_below(draw, count)];
}

static inline void spread_draw_config(struct spread_draw *draw, struct ds_model_config *c)
{
    static const uint32_t groups[] = {1, 2, 4}, vocabs[] = {509, 61, 256}, widths[] = {37, 73, 128};

    ds_model_config_default((enum ds_family)spread_below(draw, DS_FAMILY_COUNT), c);
    c->num_key_value_heads = spread_one_of(draw, groups, 3);
    c->num_attention_heads = c->num_key_value_heads * (1u << spread_below(draw, 3));
    c->head_dim = 4 + 2 * spread_below(draw, 3);
    c->hidden_size = 8 + 2 * spread_below(draw, 20);
    c->vocab_size = spread_one_of(draw, vocabs, 3);
    c->intermediate_size = spread_one_of(draw, widths, 3);
    c->num_hidden_layers = 1 + spread_below(draw, 3);
    c->max_position_embeddings = 32;
    c->tie_word_embeddings = (int)spread_below(draw, 2);
    assert_ok(ds_model_config_check("drawn", c));
}

/* Stages of a run of units each; the embedding is the first one's, the head the last one's. */
static inline void spread_cut(struct spread_draw *draw, struct spread_case *c, uint32_t stages)
{
    uint32_t stage = 0;

    c->unit_count = (uint32_t)c->config.num_hidden_layers + 2;
    c->mesh.size[DS_AXIS_PP] = stages;
    for (uint32_t u = 0; u < c->unit_count; u++) {
        const uint32_t units_left = c->unit_count - u, stages_left = stages - 1 - stage;
        if (u > 0 && stages_left > 0 && (units_left == stages_left || spread_below(draw, 2) == 0))
            stage++;
        c->stage_of_unit[u] = stage;
    }
}

/* A layout of at most `ranks_max` ranks for the case's model. */
static inline void spread_draw_layout(struct spread_draw *draw, struct spread_case *c,
                                      uint32_t ranks_max)
{
    const uint32_t stages_max = c->config.num_hidden_layers > 1 ? 3 : 2;
    char why[256];

    do {
        for (int axis = 0; axis < DS_AXIS_COUNT; axis++)
            c->mesh.size[axis] = 1;
        c->mesh.size[DS_AXIS_SHARD] = 1 + spread_below(draw, 3);
        c->mesh.size[DS_AXIS_REPLICA] = 1 + spread_below(draw, 2);
        c->mesh.size[DS_AXIS_CP] = 1 + (spread_below(draw, 4) == 0);
        c->mesh.size[DS_AXIS_TP] = 1u << spread_below(draw, 4);
        spread_cut(draw, c, 1 + spread_below(draw, stages_max));
    } while (ds_mesh_rank_count(&c->mesh) > ranks_max ||
             !ds_model_may_share(&c->config, c->mesh.size[DS_AXIS_TP], why, sizeof why));
    c->zero_stage = spread_below(draw, 4);
}

static inline void spread_print(const struct spread_case *c)
{
    const uint32_t *size = c->mesh.size;

    print_message("  %s C %llu H %llu/%llu I %llu V %llu tied %d: replica %u shard %u cp %u pp %u "
                  "tp %u stage %u\n",
                  ds_family_name(c->config.family), (unsigned long long)c->config.hidden_size,
                  (unsigned long long)c->config.num_attention_heads,
                  (unsigned long long)c->config.num_key_value_heads,
                  (unsigned long long)c->config.intermediate_size,
                  (unsigned long long)c->config.vocab_size, c->config.tie_word_embeddings,
                  size[DS_AXIS_REPLICA], size[DS_AXIS_SHARD], size[DS_AXIS_CP], size[DS_AXIS_PP],
                  size[DS_AXIS_TP], c->zero_stage);
}

/* ---- a rank */

static inline void spread_describe(const struct spread_case *c, struct spread_rank *r)
{
    const struct ds_model *model = r->model;
    const uint32_t stage = r->here.at[DS_AXIS_PP], last = c->mesh.size[DS_AXIS_PP] - 1;

    SPREAD_MUST(model->unit_count == c->unit_count && model->param_count <= SPREAD_PARAMS_MAX);
    for (uint32_t i = 0; i < model->param_count; i++)
        r->params[i] = (struct ds_span){model->params[i].offset, model->params[i].elems};
    for (uint32_t u = 0; u < model->unit_count; u++) {
        r->has_unit[u] = c->stage_of_unit[u] == stage ||
                         (u == 0 && stage == last && c->config.tie_word_embeddings);
        r->units[u] =
            (struct ds_zero_unit_spec){.elems = r->has_unit[u] ? model->units[u].elems : 0,
                                       .params = &r->params[model->units[u].param_start],
                                       .param_count = model->units[u].param_count};
    }
}

/* collective over `world`; `device_ops` NULL: the cpu device's own */
static inline void spread_open(const struct spread_case *c, struct ds_comm *world,
                               const struct ds_device_ops *device_ops, struct spread_rank *r)
{
    const struct ds_device_options device = {
        .seed = 1, .thread_count = 1, .clock = ds_clock_system()};

    *r = (struct spread_rank){.c = c, .here = ds_mesh_place_of(&c->mesh, world->rank)};
    const struct ds_model_share share = {.tp_rank = r->here.at[DS_AXIS_TP],
                                         .tp_size = c->mesh.size[DS_AXIS_TP]};
    SPREAD_MUST(ds_mesh_open(world, &c->mesh, 1u << DS_GROUP_SHARD | 1u << DS_GROUP_REPLICA,
                             "transport", DS_TRANSPORT_AUTO, NULL, &r->mesh) == DS_OK);
    SPREAD_MUST(ds_device_cpu_ops.open(0, &device, &r->device) == DS_OK);
    if (device_ops)
        r->device->ops = device_ops;
    SPREAD_MUST(ds_device_cpu_ops.stream_open(r->device, 0, &r->compute) == DS_OK);
    SPREAD_MUST(ds_device_cpu_ops.stream_open(r->device, 0, &r->comm) == DS_OK);
    ds_memory_init(&r->memory, r->device);
    SPREAD_MUST(ds_model_open(&c->config, &share, &r->model) == DS_OK);
    spread_describe(c, r);
    r->shard_rank = ds_mesh_index(&c->mesh, DS_GROUP_SHARD, world->rank);
    const struct ds_zero_options zero = {.stage = c->zero_stage,
                                         .dtypes = ds_zero_dtypes_fp32(),
                                         .units = r->units,
                                         .unit_count = c->unit_count,
                                         .slots = {{1, 1}, {0, 0}},
                                         .shard = ds_mesh_group(r->mesh, DS_GROUP_SHARD),
                                         .replica = ds_mesh_group(r->mesh, DS_GROUP_REPLICA),
                                         .device = r->device,
                                         .compute = r->compute,
                                         .comm = r->comm,
                                         .memory = &r->memory};
    SPREAD_MUST(ds_zero_open(&zero, &r->zero) == DS_OK);
}

static inline void spread_close(struct spread_rank *r)
{
    r->device->ops->stream_close(r->comm);
    r->device->ops->stream_close(r->compute);
    ds_zero_close(r->zero);
    ds_mesh_close(r->mesh);
    ds_model_close(r->model);
    ds_memory_fini(&r->memory);
    r->device->ops->close(r->device);
}

static inline struct ds_hf_target spread_target(const struct spread_rank *r)
{
    return (struct ds_hf_target){.model = r->model, .zero = r->zero, .shard_rank = r->shard_rank};
}

/* ---- elements */

/* Where element `at` of the unit lies in the whole parameter: counted by row and column. */
static inline uint64_t spread_whole_index(const struct ds_param *param, uint64_t at)
{
    const uint64_t row = (at - param->offset) / param->local[1];
    const uint64_t column = (at - param->offset) % param->local[1];

    return (param->start[0] + row) * param->shape[1] + param->start[1] + column;
}

typedef void spread_visit(void *user, const struct spread_rank *r, uint32_t param, uint64_t whole,
                          float *value);

/* Every element of a unit that this rank owns, parameter by parameter; padding is not visited. `shard` is
 * the unit's shard on this rank. */
static inline void spread_each(const struct spread_rank *r, uint32_t unit, float *shard,
                               spread_visit *visit, void *user)
{
    const struct ds_zero_layout *cut = ds_zero_unit_layout(r->zero, unit);
    const uint64_t begin = cut->shard_elems * r->shard_rank, end = begin + cut->shard_elems;
    const struct ds_unit *u = &r->model->units[unit];

    for (uint32_t i = u->param_start; i < u->param_start + u->param_count; i++) {
        const struct ds_param *param = &r->model->params[i];
        for (uint64_t at = param->offset; at < param->offset + param->elems; at++)
            if (at >= begin && at < end)
                visit(user, r, i, spread_whole_index(param, at), &shard[at - begin]);
    }
}

/* Reads the shards of this rank's units and visits them. */
static inline void spread_check(const struct spread_rank *r, spread_visit *visit, void *user)
{
    for (uint32_t u = 0; u < r->model->unit_count; u++) {
        if (!r->has_unit[u])
            continue;
        const uint64_t count = ds_zero_unit_layout(r->zero, u)->shard_elems;
        float *shard = malloc(count * sizeof *shard);
        SPREAD_MUST(shard && ds_zero_read_shard(r->zero, u, 0, count, shard) == DS_OK);
        spread_each(r, u, shard, visit, user);
        free(shard);
    }
}

#endif
