/* verify.c - one checkpoint as one reader sees it: its packs, chunks wherever they lie, and all of it at once. */
#include "dstrain/checkpoint.h"

#include <errno.h>
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

static ds_status read_elsewhere(struct ds_fs *fs, const char *root,
                                const struct ds_manifest *manifest,
                                const struct ds_pack_other *other, uint64_t offset,
                                const struct ds_pack_chunk *chunk, void *to)
{
    const struct ds_manifest_pack wanted = {.pack = *other};
    const struct ds_manifest_pack *found = bsearch(&wanted, manifest->packs, manifest->pack_count,
                                                   sizeof wanted, ds_manifest_pack_compare);
    char path[DS_CHECKPOINT_PATH_BYTES];

    if (!found)
        return ds_fail(DS_ERR_CORRUPT, "a chunk lies in a pack that the manifest does not name");
    ds_checkpoint_pack_path(root, found->dir, &other->id, path);
    int file = ds_fs_open(fs, path, DS_FS_READ, 0);
    int code = file < 0 ? file : ds_fs_read_all(fs, file, to, chunk->stored_bytes, offset);
    if (file >= 0)
        (void)ds_fs_close(fs, file);
    if (code != 0)
        return ds_fail(DS_ERR_CORRUPT, "read a chunk of %s: %s", path, strerror(-code));
    if (!ds_pack_is_intact(chunk, to))
        return ds_fail(DS_ERR_CORRUPT, "%s: a chunk that is referred to fails its checksum", path);
    return DS_OK;
}

static ds_status read_first(struct ds_fs *fs, const char *root, const struct ds_manifest *manifest,
                            const struct ds_pack *pack, uint32_t index, void *to)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];

    if (chunk->pack == DS_PACK_HERE)
        return ds_pack_read(pack, index, to);
    return read_elsewhere(fs, root, manifest, &ds_pack_info(pack)->others[chunk->pack],
                          chunk->offset, chunk, to);
}

static ds_status read_second(struct ds_fs *fs, const char *root, const struct ds_manifest *manifest,
                             const struct ds_pack *pack, uint32_t index, void *to)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];

    return read_elsewhere(fs, root, manifest, &ds_pack_info(pack)->others[chunk->copy_pack],
                          chunk->copy_offset, chunk, to);
}

ds_status ds_checkpoint_read_chunk(struct ds_fs *fs, const char *root,
                                   const struct ds_manifest *manifest, const struct ds_pack *pack,
                                   uint32_t index, void *to)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];
    ds_status st = read_first(fs, root, manifest, pack, index, to);

    if ((st == DS_ERR_CORRUPT || st == DS_ERR_IO) && chunk->copy_pack != DS_PACK_HERE) {
        ds_warn("%s: chunk %u is read from its second place", ds_pack_path(pack), index);
        st = read_second(fs, root, manifest, pack, index, to);
    }
    return st;
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

/* What lies elsewhere, at both places where there are two. */
static ds_status verify_places(const struct verify *v, const struct ds_pack *pack)
{
    const struct ds_pack_chunk *chunks = ds_pack_chunks(pack);

    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count; i++) {
        if (chunks[i].pack != DS_PACK_HERE)
            DS_TRY(read_first(v->fs, v->root, v->manifest, pack, i, v->buffer));
        if (chunks[i].copy_pack != DS_PACK_HERE)
            DS_TRY(read_second(v->fs, v->root, v->manifest, pack, i, v->buffer));
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
        st = ds_pack_verify(pack, v->fs, &v->manifest->catalogue, v->buffer);
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
