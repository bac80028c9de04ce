/* restore.c - see restore.h. What is loaded comes in runs; those that follow one another are collected, as fp32, and
 * written to the device together. */
#include "dstrain/restore.h"

#include <stdlib.h>
#include <string.h>

#define RUN_ELEMS ((uint64_t)1 << 20)

struct restore {
    const struct ds_restore_options *options;
    /* owns */
    struct ds_piece *wants; /* [piece_count], in the manifest's numbers */
    float *run;             /* [RUN_ELEMS] */
    /* the run that is being collected */
    size_t want;
    uint64_t start, count;
};

static ds_status flush(struct restore *r)
{
    const struct ds_state_piece *piece = &r->options->pieces[r->want];
    const uint64_t at = piece->start + r->start, count = r->count;

    r->count = 0;
    if (count == 0)
        return DS_OK;
    if (r->options->beat)
        r->options->beat(r->options->user);
    if (piece->kind == DS_STATE_KIND_EXP_AVG)
        return ds_zero_write_moment(r->options->zero, piece->unit, DS_ZERO_EXP_AVG, at, count,
                                    r->run);
    if (piece->kind == DS_STATE_KIND_EXP_AVG_SQ)
        return ds_zero_write_moment(r->options->zero, piece->unit, DS_ZERO_EXP_AVG_SQ, at, count,
                                    r->run);
    return ds_zero_write_shard(r->options->zero, piece->unit, at, count, r->run);
}

static ds_status put(void *user, size_t want, uint64_t start, uint64_t count, const void *from,
                     enum ds_dtype dtype)
{
    struct restore *r = user;
    const uint8_t *at = from;

    while (count > 0) {
        if (r->count > 0 &&
            (want != r->want || start != r->start + r->count || r->count == RUN_ELEMS))
            DS_TRY(flush(r));
        if (r->count == 0) {
            r->want = want;
            r->start = start;
        }
        const uint64_t room = RUN_ELEMS - r->count, now = count < room ? count : room;
        if (!ds_dtype_to_f32(r->run + r->count, at, dtype, now))
            return ds_fail(DS_ERR_DATA, "the checkpoint has a state of dtype %s",
                           ds_dtype_name(dtype));
        r->count += now;
        start += now;
        count -= now;
        at += now * ds_dtype_bytes(dtype);
    }
    return DS_OK;
}

/* ---- whose tensors are whose */

static enum ds_state_kind other_kind(enum ds_state_kind kind)
{
    return kind == DS_STATE_KIND_MASTER  ? DS_STATE_KIND_PARAM
           : kind == DS_STATE_KIND_PARAM ? DS_STATE_KIND_MASTER
                                         : kind;
}

/* A master where there is one, else weights, under the number of the other. */
static ds_status match(const struct restore *r, const struct ds_catalogue *from, uint32_t *numbers,
                       uint32_t *others)
{
    const struct ds_catalogue *to = r->options->catalogue;
    struct ds_catalogue turned = {.tensors = calloc(to->count + 1u, sizeof *turned.tensors),
                                  .count = to->count};

    if (!turned.tensors)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for %u states", to->count);
    for (uint32_t i = 0; i < to->count; i++) {
        turned.tensors[i] = to->tensors[i];
        turned.tensors[i].kind = other_kind(to->tensors[i].kind);
    }
    ds_status st = ds_catalogue_match("the checkpoint", from, to, numbers);
    if (st == DS_OK)
        st = ds_catalogue_match("the checkpoint", from, &turned, others);
    free(turned.tensors);
    DS_TRY(st);
    for (uint32_t i = 0; i < to->count; i++) {
        if (numbers[i] == UINT32_MAX)
            numbers[i] = others[i];
        if (numbers[i] == UINT32_MAX)
            return ds_fail(DS_ERR_DATA,
                           "the checkpoint has no %s of '%s': it is another model's; take "
                           "another checkpoint.dir",
                           ds_state_kind_name(to->tensors[i].kind), to->tensors[i].name);
    }
    return DS_OK;
}

static ds_status list_wants(struct restore *r, const struct ds_catalogue *from)
{
    const uint32_t count = r->options->catalogue->count;
    uint32_t *numbers = calloc(2 * ((size_t)count + 1), sizeof *numbers);

    if (!numbers)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for %u states", count);
    ds_status st = match(r, from, numbers, numbers + count + 1);
    for (uint32_t i = 0; i < r->options->piece_count && st == DS_OK; i++) {
        r->wants[i] = r->options->pieces[i].piece;
        r->wants[i].tensor = numbers[r->wants[i].tensor];
    }
    free(numbers);
    return st;
}

/* ---- one checkpoint after the other */

/* collective; the status is this rank's */
static ds_status load(struct restore *r, const char *root, const struct ds_manifest *manifest,
                      int32_t *missed)
{
    const struct ds_restore_options *o = r->options;
    const struct ds_checkpoint_sink sink = {.put = put, .user = r};
    const ds_status st = missed ? list_wants(r, &manifest->catalogue)
                                : ds_fail(DS_ERR_NO_MEMORY, "no memory to load a checkpoint");

    r->count = 0;
    DS_TRY(ds_comm_agreed(o->control, st));
    DS_TRY(ds_checkpoint_load_together(o->control, o->fs, root, manifest, r->wants, o->piece_count,
                                       &sink, missed));
    return flush(r);
}

/* collective: what one has seen of a pack all know, since any of them may refer to it. `missed`: of each pack, and as much
 * room behind that. */
static ds_status share_damage(const struct restore *r, const char *root,
                              struct ds_manifest *manifest, int32_t *missed)
{
    const uint32_t count = manifest->pack_count;
    int32_t *damaged = missed + count;

    for (uint32_t i = 0; i < count; i++)
        damaged[i] = manifest->packs[i].is_damaged;
    DS_TRY(ds_comm_all_reduce(r->options->control, missed, 2 * count, DS_I32, DS_REDUCE_SUM, NULL));
    for (uint32_t i = 0; i < count; i++)
        manifest->packs[i].is_damaged = missed[i] + damaged[i] > 0;
    if (r->options->control->rank == 0)
        ds_checkpoint_tell_missed(root, manifest, missed);
    return DS_OK;
}

/* collective: DS_ERR_CORRUPT and DS_ERR_IO: the next one is tried */
static ds_status load_together(struct restore *r, const char *root, struct ds_manifest *manifest)
{
    const struct ds_restore_options *o = r->options;
    int32_t *missed = calloc(2 * manifest->pack_count + 1u, sizeof *missed);
    ds_status st = ds_comm_agreed(o->control, load(r, root, manifest, missed));

    if (st == DS_OK)
        st = share_damage(r, root, manifest, missed);
    free(missed);
    if (o->control->rank == 0 && (st == DS_ERR_CORRUPT || st == DS_ERR_IO))
        ds_warn("the checkpoint of step %llu cannot be loaded (%s): %s; another one is looked for",
                (unsigned long long)manifest->id.step, ds_status_text(st), root);
    return st;
}

static ds_status search(struct restore *r, struct ds_recovery *recovery, struct ds_manifest *out,
                        int *found)
{
    ds_status st = DS_ERR_CORRUPT;

    while (st == DS_ERR_CORRUPT || st == DS_ERR_IO) {
        DS_TRY(ds_recovery_next(recovery, out, found));
        if (!*found)
            return DS_OK;
        const char *root = ds_recovery_root(recovery);
        st = load_together(r, root, out);
        *found = strcmp(root, r->options->root) == 0 ? DS_RESTORED : DS_RESTORED_FROM_MIRROR;
        if (st != DS_OK)
            ds_manifest_fini(out);
    }
    return st;
}

/* collective */
static ds_status restore(struct restore *r, struct ds_manifest *out, int *found)
{
    const struct ds_restore_options *o = r->options;
    struct ds_recovery *recovery = NULL;
    const int has_all = r->wants && r->run;

    DS_TRY(ds_comm_agreed(
        o->control, has_all ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "no memory to load a checkpoint")));
    DS_TRY(ds_recovery_open(o->control, o->fs, o->root, o->dir, o->step_max, &recovery));
    ds_status st = search(r, recovery, out, found);
    ds_recovery_close(recovery);
    return st;
}

ds_status ds_restore(const struct ds_restore_options *options, struct ds_manifest *out, int *found)
{
    struct restore r = {.options = options,
                        .wants = calloc(options->piece_count + 1u, sizeof *r.wants),
                        .run = malloc(RUN_ELEMS * sizeof *r.run)};
    ds_status st;

    *found = 0;
    st = restore(&r, out, found);
    free(r.wants);
    free(r.run);
    if (st != DS_OK || !*found)
        return st;
    st = ds_zero_publish(options->zero);
    if (st == DS_OK)
        st = ds_zero_publish_moments(options->zero);
    if (st != DS_OK)
        ds_manifest_fini(out);
    return st;
}
