/* hf_quantise.c - matrices of an export in the form of bitsandbytes (quant_file.h), which quantises those of the layers
 * and leaves the rest as it is. A matrix comes from its start to its end; what is less than a block, or a row, waits for
 * the next piece. */
#include "hf_quantise.h"
#include "hf_read.h"

#include "dstrain/json.h"

#include <stdlib.h>
#include <string.h>

int hf_quantises(const struct ds_hf_write_options *options, const struct ds_param *param)
{
    static const char layers[] = "model.layers.";

    return options->is_quantised && param->is_matrix &&
           strncmp(param->name, layers, sizeof layers - 1) == 0;
}

struct ds_quant_form hf_quantised_form(const struct ds_hf_write_options *options,
                                       const struct ds_param *param, enum ds_dtype dtype)
{
    return (struct ds_quant_form){.kind = options->quant,
                                  .dtype = dtype,
                                  .rows = param->shape[0],
                                  .columns = param->shape[1],
                                  .is_nested = 1};
}

/* ---- config.json, as transformers writes it */

static json_t *describe(enum ds_quant_kind kind, const char *dtype)
{
    const int is_nf4 = kind == DS_QUANT_NF4;
    json_t *said = json_pack("{s:s, s:b, s:b, s:f, s:[s], s:b, s:b}", "quant_method",
                             "bitsandbytes", "load_in_4bit", is_nf4, "load_in_8bit", !is_nf4,
                             "llm_int8_threshold", 6.0, "llm_int8_skip_modules", "lm_head",
                             "llm_int8_has_fp16_weight", 0, "llm_int8_enable_fp32_cpu_offload", 0);

    if (!said || !is_nf4)
        return said;
    json_object_set_new(said, "bnb_4bit_quant_type", json_string("nf4"));
    json_object_set_new(said, "bnb_4bit_use_double_quant", json_true());
    json_object_set_new(said, "bnb_4bit_compute_dtype", json_string(dtype));
    json_object_set_new(said, "bnb_4bit_quant_storage", json_string("uint8"));
    return said;
}

ds_status hf_quantise_config(enum ds_quant_kind kind, char **text)
{
    json_t *root = NULL;
    char *made;

    DS_TRY(ds_json_parse("config.json", *text, strlen(*text), &root));
    const char *dtype = json_string_value(json_object_get(root, "dtype"));
    const int has_failed =
        json_object_set_new(root, "quantization_config", describe(kind, dtype ? dtype : "")) != 0;
    made = has_failed ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(root);
    if (!made)
        return ds_fail(DS_ERR_NO_MEMORY, "to write config.json");
    free(*text);
    *text = made;
    return DS_OK;
}

/* ---- numbers */

void hf_quantiser_fini(struct hf_quantiser *q)
{
    ds_quant_write_abandon(q->writer);
    free(q->rest);
    *q = (struct hf_quantiser){0};
}

static ds_status begin(struct hf_quantiser *q, const struct ds_quant_items *matrix,
                       struct ds_safetensors_writer *file, size_t first)
{
    const struct ds_quant_form *form = &matrix->form;

    hf_quantiser_fini(q);
    q->elems = form->rows * form->columns;
    q->unit = form->kind == DS_QUANT_NF4 ? DS_NF4_BLOCK : form->columns;
    q->rest = malloc(q->unit * sizeof *q->rest);
    if (!q->rest)
        return ds_fail(DS_ERR_NO_MEMORY, "to quantise %s", matrix->names[0]);
    return ds_quant_write_begin(matrix, file, first, &q->writer);
}

/* Whole units at once, or what makes one whole with the rest; the last may be short. */
static ds_status take(struct hf_quantiser *q, const float *from, uint64_t count, uint64_t *taken)
{
    const int is_end = q->done + count == q->elems;
    const uint64_t whole = q->rest_count > 0 ? 0 : is_end ? count : count - count % q->unit;
    const uint64_t room = q->unit - q->rest_count;
    ds_status st = DS_OK;

    *taken = whole > 0 ? whole : count < room ? count : room;
    if (whole > 0)
        return ds_quant_write(q->writer, from, whole);
    memcpy(q->rest + q->rest_count, from, *taken * sizeof *from);
    q->rest_count += *taken;
    if (q->rest_count == q->unit || (is_end && *taken == count)) {
        st = ds_quant_write(q->writer, q->rest, q->rest_count);
        q->rest_count = 0;
    }
    return st;
}

ds_status hf_quantise(struct hf_quantiser *q, const struct ds_quant_items *matrix,
                      struct ds_safetensors_writer *file, size_t first, uint64_t start,
                      uint64_t count, const float *from)
{
    if (start == 0)
        DS_TRY(begin(q, matrix, file, first));
    DS_ASSERT(q->writer && start == q->done);
    for (uint64_t at = 0, taken; at < count; at += taken) {
        DS_TRY(take(q, from + at, count - at, &taken));
        q->done += taken;
    }
    if (q->done < q->elems)
        return DS_OK;
    const ds_status st = ds_quant_write_end(q->writer);
    q->writer = NULL;
    return st;
}
