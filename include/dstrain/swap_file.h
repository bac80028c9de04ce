/* swap_file.h - the file of one rank in one directory for states: made anew, of its whole size at once, and gone with the
 * process, however that ends, since it has no name. `dstrain-HOST-NNNN.states`, of 4 KB, keeps the place of the
 * NNNN-th rank of a host, so that two runs of one host that are given the same directory meet at the place of their first
 * rank, whichever ranks of theirs are there; where a process is killed it stays until the next run. local: everything here. */
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
    uint64_t bytes;
};

struct ds_swap_file {
    int file;             /* of zeros; -1: none */
    int lock;             /* the one with the name; -1: none */
    const char *buffered; /* NULL, or why the page cache is in between */
    char path[DS_SWAP_PATH_BYTES];
};

/* What cannot be had is DS_ERR_CONFIG: another run is there, no such directory, no permission, no space. */
DS_CHECKED ds_status ds_swap_file_open(const struct ds_swap_file_options *options,
                                       struct ds_swap_file *out);
/* both are gone; what was never opened (file and lock < 0) is fine */
void ds_swap_file_close(struct ds_fs *fs, struct ds_swap_file *file);
/* Names that runs of this host have left that were killed. Behind an agreement that all ranks of the host have theirs open. */
void ds_swap_file_sweep(const struct ds_swap_file_options *options);

#endif
