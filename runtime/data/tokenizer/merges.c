/* merges.c - merges by rank. A word's candidates are in a heap; one that names what is no longer there is
 * passed over when it comes up. */
#include "merges.h"

#include <stdlib.h>
#include <string.h>

/* ---- the table */

static uint64_t slot_of(const struct tok_merges *merges, uint64_t pair)
{
    return (pair * 0x9e3779b97f4a7c15u) >> merges->shift;
}

const struct tok_merge *tok_merges_find(const struct tok_merges *merges, uint32_t left,
                                        uint32_t right)
{
    const uint64_t pair = (uint64_t)left << 32 | right;

    for (uint64_t slot = slot_of(merges, pair); merges->slots[slot].pair != UINT64_MAX;
         slot = (slot + 1) & merges->slot_mask)
        if (merges->slots[slot].pair == pair)
            return &merges->slots[slot];
    return NULL;
}

/* A pair that is there twice has its later rank. */
static void put_merge(struct tok_merges *merges, uint64_t pair, uint32_t rank, uint32_t id)
{
    uint64_t slot = slot_of(merges, pair);

    while (merges->slots[slot].pair != UINT64_MAX && merges->slots[slot].pair != pair)
        slot = (slot + 1) & merges->slot_mask;
    merges->slots[slot] = (struct tok_merge){pair, rank, id};
}

static ds_status make_table(struct tok_merges *merges, size_t count)
{
    uint32_t bits = 6;

    while (((size_t)1 << bits) * 3 < count * 4)
        bits++;
    merges->slots = malloc(sizeof *merges->slots << bits);
    if (!merges->slots)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu merges", count);
    memset(merges->slots, 0xff, sizeof *merges->slots << bits);
    merges->slot_mask = ((uint64_t)1 << bits) - 1;
    merges->shift = 64 - bits;
    return DS_OK;
}

/* ---- from the file */

static ds_status refuse_merge(const char *name, size_t index, const char *what)
{
    return ds_fail(DS_ERR_DATA, "%s: model: merges[%zu] %s", name, index, what);
}

static struct tok_text text_of(const json_t *string)
{
    return (struct tok_text){(const uint8_t *)json_string_value(string),
                             json_string_length(string)};
}

/* "left right", or the two in a list; no token of the first form has a space. */
static int split_merge(const json_t *json, struct tok_text *left, struct tok_text *right)
{
    if (json_is_string(json)) {
        const struct tok_text both = text_of(json);
        const uint8_t *space = both.bytes ? memchr(both.at, ' ', both.bytes) : NULL;

        if (!space || memchr(space + 1, ' ', (size_t)(both.at + both.bytes - space - 1)))
            return 0;
        *left = (struct tok_text){both.at, (size_t)(space - both.at)};
        *right = (struct tok_text){space + 1, both.bytes - left->bytes - 1};
        return 1;
    }
    if (json_array_size(json) != 2 || !json_is_string(json_array_get(json, 0)) ||
        !json_is_string(json_array_get(json, 1)))
        return 0;
    *left = text_of(json_array_get(json, 0));
    *right = text_of(json_array_get(json, 1));
    return 1;
}

static ds_status load_merge(const char *name, const json_t *json, size_t index,
                            const struct tok_vocabulary *vocabulary, struct tok_buffer *scratch,
                            struct tok_merges *out)
{
    struct tok_text left, right;
    uint32_t ids[3];

    if (!split_merge(json, &left, &right))
        return refuse_merge(name, index, "must be \"left right\" or [\"left\", \"right\"]");
    scratch->count = 0;
    DS_TRY(tok_buffer_add(scratch, left));
    DS_TRY(tok_buffer_add(scratch, right));
    ids[0] = tok_vocabulary_find_model(vocabulary, left);
    ids[1] = tok_vocabulary_find_model(vocabulary, right);
    ids[2] = tok_vocabulary_find_model(vocabulary, (struct tok_text){scratch->at, scratch->count});
    if (ids[0] == TOK_ID_NONE || ids[1] == TOK_ID_NONE)
        return refuse_merge(name, index, "is of a token that is not in the vocabulary");
    if (ids[2] == TOK_ID_NONE)
        return refuse_merge(name, index, "makes a token that is not in the vocabulary");
    put_merge(out, (uint64_t)ids[0] << 32 | ids[1], (uint32_t)index, ids[2]);
    return DS_OK;
}

ds_status tok_merges_load(const char *name, const json_t *json,
                          const struct tok_vocabulary *vocabulary, struct tok_merges *out)
{
    const size_t count = json_array_size(json);
    struct tok_buffer scratch = {0};
    ds_status st = DS_OK;

    if (!json_is_array(json))
        return ds_fail(DS_ERR_DATA, "%s: model: 'merges' must be a list", name);
    DS_TRY(make_table(out, count));
    for (size_t i = 0; i < count && st == DS_OK; i++)
        st = load_merge(name, json_array_get(json, i), i, vocabulary, &scratch, out);
    tok_buffer_fini(&scratch);
    return st;
}

void tok_merges_fini(struct tok_merges *merges)
{
    free(merges->slots);
    merges->slots = NULL;
}

/* ---- a word */

ds_status tok_word_add(struct tok_word *word, uint32_t id)
{
    const uint32_t at = (uint32_t)word->count;

    if (word->count == word->capacity) {
        const size_t capacity = word->capacity ? word->capacity * 2 : 64;
        struct tok_symbol *more =
            capacity < UINT32_MAX ? realloc(word->symbols, capacity * sizeof *more) : NULL;
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "a word of %zu symbols", capacity);
        word->symbols = more;
        word->capacity = capacity;
    }
    word->symbols[word->count++] = (struct tok_symbol){id, at + 1, at - 1};
    return DS_OK;
}

static int comes_before(const struct tok_candidate *a, const struct tok_candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

static void push(struct tok_word *word, struct tok_candidate candidate)
{
    size_t at = word->heap_count++;

    while (at > 0 && comes_before(&candidate, &word->heap[(at - 1) / 2])) {
        word->heap[at] = word->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    word->heap[at] = candidate;
}

static struct tok_candidate pop(struct tok_word *word)
{
    const struct tok_candidate first = word->heap[0];
    const struct tok_candidate last = word->heap[--word->heap_count];
    size_t at = 0, child = 1;

    while (child < word->heap_count) {
        if (child + 1 < word->heap_count &&
            comes_before(&word->heap[child + 1], &word->heap[child]))
            child++;
        if (!comes_before(&word->heap[child], &last))
            break;
        word->heap[at] = word->heap[child];
        at = child;
        child = 2 * at + 1;
    }
    word->heap[at] = last;
    return first;
}

/* The symbol at `at` and the one behind it, where they can be merged. */
static void consider(struct tok_word *word, const struct tok_merges *merges, uint32_t at)
{
    const struct tok_symbol *left = &word->symbols[at];
    const struct tok_merge *merge;

    if (left->next == word->count)
        return;
    merge = tok_merges_find(merges, left->id, word->symbols[left->next].id);
    if (merge)
        push(word, (struct tok_candidate){merge->rank, at, merge->id});
}

/* Still the same two? A pair that makes the same token is the same pair: at one place tokens only grow. */
static int is_current(const struct tok_word *word, const struct tok_merges *merges,
                      const struct tok_candidate *candidate)
{
    const struct tok_symbol *left = &word->symbols[candidate->at];
    const struct tok_merge *merge;

    if (left->id == TOK_ID_NONE || left->next == word->count)
        return 0;
    merge = tok_merges_find(merges, left->id, word->symbols[left->next].id);
    return merge && merge->id == candidate->id;
}

static void join(struct tok_word *word, uint32_t at, uint32_t id)
{
    struct tok_symbol *left = &word->symbols[at], *right = &word->symbols[left->next];

    left->id = id;
    left->next = right->next;
    right->id = TOK_ID_NONE;
    if (left->next < word->count)
        word->symbols[left->next].before = at;
}

/* Each symbol brings one candidate at first, each merge at most two. */
static ds_status reserve_heap(struct tok_word *word)
{
    const size_t wanted = word->count * 3;
    struct tok_candidate *more;

    if (wanted <= word->heap_capacity)
        return DS_OK;
    more = realloc(word->heap, wanted * sizeof *more);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "a word of %zu symbols", word->count);
    word->heap = more;
    word->heap_capacity = wanted;
    return DS_OK;
}

ds_status tok_word_merge(struct tok_word *word, const struct tok_merges *merges)
{
    DS_TRY(reserve_heap(word));
    word->heap_count = 0;
    for (size_t at = 0; at < word->count; at++)
        consider(word, merges, (uint32_t)at);
    while (word->heap_count > 0) {
        const struct tok_candidate next = pop(word);

        if (!is_current(word, merges, &next))
            continue;
        join(word, next.at, next.id);
        consider(word, merges, next.at);
        if (next.at > 0)
            consider(word, merges, word->symbols[next.at].before);
    }
    return DS_OK;
}

void tok_word_fini(struct tok_word *word)
{
    free(word->symbols);
    free(word->heap);
    *word = (struct tok_word){0};
}
