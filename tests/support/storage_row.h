/* storage_row.h - one cell of the matrix that block storage is tested over: a level, around the page cache or through
 * it, on the disk or on the simulated one ("fixed direct", "threads sim"). A cell that is not to be had here skips. */
#ifndef DSTRAIN_TEST_STORAGE_ROW_H
#define DSTRAIN_TEST_STORAGE_ROW_H

#include "test.h"

#include "dstrain/storage.h"

#include <unistd.h>

#define ROW_BLOCK        DS_FS_DIRECT_ALIGN
#define ROW_MEMORY_BYTES ((size_t)4 << 20)

struct storage_row {
    const char *level, *why; /* why it is not direct as it should be, or NULL */
    int is_direct, is_sim;
    struct ds_fs *fs;
    char root[512], path[600];
    int file;
    uint8_t *memory; /* ROW_MEMORY_BYTES, registered under "fixed" */
    struct ds_storage_faults faults;
};

static inline const char *storage_row_level(const char *name)
{
    static const char *const levels[] = {"fixed", "plain", "threads"};
    int i = 0;

    while (strncmp(levels[i], name, strlen(levels[i])) != 0)
        i++;
    return levels[i];
}

static inline int storage_row_open(void **state)
{
    struct storage_row *row = calloc(1, sizeof *row);

    row->level = storage_row_level(*state);
    row->is_direct = strstr(*state, "direct") != NULL;
    row->is_sim = strstr(*state, "sim") != NULL;
    row->memory = aligned_alloc(ROW_BLOCK, ROW_MEMORY_BYTES);
    *state = row;
    strcpy(row->root, row->is_sim ? "/" : DS_BINARY_DIR "/test_storage.XXXXXX");
    if (row->is_sim ? ds_fs_sim_open(&row->fs) != DS_OK : !mkdtemp(row->root))
        return -1;
    if (!row->is_sim)
        row->fs = ds_fs_posix();
    snprintf(row->path, sizeof row->path, "%s/f", row->root);
    row->file = row->is_direct
                    ? ds_fs_create_direct(row->fs, row->path, 0644, &row->why)
                    : ds_fs_open(row->fs, row->path, DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE, 0644);
    return row->file >= 0 ? 0 : -1;
}

static inline int storage_row_close(void **state)
{
    struct storage_row *row = *state;

    (void)ds_fs_close(row->fs, row->file);
    if (row->is_sim)
        ds_fs_sim_close(row->fs);
    else
        (void)ds_fs_remove_tree(row->fs, row->root);
    free(row->memory);
    free(row);
    return 0;
}

/* Opened with the row's memory and faults. */
static inline ds_status storage_row_try(struct storage_row *row, uint32_t depth, size_t block_bytes,
                                        struct ds_storage **out)
{
    const struct ds_storage_memory memory = {row->memory, ROW_MEMORY_BYTES};
    const struct ds_storage_options options = {.level = row->level,
                                               .depth = depth,
                                               .block_bytes = block_bytes,
                                               .memory = &memory,
                                               .memory_count = 1,
                                               .faults = &row->faults};

    return ds_storage_open_with(row->fs, &options, out);
}

static inline struct ds_storage *storage_row_or_skip(struct storage_row *row, uint32_t depth,
                                                     size_t block_bytes)
{
    struct ds_storage *storage = NULL;

    ds_log.terminal = -1;
    ds_status st = storage_row_try(row, depth, block_bytes, &storage);
    ds_log.terminal = 2;
    if (row->why || (st == DS_ERR_UNSUPPORTED && strcmp(row->level, "threads") != 0)) {
        ds_storage_close(storage);
        skip();
    }
    assert_int_equal(st, DS_OK);
    assert_string_equal(ds_storage_name(storage), row->level);
    assert_int_equal(ds_storage_in_flight(storage), 0);
    return storage;
}

static inline void storage_row_fill(uint8_t *bytes, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)((seed + i) * 0x9e3779b97f4a7c15u >> 56);
}

static inline ds_status storage_row_one(struct ds_storage *storage,
                                        struct ds_storage_request *request)
{
    struct ds_storage_request *done = NULL;

    assert_ok(ds_storage_submit(storage, request));
    assert_int_equal(ds_storage_in_flight(storage), 1);
    assert_ok(ds_storage_reap(storage, &done));
    assert_int_equal(ds_storage_in_flight(storage), 0);
    assert_ptr_equal(done, request);
    return done->status;
}

/* What lies in the file, whatever way it was opened: through a descriptor of its own. */
static inline void storage_row_read(const struct storage_row *row, void *to, size_t bytes,
                                    uint64_t offset)
{
    const int file = ds_fs_open(row->fs, row->path, DS_FS_READ, 0);

    assert_true(file >= 0);
    assert_int_equal(ds_fs_read_all(row->fs, file, to, bytes, offset), 0);
    assert_int_equal(ds_fs_close(row->fs, file), 0);
}

/* clang-format off */
#define ROW(test, name) {#test "/" name, test, storage_row_open, storage_row_close, name}
#define FOR_EACH_ROW(test) \
    ROW(test, "fixed"), ROW(test, "fixed direct"), ROW(test, "plain"), ROW(test, "plain direct"), \
    ROW(test, "threads"), ROW(test, "threads direct"), ROW(test, "threads sim"), \
    ROW(test, "threads sim direct")
/* clang-format on */

#endif
