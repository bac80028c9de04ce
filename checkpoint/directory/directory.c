/* directory.c - whose directory it is, and its folders. */
#include "directory.h"

#include "format/document.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUN_FORMAT  "{\"format\":\"dstrain run\",\"version\":"
#define RUN_VERSION 1u
#define SMALL_BYTES 4096
#define FOLDER_MODE 0750

enum { FOLDER_EPOCHS, FOLDER_DATA, FOLDER_MANIFESTS, FOLDER_COUNT };
static const char *const folders[FOLDER_COUNT] = {
    [FOLDER_EPOCHS] = "epochs", [FOLDER_DATA] = "data", [FOLDER_MANIFESTS] = "manifests"};

/* ---- whose it is */

static size_t run_text(const uint8_t run[16], const struct ds_digest *keys, char *to)
{
    struct text text = {.at = to, .capacity = SMALL_BYTES};

    text_put(&text, RUN_FORMAT "%u,\n\"run\":", RUN_VERSION);
    document_put_hex(&text, run);
    text_put(&text, ",\"keys\":");
    document_put_hex(&text, keys->bytes);
    text_put(&text, "}\n");
    document_seal(&text);
    return text.bytes;
}

static ds_status parse_run(const char *path, const char *text, size_t body_bytes, uint8_t run[16],
                           struct ds_digest *keys)
{
    struct document doc = {path, text, text, text + body_bytes};
    uint64_t version = 0;

    DS_TRY(document_keyed(&doc, RUN_FORMAT, UINT32_MAX, &version));
    if (version != RUN_VERSION)
        return ds_fail(DS_ERR_DATA,
                       "%s: format version %" PRIu64 "; this program knows %u: take a newer one",
                       path, version, RUN_VERSION);
    DS_TRY(document_expect(&doc, ",\n\"run\":"));
    DS_TRY(document_hex(&doc, run));
    DS_TRY(document_expect(&doc, ",\"keys\":"));
    DS_TRY(document_hex(&doc, keys->bytes));
    DS_TRY(document_expect(&doc, "}\n"));
    return document_end(&doc);
}

/* Of whatever is wrong with it one line is said, here or below. */
static ds_status read_run(struct ds_fs *fs, const char *root, uint8_t run[16],
                          struct ds_digest *keys)
{
    char path[DS_CHECKPOINT_PATH_BYTES], *text = NULL;
    size_t bytes = 0, body_bytes = 0;

    directory_path(root, "", "RUN.json", path);
    if (ds_fs_read_own_file(fs, path, SMALL_BYTES, &text, &bytes) != DS_OK)
        return DS_ERR_CONFIG;
    ds_status st =
        document_is_whole(text, bytes, &body_bytes)
            ? parse_run(path, text, body_bytes, run, keys)
            : ds_fail(DS_ERR_CONFIG,
                      "%s: not a directory of checkpoints, or its RUN.json is damaged", root);
    free(text);
    return st == DS_ERR_CORRUPT ? DS_ERR_CONFIG : st;
}

ds_status ds_checkpoint_read_run(struct ds_fs *fs, const char *root, uint8_t run[16])
{
    struct ds_digest keys;
    uint8_t there[16];

    DS_TRY(read_run(fs, root, there, &keys));
    memcpy(run, there, sizeof there);
    return DS_OK;
}

/* ---- its folders */

static int make_folder(struct ds_fs *fs, const char *path)
{
    int code = ds_fs_mkdir(fs, path, FOLDER_MODE);

    return code == -EEXIST ? 0 : code;
}

/* The folders, their names durable. RUN.json comes after them: where it is, they are. */
static int make_folders(struct ds_fs *fs, const char *root)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    int code = make_folder(fs, root);

    if (code == 0)
        code = ds_fs_fsync_parent(fs, root);
    for (size_t i = 0; i < FOLDER_COUNT && code == 0; i++) {
        directory_path(root, "", folders[i], path);
        code = make_folder(fs, path);
    }
    return code == 0 ? ds_fs_fsync_dir(fs, root) : code;
}

static int has_names(struct ds_fs *fs, const char *root, const char *folder,
                     int (*is_fine)(const char *name))
{
    char path[DS_CHECKPOINT_PATH_BYTES], **names = NULL;
    size_t count = 0;
    int others = 0;

    directory_path(root, "", folder, path);
    if (ds_fs_readdir(fs, path, &names, &count) != 0)
        return 0;
    for (size_t i = 0; i < count; i++)
        others |= !is_fine(names[i]);
    free(names);
    return others;
}

static int is_no_pack(const char *name)
{
    struct ds_pack_id id;

    return !ds_pack_name_parse(name, &id);
}

static int has_packs(struct ds_fs *fs, const char *root)
{
    char path[DS_CHECKPOINT_PATH_BYTES], folder[DIRECTORY_NAME_BYTES + 8], **names = NULL;
    int found = 0;
    size_t count;

    directory_path(root, "", "data", path);
    if (ds_fs_readdir(fs, path, &names, &count) != 0)
        return 0;
    for (size_t i = 0; i < count && !found; i++) {
        snprintf(folder, sizeof folder, "data/%.*s", DIRECTORY_NAME_BYTES, names[i]);
        found = has_names(fs, root, folder, is_no_pack);
    }
    free(names);
    return found;
}

/* Somebody has removed or not copied one, since it was there before RUN.json. Claims and packs are made anew: what they
 * said is lost already, the next epoch is above those of all manifests, and who holds a claim that is gone commits no more.
 * Without manifests everything else would go as what nobody needs: they are asked for. */
static ds_status mend_folders(struct ds_fs *fs, const char *root)
{
    int is_missing[FOLDER_COUNT] = {0}, missing_count = 0;
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;

    for (size_t i = 0; i < FOLDER_COUNT; i++) {
        directory_path(root, "", folders[i], path);
        is_missing[i] = ds_fs_stat(fs, path, &stat) == -ENOENT;
        missing_count += is_missing[i];
    }
    if (missing_count == 0)
        return DS_OK;
    if (is_missing[FOLDER_MANIFESTS] && has_packs(fs, root))
        return ds_fail(DS_ERR_CONFIG,
                       "%s: has packs of checkpoints, but its folder manifests is missing; put it "
                       "back, or remove the folder data with them",
                       root);
    const int code = make_folders(fs, root);
    if (code != 0)
        return directory_refuse(root, "a folder is missing, and cannot be made", code);
    for (size_t i = 0; i < FOLDER_COUNT; i++)
        if (is_missing[i])
            ds_warn("%s: its folder %s was missing, and is made anew, empty", root, folders[i]);
    return DS_OK;
}

/* ---- a run that is there */

static ds_status check_run(struct ds_checkpoint_dir *dir, const struct ds_digest *keys)
{
    struct ds_digest keys_there = {{0}};

    DS_TRY(read_run(dir->fs, dir->root, dir->run, &keys_there));
    if (!ds_digest_equal(keys, &keys_there))
        return ds_fail(DS_ERR_CONFIG,
                       "%s: belongs to another run: its model, data, seed or optimisation is not "
                       "this one's; name another directory",
                       dir->root);
    return mend_folders(dir->fs, dir->root);
}

/* ---- a new one */

#define RUN_TMP "RUN.json.tmp" /* and behind it which launch's */

int directory_is_new_run(const char *name)
{
    return strncmp(name, RUN_TMP, strlen(RUN_TMP)) == 0;
}

/* What a launch may have left that ended before RUN.json was there. */
static int may_be_ours(const char *name)
{
    static const char *const names[] = {"epochs", "data", "manifests", "latest"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return directory_is_new_run(name);
}

static int is_no_manifest(const char *name)
{
    struct ds_manifest_id id;

    return !directory_manifest_parse(name, ".json", &id);
}

/* Nothing is put among somebody else's files, nor beside checkpoints of which nobody knows whose they are. NULL: nothing
 * is in the way. */
static const char *find_obstacle(struct ds_fs *fs, const char *root)
{
    if (has_names(fs, root, "", may_be_ours))
        return "holds other files and no RUN.json, so it is no directory of checkpoints; name one "
               "that is empty, or not there";
    if (has_names(fs, root, "manifests", is_no_manifest))
        return "holds checkpoints, but its RUN.json is missing; put it back, or name another "
               "directory";
    return NULL;
}

/* A whole file, under a name that nobody has: of several launches that begin at once one gives the run its name. 0 or
 * -errno. */
static int name_run(const struct ds_checkpoint_dir *dir, const char *path,
                    const struct ds_digest *keys)
{
    char tmp[DS_CHECKPOINT_PATH_BYTES], name[DIRECTORY_NAME_BYTES], hex[DS_DIGEST_TEXT_BYTES];
    char text[SMALL_BYTES];
    const size_t bytes = run_text(dir->run, keys, text);
    struct ds_digest nonce;
    int is_made = 0;

    memcpy(nonce.bytes, dir->nonce, sizeof nonce.bytes);
    ds_digest_text(&nonce, hex);
    snprintf(name, sizeof name, RUN_TMP "-%s", hex);
    directory_path(dir->root, "", name, tmp);
    int code = directory_create(dir->fs, tmp, text, bytes, &is_made);
    if (code == 0)
        code = ds_fs_link(dir->fs, tmp, path);
    if (code == -EPERM || code == -EOPNOTSUPP || code == -ENOSYS) /* a disk without links */
        code = ds_fs_rename(dir->fs, tmp, path);
    if (is_made)
        (void)ds_fs_unlink(dir->fs, tmp);
    return code == 0 ? ds_fs_fsync_parent(dir->fs, path) : code;
}

/* `*is_taken`: another launch has just made it. */
static ds_status make_run(struct ds_checkpoint_dir *dir, const char *path,
                          const uint8_t fresh_run[16], const struct ds_digest *keys, int *is_taken)
{
    const char *obstacle = find_obstacle(dir->fs, dir->root);
    struct ds_fs_stat stat;
    int code = ds_fs_stat(dir->fs, path, &stat);

    *is_taken = code == 0;
    if (*is_taken)
        return DS_OK;
    if (obstacle)
        return ds_fail(DS_ERR_CONFIG, "%s: %s", dir->root, obstacle);
    dir->is_new = 1;
    code = make_folders(dir->fs, dir->root);
    if (code != 0)
        return ds_fail(DS_ERR_CONFIG, "%s: cannot be made a directory of checkpoints: %s",
                       dir->root, strerror(-code));
    memcpy(dir->run, fresh_run, sizeof dir->run);
    code = name_run(dir, path, keys);
    *is_taken = code == -EEXIST || code == -ENOENT; /* who has it tidies, too */
    dir->is_new = !*is_taken;
    return code == 0 || *is_taken
               ? DS_OK
               : directory_refuse(dir->root, "nothing says yet whose it is", code);
}

/* Nobody can claim it once `epochs` is gone, and that goes only where nobody has. */
void directory_unmake(const struct ds_checkpoint_dir *dir)
{
    char path[DS_CHECKPOINT_PATH_BYTES];

    directory_path(dir->root, "", folders[FOLDER_EPOCHS], path);
    int code = ds_fs_rmdir(dir->fs, path);
    if (code != 0 && code != -ENOENT)
        return;
    directory_path(dir->root, "", "RUN.json", path);
    code = ds_fs_unlink(dir->fs, path);
    if (code != 0 && code != -ENOENT) {
        (void)make_folders(dir->fs, dir->root); /* it is a directory of ours still */
        return;
    }
    for (size_t i = FOLDER_EPOCHS + 1; i < FOLDER_COUNT; i++) {
        directory_path(dir->root, "", folders[i], path);
        (void)ds_fs_rmdir(dir->fs, path);
    }
}

static ds_status open_run(struct ds_checkpoint_dir *dir, const uint8_t fresh_run[16],
                          const struct ds_digest *keys)
{
    char path[DS_CHECKPOINT_PATH_BYTES];
    struct ds_fs_stat stat;
    int is_there;

    directory_path(dir->root, "", "RUN.json", path);
    const int code = ds_fs_stat(dir->fs, path, &stat);
    if (code != 0 && code != -ENOENT)
        return ds_fail(DS_ERR_CONFIG, "%s: %s", dir->root, strerror(-code));
    is_there = code == 0;
    if (!is_there)
        DS_TRY(make_run(dir, path, fresh_run, keys, &is_there));
    return is_there ? check_run(dir, keys) : DS_OK;
}

ds_status ds_checkpoint_dir_open(struct ds_fs *fs, const char *root, const uint8_t fresh_run[16],
                                 const uint8_t nonce[16], const struct ds_digest *keys,
                                 struct ds_checkpoint_dir **out)
{
    struct ds_checkpoint_dir *dir = calloc(1, sizeof *dir);
    char *copy = strdup(root);

    if (!dir || !copy) {
        free(dir);
        free(copy);
        return ds_fail(DS_ERR_NO_MEMORY, "no memory for a directory of checkpoints");
    }
    dir->root = copy;
    dir->fs = fs;
    memcpy(dir->nonce, nonce, sizeof dir->nonce);
    ds_status st = strlen(root) >= DS_CHECKPOINT_PATH_BYTES - 256
                       ? ds_fail(DS_ERR_CONFIG, "%s: too long a path", root)
                       : open_run(dir, fresh_run, keys);
    if (st != DS_OK) {
        if (dir->is_new)
            directory_unmake(dir);
        ds_checkpoint_dir_close(dir);
        return st;
    }
    *out = dir;
    return DS_OK;
}

void ds_checkpoint_dir_close(struct ds_checkpoint_dir *dir)
{
    if (!dir)
        return;
    ds_checkpoint_dir_close(dir->mirror);
    free(dir->root);
    free(dir);
}

void ds_checkpoint_join(struct ds_checkpoint_dir *dir, struct ds_checkpoint_dir *mirror)
{
    DS_ASSERT(!dir->mirror && memcmp(dir->run, mirror->run, sizeof dir->run) == 0);
    dir->mirror = mirror;
}

void ds_checkpoint_leave_mirror(struct ds_checkpoint_dir *dir)
{
    dir->mirror = NULL;
}

int ds_checkpoint_has_mirror(const struct ds_checkpoint_dir *dir)
{
    return dir->mirror != NULL;
}

const uint8_t *ds_checkpoint_dir_run(const struct ds_checkpoint_dir *dir)
{
    return dir->run;
}

uint64_t ds_checkpoint_dir_epoch(const struct ds_checkpoint_dir *dir)
{
    return dir->epoch;
}

/* ---- what is known to be good */

void directory_distrust(struct ds_checkpoint_dir *dir, uint32_t index)
{
    struct ds_manifest_id *at = dir->trusted + index;

    memmove(at, at + 1, (--dir->trusted_count - index) * sizeof *at);
}

void ds_checkpoint_trust(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id)
{
    for (uint32_t i = 0; i < dir->trusted_count; i++)
        if (ds_manifest_id_compare(&dir->trusted[i], id) == 0)
            return;
    if (dir->trusted_count == DIRECTORY_TRUSTED_MAX) /* the oldest matter, and the newest */
        directory_distrust(dir, DIRECTORY_TRUSTED_MAX / 2);
    dir->trusted[dir->trusted_count++] = *id;
}

void ds_checkpoint_trust_mirror(struct ds_checkpoint_dir *dir, const struct ds_manifest_id *id)
{
    if (dir->mirror)
        ds_checkpoint_trust(dir->mirror, id);
}
