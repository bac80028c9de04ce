/* resume.c - where a launch begins: the newest checkpoint that verifies. It is loaded before the directories are claimed, so
 * that a launch which cannot load stops nobody who is at work there. What is there once they are claimed counts: where that
 * is something else, for another launch went on until then, it is loaded again. */
#include "directories.h"

#include "config/config.h"

#include <stdio.h>
#include <string.h>

/* ---- going on */

/* Keys that a checkpoint was written with and that are others now; their names alone, since nobody vouches for what
 * stands in a file. */
static void tell_changes(const struct ds_trainer *t, const struct ds_manifest *manifest)
{
    char name[DS_VALUE_NAME_BYTES_MAX + 1], value[DS_TEXT_MAX], list[1024] = "";
    size_t used = 0;

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        snprintf(name, sizeof name, "config.%s.%s", field->section, field->key);
        const char *then = ds_values_get(&manifest->state, name);
        ds_field_print(field, t->config, value, sizeof value);
        if (then && strcmp(then, value) != 0 && used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s.%s", used ? ", " : "",
                                     field->section, field->key);
    }
    ds_info("checkpoint of step %llu (epoch %llu) loaded%s%s",
            (unsigned long long)manifest->id.step, (unsigned long long)manifest->id.epoch,
            used ? "; not as when it was written: " : "", list);
}

static ds_status send_progress(struct ds_trainer *t, const struct ds_progress *progress)
{
    struct ds_step_record *record = t->exchanges[0].result;

    *record = (struct ds_step_record){.updates = progress->updates,
                                      .skipped = progress->skipped,
                                      .next_loss_scale = progress->next_loss_scale,
                                      .finite_count = progress->finite_count};
    DS_TRY(t->device->ops->copy(t->compute, t->record, record, sizeof *record));
    return t->device->ops->stream_sync(t->compute);
}

static ds_status go_on(struct ds_trainer *t, const struct ds_manifest *manifest)
{
    struct ds_progress progress;

    DS_TRY(ds_progress_read("the checkpoint", &manifest->state, &progress));
    if (progress.step != manifest->id.step)
        return ds_fail(DS_ERR_DATA, "the checkpoint of step %llu speaks of step %llu",
                       (unsigned long long)manifest->id.step, (unsigned long long)progress.step);
    if (progress.step > t->config->train.steps)
        return ds_config_refuse(t->config, "train", "steps",
                                "= %llu: the newest checkpoint is of step %llu; nearest: %llu",
                                (unsigned long long)t->config->train.steps,
                                (unsigned long long)progress.step,
                                (unsigned long long)progress.step);
    DS_TRY(ds_export_check_base(&manifest->state, t->base, t->beside.sum));
    t->next_step = progress.step + 1;
    t->tokens = progress.tokens;
    t->launch.base = manifest->id;
    t->launch.has_base = 1;
    return send_progress(t, &progress);
}

static const char *mirror_of(const struct ds_trainer *t)
{
    return t->launch.has_mirror ? t->config->checkpoint.mirror : NULL;
}

ds_status trainer_list_checkpoints(const struct ds_trainer *t, struct ds_checkpoint_list *out)
{
    return ds_checkpoint_list_both(t->options.fs, t->config->checkpoint.dir, mirror_of(t), out);
}

ds_status trainer_load_checkpoint(struct ds_trainer *t, uint64_t step_max, int *found)
{
    const struct ds_restore_options options = {
        .control = t->options.world,
        .fs = t->options.fs,
        .root = t->config->checkpoint.dir,
        .dir = t->checkpoint_dir,
        .step_max = step_max,
        .catalogue = &t->catalogue,
        .pieces = t->state_pieces,
        .piece_count = t->state_piece_count,
        .zero = t->zero,
        .beat = trainer_beat,
        .user = t,
    };
    const struct ds_manifest *manifest = &t->loaded;
    ds_status st;

    DS_TRY(ds_restore(&options, &t->loaded, found));
    if (!*found)
        return DS_OK;
    t->launch.is_from_mirror = *found == DS_RESTORED_FROM_MIRROR;
    const int is_leader = t->options.world->rank == 0;
    /* what one says of it all would say */
    st = ds_comm_agreed(t->options.world, is_leader ? go_on(t, manifest) : DS_OK);
    if (st == DS_OK)
        st = ds_comm_agreed(t->options.world, is_leader ? DS_OK : go_on(t, manifest));
    if (st == DS_OK && is_leader)
        tell_changes(t, manifest);
    return st;
}

ds_status trainer_write_base(struct ds_trainer *t)
{
    const struct trainer_launch *launch = &t->launch;
    const struct ds_skips *from = &t->rollback.skips;
    struct ds_checkpoint_skip skips[DS_SKIPS_MAX];
    char past[ROLLBACK_TEXT_BYTES];

    if (t->options.world->rank != 0)
        return DS_OK;
    if (launch->has_base && launch->is_from_mirror)
        ds_checkpoint_trust_mirror(t->checkpoint_dir, &launch->base);
    else if (launch->has_base)
        ds_checkpoint_trust(t->checkpoint_dir, &launch->base);
    for (uint32_t i = 0; i < from->count; i++)
        skips[i] = (struct ds_checkpoint_skip){from->ranges[i].begin, from->ranges[i].end};
    rollback_print_past(&t->rollback, past);
    DS_TRY(ds_checkpoint_write_base(t->checkpoint_dir, launch->has_base ? &launch->base : NULL,
                                    skips, from->count, past));
    const int is_whole = t->config->checkpoint.mirror[0] == '\0' || launch->has_mirror;
    return is_whole ? ds_checkpoint_tidy(t->checkpoint_dir) : DS_OK;
}

/* Rank 0: what the checkpoint says is left out and was tried, and what a rollback since then has added. */
static ds_status recall_rollbacks(struct ds_trainer *t)
{
    struct ds_checkpoint_skip skips[DS_CHECKPOINT_SKIPS_MAX];
    char past[DS_CHECKPOINT_PAST_BYTES];
    uint32_t count = 0;

    DS_TRY(rollback_read(&t->loaded.state, &t->rollback));
    DS_TRY(ds_checkpoint_read_rollbacks(t->options.fs, t->config->checkpoint.dir, mirror_of(t),
                                        skips, &count, past));
    if (!rollback_recall_past(&t->rollback, past))
        return ds_fail(DS_ERR_DATA, "%s: what the newest epoch says was tried cannot be read",
                       t->config->checkpoint.dir);
    for (uint32_t i = 0; i < count; i++)
        if (!ds_skips_add(&t->rollback.skips,
                          (struct ds_batch_range){skips[i].begin, skips[i].end}))
            return ds_fail(DS_ERR_DATA, "%s: the newest epoch leaves out what cannot be left out",
                           t->config->checkpoint.dir);
    return DS_OK;
}

/* collective: behind what was loaded */
static ds_status go_on_from_it(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;

    if (t->launch.has_mirror && !t->launch.is_from_mirror)
        DS_TRY(ds_checkpoint_look_at_mirror(world, t->options.fs, t->checkpoint_dir));
    t->first_step = t->next_step;
    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? recall_rollbacks(t) : DS_OK));
    DS_TRY(ds_comm_broadcast(world, &t->rollback.skips, sizeof t->rollback.skips, 0, NULL));
    ds_loader_skip(t->train_loader, &t->rollback.skips);
    return DS_OK;
}

/* Another host goes on with the run; or somebody began a new one, and did not know that there is one. */
static void tell_adopted(const struct ds_trainer *t)
{
    const struct trainer_launch *launch = &t->launch;
    const char *root = t->config->checkpoint.dir, *mirror = t->config->checkpoint.mirror;

    if (!launch->is_adopted)
        return;
    if (launch->has_base)
        ds_warn("%s is new, and checkpoint.mirror = %s holds a run of the same keys: this is that "
                "run, from step %llu on; to begin a new one, name another mirror",
                root, mirror, (unsigned long long)launch->base.step);
    else if (t->config->checkpoint.resume == DS_RESUME_NONE)
        ds_warn("%s is new, and checkpoint.mirror = %s holds a run of the same keys: this is that "
                "run, from the beginning, and what is there goes; to keep it, name another mirror",
                root, mirror);
}

/* collective: rank 0 does it, and all know of it */
static ds_status take_directories(struct ds_trainer *t, ds_status (*take)(struct ds_trainer *t))
{
    struct ds_comm *world = t->options.world;

    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? take(t) : DS_OK));
    return ds_comm_broadcast(world, &t->launch, sizeof t->launch, 0, NULL);
}

/* As far as to what was loaded, which came into both if anything was: what comes behind that does not matter. */
static int is_same_list(const struct ds_checkpoint_list *a, const struct ds_checkpoint_list *b,
                        const struct trainer_launch *launch)
{
    size_t i = 0;

    for (; i < a->count && i < b->count; i++) {
        const struct ds_checkpoint_entry *x = &a->entries[i], *y = &b->entries[i];

        if (ds_manifest_id_compare(&x->id, &y->id) != 0 || x->root != y->root ||
            x->standing != y->standing)
            return 0;
        if (launch->has_base && ds_manifest_id_compare(&x->id, &launch->base) == 0 &&
            x->root == (uint32_t)launch->is_from_mirror)
            return 1;
    }
    return !launch->has_base && i == a->count && i == b->count;
}

/* collective: *is_other: what may be loaded is not what rank 0 has listed before. Names of manifests are never used again. */
static ds_status look_again(struct ds_trainer *t, const struct ds_checkpoint_list *before,
                            int32_t *is_other)
{
    struct ds_comm *world = t->options.world;
    struct ds_checkpoint_list now = {.count = 0};

    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? trainer_list_checkpoints(t, &now) : DS_OK));
    *is_other = !is_same_list(before, &now, &t->launch);
    ds_checkpoint_list_fini(&now);
    return ds_comm_broadcast(world, is_other, sizeof *is_other, 0, NULL);
}

/* collective: that nothing verifies is no end where another launch has removed and written meanwhile. */
static ds_status load_first(struct ds_trainer *t, const struct ds_checkpoint_list *before,
                            int *found)
{
    const ds_status st = trainer_load_checkpoint(t, UINT64_MAX, found);
    int32_t is_other = 0;

    if (st == DS_ERR_NO_CHECKPOINT)
        DS_TRY(look_again(t, before, &is_other));
    return is_other ? DS_OK : st;
}

/* collective */
static ds_status load_again(struct ds_trainer *t, int *found)
{
    const int was_found = *found;

    ds_manifest_fini(&t->loaded);
    DS_TRY(trainer_load_checkpoint(t, UINT64_MAX, found));
    if (was_found && !*found)
        return ds_comm_agreed(t->options.world,
                              t->options.world->rank > 0
                                  ? DS_OK
                                  : ds_fail(DS_ERR_NO_CHECKPOINT,
                                            "%s: what was loaded is not there any more",
                                            t->config->checkpoint.dir));
    return DS_OK;
}

/* collective */
static ds_status load_and_claim(struct ds_trainer *t, const struct ds_checkpoint_list *before,
                                int *found)
{
    int32_t is_other = 0;

    DS_TRY(load_first(t, before, found));
    DS_TRY(take_directories(t, directories_claim));
    DS_TRY(look_again(t, before, &is_other));
    if (is_other)
        DS_TRY(load_again(t, found));
    return go_on_from_it(t);
}

static ds_status load_if_asked(struct ds_trainer *t, int *found)
{
    struct ds_comm *world = t->options.world;
    struct ds_checkpoint_list before = {.count = 0};

    DS_TRY(take_directories(t, directories_open));
    if (!t->launch.is_used)
        return DS_OK;
    if (t->config->checkpoint.resume != DS_RESUME_AUTO)
        return take_directories(t, directories_claim);
    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? trainer_list_checkpoints(t, &before) : DS_OK));
    const ds_status st = load_and_claim(t, &before, found);
    ds_checkpoint_list_fini(&before);
    return st;
}

ds_status trainer_resume(struct ds_trainer *t, int *found)
{
    *found = 0;
    if (!is_training(t) || !trainer_uses_checkpoints(t))
        return DS_OK;
    DS_TRY(load_if_asked(t, found));
    if (t->launch.is_used && t->options.world->rank == 0)
        tell_adopted(t);
    return DS_OK;
}

ds_status trainer_begin_epoch(struct ds_trainer *t)
{
    if (!t->launch.is_used)
        return DS_OK;
    t->has_begun_epoch = 1;
    return trainer_together(t, trainer_write_base);
}

void trainer_withdraw(struct ds_trainer *t)
{
    if (!t->has_begun_epoch && t->options.world->rank == 0)
        directories_withdraw(t);
}
