/* lr.c - learning rate schedules, pure. The shapes are Hugging Face's (get_*_schedule_with_warmup and
 * get_wsd_schedule), taken at s = step - 1, but warm-up rises to step / warmup_steps, so that the very
 * first update is not lost with a rate of zero. */
#include "dstrain/optim.h"

#include <math.h>

static double clamp01(double x)
{
    return x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x;
}

/* how far the decay has come, 0..1, when `done` of `length` steps are over */
static double progress(uint64_t done, uint64_t length)
{
    return clamp01((double)done / (double)(length > 0 ? length : 1));
}

double ds_lr_at(const struct ds_lr_schedule *schedule, uint64_t step)
{
    const uint64_t warmup = schedule->warmup_steps, s = step - 1;
    const double pi = 3.14159265358979323846;
    const double range = schedule->peak - schedule->min;
    uint64_t decay = schedule->decay_steps;

    DS_ASSERT(step >= 1);
    if (s < warmup)
        return schedule->peak * (double)step / (double)warmup;
    switch (schedule->kind) {
    case DS_LR_CONSTANT:
        return schedule->peak;
    case DS_LR_LINEAR:
    case DS_LR_COSINE: {
        if (decay == 0)
            decay = schedule->total_steps > warmup ? schedule->total_steps - warmup : 1;
        double x = progress(s - warmup, decay);
        double shape = schedule->kind == DS_LR_LINEAR ? 1.0 - x : 0.5 * (1.0 + cos(pi * x));
        return schedule->min + range * shape;
    }
    case DS_LR_WSD: {
        uint64_t start = schedule->total_steps > decay ? schedule->total_steps - decay : 0;
        if (start < warmup)
            start = warmup;
        return s < start ? schedule->peak
                         : schedule->min + range * (1.0 - progress(s - start, decay));
    }
    }
    DS_ASSERT(!"a kind of schedule");
    return 0.0;
}
