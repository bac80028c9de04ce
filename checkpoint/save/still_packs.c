/* still_packs.c - chunks of states that lie in frozen files (saver.h): each is read from there, and by that its sums are known
 * and the sum of its block is made, what lies between chunks included; then the pack shares it. A block that is not what
 * was written to it is in no checkpoint: the rest of it is read before the pack is finished. The writer's thread. */
#include "finite.h"
#include "write_packs.h"

#include <inttypes.h>
#include <string.h>

/* ---- blocks */

static const struct ds_swap_still *still_of(const struct writer *w, uint32_t block)
{
    return &w->snapshot->stills[block];
}

static ds_status read_block(const struct writer *w, uint32_t block, uint64_t offset, void *to,
                            uint64_t bytes)
{
    const struct ds_swap_still *still = still_of(w, block);
    const int code = ds_fs_read_all(w->start->fs, w->start->still.files[still->drive], to, bytes,
                                    still->offset + offset);

    return code == 0 ? DS_OK
                     : ds_fail(DS_ERR_IO, "%s: read of %" PRIu64 " bytes that were frozen: %s",
                               w->start->still.directories[still->drive], bytes, strerror(-code));
}

/* The next bytes of the block; at its end it is known what it is. */
static ds_status add_bytes(struct writer *w, const void *data, uint64_t bytes)
{
    struct still_sum *sum = &w->still_sum;
    const struct ds_swap_still *still = still_of(w, sum->block);

    sum->crc32c = ds_crc32c(sum->crc32c, data, bytes);
    sum->bytes += bytes;
    if (sum->bytes < still->bytes)
        return DS_OK;
    const int is_same = sum->crc32c == still->sum;
    *sum = (struct still_sum){0};
    return is_same
               ? DS_OK
               : ds_fail(DS_ERR_CORRUPT,
                         "%s: %" PRIu32 " bytes of states, frozen at %" PRIu64
                         ", are not what was written",
                         w->start->still.directories[still->drive], still->bytes, still->offset);
}

/* What no chunk of this kind has, up to `end`; `buffer` has DS_PACK_CHUNK_BYTES. */
static ds_status pass_over(struct writer *w, uint64_t end, void *buffer)
{
    const uint32_t block = w->still_sum.block;

    for (uint64_t at = w->still_sum.bytes; at < end;) {
        const uint64_t left = end - at,
                       bytes = left < DS_PACK_CHUNK_BYTES ? left : DS_PACK_CHUNK_BYTES;

        DS_TRY(read_block(w, block, at, buffer, bytes));
        DS_TRY(add_bytes(w, buffer, bytes));
        at += bytes;
    }
    return DS_OK;
}

ds_status end_still_chunks(struct writer *w)
{
    return w->still_sum.bytes == 0
               ? DS_OK
               : pass_over(w, still_of(w, w->still_sum.block)->bytes, w->snapshot->read_back);
}

/* Everything of a block before `offset` has been read then. */
static ds_status come_to(struct writer *w, uint32_t block, uint64_t offset, void *buffer)
{
    if (w->still_sum.bytes > 0 && w->still_sum.block != block)
        DS_TRY(end_still_chunks(w));
    w->still_sum.block = block;
    return pass_over(w, offset, buffer);
}

/* ---- chunks */

/* All of it to `body`, and where its parts lie to w->sources; *is_fresh: all of them were written since the last freeze. */
static ds_status read_chunk(struct writer *w, uint32_t index, uint8_t *body, uint32_t *count,
                            int *is_fresh)
{
    const struct ds_pack_chunk *chunk = &w->snapshot->plan.chunks[index];
    const struct snapshot_piece *piece = &w->snapshot->pieces[w->snapshot->piece_of[index]];
    const uint64_t elems = chunk->begin - piece->from.piece.begin;
    uint64_t offset = piece->offset + elems * ds_dtype_bytes(chunk->dtype);
    uint32_t block = piece->block;

    *count = 0;
    *is_fresh = 1;
    for (uint64_t done = 0, bytes; done < chunk->body_bytes; done += bytes) {
        while (offset >= still_of(w, block)->bytes)
            offset -= still_of(w, block++)->bytes;
        const struct ds_swap_still *still = still_of(w, block);
        const uint64_t left = chunk->body_bytes - done, here = still->bytes - offset;

        bytes = left < here ? left : here;
        DS_TRY(come_to(w, block, offset, body)); /* of this chunk nothing is there before it */
        DS_TRY(read_block(w, block, offset, body + done, bytes));
        DS_TRY(add_bytes(w, body + done, bytes));
        w->sources[(*count)++] = (struct ds_pack_source){w->start->still.files[still->drive],
                                                         still->offset + offset, bytes};
        *is_fresh &= still->is_fresh;
        offset += bytes;
    }
    return DS_OK;
}

static ds_status note_share(struct writer *w, ds_status st)
{
    if (st != DS_OK) {
        pthread_mutex_lock(&w->lock);
        w->cannot_share = 1;
        pthread_mutex_unlock(&w->lock);
    }
    return st;
}

/* `body` is wanted again for the next chunk. */
static ds_status put(struct writer *w, void *body, const struct ds_digest *digest,
                     const struct ds_pack_chunk *copy)
{
    DS_TRY(ds_pack_put(w->packs, body, digest, copy));
    return ds_pack_drain(w->packs);
}

/* What an older pack shares, too, is written: two checkpoints that have it do not rest on one place. */
ds_status write_still_chunk(struct writer *w, uint32_t index)
{
    const struct snapshot *s = w->snapshot;
    const struct ds_pack_chunk *chunk = &s->plan.chunks[index];
    uint8_t *body = s->read_back;
    enum ds_delta_choice choice = DS_DELTA_PUT;
    struct ds_pack_chunk where;
    uint32_t count;
    int is_fresh;

    DS_TRY(note_share(w, s->still_status));
    DS_TRY(read_chunk(w, index, body, &count, &is_fresh));
    DS_TRY(finite_check(s->plan.catalogue, chunk, body));
    const struct ds_digest digest = ds_digest_of(body, chunk->body_bytes);
    if (ds_delta_knows(w->delta, index))
        choice = ds_delta_choose(w->delta, index, &digest, &where);
    if (choice == DS_DELTA_REFER)
        return ds_pack_refer(w->packs, &where);
    if (choice == DS_DELTA_PUT_COPY)
        return put(w, body, &digest, &where);
    return is_fresh ? note_share(w, ds_pack_share(w->packs, body, w->sources, count))
                    : put(w, body, &digest, NULL);
}

void drop_still(struct writer *w)
{
    const struct ds_saver_still *still = &w->start->still;

    w->still_sum = (struct still_sum){0};
    for (uint32_t i = 0; i < still->count && w->snapshot->first_still < w->snapshot->piece_count;
         i++)
        (void)ds_fs_truncate(w->start->fs, still->files[i], 0); /* or the next one replaces it */
}
