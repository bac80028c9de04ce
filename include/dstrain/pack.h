/* pack.h - one rank's part of a checkpoint in one file: a valid safetensors file whose tensors lie at multiples of
 * 4 KiB, with a table of its chunks and a footer. We read footer, table, chunks; the safetensors header is for other
 * tools. Whoever names a pack holds the digest of its footer; the footer holds the digests of header, boxes and
 * table; the table holds the sums of the chunks: no byte is vouched for by its neighbour.
 *
 *   0        u64 N, N = k * 4096 - 8           numbers are little-endian
 *   8        JSON, spaces up to N              made from the table: it says nothing that the table does not
 *   8 + N    run | pad | run | ...             a run: chunks that follow one another in a box
 *            __dstrain__.boxes   U8 [n, 136]   what tensor ranks cut out; a pad
 *            __dstrain__.table   U8 [n, 96]    a pad
 *            __dstrain__.footer  U8 [2, 4096]  twice the same
 *
 * A chunk is 4 MiB of a piece, counted from the piece's beginning; the last may be less. One that has not changed
 * since an earlier save refers to where it lies. local: everything here. */
#ifndef DSTRAIN_PACK_H
#define DSTRAIN_PACK_H

#include "dstrain/digest.h"
#include "dstrain/fs.h"
#include "dstrain/logical.h"
#include "dstrain/storage.h"

#define DS_PACK_ALIGN       4096u
#define DS_PACK_CHUNK_BYTES (4u << 20)
#define DS_PACK_CHUNKS_MAX  262144u
#define DS_PACK_BOXES_MAX   262144u
#define DS_PACK_OTHERS_MAX  64u /* packs that one refers to */
#define DS_PACK_HERE        UINT32_MAX

struct ds_pack_id {
    uint64_t epoch, step;
    uint32_t rank, part;
    uint32_t attempt; /* of one epoch at one step, from 0: none takes the name of another */
};

/* A pack that somebody relies on: enough to find it and to know it again. */
struct ds_pack_other {
    struct ds_pack_id id;
    uint64_t file_bytes;
    struct ds_digest footer;
};

struct ds_pack_info {
    uint8_t run[16]; /* of RUN.json */
    struct ds_pack_id id;
    uint64_t header_bytes; /* 8 + N: where data begins */
    uint64_t table_offset, boxes_offset;
    uint64_t body_bytes; /* of all chunks, wherever they lie */
    uint64_t file_bytes;
    struct ds_digest header, table, boxes;
    struct ds_digest content; /* of the chunks' digests in order: equal states, equal content */
    uint32_t chunk_count, box_count, other_count;
    struct ds_pack_other others[DS_PACK_OTHERS_MAX];
};

/* One chunk and where it lies: in this pack or in another, with a second copy or without. */
struct ds_pack_chunk {
    uint32_t tensor, box; /* box: 0 is the whole tensor, n is boxes[n - 1] */
    enum ds_state_kind kind;
    enum ds_dtype dtype;
    uint64_t begin, end;               /* elements inside the box */
    uint32_t body_bytes, stored_bytes; /* stored: with zeros up to a multiple of DS_PACK_ALIGN */
    uint32_t crc32c;                   /* of what is stored */
    struct ds_digest digest;           /* of the body */
    uint32_t pack;                     /* of `others`, or DS_PACK_HERE */
    uint64_t chunk, offset;            /* its place in that pack's table and file */
    uint32_t copy_pack;                /* where else the same bytes lie; DS_PACK_HERE: nowhere */
    uint64_t copy_offset;
};

/* pure: "P-000001-000000000100-00003-0-0.safetensors"; `text` has DS_PACK_NAME_BYTES */
#define DS_PACK_NAME_BYTES 128
void ds_pack_name(const struct ds_pack_id *id, char *text);
int ds_pack_name_parse(const char *text, struct ds_pack_id *out); /* 0: no pack's name */
int ds_pack_id_equal(const struct ds_pack_id *a, const struct ds_pack_id *b);

/* ---- a plan: which chunks a rank's pieces make; the same at every save */

struct ds_pack_part { /* chunks [first, first + count) make one file */
    uint32_t first, count;
    uint64_t header_bytes;   /* kept free for the header, whatever is stored */
    uint64_t file_bytes_max; /* if everything is */
};

struct ds_pack_plan {
    /* owns */
    struct ds_pack_chunk *chunks; /* tensor, box, kind, dtype, range, sizes; nothing of a place */
    struct ds_box *boxes;
    struct ds_pack_part *parts;
    uint32_t chunk_count, box_count, part_count;
    /* borrows */
    const struct ds_catalogue *catalogue;
};

/* `chunks_max` of one file: DS_PACK_CHUNKS_MAX, or fewer for smaller files. The pieces fit the catalogue. */
DS_CHECKED ds_status ds_pack_plan_make(const struct ds_catalogue *catalogue,
                                       const struct ds_piece *pieces, size_t count,
                                       uint32_t chunks_max, struct ds_pack_plan *out);
void ds_pack_plan_fini(struct ds_pack_plan *plan);

/* ---- writing: one file after the other, with memory taken once */

struct ds_pack_writer;

/* Memory for any part of the plan: that is all a writer takes. `storage` is its own until it is closed. */
DS_CHECKED ds_status ds_pack_writer_open(struct ds_fs *fs, struct ds_storage *storage,
                                         uint32_t depth, const struct ds_pack_plan *plan,
                                         struct ds_pack_writer **out);
void ds_pack_writer_close(struct ds_pack_writer *writer); /* abandons; NULL is allowed */

struct ds_pack_new {
    const char *path; /* must not be there yet; borrowed until finish */
    uint8_t run[16];
    struct ds_pack_id id;               /* id.part: which of the plan's */
    const struct ds_pack_other *others; /* copied */
    uint32_t other_count;
    int is_cached; /* through the page cache, even where O_DIRECT is to be had */
    /* a chunk's memory is the caller's again: once for every put, one that failed, too; called inside put, finish
     * and abandon */
    void (*done)(void *user, void *data);
    void *user;
};
/* Creates the file and reserves its size. */
DS_CHECKED ds_status ds_pack_begin(struct ds_pack_writer *writer, const struct ds_pack_new *pack);
/* The next chunk of the part, in order. `data` begins at a multiple of DS_PACK_ALIGN and has room for the stored
 * bytes; what is behind the body becomes zeros. `sealed`: the digest that the body had when it was copied, which it
 * must still have; or NULL. With `copy`, a place of the same bytes elsewhere (pack, chunk, offset, of others). A
 * failure says that the file is dead: abandon it. */
DS_CHECKED ds_status ds_pack_put(struct ds_pack_writer *writer, void *data,
                                 const struct ds_digest *sealed, const struct ds_pack_chunk *copy);
struct ds_pack_source {
    int file; /* of the fs in which packs are made */
    uint64_t offset, bytes;
};
/* The next chunk, whose body has no rest behind a multiple of DS_PACK_ALIGN, lies in other files already, in parts: the
 * pack refers to their blocks (fs.h, clone) instead of having them written. `data`: the bytes, as they were read
 * from there; by it sums are made. A failure as above. */
DS_CHECKED ds_status ds_pack_share(struct ds_pack_writer *writer, const void *data,
                                   const struct ds_pack_source *sources, uint32_t count);
/* Waits until all that was put is on its way no more: its memory is the caller's. */
DS_CHECKED ds_status ds_pack_drain(struct ds_pack_writer *writer);
/* The next chunk has not changed: it is what an earlier table says of it, `pack` and `copy_pack` as numbers of
 * others. */
DS_CHECKED ds_status ds_pack_refer(struct ds_pack_writer *writer, const struct ds_pack_chunk *at);
/* All chunks are put: header, boxes, table, footer; everything durable but the name (fsync of the directory). */
DS_CHECKED ds_status ds_pack_finish(struct ds_pack_writer *writer, struct ds_pack_other *out);
/* Removes what begin made. Nothing to do after finish. */
void ds_pack_abandon(struct ds_pack_writer *writer);
/* After finish: the table as it was written, until the next begin. */
const struct ds_pack_chunk *ds_pack_written(const struct ds_pack_writer *writer, uint32_t *count);

/* ---- reading: trusts nothing. DS_ERR_CORRUPT: one line, the path and what is wrong; DS_ERR_IO: not readable. */

struct ds_pack;

/* Footer, boxes and table, checked. `expected`: what names this pack, or NULL for any. A file that is not there is
 * DS_ERR_CORRUPT. */
DS_CHECKED ds_status ds_pack_open(struct ds_fs *fs, const char *path,
                                  const struct ds_pack_other *expected, struct ds_pack **out);
void ds_pack_close(struct ds_pack *pack); /* NULL is allowed */
const struct ds_pack_info *ds_pack_info(const struct ds_pack *pack);
const struct ds_pack_chunk *ds_pack_chunks(const struct ds_pack *pack);
const struct ds_box *ds_pack_boxes(const struct ds_pack *pack);
int ds_pack_file(const struct ds_pack *pack); /* its descriptor */
const char *ds_pack_path(const struct ds_pack *pack);
/* Is every chunk one of the catalogue's tensors, in a box that fits? */
DS_CHECKED ds_status ds_pack_match(const struct ds_pack *pack,
                                   const struct ds_catalogue *catalogue);
/* pure: the part of a tensor that a chunk is */
struct ds_piece ds_pack_piece(const struct ds_pack *pack, const struct ds_catalogue *catalogue,
                              uint32_t chunk);
/* Reads a chunk that lies here, stored_bytes to `to`, and checks its sum. */
DS_CHECKED ds_status ds_pack_read(const struct ds_pack *pack, uint32_t chunk, void *to);
/* pure: are these the chunk's stored bytes, by their CRC32C */
int ds_pack_is_intact(const struct ds_pack_chunk *chunk, const void *stored);
/* Damage that no chunk has and no open sees: of the header, of what stands behind boxes and table, of one footer.
 * *flaw NULL: there is none. DS_ERR_IO, DS_ERR_NO_MEMORY. */
DS_CHECKED ds_status ds_pack_find_flaw(const struct ds_pack *pack, const char **flaw);
/* What is wrong by these two: in words, and nothing is told; "": nothing is. */
#define DS_PACK_WHY_BYTES 256
DS_CHECKED ds_status ds_pack_probe(struct ds_fs *fs, const char *path,
                                   const struct ds_pack_other *expected,
                                   char why[DS_PACK_WHY_BYTES]);
/* Everything: header against table, pads, every chunk that lies here by both sums. `buffer` has DS_PACK_CHUNK_BYTES. Without a catalogue the header's names are taken as they are. */
DS_CHECKED ds_status ds_pack_verify(const struct ds_pack *pack,
                                    const struct ds_catalogue *catalogue, void *buffer);

/* pure, for tests and fuzzing: what ds_pack_open makes of the last bytes of a file of `file_bytes`; `tail` begins at
 * the boxes (or the table where there are none) */
DS_CHECKED ds_status ds_pack_parse(const char *path, const uint8_t *tail, size_t tail_bytes,
                                   uint64_t file_bytes, struct ds_pack **out);

#endif
