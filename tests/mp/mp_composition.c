// link: launch
// ranks: 2 4 8
/* mp_composition.c - layouts of processes: data, tensor and pipeline ranks under mpirun, with stages,
 * schedules, recomputation, windows, transports and bf16 in many combinations. Each is the same to the bit
 * as the same layout of threads in one process, and has the losses of one rank. Every second one has states in files,
 * which the threads have not. */
#include "mp_tiny.h"

#include <math.h>

struct row {
    uint32_t data, tensor, pipeline;
    int stage, schedule, recompute, sequence_parallel;
    int transport, mode;
    int reshard;
    uint64_t window;
    int compute; /* enum ds_precision */
};

enum { GPIPE = DS_PIPELINE_GPIPE, F1B = DS_PIPELINE_1F1B, ZB = DS_PIPELINE_ZERO_BUBBLE };
enum { INTER = DS_PIPELINE_INTERLEAVED };
enum { NONE = DS_RECOMPUTE_NONE, SELECTIVE = DS_RECOMPUTE_SELECTIVE, FULL = DS_RECOMPUTE_FULL };
enum { SHM = DS_TRANSPORT_SHM, MPI = DS_TRANSPORT_MPI, AUTO = DS_TRANSPORT_AUTO };
enum { INLINE = DS_DEVICE_INLINE, DEFERRED = DS_DEVICE_DEFERRED };
enum { ALWAYS = DS_RESHARD_KEY_ALWAYS, NEVER = DS_RESHARD_KEY_NEVER };
enum { FP32 = DS_PRECISION_FP32, BF16 = DS_PRECISION_BF16 };

/* clang-format off */
static const struct row rows[] = {
    /* d  t  p  stage  schedule  recompute  sp  transport  streams   gathered */
    {1, 2, 1, 0, F1B,   NONE,      0, SHM,  INLINE,   ALWAYS, 1, FP32},
    {1, 2, 1, 3, F1B,   FULL,      1, MPI,  INLINE,   ALWAYS, 1, FP32},
    {1, 2, 1, 1, F1B,   SELECTIVE, 1, SHM,  DEFERRED, ALWAYS, 1, FP32},
    {1, 2, 1, 2, F1B,   NONE,      1, MPI,  DEFERRED, ALWAYS, 1, BF16},
    {1, 1, 2, 0, GPIPE, NONE,      0, MPI,  INLINE,   ALWAYS, 1, FP32},
    {1, 1, 2, 1, F1B,   FULL,      0, SHM,  INLINE,   ALWAYS, 1, FP32},
    {1, 1, 2, 2, INTER, SELECTIVE, 0, MPI,  DEFERRED, ALWAYS, 1, FP32},
    {1, 1, 2, 3, ZB,    NONE,      0, SHM,  DEFERRED, ALWAYS, 1, BF16},
    {2, 1, 1, 3, F1B,   FULL,      0, MPI,  DEFERRED, ALWAYS, 3, FP32},
    {2, 1, 1, 3, F1B,   NONE,      0, SHM,  INLINE,   NEVER,  1, BF16},

    {2, 2, 1, 3, F1B,   SELECTIVE, 1, SHM,  INLINE,   ALWAYS, 2, FP32},
    {2, 2, 1, 2, F1B,   FULL,      0, MPI,  INLINE,   ALWAYS, 1, FP32},
    {2, 1, 2, 3, F1B,   NONE,      0, MPI,  DEFERRED, ALWAYS, 1, FP32},
    {2, 1, 2, 3, ZB,    FULL,      0, SHM,  INLINE,   NEVER,  1, FP32},
    {2, 1, 2, 1, INTER, NONE,      0, SHM,  DEFERRED, ALWAYS, 1, FP32},
    {1, 2, 2, 0, ZB,    SELECTIVE, 1, MPI,  INLINE,   ALWAYS, 1, FP32},
    {1, 2, 2, 3, GPIPE, NONE,      1, SHM,  DEFERRED, ALWAYS, 1, BF16},
    {1, 4, 1, 1, F1B,   FULL,      1, SHM,  INLINE,   ALWAYS, 1, FP32},
    {1, 1, 4, 2, F1B,   NONE,      0, MPI,  INLINE,   ALWAYS, 1, BF16},
    {1, 1, 4, 0, INTER, FULL,      0, SHM,  INLINE,   ALWAYS, 1, FP32},

    {2, 2, 2, 3, F1B,   FULL,      1, AUTO, INLINE,   ALWAYS, 2, FP32},
    {2, 2, 2, 3, ZB,    NONE,      0, MPI,  DEFERRED, ALWAYS, 1, FP32},
    {2, 2, 2, 2, INTER, SELECTIVE, 1, SHM,  DEFERRED, ALWAYS, 1, BF16},
    {4, 2, 1, 3, F1B,   SELECTIVE, 1, SHM,  INLINE,   NEVER,  1, FP32},
    {4, 1, 2, 1, GPIPE, NONE,      0, SHM,  INLINE,   ALWAYS, 1, FP32},
    {2, 1, 4, 3, F1B,   FULL,      0, SHM,  INLINE,   ALWAYS, 2, FP32},
    {1, 2, 4, 1, ZB,    NONE,      1, MPI,  INLINE,   ALWAYS, 1, FP32},
    {1, 8, 1, 0, F1B,   FULL,      1, SHM,  DEFERRED, ALWAYS, 1, FP32},
};
/* clang-format on */

/* The more ranks, the fewer steps: a machine with few cores gives each a small part of its time. A wrong
 * bit in a gradient or a state is in the parameters after one step, and in the loss of the next. */
static uint64_t step_count(void)
{
    if (test_is_long())
        return 20;
    return world->size <= 2 ? 20 : world->size <= 4 ? 12 : 8;
}

static struct tiny_case model(void)
{
    return (struct tiny_case){.ranks = 1,
                              .family = DS_FAMILY_QWEN3,
                              .layers = 6,
                              .heads = 8,
                              .kv_heads = 2, /* of 4 and 8 tensor ranks some hold copies */
                              .head_dim = 4,
                              .is_tied = 1,
                              .schedule = DS_PIPELINE_1F1B,
                              .steps = step_count(),
                              .global_batch = 8,
                              .micro_batch = 1,
                              .seed = data.seed,
                              .data = data.path};
}

static struct ds_config config_of(const struct row *row)
{
    struct tiny_case c = model();
    struct ds_config config;

    c.ranks = world->size;
    c.tensor = row->tensor;
    c.pipeline = row->pipeline;
    c.chunks = row->schedule == INTER ? 2 : 1;
    c.schedule = row->schedule;
    c.stage = row->stage;
    c.recompute = row->recompute;
    c.sequence_parallel = row->sequence_parallel;
    c.transport = row->transport;
    c.mode = row->mode;
    c.reshard = row->reshard;
    c.window = row->window;
    tiny_config(&c, &config);
    config.precision.compute = row->compute;
    return config;
}

/* All of a host in one directory; where ranks have a state together it stays. */
static void live_in_files(const struct row *row, struct ds_config *config)
{
    const struct ds_home_key home = {DS_HOME_NVME, row->mode == DEFERRED ? 0.5 : 1};
    const char *end = strrchr(data.path, '/');

    if (row->stage == 0 && row->data > 1)
        return;
    config->offload.exp_avg = config->offload.exp_avg_sq = config->offload.grads = home;
    config->offload.activations =
        row->stage % 2 ? home : (struct ds_home_key){DS_HOME_HOST, home.share};
    if (row->stage == 3)
        config->offload.params = home;
    if (row->compute != FP32)
        config->offload.master = home;
    snprintf(config->offload.directories, sizeof config->offload.directories, "%.*s",
             (int)(end - data.path), data.path);
}

static int are_same_bits(const struct tiny_result *a, const struct tiny_result *b)
{
    return a->steps == b->steps && a->param_elems == b->param_elems &&
           memcmp(a->loss, b->loss, sizeof a->loss) == 0 &&
           memcmp(a->norm, b->norm, sizeof a->norm) == 0 &&
           memcmp(&a->eval_loss, &b->eval_loss, sizeof a->eval_loss) == 0 &&
           memcmp(a->params, b->params, a->param_elems * sizeof *a->params) == 0;
}

static int is_near(const struct row *row, double loss, double alone)
{
    return fabs(loss - alone) <= (row->compute == BF16 ? 2e-2 : 2e-6) * fabs(alone);
}

static int has_losses_of(const struct row *row, const struct tiny_result *a,
                         const struct tiny_result *one)
{
    int is_like = is_near(row, a->eval_loss, one->eval_loss);

    for (uint64_t i = 0; i < one->steps; i++)
        is_like &= is_near(row, a->loss[i], one->loss[i]);
    return is_like;
}

/* In threads of rank 0 while its peers wait. */
static int is_like_threads(const struct row *row, const struct tiny_result *got,
                           const struct tiny_result *one)
{
    struct ds_config config = config_of(row);
    const struct tiny_case c = {.ranks = world->size, .config = &config};
    struct tiny_result threads;
    int is_like;

    if (world->rank != 0)
        return 1;
    config.parallel.transport = DS_TRANSPORT_AUTO;
    config.run.cpu_streams = DS_DEVICE_INLINE;
    tiny_run(&c, &threads);
    is_like =
        threads.status == DS_OK && are_same_bits(got, &threads) && has_losses_of(row, got, one);
    tiny_result_fini(&threads);
    return is_like;
}

static void check(size_t index, const struct tiny_result *one)
{
    const struct row *row = &rows[index];
    struct ds_config config = config_of(row);
    const struct tiny_case c = {.ranks = world->size, .config = &config};
    struct tiny_result got;

    if (index % 2 == 1)
        live_in_files(row, &config);
    tiny_run_on(world, &c, &got);
    if (got.status != DS_OK)
        fprintf(stderr, "row %zu: %s\n", index, ds_status_text(got.status));
    mp_assert(got.status == DS_OK);
    mp_assert(world->rank != 0 || got.steps == step_count());
    const int is_like = is_like_threads(row, &got, one);
    if (!is_like)
        fprintf(stderr, "row %zu: data %u tensor %u pipeline %u: other numbers\n", index, row->data,
                row->tensor, row->pipeline);
    mp_assert(is_like);
    tiny_result_fini(&got);
}

static void layouts_of_processes_agree_with_threads_to_the_bit(void **state)
{
    const struct tiny_case alone = model();
    struct tiny_result one = {0};

    (void)state;
    if (world->rank == 0)
        tiny_run(&alone, &one);
    mp_assert(one.status == DS_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].data * rows[i].tensor * rows[i].pipeline == world->size)
            check(i, &one);
    tiny_result_fini(&one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_DATA(layouts_of_processes_agree_with_threads_to_the_bit),
    };

    return mp_run(tests, 60000000000u);
}
