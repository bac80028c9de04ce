/* text.c - UTF-8, checked and repaired, and the alphabet that byte-level tokenizers write bytes in. */
#include "text.h"

#include <stdlib.h>
#include <string.h>

ds_status tok_buffer_reserve(struct tok_buffer *buffer, size_t bytes)
{
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    uint8_t *more;

    if (bytes <= buffer->capacity - buffer->count)
        return DS_OK;
    while (capacity - buffer->count < bytes)
        capacity += capacity / 2;
    more = realloc(buffer->at, capacity);
    if (!more)
        return ds_fail(DS_ERR_NO_MEMORY, "%zu bytes of text", capacity);
    buffer->at = more;
    buffer->capacity = capacity;
    return DS_OK;
}

ds_status tok_buffer_add(struct tok_buffer *buffer, struct tok_text text)
{
    DS_TRY(tok_buffer_reserve(buffer, text.bytes));
    if (text.bytes > 0)
        memcpy(buffer->at + buffer->count, text.at, text.bytes);
    buffer->count += text.bytes;
    return DS_OK;
}

void tok_buffer_fini(struct tok_buffer *buffer)
{
    free(buffer->at);
    *buffer = (struct tok_buffer){0};
}

/* How long the character at `text` is, 0 where it is none; `*good`: how many of its bytes are right. Which
 * second bytes may follow a first one is what keeps overlong forms and surrogates out. */
static size_t char_bytes(struct tok_text text, size_t *good)
{
    const uint8_t first = text.at[0];
    const size_t need = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint8_t low = 0x80, high = 0xbf;

    *good = 1;
    if (need == 1)
        return 1;
    if (first < 0xc2 || first > 0xf4)
        return 0;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    while (*good < need) {
        if (*good >= text.bytes || text.at[*good] < low || text.at[*good] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
        ++*good;
    }
    return need;
}

/* Eight at a time where all of them are ASCII. */
static size_t skip_ascii(struct tok_text text, size_t at)
{
    while (at + 8 <= text.bytes) {
        uint64_t word;

        memcpy(&word, text.at + at, sizeof word);
        if (word & 0x8080808080808080u)
            break;
        at += 8;
    }
    while (at < text.bytes && text.at[at] < 0x80)
        at++;
    return at;
}

size_t tok_utf8_check(struct tok_text text)
{
    size_t at = skip_ascii(text, 0), good;

    while (at < text.bytes) {
        const size_t bytes = char_bytes((struct tok_text){text.at + at, text.bytes - at}, &good);
        if (bytes == 0)
            return at;
        at = skip_ascii(text, at + bytes);
    }
    return at;
}

ds_status tok_utf8_refuse(const char *name, size_t at, uint8_t byte)
{
    return ds_fail(DS_ERR_DATA,
                   "%s: byte %zu (0x%02x) is not UTF-8; write the text as UTF-8, or have "
                   "data.invalid_utf8 = replace put U+FFFD in its place",
                   name, at, byte);
}

uint32_t tok_utf8_next(struct tok_text text, size_t *at)
{
    const uint8_t *byte = text.at + *at;

    if (byte[0] < 0x80) {
        *at += 1;
        return byte[0];
    }
    if (byte[0] < 0xe0) {
        *at += 2;
        return (uint32_t)(byte[0] & 0x1f) << 6 | (byte[1] & 0x3f);
    }
    if (byte[0] < 0xf0) {
        *at += 3;
        return (uint32_t)(byte[0] & 0x0f) << 12 | (uint32_t)(byte[1] & 0x3f) << 6 |
               (byte[2] & 0x3f);
    }
    *at += 4;
    return (uint32_t)(byte[0] & 0x07) << 18 | (uint32_t)(byte[1] & 0x3f) << 12 |
           (uint32_t)(byte[2] & 0x3f) << 6 | (byte[3] & 0x3f);
}

size_t tok_utf8_put(uint32_t code, uint8_t to[4])
{
    if (code < 0x80) {
        to[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        to[0] = (uint8_t)(0xc0 | code >> 6);
        to[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        to[0] = (uint8_t)(0xe0 | code >> 12);
        to[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        to[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    to[0] = (uint8_t)(0xf0 | code >> 18);
    to[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    to[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    to[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

ds_status tok_utf8_repair(struct tok_text text, struct tok_buffer *to)
{
    static const uint8_t replacement[] = {0xef, 0xbf, 0xbd};

    while (text.bytes > 0) {
        const size_t valid = tok_utf8_check(text);
        size_t good = 0;

        DS_TRY(tok_buffer_add(to, (struct tok_text){text.at, valid}));
        text = (struct tok_text){text.at + valid, text.bytes - valid};
        if (text.bytes == 0)
            break;
        (void)char_bytes(text, &good);
        DS_TRY(tok_buffer_add(to, (struct tok_text){replacement, sizeof replacement}));
        text = (struct tok_text){text.at + good, text.bytes - good};
    }
    return DS_OK;
}

/* Printable bytes stand for themselves; the 68 others, in order, for U+0100 and what follows. */
uint32_t tok_byte_char(uint8_t byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0)
        return 0x121u + (byte - 0x7fu);
    return byte == 0xad ? 0x143 : byte;
}

int tok_char_byte(uint32_t code)
{
    if (code >= 0x100 && code <= 0x120)
        return (int)(code - 0x100);
    if (code >= 0x121 && code <= 0x142)
        return (int)(code - 0x121 + 0x7f);
    if (code == 0x143)
        return 0xad;
    return code <= 0xff && tok_byte_char((uint8_t)code) == code ? (int)code : -1;
}
