/* bench_step.c - a real training step against the rate of a matrix product, measured in the same run with
 * the same threads: behind every step all ranks multiply 2048 x 2048 matrices, so that a noisy minute
 * meets both.
 *
 * GEMM FLOPs of a step = 6 * tokens * elements of matrices that multiply activations: every projection
 * and the head (a tied head counts, the embedding's look-up does not); 2 forward, 4 backward. Attention's
 * own products are left out, so the fraction is of a little more work than it is given credit for.
 *
 * Waits of a step are those of the rank that waits longest; a pipeline's bubbles, see bench_bubble.h. */
#include "bench.h"
#include "bench_bubble.h"
#include "plan.h"

#include "dstrain/hf.h"
#include "dstrain/safetensors.h"
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

struct step_bench {
    struct bench *bench;
    struct ds_config config;
    char folder[256]; /* of random tokens; "": none made */
    /* owns */
    struct ds_trainer *trainer;
    struct ds_stream *stream; /* of the trainer's device, for the product */
    void *matrices[3];
    size_t gemm_size;
    int thread_count;
    /* measured */
    uint64_t resumed_ns, steps_done;
    double samples[MEASURED_COUNT][BENCH_REPEATS_MAX];
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
    static const char *const always[] = {
        "schedule.kind=constant", "schedule.warmup_steps=0", "data.eval=",
        "train.eval_interval=0",  "run.export=none",         "log.trace="};
    static const char *const random_data[] = {"data.train=random", "data.format=safetensors"};
    struct bench *bench = s->bench;
    const char **overrides = calloc((size_t)bench->argc + 16, sizeof *overrides);
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

/* ---- random tokens, in a folder of each rank's own */

static ds_status write_tokens(struct step_bench *s, const char *path, uint64_t vocab)
{
    const struct ds_random random = ds_random_of(1, DS_RANDOM_TEST, 0);
    const uint64_t batch = s->config.train.global_batch_size, width = s->config.train.seq_length;
    const uint64_t rows = batch > DATA_SAMPLES_MIN ? batch : DATA_SAMPLES_MIN;
    const struct ds_safetensors_item item = {"input_ids", DS_I64, 2, {rows, width}};
    struct ds_safetensors_writer *writer;
    int64_t *row = malloc(width * sizeof *row);
    ds_status st = DS_OK;

    if (!row)
        return ds_fail(DS_ERR_NO_MEMORY, "a row of tokens");
    DS_TRY_GOTO(st, ds_safetensors_create(s->bench->command->fs, path, &item, 1, NULL, &writer),
                done);
    for (uint64_t r = 0; r < rows && st == DS_OK; r++) {
        for (uint64_t i = 0; i < width; i++)
            row[i] = (int64_t)ds_random_below(random, r * width + i, vocab);
        st = ds_safetensors_write(writer, 0, r * width, width, row);
    }
    if (st == DS_OK)
        st = ds_safetensors_commit(writer);
    else
        ds_safetensors_abandon(writer);
done:
    free(row);
    return st;
}

static ds_status make_data(struct step_bench *s)
{
    const char *base = getenv("TMPDIR");
    uint64_t vocab = s->config.model.vocab_size;
    struct ds_model_config model;

    if (s->config.model.path[0]) {
        DS_TRY(ds_hf_read_config(s->bench->command->fs, s->config.model.path, &model));
        vocab = model.vocab_size;
    }
    snprintf(s->folder, sizeof s->folder, "%s/dstrain-bench-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(s->folder)) {
        s->folder[0] = '\0';
        return ds_fail(DS_ERR_IO, "no folder for random tokens can be made in %s",
                       base ? base : "/tmp");
    }
    snprintf(s->config.data.train, sizeof s->config.data.train, "%s/tokens.safetensors", s->folder);
    return write_tokens(s, s->config.data.train, vocab);
}

/* ---- the product */

static ds_status open_gemm(struct step_bench *s)
{
    struct ds_device *device = ds_trainer_device(s->trainer);
    const size_t bytes = s->gemm_size * s->gemm_size * sizeof(float);
    float *host = malloc(bytes);
    ds_status st = DS_OK;

    if (!host)
        return ds_fail(DS_ERR_NO_MEMORY, "a matrix of %zu bytes", bytes);
    ds_random_normal(ds_random_of(1, DS_RANDOM_TEST, 1), 0, s->gemm_size * s->gemm_size, 1, host);
    DS_TRY_GOTO(st, device->ops->stream_open(device, 0, &s->stream), done);
    for (int i = 0; i < 3; i++) {
        DS_TRY_GOTO(st, device->ops->alloc(device, DS_MEMORY_DEVICE, bytes, 0, &s->matrices[i]),
                    done);
        DS_TRY_GOTO(st, device->ops->copy(s->stream, s->matrices[i], host, bytes), done);
        DS_TRY_GOTO(st, device->ops->stream_sync(s->stream), done);
    }
done:
    free(host);
    return st;
}

static void close_gemm(struct step_bench *s)
{
    struct ds_device *device = s->trainer ? ds_trainer_device(s->trainer) : NULL;

    if (!device || !s->stream)
        return;
    device->ops->stream_close(s->stream);
    for (int i = 0; i < 3; i++)
        if (s->matrices[i])
            device->ops->release(device, DS_MEMORY_DEVICE, s->matrices[i],
                                 s->gemm_size * s->gemm_size * sizeof(float));
}

static ds_status run_gemm(struct step_bench *s, double *seconds)
{
    struct ds_device *device = ds_trainer_device(s->trainer);
    const struct ds_clock *clock = s->bench->command->clock;
    const uint64_t n = s->gemm_size;
    const struct ds_matmul_args args = {.a = ds_tensor2(s->matrices[0], DS_F32, n, n),
                                        .b = ds_tensor2(s->matrices[1], DS_F32, n, n),
                                        .c = ds_tensor2(s->matrices[2], DS_F32, n, n)};
    uint64_t start_ns;

    DS_TRY(ds_comm_barrier(s->bench->world)); /* all ranks at once, as in a step */
    start_ns = ds_clock_mono_ns(clock);
    DS_TRY(device->ops->kernels->matmul(s->stream, &args));
    DS_TRY(device->ops->stream_sync(s->stream));
    *seconds = (double)(ds_clock_mono_ns(clock) - start_ns) * 1e-9;
    return ds_comm_barrier(s->bench->world);
}

/* ---- the steps */

/* From the end of the product behind one step to the end of the next step. */
static ds_status on_step(void *user, const struct ds_step_report *report)
{
    struct step_bench *s = user;
    const struct ds_clock *clock = s->bench->command->clock;
    const uint64_t now_ns = ds_clock_mono_ns(clock), i = s->steps_done;
    double unused;

    if (report->step > s->bench->warmups) {
        s->samples[STEP][i] = (double)(now_ns - s->resumed_ns) * 1e-9;
        s->samples[WAIT_COMM][i] = report->wait_comm_s;
        bench_bubble_add(&s->bubble, report);
        DS_TRY(run_gemm(s, &s->samples[GEMM][i]));
        s->steps_done++;
    } else {
        DS_TRY(run_gemm(s, &unused));
    }
    s->resumed_ns = ds_clock_mono_ns(clock);
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
    return on_step(s, report);
}

/* ---- figures */

static double over(double bubble, double ideal)
{
    return ideal > 0 ? bubble / ideal : NAN;
}

static ds_status print_step(struct step_bench *s, const struct bench_spread spread[MEASURED_COUNT],
                            const struct bench_bubble_figures *b)
{
    const struct ds_model *model = ds_trainer_model(s->trainer);
    const uint32_t ranks = s->bench->world->size;
    const double tokens = (double)(s->config.train.global_batch_size * s->config.train.seq_length);
    const double flops = gemm_flops_per_token(model) * tokens;
    const double n = (double)s->gemm_size, rate = ranks * 2 * n * n * n / spread[GEMM].median;
    char what[160], product[160];

    snprintf(what, sizeof what, "%s %llu parameters %llu x %llu tokens %u ranks %d threads",
             ds_family_name(model->config.family), (unsigned long long)model->elems_total,
             (unsigned long long)s->config.train.global_batch_size,
             (unsigned long long)s->config.train.seq_length, ranks, s->thread_count);
    snprintf(product, sizeof product, "matmul %zu cubed on each of %u ranks %d threads",
             s->gemm_size, ranks, s->thread_count);
    const struct bench_figure of_step[] = {
        {"ranks", ranks},
        {"threads", s->thread_count},
        {"tokens", tokens},
        {"tokens_per_s", tokens / spread[STEP].median},
        {"gemm_flops", flops},
        {"gflop_per_s", flops / spread[STEP].median * 1e-9},
        {"gemm_fraction", flops / rate / spread[STEP].median},
        {"all_flops", ds_model_flops_per_token(model, s->config.train.seq_length) * tokens},
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
    };
    const struct bench_figure of_product[] = {{"gflop_per_s", rate * 1e-9}};

    DS_TRY(
        bench_print(s->bench, what, "s", &spread[STEP], of_step, sizeof of_step / sizeof *of_step));
    DS_TRY(bench_print(s->bench, product, "s", &spread[GEMM], of_product, 1));
    return bench_print(s->bench, "GEMM time of a step / step time, pair by pair", "1",
                       &spread[SHARE], NULL, 0);
}

static ds_status report(struct step_bench *s)
{
    struct ds_comm *world = s->bench->world;
    const double n = (double)s->gemm_size;
    const double tokens = (double)(s->config.train.global_batch_size * s->config.train.seq_length);
    const double flops = gemm_flops_per_token(ds_trainer_model(s->trainer)) * tokens / world->size;
    struct bench_spread spread[MEASURED_COUNT];
    struct bench_bubble_figures bubbles;

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

static ds_status open_rest(struct step_bench *s)
{
    DS_TRY(bench_bubble_init(&s->bubble, ds_trainer_model(s->trainer)->block_count));
    return open_gemm(s);
}

static ds_status run(struct step_bench *s)
{
    struct bench *bench = s->bench;
    struct ds_command *command = bench->command;
    uint32_t given = 0;

    DS_TRY(load_config(s, &given));
    if (!(given & HAS_DATA))
        DS_TRY(ds_comm_agreed(bench->world, make_data(s)));
    DS_TRY(
        ds_plan_together(bench->world, command->fs, command->clock, DS_CONFIG_TRAIN, &s->config));
    s->thread_count = bench_threads(bench, s->config.run.threads);
    const struct ds_trainer_options options = {.config = &s->config,
                                               .mode = DS_TRAINER_TRAIN,
                                               .world = bench->world,
                                               .fs = command->fs,
                                               .clock = command->clock,
                                               .thread_count = s->thread_count,
                                               .on_step = check_step,
                                               .user = s};
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
        close_gemm(s);
        ds_trainer_close(s->trainer);
    }
    if (s->folder[0])
        (void)ds_fs_remove_tree(bench->command->fs, s->folder);
    bench_bubble_fini(&s->bubble);
done:
    free(s);
    return st;
}
