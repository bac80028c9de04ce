/* adamw.c - AdamW over the spans of a shard. Whether the step counts, its rate and its corrections
 * are read from the step record when the work runs. States of 16 bits are fp32 in a tile on the way. */
#include "adamw.h"

#include "convert.h"
#include "elements.h"
#include "kernels.h"
#include "launch.h"
#include "seen.h"

#include "dstrain/master.h"
#include "dstrain/random.h"

#include <string.h>

#define TILE_ELEMS    512
#define PIECE_ELEMS   4096 /* what one thread takes at a time; smaller work stays on one thread */
#define BLOCK_NUMBERS 8    /* 16-bit numbers in a block of Philox */

struct tile {
    float master[TILE_ELEMS], grad[TILE_ELEMS], m[TILE_ELEMS], v[TILE_ELEMS];
    uint16_t random[TILE_ELEMS + BLOCK_NUMBERS];
};

struct run {
    const struct ds_adamw_args *args;
    const struct ds_adamw_span *span;
    struct adamw_step step;
};

KERNEL_CLONES KERNEL_UNSEEN static void update_elements(float *master, const float *grad, float *m,
                                                        float *v, size_t count,
                                                        const struct adamw_step *step)
{
    const struct adamw_step s = *step; /* values of its own: stores cannot change them */

    for (size_t i = 0; i < count; i++)
        master[i] = adamw_element(master[i], grad[i], &m[i], &v[i], &s);
}

/* ---- masters that are not fp32 numbers in memory */

KERNEL_CLONES static void join_masters(float *to, const uint16_t *param, const int16_t *remainder,
                                       size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = ds_master_join(param[i], remainder[i]);
}

KERNEL_CLONES static void split_masters(uint16_t *param, int16_t *remainder, const float *from,
                                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        param[i] = ds_master_weight(from[i]);
        remainder[i] = ds_master_remainder(from[i]);
    }
}

KERNEL_CLONES static void round_masters(uint16_t *param, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i++)
        param[i] = ds_master_weight(from[i]);
}

KERNEL_CLONES static void round_randomly(uint16_t *param, const float *from, const uint16_t *random,
                                         size_t count)
{
    for (size_t i = 0; i < count; i++)
        param[i] = ds_master_round_randomly(from[i], random[i]);
}

/* Numbers first .. first + count of the span's key in this step; returns where the first lies in `to`. */
static const uint16_t *draw(const struct run *run, uint64_t first, size_t count, uint16_t *to)
{
    const uint64_t step = run->args->record->step, skip = first % BLOCK_NUMBERS;
    uint64_t block = first / BLOCK_NUMBERS;

    for (size_t i = 0; i < skip + count; i += BLOCK_NUMBERS, block++) {
        const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)step,
                                     (uint32_t)(step >> 32)};
        uint32_t words[4];

        ds_random_philox(counter, run->span->random_key, words);
        for (size_t j = 0; j < BLOCK_NUMBERS; j++)
            to[i + j] = (uint16_t)(words[j / 2] >> 16 * (j % 2));
    }
    return to + skip;
}

/* Where elements first .. of the span lie in the whole parameter, as far as they follow one another there. */
static struct ds_span whole_run(const struct ds_adamw_span *span, uint64_t first, uint64_t count)
{
    const uint64_t place = span->column + first;

    if (span->columns == 0)
        return (struct ds_span){span->random_start + place, count};
    const uint64_t column = place % span->columns, left = span->columns - column;
    return (struct ds_span){span->random_start + place / span->columns * span->whole_columns +
                                column,
                            left < count ? left : count};
}

static void round_by_place(const struct run *run, size_t at, size_t count, const float *master,
                           struct tile *tile)
{
    uint16_t *param = (uint16_t *)run->args->param.data + at;

    for (size_t done = 0; done < count;) {
        const struct ds_span whole =
            whole_run(run->span, at - run->span->start + done, count - done);

        round_randomly(param + done, master + done,
                       draw(run, whole.start, whole.count, tile->random), whole.count);
        done += whole.count;
    }
}

static float *borrow_master(const struct ds_adamw_args *a, size_t at, size_t count, float *buffer)
{
    if (!a->master.data)
        return kernel_borrow(&a->param, at, count, buffer);
    if (a->master.dtype == DS_F32)
        return (float *)a->master.data + at;
    join_masters(buffer, (uint16_t *)a->param.data + at, (int16_t *)a->master.data + at, count);
    return buffer;
}

static void publish(const struct run *run, size_t at, size_t count, const float *master,
                    struct tile *tile)
{
    const struct ds_adamw_args *a = run->args;
    uint16_t *param = (uint16_t *)a->param.data + at; /* where it is bf16 */

    if (a->param.data == a->master.data || !a->param.data)
        return;
    if (a->param.dtype != DS_BF16) {
        kernel_narrow(element_to(a->param.data, at, a->param.dtype), a->param.dtype, master, count);
    } else if (!a->master.data) {
        round_by_place(run, at, count, master, tile);
    } else if (a->master.dtype == DS_I16) {
        split_masters(param, (int16_t *)a->master.data + at, master, count);
    } else {
        round_masters(param, master, count);
    }
}

static void tell_update(float *master, const float *grad, float *m, float *v, size_t bytes)
{
    kernel_tell_read(grad, bytes, 1, bytes);
    kernel_tell_write(master, bytes, 1, bytes);
    kernel_tell_write(m, bytes, 1, bytes);
    kernel_tell_write(v, bytes, 1, bytes);
}

static void update_tile(const struct run *run, size_t at, size_t count)
{
    const struct ds_adamw_args *a = run->args;
    struct tile tile;
    const float *grad = kernel_borrow(&a->grad, at, count, tile.grad);
    float *master = borrow_master(a, at, count, tile.master);
    float *m = kernel_borrow(&a->exp_avg, at, count, tile.m);
    float *v = kernel_borrow(&a->exp_avg_sq, at, count, tile.v);

    tell_update(master, grad, m, v, count * sizeof *grad);
    update_elements(master, grad, m, v, count, &run->step);
    kernel_return(&a->exp_avg, at, count, m);
    kernel_return(&a->exp_avg_sq, at, count, v);
    publish(run, at, count, master, &tile);
}

static void update_piece(const struct run *run, size_t start, size_t count)
{
    for (size_t at = 0; at < count; at += TILE_ELEMS)
        update_tile(run, start + at, count - at < TILE_ELEMS ? count - at : TILE_ELEMS);
}

/* Called by all threads of a region; they share out the pieces. */
static void update_span(const struct run *run)
{
#pragma omp for schedule(static) nowait /* spans do not overlap */
    for (uint64_t at = 0; at < run->span->count; at += PIECE_ELEMS) {
        uint64_t left = run->span->count - at;

        update_piece(run, run->span->start + at, left < PIECE_ELEMS ? left : PIECE_ELEMS);
    }
}

static struct adamw_step step_of(const struct ds_adamw_args *a, const struct ds_adamw_span *span)
{
    const struct ds_step_record *record = a->record;

    return (struct adamw_step){
        .beta1 = a->beta1,
        .beta2 = a->beta2,
        .epsilon = a->epsilon,
        .rate = record->learning_rate,
        .decay = span->weight_decay,
        .correction1 = record->correction1,
        .correction2 = record->correction2,
        .gradient_factor = record->clip_factor / record->loss_scale,
    };
}

static ds_status adamw_work(void *args, int *done)
{
    const struct ds_adamw_args *a = args;
    const struct ds_step_record *record = a->record;
    uint64_t count = kernel_elems(&a->grad);

    *done = 1;
    if (record->skip)
        return DS_OK;
#pragma omp parallel if (count > PIECE_ELEMS)
    for (size_t i = 0; i < a->span_count; i++) {
        const struct ds_adamw_span *span = &a->spans[i];
        const struct adamw_step step = step_of(a, span);

        DS_ASSERT(span->start <= count && span->count <= count - span->start);
        update_span(&(struct run){a, span, step});
    }
    return DS_OK;
}

/* A param apart from its master, where nothing changes. */
static void follow(const struct ds_adamw_args *a, uint64_t start, uint64_t end)
{
    const struct run run = {.args = a};

    if (end > start && a->master.data && a->master.dtype == DS_F32)
        publish(&run, start, end - start, (const float *)a->master.data + start, NULL);
}

void ds_adamw_part(const struct ds_adamw_args *args, uint64_t start, uint64_t count)
{
    const uint64_t end = start + count;
    uint64_t at = start;

    for (size_t i = 0; i < args->span_count && !args->record->skip; i++) {
        const struct ds_adamw_span *span = &args->spans[i];
        const uint64_t lo = span->start > at ? span->start : at;
        const uint64_t span_end = span->start + span->count, hi = span_end < end ? span_end : end;

        if (lo >= hi)
            continue;
        follow(args, at, lo);
        update_piece(&(struct run){args, span, step_of(args, span)}, lo, hi - lo);
        at = hi;
    }
    follow(args, at, end);
}

/* A master of 16 bits, or none, belongs to a weight of bf16 alone. */
static ds_status masters_fit(const struct ds_adamw_args *args)
{
    const int is_fp32 = args->master.data && args->master.dtype == DS_F32;
    const int is_remainder = args->master.data && args->master.dtype == DS_I16;
    const int is_bf16 = args->param.data && args->param.dtype == DS_BF16;

    if (is_fp32 || (is_bf16 && (is_remainder || !args->master.data)))
        return DS_OK;
    return ds_fail(DS_ERR_UNSUPPORTED, "kernel adamw: param is %s with a master of %s",
                   ds_dtype_name(args->param.dtype),
                   args->master.data ? ds_dtype_name(args->master.dtype) : "none");
}

ds_status kernel_adamw(struct ds_stream *stream, const struct ds_adamw_args *args)
{
    DS_ASSERT(!args->master.data || kernel_elems(&args->master) == kernel_elems(&args->grad));
    KERNEL_WANTS_FLOAT("adamw", args, param);
    KERNEL_WANTS_FLOAT("adamw", args, grad);
    KERNEL_WANTS_FLOAT("adamw", args, exp_avg);
    KERNEL_WANTS_FLOAT("adamw", args, exp_avg_sq);
    DS_TRY(masters_fit(args));
    return kernel_launch(stream, adamw_work, args, sizeof *args);
}
