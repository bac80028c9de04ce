/* digest.h - how stored bytes are recognised: CRC32C, cheap, for what is checked at every read, and XXH3-128,
 * which also says that two pieces are equal. Neither protects against somebody who means harm. pure: everything
 * here, from any thread. */
#ifndef DSTRAIN_DIGEST_H
#define DSTRAIN_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/* The CRC32C of what came before (0 at the start), continued over `bytes` more. */
uint32_t ds_crc32c(uint32_t before, const void *data, size_t bytes);

/* In the order in which XXH128 prints it: most significant byte first. */
struct ds_digest {
    uint8_t bytes[16];
};

#define DS_DIGEST_TEXT_BYTES 33 /* 32 digits of hex, lower case, and a NUL */

struct ds_digest ds_digest_of(const void *data, size_t bytes);
int ds_digest_equal(const struct ds_digest *a, const struct ds_digest *b);
void ds_digest_text(const struct ds_digest *digest, char text[DS_DIGEST_TEXT_BYTES]);
/* exactly 32 lower-case digits of hex; 0: it is not that, `out` is unchanged */
int ds_digest_parse(const char *text, struct ds_digest *out);

#endif
