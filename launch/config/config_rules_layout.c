/* config_rules_layout.c - how ranks, batches, layers, heads and bytes divide. What does not divide is
 * refused with its numbers and the nearest that would. */
#include "config_rules.h"

#include <stdio.h>

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Of two candidates the one nearer to `wanted`, the smaller of two as near; 0: none yet. */
static uint64_t nearer(uint64_t wanted, uint64_t a, uint64_t b)
{
    if (a == 0 || b == 0)
        return a ? a : b;
    if (distance(a, wanted) != distance(b, wanted))
        return distance(a, wanted) < distance(b, wanted) ? a : b;
    return a < b ? a : b;
}

/* They come in pairs, the smaller up to the root. */
uint64_t ds_nearest_divisor(uint64_t total, uint64_t wanted)
{
    uint64_t best = 1;

    for (uint64_t i = 1; i <= total / i; i++)
        if (total % i == 0)
            best = nearer(wanted, best, nearer(wanted, i, total / i));
    return best;
}

uint64_t ds_nearest_multiple(uint64_t of, uint64_t wanted)
{
    const uint64_t below = wanted / of * of;

    return nearer(wanted, below, below + of);
}

static int divides_ranks(uint64_t model_ranks, uint64_t ranks)
{
    return ranks == 0 || ranks % model_ranks == 0;
}

static void model_heads(const struct ds_config *c, struct ds_model_config *out)
{
    *out = (struct ds_model_config){.num_attention_heads = c->model.num_attention_heads,
                                    .num_key_value_heads = c->model.num_key_value_heads,
                                    .intermediate_size = c->model.intermediate_size,
                                    .vocab_size = c->model.vocab_size};
}

/* Are there heads to look at? A folder's are looked at when it is opened. */
static int has_heads(const struct ds_config *c)
{
    return c->model.path[0] == '\0' && c->model.num_attention_heads > 0 && c->model.vocab_size > 0;
}

static int may_share(const struct ds_config *c, uint64_t tensor)
{
    struct ds_model_config heads;
    char why[DS_WHY_BYTES];

    model_heads(c, &heads);
    return !has_heads(c) || ds_model_may_share(&heads, (uint32_t)tensor, why, sizeof why);
}

/* ---- ranks */

struct model_ranks {
    uint64_t tensor, pipeline;
};

/* Of what divides the ranks and the model: the nearest product, of equal ones the nearest factors. */
static struct model_ranks nearest_model_ranks(const struct ds_config *c, uint64_t ranks)
{
    const uint64_t tensor = c->parallel.tensor, pipeline = c->parallel.pipeline;
    const uint64_t layers = c->model.path[0] ? 0 : c->model.num_hidden_layers;
    struct model_ranks best = {1, 1};

    for (uint64_t p = 1; p <= ranks && (layers == 0 || p <= layers + 2); p++)
        for (uint64_t t = 1; ranks % p == 0 && t <= ranks / p; t++) {
            const uint64_t off = distance(t * p, tensor * pipeline);
            const uint64_t least = distance(best.tensor * best.pipeline, tensor * pipeline);
            const uint64_t factors = distance(t, tensor) + distance(p, pipeline);
            if (ranks / p % t == 0 && may_share(c, t) &&
                (off < least || (off == least && factors < distance(best.tensor, tensor) +
                                                               distance(best.pipeline, pipeline))))
                best = (struct model_ranks){t, p};
        }
    return best;
}

/* The number of ranks for which the layout is as it is written. */
static uint64_t ranks_of_layout(const struct ds_config *c, uint64_t ranks)
{
    const uint64_t model_ranks = c->parallel.tensor * c->parallel.pipeline;

    return c->parallel.data_is_auto ? ds_nearest_multiple(model_ranks, ranks)
                                    : c->parallel.data * model_ranks;
}

/* The key that was written is to blame, tensor of two. */
static ds_status refuse_model_ranks(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t tensor = c->parallel.tensor, pipeline = c->parallel.pipeline;
    const uint64_t ranks = check->rank_count;
    const struct model_ranks nearest = nearest_model_ranks(c, ranks);
    char text[96];

    if (nearest.pipeline == pipeline)
        snprintf(text, sizeof text, "tensor = %" PRIu64, nearest.tensor);
    else if (nearest.tensor == tensor)
        snprintf(text, sizeof text, "pipeline = %" PRIu64, nearest.pipeline);
    else
        snprintf(text, sizeof text, "tensor = %" PRIu64 " and pipeline = %" PRIu64, nearest.tensor,
                 nearest.pipeline);
    if (!ds_rule_is_written(check, "parallel", "tensor"))
        REFUSE(check, "parallel", "pipeline",
               "= %" PRIu64 " must divide the %" PRIu64
               " ranks of this launch; nearest: %s, or run under mpirun -n %" PRIu64,
               pipeline, ranks, text, ranks_of_layout(c, ranks));
    REFUSE(check, "parallel", "tensor",
           "= %" PRIu64 " times pipeline = %" PRIu64 " must divide the %" PRIu64
           " ranks of this launch; nearest: %s, or run under mpirun -n %" PRIu64,
           tensor, pipeline, ranks, text, ranks_of_layout(c, ranks));
}

/* data * tensor * pipeline is the number of ranks; which key is to blame depends on which were asked for. */
ds_status ds_rule_ranks(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t data = c->parallel.data, tensor = c->parallel.tensor;
    const uint64_t pipeline = c->parallel.pipeline, ranks = check->rank_count;

    if (ranks > 0 && ranks % (tensor * pipeline) != 0)
        return refuse_model_ranks(check);
    if (ranks > 0 && data * tensor * pipeline != ranks)
        REFUSE(check, "parallel", "data",
               "= %" PRIu64 " wants %" PRIu64 " ranks (tensor = %" PRIu64 ", pipeline = %" PRIu64
               "), this launch has %" PRIu64 "; nearest: data = %" PRIu64
               ", or run under mpirun -n %" PRIu64,
               data, data * tensor * pipeline, tensor, pipeline, ranks, ranks / (tensor * pipeline),
               ranks_of_layout(c, ranks));
    if (data != DS_AUTO && c->parallel.shard != DS_AUTO && data % c->parallel.shard != 0)
        REFUSE(check, "parallel", "shard",
               "= %" PRIu64 " must divide data = %" PRIu64 "; nearest: %" PRIu64, c->parallel.shard,
               data, ds_nearest_divisor(data, c->parallel.shard));
    return DS_OK;
}

/* Fewer stages with these chunks; else, as chunks want two stages at least, fewer of both; else neither. */
static void nearest_stages(const struct ds_config *c, uint64_t blocks, uint64_t ranks, char *to,
                           size_t bytes)
{
    const uint64_t tensor = c->parallel.tensor, chunks = c->parallel.chunks;
    const uint64_t most = c->parallel.pipeline < blocks ? c->parallel.pipeline : blocks;

    for (uint64_t stages = most; stages > (chunks > 1); stages--)
        if (stages * chunks <= blocks && divides_ranks(tensor * stages, ranks)) {
            snprintf(to, bytes, "pipeline = %" PRIu64, stages);
            return;
        }
    for (uint64_t stages = most; stages > 1; stages--)
        if (stages * 2 <= blocks && divides_ranks(tensor * stages, ranks)) {
            snprintf(to, bytes, "pipeline = %" PRIu64 " and chunks = %" PRIu64, stages,
                     blocks / stages);
            return;
        }
    snprintf(to, bytes, "pipeline = 1 and chunks = 1");
}

int ds_config_stages_fit(const struct ds_config *config, uint64_t layers, uint64_t rank_count,
                         char *why, size_t bytes)
{
    const uint64_t stages = config->parallel.pipeline, chunks = config->parallel.chunks;
    const uint64_t blocks = layers + 2;
    char nearest[96];

    if (stages * chunks <= blocks)
        return 1;
    nearest_stages(config, blocks, rank_count, nearest, sizeof nearest);
    snprintf(why, bytes,
             "= %" PRIu64 " times chunks = %" PRIu64 " is more than the %" PRIu64
             " blocks of the model (%" PRIu64 " layers, embedding, head); nearest: %s",
             stages, chunks, blocks, layers, nearest);
    return 0;
}

/* Every run of layers has a block at least; embedding and head count as one each. */
ds_status ds_rule_stages(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t stages = c->parallel.pipeline, chunks = c->parallel.chunks;
    const int is_interleaved = c->parallel.schedule == DS_PIPELINE_INTERLEAVED;
    char why[DS_WHY_BYTES];

    if (chunks > 1 && (!is_interleaved || stages == 1))
        REFUSE(check, "parallel", "chunks",
               "= %" PRIu64 " needs schedule = interleaved and pipeline > 1 (pipeline = %" PRIu64
               "); nearest: 1",
               chunks, stages);
    if (is_interleaved && stages > 1 && chunks == 1)
        REFUSE(check, "parallel", "schedule", "%s",
               "= interleaved needs chunks > 1: with 1 it is 1f1b; nearest: chunks = 2");
    if (check->use == DS_CONFIG_PREPARE || c->model.path[0] != '\0' ||
        c->model.num_hidden_layers == 0)
        return DS_OK;
    if (!ds_config_stages_fit(c, c->model.num_hidden_layers, check->rank_count, why, sizeof why))
        REFUSE(check, "parallel", "pipeline", "%s", why);
    return DS_OK;
}

/* The number of tensor ranks nearest to the one asked for that shares tokens, ranks and heads out; 1 always does. */
static uint64_t nearest_tensor(const struct ds_rule_check *check, uint64_t tokens)
{
    const struct ds_config *c = check->config;
    const uint64_t wanted = c->parallel.tensor;
    uint64_t best = 1;

    for (uint64_t tensor = 1; tensor < 2 * wanted; tensor++)
        if (tokens % tensor == 0 &&
            divides_ranks(tensor * c->parallel.pipeline, check->rank_count) && may_share(c, tensor))
            best = nearer(wanted, best, tensor);
    return best;
}

ds_status ds_rule_tensor(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t tensor = c->parallel.tensor;
    const uint64_t tokens = c->train.micro_batch_size * c->train.seq_length;
    struct ds_model_config heads;
    char why[DS_WHY_BYTES];

    model_heads(c, &heads);
    if (check->use != DS_CONFIG_PREPARE && has_heads(c) &&
        !ds_model_may_share(&heads, (uint32_t)tensor, why, sizeof why))
        REFUSE(check, "parallel", "tensor", "%s", why);
    if (c->parallel.sequence_parallel && tokens % tensor != 0)
        REFUSE(check, "parallel", "sequence_parallel",
               "= true needs micro_batch_size * seq_length = %" PRIu64 " * %" PRIu64
               " to be a multiple of tensor = %" PRIu64 "; nearest: tensor = %" PRIu64,
               c->train.micro_batch_size, c->train.seq_length, tensor,
               nearest_tensor(check, tokens));
    return DS_OK;
}

ds_status ds_rule_batches(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t data = c->parallel.data == DS_AUTO ? 1 : c->parallel.data;
    const uint64_t at_once = c->train.micro_batch_size * data;
    const uint64_t global = c->train.global_batch_size;

    if (check->use == DS_CONFIG_TRAIN && global % at_once != 0)
        REFUSE(check, "train", "global_batch_size",
               "= %" PRIu64 " must be a multiple of micro_batch_size * data = %" PRIu64
               " * %" PRIu64 " = %" PRIu64 "; nearest: %" PRIu64,
               global, c->train.micro_batch_size, data, at_once,
               ds_nearest_multiple(at_once, global));
    return DS_OK;
}

ds_status ds_rule_precision(const struct ds_rule_check *check)
{
    static const char *const names[] = {"fp32", "bf16", "fp16"};
    const struct ds_config *c = check->config;
    const char *compute = names[c->precision.compute];

    if (c->precision.master != DS_MASTER_KEY_FP32 && c->precision.compute != DS_PRECISION_BF16)
        REFUSE(check, "precision", "master",
               "= %s is for compute = bf16, but compute = %s; nearest: master = fp32",
               c->precision.master == DS_MASTER_KEY_NONE ? "none" : "remainder16", compute);
    if (c->precision.compute == DS_PRECISION_FP16 && c->precision.reduce == DS_PRECISION_BF16)
        REFUSE(
            check, "precision", "reduce", "%s",
            "= bf16 does not go with compute = fp16, whose gradients have 3 bits more and a loss "
            "scale for their range; nearest: fp32");
    return DS_OK;
}

/* A window is what goes through a layer at once: more than there is cannot. */
ds_status ds_rule_zero(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t at_once = c->train.micro_batch_size * c->parallel.data; /* 0: not known */
    const uint64_t micros = at_once > 0 ? c->train.global_batch_size / at_once : UINT64_MAX;

    if (c->zero.window > 1 && c->zero.stage != 3)
        REFUSE(check, "zero", "window",
               "= %" PRIu64 " is for stage = 3, which gathers parameters; stage = %" PRIu64
               " keeps them; nearest: 1",
               c->zero.window, c->zero.stage);
    if (check->use == DS_CONFIG_TRAIN && c->zero.window > micros)
        REFUSE(check, "zero", "window",
               "= %" PRIu64 " is more than the %" PRIu64
               " micro-batches of a rank in a step; nearest: %" PRIu64,
               c->zero.window, micros, micros);
    return DS_OK;
}
