/* load.c - pieces out of a checkpoint, by one reader. Tables say what every chunk is a part of; what it has in common
 * with a piece is copied run by run. */
#include "dstrain/checkpoint.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct load {
    struct ds_fs *fs;
    const char *root;
    const struct ds_manifest *manifest;
    const struct ds_piece *wants;
    size_t count;
    uint8_t *buffer;
    const struct ds_checkpoint_sink *sink;
    /* owns */
    uint32_t *order;  /* wants by tensor */
    uint32_t *first;  /* [tensors + 1]: where a tensor's begin in `order` */
    uint64_t *filled; /* elements of each */
};

/* ---- wants by tensor: counted, then placed */

static ds_status sort_wants(struct load *l)
{
    const uint32_t tensors = l->manifest->catalogue.count;

    l->order = calloc(l->count + 1, sizeof *l->order);
    l->first = calloc(tensors + 2u, sizeof *l->first);
    l->filled = calloc(l->count + 1, sizeof *l->filled);
    if (!l->order || !l->first || !l->filled)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to load %zu pieces", l->count);
    for (size_t i = 0; i < l->count; i++) {
        DS_ASSERT(ds_piece_fits(&l->wants[i], &l->manifest->catalogue));
        l->first[l->wants[i].tensor + 2]++;
    }
    for (uint32_t tensor = 2; tensor < tensors + 2; tensor++)
        l->first[tensor] += l->first[tensor - 1];
    for (size_t i = 0; i < l->count; i++) /* afterwards each beginning has moved to its place */
        l->order[l->first[l->wants[i].tensor + 1]++] = (uint32_t)i;
    return DS_OK;
}

/* ---- one chunk */

static ds_status copy_runs(struct load *l, const struct ds_pack_chunk *chunk, uint32_t want,
                           struct ds_overlap_cursor *cursor)
{
    const size_t elem_bytes = ds_dtype_bytes(chunk->dtype);
    struct ds_overlap run;

    while (ds_overlap_next(cursor, &run)) {
        DS_TRY(l->sink->put(l->sink->user, want, run.to, run.count,
                            l->buffer + run.from * elem_bytes, chunk->dtype));
        l->filled[want] += run.count;
    }
    return DS_OK;
}

static int is_wanted(const struct ds_piece *piece, const struct ds_piece *want)
{
    struct ds_overlap_cursor cursor;
    struct ds_overlap run;

    ds_overlap_begin(&cursor, piece, want);
    return ds_overlap_next(&cursor, &run);
}

static ds_status load_chunk(struct load *l, const struct ds_pack *pack, uint32_t index)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];
    const struct ds_piece piece = ds_pack_piece(pack, &l->manifest->catalogue, index);
    int is_read = 0;

    for (uint32_t i = l->first[chunk->tensor]; i < l->first[chunk->tensor + 1]; i++) {
        const uint32_t want = l->order[i];
        struct ds_overlap_cursor cursor;

        if (!is_wanted(&piece, &l->wants[want]))
            continue;
        if (!is_read)
            DS_TRY(ds_checkpoint_read_chunk(l->fs, l->root, l->manifest, pack, index, l->buffer));
        is_read = 1;
        ds_overlap_begin(&cursor, &piece, &l->wants[want]);
        DS_TRY(copy_runs(l, chunk, want, &cursor));
    }
    return DS_OK;
}

static ds_status load_pack(struct load *l, uint32_t index)
{
    struct ds_pack *pack = NULL;
    ds_status st = DS_OK;

    DS_TRY(ds_checkpoint_open_pack(l->fs, l->root, l->manifest, index, &pack));
    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count && st == DS_OK; i++)
        st = load_chunk(l, pack, i);
    ds_pack_close(pack);
    return st;
}

/* ---- all */

static ds_status check_filled(const struct load *l)
{
    for (size_t i = 0; i < l->count; i++) {
        const struct ds_piece *want = &l->wants[i];

        if (l->filled[i] != want->end - want->begin)
            return ds_fail(DS_ERR_CORRUPT,
                           "the checkpoint has %" PRIu64 " of %" PRIu64
                           " elements of a piece of '%s'",
                           l->filled[i], want->end - want->begin,
                           l->manifest->catalogue.tensors[want->tensor].name);
    }
    return DS_OK;
}

static ds_status load(struct load *l)
{
    DS_TRY(sort_wants(l));
    for (uint32_t i = 0; i < l->manifest->pack_count; i++)
        if (ds_checkpoint_owns(l->manifest, &l->manifest->packs[i].pack.id))
            DS_TRY(load_pack(l, i));
    return check_filled(l);
}

ds_status ds_checkpoint_load(struct ds_fs *fs, const char *root, const struct ds_manifest *manifest,
                             const struct ds_piece *wants, size_t count, void *buffer,
                             const struct ds_checkpoint_sink *sink)
{
    struct load l = {.fs = fs,
                     .root = root,
                     .manifest = manifest,
                     .wants = wants,
                     .count = count,
                     .buffer = buffer,
                     .sink = sink};
    ds_status st = load(&l);

    free(l.order);
    free(l.first);
    free(l.filled);
    return st;
}
