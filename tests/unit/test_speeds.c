// link: launch
// private: launch
/* What is measured of a host is kept, added to, and gone by; what is not is assumed, and said to be. All ranks go by the
 * least of them. */
#include "test.h"

#include "bench_lines.h"
#include "capture.h"
#include "config/config.h"
#include "link.h"
#include "plan.h"
#include "ranks.h"

static struct ds_fs *disk;

static int open_disk(void **state)
{
    (void)state;
    setenv("XDG_CACHE_HOME", "/cache", 1);
    return ds_fs_sim_open(&disk) != DS_OK;
}

static int close_disk(void **state)
{
    (void)state;
    ds_fs_sim_close(disk);
    return 0;
}

/* ---- the file */

static void what_is_measured_is_added_to_what_was(void **state)
{
    const struct ds_speeds_kept link = {.per_s = {[DS_SPEED_LINK] = 50e9}},
                                again = {.per_s = {[DS_SPEED_LINK] = 44.5e9}},
                                host = {.per_s = {[DS_SPEED_HOST_UPDATE] = 99e9},
                                        .host_threads = 16},
                                disks = {
                                    .per_s = {
                                        [DS_SPEED_FILE_READ] = 5e9, [DS_SPEED_FILE_WRITE] = 2e9}};
    struct ds_speeds_kept kept;

    (void)state;
    ds_speeds_read(disk, &kept);
    assert_true(kept.per_s[DS_SPEED_LINK] == 0);
    ds_speeds_keep(disk, &link);
    ds_speeds_keep(disk, &host);
    ds_speeds_keep(disk, &disks);
    ds_speeds_keep(disk, &again);
    ds_fs_sim_crash(disk, 1); /* it is durable */
    ds_speeds_read(disk, &kept);
    assert_true(kept.per_s[DS_SPEED_LINK] == 44.5e9 && kept.per_s[DS_SPEED_HOST_UPDATE] == 99e9);
    assert_true(kept.per_s[DS_SPEED_FILE_READ] == 5e9 && kept.per_s[DS_SPEED_FILE_WRITE] == 2e9);
    assert_true(kept.host_threads == 16);
}

static void lines_that_are_not_understood_say_nothing(void **state)
{
    struct ds_speeds_kept kept;

    (void)state;
    ds_speeds_parse("link\n5e9\nlink -1\nlink nan\nlinks 7\nfile_read 3e9 and more\n\nlink 2e9",
                    &kept);
    assert_true(kept.per_s[DS_SPEED_LINK] == 2e9 && kept.per_s[DS_SPEED_FILE_READ] == 3e9);
    ds_speeds_parse("link 1e9\nlink x", &kept);
    assert_true(kept.per_s[DS_SPEED_LINK] == 1e9);
    ds_speeds_parse("", &kept);
    assert_true(kept.per_s[DS_SPEED_LINK] == 0);
}

/* ---- what becomes of it */

static void load(const char *directories, struct ds_config *config)
{
    static const char text[] = "[run]\ndir = unused\ndevice = cpu\n[precision]\ncompute = bf16\n"
                               "[offload]\nexp_avg = auto\n";

    assert_ok(ds_config_parse("c.ini", text, sizeof text - 1, NULL, 0, config));
    snprintf(config->offload.directories, sizeof config->offload.directories, "%s", directories);
}

/* A drive is for all ranks of a host, and there may be several; so are the threads that were measured. */
static void a_rank_has_its_part_of_its_host(void **state)
{
    const struct ds_speeds_kept kept = {.per_s = {50e9, 4e9, 2e9, 120e9}, .host_threads = 16};
    static struct ds_config config;
    struct ds_speeds speeds;

    (void)state;
    load("/a, /b, /c", &config);
    speeds = ds_plan_speeds_of(&config, 1e15, &kept, 2, 0);
    assert_true(speeds.to_device_per_s == 50e9 && speeds.to_host_per_s == 50e9);
    assert_true(speeds.file_read_per_s == 6e9 && speeds.file_write_per_s == 3e9);
    assert_true(speeds.host_updated_per_s == 60e9);
    assert_true(speeds.measured == (1u << DS_SPEED_COUNT) - 1);
    assert_true(speeds.flops_per_s > 0.5e15 && speeds.flops_per_s < 1e15);
    speeds = ds_plan_speeds_of(&config, 0, &kept, 2, 4);
    assert_true(speeds.host_updated_per_s == 30e9 && speeds.flops_per_s == 0);
    load("", &config);
    speeds = ds_plan_speeds_of(&config, 1e15, &(struct ds_speeds_kept){0}, 1, 0);
    assert_true(speeds.measured == 0 && speeds.to_host_per_s > 0 && speeds.file_read_per_s > 0);
    config.precision.compute = DS_PRECISION_FP32;
    assert_true(ds_plan_speeds_of(&config, 1e15, &kept, 1, 0).flops_per_s == 0);
}

/* The others' disk is the same here, but they update with fewer threads. */
static void agree(struct ds_comm *world, void *user)
{
    const struct ds_plan_ranks ranks = {world,       disk, ds_clock_system(),
                                        world->rank, 1,    16 >> world->rank};
    struct ds_speeds *speeds = user;
    static struct ds_config configs[3];

    load("", &configs[world->rank]);
    assert_ok(ds_plan_agree_on_speeds(&ranks, &configs[world->rank], &speeds[world->rank]));
}

static void all_ranks_go_by_the_least(void **state)
{
    const struct ds_speeds_kept kept = {.per_s = {[DS_SPEED_HOST_UPDATE] = 160e9},
                                        .host_threads = 16};
    struct ds_speeds speeds[3];

    (void)state;
    ds_speeds_keep(disk, &kept);
    assert_true(run_ranks(3, 60000000000u, agree, speeds));
    for (int i = 0; i < 3; i++) {
        assert_true(speeds[i].host_updated_per_s == 40e9);
        assert_true(speeds[i].measured == 1u << DS_SPEED_HOST_UPDATE);
    }
}

/* ---- the link */

static void a_link_brings_what_was_sent(void **state)
{
    const struct ds_device_options options = {.thread_count = 1, .clock = ds_clock_system()};
    struct ds_device *device;
    struct ds_link link;
    double per_s = 0;

    (void)state;
    assert_ok(ds_device_cpu_ops.open(0, &options, &device));
    assert_ok(ds_link_open(&link, device, 1 << 16));
    assert_ok(ds_link_check(&link));
    assert_ok(ds_link_measure(&link, ds_clock_system(), &per_s));
    assert_true(per_s > 0);
    ds_link_close(&link);
    ds_device_cpu_ops.close(device);
}

static void all_ways_of_a_link_are_measured(void **state)
{
    struct bench_lines lines;
    struct ds_comm *self;

    (void)state;
    assert_ok(ds_comm_self_open(ds_clock_system(), &self));
    bench_lines_run(self, "link --quick --device cpu", &lines);
    assert_ok(lines.status);
    assert_int_equal(lines.count, DS_LINK_WAYS);
    assert_true(bench_lines_are_whole(&lines, "link"));
    for (size_t i = 0; i < lines.count; i++)
        assert_true(bench_number(lines.lines[i], "gb_per_s") > 0);
    bench_lines_fini(&lines);
    ds_comm_close(self);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_measured_is_added_to_what_was, open_disk,
                                        close_disk),
        cmocka_unit_test(lines_that_are_not_understood_say_nothing),
        cmocka_unit_test(a_rank_has_its_part_of_its_host),
        cmocka_unit_test_setup_teardown(all_ranks_go_by_the_least, open_disk, close_disk),
        cmocka_unit_test(a_link_brings_what_was_sent),
        cmocka_unit_test(all_ways_of_a_link_are_measured),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
