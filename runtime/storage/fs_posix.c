/* fs_posix.c - the disk. A thin translation to system calls: results become 0, a count or -errno, and
 * an interrupted call is made again. Keeps no state, so it is one shared constant; safe for threads. */
#include "dstrain/fs.h"

#include "names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

/* The value of a system call, or -errno; again if a signal came between. */
#define RETRIED(result, call) \
    do {                      \
        (result) = (call);    \
    } while ((result) < 0 && errno == EINTR)

static int posix_code(int result)
{
    return result < 0 ? -errno : 0;
}

static int posix_flags(uint32_t flags)
{
    const int reads = (flags & DS_FS_READ) != 0;
    const int writes = (flags & (DS_FS_WRITE | DS_FS_APPEND)) != 0;
    int out = O_CLOEXEC | (reads && writes ? O_RDWR : writes ? O_WRONLY : O_RDONLY);

    out |= flags & DS_FS_CREATE ? O_CREAT : 0;
    out |= flags & DS_FS_EXCLUSIVE ? O_EXCL : 0;
    out |= flags & DS_FS_TRUNCATE ? O_TRUNC : 0;
    out |= flags & DS_FS_APPEND ? O_APPEND : 0;
    out |= flags & DS_FS_DIRECT ? O_DIRECT : 0;
    out |= flags & DS_FS_REGULAR ? O_NONBLOCK : 0;
    out |= flags & DS_FS_NO_LINK ? O_NOFOLLOW : 0;
    return out;
}

/* And from here on it may wait for the disk: io_uring would not, where the flag has stayed. */
static int posix_need_regular(int file, uint32_t flags)
{
    struct stat info;

    if (fstat(file, &info) != 0)
        return -errno;
    if (!S_ISREG(info.st_mode))
        return S_ISDIR(info.st_mode) ? -EISDIR : -EMEDIUMTYPE;
    return posix_code(fcntl(file, F_SETFL, posix_flags(flags & ~(uint32_t)DS_FS_REGULAR)));
}

static int posix_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    int file, code;

    (void)fs;
    RETRIED(file, open(path, posix_flags(flags), (mode_t)mode));
    if (file < 0) /* ENXIO: a socket */
        return errno == ENXIO && (flags & DS_FS_REGULAR) ? -EMEDIUMTYPE : -errno;
    code = flags & DS_FS_REGULAR ? posix_need_regular(file, flags) : 0;
    if (code != 0)
        close(file);
    return code != 0 ? code : file;
}

/* Not retried: on Linux the descriptor is gone even when close says EINTR. */
static int posix_close(struct ds_fs *fs, int file)
{
    (void)fs;
    if (close(file) == 0 || errno == EINTR)
        return 0;
    return -errno;
}

static int64_t posix_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    ssize_t got;

    (void)fs;
    RETRIED(got, pread(file, to, bytes, (off_t)offset));
    return got < 0 ? -errno : got;
}

static int64_t posix_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                            uint64_t offset)
{
    ssize_t put;

    (void)fs;
    RETRIED(put, pwrite(file, from, bytes, (off_t)offset));
    return put < 0 ? -errno : put;
}

static int64_t posix_append(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    ssize_t put;

    (void)fs;
    RETRIED(put, write(file, from, bytes));
    return put < 0 ? -errno : put;
}

static int posix_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    int result;

    (void)fs;
    RETRIED(result, ftruncate(file, (off_t)bytes));
    return posix_code(result);
}

/* Where blocks cannot be reserved (NFS, some overlays) the size alone is set: posix_fallocate would
 * write every block instead. */
static int posix_reserve(struct ds_fs *fs, int file, uint64_t bytes)
{
    struct stat info;
    int result;

    if (bytes == 0)
        return 0;
    RETRIED(result, fallocate(file, 0, 0, (off_t)bytes));
    if (result == 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
        return posix_code(result);
    if (fstat(file, &info) != 0)
        return -errno;
    return (uint64_t)info.st_size < bytes ? posix_truncate(fs, file, bytes) : 0;
}

static int posix_fsync(struct ds_fs *fs, int file)
{
    int result;

    (void)fs;
    RETRIED(result, fsync(file));
    return posix_code(result);
}

static int posix_fsync_dir(struct ds_fs *fs, const char *path)
{
    int directory, code;

    RETRIED(directory, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory < 0)
        return -errno;
    code = posix_fsync(fs, directory);
    close(directory);
    return code;
}

static int posix_rename(struct ds_fs *fs, const char *from, const char *to)
{
    (void)fs;
    return posix_code(rename(from, to));
}

static int posix_link(struct ds_fs *fs, const char *from, const char *to)
{
    (void)fs;
    return posix_code(link(from, to));
}

static int posix_unlink(struct ds_fs *fs, const char *path)
{
    (void)fs;
    return posix_code(unlink(path));
}

static int posix_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    (void)fs;
    return posix_code(mkdir(path, (mode_t)mode));
}

static int posix_rmdir(struct ds_fs *fs, const char *path)
{
    (void)fs;
    return posix_code(rmdir(path));
}

static void fill_stat(const struct stat *info, struct ds_fs_stat *out)
{
    *out = (struct ds_fs_stat){
        .bytes = (uint64_t)info->st_size,
        .mtime_ns = (uint64_t)info->st_mtim.tv_sec * 1000000000u + (uint64_t)info->st_mtim.tv_nsec,
        .owner = (uint32_t)info->st_uid,
        .mode = (uint32_t)info->st_mode & 07777u,
        .is_directory = S_ISDIR(info->st_mode),
        .is_regular = S_ISREG(info->st_mode),
        .device = (uint64_t)info->st_dev,
        .inode = (uint64_t)info->st_ino,
    };
}

static int posix_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    struct stat info;

    (void)fs;
    if (stat(path, &info) != 0)
        return -errno;
    fill_stat(&info, out);
    return 0;
}

static int posix_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    struct stat info;

    (void)fs;
    if (fstat(file, &info) != 0)
        return -errno;
    fill_stat(&info, out);
    return 0;
}

static int list_names(DIR *directory, struct name_list *list)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);

        if (!entry)
            return -errno;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (name_list_add(list, entry->d_name) != 0)
            return -ENOMEM;
    }
}

static int posix_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    struct name_list list = {0};
    DIR *directory = opendir(path);

    (void)fs;
    if (!directory)
        return -errno;
    int code = list_names(directory, &list);
    closedir(directory);
    if (code == 0)
        code = name_list_pack(&list, names);
    if (code == 0)
        *count = list.count;
    name_list_fini(&list);
    return code;
}

static int posix_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    struct statvfs info;

    (void)fs;
    if (statvfs(path, &info) != 0)
        return -errno;
    out->total_bytes = (uint64_t)info.f_blocks * info.f_frsize;
    out->free_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return 0;
}

static int posix_map(struct ds_fs *fs, int file, size_t bytes, const void **at)
{
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);

    (void)fs;
    if (mapped == MAP_FAILED)
        return -errno;
    *at = mapped;
    return 0;
}

static void posix_unmap(struct ds_fs *fs, const void *at, size_t bytes)
{
    (void)fs;
    munmap((void *)at, bytes);
}

static int posix_native(struct ds_fs *fs, int file)
{
    (void)fs;
    return file;
}

/* Of the open file, not of the process: two in one process keep each other out, too. */
static int posix_lock(struct ds_fs *fs, int file)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    (void)fs;
    if (fcntl(file, F_OFD_SETLK, &whole) == 0)
        return 0;
    if (errno == EACCES)
        return -EAGAIN;
    return errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS ? -ENOTSUP : -errno;
}

/* The kernel tells since 6.1, and then not for every file system. */
static int posix_direct_align(struct ds_fs *fs, int file)
{
    (void)fs;
#ifdef STATX_DIOALIGN
    struct statx info;

    if (statx(file, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
        (info.stx_mask & STATX_DIOALIGN)) {
        const uint32_t memory = info.stx_dio_mem_align, offset = info.stx_dio_offset_align;

        return memory == 0 || offset == 0 ? -EINVAL : (int)(memory > offset ? memory : offset);
    }
#else
    (void)file;
#endif
    return -ENOTSUP;
}

static int posix_drop_cache(struct ds_fs *fs, int file)
{
    (void)fs;
    return -posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
}

static int posix_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to, uint64_t to_offset,
                       uint64_t bytes)
{
    struct file_clone_range range = {
        .src_fd = from, .src_offset = from_offset, .src_length = bytes, .dest_offset = to_offset};
    int result;

    (void)fs;
    RETRIED(result, ioctl(to, FICLONERANGE, &range));
    return posix_code(result);
}

static int posix_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes)
{
    int result;

    (void)fs;
    RETRIED(result, fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                              (off_t)bytes));
    if (result == 0)
        RETRIED(result, fallocate(file, 0, (off_t)offset, (off_t)bytes));
    return posix_code(result);
}

/* By the numbers of statfs(2), not all of which have names in all headers. */
static const char *posix_warning(struct ds_fs *fs, const char *path)
{
    static const struct {
        uint32_t magic;
        const char *what;
    } kinds[] = {{0x01021994, "memory (tmpfs)"},          {0x858458f6, "memory (ramfs)"},
                 {0x6969, "a network mount (NFS)"},       {0xff534d42, "a network mount (CIFS)"},
                 {0xfe534d42, "a network mount (SMB)"},   {0x0bd00bd0, "a network mount (Lustre)"},
                 {0x00c36400, "a network mount (Ceph)"},  {0x47504653, "a network mount (GPFS)"},
                 {0x19830326, "a network mount (BeeGFS)"}};
    struct statfs info;

    (void)fs;
    for (size_t i = 0; statfs(path, &info) == 0 && i < sizeof kinds / sizeof *kinds; i++)
        if ((uint32_t)info.f_type == kinds[i].magic)
            return kinds[i].what;
    return NULL;
}

static const struct ds_fs_ops posix_ops = {
    .name = "posix",
    .open = posix_open,
    .close = posix_close,
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .append = posix_append,
    .fallocate = posix_reserve,
    .truncate = posix_truncate,
    .fsync = posix_fsync,
    .fsync_dir = posix_fsync_dir,
    .rename = posix_rename,
    .link = posix_link,
    .unlink = posix_unlink,
    .mkdir = posix_mkdir,
    .rmdir = posix_rmdir,
    .stat = posix_stat,
    .fstat = posix_fstat,
    .readdir = posix_readdir,
    .statvfs = posix_statvfs,
    .map = posix_map,
    .unmap = posix_unmap,
    .native = posix_native,
    .lock = posix_lock,
    .direct_align = posix_direct_align,
    .warning = posix_warning,
    .drop_cache = posix_drop_cache,
    .clone = posix_clone,
    .renew = posix_renew,
};

static const struct ds_fs posix_fs = {.ops = &posix_ops};

struct ds_fs *ds_fs_posix(void)
{
    return (struct ds_fs *)&posix_fs; /* nobody writes through it: it has no state */
}
