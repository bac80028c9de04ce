// link: checkpoint storage base
// private: checkpoint
/* Any bytes as the end of a pack, as they are and with sums made good: refused, or a table whose chunks lie inside
 * the file. The first two bytes of an input say how many pages the file has before its end. */
#include "format/pack_format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_chunk(const struct ds_pack_info *info, const struct ds_pack_chunk *chunk,
                        uint64_t *due)
{
    DS_ASSERT(chunk->box <= info->box_count && chunk->begin < chunk->end);
    DS_ASSERT(chunk->body_bytes > 0 && chunk->body_bytes <= DS_PACK_CHUNK_BYTES);
    DS_ASSERT(chunk->stored_bytes >= chunk->body_bytes && chunk->stored_bytes % DS_PACK_ALIGN == 0);
    if (!pack_is_here(chunk)) {
        DS_ASSERT(chunk->pack < info->other_count);
        return;
    }
    DS_ASSERT(chunk->offset == *due);
    *due += chunk->stored_bytes;
}

static void try_parse(const uint8_t *tail, size_t bytes, uint64_t file_bytes)
{
    struct ds_pack *pack = NULL;
    ds_status st = ds_pack_parse("fuzz", tail, bytes, file_bytes, &pack);

    DS_ASSERT((st == DS_OK) == (pack != NULL));
    DS_ASSERT(st == DS_OK || st == DS_ERR_CORRUPT);
    if (!pack)
        return;
    const struct ds_pack_info *info = ds_pack_info(pack);
    uint64_t due = info->header_bytes;
    for (uint32_t i = 0; i < info->chunk_count; i++)
        check_chunk(info, &ds_pack_chunks(pack)[i], &due);
    DS_ASSERT(due == info->boxes_offset && info->boxes_offset < file_bytes);
    for (uint32_t i = 0; i < info->box_count; i++)
        DS_ASSERT(ds_box_elems(&ds_pack_boxes(pack)[i]) > 0);
    ds_pack_close(pack);
}

/* Makes what the footer says of sizes and sums true, so that what lies behind the sums is tried, too. */
static void mend(uint8_t *tail, size_t bytes, uint64_t file_bytes)
{
    static const uint8_t magic[16] = {'D', 'S', 'T', 'R', 'A', 'I', 'N', 'P', 1, 0, 0, 0, 0, 16};
    uint8_t *footer = tail + bytes - 2 * PACK_FOOTER_BYTES;
    struct ds_pack_info info = {0};
    const uint64_t middle = bytes - 2 * PACK_FOOTER_BYTES;

    /* numbers of chunks and boxes from the footer, as long as there is room for them */
    info.box_count = footer[64];
    info.chunk_count = footer[60] + (footer[60] == 0);
    info.other_count = footer[68] % 3;
    info.header_bytes = DS_PACK_ALIGN;
    info.boxes_offset = file_bytes - bytes;
    info.table_offset = info.boxes_offset + pack_boxes_bytes(info.box_count);
    info.file_bytes = file_bytes;
    for (uint32_t i = 0; i < info.other_count; i++)
        info.others[i] = (struct ds_pack_other){.id = {.rank = i + 1}, .file_bytes = 1u << 20};
    if (pack_boxes_bytes(info.box_count) + pack_table_bytes(info.chunk_count) != middle)
        return;
    uint8_t *table = tail + pack_boxes_bytes(info.box_count);
    struct ds_pack_chunk *chunks = calloc(info.chunk_count, sizeof *chunks);
    DS_ASSERT(chunks);
    for (uint32_t i = 0; i < info.chunk_count; i++)
        if (pack_entry_decode(table + (size_t)i * PACK_ENTRY_BYTES, &chunks[i]))
            info.body_bytes += chunks[i].body_bytes;
    info.content = pack_content(chunks, info.chunk_count);
    info.boxes = ds_digest_of(tail, pack_boxes_bytes(info.box_count));
    info.table = ds_digest_of(table, pack_table_bytes(info.chunk_count));
    pack_footer_encode(&info, footer);
    DS_ASSERT(memcmp(footer, magic, sizeof magic) == 0);
    free(chunks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ds_log.terminal = -1;
    if (size < 2)
        return 0;
    const size_t bytes = size - 2;
    const uint64_t file_bytes =
        bytes + (data[0] | (uint64_t)data[1] << 8) * (uint64_t)DS_PACK_ALIGN;
    uint8_t *tail =
        malloc(bytes ? bytes : 1); /* a block of its own: reading past its end is seen */
    DS_ASSERT(tail);
    memcpy(tail, data + 2, bytes);
    try_parse(tail, bytes, file_bytes);
    const size_t rest = bytes % DS_PACK_ALIGN; /* whole pages are what can be mended */
    if (bytes - rest >= 2 * PACK_FOOTER_BYTES) {
        mend(tail + rest, bytes - rest, file_bytes - rest);
        try_parse(tail + rest, bytes - rest, file_bytes - rest);
    }
    free(tail);
    return 0;
}
