// link: checkpoint comm storage base
// cost: 35
/* Two launches at once, the second begun before every call of the first that matters: what one was told is there is what
 * the other goes on from, whenever power fails, too; and where neither found a directory they make one. */
#include "crash_model.h"

/* ---- two launches at once: the second begins before the n-th look of the first at epochs or manifests */

struct race {
    struct model m;
    struct launch new;
    int left; /* calls until the second begins; -1: not now */
    int has_begun, is_beginning;
    int epoch_looks,
        is_blind; /* a mutant: the look behind the commit sees no epochs, nor that its own has gone */
};

static void maybe_begin(void *user, const char *path)
{
    struct race *race = user;

    if (race->left < 0 || (!strstr(path, "/manifests") && !strstr(path, "/epochs")) ||
        race->left-- > 0)
        return;
    race->left = -1;
    race->has_begun = 1;
    race->is_beginning = 1;
    launch_init(&race->new, &race->m.watch.fs, 0);
    ds_status st = launch_start(&race->new, UINT64_MAX);
    race->is_beginning = 0;
    if (st != DS_OK) {
        race->m.violation = "the second launch cannot begin";
        return;
    }
    race->m.truth.newest = race->new.base;
    rule(&race->m, ds_checkpoint_dir_epoch(race->new.dir), race->new.base.step);
}

static int is_blind_now(void *user, const char *path)
{
    struct race *race = user;

    return race->is_blind && !race->is_beginning && strstr(path, "/epochs") &&
           ++race->epoch_looks == 2;
}

/* Whether what the old launch was told is there is what the new one goes on from. 0: the race is over before. */
static int run_race(struct race *race, int n, int is_blind, uint64_t *states, int *lost)
{
    struct model *m = &race->m;
    int committed = 0;

    model_open(m, 5, 0);
    m->is_known = n > 0 || is_blind;
    begin_launch(m);
    save(m, 10);
    save(m, 20);
    m->is_known = 0;
    *race = (struct race){.m = *m, .left = n, .is_blind = is_blind};
    m->watch.user = race; /* the model is its first member */
    m->watch.before = maybe_begin;
    m->watch.hides = is_blind_now;
    m->fail_what = is_blind ? "unlink" : NULL;
    m->fail_path = "/epochs/E-0000000000000001";
    m->fail_code = -EIO;
    ds_log.terminal = -1;
    ds_status st = launch_save(m->launch, 30, &committed);
    ds_log.terminal = 2;
    m->fail_what = NULL;
    race->left = -1;
    m->watch.before = NULL;
    m->watch.hides = NULL;
    if (st != DS_OK && st != DS_ERR_FENCED)
        m->violation = "the first launch fails";
    *lost += committed && race->has_begun && race->new.base.step != 30;
    if (!is_blind)
        check_snapshots(m);
    if (race->has_begun) {
        int later = 0;

        if (!is_blind && (launch_save(&race->new, 40, &later) != DS_OK || !later))
            m->violation = "the second launch cannot save";
        launch_fini(&race->new);
    }
    const char *violation = m->violation;
    while (is_blind && m->snapshot_count > 0)
        ds_fs_sim_close(m->snapshots[--m->snapshot_count].disk);
    model_close(m);
    *states += m->states;
    if (violation)
        fail_msg("%s, call %d", violation, n);
    return race->has_begun;
}

static void of_two_launches_one_wins_and_knows_what_is_there(void **state)
{
    struct race *race = malloc(sizeof *race);
    uint64_t states = 0;
    int lost = 0, lost_blind = 0, n = 0;

    (void)state;
    for (; run_race(race, n, 0, &states, &lost); n++)
        ;
    assert_true(n >= 8); /* the second began in as many places */
    assert_int_equal(lost, 0);
    for (n = 0; run_race(race, n, 1, &states, &lost_blind); n++)
        ;
    assert_true(lost_blind > 0); /* without the look behind the commit */
    printf("  %llu crash states of two launches at once\n", (unsigned long long)states);
    free(race);
}

/* ---- two launches at once where there is no directory yet: the second begins before the n-th call of the first */

struct birth {
    struct watch_fs watch;
    struct launch first, second;
    int left, has_begun,
        is_whole; /* the second has saved before the first goes on; or it only opens the directory */
    const char *violation;
};

static void birth_start_and_save(struct birth *b, struct launch *l, uint64_t step, uint64_t *newest)
{
    int committed = 0;
    const ds_status started = launch_start(l, UINT64_MAX);
    const ds_status st = started == DS_OK ? launch_save(l, step, &committed) : started;

    if (st != DS_OK)
        b->violation = st == DS_ERR_FENCED ? b->violation : "a launch cannot begin";
    *newest = committed ? step : *newest;
}

static void birth_of_second(void *user, const char *path)
{
    struct birth *b = user;
    uint64_t newest = 0;

    if (b->left < 0 || strncmp(path, RIG_ROOT, strlen(RIG_ROOT)) != 0 || b->left-- > 0)
        return;
    b->left = -1;
    b->has_begun = 1;
    launch_init(&b->second, &b->watch.fs, 0);
    b->second.fresh_run[0]++;
    if (b->is_whole)
        birth_start_and_save(b, &b->second, 10, &newest);
    else if (launch_open(&b->second) != DS_OK)
        b->violation = "the directory cannot be opened";
}

/* What the third launch begins with. */
static uint64_t step_of_third(struct ds_fs *disk)
{
    struct launch third;

    launch_init(&third, disk, 0);
    third.fresh_run[0] += 2;
    const ds_status st = launch_start(&third, UINT64_MAX);
    const uint64_t step = st == DS_OK && third.has_base ? third.base.step : 0;
    launch_fini(&third);
    return step;
}

/* 0: the first had begun before. */
static int run_birth(int n, int is_whole)
{
    struct birth b = {.left = n, .is_whole = is_whole};
    uint64_t newest = is_whole ? 10 : 0;
    struct ds_fs *disk;

    assert_ok(ds_fs_sim_open(&disk));
    assert_int_equal(ds_fs_mkdir(disk, "/run", 0755), 0);
    b.watch =
        (struct watch_fs){.fs = {&watch_ops}, .inner = disk, .user = &b, .before = birth_of_second};
    launch_init(&b.first, &b.watch.fs, 0);
    ds_log.terminal = -1;
    if (launch_open(&b.first) != DS_OK)
        b.violation = "the directory cannot be opened";
    b.left = -1;
    if (b.has_begun) {
        birth_start_and_save(&b, &b.first, 20, &newest);
        if (!is_whole)
            birth_start_and_save(&b, &b.second, 30, &newest);
        launch_fini(&b.second);
    }
    launch_fini(&b.first);
    const uint64_t step = b.has_begun ? step_of_third(disk) : 0;
    ds_log.terminal = 2;
    if (b.violation || (b.has_begun && step != newest))
        fail_msg("call %d, %s: %s; step %llu is gone on from, %llu was acknowledged", n,
                 is_whole ? "whole" : "opened", b.violation ? b.violation : "lost",
                 (unsigned long long)step, (unsigned long long)newest);
    ds_fs_sim_close(disk);
    return b.has_begun;
}

static void two_launches_that_make_a_directory_make_one(void **state)
{
    (void)state;
    for (int is_whole = 0; is_whole < 2; is_whole++) {
        int n = 0;

        while (run_birth(n, is_whole))
            n++;
        assert_true(n >= 8);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_two_launches_one_wins_and_knows_what_is_there),
        cmocka_unit_test(two_launches_that_make_a_directory_make_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
