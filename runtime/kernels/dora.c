/* dora.c - what DoRA (Liu et al. 2024) does to a product beside factors: rows of W + scale * B A have lengths, columns
 * of the product are divided by them and multiplied by magnitudes that are trained. */
#include "elements.h"
#include "kernels.h"
#include "lanes.h"
#include "launch.h"

#include <math.h>

#define PART 512 /* columns of a row that are summed up beside one another */

/* Columns first .. first + count of row `row`. */
KERNEL_INLINE double part_squares(const struct ds_row_squares_args *a, size_t row, size_t first,
                                  size_t count, enum ds_dtype dtype)
{
    const size_t columns = a->w_OI.shape[1], ranks = a->b_OR.data ? a->b_OR.shape[1] : 0;
    const void *w = element_from(a->w_OI.data, row * columns + first, dtype);
    const void *b = element_from(a->b_OR.data, row * ranks, dtype);
    float sum[PART];
    double squares = 0;

    for (size_t i = 0; i < count; i++)
        sum[i] = element_load(w, i, dtype);
    for (size_t k = 0; k < ranks; k++) {
        const void *of_a = element_from(a->a_RI.data, k * columns + first, dtype);
        const float factor = a->scale * element_load(b, k, dtype);

        for (size_t i = 0; i < count; i++)
            sum[i] += factor * element_load(of_a, i, dtype);
    }
    for (size_t i = 0; i < count; i++)
        squares += (double)sum[i] * (double)sum[i];
    return squares;
}

KERNEL_INLINE void row_of_squares(const struct ds_row_squares_args *a, size_t row,
                                  enum ds_dtype dtype)
{
    const size_t columns = a->w_OI.shape[1];
    double squares = 0;

    for (size_t first = 0; first < columns; first += PART)
        squares +=
            part_squares(a, row, first, columns - first < PART ? columns - first : PART, dtype);
    ((float *)a->squares_O.data)[row] = (float)squares;
}

KERNEL_CLONES static void squares_row(const struct ds_row_squares_args *a, size_t row)
{
    ELEMENT_SWITCH(a->w_OI.dtype, row_of_squares, a, row);
}

static ds_status row_squares_work(void *args, int *done)
{
    const struct ds_row_squares_args *a = args;

#pragma omp parallel for schedule(static)
    for (size_t row = 0; row < a->w_OI.shape[0]; row++)
        squares_row(a, row);
    *done = 1;
    return DS_OK;
}

ds_status kernel_row_squares(struct ds_stream *stream, const struct ds_row_squares_args *args)
{
    DS_ASSERT(kernel_elems(&args->squares_O) == args->w_OI.shape[0]);
    DS_ASSERT(!args->b_OR.data || (args->b_OR.shape[0] == args->w_OI.shape[0] &&
                                   args->a_RI.shape[1] == args->w_OI.shape[1] &&
                                   args->a_RI.shape[0] == args->b_OR.shape[1]));
    KERNEL_WANTS_FLOAT("row_squares", args, w_OI);
    KERNEL_WANTS_SAME("row_squares", args, a_RI, w_OI);
    KERNEL_WANTS_SAME("row_squares", args, b_OR, w_OI);
    KERNEL_WANTS("row_squares", args, squares_O, DS_F32);
    return kernel_launch(stream, row_squares_work, args, sizeof *args);
}

KERNEL_INLINE void divide(const struct ds_magnitude_args *a, enum ds_dtype dtype)
{
    const float *squares = a->squares_O.data;
    float *inverse = a->inverse_O.data, *factor = a->factor_O.data;

    for (size_t i = 0; i < a->inverse_O.shape[0]; i++) {
        inverse[i] = squares[i] > 0 ? 1.0f / sqrtf(squares[i]) : 0.0f;
        factor[i] = element_load(a->magnitude_O.data, i, dtype) * inverse[i];
    }
}

static ds_status magnitude_work(void *args, int *done)
{
    const struct ds_magnitude_args *a = args;
    float *inverse = a->inverse_O.data, *factor = a->factor_O.data;

    if (a->magnitude_O.data)
        ELEMENT_SWITCH(a->magnitude_O.dtype, divide, a);
    for (size_t i = 0; !a->magnitude_O.data && i < a->inverse_O.shape[0]; i++)
        inverse[i] = factor[i] = 1.0f;
    *done = 1;
    return DS_OK;
}

ds_status kernel_magnitude(struct ds_stream *stream, const struct ds_magnitude_args *args)
{
    DS_ASSERT(args->inverse_O.shape[0] == args->factor_O.shape[0]);
    DS_ASSERT(!args->magnitude_O.data ||
              (kernel_elems(&args->magnitude_O) == args->inverse_O.shape[0] &&
               kernel_elems(&args->squares_O) == args->inverse_O.shape[0]));
    KERNEL_WANTS_FLOAT("magnitude", args, magnitude_O);
    KERNEL_WANTS("magnitude", args, squares_O, DS_F32);
    KERNEL_WANTS("magnitude", args, inverse_O, DS_F32);
    KERNEL_WANTS("magnitude", args, factor_O, DS_F32);
    return kernel_launch(stream, magnitude_work, args, sizeof *args);
}

KERNEL_INLINE void scale_row(const struct ds_scale_columns_args *a, size_t row, enum ds_dtype dtype)
{
    const size_t columns = a->x_TN.shape[1];
    const void *x = element_from(a->x_TN.data, row * columns, dtype);
    const void *addend = element_from(a->addend_TN.data, row * columns, dtype);
    void *y = element_to(a->y_TN.data, row * columns, dtype);
    const float *scale = a->scale_N.data;
    const int has_addend = a->addend_TN.data != NULL;

    for (size_t i = 0; i < columns; i++) {
        const float value = ((scale ? scale[i] : 0.0f) + a->plus) * element_load(x, i, dtype);

        element_store(y, i, has_addend ? element_load(addend, i, dtype) + value : value, dtype);
    }
}

KERNEL_CLONES static void scale_one(const struct ds_scale_columns_args *a, size_t row)
{
    ELEMENT_SWITCH(a->x_TN.dtype, scale_row, a, row);
}

static ds_status scale_columns_work(void *args, int *done)
{
    const struct ds_scale_columns_args *a = args;

#pragma omp parallel for schedule(static) if (a->x_TN.shape[0] > 1)
    for (size_t row = 0; row < a->x_TN.shape[0]; row++)
        scale_one(a, row);
    *done = 1;
    return DS_OK;
}

ds_status kernel_scale_columns(struct ds_stream *stream, const struct ds_scale_columns_args *args)
{
    DS_ASSERT(kernel_elems(&args->y_TN) == kernel_elems(&args->x_TN));
    DS_ASSERT(!args->scale_N.data || kernel_elems(&args->scale_N) == args->x_TN.shape[1]);
    KERNEL_WANTS_FLOAT("scale_columns", args, x_TN);
    KERNEL_WANTS_SAME("scale_columns", args, y_TN, x_TN);
    KERNEL_WANTS_SAME("scale_columns", args, addend_TN, x_TN);
    KERNEL_WANTS("scale_columns", args, scale_N, DS_F32);
    return kernel_launch(stream, scale_columns_work, args, sizeof *args);
}
