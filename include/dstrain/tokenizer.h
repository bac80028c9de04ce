/* tokenizer.h - text to token ids and back, as a Hugging Face tokenizer.json says it: the same ids, token by
 * token. Understood are models of type BPE (byte-level as GPT-2, Llama-3, Qwen and DeepSeek have it; with
 * U+2581 for spaces and byte fallback as Llama-2 has it), their normalizers, pre-tokenizers, added tokens,
 * templates and decoders. What is not understood is refused by name: text is never tokenised almost right.
 * `truncation` and `padding` are left to whoever makes batches. Characters that Unicode has added since 14 may have
 * other classes and normal forms here than there: that depends on the versions of PCRE2 and utf8proc.
 *
 * local: everything here; ranks share files, not tokenizers. A tokenizer is const once it is open and serves
 * any number of threads; an encoder is one thread's. */
#ifndef DSTRAIN_TOKENIZER_H
#define DSTRAIN_TOKENIZER_H

#include "dstrain/fs.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

/* ---- a tokenizer */
struct ds_tokenizer;

/* `path` is "bytes" (256 bytes, then bos, eos, pad: any bytes are text, nothing is searched in it), a
 * tokenizer.json, or a folder that has one. tokenizer_config.json beside it says which tokens are bos, eos
 * and pad. DS_ERR_DATA with one line where it is malformed, asks for what is not understood or is larger
 * than 256 MiB. */
DS_CHECKED ds_status ds_tokenizer_open(struct ds_fs *fs, const char *path,
                                       struct ds_tokenizer **out);
/* the same of a text in memory, which begins messages as `name`; no bos, eos or pad but the template's */
DS_CHECKED ds_status ds_tokenizer_parse(const char *name, const char *json, size_t bytes,
                                        struct ds_tokenizer **out);
/* no encoder may use it any more; NULL is allowed */
void ds_tokenizer_close(struct ds_tokenizer *tokenizer);

/* pure, all of these. The largest id + 1: there may be holes. */
uint32_t ds_tokenizer_id_end(const struct ds_tokenizer *tokenizer);
/* changes when ids of any text could */
uint64_t ds_tokenizer_fingerprint(const struct ds_tokenizer *tokenizer);
/* the token as the file writes it, NUL-terminated; NULL: no token has this id */
const char *ds_tokenizer_token(const struct ds_tokenizer *tokenizer, uint32_t id);
/* 0: there is no such token */
int ds_tokenizer_find(const struct ds_tokenizer *tokenizer, const char *token, uint32_t *id);
/* added tokens that are marked special: control, not text */
int ds_tokenizer_is_special(const struct ds_tokenizer *tokenizer, uint32_t id);
/* The longest added token that a text begins with; one that wants to swallow spaces around it, or to stand alone
 * as a word, is none. Returns how many bytes it takes, 0: there is none. */
size_t ds_tokenizer_match_added(const struct ds_tokenizer *tokenizer, const void *text,
                                size_t bytes, uint32_t *id);

/* Where documents begin and end. bos is there only where the tokenizer wants it in front of a text. */
struct ds_tokenizer_marks {
    int has_bos, has_eos, has_pad;
    uint32_t bos, eos, pad;
};
struct ds_tokenizer_marks ds_tokenizer_marks(const struct ds_tokenizer *tokenizer);

/* ---- ids: a list that grows; begins as {0} and belongs to the caller */
struct ds_token_list {
    uint32_t *ids;
    size_t count, capacity;
};
DS_CHECKED ds_status ds_token_list_add(struct ds_token_list *list, uint32_t id);
void ds_token_list_fini(struct ds_token_list *list);

/* ---- encoding */
enum ds_encode_flag {
    DS_ENCODE_TEMPLATE = 1u << 0, /* with what the template puts around a text (bos) */
    DS_ENCODE_PLAIN = 1u << 1,    /* special tokens that stand in the text are text, too: of people
                                   * who must not write control tokens */
    DS_ENCODE_REPLACE = 1u << 2,  /* what is not UTF-8 becomes U+FFFD instead of an error */
    DS_ENCODE_TEXT = 1u << 3,     /* no added token is looked for, special or not */
    DS_ENCODE_INNER = 1u << 4,    /* a part of a text: something stands in front of it */
};
struct ds_encoder;
DS_CHECKED ds_status ds_encoder_open(const struct ds_tokenizer *tokenizer, struct ds_encoder **out);
void ds_encoder_close(struct ds_encoder *encoder); /* NULL is allowed */
/* Adds the ids of `text`. DS_ERR_DATA names `name` and the offset of a byte that is not UTF-8, or of what
 * no token is there for. A text is encoded as a whole, since any part may depend on the next: its memory
 * is the text's, once more where it is normalised. After a failure `out` may have some of its ids. */
DS_CHECKED ds_status ds_encoder_encode(struct ds_encoder *encoder, const char *name,
                                       const void *text, size_t bytes, uint32_t flags,
                                       struct ds_token_list *out);

/* The same of a long text: whenever a few thousand ids have come together `drain` may take them out of the list;
 * those behind the last call are left in it. */
typedef ds_status ds_token_drain(void *user, struct ds_token_list *list);
DS_CHECKED ds_status ds_encoder_stream(struct ds_encoder *encoder, const char *name,
                                       const void *text, size_t bytes, uint32_t flags,
                                       ds_token_drain *drain, void *user,
                                       struct ds_token_list *out);

/* ---- decoding */
enum ds_decode_flag {
    DS_DECODE_SKIP_SPECIAL = 1u << 0,
    DS_DECODE_REPLACE =
        1u << 1, /* bytes that are not UTF-8 become U+FFFD, as they do elsewhere; without
                                  * it they are as they were encoded */
};
/* malloc'ed, with a NUL behind it. DS_ERR_DATA: there is no such id. */
DS_CHECKED ds_status ds_tokenizer_decode(const struct ds_tokenizer *tokenizer, const uint32_t *ids,
                                         size_t count, uint32_t flags, char **text, size_t *bytes);

#endif
