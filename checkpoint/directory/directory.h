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
    struct ds_manifest_id trusted[DIRECTORY_TRUSTED_MAX]; /* the newest */
    uint32_t trusted_count;
    /* borrows */
    struct ds_fs *fs;
    uint8_t run[16], nonce[16];
    uint64_t epoch;
};

/* `root`/`folder`/`name` to DS_CHECKPOINT_PATH_BYTES */
void directory_path(const char *root, const char *folder, const char *name, char *to);
void directory_manifest_name(const struct ds_manifest_id *id, const char *ending, char *to);
/* `ending`: ".json" or ".bad". 0: no such name */
int directory_manifest_parse(const char *name, const char *ending, struct ds_manifest_id *out);
void directory_epoch_name(uint64_t epoch, const char *ending, char *to);
int directory_epoch_parse(const char *name, const char *ending, uint64_t *out);
/* local: the names in a folder of `root`, as ds_fs_readdir gives them */
DS_CHECKED ds_status directory_list(struct ds_fs *fs, const char *root, const char *folder,
                                    char ***names, size_t *count);
/* The whole of a small file that must not be there yet: written, synced, closed; its name is not synced. 0 or
 * -errno. */
int directory_create(struct ds_fs *fs, const char *path, const char *text, size_t bytes);

#endif
