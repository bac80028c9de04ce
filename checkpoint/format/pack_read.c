/* pack_read.c - opens a pack by its end: footer, boxes, table, every size checked before it is used. What comes
 * out is true of the file: each chunk that lies here is inside it, in order, without a gap. */
#include "pack_format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the footer */

static int is_aligned(uint64_t bytes)
{
    return bytes % DS_PACK_ALIGN == 0;
}

/* Its sizes agree with each other and with the file; then no sum of them overflows. */
static ds_status check_footer(const struct ds_pack *pack, uint64_t file_bytes)
{
    const struct ds_pack_info *info = &pack->info;

    if (info->file_bytes != file_bytes)
        return pack_refuse(pack, "%" PRIu64 " bytes long, %" PRIu64 " when it was written",
                           file_bytes, info->file_bytes);
    if (info->chunk_count == 0 || info->chunk_count > DS_PACK_CHUNKS_MAX ||
        info->box_count > DS_PACK_BOXES_MAX)
        return pack_refuse(pack, "a footer with %u chunks and %u boxes", info->chunk_count,
                           info->box_count);
    const uint64_t boxes_bytes = pack_boxes_bytes(info->box_count);
    const uint64_t end_bytes = pack_table_bytes(info->chunk_count) + 2 * PACK_FOOTER_BYTES;
    if (info->header_bytes < DS_PACK_ALIGN || !is_aligned(info->header_bytes) ||
        info->header_bytes > PACK_HEADER_BYTES_MAX + DS_PACK_ALIGN ||
        info->boxes_offset < info->header_bytes || !is_aligned(info->boxes_offset) ||
        info->boxes_offset > file_bytes || info->table_offset != info->boxes_offset + boxes_bytes ||
        info->table_offset + end_bytes != file_bytes)
        return pack_refuse(pack, "the parts that the footer names do not make up the file");
    for (uint32_t i = 0; i < info->other_count; i++)
        if (ds_pack_id_equal(&info->others[i].id, &info->id))
            return pack_refuse(pack, "it refers to itself");
    return DS_OK;
}

/* The first of the two that is one, and the expected one. */
static ds_status take_footer(struct ds_pack *pack, const uint8_t *footers,
                             const struct ds_pack_other *expected)
{
    for (int i = 0; i < 2; i++) {
        const uint8_t *footer = footers + (size_t)i * PACK_FOOTER_BYTES;
        const struct ds_digest digest = ds_digest_of(footer, PACK_FOOTER_BYTES);

        if ((!expected || ds_digest_equal(&digest, &expected->footer)) &&
            pack_footer_decode(footer, &pack->info))
            return DS_OK;
    }
    return pack_refuse(pack, expected ? "neither footer is the one it was committed with"
                                      : "no footer: not a pack, or damaged");
}

/* ---- boxes and table */

static ds_status take_boxes(struct ds_pack *pack, const uint8_t *at)
{
    const uint64_t bytes = pack_boxes_bytes(pack->info.box_count);
    const struct ds_digest digest = ds_digest_of(at, bytes);

    if (!ds_digest_equal(&digest, &pack->info.boxes))
        return pack_refuse(pack, "the boxes fail their checksum");
    pack->boxes = calloc(pack->info.box_count + 1u, sizeof *pack->boxes);
    if (!pack->boxes)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its boxes", pack->path);
    for (uint32_t i = 0; i < pack->info.box_count; i++)
        if (!pack_box_decode(at + (size_t)i * PACK_BOX_BYTES, &pack->boxes[i]))
            return pack_refuse(pack, "box %u is none", i + 1);
    return DS_OK;
}

static int is_in_other(const struct ds_pack *pack, const struct ds_pack_chunk *chunk,
                       uint32_t other, uint64_t offset)
{
    return other < pack->info.other_count && is_aligned(offset) && offset >= DS_PACK_ALIGN &&
           offset < pack->info.others[other].file_bytes &&
           chunk->stored_bytes <= pack->info.others[other].file_bytes - offset;
}

static int has_good_size(const struct ds_pack *pack, const struct ds_pack_chunk *chunk)
{
    const uint64_t elems_max = DS_PACK_CHUNK_BYTES / ds_dtype_bytes(chunk->dtype);

    if (chunk->box > pack->info.box_count || chunk->begin >= chunk->end ||
        chunk->end - chunk->begin > elems_max)
        return 0;
    return chunk->body_bytes == (chunk->end - chunk->begin) * ds_dtype_bytes(chunk->dtype) &&
           chunk->stored_bytes == pack_aligned(chunk->body_bytes);
}

/* `due`: where the next chunk that lies here begins. */
static ds_status check_chunk(const struct ds_pack *pack, uint32_t index, uint64_t *due)
{
    const struct ds_pack_chunk *chunk = &pack->chunks[index];

    if (!has_good_size(pack, chunk))
        return pack_refuse(pack, "chunk %u: a range or size that cannot be one", index);
    if (pack_is_here(chunk)) {
        if (chunk->offset != *due || chunk->chunk != index)
            return pack_refuse(pack, "chunk %u is not where the one before it ends", index);
        *due += chunk->stored_bytes;
    } else if (!is_in_other(pack, chunk, chunk->pack, chunk->offset) ||
               chunk->chunk >= DS_PACK_CHUNKS_MAX) {
        return pack_refuse(pack, "chunk %u refers to a place that cannot be one", index);
    }
    if (chunk->copy_pack != DS_PACK_HERE &&
        (chunk->copy_pack == chunk->pack ||
         !is_in_other(pack, chunk, chunk->copy_pack, chunk->copy_offset)))
        return pack_refuse(pack, "chunk %u has a copy where none can be", index);
    return DS_OK;
}

static ds_status check_chunks(const struct ds_pack *pack)
{
    const struct ds_pack_info *info = &pack->info;
    const struct ds_digest content = pack_content(pack->chunks, info->chunk_count);
    uint64_t due = info->header_bytes, body_bytes = 0;

    for (uint32_t i = 0; i < info->chunk_count; i++) {
        DS_TRY(check_chunk(pack, i, &due));
        body_bytes += pack->chunks[i].body_bytes;
        if (due > info->boxes_offset)
            return pack_refuse(pack, "chunk %u does not end inside the data", i);
    }
    if (due != info->boxes_offset || body_bytes != info->body_bytes ||
        !ds_digest_equal(&content, &info->content))
        return pack_refuse(pack, "footer and table contradict each other");
    return DS_OK;
}

static ds_status take_table(struct ds_pack *pack, const uint8_t *at)
{
    const uint64_t bytes = pack_table_bytes(pack->info.chunk_count);
    const struct ds_digest digest = ds_digest_of(at, bytes);

    if (!ds_digest_equal(&digest, &pack->info.table))
        return pack_refuse(pack, "the table fails its checksum");
    pack->chunks = calloc(pack->info.chunk_count, sizeof *pack->chunks);
    if (!pack->chunks)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its table", pack->path);
    for (uint32_t i = 0; i < pack->info.chunk_count; i++)
        if (!pack_entry_decode(at + (size_t)i * PACK_ENTRY_BYTES, &pack->chunks[i]))
            return pack_refuse(pack, "line %u of the table is none", i);
    return check_chunks(pack);
}

/* ---- a pack from a file, or from the end of one */

static ds_status make(struct ds_fs *fs, const char *path, struct ds_pack **out)
{
    struct ds_pack *pack = calloc(1, sizeof *pack);
    char *copy = strdup(path);

    if (!pack || !copy) {
        free(pack);
        free(copy);
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to read it", path);
    }
    *pack = (struct ds_pack){.path = copy, .file = -1, .fs = fs};
    *out = pack;
    return DS_OK;
}

void ds_pack_close(struct ds_pack *pack)
{
    if (!pack)
        return;
    if (pack->file >= 0)
        (void)ds_fs_close(pack->fs, pack->file); /* it was only read */
    free(pack->chunks);
    free(pack->boxes);
    free(pack->path);
    free(pack);
}

/* No sum has zeros behind boxes and table, and the second footer is there for a first one that is damaged. */
static const char *find_flaw(const struct ds_pack_info *info, const uint8_t *tail)
{
    const uint64_t boxes_end = (uint64_t)info->box_count * PACK_BOX_BYTES;
    const uint64_t table_begin = info->table_offset - info->boxes_offset;
    const uint64_t table_end = table_begin + (uint64_t)info->chunk_count * PACK_ENTRY_BYTES;
    const uint64_t footers = info->file_bytes - info->boxes_offset - 2 * PACK_FOOTER_BYTES;

    if (!pack_is_zero(tail + boxes_end, table_begin - boxes_end) ||
        !pack_is_zero(tail + table_end, footers - table_end))
        return "something stands behind the boxes or the table";
    if (memcmp(tail + footers, tail + footers + PACK_FOOTER_BYTES, PACK_FOOTER_BYTES) != 0)
        return "one of the two footers is damaged";
    return NULL;
}

static ds_status parse_tail(struct ds_pack *pack, const uint8_t *tail)
{
    DS_TRY(take_boxes(pack, tail));
    DS_TRY(take_table(pack, tail + (pack->info.table_offset - pack->info.boxes_offset)));
    pack->flaw = find_flaw(&pack->info, tail);
    return DS_OK;
}

static ds_status parse(struct ds_pack *pack, const uint8_t *tail, size_t tail_bytes,
                       uint64_t file_bytes)
{
    if (tail_bytes < 2 * PACK_FOOTER_BYTES || tail_bytes > file_bytes)
        return pack_refuse(pack, "too short for a pack");
    DS_TRY(take_footer(pack, tail + tail_bytes - 2 * PACK_FOOTER_BYTES, NULL));
    DS_TRY(check_footer(pack, file_bytes));
    if (file_bytes - pack->info.boxes_offset != tail_bytes)
        return pack_refuse(pack, "boxes and table are not where the footer says");
    return parse_tail(pack, tail);
}

ds_status ds_pack_parse(const char *path, const uint8_t *tail, size_t tail_bytes,
                        uint64_t file_bytes, struct ds_pack **out)
{
    struct ds_pack *pack = NULL;

    DS_TRY(make(NULL, path, &pack));
    ds_status st = parse(pack, tail, tail_bytes, file_bytes);
    if (st != DS_OK) {
        ds_pack_close(pack);
        return st;
    }
    *out = pack;
    return DS_OK;
}

static ds_status open_file(struct ds_pack *pack, uint64_t *bytes)
{
    struct ds_fs_stat stat = {0};

    pack->file = ds_fs_open(pack->fs, pack->path, DS_FS_READ | DS_FS_REGULAR | DS_FS_NO_LINK, 0);
    if (pack->file == -ENOENT)
        return pack_refuse(pack, "not there");
    if (pack->file == -EISDIR || pack->file == -EMEDIUMTYPE || pack->file == -ELOOP)
        return pack_refuse(pack, "%s", ds_fs_why(pack->file));
    int code = pack->file < 0 ? pack->file : ds_fs_fstat(pack->fs, pack->file, &stat);
    if (code != 0)
        return pack_unread(pack, "open", code);
    *bytes = stat.bytes;
    return DS_OK;
}

static ds_status load_tail(struct ds_pack *pack)
{
    const uint64_t bytes = pack->info.file_bytes - pack->info.boxes_offset;
    DS_ASSERT(bytes > 2 * PACK_FOOTER_BYTES); /* check_footer */
    uint8_t *tail = malloc(bytes);

    if (!tail)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its table", pack->path);
    ds_status st = pack_read_at(pack, tail, bytes, pack->info.boxes_offset);
    if (st == DS_OK)
        st = parse_tail(pack, tail);
    free(tail);
    return st;
}

static ds_status load(struct ds_pack *pack, const struct ds_pack_other *expected)
{
    uint8_t footers[2 * PACK_FOOTER_BYTES];
    uint64_t file_bytes = 0;

    DS_TRY(open_file(pack, &file_bytes));
    if (expected && expected->file_bytes != file_bytes)
        return pack_refuse(pack, "%" PRIu64 " bytes long, it was committed with %" PRIu64,
                           file_bytes, expected->file_bytes);
    if (file_bytes < DS_PACK_ALIGN + sizeof footers)
        return pack_refuse(pack, "too short for a pack");
    DS_TRY(pack_read_at(pack, footers, sizeof footers, file_bytes - sizeof footers));
    DS_TRY(take_footer(pack, footers, expected));
    if (expected && !ds_pack_id_equal(&expected->id, &pack->info.id))
        return pack_refuse(pack, "it is another pack");
    DS_TRY(check_footer(pack, file_bytes));
    return load_tail(pack);
}

static ds_status open_pack(struct ds_fs *fs, const char *path, const struct ds_pack_other *expected,
                           char *why, struct ds_pack **out)
{
    struct ds_pack *pack = NULL;

    DS_TRY(make(fs, path, &pack));
    pack->why = why;
    ds_status st = load(pack, expected);
    if (st != DS_OK) {
        ds_pack_close(pack);
        return st;
    }
    *out = pack;
    return DS_OK;
}

ds_status ds_pack_open(struct ds_fs *fs, const char *path, const struct ds_pack_other *expected,
                       struct ds_pack **out)
{
    return open_pack(fs, path, expected, NULL, out);
}

ds_status ds_pack_probe(struct ds_fs *fs, const char *path, const struct ds_pack_other *expected,
                        char why[DS_PACK_WHY_BYTES])
{
    struct ds_pack *pack = NULL;
    const char *flaw = NULL;

    why[0] = '\0';
    ds_status st = open_pack(fs, path, expected, why, &pack);
    if (st == DS_OK)
        st = ds_pack_find_flaw(pack, &flaw);
    if (flaw)
        snprintf(why, DS_PACK_WHY_BYTES, "%s", flaw);
    ds_pack_close(pack);
    return st == DS_ERR_CORRUPT || st == DS_ERR_IO ? DS_OK : st;
}
