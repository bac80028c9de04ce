/* bench_kernels.c - every kernel of a device's table in the shapes of a 10M and a 100M model, one case at
 * a time: memory, a checked call, the clock. Kernels bound by memory take turns with a copy that moves
 * as many bytes; copies of arrays that fit into a cache are fast, and so may the kernel be. */
#include "bench_kernels.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_MAX 1e-9 /* |got - want|^2 / |want|^2 over the samples */

static const struct rig_shape shapes[] = {
    {"10m", 2048, 256, 320, 5, 5, 64, 864, 8192, 2048},
    {"100m", 1024, 512, 768, 12, 4, 64, 2048, 16384, 1024},
};
static const struct rig_shape quick_shapes[] = {{"tiny", 48, 24, 32, 4, 2, 8, 40, 61, 96}};

/* ---- arrays */

static struct rig_array *take(struct rig *rig, size_t bytes)
{
    struct rig_array *a = &rig->arrays[rig->array_count];
    const struct ds_device_ops *ops = rig->device->ops;

    DS_ASSERT(rig->array_count < RIG_ARRAYS_MAX);
    if (rig->status != DS_OK)
        return NULL;
    *a = (struct rig_array){.bytes = bytes};
    a->before = calloc(1, bytes);
    a->after = calloc(1, bytes);
    rig->array_count++;
    if (!a->before || !a->after)
        rig->status = ds_fail(DS_ERR_NO_MEMORY, "bench kernels: %zu bytes", bytes);
    else
        rig->status = ops->alloc(rig->device, DS_MEMORY_DEVICE, bytes, 0, &a->device);
    return rig->status == DS_OK ? a : NULL;
}

static void release_arrays(struct rig *rig)
{
    for (size_t i = 0; i < rig->array_count; i++) {
        struct rig_array *a = &rig->arrays[i];

        if (a->device)
            rig->device->ops->release(rig->device, DS_MEMORY_DEVICE, a->device, a->bytes);
        free(a->before);
        free(a->after);
    }
    rig->array_count = 0;
}

float *rig_floats(struct rig *rig, size_t count)
{
    const struct ds_random random = ds_random_of(1, DS_RANDOM_TEST, rig->array_count);
    struct rig_array *a = take(rig, count * sizeof(float));

    for (size_t i = 0; a && i < count; i++)
        ((float *)a->before)[i] = (float)(int32_t)ds_random_u32(random, i) * 0x1p-31f;
    return a ? a->device : NULL;
}

int32_t *rig_ints(struct rig *rig, size_t count, int32_t bound)
{
    const struct ds_random random = ds_random_of(1, DS_RANDOM_TEST, rig->array_count);
    struct rig_array *a = take(rig, count * sizeof(int32_t));

    for (size_t i = 0; a && i < count; i++)
        ((int32_t *)a->before)[i] = (int32_t)(ds_random_u32(random, i) % (uint32_t)bound);
    return a ? a->device : NULL;
}

void *rig_zeros(struct rig *rig, size_t bytes)
{
    struct rig_array *a = take(rig, bytes);

    return a ? a->device : NULL;
}

static const struct rig_array *find(const struct rig *rig, const void *device)
{
    for (size_t i = 0; i < rig->array_count; i++)
        if (rig->arrays[i].device == device)
            return &rig->arrays[i];
    DS_ASSERT(!"an array of this case");
    return NULL;
}

void *rig_before(const struct rig *rig, const void *device)
{
    return find(rig, device)->before;
}

const void *rig_after(const struct rig *rig, const void *device)
{
    return find(rig, device)->after;
}

void rig_see(struct rig *rig, double got, double want)
{
    rig->error += (got - want) * (got - want);
    rig->size += want * want;
}

static ds_status copy_all(struct rig *rig, int to_device, int is_after)
{
    const struct ds_device_ops *ops = rig->device->ops;

    for (size_t i = 0; i < rig->array_count; i++) {
        struct rig_array *a = &rig->arrays[i];
        void *host = is_after ? a->after : a->before;

        DS_TRY(ops->copy(rig->stream, to_device ? a->device : host, to_device ? host : a->device,
                         a->bytes));
        DS_TRY(ops->stream_sync(rig->stream));
    }
    return DS_OK;
}

/* ---- a copy of as many bytes, with the threads of a kernel */

struct copy {
    struct rig *rig;
    void *from, *to;
    size_t bytes;
    int is_host;
};

static ds_status run_copy(void *user)
{
    const struct copy *c = user;
    const size_t piece = (c->bytes / 64 / (size_t)omp_get_max_threads() + 1) * 64;

    if (!c->is_host) {
        DS_TRY(c->rig->device->ops->copy(c->rig->stream, c->to, c->from, c->bytes));
        return c->rig->device->ops->stream_sync(c->rig->stream);
    }
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < c->bytes; at += piece)
        memcpy((char *)c->to + at, (const char *)c->from + at,
               c->bytes - at < piece ? c->bytes - at : piece);
    return DS_OK;
}

/* Arrays like the kernel's own, but none of them. */
static ds_status copy_open(struct rig *rig, struct copy *c)
{
    *c = (struct copy){.rig = rig, .bytes = (size_t)rig->bytes / 2};
    c->is_host = (rig->device->ops->caps & DS_DEVICE_CAP_HOST_MEMORY) != 0;
    if (c->bytes == 0)
        c->bytes = 1;
    c->from = rig_zeros(rig, c->bytes);
    c->to = rig_zeros(rig, c->bytes);
    return rig->status;
}

/* ---- a case */

struct timed {
    struct rig *rig;
    const struct rig_kernel *kernel;
};

static ds_status run_kernel(void *user)
{
    const struct timed *t = user;

    DS_TRY(t->kernel->run(t->rig));
    return t->rig->device->ops->stream_sync(t->rig->stream);
}

static ds_status check(struct rig *rig, const struct rig_kernel *kernel)
{
    const struct timed timed = {rig, kernel};

    DS_TRY(copy_all(rig, 1, 0));
    if (kernel->first) {
        DS_TRY(kernel->first(rig));
        DS_TRY(rig->device->ops->stream_sync(rig->stream));
        DS_TRY(copy_all(rig, 0, 0));
    }
    DS_TRY(run_kernel((void *)(uintptr_t)&timed));
    DS_TRY(copy_all(rig, 0, 1));
    kernel->check(rig);
    if (rig->error <= ERROR_MAX * rig->size)
        return DS_OK;
    return ds_fail(DS_ERR_UNFIT, "%s %s: samples differ from fp64 by %.3g (relative, squared)",
                   kernel->name, rig->text, rig->error / rig->size);
}

static ds_status print(struct bench *bench, struct rig *rig, const struct rig_kernel *kernel,
                       const struct bench_spread spread[2])
{
    const double seconds = spread[0].median;
    const struct bench_figure arithmetic[] = {{"flops", rig->flops},
                                              {"gflop_per_s", rig->flops / seconds * 1e-9}};
    const struct bench_figure memory[] = {{"bytes", rig->bytes},
                                          {"gb_per_s", rig->bytes / seconds * 1e-9},
                                          {"copy_gb_per_s", rig->bytes / spread[1].median * 1e-9},
                                          {"of_copy", spread[1].median / seconds}};
    char what[160];

    snprintf(what, sizeof what, "%s %s", kernel->name, rig->text);
    if (rig->flops > 0)
        return bench_print(bench, what, "s", spread, arithmetic, 2);
    return bench_print(bench, what, "s", spread, memory, 4);
}

static ds_status measure(struct bench *bench, struct rig *rig, const struct rig_kernel *kernel)
{
    struct timed timed = {rig, kernel};
    struct bench_spread spread[2];
    struct copy copy = {0};
    uint64_t start_ns;

    kernel->setup(rig);
    DS_TRY(rig->status);
    DS_TRY(check(rig, kernel));
    if (rig->flops == 0)
        DS_TRY(copy_open(rig, &copy));
    start_ns = ds_clock_mono_ns(bench->command->clock);
    DS_TRY(run_kernel(&timed));
    /* what is over in a moment is called more often, up to about a millisecond */
    const uint64_t once_ns = ds_clock_mono_ns(bench->command->clock) - start_ns + 1;
    const uint32_t calls = once_ns < 1000000 ? (uint32_t)(1000000 / once_ns) + 1 : 1;
    const struct bench_work works[2] = {{run_kernel, &timed, calls > 1000 ? 1000 : calls},
                                        {run_copy, &copy, calls > 1000 ? 1000 : calls}};
    DS_TRY(bench_time(bench, works, rig->flops > 0 ? 1 : 2, spread));
    return print(bench, rig, kernel, spread);
}

static ds_status measure_all(struct bench *bench, struct rig *rig)
{
    const struct rig_shape *list = bench->is_quick ? quick_shapes : shapes;
    const size_t count = bench->is_quick ? 1 : sizeof shapes / sizeof *shapes;
    ds_status st = DS_OK;

    for (size_t s = 0; s < count; s++)
        for (size_t k = 0; k < rig_kernel_count && st == DS_OK; k++) {
            rig->shape = &list[s];
            rig->flops = rig->bytes = rig->error = rig->size = 0;
            memset(&rig->args, 0, sizeof rig->args);
            st = measure(bench, rig, &rig_kernels[k]);
            release_arrays(rig);
        }
    return st;
}

static ds_status open_rig(struct bench *bench, const char *name, int threads, struct rig *rig)
{
    const struct ds_device_options options = {
        .mode = DS_DEVICE_INLINE, .thread_count = threads, .clock = bench->command->clock};
    const struct ds_device_ops *ops;
    char text[256];

    DS_TRY(ds_device_find("device", name, &ops));
    DS_TRY(ops->open(0, &options, &rig->device));
    rig->kernels = ops->kernels;
    if (!rig->kernels)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: this device has no kernels", ops->name);
    snprintf(text, sizeof text, "%s", ops->name);
    if (ops->describe)
        ops->describe(rig->device, text, sizeof text);
    ds_info("bench kernels: %s, %d threads", text, threads);
    return ops->stream_open(rig->device, 0, &rig->stream);
}

ds_status ds_bench_kernels(struct bench *bench)
{
    struct rig rig = {0};
    const char *device = NULL;
    uint64_t threads = 0;
    ds_status st;

    DS_TRY(bench_option(bench, "--device", &device));
    DS_TRY(bench_option_count(bench, "--threads", 1, 4096, &threads));
    DS_TRY(bench_arguments_end(bench, 0));
    st = open_rig(bench, device ? device : "auto", bench_threads(bench, threads), &rig);
    if (st == DS_OK)
        st = measure_all(bench, &rig);
    if (rig.stream)
        rig.device->ops->stream_close(rig.stream);
    if (rig.device)
        rig.device->ops->close(rig.device);
    return st;
}
