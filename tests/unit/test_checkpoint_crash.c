// link: checkpoint comm storage base
// cost: 230
// timeout: 10800
/* The model checker: scripts of saves, launches, rollbacks and retention on the simulated disk; after every change
 * the power fails, in every way that what is not synced can survive. Whatever is left: no wrong byte is loaded, what
 * was acknowledged is there, a rollback stays in force, two checkpoints verify once two were acknowledged, and a
 * launch can begin. Then the same with a barrier left out, which has to be seen. */
#include "checkpoint_rig.h"
#include "watch_fs.h"

#if defined(__SANITIZE_ADDRESS__)
#define STATES_WANTED \
    20000 /* every kind of state is among them, and it is the plain build that counts */
#else
#define STATES_WANTED 100000
#endif
#define SNAPSHOTS_MAX 512
#define RULINGS_MAX   16
#define CASES_ALL     8 /* up to as many undecided things, all their combinations */

/* What must hold after a crash now. */
struct truth {
    struct ds_manifest_id newest; /* acknowledged, or what a rollback goes back to */
    int has_newest;
    int acked_count; /* of the way that leads to `newest` */
    /* rollbacks: of older epochs nothing newer than this may be loaded */
    struct ds_manifest_id rulings[RULINGS_MAX];
    size_t ruling_count;
};

struct snapshot {
    struct ds_fs *disk;
    struct truth truth;
};

/* A barrier that is left out: of a file whose path has this in it, of a directory whose path ends in it. */
struct mutant {
    const char *path;
    int is_name, only_in_retention;
    int is_seen; /* or does nothing rest on it */
};

struct model {
    struct ds_fs *disk;
    struct watch_fs watch;
    struct launch *launch;
    struct truth truth;
    struct snapshot snapshots[SNAPSHOTS_MAX];
    size_t snapshot_count;
    int is_known; /* what is done now has been done and looked at before */
    struct ds_random random;
    uint64_t drawn, states, random_states;
    int is_delta;
    const char *violation; /* the first */
    const struct mutant *mutant;
    uint64_t drop_nth, barriers; /* of those of the mutant this one alone; 0: all */
    int is_retaining;
    /* of a failing disk */
    const char *fail_what, *fail_path;
    int fail_code;
};

/* ---- one crash state */

static int is_ruled_out(const struct truth *truth, const struct ds_manifest_id *id)
{
    for (size_t i = 0; i < truth->ruling_count; i++)
        if (id->epoch < truth->rulings[i].epoch && id->step > truth->rulings[i].step)
            return 1;
    return 0;
}

static const char *check_two(struct ds_fs *disk, const struct truth *truth, int is_delta)
{
    const int wanted = truth->acked_count < 2 ? truth->acked_count : 2;
    struct ds_checkpoint_list list;
    int good = 0, undone = 0;

    if (ds_checkpoint_list_make(disk, RIG_ROOT, &list) != DS_OK)
        return "the directory cannot be listed";
    for (size_t i = 0; i < list.count && !undone; i++)
        undone = list.entries[i].standing == DS_CHECKPOINT_GOOD &&
                 is_ruled_out(truth, &list.entries[i].id);
    for (size_t i = 0; i < list.count && good < wanted && !undone; i++) {
        struct ds_manifest manifest;

        if (list.entries[i].standing != DS_CHECKPOINT_GOOD ||
            ds_checkpoint_read_manifest(disk, RIG_ROOT, &list.entries[i].id, &manifest) != DS_OK)
            continue;
        good += rig_read_bytes(disk, &manifest, is_delta) == RIG_BYTES_RIGHT;
        ds_manifest_fini(&manifest);
    }
    ds_checkpoint_list_fini(&list);
    if (undone)
        return "a rollback is undone";
    return good < wanted ? "fewer checkpoints verify than there should be" : NULL;
}

static const char *check_found(const struct truth *truth, const struct ds_manifest_id *found)
{
    if (truth->has_newest && (!found || ds_manifest_id_compare(found, &truth->newest) < 0))
        return "an acknowledged checkpoint is lost";
    if (found && is_ruled_out(truth, found))
        return "a rollback is undone";
    return NULL;
}

/* What the next launch loads: the newest that reads, its bytes compared. */
static const char *load(struct ds_comm *self, struct ds_fs *disk, struct ds_checkpoint_dir *dir,
                        const struct truth *truth, int is_delta)
{
    struct ds_recovery *recovery;
    struct ds_manifest manifest;
    struct ds_manifest_id id = {0, 0};
    enum rig_bytes bytes = RIG_BYTES_REFUSED;
    int found = 1;
    ds_status st = ds_recovery_open(self, disk, RIG_ROOT, dir, UINT64_MAX, &recovery);

    if (st != DS_OK)
        return "recovery cannot begin";
    while (st == DS_OK && found && bytes == RIG_BYTES_REFUSED) {
        st = ds_recovery_next(recovery, &manifest, &found);
        if (st == DS_OK && found) {
            id = manifest.id;
            bytes = rig_read_bytes(disk, &manifest, is_delta);
            ds_manifest_fini(&manifest);
        }
    }
    ds_recovery_close(recovery);
    if (bytes == RIG_BYTES_WRONG)
        return "wrong bytes are loaded";
    if (st != DS_OK)
        return "no checkpoint verifies";
    return check_found(truth, found ? &id : NULL);
}

static const char *check_disk(struct ds_fs *disk, const struct truth *truth, int is_delta)
{
    const uint8_t nonce[16] = {3};
    struct ds_checkpoint_dir *dir = NULL;
    struct ds_comm *self;
    const char *violation = NULL;

    assert_ok(ds_comm_self_open(ds_clock_system(), &self));
    if (ds_checkpoint_dir_open(disk, RIG_ROOT, rig_run, nonce, &rig_keys, &dir) != DS_OK)
        violation = "the directory cannot be opened";
    else if (ds_checkpoint_claim(dir) != DS_OK)
        violation = "no epoch can be claimed";
    else
        violation = load(self, disk, dir, truth, is_delta);
    if (!violation)
        violation = check_two(disk, truth, is_delta);
    ds_checkpoint_dir_close(dir);
    ds_comm_close(self);
    return violation;
}

static uint64_t crash_copy(struct model *m, const struct snapshot *at, uint64_t choices,
                           int by_seed)
{
    struct ds_fs *disk;
    uint64_t cases = 0;

    assert_ok(ds_fs_sim_copy(at->disk, &disk));
    if (by_seed)
        ds_fs_sim_crash(disk, choices);
    else
        cases = ds_fs_sim_crash_by(disk, choices);
    const char *violation = check_disk(disk, &at->truth, m->is_delta);
    if (violation && !m->violation)
        m->violation = violation;
    m->states++;
    ds_fs_sim_close(disk);
    return cases;
}

/* All survives, nothing does, and every combination, or as many of them as time allows. */
static void check_snapshot(struct model *m, const struct snapshot *at)
{
    const uint64_t cases = crash_copy(m, at, UINT64_MAX, 0);

    if (cases <= CASES_ALL) {
        for (uint64_t choices = 0; choices + 1 < 1ull << cases && !m->violation; choices++)
            crash_copy(m, at, choices, 0);
        return;
    }
    crash_copy(m, at, 0, 0);
    for (uint64_t i = 0; i < m->random_states && !m->violation; i++)
        crash_copy(m, at, 2 + ds_random_u64(m->random, m->drawn++) / 2, 1);
}

/* On the main thread, between two steps of a script. */
static void check_snapshots(struct model *m)
{
    const int terminal = ds_log.terminal;

    ds_log.terminal = -1;
    for (size_t i = 0; i < m->snapshot_count; i++) {
        if (!m->violation)
            check_snapshot(m, &m->snapshots[i]);
        ds_fs_sim_close(m->snapshots[i].disk);
    }
    ds_log.terminal = terminal;
    m->snapshot_count = 0;
}

/* ---- the disk that is looked at */

/* On whichever thread writes; the others wait for it. */
static void take_snapshot(void *user)
{
    struct model *m = user;

    if (m->snapshot_count == SNAPSHOTS_MAX || m->violation || m->is_known)
        return;
    struct snapshot *at = &m->snapshots[m->snapshot_count];
    if (ds_fs_sim_copy(m->disk, &at->disk) != DS_OK)
        return;
    at->truth = m->truth;
    m->snapshot_count++;
}

static int is_dropped(void *user, const char *path, int is_name)
{
    struct model *m = user;
    const struct mutant *mutant = m->mutant;
    const char *at = mutant ? strstr(path, mutant->path) : NULL;

    if (!at || is_name != mutant->is_name || (mutant->only_in_retention && !m->is_retaining))
        return 0;
    if (is_name && strcmp(at, mutant->path) != 0)
        return 0;
    m->barriers++;
    return m->drop_nth == 0 || m->barriers == m->drop_nth;
}

static int disk_fails(void *user, const char *what, const char *path)
{
    const struct model *m = user;

    return m->fail_what && strcmp(what, m->fail_what) == 0 && strstr(path, m->fail_path)
               ? m->fail_code
               : 0;
}

static void model_open(struct model *m, uint64_t seed, int is_delta)
{
    *m = (struct model){.random = ds_random_of(seed, DS_RANDOM_TEST, 7), .is_delta = is_delta};
    m->random_states = (uint64_t)test_draws(20, 5, 600);
    assert_ok(ds_fs_sim_open(&m->disk));
    assert_int_equal(ds_fs_mkdir(m->disk, "/run", 0755), 0);
    assert_int_equal(ds_fs_fsync_dir(m->disk, "/"), 0);
    m->watch = (struct watch_fs){.fs = {&watch_ops},
                                 .inner = m->disk,
                                 .user = m,
                                 .changed = take_snapshot,
                                 .drops = is_dropped,
                                 .fails = disk_fails};
}

static void model_close(struct model *m)
{
    check_snapshots(m);
    if (m->launch)
        launch_fini(m->launch);
    free(m->launch);
    ds_fs_sim_close(m->disk);
}

/* ---- steps of scripts; nothing is done any more once something was violated */

static void end_launch(struct model *m)
{
    if (m->launch)
        launch_fini(m->launch);
    free(m->launch);
    m->launch = NULL;
}

static void begin_launch(struct model *m)
{
    end_launch(m);
    if (m->violation)
        return;
    m->launch = calloc(1, sizeof *m->launch);
    launch_init(m->launch, &m->watch.fs, m->is_delta);
    if (launch_start(m->launch, UINT64_MAX) != DS_OK)
        m->violation = "a launch cannot begin";
    check_snapshots(m);
}

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

static void rule(struct model *m, uint64_t epoch, uint64_t step)
{
    assert_true(m->truth.ruling_count < RULINGS_MAX);
    m->truth.rulings[m->truth.ruling_count++] = (struct ds_manifest_id){epoch, step};
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

static int save(struct model *m, uint64_t step)
{
    int committed = 0;

    if (!m->launch || m->violation)
        return 0;
    if (launch_save(m->launch, step, &committed) != DS_OK)
        m->violation = "a save fails";
    if (committed) {
        m->truth.newest = (struct ds_manifest_id){ds_checkpoint_dir_epoch(m->launch->dir), step};
        m->truth.has_newest = 1;
        m->truth.acked_count++;
        take_snapshot(m);
        if (ds_checkpoint_write_latest(m->launch->dir, &m->truth.newest) != DS_OK)
            m->violation = "the hint cannot be written";
    }
    check_snapshots(m);
    return committed;
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

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(no_loss_of_power_loses_what_was_acknowledged),
    cmocka_unit_test(every_barrier_that_carries_something_is_missed),
    cmocka_unit_test(one_barrier_of_many_is_missed),
    cmocka_unit_test(removing_before_committing_is_missed),
    cmocka_unit_test(of_two_launches_one_wins_and_knows_what_is_there),
    cmocka_unit_test(two_launches_that_make_a_directory_make_one),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
