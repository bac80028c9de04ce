/* optim.c - the verdict and AdamW over the parts of units that this rank updates.
 *
 * Which elements decay is a list of spans, cut once to this rank's part of a unit, strip by strip, and kept in
 * device memory, so that the update of a strip is one launch. State changes only after the verdict. */
#include "host.h"

#include "dstrain/random.h"

#include <stdlib.h>
#include <string.h>

struct ds_optim {
    /* owns */
    struct optim_spans {
        struct ds_adamw_span
            *spans; /* memory of the run's, of the device or, where the host updates, its own */
        size_t count;
    } * *spans;              /* [unit_count][strips] */
    struct optim_host *host; /* NULL: it updates nothing */
    /* borrows */
    struct ds_optim_options options;
};

/* `range` cut to the part that starts at `start`, in its coordinates. */
static struct ds_adamw_span cut(const struct ds_optim_range *range, uint64_t seed, uint64_t start,
                                uint64_t count)
{
    uint64_t lo = range->span.start, hi = range->span.start + range->span.count;
    uint64_t before, row;

    lo = lo < start ? start : lo;
    hi = hi > start + count ? start + count : hi;
    if (hi <= lo)
        return (struct ds_adamw_span){0};
    before = lo - range->span.start;
    row = range->columns > 0 ? before / range->columns : 0;
    return (struct ds_adamw_span){
        .start = lo - start,
        .count = hi - lo,
        .random_key = ds_random_of(seed, DS_RANDOM_ROUND, range->random).key,
        .random_start = range->whole_start + row * range->whole_columns,
        .columns = range->columns,
        .whole_columns = range->whole_columns,
        .column = before - row * range->columns,
        .weight_decay = range->weight_decay,
    };
}

/* Room for all of a unit's spans, however many this rank's part has: ranks of one role take the same. */
static ds_status copy_spans(struct ds_optim *optim, const struct ds_adamw_span *from, size_t count,
                            size_t count_max, int is_on_host, struct optim_spans *to)
{
    const enum ds_memory_kind kind = is_on_host ? DS_MEMORY_PINNED : DS_MEMORY_DEVICE;
    const size_t bytes = count * sizeof *from;
    struct ds_stream *compute = optim->options.compute;
    void *at = NULL;

    DS_TRY(ds_memory_take(optim->options.memory, kind, DS_MEMORY_LABEL_WORKSPACE,
                          count_max * sizeof *from, &at));
    to->spans = at;
    to->count = count;
    if (count == 0)
        return DS_OK;
    DS_TRY(compute->device->ops->copy(compute, at, from, bytes));
    return compute->device->ops->stream_sync(compute);
}

static ds_status open_strip(struct ds_optim *optim, uint32_t unit, uint64_t start, uint64_t count,
                            int is_on_host, struct optim_spans *out)
{
    const uint32_t range_count = optim->options.range_counts[unit];
    struct ds_adamw_span *spans = calloc(range_count + 1u, sizeof *spans);
    size_t span_count = 0;
    ds_status st;

    if (!spans)
        return ds_fail(DS_ERR_NO_MEMORY, "%u spans of a unit", range_count);
    for (uint32_t i = 0; i < range_count; i++) {
        struct ds_adamw_span span =
            cut(&optim->options.ranges[unit][i], optim->options.seed, start, count);
        if (span.count > 0)
            spans[span_count++] = span;
    }
    st = copy_spans(optim, spans, span_count, range_count, is_on_host, out);
    free(spans);
    return st;
}

static ds_status open_unit(struct ds_optim *optim, uint32_t unit)
{
    const struct ds_zero_strips strips = ds_zero_update_strips(optim->options.zero, unit);
    uint64_t part_start, part_count;

    ds_zero_update_part(optim->options.zero, unit, &part_start, &part_count);
    if (part_count == 0)
        return DS_OK; /* another pipeline stage has it */
    const uint32_t count = ds_zero_strip_count(&strips);
    optim->spans[unit] = calloc(count, sizeof *optim->spans[unit]);
    if (!optim->spans[unit])
        return ds_fail(DS_ERR_NO_MEMORY, "%u strips of a unit", count);
    for (uint32_t i = 0; i < count; i++) {
        const struct ds_span strip = ds_zero_strip_at(&strips, i);
        DS_TRY(open_strip(optim, unit, part_start + strip.start, strip.count,
                          ds_zero_strip_on_host(&strips, i), &optim->spans[unit][i]));
    }
    return DS_OK;
}

/* An update of these views. */
static struct ds_adamw_args args_of(const struct ds_optim *optim,
                                    const struct ds_optim_strip *strip,
                                    const struct ds_zero_state *state,
                                    const struct ds_step_record *record)
{
    const struct ds_optim_options *o = &optim->options;
    const struct optim_spans *spans = &optim->spans[strip->unit][strip->strip];

    return (struct ds_adamw_args){
        .master = state->master,
        .param = state->param,
        .grad = state->grad,
        .exp_avg = state->exp_avg,
        .exp_avg_sq = state->exp_avg_sq,
        .spans = spans->spans,
        .span_count = spans->count,
        .record = record,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .epsilon = o->epsilon,
    };
}

static int is_on_host(const struct ds_optim *optim, const struct ds_optim_strip *strip)
{
    const struct ds_zero_strips strips = ds_zero_update_strips(optim->options.zero, strip->unit);

    return ds_zero_strip_on_host(&strips, strip->strip);
}

/* What of the order is the host's, in that order. */
static ds_status open_host(struct ds_optim *optim)
{
    const struct ds_optim_options *o = &optim->options;
    uint32_t count = 0;

    for (uint32_t i = 0; i < o->order_count; i++)
        count += (uint32_t)is_on_host(optim, &o->order[i]);
    if (count == 0)
        return DS_OK;
    DS_TRY(optim_host_open(o, count, &optim->host));
    for (uint32_t i = 0; i < o->order_count; i++) {
        const struct ds_optim_strip *strip = &o->order[i];
        if (!is_on_host(optim, strip))
            continue;
        const struct ds_zero_host_strip at =
            ds_zero_host_strip(o->zero, strip->unit, strip->strip, strip->slot);
        const struct optim_job job = {args_of(optim, strip, &at.state, NULL), at.state.count, at.go,
                                      at.done};
        optim_host_add(optim->host, &job);
    }
    return DS_OK;
}

ds_status ds_optim_open(const struct ds_optim_options *options, struct ds_optim **out)
{
    struct ds_optim *optim = calloc(1, sizeof *optim);
    ds_status st;

    if (!optim)
        return ds_fail(DS_ERR_NO_MEMORY, "the optimizer");
    optim->options = *options;
    optim->spans = calloc(options->unit_count, sizeof *optim->spans);
    if (!optim->spans) {
        st = ds_fail(DS_ERR_NO_MEMORY, "spans of %u units", options->unit_count);
        goto fail;
    }
    for (uint32_t unit = 0; unit < options->unit_count; unit++)
        DS_TRY_GOTO(st, open_unit(optim, unit), fail);
    DS_TRY_GOTO(st, open_host(optim), fail);
    *out = optim;
    return DS_OK;

fail:
    ds_optim_close(optim);
    return st;
}

ds_status ds_optim_start(struct ds_optim *optim)
{
    return optim->host ? optim_host_start(optim->host) : DS_OK;
}

void ds_optim_abandon(struct ds_optim *optim)
{
    if (optim && optim->host)
        optim_host_abandon(optim->host);
}

void ds_optim_close(struct ds_optim *optim)
{
    if (!optim)
        return;
    optim_host_close(optim->host);
    for (uint32_t i = 0; optim->spans && i < optim->options.unit_count; i++)
        free(optim->spans[i]);
    free(optim->spans);
    free(optim);
}

ds_status ds_optim_verdict(struct ds_optim *optim, struct ds_step_record *record)
{
    const struct ds_optim_options *o = &optim->options;
    const struct ds_verdict_args args = {record, o->grad_clip, o->beta1, o->beta2};

    DS_TRY(ds_zero_norm(o->zero, record));
    DS_TRY(o->kernels->verdict(o->compute, &args));
    return optim->host ? optim_host_decided(optim->host, o->compute, record) : DS_OK;
}

ds_status ds_optim_update(struct ds_optim *optim, struct ds_stream *stream,
                          const struct ds_optim_strip *strip, const struct ds_step_record *record)
{
    const struct ds_optim_options *o = &optim->options;
    struct ds_zero_state state;

    if (is_on_host(optim, strip))
        return DS_OK;
    DS_TRY(ds_zero_update_begin(o->zero, stream, strip->unit, strip->strip, strip->slot, &state));
    const struct ds_adamw_args args = args_of(optim, strip, &state, record);
    DS_TRY(o->kernels->adamw(stream, &args));
    return ds_zero_update_end(o->zero, stream, strip->unit, strip->strip);
}
