/* safetensors_private.h - what the parser fills in and the reader uses. */
#ifndef STORAGE_SAFETENSORS_PRIVATE_H
#define STORAGE_SAFETENSORS_PRIVATE_H

#include "dstrain/safetensors.h"

#define SAFETENSORS_HEADER_BYTES_MAX      100000000u
#define SAFETENSORS_TENSORS_MAX           1000000u
#define SAFETENSORS_NAME_BYTES_MAX        512u
#define SAFETENSORS_DESCRIPTION_BYTES_MAX 4096u /* of one tensor's { } in the header */

struct safetensors_pair { /* of the metadata; texts lie in `text` */
    const char *name, *value;
};

/* Positions of names by hash; built once, never grown. */
struct safetensors_names {
    uint32_t *slots; /* owns: index + 1; 0: free */
    size_t slot_count;
    uint64_t seed;
};

struct ds_safetensors {
    /* owns */
    char *path;
    char *text; /* every name and metadata text, one after the other */
    struct ds_safetensors_entry *entries;
    struct safetensors_pair *pairs;
    struct safetensors_names names;
    int file; /* -1: a header without a file */
    const void *mapped;
    /* borrows */
    struct ds_fs *fs;
    size_t count, pair_count;
    uint64_t data_start, file_bytes;
};

/* `name` as it may stand in a message: one line, no control characters, not too long. */
struct safetensors_shown {
    char text[84];
};
struct safetensors_shown safetensors_show(const char *name);

/* The index of `name` among `count` things that begin with a name pointer and lie `stride` bytes apart;
 * `count` where it is not there. */
size_t safetensors_names_find(const struct safetensors_names *names, const void *first,
                              size_t stride, size_t count, const char *name);
/* Takes every name in; `*twice` is the first that comes again, or NULL. 0: out of memory. */
int safetensors_names_build(struct safetensors_names *names, const void *first, size_t stride,
                            size_t count, const char **twice);

#endif
