/* checkpoints.c - where a launch begins and what it leaves behind: the directory of the run's checkpoints, claimed
 * before it is read, and the saver that adds to it. */
#include "config/config.h"
#include "trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- what there is to save */

static int uses_checkpoints(const struct ds_trainer *t)
{
    return is_plan(t) ? t->config->checkpoint.interval > 0 : t->options.uses_checkpoints;
}

static ds_status list_states(struct ds_trainer *t)
{
    const struct ds_states_place place = {.model = t->model,
                                          .dtypes = &t->dtypes,
                                          .mesh = &t->mesh_shape,
                                          .rank = t->options.world->rank,
                                          .has_unit = t->has_unit,
                                          .stage_of_unit = t->stage_of_unit};

    DS_TRY(ds_states_catalogue(t->model, &t->dtypes, &t->catalogue));
    return ds_states_pieces(&place, &t->state_pieces, &t->state_piece_count);
}

static ds_status list_units(struct ds_trainer *t)
{
    const uint32_t count = t->model->unit_count;

    t->unit_param_counts = calloc(count, sizeof *t->unit_param_counts);
    t->saves_unit = calloc(count, sizeof *t->saves_unit);
    if (!t->unit_param_counts || !t->saves_unit)
        return ds_fail(DS_ERR_NO_MEMORY, "the states of %u units", count);
    for (uint32_t u = 0; u < count; u++) {
        t->unit_param_counts[u] = t->model->units[u].param_count;
        t->saves_unit[u] = t->has_unit[u] && t->place.at[DS_AXIS_REPLICA] == 0 &&
                           t->stage_of_unit[u] == t->place.at[DS_AXIS_PP];
    }
    return DS_OK;
}

ds_status trainer_open_saver(struct ds_trainer *t)
{
    char place[DS_KEY_BYTES];

    if (!is_training(t) || !uses_checkpoints(t))
        return DS_OK;
    DS_TRY(list_states(t));
    DS_TRY(list_units(t));
    if (t->config->checkpoint.interval == 0)
        return DS_OK;
    const struct ds_saver_options options = {
        .catalogue = &t->catalogue,
        .pieces = t->state_pieces,
        .piece_count = t->state_piece_count,
        .unit_count = t->model->unit_count,
        .unit_param_counts = t->unit_param_counts,
        .saves_unit = t->saves_unit,
        .dtypes = &t->dtypes,
        .zero = t->zero,
        .device = t->device,
        .compute = t->compute,
        .comm = t->comm,
        .memory = &t->memory,
        .buffer_place = ds_config_key(t->config, "checkpoint", "buffer", place),
        .buffer_bytes = t->config->checkpoint.buffer,
    };
    return ds_saver_open(&options, &t->saver);
}

void ds_trainer_saves(const struct ds_trainer *t, uint64_t *bytes, uint64_t *stops)
{
    *bytes = t->saver ? ds_saver_bytes(t->saver) : 0;
    *stops = t->saver ? ds_saver_stops(t->saver) : 0;
}

/* ---- the directory: rank 0 */

static int is_preset(const struct ds_field *field, const struct ds_config *config)
{
    struct ds_config preset;

    ds_config_preset(&preset);
    return ds_field_equal(field, config, &preset);
}

/* Of what makes checkpoints this run's. A key that is as it is where nobody sets it does not count: one that a later
 * version adds changes nothing. */
static ds_status digest_keys(const struct ds_config *config, struct ds_digest *out)
{
    char *text = calloc(ds_config_field_count, DS_TEXT_MAX + 64), value[DS_TEXT_MAX];
    size_t bytes = 0;

    if (!text)
        return ds_fail(DS_ERR_NO_MEMORY, "the keys of a run");
    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        if (!(field->flags & DS_FIELD_FIXED) || is_preset(field, config))
            continue;
        ds_field_print(field, config, value, sizeof value);
        bytes += (size_t)sprintf(text + bytes, "%s.%s=%s\n", field->section, field->key, value);
    }
    *out = ds_digest_of(text, bytes);
    free(text);
    return DS_OK;
}

/* *is_used: there is one, or there should be. One without a single checkpoint belongs to nobody yet: a launch that
 * failed at once claims nothing. */
static ds_status look_at_directory(struct ds_trainer *t, int32_t *is_used)
{
    const char *root = t->config->checkpoint.dir;
    char path[DS_TEXT_MAX + 16];
    struct ds_checkpoint_list list;
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/RUN.json", root);
    int code = ds_fs_stat(t->options.fs, path, &stat);
    *is_used = code == 0 || t->config->checkpoint.interval > 0;
    if (code != 0)
        return DS_OK; /* what is wrong with it is said when it is opened */
    DS_TRY(ds_checkpoint_list_make(t->options.fs, root, &list));
    if (list.count == 0)
        code = ds_fs_unlink(t->options.fs, path);
    ds_checkpoint_list_fini(&list);
    return code < 0 ? ds_fail(DS_ERR_IO, "remove %s: %s", path, strerror(-code)) : DS_OK;
}

static ds_status draw(uint8_t to[16])
{
    return getrandom(to, 16, 0) == 16
               ? DS_OK
               : ds_fail(DS_ERR_IO, "no random numbers: %s", strerror(errno));
}

static ds_status claim(struct ds_trainer *t)
{
    const char *root = t->config->checkpoint.dir;
    struct trainer_launch *launch = &t->launch;
    uint8_t fresh_run[16];
    struct ds_digest keys;
    char key[DS_KEY_BYTES];

    DS_TRY(look_at_directory(t, &launch->is_used));
    if (!launch->is_used)
        return DS_OK;
    const int code = ds_fs_mkdirs(t->options.fs, root, 0750);
    if (code < 0)
        return ds_fail(DS_ERR_CONFIG, "%s = %s: %s",
                       ds_config_key(t->config, "checkpoint", "dir", key), root, strerror(-code));
    DS_TRY(digest_keys(t->config, &keys));
    DS_TRY(draw(fresh_run));
    DS_TRY(draw(launch->nonce));
    DS_TRY(ds_checkpoint_dir_open(t->options.fs, root, fresh_run, launch->nonce, &keys,
                                  &t->checkpoint_dir));
    DS_TRY(ds_checkpoint_claim(t->checkpoint_dir));
    memcpy(launch->run, ds_checkpoint_dir_run(t->checkpoint_dir), sizeof launch->run);
    launch->epoch = ds_checkpoint_dir_epoch(t->checkpoint_dir);
    return DS_OK;
}

/* ---- going on */

static void beat(void *user)
{
    struct ds_trainer *t = user;

    if (t->options.recorder)
        ds_recorder_beat(t->options.recorder);
}

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
        return ds_config_refuse(
            t->config, "train", "steps", "= %llu: the newest checkpoint is of step %llu",
            (unsigned long long)t->config->train.steps, (unsigned long long)progress.step);
    t->first_step = progress.step + 1;
    t->tokens = progress.tokens;
    t->launch.base = manifest->id;
    t->launch.has_base = 1;
    return send_progress(t, &progress);
}

static ds_status restore(struct ds_trainer *t, int *found)
{
    const struct ds_restore_options options = {
        .control = t->options.world,
        .fs = t->options.fs,
        .root = t->config->checkpoint.dir,
        .dir = t->checkpoint_dir,
        .step_max = UINT64_MAX,
        .catalogue = &t->catalogue,
        .pieces = t->state_pieces,
        .piece_count = t->state_piece_count,
        .zero = t->zero,
        .beat = beat,
        .user = t,
    };
    struct ds_manifest manifest;
    ds_status st;

    DS_TRY(ds_restore(&options, &manifest, found));
    if (!*found)
        return DS_OK;
    const int is_leader = t->options.world->rank == 0;
    /* what one says of it all would say */
    st = ds_comm_agreed(t->options.world, is_leader ? go_on(t, &manifest) : DS_OK);
    if (st == DS_OK)
        st = ds_comm_agreed(t->options.world, is_leader ? DS_OK : go_on(t, &manifest));
    if (st == DS_OK && is_leader)
        tell_changes(t, &manifest);
    ds_manifest_fini(&manifest);
    return st;
}

static ds_status write_base(struct ds_trainer *t)
{
    const struct trainer_launch *launch = &t->launch;

    if (t->options.world->rank != 0)
        return DS_OK;
    if (launch->has_base)
        ds_checkpoint_trust(t->checkpoint_dir, &launch->base);
    return ds_checkpoint_write_base(t->checkpoint_dir, launch->has_base ? &launch->base : NULL,
                                    NULL, 0);
}

ds_status trainer_resume(struct ds_trainer *t, int *found)
{
    struct ds_comm *world = t->options.world;

    *found = 0;
    if (!is_training(t) || !uses_checkpoints(t))
        return DS_OK;
    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? claim(t) : DS_OK));
    DS_TRY(ds_comm_broadcast(world, &t->launch, sizeof t->launch, 0, NULL));
    if (!t->launch.is_used)
        return DS_OK;
    if (t->config->checkpoint.resume == DS_RESUME_AUTO)
        DS_TRY(restore(t, found));
    return trainer_together(t, write_base);
}

/* ---- saving */

static ds_status describe_config(const struct ds_config *config, struct ds_values *values)
{
    char name[DS_VALUE_NAME_BYTES_MAX + 1], value[DS_TEXT_MAX];

    for (size_t i = 0; i < ds_config_field_count; i++) {
        const struct ds_field *field = &ds_config_fields[i];

        snprintf(name, sizeof name, "config.%s.%s", field->section, field->key);
        ds_field_print(field, config, value, sizeof value);
        DS_TRY(ds_values_set(values, name, value));
    }
    return DS_OK;
}

ds_status trainer_start_saver(struct ds_trainer *t)
{
    const uint32_t *size = t->mesh_shape.size;
    struct ds_saver_start start = {
        .control = t->options.world,
        .fs = t->options.fs,
        .clock = t->options.clock,
        .root = t->config->checkpoint.dir,
        .epoch = t->launch.epoch,
        .dir = t->checkpoint_dir,
        .layout = {.replica = size[DS_AXIS_REPLICA],
                   .shard = size[DS_AXIS_SHARD],
                   .cp = size[DS_AXIS_CP],
                   .pp = size[DS_AXIS_PP],
                   .ep = size[DS_AXIS_EP],
                   .tp = size[DS_AXIS_TP],
                   .cut = DS_ZERO_CUT_ELEMS},
        .parent = t->launch.base,
        .has_parent = t->launch.has_base,
        .keep = (uint32_t)t->config->checkpoint.keep,
        .keep_every = t->config->checkpoint.keep_every,
        .beat = beat,
        .user = t,
    };
    ds_status st;

    if (!t->saver)
        return DS_OK;
    memcpy(start.run, t->launch.run, sizeof start.run);
    memcpy(start.nonce, t->launch.nonce, sizeof start.nonce);
    st = ds_comm_agreed(t->options.world, describe_config(t->config, &start.values));
    if (st != DS_OK) {
        ds_values_fini(&start.values);
        return st;
    }
    t->checkpoint_dir = NULL;
    return ds_saver_start(t->saver, &start);
}

static int is_due(const struct ds_trainer *t, uint64_t step)
{
    return step == t->config->train.steps || step % t->config->checkpoint.interval == 0;
}

/* The host's time in `call`, which waits for nobody as long as nothing is to be saved. */
static ds_status timed(struct ds_trainer *t, ds_status (*call)(struct ds_saver *saver))
{
    const uint64_t begin_ns = ds_clock_mono_ns(t->options.clock);
    const ds_status st = call(t->saver);

    t->waited_checkpoint_ns += ds_clock_mono_ns(t->options.clock) - begin_ns;
    return st;
}

ds_status trainer_save_after(struct ds_trainer *t, uint64_t step)
{
    const uint64_t begin_ns = ds_clock_mono_ns(t->options.clock);
    ds_status st;

    if (!t->saver || !is_due(t, step))
        return DS_OK;
    st = ds_saver_begin(t->saver, step, step == t->config->train.steps);
    t->waited_checkpoint_ns += ds_clock_mono_ns(t->options.clock) - begin_ns;
    return st;
}

ds_status trainer_poll_saver(struct ds_trainer *t)
{
    return t->saver ? timed(t, ds_saver_poll) : DS_OK;
}

ds_status trainer_wait_saver(struct ds_trainer *t)
{
    if (!t->saver)
        return DS_OK;
    trainer_enter(t, "last checkpoint", t->config->train.steps, trainer_deadline_ns(t));
    return timed(t, ds_saver_wait);
}

ds_status trainer_note_progress(struct ds_trainer *t, const struct ds_step_record *record)
{
    const struct ds_progress progress = {
        .step = record->step,
        .samples = record->step * t->config->train.global_batch_size,
        .tokens = t->tokens,
        .updates = record->updates,
        .skipped = record->skipped,
        .next_loss_scale = record->next_loss_scale,
        .finite_count = record->finite_count,
    };

    return t->saver ? ds_saver_note(t->saver, &progress) : DS_OK;
}
