/* vocabulary.h (private) - tokens by id and ids by token: those of the model, and those added to it. */
#ifndef DSTRAIN_TOKENIZER_VOCABULARY_H
#define DSTRAIN_TOKENIZER_VOCABULARY_H

#include "text.h"

#include "dstrain/json.h"

/* An id above it is no token of anyone: a table as large as that would be made for it. */
#define TOK_ID_MAX  ((4u << 20) - 1)
#define TOK_ID_NONE UINT32_MAX

enum tok_token_flag { TOK_IN_MODEL = 1u << 0, TOK_IS_ADDED = 1u << 1, TOK_IS_SPECIAL = 1u << 2 };

struct tok_token {
    uint64_t at;    /* in texts; there is a NUL behind it */
    uint32_t bytes; /* 0: no token has this id */
    uint32_t flags;
};
struct tok_vocabulary { /* {0}: empty */
    /* owns */
    struct tok_token *tokens; /* [id_end] */
    uint32_t *slots;          /* ids by the hash of their text; [slot_mask + 1] */
    struct tok_buffer texts;
    uint32_t id_end, slot_mask;
};
/* The model's tokens, {"text": id}. DS_ERR_DATA: an id twice, out of range, an empty token. */
DS_CHECKED ds_status tok_vocabulary_load(const char *name, const json_t *json,
                                         struct tok_vocabulary *out);
/* Beside them, or one of them. DS_ERR_DATA: the id or the text belongs to another. */
DS_CHECKED ds_status tok_vocabulary_add(const char *name, struct tok_text text, uint32_t id,
                                        uint32_t flags, struct tok_vocabulary *vocabulary);
void tok_vocabulary_fini(struct tok_vocabulary *vocabulary);

/* pure: the text of an id, 0 bytes where there is none */
struct tok_text tok_vocabulary_text(const struct tok_vocabulary *vocabulary, uint32_t id);
/* pure: TOK_ID_NONE where there is no such token */
uint32_t tok_vocabulary_find(const struct tok_vocabulary *vocabulary, struct tok_text text);
/* pure: the same of the model's alone */
uint32_t tok_vocabulary_find_model(const struct tok_vocabulary *vocabulary, struct tok_text text);

#endif
