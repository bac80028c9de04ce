/* safetensors_write.c - safetensors files for writing, laid out as the reference library does: widest
 * dtype first, then by name, the header padded so that data begins at a multiple of 8.
 *
 * The layout is decided once, in the header: it is parsed by our own reader before the file is made. So
 * no file is written that we would refuse, and offsets are the reader's. */
#include "safetensors_private.h"
#include "whole.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES 65536u

struct ds_safetensors_writer {
    /* owns */
    struct whole_file whole;
    struct ds_safetensors *layout;
    size_t *places;          /* of items[i] among the entries of `layout` */
    uint64_t *written_bytes; /* of items[i] */
    size_t count;
};

/* The header while it grows; the first failure stays in `st`. */
struct header {
    const char *path;
    char *text;
    size_t bytes, capacity;
    ds_status st;
};

static void put_bytes(struct header *header, const char *text, size_t bytes)
{
    if (header->st != DS_OK)
        return;
    if (bytes > header->capacity - header->bytes) {
        size_t capacity = 2 * (header->bytes + bytes) + 256;
        char *larger = realloc(header->text, capacity);

        if (!larger) {
            header->st = ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for the header", header->path);
            return;
        }
        header->text = larger;
        header->capacity = capacity;
    }
    memcpy(header->text + header->bytes, text, bytes);
    header->bytes += bytes;
}

static void put(struct header *header, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void put(struct header *header, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    DS_ASSERT(length >= 0 && (size_t)length < sizeof text);
    put_bytes(header, text, (size_t)length);
}

static void put_quoted(struct header *header, const char *text)
{
    json_t *value = json_string(text);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;

    json_decref(value);
    if (quoted)
        put_bytes(header, quoted, strlen(quoted));
    else if (header->st == DS_OK)
        header->st = ds_fail(DS_ERR_DATA, "%s: '%s' is not UTF-8", header->path,
                             safetensors_show(text).text);
    free(quoted);
}

static void put_metadata(struct header *header, const char *const *metadata)
{
    put(header, "\"__metadata__\":{\"format\":\"pt\"");
    for (; metadata && metadata[0]; metadata += 2) {
        DS_ASSERT(metadata[1]);
        if (strcmp(metadata[0], "format") == 0)
            continue; /* ours */
        put(header, ",");
        put_quoted(header, metadata[0]);
        put(header, ":");
        put_quoted(header, metadata[1]);
    }
    put(header, "}");
}

static void put_item(struct header *header, const struct ds_safetensors_item *item,
                     uint64_t *offset)
{
    uint64_t begin = *offset, bytes = ds_dtype_bytes(item->dtype);
    int too_large = 0;

    DS_ASSERT(item->dim_count <= DS_SAFETENSORS_DIMS_MAX);
    put(header, ",");
    put_quoted(header, item->name);
    put(header, ":{\"dtype\":\"%s\",\"shape\":[", ds_dtype_name(item->dtype));
    for (uint32_t i = 0; i < item->dim_count; i++) {
        put(header, "%s%llu", i ? "," : "", (unsigned long long)item->shape[i]);
        too_large |= __builtin_mul_overflow(bytes, item->shape[i], &bytes);
    }
    too_large |= __builtin_add_overflow(begin, bytes, offset) || *offset > INT64_MAX / 2;
    put(header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
        (unsigned long long)*offset);
    if (too_large && header->st == DS_OK)
        header->st = ds_fail(DS_ERR_DATA, "%s: tensor '%s' is larger than a file can be",
                             header->path, safetensors_show(item->name).text);
}

static int by_width_and_name(const void *a, const void *b)
{
    const struct ds_safetensors_item *left = a, *right = b;

    if (left->dtype != right->dtype)
        return left->dtype > right->dtype ? -1 : 1; /* dtypes are listed narrowest first */
    return strcmp(left->name, right->name);
}

static ds_status put_items(struct header *header, const struct ds_safetensors_item *items,
                           size_t count, uint64_t *data_bytes)
{
    struct ds_safetensors_item *sorted = calloc(count + 1, sizeof *sorted);

    if (!sorted)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for the header", header->path);
    for (size_t i = 0; i < count; i++)
        sorted[i] = items[i];
    qsort(sorted, count, sizeof *sorted, by_width_and_name);
    for (size_t i = 0; i < count && header->st == DS_OK; i++)
        put_item(header, &sorted[i], data_bytes);
    free(sorted);
    return header->st;
}

/* header->text: 8 bytes of length, JSON, spaces up to a multiple of 8. */
static ds_status make_header(struct header *header, const struct ds_safetensors_item *items,
                             size_t count, const char *const *metadata, uint64_t *data_bytes)
{
    put_bytes(header, "\0\0\0\0\0\0\0", 8);
    put(header, "{");
    put_metadata(header, metadata);
    DS_TRY(header->st);
    DS_TRY(put_items(header, items, count, data_bytes));
    put(header, "}");
    while (header->bytes % 8 != 0 && header->st == DS_OK)
        put(header, " ");
    DS_TRY(header->st);
    for (int i = 0; i < 8; i++)
        header->text[i] = (char)((uint64_t)(header->bytes - 8) >> 8 * i & 0xff);
    return DS_OK;
}

static const struct ds_safetensors_entry *entry_of(const struct ds_safetensors_writer *writer,
                                                   size_t index)
{
    DS_ASSERT(index < writer->count);
    return ds_safetensors_at(writer->layout, writer->places[index]);
}

static ds_status writer_lay_out(struct ds_safetensors_writer *writer, const struct header *header,
                                const struct ds_safetensors_item *items, uint64_t data_bytes)
{
    DS_TRY(ds_safetensors_parse(header->path, header->text + 8, header->bytes - 8,
                                header->bytes + data_bytes, &writer->layout));
    for (size_t i = 0; i < writer->count; i++) {
        const struct ds_safetensors_entry *entry =
            ds_safetensors_find(writer->layout, items[i].name);

        DS_ASSERT(entry);
        writer->places[i] = (size_t)(entry - ds_safetensors_at(writer->layout, 0));
    }
    return DS_OK;
}

/* Reserves the whole size, so that a full disk is met now and not an hour later. */
static ds_status writer_make_file(struct ds_safetensors_writer *writer, struct ds_fs *fs,
                                  const struct header *header)
{
    DS_TRY(whole_begin(&writer->whole, fs, header->path));
    int code = ds_fs_fallocate(fs, writer->whole.file, writer->layout->file_bytes);
    if (code == 0)
        code = ds_fs_write_all(fs, writer->whole.file, header->text, header->bytes, 0);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "write %s: %s", writer->whole.tmp, strerror(-code));
    return DS_OK;
}

static void writer_free(struct ds_safetensors_writer *writer)
{
    ds_safetensors_close(writer->layout);
    free(writer->places);
    free(writer->written_bytes);
    free(writer);
}

static ds_status writer_fill(struct ds_safetensors_writer *writer, struct ds_fs *fs,
                             struct header *header, const struct ds_safetensors_item *items,
                             const char *const *metadata)
{
    uint64_t data_bytes = 0;

    writer->places = calloc(writer->count + 1, sizeof *writer->places);
    writer->written_bytes = calloc(writer->count + 1, sizeof *writer->written_bytes);
    if (!writer->places || !writer->written_bytes)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to write it", header->path);
    DS_TRY(make_header(header, items, writer->count, metadata, &data_bytes));
    DS_TRY(writer_lay_out(writer, header, items, data_bytes));
    return writer_make_file(writer, fs, header);
}

ds_status ds_safetensors_create(struct ds_fs *fs, const char *path,
                                const struct ds_safetensors_item *items, size_t count,
                                const char *const *metadata, struct ds_safetensors_writer **out)
{
    struct header header = {.path = path};
    struct ds_safetensors_writer *writer = calloc(1, sizeof *writer);

    if (!writer)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory to write it", path);
    writer->whole.file = -1;
    writer->count = count;
    ds_status st = writer_fill(writer, fs, &header, items, metadata);
    free(header.text);
    if (st != DS_OK) {
        ds_safetensors_abandon(writer);
        return st;
    }
    *out = writer;
    return DS_OK;
}

ds_status ds_safetensors_write(struct ds_safetensors_writer *writer, size_t index, uint64_t start,
                               uint64_t count, const void *from)
{
    const struct ds_safetensors_entry *entry = entry_of(writer, index);
    const size_t size = ds_dtype_bytes(entry->dtype);

    DS_ASSERT(start <= entry->elems && count <= entry->elems - start);
    int code = ds_fs_write_all(writer->whole.fs, writer->whole.file, from, count * size,
                               entry->offset + start * size);
    if (code != 0)
        return ds_fail(DS_ERR_IO, "write %s: %s", writer->whole.tmp, strerror(-code));
    writer->written_bytes[index] += count * size;
    return DS_OK;
}

ds_status ds_safetensors_write_f32(struct ds_safetensors_writer *writer, size_t index,
                                   uint64_t start, uint64_t count, const float *from)
{
    const enum ds_dtype dtype = entry_of(writer, index)->dtype;
    uint64_t raw[CHUNK_BYTES / sizeof(uint64_t)]; /* aligned for every dtype */
    const uint64_t chunk = CHUNK_BYTES / ds_dtype_bytes(dtype);
    const float probe = 0.0f;

    if (dtype == DS_F32)
        return ds_safetensors_write(writer, index, start, count, from);
    if (!ds_dtype_from_f32(raw, dtype, &probe, 1))
        return ds_fail(DS_ERR_UNSUPPORTED, "%s: cannot store fp32 values as %s", writer->whole.path,
                       ds_dtype_name(dtype));
    for (uint64_t done = 0; done < count;) {
        uint64_t part = count - done < chunk ? count - done : chunk;

        (void)ds_dtype_from_f32(raw, dtype, from + done, part);
        DS_TRY(ds_safetensors_write(writer, index, start + done, part, raw));
        done += part;
    }
    return DS_OK;
}

ds_status ds_safetensors_commit(struct ds_safetensors_writer *writer)
{
    for (size_t i = 0; i < writer->count; i++) /* a tensor left out would be zeros in the file */
        DS_ASSERT(writer->written_bytes[i] >= entry_of(writer, i)->bytes);
    ds_status st = whole_commit(&writer->whole);
    writer_free(writer);
    return st;
}

void ds_safetensors_abandon(struct ds_safetensors_writer *writer)
{
    if (!writer)
        return;
    whole_abandon(&writer->whole);
    writer_free(writer);
}
