/* part.h (private) - how the parts of a tokenizer.json are read: objects with a "type", often in sequences. */
#ifndef DSTRAIN_TOKENIZER_PART_H
#define DSTRAIN_TOKENIZER_PART_H

#include "pattern.h"

#include "dstrain/json.h"

typedef ds_status tok_part_load(const char *name, const json_t *json, void *user);

/* `load` for `json`, or, where its type is Sequence, for each of its `list`, which may be sequences again.
 * NULL or null: for none. `part` is what messages call it. */
DS_CHECKED ds_status tok_part_each(const char *name, const json_t *json, const char *part,
                                   const char *list, tok_part_load *load, void *user);
/* its "type"; `*out` is borrowed, as all texts here are */
DS_CHECKED ds_status tok_part_type(const char *name, const json_t *json, const char *part,
                                   const char **out);
/* always DS_ERR_DATA */
DS_CHECKED ds_status tok_part_unknown(const char *name, const char *part, const char *type,
                                      const char *known);
/* a text that has to be there */
DS_CHECKED ds_status tok_part_text(const char *name, const json_t *json, const char *key,
                                   struct tok_text *out);
/* a text that is one character; absent: `*out` stays */
DS_CHECKED ds_status tok_part_char(const char *name, const json_t *json, const char *key,
                                   uint32_t *out);
/* "pattern": {"Regex": ...} or {"String": ...} */
DS_CHECKED ds_status tok_part_pattern(const char *name, const json_t *json,
                                      struct tok_pattern *out);

#endif
