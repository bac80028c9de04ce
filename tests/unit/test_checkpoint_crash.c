// link: checkpoint comm storage base
// cost: 195
// timeout: 10800
/* Scripts of saves, launches, rollbacks and retention, one launch after the other, in the model of support/crash_model.h:
 * whenever power fails, nothing is violated. Then the same with a barrier left out, which has to be seen. Two launches at
 * once are test_checkpoint_launches.c's. */
#include "crash_model.h"

#if defined(__SANITIZE_ADDRESS__)
#define STATES_WANTED \
    20000 /* every kind of state is among them, and it is the plain build that counts */
#else
#define STATES_WANTED 100000
#endif

/* ---- steps of scripts; nothing is done any more once something was violated */

/* How many of those that are there may be loaded and are not newer than `step`; the newest of them. */
static int good_until(struct model *m, uint64_t step, struct ds_manifest_id *newest)
{
    struct ds_checkpoint_list list;
    int good = 0;

    assert_ok(ds_checkpoint_list_make(m->disk, RIG_ROOT, &list));
    for (size_t i = list.count; i-- > 0;)
        if (list.entries[i].standing == DS_CHECKPOINT_GOOD && list.entries[i].id.step <= step) {
            *newest = list.entries[i].id;
            good++;
        }
    ds_checkpoint_list_fini(&list);
    return good;
}

/* Behind `step`: while it happens, either is right; once it has, only the older. */
static void roll_back(struct model *m, uint64_t step)
{
    struct ds_manifest_id base;
    const int good = m->launch && !m->violation ? good_until(m, step, &base) : 0;

    if (good == 0)
        return;
    m->truth.newest.step = base.step;
    m->truth.newest.epoch = base.epoch;
    m->truth.acked_count = good;
    if (launch_start(m->launch, step) != DS_OK || !m->launch->has_base)
        m->violation = "a rollback fails";
    else if (ds_manifest_id_compare(&base, &m->launch->base) != 0)
        m->violation = "a rollback goes elsewhere";
    rule(m, ds_checkpoint_dir_epoch(m->launch->dir), base.step);
    take_snapshot(m);
    check_snapshots(m);
}

static void retain(struct model *m, uint32_t keep_last, uint64_t step)
{
    const struct ds_checkpoint_retention keep = {.keep_last = keep_last,
                                                 .margin = keep_last == 2 ? 15 : 0};

    if (!m->launch || m->violation)
        return;
    m->is_retaining = 1;
    if (ds_checkpoint_retain(m->launch->dir, &keep, step) != DS_OK)
        m->violation = "retention fails";
    m->is_retaining = 0;
    check_snapshots(m);
}

static void failed_save(struct model *m, uint64_t step, const char *what, const char *path,
                        int code)
{
    m->fail_what = what;
    m->fail_path = path;
    m->fail_code = code;
    ds_log.terminal = -1;
    if (save(m, step))
        m->violation = "a failed save is acknowledged";
    ds_log.terminal = 2;
    m->fail_what = NULL;
}

/* ---- scripts */

static void script_saves(struct model *m)
{
    begin_launch(m);
    for (uint64_t step = 10; step <= 50; step += 10) {
        save(m, step);
        retain(m, 2, step);
    }
}

static void script_three_saves(struct model *m)
{
    begin_launch(m);
    for (uint64_t step = 10; step <= 30; step += 10)
        save(m, step);
}

static void script_launches(struct model *m)
{
    for (uint64_t step = 10; step <= 40; step += 10) {
        begin_launch(m);
        save(m, step);
        retain(m, 1, step);
        save(m, step + 5);
    }
}

static void script_rollbacks(struct model *m)
{
    begin_launch(m);
    save(m, 10);
    save(m, 20);
    save(m, 30);
    roll_back(m, 15);
    save(m, 12);
    save(m, 22);
    retain(m, 2, 22);
    save(m, 32);
    roll_back(m, 25);
    begin_launch(m);
    save(m, 26);
}

static void script_full_disk(struct model *m)
{
    begin_launch(m);
    failed_save(m, 5, "fallocate", "P-", -ENOSPC);
    save(m, 10);
    failed_save(m, 15, "pwrite", "data/1", -ENOSPC);
    retain(m, 2, 10);
    save(m, 20);
    failed_save(m, 25, "fsync", "M-", -EIO);
    failed_save(m, 30, "fsync_dir", "manifests", -EIO);
    save(m, 35);
    retain(m, 1, 35);
}

/* What overruled checkpoints that are gone goes with them, and not before. */
static void script_tidies(struct model *m)
{
    begin_launch(m);
    save(m, 10);
    save(m, 20);
    save(m, 30);
    roll_back(m, 25);
    begin_launch(m);
    save(m, 28);
    save(m, 35);
    retain(m, 1, 35);
    begin_launch(m);
    begin_launch(m);
    save(m, 40);
}

/* By a seed: whatever may come after one another. */
static void script_random(struct model *m)
{
    uint64_t step = 10;

    begin_launch(m);
    for (int i = 0; i < 12 && !m->violation; i++) {
        const uint64_t dice = ds_random_below(m->random, m->drawn++, 10);

        if (dice == 0)
            begin_launch(m);
        else if (dice == 1)
            roll_back(m, step - ds_random_below(m->random, m->drawn++, 25));
        else if (dice == 2)
            failed_save(m, step += 10, "fsync", "data/1", -EIO);
        else if (dice <= 5)
            retain(m, 1 + (uint32_t)dice % 2, step);
        else
            save(m, step += 10);
    }
}

typedef void script(struct model *m);

static void run(script *play, int is_delta, uint64_t seed, uint64_t *states)
{
    struct model *m = malloc(sizeof *m);

    model_open(m, seed, is_delta);
    play(m);
    model_close(m);
    *states += m->states;
    const char *violation = m->violation;
    free(m);
    if (violation)
        fail_msg("%s", violation);
}

static void no_loss_of_power_loses_what_was_acknowledged(void **state)
{
    static script *const scripts[] = {script_saves, script_launches, script_rollbacks,
                                      script_full_disk, script_tidies};
    const uint64_t wanted = test_is_long() ? 10000000 : STATES_WANTED;
    const uint64_t seed = test_seed("test_checkpoint_crash");
    uint64_t states = 0, i;

    (void)state;
    for (i = 0; i < 2 * sizeof scripts / sizeof scripts[0]; i++)
        run(scripts[i / 2], (int)(i % 2), seed + i, &states);
    for (; states < wanted; i++)
        run(script_random, (int)(i % 2), seed + i, &states);
    printf("%llu crash states, %llu runs\n", (unsigned long long)states, (unsigned long long)i);
}

/* ---- the same with less */

static const struct mutant mutants[] = {
    {"/P-", 0, 0, 1},          /* packs */
    {"/data/0", 1, 0, 1},      /* their names */
    {"/data", 1, 0, 1},        /* the folders of their names */
    {"/M-", 0, 0, 1},          /* the manifest */
    {"/manifests", 1, 0, 1},   /* its name, before the acknowledgement */
    {"/RUN.json", 0, 0, 1},    /* whose directory it is */
    {"/checkpoints", 1, 0, 1}, /* and what is in it */
    {"/run", 1, 0, 1},         /* and its own name */
    {".base.json", 0, 0, 1},   /* what a rollback goes back to */
    {"/epochs", 1, 0, 1},      /* and that it is there */
    {"/manifests", 1, 1, 1},   /* that what was overruled is gone, before what has overruled it */
    /* These may go: a hint is never trusted; of a claim only the name counts, and the base's barrier holds it, too. */
    {"/latest", 0, 0, 0},
    {"/E-0000000000000001", 0, 0, 0},
};

/* `nth`: of its barriers one alone is left out; 0: all are. *barriers: how many there were. */
static const char *violation_without(const struct mutant *mutant, uint64_t nth, script *play,
                                     uint64_t seed, uint64_t *barriers)
{
    struct model *m = malloc(sizeof *m);

    model_open(m, seed, 0);
    m->mutant = mutant;
    m->drop_nth = nth;
    ds_log.terminal = -1;
    play(m);
    model_close(m);
    ds_log.terminal = 2;
    const char *violation = m->violation;
    *barriers = m->barriers;
    free(m);
    return violation;
}

static const char *violation_of(const struct mutant *mutant, script *play, uint64_t seed)
{
    uint64_t barriers;

    return violation_without(mutant, 0, play, seed, &barriers);
}

static void every_barrier_that_carries_something_is_missed(void **state)
{
    const uint64_t seed = test_seed("test_checkpoint_crash");

    (void)state;
    for (size_t i = 0; i < sizeof mutants / sizeof mutants[0]; i++) {
        const char *violation = violation_of(&mutants[i], script_saves, seed);

        if (!violation)
            violation = violation_of(&mutants[i], script_rollbacks, seed + 1);
        if (!violation)
            violation = violation_of(&mutants[i], script_tidies, seed + 2);
        printf("  without %s of %s%s: %s\n", mutants[i].is_name ? "fsync_dir" : "fsync",
               mutants[i].path, mutants[i].only_in_retention ? " in retention" : "",
               violation ? violation : "nothing is lost");
        assert_int_equal(violation != NULL, mutants[i].is_seen);
    }
}

/* Not only all of a kind: each pack's, each manifest's, each name's on its own. */
static void one_barrier_of_many_is_missed(void **state)
{
    static const struct mutant kinds[] = {
        {"/P-", 0, 0, 1}, {"/M-", 0, 0, 1}, {"/manifests", 1, 0, 1}};
    const uint64_t seed = test_seed("test_checkpoint_crash");
    uint64_t missed = 0;

    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        uint64_t barriers, seen;

        assert_null(violation_without(&kinds[i], UINT64_MAX, script_three_saves, seed, &barriers));
        assert_true(barriers >= 3);
        for (uint64_t nth = 1; nth <= barriers; nth++) {
            if (!violation_without(&kinds[i], nth, script_three_saves, seed + nth, &seen))
                fail_msg("without barrier %llu of %s nothing is lost", (unsigned long long)nth,
                         kinds[i].path);
            missed++;
        }
    }
    printf("  %llu barriers, each on its own\n", (unsigned long long)missed);
}

/* What is removed before there is something new. */
static void script_removes_first(struct model *m)
{
    begin_launch(m);
    save(m, 10);
    save(m, 20);
    save(m, 30);
    assert_int_equal(ds_fs_unlink(&m->watch.fs, RIG_ROOT "/manifests/M-000001-000000000020.json"),
                     0);
    assert_int_equal(ds_fs_unlink(&m->watch.fs, RIG_ROOT "/manifests/M-000001-000000000010.json"),
                     0);
    save(m, 40);
}

static void removing_before_committing_is_missed(void **state)
{
    (void)state;
    assert_non_null(violation_of(NULL, script_removes_first, 1));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_loss_of_power_loses_what_was_acknowledged),
        cmocka_unit_test(every_barrier_that_carries_something_is_missed),
        cmocka_unit_test(one_barrier_of_many_is_missed),
        cmocka_unit_test(removing_before_committing_is_missed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
