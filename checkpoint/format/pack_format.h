/* pack_format.h - a pack's bytes: what the writer, the reader and the check of a whole file share. pure. */
#ifndef CHECKPOINT_PACK_FORMAT_H
#define CHECKPOINT_PACK_FORMAT_H

#include "dstrain/pack.h"

#include "text.h"

#define PACK_BOX_BYTES        136u
#define PACK_ENTRY_BYTES      96u
#define PACK_FOOTER_BYTES     ((size_t)4096)
#define PACK_HEADER_BYTES_MAX (64u << 20)
#define PACK_TENSOR_BYTES_MAX 512u /* of a name in the header */

static inline uint64_t pack_aligned(uint64_t bytes)
{
    return (bytes + DS_PACK_ALIGN - 1) / DS_PACK_ALIGN * DS_PACK_ALIGN;
}

static inline uint64_t pack_boxes_bytes(uint32_t count)
{
    return pack_aligned((uint64_t)count * PACK_BOX_BYTES);
}

static inline uint64_t pack_table_bytes(uint32_t count)
{
    return pack_aligned((uint64_t)count * PACK_ENTRY_BYTES);
}

/* One that was opened. */
struct ds_pack {
    /* owns */
    char *path;
    struct ds_pack_chunk *chunks;
    struct ds_box *boxes;
    int file;         /* -1: bytes without a file */
    const char *flaw; /* of the tail, where nothing is read from; NULL: none */
    /* borrows */
    struct ds_fs *fs;
    char *why; /* [DS_PACK_WHY_BYTES]: what is wrong is put there, and not told; or NULL */
    struct ds_pack_info info;
};

/* pack_look.c: DS_ERR_CORRUPT, DS_ERR_IO */
ds_status pack_refuse(const struct ds_pack *pack, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));
DS_CHECKED ds_status pack_unread(const struct ds_pack *pack, const char *doing, int code);
DS_CHECKED ds_status pack_read_at(const struct ds_pack *pack, void *to, size_t bytes,
                                  uint64_t offset);

static inline int pack_is_here(const struct ds_pack_chunk *chunk)
{
    return chunk->pack == DS_PACK_HERE;
}

/* Is `chunk` the continuation of the run that `before` belongs to? */
int pack_continues(const struct ds_pack_chunk *before, const struct ds_pack_chunk *chunk);

/* The digest of the chunks' digests. */
struct ds_digest pack_content(const struct ds_pack_chunk *chunks, uint32_t count);

int pack_is_zero(const uint8_t *at, size_t bytes);
void pack_box_encode(const struct ds_box *box, uint8_t *to);
/* 0: these bytes are no box as encode writes it; here and below */
int pack_box_decode(const uint8_t *from, struct ds_box *out);
void pack_entry_encode(const struct ds_pack_chunk *chunk, uint8_t *to);
int pack_entry_decode(const uint8_t *from, struct ds_pack_chunk *out);
void pack_footer_encode(const struct ds_pack_info *info, uint8_t *to);
int pack_footer_decode(const uint8_t *from, struct ds_pack_info *out);

/* The first header_bytes of the file: the length, the JSON and spaces. What it says follows from the table; with
 * fewer chunks than there may be it takes less. 0: it does not fit `to`. */
int pack_header_make(const struct ds_pack_info *info, const struct ds_pack_chunk *chunks,
                     const struct ds_box *boxes, const struct ds_catalogue *catalogue, char *to);
/* the most that a chunk adds to it, where it begins a run and a pad follows; 0: its name is too long */
uint64_t pack_header_share(const struct ds_pack_chunk *chunk, const struct ds_box *boxes,
                           const struct ds_catalogue *catalogue);

#endif
