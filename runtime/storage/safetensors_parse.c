/* safetensors_parse.c - the header of a safetensors file, which is untrusted: from bytes to checked
 * entries. Pure: no file is touched.
 *
 * The two outer levels of the JSON ({"name": ..., "name": ...} and the metadata) are walked here and
 * jansson parses one name or one tensor's description at a time. So memory grows with what is kept and
 * not with what a hostile header says, and every limit is met before memory is taken. Time is linear but
 * for one sort by offset. */
#include "safetensors_private.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    struct ds_safetensors *file; /* being filled */
    const char *path;
    const char *start, *at, *end; /* of the header */
    char *text;                   /* next free byte of file->text */
    size_t entry_capacity, pair_capacity;
    int has_metadata;
};

typedef ds_status member_do(struct parser *p, const char *name);

static ds_status refuse(const struct parser *p, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));
static ds_status refuse(const struct parser *p, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return ds_fail(DS_ERR_DATA, "%s: byte %zu of the header: %s", p->path,
                   (size_t)(p->at - p->start), text);
}

static ds_status refuse_tensor(const struct parser *p, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));
static ds_status refuse_tensor(const struct parser *p, const char *name, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return ds_fail(DS_ERR_DATA, "%s: tensor '%s': %s", p->path, safetensors_show(name).text, text);
}

static ds_status no_memory(const struct parser *p)
{
    return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for the header", p->path);
}

/* ---- JSON, as much of it as the outer levels need */

static void skip_space(struct parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

static int is_next(const struct parser *p, char wanted)
{
    return p->at < p->end && *p->at == wanted;
}

static ds_status expect(struct parser *p, char wanted)
{
    if (!is_next(p, wanted))
        return refuse(p,
                      p->at < p->end ? "not JSON: '%c' should stand here"
                                     : "not JSON: it ends where '%c' should stand",
                      wanted);
    p->at++;
    return DS_OK;
}

/* One JSON value that begins here and takes at most `bytes_max`; moves past it. `what` names it in the
 * message. The caller has looked at its first byte, so it is of the wanted type. */
static ds_status parse_value(struct parser *p, const char *what, size_t bytes_max, json_t **out)
{
    size_t left = (size_t)(p->end - p->at);
    json_error_t error;
    json_t *value =
        json_loadb(p->at, left < bytes_max ? left : bytes_max,
                   JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES, &error);

    if (!value && json_error_code(&error) == json_error_out_of_memory)
        return no_memory(p);
    if (!value && left > bytes_max && json_error_code(&error) == json_error_premature_end_of_input)
        return refuse(p, "%s is longer than the %zu bytes allowed", what, bytes_max);
    if (!value)
        return refuse(p, "%s: %s", what, safetensors_show(error.text).text);
    p->at += error.position;
    *out = value;
    return DS_OK;
}

/* A text that begins here, kept in file->text: there it is never longer than in the header. */
static ds_status parse_text(struct parser *p, const char *what, size_t bytes_max, const char **out)
{
    json_t *value = NULL;

    if (!is_next(p, '"'))
        return refuse(p, "%s must be a text in double quotes", what);
    DS_TRY(parse_value(p, what, bytes_max, &value));
    size_t length = json_string_length(value);
    DS_ASSERT(p->text + length + 1 <= p->file->text + (p->end - p->start));
    *out = memcpy(p->text, json_string_value(value), length + 1);
    p->text += length + 1;
    json_decref(value);
    return DS_OK;
}

/* { name: ..., name: ... }. `member` stands behind the colon and moves past its value. */
static ds_status parse_object(struct parser *p, const char *what, size_t name_bytes_max,
                              member_do *member)
{
    const char *name = "";

    DS_TRY(expect(p, '{'));
    skip_space(p);
    if (is_next(p, '}')) {
        p->at++;
        return DS_OK;
    }
    for (;;) {
        skip_space(p);
        DS_TRY(parse_text(p, what, name_bytes_max, &name));
        skip_space(p);
        DS_TRY(expect(p, ':'));
        skip_space(p);
        DS_TRY(member(p, name));
        skip_space(p);
        if (is_next(p, '}'))
            break;
        DS_TRY(expect(p, ','));
    }
    p->at++;
    return DS_OK;
}

/* Room for one more of `size` bytes each; NULL: out of memory. */
static void *grown(void *items, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return items;
    size_t wanted = *capacity ? 2 * *capacity : 32;
    void *larger = realloc(items, wanted * size);
    if (larger)
        *capacity = wanted;
    return larger;
}

/* ---- metadata */

static ds_status metadata_member(struct parser *p, const char *name)
{
    struct ds_safetensors *file = p->file;
    const char *value = NULL;

    if (file->pair_count >= SAFETENSORS_TENSORS_MAX)
        return refuse(p, "more than %u entries in __metadata__", SAFETENSORS_TENSORS_MAX);
    DS_TRY(parse_text(p, "a value of __metadata__", SAFETENSORS_HEADER_BYTES_MAX, &value));
    struct safetensors_pair *pairs =
        grown(file->pairs, file->pair_count, &p->pair_capacity, sizeof *pairs);
    if (!pairs)
        return no_memory(p);
    file->pairs = pairs;
    pairs[file->pair_count++] = (struct safetensors_pair){name, value};
    return DS_OK;
}

static ds_status parse_metadata(struct parser *p)
{
    struct ds_safetensors *file = p->file;
    struct safetensors_names names;
    const char *twice;

    if (p->has_metadata)
        return refuse(p, "a second __metadata__");
    p->has_metadata = 1;
    if (!is_next(p, '{'))
        return refuse(p, "__metadata__ must be an object of texts");
    DS_TRY(parse_object(p, "a key of __metadata__", SAFETENSORS_HEADER_BYTES_MAX, metadata_member));
    if (!safetensors_names_build(&names, file->pairs, sizeof *file->pairs, file->pair_count,
                                 &twice))
        return no_memory(p);
    free(names.slots);
    if (twice)
        return ds_fail(DS_ERR_DATA, "%s: __metadata__ has the key '%s' twice", p->path,
                       safetensors_show(twice).text);
    return DS_OK;
}

/* ---- tensors */

static ds_status take_dtype(struct parser *p, struct ds_safetensors_entry *entry,
                            const json_t *value)
{
    if (!json_is_string(value))
        return refuse_tensor(p, entry->name, "dtype must be a text such as \"F32\"");
    if (!ds_dtype_parse(json_string_value(value), &entry->dtype))
        return refuse_tensor(p, entry->name, "dtype '%s' is not known",
                             safetensors_show(json_string_value(value)).text);
    return DS_OK;
}

static ds_status take_numbers(struct parser *p, const char *name, const char *key,
                              const json_t *value, size_t count, uint64_t *out)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(value, i);

        if (!json_is_integer(number) || json_integer_value(number) < 0)
            return refuse_tensor(p, name, "%s holds something else than whole numbers from 0", key);
        out[i] = (uint64_t)json_integer_value(number);
    }
    return DS_OK;
}

/* dtype, shape and data_offsets have to agree: product(shape) * bytes of one == end - begin. */
static ds_status check_size(struct parser *p, struct ds_safetensors_entry *entry,
                            const uint64_t *range)
{
    entry->elems = 1;
    for (uint32_t i = 0; i < entry->dim_count; i++)
        if (__builtin_mul_overflow(entry->elems, entry->shape[i], &entry->elems))
            return refuse_tensor(p, entry->name,
                                 "the shape has more elements than 64 bits can count");
    if (__builtin_mul_overflow(entry->elems, ds_dtype_bytes(entry->dtype), &entry->bytes))
        return refuse_tensor(p, entry->name, "the shape has more bytes than 64 bits can count");
    if (range[1] < range[0])
        return refuse_tensor(p, entry->name, "data_offsets end at %llu, before they begin at %llu",
                             (unsigned long long)range[1], (unsigned long long)range[0]);
    if (range[1] - range[0] != entry->bytes)
        return refuse_tensor(p, entry->name, "dtype and shape take %llu bytes, data_offsets %llu",
                             (unsigned long long)entry->bytes,
                             (unsigned long long)(range[1] - range[0]));
    entry->offset =
        range[0]; /* from the start of the data, until the ranges are known to tile it */
    return DS_OK;
}

static ds_status take_description(struct parser *p, struct ds_safetensors_entry *entry,
                                  const json_t *description)
{
    const json_t *dtype = json_object_get(description, "dtype");
    const json_t *shape = json_object_get(description, "shape");
    const json_t *offsets = json_object_get(description, "data_offsets");
    uint64_t range[2] = {0, 0};

    if (!dtype || !shape || !offsets || json_object_size(description) != 3)
        return refuse_tensor(p, entry->name,
                             "needs dtype, shape and data_offsets, and nothing else");
    DS_TRY(take_dtype(p, entry, dtype));
    if (!json_is_array(shape) || json_array_size(shape) > DS_SAFETENSORS_DIMS_MAX)
        return refuse_tensor(p, entry->name, "shape must be a list of at most %d numbers",
                             DS_SAFETENSORS_DIMS_MAX);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return refuse_tensor(p, entry->name, "data_offsets must be a list of two numbers");
    entry->dim_count = (uint32_t)json_array_size(shape);
    DS_TRY(take_numbers(p, entry->name, "shape", shape, entry->dim_count, entry->shape));
    DS_TRY(take_numbers(p, entry->name, "data_offsets", offsets, 2, range));
    return check_size(p, entry, range);
}

static ds_status parse_tensor(struct parser *p, const char *name)
{
    struct ds_safetensors *file = p->file;
    struct ds_safetensors_entry entry = {.name = name};
    json_t *description = NULL;

    if (strlen(name) > SAFETENSORS_NAME_BYTES_MAX)
        return refuse_tensor(p, name, "the name is longer than %u bytes",
                             SAFETENSORS_NAME_BYTES_MAX);
    if (file->count >= SAFETENSORS_TENSORS_MAX)
        return refuse_tensor(p, name, "is one more than the %u tensors allowed",
                             SAFETENSORS_TENSORS_MAX);
    if (!is_next(p, '{'))
        return refuse_tensor(p, name, "must be an object with dtype, shape and data_offsets");
    DS_TRY(parse_value(p, "the description of a tensor", SAFETENSORS_DESCRIPTION_BYTES_MAX,
                       &description));
    ds_status st = take_description(p, &entry, description);
    json_decref(description);
    DS_TRY(st);

    struct ds_safetensors_entry *entries =
        grown(file->entries, file->count, &p->entry_capacity, sizeof *entries);
    if (!entries)
        return no_memory(p);
    file->entries = entries;
    entries[file->count++] = entry;
    return DS_OK;
}

static ds_status top_member(struct parser *p, const char *name)
{
    return strcmp(name, "__metadata__") == 0 ? parse_metadata(p) : parse_tensor(p, name);
}

/* ---- the whole */

/* Names lie in file->text in the order of the header, so their addresses break ties. */
static int by_offset(const void *a, const void *b)
{
    const struct ds_safetensors_entry *left = a, *right = b;

    if (left->offset != right->offset)
        return left->offset < right->offset ? -1 : 1;
    if (left->bytes != right->bytes)
        return left->bytes < right->bytes ? -1 : 1;
    return left->name < right->name ? -1 : left->name > right->name;
}

/* The tensors have to cover the data exactly: no hole, no overlap, nothing behind the last. */
static ds_status check_tiling(struct parser *p)
{
    struct ds_safetensors *file = p->file;
    uint64_t end = 0, data_bytes = file->file_bytes - file->data_start;

    for (size_t i = 0; i < file->count; i++) {
        struct ds_safetensors_entry *entry = &file->entries[i];

        if (entry->offset != end)
            return refuse_tensor(p, entry->name,
                                 "begins at byte %llu of the data where %llu is due (%s)",
                                 (unsigned long long)entry->offset, (unsigned long long)end,
                                 entry->offset < end ? "an overlap" : "a hole");
        end += entry->bytes;
        entry->offset += file->data_start;
    }
    if (end != data_bytes)
        return ds_fail(DS_ERR_DATA,
                       "%s: the tensors take %llu bytes of data, the file has %llu (%s)", p->path,
                       (unsigned long long)end, (unsigned long long)data_bytes,
                       end > data_bytes ? "truncated?" : "something behind them");
    return DS_OK;
}

static ds_status sort_and_index(struct parser *p)
{
    struct ds_safetensors *file = p->file;
    const char *twice;

    if (file->entries)
        qsort(file->entries, file->count, sizeof *file->entries, by_offset);
    if (!safetensors_names_build(&file->names, file->entries, sizeof *file->entries, file->count,
                                 &twice))
        return no_memory(p);
    return twice ? refuse_tensor(p, twice, "is there twice") : DS_OK;
}

static ds_status parse_header(struct parser *p)
{
    DS_TRY(parse_object(p, "the name of a tensor", 6 * SAFETENSORS_NAME_BYTES_MAX + 2, top_member));
    while (is_next(p, ' '))
        p->at++;
    if (p->at < p->end)
        return refuse(p, "only spaces may stand behind the JSON");
    DS_TRY(sort_and_index(p));
    return check_tiling(p);
}

static ds_status check_limits(const char *path, size_t header_bytes, uint64_t file_bytes)
{
    if (header_bytes > SAFETENSORS_HEADER_BYTES_MAX)
        return ds_fail(
            DS_ERR_DATA,
            "%s: a header of %zu bytes is larger than the %u allowed; a safetensors file?", path,
            header_bytes, SAFETENSORS_HEADER_BYTES_MAX);
    if (file_bytes < 8 || header_bytes > file_bytes - 8)
        return ds_fail(DS_ERR_DATA,
                       "%s: a header of %zu bytes does not fit into a file of %llu (truncated?)",
                       path, header_bytes, (unsigned long long)file_bytes);
    return DS_OK;
}

ds_status ds_safetensors_parse(const char *path, const char *header, size_t header_bytes,
                               uint64_t file_bytes, struct ds_safetensors **out)
{
    struct parser p = {.path = path, .start = header, .at = header, .end = header + header_bytes};
    ds_status st;

    DS_TRY(check_limits(path, header_bytes, file_bytes));
    struct ds_safetensors *file = calloc(1, sizeof *file);
    if (!file)
        return no_memory(&p);
    file->file = -1;
    file->path = strdup(path);
    file->text = malloc(header_bytes + 1);
    file->file_bytes = file_bytes;
    file->data_start = 8 + (uint64_t)header_bytes;
    p.file = file;
    p.text = file->text;
    st = file->path && file->text ? parse_header(&p) : no_memory(&p);
    if (st != DS_OK) {
        ds_safetensors_close(file);
        return st;
    }
    *out = file;
    return DS_OK;
}
