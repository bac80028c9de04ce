/* dropout.c - some elements become zeros, the others larger by as much: which ones is a matter of where they are in the
 * whole and of the step, so that a backward, a rank that has other columns, and a layer that is made again see the
 * same. */
#include "elements.h"
#include "kernels.h"
#include "launch.h"

#include "dstrain/philox.h"

#define NUMBERS 8 /* of 16 bits in a block of Philox */

/* A run of elements of one row: number `first` is that of the first. */
struct run {
    void *y;
    const void *x;
    uint64_t first, count;
    uint64_t key, step;
    uint32_t threshold;
    float scale;
    int add;
};

static void draw_block(const struct run *r, uint64_t block, uint32_t words[4])
{
    const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)r->step,
                                 (uint32_t)(r->step >> 32)};

    ds_philox(counter, r->key, words);
}

KERNEL_INLINE void drop_run(const struct run *r, enum ds_dtype dtype)
{
    uint32_t words[4] = {0};

    for (uint64_t i = 0; i < r->count; i++) {
        const uint64_t number = r->first + i;
        const unsigned part = (unsigned)(number % NUMBERS);
        if (i == 0 || part == 0)
            draw_block(r, number / NUMBERS, words);
        const int is_kept = (words[part / 2] >> 16 * (part & 1) & 0xffffu) >= r->threshold;
        const float kept = is_kept ? element_load(r->x, i, dtype) * r->scale : 0.0f;
        element_store(r->y, i, r->add ? element_load(r->y, i, dtype) + kept : kept, dtype);
    }
}

static ds_status dropout_work(void *args, int *done)
{
    const struct ds_dropout_args *a = args;
    const uint64_t rows = a->x.shape[0], columns = a->x.shape[1];
    const float scale = (float)DS_DROPOUT_NUMBERS / (float)(DS_DROPOUT_NUMBERS - a->threshold);

#pragma omp parallel for schedule(static)
    for (uint64_t row = 0; row < rows; row++) {
        const struct run run = {
            .y = element_to(a->y.data, row * columns, a->y.dtype),
            .x = element_from(a->x.data, row * columns, a->x.dtype),
            .first = (a->first_row + row) * a->whole_columns + a->first_column,
            .count = columns,
            .key = a->key,
            .step = a->record->step,
            .threshold = a->threshold,
            .scale = scale,
            .add = a->add,
        };
        ELEMENT_SWITCH(a->x.dtype, drop_run, &run);
    }
    *done = 1;
    return DS_OK;
}

ds_status kernel_dropout(struct ds_stream *stream, const struct ds_dropout_args *args)
{
    KERNEL_WANTS_FLOAT("dropout", args, x);
    KERNEL_WANTS_SAME("dropout", args, y, x);
    DS_ASSERT(kernel_elems(&args->y) == kernel_elems(&args->x) && args->x.dim_count == 2);
    DS_ASSERT(args->threshold < DS_DROPOUT_NUMBERS &&
              args->first_column + args->x.shape[1] <= args->whole_columns);
    return kernel_launch(stream, dropout_work, args, sizeof *args);
}
