/* test_tokenizer_merges.c - merging by a heap gives what the definition gives, played out step by step. */
// link: data storage base
// private: runtime/data/tokenizer
#include "test.h"

#include "merges.h"

#include "dstrain/random.h"

#include <jansson.h>

enum { LETTERS = 3, MERGES_MAX = 40, WORD_MAX = 60 };

/* Random merges over a few letters, so that they compete; the vocabulary is what they make. */
struct language {
    struct tok_vocabulary vocabulary;
    struct tok_merges merges;
    struct {
        uint32_t left, right, id;
    } rules[MERGES_MAX];
    size_t count;
};

static void make_language(struct language *l, struct ds_random random, uint64_t *drawn)
{
    char texts[LETTERS + MERGES_MAX][32] = {"a", "b", "c"};
    json_t *vocab = json_object(), *merges = json_array();
    size_t token_count = LETTERS;

    *l = (struct language){0};
    for (size_t i = 0; i < LETTERS; i++)
        json_object_set_new(vocab, texts[i], json_integer((json_int_t)i));
    while (l->count < MERGES_MAX) {
        const uint32_t left = (uint32_t)ds_random_below(random, (*drawn)++, token_count);
        const uint32_t right = (uint32_t)ds_random_below(random, (*drawn)++, token_count);
        char made[72], pair[72];

        snprintf(pair, sizeof pair, "%s %s", texts[left], texts[right]);
        snprintf(made, sizeof made, "%s%s", texts[left], texts[right]);
        if (strlen(texts[left]) + strlen(texts[right]) > 20)
            continue;
        const json_t *there = json_object_get(vocab, made); /* made in another way already */
        const uint32_t id = there ? (uint32_t)json_integer_value(there) : (uint32_t)token_count++;
        if (!there) {
            json_object_set_new(vocab, made, json_integer(id));
            memcpy(texts[id], made, strlen(made) + 1);
        }
        json_array_append_new(merges, json_string(pair));
        l->rules[l->count].left = left;
        l->rules[l->count].right = right;
        l->rules[l->count++].id = id;
    }
    assert_ok(tok_vocabulary_load("language", vocab, &l->vocabulary));
    assert_ok(tok_merges_load("language", merges, &l->vocabulary, &l->merges));
    json_decref(vocab);
    json_decref(merges);
}

/* The definition: of all neighbours the pair with the lowest rank, the leftmost of these, until none is left. A
 * pair that is there twice has its later rank. */
static size_t merge_by_definition(const struct language *l, uint32_t *ids, size_t count)
{
    for (;;) {
        size_t best = MERGES_MAX, at = 0;

        for (size_t i = 0; i + 1 < count; i++)
            for (size_t r = MERGES_MAX; r-- > 0;)
                if (l->rules[r].left == ids[i] && l->rules[r].right == ids[i + 1]) {
                    at = r < best ? i : at;
                    best = r < best ? r : best;
                    break;
                }
        if (best == MERGES_MAX)
            return count;
        ids[at] = l->rules[best].id;
        memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof *ids);
        count--;
    }
}

static void a_heap_merges_as_the_definition_does(void **state)
{
    const uint64_t seed = test_seed("a_heap_merges_as_the_definition_does");
    struct tok_word word = {0};

    (void)state;
    for (uint64_t trial = 0; trial < (test_is_long() ? 5000 : 200); trial++) {
        const struct ds_random random = ds_random_of(seed, DS_RANDOM_TEST, trial);
        uint64_t drawn = 0;
        struct language l;

        make_language(&l, random, &drawn);
        for (int i = 0; i < 20; i++) {
            uint32_t ids[WORD_MAX];
            size_t count = 1 + (size_t)ds_random_below(random, drawn++, WORD_MAX), got = 0;

            word.count = 0;
            for (size_t at = 0; at < count; at++) {
                ids[at] = (uint32_t)ds_random_below(random, drawn++, LETTERS);
                assert_ok(tok_word_add(&word, ids[at]));
            }
            count = merge_by_definition(&l, ids, count);
            assert_ok(tok_word_merge(&word, &l.merges));
            for (size_t at = 0; at < word.count; at = word.symbols[at].next) {
                assert_true(got < count);
                assert_int_equal(word.symbols[at].id, ids[got++]);
            }
            assert_int_equal(got, count);
        }
        tok_merges_fini(&l.merges);
        tok_vocabulary_fini(&l.vocabulary);
    }
    tok_word_fini(&word);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(a_heap_merges_as_the_definition_does)};

int main(void)
{
    return cmocka_run_group_tests(tests, NULL, NULL);
}
