/* words.c - a table of words that grows. */
#include "words.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { WORDS_MAX = 1 << 30 };

static size_t slot_of(struct tok_text word, size_t slot_count)
{
    return (size_t)XXH3_64bits(word.at, word.bytes) & (slot_count - 1);
}

static ds_status grow_slots(struct tok_words *w)
{
    const size_t count = w->slot_count ? w->slot_count * 2 : 1 << 16;
    uint32_t *slots = calloc(count, sizeof *slots);

    if (!slots)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu different words", w->count);
    for (size_t i = 0; i < w->count; i++) {
        const struct tok_text word = {w->texts.at + w->words[i].at, w->words[i].bytes};
        size_t slot = slot_of(word, count);

        for (; slots[slot]; slot = (slot + 1) & (count - 1)) {
        }
        slots[slot] = (uint32_t)i + 1;
    }
    free(w->slots);
    w->slots = slots;
    w->slot_count = count;
    return DS_OK;
}

static ds_status add_new(struct tok_words *w, struct tok_text word, size_t slot)
{
    if (w->count == w->capacity) {
        const size_t capacity = w->capacity ? w->capacity * 2 : 1 << 12;
        struct tok_counted *more =
            capacity < WORDS_MAX ? realloc(w->words, capacity * sizeof *more) : NULL;
        if (!more)
            return ds_fail(DS_ERR_NO_MEMORY, "%zu different words", capacity);
        w->words = more;
        w->capacity = capacity;
    }
    w->words[w->count] = (struct tok_counted){w->texts.count, 1, (uint32_t)word.bytes};
    DS_TRY(tok_buffer_add(&w->texts, word));
    w->slots[slot] = (uint32_t)++w->count;
    return DS_OK;
}

ds_status tok_words_add(struct tok_words *w, struct tok_text word)
{
    size_t slot;

    if (word.bytes > INT32_MAX)
        return ds_fail(DS_ERR_DATA, "a word of %zu bytes", word.bytes);
    if (w->count * 2 >= w->slot_count)
        DS_TRY(grow_slots(w));
    for (slot = slot_of(word, w->slot_count); w->slots[slot];
         slot = (slot + 1) & (w->slot_count - 1)) {
        struct tok_counted *there = &w->words[w->slots[slot] - 1];

        if (there->bytes == word.bytes &&
            memcmp(w->texts.at + there->at, word.at, word.bytes) == 0) {
            there->count++;
            return DS_OK;
        }
    }
    return add_new(w, word, slot);
}

void tok_words_fini(struct tok_words *w)
{
    free(w->words);
    free(w->slots);
    tok_buffer_fini(&w->texts);
    *w = (struct tok_words){0};
}
