/* run_dir.h (private to launch) - the directory of a run:
 *
 *   config.ini        as resolved, but for what the number of ranks decides; written last, so a directory that has
 *                     one is whole
 *   log/              rank-NNNN.log
 *   inputs.json       what the files held that the last launch has read (inputs.h)
 *   incidents/        what a watchdog leaves
 *   lock              whose launch it is, while it runs
 *
 * and what other parts add: metrics.jsonl (metrics-N.jsonl: of earlier launches), checkpoints/, export/, data/. It goes through ds_fs alone. */
#ifndef DSTRAIN_LAUNCH_RUN_DIR_H
#define DSTRAIN_LAUNCH_RUN_DIR_H

#include "inputs.h"

#include "config/config.h"

#define DS_RUN_PATH_BYTES (DS_TEXT_MAX + 64)

enum { DS_RUN_PARTS = 2 }; /* log/, incidents/ */

struct ds_run_files {
    /* descriptors of fs; -1: not open */
    int log;  /* log/rank-NNNN.log */
    int lock; /* rank 0: held as long as it is open */
    /* rank 0: what was not there before this launch */
    int made_config, made_lock, made_parts[DS_RUN_PARTS];
    char missing[DS_RUN_PATH_BYTES]; /* the outermost directory that was missing; "": none was */
    struct ds_inputs inputs; /* rank 0: of this launch, with the names of the run's first one */
};
#define DS_RUN_FILES_NONE     \
    (struct ds_run_files)     \
    {                         \
        .log = -1, .lock = -1 \
    }

/* pure: what the key names is there, and `stat` says that it is a directory, that it is ours, and that not everybody may
 * write there; else DS_ERR_CONFIG */
DS_CHECKED ds_status ds_run_check_directory(const struct ds_config *config, const char *section,
                                            const char *key, const char *dir,
                                            const struct ds_fs_stat *stat);

/* local, rank 0: make the directory, or see that it holds a run that `config` may go on with: owned by
 * us, not writable by everybody, no other launch at work (DS_ERR_FENCED, after a moment in which one that
 * was killed may still be ending), equal in every key that is fixed, where those that name files are equal if the files hold
 * the same - or without a step so far, then it may become this run. The lock is held then. If it fails, nothing has changed; a config.ini that was there has not in any case. */
DS_CHECKED ds_status ds_run_dir_prepare(struct ds_fs *fs, const struct ds_clock *clock,
                                        const struct ds_config *config, struct ds_run_files *files);

/* local, rank 0, under that lock, once nothing refuses the launch any more: what is stored is `config` from here on, but
 * for a config.ini that a person has written. What `settled` has of homes that `config` leaves to the plan stands there as a
 * remark. What the files hold that it reads is kept beside it. */
DS_CHECKED ds_status ds_run_dir_store(struct ds_fs *fs, const struct ds_config *config,
                                      const struct ds_config *settled,
                                      const struct ds_inputs *inputs);

/* local: open log/rank-NNNN.log for appending; a descriptor of fs */
DS_CHECKED ds_status ds_run_dir_open_log(struct ds_fs *fs, const struct ds_config *config,
                                         uint32_t rank, int *file);

/* collective: both, on every rank; from here on the log goes to the file, too */
DS_CHECKED ds_status ds_run_dir_open(struct ds_comm *world, struct ds_fs *fs,
                                     const struct ds_config *config, struct ds_run_files *files);
/* local. `is_refused`: the launch has ended before its first step because of what a person wrote. Then rank
 * 0 takes away again what the launch has made, but for prepared data, which the next one can use. */
void ds_run_dir_close(struct ds_fs *fs, const struct ds_config *config, struct ds_run_files *files,
                      int is_refused);

#endif
