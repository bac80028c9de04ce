// link: launch
// private: launch
/* Homes left to the plan: no more is away than must be, in the order that costs the link least, where the rules allow it,
 * and what a person has named stays. The same on all ranks. */
#include "test.h"

#include "capture.h"
#include "config/config.h"
#include "plan_question.h"
#include "ranks.h"
#include "tiny_run.h"

#include "dstrain/random.h"

#include <math.h>

enum { SHARES = 10000, OVERRIDES_MAX = 16, LIMITS = 12 };

static const char base_text[] =
    "[run]\ndir = unused\ndevice = cpu\n"
    "[model]\nfamily = llama\nvocab_size = 300\nhidden_size = 64\nintermediate_size = 160\n"
    "num_hidden_layers = 4\nnum_attention_heads = 8\nnum_key_value_heads = 8\n"
    "[data]\ntrain = unused.txt\n"
    "[precision]\ncompute = bf16\n"
    "[train]\nsteps = 1\nglobal_batch_size = 2\nmicro_batch_size = 1\nseq_length = 16\n"
    "[offload]\nparams = auto\nmaster = auto\nexp_avg = auto\nexp_avg_sq = auto\ngrads = auto\n"
    "activations = auto\ndepth = 1\nblock_size = 8192\n";

struct setup {
    uint32_t ranks;
    const char *overrides[OVERRIDES_MAX];
};

static void load(const struct setup *setup, struct ds_config *config)
{
    size_t count = 0;

    while (setup->overrides[count])
        count++;
    assert_ok(
        ds_config_parse("c.ini", base_text, sizeof base_text - 1, setup->overrides, count, config));
    ds_config_resolve(config, setup->ranks);
    assert_ok(ds_config_validate(config, DS_CONFIG_TRAIN, setup->ranks));
}

static void settle(struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan_question question = question_of(config, ranks);

    assert_ok(ds_plan_settle(&question, config));
    assert_int_equal(ds_plan_leaves_homes(config), 0);
    assert_true(ds_config_is_possible(config, DS_CONFIG_TRAIN, ranks, NULL));
}

static struct ds_plan plan_of(const struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan_question question = question_of(config, ranks);
    struct ds_plan plan;
    uint32_t role;

    assert_ok(ds_plan_worst(&question, &plan, &role));
    return plan;
}

static uint64_t device_bytes(const struct ds_config *config, uint32_t ranks)
{
    const struct ds_plan plan = plan_of(config, ranks);

    return ds_plan_process_bytes(&plan);
}

/* With these kinds wholly away. */
static uint64_t bytes_away(const struct setup *setup, int states, int rest, int params)
{
    static struct ds_config config;
    const struct ds_home_key host = {DS_HOME_HOST, 1};

    load(setup, &config);
    if (states)
        config.offload.master = config.offload.exp_avg = config.offload.exp_avg_sq = host;
    if (rest)
        config.offload.activations = config.offload.grads = host;
    if (params)
        config.offload.params = host;
    return device_bytes(&config, setup->ranks);
}

static void assert_home(const struct ds_home_key *key, int home, double share)
{
    assert_int_equal(key->home, home);
    assert_true(key->share == share);
}

/* ---- how much */

static void draw_nearer(struct ds_home_key *key)
{
    key->share = (round(key->share * SHARES) - 1) / SHARES;
}

/* A step nearer to the device in the last group that left, and it would not fit. */
static void assert_least(const struct ds_config *chosen, uint32_t ranks)
{
    static struct ds_config nearer;

    nearer = *chosen;
    if (chosen->offload.params.share > 0)
        draw_nearer(&nearer.offload.params);
    else if (chosen->offload.grads.share > 0)
        draw_nearer(&nearer.offload.grads);
    else if (chosen->offload.activations.share > 0)
        draw_nearer(&nearer.offload.activations);
    else {
        draw_nearer(&nearer.offload.master);
        draw_nearer(&nearer.offload.exp_avg);
        draw_nearer(&nearer.offload.exp_avg_sq);
    }
    assert_true(device_bytes(&nearer, ranks) > chosen->memory.device_limit);
}

/* Groups leave one after another: the next not before the one before it is away. */
static void assert_order(const struct ds_config *c)
{
    assert_true(c->offload.master.share == c->offload.exp_avg.share &&
                c->offload.exp_avg.share == c->offload.exp_avg_sq.share);
    assert_true(c->offload.activations.share == 0 || c->offload.exp_avg.share == 1);
    assert_true(c->offload.grads.share == 0 || c->offload.exp_avg.share == 1);
    assert_true(c->offload.params.share == 0 || c->offload.grads.share == 1);
}

static void no_more_is_away_than_must_be(void **state)
{
    static const struct setup setups[] = {
        {1, {NULL}},
        {4, {"train.global_batch_size=4", NULL}},
        {2, {"parallel.pipeline=2", NULL}},
        {2, {"parallel.tensor=2", "precision.master=remainder16", NULL}}};
    const uint64_t seed = test_seed("limits");
    static struct ds_config config;
    int seen[3] = {0};

    (void)state;
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        const uint64_t most = bytes_away(&setups[i], 0, 0, 0),
                       least = bytes_away(&setups[i], 1, 1, 1);
        const uint64_t step = (most - least - 8192) / LIMITS; /* one from every part of the range */

        for (uint32_t k = 0; k < LIMITS; k++) {
            const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, i);
            load(&setups[i], &config);
            config.memory.device_limit = least + 8192 + k * step + ds_random_below(random, k, step);
            settle(&config, setups[i].ranks);
            assert_true(device_bytes(&config, setups[i].ranks) <= config.memory.device_limit);
            assert_order(&config);
            assert_least(&config, setups[i].ranks);
            seen[config.offload.params.share > 0 ? 2 : config.offload.grads.share > 0]++;
        }
    }
    assert_true(seen[0] && seen[1] && seen[2]);
}

static void what_fits_stays_and_what_has_no_limit_does(void **state)
{
    static const struct setup setup = {1, {"offload.optimizer_compute=auto", NULL}};
    static struct ds_config config;
    const uint64_t limits[] = {bytes_away(&setup, 0, 0, 0), DS_AUTO};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        load(&setup, &config);
        config.memory.device_limit = limits[i];
        settle(&config, 1);
        assert_home(&config.offload.params, DS_HOME_DEVICE, 0);
        assert_home(&config.offload.exp_avg, DS_HOME_DEVICE, 0);
        assert_home(&config.offload.grads, DS_HOME_DEVICE, 0);
        assert_home(&config.offload.optimizer_compute, DS_OPTIMIZER_GPU, 0);
    }
}

/* Many slots, or those of two gradients, may be more than what leaves: then it stays, though nothing fits. */
static void what_brings_nothing_stays(void **state)
{
    static const struct setup setups[] = {
        {1, {"offload.depth=64", "offload.block_size=1048576", NULL}},
        {2, {"offload.depth=3", "offload.updates=late", NULL}}};
    static struct ds_config config;

    (void)state;
    for (size_t i = 0; i < sizeof setups / sizeof *setups; i++) {
        load(&setups[i], &config);
        config.memory.device_limit = 1;
        settle(&config, setups[i].ranks);
        assert_true(device_bytes(&config, setups[i].ranks) <= bytes_away(&setups[i], 0, 0, 0));
        assert_true(device_bytes(&config, setups[i].ranks) <= bytes_away(&setups[i], 1, 1, 1));
    }
}

/* ---- which */

static void what_may_not_be_away_stays(void **state)
{
    static const struct {
        struct setup setup;
        const char *stays;
    } rows[] = {{{1, {"zero.stage=2", NULL}}, "params"},
                {{1, {"precision.compute=fp32", NULL}}, "master"},
                {{1, {"precision.master=none", NULL}}, "master"},
                {{2, {"zero.stage=0", NULL}}, "params master exp_avg exp_avg_sq grads"}};
    static struct ds_config config;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char value[32];
        load(&rows[i].setup, &config);
        config.memory.device_limit = 1; /* all that may leaves */
        settle(&config, rows[i].setup.ranks);
        for (size_t k = 0; k < ds_config_field_count; k++) {
            const struct ds_field *field = &ds_config_fields[k];
            if (field->kind != DS_FIELD_HOME || strcmp(field->key, "optimizer_compute") == 0 ||
                strcmp(field->key, "activations") == 0)
                continue;
            ds_field_print(field, &config, value, sizeof value);
            const int stays = strstr(rows[i].stays, field->key) != NULL;
            /* "exp_avg" is in "exp_avg_sq": both stay or neither */
            assert_string_equal(value, stays ? "device" : "host");
        }
    }
}

static void what_a_person_has_named_stays(void **state)
{
    static const struct setup setup = {
        1, {"offload.exp_avg=device", "offload.grads=host:0.25", "offload.master=host", NULL}};
    static struct ds_config config;

    (void)state;
    load(&setup, &config);
    config.memory.device_limit = 1;
    settle(&config, 1);
    assert_home(&config.offload.exp_avg, DS_HOME_DEVICE, 0);
    assert_home(&config.offload.grads, DS_HOME_HOST, 0.25);
    assert_home(&config.offload.master, DS_HOME_HOST, 1);
    assert_home(&config.offload.exp_avg_sq, DS_HOME_HOST, 1);
    assert_home(&config.offload.params, DS_HOME_HOST, 1);
}

/* ---- where */

/* The less the host may have, the more kinds are in files, in their order; without directories nothing can be done. */
static void what_the_host_has_no_room_for_lies_in_files(void **state)
{
    static const struct setup with = {1, {"offload.directories=/a", "model.num_hidden_layers=12"}},
                              without = {1, {NULL}};
    static struct ds_config config;
    struct ds_home_key *const order[] = {&config.offload.exp_avg_sq, &config.offload.exp_avg,
                                         &config.offload.master,     &config.offload.grads,
                                         &config.offload.params,     &config.offload.activations};
    uint64_t limit = 0;

    (void)state;
    for (size_t filed = 0; filed <= 6; filed++) {
        struct ds_plan plan;
        load(&with, &config);
        config.memory.device_limit = bytes_away(&with, 1, 1, 1);
        config.memory.host_limit = filed == 0 ? DS_AUTO : limit - 1;
        settle(&config, 1);
        plan = plan_of(&config, 1);
        limit = ds_plan_host_bytes(&plan);
        for (size_t i = 0; i < 6; i++)
            assert_int_equal(order[i]->home, i < filed ? DS_HOME_NVME : DS_HOME_HOST);
        if (filed > 0)
            assert_true(limit <= config.memory.host_limit);
    }
    load(&without, &config);
    config.memory.device_limit = bytes_away(&without, 1, 1, 1);
    config.memory.host_limit = 100000;
    const struct ds_plan_question question = question_of(&config, 1);
    struct capture capture;
    capture_begin(&capture);
    assert_ok(ds_plan_settle(&question, &config));
    assert_int_equal(ds_plan_check(&question), DS_ERR_CONFIG);
    (void)capture_end(&capture);
}

/* ---- by whom */

/* What the plan makes of the key, and how long a step takes then. */
static struct ds_home_key compute_chosen(const struct ds_speeds *speeds, const char *wanted,
                                         double *step_s)
{
    const struct setup setup = {1, {"offload.updates=late", wanted, NULL}};
    static struct ds_config config;
    struct ds_plan_question question = question_of(&config, 1);
    struct ds_plan plan;

    question.speeds = speeds;
    load(&setup, &config);
    config.memory.device_limit = bytes_away(&setup, 1, 0, 0);
    assert_ok(ds_plan_settle(&question, &config));
    assert_int_equal(config.offload.exp_avg.home, DS_HOME_HOST);
    assert_true(ds_config_is_possible(&config, DS_CONFIG_TRAIN, 1, NULL));
    plan = plan_of(&config, 1);
    *step_s = ds_plan_step_s(plan.work, speeds);
    return config.offload.optimizer_compute;
}

static void what_is_named_updates(void **state)
{
    const struct ds_speeds speeds = {
        .to_device_per_s = 50e9, .to_host_per_s = 50e9, .host_updated_per_s = 100e9};
    struct ds_home_key key;
    double step_s;

    (void)state;
    key = compute_chosen(&speeds, "offload.optimizer_compute=gpu", &step_s);
    assert_home(&key, DS_OPTIMIZER_GPU, 0);
    key = compute_chosen(&speeds, "offload.optimizer_compute=cpu", &step_s);
    assert_home(&key, DS_OPTIMIZER_CPU, 1);
    key = compute_chosen(&speeds, "offload.optimizer_compute=cpu:0.25", &step_s);
    assert_home(&key, DS_OPTIMIZER_CPU, 0.25);
}

enum { PARTS = 50 };

static double fastest_named(const struct ds_speeds *speeds)
{
    double fastest, step_s;

    (void)compute_chosen(speeds, "offload.optimizer_compute=gpu", &fastest);
    for (int i = 1; i <= PARTS; i++) {
        char key[64];
        snprintf(key, sizeof key, "offload.optimizer_compute=cpu:%g", (double)i / PARTS);
        (void)compute_chosen(speeds, key, &step_s);
        fastest = step_s < fastest ? step_s : fastest;
    }
    return fastest;
}

/* With a slow link the host updates, with a slow host the device, and between them each a part. A strip is a few percent
 * of this model: so near to the best of all shares. */
static void the_share_that_takes_least_time_updates_on_the_host(void **state)
{
    static const struct {
        struct ds_speeds speeds;
        int home, is_part;
    } rows[] = {
        {{.to_device_per_s = 1e9, .to_host_per_s = 1e9, .host_updated_per_s = 1000e9},
         DS_OPTIMIZER_CPU,
         0},
        {{.to_device_per_s = 50e9, .to_host_per_s = 50e9, .host_updated_per_s = 1e9},
         DS_OPTIMIZER_GPU,
         0},
        {{.to_device_per_s = 50e9, .to_host_per_s = 50e9, .host_updated_per_s = 250e9},
         DS_OPTIMIZER_CPU,
         1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double step_s;
        const struct ds_home_key key =
            compute_chosen(&rows[i].speeds, "offload.optimizer_compute=auto", &step_s);

        assert_int_equal(key.home, rows[i].home);
        assert_int_equal(key.share > 0 && key.share < 0.9, rows[i].is_part);
        assert_true(step_s <= 1.1 * fastest_named(&rows[i].speeds));
    }
}

/* ---- room */

static const struct setup with_files = {1, {"offload.directories=/a", NULL}};

/* The room that there is counts where no limit is set, and only there. */
static void room_is_a_limit_where_none_is_set(void **state)
{
    static struct ds_config by_limit, by_room;
    struct ds_plan_question question = question_of(&by_room, 1);
    const uint64_t most = bytes_away(&with_files, 0, 0, 0);
    struct capture capture;

    (void)state;
    load(&with_files, &by_limit);
    by_limit.memory.device_limit = most - 200000;
    by_limit.memory.host_limit = 100000000;
    settle(&by_limit, 1);
    load(&with_files, &by_room);
    question.room = (struct ds_plan_room){most - 200000, 100000000, 0};
    assert_ok(ds_plan_settle(&question, &by_room));
    assert_memory_equal(&by_room.offload, &by_limit.offload, sizeof by_room.offload);
    assert_true(by_room.memory.device_limit == DS_AUTO);
    by_room.offload.exp_avg = by_room.offload.master = (struct ds_home_key){DS_HOME_AUTO, 0};
    by_room.memory.device_limit = most;
    question.room.device_bytes = 1;
    assert_ok(ds_plan_settle(&question, &by_room));
    assert_home(&by_room.offload.master, DS_HOME_DEVICE, 0);
    load(&with_files, &by_room);
    capture_begin(&capture);
    assert_int_equal(ds_plan_settle(&question, &by_room), DS_ERR_CONFIG);
    assert_non_null(strstr(capture_end(&capture), "does not fit"));
}

/* On the cpu the host is no other place: what leaves its memory leaves for files. */
static void one_memory_is_left_for_files_alone(void **state)
{
    static struct ds_config config;
    struct ds_plan_question question = question_of(&config, 1);
    struct ds_plan plan;

    (void)state;
    load(&with_files, &config);
    plan = plan_of(&config, 1);
    const uint64_t room = ds_plan_process_bytes(&plan) + ds_plan_host_bytes(&plan) - 300000;
    question.room = (struct ds_plan_room){room, room, 1};
    assert_ok(ds_plan_settle(&question, &config));
    plan = plan_of(&config, 1);
    assert_true(ds_plan_process_bytes(&plan) + ds_plan_host_bytes(&plan) <= room);
    assert_int_equal(config.offload.exp_avg_sq.home, DS_HOME_NVME);
}

/* Of a device that is here; the cpu's is the host's, unless a limit parts them. Ranks of a host share it. */
static void what_is_here_is_found(void **state)
{
    static struct ds_config config;
    struct ds_plan_ranks ranks = {.fs = ds_fs_posix(), .clock = ds_clock_system()};
    struct ds_plan_room one, four;

    (void)state;
    load(&with_files, &config);
    ranks.local_count = 1;
    assert_ok(ds_plan_look_for_room(&ranks, &config, &one));
    assert_true(one.host_bytes > 0 && one.device_bytes == one.host_bytes && one.is_one);
    ranks.local_count = 4;
    config.memory.device_limit = 1000;
    assert_ok(ds_plan_look_for_room(&ranks, &config, &four));
    assert_true(four.host_bytes < one.host_bytes / 2 && !four.is_one);
}

static void a_group_has_left_what_it_could_drop(void **state)
{
    (void)state;
    assert_true(ds_plan_group_left("max\n", "1000\n", "") == UINT64_MAX);
    assert_true(ds_plan_group_left("5000\n", "1000\n", "anon 10\ninactive_file 300\n") == 4300);
    assert_true(ds_plan_group_left("5000\n", "1000\n", "anon 10\ninactive_filex 300\n") == 4000);
    assert_true(ds_plan_group_left("500\n", "1000\n", "") == 0);
}

/* ---- ranks */

static struct ds_config of_rank[4];

static void plan_on_rank(struct ds_comm *world, void *user)
{
    const struct ds_plan_ranks ranks = {world,       ds_fs_posix(),    ds_clock_system(),
                                        world->rank, (int)world->size, 1};
    struct ds_config *config = &of_rank[world->rank];

    *config = *(const struct ds_config *)user;
    assert_ok(ds_plan_together(&ranks, DS_CONFIG_TRAIN, config));
}

static void all_ranks_have_the_same_homes(void **state)
{
    static const struct setup setup = {4, {"train.global_batch_size=4", NULL}};
    static struct ds_config config;
    struct capture capture;

    (void)state;
    load(&setup, &config);
    config.memory.device_limit = bytes_away(&setup, 1, 0, 0) + 50000;
    ds_log.is_leader = 1;
    capture_begin(&capture);
    assert_true(run_ranks(4, 60000000000u, plan_on_rank, &config));
    assert_non_null(strstr(capture_end(&capture), "exp_avg_sq = host:"));
    ds_log.is_leader = 0;
    assert_true(of_rank[0].offload.exp_avg.home == DS_HOME_HOST);
    for (int rank = 1; rank < 4; rank++)
        assert_memory_equal(&of_rank[rank].offload, &of_rank[0].offload, sizeof config.offload);
}

/* ---- an evaluation */

static void an_evaluation_moves_parameters_alone(void **state)
{
    static const struct setup setup = {1, {NULL}};
    static struct ds_config config;
    struct ds_plan_question question = question_of(&config, 1);

    (void)state;
    load(&setup, &config);
    config.memory.device_limit = 1;
    question.use = DS_CONFIG_EVAL;
    assert_ok(ds_plan_settle(&question, &config));
    assert_home(&config.offload.params, DS_HOME_HOST, 1);
    assert_home(&config.offload.exp_avg, DS_HOME_DEVICE, 0);
    assert_home(&config.offload.grads, DS_HOME_DEVICE, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_is_away_than_must_be),
        cmocka_unit_test(what_fits_stays_and_what_has_no_limit_does),
        cmocka_unit_test(what_brings_nothing_stays),
        cmocka_unit_test(what_may_not_be_away_stays),
        cmocka_unit_test(what_a_person_has_named_stays),
        cmocka_unit_test(what_the_host_has_no_room_for_lies_in_files),
        cmocka_unit_test(what_is_named_updates),
        cmocka_unit_test(the_share_that_takes_least_time_updates_on_the_host),
        cmocka_unit_test(room_is_a_limit_where_none_is_set),
        cmocka_unit_test(one_memory_is_left_for_files_alone),
        cmocka_unit_test(what_is_here_is_found),
        cmocka_unit_test(a_group_has_left_what_it_could_drop),
        cmocka_unit_test(all_ranks_have_the_same_homes),
        cmocka_unit_test(an_evaluation_moves_parameters_alone),
    };

    ds_log.is_leader = 0; /* choices are many */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
