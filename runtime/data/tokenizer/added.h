/* added.h (private) - added tokens: texts that are one token wherever they stand. */
#ifndef DSTRAIN_TOKENIZER_ADDED_H
#define DSTRAIN_TOKENIZER_ADDED_H

#include "normalize.h"
#include "part.h"
#include "vocabulary.h"

struct tok_added {
    struct tok_text text; /* what is looked for; in the set's `texts` */
    uint32_t id;
    int is_special, is_word, strips_left, strips_right;
};
/* Those that are looked for together. */
struct tok_added_set { /* {0}: none */
    /* owns */
    struct tok_added *tokens; /* sorted by text; [count] */
    struct tok_buffer *texts; /* of each; [count] */
    size_t count;
    uint32_t first[257]; /* where those begin whose first byte is this one or a larger one */
};
/* One set is looked for in the text as it is, the other in what the normalizer made of it. */
struct tok_added_sets {
    struct tok_added_set raw, normalized;
    struct tok_pattern word, word_end; /* finds a word that begins, that ends there; owned */
};
/* `json` is "added_tokens" of the file; they join the vocabulary */
DS_CHECKED ds_status tok_added_load(const char *name, const json_t *json,
                                    const struct tok_normalizer *normalizer,
                                    struct tok_vocabulary *vocabulary, struct tok_added_sets *out);
void tok_added_fini(struct tok_added_sets *sets);
/* pure: the longest of a set that `text` begins with, or NULL; flags are not looked at */
const struct tok_added *tok_added_longest(const struct tok_added_set *set, struct tok_text text);

/* The parts of a text in order: a token, or a piece without any (token is NULL). */
typedef ds_status tok_added_sink(void *user, const struct tok_added *token, struct tok_text part,
                                 int is_start);
struct tok_added_walk {
    const struct tok_added_sets *sets;
    const struct tok_added_set *set;
    struct tok_matcher *matcher;
    int leaves_special; /* special tokens are text */
    tok_added_sink *sink;
    void *user;
};
DS_CHECKED ds_status tok_added_walk(const struct tok_added_walk *walk, struct tok_text text,
                                    int is_start);

#endif
