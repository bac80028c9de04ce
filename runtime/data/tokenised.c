/* tokenised.c - samples that somebody tokenised before: `input_ids` [N, S] or [N, B, S] and optional `labels`
 * in the Hugging Face convention: aligned with input_ids, shifted here, -100 ignored. */
#include "sources.h"

#include <string.h>

/* A row is read in pieces of this many numbers, so that a long one needs no memory of its own. */
enum { PIECE_ELEMS = 4096 };

enum integer_use { USE_IDS, USE_LABELS };

static int integer_dtype(enum ds_dtype dtype)
{
    return dtype == DS_U8 || dtype == DS_I8 || dtype == DS_U16 || dtype == DS_I16 ||
           dtype == DS_U32 || dtype == DS_I32 || dtype == DS_U64 || dtype == DS_I64;
}

/* U64 beyond int64 turns negative: refused all the same. */
static int64_t integer_at(const void *piece, enum ds_dtype dtype, uint64_t i)
{
    const uint8_t *at = (const uint8_t *)piece + i * ds_dtype_bytes(dtype);
    union {
        int64_t i64;
        int32_t i32;
        uint32_t u32;
        int16_t i16;
        uint16_t u16;
        int8_t i8;
        uint8_t u8;
    } value;

    memcpy(&value, at, ds_dtype_bytes(dtype));
    switch (dtype) {
    case DS_I32:
        return value.i32;
    case DS_U32:
        return value.u32;
    case DS_I16:
        return value.i16;
    case DS_U16:
        return value.u16;
    case DS_I8:
        return value.i8;
    case DS_U8:
        return value.u8;
    default:
        return value.i64;
    }
}

/* Labels may be -100. */
static ds_status check_value(const struct source *s, const struct ds_safetensors_entry *entry,
                             enum integer_use use, uint64_t index, uint64_t at, int64_t value)
{
    const int is_id = value >= 0 && (uint64_t)value < s->vocab_size;

    if (is_id || (use == USE_LABELS && value == -100))
        return DS_OK;
    return source_bad_id(s, use == USE_LABELS ? "label" : "token id", index, at, value,
                         entry->dtype != DS_U64);
}

/* Elements first.. of row `index` of `entry`, checked, as int32. */
static ds_status read_row(const struct source *s, const struct ds_safetensors_entry *entry,
                          uint64_t index, uint64_t first, enum integer_use use, int32_t *to)
{
    int64_t piece[PIECE_ELEMS]; /* aligned for, and as wide as, every dtype */

    for (uint64_t at = first; at < s->seq_length;) {
        const uint64_t left = s->seq_length - at, count = left < PIECE_ELEMS ? left : PIECE_ELEMS;
        DS_TRY(ds_safetensors_read(s->file, entry, index * s->seq_length + at, count, piece));
        for (uint64_t i = 0; i < count; i++) {
            const int64_t value = integer_at(piece, entry->dtype, i);
            DS_TRY(check_value(s, entry, use, index, at + i, value));
            to[at - first + i] = (int32_t)value;
        }
        at += count;
    }
    return DS_OK;
}

static ds_status read_tokenised(const struct source *s, uint64_t index, const struct ds_sample *to)
{
    DS_TRY(read_row(s, s->ids, index, 0, USE_IDS, to->id));
    if (s->labels)
        DS_TRY(read_row(s, s->labels, index, 1, USE_LABELS, to->target));
    else
        memcpy(to->target, to->id + 1, (size_t)(s->seq_length - 1) * sizeof *to->target);
    to->target[s->seq_length - 1] = -100;
    for (uint64_t t = 0; t < s->seq_length; t++) {
        to->position[t] = (int32_t)t;
        to->document[t] = 0;
    }
    return DS_OK;
}

/* ---- all of it at once, before the first sample is asked for */

/* One tensor from end to end. The first label of a row is never used. */
static ds_status check_tensor(const struct source *s, const struct ds_safetensors_entry *entry,
                              enum integer_use use, const struct shard_check *check,
                              uint64_t *ignored_count)
{
    int64_t piece[PIECE_ELEMS];
    uint64_t index = 0, t = 0; /* of the element */

    for (uint64_t at = 0; at < entry->elems;) {
        const uint64_t left = entry->elems - at, count = left < PIECE_ELEMS ? left : PIECE_ELEMS;
        DS_TRY(ds_safetensors_read(s->file, entry, at, count, piece));
        for (uint64_t i = 0; i < count; i++) {
            const int64_t value = integer_at(piece, entry->dtype, i);
            if (use == USE_IDS || t > 0) {
                DS_TRY(check_value(s, entry, use, index, t, value));
                *ignored_count += value == -100;
            }
            if (++t == s->seq_length) {
                t = 0;
                index++;
            }
        }
        at += count;
        if (check->progress)
            check->progress(check->user, at, entry->elems);
    }
    return DS_OK;
}

ds_status source_check_tokenised(struct source *s, const struct shard_check *check)
{
    uint64_t ignored_count = 0;

    DS_TRY(check_tensor(s, s->ids, USE_IDS, check, &ignored_count));
    if (s->labels)
        DS_TRY(check_tensor(s, s->labels, USE_LABELS, check, &ignored_count));
    s->trained_count = s->sample_count * (s->seq_length - 1) - ignored_count;
    return DS_OK;
}

static const struct source_ops tokenised_ops = {read_tokenised};

static ds_status check_shape(const struct source *s, const struct ds_safetensors_entry *entry)
{
    const char *path = ds_safetensors_path(s->file);

    if (!integer_dtype(entry->dtype) || entry->dim_count < 2 || entry->dim_count > 3)
        return ds_fail(DS_ERR_DATA,
                       "%s: '%s' is %s with %u dims; it must be whole numbers [N, S] or [N, B, S]",
                       path, entry->name, ds_dtype_name(entry->dtype), entry->dim_count);
    if (entry->shape[entry->dim_count - 1] != s->seq_length)
        return ds_fail(DS_ERR_DATA,
                       "%s: '%s' has rows of %llu tokens, but train.seq_length is %llu%s", path,
                       entry->name, (unsigned long long)entry->shape[entry->dim_count - 1],
                       (unsigned long long)s->seq_length, s->seq_place);
    if (entry->elems == 0)
        return ds_fail(DS_ERR_DATA, "%s: '%s' is empty", path, entry->name);
    return DS_OK;
}

ds_status source_open_tokenised(struct ds_fs *fs, const char *path, struct source *out)
{
    DS_TRY(ds_safetensors_open(fs, path, &out->file));
    out->ops = &tokenised_ops;
    out->one_document = 1;
    out->sample_documents = 1;
    out->ids = ds_safetensors_find(out->file, "input_ids");
    out->labels = ds_safetensors_find(out->file, "labels");
    if (!out->ids)
        return ds_fail(DS_ERR_DATA,
                       "%s: no tensor 'input_ids', which data.format = safetensors reads", path);
    DS_TRY(check_shape(out, out->ids));
    if (out->labels) {
        DS_TRY(check_shape(out, out->labels));
        if (out->labels->elems != out->ids->elems)
            return ds_fail(DS_ERR_DATA, "%s: 'labels' has %llu elements, 'input_ids' %llu", path,
                           (unsigned long long)out->labels->elems,
                           (unsigned long long)out->ids->elems);
    }
    out->token_count = out->ids->elems;
    out->sample_count = out->ids->elems / out->seq_length;
    return DS_OK;
}
