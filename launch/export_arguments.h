/* export_arguments.h (private to launch) - what `dstrain export` was asked for, and what it finds. */
#ifndef DSTRAIN_LAUNCH_EXPORT_ARGUMENTS_H
#define DSTRAIN_LAUNCH_EXPORT_ARGUMENTS_H

#include "checkpoint_place.h"
#include "command.h"

#include "dstrain/hf.h"

struct export
{
    struct ds_fs *fs;
    /* what was asked for */
    const char *checkpoint, *tokenizer, *base;
    int merges;
    char out[DS_CHECKPOINT_PATH_BYTES - 256];
    const char *step_text, *dtype_text, *quant_text;
    enum ds_dtype dtype;
    enum ds_quant_kind quant; /* where quant_text is one */
    uint64_t step;
    /* what is there */
    struct ds_checkpoint_place place;
    char adapter[DS_CHECKPOINT_PATH_BYTES]; /* a run's, which has no checkpoints */
    void *buffer;                           /* DS_PACK_CHUNK_BYTES */
};

/* The command line; DS_ERR_CONFIG. */
DS_CHECKED ds_status ds_export_arguments(const struct ds_command *command, struct export *e);

#endif
