/* json.h - the habits around jansson: one way to parse with a place in the error, one way to ask for a
 * field. A wrong type or range is DS_ERR_DATA with "file: key 'x' must be ..., is ...". */
#ifndef DSTRAIN_JSON_H
#define DSTRAIN_JSON_H

#include "dstrain/status.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* local: one JSON object from `text`; duplicates, trailing text and depth beyond 64 are refused. `name`
 * is what the error calls the text. The caller json_decref()s. */
DS_CHECKED ds_status ds_json_parse(const char *name, const char *text, size_t bytes, json_t **out);

/* local: any JSON value from `text`, for who decides what becomes of a bad one: NULL, and `why` says what is wrong. NUL
 * may stand in texts; duplicates, trailing text and depth are refused as above. The status is of memory alone. */
#define DS_JSON_WHY_BYTES 160
DS_CHECKED ds_status ds_json_try(const char *text, size_t bytes, json_t **out,
                                 char why[DS_JSON_WHY_BYTES]);

/* pure, all four: fields of an object. Absent or null: `*out` keeps what it has (the default). */
DS_CHECKED ds_status ds_json_u64(const char *name, const json_t *object, const char *key,
                                 uint64_t min, uint64_t max, uint64_t *out);
/* integers are taken, too */
DS_CHECKED ds_status ds_json_real(const char *name, const json_t *object, const char *key,
                                  double min, double max, double *out);
DS_CHECKED ds_status ds_json_bool(const char *name, const json_t *object, const char *key,
                                  int *out);
DS_CHECKED ds_status ds_json_text(const char *name, const json_t *object, const char *key,
                                  const char **out); /* borrowed from the object */

#endif
