/* whole.h - a file that is whole or absent: written beside its place as `path`.tmp, made durable, and
 * then renamed. A failure on the way removes the .tmp; whatever was at `path` stays until the rename. */
#ifndef STORAGE_WHOLE_H
#define STORAGE_WHOLE_H

#include "dstrain/fs.h"

struct whole_file {
    /* owns */
    char *path, *tmp;
    int file; /* open for reading and writing; -1: none */
    /* borrows */
    struct ds_fs *fs;
};

DS_CHECKED ds_status whole_begin(struct whole_file *whole, struct ds_fs *fs, const char *path);
/* fsync, close, rename, fsync of the directory. The object is empty afterwards, whatever happens. */
DS_CHECKED ds_status whole_commit(struct whole_file *whole);
void whole_abandon(struct whole_file *whole); /* of an empty one: nothing */

/* `first` `second` `third` as one malloc'ed text, or NULL */
char *whole_path(const char *first, const char *second, const char *third);

#endif
