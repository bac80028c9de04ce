/* bench_storage.c - queues of block I/O beside a plain loop of pread or pwrite with the same blocks, in
 * turns, on a file of its own. The file loses its name as soon as it is open, so nothing can stay. The
 * page cache is passed by (O_DIRECT) where the file system allows it, unless --buffered is given. Then whole
 * files, bench_storage_save.c; --saves: those alone. --stream: one pass over a file instead, bench_storage_stream.c. */
#include "bench_storage.h"
#include "speeds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX    16 /* of windows */
#define WINDOW_PARTS 16 /* a repetition moves this part of the file, the next one the next part */

struct disk {
    struct bench *bench;
    struct ds_fs *fs;
    uint64_t file_bytes;
    int is_direct;
    /* owns */
    int file;
    uint8_t *blocks; /* DEPTH_MAX of the largest block */
    struct ds_storage *storage;
    /* of the case */
    struct ds_storage_request requests[DEPTH_MAX];
    size_t block_bytes;
    uint32_t depth;
    int is_write;
    double best_per_s[2]; /* of the queue so far: read, written */
    uint64_t at[2];       /* where the queue and the loop go on, block-aligned */
};

static const size_t block_sizes[] = {64u << 10, 1u << 20, 4u << 20};
static const uint32_t depths[] = {1, 4, 16};

/* ---- the file */

/* A folder that a person chose wrongly is theirs to mend; what the disk does is not. */
static int is_choice(int code)
{
    return code == -ENOENT || code == -ENOTDIR || code == -EACCES || code == -EPERM ||
           code == -EROFS || code == -ENAMETOOLONG || code == -ELOOP;
}

ds_status bench_storage_create(const struct bench *bench, const char *folder, int is_cached,
                               const char **why, int *file)
{
    const uint32_t flags = DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE;
    struct ds_fs *fs = bench->command->fs;
    char path[DS_TEXT_MAX + 64];

    snprintf(path, sizeof path, "%s/dstrain-bench-%llx", folder,
             (unsigned long long)ds_clock_real_ns(bench->command->clock));
    *why = "as asked for";
    const int made =
        is_cached ? ds_fs_open(fs, path, flags, 0600) : ds_fs_create_direct(fs, path, 0600, why);
    if (made < 0)
        return ds_fail(is_choice(made) ? DS_ERR_CONFIG : DS_ERR_IO,
                       "bench storage: no file can be made in %s: %s", folder, strerror(-made));
    *file = made;
    const int code = ds_fs_unlink(fs, path);
    return code == 0 ? DS_OK : ds_fail(DS_ERR_IO, "%s: %s", path, strerror(-code));
}

static ds_status open_file(struct disk *d, const char *folder, int buffered)
{
    const char *why;

    DS_TRY(bench_storage_create(d->bench, folder, buffered, &why, &d->file));
    d->is_direct = why == NULL;
    if (why && !buffered)
        ds_info("bench storage: %s: the page cache takes part: %s", folder, why);
    return DS_OK;
}

static uint64_t mark(uint64_t offset, uint64_t generation)
{
    return offset * 0x9e3779b97f4a7c15u + generation;
}

void bench_block_fill(uint8_t *block, size_t bytes, uint64_t offset, uint64_t generation)
{
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t value = mark(offset + i, generation);
        memcpy(block + i, &value, 8);
    }
}

int bench_block_is(const uint8_t *block, size_t bytes, uint64_t offset, uint64_t generation)
{
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t value = mark(offset + i, generation);
        if (memcmp(block + i, &value, 8) != 0)
            return 0;
    }
    return 1;
}

static ds_status loop_block(struct disk *d, uint8_t *block, uint64_t offset, int is_write)
{
    const int code = is_write ? ds_fs_write_all(d->fs, d->file, block, d->block_bytes, offset)
                              : ds_fs_read_all(d->fs, d->file, block, d->block_bytes, offset);

    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_IO, "the file of bench storage, block at %llu: %s",
                               (unsigned long long)offset, strerror(-code));
}

/* ---- what is timed */

static size_t window_blocks(const struct disk *d)
{
    const size_t blocks = (size_t)(d->file_bytes / WINDOW_PARTS) / d->block_bytes;

    return blocks > 0 ? blocks : 1;
}

static uint64_t next_offset(struct disk *d, int which)
{
    const uint64_t offset = d->at[which];

    d->at[which] = offset + 2 * d->block_bytes > d->file_bytes ? 0 : offset + d->block_bytes;
    return offset;
}

static ds_status run_loop(void *user)
{
    struct disk *d = user;

    for (size_t i = 0; i < window_blocks(d); i++)
        DS_TRY(loop_block(d, d->blocks, next_offset(d, 1), d->is_write));
    return DS_OK;
}

static ds_status post(struct disk *d, struct ds_storage_request *request)
{
    request->is_write = (uint8_t)d->is_write;
    request->file = d->file;
    request->bytes = d->block_bytes;
    request->data = d->blocks + (size_t)(request - d->requests) * d->block_bytes;
    request->offset = next_offset(d, 0);
    return ds_storage_submit(d->storage, request);
}

static ds_status reap_one(struct disk *d, struct ds_storage_request **done)
{
    DS_TRY(ds_storage_reap(d->storage, done));
    return (*done)->status;
}

static ds_status run_queue(void *user)
{
    struct disk *d = user;
    const size_t blocks = window_blocks(d);
    const size_t first = blocks < d->depth ? blocks : d->depth;
    struct ds_storage_request *done;

    for (size_t i = 0; i < first; i++)
        DS_TRY(post(d, &d->requests[i]));
    for (size_t i = first; i < blocks; i++) {
        DS_TRY(reap_one(d, &done));
        DS_TRY(post(d, done));
    }
    for (size_t i = 0; i < first; i++)
        DS_TRY(reap_one(d, &done));
    return DS_OK;
}

/* ---- is it right? `depth` blocks through the queue, then the same ones through the loop */

static ds_status move_group(struct disk *d, int is_write)
{
    struct ds_storage_request *done;

    d->is_write = is_write;
    d->at[0] = 0;
    for (uint32_t i = 0; i < d->depth; i++)
        DS_TRY(post(d, &d->requests[i]));
    for (uint32_t i = 0; i < d->depth; i++)
        DS_TRY(reap_one(d, &done));
    return DS_OK;
}

static ds_status check_write(struct disk *d)
{
    for (uint32_t i = 0; i < d->depth; i++)
        bench_block_fill(d->blocks + i * d->block_bytes, d->block_bytes, i * d->block_bytes, 1);
    DS_TRY(move_group(d, 1));
    for (uint32_t i = 0; i < d->depth; i++) {
        DS_TRY(loop_block(d, d->blocks, i * d->block_bytes, 0));
        if (!bench_block_is(d->blocks, d->block_bytes, i * d->block_bytes, 1))
            return ds_fail(DS_ERR_UNFIT, "%s: block %u was not written as it was given",
                           ds_storage_name(d->storage), i);
    }
    return DS_OK;
}

static ds_status check_read(struct disk *d)
{
    for (uint32_t i = 0; i < d->depth; i++) {
        bench_block_fill(d->blocks, d->block_bytes, i * d->block_bytes, 2);
        DS_TRY(loop_block(d, d->blocks, i * d->block_bytes, 1));
    }
    DS_TRY(move_group(d, 0));
    for (uint32_t i = 0; i < d->depth; i++)
        if (!bench_block_is(d->blocks + i * d->block_bytes, d->block_bytes, i * d->block_bytes, 2))
            return ds_fail(DS_ERR_UNFIT, "%s: block %u was not read as it is on disk",
                           ds_storage_name(d->storage), i);
    return DS_OK;
}

/* ---- the cases */

static ds_status measure(struct disk *d, int is_write)
{
    const struct bench_work works[2] = {{.run = run_queue, .user = d, .calls = 1},
                                        {.run = run_loop, .user = d, .calls = 1}};
    const double bytes = (double)(window_blocks(d) * d->block_bytes);
    struct bench_spread spread[2];
    char what[128];

    DS_TRY(is_write ? check_write(d) : check_read(d));
    d->is_write = is_write;
    d->at[0] = d->at[1] = 0;
    DS_TRY(bench_time(d->bench, works, 2, spread));
    if (bytes / spread[0].median > d->best_per_s[is_write])
        d->best_per_s[is_write] = bytes / spread[0].median;
    snprintf(what, sizeof what, "%s %s %s block %zu depth %u", ds_storage_name(d->storage),
             is_write ? "write" : "read", d->is_direct ? "direct" : "buffered", d->block_bytes,
             d->depth);
    const struct bench_figure figures[] = {
        {"block_bytes", (double)d->block_bytes},
        {"depth", d->depth},
        {"bytes", bytes},
        {"gb_per_s", bytes / spread[0].median * 1e-9},
        {"loop_min", spread[1].min},
        {"loop_median", spread[1].median},
        {"loop_p90", spread[1].p90},
        {"loop_gb_per_s", bytes / spread[1].median * 1e-9},
        {"loop_over_queue", spread[1].median / spread[0].median},
    };
    return bench_print(d->bench, what, "s", &spread[0], figures, sizeof figures / sizeof *figures);
}

static ds_status measure_depth(struct disk *d, const char *level)
{
    ds_status st;

    DS_TRY(bench_storage_open(d->fs, level, d->depth, d->file, d->blocks, d->depth * d->block_bytes,
                              &d->storage));
    DS_TRY_GOTO(st, measure(d, 1), done);
    st = measure(d, 0);
done:
    ds_storage_close(d->storage);
    return st;
}

/* A repetition has to fill the queue at least once. */
static int fits(const struct disk *d)
{
    return d->depth <= window_blocks(d);
}

static ds_status measure_level(struct disk *d, const char *level)
{
    for (size_t b = 0; b < sizeof block_sizes / sizeof *block_sizes; b++)
        for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
            d->block_bytes = block_sizes[b];
            d->depth = depths[i];
            if (fits(d))
                DS_TRY(measure_depth(d, level));
        }
    return DS_OK;
}

const char *const bench_storage_levels[BENCH_STORAGE_LEVELS] = {"fixed", "plain", "threads"};

ds_status bench_storage_open(struct ds_fs *fs, const char *level, uint32_t depth, int file,
                             uint8_t *blocks, size_t bytes, struct ds_storage **out)
{
    const struct ds_storage_memory memory = {blocks, bytes};

    return ds_storage_open_with(fs,
                                &(struct ds_storage_options){.level = level,
                                                             .depth = depth,
                                                             .memory = &memory,
                                                             .memory_count = 1,
                                                             .files = &file,
                                                             .file_count = file >= 0},
                                out);
}

ds_status bench_storage_best(struct ds_fs *fs, uint8_t *blocks, size_t bytes, int *best)
{
    struct ds_storage *storage = NULL;

    DS_TRY(bench_storage_open(fs, "auto", BENCH_STORAGE_DEPTH_MAX, -1, blocks, bytes, &storage));
    *best = 0;
    while (strcmp(bench_storage_levels[*best], ds_storage_name(storage)) != 0)
        ++*best;
    ds_storage_close(storage);
    return DS_OK;
}

static ds_status measure_windows(struct disk *d)
{
    const size_t block_max = block_sizes[sizeof block_sizes / sizeof *block_sizes - 1];
    int best = 0;

    d->blocks = aligned_alloc(DS_FS_DIRECT_ALIGN, DEPTH_MAX * block_max);
    if (!d->blocks)
        return ds_fail(DS_ERR_NO_MEMORY, "blocks for bench storage");
    d->block_bytes = 1u << 20;
    for (uint64_t at = 0; at < d->file_bytes; at += d->block_bytes) {
        bench_block_fill(d->blocks, d->block_bytes, at, 0);
        DS_TRY(loop_block(d, d->blocks, at, 1));
    }
    DS_TRY(bench_storage_best(d->fs, d->blocks, DEPTH_MAX * block_max, &best));
    for (int i = best; i < BENCH_STORAGE_LEVELS; i++)
        DS_TRY(measure_level(d, bench_storage_levels[i]));
    return DS_OK;
}

static ds_status run_windows(struct bench *bench, const char *folder, uint64_t bytes, int buffered)
{
    struct disk d = {.bench = bench, .fs = bench->command->fs, .file = -1, .file_bytes = bytes};
    ds_status st = open_file(&d, folder, buffered);

    if (st == DS_OK)
        st = measure_windows(&d);
    if (st == DS_OK && d.is_direct && !bench->is_quick)
        ds_speeds_keep(
            d.fs, &(struct ds_speeds_kept){.per_s = {[DS_SPEED_FILE_READ] = d.best_per_s[0],
                                                     [DS_SPEED_FILE_WRITE] = d.best_per_s[1]}});
    if (d.file >= 0)
        (void)ds_fs_close(d.fs, d.file);
    free(d.blocks);
    return st;
}

/* --stream read|write [--level NAME] [--block-kib N] [--depth N] [--mib N] */
static ds_status run_stream(struct bench *bench, const char *direction, struct bench_stream *how)
{
    uint64_t block_kib = 1024;

    if (strcmp(direction, "read") != 0 && strcmp(direction, "write") != 0)
        return ds_fail(DS_ERR_CONFIG, "bench storage: --stream = '%s' must be read or write",
                       direction);
    DS_TRY(bench_option_count(bench, "--block-kib", 4, 4096, &block_kib));
    DS_TRY(bench_option(bench, "--level", &how->level));
    DS_TRY(bench_arguments_end(bench, 1));
    if (block_kib % 4 != 0)
        return ds_fail(DS_ERR_CONFIG, "bench storage: --block-kib = %llu is no multiple of 4",
                       (unsigned long long)block_kib);
    how->folder = bench->argc > 0 ? bench->argv[0] : ".";
    how->level = how->level ? how->level : "auto";
    how->block_bytes = (size_t)block_kib << 10;
    how->is_write = strcmp(direction, "write") == 0;
    return bench_storage_stream(bench, how);
}

ds_status ds_bench_storage(struct bench *bench)
{
    const int buffered = bench_flag(bench, "--buffered");
    uint64_t mib = bench->is_quick ? 4 : 256, depth = 16, block_mib = bench->is_quick ? 1 : 4;
    const char *stream;

    DS_TRY(bench_option_count(bench, "--mib", 4, 1u << 20, &mib));
    DS_TRY(bench_option_count(bench, "--depth", 1, BENCH_STORAGE_DEPTH_MAX, &depth));
    DS_TRY(bench_option(bench, "--stream", &stream));
    if (stream)
        return run_stream(bench, stream,
                          &(struct bench_stream){.file_bytes = mib << 20,
                                                 .depth = (uint32_t)depth,
                                                 .is_cached = buffered});
    const int saves = bench_flag(bench, "--saves");
    DS_TRY(bench_option_count(bench, "--block-mib", 1, 4, &block_mib));
    DS_TRY(bench_arguments_end(bench, 1));
    const char *folder = bench->argc > 0 ? bench->argv[0] : ".";
    const struct bench_save how = {.folder = folder,
                                   .file_bytes = mib << 20,
                                   .block_bytes = (size_t)block_mib << 20,
                                   .depth = (uint32_t)depth,
                                   .is_cached = buffered};
    if (!saves)
        DS_TRY(run_windows(bench, folder, mib << 20, buffered));
    return bench_storage_saves(bench, &how);
}
