/* verify.c - one checkpoint as one reader sees it: its packs, chunks wherever they lie, and all of it at once. */
#include "dstrain/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_checkpoint_owns(const struct ds_manifest *manifest, const struct ds_pack_id *id)
{
    return id->epoch == manifest->id.epoch && id->step == manifest->id.step;
}

ds_status ds_checkpoint_open_pack(struct ds_fs *fs, const char *root,
                                  const struct ds_manifest *manifest, uint32_t index,
                                  struct ds_pack **out)
{
    const struct ds_manifest_pack *at = &manifest->packs[index];
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_pack *pack = NULL;
    ds_status st = DS_OK;

    DS_ASSERT(index < manifest->pack_count);
    ds_checkpoint_pack_path(root, at->dir, &at->pack.id, path);
    DS_TRY(ds_pack_open(fs, path, &at->pack, &pack));
    if (memcmp(ds_pack_info(pack)->run, manifest->run, sizeof manifest->run) != 0)
        st = ds_fail(DS_ERR_CORRUPT, "%s: a pack of another run", path);
    else if (ds_checkpoint_owns(manifest,
                                &at->pack.id)) /* another one's states may have other dtypes */
        st = ds_pack_match(pack, &manifest->catalogue);
    if (st != DS_OK) {
        ds_pack_close(pack);
        return st;
    }
    *out = pack;
    return DS_OK;
}

/* ---- one chunk */

/* NULL: the manifest does not name it. */
static const struct ds_manifest_pack *find_pack(const struct ds_manifest *manifest,
                                                const struct ds_pack_id *id)
{
    const struct ds_manifest_pack wanted = {.pack.id = *id};

    return bsearch(&wanted, manifest->packs, manifest->pack_count, sizeof wanted,
                   ds_manifest_pack_compare);
}

/* Of a chunk's bytes. */
struct place {
    char path[DS_CHECKPOINT_PATH_BYTES];
    const struct ds_manifest_pack *pack; /* NULL: the manifest does not name it */
    uint64_t offset;
    int file; /* -1: it is opened for this alone */
    int code; /* -errno, where they cannot be read */
};

static void find_place(const char *root, const struct ds_manifest *manifest,
                       const struct ds_pack *pack, uint32_t index, int is_second, struct place *out)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];
    const struct ds_pack_info *info = ds_pack_info(pack);
    const uint32_t other = is_second ? chunk->copy_pack : chunk->pack;
    const struct ds_pack_id *id = other == DS_PACK_HERE ? &info->id : &info->others[other].id;

    *out = (struct place){.pack = find_pack(manifest, id),
                          .offset = is_second ? chunk->copy_offset : chunk->offset,
                          .file = other == DS_PACK_HERE ? ds_pack_file(pack) : -1};
    if (other == DS_PACK_HERE)
        snprintf(out->path, sizeof out->path, "%s", ds_pack_path(pack));
    else if (out->pack)
        ds_checkpoint_pack_path(root, out->pack->dir, id, out->path);
}

/* Says nothing: there may be another place. */
static ds_status read_place(struct ds_fs *fs, struct place *place,
                            const struct ds_pack_chunk *chunk, void *to)
{
    const int is_here = place->file >= 0;
    int file = place->file;

    if (!is_here)
        file = place->pack
                   ? ds_fs_open(fs, place->path, DS_FS_READ | DS_FS_REGULAR | DS_FS_NO_LINK, 0)
                   : -ENOENT;
    place->code =
        file < 0 ? file : ds_fs_read_all(fs, file, to, chunk->stored_bytes, place->offset);
    if (!is_here && file >= 0)
        (void)ds_fs_close(fs, file);
    if (place->code != 0)
        return is_here ? DS_ERR_IO : DS_ERR_CORRUPT;
    return ds_pack_is_intact(chunk, to) ? DS_OK : DS_ERR_CORRUPT;
}

static ds_status refuse_place(const struct place *place, const struct ds_pack *pack, uint32_t index,
                              ds_status st)
{
    char chunk[64] = "a chunk that is referred to";

    if (st == DS_OK)
        return DS_OK;
    if (!place->pack)
        return ds_fail(st, "%s: chunk %u lies in a pack that the manifest does not name",
                       ds_pack_path(pack), index);
    if (place->file >= 0)
        snprintf(chunk, sizeof chunk, "chunk %u", index);
    return place->code != 0 ? ds_fail(st, "%s: %s cannot be read: %s", place->path, chunk,
                                      ds_fs_why(place->code))
                            : ds_fail(st, "%s: %s fails its checksum", place->path, chunk);
}

ds_status ds_checkpoint_read_chunk(struct ds_fs *fs, const char *root,
                                   const struct ds_manifest *manifest, const struct ds_pack *pack,
                                   uint32_t index, void *to, int32_t *missed)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];
    struct place first, second;

    find_place(root, manifest, pack, index, 0, &first);
    const ds_status st = read_place(fs, &first, chunk, to);
    if (st == DS_OK || chunk->copy_pack == DS_PACK_HERE)
        return refuse_place(&first, pack, index, st);
    if (missed && first.pack)
        missed[first.pack - manifest->packs]++;
    find_place(root, manifest, pack, index, 1, &second);
    return refuse_place(&second, pack, index, read_place(fs, &second, chunk, to));
}

void ds_checkpoint_tell_missed(const char *root, const struct ds_manifest *manifest,
                               const int32_t *missed)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    for (uint32_t i = 0; i < manifest->pack_count; i++) {
        if (missed[i] == 0)
            continue;
        ds_checkpoint_pack_path(root, manifest->packs[i].dir, &manifest->packs[i].pack.id, path);
        ds_warn("%s: %d chunk%s of it could not be had there, or failed %s checksum: read from "
                "%s second place",
                path, missed[i], missed[i] == 1 ? "" : "s", missed[i] == 1 ? "its" : "their",
                missed[i] == 1 ? "its" : "their");
    }
}

/* ---- everything */

struct verify {
    struct ds_fs *fs;
    const char *root;
    const struct ds_manifest *manifest;
    void *buffer;
    struct ds_piece *pieces;
    size_t piece_count;
};

static ds_status verify_place(const struct verify *v, const struct ds_pack *pack, uint32_t index,
                              int is_second)
{
    struct place place;

    find_place(v->root, v->manifest, pack, index, is_second, &place);
    return refuse_place(&place, pack, index,
                        read_place(v->fs, &place, &ds_pack_chunks(pack)[index], v->buffer));
}

/* What lies elsewhere, at both places where there are two. */
static ds_status verify_places(const struct verify *v, const struct ds_pack *pack)
{
    const struct ds_pack_chunk *chunks = ds_pack_chunks(pack);

    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count; i++) {
        if (chunks[i].pack != DS_PACK_HERE)
            DS_TRY(verify_place(v, pack, i, 0));
        if (chunks[i].copy_pack != DS_PACK_HERE)
            DS_TRY(verify_place(v, pack, i, 1));
    }
    return DS_OK;
}

static ds_status collect_pieces(struct verify *v, const struct ds_pack *pack)
{
    const uint32_t count = ds_pack_info(pack)->chunk_count;
    struct ds_piece *larger = realloc(v->pieces, (v->piece_count + count) * sizeof *larger);

    if (!larger)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to verify a checkpoint");
    v->pieces = larger;
    for (uint32_t i = 0; i < count; i++)
        v->pieces[v->piece_count++] = ds_pack_piece(pack, &v->manifest->catalogue, i);
    return DS_OK;
}

static ds_status verify_pack(struct verify *v, uint32_t index)
{
    const int is_own = ds_checkpoint_owns(v->manifest, &v->manifest->packs[index].pack.id);
    struct ds_pack *pack = NULL;

    DS_TRY(ds_checkpoint_open_pack(v->fs, v->root, v->manifest, index, &pack));
    ds_status st = DS_OK;
    if (is_own)
        st = ds_pack_verify(pack, &v->manifest->catalogue, v->buffer);
    if (is_own && st == DS_OK)
        st = verify_places(v, pack);
    if (is_own && st == DS_OK)
        st = collect_pieces(v, pack);
    ds_pack_close(pack);
    return st;
}

ds_status ds_checkpoint_verify(struct ds_fs *fs, const char *root,
                               const struct ds_manifest *manifest, void *buffer)
{
    struct verify v = {.fs = fs, .root = root, .manifest = manifest, .buffer = buffer};
    ds_status st = DS_OK;

    for (uint32_t i = 0; i < manifest->pack_count && st == DS_OK; i++)
        st = verify_pack(&v, i);
    if (st == DS_OK)
        st = ds_tiling_prove(&manifest->catalogue, v.pieces, v.piece_count, 0, 1);
    free(v.pieces);
    if (st == DS_ERR_DATA) /* it has been told which tensor */
        st = ds_fail(DS_ERR_CORRUPT, "the packs do not make up the tensors of the checkpoint");
    return st;
}
