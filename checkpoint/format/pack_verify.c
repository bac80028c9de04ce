/* pack_verify.c - every byte of a pack: header, chunks by both sums, zeros behind bodies and between records, both
 * footers. The header is compared with the one that the table makes. */
#include "pack_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static ds_status refuse(const struct ds_pack *pack, const char *what)
{
    return ds_fail(DS_ERR_CORRUPT, "%s: %s", ds_pack_path(pack), what);
}

static int is_zero(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != 0)
            return 0;
    return 1;
}

static ds_status verify_chunk(const struct ds_pack *pack, uint32_t index, uint8_t *buffer)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];

    if (!pack_is_here(chunk))
        return DS_OK;
    DS_TRY(ds_pack_read(pack, index, buffer));
    const struct ds_digest digest = ds_digest_of(buffer, chunk->body_bytes);
    if (!ds_digest_equal(&digest, &chunk->digest))
        return refuse(pack, "a chunk is not what its digest says");
    if (!is_zero(buffer + chunk->body_bytes, chunk->stored_bytes - chunk->body_bytes))
        return refuse(pack, "something stands behind a chunk");
    return DS_OK;
}

/* Boxes and table were read by open, which checked their sums; here it is zeros behind them, and two footers. */
static ds_status verify_tail(const struct ds_pack *pack, struct ds_fs *fs)
{
    const struct ds_pack_info *info = ds_pack_info(pack);
    const uint64_t bytes = info->file_bytes - info->boxes_offset;
    const uint64_t boxes_end = (uint64_t)info->box_count * PACK_BOX_BYTES;
    const uint64_t table_begin = info->table_offset - info->boxes_offset;
    const uint64_t table_end = table_begin + (uint64_t)info->chunk_count * PACK_ENTRY_BYTES;
    const uint64_t footers = bytes - 2 * PACK_FOOTER_BYTES;
    uint8_t *tail = malloc(bytes);
    ds_status st = DS_OK;

    if (!tail)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its table", ds_pack_path(pack));
    int code = ds_fs_read_all(fs, ds_pack_file(pack), tail, bytes, info->boxes_offset);
    if (code != 0)
        st = ds_fail(DS_ERR_IO, "read %s: %s", ds_pack_path(pack), strerror(-code));
    else if (!is_zero(tail + boxes_end, table_begin - boxes_end) ||
             !is_zero(tail + table_end, footers - table_end))
        st = refuse(pack, "something stands behind the boxes or the table");
    else if (memcmp(tail + footers, tail + footers + PACK_FOOTER_BYTES, PACK_FOOTER_BYTES) != 0)
        st = refuse(pack, "one of the two footers is damaged");
    free(tail);
    return st;
}

static ds_status compare_header(const struct ds_pack *pack, const struct ds_catalogue *catalogue,
                                const char *header)
{
    const struct ds_pack_info *info = ds_pack_info(pack);
    char *made = malloc(info->header_bytes);

    if (!made)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its header", ds_pack_path(pack));
    const int is_same =
        pack_header_make(info, ds_pack_chunks(pack), ds_pack_boxes(pack), catalogue, made) &&
        memcmp(made, header, info->header_bytes) == 0;
    free(made);
    return is_same ? DS_OK : refuse(pack, "header and table contradict each other");
}

static ds_status verify_header(const struct ds_pack *pack, struct ds_fs *fs,
                               const struct ds_catalogue *catalogue)
{
    const struct ds_pack_info *info = ds_pack_info(pack);
    char *header = malloc(info->header_bytes);
    ds_status st = DS_OK;

    if (!header)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its header", ds_pack_path(pack));
    int code = ds_fs_read_all(fs, ds_pack_file(pack), header, info->header_bytes, 0);
    const struct ds_digest digest = ds_digest_of(header, info->header_bytes);
    if (code != 0)
        st = ds_fail(DS_ERR_IO, "read %s: %s", ds_pack_path(pack), strerror(-code));
    else if (!ds_digest_equal(&digest, &info->header))
        st = refuse(pack, "the header fails its checksum");
    else if (catalogue)
        st = compare_header(pack, catalogue, header);
    free(header);
    return st;
}

ds_status ds_pack_verify(const struct ds_pack *pack, struct ds_fs *fs,
                         const struct ds_catalogue *catalogue, void *buffer)
{
    if (catalogue)
        DS_TRY(ds_pack_match(pack, catalogue));
    DS_TRY(verify_header(pack, fs, catalogue));
    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count; i++)
        DS_TRY(verify_chunk(pack, i, buffer));
    return verify_tail(pack, fs);
}
