/* pairs.c - counts pairs, and keeps the counts right while pairs become tokens. A merge makes only pairs with the
 * new token, all of them at once; counts of others only fall. So each pair is put into the heap once, and again
 * with its smaller count when that turns out to be wrong. */
#include "pairs.h"

#include <stdlib.h>
#include <string.h>

/* ---- lists that grow */

static ds_status grow(void **list, size_t *capacity, size_t wanted, size_t item_bytes)
{
    size_t more = *capacity ? *capacity : 64;
    void *at;

    if (wanted <= *capacity)
        return DS_OK;
    while (more < wanted)
        more *= 2;
    at = realloc(*list, more * item_bytes);
    if (!at)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu pairs of symbols", more);
    *list = at;
    *capacity = more;
    return DS_OK;
}

static size_t slot_of(uint64_t key, size_t slot_count)
{
    return (size_t)((key * 0x9e3779b97f4a7c15u) >> 20) & (slot_count - 1);
}

static ds_status grow_slots(struct tok_pairs *p)
{
    const size_t count = p->slot_count ? p->slot_count * 2 : 1 << 14;
    uint32_t *slots = calloc(count, sizeof *slots);

    if (!slots)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu pairs of symbols", p->count);
    for (size_t i = 0; i < p->count; i++) {
        size_t slot = slot_of(p->pairs[i].key, count);

        while (slots[slot])
            slot = (slot + 1) & (count - 1);
        slots[slot] = (uint32_t)i + 1;
    }
    free(p->slots);
    p->slots = slots;
    p->slot_count = count;
    return DS_OK;
}

/* ---- the heap: the largest count, of equals the lowest key */

static int comes_before(const struct tok_pair_place *a, const struct tok_pair_place *b)
{
    return a->count > b->count || (a->count == b->count && a->key < b->key);
}

static ds_status push(struct tok_pairs *p, uint32_t pair)
{
    const struct tok_pair_place place = {p->pairs[pair].count, p->pairs[pair].key, pair};
    size_t at = p->heap_count;

    DS_TRY(grow((void **)&p->heap, &p->heap_capacity, p->heap_count + 1, sizeof *p->heap));
    p->heap_count++;
    for (; at > 0 && comes_before(&place, &p->heap[(at - 1) / 2]); at = (at - 1) / 2)
        p->heap[at] = p->heap[(at - 1) / 2];
    p->heap[at] = place;
    return DS_OK;
}

static struct tok_pair_place pop(struct tok_pairs *p)
{
    const struct tok_pair_place first = p->heap[0], last = p->heap[--p->heap_count];
    size_t at = 0, child = 1;

    for (; child < p->heap_count; child = 2 * at + 1) {
        child += child + 1 < p->heap_count && comes_before(&p->heap[child + 1], &p->heap[child]);
        if (!comes_before(&p->heap[child], &last))
            break;
        p->heap[at] = p->heap[child];
        at = child;
    }
    p->heap[at] = last;
    return first;
}

/* ---- counting */

static ds_status find_or_add(struct tok_pairs *p, uint64_t key, uint32_t *out)
{
    size_t slot;

    if (p->count * 2 >= p->slot_count)
        DS_TRY(grow_slots(p));
    for (slot = slot_of(key, p->slot_count); p->slots[slot];
         slot = (slot + 1) & (p->slot_count - 1)) {
        *out = p->slots[slot] - 1;
        if (p->pairs[*out].key == key)
            return DS_OK;
    }
    DS_TRY(grow((void **)&p->pairs, &p->capacity, p->count + 1, sizeof *p->pairs));
    p->pairs[p->count] = (struct tok_pair){.key = key};
    *out = (uint32_t)p->count++;
    p->slots[slot] = *out + 1;
    return DS_OK;
}

/* The words of a pair come in order, each once. */
static ds_status note_word(struct tok_pair *pair, uint32_t word)
{
    size_t capacity = pair->word_capacity;

    if (pair->word_count > 0 && pair->words[pair->word_count - 1] == word)
        return DS_OK;
    if (pair->word_count == pair->word_capacity) {
        capacity = capacity ? capacity * 2 : 2;
        uint32_t *more = realloc(pair->words, capacity * sizeof *more);
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "a pair in %zu words", capacity);
        pair->words = more;
        pair->word_capacity = (uint32_t)capacity;
    }
    pair->words[pair->word_count++] = word;
    return DS_OK;
}

static ds_status count_more(struct tok_pairs *p, uint32_t left, uint32_t right, uint32_t word)
{
    uint32_t index;

    DS_TRY(find_or_add(p, (uint64_t)left << 32 | right, &index));
    if (!p->pairs[index].is_fresh) {
        DS_TRY(grow((void **)&p->fresh, &p->fresh_capacity, p->fresh_count + 1, sizeof *p->fresh));
        p->fresh[p->fresh_count++] = index;
        p->pairs[index].is_fresh = 1;
    }
    p->pairs[index].count += (int64_t)p->words->words[word].count;
    return note_word(&p->pairs[index], word);
}

static ds_status count_less(struct tok_pairs *p, uint32_t left, uint32_t right, uint32_t word)
{
    uint32_t index;

    DS_TRY(find_or_add(p, (uint64_t)left << 32 | right, &index));
    p->pairs[index].count -= (int64_t)p->words->words[word].count;
    return DS_OK;
}

static ds_status push_fresh(struct tok_pairs *p)
{
    for (size_t i = 0; i < p->fresh_count; i++) {
        p->pairs[p->fresh[i]].is_fresh = 0;
        if (p->pairs[p->fresh[i]].count > 0)
            DS_TRY(push(p, p->fresh[i]));
    }
    p->fresh_count = 0;
    return DS_OK;
}

/* ---- words as symbols */

static ds_status take_words(struct tok_pairs *p, const uint32_t byte_ids[256])
{
    const struct tok_words *words = p->words;
    uint64_t used = 0;

    p->symbols = malloc((words->texts.count + 1) * sizeof *p->symbols);
    p->starts = malloc((words->count + 1) * sizeof *p->starts);
    p->lengths = malloc((words->count + 1) * sizeof *p->lengths);
    if (!p->symbols || !p->starts || !p->lengths)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu different words", words->count);
    for (size_t i = 0; i < words->count; i++) {
        p->starts[i] = used;
        p->lengths[i] = words->words[i].bytes;
        for (uint32_t k = 0; k < p->lengths[i]; k++)
            p->symbols[used++] = byte_ids[words->texts.at[words->words[i].at + k]];
    }
    return DS_OK;
}

ds_status tok_pairs_init(struct tok_pairs *p, const struct tok_words *words,
                         const uint32_t byte_ids[256])
{
    *p = (struct tok_pairs){.words = words};
    DS_TRY(take_words(p, byte_ids));
    for (uint32_t i = 0; i < words->count; i++)
        for (uint32_t k = 0; k + 1 < p->lengths[i]; k++)
            DS_TRY(
                count_more(p, p->symbols[p->starts[i] + k], p->symbols[p->starts[i] + k + 1], i));
    return push_fresh(p);
}

void tok_pairs_fini(struct tok_pairs *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->pairs[i].words);
    free(p->pairs);
    free(p->slots);
    free(p->heap);
    free(p->fresh);
    free(p->symbols);
    free(p->starts);
    free(p->lengths);
    *p = (struct tok_pairs){0};
}

/* ---- choosing and merging */

ds_status tok_pairs_next(struct tok_pairs *p, int64_t count_min, uint64_t *key, int *is_found)
{
    *is_found = 0;
    while (p->heap_count > 0 && !*is_found) {
        const struct tok_pair_place place = pop(p);

        if (place.count < count_min)
            return DS_OK;
        *is_found = place.count == p->pairs[place.pair].count;
        *key = place.key;
        if (!*is_found && p->pairs[place.pair].count > 0)
            DS_TRY(push(p, place.pair));
    }
    return DS_OK;
}

/* One place of a word: `at` is the left of the two; what is before it has been merged already. */
static ds_status merge_place(struct tok_pairs *p, uint32_t word, uint32_t at, uint32_t id)
{
    uint32_t *symbols = p->symbols + p->starts[word];
    const uint32_t left = symbols[at], right = symbols[at + 1];

    if (at > 0) {
        DS_TRY(count_less(p, symbols[at - 1], left, word));
        DS_TRY(count_more(p, symbols[at - 1], id, word));
    }
    if (at + 2 < p->lengths[word]) {
        DS_TRY(count_less(p, right, symbols[at + 2], word));
        DS_TRY(count_more(p, id, symbols[at + 2], word));
    }
    symbols[at] = id;
    p->lengths[word]--;
    memmove(symbols + at + 1, symbols + at + 2, (p->lengths[word] - at - 1) * sizeof *symbols);
    return DS_OK;
}

static ds_status merge_word(struct tok_pairs *p, uint32_t word, uint64_t key, uint32_t id)
{
    const uint32_t *symbols = p->symbols + p->starts[word];

    for (uint32_t at = 0; at + 1 < p->lengths[word]; at++)
        if (((uint64_t)symbols[at] << 32 | symbols[at + 1]) == key)
            DS_TRY(merge_place(p, word, at, id));
    return DS_OK;
}

ds_status tok_pairs_merge(struct tok_pairs *p, uint64_t key, uint32_t id)
{
    uint32_t index;

    DS_TRY(find_or_add(p, key, &index));
    for (uint32_t i = 0; i < p->pairs[index].word_count; i++)
        DS_TRY(merge_word(p, p->pairs[index].words[i], key, id));
    free(p->pairs[index].words);
    p->pairs[index].words = NULL;
    p->pairs[index].word_count = p->pairs[index].word_capacity = 0;
    p->pairs[index].count = 0;
    return push_fresh(p);
}
