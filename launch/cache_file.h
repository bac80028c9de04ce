/* cache_file.h (private to launch) - what is kept for the next run: small files in $XDG_CACHE_HOME/dstrain or ~/.cache/dstrain.
 * local: everything here. Nothing here can fail a run. */
#ifndef DSTRAIN_LAUNCH_CACHE_FILE_H
#define DSTRAIN_LAUNCH_CACHE_FILE_H

#include "dstrain/fs.h"

#define DS_CACHE_PATH_BYTES 1280

/* where the file of this name lies; 0: there is no place for it */
int ds_cache_path(const char *name, char *to, size_t bytes);
/* how many bytes it has, `room` at most; 0: there is none, or it cannot be read, or is larger */
size_t ds_cache_read(struct ds_fs *fs, const char *name, void *to, size_t room);
/* whole or not at all, also where others write the same file; else one warning, which ends with what that means */
void ds_cache_write(struct ds_fs *fs, const char *name, const void *from, size_t bytes,
                    const char *without_it);

#endif
