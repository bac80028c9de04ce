// link: launch
// timeout: 3600
// private: launch
// cost: 120
/* The plan is what a run asks for, byte for byte: assembled on the null device for each rank, against the
 * ledger of the same run on the cpu. And what activations are in it is a formula, written down here a
 * second time. */
#include "test.h"

#include "plan_question.h"
#include "tiny_run.h"

#include "dstrain/random.h"

static char *folder, *data;
static uint64_t seed, drawn;

static uint32_t draw(uint32_t bound)
{
    return (uint32_t)ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 13), drawn++, bound);
}

/* ---- against the ledgers of runs */

struct layout {
    uint32_t data, tensor, pipeline;
};
static const struct layout layouts[] = {{1, 1, 1}, {4, 1, 1}, {1, 2, 1}, {1, 1, 2},
                                        {2, 2, 1}, {2, 1, 2}, {1, 3, 2}, {1, 4, 1},
                                        {1, 1, 4}, {2, 2, 2}, {1, 8, 1}};

/* What may be chosen at a layout, each choice a number. */
enum choice {
    STAGE,
    SCHEDULE,
    RECOMPUTE,
    SEQUENCE,
    PRECISION,
    RESHARD,
    SHARD,
    TIED,
    HOMES,
    ACTIVATIONS,
    CHOICES
};
static const uint32_t choice_counts[CHOICES] = {
    [STAGE] = 4,   [SCHEDULE] = 4, [RECOMPUTE] = 3, [SEQUENCE] = 2, [PRECISION] = 6,
    [RESHARD] = 4, [SHARD] = 2,    [TIED] = 2,      [HOMES] = 4,    [ACTIVATIONS] = 3};

static const struct {
    int compute, master, exp_avg, gradients, reduce;
} precisions[] = {
    {DS_PRECISION_FP32, DS_MASTER_KEY_FP32, DS_PRECISION_FP32, DS_PRECISION_FP32,
     DS_PRECISION_FP32},
    {DS_PRECISION_BF16, DS_MASTER_KEY_FP32, DS_PRECISION_FP32, DS_PRECISION_FP32,
     DS_PRECISION_FP32},
    {DS_PRECISION_BF16, DS_MASTER_KEY_REMAINDER16, DS_PRECISION_FP32, DS_PRECISION_BF16,
     DS_PRECISION_BF16},
    {DS_PRECISION_BF16, DS_MASTER_KEY_NONE, DS_PRECISION_BF16, DS_PRECISION_FP32,
     DS_PRECISION_BF16},
    {DS_PRECISION_FP16, DS_MASTER_KEY_FP32, DS_PRECISION_BF16, DS_PRECISION_FP32,
     DS_PRECISION_FP32},
    {DS_PRECISION_FP32, DS_MASTER_KEY_FP32, DS_PRECISION_BF16, DS_PRECISION_BF16,
     DS_PRECISION_BF16},
};

/* 61 rows of the vocabulary and 72 columns divide unevenly among tensor ranks. */
static void config_of(struct layout layout, const uint32_t *choices, struct ds_config *config)
{
    static const int schedules[] = {DS_PIPELINE_1F1B, DS_PIPELINE_GPIPE, DS_PIPELINE_ZERO_BUBBLE,
                                    DS_PIPELINE_INTERLEAVED};
    const int is_interleaved = choices[SCHEDULE] == 3 && layout.pipeline > 1;
    const struct tiny_case c = {
        .ranks = layout.data * layout.tensor * layout.pipeline,
        .tensor = layout.tensor,
        .pipeline = layout.pipeline,
        .shard = choices[SHARD] && layout.data % 2 == 0 ? layout.data / 2 : layout.data,
        .stage = (int)choices[STAGE],
        .schedule = schedules[choices[SCHEDULE]],
        .chunks = is_interleaved ? 2 : 1,
        .recompute = (int)choices[RECOMPUTE],
        .sequence_parallel = (int)choices[SEQUENCE],
        .reshard = choices[RESHARD] == 1 ? DS_RESHARD_KEY_NEVER : DS_RESHARD_KEY_ALWAYS,
        .window = choices[STAGE] == 3 && choices[RESHARD] >= 2 ? choices[RESHARD] : 1,
        .is_tied = (int)choices[TIED],
        .family = DS_FAMILY_QWEN3,
        .layers = 6,
        .heads = layout.tensor == 3 ? 6 : 8,
        .kv_heads = layout.tensor == 3 ? 3 : 2,
        .head_dim = 4,
        .steps = 1,
        .global_batch = 5 * layout.data,
        .micro_batch = 1,
        .seed = 5,
        .data = data};

    tiny_config(&c, config);
    config->precision.compute = precisions[choices[PRECISION]].compute;
    config->precision.master = precisions[choices[PRECISION]].master;
    config->precision.exp_avg = precisions[choices[PRECISION]].exp_avg;
    config->precision.gradients = precisions[choices[PRECISION]].gradients;
    config->precision.reduce = precisions[choices[PRECISION]].reduce;
    if (choices[HOMES] && (choices[STAGE] > 0 || config->parallel.shard == 1)) {
        const int home = choices[HOMES] == 2 ? DS_HOME_NVME : DS_HOME_HOST;

        config->offload.exp_avg = (struct ds_home_key){home, choices[HOMES] == 1 ? 1 : 0.4};
        config->offload.grads = config->offload.exp_avg;
        config->offload.depth = choices[HOMES] + 1;
        if (choices[HOMES] == 3) { /* gradients come to slots, weights go from them */
            config->offload.exp_avg_sq = (struct ds_home_key){home, 0.7};
            config->offload.grads = (struct ds_home_key){0};
            config->offload.optimizer_compute =
                (struct ds_home_key){DS_OPTIMIZER_CPU, choices[PRECISION] % 2 ? 0.3 : 1};
            config->offload.updates = DS_UPDATES_KEY_LATE;
        } else if (choices[STAGE] == 3)
            config->offload.params = (struct ds_home_key){home, choices[HOMES] == 1 ? 0.5 : 1};
        if (config->precision.compute != DS_PRECISION_FP32 &&
            config->precision.master != DS_MASTER_KEY_NONE)
            config->offload.master = (struct ds_home_key){home, 1};
    }
    if (choices[ACTIVATIONS])
        config->offload.activations = (struct ds_home_key){
            choices[HOMES] % 2 ? DS_HOME_NVME : DS_HOME_HOST, choices[ACTIVATIONS] == 1 ? 1 : 0.5};
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", folder);
    if (choices[SHARD]) /* replicas save nothing: ranks of a role would differ */
        return;
    config->checkpoint.interval = 1;
    config->checkpoint.keep = 1;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s/checkpoints", folder);
}

static void describe(struct layout layout, const uint32_t *choices, char *to, size_t bytes)
{
    snprintf(to, bytes,
             "data %u tensor %u pipeline %u, stage %u schedule %u recompute %u sequence %u "
             "precision %u reshard %u shard %u tied %u homes %u activations %u",
             layout.data, layout.tensor, layout.pipeline, choices[STAGE], choices[SCHEDULE],
             choices[RECOMPUTE], choices[SEQUENCE], choices[PRECISION], choices[RESHARD],
             choices[SHARD], choices[TIED], choices[HOMES], choices[ACTIVATIONS]);
}

static void assert_planned(struct layout layout, const uint32_t *choices, int evaluates)
{
    const uint32_t ranks = layout.data * layout.tensor * layout.pipeline;
    static struct ds_config config;
    struct ds_plan_question question = question_of(&config, ranks);
    const struct tiny_case c = {
        .ranks = ranks, .steps = 1, .config = &config, .evaluates = evaluates};
    struct tiny_result r;
    struct ds_plan plan;
    uint64_t most = 0;
    uint32_t role;
    char what[256];

    question.use = evaluates ? DS_CONFIG_EVAL : DS_CONFIG_TRAIN;
    config_of(layout, choices, &config);
    describe(layout, choices, what, sizeof what);
    tiny_run(&c, &r);
    if (config.checkpoint.dir[0])
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), config.checkpoint.dir), 0);
    if (r.status != DS_OK)
        fail_msg("%s: %s", what, ds_status_text(r.status));
    for (uint32_t rank = 0; rank < ranks; rank++) {
        assert_ok(ds_plan_measure(&question, rank, &plan));
        most = ds_plan_device_bytes(&plan) > most ? ds_plan_device_bytes(&plan) : most;
        if (plan.filed_kept_bytes != r.filed[rank][DS_ZERO_KIND_COUNT])
            fail_msg("%s: rank %u, kept in files: planned %llu, taken %llu", what, rank,
                     (unsigned long long)plan.filed_kept_bytes,
                     (unsigned long long)r.filed[rank][DS_ZERO_KIND_COUNT]);
        for (int kind = 0; kind < DS_MEMORY_KIND_COUNT; kind++)
            for (int label = 0; label < DS_MEMORY_LABEL_COUNT; label++)
                if (plan.bytes[kind][label] != r.bytes[rank][kind][label])
                    fail_msg("%s: rank %u, kind %d, %s: planned %llu, taken %llu", what, rank, kind,
                             ds_memory_label_name((enum ds_memory_label)label),
                             (unsigned long long)plan.bytes[kind][label],
                             (unsigned long long)r.bytes[rank][kind][label]);
    }
    assert_ok(ds_plan_worst(&question, &plan, &role));
    assert_int_equal(ds_plan_device_bytes(&plan), most);
    tiny_result_fini(&r);
}

static void draw_choices(uint32_t *choices)
{
    for (int i = 0; i < CHOICES; i++)
        choices[i] = draw(choice_counts[i]);
}

/* Every choice at some layouts (long: at every one), the others drawn beside it. */
static void the_plan_of_every_rank_is_what_it_takes_to_the_byte(void **state)
{
    const int rounds = test_is_long() ? 10 : 1;
    const size_t every = (size_t)test_draws(2, 6, 1);

    (void)state;
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        for (int i = 0; i < rounds * CHOICES; i++)
            for (uint32_t value = 0; value < choice_counts[i % CHOICES]; value++) {
                uint32_t choices[CHOICES];
                if ((l + (size_t)i + value) % every != 0)
                    continue;
                draw_choices(choices);
                choices[i % CHOICES] = value;
                if (i % CHOICES == RESHARD)
                    choices[STAGE] = 3;
                assert_planned(layouts[l], choices, 0);
            }
}

/* An evaluation alone takes less, and is planned as exactly. */
static void an_evaluation_takes_what_its_plan_says(void **state)
{
    (void)state;
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        for (int i = 0; i < (test_is_long() ? 20 : 2); i++) {
            uint32_t choices[CHOICES];
            draw_choices(choices);
            assert_planned(layouts[l], choices, 1);
        }
}

/* A limit is held against roles: one of every stage and tensor rank speaks for all that are like it. */
static void ranks_of_a_role_take_the_same(void **state)
{
    const struct layout layout = {2, 2, 2};
    static struct ds_config config;
    const struct ds_plan_question question = question_of(&config, 8);

    (void)state;
    for (uint32_t stage = 0; stage <= 3; stage++) {
        uint32_t choices[CHOICES] = {0}, found = 0;
        choices[STAGE] = stage;
        config_of(layout, choices, &config);
        const struct ds_mesh_shape shape = ds_trainer_mesh_shape(&config);
        assert_int_equal(ds_plan_role_count(&config), 4);
        for (uint32_t role = 0; role < 4; role++)
            for (uint32_t rank = 0; rank < 8; rank++) {
                const uint32_t first = ds_plan_role_rank(&config, role);
                const struct ds_mesh_place a = ds_mesh_place_of(&shape, first);
                const struct ds_mesh_place b = ds_mesh_place_of(&shape, rank);
                struct ds_plan plan_a, plan_b;
                if (a.at[DS_AXIS_PP] != b.at[DS_AXIS_PP] || a.at[DS_AXIS_TP] != b.at[DS_AXIS_TP])
                    continue;
                assert_ok(ds_plan_measure(&question, first, &plan_a));
                assert_ok(ds_plan_measure(&question, rank, &plan_b));
                assert_memory_equal(&plan_a, &plan_b, sizeof plan_a);
                found++;
            }
        assert_int_equal(found, 8);
    }
}

/* Tensor ranks that are said to be alike are; of 61 rows and 72 columns not all are. */
static void tensor_ranks_that_are_alike_take_the_same(void **state)
{
    uint32_t twin_count = 0, single_count = 0;

    (void)state;
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
        const uint32_t tensor = layouts[l].tensor, roles = tensor * layouts[l].pipeline;
        static struct ds_config config;
        const struct ds_plan_question question = question_of(&config, roles * layouts[l].data);
        uint32_t choices[CHOICES], *twins;
        draw_choices(choices);
        config_of(layouts[l], choices, &config);
        assert_ok(ds_plan_twins(&question, &twins));
        for (uint32_t role = 0; role < roles; role++) {
            const uint32_t rank = role % tensor, twin = role - rank + twins[rank];
            struct ds_plan a, b;
            assert_ok(ds_plan_measure(&question, ds_plan_role_rank(&config, role), &a));
            assert_ok(ds_plan_measure(&question, ds_plan_role_rank(&config, twin), &b));
            assert_memory_equal(&a, &b, sizeof a);
            twin_count += twins[rank] < rank;
            single_count += twins[rank] == rank && rank > 0;
        }
        free(twins);
    }
    assert_true(twin_count > 0 && single_count > 0);
}

/* ---- activations, from their own formula */

/* A pass cuts its memory at multiples of 256 bytes. */
struct pieces {
    uint64_t bytes;
};

static void add_piece(struct pieces *pieces, uint64_t elems, uint64_t elem_bytes)
{
    pieces->bytes = (pieces->bytes + 255) / 256 * 256 + elems * elem_bytes;
}

/* What a decoder layer keeps of a micro-batch: dstrain/model.h and models.md, in the order of the pass. */
static uint64_t layer_bytes(const struct ds_config *config, uint32_t tensor_rank,
                            uint64_t stream_tokens, uint64_t bytes)
{
    const uint64_t T = TINY_SEQ * config->train.micro_batch_size, R = stream_tokens;
    const uint64_t C = config->model.hidden_size, D = config->model.head_dim;
    const uint64_t H = config->model.num_attention_heads / config->parallel.tensor;
    const uint64_t G = config->model.num_key_value_heads / config->parallel.tensor;
    /* 72 columns are 9 runs of 8: of two ranks the first has 5 */
    const uint64_t I = config->parallel.tensor == 1 ? 72 : tensor_rank == 0 ? 40 : 32;
    const int keeps_norms = config->train.activation_checkpointing != DS_RECOMPUTE_SELECTIVE;
    const int keeps_product = config->train.activation_checkpointing == DS_RECOMPUTE_NONE;
    struct pieces kept = {0};

    for (int i = 0; keeps_norms && i < 2; i++)
        add_piece(&kept, R * C, bytes); /* both norms' outputs */
    add_piece(&kept, R, 4);
    add_piece(&kept, T * H * D, bytes); /* q, k, v, and what attention makes of them */
    add_piece(&kept, T * G * D, bytes);
    add_piece(&kept, T * G * D, bytes);
    add_piece(&kept, T * H * D, bytes);
    add_piece(&kept, T * H, 4); /* softmax */
    add_piece(&kept, R * C, bytes);
    add_piece(&kept, R, 4);
    add_piece(&kept, T * 2 * I, bytes);
    if (keeps_product)
        add_piece(&kept, T * I, bytes);
    if (config->model.family == DS_FAMILY_QWEN3) { /* norms of heads */
        add_piece(&kept, T * (H + 2 * G) * D, bytes);
        add_piece(&kept, T * H, 4);
        add_piece(&kept, T * G, 4);
    }
    return kept.bytes;
}

/* Decoder layers of each stage: blocks of a run but the embedding and the head. */
static void count_layers(const struct ds_config *config, uint32_t *layers)
{
    const uint32_t stages = (uint32_t)config->parallel.pipeline;
    struct ds_model_config shape;
    struct ds_model *model;
    uint32_t first[TINY_RANKS_MAX + 1];
    uint64_t costs[16];

    ds_model_config_default((enum ds_family)config->model.family, &shape);
    shape.vocab_size = config->model.vocab_size;
    shape.hidden_size = config->model.hidden_size;
    shape.intermediate_size = config->model.intermediate_size;
    shape.num_hidden_layers = config->model.num_hidden_layers;
    shape.num_attention_heads = config->model.num_attention_heads;
    shape.num_key_value_heads = config->model.num_key_value_heads;
    shape.head_dim = config->model.head_dim;
    assert_ok(ds_model_open(&shape, NULL, &model));
    for (uint32_t b = 0; b < model->block_count; b++)
        costs[b] = (uint64_t)ds_model_block_cost(model, b, config->train.seq_length);
    ds_schedule_cut(costs, model->block_count, stages, first);
    for (uint32_t s = 0; s < stages; s++)
        layers[s] = first[s + 1] - first[s] - (s == 0) - (s + 1 == stages);
    ds_model_close(model);
}

/* Under 1f1b stage i has at most min(m, p - i) micro-batches under way. Of each, every layer of it keeps its
 * input, a place of the stream, and what its pass saved: with full recomputation that is there for one layer
 * at a time. The last stage's head has its gradient beside that, every stage has what it makes or sends, and,
 * where others will follow those under way, what comes before that is gone. */
static uint64_t expected_activations(const struct ds_config *config, uint32_t role, uint32_t layers)
{
    const uint64_t micros = config->train.global_batch_size / config->train.micro_batch_size;
    const uint32_t tensor = (uint32_t)config->parallel.tensor;
    const uint64_t left = config->parallel.pipeline - role / tensor;
    const uint64_t under_way = micros < left ? micros : left;
    const int others_follow = config->parallel.pipeline > 1 && micros > left;
    const uint64_t places = under_way * layers + 1 + (left == 1) + (uint64_t)others_follow;
    const uint64_t bytes = config->precision.compute == DS_PRECISION_FP32 ? 4 : 2;
    const uint64_t tokens = TINY_SEQ * config->train.micro_batch_size /
                            (config->parallel.sequence_parallel ? config->parallel.tensor : 1);
    const uint64_t stream_bytes = tokens * config->model.hidden_size * bytes;
    const int is_full = config->train.activation_checkpointing == DS_RECOMPUTE_FULL;
    const uint64_t saved = is_full ? layers > 0 : under_way * layers;

    return saved * layer_bytes(config, role % tensor, tokens, bytes) + places * stream_bytes;
}

static void assert_activations(const struct ds_config *config)
{
    const uint32_t stages = (uint32_t)config->parallel.pipeline;
    const uint32_t tensor = (uint32_t)config->parallel.tensor;
    const struct ds_plan_question question = question_of(config, stages * tensor);
    uint32_t layers[TINY_RANKS_MAX];

    count_layers(config, layers);
    for (uint32_t role = 0; role < stages * tensor; role++) {
        const uint32_t stage = role / tensor;
        struct ds_plan plan;
        assert_ok(ds_plan_measure(&question, ds_plan_role_rank(config, role), &plan));
        const uint64_t got = plan.bytes[DS_MEMORY_DEVICE][DS_MEMORY_LABEL_ACTIVATIONS];
        const uint64_t want = expected_activations(config, role, layers[stage]);
        if (got != want)
            fail_msg("stage %u of %u (%u layers), tensor %u, %llu micro-batches, recompute %d: "
                     "%llu bytes of activations, not %llu",
                     stage, stages, layers[stage], tensor,
                     (unsigned long long)config->train.global_batch_size /
                         config->train.micro_batch_size,
                     config->train.activation_checkpointing, (unsigned long long)got,
                     (unsigned long long)want);
    }
}

static void activations_are_those_of_the_micro_batches_under_way(void **state)
{
    (void)state;
    for (uint32_t pipeline = 1; pipeline <= 4; pipeline++)
        for (uint32_t tensor = 1; tensor <= 2; tensor++)
            for (uint64_t micros = 1; micros <= 6; micros++)
                for (int way = 0; way < 24; way++) {
                    const struct tiny_case c = {.ranks = pipeline * tensor,
                                                .pipeline = pipeline,
                                                .tensor = tensor,
                                                .schedule = DS_PIPELINE_1F1B,
                                                .recompute = way % 3,
                                                .sequence_parallel = way / 3 % 2,
                                                .family =
                                                    way / 6 % 2 ? DS_FAMILY_QWEN3 : DS_FAMILY_LLAMA,
                                                .layers = 7,
                                                .heads = 4,
                                                .kv_heads = 2,
                                                .head_dim = way / 6 % 2 ? 6 : 8,
                                                .stage = way % 4,
                                                .steps = 1,
                                                .global_batch = micros * (1 + way / 3 % 2),
                                                .micro_batch = 1 + way / 3 % 2,
                                                .seed = 5,
                                                .data = data};
                    static struct ds_config config;
                    tiny_config(&c, &config);
                    config.precision.compute = way / 12 ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
                    assert_activations(&config);
                }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_of_every_rank_is_what_it_takes_to_the_byte),
        cmocka_unit_test(an_evaluation_takes_what_its_plan_says),
        cmocka_unit_test(ranks_of_a_role_take_the_same),
        cmocka_unit_test(tensor_ranks_that_are_alike_take_the_same),
        cmocka_unit_test(activations_are_those_of_the_micro_batches_under_way),
    };
    int failed;

    seed = test_seed("test_plan");
    folder = tiny_folder();
    data = tiny_data(folder, 3, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
