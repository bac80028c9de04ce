/* inject.c - faults on request; the kinds are in config/inject_text.h. */
#include "inject.h"

#include "config/inject_text.h"

#include "dstrain/random.h"

#include <math.h>
#include <signal.h>

static ds_status copy_float(struct ds_trainer *t, float *to, const float *from)
{
    DS_TRY(t->device->ops->copy(t->compute, to, from, sizeof *to));
    return t->device->ops->stream_sync(t->compute);
}

/* A cosine of this rank is NaN for one step: nothing but its own arithmetic reads it, so that it cannot
 * travel except through the loss and the gradients. */
static ds_status spoil_rotary(struct ds_trainer *t)
{
    const float bad = NAN;

    DS_TRY(copy_float(t, &t->spoilt, t->rotary));
    return copy_float(t, t->rotary, &bad);
}

static ds_status mend_rotary(struct ds_trainer *t)
{
    return copy_float(t, t->rotary, &t->spoilt);
}

ds_status inject_into_step(struct ds_trainer *t, uint64_t step)
{
    struct ds_inject inject; /* the text was checked with the configuration */

    if (!ds_inject_parse(t->config->debug.inject, &inject) || inject.rank != t->options.world->rank)
        return DS_OK;
    if (inject.kind == DS_INJECT_NAN && step == inject.step + 1)
        return mend_rotary(t);
    if (step != inject.step)
        return DS_OK;
    switch (inject.kind) {
    case DS_INJECT_HANG:
        ds_warn("debug.inject: this rank stands still now");
        for (;;)
            ds_clock_sleep_ns(t->options.clock, 1000000000u);
    case DS_INJECT_FAIL:
        return ds_fail(DS_ERR_IO, "debug.inject: a failure in step %llu", (unsigned long long)step);
    case DS_INJECT_KILL:
        ds_warn("debug.inject: this rank is killed now");
        (void)raise(SIGKILL);
        return DS_OK;
    case DS_INJECT_NAN:
        return spoil_rotary(t);
    case DS_INJECT_LABELS:
    case DS_INJECT_RATE:
    case DS_INJECT_KIND_COUNT:
        break;
    }
    return DS_OK;
}

/* ---- by all ranks alike */

static int asks_for(const struct ds_trainer *t, enum ds_inject_kind kind, uint64_t number)
{
    struct ds_inject inject;

    return ds_inject_parse(t->config->debug.inject, &inject) && inject.kind == kind &&
           number >= inject.step && number <= inject.last;
}

/* No data are to blame, so it comes again however many are left out. */
void inject_into_rate(const struct ds_trainer *t, uint64_t step, float *rate)
{
    if (asks_for(t, DS_INJECT_RATE, step))
        *rate = 1e38f;
}

void inject_into_labels(const struct ds_trainer *t, uint64_t step,
                        const struct ds_loader_batch *batch)
{
    const uint64_t number = ds_skips_batch(&t->rollback.skips, step);
    const struct ds_random random = ds_random_of(t->config->run.seed, DS_RANDOM_TEST, number);
    const uint64_t tokens = t->tokens_per_micro;

    if (!asks_for(t, DS_INJECT_LABELS, number))
        return;
    for (uint64_t i = 0; i < t->micro_count * tokens; i++) {
        const uint64_t group = i / tokens * t->share_count + t->share;

        if (batch->target[i] != DS_IGNORE_INDEX)
            batch->target[i] = (int32_t)ds_random_below(random, group * tokens + i % tokens,
                                                        t->model->config.vocab_size);
    }
}
