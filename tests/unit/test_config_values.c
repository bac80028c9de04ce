// link: launch
// private: launch
/* Values as a person writes them: numbers in any spelling, whole and exactly, long ones, and faults to inject. */
#include "config/inject_text.h"
#include "config_case.h"

#include <math.h>

static void counts_are_whole_numbers_in_any_spelling(void **state)
{
    static const struct {
        const char *text;
        uint64_t value;
    } rows[] = {{"1", 1},        {"007", 7},  {"5e8", 500000000},
                {"1.5e3", 1500}, {"2.0", 2},  {"1E2", 100},
                {"100e-2", 1},   {".5e1", 5}, {"9007199254740992", 9007199254740992}};
    static const char *const bad[] = {"",
                                      "0",
                                      "-1",
                                      "1.5",
                                      "1e400",
                                      "1e-1",
                                      "0x10",
                                      "1_000",
                                      "1 0",
                                      "+1",
                                      "1e",
                                      "e1",
                                      ".",
                                      "inf",
                                      "nan",
                                      "1,5",
                                      "auto",
                                      "9007199254740993",
                                      "18446744073709551617",
                                      "1e16",
                                      "--1"};
    const struct ds_field *field = ds_field_find("train", "steps");
    struct capture capture;
    struct ds_config config;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_ok(ds_field_parse(field, "here", rows[i].text, &config));
        assert_int_equal(config.train.steps, rows[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char wanted[256];

        config.train.steps = 77;
        capture_begin(&capture);
        ds_status st = ds_field_parse(field, "here", bad[i], &config);
        const char *said = capture_end(&capture);
        assert_int_equal(st, DS_ERR_CONFIG);
        assert_int_equal(config.train.steps, 77); /* untouched */
        snprintf(wanted, sizeof wanted,
                 "dstrain: error: here: [train] steps = '%s' must be a whole number in "
                 "1..9007199254740992 (updates of the model)",
                 bad[i]);
        assert_string_equal(said, wanted);
    }
}

static void reals_are_read_whole_and_exactly(void **state)
{
    static const char *const bad[] = {"",      "1e",    "0x1p3", "nan", "inf",
                                      "1e999", "1.2.3", "3e-4x", "-.",  "1,5"};
    const struct ds_field *field = ds_field_find("optimizer", "learning_rate");
    struct capture capture;
    struct ds_config config;

    (void)state;
    assert_ok(ds_field_parse(field, "here", "3e-4", &config));
    assert_true(config.optimizer.learning_rate == 3e-4);
    assert_ok(ds_field_parse(field, "here", "0.1", &config));
    assert_true(config.optimizer.learning_rate == 0.1);
    assert_ok(ds_field_parse(field, "here", "-0", &config));
    assert_false(signbit(config.optimizer.learning_rate));
    capture_begin(&capture);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(ds_field_parse(field, "here", bad[i], &config), DS_ERR_CONFIG);
    capture_end(&capture);
}

static void long_values_are_cut_in_messages_and_too_long_ones_refused(void **state)
{
    static char text[2 * DS_TEXT_MAX + 64];
    struct load l = {.text = GOOD};
    int length = snprintf(text, sizeof text, "data.train=");

    (void)state;
    memset(text + length, 'x', DS_TEXT_MAX - 1);
    l.overrides[0] = text;
    assert_ok(load(&l));
    assert_int_equal(strlen(l.config.data.train), DS_TEXT_MAX - 1);
    memset(text + length, 'x', DS_TEXT_MAX);
    assert_int_equal(load(&l), DS_ERR_CONFIG);
    assert_non_null(strstr(l.said, "xx...' must be text of at most 4095 bytes"));
    assert_true(strlen(l.said) < 400);
}

static void a_fault_reads_whole_or_not_at_all(void **state)
{
    static const char *const bad[] = {
        "",         "nan",     "nan:",     "nan:1",    "nan:1:",
        "nan:1:2:", "nan:1:x", "na:1:2",   "nann:1:2", ":1:2",
        "nan:-1:2", "nan::2",  "nan:1: 2", "NAN:1:2",  "nan:1:1234567890123456"};
    static const char *const bad_alike[] = {
        "labels:1:2",      "labels:all:2", "labels:all:2-", "labels:all:3-2", "labels:all:0-2",
        "labels:all:2-3:", "labels:0:2-3", "nan:all:2-3",   "rate:all:2-3 ",  "rate:all:-2-3"};
    static const char *const kinds[] = {"hang", "fail", "kill", "nan"}, *const alike[] = {"labels",
                                                                                          "rate"};
    struct ds_inject inject;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(ds_inject_parse(bad[i], &inject));
    for (size_t i = 0; i < sizeof bad_alike / sizeof bad_alike[0]; i++)
        assert_false(ds_inject_parse(bad_alike[i], &inject));
    assert_int_equal(DS_INJECT_KIND_COUNT, 6);
    for (int i = 0; i < 2; i++) {
        char text[64];

        snprintf(text, sizeof text, "%s:all:7-123456789012345", alike[i]);
        assert_true(ds_inject_parse(text, &inject));
        assert_int_equal(inject.kind, 4 + i);
        assert_true(inject.rank == DS_INJECT_ALL && inject.step == 7);
        assert_true(inject.last == 123456789012345u);
    }
    for (int kind = 0; kind < 4; kind++) {
        char text[64];

        snprintf(text, sizeof text, "%s:12:123456789012345", kinds[kind]);
        assert_true(ds_inject_parse(text, &inject));
        assert_int_equal(inject.kind, kind);
        assert_int_equal(inject.rank, 12);
        assert_true(inject.step == 123456789012345u);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_whole_numbers_in_any_spelling),
        cmocka_unit_test(reals_are_read_whole_and_exactly),
        cmocka_unit_test(long_values_are_cut_in_messages_and_too_long_ones_refused),
        cmocka_unit_test(a_fault_reads_whole_or_not_at_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
