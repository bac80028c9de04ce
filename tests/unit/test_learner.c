/* test_learner.c - a learned tokenizer has the merges that Hugging Face's library chooses, and those of the definition;
 * what it encodes comes back. */
// link: data storage base
#include "test.h"

#include "capture.h"

#include "dstrain/learner.h"
#include "dstrain/random.h"
#include "dstrain/rows.h"
#include "dstrain/tokenizer.h"

#include <jansson.h>

static json_t *learn(const char *text, size_t bytes, uint32_t vocab_size)
{
    struct ds_learner *learner;
    char *json = NULL;

    assert_ok(ds_learner_open(&learner));
    assert_ok(ds_learner_add(learner, "text", text, bytes, 0));
    assert_ok(ds_learner_learn(learner, vocab_size, NULL, NULL, &json));
    ds_learner_close(learner);
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    free(json);
    return root;
}

/* ---- the same as the library's trainer, on a text with all kinds of characters */

static void the_merges_are_those_of_the_library(void **state)
{
    char path[512], *text = NULL;
    size_t bytes = 0;
    const char *token;
    json_t *id;

    (void)state;
    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/learned/expected.json", DS_SOURCE_DIR);
    json_t *expected = json_load_file(path, 0, NULL);
    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/learned/text.txt", DS_SOURCE_DIR);
    assert_ok(ds_fs_read_file(ds_fs_posix(), path, 1 << 20, &text, &bytes));
    json_t *got =
        learn(text, bytes, (uint32_t)json_integer_value(json_object_get(expected, "vocab_size")));
    const json_t *model = json_object_get(got, "model");
    const json_t *tokens = json_object_get(expected, "tokens");

    assert_true(json_equal(json_object_get(model, "merges"), json_object_get(expected, "merges")));
    assert_int_equal(json_object_size(json_object_get(model, "vocab")), json_array_size(tokens));
    json_object_foreach(json_object_get(model, "vocab"), token, id)
    {
        assert_string_equal(
            token, json_string_value(json_array_get(tokens, (size_t)json_integer_value(id))));
    }
    json_decref(got);
    json_decref(expected);
    free(text);
}

/* ---- the same as the definition, counted anew for each merge. Words are letters, all but the first with a space. */

enum { TEXT_BYTES = 400, WORDS_MAX = TEXT_BYTES, SYMBOL_BYTES = 64 };

struct words {
    char (*symbols)[SYMBOL_BYTES]; /* of all words; "" ends a word */
    size_t count;
};

static void split(const char *text, struct words *words)
{
    words->symbols = calloc(2 * TEXT_BYTES, SYMBOL_BYTES);
    words->count = 0;
    for (size_t i = 0; text[i]; i++) {
        if (text[i] == ' ' && i > 0)
            words->count++; /* "" */
        snprintf(words->symbols[words->count++], SYMBOL_BYTES, "%s",
                 text[i] == ' ' ? "\xc4\xa0" : (char[2]){text[i], '\0'});
    }
    words->count++;
}

static uint32_t id_of(const json_t *vocab, const char *token)
{
    return (uint32_t)json_integer_value(json_object_get(vocab, token));
}

/* How often the pair at `at` is there; the library counts a pair at each place, also where it overlaps itself. */
static size_t count_pair(const struct words *w, size_t at)
{
    size_t count = 0;

    for (size_t i = 0; i + 1 < w->count; i++)
        count += strcmp(w->symbols[i], w->symbols[at]) == 0 &&
                 strcmp(w->symbols[i + 1], w->symbols[at + 1]) == 0;
    return count;
}

static void merge_at(struct words *w, const char *left, const char *right)
{
    char first[SYMBOL_BYTES], second[SYMBOL_BYTES];

    snprintf(first, sizeof first, "%s", left);
    snprintf(second, sizeof second, "%s", right);
    for (size_t i = 0; i + 1 < w->count; i++) {
        if (strcmp(w->symbols[i], first) != 0 || strcmp(w->symbols[i + 1], second) != 0)
            continue;
        strcat(w->symbols[i], second);
        memmove(w->symbols[i + 1], w->symbols[i + 2], (w->count - i - 2) * SYMBOL_BYTES);
        w->count--;
    }
}

/* `w` before a merge: is the merge "left right" the right choice? Returns 0 where nothing is left to choose. */
static int best_pair(const struct words *w, const json_t *vocab, size_t *best)
{
    size_t best_count = 1;

    for (size_t i = 0; i + 1 < w->count; i++) {
        if (!w->symbols[i][0] || !w->symbols[i + 1][0])
            continue;
        const size_t count = count_pair(w, i);
        const uint64_t key =
            (uint64_t)id_of(vocab, w->symbols[i]) << 32 | id_of(vocab, w->symbols[i + 1]);
        const uint64_t best_key = best_count > 1 ? (uint64_t)id_of(vocab, w->symbols[*best]) << 32 |
                                                       id_of(vocab, w->symbols[*best + 1])
                                                 : 0;
        if (count > best_count || (count == best_count && count > 1 && key < best_key)) {
            best_count = count;
            *best = i;
        }
    }
    return best_count > 1;
}

static void the_merges_are_those_of_the_definition(void **state)
{
    const uint64_t seed = test_seed("the_merges_are_those_of_the_definition");

    (void)state;
    for (uint64_t trial = 0; trial < (test_is_long() ? 300 : 15); trial++) {
        const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, trial);
        char text[TEXT_BYTES + 1];
        struct words words;

        for (size_t i = 0; i < TEXT_BYTES; i++) {
            const uint64_t drawn = ds_random_below(random, i, 5);
            text[i] = drawn == 0 && i > 0 && i + 1 < TEXT_BYTES && text[i - 1] != ' '
                          ? ' '
                          : (char)('a' + drawn / 2);
        }
        text[TEXT_BYTES] = '\0';
        json_t *got = learn(text, TEXT_BYTES, 300);
        const json_t *model = json_object_get(got, "model"),
                     *vocab = json_object_get(model, "vocab");
        const json_t *merges = json_object_get(model, "merges");
        size_t at = 0, best = 0;

        split(text, &words);
        for (; at < json_array_size(merges); at++) {
            char wanted[2 * SYMBOL_BYTES + 1];

            assert_true(best_pair(&words, vocab, &best));
            snprintf(wanted, sizeof wanted, "%s %s", words.symbols[best], words.symbols[best + 1]);
            if (strcmp(json_string_value(json_array_get(merges, at)), wanted) != 0)
                fail_msg("trial %llu: merge %zu is '%s', not '%s'", (unsigned long long)trial, at,
                         json_string_value(json_array_get(merges, at)), wanted);
            merge_at(&words, words.symbols[best], words.symbols[best + 1]);
        }
        assert_true(json_object_size(vocab) == 300 || !best_pair(&words, vocab, &best));
        free(words.symbols);
        json_decref(got);
    }
}

/* ---- files */

static void put(struct ds_fs *fs, const char *path, const char *text)
{
    assert_ok(ds_fs_write_file(fs, path, text, strlen(text)));
}

static void learned_from_files_it_ends_documents_and_brings_any_text_back(void **state)
{
    static const char odd[] = "any \xe6\x97\xa5 text\n\n\t<|im_end|> 1234";
    const char *const sources[] = {"in"};
    struct ds_learn_options options = {.sources = sources, .source_count = 1, .vocab_size = 280};
    struct ds_tokenizer *tokenizer;
    struct ds_encoder *encoder;
    struct ds_token_list ids = {0};
    struct ds_fs *fs;
    uint32_t made = 0, id;
    size_t bytes;
    char *text;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    options.fs = fs;
    assert_int_equal(ds_fs_mkdirs(fs, "in", 0755), 0);
    put(fs, "in/a", "the cat the hat the bat");
    put(fs, "in/b", "the cats");
    assert_ok(ds_learn_tokenizer(&options, "out/tokenizer", &made));
    assert_ok(ds_tokenizer_open(fs, "out/tokenizer", &tokenizer));
    assert_int_equal(ds_tokenizer_id_end(tokenizer), made);
    assert_in_range(made, 262, 279); /* fewer than wanted: no other pair is there twice */
    assert_true(ds_tokenizer_find(tokenizer, "\xc4\xa0the", &id));
    const struct ds_tokenizer_marks marks = ds_tokenizer_marks(tokenizer);
    assert_true(!marks.has_bos && marks.has_eos && marks.eos == 0);
    assert_ok(ds_encoder_open(tokenizer, &encoder));
    assert_ok(ds_encoder_encode(encoder, "text", odd, sizeof odd - 1, 0, &ids));
    assert_ok(ds_tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &text, &bytes));
    assert_string_equal(text, odd);
    free(text);
    ds_token_list_fini(&ids);
    ds_encoder_close(encoder);
    ds_tokenizer_close(tokenizer);
    assert_int_equal(ds_fs_sim_open_files(fs), 0);
    ds_fs_sim_close(fs);
}

/* Of rows what they say, not how it is written. */
static void learned_from_rows_it_knows_what_they_say(void **state)
{
    static const char *const sources[] = {"rows.jsonl"};
    const struct ds_rows_options rows = {.line_bytes_max = 1000};
    struct ds_learn_options options = {
        .sources = sources, .source_count = 1, .vocab_size = 400, .rows = &rows};
    struct ds_tokenizer *tokenizer = NULL;
    struct capture log;
    struct ds_fs *fs = NULL;
    uint32_t made = 0, id;

    (void)state;
    assert_ok(ds_fs_sim_open(&fs));
    options.fs = fs;
    put(fs, "rows.jsonl",
        "\xef\xbb\xbf{\"text\":\"alpha alpha\"}\n\n{\"prompt\":\"beta\",\"completion\":\" beta "
        "beta\"}\r\n"
        "{\"messages\":[{\"role\":\"user\",\"content\":\"gamma\"},{\"role\":\"assistant\","
        "\"content\":\"gamma\"}]}");
    assert_ok(ds_learn_tokenizer(&options, "out/rows", &made));
    assert_ok(ds_tokenizer_open(fs, "out/rows", &tokenizer));
    assert_true(ds_tokenizer_find(tokenizer, "gamma", &id));
    assert_true(ds_tokenizer_find(tokenizer,
                                  "\xc4\xa0"
                                  "beta",
                                  &id)); /* with its space */
    assert_false(ds_tokenizer_find(tokenizer, "content", &id));
    assert_false(ds_tokenizer_find(tokenizer, "role", &id));
    ds_tokenizer_close(tokenizer);
    put(fs, "rows.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"a\"}\n");
    capture_begin(&log);
    assert_int_equal(ds_learn_tokenizer(&options, "out/no", &made), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&log), "rows.jsonl:2: a row has 'text'"));
    assert_int_equal(ds_fs_sim_open_files(fs), 0);
    ds_fs_sim_close(fs);
}

static void text_that_is_not_utf8_is_refused_with_its_place(void **state)
{
    struct ds_learner *learner;
    struct capture log;

    (void)state;
    assert_ok(ds_learner_open(&learner));
    capture_begin(&log);
    assert_int_equal(ds_learner_add(learner, "a.txt", "ab\xff", 3, 0), DS_ERR_DATA);
    assert_non_null(strstr(capture_end(&log), "a.txt: byte 2 (0xff) is not UTF-8"));
    assert_ok(ds_learner_add(learner, "a.txt", "ab\xff", 3, 1));
    ds_learner_close(learner);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_merges_are_those_of_the_library),
    cmocka_unit_test(the_merges_are_those_of_the_definition),
    cmocka_unit_test(learned_from_files_it_ends_documents_and_brings_any_text_back),
    cmocka_unit_test(learned_from_rows_it_knows_what_they_say),
    cmocka_unit_test(text_that_is_not_utf8_is_refused_with_its_place),
};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
