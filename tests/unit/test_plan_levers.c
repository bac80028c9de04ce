// link: launch
// private: launch
/* What a refusal names as a remedy is one: the configuration with that key changed, and with what is said to
 * change with it, loads, and fits; and all keys that would do are named. So it is with a folder's model that a layout does
 * not fit. */
#include "test.h"

#include "advice.h"
#include "capture.h"
#include "console.h"
#include "plan_case.h"
#include "tiny_run.h"

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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_the_keys_that_make_a_run_fit_are_named),
        cmocka_unit_test(what_is_on_the_host_may_go_to_files),
        cmocka_unit_test(a_folder_that_a_layout_does_not_fit_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
