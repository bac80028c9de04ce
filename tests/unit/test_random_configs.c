// link: launch
// timeout: 3600
// private: launch
/* Configurations drawn at random over all keys of model, batch, layout, memory and precision: each trains
 * to the losses of one rank, or is refused, and then for a reason that is true. 30 of them, 200 in the
 * long mode. */
#include "test.h"

#include "capture.h"
#include "config/config.h"
#include "tiny_run.h"

#include "dstrain/random.h"

#include <math.h>
#include <stdio.h>

enum { STEPS = 6 };

static char *folder, *data;
static uint64_t seed, drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 11), drawn++, bound);
}

static uint64_t pick(const uint64_t *from, uint64_t count)
{
    return from[draw(count)];
}
#define PICK(...)                         \
    pick((const uint64_t[]){__VA_ARGS__}, \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static const char *name_of(const char *const *names, int index)
{
    return names[index];
}

struct numbers {
    uint64_t ranks, data, tensor, pipeline, chunks, shard, layers, heads, kv_heads, intermediate;
    uint64_t micro, global, seq, stage, window;
    int schedule, family, tied, recompute, sp, reshard, mode;
    int compute, master, exp_avg, exp_avg_sq, gradients, reduce;
};

/* Mostly what fits together; now and then one number that does not. */
static struct numbers draw_numbers(void)
{
    struct numbers n = {.tensor = PICK(1, 1, 2, 2, 3, 4), .pipeline = PICK(1, 1, 2, 2, 3, 4)};
    const uint64_t most = 8 / (n.tensor * n.pipeline);

    n.data = most > 0 ? 1 + draw(most) : 1;
    n.ranks = n.data * n.tensor * n.pipeline;
    n.schedule = (int)draw(4);
    n.chunks = n.schedule == DS_PIPELINE_INTERLEAVED && n.pipeline > 1 ? 2 : draw(30) == 0 ? 2 : 1;
    n.shard = draw(2) ? n.data : n.data % 2 == 0 ? n.data / 2 : 1;
    n.layers = n.pipeline * n.chunks + draw(3);
    n.heads = n.tensor * PICK(1, 2, 3) + (draw(25) == 0);
    n.kv_heads = n.tensor == 4 ? PICK(1, 2, 4) : PICK(1, n.tensor);
    n.intermediate = PICK(17, 40, 64, 100);
    n.micro = PICK(1, 1, 2);
    n.global = n.data * n.micro * (1 + draw(4)) + (draw(25) == 0);
    n.seq = TINY_SEQ;
    n.stage = draw(4);
    n.window = n.stage == 3    ? draw(n.global / (n.data * n.micro) + 1) + (draw(25) == 0)
               : draw(30) == 0 ? 2
                               : 0;
    n.family = (int)draw(DS_FAMILY_COUNT);
    n.tied = (int)draw(2);
    n.recompute = (int)draw(3);
    n.sp = (int)draw(2);
    n.reshard = (int)draw(3);
    n.mode = (int)draw(2);
    n.compute = draw(2) ? DS_PRECISION_FP32 : (int)PICK(DS_PRECISION_BF16, DS_PRECISION_FP16);
    n.master = n.compute == DS_PRECISION_BF16 || draw(25) == 0 ? (int)draw(3) : DS_MASTER_KEY_FP32;
    n.exp_avg = draw(3) == 0;
    n.exp_avg_sq = draw(3) == 0;
    n.gradients = draw(4) == 0;
    n.reduce = n.compute != DS_PRECISION_FP16 && draw(4) == 0;
    return n;
}

static void write_config(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const families[] = {"llama", "qwen2", "qwen3"};
    static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero_bubble"};
    static const char *const recomputes[] = {"none", "selective", "full"};
    static const char *const reshards[] = {"auto", "always", "never"};
    static const char *const precisions[] = {"fp32", "bf16", "fp16"};
    static const char *const masters[] = {"fp32", "remainder16", "none"};
    static const char *const modes[] = {"inline", "deferred"};
    static const char *const bools[] = {"false", "true"};
    char window[32] = "auto";

    if (n->window > 0)
        snprintf(window, sizeof window, "%llu", (unsigned long long)n->window);
    snprintf(
        to, bytes,
        "[run]\ndir = unused\ndevice = cpu\ncpu_streams = %s\nthreads = 1\nseed = 3\ndeadline = "
        "60\n"
        "[model]\nfamily = %s\nvocab_size = %d\nhidden_size = %llu\nintermediate_size = %llu\n"
        "num_hidden_layers = %llu\nnum_attention_heads = %llu\nnum_key_value_heads = %llu\n"
        "head_dim = 4\nrms_norm_eps = 1e-5\ninitializer_range = 0.08\ntie_word_embeddings = %s\n"
        "[data]\ntrain = %s\nformat = safetensors\n"
        "[train]\nsteps = %d\nglobal_batch_size = %llu\nmicro_batch_size = %llu\nseq_length = "
        "%llu\n"
        "activation_checkpointing = %s\n[optimizer]\nlearning_rate = 1e-3\neps = 1e-5\n"
        "[precision]\ncompute = %s\nmaster = %s\nexp_avg = %s\nexp_avg_sq = %s\ngradients = %s\n"
        "reduce = %s\n"
        "[parallel]\ndata = %llu\nshard = %llu\ntensor = %llu\npipeline = %llu\nchunks = %llu\n"
        "schedule = %s\nsequence_parallel = %s\n"
        "[zero]\nstage = %llu\nreshard_after_forward = %s\nwindow = %s\n",
        name_of(modes, n->mode), name_of(families, n->family), TINY_VOCAB,
        (unsigned long long)(4 * n->heads), (unsigned long long)n->intermediate,
        (unsigned long long)n->layers, (unsigned long long)n->heads,
        (unsigned long long)n->kv_heads, name_of(bools, n->tied), data, STEPS,
        (unsigned long long)n->global, (unsigned long long)n->micro, (unsigned long long)n->seq,
        name_of(recomputes, n->recompute), name_of(precisions, n->compute),
        name_of(masters, n->master), name_of(precisions, n->exp_avg),
        name_of(precisions, n->exp_avg_sq), name_of(precisions, n->gradients),
        name_of(precisions, n->reduce), (unsigned long long)n->data, (unsigned long long)n->shard,
        (unsigned long long)n->tensor, (unsigned long long)n->pipeline,
        (unsigned long long)n->chunks, name_of(schedules, n->schedule), name_of(bools, n->sp),
        (unsigned long long)n->stage, name_of(reshards, n->reshard), window);
}

/* The key that a refusal may name, where the numbers really do not fit; NULL: they do. In the order in which
 * they are looked at. */
static const char *true_reason(const struct numbers *n)
{
    const int is_interleaved = n->schedule == DS_PIPELINE_INTERLEAVED;

    if (n->heads % n->kv_heads != 0)
        return "num_key_value_heads";
    if (n->chunks > 1 && (!is_interleaved || n->pipeline == 1))
        return "chunks";
    if (is_interleaved && n->pipeline > 1 && n->chunks == 1)
        return "schedule";
    if (n->pipeline * n->chunks > n->layers + 2)
        return "pipeline";
    if (n->heads % n->tensor != 0 || (n->kv_heads % n->tensor != 0 && n->tensor % n->kv_heads != 0))
        return "tensor";
    if (n->sp && n->micro * n->seq % n->tensor != 0)
        return "sequence_parallel";
    if (n->global % (n->micro * n->data) != 0)
        return "global_batch_size";
    if (n->master != DS_MASTER_KEY_FP32 && n->compute != DS_PRECISION_BF16)
        return "master";
    if (n->window > 1 && (n->stage != 3 || n->window > n->global / (n->micro * n->data)))
        return "window";
    return NULL;
}

/* What a person would do: parse, resolve, validate. */
static ds_status load(const char *text, uint64_t ranks, struct ds_config *config, char *said,
                      size_t bytes)
{
    struct capture capture;
    ds_status st;

    capture_begin(&capture);
    st = ds_config_parse("drawn.ini", text, strlen(text), NULL, 0, config);
    if (st == DS_OK) {
        ds_config_resolve(config, ranks);
        st = ds_config_validate(config, DS_CONFIG_TRAIN, ranks);
    }
    snprintf(said, bytes, "%s", capture_end(&capture));
    return st;
}

static void one_rank(const struct ds_config *config, struct ds_config *one)
{
    *one = *config;
    one->parallel.data = one->parallel.shard = one->parallel.tensor = one->parallel.pipeline = 1;
    one->parallel.chunks = 1;
    one->parallel.schedule = DS_PIPELINE_1F1B;
    one->parallel.sequence_parallel = 0;
    one->train.activation_checkpointing = DS_RECOMPUTE_NONE;
    one->zero.window = 1;
    one->run.cpu_streams = DS_DEVICE_INLINE;
}

static struct tiny_result run(const struct ds_config *config, uint64_t ranks, const char *text)
{
    const struct tiny_case c = {.ranks = (uint32_t)ranks, .steps = STEPS, .config = config};
    struct tiny_result result;

    tiny_run(&c, &result);
    if (result.status != DS_OK || result.steps != STEPS)
        fail_msg("%s\n%s after %llu steps", text, ds_status_text(result.status),
                 (unsigned long long)result.steps);
    return result;
}

/* Rounding of what is stored in 16 bits differs between layouts; in fp32 nothing but order does. */
static double tolerance(const struct numbers *n)
{
    if (n->compute == DS_PRECISION_BF16)
        return 2e-2;
    if (n->compute == DS_PRECISION_FP16 || n->reduce || n->gradients)
        return 4e-3;
    return n->exp_avg || n->exp_avg_sq ? 1e-3 : 2e-6;
}

static void check_trained(const struct numbers *n, const struct ds_config *config, const char *text)
{
    struct ds_config one_config;

    one_rank(config, &one_config);
    struct tiny_result many = run(config, n->ranks, text), one = run(&one_config, 1, text);
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(many.loss[i] - one.loss[i]) <= tolerance(n) * fabs(one.loss[i])))
            fail_msg("%s\nstep %d: loss %.9g, on one rank %.9g", text, i + 1, many.loss[i],
                     one.loss[i]);
    tiny_result_fini(&many);
    tiny_result_fini(&one);
}

/* Loads what was drawn: 1 where it may train; 0 where it is refused, and the reason is true. */
static int is_accepted(const struct numbers *n, struct ds_config *config, char *text, size_t bytes)
{
    const char *reason = true_reason(n);
    char said[4096];

    write_config(n, text, bytes);
    const ds_status st = load(text, n->ranks, config, said, sizeof said);
    if (st == DS_OK && !reason)
        return 1;
    if (st != DS_ERR_CONFIG || !reason || !strstr(said, reason))
        fail_msg("%s\n%s: '%s', but the reason would be %s", text, ds_status_text(st), said,
                 reason ? reason : "none");
    return 0;
}

static void drawn_configurations_train_to_the_losses_of_one_rank(void **state)
{
    const int count = test_is_long() ? 200 : 30;
    int refused = 0;

    (void)state;
    for (int i = 0; i < count; i++) {
        const struct numbers n = draw_numbers();
        struct ds_config config;
        char text[4096];

        if (is_accepted(&n, &config, text, sizeof text))
            check_trained(&n, &config, text);
        else
            refused++;
    }
    printf("%d of %d configurations refused\n", refused, count);
}

/* Of so many that chance says nothing: about an eighth are refused. */
static void few_are_refused_and_for_a_true_reason(void **state)
{
    enum { COUNT = 2000 };
    int refused = 0;

    (void)state;
    for (int i = 0; i < COUNT; i++) {
        const struct numbers n = draw_numbers();
        struct ds_config config;
        char text[4096];

        refused += !is_accepted(&n, &config, text, sizeof text);
    }
    printf("%d of %d configurations refused\n", refused, COUNT);
    assert_true(refused * 4 <= COUNT);
    assert_true(refused * 20 >= COUNT); /* refusals are tried, too */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_configurations_train_to_the_losses_of_one_rank),
        cmocka_unit_test(few_are_refused_and_for_a_true_reason),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_random_configs");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
