/* embedding.c - rows of a table, or of a part of one, by token id, and the scatter of their gradients. A
 * table row that occurs often gets its terms in token order: threads share out columns, or rows, not tokens. */
#include "elements.h"
#include "kernels.h"
#include "launch.h"

#include <string.h>

#define COLUMN_RANGE 64
#define ROW_PIECE    1024

static ds_status forward_work(void *args, int *done)
{
    const struct ds_embedding_args *a = args;
    size_t token_count = a->id_T.shape[0];
    size_t row_bytes = a->table_VC.shape[1] * ds_dtype_bytes(a->table_VC.dtype);
    const int32_t *id = a->id_T.data;
    const char *table = a->table_VC.data;
    char *y = a->y_TC.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const size_t row = (size_t)id[t] - a->first; /* of an id below it: beyond all rows */

        if (row < a->table_VC.shape[0])
            memcpy(y + t * row_bytes, table + row * row_bytes, row_bytes);
        else
            memset(y + t * row_bytes, 0, row_bytes);
    }
    *done = 1;
    return DS_OK;
}

KERNEL_INLINE void add_loop(float *sum, const void *dy, size_t count, enum ds_dtype dtype)
{
    for (size_t i = 0; i < count; i++)
        sum[i] += element_load(dy, i, dtype);
}

KERNEL_CLONES static void add_row(float *sum, const void *dy, size_t count, enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, add_loop, sum, dy, count);
}

/* The row that gets a token's gradient; of a token whose gradient goes nowhere: beyond all rows. */
static size_t row_of(const struct ds_embedding_args *a, size_t token)
{
    const int32_t id = ((const int32_t *)a->id_T.data)[token];

    return id == a->padding ? a->table_VC.shape[0] : (size_t)id - a->first;
}

/* Columns first.. of token `t`'s gradient. */
static const void *gradient_at(const struct ds_embedding_args *a, size_t t, size_t first)
{
    return element_from(a->y_TC.data, t * a->table_VC.shape[1] + first, a->y_TC.dtype);
}

static void scatter_range(const struct ds_embedding_args *a, size_t first, size_t count)
{
    const size_t width = a->table_VC.shape[1];

    for (size_t t = 0; t < a->id_T.shape[0]; t++)
        if (row_of(a, t) < a->table_VC.shape[0])
            add_row((float *)a->table_VC.data + row_of(a, t) * width + first,
                    gradient_at(a, t, first), count, a->y_TC.dtype);
}

static void clear_rows(const struct ds_embedding_args *a)
{
    const size_t row_bytes = a->table_VC.shape[1] * ds_dtype_bytes(a->table_VC.dtype);

#pragma omp parallel for schedule(static) if (a->table_VC.shape[0] > 1)
    for (size_t row = 0; row < a->table_VC.shape[0]; row++)
        memset((char *)a->table_VC.data + row * row_bytes, 0, row_bytes);
}

static void scatter(const struct ds_embedding_args *a)
{
    const size_t width = a->table_VC.shape[1];
    const size_t range_count = (width + COLUMN_RANGE - 1) / COLUMN_RANGE;

#pragma omp parallel for schedule(static) if (range_count > 1)
    for (size_t i = 0; i < range_count; i++) {
        const size_t left = width - i * COLUMN_RANGE;

        scatter_range(a, i * COLUMN_RANGE, left < COLUMN_RANGE ? left : COLUMN_RANGE);
    }
}

/* ---- into a table of 16 bits: the terms of a row are found and added up in fp32, then stored */

static int is_first_of_row(const struct ds_embedding_args *a, size_t token)
{
    const int32_t *id = a->id_T.data;

    for (size_t t = 0; t < token; t++)
        if (id[t] == id[token])
            return 0;
    return row_of(a, token) < a->table_VC.shape[0];
}

KERNEL_INLINE void store_loop(void *to, const float *sum, size_t count, int add,
                              enum ds_dtype dtype)
{
    for (size_t i = 0; i < count; i++)
        element_store(to, i, add ? element_load(to, i, dtype) + sum[i] : sum[i], dtype);
}

KERNEL_CLONES static void store_row(void *to, const float *sum, size_t count, int add,
                                    enum ds_dtype dtype)
{
    ELEMENT_SWITCH(dtype, store_loop, to, sum, count, add);
}

static void sum_row(const struct ds_embedding_args *a, size_t token)
{
    const int32_t *id = a->id_T.data;
    const size_t width = a->table_VC.shape[1];

    for (size_t first = 0; first < width; first += ROW_PIECE) {
        const size_t count = width - first < ROW_PIECE ? width - first : ROW_PIECE;
        const size_t at = row_of(a, token) * width + first;
        float sum[ROW_PIECE] = {0};

        for (size_t t = token; t < a->id_T.shape[0]; t++)
            if (id[t] == id[token])
                add_row(sum, gradient_at(a, t, first), count, a->y_TC.dtype);
        store_row(element_to(a->table_VC.data, at, a->table_VC.dtype), sum, count, a->add,
                  a->table_VC.dtype);
    }
}

static ds_status backward_work(void *args, int *done)
{
    const struct ds_embedding_args *a = args;

    if (!a->add)
        clear_rows(a);
    if (a->table_VC.dtype == DS_F32) {
        scatter(a);
    } else {
#pragma omp parallel for schedule(dynamic, 16)
        for (size_t t = 0; t < a->id_T.shape[0]; t++)
            if (is_first_of_row(a, t))
                sum_row(a, t);
    }
    *done = 1;
    return DS_OK;
}

static ds_status embedding_check(const char *kernel, const struct ds_embedding_args *args)
{
    DS_ASSERT(args->id_T.dim_count == 1);
    DS_ASSERT(kernel_elems(&args->y_TC) == args->id_T.shape[0] * args->table_VC.shape[1]);
    KERNEL_WANTS(kernel, args, id_T, DS_I32);
    KERNEL_WANTS_FLOAT(kernel, args, table_VC);
    KERNEL_WANTS_FLOAT(kernel, args, y_TC);
    return DS_OK;
}

ds_status kernel_embedding_forward(struct ds_stream *stream, const struct ds_embedding_args *args)
{
    DS_TRY(embedding_check("embedding_forward", args));
    KERNEL_WANTS_SAME("embedding_forward", args, y_TC, table_VC);
    return kernel_launch(stream, forward_work, args, sizeof *args);
}

ds_status kernel_embedding_backward(struct ds_stream *stream, const struct ds_embedding_args *args)
{
    DS_TRY(embedding_check("embedding_backward", args));
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
