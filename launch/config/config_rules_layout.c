/* config_rules_layout.c - how ranks, batches, layers, heads and bytes divide. What does not divide is
 * refused with its numbers and the nearest that would. */
#include "config_rules.h"

#include <stdio.h>

/* The divisor of `total` nearest to `wanted`, the smaller of two. */
static uint64_t nearest_divisor(uint64_t total, uint64_t wanted)
{
    for (uint64_t off = 0;; off++) {
        if (off < wanted && total % (wanted - off) == 0)
            return wanted - off;
        if (total % (wanted + off) == 0)
            return wanted + off;
    }
}

/* data * tensor * pipeline is the number of ranks; which key is to blame depends on which were asked for. */
ds_status ds_rule_ranks(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t data = c->parallel.data, tensor = c->parallel.tensor;
    const uint64_t pipeline = c->parallel.pipeline, ranks = check->rank_count;

    if (ranks > 0 && ranks % (tensor * pipeline) != 0)
        REFUSE(check, "parallel", "tensor",
               "= %" PRIu64 " times pipeline = %" PRIu64 " must divide the %" PRIu64
               " ranks that mpirun started; nearest: tensor * pipeline = %" PRIu64,
               tensor, pipeline, ranks, nearest_divisor(ranks, tensor * pipeline));
    if (ranks > 0 && data * tensor * pipeline != ranks)
        REFUSE(check, "parallel", "data",
               "= %" PRIu64 " wants %" PRIu64 " ranks (tensor = %" PRIu64 ", pipeline = %" PRIu64
               "), mpirun started %" PRIu64 "; nearest: data = %" PRIu64,
               data, data * tensor * pipeline, tensor, pipeline, ranks,
               ranks / (tensor * pipeline));
    if (data != DS_AUTO && c->parallel.shard != DS_AUTO && data % c->parallel.shard != 0)
        REFUSE(check, "parallel", "shard",
               "= %" PRIu64 " must divide data = %" PRIu64 "; nearest: %" PRIu64, c->parallel.shard,
               data, nearest_divisor(data, c->parallel.shard));
    return DS_OK;
}

/* Every run of layers has a block at least; embedding and head count as one each. */
ds_status ds_rule_stages(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t stages = c->parallel.pipeline, chunks = c->parallel.chunks;
    const uint64_t blocks = c->model.num_hidden_layers + 2;
    const int is_interleaved = c->parallel.schedule == DS_PIPELINE_INTERLEAVED;

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
    if (stages * chunks > blocks)
        REFUSE(check, "parallel", "pipeline",
               "= %" PRIu64 " times chunks = %" PRIu64 " is more than the %" PRIu64
               " blocks of the model (%" PRIu64
               " layers, embedding, head); nearest: pipeline = %" PRIu64,
               stages, chunks, blocks, c->model.num_hidden_layers,
               blocks / chunks > 0 ? blocks / chunks : 1);
    return DS_OK;
}

static void model_heads(const struct ds_config *c, struct ds_model_config *out)
{
    *out = (struct ds_model_config){.num_attention_heads = c->model.num_attention_heads,
                                    .num_key_value_heads = c->model.num_key_value_heads,
                                    .intermediate_size = c->model.intermediate_size,
                                    .vocab_size = c->model.vocab_size};
}

/* A folder's heads are looked at when it is opened. */
ds_status ds_rule_tensor(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t tensor = c->parallel.tensor;
    const uint64_t tokens = c->train.micro_batch_size * c->train.seq_length;
    struct ds_model_config heads;
    char why[256], here[DS_PLACE_BYTES];

    model_heads(c, &heads);
    if (check->use != DS_CONFIG_PREPARE && c->model.path[0] == '\0' &&
        heads.num_attention_heads > 0 && heads.vocab_size > 0 &&
        !ds_model_may_share(&heads, (uint32_t)tensor, why, sizeof why))
        return ds_fail(DS_ERR_CONFIG, "%s: [parallel] %s",
                       ds_rule_place(check, "parallel", "tensor", here), why);
    if (c->parallel.sequence_parallel && tokens % tensor != 0)
        REFUSE(check, "parallel", "sequence_parallel",
               "= true needs micro_batch_size * seq_length = %" PRIu64 " * %" PRIu64
               " to be a multiple of tensor = %" PRIu64 "; nearest: tensor = %" PRIu64,
               c->train.micro_batch_size, c->train.seq_length, tensor,
               nearest_divisor(tokens, tensor));
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
               (global / at_once + (global < at_once)) * at_once);
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
        REFUSE(check, "precision", "reduce", "%s",
               "= bf16 would drop bits that compute = fp16 has; nearest: fp32");
    return DS_OK;
}

ds_status ds_rule_zero(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->zero.window > 1 && c->zero.stage != 3)
        REFUSE(check, "zero", "window",
               "= %" PRIu64 " is for stage = 3, which gathers parameters; stage = %" PRIu64
               " keeps them: nearest: 1",
               c->zero.window, c->zero.stage);
    return DS_OK;
}
