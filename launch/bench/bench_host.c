/* bench_host.c - `dstrain bench host`: AdamW as the host makes it (offload.optimizer_compute = cpu), beside a triad,
 * a[i] = b[i] + s c[i], by the same threads in the same minute: the update is as fast as memory is, or something is wrong.
 * Bytes are those that a loop names, as STREAM counts them. */
#include "bench.h"
#include "speeds.h"

#include "dstrain/kernels.h"

#include <stdlib.h>
#include <string.h>

enum { PART_ELEMS = 65536, QUICK_PARTS = 4, PARTS = 2048, CHECKED = 4096 };

/* In the precisions of bf16 training: masters and moments in fp32, gradients and weights in 16 bits. */
struct rig {
    uint64_t count;
    /* owns */
    float *master, *m, *v; /* the triad's a, b and c, too: what is there does not matter to it */
    uint16_t *grad, *param;
    /* plain values */
    struct ds_adamw_span span;
    struct ds_step_record record;
    struct ds_adamw_args args;
};

/* Pages lie where the thread runs that will work on them. */
static void touch(struct rig *r)
{
#pragma omp parallel for schedule(static)
    for (uint64_t at = 0; at < r->count; at += PART_ELEMS)
        for (uint64_t i = at; i < at + PART_ELEMS; i++) {
            r->master[i] = 0.01f * (float)(i % 101);
            r->m[i] = r->v[i] = 0;
            r->grad[i] = (uint16_t)(0x3c00 + i % 64); /* some hundredths */
            r->param[i] = 0;
        }
}

static ds_status rig_open(struct rig *r, uint64_t count)
{
    const size_t wide = count * sizeof(float), narrow = count * sizeof(uint16_t);

    *r = (struct rig){.count = count,
                      .master = aligned_alloc(4096, wide),
                      .m = aligned_alloc(4096, wide),
                      .v = aligned_alloc(4096, wide),
                      .grad = aligned_alloc(4096, narrow),
                      .param = aligned_alloc(4096, narrow),
                      .span = {.count = count, .weight_decay = 0.1f},
                      .record = {.learning_rate = 1e-4f,
                                 .loss_scale = 1,
                                 .clip_factor = 1,
                                 .correction1 = 1,
                                 .correction2 = 1}};
    if (!r->master || !r->m || !r->v || !r->grad || !r->param)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu bytes to update", 3 * wide + 2 * narrow);
    touch(r);
    r->args = (struct ds_adamw_args){.master = ds_tensor1(r->master, DS_F32, count),
                                     .param = ds_tensor1(r->param, DS_BF16, count),
                                     .grad = ds_tensor1(r->grad, DS_BF16, count),
                                     .exp_avg = ds_tensor1(r->m, DS_F32, count),
                                     .exp_avg_sq = ds_tensor1(r->v, DS_F32, count),
                                     .spans = &r->span,
                                     .span_count = 1,
                                     .record = &r->record,
                                     .beta1 = 0.9f,
                                     .beta2 = 0.95f,
                                     .epsilon = 1e-8f};
    return DS_OK;
}

static void rig_close(struct rig *r)
{
    free(r->master);
    free(r->m);
    free(r->v);
    free(r->grad);
    free(r->param);
}

static ds_status adamw(void *user)
{
    const struct rig *r = user;

#pragma omp parallel for schedule(static)
    for (uint64_t at = 0; at < r->count; at += PART_ELEMS)
        ds_adamw_part(&r->args, at, PART_ELEMS);
    return DS_OK;
}

static void triad_part(float *restrict a, const float *restrict b, const float *restrict c)
{
    for (uint64_t i = 0; i < PART_ELEMS; i++)
        a[i] = b[i] + 3.0f * c[i];
}

static ds_status triad(void *user)
{
    const struct rig *r = user;

#pragma omp parallel for schedule(static)
    for (uint64_t at = 0; at < r->count; at += PART_ELEMS)
        triad_part(r->master + at, r->m + at, r->v + at);
    return DS_OK;
}

/* One step by the rule: a weight follows its master, which has gone down along a gradient that is not negative. */
static ds_status check(struct rig *r)
{
    float before[CHECKED];

    memcpy(before, r->master, sizeof before);
    DS_TRY(adamw(r));
    for (uint64_t i = 0; i < CHECKED; i++) {
        const uint32_t rounded = (uint32_t)r->param[i] << 16;
        float param;
        memcpy(&param, &rounded, sizeof param);
        if (!(r->master[i] < before[i] || before[i] == 0) ||
            !(param <= r->master[i] + 0.01f && param >= r->master[i] - 0.01f))
            return ds_fail(DS_ERR_UNFIT, "an update by the host is wrong at element %llu",
                           (unsigned long long)i);
    }
    return DS_OK;
}

static ds_status measure(const struct bench *bench, struct rig *r, int threads)
{
    const struct bench_work works[] = {{.run = adamw, .user = r, .calls = 1},
                                       {.run = triad, .user = r, .calls = 1}};
    const double bytes[] = {(double)r->count * (6 * sizeof(float) + 2 * sizeof(uint16_t)),
                            (double)r->count * 3 * sizeof(float)};
    struct bench_spread spread[2];
    double per_s[2];

    DS_TRY(bench_time(bench, works, 2, spread));
    for (int i = 0; i < 2; i++)
        per_s[i] = bytes[i] / spread[i].median * 1e-9;
    const struct bench_figure of_update[] = {
        {"gb_per_s", per_s[0]},
        {"of_triad", per_s[0] / per_s[1]},
        {"params_per_s", (double)r->count / spread[0].median},
        {"params", (double)r->count},
        {"threads", threads},
    };
    const struct bench_figure of_triad[] = {{"gb_per_s", per_s[1]}, {"threads", threads}};
    if (!bench->is_quick)
        ds_speeds_keep(bench->command->fs,
                       &(struct ds_speeds_kept){.per_s = {[DS_SPEED_HOST_UPDATE] = per_s[0] * 1e9},
                                                .host_threads = threads});
    DS_TRY(bench_print(bench, "adamw bf16", "s", &spread[0], of_update, 5));
    return bench_print(bench, "triad f32", "s", &spread[1], of_triad, 2);
}

ds_status ds_bench_host(struct bench *bench)
{
    uint64_t threads = 0;
    struct rig rig = {0};
    ds_status st;

    DS_TRY(bench_option_count(bench, "--threads", 1, 4096, &threads));
    DS_TRY(bench_arguments_end(bench, 0));
    threads = (uint64_t)bench_threads(bench, threads);
    st = rig_open(&rig, (uint64_t)PART_ELEMS * (bench->is_quick ? QUICK_PARTS : PARTS));
    if (st == DS_OK)
        st = check(&rig);
    if (st == DS_OK)
        st = measure(bench, &rig, (int)threads);
    rig_close(&rig);
    return st;
}
