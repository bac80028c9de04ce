/* document.h - what the text files of a checkpoint directory share: one spelling, and a last line with the sum of
 * everything before it. The reader says what has to stand where; so there is no tree in memory, no key that is
 * unknown or there twice, no number with a fraction. */
#ifndef CHECKPOINT_DOCUMENT_H
#define CHECKPOINT_DOCUMENT_H

#include "dstrain/digest.h"
#include "dstrain/status.h"

#include "text.h"

#define DOCUMENT_SEAL_BYTES 71u
#define DOCUMENT_NUMBER_MAX (1ull << 53)

/* Adds the last line. */
void document_seal(struct text *text);
/* Is the last line there and right: then `*body_bytes` stand before it. */
int document_is_whole(const char *text, size_t bytes, size_t *body_bytes);
/* the same; DS_ERR_CORRUPT */
DS_CHECKED ds_status document_check(const char *name, const char *text, size_t bytes,
                                    size_t *body_bytes);
/* `text` in quotes; 0: it is not UTF-8, and nothing is added */
int document_put_string(struct text *to, const char *text);
void document_put_hex(struct text *to, const uint8_t bytes[16]);

struct document {
    const char *name, *start, *at, *end;
};
/* DS_ERR_CORRUPT, "name: byte N: ..." */
ds_status document_refuse(const struct document *doc, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));
/* All of them move behind what they take. */
DS_CHECKED ds_status document_expect(struct document *doc, const char *text);
int document_take(struct document *doc, const char *text); /* 0: something else stands there */
/* a whole number as printf writes it, at most `max` */
DS_CHECKED ds_status document_number(struct document *doc, uint64_t max, uint64_t *out);
/* `key` and then a number */
DS_CHECKED ds_status document_keyed(struct document *doc, const char *key, uint64_t max,
                                    uint64_t *out);
/* a text in quotes of less than `capacity` bytes; UTF-8, escaped as document_put_string does, without NUL */
DS_CHECKED ds_status document_string(struct document *doc, char *to, size_t capacity);
DS_CHECKED ds_status document_hex(struct document *doc, uint8_t bytes[16]);
DS_CHECKED ds_status document_end(const struct document *doc);

#endif
