/* progress.c - see progress.h. */
#include "dstrain/progress.h"

#include <float.h>

#define COUNT_MAX ((uint64_t)1 << 53)

/* As steps leave it (kernels.h, the step record); 0: none has scaled its loss. Any other would go on to the weights. */
static int is_loss_scale(double scale)
{
    return scale == 0 || (scale >= FLT_MIN && scale <= FLT_MAX && (double)(float)scale == scale);
}

ds_status ds_progress_write(const struct ds_progress *p, struct ds_values *values)
{
    DS_TRY(ds_values_set_u64(values, "progress.step", p->step));
    DS_TRY(ds_values_set_u64(values, "progress.samples", p->samples));
    DS_TRY(ds_values_set_u64(values, "progress.tokens", p->tokens));
    DS_TRY(ds_values_set_u64(values, "progress.updates", p->updates));
    DS_TRY(ds_values_set_u64(values, "progress.skipped", p->skipped));
    DS_TRY(ds_values_set_real(values, "progress.next_loss_scale", (double)p->next_loss_scale));
    return ds_values_set_u64(values, "progress.finite_count", p->finite_count);
}

ds_status ds_progress_read(const char *what, const struct ds_values *values,
                           struct ds_progress *out)
{
    struct ds_progress p = {0};
    uint64_t finite_count = 0;
    double scale = 0;

    DS_TRY(ds_values_u64(values, what, "progress.step", 1, COUNT_MAX, &p.step));
    DS_TRY(ds_values_u64(values, what, "progress.samples", 0, COUNT_MAX, &p.samples));
    DS_TRY(ds_values_u64(values, what, "progress.tokens", 0, COUNT_MAX, &p.tokens));
    DS_TRY(ds_values_u64(values, what, "progress.updates", 0, p.step, &p.updates));
    DS_TRY(ds_values_u64(values, what, "progress.skipped", 0, p.step, &p.skipped));
    DS_TRY(ds_values_real(values, what, "progress.next_loss_scale", &scale));
    DS_TRY(ds_values_u64(values, what, "progress.finite_count", 0, UINT32_MAX, &finite_count));
    if (!is_loss_scale(scale))
        return ds_fail(DS_ERR_DATA,
                       "%s: 'progress.next_loss_scale' must be 0 or a float from %a on, is %a",
                       what, (double)FLT_MIN, scale);
    p.next_loss_scale = (float)scale;
    p.finite_count = (uint32_t)finite_count;
    *out = p;
    return DS_OK;
}
