/* test_config_load.c - from a file to every rank: ranks are threads here. One rank speaks, all know. */
// link: launch
// private: launch
#include "bootstrap.h"
#include "capture.h"
#include "config/config.h"
#include "test.h"

#include <pthread.h>

#define RANKS 3
#define GOOD                                                                                       \
    "[run]\ndir = r\n[model]\nhidden_size = 64\nintermediate_size = 128\nnum_hidden_layers = 2\n"  \
    "num_attention_heads = 4\n[data]\ntrain = a.txt\n[train]\nsteps = 10\nglobal_batch_size = 6\n" \
    "seq_length = 32\n"

struct rank {
    struct ds_comm *world;
    struct ds_config_source source;
    struct ds_config config;
    ds_status st;
};

static void *load(void *arg)
{
    struct rank *rank = arg;

    rank->st = ds_config_load(rank->world, &rank->source, &rank->config);
    return NULL;
}

/* `different`: an override that the last rank has and the others have not, or NULL */
static const char *load_on_ranks(struct ds_fs *fs, const char *override, const char *different,
                                 struct rank ranks[RANKS], struct capture *capture)
{
    struct ds_comm *world[RANKS];
    const char *overrides[RANKS][2];
    pthread_t threads[RANKS];
    const char *said;

    assert_ok(ds_comm_threads_open(RANKS, ds_clock_system(), 20000000000u, world));
    capture_begin(capture);
    for (uint32_t r = 0; r < RANKS; r++) {
        overrides[r][0] = r == RANKS - 1 && different ? different : override;
        ranks[r] = (struct rank){
            .world = world[r],
            .source = {fs, "c.ini", overrides[r], overrides[r][0] != NULL, DS_CONFIG_TRAIN, 1}};
        assert_int_equal(pthread_create(&threads[r], NULL, load, &ranks[r]), 0);
    }
    for (uint32_t r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    said = capture_end(capture);
    ds_comm_threads_close(world, RANKS);
    return said;
}

static struct ds_fs *disk_with(const char *text)
{
    struct ds_fs *fs;

    assert_ok(ds_fs_sim_open(&fs));
    if (text)
        assert_ok(ds_fs_write_file(fs, "c.ini", text, strlen(text)));
    return fs;
}

static struct rank ranks[RANKS]; /* 100 KB */
static struct capture capture;

static void every_rank_has_the_same_configuration(void **state)
{
    struct ds_fs *fs = disk_with(GOOD);

    (void)state;
    assert_string_equal(load_on_ranks(fs, "train.steps=7", NULL, ranks, &capture), "");
    for (int r = 0; r < RANKS; r++) {
        assert_ok(ranks[r].st);
        assert_int_equal(ranks[r].config.train.steps, 7);
        assert_int_equal(ranks[r].config.parallel.data, RANKS);
        assert_memory_equal(&ranks[r].config, &ranks[0].config, sizeof ranks[0].config);
    }
    ds_fs_sim_close(fs);
}

static void one_rank_speaks_and_all_leave_with_the_code(void **state)
{
    static const struct {
        const char *text, *override, *said;
    } rows[] = {
        {NULL, NULL, "dstrain: error: c.ini: No such file or directory"},
        {"[run]\nx = 1\n", NULL,
         "dstrain: error: c.ini:2: unknown key 'x' in [run]; 'dstrain help run' lists its keys"},
        {"", "train.steps=0",
         "dstrain: error: command line: [train] steps = '0' must be a whole number in "
         "1..9007199254740992 (updates of the model)"},
        {GOOD, "train.global_batch_size=4",
         "dstrain: error: command line: [train] global_batch_size = 4 must be a multiple of "
         "micro_batch_size * data = 1 * 3 = 3; nearest: 3"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ds_fs *fs = disk_with(rows[i].text);

        assert_string_equal(load_on_ranks(fs, rows[i].override, NULL, ranks, &capture),
                            rows[i].said);
        for (int r = 0; r < RANKS; r++)
            assert_int_equal(ranks[r].st, DS_ERR_CONFIG);
        ds_fs_sim_close(fs);
    }
}

static void a_rank_with_another_command_line_is_found(void **state)
{
    struct ds_fs *fs = disk_with(GOOD);

    (void)state;
    assert_string_equal(
        load_on_ranks(fs, "run.seed=1", "run.seed=2", ranks, &capture),
        "dstrain: error: this rank was started with another command line than rank 0: "
        "its configuration differs");
    for (int r = 0; r < RANKS; r++)
        assert_int_equal(ranks[r].st, DS_ERR_CONFIG);
    ds_fs_sim_close(fs);
}

static void cores_of_a_container_are_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(ds_bootstrap_quota("max 100000\n"), 0);
    assert_int_equal(ds_bootstrap_quota("200000 100000\n"), 2);
    assert_int_equal(ds_bootstrap_quota("150000 100000\n"), 2);
    assert_int_equal(ds_bootstrap_quota("50000 100000\n"), 1);
    assert_int_equal(ds_bootstrap_quota("50000 0\n"), 0);
    assert_int_equal(ds_bootstrap_quota(""), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_has_the_same_configuration),
        cmocka_unit_test(one_rank_speaks_and_all_leave_with_the_code),
        cmocka_unit_test(a_rank_with_another_command_line_is_found),
        cmocka_unit_test(cores_of_a_container_are_rounded_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
