/* test_metrics.c - metrics.jsonl: the keys scripts rely on, numbers that read back exactly, whole lines. */
// link: launch
// private: launch
#include "capture.h"
#include "config/number.h"
#include "metrics.h"
#include "test.h"

#include "dstrain/json.h"
#include "dstrain/random.h"

#include <errno.h>
#include <locale.h>
#include <math.h>

static const char *const always[] = {
    "step",
    "loss",
    "grad_norm",
    "lr",
    "trained_tokens",
    "tokens",
    "step_s",
    "tokens_per_s",
    "mfu",
    "device_peak_bytes",
    "host_peak_bytes",
    "wait_data_s",
    "wait_comm_s",
    "wait_offload_s",
    "wait_checkpoint_s",
    "bubble_s",
};
#define ALWAYS_COUNT (sizeof always / sizeof always[0])

static json_t *parse(const struct ds_metrics_row *row)
{
    char line[DS_METRICS_LINE_MAX];
    size_t bytes = ds_metrics_format(row, line);
    json_t *object;

    assert_int_equal(bytes, strlen(line));
    assert_int_equal(line[bytes - 1], '\n');
    assert_null(memchr(line, '\n', bytes - 1));
    assert_ok(ds_json_parse("line", line, bytes - 1, &object));
    return object;
}

static void keys_are_those_that_were_promised(void **state)
{
    struct ds_metrics_row row = {.step = 1};
    json_t *object = parse(&row);

    (void)state;
    assert_int_equal(json_object_size(object), ALWAYS_COUNT);
    for (size_t i = 0; i < ALWAYS_COUNT; i++)
        assert_non_null(json_object_get(object, always[i]));
    json_decref(object);

    row.has_eval_loss = row.is_skipped = row.has_loss_scale = 1;
    object = parse(&row);
    assert_int_equal(json_object_size(object), ALWAYS_COUNT + 3);
    assert_true(json_is_real(json_object_get(object, "eval_loss")) ||
                json_is_integer(json_object_get(object, "eval_loss")));
    assert_true(json_is_true(json_object_get(object, "skipped")));
    assert_non_null(json_object_get(object, "loss_scale"));
    json_decref(object);
}

static double any_double(struct ds_random random, uint64_t index)
{
    double value;
    uint64_t bits = ds_random_u64(random, index);

    memcpy(&value, &bits, sizeof value);
    return isfinite(value) && value != 0 ? value : 0.1;
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void numbers_read_back_exactly(void **state)
{
    const uint64_t seed = test_seed("numbers");

    (void)state;
    for (uint64_t turn = 0; turn < 2000; turn++) {
        struct ds_random r = ds_random_of(seed, DS_RANDOM_TEST, turn);
        struct ds_metrics_row row = {.step = ds_random_u64(r, 0) >> 2,
                                     .loss = any_double(r, 1),
                                     .grad_norm = (double)(float)fmod(any_double(r, 2), 1e30),
                                     .lr = any_double(r, 3),
                                     .tokens = ds_random_u64(r, 4) >> 2,
                                     .bubble_s = any_double(r, 5),
                                     .mfu = 0.1};
        json_t *object = parse(&row);

        assert_int_equal(json_integer_value(json_object_get(object, "step")), row.step);
        assert_int_equal(json_integer_value(json_object_get(object, "tokens")), row.tokens);
        assert_true(number_of(object, "loss") == row.loss);
        assert_true(number_of(object, "grad_norm") == row.grad_norm);
        assert_true(number_of(object, "lr") == row.lr);
        assert_true(number_of(object, "bubble_s") == row.bubble_s);
        assert_true(number_of(object, "mfu") == 0.1);
        json_decref(object);
    }
}

static void what_is_not_finite_is_null(void **state)
{
    struct ds_metrics_row row = {.loss = NAN, .grad_norm = INFINITY, .lr = -INFINITY, .mfu = -NAN};
    json_t *object = parse(&row);

    (void)state;
    assert_true(json_is_null(json_object_get(object, "loss")));
    assert_true(json_is_null(json_object_get(object, "grad_norm")));
    assert_true(json_is_null(json_object_get(object, "lr")));
    assert_true(json_is_null(json_object_get(object, "mfu")));
    assert_false(json_is_null(json_object_get(object, "step_s")));
    json_decref(object);
}

static void the_longest_line_fits(void **state)
{
    const double wide = -1.2345678901234567e-300;
    struct ds_metrics_row row = {UINT64_MAX, wide, wide, wide,       UINT64_MAX, UINT64_MAX,
                                 wide,       wide, wide, UINT64_MAX, UINT64_MAX, wide,
                                 wide,       wide, wide, wide,       1,          1,
                                 1,          wide, wide};
    char line[DS_METRICS_LINE_MAX];

    (void)state;
    assert_true(ds_metrics_format(&row, line) < DS_METRICS_LINE_MAX - 100);
}

static void a_locale_does_not_change_numbers(void **state)
{
    char text[DS_NUMBER_BYTES];
    double value;

    (void)state;
    if (!setlocale(LC_ALL, "de_DE.UTF-8") && !setlocale(LC_ALL, "fr_FR.UTF-8"))
        skip();
    ds_number_json(0.5, 17, text);
    assert_string_equal(text, "0.5");
    assert_true(ds_number_real("0.5", &value) && value == 0.5);
    setlocale(LC_ALL, "C");
}

static void read_file(struct ds_fs *fs, const char *path, char *to, size_t bytes)
{
    char *text;
    size_t count;

    assert_ok(ds_fs_read_file(fs, path, bytes - 1, &text, &count));
    memcpy(to, text, count + 1);
    free(text);
}

static void read_whole(struct ds_fs *fs, char *to, size_t bytes)
{
    read_file(fs, "m.jsonl", to, bytes);
}

static size_t count_whole_lines(const char *text)
{
    size_t count = 0;

    while (*text != '\0') {
        const char *end = strchr(text, '\n');
        json_t *object;

        assert_non_null(end);
        assert_ok(ds_json_parse("line", text, (size_t)(end - text), &object));
        json_decref(object);
        text = end + 1;
        count++;
    }
    return count;
}

static void a_torn_line_is_cut_off_and_nothing_else(void **state)
{
    static const char torn[] = "{\"step\": 3, \"lo";
    struct ds_metrics_row row = {.step = 1};
    struct ds_metrics metrics;
    static char text[8192];
    struct ds_fs *fs;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    assert_ok(ds_metrics_open(&metrics, fs, "m.jsonl"));
    for (row.step = 1; row.step <= 5; row.step++)
        ds_metrics_write(&metrics, &row);
    assert_int_equal(ds_fs_append(fs, metrics.file, torn, sizeof torn - 1), sizeof torn - 1);
    ds_metrics_close(&metrics);
    assert_ok(ds_metrics_open(&metrics, fs, "m.jsonl"));
    ds_metrics_write(&metrics, &row);
    ds_metrics_close(&metrics);
    ds_metrics_close(&metrics); /* a second one does nothing */
    read_whole(fs, text, sizeof text);
    assert_int_equal(count_whole_lines(text), 6);
    assert_int_equal(ds_fs_sim_open_files(fs), 0);
    ds_fs_sim_close(fs);
}

/* open, write, write with the 1st, 2nd, ... call failing: every line in the file is whole */
static void a_failed_write_leaves_whole_lines(void **state)
{
    struct ds_metrics_row row = {.step = 1};
    static char text[8192];
    uint64_t fail_at;
    int hit = 1;

    (void)state;
    for (fail_at = 1; hit; fail_at++) {
        struct ds_metrics metrics;
        struct capture capture;
        struct ds_fs *disk, *faulty;
        size_t good = 0;

        assert_true(fail_at < 100);
        assert_ok(ds_fs_sim_open(&disk));
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        capture_begin(&capture);
        if (ds_metrics_open(&metrics, faulty, "m.jsonl") == DS_OK) {
            for (int i = 0; i < 3; i++)
                ds_metrics_write(&metrics, &row);
            good = 3 - (size_t)metrics.lost;
            ds_metrics_close(&metrics);
            read_whole(disk, text, sizeof text);
            assert_int_equal(count_whole_lines(text), good);
        }
        capture_end(&capture);
        hit = ds_fs_fault_hit(faulty);
        assert_int_equal(ds_fs_sim_open_files(disk), 0);
        ds_fs_fault_close(faulty);
        ds_fs_sim_close(disk);
    }
    assert_true(fail_at > 4);
}

/* posix, which keeps nothing in `fs`, with a disk that is full in the middle of a line, or does not even cut it off */
static int is_full, is_stuck;

static int64_t append_until_full(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    if (!is_full)
        return ds_fs_posix()->ops->append(fs, file, from, bytes);
    return bytes < 100 ? -ENOSPC : ds_fs_posix()->ops->append(fs, file, from, bytes - 60);
}

static int truncate_unless_stuck(struct ds_fs *fs, int file, uint64_t bytes)
{
    return is_stuck ? -EIO : ds_fs_posix()->ops->truncate(fs, file, bytes);
}

static size_t count_words(const char *text, const char *words)
{
    size_t count = 0;

    for (; (text = strstr(text, words)) != NULL; text++)
        count++;
    return count;
}

/* Steps 1 to 8; the disk is full in 2, 3, 4 and in 7, in 3 and 4 what is torn cannot be cut off. */
static void write_with_a_full_disk(struct ds_metrics *metrics)
{
    for (uint64_t step = 1; step <= 8; step++) {
        const struct ds_metrics_row row = {.step = step};

        is_full = (step >= 2 && step <= 4) || step == 7;
        is_stuck = step == 3 || step == 4;
        ds_metrics_write(metrics, &row);
    }
}

static void a_full_disk_costs_lines_and_says_so_once(void **state)
{
    struct ds_fs_ops ops = *ds_fs_posix()->ops;
    struct ds_fs full = {.ops = &ops};
    char dir[] = "/tmp/dstrain_metrics_XXXXXX", path[64], want[256];
    static char text[8192];
    struct ds_metrics metrics;
    struct capture capture;

    (void)state;
    ops.append = append_until_full;
    ops.truncate = truncate_unless_stuck;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.jsonl", dir);
    snprintf(want, sizeof want,
             "dstrain: warning: %s: the line of step 2 could not be written: No space left on "
             "device; training goes on, ",
             path);
    assert_ok(ds_metrics_open(&metrics, &full, path));
    capture_begin(&capture);
    write_with_a_full_disk(&metrics);
    ds_metrics_close(&metrics);
    ds_metrics_close(&metrics);
    const char *said = capture_end(&capture);
    assert_true(strncmp(said, want, strlen(want)) == 0);
    assert_int_equal(count_words(said, "could not be written: "), 2);
    assert_int_equal(count_words(said, ": free space there\n"), 2);
    assert_non_null(strstr(said, "the line of step 7 "));
    assert_int_equal(count_words(said, "m.jsonl: 4 lines are missing"), 1);
    read_file(&full, path, text, sizeof text);
    assert_int_equal(count_whole_lines(text), 4);
    assert_non_null(strstr(text, "{\"step\": 5, "));
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), dir), 0);
}

/* move aside and open, with the 1st, 2nd, ... call failing: the earlier lines are in one place or the other */
static void earlier_metrics_make_room_and_are_never_lost(void **state)
{
    struct ds_metrics_row row = {.step = 1};
    static char text[8192];
    int hit = 1;

    (void)state;
    for (uint64_t fail_at = 1; hit; fail_at++) {
        struct ds_metrics metrics;
        struct capture capture;
        struct ds_fs *disk, *faulty;
        struct ds_fs_stat stat;
        char aside[64];

        assert_ok(ds_fs_sim_open(&disk));
        assert_ok(ds_metrics_set_aside(disk, "m.jsonl", aside, sizeof aside));
        assert_string_equal(aside, "");
        assert_ok(ds_fs_write_file(disk, "m-1.jsonl", "older", 5));
        assert_ok(ds_metrics_open(&metrics, disk, "m.jsonl"));
        ds_metrics_write(&metrics, &row);
        ds_metrics_close(&metrics);
        assert_ok(ds_fs_fault_open(disk, fail_at, &faulty));
        capture_begin(&capture);
        ds_status st = ds_metrics_set_aside(faulty, "m.jsonl", aside, sizeof aside);
        capture_end(&capture);
        hit = ds_fs_fault_hit(faulty);
        assert_true(hit || st == DS_OK);
        if (st == DS_OK) {
            assert_string_equal(aside, "m-2.jsonl");
            assert_int_equal(ds_fs_stat(disk, "m.jsonl", &stat), -ENOENT);
        }
        if (ds_fs_stat(disk, "m.jsonl", &stat) == -ENOENT)
            assert_int_equal(ds_fs_rename(disk, "m-2.jsonl", "m.jsonl"), 0);
        read_whole(disk, text, sizeof text);
        assert_int_equal(count_whole_lines(text), 1);
        ds_fs_fault_close(faulty);
        ds_fs_sim_close(disk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_those_that_were_promised),
        cmocka_unit_test(numbers_read_back_exactly),
        cmocka_unit_test(what_is_not_finite_is_null),
        cmocka_unit_test(the_longest_line_fits),
        cmocka_unit_test(a_locale_does_not_change_numbers),
        cmocka_unit_test(a_torn_line_is_cut_off_and_nothing_else),
        cmocka_unit_test(a_failed_write_leaves_whole_lines),
        cmocka_unit_test(a_full_disk_costs_lines_and_says_so_once),
        cmocka_unit_test(earlier_metrics_make_room_and_are_never_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
