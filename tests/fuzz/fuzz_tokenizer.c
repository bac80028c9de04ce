// link: data storage base
/* fuzz_tokenizer.c - any bytes as a tokenizer.json, and as a text for it: refused with a status, or ids that are
 * there, the same when words are remembered as when they are new, and that can be decoded. The first two bytes
 * of an input say how long its first part is; the lowest bits of the third are the flags. */
#include "dstrain/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_decoded(const struct ds_tokenizer *tokenizer, const struct ds_token_list *ids,
                          uint32_t flags)
{
    char *text = NULL;
    size_t bytes = 0;
    const ds_status st = ds_tokenizer_decode(tokenizer, ids->ids, ids->count, flags, &text, &bytes);

    DS_ASSERT(st == DS_OK || st == DS_ERR_DATA); /* a Replace of a decoder may be refused */
    DS_ASSERT(st != DS_OK || text[bytes] == '\0');
    free(text);
}

static void check_text(const struct ds_tokenizer *tokenizer, const uint8_t *text, size_t bytes,
                       uint32_t flags)
{
    struct ds_token_list first = {0}, again = {0};
    struct ds_encoder *encoder = NULL;

    DS_ASSERT(ds_encoder_open(tokenizer, &encoder) == DS_OK);
    const ds_status st = ds_encoder_encode(encoder, "fuzz", text, bytes, flags, &first);
    DS_ASSERT(st == DS_OK || st == DS_ERR_DATA);
    if (st == DS_OK) {
        DS_ASSERT(ds_encoder_encode(encoder, "fuzz", text, bytes, flags, &again) == DS_OK);
        DS_ASSERT(first.count == again.count);
        for (size_t i = 0; i < first.count; i++) {
            DS_ASSERT(first.ids[i] == again.ids[i]);
            DS_ASSERT(ds_tokenizer_token(tokenizer, first.ids[i]));
        }
        check_decoded(tokenizer, &first, flags & 3);
    }
    ds_token_list_fini(&first);
    ds_token_list_fini(&again);
    ds_encoder_close(encoder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_tokenizer *tokenizer = NULL;

    ds_log.terminal = -1;
    if (size < 3)
        return 0;
    size_t json_bytes = data[0] | (size_t)data[1] << 8;
    json_bytes = json_bytes < size - 3 ? json_bytes : size - 3;
    const uint8_t *text = data + 3 + json_bytes;
    const ds_status st = ds_tokenizer_parse("fuzz", (const char *)data + 3, json_bytes, &tokenizer);
    DS_ASSERT(st == DS_OK || st == DS_ERR_DATA);
    DS_ASSERT((st == DS_OK) == (tokenizer != NULL));
    if (tokenizer)
        check_text(tokenizer, text, (size_t)(data + size - text), data[2] & 31);
    ds_tokenizer_close(tokenizer);
    return 0;
}
