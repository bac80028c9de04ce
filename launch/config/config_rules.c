/* config_rules.c - what no single key can know: combinations that cannot be, said with their numbers.
 * Each rule is a row of functions over a resolved configuration; the first that fails, speaks. */
#include "config_rules.h"
#include "inject_text.h"
#include "trace_text.h"

#include <string.h>

int ds_rule_is_written(const struct ds_rule_check *check, const char *section, const char *key)
{
    const struct ds_field *field = ds_field_find(section, key);

    DS_ASSERT(field);
    const size_t index = ds_field_index(field);
    return check->config->places.line[index] != 0 && !check->config->places.was_auto[index];
}

struct ds_model_config ds_rule_model(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t heads = c->model.num_attention_heads, groups = c->model.num_key_value_heads;

    if (check->model)
        return *check->model;
    if (c->model.path[0] != '\0' || check->use == DS_CONFIG_PREPARE)
        return (struct ds_model_config){0};
    return (struct ds_model_config){.num_hidden_layers = c->model.num_hidden_layers,
                                    .num_attention_heads = heads,
                                    .num_key_value_heads = groups ? groups : heads,
                                    .intermediate_size = c->model.intermediate_size,
                                    .vocab_size = c->model.vocab_size,
                                    .max_position_embeddings = c->model.max_position_embeddings};
}

static int is_given(const struct ds_field *field, const struct ds_config *config)
{
    const char *at = (const char *)config + field->offset;

    return field->kind == DS_FIELD_TEXT ? at[0] != '\0' : *(const uint64_t *)(const void *)at != 0;
}

/* What is evaluated on may come from what is trained on. */
static int is_set_aside(const struct ds_field *field, const struct ds_config *config)
{
    return field == ds_field_find("data", "eval") && config->data.eval_share > 0;
}

static ds_status needed_keys_are_there(const struct ds_rule_check *check)
{
    static const uint32_t flag_of[] = {[DS_CONFIG_TRAIN] = DS_FIELD_TRAIN_NEEDS,
                                       [DS_CONFIG_EVAL] = DS_FIELD_EVAL_NEEDS,
                                       [DS_CONFIG_PREPARE] = DS_FIELD_PREPARE_NEEDS};
    const int has_path = check->config->model.path[0] != '\0';

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];
        const int is_shape = (field->flags & DS_FIELD_SHAPES_MODEL) != 0;
        char allowed[256];

        if (!(field->flags & flag_of[check->use]) || is_given(field, check->config) ||
            (is_shape && has_path) || is_set_aside(field, check->config))
            continue;
        ds_field_describe(field, allowed, sizeof allowed);
        return ds_fail(DS_ERR_CONFIG, "%s: [%s] %s is missing%s: %s (%s)",
                       check->config->places.name, field->section, field->key,
                       is_shape ? ", and so is [model] path" : "", field->help, allowed);
    }
    return DS_OK;
}

static ds_status folder_or_shape(const struct ds_rule_check *check)
{
    char here[DS_PLACE_BYTES], path[DS_PLACE_BYTES];

    if (check->config->model.path[0] == '\0')
        return DS_OK;
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (!(field->flags & DS_FIELD_SHAPES_MODEL) || check->config->places.line[i] == 0)
            continue;
        return ds_fail(DS_ERR_CONFIG,
                       "%s: [model] %s cannot stand beside [model] path (%s): the folder's "
                       "config.json decides it",
                       ds_config_place(check->config, "model", field->key, here), field->key,
                       ds_config_place(check->config, "model", "path", path));
    }
    return DS_OK;
}

static ds_status head_dim_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t dim = c->model.head_dim;

    if (dim >= DS_MODEL_HEAD_DIM_MIN && dim <= DS_MODEL_HEAD_DIM_MAX && dim % 2 == 0)
        return DS_OK;
    if (ds_rule_is_written(check, "model", "head_dim")) /* within the limits of its row, then */
        REFUSE(check, "model", "head_dim", "model.head_dim",
               "= %" PRIu64 " must be even: rotary positions turn pairs", dim);
    REFUSE(check, "model", "hidden_size", "model.hidden_size model.num_attention_heads",
           "= %" PRIu64 " makes head_dim = %" PRIu64 " / %" PRIu64 " = %" PRIu64
           ", which must be even (rotary positions turn pairs) and in %u..%u",
           c->model.hidden_size, c->model.hidden_size, c->model.num_attention_heads, dim,
           DS_MODEL_HEAD_DIM_MIN, DS_MODEL_HEAD_DIM_MAX);
}

static ds_status heads_fit(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t heads = c->model.num_attention_heads;
    const int is_llama = c->model.family == DS_FAMILY_LLAMA;

    if (c->model.path[0] != '\0' || heads == 0)
        return DS_OK;
    if (heads % c->model.num_key_value_heads != 0)
        REFUSE(check, "model", "num_key_value_heads",
               "model.num_key_value_heads model.num_attention_heads",
               "= %" PRIu64 " must divide num_attention_heads = %" PRIu64,
               c->model.num_key_value_heads, heads);
    if (c->model.hidden_size % heads != 0 && (c->model.head_dim == DS_AUTO || is_llama))
        REFUSE(check, "model", "hidden_size", "model.hidden_size model.num_attention_heads",
               "= %" PRIu64 " must be a multiple of num_attention_heads = %" PRIu64 "%s",
               c->model.hidden_size, heads, is_llama ? "" : " where head_dim is not given");
    return head_dim_fits(check);
}

static ds_status vocabulary_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->model.path[0] != '\0' || check->use != DS_CONFIG_TRAIN)
        return DS_OK;
    if (!ds_config_has_text(c) && c->model.vocab_size == DS_AUTO)
        REFUSE(check, "data", "format", NULL, "%s",
               "= safetensors needs a number in [model] vocab_size: no tokenizer decides it");
    if (ds_config_has_byte_text(c) && c->model.vocab_size < DS_BYTE_VOCAB)
        REFUSE(check, "model", "vocab_size", "model.vocab_size",
               "= %" PRIu64 " is smaller than the tokenizer's %d ([data] tokenizer = %s)",
               c->model.vocab_size, DS_BYTE_VOCAB, c->data.tokenizer);
    return DS_OK;
}

static ds_status sequence_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t positions = ds_rule_model(check).max_position_embeddings;

    if (positions == 0 || c->train.seq_length <= positions)
        return DS_OK;
    if (check->model)
        REFUSE(check, "train", "seq_length", "train.seq_length",
               "= %" PRIu64 " is more than the model's max_position_embeddings = %" PRIu64 ": %s",
               c->train.seq_length, positions, c->model.path);
    REFUSE(check, "train", "seq_length", "train.seq_length model.max_position_embeddings",
           "= %" PRIu64 " is longer than [model] max_position_embeddings = %" PRIu64,
           c->train.seq_length, positions);
}

/* Decay has a step at least, behind warm-up or in its place. */
static ds_status decay_fits(const struct ds_rule_check *check)
{
    static const char keys[] = "schedule.decay_steps schedule.warmup_steps";
    const struct ds_config *c = check->config;
    const uint64_t steps = c->train.steps, warmup = c->schedule.warmup_steps;
    const uint64_t decay = c->schedule.decay_steps;

    if (decay == 0)
        REFUSE(check, "schedule", "kind", keys, "%s",
               "= wsd needs decay_steps: how many of the last steps decay");
    if (decay > steps - warmup)
        REFUSE(check, "schedule", "decay_steps", keys,
               "= %" PRIu64 " does not fit behind warmup_steps: %" PRIu64 " + %" PRIu64
               " > [train] steps = %" PRIu64,
               decay, warmup, decay, steps);
    return DS_OK;
}

/* A rate that stays has nothing to do with what decay would need. */
static ds_status rate_stays(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    char least[64];

    if (c->schedule.decay_steps != 0)
        REFUSE(check, "schedule", "decay_steps", "schedule.decay_steps schedule.kind",
               "= %" PRIu64 " has no meaning with kind = constant", c->schedule.decay_steps);
    ds_field_print(ds_field_find("schedule", "min_learning_rate"), c, least, sizeof least);
    if (c->schedule.min_learning_rate != 0)
        REFUSE(check, "schedule", "min_learning_rate", "schedule.min_learning_rate schedule.kind",
               "= %s has no meaning with kind = constant", least);
    return DS_OK;
}

static ds_status schedule_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t steps = c->train.steps, warmup = c->schedule.warmup_steps;
    char least[64], most[64];

    if (c->schedule.kind == DS_LR_CONSTANT)
        DS_TRY(rate_stays(check));
    if (c->schedule.min_learning_rate > c->optimizer.learning_rate) {
        ds_field_print(ds_field_find("schedule", "min_learning_rate"), c, least, sizeof least);
        ds_field_print(ds_field_find("optimizer", "learning_rate"), c, most, sizeof most);
        REFUSE(check, "schedule", "min_learning_rate", "schedule.min_learning_rate",
               "= %s is larger than [optimizer] learning_rate = %s", least, most);
    }
    if (check->use != DS_CONFIG_TRAIN)
        return DS_OK;
    if (warmup > steps)
        REFUSE(check, "schedule", "warmup_steps", "schedule.warmup_steps schedule.decay_steps",
               "= %" PRIu64 " is more than [train] steps = %" PRIu64, warmup, steps);
    return c->schedule.kind == DS_LR_WSD ? decay_fits(check) : DS_OK;
}

/* The list must read well before anything is opened; what it names is looked for later. */
static ds_status list_reads(const struct ds_rule_check *check, const char *key, const char *text)
{
    char where[DS_KEY_BYTES];
    struct ds_data_parts parts;

    if (text[0] == '\0')
        return DS_OK;
    DS_TRY(ds_data_parts_parse(ds_config_key(check->config, "data", key, where), text, &parts));
    ds_data_parts_fini(&parts);
    return DS_OK;
}

static ds_status lists_read(const struct ds_rule_check *check)
{
    DS_TRY(list_reads(check, "train", check->config->data.train));
    return list_reads(check, "eval", check->config->data.eval);
}

static ds_status evaluations_have_data(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->train.eval_interval > 0 && !ds_config_has_eval(c))
        REFUSE(check, "train", "eval_interval", "train.eval_interval",
               "= %" PRIu64 " needs data to evaluate on: [data] eval", c->train.eval_interval);
    if (c->train.eval_samples > 0 && !ds_config_has_eval(c))
        REFUSE(check, "train", "eval_samples", "train.eval_samples",
               "= %" PRIu64 " needs data to evaluate on: [data] eval", c->train.eval_samples);
    return DS_OK;
}

/* What is not saved cannot be kept or exported. A launch that writes none may all the same go on from those of
 * dir and mirror. */
static ds_status exports_are_saved(const struct ds_rule_check *check)
{
    const uint64_t every = check->config->checkpoint.export;
    const uint64_t interval = check->config->checkpoint.interval;
    const uint64_t kept = check->config->checkpoint.keep_every;

    if (kept > 0 && interval == 0)
        REFUSE(check, "checkpoint", "keep_every", "checkpoint.keep_every",
               "= %" PRIu64 " needs checkpoints: [checkpoint] interval", kept);

    if (every > 0 && interval == 0)
        REFUSE(check, "checkpoint", "export", "checkpoint.export",
               "= %" PRIu64 " needs checkpoints: [checkpoint] interval", every);
    if (every > 0 && every % interval != 0)
        REFUSE(check, "checkpoint", "export", "checkpoint.export",
               "= %" PRIu64 " must be a multiple of interval = %" PRIu64
               ": what is not saved is not exported",
               every, interval);
    return DS_OK;
}

static ds_status sources_are_there(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (check->use == DS_CONFIG_EVAL && c->run.dir[0] == '\0' && c->model.path[0] == '\0')
        return ds_fail(DS_ERR_CONFIG,
                       "%s: [run] dir and [model] path are missing: one of them says "
                       "what is to be evaluated",
                       check->config->places.name);
    if (check->use != DS_CONFIG_PREPARE)
        return DS_OK;
    if (c->data.train[0] == '\0' && c->data.eval[0] == '\0')
        return ds_fail(DS_ERR_CONFIG, "%s: [data] train and eval are missing: nothing to prepare",
                       check->config->places.name);
    if (!ds_config_has_text(c))
        REFUSE(check, "data", "format", NULL, "%s",
               "= safetensors needs no preparation, only text and jsonl do");
    if (c->data.cache[0] == '\0')
        return ds_fail(DS_ERR_CONFIG,
                       "%s: [data] cache and [run] dir are missing: one of them says "
                       "where token shards go",
                       check->config->places.name);
    return DS_OK;
}

/* A folder's adapter brings its settings; without either there is nothing that they could be of. */
static ds_status adapter_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const int has_folder = c->lora.adapter[0] != '\0';
    char here[DS_PLACE_BYTES], there[DS_PLACE_BYTES];

    for (size_t i = 0; i < ds_config_field_count && (has_folder || c->lora.r == 0); i++) {
        const struct ds_field *field = &ds_config_fields[i];
        const int is_rank = strcmp(field->key, "r") == 0;

        if (!(field->flags & DS_FIELD_SHAPES_ADAPTER) || c->places.line[i] == 0 ||
            (is_rank && !has_folder))
            continue;
        ds_config_place(c, "lora", field->key, here);
        if (has_folder)
            return ds_fail(DS_ERR_CONFIG,
                           "%s: [lora] %s cannot stand beside [lora] adapter (%s): the folder's "
                           "adapter_config.json decides it",
                           here, field->key, ds_config_place(c, "lora", "adapter", there));
        return ds_fail(DS_ERR_CONFIG, "%s: [lora] %s has no meaning without [lora] r or adapter",
                       here, field->key);
    }
    return DS_OK;
}

/* What is frozen is stored in fewer bits, and on the device. */
static ds_status base_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->lora.base != DS_BASE_COMPUTE && c->lora.r == 0 && c->lora.adapter[0] == '\0')
        REFUSE(
            check, "lora", "base", "lora.base", "%s",
            "= nf4 and int8 are of what is frozen, and nothing is without lora.r or lora.adapter");
    return DS_OK;
}

static ds_status devices_fit(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->run.cpu_streams == DS_DEVICE_DEFERRED && strcmp(c->run.device, "cuda") == 0)
        REFUSE(check, "run", "cpu_streams", "run.cpu_streams run.device", "= %s",
               "deferred is a mode of the cpu, device is cuda");
    if (c->run.deterministic == 0 && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "run", "deterministic", "run.deterministic run.device", "= %s",
               "false has no meaning with device = cpu, which always is deterministic");
    return DS_OK;
}

/* What moves data between hosts' memories does not reach a GPU's, and the other way round. */
static ds_status transport_fits(const struct ds_rule_check *check)
{
    static const char keys[] = "parallel.transport run.device";
    const struct ds_config *c = check->config;
    const int is_nccl = c->parallel.transport == DS_TRANSPORT_NCCL;

    if (is_nccl && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "parallel", "transport", keys, "= %s", "nccl is between GPUs, device is cpu");
    if (!is_nccl && c->parallel.transport != DS_TRANSPORT_AUTO &&
        strcmp(c->run.device, "cuda") == 0)
        REFUSE(check, "parallel", "transport", keys,
               "= %s is between the memories of cpu ranks, device is cuda",
               c->parallel.transport == DS_TRANSPORT_SHM ? "shm" : "mpi");
    return DS_OK;
}

static ds_status gpu_keys_fit(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->parallel.gather != DS_GATHER_KERNEL && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "parallel", "gather", "parallel.gather run.device",
               "= %s is between GPUs, device is cpu",
               c->parallel.gather == DS_GATHER_SYMMETRIC ? "symmetric" : "copy_engine");
    if (c->run.share_device && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "run", "share_device", "run.share_device run.device", "= %s",
               "true is about GPUs, device is cpu, which ranks share anyway");
    if (c->run.graphs && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "run", "graphs", "run.graphs run.device", "= %s",
               "true is about GPUs, device is cpu, which has no graphs");
    if (c->run.graphs && c->parallel.gather == DS_GATHER_COPY_ENGINE)
        REFUSE(check, "parallel", "gather", "parallel.gather run.graphs", "= %s",
               "copy_engine cannot be captured into a graph (NCCL 2.28), graphs = true asks for "
               "that");
    return DS_OK;
}

static ds_status trace_reads(const struct ds_rule_check *check)
{
    const char *text = check->config->log.trace;
    uint64_t first, last;

    if (text[0] != '\0' && !ds_trace_range_parse(text, &first, &last))
        REFUSE(check, "log", "trace", NULL, "= '%s' must be first..last with 1 <= first <= last",
               text);
    if (text[0] != '\0' && check->use == DS_CONFIG_TRAIN && first > check->config->train.steps)
        REFUSE(check, "log", "trace", "log.trace",
               "= '%s' begins after the last step, train.steps = %" PRIu64, text,
               check->config->train.steps);
    return DS_OK;
}

static ds_status fault_is_known(const struct ds_rule_check *check)
{
    const char *text = check->config->debug.inject;
    struct ds_inject inject;

    if (text[0] == '\0')
        return DS_OK;
    if (!ds_inject_parse(text, &inject))
        REFUSE(check, "debug", "inject", NULL,
               "= '%s' must be KIND:RANK:STEP with KIND hang, fail, kill or nan, or "
               "KIND:all:FIRST-LAST with KIND labels or rate",
               text);
    if (inject.kind == DS_INJECT_NAN && inject.step == 0)
        REFUSE(check, "debug", "inject", "debug.inject",
               "= '%s': nothing is computed before step 1", text);
    if (check->rank_count > 0 && inject.rank != DS_INJECT_ALL && inject.rank >= check->rank_count)
        REFUSE(check, "debug", "inject", "debug.inject",
               "= '%s' names rank %" PRIu64 " of %" PRIu64, text, inject.rank, check->rank_count);
    return DS_OK;
}

/* In the order in which they speak. */
static const struct {
    ds_status (*rule)(const struct ds_rule_check *check);
    int is_quiet; /* ends badly by REFUSE alone; else it speaks itself, and no value of a key cures it */
    int is_of_model; /* asked again when a folder has said what the model is */
} rules[] = {{folder_or_shape, 0, 0},
             {needed_keys_are_there, 0, 0},
             {adapter_fits, 0, 0},
             {base_fits, 1, 0},
             {devices_fit, 1, 0},
             {transport_fits, 1, 0},
             {gpu_keys_fit, 1, 0},
             {heads_fit, 1, 0},
             {vocabulary_fits, 1, 0},
             {sequence_fits, 1, 1},
             {ds_rule_ranks, 1, 0},
             {ds_rule_chunks, 1, 0},
             {ds_rule_stages, 1, 1},
             {ds_rule_tensor, 1, 1},
             {ds_rule_sequence_parallel, 1, 0},
             {ds_rule_batches, 1, 0},
             {ds_rule_precision, 1, 0},
             {ds_rule_zero, 1, 0},
             {ds_rule_homes, 1, 0},
             {ds_rule_directories, 0, 0},
             {schedule_fits, 1, 0},
             {lists_read, 0, 0},
             {ds_rule_rows, 0, 0},
             {evaluations_have_data, 1, 0},
             {exports_are_saved, 1, 0},
             {ds_rule_places, 0, 0},
             {sources_are_there, 0, 0},
             {trace_reads, 1, 0},
             {fault_is_known, 1, 0}};

ds_status ds_rules_ask(const struct ds_rule_check *check)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is_quiet && rules[i].rule(check) != DS_OK) {
            check->blame->rule = i;
            return DS_ERR_CONFIG;
        }
    return DS_OK;
}

ds_status ds_config_validate(const struct ds_config *config, enum ds_config_use use,
                             uint64_t rank_count)
{
    const struct ds_rule_check check = {.config = config, .use = use, .rank_count = rank_count};

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        DS_TRY(rules[i].rule(&check));
    return DS_OK;
}

ds_status ds_config_validate_model(const struct ds_config *config, enum ds_config_use use,
                                   uint64_t rank_count, const struct ds_model_config *model)
{
    const struct ds_rule_check check = {
        .config = config, .use = use, .rank_count = rank_count, .model = model};

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].is_of_model)
            DS_TRY(rules[i].rule(&check));
    return DS_OK;
}

int ds_config_is_possible(const struct ds_config *config, enum ds_config_use use,
                          uint64_t rank_count, const struct ds_model_config *model)
{
    struct ds_blame blame;
    const struct ds_rule_check check = {config, use, rank_count, model, &blame};

    return ds_rules_ask(&check) == DS_OK;
}
