/* test_tokenizer.c - ids and texts as the Python package `tokenizers` has them, there and back again for any text,
 * and what text is refused. */
// link: data storage base
#include "tokenizer_case.h"

#include "capture.h"

#include <utf8proc.h>

/* ---- the same ids, the same text */

static json_t *read_expected(const char *name)
{
    char path[512];
    json_error_t error;

    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s/expected.json", DS_SOURCE_DIR, name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return root;
}

static void assert_decodes(const struct tokenizer_case *c, const json_t *ids, uint32_t flags,
                           const json_t *wanted)
{
    const size_t count = json_array_size(ids);
    uint32_t *list = malloc((count + 1) * sizeof *list);
    char *text = NULL;
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++)
        list[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    assert_ok(
        ds_tokenizer_decode(c->tokenizer, list, count, flags | DS_DECODE_REPLACE, &text, &bytes));
    if (bytes != json_string_length(wanted) || memcmp(text, json_string_value(wanted), bytes) != 0)
        fail_msg("%s: decoded '%s', not '%s'", c->name, text, json_string_value(wanted));
    free(text);
    free(list);
}

static void golden_texts_have_the_golden_ids(void **state)
{
    (void)state;
    for (size_t t = 0; t < GOLDEN_TOKENIZERS; t++) {
        struct tokenizer_case c;
        json_t *root = read_expected(golden_tokenizers[t]);
        const json_t *cases = json_object_get(root, "cases");

        tokenizer_open(&c, golden_tokenizers[t]);
        assert_true(json_array_size(cases) >= 26);
        for (size_t i = 0; i < 2 * json_array_size(cases); i++) { /* again, remembered */
            const json_t *item = json_array_get(cases, i / 2);
            const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
            const json_t *with_template = json_object_get(item, "with_template");
            const char *at = json_string_value(text);

            assert_ids(&c, at, json_string_length(text), 0, ids);
            assert_ids(&c, at, json_string_length(text), DS_ENCODE_TEMPLATE, with_template);
            assert_decodes(&c, ids, 0, json_object_get(item, "decoded"));
            assert_decodes(&c, with_template, DS_DECODE_SKIP_SPECIAL,
                           json_object_get(item, "decoded_plain"));
        }
        tokenizer_close(&c);
        json_decref(root);
    }
}

/* ---- there and back again */

/* Text without the added tokens and without what a tokenizer takes for something else. */
static size_t draw_text(const char *name, struct ds_random random, uint64_t *drawn, uint8_t *to)
{
    const int is_llama2 = strncmp(name, "llama2", 6) == 0;
    const size_t chars = (size_t)ds_random_below(random, (*drawn)++, 60);
    size_t bytes = 0;

    for (size_t i = 0; i < chars; i++) {
        uint32_t code = draw_char(random, drawn);

        if (code == '<' || (code >= 0xd800 && code < 0xe000) || (is_llama2 && code == 0x2581) ||
            (i == 0 && code == ' '))
            code = 'x';
        bytes += (size_t)utf8proc_encode_char((utf8proc_int32_t)code, to + bytes);
    }
    to[bytes] = '\0';
    return bytes;
}

/* What the text is when it comes back. U+0000 ends a text for utf8proc_NFC. */
static char *normal_form(const char *name, const uint8_t *text, size_t bytes, size_t *out_bytes)
{
    utf8proc_uint8_t *formed = NULL;

    if (strcmp(name, "qwen3") != 0) {
        char *copy = malloc(bytes + 1);
        memcpy(copy, text, bytes + 1);
        *out_bytes = bytes;
        return copy;
    }
    const utf8proc_ssize_t count =
        utf8proc_map(text, (utf8proc_ssize_t)bytes, &formed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert_true(count >= 0);
    *out_bytes = (size_t)count;
    return (char *)formed;
}

static void any_text_comes_back(void **state)
{
    const uint64_t seed = test_seed("any_text_comes_back");
    const uint64_t count = test_is_long() ? 200000 : 4000;
    static uint8_t text[4 * 60 + 1];

    (void)state;
    for (size_t t = 0; t < GOLDEN_TOKENIZERS; t++) {
        struct tokenizer_case c;

        tokenizer_open(&c, golden_tokenizers[t]);
        for (uint64_t i = 0; i < count; i++) {
            const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, i);
            struct ds_token_list ids = {0};
            uint64_t drawn = 0;
            const size_t bytes = draw_text(c.name, random, &drawn, text);
            size_t wanted_bytes, got_bytes;
            char *wanted = normal_form(c.name, text, bytes, &wanted_bytes), *got = NULL;

            assert_ok(ds_encoder_encode(c.encoder, c.name, text, bytes, 0, &ids));
            assert_ok(ds_tokenizer_decode(c.tokenizer, ids.ids, ids.count, 0, &got, &got_bytes));
            if (got_bytes != wanted_bytes || memcmp(got, wanted, got_bytes) != 0)
                fail_msg("%s: text %llu '%s' came back as '%s'", c.name, (unsigned long long)i,
                         (char *)text, got);
            free(got);
            free(wanted);
            ds_token_list_fini(&ids);
        }
        tokenizer_close(&c);
    }
}

/* Marks below come before marks above; the square of their number would be hours. */
static void a_million_marks_are_normalised_in_time(void **state)
{
    static const char below[] = "\xcc\xa3", above[] = "\xcc\x81", joined[] = "\xe1\xba\xa1";
    const size_t pairs = 500000;
    struct tokenizer_case c;
    struct ds_token_list ids = {0};
    char *text = malloc(1 + 4 * pairs), *got;
    size_t bytes = 0;

    (void)state;
    tokenizer_open(&c, "qwen3");
    text[0] = 'a';
    for (size_t i = 0; i < pairs; i++) {
        memcpy(text + 1 + 4 * i, above, 2);
        memcpy(text + 1 + 4 * i + 2, below, 2);
    }
    assert_ok(ds_encoder_encode(c.encoder, "marks", text, 1 + 4 * pairs, 0, &ids));
    assert_ok(ds_tokenizer_decode(c.tokenizer, ids.ids, ids.count, 0, &got, &bytes));
    assert_int_equal(bytes, 3 + 2 * (pairs - 1) + 2 * pairs);
    assert_memory_equal(got, joined, 3);
    for (size_t i = 0; i < 2 * pairs - 1; i++)
        assert_memory_equal(got + 3 + 2 * i, i < pairs - 1 ? below : above, 2);
    free(text);
    free(got);
    ds_token_list_fini(&ids);
    tokenizer_close(&c);
}

static void all_bytes_come_back_from_the_byte_tokenizer(void **state)
{
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct ds_token_list ids = {0};
    uint8_t all[512];
    size_t bytes = 0;
    char *text;

    (void)state;
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)(i * 7);
    assert_ok(ds_tokenizer_open(ds_fs_posix(), "bytes", &tokenizer));
    assert_ok(ds_encoder_open(tokenizer, &encoder));
    assert_ok(ds_encoder_encode(encoder, "all", all, sizeof all, DS_ENCODE_TEMPLATE, &ids));
    assert_int_equal(ids.count, sizeof all + 1);
    assert_int_equal(ids.ids[0], 256);
    for (size_t i = 0; i < sizeof all; i++)
        assert_int_equal(ids.ids[i + 1], all[i]);
    assert_ok(
        ds_tokenizer_decode(tokenizer, ids.ids, ids.count, DS_DECODE_SKIP_SPECIAL, &text, &bytes));
    assert_int_equal(bytes, sizeof all);
    assert_memory_equal(text, all, bytes);
    assert_int_equal(ds_tokenizer_id_end(tokenizer), 259);
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(tokenizer);
    assert_true(marks.has_bos && marks.has_eos && marks.has_pad);
    assert_string_equal(ds_tokenizer_token(tokenizer, marks.eos), "<eos>");
    free(text);
    ds_token_list_fini(&ids);
    ds_encoder_close(encoder);
    ds_tokenizer_close(tokenizer);
}

/* ---- text that is not UTF-8 */

static const struct {
    const char *text;
    size_t bytes, wrong_at;
    const char *repaired;
} broken[] = {
#define BROKEN(text, at, repaired)           \
    {                                        \
        text, sizeof(text) - 1, at, repaired \
    }
    BROKEN("abc\xff", 3, "abc\xef\xbf\xbd"),
    BROKEN("0123456789abcdef\x80x", 16, "0123456789abcdef\xef\xbf\xbdx"),
    BROKEN("\xc0\x80", 0, "\xef\xbf\xbd\xef\xbf\xbd"), /* overlong */
    BROKEN("a\xe2\x96", 1, "a\xef\xbf\xbd"),           /* the end is missing */
    BROKEN("\xf0\x9f\x98 b", 0, "\xef\xbf\xbd b"),
    BROKEN("\xed\xa0\x80", 0, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"), /* a surrogate */
    BROKEN("\xf4\x90\x80\x80", 0, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"),
    BROKEN("\xc3\xa9\xc3", 2, "\xc3\xa9\xef\xbf\xbd"),
};

static void what_is_not_utf8_is_refused_with_its_place_or_replaced(void **state)
{
    struct tokenizer_case c;
    struct capture capture;
    char says[64];

    (void)state;
    tokenizer_open(&c, "gpt2");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct ds_token_list ids = {0};
        size_t bytes = 0;
        char *text;

        capture_begin(&capture);
        assert_int_equal(
            ds_encoder_encode(c.encoder, "a.txt", broken[i].text, broken[i].bytes, 0, &ids),
            DS_ERR_DATA);
        snprintf(says, sizeof says, "a.txt: byte %zu (0x", broken[i].wrong_at);
        assert_non_null(strstr(capture_end(&capture), says));
        ids.count = 0;
        assert_ok(ds_encoder_encode(c.encoder, "a.txt", broken[i].text, broken[i].bytes,
                                    DS_ENCODE_REPLACE, &ids));
        assert_ok(ds_tokenizer_decode(c.tokenizer, ids.ids, ids.count, 0, &text, &bytes));
        assert_string_equal(text, broken[i].repaired);
        free(text);
        ds_token_list_fini(&ids);
    }
    tokenizer_close(&c);
}

/* Every text of one and two bytes, and many of four: accepted where some characters make exactly these bytes. */
static int is_utf8(const uint8_t *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        utf8proc_int32_t code;
        uint8_t again[4];
        const utf8proc_ssize_t count =
            utf8proc_iterate(text + at, (utf8proc_ssize_t)(bytes - at), &code);

        if (count <= 0 || utf8proc_encode_char(code, again) != count ||
            memcmp(again, text + at, (size_t)count) != 0)
            return 0;
        at += (size_t)count;
    }
    return 1;
}

static void assert_judged(const struct tokenizer_case *c, const uint8_t *text, size_t bytes)
{
    struct ds_token_list ids = {0};
    const ds_status st = ds_encoder_encode(c->encoder, "bytes", text, bytes, 0, &ids);

    assert_int_equal(st, is_utf8(text, bytes) ? DS_OK : DS_ERR_DATA);
    ds_token_list_fini(&ids);
}

static void a_text_is_taken_where_it_is_utf8_and_nowhere_else(void **state)
{
    const uint64_t seed = test_seed("a_text_is_taken_where_it_is_utf8");
    const int terminal = ds_log.terminal;
    struct tokenizer_case c;

    (void)state;
    tokenizer_open(&c, "gpt2");
    ds_log.terminal = -1;
    for (unsigned i = 0; i < 0x10000; i++) {
        const uint8_t text[2] = {(uint8_t)(i >> 8), (uint8_t)i};
        assert_judged(&c, text, 2);
        assert_judged(&c, text + 1, 1);
    }
    for (uint64_t i = 0; i < 200000;
         i++) { /* first bytes of three and four, then what may follow them */
        const uint64_t word = ds_random_u64(ds_random_of(seed, DS_RANDOM_TEST, 0), i);
        const uint8_t text[4] = {(uint8_t)(0xe0 + word % 24), (uint8_t)(0x70 + (word >> 8) % 96),
                                 (uint8_t)(0x78 + (word >> 16) % 80),
                                 (uint8_t)(0x78 + (word >> 24) % 80)};
        assert_judged(&c, text, 3 + (word >> 40) % 2);
    }
    ds_log.terminal = terminal;
    tokenizer_close(&c);
}

/* ---- control tokens in text */

static void special_tokens_of_plain_text_are_text(void **state)
{
    static const char text[] = "a<|im_start|>b<think>";
    struct tokenizer_case c;
    struct ds_token_list ids = {0}, plain = {0};
    uint32_t start, think;
    size_t bytes;
    char *again;

    (void)state;
    tokenizer_open(&c, "qwen3");
    assert_true(ds_tokenizer_find(c.tokenizer, "<|im_start|>", &start));
    assert_true(ds_tokenizer_find(c.tokenizer, "<think>", &think));
    assert_true(ds_tokenizer_is_special(c.tokenizer, start));
    assert_false(ds_tokenizer_is_special(c.tokenizer, think));
    assert_ok(ds_encoder_encode(c.encoder, "text", text, sizeof text - 1, 0, &ids));
    assert_int_equal(ids.count, 4);
    assert_true(ids.ids[1] == start && ids.ids[3] == think);
    assert_ok(ds_encoder_encode(c.encoder, "text", text, sizeof text - 1, DS_ENCODE_PLAIN, &plain));
    for (size_t i = 0; i < plain.count; i++)
        assert_int_not_equal(plain.ids[i], start);
    assert_int_equal(plain.ids[plain.count - 1], think); /* not special: still a token */
    assert_ok(ds_tokenizer_decode(c.tokenizer, plain.ids, plain.count, 0, &again, &bytes));
    assert_string_equal(again, text);
    free(again);
    ds_token_list_fini(&ids);
    ds_token_list_fini(&plain);
    tokenizer_close(&c);
}

/* What people write is text from end to end where that is asked for, marked special or not. */
static void no_added_token_is_found_in_what_is_text(void **state)
{
    static const char text[] = "a<|im_start|>b <think> c";
    struct ds_token_list ids = {0};
    struct tokenizer_case c;
    char *again = NULL;
    size_t bytes = 0;

    (void)state;
    tokenizer_open(&c, "qwen3");
    assert_ok(ds_encoder_encode(c.encoder, "text", text, sizeof text - 1, DS_ENCODE_TEXT, &ids));
    for (size_t i = 0; i < ids.count; i++)
        assert_true(ids.ids[i] > 2 && ids.ids[i] < 520); /* those of the model alone */
    assert_ok(ds_tokenizer_decode(c.tokenizer, ids.ids, ids.count, 0, &again, &bytes));
    assert_string_equal(again, text);
    free(again);
    ds_token_list_fini(&ids);
    tokenizer_close(&c);
}

static void a_part_of_a_text_begins_none(void **state)
{
    struct ds_token_list whole = {0}, part = {0};
    struct tokenizer_case c;

    (void)state;
    tokenizer_open(&c, "llama2_metaspace"); /* a space comes in front of a text, once */
    assert_ok(ds_encoder_encode(c.encoder, "text", "b", 1, DS_ENCODE_TEXT, &whole));
    assert_ok(
        ds_encoder_encode(c.encoder, "text", "b", 1, DS_ENCODE_TEXT | DS_ENCODE_INNER, &part));
    assert_int_equal(ds_tokenizer_token(c.tokenizer, whole.ids[0])[0], '\xe2');
    assert_string_equal(ds_tokenizer_token(c.tokenizer, part.ids[0]), "b");
    ds_token_list_fini(&whole);
    ds_token_list_fini(&part);
    tokenizer_close(&c);
}

static void the_longest_added_token_in_front_is_found(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
    } cases[] = {{"<think>", 7},  {"<think>ing it", 10},        {"<thin", 0},   {"", 0},
                 {"a<think>", 0}, {"<|endoftext|><think>", 13}, {"<mask> b", 0}};
    struct tokenizer_case c;

    (void)state;
    tokenizer_open(&c, "gpt2");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t id = UINT32_MAX;
        const size_t bytes =
            ds_tokenizer_match_added(c.tokenizer, cases[i].text, strlen(cases[i].text), &id);

        assert_int_equal(bytes, cases[i].bytes);
        if (bytes > 0)
            assert_memory_equal(ds_tokenizer_token(c.tokenizer, id), cases[i].text, bytes);
    }
    tokenizer_close(&c);
}

static void an_id_that_nobody_has_is_refused(void **state)
{
    struct tokenizer_case c;
    uint32_t id;
    size_t bytes;
    char *text;

    (void)state;
    tokenizer_open(&c, "llama2");
    id = ds_tokenizer_id_end(c.tokenizer);
    assert_null(ds_tokenizer_token(c.tokenizer, id));
    assert_int_equal(ds_tokenizer_decode(c.tokenizer, &id, 1, 0, &text, &bytes), DS_ERR_DATA);
    tokenizer_close(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(golden_texts_have_the_golden_ids),
    cmocka_unit_test(any_text_comes_back),
    cmocka_unit_test(a_million_marks_are_normalised_in_time),
    cmocka_unit_test(all_bytes_come_back_from_the_byte_tokenizer),
    cmocka_unit_test(what_is_not_utf8_is_refused_with_its_place_or_replaced),
    cmocka_unit_test(a_text_is_taken_where_it_is_utf8_and_nowhere_else),
    cmocka_unit_test(special_tokens_of_plain_text_are_text),
    cmocka_unit_test(no_added_token_is_found_in_what_is_text),
    cmocka_unit_test(a_part_of_a_text_begins_none),
    cmocka_unit_test(the_longest_added_token_in_front_is_found),
    cmocka_unit_test(an_id_that_nobody_has_is_refused),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
