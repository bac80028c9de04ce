/* dequantise.c - numbers of a quantised matrix, a tile at a time; the arithmetic is that of files (dstrain/quant.h). */
#include "dequantise.h"
#include "convert.h"
#include "kernels.h"

#define TILE_ELEMS 1024 /* whole blocks */

static void dequantise_tile(const struct ds_dequantise_args *a, const struct ds_quantised *matrix,
                            uint64_t at, uint64_t count)
{
    const uint64_t start = a->start + at;
    const uint64_t byte = matrix->kind == DS_QUANT_NF4 ? start / 2 : start;
    unsigned char *to = (unsigned char *)a->y.data + at * ds_dtype_bytes(a->y.dtype);
    float buffer[TILE_ELEMS], *x = a->y.dtype == DS_F32 ? (float *)to : buffer;

    ds_dequantise(matrix, (const uint8_t *)a->codes.data + byte, start, count, x);
    if (a->y.dtype != DS_F32)
        kernel_narrow(to, a->y.dtype, x, count);
}

static ds_status dequantise_work(void *args, int *done)
{
    const struct ds_dequantise_args *a = args;
    const struct ds_quantised matrix = {
        .kind = a->codes.dtype == DS_I8 ? DS_QUANT_INT8 : DS_QUANT_NF4,
        .columns = a->columns,
        .absmax = a->absmax.dtype == DS_F32 ? a->absmax.data : NULL,
        .absmax_codes = a->absmax.data,
        .nest_absmax = a->nest_absmax.data,
        .map = a->map.data,
        .offset = a->offset.data ? *(const float *)a->offset.data : 0,
        .first_block = a->first_block,
        .row_blocks = a->row_blocks,
        .whole_row_blocks = a->whole_row_blocks};
    const uint64_t count = kernel_elems(&a->y);

#pragma omp parallel for schedule(static) if (count > TILE_ELEMS)
    for (uint64_t at = 0; at < count; at += TILE_ELEMS)
        dequantise_tile(a, &matrix, at, count - at < TILE_ELEMS ? count - at : TILE_ELEMS);
    *done = 1;
    return DS_OK;
}

ds_status kernel_dequantise(struct ds_stream *stream, const struct ds_dequantise_args *args)
{
    DS_TRY(dequantise_wants(args));
    return kernel_launch(stream, dequantise_work, args, sizeof *args);
}
