/* pack_format.c - boxes, table entries and footer as bytes. Little-endian, every field at a fixed place; what is
 * not used is zero. Decoding encodes again and compares, so each thing has one spelling and no byte is free. */
#include "pack_format.h"

#include <stdlib.h>
#include <string.h>

#define VERSION     1u
#define OTHER_BYTES 56u

static const uint8_t magic[8] = {'D', 'S', 'T', 'R', 'A', 'I', 'N', 'P'};

enum entry_flag { ENTRY_STORED = 1, ENTRY_REFERENCE = 2, ENTRY_COPY = 4 };

/* The number of a dtype in files: it stays, whatever the order of the enum becomes. */
static const uint8_t dtype_codes[DS_DTYPE_COUNT] = {
    [DS_F32] = 1,  [DS_BF16] = 2, [DS_F16] = 3,   [DS_F64] = 4,      [DS_U8] = 5,
    [DS_I8] = 6,   [DS_I16] = 7,  [DS_U16] = 8,   [DS_I32] = 9,      [DS_U32] = 10,
    [DS_I64] = 11, [DS_U64] = 12, [DS_BOOL] = 13, [DS_F8_E5M2] = 14, [DS_F8_E4M3] = 15,
};

static int dtype_of_code(uint8_t code, enum ds_dtype *out)
{
    for (int dtype = 0; dtype < DS_DTYPE_COUNT; dtype++)
        if (code != 0 && dtype_codes[dtype] == code) {
            *out = (enum ds_dtype)dtype;
            return 1;
        }
    return 0;
}

static uint8_t *put(uint8_t *to, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> 8 * i);
    return to + bytes;
}

static uint64_t get(const uint8_t **from, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)(*from)[i] << 8 * i;
    *from += bytes;
    return value;
}

static uint8_t *put_bytes(uint8_t *to, const uint8_t *bytes)
{
    memcpy(to, bytes, 16);
    return to + 16;
}

static void get_bytes(const uint8_t **from, uint8_t *bytes)
{
    memcpy(bytes, *from, 16);
    *from += 16;
}

/* ---- boxes */

void pack_box_encode(const struct ds_box *box, uint8_t *to)
{
    to = put(to, box->dim_count, 8);
    for (uint32_t dim = 0; dim < DS_LOGICAL_DIMS_MAX; dim++) {
        to = put(to, dim < box->dim_count ? box->begin[dim] : 0, 8);
        to = put(to, dim < box->dim_count ? box->end[dim] : 0, 8);
    }
}

int pack_box_decode(const uint8_t *from, struct ds_box *out)
{
    uint8_t again[PACK_BOX_BYTES];
    const uint8_t *at = from;
    struct ds_box box = {0};
    const uint64_t dim_count = get(&at, 8);

    if (dim_count > DS_LOGICAL_DIMS_MAX)
        return 0;
    box.dim_count = (uint32_t)dim_count;
    for (uint32_t dim = 0; dim < box.dim_count; dim++) {
        box.begin[dim] = get(&at, 8);
        box.end[dim] = get(&at, 8);
    }
    pack_box_encode(&box, again);
    if (ds_box_elems(&box) == 0 || memcmp(again, from, sizeof again) != 0)
        return 0;
    *out = box;
    return 1;
}

/* ---- the table */

void pack_entry_encode(const struct ds_pack_chunk *chunk, uint8_t *to)
{
    const int has_copy = chunk->copy_pack != DS_PACK_HERE;
    const unsigned flags = (unsigned)(pack_is_here(chunk) ? ENTRY_STORED : ENTRY_REFERENCE) |
                           (has_copy ? (unsigned)ENTRY_COPY : 0);

    to = put(to, chunk->tensor, 4);
    to = put(to, chunk->kind, 1);
    to = put(to, dtype_codes[chunk->dtype], 1);
    to = put(to, flags, 2);
    to = put(to, chunk->begin, 8);
    to = put(to, chunk->end, 8);
    to = put(to, chunk->offset, 8);
    to = put(to, chunk->stored_bytes, 4);
    to = put(to, chunk->body_bytes, 4);
    to = put(to, chunk->crc32c, 4);
    to = put(to, chunk->pack, 4);
    to = put_bytes(to, chunk->digest.bytes);
    to = put(to, chunk->chunk, 8);
    to = put(to, chunk->box, 4);
    to = put(to, chunk->copy_pack, 4);
    to = put(to, has_copy ? chunk->copy_offset : 0, 8);
    (void)put(to, 0, 8);
}

int pack_entry_decode(const uint8_t *from, struct ds_pack_chunk *out)
{
    uint8_t again[PACK_ENTRY_BYTES];
    const uint8_t *at = from;
    struct ds_pack_chunk chunk = {0};

    chunk.tensor = (uint32_t)get(&at, 4);
    chunk.kind = (enum ds_state_kind)get(&at, 1);
    if (!ds_state_kind_name(chunk.kind) || !dtype_of_code((uint8_t)get(&at, 1), &chunk.dtype))
        return 0;
    (void)get(&at, 2); /* the flags follow from the rest */
    chunk.begin = get(&at, 8);
    chunk.end = get(&at, 8);
    chunk.offset = get(&at, 8);
    chunk.stored_bytes = (uint32_t)get(&at, 4);
    chunk.body_bytes = (uint32_t)get(&at, 4);
    chunk.crc32c = (uint32_t)get(&at, 4);
    chunk.pack = (uint32_t)get(&at, 4);
    get_bytes(&at, chunk.digest.bytes);
    chunk.chunk = get(&at, 8);
    chunk.box = (uint32_t)get(&at, 4);
    chunk.copy_pack = (uint32_t)get(&at, 4);
    chunk.copy_offset = get(&at, 8);
    pack_entry_encode(&chunk, again);
    if (memcmp(again, from, sizeof again) != 0)
        return 0;
    *out = chunk;
    return 1;
}

/* ---- the footer */

static uint8_t *put_id(uint8_t *to, const struct ds_pack_id *id)
{
    to = put(to, id->epoch, 8);
    to = put(to, id->step, 8);
    to = put(to, id->rank, 4);
    to = put(to, id->part, 4);
    return put(to, id->attempt, 4);
}

static struct ds_pack_id get_id(const uint8_t **from)
{
    struct ds_pack_id id = {0};

    id.epoch = get(from, 8);
    id.step = get(from, 8);
    id.rank = (uint32_t)get(from, 4);
    id.part = (uint32_t)get(from, 4);
    id.attempt = (uint32_t)get(from, 4);
    return id;
}

void pack_footer_encode(const struct ds_pack_info *info, uint8_t *footer)
{
    uint8_t *to = footer;

    memset(footer, 0, PACK_FOOTER_BYTES);
    memcpy(to, magic, sizeof magic);
    to = put(to + sizeof magic, VERSION, 4);
    to = put(to, DS_PACK_ALIGN, 4);
    to = put_bytes(to, info->run);
    to = put_id(to, &info->id);
    to = put(to, info->chunk_count, 4);
    to = put(to, info->box_count, 4);
    to = put(to, info->other_count, 4);
    to = put(to, info->header_bytes, 8);
    to = put_bytes(to, info->header.bytes);
    to = put(to, info->boxes_offset, 8);
    to = put_bytes(to, info->boxes.bytes);
    to = put(to, info->table_offset, 8);
    to = put_bytes(to, info->table.bytes);
    to = put(to, info->body_bytes, 8);
    to = put(to, info->file_bytes, 8);
    to = put_bytes(to, info->content.bytes);
    for (uint32_t i = 0; i < info->other_count; i++) {
        to = put_id(to, &info->others[i].id);
        to = put(to, 0, 4);
        to = put(to, info->others[i].file_bytes, 8);
        to = put_bytes(to, info->others[i].footer.bytes);
    }
    DS_ASSERT(to <= footer + PACK_FOOTER_BYTES - 4);
    (void)put(footer + PACK_FOOTER_BYTES - 4, ds_crc32c(0, footer, PACK_FOOTER_BYTES - 4), 4);
}

static void get_others(const uint8_t **from, struct ds_pack_info *info)
{
    for (uint32_t i = 0; i < info->other_count; i++) {
        info->others[i].id = get_id(from);
        (void)get(from, 4);
        info->others[i].file_bytes = get(from, 8);
        get_bytes(from, info->others[i].footer.bytes);
    }
}

int pack_footer_decode(const uint8_t *from, struct ds_pack_info *out)
{
    uint8_t again[PACK_FOOTER_BYTES];
    const uint8_t *at = from + 16;
    struct ds_pack_info info = {0};

    get_bytes(&at, info.run);
    info.id = get_id(&at);
    info.chunk_count = (uint32_t)get(&at, 4);
    info.box_count = (uint32_t)get(&at, 4);
    info.other_count = (uint32_t)get(&at, 4);
    info.header_bytes = get(&at, 8);
    get_bytes(&at, info.header.bytes);
    info.boxes_offset = get(&at, 8);
    get_bytes(&at, info.boxes.bytes);
    info.table_offset = get(&at, 8);
    get_bytes(&at, info.table.bytes);
    info.body_bytes = get(&at, 8);
    info.file_bytes = get(&at, 8);
    get_bytes(&at, info.content.bytes);
    if (info.other_count > DS_PACK_OTHERS_MAX)
        return 0;
    get_others(&at, &info);
    pack_footer_encode(&info, again);
    if (memcmp(again, from, sizeof again) != 0)
        return 0;
    *out = info;
    return 1;
}

/* ---- what follows from the table */

int pack_is_zero(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != 0)
            return 0;
    return 1;
}

int pack_continues(const struct ds_pack_chunk *before, const struct ds_pack_chunk *chunk)
{
    return pack_is_here(before) && pack_is_here(chunk) && before->tensor == chunk->tensor &&
           before->box == chunk->box && before->end == chunk->begin &&
           before->body_bytes == before->stored_bytes;
}

/* A digest over digests in pieces, so that no memory is taken: a chain of blocks, each with the digest of those
 * before it at its front. */
struct ds_digest pack_content(const struct ds_pack_chunk *chunks, uint32_t count)
{
    struct ds_digest block[64] = {{{0}}};
    uint32_t filled = 1;

    for (uint32_t i = 0; i < count; i++) {
        block[filled++] = chunks[i].digest;
        if (filled == 64 || i + 1 == count) {
            block[0] = ds_digest_of(block, filled * sizeof block[0]);
            filled = 1;
        }
    }
    return block[0];
}
