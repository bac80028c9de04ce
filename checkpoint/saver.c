/* saver.c - see saver.h: which phase a save is in, the same on all ranks, since they go on together. */
#include "writer.h"

#include <stdlib.h>
#include <string.h>

#define POLL_NS 2000000u /* between looks, where training waits */

enum phase { IDLE, WRITING, COMMITTING };

struct ds_saver {
    /* owns */
    struct ds_saver_options options;
    struct ds_saver_start start;
    struct snapshot snapshot;
    struct writer *writer;
    struct ds_manifest manifest; /* of the save that goes on; its catalogue is borrowed */
    /* plain values */
    enum phase phase;
    uint64_t step;    /* that is being saved */
    int has_progress; /* rank 0: the manifest says where training stood */
};

/* ---- opening */

ds_status ds_saver_open(const struct ds_saver_options *options, struct ds_saver **out)
{
    struct ds_saver *s = calloc(1, sizeof *s);

    if (!s)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to save checkpoints");
    s->options = *options;
    ds_status st = snapshot_open(&s->options, &s->snapshot);
    if (st != DS_OK) {
        free(s);
        return st;
    }
    *out = s;
    return DS_OK;
}

void ds_saver_close(struct ds_saver *s)
{
    if (!s)
        return;
    writer_close(s->writer);
    snapshot_close(&s->snapshot);
    ds_checkpoint_dir_close(s->start.dir);
    free(s->manifest.packs);
    ds_values_fini(&s->manifest.state);
    free(s);
}

uint32_t ds_saver_stops(const struct ds_saver *s)
{
    return s->snapshot.turn_count > 1 ? s->snapshot.turn_count - 1 : 0;
}

uint64_t ds_saver_bytes(const struct ds_saver *s)
{
    return s->snapshot.saved_bytes;
}

static ds_status prove(const struct ds_saver *s)
{
    const struct snapshot *snapshot = &s->snapshot;
    struct ds_piece *pieces = calloc(snapshot->piece_count + 1u, sizeof *pieces);

    DS_TRY(ds_comm_agreed(s->start.control,
                          pieces ? DS_OK
                                 : ds_fail(DS_ERR_NO_MEMORY, "no memory to save checkpoints")));
    for (uint32_t i = 0; pieces && i < snapshot->piece_count; i++)
        pieces[i] = snapshot->pieces[i].from.piece;
    ds_status st =
        ds_checkpoint_prove(s->start.control, s->options.catalogue, pieces, snapshot->piece_count);
    free(pieces);
    return st;
}

ds_status ds_saver_start(struct ds_saver *s, const struct ds_saver_start *start)
{
    s->start = *start;
    s->manifest = (struct ds_manifest){.id.epoch = start->epoch,
                                       .parent = start->parent,
                                       .has_parent = start->has_parent,
                                       .layout = start->layout,
                                       .catalogue = *s->options.catalogue,
                                       .state = start->values};
    memcpy(s->manifest.run, start->run, sizeof start->run);
    memcpy(s->manifest.nonce, start->nonce, sizeof start->nonce);
    DS_TRY(prove(s));
    const ds_status st =
        ds_comm_agreed(start->control, writer_open(&s->start, &s->snapshot, &s->writer));
    s->start.loaded = NULL;
    return st;
}

/* ---- a save begins */

static void pause_main(const struct ds_saver *s)
{
    if (s->start.beat)
        s->start.beat(s->start.user);
    ds_clock_sleep_ns(s->start.clock, POLL_NS);
}

static ds_status release_copied(struct ds_saver *s, int waits)
{
    uint32_t piece_count = 0;

    DS_TRY(snapshot_poll(&s->snapshot, waits, &piece_count));
    writer_release(s->writer, piece_count);
    return DS_OK;
}

/* Memory is filled and emptied, until what is left fits. */
static ds_status copy_all(struct ds_saver *s)
{
    for (uint32_t turn = 0; turn < s->snapshot.turn_count; turn++) {
        DS_TRY(snapshot_queue_turn(&s->snapshot, turn));
        if (turn + 1 == s->snapshot.turn_count)
            break;
        DS_TRY(release_copied(s, 1));
        const struct snapshot_unit *next = &s->snapshot.units[s->snapshot.queued_units];
        while (!writer_is_past(s->writer, next->first))
            pause_main(s);
    }
    return DS_OK;
}

ds_status ds_saver_begin(struct ds_saver *s, uint64_t step, int is_last)
{
    if (s->phase != IDLE && is_last)
        DS_TRY(ds_saver_wait(s));
    if (s->phase != IDLE) {
        if (s->start.control->rank == 0)
            ds_warn("checkpoint of step %llu left out: that of step %llu is still being written",
                    (unsigned long long)step, (unsigned long long)s->step);
        return DS_OK;
    }
    s->phase = WRITING;
    s->manifest.id.step = s->step = step;
    s->has_progress = 0;
    DS_TRY(snapshot_begin(&s->snapshot));
    writer_begin(s->writer, step);
    return copy_all(s);
}

ds_status ds_saver_note(struct ds_saver *s, const struct ds_progress *progress)
{
    if (s->phase != WRITING || progress->step != s->step)
        return DS_OK;
    s->has_progress = 1;
    return ds_progress_write(progress, &s->manifest.state);
}

/* ---- it goes on */

/* What runs on host devices may need this thread to go on, here and on ranks that wait for it. */
static ds_status settle_streams(const struct ds_saver *s)
{
    const struct ds_saver_options *o = &s->options;
    const struct ds_device_ops *ops = o->device->ops;

    if (s->start.control->size == 1 || !(ops->caps & DS_DEVICE_CAP_HOST_MEMORY))
        return DS_OK;
    DS_TRY(ops->stream_sync(o->compute));
    return ops->stream_sync(o->comm);
}

/* Rank 0: the manifest names all packs, and the catalogue all states. */
static void tell_written(const struct ds_saver *s)
{
    const struct ds_manifest *manifest = &s->manifest;
    uint64_t written_bytes = 0, state_bytes = 0;

    for (uint32_t i = 0; i < manifest->pack_count; i++)
        if (ds_checkpoint_owns(manifest, &manifest->packs[i].pack.id))
            written_bytes += manifest->packs[i].pack.file_bytes;
    for (uint32_t i = 0; i < manifest->catalogue.count; i++) {
        const struct ds_logical_tensor *tensor = &manifest->catalogue.tensors[i];

        state_bytes += ds_logical_elems(tensor) * ds_dtype_bytes(tensor->dtype);
    }
    ds_info("checkpoint of step %llu is written: %s: %.6g MB for %.6g MB of states",
            (unsigned long long)s->step, s->start.root, (double)written_bytes * 1e-6,
            (double)state_bytes * 1e-6);
}

static void end_save(struct ds_saver *s, ds_status st)
{
    const unsigned long long step = s->step;

    s->phase = IDLE;
    if (s->start.control->rank != 0)
        return;
    if (st == DS_OK)
        tell_written(s);
    else
        ds_warn("checkpoint of step %llu was not written (%s); training goes on", step,
                ds_status_text(st));
}

/* collective: all ranks have written. */
static ds_status vote(struct ds_saver *s, ds_status worst)
{
    struct ds_manifest_pack *all = NULL;
    uint32_t count = 0, all_count = 0;
    const struct ds_manifest_pack *packs = writer_packs(s->writer, &count);

    if (worst == DS_OK)
        DS_TRY(ds_checkpoint_vote(s->start.control, worst, packs, count, &worst, &all, &all_count));
    if (worst != DS_OK) {
        end_save(s, worst);
        return DS_OK;
    }
    s->phase = COMMITTING;
    if (s->start.control->rank != 0)
        return DS_OK;
    free(s->manifest.packs);
    s->manifest.packs = all;
    s->manifest.pack_count = all_count;
    writer_commit(s->writer, &s->manifest);
    return DS_OK;
}

/* collective: rank 0 has committed, or could not. */
static ds_status conclude(struct ds_saver *s, ds_status st)
{
    if (st == DS_ERR_FENCED)
        return st;
    if (st == DS_OK) {
        s->manifest.parent = s->manifest.id;
        s->manifest.has_parent = 1;
        writer_committed(s->writer);
    }
    end_save(s, st);
    return DS_OK;
}

ds_status ds_saver_poll(struct ds_saver *s)
{
    ds_status st = DS_OK;

    if (s->phase == IDLE)
        return DS_OK;
    if (s->phase == WRITING)
        DS_TRY(release_copied(s, 0));
    DS_TRY(settle_streams(s));
    int is_done = writer_is_done(s->writer, &st);
    if (s->phase == COMMITTING && s->start.control->rank != 0)
        st = DS_OK;
    if (s->phase == WRITING && s->start.control->rank == 0 && !s->has_progress)
        is_done = 0;
    int32_t told[2] = {is_done, is_done ? -(int32_t)st : 0};
    DS_TRY(ds_comm_all_reduce(s->start.control, told, 2, DS_I32, DS_REDUCE_MIN, NULL));
    if (!told[0])
        return DS_OK;
    st = (ds_status)-told[1];
    return s->phase == WRITING ? vote(s, st) : conclude(s, st);
}

int ds_saver_has(const struct ds_saver *s, uint64_t step)
{
    const struct ds_manifest_id *last = &s->manifest.parent;

    return s->phase != IDLE
               ? s->step == step
               : s->manifest.has_parent && last->epoch == s->start.epoch && last->step == step;
}

ds_status ds_saver_wait(struct ds_saver *s)
{
    if (s->phase == WRITING)
        DS_TRY(release_copied(s, 1));
    while (s->phase != IDLE) {
        DS_TRY(ds_saver_poll(s));
        if (s->phase != IDLE)
            pause_main(s);
    }
    return DS_OK;
}
