/* test_ini.c - the grammar of configuration files: what texts say, and the exact words for those that
 * say nothing. */
// link: launch
// private: launch
#include "capture.h"
#include "config/ini.h"
#include "test.h"

struct seen {
    char text[4096];
    size_t used;
    uint32_t fail_at; /* the line the callback refuses */
};

static ds_status note(void *user, const struct ds_ini_item *item)
{
    struct seen *seen = user;
    int length = snprintf(seen->text + seen->used, sizeof seen->text - seen->used,
                          item->key ? "%u:%s.%s=%s|" : "%u:[%s]|", item->line, item->section,
                          item->key, item->value);

    assert_true(length > 0 && seen->used + (size_t)length < sizeof seen->text);
    seen->used += (size_t)length;
    return item->line == seen->fail_at ? DS_ERR_IO : DS_OK;
}

/* bytes are in a block of exactly their size, so that a read beyond shows under ASan */
static ds_status parse(const void *bytes, size_t count, struct seen *seen, const char **said,
                       struct capture *capture)
{
    char *copy = malloc(count > 0 ? count : 1);
    ds_status st;

    memcpy(copy, bytes, count);
    capture_begin(capture);
    st = ds_ini_parse("c.ini", copy, count, note, seen);
    *said = capture_end(capture);
    free(copy);
    return st;
}

static const struct {
    const char *text, *events;
} good[] = {
    {"", ""},
    {"\n\n", ""},
    {"# only\n; comments\n  # indented", ""},
    {"[a]\nk = v\n", "1:[a]|2:a.k=v|"},
    {"[a]\nk=v", "1:[a]|2:a.k=v|"},
    {"  [ a ]  # c\n\tk\t=\tv w\t \n", "1:[a]|2:a.k=v w|"},
    {"[a]\nk =\nl = ; nothing\nm =#nothing", "1:[a]|2:a.k=|3:a.l=|4:a.m=|"},
    {"[a]\nk = v # c\nl = v#no\nm = v ;c\nn = v;no",
     "1:[a]|2:a.k=v|3:a.l=v#no|4:a.m=v|5:a.n=v;no|"},
    {"[a]\nk = b = c", "1:[a]|2:a.k=b = c|"},
    {"[a]\n[b]\n[a]\n", "1:[a]|2:[b]|3:[a]|"},
    {"[a]\nk = \xc3\xa4 \xe2\x82\xac \xf0\x9f\x99\x82",
     "1:[a]|2:a.k=\xc3\xa4 \xe2\x82\xac \xf0\x9f\x99\x82|"},
    {"[a]\nk = ${HOME} `ls` \"q\" \\", "1:[a]|2:a.k=${HOME} `ls` \"q\" \\|"},
    {"[a]\nx-y.z = [v]", "1:[a]|2:a.x-y.z=[v]|"},
};

static void texts_say_what_they_say(void **state)
{
    struct capture capture;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct seen seen = {.fail_at = UINT32_MAX};
        const char *said;

        assert_ok(parse(good[i].text, strlen(good[i].text), &seen, &said, &capture));
        assert_string_equal(seen.text, good[i].events);
        assert_string_equal(said, "");
    }
}

#define ERROR       "dstrain: error: c.ini:"
#define BYTES(text) text, sizeof text - 1
static const struct {
    const char *text;
    size_t bytes;
    const char *said;
} bad[] = {
    {BYTES("\xef\xbb\xbf[a]\n"),
     "1: the file begins with a byte order mark; save it as plain UTF-8"},
    {BYTES("[a]\nk = \0v\n"), "2: the line holds a NUL byte"},
    {BYTES("[a]\r\nk = v\r\n"),
     "1: the line holds a carriage return; lines must end with a line feed alone"},
    {BYTES("[a]\nk = \x1b[1m\n"), "2: the line holds a control character"},
    {BYTES("[a]\n\nk = \x7f\n"), "3: the line holds a control character"},
    {BYTES("# \xff\n"), "1: the line holds bytes that are not UTF-8"},
    {BYTES("# \xc0\x80\n"), "1: the line holds bytes that are not UTF-8"},     /* overlong NUL */
    {BYTES("# \xe0\x80\xaf\n"), "1: the line holds bytes that are not UTF-8"}, /* overlong / */
    {BYTES("# \xed\xa0\x80\n"), "1: the line holds bytes that are not UTF-8"}, /* surrogate */
    {BYTES("# \xf4\x90\x80\x80\n"), "1: the line holds bytes that are not UTF-8"}, /* > 10ffff */
    {BYTES("# \xe2\x82"), "1: the line holds bytes that are not UTF-8"},           /* cut */
    {BYTES("# \xe2\x82\n\xac"), "1: the line holds bytes that are not UTF-8"},
    {BYTES("k = v\n"), "1: key 'k' stands before the first [section]"},
    {BYTES("[a]\nword\n"), "2: expected '[section]' or 'key = value', found 'word'"},
    {BYTES("[a]\nword # k = v\n"), "2: 'word # k' is not a name for a key"},
    {BYTES("[a]\n= v\n"), "2: '' is not a name for a key"},
    {BYTES("[a]\nk k = v\n"), "2: 'k k' is not a name for a key"},
    {BYTES("[a]\n9 = v\n"), "2: '9' is not a name for a key"},
    {BYTES("[a\n"), "1: a section must read '[name]'"},
    {BYTES("["), "1: a section must read '[name]'"},
    {BYTES("[]"), "1: '' is not a name for a section"},
    {BYTES("[a b]"), "1: 'a b' is not a name for a section"},
    {BYTES("[a] b"), "1: a section must read '[name]'"},
};

static void bad_texts_are_refused_with_their_line(void **state)
{
    struct capture capture;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct seen seen = {.fail_at = UINT32_MAX};
        const char *said;

        assert_int_equal(parse(bad[i].text, bad[i].bytes, &seen, &said, &capture), DS_ERR_CONFIG);
        assert_memory_equal(said, ERROR, sizeof ERROR - 1);
        assert_string_equal(said + sizeof ERROR - 1, bad[i].said);
    }
}

static void sizes_have_a_limit_that_can_be_reached(void **state)
{
    struct seen seen = {.fail_at = UINT32_MAX};
    const size_t size = DS_INI_BYTES_MAX + 1;
    char *text = malloc(size);
    struct capture capture;
    const char *said;

    (void)state;
    memset(text, ' ', size);
    text[DS_INI_LINE_MAX] = '\n';
    assert_ok(parse(text, DS_INI_LINE_MAX + 1, &seen, &said, &capture));
    text[DS_INI_LINE_MAX] = ' ';
    text[0] = '\n';
    assert_int_equal(parse(text, DS_INI_LINE_MAX + 2, &seen, &said, &capture), DS_ERR_CONFIG);
    assert_string_equal(said, ERROR "2: the line has 65537 bytes; at most 65536 are allowed");
    for (size_t i = 0; i < size; i += 100)
        text[i] = '\n';
    assert_ok(parse(text, size - 1, &seen, &said, &capture));
    assert_int_equal(parse(text, size, &seen, &said, &capture), DS_ERR_CONFIG);
    assert_string_equal(said, ERROR "1: the file has 1048577 bytes; at most 1048576 are allowed");
    free(text);
}

static void a_refusal_of_the_reader_ends_the_parse(void **state)
{
    struct seen seen = {.fail_at = 2};
    struct capture capture;
    const char *said;

    (void)state;
    assert_int_equal(parse("[a]\nk = v\nl = w\n", 16, &seen, &said, &capture), DS_ERR_IO);
    assert_string_equal(seen.text, "1:[a]|2:a.k=v|");
}

static void a_value_without_problem_reads_back(void **state)
{
    static const char *const values[] = {"",    "a",  " a",  "a ",   "a#b",  "a #b", "#a", "a;b",
                                         "a ;", "=a", "[a]", "a\nb", "a\tb", "\xff", "a=b"};
    size_t count = 0;

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct seen seen = {.fail_at = UINT32_MAX};
        struct capture capture;
        char text[64], wanted[64];
        const char *said;
        ds_status st;

        snprintf(text, sizeof text, "[a]\nk = %s\n", values[i]);
        snprintf(wanted, sizeof wanted, "1:[a]|2:a.k=%s|", values[i]);
        st = parse(text, strlen(text), &seen, &said, &capture);
        int reads_back = st == DS_OK && strcmp(seen.text, wanted) == 0;
        assert_int_equal(ds_ini_value_problem(values[i]) == NULL, reads_back);
        count += (size_t)reads_back;
    }
    assert_int_equal(count, 8);
}

static void long_texts_are_shown_in_whole_characters(void **state)
{
    char text[256] = "";

    (void)state;
    for (int i = 0; i < 60; i++)
        strcat(text, "\xe2\x82\xac");
    assert_int_equal(ds_ini_shown(text), 99);
    assert_int_equal(ds_ini_shown("abc"), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_say_what_they_say),
        cmocka_unit_test(bad_texts_are_refused_with_their_line),
        cmocka_unit_test(sizes_have_a_limit_that_can_be_reached),
        cmocka_unit_test(a_refusal_of_the_reader_ends_the_parse),
        cmocka_unit_test(a_value_without_problem_reads_back),
        cmocka_unit_test(long_texts_are_shown_in_whole_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
