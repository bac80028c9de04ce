// link: base
/* test_json.c - what is not one tidy object is refused with its place; fields are checked. */
#include "capture.h"
#include "dstrain/json.h"
#include "test.h"

static void assert_refused(const char *text, size_t bytes, const char *says)
{
    struct capture capture;
    json_t *out = NULL;
    ds_status st;

    capture_begin(&capture);
    st = ds_json_parse("x.json", text, bytes, &out);
    const char *said = capture_end(&capture);
    assert_int_equal(st, DS_ERR_DATA);
    assert_null(out);
    if (!strstr(said, "x.json") || !strstr(said, says))
        fail_msg("'%s' does not say '%s'", said, says);
    for (const char *at = said; *at; at++) /* one line */
        assert_true((unsigned char)*at >= 0x20);
}

static void what_is_not_one_tidy_object_is_refused_with_its_place(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "x.json:1:0"},
        {"{", "x.json:1:1"},
        {"{\n\n \"a\": tru}", "x.json:3:"},
        {"[1, 2]", "must be a JSON object, is an array"},
        {"7", "must be a JSON object, is 7"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{} {}", "end of file expected"},
        {"{}x", "end of file expected"},
        {"{\"a\": 18446744073709551616}", "too big integer"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": NaN}", "not valid JSON"},
        {"{\"a\": \"\xff\"}", "not valid JSON"},
        {"{\"a\": \"\\u0000\"}", "not valid JSON"},
        {"{\"a\": \"x\033[31mred\"}", "not valid JSON"},
        {"\033[31m{", "not valid JSON"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].text, strlen(cases[i].text), cases[i].says);
    assert_refused("{}\0{}", 5, "not valid JSON");
}

/* {"a":{"a": ... {} ... }} with `depth` braces. */
static size_t nest(char *to, size_t depth)
{
    size_t at = 0;

    for (size_t i = 1; i < depth; i++) {
        memcpy(to + at, "{\"a\":", 5);
        at += 5;
    }
    to[at++] = '{';
    memset(to + at, '}', depth);
    return at + depth;
}

static void nesting_is_limited_to_64_levels_and_brackets_in_texts_do_not_count(void **state)
{
    char *text = malloc(6 * 200000);
    char brackets[600] = "{\"a\": \"\\\"";
    json_t *out = NULL;

    (void)state;
    assert_non_null(text);
    assert_ok(ds_json_parse("deep", text, nest(text, 64), &out));
    json_decref(out);
    assert_refused(text, nest(text, 65), "deeper than 64");
    assert_refused(text, nest(text, 200000), "deeper than 64");
    memset(text, '[', 200000);
    assert_refused(text, 200000, "deeper than 64");
    memset(brackets + strlen(brackets), '[', 500);
    strcat(brackets, "\"}");
    assert_ok(ds_json_parse("brackets", brackets, strlen(brackets), &out));
    json_decref(out);
    free(text);
}

static const char fields[] =
    "{\"n\": 12, \"minus\": -1, \"real\": 2.5, \"whole\": 3.0, \"yes\": true,"
    " \"no\": false, \"text\": \"hi!\", \"nothing\": null, \"list\": [],"
    " \"big\": 9223372036854775807}";

static json_t *parse_fields(void)
{
    json_t *out = NULL;

    assert_ok(ds_json_parse("fields", fields, strlen(fields), &out));
    return out;
}

static void fields_of_the_right_type_are_read(void **state)
{
    json_t *object = parse_fields();
    const char *text = NULL;
    uint64_t number = 0;
    double real = 0;
    int flag = 2;

    (void)state;
    assert_ok(ds_json_u64("f", object, "n", 12, 12, &number));
    assert_int_equal(number, 12);
    assert_ok(ds_json_u64("f", object, "big", 0, UINT64_MAX, &number));
    assert_true(number == INT64_MAX);
    assert_ok(ds_json_real("f", object, "real", 2.5, 2.5, &real));
    assert_true(real == 2.5);
    assert_ok(ds_json_real("f", object, "minus", -1, 1, &real)); /* integers are taken, too */
    assert_true(real == -1);
    assert_ok(ds_json_bool("f", object, "yes", &flag));
    assert_int_equal(flag, 1);
    assert_ok(ds_json_bool("f", object, "no", &flag));
    assert_int_equal(flag, 0);
    assert_ok(ds_json_text("f", object, "text", &text));
    assert_string_equal(text, "hi!");
    json_decref(object);
}

static void absent_and_null_fields_keep_the_default(void **state)
{
    static const char *const keys[] = {"absent", "nothing"};
    json_t *object = parse_fields();

    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *text = "default";
        uint64_t number = 5;
        double real = 6;
        int flag = 7;

        assert_ok(ds_json_u64("f", object, keys[i], 100, 200, &number));
        assert_ok(ds_json_real("f", object, keys[i], 100, 200, &real));
        assert_ok(ds_json_bool("f", object, keys[i], &flag));
        assert_ok(ds_json_text("f", object, keys[i], &text));
        assert_true(number == 5 && real == 6 && flag == 7);
        assert_string_equal(text, "default");
    }
    json_decref(object);
}

enum field_type { U64, REAL, BOOL, TEXT };

static void assert_field_refused(const json_t *object, enum field_type type, const char *key,
                                 const char *says)
{
    const char *text = "kept";
    uint64_t number = 5;
    double real = 6;
    int flag = 7;
    struct capture capture;
    ds_status st;

    capture_begin(&capture);
    if (type == U64)
        st = ds_json_u64("c.json", object, key, 1, 11, &number);
    else if (type == REAL)
        st = ds_json_real("c.json", object, key, 0.5, 2, &real);
    else if (type == BOOL)
        st = ds_json_bool("c.json", object, key, &flag);
    else
        st = ds_json_text("c.json", object, key, &text);
    const char *said = capture_end(&capture);
    assert_int_equal(st, DS_ERR_DATA);
    assert_true(number == 5 && real == 6 && flag == 7);
    assert_string_equal(text, "kept");
    const size_t length = strlen(said), ending = strlen(says);
    if (ending > length || strcmp(said + length - ending, says) != 0)
        fail_msg("'%s' does not end with '%s'", said, says);
}

static void fields_of_a_wrong_type_or_range_are_refused_by_name(void **state)
{
    json_t *object = parse_fields();
    uint64_t any = 0;

    (void)state;
    assert_field_refused(object, U64, "n", "c.json: key 'n' must be an integer in 1..11, is 12");
    assert_field_refused(object, U64, "minus", "is -1");
    assert_int_equal(ds_json_u64("c.json", object, "minus", 0, UINT64_MAX, &any), DS_ERR_DATA);
    assert_field_refused(object, U64, "whole", "is 3.0");
    assert_field_refused(object, U64, "text", "is the text \"hi!\"");
    assert_field_refused(object, U64, "yes", "is true");
    assert_field_refused(object, REAL, "real", "key 'real' must be a number in 0.5..2, is 2.5");
    assert_field_refused(object, REAL, "minus", "is -1");
    assert_field_refused(object, REAL, "no", "is false");
    assert_field_refused(object, BOOL, "n", "key 'n' must be true or false, is 12");
    assert_field_refused(object, TEXT, "list", "key 'list' must be a text, is an array");
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_one_tidy_object_is_refused_with_its_place),
        cmocka_unit_test(nesting_is_limited_to_64_levels_and_brackets_in_texts_do_not_count),
        cmocka_unit_test(fields_of_the_right_type_are_read),
        cmocka_unit_test(absent_and_null_fields_keep_the_default),
        cmocka_unit_test(fields_of_a_wrong_type_or_range_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
