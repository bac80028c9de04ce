/* pack_write.c - fills one pack after the other. Chunks go to the disk as they come, through a storage queue and
 * around the page cache where the file system lets us; places are given out in order, so nothing has to be known
 * ahead. The header's place is kept free for the most that it can take. One thread; after the first begin no memory
 * is taken. A file that saw a failure is never tried again: what the disk still has of it cannot be known. */
#include "pack_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct ds_pack_writer {
    /* owns */
    int file;                     /* -1: none */
    struct ds_pack_chunk *chunks; /* the table so far */
    uint8_t *header, *tail;       /* at multiples of DS_PACK_ALIGN */
    struct ds_storage_request *requests, *free_requests;
    /* borrows */
    struct ds_fs *fs;
    struct ds_storage *storage;
    const struct ds_pack_plan *plan;
    struct ds_pack_new pack;
    struct ds_pack_info info;
    uint32_t next;   /* chunk of the part */
    uint64_t offset; /* of the next chunk that is stored */
    ds_status st;    /* the first failure of a write */
    int is_cached;   /* the page cache is in between */
    int has_told;    /* that, and why */
};

static const struct ds_pack_part *part_of(const struct ds_pack_writer *writer)
{
    return &writer->plan->parts[writer->pack.id.part];
}

static uint64_t tail_bytes(const struct ds_pack_plan *plan, uint32_t chunk_count)
{
    return pack_boxes_bytes(plan->box_count) + pack_table_bytes(chunk_count) +
           2 * PACK_FOOTER_BYTES;
}

static ds_status writer_take(struct ds_pack_writer *writer, uint32_t depth)
{
    uint64_t header_bytes = DS_PACK_ALIGN;
    uint32_t chunk_count = 1;

    for (uint32_t i = 0; i < writer->plan->part_count; i++) {
        const struct ds_pack_part *part = &writer->plan->parts[i];

        header_bytes = part->header_bytes > header_bytes ? part->header_bytes : header_bytes;
        chunk_count = part->count > chunk_count ? part->count : chunk_count;
    }
    writer->chunks = calloc(chunk_count, sizeof *writer->chunks);
    writer->header = aligned_alloc(DS_PACK_ALIGN, header_bytes);
    writer->tail = aligned_alloc(DS_PACK_ALIGN, tail_bytes(writer->plan, chunk_count));
    writer->requests = calloc(depth, sizeof *writer->requests);
    if (!writer->chunks || !writer->header || !writer->tail || !writer->requests)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to write checkpoints");
    for (uint32_t i = 0; i < depth; i++) {
        writer->requests[i].next = writer->free_requests;
        writer->free_requests = &writer->requests[i];
    }
    return DS_OK;
}

ds_status ds_pack_writer_open(struct ds_fs *fs, struct ds_storage *storage, uint32_t depth,
                              const struct ds_pack_plan *plan, struct ds_pack_writer **out)
{
    struct ds_pack_writer *writer = calloc(1, sizeof *writer);

    DS_ASSERT(depth > 0);
    if (!writer)
        return ds_fail(DS_ERR_NO_MEMORY, "no memory to write checkpoints");
    *writer = (struct ds_pack_writer){.file = -1, .fs = fs, .storage = storage, .plan = plan};
    ds_status st = writer_take(writer, depth);
    if (st != DS_OK) {
        ds_pack_writer_close(writer);
        return st;
    }
    *out = writer;
    return DS_OK;
}

void ds_pack_writer_close(struct ds_pack_writer *writer)
{
    if (!writer)
        return;
    ds_pack_abandon(writer);
    free(writer->chunks);
    free(writer->header);
    free(writer->tail);
    free(writer->requests);
    free(writer);
}

/* ---- the queue */

static void give_back(const struct ds_pack_writer *writer, void *data)
{
    if (data && writer->pack.done)
        writer->pack.done(writer->pack.user, data);
}

/* Waits for one request and gives its memory back. */
static ds_status take_back(struct ds_pack_writer *writer)
{
    struct ds_storage_request *done = NULL;

    DS_TRY(ds_storage_reap(writer->storage, &done));
    if (done->status != DS_OK && writer->st == DS_OK)
        writer->st = done->status; /* it has been told */
    give_back(writer, done->user);
    done->next = writer->free_requests;
    writer->free_requests = done;
    return DS_OK;
}

static ds_status drain(struct ds_pack_writer *writer)
{
    while (ds_storage_in_flight(writer->storage) > 0)
        DS_TRY(take_back(writer));
    return writer->st;
}

ds_status ds_pack_drain(struct ds_pack_writer *writer)
{
    return drain(writer);
}

/* `user`: what goes back to the caller when it is written; NULL: it is ours. */
static ds_status submit(struct ds_pack_writer *writer, void *data, uint64_t bytes, uint64_t offset,
                        void *user)
{
    ds_status st = writer->free_requests ? DS_OK : take_back(writer);

    if (st != DS_OK) {
        give_back(writer, user);
        return st;
    }
    struct ds_storage_request *request = writer->free_requests;
    writer->free_requests = request->next;
    *request = (struct ds_storage_request){.is_write = 1,
                                           .file = writer->file,
                                           .data = data,
                                           .bytes = bytes,
                                           .offset = offset,
                                           .user = user};
    st = ds_storage_submit(writer->storage, request);
    if (st != DS_OK) {
        give_back(writer, user);
        request->next = writer->free_requests;
        writer->free_requests = request;
    }
    return st;
}

/* ---- one file */

#define OPEN_FLAGS (DS_FS_READ | DS_FS_WRITE | DS_FS_CREATE | DS_FS_EXCLUSIVE)

/* A descriptor or -errno. */
static int create(struct ds_pack_writer *writer)
{
    const char *path = writer->pack.path, *why = "as asked for";
    const int file = writer->pack.is_cached ? ds_fs_open(writer->fs, path, OPEN_FLAGS, 0640)
                                            : ds_fs_create_direct(writer->fs, path, 0640, &why);

    writer->is_cached = why != NULL;
    if (file >= 0 && why && !writer->has_told) {
        ds_info("checkpoints: writes of %s and later ones go through the page cache: %s", path,
                why);
        writer->has_told = 1;
    }
    return file;
}

ds_status ds_pack_begin(struct ds_pack_writer *writer, const struct ds_pack_new *pack)
{
    DS_ASSERT(writer->file < 0 && pack->id.part < writer->plan->part_count);
    DS_ASSERT(pack->other_count <= DS_PACK_OTHERS_MAX);
    writer->pack = *pack;
    const struct ds_pack_part *part = part_of(writer);
    writer->info = (struct ds_pack_info){.id = pack->id,
                                         .header_bytes = part->header_bytes,
                                         .chunk_count = part->count,
                                         .box_count = writer->plan->box_count,
                                         .other_count = pack->other_count};
    memcpy(writer->info.run, pack->run, sizeof writer->info.run);
    if (pack->other_count > 0)
        memcpy(writer->info.others, pack->others, pack->other_count * sizeof *pack->others);
    writer->next = 0;
    writer->offset = part->header_bytes;
    writer->st = DS_OK;
    writer->file = create(writer);
    if (writer->file < 0)
        return ds_fail(DS_ERR_IO, "create %s: %s", pack->path, strerror(-writer->file));
    int code = ds_fs_fallocate(writer->fs, writer->file, part->file_bytes_max);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "reserve %llu bytes for %s: %s",
                       (unsigned long long)part->file_bytes_max, pack->path, strerror(-code));
    return DS_OK;
}

void ds_pack_abandon(struct ds_pack_writer *writer)
{
    if (writer->file < 0)
        return;
    while (ds_storage_in_flight(writer->storage) > 0 && take_back(writer) == DS_OK)
        ; /* the failure that led here has been told */
    (void)ds_fs_close(writer->fs, writer->file);
    (void)ds_fs_unlink(writer->fs, writer->pack.path);
    writer->file = -1;
}

/* The next line of the table, as the plan has it. */
static struct ds_pack_chunk *next_chunk(struct ds_pack_writer *writer)
{
    const struct ds_pack_part *part = part_of(writer);

    DS_ASSERT(writer->file >= 0 && writer->next < part->count);
    struct ds_pack_chunk *chunk = &writer->chunks[writer->next];
    *chunk = writer->plan->chunks[part->first + writer->next];
    chunk->chunk = writer->next++;
    writer->info.body_bytes += chunk->body_bytes;
    return chunk;
}

ds_status ds_pack_put(struct ds_pack_writer *writer, void *data, const struct ds_digest *sealed,
                      const struct ds_pack_chunk *copy)
{
    struct ds_pack_chunk *chunk = next_chunk(writer);
    uint8_t *body = data;

    DS_ASSERT((uintptr_t)data % DS_PACK_ALIGN == 0);
    chunk->digest = ds_digest_of(body, chunk->body_bytes);
    if (sealed && !ds_digest_equal(sealed, &chunk->digest)) {
        give_back(writer, data);
        return ds_fail(DS_ERR_CORRUPT, "%s: chunk %u changed after it was copied",
                       writer->pack.path, writer->next - 1);
    }
    memset(body + chunk->body_bytes, 0, chunk->stored_bytes - chunk->body_bytes);
    chunk->crc32c = ds_crc32c(0, body, chunk->stored_bytes);
    chunk->offset = writer->offset;
    if (copy) {
        chunk->copy_pack = copy->pack;
        chunk->copy_offset = copy->offset;
    }
    writer->offset += chunk->stored_bytes;
    DS_TRY(submit(writer, data, chunk->stored_bytes, chunk->offset, data));
    return writer->st;
}

ds_status ds_pack_share(struct ds_pack_writer *writer, const void *data,
                        const struct ds_pack_source *sources, uint32_t count)
{
    struct ds_pack_chunk *chunk = next_chunk(writer);
    int code = 0;

    DS_ASSERT(chunk->stored_bytes == chunk->body_bytes);
    chunk->digest = ds_digest_of(data, chunk->body_bytes);
    chunk->crc32c = ds_crc32c(0, data, chunk->body_bytes);
    chunk->offset = writer->offset;
    for (uint32_t i = 0; i < count && code == 0; i++) {
        code = ds_fs_clone(writer->fs, sources[i].file, sources[i].offset, writer->file,
                           writer->offset, sources[i].bytes);
        writer->offset += sources[i].bytes;
    }
    if (code != 0)
        return ds_fail(DS_ERR_IO, "%s: chunk %u cannot be shared with it: %s", writer->pack.path,
                       writer->next - 1, strerror(-code));
    DS_ASSERT(writer->offset == chunk->offset + chunk->stored_bytes);
    return writer->st;
}

ds_status ds_pack_refer(struct ds_pack_writer *writer, const struct ds_pack_chunk *at)
{
    struct ds_pack_chunk *chunk = next_chunk(writer);

    DS_ASSERT(at->pack < writer->info.other_count && at->body_bytes == chunk->body_bytes);
    DS_ASSERT(at->copy_pack == DS_PACK_HERE || at->copy_pack < writer->info.other_count);
    chunk->crc32c = at->crc32c;
    chunk->digest = at->digest;
    chunk->pack = at->pack;
    chunk->chunk = at->chunk;
    chunk->offset = at->offset;
    chunk->copy_pack = at->copy_pack;
    chunk->copy_offset = at->copy_offset;
    return writer->st;
}

/* Boxes, table and footer in memory, and with them all that the file's info says. */
static uint64_t make_tail(struct ds_pack_writer *writer)
{
    struct ds_pack_info *info = &writer->info;
    const uint64_t boxes_bytes = pack_boxes_bytes(info->box_count);
    const uint64_t table_bytes = pack_table_bytes(info->chunk_count);
    uint8_t *table = writer->tail + boxes_bytes, *footer = table + table_bytes;

    memset(writer->tail, 0, boxes_bytes + table_bytes);
    for (uint32_t i = 0; i < info->box_count; i++)
        pack_box_encode(&writer->plan->boxes[i], writer->tail + (size_t)i * PACK_BOX_BYTES);
    for (uint32_t i = 0; i < info->chunk_count; i++)
        pack_entry_encode(&writer->chunks[i], table + (size_t)i * PACK_ENTRY_BYTES);
    info->boxes_offset = writer->offset;
    info->table_offset = info->boxes_offset + boxes_bytes;
    info->file_bytes = info->table_offset + table_bytes + 2 * PACK_FOOTER_BYTES;
    info->boxes = ds_digest_of(writer->tail, boxes_bytes);
    info->table = ds_digest_of(table, table_bytes);
    info->content = pack_content(writer->chunks, info->chunk_count);
    if (!pack_header_make(info, writer->chunks, writer->plan->boxes, writer->plan->catalogue,
                          (char *)writer->header))
        ds_panic("a pack's header fits the place that was kept for it", __FILE__, __LINE__);
    info->header = ds_digest_of(writer->header, info->header_bytes);
    pack_footer_encode(info, footer);
    memcpy(footer + PACK_FOOTER_BYTES, footer, PACK_FOOTER_BYTES);
    return boxes_bytes + table_bytes + 2 * PACK_FOOTER_BYTES;
}

static ds_status close_durably(struct ds_pack_writer *writer)
{
    const char *doing = "shorten";
    int code = 0;

    if (writer->info.file_bytes != part_of(writer)->file_bytes_max)
        code = ds_fs_truncate(writer->fs, writer->file, writer->info.file_bytes);
    if (code == 0) {
        DS_TRY(ds_storage_flush(writer->storage, writer->file));
        if (writer->is_cached) /* advice: training wants the memory, nobody reads this soon */
            (void)ds_fs_drop_cache(writer->fs, writer->file);
        doing = "close";
        code = ds_fs_close(writer->fs, writer->file);
        writer->file = -1;
    }
    if (code != 0)
        return ds_fail(DS_ERR_IO, "%s %s: %s", doing, writer->pack.path, strerror(-code));
    return DS_OK;
}

ds_status ds_pack_finish(struct ds_pack_writer *writer, struct ds_pack_other *out)
{
    DS_ASSERT(writer->file >= 0 && writer->next == part_of(writer)->count);
    const uint64_t bytes = make_tail(writer);
    DS_TRY(submit(writer, writer->header, writer->info.header_bytes, 0, NULL));
    DS_TRY(submit(writer, writer->tail, bytes, writer->offset, NULL));
    DS_TRY(drain(writer));
    DS_TRY(close_durably(writer));
    *out = (struct ds_pack_other){.id = writer->info.id, .file_bytes = writer->info.file_bytes};
    out->footer = ds_digest_of(writer->tail + bytes - PACK_FOOTER_BYTES, PACK_FOOTER_BYTES);
    return DS_OK;
}

const struct ds_pack_chunk *ds_pack_written(const struct ds_pack_writer *writer, uint32_t *count)
{
    *count = writer->next;
    return writer->chunks;
}
