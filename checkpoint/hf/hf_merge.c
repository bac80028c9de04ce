/* hf_merge.c - a model with an adapter added to its matrices, as an export: W + scale * B A, with DoRA its rows of the
 * lengths that were trained, from the two folders, some rows at a time; what the adapter has trained of the model itself
 * takes its place; or a model as it is, in another dtype or quantised. In memory are a piece of a matrix, one A and some
 * rows of its B, whatever the model's size. */
#include "hf_pack.h"
#include "hf_read.h"
#include "hf_write.h"

#include "dstrain/export.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_ELEMS = 1 << 22 };

struct merge {
    /* owns */
    struct ds_hf *weights, *factors;
    struct ds_model *plain,
        *adapted; /* what is written; the same with the adapter's factors behind it, or NULL: there is none */
    uint32_t *factors_of; /* [plain->param_count]: number of the matrix + 1; 0: no factors */
    float *piece, *a, *b, *m;
    /* of what is frozen beside the adapter, as far as it has been read */
    int counts_base; /* somebody knows what it should be */
    uint64_t base_sum;
    uint32_t read_count; /* parameters */
    /* borrows */
    const char *base;
    const struct ds_values *values; /* of the checkpoint that the adapter is of, or NULL */
};

/* ---- reading */

static ds_status read_some(const struct ds_hf *hf, const struct ds_param *param, uint64_t start,
                           uint64_t count, float *to)
{
    const struct ds_safetensors *file = NULL;
    const struct ds_safetensors_entry *entry = hf_find(hf, param->name, &file);
    int is_quantised;

    DS_ASSERT(entry); /* both were checked */
    DS_TRY(hf_quant_read(hf, param, start, count, to, &is_quantised));
    if (is_quantised)
        return DS_OK;
    return ds_safetensors_read_f32(file, entry, start, count, to);
}

/* A row of W, the same row of B, all of A. */
static void add_row(float *w, const float *b, const float *a, uint64_t rank, uint64_t columns,
                    float scale)
{
    for (uint64_t k = 0; k < rank; k++) {
        const float factor = scale * b[k], *row = a + k * columns;

        for (uint64_t i = 0; i < columns; i++)
            w[i] += factor * row[i];
    }
}

/* DoRA: the row has the length `length`, which may be less than nothing. */
static void set_length(float *w, uint64_t columns, float length)
{
    double squares = 0;

    for (uint64_t i = 0; i < columns; i++)
        squares += (double)w[i] * (double)w[i];
    for (uint64_t i = 0; squares > 0 && i < columns; i++)
        w[i] = (float)((double)length / sqrt(squares) * (double)w[i]);
}

static void merge_row(const struct merge *m, const struct ds_lora_factors *factors, uint64_t row,
                      uint64_t columns)
{
    float *w = m->piece + row * columns;

    add_row(w, m->b + row * factors->module.rank, m->a, factors->module.rank, columns,
            factors->module.scale);
    if (m->adapted->lora.is_dora)
        set_length(w, columns, m->m[row]);
}

/* Rows first.. of the piece that has been read. */
static ds_status add_factors(struct merge *m, const struct ds_lora_factors *factors, uint64_t first,
                             uint64_t rows, uint64_t columns)
{
    const uint64_t rank = factors->module.rank;

    DS_TRY(read_some(m->factors, &m->adapted->params[factors->b], first * rank, rows * rank, m->b));
    if (m->adapted->lora.is_dora)
        DS_TRY(read_some(m->factors, &m->adapted->params[factors->m], first, rows, m->m));
#pragma omp parallel for schedule(static)
    for (uint64_t row = 0; row < rows; row++)
        merge_row(m, factors, row, columns);
    return DS_OK;
}

static uint64_t rows_of_piece(const struct ds_param *param)
{
    const uint64_t rows = PIECE_ELEMS / param->shape[1];

    return rows < 1 ? 1 : rows < param->shape[0] ? rows : param->shape[0];
}

static int is_trained(const struct merge *m, const struct ds_param *param)
{
    return m->adapted && ds_model_find(m->adapted, param->name)->is_trainable;
}

/* As a trainer does that has read it. */
static void count_base(struct merge *m, const struct ds_param *param, uint64_t start,
                       uint64_t count)
{
    if (m->counts_base && !is_trained(m, param))
        m->base_sum +=
            hf_sum((uint32_t)(ds_model_find(m->adapted, param->name) - m->adapted->params), param,
                   start, count, m->piece);
}

static ds_status merge_param(struct merge *m, uint32_t index, const struct hf_sink *sink)
{
    const struct ds_param *param = &m->plain->params[index];
    const uint64_t columns = param->shape[1], most = rows_of_piece(param);
    const struct ds_hf *from = is_trained(m, param) ? m->factors : m->weights;
    const struct ds_lora_factors *factors =
        m->factors_of[index] ? &m->adapted->factors[m->factors_of[index] - 1] : NULL;

    if (factors)
        DS_TRY(read_some(m->factors, &m->adapted->params[factors->a], 0,
                         factors->module.rank * columns, m->a));
    for (uint64_t row = 0, rows; row < param->shape[0]; row += rows) {
        rows = param->shape[0] - row < most ? param->shape[0] - row : most;
        DS_TRY(read_some(from, param, row * columns, rows * columns, m->piece));
        count_base(m, param, row * columns, rows * columns);
        if (factors)
            DS_TRY(add_factors(m, factors, row, rows, columns));
        DS_TRY(sink->put(sink->user, index, row * columns, rows * columns, m->piece));
    }
    return DS_OK;
}

static ds_status merge_agree(void *self, ds_status st)
{
    (void)self; /* alone */
    return st;
}

/* Behind the last one, before there is an export: is it what the factors were trained beside? */
static ds_status merge_read(void *self, uint32_t first, uint32_t end, const struct hf_sink *sink)
{
    struct merge *m = self;

    for (uint32_t i = first; i < end; i++)
        DS_TRY(merge_param(m, i, sink));
    m->read_count += end - first;
    if (!m->counts_base || m->read_count < m->plain->param_count)
        return DS_OK;
    return m->values ? ds_export_check_base(m->values, m->base, m->base_sum)
                     : ds_hf_check_base(m->factors, m->base,
                                        &(struct ds_hf_base){m->base_sum, ds_hf_dtype(m->weights)});
}

static const struct hf_source_ops merge_ops = {.agree = merge_agree, .read = merge_read};

/* ---- opening */

static ds_status open_models(struct merge *m, struct ds_fs *fs, const char *base,
                             const char *adapter)
{
    struct ds_model_config config;
    struct ds_lora lora;

    DS_TRY(ds_hf_read_config(fs, base, &config));
    DS_TRY(ds_model_open(&config, NULL, &m->plain));
    if (!adapter)
        return DS_OK;
    DS_TRY(ds_hf_read_adapter(fs, adapter, &config, &lora));
    ds_status st = ds_model_open_adapted(&config, NULL, &lora, &m->adapted);
    ds_lora_fini(&lora);
    return st;
}

static ds_status open_files(struct merge *m, struct ds_fs *fs, const char *base,
                            const char *adapter)
{
    DS_TRY(ds_hf_open(fs, base, &m->weights));
    DS_TRY(ds_hf_check(m->weights, m->plain));
    DS_TRY(ds_hf_check_tied(m->weights, m->plain));
    if (!adapter)
        return DS_OK;
    DS_TRY(ds_hf_open_adapter(fs, adapter, &m->factors));
    m->counts_base = m->values || ds_hf_knows_base(m->factors);
    return ds_hf_check_adapter(m->factors, m->adapted);
}

static void find_factors(struct merge *m)
{
    const uint64_t count = m->plain->config.num_hidden_layers * DS_LINEAR_COUNT;
    char name[HF_NAME_BYTES];

    for (uint64_t i = 0; m->adapted && i < count; i++) {
        if (m->adapted->factors[i].module.rank == 0)
            continue;
        snprintf(name, sizeof name, "model.layers.%llu.%s.weight",
                 (unsigned long long)(i / DS_LINEAR_COUNT),
                 ds_linear_name((enum ds_linear)(i % DS_LINEAR_COUNT)));
        const struct ds_param *param = ds_model_find(m->plain, name);
        DS_ASSERT(param);
        m->factors_of[param - m->plain->params] = (uint32_t)i + 1;
    }
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static ds_status take_memory(struct merge *m)
{
    uint64_t piece = 1, a = 1, b = 1, most = 1;

    m->factors_of = calloc(m->plain->param_count + 1u, sizeof *m->factors_of);
    if (!m->factors_of)
        return ds_fail(DS_ERR_NO_MEMORY, "to merge");
    find_factors(m);
    for (uint32_t i = 0; i < m->plain->param_count; i++) {
        const struct ds_param *param = &m->plain->params[i];
        const uint64_t rows = rows_of_piece(param), of = m->factors_of[i];
        const uint64_t rank = of ? m->adapted->factors[of - 1].module.rank : 0;

        piece = larger(piece, rows * param->shape[1]);
        a = larger(a, rank * param->shape[1]);
        b = larger(b, rank * rows);
        most = larger(most, rows);
    }
    m->piece = malloc((size_t)piece * sizeof *m->piece);
    m->a = malloc((size_t)a * sizeof *m->a);
    m->b = malloc((size_t)b * sizeof *m->b);
    m->m = malloc((size_t)most * sizeof *m->m);
    return m->piece && m->a && m->b && m->m
               ? DS_OK
               : ds_fail(DS_ERR_NO_MEMORY, "to merge: %llu bytes",
                         (unsigned long long)((piece + a + b + most) * 4));
}

/* As the model's own matrices are stored. */
static enum ds_dtype dtype_of(const struct merge *m)
{
    const struct ds_safetensors *file = NULL;
    const enum ds_dtype dtype = hf_find(m->weights, m->plain->params[0].name, &file)->dtype;

    return dtype == DS_BF16 || dtype == DS_F16 ? dtype : DS_F32;
}

static void merge_fini(struct merge *m)
{
    ds_hf_close(m->weights);
    ds_hf_close(m->factors);
    ds_model_close(m->plain);
    ds_model_close(m->adapted);
    free(m->factors_of);
    free(m->piece);
    free(m->a);
    free(m->b);
    free(m->m);
}

ds_status ds_hf_merge(const char *base, const char *adapter, const struct ds_values *values,
                      const struct ds_hf_write_options *to, enum ds_dtype *written)
{
    struct ds_hf_write_options options = *to;
    struct merge m = {.base = base, .values = adapter ? values : NULL};
    ds_status st;

    DS_TRY_GOTO(st, open_models(&m, to->fs, base, adapter), done);
    DS_TRY_GOTO(st, open_files(&m, to->fs, base, adapter), done);
    DS_TRY_GOTO(st, take_memory(&m), done);
    if (options.dtype == DS_BOOL)
        options.dtype = dtype_of(&m);
    const struct hf_source source = {
        .ops = &merge_ops, .self = &m, .model = m.plain, .is_writer = 1};
    st = hf_write_from(&options, &source);
    *written = options.dtype;
done:
    merge_fini(&m);
    return st;
}
