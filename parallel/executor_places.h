/* executor_places.h (private to parallel) - places of memory that streams use in turn: arithmetic, messages between
 * stages, copies to the host and back. Who comes after another stream waits for it, once. */
#ifndef DSTRAIN_EXECUTOR_PLACES_H
#define DSTRAIN_EXECUTOR_PLACES_H

#include "dstrain/memory.h"

struct place {
    uint8_t *at;
    struct ds_event *event; /* the last use by `user` is over */
    struct ds_stream *user; /* NULL: none that the compute stream has not waited for */
};

struct places {
    struct place *places; /* owns; the memory is the ledger's */
    uint32_t count;
};

/* local: all of `bytes`, under the label of activations; 0: the memory is somebody else's. Close takes what an open that
 * failed has left. */
DS_CHECKED ds_status places_open(struct ds_memory *memory, enum ds_memory_kind kind, uint32_t count,
                                 size_t bytes, struct places *out);
/* the same on the device, where a group may register them */
DS_CHECKED ds_status places_open_symmetric(struct ds_memory *memory, uint32_t count, size_t bytes,
                                           struct places *out);
void places_close(struct places *places);
/* nobody waits for what was before: all of it is through */
void places_forget(struct places *places);

/* `stream`, which has waited for the compute stream, goes on when the place is its own */
DS_CHECKED ds_status place_claim(const struct place *place, struct ds_stream *stream);
/* and has queued all that it does there */
DS_CHECKED ds_status place_leave(struct place *place, struct ds_stream *stream);

#endif
