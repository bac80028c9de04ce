/* swap_file.c - states lie in a file without a name, which the system takes away with the process, however that ends. A
 * small one beside it has the name and says by a lock whose the place is: the lock holds as long as the process lives
 * and no longer, so a name without one was left by somebody who was killed, and may go. That file is made, locked, and
 * looked for under its name: whoever finds another one there, or none, was overtaken between two of these, and tries
 * again. */
#include "dstrain/swap_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX       "dstrain-"
#define SUFFIX       ".states"
#define HEADER_BYTES DS_FS_DIRECT_ALIGN
#define WAIT_NS      2000000000u /* a killed run holds its lock until the system has taken it down */
#define POLL_NS      20000000u

static void host_name(char *to, size_t bytes)
{
    memset(to, 0, bytes);
    if (gethostname(to, bytes - 1) != 0 || to[0] == '\0')
        snprintf(to, bytes, "localhost");
}

static ds_status refuse(const struct ds_swap_file_options *o, const char *doing, int code)
{
    return ds_fail(DS_ERR_CONFIG, "%s: %s: %s: %s", o->who, o->directory, doing, strerror(-code));
}

/* ---- who has it */

/* In the first block: for those who come second, and to know it again by its name. */
static int sign(struct ds_fs *fs, const struct ds_clock *clock, int file, uint8_t *header)
{
    char host[64];

    host_name(host, sizeof host);
    memset(header, 0, HEADER_BYTES);
    snprintf((char *)header, HEADER_BYTES, "process %ld on host %s\n%d %" PRIu64 "\n",
             (long)getpid(), host, file, ds_clock_real_ns(clock));
    return ds_fs_write_all(fs, file, header, HEADER_BYTES, 0);
}

static int has_header(struct ds_fs *fs, const char *path, const uint8_t *header)
{
    const int file = ds_fs_open(fs, path, DS_FS_READ, 0);
    uint8_t *found = malloc(HEADER_BYTES);
    const int is_same = file >= 0 && found &&
                        ds_fs_read_all(fs, file, found, HEADER_BYTES, 0) == 0 &&
                        memcmp(found, header, HEADER_BYTES) == 0;

    free(found);
    if (file >= 0)
        (void)ds_fs_close(fs, file);
    return is_same;
}

/* The place is locked by this very process: its directory has been named before, in other words. */
static int is_own(const char *owner)
{
    char host[64], own[160];

    host_name(host, sizeof host);
    snprintf(own, sizeof own, "process %ld on host %s", (long)getpid(), host);
    return strcmp(owner, own) == 0;
}

static ds_status refuse_second(const struct ds_swap_file_options *o, const char *path)
{
    const int file = ds_fs_open(o->fs, path, DS_FS_READ, 0);
    char owner[160] = "";

    if (file >= 0) {
        if (ds_fs_pread(o->fs, file, owner, sizeof owner - 1, 0) < 0)
            owner[0] = '\0';
        (void)ds_fs_close(o->fs, file);
    }
    owner[strcspn(owner, "\n")] = '\0';
    if (is_own(owner))
        return ds_fail(DS_ERR_CONFIG, "%s: %s is named twice; each directory is one drive", o->who,
                       o->directory);
    return ds_fail(DS_ERR_CONFIG,
                   "%s: %s: another run has its states there (%s); wait until it ends, or choose "
                   "another directory",
                   o->who, o->directory, owner[0] ? owner : "unknown process");
}

/* ---- taking a place */

/* 1: it was nobody's, and is gone; 0: somebody has it; or -errno. Where nobody can tell who has a file it goes, too: who
 * has it open does not lose it. */
static int remove_dead(struct ds_fs *fs, const char *path)
{
    const int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_WRITE, 0);
    int code = file < 0 ? file : ds_fs_lock(fs, file);

    if (code == 0 || code == -ENOTSUP)
        code = ds_fs_unlink(fs, path);
    if (file >= 0)
        (void)ds_fs_close(fs, file);
    return code == 0 || code == -ENOENT ? 1 : code == -EAGAIN ? 0 : code;
}

/* The same: 1: it is ours, and its name leads to it. */
static int claim(const struct ds_swap_file_options *o, struct ds_swap_file *out, uint8_t *header)
{
    const char *buffered;
    const int file = ds_fs_create_direct(o->fs, out->path, 0600, &buffered);
    int code;

    if (file == -EEXIST)
        return 0;
    if (file < 0)
        return file;
    code = ds_fs_lock(o->fs, file);
    if (code == -ENOTSUP) {
        ds_warn("%s: %s: this file system has no locks; a second run would not be seen", o->who,
                o->directory);
        code = 0;
    }
    if (code == 0)
        code = sign(o->fs, o->clock, file, header);
    if (code == 0 && has_header(o->fs, out->path, header)) {
        out->lock = file;
        return 1;
    }
    if (code < 0 && code != -EAGAIN)
        (void)ds_fs_unlink(o->fs, out->path);
    (void)ds_fs_close(o->fs, file);
    return code == -EAGAIN ? 0 : code;
}

static ds_status take_place(const struct ds_swap_file_options *o, struct ds_swap_file *out)
{
    const uint64_t begin_ns = ds_clock_mono_ns(o->clock);
    uint8_t *header = aligned_alloc(DS_FS_DIRECT_ALIGN, HEADER_BYTES);
    int code = header ? remove_dead(o->fs, out->path) : -ENOMEM;

    while (code >= 0) {
        if (code == 1)
            code = claim(o, out, header);
        if (code != 0 || ds_clock_mono_ns(o->clock) - begin_ns >= WAIT_NS)
            break;
        ds_clock_sleep_ns(o->clock, POLL_NS);
        code = remove_dead(o->fs, out->path);
    }
    free(header);
    if (code < 0)
        return refuse(o, "a file for states cannot be made there", code);
    return out->lock >= 0 ? DS_OK : refuse_second(o, out->path);
}

/* ---- the file of states */

static ds_status refuse_size(const struct ds_swap_file_options *o)
{
    struct ds_fs_space space = {0};

    (void)ds_fs_statvfs(o->fs, o->directory, &space);
    return ds_fail(DS_ERR_CONFIG,
                   "%s: %s: no space for the states of a rank: %" PRIu64
                   " bytes are needed, %" PRIu64 " are free",
                   o->who, o->directory, o->bytes, space.free_bytes);
}

/* Network file systems may set a size that they have no room for; some file systems do not know how much they have. */
static ds_status reserve(const struct ds_swap_file_options *o, const struct ds_swap_file *out)
{
    struct ds_fs_space space;
    int code = ds_fs_statvfs(o->fs, o->directory, &space);

    if (code == 0 && space.total_bytes > 0 && space.free_bytes < o->bytes)
        return refuse_size(o);
    code = ds_fs_fallocate(o->fs, out->file, o->bytes);
    if (code == -ENOSPC || code == -EDQUOT)
        return refuse_size(o);
    if (code == -EFBIG)
        return ds_fail(DS_ERR_CONFIG,
                       "%s: %s: a file of %" PRIu64
                       " bytes is more than a process may write (ulimit -f) or the file system has",
                       o->who, o->directory, o->bytes);
    return code == 0 ? DS_OK : refuse(o, "the file for states cannot be made so large", code);
}

static ds_status make_and_reserve(const struct ds_swap_file_options *o, struct ds_swap_file *out)
{
    char path[DS_SWAP_PATH_BYTES + 8];

    snprintf(path, sizeof path, "%s.data", out->path);
    out->file = ds_fs_create_nameless(o->fs, path, 0600, &out->buffered);
    return out->file >= 0 ? reserve(o, out)
                          : refuse(o, "a file for states cannot be made there", out->file);
}

static ds_status check_directory(const struct ds_swap_file_options *o)
{
    struct ds_fs_stat stat;
    const int code = ds_fs_stat(o->fs, o->directory, &stat);

    if (code == 0 && stat.is_directory)
        return DS_OK;
    return refuse(o, "states cannot live there", code ? code : -ENOTDIR);
}

static void name_file(const struct ds_swap_file_options *o, char *to)
{
    char host[64];

    host_name(host, sizeof host);
    snprintf(to, DS_SWAP_PATH_BYTES, "%s/" PREFIX "%s-%04" PRIu32 SUFFIX, o->directory, host,
             o->local_rank);
}

ds_status ds_swap_file_open(const struct ds_swap_file_options *options, struct ds_swap_file *out)
{
    ds_status st;

    *out = (struct ds_swap_file){.file = -1, .lock = -1};
    DS_TRY(check_directory(options));
    name_file(options, out->path);
    DS_TRY(take_place(options, out));
    st = make_and_reserve(options, out);
    if (st != DS_OK)
        ds_swap_file_close(options->fs, out);
    return st;
}

void ds_swap_file_close(struct ds_fs *fs, struct ds_swap_file *file)
{
    int code;

    if (file->file >= 0)
        (void)ds_fs_close(fs, file->file);
    file->file = -1;
    if (file->lock < 0)
        return;
    code = ds_fs_unlink(fs, file->path); /* while the lock still says whose it is */
    if (code != 0 && code != -ENOENT)
        ds_warn("%s: cannot be removed: %s", file->path, strerror(-code));
    (void)ds_fs_close(fs, file->lock);
    file->lock = -1;
}

/* ---- what others have left */

static int is_of_host(const char *name, const char *prefix)
{
    const size_t length = strlen(name), end = strlen(SUFFIX);

    return strncmp(name, prefix, strlen(prefix)) == 0 && length > end &&
           strcmp(name + length - end, SUFFIX) == 0;
}

void ds_swap_file_sweep(const struct ds_swap_file_options *o)
{
    char host[64], prefix[96], path[DS_SWAP_PATH_BYTES], **names = NULL;
    size_t count = 0;

    host_name(host, sizeof host);
    snprintf(prefix, sizeof prefix, PREFIX "%s-", host);
    if (ds_fs_readdir(o->fs, o->directory, &names, &count) != 0)
        return; /* whoever needs it will say so */
    for (size_t i = 0; i < count; i++) {
        if (!is_of_host(names[i], prefix))
            continue;
        snprintf(path, sizeof path, "%s/%s", o->directory, names[i]);
        const int file = ds_fs_open(o->fs, path, DS_FS_READ | DS_FS_WRITE, 0);
        if (file >= 0 && ds_fs_lock(o->fs, file) == 0 && ds_fs_unlink(o->fs, path) == 0)
            ds_info("%s: %s was left by a run that was killed, and is gone", o->who, path);
        if (file >= 0)
            (void)ds_fs_close(o->fs, file);
    }
    free(names);
}
