/* plan_case.h - a configuration as a person would write it: a base and overrides, changed, settled and planned as a run
 * does it, and what the worst of its ranks takes. */
#ifndef DSTRAIN_TEST_PLAN_CASE_H
#define DSTRAIN_TEST_PLAN_CASE_H

#include "capture.h"
#include "config/config.h"
#include "plan_question.h"
#include "test.h"

/* overrides that setups share */
#define RECOMPUTES "train.activation_checkpointing=full"
#define ROWS       "data.format=safetensors"

enum { OVERRIDES_MAX = 24 };

struct setup {
    const char *what;
    uint32_t ranks;
    const char *overrides[OVERRIDES_MAX];
};

static const char base_text[] =
    "[run]\ndir = unused\ndevice = cpu\n"
    "[model]\nfamily = llama\nvocab_size = 300\nhidden_size = 64\nintermediate_size = 160\n"
    "num_hidden_layers = 4\nnum_attention_heads = 8\nnum_key_value_heads = 8\n"
    "[data]\ntrain = unused.txt\n"
    "[train]\nsteps = 1\nglobal_batch_size = 16\nmicro_batch_size = 1\nseq_length = 48\n"
    "[zero]\nreshard_after_forward = always\nwindow = 1\n";

static inline int is_same_key(const char *a, const char *b)
{
    const size_t length = strcspn(a, "=");

    return length == strcspn(b, "=") && strncmp(a, b, length) == 0;
}

enum { CHANGES_MAX = 3 };

/* "a.b=1 c.d=2", cut into its changes */
static inline size_t cut_changes(const char *change, char to[CHANGES_MAX][64])
{
    size_t count = 0;

    for (; *change; change += strcspn(change, " "), change += *change == ' ')
        snprintf(to[count++], sizeof to[0], "%.*s", (int)strcspn(change, " "), change);
    return count;
}

/* `change` (NULL: none; or several, with blanks between) on top of the setup; 0: refused, quietly. Rows of a
 * safetensors file have the length that they have: the data would refuse another. */
static inline int load(const struct setup *setup, const char *change, uint64_t limit,
                       struct ds_config *config)
{
    const char *overrides[OVERRIDES_MAX + CHANGES_MAX];
    char changes[CHANGES_MAX][64];
    const size_t changed = cut_changes(change ? change : "", changes);
    struct capture capture;
    size_t count = 0;
    ds_status st;

    for (int i = 0; setup->overrides[i]; i++) {
        int is_kept = 1;
        for (size_t k = 0; k < changed; k++)
            is_kept &= !is_same_key(setup->overrides[i], changes[k]);
        if (is_kept)
            overrides[count++] = setup->overrides[i];
    }
    for (size_t k = 0; k < changed; k++)
        overrides[count++] = changes[k];
    capture_begin(&capture);
    st = ds_config_parse("c.ini", base_text, sizeof base_text - 1, overrides, count, config);
    if (st == DS_OK) {
        ds_config_resolve(config, setup->ranks);
        st = ds_config_validate(config, DS_CONFIG_TRAIN, setup->ranks);
    }
    (void)capture_end(&capture);
    config->memory.device_limit = limit;
    return st == DS_OK && (config->data.format == DS_DATA_TEXT || config->train.seq_length == 48);
}

static inline uint64_t worst_bytes(const struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan_question question = question_of(config, ranks);
    struct ds_plan plan;
    uint32_t role;

    assert_ok(ds_plan_worst(&question, &plan, &role));
    return ds_plan_device_bytes(&plan);
}

/* what a run does before it begins */
static inline ds_status settle_and_check(struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan_question question = question_of(config, ranks);

    assert_ok(ds_plan_settle(&question, config));
    return ds_plan_check(&question);
}

#endif
