/* directory.h - what the parts of a checkpoint directory share: paths, and one text file made durable. */
#ifndef CHECKPOINT_DIRECTORY_H
#define CHECKPOINT_DIRECTORY_H

#include "dstrain/checkpoint.h"

#include "format/text.h"

#define DIRECTORY_TRUSTED_MAX 256u
#define DIRECTORY_NAME_BYTES  64

struct ds_checkpoint_dir {
    /* owns */
    char *root;
    struct ds_checkpoint_dir *mirror;                     /* or NULL */
    struct ds_manifest_id trusted[DIRECTORY_TRUSTED_MAX]; /* oldest first */
    uint32_t trusted_count;
    /* borrows */
    struct ds_fs *fs;
    uint8_t run[16], nonce[16];
    uint64_t epoch;
    int is_new;        /* this launch has made it */
    int has_committed; /* since it was claimed */
};

/* `root`/`folder`/`name` to DS_CHECKPOINT_PATH_BYTES */
void directory_path(const char *root, const char *folder, const char *name, char *to);
void directory_manifest_name(const struct ds_manifest_id *id, const char *ending, char *to);
/* `ending`: ".json" or ".bad". 0: no such name */
int directory_manifest_parse(const char *name, const char *ending, struct ds_manifest_id *out);
void directory_epoch_name(uint64_t epoch, const char *ending, char *to);
int directory_epoch_parse(const char *name, const char *ending, uint64_t *out);
/* What make has made of a new directory goes again, but for its root, unless somebody has claimed it. */
void directory_unmake(const struct ds_checkpoint_dir *dir);
/* pure: is this what becomes RUN.json once it is whole? */
int directory_is_new_run(const char *name);
void directory_distrust(struct ds_checkpoint_dir *dir, uint32_t index); /* of `trusted` */
/* local: the names in a folder of `root`, as ds_fs_readdir gives them. DS_ERR_CONFIG: it is missing; DS_ERR_IO */
DS_CHECKED ds_status directory_list(struct ds_fs *fs, const char *root, const char *folder,
                                    char ***names, size_t *count);
/* pure: did directory_list say that this cannot be listed? */
int directory_is_unlisted(ds_status st);
/* `root` has not taken what was to be written, by `code`. DS_ERR_CONFIG: only a person can help, and is told how; else
 * DS_ERR_IO. `what` follows from it. */
DS_CHECKED ds_status directory_refuse(const char *root, const char *what, int code);
/* The whole of a small file that must not be there yet: written, synced, closed; its name is not synced. 0 or
 * -errno, and `*is_made`: the file is there all the same. */
int directory_create(struct ds_fs *fs, const char *path, const char *text, size_t bytes,
                     int *is_made);
/* A small file that is whole or as it was, durable with its name; 0 or -errno. */
int directory_replace(struct ds_fs *fs, const char *path, const char *text, size_t bytes);

#endif
