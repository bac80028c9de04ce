/* write_packs.c - see write_packs.h: a chunk that the last checkpoint has already is referred to, others go to the disk
 * from where they lie. */
#include "write_packs.h"

#include "finite.h"

#include "dstrain/clones.h"
#include "dstrain/master.h"

#include <string.h>

#define READ_BACK_EVERY 100 /* of this many chunks one is read again before a rank votes */

static uint32_t dir_of(const struct ds_pack_id *id)
{
    return id->rank / DS_CHECKPOINT_DIR_RANKS;
}

/* ---- chunks */

static int is_join(const struct writer *w, const void *data)
{
    for (uint32_t i = 0; i < SNAPSHOT_JOINS; i++)
        if (w->snapshot->joins[i] == data)
            return 1;
    return 0;
}

/* The disk has a chunk, or will never have it. */
static void on_written(void *user, void *data)
{
    struct writer *w = user;

    if (is_join(w, data))
        w->spare[w->spare_count++] = data;
}

DS_CLONES static void join(float *to, const uint16_t *weights, const int16_t *remainders,
                           uint64_t count)
{
    DS_NO_OVERLAP for (uint64_t i = 0; i < count; i++) to[i] =
        ds_master_join(weights[i], remainders[i]);
}

static void *body_of(struct writer *w, uint32_t index)
{
    const struct ds_pack_chunk *chunk = &w->snapshot->plan.chunks[index];
    const struct snapshot_piece *piece = &w->snapshot->pieces[w->snapshot->piece_of[index]];
    const uint64_t start = chunk->begin - piece->from.piece.begin;

    if (!piece->remainder)
        return piece->at + start * ds_dtype_bytes(chunk->dtype);
    DS_ASSERT(w->spare_count > 0); /* one more than can be on its way */
    uint8_t *to = w->spare[--w->spare_count];
    join((float *)(void *)to, (const uint16_t *)(const void *)piece->at + start,
         (const int16_t *)(const void *)piece->remainder + start, chunk->end - chunk->begin);
    return to;
}

/* A turn is over when the last of its pieces lies on the disk: the next one comes to the same memory. */
static ds_status end_piece(struct writer *w, uint32_t piece)
{
    const struct snapshot *s = w->snapshot;

    for (uint32_t i = 0; i + 1 < s->unit_count; i++)
        if (piece + 1 == s->units[i + 1].first && s->units[i].turn != s->units[i + 1].turn)
            DS_TRY(ds_pack_drain(w->packs));
    writer_pass_piece(w, piece);
    return DS_OK;
}

/* Only what the last checkpoint does not have already. */
static ds_status put_chunk(struct writer *w, uint32_t index)
{
    const struct snapshot *s = w->snapshot;
    void *body = body_of(w, index);
    const ds_status finite = finite_check(s->plan.catalogue, &s->plan.chunks[index], body);
    struct ds_pack_chunk where;

    if (finite != DS_OK) {
        on_written(w, body);
        return finite;
    }
    if (!ds_delta_knows(w->delta, index))
        return ds_pack_put(w->packs, body, NULL, NULL);
    const struct ds_digest digest = ds_digest_of(body, s->plan.chunks[index].body_bytes);
    switch (ds_delta_choose(w->delta, index, &digest, &where)) {
    case DS_DELTA_REFER:
        on_written(w, body);
        return ds_pack_refer(w->packs, &where);
    case DS_DELTA_PUT_COPY:
        return ds_pack_put(w->packs, body, &digest, &where);
    default:
        return ds_pack_put(w->packs, body, &digest, NULL);
    }
}

static ds_status put_chunks(struct writer *w, const struct ds_pack_part *part)
{
    const struct snapshot *s = w->snapshot;

    for (uint32_t i = part->first; i < part->first + part->count; i++) {
        const uint32_t piece = s->piece_of[i];

        if (!writer_await_piece(w, piece))
            return DS_ERR_DEADLINE;
        DS_TRY(s->pieces[piece].is_still ? write_still_chunk(w, i) : put_chunk(w, i));
        if (i + 1 == s->plan.chunk_count || s->piece_of[i + 1] != piece)
            DS_TRY(end_piece(w, piece));
    }
    return end_still_chunks(w);
}

/* ---- what is there already */

/* Packs that are gone, whoever took them away, cannot be referred to. */
static int are_there(const struct writer *w, const struct ds_pack_other *packs, uint32_t count)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    for (uint32_t i = 0; i < count; i++) {
        ds_checkpoint_pack_path(w->start->root, dir_of(&packs[i].id), &packs[i].id, path);
        if (ds_fs_stat(w->start->fs, path, &stat) != 0 || stat.bytes != packs[i].file_bytes)
            return 0;
    }
    return 1;
}

static void begin_delta(struct writer *w)
{
    struct ds_delta *delta = w->delta;

    ds_delta_begin(delta, &w->others, &w->other_count);
    if (are_there(w, w->others, w->other_count))
        return;
    ds_delta_forget(delta);
    ds_delta_begin(delta, &w->others, &w->other_count);
}

/* The older packs that this save refers to: the manifest names them, too. */
static void name_others(struct writer *w)
{
    struct ds_pack_other needed[DS_PACK_OTHERS_MAX];
    const uint32_t count = ds_delta_needed(w->delta, needed);

    for (uint32_t i = 0; i < count; i++)
        w->made[w->made_count++] =
            (struct ds_manifest_pack){.dir = dir_of(&needed[i].id), .pack = needed[i]};
}

/* ---- packs */

static ds_status write_part(struct writer *w, uint32_t part, struct ds_manifest_pack *out)
{
    const struct ds_saver_start *start = w->start;
    char path[DS_CHECKPOINT_PATH_BYTES];
    uint32_t count;
    struct ds_pack_new pack = {.path = path,
                               .id = {.epoch = start->epoch,
                                      .step = w->step,
                                      .rank = w->rank,
                                      .part = part,
                                      .attempt = w->attempt},
                               .others = w->others,
                               .other_count = w->other_count,
                               .done = on_written,
                               .user = w};

    memcpy(pack.run, start->run, sizeof pack.run);
    *out = (struct ds_manifest_pack){.dir = dir_of(&pack.id)};
    ds_checkpoint_pack_path(start->root, out->dir, &pack.id, path);
    DS_TRY(ds_pack_begin(w->packs, &pack));
    DS_TRY(put_chunks(w, &w->snapshot->plan.parts[part]));
    DS_TRY(ds_pack_finish(w->packs, &out->pack));
    ds_delta_wrote(w->delta, part, ds_pack_written(w->packs, &count), &out->pack);
    return ds_checkpoint_keep_pack(start->fs, start->root, out, READ_BACK_EVERY,
                                   w->snapshot->read_back);
}

ds_status write_packs(struct writer *w)
{
    const struct ds_pack_plan *plan = &w->snapshot->plan;

    w->made_count = 0;
    if (plan->part_count == 0)
        return DS_OK;
    ds_status st =
        ds_checkpoint_make_data(w->start->fs, w->start->root, w->rank / DS_CHECKPOINT_DIR_RANKS);
    if (st == DS_OK)
        begin_delta(w);
    for (uint32_t part = 0; part < plan->part_count && st == DS_OK; part++) {
        st = write_part(w, part, &w->made[part]);
        w->made_count += st == DS_OK;
    }
    if (st == DS_OK)
        name_others(w);
    else
        ds_pack_abandon(w->packs);
    drop_still(w);
    return st;
}
