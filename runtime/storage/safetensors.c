/* safetensors.c - safetensors files for reading: open checks the header (safetensors_parse.c), then
 * data is read by element ranges with pread, what becomes fp32 by all cores. Not safe for several threads on one object that maps;
 * reads alone are. */
#include "safetensors_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES 131072u

static uint64_t little_endian_u64(const uint8_t *bytes)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

static ds_status cannot(const char *path, int code)
{
    if (code == -EISDIR || code == -EMEDIUMTYPE)
        return ds_fail(DS_ERR_DATA, "%s: not a file", path);
    return ds_fail(code == -EIO ? DS_ERR_IO : DS_ERR_DATA, "%s: %s", path, strerror(-code));
}

/* The length at the start of the file, checked before memory is taken for the header. */
static ds_status read_length(struct ds_fs *fs, int file, const char *path, uint64_t *file_bytes,
                             size_t *header_bytes)
{
    struct ds_fs_stat stat;
    uint8_t prefix[8];
    int code = ds_fs_fstat(fs, file, &stat);

    if (code != 0)
        return cannot(path, code);
    if (stat.bytes < 8)
        return ds_fail(DS_ERR_DATA, "%s: %llu bytes are too few for a safetensors file", path,
                       (unsigned long long)stat.bytes);
    code = ds_fs_read_all(fs, file, prefix, sizeof prefix, 0);
    if (code != 0)
        return cannot(path, code);
    uint64_t length = little_endian_u64(prefix);
    if (length > SAFETENSORS_HEADER_BYTES_MAX || length > stat.bytes - 8)
        return ds_fail(DS_ERR_DATA,
                       "%s: says its header has %llu bytes; the file has %llu, %u are allowed",
                       path, (unsigned long long)length, (unsigned long long)stat.bytes,
                       SAFETENSORS_HEADER_BYTES_MAX);
    *file_bytes = stat.bytes;
    *header_bytes = (size_t)length;
    return DS_OK;
}

static ds_status read_header(struct ds_fs *fs, int file, const char *path,
                             struct ds_safetensors **out)
{
    uint64_t file_bytes = 0;
    size_t header_bytes = 0;

    DS_TRY(read_length(fs, file, path, &file_bytes, &header_bytes));
    char *header = malloc(header_bytes + 1);
    if (!header)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for the header", path);
    int code = ds_fs_read_all(fs, file, header, header_bytes, 8);
    ds_status st = code == 0 ? ds_safetensors_parse(path, header, header_bytes, file_bytes, out)
                             : cannot(path, code);
    free(header);
    return st;
}

ds_status ds_safetensors_open(struct ds_fs *fs, const char *path, struct ds_safetensors **out)
{
    struct ds_safetensors *opened = NULL;
    int file = ds_fs_open(fs, path, DS_FS_READ | DS_FS_REGULAR, 0);

    if (file < 0)
        return cannot(path, file);
    ds_status st = read_header(fs, file, path, &opened);
    if (st != DS_OK) {
        (void)ds_fs_close(fs, file);
        return st;
    }
    opened->fs = fs;
    opened->file = file;
    *out = opened;
    return DS_OK;
}

void ds_safetensors_close(struct ds_safetensors *file)
{
    if (!file)
        return;
    if (file->mapped)
        ds_fs_unmap(file->fs, file->mapped, (size_t)file->file_bytes);
    if (file->file >= 0)
        (void)ds_fs_close(file->fs, file->file);
    free(file->names.slots);
    free(file->pairs);
    free(file->entries);
    free(file->text);
    free(file->path);
    free(file);
}

size_t ds_safetensors_count(const struct ds_safetensors *file)
{
    return file->count;
}

const struct ds_safetensors_entry *ds_safetensors_at(const struct ds_safetensors *file,
                                                     size_t index)
{
    DS_ASSERT(index < file->count);
    return &file->entries[index];
}

const struct ds_safetensors_entry *ds_safetensors_find(const struct ds_safetensors *file,
                                                       const char *name)
{
    size_t index = safetensors_names_find(&file->names, file->entries, sizeof *file->entries,
                                          file->count, name);

    return index < file->count ? &file->entries[index] : NULL;
}

const char *ds_safetensors_metadata(const struct ds_safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->pair_count; i++)
        if (strcmp(file->pairs[i].name, key) == 0)
            return file->pairs[i].value;
    return NULL;
}

size_t ds_safetensors_metadata_count(const struct ds_safetensors *file)
{
    return file->pair_count;
}

void ds_safetensors_metadata_at(const struct ds_safetensors *file, size_t index, const char **key,
                                const char **value)
{
    DS_ASSERT(index < file->pair_count);
    *key = file->pairs[index].name;
    *value = file->pairs[index].value;
}

const char *ds_safetensors_path(const struct ds_safetensors *file)
{
    return file->path;
}

static int read_raw(const struct ds_safetensors *file, const struct ds_safetensors_entry *entry,
                    uint64_t start, uint64_t count, void *to)
{
    const size_t size = ds_dtype_bytes(entry->dtype);

    return ds_fs_read_all(file->fs, file->file, to, count * size, entry->offset + start * size);
}

static ds_status cannot_read(const struct ds_safetensors *file,
                             const struct ds_safetensors_entry *entry, int code)
{
    return ds_fail(DS_ERR_IO, "%s: read tensor '%s': %s", file->path,
                   safetensors_show(entry->name).text, strerror(-code));
}

ds_status ds_safetensors_read(const struct ds_safetensors *file,
                              const struct ds_safetensors_entry *entry, uint64_t start,
                              uint64_t count, void *to)
{
    DS_ASSERT(start <= entry->elems && count <= entry->elems - start);
    DS_ASSERT(file->file >= 0);
    int code = read_raw(file, entry, start, count, to);
    return code == 0 ? DS_OK : cannot_read(file, entry, code);
}

/* At most CHUNK_BYTES of the file. */
static int read_chunk(const struct ds_safetensors *file, const struct ds_safetensors_entry *entry,
                      uint64_t start, uint64_t count, float *to)
{
    uint64_t raw[CHUNK_BYTES / sizeof(uint64_t)]; /* aligned for every dtype */
    int code;

    if (entry->dtype == DS_F32)
        return read_raw(file, entry, start, count, to);
    code = read_raw(file, entry, start, count, raw);
    if (code == 0)
        (void)ds_dtype_to_f32(to, raw, entry->dtype, count);
    return code;
}

/* One core copies from the page cache at a third of what a disk brings today, so all take part; a failure is
 * that of the first chunk that fails. */
static int read_chunks(const struct ds_safetensors *file, const struct ds_safetensors_entry *entry,
                       uint64_t start, uint64_t count, float *to)
{
    const uint64_t chunk = CHUNK_BYTES / ds_dtype_bytes(entry->dtype);
    uint64_t failed_at = UINT64_MAX;
    int failure = 0;

#pragma omp parallel for schedule(dynamic) if (count > chunk)
    for (uint64_t done = 0; done < count; done += chunk) {
        const uint64_t part = count - done < chunk ? count - done : chunk;
        const int code = read_chunk(file, entry, start + done, part, to + done);

        if (code == 0)
            continue;
#pragma omp critical(safetensors_read_chunks)
        if (done < failed_at) {
            failed_at = done;
            failure = code;
        }
    }
    return failure;
}

ds_status ds_safetensors_read_f32(const struct ds_safetensors *file,
                                  const struct ds_safetensors_entry *entry, uint64_t start,
                                  uint64_t count, float *to)
{
    float unused = 0;
    int code;

    DS_ASSERT(start <= entry->elems && count <= entry->elems - start);
    DS_ASSERT(file->file >= 0);
    if (!ds_dtype_to_f32(&unused, &unused, entry->dtype, 0))
        return ds_fail(DS_ERR_DATA, "%s: tensor '%s' is %s; a float type is wanted", file->path,
                       safetensors_show(entry->name).text, ds_dtype_name(entry->dtype));
    code = read_chunks(file, entry, start, count, to);
    return code == 0 ? DS_OK : cannot_read(file, entry, code);
}

void ds_safetensors_will_read(const struct ds_safetensors *file,
                              const struct ds_safetensors_entry *entry, uint64_t start,
                              uint64_t count)
{
    const size_t size = ds_dtype_bytes(entry->dtype);
    const int native = ds_fs_native(file->fs, file->file);

    DS_ASSERT(start <= entry->elems && count <= entry->elems - start);
    if (native >= 0) /* what it says is of no use to anyone */
        (void)posix_fadvise(native, (off_t)(entry->offset + start * size), (off_t)(count * size),
                            POSIX_FADV_WILLNEED);
}

ds_status ds_safetensors_map(struct ds_safetensors *file, const uint8_t **data)
{
    DS_ASSERT(file->file >= 0);
    if (!file->mapped) {
        int code = ds_fs_map(file->fs, file->file, (size_t)file->file_bytes, &file->mapped);

        if (code != 0)
            return ds_fail(DS_ERR_IO, "%s: map: %s", file->path, strerror(-code));
    }
    *data = file->mapped;
    return DS_OK;
}
