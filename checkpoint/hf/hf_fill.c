/* hf_fill.c - weights into owned shards, from a folder or from the initial distribution: the same walk.
 *
 * A rank owns a run of elements of its box of a parameter, none of a unit on another stage; a box of columns is many short runs of the
 * whole. A piece of the box is held in memory at a time. Runs of a file that lie close together are read
 * with what is between them, up to a window: measured on an SSD, a short read from a cold file costs 60 to
 * 90 us and reading on 2.5 GB/s, so a gap of less than about 150 KB is the cheaper read; from a warm file
 * the same costs at most three times as long as runs alone, at 12 GB/s. */
#include "hf_pack.h"
#include "hf_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE_ELEMS = 1 << 22, /* long beside what it takes to call all cores together */
    WINDOW_ELEMS = 1 << 20,
    GAP_BYTES_MAX = 128 << 10,
    SHARE_ELEMS = 16384 /* what one core does at a time */
};

struct source;

/* elements start.. of the parameter's box, in fp32 */
typedef ds_status fill_fn(const struct source *source, const struct ds_param *param, uint64_t start,
                          uint64_t count, float *to);

struct source {
    fill_fn *fill;
    /* of a folder */
    const struct ds_hf *hf;
    float *window; /* [WINDOW_ELEMS] */
    /* of the initial distribution */
    const struct ds_model *model;
    uint64_t seed;
};

/* ---- what values come to */

/* Of a value at a place: the ends of a product of all of both. */
static uint64_t mix(uint64_t place, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    uint64_t x = (place + 1) * 0x9e3779b97f4a7c15u ^ bits;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

/* Elements start.. of the parameter's box, by their places in the whole; parameters have places of their own. */
static uint64_t sum_share(const struct ds_param *param, uint64_t name, uint64_t start,
                          uint64_t count, const float *values)
{
    uint64_t sum = 0;

    for (uint64_t done = 0; done < count;) {
        const struct ds_span run = ds_param_run(param, start + done, count - done);

        for (uint64_t i = 0; i < run.count; i++)
            sum += mix(name + run.start + i, values[done + i]);
        done += run.count;
    }
    return sum;
}

static uint64_t share_at(uint64_t at, uint64_t count)
{
    return count - at < SHARE_ELEMS ? count - at : SHARE_ELEMS;
}

uint64_t hf_sum(uint32_t index, const struct ds_param *box, uint64_t start, uint64_t count,
                const float *values)
{
    const uint64_t name = (uint64_t)index << 40;
    uint64_t sum = 0;

#pragma omp parallel for schedule(static) reduction(+ : sum) if (count > SHARE_ELEMS)
    for (uint64_t done = 0; done < count; done += SHARE_ELEMS)
        sum += sum_share(box, name, start + done, share_at(done, count), values + done);
    return sum;
}

void hf_add_sum(const struct ds_hf_target *target, const struct ds_param *param,
                const struct ds_param *box, uint64_t start, uint64_t count, const float *values)
{
    if (target->sum && target->counts_unit[param->unit] && param->is_owner)
        *target->sum +=
            hf_sum((uint32_t)(param - target->model->params), box, start, count, values);
}

/* ---- the walk */

static ds_status values_of(const void *source, const struct ds_param *param, uint64_t start,
                           uint64_t count, float *to)
{
    return ((const struct source *)source)->fill(source, param, start, count, to);
}

/* Is it in the folder in the form that it is to have? Else *out is NULL. */
static ds_status find_stored(const struct source *source, const struct ds_param *param,
                             const struct ds_zero_packed *part, struct ds_quant_matrix **out)
{
    const enum ds_quant_kind kind = part->form.codes.dtype == DS_I8 ? DS_QUANT_INT8 : DS_QUANT_NF4;

    *out = NULL;
    if (!source->hf || part->is_plain)
        return DS_OK;
    DS_TRY(hf_quant_open(source->hf, param->name, out));
    if (*out && ds_quant_form_of(*out).kind != kind) {
        ds_quant_close(*out);
        *out = NULL;
    }
    return DS_OK;
}

/* All of a part at once: its form is that of the whole. */
static ds_status pack_param(const struct ds_hf_target *target, uint32_t index,
                            const struct source *source, float *piece)
{
    const struct ds_param *param = &target->model->params[index];
    struct ds_quant_matrix *stored;
    struct hf_packing packing = {
        .target = target,
        .param = param,
        .part = &target->packs[param->unit]
                     .parts[index - target->model->units[param->unit].param_start],
        .dtype = target->model->share.compute,
        .values = values_of,
        .source = source,
        .piece = piece,
        .piece_elems = PIECE_ELEMS,
    };

    if (ds_zero_unit_layout(target->zero, param->unit)->elems == 0)
        return DS_OK;
    DS_TRY(find_stored(source, param, packing.part, &stored));
    packing.stored = stored;
    const ds_status st = hf_pack(&packing);
    ds_quant_close(stored);
    return st;
}

static ds_status fill_param(const struct ds_hf_target *target, const struct ds_param *param,
                            const struct source *source, float *piece)
{
    const struct ds_zero_layout *layout = ds_zero_unit_layout(target->zero, param->unit);
    const struct ds_span owned = ds_zero_layout_owned(
        layout, target->shard_rank, (struct ds_span){param->offset, param->elems});
    const uint64_t shard_start = ds_zero_layout_shard(layout, target->shard_rank).start;

    for (uint64_t done = 0; done < owned.count;) {
        uint64_t count = owned.count - done < PIECE_ELEMS ? owned.count - done : PIECE_ELEMS;
        uint64_t at = owned.start + done;
        DS_TRY(source->fill(source, param, at - param->offset, count, piece));
        hf_add_sum(target, param, param, at - param->offset, count, piece);
        DS_TRY(ds_zero_write_shard(target->zero, param->unit, at - shard_start, count, piece));
        done += count;
        if (target->beat)
            target->beat(target->user);
    }
    return DS_OK;
}

typedef int is_meant_fn(const struct ds_param *param);

static int is_base(const struct ds_param *param)
{
    return !param->is_factor;
}

static int is_factor(const struct ds_param *param)
{
    return param->is_factor;
}

static int is_trained(const struct ds_param *param)
{
    return param->is_trainable;
}

static ds_status fill_some(const struct ds_hf_target *target, const struct source *source,
                           is_meant_fn *is_meant)
{
    const struct ds_model *model = target->model;
    float *piece = malloc(PIECE_ELEMS * sizeof *piece);
    ds_status st = DS_OK;

    if (!piece)
        return ds_fail(DS_ERR_NO_MEMORY, "to fill weights");
    for (uint32_t i = 0; i < model->param_count && st == DS_OK; i++)
        if (is_meant(&model->params[i]))
            st = target->packs && target->packs[model->params[i].unit].part_count > 0
                     ? pack_param(target, i, source, piece)
                     : fill_param(target, &model->params[i], source, piece);
    free(piece);
    return st;
}

/* ---- from a folder */

/* How many of the `count` elements from `start` of the box are read at once, from `first` of the whole to
 * `*end`: one run of any length, or runs with small gaps that fit the window together. */
static uint64_t window_of(const struct ds_param *param, uint64_t start, uint64_t count,
                          uint64_t gap_elems_max, uint64_t *end)
{
    struct ds_span run = ds_param_run(param, start, count);
    const uint64_t first = run.start;
    uint64_t done = run.count;

    *end = first + run.count;
    while (done < count) {
        run = ds_param_run(param, start + done, count - done);
        if (run.start - *end > gap_elems_max || run.start + run.count - first > WINDOW_ELEMS)
            break;
        *end = run.start + run.count;
        done += run.count;
    }
    return done;
}

static void cut_share(const struct ds_param *param, uint64_t start, uint64_t count,
                      const float *window, uint64_t first, float *to)
{
    for (uint64_t done = 0; done < count;) {
        struct ds_span run = ds_param_run(param, start + done, count - done);
        memcpy(to + done, window + (run.start - first), run.count * sizeof *to);
        done += run.count;
    }
}

static void cut_out(const struct ds_param *param, uint64_t start, uint64_t count,
                    const float *window, uint64_t first, float *to)
{
#pragma omp parallel for schedule(static) if (count > SHARE_ELEMS)
    for (uint64_t done = 0; done < count; done += SHARE_ELEMS)
        cut_share(param, start + done, share_at(done, count), window, first, to + done);
}

/* The first that is NaN or infinite, or count. The first loop has no way out, so it becomes vectors. */
static uint64_t first_not_finite(const float *values, uint64_t count)
{
    int is_bad = 0;

    for (uint64_t i = 0; i < count; i++)
        is_bad |= !isfinite(values[i]);
    for (uint64_t i = 0; is_bad && i < count; i++)
        if (!isfinite(values[i]))
            return i;
    return count;
}

/* One NaN would make every loss NaN, and nobody would know where it came from. */
static ds_status check_finite(const struct ds_safetensors *file, const struct ds_param *param,
                              uint64_t start, uint64_t count, const float *values)
{
    uint64_t bad = count;

#pragma omp parallel for schedule(static) reduction(min : bad) if (count > SHARE_ELEMS)
    for (uint64_t done = 0; done < count; done += SHARE_ELEMS) {
        const uint64_t share = share_at(done, count);
        const uint64_t at = first_not_finite(values + done, share);

        if (at < share && done + at < bad)
            bad = done + at;
    }
    if (bad == count)
        return DS_OK;
    return ds_fail(DS_ERR_DATA, "%s: tensor '%s' has %g at element %llu; weights must be finite",
                   ds_safetensors_path(file), param->name, (double)values[bad],
                   (unsigned long long)ds_param_run(param, start + bad, 1).start);
}

/* While this piece is converted and on its way to the device, the disk reads the next. Of a box of columns that
 * would be many short runs. */
static void announce(const struct ds_safetensors *file, const struct ds_safetensors_entry *entry,
                     const struct ds_param *param, uint64_t start)
{
    const uint64_t left = param->elems - start;
    const uint64_t count = left < PIECE_ELEMS ? left : PIECE_ELEMS;
    struct ds_span run;

    if (count == 0)
        return;
    run = ds_param_run(param, start, count);
    if (run.count == count)
        ds_safetensors_will_read(file, entry, run.start, run.count);
}

static ds_status fill_from_folder(const struct source *source, const struct ds_param *param,
                                  uint64_t start, uint64_t count, float *to)
{
    const struct ds_safetensors *file = NULL;
    const struct ds_safetensors_entry *entry = hf_find(source->hf, param->name, &file);
    int is_quantised;

    DS_ASSERT(entry); /* ds_hf_check was asked first */
    DS_TRY(hf_quant_read(source->hf, param, start, count, to, &is_quantised));
    if (is_quantised)
        return check_finite(file, param, start, count, to);
    const uint64_t gap_elems_max = GAP_BYTES_MAX / ds_dtype_bytes(entry->dtype);
    announce(file, entry, param, start + count);
    for (uint64_t done = 0; done < count;) {
        const uint64_t first = ds_param_run(param, start + done, 1).start;
        uint64_t end;
        uint64_t part = window_of(param, start + done, count - done, gap_elems_max, &end);
        const int is_one_run = end - first == part;

        DS_TRY(ds_safetensors_read_f32(file, entry, first, end - first,
                                       is_one_run ? to + done : source->window));
        if (!is_one_run)
            cut_out(param, start + done, part, source->window, first, to + done);
        done += part;
    }
    return check_finite(file, param, start, count, to);
}

static ds_status load_some(const struct ds_hf *hf, const struct ds_hf_target *target,
                           is_meant_fn *is_meant)
{
    struct source source = {.fill = fill_from_folder, .hf = hf};
    ds_status st;

    source.window = malloc(WINDOW_ELEMS * sizeof *source.window);
    if (!source.window)
        return ds_fail(DS_ERR_NO_MEMORY, "to load weights");
    st = fill_some(target, &source, is_meant);
    free(source.window);
    return st;
}

ds_status ds_hf_load(const struct ds_hf *hf, const struct ds_hf_target *target)
{
    return load_some(hf, target, is_base);
}

ds_status ds_hf_load_adapter(const struct ds_hf *hf, const struct ds_hf_target *target)
{
    return load_some(hf, target, is_trained);
}

/* ---- from the initial distribution: by the place in the whole, so the layout does not matter */

static void init_values(const struct source *source, const struct ds_param *param, uint64_t start,
                        uint64_t count, float *to)
{
    const struct ds_param *own = ds_model_find(source->model, param->name); /* it may be uncut */

    for (uint64_t done = 0; done < count;) {
        struct ds_span run = ds_param_run(param, start + done, count - done);
        ds_model_init_values(source->model, own, source->seed, run.start, run.count, to + done);
        done += run.count;
    }
}

/* A billion normal numbers are a minute's work of one core: all of them take part. Each number is one of its
 * place, so who makes which changes nothing. */
static ds_status fill_from_seed(const struct source *source, const struct ds_param *param,
                                uint64_t start, uint64_t count, float *to)
{
#pragma omp parallel for schedule(dynamic) if (count > SHARE_ELEMS)
    for (uint64_t done = 0; done < count; done += SHARE_ELEMS)
        init_values(source, param, start + done, share_at(done, count), to + done);
    return DS_OK;
}

ds_status ds_hf_init(const struct ds_hf_target *target, uint64_t seed)
{
    const struct source source = {.fill = fill_from_seed, .model = target->model, .seed = seed};

    return fill_some(target, &source, is_base);
}

ds_status ds_hf_init_factors(const struct ds_hf_target *target, uint64_t seed)
{
    const struct source source = {.fill = fill_from_seed, .model = target->model, .seed = seed};

    return fill_some(target, &source, is_factor);
}
