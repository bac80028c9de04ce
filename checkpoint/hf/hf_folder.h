/* hf_folder.h (private) - a folder that becomes an export, whole or not at all. local: everything here */
#ifndef DSTRAIN_HF_FOLDER_H
#define DSTRAIN_HF_FOLDER_H

#include "dstrain/fs.h"

enum { HF_PATH_BYTES = 4352 };

struct hf_folder {
    struct ds_fs *fs;
    const char *name;
    char temporary[HF_PATH_BYTES]; /* to be filled between begin and commit */
    char old[HF_PATH_BYTES];
};

void hf_folder_init(struct hf_folder *f, struct ds_fs *fs, const char *name);
DS_CHECKED ds_status hf_folder_begin(const struct hf_folder *f);
DS_CHECKED ds_status hf_folder_commit(const struct hf_folder *f);
void hf_folder_drop(const struct hf_folder *f); /* instead of commit, or after one that failed */
/* the words of a failure with this folder; `code` is -errno */
DS_CHECKED ds_status hf_folder_failed(const struct hf_folder *f, const char *what, int code);
/* Files beside the weights that travel with a model: their names; NULL behind the last */
const char *hf_companion(size_t index);

#endif
