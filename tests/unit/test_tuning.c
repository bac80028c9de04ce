/* test_tuning.c - what devices choose by the clock: alike on all ranks after the first step, the same in the next
 * run, and never a reason to fail. */
// link: comm storage device base
// private: launch/trainer launch
#include "ranks.h"
#include "test.h"

#include "cache_file.c"
#include "tuning.c"

#include <errno.h>

#define RANKS        4
#define SHAPES       8
#define DEADLINE_NS  5000000000u
#define FILE_OF_TEST "/cache/dstrain/gemm-test.bin"

/* A device that has chosen algorithm algo[i] for shape i; 0: not met. */
struct chooser {
    struct ds_device base;
    unsigned char algo[SHAPES];
    int is_new, is_sealed;
};

static void chooser_name(struct ds_device *device, char *to, size_t bytes)
{
    (void)device;
    snprintf(to, bytes, "gemm-test");
}
static void chooser_no_name(struct ds_device *device, char *to, size_t bytes)
{
    (void)device;
    (void)bytes;
    to[0] = 0;
}
static size_t chooser_bytes_max(void)
{
    return 1 + SHAPES;
}
/* as long as the last shape that was met: ranks send different lengths */
static size_t chooser_save(struct ds_device *device, void *to, int *is_new)
{
    const struct chooser *c = (const struct chooser *)device;
    size_t count = SHAPES;

    while (count > 0 && c->algo[count - 1] == 0)
        count--;
    *is_new = c->is_new;
    *(char *)to = 'C';
    memcpy((char *)to + 1, c->algo, count);
    return 1 + count;
}
static int chooser_load(struct ds_device *device, const void *from, size_t bytes)
{
    struct chooser *c = (struct chooser *)device;
    const unsigned char *algo = (const unsigned char *)from + 1;

    if (bytes == 0 || bytes > 1 + SHAPES || *(const char *)from != 'C')
        return 0;
    for (size_t i = 0; i < bytes - 1; i++)
        if (algo[i])
            c->algo[i] = algo[i];
    return 1;
}
static void chooser_seal(struct ds_device *device)
{
    ((struct chooser *)device)->is_sealed = 1;
}

static const struct ds_tuning_ops tuning_ops = {
    chooser_name, chooser_bytes_max, chooser_save, chooser_load, chooser_seal,
};
static const struct ds_tuning_ops silent_ops = {
    chooser_no_name, chooser_bytes_max, chooser_save, chooser_load, chooser_seal,
};
static const struct ds_device_ops chooser_ops = {.name = "chooser", .tuning = &tuning_ops};
static const struct ds_device_ops silent_chooser_ops = {.name = "silent", .tuning = &silent_ops};
static const struct ds_device_ops plain_ops = {.name = "plain"};

/* A run of RANKS ranks: they recall, meet shapes, settle. */
struct run {
    struct ds_fs *fs;
    unsigned char met[RANKS][SHAPES]; /* what a rank's clock would choose */
    int forgets;                      /* the file is removed when it has been read */
    struct chooser device[RANKS];
};

static void rank_main(struct ds_comm *world, void *user)
{
    struct run *run = user;
    struct chooser *device = &run->device[world->rank];
    const struct tuning tuning = {&device->base, world, run->fs};

    *device = (struct chooser){.base = {&chooser_ops}};
    assert_ok(tuning_recall(&tuning));
    if (run->forgets && world->rank == 0)
        assert_int_equal(ds_fs_unlink(run->fs, FILE_OF_TEST), 0);
    for (int i = 0; i < SHAPES; i++)
        if (run->met[world->rank][i] && !device->algo[i]) {
            device->algo[i] = run->met[world->rank][i];
            device->is_new = 1;
        }
    assert_ok(tuning_settle(&tuning));
}

static void run_all(struct run *run)
{
    assert_true(run_ranks(RANKS, DEADLINE_NS, rank_main, run));
    for (int rank = 0; rank < RANKS; rank++)
        assert_true(run->device[rank].is_sealed);
}

static const unsigned char met[RANKS][SHAPES] = {
    {1, 2, 3}, {9, 9, 9, 4}, {9, 9, 0, 9, 5}, {0, 9, 0, 0, 9, 0, 6}};
static const unsigned char together[SHAPES] = {1, 2, 3, 4, 5, 0, 6};

static struct run make_run(struct ds_fs *fs)
{
    struct run run = {.fs = fs};

    memcpy(run.met, met, sizeof met);
    setenv("XDG_CACHE_HOME", "/cache", 1);
    return run;
}

static void assert_together(const struct run *run)
{
    for (int rank = 0; rank < RANKS; rank++)
        assert_memory_equal(run->device[rank].algo, together, SHAPES);
}

static void the_lowest_rank_that_met_a_shape_chooses_for_all(void **state)
{
    struct ds_fs *fs;
    struct run run;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    run = make_run(fs);
    run_all(&run);
    assert_together(&run);
    assert_int_equal(ds_fs_sim_open_files(fs), 0);
    ds_fs_sim_close(fs);
}

static void the_next_run_chooses_as_this_one_did_and_writes_nothing(void **state)
{
    struct ds_fs_stat stat;
    struct ds_fs *fs;
    struct run run;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    run = make_run(fs);
    run_all(&run);
    for (int rank = 0; rank < RANKS; rank++) /* the clock would have it otherwise */
        for (int i = 0; i < SHAPES; i++)
            run.met[rank][i] = together[i] ? 9 : 0;
    run.forgets = 1;
    run_all(&run);
    assert_together(&run);
    assert_int_equal(ds_fs_stat(fs, FILE_OF_TEST, &stat), -ENOENT);
    ds_fs_sim_close(fs);
}

static void a_file_that_does_not_fit_is_ignored_and_replaced(void **state)
{
    static const char *const texts[] = {"", "something else", "Cthat is longer than any table"};
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_int_equal(ds_fs_mkdirs(fs, "/cache/dstrain", 0755), 0);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct run run = make_run(fs);
        char *text;
        size_t bytes;

        assert_ok(ds_fs_write_file(fs, FILE_OF_TEST, texts[i], strlen(texts[i])));
        run_all(&run);
        assert_together(&run);
        assert_ok(ds_fs_read_file(fs, FILE_OF_TEST, 100, &text, &bytes));
        assert_int_equal(bytes, 1 + 7);
        assert_memory_equal(text + 1, together, 7);
        free(text);
    }
    ds_fs_sim_close(fs);
}

static size_t count_files(struct ds_fs *fs)
{
    char **names = NULL;
    size_t count = 0;

    if (ds_fs_readdir(fs, "/cache/dstrain", &names, &count) != 0)
        return 0;
    free(names);
    return count;
}

/* Whichever call of the file system fails, the run goes on, and the file is whole or not there. */
static void a_disk_that_fails_does_not_fail_the_run(void **state)
{
    int is_reached = 1;

    (void)state;
    for (uint64_t call = 1; is_reached; call++) {
        struct ds_fs *sim, *fault;
        struct run run;
        char *text = NULL;
        size_t bytes;

        assert_ok(ds_fs_sim_open(&sim));
        assert_ok(ds_fs_fault_open(sim, call, &fault));
        run = make_run(fault);
        run_all(&run);
        assert_together(&run);
        is_reached = ds_fs_fault_hit(fault);
        if (count_files(sim) > 0) { /* one: nothing is left aside */
            assert_int_equal(count_files(sim), 1);
            assert_ok(ds_fs_read_file(sim, FILE_OF_TEST, 100, &text, &bytes));
            assert_memory_equal(text + 1, together, 7);
        } else
            assert_true(is_reached);
        free(text);
        assert_int_equal(ds_fs_sim_open_files(sim), 0);
        ds_fs_fault_close(fault);
        ds_fs_sim_close(sim);
    }
}

static void the_file_lies_in_the_cache_or_below_home(void **state)
{
    char path[DS_CACHE_PATH_BYTES];

    (void)state;
    setenv("HOME", "/home/somebody", 1);
    setenv("XDG_CACHE_HOME", "/cache", 1);
    assert_true(ds_cache_path("gemm-test.bin", path, sizeof path));
    assert_string_equal(path, FILE_OF_TEST);
    setenv("XDG_CACHE_HOME", "relative", 1); /* the rule of XDG: ignored */
    assert_true(ds_cache_path("gemm-test.bin", path, sizeof path));
    assert_string_equal(path, "/home/somebody/.cache/dstrain/gemm-test.bin");
    unsetenv("HOME");
    assert_false(ds_cache_path("gemm-test.bin", path, sizeof path));
}

/* Without a world: any communication would crash. */
static void where_nothing_is_chosen_by_the_clock_nothing_happens(void **state)
{
    struct chooser plain = {.base = {&plain_ops}}, silent = {.base = {&silent_chooser_ops}};
    const struct tuning tunings[] = {{.device = &plain.base}, {.device = &silent.base}};

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_ok(tuning_recall(&tunings[i]));
        assert_ok(tuning_settle(&tunings[i]));
    }
    assert_false(silent.is_sealed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_rank_that_met_a_shape_chooses_for_all),
        cmocka_unit_test(the_next_run_chooses_as_this_one_did_and_writes_nothing),
        cmocka_unit_test(a_file_that_does_not_fit_is_ignored_and_replaced),
        cmocka_unit_test(a_disk_that_fails_does_not_fail_the_run),
        cmocka_unit_test(the_file_lies_in_the_cache_or_below_home),
        cmocka_unit_test(where_nothing_is_chosen_by_the_clock_nothing_happens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
