/* swap_file.h - the file of one rank in one directory for states: made anew, of its whole size at once, somebody's while
 * it is open, and gone behind that. `dstrain-HOST-NNNN.states` is that of the NNNN-th rank of a host, so that
 * two runs of one host that are given the same directory meet at the file of their first rank, whichever ranks of
 * theirs are there. local: everything here. */
#ifndef DSTRAIN_SWAP_FILE_H
#define DSTRAIN_SWAP_FILE_H

#include "dstrain/clock.h"
#include "dstrain/fs.h"
#include "dstrain/status.h"

#define DS_SWAP_PATH_BYTES 4352

struct ds_swap_file_options {
    struct ds_fs *fs;
    const struct ds_clock *clock;
    const char *who;       /* the key that names the directory, which begins every message */
    const char *directory; /* is there */
    uint32_t local_rank;   /* among the ranks of this host */
    uint64_t bytes;        /* behind `offset` */
};

struct ds_swap_file {
    int file;             /* -1: none */
    uint64_t offset;      /* where the states begin, a multiple of 4096 */
    const char *buffered; /* NULL, or why the page cache is in between */
    char path[DS_SWAP_PATH_BYTES];
};

/* What cannot be had is DS_ERR_CONFIG: another run is there, no such directory, no permission, no space. */
DS_CHECKED ds_status ds_swap_file_open(const struct ds_swap_file_options *options,
                                       struct ds_swap_file *out);
/* the file is gone; one that was never opened (file < 0) is fine */
void ds_swap_file_close(struct ds_fs *fs, struct ds_swap_file *file);
/* What runs of this host have left that were killed. Behind an agreement that all ranks of the host have theirs open. */
void ds_swap_file_sweep(const struct ds_swap_file_options *options);

#endif
