/* config_rules_layout.c - how ranks, batches, layers, heads and bytes divide. What does not divide is
 * refused with its numbers; which keys may help is said, the best first. */
#include "config_rules.h"

#include <string.h>

/* What is behind a folder's reasons: ": FOLDER". */
static const char *colon_of(const struct ds_rule_check *check)
{
    return check->model ? ": " : "";
}

static const char *folder_of(const struct ds_rule_check *check)
{
    return check->model ? check->config->model.path : "";
}

/* ---- ranks */

/* The key that was written is to blame, tensor of two. */
static ds_status refuse_model_ranks(const struct ds_rule_check *check)
{
    const uint64_t tensor = check->config->parallel.tensor;
    const uint64_t pipeline = check->config->parallel.pipeline;

    if (!ds_rule_is_written(check, "parallel", "tensor"))
        REFUSE(check, "parallel", "pipeline", "parallel.pipeline parallel.tensor ranks",
               "= %" PRIu64 " must divide the %" PRIu64 " ranks of this launch", pipeline,
               check->rank_count);
    REFUSE(check, "parallel", "tensor", "parallel.tensor parallel.pipeline ranks",
           "= %" PRIu64 " times pipeline = %" PRIu64 " must divide the %" PRIu64
           " ranks of this launch",
           tensor, pipeline, check->rank_count);
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
        REFUSE(check, "parallel", "data", "parallel.data parallel.tensor parallel.pipeline ranks",
               "= %" PRIu64 " wants %" PRIu64 " ranks (tensor = %" PRIu64 ", pipeline = %" PRIu64
               "), this launch has %" PRIu64,
               data, data * tensor * pipeline, tensor, pipeline, ranks);
    if (data != DS_AUTO && c->parallel.shard != DS_AUTO && data % c->parallel.shard != 0)
        REFUSE(check, "parallel", "shard", "parallel.shard",
               "= %" PRIu64 " must divide data = %" PRIu64, c->parallel.shard, data);
    return DS_OK;
}

/* ---- stages */

ds_status ds_rule_chunks(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t stages = c->parallel.pipeline, chunks = c->parallel.chunks;
    const int is_interleaved = c->parallel.schedule == DS_PIPELINE_INTERLEAVED;

    if (chunks > 1 && (!is_interleaved || stages == 1))
        REFUSE(check, "parallel", "chunks", "parallel.chunks",
               "= %" PRIu64 " needs schedule = interleaved and pipeline > 1 (pipeline = %" PRIu64
               ")",
               chunks, stages);
    if (is_interleaved && stages > 1 && chunks == 1)
        REFUSE(check, "parallel", "schedule", "parallel.chunks parallel.schedule", "%s",
               "= interleaved needs chunks > 1: with 1 it is 1f1b");
    return DS_OK;
}

/* Every run of layers has a block at least; embedding and head count as one each. */
ds_status ds_rule_stages(const struct ds_rule_check *check)
{
    const uint64_t stages = check->config->parallel.pipeline;
    const uint64_t chunks = check->config->parallel.chunks;
    const uint64_t layers = ds_rule_model(check).num_hidden_layers;

    if (layers > 0 && stages * chunks > layers + 2)
        REFUSE(check, "parallel", "pipeline", "parallel.chunks parallel.pipeline",
               "= %" PRIu64 " times chunks = %" PRIu64 " is more than the %" PRIu64
               " blocks of the model (%" PRIu64 " layers, embedding, head)%s%s",
               stages, chunks, layers + 2, layers, colon_of(check), folder_of(check));
    return DS_OK;
}

/* ---- tensor ranks */

ds_status ds_rule_tensor(const struct ds_rule_check *check)
{
    const struct ds_model_config model = ds_rule_model(check);
    char why[DS_WHY_BYTES];

    if (model.num_attention_heads > 0 && model.vocab_size > 0 &&
        !ds_model_may_share(&model, (uint32_t)check->config->parallel.tensor, why, sizeof why))
        REFUSE(check, "parallel", "tensor", "parallel.tensor", "%s%s%s", why, colon_of(check),
               folder_of(check));
    return DS_OK;
}

ds_status ds_rule_sequence_parallel(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t tokens = c->train.micro_batch_size * c->train.seq_length;

    if (c->parallel.sequence_parallel && tokens % c->parallel.tensor != 0)
        REFUSE(check, "parallel", "sequence_parallel", "parallel.tensor parallel.sequence_parallel",
               "= true needs micro_batch_size * seq_length = %" PRIu64 " * %" PRIu64
               " to be a multiple of tensor = %" PRIu64,
               c->train.micro_batch_size, c->train.seq_length, c->parallel.tensor);
    return DS_OK;
}

/* ---- batches */

ds_status ds_rule_batches(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t data = c->parallel.data == DS_AUTO ? 1 : c->parallel.data;
    const uint64_t at_once = c->train.micro_batch_size * data;
    const uint64_t global = c->train.global_batch_size;

    if (check->use == DS_CONFIG_TRAIN && global % at_once != 0)
        REFUSE(check, "train", "global_batch_size",
               "train.global_batch_size train.micro_batch_size",
               "= %" PRIu64 " must be a multiple of micro_batch_size * data = %" PRIu64
               " * %" PRIu64 " = %" PRIu64,
               global, c->train.micro_batch_size, data, at_once);
    return DS_OK;
}

ds_status ds_rule_precision(const struct ds_rule_check *check)
{
    static const char *const names[] = {"fp32", "bf16", "fp16"};
    const struct ds_config *c = check->config;
    const char *compute = names[c->precision.compute];

    if (c->precision.master != DS_MASTER_KEY_FP32 && c->precision.compute != DS_PRECISION_BF16)
        REFUSE(check, "precision", "master", "precision.master",
               "= %s is for compute = bf16, but compute = %s",
               c->precision.master == DS_MASTER_KEY_NONE ? "none" : "remainder16", compute);
    if (c->precision.compute == DS_PRECISION_FP16 && c->precision.reduce == DS_PRECISION_BF16)
        REFUSE(
            check, "precision", "reduce", "precision.reduce", "%s",
            "= bf16 does not go with compute = fp16, whose gradients have 3 bits more and a loss "
            "scale for their range");
    return DS_OK;
}

/* A window is what goes through a layer at once: more than there is cannot. */
ds_status ds_rule_zero(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t at_once = c->train.micro_batch_size * c->parallel.data; /* 0: not known */
    const uint64_t micros = at_once > 0 ? c->train.global_batch_size / at_once : UINT64_MAX;

    if (c->zero.window > 1 && c->zero.stage != 3)
        REFUSE(check, "zero", "window", "zero.window",
               "= %" PRIu64 " is for stage = 3, which gathers parameters; stage = %" PRIu64
               " keeps them",
               c->zero.window, c->zero.stage);
    if (check->use == DS_CONFIG_TRAIN && c->zero.window > micros)
        REFUSE(check, "zero", "window", "zero.window train.global_batch_size",
               "= %" PRIu64 " is more than the %" PRIu64 " micro-batches of a rank in a step",
               c->zero.window, micros);
    return DS_OK;
}

/* ---- homes */

/* A kind of state that is away, or NULL; `keys` as in ds_blame. */
static const char *away_of(const struct ds_config *c, const char **keys)
{
    const struct {
        const struct ds_home_key *home;
        const char *key, *keys;
    } kinds[] = {{&c->offload.params, "params", "offload.params zero.stage"},
                 {&c->offload.master, "master", "offload.master zero.stage"},
                 {&c->offload.exp_avg, "exp_avg", "offload.exp_avg zero.stage"},
                 {&c->offload.exp_avg_sq, "exp_avg_sq", "offload.exp_avg_sq zero.stage"},
                 {&c->offload.grads, "grads", "offload.grads zero.stage"}};

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (ds_home_is_away(kinds[i].home)) {
            *keys = kinds[i].keys;
            return kinds[i].key;
        }
    return NULL;
}

static int may_be_on_host(const struct ds_home_key *key)
{
    return key->home == DS_HOME_HOST || key->home == DS_HOME_AUTO;
}

/* The host updates what it has all of: a share of each, or all. */
static ds_status check_compute(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const int has_master =
        c->precision.compute != DS_PRECISION_FP32 && c->precision.master != DS_MASTER_KEY_NONE;

    if (c->offload.optimizer_compute.home != DS_OPTIMIZER_CPU)
        return DS_OK;
    if (c->offload.params.home == DS_HOME_NVME || c->offload.grads.home == DS_HOME_NVME)
        REFUSE(check, "offload", "optimizer_compute",
               "offload.optimizer_compute offload.params offload.grads", "%s",
               "= cpu is for gradients and parameters on the device or the host");
    if (may_be_on_host(&c->offload.exp_avg) && may_be_on_host(&c->offload.exp_avg_sq) &&
        (!has_master || may_be_on_host(&c->offload.master)))
        return DS_OK;
    REFUSE(check, "offload", "optimizer_compute",
           "offload.optimizer_compute offload.master offload.exp_avg offload.exp_avg_sq",
           "= cpu is for states at home on the host: exp_avg = host and exp_avg_sq = host%s",
           has_master ? " and master = host" : "");
}

/* What is away must be there, and somebody's own: whole copies are gathered from device memory. */
ds_status ds_rule_homes(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const char *keys = NULL, *key = away_of(c, &keys);

    if (check->use != DS_CONFIG_PREPARE)
        DS_TRY(check_compute(check));
    if (check->use == DS_CONFIG_PREPARE || !key)
        return DS_OK;
    if (ds_home_is_away(&c->offload.params) && c->zero.stage != 3)
        REFUSE(check, "offload", "params", "offload.params zero.stage",
               "is for stage = 3, which gathers parameters; stage = %" PRIu64 " keeps them",
               c->zero.stage);
    if (ds_home_is_away(&c->offload.master) && c->precision.compute == DS_PRECISION_FP32)
        REFUSE(
            check, "offload", "master", "offload.master", "%s",
            "is for masters beside 16-bit weights; with precision.compute = fp32 the weights are "
            "all there is");
    if (ds_home_is_away(&c->offload.master) && c->precision.master == DS_MASTER_KEY_NONE)
        REFUSE(check, "offload", "master", "offload.master", "%s",
               "is for masters, and precision.master = none keeps none");
    if (c->zero.stage == 0 && c->parallel.shard > 1)
        REFUSE(check, "offload", key, keys,
               "is for states that a rank has for itself; with zero.stage = 0 each of the %" PRIu64
               " shard ranks has all of them",
               c->parallel.shard);
    return DS_OK;
}

static int is_named_before(const struct ds_config *c, uint32_t index, const char *path)
{
    char other[DS_TEXT_MAX];

    for (uint32_t i = 0; i < index && ds_config_directory(c, i, other); i++)
        if (strcmp(other, path) == 0)
            return 1;
    return 0;
}

/* Where it is to live must be said; one directory twice would be one drive that takes itself for two. */
ds_status ds_rule_directories(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const struct ds_home_key *const homes[] = {&c->offload.params,  &c->offload.master,
                                               &c->offload.exp_avg, &c->offload.exp_avg_sq,
                                               &c->offload.grads,   &c->offload.activations};
    static const char *const keys[] = {"params",     "master", "exp_avg",
                                       "exp_avg_sq", "grads",  "activations"};
    char path[DS_TEXT_MAX], key[DS_KEY_BYTES];

    for (size_t i = 0; i < sizeof homes / sizeof *homes && check->use != DS_CONFIG_PREPARE; i++)
        if (homes[i]->home == DS_HOME_NVME && !ds_config_directory(c, 0, path))
            return ds_fail(
                DS_ERR_CONFIG,
                "%s = nvme: [offload] directories is missing, which says on which drives",
                ds_config_key(c, "offload", keys[i], key));
    for (uint32_t i = 0; ds_config_directory(c, i, path); i++)
        if (is_named_before(c, i, path))
            return ds_fail(DS_ERR_CONFIG, "%s names %s twice",
                           ds_config_key(c, "offload", "directories", key), path);
    return DS_OK;
}
