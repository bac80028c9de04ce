/* targets.h - names of matrices and what matches them; private to this folder. */
#ifndef MODEL_TARGETS_H
#define MODEL_TARGETS_H

#include "dstrain/model.h"

#define TARGET_NAME_BYTES 96

/* A name, or a regular expression. */
struct target {
    const char *text;
    size_t bytes;
    int is_pattern;
    int takes_ends; /* of a pattern: of names behind a dot, too; a name always does */
};

/* pure: of matrix `index` of ds_lora's modules */
void target_name(uint64_t index, char to[TARGET_NAME_BYTES]);
/* local: matches[i] is set where it means matrix i, and is left alone where not; *found: how many it means.
 * DS_ERR_DATA: no regular expression */
DS_CHECKED ds_status target_match(const char *what, const struct ds_model_config *config,
                                  const struct target *target, uint8_t *matches, uint64_t *found);
/* with the names that there are */
DS_CHECKED ds_status target_refuse(const char *what, const struct ds_model_config *config,
                                   const struct target *target);

#endif
