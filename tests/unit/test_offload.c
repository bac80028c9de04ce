// link: launch
// cost: 280
// timeout: 7200
// tsan
/* Where states live, and what layers keep for their backward, and when states are updated, changes nothing of what a run
 * computes: any homes (device, host, files in one to three directories), shares, strips and depths, updates at the end or
 * late, on any layout, inline and deferred, with evaluations between steps or without, give the bits of a run that has
 * everything on the device, also from a checkpoint that was written with other homes. What is away takes no memory of
 * the device but its slots, and no file outlives its run. */
#include "test.h"
#include "tiny_run.h"

#include "dstrain/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DRAWS_NORMAL = 10, STEPS_NORMAL = 8, DRAWS_LONG = 40, STEPS_LONG = 30 };

enum { DRIVES_MAX = 3 };

static char *folder, *data, *root;
static uint64_t seed, drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(seed, DS_RANDOM_TEST, 11), drawn++, bound);
}

/* ---- what is drawn */

static struct drawn_homes {
    struct ds_home_key params, master, exp_avg, exp_avg_sq, grads, activations;
    uint64_t depth, block_size;
    uint32_t drives;              /* directories */
    int storage;                  /* enum ds_offload_storage */
    int compute, kept, moment[2]; /* enum ds_precision; enum ds_master_choice */
    uint64_t interval;            /* of checkpoints; 0: none */
    uint64_t eval_interval;
    int updates; /* enum ds_updates_when */
    struct ds_home_key optimizer_compute;
} now;

static struct ds_home_key draw_home(void)
{
    const double shares[] = {1, 1, 0.5, 0.3, 0.75};
    const uint64_t which = draw(6);

    return which == 0
               ? (struct ds_home_key){0}
               : (struct ds_home_key){draw(2) ? DS_HOME_HOST : DS_HOME_NVME, shares[which - 1]};
}

static void keep_on_host(struct ds_home_key *home)
{
    *home = (struct ds_home_key){DS_HOME_HOST, home->home ? home->share : 1};
}

static void draw_homes(const struct tiny_case *c)
{
    now.params = c->stage == 3 ? draw_home() : (struct ds_home_key){0};
    now.exp_avg = draw_home();
    now.exp_avg_sq = draw_home();
    now.master = draw_home();
    now.grads = draw_home();
    if (now.compute == DS_PRECISION_FP32 || now.kept == DS_MASTER_KEY_NONE)
        now.master = (struct ds_home_key){0};
    now.updates = (int)draw(2);
    if (now.updates == DS_UPDATES_KEY_END && !now.params.home && !now.exp_avg.home &&
        !now.master.home)
        now.exp_avg_sq = (struct ds_home_key){draw(2) ? DS_HOME_HOST : DS_HOME_NVME, 1};
    now.drives = 1 + (uint32_t)draw(DRIVES_MAX);
    now.storage = draw(2) ? DS_OFFLOAD_STORAGE_AUTO : DS_OFFLOAD_STORAGE_THREADS;
    now.optimizer_compute = (struct ds_home_key){0};
    if (draw(2)) {
        now.optimizer_compute = (struct ds_home_key){
            DS_OPTIMIZER_CPU,
            draw(2) ? 1 : (double)(1 + draw(9)) / 10}; /* of shares of their own */
        keep_on_host(&now.exp_avg);
        keep_on_host(&now.exp_avg_sq);
        if (now.compute != DS_PRECISION_FP32 && now.kept != DS_MASTER_KEY_NONE)
            keep_on_host(&now.master);
        if (now.params.home)
            keep_on_host(&now.params);
        if (now.grads.home)
            keep_on_host(&now.grads);
    }
    if (draw(2))
        now.activations = draw_home();
    now.depth = 1 + draw(4);
    now.block_size = 8192 << draw(3);
}

static void draw_precision(void)
{
    const int computes[] = {DS_PRECISION_FP32, DS_PRECISION_BF16, DS_PRECISION_BF16,
                            DS_PRECISION_FP16}; /* whose first steps are skipped */

    now.compute = computes[draw(4)];
    now.kept = now.compute == DS_PRECISION_BF16 ? (int)draw(3) : DS_MASTER_KEY_FP32;
    for (int i = 0; i < 2; i++)
        now.moment[i] = draw(2) ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
    now.eval_interval = draw(4);
}

static void at_home(struct ds_config *config)
{
    config->precision.compute = now.compute;
    config->precision.master = now.kept;
    config->precision.exp_avg = now.moment[0];
    config->precision.exp_avg_sq = now.moment[1];
    config->schedule.decay_steps = STEPS_LONG;
    config->train.eval_interval = now.eval_interval;
    config->checkpoint.interval = now.interval;
    if (now.interval > 0)
        snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static void away(struct ds_config *config)
{
    at_home(config);
    config->offload.params = now.params;
    config->offload.master = now.master;
    config->offload.exp_avg = now.exp_avg;
    config->offload.exp_avg_sq = now.exp_avg_sq;
    config->offload.grads = now.grads;
    config->offload.activations = now.activations;
    config->offload.updates = now.updates;
    config->offload.optimizer_compute = now.optimizer_compute;
    config->offload.depth = now.depth;
    config->offload.block_size = now.block_size;
    config->offload.storage = now.storage;
    for (uint32_t i = 0, used = 0; i < now.drives; i++)
        used += (uint32_t)snprintf(config->offload.directories + used,
                                   sizeof config->offload.directories - used, "%s%s/drive-%u",
                                   i ? ", " : "", folder, i);
}

/* Runs take away what they make. */
static void check_drives(void)
{
    for (uint32_t i = 0; i < DRIVES_MAX; i++) {
        char path[600], **names;
        size_t count;

        snprintf(path, sizeof path, "%s/drive-%u", folder, i);
        assert_int_equal(ds_fs_readdir(ds_fs_posix(), path, &names, &count), 0);
        free(names);
        assert_int_equal(count, 0);
    }
}

/* Large enough that a rank of eight still has several strips. */
static struct tiny_case draw_case(uint64_t steps)
{
    static const struct {
        uint32_t ranks, tensor, pipeline;
    } layouts[] = {{1, 1, 1}, {2, 1, 1}, {2, 2, 1}, {2, 1, 2}, {4, 1, 1},
                   {4, 2, 1}, {4, 2, 2}, {4, 1, 2}, {8, 1, 1}, {8, 2, 2}};
    const uint64_t which = draw(sizeof layouts / sizeof *layouts);
    const uint32_t ranks = layouts[which].ranks;
    const uint32_t shards = ranks / layouts[which].tensor / layouts[which].pipeline;
    const int is_pipeline = layouts[which].pipeline > 1, schedule = is_pipeline ? (int)draw(4) : 1;
    const int stage = shards > 1 ? 1 + (int)draw(3) : (int)draw(4);

    return (struct tiny_case){.ranks = ranks,
                              .tensor = layouts[which].tensor,
                              .pipeline = layouts[which].pipeline,
                              .shard = shards % 2 == 0 && draw(3) == 0 ? shards / 2 : shards,
                              .stage = stage,
                              .schedule = schedule,
                              .chunks = schedule == DS_PIPELINE_INTERLEAVED ? 2 : 1,
                              .window = stage == 3 ? 1 + draw(2) : 1,
                              .reshard = stage == 3 && draw(3) == 0 ? DS_RESHARD_KEY_NEVER
                                                                    : DS_RESHARD_KEY_ALWAYS,
                              .recompute = (int)draw(3),
                              .mode = draw(2) ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE,
                              .steps = steps,
                              .global_batch = 16,
                              .micro_batch = 1,
                              .is_tied = (int)draw(2),
                              .layers = draw(2) ? 3 : 9,
                              .sequence_parallel = (int)draw(2),
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 16,
                              .seed = seed,
                              .data = data};
}

static struct tiny_result run(struct tiny_case c, void (*adjust)(struct ds_config *config))
{
    struct tiny_result result;

    c.adjust = adjust;
    tiny_run(&c, &result);
    assert_int_equal(result.status, DS_OK);
    check_drives();
    return result;
}

static void assert_same(const struct tiny_case *c, const struct tiny_result *a,
                        const struct tiny_result *b)
{
    const char *what = memcmp(a->loss, b->loss, c->steps * sizeof *a->loss)        ? "losses"
                       : memcmp(a->norm, b->norm, c->steps * sizeof *a->norm)      ? "norms"
                       : memcmp(&a->eval_loss, &b->eval_loss, sizeof a->eval_loss) ? "evaluations"
                       : memcmp(a->params, b->params, a->param_elems * sizeof *a->params)
                           ? "weights"
                           : NULL;

    if (what)
        fail_msg("%s differ: %u ranks, tensor %u, pipeline %u, shard %u, stage %d, %s; homes %g %g "
                 "%g %g "
                 "%g, in files %d%d%d%d%d on %u drives, depth %llu, block %llu, %s by the %s (%g), "
                 "evaluated "
                 "every %llu, activations %g%s, %u layers, schedule %d, recompute %d, sequence "
                 "parallel %d",
                 what, c->ranks, c->tensor, c->pipeline, c->shard, c->stage,
                 c->mode == DS_DEVICE_DEFERRED ? "deferred" : "inline", now.params.share,
                 now.master.share, now.exp_avg.share, now.exp_avg_sq.share, now.grads.share,
                 now.params.home == DS_HOME_NVME, now.master.home == DS_HOME_NVME,
                 now.exp_avg.home == DS_HOME_NVME, now.exp_avg_sq.home == DS_HOME_NVME,
                 now.grads.home == DS_HOME_NVME, now.drives, (unsigned long long)now.depth,
                 (unsigned long long)now.block_size,
                 now.updates == DS_UPDATES_KEY_LATE ? "late" : "at the end",
                 now.optimizer_compute.home == DS_OPTIMIZER_CPU ? "host" : "device",
                 now.optimizer_compute.share, (unsigned long long)now.eval_interval,
                 now.activations.share, now.activations.home == DS_HOME_NVME ? " in files" : "",
                 c->layers, c->schedule, c->recompute, c->sequence_parallel);
}

/* ---- memory */

static uint64_t bytes_of(const struct tiny_result *r, uint32_t rank, int kind, int label)
{
    return r->bytes[rank][kind][label];
}

/* A kind has the same bytes on both sides together as on one; of its share that is away less than a strip of every
 * unit is missing or too much. */
static void check_kind(const struct tiny_result *near, const struct tiny_result *far, uint32_t rank,
                       int label, enum ds_zero_kind kind, struct ds_home_key home)
{
    const uint64_t all = bytes_of(near, rank, DS_MEMORY_DEVICE, label);
    const uint64_t filed = far->filed[rank][kind];
    const uint64_t host = bytes_of(far, rank, DS_MEMORY_PINNED, label) + filed;
    const double wanted = home.share * (double)all, strip = (double)now.block_size;

    assert_int_equal(host + bytes_of(far, rank, DS_MEMORY_DEVICE, label), all);
    assert_true((double)host <= wanted + strip && (double)host >= wanted - strip);
    if (home.share == 1 || home.share == 0)
        assert_int_equal(host, home.share == 1 ? all : 0);
    assert_int_equal(filed, home.home == DS_HOME_NVME ? host : 0);
}

/* Of what layers keep nothing is pinned or filed that is not at home there, and then the device has less of it, if at
 * all. */
static void check_activations(const struct tiny_result *near, const struct tiny_result *far,
                              uint32_t rank)
{
    const int label = DS_MEMORY_LABEL_ACTIVATIONS;
    const uint64_t pinned = bytes_of(far, rank, DS_MEMORY_PINNED, label);
    const uint64_t filed = far->filed[rank][DS_ZERO_KIND_COUNT];
    const uint64_t before = bytes_of(near, rank, DS_MEMORY_DEVICE, label);
    const uint64_t after = bytes_of(far, rank, DS_MEMORY_DEVICE, label);

    assert_int_equal(bytes_of(near, rank, DS_MEMORY_PINNED, label), 0);
    assert_true(pinned == 0 || now.activations.home == DS_HOME_HOST);
    assert_true(filed == 0 || now.activations.home == DS_HOME_NVME);
    assert_true(after <= before && after + pinned + filed >= before);
}

static void check_memory(const struct tiny_case *c, const struct tiny_result *near,
                         const struct tiny_result *far)
{
    const uint64_t kinds = (now.params.home != 0) + (now.master.home != 0) +
                           (now.exp_avg.home != 0) + (now.exp_avg_sq.home != 0) +
                           (now.grads.home != 0);

    for (uint32_t rank = 0; rank < c->ranks; rank++) {
        check_activations(near, far, rank);
        check_kind(near, far, rank, DS_MEMORY_LABEL_PARAMS, DS_ZERO_PARAM, now.params);
        check_kind(near, far, rank, DS_MEMORY_LABEL_MASTER, DS_ZERO_MASTER, now.master);
        check_kind(near, far, rank, DS_MEMORY_LABEL_EXP_AVG, DS_ZERO_EXP_AVG, now.exp_avg);
        check_kind(near, far, rank, DS_MEMORY_LABEL_EXP_AVG_SQ, DS_ZERO_EXP_AVG_SQ, now.exp_avg_sq);
        if (!c->is_tied || c->pipeline == 1) /* else two stages add one up, near */
            check_kind(near, far, rank, DS_MEMORY_LABEL_GRADS, DS_ZERO_GRAD, now.grads);
        if (now.params.home && c->shard == 1) /* its weights come and go in slots, too */
            continue;
        assert_true(bytes_of(far, rank, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_SLOTS) -
                        bytes_of(near, rank, DS_MEMORY_DEVICE, DS_MEMORY_LABEL_SLOTS) <=
                    (now.depth * kinds + 2) * now.block_size);
    }
}

/* ---- tests */

static void homes_change_no_bit(void **state)
{
    const uint64_t steps = test_is_long() ? STEPS_LONG : STEPS_NORMAL;

    (void)state;
    for (int i = 0; i < test_draws(DRAWS_NORMAL, 4, DRAWS_LONG); i++) {
        now = (struct drawn_homes){0};
        draw_precision();
        const struct tiny_case c = draw_case(steps);
        draw_homes(&c);
        struct tiny_result near = run(c, at_home), far = run(c, away);

        assert_same(&c, &near, &far);
        check_memory(&c, &near, &far);
        tiny_result_fini(&near);
        tiny_result_fini(&far);
    }
}

/* The state of each launch is read from where the one before had it, and goes on elsewhere. */
static void checkpoints_go_from_home_to_home(void **state)
{
    enum { LAUNCHES = 4 };

    (void)state;
    for (int i = 0; i < test_draws(2, 1, DRAWS_LONG / LAUNCHES); i++) {
        now = (struct drawn_homes){0};
        draw_precision();
        struct tiny_case c = draw_case(2 * LAUNCHES);
        struct tiny_result whole = run(c, at_home);

        now.interval = 2;
        for (uint64_t steps = 2; steps <= 2 * LAUNCHES; steps += 2) {
            draw_homes(&c);
            c.steps = steps;
            struct tiny_result part = run(c, away);
            assert_memory_equal(&part.loss[steps - 2], &whole.loss[steps - 2],
                                2 * sizeof *part.loss);
            if (steps == 2 * LAUNCHES)
                assert_memory_equal(part.params, whole.params,
                                    whole.param_elems * sizeof *whole.params);
            tiny_result_fini(&part);
        }
        tiny_result_fini(&whole);
        assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
    }
}

/* What streams still have to do when a run ends in the middle of a step ends, too, though the host's thread has gone. */
static void a_run_that_fails_ends_though_the_host_updates(void **state)
{
    (void)state;
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        now = (struct drawn_homes){.exp_avg = {DS_HOME_HOST, 1},
                                   .exp_avg_sq = {DS_HOME_HOST, 1},
                                   .optimizer_compute = {DS_OPTIMIZER_CPU, 1},
                                   .updates = (int)draw(2),
                                   .depth = 2,
                                   .block_size = 8192};
        struct tiny_case c = draw_case(STEPS_NORMAL);
        struct tiny_result result;

        c.mode = mode;
        c.ranks = 2;
        c.tensor = c.pipeline = 1;
        c.schedule = DS_PIPELINE_1F1B;
        c.chunks = 1;
        c.stage = 3;
        c.shard = 2;
        c.inject = "fail:1:4";
        c.adjust = away;
        tiny_run(&c, &result);
        assert_int_equal(result.status, DS_ERR_IO);
        tiny_result_fini(&result);
    }
}

/* What the host updates it has all of, and with a whole share it updates all of that. */
static void assert_host_has_all(const struct ds_zero_homes *homes,
                                const struct ds_zero_strips *unit, uint32_t strip)
{
    const uint64_t start = ds_zero_strip_at(unit, strip).start;
    int has_all = homes->host_kinds != 0;

    for (int k = 0; k < DS_ZERO_KIND_COUNT; k++)
        has_all &= !(homes->host_kinds >> k & 1) || unit->near_elems[k] <= start;
    assert_true(has_all || !ds_zero_strip_on_host(unit, strip));
    assert_true(!has_all || homes->host_share < 1 || ds_zero_strip_on_host(unit, strip));
}

/* Pure: strips lie one behind the other and end where the unit does; no strip has a kind half away. */
static void strips_tile_their_units(void **state)
{
    enum { UNITS = 12 };

    (void)state;
    for (int round = 0; round < 300; round++) {
        struct ds_zero_homes homes = {.strip_elems = DS_ZERO_CUT_ELEMS * (1 + draw(4))};
        struct ds_zero_strips units[UNITS] = {{0}};
        double owed[DS_ZERO_KIND_COUNT] = {0};
        uint64_t all = 0, by_host = 0;

        homes.host_kinds = (uint32_t)draw(1u << DS_ZERO_KIND_COUNT);
        homes.host_share = (double)draw(11) / 10;
        for (int k = 0; k < DS_ZERO_KIND_COUNT; k++) {
            homes.home[k] = draw(3) ? DS_HOME_HOST : DS_HOME_DEVICE;
            homes.share[k] = homes.home[k] == DS_HOME_HOST ? (double)draw(11) / 10 : 0;
        }
        for (int u = 0; u < UNITS; u++)
            units[u] = (struct ds_zero_strips){.elems = DS_ZERO_CUT_ELEMS * draw(40),
                                               .strip_elems = homes.strip_elems};
        ds_zero_strips_share(&homes, units, UNITS);
        for (int u = 0; u < UNITS; u++) {
            uint64_t end = 0;
            for (uint32_t i = 0; i < ds_zero_strip_count(&units[u]); i++) {
                const struct ds_span strip = ds_zero_strip_at(&units[u], i);
                int is_away = 0;

                assert_int_equal(strip.start, end);
                assert_true(strip.count > 0);
                end += strip.count;
                for (int k = 0; k < DS_ZERO_KIND_COUNT; k++) {
                    assert_true(units[u].near_elems[k] <= strip.start ||
                                units[u].near_elems[k] >= end);
                    is_away |= units[u].near_elems[k] <= strip.start;
                }
                assert_int_equal(is_away, i >= ds_zero_strip_first_away(&units[u]));
                assert_host_has_all(&homes, &units[u], i);
                assert_true(!is_away || strip.count <= homes.strip_elems);
            }
            assert_int_equal(end, units[u].elems);
            all += units[u].elems;
            by_host += units[u].host_elems;
            for (int k = 0; k < DS_ZERO_KIND_COUNT; k++)
                assert_true(homes.share[k] > 0 || units[u].near_elems[k] == units[u].elems);
            for (int k = 0; k < DS_ZERO_KIND_COUNT; k++)
                owed[k] += homes.share[k] * (double)units[u].elems -
                           (double)(units[u].elems - units[u].near_elems[k]);
        }
        assert_true(homes.host_kinds != 0 || by_host == 0);
        assert_true((double)by_host <=
                    homes.host_share * (double)all + (double)homes.strip_elems / 2 + 1);
        for (int k = 0; k < DS_ZERO_KIND_COUNT; k++)
            assert_true(fabs(owed[k]) <= (double)homes.strip_elems / 2 + 1);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(strips_tile_their_units),
        cmocka_unit_test(homes_change_no_bit),
        cmocka_unit_test(checkpoints_go_from_home_to_home),
        cmocka_unit_test(a_run_that_fails_ends_though_the_host_updates),
    };
    int failed;

    ds_log.is_leader = 0;
    seed = test_seed("test_offload");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    root = malloc(512);
    snprintf(root, 512, "%s/checkpoints", folder);
    for (uint32_t i = 0; i < DRIVES_MAX; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/drive-%u", folder, i);
        if (ds_fs_mkdir(ds_fs_posix(), path, 0700) != 0)
            return 1;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(root);
    free(data);
    tiny_remove(folder);
    return failed;
}
