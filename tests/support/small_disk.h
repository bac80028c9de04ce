/* small_disk.h - a real file system that is soon full: a tmpfs in a mount namespace of the test's own, gone with the
 * process. Not everybody may mount. */
#ifndef DSTRAIN_TEST_SMALL_DISK_H
#define DSTRAIN_TEST_SMALL_DISK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

/* 0: it cannot be had here */
static inline int small_disk_mount(size_t bytes, char *folder, size_t folder_bytes)
{
    static int is_apart; /* one namespace is enough */
    char options[64];

    snprintf(folder, folder_bytes, "/tmp/small_disk.XXXXXX");
    snprintf(options, sizeof options, "size=%zu,mode=0700", bytes);
    is_apart = is_apart || (unshare(CLONE_NEWNS) == 0 &&
                            mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    if (!is_apart || !mkdtemp(folder))
        return 0;
    if (mount("none", folder, "tmpfs", 0, options) == 0)
        return 1;
    rmdir(folder);
    return 0;
}

static inline void small_disk_unmount(const char *folder)
{
    umount2(folder, MNT_DETACH);
    rmdir(folder);
}

#endif
