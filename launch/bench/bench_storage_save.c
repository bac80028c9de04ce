/* bench_storage_save.c - how fast a file is complete: made, its size reserved, written in order through a queue, then
 * fsync. That is what a checkpoint's pack is to the disk, so a save is measured against these figures. Each level
 * beside a plain loop of pwrite with the same blocks, in turns, direct and through the page cache. */
#include "bench_storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_REPEATS 5 /* whole files, so fewer than of small windows */

struct save {
    struct bench *bench;
    const struct bench_save *how;
    struct ds_fs *fs;
    int is_cached; /* through the page cache, as asked for */
    int is_filled; /* each block with what it should read as, to be checked */
    const char *why;
    /* owns */
    int file;
    uint8_t *blocks;
    struct ds_storage *storage;
    struct ds_storage_request requests[BENCH_STORAGE_DEPTH_MAX];
};

static ds_status fails(int code, const char *what)
{
    return code == 0
               ? DS_OK
               : ds_fail(DS_ERR_IO, "the file of bench storage: %s: %s", what, strerror(-code));
}

/* ---- one file */

static ds_status make_file(struct save *s)
{
    DS_TRY(bench_storage_create(s->bench, s->how->folder, s->is_cached, &s->why, &s->file));
    return fails(ds_fs_fallocate(s->fs, s->file, s->how->file_bytes), "reserve");
}

static uint64_t block_count(const struct save *s)
{
    return s->how->file_bytes / s->how->block_bytes;
}

static ds_status post(struct save *s, struct ds_storage_request *request, uint64_t block)
{
    uint8_t *data = s->blocks + (size_t)(request - s->requests) * s->how->block_bytes;

    *request = (struct ds_storage_request){.is_write = 1,
                                           .file = s->file,
                                           .data = data,
                                           .bytes = s->how->block_bytes,
                                           .offset = block * s->how->block_bytes};
    if (s->is_filled)
        bench_block_fill(data, request->bytes, request->offset, 1);
    return ds_storage_submit(s->storage, request);
}

static ds_status write_queue(struct save *s)
{
    struct ds_storage_request *done = NULL;

    for (uint64_t i = 0; i < block_count(s); i++) {
        done = i < s->how->depth ? &s->requests[i] : NULL;
        if (!done) {
            DS_TRY(ds_storage_reap(s->storage, &done));
            DS_TRY(done->status);
        }
        DS_TRY(post(s, done, i));
    }
    while (ds_storage_in_flight(s->storage) > 0) {
        DS_TRY(ds_storage_reap(s->storage, &done));
        DS_TRY(done->status);
    }
    return ds_storage_flush(s->storage, s->file);
}

static ds_status write_loop(struct save *s)
{
    for (uint64_t i = 0; i < block_count(s); i++)
        DS_TRY(fails(ds_fs_write_all(s->fs, s->file, s->blocks, s->how->block_bytes,
                                     i * s->how->block_bytes),
                     "write"));
    return fails(ds_fs_fsync(s->fs, s->file), "fsync");
}

static void close_file(struct save *s)
{
    if (s->file >= 0)
        (void)ds_fs_close(s->fs, s->file);
    s->file = -1;
}

static ds_status save_once(struct save *s, ds_status (*write)(struct save *s))
{
    ds_status st = make_file(s);

    if (st == DS_OK)
        st = write(s);
    close_file(s);
    return st;
}

static ds_status run_queue(void *user)
{
    return save_once(user, write_queue);
}

static ds_status run_loop(void *user)
{
    return save_once(user, write_loop);
}

/* ---- is it right? */

static ds_status write_and_read(struct save *s)
{
    DS_TRY(write_queue(s));
    for (uint64_t i = 0; i < block_count(s); i++) {
        const uint64_t at = i * s->how->block_bytes;

        DS_TRY(fails(ds_fs_read_all(s->fs, s->file, s->blocks, s->how->block_bytes, at), "read"));
        if (!bench_block_is(s->blocks, s->how->block_bytes, at, 1))
            return ds_fail(DS_ERR_UNFIT, "%s: block %llu was not written as it was given",
                           ds_storage_name(s->storage), (unsigned long long)i);
    }
    return DS_OK;
}

static ds_status check(struct save *s)
{
    s->is_filled = 1;
    ds_status st = save_once(s, write_and_read);
    s->is_filled = 0;
    return st;
}

/* ---- the cases */

static ds_status measure(struct save *s)
{
    const struct bench_work works[2] = {{.run = run_queue, .user = s, .calls = 1},
                                        {.run = run_loop, .user = s, .calls = 1}};
    struct bench bench = *s->bench;
    const double bytes = (double)(block_count(s) * s->how->block_bytes);
    struct bench_spread spread[2];
    char what[128];

    if (!bench.is_quick) {
        bench.warmups = 1;
        bench.repeats = SAVE_REPEATS;
    }
    DS_TRY(check(s));
    DS_TRY(bench_time(&bench, works, 2, spread));
    snprintf(what, sizeof what, "%s save %s block %zu depth %u", ds_storage_name(s->storage),
             s->why ? "buffered" : "direct", s->how->block_bytes, s->how->depth);
    const struct bench_figure figures[] = {
        {"block_bytes", (double)s->how->block_bytes},
        {"depth", s->how->depth},
        {"bytes", bytes},
        {"gb_per_s", bytes / spread[0].median * 1e-9},
        {"loop_median", spread[1].median},
        {"loop_gb_per_s", bytes / spread[1].median * 1e-9},
        {"loop_over_queue", spread[1].median / spread[0].median},
    };
    return bench_print(&bench, what, "s", &spread[0], figures, sizeof figures / sizeof *figures);
}

/* Where direct files were refused the first measurement was one of the page cache. */
static ds_status measure_level(struct save *s, const char *level)
{
    ds_status st;

    DS_TRY(bench_storage_open(s->fs, level, s->how->depth, -1, s->blocks,
                              s->how->depth * s->how->block_bytes, &s->storage));
    s->is_cached = s->how->is_cached;
    st = measure(s);
    if (st == DS_OK && !s->why) {
        s->is_cached = 1;
        st = measure(s);
    }
    ds_storage_close(s->storage);
    return st;
}

ds_status bench_storage_saves(struct bench *bench, const struct bench_save *how)
{
    struct save s = {.bench = bench, .how = how, .fs = bench->command->fs, .file = -1};
    const size_t bytes = how->depth * how->block_bytes;
    int best = 0;
    ds_status st;

    DS_ASSERT(how->depth <= BENCH_STORAGE_DEPTH_MAX && how->file_bytes >= how->block_bytes);
    s.blocks = aligned_alloc(DS_FS_DIRECT_ALIGN, bytes);
    if (!s.blocks)
        return ds_fail(DS_ERR_NO_MEMORY, "blocks for bench storage");
    bench_block_fill(s.blocks, bytes, 0, 0);
    st = bench_storage_best(s.fs, s.blocks, bytes, &best);
    for (int i = best; i < BENCH_STORAGE_LEVELS && st == DS_OK; i++)
        st = measure_level(&s, bench_storage_levels[i]);
    free(s.blocks);
    return st;
}
