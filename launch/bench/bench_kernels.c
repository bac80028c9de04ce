/* bench_kernels.c - every kernel of a device's table, one case at a time: memory, a checked call, the clock.
 * Kernels bound by memory take turns with a copy that moves as many bytes.
 *
 * On the cpu the shapes are those of a 10M and a 100M model; copies of arrays that fit into a cache are fast, and
 * so may the kernel be. On a GPU they are those of a 124M model, Llama-3.2-1B and Llama-2-7B: what memory bounds
 * moves 200 MB and more, four times its cache, so that arrays need not be changed from call to call; and what others
 * publish of products and attention. Calls follow each other without the host between them: it waits once a repetition. */
#include "bench_kernels.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
/* name, only; T, M, S, C, H, G, D, I, V, R, F, N, L */
#define FLAT (128 << 20)
#define PRODUCT(m, n, k) {"linear", "matmul_linear", .T = m, .V = n, .C = k}
#define ATTENTION(s, h, g, d, only) {"attention", only, .T = 16384, .S = s, .H = h, .G = g, .D = d}
#define BOTH(s, h, g, d) ATTENTION(s, h, g, d, "attention_forward"), ATTENTION(s, h, g, d, "attention_backward")
#define PACKED_WAY(h, g, d, l, only) {"packed", only, .T = 16384, .S = 8192, .H = h, .G = g, .D = d, .L = l}
#define PACKED(h, g, d, l) PACKED_WAY(h, g, d, l, "packed_forward"), PACKED_WAY(h, g, d, l, "packed_backward")
#define HOST_SHAPE_COUNT 2 /* what is measured on the cpu unless others are named; the rest elsewhere */
static const struct rig_shape shapes[] = {
    {"10m", NULL, 2048, 2048, 256, 320, 5, 5, 64, 864, 8192, 512, 8192 * 320, 2048, 64},
    {"100m", NULL, 1024, 1024, 512, 768, 12, 4, 64, 2048, 16384, 256, 16384 * 768, 1024, 128},
    {"124m", NULL, 32768, 131072, 1024, 768, 12, 12, 64, 2048, 50304, 32768, FLAT, 4096, 512},
    {"1b", NULL, 16384, 49152, 4096, 2048, 32, 8, 64, 8192, 128256, 4096, FLAT, 8192, 1024},
    {"7b", NULL, 8192, 16384, 4096, 4096, 32, 32, 128, 11008, 32000, 8192, FLAT, 4096, 1024},
    PRODUCT(8192, 8192, 8192), PRODUCT(8192, 2048, 2048), PRODUCT(8192, 8192, 2048), PRODUCT(8192, 2048, 8192),
    PRODUCT(8192, 128256, 2048), PRODUCT(8192, 4096, 4096), PRODUCT(8192, 11008, 4096), PRODUCT(8192, 4096, 11008),
    BOTH(2048, 32, 8, 64), BOTH(4096, 32, 8, 64), BOTH(8192, 32, 8, 64),
    BOTH(2048, 32, 32, 128), BOTH(4096, 32, 32, 128), BOTH(8192, 32, 32, 128),
    BOTH(2048, 32, 8, 128), BOTH(4096, 32, 8, 128), BOTH(8192, 32, 8, 128),
    PACKED(32, 8, 64, 512), PACKED(32, 8, 64, 1024), PACKED(32, 8, 64, 2048), PACKED(32, 8, 64, 4096),
    PACKED(32, 8, 128, 1024), PACKED(32, 8, 128, 4096),
};
static const struct rig_shape quick_shapes[] = {
    {"tiny", NULL, 48, 48, 24, 32, 4, 2, 8, 40, 61, 12, 5000, 96, 6},
    {"linear", "matmul_linear", .T = 24, .V = 40, .C = 16},
};
/* clang-format on */

struct kernels_bench {
    struct bench *bench;
    struct rig rig;
    const struct rig_shape *shapes;
    size_t shape_count;
    uint64_t calls_ns;             /* a repetition lasts about as long */
    const char *only, *only_shape; /* NULL: all */
    const char *dtype_text;
};

/* ---- a copy of as many bytes, with the threads of a kernel */

struct copy {
    struct rig *rig;
    void *from, *to;
    size_t bytes;
};

static int is_host(const struct rig *rig)
{
    return (rig->device->ops->caps & DS_DEVICE_CAP_HOST_MEMORY) != 0;
}

static ds_status run_copy(void *user)
{
    const struct copy *c = user;
    const size_t piece = (c->bytes / 64 / (size_t)omp_get_max_threads() + 1) * 64;

    if (!is_host(c->rig))
        return c->rig->device->ops->copy(c->rig->stream, c->to, c->from, c->bytes);
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < c->bytes; at += piece)
        memcpy((char *)c->to + at, (const char *)c->from + at,
               c->bytes - at < piece ? c->bytes - at : piece);
    return DS_OK;
}

static ds_status finish_copy(void *user)
{
    const struct copy *c = user;

    return c->rig->device->ops->stream_sync(c->rig->stream);
}

/* Arrays like the kernel's own, but none of them. */
static ds_status copy_open(struct rig *rig, struct copy *c)
{
    *c = (struct copy){.rig = rig, .bytes = (size_t)rig->bytes / 2};
    if (c->bytes == 0)
        c->bytes = 1;
    c->from = rig_output(rig, c->bytes);
    c->to = rig_output(rig, c->bytes);
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

    return t->kernel->run(t->rig);
}

static ds_status finish_kernel(void *user)
{
    const struct timed *t = user;

    return t->rig->device->ops->stream_sync(t->rig->stream);
}

/* |got - want|^2 / |want|^2 over the samples: that of fp32 sums; for each rounding to 16 bits some five times the
 * 2^-16 / 7 of bf16 and 2^-22 / 7 of fp16 (of an error uniform between neighbours, of numbers uniform between
 * powers of two), as samples are few and some of them cancel. */
static double error_max(const struct rig *rig)
{
    if (rig->result == DS_F32)
        return 1e-9;
    return rig->roundings * (rig->result == DS_BF16 ? 1e-5 : 2e-7);
}

static ds_status check(struct rig *rig, const struct rig_kernel *kernel)
{
    struct timed timed = {rig, kernel};

    DS_TRY(rig_upload(rig));
    if (kernel->first)
        DS_TRY(kernel->first(rig));
    DS_TRY(run_kernel(&timed));
    DS_TRY(finish_kernel(&timed));
    kernel->check(rig);
    DS_TRY(rig->status);
    if (rig->error <= error_max(rig) * rig->size)
        return DS_OK;
    return ds_fail(DS_ERR_UNFIT, "%s %s: samples differ from fp64 by %.3g (relative, squared)",
                   kernel->name, rig->text, rig->error / rig->size);
}

static ds_status print(const struct kernels_bench *k, const struct rig_kernel *kernel,
                       const struct bench_spread spread[2])
{
    const struct rig *rig = &k->rig;
    const double seconds = spread[0].median;
    const struct bench_figure arithmetic[] = {{"flops", rig->flops},
                                              {"gflop_per_s", rig->flops / seconds * 1e-9}};
    const struct bench_figure memory[] = {{"bytes", rig->bytes},
                                          {"gb_per_s", rig->bytes / seconds * 1e-9},
                                          {"copy_gb_per_s", rig->bytes / spread[1].median * 1e-9},
                                          {"of_copy", spread[1].median / seconds}};
    char what[160];

    snprintf(what, sizeof what, "%s %s%s%s", kernel->name, rig->text,
             rig->dtype == DS_F32 ? "" : " ", rig->dtype == DS_F32 ? "" : k->dtype_text);
    if (rig->flops > 0)
        return bench_print(k->bench, what, "s", spread, arithmetic, 2);
    return bench_print(k->bench, what, "s", spread, memory, 4);
}

/* What is over in a moment is called more often. */
static ds_status count_calls(const struct kernels_bench *k, struct timed *timed, uint32_t *calls)
{
    const struct ds_clock *clock = k->bench->command->clock;
    const uint64_t start_ns = ds_clock_mono_ns(clock);
    uint64_t once_ns, count;

    DS_TRY(run_kernel(timed));
    DS_TRY(finish_kernel(timed));
    once_ns = ds_clock_mono_ns(clock) - start_ns + 1;
    count = once_ns < k->calls_ns ? k->calls_ns / once_ns + 1 : 1;
    *calls = count > 1000 ? 1000 : (uint32_t)count;
    return DS_OK;
}

static ds_status measure(struct kernels_bench *k, const struct rig_kernel *kernel)
{
    struct rig *rig = &k->rig;
    struct timed timed = {rig, kernel};
    struct bench_spread spread[2];
    struct copy copy = {0};
    uint32_t calls = 1;

    kernel->setup(rig);
    DS_TRY(rig->status);
    DS_TRY(check(rig, kernel));
    if (rig->flops == 0)
        DS_TRY(copy_open(rig, &copy));
    DS_TRY(count_calls(k, &timed, &calls));
    const struct bench_work works[2] = {
        {.run = run_kernel, .finish = finish_kernel, .user = &timed, .calls = calls},
        {.run = run_copy, .finish = finish_copy, .user = &copy, .calls = calls}};
    DS_TRY(bench_time(k->bench, works, rig->flops > 0 ? 1 : 2, spread));
    return print(k, kernel, spread);
}

/* ---- which */

static int begins(const char *name, const char *with)
{
    return !with || strncmp(name, with, strlen(with)) == 0;
}

static int is_wanted(const struct kernels_bench *k, const struct rig_kernel *kernel,
                     const struct rig_shape *shape)
{
    const enum ds_dtype dtype = k->rig.dtype;

    if (!begins(kernel->name, k->only) || !begins(shape->name, k->only_shape))
        return 0;
    if (shape->only)
        return strcmp(shape->only, kernel->name) == 0;
    return kernel->when == RIG_ALWAYS || (kernel->when == RIG_16_BITS && dtype != DS_F32) ||
           (kernel->when == RIG_BF16 && dtype == DS_BF16);
}

static int has_kernel(const struct kernels_bench *k)
{
    for (size_t i = 0; i < rig_kernel_count; i++)
        if (begins(rig_kernels[i].name, k->only))
            return 1;
    return 0;
}

/* "10m, 100m, linear": each name once; shapes of one stand together */
static void list_shapes(const struct kernels_bench *k, char *to, size_t bytes)
{
    size_t used = 0;

    to[0] = '\0';
    for (size_t i = 0; i < k->shape_count && used < bytes; i++)
        if (i == 0 || strcmp(k->shapes[i].name, k->shapes[i - 1].name) != 0)
            used += (size_t)snprintf(to + used, bytes - used, "%s%s", i > 0 ? ", " : "",
                                     k->shapes[i].name);
}

/* Of two names the one that nothing has is at fault. */
static ds_status refuse_names(const struct kernels_bench *k)
{
    char names[256];
    size_t i = 0;

    if (!has_kernel(k))
        return ds_fail(DS_ERR_CONFIG, "bench kernels: --only = '%s': no kernel's name begins so",
                       k->only);
    while (i < k->shape_count && !begins(k->shapes[i].name, k->only_shape))
        i++;
    list_shapes(k, names, sizeof names);
    if (i == k->shape_count)
        return ds_fail(DS_ERR_CONFIG,
                       "bench kernels: --shape = '%s': no shape's name begins so; there are %s",
                       k->only_shape, names);
    return ds_fail(
        DS_ERR_CONFIG,
        "bench kernels: no kernel that begins with '%s' is measured in shapes that begin "
        "with '%s'",
        k->only ? k->only : "", k->only_shape ? k->only_shape : "");
}

static ds_status measure_all(struct kernels_bench *k)
{
    struct rig *rig = &k->rig;
    size_t count = 0;
    ds_status st = DS_OK;

    for (size_t s = 0; s < k->shape_count; s++)
        for (size_t i = 0; i < rig_kernel_count && st == DS_OK; i++) {
            if (!is_wanted(k, &rig_kernels[i], &k->shapes[s]))
                continue;
            rig->shape = &k->shapes[s];
            rig->flops = rig->bytes = rig->error = rig->size = 0;
            rig->result = rig->dtype;
            rig->roundings = 1;
            memset(&rig->args, 0, sizeof rig->args);
            st = measure(k, &rig_kernels[i]);
            rig_release(rig);
            count++;
        }
    if (st != DS_OK || count > 0)
        return st;
    return refuse_names(k);
}

/* ---- opening */

static ds_status choose_dtype(struct kernels_bench *k)
{
    static const struct {
        const char *text;
        enum ds_dtype dtype;
    } dtypes[] = {{"f32", DS_F32}, {"bf16", DS_BF16}, {"f16", DS_F16}};

    if (!k->dtype_text)
        k->dtype_text = is_host(&k->rig) ? "f32" : "bf16";
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(k->dtype_text, dtypes[i].text) == 0) {
            k->rig.dtype = dtypes[i].dtype;
            return DS_OK;
        }
    return ds_fail(DS_ERR_CONFIG, "bench kernels: --dtype = '%s' must be f32, bf16 or f16",
                   k->dtype_text);
}

static void choose_shapes(struct kernels_bench *k)
{
    const size_t count = sizeof shapes / sizeof *shapes;
    const int on_host = is_host(&k->rig);

    k->calls_ns = on_host ? 1000000 : 5000000;
    if (k->bench->is_quick) {
        k->shapes = quick_shapes;
        k->shape_count = sizeof quick_shapes / sizeof *quick_shapes;
        return;
    }
    k->shapes = k->only_shape || on_host ? shapes : shapes + HOST_SHAPE_COUNT;
    k->shape_count = k->only_shape ? count : on_host ? HOST_SHAPE_COUNT : count - HOST_SHAPE_COUNT;
}

static ds_status open_rig(struct kernels_bench *k, const char *name, int threads, int deterministic)
{
    const struct ds_device_options options = {.mode = DS_DEVICE_INLINE,
                                              .thread_count = threads,
                                              .deterministic = deterministic,
                                              .clock = k->bench->command->clock};
    struct rig *rig = &k->rig;
    const struct ds_device_ops *ops;
    char text[256];

    DS_TRY(ds_device_find("device", name, &ops));
    DS_TRY(ops->open(0, &options, &rig->device));
    rig->kernels = ops->kernels;
    if (!rig->kernels)
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: this device has no kernels", ops->name);
    DS_TRY(choose_dtype(k));
    choose_shapes(k);
    snprintf(text, sizeof text, "%s", ops->name);
    if (ops->describe)
        ops->describe(rig->device, text, sizeof text);
    ds_info("bench kernels: %s, %s, %d threads", text, k->dtype_text, threads);
    return ops->stream_open(rig->device, 0, &rig->stream);
}

static ds_status run(struct kernels_bench *k)
{
    struct bench *bench = k->bench;
    const int deterministic = bench_flag(bench, "--deterministic");
    const char *device = NULL;
    uint64_t threads = 0;

    DS_TRY(bench_option(bench, "--device", &device));
    DS_TRY(bench_option(bench, "--dtype", &k->dtype_text));
    DS_TRY(bench_option(bench, "--only", &k->only));
    DS_TRY(bench_option(bench, "--shape", &k->only_shape));
    DS_TRY(bench_option_count(bench, "--threads", 1, 4096, &threads));
    DS_TRY(bench_arguments_end(bench, 0));
    DS_TRY(open_rig(k, device ? device : "auto", bench_threads(bench, threads), deterministic));
    return measure_all(k);
}

ds_status ds_bench_kernels(struct bench *bench)
{
    struct kernels_bench k = {.bench = bench};
    ds_status st = run(&k);

    if (k.rig.stream)
        k.rig.device->ops->stream_close(k.rig.stream);
    if (k.rig.device)
        k.rig.device->ops->close(k.rig.device);
    return st;
}
