/* bench_kernels_rig.c - arrays of a case: filled on the host by all its cores, by position, and read back where
 * a check looks, since to fill and to fetch gigabytes would take longer than what is measured. */
#include "bench_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory */

static struct rig_array *take(struct rig *rig, size_t bytes, int is_input)
{
    struct rig_array *a = &rig->arrays[rig->array_count];
    const struct ds_device_ops *ops = rig->device->ops;

    DS_ASSERT(rig->array_count < RIG_ARRAYS_MAX);
    if (rig->status != DS_OK)
        return NULL;
    *a = (struct rig_array){.bytes = bytes};
    a->before = is_input ? malloc(bytes) : NULL;
    a->window = malloc(RIG_WINDOW_BYTES);
    a->window_at = SIZE_MAX;
    rig->array_count++;
    if (!a->window || (is_input && !a->before))
        rig->status = ds_fail(DS_ERR_NO_MEMORY, "bench kernels: %zu bytes", bytes);
    else
        rig->status = ops->alloc(rig->device, DS_MEMORY_DEVICE, bytes, 0, &a->device);
    return rig->status == DS_OK ? a : NULL;
}

void rig_release(struct rig *rig)
{
    for (size_t i = 0; i < rig->array_count; i++) {
        struct rig_array *a = &rig->arrays[i];

        if (a->device)
            rig->device->ops->release(rig->device, DS_MEMORY_DEVICE, a->device, a->bytes);
        free(a->before);
        free(a->window);
    }
    rig->array_count = 0;
}

/* ---- contents */

/* Four at a time, as they come from the generator. */
static void fill(void *to, enum ds_dtype dtype, size_t count, uint64_t key)
{
    const size_t bytes = ds_dtype_bytes(dtype);

#pragma omp parallel for schedule(static)
    for (size_t block = 0; block < (count + 3) / 4; block++) {
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)((uint64_t)block >> 32), 0, 0};
        const size_t left = count - 4 * block;
        uint32_t words[4];
        float values[4];

        ds_random_philox(counter, key, words);
        for (int i = 0; i < 4; i++)
            values[i] = (float)(int32_t)words[i] * 0x1p-31f;
        (void)ds_dtype_from_f32((char *)to + 4 * block * bytes, dtype, values, left < 4 ? left : 4);
    }
}

static uint64_t next_key(const struct rig *rig)
{
    return ds_random_of(1, DS_RANDOM_TEST, rig->array_count).key;
}

static void *random_input(struct rig *rig, enum ds_dtype dtype, size_t count)
{
    const uint64_t key = next_key(rig);
    struct rig_array *a = take(rig, count * ds_dtype_bytes(dtype), 1);

    if (a)
        fill(a->before, dtype, count, key);
    return a ? a->device : NULL;
}

struct ds_tensor rig_in1(struct rig *rig, enum ds_dtype dtype, size_t a)
{
    return ds_tensor1(random_input(rig, dtype, a), dtype, a);
}

struct ds_tensor rig_in2(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b)
{
    return ds_tensor2(random_input(rig, dtype, a * b), dtype, a, b);
}

struct ds_tensor rig_in3(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b, size_t c)
{
    return ds_tensor3(random_input(rig, dtype, a * b * c), dtype, a, b, c);
}

struct ds_tensor rig_out1(struct rig *rig, enum ds_dtype dtype, size_t a)
{
    return ds_tensor1(rig_output(rig, a * ds_dtype_bytes(dtype)), dtype, a);
}

struct ds_tensor rig_out2(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b)
{
    return ds_tensor2(rig_output(rig, a * b * ds_dtype_bytes(dtype)), dtype, a, b);
}

struct ds_tensor rig_out3(struct rig *rig, enum ds_dtype dtype, size_t a, size_t b, size_t c)
{
    return ds_tensor3(rig_output(rig, a * b * c * ds_dtype_bytes(dtype)), dtype, a, b, c);
}

struct ds_tensor rig_ids(struct rig *rig, size_t count, size_t bound)
{
    const struct ds_random random = {next_key(rig)};
    struct rig_array *a = take(rig, count * sizeof(int32_t), 1);

    for (size_t i = 0; a && i < count; i++)
        ((int32_t *)a->before)[i] = (int32_t)ds_random_below(random, i, bound);
    return ds_tensor1(a ? a->device : NULL, DS_I32, count);
}

void *rig_zeros(struct rig *rig, size_t bytes, void **host)
{
    struct rig_array *a = take(rig, bytes, 1);

    *host = a ? a->before : NULL;
    if (a)
        memset(a->before, 0, bytes);
    return a ? a->device : NULL;
}

void *rig_output(struct rig *rig, size_t bytes)
{
    struct rig_array *a = take(rig, bytes, 0);

    return a ? a->device : NULL;
}

ds_status rig_upload(struct rig *rig)
{
    const struct ds_device_ops *ops = rig->device->ops;

    for (size_t i = 0; i < rig->array_count; i++)
        if (rig->arrays[i].before)
            DS_TRY(ops->copy(rig->stream, rig->arrays[i].device, rig->arrays[i].before,
                             rig->arrays[i].bytes));
    return ops->stream_sync(rig->stream);
}

/* ---- looking in */

static struct rig_array *find(struct rig *rig, const void *device)
{
    for (size_t i = 0; i < rig->array_count; i++)
        if (rig->arrays[i].device == device)
            return &rig->arrays[i];
    DS_ASSERT(!"an array of this case");
    return NULL;
}

const void *rig_host(struct rig *rig, const void *device)
{
    return find(rig, device)->before;
}

static ds_status read_device(struct rig *rig, const struct rig_array *a, size_t start, void *to,
                             size_t bytes)
{
    DS_TRY(rig->device->ops->copy(rig->stream, to, (const char *)a->device + start, bytes));
    return rig->device->ops->stream_sync(rig->stream);
}

int rig_fetch(struct rig *rig, const void *device, size_t start, void *to, size_t bytes)
{
    if (rig->status == DS_OK)
        rig->status = read_device(rig, find(rig, device), start, to, bytes);
    if (rig->status != DS_OK)
        memset(to, 0, bytes);
    return rig->status == DS_OK;
}

/* An element never crosses a window: both are powers of two. */
const uint8_t *rig_window(struct rig *rig, struct rig_array *a, size_t at, size_t bytes)
{
    const size_t start = at / RIG_WINDOW_BYTES * RIG_WINDOW_BYTES;
    const size_t left = a->bytes - start;

    DS_ASSERT(at + bytes <= a->bytes);
    if (a->window_at != start) {
        (void)rig_fetch(rig, a->device, start, a->window,
                        left < RIG_WINDOW_BYTES ? left : RIG_WINDOW_BYTES);
        a->window_at = start;
    }
    return a->window + (at - start);
}

struct rig_view rig_before(struct rig *rig, struct ds_tensor t)
{
    return (struct rig_view){rig, find(rig, t.data), t.dtype, 1, 0};
}

struct rig_view rig_after(struct rig *rig, struct ds_tensor t)
{
    return (struct rig_view){rig, find(rig, t.data), t.dtype, 0, 0};
}

void rig_see(struct rig *rig, double got, double want)
{
    rig->error += (got - want) * (got - want);
    rig->size += want * want;
}

size_t rig_place(size_t i, size_t count)
{
    DS_ASSERT(count > 0);
    return i == 0 ? 0 : i == 1 ? count - 1 : (i * 2654435761u) % count;
}
