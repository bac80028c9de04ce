// link: launch
// cost: 300
// tsan
/* Checkpoints of states that lie in files, where packs share the blocks of those: they are what they would be if every byte
 * had been copied and written, on any layout and with any homes; what is not as it was written comes into none; where
 * sharing fails the run goes on, and saves as if it had never been tried. A loss of power at any call to the disk leaves
 * what was acknowledged. */
#include "saved_run.h"
#include "sharing_disk.h"
#include "split_fs.h"

#include "dstrain/random.h"

enum { STEPS = 6, INTERVAL = 2, MANY = 8 };

static uint64_t drawn;

static uint64_t draw(uint64_t bound)
{
    return ds_random_below(ds_random_of(saved.seed, DS_RANDOM_TEST, 31), drawn++, bound);
}

/* ---- runs */

static struct {
    struct ds_home_key params, master, moments;
    int references, resume, master_kind, moments_bf16, updates;
    uint64_t depth, block_size, buffer;
    char directories[1100];
} now;

static void in_files(struct ds_config *config)
{
    config->model.hidden_size = 1024; /* so that norms, too, end at a multiple of 4 KiB */
    config->model.intermediate_size = 128;
    config->precision.compute = DS_PRECISION_BF16;
    config->precision.master = now.master_kind;
    config->precision.exp_avg = now.moments_bf16 ? DS_PRECISION_BF16 : DS_PRECISION_FP32;
    config->offload.params = now.params;
    config->offload.master = now.master_kind == DS_MASTER_KEY_NONE
                                 ? (struct ds_home_key){DS_HOME_DEVICE, 0}
                                 : now.master;
    config->offload.exp_avg = config->offload.exp_avg_sq = now.moments;
    config->offload.activations =
        (struct ds_home_key){DS_HOME_NVME, 1}; /* before states in a file */
    config->offload.depth = now.depth;
    config->offload.block_size = now.block_size;
    config->offload.updates = now.updates;
    config->checkpoint.references = now.references;
    config->checkpoint.resume = now.resume;
    config->checkpoint.buffer = now.buffer;
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s",
             now.directories);
}

static void all_in_files(void)
{
    const struct ds_home_key filed = {DS_HOME_NVME, 1};

    memset(&now, 0, sizeof now);
    now.params = now.master = now.moments = filed;
    now.references = DS_REFERENCES_ON;
    now.resume = DS_RESUME_AUTO;
    now.depth = 2;
    now.block_size = 32768;
    now.buffer = DS_AUTO;
    snprintf(now.directories, sizeof now.directories, "%s", saved.folder);
}

static struct tiny_case case_of(uint32_t ranks)
{
    struct tiny_case c = saved_case();

    c.ranks = c.shard = ranks;
    c.mode = draw(2) ? DS_DEVICE_DEFERRED : DS_DEVICE_INLINE;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_dim = 32;
    c.fs = sharing_disk();
    return c;
}

static void forget_saved(void)
{
    (void)ds_fs_remove_tree(ds_fs_posix(), saved.root);
    sharing.clones = sharing.frozen = sharing.bytes = 0;
    sharing.refuses = sharing.renew_refuses = 0;
    sharing.refuses_at = sharing.flips_at = 0;
}

/* ---- what is in checkpoints */

struct content {
    uint64_t step[MANY];
    struct ds_digest packs[MANY][4]; /* of each rank's */
    size_t count;
};

static void note_content(struct content *out)
{
    struct ds_manifest_id ids[SAVED_MAX];

    out->count = saved_verify(saved.root, ids);
    assert_in_range(out->count, 1, MANY);
    for (size_t i = 0; i < out->count; i++) {
        struct ds_manifest manifest;

        out->step[i] = ids[i].step;
        assert_ok(ds_checkpoint_read_manifest(ds_fs_posix(), saved.root, &ids[i], &manifest));
        for (uint32_t k = 0; k < manifest.pack_count; k++) {
            const struct ds_pack_id *id = &manifest.packs[k].pack.id;
            struct ds_pack *pack;

            if (!ds_checkpoint_owns(&manifest, id))
                continue;
            assert_ok(ds_checkpoint_open_pack(ds_fs_posix(), saved.root, &manifest, k, &pack));
            out->packs[i][id->rank] = ds_pack_info(pack)->content;
            ds_pack_close(pack);
        }
        ds_manifest_fini(&manifest);
    }
}

/* Where both have saved, which for the last step they always have. */
static size_t same_content(const struct content *a, const struct content *b)
{
    size_t both = 0;

    for (size_t i = 0; i < a->count; i++)
        for (size_t k = 0; k < b->count; k++)
            if (a->step[i] == b->step[k]) {
                both++;
                assert_memory_equal(a->packs[i], b->packs[k], sizeof a->packs[i]);
            }
    return both;
}

static void draw_homes(void)
{
    static const struct ds_home_key homes[] = {
        {DS_HOME_NVME, 1}, {DS_HOME_NVME, 0.5}, {DS_HOME_HOST, 1}, {DS_HOME_DEVICE, 0}};
    static const uint64_t blocks[] = {8192, 32768, 1 << 20};

    all_in_files();
    now.params = homes[draw(4)];
    now.master = homes[draw(4)];
    now.moments = homes[draw(2)];
    now.master_kind = (int)draw(3);
    now.moments_bf16 = (int)draw(2);
    now.updates = (int)draw(2);
    now.depth = 1 + draw(3);
    now.block_size = blocks[draw(3)];
    now.buffer = draw(2) ? DS_AUTO : 10 << 20; /* two turns */
    if (draw(2)) {
        char second[600];

        snprintf(second, sizeof second, "%s/second", saved.folder);
        (void)ds_fs_mkdir(ds_fs_posix(), second, 0755);
        snprintf(now.directories, sizeof now.directories, "%s, %s", saved.folder, second);
    }
}

static void what_is_shared_is_what_would_be_written(void **state)
{
    uint64_t shared_parts = 0;

    (void)state;
    for (int i = 0; i < test_draws(6, 2, 60); i++) {
        static struct content shared, written;
        const uint32_t ranks = 1 + (uint32_t)draw(2);

        draw_homes();
        forget_saved();
        struct tiny_result whole = saved_run(case_of(ranks), STEPS, without_checkpoints);
        struct tiny_result with = saved_run(case_of(ranks), STEPS, with_checkpoints);
        assert_same_run(&with, &whole, 0);
        note_content(&shared);
        assert_true(sharing.frozen > 0);
        shared_parts += sharing.clones - sharing.frozen;
        tiny_result_fini(&with);
        struct tiny_result rest = saved_run(case_of(3 - ranks), STEPS + 1, with_checkpoints);
        assert_int_equal(saved_went_on_from(&rest), STEPS);
        tiny_result_fini(&rest);
        forget_saved();
        now.references = DS_REFERENCES_OFF;
        with = saved_run(case_of(ranks), STEPS, with_checkpoints);
        assert_int_equal(sharing.clones, 0);
        note_content(&written);
        assert_true(same_content(&shared, &written) > 0);
        tiny_result_fini(&with);
        tiny_result_fini(&whole);
    }
    assert_true(shared_parts > (TEST_IS_SANITIZED ? 0 : 100)); /* chunks in packs */
}

/* ---- bad luck */

static uint64_t count_clones(uint64_t *frozen)
{
    forget_saved();
    struct tiny_result result = saved_run(case_of(2), STEPS, with_checkpoints);
    tiny_result_fini(&result);
    *frozen = sharing.frozen;
    return sharing.clones;
}

static void what_is_not_as_it_was_written_is_in_no_checkpoint(void **state)
{
    static struct content good, now_there;
    static struct capture capture;
    uint64_t frozen, found = 0;

    (void)state;
    all_in_files();
    (void)count_clones(&frozen);
    note_content(&good);
    for (int i = 0; i < test_draws(4, 2, 20) || (found == 0 && i < 20); i++) {
        forget_saved();
        sharing.flips_at = 3 + draw(frozen / 2); /* the first two are tried ahead */
        capture_begin(&capture);
        struct tiny_result result = saved_run(case_of(2), STEPS, with_checkpoints);
        (void)capture_end(&capture);
        tiny_result_fini(&result);
        found += strstr(capture.text, "are not what was written") != NULL;
        note_content(&now_there);
        (void)same_content(&now_there, &good);
    }
    assert_true(found > 0); /* not every block has something of which a pack shares it */
}

/* The next save after the one that failed, unless that was the last of the run. */
static void expect_copied(const struct capture *capture)
{
    assert_non_null(strstr(capture->text, "cannot be shared with"));
    if (saved_newest(saved.root) == 2 * STEPS)
        assert_non_null(strstr(capture->text, "states in files are copied from the one of step"));
    else
        assert_non_null(strstr(capture->text, "checkpoint of step 12 was not written"));
}

static void where_sharing_fails_states_are_copied(void **state)
{
    static const int codes[] = {-ENOSPC, -EIO, -EOPNOTSUPP};
    static struct content good, now_there;
    static struct capture capture;
    uint64_t frozen;

    (void)state;
    all_in_files();
    const uint64_t clones = count_clones(&frozen);
    note_content(&good);
    for (int i = 0; i < test_draws(4, 2, 20); i++) {
        forget_saved();
        sharing.refuses = codes[draw(3)];
        sharing.refuses_at = 9 + draw(clones / 3); /* behind those that are tried ahead */
        capture_begin(&capture);
        struct tiny_result result = saved_run(case_of(2), 2 * STEPS, with_checkpoints);
        (void)capture_end(&capture);
        tiny_result_fini(&result);
        expect_copied(&capture);
        note_content(&now_there);
        (void)same_content(&now_there, &good);
    }
}

/* What other runs write may fill the disk at any time. */
static void without_room_states_are_copied(void **state)
{
    static struct content good, now_there;
    static struct capture capture;
    uint64_t frozen;

    (void)state;
    all_in_files();
    (void)count_clones(&frozen);
    note_content(&good);
    forget_saved();
    sharing.renew_refuses = -ENOSPC;
    capture_begin(&capture);
    struct tiny_result result = saved_run(case_of(2), 2 * STEPS, with_checkpoints);
    (void)capture_end(&capture);
    tiny_result_fini(&result);
    expect_copied(&capture);
    note_content(&now_there);
    (void)same_content(&now_there, &good);
}

static void what_cannot_share_is_refused_or_said(void **state)
{
    static struct capture capture;

    (void)state;
    all_in_files();
    forget_saved();
    sharing.refuses = -EOPNOTSUPP;
    saved_expect(case_of(2), STEPS, DS_ERR_UNSUPPORTED, "references = on: blocks of files in ");
    now.references = DS_REFERENCES_AUTO;
    ds_log.is_leader = 1;
    capture_begin(&capture);
    struct tiny_result result = saved_run(case_of(2), STEPS, with_checkpoints);
    (void)capture_end(&capture);
    ds_log.is_leader = 0;
    assert_non_null(strstr(capture.text, "checkpoints: states in files are copied: those in"));
    assert_int_equal(saved_newest(saved.root), STEPS);
    tiny_result_fini(&result);
}

/* It wanted to begin again, and what there was is what the next one goes on from. */
static void a_launch_that_is_refused_leaves_the_run_as_it_was(void **state)
{
    (void)state;
    all_in_files();
    forget_saved();
    struct tiny_result result = saved_run(case_of(2), STEPS, with_checkpoints);
    tiny_result_fini(&result);
    for (now.resume = DS_RESUME_AUTO; now.resume <= DS_RESUME_NONE; now.resume++) {
        sharing.refuses = -EOPNOTSUPP;
        sharing.refuses_at = 0;
        saved_expect(case_of(2), 2 * STEPS, DS_ERR_UNSUPPORTED, "references = on: blocks of files");
    }
    sharing.refuses = 0;
    now.resume = DS_RESUME_AUTO;
    result = saved_run(case_of(2), STEPS + 1, with_checkpoints);
    assert_int_equal(saved_went_on_from(&result), STEPS);
    tiny_result_fini(&result);
}

/* ---- a loss of power */

static const char *const disk_root = "/run";

struct watcher {
    struct split_fs split;
    struct ds_fs *dead; /* the disk as it is left */
    uint64_t calls, at; /* the one behind which power goes */
    uint64_t named, acked, acked_then;
    uint64_t seed;
    int was_clone; /* what that call was */
};

static void after_call(void *user, const struct split_call *call)
{
    const char *name = strstr(call->path, "/manifests/M-");
    struct watcher *w = user;
    unsigned long long epoch, step;

    if (name && strcmp(call->what, "rename") == 0 &&
        sscanf(name, "/manifests/M-%llu-%llu.json", &epoch, &step) == 2)
        w->named = step;
    if (strcmp(call->what, "fsync_dir") == 0 && strstr(call->path, "/manifests"))
        w->acked = w->named;
    if (++w->calls != w->at)
        return;
    w->acked_then = w->acked;
    w->was_clone = strcmp(call->what, "clone") == 0;
    if (ds_fs_sim_copy(w->split.sim, &w->dead) != DS_OK)
        abort();
    ds_fs_sim_crash(w->dead, w->seed);
}

static void on_the_simulated_disk(struct ds_config *config)
{
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s/checkpoints", disk_root);
    in_files(config);
}

static struct tiny_result run_split(struct watcher *w, struct ds_fs *sim, uint64_t steps)
{
    struct tiny_case c = case_of(2);
    struct tiny_result result;

    split_init(&w->split, sim, disk_root);
    w->split.user = w;
    w->split.after = after_call;
    c.mode = DS_DEVICE_INLINE;
    c.fs = &w->split.fs;
    c.steps = steps;
    c.adjust = with_checkpoints;
    tiny_run(&c, &result);
    return result;
}

static struct ds_fs *fresh_disk(void)
{
    struct ds_fs *sim;

    assert_ok(ds_fs_sim_open(&sim));
    assert_int_equal(ds_fs_mkdir(sim, disk_root, 0755), 0);
    assert_int_equal(ds_fs_mkdir(sim, "/run/states", 0755), 0);
    ds_fs_sim_crash(sim, 1);
    return sim;
}

static void check_crash(struct watcher *w, const struct tiny_result *whole)
{
    struct watcher next = {0};

    ds_log.terminal = -1;
    struct tiny_result rest = run_split(&next, w->dead, STEPS);
    ds_log.terminal = 2;
    if (rest.status != DS_OK)
        fail_msg("call %llu: it does not go on: %s", (unsigned long long)w->at,
                 ds_status_text(rest.status));
    const uint64_t behind = saved_went_on_from(&rest), from = behind < STEPS ? behind : STEPS;
    if (from < w->acked_then)
        fail_msg("call %llu: it goes on behind step %llu, and %llu was acknowledged",
                 (unsigned long long)w->at, (unsigned long long)from,
                 (unsigned long long)w->acked_then);
    assert_memory_equal(rest.loss + from, whole->loss + from, (STEPS - from) * sizeof *rest.loss);
    assert_memory_equal(rest.params, whole->params, whole->param_elems * sizeof *whole->params);
    assert_int_equal(ds_fs_sim_open_files(w->dead), 0);
    tiny_result_fini(&rest);
}

static void a_loss_of_power_costs_nothing_that_was_acknowledged(void **state)
{
    uint64_t calls = 0;

    (void)state;
    all_in_files();
    snprintf(now.directories, sizeof now.directories, "/run/states");
    saved.also = in_files;
    snprintf(now.directories, sizeof now.directories, "%s", saved.folder);
    struct tiny_result whole = saved_run(case_of(2), STEPS, without_checkpoints);
    snprintf(now.directories, sizeof now.directories, "/run/states");
    saved.also = on_the_simulated_disk;
    for (int i = -1; i < test_draws(5, 2, 300); i++) {
        struct watcher w = {.seed = 2 + draw(1000000)};
        struct ds_fs *sim = fresh_disk();

        w.at = i < 0 ? UINT64_MAX : 1 + draw(calls);
        struct tiny_result result = run_split(&w, sim, STEPS);
        assert_int_equal(result.status, DS_OK);
        tiny_result_fini(&result);
        if (i < 0) {
            calls = w.calls;
            assert_int_equal(w.acked, STEPS);
        } else if (w.dead) { /* threads make a call more or less of one run than of another */
            check_crash(&w, &whole);
            ds_fs_sim_close(w.dead);
        }
        ds_fs_sim_close(sim);
    }
    saved.also = in_files;
    tiny_result_fini(&whole);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_shared_is_what_would_be_written),
        cmocka_unit_test(what_is_not_as_it_was_written_is_in_no_checkpoint),
        cmocka_unit_test(where_sharing_fails_states_are_copied),
        cmocka_unit_test(without_room_states_are_copied),
        cmocka_unit_test(what_cannot_share_is_refused_or_said),
        cmocka_unit_test(a_launch_that_is_refused_leaves_the_run_as_it_was),
        cmocka_unit_test(a_loss_of_power_costs_nothing_that_was_acknowledged),
    };
    int failed;

    saved_begin("test_references", 64);
    saved.interval = INTERVAL;
    saved.decay_steps = 2 * STEPS;
    saved.also = in_files;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    saved_end();
    return failed;
}
