/* quant_state.c - the JSON text in which bitsandbytes says what a matrix of NF4 is. */
#include "quant_state.h"

#include "dstrain/json.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    enum ds_dtype dtype;
} dtypes[] = {{"float32", DS_F32}, {"bfloat16", DS_BF16}, {"float16", DS_F16}};

static ds_status take_dtype(const char *what, const json_t *state, enum ds_dtype *out)
{
    const char *text = "";

    DS_TRY(ds_json_text(what, state, "dtype", &text));
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(text, dtypes[i].name) == 0) {
            *out = dtypes[i].dtype;
            return DS_OK;
        }
    return ds_fail(DS_ERR_DATA, "%s: key 'dtype' must be float32, bfloat16 or float16", what);
}

static ds_status take_shape(const char *what, const json_t *state, struct ds_quant_form *form)
{
    const json_t *shape = json_object_get(state, "shape");
    const json_t *rows = json_array_get(shape, 0), *columns = json_array_get(shape, 1);

    if (!json_is_array(shape) || json_array_size(shape) != 2 || !json_is_integer(rows) ||
        !json_is_integer(columns) || json_integer_value(rows) < 1 ||
        json_integer_value(columns) < 1)
        return ds_fail(DS_ERR_DATA, "%s: key 'shape' must be two numbers from 1 on", what);
    form->rows = (uint64_t)json_integer_value(rows);
    form->columns = (uint64_t)json_integer_value(columns);
    return DS_OK;
}

/* `key` is the one number that is known here. */
static ds_status want(const char *what, const json_t *state, const char *key, uint64_t wanted)
{
    uint64_t value = 0;

    DS_TRY(ds_json_u64(what, state, key, 0, UINT64_MAX >> 1, &value));
    if (value == wanted)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "%s: %s is %llu, only %llu is available", what, key,
                   (unsigned long long)value, (unsigned long long)wanted);
}

static ds_status take_nest(const char *what, const json_t *state, struct ds_quant_form *form,
                           float *offset)
{
    const char *dtype = "float32";
    double value = 0;

    *offset = 0;
    form->is_nested = json_object_get(state, "nested_offset") != NULL;
    if (!form->is_nested)
        return DS_OK;
    DS_TRY(want(what, state, "nested_blocksize", DS_NF4_NEST));
    DS_TRY(ds_json_text(what, state, "nested_dtype", &dtype));
    if (strcmp(dtype, "float32") != 0)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: nested_dtype is not float32", what);
    DS_TRY(ds_json_real(what, state, "nested_offset", -FLT_MAX, FLT_MAX, &value));
    *offset = (float)value;
    return DS_OK;
}

static ds_status take_all(const char *what, const json_t *state, struct ds_quant_form *form,
                          float *offset)
{
    const char *type = "";

    DS_TRY(ds_json_text(what, state, "quant_type", &type));
    if (strcmp(type, "nf4") != 0)
        return ds_fail(DS_ERR_DATA, "%s: key 'quant_type' must be nf4", what);
    DS_TRY(want(what, state, "blocksize", DS_NF4_BLOCK));
    DS_TRY(take_dtype(what, state, &form->dtype));
    DS_TRY(take_shape(what, state, form));
    return take_nest(what, state, form, offset);
}

ds_status quant_state_parse(const char *what, const char *text, size_t bytes,
                            struct ds_quant_form *form, float *offset)
{
    struct ds_quant_form got = {.kind = DS_QUANT_NF4};
    json_t *state = NULL;
    ds_status st;

    DS_TRY(ds_json_parse(what, text, bytes, &state));
    st = take_all(what, state, &got, offset);
    json_decref(state);
    if (st == DS_OK)
        *form = got;
    return st;
}

size_t quant_state_print(const struct ds_quant_form *form, float offset, char *to, size_t bytes)
{
    const char *dtype = form->dtype == DS_F32    ? "float32"
                        : form->dtype == DS_BF16 ? "bfloat16"
                                                 : "float16";
    char nest[160] = "";
    int length;

    if (form->is_nested)
        snprintf(nest, sizeof nest,
                 ", \"nested_blocksize\": %u, \"nested_dtype\": \"float32\", "
                 "\"nested_offset\": %.17e",
                 DS_NF4_NEST, (double)offset);
    length = snprintf(to, bytes,
                      "{\"quant_type\": \"nf4\", \"blocksize\": %u, \"dtype\": \"%s\", \"shape\": "
                      "[%llu, %llu]%s}",
                      DS_NF4_BLOCK, dtype, (unsigned long long)form->rows,
                      (unsigned long long)form->columns, nest);
    return length > 0 && (size_t)length < bytes ? (size_t)length : 0;
}
