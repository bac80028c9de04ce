/* saved_files.h - what lies in a directory of checkpoints on the real disk: those that may be loaded, whether every byte
 * of them is right, their packs; and another launch that claims it. */
#ifndef DSTRAIN_TEST_SAVED_FILES_H
#define DSTRAIN_TEST_SAVED_FILES_H

#include "test.h"

#include "dstrain/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAVED_MAX = 256 };

/* Newest first. */
static inline size_t saved_list(const char *root, struct ds_manifest_id ids[SAVED_MAX])
{
    struct ds_checkpoint_list all;
    size_t count = 0;

    assert_ok(ds_checkpoint_list_make(ds_fs_posix(), root, &all));
    assert_true(all.count <= SAVED_MAX);
    for (size_t i = 0; i < all.count; i++)
        if (all.entries[i].standing == DS_CHECKPOINT_GOOD)
            ids[count++] = all.entries[i].id;
    ds_checkpoint_list_fini(&all);
    return count;
}

/* Their steps; 0: there is none. */
static inline uint64_t saved_newest(const char *root)
{
    struct ds_manifest_id ids[SAVED_MAX];

    return saved_list(root, ids) > 0 ? ids[0].step : 0;
}

/* saved_list, with every byte of all of them checked. */
static inline size_t saved_verify(const char *root, struct ds_manifest_id ids[SAVED_MAX])
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    const size_t count = saved_list(root, ids);

    for (size_t i = 0; i < count; i++) {
        struct ds_manifest manifest;

        assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), root, &ids[i], &manifest));
        assert_ok(ds_checkpoint_verify(ds_fs_posix(), root, &manifest, buffer));
        ds_manifest_fini(&manifest);
    }
    return count;
}

static inline int saved_has(const char *root, uint64_t step)
{
    struct ds_manifest_id ids[SAVED_MAX];
    const size_t count = saved_verify(root, ids);
    int has = 0;

    for (size_t i = 0; i < count; i++)
        has |= ids[i].step == step;
    return has;
}

/* Files of rank 0's directory of packs with `with` in their names; `visit` or NULL sees their paths. */
static inline size_t saved_packs(const char *root, const char *with,
                                 void (*visit)(const char *path))
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names;
    size_t count, found = 0;

    snprintf(path, sizeof path, "%s/data/0", root);
    if (ds_fs_readdir(ds_fs_posix(), path, &names, &count) != 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (!strstr(names[i], with))
            continue;
        found++;
        snprintf(path, sizeof path, "%s/data/0/%s", root, names[i]);
        if (visit)
            visit(path);
    }
    free(names);
    return found;
}

/* Those that a save of this step has made. */
static inline size_t saved_packs_of(const char *root, uint64_t step,
                                    void (*visit)(const char *path))
{
    char with[32];

    snprintf(with, sizeof with, "-%012llu-", (unsigned long long)step);
    return saved_packs(root, with, visit);
}

/* Another launch has this epoch from now on. */
static inline void saved_claim(const char *root, int epoch)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    snprintf(path, sizeof path, "%s/epochs/E-%016d", root, epoch);
    const int file = ds_fs_open(ds_fs_posix(), path, DS_FS_WRITE | DS_FS_CREATE, 0640);
    assert_true(file >= 0);
    assert_int_equal(ds_fs_close(ds_fs_posix(), file), 0);
}

static inline void saved_forget(const char *root)
{
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
}

#endif
