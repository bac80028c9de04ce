/* speeds.h (private to launch) - what was measured of a host, kept for plans: `speeds-HOST.txt` beside other kept files, a line
 * "name bytes-a-second" each. Whoever measures adds to it. local: everything here. */
#ifndef DSTRAIN_LAUNCH_SPEEDS_H
#define DSTRAIN_LAUNCH_SPEEDS_H

#include "dstrain/fs.h"

/* clang-format off */
#define DS_SPEED_LIST(X)                                                               \
    X(LINK, "link")               /* of a GPU, each way, both at once; all of a host */ \
    X(FILE_READ, "file_read")     /* of a drive */                                     \
    X(FILE_WRITE, "file_write")                                                        \
    X(HOST_UPDATE, "host_update") /* as updates of the host's threads name bytes */
/* clang-format on */
#define DS_SPEED_ENUM(name, text) DS_SPEED_##name,
enum ds_speed { DS_SPEED_LIST(DS_SPEED_ENUM) DS_SPEED_COUNT };
#undef DS_SPEED_ENUM

struct ds_speeds_kept {
    double per_s[DS_SPEED_COUNT]; /* 0: not measured */
    double host_threads;          /* with which HOST_UPDATE was */
};

/* pure: what a file says; lines that are not understood say nothing */
void ds_speeds_parse(const char *text, struct ds_speeds_kept *out);
void ds_speeds_read(struct ds_fs *fs, struct ds_speeds_kept *out);
/* those that are not 0 take the place of what is there; the others stay */
void ds_speeds_keep(struct ds_fs *fs, const struct ds_speeds_kept *measured);

#endif
