/* pack_look.c - what an open pack holds, chunks that are read from it, and how what is wrong with it is said. */
#include "pack_format.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- what is wrong */

ds_status pack_refuse(const struct ds_pack *pack, const char *format, ...)
{
    char text[DS_PACK_WHY_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!pack->why)
        return ds_fail(DS_ERR_CORRUPT, "%s: %s", pack->path, text);
    memcpy(pack->why, text, sizeof text);
    return DS_ERR_CORRUPT;
}

ds_status pack_unread(const struct ds_pack *pack, const char *doing, int code)
{
    if (!pack->why)
        return ds_fail(DS_ERR_IO, "%s %s: %s", doing, pack->path, strerror(-code));
    snprintf(pack->why, DS_PACK_WHY_BYTES, "%s: %s", doing, strerror(-code));
    return DS_ERR_IO;
}

ds_status pack_read_at(const struct ds_pack *pack, void *to, size_t bytes, uint64_t offset)
{
    const int code = ds_fs_read_all(pack->fs, pack->file, to, bytes, offset);

    return code == 0 ? DS_OK : pack_unread(pack, "read", code);
}

/* ---- looking in */

const struct ds_pack_info *ds_pack_info(const struct ds_pack *pack)
{
    return &pack->info;
}

const struct ds_pack_chunk *ds_pack_chunks(const struct ds_pack *pack)
{
    return pack->chunks;
}

const struct ds_box *ds_pack_boxes(const struct ds_pack *pack)
{
    return pack->boxes;
}

int ds_pack_file(const struct ds_pack *pack)
{
    return pack->file;
}

const char *ds_pack_path(const struct ds_pack *pack)
{
    return pack->path;
}

struct ds_piece ds_pack_piece(const struct ds_pack *pack, const struct ds_catalogue *catalogue,
                              uint32_t index)
{
    const struct ds_pack_chunk *chunk = &pack->chunks[index];

    return (struct ds_piece){
        .tensor = chunk->tensor,
        .box = chunk->box ? pack->boxes[chunk->box - 1]
                          : ds_box_whole(&catalogue->tensors[chunk->tensor]),
        .begin = chunk->begin,
        .end = chunk->end,
    };
}

static int matches(const struct ds_pack *pack, const struct ds_catalogue *catalogue, uint32_t index)
{
    const struct ds_pack_chunk *chunk = &pack->chunks[index];

    if (chunk->tensor >= catalogue->count)
        return 0;
    const struct ds_logical_tensor *tensor = &catalogue->tensors[chunk->tensor];
    const struct ds_piece piece = ds_pack_piece(pack, catalogue, index);
    return chunk->kind == tensor->kind && chunk->dtype == tensor->dtype &&
           ds_piece_fits(&piece, catalogue);
}

ds_status ds_pack_match(const struct ds_pack *pack, const struct ds_catalogue *catalogue)
{
    for (uint32_t i = 0; i < pack->info.chunk_count; i++)
        if (!matches(pack, catalogue, i))
            return pack_refuse(pack, "chunk %u is of no tensor of this checkpoint", i);
    return DS_OK;
}

int ds_pack_is_intact(const struct ds_pack_chunk *chunk, const void *stored)
{
    return ds_crc32c(0, stored, chunk->stored_bytes) == chunk->crc32c;
}

ds_status ds_pack_read(const struct ds_pack *pack, uint32_t index, void *to)
{
    const struct ds_pack_chunk *chunk = &pack->chunks[index];

    DS_ASSERT(index < pack->info.chunk_count && pack_is_here(chunk));
    DS_TRY(pack_read_at(pack, to, chunk->stored_bytes, chunk->offset));
    if (!ds_pack_is_intact(chunk, to))
        return pack_refuse(pack, "chunk %u fails its checksum", index);
    return DS_OK;
}
