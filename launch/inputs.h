/* inputs.h (private to launch) - the files that a run reads, known by what they hold: a later launch may write their names
 * otherwise, or find them moved. What they held is kept in the run's directory, as inputs.json. local: everything here, on
 * rank 0, which holds the run's lock. */
#ifndef DSTRAIN_LAUNCH_INPUTS_H
#define DSTRAIN_LAUNCH_INPUTS_H

#include "config/config.h"

#include "dstrain/digest.h"

enum { DS_INPUT_COUNT = 5 }; /* keys that name what a run reads */

struct ds_input {
    int is_known; /* 0: nothing is there, or nobody has kept it; `content` is not set */
    struct ds_digest content;
    /* the value of its key, at this launch and at the run's first one, by which its checkpoints know it */
    char name[DS_TEXT_MAX], first_name[DS_TEXT_MAX];
};
struct ds_inputs {
    struct ds_input at[DS_INPUT_COUNT];
};

/* pure: which of them a key names; -1: none */
int ds_inputs_find(const struct ds_field *field);

/* What they hold now, under names that are the first ones, too. What is not there is not known, which is not said here: who
 * reads it fails. */
DS_CHECKED ds_status ds_inputs_look(struct ds_fs *fs, const struct ds_config *config,
                                    struct ds_inputs *out);

/* What the last launch has kept in `dir`; none is known where it has kept nothing, or what cannot be read, which a warning
 * says then. */
DS_CHECKED ds_status ds_inputs_read(struct ds_fs *fs, const char *dir, struct ds_inputs *out);
/* Keep what is known in `dir`. */
DS_CHECKED ds_status ds_inputs_write(struct ds_fs *fs, const char *dir,
                                     const struct ds_inputs *inputs);
/* Nobody needs them any more. */
void ds_inputs_remove(struct ds_fs *fs, const char *dir);

/* pure: does the input hold something else than it did, as far as somebody can tell? */
int ds_input_is_other(const struct ds_input *was, const struct ds_input *now);

/* pure: `config` with the names of a run's first launch */
void ds_inputs_name(const struct ds_inputs *inputs, const struct ds_config *config,
                    struct ds_config *out);

#endif
