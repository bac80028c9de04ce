// link: checkpoint
/* What one layout has saved every other one loads, bit for bit: models drawn at random, spread over meshes, their
 * states in packs on the simulated disk. */
#include "saved_spread.h"

static void load_rank(struct rig *rig, const struct spread_case *c, uint32_t index,
                      const struct ds_manifest *manifest)
{
    struct rank rank;
    struct target target;
    const struct ds_checkpoint_sink sink = {take, &target};

    rank_open(rig, c, index, &rank);
    target_open(&rank, &target);
    assert_ok(
        ds_checkpoint_load(rig->fs, ROOT, manifest, target.wants, rank.count, rig->buffer, &sink));
    target_check(&target);
    target_close(&target);
    rank_close(&rank);
}

static void every_layout_loads_what_another_saved(void **state)
{
    struct spread_draw draw = {ds_random_of(test_seed("test_checkpoint_load"), DS_RANDOM_TEST, 0),
                               0};

    (void)state;
    for (int trial = 0; trial < (test_is_long() ? 400 : 20); trial++) {
        struct spread_case from = {0}, to;
        struct ds_manifest manifest;
        struct rig rig;

        rig_open(&rig);
        spread_draw_config(&draw, &from.config);
        spread_draw_layout(&draw, &from, RANKS_MAX);
        save(&rig, &from, 10);
        assert_ok(
            ds_checkpoint_read_manifest(rig.fs, ROOT, &(struct ds_manifest_id){1, 10}, &manifest));
        assert_ok(ds_checkpoint_verify(rig.fs, ROOT, &manifest, rig.buffer));
        for (int other = 0; other < 5; other++) {
            to = from;
            if (other > 0) /* its own first */
                spread_draw_layout(&draw, &to, RANKS_MAX);
            for (uint32_t rank = 0; rank < ds_mesh_rank_count(&to.mesh); rank++)
                load_rank(&rig, &to, rank, &manifest);
        }
        ds_manifest_fini(&manifest);
        rig_close(&rig);
    }
}

/* A pack that is not named any more takes its elements along: that is noticed, though all that is there is good. */
static void what_is_nowhere_is_missed(void **state)
{
    struct spread_draw draw = {ds_random_of(3, DS_RANDOM_TEST, 0), 0};
    struct spread_case c = {0};
    struct ds_manifest manifest;
    struct rank rank;
    struct rig rig;
    struct target target;
    const struct ds_checkpoint_sink sink = {take, &target};

    (void)state;
    rig_open(&rig);
    spread_draw_config(&draw, &c.config);
    do
        spread_draw_layout(&draw, &c, RANKS_MAX);
    while (c.mesh.size[DS_AXIS_SHARD] < 2 || c.mesh.size[DS_AXIS_PP] > 1);
    save(&rig, &c, 10);
    assert_ok(
        ds_checkpoint_read_manifest(rig.fs, ROOT, &(struct ds_manifest_id){1, 10}, &manifest));
    rank_open(&rig, &c, 0, &rank);
    target_open(&rank, &target);
    assert_ok(ds_checkpoint_load(rig.fs, ROOT, &manifest, target.wants, 1, rig.buffer, &sink));
    memmove(manifest.packs, manifest.packs + 1, --manifest.pack_count * sizeof *manifest.packs);
    ds_log.terminal = -1;
    assert_int_equal(
        ds_checkpoint_load(rig.fs, ROOT, &manifest, target.wants, 1, rig.buffer, &sink),
        DS_ERR_CORRUPT);
    ds_log.terminal = 2;
    target_close(&target);
    rank_close(&rank);
    ds_manifest_fini(&manifest);
    rig_close(&rig);
}

static void tensors_are_found_by_name_and_kind(void **state)
{
    struct ds_logical_tensor there[] = {
        {"b", DS_STATE_KIND_MASTER, DS_F32, 1, {4}},
        {"a", DS_STATE_KIND_MASTER, DS_F32, 2, {4, 5}},
        {"a", DS_STATE_KIND_EXP_AVG, DS_BF16, 2, {4, 5}},
    };
    struct ds_logical_tensor here[] = {
        {"a", DS_STATE_KIND_EXP_AVG, DS_F32, 2, {4, 5}}, /* another precision is fine */
        {"c", DS_STATE_KIND_MASTER, DS_F32, 1, {4}},
        {"b", DS_STATE_KIND_MASTER, DS_F32, 1, {4}},
        {"b", DS_STATE_KIND_EXP_AVG, DS_F32, 1, {4}},
    };
    const struct ds_catalogue from = {there, 3}, to = {here, 4};
    uint32_t numbers[4];

    (void)state;
    assert_ok(ds_catalogue_match("test", &from, &to, numbers));
    assert_true(numbers[0] == 2 && numbers[1] == UINT32_MAX && numbers[2] == 0 &&
                numbers[3] == UINT32_MAX);
    here[2].shape[0] = 5;
    ds_log.terminal = -1;
    assert_int_equal(ds_catalogue_match("test", &from, &to, numbers), DS_ERR_DATA);
    ds_log.terminal = 2;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_layout_loads_what_another_saved),
    cmocka_unit_test(what_is_nowhere_is_missed),
    cmocka_unit_test(tensors_are_found_by_name_and_kind),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
