/* quant_write.c - a matrix becomes the tensors of bitsandbytes' form, piece by piece: its codes are written as they are
 * made, absmax are kept until all are known. */
#include "quant_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE_BYTES 512u

struct ds_quant_writer {
    /* owns */
    float *absmax;
    void *codes; /* of one piece */
    /* borrows */
    const struct ds_quant_items *what;
    struct ds_safetensors_writer *file;
    size_t first;
    uint64_t done, codes_bytes;
};

static uint64_t elems_of(const struct ds_quant_form *form)
{
    return form->rows * form->columns;
}

static uint64_t absmax_count(const struct ds_quant_form *form)
{
    return form->kind == DS_QUANT_INT8 ? form->rows : ds_nf4_blocks(elems_of(form));
}

uint64_t ds_quant_bytes(const struct ds_quant_form *form)
{
    const uint64_t elems = elems_of(form);
    char text[STATE_BYTES];

    if (form->kind == DS_QUANT_INT8)
        return elems + form->rows * sizeof(float) + 1;
    return ds_nf4_bytes(elems) + 16 * sizeof(float) +
           quant_state_print(form, 0, text, sizeof text) +
           (form->is_nested
                ? ds_nf4_blocks(elems) + (ds_nf4_nests(elems) + DS_QUANT_MAP) * sizeof(float)
                : ds_nf4_blocks(elems) * sizeof(float));
}

/* ---- names and shapes */

static void item(struct ds_quant_items *o, const char *name, size_t stem, const char *suffix,
                 enum ds_dtype dtype, uint64_t count)
{
    struct ds_safetensors_item *made = &o->items[o->count];

    snprintf(o->names[o->count], sizeof o->names[0], "%.*s%s", (int)stem, name, suffix);
    *made = (struct ds_safetensors_item){
        .name = o->names[o->count], .dtype = dtype, .dim_count = 1, .shape = {count}};
    o->count++;
}

/* In this order they are written. */
static void describe_nf4(struct ds_quant_items *o, const char *name)
{
    const uint64_t elems = elems_of(&o->form), blocks = ds_nf4_blocks(elems);
    const size_t stem = strlen(name);
    char text[STATE_BYTES];

    item(o, name, stem, "", DS_U8, ds_nf4_bytes(elems));
    o->items[0].dim_count = 2;
    o->items[0].shape[1] = 1;
    item(o, name, stem, ".quant_map", DS_F32, 16);
    item(o, name, stem, QUANT_STATE_SUFFIX, DS_U8,
         quant_state_print(&o->form, 0, text, sizeof text));
    item(o, name, stem, ".absmax", o->form.is_nested ? DS_U8 : DS_F32, blocks);
    if (!o->form.is_nested)
        return;
    item(o, name, stem, ".nested_absmax", DS_F32, ds_nf4_nests(elems));
    item(o, name, stem, ".nested_quant_map", DS_F32, DS_QUANT_MAP);
}

static void describe_int8(struct ds_quant_items *o, const char *name)
{
    const size_t stem = strlen(name) - strlen("weight");

    item(o, name, stem, "weight", DS_I8, o->form.rows);
    o->items[0].dim_count = 2;
    o->items[0].shape[1] = o->form.columns;
    item(o, name, stem, "SCB", DS_F32, o->form.rows);
    item(o, name, stem, "weight_format", DS_U8, 1);
    o->items[2].dim_count = 0;
}

ds_status ds_quant_describe(const struct ds_quant_form *form, const char *name,
                            struct ds_quant_items *out)
{
    const size_t length = strlen(name), more = sizeof QUANT_STATE_SUFFIX;

    if (length + more > DS_QUANT_NAME_BYTES || length < 8 ||
        strcmp(name + length - 7, ".weight") != 0)
        return ds_fail(DS_ERR_DATA, "%.100s: a name like this cannot be that of a quantised matrix",
                       name);
    *out = (struct ds_quant_items){.form = *form};
    if (form->kind == DS_QUANT_NF4)
        describe_nf4(out, name);
    else
        describe_int8(out, name);
    return DS_OK;
}

/* ---- numbers */

ds_status ds_quant_write_begin(const struct ds_quant_items *items,
                               struct ds_safetensors_writer *file, size_t first,
                               struct ds_quant_writer **out)
{
    struct ds_quant_writer *w = calloc(1, sizeof *w);

    if (w)
        w->absmax = malloc(absmax_count(&items->form) * sizeof(float));
    if (!w || !w->absmax) {
        ds_quant_write_abandon(w);
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to quantise it", items->names[0]);
    }
    w->what = items;
    w->file = file;
    w->first = first;
    *out = w;
    return DS_OK;
}

static ds_status reserve(struct ds_quant_writer *w, uint64_t bytes)
{
    void *codes;

    if (bytes <= w->codes_bytes)
        return DS_OK;
    codes = realloc(w->codes, bytes);
    if (!codes)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to quantise it", w->what->names[0]);
    w->codes = codes;
    w->codes_bytes = bytes;
    return DS_OK;
}

ds_status ds_quant_write(struct ds_quant_writer *w, const float *x, uint64_t count)
{
    const struct ds_quant_form *form = &w->what->form;
    const int is_nf4 = form->kind == DS_QUANT_NF4;
    const uint64_t at = w->done, codes = is_nf4 ? ds_nf4_bytes(count) : count;
    uint64_t good;

    DS_ASSERT(at + count <= elems_of(form) && at % (is_nf4 ? DS_NF4_BLOCK : form->columns) == 0);
    DS_TRY(reserve(w, codes));
    good = is_nf4 ? ds_nf4_quantise(x, count, w->codes, w->absmax + at / DS_NF4_BLOCK)
                  : ds_int8_quantise(x, count / form->columns, form->columns, w->codes,
                                     w->absmax + at / form->columns);
    if (good < count)
        return ds_fail(DS_ERR_DATA, "%s: element %llu is not finite and cannot be quantised",
                       w->what->names[0], (unsigned long long)(at + good));
    w->done += count;
    return ds_safetensors_write(w->file, w->first, is_nf4 ? at / 2 : at, codes, w->codes);
}

static ds_status write_whole(struct ds_quant_writer *w, size_t index, const void *from)
{
    const struct ds_safetensors_item *what = &w->what->items[index];

    return ds_safetensors_write(w->file, w->first + index, 0, what->dim_count ? what->shape[0] : 1,
                                from);
}

static ds_status write_state(struct ds_quant_writer *w, float offset)
{
    static const float levels[] = DS_NF4_LEVELS;
    char text[STATE_BYTES];

    (void)quant_state_print(&w->what->form, offset, text, sizeof text);
    DS_TRY(write_whole(w, 1, levels));
    return write_whole(w, 2, text);
}

static ds_status write_nested(struct ds_quant_writer *w)
{
    const uint64_t blocks = absmax_count(&w->what->form);
    const uint64_t nests = ds_nf4_nests(elems_of(&w->what->form));
    float map[DS_QUANT_MAP], offset, *nest = malloc(nests * sizeof *nest);
    ds_status st =
        nest ? reserve(w, blocks)
             : ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to quantise it", w->what->names[0]);

    if (st != DS_OK) {
        free(nest);
        return st;
    }
    ds_quant_map(map);
    ds_nf4_nest(w->absmax, blocks, map, w->codes, nest, &offset);
    st = write_state(w, offset);
    if (st == DS_OK)
        st = write_whole(w, 3, w->codes);
    if (st == DS_OK)
        st = write_whole(w, 4, nest);
    if (st == DS_OK)
        st = write_whole(w, 5, map);
    free(nest);
    return st;
}

static ds_status write_rest(struct ds_quant_writer *w)
{
    static const uint8_t row_major = 0;

    DS_ASSERT(w->done == elems_of(&w->what->form));
    if (w->what->form.kind == DS_QUANT_INT8) {
        DS_TRY(write_whole(w, 1, w->absmax));
        return write_whole(w, 2, &row_major);
    }
    if (w->what->form.is_nested)
        return write_nested(w);
    DS_TRY(write_state(w, 0));
    return write_whole(w, 3, w->absmax);
}

ds_status ds_quant_write_end(struct ds_quant_writer *w)
{
    const ds_status st = write_rest(w);

    ds_quant_write_abandon(w);
    return st;
}

void ds_quant_write_abandon(struct ds_quant_writer *w)
{
    if (!w)
        return;
    free(w->absmax);
    free(w->codes);
    free(w);
}
