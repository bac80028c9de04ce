/* adamw.c - AdamW over the spans of a shard. Whether the step counts, its rate and its corrections
 * are read from the step record when the work runs. */
#include "adamw.h"

#include "kernels.h"
#include "launch.h"

#define PIECE_ELEMS 4096

struct states {
    float *master, *param, *m, *v;
    const float *grad;
};

KERNEL_CLONES static void update_piece(const struct states *states, size_t start, size_t count,
                                       const struct adamw_step *step)
{
    const struct adamw_step s = *step; /* values of its own: stores cannot change them */
    float *master = states->master + start, *m = states->m + start, *v = states->v + start;
    const float *grad = states->grad + start;

    for (size_t i = 0; i < count; i++)
        master[i] = adamw_element(master[i], grad[i], &m[i], &v[i], &s);
}

static void publish_piece(const struct states *states, size_t start, size_t count)
{
    if (states->param && states->param != states->master)
        for (size_t i = start; i < start + count; i++)
            states->param[i] = states->master[i];
}

/* Called by all threads of a region; they share out the pieces. */
static void update_span(const struct states *states, const struct ds_adamw_span *span,
                        const struct adamw_step *step)
{
#pragma omp for schedule(static) nowait /* spans do not overlap */
    for (uint64_t at = 0; at < span->count; at += PIECE_ELEMS) {
        uint64_t left = span->count - at, start = span->start + at;
        uint64_t count = left < PIECE_ELEMS ? left : PIECE_ELEMS;

        update_piece(states, start, count, step);
        publish_piece(states, start, count);
    }
}

static ds_status adamw_work(void *args, int *done)
{
    const struct ds_adamw_args *a = args;
    const struct ds_step_record *record = a->record;
    const struct states states = {a->master.data, a->param.data, a->exp_avg.data,
                                  a->exp_avg_sq.data, a->grad.data};
    uint64_t count = kernel_elems(&a->master);

    *done = 1;
    if (record->skip)
        return DS_OK;
#pragma omp parallel if (count > PIECE_ELEMS)
    for (size_t i = 0; i < a->span_count; i++) {
        const struct ds_adamw_span *span = &a->spans[i];
        const struct adamw_step step = {
            .beta1 = a->beta1,
            .beta2 = a->beta2,
            .epsilon = a->epsilon,
            .rate = record->learning_rate,
            .decay = span->weight_decay,
            .correction1 = record->correction1,
            .correction2 = record->correction2,
            .gradient_factor = record->clip_factor / record->loss_scale,
        };

        DS_ASSERT(span->start <= count && span->count <= count - span->start);
        update_span(&states, span, &step);
    }
    return DS_OK;
}

ds_status kernel_adamw(struct ds_stream *stream, const struct ds_adamw_args *args)
{
    DS_ASSERT(kernel_elems(&args->master) == kernel_elems(&args->grad));
    KERNEL_WANTS("adamw", args, master, DS_F32);
    KERNEL_WANTS("adamw", args, param, DS_F32);
    KERNEL_WANTS("adamw", args, grad, DS_F32);
    KERNEL_WANTS("adamw", args, exp_avg, DS_F32);
    KERNEL_WANTS("adamw", args, exp_avg_sq, DS_F32);
    return kernel_launch(stream, adamw_work, args, sizeof *args);
}
