/* pairs.h (private) - the neighbours in counted words, and which of them becomes a token next. */
#ifndef DSTRAIN_TOKENIZER_PAIRS_H
#define DSTRAIN_TOKENIZER_PAIRS_H

#include "words.h"

struct tok_pair {
    uint64_t key; /* left << 32 | right */
    int64_t count;
    uint32_t *words; /* that it has been in; owned */
    uint32_t word_count, word_capacity;
    uint32_t is_fresh; /* made by the merge in progress */
};
struct tok_pair_place {
    int64_t count; /* of when it was put into the heap; it only becomes smaller */
    uint64_t key;
    uint32_t pair;
};
struct tok_pairs { /* {0}: none */
    /* owns */
    struct tok_pair *pairs;
    uint32_t *slots; /* index + 1 */
    struct tok_pair_place *heap;
    uint32_t *fresh;   /* indices */
    uint32_t *symbols; /* of all words, one behind the other */
    uint64_t *starts;  /* [word_count] */
    uint32_t *lengths; /* [word_count]: in symbols, fewer with each merge */
    size_t count, capacity, slot_count, heap_count, heap_capacity, fresh_count, fresh_capacity;
    /* borrows */
    const struct tok_words *words;
};
/* `byte_ids`: the symbol of each byte */
DS_CHECKED ds_status tok_pairs_init(struct tok_pairs *pairs, const struct tok_words *words,
                                    const uint32_t byte_ids[256]);
void tok_pairs_fini(struct tok_pairs *pairs);
/* The pair that is there most often, of equals the one with the lowest ids; 0: none is there `count_min` times. It
 * is not offered again. */
DS_CHECKED ds_status tok_pairs_next(struct tok_pairs *pairs, int64_t count_min, uint64_t *key,
                                    int *is_found);
/* Every place where the pair just offered is becomes `id`. */
DS_CHECKED ds_status tok_pairs_merge(struct tok_pairs *pairs, uint64_t key, uint32_t id);

#endif
