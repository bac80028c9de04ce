/* saver.c - see saver.h: which phase a save is in, the same on all ranks, since they go on together. */
#include "saver_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_NS 2000000u /* between looks, where training waits */
#define ROOM_SPARE \
    8 /* of the room that sharing takes, so much more has to be free: others write, too */
#define BACK_OFF_MAX 32u /* intervals between two tries where storage keeps failing */

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

static uint64_t now_ns(const struct ds_saver *s)
{
    return ds_clock_mono_ns(s->start.clock);
}

/* Until the writer is through with what lies before a unit's pieces, or that takes longer than other ranks may wait:
 * *is_there 0. */
static ds_status await_room(struct ds_saver *s, const struct snapshot_unit *next, int *is_there)
{
    const uint64_t begin_ns = now_ns(s), stall_ns = s->start.stall_ns_max;
    const uint64_t most_ns =
        stall_ns > 0 && stall_ns < saver_limit_ns(s) ? stall_ns : saver_limit_ns(s);

    *is_there = 1;
    while (!writer_is_past(s->writer, next->first) && *is_there) {
        *is_there = now_ns(s) - begin_ns <= most_ns;
        pause_main(s);
        DS_TRY(release_copied(s, 0)); /* what is frozen comes in its own time */
    }
    return DS_OK;
}

/* Memory is filled and emptied, until what is left fits. */
static ds_status copy_all(struct ds_saver *s)
{
    for (uint32_t turn = 0; turn < s->snapshot.turn_count; turn++) {
        int has_room = 0;

        DS_TRY(snapshot_queue_turn(&s->snapshot, turn));
        if (turn + 1 == s->snapshot.turn_count)
            break;
        DS_TRY(release_copied(s, 1));
        DS_TRY(await_room(s, &s->snapshot.units[s->snapshot.queued_units], &has_room));
        if (!has_room) {
            s->must_give_up = 1;
            writer_stop(s->writer);
            break;
        }
    }
    return DS_OK;
}

/* What became of an earlier save, so that this one, though it is due, is not made; NULL: it is. The same on all ranks. */
static const char *why_not(struct ds_saver *s, int is_last)
{
    if (s->phase != IDLE)
        return s->is_given_up ? "was given up, and storage has not answered yet"
                              : "is still being written";
    if (is_last || s->left_out == 0)
        return NULL;
    s->left_out--;
    return "was not written, and the next try is later";
}

/* A disk that is too slow is so all the time: a reason is told once, until there is another one, and the next
 * checkpoint says how many were left out. */
static void tell_left_out(struct ds_saver *s, uint64_t step, const char *why)
{
    s->untold++;
    if (why == s->told_why)
        return;
    s->told_why = why;
    if (s->start.control->rank == 0)
        ds_warn("checkpoint of step %llu left out: that of step %llu %s%s",
                (unsigned long long)step, (unsigned long long)s->step, why,
                s->is_last ? "" : "; the next one that is written says how many were");
}

/* Each rank by itself: its packs are its own, however they came to be. */
static void choose_still(struct ds_saver *s)
{
    const int is_still = s->start.still.count > 0 && !writer_cannot_share(s->writer);

    if (is_still != s->is_still && !is_still)
        ds_warn("checkpoints: states in files are copied from the one of step %llu on: packs could "
                "not share their blocks",
                (unsigned long long)s->step);
    else if (is_still != s->is_still)
        ds_info("checkpoints: packs share the blocks of states in files");
    if (is_still != s->is_still)
        snapshot_set_still(&s->snapshot, is_still);
    s->is_still = is_still;
}

ds_status ds_saver_begin(struct ds_saver *s, uint64_t step, int is_last)
{
    s->is_last = is_last;
    if (s->phase != IDLE && is_last)
        DS_TRY(ds_saver_wait(s));
    const char *why = why_not(s, is_last);
    if (why) {
        tell_left_out(s, step, why);
        return DS_OK;
    }
    s->phase = WRITING;
    s->manifest.id.step = s->step = step;
    s->has_progress = s->must_give_up = 0;
    s->begun_ns = now_ns(s);
    choose_still(s);
    DS_TRY(snapshot_begin(&s->snapshot, &s->start.still));
    writer_begin(s->writer, step);
    return copy_all(s);
}

struct ds_values *ds_saver_values(struct ds_saver *s, uint64_t step)
{
    return s->phase == WRITING && s->step == step ? &s->manifest.state : NULL;
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
static void tell_written(const struct ds_saver *s, uint64_t took_ns)
{
    const struct ds_manifest *manifest = &s->manifest;
    uint64_t written_bytes = 0, state_bytes = 0;
    char left_out[64] = "";

    for (uint32_t i = 0; i < manifest->pack_count; i++)
        if (ds_checkpoint_owns(manifest, &manifest->packs[i].pack.id))
            written_bytes += manifest->packs[i].pack.file_bytes;
    for (uint32_t i = 0; i < manifest->catalogue.count; i++) {
        const struct ds_logical_tensor *tensor = &manifest->catalogue.tensors[i];

        state_bytes += ds_logical_elems(tensor) * ds_dtype_bytes(tensor->dtype);
    }
    if (s->untold > 0)
        snprintf(left_out, sizeof left_out, "; %u save%s left out until then", s->untold,
                 s->untold == 1 ? " was" : "s were");
    ds_info("checkpoint of step %llu is written: %s: %.6g MB for %.6g MB of states in %.3g s%s",
            (unsigned long long)s->step, s->start.root, (double)written_bytes * 1e-6,
            (double)state_bytes * 1e-6, (double)took_ns * 1e-9, left_out);
}

/* It came to be. */
static void end_save(struct ds_saver *s)
{
    const uint64_t took_ns = now_ns(s) - s->begun_ns;

    if (!s->is_given_up)
        s->mean_ns = s->mean_ns > 0 ? (3 * s->mean_ns + took_ns) / 4 : took_ns;
    s->phase = IDLE;
    s->failures = s->left_out = 0;
    s->manifest.parent = s->manifest.id;
    s->manifest.has_parent = 1;
    writer_committed(s->writer);
    if (s->mirror) {
        uint32_t count = 0;
        const struct ds_manifest_pack *packs = writer_packs(s->writer, &count);

        mirror_offer(s->mirror, &s->manifest.id, packs, count);
    }
    if (s->start.control->rank == 0)
        tell_written(s, took_ns);
    s->untold = 0;
}

/* Rank 0. Where training waits for it, whoever waits says what comes next. */
static void tell_failed(const struct ds_saver *s, ds_status st, uint32_t wait)
{
    char next[96] = "";

    if (!s->is_last)
        snprintf(next, sizeof next, "; training goes on, the next try is %u interval%s later", wait,
                 wait > 1 ? "s" : "");
    ds_warn("checkpoint of step %llu was not written (%s)%s", (unsigned long long)s->step,
            ds_status_text(st), next);
}

/* What is left of it goes, and some saves are not tried: a disk that is full takes nothing the next minute, either. */
static ds_status fail_save(struct ds_saver *s, ds_status st)
{
    const uint32_t wait = s->failures < 5 ? 1u << s->failures : BACK_OFF_MAX;

    if (s->start.control->rank == 0)
        tell_failed(s, st, wait);
    s->failures++;
    s->failure = st;
    s->left_out = wait - 1;
    writer_tidy(s->writer, s->phase == WRITING);
    s->phase = TIDYING;
    s->begun_ns = now_ns(s);
    return DS_OK;
}

/* collective: it takes too long. It goes on by itself, or never does; training goes on without. */
static void give_up(struct ds_saver *s, int is_done)
{
    s->is_given_up = 1;
    writer_stop(s->writer);
    if (s->phase != TIDYING && (s->start.control->rank == 0 || !is_done))
        ds_warn("checkpoint of step %llu is given up: storage has not taken it in %.0f s%s%s",
                (unsigned long long)s->step, (double)saver_limit_ns(s) * 1e-9,
                is_done ? "" : " here",
                s->is_last ? "" : "; training goes on, and saves nothing until storage answers");
}

/* collective: all ranks have written. */
static ds_status vote(struct ds_saver *s, ds_status worst)
{
    uint32_t count = 0;
    const struct ds_manifest_pack *packs = writer_packs(s->writer, &count);

    if (worst == DS_OK)
        DS_TRY(ds_checkpoint_vote(s->start.control, worst, packs, count, &worst, &s->votes));
    if (worst != DS_OK)
        return fail_save(s, worst);
    s->phase = COMMITTING;
    if (s->start.control->rank != 0)
        return DS_OK;
    s->manifest.packs = s->votes.packs;
    s->manifest.pack_count = s->votes.count;
    writer_commit(s->writer, &s->manifest);
    return DS_OK;
}

/* collective: rank 0 has committed, or could not. */
static ds_status conclude(struct ds_saver *s, ds_status st)
{
    if (st == DS_ERR_FENCED)
        return st;
    if (st != DS_OK)
        return fail_save(s, st);
    end_save(s);
    return DS_OK;
}

/* collective: a phase is over, on all ranks, with the worst of what became of it. */
static ds_status next_phase(struct ds_saver *s, ds_status st)
{
    const int was_given_up = s->is_given_up;

    if (was_given_up && s->start.control->rank == 0)
        ds_info("storage answers again: checkpoints go on");
    if (s->phase == COMMITTING)
        st = conclude(s, st);
    else if (s->phase == WRITING && !was_given_up)
        st = vote(s, st);
    else if (s->phase == WRITING)
        st = fail_save(s, DS_ERR_DEADLINE);
    else
        s->phase = IDLE;
    s->is_given_up = 0;
    return st;
}

static int is_late(const struct ds_saver *s)
{
    return s->must_give_up || now_ns(s) - s->begun_ns > saver_limit_ns(s);
}

static ds_status poll_save(struct ds_saver *s)
{
    const int is_leader = s->start.control->rank == 0;
    ds_status st = DS_OK;

    if (s->phase == IDLE)
        return DS_OK;
    if (s->phase == WRITING)
        DS_TRY(release_copied(s, 0));
    DS_TRY(settle_streams(s));
    int is_done = writer_is_done(s->writer, &st);
    if (s->phase != WRITING && !is_leader)
        st = DS_OK;
    if (s->phase == WRITING && is_leader && !s->has_progress && !s->is_given_up)
        is_done = 0;
    int32_t told[3] = {is_done, is_done ? -(int32_t)st : 0, -is_late(s)};
    DS_TRY(ds_comm_all_reduce(s->start.control, told, 3, DS_I32, DS_REDUCE_MIN, NULL));
    if (told[0])
        return next_phase(s, (ds_status)-told[1]);
    if (told[2] && !s->is_given_up)
        give_up(s, is_done);
    return DS_OK;
}

/* What retention takes away in the first directory is not begun to be copied meanwhile. */
ds_status ds_saver_poll(struct ds_saver *s)
{
    DS_TRY(poll_save(s));
    return s->mirror ? mirror_poll(s->mirror, s->phase == IDLE || s->phase == WRITING) : DS_OK;
}

int ds_saver_is_idle(const struct ds_saver *s)
{
    return s->phase == IDLE;
}

int ds_saver_has(const struct ds_saver *s, uint64_t step)
{
    const struct ds_manifest_id *last = &s->manifest.parent;
    const int is_under_way = (s->phase == WRITING || s->phase == COMMITTING) && !s->is_given_up;

    return (is_under_way && s->step == step) ||
           (s->manifest.has_parent && last->epoch == s->start.epoch && last->step == step);
}

ds_status ds_saver_failure(const struct ds_saver *s)
{
    return s->failure;
}

ds_status ds_saver_wait(struct ds_saver *s)
{
    s->is_last = 1;
    if (s->phase == WRITING && !s->is_given_up)
        DS_TRY(release_copied(s, 1));
    while (s->phase != IDLE && !s->is_given_up) {
        DS_TRY(ds_saver_poll(s));
        if (s->phase != IDLE)
            pause_main(s);
    }
    return DS_OK;
}

ds_status ds_saver_wait_mirror(struct ds_saver *s)
{
    return s->mirror && s->phase == IDLE ? mirror_wait(s->mirror) : DS_OK;
}
