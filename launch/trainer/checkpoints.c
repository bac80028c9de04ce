/* checkpoints.c - what a launch leaves behind: the states that there are to save, and the saver that adds them to the
 * run's checkpoints. */
#include "config/config.h"
#include "trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT_POLL_NS 10000000u /* between looks, when training is over */

/* ---- what there is to save */

int trainer_uses_checkpoints(const struct ds_trainer *t)
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
        t->saves_unit[u] = t->has_unit[u] && !t->model->units[u].is_frozen &&
                           t->place.at[DS_AXIS_REPLICA] == 0 &&
                           t->stage_of_unit[u] == t->place.at[DS_AXIS_PP];
    }
    return DS_OK;
}

ds_status trainer_open_saver(struct ds_trainer *t)
{
    char place[DS_KEY_BYTES];

    if (!is_training(t) || !trainer_uses_checkpoints(t))
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
        .has_mirror = t->config->checkpoint.mirror[0] != '\0',
    };
    return ds_saver_open(&options, &t->saver);
}

void ds_trainer_saves(const struct ds_trainer *t, uint64_t *bytes, uint64_t *stops)
{
    *bytes = t->saver ? ds_saver_bytes(t->saver) : 0;
    *stops = t->saver ? ds_saver_stops(t->saver) : 0;
}

/* ---- saving */

void trainer_beat(void *user)
{
    struct ds_trainer *t = user;

    if (t->options.recorder)
        ds_recorder_beat(t->options.recorder);
}

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

/* From wherever it is read. */
void trainer_put_absolute(const char *path, char *to, size_t bytes)
{
    char here[DS_TEXT_MAX];

    if (path[0] != '\0' && path[0] != '/' && getcwd(here, sizeof here) &&
        strlen(here) + 1 + strlen(path) < bytes)
        snprintf(to, bytes, "%s/%s", here, path);
    else
        snprintf(to, bytes, "%s", path);
}

/* Rank 0: what an export needs to know of the model, so that it needs no more than the checkpoint. */
static ds_status describe_model(const struct ds_trainer *t, struct ds_values *values)
{
    struct ds_export_model model = {.config = t->model->config,
                                    .has_byte_tokens = t->text.is_bytes};
    const char *companions = trainer_companions(t);

    if (t->options.world->rank != 0)
        return DS_OK;
    trainer_put_absolute(companions ? companions : "", model.companions, sizeof model.companions);
    trainer_put_absolute(t->config->model.path, model.base, sizeof model.base);
    model.beside = t->beside;
    DS_TRY(ds_export_describe_adapter(t->model, &model));
    return ds_export_describe(t->options.fs, &model, values);
}

static ds_status describe(const struct ds_trainer *t, struct ds_values *values)
{
    DS_TRY(describe_config(t->config, values));
    return describe_model(t, values);
}

/* The launch before this one was ended while it exported what this one goes on from. */
static void export_again(const struct ds_trainer *t)
{
    const struct trainer_launch *launch = &t->launch;
    const unsigned long long step = launch->base.step;

    if (!launch->has_base || !ds_exporter_lacks(t->exporter, &launch->base))
        return;
    if (launch->is_from_mirror) {
        ds_warn("the export of the checkpoint of step %llu is missing, and not made again, since "
                "that lies in %s alone: 'dstrain export %s' makes it",
                step, t->config->checkpoint.mirror, t->config->checkpoint.mirror);
        return;
    }
    ds_info("the export of the checkpoint of step %llu is missing: it is made now", step);
    ds_exporter_offer(t->exporter, &launch->base);
}

/* Rank 0; it stays through all that becomes of the saver. */
static ds_status open_exporter(struct ds_trainer *t)
{
    const struct ds_config *config = t->config;

    if (t->options.world->rank != 0 || config->checkpoint.export == 0 || t->exporter)
        return DS_OK;
    const struct ds_exporter_options options = {
        .fs = t->options.fs,
        .root = config->checkpoint.dir,
        .folder = config->run.dir,
        .every = config->checkpoint.export,
        .config = t->model->config,
        .lora = &t->adapter,
        .base = t->base,
        .beside = t->beside,
        .companions = trainer_companions(t),
        .has_byte_tokens = t->text.is_bytes,
    };
    DS_TRY(ds_exporter_open(&options, &t->exporter));
    export_again(t);
    return DS_OK;
}

ds_status trainer_start_saver(struct ds_trainer *t, int is_launch)
{
    const uint32_t *size = t->mesh_shape.size;
    struct ds_saver_start start = {
        .control = t->options.world,
        .fs = t->options.fs,
        .clock = t->options.clock,
        .root = t->config->checkpoint.dir,
        .mirror = t->launch.has_mirror ? t->config->checkpoint.mirror : NULL,
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
        .loaded = t->launch.has_base && !t->launch.is_from_mirror ? &t->loaded : NULL,
        .keep = (uint32_t)t->config->checkpoint.keep,
        .keep_every = t->config->checkpoint.keep_every,
        .keep_margin = rollback_margin(t->config),
        .stall_ns_max = (uint64_t)(t->config->run.deadline * 0.5e9),
        .beat = trainer_beat,
        .user = t,
    };
    ds_status st;

    if (!t->saver)
        return is_launch ? trainer_begin_epoch(t) : DS_OK;
    memcpy(start.run, t->launch.run, sizeof start.run);
    memcpy(start.nonce, t->launch.nonce, sizeof start.nonce);
    st = describe(t, &start.values);
    if (st == DS_OK)
        st = open_exporter(t);
    if (st == DS_OK)
        st = trainer_open_still(t, &start.still);
    start.exporter = t->exporter;
    st = ds_comm_agreed(t->options.world, st);
    if (st == DS_OK && is_launch)
        st = trainer_begin_epoch(t);
    if (st != DS_OK) {
        ds_values_fini(&start.values);
        ds_saver_still_fini(t->options.fs, &start.still);
        return st;
    }
    t->checkpoint_dir = NULL;
    st = ds_saver_start(t->saver, &start);
    ds_manifest_fini(&t->loaded);
    return st;
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

ds_status trainer_begin_save(struct ds_trainer *t, uint64_t step, int is_last)
{
    DS_TRY(ds_executor_finish(t->executor));
    return ds_saver_begin(t->saver, step, is_last);
}

ds_status trainer_save_after(struct ds_trainer *t, uint64_t step)
{
    const uint64_t begin_ns = ds_clock_mono_ns(t->options.clock);
    ds_status st;

    if (!t->saver || !is_due(t, step))
        return DS_OK;
    st = trainer_begin_save(t, step, step == t->config->train.steps);
    t->waited_checkpoint_ns += ds_clock_mono_ns(t->options.clock) - begin_ns;
    return st;
}

ds_status trainer_poll_saver(struct ds_trainer *t)
{
    return t->saver ? timed(t, ds_saver_poll) : DS_OK;
}

/* collective: others wait for rank 0 a little at a time, however long it takes. */
static ds_status wait_exporter(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;
    int32_t is_idle = 0;

    if (t->config->checkpoint.export == 0)
        return DS_OK;
    trainer_enter(t, "last export of a checkpoint", t->config->train.steps, trainer_deadline_ns(t));
    while (!is_idle) {
        is_idle = !t->exporter || ds_exporter_is_idle(t->exporter);
        DS_TRY(ds_comm_broadcast(world, &is_idle, sizeof is_idle, 0, NULL));
        trainer_beat(t);
        if (!is_idle)
            ds_clock_sleep_ns(t->options.clock, EXPORT_POLL_NS);
    }
    return DS_OK;
}

/* The numbers of `step` may have been read before anybody knew that they belong to a checkpoint. */
static ds_status save_now(struct ds_trainer *t, uint64_t step)
{
    if (!ds_saver_has(t->saver, step))
        DS_TRY(trainer_begin_save(t, step, 1));
    DS_TRY(trainer_settle(t));
    DS_TRY(trainer_tell_progress(t));
    return ds_saver_wait(t->saver);
}

/* Storage that does not answer is not asked again, nor are states written that are no better than before. */
static int may_try_again(const struct ds_trainer *t)
{
    return ds_saver_is_idle(t->saver) && ds_saver_failure(t->saver) != DS_ERR_DATA;
}

ds_status trainer_save_last(struct ds_trainer *t, uint64_t step)
{
    DS_TRY(save_now(t, step));
    if (ds_saver_has(t->saver, step) || !may_try_again(t))
        return DS_OK;
    if (t->options.world->rank == 0)
        ds_info("checkpoint of step %llu: tried once more", (unsigned long long)step);
    return save_now(t, step);
}

/* Did the run go on from behind its last step? */
static int is_last_loaded(const struct ds_trainer *t)
{
    return t->launch.has_base && t->launch.base.step >= t->config->train.steps;
}

ds_status ds_trainer_saved(const struct ds_trainer *t)
{
    if (!t->saver || is_last_loaded(t) || ds_saver_has(t->saver, t->config->train.steps))
        return DS_OK;
    return ds_saver_failure(t->saver) == DS_ERR_DATA ? DS_ERR_DIVERGED : DS_ERR_IO;
}

ds_status trainer_wait_saver(struct ds_trainer *t)
{
    if (!t->saver)
        return DS_OK;
    trainer_enter(t, "last checkpoint", t->config->train.steps, trainer_deadline_ns(t));
    if (!is_last_loaded(t))
        DS_TRY(trainer_save_last(t, t->config->train.steps));
    trainer_enter(t, "last copy of a checkpoint", t->config->train.steps, trainer_deadline_ns(t));
    DS_TRY(ds_saver_wait_mirror(t->saver));
    return wait_exporter(t);
}

ds_status trainer_tell_progress(struct ds_trainer *t)
{
    struct ds_values *values = t->saver ? ds_saver_values(t->saver, t->progress.step) : NULL;

    if (!values)
        return DS_OK;
    DS_TRY(rollback_write(&t->rollback, values));
    return ds_saver_note(t->saver, &t->progress);
}

ds_status trainer_note_progress(struct ds_trainer *t, const struct ds_step_record *record)
{
    t->progress = (struct ds_progress){
        .step = record->step,
        .samples = record->step * t->config->train.global_batch_size,
        .tokens = t->tokens,
        .updates = record->updates,
        .skipped = record->skipped,
        .next_loss_scale = record->next_loss_scale,
        .finite_count = record->finite_count,
    };
    return trainer_tell_progress(t);
}
