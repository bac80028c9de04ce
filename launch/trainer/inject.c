/* inject.c - faults on request; the kinds are in inject.h. */
#include "inject.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum inject_kind { INJECT_HANG, INJECT_FAIL, INJECT_KILL, INJECT_NAN, INJECT_KIND_COUNT };
static const char *const kind_names[INJECT_KIND_COUNT] = {"hang", "fail", "kill", "nan"};

/* Is it this rank's turn, and at which step? The text was checked with the configuration. */
static int is_mine(const struct ds_trainer *t, uint64_t *step, enum inject_kind *kind)
{
    const char *text = t->config->debug.inject;
    size_t kind_length = strcspn(text, ":");
    char *end;
    uint64_t rank;

    if (text[kind_length] == '\0')
        return 0;
    for (int i = 0; i < INJECT_KIND_COUNT; i++)
        if (strlen(kind_names[i]) == kind_length && strncmp(text, kind_names[i], kind_length) == 0)
            *kind = (enum inject_kind)i;
    rank = strtoull(text + kind_length + 1, &end, 10);
    if (*end != ':')
        return 0;
    *step = strtoull(end + 1, NULL, 10);
    return rank == t->options.world->rank;
}

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
    enum inject_kind kind = INJECT_KIND_COUNT;

    uint64_t due = 0;

    if (!t->config->debug.inject[0] || !is_mine(t, &due, &kind))
        return DS_OK;
    if (kind == INJECT_NAN && step == due + 1)
        return mend_rotary(t);
    if (step != due)
        return DS_OK;
    switch (kind) {
    case INJECT_HANG:
        ds_warn("debug.inject: this rank stands still now");
        for (;;)
            ds_clock_sleep_ns(t->options.clock, 1000000000u);
    case INJECT_FAIL:
        return ds_fail(DS_ERR_IO, "debug.inject: a failure in step %llu", (unsigned long long)step);
    case INJECT_KILL:
        (void)raise(SIGKILL);
        return DS_OK;
    case INJECT_NAN:
        return spoil_rotary(t);
    case INJECT_KIND_COUNT:
        break;
    }
    return DS_OK;
}
