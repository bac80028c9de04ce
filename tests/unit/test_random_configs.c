// link: launch
// timeout: 3600
// private: launch
// cost: 50
/* Configurations drawn at random over all keys of model, batch, layout, memory and precision: each trains
 * to the losses of one rank, or is refused, and then for a reason that is true and with advice that holds.
 * Learning, checkpoints and limits of memory are drawn, too; with a limit that is what a run takes at least it
 * trains all the same. 30 of them, 200 in the long mode. */
#include "test.h"

#include "advice.h"
#include "capture.h"
#include "config/config.h"
#include "plan.h"
#include "tiny_run.h"

#include "dstrain/random.h"

#include <math.h>
#include <stdio.h>

enum { STEPS = 6 };

/* No limit; far more than the run takes; what it takes at least, to the byte. */
enum { NO_LIMIT, WIDE_LIMIT, EXACT_LIMIT };

static char *folder, *data, text_data[600], checkpoints[600];
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
    int is_text, data_is_auto, shard_is_auto, transport, has_eval, decays_all, schedule_kind;
    uint64_t vocabulary, head_dim, positions, logits, threads; /* 0: auto */
    uint64_t eval_interval, warmup, clip, beta1, beta2, decay; /* the last four in hundredths */
    uint64_t learning_rate, least_rate;                        /* in hundred thousandths */
    uint64_t eval_samples, decay_steps, rope_theta, interval, keep, keep_every, buffer;
    int init_range, norm_eps, eps, is_ordered, limits;
    uint64_t away[5], depth, block_size; /* of params, master, moments, grads, in hundredths */
    int updates;                         /* enum ds_updates_when */
    int is_on_host;                      /* updates */
    uint64_t kept_away;                  /* of layers, in hundredths */
};

static struct numbers draw_layout(void)
{
    struct numbers n = {.tensor = PICK(1, 1, 2, 2, 3, 4), .pipeline = PICK(1, 1, 2, 2, 3, 4)};
    const uint64_t most = 8 / (n.tensor * n.pipeline);

    n.data = most > 0 ? 1 + draw(most) : 1;
    n.ranks = n.data * n.tensor * n.pipeline;
    n.data_is_auto = draw(3) == 0;
    n.shard_is_auto = draw(3) == 0;
    n.schedule = (int)draw(4);
    n.chunks = n.schedule == DS_PIPELINE_INTERLEAVED && n.pipeline > 1 ? 2 : draw(30) == 0 ? 2 : 1;
    n.shard = draw(2) || n.shard_is_auto ? n.data : n.data % 2 == 0 ? n.data / 2 : 1;
    n.sp = (int)draw(2);
    n.transport = draw(150) == 0 ? DS_TRANSPORT_NCCL : DS_TRANSPORT_AUTO;
    return n;
}

static void draw_model(struct numbers *n)
{
    n->layers = n->pipeline * n->chunks + draw(3);
    n->heads = n->tensor * PICK(1, 2, 3) + (draw(25) == 0);
    n->kv_heads = n->tensor == 4 ? PICK(1, 2, 4) : PICK(1, n->tensor);
    n->head_dim = draw(150) == 0 ? 5 : PICK(4, 4, 6, 8);
    n->intermediate = draw(50) == 0 ? 3 : PICK(17, 40, 64, 100);
    n->is_text = draw(3) == 0;
    n->vocabulary = n->is_text ? PICK(0, 259, 263, 300) : PICK(TINY_VOCAB, 64, 67, 101);
    if (n->is_text && draw(50) == 0)
        n->vocabulary = 100;
    n->seq = n->is_text ? PICK(8, 15, 24, 30) : TINY_SEQ;
    n->positions = draw(150) == 0 ? n->seq - 1 : draw(2) ? 0 : n->seq + draw(9);
    n->family = (int)draw(DS_FAMILY_COUNT);
    n->tied = (int)draw(2);
    n->rope_theta = PICK(100, 10000, 500000);
    n->init_range = (int)draw(3);
    n->norm_eps = (int)draw(2);
}

/* Mostly what its kind allows. */
static void draw_schedule(struct numbers *n)
{
    static const uint64_t none = 0;
    const int is_odd = draw(50) == 0;

    n->schedule_kind = (int)draw(4);
    n->warmup = draw(150) == 0 ? STEPS + 1 : draw(STEPS);
    n->learning_rate = PICK(30, 100, 200);
    n->decay_steps = n->schedule_kind == DS_LR_CONSTANT ? none : PICK(0, 0, 2, 5);
    n->least_rate = n->schedule_kind == DS_LR_CONSTANT ? none : PICK(0, 0, 10, 30);
    if (n->schedule_kind == DS_LR_WSD)
        n->decay_steps = n->warmup < STEPS ? 1 + draw(STEPS - n->warmup) : 1;
    if (is_odd && draw(2))
        n->decay_steps = n->schedule_kind == DS_LR_WSD ? PICK(0, STEPS + 1) : 3;
    else if (is_odd)
        n->least_rate = n->learning_rate + 10;
}

static void draw_checkpoints(struct numbers *n)
{
    n->interval = PICK(0, 0, 2, 3, 7);
    n->keep = 1 + draw(3);
    n->keep_every = n->interval > 0 || draw(75) == 0 ? PICK(0, 2, 6) : 0;
    n->buffer = PICK(0, 0, 1, 5000, 100000);
}

/* What is no layout and no storage: learning, evaluation, memory of the head, threads. */
static void draw_training(struct numbers *n)
{
    n->has_eval = (int)draw(2);
    n->eval_interval = n->has_eval || draw(75) == 0 ? PICK(0, 2, 5) : 0;
    n->eval_samples = n->has_eval || draw(75) == 0 ? PICK(0, 1, 5) : 0;
    draw_schedule(n);
    n->eps = (int)draw(2);
    n->is_ordered = (int)draw(2);
    n->clip = PICK(0, 30, 100);
    n->beta1 = PICK(0, 80, 90);
    n->beta2 = PICK(90, 95, 99);
    n->decay = PICK(0, 10);
    n->decays_all = (int)draw(2);
    n->logits = PICK(0, 1, 20000, 100000);
    n->threads = PICK(1, 1, 2);
    n->limits = (int)draw(3);
    draw_checkpoints(n);
}

/* What the optimizer alone has must be there; and files are none of its business. */
static int host_may_update(const struct numbers *n)
{
    const int has_master = n->compute != DS_PRECISION_FP32 && n->master != DS_MASTER_KEY_NONE;

    return n->depth % 2 && n->away[2] > 0 && n->away[3] > 0 && (!has_master || n->away[1] > 0);
}

static void draw_homes(struct numbers *n)
{
    const int has_master = n->compute != DS_PRECISION_FP32 && n->master != DS_MASTER_KEY_NONE;
    const int is_own = n->stage > 0 || n->shard == 1;

    for (int i = 0; i < 5; i++) {
        const int is_possible = i == 0 ? n->stage == 3 : i == 1 ? is_own && has_master : is_own;
        n->away[i] = is_possible || draw(50) == 0 ? PICK(0, 0, 40, 100) : 0;
    }
    n->kept_away = PICK(0, 0, 60, 100);
    n->depth = 1 + draw(3);
    n->updates = (int)draw(2);
    n->is_on_host = host_may_update(n) ? (int)draw(2) : draw(50) == 0;
    n->block_size = PICK(8192, 16384, 16777216);
}

/* Mostly what fits together; now and then one number that does not. */
static struct numbers draw_numbers(void)
{
    struct numbers n = draw_layout();

    draw_model(&n);
    draw_training(&n);
    n.micro = PICK(1, 1, 2);
    n.global = n.data * n.micro * (1 + draw(4)) + (draw(25) == 0);
    n.stage = draw(4);
    n.window = n.stage == 3    ? draw(n.global / (n.data * n.micro) + 1) + (draw(25) == 0)
               : draw(30) == 0 ? 2
                               : 0;
    n.recompute = (int)draw(3);
    n.reshard = (int)draw(3);
    n.mode = (int)draw(2);
    n.compute = draw(2) ? DS_PRECISION_FP32 : (int)PICK(DS_PRECISION_BF16, DS_PRECISION_FP16);
    n.master = n.compute == DS_PRECISION_BF16 || draw(25) == 0 ? (int)draw(3) : DS_MASTER_KEY_FP32;
    n.exp_avg = draw(3) == 0;
    n.exp_avg_sq = draw(3) == 0;
    n.gradients = draw(4) == 0;
    n.reduce = n.compute != DS_PRECISION_FP16 && draw(4) == 0;
    draw_homes(&n);
    return n;
}

/* ---- as a person would write it */

static size_t write_count(char *to, size_t bytes, const char *key, uint64_t count)
{
    if (count == 0)
        return (size_t)snprintf(to, bytes, "%s = auto\n", key);
    return (size_t)snprintf(to, bytes, "%s = %llu\n", key, (unsigned long long)count);
}

static size_t write_model(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const families[] = {"llama", "qwen2", "qwen3"};
    static const char *const bools[] = {"false", "true"};
    static const char *const ranges[] = {"0.08", "0.05", "0.02"};
    static const char *const epsilons[] = {"1e-5", "1e-6"};
    size_t used = (size_t)snprintf(
        to, bytes,
        "[model]\nfamily = %s\nhidden_size = %llu\nintermediate_size = %llu\n"
        "num_hidden_layers = %llu\nnum_attention_heads = %llu\nnum_key_value_heads = %llu\n"
        "head_dim = %llu\nrms_norm_eps = %s\ninitializer_range = %s\nrope_theta = %llu\n"
        "tie_word_embeddings = %s\n",
        name_of(families, n->family), (unsigned long long)(4 * n->heads),
        (unsigned long long)n->intermediate, (unsigned long long)n->layers,
        (unsigned long long)n->heads, (unsigned long long)n->kv_heads,
        (unsigned long long)n->head_dim, name_of(epsilons, n->norm_eps),
        name_of(ranges, n->init_range), (unsigned long long)n->rope_theta, name_of(bools, n->tied));

    used += write_count(to + used, bytes - used, "vocab_size", n->vocabulary);
    return used + write_count(to + used, bytes - used, "max_position_embeddings", n->positions);
}

static size_t write_training(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const recomputes[] = {"none", "selective", "full"};
    static const char *const decays[] = {"matrices", "all"};
    static const char *const bools[] = {"false", "true"};
    const char *from = n->is_text ? text_data : data;

    return (size_t)snprintf(
        to, bytes,
        "[data]\ntrain = %s\neval = %s\nformat = %s\ncache = %s/cache\nshuffle = %s\n"
        "[train]\nsteps = %d\nglobal_batch_size = %llu\nmicro_batch_size = %llu\n"
        "seq_length = %llu\nactivation_checkpointing = %s\ngrad_clip = %g\n"
        "eval_interval = %llu\neval_samples = %llu\n"
        "[optimizer]\nlearning_rate = %llue-5\neps = %s\nbeta1 = %g\nbeta2 = %g\n"
        "weight_decay = %g\nweight_decay_on = %s\n",
        from, n->has_eval ? from : "", n->is_text ? "text" : "safetensors", folder,
        name_of(bools, !n->is_ordered), STEPS, (unsigned long long)n->global,
        (unsigned long long)n->micro, (unsigned long long)n->seq, name_of(recomputes, n->recompute),
        (double)n->clip / 100, (unsigned long long)n->eval_interval,
        (unsigned long long)n->eval_samples, (unsigned long long)n->learning_rate,
        n->eps ? "1e-4" : "1e-5", (double)n->beta1 / 100, (double)n->beta2 / 100,
        (double)n->decay / 100, name_of(decays, n->decays_all));
}

static size_t write_schedule(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const kinds[] = {"constant", "linear", "cosine", "wsd"};

    return (size_t)snprintf(to, bytes,
                            "[schedule]\nkind = %s\nwarmup_steps = %llu\ndecay_steps = %llu\n"
                            "min_learning_rate = %llue-5\n",
                            name_of(kinds, n->schedule_kind), (unsigned long long)n->warmup,
                            (unsigned long long)n->decay_steps, (unsigned long long)n->least_rate);
}

static size_t write_checkpoints(const struct numbers *n, char *to, size_t bytes)
{
    size_t used = (size_t)snprintf(to, bytes,
                                   "[checkpoint]\ndir = %s\ninterval = %llu\nkeep = %llu\n"
                                   "keep_every = %llu\n",
                                   checkpoints, (unsigned long long)n->interval,
                                   (unsigned long long)n->keep, (unsigned long long)n->keep_every);

    return used + write_count(to + used, bytes - used, "buffer", n->buffer);
}

static size_t write_precision(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const precisions[] = {"fp32", "bf16", "fp16"};
    static const char *const masters[] = {"fp32", "remainder16", "none"};

    return (size_t)snprintf(to, bytes,
                            "[precision]\ncompute = %s\nmaster = %s\nexp_avg = %s\n"
                            "exp_avg_sq = %s\ngradients = %s\nreduce = %s\n",
                            name_of(precisions, n->compute), name_of(masters, n->master),
                            name_of(precisions, n->exp_avg), name_of(precisions, n->exp_avg_sq),
                            name_of(precisions, n->gradients), name_of(precisions, n->reduce));
}

static size_t write_layout(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero_bubble"};
    static const char *const reshards[] = {"auto", "always", "never"};
    static const char *const bools[] = {"false", "true"};
    size_t used = (size_t)snprintf(
        to, bytes,
        "[parallel]\ntensor = %llu\npipeline = %llu\nchunks = %llu\nschedule = %s\n"
        "sequence_parallel = %s\ntransport = %s\n",
        (unsigned long long)n->tensor, (unsigned long long)n->pipeline,
        (unsigned long long)n->chunks, name_of(schedules, n->schedule), name_of(bools, n->sp),
        n->transport == DS_TRANSPORT_NCCL ? "nccl" : "auto");

    used += write_count(to + used, bytes - used, "data", n->data_is_auto ? 0 : n->data);
    used += write_count(to + used, bytes - used, "shard", n->shard_is_auto ? 0 : n->shard);
    used += (size_t)snprintf(to + used, bytes - used,
                             "[zero]\nstage = %llu\nreshard_after_forward = %s\n",
                             (unsigned long long)n->stage, name_of(reshards, n->reshard));
    used += write_count(to + used, bytes - used, "window", n->window);
    used += (size_t)snprintf(to + used, bytes - used, "[memory]\n");
    if (n->limits == WIDE_LIMIT)
        used += (size_t)snprintf(to + used, bytes - used,
                                 "device_limit = 1000000000000\nhost_limit = 1000000000000\n");
    return used + write_count(to + used, bytes - used, "logits", n->logits);
}

static const char *const home_kinds[] = {"params", "master", "exp_avg", "exp_avg_sq", "grads"};

static size_t write_homes(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const times[] = {"end", "late"};
    size_t used = (size_t)snprintf(
        to, bytes,
        "[offload]\ndepth = %llu\nblock_size = %llu\nupdates = %s\noptimizer_compute = %s\n",
        (unsigned long long)n->depth, (unsigned long long)n->block_size, name_of(times, n->updates),
        n->is_on_host ? n->depth % 3 ? "cpu" : "cpu:0.3" : "gpu");

    used += (size_t)snprintf(to + used, bytes - used, "directories = %s\n", folder);
    if (n->kept_away > 0)
        used += (size_t)snprintf(to + used, bytes - used, "activations = %s:%g\n",
                                 n->depth % 2 ? "nvme" : "host", (double)n->kept_away / 100);
    for (int i = 0; i < 5; i++)
        used += (size_t)snprintf(to + used, bytes - used,
                                 n->away[i] ? "%s = %s:%g\n" : "%s = device\n", home_kinds[i],
                                 n->depth % 2 ? "host" : "nvme", (double)n->away[i] / 100);
    return used;
}

static void write_config(const struct numbers *n, char *to, size_t bytes)
{
    static const char *const modes[] = {"inline", "deferred"};
    size_t used = (size_t)snprintf(to, bytes,
                                   "[run]\ndir = unused\ndevice = cpu\ncpu_streams = %s\n"
                                   "threads = %llu\nseed = 3\ndeadline = 60\n",
                                   name_of(modes, n->mode), (unsigned long long)n->threads);

    used += write_model(n, to + used, bytes - used);
    used += write_training(n, to + used, bytes - used);
    used += write_schedule(n, to + used, bytes - used);
    used += write_precision(n, to + used, bytes - used);
    used += write_layout(n, to + used, bytes - used);
    used += write_homes(n, to + used, bytes - used);
    used += write_checkpoints(n, to + used, bytes - used);
    assert_true(used < bytes);
}

static const char *true_reason_of_schedule(const struct numbers *n)
{
    if (n->schedule_kind == DS_LR_CONSTANT && n->decay_steps > 0)
        return "decay_steps";
    if (n->least_rate > (n->schedule_kind == DS_LR_CONSTANT ? 0 : n->learning_rate))
        return "min_learning_rate";
    if (n->warmup > STEPS)
        return "warmup_steps";
    if (n->schedule_kind == DS_LR_WSD &&
        (n->decay_steps == 0 || n->decay_steps + n->warmup > STEPS))
        return "decay_steps";
    return NULL;
}

/* The key that a refusal may name, where the numbers really do not fit; NULL: they do. In the order in which
 * they are looked at. */
static const char *true_reason(const struct numbers *n)
{
    const int is_interleaved = n->schedule == DS_PIPELINE_INTERLEAVED;

    if (n->transport == DS_TRANSPORT_NCCL)
        return "transport";
    if (n->heads % n->kv_heads != 0)
        return "num_key_value_heads";
    if (n->head_dim % 2 != 0)
        return "head_dim";
    if (n->is_text && n->vocabulary > 0 && n->vocabulary < 259)
        return "vocab_size";
    if (n->positions > 0 && n->positions < n->seq)
        return "seq_length";
    if (n->chunks > 1 && (!is_interleaved || n->pipeline == 1))
        return "chunks";
    if (is_interleaved && n->pipeline > 1 && n->chunks == 1)
        return "schedule";
    if (n->pipeline * n->chunks > n->layers + 2)
        return "pipeline";
    if (n->heads % n->tensor != 0 ||
        (n->kv_heads % n->tensor != 0 && n->tensor % n->kv_heads != 0) ||
        n->intermediate < n->tensor)
        return "tensor";
    if (n->sp && n->micro * n->seq % n->tensor != 0)
        return "sequence_parallel";
    if (n->global % (n->micro * n->data) != 0)
        return "global_batch_size";
    if (n->master != DS_MASTER_KEY_FP32 && n->compute != DS_PRECISION_BF16)
        return "master";
    if (n->window > 1 && (n->stage != 3 || n->window > n->global / (n->micro * n->data)))
        return "window";
    if (n->is_on_host && !host_may_update(n))
        return "optimizer_compute";
    if (n->away[0] > 0 && n->stage != 3)
        return "params";
    if (n->away[1] > 0 && (n->compute == DS_PRECISION_FP32 || n->master == DS_MASTER_KEY_NONE))
        return "master";
    for (int i = 1; i < 5 && n->stage == 0 && n->shard > 1; i++)
        if (n->away[i] > 0)
            return home_kinds[i];
    if (true_reason_of_schedule(n))
        return true_reason_of_schedule(n);
    if (n->eval_interval > 0 && !n->has_eval)
        return "eval_interval";
    if (n->eval_samples > 0 && !n->has_eval)
        return "eval_samples";
    return n->keep_every > 0 && n->interval == 0 ? "keep_every" : NULL;
}

/* What a person would do: parse, with changes on the command line, resolve, validate. */
static ds_status load(const char *text, const struct advice *advice, uint64_t ranks,
                      struct ds_config *config, char *said, size_t bytes)
{
    const char *overrides[ADVICE_CHANGES_MAX];
    struct capture capture;
    size_t count = 0;
    ds_status st;

    for (; advice && count < advice->count; count++)
        overrides[count] = advice->changes[count];
    capture_begin(&capture);
    st = ds_config_parse("drawn.ini", text, strlen(text), overrides, count, config);
    if (st == DS_OK) {
        ds_config_resolve(config, ranks);
        st = ds_config_validate(config, DS_CONFIG_TRAIN, ranks);
    }
    snprintf(said, bytes, "%s", capture_end(&capture));
    return st;
}

/* Where one number does not fit, what is advised is all there is to do; of several, it names the next. */
static void check_advice(const char *text, uint64_t ranks, const char *refusal)
{
    const struct advice advice = advice_read(refusal);
    struct ds_config config;
    char said[4096] = "";

    if (advice.ranks > 0 && load(text, NULL, advice.ranks, &config, said, sizeof said) != DS_OK)
        fail_msg("%s\n%s\nand on so many ranks: %s", text, refusal, said);
    if (advice.count == 0 && advice.ranks == 0)
        fail_msg("%s\n%s\nis no advice", text, refusal);
    if (advice.count > 0 && !advice.also[0] &&
        load(text, &advice, ranks, &config, said, sizeof said) != DS_OK)
        fail_msg("%s\n%s\nand with that: %s", text, refusal, said);
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
    one->offload.params = one->offload.master = one->offload.exp_avg = one->offload.exp_avg_sq =
        one->offload.grads = one->offload.activations = (struct ds_home_key){0};
    one->offload.updates = DS_UPDATES_KEY_END;
    one->offload.optimizer_compute = (struct ds_home_key){DS_OPTIMIZER_GPU, 0};
    one->run.cpu_streams = DS_DEVICE_INLINE;
    one->checkpoint.interval = 0;
    one->checkpoint.dir[0] = '\0';
}

/* Settles and measures the run. A buffer that is too little for a unit is refused, and what is advised takes it. */
static void take_buffers(const struct ds_plan_question *question, struct ds_config *config,
                         struct ds_plan *worst, const char *text)
{
    static const char key[] = "[checkpoint] buffer = ", nearest[] = "; nearest: ";

    for (uint32_t role, i = 0;; i++) {
        struct capture capture;
        capture_begin(&capture);
        ds_status st = ds_plan_settle(question, config);
        if (st == DS_OK)
            st = ds_plan_worst(question, worst, &role);
        const char *said = capture_end(&capture), *advice = strstr(said, nearest);
        if (st == DS_OK)
            return;
        if (i == 8 || st != DS_ERR_CONFIG || !strstr(said, key) || !advice)
            fail_msg("%s\n%s", text, said);
        config->checkpoint.buffer = strtoull(advice + strlen(nearest), NULL, 10);
    }
}

/* What a run does before it begins; a limit that is what the run takes at least leaves nothing out. */
static void settle(const struct numbers *n, struct ds_config *config, const char *text)
{
    const struct ds_plan_question question = {.config = config,
                                              .fs = ds_fs_posix(),
                                              .clock = ds_clock_system(),
                                              .size = (uint32_t)n->ranks};
    const struct ds_config drawn_config = *config;
    struct ds_plan worst;

    take_buffers(&question, config, &worst, text);
    if (n->limits == EXACT_LIMIT) {
        const uint64_t buffer = config->checkpoint.buffer;
        *config = drawn_config;
        config->checkpoint.buffer = buffer;
        config->memory.device_limit = ds_plan_process_bytes(&worst);
        assert_ok(ds_plan_settle(&question, config));
    }
    if (ds_plan_check(&question) != DS_OK)
        fail_msg("%s\ndoes not fit", text);
}

static void check_memory(const struct numbers *n, const struct ds_config *config,
                         const struct tiny_result *result, const char *text)
{
    for (uint64_t rank = 0; rank < n->ranks; rank++) {
        uint64_t bytes = 0;

        for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
            bytes += result->bytes[rank][DS_MEMORY_DEVICE][label];
        if (config->memory.device_limit != DS_AUTO && bytes > config->memory.device_limit)
            fail_msg("%s\nrank %llu takes %llu bytes, its limit is %llu", text,
                     (unsigned long long)rank, (unsigned long long)bytes,
                     (unsigned long long)config->memory.device_limit);
    }
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

static void check_trained(const struct numbers *n, struct ds_config *config, const char *text)
{
    struct ds_config one_config;

    settle(n, config, text);
    one_rank(config, &one_config);
    (void)ds_fs_remove_tree(ds_fs_posix(), checkpoints);
    struct tiny_result many = run(config, n->ranks, text), one = run(&one_config, 1, text);
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(many.loss[i] - one.loss[i]) <= tolerance(n) * fabs(one.loss[i])))
            fail_msg("%s\nstep %d: loss %.9g, on one rank %.9g", text, i + 1, many.loss[i],
                     one.loss[i]);
    if (n->has_eval && !(fabs(many.eval_loss - one.eval_loss) <= tolerance(n) * one.eval_loss))
        fail_msg("%s\nevaluation: %.9g, on one rank %.9g", text, many.eval_loss, one.eval_loss);
    check_memory(n, config, &many, text);
    tiny_result_fini(&many);
    tiny_result_fini(&one);
}

/* Loads what was drawn: 1 where it may train; 0 where it is refused, and the reason is true. */
static int is_accepted(const struct numbers *n, struct ds_config *config, char *text, size_t bytes)
{
    const char *reason = true_reason(n);
    char said[4096];

    write_config(n, text, bytes);
    const ds_status st = load(text, NULL, n->ranks, config, said, sizeof said);
    if (st == DS_OK && !reason)
        return 1;
    if (st != DS_ERR_CONFIG || !reason || !strstr(said, reason))
        fail_msg("%s\n%s: '%s', but the reason would be %s", text, ds_status_text(st), said,
                 reason ? reason : "none");
    check_advice(text, n->ranks, said);
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

/* Of so many that chance says nothing: about a fifth are refused. */
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

static void write_text(void)
{
    static char letters[20000];

    for (size_t i = 0; i < sizeof letters; i++)
        letters[i] = (char)('a' + draw(26));
    snprintf(text_data, sizeof text_data, "%s/letters.txt", folder);
    assert_ok(ds_fs_write_file(ds_fs_posix(), text_data, letters, sizeof letters));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_configurations_train_to_the_losses_of_one_rank),
        cmocka_unit_test(few_are_refused_and_for_a_true_reason),
    };
    int failed;

    ds_log.is_leader = 0;
    ds_log.level = DS_LOG_ERROR; /* a checkpoint that is left out is no news here */
    seed = test_seed("test_random_configs");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    write_text();
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", folder);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
