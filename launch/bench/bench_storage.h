/* bench_storage.h - what the parts of `dstrain bench storage` share: windows of one file beside a plain loop, whole
 * files as a checkpoint writes them, and one file written over or read in one go, to be held against fio. */
#ifndef LAUNCH_BENCH_STORAGE_H
#define LAUNCH_BENCH_STORAGE_H

#include "bench.h"

#include "dstrain/storage.h"

#define BENCH_STORAGE_LEVELS    3
#define BENCH_STORAGE_DEPTH_MAX 32u

extern const char *const bench_storage_levels[BENCH_STORAGE_LEVELS];

/* Every 8 bytes of a block say where they are and which writing of them this is. */
void bench_block_fill(uint8_t *block, size_t bytes, uint64_t offset, uint64_t generation);
int bench_block_is(const uint8_t *block, size_t bytes, uint64_t offset, uint64_t generation);
/* A new file in `folder` that has no name any more. *why: the reason why it is not direct, or NULL. */
DS_CHECKED ds_status bench_storage_create(const struct bench *bench, const char *folder,
                                          int is_cached, const char **why, int *file);
/* The number of the best level that is to be had with this memory, which is told; the later ones are there, too. */
DS_CHECKED ds_status bench_storage_best(struct ds_fs *fs, uint8_t *blocks, size_t bytes, int *best);
/* A queue of a level, for blocks in this memory and, unless it is -1, of this file. */
DS_CHECKED ds_status bench_storage_open(struct ds_fs *fs, const char *level, uint32_t depth,
                                        int file, uint8_t *blocks, size_t bytes,
                                        struct ds_storage **out);

struct bench_save {
    const char *folder;
    uint64_t file_bytes;
    size_t block_bytes;
    uint32_t depth;
    int is_cached; /* through the page cache alone */
};

/* Whole files: made, reserved, written, synced; through every level, direct and through the page cache. */
DS_CHECKED ds_status bench_storage_saves(struct bench *bench, const struct bench_save *how);

struct bench_stream {
    const char *folder, *level;
    uint64_t file_bytes;
    size_t block_bytes;
    uint32_t depth;
    int is_cached, is_write;
};

/* One file from beginning to end, once; one line. */
DS_CHECKED ds_status bench_storage_stream(struct bench *bench, const struct bench_stream *how);

#endif
