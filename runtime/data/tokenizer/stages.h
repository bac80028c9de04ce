/* stages.h (private) - the pre-tokenizer: stages that cut text into words, each in the pieces of the one before. */
#ifndef DSTRAIN_TOKENIZER_STAGES_H
#define DSTRAIN_TOKENIZER_STAGES_H

#include "pattern.h"

#include "dstrain/json.h"

enum { TOK_STAGES_MAX = 8 };

enum tok_stage_kind {
    TOK_STAGE_SPLIT,        /* at matches of a pattern */
    TOK_STAGE_PREFIX_SPACE, /* a space in front where there is none */
    TOK_STAGE_METASPACE,    /* spaces become a visible character, which may be put in front */
};
enum tok_prepend { TOK_PREPEND_NEVER, TOK_PREPEND_FIRST, TOK_PREPEND_ALWAYS };

struct tok_stage {
    enum tok_stage_kind kind;
    int keeps_matches, keeps_gaps; /* SPLIT: which of them are words; others are dropped */
    struct tok_pattern pattern;    /* owned; SPLIT */
    uint8_t space[4];              /* METASPACE */
    size_t space_bytes;
    enum tok_prepend prepend;
    int cuts; /* METASPACE: before each of these */
};
struct tok_stages { /* {0}: all text is one word */
    struct tok_stage stages[TOK_STAGES_MAX];
    size_t count;
    int is_byte_level; /* at their end words become bytes */
};
/* `json` is the "pre_tokenizer" of the file, or NULL */
DS_CHECKED ds_status tok_stages_load(const char *name, const json_t *json, struct tok_stages *out);
void tok_stages_fini(struct tok_stages *stages);

/* Called with each word in turn; the text lives until it returns. */
typedef ds_status tok_word_sink(void *user, struct tok_text word);

struct tok_walk {
    const struct tok_stages *stages;
    struct tok_matcher *matcher;
    struct tok_buffer *scratch; /* [TOK_STAGES_MAX] */
    tok_word_sink *sink;
    void *user;
};
/* `is_start`: the piece begins where the whole text does */
DS_CHECKED ds_status tok_stages_walk(const struct tok_walk *walk, struct tok_text piece,
                                     int is_start);

#endif
