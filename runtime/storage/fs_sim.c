/* fs_sim.c - a disk in memory, for tests. It keeps what was synced and may lose the rest: a file's data
 * is kept after its fsync, a name after fsync_dir of its directory, each on its own (so a name may
 * survive whose data did not). That is weaker than any real file system promises. Paths start at one
 * root, with or without a slash; permissions are kept but not checked. append() writes at the end.
 * One lock: safe for threads, not for speed. */
#include "dstrain/fs.h"

#include "names.h"
#include "sim_tree.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISK_BYTES (1ull << 34)

struct sim_file {
    struct sim_node *node; /* NULL: free */
    uint32_t flags;
    int has_lock;
};

struct sim {
    struct ds_fs fs; /* first */
    pthread_mutex_t lock;
    struct sim_tree tree;
    struct sim_file *files;
    size_t file_count;
    int first_file; /* the number of files[0]; moves at a crash, so that old numbers stay dead */
    uint64_t tick_ns;
};

/* The rest of a function: the call under the lock, and its result. */
#define LOCKED_RETURN(type, fs, call)     \
    struct sim *sim = (struct sim *)(fs); \
    pthread_mutex_lock(&sim->lock);       \
    type result_ = (call);                \
    pthread_mutex_unlock(&sim->lock);     \
    return result_

static struct sim_file *file_of(struct sim *sim, int file)
{
    int index = file - sim->first_file;

    if (index < 0 || (size_t)index >= sim->file_count || !sim->files[index].node)
        return NULL;
    return &sim->files[index];
}

static int add_file(struct sim *sim, struct sim_node *node, uint32_t flags)
{
    size_t index = 0;

    while (index < sim->file_count && sim->files[index].node)
        index++;
    if (index == sim->file_count)
        sim->files = sim_memory(sim->files, ++sim->file_count * sizeof *sim->files);
    sim->files[index] = (struct sim_file){node, flags, 0};
    return sim->first_file + (int)index;
}

static void touch(struct sim *sim, struct sim_node *node)
{
    node->mtime_ns = ++sim->tick_ns;
}

static int open_locked(struct sim *sim, const char *path, uint32_t flags, uint32_t mode)
{
    struct sim_place place;
    int code = sim_tree_find(&sim->tree, path, &place);

    if (code != 0)
        return code;
    if (place.node && (flags & DS_FS_CREATE) && (flags & DS_FS_EXCLUSIVE))
        return -EEXIST;
    if (place.node && place.node->is_directory && (flags & ~(uint32_t)DS_FS_READ))
        return -EISDIR;
    if (!place.node && !(flags & DS_FS_CREATE))
        return -ENOENT;
    if (!place.node) {
        place.node = sim_tree_node(&sim->tree, 0, mode);
        touch(sim, place.node);
        sim_tree_move(&sim->tree, NULL, &place, place.node);
    } else if ((flags & DS_FS_TRUNCATE) && place.node->data.now.size > 0) {
        sim_data_resize(&place.node->data, 0);
        touch(sim, place.node);
    }
    return add_file(sim, place.node, flags);
}

static int sim_open(struct ds_fs *fs, const char *path, uint32_t flags, uint32_t mode)
{
    LOCKED_RETURN(int, fs, open_locked(sim, path, flags, mode));
}

static int close_locked(struct sim *sim, int file)
{
    struct sim_file *opened = file_of(sim, file);

    if (!opened)
        return -EBADF;
    opened->node = NULL;
    return 0;
}

static int sim_close(struct ds_fs *fs, int file)
{
    LOCKED_RETURN(int, fs, close_locked(sim, file));
}

/* As a disk with blocks of 4 KiB has it: -EINVAL for what O_DIRECT could not carry. */
static int direct_code(const struct sim_file *opened, const void *data, size_t bytes,
                       uint64_t offset)
{
    const uint64_t all = (uint64_t)(uintptr_t)data | bytes | offset;

    return (opened->flags & DS_FS_DIRECT) && all % DS_FS_DIRECT_ALIGN ? -EINVAL : 0;
}

/* What there is of these bytes, and how much that is. */
static int64_t read_now(const struct sim_image *now, void *to, size_t bytes, uint64_t offset)
{
    if (offset >= now->size || bytes == 0)
        return 0;
    if (bytes > now->size - offset)
        bytes = (size_t)(now->size - offset);
    memcpy(to, now->bytes + offset, bytes);
    return (int64_t)bytes;
}

static int64_t pread_locked(struct sim *sim, int file, void *to, size_t bytes, uint64_t offset)
{
    const struct sim_file *opened = file_of(sim, file);

    if (!opened || !(opened->flags & DS_FS_READ))
        return -EBADF;
    if (opened->node->is_directory)
        return -EISDIR;
    const int code = direct_code(opened, to, bytes, offset);
    return code != 0 ? code : read_now(&opened->node->data.now, to, bytes, offset);
}

static int64_t sim_pread(struct ds_fs *fs, int file, void *to, size_t bytes, uint64_t offset)
{
    LOCKED_RETURN(int64_t, fs, pread_locked(sim, file, to, bytes, offset));
}

/* The file behind a descriptor that may write, with room up to `end`; 0 or -errno. */
static int writable(struct sim *sim, int file, uint64_t end, struct sim_node **node)
{
    const struct sim_file *opened = file_of(sim, file);

    if (!opened || !(opened->flags & (DS_FS_WRITE | DS_FS_APPEND)))
        return -EBADF;
    if (end > DISK_BYTES)
        return -ENOSPC;
    *node = opened->node;
    return 0;
}

static int64_t pwrite_locked(struct sim *sim, int file, const void *from, size_t bytes,
                             uint64_t offset)
{
    struct sim_node *node;
    int code = writable(sim, file, offset + bytes, &node);

    if (code == 0)
        code = direct_code(file_of(sim, file), from, bytes, offset);
    if (code != 0)
        return code;
    sim_data_write(&node->data, from, bytes, offset);
    touch(sim, node);
    return (int64_t)bytes;
}

static int64_t sim_pwrite(struct ds_fs *fs, int file, const void *from, size_t bytes,
                          uint64_t offset)
{
    LOCKED_RETURN(int64_t, fs, pwrite_locked(sim, file, from, bytes, offset));
}

/* As if it were written: by what is synced of `to` one knows what is left of it. */
static int clone_locked(struct sim *sim, int from, uint64_t from_offset, int to, uint64_t to_offset,
                        uint64_t bytes)
{
    if (bytes == 0 || (from_offset | to_offset | bytes) % DS_FS_DIRECT_ALIGN != 0)
        return -EINVAL;
    uint8_t *copy = aligned_alloc(DS_FS_DIRECT_ALIGN, bytes);
    int64_t got = copy ? pread_locked(sim, from, copy, bytes, from_offset) : -ENOMEM;

    if (got >= 0 && (uint64_t)got < bytes)
        got = -EINVAL;
    if (got > 0)
        got = pwrite_locked(sim, to, copy, bytes, to_offset);
    free(copy);
    return got < 0 ? (int)got : 0;
}

static int sim_clone(struct ds_fs *fs, int from, uint64_t from_offset, int to, uint64_t to_offset,
                     uint64_t bytes)
{
    LOCKED_RETURN(int, fs, clone_locked(sim, from, from_offset, to, to_offset, bytes));
}

static int renew_locked(struct sim *sim, int file, uint64_t offset, uint64_t bytes)
{
    uint8_t *zeros = aligned_alloc(DS_FS_DIRECT_ALIGN, bytes);

    if (!zeros)
        return -ENOMEM;
    memset(zeros, 0, bytes);
    const int64_t put = pwrite_locked(sim, file, zeros, bytes, offset);
    free(zeros);
    return put < 0 ? (int)put : 0;
}

static int sim_renew(struct ds_fs *fs, int file, uint64_t offset, uint64_t bytes)
{
    LOCKED_RETURN(int, fs, renew_locked(sim, file, offset, bytes));
}

static int64_t append_locked(struct sim *sim, int file, const void *from, size_t bytes)
{
    const struct sim_file *opened = file_of(sim, file);

    return opened ? pwrite_locked(sim, file, from, bytes, opened->node->data.now.size) : -EBADF;
}

static int64_t sim_append(struct ds_fs *fs, int file, const void *from, size_t bytes)
{
    LOCKED_RETURN(int64_t, fs, append_locked(sim, file, from, bytes));
}

static int resize_locked(struct sim *sim, int file, uint64_t bytes, int may_shrink)
{
    struct sim_node *node;
    int code = writable(sim, file, bytes, &node);

    if (code != 0)
        return code;
    if (may_shrink || bytes > node->data.now.size) {
        sim_data_resize(&node->data, bytes);
        touch(sim, node);
    }
    return 0;
}

static int sim_fallocate(struct ds_fs *fs, int file, uint64_t bytes)
{
    LOCKED_RETURN(int, fs, resize_locked(sim, file, bytes, 0));
}

static int sim_truncate(struct ds_fs *fs, int file, uint64_t bytes)
{
    LOCKED_RETURN(int, fs, resize_locked(sim, file, bytes, 1));
}

static int fsync_locked(struct sim *sim, int file)
{
    struct sim_file *opened = file_of(sim, file);

    if (!opened)
        return -EBADF;
    sim_data_sync(&opened->node->data);
    return 0;
}

static int sim_fsync(struct ds_fs *fs, int file)
{
    LOCKED_RETURN(int, fs, fsync_locked(sim, file));
}

/* A path that has to be there. */
static int find_node(struct sim *sim, const char *path, struct sim_node **node)
{
    struct sim_place place;
    int code = sim_tree_find(&sim->tree, path, &place);

    if (code == 0 && !place.node)
        code = -ENOENT;
    if (code == 0)
        *node = place.node;
    return code;
}

static int fsync_dir_locked(struct sim *sim, const char *path)
{
    struct sim_node *dir;
    int code = find_node(sim, path, &dir);

    if (code != 0)
        return code;
    if (!dir->is_directory)
        return -ENOTDIR;
    sim_tree_sync(&sim->tree, dir);
    return 0;
}

static int sim_fsync_dir(struct ds_fs *fs, const char *path)
{
    LOCKED_RETURN(int, fs, fsync_dir_locked(sim, path));
}

/* Whether `from` may take the place of `to`. */
static int may_replace(const struct sim_node *from, const struct sim_node *to)
{
    if (!to)
        return 0;
    if (from->is_directory != to->is_directory)
        return to->is_directory ? -EISDIR : -ENOTDIR;
    return to->is_directory && to->now.count > 0 ? -ENOTEMPTY : 0;
}

static int is_inside(const struct sim_node *dir, const struct sim_node *node)
{
    int found = dir == node;

    for (size_t i = 0; i < dir->now.count && !found; i++)
        found = is_inside(dir->now.at[i].node, node);
    return found;
}

static int rename_locked(struct sim *sim, const char *from, const char *to)
{
    struct sim_place source, target;
    int code = sim_tree_find(&sim->tree, from, &source);

    if (code == 0)
        code = sim_tree_find(&sim->tree, to, &target);
    if (code == 0 && !source.node)
        code = -ENOENT;
    if (code == 0 && (!source.dir || !target.dir || is_inside(source.node, target.dir)))
        code = -EINVAL;
    if (code != 0 || source.node == target.node)
        return code;
    code = may_replace(source.node, target.node);
    if (code == 0)
        sim_tree_move(&sim->tree, &source, &target, source.node);
    return code;
}

static int sim_rename(struct ds_fs *fs, const char *from, const char *to)
{
    LOCKED_RETURN(int, fs, rename_locked(sim, from, to));
}

static int link_locked(struct sim *sim, const char *from, const char *to)
{
    struct sim_place target;
    struct sim_node *node;
    int code = find_node(sim, from, &node);

    if (code == 0)
        code = sim_tree_find(&sim->tree, to, &target);
    if (code == 0 && target.node)
        code = -EEXIST;
    if (code == 0 && node->is_directory)
        code = -EPERM;
    if (code == 0)
        sim_tree_move(&sim->tree, NULL, &target, node);
    return code;
}

static int sim_link(struct ds_fs *fs, const char *from, const char *to)
{
    LOCKED_RETURN(int, fs, link_locked(sim, from, to));
}

static int remove_locked(struct sim *sim, const char *path, int is_directory)
{
    struct sim_place place;
    int code = sim_tree_find(&sim->tree, path, &place);

    if (code != 0)
        return code;
    if (!place.node)
        return -ENOENT;
    if (place.node->is_directory != is_directory)
        return is_directory ? -ENOTDIR : -EISDIR;
    if (!place.dir)
        return -EBUSY;
    if (place.node->now.count > 0)
        return -ENOTEMPTY;
    sim_tree_move(&sim->tree, &place, NULL, place.node);
    return 0;
}

static int sim_unlink(struct ds_fs *fs, const char *path)
{
    LOCKED_RETURN(int, fs, remove_locked(sim, path, 0));
}

static int sim_rmdir(struct ds_fs *fs, const char *path)
{
    LOCKED_RETURN(int, fs, remove_locked(sim, path, 1));
}

static int mkdir_locked(struct sim *sim, const char *path, uint32_t mode)
{
    struct sim_place place;
    int code = sim_tree_find(&sim->tree, path, &place);

    if (code != 0)
        return code;
    if (place.node)
        return -EEXIST;
    sim_tree_move(&sim->tree, NULL, &place, sim_tree_node(&sim->tree, 1, mode));
    return 0;
}

static int sim_mkdir(struct ds_fs *fs, const char *path, uint32_t mode)
{
    LOCKED_RETURN(int, fs, mkdir_locked(sim, path, mode));
}

static void fill_stat(const struct sim_node *node, struct ds_fs_stat *out)
{
    *out = (struct ds_fs_stat){
        .bytes = node->data.now.size,
        .mtime_ns = node->mtime_ns,
        .owner = (uint32_t)getuid(),
        .mode = node->mode,
        .is_directory = node->is_directory,
        .is_regular = !node->is_directory,
    };
}

static int stat_locked(struct sim *sim, const char *path, struct ds_fs_stat *out)
{
    struct sim_node *node;
    int code = find_node(sim, path, &node);

    if (code == 0)
        fill_stat(node, out);
    return code;
}

static int sim_stat(struct ds_fs *fs, const char *path, struct ds_fs_stat *out)
{
    LOCKED_RETURN(int, fs, stat_locked(sim, path, out));
}

static int fstat_locked(struct sim *sim, int file, struct ds_fs_stat *out)
{
    const struct sim_file *opened = file_of(sim, file);

    if (!opened)
        return -EBADF;
    fill_stat(opened->node, out);
    return 0;
}

static int sim_fstat(struct ds_fs *fs, int file, struct ds_fs_stat *out)
{
    LOCKED_RETURN(int, fs, fstat_locked(sim, file, out));
}

static int readdir_locked(struct sim *sim, const char *path, char ***names, size_t *count)
{
    struct name_list list = {0};
    struct sim_node *dir;
    int code = find_node(sim, path, &dir);

    if (code == 0 && !dir->is_directory)
        code = -ENOTDIR;
    for (size_t i = 0; code == 0 && i < dir->now.count; i++)
        code = name_list_add(&list, dir->now.at[i].text);
    if (code == 0)
        code = name_list_pack(&list, names);
    if (code == 0)
        *count = list.count;
    name_list_fini(&list);
    return code;
}

static int sim_readdir(struct ds_fs *fs, const char *path, char ***names, size_t *count)
{
    LOCKED_RETURN(int, fs, readdir_locked(sim, path, names, count));
}

static int statvfs_locked(struct sim *sim, const char *path, struct ds_fs_space *out)
{
    struct sim_node *node;
    uint64_t used = 0;
    int code = find_node(sim, path, &node);

    if (code != 0)
        return code;
    for (node = sim->tree.nodes; node; node = node->next)
        used += node->data.now.size;
    *out = (struct ds_fs_space){DISK_BYTES, used < DISK_BYTES ? DISK_BYTES - used : 0};
    return 0;
}

static int sim_statvfs(struct ds_fs *fs, const char *path, struct ds_fs_space *out)
{
    LOCKED_RETURN(int, fs, statvfs_locked(sim, path, out));
}

/* A copy: what is mapped here does not follow later writes. */
static int map_locked(struct sim *sim, int file, size_t bytes, const void **at)
{
    const struct sim_file *opened = file_of(sim, file);

    if (!opened || !(opened->flags & DS_FS_READ))
        return -EBADF;
    if (opened->node->is_directory || bytes == 0)
        return -EINVAL;
    uint8_t *copy = sim_memory(NULL, bytes);
    memset(copy, 0, bytes);
    (void)read_now(&opened->node->data.now, copy, bytes, 0);
    *at = copy;
    return 0;
}

static int sim_map(struct ds_fs *fs, int file, size_t bytes, const void **at)
{
    LOCKED_RETURN(int, fs, map_locked(sim, file, bytes, at));
}

static void sim_unmap(struct ds_fs *fs, const void *at, size_t bytes)
{
    (void)fs;
    (void)bytes;
    free((void *)at);
}

static int lock_locked(struct sim *sim, int file)
{
    struct sim_file *opened = file_of(sim, file);

    if (!opened || !(opened->flags & (DS_FS_WRITE | DS_FS_APPEND)))
        return -EBADF;
    for (size_t i = 0; i < sim->file_count; i++)
        if (&sim->files[i] != opened && sim->files[i].node == opened->node &&
            sim->files[i].has_lock)
            return -EAGAIN;
    opened->has_lock = 1;
    return 0;
}

static int sim_lock(struct ds_fs *fs, int file)
{
    LOCKED_RETURN(int, fs, lock_locked(sim, file));
}

static int sim_direct_align(struct ds_fs *fs, int file)
{
    (void)fs;
    (void)file;
    return (int)DS_FS_DIRECT_ALIGN;
}

static const struct ds_fs_ops sim_ops = {
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .pread = sim_pread,
    .pwrite = sim_pwrite,
    .append = sim_append,
    .fallocate = sim_fallocate,
    .truncate = sim_truncate,
    .fsync = sim_fsync,
    .fsync_dir = sim_fsync_dir,
    .rename = sim_rename,
    .link = sim_link,
    .unlink = sim_unlink,
    .mkdir = sim_mkdir,
    .rmdir = sim_rmdir,
    .stat = sim_stat,
    .fstat = sim_fstat,
    .readdir = sim_readdir,
    .statvfs = sim_statvfs,
    .map = sim_map,
    .unmap = sim_unmap,
    .lock = sim_lock,
    .direct_align = sim_direct_align,
    .clone = sim_clone,
    .renew = sim_renew,
};

ds_status ds_fs_sim_open(struct ds_fs **out)
{
    struct sim *sim = calloc(1, sizeof *sim);

    if (!sim)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a simulated disk");
    sim->fs.ops = &sim_ops;
    pthread_mutex_init(&sim->lock, NULL);
    sim_tree_init(&sim->tree);
    *out = &sim->fs;
    return DS_OK;
}

void ds_fs_sim_close(struct ds_fs *fs)
{
    struct sim *sim = (struct sim *)fs;

    if (!sim)
        return;
    sim_tree_fini(&sim->tree);
    free(sim->files);
    pthread_mutex_destroy(&sim->lock);
    free(sim);
}

ds_status ds_fs_sim_copy(struct ds_fs *fs, struct ds_fs **out)
{
    struct sim *sim = (struct sim *)fs, *copy;

    DS_ASSERT(fs->ops == &sim_ops);
    DS_TRY(ds_fs_sim_open(out));
    copy = (struct sim *)*out;
    pthread_mutex_lock(&sim->lock);
    sim_tree_fini(&copy->tree);
    sim_tree_copy(&copy->tree, &sim->tree);
    copy->tick_ns = sim->tick_ns;
    pthread_mutex_unlock(&sim->lock);
    return DS_OK;
}

static void crash(struct ds_fs *fs, struct sim_dice *dice)
{
    struct sim *sim = (struct sim *)fs;

    DS_ASSERT(fs->ops == &sim_ops);
    pthread_mutex_lock(&sim->lock);
    sim->first_file += (int)sim->file_count;
    sim->file_count = 0;
    sim_tree_crash(&sim->tree, dice);
    pthread_mutex_unlock(&sim->lock);
}

void ds_fs_sim_crash(struct ds_fs *fs, uint64_t seed)
{
    struct sim_dice dice = {.seed = seed};

    crash(fs, &dice);
}

uint64_t ds_fs_sim_crash_by(struct ds_fs *fs, uint64_t choices)
{
    struct sim_dice dice = {.choices = choices, .is_chosen = 1};

    crash(fs, &dice);
    return dice.asked;
}

size_t ds_fs_sim_open_files(const struct ds_fs *fs)
{
    const struct sim *sim = (const struct sim *)fs;
    size_t count = 0;

    DS_ASSERT(fs->ops == &sim_ops);
    for (size_t i = 0; i < sim->file_count; i++)
        count += sim->files[i].node != NULL;
    return count;
}
