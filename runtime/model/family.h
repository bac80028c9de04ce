/* family.h - what a family fixes, and the sizes a config holds, as tables; private to this folder. */
#ifndef MODEL_FAMILY_H
#define MODEL_FAMILY_H

#include "dstrain/model.h"

#include <stddef.h>

struct family_row {
    const char *model_type, *architecture;
    int has_qkv_bias, has_qk_norm;        /* always there, whatever the file says */
    int attention_bias_key, mlp_bias_key; /* keys of config.json that mean something here */
    int sliding_window_key;
    int64_t bos_token_id, eos_token_id;
};
extern const struct family_row family_rows[DS_FAMILY_COUNT];

/* One size of a config. `absent`: what transformers takes where the key is missing; 0: derived. */
struct size_row {
    const char *key;
    size_t offset; /* of a uint64_t in struct ds_model_config */
    uint64_t min, max;
    uint64_t absent[DS_FAMILY_COUNT];
    int is_essential; /* says how large the model is: no default of our own */
};
#define MODEL_SIZE_COUNT 8
extern const struct size_row size_rows[MODEL_SIZE_COUNT];
uint64_t *size_at(struct ds_model_config *config, const struct size_row *row);

/* The kinds of rope and their names in files. */
const char *rope_kind_name(enum ds_rope_kind kind);
int rope_kind_parse(const char *text, enum ds_rope_kind *out); /* 0: unknown */
#define ROPE_KINDS_TEXT "default, linear, llama3, yarn"

/* local: what a config says about rope, both spellings; `config->rope` holds the defaults */
DS_CHECKED ds_status rope_read(const char *name, const json_t *root, struct ds_rope *rope);
/* local: numbers of rope that contradict each other */
DS_CHECKED ds_status rope_check(const char *name, const struct ds_model_config *config);

#endif
