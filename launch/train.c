/* train.c - `dstrain config.ini`: a run with everything a person sees of it. The trainer does the work;
 * here its numbers become lines, and the directory of the run is filled. */
#include "banner.h"
#include "command.h"
#include "console.h"
#include "memory_used.h"
#include "metrics.h"
#include "mfu.h"
#include "plan.h"
#include "run_before.h"
#include "run_dir.h"
#include "signals.h"
#include "trace.h"

#include "config/trace_text.h"

#include "dstrain/schedule.h"
#include "dstrain/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint64_t watchdog_tick_ns = 250000000u;
static const uint64_t metrics_line_bytes = 512; /* one is a little shorter */

struct train {
    struct ds_command *command;
    const struct ds_config *config;
    struct ds_config *named; /* rank 0: as the run's first launch named its files */
    /* owns */
    struct ds_trainer *trainer;
    struct ds_recorder *recorder;
    struct ds_metrics metrics; /* rank 0 */
    struct ds_trace *trace;    /* NULL: none is wanted */
    struct ds_run_files files;
    struct ds_console console;
    char metrics_path[DS_RUN_PATH_BYTES], export_path[DS_RUN_PATH_BYTES];
    char incidents_path[DS_RUN_PATH_BYTES], pages_path[64], run_id[32];
    uint64_t trace_first, trace_last; /* steps; 0: none */
    double eval_loss;
    int has_eval;
    uint64_t skipped; /* steps */
};

static int is_leader(const struct train *train)
{
    return train->command->world->rank == 0;
}

/* ---- numbers of a step */

static double mfu_of(const struct train *train, const struct ds_step_report *r)
{
    return ds_mfu(ds_trainer_model(train->trainer), train->config->train.seq_length,
                  ds_trainer_device(train->trainer), r->tokens_per_s, train->command->world->size);
}

static void write_metrics(struct train *train, const struct ds_step_report *r)
{
    const struct ds_metrics_row row = {.step = r->step,
                                       .loss = r->loss,
                                       .grad_norm = r->grad_norm,
                                       .lr = r->learning_rate,
                                       .trained_tokens = r->trained_tokens,
                                       .tokens = r->tokens,
                                       .step_s = r->step_s,
                                       .tokens_per_s = r->tokens_per_s,
                                       .mfu = mfu_of(train, r),
                                       .device_peak_bytes = r->device_peak_bytes,
                                       .host_peak_bytes = r->host_peak_bytes,
                                       .wait_data_s = r->wait_data_s,
                                       .wait_comm_s = r->wait_comm_s,
                                       .wait_offload_s = r->wait_offload_s,
                                       .wait_checkpoint_s = r->wait_checkpoint_s,
                                       .bubble_s = r->bubble_s,
                                       .has_eval_loss = r->has_eval,
                                       .eval_loss = r->eval_loss,
                                       .is_skipped = r->is_skipped,
                                       .has_loss_scale = r->has_loss_scale,
                                       .loss_scale = r->loss_scale};

    ds_metrics_write(&train->metrics, &row);
}

static void show_step(struct train *train, const struct ds_step_report *r)
{
    const struct ds_console_row row = {.step = r->step,
                                       .loss = r->loss,
                                       .lr = r->learning_rate,
                                       .grad_norm = r->grad_norm,
                                       .step_s = r->step_s,
                                       .tokens_per_s = r->tokens_per_s,
                                       .mfu = mfu_of(train, r),
                                       .memory_bytes = r->device_peak_bytes,
                                       .is_skipped = r->is_skipped};

    ds_console_step(&train->console, &row);
    if (r->has_eval) {
        ds_console_clear(&train->console);
        ds_info("evaluation after step %llu: loss %.4f, perplexity %.3f",
                (unsigned long long)r->step, ds_console_real(r->eval_loss),
                ds_console_real(exp(r->eval_loss)));
        train->eval_loss = r->eval_loss;
        train->has_eval = 1;
    }
}

static ds_status on_step(void *user, const struct ds_step_report *report)
{
    struct train *train = user;

    train->skipped = report->skipped;
    if (train->trace && report->step == train->trace_last)
        ds_console_clear(&train->console); /* it says where it is */
    if (train->trace)
        DS_TRY(ds_trace_step(train->trace, report));
    if (report->step + 1 == ds_trainer_first_step(train->trainer) + DS_MEMORY_IS_TAKEN_STEP)
        DS_TRY(ds_memory_used_check(train->config, train->trainer));
    if (!is_leader(train))
        return DS_OK;
    write_metrics(train, report);
    show_step(train, report);
    return DS_OK;
}

static int on_leave(void *user)
{
    (void)user;
    return ds_signals_leave();
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
    struct train *train = user;

    if (is_leader(train))
        ds_console_progress(&train->console, "preparing", done, total);
}

/* ---- opening and closing */

static ds_status start_recorder(struct train *train)
{
    const struct ds_comm *world = train->command->world;
    const struct ds_recorder_options options = {.directory = train->pages_path,
                                                .run_id = train->run_id,
                                                .incidents = train->incidents_path,
                                                .kind_names = ds_action_names,
                                                .kind_count = DS_ACTION_KIND_COUNT,
                                                .rank = world->rank,
                                                .rank_count = world->size,
                                                .clock = train->command->clock};

    DS_TRY(ds_recorder_open(&options, &train->recorder));
    return ds_watchdog_start(train->recorder, watchdog_tick_ns, NULL);
}

/* One line, however many ranks have no page: the lowest of them speaks. */
static ds_status warn_of_hidden_pages(const struct train *train)
{
    struct ds_comm *world = train->command->world;
    const char *why = ds_recorder_why_hidden(train->recorder);
    int32_t speaker = why[0] ? (int32_t)world->rank : INT32_MAX;

    DS_TRY(ds_comm_all_reduce(world, &speaker, 1, DS_I32, DS_REDUCE_MIN, NULL));
    if (speaker == (int32_t)world->rank)
        ds_warn("recorder: %s; when a rank hangs, others cannot say where it is", why);
    return DS_OK;
}

/* Pages lie in a folder of this user in the host's own memory: they outlive the process, not the host. */
static ds_status open_recorder(struct train *train)
{
    struct ds_comm *world = train->command->world;
    uint64_t id = ds_clock_real_ns(train->command->clock) ^ (uint64_t)getpid() << 40;

    DS_TRY(ds_comm_broadcast(world, &id, sizeof id, 0, NULL));
    snprintf(train->pages_path, sizeof train->pages_path, "/dev/shm/dstrain-%u",
             (unsigned)getuid());
    snprintf(train->run_id, sizeof train->run_id, "%016llx", (unsigned long long)id);
    DS_TRY(ds_comm_agreed(world, start_recorder(train)));
    return warn_of_hidden_pages(train);
}

/* rank 0, which has the run's lock. Better now than after the last step. */
static ds_status check_export(const struct train *train)
{
    struct ds_fs_stat stat;

    if (train->config->run.export == DS_EXPORT_LAST &&
        ds_fs_stat(train->command->fs, train->export_path, &stat) == 0 && !stat.is_directory)
        return ds_fail(DS_ERR_CONFIG,
                       "run.dir: %s: not a directory, but the model is to be written there; move "
                       "it away",
                       train->export_path);
    return DS_OK;
}

/* Numbers of an earlier run make room for those of one that begins again; one that goes on adds to them. Without a
 * checkpoint so far it begins again, but is the same run. */
static int adds_to_metrics(const struct train *train)
{
    return ds_trainer_first_step(train->trainer) > 1 ||
           (train->config->checkpoint.interval > 0 &&
            train->config->checkpoint.resume == DS_RESUME_AUTO);
}

static ds_status open_metrics(struct train *train)
{
    struct ds_fs *fs = train->command->fs;
    char aside[DS_RUN_PATH_BYTES + 32] = "";

    if (!adds_to_metrics(train))
        DS_TRY(ds_metrics_set_aside(fs, train->metrics_path, aside, sizeof aside));
    if (aside[0])
        ds_info("run.dir: %s: holds an earlier run of the same model and data; there is no "
                "checkpoint to go on from, it starts again at step 1; the earlier metrics are now "
                "%s",
                train->config->run.dir, aside);
    return ds_metrics_open(&train->metrics, fs, train->metrics_path);
}

static ds_status open_files(struct train *train)
{
    const char *dir = train->config->run.dir;

    snprintf(train->metrics_path, sizeof train->metrics_path, "%s/metrics.jsonl", dir);
    snprintf(train->export_path, sizeof train->export_path, "%s/export", dir);
    snprintf(train->incidents_path, sizeof train->incidents_path, "%s/incidents", dir);
    DS_TRY(ds_run_dir_open(train->command->world, train->command->fs, train->command->config,
                           &train->files));
    if (is_leader(train))
        ds_inputs_name(&train->files.inputs, train->config, train->named);
    return ds_comm_agreed(train->command->world, is_leader(train) ? check_export(train) : DS_OK);
}

static ds_status open_trace(struct train *train)
{
    struct ds_trace_options options = {.world = train->command->world,
                                       .fs = train->command->fs,
                                       .clock = train->command->clock,
                                       .dir = train->config->run.dir};

    if (!ds_trace_range_parse(train->config->log.trace, &options.first, &options.last))
        return DS_OK; /* empty: the text was checked with the configuration */
    if (options.last > train->config->train.steps)
        options.last = train->config->train.steps;
    train->trace_first = options.first;
    train->trace_last = options.last;
    return ds_trace_open(&options, &train->trace);
}

static ds_status open_trainer(struct train *train)
{
    const struct ds_trainer_options options = {.config = train->config,
                                               .named = train->named,
                                               .mode = DS_TRAINER_TRAIN,
                                               .uses_checkpoints = 1,
                                               .world = train->command->world,
                                               .fs = train->command->fs,
                                               .clock = train->command->clock,
                                               .local_rank = train->command->local_rank,
                                               .thread_count = train->command->thread_count,
                                               .recorder = train->recorder,
                                               .progress = on_progress,
                                               .on_step = on_step,
                                               .leave = on_leave,
                                               .user = train,
                                               .settle_step = train->trace_last,
                                               .marked_first = train->trace_first,
                                               .marked_last = train->trace_last};

    return ds_trainer_open(&options, &train->trainer);
}

/* A rank that fails in a step leaves peers behind in it; those that were only told go quietly. */
static ds_status run_steps(struct train *train)
{
    ds_status st = ds_trainer_run(train->trainer);

    ds_console_clear(&train->console);
    if (st == DS_OK || st == DS_LEAVE || st == DS_ERR_DIVERGED)
        return st;
    train->command->peers_wait = 1;
    train->command->peer_ends =
        st == DS_ERR_COMM ||
        !ds_recorder_accuse(train->recorder, ds_status_exit_code(st), DS_RECORDER_NOBODY);
    return st;
}

/* Before the first step and behind the last one ranks meet in the world: whoever it waited for is behind. */
static ds_status accuse_late(struct train *train, ds_status st)
{
    if (st == DS_ERR_DEADLINE && train->recorder)
        train->command->peer_ends = !ds_recorder_accuse(train->recorder, ds_status_exit_code(st),
                                                        train->command->world->missing);
    return st;
}

/* rank 0 */
static void tell_done(const struct train *train)
{
    ds_info("done: %llu step%s%s", (unsigned long long)train->config->train.steps,
            train->config->train.steps == 1 ? "" : "s",
            train->config->run.export == DS_EXPORT_LAST ? ""
                                                        : ", nothing exported (run.export = none)");
    if (train->skipped > 0)
        ds_info("%llu of %llu steps were skipped", (unsigned long long)train->skipped,
                (unsigned long long)train->config->train.steps);
    if (train->config->run.export == DS_EXPORT_LAST)
        ds_info("model: %s", train->export_path);
    ds_info("metrics: %s", train->metrics_path);
}

/* Whoever waits for this run is to know that a longer one cannot go on from its end. */
static ds_status check_saved(const struct train *train)
{
    const struct ds_config *config = train->config;
    const ds_status st = ds_trainer_saved(train->trainer);

    if (st == DS_OK || !is_leader(train))
        return st;
    return ds_fail(st,
                   "the last checkpoint, of step %llu, was not written to %s%s; why is "
                   "said above: where that is mended, the same command goes on from the newest "
                   "one that is there, and writes it",
                   (unsigned long long)config->train.steps, config->checkpoint.dir,
                   config->run.export == DS_EXPORT_LAST ? ", though the model is exported" : "");
}

static ds_status finish(struct train *train)
{
    ds_recorder_section(train->recorder, "export", 0);
    if (train->config->run.export == DS_EXPORT_LAST)
        DS_TRY(ds_trainer_export(train->trainer, train->export_path));
    if (is_leader(train))
        tell_done(train);
    return check_saved(train);
}

/* Before anything is touched: what is left to the plan, and does it fit? */
static ds_status settle_plan(struct train *train, struct ds_config *settled)
{
    const struct ds_command *command = train->command;

    *settled = *command->config;
    train->config = settled;
    return ds_plan_together(&(struct ds_plan_ranks){command->world, command->fs, command->clock,
                                                    command->local_rank, command->local_count,
                                                    command->thread_count},
                            DS_CONFIG_TRAIN, settled);
}

static ds_status set_export_aside(const struct train *train)
{
    char aside[DS_RUN_PATH_BYTES + 32];

    DS_TRY(
        ds_run_set_export_aside(train->command->fs, train->config->run.dir, aside, sizeof aside));
    if (aside[0])
        ds_info("run.dir: %s: holds the model of an earlier run, and this one writes none "
                "(run.export = none); it is now %s",
                train->config->run.dir, aside);
    return DS_OK;
}

/* rank 0: the launch is not refused any more, so what earlier ones have left may change */
static ds_status clear_directory(struct train *train)
{
    const struct ds_config *config = train->config;
    const int exports = config->run.export == DS_EXPORT_LAST;
    const struct ds_model *model = ds_trainer_model(train->trainer);

    /* as it was before the plan settled it, which for other ranks or other room it settles otherwise */
    DS_TRY(
        ds_run_dir_store(train->command->fs, train->command->config, config, &train->files.inputs));
    DS_TRY(open_metrics(train));
    if (!exports)
        DS_TRY(set_export_aside(train));
    DS_TRY(ds_run_remove_logs(train->command->fs, config->run.dir, train->command->world->size));
    ds_run_check_space(train->command->fs, config->run.dir,
                       exports ? model->elems_total * sizeof(float) : 0,
                       config->train.steps * metrics_line_bytes);
    return DS_OK;
}

static ds_status start(struct train *train)
{
    DS_TRY(open_files(train));
    DS_TRY(open_recorder(train));
    DS_TRY(open_trace(train));
    DS_TRY(open_trainer(train));
    DS_TRY(ds_banner_show(train->command->world, train->config, train->trainer));
    return ds_comm_agreed(train->command->world, is_leader(train) ? clear_directory(train) : DS_OK);
}

static ds_status run(struct train *train)
{
    DS_TRY(accuse_late(train, start(train)));
    DS_TRY(run_steps(train));
    return accuse_late(train, finish(train));
}

/* Because of what a person wrote; whatever else ends a launch may need its log to be understood. */
static int is_refused(ds_status st)
{
    const int code = ds_status_exit_code(st);

    return code == ds_status_exit_code(DS_ERR_CONFIG) || code == ds_status_exit_code(DS_ERR_DATA);
}

ds_status ds_train_main(struct ds_command *command)
{
    struct train train = {.command = command,
                          .config = command->config,
                          .files = DS_RUN_FILES_NONE,
                          .metrics = {.file = -1}};
    struct ds_config *settled = malloc(2 * sizeof *settled); /* and `named` */
    ds_status st;

    ds_console_init(&train.console, command->config->train.steps, command->config->log.interval,
                    command->clock);
    st = ds_comm_agreed(command->world, settled ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "a run"));
    train.named = settled ? settled + 1 : NULL;
    if (st == DS_OK)
        st = settle_plan(&train, settled);
    if (st == DS_OK)
        st = run(&train);
    if (train.recorder) {
        ds_watchdog_stop(train.recorder);
        ds_recorder_close(train.recorder, ds_status_exit_code(st));
    }
    if (!command->peers_wait && st != DS_ERR_COMM && st != DS_ERR_DEADLINE)
        ds_trainer_close(train.trainer); /* collective: only where all ranks come here */
    ds_trace_close(train.trace);
    ds_metrics_close(&train.metrics);
    ds_run_dir_close(command->fs, train.config, &train.files, is_refused(st));
    free(settled);
    return st;
}
