// link: launch
// private: launch
/* test_steps_memory.c - a run that survives step 2 survives the night: from then on dstrain's own code
 * takes no memory, on any layout, inline and deferred, evaluations, metrics and console included. Where it saves
 * checkpoints, that holds from the first save on, for all but the thread that writes them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "allocations.h"
#include "capture.h"
#include "command.h"
#include "test.h"
#include "tiny_run.h"

#include "dstrain/checkpoint.h"
#include "dstrain/trainer.h"

#include <unistd.h>

enum { STEPS = 24, EVAL_INTERVAL = 5 };

static char *folder, *data, *text;
static uint64_t seed;

/* ---- the stretch: from the end of step 2 on every rank to the first rank that has done all */

static uint32_t rank_count;
static atomic_uint ranks_in_stretch;
static int spoils; /* the test allocates in a step itself */

static void *volatile spoilt;

static void watch_step(uint64_t step)
{
    if (step == 2 && atomic_fetch_add(&ranks_in_stretch, 1) + 1 == rank_count)
        allocations_begin();
    if (step == STEPS)
        allocations_end();
    if (step == STEPS / 2 && spoils)
        spoilt = strdup("memory");
}

static void on_report(const struct ds_step_report *report)
{
    watch_step(report->step);
}

static void watch(uint32_t ranks)
{
    rank_count = ranks;
    atomic_store(&ranks_in_stretch, 0);
    atomic_store(&allocations.own, 0);
}

/* ---- the trainer on every layout */

static struct tiny_case case_of(uint32_t ranks, int stage, int mode)
{
    return (struct tiny_case){.ranks = ranks,
                              .stage = stage,
                              .mode = mode,
                              .steps = STEPS,
                              .global_batch = 8,
                              .micro_batch = 1,
                              .seed = seed,
                              .data = data,
                              .step = on_report};
}

static void expect_none(const struct tiny_case *c)
{
    struct tiny_result result;
    char where[64];

    watch(c->ranks);
    tiny_run(c, &result);
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(atomic_load(&ranks_in_stretch), c->ranks);
    snprintf(where, sizeof where, "%u ranks, stage %d, %s", c->ranks, c->stage,
             c->mode == DS_DEVICE_DEFERRED ? "deferred" : "inline");
    assert_int_equal(allocations_told(where), 0);
    tiny_result_fini(&result);
}

static void evaluate_often(struct ds_config *config)
{
    config->train.eval_interval = EVAL_INTERVAL;
}

static void a_step_takes_no_memory_on_any_layout(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 4)
        for (int stage = 0; stage <= 3; stage++)
            for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
                struct tiny_case c = case_of(ranks, stage, mode);
                c.adjust = evaluate_often;
                expect_none(&c);
            }
}

static void keep_states_on_the_host(struct ds_config *config)
{
    config->offload.params = config->offload.grads = (struct ds_home_key){DS_HOME_HOST, 1};
    config->offload.exp_avg = (struct ds_home_key){DS_HOME_HOST, 1};
    config->offload.exp_avg_sq = (struct ds_home_key){DS_HOME_HOST, 0.5};
    config->offload.activations = (struct ds_home_key){DS_HOME_HOST, 1};
}

static void keep_states_in_files(struct ds_config *config)
{
    config->offload.params = config->offload.grads = (struct ds_home_key){DS_HOME_NVME, 1};
    config->offload.exp_avg = (struct ds_home_key){DS_HOME_NVME, 1};
    config->offload.exp_avg_sq = (struct ds_home_key){DS_HOME_NVME, 0.5};
    config->offload.activations = (struct ds_home_key){DS_HOME_NVME, 1};
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", folder);
}

static void update_late(struct ds_config *config)
{
    keep_states_on_the_host(config);
    config->train.eval_interval = EVAL_INTERVAL;
    config->offload.updates = DS_UPDATES_KEY_LATE;
    config->offload.optimizer_compute = (struct ds_home_key){DS_OPTIMIZER_CPU, 1};
}

static void a_step_whose_states_travel_takes_no_memory(void **state)
{
    (void)state;
    for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
        struct tiny_case c = case_of(2, 3, mode);
        c.adjust = keep_states_on_the_host;
        expect_none(&c);
        c.adjust = update_late;
        expect_none(&c);
        c.adjust = keep_states_in_files;
        expect_none(&c);
    }
}

static void read_text(struct ds_config *config)
{
    config->model.vocab_size = DS_BYTE_VOCAB;
    config->data.format = DS_DATA_TEXT;
    snprintf(config->data.train, sizeof config->data.train, "%s", text);
    snprintf(config->data.eval, sizeof config->data.eval, "%s", text);
    snprintf(config->data.cache, sizeof config->data.cache, "%s/cache", folder);
    config->train.eval_interval = EVAL_INTERVAL;
}

static void a_step_on_text_takes_no_memory(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 4) {
        struct tiny_case c = case_of(ranks, 3, DS_DEVICE_INLINE);
        c.adjust = read_text;
        expect_none(&c);
    }
}

/* ---- with checkpoints: from the first save on it is the thread that writes them alone which takes memory, for
 * the text of a manifest and the lists of what lies on the disk, and gives it back. The threads of ranks are those
 * that training waits for. */

enum { SAVES = 4 }; /* to see; the first is not counted */

static char root[600];
static unsigned saves_seen, steps_without; /* steps since the newest was seen */
static uint64_t newest_seen;

static uint64_t newest_save(void)
{
    struct ds_checkpoint_list list;
    uint64_t step = 0;

    if (ds_checkpoint_list_make(ds_fs_posix(), root, &list) == DS_OK) {
        step = list.count > 0 ? list.entries[0].id.step : 0;
        ds_checkpoint_list_fini(&list);
    }
    return step;
}

/* Between two steps of every rank; the run ends when enough saves have come to be, however long they take: the longer
 * none does, the slower rank 0 goes. */
static int watch_saves(uint32_t rank)
{
    *allocations_mark() = 0; /* what the test takes does not count */
    usleep(rank == 0 ? 1000u << (steps_without / 8 < 10 ? steps_without / 8 : 10) : 1000);
    steps_without += rank == 0;
    const uint64_t newest = rank == 0 ? newest_save() : 0;
    if (newest > newest_seen) {
        newest_seen = newest;
        steps_without = 0;
        if (++saves_seen == 1)
            allocations_begin();
    }
    if (rank == 0 && saves_seen == SAVES)
        allocations_end();
    *allocations_mark() = 1;
    return rank == 0 && saves_seen >= SAVES;
}

static void save_often(struct ds_config *config)
{
    config->checkpoint.interval = 3;
    config->checkpoint.keep = 2;
    snprintf(config->checkpoint.dir, sizeof config->checkpoint.dir, "%s", root);
}

static void a_step_with_saves_takes_no_memory(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "%s/checkpoints", folder);
    atomic_store(&allocations.only_marked, 1);
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 4)
        for (int mode = DS_DEVICE_INLINE; mode <= DS_DEVICE_DEFERRED; mode++) {
            struct tiny_case c = case_of(ranks, 3, mode);
            struct tiny_result result;

            c.steps = TINY_STEPS_MAX;
            c.step = NULL;
            c.adjust = save_often;
            c.leave = watch_saves;
            saves_seen = steps_without = 0;
            newest_seen = 0;
            tiny_run(&c, &result);
            assert_int_equal(result.status, DS_LEAVE);
            assert_true(saves_seen >= SAVES);
            assert_int_equal(allocations_told(ranks == 1 ? "1 rank saves" : "4 ranks save"), 0);
            tiny_result_fini(&result);
            assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), root), 0);
        }
    atomic_store(&allocations.only_marked, 0);
}

/* ---- `dstrain config.ini`: metrics, console, recorder and watchdog around it. Its steps are seen in
 * the lines that go to metrics.jsonl. */

static uint64_t line_count;

static int64_t append_and_watch(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    const int64_t done = ds_fs_posix()->ops->append(fs, file, from, bytes);

    if (bytes > 8 && memcmp(from, "{\"step\"", 7) == 0)
        watch_step(++line_count);
    return done;
}

static void the_whole_program_takes_no_memory_in_a_step(void **state)
{
    static struct ds_config config;
    struct ds_fs_ops ops = *ds_fs_posix()->ops;
    struct ds_fs fs = {&ops};
    struct ds_command command = {
        .config = &config, .fs = &fs, .clock = ds_clock_system(), .thread_count = 1};
    const struct tiny_case c = case_of(1, 3, DS_DEVICE_INLINE);
    struct capture capture;
    ds_status st;

    (void)state;
    ops.append = append_and_watch;
    tiny_config(&c, &config);
    read_text(&config);
    snprintf(config.run.dir, sizeof config.run.dir, "%s/run", folder);
    config.run.export = DS_EXPORT_LAST;
    strcpy(config.log.trace, "5..8");
    line_count = 0;
    watch(1);
    assert_ok(ds_comm_self_open(ds_clock_system(), &command.world));
    ds_log.is_leader = 1;
    capture_begin(&capture);
    st = ds_train_main(&command);
    const char *said = capture_end(&capture);
    ds_log.is_leader = 0;
    ds_comm_close(command.world);
    assert_int_equal(st, DS_OK);
    assert_non_null(strstr(said, "evaluation after step 10"));
    assert_int_equal(line_count, STEPS);
    assert_int_equal(allocations_told("dstrain config.ini"), 0);
}

/* ---- the counting itself */

static void every_way_to_take_memory_is_counted(void **state)
{
    void *(*volatile take)(size_t) = malloc;
    void *taken[8] = {NULL};

    (void)state;
    allocations_begin();
    taken[0] = take(10);
    taken[1] = calloc(2, 10);
    taken[0] = realloc(taken[0], 1000);
    taken[2] = aligned_alloc(64, 128);
    assert_int_equal(posix_memalign(&taken[3], 64, 100), 0);
    taken[4] = strdup("through libc"); /* libc calls malloc, but who called libc? */
    taken[5] = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FILE *file = fopen("/dev/null", "re");
    allocations_end();
    assert_int_equal(atomic_load(&allocations.own), 8);
    fclose(file);
    munmap(taken[5], 4096);
    for (int i = 0; i < 5; i++)
        free(taken[i]);
}

static void an_allocation_in_a_step_is_seen(void **state)
{
    struct tiny_case c = case_of(1, 3, DS_DEVICE_INLINE);
    struct tiny_result result;

    (void)state;
    watch(1);
    spoils = 1;
    tiny_run(&c, &result);
    spoils = 0;
    free(spoilt);
    assert_int_equal(result.status, DS_OK);
    assert_int_equal(atomic_load(&allocations.own), 1);
    tiny_result_fini(&result);
}

static void write_text(void)
{
    static const char line[] = "All that is gold does not glitter, not all who wander are lost.\n";
    FILE *file;

    text = malloc(512);
    snprintf(text, 512, "%s/text.txt", folder);
    file = fopen(text, "we");
    for (int i = 0; i < 400; i++)
        fwrite(line, 1, sizeof line - 1, file);
    fclose(file);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_to_take_memory_is_counted),
        cmocka_unit_test(an_allocation_in_a_step_is_seen),
        cmocka_unit_test(a_step_takes_no_memory_on_any_layout),
        cmocka_unit_test(a_step_whose_states_travel_takes_no_memory),
        cmocka_unit_test(a_step_with_saves_takes_no_memory),
        cmocka_unit_test(a_step_on_text_takes_no_memory),
        cmocka_unit_test(the_whole_program_takes_no_memory_in_a_step),
    };
    int failed;

    if (!ALLOCATIONS_ARE_COUNTED) {
        fprintf(stderr, "skipped: the sanitizer has malloc for itself\n");
        return 77;
    }
    ds_log.is_leader = 0;
    seed = test_seed("test_steps_memory");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    write_text();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    free(text);
    tiny_remove(folder);
    return failed;
}
