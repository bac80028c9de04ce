/* init.c - initial values by position, and what a token costs. Pure. */
#include "dstrain/model.h"
#include "dstrain/random.h"

/* Keyed by the parameter's number: which rank makes which part changes nothing, nor what else is trained. */
void ds_model_init_values(const struct ds_model *model, const struct ds_param *param, uint64_t seed,
                          uint64_t start, uint64_t count, float *to)
{
    DS_ASSERT(param >= model->params && param < model->params + model->param_count);
    DS_ASSERT(start <= ds_param_whole_elems(param) && count <= ds_param_whole_elems(param) - start);
    const struct ds_random random = ds_random_of(seed, DS_RANDOM_INIT, param->number);
    if (param->init_std != 0) {
        ds_random_normal(random, start, count, param->init_std, to);
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        to[i] = param->init_bound != 0
                    ? (float)((2 * ds_random_unit(random, start + i) - 1) * param->init_bound)
                    : param->init_value;
}

/* Elements of a unit's matrices. */
static double matrices_of(const struct ds_model *model, uint32_t index)
{
    const struct ds_unit *unit = &model->units[index];
    double elems = 0;

    for (uint32_t i = unit->param_start; i < unit->param_start + unit->param_count; i++)
        if (model->params[i].is_matrix)
            elems += (double)ds_param_whole_elems(&model->params[i]);
    return elems;
}

/* Matrices that multiply: the embedding only looks up, so it counts once, as the head. Attention is
 * counted as computed, half of the square; its backward makes the gradient of its inputs alone. */
static struct ds_block_cost block_flops(const struct ds_model *model, uint32_t block,
                                        uint64_t seq_length)
{
    const struct ds_model_config *config = &model->config;
    const struct ds_block *b = &model->blocks[block];
    const double heads = (double)(config->num_attention_heads * config->head_dim);
    const double attention = b->kind == DS_BLOCK_DECODER ? (double)seq_length * heads : 0;
    double frozen = 0, trained = 0;

    for (uint32_t i = 0; i < b->unit_count && b->kind != DS_BLOCK_EMBEDDING; i++)
        *(model->units[b->units[i]].is_frozen ? &frozen : &trained) +=
            matrices_of(model, b->units[i]);
    return (struct ds_block_cost){.forward = 2 * (frozen + trained) + 2 * attention,
                                  .input = 2 * (frozen + trained) + 4 * attention,
                                  .weight = 2 * trained};
}

static double sum(struct ds_block_cost cost)
{
    return cost.forward + cost.input + cost.weight;
}

/* FLOPs in the time in which a byte moves: a core has some 100 GFLOP/s and 10 GB/s. An H100 has 330 to a
 * byte, but what a layer moves beside its products is not counted either, and that is more. */
#define BYTE_FLOPS 10

/* The lookup moves a row, its backward reads one and adds it to another. */
struct ds_block_cost ds_model_block_cost_parts(const struct ds_model *model, uint32_t block,
                                               uint64_t seq_length)
{
    const double row = (double)model->config.hidden_size * sizeof(float);

    if (model->blocks[block].kind == DS_BLOCK_EMBEDDING)
        return (struct ds_block_cost){.forward = BYTE_FLOPS * row,
                                      .weight =
                                          model->units[0].is_frozen ? 0 : BYTE_FLOPS * 2 * row};
    return block_flops(model, block, seq_length);
}

double ds_model_block_cost(const struct ds_model *model, uint32_t block, uint64_t seq_length)
{
    return sum(ds_model_block_cost_parts(model, block, seq_length));
}

double ds_model_flops_per_token(const struct ds_model *model, uint64_t seq_length)
{
    double total = 0;

    for (uint32_t b = 0; b < model->block_count; b++)
        total += sum(block_flops(model, b, seq_length));
    return total;
}
