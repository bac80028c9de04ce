/* memory.h - the ledger of what a rank has taken, and arenas cut from it.
 *
 * Everything for the run is taken before step 1: ds_memory_take() asks the device table and books
 * the bytes under a label; ds_memory_fini() gives all of it back. After the first full step the
 * trainer calls ds_memory_freeze(): later takes are a bug. The ledger is what a plan is compared
 * with, so nothing bypasses it. One owner thread. local: everything here. */
#ifndef DSTRAIN_MEMORY_H
#define DSTRAIN_MEMORY_H

#include "dstrain/device.h"
#include "dstrain/status.h"

#include <stddef.h>
#include <stdint.h>

/* clang-format off */
#define DS_MEMORY_LABEL_LIST(X)                                                  \
    X(PARAMS, "parameters")   /* persistent copies that arithmetic reads */      \
    X(MASTER, "master")       /* fp32 master copies, where they are separate */  \
    X(EXP_AVG, "exp_avg")                                                        \
    X(EXP_AVG_SQ, "exp_avg_sq")                                                  \
    X(GRADS, "gradients")     /* accumulators */                                 \
    X(SLOTS, "unit slots")    /* gathered weights, local gradients, states in flight */ \
    X(ACTIVATIONS, "activations")                                                \
    X(WORKSPACE, "workspace")                                                    \
    X(BATCH, "batches")                                                          \
    X(STAGING, "staging")                                                        \
    X(COMM, "communication")                                                     \
    X(SNAPSHOT, "snapshot")   /* states on their way into a checkpoint */
/* clang-format on */
#define DS_MEMORY_LABEL_ENUM(name, text) DS_MEMORY_LABEL_##name,
enum ds_memory_label { DS_MEMORY_LABEL_LIST(DS_MEMORY_LABEL_ENUM) DS_MEMORY_LABEL_COUNT };
#undef DS_MEMORY_LABEL_ENUM
const char *ds_memory_label_name(enum ds_memory_label label);

struct ds_memory_piece {
    enum ds_memory_kind kind;
    void *at;
    size_t bytes;
    struct ds_memory_piece *next;
};

struct ds_memory {
    /* owns */
    struct ds_memory_piece *pieces;
    /* borrows */
    struct ds_device *device;
    uint64_t bytes[DS_MEMORY_KIND_COUNT][DS_MEMORY_LABEL_COUNT];
    uint64_t limit_bytes[DS_MEMORY_KIND_COUNT]; /* 0: none */
    int is_frozen;
};

void ds_memory_init(struct ds_memory *memory, struct ds_device *device);
void ds_memory_fini(struct ds_memory *memory);

/* local: `bytes` of `kind`, at least 256-byte aligned (4096 for what is 4096 bytes or more), zeroed.
 * Size 0 is allowed and gives NULL. */
DS_CHECKED ds_status ds_memory_take(struct ds_memory *memory, enum ds_memory_kind kind,
                                    enum ds_memory_label label, size_t bytes, void **at);
/* local: the same of the device's memory, such that its communicator can register it (comm.h) */
DS_CHECKED ds_status ds_memory_take_symmetric(struct ds_memory *memory, enum ds_memory_label label,
                                              size_t bytes, void **at);
/* local: what begins `at` is not given back at the end: somebody who cannot be stopped may still look at it. NULL and
 * what is not of this ledger are allowed. */
void ds_memory_leave(struct ds_memory *memory, const void *at);
void ds_memory_freeze(struct ds_memory *memory);
uint64_t ds_memory_total(const struct ds_memory *memory, enum ds_memory_kind kind);
/* local: what the pages of the device's memory hold beyond that, in pages of `page_bytes` (device.h); 0: nothing */
uint64_t ds_memory_page_rest(const struct ds_memory *memory, uint64_t page_bytes);

/* A cursor over one piece of memory: consecutive aligned parts, nothing freed. `base` NULL measures:
 * run the same code twice, first to learn `used`, then to place. */
struct ds_arena {
    uint8_t *base;
    size_t size, used;
};
/* 256-byte aligned; NULL while measuring */
void *ds_arena_take(struct ds_arena *arena, size_t bytes);

#endif
