/* copy_pack.c - see copy_pack.h. */
#include "copy_pack.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define READ_BACK_EVERY 100 /* of this many chunks one is read again behind the copy */

struct copy {
    const struct copy_pack_options *o;
    const struct ds_pack *from;
    const char *path; /* of what is being written */
    int to;
};

/* ---- bytes */

static ds_status put(const struct copy *c, uint64_t bytes, uint64_t offset)
{
    const int code = ds_fs_write_all(c->o->fs, c->to, c->o->buffer, bytes, offset);

    if (code != 0)
        return ds_fail(DS_ERR_IO, "write %s: %s", c->path, strerror(-code));
    return c->o->went_on(c->o->user, bytes) ? DS_OK : DS_ERR_DEADLINE;
}

/* What is no chunk, as it is: the sums of what readers need of it stand in the footer, and that one's in manifests. */
static ds_status copy_range(const struct copy *c, uint64_t begin, uint64_t end)
{
    while (begin < end) {
        const uint64_t left = end - begin;
        const uint64_t bytes = left < DS_PACK_CHUNK_BYTES ? left : DS_PACK_CHUNK_BYTES;
        const int code =
            ds_fs_read_all(c->o->fs, ds_pack_file(c->from), c->o->buffer, bytes, begin);

        if (code != 0)
            return ds_fail(DS_ERR_IO, "read %s: %s", ds_pack_path(c->from), strerror(-code));
        DS_TRY(put(c, bytes, begin));
        begin += bytes;
    }
    return DS_OK;
}

static ds_status copy_all(const struct copy *c)
{
    const struct ds_pack_info *info = ds_pack_info(c->from);
    const struct ds_pack_chunk *chunks = ds_pack_chunks(c->from);
    const uint64_t tail =
        info->boxes_offset < info->table_offset ? info->boxes_offset : info->table_offset;

    DS_TRY(copy_range(c, 0, info->header_bytes));
    for (uint32_t i = 0; i < info->chunk_count; i++) {
        if (chunks[i].pack != DS_PACK_HERE)
            continue;
        DS_TRY(ds_pack_read(c->from, i, c->o->buffer)); /* with its sum */
        DS_TRY(put(c, chunks[i].stored_bytes, chunks[i].offset));
    }
    return copy_range(c, tail, info->file_bytes);
}

/* ---- one file */

static ds_status fill(struct copy *c)
{
    struct ds_fs *fs = c->o->fs;
    const char *doing = "reserve room for";
    int code = ds_fs_fallocate(fs, c->to, ds_pack_info(c->from)->file_bytes);

    if (code == 0) {
        DS_TRY(copy_all(c));
        doing = "fsync of";
        code = ds_fs_fsync(fs, c->to);
    }
    if (code != 0)
        return ds_fail(DS_ERR_IO, "%s %s: %s", doing, c->path, strerror(-code));
    (void)ds_fs_drop_cache(fs, c->to); /* advice: nobody reads this soon */
    return DS_OK;
}

/* Under another name, until all of it lasts. */
static ds_status write_file(struct copy *c, const char *to)
{
    struct ds_fs *fs = c->o->fs;

    (void)ds_fs_unlink(fs, c->path); /* of a launch that was ended */
    c->to = ds_fs_open(fs, c->path, DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE, 0640);
    if (c->to < 0)
        return ds_fail(DS_ERR_IO, "create %s: %s", c->path, strerror(-c->to));
    ds_status st = fill(c);
    int code = ds_fs_close(fs, c->to);
    if (st == DS_OK && code == 0)
        code = ds_fs_rename(fs, c->path, to);
    if (st == DS_OK && code != 0)
        st = ds_fail(DS_ERR_IO, "rename %s: %s", c->path, strerror(-code));
    if (st != DS_OK)
        (void)ds_fs_unlink(fs, c->path);
    return st;
}

/* It was renamed when all of it lasted. */
static int is_there(const struct copy_pack_options *o, const struct ds_manifest_pack *pack,
                    const char *path)
{
    struct ds_fs_stat stat;

    return ds_fs_stat(o->fs, path, &stat) == 0 && stat.bytes == pack->pack.file_bytes;
}

ds_status copy_pack(const struct copy_pack_options *o, const struct ds_manifest_pack *pack)
{
    char from[DS_CHECKPOINT_PATH_BYTES], to[DS_CHECKPOINT_PATH_BYTES];
    char unfinished[DS_CHECKPOINT_PATH_BYTES + sizeof COPY_PACK_ENDING];
    struct copy copy = {.o = o, .path = unfinished};
    struct ds_pack *source = NULL;

    ds_checkpoint_pack_path(o->from, pack->dir, &pack->pack.id, from);
    ds_checkpoint_pack_path(o->to, pack->dir, &pack->pack.id, to);
    snprintf(unfinished, sizeof unfinished, "%s" COPY_PACK_ENDING, to);
    if (is_there(o, pack, to)) {
        const ds_status kept =
            ds_checkpoint_keep_pack(o->fs, o->to, pack, READ_BACK_EVERY, o->buffer);

        if (kept != DS_ERR_CORRUPT && kept != DS_ERR_IO)
            return kept;
        ds_warn("%s: damaged since it was copied: it is copied anew", to);
    }
    DS_TRY(ds_pack_open(o->fs, from, &pack->pack, &source));
    copy.from = source;
    ds_status st = write_file(&copy, to);
    ds_pack_close(source);
    DS_TRY(st);
    return ds_checkpoint_keep_pack(o->fs, o->to, pack, READ_BACK_EVERY, o->buffer);
}
