/* load.h - what is wanted of a checkpoint, and chunks that are copied into it: for one reader and for several. */
#ifndef DSTRAIN_CHECKPOINT_LOAD_H
#define DSTRAIN_CHECKPOINT_LOAD_H

#include "dstrain/checkpoint.h"

struct load_wants {
    /* borrows */
    const struct ds_catalogue *catalogue;
    const struct ds_piece *pieces;
    size_t count;
    const struct ds_checkpoint_sink *sink;
    /* owns */
    uint32_t *order;  /* pieces by tensor */
    uint32_t *first;  /* [tensors + 2]: where a tensor's begin in `order` */
    uint64_t *filled; /* elements of each */
};

/* the pieces fit the catalogue; fini after a failure, too */
DS_CHECKED ds_status load_wants_init(struct load_wants *wants, const struct ds_catalogue *catalogue,
                                     const struct ds_piece *pieces, size_t count,
                                     const struct ds_checkpoint_sink *sink);
void load_wants_fini(struct load_wants *wants);
/* is something of this part of a tensor wanted */
int load_wants_any(const struct load_wants *wants, const struct ds_piece *part);
/* gives the sink what is wanted of it; `bytes`: all its elements */
DS_CHECKED ds_status load_wants_take(struct load_wants *wants, const struct ds_piece *part,
                                     enum ds_dtype dtype, const void *bytes);
/* DS_ERR_CORRUPT: something that is wanted has not come */
DS_CHECKED ds_status load_wants_check(const struct load_wants *wants);

#endif
