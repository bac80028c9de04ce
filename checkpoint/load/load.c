/* load.c - pieces out of a checkpoint, by one reader. Tables say what every chunk is a part of; what it has in common
 * with a piece is copied run by run. */
#include "load.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- wants by tensor: counted, then placed */

ds_status load_wants_init(struct load_wants *w, const struct ds_catalogue *catalogue,
                          const struct ds_piece *pieces, size_t count,
                          const struct ds_checkpoint_sink *sink)
{
    const uint32_t tensors = catalogue->count;

    *w = (struct load_wants){.catalogue = catalogue,
                             .pieces = pieces,
                             .count = count,
                             .sink = sink,
                             .order = calloc(count + 1, sizeof *w->order),
                             .first = calloc(tensors + 2u, sizeof *w->first),
                             .filled = calloc(count + 1, sizeof *w->filled)};
    if (!w->order || !w->first || !w->filled)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to load %zu pieces", count);
    for (size_t i = 0; i < count; i++) {
        DS_ASSERT(ds_piece_fits(&pieces[i], catalogue));
        w->first[pieces[i].tensor + 2]++;
    }
    for (uint32_t tensor = 2; tensor < tensors + 2; tensor++)
        w->first[tensor] += w->first[tensor - 1];
    for (size_t i = 0; i < count; i++) /* afterwards each beginning has moved to its place */
        w->order[w->first[pieces[i].tensor + 1]++] = (uint32_t)i;
    return DS_OK;
}

void load_wants_fini(struct load_wants *w)
{
    free(w->order);
    free(w->first);
    free(w->filled);
    *w = (struct load_wants){0};
}

int load_wants_any(const struct load_wants *w, const struct ds_piece *part)
{
    for (uint32_t i = w->first[part->tensor]; i < w->first[part->tensor + 1]; i++) {
        struct ds_overlap_cursor cursor;
        struct ds_overlap run;

        ds_overlap_begin(&cursor, part, &w->pieces[w->order[i]]);
        if (ds_overlap_next(&cursor, &run))
            return 1;
    }
    return 0;
}

ds_status load_wants_take(struct load_wants *w, const struct ds_piece *part, enum ds_dtype dtype,
                          const void *bytes)
{
    const uint8_t *from = bytes;

    for (uint32_t i = w->first[part->tensor]; i < w->first[part->tensor + 1]; i++) {
        const uint32_t want = w->order[i];
        struct ds_overlap_cursor cursor;
        struct ds_overlap run;

        ds_overlap_begin(&cursor, part, &w->pieces[want]);
        while (ds_overlap_next(&cursor, &run)) {
            DS_TRY(w->sink->put(w->sink->user, want, run.to, run.count,
                                from + run.from * ds_dtype_bytes(dtype), dtype));
            w->filled[want] += run.count;
        }
    }
    return DS_OK;
}

ds_status load_wants_check(const struct load_wants *w)
{
    for (size_t i = 0; i < w->count; i++) {
        const struct ds_piece *want = &w->pieces[i];

        if (w->filled[i] != want->end - want->begin)
            return ds_fail(
                DS_ERR_CORRUPT,
                "the checkpoint has %" PRIu64 " of %" PRIu64 " elements of a piece of '%s'",
                w->filled[i], want->end - want->begin, w->catalogue->tensors[want->tensor].name);
    }
    return DS_OK;
}

/* ---- one reader */

struct load {
    struct ds_fs *fs;
    const char *root;
    const struct ds_manifest *manifest;
    void *buffer;
    int32_t *missed; /* of each pack, or NULL */
    struct load_wants wants;
};

static ds_status load_chunk(struct load *l, const struct ds_pack *pack, uint32_t index)
{
    const struct ds_piece piece = ds_pack_piece(pack, &l->manifest->catalogue, index);

    if (!load_wants_any(&l->wants, &piece))
        return DS_OK;
    DS_TRY(
        ds_checkpoint_read_chunk(l->fs, l->root, l->manifest, pack, index, l->buffer, l->missed));
    return load_wants_take(&l->wants, &piece, ds_pack_chunks(pack)[index].dtype, l->buffer);
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

static ds_status load_packs(struct load *l)
{
    for (uint32_t i = 0; i < l->manifest->pack_count; i++)
        if (ds_checkpoint_owns(l->manifest, &l->manifest->packs[i].pack.id))
            DS_TRY(load_pack(l, i));
    return load_wants_check(&l->wants);
}

ds_status ds_checkpoint_load(struct ds_fs *fs, const char *root, const struct ds_manifest *manifest,
                             const struct ds_piece *wants, size_t count, void *buffer,
                             const struct ds_checkpoint_sink *sink)
{
    struct load l = {.fs = fs,
                     .root = root,
                     .manifest = manifest,
                     .buffer = buffer,
                     .missed = calloc(manifest->pack_count + 1u, sizeof *l.missed)};
    ds_status st = load_wants_init(&l.wants, &manifest->catalogue, wants, count, sink);

    if (st == DS_OK)
        st = load_packs(&l);
    if (l.missed)
        ds_checkpoint_tell_missed(root, manifest, l.missed);
    free(l.missed);
    load_wants_fini(&l.wants);
    return st;
}
