/* record.c - the step record: what a step starts from, and the verdict that ends its arithmetic. Both
 * are a few numbers and run as queued work, since the record lives in device memory. */
#include "record.h"

#include "kernels.h"
#include "launch.h"

static ds_status step_begin_work(void *args, int *done)
{
    const struct ds_step_begin_args *a = args;

    if (a->is_global)
        record_begin_global(a->record);
    else
        record_begin_local(a->record);
    *done = 1;
    return DS_OK;
}

static ds_status verdict_work(void *args, int *done)
{
    record_verdict(args);
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
