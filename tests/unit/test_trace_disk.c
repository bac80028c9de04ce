// link: launch
// private: launch
/* A disk that fails, at whichever call and on whichever rank, costs the trace alone: it is whole or absent, nothing is left
 * lying, and one line says so. */
#include "capture.h"
#include "command.h"
#include "test.h"
#include "tiny_run.h"
#include "trace_case.h"

#include <errno.h>
#include <jansson.h>

enum { STEPS = 5 };

static char *folder, *data;

/* ---- the program */

/* Files of the trace: a disk with so many bytes. */
static int64_t trace_bytes_left;
static int trace_files[1024];

static int open_and_note(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    const int file = ds_fs_posix()->ops->open(fs, path, flags, mode);

    if (file >= 0 && file < 1024)
        trace_files[file] = strstr(path, "/trace") != NULL;
    return file;
}

static int64_t append_while_room(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    if (file < 1024 && trace_files[file] && (trace_bytes_left -= (int64_t)bytes) < 0)
        return -ENOSPC;
    return ds_fs_posix()->ops->append(fs, file, from, bytes);
}

static size_t count_of(const char *text, const char *word)
{
    size_t count = 0;

    for (; (text = strstr(text, word)); text++)
        count++;
    return count;
}

/* `dstrain config.ini` where the trace has room for so many bytes; what it said */
static const char *run_program(struct capture *capture, const char *dir, int64_t room)
{
    static struct ds_config config;
    struct ds_fs_ops ops = *ds_fs_posix()->ops;
    struct ds_fs fs = {&ops};
    struct ds_command command = {
        .config = &config, .fs = &fs, .clock = ds_clock_system(), .thread_count = 1};
    const struct tiny_case c = {
        .ranks = 1, .stage = 3, .steps = STEPS, .global_batch = 2, .micro_batch = 1, .data = data};
    const char *said;
    ds_status st;

    ops.open = open_and_note;
    ops.append = append_while_room;
    trace_bytes_left = room;
    tiny_config(&c, &config);
    snprintf(config.run.dir, sizeof config.run.dir, "%s", dir);
    strcpy(config.log.trace, "4..9"); /* there are five */
    assert_ok(ds_comm_self_open(ds_clock_system(), &command.world));
    ds_log.is_leader = 1;
    capture_begin(capture);
    st = ds_train_main(&command);
    said = capture_end(capture);
    ds_log.is_leader = 0;
    ds_comm_close(command.world);
    assert_int_equal(st, DS_OK);
    return said;
}

static double bytes_of(const char *dir, const char *name)
{
    struct ds_fs_stat stat;
    char path[600];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(ds_fs_stat(ds_fs_posix(), path, &stat), 0);
    return (double)stat.bytes;
}

static size_t lines_of(const char *dir, const char *name)
{
    char path[600], *text;
    size_t bytes, count;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1u << 20, &text, &bytes));
    count = count_of(text, "\n");
    free(text);
    return count;
}

static void a_full_disk_costs_the_trace_and_one_warning(void **state)
{
    double rooms[] = {1e9, 0, 0.1, 0.6,
                      1.5}; /* then: of what a whole trace takes; the ranks' part is one */
    struct capture capture;
    char dir[600], line[640];

    (void)state;
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        const int is_whole = i == 0;
        snprintf(dir, sizeof dir, "%s/run-%zu", folder, i);
        const char *said = run_program(&capture, dir, (int64_t)rooms[i]);
        assert_int_equal(count_of(said, "no trace is written"), !is_whole);
        snprintf(line, sizeof line, "trace: %s/trace.json", dir);
        assert_int_equal(count_of(said, line), is_whole);
        assert_int_equal(is_there(ds_fs_posix(), dir, "trace.json"), is_whole);
        assert_false(is_there(ds_fs_posix(), dir, "trace.json.tmp"));
        assert_false(is_there(ds_fs_posix(), dir, "trace"));
        assert_int_equal(lines_of(dir, "metrics.jsonl"), STEPS);
        for (size_t k = 1; i == 0 && k < sizeof rooms / sizeof *rooms; k++)
            rooms[k] *= bytes_of(dir, "trace.json");
    }
}

/* ---- hand-made steps: every call of the file system fails once */

static size_t spans_in(const json_t *trace)
{
    const json_t *event;
    size_t i, count = 0;

    json_array_foreach(json_object_get(trace, "traceEvents"), i, event) count +=
        strcmp(string(event, "ph"), "X") == 0;
    return count;
}

static void any_call_may_fail_and_the_trace_is_whole_or_absent(void **state)
{
    struct ds_clock_manual manual;
    uint64_t fail_at = 1, whole = 0;
    int is_hit = 1;

    (void)state;
    ds_clock_manual_init(&manual);
    for (; is_hit; fail_at++) {
        struct ds_fs *sim, *fault;
        struct ds_comm *self;
        struct capture capture;

        assert_ok(ds_fs_sim_open(&sim));
        assert_int_equal(ds_fs_mkdir(sim, "/run", 0750), 0);
        assert_ok(ds_fs_fault_open(sim, fail_at, &fault));
        assert_ok(ds_comm_self_open(&manual.clock, &self));
        capture_begin(&capture);
        assert_ok(trace_few(self, fault, "/run", &manual.clock, 0));
        const char *said = capture_end(&capture);
        is_hit = ds_fs_fault_hit(fault);
        const int is_whole = is_there(sim, "/run", "trace.json");
        assert_true(count_of(said, "no trace is written") <= 1);
        assert_true(is_whole || count_of(said, "no trace is written") == 1);
        if (is_whole) {
            json_t *trace = read_from(sim);
            assert_int_equal(spans_in(trace), 2 * 3);
            json_decref(trace);
            whole++;
        }
        assert_int_equal(ds_fs_sim_open_files(sim), 0);
        ds_comm_close(self);
        ds_fs_fault_close(fault);
        ds_fs_sim_close(sim);
    }
    assert_true(fail_at > 10 && whole >= 1 && whole < fail_at / 2);
}

static void a_rank_whose_disk_fails_takes_the_trace_of_all(void **state)
{
    struct hosts hosts = hosts_open();
    struct capture capture;

    (void)state;
    assert_ok(ds_fs_fault_open(hosts.fs, 2, &hosts.own[2])); /* the first line it writes */
    capture_begin(&capture);
    run_hosts(&hosts);
    assert_int_equal(count_of(capture_end(&capture), "no trace is written"), 1);
    assert_false(is_there(hosts.fs, "/run", "trace.json"));
    assert_false(is_there(hosts.fs, "/run", "trace"));
    assert_int_equal(ds_fs_sim_open_files(hosts.fs), 0);
    ds_fs_fault_close(hosts.own[2]);
    ds_fs_sim_close(hosts.fs);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_costs_the_trace_and_one_warning),
        cmocka_unit_test(any_call_may_fail_and_the_trace_is_whole_or_absent),
        cmocka_unit_test(a_rank_whose_disk_fails_takes_the_trace_of_all),
    };
    int failed;

    ds_log.is_leader = 0;
    const uint64_t seed = test_seed("test_trace_disk");
    folder = tiny_folder();
    data = tiny_data(folder, seed, 64);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(data);
    tiny_remove(folder);
    return failed;
}
