/* record.c - the step record: what a step starts from, and the verdict that ends its arithmetic. Both
 * are a few numbers and run as queued work, since the record lives in device memory. */
#include "kernels.h"
#include "launch.h"

#include <float.h>
#include <math.h>

#define NORM_FLOOR 1e-6 /* PyTorch's: a clip of a zero gradient stays finite */

/* PyTorch's GradScaler, but for the floor: what is divided by the scale stays finite. */
#define SCALE_FIRST     65536.0f
#define SCALE_MIN       FLT_MIN
#define SCALE_GROWTH    2.0f
#define SCALE_BACKOFF   0.5f
#define GROWTH_INTERVAL 2000

static void begin_local(struct ds_step_record *record)
{
    record->trained_tokens = record->local_tokens;
}

static void begin_global(struct ds_step_record *record)
{
    record->inverse_tokens =
        record->trained_tokens ? (float)(1.0 / (double)record->trained_tokens) : 0.0f;
    if (record->scales_loss && record->next_loss_scale == 0)
        record->next_loss_scale = SCALE_FIRST;
    record->loss_scale = record->scales_loss ? record->next_loss_scale : 1.0f;
    record->loss_sum = 0;
    record->norm_squared = 0;
}

static ds_status step_begin_work(void *args, int *done)
{
    const struct ds_step_begin_args *a = args;

    if (a->is_global)
        begin_global(a->record);
    else
        begin_local(a->record);
    *done = 1;
    return DS_OK;
}

static float clip_factor(double norm, float clip)
{
    double factor = clip / (norm + NORM_FLOOR);

    return clip == 0 || factor > 1 ? 1.0f : (float)factor;
}

static void scale_next(struct ds_step_record *record, int is_finite)
{
    const float grown = record->next_loss_scale * SCALE_GROWTH;

    if (!is_finite) {
        record->next_loss_scale = fmaxf(record->next_loss_scale * SCALE_BACKOFF, SCALE_MIN);
        record->finite_count = 0;
    } else if (++record->finite_count == GROWTH_INTERVAL) {
        record->next_loss_scale = isfinite(grown) ? grown : record->next_loss_scale;
        record->finite_count = 0;
    }
}

static ds_status verdict_work(void *args, int *done)
{
    const struct ds_verdict_args *a = args;
    struct ds_step_record *record = a->record;
    double norm = sqrt(record->norm_squared) / record->loss_scale;
    double update = (double)record->updates + 1;
    int is_finite;

    record->norm = (float)norm;
    is_finite = isfinite(record->norm) && isfinite(record->loss_sum);
    record->skip = !is_finite || record->trained_tokens == 0;
    record->clip_factor = record->skip ? 0.0f : clip_factor(norm, a->grad_clip);
    record->correction1 = (float)(1 / (1 - pow(a->beta1, update)));
    record->correction2 = (float)(1 / (1 - pow(a->beta2, update)));
    record->updates += !record->skip;
    record->skipped += record->skip != 0;
    if (record->scales_loss && record->trained_tokens > 0)
        scale_next(record, is_finite);
    *done = 1;
    return DS_OK;
}

ds_status kernel_step_begin(struct ds_stream *stream, const struct ds_step_begin_args *args)
{
    return kernel_launch(stream, step_begin_work, args, sizeof *args);
}

ds_status kernel_verdict(struct ds_stream *stream, const struct ds_verdict_args *args)
{
    return kernel_launch(stream, verdict_work, args, sizeof *args);
}
