/* saver_open.c - see saver.h: a saver's memory, its threads from one start to the next, and its end. */
#include "saver_parts.h"

#include <stdlib.h>
#include <string.h>

#define LEAVE_NS      1000000000u /* that a thread which was given up has to end by itself */
#define DEADLINE_MEAN 3u          /* times what saves take */

uint64_t saver_limit_ns(const struct ds_saver *s)
{
    const uint64_t by_mean = DEADLINE_MEAN * s->mean_ns;

    return by_mean > DS_SAVER_DEADLINE_NS ? by_mean : DS_SAVER_DEADLINE_NS;
}

static ds_status copy_catalogue(struct ds_saver *s)
{
    const struct ds_catalogue *from = s->options.catalogue;

    s->catalogue.tensors = calloc(from->count + 1u, sizeof *from->tensors);
    if (!s->catalogue.tensors)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to save checkpoints");
    s->catalogue.count = from->count;
    if (from->count > 0)
        memcpy(s->catalogue.tensors, from->tensors, from->count * sizeof *from->tensors);
    s->options.catalogue = &s->catalogue;
    return DS_OK;
}

ds_status ds_saver_open(const struct ds_saver_options *options, struct ds_saver **out)
{
    struct ds_saver *s = calloc(1, sizeof *s);

    if (!s)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to save checkpoints");
    s->options = *options;
    ds_status st = copy_catalogue(s);
    if (st == DS_OK)
        st = snapshot_open(&s->options, &s->snapshot);
    if (st != DS_OK) {
        ds_saver_close(s);
        return st;
    }
    *out = s;
    return DS_OK;
}

void ds_saver_still_fini(struct ds_fs *fs, struct ds_saver_still *still)
{
    for (uint32_t i = 0; i < still->count; i++) {
        if (still->files[i] >= 0)
            (void)ds_fs_close(fs, still->files[i]);
        free(still->directories[i]);
    }
    free(still->files);
    free(still->directories);
    *still = (struct ds_saver_still){0};
}

/* What a start has brought. */
static void forget_start(struct ds_saver *s)
{
    ds_saver_still_fini(s->start.fs, &s->start.still);
    ds_values_fini(&s->manifest.state);
    free(s->root);
    free(s->mirror_root);
    s->manifest = (struct ds_manifest){.pack_count = 0};
    s->root = s->mirror_root = NULL;
}

/* NULL, or the directory whose thread has not ended, and may look at anything of ours at any time. */
static const char *close_threads(struct ds_saver *s, uint64_t grace_ns)
{
    /* in this order: a writer asks the mirror what it reads */
    if (!writer_close(s->writer, grace_ns))
        s->stuck_at = s->root;
    else if (s->mirror && s->has_left_mirror)
        mirror_leave(s->mirror);
    else if (!mirror_close(s->mirror, LEAVE_NS))
        s->stuck_at = s->mirror_root;
    s->mirror = NULL;
    s->writer = NULL;
    return s->stuck_at;
}

/* Copies are what training can do without: those of all ranks end here. */
static ds_status end_mirror(struct ds_saver *s)
{
    int has_ended = 1;

    DS_TRY(mirror_end(s->mirror, &has_ended));
    if (has_ended)
        return DS_OK;
    s->has_left_mirror = 1;
    if (s->start.control->rank != 0)
        return DS_OK;
    ds_warn("%s: a call to storage does not return; no checkpoints are copied there any more; "
            "training goes on",
            s->mirror_root);
    ds_checkpoint_leave_mirror(s->start.dir);
    return DS_OK;
}

ds_status ds_saver_stop(struct ds_saver *s, struct ds_checkpoint_dir **dir)
{
    DS_ASSERT(s->phase == IDLE);
    if (s->mirror)
        DS_TRY(end_mirror(s));
    if (close_threads(s, saver_limit_ns(s)))
        return ds_fail(DS_ERR_IO, "%s: a call to storage does not return", s->stuck_at);
    *dir = s->start.dir;
    s->start.dir = NULL;
    forget_start(s);
    return DS_OK;
}

/* A call to the disk that never returns keeps its thread, and that keeps what it may still look at: all of this, until
 * the process ends. */
void ds_saver_close(struct ds_saver *s)
{
    if (!s)
        return;
    if (s->stuck_at || close_threads(s, s->is_given_up ? LEAVE_NS : saver_limit_ns(s))) {
        ds_warn("a call to storage does not return: %s; what it writes is left behind",
                s->stuck_at);
        snapshot_leave(&s->snapshot);
        return;
    }
    if (s->has_left_mirror)
        snapshot_leave(&s->snapshot);
    else
        snapshot_close(&s->snapshot);
    ds_checkpoint_dir_close(s->start.dir);
    forget_start(s);
    free(s->votes.packs);
    free(s->catalogue.tensors);
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

/* In one that it writes, and in its share of what was loaded. */
static uint32_t pack_max(const struct ds_saver *s)
{
    const uint32_t size = s->start.control->size, own = s->snapshot.plan.part_count;
    const uint32_t loaded = s->start.loaded ? s->start.loaded->pack_count / size + 1 : 0;

    return own + DS_PACK_OTHERS_MAX > loaded ? own + DS_PACK_OTHERS_MAX : loaded;
}

static ds_status open_threads(struct ds_saver *s)
{
    const struct mirror_options options = {.start = &s->start,
                                           .pack_max = pack_max(s),
                                           .buffer = s->snapshot.mirror_buffer,
                                           .deadline_ns = DS_SAVER_DEADLINE_NS};

    if (s->mirror_root)
        DS_TRY(mirror_open(&options, &s->mirror));
    return writer_open(&s->start, &s->snapshot, s->mirror, &s->writer);
}

ds_status ds_saver_start(struct ds_saver *s, const struct ds_saver_start *start)
{
    s->start = *start;
    s->is_still = 0;
    snapshot_set_still(&s->snapshot, 0);
    s->start.root = s->root = strdup(start->root);
    s->start.mirror = s->mirror_root = start->mirror ? strdup(start->mirror) : NULL;
    s->manifest = (struct ds_manifest){.id.epoch = start->epoch,
                                       .parent = start->parent,
                                       .has_parent = start->has_parent,
                                       .layout = start->layout,
                                       .catalogue = s->catalogue,
                                       .state = start->values};
    memcpy(s->manifest.run, start->run, sizeof start->run);
    memcpy(s->manifest.nonce, start->nonce, sizeof start->nonce);
    DS_TRY(ds_comm_agreed(start->control,
                          s->root && !s->mirror_root == !start->mirror
                              ? DS_OK
                              : ds_fail(DS_ERR_NO_MEMORY, "no memory to save checkpoints")));
    DS_TRY(prove(s));
    ds_status st = ds_comm_agreed(start->control, open_threads(s));
    if (st == DS_OK && s->mirror && start->loaded)
        st = mirror_offer_loaded(s->mirror, start->loaded);
    s->start.loaded = NULL;
    return st;
}
