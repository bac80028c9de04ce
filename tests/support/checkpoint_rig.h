/* checkpoint_rig.h - a launch of a trainer that only saves: two ranks' packs written one after the other by one
 * process, so that every call to the disk comes in one order. */
#ifndef DSTRAIN_TEST_CHECKPOINT_RIG_H
#define DSTRAIN_TEST_CHECKPOINT_RIG_H

#include "commit_alone.h"
#include "pack_case.h"

#include "dstrain/checkpoint.h"
#include "dstrain/delta.h"

#define RIG_RANKS 2
#define RIG_ROOT  "/run/checkpoints"

/* What outlives a launch in the mind of a test. */
struct launch {
    struct ds_fs *fs;
    struct ds_comm *self;
    uint8_t fresh_run[16]; /* the run's name, if this launch makes the directory */
    struct pack_case c;
    struct ds_pack_plan plans[RIG_RANKS];
    struct ds_pack_writer *writers[RIG_RANKS];
    struct ds_checkpoint_dir *dir;
    struct ds_manifest_id base; /* what was loaded */
    int has_base;
    int is_base_elsewhere; /* this is a mirror: what was loaded was not from here, so it is not trusted */
    int is_delta;          /* tensors 2 and 3 never change, and are not written again */
    uint32_t attempt;                   /* of the next save */
    struct ds_delta *deltas[RIG_RANKS]; /* known from the first save of a launch on */
};

static const uint8_t rig_run[16] = "a run's own name";
static const struct ds_digest rig_keys = {{1, 2, 3}};

/* How the states are after a step. */
static inline void rig_set_step(struct pack_case *c, int is_delta, uint64_t step)
{
    for (uint32_t i = 0; i < PACK_CASE_TENSORS; i++)
        c->changed_at[i] = is_delta && i >= 2 ? 0 : step;
}

static inline void launch_init(struct launch *l, struct ds_fs *fs, int is_delta)
{
    struct ds_piece pieces[PACK_CASE_TENSORS];

    *l = (struct launch){.fs = fs, .is_delta = is_delta};
    memcpy(l->fresh_run, rig_run, sizeof l->fresh_run);
    assert_ok(ds_comm_self_open(ds_clock_system(), &l->self));
    pack_case_open(&l->c, fs, 0);
    for (uint32_t rank = 0; rank < RIG_RANKS; rank++) {
        const size_t count = pack_case_pieces(&l->c, rank, pieces);

        assert_ok(
            ds_pack_plan_make(&l->c.catalogue, pieces, count, DS_PACK_CHUNKS_MAX, &l->plans[rank]));
        assert_ok(ds_pack_writer_open(fs, l->c.storage, 1, &l->plans[rank], &l->writers[rank]));
        l->deltas[rank] =
            ds_delta_make(&l->plans[rank], malloc(ds_delta_bytes(l->plans[rank].chunk_count)));
    }
}

static inline void launch_fini(struct launch *l)
{
    for (uint32_t rank = 0; rank < RIG_RANKS; rank++) {
        ds_pack_writer_close(l->writers[rank]);
        free(l->deltas[rank]); /* its memory begins with it */
        ds_pack_plan_fini(&l->plans[rank]);
    }
    pack_case_close(&l->c);
    ds_checkpoint_dir_close(l->dir);
    ds_comm_close(l->self);
}

enum rig_bytes { RIG_BYTES_RIGHT, RIG_BYTES_REFUSED, RIG_BYTES_WRONG };

/* Do the chunks read, and are they those of the step that the manifest speaks of? */
static inline enum rig_bytes rig_read_bytes(struct ds_fs *fs, const struct ds_manifest *manifest,
                                            int is_delta)
{
    static uint8_t got[DS_PACK_CHUNK_BYTES], wanted[DS_PACK_CHUNK_BYTES];
    struct pack_case c = {.catalogue = manifest->catalogue};
    enum rig_bytes bytes = RIG_BYTES_RIGHT;
    uint64_t step = 0;

    memcpy(c.tensors, manifest->catalogue.tensors, sizeof c.tensors);
    assert_ok(ds_values_u64(&manifest->state, "rig", "step", 0, UINT64_MAX, &step));
    assert_int_equal(step, manifest->id.step);
    rig_set_step(&c, is_delta, step);
    for (uint32_t i = 0; i < manifest->pack_count && bytes == RIG_BYTES_RIGHT; i++) {
        struct ds_pack *pack;

        if (!ds_checkpoint_owns(manifest, &manifest->packs[i].pack.id))
            continue;
        if (ds_checkpoint_open_pack(fs, RIG_ROOT, manifest, i, &pack) != DS_OK)
            return RIG_BYTES_REFUSED;
        for (uint32_t n = 0; n < ds_pack_info(pack)->chunk_count && bytes == RIG_BYTES_RIGHT; n++) {
            const struct ds_piece piece = ds_pack_piece(pack, &manifest->catalogue, n);

            pack_case_fill(&c, &piece, wanted);
            if (ds_checkpoint_read_chunk(fs, RIG_ROOT, manifest, pack, n, got, NULL) != DS_OK)
                bytes = RIG_BYTES_REFUSED;
            else if (memcmp(got, wanted, ds_pack_chunks(pack)[n].body_bytes) != 0)
                bytes = RIG_BYTES_WRONG;
        }
        ds_pack_close(pack);
    }
    return bytes;
}

static inline ds_status launch_open(struct launch *l)
{
    static uint8_t launch_number;
    const uint8_t nonce[16] = {9, ++launch_number};

    return l->dir
               ? DS_OK
               : ds_checkpoint_dir_open(l->fs, RIG_ROOT, l->fresh_run, nonce, &rig_keys, &l->dir);
}

/* The start of a program: claim, list, load, base. `step_max`: how far back a rollback goes; UINT64_MAX: no
 * further than must be. */
static inline ds_status launch_start(struct launch *l, uint64_t step_max)
{
    struct ds_recovery *recovery = NULL;
    struct ds_manifest manifest;
    ds_status st = launch_open(l);
    int found = 0;

    if (st == DS_OK)
        st = ds_checkpoint_claim(l->dir);
    if (st == DS_OK)
        st = ds_recovery_open(l->self, l->fs, RIG_ROOT, l->dir, step_max, &recovery);
    l->has_base = 0;
    while (st == DS_OK && !l->has_base) {
        st = ds_recovery_next(recovery, &manifest, &found);
        if (st != DS_OK || !found)
            break;
        l->has_base = rig_read_bytes(l->fs, &manifest, l->is_delta) == RIG_BYTES_RIGHT;
        l->base = manifest.id;
        ds_manifest_fini(&manifest);
    }
    ds_recovery_close(recovery);
    if (st == DS_OK && l->has_base && !l->is_base_elsewhere)
        ds_checkpoint_trust(l->dir, &l->base);
    if (st == DS_OK)
        st = ds_checkpoint_write_base(l->dir, l->has_base ? &l->base : NULL, NULL, 0, "");
    if (st == DS_OK)
        st = ds_checkpoint_tidy(l->dir);
    for (uint32_t rank = 0; rank < RIG_RANKS; rank++)
        ds_delta_forget(l->deltas[rank]); /* the first save of a launch is whole */
    return st;
}

static inline ds_status rig_put_chunk(struct launch *l, uint32_t rank, uint32_t chunk)
{
    static uint8_t body[DS_PACK_CHUNK_BYTES];
    const struct ds_pack_plan *plan = &l->plans[rank];
    const struct ds_piece piece = pack_case_piece(plan, chunk);
    struct ds_pack_chunk where;

    pack_case_fill(&l->c, &piece, body);
    const struct ds_digest digest = ds_digest_of(body, plan->chunks[chunk].body_bytes);
    switch (ds_delta_choose(l->deltas[rank], chunk, &digest, &where)) {
    case DS_DELTA_REFER:
        return ds_pack_refer(l->writers[rank], &where);
    case DS_DELTA_PUT_COPY:
        return pack_case_put(&l->c, l->writers[rank], plan, chunk, &where);
    default:
        return pack_case_put(&l->c, l->writers[rank], plan, chunk, NULL);
    }
}

static inline ds_status rig_put_chunks(struct launch *l, uint32_t rank)
{
    ds_status st = DS_OK;

    for (uint32_t i = 0; i < PACK_CASE_TENSORS && st == DS_OK; i++)
        st = rig_put_chunk(l, rank, i);
    return st;
}

static inline ds_status rig_write_pack(struct launch *l, uint32_t rank, uint64_t step,
                                       struct ds_manifest_pack *out)
{
    static uint8_t buffer[DS_PACK_CHUNK_BYTES];
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_pack_new pack = {.path = path,
                               .id = {.epoch = ds_checkpoint_dir_epoch(l->dir),
                                      .step = step,
                                      .rank = rank,
                                      .attempt = l->attempt},
                               .done = pack_case_done,
                               .user = &l->c};
    ds_status st = ds_checkpoint_make_data(l->fs, RIG_ROOT, rank);
    uint32_t table_count;

    ds_delta_begin(l->deltas[rank], &pack.others, &pack.other_count);
    memcpy(pack.run, ds_checkpoint_dir_run(l->dir), sizeof pack.run);
    *out = (struct ds_manifest_pack){.dir = rank};
    ds_checkpoint_pack_path(RIG_ROOT, rank, &pack.id, path);
    if (st == DS_OK)
        st = ds_pack_begin(l->writers[rank], &pack);
    if (st == DS_OK)
        st = rig_put_chunks(l, rank);
    if (st == DS_OK)
        st = ds_pack_finish(l->writers[rank], &out->pack);
    if (st == DS_OK)
        ds_delta_wrote(l->deltas[rank], 0, ds_pack_written(l->writers[rank], &table_count),
                       &out->pack);
    if (st == DS_OK)
        st = ds_checkpoint_keep_pack(l->fs, RIG_ROOT, out, 1, buffer);
    ds_pack_abandon(l->writers[rank]);
    return st;
}

static inline void rig_manifest(struct launch *l, uint64_t step, struct ds_manifest *manifest)
{
    *manifest = (struct ds_manifest){.id = {ds_checkpoint_dir_epoch(l->dir), step},
                                     .parent = l->base,
                                     .has_parent = l->has_base,
                                     .layout = {1, RIG_RANKS, 1, 1, 1, 1, 2048},
                                     .catalogue = l->c.catalogue};
    memcpy(manifest->run, ds_checkpoint_dir_run(l->dir), sizeof manifest->run);
    assert_ok(ds_values_set_u64(&manifest->state, "step", step));
}

/* A save, up to the acknowledgement: DS_OK with `*committed`. */
static inline ds_status launch_save(struct launch *l, uint64_t step, int *committed)
{
    struct ds_manifest_pack packs[RIG_RANKS * (1 + DS_PACK_OTHERS_MAX)];
    struct ds_pack_other needed[DS_PACK_OTHERS_MAX];
    struct ds_manifest manifest;
    uint32_t count = 0;
    ds_status prepared = DS_OK;

    rig_set_step(&l->c, l->is_delta, step);
    for (uint32_t rank = 0; rank < RIG_RANKS && prepared == DS_OK; rank++)
        prepared = rig_write_pack(l, rank, step, &packs[count++]);
    for (uint32_t rank = 0; rank < RIG_RANKS && prepared == DS_OK; rank++) {
        const uint32_t needed_count = ds_delta_needed(l->deltas[rank], needed);

        for (uint32_t i = 0; i < needed_count; i++)
            packs[count++] = (struct ds_manifest_pack){.dir = rank, .pack = needed[i]};
    }
    l->attempt++;
    rig_manifest(l, step, &manifest);
    if (prepared == DS_OK)
        prepared = commit_alone(l->self, l->dir, &manifest, packs, count);
    *committed = prepared == DS_OK;
    for (uint32_t rank = 0; rank < RIG_RANKS && *committed; rank++)
        ds_delta_committed(l->deltas[rank]);
    manifest.catalogue.tensors = NULL; /* the rig's */
    ds_manifest_fini(&manifest);
    return prepared == DS_ERR_FENCED ? prepared : DS_OK; /* else this checkpoint is lost, no more */
}

#endif
