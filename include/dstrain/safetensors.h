/* safetensors.h - the file format of weights: 8 bytes of header length, a JSON header, the data.
 * Knows bytes and shapes only. The reader trusts nothing: every limit is checked before memory is
 * taken, ranges must tile the buffer exactly; data is read with pread, never mapped. local: everything
 * here; what only looks at an open file may be called from several threads. */
#ifndef DSTRAIN_SAFETENSORS_H
#define DSTRAIN_SAFETENSORS_H

#include "dstrain/fs.h"
#include "dstrain/tensor.h"

#define DS_SAFETENSORS_DIMS_MAX 8

struct ds_safetensors_entry {
    const char *name;
    enum ds_dtype dtype;
    uint32_t dim_count;
    uint64_t shape[DS_SAFETENSORS_DIMS_MAX];
    uint64_t elems, bytes;
    uint64_t offset; /* in the file */
};

struct ds_safetensors;

/* local: read and check the header of `path`. DS_ERR_DATA with one line: path, tensor, what is wrong. */
DS_CHECKED ds_status ds_safetensors_open(struct ds_fs *fs, const char *path,
                                         struct ds_safetensors **out);
void ds_safetensors_close(struct ds_safetensors *file); /* NULL is allowed */
size_t ds_safetensors_count(const struct ds_safetensors *file);
/* in order of offsets */
const struct ds_safetensors_entry *ds_safetensors_at(const struct ds_safetensors *file,
                                                     size_t index);
const struct ds_safetensors_entry *ds_safetensors_find(const struct ds_safetensors *file,
                                                       const char *name); /* or NULL */
const char *ds_safetensors_metadata(const struct ds_safetensors *file,
                                    const char *key); /* or NULL */
size_t ds_safetensors_metadata_count(const struct ds_safetensors *file);
void ds_safetensors_metadata_at(const struct ds_safetensors *file, size_t index, const char **key,
                                const char **value);
const char *ds_safetensors_path(const struct ds_safetensors *file);

/* local: `count` elements of an entry, from element `start`, as they are stored */
DS_CHECKED ds_status ds_safetensors_read(const struct ds_safetensors *file,
                                         const struct ds_safetensors_entry *entry, uint64_t start,
                                         uint64_t count, void *to);
/* the same from any float dtype to fp32, by all cores of OpenMP */
DS_CHECKED ds_status ds_safetensors_read_f32(const struct ds_safetensors *file,
                                             const struct ds_safetensors_entry *entry,
                                             uint64_t start, uint64_t count, float *to);
/* local: these elements will be read soon: the disk may begin. A hint, no more. */
void ds_safetensors_will_read(const struct ds_safetensors *file,
                              const struct ds_safetensors_entry *entry, uint64_t start,
                              uint64_t count);
/* local: map the whole file read-only (for token shards, which we wrote); entry data by offset */
DS_CHECKED ds_status ds_safetensors_map(struct ds_safetensors *file, const uint8_t **data);

/* pure: parse a header held in memory, as open does; for tests and the fuzzer */
DS_CHECKED ds_status ds_safetensors_parse(const char *path, const char *header, size_t header_bytes,
                                          uint64_t file_bytes, struct ds_safetensors **out);

/* ---- writing. `path`.tmp is filled in any order and becomes `path` at commit: whole or absent. */
struct ds_safetensors_item {
    const char *name;
    enum ds_dtype dtype;
    uint32_t dim_count;
    uint64_t shape[DS_SAFETENSORS_DIMS_MAX];
};
struct ds_safetensors_writer;

/* `metadata`: key, value, key, value, ..., NULL; "format": "pt" is always there. Items are laid out
 * widest dtype first, then by name. */
DS_CHECKED ds_status ds_safetensors_create(struct ds_fs *fs, const char *path,
                                           const struct ds_safetensors_item *items, size_t count,
                                           const char *const *metadata,
                                           struct ds_safetensors_writer **out);
/* elements start.. of items[index], in the item's dtype. The _f32 form converts (round to nearest). */
DS_CHECKED ds_status ds_safetensors_write(struct ds_safetensors_writer *writer, size_t index,
                                          uint64_t start, uint64_t count, const void *from);
DS_CHECKED ds_status ds_safetensors_write_f32(struct ds_safetensors_writer *writer, size_t index,
                                              uint64_t start, uint64_t count, const float *from);
/* fsync, rename, fsync of the directory. Frees the writer, whatever happens. */
DS_CHECKED ds_status ds_safetensors_commit(struct ds_safetensors_writer *writer);
/* removes .tmp; NULL is allowed */
void ds_safetensors_abandon(struct ds_safetensors_writer *writer);

#endif
