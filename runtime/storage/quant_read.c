/* quant_read.c - a quantised matrix in files: what lies beside its codes is read and checked when it is opened, codes
 * as they are wanted. */
#include "quant_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_ELEMS 65536u /* of codes in memory; whole blocks */

struct ds_quant_matrix {
    /* owns */
    float *absmax; /* of blocks, where they are not nested; of rows */
    uint8_t *absmax_codes;
    float *nest_absmax, *map;
    /* borrows */
    const struct ds_safetensors *file;
    const struct ds_safetensors_entry *codes;
    struct ds_quant_form form;
    float offset;
};

/* ---- finding */

static int find_in_one(void *user, const char *name, const struct ds_safetensors **file,
                       const struct ds_safetensors_entry **entry)
{
    *file = user;
    *entry = ds_safetensors_find(*file, name);
    return *entry != NULL;
}

struct ds_quant_files ds_quant_one_file(struct ds_safetensors *file)
{
    return (struct ds_quant_files){.find = find_in_one, .user = file};
}

/* One tensor of a matrix. */
struct part {
    const struct ds_safetensors *file;
    const struct ds_safetensors_entry *entry;
};

/* `stem` of `name` (its first bytes), then `suffix`. Too long: there is no such tensor. */
static int find(const struct ds_quant_files *files, const char *name, size_t stem,
                const char *suffix, struct part *out)
{
    char whole[DS_QUANT_NAME_BYTES];

    if (stem + strlen(suffix) >= sizeof whole)
        return 0;
    memcpy(whole, name, stem);
    strcpy(whole + stem, suffix);
    return files->find(files->user, whole, &out->file, &out->entry);
}

#define WHAT(part) ds_safetensors_path((part)->file), (part)->entry->name

/* All of a part, which has `count` elements of `dtype`; malloc'ed. */
static ds_status take(const struct ds_quant_files *files, const char *name, size_t stem,
                      const char *suffix, enum ds_dtype dtype, uint64_t count, void **out)
{
    struct part part;
    void *at;
    ds_status st;

    if (!find(files, name, stem, suffix, &part))
        return ds_fail(DS_ERR_DATA, "%s: it is quantised, but %.*s%s is missing", name, (int)stem,
                       name, suffix);
    if (part.entry->dtype != dtype || part.entry->elems != count)
        return ds_fail(DS_ERR_DATA, "%s: %s: %llu elements of %s, must be %llu of %s", WHAT(&part),
                       (unsigned long long)part.entry->elems, ds_dtype_name(part.entry->dtype),
                       (unsigned long long)count, ds_dtype_name(dtype));
    at = malloc(part.entry->bytes);
    if (!at)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for %llu bytes", part.entry->name,
                       (unsigned long long)part.entry->bytes);
    st = ds_safetensors_read(part.file, part.entry, 0, count, at);
    for (uint64_t i = 0; st == DS_OK && dtype == DS_F32 && i < count; i++)
        if (!isfinite(((float *)at)[i]))
            st = ds_fail(DS_ERR_DATA, "%s: %s: element %llu is not finite", WHAT(&part),
                         (unsigned long long)i);
    if (st != DS_OK) {
        free(at);
        return st;
    }
    *out = at;
    return DS_OK;
}

/* ---- NF4 */

static ds_status check_levels(const struct ds_quant_files *files, const char *name, size_t stem)
{
    static const float levels[] = DS_NF4_LEVELS;
    void *map = NULL;
    int is_known;

    DS_TRY(take(files, name, stem, ".quant_map", DS_F32, 16, &map));
    is_known = memcmp(map, levels, sizeof levels) == 0;
    free(map);
    if (is_known)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "%s.quant_map: not the 16 values of nf4", name);
}

static ds_status take_state(const struct part *state, struct ds_quant_matrix *m)
{
    char text[QUANT_STATE_BYTES_MAX], what[DS_QUANT_NAME_BYTES + 256];

    if (state->entry->dtype != DS_U8 || state->entry->bytes > sizeof text)
        return ds_fail(DS_ERR_DATA, "%s: %s: must be at most %u bytes of U8", WHAT(state),
                       QUANT_STATE_BYTES_MAX);
    DS_TRY(ds_safetensors_read(state->file, state->entry, 0, state->entry->elems, text));
    snprintf(what, sizeof what, "%.250s: %s", WHAT(state));
    return quant_state_parse(what, text, (size_t)state->entry->bytes, &m->form, &m->offset);
}

/* Does the shape that a text says fit the bytes that there are? */
static ds_status check_codes(const struct part *codes, const struct ds_quant_form *form)
{
    uint64_t elems;

    if (!__builtin_mul_overflow(form->rows, form->columns, &elems) &&
        codes->entry->dtype == DS_U8 && codes->entry->elems == ds_nf4_bytes(elems))
        return DS_OK;
    return ds_fail(DS_ERR_DATA, "%s: %s: %llu bytes of %s, not those of [%llu, %llu] in nf4",
                   WHAT(codes), (unsigned long long)codes->entry->elems,
                   ds_dtype_name(codes->entry->dtype), (unsigned long long)form->rows,
                   (unsigned long long)form->columns);
}

static ds_status open_nf4(const struct ds_quant_files *files, const char *name,
                          const struct part *codes, const struct part *state,
                          struct ds_quant_matrix *m)
{
    const size_t stem = strlen(name);
    uint64_t elems;

    DS_TRY(take_state(state, m));
    DS_TRY(check_codes(codes, &m->form));
    DS_TRY(check_levels(files, name, stem));
    elems = m->form.rows * m->form.columns;
    if (!m->form.is_nested)
        return take(files, name, stem, ".absmax", DS_F32, ds_nf4_blocks(elems),
                    (void **)&m->absmax);
    DS_TRY(
        take(files, name, stem, ".absmax", DS_U8, ds_nf4_blocks(elems), (void **)&m->absmax_codes));
    DS_TRY(take(files, name, stem, ".nested_absmax", DS_F32, ds_nf4_nests(elems),
                (void **)&m->nest_absmax));
    return take(files, name, stem, ".nested_quant_map", DS_F32, DS_QUANT_MAP, (void **)&m->map);
}

/* ---- int8 */

static ds_status check_format(const struct ds_quant_files *files, const char *name, size_t stem)
{
    struct part format;
    uint8_t value = 0;

    if (!find(files, name, stem, "weight_format", &format))
        return DS_OK;
    if (format.entry->dtype != DS_U8 || format.entry->elems != 1)
        return ds_fail(DS_ERR_DATA, "%s: %s: must be one U8", WHAT(&format));
    DS_TRY(ds_safetensors_read(format.file, format.entry, 0, 1, &value));
    if (value == 0)
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "%s: %s: %u, only 0 (row-major) is available", WHAT(&format),
                   value);
}

static ds_status open_int8(const struct ds_quant_files *files, const char *name, size_t stem,
                           const struct part *codes, struct ds_quant_matrix *m)
{
    if (codes->entry->dtype != DS_I8 || codes->entry->dim_count != 2)
        return ds_fail(DS_ERR_DATA, "%s: %s: beside its SCB it must be I8 of two dimensions",
                       WHAT(codes));
    m->form = (struct ds_quant_form){.kind = DS_QUANT_INT8,
                                     .dtype = DS_F32, /* the file does not say */
                                     .rows = codes->entry->shape[0],
                                     .columns = codes->entry->shape[1]};
    DS_TRY(check_format(files, name, stem));
    return take(files, name, stem, "SCB", DS_F32, m->form.rows, (void **)&m->absmax);
}

/* ---- a matrix */

static ds_status open_any(const struct ds_quant_files *files, const char *name,
                          const struct part *codes, struct ds_quant_matrix *m)
{
    const size_t length = strlen(name), stem = length > 6 ? length - 6 : 0; /* X. of X.weight */
    struct part beside;

    m->file = codes->file;
    m->codes = codes->entry;
    if (find(files, name, length, QUANT_STATE_SUFFIX, &beside))
        return open_nf4(files, name, codes, &beside, m);
    if (find(files, name, length, ".quant_state.bitsandbytes__fp4", &beside))
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: %s: fp4; only nf4 and int8 are available",
                       WHAT(codes));
    return open_int8(files, name, stem, codes, m);
}

static int is_quantised(const struct ds_quant_files *files, const char *name)
{
    const size_t length = strlen(name);
    struct part beside;

    return find(files, name, length, QUANT_STATE_SUFFIX, &beside) ||
           find(files, name, length, ".quant_state.bitsandbytes__fp4", &beside) ||
           (length > 7 && strcmp(name + length - 7, ".weight") == 0 &&
            find(files, name, length - 6, "SCB", &beside));
}

ds_status ds_quant_open(const struct ds_quant_files *files, const char *name,
                        struct ds_quant_matrix **out)
{
    struct ds_quant_matrix *m;
    struct part codes;
    ds_status st;

    *out = NULL;
    if (!files->find(files->user, name, &codes.file, &codes.entry) || !is_quantised(files, name))
        return DS_OK;
    m = calloc(1, sizeof *m);
    if (!m)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to read it", name);
    st = open_any(files, name, &codes, m);
    if (st != DS_OK) {
        ds_quant_close(m);
        return st;
    }
    *out = m;
    return DS_OK;
}

void ds_quant_close(struct ds_quant_matrix *m)
{
    if (!m)
        return;
    free(m->absmax);
    free(m->absmax_codes);
    free(m->nest_absmax);
    free(m->map);
    free(m);
}

struct ds_quant_form ds_quant_form_of(const struct ds_quant_matrix *m)
{
    return m->form;
}

/* ---- numbers */

static ds_status no_memory(const struct ds_quant_matrix *m)
{
    return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to read it", m->codes->name);
}

struct ds_quantised ds_quant_beside(const struct ds_quant_matrix *m)
{
    return (struct ds_quantised){.kind = m->form.kind,
                                 .columns = m->form.columns,
                                 .absmax = m->absmax,
                                 .absmax_codes = m->absmax_codes,
                                 .nest_absmax = m->nest_absmax,
                                 .map = m->map,
                                 .offset = m->offset};
}

ds_status ds_quant_read_codes(const struct ds_quant_matrix *m, uint64_t start, uint64_t count,
                              void *to)
{
    const int is_nf4 = m->form.kind == DS_QUANT_NF4;

    DS_ASSERT(start + count <= m->form.rows * m->form.columns);
    DS_ASSERT(!is_nf4 || start % DS_NF4_BLOCK == 0);
    return ds_safetensors_read(m->file, m->codes, is_nf4 ? start / 2 : start,
                               is_nf4 ? ds_nf4_bytes(count) : count, to);
}

/* Numbers at .. at + count, of which the first begins a block: codes are read behind one another. */
static ds_status read_piece(const struct ds_quant_matrix *m, uint64_t at, uint64_t count,
                            uint8_t *codes, float *to)
{
    const struct ds_quantised whole = ds_quant_beside(m);

    DS_TRY(ds_quant_read_codes(m, at, count, codes));
    ds_dequantise(&whole, codes, at, count, to);
    return DS_OK;
}

/* To the dtype that it has for those who compute with it. */
static void round_all(enum ds_dtype dtype, float *x, uint64_t count)
{
    uint16_t half[1024];

    for (uint64_t at = 0; dtype != DS_F32 && at < count; at += 1024) {
        const size_t some = count - at < 1024 ? (size_t)(count - at) : 1024;

        (void)ds_dtype_from_f32(half, dtype, x + at, some);
        (void)ds_dtype_to_f32(x + at, half, dtype, some);
    }
}

ds_status ds_quant_read(const struct ds_quant_matrix *m, uint64_t start, uint64_t count, float *to)
{
    const uint64_t end = start + count;
    uint8_t *codes = malloc(PIECE_ELEMS);
    float *x = malloc(PIECE_ELEMS * sizeof *x);
    ds_status st = codes && x ? DS_OK : no_memory(m);

    DS_ASSERT(end <= m->form.rows * m->form.columns);
    for (uint64_t at = start; st == DS_OK && at < end;) {
        const uint64_t from = at - at % DS_NF4_BLOCK;
        const uint64_t to_read = end - from < PIECE_ELEMS ? end - from : PIECE_ELEMS;

        st = read_piece(m, from, to_read, codes, x);
        if (st == DS_OK)
            memcpy(to + (at - start), x + (at - from), (from + to_read - at) * sizeof *x);
        at = from + to_read;
    }
    if (st == DS_OK)
        round_all(m->form.dtype, to, count);
    free(codes);
    free(x);
    return st;
}
