/* config_rules.c - what no single key can know: combinations that cannot be, said with their numbers.
 * Each rule is a row of functions over a resolved configuration; the first that fails, speaks. */
#include "config_rules.h"
#include "inject_text.h"
#include "trace_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* "config.ini:12", "command line", or the file alone where nobody wrote the key */
const char *ds_rule_place(const struct ds_rule_check *check, const char *section, const char *key,
                          char to[DS_PLACE_BYTES])
{
    const struct ds_field *field = ds_field_find(section, key);

    DS_ASSERT(field);
    uint32_t line = check->places->line[ds_field_index(field)];
    if (line == DS_PLACE_OVERRIDE)
        snprintf(to, DS_PLACE_BYTES, "command line");
    else if (line == 0)
        snprintf(to, DS_PLACE_BYTES, "%s", check->places->name);
    else
        snprintf(to, DS_PLACE_BYTES, "%s:%u", check->places->name, line);
    return to;
}

static int is_given(const struct ds_field *field, const struct ds_config *config)
{
    const char *at = (const char *)config + field->offset;

    return field->kind == DS_FIELD_TEXT ? at[0] != '\0' : *(const uint64_t *)(const void *)at != 0;
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
            (is_shape && has_path))
            continue;
        ds_field_describe(field, allowed, sizeof allowed);
        return ds_fail(DS_ERR_CONFIG, "%s: [%s] %s is missing%s: %s (%s)", check->places->name,
                       field->section, field->key, is_shape ? ", and so is [model] path" : "",
                       field->help, allowed);
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

        if (!(field->flags & DS_FIELD_SHAPES_MODEL) || check->places->line[i] == 0)
            continue;
        return ds_fail(DS_ERR_CONFIG,
                       "%s: [model] %s cannot stand beside [model] path (%s): the folder's "
                       "config.json decides it",
                       ds_rule_place(check, "model", field->key, here), field->key,
                       ds_rule_place(check, "model", "path", path));
    }
    return DS_OK;
}

static ds_status heads_fit(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t heads = c->model.num_attention_heads;

    if (c->model.path[0] != '\0' || heads == 0)
        return DS_OK;
    if (heads % c->model.num_key_value_heads != 0)
        REFUSE(check, "model", "num_key_value_heads",
               "= %" PRIu64 " must divide num_attention_heads = %" PRIu64,
               c->model.num_key_value_heads, heads);
    if (c->model.hidden_size % heads != 0 &&
        (c->model.head_dim == DS_AUTO || c->model.family == DS_FAMILY_LLAMA))
        REFUSE(check, "model", "hidden_size",
               "= %" PRIu64 " must be a multiple of num_attention_heads = %" PRIu64 "%s",
               c->model.hidden_size, heads,
               c->model.family == DS_FAMILY_LLAMA ? "" : " where head_dim is not given");
    if (c->model.head_dim < DS_MODEL_HEAD_DIM_MIN || c->model.head_dim > DS_MODEL_HEAD_DIM_MAX)
        REFUSE(check, "model", "head_dim",
               "= %" PRIu64 " (hidden_size / num_attention_heads where it is not given) must be in "
               "%u..%u",
               c->model.head_dim, DS_MODEL_HEAD_DIM_MIN, DS_MODEL_HEAD_DIM_MAX);
    if (c->model.head_dim % 2 != 0)
        REFUSE(check, "model", "head_dim",
               "= %" PRIu64 " must be even: rotary positions turn pairs", c->model.head_dim);
    return DS_OK;
}

static ds_status vocabulary_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->model.path[0] != '\0' || check->use != DS_CONFIG_TRAIN)
        return DS_OK;
    if (c->model.vocab_size == DS_AUTO)
        REFUSE(check, "model", "vocab_size", "%s",
               "must be a number with [data] format = safetensors: no tokenizer decides it");
    if (c->data.format == DS_DATA_TEXT && c->model.vocab_size < DS_BYTE_VOCAB)
        REFUSE(check, "model", "vocab_size",
               "= %" PRIu64 " is smaller than the tokenizer's %d ([data] tokenizer = %s)",
               c->model.vocab_size, DS_BYTE_VOCAB, c->data.tokenizer);
    return DS_OK;
}

static ds_status sequence_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->model.path[0] == '\0' && c->train.seq_length > c->model.max_position_embeddings)
        REFUSE(check, "train", "seq_length",
               "= %" PRIu64 " is longer than [model] max_position_embeddings = %" PRIu64,
               c->train.seq_length, c->model.max_position_embeddings);
    return DS_OK;
}

static ds_status schedule_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const uint64_t steps = c->train.steps, warmup = c->schedule.warmup_steps;

    if (c->schedule.min_learning_rate > c->optimizer.learning_rate)
        REFUSE(check, "schedule", "min_learning_rate",
               "= %g is larger than [optimizer] learning_rate = %g", c->schedule.min_learning_rate,
               c->optimizer.learning_rate);
    if (check->use != DS_CONFIG_TRAIN)
        return DS_OK;
    if (warmup > steps)
        REFUSE(check, "schedule", "warmup_steps",
               "= %" PRIu64 " is more than [train] steps = %" PRIu64, warmup, steps);
    if (c->schedule.kind != DS_LR_WSD)
        return DS_OK;
    if (c->schedule.decay_steps == 0)
        REFUSE(check, "schedule", "decay_steps", "%s",
               "must be given with kind = wsd: how many of the last steps decay");
    if (c->schedule.decay_steps > steps - warmup)
        REFUSE(check, "schedule", "decay_steps",
               "= %" PRIu64 " does not fit behind warmup_steps: %" PRIu64 " + %" PRIu64
               " > [train] steps = %" PRIu64,
               c->schedule.decay_steps, warmup, c->schedule.decay_steps, steps);
    return DS_OK;
}

/* The list must read well before anything is opened; what it names is looked for later. */
static ds_status list_reads(const struct ds_rule_check *check, const char *key, const char *text)
{
    char here[DS_PLACE_BYTES], where[DS_PLACE_BYTES + 32];
    struct ds_data_parts parts;

    if (text[0] == '\0')
        return DS_OK;
    snprintf(where, sizeof where, "%s: [data] %s", ds_rule_place(check, "data", key, here), key);
    DS_TRY(ds_data_parts_parse(where, text, &parts));
    ds_data_parts_fini(&parts);
    return DS_OK;
}

static ds_status lists_read(const struct ds_rule_check *check)
{
    DS_TRY(list_reads(check, "train", check->config->data.train));
    return list_reads(check, "eval", check->config->data.eval);
}

static ds_status data_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->train.eval_interval > 0 && c->data.eval[0] == '\0')
        REFUSE(check, "train", "eval_interval",
               "= %" PRIu64 " needs data to evaluate on: [data] eval", c->train.eval_interval);
    if (check->use == DS_CONFIG_EVAL && c->run.dir[0] == '\0' && c->model.path[0] == '\0')
        return ds_fail(DS_ERR_CONFIG,
                       "%s: [run] dir and [model] path are missing: one of them says "
                       "what is to be evaluated",
                       check->places->name);
    if (check->use != DS_CONFIG_PREPARE)
        return DS_OK;
    if (c->data.train[0] == '\0' && c->data.eval[0] == '\0')
        return ds_fail(DS_ERR_CONFIG, "%s: [data] train and eval are missing: nothing to prepare",
                       check->places->name);
    if (c->data.format != DS_DATA_TEXT)
        REFUSE(check, "data", "format", "%s", "= safetensors needs no preparation, only text does");
    if (c->data.cache[0] == '\0')
        return ds_fail(DS_ERR_CONFIG,
                       "%s: [data] cache and [run] dir are missing: one of them says "
                       "where token shards go",
                       check->places->name);
    return DS_OK;
}

static ds_status devices_fit(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;

    if (c->run.cpu_streams == DS_DEVICE_DEFERRED && strcmp(c->run.device, "cuda") == 0)
        REFUSE(check, "run", "cpu_streams", "= %s",
               "deferred is a mode of the cpu, device is cuda");
    if (c->run.deterministic == 0 && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "run", "deterministic", "= %s",
               "false has no meaning with device = cpu, which always is deterministic");
    return DS_OK;
}

/* What moves data between hosts' memories does not reach a GPU's, and the other way round. */
static ds_status transport_fits(const struct ds_rule_check *check)
{
    const struct ds_config *c = check->config;
    const int is_nccl = c->parallel.transport == DS_TRANSPORT_NCCL;

    if (is_nccl && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "parallel", "transport", "= %s",
               "nccl is between GPUs, device is cpu; nearest: auto");
    if (!is_nccl && c->parallel.transport != DS_TRANSPORT_AUTO &&
        strcmp(c->run.device, "cuda") == 0)
        REFUSE(check, "parallel", "transport",
               "= %s is between the memories of cpu ranks, device is cuda; nearest: nccl",
               c->parallel.transport == DS_TRANSPORT_SHM ? "shm" : "mpi");
    if (c->parallel.gather != DS_GATHER_KERNEL && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "parallel", "gather", "= %s is between GPUs, device is cpu; nearest: kernel",
               c->parallel.gather == DS_GATHER_SYMMETRIC ? "symmetric" : "copy_engine");
    if (c->run.share_device && strcmp(c->run.device, "cpu") == 0)
        REFUSE(check, "run", "share_device", "= %s",
               "true is about GPUs, device is cpu, which ranks share anyway");
    return DS_OK;
}

static ds_status trace_reads(const struct ds_rule_check *check)
{
    const char *text = check->config->log.trace;
    uint64_t first, last;

    if (text[0] != '\0' && !ds_trace_range_parse(text, &first, &last))
        REFUSE(check, "log", "trace", "= '%s' must be first..last with 1 <= first <= last", text);
    if (text[0] != '\0' && check->use == DS_CONFIG_TRAIN && first > check->config->train.steps)
        REFUSE(check, "log", "trace", "= '%s' begins after the last step, train.steps = %" PRIu64,
               text, check->config->train.steps);
    return DS_OK;
}

static ds_status fault_is_known(const struct ds_rule_check *check)
{
    const char *text = check->config->debug.inject;
    struct ds_inject inject;

    if (text[0] == '\0')
        return DS_OK;
    if (!ds_inject_parse(text, &inject))
        REFUSE(check, "debug", "inject",
               "= '%s' must be KIND:RANK:STEP with KIND hang, fail, kill or nan", text);
    if (inject.kind == DS_INJECT_NAN && inject.step == 0)
        REFUSE(check, "debug", "inject", "= '%s': nothing is computed before step 1", text);
    if (check->rank_count > 0 && inject.rank >= check->rank_count)
        REFUSE(check, "debug", "inject", "= '%s' names rank %" PRIu64 " of %" PRIu64, text,
               inject.rank, check->rank_count);
    return DS_OK;
}

typedef ds_status (*rule)(const struct ds_rule_check *check);

static const rule rules_of_keys[] = {folder_or_shape, needed_keys_are_there,
                                     devices_fit,     transport_fits,
                                     heads_fit,       vocabulary_fits};
/* These end badly by REFUSE alone: they can be asked quietly. */
static const rule rules_of_layouts[] = {sequence_fits,  ds_rule_ranks,   ds_rule_stages,
                                        ds_rule_tensor, ds_rule_batches, ds_rule_precision,
                                        ds_rule_zero};
static const rule rules_of_times_and_texts[] = {schedule_fits, lists_read, data_fits, trace_reads,
                                                fault_is_known};

static ds_status obey(const rule *rules, size_t count, const struct ds_rule_check *check)
{
    for (size_t i = 0; i < count; i++)
        DS_TRY(rules[i](check));
    return DS_OK;
}
#define OBEY(rules, check) obey(rules, sizeof(rules) / sizeof(rules)[0], check)

ds_status ds_config_validate(const struct ds_config *config, const struct ds_places *places,
                             enum ds_config_use use, uint64_t rank_count)
{
    const struct ds_rule_check check = {config, places, use, rank_count};

    DS_TRY(OBEY(rules_of_keys, &check));
    DS_TRY(OBEY(rules_of_layouts, &check));
    return OBEY(rules_of_times_and_texts, &check);
}

int ds_config_is_possible(const struct ds_config *config, uint64_t rank_count)
{
    const struct ds_rule_check check = {config, NULL, DS_CONFIG_TRAIN, rank_count};

    return OBEY(rules_of_layouts, &check) == DS_OK;
}
