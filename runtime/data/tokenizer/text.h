/* text.h (private) - pieces of UTF-8 and a buffer to make new ones in. */
#ifndef DSTRAIN_TOKENIZER_TEXT_H
#define DSTRAIN_TOKENIZER_TEXT_H

#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

/* borrowed bytes */
struct tok_text {
    const uint8_t *at;
    size_t bytes;
};

struct tok_buffer { /* {0} is an empty one */
    uint8_t *at;
    size_t count, capacity;
};
/* room for `bytes` more */
DS_CHECKED ds_status tok_buffer_reserve(struct tok_buffer *buffer, size_t bytes);
DS_CHECKED ds_status tok_buffer_add(struct tok_buffer *buffer, struct tok_text text);
void tok_buffer_fini(struct tok_buffer *buffer);

/* pure: where the first byte is that is not UTF-8 (surrogates and overlong forms are not); text.bytes: all is */
size_t tok_utf8_check(struct tok_text text);
/* always DS_ERR_DATA: of the text `name` this byte is not */
DS_CHECKED ds_status tok_utf8_refuse(const char *name, size_t at, uint8_t byte);
/* the code point at `at` of valid text; moves `*at` behind it */
uint32_t tok_utf8_next(struct tok_text text, size_t *at);
/* returns how many bytes it took */
size_t tok_utf8_put(uint32_t code, uint8_t to[4]);
/* valid text into `to`: a U+FFFD for each longest beginning of a character that does not go on, or byte
 * that cannot begin one */
DS_CHECKED ds_status tok_utf8_repair(struct tok_text text, struct tok_buffer *to);

/* The alphabet of byte-level tokenizers: each byte stands for a printable character. */
uint32_t tok_byte_char(uint8_t byte);
int tok_char_byte(uint32_t code); /* -1: none */

#endif
