/* embedding.c - rows of a table, or of a part of one, by token id, and the scatter of their gradients. A
 * table row that occurs often gets its terms in token order: threads share out columns, not tokens. */
#include "kernels.h"
#include "launch.h"

#include <string.h>

#define COLUMN_RANGE 64

static ds_status forward_work(void *args, int *done)
{
    const struct ds_embedding_args *a = args;
    size_t token_count = a->id_T.shape[0], width = a->table_VC.shape[1];
    const int32_t *id = a->id_T.data;
    const float *table = a->table_VC.data;
    float *y = a->y_TC.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++) {
        const size_t row = (size_t)id[t] - a->first; /* of an id below it: beyond all rows */

        if (row < a->table_VC.shape[0])
            memcpy(y + t * width, table + row * width, width * sizeof(float));
        else
            memset(y + t * width, 0, width * sizeof(float));
    }
    *done = 1;
    return DS_OK;
}

/* `count` columns of every token, from those at which table and dy point. */
KERNEL_CLONES static void scatter_range(const struct ds_embedding_args *a, float *table,
                                        const float *dy, size_t count)
{
    const size_t token_count = a->id_T.shape[0], width = a->table_VC.shape[1];
    const int32_t *id = a->id_T.data;

    for (size_t t = 0; t < token_count; t++) {
        const size_t row = (size_t)id[t] - a->first;
        float *to = table + row * width;

        if (row >= a->table_VC.shape[0])
            continue;
        for (size_t i = 0; i < count; i++)
            to[i] += dy[t * width + i];
    }
}

static void clear_rows(float *table, size_t row_count, size_t width)
{
#pragma omp parallel for schedule(static) if (row_count > 1)
    for (size_t row = 0; row < row_count; row++)
        memset(table + row * width, 0, width * sizeof(float));
}

static ds_status backward_work(void *args, int *done)
{
    const struct ds_embedding_args *a = args;
    size_t width = a->table_VC.shape[1];
    size_t range_count = (width + COLUMN_RANGE - 1) / COLUMN_RANGE;

    if (!a->add)
        clear_rows(a->table_VC.data, a->table_VC.shape[0], width);
#pragma omp parallel for schedule(static) if (range_count > 1)
    for (size_t i = 0; i < range_count; i++) {
        size_t at = i * COLUMN_RANGE;
        size_t count = width - at < COLUMN_RANGE ? width - at : COLUMN_RANGE;

        scatter_range(a, (float *)a->table_VC.data + at, (const float *)a->y_TC.data + at, count);
    }
    *done = 1;
    return DS_OK;
}

static ds_status embedding_check(const char *kernel, const struct ds_embedding_args *args)
{
    DS_ASSERT(args->id_T.dim_count == 1);
    DS_ASSERT(kernel_elems(&args->y_TC) == args->id_T.shape[0] * args->table_VC.shape[1]);
    KERNEL_WANTS(kernel, args, id_T, DS_I32);
    KERNEL_WANTS(kernel, args, table_VC, DS_F32);
    KERNEL_WANTS(kernel, args, y_TC, DS_F32);
    return DS_OK;
}

ds_status kernel_embedding_forward(struct ds_stream *stream, const struct ds_embedding_args *args)
{
    DS_TRY(embedding_check("embedding_forward", args));
    return kernel_launch(stream, forward_work, args, sizeof *args);
}

ds_status kernel_embedding_backward(struct ds_stream *stream, const struct ds_embedding_args *args)
{
    DS_TRY(embedding_check("embedding_backward", args));
    return kernel_launch(stream, backward_work, args, sizeof *args);
}
