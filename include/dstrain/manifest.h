/* manifest.h - the record that makes a set of packs a checkpoint: what was trained, in which tensors, in which files,
 * and where training stood. One JSON document with one spelling and a line with its checksum behind it:
 *
 *   {"format":"dstrain checkpoint","version":1, ...}
 *   {"bytes":"000000001234","xxh3_128":"<32 digits of hex>"}
 *
 * The reader takes that spelling and no other, checks the sum before it reads, and takes memory in proportion to the
 * text. Numbers are below 2^53, what is larger or not whole is a text (floats as %a: the same bits come back).
 * local: everything here, and no file is touched. */
#ifndef DSTRAIN_MANIFEST_H
#define DSTRAIN_MANIFEST_H

#include "dstrain/logical.h"
#include "dstrain/pack.h"

#define DS_MANIFEST_BYTES_MAX  (64u << 20)
#define DS_MANIFEST_PACKS_MAX  262144u
#define DS_MANIFEST_VALUES_MAX 65536u
#define DS_VALUE_BYTES_MAX     4096u

/* ---- named values: where training stands, and what made it so. In order of their names. */

#define DS_VALUE_NAME_BYTES_MAX 127

struct ds_value {
    char name[DS_VALUE_NAME_BYTES_MAX + 1]; /* a-z, 0-9, '_' and '.' */
    char *text;                             /* UTF-8, at most DS_VALUE_BYTES_MAX */
    size_t capacity;
};
struct ds_values { /* all zero: none */
    struct ds_value *items;
    uint32_t count, capacity;
};

/* A name that is there gets the new text, in its old memory if it fits. */
DS_CHECKED ds_status ds_values_set(struct ds_values *values, const char *name, const char *text);
DS_CHECKED ds_status ds_values_set_u64(struct ds_values *values, const char *name, uint64_t number);
DS_CHECKED ds_status ds_values_set_real(struct ds_values *values, const char *name, double number);
const char *ds_values_get(const struct ds_values *values, const char *name); /* NULL: not there */
/* DS_ERR_DATA, "`what`: ...": it is not there, is no such number, or is outside of its limits */
DS_CHECKED ds_status ds_values_u64(const struct ds_values *values, const char *what,
                                   const char *name, uint64_t min, uint64_t max, uint64_t *out);
DS_CHECKED ds_status ds_values_real(const struct ds_values *values, const char *what,
                                    const char *name, double *out);
void ds_values_fini(struct ds_values *values);

/* ---- manifests */

struct ds_manifest_id {
    uint64_t epoch, step;
};
int ds_manifest_id_compare(const struct ds_manifest_id *a, const struct ds_manifest_id *b);

/* How it was spread when it was written: for people, and to see that a reader has the same. */
struct ds_manifest_layout {
    uint32_t replica, shard, cp, pp, ep, tp;
    uint32_t cut; /* elements: where shards may be cut */
};

struct ds_manifest_pack {
    uint32_t dir;       /* data/<dir> */
    int32_t is_damaged; /* seen while it was loaded, not in the text: no new save refers to it */
    struct ds_pack_other pack;
};

struct ds_manifest {
    uint8_t run[16], nonce[16]; /* nonce: of the launch that wrote it */
    struct ds_manifest_id id, parent;
    int has_parent;
    struct ds_manifest_layout layout;
    struct ds_catalogue catalogue;  /* the tensors are the manifest's where it was read */
    struct ds_manifest_pack *packs; /* in order of their ids, those that packs refer to included */
    uint32_t pack_count;
    struct ds_values state;
};

/* in order of epoch, step, rank, part, attempt: what qsort wants */
int ds_manifest_pack_compare(const void *a, const void *b);
/* pure: enough for its text */
size_t ds_manifest_bytes(const struct ds_manifest *manifest);
/* The text with its checksum line. DS_ERR_DATA: something that the reader would refuse. */
DS_CHECKED ds_status ds_manifest_write(const struct ds_manifest *manifest, char *to,
                                       size_t capacity, size_t *bytes);
/* DS_ERR_CORRUPT, one line that begins with `name`: the sum, or what stands where something else should.
 * DS_ERR_DATA: a version that this program does not know. */
DS_CHECKED ds_status ds_manifest_parse(const char *name, const char *text, size_t bytes,
                                       struct ds_manifest *out);
/* frees what parse has taken, or what the caller put there with malloc; of an empty one: nothing */
void ds_manifest_fini(struct ds_manifest *manifest);

#endif
