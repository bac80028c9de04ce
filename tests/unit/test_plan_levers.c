// link: launch
// private: launch
/* What a refusal names as a remedy is one: the configuration with that key changed, and with what is said to
 * change with it, loads, and fits; and all keys that would do are named. What is left to the plan becomes the fewest gathers that fit. */
#include "test.h"

#include "advice.h"
#include "capture.h"
#include "config/config.h"
#include "console.h"
#include "plan.h"
#include "ranks.h"
#include "tiny_run.h"

#include <setjmp.h>
#include <signal.h>

static struct ds_plan_question question_of(const struct ds_config *config, uint32_t ranks)
{
    return (struct ds_plan_question){
        .config = config, .fs = ds_fs_posix(), .clock = ds_clock_system(), .size = ranks};
}

/* ---- a configuration, as a person would write it */

enum { OVERRIDES_MAX = 24 };

struct setup {
    const char *what;
    uint32_t ranks;
    const char *overrides[OVERRIDES_MAX];
};

static const char base_text[] =
    "[run]\ndir = unused\ndevice = cpu\n"
    "[model]\nfamily = llama\nvocab_size = 300\nhidden_size = 64\nintermediate_size = 160\n"
    "num_hidden_layers = 4\nnum_attention_heads = 8\nnum_key_value_heads = 8\n"
    "[data]\ntrain = unused.txt\n"
    "[train]\nsteps = 1\nglobal_batch_size = 16\nmicro_batch_size = 1\nseq_length = 48\n"
    "[zero]\nreshard_after_forward = always\nwindow = 1\n";

static int is_same_key(const char *a, const char *b)
{
    const size_t length = strcspn(a, "=");

    return length == strcspn(b, "=") && strncmp(a, b, length) == 0;
}

enum { CHANGES_MAX = 3 };

/* "a.b=1 c.d=2", cut into its changes */
static size_t cut_changes(const char *change, char to[CHANGES_MAX][64])
{
    size_t count = 0;

    for (; *change; change += strcspn(change, " "), change += *change == ' ')
        snprintf(to[count++], sizeof to[0], "%.*s", (int)strcspn(change, " "), change);
    return count;
}

/* `change` (NULL: none; or several, with blanks between) on top of the setup; 0: refused, quietly. Rows of a
 * safetensors file have the length that they have: the data would refuse another. */
static int load(const struct setup *setup, const char *change, uint64_t limit,
                struct ds_config *config)
{
    const char *overrides[OVERRIDES_MAX + CHANGES_MAX];
    char changes[CHANGES_MAX][64];
    const size_t changed = cut_changes(change ? change : "", changes);
    struct capture capture;
    size_t count = 0;
    ds_status st;

    for (int i = 0; setup->overrides[i]; i++) {
        int is_kept = 1;
        for (size_t k = 0; k < changed; k++)
            is_kept &= !is_same_key(setup->overrides[i], changes[k]);
        if (is_kept)
            overrides[count++] = setup->overrides[i];
    }
    for (size_t k = 0; k < changed; k++)
        overrides[count++] = changes[k];
    capture_begin(&capture);
    st = ds_config_parse("c.ini", base_text, sizeof base_text - 1, overrides, count, config);
    if (st == DS_OK) {
        ds_config_resolve(config, setup->ranks);
        st = ds_config_validate(config, DS_CONFIG_TRAIN, setup->ranks);
    }
    (void)capture_end(&capture);
    config->memory.device_limit = limit;
    return st == DS_OK && (config->data.format == DS_DATA_TEXT || config->train.seq_length == 48);
}

static uint64_t worst_bytes(const struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan_question question = question_of(config, ranks);
    struct ds_plan plan;
    uint32_t role;

    assert_ok(ds_plan_worst(&question, &plan, &role));
    return ds_plan_device_bytes(&plan);
}

/* what a run does before it begins */
static ds_status settle_and_check(struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan_question question = question_of(config, ranks);

    assert_ok(ds_plan_settle(&question, config));
    return ds_plan_check(&question);
}

/* ---- levers */

enum { LEVERS = 14, VALUES_MAX = 8 };

static const struct {
    const char *key;
    const char *values[VALUES_MAX];
} levers[LEVERS] = {
    {"train.micro_batch_size", {"2", "1"}},
    {"train.activation_checkpointing", {"selective", "full"}},
    {"zero.stage", {"1", "2", "3"}},
    {"parallel.tensor", {"2", "3", "4", "5", "6", "7", "8"}},
    {"parallel.pipeline", {"2", "3", "4", "5", "6", "7", "8"}},
    {"zero.reshard_after_forward", {"always"}},
    {"zero.window", {"3", "2", "1"}},
    {"train.seq_length", {"24", "12", "6", "3", "1"}},
    {"offload.exp_avg_sq", {"host"}},
    {"offload.exp_avg", {"host"}},
    {"offload.master", {"host"}},
    {"offload.params", {"host"}},
    {"offload.grads", {"host"}},
    {"offload.activations", {"host"}},
};

/* Levers go one way: less at once, or more that share or recompute. */
static int64_t position(const struct ds_config *config, int lever)
{
    const int64_t positions[LEVERS] = {-(int64_t)config->train.micro_batch_size,
                                       config->train.activation_checkpointing,
                                       (int64_t)config->zero.stage,
                                       (int64_t)config->parallel.tensor,
                                       (int64_t)config->parallel.pipeline,
                                       config->zero.reshard_after_forward != DS_RESHARD_KEY_NEVER,
                                       -(int64_t)config->zero.window,
                                       -(int64_t)config->train.seq_length,
                                       config->offload.exp_avg_sq.share == 1,
                                       config->offload.exp_avg.share == 1,
                                       config->offload.master.share == 1,
                                       config->offload.params.share == 1,
                                       config->offload.grads.share == 1,
                                       config->offload.activations.share == 1};

    return positions[lever];
}

static int is_written(const struct setup *setup, const char *key)
{
    for (int i = 0; setup->overrides[i]; i++)
        if (is_same_key(setup->overrides[i], key))
            return 1;
    return 0;
}

/* The change, and where it is refused, with ranks for data that leave as many as there are, where they are
 * written; then with shards of all of them. */
static int load_counted_again(const struct setup *setup, const char *change,
                              struct ds_config *config)
{
    char with[160];
    size_t used = (size_t)snprintf(with, sizeof with, "%s", change);

    if (load(setup, change, DS_AUTO, config))
        return 1;
    const uint64_t model_ranks = config->parallel.tensor * config->parallel.pipeline;
    const unsigned long long data = setup->ranks / model_ranks;
    if (setup->ranks % model_ranks != 0)
        return 0;
    if (is_written(setup, "parallel.data"))
        used += (size_t)snprintf(with + used, sizeof with - used, " parallel.data=%llu", data);
    if (load(setup, with, DS_AUTO, config))
        return 1;
    if (is_written(setup, "parallel.shard"))
        snprintf(with + used, sizeof with - used, " parallel.shard=%llu", data);
    return load(setup, with, DS_AUTO, config);
}

/* Of each lever what its best value takes; UINT64_MAX: none is possible, or none is better. */
static void pull_all(const struct setup *setup, const struct ds_config *from, uint64_t base,
                     uint64_t *best)
{
    static struct ds_config config;
    char change[64];

    for (int i = 0; i < LEVERS; i++) {
        best[i] = UINT64_MAX;
        for (int v = 0; v < VALUES_MAX && levers[i].values[v]; v++) {
            snprintf(change, sizeof change, "%s=%s", levers[i].key, levers[i].values[v]);
            if (!load_counted_again(setup, change, &config) ||
                position(&config, i) <= position(from, i))
                continue;
            const uint64_t bytes = worst_bytes(&config, setup->ranks);
            if (bytes < base && bytes < best[i])
                best[i] = bytes;
        }
    }
}

/* "a.b = 1 with c.d = 2 and e.f = 3" as "a.b=1 c.d=2 e.f=3" */
static void read_changes(const char *text, size_t length, char *to, size_t bytes)
{
    char word[4][64];
    size_t used = 0;

    for (const char *at = text; at < text + length; at += strlen(word[3]) + 1) {
        assert_int_equal(sscanf(at, "%63s = %63[^ :]", word[0], word[1]), 2);
        used +=
            (size_t)snprintf(to + used, bytes - used, "%s%s=%s", used ? " " : "", word[0], word[1]);
        snprintf(word[3], sizeof word[3], "%s = %s", word[0], word[1]);
        if (strncmp(at + strlen(word[3]), " with ", 6) == 0)
            at += 5;
        else if (strncmp(at + strlen(word[3]), " and ", 5) == 0)
            at += 4;
    }
}

/* The line of `said`, or one behind it, that names what fits: "  KEY = VALUE: TOTAL" without "too much", as
 * changes and total; NULL: no more. */
static const char *next_remedy(const char *said, char *change, char *total, size_t bytes)
{
    for (const char *line = strstr(said, "\n  "), *end; line; line = end) {
        const char *equals = strstr(line + 1, " = "), *colon = strchr(line, ':');
        const char *bad = strstr(line, "too much");
        end = strstr(line + 1, "\n");
        if (!end)
            end = line + strlen(line);
        if (!equals || !colon || equals > end || colon > end || (bad && bad < end)) {
            end = strstr(line + 1, "\n  ");
            continue;
        }
        read_changes(line + 3, (size_t)(colon - line - 3), change, bytes);
        snprintf(total, bytes, "%.*s", (int)(end - colon - 2), colon + 2);
        return end;
    }
    return NULL;
}

/* What is named as fitting loads, fits, and takes what is said. */
static void assert_fits(const struct setup *setup, uint64_t limit, const char *change,
                        const char *total, const char *said)
{
    static struct ds_config config;
    char takes[64];

    if (!load(setup, change, limit, &config) || settle_and_check(&config, setup->ranks) != DS_OK)
        fail_msg("%s, limit %llu: %s does not fit\n%s", setup->what, (unsigned long long)limit,
                 change, said);
    ds_console_bytes(worst_bytes(&config, setup->ranks), takes, sizeof takes);
    if (strcmp(total, takes) != 0) /* as the run settles it */
        fail_msg("%s, limit %llu: %s takes %s\n%s", setup->what, (unsigned long long)limit, change,
                 takes, said);
}

static int pairs_seen; /* where no key alone would do */

/* The keys that alone make it fit are named, and no others. */
static void assert_remedies(const struct setup *setup, uint64_t limit, const uint64_t *best)
{
    static struct ds_config config;
    struct capture capture;
    char change[160], total[160], said[sizeof capture.text];
    int is_named[LEVERS] = {0};

    assert_true(load(setup, NULL, limit, &config));
    capture_begin(&capture);
    const ds_status st = settle_and_check(&config, setup->ranks);
    snprintf(said, sizeof said, "%s", capture_end(&capture));
    assert_int_equal(st, DS_ERR_CONFIG);
    for (const char *at = said; (at = next_remedy(at, change, total, sizeof change));) {
        const int is_pair = strstr(change, " train.activation_checkpointing=") != NULL;
        assert_fits(setup, limit, change, total, said);
        pairs_seen += is_pair;
        for (int i = 0; i < LEVERS; i++)
            is_named[i] |= !is_pair && is_same_key(change, levers[i].key);
    }
    for (int i = 0; i < LEVERS; i++)
        if (is_named[i] != (best[i] <= limit))
            fail_msg("%s, limit %llu: %s is %snamed, its best takes %llu\n%s", setup->what,
                     (unsigned long long)limit, levers[i].key, is_named[i] ? "" : "not ",
                     (unsigned long long)best[i], said);
}

#define ONE_LAYER  "model.num_hidden_layers=1"
#define ONE_HEAD   "model.num_attention_heads=1", "model.num_key_value_heads=1"
#define ROWS       "data.format=safetensors"
#define RECOMPUTES "train.activation_checkpointing=full"
#define STRIPS     "offload.block_size=8192", "offload.depth=1"
#define HOST(kind) "offload." #kind "=host"

static const struct setup setups[] = {
    {"micro-batch", 1, {RECOMPUTES, ROWS, "train.micro_batch_size=4"}},
    {"recomputation", 1, {ROWS}},
    {"a pair", 1, {ROWS, "train.micro_batch_size=4"}},
    {"stage", 8, {RECOMPUTES, ROWS, ONE_HEAD, "parallel.schedule=interleaved", "zero.stage=1"}},
    {"tensor", 2, {RECOMPUTES, ROWS, ONE_LAYER, "model.intermediate_size=4096"}},
    {"pipeline", 4, {RECOMPUTES, ROWS, ONE_HEAD}},
    {"sequence", 1, {RECOMPUTES}},
    {"all", 8, {"train.micro_batch_size=2", "zero.stage=0"}},
    {"sequence parallel",
     8,
     {"train.micro_batch_size=2", "zero.stage=0", "parallel.tensor=4", "train.seq_length=6",
      "parallel.sequence_parallel=true"}},
    {"interleaved", 4, {"parallel.schedule=interleaved"}},
    {"chunks", 4, {"parallel.schedule=interleaved", "parallel.pipeline=2", "parallel.chunks=2"}},
    {"hybrid", 8, {"parallel.shard=4", "zero.stage=2"}},
    {"few kv heads", 8, {"model.num_key_value_heads=2", "train.global_batch_size=8"}},
    {"bf16",
     8,
     {"precision.compute=bf16", "precision.master=remainder16", "zero.stage=2",
      "train.micro_batch_size=2"}},
    {"windows", 4, {"zero.window=3"}},
    {"window",
     8,
     {RECOMPUTES, ROWS, ONE_HEAD, HOST(activations), HOST(params), HOST(exp_avg), HOST(exp_avg_sq),
      "parallel.schedule=interleaved", "zero.window=2"}},
    {"reshard",
     8,
     {RECOMPUTES, ROWS, ONE_HEAD, "parallel.schedule=interleaved",
      "zero.reshard_after_forward=never"}},
    {"never", 4, {"zero.reshard_after_forward=never", "train.micro_batch_size=2"}},
    {"auto", 8, {"zero.reshard_after_forward=auto", "zero.window=auto"}},
    {"auto window", 4, {"zero.window=auto", "train.micro_batch_size=2"}},
    {"auto, stage 2", 8, {"zero.reshard_after_forward=auto", "zero.stage=2"}},
    {"written data", 8, {"parallel.data=8", "zero.stage=0"}},
    {"written data and tensor", 8, {"parallel.data=4", "parallel.tensor=2", "zero.stage=1"}},
    {"written shard", 8, {"parallel.shard=8", "zero.stage=1", ROWS}},
    {"written data and shard", 8, {"parallel.data=8", "parallel.shard=8", ROWS}},
    {"homes", 2, {STRIPS, "precision.compute=bf16", "model.intermediate_size=2048"}},
    {"a home", 2, {STRIPS, "offload.exp_avg=host:0.5", "zero.stage=1"}},
    {"params", 1, {RECOMPUTES, ROWS, STRIPS, HOST(exp_avg), HOST(exp_avg_sq), HOST(grads)}},
    {"exp_avg", 1, {RECOMPUTES, ROWS, STRIPS, HOST(params), HOST(exp_avg_sq), HOST(grads)}},
    {"exp_avg_sq", 1, {RECOMPUTES, ROWS, STRIPS, HOST(params), HOST(exp_avg), HOST(grads)}},
    {"grads", 1, {RECOMPUTES, ROWS, STRIPS, HOST(params), HOST(exp_avg), HOST(exp_avg_sq)}},
    {"master",
     1,
     {RECOMPUTES, ROWS, STRIPS, "precision.compute=bf16", HOST(params), HOST(exp_avg),
      HOST(exp_avg_sq), HOST(grads)}},
    {"activations",
     1,
     {RECOMPUTES, ROWS, STRIPS, "model.num_hidden_layers=12", HOST(params), HOST(exp_avg),
      HOST(exp_avg_sq), HOST(grads)}},
    {"written data, half of it a shard", 8, {"parallel.data=8", "parallel.shard=4"}},
};

/* At every limit at which a lever begins to do: exactly those that do. */
static void exactly_the_keys_that_make_a_run_fit_are_named(void **state)
{
    int alone[LEVERS] = {0};

    (void)state;
    for (size_t s = 0; s < sizeof setups / sizeof *setups; s++) {
        static struct ds_config config;
        uint64_t best[LEVERS];
        if (!load(&setups[s], NULL, DS_AUTO, &config))
            fail_msg("%s is refused", setups[s].what);
        const uint64_t base = worst_bytes(&config, setups[s].ranks);
        pull_all(&setups[s], &config, base, best);
        assert_remedies(&setups[s], 4096, best);
        for (int i = 0; i < LEVERS; i++) {
            int others = 0;
            if (best[i] == UINT64_MAX)
                continue;
            assert_remedies(&setups[s], best[i], best);
            assert_remedies(&setups[s], best[i] - 1, best);
            for (int k = 0; k < LEVERS; k++)
                others += k != i && best[k] <= best[i];
            alone[i] |= others == 0;
        }
    }
    for (int i = 0; i < LEVERS; i++)
        if (!alone[i])
            fail_msg("nowhere is %s the only one", levers[i].key);
    assert_true(pairs_seen > 0);
}

static void a_limit_of_one_byte_less_is_refused_with_its_size(void **state)
{
    const struct setup *setup = &setups[0];
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup->ranks);
    struct capture capture;

    (void)state;
    assert_true(load(setup, NULL, DS_AUTO, &config));
    config.memory.device_limit = worst_bytes(&config, setup->ranks);
    assert_ok(ds_plan_check(&question));
    config.memory.device_limit--;
    capture_begin(&capture);
    const ds_status st = ds_plan_check(&question);
    assert_int_equal(st, DS_ERR_CONFIG);
    assert_non_null(strstr(capture_end(&capture), "too little by 1 B"));
}

static void a_limit_of_the_host_is_answered_with_the_host_s_bytes(void **state)
{
    const struct setup *setup = &setups[0];
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup->ranks);
    struct capture capture;
    struct ds_plan plan;
    uint32_t role;

    (void)state;
    assert_true(load(setup, NULL, DS_AUTO, &config));
    assert_ok(ds_plan_worst(&question, &plan, &role));
    config.memory.host_limit = ds_plan_host_bytes(&plan) - 1;
    capture_begin(&capture);
    const ds_status st = ds_plan_check(&question);
    const char *said = capture_end(&capture);
    assert_int_equal(st, DS_ERR_CONFIG);
    assert_non_null(strstr(said, "[memory] host_limit = "));
    assert_non_null(strstr(said, "changes of the host memory"));
}

/* Files are a remedy where it is said on which drives; what is said to fit does. */
static void what_is_on_the_host_may_go_to_files(void **state)
{
    const struct setup *setup = &setups[0];
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup->ranks);

    (void)state;
    for (int has_drives = 0; has_drives <= 1; has_drives++) {
        struct capture capture;
        struct ds_plan plan;
        uint32_t role;

        assert_true(load(setup, NULL, DS_AUTO, &config));
        config.offload.exp_avg = (struct ds_home_key){DS_HOME_HOST, 1};
        config.offload.block_size = 8192;
        strcpy(config.offload.directories, has_drives ? "/somewhere" : "");
        assert_ok(ds_plan_worst(&question, &plan, &role));
        config.memory.host_limit = ds_plan_host_bytes(&plan) - 1;
        capture_begin(&capture);
        assert_int_equal(ds_plan_check(&question), DS_ERR_CONFIG);
        const char *line = strstr(capture_end(&capture), "offload.exp_avg = nvme: ");
        assert_int_equal(line != NULL, has_drives);
        if (!line)
            continue;
        assert_true(strcspn(line, "\n") < strcspn(line, ",")); /* not: still too much */
        config.offload.exp_avg.home = DS_HOME_NVME;
        assert_ok(ds_plan_check(&question));
    }
}

/* ---- a refusal names the line that set the limit, and a limit that is enough */

/* The text behind the setup's, a line of the file each; `said`: of the check. */
static ds_status check_limits(const struct setup *setup, const char *limits,
                              struct ds_config *config, struct capture *capture, const char **said)
{
    const struct ds_plan_question question = question_of(config, setup->ranks);
    char text[4096];

    snprintf(text, sizeof text, "%s%s", base_text, limits);
    assert_ok(ds_config_parse("c.ini", text, strlen(text), NULL, 0, config));
    ds_config_resolve(config, setup->ranks);
    capture_begin(capture);
    ds_status st = ds_plan_check(&question);
    *said = capture_end(capture);
    return st;
}

static uint32_t count_lines(const char *text)
{
    uint32_t lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static uint64_t nearest_of(const char *said, const char *key)
{
    const char *at = strstr(said, key);

    at = at ? strstr(at, "nearest: ") : NULL;
    assert_non_null(at);
    return strtoull(at + strlen("nearest: "), NULL, 10);
}

static void a_limit_that_is_too_little_is_named_with_its_line_and_one_that_is_enough(void **state)
{
    const struct setup *setup = &setups[0];
    const uint32_t first = count_lines(base_text) + 1; /* the first line of what stands behind it */
    static struct ds_config config;
    struct capture capture;
    char limits[256], places[2][64];
    const char *said;

    (void)state;
    assert_int_equal(check_limits(setup, "[memory]\ndevice_limit = 4096\nhost_limit = 100\n",
                                  &config, &capture, &said),
                     DS_ERR_CONFIG);
    snprintf(places[0], sizeof places[0], "error: c.ini:%u: [memory] device_limit = 4096 is",
             first + 1);
    snprintf(places[1], sizeof places[1], "c.ini:%u: [memory] host_limit = 100 is", first + 2);
    for (int i = 0; i < 2; i++)
        if (!strstr(said, places[i]))
            fail_msg("'%s' is not in %s", places[i], said);
    const uint64_t device = nearest_of(said, "[memory] device_limit");
    const uint64_t host = nearest_of(said, "[memory] host_limit");
    for (uint64_t less = 0; less < 2; less++) { /* it is the nearest: one byte less is too little */
        snprintf(limits, sizeof limits, "[memory]\ndevice_limit = %llu\nhost_limit = %llu\n",
                 (unsigned long long)(device - less), (unsigned long long)host);
        assert_int_equal(check_limits(setup, limits, &config, &capture, &said),
                         less ? DS_ERR_CONFIG : DS_OK);
        assert_null(strstr(said, "[memory] host_limit = "));
    }
}

/* Limits hold for every role: also where one that takes less of the device takes too much of the host. */
static void the_worst_role_is_one_that_does_not_fit(void **state)
{
    const struct setup setup = {
        "stages", 2, {"parallel.pipeline=2", "model.tie_word_embeddings=true"}};
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup.ranks);
    struct ds_plan roles[2], worst;
    uint32_t role;

    (void)state;
    assert_true(load(&setup, NULL, DS_AUTO, &config));
    for (uint32_t i = 0; i < 2; i++)
        assert_ok(ds_plan_measure(&question, ds_plan_role_rank(&config, i), &roles[i]));
    assert_true(ds_plan_device_bytes(&roles[0]) > ds_plan_device_bytes(&roles[1]));
    assert_true(ds_plan_host_bytes(&roles[0]) < ds_plan_host_bytes(&roles[1]));
    config.memory.host_limit = ds_plan_host_bytes(&roles[0]);
    assert_ok(ds_plan_worst(&question, &worst, &role));
    assert_int_equal(role, 1);
}

/* More than a process has addresses for is counted all the same, to the byte: the states of all parameters. */
static void a_plan_has_no_limit_of_addresses(void **state)
{
    static const struct setup setup = {
        "giant",
        1,
        {"model.hidden_size=1048576", "model.intermediate_size=16777216",
         "model.num_attention_heads=4096", "model.num_key_value_heads=4096",
         "model.num_hidden_layers=2"}};
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, setup.ranks);
    const uint64_t hidden = 1048576, inner = 16777216;
    const uint64_t layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden;
    struct ds_plan plan;

    (void)state;
    assert_true(load(&setup, NULL, DS_AUTO, &config));
    assert_ok(ds_plan_measure(&question, 0, &plan));
    assert_int_equal(plan.bytes[DS_MEMORY_DEVICE][DS_MEMORY_LABEL_EXP_AVG],
                     4 * (2 * layer + 2 * 300 * hidden + hidden));
    assert_true(ds_plan_device_bytes(&plan) > (uint64_t)1 << 48);
}

static volatile sig_atomic_t caught;
static sigjmp_buf escape;

static void catch_fault(int signal_number)
{
    caught = signal_number;
    siglongjmp(escape, 1);
}

/* Host code that reads device memory is not let through by a plan. */
static void planned_memory_faults_when_it_is_touched(void **state)
{
    const size_t sizes[] = {1, 4096, (size_t)1 << 54, (size_t)1 << 54, (size_t)1 << 60, 100};
    struct sigaction action = {.sa_handler = catch_fault}, before[2];
    struct ds_device *device;
    void *at;

    (void)state;
    assert_ok(ds_device_null_ops.open(0, NULL, &device));
    sigaction(SIGSEGV, &action, &before[0]);
    sigaction(SIGBUS, &action, &before[1]);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_ok(ds_device_null_ops.alloc(device, DS_MEMORY_DEVICE, sizes[i], 0, &at));
        assert_int_equal((uintptr_t)at % 4096, 0);
        caught = 0;
        if (sigsetjmp(escape, 1) == 0)
            (void)*(volatile char *)at;
        assert_true(caught != 0);
        ds_device_null_ops.release(device, DS_MEMORY_DEVICE, at, sizes[i]);
    }
    sigaction(SIGSEGV, &before[0], NULL);
    sigaction(SIGBUS, &before[1], NULL);
    ds_device_null_ops.close(device);
}

/* What a refusal advises, in the configuration that was refused. */
static void take_advice(const char *said, struct ds_config *config, uint32_t ranks)
{
    struct advice advice = advice_read(said);

    if (advice.count == 0 || advice.also[0])
        fail_msg("this is no advice: %s", said);
    ds_config_unresolve(config);
    for (size_t i = 0; i < advice.count; i++) {
        char *dot = strchr(advice.changes[i], '.'), *equals = strchr(advice.changes[i], '=');
        *dot = *equals = '\0';
        assert_ok(ds_field_parse(ds_field_find(advice.changes[i], dot + 1), "advice", equals + 1,
                                 config));
    }
    ds_config_resolve(config, ranks);
}

/* Of a folder's model the rules between keys know nothing: what does not fit it names key and folder, and what
 * is advised fits. */
static void a_folder_that_a_layout_does_not_fit_is_named(void **state)
{
    static const char model[] =
        "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": "
        "300, "
        "\"hidden_size\": 64, \"intermediate_size\": 160, \"num_hidden_layers\": 3, "
        "\"num_attention_heads\": 8, \"num_key_value_heads\": 8, \"max_position_embeddings\": 48, "
        "\"rms_norm_eps\": 1e-5, \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\"}";
    static const struct {
        uint64_t tensor, pipeline, seq_length;
        const char *says;
    } rows[] = {{3, 1, 48, "error: c.ini: [parallel] tensor = 3 cannot share"},
                {1, 6, 48, "error: c.ini: [parallel] pipeline = 6 times"},
                {1, 1, 49, "error: c.ini:18: [train] seq_length = 49 is more"}};
    static struct ds_config config;
    char *folder = tiny_folder(), path[600];

    (void)state;
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, model, sizeof model - 1));
    for (size_t k = 0; k < 2 * sizeof rows / sizeof *rows; k++) {
        const size_t i = k / 2, ask = k % 2;
        const uint32_t ranks = (uint32_t)(rows[i].tensor * rows[i].pipeline);
        const struct ds_plan_question question = question_of(&config, ranks);
        struct capture capture;
        struct ds_plan plan;
        uint32_t role;
        assert_true(load(&setups[0], NULL, DS_AUTO, &config));
        snprintf(config.model.path, sizeof config.model.path, "%s", folder);
        config.parallel.tensor = rows[i].tensor;
        config.parallel.pipeline = rows[i].pipeline;
        config.train.seq_length = rows[i].seq_length;
        capture_begin(&capture);
        const ds_status st = ask == 0 ? ds_plan_measure(&question, 0, &plan)
                                      : ds_plan_worst(&question, &plan, &role);
        const char *said = capture_end(&capture);
        assert_int_equal(st, DS_ERR_CONFIG);
        if (!strstr(said, rows[i].says) || !strstr(said, folder))
            fail_msg("'%s', not '%s' and the folder", said, rows[i].says);
        take_advice(said, &config, ranks);
        assert_ok(ds_plan_measure(&question, 0, &plan));
    }
    tiny_remove(folder);
}

/* ---- in a run: others wait longer than a deadline, as long as the plan goes on */

static uint64_t slow_mono_ns(void *self)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), 100000000u);
    return ds_clock_mono_ns(ds_clock_system());
}

static uint64_t slow_real_ns(void *self)
{
    (void)self;
    return ds_clock_real_ns(ds_clock_system());
}

static void slow_sleep_ns(void *self, uint64_t ns)
{
    (void)self;
    ds_clock_sleep_ns(ds_clock_system(), ns);
}

static const uint64_t wait_ns = 1500000000u;

struct slow_plan {
    struct ds_config config;
    ds_status st[8];
};

static void plan_slowly(struct ds_comm *world, void *user)
{
    const struct ds_clock slow = {slow_mono_ns, slow_real_ns, slow_sleep_ns, NULL};
    struct slow_plan *plan = user;
    struct ds_config *config = malloc(sizeof *config);

    assert_non_null(config);
    *config = plan->config;
    plan->st[world->rank] = ds_plan_together(
        &(struct ds_plan_ranks){world, ds_fs_posix(), &slow, world->rank, (int)world->size, 1},
        DS_CONFIG_TRAIN, config);
    free(config);
}

static void a_plan_may_take_longer_than_a_wait(void **state)
{
    const struct setup setup = {"slow", 8, {RECOMPUTES}};
    static struct slow_plan plan;
    struct capture capture;

    (void)state;
    assert_true(load(&setup, NULL, 4096, &plan.config));
    const uint64_t begin_ns = ds_clock_mono_ns(ds_clock_system());
    capture_begin(&capture);
    assert_true(run_ranks(8, wait_ns, plan_slowly, &plan));
    const char *said = capture_end(&capture);
    if (ds_clock_mono_ns(ds_clock_system()) - begin_ns < 2 * wait_ns)
        fail_msg("the plan was not slow");
    for (int i = 0; i < 8; i++)
        assert_int_equal(plan.st[i], DS_ERR_CONFIG);
    assert_non_null(strstr(said, "what one key changes"));
}

/* ---- what is left to the plan */

enum { MICROS = 6 };

/* 8 ranks share the parameters out; each has 6 micro-batches a step. */
static const struct setup gathers = {"gathers",
                                     8,
                                     {"train.global_batch_size=48", RECOMPUTES,
                                      "zero.reshard_after_forward=auto", "zero.window=auto"}};

static uint64_t bytes_of(const char *tensor, int reshard, uint64_t window)
{
    static struct ds_config config;

    assert_true(load(&gathers, tensor, DS_AUTO, &config));
    config.zero.reshard_after_forward = reshard;
    config.zero.window = window;
    return worst_bytes(&config, gathers.ranks);
}

static void assert_choice(const struct ds_config *config, uint64_t limit, uint64_t never,
                          const uint64_t *always)
{
    uint64_t window = MICROS;

    while (window > 1 && always[window] > limit)
        window--;
    assert_int_equal(config->zero.reshard_after_forward,
                     never <= limit ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS);
    assert_int_equal(config->zero.window, never <= limit ? 1 : window);
}

/* As the limit shrinks: kept for the step, then windows from the widest on, then nothing that can be done. */
static void what_is_left_to_the_plan_is_the_fewest_gathers_that_fit(void **state)
{
    static struct ds_config config;
    uint64_t always[MICROS + 1], limits[2 * (MICROS + 1)];
    int seen_never = 0, seen_window = 0, seen_narrow = 0;

    (void)state;
    const uint64_t never = bytes_of(NULL, DS_RESHARD_KEY_NEVER, 1);
    for (uint64_t w = 1; w <= MICROS; w++)
        always[w] = bytes_of(NULL, DS_RESHARD_KEY_ALWAYS, w);
    always[0] = never;
    for (int i = 0; i <= MICROS; i++) {
        limits[2 * i] = always[i];
        limits[2 * i + 1] = always[i] - 1;
    }
    for (int i = 0; i < 2 * (MICROS + 1); i++) {
        struct capture capture;
        assert_true(load(&gathers, NULL, limits[i], &config));
        capture_begin(&capture);
        const ds_status st = settle_and_check(&config, gathers.ranks);
        (void)capture_end(&capture);
        assert_choice(&config, limits[i], never, always);
        assert_int_equal(st == DS_OK, never <= limits[i] || always[1] <= limits[i]);
        seen_never |= config.zero.reshard_after_forward == DS_RESHARD_KEY_NEVER;
        seen_window |= config.zero.window == MICROS;
        seen_narrow |= config.zero.window > 1 && config.zero.window < MICROS;
    }
    assert_true(seen_never && seen_window && seen_narrow);
}

static void what_is_named_is_kept(void **state)
{
    static const struct {
        const char *change;
        int reshard;
        uint64_t window;
    } rows[] = {{"zero.reshard_after_forward=never", DS_RESHARD_KEY_NEVER, 1},
                {"zero.reshard_after_forward=always", DS_RESHARD_KEY_ALWAYS, MICROS},
                {"zero.window=2", DS_RESHARD_KEY_NEVER, 2},
                {"parallel.pipeline=2", DS_RESHARD_KEY_NEVER, 1},
                {"parallel.shard=1", DS_RESHARD_KEY_ALWAYS, 1},
                {"zero.stage=2", DS_RESHARD_KEY_ALWAYS, 1}};
    static struct ds_config config;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(load(&gathers, rows[i].change, UINT64_MAX, &config));
        assert_ok(settle_and_check(&config, gathers.ranks));
        assert_int_equal(config.zero.reshard_after_forward, rows[i].reshard);
        assert_int_equal(config.zero.window, rows[i].window);
        assert_true(load(&gathers, rows[i].change, DS_AUTO, &config));
        assert_ok(settle_and_check(&config, gathers.ranks));
        assert_int_equal(config.zero.reshard_after_forward,
                         i == 0 ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS);
        assert_int_equal(config.zero.window, i == 2 ? 2 : 1);
    }
}

/* A micro-batch of 16 x 48 rows of 300 logits in fp32 is 921,600 bytes: the chunk is cut to it. */
static void logits_are_as_many_as_suit_the_device(void **state)
{
    static const struct setup rows = {
        "logits", 1, {"train.micro_batch_size=16", "run.deterministic=true"}};
    static struct ds_config config;
    uint64_t whole, least;

    (void)state;
    assert_true(load(&rows, NULL, DS_AUTO, &config));
    assert_ok(settle_and_check(&config, 1));
    assert_true(config.memory.logits == DS_AUTO);
    assert_true(load(&rows, "run.device=cuda", DS_AUTO, &config));
    assert_ok(settle_and_check(&config, 1));
    assert_true(config.memory.logits == (uint64_t)1 << 30);
    whole = worst_bytes(&config, 1);
    assert_true(load(&rows, "memory.logits=100000", DS_AUTO, &config));
    assert_ok(settle_and_check(&config, 1));
    assert_true(config.memory.logits == 100000);
    config.memory.logits = 64 * 300 * sizeof(float);
    least = worst_bytes(&config, 1);
    assert_true(whole >= least);
    config.memory.logits = 1;
    assert_true(worst_bytes(&config, 1) == least); /* never fewer than 64 rows */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_as_many_as_suit_the_device),
        cmocka_unit_test(exactly_the_keys_that_make_a_run_fit_are_named),
        cmocka_unit_test(a_limit_of_one_byte_less_is_refused_with_its_size),
        cmocka_unit_test(a_limit_that_is_too_little_is_named_with_its_line_and_one_that_is_enough),
        cmocka_unit_test(a_limit_of_the_host_is_answered_with_the_host_s_bytes),
        cmocka_unit_test(what_is_on_the_host_may_go_to_files),
        cmocka_unit_test(the_worst_role_is_one_that_does_not_fit),
        cmocka_unit_test(a_plan_has_no_limit_of_addresses),
        cmocka_unit_test(planned_memory_faults_when_it_is_touched),
        cmocka_unit_test(a_folder_that_a_layout_does_not_fit_is_named),
        cmocka_unit_test(a_plan_may_take_longer_than_a_wait),
        cmocka_unit_test(what_is_left_to_the_plan_is_the_fewest_gathers_that_fit),
        cmocka_unit_test(what_is_named_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
