/* tokenised.c - samples that somebody tokenised before: `input_ids` [N, S] or [N, B, S] and optional `labels`
 * in the Hugging Face convention: aligned with input_ids, shifted here, -100 ignored. */
#include "sources.h"

#include <stdlib.h>
#include <string.h>

enum { ROW_BYTES_ON_STACK = 65536 };

static int integer_dtype(enum ds_dtype dtype)
{
    return dtype == DS_I64 || dtype == DS_I32 || dtype == DS_U16 || dtype == DS_I16 ||
           dtype == DS_U32;
}

static int64_t integer_at(const void *row, enum ds_dtype dtype, uint64_t i)
{
    const uint8_t *at = (const uint8_t *)row + i * ds_dtype_bytes(dtype);
    int64_t i64;
    int32_t i32;
    uint32_t u32;
    int16_t i16;
    uint16_t u16;

    switch (dtype) {
    case DS_I64:
        memcpy(&i64, at, sizeof i64);
        return i64;
    case DS_I32:
        memcpy(&i32, at, sizeof i32);
        return i32;
    case DS_U32:
        memcpy(&u32, at, sizeof u32);
        return u32;
    case DS_I16:
        memcpy(&i16, at, sizeof i16);
        return i16;
    default:
        memcpy(&u16, at, sizeof u16);
        return u16;
    }
}

static ds_status fill_ids(const struct source *s, uint64_t index, const void *row,
                          const struct ds_sample *to)
{
    for (uint64_t t = 0; t < s->seq_length; t++) {
        const int64_t id = integer_at(row, s->ids->dtype, t);
        if (id < 0 || (uint64_t)id >= s->vocab_size)
            return source_bad_id(s, index, t, id);
        to->id[t] = (int32_t)id;
        to->position[t] = (int32_t)t;
        to->document[t] = 0;
    }
    return DS_OK;
}

static ds_status fill_targets(const struct source *s, uint64_t index, const void *row,
                              enum ds_dtype dtype, const struct ds_sample *to)
{
    for (uint64_t t = 0; t + 1 < s->seq_length; t++) {
        const int64_t label = integer_at(row, dtype, t + 1);
        if (label != -100 && (label < 0 || (uint64_t)label >= s->vocab_size))
            return source_bad_id(s, index, t + 1, label);
        to->target[t] = (int32_t)label;
    }
    to->target[s->seq_length - 1] = -100;
    return DS_OK;
}

static ds_status read_rows(const struct source *s, uint64_t index, void *row,
                           const struct ds_sample *to)
{
    const struct ds_safetensors_entry *labels = s->labels ? s->labels : s->ids;

    DS_TRY(ds_safetensors_read(s->file, s->ids, index * s->seq_length, s->seq_length, row));
    DS_TRY(fill_ids(s, index, row, to));
    if (s->labels)
        DS_TRY(ds_safetensors_read(s->file, labels, index * s->seq_length, s->seq_length, row));
    return fill_targets(s, index, row, labels->dtype, to);
}

static ds_status read_tokenised(const struct source *s, uint64_t index, const struct ds_sample *to)
{
    _Alignas(8) uint8_t on_stack[ROW_BYTES_ON_STACK];
    const size_t bytes = (size_t)s->seq_length * sizeof(int64_t);
    void *row = bytes <= sizeof on_stack ? on_stack : malloc(bytes);
    ds_status st;

    if (!row)
        return ds_fail(DS_ERR_NO_MEMORY, "a row of %zu bytes", bytes);
    st = read_rows(s, index, row, to);
    if (row != on_stack)
        free(row);
    return st;
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
                       "%s: '%s' has rows of %llu tokens, but train.seq_length is %llu", path,
                       entry->name, (unsigned long long)entry->shape[entry->dim_count - 1],
                       (unsigned long long)s->seq_length);
    if (entry->elems == 0)
        return ds_fail(DS_ERR_DATA, "%s: '%s' is empty", path, entry->name);
    return DS_OK;
}

ds_status source_open_tokenised(struct ds_fs *fs, const char *path, struct source *out)
{
    DS_TRY(ds_safetensors_open(fs, path, &out->file));
    out->ops = &tokenised_ops;
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
