/* rollback.c - the way back. An epoch is claimed first, so that a launch that has taken the run over is not disturbed;
 * what is newer than the place is buried; then an older checkpoint is loaded as a launch loads it. Killed at any moment
 * in between, the next launch finds either the old epoch, which goes wrong again, or the new one. */
#include "rollback.h"

#include "config/config.h"
#include "trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[SPIKE_KIND_COUNT] = {
    [SPIKE_LOSS] = "loss", [SPIKE_NORM] = "grad_norm", [SPIKE_NOT_FINITE] = "not_finite"};

/* ---- watching */

static int is_watched(const struct ds_trainer *t)
{
    return t->saver && t->config->checkpoint.rollback == DS_ROLLBACK_AUTO &&
           t->options.world->rank == 0;
}

void rollback_watch(struct ds_trainer *t, const struct ds_step_record *r)
{
    struct rollback *rollback = &t->rollback;
    const struct spikes_step step = {.step = r->step,
                                     .loss = r->loss_sum / (double)r->trained_tokens,
                                     .norm = (double)r->norm,
                                     .norm_limit = t->config->train.grad_clip,
                                     .is_finite = !r->skip,
                                     .is_skip_counted = !r->scales_loss || r->loss_scale <= 1};

    if (is_watched(t) && rollback->found.kind == SPIKE_NONE && r->trained_tokens > 0)
        rollback->found = spikes_look(&rollback->spikes, &step);
}

/* ---- in manifests */

void rollback_print_past(const struct rollback *r, char to[ROLLBACK_TEXT_BYTES])
{
    size_t used = 0;

    to[0] = '\0';
    for (uint32_t i = 0; i < r->past_count; i++)
        used += (size_t)snprintf(to + used, ROLLBACK_TEXT_BYTES - used, "%s%" PRIu64 ":%" PRIu64,
                                 i ? "," : "", r->past[i].step, r->past[i].attempt);
}

static int parse_past(const char *text, struct rollback *out)
{
    char again[ROLLBACK_TEXT_BYTES];
    const char *at = text;

    for (int used = 0; *at; at += used + (at[used] == ',')) {
        struct rollback_past *past = &out->past[out->past_count];

        if (out->past_count == ROLLBACKS_AT_ONCE ||
            sscanf(at, "%16" SCNu64 ":%4" SCNu64 "%n", &past->step, &past->attempt, &used) != 2)
            return 0;
        out->past_count++;
    }
    rollback_print_past(out, again);
    return strcmp(again, text) == 0;
}

/* Who knows what the other one tried last is ahead, or as far: a base of an older version knows nothing. */
int rollback_recall_past(struct rollback *r, const char *past)
{
    struct rollback base = {.past_count = 0};
    int is_ahead = r->past_count == 0;

    if (!parse_past(past, &base))
        return 0;
    for (uint32_t i = 0; i < base.past_count && !is_ahead; i++)
        is_ahead = base.past[i].step == r->past[r->past_count - 1].step &&
                   base.past[i].attempt == r->past[r->past_count - 1].attempt;
    if (is_ahead) {
        memcpy(r->past, base.past, sizeof r->past);
        r->past_count = base.past_count;
    }
    return 1;
}

ds_status rollback_write(const struct rollback *r, struct ds_values *values)
{
    char losses[SPIKES_TEXT_BYTES], norms[SPIKES_TEXT_BYTES];
    char skips[DS_SKIPS_TEXT_BYTES], past[ROLLBACK_TEXT_BYTES];

    spikes_print(&r->spikes, losses, norms);
    ds_skips_print(&r->skips, skips);
    rollback_print_past(r, past);
    DS_TRY(ds_values_set(values, "rollback.losses", losses));
    DS_TRY(ds_values_set(values, "rollback.norms", norms));
    DS_TRY(ds_values_set(values, "rollback.past", past));
    return ds_values_set(values, "rollback.skips", skips);
}

ds_status rollback_read(const struct ds_values *values, struct rollback *out)
{
    const char *losses = ds_values_get(values, "rollback.losses");
    const char *norms = ds_values_get(values, "rollback.norms");
    const char *skips = ds_values_get(values, "rollback.skips");
    const char *past = ds_values_get(values, "rollback.past");
    struct rollback r = {.past_count = 0};

    if (!losses && !norms && !skips && !past) /* written before there were any */
        return DS_OK;
    if (!losses || !norms || !skips || !past || !spikes_parse(losses, norms, &r.spikes) ||
        !ds_skips_parse(skips, &r.skips) || !parse_past(past, &r))
        return ds_fail(DS_ERR_DATA, "the checkpoint: its values 'rollback.*' cannot be read");
    *out = r;
    return DS_OK;
}

/* ---- deciding: rank 0 */

#define HEEDED_LATE \
    4 /* steps from where it is sure to where it is done, at most: their numbers are read later */

/* Half of what is left out lies before the first bad step, and that before the one at which it was sure. */
uint64_t rollback_margin(const struct ds_config *config)
{
    if (config->checkpoint.rollback == DS_ROLLBACK_OFF)
        return 0;
    return config->checkpoint.rollback_skip / 2 + 1 + SPIKES_LATE + HEEDED_LATE;
}

struct plan {
    uint64_t step_max; /* newer checkpoints are buried */
    uint64_t attempt;
    struct ds_batch_range left_out;
    struct ds_skips skips; /* with that */
};

uint64_t rollback_attempt(const struct rollback *r, uint64_t step, uint64_t reach)
{
    const struct rollback_past *last = r->past_count ? &r->past[r->past_count - 1] : NULL;
    const uint64_t attempt = last && step <= last->step + reach ? last->attempt + 1 : 1;
    uint32_t recent = 0;

    for (uint32_t i = 0; i < r->past_count; i++)
        recent += r->past[i].step + ROLLBACK_STEPS > step;
    return attempt > ROLLBACK_ATTEMPTS || recent >= ROLLBACKS_AT_ONCE ? 0 : attempt;
}

static void describe(const struct spike *s, char *to, size_t bytes)
{
    const unsigned long long first = s->first;

    if (s->kind == SPIKE_NOT_FINITE)
        snprintf(to, bytes, "no step from %llu to %llu had a finite loss and gradient", first,
                 (unsigned long long)s->step);
    else
        snprintf(to, bytes, "%s %.4g in step %llu, %.4g is usual, and unusual since step %llu",
                 s->kind == SPIKE_LOSS ? "loss" : "gradient norm", s->value,
                 (unsigned long long)s->step, s->usual, first);
}

/* The newest that is old enough; else, where retention has left none, the oldest from before it went wrong.
 * UINT64_MAX: there is none. */
static ds_status find_step(const struct ds_trainer *t, uint64_t wanted, uint64_t *out)
{
    const uint64_t first = t->rollback.found.first;
    struct ds_checkpoint_list list;

    *out = UINT64_MAX;
    DS_TRY(trainer_list_checkpoints(t, &list));
    for (size_t i = 0; i < list.count; i++) {
        const struct ds_checkpoint_entry *e = &list.entries[i];

        if (e->standing != DS_CHECKPOINT_GOOD || e->id.step >= first)
            continue;
        if (*out == UINT64_MAX || (*out > wanted && e->id.step < *out))
            *out = e->id.step;
    }
    ds_checkpoint_list_fini(&list);
    return DS_OK;
}

static ds_status decide(const struct ds_trainer *t, struct plan *plan)
{
    const struct rollback *r = &t->rollback;
    const uint64_t width = t->config->checkpoint.rollback_skip, half = width / 2;
    const uint64_t first = ds_skips_batch(&r->skips, r->found.first);
    const uint64_t last = ds_skips_batch(&r->skips, r->found.step);
    char what[256];

    *plan = (struct plan){.attempt = rollback_attempt(r, r->found.first, width),
                          .left_out = {first > half ? first - half : 1, last + (half ? half : 1)},
                          .skips = r->skips};
    describe(&r->found, what, sizeof what);
    if (plan->attempt == 0)
        return ds_fail(DS_ERR_DIVERGED,
                       "diverged: %s; going back and leaving data out has not helped", what);
    const uint64_t wanted = ds_skips_step_before(&r->skips, plan->left_out.begin);
    DS_TRY(find_step(t, wanted, &plan->step_max));
    if (plan->step_max == UINT64_MAX)
        return ds_fail(DS_ERR_DIVERGED,
                       "diverged: %s; there is no checkpoint from before to go back to", what);
    if (plan->step_max > wanted)
        plan->left_out.begin = ds_skips_batch(&r->skips, plan->step_max + 1);
    if (!ds_skips_add(&plan->skips, plan->left_out))
        return ds_fail(DS_ERR_DIVERGED, "diverged: %s; data were left out %d times already", what,
                       DS_SKIPS_MAX);
    ds_warn("%s: back to the checkpoint of step %llu, and on without batches %llu to %llu", what,
            (unsigned long long)plan->step_max, (unsigned long long)plan->left_out.begin,
            (unsigned long long)plan->left_out.end - 1);
    return DS_OK;
}

/* ---- going back */

static ds_status bury(struct ds_trainer *t, const struct plan *plan)
{
    struct ds_checkpoint_list list;
    ds_status st = DS_OK;
    char why[128];

    snprintf(why, sizeof why,
             "rollback of epoch %" PRIu64 ": training went wrong at step %" PRIu64 "\n",
             ds_checkpoint_dir_epoch(t->checkpoint_dir), t->rollback.found.first);
    DS_TRY(trainer_list_checkpoints(t, &list));
    for (size_t i = 0; i < list.count && st == DS_OK; i++)
        if (list.entries[i].standing == DS_CHECKPOINT_GOOD &&
            list.entries[i].id.step > plan->step_max)
            st = ds_checkpoint_bury(t->checkpoint_dir, &list.entries[i].id, why);
    ds_checkpoint_list_fini(&list);
    return st;
}

static ds_status claim_and_bury(struct ds_trainer *t, const struct plan *plan)
{
    DS_TRY(ds_checkpoint_claim(t->checkpoint_dir));
    t->launch.epoch = ds_checkpoint_dir_epoch(t->checkpoint_dir);
    t->launch.has_mirror = ds_checkpoint_has_mirror(t->checkpoint_dir);
    return bury(t, plan);
}

static void remember(struct rollback *r, const struct plan *plan)
{
    if (r->past_count == ROLLBACKS_AT_ONCE)
        memmove(r->past, r->past + 1, --r->past_count * sizeof *r->past);
    r->past[r->past_count++] = (struct rollback_past){r->found.first, plan->attempt};
}

static const char *real_text(double value, char to[32])
{
    snprintf(to, 32, isfinite(value) ? "%.9g" : "null", value);
    return to;
}

/* For people; if it cannot be written, training goes on. */
static void write_incident(const struct ds_trainer *t, const struct plan *plan, uint64_t from)
{
    const struct spike *s = &t->rollback.found;
    char path[DS_TEXT_MAX + 64], text[1024], value[32], usual[32];

    if (t->config->run.dir[0] == '\0')
        return;
    snprintf(path, sizeof path, "%s/incidents", t->config->run.dir);
    (void)ds_fs_mkdirs(t->options.fs, path, 0777);
    snprintf(path, sizeof path, "%s/incidents/rollback-%06" PRIu64 ".json", t->config->run.dir,
             t->launch.epoch);
    const int bytes = snprintf(
        text, sizeof text,
        "{\"what\": \"rollback\", \"why\": \"%s\", \"first_step\": %" PRIu64 ", \"step\": %" PRIu64
        ", \"value\": %s, \"usual\": %s, \"attempt\": %" PRIu64 ", \"from_step\": %" PRIu64
        ", \"to_step\": %" PRIu64 ", \"to_epoch\": %" PRIu64 ", \"epoch\": %" PRIu64
        ", \"left_out_first\": %" PRIu64 ", \"left_out_last\": %" PRIu64 "}\n",
        names[s->kind], s->first, s->step, real_text(s->value, value), real_text(s->usual, usual),
        plan->attempt, from, t->launch.base.step, t->launch.base.epoch, t->launch.epoch,
        plan->left_out.begin, plan->left_out.end - 1);
    if (ds_fs_write_file(t->options.fs, path, text, (size_t)bytes) != DS_OK)
        ds_warn("%s: not written; training goes on", path);
}

/* The window is that of the checkpoint; what was tried is not. */
static ds_status conclude(struct ds_trainer *t, const struct plan *plan, uint64_t from)
{
    struct rollback *r = &t->rollback, then = {.past_count = 0};

    t->rollback.skips = plan->skips;
    ds_loader_skip(t->train_loader, &plan->skips);
    if (t->options.world->rank != 0)
        return DS_OK;
    DS_TRY(rollback_read(&t->loaded.state, &then));
    remember(r, plan);
    r->spikes = then.spikes;
    DS_TRY(trainer_write_base(t));
    write_incident(t, plan, from);
    r->found = (struct spike){.kind = SPIKE_NONE};
    return DS_OK;
}

static ds_status quiet(struct ds_trainer *t)
{
    DS_TRY(ds_executor_finish(t->executor));
    DS_TRY(trainer_settle(t));
    DS_TRY(t->device->ops->stream_sync(t->comm));
    DS_TRY(t->device->ops->stream_sync(t->compute));
    DS_TRY(ds_saver_wait(t->saver));
    if (ds_saver_is_idle(t->saver))
        return DS_OK;
    return t->options.world->rank == 0
               ? ds_fail(DS_ERR_IO,
                         "the run should go back to a checkpoint, but their storage does "
                         "not answer")
               : DS_ERR_IO;
}

ds_status trainer_roll_back(struct ds_trainer *t)
{
    struct ds_comm *world = t->options.world;
    const int is_leader = world->rank == 0;
    struct plan plan = {.attempt = 0};
    int found = 0;

    trainer_enter(t, "rollback", t->next_step, trainer_deadline_ns(t));
    DS_TRY(quiet(t));
    const uint64_t from = t->progress.step;
    DS_TRY(ds_comm_agreed(world, ds_saver_stop(t->saver, &t->checkpoint_dir)));
    if (is_leader) /* one that does not answer is not looked at either */
        t->launch.has_mirror = ds_checkpoint_has_mirror(t->checkpoint_dir);
    DS_TRY(ds_comm_agreed(world, is_leader ? decide(t, &plan) : DS_OK));
    DS_TRY(ds_comm_broadcast(world, &plan, sizeof plan, 0, NULL));
    DS_TRY(ds_comm_agreed(world, is_leader ? claim_and_bury(t, &plan) : DS_OK));
    DS_TRY(ds_comm_broadcast(world, &t->launch, sizeof t->launch, 0, NULL));
    DS_TRY(trainer_load_checkpoint(t, plan.step_max, &found));
    DS_ASSERT(found); /* there was one when it was decided; one that does not verify is a failure */
    DS_TRY(ds_comm_agreed(world, conclude(t, &plan, from)));
    DS_TRY(trainer_start_saver(t, 0));
    t->exchanges[0].asked = t->exchanges[1].asked = 0;
    t->last_end_ns = ds_clock_mono_ns(t->options.clock);
    return DS_OK;
}
