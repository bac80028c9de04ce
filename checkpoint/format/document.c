/* document.c - the last line, texts in quotes, numbers, and a cursor that expects them. */
#include "document.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void seal_text(const char *text, size_t bytes, char line[DOCUMENT_SEAL_BYTES + 1])
{
    const struct ds_digest digest = ds_digest_of(text, bytes);
    char hex[DS_DIGEST_TEXT_BYTES];

    ds_digest_text(&digest, hex);
    snprintf(line, DOCUMENT_SEAL_BYTES + 1, "{\"bytes\":\"%012zu\",\"xxh3_128\":\"%s\"}\n",
             bytes % 1000000000000u, hex);
}

void document_seal(struct text *text)
{
    char line[DOCUMENT_SEAL_BYTES + 1];

    seal_text(text->at, text->bytes, line);
    text_add(text, line, DOCUMENT_SEAL_BYTES);
}

int document_is_whole(const char *text, size_t bytes, size_t *body_bytes)
{
    char line[DOCUMENT_SEAL_BYTES + 1];

    if (bytes <= DOCUMENT_SEAL_BYTES)
        return 0;
    seal_text(text, bytes - DOCUMENT_SEAL_BYTES, line);
    if (memcmp(text + bytes - DOCUMENT_SEAL_BYTES, line, DOCUMENT_SEAL_BYTES) != 0)
        return 0;
    *body_bytes = bytes - DOCUMENT_SEAL_BYTES;
    return 1;
}

ds_status document_check(const char *name, const char *text, size_t bytes, size_t *body_bytes)
{
    if (document_is_whole(text, bytes, body_bytes))
        return DS_OK;
    if (bytes <= DOCUMENT_SEAL_BYTES)
        return ds_fail(DS_ERR_CORRUPT, "%s: %zu bytes: too short", name, bytes);
    return ds_fail(DS_ERR_CORRUPT, "%s: it fails its checksum", name);
}

/* ---- UTF-8: bytes of the character that begins here, 0: none does */

static size_t character_bytes(const char *text, size_t left)
{
    const unsigned char *at = (const unsigned char *)text;
    const size_t bytes = at[0] < 0x80                    ? 1
                         : at[0] >= 0xc2 && at[0] < 0xe0 ? 2
                         : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
                         : at[0] >= 0xf0 && at[0] < 0xf5 ? 4
                                                         : 0;

    if (bytes == 0 || bytes > left)
        return 0;
    for (size_t i = 1; i < bytes; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) || /* surrogates */
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90))
        return 0;
    return bytes;
}

static int is_utf8(const char *text)
{
    size_t left = strlen(text), bytes = 1;

    for (; left > 0 && bytes > 0; text += bytes, left -= bytes)
        bytes = character_bytes(text, left);
    return bytes > 0;
}

int document_put_string(struct text *to, const char *text)
{
    if (!is_utf8(text))
        return 0;
    text_add(to, "\"", 1);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            text_put(to, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            text_put(to, "\\u%04x", (unsigned)*text);
        else
            text_add(to, text, 1);
    }
    text_add(to, "\"", 1);
    return 1;
}

void document_put_hex(struct text *to, const uint8_t bytes[16])
{
    struct ds_digest digest;
    char hex[DS_DIGEST_TEXT_BYTES];

    memcpy(digest.bytes, bytes, sizeof digest.bytes);
    ds_digest_text(&digest, hex);
    text_put(to, "\"%s\"", hex);
}

/* ---- reading */

ds_status document_refuse(const struct document *doc, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return ds_fail(DS_ERR_CORRUPT, "%s: byte %zu: %s", doc->name, (size_t)(doc->at - doc->start),
                   text);
}

int document_take(struct document *doc, const char *text)
{
    const size_t bytes = strlen(text);

    if ((size_t)(doc->end - doc->at) < bytes || memcmp(doc->at, text, bytes) != 0)
        return 0;
    doc->at += bytes;
    return 1;
}

ds_status document_expect(struct document *doc, const char *text)
{
    if (document_take(doc, text))
        return DS_OK;
    return document_refuse(doc, "'%s' should stand here", *text == '\n' ? text + 1 : text);
}

ds_status document_number(struct document *doc, uint64_t max, uint64_t *out)
{
    const char *first = doc->at;
    uint64_t number = 0;

    for (; doc->at < doc->end && *doc->at >= '0' && *doc->at <= '9' && doc->at - first < 17;
         doc->at++)
        number = number * 10 + (uint64_t)(*doc->at - '0');
    if (doc->at == first || (*first == '0' && doc->at - first > 1) || number > max ||
        number > DOCUMENT_NUMBER_MAX)
        return document_refuse(doc, "no whole number up to %" PRIu64,
                               max < DOCUMENT_NUMBER_MAX ? max : (uint64_t)DOCUMENT_NUMBER_MAX);
    *out = number;
    return DS_OK;
}

ds_status document_keyed(struct document *doc, const char *key, uint64_t max, uint64_t *out)
{
    DS_TRY(document_expect(doc, key));
    return document_number(doc, max, out);
}

/* \", \\ or \u00xx with what no text may have as it is; 0: none of them */
static size_t unescape(const struct document *doc, char *to)
{
    const char *at = doc->at;
    unsigned value = 0;
    char again[8];

    if (doc->end - at >= 2 && (at[1] == '"' || at[1] == '\\')) {
        *to = at[1];
        return 2;
    }
    if (doc->end - at < 6)
        return 0;
    for (value = 1; value < 0x20; value++) { /* there are not many, nor are they frequent */
        snprintf(again, sizeof again, "\\u%04x", value);
        if (memcmp(at, again, 6) == 0)
            break;
    }
    *to = (char)value;
    return value < 0x20 ? 6 : 0;
}

ds_status document_string(struct document *doc, char *to, size_t capacity)
{
    size_t bytes = 0;

    DS_TRY(document_expect(doc, "\""));
    while (doc->at < doc->end && *doc->at != '"') {
        char one = '\0';
        const int is_escape = *doc->at == '\\';
        const size_t taken = is_escape ? unescape(doc, &one)
                             : (unsigned char)*doc->at < 0x20
                                 ? 0
                                 : character_bytes(doc->at, (size_t)(doc->end - doc->at));
        const size_t added = is_escape ? 1 : taken;

        if (taken == 0)
            return document_refuse(doc, "no text in UTF-8 as it is written here");
        if (bytes + added >= capacity)
            return document_refuse(doc, "a text of more than %zu bytes", capacity - 1);
        memcpy(to + bytes, is_escape ? &one : doc->at, added);
        bytes += added;
        doc->at += taken;
    }
    to[bytes] = '\0';
    return document_expect(doc, "\"");
}

ds_status document_hex(struct document *doc, uint8_t bytes[16])
{
    char text[DS_DIGEST_TEXT_BYTES];
    struct ds_digest digest;

    DS_TRY(document_string(doc, text, sizeof text));
    if (!ds_digest_parse(text, &digest))
        return document_refuse(doc, "32 digits of hex should stand before this");
    memcpy(bytes, digest.bytes, sizeof digest.bytes);
    return DS_OK;
}

ds_status document_end(const struct document *doc)
{
    return doc->at == doc->end ? DS_OK : document_refuse(doc, "nothing more should stand here");
}
