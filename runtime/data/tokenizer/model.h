/* model.h (private) - a tokenizer: its parts as they were read, const from then on. */
#ifndef DSTRAIN_TOKENIZER_MODEL_H
#define DSTRAIN_TOKENIZER_MODEL_H

#include "added.h"
#include "merges.h"
#include "stages.h"

#include "dstrain/tokenizer.h"

/* How a word becomes symbols, and symbols tokens. */
struct tok_bpe {
    struct tok_merges merges;
    uint32_t bytes
        [256]; /* ids of single bytes, or TOK_ID_NONE: of byte-level's alphabet, else of <0xHH> */
    uint32_t unknown;  /* or TOK_ID_NONE */
    int falls_back;    /* a character that is no token becomes its bytes */
    int fuses_unknown; /* neighbours of that kind become one */
    int tries_whole;   /* a word that is a token is that token, whatever merges say */
    int cuts_at_spaces; /* no merge goes across the place in front of a U+2581 behind another character */
};

enum { TOK_DECODE_STEPS_MAX = 8 };
enum tok_decode_kind {
    TOK_DECODE_BYTE_LEVEL,
    TOK_DECODE_REPLACE,
    TOK_DECODE_BYTE_FALLBACK,
    TOK_DECODE_FUSE,
    TOK_DECODE_STRIP,
    TOK_DECODE_METASPACE,
};
struct tok_decode_step {
    enum tok_decode_kind kind;
    struct tok_pattern pattern; /* REPLACE; owned, both */
    struct tok_buffer content;  /* REPLACE: by this */
    uint32_t code;              /* STRIP, METASPACE */
    uint32_t start, stop;       /* STRIP: how many of it at most */
    int drops_first;            /* METASPACE: those of the first token */
};
struct tok_decoder {
    struct tok_decode_step steps[TOK_DECODE_STEPS_MAX];
    size_t count;
    int is_there; /* without one, tokens are joined by spaces */
};

struct ds_tokenizer {
    int is_bytes; /* the byte tokenizer: its encoder and decoder read nothing else of this */
    struct tok_vocabulary vocabulary;
    struct tok_added_sets added;
    struct tok_normalizer normalizer;
    struct tok_stages stages;
    struct tok_bpe bpe;
    struct tok_decoder decoder;
    struct ds_token_list before, after; /* what the template puts around a text */
    struct ds_tokenizer_marks marks;
    uint64_t fingerprint;
};

/* Parts of loading. `json` is what the file has under that name, or NULL. */
DS_CHECKED ds_status tok_bpe_load(const char *name, const json_t *json,
                                  struct ds_tokenizer *tokenizer);
DS_CHECKED ds_status tok_decoder_load(const char *name, const json_t *json,
                                      struct tok_decoder *out);
void tok_decoder_fini(struct tok_decoder *decoder);
DS_CHECKED ds_status tok_template_load(const char *name, const json_t *json,
                                       struct ds_tokenizer *tokenizer);
/* tokenizer_config.json: which tokens are bos, eos, pad, and whether a text begins with bos */
DS_CHECKED ds_status tok_settings_load(const char *name, const json_t *json,
                                       struct ds_tokenizer *tokenizer);

#endif
