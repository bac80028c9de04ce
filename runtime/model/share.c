/* share.c - how tensor ranks share a model out: which sizes may be shared, where the cuts are, and where a
 * piece lies in the whole. Pure. */
#include "dstrain/model.h"

#include <stdio.h>

/* Rows that a device's matrix units like: cuts fall on multiples where every rank gets some. */
#define CUT_ROWS 8

struct ds_span ds_tp_cut(uint64_t size, uint32_t rank, uint32_t count)
{
    const uint64_t step = size >= (uint64_t)CUT_ROWS * count ? CUT_ROWS : 1;
    const uint64_t steps = (size + step - 1) / step, least = steps / count, more = steps % count;
    uint64_t start = (least * rank + (rank < more ? rank : more)) * step;
    uint64_t end = start + (least + (rank < more)) * step;

    DS_ASSERT(rank < count && size >= count);
    return (struct ds_span){start, (end < size ? end : size) - start};
}

static int heads_may_share(const struct ds_model_config *config, uint64_t tp_size)
{
    const uint64_t heads = config->num_attention_heads, groups = config->num_key_value_heads;

    return heads % tp_size == 0 && (groups % tp_size == 0 || tp_size % groups == 0);
}

static int sizes_may_share(const struct ds_model_config *config, uint64_t tp_size)
{
    return config->intermediate_size >= tp_size && config->vocab_size >= tp_size;
}

int ds_model_may_share(const struct ds_model_config *config, uint32_t tp_size, char *why,
                       size_t bytes)
{
    const uint64_t heads = config->num_attention_heads, groups = config->num_key_value_heads;

    if (heads_may_share(config, tp_size) && sizes_may_share(config, tp_size))
        return 1;
    if (!heads_may_share(config, tp_size))
        snprintf(why, bytes,
                 "= %u cannot share %llu query heads and %llu kv heads: it must divide the "
                 "first, and divide the second or be a multiple of it",
                 tp_size, (unsigned long long)heads, (unsigned long long)groups);
    else
        snprintf(
            why, bytes,
            "= %u is more than intermediate_size = %llu or vocab_size = %llu: every rank has a "
            "row at least",
            tp_size, (unsigned long long)config->intermediate_size,
            (unsigned long long)config->vocab_size);
    return 0;
}

uint64_t ds_model_stream_tokens(const struct ds_model *model, uint64_t token_count)
{
    if (!model->share.sequence_parallel)
        return token_count;
    DS_ASSERT(token_count % model->share.tp_size == 0);
    return token_count / model->share.tp_size;
}

uint64_t ds_param_whole_elems(const struct ds_param *param)
{
    return param->shape[0] * param->shape[1];
}

struct ds_span ds_param_run(const struct ds_param *param, uint64_t start, uint64_t count)
{
    const uint64_t row = start / param->local[1], column = start % param->local[1];
    const uint64_t whole = (param->start[0] + row) * param->shape[1] + param->start[1] + column;
    const uint64_t left =
        param->local[1] == param->shape[1] ? param->elems - start : param->local[1] - column;

    DS_ASSERT(start < param->elems);
    return (struct ds_span){whole, left < count ? left : count};
}
