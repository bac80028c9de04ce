/* resume.c - where a launch begins: the directory of the run's checkpoints, claimed before it is read, and the newest
 * of them that verifies. */
#include "config/config.h"
#include "trainer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- the directory: rank 0 */

static int is_preset(const struct ds_field *field, const struct ds_config *config)
{
    struct ds_config preset;

    ds_config_preset(&preset);
    /* as it was when the first directories were made */
    if (strcmp(config->data.tokenizer, "bytes") == 0)
        strcpy(preset.data.tokenizer, "bytes");
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

/* A run's directory is locked by its launch, so nobody else lives in there. */
static int is_in_run_dir(const struct ds_config *config)
{
    const size_t bytes = strlen(config->run.dir);

    return bytes > 0 && strncmp(config->checkpoint.dir, config->run.dir, bytes) == 0 &&
           config->checkpoint.dir[bytes] == '/';
}

static int is_a_directory_of_ours(const struct ds_trainer *t, const char *root)
{
    char path[DS_TEXT_MAX + 16];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/RUN.json", root);
    return root[0] != '\0' && ds_fs_stat(t->options.fs, path, &stat) == 0;
}

static int has_folders(const struct ds_trainer *t, const char *root)
{
    char path[DS_TEXT_MAX + 16];
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/epochs", root);
    if (ds_fs_stat(t->options.fs, path, &stat) != 0)
        return 0;
    snprintf(path, sizeof path, "%s/manifests", root);
    return ds_fs_stat(t->options.fs, path, &stat) == 0;
}

/* *is_used: there is one, or there should be. One in the run's own directory without a single checkpoint belongs to
 * nobody yet: a launch that failed at once claims nothing. Elsewhere it may be that of a run that goes on right now. */
static ds_status look_at_directory(struct ds_trainer *t, int32_t *is_used)
{
    const char *root = t->config->checkpoint.dir;
    char path[DS_TEXT_MAX + 16];
    struct ds_checkpoint_list list;
    struct ds_fs_stat stat;

    snprintf(path, sizeof path, "%s/RUN.json", root);
    int code = ds_fs_stat(t->options.fs, path, &stat);
    *is_used = code == 0 || t->config->checkpoint.interval > 0 ||
               is_a_directory_of_ours(t, t->config->checkpoint.mirror);
    if (code != 0 || !is_in_run_dir(t->config) || !has_folders(t, root))
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

static ds_status open_directory(const struct ds_trainer *t, const char *root,
                                const uint8_t fresh_run[16], const struct ds_digest *keys,
                                struct ds_checkpoint_dir **out)
{
    char key[DS_KEY_BYTES];
    const int code = ds_fs_mkdirs(t->options.fs, root, 0750);

    if (code < 0)
        return ds_fail(DS_ERR_CONFIG, "%s = %s: %s",
                       ds_config_key(t->config, "checkpoint",
                                     root == t->config->checkpoint.mirror ? "mirror" : "dir", key),
                       root, strerror(-code));
    return ds_checkpoint_dir_open(t->options.fs, root, fresh_run, t->launch.nonce, keys, out);
}

/* One that cannot be had costs copies, and a warning; another run's is refused. */
static ds_status open_mirror(struct ds_trainer *t, const uint8_t fresh_run[16],
                             const struct ds_digest *keys, struct ds_checkpoint_dir **out)
{
    const char *root = t->config->checkpoint.mirror;
    const int was_there = is_a_directory_of_ours(t, root);

    *out = NULL;
    if (root[0] == '\0')
        return DS_OK;
    if (strcmp(root, t->config->checkpoint.dir) == 0)
        return ds_config_refuse(t->config, "checkpoint", "mirror",
                                "= %s: is dir itself, not a second directory", root);
    const ds_status st = open_directory(t, root, fresh_run, keys, out);
    if (st == DS_OK || was_there)
        return st;
    ds_warn("%s: no checkpoints are copied there", root);
    return DS_OK;
}

/* Both belong to one run. A directory that is new takes the name of the run from the mirror: it may be that of a host
 * that has never seen it. */
static ds_status open_directories(struct ds_trainer *t, const struct ds_digest *keys)
{
    const char *root = t->config->checkpoint.dir;
    const int has_mirror = is_a_directory_of_ours(t, t->config->checkpoint.mirror);
    struct ds_checkpoint_dir *mirror = NULL;
    uint8_t run[16];

    DS_TRY(draw(run));
    if (is_a_directory_of_ours(t, root)) {
        DS_TRY(open_directory(t, root, run, keys, &t->checkpoint_dir));
        memcpy(run, ds_checkpoint_dir_run(t->checkpoint_dir), sizeof run);
    }
    DS_TRY(open_mirror(t, run, keys, &mirror));
    ds_status st = DS_OK;
    if (mirror && t->checkpoint_dir && memcmp(run, ds_checkpoint_dir_run(mirror), sizeof run) != 0)
        st = ds_config_refuse(t->config, "checkpoint", "mirror", "= %s: holds another run than %s",
                              t->config->checkpoint.mirror, root);
    if (mirror)
        memcpy(run, ds_checkpoint_dir_run(mirror), sizeof run);
    if (st == DS_OK && !t->checkpoint_dir) {
        t->launch.is_adopted = mirror && has_mirror;
        st = open_directory(t, root, run, keys, &t->checkpoint_dir);
    }
    if (st == DS_OK && mirror)
        ds_checkpoint_join(t->checkpoint_dir, mirror);
    else
        ds_checkpoint_dir_close(mirror);
    return st;
}

static ds_status claim(struct ds_trainer *t)
{
    struct trainer_launch *launch = &t->launch;
    struct ds_digest keys;

    DS_TRY(look_at_directory(t, &launch->is_used));
    if (!launch->is_used)
        return DS_OK;
    DS_TRY(digest_keys(t->config, &keys));
    DS_TRY(draw(launch->nonce));
    DS_TRY(open_directories(t, &keys));
    DS_TRY(ds_checkpoint_claim(t->checkpoint_dir));
    launch->has_mirror = ds_checkpoint_has_mirror(t->checkpoint_dir);
    memcpy(launch->run, ds_checkpoint_dir_run(t->checkpoint_dir), sizeof launch->run);
    launch->epoch = ds_checkpoint_dir_epoch(t->checkpoint_dir);
    return DS_OK;
}

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
        return ds_config_refuse(
            t->config, "train", "steps", "= %llu: the newest checkpoint is of step %llu",
            (unsigned long long)t->config->train.steps, (unsigned long long)progress.step);
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

/* collective */
static ds_status go_on_from_newest(struct ds_trainer *t, int *found)
{
    struct ds_comm *world = t->options.world;

    DS_TRY(trainer_load_checkpoint(t, UINT64_MAX, found));
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

ds_status trainer_resume(struct ds_trainer *t, int *found)
{
    struct ds_comm *world = t->options.world;

    *found = 0;
    if (!is_training(t) || !trainer_uses_checkpoints(t))
        return DS_OK;
    DS_TRY(ds_comm_agreed(world, world->rank == 0 ? claim(t) : DS_OK));
    DS_TRY(ds_comm_broadcast(world, &t->launch, sizeof t->launch, 0, NULL));
    if (!t->launch.is_used)
        return DS_OK;
    if (t->config->checkpoint.resume == DS_RESUME_AUTO)
        DS_TRY(go_on_from_newest(t, found));
    if (world->rank == 0)
        tell_adopted(t);
    return trainer_together(t, trainer_write_base);
}
