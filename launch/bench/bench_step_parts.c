/* bench_step_parts.c - what stands beside a measured step: the product, random tokens, the process's age. */
#include "bench_step.h"

#include "dstrain/kernels.h"
#include "dstrain/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the product */

static ds_status fill(struct bench_product *p, const float *host, size_t bytes)
{
    const struct ds_device_ops *ops = p->device->ops;

    DS_TRY(ops->stream_open(p->device, 0, &p->stream));
    for (int i = 0; i < 3; i++) {
        DS_TRY(ops->alloc(p->device, DS_MEMORY_DEVICE, bytes, 0, &p->matrices[i]));
        DS_TRY(ops->copy(p->stream, p->matrices[i], host, bytes));
        DS_TRY(ops->stream_sync(p->stream));
    }
    return DS_OK;
}

ds_status bench_product_open(struct bench *bench, struct ds_device *device, size_t size,
                             struct bench_product *out)
{
    const size_t bytes = size * size * sizeof(float);
    float *host = malloc(bytes);
    ds_status st;

    *out = (struct bench_product){.bench = bench, .device = device, .size = size};
    if (!host)
        return ds_fail(DS_ERR_NO_MEMORY, "a matrix of %zu bytes", bytes);
    ds_random_normal(ds_random_of(1, DS_RANDOM_TEST, 1), 0, size * size, 1, host);
    st = fill(out, host, bytes);
    free(host);
    return st;
}

void bench_product_close(struct bench_product *p)
{
    if (!p->stream)
        return;
    p->device->ops->stream_close(p->stream);
    for (int i = 0; i < 3; i++)
        if (p->matrices[i])
            p->device->ops->release(p->device, DS_MEMORY_DEVICE, p->matrices[i],
                                    p->size * p->size * sizeof(float));
    *p = (struct bench_product){0};
}

ds_status bench_product_run(const struct bench_product *p, double *seconds)
{
    const struct ds_clock *clock = p->bench->command->clock;
    const uint64_t n = p->size;
    const struct ds_matmul_args args = {.a = ds_tensor2(p->matrices[0], DS_F32, n, n),
                                        .b = ds_tensor2(p->matrices[1], DS_F32, n, n),
                                        .c = ds_tensor2(p->matrices[2], DS_F32, n, n)};
    uint64_t start_ns;

    DS_TRY(ds_comm_barrier(p->bench->world));
    start_ns = ds_clock_mono_ns(clock);
    DS_TRY(p->device->ops->kernels->matmul(p->stream, &args));
    DS_TRY(p->device->ops->stream_sync(p->stream));
    *seconds = (double)(ds_clock_mono_ns(clock) - start_ns) * 1e-9;
    return ds_comm_barrier(p->bench->world);
}

/* ---- random tokens */

static ds_status write_tokens(struct bench *bench, const char *path, uint64_t rows, uint64_t width,
                              uint64_t vocab)
{
    const struct ds_random random = ds_random_of(1, DS_RANDOM_TEST, 0);
    const struct ds_safetensors_item item = {"input_ids", DS_I64, 2, {rows, width}};
    struct ds_safetensors_writer *writer;
    int64_t *row = malloc(width * sizeof *row);
    ds_status st = DS_OK;

    if (!row)
        return ds_fail(DS_ERR_NO_MEMORY, "a row of tokens");
    DS_TRY_GOTO(st, ds_safetensors_create(bench->command->fs, path, &item, 1, NULL, &writer), done);
    for (uint64_t r = 0; r < rows && st == DS_OK; r++) {
        for (uint64_t i = 0; i < width; i++)
            row[i] = (int64_t)ds_random_below(random, r * width + i, vocab);
        st = ds_safetensors_write(writer, 0, r * width, width, row);
    }
    if (st == DS_OK)
        st = ds_safetensors_commit(writer);
    else
        ds_safetensors_abandon(writer);
done:
    free(row);
    return st;
}

ds_status bench_tokens_make(struct bench *bench, uint64_t rows, uint64_t width, uint64_t vocab,
                            struct bench_tokens *out)
{
    const char *base = getenv("TMPDIR");

    snprintf(out->folder, sizeof out->folder, "%s/dstrain-bench-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(out->folder)) {
        out->folder[0] = '\0';
        return ds_fail(DS_ERR_IO, "no folder for random tokens can be made in %s",
                       base ? base : "/tmp");
    }
    snprintf(out->path, sizeof out->path, "%s/tokens.safetensors", out->folder);
    return write_tokens(bench, out->path, rows, width, vocab);
}

void bench_tokens_remove(struct bench *bench, const struct bench_tokens *tokens)
{
    if (tokens->folder[0])
        (void)ds_fs_remove_tree(bench->command->fs, tokens->folder);
}

/* ---- the process */

static int read_text(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    const int file = ds_fs_open(fs, path, DS_FS_READ, 0);
    int64_t count;

    if (file < 0)
        return 0;
    count = ds_fs_pread(fs, file, to, bytes - 1, 0);
    (void)ds_fs_close(fs, file);
    to[count > 0 ? count : 0] = '\0';
    return count > 0;
}

/* The 22nd word of stat, in ticks, and the first of uptime are of one clock. A process's name, the second
 * word, stands in parentheses and may hold anything. */
double bench_process_age_s(struct ds_fs *fs)
{
    char stat[1024], uptime[128];
    const char *at;

    if (!read_text(fs, "/proc/self/stat", stat, sizeof stat) ||
        !read_text(fs, "/proc/uptime", uptime, sizeof uptime))
        return NAN;
    at = strrchr(stat, ')');
    for (int word = 3; at && word <= 22; word++)
        at = strchr(at + 1, ' ');
    return at ? strtod(uptime, NULL) - strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK) : NAN;
}
