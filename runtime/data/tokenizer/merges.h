/* merges.h (private) - byte pair encoding of one word: which neighbours become one token, and in which order. */
#ifndef DSTRAIN_TOKENIZER_MERGES_H
#define DSTRAIN_TOKENIZER_MERGES_H

#include "vocabulary.h"

struct tok_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: nobody */
    uint32_t rank, id;
};
struct tok_merges {          /* a table by the hash of the pair */
    struct tok_merge *slots; /* owned */
    uint64_t slot_mask;
    uint32_t shift;
};
/* `json`: a list of "left right" or ["left", "right"], in the order of their ranks */
DS_CHECKED ds_status tok_merges_load(const char *name, const json_t *json,
                                     const struct tok_vocabulary *vocabulary,
                                     struct tok_merges *out);
void tok_merges_fini(struct tok_merges *merges);
/* pure: NULL: these two do not merge */
const struct tok_merge *tok_merges_find(const struct tok_merges *merges, uint32_t left,
                                        uint32_t right);

/* The symbols of a word, and what could be merged next; one thread's. {0} is an empty one. */
struct tok_symbol {
    uint32_t id, next, before; /* id: TOK_ID_NONE where it became part of the one before */
};
struct tok_candidate {
    uint32_t rank, at, id;
};
struct tok_word {
    struct tok_symbol *symbols;
    struct tok_candidate *heap;
    size_t count, capacity, heap_count, heap_capacity;
};
DS_CHECKED ds_status tok_word_add(struct tok_word *word, uint32_t id);
/* Merges until nothing can be: the lowest rank first, the leftmost of equals. The tokens are then
 * symbols[0] and what follows it by `next` until that is `count`. */
DS_CHECKED ds_status tok_word_merge(struct tok_word *word, const struct tok_merges *merges);
void tok_word_fini(struct tok_word *word);

#endif
