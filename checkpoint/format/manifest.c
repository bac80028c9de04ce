/* manifest.c - writing and reading manifests. The two halves mirror each other: what one puts, the other expects. */
#include "dstrain/manifest.h"

#include "document.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT          "{\"format\":\"dstrain checkpoint\",\"version\":"
#define VERSION         1u
#define DIR_MAX         (1u << 24)
#define TENSOR_LINE_MIN 55u /* bytes; less than any line has */
#define PACK_LINE_MIN   100u
#define VALUE_LINE_MIN  7u

int ds_manifest_id_compare(const struct ds_manifest_id *a, const struct ds_manifest_id *b)
{
    if (a->epoch != b->epoch)
        return a->epoch < b->epoch ? -1 : 1;
    return (a->step > b->step) - (a->step < b->step);
}

int ds_manifest_pack_compare(const void *a, const void *b)
{
    const struct ds_pack_id *left = &((const struct ds_manifest_pack *)a)->pack.id;
    const struct ds_pack_id *right = &((const struct ds_manifest_pack *)b)->pack.id;
    const uint64_t numbers[][2] = {{left->epoch, right->epoch},
                                   {left->step, right->step},
                                   {left->rank, right->rank},
                                   {left->part, right->part},
                                   {left->attempt, right->attempt}};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i][0] != numbers[i][1])
            return numbers[i][0] < numbers[i][1] ? -1 : 1;
    return 0;
}

void ds_manifest_fini(struct ds_manifest *manifest)
{
    free(manifest->catalogue.tensors);
    free(manifest->packs);
    ds_values_fini(&manifest->state);
    *manifest = (struct ds_manifest){0};
}

/* ---- writing */

size_t ds_manifest_bytes(const struct ds_manifest *manifest)
{
    size_t bytes = 1024 + DOCUMENT_SEAL_BYTES;

    bytes += manifest->catalogue.count * (size_t)(DS_LOGICAL_NAME_BYTES_MAX + 300);
    bytes += manifest->pack_count * (size_t)300;
    for (uint32_t i = 0; i < manifest->state.count; i++) /* a byte becomes six at most */
        bytes += DS_VALUE_NAME_BYTES_MAX + 8 + 6 * strlen(manifest->state.items[i].text);
    return bytes;
}

static void put_id(struct text *text, const struct ds_manifest_id *id)
{
    text_put(text, "{\"epoch\":%" PRIu64 ",\"step\":%" PRIu64 "}", id->epoch, id->step);
}

static void put_head(struct text *text, const struct ds_manifest *m)
{
    const struct ds_manifest_layout *l = &m->layout;

    text_put(text, FORMAT "%u,\n\"run\":", VERSION);
    document_put_hex(text, m->run);
    text_put(text, ",\"nonce\":");
    document_put_hex(text, m->nonce);
    text_put(text, ",\n\"id\":");
    put_id(text, &m->id);
    text_put(text, ",\"parent\":");
    if (m->has_parent)
        put_id(text, &m->parent);
    else
        text_put(text, "null");
    text_put(text,
             ",\n\"layout\":{\"replica\":%u,\"shard\":%u,\"cp\":%u,\"pp\":%u,\"ep\":%u,\"tp\":%u,"
             "\"cut\":%u}",
             l->replica, l->shard, l->cp, l->pp, l->ep, l->tp, l->cut);
}

static void put_tensor(struct text *text, uint32_t id, const struct ds_logical_tensor *tensor)
{
    text_put(text, "%s{\"id\":%u,\"name\":\"%s\",\"kind\":\"%s\",\"dtype\":\"%s\",\"shape\":[",
             id ? ",\n" : "\n", id, tensor->name, ds_state_kind_name(tensor->kind),
             ds_dtype_name(tensor->dtype));
    for (uint32_t dim = 0; dim < tensor->dim_count; dim++)
        text_put(text, "%s%" PRIu64, dim ? "," : "", tensor->shape[dim]);
    text_put(text, "]}");
}

static void put_pack(struct text *text, uint32_t index, const struct ds_manifest_pack *at)
{
    const struct ds_pack_id *id = &at->pack.id;

    text_put(text,
             "%s{\"dir\":%u,\"epoch\":%" PRIu64 ",\"step\":%" PRIu64
             ",\"rank\":%u,\"part\":%u,\"try\":%u,\"bytes\":%" PRIu64 ",\"footer\":",
             index ? ",\n" : "\n", at->dir, id->epoch, id->step, id->rank, id->part, id->attempt,
             at->pack.file_bytes);
    document_put_hex(text, at->pack.footer.bytes);
    text_put(text, "}");
}

static ds_status put_values(struct text *text, const struct ds_values *values)
{
    text_put(text, "\n],\n\"state_count\":%u,\"state\":{", values->count);
    for (uint32_t i = 0; i < values->count; i++) {
        text_put(text, "%s\"%s\":", i ? ",\n" : "\n", values->items[i].name);
        if (!document_put_string(text, values->items[i].text))
            return ds_fail(DS_ERR_DATA, "the value '%s' of a checkpoint is not UTF-8",
                           values->items[i].name);
    }
    text_put(text, "\n}}\n");
    return DS_OK;
}

ds_status ds_manifest_write(const struct ds_manifest *m, char *to, size_t capacity, size_t *bytes)
{
    struct text text = {.at = to, .capacity = capacity};

    DS_TRY(ds_catalogue_check("a checkpoint", &m->catalogue));
    put_head(&text, m);
    text_put(&text, ",\n\"tensor_count\":%u,\"tensors\":[", m->catalogue.count);
    for (uint32_t i = 0; i < m->catalogue.count; i++)
        put_tensor(&text, i, &m->catalogue.tensors[i]);
    text_put(&text, "\n],\n\"pack_count\":%u,\"packs\":[", m->pack_count);
    for (uint32_t i = 0; i < m->pack_count; i++) {
        DS_ASSERT(i == 0 || ds_manifest_pack_compare(&m->packs[i - 1], &m->packs[i]) < 0);
        put_pack(&text, i, &m->packs[i]);
    }
    DS_TRY(put_values(&text, &m->state));
    document_seal(&text);
    DS_ASSERT(!text.is_full);
    if (text.bytes > DS_MANIFEST_BYTES_MAX)
        return ds_fail(DS_ERR_DATA, "a manifest of %zu bytes; there may be %u", text.bytes,
                       DS_MANIFEST_BYTES_MAX);
    *bytes = text.bytes;
    return DS_OK;
}

/* ---- reading */

static ds_status take_id(struct document *doc, struct ds_manifest_id *id)
{
    DS_TRY(document_keyed(doc, "{\"epoch\":", UINT64_MAX, &id->epoch));
    DS_TRY(document_keyed(doc, ",\"step\":", UINT64_MAX, &id->step));
    return document_expect(doc, "}");
}

static ds_status take_u32(struct document *doc, const char *key, uint32_t *out)
{
    uint64_t number = 0;

    DS_TRY(document_keyed(doc, key, UINT32_MAX, &number));
    *out = (uint32_t)number;
    return DS_OK;
}

static ds_status take_layout(struct document *doc, struct ds_manifest_layout *layout)
{
    DS_TRY(take_u32(doc, ",\n\"layout\":{\"replica\":", &layout->replica));
    DS_TRY(take_u32(doc, ",\"shard\":", &layout->shard));
    DS_TRY(take_u32(doc, ",\"cp\":", &layout->cp));
    DS_TRY(take_u32(doc, ",\"pp\":", &layout->pp));
    DS_TRY(take_u32(doc, ",\"ep\":", &layout->ep));
    DS_TRY(take_u32(doc, ",\"tp\":", &layout->tp));
    DS_TRY(take_u32(doc, ",\"cut\":", &layout->cut));
    return document_expect(doc, "}");
}

static ds_status take_head(struct document *doc, struct ds_manifest *m)
{
    uint64_t version = 0;

    DS_TRY(document_keyed(doc, FORMAT, UINT32_MAX, &version));
    if (version != VERSION)
        return ds_fail(DS_ERR_DATA,
                       "%s: a checkpoint of format version %" PRIu64
                       "; this program knows %u: take a "
                       "newer one",
                       doc->name, version, VERSION);
    DS_TRY(document_expect(doc, ",\n\"run\":"));
    DS_TRY(document_hex(doc, m->run));
    DS_TRY(document_expect(doc, ",\"nonce\":"));
    DS_TRY(document_hex(doc, m->nonce));
    DS_TRY(document_expect(doc, ",\n\"id\":"));
    DS_TRY(take_id(doc, &m->id));
    DS_TRY(document_expect(doc, ",\"parent\":"));
    m->has_parent = !document_take(doc, "null");
    if (m->has_parent)
        DS_TRY(take_id(doc, &m->parent));
    return take_layout(doc, &m->layout);
}

/* A list of `*count` lines, each of at least `line_min` bytes: more cannot stand in what is left. */
static ds_status take_count(struct document *doc, const char *key, uint32_t max, uint32_t line_min,
                            const char *open, uint32_t *count)
{
    DS_TRY(take_u32(doc, key, count));
    if (*count > max || *count > (size_t)(doc->end - doc->at) / line_min)
        return document_refuse(doc, "%u lines cannot stand here", *count);
    return document_expect(doc, open);
}

static ds_status take_tensor(struct document *doc, uint32_t id, struct ds_logical_tensor *tensor)
{
    char kind[16], dtype[16], head[32];

    snprintf(head, sizeof head, "%s{\"id\":%u,\"name\":", id ? ",\n" : "\n", id);
    DS_TRY(document_expect(doc, head));
    DS_TRY(document_string(doc, tensor->name, sizeof tensor->name));
    DS_TRY(document_expect(doc, ",\"kind\":"));
    DS_TRY(document_string(doc, kind, sizeof kind));
    DS_TRY(document_expect(doc, ",\"dtype\":"));
    DS_TRY(document_string(doc, dtype, sizeof dtype));
    if (!ds_state_kind_parse(kind, &tensor->kind) || !ds_dtype_parse(dtype, &tensor->dtype))
        return document_refuse(doc, "unknown kind or dtype");
    DS_TRY(document_expect(doc, ",\"shape\":["));
    while (!document_take(doc, "]}")) {
        if (tensor->dim_count == DS_LOGICAL_DIMS_MAX)
            return document_refuse(doc, "more than %d dims", DS_LOGICAL_DIMS_MAX);
        if (tensor->dim_count > 0)
            DS_TRY(document_expect(doc, ","));
        DS_TRY(document_number(doc, UINT64_MAX, &tensor->shape[tensor->dim_count++]));
    }
    return DS_OK;
}

static ds_status take_tensors(struct document *doc, struct ds_catalogue *catalogue)
{
    uint32_t count = 0;

    DS_TRY(take_count(doc, ",\n\"tensor_count\":", DS_LOGICAL_TENSORS_MAX, TENSOR_LINE_MIN,
                      ",\"tensors\":[", &count));
    catalogue->tensors = calloc(count + 1u, sizeof *catalogue->tensors);
    if (!catalogue->tensors)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its tensors", doc->name);
    for (uint32_t i = 0; i < count; i++)
        DS_TRY(take_tensor(doc, i, &catalogue->tensors[i]));
    catalogue->count = count;
    /* what it says is wrong with a catalogue is wrong with the file */
    return ds_catalogue_check(doc->name, catalogue) == DS_OK
               ? DS_OK
               : document_refuse(doc, "the tensors cannot be those of a model");
}

static ds_status take_pack(struct document *doc, uint32_t index, struct ds_manifest_pack *at)
{
    struct ds_pack_id *id = &at->pack.id;
    uint64_t dir = 0;

    DS_TRY(document_keyed(doc, index ? ",\n{\"dir\":" : "\n{\"dir\":", DIR_MAX, &dir));
    at->dir = (uint32_t)dir;
    DS_TRY(document_keyed(doc, ",\"epoch\":", UINT64_MAX, &id->epoch));
    DS_TRY(document_keyed(doc, ",\"step\":", UINT64_MAX, &id->step));
    DS_TRY(take_u32(doc, ",\"rank\":", &id->rank));
    DS_TRY(take_u32(doc, ",\"part\":", &id->part));
    DS_TRY(take_u32(doc, ",\"try\":", &id->attempt));
    DS_TRY(document_keyed(doc, ",\"bytes\":", UINT64_MAX, &at->pack.file_bytes));
    DS_TRY(document_expect(doc, ",\"footer\":"));
    DS_TRY(document_hex(doc, at->pack.footer.bytes));
    return document_expect(doc, "}");
}

static ds_status take_packs(struct document *doc, struct ds_manifest *m)
{
    uint32_t count = 0;

    DS_TRY(take_count(doc, "\n],\n\"pack_count\":", DS_MANIFEST_PACKS_MAX, PACK_LINE_MIN,
                      ",\"packs\":[", &count));
    m->packs = calloc(count + 1u, sizeof *m->packs);
    if (!m->packs)
        return ds_fail(DS_ERR_NO_MEMORY, "%s: no memory for its packs", doc->name);
    m->pack_count = count;
    for (uint32_t i = 0; i < count; i++) {
        DS_TRY(take_pack(doc, i, &m->packs[i]));
        if (i > 0 && ds_manifest_pack_compare(&m->packs[i - 1], &m->packs[i]) >= 0)
            return document_refuse(doc, "packs are not in order, or one is there twice");
    }
    return DS_OK;
}

static int is_value_name(const struct ds_values *values, const char *name)
{
    const size_t bytes = strlen(name);

    return bytes > 0 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.") == bytes &&
           (values->count == 0 || strcmp(values->items[values->count - 1].name, name) < 0);
}

static ds_status take_values(struct document *doc, struct ds_values *values)
{
    char name[DS_VALUE_NAME_BYTES_MAX + 1], text[DS_VALUE_BYTES_MAX + 1];
    uint32_t count = 0;

    DS_TRY(take_count(doc, "\n],\n\"state_count\":", DS_MANIFEST_VALUES_MAX, VALUE_LINE_MIN,
                      ",\"state\":{", &count));
    for (uint32_t i = 0; i < count; i++) {
        DS_TRY(document_expect(doc, i ? ",\n" : "\n"));
        DS_TRY(document_string(doc, name, sizeof name));
        if (!is_value_name(values, name))
            return document_refuse(doc, "a value's name that cannot be one, or is not in order");
        DS_TRY(document_expect(doc, ":"));
        DS_TRY(document_string(doc, text, sizeof text));
        DS_TRY(ds_values_set(values, name, text));
    }
    return document_expect(doc, "\n}}\n");
}

static ds_status parse_body(struct document *doc, struct ds_manifest *m)
{
    DS_TRY(take_head(doc, m));
    DS_TRY(take_tensors(doc, &m->catalogue));
    DS_TRY(take_packs(doc, m));
    DS_TRY(take_values(doc, &m->state));
    return document_end(doc);
}

ds_status ds_manifest_parse(const char *name, const char *text, size_t bytes,
                            struct ds_manifest *out)
{
    struct ds_manifest manifest = {0};
    size_t body_bytes = 0;

    if (bytes > DS_MANIFEST_BYTES_MAX)
        return ds_fail(DS_ERR_CORRUPT, "%s: %zu bytes; a manifest has at most %u", name, bytes,
                       DS_MANIFEST_BYTES_MAX);
    DS_TRY(document_check(name, text, bytes, &body_bytes));
    struct document doc = {name, text, text, text + body_bytes};
    ds_status st = parse_body(&doc, &manifest);
    if (st != DS_OK) {
        ds_manifest_fini(&manifest);
        return st;
    }
    *out = manifest;
    return DS_OK;
}
