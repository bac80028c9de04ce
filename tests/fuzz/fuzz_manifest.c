// link: checkpoint storage base
// private: checkpoint
/* Any text with a good checksum as a manifest: refused, or the one spelling of what was read. */
#include "format/document.h"

#include "dstrain/manifest.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const struct ds_manifest *manifest, const char *text, size_t bytes)
{
    const size_t capacity = ds_manifest_bytes(manifest);
    char *again = malloc(capacity);
    size_t again_bytes = 0;

    DS_ASSERT(again && capacity >= bytes);
    DS_ASSERT(ds_manifest_write(manifest, again, capacity, &again_bytes) == DS_OK);
    DS_ASSERT(again_bytes == bytes && memcmp(again, text, bytes) == 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text text = {.capacity = size + DOCUMENT_SEAL_BYTES};
    struct ds_manifest manifest;

    ds_log.terminal = -1;
    text.at = malloc(text.capacity);
    DS_ASSERT(text.at);
    text_add(&text, (const char *)data, size);
    document_seal(&text);
    ds_status st = ds_manifest_parse("fuzz", text.at, text.bytes, &manifest);
    DS_ASSERT(st == DS_OK || st == DS_ERR_CORRUPT || st == DS_ERR_DATA);
    if (st == DS_OK) {
        check_again(&manifest, text.at, text.bytes);
        ds_manifest_fini(&manifest);
    }
    free(text.at);
    return 0;
}
