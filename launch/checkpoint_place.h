/* checkpoint_place.h (private to launch) - what a person names on a command line, as a checkpoint: a run directory, its
 * checkpoints/, or a manifest in there. Of a run directory its config.ini says where its checkpoints are, if not in it, and
 * where their mirror is, which stands in for them where they are gone. local: everything here; nothing is changed. */
#ifndef DSTRAIN_LAUNCH_CHECKPOINT_PLACE_H
#define DSTRAIN_LAUNCH_CHECKPOINT_PLACE_H

#include "dstrain/checkpoint.h"

struct ds_checkpoint_place {
    char root[DS_CHECKPOINT_PATH_BYTES - 256];
    uint8_t run[16]; /* RUN.json's */
    struct ds_manifest_id id;
    int has_id;                                  /* a manifest was named */
    char mirror[DS_CHECKPOINT_PATH_BYTES - 256]; /* what was not looked at; "": none is known */
};

/* *found 0: something else is there. DS_ERR_DATA: nothing is; DS_ERR_CONFIG: a directory that is not ours after all */
DS_CHECKED ds_status ds_checkpoint_place_find(struct ds_fs *fs, const char *path,
                                              struct ds_checkpoint_place *out, int *found);
/* The same for who needs one: what else is there is refused, a directory with DS_ERR_CONFIG. */
DS_CHECKED ds_status ds_checkpoint_place_need(struct ds_fs *fs, const char *path,
                                              struct ds_checkpoint_place *out);
/* Reads a manifest of the place. DS_ERR_CORRUPT: damaged, or another run's. */
DS_CHECKED ds_status ds_checkpoint_place_read(struct ds_fs *fs,
                                              const struct ds_checkpoint_place *place,
                                              const struct ds_manifest_id *id,
                                              struct ds_manifest *out);
/* Behind a command that ended with `st`: where else it may look, if it should. Returns `st`. */
DS_CHECKED ds_status ds_checkpoint_place_end(const struct ds_checkpoint_place *place, ds_status st);

#endif
