/* pack_verify.c - every byte of a pack: header, chunks by both sums, zeros behind bodies and between records, both
 * footers. The header is compared with the one that the table makes. */
#include "pack_format.h"

#include <stdlib.h>
#include <string.h>

static ds_status verify_chunk(const struct ds_pack *pack, uint32_t index, uint8_t *buffer)
{
    const struct ds_pack_chunk *chunk = &ds_pack_chunks(pack)[index];

    if (!pack_is_here(chunk))
        return DS_OK;
    DS_TRY(ds_pack_read(pack, index, buffer));
    const struct ds_digest digest = ds_digest_of(buffer, chunk->body_bytes);
    if (!ds_digest_equal(&digest, &chunk->digest))
        return pack_refuse(pack, "a chunk is not what its digest says");
    if (!pack_is_zero(buffer + chunk->body_bytes, chunk->stored_bytes - chunk->body_bytes))
        return pack_refuse(pack, "something stands behind a chunk");
    return DS_OK;
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
    return is_same ? DS_OK : pack_refuse(pack, "header and table contradict each other");
}

/* The header's bytes, or *flaw; the caller's to free. */
static ds_status look_at_header(const struct ds_pack *pack, char **out, const char **flaw)
{
    const struct ds_pack_info *info = ds_pack_info(pack);
    char *header = malloc(info->header_bytes);

    if (!header)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its header", ds_pack_path(pack));
    const ds_status st = pack_read_at(pack, header, info->header_bytes, 0);
    if (st != DS_OK) {
        free(header);
        return st;
    }
    const struct ds_digest digest = ds_digest_of(header, info->header_bytes);
    if (!ds_digest_equal(&digest, &info->header))
        *flaw = "the header fails its checksum";
    *out = header;
    return DS_OK;
}

ds_status ds_pack_find_flaw(const struct ds_pack *pack, const char **flaw)
{
    char *header = NULL;

    *flaw = NULL;
    DS_TRY(look_at_header(pack, &header, flaw));
    free(header);
    if (!*flaw)
        *flaw = pack->flaw;
    return DS_OK;
}

static ds_status verify_header(const struct ds_pack *pack, const struct ds_catalogue *catalogue)
{
    const char *flaw = NULL;
    char *header = NULL;

    DS_TRY(look_at_header(pack, &header, &flaw));
    const ds_status st = flaw        ? pack_refuse(pack, "%s", flaw)
                         : catalogue ? compare_header(pack, catalogue, header)
                                     : DS_OK;
    free(header);
    return st;
}

ds_status ds_pack_verify(const struct ds_pack *pack, const struct ds_catalogue *catalogue,
                         void *buffer)
{
    if (catalogue)
        DS_TRY(ds_pack_match(pack, catalogue));
    DS_TRY(verify_header(pack, catalogue));
    for (uint32_t i = 0; i < ds_pack_info(pack)->chunk_count; i++)
        DS_TRY(verify_chunk(pack, i, buffer));
    return pack->flaw ? pack_refuse(pack, "%s", pack->flaw) : DS_OK;
}
