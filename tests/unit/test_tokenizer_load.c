/* test_tokenizer_load.c - what a tokenizer.json may say: malformed ones, and those that ask for what is not
 * understood, get one line that names the fault; and which tokens begin and end documents. */
// link: data storage base
#include "test.h"

#include "capture.h"

#include "dstrain/tokenizer.h"

#include <unistd.h>

/* A whole one, in parts that cases replace. */
#define MODEL(more)                                                                   \
    "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\\u180e\": 3, " \
    "\"\\u180eb\": 4, "                                                               \
    "\"\\u0301\": 5}, \"merges\": [\"a b\", \"\\u180e b\"]" more "}"
#define TOKENIZER(model, more) "{\"version\": \"1.0\", \"model\": " model more "}"
#define WITH(more)             TOKENIZER(MODEL(""), ", " more)

static const struct {
    const char *says, *json;
} malformed[] = {
    {"t.json:1:", "{"},
    {"must be a JSON object", "[]"},
    {"no 'model'", "{}"},
    {"model 'Unigram' is not supported", "{\"model\": {\"type\": \"Unigram\"}}"},
    {"'vocab' must be an object", "{\"model\": {\"type\": \"BPE\", \"vocab\": []}}"},
    {"'merges' must be a list", "{\"model\": {\"vocab\": {}, \"merges\": {}}}"},
    {"the id of 'a' must be", "{\"model\": {\"vocab\": {\"a\": -1}, \"merges\": []}}"},
    {"the id of 'a' must be", "{\"model\": {\"vocab\": {\"a\": 1e3}, \"merges\": []}}"},
    {"the id of 'a' must be", "{\"model\": {\"vocab\": {\"a\": 4194304}, \"merges\": []}}"},
    {"id 3 is that of 'a' and of 'b'",
     "{\"model\": {\"vocab\": {\"a\": 3, \"b\": 3}, \"merges\": []}}"},
    {"the token with id 3 has 0 bytes", "{\"model\": {\"vocab\": {\"\": 3}, \"merges\": []}}"},
    {"t.json:1:", "{\"model\": {\"vocab\": {\"a\": 3, \"a\": 4}, \"merges\": []}}"},
    {"merges[0] must be", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}}"},
    {"merges[0] must be", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b c\"]}}"},
    {"merges[0] must be", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}}"},
    {"merges[0] must be", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [[\"a\", 1]]}}"},
    {"merges[0] is of a token", "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}"},
    {"merges[0] makes a token",
     "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]}}"},
    {"unk_token 'u' is not in", TOKENIZER(MODEL(", \"unk_token\": \"u\""), "")},
    {"end_of_word_suffix '</w>' is not",
     TOKENIZER(MODEL(", \"end_of_word_suffix\": \"</w>\""), "")},
    {"dropout 0.1 is not", TOKENIZER(MODEL(", \"dropout\": 0.1"), "")},
    {"'byte_fallback' must be true or false", TOKENIZER(MODEL(", \"byte_fallback\": 1"), "")},
    {"normalizer 'Lowercase' is not supported", WITH("\"normalizer\": {\"type\": \"Lowercase\"}")},
    {"a normalizer must be an object", WITH("\"normalizer\": \"NFC\"")},
    {"a normalizer has no 'type'", WITH("\"normalizer\": {}")},
    {"no list 'normalizers'", WITH("\"normalizer\": {\"type\": \"Sequence\"}")},
    {"'prepend' must be a text", WITH("\"normalizer\": {\"type\": \"Prepend\"}")},
    {"'pattern' must be an object", WITH("\"normalizer\": {\"type\": \"Replace\"}")},
    {"pre_tokenizer 'Whitespace' is not", WITH("\"pre_tokenizer\": {\"type\": \"Whitespace\"}")},
    {"behavior 'Contiguous' is not",
     WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Contiguous\"}")},
    {"'Digits' behind ByteLevel", WITH("\"pre_tokenizer\": {\"type\": \"Sequence\", "
                                       "\"pretokenizers\": [{\"type\": \"ByteLevel\"}, "
                                       "{\"type\": \"Digits\"}]}")},
    {"prepend_scheme 'last' is not",
     WITH("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"last\"}")},
    {"'replacement' must be one character",
     WITH("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"__\"}")},
    {"decoder 'WordPiece' is not", WITH("\"decoder\": {\"type\": \"WordPiece\"}")},
    {"post_processor 'BertProcessing' is not",
     WITH("\"post_processor\": {\"type\": \"BertProcessing\"}")},
    {"'single' must be a list", WITH("\"post_processor\": {\"type\": \"TemplateProcessing\"}")},
    {"'single' lacks the text",
     WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}")},
    {"special token 's' has no ids",
     WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
          "{\"id\": \"s\"}}]}")},
    {"no token has the id 9",
     WITH("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": "
          "{\"id\": \"s\"}}, {\"Sequence\": {}}], \"special_tokens\": {\"s\": {\"ids\": [9]}}}")},
    {"'added_tokens' must be a list", WITH("\"added_tokens\": 1")},
    {"an added token must be an object", WITH("\"added_tokens\": [1]")},
    {"added token 'x' has no 'id'", WITH("\"added_tokens\": [{\"content\": \"x\"}]")},
    {"token 'a' has two ids: 0 and 7", WITH("\"added_tokens\": [{\"content\": \"a\", \"id\": 7}]")},
    {"id 1 is that of 'b' and of 'x'", WITH("\"added_tokens\": [{\"content\": \"x\", \"id\": 1}]")},
};

static void a_malformed_file_gets_one_line_that_names_the_fault(void **state)
{
    struct capture capture;

    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        struct ds_tokenizer *tokenizer = NULL;
        const char *said;
        ds_status st;

        capture_begin(&capture);
        st = ds_tokenizer_parse("t.json", malformed[i].json, strlen(malformed[i].json), &tokenizer);
        said = capture_end(&capture);
        if (st != DS_ERR_DATA || tokenizer || !strstr(said, malformed[i].says) ||
            !strstr(said, "t.json") || strchr(said, '\n'))
            fail_msg("case %zu: status %s says '%s', not '%s'", i, ds_status_name(st), said,
                     malformed[i].says);
    }
}

/* ---- regular expressions: what both engines read alike, or not at all */

static const struct {
    const char *says, *regex;
} refused[] = {
    {"this escape at byte 1", "\\\\b"},
    {"this escape at byte 1", "\\\\h"},
    {"this escape at byte 2", "(\\\\1)"},
    {"a class inside a class at byte 2", "[a[b]]"},
    {"an intersection of classes", "[a&&b]"},
    {"a class without an end", "[a"},
    {"this kind of group", "(?<x>a)"},
    {"this kind of group", "(*ACCEPT)"},
    {"this kind of group", "a(?i)b"},
    {"what follows this count", "a{1,3}+"},
    {"'{' that begins no count", "a{,3}"},
    {"this property", "\\\\p{L"},
    {"unknown property", "\\\\p{Nonsense}"},
    {"missing closing parenthesis", "(a"},
    {"this way of writing a character", "\\\\u12"},
};

static void a_pattern_that_would_be_read_otherwise_is_refused(void **state)
{
    struct capture capture;
    char json[512];

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct ds_tokenizer *tokenizer = NULL;
        const char *said;

        snprintf(json, sizeof json,
                 WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", "
                      "\"pattern\": {\"Regex\": \"%s\"}}"),
                 refused[i].regex);
        capture_begin(&capture);
        const ds_status st = ds_tokenizer_parse("t.json", json, strlen(json), &tokenizer);
        said = capture_end(&capture);
        if (st != DS_ERR_DATA || !strstr(said, refused[i].says))
            fail_msg("'%s' says '%s', not '%s'", refused[i].regex, said, refused[i].says);
    }
}

/* A pattern whose words keep "ab" together, in a text with "ab" at its places: cut or not? Each case gives the
 * number of tokens; a token "ab" is there only where no word ends between the two. */
static const struct {
    const char *regex, *text;
    size_t tokens;
} cuts[] = {
    {"x", "abab", 2},
    {"a", "abab", 4},
    {"(?<=a)b", "abab", 4},
    {"x*", "abab", 4}, /* a match of nothing is a cut, too */
    {"a(?!b)", "abab", 2},
    {"(?i:A)", "abab", 4},
    {"\\\\x61|\\\\u0061", "abab", 4},
    {"[^\\\\S]", "abab", 2},
    {"^a", "abab", 3}, /* a | bab -> a, b, ab */
    {"b$", "abab", 3},
    {"\\\\s",
     "a\xe1\xa0\x8e"
     "b",
     2}, /* U+180E is no space any more */
    {"b\\\\w",
     "ab\xcc\x81"
     "ab",
     4}, /* a mark is part of a word: a | b, U+0301 | ab */
};

static void words_end_where_the_pattern_says(void **state)
{
    char json[512];

    (void)state;
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct ds_tokenizer *tokenizer = NULL;
        struct ds_encoder *encoder = NULL;
        struct ds_token_list ids = {0};

        snprintf(json, sizeof json,
                 WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", "
                      "\"pattern\": {\"Regex\": \"%s\"}}"),
                 cuts[i].regex);
        assert_ok(ds_tokenizer_parse("t.json", json, strlen(json), &tokenizer));
        assert_ok(ds_encoder_open(tokenizer, &encoder));
        assert_ok(ds_encoder_encode(encoder, "text", cuts[i].text, strlen(cuts[i].text), 0, &ids));
        if (ids.count != cuts[i].tokens)
            fail_msg("'%s' on '%s': %zu tokens, not %zu", cuts[i].regex, cuts[i].text, ids.count,
                     cuts[i].tokens);
        ds_token_list_fini(&ids);
        ds_encoder_close(encoder);
        ds_tokenizer_close(tokenizer);
    }
}

static void a_pattern_that_takes_for_ever_ends_with_an_error(void **state)
{
    static const char json[] =
        WITH("\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", "
             "\"pattern\": {\"Regex\": \"((a|a)+)+(?:c|d)\"}}");
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct ds_token_list ids = {0};
    char text[64];

    (void)state;
    memset(text, 'a', sizeof text);
    assert_ok(ds_tokenizer_parse("t.json", json, strlen(json), &tokenizer));
    assert_ok(ds_encoder_open(tokenizer, &encoder));
    assert_int_equal(ds_encoder_encode(encoder, "text", text, sizeof text, 0, &ids), DS_ERR_DATA);
    ds_token_list_fini(&ids);
    ds_encoder_close(encoder);
    ds_tokenizer_close(tokenizer);
}

/* ---- a character without a token */

static void a_character_without_a_token_is_refused_by_name(void **state)
{
    static const char json[] = WITH("\"decoder\": null");
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct ds_token_list ids = {0};
    struct capture capture;

    (void)state;
    assert_ok(ds_tokenizer_parse("t.json", json, strlen(json), &tokenizer));
    assert_ok(ds_encoder_open(tokenizer, &encoder));
    capture_begin(&capture);
    assert_int_equal(ds_encoder_encode(encoder, "a.txt", "ab\xc3\xa9", 4, 0, &ids), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "a.txt: the tokenizer has no token for U+00E9"));
    ds_token_list_fini(&ids);
    ds_encoder_close(encoder);
    ds_tokenizer_close(tokenizer);
}

/* ---- the file beside it */

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(ds_fs_write_file(ds_fs_posix(), path, text, strlen(text)));
}

static const struct {
    const char *settings;
    int has_bos, has_eos;
} marks[] = {
    {"{\"bos_token\": \"a\", \"eos_token\": {\"content\": \"ab\"}, \"add_bos_token\": true}", 1, 1},
    {"{\"bos_token\": \"a\", \"eos_token\": \"ab\", \"add_bos_token\": false}", 0, 1},
    {"{\"bos_token\": \"a\", \"eos_token\": \"ab\"}", 0, 1}, /* no template asks for it */
    {"{\"bos_token\": null, \"eos_token\": null}", 0, 0},
};

static void settings_beside_it_say_what_documents_begin_and_end_with(void **state)
{
    char folder[] = "/tmp/dstrain-tokenizer-XXXXXX", path[512];
    struct ds_tokenizer *tokenizer;
    struct capture capture;

    (void)state;
    assert_non_null(mkdtemp(folder));
    write_text(folder, "tokenizer.json", WITH("\"decoder\": null"));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    for (size_t i = 0; i < 2 * (sizeof marks / sizeof *marks); i++) {
        write_text(folder, "tokenizer_config.json", marks[i / 2].settings);
        assert_ok(ds_tokenizer_open(ds_fs_posix(), i % 2 ? path : folder, &tokenizer));
        const struct ds_tokenizer_marks got = ds_tokenizer_marks(tokenizer);
        assert_int_equal(got.has_bos, marks[i / 2].has_bos);
        assert_int_equal(got.has_eos, marks[i / 2].has_eos);
        assert_true(!got.has_bos || got.bos == 0);
        assert_true(!got.has_eos || got.eos == 2);
        ds_tokenizer_close(tokenizer);
    }
    write_text(folder, "tokenizer_config.json", "{\"eos_token\": \"</s>\"}");
    capture_begin(&capture);
    assert_int_equal(ds_tokenizer_open(ds_fs_posix(), folder, &tokenizer), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&capture), "eos_token '</s>' is not in the tokenizer"));
    assert_int_equal(ds_tokenizer_open(ds_fs_posix(), "/nowhere", &tokenizer), DS_ERR_DATA);
    assert_int_equal(ds_fs_remove_tree(ds_fs_posix(), folder), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_malformed_file_gets_one_line_that_names_the_fault),
    cmocka_unit_test(a_pattern_that_would_be_read_otherwise_is_refused),
    cmocka_unit_test(words_end_where_the_pattern_says),
    cmocka_unit_test(a_pattern_that_takes_for_ever_ends_with_an_error),
    cmocka_unit_test(a_character_without_a_token_is_refused_by_name),
    cmocka_unit_test(settings_beside_it_say_what_documents_begin_and_end_with),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
