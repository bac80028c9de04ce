/* trainer.c - the loop: send a step's batch and record, run the list, read the numbers of the step
 * before. Nothing in a step waits for the host; the host waits for the step before last. */
#include "trainer.h"

#include "inject.h"
#include "tuning.h"

#include "dstrain/accounts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* A quarter more than a wait for other ranks may take, so that the wait, which knows who is missing, speaks
 * first. */
uint64_t trainer_deadline_ns(const struct ds_trainer *t)
{
    return (uint64_t)(t->config->run.deadline * 1.25e9);
}

void trainer_enter(struct ds_trainer *t, const char *section, uint64_t step, uint64_t deadline_ns)
{
    if (!t->options.recorder)
        return;
    ds_recorder_step(t->options.recorder, step);
    ds_recorder_section(t->options.recorder, section, deadline_ns);
}

/* ---- sending */

ds_status trainer_send_batch(struct ds_trainer *t, struct trainer_exchange *exchange,
                             const struct ds_loader_batch *batch, uint64_t micro_count)
{
    const struct ds_device_ops *ops = t->device->ops;
    const int32_t *const from[4] = {batch->id, batch->target, batch->position, batch->document};
    const size_t bytes = (size_t)(micro_count * t->tokens_per_micro) * sizeof(int32_t);

    for (int i = 0; i < 4; i++) {
        int32_t *staged = exchange->batch + (size_t)i * t->batch_ints;
        memcpy(staged, from[i], bytes);
        DS_TRY(ops->copy(t->compute, t->batch_memory + (size_t)i * t->batch_ints, staged, bytes));
    }
    return DS_OK;
}

static ds_status send_step(struct ds_trainer *t, struct trainer_exchange *exchange, uint64_t step)
{
    struct ds_loader_batch batch;

    DS_TRY(ds_loader_next(t->train_loader, step - 1, &batch, &exchange->waited_data_ns));
    inject_into_labels(t, step, &batch);
    DS_TRY(trainer_send_batch(t, exchange, &batch, t->micro_count));
    exchange->record->step = step;
    exchange->record->random_base = step;
    exchange->record->local_tokens = batch.trained_tokens;
    exchange->record->learning_rate = (float)ds_lr_at(&t->lr, step);
    inject_into_rate(t, step, &exchange->record->learning_rate);
    exchange->record->scales_loss = t->model->share.compute == DS_F16;
    exchange->record->asks = trainer_asks(t);
    DS_TRY(
        t->device->ops->copy(t->compute, t->record, exchange->record, DS_STEP_RECORD_HOST_BYTES));
    return inject_into_step(t, step);
}

/* ---- reading back */

static uint64_t host_peak_bytes(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024u : 0;
}

/* Spans are used in turn as the exchanges are. */
static void fill_accounts(const struct ds_trainer *t, struct ds_step_report *report)
{
    struct ds_accounts accounts;

    report->actions = t->train_list.actions;
    report->spans = ds_timeline_spans(t->timeline, report->step & 1, &report->span_count);
    accounts = ds_accounts_of(&t->train_list, report->spans, report->span_count);
    report->arithmetic_s = (double)accounts.arithmetic_ns * 1e-9;
    report->wait_comm_s = (double)accounts.wait_comm_ns * 1e-9;
    report->bubble_s = (double)accounts.bubble_ns * 1e-9;
    report->wait_offload_s = (double)accounts.wait_offload_ns * 1e-9;
    report->wait_checkpoint_s += (double)accounts.wait_copy_ns * 1e-9;
}

/* A step's time is the device's: the host may come to its numbers late, behind the queue of the step after it. The
 * first, and one behind an evaluation, begin by the host's clock, which the device's keeps to but for how well it was set. */
static void fill_report(struct ds_trainer *t, const struct trainer_exchange *exchange,
                        struct ds_step_report *report)
{
    const struct ds_step_record *r = exchange->result;
    const struct ds_config *config = t->config;
    const uint64_t ended_ns = *exchange->ended_ns;
    const uint64_t positions = config->train.global_batch_size * config->train.seq_length;

    t->tokens += positions;
    *report = (struct ds_step_report){
        .step = exchange->step,
        .trained_tokens = r->trained_tokens,
        .tokens = t->tokens,
        .loss = r->trained_tokens ? r->loss_sum / (double)r->trained_tokens : NAN,
        .grad_norm = r->norm,
        .learning_rate = r->learning_rate,
        .step_s = ended_ns > t->last_end_ns ? (double)(ended_ns - t->last_end_ns) * 1e-9 : 0,
        .wait_data_s = (double)exchange->waited_data_ns * 1e-9,
        .wait_checkpoint_s = (double)t->waited_checkpoint_ns * 1e-9,
        .skipped = r->skipped,
        .is_skipped = r->skip != 0,
        .has_loss_scale = t->model->share.compute == DS_F16,
        .loss_scale = r->loss_scale,
        .device_peak_bytes = ds_memory_total(&t->memory, DS_MEMORY_DEVICE),
        .host_peak_bytes = host_peak_bytes(),
    };
    t->waited_checkpoint_ns = 0;
    fill_accounts(t, report);
    report->tokens_per_s = report->step_s > 0 ? (double)positions / report->step_s : 0;
    t->last_end_ns = ended_ns;
}

/* An evaluation belongs to the step before it and to its line of numbers; its time to nobody's. */
static ds_status evaluate_after(struct ds_trainer *t, struct ds_step_report *report)
{
    uint64_t tokens = 0;

    DS_TRY(ds_trainer_evaluate(t, &report->eval_loss, &tokens));
    report->has_eval = 1;
    t->last_end_ns = ds_clock_mono_ns(t->options.clock);
    return DS_OK;
}

static int evaluates_after(const struct ds_trainer *t, uint64_t step)
{
    const uint64_t interval = t->config->train.eval_interval;

    return t->eval_data &&
           (step == t->config->train.steps || (interval > 0 && step % interval == 0));
}

static ds_status finish_step(struct ds_trainer *t, struct trainer_exchange *exchange)
{
    struct ds_step_report report;

    if (exchange->step == 0)
        return DS_OK;
    DS_TRY(t->device->ops->event_sync(exchange->done));
    DS_TRY(ds_zero_files_status(t->zero));
    fill_report(t, exchange, &report);
    exchange->step = 0;
    exchange->asked = exchange->result->asked;
    rollback_watch(t, exchange->result);
    DS_TRY(trainer_note_progress(t, exchange->result));
    if (report.step == t->first_step)
        trainer_tell_start(t, "first step done");
    if (report.is_skipped)
        ds_info("step %llu skipped: %s (%llu skipped so far)", (unsigned long long)report.step,
                report.trained_tokens ? "loss or gradient is not finite" : "no token was trained",
                (unsigned long long)report.skipped);
    if (evaluates_after(t, report.step))
        DS_TRY(evaluate_after(t, &report));
    return t->options.on_step ? t->options.on_step(t->options.user, &report) : DS_OK;
}

/* ---- the loop */

/* The first steps are queued action by action: they decide what a graph then repeats. So is one that waits for what
 * was recorded outside, and one that has no updates to make where others have. */
#define STEPS_BEFORE_GRAPHS 2

static int is_as_others(const struct ds_trainer *t)
{
    const int has_late = t->train_list.updates == DS_UPDATES_LATE;

    return !ds_zero_is_held(t->zero) && ds_executor_has_pending(t->executor) == has_late;
}

static ds_status run_list(struct ds_trainer *t, uint64_t step)
{
    const int is_marked = step >= t->options.marked_first && step <= t->options.marked_last;
    const struct ds_executor_step marked = {&t->train_list, step & 1,
                                            is_marked ? DS_TIMELINE_ALL : DS_TIMELINE_WAITS};

    return t->config->run.graphs && step >= t->first_step + STEPS_BEFORE_GRAPHS && is_as_others(t)
               ? ds_executor_step_graph(t->executor, &marked)
               : ds_executor_step(t->executor, &marked);
}

static ds_status queue_step(struct ds_trainer *t, struct trainer_exchange *exchange, uint64_t step)
{
    const struct ds_device_ops *ops = t->device->ops;

    DS_TRY(send_step(t, exchange, step));
    DS_TRY(run_list(t, step));
    exchange->step = step;
    DS_TRY(ops->copy(t->compute, exchange->result, t->record, sizeof *t->record));
    DS_TRY(ops->stream_stamp(t->compute, exchange->ended_ns));
    return ops->event_record(exchange->done, t->compute);
}

/* After the first step all shapes have been met. Before anything is frozen, and before a graph repeats it. */
static ds_status settle_first_step(struct ds_trainer *t)
{
    DS_TRY(tuning_settle(&(struct tuning){t->device, t->options.world, t->options.fs}));
    ds_memory_freeze(&t->memory);
    t->is_settled = 1;
    return DS_OK;
}

static ds_status make_step(struct ds_trainer *t, uint64_t step)
{
    struct trainer_exchange *exchange = &t->exchanges[step & 1];
    const int is_first = !t->is_settled;
    int is_done = 0;

    trainer_enter(t, "step", step, trainer_deadline_ns(t));
    DS_TRY(finish_step(t, exchange)); /* of step - 2, whose buffers come next */
    DS_TRY(queue_step(t, exchange, step));
    if (step ==
        t->config->train.steps) /* its save waits for the last one, and that for its numbers */
        DS_TRY(finish_step(t, &t->exchanges[(step - 1) & 1]));
    DS_TRY(trainer_save_after(t, step));
    if (is_first)
        trainer_tell_start(t, "first step queued"); /* algorithms were timed */
    DS_TRY(finish_step(t, &t->exchanges[(step - 1) & 1]));
    DS_TRY(t->device->ops->event_query(exchange->done, &is_done));
    if (is_done || step == t->config->train.steps || step == t->options.settle_step ||
        evaluates_after(t, step))
        DS_TRY(finish_step(t, exchange));
    DS_TRY(trainer_poll_saver(t));
    return is_first ? settle_first_step(t) : DS_OK;
}

ds_status trainer_settle(struct ds_trainer *t)
{
    const int is_odd_later = t->exchanges[1].step > t->exchanges[0].step;

    DS_TRY(finish_step(t, &t->exchanges[!is_odd_later]));
    return finish_step(t, &t->exchanges[is_odd_later]);
}

/* No step comes that others' parts of it would be done with: all ranks wait for theirs. */
static ds_status make_up(struct ds_trainer *t)
{
    if (!ds_executor_has_pending(t->executor))
        return DS_OK;
    DS_TRY(ds_executor_finish(t->executor));
    DS_TRY(t->device->ops->stream_sync(t->comm));
    return t->device->ops->stream_sync(t->compute);
}

static ds_status run_steps(struct ds_trainer *t)
{
    t->last_end_ns = ds_clock_mono_ns(t->options.clock);
    while (t->next_step <= t->config->train.steps) {
        const uint64_t step = t->next_step++;

        DS_TRY(make_step(t, step));
        DS_TRY(trainer_heed(t, step));
    }
    DS_TRY(make_up(t));
    return trainer_wait_saver(t);
}

/* A failure in the middle of a step: peers may be waiting where this rank will never come. */
ds_status ds_trainer_run(struct ds_trainer *t)
{
    ds_status st = run_steps(t);

    if (st != DS_OK && st != DS_LEAVE && st != DS_ERR_DIVERGED) /* those are all ranks' */
        ds_mesh_poison(t->mesh);
    return st;
}

ds_status ds_trainer_open(const struct ds_trainer_options *options, struct ds_trainer **out)
{
    struct ds_trainer *t = calloc(1, sizeof *t);
    ds_status st;

    if (!t)
        return ds_fail(DS_ERR_NO_MEMORY, "the trainer");
    t->options = *options;
    t->config = options->config;
    t->first_step = t->next_step = 1;
    trainer_enter(t, "start", 0, trainer_deadline_ns(t));
    st = trainer_assemble(t);
    if (st != DS_OK) {
        if (t->mesh && (st == DS_ERR_COMM || st == DS_ERR_DEADLINE))
            ds_mesh_poison(t->mesh); /* queued work would be waited for, and may never end */
        ds_trainer_close(t);
        return st;
    }
    *out = t;
    return DS_OK;
}

void ds_trainer_close(struct ds_trainer *t)
{
    if (!t)
        return;
    t->options.recorder = NULL; /* it may be closed by now: nobody watches how a trainer ends */
    trainer_dismantle(t);
    free(t);
}

/* ---- looking in */

const struct ds_model *ds_trainer_model(const struct ds_trainer *t)
{
    return t->model;
}

const struct ds_memory *ds_trainer_memory(const struct ds_trainer *t)
{
    return &t->memory;
}

uint64_t ds_trainer_filed_bytes(const struct ds_trainer *t, enum ds_zero_kind kind)
{
    return ds_zero_filed_bytes(t->zero, kind);
}

uint64_t ds_trainer_filed_kept_bytes(const struct ds_trainer *t)
{
    uint64_t bytes = 0;

    for (uint32_t drive = 0; drive < t->homes.drive_count; drive++)
        bytes += ds_executor_file_bytes(t->executor, drive);
    return bytes;
}

struct ds_device *ds_trainer_device(const struct ds_trainer *t)
{
    return t->device;
}

uint64_t ds_trainer_first_step(const struct ds_trainer *t)
{
    return t->first_step;
}

uint64_t ds_trainer_sample_count(const struct ds_trainer *t)
{
    return t->train_data ? ds_dataset_sample_count(t->train_data) : 0;
}

uint64_t ds_trainer_micro_count(const struct ds_trainer *t)
{
    return t->micro_count;
}

uint32_t ds_trainer_stage(const struct ds_trainer *t, uint32_t *stage_count)
{
    *stage_count = t->mesh_shape.size[DS_AXIS_PP];
    return t->place.at[DS_AXIS_PP];
}
