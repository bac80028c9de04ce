/* bench_step.c - a real training step: tokens a second, MFU, memory, the time to the first step.
 *
 * On the cpu a step is held against the rate of a matrix product, measured in the same run with the same
 * threads: behind every step all ranks multiply 2048 x 2048 matrices, so that a noisy minute meets both.
 * Another device is not interrupted: it goes on with the next step while the host is told of this one, and how long a
 * step took it says itself.
 *
 * GEMM FLOPs of a step = 6 * tokens * elements of matrices that multiply activations: every projection
 * and the head (a tied head counts, the embedding's look-up does not); 2 forward, 4 backward. Attention's
 * own products are left out, so the fraction is of a little more work than it is given credit for. MFU counts
 * them (mfu.h).
 *
 * Waits of a step are those of the rank that waits longest; a pipeline's bubbles, see bench_bubble.h. */
#include "bench_step.h"
#include "bench_bubble.h"
#include "memory_used.h"
#include "mfu.h"
#include "plan.h"

#include "dstrain/hf.h"
#include "dstrain/trainer.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GEMM_SIZE        2048u
#define GEMM_SIZE_QUICK  128u
#define DATA_SAMPLES_MIN 8u

/* Of every step, in seconds but for SHARE. */
enum measured { STEP, GEMM, SHARE, WAIT_COMM, MEASURED_COUNT };

/* The largest of any rank. */
enum once { FIRST_STEP, DEVICE_PEAK, DEVICE_USED, HOST_PEAK, ONCE_COUNT };

struct step_bench {
    struct bench *bench;
    struct ds_config config;
    struct bench_tokens tokens; /* if no data is named */
    /* owns */
    struct ds_trainer *trainer;
    struct bench_product product; /* on the cpu */
    size_t gemm_size;
    int thread_count, is_paired;
    /* measured */
    uint64_t resumed_ns, steps_done;
    uint64_t first_step_at_ms; /* since 1970, when the first step had ended */
    double samples[MEASURED_COUNT][BENCH_REPEATS_MAX];
    double once[ONCE_COUNT]; /* seconds; bytes */
    struct bench_bubble bubble;
};

/* ---- configuration */

enum given { HAS_DATA = 1u << 0, HAS_DIR = 1u << 1 };

/* Rank 0 looks which of these the file names; what is wrong with it, ds_config_load says. */
static ds_status look(struct step_bench *s, const char *const *overrides, size_t count,
                      uint32_t *given)
{
    char *text = NULL;
    size_t bytes;
    ds_status st;

    st = ds_fs_read_file(s->bench->command->fs, s->bench->argv[0], 1u << 20, &text, &bytes);
    if (st == DS_OK)
        st = ds_config_parse(s->bench->argv[0], text, bytes, overrides, count, &s->config);
    free(text);
    if (st == DS_OK)
        *given = (s->config.data.train[0] ? HAS_DATA : 0) | (s->config.run.dir[0] ? HAS_DIR : 0);
    return st == DS_ERR_DATA ? DS_ERR_CONFIG : st;
}

/* What a person wrote, then what a measurement needs. */
static ds_status load_config(struct step_bench *s, uint32_t *given)
{
    static const char *const always[] = {"schedule.kind=constant",
                                         "schedule.warmup_steps=0",
                                         "schedule.decay_steps=0",
                                         "schedule.min_learning_rate=0",
                                         "data.eval=",
                                         "data.eval_share=0",
                                         "train.eval_interval=0",
                                         "train.eval_samples=0",
                                         "run.export=none",
                                         "log.trace=",
                                         "checkpoint.interval=0",
                                         "checkpoint.keep_every=0",
                                         "checkpoint.export=0"};
    static const char *const random_data[] = {"data.train=random", "data.format=safetensors"};
    struct bench *bench = s->bench;
    const char **overrides = calloc((size_t)bench->argc + 24, sizeof *overrides);
    char steps[64];
    size_t count = 0;
    ds_status st;

    if (!overrides)
        return ds_fail(DS_ERR_NO_MEMORY, "overrides");
    for (int i = 1; i < bench->argc; i++)
        overrides[count++] = bench->argv[i];
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        overrides[count++] = always[i];
    snprintf(steps, sizeof steps, "train.steps=%u", bench->warmups + bench->repeats);
    overrides[count++] = steps;
    st = bench->world->rank == 0 ? look(s, overrides, count, given) : DS_OK;
    DS_TRY_GOTO(st, ds_comm_agreed(bench->world, st), done);
    DS_TRY_GOTO(st, ds_comm_broadcast(bench->world, given, sizeof *given, 0, NULL), done);
    for (size_t i = 0; !(*given & HAS_DATA) && i < sizeof random_data / sizeof *random_data; i++)
        overrides[count++] = random_data[i];
    if (!(*given & HAS_DIR))
        overrides[count++] = "run.dir=."; /* nothing is written there but prepared text */
    const struct ds_config_source source = {.fs = bench->command->fs,
                                            .path = bench->argv[0],
                                            .overrides = overrides,
                                            .override_count = count,
                                            .use = DS_CONFIG_TRAIN,
                                            .ranks_are_known = 1};
    st = ds_config_load(bench->world, &source, &s->config);
done:
    free(overrides);
    return st;
}

static ds_status make_data(struct step_bench *s)
{
    const uint64_t batch = s->config.train.global_batch_size;
    uint64_t vocab = s->config.model.vocab_size;
    struct ds_model_config model;

    if (s->config.model.path[0]) {
        DS_TRY(ds_hf_read_config(s->bench->command->fs, s->config.model.path, &model));
        vocab = model.vocab_size;
    }
    DS_TRY(bench_tokens_make(s->bench, batch > DATA_SAMPLES_MIN ? batch : DATA_SAMPLES_MIN,
                             s->config.train.seq_length, vocab, &s->tokens));
    snprintf(s->config.data.train, sizeof s->config.data.train, "%s", s->tokens.path);
    return DS_OK;
}

/* ---- the steps */

/* On the cpu from the end of the product behind one step to the end of the next step. */
static ds_status on_step(struct step_bench *s, const struct ds_step_report *report)
{
    const struct ds_clock *clock = s->bench->command->clock;
    const uint64_t now_ns = ds_clock_mono_ns(clock), i = s->steps_done;
    double unused, *product = &unused;

    if (report->step > s->bench->warmups) {
        s->samples[STEP][i] =
            s->is_paired ? (double)(now_ns - s->resumed_ns) * 1e-9 : report->step_s;
        s->samples[WAIT_COMM][i] = report->wait_comm_s;
        bench_bubble_add(&s->bubble, report);
        product = &s->samples[GEMM][i];
        s->steps_done++;
    }
    if (s->is_paired)
        DS_TRY(bench_product_run(&s->product, product));
    s->resumed_ns = ds_clock_mono_ns(clock);
    return DS_OK;
}

/* How long a person waited for it. */
static void see_first_step(struct step_bench *s)
{
    const struct ds_command *command = s->bench->command;

    s->once[FIRST_STEP] = bench_process_age_s(command->fs);
    s->first_step_at_ms = ds_clock_real_ns(command->clock) / 1000000u;
}

/* After the last step everything that a run takes is taken. */
static ds_status see_memory(struct step_bench *s, const struct ds_step_report *report)
{
    struct ds_device *device = ds_trainer_device(s->trainer);
    size_t used = 0;

    s->once[DEVICE_PEAK] = (double)report->device_peak_bytes;
    s->once[HOST_PEAK] = (double)report->host_peak_bytes;
    if (device->ops->memory_used)
        DS_TRY(device->ops->memory_used(device, &used));
    s->once[DEVICE_USED] = device->ops->memory_used ? (double)used : NAN;
    return DS_OK;
}

/* Of all ranks together: every matrix once, but where tensor ranks hold copies of a kv head, each of them
 * multiplies with its own. */
static double gemm_flops_per_token(const struct ds_model *model)
{
    double elems = (double)model->config.vocab_size * (double)model->config.hidden_size;

    for (uint32_t i = 0; i < model->param_count; i++)
        if (model->params[i].is_matrix && model->params[i].tp_split != DS_TP_VOCABULARY)
            elems += (double)(ds_param_whole_elems(&model->params[i]) * model->params[i].copies);
    return 6 * elems;
}

/* Is it a training step that was timed? Random tokens cost about log(vocabulary) nats at the start. */
static ds_status check_step(void *user, const struct ds_step_report *report)
{
    struct step_bench *s = user;

    if (report->is_skipped || !(report->loss > 0) || !(report->grad_norm > 0))
        return ds_fail(DS_ERR_UNFIT, "step %llu: loss %g, gradient norm %g: not a training step",
                       (unsigned long long)report->step, report->loss, report->grad_norm);
    if (report->step == 1)
        see_first_step(s);
    if (report->step == DS_MEMORY_IS_TAKEN_STEP)
        DS_TRY(ds_memory_used_check(&s->config, s->trainer));
    if (report->step == s->config.train.steps)
        DS_TRY(see_memory(s, report));
    return on_step(s, report);
}

/* ---- figures */

static double over(double bubble, double ideal)
{
    return ideal > 0 ? bubble / ideal : NAN;
}

static ds_status print_product(struct step_bench *s,
                               const struct bench_spread spread[MEASURED_COUNT], double rate)
{
    const struct bench_figure figures[] = {{"gflop_per_s", rate * 1e-9}};
    char what[160];

    snprintf(what, sizeof what, "matmul %zu cubed on each of %u ranks %d threads", s->gemm_size,
             s->bench->world->size, s->thread_count);
    DS_TRY(bench_print(s->bench, what, "s", &spread[GEMM], figures, 1));
    return bench_print(s->bench, "GEMM time of a step / step time, pair by pair", "1",
                       &spread[SHARE], NULL, 0);
}

static ds_status print_step(struct step_bench *s, const struct bench_spread spread[MEASURED_COUNT],
                            const struct bench_bubble_figures *b)
{
    const struct ds_model *model = ds_trainer_model(s->trainer);
    const uint32_t ranks = s->bench->world->size;
    const uint64_t seq_length = s->config.train.seq_length;
    const double tokens = (double)(s->config.train.global_batch_size * seq_length);
    const double tokens_per_s = tokens / spread[STEP].median;
    const double flops = gemm_flops_per_token(model) * tokens, n = (double)s->gemm_size;
    const double rate = s->is_paired ? ranks * 2 * n * n * n / spread[GEMM].median : NAN;
    char what[160];

    snprintf(what, sizeof what, "%s %llu parameters %llu x %llu tokens %u ranks %d threads",
             ds_family_name(model->config.family), (unsigned long long)model->elems_total,
             (unsigned long long)s->config.train.global_batch_size, (unsigned long long)seq_length,
             ranks, s->thread_count);
    const struct bench_figure figures[] = {
        {"ranks", ranks},
        {"threads", s->thread_count},
        {"tokens", tokens},
        {"tokens_per_s", tokens_per_s},
        {"tokens_per_s_rank", tokens_per_s / ranks},
        {"mfu", ds_mfu(model, seq_length, ds_trainer_device(s->trainer), tokens_per_s, ranks)},
        {"gemm_flops", flops},
        {"gflop_per_s", flops / spread[STEP].median * 1e-9},
        {"gemm_fraction", flops / rate / spread[STEP].median},
        {"all_flops", ds_model_flops_per_token(model, seq_length) * tokens},
        {"wait_comm_s", spread[WAIT_COMM].median},
        {"bubble_s", b->bubble_s},
        {"bubble", b->largest[BENCH_MEASURED]},
        {"bubble_rank", b->rank[BENCH_MEASURED]},
        {"bubble_ideal", b->ideal},
        {"bubble_over_ideal", over(b->largest[BENCH_MEASURED], b->ideal)},
        {"bubble_played", b->largest[BENCH_PLAYED]},
        {"bubble_played_rank", b->rank[BENCH_PLAYED]},
        {"bubble_over_played", over(b->largest[BENCH_MEASURED], b->largest[BENCH_PLAYED])},
        {"played_s", b->played_s},
        {"device_peak_bytes", s->once[DEVICE_PEAK]},
        {"device_used_bytes", s->once[DEVICE_USED]},
        {"host_peak_bytes", s->once[HOST_PEAK]},
        {"first_step_s", s->once[FIRST_STEP]},
        {"first_step_at_ms", (double)s->first_step_at_ms},
    };

    DS_TRY(
        bench_print(s->bench, what, "s", &spread[STEP], figures, sizeof figures / sizeof *figures));
    return s->is_paired ? print_product(s, spread, rate) : DS_OK;
}

static ds_status report(struct step_bench *s)
{
    struct ds_comm *world = s->bench->world;
    const double n = (double)s->gemm_size;
    const double tokens = (double)(s->config.train.global_batch_size * s->config.train.seq_length);
    const double flops = gemm_flops_per_token(ds_trainer_model(s->trainer)) * tokens / world->size;
    struct bench_spread spread[MEASURED_COUNT];
    struct bench_bubble_figures bubbles;

    DS_TRY(ds_comm_all_reduce(world, s->once, ONCE_COUNT, DS_F64, DS_REDUCE_MAX, NULL));
    for (int k = 0; k < MEASURED_COUNT; k++)
        DS_TRY(
            ds_comm_all_reduce(world, s->samples[k], s->steps_done, DS_F64, DS_REDUCE_MAX, NULL));
    for (uint64_t i = 0; i < s->steps_done; i++)
        s->samples[SHARE][i] = flops * s->samples[GEMM][i] / (2 * n * n * n) / s->samples[STEP][i];
    for (int k = 0; k < MEASURED_COUNT; k++)
        spread[k] = bench_spread_of(s->samples[k], s->steps_done);
    DS_TRY(bench_bubble_figures(&s->bubble, world, s->trainer, &bubbles));
    return print_step(s, spread, &bubbles);
}

/* Steps 3 and 4 are those that are captured. */
static void warm_up_longer(struct step_bench *s)
{
    s->bench->warmups += 2;
    s->config.train.steps += 2;
}

static ds_status open_product(struct step_bench *s)
{
    struct ds_device *device = ds_trainer_device(s->trainer);

    s->is_paired = (device->ops->caps & DS_DEVICE_CAP_HOST_MEMORY) != 0;
    return s->is_paired ? bench_product_open(s->bench, device, s->gemm_size, &s->product) : DS_OK;
}

static ds_status open_rest(struct step_bench *s)
{
    DS_TRY(bench_bubble_init(&s->bubble, ds_trainer_model(s->trainer)->block_count));
    return open_product(s);
}

static ds_status run(struct step_bench *s)
{
    struct bench *bench = s->bench;
    struct ds_command *command = bench->command;
    uint32_t given = 0;

    DS_TRY(load_config(s, &given));
    if (!(given & HAS_DATA))
        DS_TRY(ds_comm_agreed(bench->world, make_data(s)));
    if (s->config.run.graphs)
        warm_up_longer(s);
    DS_TRY(ds_plan_together(&(struct ds_plan_ranks){bench->world, command->fs, command->clock,
                                                    command->local_rank, command->local_count,
                                                    (int)s->config.run.threads},
                            DS_CONFIG_TRAIN, &s->config));
    s->thread_count = bench_threads(bench, s->config.run.threads);
    const uint64_t marked = s->config.parallel.pipeline > 1 ? s->config.train.steps : 0;
    const struct ds_trainer_options options = {.config = &s->config,
                                               .mode = DS_TRAINER_TRAIN,
                                               .world = bench->world,
                                               .fs = command->fs,
                                               .clock = command->clock,
                                               .local_rank = command->local_rank,
                                               .thread_count = s->thread_count,
                                               .on_step = check_step,
                                               .user = s,
                                               .marked_first = 1,
                                               .marked_last = marked};
    DS_TRY(ds_trainer_open(&options, &s->trainer));
    DS_TRY(ds_comm_agreed(bench->world, open_rest(s)));
    s->resumed_ns = ds_clock_mono_ns(command->clock);
    command->peers_wait = 1;
    DS_TRY(ds_trainer_run(s->trainer));
    command->peers_wait = 0;
    return report(s);
}

ds_status ds_bench_step(struct bench *bench)
{
    struct step_bench *s = calloc(1, sizeof *s);
    uint64_t repeats = bench->repeats;
    ds_status st = s ? DS_OK : ds_fail(DS_ERR_NO_MEMORY, "bench step");

    if (st == DS_OK)
        st = bench_option_count(bench, "--steps", 1, BENCH_REPEATS_MAX, &repeats);
    if (st == DS_OK && (bench->argc < 1 || bench->argv[0][0] == '-'))
        st = ds_fail(DS_ERR_CONFIG, "usage: dstrain bench step config.ini [section.key=value ...] "
                                    "[--steps N] [--quick]");
    DS_TRY_GOTO(st, ds_comm_agreed(bench->world, st), done);
    DS_ASSERT(s != NULL); /* agreed is what was fine here, too */
    bench->repeats = (uint32_t)repeats;
    s->bench = bench;
    s->gemm_size = bench->is_quick ? GEMM_SIZE_QUICK : GEMM_SIZE;
    st = run(s);
    if (!bench->command->peers_wait) {
        bench_product_close(&s->product);
        ds_trainer_close(s->trainer);
    }
    bench_tokens_remove(bench, &s->tokens);
    bench_bubble_fini(&s->bubble);
done:
    free(s);
    return st;
}
