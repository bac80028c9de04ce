/* digest.c - XXH3-128 and its text. */
#include "dstrain/digest.h"

#include <string.h>
#include <xxhash.h>

struct ds_digest ds_digest_of(const void *data, size_t bytes)
{
    XXH128_canonical_t canonical;
    struct ds_digest digest;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, bytes));
    memcpy(digest.bytes, canonical.digest, sizeof digest.bytes);
    return digest;
}

int ds_digest_equal(const struct ds_digest *a, const struct ds_digest *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

void ds_digest_text(const struct ds_digest *digest, char text[DS_DIGEST_TEXT_BYTES])
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < sizeof digest->bytes; i++) {
        text[2 * i] = digits[digest->bytes[i] >> 4];
        text[2 * i + 1] = digits[digest->bytes[i] & 15];
    }
    text[2 * sizeof digest->bytes] = '\0';
}

static int digit_of(char text)
{
    if (text >= '0' && text <= '9')
        return text - '0';
    return text >= 'a' && text <= 'f' ? text - 'a' + 10 : -1;
}

int ds_digest_parse(const char *text, struct ds_digest *out)
{
    struct ds_digest digest = {{0}};

    for (size_t i = 0; i < 2 * sizeof digest.bytes; i++) {
        int digit = digit_of(text[i]);

        if (digit < 0)
            return 0; /* a text that ends early ends here */
        digest.bytes[i / 2] = (uint8_t)(digest.bytes[i / 2] << 4 | digit);
    }
    if (text[2 * sizeof digest.bytes] != '\0')
        return 0;
    *out = digest;
    return 1;
}
