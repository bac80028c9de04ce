/* gemm_table.h - which algorithm multiplies matrices of a shape: a table of fixed capacity, and its bytes.
 *
 * Bytes travel between ranks and runs. They say what they were made for (GPU and library) and carry a sum, so
 * that bytes of another GPU or library, or of half a file, are left alone. An algorithm is what cuBLASLt
 * calls it: opaque. Nothing of CUDA is needed here. pure: everything here. */
#ifndef GEMM_TABLE_H
#define GEMM_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define GEMM_ENTRIES_MAX 256
#define GEMM_SLOTS       1024 /* a power of two */
#define GEMM_ALGO_WORDS  8

/* What an algorithm may depend on. `add` is not in it: cuBLASLt's question has no beta, and a gradient that is
 * added to is then made by the algorithm that began it. */
struct gemm_key {
    uint64_t m, n, k;
    /* elements from one stored row to the next: each may be a part of the columns */
    uint64_t a_stride, b_stride, c_stride;
    uint8_t in, out; /* enum ds_dtype: of A and B, of C */
    uint8_t trans_a, trans_b;
    uint8_t align_a, align_b, align_c; /* bytes that the pointer is a multiple of, 16 at most */
    uint8_t pad;                       /* 0: keys are compared as bytes */
};

/* How an algorithm was found; more is better. */
enum gemm_known {
    GEMM_GUESSED, /* by the library: not handed on */
    GEMM_TIMED,   /* in a moment, on a GPU that may be cool */
    GEMM_TIMED_UNDER_LOAD
};

struct gemm_entry {
    struct gemm_key key;
    uint64_t algo[GEMM_ALGO_WORDS];
    uint32_t known;    /* enum gemm_known */
    uint32_t is_ready; /* the caller's; 0 when the algorithm comes from bytes */
};

struct gemm_table {
    uint32_t count;
    uint32_t timed_count;                        /* timed here, not loaded */
    uint16_t slots[GEMM_SLOTS];                  /* 0: free; else 1 + number of the entry */
    struct gemm_entry entries[GEMM_ENTRIES_MAX]; /* as they came */
};

/* The largest power of two, 16 at most, that `address` is a multiple of. */
uint8_t gemm_alignment(const void *address);

/* NULL: not there. */
struct gemm_entry *gemm_table_find(struct gemm_table *table, const struct gemm_key *key);

/* Is there room for a key that is new? */
int gemm_table_has_room(const struct gemm_table *table);

/* The key's entry, made if need be, in a full table from one that is not ready (it came as bytes, and nobody
 * has asked for it); NULL: there is none. */
struct gemm_entry *gemm_table_set(struct gemm_table *table, const struct gemm_key *key,
                                  const uint64_t algo[GEMM_ALGO_WORDS], enum gemm_known known);

#define GEMM_MADE_FOR_BYTES 192

/* The timed entries as bytes, at most gemm_table_bytes_max(); how many bytes there are. */
size_t gemm_table_bytes_max(void);
size_t gemm_table_save(const struct gemm_table *table, const char *made_for, void *to);

/* Entries of `from` replace those of the same key that are not better known, others stay; what a full table does not know
 * is left out. 0: the bytes are not whole or not for us, and nothing has changed. */
int gemm_table_load(struct gemm_table *table, const char *made_for, const void *from, size_t bytes);

#endif
