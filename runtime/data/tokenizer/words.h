/* words.h (private) - the different words of texts, and how often each is there. */
#ifndef DSTRAIN_TOKENIZER_WORDS_H
#define DSTRAIN_TOKENIZER_WORDS_H

#include "text.h"

struct tok_counted {
    uint64_t at, count; /* at: in texts */
    uint32_t bytes;
};
struct tok_words { /* {0}: none */
    /* owns */
    struct tok_counted *words; /* [count], in the order in which they came */
    uint32_t *slots;           /* by the hash of the text: index + 1; [slot_count] */
    struct tok_buffer texts;
    size_t count, capacity, slot_count;
};
DS_CHECKED ds_status tok_words_add(struct tok_words *words, struct tok_text word);
void tok_words_fini(struct tok_words *words);

#endif
