/* verify.c - `dstrain verify PATH`: every checksum of a checkpoint, of all of a run's, or of one pack. PATH is a run
 * directory, its checkpoints/, a manifest in it or a pack. Changes nothing; needs no GPU and one process. */
#include "command.h"

#include "dstrain/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct verify {
    struct ds_fs *fs;
    char root[DS_CHECKPOINT_PATH_BYTES];
    void *buffer; /* DS_PACK_CHUNK_BYTES */
    uint32_t good_count, bad_count;
};

static uint64_t own_bytes(const struct ds_manifest *manifest)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < manifest->pack_count; i++)
        if (ds_checkpoint_owns(manifest, &manifest->packs[i].pack.id))
            bytes += manifest->packs[i].pack.file_bytes;
    return bytes;
}

static ds_status verify_manifest(struct verify *v, const struct ds_manifest_id *id)
{
    struct ds_manifest manifest;

    DS_TRY(ds_checkpoint_read_manifest(v->fs, v->root, id, &manifest));
    ds_status st = ds_checkpoint_verify(v->fs, v->root, &manifest, v->buffer);
    if (st == DS_OK)
        printf("step %llu (epoch %llu): good, %u tensors, %u packs, %llu bytes of its own\n",
               (unsigned long long)id->step, (unsigned long long)id->epoch,
               manifest.catalogue.count, manifest.pack_count,
               (unsigned long long)own_bytes(&manifest));
    ds_manifest_fini(&manifest);
    return st;
}

static int is_damage(ds_status st)
{
    return st == DS_ERR_CORRUPT || st == DS_ERR_IO;
}

/* Damage is counted, and the next one looked at. */
static ds_status verify_entry(struct verify *v, const struct ds_checkpoint_entry *entry)
{
    static const char *const why[] = {
        [DS_CHECKPOINT_BURIED] = "marked as bad",
        [DS_CHECKPOINT_OVERRULED] = "left behind: a later launch went on from an older one",
    };
    const unsigned long long step = entry->id.step, epoch = entry->id.epoch;

    if (entry->standing != DS_CHECKPOINT_GOOD) {
        printf("step %llu (epoch %llu): not looked at, %s\n", step, epoch, why[entry->standing]);
        return DS_OK;
    }
    ds_status st = verify_manifest(v, &entry->id);
    v->good_count += st == DS_OK;
    if (!is_damage(st))
        return st;
    v->bad_count++;
    printf("step %llu (epoch %llu): damaged\n", step, epoch);
    return DS_OK;
}

static ds_status verify_all(struct verify *v)
{
    struct ds_checkpoint_list list;
    ds_status st = DS_OK;

    DS_TRY(ds_checkpoint_list_make(v->fs, v->root, &list));
    for (size_t i = 0; i < list.count && st == DS_OK; i++)
        st = verify_entry(v, &list.entries[i]);
    ds_checkpoint_list_fini(&list);
    DS_TRY(st);
    if (v->good_count == 0)
        return ds_fail(DS_ERR_NO_CHECKPOINT, "%s: no checkpoint verifies", v->root);
    if (v->bad_count > 0)
        return ds_fail(DS_ERR_CORRUPT, "%s: %u of %u checkpoints are damaged", v->root,
                       v->bad_count, v->bad_count + v->good_count);
    return DS_OK;
}

static int has_checkpoints(struct verify *v, const char *path, const char *inner)
{
    char file[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    if (snprintf(v->root, sizeof v->root, "%s%s", path, inner) >= (int)sizeof v->root - 256 ||
        snprintf(file, sizeof file, "%.*s/RUN.json", (int)sizeof file - 16, v->root) < 0)
        return 0;
    return ds_fs_stat(v->fs, file, &stat) == 0;
}

static ds_status verify_folder(struct verify *v, const char *path)
{
    if (has_checkpoints(v, path, "") || has_checkpoints(v, path, "/checkpoints"))
        return verify_all(v);
    return ds_fail(DS_ERR_DATA, "%s: no checkpoints here (no RUN.json)", path);
}

static ds_status verify_pack(struct verify *v, const char *path)
{
    struct ds_pack *pack = NULL;

    DS_TRY(ds_pack_open(v->fs, path, NULL, &pack));
    ds_status st = ds_pack_verify(pack, v->fs, NULL, v->buffer);
    if (st == DS_OK)
        printf("%s: good, %u chunks, %llu bytes\n", path, ds_pack_info(pack)->chunk_count,
               (unsigned long long)ds_pack_info(pack)->file_bytes);
    ds_pack_close(pack);
    return st;
}

/* A manifest lies in ROOT/manifests. */
static ds_status verify_file(struct verify *v, const char *path)
{
    const char *name = strrchr(path, '/');
    struct ds_manifest_id id;

    if (!ds_checkpoint_manifest_name_parse(name ? name + 1 : path, &id))
        return verify_pack(v, path);
    if (snprintf(v->root, sizeof v->root, "%.*s/..", name ? (int)(name - path) : 1,
                 name ? path : ".") >= (int)sizeof v->root - 256)
        return ds_fail(DS_ERR_DATA, "%.100s...: the path is too long", path);
    return verify_manifest(v, &id);
}

ds_status ds_verify_main(struct ds_command *command)
{
    struct verify v = {.fs = command->fs};
    struct ds_fs_stat stat;

    if (command->argc != 1)
        return ds_command_usage("verify");
    const char *path = command->argv[0];
    const int code = ds_fs_stat(v.fs, path, &stat);
    if (code < 0)
        return ds_fail(DS_ERR_DATA, "%s: %s", path, strerror(-code));
    v.buffer = malloc(DS_PACK_CHUNK_BYTES);
    if (!v.buffer)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a chunk of %u bytes", DS_PACK_CHUNK_BYTES);
    ds_status st = stat.is_directory ? verify_folder(&v, path) : verify_file(&v, path);
    free(v.buffer);
    return st;
}
