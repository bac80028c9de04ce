/* fs.c - the calls that everybody uses: one line each to the backend's table, and the habits built on
 * them that are the same for every backend. Nothing here keeps state; errors are -errno, and only the
 * two whole-file habits, which know what the caller wanted, decide a failure. */
#include "dstrain/fs.h"

#include "whole.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int ds_fs_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    DS_ASSERT(flags & (DS_FS_READ | DS_FS_WRITE | DS_FS_APPEND));
    return fs->ops->open(fs, path, flags, mode);
}

const char *ds_fs_why(int code)
{
    if (code == -EMEDIUMTYPE)
        return "not a regular file";
    return code == -ELOOP ? "a symbolic link, which is not followed here" : strerror(-code);
}

int ds_fs_close(struct ds_fs *fs, int file)
{
    return fs->ops->close(fs, file);
}

int64_t ds_fs_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    return fs->ops->pread(fs, file, to, bytes, offset);
}

int64_t ds_fs_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes, uint64_t offset)
{
    return fs->ops->pwrite(fs, file, from, bytes, offset);
}

int64_t ds_fs_append(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    return fs->ops->append(fs, file, from, bytes);
}

int ds_fs_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    return fs->ops->fallocate(fs, file, bytes);
}

int ds_fs_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    return fs->ops->truncate(fs, file, bytes);
}

int ds_fs_fsync(struct ds_fs *fs, int file)
{
    return fs->ops->fsync(fs, file);
}

int ds_fs_fsync_dir(struct ds_fs *fs, const char *path)
{
    return fs->ops->fsync_dir(fs, path);
}

/* "a/b" and "a//b/" lie in "a", "/a" in "/", "a" in ".". */
int ds_fs_fsync_parent(struct ds_fs *fs, const char *path)
{
    char *parent = strdup(path);
    size_t length = strlen(path);
    int code;

    if (!parent)
        return -ENOMEM;
    while (length > 1 && parent[length - 1] == '/')
        length--;
    while (length > 0 && parent[length - 1] != '/')
        length--;
    while (length > 1 && parent[length - 1] == '/')
        length--;
    parent[length] = '\0';
    code = ds_fs_fsync_dir(fs, length ? parent : ".");
    free(parent);
    return code;
}

int ds_fs_rename(struct ds_fs *fs, const char *from, const char *to)
{
    return fs->ops->rename(fs, from, to);
}

int ds_fs_link(struct ds_fs *fs, const char *from, const char *to)
{
    return fs->ops->link(fs, from, to);
}

int ds_fs_unlink(struct ds_fs *fs, const char *path)
{
    return fs->ops->unlink(fs, path);
}

int ds_fs_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    return fs->ops->mkdir(fs, path, mode);
}

int ds_fs_rmdir(struct ds_fs *fs, const char *path)
{
    return fs->ops->rmdir(fs, path);
}

int ds_fs_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    return fs->ops->stat(fs, path, out);
}

int ds_fs_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    return fs->ops->fstat(fs, file, out);
}

int ds_fs_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    return fs->ops->readdir(fs, path, names, count);
}

int ds_fs_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    return fs->ops->statvfs(fs, path, out);
}

int ds_fs_map(struct ds_fs *fs, int file, size_t bytes, const void **at)
{
    return fs->ops->map(fs, file, bytes, at);
}

void ds_fs_unmap(struct ds_fs *fs, const void *at, size_t bytes)
{
    fs->ops->unmap(fs, at, bytes);
}

int ds_fs_native(struct ds_fs *fs, int file)
{
    return fs->ops->native ? fs->ops->native(fs, file) : -ENOTSUP;
}

int ds_fs_lock(struct ds_fs *fs, int file)
{
    return fs->ops->lock ? fs->ops->lock(fs, file) : -ENOTSUP;
}

const char *ds_fs_warning(struct ds_fs *fs, const char *path)
{
    return fs->ops->warning ? fs->ops->warning(fs, path) : NULL;
}

int ds_fs_direct_align(struct ds_fs *fs, int file)
{
    return fs->ops->direct_align ? fs->ops->direct_align(fs, file) : -ENOTSUP;
}

int ds_fs_drop_cache(struct ds_fs *fs, int file)
{
    return fs->ops->drop_cache ? fs->ops->drop_cache(fs, file) : 0;
}

int ds_fs_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to, uint64_t to_offset,
                uint64_t bytes)
{
    return fs->ops->clone ? fs->ops->clone(fs, from, from_offset, to, to_offset, bytes)
                          : -EOPNOTSUPP;
}

int ds_fs_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes)
{
    return fs->ops->renew ? fs->ops->renew(fs, file, offset, bytes) : -EOPNOTSUPP;
}

int ds_fs_read_all(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    for (size_t done = 0; done < bytes;) {
        int64_t got = ds_fs_pread(fs, file, (uint8_t *)to + done, bytes - done, offset + done);

        if (got < 0)
            return (int)got;
        if (got == 0)
            return -EIO;
        done += (size_t)got;
    }
    return 0;
}

int ds_fs_write_all(struct ds_fs *fs, int file, const void *from, size_t bytes, uint64_t offset)
{
    for (size_t done = 0; done < bytes;) {
        int64_t put =
            ds_fs_pwrite(fs, file, (const uint8_t *)from + done, bytes - done, offset + done);

        if (put < 0)
            return (int)put;
        if (put == 0)
            return -EIO; /* a disk that takes nothing and does not say why */
        done += (size_t)put;
    }
    return 0;
}

static int is_directory(struct ds_fs *fs, const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(fs, path, &stat) == 0 && stat.is_directory;
}

/* mkdir that does not mind what is there, as long as it is a directory. A parent that we may not
 * write, or a read-only mount, answers EACCES or EROFS for a directory that is there, too. */
static int make_or_find(struct ds_fs *fs, const char *path, uint32_t mode)
{
    int code = ds_fs_mkdir(fs, path, mode);

    if (code == 0 || code == -ENOENT || is_directory(fs, path))
        return code == -ENOENT ? code : 0;
    return code == -EEXIST ? -ENOTDIR : code;
}

int ds_fs_mkdirs(struct ds_fs *fs, const char *path, uint32_t mode)
{
    char *part = strdup(path);
    int code = part ? 0 : -ENOMEM;

    for (char *at = part; code == 0 && at && *at;) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        char ended = *at;
        *at = '\0';
        code = make_or_find(fs, part, mode);
        *at = ended;
        at += strspn(at, "/");
    }
    free(part);
    return code;
}

static int remove_inside(struct ds_fs *fs, const char *path)
{
    char **names;
    size_t count;
    int code = ds_fs_readdir(fs, path, &names, &count);

    if (code != 0)
        return code;
    for (size_t i = 0; i < count && code == 0; i++) {
        char *child = whole_path(path, "/", names[i]);

        code = child ? ds_fs_remove_tree(fs, child) : -ENOMEM;
        free(child);
    }
    free(names);
    return code;
}

/* unlink first: it never follows a symbolic link, where asking what the path is would. */
int ds_fs_remove_tree(struct ds_fs *fs, const char *path)
{
    int code = ds_fs_unlink(fs, path);

    if (code == -EISDIR || code == -EPERM) {
        code = remove_inside(fs, path);
        if (code == 0)
            code = ds_fs_rmdir(fs, path);
    }
    return code == -ENOENT ? 0 : code;
}

/* Reads to the end and does not trust the size that stat told: a file in /proc says 0. */
static int read_to_end(struct ds_fs *fs, int file, size_t expected, size_t bytes_max, char **text,
                       size_t *bytes)
{
    size_t capacity = expected + 1, used = 0;
    char *buffer = NULL;

    for (;;) {
        char *grown = realloc(buffer, capacity + 1);
        int64_t got = grown ? 0 : -ENOMEM;

        buffer = grown ? grown : buffer;
        if (got == 0)
            got = ds_fs_pread(fs, file, buffer + used, capacity - used, used);
        if (got > 0 && used + (size_t)got > bytes_max)
            got = -EFBIG;
        if (got < 0) {
            free(buffer);
            return (int)got;
        }
        if (got == 0)
            break;
        used += (size_t)got;
        if (used == capacity)
            capacity *= 2;
    }
    buffer[used] = '\0';
    *text = buffer;
    *bytes = used;
    return 0;
}

static int read_file(struct ds_fs *fs, const char *path, uint32_t flags, size_t bytes_max,
                     char **text, size_t *bytes)
{
    struct ds_fs_stat stat;
    int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_REGULAR | flags, 0);

    if (file < 0)
        return file;
    int code = ds_fs_fstat(fs, file, &stat);
    if (code == 0 && stat.bytes > bytes_max)
        code = -EFBIG;
    if (code == 0)
        code = read_to_end(fs, file, (size_t)stat.bytes, bytes_max, text, bytes);
    (void)ds_fs_close(fs, file); /* nothing was written: it has no news */
    return code;
}

static ds_status cannot_read(const char *path, size_t bytes_max, int code)
{
    if (code == -ENOMEM)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to read the file", path);
    if (code == -EFBIG)
        return ds_fail(DS_ERR_DATA, "%s: larger than the %zu bytes allowed for this kind of file",
                       path, bytes_max);
    if (code == -EIO)
        return ds_fail(DS_ERR_IO, "%s: %s", path, strerror(EIO));
    return ds_fail(DS_ERR_DATA, "%s: %s", path, ds_fs_why(code));
}

ds_status ds_fs_read_file(struct ds_fs *fs, const char *path, size_t bytes_max, char **text,
                          size_t *bytes)
{
    const int code = read_file(fs, path, 0, bytes_max, text, bytes);

    return code == 0 ? DS_OK : cannot_read(path, bytes_max, code);
}

ds_status ds_fs_read_own_file(struct ds_fs *fs, const char *path, size_t bytes_max, char **text,
                              size_t *bytes)
{
    const int code = read_file(fs, path, DS_FS_NO_LINK, bytes_max, text, bytes);

    if (code == -EISDIR || code == -EMEDIUMTYPE || code == -ELOOP)
        return ds_fail(DS_ERR_CORRUPT, "%s: %s", path, ds_fs_why(code));
    return code == 0 ? DS_OK : cannot_read(path, bytes_max, code);
}

ds_status ds_fs_write_file(struct ds_fs *fs, const char *path, const void *data, size_t bytes)
{
    struct whole_file whole;
    int code;

    DS_TRY(whole_begin(&whole, fs, path));
    code = ds_fs_write_all(fs, whole.file, data, bytes, 0);
    if (code != 0) {
        ds_status st = ds_fail(DS_ERR_IO, "write %s: %s", whole.tmp, strerror(-code));

        whole_abandon(&whole);
        return st;
    }
    return whole_commit(&whole);
}
