// link: storage base
/* Any bytes as the header of a safetensors file: refused, or entries that hold what the contract says.
 * The first two bytes of an input say how much data the file has behind its header. */
#include "dstrain/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entry(const struct ds_safetensors *file, size_t index, uint64_t *end)
{
    const struct ds_safetensors_entry *entry = ds_safetensors_at(file, index);
    uint64_t elems = 1;

    DS_ASSERT(entry->dim_count <= DS_SAFETENSORS_DIMS_MAX);
    for (uint32_t i = 0; i < entry->dim_count; i++)
        elems *= entry->shape[i];
    DS_ASSERT(entry->elems == elems);
    DS_ASSERT(entry->bytes == elems * ds_dtype_bytes(entry->dtype));
    DS_ASSERT(entry->offset == *end);
    DS_ASSERT(strlen(entry->name) <= 512);
    DS_ASSERT(ds_safetensors_find(file, entry->name) == entry);
    *end += entry->bytes;
}

static void check_metadata(const struct ds_safetensors *file)
{
    const char *key, *value;

    for (size_t i = 0; i < ds_safetensors_metadata_count(file); i++) {
        ds_safetensors_metadata_at(file, i, &key, &value);
        DS_ASSERT(ds_safetensors_metadata(file, key) == value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_safetensors *file = NULL;

    ds_log.terminal = -1;
    if (size < 2)
        return 0;
    uint64_t data_bytes = data[0] | (uint64_t)data[1] << 8;
    uint64_t file_bytes = 8 + (size - 2) + data_bytes, end = file_bytes - data_bytes;
    char *header =
        malloc(size - 2 ? size - 2 : 1); /* a block of its own: reading past its end is seen */
    memcpy(header, data + 2, size - 2);
    ds_status st = ds_safetensors_parse("fuzz", header, size - 2, file_bytes, &file);
    free(header); /* nothing may point into it */
    DS_ASSERT((st == DS_OK) == (file != NULL));
    DS_ASSERT(st == DS_OK || st == DS_ERR_DATA);
    if (file) {
        for (size_t i = 0; i < ds_safetensors_count(file); i++)
            check_entry(file, i, &end);
        DS_ASSERT(end == file_bytes);
        check_metadata(file);
        ds_safetensors_close(file);
    }
    return 0;
}
