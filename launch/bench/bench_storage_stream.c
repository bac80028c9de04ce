/* bench_storage_stream.c - one file that is there already, written over or read from its beginning to its end by one queue
 * of one level: as states on a drive are, and as fio does it when it is asked for the same block and depth
 * (tests/bench/storage_peer.sh). The clock stands still while the file is made. */
#include "bench_storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

enum { MADE = 1, WRITTEN = 2 }; /* marks of blocks */

struct stream {
    const struct bench_stream *how;
    struct ds_fs *fs;
    const char *why; /* it is not direct, or NULL */
    /* owns */
    int file;
    uint8_t *blocks; /* `depth` of them */
    struct ds_storage *storage;
    struct ds_storage_request requests[BENCH_STORAGE_DEPTH_MAX];
};

static uint64_t block_count(const struct stream *s)
{
    return s->how->file_bytes / s->how->block_bytes;
}

static ds_status post(struct stream *s, struct ds_storage_request *request, uint64_t block)
{
    *request = (struct ds_storage_request){.is_write = (uint8_t)s->how->is_write,
                                           .file = s->file,
                                           .data = s->blocks + (size_t)(request - s->requests) *
                                                                   s->how->block_bytes,
                                           .bytes = s->how->block_bytes,
                                           .offset = block * s->how->block_bytes};
    return ds_storage_submit(s->storage, request);
}

static ds_status run_queue(void *user)
{
    struct stream *s = user;
    struct ds_storage_request *done;

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
    return DS_OK;
}

/* ---- before and behind the clock */

static ds_status fails(int code)
{
    return code == 0 ? DS_OK : ds_fail(DS_ERR_IO, "the file of bench storage: %s", strerror(-code));
}

/* All of it is on the disk, so that nothing of its making goes on while it is measured. */
static ds_status make_file(struct stream *s)
{
    int code = 0;

    for (uint64_t i = 0; i < block_count(s) && code == 0; i++) {
        const uint64_t at = i * s->how->block_bytes;

        bench_block_fill(s->blocks, s->how->block_bytes, at, MADE);
        code = ds_fs_write_all(s->fs, s->file, s->blocks, s->how->block_bytes, at);
    }
    if (code == 0)
        code = ds_fs_fsync(s->fs, s->file);
    return code == 0 ? DS_OK : ds_fail(DS_ERR_IO, "the file of bench storage: %s", strerror(-code));
}

static ds_status expect(const struct stream *s, int is_right)
{
    return is_right ? DS_OK
                    : ds_fail(DS_ERR_UNFIT, "%s: the last block is not what it should be",
                              ds_storage_name(s->storage));
}

/* The last block: what was read of it, or what is on the disk now. */
static ds_status check(struct stream *s)
{
    const size_t bytes = s->how->block_bytes;
    const uint64_t at = (block_count(s) - 1) * bytes;
    const struct ds_storage_request *last = s->requests;

    while (last->offset != at)
        last++;
    if (!s->how->is_write)
        return expect(s, bench_block_is(last->data, bytes, at, MADE));
    const int code = ds_fs_read_all(s->fs, s->file, last->data, bytes, at);
    DS_TRY(fails(code));
    return expect(s, bench_block_is(last->data, bytes, 0, WRITTEN));
}

static ds_status measure(struct stream *s, struct bench *bench)
{
    const struct bench_work work = {.run = run_queue, .user = s, .calls = 1};
    const struct bench_stream *how = s->how;
    const double bytes = (double)(block_count(s) * how->block_bytes);
    struct bench once = *bench;
    struct bench_spread spread;
    char what[128];

    once.warmups = 0;
    once.repeats = 1;
    for (uint32_t i = 0; how->is_write && i < how->depth; i++)
        bench_block_fill(s->blocks + i * how->block_bytes, how->block_bytes, 0, WRITTEN);
    DS_TRY(bench_time(&once, &work, 1, &spread));
    DS_TRY(check(s));
    snprintf(what, sizeof what, "%s stream %s %s block %zu depth %u", ds_storage_name(s->storage),
             how->is_write ? "write" : "read", s->why ? "buffered" : "direct", how->block_bytes,
             how->depth);
    const struct bench_figure figures[] = {{"block_bytes", (double)how->block_bytes},
                                           {"depth", how->depth},
                                           {"bytes", bytes},
                                           {"gb_per_s", bytes / spread.median * 1e-9}};
    return bench_print(&once, what, "s", &spread, figures, sizeof figures / sizeof *figures);
}

/* As pinned memory is (device.h): huge pages where the system has them. */
static ds_status take_blocks(struct stream *s)
{
    const size_t bytes = s->how->depth * s->how->block_bytes;
    const size_t whole = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;

    s->blocks = aligned_alloc(HUGE_BYTES, whole);
    if (!s->blocks)
        return ds_fail(DS_ERR_NO_MEMORY, "blocks for bench storage");
    (void)madvise(s->blocks, whole, MADV_HUGEPAGE);
    memset(s->blocks, 0, bytes);
    return DS_OK;
}

ds_status bench_storage_stream(struct bench *bench, const struct bench_stream *how)
{
    struct stream s = {.how = how, .fs = bench->command->fs, .file = -1};
    ds_status st;

    DS_ASSERT(how->depth <= BENCH_STORAGE_DEPTH_MAX && how->file_bytes >= how->block_bytes);
    DS_TRY_GOTO(st, take_blocks(&s), done);
    DS_TRY_GOTO(st, bench_storage_create(bench, how->folder, how->is_cached, &s.why, &s.file),
                done);
    DS_TRY_GOTO(st, make_file(&s), done);
    DS_TRY_GOTO(st,
                bench_storage_open(s.fs, how->level, how->depth, s.file, s.blocks,
                                   how->depth * how->block_bytes, &s.storage),
                done);
    st = measure(&s, bench);
done:
    ds_storage_close(s.storage);
    if (s.file >= 0)
        (void)ds_fs_close(s.fs, s.file);
    free(s.blocks);
    return st;
}
