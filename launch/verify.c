/* verify.c - `dstrain verify PATH`: every checksum of a checkpoint, of all of a run's, or of one pack. PATH is a run
 * directory, its checkpoints/, a manifest in it or a pack. Changes nothing; needs no GPU and one process. */
#include "checkpoint_place.h"
#include "command.h"

#include <stdio.h>
#include <stdlib.h>

struct verify {
    struct ds_fs *fs;
    struct ds_checkpoint_place place;
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

    DS_TRY(ds_checkpoint_place_read(v->fs, &v->place, id, &manifest));
    ds_status st = ds_checkpoint_verify(v->fs, v->place.root, &manifest, v->buffer);
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

    DS_TRY(ds_checkpoint_list_make(v->fs, v->place.root, &list));
    if (v->place.mirror[0] != '\0')
        printf("its mirror, not looked at: %s\n", v->place.mirror);
    for (size_t i = 0; i < list.count && st == DS_OK; i++)
        st = verify_entry(v, &list.entries[i]);
    const int is_empty = list.count == 0;
    ds_checkpoint_list_fini(&list);
    DS_TRY(st);
    if (v->good_count == 0)
        return ds_fail(DS_ERR_NO_CHECKPOINT, "%s: %s", v->place.root,
                       is_empty ? "there is no checkpoint yet" : "no checkpoint verifies");
    if (v->bad_count > 0)
        return ds_fail(DS_ERR_CORRUPT, "%s: %u of %u checkpoints are damaged", v->place.root,
                       v->bad_count, v->bad_count + v->good_count);
    return DS_OK;
}

static ds_status verify_pack(struct verify *v, const char *path)
{
    struct ds_pack *pack = NULL;

    DS_TRY(ds_pack_open(v->fs, path, NULL, &pack));
    ds_status st = ds_pack_verify(pack, NULL, v->buffer);
    if (st == DS_OK)
        printf("%s: good, %u chunks, %llu bytes\n", path, ds_pack_info(pack)->chunk_count,
               (unsigned long long)ds_pack_info(pack)->file_bytes);
    ds_pack_close(pack);
    return st;
}

static ds_status verify_path(struct verify *v, const char *path)
{
    struct ds_fs_stat stat;
    int found = 0;

    DS_TRY(ds_checkpoint_place_find(v->fs, path, &v->place, &found));
    if (found)
        return ds_checkpoint_place_end(&v->place, v->place.has_id ? verify_manifest(v, &v->place.id)
                                                                  : verify_all(v));
    if (ds_fs_stat(v->fs, path, &stat) == 0 && !stat.is_directory)
        return verify_pack(v, path);
    return ds_checkpoint_place_need(v->fs, path, &v->place); /* says what is missing */
}

ds_status ds_verify_main(struct ds_command *command)
{
    struct verify v = {.fs = command->fs};

    if (command->argc != 1)
        return ds_command_usage("verify");
    v.buffer = malloc(DS_PACK_CHUNK_BYTES);
    if (!v.buffer)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a chunk of %u bytes", DS_PACK_CHUNK_BYTES);
    ds_status st = verify_path(&v, command->argv[0]);
    free(v.buffer);
    return st;
}
