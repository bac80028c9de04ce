/* embedding.c - rows of a table by token id, and the scatter of their gradients. A table row that
 * occurs often gets its terms in token order: threads share out columns, not tokens. */
#include "kernels.h"
#include "launch.h"

#include <string.h>

#define COLUMN_RANGE 64

static ds_status forward_work(void *args, int *done)
{
    const struct ds_embedding_args *a = args;
    size_t token_count = kernel_elems(&a->id_T), width = a->table_VC.shape[1];
    const int32_t *id = a->id_T.data;
    const float *table = a->table_VC.data;
    float *y = a->y_TC.data;

#pragma omp parallel for schedule(static) if (token_count > 1)
    for (size_t t = 0; t < token_count; t++)
        memcpy(y + t * width, table + (size_t)id[t] * width, width * sizeof(float));
    *done = 1;
    return DS_OK;
}

KERNEL_CLONES static void scatter_range(float *table, const float *dy, const int32_t *id,
                                        size_t token_count, size_t width, size_t count)
{
    for (size_t t = 0; t < token_count; t++) {
        float *to = table + (size_t)id[t] * width;

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

        scatter_range((float *)a->table_VC.data + at, (const float *)a->y_TC.data + at,
                      a->id_T.data, kernel_elems(&a->id_T), width, count);
    }
    *done = 1;
    return DS_OK;
}

static ds_status embedding_check(const char *kernel, const struct ds_embedding_args *args)
{
    DS_ASSERT(kernel_elems(&args->y_TC) == kernel_elems(&args->id_T) * args->table_VC.shape[1]);
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
