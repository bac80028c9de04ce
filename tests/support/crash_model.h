/* crash_model.h - launches on the simulated disk, and after every change a loss of power, in every way that what is not
 * synced can survive. Whatever is left: no wrong byte is loaded, what was acknowledged is there, a rollback stays in force,
 * two checkpoints verify once two were acknowledged, and a launch can begin. */
#ifndef DSTRAIN_TEST_CRASH_MODEL_H
#define DSTRAIN_TEST_CRASH_MODEL_H

#include "checkpoint_rig.h"
#include "test.h"
#include "watch_fs.h"

#include "dstrain/random.h"

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

static inline int is_ruled_out(const struct truth *truth, const struct ds_manifest_id *id)
{
    for (size_t i = 0; i < truth->ruling_count; i++)
        if (id->epoch < truth->rulings[i].epoch && id->step > truth->rulings[i].step)
            return 1;
    return 0;
}

static inline const char *check_two(struct ds_fs *disk, const struct truth *truth, int is_delta)
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

static inline const char *check_found(const struct truth *truth, const struct ds_manifest_id *found)
{
    if (truth->has_newest && (!found || ds_manifest_id_compare(found, &truth->newest) < 0))
        return "an acknowledged checkpoint is lost";
    if (found && is_ruled_out(truth, found))
        return "a rollback is undone";
    return NULL;
}

/* What the next launch loads: the newest that reads, its bytes compared. */
static inline const char *load(struct ds_comm *self, struct ds_fs *disk,
                               struct ds_checkpoint_dir *dir, const struct truth *truth,
                               int is_delta)
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

static inline const char *check_disk(struct ds_fs *disk, const struct truth *truth, int is_delta)
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

static inline uint64_t crash_copy(struct model *m, const struct snapshot *at, uint64_t choices,
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
static inline void check_snapshot(struct model *m, const struct snapshot *at)
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
static inline void check_snapshots(struct model *m)
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
static inline void take_snapshot(void *user)
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

static inline int is_dropped(void *user, const char *path, int is_name)
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

static inline int disk_fails(void *user, const char *what, const char *path)
{
    const struct model *m = user;

    return m->fail_what && strcmp(what, m->fail_what) == 0 && strstr(path, m->fail_path)
               ? m->fail_code
               : 0;
}

static inline void model_open(struct model *m, uint64_t seed, int is_delta)
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

static inline void model_close(struct model *m)
{
    check_snapshots(m);
    if (m->launch)
        launch_fini(m->launch);
    free(m->launch);
    ds_fs_sim_close(m->disk);
}

/* ---- steps of scripts; nothing is done any more once something was violated */

static inline void end_launch(struct model *m)
{
    if (m->launch)
        launch_fini(m->launch);
    free(m->launch);
    m->launch = NULL;
}

static inline void begin_launch(struct model *m)
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

static inline void rule(struct model *m, uint64_t epoch, uint64_t step)
{
    assert_true(m->truth.ruling_count < RULINGS_MAX);
    m->truth.rulings[m->truth.ruling_count++] = (struct ds_manifest_id){epoch, step};
}

static inline int save(struct model *m, uint64_t step)
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

#endif
